//! Grace: as long as was agreed, to the second, whatever happens to configuration, clocks, workers and requesters meanwhile.

use chrono::{DateTime, TimeDelta, Utc};
use lethe_stages::{
    EvictMode, Facts, GraceAccess, Ground, LifecycleState, Permit, StageRegistry, Step, UsageKnown,
    permit::{ApprovalFacts, Destruction, Verdict},
};
use serde_json::json;

use crate::support::{World, beginning, invariants, request};

const REQUEST: &str = "knowledge.offboarding.request";

async fn deadline(world: &World, plane: &str, name: &str) -> Option<DateTime<Utc>> {
    let status = world.status(plane).await;
    status["offboarding"]["deadlines"][name].as_str().map(|text| text.parse().expect("an instant"))
}

#[tokio::test]
async fn grace_starts_when_the_last_run_ended_and_lasts_to_the_second() {
    for (grace, length) in [("90s", TimeDelta::seconds(90)), ("36h", TimeDelta::hours(36)), ("0s", TimeDelta::zero())] {
        let world = World::new().await;
        let plane = world.acme(2).await;
        world.request(&plane, grace).await;
        assert_eq!(deadline(&world, &plane, "grace_until").await, None, "it has not started");
        world.clock.advance(TimeDelta::minutes(5));
        let claimed = world.claim(&plane).await;
        world.finish(&claimed).await;
        let until = beginning() + TimeDelta::minutes(5) + length;
        assert_eq!(deadline(&world, &plane, "grace_until").await, Some(until), "{grace}");
        if length > TimeDelta::zero() {
            world.advance(length - TimeDelta::microseconds(1)).await;
            assert_eq!(world.state(&plane).await, "PENDING_DEACTIVATE", "{grace}: a microsecond before");
            assert!(world.blocked_by(&plane).await.contains(&"GRACE_PERIOD_ACTIVE".to_owned()));
            world.advance(TimeDelta::microseconds(1)).await;
        } else {
            world.drain().await;
        }
        assert_eq!(world.state(&plane).await, "ARCHIVED", "{grace}");
        assert_eq!(deadline(&world, &plane, "grace_until").await, Some(until), "and it never moves");
        invariants::check(&world).await;
    }
}

#[tokio::test]
async fn days_have_24_hours_whatever_people_do_to_their_clocks() {
    // From winter into summer time on both sides of the Atlantic, and back.
    let world = World::new().await;
    let plane = world.acme(2).await;
    world.request(&plane, "280d").await;
    world.drain().await;
    assert_eq!(
        world
            .number(crate::support::ledger::either(
                "SELECT grace_until - requested_at FROM offboardings",
                "SELECT (extract(epoch FROM grace_until - requested_at) * 1000000)::bigint FROM offboardings"
            ))
            .await,
        280 * 86_400 * 1_000_000
    );
    world.advance(TimeDelta::days(280) - TimeDelta::seconds(1)).await;
    assert_eq!(world.state(&plane).await, "PENDING_DEACTIVATE");
    world.advance(TimeDelta::seconds(1)).await;
    assert_eq!(world.state(&plane).await, "ARCHIVED");
    invariants::check(&world).await;
}

#[tokio::test]
async fn an_equal_request_is_the_same_offboarding_and_moves_nothing() {
    let world = World::new().await;
    let plane = world.acme(2).await;
    let first = world.request(&plane, "7d").await;
    assert_eq!(first["repeated"], false);
    world.drain().await;
    let until = deadline(&world, &plane, "grace_until").await;
    let entries = world.number("SELECT count(*) FROM trail").await;
    world.clock.advance(TimeDelta::days(3));
    // Another person, another reason, another way to write the same duration: the same terms.
    let mut same = request("acme/handbook", "168h");
    same["reason"] = json!("to be sure");
    let again = world.call("user:carol", REQUEST, same).await;
    assert_eq!((&again["repeated"], &again["offboarding_id"]), (&json!(true), &first["offboarding_id"]));
    assert_eq!(deadline(&world, &plane, "grace_until").await, until);
    assert_eq!(world.number("SELECT count(*) FROM trail").await, entries, "nothing happened");
    assert_eq!(world.texts("SELECT requested_by FROM offboardings").await, ["user:alice"], "and alice still cannot approve it");
    for (field, value) in
        [("grace", "6d"), ("retention", "1d"), ("archive_delay", "1d"), ("grace_access", "none"), ("evict", "at_purge")]
    {
        let mut other = request(&plane, "7d");
        other[field] = json!(value);
        assert_eq!(world.code("user:alice", REQUEST, other).await, "OFFBOARDING_OPEN", "{field}");
    }
    world.advance(TimeDelta::days(4)).await;
    assert_eq!(world.state(&plane).await, "ARCHIVED", "7 days after the first request");
    invariants::check(&world).await;
}

#[tokio::test]
async fn terms_are_frozen_whatever_becomes_of_the_configuration() {
    let world = World::new().await;
    let plane = world.acme(2).await;
    let defaults = json!({"plane": plane, "ground": "contract_end", "reason": "r"});
    world.call("user:alice", REQUEST, defaults.clone()).await;
    world.drain().await;
    let until = deadline(&world, &plane, "grace_until").await;
    let world =
        world.reopened("[offboarding]\ngrace_min = \"30d\"\n[grounds.contract_end]\ngrace = \"60d\"\nretention = \"1d\"").await;
    assert_eq!(deadline(&world, &plane, "grace_until").await, until);
    assert_eq!(world.code("user:alice", REQUEST, defaults.clone()).await, "OFFBOARDING_OPEN", "the defaults are others now");
    let mut spelled_out = defaults;
    spelled_out["grace"] = json!("7d");
    spelled_out["retention"] = json!("365d");
    assert_eq!(world.call("user:alice", REQUEST, spelled_out).await["repeated"], true, "below a minimum that came later");
    assert_eq!(world.code("user:alice", REQUEST, request("globex/handbook", "7d")).await, "GRACE_INVALID");
    world.advance(TimeDelta::days(7)).await;
    assert_eq!(world.state(&plane).await, "ARCHIVED");
    assert_eq!(deadline(&world, &plane, "retention_until").await, Some(beginning() + TimeDelta::days(7 + 365)));
    for change in
        ["grace_us = 0", "grace_until = 0", "retention_until = 0", "retention_us = 0", "evict = 'at_purge'", "grace_until = NULL"]
    {
        let epoch = crate::support::ledger::either("_until = 0", "_until = 'epoch'");
        let said = world.try_sql(&format!("UPDATE offboardings SET {}", change.replace("_until = 0", epoch))).await;
        assert!(said.is_err_and(|said| said.contains("frozen")), "{change}");
    }
    invariants::check(&world).await;
}

#[tokio::test]
async fn a_grace_that_nobody_can_mean_is_refused() {
    let world = World::with("[offboarding]\ngrace_min = \"1h\"\n[tenants.acme]\ngrace_min = \"3d\"").await;
    let plane = world.acme(2).await;
    for grace in ["-1d", "-0s", "0s", "11years", "soon", "", "7", "7 parsecs", "1d -1h", "2d", "99999999999999999999d"] {
        assert_eq!(world.code("user:alice", REQUEST, request(&plane, grace)).await, "GRACE_INVALID", "`{grace}`");
    }
    assert_eq!(world.blocked(&plane, "GRACE_INVALID").await, 11);
    assert_eq!(world.number("SELECT count(*) FROM offboardings").await, 0);
    world.request("globex/handbook", "1h").await;
    world.request(&plane, "3d").await;
    invariants::check(&world).await;
}

#[tokio::test]
async fn a_worker_that_was_away_for_months_finds_the_deadline_where_it_was() {
    let world = World::new().await;
    let plane = world.acme(2).await;
    world.request(&plane, "7d").await;
    world.drain().await;
    world.clock.advance(TimeDelta::days(100));
    let world = world.reopened("").await;
    world.drain().await;
    assert_eq!(
        (world.state(&plane).await.as_str(), deadline(&world, &plane, "grace_until").await),
        ("ARCHIVED", Some(beginning() + TimeDelta::days(7)))
    );
    invariants::check(&world).await;
}

/// Facts under which everything is allowed.
fn facts(state: LifecycleState) -> Facts {
    let at = beginning();
    Facts {
        at,
        tenant_id: uuid::Uuid::from_u128(1),
        tenant_status: "active".into(),
        plane_id: uuid::Uuid::from_u128(2),
        state,
        offboarding_id: uuid::Uuid::from_u128(3),
        ground: Ground::ContractEnd,
        evict: EvictMode::AfterArchive,
        grace_access: GraceAccess::ReadOnly,
        grace_until: Some(at),
        grace_skipped: false,
        retention_until: Some(at),
        holds: Vec::new(),
        runs_in_flight: 0,
        queries_in_flight: 0,
        usage_until: None,
        usage_known: UsageKnown::Reported,
        usage_unknown_accepted: false,
        tokens: 0,
        dependents: 0,
        requested_epoch: 0,
        manifest_sha256: Some("sha256:m".into()),
        plan_digest: Some("sha256:p".into()),
        plan_manifest_sha256: Some("sha256:m".into()),
        protected_until: None,
        approvals: vec![ApprovalFacts {
            id: uuid::Uuid::from_u128(4),
            plan_digest: "sha256:p".into(),
            by: "user:bob".into(),
            expires_at: at + TimeDelta::days(1),
            consumed: false,
        }],
        denied: false,
        clock_suspect: false,
        ledger_behind: false,
        log_stopped: false,
        restore_pending: false,
    }
}

#[test]
fn a_deadline_that_is_missing_has_not_passed() {
    let stages = StageRegistry::standard();
    let verify = |change: fn(&mut Facts)| {
        let mut facts = facts(LifecycleState::PendingDeactivate);
        change(&mut facts);
        stages.validate(Step::Verify, &facts).err().map(|refusal| refusal.code.as_str())
    };
    assert_eq!(verify(|_| {}), None);
    assert_eq!(verify(|facts| facts.grace_until = None), Some("GRACE_PERIOD_ACTIVE"));
    assert_eq!(verify(|facts| facts.grace_until = Some(facts.at + TimeDelta::microseconds(1))), Some("GRACE_PERIOD_ACTIVE"));
    // Break-glass skips the rest of the grace period and nothing else.
    assert_eq!(verify(|facts| (facts.grace_until, facts.grace_skipped) = (None, true)), None);
    assert_eq!(verify(|facts| (facts.grace_skipped, facts.queries_in_flight) = (true, 1)), Some("ACTIVE_USAGE"));
    assert_eq!(verify(|facts| (facts.grace_skipped, facts.usage_known) = (true, UsageKnown::None)), Some("USAGE_UNKNOWN"));
}

#[test]
fn a_permit_is_minted_only_when_every_fact_allows_it() {
    let mint = |destruction, change: fn(&mut Facts)| {
        let mut facts = facts(LifecycleState::Archived);
        change(&mut facts);
        Permit::mint(destruction, &facts, 7, &Verdict { policy_revision: "r".into() })
            .map(|permit| permit.epoch())
            .map_err(|refusal| refusal.code.as_str())
    };
    type Minted = Result<i64, &'static str>;
    type Case = (fn(&mut Facts), Minted, Minted);
    let change: [Case; 11] = [
        (|_| {}, Ok(7), Ok(7)),
        (|facts| facts.holds.push(facts.plane_id), Err("HOLD_ACTIVE"), Err("HOLD_ACTIVE")),
        (|facts| facts.manifest_sha256 = None, Err("EXPORT_NOT_VERIFIED"), Err("EXPORT_NOT_VERIFIED")),
        (|facts| facts.retention_until = None, Ok(7), Err("RETENTION_ACTIVE")),
        (|facts| facts.retention_until = Some(facts.at + TimeDelta::microseconds(1)), Ok(7), Err("RETENTION_ACTIVE")),
        (|facts| facts.approvals.clear(), Ok(7), Err("APPROVAL_REQUIRED")),
        (|facts| facts.protected_until = Some(facts.at + TimeDelta::microseconds(1)), Ok(7), Err("PURGE_PROTECTED")),
        (|facts| facts.protected_until = Some(facts.at), Ok(7), Ok(7)),
        (|facts| facts.plan_digest = None, Ok(7), Err("APPROVAL_REQUIRED")),
        (|facts| facts.plan_digest = Some("sha256:q".into()), Ok(7), Err("PLAN_CHANGED")),
        (|facts| facts.approvals[0].expires_at = facts.at, Ok(7), Err("APPROVAL_EXPIRED")),
    ];
    for (index, (change, evict, purge)) in change.into_iter().enumerate() {
        assert_eq!((mint(Destruction::Evict, change), mint(Destruction::Purge, change)), (evict, purge), "case {index}");
    }
    let resumed: fn(&mut Facts) = |facts| (facts.approvals[0].expires_at, facts.approvals[0].consumed) = (facts.at, true);
    assert_eq!(mint(Destruction::Purge, resumed), Ok(7), "a purge that began under it goes on under it");
}
