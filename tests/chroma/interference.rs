//! What others do in a database while a plane leaves it, and what servers answer that one would not expect: nothing of a neighbour's goes,
//! nothing goes that was not exported, and nothing is said to be gone that is there.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use serde_json::{Value as Json, json};

use super::{
    P1,
    between::{Between, killed},
    bind, binding, purge, register, register_at,
};
use crate::support::{
    World,
    chroma::{Chroma, vector},
    http, invariants, knowledge,
};

/// The id of a plane's record.
fn id(plane: &str, number: usize) -> String {
    format!("{plane}/{number:06}\né")
}

/// Works through retries until nothing moves any more.
pub async fn settle(world: &World) {
    for _ in 0..6 {
        world.advance(chrono::TimeDelta::hours(1)).await;
    }
}

/// The plane's last error.
async fn error(world: &World, plane: &str) -> Json {
    world.status(plane).await["offboarding"]["last_error"].clone()
}

/// What the trail says of stages that are done.
async fn evidence(world: &World, plane: &str) -> String {
    let asked = json!({"plane": plane, "event_type": "STAGE_COMPLETED"});
    world.call("user:auditor", "governance.audit.list", asked).await["entries"].to_string()
}

/// Texts of the archive, which is not compressed beyond recognition.
fn archived(world: &World, text: &str) -> bool {
    knowledge::occurrences(&world.dir.path().join("archive"), text.as_bytes()) > 0
}

/// A plane in `table` of a database, behind somebody between.
pub async fn behind(world: &World, db: &Chroma, query: &str) -> (Between, String) {
    let between = Between::before(db);
    register_at(world, &between.store_url).await;
    let plane = bind(world, "acme", query).await;
    (between, plane)
}

#[tokio::test]
async fn a_scrub_deletes_no_record_whatever_its_id() {
    let (world, db) = (World::new().await, Arc::new(Chroma::database()));
    db.collection("shared", &[("p1", 10), ("p2", 5)]);
    let ids = ["lethe-scrub", "lethe-scrub-0", "lethe-scrub-7"];
    let theirs = json!({"ids": ids, "embeddings": [vector("n", 1), vector("n", 2), vector("n", 3)], "metadatas": [{"plane": "p2"}, {"plane": "p2"}, {"plane": "p2"}]});
    db.on("shared", "add", &theirs);
    let (between, plane) = behind(&world, &db, P1).await;
    // And who takes such an id before it is looked for, keeps his record too.
    let other = db.clone();
    between.on(move |line, body| {
        if line.contains("/get") && body.contains("lethe-scrub-") && other.records("shared", Some("p3")).is_empty() {
            let asked: Json = serde_json::from_str(body).expect("JSON");
            let theirs = json!({"ids": [asked["ids"][1]], "embeddings": [vector("n", 4)], "metadatas": [{"plane": "p3"}]});
            other.on("shared", "add", &theirs);
        }
        None
    });
    world.archived(&plane).await;
    purge(&world, &plane).await;
    assert_eq!(db.records("shared", Some("p2")).len(), 8);
    assert_eq!(db.records("shared", Some("p3")).len(), 1);
}

#[tokio::test]
async fn a_plane_field_that_is_no_text_is_refused_and_never_passes_for_nothing() {
    let kinds = [
        ("p1", json!(["p1"])),
        ("p1", json!(["p2", "p1"])),
        ("true", json!(true)),
        ("1.5", json!(1.5)),
        ("7", json!(7)),
        ("7", json!([6, 7])),
    ];
    for (plane, field) in kinds {
        let (world, db) = (World::new().await, Chroma::database());
        db.collection("shared", &[(plane, 3), ("p2", 3)]);
        register(&world, &db).await;
        let query = format!("table=shared&plane_column=plane&plane={plane}");
        let other =
            json!({"ids": ["x"], "embeddings": [vector("x", 1)], "documents": ["marker-x"], "metadatas": [{"plane": field}]});
        db.on("shared", "add", &other);
        let refusal = world.refused("user:root", "knowledge.plane.register", binding(&world, "acme", &query)).await;
        assert!(refusal.message.contains("no text"), "{field}: {refusal}");
        // A record of that kind that comes later stops what would leave it behind.
        db.on("shared", "delete", &json!({"ids": ["x"]}));
        let id = bind(&world, "acme", &query).await;
        world.reach(&id, "evict").await;
        db.on("shared", "add", &other);
        settle(&world).await;
        assert_eq!(world.state(&id).await, "DEACTIVATED", "{field}");
        let said = error(&world, &id).await;
        assert!(said["message"].as_str().is_some_and(|said| said.contains("no text")), "{field}: {said}");
        // And one that comes when all is over is found by the probe.
        db.on("shared", "delete", &json!({"ids": ["x"]}));
        world.call("user:alice", "knowledge.offboarding.retry", json!({"plane": id, "reason": "moved it"})).await;
        settle(&world).await;
        purge(&world, &id).await;
        db.on("shared", "add", &other);
        assert_eq!(world.run_probe("user:bob", &id).await.found, 1, "{field}");
        let seen = world.finding(&id).await.expect("a finding")["evidence"]["stores"][0]["seen"].clone();
        assert_eq!(seen["remaining"], 1, "{field}: {seen}");
        assert_eq!(db.records("shared", None).len(), 4, "{field}: it is still there");
    }
}

#[tokio::test]
async fn a_record_written_anew_after_an_erasure_died_is_exported_before_it_goes() {
    let (world, db) = (World::new().await, Arc::new(Chroma::database()));
    db.collection("shared", &[("p1", 10), ("p2", 3)]);
    let (between, plane) = behind(&world, &db, P1).await;
    world.reach(&plane, "evict").await;
    let other = db.clone();
    between.once(&["/delete"], "p1/", move || {
        let blank = other.records("shared", Some("p1"));
        assert!(blank.len() == 10 && blank.iter().all(|record| !record.contains("marker-p1") && !record.contains("page")), "{blank:?}");
        // As ingestion does it: the whole record, without a word of Lethe's field.
        let new = |number, text: &str, owner: &str| {
            json!({"ids": [id("p1", number)], "embeddings": [vector("new", number)], "documents": [text], "metadatas": [{"plane": owner, "page": 1}]})
        };
        other.on("shared", "upsert", &new(3, "NEW-TEXT-3", "p1"));
        other.on("shared", "upsert", &new(4, "NEW-TEXT-4", "p2"));
        // This one is given no text.
        other.on("shared", "upsert", &json!({"ids": [id("p1", 5)], "embeddings": [vector("new", 5)], "metadatas": [{"plane": "p1"}]}));
        killed()
    });
    settle(&world).await;
    assert_eq!(world.state(&plane).await, "ARCHIVED", "{}", world.status(&plane).await);
    assert!(archived(&world, "NEW-TEXT-3"));
    assert_eq!(db.records("shared", Some("p1")), Vec::<String>::new());
    let moved: Vec<_> = db.records("shared", Some("p2")).into_iter().filter(|record| record.starts_with("\"p1/")).collect();
    assert!(moved.len() == 1 && moved[0].contains("NEW-TEXT-4") && !moved[0].contains("lethe"), "{moved:?}");
    purge(&world, &plane).await;
    invariants::check(&world).await;
}

#[tokio::test]
async fn a_collection_is_bound_once_however_the_server_is_spelled() {
    let world = World::new().await;
    let db = Chroma::apart(&world.dir.path().join("chroma"));
    let between = Between::before(&db);
    let default = |url: &str| format!("{}/default_database", url.rsplit_once('/').expect("a path").0);
    let direct = default(&db.store_url());
    let path = direct.replace("chroma+", "").replace("/default_tenant/", "/api/v2/tenants/default_tenant/databases/");
    let made = http::done("POST", &format!("{path}/collections"), Some(&json!({"name": "shared"})));
    let theirs = json!({"ids": ["n"], "embeddings": [[1, 2]], "metadatas": [{"plane": "p2"}]});
    http::done("POST", &format!("{path}/collections/{}/add", made["id"].as_str().expect("an id")), Some(&theirs));
    register_at(&world, &direct).await;
    bind(&world, "globex", "table=shared&plane_column=plane&plane=p2").await;
    let alias = json!({"name": "alias", "url": default(&between.store_url), "tenants": ["acme"]});
    let refusal = world.refused("user:root", "integrations.store.add", alias).await;
    assert!(refusal.message.contains("vectors"), "{refusal}");
}

const OWN: &str = "table=own";

#[tokio::test]
async fn a_collection_that_fills_before_it_is_dropped_is_exported_first() {
    // At the first request of the drop, with or without its being done.
    for dies in [false, true] {
        let (world, db) = (World::new().await, Arc::new(Chroma::database()));
        db.collection("own", &[("p1", 10)]);
        let (between, plane) = behind(&world, &db, OWN).await;
        world.reach(&plane, "evict").await;
        let other = db.clone();
        between.once(&["PUT ", "DELETE "], "", move || {
            other.add("own", "p1", 100..105);
            dies.then(killed).flatten()
        });
        settle(&world).await;
        assert_eq!(world.state(&plane).await, "ARCHIVED", "{}", world.status(&plane).await);
        assert!(archived(&world, "marker-p1-104"), "dies: {dies}");
        assert_eq!(db.id("own"), None);
        purge(&world, &plane).await;
        invariants::check(&world).await;
    }
}

#[tokio::test]
async fn a_drop_that_died_half_way_leaves_a_collection_that_is_found_and_emptied() {
    let (world, db) = (World::new().await, Arc::new(Chroma::database()));
    db.collection("own", &[("p1", 10)]);
    let (between, plane) = behind(&world, &db, OWN).await;
    world.reach(&plane, "evict").await;
    let (other, add) = (db.clone(), db.url("own", "add"));
    between.once(&["DELETE "], "", move || {
        // By who kept its id; and somebody else makes one of the name.
        let late = json!({"ids": ["late"], "embeddings": [vector("late", 1)], "documents": ["marker-late"], "metadatas": [{"plane": "p1"}]});
        http::done("POST", &add, Some(&late));
        other.collection("own", &[]);
        killed()
    });
    settle(&world).await;
    assert_eq!(world.state(&plane).await, "ARCHIVED", "{}", world.status(&plane).await);
    assert!(archived(&world, "marker-late"));
    let theirs = db.id("own").expect("somebody else's is not dropped");
    purge(&world, &plane).await;
    assert_eq!(db.id("own"), Some(theirs));
    assert_eq!(db.collections(), ["lethe_fence", "own"], "and nothing else is left");
    invariants::check(&world).await;
}

#[tokio::test]
async fn a_collection_that_takes_the_name_of_one_to_be_dropped_stays() {
    let (world, db) = (World::new().await, Arc::new(Chroma::database()));
    db.collection("own", &[("p1", 10)]);
    let (between, plane) = behind(&world, &db, OWN).await;
    world.reach(&plane, "evict").await;
    let other = db.clone();
    between.once(&["PUT ", "DELETE "], "", move || {
        other.rename("own", "own-before");
        other.collection("own", &[("zz", 5)]);
        None
    });
    settle(&world).await;
    assert_eq!(db.records("own", None).len(), 5);
    assert_eq!(db.id("own-before"), None, "the plane's is dropped, whatever its name");
}

#[tokio::test]
async fn a_collection_that_was_moved_while_a_drop_was_dead_is_not_taken_for_gone() {
    let (world, db) = (World::new().await, Arc::new(Chroma::database()));
    db.collection("own", &[("p1", 10)]);
    let (between, plane) = behind(&world, &db, OWN).await;
    world.reach(&plane, "evict").await;
    let other = db.clone();
    between.once(&["PUT ", "DELETE "], "", move || {
        other.add("own", "p1", 100..105);
        other.rename("own", "own-before");
        other.collection("own", &[]);
        killed()
    });
    settle(&world).await;
    assert_eq!(world.state(&plane).await, "DEACTIVATED");
    assert_eq!(error(&world, &plane).await["code"], "WRONG_PLACE");
    assert_eq!(db.records("own-before", None).len(), 5);
    assert!(db.id("own").is_some());
}

#[tokio::test]
async fn what_is_written_while_records_are_erased_is_kept_or_exported() {
    let (world, db) = (World::new().await, Arc::new(Chroma::database()));
    db.collection("shared", &[("p1", 10), ("p2", 3)]);
    let (between, plane) = behind(&world, &db, P1).await;
    world.reach(&plane, "evict").await;
    let other = db.clone();
    between.once(&["/delete"], "p1/", move || {
        let new = |number, owner: &str| {
            let text = format!("NEW-TEXT-{number}");
            json!({"ids": [id("p1", number)], "embeddings": [vector("new", number)], "documents": [text], "metadatas": [{"plane": owner}]})
        };
        other.on("shared", "upsert", &new(3, "p1"));
        other.on("shared", "upsert", &new(4, "p2"));
        None
    });
    settle(&world).await;
    assert_eq!(world.state(&plane).await, "ARCHIVED", "{}", world.status(&plane).await);
    assert!(archived(&world, "NEW-TEXT-3"));
    assert_eq!(db.records("shared", Some("p1")), Vec::<String>::new());
    let moved: Vec<_> = db.records("shared", None).into_iter().filter(|record| record.starts_with("\"p1/")).collect();
    assert!(moved.len() == 1 && moved[0].contains("NEW-TEXT-4") && !moved[0].contains("lethe"), "{moved:?}");
    let trail = world.call("user:auditor", "governance.audit.list", json!({"plane": plane})).await.to_string();
    assert!(trail.contains("between its comparison and its being overwritten"), "the window that is left is said");
}

#[tokio::test]
async fn a_server_that_overwrites_nothing_is_not_said_to_have_overwritten() {
    let (world, db) = (World::new().await, Arc::new(Chroma::database()));
    db.collection("shared", &[("p1", 10), ("p2", 3)]);
    let before = db.records("shared", None);
    let (between, plane) = behind(&world, &db, P1).await;
    world.reach(&plane, "evict").await;
    between.on(|line, _| line.contains("/update").then(|| (200, "{}".into())));
    settle(&world).await;
    assert_eq!(world.state(&plane).await, "DEACTIVATED");
    let said = error(&world, &plane).await;
    assert!(said["message"].as_str().is_some_and(|said| said.contains("overwritten")), "{said}");
    assert_eq!(db.records("shared", None), before);
}

#[tokio::test]
async fn an_index_that_is_rarely_written_is_not_written_anew_and_the_evidence_says_so() {
    let (world, db) = (World::new().await, Chroma::database());
    db.made("shared", &json!({"hnsw": {"sync_threshold": 30_000_000}}));
    db.collection("shared", &[("p1", 10), ("p2", 3)]);
    let (between, plane) = behind(&world, &db, P1).await;
    let requests = Arc::new(AtomicUsize::new(0));
    let counted = requests.clone();
    between.on(move |line, body| {
        // Nobody waits for the thousands of requests that it would be.
        let is_one = line.contains("/delete") && body.contains("lethe-scrub");
        (is_one && counted.fetch_add(1, Ordering::Relaxed) > 100).then(|| (200, "{}".into()))
    });
    world.archived(&plane).await;
    purge(&world, &plane).await;
    assert_eq!(requests.load(Ordering::Relaxed), 0);
    let said = evidence(&world, &plane).await;
    assert!(said.contains("not written anew: it is written after every 30000000 entries"), "{said}");
}

#[tokio::test]
async fn a_vector_that_others_have_too_is_theirs() {
    let (world, db) = (World::new().await, Chroma::database());
    db.collection("shared", &[("p1", 10), ("p2", 3)]);
    let theirs =
        json!({"ids": ["a", "b"], "embeddings": [vector("p1", 1), vector("p1", 2)], "metadatas": [{"plane": "P1"}, {"page": 1}]});
    db.on("shared", "add", &theirs);
    register(&world, &db).await;
    let plane = bind(&world, "acme", P1).await;
    world.archived(&plane).await;
    purge(&world, &plane).await;
    assert_eq!(db.records("shared", None).len(), 5);
}

#[tokio::test]
async fn answers_too_long_for_memory_are_asked_for_in_smaller_parts() {
    let (world, db) = (World::new().await, Chroma::database());
    db.collection("shared", &[("p1", 30), ("p2", 3)]);
    let (between, plane) = behind(&world, &db, P1).await;
    between.on(|line, body| {
        let asked: Json = serde_json::from_str(body).unwrap_or_default();
        let many = line.contains("/get") && body.contains("documents") && asked["ids"].as_array().map_or(0, Vec::len) > 12;
        many.then(|| (200, " ".repeat(257 << 20)))
    });
    world.archived(&plane).await;
    purge(&world, &plane).await;
    assert_eq!(db.records("shared", None).len(), 3);
}

#[tokio::test]
async fn a_plane_whose_offboarding_was_cancelled_leaves_later_from_a_collection_made_anew() {
    let (world, db) = (World::new().await, Chroma::database());
    db.collection("shared", &[("p1", 10), ("p2", 3)]);
    register(&world, &db).await;
    let plane = bind(&world, "acme", P1).await;
    world.request(&plane, "1h").await;
    world.drain().await;
    world.call("user:alice", "knowledge.offboarding.cancel", json!({"plane": plane, "reason": "not yet"})).await;
    settle(&world).await;
    assert_eq!(world.state(&plane).await, "ACTIVE");
    db.drop_collection("shared");
    db.collection("shared", &[("p1", 12), ("p2", 3)]);
    world.archived(&plane).await;
    purge(&world, &plane).await;
    assert_eq!(db.records("shared", None).len(), 3);
    invariants::check(&world).await;
}

#[tokio::test]
async fn nothing_is_erased_where_the_fence_is_lost() {
    for query in [P1, "table=shared"] {
        let (world, db) = (World::new().await, Chroma::database());
        db.collection("shared", &[("p1", 10)]);
        register(&world, &db).await;
        let plane = bind(&world, "acme", query).await;
        world.reach(&plane, "evict").await;
        db.drop_collection("lethe_fence");
        settle(&world).await;
        assert_eq!(world.state(&plane).await, "DEACTIVATED", "{query}");
        assert_eq!(error(&world, &plane).await["code"], "WRONG_PLACE", "{query}");
        assert_eq!(db.records("shared", None).len(), 10, "{query}");
    }
}

#[tokio::test]
async fn a_vector_that_is_no_number_is_not_searched_for() {
    let (world, db) = (World::new().await, Chroma::database());
    db.made("shared", &json!({"hnsw": {"space": "cosine"}}));
    db.collection("shared", &[("p1", 3), ("p2", 3)]);
    let huge = json!({"ids": ["huge"], "embeddings": [[3e38, 3e38, 3e38, 3e38, 3e38, 3e38, 3e38, 3e38]], "metadatas": [{"plane": "p1"}]});
    db.on("shared", "add", &huge);
    register(&world, &db).await;
    let plane = bind(&world, "acme", P1).await;
    world.archived(&plane).await;
    purge(&world, &plane).await;
    assert_eq!(db.records("shared", None).len(), 3);
}
