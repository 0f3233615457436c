//! Archive, in two runs. *Export* copies every record of every bound store, reads all of it back and compares. *Evict* removes from
//! the hot stores exactly what was exported, and proves it gone.
//!
//! The rule: export destroys nothing; evict destroys nothing that no verified export holds.
//! If we die in export, the parts that are complete are kept and the next run goes on after them. If we die in evict, what was
//! removed is in the archive, and the next run removes the rest.

use async_trait::async_trait;
use serde_json::json;

use super::{copying, removal};
use crate::{
    Code, EvictMode, Refusal, Stage, Step, canonical,
    contract::{Done, Facts, StageContext, StageError, StageHandler, StageOutcome},
    crash::{CrashPoint, reached},
    manifest::{Contents, MANIFEST_SCHEMA, Manifest},
};

pub(super) struct Archive;

/// Exports after which records that keep appearing are an operator's concern.
const ROUNDS_MAX: u32 = 5;
const KEEPS_CHANGING: &str = "KEEPS_CHANGING";

#[async_trait]
impl StageHandler for Archive {
    fn stage(&self) -> Stage {
        Stage::Archive
    }

    fn validate(&self, step: Step, facts: &Facts) -> Result<(), Refusal> {
        if step == Step::Evict && facts.evict == EvictMode::AtPurge {
            return Err(Refusal::new(Code::TransitionNotAllowed, "this offboarding keeps the hot copy until purge"));
        }
        Ok(())
    }

    async fn run(&self, context: &StageContext) -> Result<StageOutcome, StageError> {
        if context.run.step == Step::Evict { evict(context).await } else { export(context).await }
    }
}

async fn export(context: &StageContext) -> Result<StageOutcome, StageError> {
    let canary = context.archive.probe().await.map_err(|error| StageError::port("ask the archive", error))?;
    // What one store cannot give now keeps no other from being copied.
    let mut tally = super::Tally::new();
    for (binding, bound) in context.stores.iter().enumerate() {
        tally.add(binding, copying::export_store(context, binding, bound).await);
    }
    let stores = tally.all()?;
    reached(CrashPoint::ExportReadBack);

    let manifest = Manifest {
        schema_version: MANIFEST_SCHEMA,
        plane_id: context.facts.plane_id,
        offboarding_id: context.facts.offboarding_id,
        round: context.run.round,
        contents: if context.is_inventory() { Contents::Inventory } else { Contents::Records },
        encryption: context.archive.encryption(),
        stores,
    };
    let text = canonical::to_string(&manifest).map_err(|error| StageError::halt("MANIFEST", error.to_string()))?;
    let key = Manifest::object_key(manifest.offboarding_id);
    let archive = &context.archive;
    archive.put(&key, text.as_bytes()).await.map_err(|error| StageError::port("write the manifest", error))?;
    let stored = archive.get(&key).await.map_err(|error| StageError::port("read the manifest back", error))?;
    if stored.as_deref() != Some(text.as_bytes()) {
        return Err(StageError::transient("READ_BACK", "read the manifest back: it is not what was written"));
    }
    reached(CrashPoint::ExportManifestWritten);

    let evidence = json!({
        "contents": manifest.contents, "round": manifest.round, "archive_canary": canary,
        "manifest_sha256": canonical::sha256(text.as_bytes()),
        "rows": manifest.rows(), "bytes": manifest.bytes(), "parts": manifest.parts(),
        "stores": manifest.stores.iter().map(|store| json!({
            "store": store.store, "resource": store.resource, "rows": store.rows, "bytes": store.bytes, "parts": store.parts.len(),
            "source_rows_before": store.source_rows_before, "source_rows_after": store.source_rows_after, "read_back": "equal",
        })).collect::<Vec<_>>(),
    });
    Ok(StageOutcome::Done(Done { evidence, manifest: Some(manifest), known: Vec::new() }))
}

/// An operator's concern, store by store.
fn keeps_changing(context: &StageContext, removed: &[removal::Removed]) -> StageError {
    let exports = context.run.appeared + 1;
    let changing = removed.iter().enumerate().filter(|(_, removed)| removed.remaining > 0).map(|(binding, removed)| {
        let bound = &context.stores[binding];
        StageError::halt(
            KEEPS_CHANGING,
            format!(
                "evict {} of store {}: {} record(s) appeared after the last of {exports} exports; something writes past the fence: \
                 stop it, then `lethe offboarding retry` exports them too",
                bound.resource, bound.name, removed.remaining
            ),
        )
        .of_store(binding)
    });
    StageError::of_all(changing.collect()).expect("records appeared somewhere")
}

async fn evict(context: &StageContext) -> Result<StageOutcome, StageError> {
    let permit = context.permit()?;
    let manifest = removal::approved_manifest(context).await?;
    super::all_ready(context).await?;
    let mut stores = Vec::new();
    let mut unexported = 0;
    for (binding, bound) in context.stores.iter().enumerate() {
        let removed = removal::remove_exported(context, permit, &manifest, binding, bound).await;
        let removed = removed.map_err(|error| error.of_store(binding))?;
        unexported += removed.remaining;
        stores.push(removed);
    }
    reached(CrashPoint::EvictErased);
    if unexported > 0 {
        let counts: Vec<_> = stores.iter().map(removal::Removed::to_json).collect();
        // Whoever lets it go on after that has it exported once more.
        if context.run.appeared + 1 >= ROUNDS_MAX && context.run.failed.as_deref() != Some(KEEPS_CHANGING) {
            return Err(keeps_changing(context, &stores));
        }
        return Ok(StageOutcome::ExportAgain(json!({"unexported": unexported, "stores": counts})));
    }
    let mut evidence = Vec::new();
    for (binding, bound) in context.stores.iter().enumerate() {
        let proof = removal::scrub_and_prove(context, permit, &manifest, binding, bound).await;
        let proof = proof.map_err(|error| error.of_store(binding))?;
        evidence.push(json!({"removed": stores[binding].to_json(), "proof": proof.evidence}));
    }
    reached(CrashPoint::EvictScrubbed);
    Ok(Done::with(json!({"manifest_sha256": permit.manifest_sha256(), "stores": evidence})))
}
