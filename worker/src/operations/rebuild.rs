//! An archive's records, part by part, into a store in the making.
//!
//! The rule: nothing is written that was not first compared with the verified manifest, and nothing is called restored that was not read
//! again and compared with the archive. One part is in memory at a time. If we die in it, the draft's file is thrown away.

use lethe_ledger::Binding;
use lethe_stages::{
    crash::{CrashPoint, reached},
    manifest::{Manifest, StoreManifest},
    ports::PortError,
};
use lethe_stores::{Mapping, StoreDraft};
use serde::{Deserialize, Serialize};

use super::archives::Opened;

/// A binding of the archived plane, and the table that holds its records now.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Table {
    /// The store it was exported from.
    pub(super) store: String,
    /// The table it was exported from.
    pub(super) resource: String,
    /// The table in the new store.
    pub(super) table: String,
    /// Its records, all compared.
    pub(super) rows: u64,
    /// Where the records are in the new store.
    #[serde(skip)]
    pub(super) mapping: Option<Mapping>,
}

/// Why an archive was not restored.
#[derive(Debug)]
pub(super) enum Unrestored {
    /// The archive is not what was verified.
    Archive(PortError),
    /// The new store does not take the records, or does not hold what it took.
    Store(PortError),
}

/// Where each binding's records go: a table each in one file, named as it was, or with a number where that name is taken.
pub(super) fn mappings(manifest: &Manifest, bindings: &[Binding]) -> Result<Vec<Mapping>, PortError> {
    let mut mappings: Vec<Mapping> = Vec::new();
    for store in &manifest.stores {
        let mapping = bindings.get(store.binding).and_then(|binding| binding.mapping.clone()).ok_or_else(|| {
            PortError::Permanent(format!(
                "find the mapping of {}: the ledger has none for binding {}",
                store.resource, store.binding
            ))
        })?;
        let mut mapping: Mapping =
            serde_json::from_value(mapping).map_err(|error| PortError::Permanent(format!("read the mapping: {error}")))?;
        // Where the store told planes apart by what is no column of a record, what is restored is the plane's alone.
        if mapping.plane_column.as_ref().is_some_and(|plane| !store.columns.iter().any(|column| column.name == *plane)) {
            (mapping.plane_column, mapping.plane) = (None, None);
        }
        let names = std::iter::once(store.resource.clone()).chain((2..).map(|number| format!("{}_{number}", store.resource)));
        let free = |name: &String| {
            let others = manifest.stores.iter().filter(|other| other.binding != store.binding).map(|other| &other.resource);
            let unlike = |taken: &String| !taken.eq_ignore_ascii_case(name);
            mappings.iter().map(|mapping| &mapping.table).all(unlike)
                // A made-up name leaves alone what another binding is called.
                && (*name == store.resource || others.into_iter().all(unlike))
        };
        mapping.table = names.into_iter().find(free).expect("the names do not end");
        mappings.push(mapping);
    }
    Ok(mappings)
}

/// Copies every part and compares the whole. Answers the tables, in the order of the bindings.
pub(super) async fn fill(draft: &mut StoreDraft, opened: &Opened, mappings: Vec<Mapping>) -> Result<Vec<Table>, Unrestored> {
    let named = |key: &str, error: PortError| Unrestored::Archive(doing(key, error));
    opened.check_manifest().await.map_err(|error| named(&Manifest::object_key(opened.manifest.offboarding_id), error))?;
    for (store, mapping) in opened.manifest.stores.iter().zip(&mappings) {
        let table = draft.create(mapping.clone(), &store.columns).await.map_err(Unrestored::Store)?;
        // In the manifest's order: a later round's record takes the place of an earlier one's.
        for part in &store.parts {
            let contents = opened.part(store, part).await.map_err(|error| named(&part.key, error))?;
            draft.put(table, &contents.records, &contents.digests).await.map_err(Unrestored::Store)?;
            reached(CrashPoint::ArchivePartRestored);
        }
    }
    let rows = draft.seal().await.map_err(Unrestored::Store)?;
    let table = |(store, (mapping, rows)): (&StoreManifest, (Mapping, u64))| Table {
        store: store.store.clone(),
        resource: store.resource.clone(),
        table: mapping.table.clone(),
        rows,
        mapping: Some(mapping),
    };
    Ok(opened.manifest.stores.iter().zip(mappings.into_iter().zip(rows)).map(table).collect())
}

/// The same error, with what it concerns.
fn doing(what: &str, error: PortError) -> PortError {
    match error {
        PortError::Transient(said) => PortError::Transient(format!("{what}: {said}")),
        other => PortError::Permanent(format!("{what}: {other}")),
    }
}
