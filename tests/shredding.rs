//! Crypto-shredding: archives are encrypted under a key of their own, anybody who has the key can read them without Lethe, and once the
//! purge has destroyed it nobody can read any copy.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use chrono::{TimeDelta, Utc};
use lethe_ledger::{Tx, WrappedKey};
use lethe_stages::record::Column;
use lethe_stores::{ArchiveKey, Archives};
use lethe_worker::operations::Answer;
use serde_json::{Value as Json, json};
use uuid::Uuid;

use crate::support::{
    World,
    binary::Installed,
    call, invariants, knowledge,
    masters::Masters,
    memory, request,
    s3::{Bucket, Kind},
};

const KEY: &str = "knowledge.archive.key";
const SMALL_PARTS: &str = "[archive]\npart_rows_max = 10\n";

/// The key of the plane's archive, as somebody is handed it.
async fn taken(world: &World, plane: &str) -> (Uuid, Vec<u8>) {
    let taken = world.call("user:root", KEY, json!({"plane": plane, "reason": "to read it elsewhere"})).await;
    let text = |field: &str| taken[field].as_str().expect(field).to_owned();
    (text("archive_key_id").parse().expect("an id"), hex::decode(text("archive_key")).expect("hexadecimal"))
}

/// The wrapped key as the ledger has it.
async fn wrapped(world: &World, plane: &str) -> Option<WrappedKey> {
    let plane = plane.parse().expect("an id");
    world
        .read(async |tx: &mut Tx| {
            let newest = tx.offboardings_of(plane).await?.remove(0);
            tx.archive_key(newest.id).await
        })
        .await
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("create a folder");
    for entry in from.read_dir().expect("read a folder") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.path().is_dir() { copy_folder(&entry.path(), &target) } else { drop(std::fs::copy(entry.path(), target)) }
    }
}

/// The files below a folder that end so.
fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in folder.read_dir().expect("read a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(files(&path, ending));
        } else if path.to_string_lossy().ends_with(ending) {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn magic(bytes: &[u8]) -> (&[u8], &[u8]) {
    (&bytes[..4], &bytes[bytes.len() - 4..])
}

/// Reads the first part of a copied archive under a key, by Lethe's own decoder.
async fn read_copy(copy: &Path, plane: &str, key: Option<ArchiveKey>) -> Result<usize, String> {
    let parts = files(&copy.join(plane), ".parquet");
    let part = parts[0].strip_prefix(copy.join(plane)).expect("below").to_str().expect("UTF-8").to_owned();
    let manifest: Json =
        serde_json::from_slice(&std::fs::read(&files(copy, "manifest.json")[0]).expect("a manifest")).expect("JSON");
    let columns: Vec<Column> = serde_json::from_value(manifest["stores"][0]["columns"].clone()).expect("columns");
    let archives = Archives::default();
    let (url, id) = archives.prepare(&format!("file://{}", copy.display()), Uuid::nil()).await.expect("an archive");
    let archive = archives.open(&url, id, plane.parse().expect("an id"), key, Utc::now()).expect("open");
    let read = archive.read_part(&part, &columns).await.map_err(|error| error.to_string())?;
    Ok(read.expect("a part").records.len())
}

fn as_key(id: Uuid, bytes: &[u8]) -> ArchiveKey {
    let bytes: [u8; 32] = bytes.try_into().expect("32 bytes");
    ArchiveKey::new(id, bytes.into())
}

/// Runs tests/parts.py over an exported archive with a key; `None` where nobody but Lethe is to read it.
fn compare(archive: &Path, file: &Path, key: &str) -> Option<(bool, String)> {
    let python = match std::env::var("LETHE_PYTHON") {
        Ok(python) => python,
        Err(_) if std::env::var("LETHE_TESTS_WITHOUT_PYARROW").as_deref() == Ok("1") => return None,
        Err(_) => panic!("LETHE_PYTHON is not set: run `tests/run`, which installs pyarrow and sets it"),
    };
    let keys = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(keys.path(), key).expect("write the key");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/parts.py");
    let mut command = Command::new(python);
    command.arg(script).arg(archive).arg("--file").arg(file).args([
        "--table",
        "chunks",
        "--plane-column",
        "plane",
        "--plane",
        "p1",
    ]);
    let output = command.arg("--key-file").arg(keys.path()).output().expect("run tests/parts.py");
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(matches!(output.status.code(), Some(0 | 1)) && !said.contains("Traceback"), "{said}");
    Some((output.status.success(), said))
}

#[tokio::test]
async fn an_encrypted_archive_shows_nothing_and_equals_its_source_for_who_has_the_key() {
    let masters = Masters::new();
    let master = masters.make("master");
    let world = World::with(&format!("{SMALL_PARTS}{}", masters.config("master", &[]))).await;
    let plane = world.acme(45).await;
    let mut kept = request(&plane, "1h");
    kept["evict"] = json!("at_purge");
    world.call("user:alice", "knowledge.offboarding.request", kept).await;
    world.drain().await;
    world.advance(TimeDelta::hours(1)).await;
    assert_eq!(world.state(&plane).await, "ARCHIVED", "{}", world.status(&plane).await);

    let archive = world.dir.path().join("archive");
    let parts = files(&archive, ".parquet");
    assert_eq!(parts.len(), 5);
    for part in &parts {
        assert_eq!(magic(&std::fs::read(part).expect("a part")), (&b"PARE"[..], &b"PARE"[..]), "the footer is encrypted too");
    }
    assert!(knowledge::occurrences(&world.dir.path().join("knowledge.db").with_file_name(""), b"marker-p1-") > 0, "a control");
    assert_eq!(knowledge::occurrences(&archive, b"marker-p1-"), 0);
    let manifest = &files(&archive, "manifest.json")[0];
    let manifest: Json = serde_json::from_slice(&std::fs::read(manifest).expect("a manifest")).expect("JSON");
    let (id, key) = taken(&world, &plane).await;
    assert!(manifest["encryption"].as_str().expect("a text").contains(&id.to_string()), "{manifest}");
    let part = &manifest["stores"][0]["parts"][0];
    assert_eq!((&part["first_key"], &part["last_key"], &part["rows"]), (&Json::Null, &Json::Null, &json!(10)));
    let shown = world.call("user:auditor", "knowledge.offboarding.plan", json!({"plane": plane})).await;
    assert!(shown["text"].as_str().expect("a text").contains(&format!("key {id} of the archive")), "{shown}");
    assert_eq!(knowledge::occurrences(world.dir.path(), &key), 0, "the key is in no file");
    assert_eq!(wrapped(&world, &plane).await.expect("a key").master_key_id, master);

    let verified = world.call("user:auditor", "knowledge.archive.verify", json!({"plane": plane, "restore": true})).await;
    assert_eq!((&verified["archive"], &verified["rows"]), (&json!("verified"), &json!(45)), "{verified}");
    let restored = world.call("user:root", "knowledge.archive.restore", json!({"plane": plane, "into": "handbook2"})).await;
    assert_eq!(restored["rows"], json!(45), "{restored}");
    let copy = world.dir.path().join("copy");
    world.call("user:auditor", "knowledge.archive.export", json!({"plane": plane, "to": copy})).await;
    let file = world.dir.path().join("knowledge.db");
    if let Some(said) = compare(&copy, &file, &hex::encode(&key)) {
        assert_eq!(said, (true, "equal: 45 rows x 7 columns of chunks in 5 part(s)\n".into()));
        let mut other = key.clone();
        other[7] ^= 1;
        let (equal, said) = compare(&copy, &file, &hex::encode(other)).expect("compared");
        assert!(!equal && said.contains("cannot be decrypted"), "{said}");
        // A part in another's place is none, though key and bytes are right.
        let parts = files(&copy, ".parquet");
        std::fs::copy(&parts[1], &parts[0]).expect("swap");
        assert!(!compare(&copy, &file, &hex::encode(&key)).expect("compared").0);
    }
    invariants::check(&world).await;
}

#[tokio::test]
async fn a_purge_destroys_the_key_and_with_it_every_copy() {
    let masters = Masters::new();
    masters.make("master");
    let world = World::with(&format!("{SMALL_PARTS}{}", masters.config("master", &[]))).await;
    let plane = world.acme(25).await;
    world.archived(&plane).await;
    let (id, key) = taken(&world, &plane).await;
    let before = wrapped(&world, &plane).await.expect("a key");
    let copy = tempfile::tempdir().expect("a folder");
    let copied = copy.path().join("archive");
    copy_folder(&world.dir.path().join("archive"), &copied);
    assert_eq!(read_copy(&copied, &plane, Some(as_key(id, &key))).await, Ok(10), "while there is a key");
    if !crate::ON_POSTGRES {
        assert!(knowledge::occurrences(world.dir.path(), &before.wrapped) > 0, "a control: wrapped, it is in the ledger's files");
    }

    world.approve(&plane).await;
    world.drain().await;
    assert_eq!(world.state(&plane).await, "PURGED", "{}", world.status(&plane).await);
    assert_eq!(wrapped(&world, &plane).await, None);
    assert_eq!(world.number("SELECT count(*) FROM archive_keys WHERE wrapped IS NULL AND destroyed_at IS NOT NULL").await, 1);
    let completed = world.call("user:auditor", "governance.audit.list", json!({"plane": plane})).await;
    let purge = completed["entries"].as_array().expect("entries").iter().rev();
    let purge = purge.filter(|entry| entry["event_type"] == "STAGE_COMPLETED" && entry["step"] == "purge").take(1).next();
    let methods = &purge.expect("an entry")["evidence"]["methods"];
    assert_eq!(methods["archive"], "deleted, and its key destroyed", "{methods}");
    assert_eq!((&methods["stores"], &methods["archive_key_id"]), (&json!("deleted"), &json!(id)));

    // What is left: the ledger's files, its log, the archive's folder, and a backup made now.
    if !crate::ON_POSTGRES {
        let backup = world.dir.path().join("backup.db");
        world.call("user:root", "governance.ledger.backup", json!({"to": backup})).await;
        assert!(std::fs::metadata(&backup).expect("a backup").len() > 0);
    }
    for needle in [&key[..], &before.wrapped[..], &before.wrapped[12..44], hex::encode(&key).as_bytes()] {
        assert_eq!(knowledge::places(world.dir.path(), needle), [], "in no file that is left");
    }
    // The copy is whole, and no key that anybody could be given opens it.
    let refused = world.refused("user:root", KEY, json!({"plane": plane, "reason": "r"})).await;
    assert_eq!(refused.code.as_str(), "ARCHIVE_MISSING", "{refused}");
    let keys = world.call("user:root", "governance.keys.show", json!({})).await;
    assert_eq!((&keys["destroyed"], &keys["master_keys"][0]["keys"]), (&json!(1), &json!(0)), "{keys}");
    assert!(read_copy(&copied, &plane, None).await.expect_err("no key").contains("its key is not at hand"));
    let master = hex::decode(std::fs::read_to_string(masters.path("master")).expect("a key").trim()).expect("hexadecimal");
    for other in [&master[..], &before.wrapped[12..44]] {
        assert!(read_copy(&copied, &plane, Some(as_key(id, other))).await.is_err(), "what is left is not the key");
    }
    assert_eq!(read_copy(&copied, &plane, Some(as_key(id, &key))).await, Ok(10), "a control: the copy itself is sound");
    let error = world.try_sql("UPDATE archive_keys SET wrapped = NULL, destroyed_at = created_at").await.expect_err("for good");
    assert!(error.contains("stays so"), "{error}");
    invariants::check(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_keeps_nothing_readable_whatever_it_keeps() {
    let masters = Masters::new();
    masters.make("master");
    for kind in [Kind::Plain, Kind::Versioned] {
        let config = format!("{SMALL_PARTS}{}", masters.config("master", &[]));
        let world = World::on(Bucket::new(kind).await, &config).await;
        let plane = world.acme(25).await;
        world.archived(&plane).await;
        let below = format!("cold/archive/{plane}/");
        let keys = world.bucket().keys(&below).await;
        assert_eq!(keys.len(), 4, "three parts and the manifest: {keys:?}");
        for key in &keys {
            let bytes = world.bucket().get(key).await;
            assert!(!bytes.windows(10).any(|window| window == b"marker-p1-"), "{key}");
            if key.ends_with(".parquet") {
                assert_eq!(magic(&bytes), (&b"PARE"[..], &b"PARE"[..]), "{key}");
                assert_eq!(world.bucket().versions(key).await.len(), 1, "written once");
            }
        }
        let verified = world.call("user:auditor", "knowledge.archive.verify", json!({"plane": plane, "restore": true})).await;
        assert_eq!((&verified["archive"], &verified["rows"]), (&json!("verified"), &json!(25)), "{verified}");
        world.approve(&plane).await;
        world.drain().await;
        assert_eq!(world.state(&plane).await, "PURGED", "{kind:?}: {}", world.status(&plane).await);
        assert_eq!(world.bucket().everything(&below).await, []);
        assert_eq!(wrapped(&world, &plane).await, None);
        invariants::check(&world).await;
    }
}

#[tokio::test]
async fn an_export_under_a_key_goes_on_where_it_was_killed() {
    let masters = Masters::new();
    masters.make("master");
    let config = format!("{SMALL_PARTS}{}", masters.config("master", &[]));
    for (ground, crash) in [
        ("contract_end", "export.part_written#3"),
        ("contract_end", "export.manifest_written"),
        // An inventory is taken again from its beginning, over the parts that are there.
        ("erasure_request", "export.part_written#3"),
        ("erasure_request", "export.read_back"),
    ] {
        let installed = Installed::with_plane(45, &config).await;
        let neighbour = knowledge::digest(&installed.path("knowledge.db"), "p2").await;
        let mut request = vec!["offboard", "acme/handbook", "--ground", ground, "--reason", "done", "--grace", "1h"];
        if ground == "contract_end" {
            request.extend(["--retention", "0s"]);
        }
        installed.done(&request);
        installed.work();
        installed.set_clock(4000);
        assert!(installed.work_until_crash(crash), "{crash}");
        let written: Vec<_> = files(&installed.path("archive"), ".parquet");
        let bytes: Vec<_> = written.iter().map(|part| std::fs::read(part).expect("a part")).collect();
        assert!(written.len() >= 3, "{written:?}");
        installed.outlive_leases();
        installed.work();
        assert_eq!(installed.state("acme/handbook"), "ARCHIVED", "{}", installed.status("acme/handbook"));
        for (part, bytes) in written.iter().zip(&bytes) {
            assert_eq!(&std::fs::read(part).expect("a part"), bytes, "what was written stays");
            assert_eq!(magic(bytes), (&b"PARE"[..], &b"PARE"[..]));
        }
        assert_eq!(files(&installed.path("archive"), ".parquet").len(), 5);
        let verified = installed.done(&["archive", "verify", "acme/handbook"]);
        assert_eq!((&verified["archive"], &verified["rows"]), (&json!("verified"), &json!(45)), "{verified}");
        installed.done(&["approval", "grant", "acme/handbook", "--reason", "checked", "--actor", "user:bob"]);
        assert!(installed.work_until_crash("purge.parts_deleted"));
        installed.outlive_leases();
        installed.work();
        installed.assert_purged("acme/handbook", &neighbour).await;
    }
}

#[tokio::test]
async fn without_its_master_key_nothing_begins_and_what_has_begun_halts_until_it_is_back() {
    let masters = Masters::new();
    let config = format!("{SMALL_PARTS}{}", masters.config("master", &[]));
    let world = World::with(&config).await;
    let plane = world.acme(25).await;
    let refused = world.refused("user:alice", "knowledge.offboarding.request", request(&plane, "1h")).await;
    assert_eq!(refused.code.as_str(), "MASTER_KEY_UNUSABLE", "{refused}");
    assert!(refused.message.contains(&masters.path("master").display().to_string()), "{refused}");
    assert_eq!(world.number("SELECT count(*) FROM offboardings").await, 0);

    // Another key under its name is noticed while there is still a hot copy, and a way back.
    let right = masters.make("master");
    world.request(&plane, "1h").await;
    masters.rename("master", "right");
    let wrong = masters.make("master");
    let halted = async |step: &str| {
        assert_eq!(world.run(&plane).await, (step.into(), "halted".into()));
        let error = world.status(&plane).await["offboarding"]["last_error"].clone();
        assert_eq!(error["code"], "MASTER_KEY_UNUSABLE", "{error}");
        let said = error["message"].as_str().expect("a message").to_owned();
        assert!(
            said.contains(&right) && said.contains(&wrong),
            "it names the key that is missing and the one that is there: {said}"
        );
    };
    let put_back = async || {
        masters.rename("master", "wrong");
        masters.rename("right", "master");
        world.call("user:alice", "knowledge.offboarding.retry", json!({"plane": plane, "reason": "the key is back"})).await;
        world.drain().await;
    };
    let take_away = || {
        masters.rename("master", "right");
        masters.rename("wrong", "master");
    };
    world.drain().await;
    world.advance(TimeDelta::hours(1)).await;
    halted("verify").await;
    let keys = world.call("user:root", "governance.keys.show", json!({})).await;
    assert_eq!(keys["without_master_key"][0]["master_key_id"], json!(right), "{keys}");
    put_back().await;
    assert_eq!(world.state(&plane).await, "ARCHIVED", "{}", world.status(&plane).await);

    world.approve(&plane).await;
    take_away();
    for operation in ["knowledge.archive.verify", "knowledge.archive.restore"] {
        let mut arguments = json!({"plane": plane});
        if operation.ends_with("restore") {
            arguments["into"] = json!("handbook2");
        }
        assert_eq!(world.code("user:root", operation, arguments).await, "MASTER_KEY_UNUSABLE", "{operation}");
    }
    let copy = json!({"plane": plane, "to": world.dir.path().join("copy")});
    assert_eq!(world.call("user:root", "knowledge.archive.export", copy).await["objects"], 4, "copies are made without a key");
    world.drain().await;
    halted("purge").await;
    assert_eq!(files(&world.dir.path().join("archive"), ".parquet").len(), 3, "nothing is half done");
    put_back().await;
    assert_eq!(world.state(&plane).await, "PURGED", "{}", world.status(&plane).await);
    invariants::check(&world).await;
}

/// Another process over the same ledger, a second later: a test's entropy begins anew with each, and an id is of its instant.
async fn later(world: World, config: &str) -> World {
    world.clock.advance(TimeDelta::seconds(1));
    world.reopened(config).await
}

#[tokio::test]
async fn keys_are_wrapped_anew_under_another_master_key_and_the_old_one_may_go() {
    let masters = Masters::new();
    masters.make("old");
    let world = World::with(&format!("{SMALL_PARTS}{}", masters.config("old", &[]))).await;
    let plane = world.acme(25).await;
    world.archived(&plane).await;
    let before = wrapped(&world, &plane).await.expect("a key");
    let (_, key) = taken(&world, &plane).await;
    let new = masters.make("new");
    let rewrap = json!({"reason": "a year has passed"});
    let world = later(world, &format!("{SMALL_PARTS}{}", masters.config("new", &[]))).await;
    let refused = world.refused("user:root", "governance.keys.rewrap", rewrap.clone()).await;
    assert_eq!(refused.code.as_str(), "MASTER_KEY_UNUSABLE", "the old one is not named: {refused}");
    let world = later(world, &format!("{SMALL_PARTS}{}", masters.config("new", &["old"]))).await;
    assert_eq!(taken(&world, &plane).await.1, key, "the old one still unwraps");
    let done = world.call("user:root", "governance.keys.rewrap", rewrap.clone()).await;
    assert_eq!((&done["rewrapped"], &done["left"], &done["master_key_id"]), (&json!(1), &json!(0), &json!(new)), "{done}");
    assert_eq!(world.last_entry().await["event_type"], "KEYS_REWRAPPED");
    assert_eq!(world.call("user:root", "governance.keys.rewrap", rewrap).await["rewrapped"], 0, "once is enough");
    let after = wrapped(&world, &plane).await.expect("a key");
    assert_ne!(before.wrapped, after.wrapped);
    std::fs::remove_file(masters.path("old")).expect("the old one goes");
    let world = later(world, &format!("{SMALL_PARTS}{}", masters.config("new", &[]))).await;
    assert_eq!(taken(&world, &plane).await.1, key);
    let verified = world.call("user:auditor", "knowledge.archive.verify", json!({"plane": plane, "restore": true})).await;
    assert_eq!(verified["archive"], "verified", "{verified}");
    world.approve(&plane).await;
    world.drain().await;
    assert_eq!(world.state(&plane).await, "PURGED", "{}", world.status(&plane).await);
    invariants::check(&world).await;
}

#[tokio::test]
async fn a_key_is_handed_to_few_on_record_and_kept_in_no_answer() {
    let masters = Masters::new();
    masters.make("master");
    let roles = "[policy]\npreset = \"regulated\"\n[policy.roles]\noperator = [\"user:alice\"]\nadmin = [\"user:root\"]\n\
                 compliance = [\"user:lena\"]\n";
    let world = World::with(&format!("{SMALL_PARTS}{}{roles}", masters.config("master", &[]))).await;
    let plane = world.acme(5).await;
    assert_eq!(world.code("user:lena", KEY, json!({"plane": plane, "reason": "r"})).await, "ARCHIVE_NOT_ENCRYPTED");
    world.request(&plane, "1h").await;
    let arguments = json!({"plane": plane, "reason": "a court wants it"});
    for (actor, code) in [
        ("user:alice", "POLICY_DENIED"),
        ("user:root", "POLICY_DENIED"),
        ("user:bob", "POLICY_DENIED"),
        ("sdk:app", "NOT_AUTHORISED"),
    ] {
        assert_eq!(world.code(actor, KEY, arguments.clone()).await, code, "{actor}");
    }
    let mut asked = call("user:lena", KEY, arguments);
    asked.idempotency_key = Some("once".into());
    let Answer::Done(first) = world.dispatch(&asked).await else { panic!("lena may") };
    let key = hex::decode(first["archive_key"].as_str().expect("a key")).expect("hexadecimal");
    let Answer::Done(again) = world.dispatch(&asked).await else { panic!("the same call") };
    assert_eq!((&again["archive_key"], &again["archive_key_id"]), (&Json::Null, &first["archive_key_id"]), "shown once");
    assert_eq!(world.entries(&plane, "ARCHIVE_KEY_TAKEN").await, 1);
    assert_eq!(knowledge::occurrences(world.dir.path(), hex::encode(key).as_bytes()), 0);

    // A cancelled offboarding archived nothing, so its key has no use.
    world.call("user:alice", "knowledge.offboarding.cancel", json!({"plane": plane, "reason": "signed again"})).await;
    world.drain().await;
    assert_eq!(wrapped(&world, &plane).await, None);
    let entries = world.call("user:auditor", "governance.audit.list", json!({"plane": plane})).await;
    let cancelled = entries["entries"].as_array().expect("entries").iter().find(|entry| entry["event_type"] == "CANCELLED");
    assert_eq!(cancelled.expect("an entry")["evidence"]["archive_key_destroyed"], first["archive_key_id"]);
    invariants::check(&world).await;
}

#[tokio::test]
async fn whether_an_archive_is_encrypted_is_decided_at_the_request() {
    let masters = Masters::new();
    masters.make("master");
    let (on, off) = (masters.config("master", &[]), masters.config("master", &[]).replace("plane_key", "off"));
    let world = World::with(&off).await;
    let plane = world.acme(5).await;
    world.request(&plane, "1h").await;
    let world = world.reopened(&on).await;
    let second = world.register("acme", "wiki", "p9").await;
    world.request(&second, "1h").await;
    let world = world.reopened(&off).await;
    world.drain().await;
    world.advance(TimeDelta::hours(1)).await;
    for (plane, encrypted) in [(&plane, false), (&second, true)] {
        assert_eq!(world.state(plane).await, "ARCHIVED");
        let verified = world.call("user:auditor", "knowledge.archive.verify", json!({"plane": plane})).await;
        assert_eq!(verified["encryption"] != "none", encrypted, "{verified}");
        world.approve(plane).await;
    }
    world.drain().await;
    assert_eq!((world.state(&plane).await, world.state(&second).await), ("PURGED".into(), "PURGED".into()));
    invariants::check(&world).await;
}

#[tokio::test]
async fn the_memory_of_a_fresh_process_does_not_hold_a_key_that_was_destroyed() {
    let masters = Masters::new();
    masters.make("master");
    let installed = Installed::with_plane(25, &format!("{SMALL_PARTS}{}", masters.config("master", &[]))).await;
    let request =
        ["offboard", "acme/handbook", "--ground", "contract_end", "--reason", "r", "--grace", "1h", "--retention", "0s"];
    installed.done(&request);
    installed.work();
    installed.set_clock(4000);
    installed.work();
    let taken = installed.done(&["archive", "key", "acme/handbook", "--reason", "to look for it", "--actor", "user:root"]);
    let hexadecimal = taken["archive_key"].as_str().expect("a key").to_owned();
    let key = hex::decode(&hexadecimal).expect("hexadecimal");
    installed.done(&["approval", "grant", "acme/handbook", "--reason", "checked", "--actor", "user:bob"]);
    installed.work();
    assert_eq!(installed.state("acme/handbook"), "PURGED");

    // What the process read from the ledger is in its memory, and so is what its environment holds: the search finds what is there.
    let there = format!("file://{}", installed.path("archive").canonicalize().expect("a path").display());
    let mut process = installed.command(&["serve"]).env("CONTROL", &hexadecimal).spawn().expect("start the binary");
    let look = |needle: &[u8]| memory::occurrences(process.id(), needle);
    let ready = (0..600).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(50));
        look(there.as_bytes()) > 0
    });
    let control = look(hexadecimal.as_bytes());
    process.kill().expect("kill");
    process.wait().expect("wait");
    assert!(ready && control > 0, "the search finds what is there");

    let mut process = installed.command(&["serve"]).spawn().expect("start the binary");
    let look = |needle: &[u8]| memory::occurrences(process.id(), needle);
    let ready = (0..600).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(50));
        look(there.as_bytes()) > 0
    });
    let found = [look(&key), look(hexadecimal.as_bytes())];
    process.kill().expect("kill");
    process.wait().expect("wait");
    assert!(ready);
    assert_eq!(found, [0, 0], "neither the key nor its digits");
}
