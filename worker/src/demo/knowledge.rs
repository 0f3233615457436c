//! The demo's knowledge base: one SQLite file with two tenants' planes, and a query endpoint that asks Lethe first.

use std::path::Path;

use lethe_stages::canonical;
use sqlx::{
    Row, SqlitePool,
    sqlite::{SqliteConnectOptions, SqlitePoolOptions},
};

use super::{
    corpus::{self, Document},
    vectoriser::{Vectoriser, cosine, from_blob, to_blob},
};

/// Characters in a chunk, and how many it shares with the one before.
const CHUNK: (usize, usize) = (500, 50);

/// The knowledge base.
pub(super) struct Knowledge {
    pool: SqlitePool,
    vectoriser: Vectoriser,
}

/// A chunk that a query found.
pub(super) struct Hit {
    pub(super) document: String,
    pub(super) similarity: f32,
}

impl Knowledge {
    /// Chunks and embeds each tenant's documents and writes them as planes `(plane, documents)` into a new file. The first plane's
    /// first chunk carries `marker`.
    pub(super) async fn build(path: &Path, planes: &[(&str, &[Document])], marker: &str) -> Result<Self, sqlx::Error> {
        let options = SqliteConnectOptions::new().filename(path).create_if_missing(true).foreign_keys(true);
        let pool = SqlitePoolOptions::new().max_connections(1).connect_with(options).await?;
        sqlx::query(
            "CREATE TABLE chunks (id INTEGER PRIMARY KEY, plane TEXT NOT NULL, document TEXT NOT NULL, ordinal INTEGER NOT NULL,
                body TEXT NOT NULL, embedding BLOB NOT NULL)",
        )
        .execute(&pool)
        .await?;
        sqlx::query("CREATE INDEX chunks_by_plane ON chunks (plane, id)").execute(&pool).await?;
        let chunks: Vec<_> = planes
            .iter()
            .flat_map(|(plane, documents)| {
                documents.iter().flat_map(|document| corpus::chunk(document, CHUNK.0, CHUNK.1)).map(move |chunk| (*plane, chunk))
            })
            .collect();
        let all: Vec<_> = chunks.iter().map(|(_, chunk)| chunk.clone()).collect();
        let vectoriser = Vectoriser::fit(&all);
        let mut tx = pool.begin().await?;
        for (index, (plane, chunk)) in chunks.iter().enumerate() {
            let body = if index == 0 { format!("{} {marker}", chunk.text) } else { chunk.text.clone() };
            sqlx::query("INSERT INTO chunks (plane, document, ordinal, body, embedding) VALUES (?, ?, ?, ?, ?)")
                .bind(plane)
                .bind(&chunk.document)
                .bind(chunk.ordinal as i64)
                .bind(&body)
                .bind(to_blob(&vectoriser.embed(&body)))
                .execute(&mut *tx)
                .await?;
        }
        #[expect(clippy::disallowed_methods, reason = "the demo's own data, not the ledger")]
        tx.commit().await?;
        Ok(Self { pool, vectoriser })
    }

    /// The chunks of a plane nearest to a question.
    pub(super) async fn search(&self, plane: &str, question: &str, hits: usize) -> Result<Vec<Hit>, sqlx::Error> {
        let wanted = self.vectoriser.embed(question);
        let rows =
            sqlx::query("SELECT document, embedding FROM chunks WHERE plane = ?").bind(plane).fetch_all(&self.pool).await?;
        let mut found = Vec::new();
        for row in rows {
            let vector = from_blob(&row.try_get::<Vec<u8>, _>("embedding")?).unwrap_or_default();
            found.push(Hit { document: row.try_get("document")?, similarity: cosine(&wanted, &vector) });
        }
        found.sort_by(|one, other| other.similarity.total_cmp(&one.similarity));
        found.truncate(hits);
        Ok(found)
    }

    /// Adds a chunk to a plane, as an ingestion would.
    pub(super) async fn ingest(&self, plane: &str, text: &str) -> Result<(), sqlx::Error> {
        sqlx::query("INSERT INTO chunks (plane, document, ordinal, body, embedding) VALUES (?, 'note.txt', 0, ?, ?)")
            .bind(plane)
            .bind(text)
            .bind(to_blob(&self.vectoriser.embed(text)))
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// Records of a plane, and a digest of every byte of them.
    pub(super) async fn digest(&self, plane: &str) -> Result<(u64, String), sqlx::Error> {
        let rows = sqlx::query(
            "SELECT quote(id) || quote(plane) || quote(document) || quote(ordinal) || quote(body) || quote(embedding) AS line
             FROM chunks WHERE plane = ? ORDER BY id",
        )
        .bind(plane)
        .fetch_all(&self.pool)
        .await?;
        let lines: Result<Vec<String>, _> = rows.iter().map(|row| row.try_get("line")).collect();
        Ok((rows.len() as u64, canonical::sha256(lines?.join("\n").as_bytes())))
    }

    pub(super) async fn close(self) {
        self.pool.close().await;
    }
}
