//! Values of every class survive the way from a store through an archive's part and back, to the bit.

use chrono::DateTime;
use lethe_stages::{
    ports::{Archive, KnowledgeStore, PageLimit, PartDraft, PortError},
    record::{ColumnKind, Key, RecordDigest},
};

use super::two_planes;
use crate::{
    Archives,
    test_support::{ALL, Fixture, NEIGHBOUR, PLANE},
};

/// Exports everything, reads it back and compares; answers the kinds.
async fn travels(store: &dyn KnowledgeStore) -> Vec<ColumnKind> {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("file://{}/archive", dir.path().display());
    let archives = Archives::default();
    let (url, id) = archives.prepare(&url, NEIGHBOUR).await.unwrap();
    let archive = archives.open(&url, id, PLANE, None, DateTime::UNIX_EPOCH).unwrap();
    let columns = store.columns().await.unwrap();
    let records = store.page(None, ALL).await.unwrap();
    assert_eq!(records.len() as u64, store.count().await.unwrap());
    let digests: Vec<RecordDigest> = records.iter().map(|record| record.digest(None)).collect();
    let draft = || PartDraft { key: "a/part.parquet", columns: &columns, records: &records, digests: &digests };
    let part = archive.write_part(draft()).await.unwrap();
    assert_eq!(archive.write_part(draft()).await.unwrap(), part, "the same draft gives the same bytes");
    let back = archive.read_part("a/part.parquet", &columns).await.unwrap().unwrap();
    assert_eq!(back.part, part);
    assert_eq!(back.digests, digests);
    assert_eq!(back.records.iter().map(|record| record.digest(None)).collect::<Vec<_>>(), digests);
    assert_eq!(back.records, records);
    columns.iter().map(|column| column.kind).collect()
}

#[tokio::test]
async fn values_of_every_class_survive_the_archive() {
    let sql = "CREATE TABLE t (id INTEGER PRIMARY KEY, i INTEGER, r REAL, s TEXT, b BLOB, m, n, e BLOB);
        INSERT INTO t VALUES
            (1, 9223372036854775807, 1.5, 'ä \u{1F600}', x'00ff', 1, NULL, x'0000c07f010080ff'),
            (2, -1, 9e999, '', x'', 1.0, NULL, x''), (3, NULL, NULL, NULL, NULL, 'x', NULL, NULL),
            (4, 0, -0.5, 'it''s', x'01', x'02', NULL, x'00000080'), (5, 1, 5e-324, 'z', x'00', NULL, NULL, x'00000000');";
    let fixture = Fixture::new(sql).await;
    use ColumnKind::{Blob, Integer, Mixed, Real, Text, VectorBlob};
    let kinds = travels(fixture.open("table=t&key=id&embedding=e", PLANE).as_ref()).await;
    assert_eq!(kinds, [Integer, Integer, Real, Text, Blob, Mixed, Blob, VectorBlob]);

    fixture.run("INSERT INTO t (id, e) VALUES (6, x'000000')").await.unwrap();
    let kinds = travels(fixture.open("table=t&key=id&embedding=e", PLANE).as_ref()).await;
    assert_eq!(kinds[7], Blob, "a blob of odd length is no vector");
    fixture.run("INSERT INTO t (id, e) VALUES (7, '[1]')").await.unwrap();
    assert_eq!(travels(fixture.open("table=t&key=id&embedding=e", PLANE).as_ref()).await[7], Mixed);
}

#[tokio::test]
async fn json_vectors_keep_their_text_as_it_was() {
    let sql = "CREATE TABLE t (id TEXT PRIMARY KEY, e TEXT);
        INSERT INTO t VALUES ('a', '[1.0,2]'), ('b', '  [ 1e0 ,\n -0.0 ]'), ('c', '[]'), ('d', NULL), ('e', '[1e999, 2]'), ('f', '[0.1, \"x\"]');";
    let fixture = Fixture::new(sql).await;
    assert_eq!(travels(fixture.open("table=t&key=id&embedding=e", PLANE).as_ref()).await[1], ColumnKind::VectorJson);
    fixture.run("INSERT INTO t VALUES ('g', 'not json')").await.unwrap();
    assert_eq!(travels(fixture.open("table=t&key=id&embedding=e", PLANE).as_ref()).await[1], ColumnKind::Text);
}

#[tokio::test]
async fn generated_columns_stay_and_all_others_travel() {
    let fixture = Fixture::new(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT, up AS (upper(a)), more INT); INSERT INTO t VALUES (1, 'x', 2);",
    )
    .await;
    let columns = fixture.open("table=t&key=id", PLANE).columns().await.unwrap();
    assert_eq!(columns.iter().map(|column| column.name.as_str()).collect::<Vec<_>>(), ["id", "a", "more"]);
}

#[tokio::test]
async fn pages_go_through_keys_of_every_class_in_order_and_once() {
    let sql = "CREATE TABLE t (id BLOB PRIMARY KEY, body TEXT);
        INSERT INTO t VALUES ('b', 1), (x'62', 2), (2, 3), ('B', 4), (10, 5), ('1', 6), (-3, 7), (x'', 8);";
    let fixture = Fixture::new(sql).await;
    let store = fixture.open("table=t&key=id", PLANE);
    let whole: Vec<Key> = store.page(None, ALL).await.unwrap().into_iter().map(|record| record.key).collect();
    let mut sorted = whole.clone();
    sorted.sort();
    assert_eq!(whole, sorted);
    for limit in [PageLimit { rows_max: 3, bytes_max: 1 << 20 }, PageLimit { rows_max: 100, bytes_max: 1 }] {
        let (mut after, mut found) = (None, Vec::new());
        loop {
            let page = store.page(after.as_ref(), limit).await.unwrap();
            let Some(last) = page.last() else { break };
            after = Some(last.key.clone());
            assert!(limit.bytes_max > 1 || page.len() == 1, "one record always fits, and here no second");
            found.extend(page.into_iter().map(|record| record.key));
        }
        assert_eq!(found, whole);
    }
}

#[tokio::test]
async fn what_could_not_be_written_back_is_refused_by_name() {
    let fixture = two_planes().await;
    fixture.run("UPDATE chunks SET body = CAST(x'ff41' AS TEXT) WHERE id = 3").await.unwrap();
    let error = fixture.open(super::P1, PLANE).page(None, ALL).await.unwrap_err();
    assert!(matches!(&error, PortError::Permanent(said) if said.contains("chunks, key 3, column body")), "{error}");
}

#[tokio::test]
async fn a_part_of_an_earlier_round_is_read_by_its_own_kinds() {
    let fixture = Fixture::new("CREATE TABLE t (id INTEGER PRIMARY KEY, s); INSERT INTO t VALUES (1, 'x');").await;
    let store = fixture.open("table=t&key=id", PLANE);
    let dir = tempfile::tempdir().unwrap();
    let url = format!("file://{}", dir.path().display());
    let archives = Archives::default();
    let (url, id) = archives.prepare(&url, PLANE).await.unwrap();
    let archive: std::sync::Arc<dyn Archive> = archives.open(&url, id, PLANE, None, DateTime::UNIX_EPOCH).unwrap();
    let records = store.page(None, ALL).await.unwrap();
    let digests = [records[0].digest(None)];
    let first = store.columns().await.unwrap();
    archive.write_part(PartDraft { key: "p", columns: &first, records: &records, digests: &digests }).await.unwrap();
    fixture.run("UPDATE t SET s = 5").await.unwrap();
    let second = store.columns().await.unwrap();
    assert_ne!(first, second);
    assert_eq!(archive.read_part("p", &second).await.unwrap().unwrap().records, records);
    assert!(matches!(archive.read_part("p", &second[..1]).await, Err(PortError::Permanent(_))));
    assert!(matches!(archive.read_part("p", &[]).await, Err(PortError::Permanent(_))));
    // The other way round, the kinds no longer fit the values: something wrote while they were read.
    let moved = store.page(None, ALL).await.unwrap();
    let draft = PartDraft { key: "q", columns: &first, records: &moved, digests: &digests };
    assert!(matches!(archive.write_part(draft).await, Err(PortError::Transient(_))));
}
