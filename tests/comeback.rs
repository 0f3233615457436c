//! Cancel at any moment of the grace, by kill -9 too: everything that somebody could observe of a plane is as it was before the request,
//! field by field; what cannot be given back is said, and keeps nothing else from coming back.

use std::{path::Path, sync::Arc};

use chrono::TimeDelta;
use lethe_stages::{crash::CrashPoint, ports::PortError};
use lethe_worker::{manager::RecordResult, operations::Answer};
use serde_json::{Value as Json, json};
use sqlx::Row;

use crate::support::{
    World,
    binary::Installed,
    dependents::{self, Dependents},
    faults::Failing,
    invariants, knowledge,
    postgres::Database,
    request,
};

const CANCEL: &str = "knowledge.offboarding.cancel";
const REQUEST: &str = "knowledge.offboarding.request";
const RETRY: &str = "knowledge.offboarding.retry";
const ACCESS: [&str; 3] = ["full", "read_only", "none"];

fn reasoned(plane: &str) -> Json {
    json!({"plane": plane, "reason": "the customer stays"})
}

/// A plane with tokens and dependents, in a table of a file or of a database, beside a neighbour.
struct Laid {
    world: World,
    plane: String,
    dependents: Dependents,
    /// A working token, one that has expired and one that was revoked: id and secret.
    tokens: Vec<(String, String)>,
    /// The database and the schema in which it stands, if it is no file.
    database: Option<(Arc<Database>, String)>,
}

async fn laid(database: Option<&Arc<Database>>) -> Laid {
    laid_with(database, |_| String::new()).await
}

async fn laid_with(database: Option<&Arc<Database>>, overrides: impl Fn(&Dependents) -> String) -> Laid {
    let dependents = Dependents::new();
    let mut config = overrides(&dependents);
    if config.is_empty() {
        config = dependents.config();
    }
    let world = World::with(&config).await;
    let (plane, database) = match database {
        None => (world.acme(5).await, None),
        Some(database) => {
            let schema = database.schema().await;
            let table = format!("{schema}.chunks");
            database.chunks(&table, false, &[("p1", 5), ("p2", 3)]).await;
            database.register(&world).await;
            (database.bind(&world, "acme", &table, "p1").await, Some((database.clone(), schema)))
        }
    };
    depend(&world, &plane).await;
    let mut tokens = Vec::new();
    for expires_in in [None, Some("1s"), None] {
        let mut arguments = json!({"plane": plane});
        if let Some(expires_in) = expires_in {
            arguments["expires_in"] = json!(expires_in);
        }
        let issued = world.call("user:root", "knowledge.token.issue", arguments).await;
        let text = |field: &str| issued[field].as_str().expect(field).to_owned();
        tokens.push((text("token_id"), text("token")));
    }
    world.call("user:root", "knowledge.token.revoke", json!({"token_id": tokens[2].0})).await;
    world.clock.advance(TimeDelta::seconds(2));
    Laid { world, plane, dependents, tokens, database }
}

async fn depend(world: &World, plane: &str) {
    for (name, kind, _) in dependents::ALL {
        let arguments = json!({"plane": plane, "name": name, "kind": kind, "control": "files"});
        world.call("user:root", "knowledge.dependent.add", arguments).await;
    }
}

impl Laid {
    async fn request(&self, access: &str) {
        let mut terms = request(&self.plane, "1h");
        terms["grace_access"] = json!(access);
        self.world.call("user:alice", REQUEST, terms).await;
    }

    async fn cancel(&self) {
        self.world.call("user:alice", CANCEL, reasoned(&self.plane)).await;
    }

    /// Works on, past every backoff.
    async fn settle(&self) {
        for _ in 0..5 {
            self.world.drain().await;
            self.world.clock.advance(TimeDelta::minutes(2));
        }
    }

    /// Everything about the plane that its users, its store's users and its operators can observe, but for time and the epoch.
    async fn seen(&self) -> Json {
        let world = &self.world;
        let mut plane = world.call("user:root", "knowledge.plane.show", json!({"plane": self.plane})).await;
        plane["epoch"] = Json::Null;
        let mut answers = Vec::new();
        for (_, secret) in &self.tokens {
            let answer = world.ask("sdk:app", "knowledge.access.check", json!({"plane": self.plane, "token": secret})).await;
            answers.push(match answer {
                Answer::Done(_) => "opens".to_owned(),
                Answer::Refused(refusal) => refusal.code.to_string(),
            });
        }
        let store = match &self.database {
            None => in_file(&world.dir.path().join("knowledge.db")).await,
            Some((database, schema)) => in_schema(database, schema).await,
        };
        json!({
            "plane": plane, "tokens": world.call("user:root", "knowledge.token.list", json!({"plane": self.plane})).await,
            "answers": answers, "store": store, "dependents": self.dependents.states(),
            "list": world.call("user:root", "knowledge.dependent.list", json!({"plane": self.plane})).await,
        })
    }

    /// What the status says became of each thing that was suspended.
    async fn outcomes(&self) -> Vec<String> {
        let status = self.world.status(&self.plane).await;
        let rows = status["offboarding"]["suspended"].as_array().expect("what was suspended").clone();
        let line = |row: &Json| format!("{} {} {}", row["kind"], row["what"], row["outcome"]).replace('"', "");
        rows.iter().map(line).collect()
    }
}

/// Schema, content and fences of a file, as its users see it. The table `lethe_fence` itself stays, with rows that say `open`: it remembers
/// the epoch.
async fn in_file(file: &Path) -> Json {
    let mut db = knowledge::open(file).await;
    let schema = "SELECT type || ' ' || name || ' ' || tbl_name || ' ' || coalesce(sql, '') AS line FROM sqlite_schema
        WHERE tbl_name <> 'lethe_fence' ORDER BY 1";
    let mut lines: Vec<String> =
        sqlx::query(schema).fetch_all(&mut db).await.expect("the schema").iter().map(|row| row.get(0)).collect();
    let fenced = "SELECT resource || ' ' || plane || ' ' || mode AS line FROM lethe_fence WHERE mode <> 'open' ORDER BY 1";
    lines.extend(sqlx::query(fenced).fetch_all(&mut db).await.unwrap_or_default().iter().map(|row| row.get::<String, _>(0)));
    for plane in ["p1", "p2"] {
        let mut tx = sqlx::Connection::begin(&mut db).await.expect("begin");
        let written = knowledge::insert(&mut tx, plane, 900).await.map_err(|error| error.to_string());
        lines.push(format!("a write into {plane}: {written:?}"));
        tx.rollback().await.expect("roll back");
        lines.push(format!("{:?}", knowledge::digest(file, plane).await));
    }
    json!(lines)
}

/// The same of a schema in PostgreSQL, with triggers, policies, functions, flags and grants.
async fn in_schema(database: &Database, schema: &str) -> Json {
    let table = format!("{schema}.chunks");
    let mut lines = database.guards(&table).await;
    let there = database
        .texts(&format!(
            "SELECT count(*)::text FROM pg_class WHERE relname = 'lethe_fence' AND relnamespace = '{schema}'::regnamespace"
        ))
        .await;
    if there == ["1"] {
        let fenced =
            format!("SELECT concat_ws(' ', resource, plane, mode) FROM {schema}.lethe_fence WHERE mode <> 'open' ORDER BY 1");
        lines.extend(database.texts(&fenced).await);
    }
    let objects = format!(
        "SELECT concat_ws(' ', relname, relkind, relacl) FROM pg_class WHERE relnamespace = '{schema}'::regnamespace
            AND relname !~ '^lethe_fence' ORDER BY 1"
    );
    lines.extend(database.texts(&objects).await);
    lines.push(format!("readable: {}", database.number(&format!("SELECT count(*) FROM {table} WHERE plane = 'p1'")).await));
    let written = database.as_app(&format!("BEGIN; UPDATE {table} SET page = page WHERE plane = 'p1'; ROLLBACK")).await;
    lines.push(format!("a write: {}", if written.is_ok() { "done" } else { "refused" }));
    for plane in ["p1", "p2"] {
        lines.extend(database.plane(&table, plane).await);
    }
    json!(lines)
}

/// When the cancel comes.
#[derive(Debug, Clone, Copy)]
enum Moment {
    BeforeDeregister,
    WhileRunsDrain,
    UnderDeregister,
    InGrace,
    AfterVerify,
    AfterDeactivateHalted,
}

const MOMENTS: [Moment; 6] = [
    Moment::BeforeDeregister,
    Moment::WhileRunsDrain,
    Moment::UnderDeregister,
    Moment::InGrace,
    Moment::AfterVerify,
    Moment::AfterDeactivateHalted,
];

async fn cancelled_at(laid: &Laid, access: &str, moment: Moment) {
    let (world, plane) = (&laid.world, laid.plane.as_str());
    let usage = json!({"plane": plane, "kind": "run", "holder": "job", "ttl": "1h"});
    let opened = match moment {
        Moment::WhileRunsDrain => Some(world.call("sdk:app", "knowledge.usage.open", usage).await),
        _ => None,
    };
    laid.request(access).await;
    match moment {
        Moment::BeforeDeregister => {}
        Moment::WhileRunsDrain => {
            world.drain().await;
            assert_eq!(world.blocked_by(plane).await, ["ACTIVE_REFERENCES"]);
        }
        Moment::UnderDeregister => {
            let claimed = world.claim(plane).await;
            let performed = world.app.manager.perform(&claimed).await;
            laid.cancel().await;
            assert_eq!(world.record(&performed).await, RecordResult::Stale);
            // And again, by a worker that has not heard of it: it can tell no dependent to stop, and what it closes is opened.
            let again = world.app.manager.perform(&claimed).await;
            assert_eq!(world.record(&again).await, RecordResult::Stale);
            return;
        }
        Moment::InGrace => {
            world.drain().await;
            assert_eq!(world.state(plane).await, "PENDING_DEACTIVATE", "{}", world.status(plane).await);
        }
        Moment::AfterVerify => world.reach_next(plane, "deactivate").await,
        Moment::AfterDeactivateHalted => {
            world.reach_next(plane, "deactivate").await;
            let claimed = world.claim(plane).await;
            // The last call, the store's: it is done, and says that it was not.
            let before = world.faults.calls().len();
            let number = deactivate_calls(access);
            world.faults.fail_with(number, Failing::Done, PortError::Permanent("no more".into()));
            world.finish(&claimed).await;
            assert_eq!(world.faults.calls().last(), Some(&"store.fence"), "{:?}", &world.faults.calls()[before..]);
            assert_eq!(world.run(plane).await, ("deactivate".into(), "halted".into()));
        }
    }
    laid.cancel().await;
    if let Some(opened) = opened {
        world.call("sdk:app", "knowledge.usage.close", json!({"usage_id": opened["usage_id"]})).await;
    }
}

/// How many calls deactivate makes before it closes the store: it asks those for their state that nobody has suspended, and tells all that
/// ran to stop.
fn deactivate_calls(access: &str) -> u64 {
    match access {
        "full" => 4 + 3,
        "read_only" => 3 + 3,
        _ => 1 + 3,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whenever_it_is_cancelled_everything_is_as_it_was_before() {
    let shared = Arc::new(Database::new().await);
    for database in [None, Some(&shared)] {
        for access in ACCESS {
            for moment in MOMENTS {
                let laid = laid(database).await;
                let before = laid.seen().await;
                assert_eq!(before["answers"], json!(["opens", "TOKEN_NOT_ACTIVE", "TOKEN_NOT_ACTIVE"]));
                cancelled_at(&laid, access, moment).await;
                laid.settle().await;
                let where_it_was = format!("{access}, {moment:?}, {}", if database.is_some() { "PostgreSQL" } else { "SQLite" });
                let mut after = laid.seen().await;
                // That somebody reports usage is known from then on.
                after["plane"]["usage_reported"] = before["plane"]["usage_reported"].clone();
                assert_eq!(before, after, "{where_it_was}");
                assert_eq!(laid.world.run(&laid.plane).await, ("restore".into(), "succeeded".into()), "{where_it_was}");
                let code = laid.world.code("user:alice", CANCEL, reasoned(&laid.plane)).await;
                assert_eq!(code, "NOT_CANCELLABLE", "{where_it_was}: twice");
                invariants::check(&laid.world).await;
            }
        }
    }
}

#[tokio::test]
async fn the_grace_period_suspends_what_its_access_says_and_writes_down_what_it_was() {
    for (access, suspended, writes) in
        [("full", vec![], true), ("read_only", vec!["nightly"], false), ("none", vec!["cache", "nightly", "server"], false)]
    {
        let laid = laid(None).await;
        laid.request(access).await;
        laid.world.drain().await;
        let states = laid.dependents.states();
        let stopped: Vec<_> =
            states.iter().filter(|(_, state)| state.starts_with("suspended")).map(|(name, _)| name.as_str()).collect();
        assert_eq!(stopped, suspended, "{access}");
        assert!(
            states.values().all(|state| !state.starts_with("suspended") || state == "suspended for acme/handbook"),
            "{states:?}"
        );
        assert_eq!(states["monthly"], "stopped by hand", "{access}: it did not run");
        assert_eq!(laid.world.write("p1").await.is_ok(), writes, "{access}");
        let status = laid.world.status(&laid.plane).await;
        let rows = status["offboarding"]["suspended"].as_array().expect("rows").clone();
        let of = |kind: &str| rows.iter().filter(|row| row["kind"] == kind).count();
        assert_eq!((of("fence"), of("dependent")), (usize::from(!writes), suspended.len()), "{access}: {rows:?}");
        assert_eq!(of("token"), usize::from(access == "none"), "{access}: {rows:?}");
        for row in rows.iter().filter(|row| row["kind"] == "dependent") {
            assert_eq!((&row["before"], &row["outcome"]), (&json!({"state": "running"}), &Json::Null), "{access}");
        }
        // Deactivate stops the rest.
        laid.world.advance(TimeDelta::hours(1)).await;
        assert_eq!(laid.world.state(&laid.plane).await, "ARCHIVED");
        let running = laid.dependents.states().into_values().filter(|state| state == "running").count();
        assert_eq!(running, 0, "{access}: {:?}", laid.dependents.states());
        invariants::check(&laid.world).await;
    }
}

#[tokio::test]
async fn what_people_did_during_the_grace_stays_as_they_left_it() {
    let mut laid = laid(None).await;
    let revoked = laid.world.call("user:root", "knowledge.token.issue", json!({"plane": laid.plane})).await;
    laid.request("none").await;
    laid.world.drain().await;
    laid.world.call("user:root", "knowledge.token.revoke", json!({"token_id": revoked["token_id"]})).await;
    let issue = json!({"plane": laid.plane});
    assert_eq!(
        laid.world.code("user:root", "knowledge.token.issue", issue).await,
        "PLANE_NOT_ACTIVE",
        "none comes to be meanwhile"
    );
    // Somebody let the server go on by hand, and took the schedule off the list.
    laid.dependents.set("server", "running");
    let remove = json!({"plane": laid.plane, "name": "nightly"});
    laid.world.call("user:root", "knowledge.dependent.remove", remove).await;
    laid.cancel().await;
    laid.settle().await;
    laid.tokens.push((String::new(), revoked["token"].as_str().unwrap().to_owned()));
    let seen = laid.seen().await;
    let closed = "TOKEN_NOT_ACTIVE";
    assert_eq!(seen["answers"], json!(["opens", closed, closed, closed]));
    let running = json!({"nightly": "running", "monthly": "stopped by hand", "server": "running", "cache": "running"});
    assert_eq!(seen["dependents"], running, "what was taken from it is given back, on the list or not");
    let outcomes = laid.outcomes().await;
    assert!(outcomes.contains(&"token 1 token(s) left_alone".to_owned()), "{outcomes:?}");
    // The one that works, and the one that had expired and is still its owner's.
    assert!(outcomes.contains(&"token 2 token(s) restored".to_owned()), "{outcomes:?}");
    invariants::check(&laid.world).await;
}

#[tokio::test]
async fn of_two_cancels_at_once_one_is_made_and_everything_is_given_back_once() {
    let laid = laid(None).await;
    let before = laid.seen().await;
    laid.request("none").await;
    laid.world.drain().await;
    let cancel = || laid.world.ask("user:alice", CANCEL, reasoned(&laid.plane));
    let (one, other) = tokio::join!(cancel(), cancel());
    let codes: Vec<_> = [&one, &other]
        .iter()
        .filter_map(|answer| if let Answer::Refused(refusal) = answer { Some(refusal.code.as_str()) } else { None })
        .collect();
    assert_eq!(codes, ["NOT_CANCELLABLE"], "{one:?} {other:?}");
    laid.settle().await;
    assert_eq!(before, laid.seen().await);
    assert_eq!(laid.world.entries(&laid.plane, "CANCELLED").await, 1);
    assert_eq!(laid.world.entries(&laid.plane, "ROLLBACK").await, 1);
    invariants::check(&laid.world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_call_of_a_restore_can_fail_whether_or_not_it_was_done() {
    let told = laid(None).await;
    let before = told.seen().await;
    told.request("none").await;
    told.world.drain().await;
    told.cancel().await;
    let calls = told.world.faults.calls().len();
    told.settle().await;
    let calls = told.world.faults.calls()[calls..].to_vec();
    assert!(calls.contains(&"store.unfence") && calls.contains(&"dependent.resume") && calls.len() > 8, "{calls:?}");
    for (number, verb) in calls.iter().enumerate() {
        for failing in [Failing::NotDone, Failing::Done, Failing::Panics] {
            let laid = laid(None).await;
            laid.request("none").await;
            laid.world.drain().await;
            laid.cancel().await;
            laid.world.faults.fail(number as u64, failing);
            laid.settle().await;
            let mut after = laid.seen().await;
            // Other worlds, other ids and instants.
            for field in ["plane", "tokens", "list"] {
                after[field] = before[field].clone();
            }
            assert_eq!(before, after, "{verb}, {failing:?}");
            assert_eq!(laid.world.run(&laid.plane).await, ("restore".into(), "succeeded".into()), "{verb}, {failing:?}");
            assert_eq!(laid.world.entries(&laid.plane, "STAGE_FAILED").await, 1, "{verb}, {failing:?}");
        }
    }
}

#[tokio::test]
async fn what_cannot_be_given_back_is_said_and_keeps_nothing_else_from_coming_back() {
    let laid = laid(None).await;
    let before = laid.seen().await;
    laid.request("read_only").await;
    laid.world.drain().await;
    let (file, away) = (laid.world.dir.path().join("knowledge.db"), laid.world.dir.path().join("away.db"));
    std::fs::rename(&file, &away).expect("take the store away");
    laid.cancel().await;
    laid.settle().await;
    assert_eq!(laid.world.run(&laid.plane).await, ("restore".into(), "halted".into()));
    assert_eq!(laid.dependents.states()["nightly"], "running", "it is given back all the same");
    assert_eq!(laid.outcomes().await, ["fence kb chunks not_restored", "dependent nightly restored"]);
    let next = laid.world.status(&laid.plane).await["offboarding"]["next"].to_string();
    assert!(next.contains("--accept-unrestored"), "{next}");
    let again = |accept: bool| json!({"plane": laid.plane, "reason": "the store is gone", "accept_unrestored": accept});
    // Nobody has to accept it: it can be tried again.
    laid.world.call("user:root", RETRY, again(false)).await;
    laid.settle().await;
    assert_eq!(laid.world.run(&laid.plane).await, ("restore".into(), "halted".into()));
    assert_eq!(laid.world.code("user:alice", REQUEST, request(&laid.plane, "1h")).await, "RESTORE_PENDING");

    laid.world.call("user:root", RETRY, again(true)).await;
    laid.settle().await;
    assert_eq!(laid.world.run(&laid.plane).await, ("restore".into(), "succeeded".into()));
    assert_eq!(laid.outcomes().await, ["fence kb chunks not_restored", "dependent nightly restored"]);
    let entry = laid.world.last_entry().await;
    assert_eq!(
        (&entry["event_type"], &entry["evidence"]["not_restored"], &entry["evidence"]["restored"]),
        (&json!("ROLLBACK"), &json!([{"kind": "fence", "what": "0"}]), &json!(1)),
        "{entry}"
    );
    assert_eq!(laid.world.code("user:root", RETRY, again(true)).await, "NOTHING_HALTED");

    // The store comes back, and with it the fence. Another offboarding finds it so and leaves it so.
    std::fs::rename(&away, &file).expect("bring the store back");
    let mut fenced = before.clone();
    fenced["store"] = laid.seen().await["store"].clone();
    assert_ne!(before["store"], fenced["store"]);
    for access in ["none", "read_only"] {
        laid.request(access).await;
        laid.world.drain().await;
        laid.cancel().await;
        laid.settle().await;
        assert_eq!(fenced, laid.seen().await, "{access}");
    }
    // Until somebody has the first one tried again.
    laid.world.call("user:root", RETRY, again(false)).await;
    laid.settle().await;
    assert_eq!(before, laid.seen().await);
    assert_eq!(laid.world.code("user:root", RETRY, again(false)).await, "NOTHING_HALTED");
    invariants::check(&laid.world).await;
}

#[tokio::test]
async fn a_command_that_fails_for_good_halts_the_restore_until_somebody_accepts_it() {
    let laid = laid_with(None, |dependents| dependents.config_resuming("false # ")).await;
    laid.request("none").await;
    laid.world.drain().await;
    laid.cancel().await;
    laid.settle().await;
    let status = laid.world.status(&laid.plane).await;
    assert_eq!(laid.world.run(&laid.plane).await, ("restore".into(), "halted".into()));
    assert!(status["offboarding"]["last_error"]["message"].to_string().contains("resume"), "{status}");
    laid.world.write("p1").await.expect("the store is open all the same");
    let outcomes = laid.outcomes().await;
    assert_eq!(outcomes.iter().filter(|line| line.starts_with("dependent") && line.ends_with("not_restored")).count(), 3);
    laid.world
        .call("user:root", RETRY, json!({"plane": laid.plane, "reason": "restarted by hand", "accept_unrestored": true}))
        .await;
    laid.dependents.set("nightly", "running");
    laid.settle().await;
    assert_eq!(laid.world.run(&laid.plane).await, ("restore".into(), "succeeded".into()));
    let outcomes = laid.outcomes().await;
    assert!(outcomes.contains(&"dependent nightly restored".to_owned()), "tried once more: {outcomes:?}");
    assert!(outcomes.contains(&"dependent server not_restored".to_owned()), "{outcomes:?}");
    assert_eq!(laid.world.entries(&laid.plane, "STAGE_RETRIED").await, 1);
    invariants::check(&laid.world).await;
}

#[tokio::test]
async fn a_worker_whose_configuration_lacks_the_commands_halts_and_says_what_would_be_right() {
    let laid = laid(None).await;
    laid.request("read_only").await;
    let config = laid.dependents.config();
    let world = laid.world.reopened("").await;
    world.drain().await;
    let status = world.status(&laid.plane).await;
    assert_eq!(world.run(&laid.plane).await, ("deregister".into(), "halted".into()));
    assert!(status["offboarding"]["last_error"]["message"].to_string().contains("[dependents.files]"), "{status}");
    assert_eq!(laid.dependents.states()["nightly"], "running");
    let world = world.reopened(&config).await;
    world.call("user:root", RETRY, json!({"plane": laid.plane, "reason": "it is there now"})).await;
    world.drain().await;
    assert_eq!(world.state(&laid.plane).await, "PENDING_DEACTIVATE");
    assert_eq!(laid.dependents.states()["nightly"], "suspended for acme/handbook");
    invariants::check(&world).await;
}

#[tokio::test]
async fn a_purge_leaves_nothing_of_what_depended_on_the_plane() {
    let laid = laid(None).await;
    laid.request("none").await;
    laid.world.drain().await;
    laid.world.advance(TimeDelta::hours(1)).await;
    laid.world.approve(&laid.plane).await;
    laid.world.drain().await;
    assert_eq!(laid.world.state(&laid.plane).await, "PURGED");
    for left in [
        "SELECT count(*) FROM dependents WHERE name IS NOT NULL OR control IS NOT NULL",
        "SELECT count(*) FROM suspensions WHERE before IS NOT NULL OR note IS NOT NULL",
    ] {
        assert_eq!(laid.world.number(left).await, 0, "{left}");
    }
    assert!(laid.world.number("SELECT count(*) FROM suspensions").await > 4, "that it was suspended stays on record");
    let add = json!({"plane": laid.plane, "name": "late", "kind": "other", "control": "files"});
    assert_eq!(laid.world.code("user:root", "knowledge.dependent.add", add).await, "PLANE_PURGED");
    invariants::check(&laid.world).await;
}

#[tokio::test]
async fn a_dependent_is_registered_only_where_it_could_be_told() {
    let laid = laid(None).await;
    let add =
        |name: &str, kind: &str, control: &str| json!({"plane": laid.plane, "name": name, "kind": kind, "control": control});
    for (arguments, code) in [
        (add("nightly", "schedule", "files"), "NAME_TAKEN"),
        (add("other", "daemon", "files"), "INVALID_ARGUMENT"),
        (add("other", "service", "nowhere"), "INVALID_ARGUMENT"),
        (add("../other", "service", "files"), "INVALID_ARGUMENT"),
    ] {
        assert_eq!(laid.world.code("user:root", "knowledge.dependent.add", arguments.clone()).await, code, "{arguments}");
    }
    let missing = json!({"plane": laid.plane, "name": "nobody"});
    assert_eq!(laid.world.code("user:root", "knowledge.dependent.remove", missing).await, "INVALID_ARGUMENT");
    let remove = json!({"plane": laid.plane, "name": "nightly"});
    laid.world.call("user:root", "knowledge.dependent.remove", remove).await;
    // One of the same name is another one.
    laid.world.call("user:root", "knowledge.dependent.add", add("nightly", "schedule", "files")).await;
    laid.request("full").await;
    laid.world.drain().await;
    laid.world.advance(TimeDelta::hours(1)).await;
    let code = laid.world.code("user:root", "knowledge.dependent.add", add("late", "service", "files")).await;
    assert_eq!(code, "PLANE_NOT_ACTIVE", "nothing would suspend it any more");
    assert_eq!(laid.world.entries(&laid.plane, "DEPENDENT_ADDED").await, 5);
    assert_eq!(laid.world.entries(&laid.plane, "DEPENDENT_REMOVED").await, 1);
    invariants::check(&laid.world).await;
}

/// The same with the real binary: a plane in two tables, and its dependents.
struct Real {
    installed: Installed,
    dependents: Dependents,
    token: String,
}

impl Real {
    async fn new() -> Self {
        let dependents = Dependents::new();
        let installed = Installed::with_plane(5, &dependents.config()).await;
        let mut db = knowledge::open(&installed.path("knowledge.db")).await;
        sqlx::raw_sql("CREATE TABLE notes (slug TEXT PRIMARY KEY, plane TEXT, note); INSERT INTO notes VALUES ('a', 'p9', 1)")
            .execute(&mut db)
            .await
            .expect("a second table");
        let archive = format!("file://{}", installed.path("archive").display());
        let [chunks, notes] = ["chunks", "notes"].map(|table| {
            let key = if table == "chunks" { "id" } else { "slug" };
            format!("kb?table={table}&plane_column=plane&plane=p9&key={key}")
        });
        let register = ["plane", "register", "--tenant", "acme", "--name", "both", "--store", &chunks, "--store", &notes];
        installed.done(&[&register[..], &["--archive", &archive]].concat());
        for (name, kind, _) in dependents::ALL {
            let add = ["plane", "dependent", "add", "acme/both", "--name", name, "--kind", kind, "--control", "files"];
            installed.done(&add);
        }
        let issued = installed.done(&["token", "issue", "acme/both"]);
        Self { installed, dependents, token: issued["token"].as_str().expect("a token").to_owned() }
    }

    async fn seen(&self) -> Json {
        let mut plane = self.installed.done(&["plane", "show", "acme/both"]);
        plane["epoch"] = Json::Null;
        let checked = self.installed.command(&["access", "check", "acme/both"]).env("LETHE_TOKEN", &self.token).output();
        let mut fenced = in_file(&self.installed.path("knowledge.db")).await;
        let mut db = knowledge::open(&self.installed.path("knowledge.db")).await;
        for write in ["INSERT INTO notes VALUES ('b', 'p9', 2)", "INSERT INTO chunks (plane) VALUES ('p9')"] {
            let mut tx = sqlx::Connection::begin(&mut db).await.expect("begin");
            let written = sqlx::query(write).execute(&mut *tx).await;
            tx.rollback().await.expect("roll back");
            fenced.as_array_mut().expect("lines").push(json!(format!("{write}: {}", written.is_ok())));
        }
        json!({
            "plane": plane, "tokens": self.installed.done(&["token", "list", "acme/both"]),
            "opens": checked.expect("run the binary").status.success(), "store": fenced, "dependents": self.dependents.states(),
        })
    }

    fn request(&self, access: &str) {
        let request =
            ["offboard", "acme/both", "--ground", "internal", "--reason", "done", "--grace", "1h", "--grace-access", access];
        self.installed.done(&request);
    }

    fn cancel(&self) {
        self.installed.done(&["offboarding", "cancel", "acme/both", "--reason", "no"]);
    }
}

/// Where the process is killed.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Killed {
    /// In deregister.
    Suspending,
    /// In deactivate.
    Deactivating,
    /// In the restore that the cancel itself performs.
    Restoring,
}

async fn killed(access: &'static str, when: Killed, crash: String) {
    let real = Real::new().await;
    let before = real.seen().await;
    real.request(access);
    let what = format!("{access}, {when:?}, {crash}");
    match when {
        Killed::Suspending => {
            assert!(real.installed.work_until_crash(&crash), "{what}: not reached");
            real.cancel();
        }
        Killed::Deactivating => {
            real.installed.work();
            real.installed.set_clock(4000);
            assert!(real.installed.work_until_crash(&crash), "{what}: not reached");
            real.installed.outlive_leases();
            real.installed.done(&["sweep"]);
            real.cancel();
        }
        Killed::Restoring => {
            real.installed.work();
            let mut cancel = real.installed.command(&["offboarding", "cancel", "acme/both", "--reason", "no"]);
            let output = cancel.env("LETHE_CRASH_AT", &crash).output().expect("run the binary");
            assert!(!output.status.success(), "{what}: not reached");
            real.installed.outlive_leases();
        }
    }
    real.installed.work();
    assert_eq!(before, real.seen().await, "{what}");
    assert_eq!(real.installed.status("acme/both")["offboarding"]["run_status"], "succeeded", "{what}");
    assert_eq!(real.installed.done(&["audit", "verify"])["audit"], json!("verified"), "{what}");
}

/// Every place where deregister, deactivate and restore may die under this access.
fn places(access: &str) -> Vec<(Killed, String)> {
    use CrashPoint::*;
    let suspended = match access {
        "full" => 0,
        "read_only" => 1,
        _ => 3,
    };
    let stores = 2;
    let all = |when: Killed, points: &[(CrashPoint, usize)]| -> Vec<(Killed, String)> {
        let each = |(point, times): &(CrashPoint, usize)| {
            let name = point.as_str();
            (1..=*times).map(move |n| (when, format!("{name}#{n}"))).collect::<Vec<_>>()
        };
        points.iter().flat_map(each).collect()
    };
    let mut places = all(
        Killed::Suspending,
        &[
            (Claimed, 1),
            (DeregisterNoted, 1),
            (DeregisterSuspended, suspended),
            (DeregisterFenced, stores),
            (Performed, 1),
            (Recorded, 1),
        ],
    );
    places.extend(all(Killed::Deactivating, &[(DeregisterSuspended, 3), (DeactivateClosed, stores)]));
    let fences = if access == "full" { 0 } else { stores };
    let settled = usize::from(access != "full");
    places.extend(all(
        Killed::Restoring,
        &[
            (Claimed, 1),
            (RestoreUnfenced, fences),
            (RestoreResumed, suspended),
            (RestoreSettled, settled),
            (Performed, 1),
            (Recorded, 1),
        ],
    ));
    places
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_anywhere_before_in_or_after_a_cancel_everything_comes_back() {
    let mut stories = tokio::task::JoinSet::new();
    let mut told = 0;
    // What a process does to the world does not depend on where the ledger is.
    for access in ACCESS.into_iter().filter(|access| !crate::ON_POSTGRES || *access == "none") {
        for (when, crash) in places(access) {
            if stories.len() >= 4 {
                stories.join_next().await.expect("a story").expect("a story that ends well");
            }
            stories.spawn(killed(access, when, crash));
            told += 1;
        }
    }
    while let Some(story) = stories.join_next().await {
        story.expect("a story that ends well");
    }
    assert!(told >= if crate::ON_POSTGRES { 20 } else { 45 }, "{told} stories");
}
