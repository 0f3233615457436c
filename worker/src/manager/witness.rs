//! The witness outside: each archive keeps a mark that says how far this ledger's past reaches.
//!
//! The rule: the mark is compared and moved on before anything is destroyed. A ledger that finds it ahead was restored from a backup: it
//! has forgotten holds, withdrawals and purges, and destroys nothing until a person has reconciled it.
//! If we die in it, the mark is a little lower than it could be.

use lethe_ledger::{Actor, Chain, Entry, EventType, Fault, Mark, Tx};
use serde_json::json;
use uuid::Uuid;

use super::KnowledgeLifecycleManager;

impl KnowledgeLifecycleManager {
    /// The marks that this ledger left beside its archives; archives that are away are passed over.
    pub(crate) async fn marks(&self) -> Result<Vec<((String, Uuid), Option<Mark>)>, Fault> {
        let roots = self.ledger.read(async |tx: &mut Tx| tx.archive_roots().await).await?;
        let mut marks = Vec::new();
        for (url, archive_id) in roots {
            match self.world.read_mark(&url, archive_id, self.ledger.id()).await {
                Ok(bytes) => {
                    let mark = bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok());
                    marks.push(((url, archive_id), mark));
                }
                Err(error) => tracing::warn!(%error, url, "read the ledger's mark"),
            }
        }
        Ok(marks)
    }

    /// Compares this ledger with its marks and moves them on. Answers whether it may destroy.
    pub async fn witness(&self) -> Result<bool, Fault> {
        // The marks first: whatever the ledger says afterwards is at least as new as they.
        let marks = self.marks().await?;
        let (mine, known, behind) = self
            .ledger
            .read(async |tx: &mut Tx| {
                let mut behind = false;
                for mark in marks.iter().filter_map(|(_, mark)| mark.as_ref()) {
                    behind |= tx.is_behind(mark).await?;
                }
                Ok::<_, Fault>((tx.mark(self.ledger.id()).await?, tx.witness().await?.behind_since.is_some(), behind))
            })
            .await?;
        if known {
            return Ok(false);
        }
        if behind {
            let committed = self.ledger.transact(async |tx: &mut Tx| {
                if tx.set_behind().await? {
                    let mut entry =
                        Entry::new(Chain::System, None, EventType::LedgerBehind, &Actor::system("witness"), "witness");
                    let ahead: Vec<_> = marks
                        .iter()
                        .filter_map(|(_, mark)| mark.as_ref())
                        .map(|mark| json!({"era": mark.era, "place": mark.place}))
                        .collect();
                    entry.evidence = json!({"marks": ahead, "era": mine.era, "place": mine.place});
                    tx.append(entry).await?;
                }
                Ok::<_, Fault>(())
            });
            committed.await?.into_inner();
            tracing::error!(
                "this ledger is behind the mark beside its archive: nothing is destroyed until `lethe ledger reconcile`"
            );
            return Ok(false);
        }
        for ((url, archive_id), _) in marks.iter().filter(|(_, mark)| mark.as_ref() != Some(&mine)) {
            let bytes = serde_json::to_vec(&mine).expect("a mark serialises");
            if let Err(error) = self.world.write_mark(url, *archive_id, self.ledger.id(), bytes).await {
                tracing::warn!(%error, url, "write the ledger's mark");
            }
        }
        Ok(true)
    }
}
