//! Making unreadable what erased records were: the index written anew, the log asked to be cut, a collection of the plane's own dropped.
//!
//! The rule: a scrub touches no record. The server writes its index after so many entries of its log, so it is given entries: deletes of
//! ids that nobody has, made of what only this offboarding knows, and looked for first. Chroma drops by name whatever has it then, so a
//! collection is dropped under a name that is its own, after it was counted there.
//! If we die in it, it may be repeated: the fence remembers which collection was to be dropped, and it is found under either name.

use lethe_stages::{Permit, ports::PortError};
use serde_json::{Value as Json, json};
use sha2::{Digest as _, Sha256};

use super::{
    api::{Api, Collection},
    blank::Blanks,
    collection::{Scope, aside},
    fence::{self, Row},
};

/// Entries of the server's log after which it writes its index anew, where the collection does not say.
const SYNC_THRESHOLD: u64 = 1_000;
/// Most entries that the server is given for it: the collection's own users say how many it takes.
const ENTRIES_MAX: u64 = 100_000;
/// Most ids of one write that the server takes.
const WRITE_IDS: u64 = 5_000;

/// What stays readable, for whom.
const REMAINS: &str = "what was deleted stays in free pages of the server's chroma.sqlite3 until `chroma vacuum` is run there or the \
    pages are used again; trigrams of deleted texts stay in its text index until that is optimised; vectors that users themselves deleted \
    before stay in the index files of the collection; data_level0.bin and length.bin among them also hold whatever was in the server's \
    memory when they grew, which may be parts of any record; a server later than the 1.5.9 that was looked at may keep overwritten \
    vectors; and the log keeps texts and vectors as rows where the database was made before Chroma 0.5.6 and `automatically_purge` is \
    still false in its embeddings_queue_config: HTTP does not show it, and `chroma vacuum` only sets it to true";

/// Has the server write its index anew and asks it to cut its log, and drops a collection that the plane owns and that is empty.
pub(super) async fn scrub(api: &Api, scope: &Scope, permit: &Permit) -> Result<Json, PortError> {
    let doing = api.doing("scrub", &scope.name);
    let fence = fence::held(scope, permit.plane_id(), permit.epoch(), &doing)?;
    let mut said = json!({"vectors": "overwritten before they were deleted", "remains": REMAINS});
    let Some(collection) = &scope.collection else {
        said["collection"] = json!("dropped");
        return Ok(said);
    };
    Blanks { api, scope, collection, doing: &doing }.finish().await?;
    let every = collection.configuration["hnsw"]["sync_threshold"].as_u64().unwrap_or(SYNC_THRESHOLD);
    let (index, log) = if every <= ENTRIES_MAX {
        flush(api, collection, every, permit, &doing).await?;
        ("written anew".to_owned(), "asked to be cut")
    } else {
        (format!("not written anew: it is written after every {every} entries of the log"), "not cut")
    };
    said["index"] = json!(index);
    said["log"] = json!(log);
    if drop_own(api, scope, fence, collection, &doing).await? {
        said["collection"] = json!("dropped");
    }
    Ok(said)
}

/// Deletes ids that nobody has, as many as it takes for the server to write its index to disk and to cut its log.
async fn flush(api: &Api, collection: &Collection, every: u64, permit: &Permit, doing: &str) -> Result<(), PortError> {
    if collection.dimension.is_none() {
        return Ok(());
    }
    let made_of = format!("scrub\0{}\0{}", permit.plane_id(), permit.epoch());
    let stem = hex::encode(Sha256::digest(made_of.as_bytes()));
    let some = |from: u64, to: u64| (from..to).map(|number| format!("lethe-scrub-{stem}-{number}")).collect::<Vec<_>>();
    let end = every + 1;
    for from in (0..end).step_by(WRITE_IDS as usize) {
        delete_absent(api, collection, &some(from, end.min(from + WRITE_IDS)), doing).await?;
    }
    // The log is cut when the next entry comes.
    delete_absent(api, collection, &some(end, end + 1), doing).await?;
    // It is a read that makes the server apply its log to the index.
    api.count(collection, doing).await.map(drop)
}

/// Deletes those of the ids that nobody has: an entry of the log for each, and no record less.
async fn delete_absent(api: &Api, collection: &Collection, ids: &[String], doing: &str) -> Result<(), PortError> {
    let there = api.get(collection, &json!({"ids": ids, "include": []}), doing).await?.ids;
    let absent: Vec<_> = ids.iter().filter(|id| !there.contains(id)).collect();
    if absent.is_empty() {
        return Ok(());
    }
    api.on(collection, "delete", &json!({"ids": absent}), doing).await.map(drop)
}

/// Drops the collection that was fenced, where the plane owns it and it is empty. Answers whether it did.
async fn drop_own(api: &Api, scope: &Scope, fence: &Row, collection: &Collection, doing: &str) -> Result<bool, PortError> {
    if scope.plane.is_some() || collection.id != fence.collection_id || api.count(collection, doing).await? > 0 {
        return Ok(false);
    }
    let name = aside(&collection.id);
    fence::to_be_dropped(api, scope, fence, true, doing).await?;
    api.rename(collection, &name, doing).await?;
    let came = api.count(collection, doing).await?;
    if came > 0 {
        // Nobody has exported these. Where its name is taken meanwhile it stays aside, and is found there.
        if api.collection(&scope.name).await?.is_none() {
            api.rename(collection, &scope.name, doing).await?;
            fence::to_be_dropped(api, scope, fence, false, doing).await?;
        }
        return Err(PortError::Transient(format!("{doing}: {came} record(s) came before it was dropped")));
    }
    if api.collection(&name).await?.is_none_or(|found| found.id != collection.id) {
        return Err(PortError::Transient(format!("{doing}: somebody gives it other names while it is dropped")));
    }
    api.drop_collection(&name, doing).await?;
    Ok(true)
}
