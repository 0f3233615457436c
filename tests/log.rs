//! The log: every entry is sealed once, in the order of its chain, and what was published is never taken back; without its key nothing is
//! sealed and nothing is purged, and the trail is written all the same.

use std::sync::Arc;

use chrono::TimeDelta;
use lethe_ledger::{Actor, Chain, Entry, EventType, Fault, Sealed, Tx};
use lethe_stages::crash::CrashPoint;
use lethe_verify::{
    leaf::{Leaf, tag},
    merkle::{Hash, check_consistency, check_inclusion, leaf_hash},
    note::{Checkpoint, Note, SigningKey},
};
use serde_json::{Value as Json, json};

use crate::support::{
    World,
    binary::Installed,
    call, invariants, knowledge,
    ledger::either,
    log::{Log, NAME},
};

async fn verified(world: &World) -> Json {
    let answer = world.call("user:auditor", "governance.audit.verify", json!({})).await;
    assert_eq!(answer["audit"], "verified", "{answer}");
    answer
}

async fn why(world: &World) -> String {
    world.call("user:auditor", "governance.log.show", json!({})).await["stopped_why"].as_str().unwrap_or_default().to_owned()
}

/// Every entry of the trail as a leaf, in the order of writing.
async fn entries(world: &World) -> Vec<Leaf> {
    let text = |column: &str| format!("SELECT CAST({column} AS TEXT) FROM trail ORDER BY place");
    let (chains, numbers) = (world.texts(&text("chain")).await, world.texts(&text("sequence_no")).await);
    let (hashes, tenants) = (world.texts(&text("hash")).await, world.texts(&text("tenant_id")).await);
    let rows = chains.iter().zip(numbers).zip(hashes).zip(tenants);
    rows.map(|(((chain, number), hash), tenant)| Leaf::of(chain, number.parse().unwrap(), &hash, &tenant).unwrap()).collect()
}

/// Of each chain, what was sealed comes in the chain's order.
fn in_order(leaves: &[Leaf]) {
    let mut next = std::collections::HashMap::new();
    for leaf in leaves {
        let expected = next.entry(leaf.chain).or_insert(0);
        assert_eq!(leaf.sequence_no, *expected);
        *expected += 1;
    }
}

#[tokio::test]
async fn every_entry_is_sealed_once_in_its_chains_order_and_published() {
    let log = Log::new();
    let world = World::with(&log.config("first", &[])).await;
    let plane = world.acme(2).await;
    world.archived(&plane).await;
    let report = world.app.manager.keep_log().await.unwrap();
    assert_eq!(report.sealed, report.published);
    let leaves = log.leaves(&["first"]);
    assert_eq!(leaves, entries(&world).await, "what is put on record of the key is among them");
    in_order(&leaves);
    let of_plane = leaves.iter().filter(|leaf| leaf.chain == tag(&format!("plane:{plane}"))).count() as i64;
    assert_eq!(of_plane, world.number(&format!("SELECT count(*) FROM trail WHERE plane_id = '{plane}'")).await);
    let answer = verified(&world).await;
    assert_eq!(answer["log"]["leaves"], leaves.len());
    assert_eq!((&answer["log"]["waiting"], &answer["published"]["size"]), (&json!(0), &json!(leaves.len())));
    let again = world.app.manager.keep_log().await.unwrap();
    assert_eq!((again.sealed, again.published, again.stopped), (0, 0, None), "nothing is left to do");
    invariants::check(&world).await;
}

#[tokio::test]
async fn what_is_in_no_log_cannot_be_proved() {
    let world = World::with("[log]\nkey = \"none\"\n").await;
    world.call("user:root", "account.tenant.register", json!({"name": "acme"})).await;
    let code = async |operation: &str, arguments: Json| world.code("user:auditor", operation, arguments).await;
    let entry = world.last_entry().await["event_id"].clone();
    assert_eq!(code("governance.audit.prove", json!({"entry": entry})).await, "ENTRY_UNKNOWN");
    assert_eq!(code("governance.audit.consistency", json!({"old": "0"})).await, "LOG_OFF");
    assert_eq!(code("governance.audit.bundle", json!({"tenant": "acme"})).await, "LOG_OFF");
    let shown = world.call("user:auditor", "governance.log.show", json!({})).await;
    assert_eq!((&shown["log"], &shown["size"]), (&json!("off"), &json!(0)));
    // What is in one is proved, to whoever may know of it.
    let log = Log::new();
    let world = world.reopened(&log.config("first", &[])).await;
    let proof = world.call("user:auditor", "governance.audit.prove", json!({"entry": entry})).await;
    let checkpoint = Checkpoint::verified(proof["checkpoint"].as_str().unwrap(), &[log.public("first")]).unwrap().0;
    let shown = &proof["entry"];
    let text = |field: &str| shown[field].as_str().unwrap();
    let leaf = Leaf::of(text("chain"), shown["sequence_no"].as_u64().unwrap(), text("hash"), text("tenant_id")).unwrap();
    let hashes: Vec<Hash> = shown["proof"].as_array().unwrap().iter().map(hash).collect();
    let index = proof["leaf_index"].as_u64().unwrap();
    check_inclusion(index, checkpoint.size, &leaf_hash(&leaf.bytes()), &hashes, &checkpoint.root).unwrap();
    world.call("user:root", "account.tenant.register", json!({"name": "other"})).await;
    let mut confined = call("user:olga", "governance.audit.prove", json!({"entry": entry}));
    confined.tenant = Some("other".into());
    let lethe_worker::operations::Answer::Refused(refusal) = world.dispatch(&confined).await else {
        panic!("it is another tenant's")
    };
    assert_eq!(refusal.code.as_str(), "ENTRY_UNKNOWN");
    let older = world.code("user:auditor", "governance.audit.consistency", json!({"old": "900"})).await;
    assert_eq!(older, "INVALID_ARGUMENT");
}

/// A whole trail in one file is verified by itself; a bundle says all of a plane, or of a tenant.
#[tokio::test]
async fn whole_trails_are_handed_out_with_what_proves_them() {
    let log = Log::new();
    let world = World::with(&log.config("first", &[])).await;
    let plane = world.acme(2).await;
    world.archived(&plane).await;
    let keys = [log.public("first")];
    let file = world.dir.path().join("log.txt");
    let export = json!({"to": file});
    let written = world.call("user:auditor", "governance.log.export", export.clone()).await;
    let verified = lethe_verify::export::verify(std::fs::File::open(&file).unwrap(), &keys).unwrap();
    assert_eq!(
        (json!(verified.entries), verified.entries as i64),
        (written["entries"].clone(), world.number("SELECT count(*) FROM trail").await)
    );
    assert_eq!(world.code("user:auditor", "governance.log.export", export).await, "INVALID_ARGUMENT", "it is there already");
    for (question, values) in [
        (json!({"plane": plane}), false),
        (json!({"plane": plane}), true),
        (json!({"tenant": "acme"}), true),
        (json!({"leaves": [0, 3]}), false),
    ] {
        let mut arguments = question.clone();
        arguments["values"] = json!(values);
        let bundle = world.call("user:auditor", "governance.audit.bundle", arguments).await;
        let text = bundle.to_string();
        let read = lethe_verify::bundle::Bundle::read(&text).unwrap();
        read.verify(&keys).unwrap_or_else(|fault| panic!("{question}: {fault}"));
        assert_eq!(text.contains("alice"), values, "names only where they are asked for");
        if question["leaves"].is_null() {
            // One entry less is not all.
            let mut short = bundle.clone();
            short["entries"].as_array_mut().unwrap().pop();
            let fault = lethe_verify::bundle::Bundle::read(&short.to_string()).unwrap().verify(&keys);
            assert!(fault.is_err(), "{question}");
        }
    }
}

#[tokio::test]
async fn parts_of_a_tile_go_when_it_is_whole() {
    let log = Log::new();
    let world = World::with(&log.config("first", &[])).await;
    let tenants = async |from: usize, to: usize| {
        for number in from..to {
            world.call("user:root", "account.tenant.register", json!({"name": format!("tenant-{number}")})).await;
        }
        world.app.manager.keep_log().await.unwrap();
    };
    tenants(0, 10).await;
    tenants(10, 20).await;
    let parts = log.path("published/tile/0/000.p");
    assert_eq!(std::fs::read_dir(&parts).unwrap().count(), 2);
    tenants(20, 300).await;
    assert!(!parts.exists() && !log.path("published/tile/entries/000.p").exists());
    assert!(log.path("published/tile/0/000").exists() && log.path("published/tile/0/001.p").exists());
    in_order(&log.leaves(&["first"]));
    verified(&world).await;
}

/// A transaction took its place in the trail and is committed after others that came later.
#[tokio::test(flavor = "multi_thread")]
async fn a_late_commit_gets_a_later_leaf_and_nothing_is_left_out() {
    if !crate::ON_POSTGRES {
        // One writes at a time.
        return;
    }
    let log = Log::new();
    let world = World::with(&log.config("first", &[])).await;
    world.call("user:root", "account.tenant.register", json!({"name": "acme"})).await;
    let tenant = world.tenant_id("acme").await.parse().unwrap();
    let (taken, is_taken) = tokio::sync::oneshot::channel();
    let (release, released) = tokio::sync::oneshot::channel::<()>();
    let ledger = world.app.ledger.clone();
    let late = tokio::spawn(async move {
        let work = async |tx: &mut Tx| {
            let actor = Actor::system("late");
            tx.append(Entry::new(Chain::Tenant(tenant), Some(tenant), EventType::StatusChanged, &actor, "test")).await?;
            // It is written, and not committed.
            tx.savepoint().await?;
            taken.send(()).unwrap();
            released.await.unwrap();
            Ok::<_, Fault>(())
        };
        ledger.transact(work).await.unwrap().into_inner();
    });
    is_taken.await.unwrap();
    for number in 0..5 {
        world.call("user:root", "account.tenant.register", json!({"name": format!("other-{number}")})).await;
        world.app.manager.keep_log().await.unwrap();
    }
    let before = log.leaves(&["first"]);
    let below = world.number("SELECT sealed_below FROM log").await;
    let place = "SELECT max(place) FROM trail WHERE event_type = 'STATUS_CHANGED'";
    release.send(()).unwrap();
    late.await.unwrap();
    let place = world.number(place).await;
    assert!(below <= place, "{below} is not beyond {place}, which could still come");
    world.app.manager.keep_log().await.unwrap();
    let leaves = log.leaves(&["first"]);
    assert_eq!(&leaves[..before.len()], &before[..]);
    assert!(leaves[before.len()..].iter().any(|leaf| leaf.chain == tag(&format!("tenant:{tenant}"))));
    in_order(&leaves);
    // A place that was taken and will never be filled is a gap.
    let undone = async |tx: &mut Tx| {
        let actor = Actor::system("undone");
        tx.append(Entry::new(Chain::Tenant(tenant), Some(tenant), EventType::StatusChanged, &actor, "test")).await?;
        tx.savepoint().await?;
        Err::<(), _>(Fault::IncompleteEntry(Vec::new()))
    };
    assert!(world.app.ledger.transact(undone).await.is_err());
    let gap = world.number("SELECT max(place) FROM trail").await + 1;
    // With nobody left who could be late, the past is known, gap and all. As far as it can tell, whoever writes in another database of this
    // server could be.
    let began = std::time::Instant::now();
    for number in 5.. {
        world.call("user:root", "account.tenant.register", json!({"name": format!("other-{number}")})).await;
        world.app.manager.keep_log().await.unwrap();
        if world.number("SELECT sealed_below FROM log").await > gap {
            assert_eq!(world.number(&format!("SELECT count(*) FROM trail WHERE place = {gap}")).await, 0);
            break;
        }
        assert!(began.elapsed().as_secs() < 120, "nobody is in a transaction, and still the past is not known");
    }
    verified(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_seals_at_once_seals_one_log() {
    let log = Log::new();
    let world = World::with(&log.config("first", &[])).await;
    let tenants: Vec<String> = {
        for number in 0..4 {
            world.call("user:root", "account.tenant.register", json!({"name": format!("tenant-{number}")})).await;
        }
        world.texts("SELECT CAST(id AS TEXT) FROM tenants").await
    };
    let done = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let mut sealers = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let (app, done) = (world.app.clone(), done.clone());
        sealers.spawn(async move {
            while !done.load(std::sync::atomic::Ordering::SeqCst) {
                let report = app.manager.keep_log().await.unwrap();
                assert_eq!(report.stopped, None);
            }
        });
    }
    let mut writers = tokio::task::JoinSet::new();
    for tenant in tenants {
        let (ledger, tenant) = (world.app.ledger.clone(), tenant.parse().unwrap());
        writers.spawn(async move {
            for _ in 0..100 {
                let append = async |tx: &mut Tx| {
                    let actor = Actor::system("writer");
                    for _ in 0..3 {
                        tx.append(Entry::new(Chain::Tenant(tenant), Some(tenant), EventType::StatusChanged, &actor, "test"))
                            .await?;
                    }
                    Ok::<_, Fault>(())
                };
                ledger.transact(append).await.unwrap().into_inner();
            }
        });
    }
    while let Some(writer) = writers.join_next().await {
        writer.unwrap();
    }
    done.store(true, std::sync::atomic::Ordering::SeqCst);
    while let Some(sealer) = sealers.join_next().await {
        sealer.unwrap();
    }
    // Once for what is left, once for what publishing left to whoever held its lease.
    world.clock.advance(TimeDelta::seconds(61));
    world.app.manager.keep_log().await.unwrap();
    world.app.manager.keep_log().await.unwrap();
    let leaves = log.leaves(&["first"]);
    in_order(&leaves);
    assert_eq!(leaves.len() as i64, world.number("SELECT count(*) FROM trail").await);
    assert_eq!(verified(&world).await["log"]["leaves"], leaves.len());
}

#[tokio::test]
async fn without_its_key_nothing_is_sealed_or_purged_and_everything_is_written() {
    let log = Log::new();
    let config = log.config("first", &[]);
    let world = World::with(&config).await;
    let plane = world.acme(2).await;
    world.archived(&plane).await;
    world.app.manager.keep_log().await.unwrap();
    let size = log.checkpoint(&["first"]).size;
    std::fs::rename(log.path("first"), log.path("away")).unwrap();
    world.approve(&plane).await;
    world.advance(TimeDelta::minutes(1)).await;
    assert_eq!(world.status(&plane).await["state"], "ARCHIVED");
    assert_eq!(world.run(&plane).await, ("purge".into(), "parked".into()));
    assert!(why(&world).await.contains("No such file"), "{}", why(&world).await);
    let report = world.app.manager.keep_log().await.unwrap();
    assert!(report.sealed == 0 && report.stopped.is_some());
    assert_eq!(log.checkpoint(&["away"]).size, size, "nothing is sealed");
    world.call("user:root", "account.tenant.register", json!({"name": "other"})).await;
    let said = world.number("SELECT count(*) FROM trail WHERE event_type = 'LOG_STOPPED'").await;
    assert_eq!(said, 1, "it is said once");

    // Another key is not this log's.
    log.make("first", 9);
    world.app.manager.keep_log().await.unwrap();
    let said = why(&world).await;
    assert!(said.contains(&log.public("away").to_string()) && said.contains("adopt-key"), "{said}");
    std::fs::write(log.path("first"), "garbage").unwrap();
    world.app.manager.keep_log().await.unwrap();
    assert!(why(&world).await.contains("no private key") && !why(&world).await.contains("garbage"), "{}", why(&world).await);

    std::fs::rename(log.path("away"), log.path("first")).unwrap();
    let report = world.app.manager.keep_log().await.unwrap();
    assert!(report.sealed > 0 && report.stopped.is_none(), "{report:?}");
    world.drain().await;
    assert_eq!(world.status(&plane).await["state"], "PURGED", "{}", world.status(&plane).await);
    world.app.manager.keep_log().await.unwrap();
    verified(&world).await;
    invariants::check(&world).await;
}

#[tokio::test]
async fn a_process_without_a_key_leaves_sealing_to_others_until_nobody_does() {
    let log = Log::new();
    let world = World::with(&log.config("first", &[])).await;
    world.call("user:root", "account.tenant.register", json!({"name": "acme"})).await;
    world.app.manager.keep_log().await.unwrap();
    let world = world.reopened("[log]\nkey = \"none\"\n").await;
    world.call("user:root", "account.tenant.register", json!({"name": "other"})).await;
    assert_eq!(world.app.manager.keep_log().await.unwrap().stopped, None);
    world.clock.advance(TimeDelta::seconds(11));
    let report = world.app.manager.keep_log().await.unwrap();
    assert!(report.stopped.is_some_and(|why| why.contains("no process that has the log's key")));
    let world = world.reopened(&log.config("first", &[])).await;
    assert_eq!(world.app.manager.keep_log().await.unwrap().stopped, None);
    verified(&world).await;
}

#[tokio::test]
async fn a_key_is_replaced_while_everybody_still_knows_the_one_before() {
    let log = Log::new();
    let (first, second) = (log.public("first"), log.make("second", 2));
    let world = World::with(&log.config("first", &[])).await;
    let grow = async |world: &World, name: &str| {
        world.call("user:root", "account.tenant.register", json!({"name": name})).await;
        assert_eq!(world.app.manager.keep_log().await.unwrap().stopped, None);
        std::fs::read_to_string(log.path("published/checkpoint")).unwrap()
    };
    let old = grow(&world, "one").await;
    let too_early =
        world.refused("user:root", "governance.log.retire_key", json!({"key": first.to_string(), "reason": "no"})).await;
    assert!(too_early.message.contains("only key"), "{}", too_early.message);
    let world = world.reopened(&log.config("second", &["first"])).await;
    let both = grow(&world, "two").await;
    world.call("user:root", "governance.log.retire_key", json!({"key": first.to_string(), "reason": "it is old"})).await;
    let still_there = grow(&world, "three").await;
    let world = world.reopened(&log.config("second", &[])).await;
    let new = grow(&world, "four").await;
    let of = |note: &str| {
        let signed = |key| Checkpoint::verified(note, std::slice::from_ref(key)).is_ok();
        (signed(&first), signed(&second))
    };
    assert_eq!([of(&old), of(&both), of(&still_there), of(&new)], [(true, false), (true, true), (false, true), (false, true)]);
    assert_eq!(world.number("SELECT count(*) FROM log_keys").await, 2);
    let unknown =
        world.code("user:root", "governance.log.retire_key", json!({"key": first.to_string(), "reason": "again"})).await;
    assert_eq!(unknown, "LOG_KEY_UNKNOWN");

    // Whoever kept a checkpoint under the first key is led to the newest one.
    let proof = world.call("user:auditor", "governance.audit.consistency", json!({"old": old})).await;
    let (kept, newest) = (read(&old), read(&new));
    assert!(proof["new"].as_u64().unwrap() >= newest.size);
    let hashes: Vec<Hash> = proof["proof"].as_array().unwrap().iter().map(hash).collect();
    let newest = read(proof["new_checkpoint"].as_str().unwrap());
    check_consistency(kept.size, &kept.root, newest.size, &newest.root, &hashes).unwrap();
    let answer = world.call("user:auditor", "governance.audit.verify", json!({"checkpoint": old})).await;
    assert_eq!((&answer["audit"], &answer["checkpoint"]["size"]), (&json!("verified"), &json!(kept.size)), "{answer}");

    // Who finds the retired key signs nothing with it that came later, not even the right tree.
    let newest = world.texts("SELECT note FROM checkpoints ORDER BY size DESC LIMIT 1").await.remove(0);
    let by_first = SigningKey::read(&std::fs::read_to_string(log.path("first")).unwrap()).unwrap();
    let past = either("DROP TRIGGER checkpoints_are_not_updated;", "SET session_replication_role = replica;");
    let signed =
        |note: &str| format!("{past} UPDATE checkpoints SET note = '{note}' WHERE size = (SELECT max(size) FROM checkpoints)");
    world.sql(&signed(&read(&newest).signed([&by_first]))).await;
    let answer = world.call("user:auditor", "governance.audit.verify", json!({"unpublished": true})).await;
    assert!(answer["message"].as_str().unwrap().contains("signed by none of the keys"), "{answer}");
    let past = either("", "SET session_replication_role = replica;");
    world.sql(&format!("{past} UPDATE checkpoints SET note = '{newest}' WHERE size = (SELECT max(size) FROM checkpoints)")).await;
    verified(&world).await;
    std::fs::write(log.path("published/checkpoint"), read(&newest).signed([&by_first])).unwrap();
    let answer = world.call("user:auditor", "governance.audit.verify", json!({})).await;
    assert!(answer["message"].as_str().unwrap().contains("not of this log"), "{answer}");
    std::fs::write(log.path("published/checkpoint"), &newest).unwrap();

    // The only key is lost: another one is adopted, and that is on record.
    log.make("third", 3);
    let world = world.reopened(&log.config("third", &[])).await;
    assert!(world.app.manager.keep_log().await.unwrap().stopped.is_some());
    let adopted = world.call("user:root", "governance.log.adopt_key", json!({"reason": "the second is lost"})).await;
    assert_eq!(adopted["retired"], json!([second.to_string()]));
    let newest = grow(&world, "five").await;
    assert!(Checkpoint::verified(&newest, &[log.public("third")]).is_ok());
    let entry =
        world.texts("SELECT body FROM trail WHERE event_type = 'LOG_KEY_ADDED' ORDER BY place DESC LIMIT 1").await.remove(0);
    assert!(entry.contains("adopted_without"), "{entry}");
    verified(&world).await;
}

fn read(note: &str) -> Checkpoint {
    Checkpoint::read(&Note::read(note).unwrap().text).unwrap()
}

fn hash(text: &Json) -> Hash {
    use base64::{Engine, prelude::BASE64_STANDARD};
    BASE64_STANDARD.decode(text.as_str().unwrap()).unwrap().try_into().unwrap()
}

/// Where several write, no entry is dated before the one before it, whatever the clock says; a key is dated as the entry that names it.
#[tokio::test]
async fn a_key_that_comes_when_the_clock_is_set_back_is_dated_as_it_is_on_record() {
    let log = Log::new();
    let (first, _) = (log.public("first"), log.make("second", 2));
    let mut world = World::with(&log.config("first", &[])).await;
    for config in [log.config("first", &[]), log.config("second", &["first"])] {
        world = world.reopened(&config).await;
        world.clock.advance(TimeDelta::seconds(10));
        // On the system's chain: it concerns no tenant that is known.
        world.refused("user:mallory", "knowledge.plane.show", json!({"plane": "acme/nothing"})).await;
        world.clock.advance(TimeDelta::seconds(-5));
        assert_eq!(world.app.manager.keep_log().await.unwrap().stopped, None);
        verified(&world).await;
    }
    world.refused("user:mallory", "knowledge.plane.show", json!({"plane": "acme/nothing"})).await;
    world.clock.advance(TimeDelta::seconds(-5));
    world.call("user:root", "governance.log.retire_key", json!({"key": first.to_string(), "reason": "it is old"})).await;
    verified(&world).await;
}

/// What is outside was rolled back, forked, changed or taken away; or this ledger was.
#[tokio::test]
async fn what_is_published_is_compared_and_a_fork_stops_the_log() {
    let log = Log::new();
    let world = World::with(&log.config("first", &[])).await;
    let published = |name: &str| log.path("published").join(name);
    let grow = async |name: &str| {
        world.call("user:root", "account.tenant.register", json!({"name": name})).await;
        world.app.manager.keep_log().await.unwrap();
    };
    grow("one").await;
    let old = std::fs::read(published("checkpoint")).unwrap();
    grow("two").await;
    let newest = std::fs::read(published("checkpoint")).unwrap();
    let size = read(std::str::from_utf8(&newest).unwrap()).size;
    let tile = format!("tile/0/000.p/{size}");
    let bundle = format!("tile/entries/000.p/{size}");
    let key = SigningKey::read(&std::fs::read_to_string(log.path("first")).unwrap()).unwrap();
    let forked = Checkpoint { origin: NAME.into(), size, root: [7; 32] }.signed([&key]);
    let ahead = Checkpoint { origin: NAME.into(), size: size + 5, root: [7; 32] }.signed([&key]);
    let stranger =
        Checkpoint { origin: NAME.into(), size, root: [7; 32] }.signed([&SigningKey::from_seed(NAME, &[8; 32]).unwrap()]);
    let changed = |path: &str| {
        let mut bytes = std::fs::read(published(path)).unwrap();
        bytes[40] ^= 1;
        bytes
    };
    for (path, bytes, named) in [
        ("checkpoint", Some(old), "rolled back"),
        ("checkpoint", Some(forked.into_bytes()), "forked"),
        ("checkpoint", Some(ahead.into_bytes()), "the ledger was rolled back"),
        ("checkpoint", Some(stranger.into_bytes()), "not of this log"),
        ("checkpoint", Some(b"garbage".to_vec()), "cannot be read"),
        ("checkpoint", None, "rolled back"),
        (&tile, Some(changed(&tile)), "was changed"),
        (&tile, None, "is gone"),
        (&bundle, Some(changed(&bundle)), "was changed"),
        (&bundle, None, "is gone"),
    ] {
        let kept = std::fs::read(published(path)).unwrap();
        match bytes {
            Some(bytes) => std::fs::write(published(path), bytes).unwrap(),
            None => std::fs::remove_file(published(path)).unwrap(),
        }
        let answer = world.call("user:auditor", "governance.audit.verify", json!({})).await;
        assert_eq!(answer["audit"], "broken", "{path}, {named}: {answer}");
        assert!(answer["message"].as_str().unwrap().contains(named), "{named}: {answer}");
        let without = world.call("user:auditor", "governance.audit.verify", json!({"unpublished": true})).await;
        assert_eq!(without["audit"], "verified", "the ledger itself is as it was");
        std::fs::write(published(path), kept).unwrap();
        verified(&world).await;
    }

    // One who finds another past outside signs nothing on top of it.
    let forked = Checkpoint { origin: NAME.into(), size: size + 1, root: [7; 32] }.signed([&key]);
    std::fs::write(published("checkpoint"), forked).unwrap();
    let before = world.number("SELECT size FROM log").await;
    grow("three").await;
    assert_eq!(world.number("SELECT size FROM log").await, before);
    assert!(why(&world).await.contains("rolled back"), "{}", why(&world).await);
    std::fs::write(published("checkpoint"), &newest).unwrap();
    grow("four").await;
    assert_eq!(why(&world).await, "");
    verified(&world).await;
}

/// What was published and is gone is published anew, and that is on record; nothing is signed before the place has answered once.
#[tokio::test]
async fn what_was_published_and_is_gone_is_noticed() {
    let log = Log::new();
    let world = World::with(&log.config("first", &[])).await;
    let grow = async |world: &World, name: &str| {
        world.call("user:root", "account.tenant.register", json!({"name": name})).await;
        world.app.manager.keep_log().await.unwrap()
    };
    grow(&world, "one").await;
    std::fs::remove_dir_all(log.path("published")).unwrap();
    grow(&world, "two").await;
    assert_eq!(world.number("SELECT count(*) FROM trail WHERE event_type = 'LOG_REPUBLISHED'").await, 1);
    world.app.manager.keep_log().await.unwrap();
    verified(&world).await;
    // Another process, which has not seen the place yet.
    let world = world.reopened(&log.config("first", &[])).await;
    std::fs::rename(log.path("published"), log.path("kept")).unwrap();
    std::fs::write(log.path("published"), "").unwrap();
    let report = grow(&world, "three").await;
    assert_eq!((report.sealed, report.stopped), (0, None), "nothing is signed that might be another past");
    std::fs::remove_file(log.path("published")).unwrap();
    std::fs::rename(log.path("kept"), log.path("published")).unwrap();
    let report = grow(&world, "four").await;
    assert!(report.sealed == 2 && report.published == 2, "{report:?}");
    assert_eq!(world.number("SELECT count(*) FROM trail WHERE event_type = 'LOG_REPUBLISHED'").await, 1);
    verified(&world).await;
}

#[tokio::test]
async fn a_place_that_is_away_stops_neither_sealing_nor_purging_and_is_caught_up_with() {
    let log = Log::new();
    let world = World::with(&log.config("first", &[])).await;
    let plane = world.acme(2).await;
    world.app.manager.keep_log().await.unwrap();
    let before = log.checkpoint(&["first"]).size;
    // A file where the folder was: nothing can be read or written there.
    std::fs::rename(log.path("published"), log.path("kept")).unwrap();
    std::fs::write(log.path("published"), "").unwrap();
    world.archived(&plane).await;
    world.approve(&plane).await;
    world.advance(TimeDelta::minutes(1)).await;
    assert_eq!(world.status(&plane).await["state"], "PURGED");
    let report = world.app.manager.keep_log().await.unwrap();
    assert!(report.sealed > 10 && report.published == 0 && report.stopped.is_none(), "{report:?}");
    std::fs::remove_file(log.path("published")).unwrap();
    std::fs::rename(log.path("kept"), log.path("published")).unwrap();
    world.app.manager.keep_log().await.unwrap();
    let leaves = log.leaves(&["first"]);
    assert!(leaves.len() as u64 > before + 10);
    in_order(&leaves);
    verified(&world).await;
}

#[tokio::test]
async fn a_seal_that_lost_its_race_changes_nothing() {
    let log = Log::new();
    let world = World::with(&log.config("first", &[])).await;
    world.call("user:root", "account.tenant.register", json!({"name": "acme"})).await;
    let key = SigningKey::read(&std::fs::read_to_string(log.path("first")).unwrap()).unwrap();
    let seal = async |tx: &mut Tx, limit: usize| {
        let locked = tx.lock_log().await?.expect("nobody else seals");
        tx.seal(&locked, &[&key], limit).await
    };
    let sealed = world.app.ledger.transact(async |tx: &mut Tx| seal(tx, 1).await).await.unwrap().into_inner();
    assert!(matches!(sealed, Sealed::Entries { entries: 1, size: 1, more: true }), "{sealed:?}");
    // Whatever happens in the transaction afterwards, nothing of a seal stays that is not committed.
    let failed = world.app.ledger.transact(async |tx: &mut Tx| {
        seal(tx, 1000).await?;
        Err::<(), Fault>(Fault::LogMoved { size: 0 })
    });
    assert!(failed.await.is_err());
    assert_eq!(world.number("SELECT count(*) FROM leaves").await, 1);
    assert_eq!(world.number("SELECT count(*) FROM checkpoints").await, 1);
    world.app.manager.keep_log().await.unwrap();
}

/// Killed at each of the log's places, and begun again.
#[tokio::test(flavor = "multi_thread")]
async fn killed_while_it_seals_or_publishes_it_goes_on_with_the_same_log() {
    for (point, nth) in [
        (CrashPoint::LogSealed, 1),
        (CrashPoint::LogSealed, 2),
        (CrashPoint::LogTilePublished, 1),
        (CrashPoint::LogTilePublished, 2),
        (CrashPoint::LogCheckpointPublished, 1),
    ] {
        let log = Log::new();
        let installed = Installed::with_plane(5, &log.config("first", &[])).await;
        let neighbour = knowledge::digest(&installed.path("knowledge.db"), "p2").await;
        installed.done(&[
            "offboard",
            "acme/handbook",
            "--ground",
            "internal",
            "--reason",
            "done",
            "--grace",
            "0s",
            "--retention",
            "0s",
        ]);
        assert!(installed.work_until_crash(&format!("{}#{nth}", point.as_str())), "{point:?}");
        assert_eq!(installed.done(&["audit", "verify", "--unpublished"])["audit"], "verified", "{point:?}");
        installed.outlive_leases();
        installed.work();
        installed.done(&["approval", "grant", "acme/handbook", "--reason", "checked", "--actor", "user:bob"]);
        // The publisher's lease of who was killed.
        installed.set_clock(200);
        installed.work();
        installed.done(&["log", "seal"]);
        installed.assert_purged("acme/handbook", &neighbour).await;
        let leaves = log.leaves(&["first"]);
        in_order(&leaves);
        let shown = installed.done(&["log", "show"]);
        assert_eq!(
            (&shown["size"], &shown["published_size"]),
            (&json!(leaves.len()), &json!(leaves.len())),
            "{point:?}: {shown}"
        );
        let verified = installed.done(&["audit", "verify"]);
        assert_eq!((&verified["audit"], &verified["log"]["leaves"]), (&json!("verified"), &json!(leaves.len())), "{point:?}");
    }
}
