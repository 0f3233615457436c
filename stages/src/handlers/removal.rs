//! Removing records from a hot store against a verified manifest, and proving that they are gone. Used by evict and by purge.
//!
//! The rule: a record is removed only if the manifest holds it as it is now. If we die in it, the same walk finds the rest.

use serde_json::{Value as Json, json};

use crate::{
    EvictMode, Permit, canonical,
    contract::{Keep, StageContext, StageError},
    crash::{CrashPoint, reached},
    manifest::{Contents, Manifest, Part, StoreManifest},
    permit::Destruction,
    ports::{BoundStore, Erased, PageLimit, PartContents},
    record::{Column, ColumnKind, Key, Known, KnownVector, Record, RecordDigest},
};

/// What became of one binding's records.
pub(super) struct Removed {
    store: String,
    resource: String,
    erased: u64,
    absent: u64,
    changed: u64,
    /// Records of the plane that no manifest covers, left in place.
    pub(super) remaining: u64,
}

impl Removed {
    pub(super) fn to_json(&self) -> Json {
        json!({
            "store": self.store, "resource": self.resource, "erased": self.erased,
            "absent": self.absent, "changed": self.changed, "remaining": self.remaining,
        })
    }
}

/// The ledger's copy of the manifest, after comparing it with the archive's own and with the permit.
pub(super) async fn approved_manifest(context: &StageContext) -> Result<Manifest, StageError> {
    context.archive.probe().await.map_err(|error| StageError::port("ask the archive", error))?;
    let permit = context.permit()?;
    let manifest = context
        .manifest
        .clone()
        .ok_or_else(|| StageError::halt("MANIFEST_MISSING", "read the ledger's copy of the manifest: there is none"))?;
    let text = canonical::to_string(&manifest).map_err(|error| StageError::halt("MANIFEST", error.to_string()))?;
    if canonical::sha256(text.as_bytes()) != permit.manifest_sha256() {
        return Err(StageError::halt(
            "MANIFEST_CHANGED",
            "compare the ledger's copy of the manifest with the permit: they differ",
        ));
    }
    let key = Manifest::object_key(manifest.offboarding_id);
    match context.archive.get(&key).await.map_err(|error| StageError::port("read the manifest", error))? {
        Some(bytes) if bytes != text.as_bytes() => {
            Err(StageError::halt("MANIFEST_CHANGED", format!("compare {key} with the ledger's copy: somebody changed it")))
        }
        // It is the last object a purge deletes, so its absence means that an earlier run of this purge came that far.
        None if !may_be_gone(permit) => Err(StageError::halt("MANIFEST_MISSING", format!("read {key}: it is gone"))),
        _ => Ok(manifest),
    }
}

fn may_be_gone(permit: &Permit) -> bool {
    permit.destruction() == Destruction::Purge
}

/// Removes from one store every record that the manifest holds unchanged.
pub(super) async fn remove_exported(
    context: &StageContext,
    permit: &Permit,
    manifest: &Manifest,
    binding: usize,
    bound: &BoundStore,
) -> Result<Removed, StageError> {
    let total = count(bound).await?;
    let exported = store_of(manifest, binding)?;
    let mut sum = Erased::default();
    // What an evict removed is counted there.
    let is_due = permit.destruction() == Destruction::Evict || context.facts.evict == EvictMode::AtPurge;
    if total == 0 && is_due {
        // An earlier attempt came that far.
        sum.absent = exported.rows;
    }
    if total > 0 {
        match at_once(context, permit, exported, bound).await? {
            Some(erased) => {
                sum.erased = erased;
                sum.absent = exported.rows.saturating_sub(erased);
            }
            None if manifest.contents == Contents::Records => {
                by_parts(context, permit, exported, binding, bound, &mut sum).await?
            }
            None => by_inventory(context, permit, exported, binding, bound, &mut sum).await?,
        }
    }
    let remaining = count(bound).await?;
    if is_due {
        // By what is left, and not by what was asked for: a record that changed stays.
        context.progress.report(binding, "erased", exported.rows.saturating_sub(remaining), exported.rows);
    }
    Ok(Removed {
        store: bound.name.clone(),
        resource: bound.resource.clone(),
        erased: sum.erased,
        absent: sum.absent,
        changed: sum.changed,
        remaining,
    })
}

/// Removes everything by one verb of the store, where that is still exactly what was exported; `None` where it is not, or cannot be.
async fn at_once(
    context: &StageContext,
    permit: &Permit,
    exported: &StoreManifest,
    bound: &BoundStore,
) -> Result<Option<u64>, StageError> {
    let Some(state) = &exported.state else { return Ok(None) };
    // What is the last copy from now on is looked at once more; a purge takes it too.
    if permit.destruction() == Destruction::Evict {
        for part in &exported.parts {
            unchanged_object(context, part).await?;
        }
    }
    let erased = bound.store.erase_whole(permit, state).await;
    let erased = erased.map_err(|error| StageError::port(&format!("erase from store {}", bound.name), error))?;
    if erased.is_some() {
        reached(CrashPoint::EvictBatchErased);
    }
    Ok(erased)
}

async fn by_parts(
    context: &StageContext,
    permit: &Permit,
    exported: &StoreManifest,
    binding: usize,
    bound: &BoundStore,
    sum: &mut Erased,
) -> Result<(), StageError> {
    let mut seen = 0;
    for part in &exported.parts {
        let contents = unchanged_part(context, part, &exported.columns).await?;
        let rows: Vec<_> = contents.records.iter().map(|record| record.key.clone()).zip(contents.digests).collect();
        for batch in rows.chunks(context.limits.erase_rows_max) {
            erase(context, permit, bound, batch, sum).await?;
            seen += batch.len() as u64;
            context.progress.report(binding, "erased", seen, exported.rows);
        }
    }
    Ok(())
}

/// Walks the store and the inventory side by side, both in key order. Records of the inventory that are no longer in the store were
/// removed by an earlier run. The first record of the store that the inventory does not hold ends the walk: nobody approved it.
async fn by_inventory(
    context: &StageContext,
    permit: &Permit,
    exported: &StoreManifest,
    binding: usize,
    bound: &BoundStore,
    sum: &mut Erased,
) -> Result<(), StageError> {
    let mut parts = exported.parts.iter();
    let mut listed = Vec::new().into_iter();
    let mut after: Option<Key> = None;
    let mut seen = 0;
    loop {
        let page = bound.store.page(after.as_ref(), context.limits.part).await;
        let page = page.map_err(|error| StageError::port(&format!("read store {}", bound.name), error))?;
        let Some(last) = page.last() else { return Ok(()) };
        after = Some(last.key.clone());
        let mut batch = Vec::new();
        'records: for record in &page {
            let digest = record.digest(context.digest_salt());
            loop {
                match listed.next() {
                    Some(found) if found == digest => break batch.push((record.key.clone(), digest)),
                    Some(_) => {}
                    None => match parts.next() {
                        Some(part) => listed = unchanged_part(context, part, &[]).await?.digests.into_iter(),
                        None => {
                            sum.changed += 1;
                            break 'records;
                        }
                    },
                }
            }
        }
        for batch in batch.chunks(context.limits.erase_rows_max) {
            erase(context, permit, bound, batch, sum).await?;
            seen += batch.len() as u64;
            context.progress.report(binding, "erased", seen, exported.rows);
        }
        if sum.changed > 0 {
            return Ok(());
        }
    }
}

async fn erase(
    context: &StageContext,
    permit: &Permit,
    bound: &BoundStore,
    batch: &[(Key, RecordDigest)],
    sum: &mut Erased,
) -> Result<(), StageError> {
    let erased = bound.store.erase(permit, batch, context.digest_salt()).await;
    let erased = erased.map_err(|error| StageError::port(&format!("erase from store {}", bound.name), error))?;
    *sum += erased;
    reached(CrashPoint::EvictBatchErased);
    Ok(())
}

/// A store's proof, and what is kept of its samples for later probes.
pub(super) struct Proved {
    pub(super) evidence: Json,
    pub(super) known: Vec<Known>,
}

/// Makes the bytes unreadable, then asks the store over a new connection, by count, by known keys and by known vectors.
pub(super) async fn scrub_and_prove(
    context: &StageContext,
    permit: &Permit,
    manifest: &Manifest,
    binding: usize,
    bound: &BoundStore,
) -> Result<Proved, StageError> {
    let scrubbed = bound.store.scrub(permit).await;
    let scrubbed = scrubbed.map_err(|error| StageError::port(&format!("scrub store {}", bound.name), error))?;
    let samples = samples(context, manifest, binding).await?;
    let proof = bound.store.prove_empty(&samples).await;
    let proof = proof.map_err(|error| StageError::port(&format!("ask store {} whether it is empty", bound.name), error))?;
    if !proof.is_empty() {
        return Err(StageError::halt(
            "NOT_EMPTY",
            format!(
                "prove store {} empty: {} record(s), {} known key(s) and {} known vector(s) are still there",
                bound.name, proof.remaining, proof.keys_found, proof.vectors_found
            ),
        ));
    }
    let columns = manifest.stores.get(binding).map_or(&[][..], |exported| &exported.columns);
    Ok(Proved {
        evidence: json!({"store": bound.name, "resource": bound.resource, "scrub": scrubbed, "empty": proof}),
        known: known(context, &samples, columns),
    })
}

/// What an inventory's plane is known by: a page of the hot store, taken before anything of it is erased. An earlier run of this purge
/// may have erased it already; then fewer are known, or none, and the evidence counts them.
pub(super) async fn known_of_inventory(
    context: &StageContext,
    manifest: &Manifest,
    bound: &BoundStore,
) -> Result<Vec<Known>, StageError> {
    if manifest.contents == Contents::Records || context.limits.keep == Keep::None {
        return Ok(Vec::new());
    }
    let limit = PageLimit { rows_max: context.limits.samples_max, ..context.limits.part };
    let port = |error| StageError::port(&format!("read store {}", bound.name), error);
    let samples = bound.store.page(None, limit).await.map_err(port)?;
    let columns = match context.limits.keep {
        Keep::Vectors => bound.store.columns().await.map_err(port)?,
        _ => Vec::new(),
    };
    Ok(known(context, &samples, &columns))
}

/// What is kept of samples: keys and salted digests, never content; embeddings only where the configuration says so.
fn known(context: &StageContext, samples: &[Record], columns: &[Column]) -> Vec<Known> {
    let keep = context.limits.keep;
    if keep == Keep::None {
        return Vec::new();
    }
    let salt = context.salt.for_probes();
    let embedding = columns.iter().position(|column| matches!(column.kind, ColumnKind::VectorBlob | ColumnKind::VectorJson));
    let embedding = embedding.filter(|_| keep == Keep::Vectors);
    let vector = |record: &Record| embedding.and_then(|column| record.values.get(column)).and_then(KnownVector::of);
    let of = |record: &Record| Known { key: record.key.clone(), digest: record.digest(Some(&salt)), vector: vector(record) };
    samples.iter().take(context.limits.samples_max).map(of).collect()
}

/// Records known to have been in the store, from the first and the last part that can still be read.
async fn samples(context: &StageContext, manifest: &Manifest, binding: usize) -> Result<Vec<Record>, StageError> {
    if manifest.contents == Contents::Inventory {
        return Ok(Vec::new());
    }
    let exported = store_of(manifest, binding)?;
    let mut samples = Vec::new();
    let ends: Vec<_> = exported.parts.iter().take(1).chain(exported.parts.iter().skip(1).last()).collect();
    for part in &ends {
        let found = context.archive.read_part(&part.key, &exported.columns).await;
        // Gone: an earlier run of this purge, which had proved emptiness first, deleted it.
        if let Some(found) = found.map_err(|error| StageError::port(&format!("read {}", part.key), error))? {
            let each = context.limits.samples_max.div_ceil(ends.len());
            let step = found.records.len().div_ceil(each.max(1)).max(1);
            samples.extend(found.records.into_iter().step_by(step));
        }
    }
    Ok(samples)
}

/// Compares a part's bytes with the manifest, without decoding them.
async fn unchanged_object(context: &StageContext, part: &Part) -> Result<(), StageError> {
    let found = context.archive.get(&part.key).await.map_err(|error| StageError::port(&format!("read {}", part.key), error))?;
    match found.map(|bytes| canonical::sha256(&bytes)) {
        None => Err(part_missing(part)),
        Some(found) if found != part.sha256 => Err(part_changed(part)),
        Some(_) => Ok(()),
    }
}

fn part_missing(part: &Part) -> StageError {
    StageError::halt("PART_MISSING", format!("read {}: it is gone from the archive", part.key))
}

fn part_changed(part: &Part) -> StageError {
    StageError::halt("PART_CHANGED", format!("compare {} with the manifest: somebody changed it", part.key))
}

/// A part, after comparing its bytes with the manifest.
async fn unchanged_part(context: &StageContext, part: &Part, columns: &[Column]) -> Result<PartContents, StageError> {
    let found = context
        .archive
        .read_part(&part.key, columns)
        .await
        .map_err(|error| StageError::port(&format!("read {}", part.key), error))?;
    match found {
        None => Err(part_missing(part)),
        Some(found) if found.part.sha256 != part.sha256 => Err(part_changed(part)),
        Some(found) => Ok(found),
    }
}

fn store_of(manifest: &Manifest, binding: usize) -> Result<&StoreManifest, StageError> {
    manifest.stores.get(binding).ok_or_else(|| {
        StageError::halt(
            "MANIFEST_INCOMPLETE",
            format!("find binding {binding} in the manifest: it lists {}", manifest.stores.len()),
        )
    })
}

async fn count(bound: &BoundStore) -> Result<u64, StageError> {
    bound
        .store
        .count()
        .await
        .map_err(|error| StageError::port(&format!("count {} in store {}", bound.resource, bound.name), error))
}
