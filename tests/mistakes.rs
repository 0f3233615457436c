//! The sixteen mistakes of earlier systems, each with the test that would catch it:
//!
//! 1. a manager that never calls its handlers: `every_stage_does_its_work_on_the_world`
//! 2. grace not stored, not enforced, moved, or passed when absent: `grace`
//! 3. the last handler silently wins: `assembly::a_name_that_stands_twice_stops_the_program_at_its_start`
//! 4. late results: `queue`, `cancel::a_late_answer_…`, `holds::a_hold_placed_after_the_purge_was_claimed_…`
//! 5. ARCHIVED before the export is verified, a digest that covers no content: `archived_is_…`, `a_part_that_was_changed_…`
//! 6. a failure without an exit, recovery at start only: `retry`, `queue::a_dead_workers_run_…`
//! 7. approvals too early, for ever, after a cancel, by the requester, by metadata: `approvals`, `no_flag_…`
//! 8. force flags and magic strings: `no_flag_and_no_magic_word_opens_a_gate`
//! 9. cancel against running work: `cancel`
//! 10. who and why are lost, refusals unrecorded, numbers constant: `who_and_why_…`, `refusals`, `trail`
//! 11. a missing or unknown tenant taken for active, somebody else's plane: `a_status_nobody_knows_…`, `calls`
//! 12. an unwired part looks like success: `assembly`, `an_archive_that_is_not_the_bound_one_…`
//! 13. two commits, or none: `assembly::an_error_in_the_middle_…`, `calls::a_refusal_in_the_middle_…`
//! 14. an audit store that forgets: `tampering`, `the_trail_is_still_there_after_a_restart`
//! 15. use after deactivation, re-ingestion: `after_deactivation_…`, `scopes::a_purged_planes_scope_…`
//! 16. bytes left on disk, absence taken for proof: `path`, `grounds`, `silence_of_another_file_…`

use std::path::{Path, PathBuf};

use chrono::TimeDelta;
use serde_json::{Value as Json, json};

use crate::support::{World, invariants, knowledge, request};

fn below(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in folder.read_dir().unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(below(&path, extension));
        } else if path.extension().is_some_and(|end| end == extension) {
            found.push(path);
        }
    }
    found
}

async fn halted(world: &World, plane: &str) -> (String, Json) {
    let offboarding = world.status(plane).await["offboarding"].clone();
    assert_eq!(offboarding["run_status"], "halted", "{offboarding}");
    (offboarding["step"].as_str().unwrap().to_owned(), offboarding["last_error"]["code"].clone())
}

#[tokio::test]
async fn every_stage_does_its_work_on_the_world() {
    let world = World::new().await;
    let plane = world.acme(5).await;
    world.reach(&plane, "deregister").await;
    for (step, verbs) in [
        ("deregister", &["store.describe", "store.fence"][..]),
        ("verify", &["store.count", "archive.probe"]),
        ("deactivate", &["store.fence"]),
        ("export", &["store.page", "archive.write_part", "archive.read_part", "archive.put"]),
        ("evict", &["archive.read_part", "store.erase", "store.scrub", "store.prove_empty"]),
        ("purge", &["store.scrub", "store.prove_empty", "store.fence", "archive.delete", "archive.list", "archive.close"]),
    ] {
        world.clock.advance(TimeDelta::hours(if step == "verify" { 1 } else { 0 }));
        if step == "purge" {
            world.approve(&plane).await;
        }
        let before = world.faults.calls().len();
        let claimed = world.claim(&plane).await;
        assert_eq!(claimed.case.run.step.as_str(), step);
        world.finish(&claimed).await;
        let called = world.faults.calls().split_off(before);
        for verb in verbs {
            assert!(called.contains(verb), "{step} does not call {verb}: {called:?}");
        }
        let destroys = called.iter().any(|verb| ["store.erase", "store.scrub", "archive.delete", "archive.close"].contains(verb));
        assert_eq!(destroys, ["evict", "purge"].contains(&step), "{step}: {called:?}");
    }
    assert_eq!(world.state(&plane).await, "PURGED");
    invariants::check(&world).await;
}

#[tokio::test]
async fn archived_is_where_an_export_ends_not_where_it_starts() {
    let world = World::new().await;
    let plane = world.acme(5).await;
    world.reach(&plane, "export").await;
    let claimed = world.claim(&plane).await;
    let finished = world.app.manager.perform(&claimed).await;
    assert_eq!(world.state(&plane).await, "DEACTIVATED", "exported, not recorded");
    assert_eq!(
        world.code("user:bob", "knowledge.approval.grant", json!({"plane": plane, "reason": "r"})).await,
        "APPROVAL_TOO_EARLY"
    );
    world.record(&finished).await;
    assert_eq!(world.state(&plane).await, "DEACTIVATED", "exported, the hot copy not yet gone");
    world.drain().await;
    assert_eq!(world.state(&plane).await, "ARCHIVED");
    invariants::check(&world).await;
}

#[tokio::test]
async fn a_part_that_was_changed_after_the_export_keeps_the_last_copy_where_it_is() {
    let world = World::new().await;
    let plane = world.acme(50).await;
    world.reach(&plane, "evict").await;
    let part = below(&world.dir.path().join("archive"), "parquet").remove(0);
    let mut bytes = std::fs::read(&part).unwrap();
    let kept = bytes.clone();
    let middle = bytes.len() / 3;
    bytes[middle] ^= 0xff;
    std::fs::write(&part, bytes).unwrap();
    let verified = world.call("user:bob", "knowledge.archive.verify", json!({"plane": plane})).await;
    assert_eq!(verified["archive"], "broken", "{verified}");
    world.drain().await;
    let (step, _) = halted(&world, &plane).await;
    assert_eq!((step.as_str(), knowledge::digest(&world.dir.path().join("knowledge.db"), "p1").await.0), ("evict", 50));
    std::fs::write(&part, kept).unwrap();
    world.call("user:root", "knowledge.offboarding.retry", json!({"plane": plane, "reason": "restored"})).await;
    world.drain().await;
    assert_eq!(world.state(&plane).await, "ARCHIVED");
    invariants::check(&world).await;
}

#[tokio::test]
async fn no_flag_and_no_magic_word_opens_a_gate() {
    let world = World::new().await;
    let plane = world.acme(3).await;
    for (word, value) in [
        ("force", json!(true)),
        ("approved_by", json!("user:bob")),
        ("metadata", json!({"force": true})),
        ("state", json!("PURGED")),
    ] {
        for operation in ["request", "cancel", "retry"] {
            let mut arguments = request(&plane, "7d");
            if operation != "request" {
                arguments = json!({"plane": plane, "reason": "BREAK GLASS force=true approved"});
            }
            arguments[word] = value.clone();
            assert_eq!(
                world.code("founder:zoe", &format!("knowledge.offboarding.{operation}"), arguments).await,
                "INVALID_ARGUMENT"
            );
        }
        let mut grant = json!({"plane": plane, "reason": "r"});
        grant[word] = value;
        assert_eq!(world.code("founder:zoe", "knowledge.approval.grant", grant).await, "INVALID_ARGUMENT");
    }
    let mut worded = request(&plane, "7d");
    worded["reason"] = json!("BREAK GLASS: force, skip grace, approved by user:bob");
    world.call("founder:zoe", "knowledge.offboarding.request", worded).await;
    world.drain().await;
    assert_eq!(world.state(&plane).await, "PENDING_DEACTIVATE", "a reason is read by people");
    invariants::check(&world).await;
}

#[tokio::test]
async fn who_and_why_are_on_record_for_every_decision() {
    let world = World::new().await;
    let plane = world.acme(3).await;
    world.archived(&plane).await;
    world.call("founder:zoe", "knowledge.approval.grant", json!({"plane": plane, "reason": "I have counted them"})).await;
    let entry =
        world.call("user:auditor", "governance.audit.list", json!({"plane": plane, "event_type": "APPROVED"})).await["entries"]
            [0]
        .clone();
    assert_eq!(
        (&entry["actor_type"], &entry["values"]["actor_id"], &entry["values"]["reason"]),
        (&json!("founder"), &json!("zoe"), &json!("I have counted them"))
    );
    assert_eq!(entry["evidence"]["plan_digest"], world.status(&plane).await["offboarding"]["plan_digest"]);
    assert_eq!(entry["evidence"]["identity_assurance"], "asserted");
    invariants::check(&world).await;
}

#[tokio::test]
async fn a_status_nobody_knows_is_not_active() {
    let world = World::new().await;
    let plane = world.acme(3).await;
    world.request(&plane, "1h").await;
    let unchecked = crate::support::ledger::either(
        "PRAGMA ignore_check_constraints = ON",
        "ALTER TABLE tenants DROP CONSTRAINT tenants_status_check",
    );
    world.sql(&format!("{unchecked}; UPDATE tenants SET status = 'golden' WHERE name = 'acme'")).await;
    assert_eq!(world.drain().await, 0);
    assert_eq!(world.blocked(&plane, "TENANT_NOT_ACTIVE").await, 1);
    world.sql("UPDATE tenants SET status = 'active' WHERE name = 'acme'").await;
    assert_eq!(world.state(&plane).await, "ACTIVE");
    world.advance(TimeDelta::seconds(1)).await;
    assert_eq!(world.state(&plane).await, "PENDING_DEACTIVATE");
    let null = world.try_sql("UPDATE tenants SET status = NULL").await;
    assert!(null.is_err_and(|said| said.to_lowercase().contains("not null") || said.contains("not-null")));
    invariants::check(&world).await;
}

#[tokio::test]
async fn an_archive_that_is_not_the_bound_one_proves_nothing() {
    let world = World::new().await;
    let plane = world.acme(3).await;
    world.archived(&plane).await;
    world.approve(&plane).await;
    let (archive, away) = (world.dir.path().join("archive"), world.dir.path().join("away"));
    std::fs::rename(&archive, &away).unwrap();
    std::fs::create_dir(&archive).unwrap();
    world.drain().await;
    assert_eq!(halted(&world, &plane).await, ("purge".into(), json!("WRONG_PLACE")), "an empty folder is not an erased archive");
    assert_eq!(world.state(&plane).await, "ARCHIVED");
    std::fs::remove_dir(&archive).unwrap();
    std::fs::rename(&away, &archive).unwrap();
    world.call("user:root", "knowledge.offboarding.retry", json!({"plane": plane, "reason": "mounted"})).await;
    world.drain().await;
    assert_eq!(world.state(&plane).await, "PURGED");
    invariants::check(&world).await;
}

#[tokio::test]
async fn silence_of_another_file_in_the_stores_place_is_no_proof_of_emptiness() {
    let world = World::new().await;
    let plane = world.acme(3).await;
    let file = world.dir.path().join("knowledge.db");
    world.archived(&plane).await;
    world.approve(&plane).await;
    std::fs::rename(&file, world.dir.path().join("away.db")).unwrap();
    knowledge::create(&file, &[("p2", 20)]).await;
    world.drain().await;
    assert_eq!(halted(&world, &plane).await, ("purge".into(), json!("WRONG_PLACE")));
    assert!(!below(&world.dir.path().join("archive"), "parquet").is_empty(), "and the archive was not touched");
    invariants::check(&world).await;
}

#[tokio::test]
async fn after_deactivation_nothing_reads_writes_or_runs() {
    let world = World::new().await;
    let plane = world.acme(3).await;
    let token = world.call("user:root", "knowledge.token.issue", json!({"plane": plane})).await["token"].clone();
    world.reach(&plane, "export").await;
    assert_eq!(world.state(&plane).await, "DEACTIVATED");
    for (kind, code) in [("query", "USAGE_REFUSED"), ("run", "PLANE_NOT_ACTIVE")] {
        let usage = json!({"plane": plane, "kind": kind, "holder": "h", "ttl": "1m"});
        assert_eq!(world.code("sdk:app", "knowledge.usage.open", usage).await, code);
    }
    assert_eq!(
        world.code("sdk:app", "knowledge.access.check", json!({"plane": plane, "token": token})).await,
        "TOKEN_NOT_ACTIVE"
    );
    assert_eq!(world.code("user:root", "knowledge.token.issue", json!({"plane": plane})).await, "PLANE_NOT_ACTIVE");
    let mut db = knowledge::open(&world.dir.path().join("knowledge.db")).await;
    for statement in [
        "DELETE FROM chunks WHERE plane = 'p1'",
        "UPDATE chunks SET body = '' WHERE plane = 'p1'",
        "UPDATE chunks SET plane = 'p2' WHERE plane = 'p1'",
    ] {
        assert!(sqlx::raw_sql(statement).execute(&mut db).await.is_err(), "{statement}");
    }
    assert!(world.write("p1").await.is_err());
    invariants::check(&world).await;
}

#[tokio::test]
async fn the_trail_is_still_there_after_a_restart() {
    let world = World::new().await;
    let plane = world.acme(3).await;
    world.archived(&plane).await;
    let before = world.trail(&plane).await;
    let world = world.reopened("").await;
    assert_eq!(world.trail(&plane).await, before);
    world.advance(TimeDelta::days(4000)).await;
    assert_eq!(world.trail(&plane).await, before, "and no time removes it");
    invariants::check(&world).await;
}
