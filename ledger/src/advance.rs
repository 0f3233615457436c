//! Advancing many runs at once: what a batch of answers changes is gathered run by run and written set by set.
//!
//! The rule: every member's row must be as it was read, or nothing of the batch is written. It belongs to a transaction, so nothing of it
//! happened if we die in it.

use chrono::{DateTime, Utc};
use lethe_stages::{destruction::DestructionPlan, lifecycle::Wait, manifest::Manifest};
use uuid::Uuid;

use crate::{
    archives::Kept,
    cases::Case,
    db::Tx,
    fault::Fault,
    many::Script,
    planes::Move,
    queue::{Enqueued, Lease, Run, Settled, Settlement},
};

/// Changes that belong together and are not written yet.
#[derive(Debug, Default)]
#[must_use]
pub struct Changes {
    settled: Vec<Settled>,
    waits: Vec<(Wait, Uuid, DateTime<Utc>)>,
    moves: Vec<Move>,
    kept: Vec<Kept>,
    plans: Vec<DestructionPlan>,
    enqueued: Vec<Enqueued>,
    raised: Vec<(Uuid, i64)>,
}

impl Changes {
    /// Settles a run.
    pub fn settle(&mut self, run: &Run, settlement: &Settlement) {
        self.settled.push(Settled::of(run, settlement));
    }

    /// Raises a plane's epoch to the next one: whoever holds the present one is out.
    pub fn raise(&mut self, plane: Uuid, epoch: i64) {
        self.raised.push((plane, epoch + 1));
    }

    /// Starts a wait of an offboarding: its end, once.
    pub fn start_wait(&mut self, wait: Wait, offboarding: Uuid, until: DateTime<Utc>) {
        self.waits.push((wait, offboarding, until));
    }

    /// Moves a plane.
    pub fn move_plane(&mut self, moved: Move) {
        self.moves.push(moved);
    }

    /// Keeps the verified manifest of an offboarding; a later round replaces the earlier.
    pub fn keep_archive(&mut self, prefix: &str, manifest: &Manifest) -> Result<(), Fault> {
        self.kept.push(Kept::of(prefix, manifest)?);
        Ok(())
    }

    /// Writes the destruction plan that is to be approved.
    pub fn set_plan(&mut self, plan: &DestructionPlan) {
        self.plans.push(plan.clone());
    }

    /// Inserts the run of a case that followed another. A plane has one open run at a time, so the one before it must be settled here
    /// or already.
    pub fn enqueue(&mut self, next: &Case) {
        self.enqueued.push(Enqueued::of(&next.run, next.facts.at, None));
    }

    /// Inserts it leased, at the epoch to which its plane is thereby raised.
    pub fn hand_on(&mut self, next: &Case, epoch: i64, lease: &Lease) {
        self.enqueued.push(Enqueued::of(&next.run, next.facts.at, Some((epoch, lease.clone()))));
    }
}

impl Tx {
    /// Writes the changes, and the trail with them.
    pub async fn write(&mut self, changes: Changes) -> Result<(), Fault> {
        let mut script = Script::default();
        let written = self.trail_all(&mut script);
        self.settle_all(changes.settled, &mut script);
        self.start_waits(changes.waits, &mut script);
        let mut raised = changes.raised;
        raised.extend(changes.enqueued.iter().filter_map(Enqueued::raises));
        self.advance_all(changes.moves, raised, &mut script);
        self.keep_archives(changes.kept, &mut script);
        self.set_plans(changes.plans, &mut script);
        self.enqueue_all(changes.enqueued, &mut script);
        self.count(written, &mut script);
        self.run(script).await
    }
}
