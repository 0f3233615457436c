//! Everything a handler does to the world can be done again: every stage is run twice, and every single port call is made to fail, once
//! without having been done and once although it was. The world afterwards equals the world without faults.
//!
//! A new store, archive or ground joins by one line in [`SETUPS`].

use chrono::TimeDelta;
use lethe_worker::manager::RecordResult;
use serde_json::{Value as Json, json};
use sqlx::Row;

use crate::support::{WORKER, World, faults::Failing, invariants, knowledge, request};

/// A way to lay out a plane and to let it go.
struct Setup {
    name: &'static str,
    /// Terms of the request, over those of [`request`].
    terms: fn() -> Json,
    /// Whether the plane is bound to a second table.
    two_tables: bool,
    rows: usize,
}

const SETUPS: &[Setup] = &[
    Setup { name: "one table, evicted after archive", terms: || json!({}), two_tables: false, rows: 25 },
    Setup { name: "two tables, evicted at purge", terms: || json!({"evict": "at_purge"}), two_tables: true, rows: 5 },
    Setup { name: "an erasure request", terms: || json!({"ground": "erasure_request"}), two_tables: false, rows: 25 },
    Setup { name: "an empty plane", terms: || json!({"grace_access": "none"}), two_tables: false, rows: 0 },
];

/// Three parts of ten records, so that there is something between two parts.
const CONFIG: &str = "[archive]\npart_rows_max = 10\n";

async fn prepared(setup: &Setup) -> (World, String) {
    let world = World::with(CONFIG).await;
    if !setup.two_tables {
        let plane = world.acme(setup.rows).await;
        return (world, plane);
    }
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
    (world, plane["plane_id"].as_str().expect("an id").to_owned())
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
async fn remains(world: &World, plane: &str) -> Json {
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
    let mut objects = Vec::new();
    list(&world.dir.path().join("archive").join(plane), String::new(), &mut objects);
    objects.sort();
    let status = world.status(plane).await;
    json!({"state": status["state"], "run": status["offboarding"]["run_status"], "fences": fences, "triggers": triggers, "rows": rows, "objects": objects})
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

/// The whole story; answers the world as it was at ARCHIVED and at the end.
async fn story(world: &World, plane: &str, setup: &Setup, twice: bool) -> [Json; 2] {
    let mut terms = request(plane, "0s");
    terms.as_object_mut().expect("an object").extend((setup.terms)().as_object().cloned().expect("an object"));
    world.call("user:alice", "knowledge.offboarding.request", terms).await;
    settle(world, twice).await;
    let archived = remains(world, plane).await;
    assert_eq!(archived["state"], "ARCHIVED", "{}", world.status(plane).await);
    world.call("user:bob", "knowledge.approval.grant", json!({"plane": plane, "reason": "checked"})).await;
    settle(world, twice).await;
    invariants::check(world).await;
    [archived, remains(world, plane).await]
}

#[tokio::test]
async fn every_stage_can_be_run_twice() {
    for setup in SETUPS {
        let (world, plane) = prepared(setup).await;
        let once = story(&world, &plane, setup, false).await;
        assert_eq!(once[1]["state"], "PURGED");
        let (world, plane) = prepared(setup).await;
        let mut twice = story(&world, &plane, setup, true).await;
        // Inventories are taken under a secret of their own, so their bytes differ from world to world.
        if setup.name.contains("erasure") {
            twice[0]["objects"] = once[0]["objects"].clone();
        }
        assert_eq!(once, twice, "{}", setup.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_port_call_can_fail_whether_or_not_it_was_done() {
    let mut tried = 0;
    for setup in SETUPS {
        let (world, plane) = prepared(setup).await;
        let before = world.faults.calls().len();
        let expected = story(&world, &plane, setup, false).await;
        let calls = world.faults.calls()[before..].to_vec();
        assert!(calls.len() > 20, "{}: {calls:?}", setup.name);
        let mut stories = tokio::task::JoinSet::new();
        for (number, verb) in calls.into_iter().enumerate() {
            for failing in [Failing::NotDone, Failing::Done] {
                let mut expected = expected.clone();
                stories.spawn(async move {
                    let (world, plane) = prepared(setup).await;
                    world.faults.fail(number as u64, failing);
                    let found = story(&world, &plane, setup, false).await;
                    if setup.name.contains("erasure") {
                        expected[0]["objects"] = found[0]["objects"].clone();
                    }
                    assert_eq!(expected, found, "{}: call {number}, {verb}, {failing:?}", setup.name);
                    let failed = world.trail(&plane).await.iter().filter(|line| line.starts_with("STAGE_FAILED")).count();
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
