//! Conformance: every driver, and the reference server of the store protocol, keep what a store must promise; a server that lies is caught.

use std::process::Command;

use serde_json::{Value as Json, json};

use crate::support::{
    World,
    chroma::Chroma,
    invariants, knowledge,
    postgres::Database,
    reference::{Reference, fill},
};

const CONFORM: &str = "integrations.store.conform";

/// Runs the suite with these commands of users; answers its document.
async fn conform(world: &World, store: &str, maps: [&str; 2], users: &Json) -> Json {
    let mut arguments = json!({"store": store, "map": maps[0], "neighbour": maps[1], "records": 40});
    arguments.as_object_mut().expect("arguments").extend(users.as_object().expect("commands").clone());
    world.call("user:root", CONFORM, arguments).await
}

fn results(document: &Json, result: &str) -> Vec<String> {
    let promises = document["promises"].as_array().expect("promises").iter().filter(|promise| promise["result"] == result);
    promises.map(|promise| format!("{}: {}", promise["promise"], promise["said"])).collect()
}

const PROMISES: usize = 34;
const ORPHANS: &str = "a record that lost its plane is found by a probe";
const RESTART: &str = "a restart opens nothing";
const EQUAL_KEYS: &str = "its neighbour's records under the same keys stay";
const SPELLING: &str = "whatever else the plane answers to is described as the same plane";

/// That every promise was asked and kept, but for those that could not be asked and those that the store says it does not keep.
fn all_kept(document: &Json, not_asked: &[&str], declared: usize) {
    assert_eq!(results(document, "broken"), Vec::<String>::new());
    let unasked = results(document, "not_asked");
    assert!(not_asked.iter().all(|promise| unasked.iter().any(|said| said.contains(promise))), "{unasked:#?}");
    assert_eq!(unasked.len(), not_asked.len(), "{unasked:#?}");
    assert_eq!(results(document, "declared").len(), declared, "{:#?}", results(document, "declared"));
    assert_eq!(results(document, "kept").len(), PROMISES - not_asked.len() - declared);
    assert_eq!(document["store"], if declared > 0 { "conforms_as_declared" } else { "conforms" });
}

#[tokio::test]
async fn sqlite_conforms() {
    let world = World::new().await;
    let file = world.dir.path().join("knowledge.db");
    knowledge::create(&file, &[("a", 40), ("b", 30)]).await;
    let map = |plane| format!("table=chunks&plane_column=plane&plane={plane}&key=id&text=body&embedding=embedding");
    let python = |sql: &str, values: &str| {
        let told = values.split(' ').map(|name| format!("e[\"LETHE_CONFORM_{name}\"]")).collect::<Vec<_>>().join(", ");
        format!(
            "python3 -c 'import os, sqlite3; e = os.environ; d = sqlite3.connect(\"{}\"); d.execute(\"{sql}\", [{told}]); d.commit()'",
            file.display()
        )
    };
    // What SQLite cannot refuse is a read: its application reads the file. Lethe says so, and asks no user.
    let users = json!({
        "write_command": python("INSERT INTO chunks (plane, body) VALUES (?, ?)", "PLANE MARKER"),
        "change_command": python("UPDATE chunks SET score = -1 WHERE plane = ? AND id = ?", "PLANE KEY"),
    });
    let document = conform(&world, &format!("sqlite:{}", file.display()), [&map("a"), &map("b")], &users).await;
    all_kept(&document, &[ORPHANS, RESTART, EQUAL_KEYS], 0);
    invariants::check(&world).await;
}

#[tokio::test]
async fn postgres_conforms() {
    let (world, db) = (World::new().await, Database::new().await);
    db.chunks("kb.chunks", false, &[("a", 40), ("b", 30)]).await;
    db.as_app("UPDATE kb.chunks SET id = id + 100 WHERE plane = 'b' AND id > 20").await.expect("keys of its own");
    let map = |plane| format!("table=kb.chunks&plane_column=plane&plane={plane}&key=id&text=body&embedding=embedding");
    let psql = |sql: &str| format!("psql -X -q -A -t -v ON_ERROR_STOP=1 '{}' -c \"{sql}\"", db.app_url());
    let new = "INSERT INTO kb.chunks (plane, id, body) VALUES ('$LETHE_CONFORM_PLANE', $$, '$LETHE_CONFORM_MARKER')";
    let one = "SELECT id FROM kb.chunks WHERE plane = '$LETHE_CONFORM_PLANE' LIMIT 1";
    let change = "UPDATE kb.chunks SET page = -1 WHERE plane = '$LETHE_CONFORM_PLANE' AND id = $LETHE_CONFORM_KEY";
    let users = json!({
        "write_command": psql(new), "read_command": format!("{} | grep -q .", psql(one)), "change_command": psql(change),
    });
    let url = db.store_url(world.dir.path(), "");
    // Of a purged plane there is nothing left to hide, and its row security goes.
    let document = conform(&world, &url, [&map("a"), &map("b")], &users).await;
    all_kept(&document, &[ORPHANS, RESTART], 1);
    assert!(results(&document, "declared")[0].contains("users can read, users cannot write"), "{document}");
    assert!(document["unfenced"].to_string().contains("reads of a plane that was purged"), "{document}");
}

#[tokio::test]
async fn chroma_conforms_and_says_that_it_refuses_nobody() {
    let (world, db) = (World::new().await, Chroma::database());
    db.collection("shared", &[("a", 40), ("b", 30)]);
    db.collection("own-a", &[("a", 40)]);
    db.collection("own-b", &[("b", 30)]);
    let shared = |plane| format!("table=shared&plane_column=plane&plane={plane}&key=id&embedding=embedding");
    let post = |verb: &str, body: &str| {
        let urls = ["shared", "own-a", "own-b"].map(|own| format!("\"{own}\": \"{}\"", db.url(own, verb))).join(", ");
        let request = "u.Request(url, json.dumps(body).encode(), {\"content-type\": \"application/json\"})";
        format!(
            "python3 -c 'import json, os, urllib.request as u; e = os.environ; url = {{{urls}}}[e[\"LETHE_CONFORM_RESOURCE\"]]; \
             body = {body}; u.urlopen({request}).read()'"
        )
    };
    let new = r#"{"ids": [f"new/{os.getpid()}"], "embeddings": [[1, 2, 3, 4, 5, 6, 7, 8]], "documents": [e["LETHE_CONFORM_MARKER"]],
        "metadatas": [{"plane": e["LETHE_CONFORM_PLANE"]}]}"#;
    let changed = r#"{"ids": [e["LETHE_CONFORM_KEY"]], "documents": ["changed"]}"#;
    let users = json!({"write_command": post("add", new), "change_command": post("update", changed)});
    for (maps, not_asked) in [
        ([shared("a"), shared("b")], &[ORPHANS, RESTART, EQUAL_KEYS][..]),
        (
            ["own-a", "own-b"].map(|own| format!("table={own}&key=id&embedding=embedding")),
            &[ORPHANS, RESTART, EQUAL_KEYS, SPELLING],
        ),
    ] {
        let document = conform(&world, &db.store_url(), [&maps[0], &maps[1]], &users).await;
        all_kept(&document, not_asked, 3);
        let declared = results(&document, "declared");
        assert!(declared.iter().all(|said| said.contains("users can write")), "{declared:#?}");
        assert_ne!(document["unfenced"], json!([]));
    }
}

fn notes() -> [String; 2] {
    ["a", "b"].map(|plane| format!("table=notes&plane_column=plane&plane={plane}&key=id&text=body&embedding=embedding"))
}

/// Two planes that have half of their keys in common.
fn fill_both(url: &str) {
    fill(url, "a", 1, 40);
    fill(url, "b", 21, 40);
}

#[tokio::test]
async fn the_reference_server_conforms() {
    let world = World::new().await;
    let server = Reference::start(world.dir.path(), &[]);
    fill_both(&server.url);
    let [a, b] = notes();
    all_kept(&conform(&world, &server.url, [&a, &b], &server.users(&server.url)).await, &[], 0);
    let trail = world.call("user:auditor", "governance.audit.list", json!({"event_type": "STORE_TESTED"})).await;
    assert_eq!(trail["entries"][0]["evidence"]["kept"], PROMISES, "{trail}");
}

/// Runs the suite on the server of a lie, with the users that can tell.
async fn test_lie(world: &World, servers: &Reference, lie: &str, verbs: &[&str]) -> Json {
    let url = servers.lie(lie);
    fill_both(&url);
    let mut users = servers.users(&url);
    users.as_object_mut().expect("commands").retain(|name, _| verbs.iter().any(|verb| name.starts_with(verb)));
    let [a, b] = notes();
    conform(world, &url, [&a, &b], &users).await
}

/// That each of these lies breaks this promise, where these users are asked.
async fn are_caught(lies: &[(&str, &[&str], &str)]) {
    let world = World::new().await;
    let servers = Reference::lying(world.dir.path());
    for (lie, verbs, promise) in lies {
        let document = test_lie(&world, &servers, lie, verbs).await;
        let broken = results(&document, "broken");
        assert_eq!(document["store"], "broken", "{lie}");
        assert!(broken.iter().any(|said| said.contains(promise)), "{lie}: {broken:#?}");
    }
}

const READABLE: &str = "its records can be read, in order";
const AS_MANY: &str = "it holds as many records as were put there";
const NEIGHBOURS: &str = "a record of its neighbour's is not there";
const WRITES: &str = "opened again: users write and read as before";

#[tokio::test]
async fn a_server_that_lies_about_what_it_holds_is_caught_each_time() {
    are_caught(&[
        ("lies_about_count", &[], AS_MANY),
        ("loses_a_record", &[], AS_MANY),
        ("hides_records", &[], AS_MANY),
        ("ignores_cursor", &[], READABLE),
        ("pages_out_of_order", &[], READABLE),
        ("mangles_other", &["write"], WRITES),
        ("drops_column", &["write"], WRITES),
        ("case_insensitive", &[], SPELLING),
        ("version_constant", &["change"], "a record that users changed is told from the old one"),
        ("lookup_ignores_anywhere", &[], NEIGHBOURS),
        ("lookup_always_anywhere", &[], NEIGHBOURS),
    ])
    .await;
}

#[tokio::test]
async fn a_fence_that_is_none_is_caught_each_time() {
    let read_only = "closed to writes: users do not write, and read on";
    let [nobody_opens, users_purged] = ["closed for good: nobody opens it", "closed for good: users neither write nor read"];
    are_caught(&[
        ("fences_nothing", &["write"], read_only),
        ("fences_no_reads", &["read"], "closed: users neither write nor read, and Lethe reads on"),
        ("overcloses", &["read"], read_only),
        ("fence_closes_everybody", &["write", "read"], "its neighbour's users write and read all the while"),
        ("fence_says_only_read_only", &[], "closed: users neither write nor read, and Lethe reads on"),
        ("never_purges", &[], nobody_opens),
        ("purged_reads", &["read"], users_purged),
        ("purged_reopens_by_fence", &[], nobody_opens),
        ("purge_keeps_old_epoch", &[], nobody_opens),
        ("busy_where_it_must_refuse", &[], nobody_opens),
        ("memory_only_fence", &["restart"], RESTART),
    ])
    .await;
}

#[tokio::test]
async fn a_server_that_forgets_whose_a_plane_is_is_caught_each_time() {
    let while_open = "while it is open, it knows its plane and its epoch yet";
    let another = "another plane's fence, delete and probe are refused";
    are_caught(&[
        ("forgets_epochs", &[], "an older epoch is refused"),
        ("unfence_forgets", &[], while_open),
        ("epoch_not_raised_by_unfence", &[], while_open),
        ("stranger_after_unfence", &[], while_open),
        ("fence_anyones", &[], another),
        ("delete_anyones", &[], another),
        ("unfence_anyones", &[], another),
        ("probe_anyones", &[], another),
    ])
    .await;
}

#[tokio::test]
async fn a_server_that_deletes_other_than_it_says_is_caught_each_time() {
    let exactly = "exactly the records that are named go";
    are_caught(&[
        ("ignores_versions", &[], "a record that changed since it was read is left alone"),
        ("deletes_nothing", &[], exactly),
        ("takes_the_neighbour", &[], "its neighbour never changed"),
        ("deletes_by_key_alone", &[], EQUAL_KEYS),
        ("delete_any_plane", &[], NEIGHBOURS),
        ("soft_delete", &[], "the rest goes, and the plane is empty"),
        ("soft_delete_and_scoped_lookup", &[], NEIGHBOURS),
        ("probe_vectors_scoped", &["orphan"], ORPHANS),
        ("vectors_all_or_nothing", &[], exactly),
    ])
    .await;
}

#[tokio::test]
async fn what_a_store_declares_and_what_nobody_said_is_no_plain_yes() {
    let world = World::new().await;
    let servers = Reference::lying(world.dir.path());
    let document = test_lie(&world, &servers, "leaky", &["write", "read"]).await;
    assert_eq!((&document["store"], &document["unfenced"]), (&json!("conforms_as_declared"), &json!(["backups are not fenced"])));
    let declared = results(&document, "declared");
    assert!(!declared.is_empty() && declared.iter().all(|said| said.contains("users can")), "{declared:#?}");
    let honest = Reference::start(world.dir.path(), &[]);
    fill_both(&honest.url);
    let [a, b] = notes();
    let document = conform(&world, &honest.url, [&a, &b], &json!({"records": null})).await;
    let unasked = results(&document, "not_asked");
    assert!(unasked.iter().any(|said| said.contains("nobody said how many were put there")), "{unasked:#?}");
    assert_eq!((&document["store"], &document["not_asked"]), (&json!("conforms"), &json!(9)), "{unasked:#?}");
}

/// Registers plane `a` of a server.
async fn register(world: &World, url: &str) {
    world.call("user:root", "account.tenant.register", json!({"name": "acme"})).await;
    world.call("user:root", "integrations.store.add", json!({"name": "notes", "url": url, "tenants": ["acme"]})).await;
    let archive = format!("file://{}", world.dir.path().join("archive").display());
    let plane = json!({"tenant": "acme", "name": "handbook", "stores": [format!("notes?{}", notes()[0])], "archive": archive});
    world.call("user:root", "knowledge.plane.register", plane).await;
}

/// The notes of plane `a`, as its users count them.
fn left(url: &str) -> usize {
    let said = crate::support::http::done("GET", &format!("{url}/notes?plane=a"), None);
    said["notes"].as_array().expect("notes").len()
}

#[tokio::test]
async fn what_belongs_to_a_plane_is_not_tested_with_in_any_spelling() {
    let world = World::new().await;
    let servers = Reference::lying(world.dir.path());
    let url = servers.lie("case_insensitive");
    fill_both(&url);
    register(&world, &url).await;
    let [a, b] = notes();
    for plane in ["A", "a%20", "%20A"] {
        for store in ["notes", &url] {
            let arguments = json!({"store": store, "map": a.replace("plane=a", &format!("plane={plane}")), "neighbour": b});
            assert_eq!(world.code("user:root", CONFORM, arguments).await, "BINDING_TAKEN", "{plane}");
        }
    }
    assert_eq!(left(&url), 40);
}

#[tokio::test]
async fn a_store_that_is_another_than_was_registered_is_not_tested() {
    let world = World::new().await;
    let servers = Reference::lying(world.dir.path());
    let url = servers.lie("renamed_by_restart");
    fill_both(&url);
    register(&world, &url).await;
    let restart = servers.users(&url)["restart_command"].as_str().expect("a command").to_owned();
    assert!(Command::new("sh").arg("-c").arg(restart).status().expect("restart the servers").success());
    let [a, b] = notes();
    for store in ["notes", &url] {
        let refusal = world.refused("user:root", CONFORM, json!({"store": store, "map": a, "neighbour": b})).await;
        assert_eq!(refusal.code.as_str(), "STORE_UNUSABLE", "{refusal}");
        assert!(refusal.message.contains("as it was registered"), "{refusal}");
    }
    assert_eq!(left(&url), 40);
}

#[tokio::test]
async fn what_belongs_to_a_plane_is_not_tested_with() {
    let world = World::new().await;
    let plane = world.acme(25).await;
    let map = |plane| format!("table=chunks&plane_column=plane&plane={plane}&key=id");
    let before = knowledge::digest(&world.dir.path().join("knowledge.db"), "p1").await;
    for store in ["kb".to_owned(), format!("sqlite:{}", world.dir.path().join("knowledge.db").display())] {
        let arguments = json!({"store": store, "map": map("p1"), "neighbour": map("p2")});
        let refusal = world.refused("user:root", CONFORM, arguments).await;
        assert_eq!(refusal.code.as_str(), "BINDING_TAKEN");
        assert!(refusal.message.contains(&plane), "{refusal}");
    }
    let whole = json!({"store": "kb", "map": "table=chunks&key=id", "neighbour": map("p2")});
    assert_eq!(world.code("user:root", CONFORM, whole).await, "BINDING_TAKEN");
    let same = json!({"store": "kb", "map": map("p9"), "neighbour": map("p9")});
    assert_eq!(world.code("user:root", CONFORM, same).await, "MAPPING_WRONG");
    assert_eq!(knowledge::digest(&world.dir.path().join("knowledge.db"), "p1").await, before);
    invariants::check(&world).await;
}
