//! Personal values: sealed where they stand, erased for good, and every proof verifies without them.

use std::sync::Arc;

use chrono::TimeDelta;
use lethe_ledger::{Actor, Chain, Entry, EventType, Fault, Ledger, OpenOptions, TrailFilter, Tx};
use lethe_worker::{clock::SeededEntropy, operations::Answer};
use serde_json::{Value as Json, json};
use uuid::Uuid;

use crate::support::{World, binary::Installed, call, invariants, keys::Key, ledger::either, request};

const ERASE: &str = "governance.personal.erase";

/// Where a text still stands in the ledger: in the raw bytes of its files; on a server in its rows, whose old versions go with its VACUUM.
async fn places(world: &World, text: &str) -> Vec<String> {
    if let Some(ledger) = world.app.ledger.path() {
        let name = ledger.file_name().unwrap().to_str().unwrap().to_owned();
        let files = ledger.parent().unwrap().read_dir().unwrap().map(|entry| entry.unwrap().path());
        let ours = files.filter(|path| path.is_file() && path.file_name().unwrap().to_str().unwrap().starts_with(&name));
        let holds =
            // What went while it was looked for (a log that its last reader emptied) holds nothing.
            |path: &std::path::PathBuf| {
                let bytes = std::fs::read(path).or_else(|error| match error.kind() {
                    std::io::ErrorKind::NotFound => Ok(Vec::new()),
                    _ => Err(error),
                });
                bytes.unwrap().windows(text.len()).any(|window| window == text.as_bytes())
            };
        return ours.filter(holds).map(|path| path.display().to_string()).collect();
    }
    let mut found = Vec::new();
    for table in world.texts("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").await {
        let hex = hex::encode(text);
        let says = format!("t::text LIKE '%{text}%' OR t::text LIKE '%{hex}%'");
        if world.number(&format!("SELECT count(*) FROM {table} t WHERE {says}")).await > 0 {
            found.push(table);
        }
    }
    found
}

/// The same of bytes, in hexadecimal digits on a server.
async fn keys_at(world: &World, key: &[u8]) -> u64 {
    match world.app.ledger.path() {
        Some(_) => crate::support::knowledge::occurrences(world.dir.path(), key),
        None => {
            world.number(&format!("SELECT count(*) FROM personal_keys WHERE encode(key, 'hex') = '{}'", hex::encode(key))).await
                as u64
        }
    }
}

async fn key_of(world: &World, holder: &str) -> Vec<u8> {
    let read = either("hex(key)", "encode(key, 'hex')");
    let of = format!("SELECT {read} FROM personal_keys WHERE tenant_id = '{holder}' AND destroyed_at IS NULL");
    hex::decode(world.texts(&of).await.remove(0)).expect("a key")
}

async fn verify(world: &World) -> Json {
    let verified = world.call("user:auditor", "governance.audit.verify", json!({})).await;
    assert_eq!(verified["audit"], "verified", "{verified}");
    verified
}

async fn values(world: &World, tenant: &str) -> String {
    let listed = world.call("user:auditor", "governance.audit.list", json!({"tenant": tenant})).await;
    listed["entries"].as_array().unwrap().iter().map(|entry| entry["values"].to_string()).collect()
}

async fn erase(world: &World, tenant: &str) -> Json {
    world.call("user:eve", ERASE, json!({"tenant": tenant, "reason": "Art. 17"})).await
}

/// A whole offboarding of acme's plane in which everybody has a name with `MARK` in it, and so has every reason.
async fn purged(world: &World) -> String {
    let plane = world.acme(3).await;
    let mut terms = request(&plane, "1h");
    terms["reason"] = json!("MARK-left-us");
    let mut keyed = call("user:MARK-alice", "knowledge.offboarding.request", terms.clone());
    keyed.idempotency_key = Some("MARK-key".into());
    world.dispatch(&keyed).await;
    world.drain().await;
    let cancel = json!({"plane": plane, "reason": "MARK-stays"});
    world.call("user:MARK-alice", "knowledge.offboarding.cancel", cancel).await;
    world.drain().await;
    let demand = json!({"plane": plane, "ground": "erasure_request", "reason": "MARK-demands", "grace": "1h"});
    world.call("user:MARK-alice", "knowledge.offboarding.request", demand).await;
    world.drain().await;
    let extend = json!({"plane": plane, "told": world.app.ledger.now(), "reason": "MARK-much-to-do"});
    world.call("user:MARK-dora", "knowledge.offboarding.extend", extend).await;
    let hold = json!({"plane": plane, "reason": "MARK-litigation", "matter": "case-7"});
    let held = world.call("user:MARK-lena", "knowledge.hold.place", hold).await["hold_id"].clone();
    world.call("user:MARK-lena", "knowledge.hold.release", json!({"hold_id": held, "reason": "MARK-settled"})).await;
    world.advance(TimeDelta::hours(1)).await;
    assert_eq!(world.state(&plane).await, "ARCHIVED", "{}", world.status(&plane).await);
    world.refused("user:MARK-mallory", "knowledge.plane.show", json!({"plane": "acme/MARK-unknown"})).await;
    for who in ["user:MARK-bob", "user:MARK-carol"] {
        world.call(who, "knowledge.approval.grant", json!({"plane": plane, "reason": "MARK-checked"})).await;
        world.call(who, "knowledge.approval.withdraw", json!({"plane": plane, "reason": "MARK-doubts"})).await;
    }
    world.call("user:MARK-bob", "knowledge.approval.grant", json!({"plane": plane, "reason": "MARK-checked"})).await;
    world.drain().await;
    assert_eq!(world.state(&plane).await, "PURGED");
    plane
}

#[tokio::test]
async fn names_and_reasons_of_the_trail_are_not_in_the_ledgers_bytes_before_anybody_erases_them() {
    let world = World::new().await;
    let plane = world.acme(3).await;
    world.refused("user:MARK-mallory", "knowledge.plane.show", json!({"plane": "acme/nothing"})).await;
    let until = json!({"name": "acme", "until": world.app.ledger.now() + TimeDelta::days(9), "reason": "MARK-audit"});
    world.call("user:root", "account.tenant.protect", until).await;
    assert_eq!(places(&world, "MARK").await, [""; 0]);
    let all = world.call("user:auditor", "governance.audit.list", json!({})).await.to_string();
    assert!(all.contains("MARK-mallory") && all.contains("MARK-audit"), "and who may read the trail reads them");
    // What is open stands in its own row: it is worked with.
    world.call("user:MARK-alice", "knowledge.offboarding.request", request(&plane, "7d")).await;
    assert_ne!(places(&world, "MARK").await, [""; 0]);
    verify(&world).await;
    invariants::check(&world).await;
}

#[tokio::test]
async fn what_is_erased_is_in_no_byte_and_every_proof_verifies_without_it() {
    let world = World::new().await;
    let plane = purged(&world).await;
    let other = world.texts("SELECT id FROM planes WHERE state = 'ACTIVE'").await.remove(0);
    world.call("user:olga", "knowledge.hold.place", json!({"plane": other, "reason": "of globex"})).await;
    let acme = world.tenant_id("acme").await;
    let (before, key) = (verify(&world).await, key_of(&world, &acme).await);
    let hashes = world.texts("SELECT hash FROM trail ORDER BY place").await;
    assert!(values(&world, "acme").await.contains("MARK-alice"));
    assert_eq!(before["destroyed"], 0);

    let erased = erase(&world, "acme").await;
    assert!(erased["values"].as_u64().unwrap() > 30 && erased["rows"].as_u64().unwrap() > 5, "{erased}");
    assert_eq!((&erased["scrubbed"], erased["key_ids"].as_array().unwrap().len()), (&json!(!crate::ON_POSTGRES), 1));

    let after = verify(&world).await;
    assert_eq!(after["destroyed"], erased["values"]);
    assert_eq!(world.texts("SELECT hash FROM trail ORDER BY place").await[..hashes.len()], hashes);
    let left = values(&world, "acme").await;
    assert!(!left.contains("MARK") && left.contains("eve") && left.contains("Art. 17"), "{left}");
    assert!(values(&world, "globex").await.contains("olga"), "another tenant's are as they were");
    let entry = world.last_entry().await;
    assert_eq!((&entry["event_type"], &entry["chain"]), (&json!("PERSONAL_ERASED"), &json!(format!("tenant:{acme}"))));
    assert_eq!(entry["evidence"]["key_ids"], erased["key_ids"]);

    // The attempt on an unknown plane concerned no tenant that could be known.
    assert!(world.call("user:auditor", "governance.audit.list", json!({})).await.to_string().contains("MARK-mallory"));
    assert_eq!(places(&world, "MARK").await, [""; 0]);
    assert_eq!(keys_at(&world, &key).await, 0);
    if crate::ON_POSTGRES {
        // As README says, its files are its VACUUM's; its log is its own.
        world.sql("VACUUM (FULL, ANALYZE)").await;
        world.sql("CHECKPOINT").await;
        let of =
            "SELECT current_setting('data_directory') || '/base/' || oid FROM pg_database WHERE datname = current_database()";
        let files = world.texts(of).await.remove(0);
        for needle in [b"MARK".as_slice(), &key] {
            assert_eq!(crate::support::knowledge::places(files.as_ref(), needle), []);
        }
    }

    // What is left of the people: that they were different ones.
    let pairs = world.texts("SELECT DISTINCT requested_by || ' ' || approved_by FROM approvals ORDER BY 1").await;
    assert_eq!(pairs, ["user:erased-1 user:erased-2", "user:erased-1 user:erased-3"]);
    assert_eq!(world.texts("SELECT DISTINCT requested_by || ' ' || reason FROM offboardings").await, ["user:erased-1 erased"]);
    let holds = "SELECT placed_by || ' ' || released_by || ' ' || reason || ' ' || release_reason FROM holds
        WHERE released_at IS NOT NULL";
    assert_eq!(world.texts(holds).await, ["user:erased-1 user:erased-1 erased erased"]);
    assert_eq!(world.status(&plane).await["state"], "PURGED");
    world.call("user:auditor", "knowledge.approval.list", json!({})).await;

    // Again: only what has been written since.
    let again = erase(&world, "acme").await;
    assert_eq!((&again["values"], &again["rows"]), (&json!(2), &json!(1)), "{again}");
    let shown = world.call("user:auditor", "governance.personal.show", json!({"tenant": "acme"})).await;
    let shown = shown["personal_keys"].as_array().unwrap();
    let live: Vec<_> = shown.iter().filter(|key| key["destroyed_at"].is_null()).map(|key| key["values"].clone()).collect();
    assert_eq!((shown.len(), live), (3, vec![json!(2)]));
    verify(&world).await;
    invariants::check(&world).await;
}

#[tokio::test]
async fn a_signature_goes_with_the_name_and_that_there_was_one_stays() {
    let world = World::with("[approval]\nassurance_min = \"signed\"\n").await;
    let (plane, key) = (world.acme(3).await, Key::new());
    world.archived(&plane).await;
    let arguments = json!({"actor": "user:MARK-bob", "public_key": key.public(), "reason": "MARK-records"});
    let added = world.call("user:root", "governance.approver.add", arguments).await;
    let plan = world.call("user:auditor", "knowledge.offboarding.plan", json!({"plane": plane})).await;
    let signature = key.sign(plan["text"].as_str().unwrap());
    let grant = json!({"plane": plane, "reason": "read it", "signature": signature});
    world.call("user:MARK-bob", "knowledge.approval.grant", grant).await;
    world.drain().await;
    assert_eq!(world.state(&plane).await, "PURGED");
    let middle = signature.lines().nth(2).expect("a line of it");
    assert_ne!(places(&world, middle).await, [""; 0]);
    erase(&world, "acme").await;
    assert_eq!(places(&world, middle).await, [""; 0]);
    let kept = world
        .texts("SELECT identity_assurance || ' ' || approved_by || ' ' || coalesce(key_fingerprint, '-') FROM approvals")
        .await;
    assert_eq!(kept, ["signed user:erased-2 -"]);
    assert_ne!(places(&world, "MARK").await, [""; 0], "whose key it is is the operators' own");

    // Which is erased once the key is revoked.
    let system = json!({"system": true, "reason": "left the company"});
    world.call("user:root", "governance.approver.revoke", json!({"fingerprint": added["fingerprint"], "reason": "left"})).await;
    world.call("user:root", ERASE, system).await;
    assert_eq!(places(&world, "MARK").await, [""; 0]);
    verify(&world).await;
    invariants::check(&world).await;
}

#[tokio::test]
async fn while_an_offboarding_is_open_nothing_is_erased() {
    let world = World::new().await;
    let plane = world.acme(3).await;
    world.request(&plane, "7d").await;
    world.drain().await;
    let asked = json!({"tenant": "acme", "reason": "Art. 17"});
    assert_eq!(world.code("user:eve", ERASE, asked.clone()).await, "PERSONAL_NEEDED");
    assert!(values(&world, "acme").await.contains("alice"));
    assert_eq!(world.code("system:cron", ERASE, asked.clone()).await, "NOT_AUTHORISED");
    assert_eq!(world.code("user:eve", ERASE, json!({"reason": "whose?"})).await, "INVALID_ARGUMENT");
    let mut confined = call("user:eve", ERASE, asked.clone());
    confined.tenant = Some("acme".into());
    assert!(matches!(world.dispatch(&confined).await, Answer::Refused(refusal) if refusal.code.as_str() == "NOT_AUTHORISED"));
    world.call("user:alice", "knowledge.offboarding.cancel", json!({"plane": plane, "reason": "r"})).await;
    world.drain().await;
    world.call("user:eve", ERASE, asked).await;
    assert!(!values(&world, "acme").await.contains("alice"));
    verify(&world).await;
    invariants::check(&world).await;
}

/// A second process over the same ledger.
async fn beside(world: &World, seed: u64) -> Ledger {
    let options = OpenOptions {
        url: world.ledger.url(&world.dir),
        clock: Arc::new(world.clock.clone()),
        entropy: Arc::new(SeededEntropy::new(seed)),
    };
    Ledger::open(options).await.expect("the ledger")
}

fn entry(tenant: Uuid, who: &str) -> Entry {
    let actor: Actor = who.parse().expect("an actor");
    Entry::new(Chain::Tenant(tenant), Some(tenant), EventType::Blocked, &actor, "test")
}

async fn append(ledger: &Ledger, entry: Entry) -> Result<(), Fault> {
    ledger.transact(async |tx: &mut Tx| tx.append(entry).await.map(drop)).await.map(|done| done.into_inner())
}

#[tokio::test]
async fn a_key_that_another_process_destroyed_is_not_written_under() {
    let world = World::new().await;
    world.acme(1).await;
    let acme: Uuid = world.tenant_id("acme").await.parse().unwrap();
    let other = beside(&world, 77).await;
    append(&other, entry(acme, "user:before")).await.unwrap();
    erase(&world, "acme").await;
    let fault = append(&other, entry(acme, "user:stale")).await.expect_err("it remembers the key");
    assert!(fault.is_conflict() && fault.is_passing(), "{fault:?}");
    append(&other, entry(acme, "user:after")).await.expect("done again, it reads the new one");
    let left = values(&world, "acme").await;
    assert!(left.contains("after") && !left.contains("before") && !left.contains("stale"), "{left}");
    other.close().await;
    verify(&world).await;
    invariants::check(&world).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn whoever_appends_while_somebody_erases_leaves_no_value_without_a_key() {
    let world = World::new().await;
    let plane: Uuid = world.acme(1).await.parse().unwrap();
    let acme: Uuid = world.tenant_id("acme").await.parse().unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for seed in 0..4 {
        let ledger = beside(&world, 200 + seed).await;
        tasks.spawn(async move {
            for number in 0..40 {
                let mut entry = entry(acme, &format!("user:writer-{number}"));
                if number % 2 == 0 {
                    entry.chain = Chain::Plane(plane);
                }
                while let Err(fault) = append(&ledger, entry.clone()).await {
                    assert!(fault.is_conflict(), "{fault:?}");
                }
            }
            ledger.close().await;
        });
    }
    let mut erased = 0;
    while !tasks.is_empty() {
        erased += erase(&world, "acme").await["values"].as_i64().unwrap();
        while let Some(done) = tasks.try_join_next() {
            done.expect("a writer");
        }
    }
    erased += erase(&world, "acme").await["values"].as_i64().unwrap();
    assert!(erased > 160, "{erased}");
    let keyless = "SELECT count(*) FROM trail_values v JOIN personal_keys k ON k.id = v.key_id WHERE k.destroyed_at IS NOT NULL";
    assert_eq!(world.number(keyless).await, 0);
    assert!(!values(&world, "acme").await.contains("writer"));
    verify(&world).await;
}

#[tokio::test]
async fn what_is_rolled_back_erases_nothing_and_leaves_no_key_that_was_made_in_vain() {
    let world = World::new().await;
    world.acme(1).await;
    let acme: Uuid = world.tenant_id("acme").await.parse().unwrap();
    append(&world.app.ledger, entry(acme, "user:before")).await.unwrap();
    let (before, kept) = (verify(&world).await, key_of(&world, &acme.to_string()).await);
    let dies = world.app.ledger.transact(async |tx: &mut Tx| {
        tx.lock_personal(Some(acme)).await?;
        tx.erase_personal(Some(acme)).await?;
        tx.append(entry(acme, "user:never")).await?;
        Err::<(), _>(Fault::IncompleteEntry(vec!["as if we died"]))
    });
    assert!(dies.await.is_err());
    assert_eq!((verify(&world).await, key_of(&world, &acme.to_string()).await), (before, kept));
    // Within a transaction too: the entry of a refusal is written after what was refused is undone.
    let nobody = Uuid::from_u128(5);
    let undone = world.app.ledger.transact(async |tx: &mut Tx| {
        tx.savepoint().await?;
        tx.append(entry(nobody, "user:undone")).await?;
        tx.undo_to_savepoint().await?;
        tx.append(entry(nobody, "user:stays")).await.map(drop)
    });
    undone.await.unwrap().into_inner();
    append(&world.app.ledger, entry(nobody, "user:after")).await.unwrap();
    let opened = world.read(async |tx| tx.opened_values().await).await;
    let names: Vec<_> = opened.iter().rev().take(2).map(|(_, _, name, _)| name.as_str()).collect();
    assert_eq!(names, ["after", "stays"]);
    verify(&world).await;
}

#[tokio::test]
async fn the_schema_lets_nobody_take_a_value_from_its_key_or_put_another_name_on_a_case() {
    let world = World::new().await;
    let plane = world.acme(3).await;
    world.request(&plane, "7d").await;
    let stopped = async |sql: &str, words: &str| {
        let said = world.try_sql(sql).await.expect_err(sql);
        assert!(said.contains(words), "{sql}: {said}");
    };
    let frozen = "terms and started deadlines are frozen";
    stopped("DELETE FROM trail_values", "a value goes with its key").await;
    stopped("DELETE FROM personal_keys", "is kept").await;
    stopped("UPDATE personal_keys SET created_at = created_at", "not changed").await;
    stopped("UPDATE personal_keys SET key = NULL", "not changed").await;
    stopped("UPDATE offboardings SET requested_by = 'user:erased-1'", frozen).await;
    stopped("UPDATE offboardings SET reason = 'erased'", frozen).await;
    world.call("user:alice", "knowledge.offboarding.cancel", json!({"plane": plane, "reason": "r"})).await;
    world.drain().await;
    stopped("UPDATE offboardings SET requested_by = 'user:mallory'", frozen).await;
    stopped("UPDATE offboardings SET requested_by = 'user:erased-2'", frozen).await;
    stopped("UPDATE offboardings SET reason = 'another one'", frozen).await;
    stopped("UPDATE offboardings SET requested_by = 'user:erased-1', ground = 'internal'", frozen).await;
    world.sql("UPDATE offboardings SET requested_by = 'user:erased-1', reason = 'erased'").await;
    world.sql("UPDATE personal_keys SET key = NULL, destroyed_at = created_at").await;
    let back = either("zeroblob(32)", "sha256('x')");
    stopped(&format!("UPDATE personal_keys SET destroyed_at = NULL, key = {back}"), "not changed").await;
    world.sql("DELETE FROM trail_values").await;
    // The schema lets it happen; without an entry that somebody erased them it is no erasure.
    let found = world.call("user:auditor", "governance.audit.verify", json!({})).await;
    assert!(found["audit"] == "broken" && found["message"].as_str().unwrap().contains("nobody erased it"), "{found}");
}

#[tokio::test]
async fn an_actor_is_found_by_tags_under_every_live_key() {
    let world = World::new().await;
    let plane = world.acme(3).await;
    world.request(&plane, "1h").await;
    world.drain().await;
    let tagged = async |actor: &str, tenant: Option<Uuid>| {
        let actor: Actor = actor.parse().unwrap();
        let tags = world.read(async |tx| tx.actor_tags(&actor, tenant).await).await;
        let listed: Vec<_> = tags.iter().map(hex::encode).collect();
        let read = either("lower(hex(tag))", "encode(tag, 'hex')");
        let found = world.number(&format!("SELECT count(*) FROM trail_values WHERE {read} IN ('{}')", listed.join("','"))).await;
        (tags.len(), found)
    };
    let all = world.read(async |tx| tx.trail(&TrailFilter::default()).await).await;
    let by = |name: &str| all.iter().filter(|entry| entry.values["actor_id"] == name).count() as i64;
    let acme = world.tenant_id("acme").await.parse().unwrap();
    assert_eq!(tagged("user:root", None).await, (3, by("root")));
    assert_eq!(tagged("user:alice", None).await, (3, by("alice")));
    assert_eq!(tagged("user:alice", Some(acme)).await, (1, by("alice")));
    assert_eq!(tagged("sdk:alice", None).await, (3, 0));
    assert!(by("root") > 3 && by("alice") > 0);
}

#[tokio::test]
async fn values_are_erased_by_themselves_when_they_have_been_kept_for_so_long() {
    let world = World::with("[personal]\nkeep = \"30d\"\n").await;
    let plane = world.acme(3).await;
    world.archived(&plane).await;
    world.advance(TimeDelta::days(5)).await;
    world.approve(&plane).await;
    world.drain().await;
    assert_eq!(world.state(&plane).await, "PURGED");
    let shown = world.call("user:auditor", "governance.personal.show", json!({"tenant": "acme"})).await;
    let due = world.app.ledger.now() + TimeDelta::days(30);
    assert_eq!(shown["personal_keys"][0]["due_at"], json!(due), "{shown}");
    world.clock.advance(TimeDelta::days(30) - TimeDelta::hours(2));
    assert_eq!(world.app.manager.sweep().await.unwrap().personal_erased, 0);
    world.clock.advance(TimeDelta::hours(2));
    assert_eq!(world.app.manager.sweep().await.unwrap().personal_erased, 1);
    let entry = world.last_entry().await;
    assert_eq!((&entry["event_type"], &entry["actor_type"]), (&json!("PERSONAL_ERASED"), &json!("system")));
    let left = values(&world, "acme").await;
    assert!(!left.contains("alice") && !left.contains("bob") && left.contains("sweep"), "{left}");
    assert!(values(&world, "globex").await.contains("root"), "its plane is in service");
    assert_eq!(places(&world, "the contract ended").await, [""; 0]);
    for _ in 0..3 {
        world.clock.advance(TimeDelta::days(400));
        assert_eq!(world.app.manager.sweep().await.unwrap().personal_erased, 0, "once");
    }
    verify(&world).await;
    invariants::check(&world).await;
}

/// What an erasure took is told by the order in which entries were written, and not by their times: whoever waited for the tenant's chains
/// to erase began earlier than whoever wrote meanwhile. Here the clock is set back instead.
#[tokio::test]
async fn what_was_dated_after_an_erasure_and_written_before_it_was_erased_by_it() {
    let world = World::new().await;
    let plane = world.acme(3).await;
    world.clock.advance(TimeDelta::seconds(10));
    world.request(&plane, "1h").await;
    world.call("user:alice", "knowledge.offboarding.cancel", json!({"plane": plane, "reason": "MARK-stays"})).await;
    world.clock.advance(TimeDelta::seconds(-5));
    erase(&world, "acme").await;
    assert!(verify(&world).await["destroyed"].as_u64().unwrap() > 0);
    let of_plane = json!({"plane": plane});
    let verified = world.call("user:auditor", "governance.audit.verify", of_plane.clone()).await;
    assert_eq!(verified["audit"], "verified", "{verified}");

    // What was written since is nobody's who erased, whatever its time.
    world.clock.advance(TimeDelta::seconds(5));
    world.drain().await;
    world.clock.advance(TimeDelta::seconds(-5));
    world.request(&plane, "1h").await;
    verify(&world).await;
    world.app.manager.keep_log().await.unwrap();
    let newest = "SELECT event_id FROM trail WHERE event_type = 'REQUESTED' ORDER BY place DESC LIMIT 1";
    let free = either("", "ON trail_values");
    let delete = format!("DELETE FROM trail_values WHERE event_id IN ({newest})");
    world.sql(&format!("DROP TRIGGER trail_values_go_with_their_key {free}; {delete}")).await;
    for of in [json!({}), of_plane] {
        let found = world.call("user:auditor", "governance.audit.verify", of).await;
        assert!(found["audit"] == "broken" && found["message"].as_str().unwrap().contains("nobody erased it"), "{found}");
    }
}

/// A service does the same, without anybody's command.
#[tokio::test]
async fn a_service_erases_what_has_been_kept_for_so_long() {
    let installed =
        crate::support::binary::Installed::with_plane(3, "[personal]\nkeep = \"30d\"\n[sweep]\nevery = \"1s\"\n").await;
    let terms = ["--ground", "internal", "--reason", "done", "--grace", "0s", "--retention", "0s"];
    installed.done(&[["offboard", "acme/handbook"].as_slice(), &terms].concat());
    installed.work();
    installed.done(&["approval", "grant", "acme/handbook", "--reason", "checked", "--actor", "user:bob"]);
    installed.work();
    assert_eq!(installed.state("acme/handbook"), "PURGED");
    installed.set_clock(40 * 86_400);
    let mut service = installed.spawn(&["serve"]);
    let erased = || installed.done(&["personal", "show", "--tenant", "acme"])["personal_keys"][0]["destroyed_at"].is_string();
    let until = std::time::Instant::now() + std::time::Duration::from_secs(90);
    while !erased() && std::time::Instant::now() < until {
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    crate::support::binary::signal(&service, "TERM");
    service.wait().expect("the service ends");
    assert!(erased(), "{}", installed.done(&["personal", "show", "--tenant", "acme"]));
    assert_eq!(installed.done(&["audit", "verify"])["audit"], "verified");
}

/// Makes of a ledger what the version before left: values in clear beside their entries.
async fn as_before(world: &World) {
    let values = world.read(async |tx| tx.opened_values().await).await;
    let bytes = |salt: &str| if crate::ON_POSTGRES { format!("'\\x{salt}'") } else { format!("x'{salt}'") };
    let rows: Vec<_> = values
        .iter()
        .map(|(event, field, value, salt)| format!("('{event}', '{field}', '{}', {})", value.replace('\'', "''"), bytes(salt)))
        .collect();
    let back = either(
        "DROP TABLE trail_values; DROP TABLE personal_keys; DROP TRIGGER trail_values_clear_takes_nothing;
         ALTER TABLE trail_values_clear RENAME TO trail_values;
         CREATE TRIGGER trail_values_are_not_replaced BEFORE INSERT ON trail_values WHEN false BEGIN SELECT 1; END;
         CREATE TRIGGER trail_values_are_not_changed BEFORE UPDATE ON trail_values BEGIN SELECT 1; END;
         DELETE FROM _sqlx_migrations WHERE description = 'personal keys'",
        "DROP TABLE trail_values; DROP TABLE personal_keys; DROP TRIGGER trail_values_clear_takes_nothing ON trail_values_clear;
         DROP FUNCTION trail_values_have_a_key; DROP FUNCTION trail_values_go_with_their_key;
         ALTER TABLE trail_values_clear RENAME TO trail_values; ALTER INDEX trail_values_clear_pkey RENAME TO trail_values_pkey;
         CREATE TRIGGER trail_values_are_not_changed BEFORE UPDATE ON trail_values FOR EACH STATEMENT EXECUTE FUNCTION refuse('values');
         DELETE FROM _sqlx_migrations WHERE description = 'personal keys'",
    );
    world.sql(back).await;
    world.sql(&format!("INSERT INTO trail_values (event_id, field, value, salt) VALUES {}", rows.join(", "))).await;
}

#[tokio::test]
async fn a_ledger_of_the_version_before_is_sealed_by_migrating_it_and_every_value_stays_readable() {
    let world = World::new().await;
    let plane = world.acme(3).await;
    for number in 0..300 {
        let unknown = format!("acme/{number}");
        world.refused("user:MARK-mallory", "knowledge.plane.show", json!({"plane": unknown})).await;
    }
    world.archived(&plane).await;
    world.approve(&plane).await;
    let (before, read) = (verify(&world).await, world.read(async |tx| tx.trail(&TrailFilter::default()).await).await);
    as_before(&world).await;
    world.app.ledger.close().await;
    assert_ne!(places(&world, "MARK").await, [""; 0]);
    let clock = world.clock.clone();
    let options = |url: String| OpenOptions { url, clock: Arc::new(clock.clone()), entropy: Arc::new(SeededEntropy::new(91)) };
    let (owner, url) = (world.ledger.owner_url(&world.dir), world.ledger.url(&world.dir));
    assert!(matches!(Ledger::open(options(url.clone())).await, Err(Fault::NotMigrated { .. })));
    Ledger::migrate(options(owner.clone()), true).await.expect("migrate").close().await;
    assert_eq!(world.number("SELECT count(*) FROM trail_values_clear").await, 0);
    assert_eq!(places(&world, "MARK").await, [""; 0]);
    let world = world.reopened("").await;
    let again = world.read(async |tx| tx.trail(&TrailFilter::default()).await).await;
    assert_eq!(json!(again), json!(read), "hash for hash and value for value");
    assert_eq!(verify(&world).await, before);
    world.drain().await;
    assert_eq!(world.state(&plane).await, "PURGED", "and it goes on");

    // Sealed by half, it is not opened, and the next migration ends it.
    world.app.ledger.close().await;
    world
        .sql(either(
            "DROP TRIGGER trail_values_clear_takes_nothing",
            "DROP TRIGGER trail_values_clear_takes_nothing ON trail_values_clear",
        ))
        .await;
    let salt = either("x'00112233445566778899aabbccddeeff'", "'\\x00112233445566778899aabbccddeeff'");
    let first = "(SELECT event_id FROM trail ORDER BY place LIMIT 1)";
    world.sql(&format!("INSERT INTO trail_values_clear SELECT {first}, 'reason', 'half', {salt}")).await;
    assert!(matches!(Ledger::open(options(url)).await, Err(Fault::NotSealed { .. })));
    Ledger::migrate(options(owner), true).await.expect("migrate").close().await;
    assert_eq!(world.number("SELECT count(*) FROM trail_values_clear").await, 0);
}

#[tokio::test]
async fn the_command_line_shows_and_erases() {
    let installed = Installed::with_plane(3, "").await;
    let shown = installed.done(&["personal", "show", "--tenant", "acme"]);
    assert!(shown["personal_keys"][0]["values"].as_i64().unwrap() > 0, "{shown}");
    let erased = installed.done(&["personal", "erase", "--tenant", "acme", "--reason", "Art. 17", "--yes"]);
    assert_eq!((&erased["personal"], erased["values"].as_i64() > Some(0)), (&json!("erased"), true), "{erased}");
    let system = installed.done(&["personal", "erase", "--system", "--reason", "operators left", "--yes"]);
    assert_eq!(system["tenant_id"], Json::Null);
    assert!(!installed.run(&["personal", "erase", "--reason", "whose?"]).status.success());
    let verified = installed.done(&["audit", "verify"]);
    assert_eq!((&verified["audit"], verified["destroyed"].as_i64() > Some(0)), (&json!("verified"), true), "{verified}");
}
