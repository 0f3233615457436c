//! Refusals: whatever is not allowed is answered with a stable code and put on record, on the chain of what it concerns.

use std::collections::BTreeSet;

use chrono::TimeDelta;
use lethe_ledger::{TenantStatus, TrailFilter, Tx};
use lethe_stages::{Code, ports::PortError};
use serde_json::{Value as Json, json};

use crate::support::{World, call, faults::Failing, invariants, request};

/// Codes that a call is answered with.
const BY_CALL: &str = "UNKNOWN_OPERATION INVALID_ARGUMENT NOT_AUTHORISED IDEMPOTENCY_KEY_REUSED TENANT_UNKNOWN TENANT_NOT_ACTIVE NAME_TAKEN \
    STORE_UNKNOWN STORE_NOT_IN_SCOPE STORE_UNUSABLE MAPPING_WRONG BINDING_TAKEN CONSENT_MISSING PLANE_UNKNOWN \
    PLANE_NOT_ACTIVE PLANE_PURGED GROUND_UNKNOWN GRACE_INVALID RETENTION_INVALID DUE_DATE_UNREACHABLE OFFBOARDING_OPEN \
    RESTORE_PENDING NOT_CANCELLABLE STAGE_IN_PROGRESS NOTHING_HALTED USAGE_REFUSED USAGE_ID_UNKNOWN APPROVAL_TOO_EARLY \
    APPROVAL_BY_SELF APPROVAL_EXISTS APPROVAL_UNKNOWN APPROVAL_DENIED ASSURANCE_TOO_LOW HOLD_UNKNOWN PAUSE_UNKNOWN \
    TOKEN_UNKNOWN TOKEN_NOT_ACTIVE QUERY_REFUSED ARCHIVE_MISSING TRANSITION_NOT_ALLOWED INGEST_REFUSED NOTHING_TO_PROBE FINDING_UNKNOWN \
    ATTESTATION_UNKNOWN ATTESTATION_REFUSED PERSONAL_NEEDED";

/// Codes with which the gate keeps a run from starting, on record as PENDING or BLOCKED on the plane's chain.
const BY_GATE: &str = "ACTIVE_REFERENCES ACTIVE_USAGE USAGE_UNKNOWN APPROVAL_REQUIRED APPROVAL_EXPIRED PLAN_CHANGED HOLD_ACTIVE PAUSED \
    PURGE_RATE_LIMITED EXPORT_NOT_VERIFIED";

/// Codes that stand with the promises they belong to: `restore.rs`, `witness.rs`, `locks.rs`, `buckets.rs`, `signed.rs`, `policies.rs`,
/// `exceptions.rs`, `due.rs`, `notices.rs`, `nothing_comes_back.rs`, `shredding.rs`, `log.rs` and `certificates.rs`.
const ELSEWHERE: &str = "ARCHIVE_BROKEN ARCHIVE_WITHOUT_CONTENT CLOCK_SUSPECT LEDGER_BEHIND NOTHING_TO_CONFIRM ARCHIVE_LOCKED \
    LOCK_OUTLIVES_RETENTION REPLICA_UNDECLARED SIGNATURE_INVALID APPROVER_UNKNOWN APPROVALS_TOO_FEW POLICY_DENIED PURGE_PROTECTED \
    REVIEW_UNKNOWN REVIEW_BY_SELF RELEASE_BY_SELF ALREADY_IN_STATE NO_DEADLINE EXTENSION_NOT_ALLOWED \
    NOTICE_UNKNOWN NO_CHANNEL FINDING_STANDS FINDING_BY_SELF STORE_ANSWERS ATTESTATION_BY_SELF ARCHIVE_NOT_ENCRYPTED MASTER_KEY_UNUSABLE \
    LOG_STOPPED LOG_OFF LOG_KEY_UNKNOWN ENTRY_UNKNOWN CERTIFICATE_MISSING";

/// Codes that are shown in a status and are no event: time passes as planned.
const BY_TIME: &str = "GRACE_PERIOD_ACTIVE RETENTION_ACTIVE STORE_WINDOW";

/// Codes that no call of this version can produce.
const NOT_BY_CALL: &[(&str, &str)] = &[
    ("ARCHIVE_FIRST", "no operation moves a plane by hand; `lifecycle::refuse_move` says it where one will"),
    ("OFFBOARDING_UNKNOWN", "operations name planes, not offboardings"),
    ("NOT_CONFIRMED", "the command line asks before it calls, so there is no call to record"),
];

#[test]
fn every_code_is_accounted_for_once() {
    let not = NOT_BY_CALL.iter().map(|(code, _)| *code);
    let mut listed: Vec<&str> =
        [BY_CALL, BY_GATE, BY_TIME, ELSEWHERE].into_iter().flat_map(str::split_whitespace).chain(not).collect();
    listed.sort();
    let mut all: Vec<&str> = Code::ALL.iter().map(|code| code.as_str()).collect();
    all.sort();
    assert_eq!(listed, all);
}

struct Asker {
    world: World,
    seen: BTreeSet<&'static str>,
}

impl Asker {
    /// A call that must be refused with `code`, on record on `chain`, naming its actor and under the caller's tenant or nobody's.
    async fn refused(&mut self, chain: &str, code: &'static str, actor: &str, operation: &str, arguments: Json) {
        let before = self.world.number("SELECT count(*) FROM trail").await;
        assert_eq!(self.world.code(actor, operation, arguments).await, code, "{operation}");
        let entry = self.world.last_entry().await;
        assert_eq!(self.world.number("SELECT count(*) FROM trail").await, before + 1, "{code}: one entry and nothing else");
        assert_eq!(
            (&entry["event_type"], &entry["chain"], &entry["gate"]["code"]),
            (&json!("BLOCKED"), &json!(chain), &json!(code))
        );
        assert_eq!((&entry["gate"]["decision"], &entry["evidence"]["code"]), (&json!("BLOCKED"), &json!(code)));
        let known = operation != "knowledge.plane.delete";
        assert_eq!(entry["decision_owner"], if known { operation } else { "dispatch" });
        let last = TrailFilter { limit: Some(1), ..TrailFilter::default() };
        let who = self.world.read(async |tx| tx.trail(&last).await).await.remove(0).values["actor_id"].clone();
        assert_eq!(format!("{}:{}", entry["actor_type"].as_str().unwrap(), who.as_str().unwrap()), actor);
        self.seen.insert(code);
    }
}

#[tokio::test]
async fn every_refused_call_is_on_record_where_it_belongs() {
    let world = World::new().await;
    let plane = world.acme(3).await;
    let (on, acme) = (format!("plane:{plane}"), format!("tenant:{}", world.tenant_id("acme").await));
    let token = world.call("user:root", "knowledge.token.issue", json!({"plane": plane})).await;
    let nobody = "00000000-0000-4000-8000-000000000000";
    let reasoned = json!({"plane": plane, "reason": "r"});
    let spare = world.dir.path().join("spare.db");
    crate::support::knowledge::create(&spare, &[]).await;
    let spare = json!({"name": "spare", "url": format!("sqlite:{}", spare.display()), "tenants": ["globex"]});
    world.call("user:root", "integrations.store.add", spare).await;
    let register = |store: &str| {
        let mut arguments = world.binding("acme", "second", "p9");
        arguments["stores"] = json!([store]);
        arguments
    };
    let out_of_scope = register("spare?table=chunks&plane_column=plane&plane=p9&key=id");
    let wrong = register("kb?table=chunks&plane_column=nothing&plane=p9&key=id");
    let whole = register("kb?table=chunks&key=id");
    let unknown_store = register("none?table=chunks&plane_column=plane&plane=p9&key=id");
    let taken = world.binding("acme", "second", "p2");
    let digest = format!("sha256:{}", "0".repeat(64));
    let attested = json!({"store": "kb", "plane": plane, "reason": "r", "evidence_sha256": digest});
    let mut ask = Asker { world, seen: BTreeSet::new() };
    for (chain, code, actor, operation, arguments) in [
        ("system", "UNKNOWN_OPERATION", "user:root", "knowledge.plane.delete", json!({})),
        ("system", "INVALID_ARGUMENT", "user:root", "account.tenant.register", json!({"name": "no name"})),
        ("system", "NOT_AUTHORISED", "sdk:bot", "knowledge.approval.grant", reasoned.clone()),
        ("system", "TENANT_UNKNOWN", "user:root", "account.tenant.show", json!({"name": "nobody"})),
        ("system", "NAME_TAKEN", "user:root", "account.tenant.register", json!({"name": "acme"})),
        ("system", "STORE_UNKNOWN", "user:root", "integrations.store.check", json!({"name": "none"})),
        ("system", "STORE_UNKNOWN", "user:root", "knowledge.plane.register", unknown_store),
        ("system", "STORE_UNUSABLE", "user:root", "integrations.store.add", json!({"name": "n", "url": "sqlite:/nowhere/kb.db"})),
        (&acme, "STORE_NOT_IN_SCOPE", "user:root", "knowledge.plane.register", out_of_scope),
        ("system", "MAPPING_WRONG", "user:root", "knowledge.plane.register", wrong),
        ("system", "CONSENT_MISSING", "user:root", "knowledge.plane.register", whole),
        (&acme, "BINDING_TAKEN", "user:root", "knowledge.plane.register", taken),
        ("system", "PLANE_UNKNOWN", "user:root", "knowledge.plane.show", json!({"plane": nobody})),
        ("system", "TOKEN_UNKNOWN", "user:root", "knowledge.token.revoke", json!({"token_id": nobody})),
        (&on, "TOKEN_UNKNOWN", "sdk:app", "knowledge.access.check", json!({"plane": plane, "token": "lethe_none"})),
        ("system", "USAGE_ID_UNKNOWN", "sdk:app", "knowledge.usage.close", json!({"usage_id": nobody})),
        ("system", "HOLD_UNKNOWN", "user:lena", "knowledge.hold.release", json!({"hold_id": nobody, "reason": "r"})),
        ("system", "PAUSE_UNKNOWN", "user:root", "knowledge.control.resume", json!({"all": true})),
        (&on, "NOTHING_TO_PROBE", "user:bob", "knowledge.probe.run", json!({"plane": plane})),
        ("system", "FINDING_UNKNOWN", "user:bob", "knowledge.finding.close", json!({"finding_id": nobody, "reason": "r"})),
        (&on, "ATTESTATION_REFUSED", "user:bob", "integrations.store.attest", attested),
        (
            "system",
            "ATTESTATION_UNKNOWN",
            "user:bob",
            "integrations.store.confirm_attestation",
            json!({"attestation_id": nobody, "reason": "r"}),
        ),
        (&on, "NOT_CANCELLABLE", "user:alice", "knowledge.offboarding.cancel", reasoned.clone()),
        (&on, "NOTHING_HALTED", "user:alice", "knowledge.offboarding.retry", reasoned.clone()),
        (&on, "APPROVAL_TOO_EARLY", "user:bob", "knowledge.approval.grant", reasoned.clone()),
        (&on, "APPROVAL_UNKNOWN", "user:bob", "knowledge.approval.withdraw", reasoned.clone()),
        (&on, "TRANSITION_NOT_ALLOWED", "user:alice", "knowledge.offboarding.break_glass", reasoned.clone()),
        (&on, "ARCHIVE_MISSING", "user:bob", "knowledge.archive.verify", json!({"plane": plane})),
    ] {
        ask.refused(chain, code, actor, operation, arguments).await;
    }

    let asked = |field: &str, value: Json| {
        let mut terms = request(&plane, "7d");
        terms[field] = value;
        terms
    };
    let again = "knowledge.offboarding.request";
    let late = json!({"plane": plane, "ground": "erasure_request", "reason": "r", "grace": "32d"});
    ask.refused(&on, "GROUND_UNKNOWN", "user:alice", again, asked("ground", json!("whim"))).await;
    ask.refused(&on, "GRACE_INVALID", "user:alice", again, asked("grace", json!("-1d"))).await;
    ask.refused(&on, "RETENTION_INVALID", "user:alice", again, asked("retention", json!("11years"))).await;
    ask.refused(&on, "DUE_DATE_UNREACHABLE", "user:alice", again, late).await;
    ask.refused(&on, "INVALID_ARGUMENT", "user:alice", again, asked("reason", json!(""))).await;
    ask.world.request(&plane, "7d").await;
    ask.refused(&on, "OFFBOARDING_OPEN", "user:alice", again, request(&plane, "8d")).await;
    let erase = json!({"tenant": "acme", "reason": "r"});
    ask.refused(&acme, "PERSONAL_NEEDED", "user:root", "governance.personal.erase", erase).await;
    ask.refused(&on, "INGEST_REFUSED", "sdk:pipe", "knowledge.access.check_write", json!({"plane": plane})).await;
    ask.refused(&on, "PLANE_NOT_ACTIVE", "user:root", "knowledge.token.issue", json!({"plane": plane})).await;
    ask.world.call("user:alice", "knowledge.offboarding.cancel", reasoned.clone()).await;
    ask.refused(&on, "RESTORE_PENDING", "user:alice", again, request(&plane, "7d")).await;
    ask.world.drain().await;
    let id = ask.world.tenant_id("acme").await.parse().unwrap();
    let set =
        async |status| ask.world.app.ledger.transact(async |tx: &mut Tx| tx.set_tenant_status(id, status).await).await.map(drop);
    set(TenantStatus::Suspended).await.unwrap();
    ask.refused(&on, "TENANT_NOT_ACTIVE", "user:alice", again, request(&plane, "7d")).await;
    let id = ask.world.tenant_id("acme").await.parse().unwrap();
    let set =
        async |status| ask.world.app.ledger.transact(async |tx: &mut Tx| tx.set_tenant_status(id, status).await).await.map(drop);
    set(TenantStatus::Active).await.unwrap();

    ask.world.reach(&plane, "deactivate").await;
    let claimed = ask.world.claim(&plane).await;
    ask.refused(&on, "STAGE_IN_PROGRESS", "user:alice", "knowledge.offboarding.cancel", reasoned.clone()).await;
    ask.world.finish(&claimed).await;
    let query = json!({"plane": plane, "kind": "query", "holder": "h", "ttl": "1m"});
    ask.refused(&on, "USAGE_REFUSED", "sdk:app", "knowledge.usage.open", query).await;
    let check = json!({"plane": plane, "token": token["token"]});
    ask.refused(&on, "TOKEN_NOT_ACTIVE", "sdk:app", "knowledge.access.check", check.clone()).await;
    ask.world.sql("UPDATE access_tokens SET status = 'active', revoked_at = NULL").await;
    ask.refused(&on, "QUERY_REFUSED", "sdk:app", "knowledge.access.check", check).await;
    ask.world.drain().await;
    ask.refused(&on, "APPROVAL_BY_SELF", "user:alice", "knowledge.approval.grant", reasoned.clone()).await;
    ask.world.call("user:bob", "knowledge.approval.deny", reasoned.clone()).await;
    ask.refused(&on, "APPROVAL_DENIED", "user:bob", "knowledge.approval.grant", reasoned.clone()).await;
    ask.world.call("user:alice", "knowledge.offboarding.retry", reasoned.clone()).await;
    ask.world.approve(&plane).await;
    ask.refused(&on, "APPROVAL_EXISTS", "user:carol", "knowledge.approval.grant", reasoned.clone()).await;
    ask.world.drain().await;
    ask.refused(&on, "PLANE_PURGED", "user:alice", again, request(&plane, "7d")).await;
    ask.refused(&on, "PLANE_PURGED", "user:bob", "knowledge.approval.grant", reasoned).await;
    invariants::check(&ask.world).await;

    // Elsewhere, under their own configuration or with a key: `approvals` and `calls`.
    ask.seen.extend(["ASSURANCE_TOO_LOW", "IDEMPOTENCY_KEY_REUSED"]);
    assert_eq!(ask.seen, BY_CALL.split_whitespace().collect());
}

#[tokio::test]
async fn whatever_keeps_a_run_from_starting_is_on_record_once_and_shown() {
    let mut seen = BTreeSet::new();
    let mut expect = async |world: &World, plane: &str, code: &'static str| {
        for _ in 0..3 {
            world.advance(TimeDelta::seconds(1)).await;
        }
        assert_eq!(world.blocked(plane, code).await, 1, "{code}: once");
        assert!(world.blocked_by(plane).await.contains(&code.to_owned()), "{code} is shown");
        seen.insert(code);
    };
    let usage = |plane: &str, kind: &str| json!({"plane": plane, "kind": kind, "holder": "h", "ttl": "2h"});

    let world = World::with("[purge]\nper_hour_max = 1").await;
    let plane = world.acme(3).await;
    let run = world.call("sdk:app", "knowledge.usage.open", usage(&plane, "run")).await;
    let query = world.call("sdk:app", "knowledge.usage.open", usage(&plane, "query")).await;
    world.request(&plane, "1h").await;
    expect(&world, &plane, "ACTIVE_REFERENCES").await;
    world.call("sdk:app", "knowledge.usage.close", json!({"usage_id": run["usage_id"]})).await;
    world.drain().await;
    assert_eq!(world.blocked_by(&plane).await, ["GRACE_PERIOD_ACTIVE", "ACTIVE_USAGE"], "the second is known already");
    world.clock.advance(TimeDelta::hours(1));
    expect(&world, &plane, "ACTIVE_USAGE").await;
    world.call("user:root", "knowledge.control.pause", json!({"stage": "archive", "reason": "r"})).await;
    world.call("sdk:app", "knowledge.usage.close", json!({"usage_id": query["usage_id"]})).await;
    expect(&world, &plane, "PAUSED").await;
    let held = world.call("user:lena", "knowledge.hold.place", json!({"plane": plane, "reason": "r"})).await["hold_id"].clone();
    world.call("user:root", "knowledge.control.resume", json!({"stage": "archive"})).await;
    expect(&world, &plane, "HOLD_ACTIVE").await;
    world.sql("CREATE TABLE kept AS SELECT * FROM archives; DELETE FROM archives").await;
    world.call("user:lena", "knowledge.hold.release", json!({"hold_id": held, "reason": "r"})).await;
    world.drain().await;
    assert_eq!(world.run(&plane).await, ("evict".into(), "halted".into()), "this does not pass by itself");
    expect(&world, &plane, "EXPORT_NOT_VERIFIED").await;
    world.sql("INSERT INTO archives SELECT * FROM kept").await;
    world.call("user:root", "knowledge.offboarding.retry", json!({"plane": plane, "reason": "r"})).await;
    expect(&world, &plane, "APPROVAL_REQUIRED").await;
    world.sql("UPDATE offboardings SET plan_digest = 'sha256:1' || plan_digest").await;
    world.approve(&plane).await;
    world.sql("UPDATE offboardings SET plan_digest = substr(plan_digest, 9)").await;
    expect(&world, &plane, "PLAN_CHANGED").await;
    world.clock.advance(TimeDelta::days(14));
    // The plan is the approved one again, but too late.
    world.sql("UPDATE approvals SET plan_digest = (SELECT plan_digest FROM offboardings)").await;
    world.drain().await;
    world.sql("UPDATE stage_runs SET status = 'queued', due_at = enqueued_at, waits_for = NULL WHERE status = 'parked'").await;
    world.drain().await;
    expect(&world, &plane, "APPROVAL_EXPIRED").await;
    world.archived("globex/handbook").await;
    world.approve("globex/handbook").await;
    world.approve(&plane).await;
    world.drain().await;
    let limited = if world.state(&plane).await == "PURGED" {
        world.texts("SELECT id FROM planes WHERE state = 'ARCHIVED'").await.remove(0)
    } else {
        plane
    };
    expect(&world, &limited, "PURGE_RATE_LIMITED").await;
    invariants::check(&world).await;

    let world = World::with("[usage]\naccept_unknown = false").await;
    let plane = world.acme(3).await;
    world.request(&plane, "1h").await;
    expect(&world, &plane, "USAGE_UNKNOWN").await;
    invariants::check(&world).await;
    assert_eq!(seen, BY_GATE.split_whitespace().collect());
}

#[tokio::test]
async fn a_store_that_does_not_answer_is_no_fault_of_the_mapping() {
    let world = World::new().await;
    let plane = world.acme(3).await;
    let preview = call("user:alice", "knowledge.offboarding.preview", request(&plane, "7d"));
    for (error, code) in [
        (PortError::Transient("busy".into()), "STORE_UNUSABLE"),
        (PortError::Permanent("no such column".into()), "MAPPING_WRONG"),
    ] {
        world.faults.fail_with(0, Failing::NotDone, error);
        let answer = world.dispatch(&preview).await;
        assert!(
            matches!(&answer, lethe_worker::operations::Answer::Refused(refusal) if refusal.code.as_str() == code),
            "{answer:?}"
        );
    }
    invariants::check(&world).await;
}
