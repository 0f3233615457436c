//! Publishing: which tiles and which checkpoint others are to find outside.
//!
//! The rule: one process publishes at a time, by a lease; what it wrote is noted when all of it is there, tiles first, then the checkpoint
//! that needs them. Tiles follow from the log alone, so whoever goes on after a crash writes the same bytes again.

use chrono::TimeDelta;
use lethe_verify::tile::Tile;

use super::CheckpointRow;
use crate::{db::Tx, fault::Fault, sql::statements};

/// What is to be published.
#[derive(Debug, Clone)]
pub struct ToPublish {
    /// The checkpoint to publish.
    pub checkpoint: CheckpointRow,
    /// The tiles that it needs and that are not there yet.
    pub tiles: Vec<Tile>,
}

statements! {
    LEASE = "lease the log's publishing",
        "UPDATE log SET publisher = $1, publisher_until = $2 WHERE publisher IS NULL OR publisher = $1 OR publisher_until <= $3";
    PUBLISHED = "note what is published",
        "UPDATE log SET published_size = $2, publisher = NULL, publisher_until = NULL WHERE publisher = $1 AND published_size <= $2";
    LET = "let others publish the log", "UPDATE log SET publisher = NULL, publisher_until = NULL WHERE publisher = $1";
    NEXT = "read the next checkpoint to publish",
        "SELECT size, note FROM checkpoints WHERE size > $1 AND size <= $2 AND size <= (SELECT l.size FROM log l) ORDER BY size DESC LIMIT 1";
    FIRST = "read the next checkpoint to publish", "SELECT size, note FROM checkpoints WHERE size > $1 AND size <= (SELECT l.size FROM log l) ORDER BY size LIMIT 1";
}

impl Tx {
    /// Gives up the leave to publish.
    pub async fn let_others_publish(&mut self, owner: &str) -> Result<(), Fault> {
        self.sql(&LET).bind(owner).run().await.map(drop)
    }

    /// Takes or renews the leave to publish. Answers whether it is ours.
    pub async fn lease_publishing(&mut self, owner: &str, lasts: TimeDelta) -> Result<bool, Fault> {
        let at = self.at();
        Ok(self.sql(&LEASE).bind(owner).bind(at + lasts).bind(at).run().await? == 1)
    }

    /// What is to be published next where `from` leaves are, of about `leaves_max` leaves; `None`: all is.
    pub async fn to_publish(&mut self, from: u64, leaves_max: u64) -> Result<Option<ToPublish>, Fault> {
        let from = from as i64;
        let mut row = self.sql(&NEXT).bind(from).bind(from.saturating_add(leaves_max as i64)).optional().await?;
        if row.is_none() {
            row = self.sql(&FIRST).bind(from).optional().await?;
        }
        let Some(row) = row else { return Ok(None) };
        let checkpoint = super::checkpoint(&row)?;
        let tiles = Tile::between(from as u64, checkpoint.size);
        Ok(Some(ToPublish { checkpoint, tiles }))
    }

    /// Notes that the checkpoint of this size is outside, with all that it needs, and lets others publish. Answers whether publishing still was ours.
    pub async fn published(&mut self, owner: &str, size: u64) -> Result<bool, Fault> {
        Ok(self.sql(&PUBLISHED).bind(owner).bind(size as i64).run().await? == 1)
    }
}
