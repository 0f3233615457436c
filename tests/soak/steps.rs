//! Durable steps a second, against the least SQL that could be written for them, on the same disk or server in the same run.
//!
//! The rule: everything is as in production except the handlers, which do nothing: gate, epochs, leases, hash chains, durable commits.
//! Lethe and the floor take turns, so that whatever else the machine does hits both. On PostgreSQL both use the same server and the same
//! number of connections, each in a database of its own.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use chrono::TimeDelta;
use lethe_ledger::{Actor, Chain, Entry, EventType, Ledger, NewOffboarding, NewPlane, NewRun, OpenOptions, Tx};
use lethe_stages::{
    EvictMode, Facts, GraceAccess, Ground, Refusal, Stage, StageContext, StageError, StageHandler, StageOutcome, StageRegistry,
    Step,
    contract::Done,
    manifest::{Contents, MANIFEST_SCHEMA, Manifest},
};
use lethe_worker::{
    clock::{SystemClock, SystemEntropy},
    config::Config,
    manager::{KnowledgeLifecycleManager, RecordResult},
    world::RealWorld,
};
use serde_json::{Value as Json, json};
use tempfile::TempDir;
use uuid::Uuid;

use crate::{Options, floor::Floor, floor_on_postgres::PostgresFloor, median::rounded, support::ledger::TestDatabase};

/// Deregister, verify, deactivate, export, evict; the purge then waits for its retention.
pub const STEPS: usize = 5;
const TURNS: usize = 5;
/// What Lethe must reach of the floor.
const RATIO_MIN: f64 = 0.6;

/// What a bench of steps is to do.
#[derive(Clone, Copy)]
pub struct Plan {
    pub name: &'static str,
    pub on_postgres: bool,
    /// Offboardings at full share.
    pub offboardings: usize,
    /// Steps in one transaction.
    pub batch: usize,
    /// Transactions at a time.
    pub workers: usize,
}

const fn plan(name: &'static str, on_postgres: bool, offboardings: usize, batch: usize, workers: usize) -> Plan {
    Plan { name, on_postgres, offboardings, batch, workers }
}

pub const PLANS: [Plan; 6] = [
    plan("sqlite_steps_unbatched", false, 2_000, 1, 1),
    plan("sqlite_steps_batched", false, 2_000, 200, 1),
    plan("steps_unbatched", true, 2_000, 1, 8),
    plan("steps_batched", true, 2_000, 200, 4),
    plan("steps_unbatched_20000", true, 20_000, 1, 8),
    plan("steps_batched_20000", true, 20_000, 200, 4),
];

pub async fn bench(plan: Plan, options: &Options) -> Json {
    let Plan { name, batch, workers, .. } = plan;
    let each = options.sized(plan.offboardings, 20).div_ceil(TURNS);
    let (site, lethe) = Lethe::new(plan.on_postgres).await;
    let mut floor = match &site.floor {
        Some(floor) => AnyFloor::Postgres(PostgresFloor::new(floor, workers).await),
        None => AnyFloor::Sqlite(Floor::new(&site.dir.path().join("floor.db")).await),
    };
    let (mut lethe_time, mut floor_time) = (Duration::ZERO, Duration::ZERO);
    for turn in 0..TURNS {
        lethe.request(turn, each).await;
        floor.request(turn, each).await;
        let began = Instant::now();
        let done = lethe.work(batch, workers).await;
        lethe_time += began.elapsed();
        assert_eq!(done, each * STEPS, "every step of every offboarding was recorded");
        let began = Instant::now();
        floor.work(batch).await;
        floor_time += began.elapsed();
    }
    lethe.check(each * TURNS).await;
    let steps = (TURNS * each * STEPS) as f64;
    let (value, floor) = (steps / lethe_time.as_secs_f64(), steps / floor_time.as_secs_f64());
    let ratio = value / floor;
    json!({
        "bench": name, "share": options.share, "steps": steps, "batch": batch, "connections": workers, "value": rounded(value, 0),
        "floor": rounded(floor, 0), "ratio": rounded(ratio, 3), "ratio_min": RATIO_MIN,
        "met": !options.is_full() || ratio >= RATIO_MIN,
    })
}

enum AnyFloor {
    Sqlite(Floor),
    Postgres(PostgresFloor),
}

impl AnyFloor {
    async fn request(&mut self, turn: usize, planes: usize) {
        match self {
            AnyFloor::Sqlite(floor) => floor.request(turn, planes).await,
            AnyFloor::Postgres(floor) => floor.request(turn, planes).await,
        }
    }

    async fn work(&mut self, batch: usize) {
        match self {
            AnyFloor::Sqlite(floor) => floor.work(batch).await,
            AnyFloor::Postgres(floor) => floor.work(batch).await,
        }
    }
}

/// Where a bench's ledger is, and the floor beside it. It goes when the bench has ended.
pub struct Site {
    dir: TempDir,
    pub lethe: Option<TestDatabase>,
    pub floor: Option<TestDatabase>,
}

pub struct Lethe {
    pub ledger: Ledger,
    pub manager: Arc<KnowledgeLifecycleManager>,
    tenant: Uuid,
}

impl Lethe {
    pub async fn new(on_postgres: bool) -> (Site, Self) {
        let dir = tempfile::tempdir().expect("a folder");
        let (clock, entropy) = (Arc::new(SystemClock), Arc::new(SystemEntropy));
        let (lethe, floor, ledger) = if on_postgres {
            let (lethe, floor) = (TestDatabase::migrated().await, TestDatabase::empty().await);
            let named = OpenOptions { url: lethe.url(), clock: clock.clone(), entropy: entropy.clone() };
            Ledger::migrate(named, false).await.expect("a ledger").close().await;
            let ledger = open(lethe.app_url()).await;
            (Some(lethe), Some(floor), ledger)
        } else {
            let url = format!("sqlite:{}", dir.path().join("lethe.db").display());
            (None, None, Ledger::migrate(OpenOptions { url, clock, entropy }, false).await.expect("a ledger"))
        };
        let tenant = ledger.transact(async |tx: &mut Tx| tx.insert_tenant("acme").await).await.expect("a tenant").into_inner().id;
        let config = Arc::new(Config::load(None).expect("a configuration"));
        let manager =
            KnowledgeLifecycleManager::new(ledger.clone(), config, no_work(), Arc::new(RealWorld::default())).expect("policies");
        (Site { dir, lethe, floor }, Self { ledger, manager: Arc::new(manager), tenant })
    }

    /// So many planes, each with an offboarding whose first step is due.
    pub async fn request(&self, turn: usize, planes: usize) {
        let requested = self.ledger.transact(async |tx: &mut Tx| {
            for number in 0..planes {
                let plane = NewPlane {
                    tenant_id: self.tenant,
                    name: format!("plane-{turn}-{number}"),
                    archive_url: "file:///archive".into(),
                    archive_id: Uuid::nil(),
                    lineage: None,
                };
                let plane = tx.insert_plane(&plane, &[]).await?;
                let (chain, by) = (Chain::Plane(plane.id), Actor::system("soak"));
                let mut entry = Entry::new(chain, Some(self.tenant), EventType::Registered, &by, "knowledge.plane.register");
                entry.to_state = Some(plane.state);
                tx.append(entry).await?;
                let offboarding = tx.insert_offboarding(&terms(tx, plane.id, self.tenant), None).await?;
                let at = tx.at();
                let (offboarding_id, plane_id, tenant_id) = (offboarding.id, plane.id, self.tenant);
                tx.enqueue(NewRun { offboarding_id, plane_id, tenant_id, step: Step::Deregister, due_at: at }).await?;
            }
            Ok::<_, lethe_ledger::Fault>(())
        });
        requested.await.expect("request").into_inner();
    }

    /// Works until nothing is due, as so many processes do with so many slots each. Answers how many steps were recorded.
    pub async fn work(&self, batch: usize, workers: usize) -> usize {
        let workers = (0..workers).map(|number| tokio::spawn(work(self.manager.clone(), batch, format!("worker-soak-{number}"))));
        futures::future::join_all(workers).await.into_iter().map(|steps| steps.expect("a worker")).sum()
    }

    /// Nothing was skipped on the way.
    async fn check(&self, planes: usize) {
        let read = self.ledger.read(async |tx: &mut Tx| {
            let archived = tx.planes(None, Some(lethe_stages::LifecycleState::Archived)).await?.len();
            Ok::<_, lethe_ledger::Fault>((archived, tx.verify_trail(None).await?))
        });
        let (archived, verified) = read.await.expect("read");
        assert_eq!(archived, planes, "every plane is ARCHIVED");
        let verified = verified.expect("the trail verifies");
        // Its registration, two entries a step, and three that move a plane.
        assert_eq!(verified.entries as usize, planes * (1 + 2 * STEPS + 3));
    }
}

async fn work(manager: Arc<KnowledgeLifecycleManager>, batch: usize, worker: String) -> usize {
    let mut steps = 0;
    let (mut claimed, _) = manager.claim(batch, &worker, None).await.expect("claim");
    while !claimed.is_empty() {
        let mut finished = Vec::with_capacity(claimed.len());
        for run in &claimed {
            finished.push(manager.perform(run).await);
        }
        let turn = manager.turn(&finished, batch, &worker, None).await.expect("record and claim");
        steps += turn.recorded.iter().filter(|result| **result == RecordResult::Recorded).count();
        claimed = turn.claimed;
    }
    steps
}

/// A ledger that has been migrated, as each process opens it.
pub async fn open(url: String) -> Ledger {
    let options = OpenOptions { url, clock: Arc::new(SystemClock), entropy: Arc::new(SystemEntropy) };
    Ledger::open(options).await.expect("the ledger")
}

/// Handlers that find nothing to do.
pub fn no_work() -> StageRegistry {
    let handlers = Stage::ALL.iter().map(|stage| Arc::new(NoWork(*stage)) as Arc<dyn StageHandler>).collect();
    StageRegistry::new(handlers).expect("five stages")
}

fn terms(tx: &Tx, plane_id: Uuid, tenant_id: Uuid) -> NewOffboarding {
    NewOffboarding {
        plane_id,
        tenant_id,
        ground: Ground::ContractEnd,
        reason: "the contract ended".into(),
        requested_by: "user:alice".into(),
        terms_digest: "sha256:00".into(),
        grace_access: GraceAccess::ReadOnly,
        evict: EvictMode::AfterArchive,
        grace: TimeDelta::zero(),
        archive_delay: TimeDelta::zero(),
        retention: TimeDelta::days(365),
        retention_basis: Some("records policy".into()),
        usage_unknown_accepted: true,
        received_at: tx.at(),
        legal_due_at: None,
    }
}

/// A handler that finds nothing to do.
struct NoWork(Stage);

#[async_trait]
impl StageHandler for NoWork {
    fn stage(&self) -> Stage {
        self.0
    }

    fn validate(&self, _step: Step, _facts: &Facts) -> Result<(), Refusal> {
        Ok(())
    }

    async fn run(&self, context: &StageContext) -> Result<StageOutcome, StageError> {
        let manifest = (context.run.step == Step::Export).then(|| Manifest {
            schema_version: MANIFEST_SCHEMA,
            plane_id: context.facts.plane_id,
            offboarding_id: context.facts.offboarding_id,
            round: 0,
            contents: Contents::Records,
            encryption: "none".into(),
            stores: Vec::new(),
        });
        Ok(StageOutcome::Done(Done { evidence: json!({"stores": []}), manifest, known: Vec::new() }))
    }
}
