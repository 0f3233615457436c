//! A world of its own for each test: a fresh ledger, a clock that stands still, real stores and archives, and faults on demand.

#![allow(dead_code, reason = "each promise uses a part of it")]

pub mod binary;
pub mod chroma;
pub mod cut;
pub mod dependents;
pub mod disk;
pub mod faults;
pub mod hook;
pub mod http;
pub mod invariants;
pub mod keys;
pub mod knowledge;
pub mod ledger;
pub mod log;
pub mod masters;
pub mod memory;
pub mod permit;
pub mod postgres;
pub mod power;
pub mod proxy;
pub mod random;
pub mod reference;
pub mod s3;
pub mod server;

use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use lethe_ledger::{Fault, Ledger, OpenOptions, Tx};
use lethe_stages::{Refusal, StageRegistry};
use lethe_worker::{
    clock::{ManualClock, SeededEntropy},
    config::Config,
    consequences::Consequences,
    manager::{Claimed, Finished, RecordResult},
    operations::{self, Answer, App, Call},
    world::RealWorld,
};
use serde_json::{Value as Json, json};
use tempfile::TempDir;

use self::{faults::FaultyWorld, ledger::TestLedger, s3::Bucket};

/// The worker under whose name [`World::drain`] works.
pub const WORKER: &str = "worker-test";

/// A ledger, a clock, and what planes are made of.
pub struct World {
    pub dir: TempDir,
    pub clock: ManualClock,
    pub app: Arc<App>,
    pub faults: Arc<FaultyWorld>,
    /// Where its planes are archived; without one, in a folder.
    pub bucket: Option<Bucket>,
    /// Last, so that it goes after everything that is connected to it.
    pub ledger: TestLedger,
}

/// What the next process over a world draws its ids from: never what one before it did.
static REOPENED: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(8);

/// The instant at which every world begins.
pub fn beginning() -> DateTime<Utc> {
    "2026-03-01T09:00:00Z".parse().expect("an instant")
}

impl World {
    /// A world with the default configuration.
    pub async fn new() -> Self {
        Self::with("").await
    }

    /// A world whose configuration overrides the defaults.
    pub async fn with(overrides: &str) -> Self {
        Self::assembled(overrides, StageRegistry::standard()).await
    }

    /// A world whose planes are archived in a bucket.
    pub async fn on(bucket: Bucket, overrides: &str) -> Self {
        let world = Self::with(&format!("{overrides}{}", bucket.config())).await;
        Self { bucket: Some(bucket), ..world }
    }

    /// The bucket of its planes' archive.
    pub fn bucket(&self) -> &Bucket {
        self.bucket.as_ref().expect("a world with a bucket")
    }

    /// Sets the clock to the machine's, which real servers go by.
    pub fn as_late_as_it_is(&self) {
        self.clock.advance(Utc::now() - self.app.ledger.now());
    }

    /// A world with stage handlers of the test's own.
    pub async fn assembled(overrides: &str, stages: StageRegistry) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let clock = ManualClock::at(beginning());
        let file = dir.path().join("lethe.toml");
        std::fs::write(&file, overrides).expect("write the configuration");
        let config = Config::load(Some(&file)).expect("a configuration");
        let place = TestLedger::new().await;
        let entropy = Arc::new(SeededEntropy::new(7));
        let options = OpenOptions { url: place.owner_url(&dir), clock: Arc::new(clock.clone()), entropy: entropy.clone() };
        // Here approvals need no signature, unless the test says how well an approver must be known.
        let insecure_demo = !overrides.contains("assurance_min");
        let mut ledger = Ledger::migrate(options, insecure_demo).await.expect("a ledger");
        if crate::ON_POSTGRES {
            // The program has fewer rights than who owns the tables.
            ledger.close().await;
            let options = OpenOptions { url: place.url(&dir), clock: Arc::new(clock.clone()), entropy };
            ledger = Ledger::open(options).await.expect("the ledger");
        }
        let faults = Arc::new(FaultyWorld::over(RealWorld::new(&config)));
        let app =
            App::new(ledger, config, stages, faults.clone(), operations::all(), Consequences::standard()).expect("assembled");
        let app = app.restoring_into(dir.path().join("restored"));
        Self { dir, clock, app: Arc::new(app), faults, bucket: None, ledger: place }
    }

    /// Another process over the same ledger and world, with another configuration.
    pub async fn reopened(self, overrides: &str) -> Self {
        let file = self.dir.path().join("lethe.toml");
        std::fs::write(&file, overrides).expect("write the configuration");
        let config = Config::load(Some(&file)).expect("a configuration");
        self.app.ledger.close().await;
        let options = OpenOptions {
            url: self.ledger.url(&self.dir),
            clock: Arc::new(self.clock.clone()),
            entropy: Arc::new(SeededEntropy::new(REOPENED.fetch_add(1, std::sync::atomic::Ordering::SeqCst))),
        };
        let ledger = Ledger::open(options).await.expect("the ledger again");
        let stages = StageRegistry::standard();
        let faults = Arc::new(FaultyWorld::over(RealWorld::new(&config)));
        let app = App::new(ledger, config, stages, faults.clone(), operations::all(), Consequences::standard());
        let app = app.expect("assembled").restoring_into(self.dir.path().join("restored"));
        Self { app: Arc::new(app), faults, ..self }
    }

    /// A call, whatever it is answered.
    pub async fn ask(&self, actor: &str, operation: &str, arguments: Json) -> Answer {
        self.dispatch(&call(actor, operation, arguments)).await
    }

    /// A call with everything that a call has, whatever it is answered.
    pub async fn dispatch(&self, call: &Call) -> Answer {
        self.app.dispatch(call).await.expect("the ledger works")
    }

    /// Claims the one run of the plane that is due, as another worker would: it is neither performed nor recorded.
    pub async fn claim(&self, plane: &str) -> Claimed {
        let (mut claimed, _) = self.app.manager.claim(1, WORKER, Some(plane.parse().expect("an id"))).await.expect("claim");
        claimed.pop().expect("a run that may start")
    }

    /// Performs a claimed run and records what became of it.
    pub async fn finish(&self, claimed: &Claimed) -> RecordResult {
        let finished = self.app.manager.perform(claimed).await;
        self.record(&finished).await
    }

    /// Records what became of a run.
    pub async fn record(&self, finished: &Finished) -> RecordResult {
        self.app.manager.record(std::slice::from_ref(finished), WORKER).await.expect("record")[0]
    }

    /// Bob approves the plan of an archived plane.
    pub async fn approve(&self, plane: &str) -> Json {
        self.call("user:bob", "knowledge.approval.grant", json!({"plane": plane, "reason": "checked"})).await
    }

    /// Why the plane's run does not go on, by code.
    pub async fn blocked_by(&self, plane: &str) -> Vec<String> {
        let status = self.status(plane).await;
        let blocked = status["offboarding"]["blocked_by"].as_array().cloned().unwrap_or_default();
        blocked.iter().map(|refusal| refusal["code"].as_str().expect("a code").to_owned()).collect()
    }

    /// Where the plane's run stands: step and status.
    pub async fn run(&self, plane: &str) -> (String, String) {
        let offboarding = &self.status(plane).await["offboarding"];
        let text = |field: &str| offboarding[field].as_str().expect(field).to_owned();
        (text("step"), text("run_status"))
    }

    /// A call that must be done.
    pub async fn call(&self, actor: &str, operation: &str, arguments: Json) -> Json {
        match self.ask(actor, operation, arguments).await {
            Answer::Done(document) => document,
            Answer::Refused(refusal) => panic!("{operation} was refused: {refusal}"),
        }
    }

    /// A call that must be refused; answers the refusal.
    pub async fn refused(&self, actor: &str, operation: &str, arguments: Json) -> Refusal {
        match self.ask(actor, operation, arguments).await {
            Answer::Refused(refusal) => refusal,
            Answer::Done(document) => panic!("{operation} was not refused: {document}"),
        }
    }

    /// The code with which a call is refused.
    pub async fn code(&self, actor: &str, operation: &str, arguments: Json) -> &'static str {
        self.refused(actor, operation, arguments).await.code.as_str()
    }

    /// Registers tenant `acme` with plane `handbook` of `rows` records, beside a neighbour `globex/handbook` in the same file.
    pub async fn acme(&self, rows: usize) -> String {
        let file = self.dir.path().join("knowledge.db");
        knowledge::create(&file, &[("p1", rows), ("p2", 20)]).await;
        for tenant in ["acme", "globex"] {
            self.call("user:root", "account.tenant.register", json!({"name": tenant})).await;
        }
        let url = format!("sqlite:{}", file.display());
        self.call("user:root", "integrations.store.add", json!({"name": "kb", "url": url, "tenants": ["acme", "globex"]})).await;
        self.register("globex", "handbook", "p2").await;
        self.register("acme", "handbook", "p1").await
    }

    /// Registers a plane over value `value` of the store `kb`.
    pub async fn register(&self, tenant: &str, name: &str, value: &str) -> String {
        let plane = self.call("user:root", "knowledge.plane.register", self.binding(tenant, name, value)).await;
        plane["plane_id"].as_str().expect("an id").to_owned()
    }

    /// The arguments that register a plane over value `value` of the store `kb`.
    pub fn binding(&self, tenant: &str, name: &str, value: &str) -> Json {
        let store = format!("kb?table=chunks&plane_column=plane&plane={value}&key=id&text=body&embedding=embedding");
        let folder = || format!("file://{}", self.dir.path().join("archive").display());
        let archive = self.bucket.as_ref().map_or_else(folder, Bucket::url);
        json!({"tenant": tenant, "name": name, "stores": [store], "archive": archive})
    }

    /// Requests an offboarding by alice under `contract_end` with the given grace and no retention.
    pub async fn request(&self, plane: &str, grace: &str) -> Json {
        self.call("user:alice", "knowledge.offboarding.request", request(plane, grace)).await
    }

    /// Works until nothing is due, as the runner does, but in this task and in order. Answers how many runs it performed.
    pub async fn drain(&self) -> usize {
        let mut performed = 0;
        loop {
            let (claimed, seen) = self.app.manager.claim(4, WORKER, None).await.expect("claim");
            if seen == 0 {
                return performed;
            }
            let mut finished = Vec::new();
            for run in &claimed {
                finished.push(self.app.manager.perform(run).await);
                performed += 1;
            }
            self.app.manager.record(&finished, WORKER).await.expect("record");
            assert!(performed < 1000, "the queue does not come to rest");
        }
    }

    /// Moves the clock on, sweeps and drains.
    pub async fn advance(&self, by: TimeDelta) {
        self.clock.advance(by);
        self.app.manager.sweep().await.expect("sweep");
        self.drain().await;
    }

    /// The plane's status document.
    pub async fn status(&self, plane: &str) -> Json {
        self.call("user:alice", "knowledge.offboarding.show", json!({"plane": plane})).await
    }

    /// The plane's state.
    pub async fn state(&self, plane: &str) -> String {
        self.status(plane).await["state"].as_str().expect("a state").to_owned()
    }

    /// Brings a plane to ARCHIVED, where it waits for an approval.
    pub async fn archived(&self, plane: &str) {
        self.request(plane, "1h").await;
        self.drain().await;
        self.advance(TimeDelta::hours(1)).await;
        assert_eq!(self.state(plane).await, "ARCHIVED", "{}", self.status(plane).await);
    }

    /// Requests an offboarding and works until `step` is the next to be claimed and due, approved where it is the purge.
    pub async fn reach(&self, plane: &str, step: &str) {
        self.request(plane, "1h").await;
        self.reach_next(plane, step).await;
    }

    /// Goes on with the plane's offboarding until `step` is the next to be claimed and due.
    pub async fn reach_next(&self, plane: &str, step: &str) {
        for _ in 0..10 {
            let offboarding = &self.status(plane).await["offboarding"];
            let due: DateTime<Utc> = offboarding["due_at"].as_str().expect("queued").parse().expect("an instant");
            self.clock.advance((due - self.app.ledger.now()).max(TimeDelta::zero()));
            if offboarding["step"] == "purge" {
                self.approve(plane).await;
            }
            if offboarding["step"] == step {
                return;
            }
            assert_eq!(self.finish(&self.claim(plane).await).await, RecordResult::Recorded);
        }
        panic!("{step} is not reached: {}", self.status(plane).await);
    }

    /// Writes one more record into the plane of this value, as its application would.
    pub async fn write(&self, value: &str) -> Result<(), String> {
        let mut db = knowledge::open(&self.dir.path().join("knowledge.db")).await;
        knowledge::insert(&mut db, value, 900).await.map_err(|error| error.to_string())
    }

    /// The plane's trail, as `TYPE step code` lines.
    pub async fn trail(&self, plane: &str) -> Vec<String> {
        let entries = self.call("user:auditor", "governance.audit.list", json!({"plane": plane})).await;
        entries["entries"].as_array().expect("entries").iter().map(line).collect()
    }

    /// Reads the ledger.
    pub async fn read<T>(&self, work: impl AsyncFnOnce(&mut Tx) -> Result<T, Fault>) -> T {
        self.app.ledger.read(work).await.expect("read")
    }

    /// Whether a marker of the plane's text occurs in the raw bytes of any file of this world.
    pub fn occurs(&self, marker: &str) -> u64 {
        knowledge::occurrences(self.dir.path(), marker.as_bytes())
    }
}

/// The arguments of a request under `contract_end`.
pub fn request(plane: &str, grace: &str) -> Json {
    json!({"plane": plane, "ground": "contract_end", "reason": "the contract ended", "grace": grace, "retention": "0s"})
}

/// One entry of a trail as a line: type, states, step and code, as far as it has them.
pub fn line(entry: &Json) -> String {
    let mut text = entry["event_type"].as_str().unwrap_or_default().to_owned();
    if let (Some(from), Some(to)) = (entry["from_state"].as_str(), entry["to_state"].as_str()) {
        text += &format!(" {from} → {to}");
    }
    for field in [&entry["step"], &entry["gate"]["code"], &entry["evidence"]["code"]] {
        if let Some(word) = field.as_str()
            && !text.ends_with(word)
        {
            text += &format!(" {word}");
        }
    }
    text
}

/// A call by an operator.
pub fn call(actor: &str, operation: &str, arguments: Json) -> Call {
    let actor = actor.parse().expect("an actor");
    Call { operation: operation.into(), arguments, actor, tenant: None, idempotency_key: None }
}

/// Compares with a golden file; `LETHE_UPDATE_GOLDEN=1` rewrites it.
pub fn golden(name: &str, text: &str) {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden").join(name);
    if std::env::var_os("LETHE_UPDATE_GOLDEN").is_some() {
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("create the folder");
        std::fs::write(&path, text).expect("write the golden file");
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(expected == text, "{name} differs (LETHE_UPDATE_GOLDEN=1 rewrites it):\n--- expected\n{expected}\n--- found\n{text}");
}
