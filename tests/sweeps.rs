//! Sweeps: many at once do each due thing once, whatever the clock does between them; and no wait ends before it was promised to.

use std::process::Child;

use chrono::{DateTime, TimeDelta, Utc};
use proptest::{prelude::*, strategy::ValueTree as _, test_runner::TestRunner};
use serde_json::Value as Json;

use crate::support::{World, binary::Installed, invariants};

fn lines(path: &std::path::Path) -> Vec<Json> {
    std::fs::read_to_string(path).unwrap_or_default().lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

#[tokio::test]
async fn four_processes_that_sweep_at_once_while_the_clock_jumps_do_each_due_thing_once() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("notices.jsonl");
    let config = format!(
        "[notices]\nbefore = [\"7d\", \"3d\", \"1d\"]\n[notices.file]\npath = \"{}\"\n[grounds.internal]\ngrace = \"20d\"\nlaw = \"gdpr\"\n\
         retention = \"0s\"\n[clock]\ngap_max = \"400d\"\n",
        file.display()
    );
    let installed = Installed::with_plane(3, &config).await;
    let planes = 6;
    for number in 1..planes {
        installed.register(&format!("more-{number}"), &format!("m{number}"));
    }
    let names = || std::iter::once("acme/handbook".to_owned()).chain((1..planes).map(|number| format!("acme/more-{number}")));
    for name in names() {
        installed.done(&["offboard", &name, "--ground", "internal", "--reason", "done"]);
        installed.done(&["hold", "place", &name, "--reason", "r", "--review", "2026-12-01T00:00:00Z", "--matter", "m"]);
    }
    installed.work();
    // One that was approved and that nobody purges, and one that was purged.
    for (name, value, retention) in [("kept", "k1", "30d"), ("gone", "g1", "0s")] {
        installed.register(name, value);
        let plane = format!("acme/{name}");
        let terms = ["--law", "none", "--grace", "0s", "--retention", retention, "--retention-basis", "tax law"];
        installed.done(&[&["offboard", &plane, "--ground", "internal", "--reason", "done"], terms.as_slice()].concat());
        installed.work();
        installed.done(&["approval", "grant", &plane, "--reason", "checked", "--actor", "user:bob", "--yes"]);
    }
    installed.work();
    assert_eq!((installed.state("acme/kept").as_str(), installed.state("acme/gone").as_str()), ("ARCHIVED", "PURGED"));
    // Forwards, backwards, far forwards.
    let mut now = 0_i64;
    for jump in [13 * 86_400, -86_400, 5 * 86_400, 86_400, 2 * 86_400, -3600, 9 * 86_400, 4 * 86_400, 300 * 86_400] {
        now += jump;
        installed.set_clock(now);
        let sweeps: Vec<Child> = (0..4).map(|_| installed.spawn(&["sweep"])).collect();
        for sweep in sweeps {
            let output = sweep.wait_with_output().expect("wait");
            assert!(output.status.success(), "{output:?}");
        }
    }
    let told = lines(&file);
    let mut ids: Vec<_> = told.iter().map(|line| line["notice_id"].as_str().unwrap().to_owned()).collect();
    ids.sort();
    let before = ids.len();
    ids.dedup();
    assert_eq!(ids.len(), before, "no notice was told twice");
    let mut what: Vec<_> = told
        .iter()
        .map(|line| format!("{} {} {}", line["kind"].as_str().unwrap(), line["offboarding_id"], line["lead_s"]))
        .filter(|what| !what.starts_with("hold") && !what.starts_with("stalled"))
        .collect();
    what.sort();
    let before = what.len();
    what.dedup();
    assert_eq!(what.len(), before, "and no lead of a date twice: {what:#?}");
    for kind in ["deadline", "hold_review"] {
        assert!(told.iter().filter(|line| line["kind"] == kind).count() >= planes, "{kind}: {told:#?}");
    }
    let count = |plane: &str, event: &str| installed.trail(plane).iter().filter(|line| line.starts_with(event)).count();
    assert_eq!(count("acme/kept", "APPROVAL_EXPIRED"), 1, "{:?}", installed.trail("acme/kept"));
    assert_eq!(count("acme/gone", "PROBED"), 3, "{:?}", installed.trail("acme/gone"));
    installed.done(&["audit", "verify"]);
}

/// Stories of one run; chance makes others the next time.
const CASES: u32 = 6;

/// Requests with any grace, under a clock that steps forwards and backwards: the instant that was promised is the one that is kept.
#[tokio::test]
async fn a_wait_never_ends_before_it_was_promised_to() {
    let mut runner = TestRunner::new(ProptestConfig::with_cases(CASES));
    let stories = (1_u32..5_000_000, prop::collection::vec(-100_000_i64..900_000, 1..12));
    let mut cases = Vec::new();
    for _ in 0..CASES {
        cases.push(stories.new_tree(&mut runner).expect("a story").current());
    }
    for (grace, steps) in cases {
        let world = World::new().await;
        let plane = world.acme(1).await;
        world.request(&plane, &format!("{grace}s")).await;
        world.drain().await;
        let status = world.status(&plane).await;
        let until: DateTime<Utc> = status["offboarding"]["deadlines"]["grace_until"].as_str().unwrap().parse().unwrap();
        let began = world.app.ledger.now();
        assert!(until - began == TimeDelta::seconds(i64::from(grace)), "{until} {began} {grace}");
        for step in steps {
            world.advance(TimeDelta::seconds(step)).await;
            let (now, state) = (world.app.ledger.now(), world.state(&plane).await);
            assert_eq!(state == "PENDING_DEACTIVATE", now < until || began > now, "{state} at {now}, promised until {until}");
            if state != "PENDING_DEACTIVATE" {
                break;
            }
        }
        let moved =
            world.status(&plane).await["offboarding"]["deadlines"]["grace_until"].as_str().unwrap().parse::<DateTime<Utc>>();
        assert_eq!(moved, Ok(until), "whatever the clock did");
        invariants::check(&world).await;
    }
}
