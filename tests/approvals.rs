//! Approvals: somebody else releases exactly one destruction plan, once, for a while; nothing else lets a purge begin.

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value as Json, json};

use crate::support::{World, invariants, request};

const GRANT: &str = "knowledge.approval.grant";
const DENY: &str = "knowledge.approval.deny";
const LIST: &str = "knowledge.approval.list";
const WITHDRAW: &str = "knowledge.approval.withdraw";

fn decision(plane: &str) -> Json {
    json!({"plane": plane, "reason": "looked into it"})
}

async fn statuses(world: &World) -> Vec<String> {
    world
        .texts(crate::support::ledger::either(
            "SELECT status FROM approvals ORDER BY rowid",
            "SELECT status FROM approvals ORDER BY place",
        ))
        .await
}

#[tokio::test]
async fn nothing_can_be_approved_before_the_plane_is_archived() {
    let world = World::new().await;
    let plane = world.acme(3).await;
    assert_eq!(world.code("user:bob", GRANT, decision(&plane)).await, "APPROVAL_TOO_EARLY", "no offboarding");
    world.request(&plane, "1h").await;
    assert_eq!(world.code("user:bob", GRANT, decision(&plane)).await, "APPROVAL_TOO_EARLY", "ACTIVE, draining");
    world.drain().await;
    assert_eq!(world.code("user:bob", DENY, decision(&plane)).await, "APPROVAL_TOO_EARLY", "in grace");
    world.call("user:root", "knowledge.control.pause", json!({"stage": "archive", "reason": "look first"})).await;
    world.advance(TimeDelta::hours(1)).await;
    assert_eq!(world.state(&plane).await, "DEACTIVATED");
    assert_eq!(world.code("user:bob", GRANT, decision(&plane)).await, "APPROVAL_TOO_EARLY", "DEACTIVATED");
    assert_eq!(world.blocked(&plane, "APPROVAL_TOO_EARLY").await, 4);
    assert_eq!(statuses(&world).await, [""; 0]);
    invariants::check(&world).await;
}

#[tokio::test]
async fn the_requester_approves_nothing_not_even_by_writing_the_row() {
    let world = World::new().await;
    let plane = world.acme(3).await;
    world.archived(&plane).await;
    assert_eq!(world.code("user:alice", GRANT, decision(&plane)).await, "APPROVAL_BY_SELF");
    assert_eq!(world.code("user:alice", DENY, decision(&plane)).await, "APPROVAL_BY_SELF");
    world.drain().await;
    assert_eq!(world.run(&plane).await, ("purge".into(), "parked".into()));
    world.approve(&plane).await;
    let forged = world.try_sql("UPDATE approvals SET approved_by = requested_by").await;
    assert!(forged.is_err_and(|said| said.to_lowercase().contains("check")), "the schema refuses it too");
    invariants::check(&world).await;
}

#[tokio::test]
async fn a_second_decision_is_refused_until_the_first_is_withdrawn() {
    let world = World::new().await;
    let plane = world.acme(3).await;
    world.archived(&plane).await;
    world.approve(&plane).await;
    assert_eq!(world.code("user:carol", GRANT, decision(&plane)).await, "APPROVAL_EXISTS");
    assert_eq!(world.code("user:carol", DENY, decision(&plane)).await, "APPROVAL_EXISTS");
    world.call("user:bob", WITHDRAW, decision(&plane)).await;
    assert_eq!(world.code("user:bob", WITHDRAW, decision(&plane)).await, "APPROVAL_UNKNOWN");
    world.drain().await;
    assert_eq!(world.state(&plane).await, "ARCHIVED", "a withdrawn approval releases nothing");
    assert_eq!(world.blocked_by(&plane).await, ["APPROVAL_REQUIRED"]);
    world.call("user:carol", GRANT, decision(&plane)).await;
    world.drain().await;
    assert_eq!(world.state(&plane).await, "PURGED");
    assert_eq!(statuses(&world).await, ["withdrawn", "consumed"]);
    assert_eq!(world.entries(&plane, "APPROVAL_WITHDRAWN").await, 1);
    invariants::check(&world).await;
}

#[tokio::test]
async fn a_denial_is_final_for_its_plan_and_retry_makes_another_plan() {
    let world = World::new().await;
    let plane = world.acme(3).await;
    world.archived(&plane).await;
    let denied = world.call("user:bob", DENY, decision(&plane)).await["plan_digest"].clone();
    assert_eq!(world.code("user:carol", GRANT, decision(&plane)).await, "APPROVAL_DENIED");
    world.drain().await;
    assert_eq!(world.blocked_by(&plane).await, ["APPROVAL_DENIED"]);
    world.advance(TimeDelta::days(30)).await;
    assert_eq!(world.state(&plane).await, "ARCHIVED", "no time heals a denial");

    world.call("user:alice", "knowledge.offboarding.retry", decision(&plane)).await;
    world.drain().await;
    assert_eq!(world.blocked_by(&plane).await, ["APPROVAL_REQUIRED"], "the new plan waits for its own decision");
    let granted = world.call("user:carol", GRANT, decision(&plane)).await["plan_digest"].clone();
    assert_ne!(granted, denied);
    world.drain().await;
    assert_eq!(world.state(&plane).await, "PURGED");
    assert_eq!(statuses(&world).await, ["denied", "consumed"]);
    invariants::check(&world).await;
}

#[tokio::test]
async fn an_approval_ends_to_the_second_and_the_sweep_says_so_once() {
    let world = World::new().await;
    let plane = world.acme(3).await;
    world.archived(&plane).await;
    world.call("user:root", "knowledge.control.pause", json!({"all": true, "reason": "change freeze"})).await;
    let granted = world.approve(&plane).await;
    let expires: DateTime<Utc> = granted["expires_at"].as_str().unwrap().parse().unwrap();
    assert_eq!(expires - world.app.ledger.now(), TimeDelta::days(14), "as configured, from the grant");
    world.clock.advance(TimeDelta::days(14));
    // The gate judges for itself, whether a sweep has been here or not.
    world.call("user:root", "knowledge.control.resume", json!({"all": true})).await;
    world.drain().await;
    assert_eq!(world.state(&plane).await, "ARCHIVED");
    assert_eq!(world.blocked(&plane, "APPROVAL_EXPIRED").await, 1);
    for _ in 0..3 {
        world.advance(TimeDelta::minutes(1)).await;
    }
    assert_eq!(world.entries(&plane, "APPROVAL_EXPIRED").await, 1);
    assert_eq!(statuses(&world).await, ["expired"]);
    world.approve(&plane).await;
    world.drain().await;
    assert_eq!(world.state(&plane).await, "PURGED", "a new grant is possible");
    invariants::check(&world).await;
}

#[tokio::test]
async fn a_grant_over_an_expired_one_closes_it_on_record_without_a_sweep() {
    let world = World::new().await;
    let plane = world.acme(3).await;
    world.archived(&plane).await;
    world.call("user:root", "knowledge.control.pause", json!({"stage": "purge", "reason": "change freeze"})).await;
    world.approve(&plane).await;
    world.clock.advance(TimeDelta::days(14));
    world.call("user:carol", GRANT, decision(&plane)).await;
    assert_eq!(statuses(&world).await, ["expired", "granted"]);
    assert_eq!(world.entries(&plane, "APPROVAL_EXPIRED").await, 1);
    invariants::check(&world).await;
}

#[tokio::test]
async fn an_approval_releases_the_plan_it_was_given_for_and_no_other() {
    let world = World::new().await;
    let plane = world.acme(3).await;
    world.archived(&plane).await;
    world.approve(&plane).await;
    let approved = world.texts("SELECT plan_digest FROM offboardings").await.remove(0);
    world.sql("UPDATE offboardings SET plan_digest = 'sha256:another'").await;
    world.drain().await;
    assert_eq!((world.state(&plane).await.as_str(), world.blocked(&plane, "PLAN_CHANGED").await), ("ARCHIVED", 1));
    assert_eq!(statuses(&world).await, ["granted"], "it was not used up");
    world.sql(&format!("UPDATE offboardings SET plan_digest = '{approved}'")).await;
    world.advance(TimeDelta::minutes(1)).await;
    assert_eq!(world.state(&plane).await, "PURGED");
    invariants::check(&world).await;
}

#[tokio::test]
async fn an_approval_is_used_up_by_the_claim_and_covers_the_same_purge_after_a_crash() {
    let world = World::new().await;
    let plane = world.acme(3).await;
    world.archived(&plane).await;
    world.approve(&plane).await;
    let lost = world.claim(&plane).await;
    assert!(lost.permit.is_some());
    assert_eq!(statuses(&world).await, ["consumed"], "before anything is destroyed");
    assert_eq!(world.code("user:bob", WITHDRAW, decision(&plane)).await, "APPROVAL_UNKNOWN", "it has been used");
    // The worker dies; long after the approval would have expired, the purge goes on under it.
    world.advance(TimeDelta::days(20)).await;
    assert_eq!(world.state(&plane).await, "PURGED");
    assert_eq!(statuses(&world).await, ["consumed"]);
    assert_eq!(world.entries(&plane, "APPROVAL_EXPIRED").await, 0);
    invariants::check(&world).await;
}

#[tokio::test]
async fn a_cancelled_offboarding_leaves_no_approval_behind_for_the_next_one() {
    let world = World::new().await;
    let plane = world.acme(3).await;
    world.request(&plane, "1h").await;
    world.drain().await;
    world.call("user:alice", "knowledge.offboarding.cancel", decision(&plane)).await;
    world.drain().await;
    world.archived(&plane).await;
    // An approval that names the cancelled offboarding releases nothing of this one, whatever its digest.
    let left = "00000000-0000-0000-0000-0000000000aa";
    let later = crate::support::ledger::either("9000000000000000", "'2255-01-01'");
    world
        .sql(&format!(
            "INSERT INTO approvals (id, offboarding_id, plan_digest, status, requested_by, approved_by, identity_assurance, reason,
                decided_at, expires_at) SELECT '{left}', old.id, now.plan_digest, 'granted', 'user:alice', 'user:bob', 'asserted', 'r',
                old.requested_at, {later} FROM offboardings old, offboardings now
             WHERE old.status = 'cancelled' AND now.status = 'open' AND now.plane_id = '{plane}'"
        ))
        .await;
    world.advance(TimeDelta::minutes(1)).await;
    assert_eq!((world.state(&plane).await.as_str(), world.blocked(&plane, "APPROVAL_REQUIRED").await), ("ARCHIVED", 1));
    world.sql(&format!("DELETE FROM approvals WHERE id = '{left}'")).await;
    invariants::check(&world).await;
}

#[tokio::test]
async fn an_approval_given_during_the_retention_waits_for_its_end_and_lasts_beyond_it() {
    let world = World::new().await;
    let plane = world.acme(3).await;
    let mut terms = request(&plane, "1h");
    terms["retention"] = json!("365d");
    world.call("user:alice", "knowledge.offboarding.request", terms).await;
    world.drain().await;
    world.advance(TimeDelta::hours(1)).await;
    assert_eq!(world.state(&plane).await, "ARCHIVED");
    let granted = world.approve(&plane).await;
    let until: DateTime<Utc> =
        world.status(&plane).await["offboarding"]["deadlines"]["retention_until"].as_str().unwrap().parse().unwrap();
    let expires: DateTime<Utc> = granted["expires_at"].as_str().unwrap().parse().unwrap();
    assert_eq!(expires - until, TimeDelta::days(14));
    world.advance(TimeDelta::days(365) - TimeDelta::seconds(1)).await;
    assert_eq!(world.state(&plane).await, "ARCHIVED", "a second before the end of the retention");
    assert_eq!(world.blocked_by(&plane).await, ["RETENTION_ACTIVE"]);
    world.advance(TimeDelta::seconds(1)).await;
    assert_eq!(world.state(&plane).await, "PURGED");
    invariants::check(&world).await;
}

#[tokio::test]
async fn an_identity_that_is_only_asserted_is_too_little_where_signatures_are_asked_for() {
    let world = World::with("[approval]\nassurance_min = \"signed\"").await;
    let plane = world.acme(3).await;
    world.archived(&plane).await;
    assert_eq!(world.code("user:bob", GRANT, decision(&plane)).await, "ASSURANCE_TOO_LOW");
    world.drain().await;
    assert_eq!((world.state(&plane).await.as_str(), world.blocked(&plane, "ASSURANCE_TOO_LOW").await), ("ARCHIVED", 1));
    invariants::check(&world).await;
}

#[tokio::test]
async fn what_waits_for_a_decision_is_listed_with_the_plan_to_decide_on() {
    let world = World::new().await;
    let plane = world.acme(3).await;
    world.archived(&plane).await;
    let listed = world.call("user:bob", "knowledge.approval.list", json!({})).await;
    let waiting = &listed["waiting"][0];
    assert_eq!((&waiting["plane_id"], &waiting["plan"]["archive_rows"]), (&json!(plane), &json!(3)));
    let plan: lethe_stages::destruction::DestructionPlan = serde_json::from_value(waiting["plan"].clone()).unwrap();
    assert_eq!(json!(plan.digest()), waiting["plan_digest"], "anybody can recompute what is approved");
    world.approve(&plane).await;
    let listed = world.call("user:bob", "knowledge.approval.list", json!({})).await;
    assert_eq!((listed["waiting"].as_array().unwrap().len(), listed["approvals"].as_array().unwrap().len()), (0, 1));
    invariants::check(&world).await;
}

#[tokio::test]
async fn a_long_list_of_what_waits_is_read_page_by_page_each_plan_once_and_the_most_urgent_first() {
    let world = World::new().await;
    let mut planes = vec![world.acme(2).await];
    for number in 3..8 {
        planes.push(world.register("acme", &format!("plane{number}"), &format!("p{number}")).await);
    }
    for (days, plane) in planes.iter().enumerate() {
        let mut terms = request(plane, "1h");
        terms["retention"] = json!(format!("{}d", 10 - days));
        terms["retention_basis"] = json!("tax");
        world.call("user:alice", "knowledge.offboarding.request", terms).await;
    }
    world.drain().await;
    world.advance(TimeDelta::hours(1)).await;
    // Bob's own approval is nothing to him any more, nor is it to anybody who may approve where one suffices.
    world.approve(&planes[2]).await;
    let denied = json!({"plane": planes[3], "reason": "not this one"});
    world.call("user:bob", "knowledge.approval.deny", denied).await;
    let list = async |arguments: Json| world.call("user:bob", LIST, arguments).await;
    let shown = |page: &Json| -> Vec<String> {
        let waiting = page["waiting"].as_array().expect("plans");
        waiting.iter().map(|plan| plan["plane_id"].as_str().expect("an id").to_owned()).collect()
    };
    let urgent: Vec<String> = [5, 4, 1, 0].map(|number: usize| planes[number].clone()).into();
    let all = list(json!({"mine": true})).await;
    assert_eq!((shown(&all), all.get("next")), (urgent.clone(), None));
    let (mut found, mut pages, mut arguments) = (Vec::new(), 0, json!({"mine": true, "limit": 2}));
    loop {
        let page = list(arguments.clone()).await;
        let here = shown(&page);
        assert!(here.len() <= 2, "{page}");
        found.extend(here);
        pages += 1;
        let Some(next) = page.get("next") else { break };
        arguments["after"] = next.clone();
    }
    assert_eq!(found, urgent, "in {pages} pages");
    assert!(pages >= 2);
    // Another one's list, and one plane's.
    assert_eq!(shown(&world.call("user:alice", LIST, json!({"mine": true})).await), Vec::<String>::new(), "her own requests");
    assert_eq!(shown(&list(json!({"plane": planes[4]})).await), [planes[4].clone()]);
    let one = list(json!({"limit": 1})).await;
    assert_eq!((one["approvals"].as_array().map(Vec::len), one["earlier_approvals"].is_string()), (Some(1), true), "{one}");
    for wrong in [json!({"limit": 0}), json!({"limit": 1001}), json!({"after": "yesterday"})] {
        assert_eq!(world.code("user:bob", LIST, wrong.clone()).await, "INVALID_ARGUMENT", "{wrong}");
    }
    invariants::check(&world).await;
}
