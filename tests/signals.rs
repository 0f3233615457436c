//! Stopping, pausing and crowding processes: a worker that is told to stop, stands still or is not alone delays work and never does it twice.

use std::{
    process::Child,
    time::{Duration, Instant},
};

use sqlx::{Connection, SqliteConnection};

use crate::support::{
    binary::{Installed, signal},
    knowledge,
};

/// Waits for another process, up to 90 seconds: one that stands still in a transaction is thrown out by the server after 30, and until then
/// keeps others waiting.
async fn until(what: &str, mut there: impl FnMut() -> bool) {
    let began = Instant::now();
    while !there() {
        assert!(began.elapsed() < Duration::from_secs(90), "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Holds the knowledge base's write lock, so that a handler that fences it has to wait.
async fn locked(installed: &Installed) -> SqliteConnection {
    let mut db = knowledge::open(&installed.path("knowledge.db")).await;
    sqlx::query("BEGIN IMMEDIATE").execute(&mut db).await.expect("lock the store");
    db
}

/// Makes a process stand still, but not within a transaction on a ledger in a file: there it would keep everybody from writing until it goes
/// on, and no server throws it out.
async fn stand_still(installed: &Installed, process: &Child) {
    if crate::ON_POSTGRES {
        return signal(process, "STOP");
    }
    let mut ledger = knowledge::open(&installed.path("lethe.db")).await;
    sqlx::query("PRAGMA busy_timeout = 0").execute(&mut ledger).await.expect("do not wait");
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(90) {
        signal(process, "STOP");
        // All its threads stand still by then.
        tokio::time::sleep(Duration::from_millis(20)).await;
        if sqlx::raw_sql("BEGIN IMMEDIATE; ROLLBACK").execute(&mut ledger).await.is_ok() {
            return ledger.close().await.expect("close");
        }
        signal(process, "CONT");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("it was in a transaction whenever it was looked at");
}

async fn exits(mut child: Child, what: &str) {
    until(what, || child.try_wait().expect("wait").is_some()).await;
}

fn completed(installed: &Installed, step: &str) -> usize {
    installed.trail("acme/handbook").iter().filter(|line| **line == format!("STAGE_COMPLETED {step}")).count()
}

const REQUEST: [&str; 8] = ["offboard", "acme/handbook", "--ground", "internal", "--reason", "done", "--grace", "1h"];

#[tokio::test]
async fn sigterm_gives_back_what_runs_without_spending_an_attempt() {
    let installed = Installed::with_plane(5, "[queue]\nshutdown = \"1s\"\n").await;
    installed.done(&REQUEST);
    let lock = locked(&installed).await;
    let server = installed.spawn(&["serve"]);
    until("the run is claimed", || installed.status("acme/handbook")["offboarding"]["run_status"] == "running").await;
    signal(&server, "TERM");
    exits(server, "the server has stopped").await;
    let run = &installed.status("acme/handbook")["offboarding"];
    assert_eq!((&run["run_status"], &run["attempt"], &run["interruptions"]), (&"queued".into(), &0.into(), &0.into()), "{run}");
    lock.close().await.expect("unlock");
    installed.work();
    assert_eq!(installed.state("acme/handbook"), "PENDING_DEACTIVATE");
    assert_eq!(completed(&installed, "deregister"), 1);
}

#[tokio::test]
async fn a_worker_that_stood_still_past_its_lease_changes_nothing_when_it_wakes() {
    let installed = Installed::with_plane(5, "[queue]\nlease = \"1s\"\n").await;
    installed.done(&REQUEST);
    let lock = locked(&installed).await;
    let stopped = installed.spawn(&["serve"]);
    until("the run is claimed", || installed.status("acme/handbook")["offboarding"]["run_status"] == "running").await;
    stand_still(&installed, &stopped).await;
    lock.close().await.expect("unlock");
    // Its lock file is still held: only the lease tells.
    until("its lease has run out and another worker did the work", || {
        installed.work();
        installed.state("acme/handbook") == "PENDING_DEACTIVATE"
    })
    .await;
    signal(&stopped, "CONT");
    signal(&stopped, "TERM");
    exits(stopped, "the worker has stopped").await;
    assert_eq!(completed(&installed, "deregister"), 1);
    let run = &installed.status("acme/handbook")["offboarding"];
    assert_eq!((&run["step"], &run["run_status"]), (&"verify".into(), &"queued".into()));
    assert_eq!(installed.done(&["audit", "verify"])["audit"], "verified");
}

#[tokio::test]
async fn two_workers_on_one_ledger_do_each_run_once() {
    let installed = Installed::with_plane(5, "").await;
    let mut planes = vec!["handbook".to_owned()];
    for number in 0..7 {
        let name = format!("kb{number}");
        installed.register(&name, &format!("v{number}"));
        planes.push(name);
    }
    for plane in &planes {
        let plane = format!("acme/{plane}");
        installed.done(&["offboard", &plane, "--ground", "internal", "--reason", "done", "--grace", "0s", "--retention", "0s"]);
    }
    let workers = [installed.spawn(&["work", "--until-idle"]), installed.spawn(&["work", "--until-idle"])];
    for worker in workers {
        exits(worker, "a worker is idle").await;
    }
    installed.work();
    for plane in &planes {
        let plane = format!("acme/{plane}");
        assert_eq!(installed.state(&plane), "ARCHIVED", "{}", installed.status(&plane));
        let trail = installed.trail(&plane);
        for step in ["deregister", "verify", "deactivate", "export", "evict"] {
            assert_eq!(trail.iter().filter(|line| **line == format!("STAGE_COMPLETED {step}")).count(), 1, "{plane} {trail:#?}");
        }
    }
    assert_eq!(installed.done(&["audit", "verify"])["audit"], "verified");
}

#[tokio::test]
async fn a_hold_placed_while_an_eviction_runs_stops_it_and_says_so() {
    let installed = Installed::with_plane(5, "").await;
    installed.done(&[
        "offboard",
        "acme/handbook",
        "--ground",
        "internal",
        "--reason",
        "done",
        "--grace",
        "0s",
        "--retention",
        "0s",
    ]);
    installed.done(&["pause", "--stage", "archive", "--reason", "wait"]);
    installed.work();
    let lock = locked(&installed).await;
    installed.done(&["resume", "--stage", "archive"]);
    let worker = installed.spawn(&["serve"]);
    until("evict runs", || {
        let status = installed.status("acme/handbook");
        status["offboarding"]["step"] == "evict" && status["offboarding"]["run_status"] == "running"
    })
    .await;
    let hold = installed.done(&["hold", "place", "acme/handbook", "--reason", "litigation"]);
    assert_eq!(hold["stopped"][0]["step"], "evict", "{hold}");
    lock.close().await.expect("unlock");
    let status = installed.status("acme/handbook");
    assert_eq!(status["offboarding"]["blocked_by"][0]["code"], "HOLD_ACTIVE", "{status}");
    signal(&worker, "TERM");
    exits(worker, "the worker has stopped").await;
    installed.work();
    assert_eq!(installed.state("acme/handbook"), "DEACTIVATED", "held");
    installed.done(&["hold", "release", hold["hold_id"].as_str().expect("an id"), "--reason", "settled"]);
    installed.work();
    assert_eq!(installed.state("acme/handbook"), "ARCHIVED");
    assert_eq!(completed(&installed, "evict"), 1);
}
