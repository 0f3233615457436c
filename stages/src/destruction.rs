//! The destruction plan: what a purge would destroy, where, how much and under which manifest. Its text is what is approved and signed.
//!
//! The rule: everything that decides what is destroyed is in here, and its digest is that of the text a person reads; change any of it
//! and the approval no longer fits. It only computes, so nothing happens if we die in it.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    lifecycle::{EvictMode, Ground},
    ports::{KnowledgeStore, PortError},
};

/// The version of this document's shape.
pub const DESTRUCTION_PLAN_SCHEMA: u32 = 2;
/// The last version whose digest was that of its canonical JSON.
const DIGESTED_AS_JSON: u32 = 1;

/// What two persons attested of a store that is gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attested {
    /// The attestation.
    pub attestation_id: Uuid,
    /// `sha256:` of what they based it on.
    pub evidence_sha256: String,
}

/// In a word, what a store says that may be gone; `None` where it answers and knows the plane, so that it is there. A fence that names the
/// plane is enough for that, though nothing enforces it any more.
pub async fn said_when_gone(store: &dyn KnowledgeStore) -> Option<&'static str> {
    match store.prove_empty(&[]).await {
        Ok(_) => None,
        Err(PortError::Transient(_)) => Some("no answer"),
        Err(PortError::WrongPlace(_)) if store.describe().await.is_ok_and(|found| found.fence.is_some()) => None,
        Err(PortError::WrongPlace(_)) => Some("another place answers"),
        Err(_) => Some("it cannot be used"),
    }
}

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
    /// Where the store was attested gone: it is skipped, and nothing in it is verified.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attested: Option<Attested>,
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
    /// The key under which the archive is encrypted; it goes too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archive_key_id: Option<Uuid>,
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
    /// `sha256:` of the text; of the canonical JSON where the plan was made before there was one.
    pub fn digest(&self) -> String {
        if self.schema_version <= DIGESTED_AS_JSON {
            return crate::canonical::digest(self).expect("a plan holds text and integers only");
        }
        crate::canonical::sha256(self.text().as_bytes())
    }

    /// The plan in words, to the byte: what an approver reads and signs. UTF-8, lines ended by a line feed.
    pub fn text(&self) -> String {
        let mut text = format!("Lethe destruction plan, version {}, revision {}\n\n", self.schema_version, self.revision);
        let mut line = |name: &str, value: &str| writeln!(text, "{name:<16}{}", one_line(value)).expect("text takes text");
        line("tenant", &self.tenant_id.to_string());
        line("plane", &self.plane_id.to_string());
        line("offboarding", &self.offboarding_id.to_string());
        line("ground", self.ground.as_str());
        line("evict", self.evict.as_str());
        line("manifest", &self.manifest_sha256);
        text.push_str("\nDestroyed for good, in all versions, and proved gone:\n");
        let archive = format!(
            "everything below {}: {} object(s) and the manifest, {} record(s), {} byte(s)",
            self.archive_prefix, self.archive_parts, self.archive_rows, self.archive_bytes
        );
        let mut item = |what: &str| writeln!(text, "- {}", one_line(what)).expect("text takes text");
        item(&archive);
        self.archive_copies.iter().for_each(|copy| item(&format!("everything below {copy}, a copy of it")));
        if let Some(key) = self.archive_key_id {
            item(&format!("key {key} of the archive: no copy of its parts, wherever it is, can be read from then on"));
        }
        for store in &self.stores {
            if let Some(attested) = &store.attested {
                item(&format!(
                    "in store {}, {} (scope {}): NOTHING, AND NOTHING IS VERIFIED: attested gone, attestation {}, evidence {}",
                    store.store, store.resource, store.scope_digest, attested.attestation_id, attested.evidence_sha256
                ));
                continue;
            }
            let hot = match store.records {
                0 => "whatever is left of the plane, nothing by the last count".to_owned(),
                records => format!("{records} record(s) and whatever else is left of the plane"),
            };
            item(&format!("in store {}, {} (scope {}): {hot}", store.store, store.resource, store.scope_digest));
        }
        text
    }
}

/// A value within its line: what would end the line, turn its direction or not be seen is escaped.
fn one_line(value: &str) -> String {
    let hides = |c: char| {
        c.is_control() || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
    };
    value.chars().flat_map(|c| if hides(c) { c.escape_unicode().collect::<Vec<_>>() } else { vec![c] }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> DestructionPlan {
        DestructionPlan {
            schema_version: DESTRUCTION_PLAN_SCHEMA,
            revision: 0,
            tenant_id: Uuid::from_u128(1),
            plane_id: Uuid::from_u128(2),
            offboarding_id: Uuid::from_u128(3),
            ground: Ground::ContractEnd,
            evict: EvictMode::AtPurge,
            stores: vec![StoreDestruction {
                store: "vectors".into(),
                resource: "chunks".into(),
                scope_digest: "sha256:aa".into(),
                records: 4,
                attested: None,
            }],
            archive_prefix: "s3://cold/planes/2/".into(),
            archive_copies: vec!["s3://cold-copy/planes/2/".into()],
            archive_key_id: None,
            manifest_sha256: "sha256:bb".into(),
            archive_parts: 3,
            archive_rows: 4,
            archive_bytes: 999,
        }
    }

    #[test]
    fn every_field_is_in_the_text_and_moves_the_digest() {
        type Change = fn(&mut DestructionPlan);
        let changes: [Change; 19] = [
            |plan| plan.schema_version = 3,
            |plan| plan.revision = 1,
            |plan| plan.tenant_id = Uuid::nil(),
            |plan| plan.plane_id = Uuid::nil(),
            |plan| plan.offboarding_id = Uuid::nil(),
            |plan| plan.ground = Ground::Internal,
            |plan| plan.evict = EvictMode::AfterArchive,
            |plan| plan.stores[0].store.push('x'),
            |plan| plan.stores[0].resource.push('x'),
            |plan| plan.stores[0].scope_digest.push('x'),
            |plan| plan.stores[0].records = 0,
            |plan| {
                let attestation_id = Uuid::nil();
                plan.stores[0].attested = Some(Attested { attestation_id, evidence_sha256: "sha256:cc".into() });
            },
            |plan| plan.archive_prefix.push('x'),
            |plan| plan.archive_copies.clear(),
            |plan| plan.archive_key_id = Some(Uuid::nil()),
            |plan| plan.manifest_sha256.push('x'),
            |plan| plan.archive_parts += 1,
            |plan| plan.archive_rows += 1,
            |plan| plan.archive_bytes += 1,
        ];
        for (index, change) in changes.into_iter().enumerate() {
            let mut changed = plan();
            change(&mut changed);
            assert_ne!(changed.text(), plan().text(), "change {index}");
            assert_ne!(changed.digest(), plan().digest(), "change {index}");
        }
    }

    #[test]
    fn no_name_can_add_a_line() {
        let mut plan = plan();
        plan.stores[0].resource = "chunks\n- everything".into();
        assert_eq!(plan.text().lines().count(), self::plan().text().lines().count());
    }
}
