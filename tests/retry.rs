//! Failures: each is on record, what passes is tried again at stored instants and bounded times, what does not halts with a way out.

use chrono::{DateTime, TimeDelta, Utc};
use lethe_stages::ports::PortError;
use serde_json::{Value as Json, json};

use crate::support::{World, faults::Failing, invariants};

const RETRY: &str = "knowledge.offboarding.retry";

async fn offboarding(world: &World, plane: &str) -> Json {
    world.status(plane).await["offboarding"].clone()
}

/// How long until the plane's run is due.
async fn delay(world: &World, plane: &str) -> TimeDelta {
    let due: DateTime<Utc> = offboarding(world, plane).await["due_at"].as_str().expect("queued").parse().expect("an instant");
    due - world.app.ledger.now()
}

fn reasoned(plane: &str) -> Json {
    json!({"plane": plane, "reason": "mended"})
}

#[tokio::test]
async fn a_passing_failure_is_tried_again_twice_as_late_each_time_until_it_halts() {
    let world = World::new().await;
    let plane = world.acme(3).await;
    world.request(&plane, "7d").await;
    for (attempt, nominal) in [(1, 30), (2, 60)] {
        world.faults.fail(0, Failing::NotDone);
        world.drain().await;
        let (status, wait) = (offboarding(&world, &plane).await, delay(&world, &plane).await);
        assert_eq!((&status["run_status"], &status["attempt"]), (&json!("queued"), &json!(attempt)));
        assert_eq!(status["last_error"]["code"], "UNAVAILABLE");
        let (least, most) = (TimeDelta::milliseconds(nominal * 800), TimeDelta::milliseconds(nominal * 1200));
        assert!(least <= wait && wait <= most, "{wait} is not {nominal} s ± 20 %");
        world.advance(wait - TimeDelta::milliseconds(1)).await;
        assert_eq!(offboarding(&world, &plane).await["attempt"], attempt, "nothing happens before it is due");
        world.clock.advance(TimeDelta::milliseconds(1));
    }
    world.faults.fail(0, Failing::NotDone);
    world.drain().await;
    assert_eq!(world.run(&plane).await, ("deregister".into(), "halted".into()));
    world.advance(TimeDelta::days(30)).await;
    assert_eq!(world.run(&plane).await.1, "halted", "time alone does not start it again");
    let halted = world.call("user:root", "knowledge.offboarding.list", json!({"halted": true})).await;
    assert_eq!(halted["offboardings"][0]["plane_id"], plane, "it is visible");
    assert!(offboarding(&world, &plane).await["next"].as_str().unwrap().contains("offboarding retry"));

    world.call("user:root", RETRY, reasoned(&plane)).await;
    assert_eq!(offboarding(&world, &plane).await["attempt"], 0);
    world.drain().await;
    assert_eq!(world.state(&plane).await, "PENDING_DEACTIVATE");
    let count = async |kind| world.entries(&plane, kind).await;
    assert_eq!((count("STAGE_FAILED").await, count("STAGE_STARTED").await, count("STAGE_RETRIED").await), (3, 4, 1));
    invariants::check(&world).await;
}

#[tokio::test]
async fn delays_vary_but_never_exceed_the_longest() {
    let world = World::with("[queue]\nattempts_max = 40\n[offboarding]\ngrace_min = \"0s\"").await;
    let plane = world.acme(3).await;
    world.request(&plane, "7d").await;
    let mut late = Vec::new();
    for attempt in 1..=30 {
        world.faults.fail(0, Failing::NotDone);
        world.drain().await;
        let wait = delay(&world, &plane).await;
        assert!(wait <= TimeDelta::hours(1), "attempt {attempt} waits {wait}");
        if attempt > 8 {
            assert!(wait >= TimeDelta::minutes(48), "attempt {attempt} waits {wait}");
            late.push(wait);
        }
        world.clock.advance(wait);
    }
    late.dedup();
    assert!(late.len() > 5, "they vary: {late:?}");
    invariants::check(&world).await;
}

#[tokio::test]
async fn every_stage_halts_where_it_stands_and_goes_on_after_a_retry() {
    for (step, state) in [
        ("deregister", "ACTIVE"),
        ("verify", "PENDING_DEACTIVATE"),
        ("deactivate", "PENDING_DEACTIVATE"),
        ("export", "DEACTIVATED"),
        ("evict", "DEACTIVATED"),
        ("purge", "ARCHIVED"),
    ] {
        let world = World::new().await;
        let plane = world.acme(3).await;
        world.reach(&plane, step).await;
        world.faults.fail_with(0, Failing::NotDone, PortError::Permanent("no such table".into()));
        world.drain().await;
        assert_eq!(world.run(&plane).await, (step.into(), "halted".into()));
        let status = offboarding(&world, &plane).await;
        assert_eq!((&status["attempt"], &status["last_error"]["code"]), (&json!(1), &json!("UNUSABLE")), "{step} halts at once");
        assert_eq!(world.state(&plane).await, state, "a failed {step} leaves the plane where it was");
        world.call("user:root", RETRY, reasoned(&plane)).await;
        world.drain().await;
        world.advance(TimeDelta::hours(1)).await;
        if step != "purge" {
            world.approve(&plane).await;
            world.drain().await;
        }
        assert_eq!(world.state(&plane).await, "PURGED", "after {step}: {}", world.status(&plane).await);
        invariants::check(&world).await;
    }
}

#[tokio::test]
async fn a_halted_restore_is_retried_too_and_nothing_starts_before_it_is_done() {
    let world = World::new().await;
    let plane = world.acme(3).await;
    world.request(&plane, "7d").await;
    world.drain().await;
    world.call("user:alice", "knowledge.offboarding.cancel", reasoned(&plane)).await;
    world.faults.fail_with(0, Failing::NotDone, PortError::Permanent("no such table".into()));
    world.drain().await;
    assert_eq!(world.run(&plane).await, ("restore".into(), "halted".into()));
    let again = crate::support::request(&plane, "7d");
    assert_eq!(world.code("user:alice", "knowledge.offboarding.request", again).await, "RESTORE_PENDING");
    world.call("user:root", RETRY, reasoned(&plane)).await;
    world.drain().await;
    world.write("p1").await.expect("open again");
    assert_eq!(world.code("user:root", RETRY, reasoned(&plane)).await, "NOTHING_HALTED");
    invariants::check(&world).await;
}

#[tokio::test]
async fn a_panic_in_a_driver_is_a_passing_failure_on_record() {
    let world = World::new().await;
    let plane = world.acme(3).await;
    world.request(&plane, "7d").await;
    world.faults.fail(1, Failing::Panics);
    world.drain().await;
    let status = offboarding(&world, &plane).await;
    assert_eq!(
        (&status["run_status"], &status["attempt"], &status["last_error"]["code"]),
        (&json!("queued"), &json!(1), &json!("PANIC"))
    );
    assert_eq!(world.last_entry().await["evidence"]["code"], "PANIC");
    world.advance(delay(&world, &plane).await).await;
    assert_eq!(world.state(&plane).await, "PENDING_DEACTIVATE");
    invariants::check(&world).await;
}

#[tokio::test]
async fn a_lost_worker_is_an_interruption_and_no_attempt() {
    let world = World::new().await;
    let plane = world.acme(3).await;
    world.request(&plane, "7d").await;
    world.faults.fail(0, Failing::NotDone);
    world.drain().await;
    world.clock.advance(TimeDelta::seconds(40));
    let lost = world.claim(&plane).await;
    world.clock.advance(TimeDelta::seconds(61));
    let report = world.app.manager.sweep().await.unwrap();
    assert_eq!((report.interrupted, report.halted), (1, 0));
    let status = offboarding(&world, &plane).await;
    assert_eq!((&status["attempt"], &status["interruptions"], &status["run_status"]), (&json!(1), &json!(1), &json!("queued")));
    assert_eq!(delay(&world, &plane).await, TimeDelta::zero(), "it was not the run's fault: no delay");
    world.drain().await;
    assert_eq!(world.state(&plane).await, "PENDING_DEACTIVATE");
    assert_eq!(world.finish(&lost).await, lethe_worker::manager::RecordResult::Stale);
    invariants::check(&world).await;
}

#[tokio::test]
async fn a_run_that_kills_its_process_every_time_ends_halted() {
    let world = World::new().await;
    let plane = world.acme(3).await;
    world.request(&plane, "7d").await;
    for crash in 1..=20 {
        world.claim(&plane).await;
        world.clock.advance(TimeDelta::seconds(61));
        let report = world.app.manager.sweep().await.unwrap();
        assert_eq!((report.interrupted, report.halted), (1, u64::from(crash == 20)), "crash {crash}");
    }
    let status = offboarding(&world, &plane).await;
    assert_eq!((&status["run_status"], &status["last_error"]["code"]), (&json!("halted"), &json!("CRASH_LOOP")));
    assert_eq!((&status["attempt"], &status["interruptions"]), (&json!(0), &json!(20)));
    world.advance(TimeDelta::days(1)).await;
    assert_eq!(world.run(&plane).await.1, "halted");
    world.call("user:root", RETRY, reasoned(&plane)).await;
    world.drain().await;
    assert_eq!(world.state(&plane).await, "PENDING_DEACTIVATE");
    invariants::check(&world).await;
}

#[tokio::test]
async fn what_a_driver_says_of_its_failure_stays_out_of_the_trail() {
    let world = World::new().await;
    let plane = world.acme(3).await;
    world.request(&plane, "7d").await;
    world.faults.fail_with(0, Failing::NotDone, PortError::Transient("row 7 says: Mrs Smith owes 40 EUR".into()));
    world.drain().await;
    assert!(offboarding(&world, &plane).await["last_error"]["message"].as_str().unwrap().contains("Mrs Smith"));
    assert_eq!(world.entries(&plane, "STAGE_FAILED").await, 1);
    assert_eq!(world.number("SELECT count(*) FROM trail WHERE body LIKE '%Smith%'").await, 0);
    let values = world.read(async |tx| tx.opened_values().await).await;
    assert!(!values.is_empty() && values.iter().all(|(_, _, value, _)| !value.contains("Smith")));
    invariants::check(&world).await;
}
