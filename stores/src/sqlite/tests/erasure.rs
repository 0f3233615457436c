//! What was exported goes, to the byte; what was not stays, to the byte; and the proof looks where it says it looks.

use lethe_stages::{
    lifecycle::FenceMode,
    ports::PortError,
    record::{Key, Salt},
};

use super::{P1, P2, TWO_PLANES, exported, two_planes};
use crate::test_support::{ALL, Fixture, NEIGHBOUR, PLANE, permit};

#[tokio::test]
async fn only_records_that_are_as_they_were_exported_go() {
    let fixture = two_planes().await;
    let store = fixture.open(P1, PLANE);
    let mut rows = exported(store.as_ref()).await;
    fixture.run("UPDATE chunks SET body = 'edited' WHERE id = 3").await.unwrap();
    store.fence(FenceMode::Closed, 1).await.unwrap();
    rows.extend([(Key::Integer(99), rows[0].1), (Key::Integer(2), rows[0].1)]);
    let erased = store.erase(&permit(PLANE, 1), &rows, None).await.unwrap();
    assert_eq!((erased.erased, erased.changed, erased.absent), (1, 1, 2), "the neighbour's record 2 is not the plane's");
    assert_eq!(fixture.texts("SELECT body FROM chunks ORDER BY id").await, ["two", "edited", "four", "five"]);
    let again = store.erase(&permit(PLANE, 1), &rows, None).await.unwrap();
    assert_eq!((again.erased, again.changed, again.absent), (0, 1, 3));
    assert_eq!(fixture.texts("SELECT mode FROM lethe_fence").await, ["closed"]);
    assert!(fixture.run("DELETE FROM chunks WHERE id = 3").await.is_err(), "the fence is back");
}

#[tokio::test]
async fn an_erase_needs_the_planes_permit_its_epoch_and_its_fence() {
    let fixture = two_planes().await;
    let store = fixture.open(P1, PLANE);
    let rows = exported(store.as_ref()).await;
    assert!(matches!(store.erase(&permit(PLANE, 1), &rows, None).await, Err(PortError::WrongPlace(_))));
    store.fence(FenceMode::Closed, 4).await.unwrap();
    assert!(matches!(store.erase(&permit(NEIGHBOUR, 4), &rows, None).await, Err(PortError::Permanent(_))));
    assert!(matches!(store.erase(&permit(PLANE, 3), &rows, None).await, Err(PortError::StaleEpoch { mine: 3, seen: 4 })));
    assert!(matches!(store.scrub(&permit(NEIGHBOUR, 4)).await, Err(PortError::Permanent(_))));
    assert_eq!(store.count().await.unwrap(), 2);
    store.erase(&permit(PLANE, 5), &rows, None).await.unwrap();
    assert!(
        matches!(store.fence(FenceMode::Closed, 4).await, Err(PortError::StaleEpoch { .. })),
        "the newer epoch is remembered"
    );
}

#[tokio::test]
async fn digests_under_a_salt_erase_as_well() {
    let fixture = two_planes().await;
    let store = fixture.open(P1, PLANE);
    let salt = Salt([7; 32]);
    let records = store.page(None, ALL).await.unwrap();
    let rows: Vec<_> = records.iter().map(|record| (record.key.clone(), record.digest(Some(&salt)))).collect();
    store.fence(FenceMode::Closed, 1).await.unwrap();
    assert_eq!(store.erase(&permit(PLANE, 1), &rows, None).await.unwrap().changed, 2);
    assert_eq!(store.erase(&permit(PLANE, 1), &rows, Some(&salt)).await.unwrap().erased, 2);
}

#[tokio::test]
async fn a_batch_larger_than_a_statement_goes_whole() {
    let fixture = Fixture::new(
        "CREATE TABLE t (id TEXT PRIMARY KEY COLLATE NOCASE, plane TEXT);
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1234)
         INSERT INTO t SELECT 'Key-' || i, 'p' || (i % 2) FROM n;",
    )
    .await;
    let store = fixture.open("table=t&plane_column=plane&plane=p1&key=id", PLANE);
    let rows = exported(store.as_ref()).await;
    store.fence(FenceMode::Closed, 1).await.unwrap();
    assert_eq!(store.erase(&permit(PLANE, 1), &rows, None).await.unwrap().erased, 617);
    assert_eq!(fixture.texts("SELECT DISTINCT plane FROM t").await, ["p0"]);
}

/// A marker in body, index, full-text index and freed pages; the whole way from fence to proof.
async fn leaves_no_byte(journal_mode: &str) {
    let marker = "MARKERzqx7";
    let fixture = Fixture::new(&format!("PRAGMA journal_mode = {journal_mode}; {TWO_PLANES}")).await;
    let fill = format!(
        "PRAGMA secure_delete = OFF;
         CREATE INDEX bodies ON chunks (body);
         CREATE VIRTUAL TABLE fts USING fts5(body, content='chunks', content_rowid='id');
         CREATE TRIGGER fts_in AFTER INSERT ON chunks BEGIN INSERT INTO fts(rowid, body) VALUES (new.id, new.body); END;
         CREATE TRIGGER fts_out AFTER DELETE ON chunks BEGIN INSERT INTO fts(fts, rowid, body) VALUES ('delete', old.id, old.body); END;
         WITH RECURSIVE n(i) AS (SELECT 100 UNION ALL SELECT i + 1 FROM n WHERE i < 400)
         INSERT INTO chunks SELECT i, 'p' || (1 + i % 2), iif(i % 2, 'neighbour ' || i, '{marker} ' || i || hex(zeroblob(i * 5))), NULL FROM n;
         DELETE FROM chunks WHERE plane = 'p1' AND id % 10 = 0;
         -- What the application deleted before anybody asked for its bytes to go.
         CREATE TABLE drafts (body TEXT); INSERT INTO drafts SELECT body FROM chunks; DROP TABLE drafts;"
    );
    // A connection of the application stays open, so that the log is not removed by the last one's leaving.
    let application = fixture.connect().await;
    fixture.run(&fill).await.unwrap();
    assert!(fixture.occurrences(marker) > 0 && fixture.occurrences(&marker.to_lowercase()) > 0);
    let (store, neighbour) = (fixture.open(P1, PLANE), fixture.open(P2, NEIGHBOUR));
    let untouched = neighbour.page(None, ALL).await.unwrap();
    let samples = store.page(None, ALL).await.unwrap();
    let rows = exported(store.as_ref()).await;

    store.fence(FenceMode::Closed, 1).await.unwrap();
    let erased = store.erase(&permit(PLANE, 1), &rows, None).await.unwrap();
    assert_eq!(erased.erased as usize, rows.len());
    let said = store.scrub(&permit(PLANE, 1)).await.unwrap();
    assert_eq!((&said["secure_delete"], &said["vacuum"]), (&true.into(), &true.into()));
    assert_eq!(said["wal_truncated"], if journal_mode == "WAL" { true.into() } else { serde_json::json!("not in WAL mode") });
    assert!(said["not_covered"][0].as_str().unwrap().contains("fts (fts5)"));
    assert_eq!(store.scrub(&permit(PLANE, 1)).await.unwrap(), said);

    assert_eq!(fixture.occurrences(marker), 0);
    assert_eq!(fixture.occurrences(&marker.to_lowercase()), 0, "full-text terms are kept in lower case");
    assert_eq!(neighbour.page(None, ALL).await.unwrap(), untouched);
    assert_eq!(fixture.texts("SELECT body FROM fts WHERE fts MATCH 'neighbour' AND rowid = 101").await, ["neighbour 101"]);
    let proof = store.prove_empty(&samples[..20]).await.unwrap();
    assert!(proof.is_empty(), "{proof:?}");
    assert_eq!((proof.keys_probed, proof.vectors_probed), (20, 2));
    drop(application);
}

#[tokio::test]
async fn nothing_of_a_marker_is_left_in_the_files_and_the_neighbour_is_whole() {
    leaves_no_byte("DELETE").await;
    leaves_no_byte("WAL").await;
}

#[tokio::test]
async fn a_reader_in_the_way_of_the_log_is_waited_for_and_not_passed_over() {
    let fixture = Fixture::new(&format!("PRAGMA journal_mode = WAL; {TWO_PLANES}")).await;
    let store = fixture.open(P1, PLANE);
    store.fence(FenceMode::Closed, 1).await.unwrap();
    let mut reader = fixture.connect().await;
    sqlx::query("BEGIN").execute(&mut reader).await.unwrap();
    sqlx::query("SELECT count(*) FROM chunks").execute(&mut reader).await.unwrap();
    assert!(matches!(store.scrub(&permit(PLANE, 1)).await, Err(PortError::Transient(_))));
    sqlx::query("ROLLBACK").execute(&mut reader).await.unwrap();
    store.scrub(&permit(PLANE, 1)).await.unwrap();
}

#[tokio::test]
async fn rows_that_vacuum_would_renumber_under_an_index_are_left_and_said() {
    let fixture = Fixture::new("CREATE TABLE t (id TEXT PRIMARY KEY); CREATE TABLE other (body TEXT); CREATE VIRTUAL TABLE f USING fts5(body, content='other');").await;
    let store = fixture.open("table=t&key=id", PLANE);
    let said = store.scrub(&permit(PLANE, 1)).await.unwrap();
    assert!(said["vacuum"].as_str().unwrap().starts_with("skipped"), "{said}");
}

#[tokio::test]
async fn silence_proves_nothing_in_a_file_without_the_planes_fence() {
    let fixture = two_planes().await;
    let store = fixture.open(P1, PLANE);
    assert!(matches!(store.prove_empty(&[]).await, Err(PortError::WrongPlace(_))));
    fixture.open(P2, NEIGHBOUR).fence(FenceMode::Closed, 1).await.unwrap();
    assert!(matches!(store.prove_empty(&[]).await, Err(PortError::WrongPlace(_))));
    store.fence(FenceMode::Closed, 1).await.unwrap();
    assert_eq!(store.prove_empty(&[]).await.unwrap().remaining, 2);
}

#[tokio::test]
async fn a_record_that_was_moved_out_of_the_mappings_sight_is_found() {
    let fixture = two_planes().await;
    let store = fixture.open(P1, PLANE);
    let samples = store.page(None, ALL).await.unwrap();
    fixture.run("UPDATE chunks SET plane = 'p2' WHERE id = 1; DELETE FROM chunks WHERE id = 3").await.unwrap();
    store.fence(FenceMode::Closed, 1).await.unwrap();
    let proof = store.prove_empty(&samples).await.unwrap();
    assert_eq!((proof.remaining, proof.keys_probed, proof.keys_found), (0, 2, 1));
    assert_eq!((proof.vectors_probed, proof.vectors_found), (2, 0), "a neighbour's equal vector is the neighbour's");
    assert!(!proof.is_empty());
}

#[tokio::test]
async fn where_keys_are_unique_per_plane_a_neighbours_equal_record_is_its_own() {
    let sql = "CREATE TABLE t (plane TEXT, id TEXT, body TEXT, e BLOB, UNIQUE (plane, id));
        INSERT INTO t VALUES ('p1', 'a', 'same', x'00000000'), ('p2', 'a', 'same', x'00000000'), ('p1', 'b', 'moved', x'0000803f');";
    let fixture = Fixture::new(sql).await;
    let store = fixture.open("table=t&plane_column=plane&plane=p1&key=id&embedding=e", PLANE);
    let samples = store.page(None, ALL).await.unwrap();
    fixture.run("DELETE FROM t WHERE plane = 'p1' AND id = 'a'; UPDATE t SET plane = ' P1' WHERE id = 'b'").await.unwrap();
    store.fence(FenceMode::Closed, 1).await.unwrap();
    let proof = store.prove_empty(&samples).await.unwrap();
    assert_eq!((proof.keys_probed, proof.keys_found), (2, 1));
    fixture.run("UPDATE t SET plane = NULL WHERE id = 'b'").await.unwrap();
    let proof = store.prove_empty(&samples).await.unwrap();
    assert_eq!((proof.keys_found, proof.vectors_found), (1, 1));
}
