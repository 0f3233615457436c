//! Erasing a plane's records from a collection, and making what they were unreadable.
//!
//! The rule: a record goes only as it was exported. Its vector is overwritten before it is deleted, because Chroma's index file keeps the
//! vectors of deleted records; no two are overwritten alike, because the index leads the neighbours' searches through what was deleted, and
//! out of many equal points no link leads on. While a record is blank it carries the plane's id, so that whoever goes on after us knows it
//! and deletes it.
//! If we die between the two, the next call to erase or scrub deletes what was left blank.

use std::collections::HashMap;

use lethe_stages::{
    Permit,
    ports::{Erased, PortError},
    record::{Key, Record, RecordDigest, Salt, Value},
};
use serde_json::{Value as Json, json};
use sha2::{Digest as _, Sha256};

use super::{
    EMBEDDING,
    api::{Api, Collection},
    collection::{BLANK, RECORDS, Scope, ids_of},
    fence,
};
use crate::verdict;

/// Entries of the server's log after which it writes its index anew, where the collection does not say.
const SYNC_THRESHOLD: u64 = 1_000;
/// Most ids of one write that the server takes.
const WRITE_IDS: usize = 5_000;

pub(super) async fn erase(
    api: &Api,
    scope: &Scope,
    permit: &Permit,
    rows: &[(Key, RecordDigest)],
    salt: Option<&Salt>,
) -> Result<Erased, PortError> {
    let doing = api.doing("erase from", &scope.name);
    fence::held(scope, permit.plane_id(), permit.epoch(), &doing)?;
    let mut sum = Erased::default();
    let Some(collection) = &scope.collection else {
        sum.absent = rows.len() as u64;
        return Ok(sum);
    };
    let left: Vec<_> = finish(api, scope, collection, &doing).await?;
    for batch in rows.chunks(RECORDS) {
        let ids = ids_of(batch.iter().map(|(key, _)| key), &doing)?;
        let records = scope.records(api, &ids).await?;
        let dimensions: HashMap<_, _> = records.iter().map(|record| (record.key.clone(), vector(record).count())).collect();
        let length = mean_length(&records);
        let found = records.iter().map(|record| (record.key.clone(), record.digest(salt))).collect();
        let unchanged = verdict::unchanged(batch, found, &mut sum);
        let blank: Vec<_> = unchanged.iter().map(|key| (key.to_owned().clone(), dimensions[*key])).collect();
        sum.erased += overwrite_and_delete(api, scope, collection, permit, &blank, length, &doing).await?;
    }
    // What an erasure before this one had left blank was asked for then, and is absent now.
    let resumed = rows.iter().filter(|(key, _)| matches!(key, Key::Text(id) if left.contains(id))).count() as u64;
    sum.absent -= resumed.min(sum.absent);
    sum.erased += resumed;
    Ok(sum)
}

/// The axes of a record's vector.
fn vector(record: &Record) -> impl Iterator<Item = f32> {
    let bytes: &[u8] = if let Value::Blob(bytes) = &record.values[EMBEDDING] { bytes } else { &[] };
    bytes.chunks_exact(4).map(|axis| f32::from_le_bytes(axis.try_into().expect("four bytes")))
}

/// The mean length of the records' vectors, so that what takes their place lies where the collection's vectors lie.
fn mean_length(records: &[Record]) -> f32 {
    let sum: f32 = records.iter().map(|record| vector(record).map(|axis| axis * axis).sum::<f32>().sqrt()).sum();
    let mean = sum / records.len().max(1) as f32;
    if mean.is_normal() { mean } else { 1.0 }
}

/// A vector of about the given length, whose direction tells nothing but the record's id.
fn noise(id: &str, dimension: usize, length: f32) -> Vec<f32> {
    let bytes: Vec<u8> = (0..dimension.div_ceil(8)).flat_map(|block| Sha256::digest(format!("{block}\0{id}"))).collect();
    // Uniform in [-1, 1], whose mean square is 1/3.
    let scale = length / (dimension as f32 / 3.0).sqrt();
    let axis = |word: &[u8]| u32::from_le_bytes(word.try_into().expect("four bytes")) as f32 / u32::MAX as f32 * 2.0 - 1.0;
    bytes.chunks_exact(4).take(dimension).map(|word| axis(word) * scale).collect()
}

async fn overwrite_and_delete(
    api: &Api,
    scope: &Scope,
    collection: &Collection,
    permit: &Permit,
    blank: &[(Key, usize)],
    length: f32,
    doing: &str,
) -> Result<u64, PortError> {
    if blank.is_empty() {
        return Ok(0);
    }
    let ids = ids_of(blank.iter().map(|(key, _)| key), doing)?;
    let vectors: Vec<_> = ids.iter().zip(blank).map(|(id, (_, dimension))| noise(id, *dimension, length)).collect();
    let plane = permit.plane_id().to_string();
    let metadatas: Vec<_> = ids.iter().map(|_| json!({BLANK: plane})).collect();
    api.on(collection, "update", &json!({"ids": ids, "embeddings": vectors, "metadatas": metadatas}), doing).await?;
    delete(api, scope, collection, &ids, doing).await?;
    Ok(ids.len() as u64)
}

/// Deletes, and looks: the server says `deleted` of whatever was named.
async fn delete(api: &Api, scope: &Scope, collection: &Collection, ids: &[String], doing: &str) -> Result<(), PortError> {
    api.on(collection, "delete", &json!({"ids": ids}), doing).await?;
    match scope.anywhere(api, ids).await?.len() {
        0 => Ok(()),
        left => Err(PortError::Transient(format!("{doing}: {left} record(s) are still there after they were deleted"))),
    }
}

/// Deletes what an erasure before this one had overwritten and not yet deleted. Answers which.
async fn finish(api: &Api, scope: &Scope, collection: &Collection, doing: &str) -> Result<Vec<String>, PortError> {
    let ids = scope.blank_ids(api).await?;
    for some in ids.chunks(RECORDS) {
        delete(api, scope, collection, some, doing).await?;
    }
    Ok(ids)
}

/// Has the server write its index anew and forget its log, and drops a collection that the plane owns and that is empty.
pub(super) async fn scrub(api: &Api, scope: &Scope, permit: &Permit) -> Result<Json, PortError> {
    let doing = api.doing("scrub", &scope.name);
    fence::held(scope, permit.plane_id(), permit.epoch(), &doing)?;
    let remains = "what was deleted stays in free pages of the server's chroma.sqlite3 until `chroma vacuum` is run there or the pages are \
                   used again; trigrams of deleted texts stay in its text index until that is optimised; vectors that users themselves \
                   deleted before stay in the index files of the collection; data_level0.bin and length.bin among them also hold \
                   whatever was in the server's memory when they grew, which may be parts of any record; a server later than the \
                   1.5.9 that was looked at may keep overwritten vectors";
    let mut said = json!({"vectors": "overwritten before they were deleted", "log": "purged", "remains": remains});
    let mut is_gone = scope.collection.is_none();
    if let Some(collection) = &scope.collection {
        finish(api, scope, collection, &doing).await?;
        flush(api, collection, &doing).await?;
        let empty = scope.plane.is_none() && api.count(collection, &doing).await? == 0;
        if let Some(fence) = scope.fence.as_ref().filter(|_| empty) {
            fence::dropping(api, scope, fence, &doing).await?;
            api.drop_collection(&scope.name, &doing).await?;
            is_gone = true;
        }
    }
    let (what, became) = if is_gone { ("collection", "dropped") } else { ("index", "written anew") };
    said[what] = json!(became);
    Ok(said)
}

/// Deletes ids that nobody has, as many as it takes for the server to write its index to disk and to cut its log.
async fn flush(api: &Api, collection: &Collection, doing: &str) -> Result<(), PortError> {
    if collection.dimension.is_none() {
        return Ok(());
    }
    let threshold = collection.configuration["hnsw"]["sync_threshold"].as_u64().unwrap_or(SYNC_THRESHOLD);
    let ids: Vec<_> = (0..=threshold).map(|number| format!("lethe-scrub-{number}")).collect();
    for some in ids.chunks(WRITE_IDS) {
        api.on(collection, "delete", &json!({"ids": some}), doing).await?;
    }
    // The log is cut when the next entry comes.
    api.on(collection, "delete", &json!({"ids": ["lethe-scrub"]}), doing).await?;
    // It is a read that makes the server apply its log to the index.
    api.count(collection, doing).await.map(drop)
}
