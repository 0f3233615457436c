//! Calls: one path for all of them. A key is answered once, a refusal leaves nothing behind, a tenant sees only its own.

use chrono::TimeDelta;
use lethe_stages::Refusal;
use lethe_worker::operations::{Answer, Call};
use serde_json::{Value as Json, json};

use crate::support::{World, call, invariants, request};

fn keyed(key: &str, actor: &str, operation: &str, arguments: Json) -> Call {
    Call { idempotency_key: Some(key.into()), ..call(actor, operation, arguments) }
}

fn confined(tenant: &str, operation: &str, arguments: Json) -> Call {
    Call { tenant: Some(tenant.into()), ..call("user:mallory", operation, arguments) }
}

async fn refusal(world: &World, call: &Call) -> Refusal {
    match world.dispatch(call).await {
        Answer::Refused(refusal) => refusal,
        Answer::Done(document) => panic!("{} was done: {document}", call.operation),
    }
}

#[tokio::test]
async fn a_call_under_the_same_key_is_made_once_and_answered_twice() {
    let world = World::new().await;
    let plane = world.acme(2).await;
    let request_it = keyed("k1", "user:alice", "knowledge.offboarding.request", request(&plane, "7d"));
    let first = world.dispatch(&request_it).await;
    let entries = world.number("SELECT count(*) FROM trail").await;
    world.drain().await;
    let again = world.dispatch(&request_it).await;
    assert_eq!(first, again, "the answer of then, although the plane moved on since");
    assert_eq!((world.entries(&plane, "REQUESTED").await, entries > 0), (1, true));

    // For another call, or the same with other arguments, the key is used up; for another actor it is another key.
    let other = keyed("k1", "user:alice", "knowledge.offboarding.cancel", json!({"plane": plane, "reason": "r"}));
    assert_eq!(refusal(&world, &other).await.code.as_str(), "IDEMPOTENCY_KEY_REUSED");
    let longer = keyed("k1", "user:alice", "knowledge.offboarding.request", request(&plane, "8d"));
    assert_eq!(refusal(&world, &longer).await.code.as_str(), "IDEMPOTENCY_KEY_REUSED");
    let elsewhere = Call { tenant: Some("globex".into()), ..request_it.clone() };
    assert_eq!(
        refusal(&world, &elsewhere).await.code.as_str(),
        "IDEMPOTENCY_KEY_REUSED",
        "an answer is not carried to another tenant"
    );
    assert_eq!(
        world
            .number(&format!(
                "SELECT count(*) FROM trail WHERE {} = 'IDEMPOTENCY_KEY_REUSED'",
                crate::support::ledger::gate_code()
            ))
            .await,
        3
    );
    let somebody = keyed("k1", "user:carol", "knowledge.offboarding.cancel", json!({"plane": plane, "reason": "r"}));
    assert!(matches!(world.dispatch(&somebody).await, Answer::Done(_)));
    invariants::check(&world).await;
}

#[tokio::test]
async fn a_refused_call_is_not_remembered_under_its_key() {
    let world = World::new().await;
    let plane = world.acme(2).await;
    let usage = json!({"plane": plane, "kind": "run", "holder": "h", "ttl": "1h"});
    world.request(&plane, "7d").await;
    let open = keyed("k1", "sdk:app", "knowledge.usage.open", usage);
    assert_eq!(refusal(&world, &open).await.code.as_str(), "PLANE_NOT_ACTIVE");
    world.call("user:alice", "knowledge.offboarding.cancel", json!({"plane": plane, "reason": "r"})).await;
    assert!(matches!(world.dispatch(&open).await, Answer::Done(_)), "what stood in the way is gone");
    invariants::check(&world).await;
}

#[tokio::test]
async fn a_token_is_shown_once_and_kept_nowhere_whatever_key_it_was_asked_under() {
    let world = World::new().await;
    let plane = world.acme(2).await;
    let issue = keyed("k1", "user:root", "knowledge.token.issue", json!({"plane": plane}));
    let Answer::Done(first) = world.dispatch(&issue).await else { panic!("refused") };
    let Answer::Done(again) = world.dispatch(&issue).await else { panic!("refused") };
    assert_eq!((&again["token_id"], &again["token"]), (&first["token_id"], &Json::Null));
    assert_eq!(world.number("SELECT count(*) FROM access_tokens").await, 1);
    assert_eq!(world.occurs(first["token"].as_str().unwrap()), 0, "not in the bytes of any file");
    invariants::check(&world).await;
}

#[tokio::test]
async fn answers_kept_under_keys_do_not_outlive_the_plane_they_name() {
    let world = World::new().await;
    let file = world.dir.path().join("knowledge.db");
    world.acme(2).await;
    let mut db = crate::support::knowledge::open(&file).await;
    crate::support::knowledge::insert(&mut db, "SECRETVALUE", 1).await.unwrap();
    drop(db);
    let binding = world.binding("acme", "SECRETNAME", "SECRETVALUE");
    let Answer::Done(shown) = world.dispatch(&keyed("k1", "user:root", "knowledge.plane.register", binding)).await else {
        panic!()
    };
    let plane = shown["plane_id"].as_str().unwrap().to_owned();
    assert!(world.number("SELECT count(*) FROM idempotency WHERE CAST(answer AS text) LIKE '%SECRETNAME%'").await == 1);
    world.archived(&plane).await;
    world.approve(&plane).await;
    world.drain().await;
    assert_eq!(world.state(&plane).await, "PURGED");
    assert_eq!(world.number("SELECT count(*) FROM idempotency").await, 0);
    // Where its records were is kept until the last probe; its name is not.
    for _ in 0..3 {
        world.clock.advance(TimeDelta::days(30));
        world.app.manager.probe_due("worker-test", None).await.unwrap();
    }
    assert!(world.app.ledger.truncate_wal().await.unwrap());
    // What a server's files still hold is its VACUUM's.
    let ledger = world.app.ledger.path().map(|path| std::fs::read(path).unwrap()).unwrap_or_default();
    for word in ["SECRETNAME", "SECRETVALUE"] {
        assert!(!ledger.windows(word.len()).any(|window| window == word.as_bytes()), "{word} is in the ledger's bytes");
    }
    invariants::check(&world).await;
}

#[tokio::test]
async fn a_refusal_in_the_middle_of_a_write_leaves_nothing_of_the_call() {
    let world = World::new().await;
    world.acme(2).await;
    let other = world.dir.path().join("other.db");
    crate::support::knowledge::create(&other, &[]).await;
    // The first --store is new and would be registered and opened on the way; the second is refused.
    let mut arguments = world.binding("acme", "second", "p2");
    let taken = arguments["stores"][0].clone();
    let new = format!("sqlite:{}?table=chunks&plane_column=plane&plane=p1&key=id", other.display());
    arguments["stores"] = json!([new, taken]);
    let count = "SELECT (SELECT count(*) FROM stores) * 1000 + (SELECT count(*) FROM store_scopes) * 100 + (SELECT count(*) FROM planes) * 10
        + (SELECT count(*) FROM bindings)";
    let before = world.number(count).await;
    assert_eq!(world.code("user:root", "knowledge.plane.register", arguments.clone()).await, "BINDING_TAKEN");
    assert_eq!(world.number(count).await, before);
    assert_eq!(world.last_entry().await["event_type"], "BLOCKED", "but its refusal is on record");
    arguments["stores"] = json!([new]);
    world.call("user:root", "knowledge.plane.register", arguments).await;
    assert!(world.number(count).await > before, "the same --store alone is possible");
    invariants::check(&world).await;
}

#[tokio::test]
async fn knowing_the_id_of_another_tenants_plane_is_of_no_use() {
    let world = World::new().await;
    let plane = world.acme(2).await;
    let token = world.call("user:root", "knowledge.token.issue", json!({"plane": plane})).await["token_id"].clone();
    let usage = json!({"plane": plane, "kind": "run", "holder": "h", "ttl": "1h"});
    let usage = world.call("sdk:app", "knowledge.usage.open", usage.clone()).await["usage_id"].clone();
    let held = world.call("user:lena", "knowledge.hold.place", json!({"plane": plane, "reason": "r"})).await["hold_id"].clone();
    let reasoned = json!({"plane": plane, "reason": "r"});
    let mallory = world.tenant_id("globex").await;
    let state = "SELECT (SELECT LIST(state || epoch || draining) FROM planes) || '' || (SELECT count(*) FROM offboardings)
        || (SELECT LIST(status) FROM access_tokens) || (SELECT count(*) FROM plane_usage WHERE closed_at IS NULL)
        || (SELECT count(*) FROM holds WHERE released_at IS NULL) || (SELECT count(*) FROM pauses)";
    let state = &state.replace("LIST", crate::support::ledger::either("json_group_array", "json_agg"));
    let state = &state.replace(" || (", crate::support::ledger::either(" || (", " || '' || ("));
    let before = world.texts(state).await;
    for (operation, arguments, code) in [
        ("knowledge.plane.show", json!({"plane": plane}), "PLANE_UNKNOWN"),
        ("knowledge.plane.show", json!({"plane": "acme/handbook"}), "PLANE_UNKNOWN"),
        ("knowledge.plane.register", world.binding("acme", "second", "p7"), "TENANT_UNKNOWN"),
        ("knowledge.token.issue", json!({"plane": plane}), "PLANE_UNKNOWN"),
        ("knowledge.token.list", json!({"plane": plane}), "PLANE_UNKNOWN"),
        ("knowledge.token.revoke", json!({"token_id": token}), "PLANE_UNKNOWN"),
        ("knowledge.usage.open", json!({"plane": plane, "kind": "run", "holder": "h", "ttl": "1h"}), "PLANE_UNKNOWN"),
        ("knowledge.usage.close", json!({"usage_id": usage}), "PLANE_UNKNOWN"),
        ("knowledge.usage.list", json!({"plane": plane}), "PLANE_UNKNOWN"),
        ("knowledge.offboarding.request", request(&plane, "0s"), "PLANE_UNKNOWN"),
        ("knowledge.offboarding.preview", request(&plane, "0s"), "PLANE_UNKNOWN"),
        ("knowledge.offboarding.show", json!({"plane": plane}), "PLANE_UNKNOWN"),
        ("knowledge.offboarding.cancel", reasoned.clone(), "PLANE_UNKNOWN"),
        ("knowledge.offboarding.retry", reasoned.clone(), "PLANE_UNKNOWN"),
        ("knowledge.offboarding.list", json!({"tenant": "acme"}), "TENANT_UNKNOWN"),
        ("knowledge.approval.grant", reasoned.clone(), "PLANE_UNKNOWN"),
        ("knowledge.approval.deny", reasoned.clone(), "PLANE_UNKNOWN"),
        ("knowledge.approval.withdraw", reasoned.clone(), "PLANE_UNKNOWN"),
        ("knowledge.hold.place", json!({"tenant": "acme", "reason": "r"}), "TENANT_UNKNOWN"),
        ("knowledge.hold.release", json!({"hold_id": held, "reason": "r"}), "PLANE_UNKNOWN"),
        ("knowledge.archive.verify", json!({"plane": plane}), "PLANE_UNKNOWN"),
        ("knowledge.archive.export", json!({"plane": plane, "to": "/nowhere"}), "PLANE_UNKNOWN"),
        ("governance.audit.list", json!({"plane": plane}), "PLANE_UNKNOWN"),
        ("governance.audit.export", json!({"tenant": "acme"}), "TENANT_UNKNOWN"),
        ("account.tenant.show", json!({"name": "acme"}), "TENANT_UNKNOWN"),
        ("knowledge.control.pause", json!({"tenant": "acme", "reason": "r"}), "TENANT_UNKNOWN"),
        // What concerns everybody is not a tenant's to do.
        ("knowledge.control.pause", json!({"all": true, "reason": "r"}), "NOT_AUTHORISED"),
        ("knowledge.control.pause", json!({"stage": "purge", "reason": "r"}), "NOT_AUTHORISED"),
        ("knowledge.control.resume", json!({"all": true}), "NOT_AUTHORISED"),
        ("account.tenant.register", json!({"name": "more"}), "NOT_AUTHORISED"),
        ("integrations.store.add", json!({"name": "n", "url": "sqlite:/etc/passwd"}), "NOT_AUTHORISED"),
        ("integrations.store.check", json!({"name": "kb"}), "NOT_AUTHORISED"),
    ] {
        let refused = refusal(&world, &confined("globex", operation, arguments)).await;
        assert_eq!(refused.code.as_str(), code, "{operation}: {refused}");
        let entry = world.last_entry().await;
        assert_eq!(entry["chain"], json!(format!("tenant:{mallory}")), "{operation}: on the record of who tried");
        assert_eq!((&entry["tenant_id"], &entry["decision_owner"]), (&json!(mallory), &json!(operation)));
    }
    assert_eq!(world.texts(state).await, before);
    invariants::check(&world).await;
}

#[tokio::test]
async fn lists_show_a_confined_caller_its_own_tenant_only() {
    let world = World::new().await;
    let plane = world.acme(2).await;
    world.archived(&plane).await;
    world.call("user:lena", "knowledge.hold.place", json!({"plane": plane, "reason": "r"})).await;
    for operation in [
        "account.tenant.list",
        "integrations.store.list",
        "knowledge.plane.list",
        "knowledge.offboarding.list",
        "knowledge.approval.list",
        "knowledge.hold.list",
        "governance.audit.list",
        "governance.audit.export",
    ] {
        let Answer::Done(seen) = world.dispatch(&confined("globex", operation, json!({}))).await else { panic!("{operation}") };
        let seen = seen.to_string();
        for foreign in [plane.as_str(), "acme", &world.tenant_id("acme").await, "p1"] {
            assert!(!seen.contains(&format!("\"{foreign}\"")), "{operation} shows {foreign}: {seen}");
        }
    }
    invariants::check(&world).await;
}
