//! The ledger's copy of each verified manifest.

use chrono::{DateTime, Utc};
use lethe_stages::manifest::Manifest;
use sqlx::sqlite::SqliteRow;
use uuid::Uuid;

use crate::{
    db::Tx,
    fault::Fault,
    rows::{Cells, one, to_json, us},
};

/// A verified archive.
#[derive(Debug, Clone)]
pub struct ArchiveRow {
    /// Where it lies.
    pub prefix: String,
    /// The manifest; gone once it is purged.
    pub manifest: Option<Manifest>,
    /// The manifest's digest.
    pub manifest_sha256: String,
    /// Records in it.
    pub rows: i64,
    /// Bytes of its parts.
    pub bytes: i64,
    /// Number of its parts.
    pub parts: i64,
    /// When everything had been read back.
    pub verified_at: DateTime<Utc>,
    /// When it was proved gone.
    pub purged_at: Option<DateTime<Utc>>,
}

fn archive(row: &SqliteRow) -> Result<ArchiveRow, Fault> {
    let cells = Cells::new(row, "archives", "offboarding_id");
    Ok(ArchiveRow {
        prefix: cells.get("prefix")?,
        manifest: cells.json("manifest")?,
        manifest_sha256: cells.get("manifest_sha256")?,
        rows: cells.get("rows")?,
        bytes: cells.get("bytes")?,
        parts: cells.get("parts")?,
        verified_at: cells.at("verified_at")?,
        purged_at: cells.maybe_at("purged_at")?,
    })
}

impl Tx {
    /// Keeps a verified manifest; a later round replaces the earlier.
    pub async fn keep_archive(&mut self, prefix: &str, manifest: &Manifest) -> Result<(), Fault> {
        let sha256 = lethe_stages::canonical::digest(manifest)?;
        let at = us(self.at());
        let done = sqlx::query(
            "INSERT INTO archives (offboarding_id, prefix, manifest, manifest_sha256, rows, bytes, parts, verified_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
             ON CONFLICT (offboarding_id) DO UPDATE SET prefix = ?2, manifest = ?3, manifest_sha256 = ?4,
                rows = ?5, bytes = ?6, parts = ?7, verified_at = ?8",
        )
        .bind(manifest.offboarding_id.to_string())
        .bind(prefix)
        .bind(to_json(manifest))
        .bind(sha256)
        .bind(manifest.rows() as i64)
        .bind(manifest.bytes() as i64)
        .bind(manifest.parts() as i64)
        .bind(at)
        .execute(self.connection())
        .await;
        one("keep a manifest", done.map_err(Fault::database("keep a manifest"))?)
    }

    /// The archive of an offboarding, if it was verified.
    pub async fn archive(&mut self, offboarding: Uuid) -> Result<Option<ArchiveRow>, Fault> {
        let row = sqlx::query("SELECT * FROM archives WHERE offboarding_id = ?")
            .bind(offboarding.to_string())
            .fetch_optional(self.connection())
            .await
            .map_err(Fault::database("read an archive"))?;
        row.as_ref().map(archive).transpose()
    }
}
