//! Signed approvals: the plan that is printed is the plan that is signed, checked by OpenSSH and by us, again when the purge is claimed.

use chrono::TimeDelta;
use serde_json::{Value as Json, json};

use crate::support::{World, invariants, keys::Key};

const SIGNED: &str = "[approval]\nassurance_min = \"signed\"\n";

async fn register(world: &World, actor: &str, key: &Key) -> Json {
    let arguments = json!({"actor": actor, "public_key": key.public(), "reason": "of the records team"});
    world.call("user:root", "governance.approver.add", arguments).await
}

async fn plan(world: &World, plane: &str) -> (String, String) {
    let shown = world.call("user:auditor", "knowledge.offboarding.plan", json!({"plane": plane})).await;
    (shown["text"].as_str().expect("a text").to_owned(), shown["plan_digest"].as_str().expect("a digest").to_owned())
}

fn grant(plane: &str, signature: &str) -> Json {
    json!({"plane": plane, "reason": "read it", "signature": signature})
}

const GRANT: &str = "knowledge.approval.grant";

#[tokio::test]
async fn what_the_plan_prints_is_signed_checked_by_openssh_and_releases_the_purge_once() {
    let world = World::with(SIGNED).await;
    let (plane, key) = (world.acme(3).await, Key::new());
    world.archived(&plane).await;
    let registered = register(&world, "user:bob", &key).await;
    assert_eq!(registered["roles"], json!(["approver"]));
    let (text, digest) = plan(&world, &plane).await;
    assert!(text.contains(&plane) && text.contains("3 record(s)"), "{text}");
    assert_eq!(lethe_stages::canonical::sha256(text.as_bytes()), digest, "anybody can compute the digest from what was printed");
    let signature = key.sign(&text);
    assert!(key.verifies(&text, &signature), "OpenSSH takes it for bob's");
    assert_eq!(world.code("user:bob", GRANT, json!({"plane": plane, "reason": "unsigned"})).await, "ASSURANCE_TOO_LOW");
    let granted = world.call("user:bob", GRANT, grant(&plane, &signature)).await;
    assert_eq!((&granted["identity_assurance"], &granted["still_missing"]), (&json!("signed"), &Json::Null), "{granted}");
    let listed = world.call("user:auditor", "knowledge.approval.list", json!({})).await;
    let kept = listed["approvals"][0]["signature"].as_str().expect("it is kept");
    assert!(key.verifies(&text, kept), "and whoever reads the record can check it again");
    world.drain().await;
    assert_eq!(world.state(&plane).await, "PURGED");
    invariants::check(&world).await;
}

#[tokio::test]
async fn whatever_is_not_a_valid_signature_of_this_plan_is_refused_on_record() {
    let world = World::with(SIGNED).await;
    let (plane, bobs, carols, aliceses, nobodys) = (world.acme(3).await, Key::new(), Key::new(), Key::new(), Key::new());
    world.archived(&plane).await;
    for (actor, key) in [("user:bob", &bobs), ("user:carol", &carols), ("user:alice", &aliceses)] {
        register(&world, actor, key).await;
    }
    let (text, _) = plan(&world, &plane).await;
    let mut changed = text.clone().into_bytes();
    changed[60] ^= 1;
    let changed = String::from_utf8(changed).expect("text");
    assert!(!bobs.verifies(&changed, &bobs.sign(&text)), "OpenSSH says the same");
    let revoked = Key::new();
    let registered = register(&world, "user:bob", &revoked).await;
    let revoke = json!({"fingerprint": registered["fingerprint"], "reason": "lost"});
    world.call("user:root", "governance.approver.revoke", revoke.clone()).await;
    assert_eq!(world.code("user:root", "governance.approver.revoke", revoke).await, "APPROVER_UNKNOWN");
    for (what, actor, signature, code) in [
        ("one changed byte", "user:bob", bobs.sign(&changed), "SIGNATURE_INVALID"),
        ("a key of nobody's", "user:bob", nobodys.sign(&text), "APPROVER_UNKNOWN"),
        ("somebody else's key", "user:bob", carols.sign(&text), "APPROVER_UNKNOWN"),
        ("a revoked key", "user:bob", revoked.sign(&text), "APPROVER_UNKNOWN"),
        ("the requester's own", "user:alice", aliceses.sign(&text), "APPROVAL_BY_SELF"),
        ("no signature at all", "user:bob", "I agree. Bob".into(), "SIGNATURE_INVALID"),
    ] {
        let before = world.blocked(&plane, code).await;
        assert_eq!(world.code(actor, GRANT, grant(&plane, &signature)).await, code, "{what}");
        assert_eq!(world.blocked(&plane, code).await, before + 1, "{what} is on record");
    }
    let other = json!({"plane": plane, "reason": "r", "signature": bobs.sign(&text), "plan_digest": "sha256:00"});
    assert_eq!(world.code("user:bob", GRANT, other).await, "PLAN_CHANGED", "and so is a plan that is another by now");
    // A key is one person's for ever.
    let again = json!({"actor": "user:dora", "public_key": revoked.public(), "reason": "found it"});
    assert_eq!(world.code("user:root", "governance.approver.add", again).await, "NAME_TAKEN");
    let machine = json!({"actor": "sdk:bot", "public_key": nobodys.public(), "reason": "r"});
    assert_eq!(world.code("user:root", "governance.approver.add", machine).await, "INVALID_ARGUMENT", "people approve");
    world.drain().await;
    assert_eq!(world.state(&plane).await, "ARCHIVED");
    invariants::check(&world).await;
}

#[tokio::test]
async fn an_approval_ends_with_its_time_and_with_its_key_and_another_plan_needs_another_signature() {
    let world = World::with(SIGNED).await;
    let (plane, bobs, carols) = (world.acme(3).await, Key::new(), Key::new());
    world.call("user:root", "knowledge.control.pause", json!({"stage": "purge", "reason": "look first"})).await;
    world.archived(&plane).await;
    let registered = register(&world, "user:bob", &bobs).await;
    register(&world, "user:carol", &carols).await;
    let (text, digest) = plan(&world, &plane).await;

    world.call("user:bob", GRANT, grant(&plane, &bobs.sign(&text))).await;
    let revoke = json!({"fingerprint": registered["fingerprint"], "reason": "bob left"});
    let revoked = world.call("user:root", "governance.approver.revoke", revoke).await;
    assert_eq!(revoked["withdrawn"].as_array().map(Vec::len), Some(1), "what it had signed is taken back with it: {revoked}");
    assert_eq!(world.entries(&plane, "APPROVAL_WITHDRAWN").await, 1);

    world.call("user:carol", GRANT, grant(&plane, &carols.sign(&text))).await;
    world.clock.advance(TimeDelta::days(11) + TimeDelta::seconds(1));
    let swept = world.app.manager.sweep().await.expect("swept");
    assert_eq!((swept.approvals_ending, world.entries(&plane, "APPROVAL_ENDING").await), (1, 1), "somebody is reminded");
    assert_eq!(world.app.manager.sweep().await.expect("swept").approvals_ending, 0, "once");
    world.clock.advance(TimeDelta::days(3));
    world.app.manager.sweep().await.expect("swept");
    assert_eq!(world.entries(&plane, "APPROVAL_EXPIRED").await, 1);

    world.call("user:carol", "knowledge.approval.deny", json!({"plane": plane, "reason": "count again"})).await;
    world.call("user:alice", "knowledge.offboarding.retry", json!({"plane": plane, "reason": "counted again"})).await;
    let (anew, other) = plan(&world, &plane).await;
    assert_ne!(digest, other);
    assert_eq!(world.code("user:carol", GRANT, grant(&plane, &carols.sign(&text))).await, "SIGNATURE_INVALID", "of the old plan");
    world.call("user:carol", GRANT, grant(&plane, &carols.sign(&anew))).await;
    world.call("user:root", "knowledge.control.resume", json!({"stage": "purge"})).await;
    world.drain().await;
    assert_eq!(world.state(&plane).await, "PURGED");
    invariants::check(&world).await;
}

#[tokio::test]
async fn a_row_that_says_signed_releases_nothing_without_the_signature() {
    let world = World::with(SIGNED).await;
    let (plane, bobs, carols) = (world.acme(3).await, Key::new(), Key::new());
    world.call("user:root", "knowledge.control.pause", json!({"stage": "purge", "reason": "look first"})).await;
    world.archived(&plane).await;
    register(&world, "user:bob", &bobs).await;
    register(&world, "user:carol", &carols).await;
    let (text, _) = plan(&world, &plane).await;
    world.call("user:bob", GRANT, grant(&plane, &bobs.sign(&text))).await;
    let unsigned = "UPDATE approvals SET identity_assurance = 'signed', signature = NULL, key_fingerprint = NULL";
    assert!(
        world.try_sql(unsigned).await.is_err_and(|said| said.to_lowercase().contains("check")),
        "the schema refuses half of it"
    );
    // As whoever can write the ledger would: bob's row, with what carol signed, or with what bob signed elsewhere.
    for forged in [carols.sign(&text), bobs.sign("something else\n")] {
        world.try_sql(&format!("UPDATE approvals SET signature = '{forged}'")).await.expect("written");
        world.call("user:root", "knowledge.control.resume", json!({"stage": "purge"})).await;
        world.drain().await;
        assert_eq!(world.state(&plane).await, "ARCHIVED");
        assert_eq!(world.blocked_by(&plane).await, ["SIGNATURE_INVALID"]);
        world.call("user:root", "knowledge.control.pause", json!({"stage": "purge", "reason": "look first"})).await;
    }
    assert_eq!(world.blocked(&plane, "SIGNATURE_INVALID").await, 1, "once");
    invariants::check(&world).await;
}

#[tokio::test]
async fn what_waits_for_an_approver_is_listed_in_words() {
    let world = World::with(SIGNED).await;
    let plane = world.acme(3).await;
    world.archived(&plane).await;
    let mine = async |actor: &str| world.call(actor, "knowledge.approval.list", json!({"mine": true})).await["waiting"].clone();
    assert_eq!(mine("user:alice").await, json!([]), "she requested it");
    let waiting = mine("user:bob").await;
    assert!(waiting[0]["text"].as_str().is_some_and(|text| text.contains("Destroyed for good")), "{waiting}");
    let key = Key::new();
    register(&world, "user:bob", &key).await;
    let (text, _) = plan(&world, &plane).await;
    world.call("user:root", "knowledge.control.pause", json!({"stage": "purge", "reason": "look first"})).await;
    world.call("user:bob", GRANT, grant(&plane, &key.sign(&text))).await;
    assert_eq!(mine("user:carol").await, json!([]), "it is approved");
    invariants::check(&world).await;
}
