//! Holds: while one stands on a plane or its tenant, nothing is destroyed; it stops even what has begun.

use chrono::TimeDelta;
use lethe_worker::manager::RecordResult;
use serde_json::{Value as Json, json};

use crate::support::{World, invariants, knowledge};

async fn hold(world: &World, subject: Json) -> String {
    let mut arguments = subject;
    arguments["reason"] = json!("litigation");
    world.call("user:lena", "knowledge.hold.place", arguments).await["hold_id"].as_str().expect("an id").to_owned()
}

async fn release(world: &World, hold: &str) {
    world.call("user:lena", "knowledge.hold.release", json!({"hold_id": hold, "reason": "settled"})).await;
}

#[tokio::test]
async fn a_hold_on_the_plane_lets_everything_happen_but_destruction() {
    let world = World::new().await;
    let plane = world.acme(5).await;
    let held = hold(&world, json!({"plane": plane})).await;
    world.request(&plane, "1h").await;
    world.drain().await;
    world.advance(TimeDelta::hours(1)).await;
    assert_eq!(world.state(&plane).await, "DEACTIVATED", "deregister, verify, deactivate and export are no destruction");
    assert_eq!(world.run(&plane).await, ("evict".into(), "parked".into()));
    assert_eq!(world.blocked_by(&plane).await, ["HOLD_ACTIVE"]);
    assert_eq!(knowledge::digest(&world.dir.path().join("knowledge.db"), "p1").await.0, 5);
    world.advance(TimeDelta::days(400)).await;
    assert_eq!((world.state(&plane).await.as_str(), world.blocked(&plane, "HOLD_ACTIVE").await), ("DEACTIVATED", 1));
    release(&world, &held).await;
    assert_eq!(world.drain().await, 1, "the release itself wakes the run");
    assert_eq!(world.state(&plane).await, "ARCHIVED");
    invariants::check(&world).await;
}

#[tokio::test]
async fn a_hold_on_the_tenant_stops_the_approved_purge_of_its_plane_and_of_no_other_tenants() {
    let world = World::new().await;
    let plane = world.acme(5).await;
    world.archived(&plane).await;
    world.archived("globex/handbook").await;
    let held = hold(&world, json!({"tenant": "acme"})).await;
    world.approve(&plane).await;
    world.approve("globex/handbook").await;
    world.drain().await;
    assert_eq!(world.state("globex/handbook").await, "PURGED");
    assert_eq!(world.state(&plane).await, "ARCHIVED");
    let of = "SELECT a.status FROM approvals a JOIN offboardings o ON o.id = a.offboarding_id WHERE o.plane_id =";
    let status = world.texts(&format!("{of} '{plane}'")).await;
    assert_eq!(status, ["granted"], "an approval is not used up by what did not begin");
    release(&world, &held).await;
    world.drain().await;
    assert_eq!(world.state(&plane).await, "PURGED");
    let chain = format!("tenant:{}", world.tenant_id("acme").await);
    let entries = world.texts(&format!("SELECT event_type FROM trail WHERE chain = '{chain}' ORDER BY sequence_no")).await;
    assert_eq!(entries, ["REGISTERED", "HOLD_PLACED", "HOLD_RELEASED"]);
    invariants::check(&world).await;
}

#[tokio::test]
async fn a_hold_placed_after_the_purge_was_claimed_stops_the_rest_and_says_that_it_had_begun() {
    let world = World::new().await;
    let plane = world.acme(5).await;
    world.archived(&plane).await;
    world.approve(&plane).await;
    let claimed = world.claim(&plane).await;
    let placed = world.call("user:lena", "knowledge.hold.place", json!({"plane": plane, "reason": "litigation"})).await;
    assert_eq!(placed["stopped"][0]["step"], "purge");
    assert!(placed["stopped"][0]["warning"].as_str().unwrap().contains("may already be destroyed"));
    let epoch = world.number(&format!("SELECT epoch FROM planes WHERE id = '{plane}'")).await;
    assert!(epoch > claimed.epoch, "whoever works on it is out");
    // The slow worker comes back with an answer: it changes nothing, whatever the answer is.
    let late = lethe_worker::manager::Finished {
        case: claimed.case.clone(),
        epoch: claimed.epoch,
        result: Ok(lethe_stages::contract::Done::with(json!({}))),
        progress: None,
    };
    assert_eq!(world.record(&late).await, RecordResult::Stale);
    assert_eq!((world.state(&plane).await.as_str(), world.run(&plane).await.1.as_str()), ("ARCHIVED", "parked"));
    world.advance(TimeDelta::days(1)).await;
    assert_eq!(world.state(&plane).await, "ARCHIVED");
    release(&world, placed["hold_id"].as_str().unwrap()).await;
    world.drain().await;
    assert_eq!(world.state(&plane).await, "PURGED", "under the approval that it had used");
    invariants::check(&world).await;
}

#[tokio::test]
async fn a_hold_placed_while_evict_runs_parks_it_and_drops_its_late_answer() {
    let world = World::new().await;
    let plane = world.acme(5).await;
    let file = world.dir.path().join("knowledge.db");
    world.call("user:root", "knowledge.control.pause", json!({"stage": "archive", "reason": "look first"})).await;
    world.request(&plane, "1h").await;
    world.drain().await;
    world.advance(TimeDelta::hours(1)).await;
    world.call("user:root", "knowledge.control.resume", json!({"stage": "archive"})).await;
    let export = world.claim(&plane).await;
    assert_eq!(world.finish(&export).await, RecordResult::Recorded);
    let evict = world.claim(&plane).await;
    hold(&world, json!({"plane": plane})).await;
    // Its fence row has not seen the new epoch, so what is in flight may still destroy; what it says is dropped all the same.
    assert_eq!(world.finish(&evict).await, RecordResult::Stale);
    world.advance(TimeDelta::hours(1)).await;
    assert_eq!(
        (world.state(&plane).await.as_str(), world.blocked_by(&plane).await),
        ("DEACTIVATED", vec!["HOLD_ACTIVE".to_owned()])
    );
    assert!(knowledge::digest(&file, "p2").await.0 == 20);
    invariants::check(&world).await;
}

#[tokio::test]
async fn two_holds_need_two_releases() {
    let world = World::new().await;
    let plane = world.acme(5).await;
    world.archived(&plane).await;
    let one = hold(&world, json!({"plane": plane})).await;
    let two = hold(&world, json!({"tenant": "acme"})).await;
    world.approve(&plane).await;
    world.drain().await;
    release(&world, &one).await;
    world.advance(TimeDelta::minutes(1)).await;
    assert_eq!(
        (world.state(&plane).await.as_str(), world.blocked_by(&plane).await),
        ("ARCHIVED", vec!["HOLD_ACTIVE".to_owned()])
    );
    let again = json!({"hold_id": one, "reason": "again"});
    assert_eq!(world.code("user:lena", "knowledge.hold.release", again).await, "HOLD_UNKNOWN");
    release(&world, &two).await;
    world.drain().await;
    assert_eq!(world.state(&plane).await, "PURGED");
    invariants::check(&world).await;
}

#[tokio::test]
async fn a_hold_needs_a_person_a_reason_and_one_subject() {
    let world = World::new().await;
    let plane = world.acme(1).await;
    let place = "knowledge.hold.place";
    assert_eq!(world.code("sdk:bot", place, json!({"plane": plane, "reason": "r"})).await, "NOT_AUTHORISED");
    assert_eq!(world.code("user:lena", place, json!({"plane": plane, "reason": " "})).await, "INVALID_ARGUMENT");
    assert_eq!(world.code("user:lena", place, json!({"reason": "r"})).await, "INVALID_ARGUMENT");
    assert_eq!(
        world.code("user:lena", place, json!({"plane": plane, "tenant": "acme", "reason": "r"})).await,
        "INVALID_ARGUMENT"
    );
    let held = hold(&world, json!({"plane": plane})).await;
    assert_eq!(
        world.code("system:cron", "knowledge.hold.release", json!({"hold_id": held, "reason": "r"})).await,
        "NOT_AUTHORISED"
    );
    assert_eq!(world.number("SELECT count(*) FROM holds WHERE released_at IS NULL").await, 1);
    invariants::check(&world).await;
}

#[tokio::test]
async fn a_hold_on_a_purged_plane_says_that_it_came_too_late() {
    let world = World::new().await;
    let plane = world.acme(2).await;
    world.archived(&plane).await;
    world.approve(&plane).await;
    world.drain().await;
    let placed = world.call("user:lena", "knowledge.hold.place", json!({"tenant": "acme", "reason": "litigation"})).await;
    assert_eq!(placed["already_purged"], 1);
    invariants::check(&world).await;
}
