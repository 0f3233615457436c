//! The manifest: what an archive holds of a plane, part by part, with the digests that prove it.
//!
//! The rule: it is written last of an export and deleted last of a purge. Its own digest stands in the ledger and in the plan
//! that is approved. With `contents = inventory` the parts hold keyed digests of the records and nothing of their content.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::record::{Column, Key};

/// The version of this document's shape.
pub const MANIFEST_SCHEMA: u32 = 1;

/// What a manifest says where Lethe did not encrypt.
pub const UNENCRYPTED: &str = "none";

crate::text_enum! {
    /// What the parts hold.
    Contents {
        /// Every value of every record.
        Records = "records",
        /// One keyed digest per record, no content.
        Inventory = "inventory",
    }
}

/// One object of the archive.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Part {
    /// The object's key below the plane's prefix.
    pub key: String,
    /// Records in it.
    pub rows: u64,
    /// Size in bytes.
    pub bytes: u64,
    /// `sha256:` of the object's bytes.
    pub sha256: String,
    /// The first record's key; absent from an inventory and where parts are encrypted, because a key may say something.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_key: Option<Key>,
    /// The last record's key; absent like the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_key: Option<Key>,
}

/// What was exported from one binding of the plane.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StoreManifest {
    /// The binding's place among the plane's bindings, from 0.
    pub binding: usize,
    /// The store's registered name.
    pub store: String,
    /// The resource within the store, a table for SQL stores.
    pub resource: String,
    /// The columns in the order of the records' values.
    pub columns: Vec<Column>,
    /// Records in the store when the last export of it began.
    pub source_rows_before: u64,
    /// Records in the store when it ended; equal, or the export did not hold still.
    pub source_rows_after: u64,
    /// The state of the store's records, as the store tells it, when the last export of it began and when it ended; absent where it was
    /// not the same or the store has no word for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// The parts, in key order within each round.
    pub parts: Vec<Part>,
    /// Records in all parts.
    pub rows: u64,
    /// Bytes of all parts.
    pub bytes: u64,
}

/// The whole document, stored as `manifest.json` in canonical JSON.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`MANIFEST_SCHEMA`].
    pub schema_version: u32,
    /// The plane.
    pub plane_id: Uuid,
    /// The offboarding that made the archive.
    pub offboarding_id: Uuid,
    /// How often an export was made for this offboarding, from 0; later parts override earlier ones by key.
    pub round: u32,
    /// What the parts hold.
    pub contents: Contents,
    /// How the parts are encrypted: the method and the id of the key, or [`UNENCRYPTED`], which leaves it to the storage.
    pub encryption: String,
    /// One entry per binding.
    pub stores: Vec<StoreManifest>,
}

impl Manifest {
    /// Where the manifest of an offboarding lies below the plane's prefix.
    pub fn object_key(offboarding_id: Uuid) -> String {
        format!("{offboarding_id}/manifest.json")
    }

    /// Where part `index` of `round` of a binding lies below the plane's prefix.
    pub fn part_key(offboarding_id: Uuid, binding: usize, round: u32, index: usize) -> String {
        format!("{offboarding_id}/store-{binding}/round-{round}/part-{index:05}.parquet")
    }

    /// Records in all stores.
    pub fn rows(&self) -> u64 {
        self.stores.iter().map(|store| store.rows).sum()
    }

    /// Bytes of all parts.
    pub fn bytes(&self) -> u64 {
        self.stores.iter().map(|store| store.bytes).sum()
    }

    /// Number of parts in all stores.
    pub fn parts(&self) -> u64 {
        self.stores.iter().map(|store| store.parts.len() as u64).sum()
    }
}
