//! A knowledge base in a SQLite file, as an application would have it.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use sqlx::{Connection, Row, SqliteConnection, sqlite::SqliteConnectOptions};

pub async fn open(file: &Path) -> SqliteConnection {
    let options = SqliteConnectOptions::new().filename(file).create_if_missing(true);
    SqliteConnection::connect_with(&options).await.expect("open the knowledge base")
}

/// A table of chunks with so many records per plane. Each text carries `marker-<plane>-<number>`.
pub async fn create(file: &Path, planes: &[(&str, usize)]) {
    let mut db = open(file).await;
    let table =
        "CREATE TABLE chunks (id INTEGER PRIMARY KEY, plane TEXT NOT NULL, body TEXT, source TEXT, page INTEGER, score REAL,
        embedding BLOB)";
    sqlx::query(table).execute(&mut db).await.expect("create the table");
    sqlx::query("CREATE INDEX chunks_by_plane ON chunks (plane, id)").execute(&mut db).await.expect("create the index");
    for (plane, rows) in planes {
        for number in 0..*rows {
            insert(&mut db, plane, number).await.expect("insert a chunk");
        }
    }
    db.close().await.expect("close");
}

pub async fn insert(db: &mut SqliteConnection, plane: &str, number: usize) -> Result<(), sqlx::Error> {
    let vector: Vec<u8> = (0..8).flat_map(|axis| ((number * 8 + axis) as f32 / 7.0).to_le_bytes()).collect();
    sqlx::query("INSERT INTO chunks (plane, body, source, page, score, embedding) VALUES (?, ?, ?, ?, ?, ?)")
        .bind(plane)
        .bind(format!("marker-{plane}-{number} lorem ipsum dolor sit amet"))
        .bind((!number.is_multiple_of(3)).then(|| format!("document-{}", number % 5)))
        .bind(number as i64)
        .bind(number as f64 / 3.0)
        .bind(vector)
        .execute(db)
        .await
        .map(|_| ())
}

/// Records of a plane and a digest of their bytes.
pub async fn digest(file: &Path, plane: &str) -> (usize, String) {
    let mut db = open(file).await;
    let lines = "SELECT quote(id) || quote(plane) || quote(body) || quote(source) || quote(page) || quote(score) || quote(embedding) AS line
        FROM chunks WHERE plane = ? ORDER BY id";
    let rows = sqlx::query(lines).bind(plane).fetch_all(&mut db).await.expect("read the plane");
    let mut hash = Sha256::new();
    rows.iter().for_each(|row| hash.update(row.get::<String, _>("line")));
    db.close().await.expect("close");
    (rows.len(), hex::encode(hash.finalize()))
}

/// How often `needle` occurs in the raw bytes of the files below a folder.
pub fn occurrences(folder: &Path, needle: &[u8]) -> u64 {
    places(folder, needle).len() as u64
}

/// Where `needle` occurs in the raw bytes of the files below a folder: the file, and the offset there.
pub fn places(folder: &Path, needle: &[u8]) -> Vec<(PathBuf, usize)> {
    let mut found = Vec::new();
    for entry in folder.read_dir().expect("read the folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(places(&path, needle));
        } else {
            let bytes = std::fs::read(&path).expect("read a file");
            let here = bytes.windows(needle.len()).enumerate().filter(|(_, window)| *window == needle);
            found.extend(here.map(|(at, _)| (path.clone(), at)));
        }
    }
    found
}
