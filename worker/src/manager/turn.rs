//! A turn of the queue: records what was finished and claims what is due, in one transaction.
//!
//! The rule: the slots that an answer frees are filled by the commit that records it, so that a step costs one commit and not two. What is
//! claimed there is judged like every claim, on facts read in that transaction. If we die in it, neither happened.

use lethe_ledger::{Fault, Tx};
use lethe_stages::crash::{CrashPoint, reached};
use uuid::Uuid;

use super::{Claimed, Finished, KnowledgeLifecycleManager, RecordResult};

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
        let due = self.ledger.read(async |tx: &mut Tx| tx.next_due().await).await?;
        if due.is_none_or(|due| due > self.ledger.now()) {
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
        let committed = self.ledger.transact(async |tx: &mut Tx| {
            let mut turn = Turn::default();
            if !finished.is_empty() {
                turn.recorded = self.record_in(tx, finished, worker).await?;
            }
            if limit > 0 {
                (turn.claimed, turn.seen) = self.claim_in(tx, limit, worker, plane).await?;
            }
            Ok::<_, Fault>(turn)
        });
        let turn = committed.await?.into_inner();
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
