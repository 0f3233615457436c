//! A clock that jumped and a ledger that was restored from a backup destroy nothing until a person has looked.

use serde_json::Value as Json;

use crate::support::{binary::Installed, knowledge};

fn blocked(installed: &Installed) -> Vec<String> {
    let status = installed.status("acme/handbook");
    let blocked = status["offboarding"]["blocked_by"].as_array().expect("a list").clone();
    blocked.iter().map(|by: &Json| by["code"].as_str().expect("a code").to_owned()).collect()
}

fn request(installed: &Installed, grace: &str) {
    installed.done(&[
        "offboard",
        "acme/handbook",
        "--ground",
        "internal",
        "--reason",
        "done",
        "--grace",
        grace,
        "--retention",
        "0s",
    ]);
}

fn grant(installed: &Installed) {
    installed.done(&["approval", "grant", "acme/handbook", "--reason", "checked", "--actor", "user:bob"]);
}

#[tokio::test]
async fn a_ledger_restored_from_a_backup_destroys_nothing_until_it_is_reconciled() {
    let installed = Installed::with_plane(12, "").await;
    let neighbour = knowledge::digest(&installed.path("knowledge.db"), "p2").await;
    request(&installed, "0s");
    installed.work();
    grant(&installed);
    installed.done(&["pause", "--all", "--reason", "backup"]);
    let copied = installed.done(&["ledger", "backup", "--to", "backup.db"]);
    assert_eq!((&copied["audit"], &copied["file"]), (&"verified".into(), &"ok".into()));
    let again = installed.run(&["ledger", "backup", "--to", "backup.db"]);
    assert_eq!(again.status.code(), Some(1), "a backup overwrites nothing");
    // What the backup does not know: a hold, and that the approval was withdrawn.
    installed.done(&["approval", "withdraw", "acme/handbook", "--reason", "wait"]);
    installed.done(&["hold", "place", "acme/handbook", "--reason", "litigation"]);

    for leftover in ["lethe.db-wal", "lethe.db-shm"] {
        let _ = std::fs::remove_file(installed.path(leftover));
    }
    std::fs::copy(installed.path("backup.db"), installed.path("lethe.db")).expect("restore the backup");
    installed.done(&["resume", "--all"]);
    installed.work();
    assert_eq!(installed.state("acme/handbook"), "ARCHIVED");
    assert_eq!(blocked(&installed), ["LEDGER_BEHIND"]);
    let check = installed.run(&["ledger", "check", "--json"]);
    let found: Json = serde_json::from_slice(&check.stdout).expect("a document");
    assert_eq!((check.status.code(), &found["ledger"], &found["may_destroy"]), (Some(1), &"suspect".into(), &false.into()));

    let reconciled = installed.done(&["ledger", "reconcile", "--reason", "restored after the disk failed"]);
    assert_eq!(reconciled["approvals_withdrawn"], 1, "whether it was withdrawn since cannot be known");
    assert_eq!(reconciled["probed"][0]["findings"].as_array().map(Vec::len), Some(0), "{reconciled}");
    installed.work();
    assert_eq!(blocked(&installed), ["APPROVAL_REQUIRED"]);
    grant(&installed);
    installed.work();
    installed.assert_purged("acme/handbook", &neighbour).await;
    assert_eq!(installed.done(&["ledger", "check"])["ledger"], "sound");
    let refused = installed.run(&["ledger", "reconcile", "--reason", "again", "--json"]);
    assert_eq!(refused.status.code(), Some(3));
}

#[tokio::test]
async fn reconciling_finds_what_was_purged_after_the_backup() {
    let installed = Installed::with_plane(12, "").await;
    let neighbour = knowledge::digest(&installed.path("knowledge.db"), "p2").await;
    request(&installed, "0s");
    installed.work();
    installed.done(&["ledger", "backup", "--to", "backup.db"]);
    grant(&installed);
    installed.work();
    assert_eq!(installed.state("acme/handbook"), "PURGED");

    for leftover in ["lethe.db-wal", "lethe.db-shm"] {
        let _ = std::fs::remove_file(installed.path(leftover));
    }
    std::fs::copy(installed.path("backup.db"), installed.path("lethe.db")).expect("restore the backup");
    installed.work();
    let reconciled = installed.done(&["ledger", "reconcile", "--reason", "restored"]);
    let finding = reconciled["probed"][0]["findings"][0].as_str().expect("a finding");
    assert!(finding.contains("purged after this backup"), "{finding}");
    // What was published of the log is another past, so this one goes on as another log.
    assert!(installed.done(&["log", "show"])["stopped_why"].as_str().expect("why").contains("rolled back"));
    let again = |name: &str| installed.path(name).display().to_string();
    installed.done(&["log", "init-key", &again("again.key"), "--name", "example.com/again"]);
    let config = format!("[log]\nkey = \"file:{}\"\npublish = \"file://{}\"\n", again("again.key"), again("again"));
    std::fs::write(installed.path("lethe.toml"), config).expect("write the configuration");
    installed.done(&["log", "adopt-key", "--reason", "restored from a backup"]);
    // The ledger's copy of the manifest lets the purge be told again, to the same end.
    grant(&installed);
    installed.work();
    installed.assert_purged("acme/handbook", &neighbour).await;
}

#[tokio::test]
async fn a_clock_set_a_year_ahead_erases_nothing_until_it_is_confirmed() {
    let installed = Installed::with_plane(12, "").await;
    let before = knowledge::digest(&installed.path("knowledge.db"), "p1").await;
    request(&installed, "7d");
    installed.work();
    std::fs::write(installed.path("clock"), "0 31536000").expect("set the clock a year ahead");
    installed.work();
    assert_eq!(blocked(&installed), ["CLOCK_SUSPECT"], "{}", installed.status("acme/handbook"));
    assert_eq!(knowledge::digest(&installed.path("knowledge.db"), "p1").await, before);
    // Every further look finds it suspect too, on record once.
    installed.work();
    assert_eq!(knowledge::digest(&installed.path("knowledge.db"), "p1").await, before);
    let suspected = installed.done(&["audit", "list", "--type", "CLOCK_SUSPECT"]);
    assert_eq!(suspected["entries"].as_array().map(Vec::len), Some(1), "{suspected}");

    let confirmed = installed.run(&["ledger", "confirm-clock", "--reason", "it was a year behind", "--actor", "system:cron"]);
    assert_eq!(confirmed.status.code(), Some(3), "only a person confirms");
    installed.done(&["ledger", "confirm-clock", "--reason", "it was a year behind"]);
    installed.work();
    assert_eq!(installed.state("acme/handbook"), "ARCHIVED");
}

#[tokio::test]
async fn time_that_really_passes_raises_no_suspicion() {
    let installed = Installed::with_plane(3, "").await;
    request(&installed, "300d");
    installed.work();
    installed.set_clock(301 * 86_400);
    installed.work();
    assert_eq!(installed.state("acme/handbook"), "ARCHIVED");
}

#[tokio::test]
async fn a_damaged_ledger_is_told_from_a_sound_one() {
    let installed = Installed::with_plane(3, "").await;
    assert_eq!(installed.done(&["ledger", "check"])["ledger"], "sound");
    let mut db = knowledge::open(&installed.path("lethe.db")).await;
    sqlx::raw_sql("DROP TRIGGER trail_is_not_deleted; PRAGMA foreign_keys = OFF; DELETE FROM trail WHERE event_type = 'REGISTERED' AND plane_id IS NULL")
        .execute(&mut db)
        .await
        .expect("tamper");
    let check = installed.run(&["ledger", "check", "--json"]);
    let found: Json = serde_json::from_slice(&check.stdout).expect("a document");
    assert_eq!((check.status.code(), &found["ledger"], &found["audit"]), (Some(1), &"suspect".into(), &"broken".into()));
}
