//! Questions to the trail: every filter finds what a naive reader of the whole trail finds, a page never changes, nobody sees what is not
//! theirs, and what auditors ask every quarter is one command.

use std::process::Command;

use chrono::{DateTime, TimeDelta, Utc};
use lethe_ledger::{Chain, Entry, EventType, Tx};
use lethe_stages::Step;
use lethe_worker::operations::Answer;
use serde_json::{Value as Json, json};
use uuid::Uuid;

use crate::support::{World, binary::Installed, call, invariants, random::Random, request};

const QUERY: &str = "governance.audit.query";

/// The configuration of a log whose key is this file.
fn with_log(keys: &tempfile::TempDir) -> String {
    let file = keys.path().join("log.key");
    let key = lethe_verify::note::SigningKey::write("tests/log", &[7; 32]).expect("a key");
    std::fs::write(&file, key).expect("write the key");
    // A key that others may read is refused.
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("keep it to its owner");
    format!("[log]\nkey = \"file:{}\"\npublish = \"none\"\n", file.display())
}

/// A world with two tenants, in which much has happened. The folder keeps the log's key.
async fn eventful() -> (World, tempfile::TempDir, String) {
    let keys = tempfile::tempdir().expect("a folder");
    let world = World::with(&with_log(&keys)).await;
    let plane = world.acme(3).await;
    world.call("user:root", "knowledge.token.issue", json!({"plane": plane})).await;
    world.call("user:lena", "knowledge.hold.place", json!({"tenants": ["acme"], "reason": "Lawsuit =1+1"})).await;
    world.request(&plane, "1h").await;
    world.drain().await;
    world.call("user:alice", "knowledge.offboarding.cancel", json!({"plane": plane, "reason": "stays"})).await;
    world.advance(TimeDelta::minutes(30)).await;
    let mut terms = request(&plane, "1h");
    world.call("user:alice", "knowledge.offboarding.request", terms.clone()).await;
    terms["grace"] = json!("9d");
    world.refused("user:mallory", "knowledge.offboarding.request", terms).await;
    world.refused("user:mallory", "knowledge.plane.show", json!({"plane": "acme/nothing"})).await;
    world.request("globex/handbook", "1h").await;
    world.advance(TimeDelta::hours(2)).await;
    let holds = world.call("user:lena", "knowledge.hold.list", json!({})).await;
    let hold = holds["holds"][0]["hold_id"].clone();
    world.call("user:lena", "knowledge.hold.release", json!({"hold_id": hold, "reason": "settled"})).await;
    world.advance(TimeDelta::hours(1)).await;
    world.refused("user:alice", "knowledge.approval.grant", json!({"plane": plane, "reason": "myself"})).await;
    world.call("user:bob", "knowledge.approval.deny", json!({"plane": "globex/handbook", "reason": "not yet"})).await;
    world.approve(&plane).await;
    world.drain().await;
    assert_eq!(world.state(&plane).await, "PURGED");
    // That the log has a key is an entry too, which the next sealing takes.
    for _ in 0..2 {
        world.app.manager.seal().await.expect("seal");
    }
    (world, keys, plane)
}

/// Every entry as a listing has it; its place in the list is its leaf's number, for here one writes after the other.
async fn everything(world: &World) -> Vec<Json> {
    world.call("user:auditor", "governance.audit.list", json!({})).await["entries"].as_array().expect("entries").clone()
}

fn outcome(entry: &Json) -> &str {
    let kind = entry["event_type"].as_str().expect("a type");
    match entry["gate"]["decision"].as_str() {
        Some(decision) => decision,
        None if ["BLOCKED", "DENIED"].contains(&kind) => "BLOCKED",
        None if kind.ends_with("_FAILED") => "FAILED",
        None => "DONE",
    }
}

fn says(value: &Json, needle: &str) -> bool {
    match value {
        Json::Array(values) => values.iter().any(|value| says(value, needle)),
        Json::Object(fields) => {
            fields.iter().any(|(name, value)| !["hash", "previous"].contains(&name.as_str()) && says(value, needle))
        }
        Json::String(text) => text.to_lowercase().contains(&needle.to_lowercase()),
        Json::Number(number) => number.to_string().contains(needle),
        _ => false,
    }
}

/// What a reader of everything would pick.
fn fits(entry: &Json, asked: &Json) -> bool {
    let equal = |argument: &str, value: &Json| asked.get(argument).is_none_or(|wanted| wanted == value);
    let among = |argument: &str, value: &str| {
        asked.get(argument).is_none_or(|wanted| wanted.as_array().expect("a list").iter().any(|one| one == value))
    };
    let at: DateTime<Utc> = entry["at"].as_str().expect("at").parse().expect("an instant");
    let when =
        |argument: &str| asked.get(argument).map(|at| at.as_str().expect("text").parse::<DateTime<Utc>>().expect("an instant"));
    let gate = &entry["gate"]["policy_revision"];
    let policy = if gate.is_null() { &entry["evidence"]["policy_revision"] } else { gate };
    let actor =
        format!("{}:{}", entry["actor_type"].as_str().expect("a kind"), entry["values"]["actor_id"].as_str().expect("a name"));
    equal("tenant", &entry["tenant_id"])
        && equal("plane", &entry["plane_id"])
        && equal("offboarding", &entry["offboarding_id"])
        && equal("approval", &entry["evidence"]["approval_id"])
        && equal("policy_revision", policy)
        && equal("actor", &json!(actor))
        && among("event_types", entry["event_type"].as_str().expect("a type"))
        && among("outcomes", outcome(entry))
        && when("from").is_none_or(|from| at >= from)
        && when("until").is_none_or(|until| at < until)
        && asked.get("text").is_none_or(|text| says(entry, text.as_str().expect("text")))
}

/// The leaves of every page of an answer.
async fn pages(world: &World, mut asked: Json, limit: u64) -> Vec<i64> {
    let mut leaves = Vec::new();
    asked["limit"] = json!(limit);
    // What concerns no tenant is asked for otherwise.
    if asked.get("tenant").is_some_and(|tenant| tenant == "__system__") {
        asked.as_object_mut().expect("an object").remove("tenant");
        asked["system"] = json!(true);
        if asked.get("plane").is_some() {
            return Vec::new();
        }
    }
    for _ in 0..10_000 {
        let page = world.call("user:auditor", QUERY, asked.clone()).await;
        assert_eq!(page["unsealed"], 0, "{page}");
        let entries = page["entries"].as_array().expect("entries");
        assert!(entries.len() as u64 <= limit);
        leaves.extend(entries.iter().map(|entry| entry["leaf_index"].as_i64().expect("a number")));
        match page.get("next") {
            Some(next) => asked["after"] = next.clone(),
            None => return leaves,
        }
    }
    panic!("the pages of {asked} do not end");
}

#[tokio::test]
async fn every_filter_alone_and_with_others_finds_what_a_reader_of_everything_finds() {
    let (world, _keys, _) = eventful().await;
    let all = everything(&world).await;
    let mut random = Random(11);
    let own = |field: &str| {
        let mut values: Vec<String> = all.iter().filter_map(|entry| entry.pointer(field)?.as_str().map(str::to_owned)).collect();
        values.sort();
        values.dedup();
        assert!(!values.is_empty(), "{field}");
        values
    };
    let mut filters: Vec<(&str, Vec<Json>)> = Vec::new();
    for (argument, field) in [
        ("plane", "/plane_id"),
        ("offboarding", "/offboarding_id"),
        ("approval", "/evidence/approval_id"),
        ("policy_revision", "/gate/policy_revision"),
        ("tenant", "/tenant_id"),
    ] {
        filters.push((argument, own(field).into_iter().map(|value| json!(value)).collect()));
    }
    let lists = |values: Vec<String>| {
        let pairs = values.windows(2).map(|pair| json!(pair)).collect::<Vec<_>>();
        values.iter().map(|value| json!([value])).chain(pairs).chain([json!(values)]).collect::<Vec<_>>()
    };
    filters.push(("event_types", lists(own("/event_type"))));
    filters.push(("outcomes", lists(["DONE", "ALLOWED", "PENDING", "BLOCKED", "FAILED"].map(str::to_owned).to_vec())));
    let names = ["user:alice", "user:bob", "user:mallory", "user:lena", "system:alice", "user:nobody"];
    filters.push(("actor", names.map(|name| json!(name)).to_vec()));
    let instants = own("/at");
    let some: Vec<Json> = instants.iter().map(|at| json!(at)).collect();
    filters.push(("from", some.clone()));
    filters.push(("until", some));
    let texts = ["LAWSUIT", "stays", "alice", "\"", "%", "_", "handbook", "purge", "settled", "evidence_digest", "é"];
    filters.push(("text", texts.map(|text| json!(text)).to_vec()));

    let mut questions: Vec<Json> = vec![json!({})];
    for (argument, values) in &filters {
        questions.extend(values.iter().map(|value| json!({*argument: value})));
    }
    for _ in 0..120 {
        let mut asked = json!({});
        for _ in 0..random.between(2, 4) {
            let (argument, values) = &filters[random.between(0, filters.len() as u64 - 1) as usize];
            asked[*argument] = values[random.between(0, values.len() as u64 - 1) as usize].clone();
        }
        let (from, until) = (asked["from"].as_str().map(str::to_owned), asked["until"].as_str().map(str::to_owned));
        let object = asked.as_object_mut().expect("an object");
        object.retain(|_, value| !value.is_null());
        if let (Some(from), Some(until)) = (from, until)
            && from >= until
        {
            object.remove("until");
        }
        questions.push(asked);
    }
    let mut found = 0;
    for mut asked in questions {
        let mut wanted: Vec<i64> = (0..).zip(&all).filter(|(_, entry)| fits(entry, &asked)).map(|(leaf, _)| leaf).collect();
        if random.between(0, 1) == 1 {
            wanted.reverse();
            asked["newest"] = json!(true);
        }
        let limit = [1, 3, 10, 1000][random.between(0, 3) as usize];
        assert_eq!(pages(&world, asked.clone(), limit).await, wanted, "{asked}, {limit} a page");
        found += wanted.len();
    }
    assert!(found > 1000, "only {found}");
    assert_eq!(everything(&world).await.len(), all.len(), "asking leaves no trace");
    invariants::check(&world).await;
}

#[tokio::test]
async fn a_page_stays_as_it_is_while_more_is_sealed() {
    let (world, _keys, plane) = eventful().await;
    let first = world.call("user:auditor", QUERY, json!({"plane": plane, "limit": 5})).await;
    let after = json!({"plane": plane, "limit": 5, "after": first["next"]});
    let second = world.call("user:auditor", QUERY, after.clone()).await;
    for _ in 0..3 {
        world.refused("user:mallory", "knowledge.approval.grant", json!({"plane": plane, "reason": "again"})).await;
        assert_eq!(world.call("user:auditor", QUERY, json!({"plane": plane, "limit": 5})).await["entries"], first["entries"]);
        assert_eq!(world.call("user:auditor", QUERY, after.clone()).await["entries"], second["entries"]);
    }
    let newest = world.call("user:auditor", QUERY, json!({"plane": plane, "limit": 1, "newest": true})).await;
    assert_eq!(newest["entries"][0]["values"]["actor_id"], "mallory");
}

#[tokio::test]
async fn what_is_not_sealed_is_counted() {
    let world = World::with("[log]\nkey = \"none\"\n").await;
    world.acme(2).await;
    let page = world.call("user:auditor", QUERY, json!({})).await;
    let all = everything(&world).await.len();
    assert_eq!((&page["entries"], &page["unsealed"]), (&json!([]), &json!(all)));
    let mut confined = call("user:gina", QUERY, json!({}));
    confined.tenant = Some("globex".into());
    let Answer::Done(page) = world.dispatch(&confined).await else { panic!("she may ask") };
    let globex = world.tenant_id("globex").await;
    let own = everything(&world).await.iter().filter(|entry| entry["tenant_id"] == *globex).count();
    assert_eq!(page["unsealed"], json!(own), "and no more is told");
}

#[tokio::test]
async fn somebody_confined_to_a_tenant_is_told_of_nothing_else() {
    let (world, _keys, plane) = eventful().await;
    let globex = world.tenant_id("globex").await;
    let all = everything(&world).await;
    let foreign: Vec<Json> = all.iter().filter(|entry| entry["plane_id"] == *plane).cloned().collect();
    let ask = async |operation: &str, arguments: Json| {
        let mut confined = call("user:gina", operation, arguments);
        confined.tenant = Some("globex".into());
        world.dispatch(&confined).await
    };
    for asked in [
        json!({"limit": 1000}),
        json!({"offboarding": foreign.iter().find_map(|entry| entry["offboarding_id"].as_str())}),
        json!({"approval": foreign.iter().find_map(|entry| entry["evidence"]["approval_id"].as_str())}),
        json!({"text": "acme", "limit": 1000}),
        json!({"actor": "user:lena"}),
    ] {
        let Answer::Done(page) = ask(QUERY, asked.clone()).await else { panic!("{asked}") };
        for entry in page["entries"].as_array().expect("entries") {
            assert_eq!(entry["tenant_id"], *globex, "{asked}: {entry}");
        }
    }
    for asked in
        [json!({"plane": plane}), json!({"plane": "acme/handbook"}), json!({"tenant": "acme"}), json!({"tenant": "__system__"})]
    {
        assert!(matches!(ask(QUERY, asked.clone()).await, Answer::Refused(_)), "{asked}");
    }
    assert!(matches!(ask("governance.audit.about", json!({"plane": plane})).await, Answer::Refused(_)));
    for operation in ["governance.audit.approvals", "governance.audit.refusals", "governance.audit.purges"] {
        let Answer::Done(answer) = ask(operation, json!({})).await else { panic!("{operation}") };
        assert!(!answer.to_string().contains(&plane), "{operation}: {answer}");
    }
}

#[tokio::test]
async fn what_cannot_be_understood_is_refused_with_what_would_be_right() {
    let (world, _keys, _) = eventful().await;
    for (asked, said) in [
        (json!({"event_types": ["PURGE"]}), "TRANSITION"),
        (json!({"outcomes": ["MAYBE"]}), "ALLOWED"),
        (json!({"from": "yesterday"}), "2026-01-31"),
        (json!({"from": "2026-03-02", "until": "2026-03-01"}), "not before"),
        (json!({"limit": 0}), "between 1 and 10000"),
        (json!({"limit": 10_001}), "between 1 and 10000"),
        (json!({"after": -1}), "next"),
        (json!({"actor": "alice"}), "user:alice"),
        (json!({"offboarding": "x"}), "--offboarding"),
        (json!({"text": " "}), "--text"),
        (json!({"quarter": "2026Q5"}), "2026Q4"),
    ] {
        let refused = world.refused("user:auditor", QUERY, asked.clone()).await;
        assert!(refused.message.contains(said), "{asked}: {refused}");
    }
}

#[tokio::test]
async fn auditors_questions_have_answers() {
    let (world, _keys, plane) = eventful().await;
    let asked = |plane: &str| json!({"plane": plane});
    let approvals = world.call("user:auditor", "governance.audit.approvals", asked(&plane)).await;
    let [granted] = approvals["decisions"].as_array().expect("decisions").as_slice() else { panic!("{approvals}") };
    assert_eq!((&granted["by"], &granted["reason"]), (&json!("user:bob"), &json!("checked")));
    assert_eq!(granted["identity_assurance"], "asserted");
    assert!(granted["used_by"]["event_id"].is_string(), "{granted}");
    let denied = world.call("user:auditor", "governance.audit.approvals", json!({"tenant": "globex"})).await;
    assert_eq!((&denied["decisions"][0]["what"], &denied["decisions"][0]["used_by"]), (&json!("DENIED"), &json!(null)));

    let refusals = world.call("user:auditor", "governance.audit.refusals", json!({"actor": "user:mallory"})).await;
    assert_eq!(refusals["total"], 2, "{refusals}");
    let codes: Vec<_> = refusals["refusals"].as_array().expect("a list").iter().map(|one| one["code"].clone()).collect();
    assert_eq!(codes, ["PLANE_UNKNOWN", "OFFBOARDING_OPEN"], "the latest first");
    let own = world.call("user:auditor", "governance.audit.refusals", json!({"code": "APPROVAL_BY_SELF"})).await;
    assert_eq!((&own["counts"][0]["by"], &own["counts"][0]["times"]), (&json!("user:alice"), &json!(1)));

    let about = world.call("user:auditor", "governance.audit.about", asked(&plane)).await;
    let story: Vec<_> = about["story"].as_array().expect("a story").iter().map(|one| one["what"].as_str().unwrap()).collect();
    for said in ["user:lena placed a hold on the tenant: Lawsuit =1+1", "user:alice cancelled the offboarding: stays"] {
        assert!(story.contains(&said), "{said}: {story:#?}");
    }
    assert_eq!(story.last(), Some(&"it went from ARCHIVED to PURGED"));

    let purges = world.call("user:auditor", "governance.audit.purges", json!({"quarter": "2026Q1"})).await;
    assert_eq!((&purges["found"], &purges["with_faults"]), (&json!(1), &json!(0)), "{purges:#}");
    let steps: Vec<_> = purges["purges"][0]["steps"].as_array().expect("steps").iter().map(|one| one["step"].clone()).collect();
    assert_eq!(steps[..8], ["request", "deregister", "verify", "deactivate", "export", "evict", "approval", "purge"]);
    let before = world.call("user:auditor", "governance.audit.purges", json!({"quarter": "2025Q4"})).await;
    assert_eq!(before["purges"], json!([]));
    invariants::check(&world).await;
}

/// It is judged by what is on record whether a purge was early, so the retention begins there, however the clock stands.
#[tokio::test]
async fn a_retention_begins_when_the_archive_is_on_record() {
    let world = World::new().await;
    let plane = world.acme(2).await;
    world.reach(&plane, "evict").await;
    let finished = world.app.manager.perform(&world.claim(&plane).await).await;
    world.clock.advance(TimeDelta::seconds(-5));
    world.record(&finished).await;
    assert_eq!(world.state(&plane).await, "ARCHIVED");
    let on_record = "SELECT count(*) FROM offboardings o JOIN trail t ON t.offboarding_id = o.id
        WHERE t.body LIKE '%\"to_state\":\"ARCHIVED\"%' AND o.retention_us = 0 AND o.retention_until = t.at";
    assert_eq!(world.number(on_record).await, 1);
}

#[tokio::test]
async fn a_purge_whose_steps_are_missing_is_found() {
    let (world, _keys, _) = eventful().await;
    let (tenant, offboarding) = (world.tenant_id("acme").await.parse::<Uuid>().expect("an id"), Uuid::from_u128(9));
    let by_hand = world.app.ledger.transact(async |tx: &mut Tx| {
        for event in [EventType::StageStarted, EventType::StageCompleted] {
            let actor = "system:somebody".parse().expect("an actor");
            let entry = Entry {
                offboarding_id: Some(offboarding),
                step: Some(Step::Purge),
                ..Entry::new(Chain::Tenant(tenant), Some(tenant), event, &actor, "by hand")
            };
            tx.append(entry).await?;
        }
        Ok::<_, lethe_ledger::Fault>(())
    });
    by_hand.await.expect("append").into_inner();
    let found = world.call("user:auditor", "governance.audit.purges", json!({"from": "2026-01-01", "faults": true})).await;
    assert_eq!((&found["found"], &found["with_faults"]), (&json!(2), &json!(1)), "{found:#}");
    let faults = found["purges"][0]["faults"].as_array().expect("faults");
    let said: Vec<_> =
        faults.iter().map(|one| format!("{} {}", one["step"].as_str().unwrap(), one["fault"].as_str().unwrap())).collect();
    for wanted in ["request", "deregister", "verify", "deactivate", "export", "evict", "approval", "purge"] {
        assert!(said.contains(&format!("{wanted} MISSING")), "{wanted}: {said:?}");
    }
}

#[tokio::test]
async fn no_question_walks_the_trail_or_its_leaves() {
    let (world, _keys, _) = eventful().await;
    let plans = world.read(async |tx: &mut Tx| tx.trail_query_plans(true).await).await;
    assert_eq!(plans.len(), 21);
    for (name, plan) in plans {
        let text = plan.join("\n");
        for walked in ["SCAN leaves", "SCAN trail", "SCAN t\n", "SCAN t ", "Seq Scan on leaves", "Seq Scan on trail"] {
            assert!(!text.contains(walked), "{name}: {plan:#?}");
        }
        if name.starts_with("leaves_by") {
            let index = if crate::ON_POSTGRES { format!("Index Scan using {name}") } else { format!("USING INDEX {name}") };
            let backwards = format!("Index Scan Backward using {name}");
            assert!(text.contains(&index) || text.contains(&backwards), "{name}: {plan:#?}");
            // The leaves are found in their order: only what is shown of them is sorted.
            assert!(!text.contains("Bitmap"), "{name}: {plan:#?}");
        }
    }
}

#[tokio::test]
async fn an_answer_is_taken_away_as_csv_and_as_parquet() {
    let keys = tempfile::tempdir().expect("a folder");
    let installed = Installed::with_plane(2, &with_log(&keys)).await;
    for number in 0..30 {
        let reason = format!("={number}, \"quoted\"\nand é");
        let placed = installed.done(&["hold", "place", "acme/handbook", "--reason", &reason]);
        let hold = placed["placed"][0]["hold_id"].as_str().or(placed["hold_id"].as_str()).expect("a hold").to_owned();
        installed.done(&["hold", "release", &hold, "--reason", "over"]);
    }
    let (csv, parquet, lines) = (installed.path("a.csv"), installed.path("a.parquet"), installed.path("a.jsonl"));
    for (format, file) in [("csv", &csv), ("parquet", &parquet), ("json", &lines)] {
        let file = file.to_str().expect("a path");
        let written = installed.done(&["audit", "query", "--all", "--limit", "7", "--format", format, "--output", file]);
        assert!(written["entries"].as_u64().expect("a number") > 60, "{written}");
    }
    let refused = installed.run(&["audit", "query", "--format", "parquet"]);
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    assert!(!installed.path("a.csv.part").exists() && !installed.path("a.parquet.part").exists());
    let Ok(python) = std::env::var("LETHE_PYTHON") else {
        assert_eq!(std::env::var("LETHE_TESTS_WITHOUT_PYARROW").as_deref(), Ok("1"), "LETHE_PYTHON is not set: run `tests/run`");
        return;
    };
    let script = r#"
import csv, json, sys
import duckdb, pyarrow.parquet as pq
lines = [json.loads(line) for line in open(sys.argv[3], encoding="utf-8")]
rows = list(csv.DictReader(open(sys.argv[1], encoding="utf-8", newline="")))
table = pq.read_table(sys.argv[2])
assert str(table.schema.field("at").type) == "timestamp[us, tz=UTC]", table.schema
assert str(table.schema.field("leaf_index").type) == "int64", table.schema
sheet = table.to_pylist()
assert len(lines) == len(rows) == len(sheet) > 60, (len(lines), len(rows), len(sheet))
assert duckdb.sql(f"SELECT count(*) FROM '{sys.argv[2]}'").fetchall()[0][0] == len(lines)
for number, (line, row, cells) in enumerate(zip(lines, rows, sheet)):
    assert number == line["leaf_index"] == int(row["leaf_index"]) == cells["leaf_index"]
    assert row["at"] == line["at"] == cells["at"].strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    reason = line["values"].get("reason")
    assert cells["reason"] == reason, (cells, reason)
    assert row["reason"] == ("'" + reason if reason and reason[0] == "=" else reason or ""), row
    assert json.loads(row["evidence"]) == json.loads(cells["evidence"]) == line["evidence"]
    assert row["hash"] == cells["hash"] == line["hash"]
print("equal")
"#;
    let output = Command::new(python).arg("-c").arg(script).args([&csv, &parquet, &lines]).output().expect("run python");
    assert!(output.status.success(), "{output:?}");
}
