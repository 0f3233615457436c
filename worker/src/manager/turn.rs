//! A turn of the queue: records what was finished and claims what is due, in one transaction.
//!
//! The rule: the slots that an answer frees are filled by the commit that records it, so that a step costs one commit and not two. What is
//! claimed there is judged like every claim, on facts read in that transaction. A run that follows an answer at once is handed on: judged
//! and leased as it is inserted, on the facts that its answer leaves behind. If we die in it, nothing of it happened.

#[cfg(debug_assertions)]
use std::collections::HashMap;

#[cfg(debug_assertions)]
use lethe_ledger::Case;
use lethe_ledger::{Fault, Tx};
use lethe_stages::crash::{CrashPoint, reached};
use uuid::Uuid;

use super::{Claimed, Finished, KnowledgeLifecycleManager, RecordResult, record::Batch};

/// What one transaction of the queue did.
#[derive(Default)]
pub struct Turn {
    /// What became of each answer, in their order.
    pub recorded: Vec<RecordResult>,
    /// Runs that are ours now.
    pub claimed: Vec<Claimed>,
    /// Due runs that were looked at; 0 means that nothing is due.
    pub seen: usize,
}

impl KnowledgeLifecycleManager {
    /// Claims up to `limit` due runs for `worker`, of one plane if given. Also answers how many due runs it looked at: 0 means idle.
    pub async fn claim(&self, limit: usize, worker: &str, plane: Option<Uuid>) -> Result<(Vec<Claimed>, usize), Fault> {
        // Most calls find nothing: look before taking the write lock.
        let due = self.ledger.read(async |tx: &mut Tx| Ok::<_, Fault>(tx.next_due().await?.is_some_and(|due| due <= tx.at())));
        if !due.await? {
            return Ok((Vec::new(), 0));
        }
        let turn = self.turn(&[], limit, worker, plane).await?;
        Ok((turn.claimed, turn.seen))
    }

    /// Records a batch of answers of `worker` in one transaction; a stale one does not fail its neighbours.
    pub async fn record(&self, finished: &[Finished], worker: &str) -> Result<Vec<RecordResult>, Fault> {
        Ok(self.turn(finished, 0, worker, None).await?.recorded)
    }

    /// Records answers of `worker`, then claims up to `limit` due runs for it, of one plane if given.
    pub async fn turn(&self, finished: &[Finished], limit: usize, worker: &str, plane: Option<Uuid>) -> Result<Turn, Fault> {
        let work = async |tx: &mut Tx| {
            let mut turn = Turn::default();
            if !finished.is_empty() {
                let mut batch = Batch::default();
                turn.recorded = self.record_in(tx, &mut batch, finished, worker).await?;
                turn.claimed = self.hand_on(tx, &mut batch, limit, worker, plane).await?;
                self.write(tx, batch).await?;
                #[cfg(debug_assertions)]
                are_as_read(tx, turn.claimed.iter().map(|claimed| &claimed.case)).await?;
            }
            let left = limit - turn.claimed.len();
            turn.seen = turn.claimed.len();
            if left > 0 {
                let (claimed, seen) = self.claim_in(tx, left, worker, plane).await?;
                turn.claimed.extend(claimed);
                turn.seen += seen;
            }
            Ok::<_, Fault>(turn)
        };
        let claims = limit > 0;
        let committed = if claims { self.ledger.transact_under_control(work).await } else { self.ledger.transact(work).await };
        let turn = committed?.into_inner();
        if !finished.is_empty() {
            reached(CrashPoint::Recorded);
        }
        if finished.iter().any(|finished| finished.purged()) && !self.ledger.truncate_wal().await.unwrap_or(false) {
            // Somebody reads just now. What was overwritten leaves the log's file with the next checkpoint.
            tracing::info!("the ledger's write-ahead log still holds what a purge overwrote");
        }
        Ok(turn)
    }
}

/// Cases that were carried along, against what the ledger now reads.
#[cfg(debug_assertions)]
pub(super) async fn are_as_read(tx: &mut Tx, carried: impl Iterator<Item = &Case>) -> Result<(), Fault> {
    let carried: HashMap<Uuid, &Case> = carried.map(|case| (case.run.id, case)).collect();
    let read = tx.cases(&Vec::from_iter(carried.keys().copied())).await?;
    assert_eq!(carried.len(), read.len(), "every run that is carried along is in the ledger");
    for mut read in read {
        let mut case = carried[&read.run.id].clone();
        // A renewal may have moved these.
        (read.run.lease_until, read.run.progress) = (case.run.lease_until, case.run.progress.clone());
        // Approvals that are not used may end, and keys be revoked, while a purge runs under those that are.
        for case in [&mut read, &mut case] {
            case.given.retain(lethe_ledger::Given::is_used);
            case.given.iter_mut().for_each(|given| given.revoked = false);
            case.facts.approvals.retain(|approval| approval.consumed);
        }
        assert_eq!(format!("{case:?}"), format!("{read:?}"), "a case as it was carried along, and as the ledger reads it");
    }
    Ok(())
}
