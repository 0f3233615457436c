//! The destruction plan: what a purge would destroy, where, how much and under which manifest. Its digest is what is approved.
//!
//! The rule: everything that decides what is destroyed is in here; change any of it and the approval no longer fits.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::lifecycle::{EvictMode, Ground};

/// The version of this document's shape.
pub const DESTRUCTION_PLAN_SCHEMA: u32 = 1;

/// What is destroyed of one binding.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StoreDestruction {
    /// The store's registered name.
    pub store: String,
    /// The resource within it.
    pub resource: String,
    /// SHA-256 of the binding's canonical scope.
    pub scope_digest: String,
    /// Records that the purge removes from the hot store.
    pub records: u64,
}

/// The whole plan, digested in canonical JSON.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DestructionPlan {
    /// [`DESTRUCTION_PLAN_SCHEMA`].
    pub schema_version: u32,
    /// Raised when a denied plan is made anew, from 0.
    pub revision: u32,
    /// The tenant.
    pub tenant_id: Uuid,
    /// The plane.
    pub plane_id: Uuid,
    /// The offboarding.
    pub offboarding_id: Uuid,
    /// Why it leaves.
    pub ground: Ground,
    /// When the hot copy goes.
    pub evict: EvictMode,
    /// What goes from each store.
    pub stores: Vec<StoreDestruction>,
    /// The archive's prefix; everything below it goes.
    pub archive_prefix: String,
    /// Declared copies of it; everything below them goes too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub archive_copies: Vec<String>,
    /// `sha256:` of the manifest.
    pub manifest_sha256: String,
    /// Objects the manifest lists, itself not counted.
    pub archive_parts: u64,
    /// Records in them.
    pub archive_rows: u64,
    /// Their bytes.
    pub archive_bytes: u64,
}

impl DestructionPlan {
    /// `sha256:` of the canonical JSON.
    pub fn digest(&self) -> String {
        crate::canonical::digest(self).expect("a plan holds text and integers only")
    }
}
