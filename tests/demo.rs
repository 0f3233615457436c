//! The demo: the first thing a newcomer runs tells the truth, and leaves exactly this trail.

use std::process::Command;

use serde_json::Value as Json;

use crate::support::{golden, line};

fn lethe(arguments: &[&str]) -> Json {
    let output = Command::new(env!("CARGO_BIN_EXE_lethe"))
        .args(arguments)
        .arg("--json")
        .env("USER", "alice")
        .output()
        .expect("run the binary");
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    serde_json::from_slice(&output.stdout).expect("one document on standard output")
}

#[test]
fn the_demo_ends_as_it_says_twice_over_and_leaves_this_trail() {
    let dir = tempfile::tempdir().expect("a folder");
    let data = dir.path().join("demo");
    let data = data.to_str().expect("a path");
    lethe(&["demo", "--data", data]);
    // Again, over its own leftovers.
    let end = lethe(&["demo", "--data", data]);
    assert_eq!(end["state"], "PURGED");
    assert_eq!(end["audit"], "verified");
    assert_eq!((&end["remaining_rows"], &end["marker_found"]), (&0.into(), &0.into()));
    assert!(end["marker_planted"].as_u64() >= Some(1), "the marker was there to be found: {end}");
    assert_eq!(end["archived_rows"], end["source_rows"]);
    assert_eq!(end["neighbour_unchanged"], true);

    let ledger = format!("sqlite:{data}/lethe.db");
    let plane = end["plane_id"].as_str().expect("an id");
    let entries = lethe(&["audit", "list", plane, "--ledger", &ledger]);
    let trail: Vec<String> = entries["entries"].as_array().expect("entries").iter().map(line).collect();
    golden("demo-trail.txt", &(trail.join("\n") + "\n"));
}

#[test]
fn a_demo_that_is_kept_can_be_carried_on_by_hand() {
    let dir = tempfile::tempdir().expect("a folder");
    let data = dir.path().join("demo");
    let kept = lethe(&["demo", "--keep", "--data", data.to_str().expect("a path")]);
    assert_eq!(kept["state"], "PENDING_DEACTIVATE");
    let (ledger, plane) = (kept["ledger"].as_str().expect("a url"), kept["plane_id"].as_str().expect("an id"));
    let cancelled = lethe(&["offboarding", "cancel", plane, "--reason", "changed our mind", "--ledger", ledger]);
    assert_eq!(cancelled["state"], "ACTIVE");
}

#[test]
fn a_folder_that_is_not_the_demos_is_left_alone() {
    let dir = tempfile::tempdir().expect("a folder");
    std::fs::write(dir.path().join("precious.txt"), "mine").expect("write");
    let refused =
        Command::new(env!("CARGO_BIN_EXE_lethe")).args(["demo", "--data"]).arg(dir.path()).output().expect("run the binary");
    assert_eq!(refused.status.code(), Some(1));
    assert!(dir.path().join("precious.txt").exists());
}
