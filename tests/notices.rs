//! Notices: somebody is told before every irreversible step and before every date, once for each lead, by a file, a webhook or a command;
//! what nobody could be told is visible and can be told again.

use std::path::Path;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value as Json, json};

use crate::support::{World, beginning, hook::Hook, invariants, request};

fn to_file(dir: &Path) -> String {
    format!("[notices.file]\npath = \"{}\"\n", dir.join("notices.jsonl").display())
}

fn lines(dir: &Path) -> Vec<Json> {
    let text = std::fs::read_to_string(dir.join("notices.jsonl")).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
}

/// Kind and lead in hours.
fn told(lines: &[Json]) -> Vec<(String, i64)> {
    lines.iter().map(|line| (line["kind"].as_str().unwrap().to_owned(), line["lead_s"].as_i64().unwrap() / 3600)).collect()
}

fn pairs(expected: &[(&str, i64)]) -> Vec<(String, i64)> {
    expected.iter().map(|(kind, hours)| ((*kind).to_owned(), *hours)).collect()
}

fn at(value: &Json) -> DateTime<Utc> {
    value.as_str().expect("an instant").parse().expect("an instant")
}

/// A world whose notices go into a file of its folder.
async fn filed(overrides: &str) -> World {
    // The folder is known only once the world is there.
    let world = World::new().await;
    let config = format!("{overrides}\n{}", to_file(world.dir.path()));
    world.reopened(&config).await
}

#[tokio::test]
async fn each_irreversible_step_is_announced_before_it_comes_and_once_for_each_lead() {
    let world = filed("[grounds.contract_end]\narchive_delay = \"3d\"").await;
    let plane = world.acme(3).await;
    let mut terms = request(&plane, "10d");
    (terms["retention"], terms["retention_basis"]) = (json!("30d"), json!("tax law"));
    world.call("user:alice", "knowledge.offboarding.request", terms).await;
    world.drain().await;
    for _ in 0..60 {
        world.advance(TimeDelta::hours(18)).await;
        world.app.manager.sweep().await.expect("a sweep more changes nothing");
    }
    // Between two of these sweeps nobody worked for most of a day, and that was told too.
    let lines: Vec<_> = lines(world.dir.path()).into_iter().filter(|line| line["kind"] != "stalled").collect();
    let expected = [("cancel_ends", 168), ("cancel_ends", 24), ("evict", 24), ("purge", 168), ("purge", 24)];
    assert_eq!(told(&lines), pairs(&expected), "{lines:?}");
    for line in &lines {
        let (sent, happens) = (at(&line["sent_at"]), at(&line["happens_at"]));
        let lead = TimeDelta::seconds(line["lead_s"].as_i64().unwrap());
        assert!(happens - sent <= lead && sent < happens, "in time, and not before its time: {line}");
        assert!(line["message"].as_str().unwrap().starts_with("acme/handbook") || line["kind"] == "purge", "{line}");
    }
    assert_eq!(at(&lines[0]["happens_at"]), beginning() + TimeDelta::days(10));
    assert_eq!(world.entries(&plane, "NOTICED").await, 5, "each is on record");
    assert_eq!(world.number("SELECT count(*) FROM notices WHERE status <> 'delivered'").await, 0);
    invariants::check(&world).await;
}

#[tokio::test]
async fn a_wait_that_is_shorter_than_every_lead_is_announced_at_once() {
    let world = filed("").await;
    let plane = world.acme(3).await;
    world.request(&plane, "1h").await;
    world.drain().await;
    world.advance(TimeDelta::zero()).await;
    assert_eq!(told(&lines(world.dir.path())), pairs(&[("cancel_ends", 24)]));
    world.advance(TimeDelta::hours(1)).await;
    world.advance(TimeDelta::zero()).await;
    assert_eq!(told(&lines(world.dir.path())).last(), Some(&("purge".to_owned(), 24)), "the retention was over at once");
}

#[tokio::test]
async fn what_is_not_coming_any_more_is_not_announced() {
    let world = filed("").await;
    let plane = world.acme(3).await;
    world.request(&plane, "10d").await;
    world.drain().await;
    world.call("user:alice", "knowledge.offboarding.cancel", json!({"plane": plane, "reason": "they stay"})).await;
    world.drain().await;
    world.advance(TimeDelta::days(9)).await;
    assert_eq!(lines(world.dir.path()), Vec::<Json>::new());
    assert_eq!(world.texts("SELECT status FROM notices").await, ["moot"]);
}

#[tokio::test]
async fn a_legal_deadline_is_escalated_until_it_has_passed_and_an_extension_begins_anew() {
    let world = filed("").await;
    let plane = world.acme(3).await;
    let asked = json!({"plane": plane, "ground": "erasure_request", "reason": "a letter", "grace": "1h"});
    world.call("user:alice", "knowledge.offboarding.request", asked).await;
    world.drain().await;
    let mut deadlines = Vec::new();
    for day in 0..120 {
        world.advance(TimeDelta::days(1)).await;
        if day == 27 {
            let told = json!({"plane": plane, "reason": "many systems", "told": "2026-03-28"});
            world.call("user:carol", "knowledge.offboarding.extend", told).await;
        }
        deadlines = lines(world.dir.path()).into_iter().filter(|line| line["kind"] == "deadline").collect();
    }
    let hours = [240, 240, 72, 24, 0];
    assert_eq!(told(&deadlines), hours.map(|hours| ("deadline".to_owned(), hours)), "{deadlines:?}");
    assert_eq!(at(&deadlines[0]["happens_at"]), "2026-04-02T00:00:00Z".parse::<DateTime<Utc>>().unwrap());
    assert_eq!(at(&deadlines[4]["happens_at"]), "2026-06-02T00:00:00Z".parse::<DateTime<Utc>>().unwrap());
    assert!(deadlines[4]["message"].as_str().unwrap().contains("has passed"), "{}", deadlines[4]);
    invariants::check(&world).await;
}

#[tokio::test]
async fn a_process_without_a_channel_leaves_notices_to_those_that_have_one_and_says_so() {
    let world = World::new().await;
    let plane = world.acme(3).await;
    let asked = json!({"plane": plane, "ground": "erasure_request", "reason": "a letter", "grace": "1h"});
    world.call("user:alice", "knowledge.offboarding.request", asked).await;
    world.drain().await;
    world.advance(TimeDelta::days(23)).await;
    assert_eq!(
        world.texts("SELECT kind FROM notices WHERE status = 'queued'").await,
        ["deadline"],
        "and of steps nothing is kept"
    );
    let due = world.call("user:alice", "knowledge.due.list", json!({})).await["due"].as_array().unwrap().clone();
    assert!(due.iter().any(|one| one["kind"] == "notices_waiting"), "{due:?}");
    let config = to_file(world.dir.path());
    let world = world.reopened(&config).await;
    world.app.manager.sweep().await.expect("sweep");
    assert_eq!(told(&lines(world.dir.path())), pairs(&[("deadline", 240)]));
    assert_eq!(world.entries(&plane, "NOTICED").await, 1);
}

#[tokio::test]
async fn a_deadline_that_is_near_already_is_told_at_once_and_again_when_it_has_passed() {
    let world = filed("").await;
    let plane = world.acme(3).await;
    let asked =
        json!({"plane": plane, "ground": "internal", "reason": "r", "grace": "1h", "retention": "0s", "due_on": "2026-03-01"});
    world.call("user:alice", "knowledge.offboarding.request", asked).await;
    world.advance(TimeDelta::zero()).await;
    let deadlines = || lines(world.dir.path()).into_iter().filter(|line| line["kind"] == "deadline").collect::<Vec<_>>();
    assert_eq!(told(&deadlines()), pairs(&[("deadline", 24)]));
    world.advance(TimeDelta::hours(16)).await;
    assert_eq!(told(&deadlines()), pairs(&[("deadline", 24), ("deadline", 0)]));
}

#[tokio::test]
async fn a_webhook_is_signed_and_tried_again_under_the_same_id_until_it_has_it() {
    let hook = Hook::start();
    let world = World::new().await;
    let secret = world.dir.path().join("hook.secret");
    std::fs::write(&secret, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n").unwrap();
    let config = format!(
        "{}[notices.webhook]\nurl = \"{}\"\nsecret_file = \"{}\"\n",
        to_file(world.dir.path()),
        hook.url(),
        secret.display()
    );
    let world = world.reopened(&config).await;
    let plane = world.acme(3).await;
    hook.answer(503);
    world.request(&plane, "1h").await;
    world.drain().await;
    world.advance(TimeDelta::zero()).await;
    let notice = world.call("user:alice", "knowledge.notice.list", json!({"plane": plane})).await["notices"][0].clone();
    assert_eq!((&notice["status"], &notice["attempt"]), (&json!("queued"), &json!(1)));
    let error = notice["last_error"]["webhook"].as_str().unwrap();
    assert!(error.contains("503") && error.contains("no room") && !error.contains("hunter2"), "{error}");
    assert!(notice["delivered"]["file"].is_string(), "the other channel has it: {notice}");
    hook.answer(204);
    world.advance(TimeDelta::minutes(2)).await;
    let posted = hook.posted();
    assert_eq!(posted.len(), 2);
    assert_eq!(posted[0].path, "/hooks/hunter2?team=kb");
    for one in &posted {
        assert_eq!(one.headers["webhook-id"], notice["notice_id"].as_str().unwrap());
        assert!(one.headers["webhook-signature"].starts_with("v1,") && one.headers["content-type"] == "application/json");
        assert_eq!(one.headers["webhook-timestamp"], at(&one.json()["sent_at"]).timestamp().to_string());
    }
    assert_ne!(posted[0].headers["webhook-signature"], posted[1].headers["webhook-signature"], "of another instant");
    assert_eq!(lines(world.dir.path()).len(), 1, "a channel that has it is not told again");
    assert_eq!(world.entries(&plane, "NOTICED").await, 1);
    for secret in ["hunter2", "MfKQ9r8G"] {
        assert_eq!(
            world
                .number(
                    &format!("SELECT count(*) FROM notices WHERE last_error LIKE '%{secret}%'")
                        .replace("last_error LIKE", "CAST(last_error AS text) LIKE")
                )
                .await,
            0
        );
    }
}

#[tokio::test]
async fn what_nobody_could_be_told_is_given_up_visibly_and_can_be_told_again() {
    let world = filed("[notices]\nattempts_max = 3\n[notices.command]\nrun = [\"false\"]").await;
    let plane = world.acme(3).await;
    world.request(&plane, "1h").await;
    world.drain().await;
    for _ in 0..5 {
        world.advance(TimeDelta::minutes(10)).await;
    }
    assert_eq!(world.entries(&plane, "NOTICE_FAILED").await, 1);
    let due = world.call("user:alice", "knowledge.due.list", json!({})).await["due"].as_array().unwrap().clone();
    let failed = due.iter().find(|one| one["kind"] == "notice_failed").expect("it is visible");
    assert!(failed["why"][0].as_str().unwrap().contains("exit status: 1"), "{failed}");
    let id = failed["next"].as_str().unwrap().rsplit(' ').next().unwrap().to_owned();

    let received = world.dir.path().join("received");
    let told = format!(
        "{}[notices.command]\nrun = [\"sh\", \"-c\", \"cat >> {} && test $LETHE_NOTICE_KIND = cancel_ends\"]",
        to_file(world.dir.path()),
        received.display()
    );
    let world = world.reopened(&told).await;
    world.call("user:alice", "knowledge.notice.retry", json!({"notice_id": id})).await;
    assert_eq!(world.code("user:alice", "knowledge.notice.retry", json!({"notice_id": id})).await, "NOTICE_UNKNOWN", "once");
    world.app.manager.sweep().await.expect("sweep");
    let text = std::fs::read_to_string(&received).expect("the command was run");
    assert_eq!(serde_json::from_str::<Json>(text.trim()).unwrap()["notice_id"], json!(id));
    assert_eq!(world.number("SELECT count(*) FROM notices WHERE status = 'delivered'").await, 1);
    invariants::check(&world).await;
}

#[tokio::test]
async fn a_command_that_does_not_end_is_killed_and_one_that_is_not_there_is_named() {
    let world = filed("[notices.command]\nrun = [\"sleep\", \"600\"]\ntimeout = \"1s\"").await;
    let tested = world.call("user:alice", "knowledge.notice.test", json!({})).await;
    assert_eq!(tested["channels"][0], json!({"channel": "file", "told": true, "error": null}));
    assert!(tested["channels"][1]["error"].as_str().unwrap().contains("longer than 1s"), "{tested}");
    let world = world.reopened("[notices.command]\nrun = [\"/no/such/program\"]").await;
    let tested = world.call("user:alice", "knowledge.notice.test", json!({})).await;
    assert!(tested["channels"][0]["error"].as_str().unwrap().contains("notices.command: No such file"), "{tested}");
    let world = world.reopened("").await;
    assert_eq!(world.code("user:alice", "knowledge.notice.test", json!({})).await, "NO_CHANNEL");
}

#[tokio::test]
async fn whoever_is_lost_while_telling_is_followed_by_somebody_who_tells_again_under_the_same_id() {
    let world = filed("").await;
    let plane = world.acme(3).await;
    world.request(&plane, "1h").await;
    world.drain().await;
    // Somebody takes it and is never heard of again.
    let lost = world.app.ledger.transact(async |tx: &mut lethe_ledger::Tx| {
        let lease = lethe_ledger::Lease { owner: "sweep-lost".into(), until: tx.at() + TimeDelta::seconds(60) };
        tx.claim_notices(10, &lease).await
    });
    let lost = lost.await.expect("claim").into_inner();
    assert_eq!(lost.len(), 1);
    world.app.manager.sweep().await.expect("sweep");
    assert_eq!(lines(world.dir.path()).len(), 0, "its lease runs");
    world.clock.advance(TimeDelta::seconds(61));
    world.app.manager.sweep().await.expect("sweep");
    let told = lines(world.dir.path());
    assert_eq!((told.len(), &told[0]["notice_id"]), (1, &json!(lost[0].id)));
    // What the lost one has to say is too late.
    let late = world.app.ledger.transact(async |tx: &mut lethe_ledger::Tx| {
        tx.settle_notice(&lost[0], "sweep-lost", &lethe_ledger::NoticeEnd::Failed).await
    });
    assert!(!late.await.expect("settle").into_inner());
    assert_eq!(world.texts("SELECT status FROM notices").await, ["delivered"]);
}

#[tokio::test]
async fn a_halt_a_cut_grace_and_a_hold_to_review_are_told_too() {
    let world = filed("").await;
    let plane = world.acme(3).await;
    world
        .call("user:lena", "knowledge.hold.place", json!({"tenant": "acme", "reason": "r", "review_at": "2026-03-04T09:00:00Z"}))
        .await;
    world.request(&plane, "10d").await;
    world.drain().await;
    world.call("user:eve", "knowledge.offboarding.break_glass", json!({"plane": plane, "reason": "a leak"})).await;
    let error = lethe_stages::ports::PortError::Permanent("the disk is full".into());
    world.faults.fail_with(0, crate::support::faults::Failing::NotDone, error);
    world.drain().await;
    world.advance(TimeDelta::days(3)).await;
    let kinds: Vec<_> = told(&lines(world.dir.path())).into_iter().map(|(kind, _)| kind).collect();
    for kind in ["break_glass", "halted", "hold_review"] {
        assert!(kinds.iter().any(|told| told == kind), "{kind}: {kinds:?}");
    }
    assert!(!kinds.iter().any(|kind| kind == "cancel_ends"), "it cannot be cancelled any more: {kinds:?}");
    let halted = lines(world.dir.path()).into_iter().find(|line| line["kind"] == "halted").unwrap();
    assert!(halted["message"].as_str().unwrap().contains("UNUSABLE"), "{halted}");
}

#[tokio::test]
async fn a_command_finds_no_secret_in_its_environment() {
    assert!(std::env::var_os("LETHE_TEST_POSTGRES").is_some(), "something of ours that it must not find");
    let world = World::new().await;
    let found = world.dir.path().join("environment");
    let world = world.reopened(&format!("[notices.command]\nrun = [\"sh\", \"-c\", \"env > '{}'\"]", found.display())).await;
    let tested = world.call("user:alice", "knowledge.notice.test", json!({})).await;
    assert_eq!(tested["channels"][0]["told"], true, "{tested}");
    let found = std::fs::read_to_string(&found).expect("the command was run");
    assert!(found.contains("LETHE_NOTICE_KIND=test") && found.contains("PATH="), "{found}");
    assert!(!found.contains("LETHE_TEST") && !found.contains("RUST_"), "{found}");
}

#[test]
fn a_channel_that_cannot_be_is_a_configuration_that_cannot_be() {
    for (wrong, named) in [
        ("[notices.webhook]\nurl = \"http://hooks.example/x\"", "notices.webhook"),
        ("[notices.webhook]\nurl = \"https://h/x\"\nsecret_env = \"A\"\nsecret_file = \"/b\"", "secret_env"),
        ("[notices.file]\npath = \"notices.jsonl\"", "absolute"),
        ("[notices]\nattempts_max = 0", "attempts_max"),
        ("[laws.own]\ndue = \"1 day\"", "own"),
        ("[grounds.internal]\nlaw = \"lex\"", "laws.lex"),
        ("[laws.lex]\ndue = \"1 fortnight\"", "fortnight"),
        ("[due]\nzone = \"Mars/Olympus\"", "Mars/Olympus"),
        ("[store]\nwindow = \"nights\"", "nights"),
    ] {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), wrong).unwrap();
        let error = lethe_worker::config::Config::load(Some(file.path())).expect_err(wrong).to_string();
        assert!(error.contains(named), "{wrong}: {error}");
    }
}
