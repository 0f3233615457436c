//! The archive: its Parquet parts hold exactly the rows they were made of, as programs see them that share no code with Lethe.

use std::{path::Path, process::Command};

use serde_json::json;
use sqlx::{Connection, SqliteConnection};

use crate::support::{World, knowledge};

/// The interpreter that has pyarrow and DuckDB; `None` only where somebody said aloud that the comparison is left out.
fn python() -> Option<String> {
    match std::env::var("LETHE_PYTHON") {
        Ok(python) => Some(python),
        Err(_) if std::env::var("LETHE_TESTS_WITHOUT_PYARROW").as_deref() == Ok("1") => {
            eprintln!("WARNING: LETHE_TESTS_WITHOUT_PYARROW=1: nobody but Lethe itself reads the archive in this test");
            None
        }
        Err(_) => panic!(
            "LETHE_PYTHON is not set: run `tests/run`, which installs pyarrow and DuckDB and sets it \
             (or leave the comparison out with LETHE_TESTS_WITHOUT_PYARROW=1)"
        ),
    }
}

/// Runs tests/parts.py; answers whether all is equal, and what it said.
fn compare(python: &str, archive: &Path, file: &Path, table: &str) -> (bool, String) {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/parts.py");
    let mut command = Command::new(python);
    command.arg(script).arg(archive).arg("--file").arg(file).args(["--table", table, "--plane-column", "plane", "--plane", "p1"]);
    let output = command.output().expect("run tests/parts.py");
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    // 1 is its own verdict; anything else is a failure to give one.
    assert!(matches!(output.status.code(), Some(0 | 1)) && !said.contains("Traceback"), "{said}");
    (output.status.success(), said)
}

/// Vectors of float32 as they stand in a blob: signed zeros, the smallest and largest, infinities, a NaN with a payload, none at all.
fn vectors() -> Vec<Option<Vec<f32>>> {
    let nan = f32::from_bits(0x7fc1_2345);
    vec![
        Some(vec![0.0, -0.0, 1.0, -1.5]),
        Some(vec![f32::from_bits(1), f32::MIN_POSITIVE, f32::MAX, f32::MIN]),
        Some(vec![f32::INFINITY, f32::NEG_INFINITY, nan, 0.1]),
        Some(Vec::new()),
        None,
    ]
}

/// A table with values of every storage class and their extremes, and a second one whose vectors are JSON, under text keys.
async fn every_kind_of_value(file: &Path) -> Result<(), sqlx::Error> {
    let mut db = knowledge::open(file).await;
    for statement in [
        "CREATE TABLE chunks (id INTEGER PRIMARY KEY, plane TEXT NOT NULL, body TEXT, page INTEGER, score REAL, payload BLOB, anything,
            never TEXT, \"odd name\" TEXT, twice TEXT GENERATED ALWAYS AS (body || body) VIRTUAL, embedding BLOB)",
        "CREATE TABLE notes (id TEXT NOT NULL, plane TEXT NOT NULL, body TEXT, embedding TEXT, PRIMARY KEY (plane, id)) WITHOUT ROWID",
    ] {
        sqlx::query(statement).execute(&mut db).await?;
    }
    let texts = [
        Some(""),
        Some("plain"),
        Some("Überprüfung ☃ 😀 עברית \u{0301}"),
        Some("a\0b\r\n\"'\\"),
        None,
        Some("\u{10ffff}\u{feff}"),
    ];
    let pages = [Some(0), Some(-1), Some(i64::MAX), Some(i64::MIN), None];
    let scores = [
        Some(0.1),
        Some(-0.0),
        Some(f64::MAX),
        Some(f64::MIN_POSITIVE),
        Some(5e-324),
        Some(f64::INFINITY),
        Some(f64::NEG_INFINITY),
        Some(1.0),
        None,
    ];
    let payloads = [Some(vec![]), Some(vec![0, 255, 0]), Some((0..=255).cycle().take(70_000).collect::<Vec<u8>>()), None];
    let vectors = vectors();
    for row in 0..60_usize {
        let plane = if row % 6 == 5 { "p2" } else { "p1" };
        let vector = vectors[row % vectors.len()].as_ref();
        let vector = vector.map(|vector| vector.iter().flat_map(|number| number.to_le_bytes()).collect::<Vec<u8>>());
        let insert = sqlx::query(
            "INSERT INTO chunks (plane, body, page, score, payload, anything, \"odd name\", embedding)
             VALUES (?1, ?2, ?3, ?4, ?5, CASE ?6 WHEN 0 THEN 7 WHEN 1 THEN 7.5 WHEN 2 THEN 'seven' WHEN 3 THEN x'07' END, ?7, ?8)",
        );
        insert
            .bind(plane)
            .bind(texts[row % texts.len()])
            .bind(pages[row % pages.len()])
            .bind(scores[row % scores.len()])
            .bind(payloads[row % payloads.len()].as_deref())
            .bind((row % 5) as i64)
            .bind(texts[(row + 1) % texts.len()])
            .bind(vector)
            .execute(&mut db)
            .await?;
    }
    let written = [Some("[0.5, -1, 2e-7]"), Some("[]"), Some(" [ 1 , 2.25,\n3 ] "), None, Some("[-0.0, 1e22, 9007199254740991]")];
    for row in 0..23_usize {
        let insert = sqlx::query("INSERT INTO notes (id, plane, body, embedding) VALUES (?, ?, ?, ?)");
        let plane = if row % 7 == 6 { "p2" } else { "p1" };
        insert
            .bind(format!("n-{row}é"))
            .bind(plane)
            .bind(texts[row % texts.len()])
            .bind(written[row % 5])
            .execute(&mut db)
            .await?;
    }
    db.close().await
}

/// Changes the source past the fence, as somebody with write access to the file can.
async fn tamper(file: &Path, statement: &'static str) {
    let mut db: SqliteConnection = knowledge::open(file).await;
    for table in ["chunks", "notes"] {
        for operation in ["insert", "update", "delete"] {
            let drop = format!("DROP TRIGGER IF EXISTS \"lethe_fence_{operation}_{table}\"");
            sqlx::query(sqlx::AssertSqlSafe(drop)).execute(&mut db).await.expect("drop a trigger");
        }
    }
    let changed = sqlx::query(statement).execute(&mut db).await.expect("tamper").rows_affected();
    assert_eq!(changed, 1, "{statement}");
    db.close().await.expect("close");
}

#[tokio::test]
async fn the_parts_of_an_archive_equal_the_source_rows_to_the_bit_and_a_changed_row_is_noticed() {
    let Some(python) = python() else { return };
    // Small parts, so that there are several of each table.
    let world = World::with("[archive]\npart_rows_max = 7\n").await;
    let file = world.dir.path().join("knowledge.db");
    every_kind_of_value(&file).await.expect("write the knowledge base");
    world.call("user:root", "account.tenant.register", json!({"name": "acme"})).await;
    let url = format!("sqlite:{}", file.display());
    world.call("user:root", "integrations.store.add", json!({"name": "kb", "url": url, "tenants": ["acme"]})).await;
    let mut binding = world.binding("acme", "handbook", "p1");
    let second = "kb?table=notes&plane_column=plane&plane=p1&key=id&text=body&embedding=embedding";
    binding["stores"].as_array_mut().expect("an array").push(json!(second));
    let plane = world.call("user:root", "knowledge.plane.register", binding).await["plane_id"].clone();

    // The hot rows stay until the purge, so that there is something to compare with.
    let mut request = crate::support::request(plane.as_str().expect("an id"), "0s");
    request["evict"] = json!("at_purge");
    world.call("user:alice", "knowledge.offboarding.request", request).await;
    world.drain().await;
    assert_eq!(world.state(plane.as_str().expect("an id")).await, "ARCHIVED");

    let copy = world.dir.path().join("copy");
    let exported = world.call("user:auditor", "knowledge.archive.export", json!({"plane": plane, "to": copy})).await;
    assert_eq!(exported["objects"], 1 + 8 + 3, "the manifest, 50 chunks and 20 notes in parts of at most 7: {exported}");
    assert_eq!(compare(&python, &copy, &file, "chunks"), (true, "equal: 50 rows x 10 columns of chunks in 8 part(s)\n".into()));
    assert_eq!(compare(&python, &copy, &file, "notes"), (true, "equal: 20 rows x 4 columns of notes in 3 part(s)\n".into()));

    for (statement, table, said) in [
        ("UPDATE chunks SET score = 0.10000000000000002 WHERE id = 1", "chunks", "row 1, column score"),
        ("UPDATE chunks SET embedding = zeroblob(16) WHERE id = 1", "chunks", "row 1, column embedding"),
        ("UPDATE chunks SET anything = '7' WHERE id = 1", "chunks", "row 1, column anything"),
        ("DELETE FROM chunks WHERE id = 2", "chunks", "row 2 is in the archive only"),
        ("UPDATE notes SET embedding = '[0.5,-1, 2e-7]' WHERE id = 'n-0é'", "notes", "column embedding"),
        ("INSERT INTO notes (id, plane) VALUES ('new', 'p1')", "notes", "row 'new' is in the source only"),
    ] {
        tamper(&file, statement).await;
        let (equal, output) = compare(&python, &copy, &file, table);
        assert!(!equal && output.contains(said), "{statement}: {output}");
    }
}
