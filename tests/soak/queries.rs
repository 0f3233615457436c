//! Ten million entries: the first page of whatever somebody asks is there at once.
//!
//! The rule at every share: a page finds what is there, and no question walks the trail. Times count at the full size. The entries are made by
//! the server with bodies like real ones; their hashes are digests of their numbers and chain nothing: nobody verifies this ledger.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use lethe_ledger::{Ledger, OpenOptions, Tx};
use lethe_stages::StageRegistry;
use lethe_worker::{
    clock::{ManualClock, SeededEntropy},
    config::Config,
    consequences::Consequences,
    operations::{self, Answer, App, Call},
    world::RealWorld,
};
use serde_json::{Value as Json, json};
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::{
    Options,
    median::{median, rounded},
    support::{beginning, ledger::TestDatabase},
};

const ENTRIES: usize = 10_000_000;
const TENANTS: usize = 1000;
/// Entries of a plane, one after the other in its chain, and as far apart in the log as its tenants are many.
const EACH: usize = 20;
const MS_MAX: f64 = 50.0;
const ROUNDS: usize = 9;

pub async fn soak(options: &Options) -> Json {
    let entries = options.sized(ENTRIES, 20_000).next_multiple_of(TENANTS * EACH);
    let database = TestDatabase::migrated().await;
    let open = |url| OpenOptions { url, clock: Arc::new(ManualClock::at(beginning())), entropy: Arc::new(SeededEntropy::new(7)) };
    Ledger::migrate(open(database.url()), false).await.expect("a ledger").close().await;
    let mut db = database.connect().await;
    let began = Instant::now();
    fill(&mut db, entries).await;
    let filled = began.elapsed();
    let ledger = Ledger::open(open(database.app_url())).await.expect("the ledger");
    let app = assembled(ledger.clone());

    // Of the entry that stands in the middle, and of what is rare or nowhere.
    let middle = entries / 2;
    let one = async |db: &mut PgConnection, what: &str| -> String {
        let of = format!("SELECT ({what})::text FROM leaves WHERE leaf_index = {middle}");
        sqlx::query_scalar(AssertSqlSafe(of)).fetch_one(db).await.expect("a leaf")
    };
    let (plane, offboarding) = (one(&mut db, "plane_id").await, one(&mut db, "offboarding_id").await);
    let at = one(&mut db, "to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')").await;
    let rare = entries / 50_000 + usize::from(!entries.is_multiple_of(50_000));
    let questions: Vec<(&str, Json, Option<usize>)> = vec![
        ("anything", json!({}), Some(100)),
        ("newest", json!({"newest": true}), Some(100)),
        ("tenant", json!({"tenant": "tenant-7"}), Some(100)),
        ("plane", json!({"plane": plane}), Some(EACH)),
        ("offboarding", json!({"offboarding": offboarding}), Some(EACH)),
        ("type", json!({"event_types": ["TRANSITION"]}), Some(100)),
        ("rare_type", json!({"event_types": ["HOLD_PLACED"], "limit": 1000}), Some(rare.min(1000))),
        ("outcome", json!({"outcomes": ["BLOCKED"]}), Some(100)),
        ("from", json!({"from": at}), Some(100)),
        ("type_of_tenant", json!({"tenant": "tenant-7", "event_types": ["TRANSITION"]}), None),
        ("rare_type_of_tenant", json!({"tenant": "tenant-7", "event_types": ["CLOCK_SUSPECT"]}), Some(0)),
        ("outcome_since", json!({"from": at, "outcomes": ["BLOCKED"], "newest": true}), Some(100)),
        ("policy", json!({"policy_revision": "sha256:3"}), Some(100)),
        ("policy_nowhere", json!({"policy_revision": "sha256:none"}), Some(0)),
        ("text_of_plane", json!({"plane": plane, "text": "marker"}), Some(EACH)),
        ("text", json!({"text": "marker"}), Some(100)),
        ("actor", json!({"actor": "user:nobody"}), Some(0)),
    ];
    let mut times = serde_json::Map::new();
    let mut slow = Vec::new();
    for (name, asked, wanted) in questions {
        let mut taken = Vec::new();
        for round in 0..=ROUNDS {
            let began = Instant::now();
            let page = ask(&app, asked.clone()).await;
            // The first round warms up.
            if round > 0 {
                taken.push(began.elapsed());
            }
            let found = page["entries"].as_array().expect("entries").len();
            assert!(wanted.is_none_or(|wanted| found == wanted), "{name} found {found} of {wanted:?}");
        }
        let time = ms(median(taken));
        // Where everything has to be read, a page is as far as it may look.
        if time > MS_MAX && name != "actor" {
            slow.push(name);
        }
        times.insert(format!("{name}_ms"), json!(time));
    }
    let plans = ledger.read(async |tx: &mut Tx| tx.trail_query_plans(options.share < 1.0).await).await.expect("explain");
    for (name, plan) in &plans {
        // `trail_values` is empty here.
        let walked = plan.iter().find(|line| line.contains("Seq Scan on leaves") || line.contains("Seq Scan on trail t"));
        assert_eq!(walked, None, "{name} walks a table: {plan:#?}");
    }
    db.close().await.expect("close");
    drop(app);
    ledger.close().await;
    let mut line = json!({
        "soak": "queries", "share": options.share, "entries": entries, "filled_s": rounded(filled.as_secs_f64(), 1), "ms_max": MS_MAX,
        "slow": slow, "met": !options.is_full() || slow.is_empty(),
    });
    line.as_object_mut().expect("an object").append(&mut times);
    line
}

fn ms(time: Duration) -> f64 {
    rounded(time.as_secs_f64() * 1000.0, 1)
}

fn assembled(ledger: Ledger) -> App {
    let config = Config::load(None).expect("a configuration");
    let world = Arc::new(RealWorld::new(&config));
    App::new(ledger, config, StageRegistry::standard(), world, operations::all(), Consequences::standard()).expect("assembled")
}

async fn ask(app: &App, arguments: Json) -> Json {
    let actor = "user:auditor".parse().expect("an actor");
    let call = Call { operation: "governance.audit.query".into(), arguments, actor, tenant: None, idempotency_key: None };
    match app.dispatch(&call).await.expect("the ledger works") {
        Answer::Done(document) => document,
        Answer::Refused(refusal) => panic!("the question was refused: {refusal}"),
    }
}

/// Entry `n` is of tenant `n % TENANTS`; every [`EACH`] entries of a tenant are of one plane and offboarding.
async fn fill(db: &mut PgConnection, entries: usize) {
    let now = format!("'{}'::timestamptz", beginning().to_rfc3339());
    let id = |kind: u8, of: &str| {
        format!("(lpad(to_hex({of}), 8, '0') || '-0000-7000-800{kind}-' || lpad(to_hex({of}), 12, '0'))::uuid")
    };
    let plane = format!("(n % {TENANTS}) + {TENANTS} * (n / {})", TENANTS * EACH);
    let made = format!(
        "SELECT n, {} AS event, {} AS plane, {} AS offboarding, {} AS tenant, {now} + n * interval '1 second' AS at,
            CASE WHEN n % 50000 = 0 THEN 'HOLD_PLACED' ELSE (ARRAY['STAGE_STARTED', 'STAGE_COMPLETED', 'TRANSITION', 'BLOCKED', 'NOTICED'])[n / {TENANTS} % 5 + 1] END AS kind,
            'sha256:' || n * 10 / {entries} AS policy
         FROM generate_series(0, {}) AS n",
        id(1, "n"),
        id(2, &plane),
        id(3, &plane),
        id(4, &format!("n % {TENANTS}")),
        entries - 1
    );
    for statement in [
        // The rows refer to each other as they should: nobody needs to look.
        "SET session_replication_role = replica".to_owned(),
        format!(
            "INSERT INTO tenants (id, name, status, created_at) SELECT {}, 'tenant-' || t, 'active', {now} FROM generate_series(0, {}) AS t",
            id(4, "t"),
            TENANTS - 1
        ),
        format!(
            "INSERT INTO planes (id, tenant_id, name, state, epoch, draining, archive_url, archive_id, usage_reported, created_at)
             SELECT DISTINCT {}, {}, 'plane-' || p, 'ACTIVE', 1, false, 'file:///archive', '00000000-0000-7000-8000-000000000009'::uuid, false, {now}
             FROM generate_series(0, {}) AS p",
            id(2, "p"),
            id(4, &format!("p % {TENANTS}")),
            entries / EACH - 1
        ),
        format!(
            "INSERT INTO trail (place, chain, sequence_no, event_id, event_type, tenant_id, plane_id, offboarding_id, at, body, previous, hash)
             OVERRIDING SYSTEM VALUE
             SELECT n + 1, 'plane:' || plane, n / {TENANTS} % {EACH}, event, kind, tenant::text, plane, offboarding, at,
                '{{\"actor_id\":{{\"commitment\":\"sha256:' || repeat('0', 64) || '\"}},\"actor_type\":\"user\",\"at\":\"' || at || '\",\"chain\":\"plane:' || plane
                || '\",\"decision_owner\":\"worker\",\"event_id\":\"' || event || '\",\"event_type\":\"' || kind
                || '\",\"evidence\":{{\"code\":\"marker\",\"run_id\":\"' || event || '\"}},\"gate\":null,\"offboarding_id\":\"' || offboarding
                || '\",\"plane_id\":\"' || plane || '\",\"reason\":null,\"schema_version\":1,\"tenant_id\":\"' || tenant || '\"}}',
                'sha256:' || lpad(to_hex(n), 64, '0'), 'sha256:' || lpad(to_hex(n + 1), 64, '0')
             FROM ({made}) AS made"
        ),
        format!(
            "INSERT INTO leaves (leaf_index, place, at, event_type, outcome, tenant_id, plane_id, offboarding_id, policy_revision)
             SELECT n, n + 1, at, kind, CASE WHEN kind = 'BLOCKED' THEN 'BLOCKED' ELSE 'DONE' END, tenant::text, plane, offboarding, policy
             FROM ({made}) AS made"
        ),
        // No trigger ran for them.
        "INSERT INTO leaf_blocks SELECT leaf_index / 1024, min(at), max(at) FROM leaves GROUP BY leaf_index / 1024".to_owned(),
        format!("UPDATE log SET size = {entries}, sealed_below = {entries} + 1"),
        "SELECT setval(pg_get_serial_sequence('trail', 'place'), (SELECT max(place) FROM trail))".to_owned(),
        "VACUUM ANALYZE".to_owned(),
        "CHECKPOINT".to_owned(),
    ] {
        sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut *db).await.expect("fill the ledger");
    }
}
