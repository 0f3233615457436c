//! What handlers need to suspend and to give back: the plane's dependents, what is on record, and where to write it down.
//!
//! The rule: what is written down is written under the plane's lock, by who holds the run at the plane's epoch, and by nobody else; so a
//! worker whose run was cancelled can suspend no dependent any more. If we die in it, the transaction did not happen.

use std::sync::Arc;

use async_trait::async_trait;
use futures::future::BoxFuture;
use lethe_ledger::{Case, DependentRow, Fault, Ledger, RunStatus, Tx};
use lethe_stages::{
    StageError, Step,
    ports::{BoundDependent, PortError},
    suspension::{Suspension, SuspensionLog, Tried},
};
use uuid::Uuid;

use super::KnowledgeLifecycleManager;

impl KnowledgeLifecycleManager {
    /// The dependents of a claimed run's plane and what its offboarding has suspended; nothing for a stage that needs neither.
    pub(super) async fn suspended(&self, case: &Case) -> Result<(Vec<BoundDependent>, Vec<Suspension>), StageError> {
        let needed = match case.run.step {
            Step::Restore => true,
            Step::Deregister | Step::Deactivate => case.facts.dependents > 0,
            _ => false,
        };
        if !needed {
            return Ok((Vec::new(), Vec::new()));
        }
        let (plane, offboarding) = (case.plane.id, case.offboarding.id);
        let read = self.ledger.read(async |tx: &mut Tx| {
            let mut dependents = tx.dependents(plane).await?;
            for one in tx.suspended_dependents(offboarding).await? {
                if dependents.iter().all(|known| known.id != one.id) {
                    dependents.push(one);
                }
            }
            Ok::<_, Fault>((dependents, tx.suspensions(offboarding).await?))
        });
        let (dependents, suspensions) =
            read.await.map_err(|fault| StageError::transient("LEDGER", format!("read what is suspended: {fault}")))?;
        let dependents = dependents.into_iter().map(|row| self.bound_dependent(case, row)).collect();
        Ok((dependents, suspensions.iter().map(lethe_ledger::SuspensionRow::as_value).collect()))
    }

    fn bound_dependent(&self, case: &Case, row: DependentRow) -> BoundDependent {
        let name = row.name.clone().unwrap_or_default();
        let told = vec![
            ("LETHE_PLANE_ID", case.plane.id.to_string()),
            ("LETHE_PLANE", case.plane.name.clone().unwrap_or_default()),
            ("LETHE_TENANT_ID", case.plane.tenant_id.to_string()),
            ("LETHE_TENANT", case.tenant_name.clone()),
            ("LETHE_OFFBOARDING_ID", case.offboarding.id.to_string()),
            // Raised by every claim: who keeps it can refuse a worker that comes too late.
            ("LETHE_EPOCH", case.plane.epoch.to_string()),
            ("LETHE_DEPENDENT_ID", row.id.to_string()),
            ("LETHE_DEPENDENT", name.clone()),
        ];
        let control = match row.control.as_deref() {
            Some(control) => self.world.dependent(control, told),
            None => Err(PortError::Permanent("the plane is a tombstone: nothing depends on it".into())),
        };
        BoundDependent { id: row.id, name, kind: row.kind, registered: row.removed_at.is_none(), control }
    }

    /// Where the handler of a claimed run writes down what it suspends.
    pub(super) fn log(&self, case: &Case, epoch: i64) -> Arc<dyn SuspensionLog> {
        let (plane, offboarding, run) = (case.plane.id, case.offboarding.id, case.run.id);
        Arc::new(Log { ledger: self.ledger.clone(), plane, offboarding, run, epoch })
    }
}

/// The ledger, for one claim.
struct Log {
    ledger: Ledger,
    plane: Uuid,
    offboarding: Uuid,
    run: Uuid,
    epoch: i64,
}

/// What is written down.
enum Word {
    Kept(Vec<Suspension>),
    Tried(Vec<Tried>),
}

impl Log {
    /// Boxed: the compiler cannot see through an async closure that a trait's future may be sent.
    fn write(&self, word: Word) -> BoxFuture<'static, Result<(), PortError>> {
        let (ledger, plane, offboarding, run, epoch) = (self.ledger.clone(), self.plane, self.offboarding, self.run, self.epoch);
        Box::pin(async move {
            let written = ledger.transact(async |tx: &mut Tx| {
                tx.lock_planes(&[plane]).await?;
                let seen = tx.plane(plane).await?.map_or(0, |plane| plane.epoch);
                let open = tx.open_run(plane).await?;
                let ours = open.is_some_and(|open| open.id == run && open.status == RunStatus::Running);
                if !ours || seen != epoch {
                    return Ok::<_, Fault>(Some(seen));
                }
                match &word {
                    Word::Kept(found) => tx.keep_suspensions(offboarding, found).await?,
                    Word::Tried(tried) => tx.settle_suspensions(offboarding, tried).await?,
                }
                Ok(None)
            });
            match written.await.map(lethe_ledger::Committed::into_inner) {
                Ok(None) => Ok(()),
                Ok(Some(seen)) => Err(PortError::StaleEpoch { mine: epoch, seen }),
                Err(fault) => Err(PortError::Transient(fault.to_string())),
            }
        })
    }
}

#[async_trait]
impl SuspensionLog for Log {
    async fn keep(&self, found: &[Suspension]) -> Result<(), PortError> {
        self.write(Word::Kept(found.to_vec())).await
    }

    async fn settle(&self, tried: &[Tried]) -> Result<(), PortError> {
        self.write(Word::Tried(tried.to_vec())).await
    }
}
