//! A process that dies anywhere loses nothing and repeats nothing: the real binary is killed at every crash point, started again, and
//! ends where it would have ended.

use lethe_stages::crash::CrashPoint;

use crate::support::{binary::Installed, knowledge};

/// In which part of the story a process runs: up to the grace period, up to ARCHIVED, or the purge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Request,
    Archive,
    Purge,
}

const CONFIG: &str = "[archive]\npart_rows_max = 10\n";

/// Tells the story, killing the process once at `crash` in `part`.
async fn story(ground: &str, part: Part, crash: &str) {
    let installed = Installed::with_plane(45, CONFIG).await;
    let neighbour = knowledge::digest(&installed.path("knowledge.db"), "p2").await;
    let work = |now: Part| {
        if now == part {
            assert!(installed.work_until_crash(crash), "{crash} was not reached in {part:?}");
            // What is on record fits together as it was left, before anybody puts anything right.
            assert_eq!(installed.done(&["audit", "verify"])["audit"], "verified", "after {crash} in {part:?}");
            installed.outlive_leases();
        }
        installed.work();
    };
    let mut request = vec!["offboard", "acme/handbook", "--ground", ground, "--reason", "done", "--grace", "1h"];
    if ground == "contract_end" {
        request.extend(["--retention", "0s"]);
    }
    installed.done(&request);
    work(Part::Request);
    assert_eq!(installed.state("acme/handbook"), "PENDING_DEACTIVATE");
    installed.set_clock(4000);
    work(Part::Archive);
    assert_eq!(installed.state("acme/handbook"), "ARCHIVED", "{}", installed.status("acme/handbook"));
    installed.done(&["approval", "grant", "acme/handbook", "--reason", "checked", "--actor", "user:bob"]);
    work(Part::Purge);
    installed.assert_purged("acme/handbook", &neighbour).await;

    let trail = installed.trail("acme/handbook");
    for step in ["deregister", "verify", "deactivate", "export", "purge"] {
        let completed = trail.iter().filter(|line| **line == format!("STAGE_COMPLETED {step}")).count();
        assert_eq!(completed, 1, "{step} in {trail:#?}");
    }
    let interrupted = trail.iter().filter(|line| line.starts_with("STAGE_INTERRUPTED")).count();
    // The commit of a record also claims what is due then, and that is lost with the process.
    let at_least = usize::from(!["recorded", "committed"].contains(&crash.split('#').next().expect("a name")));
    assert!((at_least..=1).contains(&interrupted), "{interrupted} interruptions in {trail:#?}");
    assert!(!trail.iter().any(|line| line.starts_with("STAGE_FAILED")), "{trail:#?}");
}

/// Where each crash point is reached, and after how many passes of it.
fn places(point: CrashPoint) -> Vec<(&'static str, Part, String)> {
    use CrashPoint::*;
    let at = |part, n| ("contract_end", part, format!("{}#{n}", point.as_str()));
    match point {
        Claimed | Performed | Recorded => {
            let mut places = vec![at(Part::Request, 1), at(Part::Purge, 1)];
            places.extend((1..=4).map(|n| at(Part::Archive, n)));
            places
        }
        Committed => {
            let mut places: Vec<_> = (1..=3).map(|n| at(Part::Request, n)).collect();
            places.extend((1..=6).map(|n| at(Part::Archive, n)));
            places.extend((1..=3).map(|n| at(Part::Purge, n)));
            places
        }
        DeregisterNoted | DeregisterFenced => vec![at(Part::Request, 1)],
        VerifyProbed | DeactivateClosed | ExportReadBack | ExportManifestWritten | EvictErased | EvictScrubbed => {
            vec![at(Part::Archive, 1)]
        }
        ExportPartWritten => {
            vec![at(Part::Archive, 1), at(Part::Archive, 3), ("erasure_request", Part::Archive, at(Part::Archive, 3).2)]
        }
        EvictBatchErased => {
            vec![at(Part::Archive, 1), at(Part::Archive, 5), ("erasure_request", Part::Purge, at(Part::Purge, 3).2)]
        }
        PurgeObjectDeleted => {
            vec![at(Part::Purge, 1), at(Part::Purge, 2), ("erasure_request", Part::Purge, at(Part::Purge, 2).2)]
        }
        PurgeStoresEmpty | PurgePartsDeleted | PurgeManifestDeleted => {
            vec![at(Part::Purge, 1), ("erasure_request", Part::Purge, at(Part::Purge, 1).2)]
        }
        // Reached only after a cancel, or where something depends on the plane: see comeback.rs.
        DeregisterSuspended | RestoreUnfenced | RestoreResumed | RestoreSettled => Vec::new(),
        // Of no stage: see log.rs.
        LogSealed | LogTilePublished | LogCheckpointPublished => Vec::new(),
        // Of no stage: see restore.rs.
        ArchivePartRestored | ArchiveRestoreNamed => Vec::new(),
    }
}

/// What stores and archives do does not depend on where the ledger is: on PostgreSQL one story for each point, and all for its commits.
fn chosen(point: CrashPoint) -> Vec<(&'static str, Part, String)> {
    let all = places(point);
    let most = if crate::ON_POSTGRES && point != CrashPoint::Committed { 1 } else { all.len() };
    all.into_iter().take(most).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_every_crash_point_it_ends_where_it_would_have_ended() {
    let mut stories = tokio::task::JoinSet::new();
    let mut told = 0;
    for (ground, part, crash) in CrashPoint::ALL.iter().flat_map(|point| chosen(*point)) {
        if told >= 4 {
            stories.join_next().await.expect("a story").expect("a story that ends well");
        }
        println!("{ground}, {part:?}: {crash}");
        stories.spawn(async move { story(ground, part, &crash).await });
        told += 1;
    }
    while let Some(story) = stories.join_next().await {
        story.expect("a story that ends well");
    }
    assert!(told >= if crate::ON_POSTGRES { 25 } else { 40 }, "{told} stories");
}

#[tokio::test]
async fn a_cancel_that_dies_half_way_is_still_undone() {
    let installed = Installed::with_plane(5, "").await;
    installed.done(&["offboard", "acme/handbook", "--ground", "internal", "--reason", "done", "--grace", "1h", "--wait"]);
    let killed = installed
        .command(&["offboarding", "cancel", "acme/handbook", "--reason", "no"])
        .env("LETHE_CRASH_AT", CrashPoint::RestoreUnfenced.as_str())
        .output()
        .expect("run the binary");
    assert!(!killed.status.success());
    assert_eq!(installed.state("acme/handbook"), "ACTIVE", "the decision stands");
    installed.outlive_leases();
    installed.work();
    assert_eq!(installed.status("acme/handbook")["offboarding"]["run_status"], "succeeded");
    let mut db = knowledge::open(&installed.path("knowledge.db")).await;
    knowledge::insert(&mut db, "p1", 99).await.expect("writes work again");
}
