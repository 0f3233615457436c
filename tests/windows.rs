//! Store windows: long work in a store begins and goes on only at the hours that the store allows, and spends no attempt by waiting.

use chrono::TimeDelta;
use serde_json::json;

use crate::support::{World, beginning, invariants};

/// The world begins on a Sunday at nine.
const NIGHTS: &str = "[store]\nwindow = \"22:00-06:00\"\n[archive]\npart_rows_max = 10\n";

#[tokio::test]
async fn a_store_is_exported_evicted_and_purged_at_its_hours_only() {
    let world = World::with(NIGHTS).await;
    let plane = world.acme(30).await;
    world.request(&plane, "1h").await;
    world.drain().await;
    world.advance(TimeDelta::hours(1)).await;
    let status = world.status(&plane).await;
    assert_eq!(
        (&status["state"], &status["offboarding"]["step"]),
        (&json!("DEACTIVATED"), &json!("export")),
        "what is short is done at once"
    );
    assert_eq!(status["offboarding"]["blocked_by"][0]["until"], "2026-03-01T22:00:00Z");
    assert_eq!(status["offboarding"]["due_at"], "2026-03-01T11:00:00Z", "looked at every hour: the hours may change");
    assert_eq!(world.blocked_by(&plane).await, ["STORE_WINDOW"]);
    world.advance(TimeDelta::hours(11)).await;
    assert_eq!(world.state(&plane).await, "DEACTIVATED", "an hour is left");
    world.advance(TimeDelta::hours(1)).await;
    assert_eq!(world.state(&plane).await, "ARCHIVED");
    // By day again; the purge waits for an approval and, once it has one, for the night.
    world.advance(TimeDelta::hours(12)).await;
    assert_eq!(world.blocked_by(&plane).await, ["APPROVAL_REQUIRED"]);
    world.approve(&plane).await;
    world.drain().await;
    assert_eq!(
        (world.state(&plane).await.as_str(), world.blocked_by(&plane).await),
        ("ARCHIVED", vec!["STORE_WINDOW".to_owned()])
    );
    world.advance(TimeDelta::hours(12)).await;
    assert_eq!(world.state(&plane).await, "PURGED");
    assert_eq!(world.entries(&plane, "STAGE_FAILED").await, 0);
    assert_eq!(world.blocked(&plane, "STORE_WINDOW").await, 0, "time passing as planned is no event");
    invariants::check(&world).await;
}

#[tokio::test]
async fn long_work_stops_between_two_batches_when_the_hours_are_over_and_goes_on_at_the_next() {
    let world = World::with(NIGHTS).await;
    let plane = world.acme(60).await;
    world.reach(&plane, "deactivate").await;
    world.finish(&world.claim(&plane).await).await;
    world.clock.advance(beginning() + TimeDelta::hours(20) - world.app.ledger.now());
    let claimed = world.claim(&plane).await;
    // While it works, its hour comes: after some pages the clock shows six.
    let clock = world.clock.clone();
    world.faults.on_call("store.page", 3, move || clock.advance(TimeDelta::hours(2)));
    world.finish(&claimed).await;
    let offboarding = &world.status(&plane).await["offboarding"];
    assert_eq!((&offboarding["step"], &offboarding["run_status"]), (&json!("export"), &json!("queued")), "{offboarding}");
    assert_eq!((&offboarding["attempt"], &offboarding["due_at"]), (&json!(0), &json!("2026-03-02T08:00:00Z")));
    let pages = world.faults.calls().iter().filter(|verb| **verb == "store.page").count();
    assert!((3..=6).contains(&pages), "it stopped soon: {pages} pages");
    world.advance(TimeDelta::hours(17)).await;
    assert_eq!(world.state(&plane).await, "ARCHIVED", "{}", world.status(&plane).await);
    assert_eq!(world.entries(&plane, "STAGE_FAILED").await, 0);
    invariants::check(&world).await;
}

#[tokio::test]
async fn windows_that_never_meet_are_said_to() {
    let world = World::with("[store]\nwindow = \"22:00-06:00\"\n[stores.kb2]\nwindow = \"12:00-13:00\"\n").await;
    world.acme(5).await;
    let file = world.dir.path().join("second.db");
    crate::support::knowledge::create(&file, &[("q1", 5)]).await;
    let url = format!("sqlite:{}", file.display());
    world.call("user:root", "integrations.store.add", json!({"name": "kb2", "url": url, "tenants": ["acme"]})).await;
    let mut both = world.binding("acme", "both", "p9");
    let second = "kb2?table=chunks&plane_column=plane&plane=q1&key=id&text=body&embedding=embedding";
    both["stores"] = json!([both["stores"][0], second]);
    let plane = world.call("user:root", "knowledge.plane.register", both).await["plane_id"].as_str().unwrap().to_owned();
    world.request(&plane, "1h").await;
    world.drain().await;
    world.advance(TimeDelta::hours(1)).await;
    let blocked = world.status(&plane).await["offboarding"]["blocked_by"][0].clone();
    assert!(blocked["message"].as_str().unwrap().contains("share no hour"), "{blocked}");
    // The way back: windows that meet, and the run is looked at again at its next opening.
    let world = world.reopened("[stores.kb2]\nwindow = \"00:00-24:00\"\n").await;
    world.advance(TimeDelta::hours(14)).await;
    assert_eq!(world.state(&plane).await, "ARCHIVED", "{}", world.status(&plane).await);
}
