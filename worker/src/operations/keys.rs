//! Keys: which master keys there are and what they wrap, wrapping anew under the current one, and handing out the key of one archive.
//!
//! The rule: master keys are read and keys are unwrapped before the transaction; what is written is wrapped. A key that is handed out is on
//! record, and in no answer that is remembered. If we die in wrapping anew, the keys that are not yet wrapped anew are so by the next call.

use lethe_ledger::{Chain, Entry, EventType, Tx, WrappedKey};
use lethe_stages::{Code, Refusal};
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};
use uuid::Uuid;

use super::{App, Call, Outcome, Stop, arguments, lookup, operator, parties::read_prepared, said};
use crate::manager::unusable_key;

/// Keys that one call wraps anew.
const REWRAP_MAX: i64 = 5_000;

/// Reads every configured master key: its id, or why it cannot be read.
pub(super) async fn read_master_keys(app: &App, call: &Call) -> Outcome {
    operator(call)?;
    let mut found = Vec::new();
    for (place, reference) in app.manager.keyring().references().enumerate() {
        let wraps = place == 0 && !app.config.archive.encryption.master_key.is_empty();
        let role = if wraps { "wraps" } else { "unwraps" };
        found.push(match reference.read() {
            Ok(master) => json!({"reference": reference.to_string(), "master_key_id": master.id(), "use": role}),
            Err(error) => json!({"reference": reference.to_string(), "error": error.to_string()}),
        });
    }
    Ok(json!(found))
}

/// Shows the master keys, how many keys each of them wraps, and those keys that none of them does.
pub(super) async fn show(app: &App, tx: &mut Tx, _call: &Call, prepared: Json) -> Outcome {
    let (mut wrapped, destroyed) = tx.archive_keys_by_master_key().await?;
    let masters: Vec<Json> = read_prepared(prepared)?;
    let has = |id: &str| masters.iter().any(|master| master["master_key_id"] == id);
    let lost: Vec<_> = wrapped.extract_if(.., |one| !has(&one.master_key_id)).collect();
    let shown: Vec<Json> = masters
        .iter()
        .map(|master| {
            let keys = wrapped.iter().find(|one| master["master_key_id"] == one.master_key_id).map_or(0, |one| one.keys);
            let mut master = master.clone();
            master["keys"] = json!(keys);
            master
        })
        .collect();
    let mode = app.config.archive.encryption.mode;
    Ok(json!({"encryption": mode, "master_keys": shown, "without_master_key": lost, "destroyed": destroyed}))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Reasoned {
    reason: String,
}

/// Wraps keys that earlier master keys wrap under the current one. Nothing is written yet.
pub(super) async fn wrap_anew(app: &App, call: &Call) -> Outcome {
    operator(call)?;
    let args: Reasoned = arguments(call)?;
    said("--reason", &args.reason)?;
    let manager = &app.manager;
    let master = manager.keyring().current().map_err(unusable_key)?;
    let read = app.ledger.read(async |tx: &mut Tx| tx.archive_keys_under_others(master.id(), REWRAP_MAX).await);
    let (mut pairs, mut failed) = (Vec::new(), Vec::new());
    for was in read.await? {
        match manager.keyring().unwrap(&was) {
            Ok(key) => pairs.push((master.wrap(&key, was.plane_id, app.ledger.entropy().as_ref()), was)),
            Err(error) => failed.push(error.to_string()),
        }
    }
    if let (true, Some(error)) = (pairs.is_empty(), failed.first()) {
        return Err(unusable_key(error).into());
    }
    Ok(json!(Rewrapping { master_key_id: master.id().to_owned(), pairs, failed: failed.len() }))
}

#[derive(Serialize, Deserialize)]
struct Rewrapping {
    master_key_id: String,
    /// The key as it is to be wrapped, and as it was.
    pairs: Vec<(WrappedKey, WrappedKey)>,
    failed: usize,
}

pub(super) async fn rewrap(_app: &App, tx: &mut Tx, call: &Call, prepared: Json) -> Outcome {
    let args: Reasoned = arguments(call)?;
    let Rewrapping { master_key_id, pairs, failed } = read_prepared(prepared)?;
    let mut rewrapped = 0;
    for (now, was) in &pairs {
        // One that was destroyed or wrapped anew meanwhile is left as it is.
        rewrapped += i64::from(tx.rewrap_archive_key(was, now).await?);
    }
    let (by_master, _) = tx.archive_keys_by_master_key().await?;
    let left: i64 = by_master.iter().filter(|one| one.master_key_id != master_key_id).map(|one| one.keys).sum();
    let mut entry = Entry::new(Chain::System, None, EventType::KeysRewrapped, &call.actor, &call.operation);
    entry.reason = Some(args.reason);
    entry.evidence = json!({"master_key_id": master_key_id, "rewrapped": rewrapped, "left": left, "not_unwrapped": failed});
    tx.append(entry).await?;
    Ok(json!({"master_key_id": master_key_id, "rewrapped": rewrapped, "left": left, "not_unwrapped": failed}))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Take {
    plane: String,
    reason: String,
}

#[derive(Serialize, Deserialize)]
struct Taken {
    offboarding_id: Uuid,
    key_id: Uuid,
    key: String,
}

/// Unwraps the key of a plane's archive.
pub(super) async fn unwrap(app: &App, call: &Call) -> Outcome {
    let args: Take = arguments(call)?;
    let read = app.ledger.read(async |tx: &mut Tx| {
        let found = lookup::plane(tx, call, &args.plane).await?;
        said("--reason", &args.reason)?;
        let newest = tx.offboardings_of(found.plane.id).await?.into_iter().next();
        let encrypted = newest.filter(|offboarding| offboarding.archive_key_id.is_some());
        let Some(offboarding) = encrypted else {
            let message = "no archive of the plane is encrypted: it needs no key";
            return Err(found.refuse(Refusal::new(Code::ArchiveNotEncrypted, message)));
        };
        match tx.archive_key(offboarding.id).await? {
            Some(wrapped) => Ok((found, offboarding.id, wrapped)),
            None => Err(destroyed(&found)),
        }
    });
    let (found, offboarding_id, wrapped) = read.await?;
    let key = app.manager.unwrap_key(wrapped).await.map_err(|error| found.refuse(unusable_key(error)))?;
    Ok(json!(Taken { offboarding_id, key_id: key.id(), key: hex::encode(key.bytes()) }))
}

fn destroyed(found: &lookup::Found) -> Stop {
    found.refuse(Refusal::new(
        Code::ArchiveMissing,
        format!("the plane is {}: its archive's key was destroyed", found.plane.state),
    ))
}

/// Hands the key out, on record.
pub(super) async fn take(_app: &App, tx: &mut Tx, call: &Call, prepared: Json) -> Outcome {
    let args: Take = arguments(call)?;
    let Taken { offboarding_id, key_id, key } = read_prepared(prepared)?;
    let found = lookup::plane(tx, call, &args.plane).await?;
    // Destroyed meanwhile: what was unwrapped is handed to nobody.
    if tx.archive_key(offboarding_id).await?.is_none() {
        return Err(destroyed(&found));
    }
    let (chain, tenant) = (Chain::Plane(found.plane.id), Some(found.tenant.id));
    let mut entry = Entry::new(chain, tenant, EventType::ArchiveKeyTaken, &call.actor, &call.operation);
    entry.offboarding_id = Some(offboarding_id);
    entry.reason = Some(args.reason);
    entry.evidence = json!({"archive_key_id": key_id});
    tx.append(entry).await?;
    Ok(json!({"plane_id": found.plane.id, "archive_key_id": key_id, "archive_key": key}))
}
