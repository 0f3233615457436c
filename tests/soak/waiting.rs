//! Planes that wait in grace cost nothing: claiming what is due is as quick among a million that are not as among a thousand.
//!
//! The rule at every share: a claim finds its runs by the index over what is due and never walks the runs.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use lethe_ledger::{Ledger, OpenOptions, Tx};
use lethe_stages::StageRegistry;
use lethe_worker::{
    clock::{ManualClock, SeededEntropy},
    config::Config,
    manager::KnowledgeLifecycleManager,
    world::RealWorld,
};
use serde_json::{Value as Json, json};
use sqlx::{AssertSqlSafe, Connection};

use crate::{
    Options,
    median::{median, rounded},
    support::{beginning, knowledge, ledger::TestDatabase},
};

const DUE: usize = 100;
const ROUNDS: usize = 9;
const FEW: usize = 1_000;
/// How much more it may cost among a million.
const RATIO_MAX: f64 = 1.5;

pub async fn soak(options: &Options) -> Json {
    let many = options.sized(1_000_000, FEW);
    let dir = tempfile::tempdir().expect("a folder");
    let few_waiting = among(&dir.path().join("few.db"), FEW).await;
    let many_waiting = among(&dir.path().join("many.db"), many).await;
    let plan = many_waiting.read_plan().await;
    assert!(plan.iter().any(|line| line.contains("USING INDEX stage_runs_due")), "a claim reads by the index: {plan:#?}");
    // What it may walk: the one rows of the witness and of the log, the pauses in force, and a plane's own bindings and approvals once they are found.
    let small = |line: &str| ["SCAN w", "SCAN l", "SCAN b", "SCAN y"].contains(&line) || line.starts_with("SCAN pauses ");
    assert!(!plan.iter().any(|line| line.starts_with("SCAN") && !small(line)), "a claim walks a table: {plan:#?}");

    let (few_time, many_time) = compare(&few_waiting, &many_waiting).await;
    let ratio = many_time.as_secs_f64() / few_time.as_secs_f64();
    json!({
        "soak": "waiting", "share": options.share, "waiting": many, "claimed": DUE, "claim_ms": ms(many_time),
        "claim_ms_among_1000": ms(few_time), "ratio": rounded(ratio, 2), "ratio_max": RATIO_MAX,
        "met": !options.is_full() || ratio <= RATIO_MAX,
    })
}

/// The same on PostgreSQL.
pub async fn on_postgres(options: &Options) -> Json {
    let many = options.sized(1_000_000, FEW);
    let (few_database, few_waiting) = among_on_postgres(FEW).await;
    let (many_database, many_waiting) = among_on_postgres(many).await;
    let plan = many_waiting.1.transact(async |tx: &mut Tx| tx.claim_plans().await).await.expect("explain the claim").into_inner();
    for plan in plan {
        let walked = |line: &&String| line.contains("Seq Scan");
        assert_eq!(plan.iter().find(walked), None, "a claim walks a table: {plan:#?}");
    }
    let (few_time, many_time) = compare(&few_waiting, &many_waiting).await;
    let ratio = many_time.as_secs_f64() / few_time.as_secs_f64();
    few_waiting.1.close().await;
    many_waiting.1.close().await;
    drop((few_database, many_database));
    json!({
        "bench": "claim_scale", "share": options.share, "waiting": many, "claimed": DUE, "value": ms(many_time), "floor": ms(few_time),
        "unit": "ms", "ratio": rounded(ratio, 2), "ratio_max": RATIO_MAX, "met": !options.is_full() || ratio <= RATIO_MAX,
    })
}

fn ms(time: Duration) -> f64 {
    rounded(time.as_secs_f64() * 1000.0, 2)
}

/// The middle of what a claim takes, here and there in turns.
async fn compare(few_waiting: &Queue, many_waiting: &Queue) -> (Duration, Duration) {
    let (mut few_times, mut many_times) = (Vec::new(), Vec::new());
    // The first round warms both up.
    for round in 0..=ROUNDS {
        let (few, many) = (few_waiting.claim().await, many_waiting.claim().await);
        if round > 0 {
            few_times.push(few);
            many_times.push(many);
        }
    }
    (median(few_times), median(many_times))
}

struct Queue(KnowledgeLifecycleManager, Ledger);

impl Queue {
    async fn claim(&self) -> Duration {
        let began = Instant::now();
        let (claimed, _) = self.0.claim(DUE, "worker-soak", None).await.expect("claim");
        let took = began.elapsed();
        assert_eq!(claimed.len(), DUE, "all that was asked for is due");
        took
    }

    async fn read_plan(&self) -> Vec<String> {
        let [due, _] = self.1.read(async |tx: &mut Tx| tx.query_plans().await).await.expect("explain the claim");
        due
    }
}

/// A ledger with so many planes waiting in grace, and enough that are due.
async fn among(file: &Path, waiting: usize) -> Queue {
    let options = OpenOptions {
        url: format!("sqlite:{}", file.display()),
        clock: Arc::new(ManualClock::at(beginning())),
        entropy: Arc::new(SeededEntropy::new(7)),
    };
    let ledger = Ledger::migrate(options, false).await.expect("a ledger");
    fill(file, waiting).await;
    Queue::over(ledger)
}

async fn among_on_postgres(waiting: usize) -> (TestDatabase, Queue) {
    let database = TestDatabase::migrated().await;
    let options =
        |url| OpenOptions { url, clock: Arc::new(ManualClock::at(beginning())), entropy: Arc::new(SeededEntropy::new(7)) };
    Ledger::migrate(options(database.url()), false).await.expect("a ledger").close().await;
    fill_on_postgres(&database, waiting).await;
    let ledger = Ledger::open(options(database.app_url())).await.expect("the ledger");
    (database, Queue::over(ledger))
}

impl Queue {
    fn over(ledger: Ledger) -> Self {
        let config = Arc::new(Config::load(None).expect("a configuration"));
        let world = Arc::new(RealWorld::default());
        Self(KnowledgeLifecycleManager::new(ledger.clone(), config, StageRegistry::standard(), world).expect("policies"), ledger)
    }
}

/// The same rows on PostgreSQL, with the chains that several writers lock.
async fn fill_on_postgres(database: &TestDatabase, waiting: usize) {
    let mut db = database.connect().await;
    let (due, now) = (DUE * (ROUNDS + 1), format!("'{}'::timestamptz", beginning().to_rfc3339()));
    let rows = format!("generate_series(1, {}) AS n", waiting + due);
    let id = |kind: u8| format!("(lpad(to_hex(n), 8, '0') || '-0000-7000-800{kind}-' || lpad(to_hex(n), 12, '0'))::uuid");
    let (plane, offboarding, run) = (id(1), id(2), id(3));
    let tenant = "'00000000-0000-7000-8000-000000000000'";
    let until = format!(
        "CASE WHEN n <= {due} THEN {now} - interval '1 s' ELSE {now} + interval '7 days' END + n * interval '1 microsecond'"
    );
    for statement in [
        // The rows refer to each other as they should: nobody needs to look.
        "SET session_replication_role = replica".to_owned(),
        format!("INSERT INTO tenants (id, name, status, created_at) VALUES ({tenant}, 'acme', 'active', {now})"),
        format!(
            "INSERT INTO planes (id, tenant_id, name, state, epoch, draining, archive_url, archive_id, usage_reported, created_at)
             SELECT {plane}, {tenant}, 'plane-' || n, 'PENDING_DEACTIVATE', 1, true, 'file:///archive',
                '00000000-0000-7000-8000-000000000009', false, {now} FROM {rows}"
        ),
        format!("INSERT INTO chains (chain, head, next_sequence, at) SELECT 'plane:' || {plane}, 'sha256:00', 4, {now} FROM {rows}"),
        format!(
            "INSERT INTO offboardings (id, plane_id, tenant_id, plan_version, status, ground, reason, requested_by, terms_digest,
                grace_access, evict, grace_us, archive_delay_us, retention_us, usage_unknown_accepted, requested_at, received_at,
                grace_until, round, salt)
             SELECT {offboarding}, {plane}, {tenant}, 1, 'open', 'internal', 'done', 'user:alice', 'sha256:00', 'read_only',
                'after_archive', 604800000000, 0, 0, true, {now}, {now}, {until}, 0, decode(repeat('00', 32), 'hex') FROM {rows}"
        ),
        format!(
            "INSERT INTO stage_runs (id, offboarding_id, plane_id, tenant_id, step, status, due_at, attempt, interruptions, enqueued_at)
             SELECT {run}, {offboarding}, {plane}, {tenant}, 'verify', 'queued', {until}, 0, 0, {now} FROM {rows}"
        ),
        "VACUUM ANALYZE".to_owned(),
        "CHECKPOINT".to_owned(),
    ] {
        sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut db).await.expect("fill the ledger");
    }
    db.close().await.expect("close");
}

/// Rows as deregister leaves them; the first ones are due, the others wait for a week and more.
async fn fill(file: &Path, waiting: usize) {
    let mut db = knowledge::open(file).await;
    let (due, now) = (DUE * (ROUNDS + 1), beginning().timestamp_micros());
    let rows = format!("WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < {})", waiting + due);
    let id = |kind: u8| format!("printf('%08x-0000-7000-800{kind}-%012x', n, n)");
    let (plane, offboarding, run) = (id(1), id(2), id(3));
    let until = format!("CASE WHEN n <= {due} THEN {now} - 1000000 + n ELSE {now} + 604800000000 + n END");
    for statement in [
        "PRAGMA synchronous = OFF".to_owned(),
        format!("INSERT INTO tenants (id, name, status, created_at) VALUES ('00000000-0000-7000-8000-000000000000', 'acme', 'active', {now})"),
        format!(
            "{rows} INSERT INTO planes (id, tenant_id, name, state, epoch, draining, archive_url, archive_id, usage_reported, created_at)
             SELECT {plane}, '00000000-0000-7000-8000-000000000000', 'plane-' || n, 'PENDING_DEACTIVATE', 1, 1, 'file:///archive',
                '00000000-0000-7000-8000-000000000009', 0, {now} FROM n"
        ),
        format!(
            "{rows} INSERT INTO offboardings (id, plane_id, tenant_id, plan_version, status, ground, reason, requested_by,
                terms_digest, grace_access, evict, grace_us, archive_delay_us, retention_us, usage_unknown_accepted, requested_at,
                received_at, grace_until, round, salt)
             SELECT {offboarding}, {plane}, '00000000-0000-7000-8000-000000000000', 1, 'open', 'internal', 'done', 'user:alice',
                'sha256:00', 'read_only', 'after_archive', 604800000000, 0, 0, 1, {now}, {now}, {until}, 0, zeroblob(32) FROM n"
        ),
        format!(
            "{rows} INSERT INTO stage_runs (id, offboarding_id, plane_id, tenant_id, step, status, due_at, attempt, interruptions,
                enqueued_at)
             SELECT {run}, {offboarding}, {plane}, '00000000-0000-7000-8000-000000000000', 'verify', 'queued', {until}, 0, 0, {now} FROM n"
        ),
        "PRAGMA wal_checkpoint(TRUNCATE)".to_owned(),
    ] {
        sqlx::query(AssertSqlSafe(statement)).execute(&mut db).await.expect("fill the ledger");
    }
    db.close().await.expect("close");
}
