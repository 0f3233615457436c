//! An archive that was restored is proven: into a new plane, row for row what was exported, or not at all.

use std::path::{Path, PathBuf};

use chrono::TimeDelta;
use lethe_stages::{
    crash::CrashPoint,
    ports::PortError,
    record::{Column, ColumnKind, Key, Record, Value},
};
use lethe_stores::{Mapping, StoreDraft};
use serde_json::{Value as Json, json};

use crate::support::{WORKER, World, binary::Installed, invariants, knowledge, request};

/// Parts of ten records, so that there are several.
const CONFIG: &str = "[archive]\npart_rows_max = 10\n";

/// The rows of a table that match a condition, each value with its class, by `quote()` and by its bytes.
async fn dump(file: &Path, table: &str, condition: &str) -> Vec<String> {
    let mut db = knowledge::open(file).await;
    let columns: Vec<String> = sqlx::query_scalar("SELECT name FROM pragma_table_info(?) ORDER BY cid")
        .bind(table)
        .fetch_all(&mut db)
        .await
        .expect("the columns");
    assert!(!columns.is_empty(), "{} has a table {table}", file.display());
    let values: Vec<_> = columns
        .iter()
        .map(|name| format!("'{name}=' || typeof({name}) || quote({name}) || coalesce(hex(CAST({name} AS BLOB)), ''), ' '"))
        .collect();
    let sql = format!("SELECT concat({}) FROM {table} WHERE {condition} ORDER BY 1", values.join(", "));
    sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).fetch_all(&mut db).await.expect("the rows")
}

/// Everything that a restore could leave behind beside the ledger.
fn leftovers(folder: &Path) -> Vec<String> {
    let entries = folder.join("restored").read_dir().into_iter().flatten();
    let mut names: Vec<_> = entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Where the restored plane's records are.
fn file_of(plane: &Json) -> PathBuf {
    plane["stores"][0]["url"].as_str().and_then(|url| url.strip_prefix("sqlite:")).expect("a store").into()
}

async fn restore(world: &World, plane: &str, name: &str) -> Json {
    world.call("user:ops", "knowledge.archive.restore", json!({"plane": plane, "into": name})).await
}

async fn restore_refused(world: &World, arguments: Json) -> &'static str {
    let planes = world.call("user:ops", "knowledge.plane.list", json!({})).await;
    let before = leftovers(world.dir.path());
    let code = world.code("user:ops", "knowledge.archive.restore", arguments).await;
    assert_eq!(world.call("user:ops", "knowledge.plane.list", json!({})).await, planes, "{code} left a plane behind");
    assert_eq!(leftovers(world.dir.path()), before, "{code} left a file behind");
    code
}

async fn verify(world: &World, plane: &str) -> Json {
    world.call("user:ops", "knowledge.archive.verify", json!({"plane": plane, "restore": true})).await
}

/// Tables with values of every class, in columns that declare nothing, something, or something else.
const EVERY_CLASS: &str = "
    CREATE TABLE things (slug TEXT PRIMARY KEY, plane, anything, real REAL, whole INTEGER, body TEXT, vector BLOB);
    INSERT INTO things VALUES
        ('a', 'p3', NULL, 0.1, 1, '', x''),
        ('b', 'p3', 5, -0.0, -9223372036854775808, 'it''s', x'0000c07f0100a0ff'),
        ('c', 'p3', '5', 9e999, 9223372036854775807, char(0) || 'after a zero', x'000080ff0000807f'),
        ('d', 'p3', 5.0, -9e999, 'no number', 'ünïcødé 🜂', NULL),
        ('e', 'p3', x'00ff', 1e-310, 2.5, NULL, x'00000080'),
        ('f', 'p3', '', 3, x'', '007', x'0000803f'),
        ('É', 'p3', x'', NULL, NULL, '{\"a\": 1}', x'0000803f'),
        ('other', 'p9', 1, 1, 1, 'not ours', x'0000803f');
    CREATE TABLE vectors (id INTEGER PRIMARY KEY, plane INTEGER, embedding TEXT);
    INSERT INTO vectors VALUES (1, 7, '[0.1, 1e-3,2]'), (-3, 7, '[ 1.0,2.50 ]'), (9, 7, '[]'), (4, 7, NULL), (5, 8, '[3]');
    CREATE TABLE odd (plane TEXT, key BLOB, value, PRIMARY KEY (plane, key)) WITHOUT ROWID;
    INSERT INTO odd VALUES ('p3', x'01', 1), ('p3', x'', 'two'), ('p4', x'01', 3), ('p4', 'text', 4), ('p4', 12, 5);
    CREATE TABLE empty (id INTEGER PRIMARY KEY, plane TEXT, body TEXT);";

async fn with_every_class(world: &World) -> String {
    world.acme(25).await;
    let mut db = knowledge::open(&world.dir.path().join("knowledge.db")).await;
    sqlx::raw_sql(EVERY_CLASS).execute(&mut db).await.expect("create the tables");
    let mut plane = world.binding("acme", "every", "p3");
    plane["stores"] = json!([
        "kb?table=things&plane_column=plane&plane=p3&key=slug&text=body&embedding=vector",
        "kb?table=VECTORS&plane_column=plane&plane=7&key=ID&embedding=embedding",
        "kb?table=odd&plane_column=plane&plane=p3&key=key",
        "kb?table=odd&plane_column=plane&plane=p4&key=key",
        "kb?table=empty&plane_column=plane&plane=p3&key=id",
    ]);
    let plane = world.call("user:root", "knowledge.plane.register", plane).await;
    plane["plane_id"].as_str().expect("an id").to_owned()
}

#[tokio::test]
async fn a_restored_plane_holds_row_for_row_what_was_exported_whatever_its_values_are() {
    let world = World::with("[archive]\npart_rows_max = 2\n").await;
    let plane = with_every_class(&world).await;
    let source = world.dir.path().join("knowledge.db");
    let conditions =
        [("things", "plane = 'p3'"), ("vectors", "plane = 7"), ("odd", "plane = 'p3'"), ("odd", "plane = 'p4'"), ("empty", "1")];
    let mut expected = Vec::new();
    for (table, condition) in conditions {
        expected.push(dump(&source, table, condition).await);
    }
    assert_eq!(expected.iter().map(Vec::len).collect::<Vec<_>>(), [7, 4, 2, 3, 0]);
    world.archived(&plane).await;
    assert!(dump(&source, "things", "plane = 'p3'").await.is_empty(), "the hot copy is gone");

    let verified = verify(&world, &plane).await;
    assert_eq!((&verified["archive"], &verified["restored"][0]["rows"]), (&json!("verified"), &json!(7)), "{verified}");
    assert!(!world.dir.path().join("restored").exists(), "the scratch file is gone, and its folder");

    let restored = restore(&world, &plane, "again").await;
    let file = file_of(&restored);
    assert_eq!(file, world.dir.path().canonicalize().expect("a path").join("restored/again.db"));
    let tables = ["things", "vectors", "odd", "odd_2", "empty"];
    for ((expected, table), (answered, (from, _))) in
        expected.iter().zip(tables).zip(restored["restored"].as_array().expect("tables").iter().zip(conditions))
    {
        assert_eq!(&dump(&file, table, "1").await, expected, "{table}");
        let answer = json!({"store": "kb", "resource": from, "table": table, "rows": expected.len()});
        assert_eq!(*answered, answer, "what was one table in two bindings is two, and the answer says so");
    }
    let mut db = knowledge::open(&file).await;
    let keys = "SELECT m.name || '.' || c.name || ' ' || c.type FROM sqlite_schema m JOIN pragma_table_info(m.name) c
        WHERE m.type = 'table' AND c.pk ORDER BY 1";
    let keys: Vec<String> = sqlx::query_scalar(keys).fetch_all(&mut db).await.expect("the keys");
    assert_eq!(keys, ["empty.id INTEGER", "odd.key BLOB", "odd_2.key ", "things.slug TEXT", "vectors.id INTEGER"]);
    assert_eq!(leftovers(world.dir.path()), ["again.db"]);
}

#[tokio::test]
async fn where_a_restored_plane_came_from_stands_in_its_row_and_on_both_chains() {
    let world = World::with(CONFIG).await;
    let plane = world.acme(25).await;
    world.archived(&plane).await;
    let file = world.dir.path().join("elsewhere.db");
    let arguments = json!({"plane": "acme/handbook", "into": "copy", "store": format!("sqlite:{}", file.display())});
    let restored = world.call("user:ops", "knowledge.archive.restore", arguments).await;
    let copy = restored["plane_id"].as_str().expect("an id");
    assert_ne!(copy, plane);
    assert_eq!((&restored["state"], &restored["tenant"], &restored["rows"]), (&json!("ACTIVE"), &json!("acme"), &json!(25)));
    assert_eq!(file_of(&restored), file.canonicalize().expect("it is where it was asked for"));

    let manifest = verify(&world, &plane).await["manifest_sha256"].clone();
    let shown = world.call("user:ops", "knowledge.plane.show", json!({"plane": "acme/copy"})).await;
    assert_eq!((&shown["restored_from"], &shown["restored_manifest_sha256"]), (&json!(plane), &manifest));
    let original = world.call("user:ops", "knowledge.plane.show", json!({"plane": plane})).await;
    assert_eq!(original.get("restored_from"), None);
    assert_eq!(shown["archive_url"], original["archive_url"]);

    let of =
        async |plane: &str| world.call("user:auditor", "governance.audit.list", json!({"plane": plane})).await["entries"].clone();
    let first = of(copy).await[0].clone();
    assert_eq!((&first["event_type"], &first["sequence_no"]), (&json!("REGISTERED"), &json!(0)));
    assert_eq!((&first["evidence"]["restored_from"], &first["evidence"]["manifest_sha256"]), (&json!(plane), &manifest));
    let theirs = of(&plane).await;
    let theirs = theirs.as_array().expect("entries").iter().find(|entry| entry["event_type"] == "ARCHIVE_RESTORED");
    let theirs = theirs.expect("an entry on the archived plane's chain");
    assert_eq!((&theirs["evidence"]["into"], &theirs["evidence"]["manifest_sha256"]), (&json!(copy), &manifest));
    assert_eq!(theirs["values"]["actor_id"], "ops");

    let change = format!("UPDATE planes SET restored_from = NULL, restored_manifest_sha256 = NULL WHERE id = '{copy}'");
    assert!(world.try_sql(&change).await.expect_err("lineage is for ever").contains("does not change"));
    invariants::check(&world).await;
}

#[tokio::test]
async fn a_restored_plane_is_offboarded_like_any_other_and_the_archive_it_came_from_stays() {
    let world = World::with(CONFIG).await;
    let plane = world.acme(25).await;
    world.archived(&plane).await;
    let restored = restore(&world, &plane, "copy").await;
    let copy = restored["plane_id"].as_str().expect("an id").to_owned();
    let file = file_of(&restored);
    let rows = dump(&file, "chunks", "1").await;
    world.archived(&copy).await;
    let again = restore(&world, &copy, "copy-of-the-copy").await;
    assert_eq!(dump(&file_of(&again), "chunks", "1").await, rows, "restored, archived and restored again it is the same");

    world.call("user:bob", "knowledge.approval.grant", json!({"plane": copy, "reason": "checked"})).await;
    world.drain().await;
    assert_eq!(world.state(&copy).await, "PURGED", "{}", world.status(&copy).await);
    assert!(dump(&file, "chunks", "1").await.is_empty());
    assert_eq!(verify(&world, &plane).await["archive"], "verified", "the first archive is another plane's");
    assert_eq!(restore_refused(&world, json!({"plane": copy, "into": "too-late"})).await, "ARCHIVE_MISSING");
    invariants::check(&world).await;
}

#[tokio::test]
async fn what_a_later_round_exported_takes_the_place_of_what_an_earlier_one_did() {
    let world = World::with(CONFIG).await;
    let plane = world.acme(25).await;
    let file = world.dir.path().join("knowledge.db");
    let mut expected = dump(&file, "chunks", "plane = 'p1' AND page NOT IN (3, 12)").await;
    world.request(&plane, "0s").await;
    while !world.trail(&plane).await.contains(&"STAGE_COMPLETED export".to_owned()) {
        let (claimed, _) = world.app.manager.claim(1, WORKER, None).await.expect("claim");
        let finished = [world.app.manager.perform(&claimed[0]).await];
        world.app.manager.record(&finished, WORKER).await.expect("record");
    }
    assert_eq!(world.state(&plane).await, "DEACTIVATED");
    let early = restore(&world, &plane, "early").await;
    assert_eq!(
        dump(&file_of(&early), "chunks", "1").await,
        dump(&file, "chunks", "plane = 'p1'").await,
        "restored before the evict"
    );

    // Somebody takes the fence down, writes, and puts it back: one record changes its values and their classes, one its text, one is new.
    let mut db = knowledge::open(&file).await;
    let fence: Vec<(String, String)> =
        sqlx::query_as("SELECT name, sql FROM sqlite_schema WHERE type = 'trigger'").fetch_all(&mut db).await.expect("triggers");
    for (trigger, _) in &fence {
        sqlx::query(sqlx::AssertSqlSafe(format!("DROP TRIGGER \"{trigger}\""))).execute(&mut db).await.expect("drop it");
    }
    for sql in [
        "UPDATE chunks SET page = 'three', score = x'33', source = 3.5 WHERE plane = 'p1' AND page = 3",
        "UPDATE chunks SET page = 'twelve', body = 'changed' WHERE plane = 'p1' AND page = 12",
        "INSERT INTO chunks (plane, body, page) VALUES ('p1', 'new', 'last')",
    ] {
        sqlx::query(sql).execute(&mut db).await.expect("write");
    }
    for (_, sql) in fence {
        sqlx::query(sqlx::AssertSqlSafe(sql)).execute(&mut db).await.expect("put it back");
    }
    expected.extend(dump(&file, "chunks", "plane = 'p1' AND typeof(page) = 'text'").await);
    expected.sort();
    assert_eq!(expected.len(), 26);
    world.advance(TimeDelta::minutes(2)).await;
    assert_eq!(world.state(&plane).await, "ARCHIVED", "{}", world.status(&plane).await);

    let verified = verify(&world, &plane).await;
    assert_eq!(
        (&verified["archive"], &verified["rows"], &verified["restored"][0]["rows"]),
        (&json!("verified"), &json!(28), &json!(26))
    );
    let restored = restore(&world, &plane, "late").await;
    assert_eq!(dump(&file_of(&restored), "chunks", "1").await, expected);
}

#[tokio::test]
async fn a_part_or_manifest_that_is_not_what_was_verified_is_found_and_nothing_is_restored() {
    let world = World::with(CONFIG).await;
    let plane = world.acme(25).await;
    world.archived(&plane).await;
    let mut folders = world.dir.path().join("archive").join(&plane).read_dir().expect("the prefix");
    let folder = folders.next().expect("one offboarding's folder").expect("an entry").path();
    let part = |number: usize| folder.join(format!("store-0/round-0/part-{number:05}.parquet"));
    let read = |path: &Path| std::fs::read(path).expect("read an object");
    let (first, second, manifest) = (read(&part(0)), read(&part(1)), read(&folder.join("manifest.json")));

    let mut changed = first.clone();
    let middle = changed.len() / 2;
    changed[middle] ^= 1;
    let mut reordered: Json = serde_json::from_slice(&manifest).expect("a manifest");
    reordered["stores"][0]["parts"].as_array_mut().expect("parts").reverse();
    let reordered = lethe_stages::canonical::to_string(&reordered).expect("canonical").into_bytes();
    for (what, damage) in [
        ("one bit of a part", vec![(part(0), Some(changed))]),
        ("a part that is gone", vec![(part(1), None)]),
        ("a part that is cut short", vec![(part(1), Some(second[..second.len() - 9].to_vec()))]),
        ("two parts exchanged", vec![(part(0), Some(second.clone())), (part(1), Some(first.clone()))]),
        ("a manifest in another order", vec![(folder.join("manifest.json"), Some(reordered))]),
        ("a manifest that is gone", vec![(folder.join("manifest.json"), None)]),
    ] {
        for (path, bytes) in &damage {
            std::fs::remove_file(path).expect("damage it");
            bytes.iter().for_each(|bytes| std::fs::write(path, bytes).expect("damage it"));
        }
        let verified = verify(&world, &plane).await;
        assert_eq!(verified["archive"], "broken", "{what}: {verified}");
        assert_eq!(verified["faults"].as_array().map(Vec::len), Some(damage.len()), "{what}: {verified}");
        assert_eq!(restore_refused(&world, json!({"plane": plane, "into": "copy"})).await, "ARCHIVE_BROKEN", "{what}");
        for (path, bytes) in [(part(0), &first), (part(1), &second), (folder.join("manifest.json"), &manifest)] {
            std::fs::write(path, bytes).expect("mend it");
        }
    }
    assert_eq!(verify(&world, &plane).await["archive"], "verified");
    assert!(world.trail(&plane).await.contains(&"BLOCKED ARCHIVE_BROKEN".to_owned()), "refusals are on record");
    restore(&world, &plane, "copy").await;
}

#[tokio::test]
async fn what_cannot_be_restored_or_has_no_place_is_refused_with_its_code() {
    let world = World::with(CONFIG).await;
    let plane = world.acme(5).await;
    let into = |name: &str| json!({"plane": plane, "into": name});
    let to = |name: &str, store: String| json!({"plane": plane, "into": name, "store": store});
    assert_eq!(restore_refused(&world, into("copy")).await, "ARCHIVE_MISSING", "it is in service");
    world.archived(&plane).await;
    assert_eq!(restore_refused(&world, into("handbook")).await, "NAME_TAKEN");
    assert_eq!(restore_refused(&world, into("../copy")).await, "INVALID_ARGUMENT");
    assert_eq!(restore_refused(&world, to("copy", "postgres://host/db".into())).await, "INVALID_ARGUMENT");
    let file = |name: &str| format!("sqlite:{}", world.dir.path().join(name).display());
    assert_eq!(restore_refused(&world, to("copy", file("no/such/folder/copy.db"))).await, "STORE_UNUSABLE");
    assert_eq!(restore_refused(&world, to("copy", file("knowledge.db"))).await, "BINDING_TAKEN", "it is a plane's store");
    let theirs = world.dir.path().join("theirs.db");
    knowledge::create(&theirs, &[("p1", 3)]).await;
    let before = std::fs::read(&theirs).expect("read it");
    assert_eq!(restore_refused(&world, to("copy", file("theirs.db"))).await, "NAME_TAKEN", "even with the same tables");
    std::fs::write(world.dir.path().join("notes.txt"), "not a database").expect("write it");
    assert_eq!(restore_refused(&world, to("copy", file("notes.txt"))).await, "NAME_TAKEN");
    assert_eq!(std::fs::read(&theirs).expect("read it"), before);

    restore(&world, &plane, "copy").await;
    assert_eq!(restore_refused(&world, into("copy")).await, "NAME_TAKEN");
    std::fs::remove_file(world.dir.path().join("restored/copy.db")).expect("somebody removes the store");
    assert_eq!(restore_refused(&world, to("third", file("restored/copy.db"))).await, "BINDING_TAKEN", "its scope is for ever");

    let erased = world.call("user:root", "knowledge.plane.register", world.binding("acme", "erased", "p5")).await;
    let erased = erased["plane_id"].as_str().expect("an id").to_owned();
    let mut terms = request(&erased, "0s");
    terms["ground"] = json!("erasure_request");
    world.call("user:alice", "knowledge.offboarding.request", terms).await;
    world.advance(TimeDelta::zero()).await;
    assert_eq!(world.state(&erased).await, "ARCHIVED");
    assert_eq!(restore_refused(&world, json!({"plane": erased, "into": "back"})).await, "ARCHIVE_WITHOUT_CONTENT");
    let inventory = json!({"plane": erased, "restore": true});
    assert_eq!(world.code("user:ops", "knowledge.archive.verify", inventory).await, "ARCHIVE_WITHOUT_CONTENT");
    invariants::check(&world).await;
}

#[tokio::test]
async fn a_file_that_differs_from_its_archive_or_is_half_done_never_gets_its_name() {
    let world = World::with(CONFIG).await;
    let folder = world.dir.path().join("restored");
    let url = format!("sqlite:{}", folder.join("copy.db").display());
    let mapping = Mapping::parse("table=chunks&plane_column=plane&plane=p1&key=id").expect("a mapping");
    let column = |name: &str, kind| Column { name: name.into(), kind };
    let columns = [column("id", ColumnKind::Integer), column("plane", ColumnKind::Text), column("score", ColumnKind::Real)];
    let record = |id, plane: &str, score| Record {
        key: Key::Integer(id),
        values: vec![Value::Integer(id), Value::Text(plane.into()), Value::Real(score)],
    };
    let good = [record(1, "p1", 0.5), record(2, "p1", 1.5)];
    let other = record(2, "p1", 1.25).digest(None);
    for (what, records, digest) in [
        ("a digest of another record", good.clone(), Some(other)),
        ("a number that SQLite does not keep", [record(1, "p1", f64::NAN), good[1].clone()], None),
        ("a record outside the plane's scope", [good[0].clone(), record(2, "p2", 1.5)], None),
    ] {
        let mut draft = StoreDraft::begin(&url).await.expect("a draft");
        let table = draft.create(mapping.clone(), &columns).await.expect("a table");
        let mut digests: Vec<_> = records.iter().map(|record| record.digest(None)).collect();
        digests[1] = digest.unwrap_or(digests[1]);
        draft.put(table, &records, &digests).await.expect("written");
        assert!(draft.place().await.is_err(), "{what}: it is not compared yet");
        assert!(
            StoreDraft::begin(&url).await.is_err_and(|error| matches!(error, PortError::Transient(_))),
            "{what}: one at a time"
        );
        assert!(matches!(draft.seal().await, Err(PortError::Permanent(_))), "{what}");
        assert_eq!(leftovers(world.dir.path()), [".copy.db.restoring"]);
        drop(draft);
        assert!(!folder.exists(), "{what}: the file is gone, and the folder that was made for it");
    }
    let build = async |records: &[Record]| {
        let mut draft = StoreDraft::begin(&url).await.expect("a draft");
        let table = draft.create(mapping.clone(), &columns).await.expect("a table");
        let digests: Vec<_> = records.iter().map(|record| record.digest(None)).collect();
        draft.put(table, records, &digests).await.expect("written");
        assert_eq!(draft.seal().await.expect("equal"), [records.len() as u64]);
        draft
    };
    let mut draft = build(&good).await;
    draft.place().await.expect("named");
    drop(draft);
    assert!(!folder.exists(), "named and not kept, it is gone too");
    let mut draft = build(&good).await;
    draft.place().await.expect("named");
    draft.keep();
    assert!(build(&good[..1]).await.place().await.is_err(), "another file is not replaced");
    build(&good).await.place().await.expect("the same file is taken over");
    assert_eq!(leftovers(world.dir.path()), ["copy.db"], "and stays although nobody kept it");
}

/// An archived plane in a folder, for the binary.
async fn installed() -> (Installed, Vec<String>) {
    let installed = Installed::with_plane(45, CONFIG).await;
    let rows = dump(&installed.path("knowledge.db"), "chunks", "plane = 'p1'").await;
    let request =
        ["offboard", "acme/handbook", "--ground", "contract_end", "--reason", "done", "--grace", "1h", "--retention", "0s"];
    installed.done(&request);
    installed.work();
    installed.set_clock(3601);
    installed.work();
    assert_eq!(installed.state("acme/handbook"), "ARCHIVED");
    (installed, rows)
}

fn killed_at(installed: &Installed, point: &str, arguments: &[&str]) {
    let output = installed.command(arguments).env("LETHE_CRASH_AT", point).output().expect("run the binary");
    assert!(!output.status.success(), "{point} was not reached: {output:?}");
    let planes = installed.done(&["plane", "list"]);
    assert_eq!(planes["planes"].as_array().map(Vec::len), Some(1), "{point}: nothing is on record");
}

#[tokio::test]
async fn killed_half_way_it_leaves_a_temporary_file_that_the_next_attempt_clears() {
    let (installed, rows) = installed().await;
    let restore = ["archive", "restore", "acme/handbook", "--into", "copy", "--idempotency-key", "once"];
    killed_at(&installed, &format!("{}#3", CrashPoint::ArchivePartRestored.as_str()), &restore);
    assert_eq!(leftovers(installed.dir.path()), [".copy.db.restoring"]);
    // Whatever the next attempt is for, it does not leave content of another lying about.
    installed.done(&["archive", "verify", "acme/handbook", "--restore"]);
    assert_eq!(leftovers(installed.dir.path()), Vec::<String>::new());

    killed_at(&installed, CrashPoint::ArchiveRestoreNamed.as_str(), &restore);
    assert_eq!(leftovers(installed.dir.path()), ["copy.db"]);
    let restored = installed.done(&restore);
    assert_eq!(leftovers(installed.dir.path()), ["copy.db"]);
    assert_eq!(dump(&file_of(&restored), "chunks", "1").await, rows);
    assert_eq!(installed.done(&restore)["plane_id"], restored["plane_id"], "under its key it is answered the same again");
    assert_eq!(installed.done(&["audit", "verify"])["audit"], "verified");

    let text = installed.run(&["archive", "restore", "acme/handbook", "--into", "second"]);
    let text = String::from_utf8(text.stdout).expect("text");
    for said in ["restored_from", "FROM TABLE", "second.db", "chunks"] {
        assert!(text.contains(said), "{said} in {text}");
    }
    let refused = installed.run(&["archive", "restore", "acme/handbook", "--into", "second"]);
    assert_eq!(refused.status.code(), Some(3), "{refused:?}");
}

#[tokio::test]
async fn what_a_purge_has_begun_to_destroy_is_not_brought_back() {
    let (installed, _) = installed().await;
    installed.done(&["approval", "grant", "acme/handbook", "--reason", "checked", "--actor", "user:bob"]);
    assert!(installed.work_until_crash(CrashPoint::PurgeStoresEmpty.as_str()));
    let refused = installed.run(&["archive", "restore", "acme/handbook", "--into", "copy", "--json"]);
    let refused: Json = serde_json::from_slice(&refused.stdout).expect("a document");
    assert_eq!(refused["error"]["code"], "STAGE_IN_PROGRESS", "{refused}");
    assert!(!installed.path("restored").exists());
}
