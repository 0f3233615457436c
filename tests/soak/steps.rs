//! Durable steps a second on SQLite, against the least SQL that could be written for them, on the same disk in the same run.
//!
//! The rule: everything is as in production except the handlers, which do nothing: gate, epochs, leases, hash chains, synchronous=FULL.
//! Lethe and the floor take turns, so that whatever else the machine does hits both.

use std::{
    path::Path,
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
use uuid::Uuid;

use crate::{Options, floor::Floor, median::rounded};

/// Deregister, verify, deactivate, export, evict; the purge then waits for its retention.
pub const STEPS: usize = 5;
const TURNS: usize = 5;
const WORKER: &str = "worker-soak";
/// What Lethe must reach of the floor.
const RATIO_MIN: f64 = 0.6;

pub async fn bench(name: &str, batch: usize, options: &Options) -> Json {
    let each = options.sized(2_000, 20).div_ceil(TURNS);
    let dir = tempfile::tempdir().expect("a folder");
    let lethe = Lethe::new(dir.path()).await;
    let mut floor = Floor::new(&dir.path().join("floor.db")).await;
    let (mut lethe_time, mut floor_time) = (Duration::ZERO, Duration::ZERO);
    for turn in 0..TURNS {
        lethe.request(turn, each).await;
        floor.request(turn, each).await;
        let began = Instant::now();
        let done = lethe.work(batch).await;
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
        "bench": name, "share": options.share, "steps": steps, "batch": batch, "value": rounded(value, 0),
        "floor": rounded(floor, 0), "ratio": rounded(ratio, 3), "ratio_min": RATIO_MIN,
        "met": !options.is_full() || ratio >= RATIO_MIN,
    })
}

struct Lethe {
    ledger: Ledger,
    manager: KnowledgeLifecycleManager,
    tenant: Uuid,
}

impl Lethe {
    async fn new(dir: &Path) -> Self {
        let url = format!("sqlite:{}", dir.join("lethe.db").display());
        let options = OpenOptions { url, clock: Arc::new(SystemClock), entropy: Arc::new(SystemEntropy) };
        let ledger = Ledger::migrate(options, false).await.expect("a ledger");
        let tenant = ledger.transact(async |tx: &mut Tx| tx.insert_tenant("acme").await).await.expect("a tenant").into_inner().id;
        let config = Arc::new(Config::load(None).expect("a configuration"));
        let handlers = Stage::ALL.iter().map(|stage| Arc::new(NoWork(*stage)) as Arc<dyn StageHandler>).collect();
        let stages = StageRegistry::new(handlers).expect("five stages");
        let manager = KnowledgeLifecycleManager::new(ledger.clone(), config, stages, Arc::new(RealWorld::default()));
        Self { ledger, manager, tenant }
    }

    /// So many planes, each with an offboarding whose first step is due.
    async fn request(&self, turn: usize, planes: usize) {
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
                let offboarding = tx.insert_offboarding(&terms(tx, plane.id, self.tenant)).await?;
                let at = tx.at();
                let (offboarding_id, plane_id, tenant_id) = (offboarding.id, plane.id, self.tenant);
                tx.enqueue(NewRun { offboarding_id, plane_id, tenant_id, step: Step::Deregister, due_at: at }).await?;
            }
            Ok::<_, lethe_ledger::Fault>(())
        });
        requested.await.expect("request").into_inner();
    }

    /// Works until nothing is due, as the runner does with so many slots. Answers how many steps were recorded.
    async fn work(&self, batch: usize) -> usize {
        let mut steps = 0;
        let (mut claimed, _) = self.manager.claim(batch, WORKER, None).await.expect("claim");
        while !claimed.is_empty() {
            let mut finished = Vec::with_capacity(claimed.len());
            for run in &claimed {
                finished.push(self.manager.perform(run).await);
            }
            let turn = self.manager.turn(&finished, batch, WORKER, None).await.expect("record and claim");
            steps += turn.recorded.iter().filter(|result| **result == RecordResult::Recorded).count();
            claimed = turn.claimed;
        }
        steps
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
        Ok(StageOutcome::Done(Done { evidence: json!({"stores": []}), manifest }))
    }
}
