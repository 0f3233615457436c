//! Erasing personal values: at somebody's word, or when they have been kept for as long as the configuration says.
//!
//! The rule: one transaction destroys the key, deletes what it sealed, reduces what is closed and puts that on record, under the new key.
//! While an offboarding is open nothing is erased: who requests and who approves must stay known to be two. If we die in it, nothing is
//! erased; if we die after it, the file is scrubbed by the next erasure, or by the same command again.

use chrono::{DateTime, TimeDelta, Utc};
use lethe_ledger::{Actor, Chain, Entry, ErasedPersonal, EventType, Fault, Gone, Tx};
use lethe_stages::{Code, Refusal};
use serde_json::json;
use std::sync::PoisonError;
use uuid::Uuid;

use super::KnowledgeLifecycleManager;

/// Tenants whose values one sweep erases.
const BATCH: i64 = 10;
/// What is kept for days or years is looked at so often.
const EVERY: TimeDelta = TimeDelta::hours(1);

/// Erases the values of a tenant, or those that concern none; refused while an offboarding is open.
pub(crate) async fn erase(
    tx: &mut Tx,
    tenant: Option<Uuid>,
    actor: &Actor,
    owner: &str,
    reason: Option<String>,
) -> Result<Result<ErasedPersonal, Refusal>, Fault> {
    tx.lock_personal(tenant).await?;
    if let Some(id) = tenant
        && let Some(plane) = tx.open_plane_of(id).await?
    {
        let message = format!(
            "plane {plane} is on its way out: until its offboarding has ended, it must stay known who requested it and who decides on it"
        );
        return Ok(Err(Refusal::new(Code::PersonalNeeded, message).with(json!({"plane_id": plane}))));
    }
    let erased = tx.erase_personal(tenant).await?;
    let chain = tenant.map_or(Chain::System, Chain::Tenant);
    let mut entry = Entry::new(chain, tenant, EventType::PersonalErased, actor, owner);
    entry.reason = reason;
    entry.evidence = json!(erased);
    tx.append(entry).await?;
    Ok(Ok(erased))
}

/// When the values of a tenant that is gone are erased by themselves; `None`: not.
pub(crate) fn due_at(
    gone: &[Gone],
    tenant: Option<Uuid>,
    made_at: DateTime<Utc>,
    keep: Option<TimeDelta>,
) -> Option<DateTime<Utc>> {
    let gone = gone.iter().find(|gone| Some(gone.tenant_id) == tenant)?;
    let due = gone.closed_at.checked_add_signed(keep?)?;
    // What was written after that was written about a tenant that was erased already: it goes with the next command.
    (made_at < due).then_some(due)
}

impl KnowledgeLifecycleManager {
    /// Erases what has been kept for long enough, a few tenants at a time. Answers how many.
    pub(crate) async fn erase_due(&self) -> Result<u64, Fault> {
        let Some(keep) = self.config.personal.keep else { return Ok(0) };
        let (now, looked) = (self.ledger.now(), || self.personal_looked.lock().unwrap_or_else(PoisonError::into_inner));
        if looked().is_some_and(|at| now >= at && now - at < EVERY) {
            return Ok(0);
        }
        let due = self.ledger.read(async |tx: &mut Tx| tx.personal_due(keep.0, BATCH).await).await?;
        let (found, mut erased) = (due.len() as i64, 0);
        for gone in due {
            let committed = self.ledger.transact(async |tx: &mut Tx| {
                tx.lock_personal(Some(gone.tenant_id)).await?;
                // Another process may have been faster, or a plane may have come back.
                if !tx.personal_due(keep.0, i64::from(i32::MAX)).await?.contains(&gone) {
                    return Ok(false);
                }
                let done = erase(tx, Some(gone.tenant_id), &Actor::system("sweep"), "sweep", None).await?;
                Ok::<_, Fault>(done.is_ok())
            });
            match committed.await {
                Ok(done) => erased += u64::from(done.into_inner()),
                Err(fault) if fault.is_conflict() => {}
                Err(fault) => return Err(fault),
            }
        }
        if erased > 0 {
            self.scrub().await;
        }
        if found < BATCH {
            *looked() = Some(now);
        }
        Ok(erased)
    }

    /// Rewrites a ledger in a file without what was erased. Answers whether it could.
    pub(crate) async fn scrub(&self) -> bool {
        let on_server = self.ledger.path().is_none();
        match self.ledger.scrub().await {
            Ok(true) => return true,
            Ok(false) if on_server => {}
            Ok(false) => {
                tracing::warn!("somebody uses the ledger: its file still holds what was erased; erase again to scrub it")
            }
            Err(fault) => tracing::warn!(error = &fault as &dyn std::error::Error, "scrub the ledger's file"),
        }
        false
    }
}
