//! A plane in several stores at once: one of them failing half-way delays, loses nothing, evicts nothing early, and the status says which
//! and why.

use chrono::TimeDelta;
use serde_json::{Value as Json, json};

use crate::support::{World, chroma::Chroma, faults::Failing, invariants, knowledge, postgres::Database, reference::Reference};

const ROWS: usize = 25;

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
