//! What it costs to archive and to purge a large plane in pgvector: against the server's own way to copy and to drop the same rows, and
//! for the neighbours who query meanwhile.
//!
//! The rule: everything is as in production, over the drivers and the handlers: digests, Parquet, everything read back, proofs. Only the
//! ledger's steps around it are left out of the times.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::{Value as Json, json};
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::{
    Options,
    median::{median, rounded},
    support::{World, postgres::Database},
};

/// Numbers of a vector.
const AXES: usize = 256;
/// Characters of a text that does not compress to nothing.
const TEXT: usize = 480;
const TURNS: usize = 3;
const ARCHIVE_RATIO_MIN: f64 = 0.6;
const PURGE_RATIO_MAX: f64 = 2.0;
const NEIGHBOURS_RATIO_MAX: f64 = 1.2;

/// A table with a partition for each of these planes, so many rows in each.
async fn fill(db: &Database, planes: &[String], rows: usize, indexed: bool) {
    db.as_app("CREATE TABLE kb.docs (id bigint, plane text, body text, meta jsonb, embedding public.vector, PRIMARY KEY (plane, id)) PARTITION BY LIST (plane)")
        .await
        .expect("a table");
    db.as_app(&format!("ALTER TABLE kb.docs ALTER embedding TYPE public.vector({AXES})")).await.expect("its vectors");
    if indexed {
        db.as_app("CREATE INDEX ON kb.docs USING hnsw (embedding public.vector_l2_ops)").await.expect("an index");
    }
    for (number, plane) in planes.iter().enumerate() {
        let partition = format!("CREATE TABLE kb.docs_{number} PARTITION OF kb.docs FOR VALUES IN ('{plane}')");
        db.as_app(&partition).await.expect("a partition");
        db.as_app(&format!(
            "SELECT setseed(0.{number}1);
             INSERT INTO kb.docs SELECT n, '{plane}', left((SELECT string_agg(md5(random()::text || n || g), ' ') FROM generate_series(1, {}) AS g), {TEXT}),
                jsonb_build_object('page', n, 'source', 'document-' || n % 97),
                (SELECT array_agg(random()::real + (n + g) * 0) FROM generate_series(1, {AXES}) AS g)::public.vector
             FROM generate_series(1, {rows}) AS n",
            TEXT / 33 + 1,
        ))
        .await
        .expect("records");
    }
    db.as_app("ANALYZE kb.docs").await.expect("analyze");
    db.as_admin("CHECKPOINT").await.expect("checkpoint");
}

async fn bind(world: &World, db: &Database, planes: &[String]) -> Vec<String> {
    db.register(world).await;
    let archive = format!("file://{}", world.dir.path().join("archive").display());
    let mut bound = Vec::new();
    for plane in planes {
        let store =
            format!("pg?table=kb.docs&plane_column=plane&plane={plane}&key=id&text=body&metadata=meta&embedding=embedding");
        let register = json!({"tenant": "acme", "name": plane, "stores": [store], "archive": archive});
        let plane = world.call("user:root", "knowledge.plane.register", register).await;
        bound.push(plane["plane_id"].as_str().expect("an id").to_owned());
    }
    bound
}

/// Performs the plane's step that is due, and answers how long its handler took.
async fn perform(world: &World, plane: &str) -> Duration {
    let claimed = world.claim(plane).await;
    let began = Instant::now();
    let finished = world.app.manager.perform(&claimed).await;
    let took = began.elapsed();
    assert!(finished.result.is_ok(), "{:?}", finished.result);
    world.record(&finished).await;
    took
}

async fn timed(db: &Database, sql: &str) -> Duration {
    let began = Instant::now();
    db.as_admin(sql).await.expect(sql);
    began.elapsed()
}

fn names(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("plane-{number}")).collect()
}

/// Export with everything read back, against `COPY … BINARY` of the same rows to nowhere.
pub async fn archive(options: &Options) -> Json {
    let rows = options.sized(60_000, 500);
    let (world, db) = (World::new().await, Database::new().await);
    let names = names(TURNS);
    fill(&db, &names, rows, false).await;
    let planes = bind(&world, &db, &names).await;
    let bytes = db.number("SELECT sum(pg_column_size(d.*))::int8 FROM kb.docs AS d WHERE plane = 'plane-0'").await as f64;
    let (mut lethe, mut copy) = (Vec::new(), Vec::new());
    for (number, plane) in planes.iter().enumerate() {
        world.reach(plane, "export").await;
        copy.push(timed(&db, &format!("COPY kb.docs_{number} TO '/dev/null' WITH (FORMAT binary)")).await);
        lethe.push(perform(&world, plane).await);
    }
    let rate = |times: Vec<Duration>| bytes / 1e6 / median(times).as_secs_f64();
    let (value, floor) = (rate(lethe), rate(copy));
    let ratio = value / floor;
    json!({
        "bench": "archive", "share": options.share, "unit": "MB/s", "rows": rows, "mb": rounded(bytes / 1e6, 1), "value": rounded(value, 1),
        "floor": rounded(floor, 1), "ratio": rounded(ratio, 3), "ratio_min": ARCHIVE_RATIO_MIN,
        "met": !options.is_full() || ratio >= ARCHIVE_RATIO_MIN,
    })
}

/// The purge of a plane with a partition of its own, hot records and archive, against DETACH + DROP, and against one DELETE.
pub async fn purge_partition(options: &Options) -> Json {
    let rows = options.sized(20_000, 500);
    let (world, db) = (World::new().await, Database::new().await);
    let names = names(3 * TURNS);
    fill(&db, &names, rows, true).await;
    let planes = bind(&world, &db, &names[..TURNS]).await;
    let (mut evict, mut purge, mut drop, mut delete) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (number, plane) in planes.iter().enumerate() {
        world.reach(plane, "export").await;
        perform(&world, plane).await;
        evict.push(perform(&world, plane).await);
        world.reach_next(plane, "purge").await;
        purge.push(perform(&world, plane).await);
        let (dropped, deleted) = (number + TURNS, number + 2 * TURNS);
        drop.push(
            timed(&db, &format!("ALTER TABLE kb.docs DETACH PARTITION kb.docs_{dropped}; DROP TABLE kb.docs_{dropped}")).await,
        );
        let delete_all = format!("DELETE FROM kb.docs WHERE plane = 'plane-{deleted}'");
        delete.push(timed(&db, &delete_all).await + timed(&db, &format!("VACUUM kb.docs_{deleted}")).await);
    }
    assert_eq!(db.number("SELECT count(*) FROM kb.docs").await, 0, "nothing is left");
    let ms = |times: Vec<Duration>| median(times).as_secs_f64() * 1000.0;
    let (evict, purge, floor, delete) = (ms(evict), ms(purge), ms(drop), ms(delete));
    let (value, ratio) = (evict + purge, (evict + purge) / floor);
    json!({
        "bench": "purge_partition", "share": options.share, "unit": "ms", "rows": rows, "value": rounded(value, 1), "floor": rounded(floor, 1),
        "ratio": rounded(ratio, 2), "evict": rounded(evict, 1), "purge": rounded(purge, 1), "delete_and_vacuum": rounded(delete, 1),
        "against_delete": rounded(value / delete, 2), "ratio_max": PURGE_RATIO_MAX, "met": !options.is_full() || ratio <= PURGE_RATIO_MAX,
    })
}

/// The slowest of a hundred queries on another tenant's plane, while a large one is archived and purged, against idle.
pub async fn neighbours(options: &Options) -> Json {
    let mut tried = Vec::new();
    for rows_per_second_max in [0, 2_000] {
        tried.push(disturb(options, rows_per_second_max).await);
    }
    let best = tried.iter().map(|one| one["ratio"].as_f64().unwrap_or(f64::MAX)).fold(f64::MAX, f64::min);
    json!({
        "bench": "neighbours", "share": options.share, "unit": "ms at p99", "value": tried[1]["busy"], "floor": tried[1]["idle"],
        "ratio": tried[1]["ratio"], "unlimited": tried[0], "limited": tried[1], "ratio_max": NEIGHBOURS_RATIO_MAX,
        "met": !options.is_full() || best <= NEIGHBOURS_RATIO_MAX,
    })
}

async fn disturb(options: &Options, rows_per_second_max: u32) -> Json {
    let rows = options.sized(20_000, 500);
    let pace = format!("[store]\nrows_per_second_max = {rows_per_second_max}\n[archive]\npart_rows_max = 500\n");
    let (world, db) = (World::with(&pace).await, Database::new().await);
    let names = names(2);
    fill(&db, &names, rows, true).await;
    let plane = bind(&world, &db, &names[..1]).await.remove(0);
    world.reach(&plane, "export").await;
    let queries = Queries::start(&db, rows);
    tokio::time::sleep(Duration::from_secs_f64((10.0 * options.share).max(0.5))).await;
    let idle = queries.stop().await;
    let queries = Queries::start(&db, rows);
    let began = Instant::now();
    perform(&world, &plane).await;
    perform(&world, &plane).await;
    world.reach_next(&plane, "purge").await;
    perform(&world, &plane).await;
    let took = began.elapsed();
    let busy = queries.stop().await;
    let p99 = |mut times: Vec<Duration>| {
        times.sort();
        times[times.len() * 99 / 100].as_secs_f64() * 1000.0
    };
    let (asked, meanwhile) = (idle.len(), busy.len());
    let (idle, busy) = (p99(idle), p99(busy));
    json!({
        "rows_per_second_max": rows_per_second_max, "rows": rows, "seconds": rounded(took.as_secs_f64(), 1), "queries_idle": asked,
        "queries_busy": meanwhile, "idle": rounded(idle, 2), "busy": rounded(busy, 2), "ratio": rounded(busy / idle, 2),
    })
}

/// A neighbour who searches and reads, a hundred times a second.
struct Queries {
    stop: Arc<AtomicBool>,
    asking: tokio::task::JoinHandle<Vec<Duration>>,
}

impl Queries {
    fn start(db: &Database, rows: usize) -> Self {
        let (stop, url) = (Arc::new(AtomicBool::new(false)), db.app_url());
        let asking = tokio::spawn(ask(url, rows, stop.clone()));
        Self { stop, asking }
    }

    async fn stop(self) -> Vec<Duration> {
        self.stop.store(true, Ordering::SeqCst);
        self.asking.await.expect("the neighbour's answers")
    }
}

async fn ask(url: String, rows: usize, stop: Arc<AtomicBool>) -> Vec<Duration> {
    let mut db = PgConnection::connect(&url).await.expect("the neighbour connects");
    lethe_nodelay::set();
    let mut times = Vec::new();
    let mut number = 0;
    while !stop.load(Ordering::SeqCst) {
        number = (number * 7919 + 13) % rows + 1;
        let began = Instant::now();
        let nearest = format!(
            "SELECT id FROM kb.docs WHERE plane = 'plane-1'
             ORDER BY embedding OPERATOR(public.<->) (SELECT embedding FROM kb.docs WHERE plane = 'plane-1' AND id = {number}) LIMIT 10"
        );
        let found = sqlx::query(AssertSqlSafe(nearest)).fetch_all(&mut db).await.expect("a search");
        assert!(!found.is_empty(), "the neighbour finds what it looks for");
        times.push(began.elapsed());
        let began = Instant::now();
        let read = format!("SELECT body FROM kb.docs WHERE plane = 'plane-1' AND id = {number}");
        sqlx::query(AssertSqlSafe(read)).fetch_one(&mut db).await.expect("a read");
        times.push(began.elapsed());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    times
}
