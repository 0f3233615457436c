//! Erasing a plane's records from a collection.
//!
//! The rule: a record goes only as it was exported, and only where the plane's fence was found: without it nobody knows whose records
//! these are, and whether a newer claim has been here.
//! If we die in it, the next call goes on.

use std::collections::HashSet;

use lethe_stages::{
    Permit,
    ports::{Erased, PortError},
    record::{Key, RecordDigest, Salt},
};
use serde_json::{Value as Json, json};

use super::{
    api::{Api, Collection},
    blank::Blanks,
    collection::Scope,
    fence,
    read::{RECORDS, ids_of},
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
    let blanks = Blanks { api, scope, collection, doing: &doing };
    let finished = blanks.finish().await?;
    let mut rest = rows;
    while !rest.is_empty() {
        let ids = ids_of(rest.iter().take(RECORDS).map(|(key, _)| key), &doing)?;
        let (taken, mut records) = scope.records(api, &ids).await?;
        let (batch, later) = rest.split_at(taken);
        let found = records.iter().map(|record| (record.key.clone(), record.digest(salt))).collect();
        let unchanged: HashSet<&Key> = verdict::unchanged(batch, found, &mut sum).into_iter().collect();
        records.retain(|record| unchanged.contains(&record.key));
        blanks.overwrite_and_delete(&records, &mut sum).await?;
        rest = later;
    }
    // What an erasure before this one had left blank was asked for then, and is absent now.
    let resumed = rows.iter().filter(|(key, _)| finished.contains(key)).count() as u64;
    sum.absent -= resumed.min(sum.absent);
    sum.erased += resumed;
    Ok(sum)
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
        Blanks { api, scope, collection, doing: &doing }.finish().await?;
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
