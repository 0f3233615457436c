//! A plane in several stores at once: one of them failing half-way delays, loses nothing, evicts nothing early, and the status says which
//! and why.

use chrono::TimeDelta;
use serde_json::{Value as Json, json};

use crate::support::{World, chroma::Chroma, faults::Failing, invariants, knowledge, postgres::Database, reference::Reference};

const ROWS: usize = 25;
const LATE: &str = "INSERT INTO chunks (plane, body) VALUES ('p1', 'late')";

struct Site {
    world: World,
    pg: Database,
    chroma: Chroma,
    reference: Reference,
    plane: String,
}

impl Site {
    /// A plane whose records stand in pgvector, Chroma, SQLite and behind the store protocol, beside a neighbour's in each.
    async fn new() -> Self {
        let world = World::with("[archive]\npart_rows_max = 10\n[queue]\nattempts_max = 3\n").await;
        let pg = Database::new().await;
        pg.chunks("kb.chunks", false, &[("p1", ROWS), ("p2", 5)]).await;
        pg.register(&world).await;
        let chroma = Chroma::apart(&world.dir.path().join("chroma"));
        chroma.collection("shared", &[("p1", ROWS), ("p2", 5)]);
        let file = world.dir.path().join("knowledge.db");
        knowledge::create(&file, &[("p1", ROWS), ("p2", 5)]).await;
        let reference = Reference::start(world.dir.path(), &[]);
        reference.fill("p1", 1, ROWS);
        reference.fill("p2", 1001, 5);
        for (name, url) in
            [("vectors", chroma.store_url()), ("kb", format!("sqlite:{}", file.display())), ("notes", reference.url.clone())]
        {
            world.call("user:root", "integrations.store.add", json!({"name": name, "url": url, "tenants": ["acme"]})).await;
        }
        let scope = "plane_column=plane&plane=p1&key=id&embedding=embedding";
        let stores: Vec<_> = [("pg", "kb.chunks"), ("vectors", "shared"), ("kb", "chunks"), ("notes", "notes")]
            .map(|(store, table)| format!("{store}?table={table}&{scope}"))
            .into();
        let archive = format!("file://{}", world.dir.path().join("archive").display());
        let plane = json!({"tenant": "acme", "name": "handbook", "stores": stores, "archive": archive});
        let plane = world.call("user:root", "knowledge.plane.register", plane).await;
        Self { world, pg, chroma, reference, plane: plane["plane_id"].as_str().expect("an id").to_owned() }
    }

    /// The records of a plane in each store: pgvector, Chroma, SQLite, the reference server.
    async fn counts(&self, plane: &str) -> [usize; 4] {
        let notes = crate::support::http::ask("GET", &format!("{}/notes?plane={plane}", self.reference.url), None);
        let notes = match notes.expect("an answer") {
            (200, said) => said["notes"].as_array().expect("notes").len(),
            _ => usize::MAX,
        };
        let pg = self.pg.plane("kb.chunks", plane).await.len();
        let sqlite = knowledge::digest(&self.world.dir.path().join("knowledge.db"), plane).await.0;
        [pg, self.chroma.records("shared", Some(plane)).len(), sqlite, notes]
    }

    async fn stores(&self) -> Vec<Json> {
        self.world.status(&self.plane).await["offboarding"]["stores"].as_array().expect("stores").clone()
    }

    async fn retried_later(&self) {
        self.world.advance(TimeDelta::minutes(2)).await;
    }
}

#[tokio::test]
async fn one_store_away_delays_and_evicts_nothing_and_the_others_go_on() {
    let mut site = Site::new().await;
    let plane = site.plane.clone();
    site.world.reach(&plane, "export").await;
    site.chroma.stop();
    site.world.drain().await;
    let stores = site.stores().await;
    assert_eq!(stores[1]["error"]["code"], "UNAVAILABLE", "{stores:#?}");
    assert!(stores[1]["error"]["message"].as_str().is_some_and(|said| said.contains("vectors")), "{stores:#?}");
    for (store, name) in [(0, "pg"), (2, "kb"), (3, "notes")] {
        assert_eq!((&stores[store]["name"], &stores[store]["error"]), (&json!(name), &Json::Null));
        assert_eq!(stores[store]["progress"], json!({"verb": "verified", "done": ROWS, "total": ROWS}), "the others were copied");
    }
    assert_eq!(site.world.state(&plane).await, "DEACTIVATED");
    assert_eq!(site.world.run(&plane).await, ("export".to_owned(), "queued".to_owned()), "it is tried again");
    site.chroma.start();
    assert_eq!(site.counts("p1").await[..3], [ROWS; 3], "nothing was evicted");

    // Away again, between the export and the evict.
    site.world.clock.advance(TimeDelta::minutes(2));
    let claimed = site.world.claim(&plane).await;
    site.world.finish(&claimed).await;
    assert_eq!(site.world.run(&plane).await, ("evict".to_owned(), "queued".to_owned()), "{}", site.world.status(&plane).await);
    site.chroma.stop();
    site.world.drain().await;
    assert_eq!(site.stores().await[1]["error"]["code"], "UNAVAILABLE");
    assert_eq!(site.pg.plane("kb.chunks", "p1").await.len(), ROWS, "no store loses a record before all are ready");
    site.chroma.start();
    assert_eq!(site.counts("p1").await[..3], [ROWS; 3]);

    site.retried_later().await;
    assert_eq!(site.world.state(&plane).await, "ARCHIVED", "{}", site.world.status(&plane).await);
    assert_eq!(site.counts("p1").await[..3], [0; 3]);
    assert!(site.stores().await.iter().all(|store| store["error"].is_null()));
    let verified = site.world.call("user:auditor", "knowledge.archive.verify", json!({"plane": plane, "restore": true})).await;
    assert_eq!((&verified["archive"], &verified["rows"]), (&json!("verified"), &json!(4 * ROWS)), "{verified}");
    site.world.approve(&plane).await;
    site.world.drain().await;
    assert_eq!(site.world.state(&plane).await, "PURGED", "{}", site.world.status(&plane).await);
    assert_eq!(site.counts("p2").await, [5; 4], "the neighbours are untouched");
    invariants::check(&site.world).await;
}

#[tokio::test]
async fn a_store_that_fails_in_the_middle_of_an_evict_loses_nothing_and_is_named() {
    let site = Site::new().await;
    let plane = site.plane.clone();
    site.world.reach(&plane, "evict").await;
    // The fourth store's first erase: the others are through by then.
    let before = site.world.faults.calls().len();
    site.world.faults.fail(20, Failing::Done);
    site.world.drain().await;
    let calls = site.world.faults.calls()[before..].to_vec();
    let failed = site.stores().await.iter().position(|store| !store["error"].is_null());
    let failed = failed.unwrap_or_else(|| panic!("a store is named: {calls:?}"));
    assert_eq!(site.world.state(&plane).await, "DEACTIVATED", "call {} of {calls:?} failed, in store {failed}", 20);
    site.retried_later().await;
    assert_eq!(site.world.state(&plane).await, "ARCHIVED", "{}", site.world.status(&plane).await);
    let verified = site.world.call("user:auditor", "knowledge.archive.verify", json!({"plane": plane, "restore": true})).await;
    assert_eq!((&verified["archive"], &verified["rows"]), (&json!("verified"), &json!(4 * ROWS)), "{verified}");
    assert_eq!(site.counts("p2").await, [5; 4]);
    invariants::check(&site.world).await;
}

#[tokio::test]
async fn a_store_that_needs_an_operator_halts_the_run_and_the_others_say_what_they_did() {
    let mut site = Site::new().await;
    let plane = site.plane.clone();
    site.world.reach(&plane, "export").await;
    site.pg.as_app("ALTER TABLE kb.chunks RENAME TO moved").await.expect("the owner may");
    site.chroma.stop();
    site.world.drain().await;
    assert_eq!(site.world.run(&plane).await, ("export".to_owned(), "halted".to_owned()), "one of them needs an operator");
    let stores = site.stores().await;
    let codes: Vec<_> = stores.iter().map(|store| store["error"]["code"].as_str().unwrap_or("-")).collect();
    assert_eq!(codes, ["UNUSABLE", "UNAVAILABLE", "-", "-"], "{stores:#?}");
    site.pg.as_app("ALTER TABLE kb.moved RENAME TO chunks").await.expect("back");
    site.chroma.start();
    site.world.call("user:root", "knowledge.offboarding.retry", json!({"plane": plane, "reason": "moved back"})).await;
    site.world.drain().await;
    assert_eq!(site.world.state(&plane).await, "ARCHIVED", "{}", site.world.status(&plane).await);
    invariants::check(&site.world).await;
}

/// A plane of 25 records in each of two files, `a` and `b`.
async fn pair(config: &str) -> (World, String) {
    let world = World::with(config).await;
    let mut stores = Vec::new();
    world.call("user:root", "account.tenant.register", json!({"name": "acme"})).await;
    for name in ["a", "b"] {
        knowledge::create(&file(&world, name), &[("p1", ROWS), ("p2", 5)]).await;
        let url = format!("sqlite:{}", file(&world, name).display());
        world.call("user:root", "integrations.store.add", json!({"name": name, "url": url, "tenants": ["acme"]})).await;
        stores.push(format!("{name}?table=chunks&plane_column=plane&plane=p1&key=id&embedding=embedding"));
    }
    let archive = format!("file://{}", world.dir.path().join("archive").display());
    let plane = json!({"tenant": "acme", "name": "handbook", "stores": stores, "archive": archive});
    let plane = world.call("user:root", "knowledge.plane.register", plane).await;
    (world, plane["plane_id"].as_str().expect("an id").to_owned())
}

fn file(world: &World, name: &str) -> std::path::PathBuf {
    world.dir.path().join(format!("{name}.db"))
}

async fn held(world: &World, name: &str) -> usize {
    knowledge::digest(&file(world, name), "p1").await.0
}

async fn in_file(world: &World, name: &str, sql: &str) {
    let mut db = knowledge::open(&file(world, name)).await;
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql.to_owned())).execute(&mut db).await.expect(sql);
}

/// Changes records past the fence.
async fn past_the_fence(world: &World, name: &str, sql: &str) {
    let sql = format!("UPDATE lethe_fence SET mode = 'open'; {sql}; UPDATE lethe_fence SET mode = 'closed'");
    in_file(world, name, &sql).await;
}

fn error_codes(status: &Json) -> Vec<String> {
    let stores = status["offboarding"]["stores"].as_array().expect("stores");
    stores.iter().map(|store| store["error"]["code"].as_str().unwrap_or("-").to_owned()).collect()
}

#[tokio::test]
async fn no_store_loses_a_record_before_every_other_one_has_shown_that_it_is_the_one_that_was_fenced() {
    let emptied = "DELETE FROM lethe_fence";
    for (step, evict, sql, code) in [
        ("evict", "after_archive", emptied, "WRONG_PLACE"),
        ("purge", "at_purge", emptied, "WRONG_PLACE"),
        ("purge", "at_purge", LATE, "UNKNOWN_RECORDS"),
    ] {
        let (world, plane) = pair("").await;
        let mut request = crate::support::request(&plane, "7d");
        request["evict"] = json!(evict);
        world.call("user:alice", "knowledge.offboarding.request", request).await;
        world.reach_next(&plane, step).await;
        past_the_fence(&world, "b", sql).await;
        world.drain().await;
        let status = world.status(&plane).await;
        assert_eq!(world.run(&plane).await, (step.to_owned(), "halted".to_owned()), "{status}");
        assert_eq!(error_codes(&status), ["-", code], "{status}");
        assert_eq!(held(&world, "a").await, ROWS, "{step}: not before all are ready");
        invariants::check(&world).await;
    }
}

/// A plane in the reference server, whose token stands in a file, and in the file `a`; the server and that file.
async fn with_token() -> (World, String, Reference, std::path::PathBuf) {
    let world = World::new().await;
    let reference = Reference::start(world.dir.path(), &["--token", "a-token-of-the-test"]);
    let token = world.dir.path().join("token");
    std::fs::write(&token, "a-token-of-the-test").expect("write the token");
    knowledge::create(&file(&world, "a"), &[("p1", ROWS)]).await;
    world.call("user:root", "account.tenant.register", json!({"name": "acme"})).await;
    let notes = format!("{}?token_file={}", reference.url, token.display());
    let a = format!("sqlite:{}", file(&world, "a").display());
    for (name, url) in [("notes", notes), ("a", a)] {
        world.call("user:root", "integrations.store.add", json!({"name": name, "url": url, "tenants": ["acme"]})).await;
    }
    let stores: Vec<_> = [("notes", "notes"), ("a", "chunks")]
        .map(|(store, table)| format!("{store}?table={table}&plane_column=plane&plane=p1&key=id&embedding=embedding"))
        .into();
    let archive = format!("file://{}", world.dir.path().join("archive").display());
    let plane = json!({"tenant": "acme", "name": "handbook", "stores": stores, "archive": archive});
    let plane = world.call("user:root", "knowledge.plane.register", plane).await["plane_id"].as_str().expect("an id").to_owned();
    (world, plane, reference, token)
}

#[tokio::test]
async fn a_store_that_cannot_be_opened_from_here_keeps_no_other_one_closed_after_a_cancel() {
    let (world, plane, _reference, token) = with_token().await;
    world.reach(&plane, "verify").await;
    let mut db = knowledge::open(&file(&world, "a")).await;
    assert!(knowledge::insert(&mut db, "p1", 900).await.is_err(), "it is fenced");

    std::fs::remove_file(&token).expect("remove the token");
    world.call("user:alice", "knowledge.offboarding.cancel", json!({"plane": plane, "reason": "they stay"})).await;
    world.drain().await;
    let status = world.status(&plane).await;
    assert_eq!((&status["state"], world.run(&plane).await.1.as_str()), (&json!("ACTIVE"), "halted"), "{status}");
    assert_eq!(error_codes(&status), ["UNUSABLE", "-"], "{status}");
    knowledge::insert(&mut db, "p1", 900).await.expect("the other store is open again");
    std::fs::write(&token, "a-token-of-the-test").expect("write the token");
    world.call("user:root", "knowledge.offboarding.retry", json!({"plane": plane, "reason": "the token is back"})).await;
    world.drain().await;
    assert_eq!(world.status(&plane).await["offboarding"]["run_status"], "succeeded");
    invariants::check(&world).await;
}

#[tokio::test]
async fn both_stores_that_are_away_are_named_before_anything_is_closed() {
    let (world, plane) = pair("").await;
    world.reach(&plane, "verify").await;
    for name in ["a", "b"] {
        in_file(&world, name, "ALTER TABLE chunks RENAME TO moved").await;
    }
    world.drain().await;
    assert_eq!(error_codes(&world.status(&plane).await), ["UNUSABLE", "UNUSABLE"]);
}

#[tokio::test]
async fn a_store_that_moved_between_two_attempts_to_export_is_copied_anew() {
    let (world, plane) = pair("").await;
    world.reach(&plane, "export").await;
    world.faults.fail_at("archive.put", 1);
    world.finish(&world.claim(&plane).await).await;
    past_the_fence(&world, "a", "DELETE FROM chunks WHERE plane = 'p1' AND body LIKE 'marker-p1-3 %'").await;
    world.advance(TimeDelta::minutes(2)).await;
    assert_eq!(error_codes(&world.status(&plane).await), ["SOURCE_MOVED", "-"]);
    world.advance(TimeDelta::minutes(4)).await;
    assert_eq!(world.state(&plane).await, "ARCHIVED", "{}", world.status(&plane).await);
    let verified = world.call("user:auditor", "knowledge.archive.verify", json!({"plane": plane, "restore": true})).await;
    assert_eq!((&verified["archive"], &verified["rows"]), (&json!("verified"), &json!(2 * ROWS - 1)), "{verified}");
    invariants::check(&world).await;
}

#[tokio::test]
async fn a_store_that_keeps_changing_is_an_operators_concern_and_what_came_is_exported_once_they_let_it_go_on() {
    let (world, plane) = pair("[queue]\nattempts_max = 1\n").await;
    world.reach(&plane, "export").await;
    let retry = json!({"plane": plane, "reason": "go on"});
    // Exports that failed for other reasons count for nothing.
    for _ in 0..4 {
        world.faults.fail_at("archive.put", 1);
        world.drain().await;
        assert_eq!(world.run(&plane).await, ("export".to_owned(), "halted".to_owned()));
        world.call("user:root", "knowledge.offboarding.retry", retry.clone()).await;
    }
    for exports in 1..=5 {
        world.reach_next(&plane, "evict").await;
        past_the_fence(&world, "b", LATE).await;
        world.finish(&world.claim(&plane).await).await;
        let halts = if exports == 5 { ("evict", "halted") } else { ("export", "queued") };
        assert_eq!(world.run(&plane).await, (halts.0.to_owned(), halts.1.to_owned()), "after {exports} exports");
    }
    let status = world.status(&plane).await;
    assert_eq!(error_codes(&status), ["-", "KEEPS_CHANGING"], "{status}");
    world.call("user:root", "knowledge.offboarding.retry", retry).await;
    world.drain().await;
    assert_eq!(world.state(&plane).await, "ARCHIVED", "{}", world.status(&plane).await);
    let verified = world.call("user:auditor", "knowledge.archive.verify", json!({"plane": plane, "restore": true})).await;
    assert_eq!((&verified["archive"], &verified["rows"]), (&json!("verified"), &json!(2 * ROWS + 5)), "{verified}");
    invariants::check(&world).await;
}

#[tokio::test]
async fn what_an_attempt_erased_that_failed_later_is_counted_in_status_and_certificate() {
    let (world, plane) = pair("").await;
    let mut request = crate::support::request(&plane, "7d");
    request["evict"] = json!("at_purge");
    world.call("user:alice", "knowledge.offboarding.request", request).await;
    world.reach_next(&plane, "purge").await;
    // The second store's.
    world.faults.fail_at("store.erase", 2);
    for _ in 0..2 {
        world.finish(&world.claim(&plane).await).await;
        let status = world.status(&plane).await;
        let remaining: Vec<_> =
            status["offboarding"]["stores"].as_array().expect("stores").iter().map(|s| &s["rows_remaining"]).collect();
        assert_eq!(
            (held(&world, "a").await, held(&world, "b").await, remaining),
            (0, ROWS, vec![&json!(0), &json!(ROWS)]),
            "{status}"
        );
        world.faults.fail_at("store.erase", 1);
        world.clock.advance(TimeDelta::minutes(4));
    }
    world.faults.on_call("nothing", 1, || {});
    world.drain().await;
    assert_eq!(world.state(&plane).await, "PURGED", "{}", world.status(&plane).await);
    world.app.manager.keep_log().await.expect("seal");
    world.app.manager.certify().await.expect("certify");
    let certificate = world.call("user:auditor", "knowledge.certificate.show", json!({"plane": plane})).await;
    let counts = |store: usize| {
        let counts = &certificate["predicate"]["stores"][store]["counts"];
        ["at_request", "exported", "removed", "already_absent", "after"].map(|field| counts[field].as_u64())
    };
    let rows = Some(ROWS as u64);
    assert_eq!(counts(0), [rows, rows, Some(0), rows, Some(0)], "{certificate}");
    assert_eq!(counts(1), [rows, rows, rows, Some(0), Some(0)], "{certificate}");
    invariants::check(&world).await;
}

#[tokio::test]
async fn only_the_store_that_came_back_is_no_longer_attested_gone() {
    let (world, plane) = pair("").await;
    world.archived(&plane).await;
    let away = |name: &str| world.dir.path().join(format!("{name}.away"));
    for name in ["a", "b"] {
        std::fs::rename(file(&world, name), away(name)).expect("away");
        let evidence = format!("sha256:{}", "0".repeat(64));
        let gone = json!({"store": name, "plane": plane, "reason": "decommissioned", "evidence_sha256": evidence});
        let proposed = world.call("user:bob", "integrations.store.attest", gone).await;
        let second = json!({"attestation_id": proposed["attestation_id"], "reason": "I saw the invoice"});
        world.call("user:carol", "integrations.store.confirm_attestation", second).await;
    }
    std::fs::rename(away("b"), file(&world, "b")).expect("back");
    world.approve(&plane).await;
    world.drain().await;
    assert_eq!(error_codes(&world.status(&plane).await), ["-", "STORE_ANSWERS"]);
    world.call("user:alice", "knowledge.offboarding.retry", json!({"plane": plane, "reason": "b was only away"})).await;
    world.approve(&plane).await;
    world.drain().await;
    assert_eq!(world.state(&plane).await, "PURGED", "{}", world.status(&plane).await);
    invariants::check(&world).await;
}

#[tokio::test]
async fn a_store_that_holds_the_planes_fence_is_there_though_nothing_enforces_it() {
    let (world, plane) = pair("").await;
    world.archived(&plane).await;
    for trigger in triggers(&world, "b").await {
        in_file(&world, "b", &format!("DROP TRIGGER \"{trigger}\"")).await;
    }
    let evidence = format!("sha256:{}", "0".repeat(64));
    let gone = json!({"store": "b", "plane": plane, "reason": "decommissioned", "evidence_sha256": evidence});
    assert_eq!(world.code("user:bob", "integrations.store.attest", gone).await, "STORE_ANSWERS");
}

async fn triggers(world: &World, name: &str) -> Vec<String> {
    let mut db = knowledge::open(&file(world, name)).await;
    sqlx::query_scalar("SELECT name FROM sqlite_schema WHERE type = 'trigger'").fetch_all(&mut db).await.expect("its triggers")
}

#[tokio::test]
async fn a_store_that_says_it_is_less_closed_than_it_was_to_be_is_taken_at_its_word() {
    let (world, plane) = pair("").await;
    for step in ["deactivate", "purge"] {
        if step == "deactivate" {
            world.reach(&plane, step).await;
        } else {
            world.reach_next(&plane, step).await;
        }
        world.faults.half_close(true);
        world.drain().await;
        let status = world.status(&plane).await;
        assert_eq!(world.run(&plane).await, (step.to_owned(), "halted".to_owned()), "{status}");
        assert!(
            status["offboarding"]["last_error"]["message"].as_str().is_some_and(|said| said.contains("read_only")),
            "{status}"
        );
        world.faults.half_close(false);
        world.call("user:root", "knowledge.offboarding.retry", json!({"plane": plane, "reason": "it closes now"})).await;
    }
    world.drain().await;
    assert_eq!(world.state(&plane).await, "PURGED", "{}", world.status(&plane).await);
    invariants::check(&world).await;
}

#[tokio::test]
async fn a_store_that_cannot_be_asked_from_here_is_not_attested_and_one_that_was_is_skipped_all_the_same() {
    let (world, plane, reference, token) = with_token().await;
    world.archived(&plane).await;
    let evidence = format!("sha256:{}", "0".repeat(64));
    let gone = json!({"store": "notes", "plane": plane, "reason": "decommissioned", "evidence_sha256": evidence});
    std::fs::remove_file(&token).expect("remove the token");
    let refused = world.refused("user:bob", "integrations.store.attest", gone.clone()).await;
    assert_eq!(refused.code.as_str(), "ATTESTATION_REFUSED", "{refused}");
    assert!(refused.message.contains("cannot be asked from here"), "{refused}");
    std::fs::write(&token, "a-token-of-the-test").expect("write the token");
    drop(reference);
    let proposed = world.call("user:bob", "integrations.store.attest", gone).await;
    let second = json!({"attestation_id": proposed["attestation_id"], "reason": "I saw the invoice"});
    world.call("user:carol", "integrations.store.confirm_attestation", second).await;
    std::fs::remove_file(&token).expect("remove the token");
    world.approve(&plane).await;
    world.drain().await;
    assert_eq!(world.state(&plane).await, "PURGED", "{}", world.status(&plane).await);
    invariants::check(&world).await;
}

#[tokio::test]
async fn a_record_that_was_changed_past_the_fence_halts_a_purge_where_it_stands_and_is_counted() {
    let (world, plane) = pair("").await;
    let mut request = crate::support::request(&plane, "7d");
    request["evict"] = json!("at_purge");
    world.call("user:alice", "knowledge.offboarding.request", request).await;
    world.reach_next(&plane, "purge").await;
    past_the_fence(&world, "b", "UPDATE chunks SET body = 'changed' WHERE plane = 'p1' AND body LIKE 'marker-p1-3 %'").await;
    world.drain().await;
    let status = world.status(&plane).await;
    assert_eq!(error_codes(&status), ["-", "UNKNOWN_RECORDS"], "{status}");
    assert_eq!((held(&world, "a").await, held(&world, "b").await), (0, 1));
    let stores = &status["offboarding"]["stores"];
    assert_eq!((&stores[0]["rows_remaining"], &stores[1]["rows_remaining"]), (&json!(0), &json!(1)), "{status}");
}
