//! Scopes: what one plane binds is its own for ever, whatever its store is called, and nothing beyond it is touched.

use chrono::TimeDelta;
use serde_json::{Value as Json, json};

use crate::support::{World, invariants, knowledge};

const REGISTER: &str = "knowledge.plane.register";

fn over(world: &World, store: &str) -> Json {
    let mut arguments = world.binding("acme", "second", "p9");
    arguments["stores"] = json!([store]);
    arguments
}

#[tokio::test]
async fn an_overlapping_scope_is_taken_in_every_spelling() {
    let world = World::new().await;
    world.acme(2).await;
    let file = world.dir.path().join("knowledge.db");
    std::os::unix::fs::symlink(&file, world.dir.path().join("link.db")).unwrap();
    std::fs::hard_link(&file, world.dir.path().join("hard.db")).unwrap();
    let folder = world.dir.path().display();
    let mut whole = over(&world, "kb?table=chunks&key=id");
    whole["whole_table"] = json!(true);
    assert_eq!(world.code("user:root", REGISTER, whole).await, "BINDING_TAKEN", "the whole table");
    for store in [
        "kb?table=chunks&plane_column=plane&plane=p1&key=id".to_owned(),
        "kb?table=CHUNKS&plane_column=PLANE&plane=p1&key=id".into(),
        "kb?table=chunks&plane_column=plane&plane=p1&key=id&text=body".into(),
        "kb?table=chunks&plane_column=source&plane=document-1&key=id".into(),
        format!("sqlite:{folder}/knowledge.db?table=chunks&plane_column=plane&plane=p1&key=id"),
        format!("sqlite:{folder}/./link.db?table=chunks&plane_column=plane&plane=p1&key=id"),
    ] {
        assert_eq!(world.code("user:root", REGISTER, over(&world, &store)).await, "BINDING_TAKEN", "{store}");
    }
    let hard = over(&world, &format!("sqlite:{folder}/hard.db?table=chunks&plane_column=plane&plane=p1&key=id"));
    assert_eq!(
        world.code("user:root", REGISTER, hard).await,
        "NAME_TAKEN",
        "the same file, or one in its place: not under another name"
    );
    for alias in ["link.db", "hard.db"] {
        let again = json!({"name": "again", "url": format!("sqlite:{folder}/{alias}"), "tenants": ["acme"]});
        assert_eq!(world.code("user:root", "integrations.store.add", again).await, "NAME_TAKEN", "{alias} is the same store");
    }
    assert_eq!(world.number("SELECT count(*) FROM stores").await, 1);
    world.call("user:root", REGISTER, over(&world, "kb?table=chunks&plane_column=plane&plane=p9&key=id")).await;
    invariants::check(&world).await;
}

#[tokio::test]
async fn two_stores_of_one_plane_may_not_overlap_either() {
    let world = World::new().await;
    world.acme(2).await;
    let one = "kb?table=chunks&plane_column=plane&plane=p9&key=id";
    let mut twice = over(&world, one);
    twice["stores"] = json!([one, one]);
    assert_eq!(world.code("user:root", REGISTER, twice).await, "BINDING_TAKEN");
    assert_eq!(
        world.code("user:root", REGISTER, json!({"tenant": "acme", "name": "n", "stores": [], "archive": "file:///tmp"})).await,
        "INVALID_ARGUMENT"
    );
    invariants::check(&world).await;
}

#[tokio::test]
async fn a_whole_table_needs_consent_and_a_store_must_be_open_to_the_tenant() {
    let world = World::new().await;
    world.acme(2).await;
    let other = world.dir.path().join("other.db");
    knowledge::create(&other, &[("anything", 3)]).await;
    let url = format!("sqlite:{}", other.display());
    world.call("user:root", "integrations.store.add", json!({"name": "theirs", "url": url, "tenants": ["globex"]})).await;
    let mut whole = over(&world, "theirs?table=chunks&key=id");
    assert_eq!(world.code("user:root", REGISTER, whole.clone()).await, "CONSENT_MISSING");
    whole["whole_table"] = json!(true);
    assert_eq!(world.code("user:root", REGISTER, whole.clone()).await, "STORE_NOT_IN_SCOPE");
    let by_url = over(&world, &format!("{url}?table=chunks&plane_column=plane&plane=p9&key=id"));
    assert_eq!(world.code("user:root", REGISTER, by_url).await, "STORE_NOT_IN_SCOPE", "nor under its URL");
    whole["tenant"] = json!("globex");
    whole["name"] = json!("all-of-it");
    let plane = world.call("user:root", REGISTER, whole).await["plane_id"].as_str().unwrap().to_owned();
    world.archived(&plane).await;
    world.approve(&plane).await;
    world.drain().await;
    assert_eq!(world.state(&plane).await, "PURGED");
    assert_eq!(knowledge::digest(&other, "anything").await.0, 0);
    let back = knowledge::insert(&mut knowledge::open(&other).await, "anything else", 1).await;
    assert!(back.is_err(), "the whole table is closed for good");
    invariants::check(&world).await;
}

#[tokio::test]
async fn a_purged_planes_scope_is_never_given_away_and_its_data_never_taken_back() {
    let world = World::new().await;
    let plane = world.acme(5).await;
    world.archived(&plane).await;
    world.approve(&plane).await;
    world.drain().await;
    assert_eq!(world.state(&plane).await, "PURGED");
    let reused = world.binding("acme", "handbook", "p1");
    assert_eq!(world.code("user:root", REGISTER, reused).await, "BINDING_TAKEN", "its name is free again, its scope is not");
    let back = world.write("p1").await;
    assert!(back.as_ref().is_err_and(|said| said.contains("lethe")), "the store itself refuses re-ingestion: {back:?}");
    let mut db = knowledge::open(&world.dir.path().join("knowledge.db")).await;
    assert!(
        sqlx::raw_sql("UPDATE chunks SET plane = 'p1' WHERE plane = 'p2'").execute(&mut db).await.is_err(),
        "by moving records, too"
    );
    world.write("p2").await.expect("the neighbour goes on");
    let said = world.try_sql(&format!("DELETE FROM bindings WHERE plane_id = '{plane}'")).await;
    assert!(said.is_err_and(|said| said.contains("never given back")));
    let renamed = world.call("user:root", REGISTER, world.binding("acme", "handbook", "p1-new")).await;
    assert_ne!(renamed["plane_id"], json!(plane));
    invariants::check(&world).await;
}

#[tokio::test]
async fn a_plane_over_two_stores_and_two_tables_leaves_as_one() {
    let world = World::new().await;
    world.acme(5).await;
    let (file, other) = (world.dir.path().join("knowledge.db"), world.dir.path().join("notes.db"));
    knowledge::create(&other, &[("n1", 7), ("n2", 4)]).await;
    let mut db = knowledge::open(&file).await;
    let table = "CREATE TABLE notes (k TEXT PRIMARY KEY, owner INTEGER, said TEXT);
        INSERT INTO notes VALUES ('a', 1, 'marker-note-a'), ('b', 1, 'marker-note-b'), ('c', 2, 'marker-note-c')";
    sqlx::raw_sql(table).execute(&mut db).await.unwrap();
    knowledge::insert(&mut db, "p9", 1).await.unwrap();
    drop(db);
    let mut arguments = over(&world, "kb?table=chunks&plane_column=plane&plane=p9&key=id");
    let second = format!("sqlite:{}?table=chunks&plane_column=plane&plane=n1&key=id", other.display());
    arguments["stores"] = json!([arguments["stores"][0], "kb?table=notes&plane_column=owner&plane=1&key=k&text=said", second]);
    let plane = world.call("user:root", REGISTER, arguments).await["plane_id"].as_str().unwrap().to_owned();
    world.archived(&plane).await;
    let stores = world.status(&plane).await["offboarding"]["stores"].clone();
    let counts: Vec<_> = stores
        .as_array()
        .unwrap()
        .iter()
        .map(|store| (store["rows_exported"].clone(), store["rows_remaining"].clone()))
        .collect();
    assert_eq!(counts, [(json!(1), json!(0)), (json!(2), json!(0)), (json!(7), json!(0))]);
    world.approve(&plane).await;
    world.drain().await;
    assert_eq!(world.state(&plane).await, "PURGED");
    assert!(world.app.ledger.truncate_wal().await.unwrap());
    for (marker, left) in [
        ("marker-p9-", false),
        ("marker-note-a", false),
        ("marker-note-c", true),
        ("marker-n1-", false),
        ("marker-n2-1 ", true),
        ("marker-p1-1 ", true),
    ] {
        assert_eq!(world.occurs(marker) > 0, left, "{marker}");
    }
    invariants::check(&world).await;
}

#[tokio::test]
async fn ids_are_made_here_and_names_mean_one_plane_of_one_tenant() {
    let world = World::new().await;
    let plane = world.acme(2).await;
    let mut chosen = world.binding("acme", "second", "p9");
    chosen["plane_id"] = json!(plane);
    assert_eq!(world.code("user:root", REGISTER, chosen).await, "INVALID_ARGUMENT");
    assert_eq!(world.code("user:root", REGISTER, world.binding("acme", "handbook", "p9")).await, "NAME_TAKEN");
    for name in ["", "a/b", "..", ".hidden", "with space"] {
        assert_eq!(world.code("user:root", REGISTER, world.binding("acme", name, "p9")).await, "INVALID_ARGUMENT", "`{name}`");
    }
    let other = world.call("user:root", "knowledge.plane.show", json!({"plane": "globex/handbook"})).await;
    assert_ne!(other["plane_id"], json!(plane), "the same name under another tenant is another plane");
    world.clock.advance(TimeDelta::hours(1));
    invariants::check(&world).await;
}

#[tokio::test]
async fn another_table_under_the_old_name_proves_nothing() {
    let world = World::new().await;
    let plane = world.acme(5).await;
    let mut terms = crate::support::request(&plane, "0s");
    terms["evict"] = json!("at_purge");
    world.call("user:alice", "knowledge.offboarding.request", terms).await;
    world.drain().await;
    world.approve(&plane).await;
    let mut db = knowledge::open(&world.dir.path().join("knowledge.db")).await;
    let swap = "ALTER TABLE chunks RENAME TO kept; CREATE TABLE chunks (id INTEGER PRIMARY KEY, plane TEXT NOT NULL, body TEXT, source TEXT,
        page INTEGER, score REAL, embedding BLOB)";
    sqlx::raw_sql(swap).execute(&mut db).await.expect("a swap");
    world.drain().await;
    assert_eq!(world.state(&plane).await, "ARCHIVED");
    let error = &world.status(&plane).await["offboarding"]["last_error"];
    assert!(error["code"] == "WRONG_PLACE" && error["message"].as_str().is_some_and(|said| said.contains("trigger")), "{error}");
    sqlx::raw_sql("DROP TABLE chunks; ALTER TABLE kept RENAME TO chunks").execute(&mut db).await.expect("back");
    // The right table without its triggers is no better, until somebody says that it is the right one.
    let fence: Vec<String> =
        sqlx::query_scalar("SELECT name FROM sqlite_schema WHERE type = 'trigger'").fetch_all(&mut db).await.expect("triggers");
    for trigger in fence {
        sqlx::raw_sql(sqlx::AssertSqlSafe(format!("DROP TRIGGER \"{trigger}\""))).execute(&mut db).await.expect("drop it");
    }
    world.call("user:root", "knowledge.offboarding.retry", json!({"plane": plane, "reason": "put back"})).await;
    world.drain().await;
    let status = world.status(&plane).await;
    let said = status["offboarding"]["last_error"]["message"].as_str().expect("why");
    let create = said.split_once("it is the table, ").and_then(|(_, rest)| rest.split_once(" says so")).expect("a way on").0;
    sqlx::raw_sql(sqlx::AssertSqlSafe(create.to_owned())).execute(&mut db).await.expect("as the message says");
    world.call("user:root", "knowledge.offboarding.retry", json!({"plane": plane, "reason": "put back"})).await;
    world.drain().await;
    assert_eq!(world.state(&plane).await, "PURGED", "{}", world.status(&plane).await);
}
