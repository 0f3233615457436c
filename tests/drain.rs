//! Drain: what uses the plane ends before the plane does; nothing new is let in, and nothing is guessed.

use chrono::TimeDelta;
use serde_json::{Value as Json, json};

use crate::support::{World, beginning, invariants, request};

const OPEN: &str = "knowledge.usage.open";

fn usage(plane: &str, kind: &str, ttl: &str) -> Json {
    json!({"plane": plane, "kind": kind, "holder": "nightly", "ttl": ttl})
}

async fn open(world: &World, plane: &str, kind: &str, ttl: &str) -> Json {
    world.call("sdk:app", OPEN, usage(plane, kind, ttl)).await
}

async fn close(world: &World, usage: &Json) {
    world.call("sdk:app", "knowledge.usage.close", json!({"usage_id": usage["usage_id"]})).await;
}

#[tokio::test]
async fn deregister_waits_for_the_run_in_flight_and_its_end_wakes_it() {
    let world = World::new().await;
    let plane = world.acme(2).await;
    let run = open(&world, &plane, "run", "2h").await;
    world.request(&plane, "1h").await;
    assert_eq!(world.code("sdk:app", OPEN, usage(&plane, "run", "1m")).await, "PLANE_NOT_ACTIVE", "from the request on");
    world.drain().await;
    for _ in 0..5 {
        world.advance(TimeDelta::minutes(10)).await;
    }
    let status = world.status(&plane).await;
    assert_eq!((&status["state"], &status["offboarding"]["attempt"]), (&json!("ACTIVE"), &json!(0)), "waiting costs no attempt");
    assert_eq!(world.blocked(&plane, "ACTIVE_REFERENCES").await, 1, "on record once");
    world.write("p1").await.expect("the run goes on writing until it ends");
    close(&world, &run).await;
    assert_eq!(world.drain().await, 1, "no sweep, no time: the end of the run wakes it");
    assert_eq!(world.state(&plane).await, "PENDING_DEACTIVATE");
    assert!(world.write("p1").await.is_err());
    invariants::check(&world).await;
}

#[tokio::test]
async fn a_run_that_is_never_closed_ends_with_its_expiry() {
    let world = World::new().await;
    let plane = world.acme(2).await;
    open(&world, &plane, "run", "2h").await;
    world.request(&plane, "1h").await;
    world.drain().await;
    world.clock.advance(TimeDelta::hours(2) - TimeDelta::seconds(1));
    assert_eq!(world.drain().await, 0);
    world.clock.advance(TimeDelta::seconds(1));
    world.drain().await;
    assert_eq!(world.state(&plane).await, "PENDING_DEACTIVATE", "by itself, without a sweep");
    invariants::check(&world).await;
}

#[tokio::test]
async fn the_end_of_the_last_run_wakes_the_drain_although_queries_go_on() {
    let world = World::new().await;
    let plane = world.acme(2).await;
    let (one, two) = (open(&world, &plane, "run", "2h").await, open(&world, &plane, "run", "2h").await);
    open(&world, &plane, "query", "20h").await;
    world.request(&plane, "24h").await;
    world.drain().await;
    close(&world, &one).await;
    world.drain().await;
    assert_eq!(world.state(&plane).await, "ACTIVE", "one of two");
    close(&world, &two).await;
    world.drain().await;
    assert_eq!(world.state(&plane).await, "PENDING_DEACTIVATE");
    invariants::check(&world).await;
}

#[tokio::test]
async fn verify_waits_for_a_query_in_flight_even_after_the_end_of_grace() {
    let world = World::new().await;
    let plane = world.acme(2).await;
    let query = open(&world, &plane, "query", "3h").await;
    world.request(&plane, "1h").await;
    world.drain().await;
    world.advance(TimeDelta::hours(2)).await;
    assert_eq!((world.state(&plane).await.as_str(), world.blocked(&plane, "ACTIVE_USAGE").await), ("PENDING_DEACTIVATE", 1));
    let refused = world.refused("sdk:app", OPEN, usage(&plane, "query", "1m")).await;
    assert_eq!(refused.code.as_str(), "USAGE_REFUSED", "grace is over: no new query is let in while the last one ends");
    close(&world, &query).await;
    world.drain().await;
    assert_eq!(world.state(&plane).await, "ARCHIVED");
    invariants::check(&world).await;
}

#[tokio::test]
async fn no_use_that_is_let_in_during_grace_outlives_it() {
    let world = World::new().await;
    let plane = world.acme(2).await;
    world.request(&plane, "1h").await;
    world.drain().await;
    world.clock.advance(TimeDelta::minutes(50));
    let query = open(&world, &plane, "query", "12h").await;
    assert_eq!(query["expires_at"], json!(beginning() + TimeDelta::hours(1)));
    assert_eq!(world.code("sdk:app", OPEN, usage(&plane, "run", "1m")).await, "PLANE_NOT_ACTIVE");
    world.advance(TimeDelta::minutes(10)).await;
    assert_eq!(world.state(&plane).await, "ARCHIVED", "nothing kept it waiting");
    invariants::check(&world).await;
}

#[tokio::test]
async fn what_grace_leaves_open_is_what_the_request_said() {
    for (access, queries) in [("read_only", true), ("full", true), ("none", false)] {
        let world = World::new().await;
        let plane = world.acme(2).await;
        let token = world.call("user:root", "knowledge.token.issue", json!({"plane": plane})).await["token"].clone();
        let mut terms = request(&plane, "1h");
        terms["grace_access"] = json!(access);
        world.call("user:alice", "knowledge.offboarding.request", terms).await;
        world.drain().await;
        let check = json!({"plane": plane, "token": token});
        let answer = world.ask("sdk:app", "knowledge.access.check", check.clone()).await;
        assert_eq!(matches!(answer, lethe_worker::operations::Answer::Done(_)), queries, "{access}: {answer:?}");
        assert_eq!(world.write("p1").await.is_ok(), access == "full", "{access}");
        // A worker that is late leaves nothing open: the end of grace is the end of queries.
        world.clock.advance(TimeDelta::hours(1));
        world.refused("sdk:app", "knowledge.access.check", check).await;
        world.drain().await;
        assert!(world.write("p1").await.is_err(), "{access}: deactivated");
        invariants::check(&world).await;
    }
}

#[tokio::test]
async fn usage_that_nobody_reports_is_waited_for_until_somebody_does() {
    let world = World::with("[usage]\naccept_unknown = false\n[tenants.globex]\naccept_unknown = true").await;
    let plane = world.acme(2).await;
    world.request(&plane, "1h").await;
    world.request("globex/handbook", "1h").await;
    world.drain().await;
    world.advance(TimeDelta::days(30)).await;
    assert_eq!((world.state(&plane).await.as_str(), world.blocked(&plane, "USAGE_UNKNOWN").await), ("ACTIVE", 1));
    assert_eq!(world.state("globex/handbook").await, "ARCHIVED", "where policy accepts it");
    let evidence =
        world.texts("SELECT evidence ->> 'usage_known' FROM stage_runs WHERE step = 'deregister' AND evidence IS NOT NULL").await;
    assert_eq!(evidence, ["none"], "and the evidence says so");
    let query = open(&world, &plane, "query", "1m").await;
    world.drain().await;
    assert_eq!(world.state(&plane).await, "PENDING_DEACTIVATE", "reporting began: that wakes it");
    close(&world, &query).await;
    world.advance(TimeDelta::hours(1)).await;
    assert_eq!(world.state(&plane).await, "ARCHIVED");
    invariants::check(&world).await;
}

#[tokio::test]
async fn a_use_has_an_end_and_a_holder() {
    let world = World::new().await;
    let plane = world.acme(2).await;
    for (ttl, holder) in [("0s", "h"), ("25h", "h"), ("-1m", "h"), ("soon", "h"), ("1h", " ")] {
        let wrong = json!({"plane": plane, "kind": "run", "holder": holder, "ttl": ttl});
        assert_eq!(world.code("sdk:app", OPEN, wrong).await, "INVALID_ARGUMENT", "{ttl} {holder}");
    }
    let run = open(&world, &plane, "run", "1m").await;
    close(&world, &run).await;
    assert_eq!(world.code("sdk:app", "knowledge.usage.close", json!({"usage_id": run["usage_id"]})).await, "USAGE_ID_UNKNOWN");
    invariants::check(&world).await;
}
