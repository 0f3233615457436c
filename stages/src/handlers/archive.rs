//! Archive, in two runs. *Export* copies every record of every bound store, reads all of it back and compares. *Evict* removes from
//! the hot stores exactly what was exported, and proves it gone.
//!
//! The rule: export destroys nothing; evict destroys nothing that no verified export holds.
//! If we die in export, the parts that are complete are kept and the next run goes on after them. If we die in evict, what was
//! removed is in the archive, and the next run removes the rest.

use async_trait::async_trait;
use serde_json::json;

use super::removal;
use crate::{
    Code, EvictMode, Refusal, Stage, Step, canonical,
    contract::{Done, Facts, StageContext, StageError, StageHandler, StageOutcome},
    crash::{CrashPoint, reached},
    manifest::{Contents, MANIFEST_SCHEMA, Manifest, Part, StoreManifest},
    ports::{BoundStore, PartDraft},
    record::{Column, Key},
};

pub(super) struct Archive;

/// Exports after which records that keep appearing are an operator's concern.
const ROUNDS_MAX: u32 = 5;

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
        tally.add(binding, export_and_read_back(context, binding, bound).await);
    }
    let stores = tally.all()?;
    reached(CrashPoint::ExportReadBack);

    let manifest = Manifest {
        schema_version: MANIFEST_SCHEMA,
        plane_id: context.facts.plane_id,
        offboarding_id: context.facts.offboarding_id,
        round: context.run.round,
        contents: if context.is_inventory() { Contents::Inventory } else { Contents::Records },
        encryption: "none".into(),
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
    Ok(StageOutcome::Done(Done { evidence, manifest: Some(manifest) }))
}

async fn export_and_read_back(context: &StageContext, binding: usize, bound: &BoundStore) -> Result<StoreManifest, StageError> {
    let store = export_store(context, binding, bound).await?;
    read_back(context, binding, &store).await?;
    Ok(store)
}

/// Copies what the store holds now into parts of this round, going on after the parts that an interrupted run completed.
async fn export_store(context: &StageContext, binding: usize, bound: &BoundStore) -> Result<StoreManifest, StageError> {
    let doing = |what: &str| format!("{what} {} of store {}", bound.resource, bound.name);
    let store = &bound.store;
    let columns = store.columns().await.map_err(|error| StageError::port(&doing("read the columns"), error))?;
    let state_before = store.state().await.map_err(|error| StageError::port(&doing("look at"), error))?;
    let before = store.count().await.map_err(|error| StageError::port(&doing("count"), error))?;

    let mut parts = Vec::new();
    let mut exported = 0;
    let mut after: Option<Key> = None;
    loop {
        let key = Manifest::part_key(context.facts.offboarding_id, binding, context.run.round, parts.len());
        // An inventory names no keys to go on after, and costs little to take again.
        if !context.is_inventory()
            && let Some(complete) = read_part(context, &key, &columns).await?
        {
            exported += complete.rows;
            after = complete.last_key.clone();
            parts.push(complete);
            context.progress.report(binding, "exported", exported, before);
            continue;
        }
        let records =
            store.page(after.as_ref(), context.limits.part).await.map_err(|error| StageError::port(&doing("read"), error))?;
        let Some(last) = records.last() else { break };
        let last = last.key.clone();
        let digests: Vec<_> = records.iter().map(|record| record.digest(context.digest_salt())).collect();
        let draft = if context.is_inventory() {
            PartDraft { key: &key, columns: &[], records: &[], digests: &digests }
        } else {
            PartDraft { key: &key, columns: &columns, records: &records, digests: &digests }
        };
        let part = context.archive.write_part(draft).await.map_err(|error| StageError::port(&format!("write {key}"), error))?;
        reached(CrashPoint::ExportPartWritten);
        exported += part.rows;
        after = Some(last);
        parts.push(part);
        context.progress.report(binding, "exported", exported, before);
    }

    let counted = store.count().await.map_err(|error| StageError::port(&doing("count"), error))?;
    if before != counted || exported != counted {
        return Err(StageError::transient(
            "SOURCE_MOVED",
            format!("{}: it held {before} records before, {counted} after, and {exported} were copied", doing("export")),
        ));
    }
    let state_after = store.state().await.map_err(|error| StageError::port(&doing("look at"), error))?;
    // Records that an earlier round evicted stand in its parts only. An inventory evicts nothing, so it starts afresh.
    let earlier = context.manifest.as_ref().filter(|_| !context.is_inventory());
    if let Some(earlier) = earlier.and_then(|manifest| manifest.stores.get(binding)) {
        parts.splice(0..0, earlier.parts.iter().cloned());
    }
    Ok(StoreManifest {
        binding,
        store: bound.name.clone(),
        resource: bound.resource.clone(),
        columns,
        source_rows_before: before,
        source_rows_after: counted,
        state: state_after.filter(|after| state_before.as_ref() == Some(after)),
        rows: parts.iter().map(|part| part.rows).sum(),
        bytes: parts.iter().map(|part| part.bytes).sum(),
        parts,
    })
}

/// Reads every part of the store again, from the archive, and compares it with what was recorded when it was written.
async fn read_back(context: &StageContext, binding: usize, store: &StoreManifest) -> Result<(), StageError> {
    let mut verified = 0;
    for written in &store.parts {
        let columns: &[Column] = if context.is_inventory() { &[] } else { &store.columns };
        let found = read_part(context, &written.key, columns).await?;
        if found.as_ref() != Some(written) {
            return Err(StageError::transient("READ_BACK", format!("read {} back: it is not what was written", written.key)));
        }
        verified += written.rows;
        context.progress.report(binding, "verified", verified, store.rows);
    }
    Ok(())
}

/// Reads a part and recomputes each record's digest from the values that were decoded.
async fn read_part(context: &StageContext, key: &str, columns: &[Column]) -> Result<Option<Part>, StageError> {
    let found = context.archive.read_part(key, columns).await.map_err(|error| StageError::port(&format!("read {key}"), error))?;
    let Some(found) = found else { return Ok(None) };
    if !columns.is_empty() && !found.records.iter().map(|record| record.digest(None)).eq(found.digests.iter().copied()) {
        return Err(StageError::halt(
            "READ_BACK",
            format!("read {key}: a record does not match the digest taken when it was exported"),
        ));
    }
    Ok(Some(found.part))
}

async fn evict(context: &StageContext) -> Result<StageOutcome, StageError> {
    let permit = context.permit()?;
    let manifest = removal::approved_manifest(context).await?;
    super::all_answer(context).await?;
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
        if context.run.round + 1 >= ROUNDS_MAX {
            return Err(StageError::halt(
                "KEEPS_CHANGING",
                format!(
                    "evict: {unexported} record(s) appeared after each of {ROUNDS_MAX} exports; something writes past the fence"
                ),
            ));
        }
        return Ok(StageOutcome::ExportAgain(json!({"unexported": unexported, "stores": counts})));
    }
    let mut evidence = Vec::new();
    for (binding, bound) in context.stores.iter().enumerate() {
        let proof = removal::scrub_and_prove(context, permit, &manifest, binding, bound).await;
        let proof = proof.map_err(|error| error.of_store(binding))?;
        evidence.push(json!({"removed": stores[binding].to_json(), "proof": proof}));
    }
    reached(CrashPoint::EvictScrubbed);
    Ok(Done::with(json!({"manifest_sha256": permit.manifest_sha256(), "stores": evidence})))
}
