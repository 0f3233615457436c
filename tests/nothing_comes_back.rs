//! Nothing comes back: what was purged is refused at the gate and by the store's fence, or found by the next probe, and then the case is
//! open again until somebody has seen to it. A store that is gone is attested by two persons, or waited for.

use std::path::PathBuf;

use chrono::{DateTime, TimeDelta, Utc};
use lethe_ledger::{Fault, Lease, Tx};
use lethe_worker::manager::{ProbeReport, RecordResult};
use proptest::prelude::*;
use serde_json::{Value as Json, json};
use sqlx::Connection;

use crate::support::{WORKER, World, call, faults::Failing, invariants, knowledge, request};

impl World {
    pub async fn probe(&self) -> ProbeReport {
        self.app.manager.probe_due(WORKER, None).await.expect("probe")
    }

    /// Purges an ACTIVE plane.
    pub async fn purged(&self, plane: &str) {
        self.archived(plane).await;
        self.approve(plane).await;
        self.drain().await;
        assert_eq!(self.state(plane).await, "PURGED", "{}", self.status(plane).await);
    }

    fn store_file(&self) -> PathBuf {
        self.dir.path().join("knowledge.db")
    }

    /// A backup of the store, as it is now.
    fn backup(&self) -> PathBuf {
        let kept = self.dir.path().join("kept.db");
        std::fs::copy(self.store_file(), &kept).expect("copy the store");
        kept
    }

    /// Puts statements past the fence into the store, as its owner may; `kept` is the backup.
    async fn in_store(&self, sql: &str) {
        let mut db = knowledge::open(&self.store_file()).await;
        let attach = format!("ATTACH '{}' AS kept", self.dir.path().join("kept.db").display());
        sqlx::raw_sql(sqlx::AssertSqlSafe(format!("{attach}; {sql}"))).execute(&mut db).await.expect(sql);
        db.close().await.expect("close");
    }

    pub async fn run_probe(&self, actor: &str, plane: &str) -> ProbeReport {
        self.call(actor, "knowledge.probe.run", json!({"plane": plane})).await;
        self.probe().await
    }

    pub async fn finding(&self, plane: &str) -> Option<Json> {
        let listed = self.call("user:auditor", "knowledge.finding.list", json!({"plane": plane})).await;
        listed["findings"].as_array().expect("findings").first().cloned()
    }

    async fn kept_scopes(&self) -> i64 {
        self.number("SELECT count(*) FROM probe_scopes").await
    }
}

const CLEAN: ProbeReport = ProbeReport { clean: 1, found: 0, failed: 0 };
const FOUND: ProbeReport = ProbeReport { clean: 0, found: 1, failed: 0 };
const FAILED: ProbeReport = ProbeReport { clean: 0, found: 0, failed: 1 };
const NONE: ProbeReport = ProbeReport { clean: 0, found: 0, failed: 0 };

/// What the finding saw of the first store.
fn seen(finding: &Json) -> &Json {
    &finding["evidence"]["stores"][0]["seen"]
}

#[tokio::test]
async fn a_purged_plane_is_asked_after_on_the_days_that_were_promised_and_then_forgotten() {
    let world = World::new().await;
    let value = "marker-of-the-scope";
    knowledge::create(&world.store_file(), &[(value, 20)]).await;
    world.call("user:root", "account.tenant.register", json!({"name": "acme"})).await;
    let url = format!("sqlite:{}", world.store_file().display());
    world.call("user:root", "integrations.store.add", json!({"name": "kb", "url": url, "tenants": ["acme"]})).await;
    let plane = world.register("acme", "handbook", value).await;
    world.purged(&plane).await;
    let evidence = world.texts("SELECT body FROM trail WHERE event_type = 'STAGE_COMPLETED' ORDER BY place DESC LIMIT 1").await;
    let evidence: Json = serde_json::from_str(&evidence[0]).unwrap();
    let promised = &evidence["evidence"]["probes"];
    assert_eq!((&promised["kept"], promised["at"].as_array().unwrap().len()), (&json!("keys"), 3), "{promised}");
    assert_eq!(evidence["evidence"]["stores"][0]["known_after"], 10, "{evidence}");

    // What is kept: where to look, and keys with digests; no content.
    let kept = world.texts("SELECT CAST(scopes AS TEXT) FROM probe_scopes").await.remove(0);
    assert!(kept.contains(value) && kept.contains("\"digest\"") && !kept.contains("lorem") && !kept.contains("vector"), "{kept}");
    let in_ledger = || {
        let beside = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("lethe.db"));
        let places = knowledge::places(world.dir.path(), value.as_bytes());
        places.into_iter().filter(|(path, _)| beside(path)).count()
    };
    if !crate::ON_POSTGRES {
        assert!(in_ledger() > 0, "until the last probe, where to look is kept");
    }
    let purged = world.app.ledger.now();
    for (day, left) in [(1, 2), (7, 1), (30, 0)] {
        world.clock.advance(purged + TimeDelta::days(day) - TimeDelta::microseconds(1) - world.app.ledger.now());
        assert_eq!(world.probe().await, NONE, "never earlier than promised");
        world.clock.advance(TimeDelta::microseconds(1));
        assert_eq!(world.probe().await, CLEAN, "day {day}");
        assert_eq!(world.probe().await, NONE, "once");
        assert_eq!(world.entries(&plane, "PROBED").await, 3 - left);
        assert_eq!(world.kept_scopes().await, i64::from(left > 0));
    }
    if !crate::ON_POSTGRES {
        assert_eq!(in_ledger(), 0, "the last probe was clean: where to look is nowhere in the ledger's files");
    }
    assert_eq!(world.code("user:bob", "knowledge.probe.run", json!({"plane": plane})).await, "NOTHING_TO_PROBE");
    assert!(world.status(&plane).await["case"].is_null());
    invariants::check(&world).await;
}

#[tokio::test]
async fn records_that_somebody_puts_back_are_found_and_the_case_is_open_until_somebody_has_seen_to_it() {
    let world = World::new().await;
    let plane = world.acme(20).await;
    world.backup();
    world.purged(&plane).await;
    assert!(world.write("p1").await.is_err(), "the fence refuses the application");
    // As a record of the plane, past the fence.
    world
        .in_store(
            "DROP TRIGGER lethe_fence_insert_chunks; INSERT INTO chunks SELECT * FROM kept.chunks WHERE plane = 'p1' LIMIT 3",
        )
        .await;
    world.clock.advance(TimeDelta::days(1));
    assert_eq!(world.probe().await, FOUND);
    let finding = world.finding(&plane).await.expect("a finding");
    assert_eq!((&seen(&finding)["remaining"], &seen(&finding)["fence"]), (&json!(3), &json!("missing")), "{finding}");
    assert_eq!(finding["evidence"]["stores"][0]["fence_set_again"], true, "{finding}");
    assert!(world.write("p1").await.is_err(), "the fence is back already");

    // It is seen everywhere, and the plane is what it was.
    let status = world.status(&plane).await;
    assert_eq!((&status["state"], &status["case"]), (&json!("PURGED"), &json!("REOPENED")), "{status}");
    assert!(status["finding"]["next"].as_str().unwrap().contains("lethe probe run"), "{status}");
    let shown = world.call("user:auditor", "knowledge.plane.show", json!({"plane": plane})).await;
    assert_eq!(shown["case"], "REOPENED");
    let listed = world.call("user:auditor", "knowledge.offboarding.list", json!({})).await;
    assert_eq!(listed["offboardings"][0]["reopened"], true, "{listed}");
    let due = world.call("user:auditor", "knowledge.due.list", json!({})).await;
    assert!(
        due["due"].as_array().unwrap().iter().any(|one| one["kind"] == "finding" && one["plane_id"] == json!(plane)),
        "{due}"
    );
    assert_eq!(world.texts("SELECT kind FROM notices").await, ["finding"], "somebody is told, once");
    assert_eq!(world.entries(&plane, "RECURRED").await, 1);
    let body = world.texts("SELECT body FROM trail WHERE event_type = 'RECURRED'").await.remove(0);
    assert!(!body.contains("marker-p1"), "counts and digests only: {body}");

    // Every day, until somebody has acted.
    let close = |actor: &str, id: &Json| call(actor, "knowledge.finding.close", json!({"finding_id": id, "reason": "r"}));
    let refused = async |actor: &str| {
        let answer = world.dispatch(&close(actor, &finding["finding_id"])).await;
        match answer {
            lethe_worker::operations::Answer::Refused(refusal) => refusal.code.as_str(),
            done => panic!("{done:?}"),
        }
    };
    assert_eq!(refused("user:bob").await, "FINDING_STANDS");
    world.clock.advance(TimeDelta::days(1));
    assert_eq!(world.probe().await, FOUND);
    assert_eq!(world.entries(&plane, "RECURRED").await, 2);
    let again = world.finding(&plane).await.expect("still open");
    assert_eq!(
        (&again["finding_id"], &seen(&again)["fence"]),
        (&finding["finding_id"], &json!("purged")),
        "one finding: {again}"
    );

    // Removed by hand, the fence taken away for that; the first probe sets it again and says so, the second finds nothing.
    world.in_store("DROP TRIGGER lethe_fence_delete_chunks; DELETE FROM chunks WHERE plane = 'p1'").await;
    world.clock.advance(TimeDelta::days(1));
    assert_eq!(world.probe().await, FOUND);
    assert_eq!(seen(&world.finding(&plane).await.unwrap())["remaining"], 0);
    world.clock.advance(TimeDelta::days(1));
    assert_eq!(world.probe().await, CLEAN, "a day later, by itself: nobody has looked yet, so it is still open");
    assert!(world.finding(&plane).await.is_some());
    assert_eq!(refused("user:alice").await, "FINDING_BY_SELF", "alice requested the offboarding");
    world.dispatch(&close("user:bob", &finding["finding_id"])).await;
    assert_eq!(world.finding(&plane).await, None);
    assert_eq!(refused("user:bob").await, "FINDING_UNKNOWN");
    assert!(world.status(&plane).await["case"].is_null());
    assert_eq!(world.entries(&plane, "FINDING_CLOSED").await, 1);
    let planned =
        world.texts("SELECT cause || ' ' || status FROM probes WHERE status IN ('queued', 'withdrawn') ORDER BY due_at").await;
    assert_eq!(planned, ["again withdrawn", "planned queued", "planned queued"], "what was promised goes on");
    assert_eq!(world.kept_scopes().await, 1);
    invariants::check(&world).await;
}

#[tokio::test]
async fn a_record_that_comes_back_under_another_planes_name_is_known_by_its_key_and_digest() {
    for ground in ["contract_end", "erasure_request"] {
        let world = World::new().await;
        let plane = world.acme(12).await;
        world.backup();
        let asked = json!({"plane": plane, "ground": ground, "reason": "r", "grace": "1h"});
        let retention = json!({"plane": plane, "ground": ground, "reason": "r", "grace": "1h", "retention": "0s"});
        let asked = if ground == "contract_end" { retention } else { asked };
        world.call("user:alice", "knowledge.offboarding.request", asked).await;
        world.reach_next(&plane, "purge").await;
        world.drain().await;
        assert_eq!(world.state(&plane).await, "PURGED");
        // No fence refuses that: to the store it is nobody's plane.
        world
            .in_store(
                "INSERT INTO chunks SELECT id, ' P1', body, source, page, score, embedding FROM kept.chunks WHERE plane = 'p1'",
            )
            .await;
        world.clock.advance(TimeDelta::days(1));
        assert_eq!(world.probe().await, FOUND, "{ground}");
        let finding = world.finding(&plane).await.unwrap();
        let seen = seen(&finding);
        assert_eq!(
            (&seen["remaining"], &seen["keys_found"], &seen["fence"]),
            (&json!(0), &json!(12), &json!("purged")),
            "{finding}"
        );
        // Other content under the old keys is no purged record.
        world.in_store("UPDATE chunks SET body = 'new' WHERE plane = ' P1'").await;
        assert_eq!(world.run_probe("user:bob", &plane).await, CLEAN);
        assert_eq!(world.finding(&plane).await, None, "who asked for it and found nothing has closed it");
        let closed = world.call("user:auditor", "knowledge.finding.list", json!({"all": true})).await;
        assert_eq!(closed["findings"][0]["closed_by"], "user:bob", "{closed}");
        invariants::check(&world).await;
    }
}

#[tokio::test]
async fn a_store_restored_from_a_backup_is_found_with_its_records_and_without_its_fence() {
    for (step, fence) in [(None, "missing"), (Some("export"), "outdated")] {
        let world = World::new().await;
        let plane = world.acme(20).await;
        let kept = match step {
            None => {
                let kept = world.backup();
                world.request(&plane, "1h").await;
                kept
            }
            Some(step) => {
                world.reach(&plane, step).await;
                world.backup()
            }
        };
        world.reach_next(&plane, "purge").await;
        world.drain().await;
        assert_eq!(world.state(&plane).await, "PURGED");
        std::fs::copy(&kept, world.store_file()).expect("restore the backup");
        world.clock.advance(TimeDelta::days(1));
        assert_eq!(world.probe().await, FOUND);
        let finding = world.finding(&plane).await.unwrap();
        let seen = seen(&finding);
        assert_eq!(
            (&seen["remaining"], &seen["keys_found"], &seen["fence"]),
            (&json!(20), &json!(10), &json!(fence)),
            "{finding}"
        );
        assert_eq!(finding["evidence"]["stores"][0]["fence_set_again"], true, "{finding}");
        assert!(world.write("p1").await.is_err(), "closed again");
        assert!(world.write("p2").await.is_ok(), "its neighbour writes on");
        invariants::check(&world).await;
    }
}

#[tokio::test]
async fn an_object_that_is_put_back_into_the_archive_is_found() {
    let world = World::new().await;
    let plane = world.acme(5).await;
    world.purged(&plane).await;
    let folder = world.dir.path().join("archive").join(&plane).join("parts");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("0.parquet"), "copy").unwrap();
    world.clock.advance(TimeDelta::days(1));
    assert_eq!(world.probe().await, FOUND);
    let finding = world.finding(&plane).await.unwrap();
    assert_eq!(finding["evidence"]["archive"]["objects"], 1, "{finding}");
    std::fs::remove_dir_all(world.dir.path().join("archive").join(&plane)).unwrap();
    assert_eq!(world.run_probe("user:alice", &plane).await, CLEAN);
    assert_eq!(world.finding(&plane).await, None);
    invariants::check(&world).await;
}

#[tokio::test]
async fn ingestion_is_let_in_while_the_plane_is_in_service_and_never_after() {
    let world = World::new().await;
    let plane = world.acme(5).await;
    let write = "knowledge.access.check_write";
    let of_plane = || json!({"plane": plane});
    let of_scope = |scope: &str| json!({"store": "kb", "scope": scope});
    let scope = "table=chunks&plane_column=plane&plane=p1";
    let by_scope = "knowledge.access.check_scope";
    assert_eq!(world.call("sdk:pipe", write, of_plane()).await["allowed"], true);
    assert_eq!(world.call("sdk:pipe", by_scope, of_scope(scope)).await["allowed"], true);
    assert_eq!(
        world.call("sdk:pipe", by_scope, of_scope("table=CHUNKS&plane_column=Plane&plane=p1&key=id")).await["planes"],
        json!([plane])
    );
    // What nobody knows is refused, and what is somebody else's.
    assert_eq!(world.code("sdk:pipe", by_scope, of_scope("table=chunks&plane_column=plane&plane=p9")).await, "PLANE_UNKNOWN");
    assert_eq!(world.code("sdk:pipe", by_scope, of_scope("table=chunks&plane=p9")).await, "MAPPING_WRONG");
    assert_eq!(world.code("sdk:pipe", by_scope, json!({"store": "none", "scope": scope})).await, "STORE_UNKNOWN");
    let mut confined = call("sdk:pipe", by_scope, of_scope("table=chunks&plane_column=plane&plane=p2"));
    confined.tenant = Some("acme".into());
    match world.dispatch(&confined).await {
        lethe_worker::operations::Answer::Refused(refusal) => assert_eq!(refusal.code.as_str(), "INGEST_REFUSED"),
        done => panic!("{done:?}"),
    }

    // In grace as its terms say; from the request on, for what drains.
    world.request(&plane, "1h").await;
    assert_eq!(world.code("sdk:pipe", write, of_plane()).await, "INGEST_REFUSED", "it is leaving, read_only");
    world.drain().await;
    assert_eq!(world.code("sdk:pipe", by_scope, of_scope(scope)).await, "INGEST_REFUSED");
    world.call("user:alice", "knowledge.offboarding.cancel", json!({"plane": plane, "reason": "r"})).await;
    world.drain().await;
    assert_eq!(world.call("sdk:pipe", write, of_plane()).await["allowed"], true, "cancelled: it is back in service");
    let mut full = request(&plane, "1h");
    full["grace_access"] = json!("full");
    world.call("user:alice", "knowledge.offboarding.request", full).await;
    world.drain().await;
    assert_eq!(world.call("sdk:pipe", write, of_plane()).await["allowed"], true, "grace leaves everything open");
    world.clock.advance(TimeDelta::hours(1));
    assert_eq!(
        world.code("sdk:pipe", write, of_plane()).await,
        "INGEST_REFUSED",
        "its end ends it, whether a worker was here or not"
    );
    world.advance(TimeDelta::zero()).await;
    assert_eq!(world.state(&plane).await, "ARCHIVED");
    assert_eq!(world.code("sdk:pipe", write, of_plane()).await, "INGEST_REFUSED");
    world.approve(&plane).await;
    world.drain().await;
    assert_eq!(world.code("sdk:pipe", write, of_plane()).await, "PLANE_PURGED");
    assert_eq!(world.code("sdk:pipe", by_scope, of_scope(scope)).await, "PLANE_PURGED");
    // When nothing but the digest of its value is left of it, and when the store is gone.
    for _ in 0..3 {
        world.clock.advance(TimeDelta::days(30));
        world.probe().await;
    }
    assert_eq!(world.kept_scopes().await, 0);
    std::fs::remove_file(world.store_file()).unwrap();
    assert_eq!(world.code("sdk:pipe", by_scope, of_scope(scope)).await, "PLANE_PURGED");
    assert!(world.blocked(&plane, "PLANE_PURGED").await >= 3, "each is on record");
    assert!(world.blocked(&plane, "INGEST_REFUSED").await >= 4);
    invariants::check(&world).await;
}

#[tokio::test]
async fn many_workers_at_once_ask_each_probe_once() {
    let world = World::with("[probe]\nafter = [\"1h\", \"2h\"]\n").await;
    let plane = world.acme(5).await;
    world.purged(&plane).await;
    world.purged("globex/handbook").await;
    let others = world.number("SELECT count(*) FROM probes").await;
    assert_eq!(others, 4);
    // The clock steps over all of them.
    world.clock.advance(TimeDelta::hours(3));
    let workers = (0..4).map(|number| {
        let app = world.app.clone();
        tokio::spawn(async move { app.manager.probe_due(&format!("worker-{number}"), None).await.expect("probe") })
    });
    let mut clean = 0;
    for worker in workers.collect::<Vec<_>>() {
        clean += worker.await.expect("a report").clean;
    }
    assert_eq!(clean, 4);
    assert_eq!(world.number("SELECT count(*) FROM trail WHERE event_type = 'PROBED'").await, 4);
    assert_eq!(world.kept_scopes().await, 0);
    invariants::check(&world).await;
}

/// Who claims a probe knows of those that another one has claimed and not committed yet.
#[tokio::test(flavor = "multi_thread")]
async fn of_a_planes_probes_one_is_claimed_at_a_time() {
    if !crate::ON_POSTGRES {
        // One writes at a time.
        return;
    }
    let world = World::with("[probe]\nafter = [\"1h\", \"2h\"]\n").await;
    let plane = world.acme(5).await;
    world.purged(&plane).await;
    world.clock.advance(TimeDelta::hours(3));
    let (claimed, is_claimed) = tokio::sync::oneshot::channel();
    let (release, released) = tokio::sync::oneshot::channel::<()>();
    let (ledger, app) = (world.app.ledger.clone(), world.app.clone());
    let first = tokio::spawn(async move {
        let work = async |tx: &mut Tx| {
            let lease = Lease { owner: "worker-1".into(), until: tx.at() + TimeDelta::seconds(60) };
            let probes = tx.claim_probes(1, &lease, None).await?;
            claimed.send(()).unwrap();
            released.await.unwrap();
            Ok::<_, Fault>(probes.len())
        };
        ledger.transact_under_control(work).await.unwrap().into_inner()
    });
    is_claimed.await.unwrap();
    let second = tokio::spawn(async move { app.manager.claim_probe("worker-2", None).await.unwrap() });
    let waits = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    while !second.is_finished() && world.number(waits).await == 0 {
        tokio::task::yield_now().await;
    }
    release.send(()).unwrap();
    assert_eq!(first.await.unwrap(), 1);
    assert!(second.await.unwrap().is_none(), "two of one plane at a time");
    assert_eq!(world.texts("SELECT status FROM probes ORDER BY due_at").await, ["running", "queued"]);
}

#[tokio::test]
async fn a_probe_whose_worker_is_lost_is_asked_again_and_the_lost_answer_says_nothing() {
    let world = World::with("[queue]\ninterruptions_max = 2\n").await;
    let plane = world.acme(5).await;
    world.purged(&plane).await;
    world.clock.advance(TimeDelta::days(1));
    let manager = &world.app.manager;
    let lost = manager.claim_probe("worker-lost", None).await.unwrap().expect("a probe");
    let late = manager.perform_probe(&lost).await;
    assert_eq!(world.probe().await, NONE, "leased");
    world.clock.advance(TimeDelta::seconds(61));
    assert_eq!(world.probe().await, CLEAN);
    assert_eq!(manager.record_probe(&lost, "worker-lost", &late).await.unwrap(), RecordResult::Stale);
    assert_eq!(world.entries(&plane, "PROBED").await, 1);
    // One that takes its process down with it does not go on for ever.
    world.clock.advance(TimeDelta::days(7));
    for _ in 0..2 {
        manager.claim_probe("worker-lost", None).await.unwrap().expect("a probe");
        world.clock.advance(TimeDelta::seconds(61));
    }
    assert_eq!(world.probe().await, NONE);
    assert_eq!(world.texts("SELECT status FROM probes ORDER BY due_at").await, ["clean", "failed", "queued", "queued"]);
    assert_eq!(world.entries(&plane, "PROBE_FAILED").await, 1);
    invariants::check(&world).await;
}

#[tokio::test]
async fn a_probe_that_cannot_be_asked_is_tried_again_then_failed_and_shown_and_has_a_way_back() {
    let world = World::with("[probe]\nafter = [\"1d\"]\n").await;
    let plane = world.acme(5).await;
    world.purged(&plane).await;
    world.clock.advance(TimeDelta::days(1));
    world.faults.fail(0, Failing::Panics);
    assert_eq!(world.probe().await, FAILED);
    assert_eq!(world.probe().await, NONE, "not at once");
    world.clock.advance(TimeDelta::seconds(40));
    // The store is gone for good: no retry helps that.
    let away = world.dir.path().join("away.db");
    std::fs::rename(world.store_file(), &away).unwrap();
    let mut rounds = 0;
    while !world.texts("SELECT status FROM probes").await.contains(&"failed".to_owned()) {
        assert_eq!(world.probe().await, FAILED);
        world.clock.advance(TimeDelta::hours(1));
        rounds += 1;
        assert!(rounds < 5);
    }
    assert_eq!(world.entries(&plane, "PROBE_FAILED").await, 1);
    let due = world.call("user:root", "knowledge.probe.list", json!({"due": true})).await;
    assert_eq!(due["probes"][0]["status"], "failed", "{due}");
    assert_eq!(world.kept_scopes().await, 1, "it is still needed");
    let planned = world.texts("SELECT cause FROM probes WHERE status = 'queued'").await;
    assert_eq!(planned, ["again"], "it is asked again, day by day");
    std::fs::rename(&away, world.store_file()).unwrap();
    assert_eq!(world.run_probe("user:bob", &plane).await, CLEAN);
    assert_eq!(world.kept_scopes().await, 0);
    invariants::check(&world).await;
}

#[tokio::test]
async fn a_pause_keeps_probes_from_being_asked_and_a_suspect_clock_does_not() {
    let world = World::new().await;
    let plane = world.acme(5).await;
    world.purged(&plane).await;
    world.call("user:root", "knowledge.control.pause", json!({"tenant": "acme", "reason": "r"})).await;
    world.clock.advance(TimeDelta::days(1));
    assert_eq!(world.probe().await, NONE);
    world.call("user:root", "knowledge.control.resume", json!({"tenant": "acme"})).await;
    let suspect = crate::support::ledger::either("1", "now()");
    world.sql(&format!("UPDATE witness SET clock_suspect_since = {suspect}")).await;
    assert_eq!(world.probe().await, CLEAN, "it destroys nothing");
    invariants::check(&world).await;
}

#[tokio::test]
async fn what_is_kept_for_probes_is_what_the_configuration_says() {
    for (config, probes, scopes, known, vector) in [
        ("[probe]\nafter = []\n", 0, 0, false, false),
        ("[probe]\nkeep = \"none\"\n", 3, 1, false, false),
        ("[probe]\nkeep = \"vectors\"\n", 3, 1, true, true),
    ] {
        let world = World::with(config).await;
        let plane = world.acme(5).await;
        world.purged(&plane).await;
        assert_eq!(world.number("SELECT count(*) FROM probes").await, probes);
        assert_eq!(world.kept_scopes().await, scopes);
        if scopes > 0 {
            let kept = world.texts("SELECT CAST(scopes AS TEXT) FROM probe_scopes").await.remove(0);
            assert_eq!((kept.contains("\"digest\""), kept.contains("\"vector\"")), (known, vector), "{kept}");
            world.clock.advance(TimeDelta::days(1));
            assert_eq!(world.probe().await, CLEAN);
        } else {
            assert_eq!(world.code("user:bob", "knowledge.probe.run", json!({"plane": plane})).await, "NOTHING_TO_PROBE");
        }
        invariants::check(&world).await;
    }
}

const EVIDENCE: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn attest(plane: &str) -> Json {
    json!({"store": "kb", "plane": plane, "reason": "the cluster was decommissioned", "evidence_sha256": EVIDENCE})
}

#[tokio::test]
async fn a_store_that_is_gone_is_attested_by_two_persons_and_the_plan_is_approved_anew() {
    let world = World::new().await;
    let plane = world.acme(5).await;
    let propose = "integrations.store.attest";
    let confirm = "integrations.store.confirm_attestation";
    assert_eq!(world.code("user:bob", propose, attest(&plane)).await, "ATTESTATION_REFUSED", "its data would be lost with it");
    world.archived(&plane).await;
    assert_eq!(world.code("user:bob", propose, attest(&plane)).await, "STORE_ANSWERS");
    world.approve(&plane).await;
    let away = world.dir.path().join("away.db");
    std::fs::rename(world.store_file(), &away).unwrap();
    world.drain().await;
    for _ in 0..3 {
        world.advance(TimeDelta::hours(1)).await;
    }
    assert_eq!(world.run(&plane).await, ("purge".into(), "halted".into()), "{}", world.status(&plane).await);
    let plan = world.status(&plane).await["offboarding"]["plan_digest"].clone();

    // Two persons, neither of them who requested it.
    assert_eq!(world.code("user:alice", propose, attest(&plane)).await, "ATTESTATION_BY_SELF");
    let mut wrong = attest(&plane);
    wrong["evidence_sha256"] = json!("a letter");
    assert_eq!(world.code("user:bob", propose, wrong).await, "INVALID_ARGUMENT");
    assert_eq!(world.code("sdk:bot", propose, attest(&plane)).await, "NOT_AUTHORISED");
    let proposed = world.call("user:bob", propose, attest(&plane)).await;
    let second = |id: &Json| json!({"attestation_id": id, "reason": "I saw the invoice"});
    let id = proposed["attestation_id"].clone();
    assert_eq!(world.code("user:bob", confirm, second(&id)).await, "ATTESTATION_BY_SELF");
    assert_eq!(world.code("user:alice", confirm, second(&id)).await, "ATTESTATION_BY_SELF");
    assert_eq!(world.code("user:carol", confirm, second(&json!(plane))).await, "ATTESTATION_UNKNOWN");
    // It is asked once more: one that is back is not gone.
    std::fs::rename(&away, world.store_file()).unwrap();
    assert_eq!(world.code("user:carol", confirm, second(&id)).await, "STORE_ANSWERS");
    std::fs::rename(world.store_file(), &away).unwrap();
    let one = "UPDATE attestations SET confirmed_by = proposed_by, confirmed_at = proposed_at";
    assert!(world.try_sql(one).await.is_err(), "the ledger itself knows that it takes two");
    let confirmed = world.call("user:carol", confirm, second(&id)).await;
    assert_ne!(confirmed["plan_digest"], plan, "{confirmed}");
    assert_eq!(world.code("user:carol", confirm, second(&id)).await, "ATTESTATION_UNKNOWN", "once");
    assert_eq!(world.code("user:bob", propose, attest(&plane)).await, "ATTESTATION_REFUSED", "once");

    // What was approved is another plan.
    world.call("user:alice", "knowledge.offboarding.retry", json!({"plane": plane, "reason": "go on"})).await;
    world.drain().await;
    assert!(world.blocked_by(&plane).await.contains(&"PLAN_CHANGED".to_owned()), "{}", world.status(&plane).await);
    let shown = world.call("user:bob", "knowledge.offboarding.plan", json!({"plane": plane})).await;
    let text = shown["text"].as_str().unwrap();
    assert!(text.contains("NOTHING IS VERIFIED") && text.contains(EVIDENCE), "{text}");
    world.approve(&plane).await;
    world.drain().await;
    assert_eq!(world.state(&plane).await, "PURGED", "{}", world.status(&plane).await);
    let body = world.texts("SELECT body FROM trail WHERE event_type = 'STAGE_COMPLETED' ORDER BY place DESC LIMIT 1").await;
    let evidence: Json = serde_json::from_str(&body[0]).unwrap();
    let store = &evidence["evidence"]["stores"][0];
    assert_eq!((&store["proof"], &store["verified"]), (&json!("attested, not verified"), &json!(false)), "{evidence}");
    assert_eq!((&store["attested"]["attestation_id"], &store["attested"]["evidence_sha256"]), (&id, &json!(EVIDENCE)));
    assert_eq!(world.entries(&plane, "ATTESTED").await, 1);
    assert!(!body[0].contains("carol") && !body[0].contains("bob"), "who it was stands beside the entry, not in it");

    // Probes pass over it as well, until it is back.
    world.clock.advance(TimeDelta::days(1));
    assert_eq!(world.probe().await, CLEAN);
    std::fs::rename(&away, world.store_file()).unwrap();
    world.clock.advance(TimeDelta::days(6));
    assert_eq!(world.probe().await, FOUND, "it is there again, and was never closed for good");
    assert_eq!(seen(&world.finding(&plane).await.unwrap())["fence"], "outdated");
    invariants::check(&world).await;
}

#[tokio::test]
async fn a_store_that_was_attested_gone_and_answers_halts_the_purge() {
    let world = World::new().await;
    let plane = world.acme(5).await;
    world.archived(&plane).await;
    let away = world.dir.path().join("away.db");
    std::fs::rename(world.store_file(), &away).unwrap();
    let proposed = world.call("user:bob", "integrations.store.attest", attest(&plane)).await;
    let second = json!({"attestation_id": proposed["attestation_id"], "reason": "r"});
    world.call("user:carol", "integrations.store.confirm_attestation", second).await;
    std::fs::rename(&away, world.store_file()).unwrap();
    world.approve(&plane).await;
    world.drain().await;
    assert_eq!(world.run(&plane).await, ("purge".into(), "halted".into()));
    assert_eq!(world.status(&plane).await["offboarding"]["last_error"]["code"], "STORE_ANSWERS");
    assert!(world.dir.path().join("archive").join(&plane).read_dir().unwrap().next().is_some(), "the archive is still there");
    // The way back: what was attested is over, and the plan that names the store again is approved anew.
    world.call("user:alice", "knowledge.offboarding.retry", json!({"plane": plane, "reason": "it was only away"})).await;
    world.drain().await;
    assert_eq!(
        world.blocked_by(&plane).await,
        ["PLAN_CHANGED"],
        "what released the plan without the store does not release this one"
    );
    assert_eq!(world.number("SELECT count(*) FROM attestations WHERE confirmed_at IS NOT NULL").await, 0);
    world.approve(&plane).await;
    world.drain().await;
    assert_eq!(world.state(&plane).await, "PURGED");
    invariants::check(&world).await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4, ..ProptestConfig::default() })]

    #[test]
    fn no_probe_is_asked_earlier_than_promised_however_the_clock_steps(
        after in prop::collection::vec(1_i64..5_000, 1..5),
        steps in prop::collection::vec(0_i64..2_000, 1..12),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let spans: Vec<_> = after.iter().map(|minutes| format!("\"{minutes}m\"")).collect();
            let world = World::with(&format!("[probe]\nafter = [{}]\n", spans.join(", "))).await;
            let plane = world.acme(3).await;
            world.purged(&plane).await;
            let purged: DateTime<Utc> = world.app.ledger.now();
            let mut asked = 0;
            for step in steps {
                world.clock.advance(TimeDelta::minutes(step));
                asked += world.probe().await.clean;
                let passed = (world.app.ledger.now() - purged).num_minutes();
                let due = after.iter().filter(|minutes| **minutes <= passed).count() as u64;
                assert_eq!(asked, due, "{passed} minutes after the purge, of {after:?}");
            }
            invariants::check(&world).await;
        });
    }
}

#[tokio::test]
async fn who_is_confined_to_a_tenant_learns_nothing_of_a_store_that_is_not_open_to_it() {
    let world = World::new().await;
    world.acme(2).await;
    let file = world.dir.path().join("own.db");
    knowledge::create(&file, &[("q1", 2)]).await;
    let url = format!("sqlite:{}", file.display());
    world.call("user:root", "integrations.store.add", json!({"name": "own", "url": url, "tenants": ["acme"]})).await;
    let scope = |tenant: &str, scope: &str| {
        let mut call = call("sdk:pipe", "knowledge.access.check_scope", json!({"store": "own", "scope": scope}));
        call.tenant = Some(tenant.into());
        call
    };
    for text in ["table=chunks&plane_column=nope&plane=q1&key=id", "table=chunks&plane_column=plane&plane=q1"] {
        for (tenant, expected) in
            [("globex", "STORE_UNKNOWN"), ("acme", if text.contains("nope") { "MAPPING_WRONG" } else { "PLANE_UNKNOWN" })]
        {
            match world.dispatch(&scope(tenant, text)).await {
                lethe_worker::operations::Answer::Refused(refusal) => {
                    assert_eq!(refusal.code.as_str(), expected, "{tenant}: {refusal}")
                }
                done => panic!("{done:?}"),
            }
        }
    }
}
