//! The transparency log: every entry of the trail, after its commit, as a leaf of one Merkle tree under signed checkpoints.
//!
//! The rule: an entry is sealed once and never moves; of one chain, entries are sealed in their order. The tree only grows, and only from
//! the very size that its checkpoint has. What signs is handed in: no key is kept here, only which public keys the log has had.
//!
//! Sealing is one transaction. If we die in it, the entries are still waiting, and the next who seals takes them.

mod published;
mod seal;
mod tree;
mod verify;

use chrono::{DateTime, Utc};
use lethe_verify::note::PublicKey;
use serde::Serialize;

pub use self::{
    published::ToPublish,
    seal::{LockedLog, Sealed, Waiting},
    tree::{LeafOf, Proved},
    verify::{LogFault, LogVerified},
};
use crate::{
    db::Tx,
    fault::Fault,
    rows::Cells,
    sql::{Row, statements},
    trail::Recorded,
};

/// Every statement of this module.
#[cfg(feature = "testing")]
pub(crate) static ALL: &[&[&crate::sql::Sql]] =
    &[STATEMENTS, seal::STATEMENTS, tree::STATEMENTS, published::STATEMENTS, verify::STATEMENTS];
#[cfg(feature = "testing")]
pub(crate) use self::seal::BATCHES;
pub(crate) use self::{seal::unsealed, verify::Walk as Recomputed};

/// Where the log stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LogState {
    /// Leaves.
    pub size: u64,
    /// Leaves that the published tiles and checkpoint cover.
    pub published_size: u64,
    /// Since when nothing is sealed, because no key can sign; `None`: it goes on.
    pub stopped_since: Option<DateTime<Utc>>,
    /// Why.
    pub stopped_why: Option<String>,
}

/// A key that the log has had.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LogKey {
    /// The public key, as C2SP signed-note writes it.
    pub vkey: String,
    /// When it began to sign.
    pub added_at: DateTime<Utc>,
    /// The size of the tree before its first checkpoint.
    pub from_size: u64,
    /// Since when it signs no longer; its checkpoints stay valid.
    pub retired_at: Option<DateTime<Utc>>,
}

impl LogKey {
    /// The key itself.
    pub fn public(&self) -> Result<PublicKey, Fault> {
        self.vkey.parse().map_err(|error: lethe_verify::note::NoteFault| Fault::Unreadable {
            table: "log_keys",
            column: "vkey",
            id: self.vkey.clone(),
            message: error.to_string(),
        })
    }
}

/// A checkpoint that was signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CheckpointRow {
    /// Leaves of its tree.
    pub size: u64,
    /// The signed note.
    pub note: String,
}

statements! {
    STATE = "read the log", "SELECT size, published_size, stopped_since, stopped_why FROM log";
    KEYS = "read the log's keys", "SELECT vkey, added_at, from_size, retired_at FROM log_keys ORDER BY added_at, vkey";
    ADD_KEY = "add a key to the log", "INSERT INTO log_keys (vkey, added_at, from_size) VALUES ($1, $2, $3)";
    RETIRE_KEY = "retire a key of the log", "UPDATE log_keys SET retired_at = $2 WHERE vkey = $1 AND retired_at IS NULL";
    STOP = "note that the log stands still", "UPDATE log SET stopped_since = $1, stopped_why = $2 WHERE stopped_since IS NULL OR stopped_why <> $2";
    GO_ON = "note that the log goes on", "UPDATE log SET stopped_since = NULL, stopped_why = NULL WHERE stopped_since IS NOT NULL";
    LATEST = "read the newest checkpoint", "SELECT size, note FROM checkpoints WHERE size <= (SELECT l.size FROM log l) ORDER BY size DESC LIMIT 1";
    AT_SIZE = "read a checkpoint", "SELECT size, note FROM checkpoints WHERE size = $1";
}

fn checkpoint(row: &Row) -> Result<CheckpointRow, Fault> {
    let cells = Cells::new(row, "checkpoints", "size");
    Ok(CheckpointRow { size: cells.get::<i64>("size")? as u64, note: cells.get("note")? })
}

impl Tx {
    /// Where the log stands.
    pub async fn log(&mut self) -> Result<LogState, Fault> {
        let row = self.sql(&STATE).first().await?;
        let cells = Cells::new(&row, "log", "size");
        Ok(LogState {
            size: cells.get::<i64>("size")? as u64,
            published_size: cells.get::<i64>("published_size")? as u64,
            stopped_since: cells.maybe_at("stopped_since")?,
            stopped_why: cells.get("stopped_why")?,
        })
    }

    /// Every key that the log has had, the first one first.
    pub async fn log_keys(&mut self) -> Result<Vec<LogKey>, Fault> {
        let rows = self.sql(&KEYS).all().await?;
        let key = |row: &Row| {
            let cells = Cells::new(row, "log_keys", "vkey");
            Ok(LogKey {
                vkey: cells.get("vkey")?,
                added_at: cells.at("added_at")?,
                from_size: cells.get::<i64>("from_size")? as u64,
                retired_at: cells.maybe_at("retired_at")?,
            })
        };
        rows.iter().map(key).collect()
    }

    /// A key signs what goes beyond a tree of this size. It is dated as what puts it on record: verifying compares them.
    pub async fn add_log_key(&mut self, key: &PublicKey, from_size: u64, recorded: &Recorded) -> Result<(), Fault> {
        self.sql(&ADD_KEY).bind(key.to_string()).bind(recorded.at).bind(from_size as i64).one().await
    }

    /// A key signs no longer; dated as what puts that on record. Answers whether it did until now.
    pub async fn retire_log_key(&mut self, vkey: &str, recorded: &Recorded) -> Result<bool, Fault> {
        Ok(self.sql(&RETIRE_KEY).bind(vkey).bind(recorded.at).run().await? == 1)
    }

    /// Notes why nothing is sealed. Answers whether that is news.
    pub async fn stop_log(&mut self, why: &str) -> Result<bool, Fault> {
        let at = self.at();
        Ok(self.sql(&STOP).bind(at).bind(why).run().await? == 1)
    }

    /// Notes that sealing goes on. Answers whether it had stopped.
    pub async fn go_on_with_log(&mut self) -> Result<bool, Fault> {
        Ok(self.sql(&GO_ON).run().await? == 1)
    }

    /// The newest checkpoint; `None` before the first.
    pub async fn latest_checkpoint(&mut self) -> Result<Option<CheckpointRow>, Fault> {
        self.sql(&LATEST).optional().await?.as_ref().map(checkpoint).transpose()
    }

    /// The checkpoint of a tree of this size, if one was signed.
    pub async fn checkpoint_at(&mut self, size: u64) -> Result<Option<CheckpointRow>, Fault> {
        self.sql(&AT_SIZE).bind(size as i64).optional().await?.as_ref().map(checkpoint).transpose()
    }
}
