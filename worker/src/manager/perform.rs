//! Perform: opens the ports and calls the handler. No transaction is open.
//!
//! The rule: whatever the handler does, an answer comes back: a panic is a Transient failure.

use std::{
    collections::HashMap,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex},
};

use futures::FutureExt;
use lethe_ledger::{Case, Fault, Run, Tx};
use lethe_stages::{
    Code, Limits, Refusal, RunRef, StageContext, StageError, StageOutcome, Step,
    crash::{CrashPoint, reached},
    ports::{BoundStore, PageLimit, Progress},
    record::Salt,
};
use lethe_stores::ArchiveKey;
use serde_json::{Value as Json, json};
use uuid::Uuid;

use super::{Claimed, KnowledgeLifecycleManager, unopened::Unopened};
use crate::hours;

/// A run whose handler has answered.
pub struct Finished {
    /// The run, with what stood when it was claimed.
    pub case: Case,
    /// The epoch of its claim.
    pub epoch: i64,
    /// What the handler made of it.
    pub result: Result<StageOutcome, StageError>,
    /// How far it had come, store by store, as it said itself.
    pub progress: Option<Json>,
}

impl Finished {
    /// Which claim it answers: the run, and the epoch of the claim.
    pub(crate) fn key(&self) -> (Uuid, i64) {
        (self.case.run.id, self.epoch)
    }

    /// Whether the handler did its work.
    pub(super) fn is_done(&self) -> bool {
        matches!(self.result, Ok(StageOutcome::Done(_)))
    }

    /// Whether this is a purge that was done.
    pub(super) fn purged(&self) -> bool {
        self.case.run.step == Step::Purge && self.is_done()
    }
}

/// How far the handlers of this process are, by run. Written by handlers, read by lease renewal and by progress bars.
#[derive(Clone, Default)]
pub struct ProgressBoard(Arc<Mutex<HashMap<Uuid, Json>>>);

impl ProgressBoard {
    /// How far a run is.
    pub fn of(&self, run: Uuid) -> Option<Json> {
        self.0.lock().ok()?.get(&run).cloned()
    }

    /// How far every run of this process is.
    pub fn all(&self) -> Vec<(Uuid, Json)> {
        self.0.lock().map(|board| board.iter().map(|(id, progress)| (*id, progress.clone())).collect()).unwrap_or_default()
    }

    fn take(&self, run: Uuid) -> Option<Json> {
        self.0.lock().ok()?.remove(&run)
    }
}

struct RunProgress {
    run: Uuid,
    board: ProgressBoard,
}

impl Progress for RunProgress {
    fn report(&self, binding: usize, verb: &'static str, done: u64, total: u64) {
        if let Ok(mut board) = self.board.0.lock() {
            let stores = board.entry(self.run).or_insert_with(|| json!({"stores": {}}));
            stores["stores"][binding.to_string()] = json!({"verb": verb, "done": done, "total": total});
        }
    }
}

impl KnowledgeLifecycleManager {
    /// Performs a claimed run.
    pub async fn perform(&self, claimed: &Claimed) -> Finished {
        reached(CrashPoint::Claimed);
        let run = &claimed.case.run;
        let result = match AssertUnwindSafe(self.run_handler(claimed)).catch_unwind().await {
            Ok(result) => result,
            Err(panic) => {
                let said = panic
                    .downcast_ref::<&str>()
                    .map(|text| (*text).to_owned())
                    .or_else(|| panic.downcast_ref::<String>().cloned());
                let said = said.unwrap_or_else(|| "without a message".into());
                Err(StageError::transient("PANIC", format!("perform {}: the handler panicked: {said}", run.step)))
            }
        };
        let progress = self.progress.take(run.id);
        reached(CrashPoint::Performed);
        Finished { case: claimed.case.clone(), epoch: claimed.epoch, result, progress }
    }

    async fn run_handler(&self, claimed: &Claimed) -> Result<StageOutcome, StageError> {
        if claimed.case.run.step.is_destructive() {
            // The mark is moved past this claim before anything is gone: a backup taken earlier will find itself behind.
            let may_destroy = claimed.may_destroy.get_or_init(|| self.may_destroy()).await.clone();
            if !may_destroy.map_err(|fault| StageError::transient("LEDGER", fault))? {
                let refusal =
                    Refusal::new(Code::LedgerBehind, "this ledger is behind its mark: `lethe ledger reconcile --reason …`");
                return Ok(StageOutcome::NotYet { until: None, refusal });
            }
        }
        if claimed.case.run.step == Step::Purge {
            let why = self.why_not_logged().await.map_err(|fault| StageError::transient("LEDGER", fault.to_string()))?;
            if let Some(why) = why {
                let refusal = Refusal::new(Code::LogStopped, format!("a purge could not be proved: {why}"));
                return Ok(StageOutcome::NotYet { until: None, refusal });
            }
        }
        let key = self.key_of(&claimed.case).await?;
        let context = self.context(claimed, key).await?;
        let handler = self.stages.get(context.run.step.stage());
        if context.run.step == Step::Restore { handler.restore(&context).await } else { handler.run(&context).await }
    }

    /// How often an evict found records that no export held: each is on record as one that was followed by another export.
    async fn appeared(&self, case: &Case) -> Result<u32, StageError> {
        // Nothing was exported a second time.
        if case.run.step != Step::Evict || case.offboarding.round == 0 {
            return Ok(0);
        }
        let runs = self.ledger.read(async |tx: &mut Tx| tx.runs_of(case.offboarding.id).await).await;
        let runs = runs.map_err(|fault: Fault| StageError::transient("LEDGER", fault.to_string()))?;
        let appeared =
            |run: &&Run| run.step == Step::Evict && run.evidence.as_ref().is_some_and(|evidence| evidence["unexported"].is_u64());
        Ok(runs.iter().filter(appeared).count() as u32)
    }

    async fn may_destroy(&self) -> Result<bool, String> {
        self.witness().await.map_err(|fault| fault.to_string())
    }

    async fn context(&self, claimed: &Claimed, key: Option<ArchiveKey>) -> Result<StageContext, StageError> {
        let Claimed { case, epoch, permit, .. } = claimed;
        let plane = &case.plane;
        let bound = case.bound().map_err(|fault| StageError::transient("LEDGER", fault.to_string()))?;
        let mut stores = Vec::new();
        for binding in &bound.bindings {
            // One that cannot be opened from here says so itself, and keeps no other store from its part.
            let opened = self.world.store(plane.id, binding);
            let store = opened.unwrap_or_else(|error| Unopened::store(&binding.store, error));
            let store = hours::within(&self.config, &self.ledger, case.run.step, &binding.store, store);
            let attested = binding.attested();
            stores.push(BoundStore { name: binding.store.clone(), resource: binding.resource.clone(), store, attested });
        }
        let archive = self.world.archive(plane, key, self.ledger.now());
        let archive = archive.map_err(|error| StageError::port("open the archive", error))?;
        let salt = case.offboarding.salt.clone().or_else(|| (case.run.step == Step::Restore).then_some(Salt([0; 32])));
        let limits = &self.config.archive;
        let (dependents, suspensions) = self.suspended(case).await?;
        Ok(StageContext {
            run: RunRef {
                id: case.run.id,
                step: case.run.step,
                epoch: *epoch,
                attempt: case.run.attempt,
                round: case.offboarding.round,
                appeared: self.appeared(case).await?,
                failed: case.run.last_error.as_ref().and_then(|error| error["code"].as_str().map(str::to_owned)),
            },
            facts: case.facts.clone(),
            stores,
            dependents,
            suspensions,
            log: self.log(case, *epoch),
            archive,
            permit: permit.clone(),
            manifest: bound.manifest,
            salt: salt.ok_or_else(|| StageError::halt("LEDGER", "read the offboarding's salt: there is none"))?,
            limits: Limits {
                part: PageLimit { rows_max: limits.part_rows_max, bytes_max: limits.part_bytes_max },
                keep: self.config.probe.kept(),
                ..Limits::default()
            },
            progress: Arc::new(RunProgress { run: case.run.id, board: self.progress.clone() }),
        })
    }
}
