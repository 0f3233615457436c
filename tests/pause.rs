//! Pause: an operator stops a scope inside the claim; what runs may finish, nothing new begins, and resume lets it go on.

use chrono::TimeDelta;
use lethe_worker::manager::RecordResult;
use serde_json::json;

use crate::support::{World, invariants, request};

const PAUSE: &str = "knowledge.control.pause";
const RESUME: &str = "knowledge.control.resume";

#[tokio::test]
async fn each_scope_stops_what_it_names_and_nothing_else() {
    for (scope, acme, globex) in [
        (json!({"all": true}), "ACTIVE", "ACTIVE"),
        (json!({"tenant": "acme"}), "ACTIVE", "ARCHIVED"),
        (json!({"stage": "deregister"}), "ACTIVE", "ACTIVE"),
        (json!({"stage": "verify"}), "PENDING_DEACTIVATE", "PENDING_DEACTIVATE"),
        (json!({"stage": "archive"}), "DEACTIVATED", "DEACTIVATED"),
    ] {
        let world = World::new().await;
        let plane = world.acme(2).await;
        let mut pause = scope.clone();
        pause["reason"] = json!("change freeze");
        world.call("user:root", PAUSE, pause.clone()).await;
        world.call("user:root", PAUSE, pause).await;
        for plane in [&plane, "globex/handbook"] {
            world.request(plane, "1h").await;
        }
        world.drain().await;
        world.advance(TimeDelta::hours(1)).await;
        world.advance(TimeDelta::days(1)).await;
        assert_eq!(
            (world.state(&plane).await.as_str(), world.state("globex/handbook").await.as_str()),
            (acme, globex),
            "{scope}"
        );
        assert_eq!(
            (world.blocked(&plane, "PAUSED").await, world.run(&plane).await.1.as_str()),
            (1, "parked"),
            "{scope}: on record once"
        );
        world.call("user:root", RESUME, scope.clone()).await;
        world.drain().await;
        world.advance(TimeDelta::hours(1)).await;
        assert_eq!(world.state(&plane).await, "ARCHIVED", "{scope}: it goes on");
        assert_eq!(world.code("user:root", RESUME, scope).await, "PAUSE_UNKNOWN");
        invariants::check(&world).await;
    }
}

#[tokio::test]
async fn a_pause_lets_what_was_claimed_before_it_finish() {
    let world = World::new().await;
    let plane = world.acme(2).await;
    world.request(&plane, "1h").await;
    let claimed = world.claim(&plane).await;
    world.call("user:root", PAUSE, json!({"all": true, "reason": "change freeze"})).await;
    assert_eq!(world.finish(&claimed).await, RecordResult::Recorded);
    world.advance(TimeDelta::hours(2)).await;
    assert_eq!(world.state(&plane).await, "PENDING_DEACTIVATE");
    assert_eq!(
        world.call("user:alice", "knowledge.offboarding.cancel", json!({"plane": plane, "reason": "r"})).await["state"],
        "ACTIVE"
    );
    assert_eq!(world.drain().await, 0, "the undoing is work, too");
    world.call("user:root", RESUME, json!({"all": true})).await;
    world.drain().await;
    world.write("p1").await.expect("restored");
    invariants::check(&world).await;
}

#[tokio::test]
async fn one_of_two_pauses_lifted_is_still_a_pause() {
    let world = World::new().await;
    let plane = world.acme(2).await;
    world.call("user:root", PAUSE, json!({"all": true, "reason": "r"})).await;
    world.call("user:root", PAUSE, json!({"tenant": "acme", "reason": "r"})).await;
    world.request(&plane, "1h").await;
    world.drain().await;
    world.call("user:root", RESUME, json!({"all": true})).await;
    world.drain().await;
    assert_eq!((world.state(&plane).await.as_str(), world.blocked_by(&plane).await), ("ACTIVE", vec!["PAUSED".to_owned()]));
    world.call("user:root", RESUME, json!({"tenant": "acme"})).await;
    world.drain().await;
    assert_eq!(world.state(&plane).await, "PENDING_DEACTIVATE");
    for wrong in [
        json!({"reason": "r"}),
        json!({"all": true, "tenant": "acme", "reason": "r"}),
        json!({"all": true}),
        json!({"stage": "lunch", "reason": "r"}),
    ] {
        assert_eq!(world.code("user:root", PAUSE, wrong.clone()).await, "INVALID_ARGUMENT", "{wrong}");
    }
    invariants::check(&world).await;
}

#[tokio::test]
async fn no_more_purges_begin_in_an_hour_than_the_limit_says() {
    let world = World::with("[purge]\nper_hour_max = 2").await;
    world.acme(2).await;
    let mut planes = Vec::new();
    for number in 0..5 {
        let plane = world.register("acme", &format!("plane-{number}"), &format!("v{number}")).await;
        world.call("user:alice", "knowledge.offboarding.request", request(&plane, "0s")).await;
        planes.push(plane);
    }
    world.drain().await;
    for plane in &planes {
        world.approve(plane).await;
    }
    world.drain().await;
    let purged = async || world.number("SELECT count(*) FROM planes WHERE state = 'PURGED'").await;
    assert_eq!(purged().await, 2, "although all five were due in one claim");
    assert_eq!(world.number("SELECT count(*) FROM approvals WHERE status = 'granted'").await, 3, "none is used up by waiting");
    for minute in 1..60 {
        world.advance(TimeDelta::minutes(1)).await;
        assert_eq!(purged().await, 2, "minute {minute}");
    }
    world.advance(TimeDelta::minutes(1)).await;
    assert_eq!(purged().await, 4, "an hour later");
    world.advance(TimeDelta::minutes(60)).await;
    assert_eq!(purged().await, 5);
    invariants::check(&world).await;
}

#[tokio::test]
async fn a_purge_that_has_begun_goes_on_whatever_the_limit() {
    let world = World::with("[purge]\nper_hour_max = 1").await;
    let plane = world.acme(2).await;
    world.archived(&plane).await;
    world.approve(&plane).await;
    world.claim(&plane).await;
    world.advance(TimeDelta::minutes(2)).await;
    assert_eq!(world.state(&plane).await, "PURGED", "it was interrupted and counts as begun, once");
    invariants::check(&world).await;
}
