//! Restoring an archive: into a new plane over a store of its own, or into a scratch file to see that it can be done.
//!
//! The rule: nothing is ever written into the old scope, nor into a file that is there. No transaction is open while records are copied;
//! the one that registers the new plane looks again at everything that may have changed meanwhile.
//!
//! If we die while copying, a temporary file is left, which the next restore removes. If we die between the file's name and the commit,
//! the next restore of the same archive to the same place builds it again, finds it equal and takes it over.

use lethe_ledger::{Binding, Chain, Entry, EventType, Lineage, NewPlane, Tx};
use lethe_stages::{
    Code, Refusal, Step,
    crash::{CrashPoint, reached},
    manifest::Contents,
    ports::PortError,
};
use lethe_stores::{Mapping, StoreDraft};
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};
use uuid::Uuid;

use super::{
    App, Call, Outcome, Stop,
    archives::{self, Opened},
    arguments,
    lookup::{self, Found},
    parties::{self, is_name, read_prepared},
    planes::{self, Resolved},
    rebuild::{Table, Unrestored, fill, mappings},
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Restore {
    plane: String,
    into: String,
    #[serde(default)]
    store: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct Prepared {
    source: Uuid,
    offboarding_id: Uuid,
    manifest_sha256: String,
    url: String,
    identity: String,
    bindings: Vec<Resolved>,
    tables: Vec<Table>,
}

/// Builds the store, compares it with the archive and gives it its name.
pub(super) async fn rebuild(app: &App, call: &Call) -> Outcome {
    let args: Restore = arguments(call)?;
    is_name("plane", &args.into)?;
    if answered_before(app, call).await? {
        return Ok(Json::Null);
    }
    let opened = archives::open(app, call, &args.plane, true).await?;
    has_content(&opened)?;
    let mappings = bound_as(app, &opened, Some(&args.into)).await?;

    let url = args.store.unwrap_or_else(|| in_the_restore_folder(app, &args.into));
    let begun = StoreDraft::begin(&url).await;
    let mut draft = begun.map_err(|error| refused(&opened.found, Code::InvalidArgument, "--store", error))?;
    let url = draft.url();
    is_free(app, &opened.found, &draft, &mappings).await?;
    let tables = fill(&mut draft, &opened, mappings).await.map_err(|why| unrestored(&opened.found, why))?;
    draft.place().await.map_err(|error| refused(&opened.found, Code::NameTaken, "--store", error))?;
    reached(CrashPoint::ArchiveRestoreNamed);

    let store = parties::checked(app, &url).await?;
    let mut bindings = Vec::new();
    for mapping in tables.iter().filter_map(|table| table.mapping.clone()) {
        let resolved = Resolved::unnamed(app, &store, mapping).await;
        bindings
            .push(resolved.map_err(|error| refused(&opened.found, Code::StoreUnusable, "look at the restored store", error))?);
    }
    let prepared = Prepared {
        source: opened.found.plane.id,
        offboarding_id: opened.manifest.offboarding_id,
        manifest_sha256: opened.manifest_sha256()?,
        url: url.clone(),
        identity: store.identity,
        bindings,
        tables,
    };
    app.drafts.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).insert(url, draft);
    Ok(json!(prepared))
}

/// Registers the new plane over the store that was built. Refused, the store goes with its draft.
pub(super) async fn register(app: &App, tx: &mut Tx, call: &Call, prepared: Json) -> Outcome {
    let args: Restore = arguments(call)?;
    let prepared: Prepared = read_prepared(prepared)?;
    let draft = app.drafts.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).remove(&prepared.url);
    let draft = draft.ok_or_else(|| Refusal::new(Code::StoreUnusable, "find the restored store: another call has taken it"))?;
    let url = prepared.url.clone();
    match put_on_record(tx, call, &args.into, prepared).await {
        Ok(answer) => {
            draft.keep();
            Ok(answer)
        }
        Err(Stop::Fault(fault)) if fault.is_conflict() => {
            // The same work is done again at once, over the same draft.
            app.drafts.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).insert(url, draft);
            Err(Stop::Fault(fault))
        }
        Err(stop) => Err(stop),
    }
}

async fn put_on_record(tx: &mut Tx, call: &Call, name: &str, prepared: Prepared) -> Outcome {
    let Prepared { source, offboarding_id, manifest_sha256, url, identity, bindings, tables } = prepared;
    tx.lock_registry().await?;
    let found = lookup::plane(tx, call, &source.to_string()).await?;
    not_being_purged(tx, &found).await?;
    let still = tx.archive(offboarding_id).await?.filter(|row| row.manifest.is_some() && row.manifest_sha256 == manifest_sha256);
    let (Some(_), Some(archive_url), Some(archive_id)) = (still, found.plane.archive_url.clone(), found.plane.archive_id) else {
        let message = "the archive was purged or replaced while it was being restored";
        return Err(found.refuse(Refusal::new(Code::ArchiveMissing, message)));
    };
    planes::may_be_named(tx, &found.tenant, name).await?;
    unregistered(tx, &found, &[url.clone(), identity]).await?;
    let bindings = planes::bind_all(tx, call, &found.tenant, bindings).await?;

    let lineage = Some(Lineage { restored_from: source, restored_manifest_sha256: manifest_sha256.clone() });
    let new = NewPlane { tenant_id: found.tenant.id, name: name.to_owned(), archive_url, archive_id, lineage };
    let plane = tx.insert_plane(&new, &bindings).await?;
    let rows: u64 = tables.iter().map(|table| table.rows).sum();
    let mut entry = planes::registered(call, &plane, &bindings);
    entry.evidence["restored_from"] = json!(source);
    entry.evidence["manifest_sha256"] = json!(manifest_sha256);
    entry.evidence["rows"] = json!(rows);
    tx.append(entry).await?;
    let (chain, tenant) = (Chain::Plane(source), Some(found.tenant.id));
    let mut entry = Entry::new(chain, tenant, EventType::ArchiveRestored, &call.actor, &call.operation);
    entry.offboarding_id = Some(offboarding_id);
    entry.evidence = json!({"into": plane.id, "manifest_sha256": manifest_sha256, "rows": rows, "compared": "equal"});
    tx.append(entry).await?;

    let mut shown = planes::shown(tx, &found.tenant.name, &plane).await?;
    shown["store_url"] = json!(url);
    shown["rows"] = json!(rows);
    shown["restored"] = json!(tables);
    Ok(shown)
}

/// Restores the archive into a file that is removed again. Answers its tables; what is wrong with it goes to `faults`.
pub(super) async fn into_scratch(app: &App, opened: &Opened, faults: &mut Vec<String>) -> Outcome {
    let mappings = bound_as(app, opened, None).await?;
    let url = in_the_restore_folder(app, &format!("verify-{}", opened.found.plane.id));
    let begun = StoreDraft::begin(&url).await;
    let mut draft = begun.map_err(|error| refused(&opened.found, Code::StoreUnusable, "restore into a scratch file", error))?;
    match fill(&mut draft, opened, mappings).await {
        Ok(tables) => Ok(json!(tables)),
        Err(Unrestored::Store(error @ PortError::Transient(_))) => Err(unrestored(&opened.found, Unrestored::Store(error))),
        Err(Unrestored::Archive(error) | Unrestored::Store(error)) => {
            faults.push(error.to_string());
            Ok(Json::Null)
        }
    }
}

/// Refuses an inventory.
pub(super) fn has_content(opened: &Opened) -> Result<(), Stop> {
    if opened.manifest.contents == Contents::Records {
        return Ok(());
    }
    let message = "the archive is an inventory of keyed digests, as an erasure request makes it; no content was kept to restore";
    Err(opened.found.refuse(Refusal::new(Code::ArchiveWithoutContent, message)))
}

/// Whether the call was made before under its key: then there is nothing to build, dispatch answers.
async fn answered_before(app: &App, call: &Call) -> Result<bool, Stop> {
    let Some(key) = &call.idempotency_key else { return Ok(false) };
    Ok(app.ledger.read(async |tx: &mut Tx| tx.remembered(key, &call.actor.to_string()).await).await?.is_some())
}

/// Where the plane's records go; refused where the new plane's name, if there is to be one, cannot be had, or a purge has begun.
async fn bound_as(app: &App, opened: &Opened, name: Option<&str>) -> Result<Vec<Mapping>, Stop> {
    let found = &opened.found;
    let read = app.ledger.read(async |tx: &mut Tx| {
        not_being_purged(tx, found).await?;
        if let Some(name) = name {
            planes::may_be_named(tx, &found.tenant, name).await?;
        }
        Ok::<_, Stop>(tx.bindings(found.plane.id).await?)
    });
    let bindings: Vec<Binding> = read.await?;
    mappings(&opened.manifest, &bindings).map_err(|error| refused(found, Code::MappingWrong, "restore", error))
}

/// What somebody approved to be erased is not brought back once that has begun.
async fn not_being_purged(tx: &mut Tx, found: &Found) -> Result<(), Stop> {
    match tx.open_run(found.plane.id).await? {
        Some(run) if run.step == Step::Purge && run.started_at.is_some() => {
            let message = "the purge of the plane has begun; what it destroys is not restored";
            Err(found.refuse(Refusal::new(Code::StageInProgress, message)))
        }
        _ => Ok(()),
    }
}

/// Refuses a place that is taken: by a store on record, or by a file that cannot be what a restore of this archive left behind.
async fn is_free(app: &App, found: &Found, draft: &StoreDraft, mappings: &[Mapping]) -> Result<(), Stop> {
    let url = draft.url();
    app.ledger.read(async |tx: &mut Tx| unregistered(tx, found, std::slice::from_ref(&url)).await).await?;
    if !draft.is_there() {
        return Ok(());
    }
    let mut tables: Vec<_> = mappings.iter().map(|mapping| mapping.table.clone()).collect();
    tables.sort();
    match app.world.check_store(&url).await {
        // Perhaps it is. That is decided byte by byte once the store is built.
        Ok(check) if check.tables == tables => Ok(()),
        _ => {
            let message = format!("{url} is there already; a restore makes a file of its own: name another with --store");
            Err(found.refuse(Refusal::new(Code::NameTaken, message)))
        }
    }
}

/// Refuses a store that is on record: its scopes belong to other planes, or did.
async fn unregistered(tx: &mut Tx, found: &Found, keys: &[String]) -> Result<(), Stop> {
    for key in keys {
        if let Some(store) = tx.store(key).await? {
            let message = format!(
                "{key} is registered as store {} ({}); a restore makes a store of its own: name another with --store",
                store.name, store.url
            );
            return Err(found.refuse(Refusal::new(Code::BindingTaken, message)));
        }
    }
    Ok(())
}

/// Where a restored plane's file goes unless the caller names another place.
fn in_the_restore_folder(app: &App, name: &str) -> String {
    format!("sqlite:{}", app.restore_folder.join(format!("{name}.db")).display())
}

/// A port's error as a refusal: what may pass is STORE_UNUSABLE, what will not has its own code.
fn refused(found: &Found, code: Code, what: &str, error: PortError) -> Stop {
    let retryable = matches!(error, PortError::Transient(_));
    let code = if retryable { Code::StoreUnusable } else { code };
    found.refuse(Refusal::new(code, format!("{what}: {error}")).with(json!({"retryable": retryable})))
}

fn unrestored(found: &Found, why: Unrestored) -> Stop {
    match why {
        Unrestored::Archive(error) => refused(found, Code::ArchiveBroken, "read the archive", error),
        Unrestored::Store(error) => refused(found, Code::StoreUnusable, "restore", error),
    }
}
