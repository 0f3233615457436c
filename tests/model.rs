//! The path against a model: whatever is requested, approved, withdrawn, cancelled, held, released, delivered, lost, delivered late, retried
//! and made to fail, in whatever order, the plane is where sixty lines of reference say, and every invariant holds after every step.
//!
//! `PROPTEST_CASES` sets how many stories are told. A story that fails is printed, shrunk, and kept in `model.regressions`.

use std::sync::atomic::{AtomicUsize, Ordering};

use chrono::{DateTime, TimeDelta, Utc};
use lethe_stages::Step;
use lethe_worker::manager::{Claimed, RecordResult};
use proptest::{
    prelude::*,
    test_runner::{Config, FileFailurePersistence, TestRunner},
};
use serde_json::json;

use crate::support::{WORKER, World, faults::Failing, invariants, knowledge};

#[derive(Debug, Clone, Copy)]
enum Action {
    Request,
    Approve,
    Withdraw,
    Cancel,
    Hold,
    Release,
    Retry,
    /// One due run is claimed, performed and recorded.
    Deliver,
    /// The same, performed twice and recorded twice.
    DeliverTwice,
    /// One due run is claimed, and its worker is lost.
    Lose,
    /// The worker that was lost comes back and answers.
    Return,
    /// The next port call fails, done or not.
    Fault(bool),
    /// Minutes pass, and a sweep.
    Advance(i64),
}

/// The straight path; without it, chance alone would hardly ever come to the end.
const PATH: [Action; 10] = [
    Action::Request,
    Action::Deliver,
    Action::Advance(61),
    Action::Deliver,
    Action::Deliver,
    Action::Deliver,
    Action::Deliver,
    Action::Approve,
    Action::Advance(61),
    Action::Deliver,
];

/// The straight path, with anything in between.
fn stories() -> impl Strategy<Value = Vec<Action>> {
    let one = prop_oneof![
        1 => Just(Action::Request),
        2 => Just(Action::Approve),
        1 => Just(Action::Withdraw),
        1 => Just(Action::Cancel),
        1 => Just(Action::Hold),
        3 => Just(Action::Release),
        2 => Just(Action::Retry),
        6 => Just(Action::Deliver),
        2 => Just(Action::DeliverTwice),
        2 => Just(Action::Lose),
        3 => Just(Action::Return),
        2 => any::<bool>().prop_map(Action::Fault),
        3 => (2i64..70).prop_map(Action::Advance),
    ];
    proptest::collection::vec(proptest::collection::vec(one, 0..4), PATH.len() + 1).prop_map(|between| {
        let path = PATH.iter().map(|action| vec![*action]).chain([Vec::new()]);
        between.into_iter().zip(path).flat_map(|(chance, planned)| chance.into_iter().chain(planned)).collect()
    })
}

/// What should be true. The reference: as short as the rules allow.
#[derive(Debug, Default)]
struct Model {
    state: usize,
    open: bool,
    step: Option<Step>,
    due: Option<DateTime<Utc>>,
    grace: Option<DateTime<Utc>>,
    retention: Option<DateTime<Utc>>,
    approved: bool,
    consumed: bool,
    held: bool,
    running: bool,
    halted: bool,
    failures: u32,
    fault: bool,
    /// Whether a step of this offboarding was ever started: what was not touched need not be given back.
    begun: bool,
}

/// How many stories ended in each state.
static ENDS: [AtomicUsize; 5] = [const { AtomicUsize::new(0) }; 5];

const STATES: [&str; 5] = ["ACTIVE", "PENDING_DEACTIVATE", "DEACTIVATED", "ARCHIVED", "PURGED"];

impl Model {
    /// Whether the next step would be started now.
    fn starts(&self, now: DateTime<Utc>) -> bool {
        let free = !self.running && !self.halted && self.due.is_none_or(|due| due <= now);
        free && match self.step {
            None => false,
            Some(Step::Verify) => self.grace <= Some(now),
            Some(Step::Evict) => !self.held,
            Some(Step::Purge) => !self.held && self.retention <= Some(now) && (self.approved || self.consumed),
            Some(_) => true,
        }
    }

    fn start(&mut self, now: DateTime<Utc>) -> bool {
        let starts = self.starts(now);
        if starts && self.step == Some(Step::Purge) && self.approved {
            (self.approved, self.consumed) = (false, true);
        }
        self.begun |= starts && self.step != Some(Step::Restore);
        starts
    }

    /// Whether the fault that waits for the next port call is met by the current step.
    fn fails(&self) -> bool {
        self.fault && (self.step != Some(Step::Restore) || self.begun)
    }

    /// The handler of the current step answers, and is on record.
    fn finish(&mut self, now: DateTime<Utc>) {
        self.running = false;
        if self.fails() {
            self.fault = false;
            self.failures += 1;
            self.halted = self.failures >= 3;
            self.due = Some(now + TimeDelta::seconds(100));
            return;
        }
        (self.failures, self.due) = (0, None);
        let hour = TimeDelta::hours(1);
        self.step = match self.step {
            Some(Step::Deregister) => {
                (self.state, self.grace) = (1, Some(now + hour));
                Some(Step::Verify)
            }
            Some(Step::Verify) => Some(Step::Deactivate),
            Some(Step::Deactivate) => {
                self.state = 2;
                Some(Step::Export)
            }
            Some(Step::Export) => Some(Step::Evict),
            Some(Step::Evict) => {
                (self.state, self.retention) = (3, Some(now + hour));
                Some(Step::Purge)
            }
            Some(Step::Purge) => {
                (self.state, self.open) = (4, false);
                None
            }
            _ => None,
        };
    }

    /// Whether a call is allowed, and if so, what follows.
    fn call(&mut self, action: Action) -> bool {
        let destructive = matches!(self.step, Some(Step::Evict | Step::Purge));
        match action {
            Action::Request if self.open => true,
            Action::Request if self.state == 0 && self.step.is_none() => {
                *self =
                    Model { open: true, step: Some(Step::Deregister), held: self.held, fault: self.fault, ..Model::default() };
                true
            }
            Action::Approve if self.state == 3 && !self.approved && !self.consumed => {
                self.approved = true;
                true
            }
            Action::Withdraw => std::mem::take(&mut self.approved),
            Action::Cancel if self.open && self.state < 2 && !(self.step == Some(Step::Deactivate) && self.running) => {
                let begun = self.begun;
                *self = Model { step: Some(Step::Restore), held: self.held, fault: self.fault, begun, ..Model::default() };
                true
            }
            Action::Hold if !self.held => {
                self.held = true;
                self.running &= !destructive;
                true
            }
            Action::Release => std::mem::take(&mut self.held),
            Action::Retry if self.halted => {
                (self.halted, self.failures, self.due) = (false, 0, None);
                true
            }
            _ => false,
        }
    }
}

/// The system, driven by the same actions.
struct Driver {
    world: World,
    plane: String,
    hold: Option<String>,
    lost: Option<Claimed>,
    model: Model,
}

impl Driver {
    async fn new() -> Self {
        let world = World::with("[queue]\nbackoff_jitter = 0\n[approval]\nvalid = \"3650d\"\n").await;
        let plane = world.acme(6).await;
        Self { world, plane, hold: None, lost: None, model: Model::default() }
    }

    async fn ask(&self, actor: &str, operation: &str, arguments: serde_json::Value) -> Option<serde_json::Value> {
        match self.world.ask(actor, operation, arguments).await {
            lethe_worker::operations::Answer::Done(document) => Some(document),
            lethe_worker::operations::Answer::Refused(_) => None,
        }
    }

    async fn step(&mut self, action: Action) {
        let reasoned = json!({"plane": self.plane, "reason": "the story says so"});
        let now = self.world.app.ledger.now();
        let done = match action {
            Action::Request => {
                let mut request = crate::support::request(&self.plane, "1h");
                (request["retention"], request["retention_basis"]) = (json!("1h"), json!("a story"));
                self.ask("user:alice", "knowledge.offboarding.request", request).await.is_some()
            }
            Action::Approve => self.ask("user:bob", "knowledge.approval.grant", reasoned).await.is_some(),
            Action::Withdraw => self.ask("user:bob", "knowledge.approval.withdraw", reasoned).await.is_some(),
            Action::Cancel => self.ask("user:alice", "knowledge.offboarding.cancel", reasoned).await.is_some(),
            Action::Retry => self.ask("user:alice", "knowledge.offboarding.retry", reasoned).await.is_some(),
            Action::Hold if self.hold.is_none() => {
                let held = self.ask("user:lena", "knowledge.hold.place", reasoned).await;
                self.hold = held.map(|held| held["hold_id"].as_str().expect("an id").to_owned());
                self.hold.is_some()
            }
            Action::Release => match self.hold.take() {
                Some(hold) => {
                    self.ask("user:lena", "knowledge.hold.release", json!({"hold_id": hold, "reason": "settled"})).await.is_some()
                }
                None => false,
            },
            Action::Hold => false,
            Action::Deliver | Action::DeliverTwice => return self.deliver(matches!(action, Action::DeliverTwice), now).await,
            Action::Lose => return self.lose(now).await,
            Action::Return => return self.answer_late(now).await,
            Action::Fault(done) => {
                self.world.faults.fail(0, if done { Failing::Done } else { Failing::NotDone });
                self.model.fault = true;
                return;
            }
            Action::Advance(minutes) => {
                self.world.clock.advance(TimeDelta::minutes(minutes));
                self.world.app.manager.sweep().await.expect("sweep");
                self.model.running = false;
                return;
            }
        };
        assert_eq!(done, self.model.call(action), "{action:?} in {:?}: {}", self.model, self.world.status(&self.plane).await);
    }

    /// Claims one run; the first look may only park or postpone what is due.
    async fn claim(&mut self, now: DateTime<Utc>) -> Option<Claimed> {
        let starts = self.model.start(now);
        let (claimed, _) =
            self.world.app.manager.claim(1, WORKER, Some(self.plane.parse().expect("an id"))).await.expect("claim");
        let claimed = claimed.into_iter().next();
        assert_eq!(claimed.is_some(), starts, "{:?}: {}", self.model, self.world.status(&self.plane).await);
        claimed
    }

    async fn deliver(&mut self, twice: bool, now: DateTime<Utc>) {
        let Some(claimed) = self.claim(now).await else { return };
        let mut answer = self.world.app.manager.perform(&claimed).await;
        let failed = answer.result.is_err();
        if twice && !failed {
            answer = self.world.app.manager.perform(&claimed).await;
        }
        assert_eq!(failed, self.model.fails(), "{:?}: {:?}", self.model, answer.result);
        let answers = [answer];
        assert_eq!(self.world.app.manager.record(&answers, WORKER).await.expect("record"), [RecordResult::Recorded]);
        self.model.finish(now);
        if twice {
            assert_eq!(self.world.app.manager.record(&answers, WORKER).await.expect("record"), [RecordResult::Stale]);
        }
    }

    async fn lose(&mut self, now: DateTime<Utc>) {
        if let Some(claimed) = self.claim(now).await {
            self.lost = Some(claimed);
            self.model.running = true;
        }
    }

    /// What a lost worker does late must not show, unless its run is still its own.
    async fn answer_late(&mut self, now: DateTime<Utc>) {
        let Some(claimed) = self.lost.take() else { return };
        let status = self.world.status(&self.plane).await;
        let own = self.model.running && status["offboarding"]["run_status"] == "running";
        if self.model.fault {
            // The fault is for the run that the model follows.
            return;
        }
        let late = [self.world.app.manager.perform(&claimed).await];
        let failed = late[0].result.is_err();
        let recorded = self.world.app.manager.record(&late, WORKER).await.expect("record");
        if own && recorded == [RecordResult::Recorded] {
            assert!(!failed, "{:?}", late[0].result);
            self.model.finish(now);
        } else {
            assert_eq!(recorded, [RecordResult::Stale]);
        }
    }

    async fn check(&self) {
        let status = self.world.status(&self.plane).await;
        assert_eq!(status["state"], STATES[self.model.state], "{:?}: {status}", self.model);
        let halted = status["offboarding"]["run_status"] == "halted";
        assert_eq!(halted, self.model.halted, "{:?}: {status}", self.model);
        invariants::check(&self.world).await;
    }
}

async fn tell(story: Vec<Action>) {
    let mut driver = Driver::new().await;
    let file = driver.world.dir.path().join("knowledge.db");
    let neighbour = knowledge::digest(&file, "p2").await;
    let whole = knowledge::digest(&file, "p1").await;
    for action in story {
        driver.step(action).await;
        driver.check().await;
    }
    assert_eq!(knowledge::digest(&file, "p2").await, neighbour, "the neighbour changed");
    let left = knowledge::digest(&file, "p1").await;
    match driver.model.state {
        0..=1 => assert_eq!(left, whole, "nothing is lost before the archive"),
        3..=4 => assert_eq!(left.0, 0, "records are left"),
        _ => {}
    }
    ENDS[driver.model.state].fetch_add(1, Ordering::Relaxed);
    if driver.model.state == 0 && driver.model.step.is_none() {
        let mut db = knowledge::open(&file).await;
        knowledge::insert(&mut db, "p1", 99).await.expect("an active plane takes writes");
    }
}

#[test]
fn whatever_happens_in_whatever_order_the_plane_is_where_the_model_says() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let kept = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/model.regressions");
    // On a server a story takes many times as long: fewer are told, and how far they go is asked of those on SQLite.
    let cases = if crate::ON_POSTGRES { 6 } else { 24 };
    let config = Config {
        cases: std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(cases),
        max_shrink_iters: 200,
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(kept))),
        ..Config::default()
    };
    let told = TestRunner::new(config).run(&stories(), |story| {
        let told = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| runtime.block_on(tell(story))));
        told.map_err(|panic| {
            let text =
                panic.downcast_ref::<String>().cloned().or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            TestCaseError::fail(text.unwrap_or_default())
        })
    });
    if let Err(error) = told {
        panic!("{error}");
    }
    let ends: Vec<_> =
        STATES.iter().zip(&ENDS).map(|(state, count)| format!("{state} {}", count.load(Ordering::Relaxed))).collect();
    println!("stories ended in {}", ends.join(", "));
    assert!(
        crate::ON_POSTGRES || ENDS[0].load(Ordering::Relaxed) > 0 && ENDS[4].load(Ordering::Relaxed) > 0,
        "the stories do not go far enough: {ends:?}"
    );
}
