//! The trail: whole, gapless, append-only, free of what a purge would have to erase; and whoever changed it is found out.

use chrono::TimeDelta;
use lethe_ledger::{Actor, Chain, Entry, EventType, Fault, Tx};
use lethe_stages::{LifecycleState, Step};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::support::{World, faults::Failing, invariants, request};

fn sha256(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

#[tokio::test]
async fn an_entry_has_this_form_to_the_byte() {
    let world = World::new().await;
    let entry = Entry {
        offboarding_id: Some(uuid(2)),
        from_state: Some(LifecycleState::Active),
        to_state: Some(LifecycleState::PendingDeactivate),
        step: Some(Step::Deregister),
        gate: Some(lethe_ledger::GateDecision { decision: "ALLOWED", code: None, policy_revision: "r1".into() }),
        reason: Some("the contract ended".into()),
        evidence: json!({"z": 1, "a": ["é", null, true]}),
        ..Entry::new(Chain::Tenant(uuid(1)), Some(uuid(1)), EventType::Transition, &"user:alice".parse().unwrap(), "test")
    };
    let appended = world.app.ledger.transact(async |tx: &mut Tx| tx.append(entry).await).await.unwrap().into_inner();
    let body = world.texts("SELECT body FROM trail").await.remove(0);
    let hash = world.texts("SELECT hash FROM trail").await.remove(0);
    let values = world.read(async |tx| tx.opened_values().await).await;
    let kept: Vec<_> = values.iter().map(|(_, field, value, _)| format!("{field}={value}")).collect();
    assert_eq!(kept, ["actor_id=alice", "reason=the contract ended"]);
    let committed = |index: usize, value: &str| sha256(&[hex::decode(&values[index].3).unwrap(), value.into()].concat());
    let (actor, reason) = (committed(0, "alice"), committed(1, "the contract ended"));
    let (one, two, event) = (uuid(1), uuid(2), appended.event_id);
    let evidence = r#"{"a":["é",null,true],"z":1}"#;
    assert_eq!(
        body,
        format!(
            r#"{{"actor_id":{{"commitment":"{actor}"}},"actor_type":"user","at":"2026-03-01T09:00:00.000000Z","chain":"tenant:{one}","#
        ) + &format!(r#""decision_owner":"test","event_id":"{event}","event_type":"TRANSITION","evidence":{evidence},"#)
            + &format!(r#""evidence_digest":"{}","from_state":"ACTIVE","#, sha256(evidence.as_bytes()))
            + r#""gate":{"code":null,"decision":"ALLOWED","policy_revision":"r1"},"#
            + &format!(
                r#""offboarding_id":"{two}","plane_id":null,"project_id":"__system__","reason":{{"commitment":"{reason}"}},"#
            )
            + &format!(r#""schema_version":1,"sequence_no":0,"stage":"deregister","step":"deregister","tenant_id":"{one}","#)
            + r#""to_state":"PENDING_DEACTIVATE"}"#
    );
    // Anybody can recompute the hash with the body and this one rule.
    let origin = sha256(format!("tenant:{one}").as_bytes());
    assert_eq!(hash, sha256((origin + &body).as_bytes()));
}

fn uuid(number: u128) -> uuid::Uuid {
    uuid::Uuid::from_u128(number)
}

#[tokio::test]
async fn everything_that_an_entry_lacks_is_named_at_once_and_nothing_is_written() {
    let world = World::new().await;
    let entry = Entry {
        reason: Some(" ".into()),
        evidence: json!(null),
        ..Entry::new(Chain::Plane(uuid(1)), None, EventType::Transition, &Actor::system(" "), "")
    };
    let refused = world.app.ledger.transact(async |tx: &mut Tx| tx.append(entry).await).await.map(|_| ()).unwrap_err();
    let Fault::IncompleteEntry(missing) = &refused else { panic!("{refused}") };
    assert_eq!(*missing, ["actor_id", "decision_owner", "tenant_id", "reason", "evidence", "from_state and to_state"]);
    assert_eq!(world.number("SELECT count(*) FROM trail").await, 0);
}

/// A story in which everything that carries a name, a reason or content happens at least once.
async fn eventful(world: &World) -> String {
    let plane = world.acme(5).await;
    world.call("user:root", "knowledge.token.issue", json!({"plane": plane})).await;
    let usage = json!({"plane": plane, "kind": "run", "holder": "HOLDER-nightly", "ttl": "30m"});
    world.call("sdk:ingest", "knowledge.usage.open", usage).await;
    let mut terms = request(&plane, "1h");
    terms["reason"] = json!("REASON-left-us");
    world.call("user:alice", "knowledge.offboarding.request", terms.clone()).await;
    world.drain().await;
    world.call("user:alice", "knowledge.offboarding.cancel", json!({"plane": plane, "reason": "REASON-stays"})).await;
    world.advance(TimeDelta::minutes(30)).await;
    world.call("user:alice", "knowledge.offboarding.request", terms.clone()).await;
    world.faults.fail(0, Failing::Panics);
    world.drain().await;
    terms["grace"] = json!("9d");
    world.refused("user:mallory", "knowledge.offboarding.request", terms).await;
    world.refused("user:mallory", "knowledge.plane.show", json!({"plane": "acme/PLANE-unknown"})).await;
    let held = json!({"plane": plane, "reason": "REASON-litigation"});
    let held = world.call("user:lena", "knowledge.hold.place", held).await["hold_id"].clone();
    world.advance(TimeDelta::minutes(1)).await;
    world.advance(TimeDelta::hours(1)).await;
    world.call("user:lena", "knowledge.hold.release", json!({"hold_id": held, "reason": "REASON-settled"})).await;
    world.drain().await;
    world.refused("user:alice", "knowledge.approval.grant", json!({"plane": plane, "reason": "REASON-self"})).await;
    world.call("user:bob", "knowledge.approval.grant", json!({"plane": plane, "reason": "REASON-checked"})).await;
    world.drain().await;
    assert_eq!(world.state(&plane).await, "PURGED");
    plane
}

#[tokio::test]
async fn entries_hold_no_name_no_reason_and_no_content_and_stay_verifiable_without_them() {
    let world = World::new().await;
    let plane = eventful(&world).await;
    let folder = world.dir.path().file_name().unwrap().to_str().unwrap().to_owned();
    let personal = ["alice", "bob", "lena", "mallory", "root", "acme", "globex", "handbook", "REASON", "HOLDER", "PLANE-unknown"];
    for word in personal.into_iter().chain(["marker-", "lorem", "document-", "\"p1\"", "plane=p1", "the driver panics", &folder])
    {
        let found = world.texts(&format!("SELECT body FROM trail WHERE replace(body, '{word}', '') <> body")).await;
        assert_eq!(found, [""; 0], "`{word}` is in an entry for ever");
    }
    let values = world.read(async |tx| tx.opened_values().await).await;
    let reasons = values.iter().filter(|(_, field, ..)| field == "reason").map(|(_, _, reason, _)| reason.as_str());
    let kept: std::collections::BTreeSet<_> = reasons.filter(|reason| reason.starts_with("REASON-")).collect();
    assert_eq!(kept.len(), 5, "beside the entries: {kept:?}");
    // The same value is never committed to the same way twice, so nobody can guess who it was by comparing.
    let salted = crate::support::ledger::either(
        "SELECT count(DISTINCT body -> '$.actor_id.commitment') - count(*) FROM trail",
        "SELECT count(DISTINCT body::json #>> '{actor_id,commitment}') - count(*) FROM trail",
    );
    assert_eq!(world.number(salted).await, 0);

    let before = world.call("user:auditor", "governance.audit.verify", json!({})).await;
    assert!(before["commitments"].as_u64().unwrap() > 20, "{before}");
    // Values that are gone without a record are no erasure.
    world.sql("UPDATE personal_keys SET key = NULL, destroyed_at = (SELECT max(at) FROM trail); DELETE FROM trail_values").await;
    let after = world.call("user:auditor", "governance.audit.verify", json!({})).await;
    assert!(after["audit"] == "broken" && after["message"].as_str().unwrap().contains("nobody erased it"), "{after}");
    assert_eq!(before["destroyed"], 0);
    assert_eq!(world.state(&plane).await, "PURGED");
}

#[tokio::test]
async fn numbers_run_from_0_without_a_gap_in_every_chain_and_every_move_has_its_entry() {
    let world = World::new().await;
    let plane = eventful(&world).await;
    let gaps = "SELECT count(*) FROM (SELECT 1 FROM trail t JOIN chains c USING (chain) GROUP BY chain, c.next_sequence
        HAVING min(sequence_no) <> 0 OR max(sequence_no) <> count(*) - 1 OR c.next_sequence <> count(*)) AS gaps";
    assert_eq!(world.number(gaps).await, 0);
    assert!(world.number("SELECT count(*) FROM chains").await >= 5, "two planes, two tenants, the system");
    let to = crate::support::ledger::either("body", "body::json");
    let moves = format!("SELECT {to} ->> 'to_state' FROM trail WHERE event_type = 'TRANSITION' AND plane_id =");
    let moves = world.texts(&format!("{moves} '{plane}' ORDER BY place")).await;
    assert_eq!(moves, ["PENDING_DEACTIVATE", "DEACTIVATED", "ARCHIVED", "PURGED"]);
    invariants::check(&world).await;
}

#[tokio::test]
async fn an_export_is_enough_to_verify_elsewhere() {
    let world = World::new().await;
    let plane = world.acme(2).await;
    world.archived(&plane).await;
    let exported = world.call("user:auditor", "governance.audit.export", json!({"plane": plane})).await;
    let mut head = sha256(format!("plane:{plane}").as_bytes());
    for (number, entry) in exported["entries"].as_array().unwrap().iter().enumerate() {
        assert_eq!((&entry["previous"], &entry["body"]["sequence_no"]), (&json!(head), &json!(number)));
        let body = lethe_stages::canonical::to_string(&entry["body"]).unwrap();
        head = sha256((head + &body).as_bytes());
        assert_eq!(entry["hash"], json!(head));
    }
    assert!(!exported.to_string().contains("alice"), "personal values stay here");
}

/// Ids begin with the instant. Where the clock steps to and fro, far more values lie between those of a window than belong to it.
#[tokio::test]
async fn every_value_is_found_however_far_the_ids_beside_it_lie_apart() {
    let world = World::new().await;
    let tenant = uuid(1);
    for turn in 0..60 {
        world.clock.jump(TimeDelta::hours(if turn % 2 == 0 { 1 } else { -1 }));
        let append = async |tx: &mut Tx| {
            for _ in 0..100 {
                let actor = Actor::system("stepping");
                let mut entry = Entry::new(Chain::Tenant(tenant), Some(tenant), EventType::StatusChanged, &actor, "test");
                entry.reason = Some("the clock steps".into());
                tx.append(entry).await?;
            }
            Ok::<_, Fault>(())
        };
        world.app.ledger.transact(append).await.unwrap().into_inner();
    }
    let values = world.number("SELECT count(*) FROM trail_values").await as u64;
    let trail = world.read(async |tx| tx.verify_trail(None).await).await.unwrap();
    assert_eq!((trail.commitments, trail.destroyed), (values, 0));
}
