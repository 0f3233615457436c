//! Exceptions: a grace period cut short owes a review and skips nothing else; protection only grows; holds of one matter.

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value as Json, json};

use crate::support::{World, invariants};

const BREAK: &str = "knowledge.offboarding.break_glass";
const REVIEW: &str = "knowledge.offboarding.review";

fn reasoned(plane: &str) -> Json {
    json!({"plane": plane, "reason": "the regulator waits"})
}

#[tokio::test]
async fn breaking_the_glass_skips_the_wait_and_owes_a_review_by_somebody_else() {
    let world = World::new().await;
    let plane = world.acme(3).await;
    assert_eq!(world.code("user:root", REVIEW, reasoned(&plane)).await, "REVIEW_UNKNOWN");
    world.request(&plane, "7d").await;
    world.drain().await;
    assert_eq!(world.state(&plane).await, "PENDING_DEACTIVATE");
    assert_eq!(world.code("sdk:bot", BREAK, reasoned(&plane)).await, "NOT_AUTHORISED", "people break glass");
    world.call("user:root", BREAK, reasoned(&plane)).await;
    assert_eq!(world.code("user:root", BREAK, reasoned(&plane)).await, "ALREADY_IN_STATE");
    assert_eq!(world.entries(&plane, "BREAK_GLASS").await, 1);
    let mine = world.call("user:bob", "knowledge.approval.list", json!({"mine": true})).await;
    assert_eq!(mine["reviews"][0]["plane_id"], json!(plane), "every approver sees it: {mine}");
    let own = world.call("user:root", "knowledge.approval.list", json!({"mine": true})).await;
    assert_eq!(own["reviews"], json!([]), "but for whoever owes it");
    world.drain().await;
    assert_eq!(world.state(&plane).await, "ARCHIVED", "without a day of waiting: {}", world.status(&plane).await);
    assert_eq!(world.code("user:root", BREAK, reasoned(&plane)).await, "TRANSITION_NOT_ALLOWED", "there is no grace left");
    // The purge is asked for as ever.
    world.advance(TimeDelta::days(1)).await;
    assert_eq!(world.state(&plane).await, "ARCHIVED");
    assert_eq!(world.code("user:root", REVIEW, reasoned(&plane)).await, "REVIEW_BY_SELF");
    world.call("user:bob", REVIEW, json!({"plane": plane, "reason": "the letter is on file"})).await;
    assert_eq!(world.code("user:bob", REVIEW, reasoned(&plane)).await, "REVIEW_UNKNOWN", "once");
    assert_eq!(world.entries(&plane, "REVIEWED").await, 1);
    let forged = world.try_sql("UPDATE break_glass SET reviewed_by = broken_by").await;
    assert!(forged.is_err_and(|said| said.to_lowercase().contains("check")), "the schema refuses it too");
    invariants::check(&world).await;
}

#[tokio::test]
async fn broken_glass_waits_for_usage_all_the_same() {
    let world = World::new().await;
    let plane = world.acme(3).await;
    world.request(&plane, "7d").await;
    world.drain().await;
    let open = json!({"plane": plane, "kind": "query", "holder": "app", "ttl": "1h"});
    let usage = world.call("sdk:app", "knowledge.usage.open", open).await;
    world.call("user:root", BREAK, reasoned(&plane)).await;
    world.drain().await;
    assert_eq!(world.state(&plane).await, "PENDING_DEACTIVATE");
    assert_eq!(world.blocked_by(&plane).await, ["ACTIVE_USAGE"]);
    // It can still be cancelled, too.
    world.call("sdk:app", "knowledge.usage.close", json!({"usage_id": usage["usage_id"]})).await;
    world.call("user:alice", "knowledge.offboarding.cancel", reasoned(&plane)).await;
    world.drain().await;
    assert_eq!(world.state(&plane).await, "ACTIVE");
    // Another offboarding has a grace period of its own.
    world.request(&plane, "7d").await;
    world.drain().await;
    world.drain().await;
    assert_eq!(world.state(&plane).await, "PENDING_DEACTIVATE");
    invariants::check(&world).await;
}

#[tokio::test]
async fn a_protected_tenant_is_purged_by_nobody_before_the_date() {
    let world = World::new().await;
    let plane = world.acme(3).await;
    let until: DateTime<Utc> = world.app.ledger.now() + TimeDelta::days(40);
    let protect = |until: DateTime<Utc>| json!({"name": "acme", "until": until, "reason": "merger"});
    world.call("user:root", "account.tenant.protect", protect(until)).await;
    for sooner in [until, until - TimeDelta::seconds(1)] {
        assert_eq!(world.code("user:root", "account.tenant.protect", protect(sooner)).await, "PURGE_PROTECTED");
    }
    let forced = world.try_sql("UPDATE tenants SET protected_until = NULL").await;
    assert!(forced.is_err_and(|said| said.contains("never shortened")), "not even by hand");
    let erasure = json!({"plane": plane, "ground": "erasure_request", "reason": "asked", "grace": "1d"});
    assert_eq!(
        world.code("user:alice", "knowledge.offboarding.request", erasure).await,
        "DUE_DATE_UNREACHABLE",
        "both dates are law"
    );
    world.archived(&plane).await;
    world.approve(&plane).await;
    world.drain().await;
    assert_eq!(world.blocked_by(&plane).await, ["PURGE_PROTECTED"]);
    world.advance(TimeDelta::days(10)).await;
    assert_eq!(world.state(&plane).await, "ARCHIVED");
    world.call("user:root", "account.tenant.protect", protect(until + TimeDelta::days(1))).await;
    world.clock.advance(until - world.app.ledger.now());
    world.app.manager.sweep().await.expect("swept");
    world.drain().await;
    assert_eq!(world.state(&plane).await, "ARCHIVED", "it was prolonged");
    // The approval has expired by now; the date lets the purge be asked for again.
    world.advance(TimeDelta::days(2)).await;
    world.approve(&plane).await;
    world.drain().await;
    assert_eq!(world.state(&plane).await, "PURGED");
    invariants::check(&world).await;
}

#[tokio::test]
async fn the_holds_of_a_matter_are_placed_together_and_released_together_by_a_second_person() {
    let world = World::with("[hold]\nrelease_by_other = true\n").await;
    let (plane, other) = (world.acme(3).await, "globex/handbook");
    world.archived(&plane).await;
    world.approve(&plane).await;
    let review = world.app.ledger.now() + TimeDelta::days(90);
    let place = json!({"planes": [plane, other], "matter": "acme-v-globex", "authority": "district court", "review_at": review, "reason": "letter of 1 March"});
    let placed = world.call("user:lena", "knowledge.hold.place", place.clone()).await;
    assert_eq!(placed["placed"].as_array().map(Vec::len), Some(2), "{placed}");
    let mut unnamed = place;
    unnamed["matter"] = Json::Null;
    assert_eq!(world.code("user:lena", "knowledge.hold.place", unnamed).await, "INVALID_ARGUMENT", "several are of one matter");
    world.drain().await;
    assert_eq!(world.state(&plane).await, "ARCHIVED");
    assert_eq!(world.blocked_by(&plane).await, ["HOLD_ACTIVE"]);
    let release = json!({"matter": "acme-v-globex", "reason": "settled"});
    assert_eq!(world.code("user:lena", "knowledge.hold.release", release.clone()).await, "RELEASE_BY_SELF");
    assert_eq!(world.state(&plane).await, "ARCHIVED");
    let released = world.call("user:max", "knowledge.hold.release", release.clone()).await;
    assert_eq!(released["holds"].as_array().map(Vec::len), Some(2), "{released}");
    assert_eq!(world.code("user:max", "knowledge.hold.release", release).await, "HOLD_UNKNOWN");
    world.drain().await;
    assert_eq!(world.state(&plane).await, "PURGED");
    invariants::check(&world).await;
}
