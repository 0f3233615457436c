//! Conformance: every driver, and the reference server of the store protocol, keep what a store must promise; a server that lies is caught.

use serde_json::{Value as Json, json};

use crate::support::{World, chroma::Chroma, invariants, knowledge, postgres::Database, reference::Reference};

/// Runs the suite; answers its document.
async fn conform(world: &World, store: &str, maps: [&str; 2], users: [&str; 2]) -> Json {
    let [write, read] = users.map(|command| if command.is_empty() { Json::Null } else { json!(command) });
    let arguments = json!({
        "store": store, "map": maps[0], "neighbour": maps[1], "records": 40, "write_command": write, "read_command": read,
    });
    world.call("user:root", "integrations.store.conform", arguments).await
}

fn results(document: &Json, result: &str) -> Vec<String> {
    let promises = document["promises"].as_array().expect("promises").iter().filter(|promise| promise["result"] == result);
    promises.map(|promise| format!("{}: {}", promise["promise"], promise["said"])).collect()
}

/// That every promise was asked and kept, but for so many that the store itself says it does not keep.
fn all_kept(document: &Json, declared: usize) {
    assert_eq!(document["store"], "conforms", "{:#?}", results(document, "broken"));
    assert_eq!(results(document, "broken"), Vec::<String>::new());
    assert_eq!(results(document, "not_asked"), Vec::<String>::new());
    assert_eq!(results(document, "declared").len(), declared, "{:#?}", results(document, "declared"));
    assert_eq!(results(document, "kept").len(), 25 - declared);
}

#[tokio::test]
async fn sqlite_conforms() {
    let world = World::new().await;
    let file = world.dir.path().join("knowledge.db");
    knowledge::create(&file, &[("a", 40), ("b", 30)]).await;
    let map = |plane| format!("table=chunks&plane_column=plane&plane={plane}&key=id&text=body&embedding=embedding");
    let python =
        |sql: &str| format!("python3 -c 'import sqlite3, sys; d = sqlite3.connect(\"{}\"); {sql}; d.commit()'", file.display());
    let write = python("d.execute(\"INSERT INTO chunks (plane, body) VALUES (\\\"a\\\", \\\"new\\\")\")");
    // What SQLite cannot refuse is a read: its application reads the file. Lethe says so, and asks no user.
    let document = conform(&world, &format!("sqlite:{}", file.display()), [&map("a"), &map("b")], [&write, ""]).await;
    all_kept(&document, 0);
    invariants::check(&world).await;
}

#[tokio::test]
async fn postgres_conforms() {
    let (world, db) = (World::new().await, Database::new().await);
    db.chunks("kb.chunks", false, &[("a", 40), ("b", 30)]).await;
    let map = |plane| format!("table=kb.chunks&plane_column=plane&plane={plane}&key=id&text=body&embedding=embedding");
    let psql = |sql: &str| format!("psql -X -q -A -t -v ON_ERROR_STOP=1 '{}' -c \"{sql}\"", db.app_url());
    let write = psql("INSERT INTO kb.chunks (plane, id, body) VALUES ('a', 5000, 'new')");
    let read = format!("{} | grep -q .", psql("SELECT id FROM kb.chunks WHERE plane = 'a' LIMIT 1"));
    let url = db.store_url(world.dir.path(), "");
    all_kept(&conform(&world, &url, [&map("a"), &map("b")], [&write, &read]).await, 0);
}

#[tokio::test]
async fn chroma_conforms_and_says_that_it_refuses_nobody() {
    let (world, db) = (World::new().await, Chroma::database());
    db.collection("shared", &[("a", 40), ("b", 30)]);
    db.collection("own-a", &[("a", 40)]);
    db.collection("own-b", &[("b", 30)]);
    let shared = |plane| format!("table=shared&plane_column=plane&plane={plane}&key=id&embedding=embedding");
    let post = |collection: &str, verb: &str, body: &str| {
        let url = db.url(collection, verb);
        format!(
            "python3 -c 'import sys, urllib.request as u; r = u.urlopen(u.Request(\"{url}\", sys.stdin.buffer.read(), {{\"content-type\": \"application/json\"}})); sys.exit(r.read().count(b\"a/\") == 0 and \"{verb}\" == \"get\")' <<END\n{body}\nEND"
        )
    };
    for (collection, maps) in [
        ("shared", [shared("a"), shared("b")]),
        ("own-a", ["own-a", "own-b"].map(|own| format!("table={own}&key=id&embedding=embedding"))),
    ] {
        let new = r#"{"ids": ["a/new-$$"], "embeddings": [[1, 2, 3, 4, 5, 6, 7, 8]], "metadatas": [{"plane": "a"}]}"#;
        let write = post(collection, "add", new);
        let document = conform(&world, &db.store_url(), [&maps[0], &maps[1]], [&write, ""]).await;
        assert_eq!(document["store"], "conforms", "{:#?}", results(&document, "broken"));
        let declared = results(&document, "declared");
        assert!(!declared.is_empty() && declared.iter().all(|said| said.contains("users can write")), "{declared:#?}");
        assert_eq!(results(&document, "not_asked"), Vec::<String>::new());
    }
}

const NOTES: [&str; 2] = ["a", "b"];

fn notes() -> [String; 2] {
    NOTES.map(|plane| format!("table=notes&plane_column=plane&plane={plane}&key=id&text=body&embedding=embedding"))
}

/// A reference server with a plane to test and its neighbour.
fn reference(folder: &std::path::Path, options: &[&str]) -> Reference {
    let server = Reference::start(folder, options);
    server.fill("a", 1, 40);
    server.fill("b", 1001, 30);
    server
}

fn users(server: &Reference) -> [String; 2] {
    let python = |request: &str, check: &str| {
        format!("python3 -c 'import json, sys, urllib.request as u; said = json.loads(u.urlopen({request}).read()); {check}'")
    };
    let note = format!(
        "u.Request(\"{}/notes\", json.dumps({{\"id\": 5000, \"plane\": \"a\", \"body\": \"new\"}}).encode())",
        server.url
    );
    [python(&note, "pass"), python(&format!("\"{}/notes?plane=a\"", server.url), "sys.exit(not said[\"notes\"])")]
}

#[tokio::test]
async fn the_reference_server_conforms() {
    let world = World::new().await;
    let server = reference(world.dir.path(), &[]);
    let ([write, read], [a, b]) = (users(&server), notes());
    all_kept(&conform(&world, &server.url, [&a, &b], [&write, &read]).await, 0);
    let trail = world.call("user:auditor", "governance.audit.list", json!({"event_type": "STORE_TESTED"})).await;
    assert_eq!(trail["entries"][0]["evidence"]["kept"], 25, "{trail}");
}

#[tokio::test]
async fn a_server_that_lies_is_caught_each_time() {
    let world = World::new().await;
    for (lie, promise) in [
        ("lies_about_count", "it holds as many records as were put there"),
        ("loses_a_record", "it holds as many records as were put there"),
        ("ignores_cursor", "its records can be read, in order"),
        ("pages_out_of_order", "its records can be read, in order"),
        ("forgets_epochs", "an older epoch is refused"),
        ("ignores_versions", "a record that changed since it was read is left alone"),
        ("deletes_nothing", "exactly the records that are named go"),
        ("takes_the_neighbour", "its neighbour never changed"),
        ("fences_nothing", "closed to writes: users do not write, and read on"),
    ] {
        let folder = tempfile::tempdir().expect("a folder");
        let server = reference(folder.path(), &["--lie", lie]);
        let ([write, read], [a, b]) = (users(&server), notes());
        let document = conform(&world, &server.url, [&a, &b], [&write, &read]).await;
        let broken = results(&document, "broken");
        assert_eq!(document["store"], "broken", "{lie}");
        assert!(broken.iter().any(|said| said.contains(promise)), "{lie}: {broken:#?}");
    }
}

#[tokio::test]
async fn what_belongs_to_a_plane_is_not_tested_with() {
    let world = World::new().await;
    let plane = world.acme(25).await;
    let map = |plane| format!("table=chunks&plane_column=plane&plane={plane}&key=id");
    let before = knowledge::digest(&world.dir.path().join("knowledge.db"), "p1").await;
    for store in ["kb".to_owned(), format!("sqlite:{}", world.dir.path().join("knowledge.db").display())] {
        let arguments = json!({"store": store, "map": map("p1"), "neighbour": map("p2")});
        let refusal = world.refused("user:root", "integrations.store.conform", arguments).await;
        assert_eq!(refusal.code.as_str(), "BINDING_TAKEN");
        assert!(refusal.message.contains(&plane), "{refusal}");
    }
    let whole = json!({"store": "kb", "map": "table=chunks&key=id", "neighbour": map("p2")});
    assert_eq!(world.code("user:root", "integrations.store.conform", whole).await, "BINDING_TAKEN");
    let same = json!({"store": "kb", "map": map("p9"), "neighbour": map("p9")});
    assert_eq!(world.code("user:root", "integrations.store.conform", same).await, "MAPPING_WRONG");
    assert_eq!(knowledge::digest(&world.dir.path().join("knowledge.db"), "p1").await, before);
    invariants::check(&world).await;
}
