//! The ledger's copy of each verified manifest.

use chrono::{DateTime, Utc};
use lethe_stages::manifest::Manifest;
use uuid::Uuid;

use crate::{
    db::Tx,
    fault::Fault,
    many::{Many, Script},
    rows::{Cells, to_json},
    sql::{Document, Row, statements},
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

fn archive(row: &Row) -> Result<ArchiveRow, Fault> {
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

/// A verified manifest as it is written.
#[derive(Debug)]
pub(crate) struct Kept {
    offboarding_id: Uuid,
    prefix: String,
    manifest: String,
    sha256: String,
    rows: u64,
    bytes: u64,
    parts: u64,
}

impl Kept {
    pub(crate) fn of(prefix: &str, manifest: &Manifest) -> Result<Self, Fault> {
        Ok(Self {
            offboarding_id: manifest.offboarding_id,
            prefix: prefix.to_owned(),
            manifest: to_json(manifest),
            sha256: lethe_stages::canonical::digest(manifest)?,
            rows: manifest.rows(),
            bytes: manifest.bytes(),
            parts: manifest.parts(),
        })
    }
}

static KEEP: Many = Many {
    doing: "keep a manifest",
    table: "archives",
    before: "INSERT INTO archives (offboarding_id, prefix, manifest, manifest_sha256, rows, bytes, parts, verified_at)",
    after: "ON CONFLICT (offboarding_id) DO UPDATE SET prefix = excluded.prefix, manifest = excluded.manifest,
        manifest_sha256 = excluded.manifest_sha256, rows = excluded.rows, bytes = excluded.bytes, parts = excluded.parts,
        verified_at = excluded.verified_at",
    types: &["uuid", "text", "json", "text", "bigint", "bigint", "bigint", "timestamptz"],
};

/// Every batch of this module.
#[cfg(feature = "testing")]
pub(crate) static BATCHES: &[&Many] = &[&KEEP];

statements! {
    ARCHIVE = "read an archive", "SELECT * FROM archives WHERE offboarding_id = $1";
}

impl Tx {
    pub(crate) fn keep_archives(&self, kept: Vec<Kept>, script: &mut Script) {
        let at = self.at();
        script.add(&KEEP, kept, move |query, kept: Kept| {
            let query = query.bind(kept.offboarding_id).bind(kept.prefix).bind(Document(kept.manifest)).bind(kept.sha256);
            query.bind(kept.rows as i64).bind(kept.bytes as i64).bind(kept.parts as i64).bind(at)
        });
    }

    /// The archive of an offboarding, if it was verified.
    pub async fn archive(&mut self, offboarding: Uuid) -> Result<Option<ArchiveRow>, Fault> {
        self.sql(&ARCHIVE).bind(offboarding).optional().await?.as_ref().map(archive).transpose()
    }
}
