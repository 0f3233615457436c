//! Legal deadlines: computed by the calendar, frozen, shown, extended once where the law allows it, and listed with what holds them up.

use chrono::TimeDelta;
use serde_json::{Value as Json, json};

use crate::support::{World, faults::Failing, invariants};

const REQUEST: &str = "knowledge.offboarding.request";
const EXTEND: &str = "knowledge.offboarding.extend";

/// A person's demand that arrived today; the world begins on the first of March.
fn demand(plane: &str) -> Json {
    json!({"plane": plane, "ground": "erasure_request", "reason": "a letter", "grace": "1h"})
}

/// What is due; these worlds have no channel for notices, which is said too.
async fn due(world: &World, arguments: Json) -> Vec<Json> {
    let due = world.call("user:alice", "knowledge.due.list", arguments).await["due"].as_array().expect("a list").clone();
    due.into_iter().filter(|one| one["kind"] != "notices_waiting").collect()
}

fn told(plane: &str, when: &str) -> Json {
    json!({"plane": plane, "reason": "many systems hold it", "told": when})
}

#[tokio::test]
async fn a_deadline_is_counted_in_the_laws_own_days_and_shown_everywhere() {
    let world = World::with("[laws.lgpd]\ndue = \"15 days\"\nzone = \"America/Sao_Paulo\"").await;
    let plane = world.acme(2).await;
    let mut asked = demand(&plane);
    asked["law"] = json!("lgpd");
    // Late in the evening in São Paulo, the next day already elsewhere.
    asked["received_at"] = json!("2026-02-28T02:30:00Z");
    let preview = world.call("user:alice", "knowledge.offboarding.preview", asked.clone()).await;
    assert_eq!(preview["plan"]["deadline"]["first"]["on"], "2026-03-14", "fifteen days from the 27th");
    let opened = world.call("user:alice", REQUEST, asked.clone()).await;
    let deadline = &opened["offboarding"]["deadline"];
    assert_eq!((&deadline["law"], &deadline["zone"]), (&json!("lgpd"), &json!("America/Sao_Paulo")));
    assert_eq!((&deadline["due_on"], &deadline["due_at"]), (&json!("2026-03-14"), &json!("2026-03-15T03:00:00Z")));
    assert_eq!(world.call("user:alice", REQUEST, asked.clone()).await["repeated"], true);
    asked["law"] = json!("gdpr");
    assert_eq!(world.code("user:alice", REQUEST, asked).await, "OFFBOARDING_OPEN", "under another law it is another request");
    invariants::check(&world).await;
}

#[tokio::test]
async fn a_day_of_arrival_is_a_day_where_the_law_is_counted() {
    let world = World::with("[due]\nzone = \"Pacific/Auckland\"").await;
    let plane = world.acme(2).await;
    let mut asked = demand(&plane);
    // There it is the first of March late in the evening.
    asked["received_at"] = json!("2026-03-02");
    assert_eq!(world.code("user:alice", REQUEST, asked.clone()).await, "INVALID_ARGUMENT", "yet to come");
    asked["received_at"] = json!("2026-03-01");
    let opened = world.call("user:alice", REQUEST, asked).await;
    assert_eq!(opened["offboarding"]["deadlines"]["received_at"], "2026-02-28T11:00:00Z");
    assert_eq!(opened["offboarding"]["deadline"]["due_on"], "2026-04-01");
    for wrong in ["yesterday", "2026-02-30", "2026-03-01T09:00"] {
        let mut asked = demand("globex/handbook");
        asked["received_at"] = json!(wrong);
        let refused = world.refused("user:alice", REQUEST, asked).await;
        assert!(refused.message.contains(wrong), "{refused}");
    }
}

#[tokio::test]
async fn a_date_of_ones_own_may_be_nearer_than_the_laws_and_not_later() {
    let world = World::new().await;
    let plane = world.acme(2).await;
    let mut asked = demand(&plane);
    asked["due_on"] = json!("2026-04-02");
    let refused = world.refused("user:alice", REQUEST, asked.clone()).await;
    assert!(refused.message.contains("2026-04-01"), "{refused}");
    asked["law"] = json!("none");
    let preview = world.call("user:alice", "knowledge.offboarding.preview", asked.clone()).await;
    assert_eq!(preview["plan"]["deadline"]["law"], "own");
    asked["law"] = json!("unheard");
    let refused = world.refused("user:alice", REQUEST, asked.clone()).await;
    assert!(refused.message.contains("ccpa, gdpr, none"), "{refused}");
    asked["law"] = json!("gdpr");
    asked["due_on"] = json!("2026-03-20");
    let opened = world.call("user:alice", REQUEST, asked).await;
    assert_eq!(opened["offboarding"]["deadline"]["due_on"], "2026-03-20");
    assert_eq!(world.code("user:carol", EXTEND, told(&plane, "2026-03-01")).await, "EXTENSION_NOT_ALLOWED", "it is no law's");
    // A contract's end has no legal date unless somebody names one.
    let mut ended = json!({"plane": "globex/handbook", "ground": "contract_end", "reason": "r", "grace": "1h"});
    assert_eq!(world.code("user:carol", EXTEND, told("globex/handbook", "2026-03-01")).await, "NO_DEADLINE");
    ended["due_on"] = json!("2027-12-31");
    let opened = world.call("user:alice", REQUEST, ended).await;
    assert_eq!(opened["offboarding"]["deadline"]["due_at"], "2028-01-01T00:00:00Z");
    invariants::check(&world).await;
}

#[tokio::test]
async fn a_deadline_is_extended_once_and_only_if_the_person_was_told_in_time() {
    let world = World::new().await;
    let plane = world.acme(2).await;
    world.call("user:alice", REQUEST, demand(&plane)).await;
    world.drain().await;
    world.advance(TimeDelta::days(20)).await;
    for (wrong, why) in [("2026-02-27", "before the demand"), ("2026-03-22", "yet to come")] {
        assert_eq!(world.code("user:carol", EXTEND, told(&plane, wrong)).await, "INVALID_ARGUMENT", "{why}");
    }
    let extended = world.call("user:carol", EXTEND, told(&plane, "2026-03-20T10:00:00Z")).await;
    let deadline = &extended["offboarding"]["deadline"];
    assert_eq!((&deadline["due_on"], &deadline["first_due_on"]), (&json!("2026-06-01"), &json!("2026-04-01")));
    assert_eq!(extended["offboarding"]["deadlines"]["legal_due_at"], "2026-06-02T00:00:00Z");
    assert_eq!(world.code("user:carol", EXTEND, told(&plane, "2026-03-20")).await, "EXTENSION_NOT_ALLOWED", "once");
    assert!(world.trail(&plane).await.contains(&"DEADLINE_EXTENDED".to_owned()));
    // The schema says so too, to whoever goes past the program.
    for wrong in ["due_at = due_at + 1", "first_due_on = '2027-01-01'", "extended_at = NULL", "law = 'none'"] {
        let wrong = if crate::ON_POSTGRES { wrong.replace("+ 1", "+ interval '1 day'") } else { wrong.to_owned() };
        assert!(world.try_sql(&format!("UPDATE deadlines SET {wrong}")).await.is_err(), "{wrong}");
    }

    let late = world.register("acme", "late", "p3").await;
    world.call("user:alice", REQUEST, demand(&late)).await;
    world.drain().await;
    world.advance(TimeDelta::days(40)).await;
    assert_eq!(
        world.code("user:carol", EXTEND, told(&late, "2026-03-25")).await,
        "EXTENSION_NOT_ALLOWED",
        "its month has passed"
    );
    invariants::check(&world).await;
}

#[tokio::test]
async fn what_is_late_or_at_risk_is_listed_with_what_holds_it_up() {
    let world = World::new().await;
    let plane = world.acme(2).await;
    world.call("user:alice", REQUEST, demand(&plane)).await;
    world.drain().await;
    assert_eq!(due(&world, json!({})).await, Vec::<Json>::new(), "a month is left, and nothing stands in the way");
    let all = due(&world, json!({"all": true})).await;
    assert_eq!((&all[0]["standing"], &all[0]["plane"]), (&json!("on_track"), &json!("acme/handbook")));
    assert_eq!(all[0]["earliest_purge"], "2026-03-01T10:00:00Z");
    assert_eq!(due(&world, json!({"within": "40d"})).await.len(), 1);
    assert_eq!(due(&world, json!({"all": true, "tenant": "globex"})).await.len(), 0);

    world.advance(TimeDelta::hours(1)).await;
    world.call("user:lena", "knowledge.hold.place", json!({"plane": plane, "reason": "a lawsuit"})).await;
    world.advance(TimeDelta::days(25)).await;
    let risk = due(&world, json!({})).await;
    assert_eq!((risk.len(), &risk[0]["standing"]), (1, &json!("at_risk")));
    let why = risk[0]["why"].to_string();
    assert!(why.contains("HOLD_ACTIVE") && why.contains("APPROVAL_REQUIRED"), "{why}");
    world.advance(TimeDelta::days(10)).await;
    let late = due(&world, json!({})).await;
    assert_eq!(
        (&late[0]["standing"], &late[0]["due_on"], &late[0]["state"]),
        (&json!("late"), &json!("2026-04-01"), &json!("ARCHIVED"))
    );

    let hold = world.call("user:lena", "knowledge.hold.list", json!({"plane": plane})).await["holds"][0]["hold_id"].clone();
    world.call("user:lena", "knowledge.hold.release", json!({"hold_id": hold, "reason": "settled"})).await;
    world.approve(&plane).await;
    world.drain().await;
    assert_eq!((world.state(&plane).await.as_str(), due(&world, json!({})).await.len()), ("PURGED", 0));
    assert_eq!(world.number("SELECT count(*) FROM deadlines WHERE closed_at IS NULL").await, 0);
    invariants::check(&world).await;
}

#[tokio::test]
async fn work_that_stands_still_is_at_risk_however_far_its_date() {
    let world = World::new().await;
    let plane = world.acme(2).await;
    world.call("user:alice", REQUEST, demand(&plane)).await;
    world.faults.fail_with(0, Failing::NotDone, lethe_stages::ports::PortError::Permanent("the disk is full".into()));
    world.drain().await;
    let risk = due(&world, json!({})).await;
    assert_eq!((risk.len(), &risk[0]["standing"], &risk[0]["run_status"]), (1, &json!("at_risk"), &json!("halted")));
    assert!(risk[0]["why"][0].as_str().unwrap().starts_with("HALTED in deregister: UNUSABLE"), "{risk:?}");
    assert!(risk[0]["next"].as_str().unwrap().contains("retry"), "{risk:?}");
}

#[tokio::test]
async fn a_review_that_is_owed_and_a_queue_that_nobody_works_on_are_listed() {
    let world = World::new().await;
    let plane = world.acme(2).await;
    let review = json!({"plane": plane, "reason": "a lawsuit", "review_at": "2026-03-05T09:00:00Z", "matter": "smith"});
    world.call("user:lena", "knowledge.hold.place", review).await;
    assert_eq!(due(&world, json!({})).await.len(), 0);
    world.clock.advance(TimeDelta::days(4));
    let owed = due(&world, json!({})).await;
    assert_eq!((owed.len(), &owed[0]["kind"], &owed[0]["matter"]), (1, &json!("hold_review"), &json!("smith")));
    assert_eq!(due(&world, json!({"tenant": "acme"})).await.len(), 1, "its tenant's");
    assert_eq!(due(&world, json!({"tenant": "globex"})).await.len(), 0, "nobody else's");

    world.request("globex/handbook", "1h").await;
    world.clock.advance(TimeDelta::hours(2));
    let all = due(&world, json!({})).await;
    let stalled = all.iter().find(|one| one["kind"] == "stalled").expect("nobody takes the run");
    assert!(stalled["why"][0].as_str().unwrap().starts_with("1 run(s)"), "{stalled}");
    world.drain().await;
    let kinds: Vec<_> = due(&world, json!({})).await.iter().map(|one| one["kind"].clone()).collect();
    assert_eq!(kinds, ["hold_review"]);
}

#[tokio::test]
async fn somebody_confined_to_a_tenant_sees_that_tenants_dates_only() {
    let world = World::new().await;
    let plane = world.acme(2).await;
    world.call("user:alice", REQUEST, demand(&plane)).await;
    world.call("user:alice", REQUEST, demand("globex/handbook")).await;
    let mut call = crate::support::call("user:gina", "knowledge.due.list", json!({"all": true}));
    call.tenant = Some("globex".into());
    let lethe_worker::operations::Answer::Done(seen) = world.dispatch(&call).await else { panic!("she may look") };
    let planes: Vec<_> = seen["due"].as_array().unwrap().iter().map(|one| one["plane"].clone()).collect();
    assert_eq!(planes, ["globex/handbook"]);
    call.arguments = json!({"all": true, "tenant": "acme"});
    assert!(matches!(world.dispatch(&call).await, lethe_worker::operations::Answer::Refused(_)));
}
