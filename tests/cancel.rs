//! Cancel: until deactivate is claimed, an offboarding can be taken back, and exactly what it suspended works again.

use chrono::TimeDelta;
use lethe_stages::ports::PortError;
use lethe_worker::manager::RecordResult;
use serde_json::{Value as Json, json};

use crate::support::{World, faults::Failing, invariants, request};

const CANCEL: &str = "knowledge.offboarding.cancel";

fn reasoned(plane: &str) -> Json {
    json!({"plane": plane, "reason": "the customer stays"})
}

async fn token(world: &World, plane: &str) -> (String, String) {
    let issued = world.call("user:root", "knowledge.token.issue", json!({"plane": plane})).await;
    (issued["token_id"].as_str().unwrap().to_owned(), issued["token"].as_str().unwrap().to_owned())
}

async fn opens(world: &World, plane: &str, token: &str) -> bool {
    let answer = world.ask("sdk:app", "knowledge.access.check", json!({"plane": plane, "token": token})).await;
    matches!(answer, lethe_worker::operations::Answer::Done(_))
}

#[tokio::test]
async fn a_cancel_in_grace_restores_what_the_offboarding_suspended_and_nothing_else() {
    let world = World::new().await;
    let plane = world.acme(5).await;
    let (_, working) = token(&world, &plane).await;
    let (revoked_id, revoked) = token(&world, &plane).await;
    world.call("user:root", "knowledge.token.revoke", json!({"token_id": revoked_id})).await;
    let mut terms = request(&plane, "7d");
    terms["grace_access"] = json!("none");
    world.call("user:alice", "knowledge.offboarding.request", terms).await;
    world.drain().await;
    assert_eq!(world.state(&plane).await, "PENDING_DEACTIVATE");
    assert!(!opens(&world, &plane, &working).await, "suspended");
    assert!(world.write("p1").await.is_err_and(|said| said.contains("lethe")), "fenced");
    world.write("p2").await.expect("the neighbour is not");

    let cancelled = world.call("user:alice", CANCEL, reasoned(&plane)).await;
    assert_eq!((&cancelled["state"], &cancelled["tokens_restored"]), (&json!("ACTIVE"), &json!(1)));
    world.drain().await;
    assert!(opens(&world, &plane, &working).await);
    assert!(!opens(&world, &plane, &revoked).await, "it was revoked before, and not by the offboarding");
    world.write("p1").await.expect("the fence is lifted");
    let usage = json!({"plane": plane, "kind": "run", "holder": "job", "ttl": "1h"});
    world.call("sdk:app", "knowledge.usage.open", usage).await;
    assert_eq!(world.number("SELECT count(*) FROM planes WHERE draining").await, 0);
    let mut restored = world.trail(&plane).await;
    restored.retain(|line| !line.starts_with("TOKEN") && !line.starts_with("BLOCKED"));
    assert_eq!(
        restored[1..],
        [
            "REQUESTED",
            "STAGE_STARTED deregister",
            "STAGE_COMPLETED deregister",
            "TRANSITION ACTIVE → PENDING_DEACTIVATE deregister",
            "CANCELLED verify",
            "TRANSITION PENDING_DEACTIVATE → ACTIVE verify",
            "STAGE_STARTED restore",
            "ROLLBACK restore"
        ]
    );
    invariants::check(&world).await;
}

#[tokio::test]
async fn a_cancel_while_runs_are_drained_lets_new_runs_in_again() {
    let world = World::new().await;
    let plane = world.acme(5).await;
    let usage = json!({"plane": plane, "kind": "run", "holder": "job", "ttl": "1h"});
    world.call("sdk:app", "knowledge.usage.open", usage.clone()).await;
    world.request(&plane, "7d").await;
    world.drain().await;
    assert_eq!(world.state(&plane).await, "ACTIVE", "it waits for the run");
    assert_eq!(world.code("sdk:app", "knowledge.usage.open", usage.clone()).await, "PLANE_NOT_ACTIVE");
    world.call("user:alice", CANCEL, reasoned(&plane)).await;
    world.call("sdk:app", "knowledge.usage.open", usage).await;
    world.drain().await;
    world.write("p1").await.expect("nothing is fenced");
    assert_eq!((world.state(&plane).await.as_str(), world.entries(&plane, "TRANSITION").await), ("ACTIVE", 0));
    invariants::check(&world).await;
}

#[tokio::test]
async fn a_cancel_is_refused_from_the_claim_of_deactivate_on() {
    let world = World::new().await;
    let plane = world.acme(5).await;
    world.reach(&plane, "deactivate").await;
    let claimed = world.claim(&plane).await;
    assert_eq!(world.code("user:alice", CANCEL, reasoned(&plane)).await, "STAGE_IN_PROGRESS");
    assert_eq!(world.finish(&claimed).await, RecordResult::Recorded, "the refused cancel did not push the worker out");
    assert_eq!(world.state(&plane).await, "DEACTIVATED");
    for state in ["DEACTIVATED", "ARCHIVED", "PURGED"] {
        assert_eq!(world.state(&plane).await, state);
        assert_eq!(world.code("user:alice", CANCEL, reasoned(&plane)).await, "NOT_CANCELLABLE", "{state}");
        world.drain().await;
        if world.state(&plane).await == "ARCHIVED" && state == "ARCHIVED" {
            world.approve(&plane).await;
            world.drain().await;
        }
    }
    assert_eq!((world.entries(&plane, "CANCELLED").await, world.blocked(&plane, "NOT_CANCELLABLE").await), (0, 3));
    invariants::check(&world).await;
}

#[tokio::test]
async fn a_halted_deactivate_can_be_cancelled_and_what_it_had_closed_is_opened() {
    let world = World::new().await;
    let plane = world.acme(5).await;
    world.reach(&plane, "deactivate").await;
    world.faults.fail_with(0, Failing::Done, PortError::Permanent("the disk is read-only now".into()));
    world.drain().await;
    assert_eq!(world.run(&plane).await, ("deactivate".into(), "halted".into()));
    assert!(world.write("p1").await.is_err(), "the store was closed before it failed");
    world.call("user:alice", CANCEL, reasoned(&plane)).await;
    world.drain().await;
    assert_eq!(world.state(&plane).await, "ACTIVE");
    world.write("p1").await.expect("open again");
    invariants::check(&world).await;
}

#[tokio::test]
async fn a_late_answer_of_the_withdrawn_run_changes_neither_ledger_nor_store() {
    let world = World::new().await;
    let plane = world.acme(5).await;
    world.request(&plane, "7d").await;
    let claimed = world.claim(&plane).await;
    world.call("user:alice", CANCEL, reasoned(&plane)).await;
    let epoch = world.number(&format!("SELECT epoch FROM planes WHERE id = '{plane}'")).await;
    assert!(epoch > claimed.epoch, "from the cancel on, not only from the restore's claim on");
    // The worker did not hear of it: it fences the store and wants to begin the grace period.
    assert_eq!(world.finish(&claimed).await, RecordResult::Stale);
    assert!(world.write("p1").await.is_err(), "it did fence the store");
    assert_eq!(world.state(&plane).await, "ACTIVE");
    world.drain().await;
    world.write("p1").await.expect("the restore came after it");
    // Later still, after the restore, the store itself knows that this worker's time is over.
    assert_eq!(world.finish(&claimed).await, RecordResult::Stale);
    world.write("p1").await.expect("an older epoch cannot fence it");
    assert_eq!(world.entries(&plane, "STAGE_COMPLETED").await, 0);
    invariants::check(&world).await;
}

#[tokio::test]
async fn a_new_request_waits_for_the_undoing_of_the_cancelled_one_and_then_starts_from_its_beginning() {
    let world = World::new().await;
    let plane = world.acme(5).await;
    let first = world.request(&plane, "7d").await["offboarding_id"].clone();
    world.drain().await;
    world.call("user:alice", CANCEL, reasoned(&plane)).await;
    let again = "knowledge.offboarding.request";
    assert_eq!(world.code("user:alice", again, request(&plane, "7d")).await, "RESTORE_PENDING");
    assert_eq!(world.code("user:alice", CANCEL, reasoned(&plane)).await, "NOT_CANCELLABLE", "a restore is not cancelled");
    world.drain().await;
    world.clock.advance(TimeDelta::days(3));
    let second = world.request(&plane, "7d").await;
    assert_ne!(second["offboarding_id"], first);
    assert_eq!(second["repeated"], false);
    world.drain().await;
    let until = world.status(&plane).await["offboarding"]["deadlines"]["grace_until"].clone();
    assert_eq!(until, "2026-03-11T09:00:00Z", "a grace period of its own");
    world.advance(TimeDelta::days(7)).await;
    world.approve(&plane).await;
    world.drain().await;
    assert_eq!(world.state(&plane).await, "PURGED");
    invariants::check(&world).await;
}

#[tokio::test]
async fn an_erasure_request_can_be_cancelled_in_grace_like_any_other() {
    let world = World::new().await;
    let plane = world.acme(5).await;
    let (_, working) = token(&world, &plane).await;
    let terms = json!({"plane": plane, "ground": "erasure_request", "reason": "article 17"});
    world.call("user:alice", "knowledge.offboarding.request", terms).await;
    assert!(!opens(&world, &plane, &working).await, "from the request on");
    world.drain().await;
    world.call("user:alice", CANCEL, reasoned(&plane)).await;
    world.drain().await;
    assert!(opens(&world, &plane, &working).await);
    world.write("p1").await.expect("open");
    invariants::check(&world).await;
}
