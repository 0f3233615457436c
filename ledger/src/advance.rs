//! Advancing many runs at once: what a batch of answers changes is gathered run by run and written set by set.
//!
//! The rule: every member's row must be as it was read, or nothing of the batch is written. It belongs to a transaction, so nothing of it
//! happened if we die in it.

use chrono::{DateTime, Utc};
use lethe_stages::lifecycle::Wait;
use uuid::Uuid;

use crate::{
    db::Tx,
    fault::Fault,
    many::Script,
    planes::Move,
    queue::{NewRun, Run, Settled, Settlement},
};

/// Changes that belong together and are not written yet.
#[derive(Debug, Default)]
#[must_use]
pub struct Changes {
    settled: Vec<Settled>,
    waits: Vec<(Wait, Uuid, DateTime<Utc>)>,
    moves: Vec<Move>,
    enqueued: Vec<NewRun>,
}

impl Changes {
    /// Settles a run.
    pub fn settle(&mut self, run: &Run, settlement: &Settlement) {
        self.settled.push(Settled::of(run, settlement));
    }

    /// Starts a wait of an offboarding: its end, once.
    pub fn start_wait(&mut self, wait: Wait, offboarding: Uuid, until: DateTime<Utc>) {
        self.waits.push((wait, offboarding, until));
    }

    /// Moves a plane.
    pub fn move_plane(&mut self, moved: Move) {
        self.moves.push(moved);
    }

    /// Inserts a run. A plane has one open run at a time, so the one before it must be settled here or already.
    pub fn enqueue(&mut self, new: NewRun) {
        self.enqueued.push(new);
    }
}

impl Tx {
    /// Writes the changes.
    pub async fn write(&mut self, changes: Changes) -> Result<(), Fault> {
        let mut script = Script::default();
        self.settle_all(changes.settled, &mut script);
        self.start_waits(changes.waits, &mut script);
        self.move_all(changes.moves, &mut script);
        self.enqueue_all(changes.enqueued, &mut script);
        self.run(script).await
    }
}
