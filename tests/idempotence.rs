//! Everything a handler does to the world can be done again: every stage is run twice, and every single port call is made to fail, once
//! without having been done and once although it was. The world afterwards equals the world without faults.
//!
//! A new store, archive or ground joins by one line in [`SETUPS`].

use std::sync::Arc;

use chrono::TimeDelta;
use lethe_worker::manager::RecordResult;
use serde_json::{Value as Json, json};
use sqlx::Row;

use crate::support::{
    WORKER, World,
    faults::Failing,
    invariants, knowledge,
    masters::Masters,
    postgres::Database,
    request,
    s3::{Bucket, Kind},
};

/// A way to lay out a plane and to let it go.
struct Setup {
    name: &'static str,
    /// Terms of the request, over those of [`request`].
    terms: fn() -> Json,
    layout: Layout,
    rows: usize,
    /// What kind of bucket it is archived in; without one, in a folder.
    bucket: Option<Kind>,
    encrypted: bool,
}

impl Setup {
    /// Whether a failure of this verb is another one here than in the first set-up: where the archive is another one, of the archive's
    /// verbs; where the store is, of the store's.
    fn is_about(&self, verb: &str) -> bool {
        match (self.bucket.is_some() || self.encrypted, self.layout) {
            (true, _) => verb.starts_with("archive."),
            (false, Layout::Partition) => verb.starts_with("store."),
            (false, _) => true,
        }
    }
}

/// Where the plane stands.
#[derive(Clone, Copy, PartialEq)]
enum Layout {
    /// In a table of an SQLite file.
    One,
    /// In two tables of an SQLite file.
    Two,
    /// In a partition of its own of a table in PostgreSQL.
    Partition,
}

const SETUPS: &[Setup] = &[
    Setup {
        name: "one table, evicted after archive",
        terms: || json!({}),
        layout: Layout::One,
        rows: 25,
        bucket: None,
        encrypted: false,
    },
    Setup {
        name: "two tables, evicted at purge",
        terms: || json!({"evict": "at_purge"}),
        layout: Layout::Two,
        rows: 5,
        bucket: None,
        encrypted: false,
    },
    Setup {
        name: "an erasure request",
        terms: || json!({"ground": "erasure_request"}),
        layout: Layout::One,
        rows: 25,
        bucket: None,
        encrypted: false,
    },
    Setup {
        name: "a versioned bucket",
        terms: || json!({}),
        layout: Layout::One,
        rows: 3,
        bucket: Some(Kind::Versioned),
        encrypted: false,
    },
    Setup {
        name: "an empty plane",
        terms: || json!({"grace_access": "none"}),
        layout: Layout::One,
        rows: 0,
        bucket: None,
        encrypted: false,
    },
    Setup {
        name: "a partition in PostgreSQL",
        terms: || json!({}),
        layout: Layout::Partition,
        rows: 5,
        bucket: None,
        encrypted: false,
    },
    Setup {
        name: "an encrypted archive in a versioned bucket",
        terms: || json!({}),
        layout: Layout::One,
        rows: 15,
        bucket: Some(Kind::Versioned),
        encrypted: true,
    },
    Setup {
        name: "an erasure request, its inventory encrypted",
        terms: || json!({"ground": "erasure_request"}),
        layout: Layout::One,
        rows: 15,
        bucket: None,
        encrypted: true,
    },
];

/// What stores and archives do does not depend on where the ledger is, so on PostgreSQL, where each world is a database, one setup with
/// content and one without are put through it.
fn setups() -> impl Iterator<Item = &'static Setup> {
    let short = ["one table, evicted after archive", "an erasure request"];
    SETUPS.iter().filter(move |setup| !crate::ON_POSTGRES || short.contains(&setup.name))
}

/// Three parts of ten records, so that there is something between two parts.
const CONFIG: &str = "[archive]\npart_rows_max = 10\n";

/// A world with the plane in it, and the schema of a database in which it stands, if it stands in one.
struct Laid {
    world: World,
    plane: String,
    db: Option<(Arc<Database>, String)>,
    _masters: Masters,
}

/// The database that all worlds of a setup share, each with a schema of its own: databases take long to create and drop.
async fn database(setup: &Setup) -> Option<Arc<Database>> {
    match setup.layout {
        Layout::Partition => Some(Arc::new(Database::new().await)),
        _ => None,
    }
}

async fn prepared(setup: &Setup, db: &Option<Arc<Database>>) -> Laid {
    let masters = Masters::new();
    let mut config = CONFIG.to_owned();
    if setup.encrypted {
        masters.make("master");
        config += &masters.config("master", &[]);
    }
    let world = match setup.bucket {
        Some(kind) => World::on(Bucket::new(kind).await, &config).await,
        None => World::with(&config).await,
    };
    match setup.layout {
        Layout::One => {
            let plane = world.acme(setup.rows).await;
            Laid { world, plane, db: None, _masters: masters }
        }
        Layout::Two => {
            let plane = two_tables(&world, setup).await;
            Laid { world, plane, db: None, _masters: masters }
        }
        Layout::Partition => {
            let db = db.clone().expect("a database");
            let schema = db.schema().await;
            let table = format!("{schema}.chunks");
            db.chunks(&table, true, &[("p1", setup.rows), ("p2", 5)]).await;
            db.register(&world).await;
            let plane = db.bind(&world, "acme", &table, "p1").await;
            Laid { world, plane, db: Some((db, schema)), _masters: masters }
        }
    }
}

async fn two_tables(world: &World, setup: &Setup) -> String {
    world.acme(0).await;
    let file = world.dir.path().join("knowledge.db");
    let mut db = knowledge::open(&file).await;
    for number in 0..setup.rows {
        knowledge::insert(&mut db, "p3", number).await.expect("insert");
    }
    sqlx::raw_sql("CREATE TABLE notes (slug TEXT PRIMARY KEY, plane TEXT, note); INSERT INTO notes VALUES ('a', 'p3', 1), ('b', 'p3', 'marker-p1-0 ')")
        .execute(&mut db)
        .await
        .expect("a second table");
    let mut both = world.binding("acme", "both", "p3");
    both["stores"].as_array_mut().expect("stores").push(json!("kb?table=notes&plane_column=plane&plane=p3&key=slug"));
    let plane = world.call("user:root", "knowledge.plane.register", both).await;
    plane["plane_id"].as_str().expect("an id").to_owned()
}

/// Works on, past every backoff, until the plane rests: halted, waiting for somebody, or done.
async fn settle(world: &World, twice: bool) {
    for _ in 0..6 {
        world.app.manager.sweep().await.expect("sweep");
        if twice {
            drain_twice(world).await;
        } else {
            world.drain().await;
        }
        world.clock.advance(TimeDelta::minutes(2));
    }
}

/// Performs each claimed run twice over before its answer is recorded, and records the answer twice.
async fn drain_twice(world: &World) {
    loop {
        let (claimed, seen) = world.app.manager.claim(4, WORKER, None).await.expect("claim");
        if seen == 0 {
            return;
        }
        for run in &claimed {
            let first = world.app.manager.perform(run).await;
            assert!(first.result.is_ok(), "{:?}", first.result);
            let second = [world.app.manager.perform(run).await];
            assert_eq!(world.app.manager.record(&second, WORKER).await.expect("record"), [RecordResult::Recorded]);
            assert_eq!(
                world.app.manager.record(&[first], WORKER).await.expect("record"),
                [RecordResult::Stale],
                "a second answer counts"
            );
        }
    }
}

/// What is left in the world: rows of every plane, fences, and the archive's objects without the ids in their names.
async fn remains(laid: &Laid) -> Json {
    let Laid { world, plane, db, .. } = laid;
    let mut left = match db {
        Some((db, schema)) => in_schema(db, schema).await,
        None => in_file(world).await,
    };
    let mut objects = Vec::new();
    match &world.bucket {
        Some(bucket) => list_bucket(bucket, &format!("cold/archive/{plane}/"), &mut objects).await,
        None => list(&world.dir.path().join("archive").join(plane), String::new(), &mut objects),
    }
    objects.sort();
    let status = world.status(plane).await;
    left["objects"] = json!(objects);
    left["state"] = status["state"].clone();
    left["run"] = status["offboarding"]["run_status"].clone();
    left
}

/// As text, with the schema's name taken out of it.
async fn in_schema(db: &Database, schema: &str) -> Json {
    let table = format!("{schema}.chunks");
    let mut lines = db.texts(&format!("SELECT concat_ws(' ', resource, plane, mode) FROM {schema}.lethe_fence ORDER BY 1")).await;
    lines.extend(db.guards(&table).await);
    let partitions = format!("SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = '{table}'::regclass ORDER BY 1");
    lines.extend(db.texts(&partitions).await);
    lines.extend(db.plane(&table, "p1").await);
    lines.extend(db.plane(&table, "p2").await);
    json!({"lines": lines.iter().map(|line| line.replace(schema, "kb")).collect::<Vec<_>>()})
}

async fn in_file(world: &World) -> Json {
    let file = world.dir.path().join("knowledge.db");
    let mut db = knowledge::open(&file).await;
    let fences: Vec<_> =
        sqlx::query("SELECT resource, plane, mode FROM lethe_fence ORDER BY 1, 2").fetch_all(&mut db).await.unwrap_or_default();
    let fences: Vec<String> = fences.iter().map(|row| [row.get::<String, _>(0), row.get(1), row.get(2)].join(" ")).collect();
    let triggers: i64 =
        sqlx::query_scalar("SELECT count(*) FROM sqlite_schema WHERE type = 'trigger'").fetch_one(&mut db).await.expect("count");
    let mut rows = Vec::new();
    for value in ["p1", "p2", "p3"] {
        rows.push(knowledge::digest(&file, value).await);
    }
    json!({"fences": fences, "triggers": triggers, "rows": rows})
}

/// Names below the offboarding's own folder, with a digest of the content of parts.
fn list(folder: &std::path::Path, prefix: String, objects: &mut Vec<String>) {
    for entry in folder.read_dir().into_iter().flatten() {
        let entry = entry.expect("an entry");
        let name = format!("{prefix}/{}", entry.file_name().to_string_lossy());
        if entry.path().is_dir() {
            // The first level is named by the offboarding's id.
            list(&entry.path(), if prefix.is_empty() { "/offboarding".into() } else { name }, objects);
        } else if name.ends_with(".parquet") {
            let bytes = std::fs::read(entry.path()).expect("read a part");
            objects.push(format!("{name} {}", lethe_stages::canonical::sha256(&bytes)));
        } else {
            objects.push(name);
        }
    }
}

/// The same of a bucket: every object in its newest version; what else there is, older versions and markers, is listed by its kind.
async fn list_bucket(bucket: &Bucket, prefix: &str, objects: &mut Vec<String>) {
    for (what, key, _) in bucket.everything(prefix).await {
        let name = key[prefix.len()..].split_once('/').map_or("", |(_, name)| name);
        let name = format!("/offboarding/{name}");
        if what != "version" {
            objects.push(format!("{what} {name}"));
        } else if name.ends_with(".parquet") {
            objects.push(format!("{name} {}", lethe_stages::canonical::sha256(&bucket.get(&key).await)));
        } else {
            objects.push(name);
        }
    }
    // A manifest may have been written twice; each version of it is one more that the purge removes.
    objects.sort();
    objects.dedup();
}

/// The whole story; answers the world as it was at ARCHIVED and at the end.
async fn story(laid: &Laid, setup: &Setup, twice: bool) -> [Json; 2] {
    let Laid { world, plane, .. } = laid;
    let mut terms = request(plane, "0s");
    terms.as_object_mut().expect("an object").extend((setup.terms)().as_object().cloned().expect("an object"));
    world.call("user:alice", "knowledge.offboarding.request", terms).await;
    settle(world, twice).await;
    let archived = remains(laid).await;
    assert_eq!(archived["state"], "ARCHIVED", "{}", world.status(plane).await);
    world.call("user:bob", "knowledge.approval.grant", json!({"plane": plane, "reason": "checked"})).await;
    settle(world, twice).await;
    invariants::check(world).await;
    [archived, remains(laid).await]
}

#[tokio::test]
async fn an_archive_that_lies_about_what_it_wrote_is_caught_by_reading_back() {
    let world = World::with(CONFIG).await;
    let plane = world.acme(25).await;
    let mut terms = request(&plane, "0s");
    terms["evict"] = json!("at_purge");
    world.call("user:alice", "knowledge.offboarding.request", terms).await;
    world.faults.lie();
    world.drain().await;
    assert_eq!(world.state(&plane).await, "DEACTIVATED", "not archived on the archive's word");
    assert!(world.trail(&plane).await.contains(&"STAGE_FAILED export READ_BACK".to_owned()), "{:?}", world.trail(&plane).await);
    // The parts of that export are of no use any more: they do not hold what the store does, so another one begins beside them.
    settle(&world, false).await;
    assert_eq!(world.state(&plane).await, "ARCHIVED");
    assert!(
        world.trail(&plane).await.contains(&"STAGE_FAILED export SOURCE_MOVED".to_owned()),
        "{:?}",
        world.trail(&plane).await
    );
    let verified = world.call("user:auditor", "knowledge.archive.verify", json!({"plane": plane})).await;
    assert_eq!((&verified["archive"], &verified["rows"]), (&json!("verified"), &json!(25)), "{verified}");
    invariants::check(&world).await;
}

/// Inventories are taken under a secret of their own, and nothing is encrypted the same way twice: there, bytes differ from world to world.
/// Names must be the same all the same.
fn same_objects(setup: &Setup, one: &[Json; 2], other: &mut [Json; 2]) {
    if setup.encrypted || setup.name.contains("erasure") {
        let names = |story: &[Json; 2]| -> Vec<String> {
            let objects = story[0]["objects"].as_array().expect("objects").iter();
            objects.map(|object| object.as_str().expect("a text").split(".parquet ").next().expect("a name").to_owned()).collect()
        };
        let (mut left, mut right) = (names(one), names(other));
        left.sort();
        right.sort();
        assert_eq!(left, right, "{}", setup.name);
        other[0]["objects"] = one[0]["objects"].clone();
    }
}

#[tokio::test]
async fn every_stage_can_be_run_twice() {
    for setup in setups() {
        let db = database(setup).await;
        let once = story(&prepared(setup, &db).await, setup, false).await;
        assert_eq!(once[1]["state"], "PURGED");
        let mut twice = story(&prepared(setup, &db).await, setup, true).await;
        same_objects(setup, &once, &mut twice);
        assert_eq!(once, twice, "{}", setup.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_port_call_can_fail_whether_or_not_it_was_done() {
    let mut tried = 0;
    for setup in setups() {
        let db = database(setup).await;
        let laid = prepared(setup, &db).await;
        let before = laid.world.faults.calls().len();
        let expected = story(&laid, setup, false).await;
        let calls = laid.world.faults.calls()[before..].to_vec();
        assert!(calls.len() > 20, "{}: {calls:?}", setup.name);
        let calls: Vec<_> = calls.into_iter().enumerate().filter(|(_, verb)| setup.is_about(verb)).collect();
        assert!(calls.len() > 5, "{}: {calls:?}", setup.name);
        let mut stories = tokio::task::JoinSet::new();
        for (number, verb) in calls {
            for failing in [Failing::NotDone, Failing::Done] {
                let (mut expected, db) = (expected.clone(), db.clone());
                stories.spawn(async move {
                    let laid = prepared(setup, &db).await;
                    laid.world.faults.fail(number as u64, failing);
                    let found = story(&laid, setup, false).await;
                    same_objects(setup, &found, &mut expected);
                    assert_eq!(expected, found, "{}: call {number}, {verb}, {failing:?}", setup.name);
                    let failed = laid.world.trail(&laid.plane).await;
                    let failed = failed.iter().filter(|line| line.starts_with("STAGE_FAILED")).count();
                    assert_eq!(failed, 1, "{}: call {number}, {verb}, {failing:?} was not noticed", setup.name);
                });
                tried += 1;
                if stories.len() >= 4 {
                    stories.join_next().await.expect("a story").expect("the same world");
                }
            }
        }
        while let Some(story) = stories.join_next().await {
            story.expect("the same world");
        }
    }
    println!("{tried} faults");
}
