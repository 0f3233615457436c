//! Purge: makes sure that nothing of the plane is left in any hot store, closes its scope for good, then deletes the archive in all
//! its versions, the manifest last, and asks everybody again.
//!
//! The rule: only under a permit, never the audit trail, and not before every store has proved empty.
//! If we die in it, the same permit's facts let the next run go on: what is gone is gone, the rest follows.

use async_trait::async_trait;
use serde_json::json;

use super::{
    Ready,
    removal::{self, Proved},
};
use crate::{
    Code, Permit, Refusal, Stage, Step,
    contract::{Done, Facts, StageContext, StageError, StageHandler, StageOutcome},
    crash::{CrashPoint, reached},
    lifecycle::FenceMode,
    manifest::Manifest,
    ports::{BoundStore, DELETE_KEYS_MAX, PortError},
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
        // Before anything goes: what the archive may not let go yet keeps the rest whole too.
        if let Some(waits) = locked(context, permit).await? {
            return Ok(waits);
        }
        let ready = super::all_ready(context).await?;
        covered(context, &manifest, &ready)?;

        let (mut stores, mut known) = (Vec::new(), Vec::new());
        for (binding, (bound, ready)) in context.stores.iter().zip(&ready).enumerate() {
            let purged = match ready {
                Ready::Gone(said) => Ok(attested_gone(bound, said)),
                Ready::Holds(_) => purge_store(context, permit, &manifest, binding, bound).await,
            };
            let purged = purged.map_err(|error| error.of_store(binding))?;
            stores.push(purged.evidence);
            known.push(purged.known);
        }
        reached(CrashPoint::PurgeStoresEmpty);

        if let Some(waits) = locked(context, permit).await? {
            return Ok(waits);
        }
        let deleted = delete_archive(context, &manifest).await?;
        let evidence = json!({
            "manifest_sha256": permit.manifest_sha256(), "policy_revision": permit.policy_revision(),
            "stores": stores, "archive": {"objects_deleted": deleted, "objects_left": 0},
        });
        Ok(StageOutcome::Done(Done { evidence, manifest: None, known }))
    }
}

/// Empties one store, proves it empty and closes the plane's scope there for good.
async fn purge_store(
    context: &StageContext,
    permit: &Permit,
    manifest: &Manifest,
    binding: usize,
    bound: &BoundStore,
) -> Result<Proved, StageError> {
    let inventoried = removal::known_of_inventory(context, manifest, bound).await?;
    // After an evict there is nothing to remove; a record that is there now came later, and nobody approved its end.
    let removed = removal::remove_exported(context, permit, manifest, binding, bound).await?;
    if removed.remaining > 0 {
        return Err(unknown_records(bound, removed.remaining));
    }
    let Proved { evidence: proof, mut known } = removal::scrub_and_prove(context, permit, manifest, binding, bound).await?;
    known.extend(inventoried);
    let doing = format!("close {} in store {} for good", bound.resource, bound.name);
    super::fence(context, bound, FenceMode::Purged, &doing).await?;
    Ok(Proved { evidence: json!({"removed": removed.to_json(), "proof": proof, "known_after": known.len()}), known })
}

/// Halts where a store holds more records than the approved plan covers, before any store loses one.
fn covered(context: &StageContext, manifest: &Manifest, ready: &[Ready]) -> Result<(), StageError> {
    let each = context.stores.iter().zip(ready).zip(&manifest.stores).enumerate();
    let more = each.filter_map(|(binding, ((bound, ready), exported))| {
        let Ready::Holds(left) = ready else { return None };
        let more = left.saturating_sub(exported.rows);
        (more > 0).then(|| unknown_records(bound, more).of_store(binding))
    });
    StageError::of_all(more.collect()).map_or(Ok(()), Err)
}

fn unknown_records(bound: &BoundStore, records: u64) -> StageError {
    StageError::halt(
        "UNKNOWN_RECORDS",
        format!(
            "purge {} of store {}: {records} record(s) are there that the approved plan does not cover; \
             move or delete them, then `lethe offboarding retry`",
            bound.resource, bound.name
        ),
    )
}

/// Skips a store of which two persons attested that it is gone: nothing of it is verified, and the evidence says so.
fn attested_gone(bound: &BoundStore, said: &str) -> Proved {
    let evidence = json!({
        "store": bound.name, "resource": bound.resource, "verified": false, "proof": "attested, not verified", "attested": bound.attested,
        "said": said,
    });
    Proved { evidence, known: Vec::new() }
}

/// Whether a lock forbids to delete the archive yet: then the purge waits for its date. It spends no attempt.
async fn locked(context: &StageContext, permit: &Permit) -> Result<Option<StageOutcome>, StageError> {
    match context.archive.may_delete(permit).await {
        Ok(()) => Ok(None),
        Err(PortError::Locked { until, said }) => {
            let refusal = Refusal::new(Code::ArchiveLocked, said).with(json!({"until": until}));
            Ok(Some(StageOutcome::NotYet { until: Some(until), refusal }))
        }
        Err(error) => Err(StageError::port("ask whether the archive may be deleted", error)),
    }
}

/// Deletes everything below the plane's prefix, the manifest last, and lists again. Answers how many objects went now.
async fn delete_archive(context: &StageContext, manifest: &Manifest) -> Result<u64, StageError> {
    let permit = context.permit()?;
    let archive = &context.archive;
    let list = || async { archive.list().await.map_err(|error| StageError::port("list the archive", error)) };
    let manifest_key = Manifest::object_key(manifest.offboarding_id);

    // The manifest goes last, in a batch of its own.
    let (last, keys): (Vec<_>, Vec<_>) = list().await?.into_iter().partition(|key| *key == manifest_key);
    let total = (keys.len() + last.len()) as u64;
    let mut deleted = 0;
    let batches = keys.chunks(DELETE_KEYS_MAX).chain((!last.is_empty()).then_some(last.as_slice()));
    for batch in batches {
        if batch.contains(&manifest_key) {
            reached(CrashPoint::PurgePartsDeleted);
        }
        let doing = || format!("delete {} object(s) from {} on", batch.len(), batch[0]);
        archive.delete(permit, batch).await.map_err(|error| StageError::port(&doing(), error))?;
        reached(CrashPoint::PurgeObjectDeleted);
        deleted += batch.len() as u64;
        context.progress.report(0, "deleted", deleted, total);
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
