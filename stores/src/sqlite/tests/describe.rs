//! A mapping that the schema cannot serve is refused.

use lethe_stages::ports::PortError;

use super::{P1, TWO_PLANES, two_planes};
use crate::{
    check_store,
    test_support::{Fixture, PLANE},
};

async fn refusal(sql: &str, mapping: &str) -> String {
    let fixture = Fixture::new(sql).await;
    match fixture.open(mapping, PLANE).describe().await {
        Err(PortError::Permanent(said)) => said,
        other => panic!("{mapping}: {other:?}"),
    }
}

#[tokio::test]
async fn the_stores_own_spelling_is_what_a_mapping_is_answered_with() {
    let fixture = two_planes().await;
    let mapping = "table=CHUNKS&plane_column=Plane&plane=p1&key=ID&text=Body&embedding=EMBEDDING";
    let description = fixture.open(mapping, PLANE).describe().await.unwrap();
    assert_eq!(description.resource, "chunks");
    assert_eq!(description.plane_column.as_deref(), Some("plane"));
    assert_eq!(description.plane_value.as_deref(), Some("p1"));
    assert_eq!(description.unfenced, ["reads: SQLite cannot refuse reads; `access check` does"]);
}

#[tokio::test]
async fn a_mapping_that_the_schema_cannot_serve_is_refused() {
    let view = "CREATE TABLE t (id INTEGER PRIMARY KEY); CREATE VIEW v AS SELECT * FROM t;";
    for (sql, mapping, said) in [
        (TWO_PLANES, "table=nothing&key=id", "no such table"),
        (TWO_PLANES, "table=chunks&key=nothing", "its columns are id, plane, body, embedding"),
        (TWO_PLANES, "table=chunks&key=id&embedding=nothing", "find embedding column"),
        (TWO_PLANES, "table=chunks&plane_column=plane&plane=p1&key=body", "unique index on (body) or (plane, body)"),
        (view, "table=v&key=id", "it is a view"),
        ("CREATE VIRTUAL TABLE f USING fts5(body);", "table=f&key=body", "virtual table"),
        ("CREATE VIRTUAL TABLE f USING fts5(body);", "table=f_data&key=id", "belongs to a virtual table"),
        ("CREATE TABLE t (id TEXT UNIQUE); INSERT INTO t VALUES (NULL), ('a');", "table=t&key=id", "null"),
        ("CREATE TABLE t (id REAL PRIMARY KEY); INSERT INTO t VALUES (1.5);", "table=t&key=id", "floating-point"),
        (
            "CREATE TABLE t (id TEXT, n INT); CREATE UNIQUE INDEX i ON t (id) WHERE n > 0;",
            "table=t&key=id",
            "does not name one record",
        ),
        ("CREATE TABLE t (id INTEGER PRIMARY KEY, p AS (id % 2));", "table=t&plane_column=p&plane=1&key=id", "generated"),
        ("CREATE TABLE t (id INTEGER PRIMARY KEY, p REAL);", "table=t&plane_column=p&plane=1&key=id", "floating-point"),
    ] {
        let refusal = refusal(sql, mapping).await;
        assert!(refusal.contains(said), "{mapping}: {refusal}");
    }
}

#[tokio::test]
async fn keys_unique_within_their_plane_and_tables_without_rowid_serve() {
    let sql = "CREATE TABLE t (plane TEXT, id TEXT, PRIMARY KEY (plane, id)) WITHOUT ROWID; INSERT INTO t VALUES ('p1', 'a'), ('p2', 'a');";
    let fixture = Fixture::new(sql).await;
    let store = fixture.open("table=t&plane_column=plane&plane=p1&key=id", PLANE);
    store.describe().await.unwrap();
    assert_eq!(store.count().await.unwrap(), 1);
    assert!(refusal(sql, "table=t&key=id").await.contains("does not name one record"));
}

#[tokio::test]
async fn a_planes_value_is_compared_as_its_column_stores_it() {
    let sql = "CREATE TABLE t (id INTEGER PRIMARY KEY, n INTEGER, s TEXT COLLATE NOCASE, x);
               INSERT INTO t VALUES (1, 5, 'a', 5), (2, 5, 'A', '5'), (3, 6, 'b', 6);";
    let fixture = Fixture::new(sql).await;
    for (column, value, canonical, count) in [
        ("n", "05", "5", 2),
        ("n", "5.0", "5", 2),
        ("n", "five", "five", 0),
        ("s", "a", "a", 1),
        ("s", "05", "05", 0),
        ("x", "5", "5", 2),
    ] {
        let store = fixture.open(&format!("table=t&plane_column={column}&plane={value}&key=id"), PLANE);
        let description = store.describe().await.unwrap();
        assert_eq!(description.plane_value.as_deref(), Some(canonical), "{column}={value}");
        assert_eq!(store.count().await.unwrap(), count, "{column}={value}");
    }
}

#[tokio::test]
async fn what_hangs_off_the_table_is_listed() {
    let fixture = two_planes().await;
    let more = "CREATE TABLE notes (id INTEGER PRIMARY KEY, chunk INTEGER REFERENCES chunks(id) ON DELETE CASCADE);
        CREATE VIEW recent AS SELECT * FROM chunks;
        CREATE VIRTUAL TABLE chunks_fts USING fts5(body, content='chunks', content_rowid='id');
        CREATE VIRTUAL TABLE own_fts USING fts5(body);
        CREATE TRIGGER keep_fts AFTER DELETE ON chunks BEGIN DELETE FROM own_fts WHERE rowid = old.id; END;
        CREATE UNIQUE INDEX lowered ON chunks (lower(body));";
    fixture.run(more).await.unwrap();
    let description = fixture.open(P1, PLANE).describe().await.unwrap();
    let expected = [
        "foreign key notes.chunk (on delete cascade, not followed)",
        "virtual table chunks_fts (fts5)",
        "virtual table own_fts (fts5)",
        "view recent",
        "trigger keep_fts on chunks",
    ];
    assert_eq!(description.dependents, expected);
    assert_eq!(description.unfenced.len(), 4, "{:?}", description.unfenced);
}

#[tokio::test]
async fn a_check_says_what_a_store_is_and_leaves_it_alone() {
    let fixture = two_planes().await;
    fixture.run("CREATE VIRTUAL TABLE f USING fts5(body)").await.unwrap();
    let before = std::fs::read(&fixture.path).unwrap();
    let check = check_store(&fixture.url()).await.unwrap();
    assert_eq!((check.kind, check.journal_mode.as_deref(), check.writable), ("sqlite", Some("delete"), true));
    assert_eq!((check.tables, check.virtual_tables), (vec!["chunks".to_owned()], vec!["f".to_owned()]));
    assert_eq!(std::fs::read(&fixture.path).unwrap(), before);

    std::fs::write(&fixture.path, vec![b'x'; 8192]).unwrap();
    let error = check_store(&fixture.url()).await.unwrap_err();
    assert!(matches!(&error, PortError::Permanent(said) if said.contains("not a database")), "{error}");
}

#[tokio::test]
async fn a_store_that_somebody_is_writing_is_busy_and_not_broken() {
    let fixture = two_planes().await;
    let mut writer = fixture.connect().await;
    sqlx::query("BEGIN IMMEDIATE").execute(&mut writer).await.unwrap();
    let store = fixture.open(P1, PLANE);
    let error = store.fence(lethe_stages::lifecycle::FenceMode::Closed, 1).await.unwrap_err();
    assert!(matches!(error, PortError::Transient(_)), "{error}");
}
