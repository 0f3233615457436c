//! What holds for a ledger in a file alone: its schema's version, its rows, its lock files, how it reads what is due.

use chrono::TimeDelta;
use lethe_ledger::{Fault, Ledger, OpenOptions, Tx};
use lethe_worker::{
    clock::SeededEntropy,
    manager::{RecordResult, WorkerLock},
};
use serde_json::json;
use std::sync::Arc;

use crate::support::{WORKER, World, call, invariants};

async fn claim_as(world: &World, worker: &str) -> Vec<lethe_worker::manager::Claimed> {
    world.app.manager.claim(4, worker, None).await.expect("claim").0
}

fn options(world: &World) -> OpenOptions {
    let url = format!("sqlite:{}", world.app.ledger.path().expect("a file").display());
    OpenOptions { url, clock: Arc::new(world.clock.clone()), entropy: Arc::new(SeededEntropy::new(9)) }
}

#[tokio::test]
async fn a_ledger_that_a_newer_program_wrote_is_not_touched() {
    let world = World::new().await;
    world.sql("INSERT INTO _sqlx_migrations VALUES (9999, 'later', '2027-01-01', 1, x'00', 0)").await;
    assert!(matches!(Ledger::open(options(&world)).await, Err(Fault::Newer { version: 9999, .. })));
    assert!(matches!(Ledger::migrate(options(&world), true).await, Err(Fault::Newer { version: 9999, .. })));
    world.sql("DELETE FROM _sqlx_migrations WHERE version >= 7").await;
    assert!(matches!(Ledger::open(options(&world)).await, Err(Fault::NotMigrated { .. })), "nor one that is older");
}

#[tokio::test]
async fn a_row_that_cannot_be_read_is_named_and_never_guessed() {
    let world = World::new().await;
    let plane = world.acme(1).await;
    let tenant = world.tenant_id("acme").await;
    let show = call("user:root", "knowledge.plane.show", json!({"plane": plane}));
    for (table, column, value, id) in [
        ("planes", "archive_id", "'nonsense'", &plane),
        ("planes", "created_at", "9e18", &plane),
        ("tenants", "status", "'golden'", &tenant),
        ("tenants", "created_at", "-9e18", &tenant),
    ] {
        let kept = format!("CREATE TEMP TABLE kept AS SELECT * FROM {table}");
        let before = world.texts(&format!("SELECT CAST({column} AS TEXT) FROM {table} WHERE id = '{id}'")).await.remove(0);
        let numeric = before.parse::<i64>().is_ok();
        world
            .sql(&format!(
                "PRAGMA ignore_check_constraints = ON; {kept}; UPDATE {table} SET {column} = {value} WHERE id = '{id}'"
            ))
            .await;
        let fault = world.app.dispatch(&show).await.expect_err(column);
        let Fault::Unreadable { table: at, column: of, id: row, .. } = &fault else { panic!("{fault:?}") };
        assert_eq!((*at, *of, row), (table, column, id), "{fault}");
        let again = if numeric { before } else { format!("'{before}'") };
        world.sql(&format!("UPDATE {table} SET {column} = {again} WHERE id = '{id}'")).await;
    }
    assert!(world.app.dispatch(&show).await.is_ok());
    invariants::check(&world).await;
}

#[tokio::test]
async fn history_and_waiting_work_do_not_slow_a_claim_or_a_record() {
    let world = World::new().await;
    let plane = world.acme(3).await;
    world.request(&plane, "7d").await;
    let history = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000)
        INSERT INTO stage_runs (id, offboarding_id, plane_id, tenant_id, step, status, attempt, interruptions, enqueued_at, finished_at)
        SELECT printf('00000000-0000-0000-0000-%012d', i), o.id, o.plane_id, o.tenant_id, 'verify', 'succeeded', 0, 0, i, i FROM n, offboardings o";
    world.sql(history).await;
    for _ in 0..2 {
        let [due, recorded] = world.app.ledger.read(async |tx: &mut Tx| tx.query_plans().await).await.unwrap();
        // The list that was asked for, the one rows about this ledger and its log, whether anything is paused, the plane's own bindings and approvals.
        let small = ["SCAN json_each", "SCAN w", "SCAN l", "SCAN pauses", "SCAN b", "SCAN y"];
        let scans = |plan: &[String]| {
            plan.iter().filter(|line| line.starts_with("SCAN") && !small.iter().any(|known| line.starts_with(known))).count()
        };
        assert_eq!(due[0], "SEARCH r USING INDEX stage_runs_due (due_at<?)", "{due:#?}");
        assert!(recorded[0].starts_with("SEARCH r USING INDEX sqlite_autoindex_stage_runs_1 (id=?)"), "{recorded:#?}");
        assert_eq!((scans(&due), scans(&recorded)), (0, 0), "{due:#?} {recorded:#?}");
        assert!(!due.iter().any(|line| line.contains("TEMP B-TREE FOR ORDER BY")), "{due:#?}");
        // The same once somebody has let the database count its rows.
        world.sql("ANALYZE").await;
    }
    world.drain().await;
    assert_eq!(world.state(&plane).await, "PENDING_DEACTIVATE");
    world.sql("DELETE FROM stage_runs WHERE id LIKE '00000000-0000-%'").await;
    invariants::check(&world).await;
}

#[tokio::test]
async fn probes_that_are_not_due_cost_a_claim_nothing() {
    let world = World::new().await;
    let plan = world.app.ledger.read(async |tx: &mut Tx| tx.probe_plan().await).await.unwrap();
    assert!(plan.iter().any(|line| line.starts_with("SEARCH p USING INDEX probes_due (due_at<?)")), "{plan:#?}");
    assert!(!plan.iter().any(|line| line.starts_with("SCAN p") || line.contains("TEMP B-TREE FOR ORDER BY")), "{plan:#?}");
}

#[tokio::test]
async fn a_dead_workers_run_is_taken_back_at_once_and_a_worker_of_the_same_name_goes_on_with_it() {
    let world = World::new().await;
    let plane = world.acme(3).await;
    world.request(&plane, "7d").await;
    let killed = world.claim(&plane).await;
    assert!(claim_as(&world, WORKER).await.is_empty(), "leased, be it to this name");
    // No lock file is held under this name: its process is gone. The sweep of any start sees that, long before the lease ends.
    let living = WorkerLock::acquire(&world.app.ledger).unwrap();
    assert_eq!(world.app.manager.sweep().await.unwrap().interrupted, 1);
    let again = world.claim(&plane).await;
    assert_eq!(
        world.finish(&killed).await,
        RecordResult::Stale,
        "what the killed one left says nothing, though the name is the same"
    );
    assert_eq!(world.finish(&again).await, RecordResult::Recorded);
    drop(living);
    invariants::check(&world).await;
}

#[tokio::test]
async fn a_living_workers_run_is_left_alone_until_its_lease_ends() {
    let world = World::new().await;
    let plane = world.acme(3).await;
    world.request(&plane, "7d").await;
    let lock = WorkerLock::acquire(&world.app.ledger).unwrap();
    let claimed = claim_as(&world, lock.id()).await.remove(0);
    world.clock.advance(TimeDelta::milliseconds(59_999));
    assert_eq!(world.app.manager.sweep().await.unwrap().interrupted, 0);
    drop(lock);
    assert_eq!(world.app.manager.sweep().await.unwrap().interrupted, 1, "its lock is free now: it is dead");
    assert_eq!(world.finish(&claimed).await, RecordResult::Stale);
    invariants::check(&world).await;
}
