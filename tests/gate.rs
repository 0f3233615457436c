//! The gate against a model: whatever is approved, withdrawn, denied, held, released, revoked, reloaded and delivered, in whatever order,
//! nothing is destroyed that was not released at that moment by as many as the policies want; and of two that meet, one wins.
//!
//! `PROPTEST_CASES` sets how many stories are told.

use std::{collections::BTreeMap, path::Path};

use chrono::{DateTime, TimeDelta, Utc};
use proptest::{
    prelude::*,
    test_runner::{Config, FileFailurePersistence, TestRunner},
};
use serde_json::json;

use crate::support::{World, invariants, keys::Key};

const WHO: [&str; 3] = ["user:bob", "user:carol", "user:dora"];
const VALID: TimeDelta = TimeDelta::days(14);

#[derive(Debug, Clone, Copy)]
enum Action {
    Grant(usize),
    Withdraw(usize),
    Deny(usize),
    /// A denied plan is made anew.
    Retry,
    Hold,
    Release,
    /// The policies want so many approvals; none: they are broken.
    Policies(Option<usize>),
    /// Days pass, and a sweep.
    Advance(i64),
    /// Whatever is due is claimed, performed and recorded.
    Deliver,
}

/// What must be true for the purge to begin.
struct Reference {
    granted: BTreeMap<usize, DateTime<Utc>>,
    denied: bool,
    held: bool,
    wanted: Option<usize>,
}

impl Reference {
    fn releases(&self, at: DateTime<Utc>) -> bool {
        let standing = self.granted.values().filter(|until| **until > at).count();
        !self.denied && !self.held && self.wanted.is_some_and(|wanted| standing >= wanted)
    }
}

fn stories() -> impl Strategy<Value = Vec<Action>> {
    let one = prop_oneof![
        5 => (0..WHO.len()).prop_map(Action::Grant),
        2 => (0..WHO.len()).prop_map(Action::Withdraw),
        1 => (0..WHO.len()).prop_map(Action::Deny),
        1 => Just(Action::Retry),
        1 => Just(Action::Hold),
        2 => Just(Action::Release),
        3 => prop_oneof![Just(None), Just(Some(1)), Just(Some(2)), Just(Some(3))].prop_map(Action::Policies),
        1 => (1..16_i64).prop_map(Action::Advance),
        4 => Just(Action::Deliver),
    ];
    prop::collection::vec(one, 4..20)
}

fn write(folder: &Path, wanted: Option<usize>) {
    let solo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/policies/solo.cedar");
    let solo = std::fs::read_to_string(solo).expect("read the policies");
    let text = match wanted {
        Some(wanted) => solo.replace("context.approvals.total >= 1", &format!("context.approvals.total >= {wanted}")),
        None => "permit (principal, action".into(),
    };
    std::fs::write(folder.join("house.cedar"), text).expect("write the policies");
}

async fn tell(story: &[Action]) -> Result<(), TestCaseError> {
    let folder = tempfile::tempdir().expect("a folder");
    write(folder.path(), Some(2));
    let world = World::with(&format!("[policy]\nfolder = \"{}\"\n", folder.path().display())).await;
    let plane = world.acme(2).await;
    world.archived(&plane).await;
    let mut reference = Reference { granted: BTreeMap::new(), denied: false, held: false, wanted: Some(2) };
    let mut hold = None;
    let reasoned = json!({"plane": plane, "reason": "r"});
    let state = async || world.texts(&format!("SELECT state FROM planes WHERE id = '{plane}'")).await.remove(0);
    for (step, action) in story.iter().enumerate() {
        let at = world.app.ledger.now();
        // Asked before: what is destroyed by this step must have been released then, or it is destroyed by who is asked now.
        let ask = async |actor: &str, operation: &str, arguments: &serde_json::Value| {
            matches!(world.ask(actor, operation, arguments.clone()).await, lethe_worker::operations::Answer::Done(_))
        };
        match *action {
            Action::Grant(who) => {
                if ask(WHO[who], "knowledge.approval.grant", &reasoned).await {
                    prop_assert!(
                        reference.wanted.is_some() && !reference.denied,
                        "{step}: granted where nothing is answered, or denied"
                    );
                    reference.granted.insert(who, at + VALID);
                }
            }
            Action::Withdraw(who) => {
                let arguments = json!({"plane": plane, "reason": "r", "by": WHO[who]});
                if ask("user:max", "knowledge.approval.withdraw", &arguments).await {
                    prop_assert!(reference.granted.remove(&who).is_some(), "{step}: withdrawn what was not granted");
                }
            }
            Action::Deny(who) => {
                if ask(WHO[who], "knowledge.approval.deny", &reasoned).await {
                    reference.denied = true;
                }
            }
            Action::Retry => {
                if ask("user:alice", "knowledge.offboarding.retry", &reasoned).await {
                    (reference.denied, reference.granted) = (false, BTreeMap::new());
                }
            }
            Action::Hold if hold.is_none() => {
                if let lethe_worker::operations::Answer::Done(placed) =
                    world.ask("user:lena", "knowledge.hold.place", reasoned.clone()).await
                {
                    (hold, reference.held) = (placed["hold_id"].as_str().map(str::to_owned), true);
                }
            }
            Action::Release => {
                if let Some(id) = &hold
                    && ask("user:max", "knowledge.hold.release", &json!({"hold_id": id, "reason": "r"})).await
                {
                    (hold, reference.held) = (None, false);
                }
            }
            Action::Policies(wanted) => {
                write(folder.path(), wanted);
                world.app.manager.sweep().await.expect("swept");
                reference.wanted = wanted;
            }
            Action::Advance(days) => {
                world.clock.advance(TimeDelta::days(days));
                world.app.manager.sweep().await.expect("swept");
                reference.granted.retain(|_, until| *until > world.app.ledger.now());
            }
            Action::Deliver => {
                let released = reference.releases(world.app.ledger.now());
                world.drain().await;
                prop_assert_eq!(state().await == "PURGED", released, "{}: after {:?}", step, story);
            }
            Action::Hold => {}
        }
        prop_assert!(matches!(action, Action::Deliver) || state().await == "ARCHIVED", "{}: {:?} destroyed it", step, action);
        if state().await == "PURGED" {
            break;
        }
    }
    write(folder.path(), Some(2));
    world.app.manager.sweep().await.expect("swept");
    invariants::check(&world).await;
    Ok(())
}

#[test]
fn nothing_is_destroyed_that_was_not_released_at_that_moment() {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(24);
    let persistence = Some(Box::new(FileFailurePersistence::Direct("../tests/gate.regressions")) as Box<_>);
    let mut runner = TestRunner::new(Config { cases, failure_persistence: persistence, ..Config::default() });
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runner.run(&stories(), |story| runtime.block_on(tell(&story))).unwrap_or_else(|failed| panic!("{failed}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_key_that_is_revoked_and_the_purge_that_it_released_one_wins() {
    let (mut used, mut taken_back) = (0, 0);
    for round in 0..6 {
        let world = World::with("[approval]\nassurance_min = \"signed\"\n").await;
        let (plane, key) = (world.acme(2).await, Key::new());
        let paused = json!({"stage": "purge", "reason": "look first"});
        world.call("user:root", "knowledge.control.pause", paused).await;
        world.archived(&plane).await;
        let added = json!({"actor": "user:bob", "public_key": key.public(), "reason": "r"});
        let registered = world.call("user:root", "governance.approver.add", added).await;
        let shown = world.call("user:bob", "knowledge.offboarding.plan", json!({"plane": plane})).await;
        let signature = key.sign(shown["text"].as_str().expect("a text"));
        world.call("user:bob", "knowledge.approval.grant", json!({"plane": plane, "reason": "r", "signature": signature})).await;
        world.call("user:root", "knowledge.control.resume", json!({"stage": "purge"})).await;
        let revoke = world.call(
            "user:root",
            "governance.approver.revoke",
            json!({"fingerprint": registered["fingerprint"], "reason": "r"}),
        );
        let claim = async {
            // Now a little sooner, now a little later.
            for _ in 0..round % 3 {
                tokio::task::yield_now().await;
            }
            world.app.manager.claim(4, crate::support::WORKER, None).await.expect("claim").0
        };
        let (revoked, claimed) = tokio::join!(revoke, claim);
        let withdrawn = revoked["withdrawn"].as_array().map_or(0, Vec::len);
        assert_eq!(withdrawn + claimed.len(), 1, "round {round}: {revoked}");
        let status = world.texts("SELECT status FROM approvals").await;
        assert_eq!(status, [if withdrawn == 1 { "withdrawn" } else { "consumed" }]);
        (used, taken_back) = (used + claimed.len(), taken_back + withdrawn);
        for run in &claimed {
            let finished = world.app.manager.perform(run).await;
            world.app.manager.record(&[finished], crate::support::WORKER).await.expect("record");
        }
        // What a purge began under goes on under it; what was taken back releases nothing.
        world.drain().await;
        assert_eq!(world.state(&plane).await == "PURGED", withdrawn == 0);
        invariants::check(&world).await;
    }
    eprintln!("used {used}, taken back {taken_back}");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_hold_and_the_claim_of_a_purge_whichever_is_later_knows_of_the_other() {
    for round in 0..6 {
        let world = World::new().await;
        let plane = world.acme(2).await;
        world.call("user:root", "knowledge.control.pause", json!({"stage": "purge", "reason": "look first"})).await;
        world.archived(&plane).await;
        world.approve(&plane).await;
        world.call("user:root", "knowledge.control.resume", json!({"stage": "purge"})).await;
        let hold = world.call("user:lena", "knowledge.hold.place", json!({"plane": plane, "reason": "a letter came"}));
        let claim = async {
            for _ in 0..round % 3 {
                tokio::task::yield_now().await;
            }
            world.app.manager.claim(4, crate::support::WORKER, None).await.expect("claim").0
        };
        let (held, claimed) = tokio::join!(hold, claim);
        let stopped = held["stopped"].as_array().map_or(0, Vec::len);
        assert_eq!(stopped, claimed.len(), "round {round}: a purge that had begun is named, and no other: {held}");
        for run in &claimed {
            let finished = world.app.manager.perform(run).await;
            world.app.manager.record(&[finished], crate::support::WORKER).await.expect("record");
        }
        world.drain().await;
        assert_eq!(world.state(&plane).await, "ARCHIVED", "either way nothing is recorded as erased while it is held");
        assert_eq!(world.blocked_by(&plane).await, ["HOLD_ACTIVE"]);
        world.call("user:max", "knowledge.hold.release", json!({"hold_id": held["hold_id"], "reason": "answered"})).await;
        world.drain().await;
        assert_eq!(world.state(&plane).await, "PURGED");
        invariants::check(&world).await;
    }
}
