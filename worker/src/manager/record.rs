//! Record: applies what handlers answered, each only if the epoch of its claim still holds.
//!
//! The rule: state, deadline, evidence, audit entries and the next run are one transaction. A late answer changes nothing.
//! If we die in it, nothing was recorded and the run is performed again.

use chrono::{DateTime, TimeDelta, Utc};
use lethe_ledger::{Actor, Case, EventType, Fault, OffboardingStatus, RunStatus, Settlement, Tx};
use lethe_stages::{
    Code, EvictMode, GraceAccess, LifecycleState, StageError, StageOutcome, Step,
    contract::{Done, Evidence},
    crash::{CrashPoint, reached},
    destruction::{DESTRUCTION_PLAN_SCHEMA, DestructionPlan, StoreDestruction},
    manifest::Manifest,
};
use serde_json::json;
use uuid::Uuid;

use super::{Finished, KnowledgeLifecycleManager, about};

/// What became of one answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordResult {
    /// It is on record.
    Recorded,
    /// The run is no longer ours; nothing was changed.
    Stale,
}

impl KnowledgeLifecycleManager {
    /// Records a batch of answers of `worker` in one transaction; a stale one does not fail its neighbours.
    pub async fn record(&self, finished: &[Finished], worker: &str) -> Result<Vec<RecordResult>, Fault> {
        let committed = self.ledger.transact(async |tx: &mut Tx| {
            let ids: Vec<Uuid> = finished.iter().map(|finished| finished.run_id).collect();
            let mut cases = tx.cases(&ids).await?;
            let mut results = Vec::new();
            for finished in finished {
                let found = cases.iter().position(|case| case.run.id == finished.run_id).map(|index| cases.swap_remove(index));
                let Some(case) = found.filter(|case| is_ours(case, finished.epoch, worker)) else {
                    tracing::warn!(run = %finished.run_id, epoch = finished.epoch, "drop a late answer: the run is no longer ours");
                    results.push(RecordResult::Stale);
                    continue;
                };
                self.apply(tx, &case, finished, worker).await?;
                results.push(RecordResult::Recorded);
            }
            Ok::<_, Fault>(results)
        });
        let results = committed.await?.into_inner();
        reached(CrashPoint::Recorded);
        if finished.iter().any(|finished| finished.purged()) && !self.ledger.truncate_wal().await.unwrap_or(false) {
            // Somebody reads just now. What was overwritten leaves the log's file with the next checkpoint.
            tracing::info!("the ledger's write-ahead log still holds what a purge overwrote");
        }
        Ok(results)
    }

    async fn apply(&self, tx: &mut Tx, case: &Case, finished: &Finished, worker: &str) -> Result<(), Fault> {
        let actor = Actor::system(worker);
        match &finished.result {
            Ok(StageOutcome::Done(done)) => self.complete(tx, case, done, &actor).await,
            Ok(StageOutcome::NotYet { until, refusal }) => {
                self.block(tx, case, refusal, "PENDING").await?;
                // The fact may have changed while the handler answered; then nobody would wake the run again.
                let settled =
                    matches!(refusal.code, Code::ActiveReferences | Code::ActiveUsage) && case.facts.runs_in_flight == 0;
                let settlement = match until {
                    _ if settled => Settlement::Postponed { due_at: tx.at(), blocked: Some(refusal.clone()) },
                    Some(due_at) => Settlement::Postponed { due_at: *due_at, blocked: Some(refusal.clone()) },
                    None => Settlement::Parked(refusal.clone()),
                };
                tx.settle(&case.run, &settlement).await
            }
            Ok(StageOutcome::ExportAgain(evidence)) => {
                self.completed(tx, case, evidence, &actor).await?;
                tx.next_round(case.offboarding.id).await?;
                let due_at = tx.at();
                enqueue(tx, case, Step::Export, due_at).await
            }
            Err(error) => self.fail(tx, case, error, &actor).await,
        }
    }

    async fn fail(&self, tx: &mut Tx, case: &Case, error: &StageError, actor: &Actor) -> Result<(), Fault> {
        let attempt = case.run.attempt + 1;
        let report = json!({"code": error.code(), "message": error.to_string()});
        let (halted, settlement) = match error {
            StageError::Halt { .. } => (true, Settlement::Halted { error: report, attempts: 1 }),
            StageError::Transient { .. } if attempt >= self.config.queue.attempts_max => {
                (true, Settlement::Halted { error: report, attempts: 1 })
            }
            StageError::Transient { .. } => {
                let due_at = tx.at() + self.backoff(attempt, u64::from_be_bytes(tx.random::<8>()));
                (false, Settlement::Failed { due_at, error: report })
            }
        };
        let mut entry = about(case, EventType::StageFailed, actor, "worker");
        entry.evidence = json!({"run_id": case.run.id, "code": error.code(), "attempt": attempt, "halted": halted});
        tx.append(entry).await?;
        tx.settle(&case.run, &settlement).await
    }

    /// 30 s doubling, varied by ±20 %, at most an hour: as configured. `draw` is a random number.
    fn backoff(&self, attempt: i64, draw: u64) -> TimeDelta {
        let queue = &self.config.queue;
        let (first, max) = (queue.backoff_first.0.num_milliseconds().max(0), queue.backoff_max.0.num_milliseconds());
        let delay = first.saturating_mul(1 << (attempt - 1).clamp(0, 20)).min(max);
        let spread = delay * i64::from(queue.backoff_jitter) / 100;
        let shift = if spread > 0 { (draw % (2 * spread as u64 + 1)) as i64 - spread } else { 0 };
        TimeDelta::milliseconds((delay + shift).min(max))
    }

    async fn completed(&self, tx: &mut Tx, case: &Case, evidence: &Evidence, actor: &Actor) -> Result<(), Fault> {
        let event = if case.run.step == Step::Restore { EventType::Rollback } else { EventType::StageCompleted };
        let mut entry = about(case, event, actor, "worker");
        entry.evidence = evidence.clone();
        tx.append(entry).await?;
        tx.settle(&case.run, &Settlement::Succeeded(evidence.clone())).await
    }

    /// The step is done: what follows from it, in the same transaction.
    async fn complete(&self, tx: &mut Tx, case: &Case, done: &Done, actor: &Actor) -> Result<(), Fault> {
        self.completed(tx, case, &done.evidence, actor).await?;
        let (at, terms, offboarding) = (tx.at(), &case.offboarding.terms, case.offboarding.id);
        match case.run.step {
            Step::Deregister => {
                if terms.grace_access == GraceAccess::None {
                    tx.suspend_tokens(case.plane.id, offboarding).await?;
                }
                self.transition(tx, case, LifecycleState::PendingDeactivate, actor).await?;
                tx.start_grace(offboarding, at + terms.grace).await?;
                enqueue(tx, case, Step::Verify, at + terms.grace).await
            }
            Step::Verify => enqueue(tx, case, Step::Deactivate, at).await,
            Step::Deactivate => {
                tx.revoke_tokens(case.plane.id).await?;
                self.transition(tx, case, LifecycleState::Deactivated, actor).await?;
                tx.start_archive_delay(offboarding, at + terms.archive_delay).await?;
                enqueue(tx, case, Step::Export, at + terms.archive_delay).await
            }
            Step::Export => {
                let manifest = done.manifest.as_ref().ok_or(Fault::IncompleteEntry(vec!["manifest"]))?;
                let prefix = format!("{}/{}/", case.plane.archive_url.as_deref().unwrap_or_default(), case.plane.id);
                tx.keep_archive(&prefix, manifest).await?;
                match terms.evict {
                    EvictMode::AfterArchive => enqueue(tx, case, Step::Evict, at).await,
                    EvictMode::AtPurge => self.archived(tx, case, manifest, &prefix, actor).await,
                }
            }
            Step::Evict => {
                let archive = tx.archive(offboarding).await?;
                let archive = archive.ok_or(Fault::IncompleteEntry(vec!["archive"]))?;
                let manifest = archive.manifest.ok_or(Fault::IncompleteEntry(vec!["manifest"]))?;
                self.archived(tx, case, &manifest, &archive.prefix, actor).await
            }
            Step::Purge => {
                self.transition(tx, case, LifecycleState::Purged, actor).await?;
                tx.close_offboarding(offboarding, OffboardingStatus::Completed).await?;
                tx.entomb(case.plane.id, offboarding).await
            }
            Step::Restore => Ok(()),
        }
    }

    /// ARCHIVED: the retention starts, and there is a plan to approve.
    async fn archived(&self, tx: &mut Tx, case: &Case, manifest: &Manifest, prefix: &str, actor: &Actor) -> Result<(), Fault> {
        self.transition(tx, case, LifecycleState::Archived, actor).await?;
        let plan = plan(tx, case, manifest, prefix, 0).await?;
        tx.set_plan(&plan).await?;
        let until = tx.at() + case.offboarding.terms.retention;
        tx.start_retention(case.offboarding.id, until).await?;
        enqueue(tx, case, Step::Purge, until).await
    }

    async fn transition(&self, tx: &mut Tx, case: &Case, to: LifecycleState, actor: &Actor) -> Result<(), Fault> {
        let mut entry = about(case, EventType::Transition, actor, "worker");
        entry.from_state = Some(case.plane.state);
        entry.to_state = Some(to);
        let recorded = tx.append(entry).await?;
        tx.move_plane(case.plane.id, case.plane.state, to, recorded).await
    }
}

fn is_ours(case: &Case, epoch: i64, worker: &str) -> bool {
    case.run.status == RunStatus::Running
        && case.run.epoch == Some(epoch)
        && case.plane.epoch == epoch
        && case.run.lease_owner.as_deref() == Some(worker)
}

async fn enqueue(tx: &mut Tx, case: &Case, step: Step, due_at: DateTime<Utc>) -> Result<(), Fault> {
    tx.enqueue(case.offboarding.id, case.plane.id, case.plane.tenant_id, step, due_at).await?;
    Ok(())
}

/// What a purge would destroy, as it stands in this transaction.
pub(super) async fn plan(
    tx: &mut Tx,
    case: &Case,
    manifest: &Manifest,
    prefix: &str,
    revision: u32,
) -> Result<DestructionPlan, Fault> {
    let evict = case.offboarding.terms.evict;
    let bindings = tx.bindings(case.plane.id).await?;
    let stores = manifest.stores.iter().zip(&bindings).map(|(store, binding)| StoreDestruction {
        store: store.store.clone(),
        resource: store.resource.clone(),
        scope_digest: binding.scope_digest(),
        records: if evict == EvictMode::AtPurge { store.rows } else { 0 },
    });
    Ok(DestructionPlan {
        schema_version: DESTRUCTION_PLAN_SCHEMA,
        revision,
        tenant_id: case.plane.tenant_id,
        plane_id: case.plane.id,
        offboarding_id: case.offboarding.id,
        ground: case.offboarding.terms.ground,
        evict,
        stores: stores.collect(),
        archive_prefix: prefix.to_owned(),
        manifest_sha256: lethe_stages::canonical::digest(manifest)?,
        archive_parts: manifest.parts(),
        archive_rows: manifest.rows(),
        archive_bytes: manifest.bytes(),
    })
}
