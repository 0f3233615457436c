//! The path: a plane goes from ACTIVE to PURGED, each stage does what it must, and a cancel brings back exactly what was suspended.

use chrono::TimeDelta;
use serde_json::json;

use crate::support::{World, invariants, knowledge};

#[tokio::test]
async fn a_plane_is_drained_archived_approved_and_purged_and_its_neighbour_does_not_change() {
    let world = World::new().await;
    let plane = world.acme(50).await;
    let file = world.dir.path().join("knowledge.db");
    let neighbour = knowledge::digest(&file, "p2").await;
    assert!(world.occurs("marker-p1-7 ") > 0, "the marker is there to be found");

    world.request(&plane, "7d").await;
    world.drain().await;
    assert_eq!(world.state(&plane).await, "PENDING_DEACTIVATE");
    world.advance(TimeDelta::days(7) - TimeDelta::seconds(1)).await;
    assert_eq!(world.state(&plane).await, "PENDING_DEACTIVATE", "a second before the end of grace");
    world.advance(TimeDelta::seconds(1)).await;
    let status = world.status(&plane).await;
    assert_eq!((&status["state"], &status["offboarding"]["run_status"]), (&json!("ARCHIVED"), &json!("parked")));
    assert_eq!(status["offboarding"]["blocked_by"][0]["code"], "APPROVAL_REQUIRED");
    assert_eq!(status["offboarding"]["stores"][0]["rows_exported"], 50);
    assert_eq!(status["offboarding"]["stores"][0]["rows_remaining"], 0);

    world.call("user:bob", "knowledge.approval.grant", json!({"plane": plane, "reason": "checked"})).await;
    world.drain().await;
    assert_eq!(world.state(&plane).await, "PURGED");
    assert_eq!(world.state("acme/handbook").await, "PURGED", "who knows the name still finds the tombstone");
    assert_eq!(knowledge::digest(&file, "p1").await.0, 0);
    assert_eq!(knowledge::digest(&file, "p2").await, neighbour);
    assert!(world.app.ledger.truncate_wal().await.expect("truncate"));
    for marker in ["marker-p1-7 ", "marker-p1-49 "] {
        assert_eq!(world.occurs(marker), 0, "{marker} in the raw bytes");
    }
    invariants::check(&world).await;
}
