//! Purge: makes sure that nothing of the plane is left in any hot store, closes its scope for good, then deletes the archive in all
//! its versions, the manifest last, and asks everybody again.
//!
//! The rule: only under a permit, never the audit trail, and not before every store has proved empty.
//! If we die in it, the same permit's facts let the next run go on: what is gone is gone, the rest follows.

use async_trait::async_trait;
use serde_json::json;

use super::removal;
use crate::{
    Refusal, Stage, Step,
    contract::{Done, Facts, StageContext, StageError, StageHandler, StageOutcome},
    crash::{CrashPoint, reached},
    lifecycle::FenceMode,
    manifest::Manifest,
};

pub(super) struct Purge;

#[async_trait]
impl StageHandler for Purge {
    fn stage(&self) -> Stage {
        Stage::Purge
    }

    /// Everything a purge needs is asked where its permit is minted.
    fn validate(&self, _step: Step, _facts: &Facts) -> Result<(), Refusal> {
        Ok(())
    }

    async fn run(&self, context: &StageContext) -> Result<StageOutcome, StageError> {
        let permit = context.permit()?;
        let manifest = removal::approved_manifest(context).await?;
        for bound in &context.stores {
            bound.store.count().await.map_err(|error| StageError::port(&format!("ask store {}", bound.name), error))?;
        }

        let mut stores = Vec::new();
        for (binding, bound) in context.stores.iter().enumerate() {
            // After an evict there is nothing to remove; a record that is there now came later, and nobody approved its end.
            let removed = removal::remove_exported(context, permit, &manifest, binding, bound).await?;
            if removed.remaining > 0 {
                return Err(StageError::halt(
                    "UNKNOWN_RECORDS",
                    format!(
                        "purge {} of store {}: {} record(s) are there that the approved plan does not cover; \
                         move or delete them, then `lethe offboarding retry`",
                        bound.resource, bound.name, removed.remaining
                    ),
                ));
            }
            let proof = removal::scrub_and_prove(context, permit, &manifest, binding, bound).await?;
            let doing = format!("close {} in store {} for good", bound.resource, bound.name);
            bound.store.fence(FenceMode::Purged, context.run.epoch).await.map_err(|error| StageError::port(&doing, error))?;
            stores.push(json!({"removed": removed.to_json(), "proof": proof}));
        }
        reached(CrashPoint::PurgeStoresEmpty);

        let deleted = delete_archive(context, &manifest).await?;
        Ok(Done::with(json!({
            "manifest_sha256": permit.manifest_sha256(), "policy_revision": permit.policy_revision(),
            "stores": stores, "archive": {"objects_deleted": deleted, "objects_left": 0},
        })))
    }
}

/// Deletes everything below the plane's prefix, the manifest last, and lists again. Answers how many objects went now.
async fn delete_archive(context: &StageContext, manifest: &Manifest) -> Result<u64, StageError> {
    let permit = context.permit()?;
    let archive = &context.archive;
    let list = || async { archive.list().await.map_err(|error| StageError::port("list the archive", error)) };
    let manifest_key = Manifest::object_key(manifest.offboarding_id);

    let mut keys = list().await?;
    // Not by name alone: `false` sorts before `true`, so the manifest goes last.
    keys.sort_by_key(|key| (*key == manifest_key, key.clone()));
    let total = keys.len() as u64;
    for (index, key) in keys.iter().enumerate() {
        if *key == manifest_key {
            reached(CrashPoint::PurgePartsDeleted);
        }
        archive.delete(permit, key).await.map_err(|error| StageError::port(&format!("delete {key}"), error))?;
        reached(CrashPoint::PurgeObjectDeleted);
        context.progress.report(0, "deleted", index as u64 + 1, total);
    }
    reached(CrashPoint::PurgeManifestDeleted);
    archive.probe().await.map_err(|error| StageError::port("ask the archive", error))?;
    let left = list().await?;
    if !left.is_empty() {
        return Err(StageError::transient(
            "NOT_EMPTY",
            format!("list the archive again: {} object(s) are still there", left.len()),
        ));
    }
    archive.close(permit).await.map_err(|error| StageError::port("remove the empty prefix", error))?;
    Ok(total)
}
