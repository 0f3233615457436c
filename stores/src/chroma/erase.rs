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

use super::{
    api::Api,
    blank::Blanks,
    collection::Scope,
    fence,
    read::{RECORDS, ids_of},
};
use crate::verdict;

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
