//! Whole stories, as the trail tells them, and the tables that other programs rely on, kept in `tests/golden/`.

use chrono::TimeDelta;
use lethe_stages::{Code, LifecycleState, lifecycle};
use serde_json::json;

use crate::support::{WORKER, World, faults::Failing, golden, invariants, request};

async fn told(world: &World, plane: &str, name: &str) {
    invariants::check(world).await;
    golden(name, &(world.trail(plane).await.join("\n") + "\n"));
}

#[tokio::test]
async fn a_cancellation() {
    let world = World::new().await;
    let plane = world.acme(3).await;
    world.request(&plane, "7d").await;
    world.drain().await;
    world.call("user:alice", "knowledge.offboarding.cancel", json!({"plane": plane, "reason": "they stay"})).await;
    world.drain().await;
    told(&world, &plane, "cancellation.txt").await;
}

#[tokio::test]
async fn a_refused_purge() {
    let world = World::new().await;
    let plane = world.acme(3).await;
    let reason = json!({"plane": plane, "reason": "because"});
    world.request(&plane, "1h").await;
    world.refused("user:bob", "knowledge.approval.grant", reason.clone()).await;
    world.drain().await;
    world.advance(TimeDelta::hours(1)).await;
    world.refused("user:alice", "knowledge.approval.grant", reason.clone()).await;
    let hold = world.call("user:lena", "knowledge.hold.place", reason.clone()).await;
    world.call("user:bob", "knowledge.approval.grant", reason.clone()).await;
    world.advance(TimeDelta::hours(1)).await;
    world.call("user:bob", "knowledge.approval.withdraw", reason.clone()).await;
    world.call("user:lena", "knowledge.hold.release", json!({"hold_id": hold["hold_id"], "reason": "settled"})).await;
    world.drain().await;
    world.call("user:carol", "knowledge.approval.deny", reason.clone()).await;
    world.drain().await;
    told(&world, &plane, "refused-purge.txt").await;
}

#[tokio::test]
async fn a_crash_and_recovery() {
    let world = World::new().await;
    let plane = world.acme(3).await;
    world.request(&plane, "0s").await;
    // Deregister, verify, deactivate and export are performed; the worker that claimed evict is never seen again.
    for _ in 0..4 {
        let (claimed, _) = world.app.manager.claim(1, WORKER, None).await.expect("claim");
        let finished = [world.app.manager.perform(&claimed[0]).await];
        world.app.manager.record(&finished, WORKER).await.expect("record");
    }
    let (lost, _) = world.app.manager.claim(1, "worker-lost", None).await.expect("claim");
    assert_eq!(lost.len(), 1);
    world.advance(TimeDelta::minutes(2)).await;
    told(&world, &plane, "crash-and-recovery.txt").await;
}

#[tokio::test]
async fn a_halted_run_retried() {
    let world = World::new().await;
    let plane = world.acme(3).await;
    world.call("user:alice", "knowledge.offboarding.request", request(&plane, "1h")).await;
    for _ in 0..3 {
        world.faults.fail(0, Failing::NotDone);
        world.advance(TimeDelta::hours(2)).await;
    }
    assert_eq!(world.status(&plane).await["offboarding"]["run_status"], "halted");
    world.call("user:alice", "knowledge.offboarding.retry", json!({"plane": plane, "reason": "the store is back"})).await;
    world.drain().await;
    told(&world, &plane, "halted-and-retried.txt").await;
}

#[test]
fn the_transition_matrix() {
    let mut text = String::new();
    for &from in LifecycleState::ALL {
        for &to in LifecycleState::ALL {
            let verdict = match lifecycle::refuse_move(from, to) {
                None => "allowed".to_owned(),
                Some(refusal) => refusal.to_string(),
            };
            text += &format!("{from} → {to}: {verdict}\n");
        }
    }
    golden("transitions.txt", &text);
}

#[test]
fn every_refusal_code_keeps_its_meaning() {
    let text: String = Code::ALL.iter().map(|code| format!("{code}: {}\n", code.meaning())).collect();
    golden("codes.txt", &text);
}
