//! Grounds: why a plane leaves decides what happens to it. A demand for erasure stops access at once and archives no content.

use chrono::TimeDelta;
use lethe_worker::config::Config;
use serde_json::{Value as Json, json};

use crate::support::{World, invariants, knowledge, request};

const REQUEST: &str = "knowledge.offboarding.request";

fn erasure(plane: &str) -> Json {
    json!({"plane": plane, "ground": "erasure_request", "reason": "article 17"})
}

#[tokio::test]
async fn a_demand_for_erasure_archives_an_inventory_and_no_content_and_purges_everything() {
    let world = World::new().await;
    let plane = world.acme(60).await;
    let (file, archive) = (world.dir.path().join("knowledge.db"), world.dir.path().join("archive"));
    let neighbour = knowledge::digest(&file, "p2").await;
    let before = knowledge::digest(&file, "p1").await;
    let token = world.call("user:root", "knowledge.token.issue", json!({"plane": plane})).await["token"].clone();
    world.call("user:alice", REQUEST, erasure(&plane)).await;

    // Before any worker has been there: access has ended.
    let check = json!({"plane": plane, "token": token});
    assert_eq!(world.code("sdk:app", "knowledge.access.check", check).await, "TOKEN_NOT_ACTIVE");
    for (kind, code) in [("query", "USAGE_REFUSED"), ("run", "PLANE_NOT_ACTIVE")] {
        let usage = json!({"plane": plane, "kind": kind, "holder": "h", "ttl": "1m"});
        assert_eq!(world.code("sdk:app", "knowledge.usage.open", usage).await, code);
    }
    world.drain().await;
    assert!(world.write("p1").await.is_err(), "and so has ingestion, once deregister fenced the store");
    world.advance(TimeDelta::days(7)).await;
    assert_eq!(
        (world.state(&plane).await.as_str(), world.blocked_by(&plane).await),
        ("ARCHIVED", vec!["APPROVAL_REQUIRED".to_owned()])
    );
    assert_eq!(knowledge::digest(&file, "p1").await, before, "the hot data stays where it is");
    for word in ["marker-p1-", "lorem", "document-", "p1-7"] {
        assert_eq!(knowledge::occurrences(&archive, word.as_bytes()), 0, "{word} in the archive");
    }
    let manifest = find(&archive, "manifest.json");
    let manifest: Json = serde_json::from_slice(&std::fs::read(manifest).unwrap()).unwrap();
    assert_eq!((&manifest["contents"], &manifest["stores"][0]["rows"]), (&json!("inventory"), &json!(60)));
    for part in manifest["stores"][0]["parts"].as_array().unwrap() {
        assert_eq!((&part["first_key"], &part["last_key"]), (&Json::Null, &Json::Null), "a key may say something");
    }
    let plan = world.status(&plane).await["offboarding"]["plan"].clone();
    assert_eq!(plan["stores"][0]["records"], 60, "what the approver reads is what the purge destroys");

    world.approve(&plane).await;
    world.drain().await;
    assert_eq!(world.state(&plane).await, "PURGED");
    assert_eq!((knowledge::digest(&file, "p1").await.0, knowledge::digest(&file, "p2").await), (0, neighbour));
    assert!(world.app.ledger.truncate_wal().await.unwrap());
    assert_eq!(world.occurs("marker-p1-7 "), 0);
    assert_eq!(world.number("SELECT count(*) FROM offboardings WHERE salt IS NOT NULL").await, 0, "the inventory's key is gone");
    assert_eq!(world.entries(&plane, "STAGE_STARTED").await, 5, "no evict");
    invariants::check(&world).await;
}

fn find(folder: &std::path::Path, name: &str) -> std::path::PathBuf {
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in folder.read_dir().unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.file_name().unwrap() == name {
                return path;
            }
        }
    }
    panic!("no {name} below {}", folder.display());
}

#[tokio::test]
async fn records_that_came_after_the_inventory_are_not_erased_unseen() {
    let world = World::new().await;
    let plane = world.acme(10).await;
    world.call("user:alice", REQUEST, erasure(&plane)).await;
    world.drain().await;
    world.advance(TimeDelta::days(7)).await;
    // Somebody goes past the fence.
    let mut db = knowledge::open(&world.dir.path().join("knowledge.db")).await;
    sqlx::raw_sql("UPDATE lethe_fence SET mode = 'open'").execute(&mut db).await.unwrap();
    knowledge::insert(&mut db, "p1", 901).await.unwrap();
    sqlx::raw_sql("UPDATE lethe_fence SET mode = 'closed'").execute(&mut db).await.unwrap();
    drop(db);
    world.approve(&plane).await;
    world.drain().await;
    let status = world.status(&plane).await;
    assert_eq!((&status["state"], &status["offboarding"]["last_error"]["code"]), (&json!("ARCHIVED"), &json!("UNKNOWN_RECORDS")));
    assert_eq!(
        knowledge::digest(&world.dir.path().join("knowledge.db"), "p1").await.0,
        11,
        "nobody approved its end: nothing goes"
    );
    invariants::check(&world).await;
}

#[tokio::test]
async fn a_due_date_that_cannot_be_kept_is_refused_and_both_dates_are_named() {
    let world = World::new().await;
    let plane = world.acme(2).await;
    let mut late = erasure(&plane);
    late["received_at"] = json!("2026-02-05T09:00:00Z");
    let refused = world.refused("user:alice", REQUEST, late.clone()).await;
    assert_eq!(refused.code.as_str(), "DUE_DATE_UNREACHABLE");
    for date in ["2026-03-08T09:00:00", "2026-03-06T00:00:00"] {
        assert!(refused.message.contains(date), "{refused}");
    }
    late["grace"] = json!("4d");
    let accepted = world.call("user:alice", REQUEST, late.clone()).await;
    assert_eq!(
        accepted["offboarding"]["deadlines"]["legal_due_at"], "2026-03-06T00:00:00Z",
        "the fifth of March counts whole, a month from the day it was received"
    );
    assert_eq!(world.call("user:alice", REQUEST, late).await["repeated"], true);
    let mut tomorrow = erasure("globex/handbook");
    tomorrow["received_at"] = json!("2026-03-02T09:00:00Z");
    assert_eq!(world.code("user:alice", REQUEST, tomorrow).await, "INVALID_ARGUMENT", "not received yet");
    invariants::check(&world).await;
}

#[tokio::test]
async fn erasure_retains_nothing_and_any_other_retention_names_its_legal_basis() {
    let world = World::with("[grounds.internal]\nretention = \"0s\"\nretention_basis = \"\"").await;
    let plane = world.acme(2).await;
    let mut kept = erasure(&plane);
    kept["retention"] = json!("1d");
    assert_eq!(world.code("user:alice", REQUEST, kept).await, "RETENTION_INVALID");
    let mut internal = json!({"plane": plane, "ground": "internal", "reason": "r", "retention": "30d"});
    assert_eq!(world.code("user:alice", REQUEST, internal.clone()).await, "RETENTION_INVALID", "no basis");
    internal["retention_basis"] = json!("tax law, section 147");
    world.call("user:alice", REQUEST, internal).await;
    assert_eq!(world.texts("SELECT retention_basis FROM offboardings").await, ["tax law, section 147"]);
    for wrong in ["-1d", "soon", "11years"] {
        let mut terms = request("globex/handbook", "1h");
        terms["retention"] = json!(wrong);
        assert_eq!(world.code("user:alice", REQUEST, terms).await, "RETENTION_INVALID", "{wrong}");
    }
    // What the request cannot say, the configuration cannot either.
    for wrong in ["[grounds.erasure_request]\nretention = \"1d\"", "[grounds.internal]\nretention_basis = \" \""] {
        let file = world.dir.path().join("wrong.toml");
        std::fs::write(&file, wrong).unwrap();
        assert!(Config::load(Some(&file)).is_err(), "{wrong}");
    }
    invariants::check(&world).await;
}

#[tokio::test]
async fn a_request_for_erasure_cannot_ask_for_less() {
    let world = World::new().await;
    let plane = world.acme(2).await;
    let mut weaker = erasure(&plane);
    weaker["grace_access"] = json!("full");
    weaker["evict"] = json!("after_archive");
    world.call("user:alice", REQUEST, weaker).await;
    assert_eq!(world.texts("SELECT grace_access || ' ' || evict FROM offboardings").await, ["none at_purge"]);
    invariants::check(&world).await;
}

#[tokio::test]
async fn a_hot_copy_can_be_kept_until_the_purge_under_any_ground() {
    let world = World::new().await;
    let plane = world.acme(30).await;
    let file = world.dir.path().join("knowledge.db");
    let mut terms = request(&plane, "1h");
    terms["evict"] = json!("at_purge");
    world.call("user:alice", REQUEST, terms).await;
    world.drain().await;
    world.advance(TimeDelta::hours(1)).await;
    assert_eq!((world.state(&plane).await.as_str(), knowledge::digest(&file, "p1").await.0), ("ARCHIVED", 30));
    assert!(knowledge::occurrences(&world.dir.path().join("archive"), b"PAR1") > 0, "and the archive holds the content");
    world.approve(&plane).await;
    world.drain().await;
    assert_eq!((world.state(&plane).await.as_str(), knowledge::digest(&file, "p1").await.0), ("PURGED", 0));
    assert!(world.app.ledger.truncate_wal().await.unwrap());
    assert_eq!(world.occurs("marker-p1-7 "), 0);
    invariants::check(&world).await;
}
