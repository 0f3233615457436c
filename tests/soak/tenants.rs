//! Ten thousand tenants with a hundred planes each: what people ask every day, and the sweep, answer at once.
//!
//! The rule at every share: a list costs what it shows and a sweep what is due, so no table is walked; everything that waits is found, once.
//! Times count at the full size.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::TimeDelta;
use lethe_ledger::{Fault, Ledger, OpenOptions, Tx};
use lethe_stages::{
    EvictMode, Ground, StageRegistry,
    destruction::{DESTRUCTION_PLAN_SCHEMA, DestructionPlan, StoreDestruction},
};
use lethe_worker::{
    clock::{ManualClock, SeededEntropy},
    config::Config,
    consequences::Consequences,
    manager::SweepReport,
    operations::{self, Answer, App, Call},
    world::RealWorld,
};
use serde_json::{Value as Json, json};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use uuid::Uuid;

use crate::{
    Options,
    median::{median, rounded},
    support::{beginning, ledger::TestDatabase},
};

const TENANTS: usize = 10_000;
const PLANES_EACH: usize = 100;
const MS_MAX: f64 = 200.0;
const ROUNDS: usize = 9;
const SWEEPS: usize = 3;

/// The name of a time, the operation, its arguments.
type List = (&'static str, &'static str, fn() -> Json);

/// What is asked, under which name its time is printed; of these, what this version has.
const LISTS: [List; 3] = [
    ("approval_list_mine", "knowledge.approval.list", || json!({"mine": true})),
    ("approval_list", "knowledge.approval.list", || json!({})),
    ("due", "knowledge.due.list", || json!({})),
];

pub async fn soak(options: &Options) -> Json {
    let tenants = options.sized(TENANTS, 100).next_multiple_of(40);
    let database = TestDatabase::migrated().await;
    let open = |url| OpenOptions { url, clock: Arc::new(ManualClock::at(beginning())), entropy: Arc::new(SeededEntropy::new(7)) };
    Ledger::migrate(open(database.url()), false).await.expect("a ledger").close().await;
    let mut db = database.connect().await;
    fill(&mut db, tenants).await;
    let ledger = Ledger::open(open(database.app_url())).await.expect("the ledger");
    let app = assembled(ledger.clone());

    let mut times = serde_json::Map::new();
    for (name, operation, arguments) in LISTS {
        if app.operations().all(|known| known != operation) {
            continue;
        }
        let mut taken = Vec::new();
        // The first round warms up.
        for round in 0..=ROUNDS {
            let began = Instant::now();
            ask(&app, operation, arguments()).await;
            if round > 0 {
                taken.push(began.elapsed());
            }
        }
        times.insert(format!("{name}_ms"), json!(ms(median(taken))));
    }
    let (found, pages, slowest) = page_through(&app).await;
    // Those that the caller requested or approved are nothing to this caller, and what bob approved waits for nobody.
    let wanted = "SELECT count(*) FROM made WHERE kind IN ('parked', 'expired', 'settled') OR kind = 'retained' AND t % 7 <> 0";
    let wanted: i64 = sqlx::query_scalar(wanted).fetch_one(&mut db).await.expect("count");
    assert_eq!(found, wanted as usize, "each plan that waits for a decision is shown once");
    times.insert("slowest_page_ms".into(), json!(ms(slowest)));

    let plans = plans(&ledger, options.share < 1.0).await;
    // Nobody is told of anything here, so there are no notices; of approvals, most stand in this ledger: where the server may choose, it reads them all rather than an index of nearly all.
    let tables = ["planes", "offboardings", "stage_runs", "deadlines", "notices", "approvals"].into_iter();
    let tables: Vec<_> = tables.filter(|table| options.share < 1.0 || !["approvals", "notices"].contains(table)).collect();
    for (name, plan) in &plans {
        let walked = plan.iter().find(|line| tables.iter().any(|table| line.contains(&format!("Seq Scan on {table}"))));
        assert_eq!(walked, None, "{name} walks a table: {plan:#?}");
    }

    let (sweep, idle) = sweeps(&app, &mut db, tenants).await;
    times.insert("sweep_ms".into(), json!(ms(sweep)));
    times.insert("idle_sweep_ms".into(), json!(ms(idle)));
    let slow = times.values().any(|time| time.as_f64().expect("a time") > MS_MAX);
    db.close().await.expect("close");
    drop(app);
    ledger.close().await;
    let mut line = json!({
        "soak": "tenants", "share": options.share, "tenants": tenants, "planes": tenants * PLANES_EACH, "waiting_for_me": found,
        "pages": pages, "due": due(tenants) * 4, "ms_max": MS_MAX, "met": !options.is_full() || !slow,
    });
    line.as_object_mut().expect("an object").append(&mut times);
    if options.share >= 1.0 {
        line["query_plans"] = plans.into_iter().map(|(name, plan)| (name.to_owned(), json!(plan))).collect();
    }
    line
}

fn ms(time: Duration) -> f64 {
    rounded(time.as_secs_f64() * 1000.0, 1)
}

fn assembled(ledger: Ledger) -> App {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), "[approval]\nassurance_min = \"asserted\"\n").expect("write the configuration");
    let config = Config::load(Some(file.path())).expect("a configuration");
    let world = Arc::new(RealWorld::new(&config));
    App::new(ledger, config, StageRegistry::standard(), world, operations::all(), Consequences::standard()).expect("assembled")
}

async fn ask(app: &App, operation: &str, arguments: Json) -> Json {
    let actor = "user:me".parse().expect("an actor");
    let call = Call { operation: operation.into(), arguments, actor, tenant: None, idempotency_key: None };
    match app.dispatch(&call).await.expect("the ledger works") {
        Answer::Done(document) => document,
        Answer::Refused(refusal) => panic!("{operation} was refused: {refusal}"),
    }
}

/// Everything that waits for the caller, page by page: how many plans, how many pages, and how long the slowest took.
async fn page_through(app: &App) -> (usize, usize, Duration) {
    let (mut found, mut pages, mut slowest, mut after) = (std::collections::BTreeSet::new(), 0, Duration::ZERO, Json::Null);
    loop {
        let began = Instant::now();
        let mut arguments = json!({"mine": true});
        if !after.is_null() {
            arguments["after"] = after;
        }
        let page = ask(app, "knowledge.approval.list", arguments).await;
        slowest = slowest.max(began.elapsed());
        pages += 1;
        for plan in page["waiting"].as_array().expect("plans") {
            assert!(found.insert(plan["offboarding_id"].to_string()), "shown twice: {plan}");
        }
        match page.get("next") {
            Some(next) => after = next.clone(),
            None => return (found.len(), pages, slowest),
        }
    }
}

async fn plans(ledger: &Ledger, never_walk: bool) -> Vec<(&'static str, Vec<String>)> {
    let explained = ledger.transact(async |tx: &mut Tx| {
        let mut plans = tx.list_plans("user:me", never_walk).await?;
        plans.extend(tx.sweep_plans(never_walk).await?);
        plans.extend(tx.due_plans(never_walk).await?);
        Ok::<_, Fault>(plans)
    });
    explained.await.expect("explain").into_inner()
}

/// How much of each of four kinds is due for a sweep.
fn due(tenants: usize) -> usize {
    tenants / 40
}

/// The middle of what a sweep takes with a thousand due, and of one that finds nothing.
async fn sweeps(app: &App, db: &mut PgConnection, tenants: usize) -> (Duration, Duration) {
    let (mut busy, mut idle) = (Vec::new(), Vec::new());
    let each = due(tenants) as u64;
    let nothing = SweepReport::default();
    for _ in 0..SWEEPS {
        make_due(db).await;
        let began = Instant::now();
        let swept = app.manager.sweep().await.expect("sweep");
        busy.push(began.elapsed());
        let wanted =
            SweepReport { interrupted: each, approvals_expired: each, approvals_ending: each, woken: each, ..nothing.clone() };
        assert_eq!(swept, wanted, "everything that was due, and nothing else");
        let began = Instant::now();
        assert_eq!(app.manager.sweep().await.expect("sweep"), nothing, "each once");
        idle.push(began.elapsed());
    }
    (median(busy), median(idle))
}

async fn run(db: &mut PgConnection, statement: String) {
    sqlx::raw_sql(AssertSqlSafe(statement)).execute(db).await.expect("fill the ledger");
}

/// What stands in `made.kind` of a plane: most are in service; three of a tenant's hundred wait in grace, two in their retention, one in
/// two tenants waits for an approval, the other's is halted; of every tenth tenant something is due, of others a plane is purged.
const KINDS: &str = "CASE
    WHEN k BETWEEN 93 AND 95 THEN 'grace' WHEN k = 96 THEN 'retained' WHEN k = 97 AND t % 2 = 0 THEN 'approved by me'
    WHEN k = 97 THEN 'approved by bob' WHEN k = 98 AND t % 2 = 0 THEN 'parked' WHEN k = 98 THEN 'halted'
    WHEN k = 99 AND t % 10 = 0 THEN (ARRAY['lost', 'expired', 'ending', 'settled'])[t / 10 % 4 + 1]
    WHEN k = 99 AND t % 10 < 5 THEN 'purged' ELSE 'active' END";

/// Makes everything due again that a sweep has done.
async fn make_due(db: &mut PgConnection) {
    let now = format!("'{}'::timestamptz", beginning().to_rfc3339());
    for statement in [
        format!(
            "UPDATE stage_runs r SET status = 'running', due_at = NULL, waits_for = NULL, epoch = 1, interruptions = 0,
                lease_owner = 'worker-lost', lease_until = {now} - interval '1 second' FROM made m WHERE m.run = r.id AND m.kind = 'lost'"
        ),
        "UPDATE stage_runs r SET status = 'parked', due_at = NULL, waits_for = 'HOLD_ACTIVE' FROM made m WHERE m.run = r.id AND m.kind = 'settled'"
            .to_owned(),
        "UPDATE approvals a SET status = 'granted', ended_at = NULL, reminded_at = NULL FROM made m
         WHERE m.offboarding = a.offboarding_id AND m.kind IN ('expired', 'ending')"
            .to_owned(),
        "ANALYZE stage_runs; ANALYZE approvals".to_owned(),
    ] {
        run(db, statement).await;
    }
}

fn plan() -> DestructionPlan {
    let id = Uuid::from_u128(7);
    let store = StoreDestruction {
        store: "kb".into(),
        resource: "chunks".into(),
        scope_digest: "sha256:00".into(),
        records: 0,
        attested: None,
    };
    DestructionPlan {
        schema_version: DESTRUCTION_PLAN_SCHEMA,
        revision: 0,
        tenant_id: id,
        plane_id: id,
        offboarding_id: id,
        ground: Ground::Internal,
        evict: EvictMode::AfterArchive,
        stores: vec![store],
        archive_prefix: "file:///archive/plane/".into(),
        archive_copies: Vec::new(),
        manifest_sha256: "sha256:11".into(),
        archive_parts: 3,
        archive_rows: 1000,
        archive_bytes: 100_000,
        archive_key_id: None,
    }
}

async fn fill(db: &mut PgConnection, tenants: usize) {
    let now = format!("'{}'::timestamptz", beginning().to_rfc3339());
    let later = |of: &str| format!("{now} + interval '1 day' + {of} * interval '1 second'");
    let id = |kind: u8, of: &str| {
        format!("(lpad(to_hex({of}), 8, '0') || '-0000-7000-800{kind}-' || lpad(to_hex({of}), 12, '0'))::uuid")
    };
    let plan = plan();
    let (plan_text, plan_digest) = (serde_json::to_string(&plan).expect("a plan"), plan.digest());
    let store = "'00000000-0000-7000-8006-000000000001'";
    let planned = "'retained', 'approved by me', 'approved by bob', 'parked', 'expired', 'ending', 'settled'";
    let ending = (beginning() + TimeDelta::days(1)).to_rfc3339();
    for statement in [
        // The rows refer to each other as they should: nobody needs to look.
        "SET session_replication_role = replica".to_owned(),
        format!(
            "INSERT INTO tenants (id, name, status, created_at) SELECT {}, 'tenant-' || t, 'active', {now} FROM generate_series(0, {}) AS t",
            id(4, "t"),
            tenants - 1
        ),
        format!(
            "CREATE TABLE made AS SELECT n, t, k, {KINDS} AS kind, {} AS plane, {} AS offboarding, {} AS run, {} AS tenant
             FROM (SELECT n, (n - 1) / {PLANES_EACH} AS t, (n - 1) % {PLANES_EACH} AS k FROM generate_series(1, {}) AS n) AS numbered",
            id(1, "n"),
            id(2, "n"),
            id(3, "n"),
            id(4, "t"),
            tenants * PLANES_EACH
        ),
        format!(
            "INSERT INTO stores (id, name, url, kind, identity, checked_at, created_at)
             VALUES ({store}, 'kb', 'sqlite:/kb.db', 'sqlite', '1:1', {now}, {now})"
        ),
        format!(
            "INSERT INTO planes (id, tenant_id, name, state, epoch, draining, archive_url, archive_id, usage_reported, created_at, purged_at)
             SELECT plane, tenant, CASE WHEN kind <> 'purged' THEN 'plane-' || k END, CASE WHEN kind = 'active' THEN 'ACTIVE'
                WHEN kind IN ('grace', 'halted', 'lost') THEN 'PENDING_DEACTIVATE' WHEN kind = 'purged' THEN 'PURGED' ELSE 'ARCHIVED' END,
                1, kind <> 'active', 'file:///archive', '00000000-0000-7000-8000-000000000009', false, {now},
                CASE WHEN kind = 'purged' THEN {now} END FROM made"
        ),
        format!("INSERT INTO chains (chain, head, next_sequence, at) SELECT 'plane:' || plane, 'sha256:00', 4, {now} FROM made"),
        format!(
            "INSERT INTO bindings (plane_id, position, store_id, resource, plane_column, value_digest, mapping)
             SELECT plane, 0, {store}, 'chunks', 'plane', 'sha256:' || n, '{{}}' FROM made WHERE kind <> 'active'"
        ),
        format!(
            "INSERT INTO offboardings (id, plane_id, tenant_id, plan_version, status, ground, reason, requested_by, terms_digest,
                grace_access, evict, grace_us, archive_delay_us, retention_us, usage_unknown_accepted, requested_at, received_at,
                grace_until, retention_until, round, salt, plan, plan_digest, closed_at)
             SELECT offboarding, plane, tenant, 1, CASE WHEN kind = 'purged' THEN 'completed' ELSE 'open' END, 'internal', 'done',
                CASE WHEN kind = 'retained' AND t % 7 = 0 THEN 'user:me' ELSE 'user:alice' END, 'sha256:00', 'read_only',
                'after_archive', 604800000000, 0, 0, true, {now}, {now}, {}, CASE WHEN kind IN ({planned}) THEN {} END, 0,
                decode(repeat('00', 32), 'hex'), CASE WHEN kind IN ({planned}) THEN '{plan_text}'::json END,
                CASE WHEN kind IN ({planned}, 'purged') THEN '{plan_digest}' END, CASE WHEN kind = 'purged' THEN {now} END
             FROM made WHERE kind <> 'active'",
            later("n"),
            later("n")
        ),
        format!(
            "INSERT INTO archives (offboarding_id, prefix, manifest, manifest_sha256, rows, bytes, parts, verified_at)
             SELECT offboarding, 'file:///archive/plane/', NULL, 'sha256:11', 1000, 100000, 3, {now} FROM made WHERE kind IN ({planned})"
        ),
        format!(
            "INSERT INTO stage_runs (id, offboarding_id, plane_id, tenant_id, step, status, due_at, waits_for, attempt, interruptions,
                enqueued_at, epoch, lease_owner, lease_until)
             SELECT run, offboarding, plane, tenant, CASE WHEN kind = 'grace' THEN 'verify' WHEN kind IN ('halted', 'lost') THEN 'deactivate'
                    ELSE 'purge' END,
                CASE WHEN kind IN ('parked', 'expired', 'settled') THEN 'parked' WHEN kind = 'halted' THEN 'halted'
                    WHEN kind = 'purged' THEN 'succeeded' WHEN kind = 'lost' THEN 'running' ELSE 'queued' END,
                CASE WHEN kind NOT IN ('parked', 'expired', 'settled', 'halted', 'purged', 'lost') THEN {} END,
                CASE WHEN kind IN ('parked', 'expired') THEN 'APPROVAL_REQUIRED' WHEN kind = 'settled' THEN 'HOLD_ACTIVE' END, 0, 0, {now},
                CASE WHEN kind = 'lost' THEN 1 END, CASE WHEN kind = 'lost' THEN 'worker-lost' END, CASE WHEN kind = 'lost' THEN {now} END
             FROM made WHERE kind <> 'active'",
            later("n")
        ),
        format!(
            "INSERT INTO approvals (id, offboarding_id, plan_digest, status, requested_by, approved_by, identity_assurance, reason,
                decided_at, expires_at, ended_at)
             SELECT {}, offboarding, '{plan_digest}', CASE WHEN kind = 'purged' THEN 'consumed' ELSE 'granted' END, 'user:alice',
                CASE WHEN kind = 'approved by me' THEN 'user:me' ELSE 'user:bob' END, 'asserted', 'checked', {now},
                CASE WHEN kind = 'expired' THEN {now} - interval '1 second' WHEN kind = 'ending' THEN '{ending}'::timestamptz
                    ELSE {now} + interval '300 days' END, CASE WHEN kind = 'purged' THEN {now} END
             FROM made WHERE kind IN ('approved by me', 'approved by bob', 'expired', 'ending', 'purged')",
            id(5, "n")
        ),
        // A third of them within the next days, the others within a year.
        format!(
            "INSERT INTO deadlines (offboarding_id, law, zone, first_due_on, first_due_at, due_at)
             SELECT offboarding, 'gdpr', 'UTC', to_char(due, 'YYYY-MM-DD'), due, due FROM (
                SELECT offboarding, {now} + interval '3 days' + CASE WHEN n % 3 = 0 THEN n % 500000 ELSE 1000000 + n % 30000000 END
                    * interval '1 second' AS due FROM made WHERE kind NOT IN ('active', 'purged')) AS dated"
        ),
        "VACUUM ANALYZE".to_owned(),
        "CHECKPOINT".to_owned(),
    ] {
        run(db, statement).await;
    }
}
