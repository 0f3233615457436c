//! Faults from outside: full disks, files that are read-only, newer, edited or replaced, a clock that went back, two of everything. Each
//! gives a clear error, changes nothing and loses nothing, and once it is mended the work goes on.

use std::{
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::Value as Json;

use crate::support::{binary::Installed, knowledge};

const REQUEST: [&str; 10] =
    ["offboard", "acme/handbook", "--ground", "internal", "--reason", "done", "--grace", "0s", "--retention", "0s"];

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[output.stdout.clone(), output.stderr.clone()].concat()).into_owned()
}

fn failure(installed: &Installed) -> Json {
    installed.status("acme/handbook")["offboarding"]["last_error"].clone()
}

fn grant(installed: &Installed) {
    installed.done(&["approval", "grant", "acme/handbook", "--reason", "checked", "--actor", "user:bob"]);
}

fn retry(installed: &Installed) {
    installed.done(&["offboarding", "retry", "acme/handbook", "--reason", "mended"]);
    installed.work();
}

/// The only file below a folder whose name ends so.
fn the_file(folder: &Path, ending: &str) -> PathBuf {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in folder.read_dir().expect("read the folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.to_string_lossy().ends_with(ending) {
                found.push(path);
            }
        }
    }
    assert_eq!(found.len(), 1, "{found:?}");
    found.remove(0)
}

/// Archived, and waiting for an approval.
async fn archived() -> (Installed, (usize, String)) {
    let installed = Installed::with_plane(12, "").await;
    let neighbour = knowledge::digest(&installed.path("knowledge.db"), "p2").await;
    installed.done(&REQUEST);
    installed.work();
    assert_eq!(installed.state("acme/handbook"), "ARCHIVED");
    (installed, neighbour)
}

#[tokio::test]
async fn a_manifest_edited_by_hand_stops_the_purge_and_nothing_is_deleted() {
    let (installed, neighbour) = archived().await;
    let manifest = the_file(&installed.path("archive"), "/manifest.json");
    let whole = std::fs::read(&manifest).expect("read the manifest");
    std::fs::write(&manifest, String::from_utf8_lossy(&whole).replace("\"rows\":12", "\"rows\":13")).expect("edit the manifest");
    let verified = installed.run(&["archive", "verify", "acme/handbook"]);
    assert!(verified.status.code() == Some(1) && said(&verified).contains("manifest"), "{verified:?}");
    grant(&installed);
    installed.work();
    assert_eq!(
        (installed.state("acme/handbook").as_str(), &failure(&installed)["code"]),
        ("ARCHIVED", &"MANIFEST_CHANGED".into())
    );
    the_file(&installed.path("archive"), ".parquet");
    std::fs::write(&manifest, whole).expect("mend the manifest");
    retry(&installed);
    installed.assert_purged("acme/handbook", &neighbour).await;
}

#[tokio::test]
async fn a_corrupt_part_is_noticed_before_the_hot_copy_goes() {
    let installed = Installed::with_plane(12, "").await;
    let neighbour = knowledge::digest(&installed.path("knowledge.db"), "p2").await;
    let before = knowledge::digest(&installed.path("knowledge.db"), "p1").await;
    installed.done(&REQUEST);
    // Evict is kept waiting until its part has been damaged.
    assert!(installed.work_until_crash("export.manifest_written"));
    installed.done(&["hold", "place", "acme/handbook", "--reason", "wait"]);
    installed.work();
    let part = the_file(&installed.path("archive"), ".parquet");
    let whole = std::fs::read(&part).expect("read the part");
    let mut damaged = whole.clone();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 0xff;
    std::fs::write(&part, damaged).expect("damage the part");
    let hold = installed.done(&["hold", "list"])["holds"][0]["hold_id"].as_str().expect("an id").to_owned();
    installed.done(&["hold", "release", &hold, "--reason", "go on"]);
    installed.work();
    let status = installed.status("acme/handbook");
    assert_eq!((&status["state"], &status["offboarding"]["run_status"]), (&"DEACTIVATED".into(), &"halted".into()), "{status}");
    assert_eq!(knowledge::digest(&installed.path("knowledge.db"), "p1").await, before, "nothing is lost");
    std::fs::write(&part, whole).expect("mend the part");
    retry(&installed);
    assert_eq!(installed.state("acme/handbook"), "ARCHIVED");
    grant(&installed);
    installed.work();
    installed.assert_purged("acme/handbook", &neighbour).await;
}

#[tokio::test]
async fn a_store_replaced_by_garbage_or_by_another_is_told_apart_from_an_empty_one() {
    let (installed, neighbour) = archived().await;
    let file = installed.path("knowledge.db");
    std::fs::rename(&file, installed.path("aside.db")).expect("move the store");
    for (what, code) in [("garbage, and not a database at all. ".repeat(64), "UNUSABLE"), (String::new(), "")] {
        if what.is_empty() {
            // Another store with such a table, and without the plane's records: nothing in it proves anything.
            let _ = std::fs::remove_file(&file);
            knowledge::create(&file, &[("p2", 3)]).await;
        } else {
            std::fs::write(&file, &what).expect("write garbage");
        }
        if code == "UNUSABLE" {
            grant(&installed);
            installed.work();
        } else {
            retry(&installed);
        }
        let status = installed.status("acme/handbook");
        assert_eq!((&status["state"], &status["offboarding"]["run_status"]), (&"ARCHIVED".into(), &"halted".into()), "{status}");
        assert_eq!(failure(&installed)["code"], if code.is_empty() { "WRONG_PLACE" } else { code });
        the_file(&installed.path("archive"), ".parquet");
    }
    std::fs::rename(installed.path("aside.db"), &file).expect("put the store back");
    retry(&installed);
    installed.assert_purged("acme/handbook", &neighbour).await;
}

#[tokio::test]
async fn a_ledger_from_a_newer_version_is_refused_as_it_is() {
    let installed = Installed::with_plane(3, "").await;
    let mut db = knowledge::open(&installed.path("lethe.db")).await;
    sqlx::raw_sql("INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) VALUES (9999, 'later', 1, x'00', 1)")
        .execute(&mut db)
        .await
        .expect("pretend");
    drop(db);
    for arguments in [&["status", "acme/handbook"][..], &["work", "--until-idle"], &["migrate"]] {
        let refused = installed.run(arguments);
        assert_eq!(refused.status.code(), Some(1));
        assert!(said(&refused).contains("newer version of lethe"), "{refused:?}");
    }
}

#[tokio::test]
async fn what_is_no_ledger_is_left_as_it_is() {
    let installed = Installed::with_plane(3, "").await;
    std::fs::write(installed.path("other.db"), "a shopping list\n".repeat(300)).expect("write");
    let before = std::fs::read(installed.path("other.db")).expect("read");
    for arguments in [&["status", "acme/handbook"][..], &["migrate"]] {
        let refused = installed.command(arguments).env("LETHE_LEDGER", "other.db").output().expect("run");
        assert_eq!(refused.status.code(), Some(1), "{refused:?}");
        assert!(said(&refused).contains("not a database"), "{refused:?}");
    }
    assert_eq!(std::fs::read(installed.path("other.db")).expect("read"), before);
    let absent = installed.command(&["status", "acme/handbook"]).env("LETHE_LEDGER", "absent.db").output().expect("run");
    assert!(said(&absent).contains("lethe migrate") && !installed.path("absent.db").exists(), "{absent:?}");
}

#[tokio::test]
async fn a_configuration_that_cannot_be_used_stops_everything_at_once() {
    let installed = Installed::with_plane(3, "").await;
    for (text, complaint) in [
        ("[queue]\nconcurency = 2\n", "concurency"),
        ("[grounds.contract_end]\ngrace = \"7 fortnights\"\n", "7 fortnights"),
        ("not toml at all", "toml"),
        ("[grounds.erasure_request]\nretention = \"1d\"\n", "must be 0s"),
    ] {
        std::fs::write(installed.path("lethe.toml"), text).expect("write");
        let refused = installed.run(&["status", "acme/handbook"]);
        assert_eq!(refused.status.code(), Some(2), "{refused:?}");
        assert!(said(&refused).to_lowercase().contains(complaint), "{complaint}: {refused:?}");
    }
    std::fs::remove_file(installed.path("lethe.toml")).expect("remove");
    let refused = installed.run(&["status", "acme/handbook"]);
    assert!(refused.status.code() == Some(2) && said(&refused).contains("lethe.toml"), "{refused:?}");
}

#[tokio::test]
async fn a_clock_that_went_back_a_day_only_delays() {
    let installed = Installed::with_plane(3, "").await;
    installed.done(&[
        "offboard",
        "acme/handbook",
        "--ground",
        "internal",
        "--reason",
        "done",
        "--grace",
        "1h",
        "--retention",
        "0s",
    ]);
    installed.work();
    std::fs::write(installed.path("clock"), "3700 -86400").expect("set the clock back");
    installed.work();
    assert_eq!(installed.state("acme/handbook"), "PENDING_DEACTIVATE");
    assert_eq!(installed.done(&["audit", "verify"])["audit"], "verified");
    // Set right again it is suspect, as any jump forward, until somebody says so.
    std::fs::write(installed.path("clock"), "3700 0").expect("set the clock right");
    installed.work();
    installed.done(&["ledger", "confirm-clock", "--reason", "it was a day behind"]);
    installed.work();
    assert_eq!(installed.state("acme/handbook"), "ARCHIVED");
}

#[tokio::test]
async fn two_of_every_command_at_once_do_one_of_it() {
    let installed = Installed::with_plane(12, "").await;
    let neighbour = knowledge::digest(&installed.path("knowledge.db"), "p2").await;
    let both = |arguments: &[&str]| {
        let children = [installed.spawn(arguments), installed.spawn(arguments)];
        children.map(|mut child| child.wait().expect("wait").code())
    };
    assert_eq!(both(&REQUEST), [Some(0), Some(0)], "the same request is the same request");
    both(&["work", "--until-idle"]);
    installed.work();
    let mut granted = both(&["approval", "grant", "acme/handbook", "--reason", "checked", "--actor", "user:bob"]);
    granted.sort();
    assert_eq!(granted, [Some(0), Some(3)], "one approval");
    both(&["work", "--until-idle"]);
    installed.work();
    installed.assert_purged("acme/handbook", &neighbour).await;
    let requested = installed.trail("acme/handbook").iter().filter(|line| *line == "REQUESTED").count();
    assert_eq!(requested, 1);
}

/// A file system of a few megabytes, taken down again.
struct Small(PathBuf);

impl Small {
    fn mount(at: &Path, kilobytes: u32) -> Self {
        std::fs::create_dir_all(at).expect("create the folder");
        let size = format!("size={kilobytes}k");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(at).status().expect("mount");
        assert!(mounted.success(), "mounting a small file system needs root, as tests/run says");
        Self(at.to_owned())
    }

    fn grow(&self, kilobytes: u32) {
        let size = format!("remount,size={kilobytes}k");
        assert!(Command::new("mount").args(["-o", &size]).arg(&self.0).status().expect("remount").success());
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

#[tokio::test]
async fn a_full_disk_under_the_archive_loses_nothing() {
    let installed = Installed::with_plane(3000, "[queue]\nbackoff_first = \"0s\"\n").await;
    let neighbour = knowledge::digest(&installed.path("knowledge.db"), "p2").await;
    let before = knowledge::digest(&installed.path("knowledge.db"), "p1").await;
    let kept: Vec<_> = installed.path("archive").read_dir().expect("read").map(|entry| entry.expect("an entry").path()).collect();
    let aside = installed.path("aside");
    std::fs::create_dir(&aside).expect("create");
    for file in &kept {
        std::fs::copy(file, aside.join(file.file_name().expect("a name"))).expect("copy");
    }
    let disk = Small::mount(&installed.path("archive"), 32);
    for file in &kept {
        std::fs::copy(aside.join(file.file_name().expect("a name")), file).expect("copy");
    }
    installed.done(&REQUEST);
    installed.work();
    let status = installed.status("acme/handbook");
    assert_eq!(
        (&status["offboarding"]["step"], &status["offboarding"]["run_status"]),
        (&"export".into(), &"halted".into()),
        "{status}"
    );
    assert!(failure(&installed)["message"].as_str().expect("a message").contains("No space left"), "{status}");
    assert_eq!(knowledge::digest(&installed.path("knowledge.db"), "p1").await, before);
    disk.grow(8192);
    retry(&installed);
    assert_eq!(installed.state("acme/handbook"), "ARCHIVED", "{}", installed.status("acme/handbook"));
    grant(&installed);
    installed.work();
    installed.assert_purged("acme/handbook", &neighbour).await;
}

#[tokio::test]
async fn a_full_disk_under_the_ledger_refuses_and_loses_nothing() {
    let installed = Installed::with_plane(3, "").await;
    let disk = Small::mount(&installed.path("small"), 1024);
    std::fs::copy(installed.path("lethe.db"), installed.path("small/lethe.db")).expect("copy the ledger");
    let ledger = format!("sqlite:{}", installed.path("small/lethe.db").display());
    let lethe = |arguments: &[&str]| installed.command(arguments).env("LETHE_LEDGER", &ledger).output().expect("run");
    let ballast = installed.path("small/ballast");
    let _ = std::fs::write(&ballast, vec![0; 2 << 20]);
    let refused = lethe(&REQUEST);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(said(&refused).contains("full") || said(&refused).contains("disk"), "{refused:?}");
    std::fs::remove_file(&ballast).expect("make room");
    disk.grow(8192);
    let status = lethe(&["status", "acme/handbook"]);
    assert!(said(&status).contains("ACTIVE"), "{status:?}");
    assert_eq!(lethe(&["audit", "verify"]).status.code(), Some(0));
    assert_eq!(lethe(&REQUEST).status.code(), Some(0), "as if it had never been full");
}

#[tokio::test]
async fn a_ledger_that_cannot_be_written_says_so() {
    let installed = Installed::with_plane(3, "").await;
    // Root may write read-only files, so the file system itself is read-only.
    let disk = Small::mount(&installed.path("frozen"), 4096);
    std::fs::copy(installed.path("lethe.db"), installed.path("frozen/lethe.db")).expect("copy the ledger");
    std::fs::set_permissions(installed.path("frozen/lethe.db"), PermissionsExt::from_mode(0o444)).expect("make it read-only");
    assert!(Command::new("mount").args(["-o", "remount,ro"]).arg(&disk.0).status().expect("remount").success());
    let refused = installed.command(&REQUEST).env("LETHE_LEDGER", installed.path("frozen/lethe.db")).output().expect("run");
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(said(&refused).to_lowercase().contains("readonly") || said(&refused).contains("unable to open"), "{refused:?}");
}
