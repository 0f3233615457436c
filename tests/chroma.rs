//! Chroma: planes there are archived, erased and proved gone as anywhere, their vectors leave its index files, and what is in the way is
//! named.

mod between;
mod interference;

use std::{path::Path, sync::Arc};

use serde_json::{Value as Json, json};

use self::{
    between::killed,
    interference::{behind, settle},
};
use crate::support::{
    World,
    chroma::{Chroma, vector},
    invariants, knowledge, request,
};

/// Registers tenants `acme` and `globex` and the store `vectors`, open to both.
async fn register(world: &World, db: &Chroma) {
    register_at(world, &db.store_url()).await;
}

/// The same, by this URL.
async fn register_at(world: &World, url: &str) {
    for tenant in ["acme", "globex"] {
        world.call("user:root", "account.tenant.register", json!({"name": tenant})).await;
    }
    let store = json!({"name": "vectors", "url": url, "tenants": ["acme", "globex"]});
    world.call("user:root", "integrations.store.add", store).await;
}

fn binding(world: &World, tenant: &str, query: &str) -> Json {
    let archive = format!("file://{}", world.dir.path().join("archive").display());
    let store = format!("vectors?{query}&key=id&text=document&embedding=embedding&metadata=metadata");
    json!({"tenant": tenant, "name": "handbook", "stores": [store], "archive": archive, "whole_table": true})
}

async fn bind(world: &World, tenant: &str, query: &str) -> String {
    let plane = world.call("user:root", "knowledge.plane.register", binding(world, tenant, query)).await;
    plane["plane_id"].as_str().expect("an id").to_owned()
}

async fn purge(world: &World, plane: &str) {
    world.approve(plane).await;
    world.drain().await;
    assert_eq!(world.state(plane).await, "PURGED", "{}", world.status(plane).await);
}

const P1: &str = "table=shared&plane_column=plane&plane=p1";

#[tokio::test]
async fn a_plane_that_shares_a_collection_is_purged_and_found_by_no_search_while_its_neighbour_is_untouched() {
    let (world, db) = (World::with("[archive]\npart_rows_max = 10\n").await, Chroma::database());
    db.collection("shared", &[("p1", 35), ("p2", 20)]);
    register(&world, &db).await;
    let plane = bind(&world, "acme", P1).await;
    let neighbour = db.records("shared", Some("p2"));
    assert!(db.nearest("shared", "p1", 7)[0].starts_with("p1/000007"), "the search finds it before");

    world.archived(&plane).await;
    let verified = world.call("user:auditor", "knowledge.archive.verify", json!({"plane": plane, "restore": true})).await;
    assert_eq!((&verified["archive"], &verified["rows"]), (&json!("verified"), &json!(35)), "{verified}");
    purge(&world, &plane).await;
    assert_eq!(db.records("shared", None), neighbour, "of the collection, the neighbour is left");
    assert!(db.nearest("shared", "p1", 7).iter().all(|id| id.starts_with("p2/")));
    let proof =
        world.call("user:auditor", "governance.audit.list", json!({"plane": plane, "event_type": "STAGE_COMPLETED"})).await;
    let said = proof["entries"].as_array().expect("entries").iter().map(Json::to_string).collect::<String>();
    assert!(
        [
            "chroma vacuum",
            "overwritten before they were deleted",
            "in the server's memory",
            "asked to be cut",
            "automatically_purge"
        ]
        .iter()
        .all(|part| said.contains(part)),
        "what remains is said: {said}"
    );
    db.add("shared", "p2", 20..22);
    invariants::check(&world).await;
}

#[tokio::test]
async fn a_plane_that_owns_its_collection_takes_it_along() {
    let (world, db) = (World::new().await, Chroma::database());
    db.collection("handbook", &[("p1", 30)]);
    db.collection("other", &[("p2", 5)]);
    register(&world, &db).await;
    let plane = bind(&world, "acme", "table=handbook").await;
    assert_eq!(
        world.code("user:root", "knowledge.plane.register", binding(&world, "globex", "table=handbook")).await,
        "BINDING_TAKEN"
    );
    let id = db.url("handbook", "get");
    world.archived(&plane).await;
    assert_eq!(db.id("handbook"), None, "evicted, it is gone");
    let (status, _) = crate::support::http::ask("POST", &id, Some(&json!({}))).expect("an answer");
    assert_eq!(status, 404, "and who kept its id finds nothing either");
    purge(&world, &plane).await;
    let asked = world.texts("SELECT ask FROM policy_decisions").await;
    assert!(asked.iter().any(|ask| ask.contains("[\"chroma\"]")), "policies see its driver: {asked:?}");
    assert_eq!(db.records("other", None).len(), 5);
    invariants::check(&world).await;
}

#[tokio::test]
async fn an_inventory_leaves_the_records_and_the_purge_takes_them() {
    let (world, db) = (World::with("[archive]\npart_rows_max = 10\n").await, Chroma::database());
    db.collection("shared", &[("p1", 35), ("p2", 5)]);
    register(&world, &db).await;
    let plane = bind(&world, "acme", P1).await;
    let terms = json!({"plane": plane, "ground": "erasure_request", "reason": "asked for it", "grace": "0s", "received_at": "2026-03-01T09:00:00Z"});
    world.call("user:alice", "knowledge.offboarding.request", terms).await;
    world.drain().await;
    assert_eq!(world.state(&plane).await, "ARCHIVED", "{}", world.status(&plane).await);
    assert_eq!(db.records("shared", Some("p1")).len(), 35, "an inventory evicts nothing");
    assert_eq!(knowledge::occurrences(&world.dir.path().join("archive"), b"marker-p1"), 0, "and holds no content");
    purge(&world, &plane).await;
    assert_eq!(db.records("shared", None).len(), 5);
    invariants::check(&world).await;
}

#[tokio::test]
async fn a_purged_planes_vectors_are_overwritten_its_texts_leave_with_a_vacuum_and_its_neighbours_searches_find_the_same() {
    let world = World::new().await;
    let folder = world.dir.path().join("chroma");
    let mut db = Chroma::apart(&folder);
    // The index is written to disk after every thousand entries of the log.
    db.collection("shared", &[("p1", 1_500), ("p2", 1_000)]);
    register(&world, &db).await;
    let plane = bind(&world, "acme", P1).await;
    let bytes = |number: usize| vector("p1", number).iter().flat_map(|axis| axis.to_le_bytes()).collect::<Vec<_>>();
    let is_index = |path: &Path| path.file_name().is_some_and(|name| name == "data_level0.bin" || name == "length.bin");
    let places = |number| knowledge::places(&folder, &bytes(number));
    let known: Vec<_> = [0, 1, 700, 999].map(|number| (number, places(number))).into();
    assert!(known.iter().all(|(_, places)| places.iter().any(|(path, _)| is_index(path))), "they are in the index before");
    let neighbour = db.records("shared", Some("p2"));
    world.archived(&plane).await;
    purge(&world, &plane).await;
    assert_eq!(db.records("shared", None), neighbour);
    db.vacuum();
    // Where an index file has nothing to say, there is what was in the server's memory, now this and now that: a defect of its own,
    // which nothing over HTTP mends and the evidence tells. So these files are looked at where a vector was.
    for (number, before) in known {
        let left: Vec<_> = places(number).into_iter().filter(|place| !is_index(&place.0) || before.contains(place)).collect();
        assert_eq!(left, [], "the vector of record {number}");
    }
    for marker in ["marker-p1-", "p1/000"] {
        let left = knowledge::places(&folder, marker.as_bytes()).into_iter().filter(|(path, _)| !is_index(path));
        assert_eq!(left.count(), 0, "{marker}");
    }
    assert!(knowledge::occurrences(&folder, b"marker-p2-") > 0, "the search looks where it should");
    // The neighbour's searches find what they found, also in the index as it was written.
    for round in ["running", "started again"] {
        let itself = |number: &usize| {
            db.nearest("shared", "p2", *number).first().is_some_and(|id| id.starts_with(&format!("p2/{number:06}")))
        };
        let missed: Vec<_> = (0..1_000).step_by(10).filter(|number| !itself(number)).collect();
        assert!(missed.len() <= 2, "{round}: of 100 searches these do not find the record that they name: {missed:?}");
        db.restart();
    }
}

#[tokio::test]
async fn records_left_blank_by_an_erasure_that_died_are_deleted_by_the_next_and_stay_whole_in_the_archive() {
    let (world, db) = (World::with("[archive]\npart_rows_max = 10\n").await, Arc::new(Chroma::database()));
    db.collection("shared", &[("p1", 25), ("p2", 5)]);
    let (between, plane) = behind(&world, &db, P1).await;
    world.reach(&plane, "evict").await;
    // As a worker leaves it that overwrites, and dies before it deletes.
    let other = db.clone();
    between.once(&["/delete"], "p1/", move || {
        let blank = other.records("shared", Some("p1")).into_iter().filter(|record| record.contains("lethe_blank"));
        assert_eq!(blank.count(), 10, "a part of the archive is erased at once");
        killed()
    });
    settle(&world).await;
    assert_eq!(world.state(&plane).await, "ARCHIVED", "{}", world.status(&plane).await);
    assert_eq!(db.records("shared", None).len(), 5);
    let status = world.status(&plane).await;
    assert_eq!(status["offboarding"]["plan"]["archive_rows"], 25, "no other export was made: {status}");
    let verified = world.call("user:auditor", "knowledge.archive.verify", json!({"plane": plane, "restore": true})).await;
    assert_eq!((&verified["archive"], &verified["rows"]), (&json!("verified"), &json!(25)), "{verified}");
    invariants::check(&world).await;
}

#[tokio::test]
async fn another_collection_under_the_old_name_proves_nothing() {
    let (world, db) = (World::new().await, Chroma::database());
    db.collection("shared", &[("p1", 10), ("p2", 5)]);
    register(&world, &db).await;
    let plane = bind(&world, "acme", P1).await;
    let mut terms = request(&plane, "0s");
    terms["evict"] = json!("at_purge");
    world.call("user:alice", "knowledge.offboarding.request", terms).await;
    world.drain().await;
    world.approve(&plane).await;
    db.drop_collection("shared");
    db.collection("shared", &[("p2", 5)]);
    world.drain().await;
    assert_eq!(world.state(&plane).await, "ARCHIVED");
    let error = &world.status(&plane).await["offboarding"]["last_error"];
    assert_eq!(error["code"], "WRONG_PLACE", "{error}");
    invariants::check(&world).await;
}

#[tokio::test]
async fn what_writes_past_the_fence_is_exported_before_it_goes() {
    let (world, db) = (World::new().await, Chroma::database());
    db.collection("handbook", &[("p1", 12)]);
    register(&world, &db).await;
    let plane = bind(&world, "acme", "table=handbook").await;
    world.reach(&plane, "evict").await;
    db.add("handbook", "p1", 12..15);
    world.drain().await;
    assert_eq!(world.state(&plane).await, "ARCHIVED", "{}", world.status(&plane).await);
    assert_eq!(world.status(&plane).await["offboarding"]["plan"]["archive_rows"], 15);
    // And what comes back after everything is found.
    purge(&world, &plane).await;
    db.collection("handbook", &[("p1", 1)]);
    let taken = world.code("user:root", "knowledge.plane.register", binding(&world, "acme", "table=handbook")).await;
    assert!(["BINDING_TAKEN", "MAPPING_WRONG"].contains(&taken), "{taken}");
    invariants::check(&world).await;
}

#[tokio::test]
async fn each_wrong_mapping_says_what_would_be_right() {
    let (world, db) = (World::new().await, Chroma::database());
    db.collection("shared", &[("p1", 3)]);
    db.on("shared", "add", &json!({"ids": ["n"], "embeddings": [vector("n", 1)], "metadatas": [{"plane": 7}]}));
    register(&world, &db).await;
    for (query, said) in [
        ("table=absent&plane_column=plane&plane=p1&key=id", "there is none of this name"),
        ("table=shared&plane_column=plane&plane=p1&key=uuid", "write key=id"),
        ("table=shared&plane_column=plane&plane=p1&key=id&text=body", "write text=document"),
        ("table=shared&plane_column=plane&plane=7&key=id", "as a number"),
        ("table=lethe_fence&key=id", "Lethe's own"),
    ] {
        let mut plane = binding(&world, "acme", P1);
        plane["stores"] = json!([format!("vectors?{query}")]);
        let refusal = world.refused("user:root", "knowledge.plane.register", plane).await;
        assert!(refusal.message.contains(said), "{query}: {refusal}");
    }
    for (url, said) in [
        (db.store_url().replace("default_tenant", "nobody"), "nobody"),
        ("chroma+http://127.0.0.1:1/a/b".to_owned(), "127.0.0.1:1"),
        ("chroma+http://user:hunter2@127.0.0.1:1/a/b".to_owned(), "password"),
    ] {
        let store = json!({"name": "other", "url": url, "tenants": ["acme"]});
        let refusal = world.refused("user:root", "integrations.store.add", store).await;
        assert!(refusal.message.contains(said) && !refusal.message.contains("hunter2"), "{refusal}");
    }
}

#[tokio::test]
async fn records_that_are_ingested_again_after_a_purge_are_found_though_chroma_refuses_nobody() {
    for (query, name) in [(P1, "shared"), ("table=own", "own")] {
        let (world, db) = (World::with("[probe]\nkeep = \"vectors\"\n").await, Chroma::database());
        db.collection(name, &[("p1", 10)]);
        db.collection("shared", &[("p2", 5)]);
        register(&world, &db).await;
        let plane = bind(&world, "acme", query).await;
        world.purged(&plane).await;
        world.clock.advance(chrono::TimeDelta::days(1));
        assert_eq!(world.probe().await.clean, 1, "{name}");
        // As before, in the same collection or in another one of its name.
        db.collection(name, &[("p1", 10)]);
        assert_eq!(world.run_probe("user:bob", &plane).await.found, 1, "{name}");
        let seen = world.finding(&plane).await.expect("a finding")["evidence"]["stores"][0]["seen"].clone();
        assert_eq!(
            (&seen["remaining"], &seen["keys_found"], &seen["vectors_found"]),
            (&json!(10), &json!(10), &json!(10)),
            "{seen}"
        );
        if name == "shared" {
            // Under another plane's name it is known by its key and digest.
            let ids: Vec<_> = (0..10).map(|number| format!("p1/{number:06}\né")).collect();
            let moved: Vec<_> = ids.iter().map(|_| json!({"plane": "P1 "})).collect();
            db.on(name, "update", &json!({"ids": ids, "metadatas": moved}));
            assert_eq!(world.run_probe("user:bob", &plane).await.found, 1);
            let seen = world.finding(&plane).await.expect("a finding")["evidence"]["stores"][0]["seen"].clone();
            assert_eq!((&seen["remaining"], &seen["keys_found"]), (&json!(0), &json!(10)), "{seen}");
            db.on(name, "delete", &json!({"ids": ids}));
        } else {
            db.drop_collection(name);
        }
        assert_eq!(world.run_probe("user:bob", &plane).await.clean, 1, "{name}");
        // What remembers the purge is gone: a database restored from before.
        db.drop_collection("lethe_fence");
        db.collection(name, &[]);
        assert_eq!(world.run_probe("user:bob", &plane).await.found, 1, "{name}");
        let finding = world.finding(&plane).await.expect("a finding");
        let store = &finding["evidence"]["stores"][0];
        assert_eq!((&store["seen"]["fence"], &store["fence_set_again"]), (&json!("missing"), &json!(true)), "{finding}");
        assert_eq!(world.run_probe("user:bob", &plane).await.clean, 1, "{name}");
        invariants::check(&world).await;
    }
}
