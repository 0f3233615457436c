//! The queue: a run is performed by one worker at a time, whatever dies, and no history slows it. Each test here stands for a defect
//! that other queues were seen to have; that attempts stay bounded when processes die is in `retry`.

use chrono::TimeDelta;
use lethe_ledger::{Fault, Lease, NewRun, Tx};
use lethe_stages::ports::PortError;
use lethe_worker::manager::{RecordResult, WorkerLock};
use serde_json::json;

use crate::support::{WORKER, World, faults::Failing, invariants};

async fn claim_as(world: &World, worker: &str) -> Vec<lethe_worker::manager::Claimed> {
    world.app.manager.claim(4, worker, None).await.expect("claim").0
}

#[tokio::test]
async fn a_run_longer_than_its_lease_starts_once_while_the_lease_is_renewed() {
    let world = World::new().await;
    let plane = world.acme(3).await;
    world.request(&plane, "7d").await;
    let lock = WorkerLock::acquire(&world.app.ledger).unwrap();
    let claimed = claim_as(&world, lock.id()).await.remove(0);
    for _ in 0..10 {
        world.clock.advance(TimeDelta::seconds(40));
        let renewed = world.app.ledger.transact(async |tx: &mut Tx| {
            let lease = Lease { owner: lock.id().to_owned(), until: tx.at() + TimeDelta::seconds(60) };
            tx.renew(&[(claimed.case.run.id, claimed.epoch, None)], &lease).await
        });
        assert_eq!(renewed.await.unwrap().into_inner(), [claimed.case.run.id]);
        assert_eq!(world.app.manager.sweep().await.unwrap().interrupted, 0);
        assert!(claim_as(&world, "worker-other").await.is_empty(), "nobody else gets it");
    }
    let finished = world.app.manager.perform(&claimed).await;
    assert_eq!(world.app.manager.record(&[finished], lock.id()).await.unwrap(), [RecordResult::Recorded]);
    assert_eq!((world.entries(&plane, "STAGE_STARTED").await, world.state(&plane).await.as_str()), (1, "PENDING_DEACTIVATE"));
    invariants::check(&world).await;
}

#[tokio::test]
async fn a_lease_that_ran_out_is_not_renewed_any_more() {
    let world = World::new().await;
    let plane = world.acme(3).await;
    world.request(&plane, "7d").await;
    let lock = WorkerLock::acquire(&world.app.ledger).unwrap();
    let slow = claim_as(&world, lock.id()).await.remove(0);
    world.clock.advance(TimeDelta::seconds(60));
    assert_eq!(world.app.manager.sweep().await.unwrap().interrupted, 1, "the process lives, its lease does not");
    let other = claim_as(&world, "worker-other").await.remove(0);
    assert!(other.epoch > slow.epoch);
    let renewed = world.app.ledger.transact(async |tx: &mut Tx| {
        let lease = Lease { owner: lock.id().to_owned(), until: tx.at() + TimeDelta::seconds(60) };
        tx.renew(&[(slow.case.run.id, slow.epoch, None)], &lease).await
    });
    assert!(renewed.await.unwrap().into_inner().is_empty());
    // Both finish; only the newer claim is recorded.
    let (late, newer) = (world.app.manager.perform(&slow).await, world.app.manager.perform(&other).await);
    assert_eq!(world.app.manager.record(&[late], lock.id()).await.unwrap(), [RecordResult::Stale]);
    assert_eq!(world.app.manager.record(&[newer], "worker-other").await.unwrap(), [RecordResult::Recorded]);
    assert_eq!((world.entries(&plane, "STAGE_COMPLETED").await, world.entries(&plane, "TRANSITION").await), (1, 1));
    invariants::check(&world).await;
}

#[tokio::test]
async fn a_retry_keeps_its_delay_however_often_workers_ask() {
    let world = World::new().await;
    let plane = world.acme(3).await;
    world.request(&plane, "7d").await;
    world.faults.fail_with(0, Failing::NotDone, PortError::Transient("busy".into()));
    world.drain().await;
    for _ in 0..100 {
        world.clock.advance(TimeDelta::milliseconds(200));
        world.app.manager.sweep().await.unwrap();
        assert!(claim_as(&world, WORKER).await.is_empty());
    }
    assert_eq!(world.entries(&plane, "STAGE_STARTED").await, 1);
    invariants::check(&world).await;
}

#[tokio::test]
async fn what_a_stopping_worker_gives_back_costs_the_run_nothing() {
    let world = World::new().await;
    let plane = world.acme(3).await;
    world.request(&plane, "7d").await;
    let claimed = world.claim(&plane).await;
    world.app.manager.give_back(std::slice::from_ref(&claimed), WORKER).await.unwrap();
    let status = world.status(&plane).await["offboarding"].clone();
    assert_eq!((&status["run_status"], &status["attempt"], &status["interruptions"]), (&json!("queued"), &json!(0), &json!(0)));
    assert_eq!(world.finish(&claimed).await, RecordResult::Stale, "it is not the worker's any more");
    world.app.manager.give_back(&[claimed], WORKER).await.unwrap();
    assert_eq!(world.entries(&plane, "STAGE_INTERRUPTED").await, 1, "given back once");
    world.drain().await;
    assert_eq!(world.state(&plane).await, "PENDING_DEACTIVATE");
    invariants::check(&world).await;
}

#[tokio::test]
async fn one_stale_answer_in_a_batch_does_not_fail_its_neighbours() {
    let world = World::new().await;
    let plane = world.acme(3).await;
    world.request(&plane, "7d").await;
    world.request("globex/handbook", "7d").await;
    let claimed = claim_as(&world, WORKER).await;
    assert_eq!(claimed.len(), 2);
    let mut finished = Vec::new();
    for run in &claimed {
        finished.push(world.app.manager.perform(run).await);
    }
    world.call("user:alice", "knowledge.offboarding.cancel", json!({"plane": plane, "reason": "r"})).await;
    let results = world.app.manager.record(&finished, WORKER).await.unwrap();
    for (run, result) in claimed.iter().zip(results) {
        let stale = run.case.plane.id.to_string() == plane;
        assert_eq!(result, if stale { RecordResult::Stale } else { RecordResult::Recorded });
    }
    assert_eq!(world.state("globex/handbook").await, "PENDING_DEACTIVATE");
    invariants::check(&world).await;
}

#[tokio::test]
async fn the_same_answer_recorded_twice_counts_once() {
    let world = World::new().await;
    let plane = world.acme(3).await;
    world.request(&plane, "7d").await;
    let claimed = world.claim(&plane).await;
    let finished = world.app.manager.perform(&claimed).await;
    assert_eq!(world.record(&finished).await, RecordResult::Recorded);
    assert_eq!(world.record(&finished).await, RecordResult::Stale);
    let until = world.status(&plane).await["offboarding"]["deadlines"]["grace_until"].clone();
    world.clock.advance(TimeDelta::hours(1));
    assert_eq!(world.record(&finished).await, RecordResult::Stale);
    assert_eq!(world.status(&plane).await["offboarding"]["deadlines"]["grace_until"], until);
    invariants::check(&world).await;
}

#[tokio::test]
async fn only_the_worker_that_claimed_a_run_records_it() {
    let world = World::new().await;
    let plane = world.acme(3).await;
    world.request(&plane, "7d").await;
    let claimed = world.claim(&plane).await;
    let finished = world.app.manager.perform(&claimed).await;
    let results = world.app.manager.record(std::slice::from_ref(&finished), "worker-other").await.unwrap();
    assert_eq!(results, [RecordResult::Stale]);
    assert_eq!(world.record(&finished).await, RecordResult::Recorded);
    invariants::check(&world).await;
}

#[tokio::test]
async fn an_offboarding_that_follows_a_newer_plan_is_never_claimed_and_blocks_nobody() {
    let world = World::new().await;
    let plane = world.acme(3).await;
    world.request(&plane, "7d").await;
    world.clock.advance(TimeDelta::seconds(1));
    world.request("globex/handbook", "7d").await;
    world.sql(&format!("UPDATE offboardings SET plan_version = 2 WHERE plane_id = '{plane}'")).await;
    let (one, _) = world.app.manager.claim(1, WORKER, None).await.unwrap();
    assert_eq!(one.len(), 1, "the older one at the head of the queue is passed over, not waited for");
    assert_ne!(one[0].case.plane.id.to_string(), plane);
    assert_eq!(world.finish(&one[0]).await, RecordResult::Recorded);
    assert_eq!(world.drain().await, 0);
    assert_eq!(world.run(&plane).await, ("deregister".into(), "queued".into()));
    assert_eq!(world.entries(&plane, "STAGE_STARTED").await, 0);
    invariants::check(&world).await;
}

#[tokio::test]
async fn a_plane_has_one_open_run_whatever_is_written() {
    let world = World::new().await;
    let plane = world.acme(3).await;
    world.request(&plane, "7d").await;
    let id = plane.parse().unwrap();
    let second = world.app.ledger.transact(async |tx: &mut Tx| {
        let open = tx.open_case(id).await?.expect("an open run");
        let at = tx.at();
        let (offboarding_id, tenant_id) = (open.offboarding.id, open.plane.tenant_id);
        tx.enqueue(NewRun { offboarding_id, plane_id: id, tenant_id, step: lethe_stages::Step::Purge, due_at: at }).await
    });
    assert!(matches!(second.await, Err(Fault::Database { doing: "enqueue a run", .. })));
    assert_eq!(world.number("SELECT count(*) FROM stage_runs").await, 1);
    invariants::check(&world).await;
}
