//! Archives, to verify and to take away: everything is read from the archive itself. No transaction is open meanwhile.

use std::{path::PathBuf, sync::Arc};

use lethe_ledger::Tx;
use lethe_stages::{
    Code, Refusal, canonical,
    manifest::{Contents, Manifest, Part, StoreManifest},
    ports::{Archive, PartContents, PortError},
};
use serde::Deserialize;
use serde_json::{Value as Json, json};

use super::{App, Call, Outcome, Stop, arguments, lookup, operator, restore, unusable};
use crate::manager::unusable_key;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Check {
    url: String,
}

/// Says what is known of an archive by its URL, without changing anything.
pub(super) async fn check(app: &App, call: &Call) -> Outcome {
    operator(call)?;
    let Check { url } = arguments(call)?;
    let found = app.world.check_archive(&url).await.map_err(|error| unusable(&format!("check the archive {url}"), error))?;
    Ok(json!(found))
}

/// A plane's verified archive, opened.
pub(super) struct Opened {
    pub(super) archive: Arc<dyn Archive>,
    pub(super) manifest: Manifest,
    pub(super) found: lookup::Found,
}

/// Opens the archive of a plane's newest export; `to_read` its parts, or only to copy them as they are.
pub(super) async fn open(app: &App, call: &Call, plane: &str, to_read: bool) -> Result<Opened, Stop> {
    let read = app.ledger.read(async |tx: &mut Tx| {
        let found = lookup::plane(tx, call, plane).await?;
        for offboarding in tx.offboardings_of(found.plane.id).await? {
            if let Some(manifest) = tx.archive(offboarding.id).await?.and_then(|archive| archive.manifest) {
                return Ok((found, manifest, tx.archive_key(offboarding.id).await?));
            }
        }
        let message = format!("the plane is {}: it has no archive, or not any more", found.plane.state);
        Err(found.refuse(Refusal::new(Code::ArchiveMissing, message)))
    });
    let (found, manifest, wrapped) = read.await?;
    let key = match wrapped.filter(|_| to_read) {
        Some(wrapped) => Some(app.manager.unwrap_key(wrapped).await.map_err(|error| found.refuse(unusable_key(error)))?),
        None => None,
    };
    let archive = app.world.archive(&found.plane, key, app.ledger.now()).map_err(|error| unusable("open the archive", error))?;
    archive.probe().await.map_err(|error| unusable("ask the archive", error))?;
    Ok(Opened { archive, manifest, found })
}

impl Opened {
    /// The digest of the verified manifest.
    pub(super) fn manifest_sha256(&self) -> Result<String, Stop> {
        Ok(canonical::digest(&self.manifest).map_err(lethe_ledger::Fault::from)?)
    }

    /// Compares the archive's manifest with the one that was verified.
    pub(super) async fn check_manifest(&self) -> Result<(), PortError> {
        let text = canonical::to_string(&self.manifest).map_err(|error| PortError::Permanent(error.to_string()))?;
        match self.archive.get(&Manifest::object_key(self.manifest.offboarding_id)).await? {
            Some(bytes) if bytes == text.as_bytes() => Ok(()),
            Some(_) => Err(PortError::Permanent("it is not the manifest that was verified".into())),
            None => Err(PortError::Permanent("it is gone".into())),
        }
    }

    /// Reads a part back and compares it with the manifest, and each of its records with its digest.
    pub(super) async fn part(&self, store: &StoreManifest, part: &Part) -> Result<PartContents, PortError> {
        let columns: &[_] = if self.manifest.contents == Contents::Records { &store.columns } else { &[] };
        match self.archive.read_part(&part.key, columns).await? {
            None => Err(PortError::Permanent("it is gone".into())),
            Some(found) if found.part != *part => Err(PortError::Permanent("it is not what the manifest lists".into())),
            Some(found)
                if !columns.is_empty()
                    && !found.records.iter().map(|record| record.digest(None)).eq(found.digests.iter().copied()) =>
            {
                Err(PortError::Permanent("a record does not match its digest".into()))
            }
            Some(found) => Ok(found),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Verify {
    plane: String,
    #[serde(default)]
    restore: bool,
}

/// Reads every object back and compares it with the ledger's copy of the manifest; restores it into a scratch file too, if asked.
pub(super) async fn verify(app: &App, call: &Call) -> Outcome {
    let args: Verify = arguments(call)?;
    let opened = open(app, call, &args.plane, true).await?;
    if args.restore {
        restore::has_content(&opened)?;
    }
    let manifest = &opened.manifest;
    let mut faults: Vec<String> = Vec::new();
    if let Err(error) = opened.check_manifest().await {
        faults.push(format!("{}: {error}", Manifest::object_key(manifest.offboarding_id)));
    }
    for store in &manifest.stores {
        for part in &store.parts {
            if let Err(error) = opened.part(store, part).await {
                faults.push(format!("{}: {error}", part.key));
            }
        }
    }
    let mut answer = json!({
        "plane_id": opened.found.plane.id, "contents": manifest.contents, "parts": manifest.parts(), "rows": manifest.rows(),
        "bytes": manifest.bytes(), "encryption": manifest.encryption, "manifest_sha256": opened.manifest_sha256()?,
    });
    if args.restore {
        // What is broken already need not be restored to be known as broken.
        let tables = if faults.is_empty() { restore::into_scratch(app, &opened, &mut faults).await? } else { Json::Null };
        answer["restored"] = tables;
    }
    answer["archive"] = json!(if faults.is_empty() { "verified" } else { "broken" });
    answer["faults"] = json!(faults);
    Ok(answer)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Export {
    plane: String,
    to: PathBuf,
}

/// Copies every object, digests compared, into a new folder.
pub(super) async fn export(app: &App, call: &Call) -> Outcome {
    let args: Export = arguments(call)?;
    let Opened { archive, manifest, found } = open(app, call, &args.plane, false).await?;
    let wrong =
        |message: String| Stop::from(Refusal::new(Code::InvalidArgument, format!("--to {}: {message}", args.to.display())));
    if args.to.exists() && args.to.read_dir().map_err(|error| wrong(error.to_string()))?.next().is_some() {
        return Err(wrong("the folder is not empty; name a new one".into()));
    }
    let mut objects: Vec<(String, Option<String>)> = vec![(Manifest::object_key(manifest.offboarding_id), None)];
    objects
        .extend(manifest.stores.iter().flat_map(|store| &store.parts).map(|part| (part.key.clone(), Some(part.sha256.clone()))));
    let mut bytes = 0;
    for (key, sha256) in &objects {
        let content = archive.get(key).await.map_err(|error| unusable(&format!("read {key}"), error))?;
        let content = content.ok_or_else(|| Refusal::new(Code::ArchiveMissing, format!("{key} is gone from the archive")))?;
        if sha256.as_ref().is_some_and(|expected| *expected != canonical::sha256(&content)) {
            return Err(Refusal::new(
                Code::StoreUnusable,
                format!("{key} is not what the manifest lists: `lethe archive verify` says more"),
            )
            .into());
        }
        let path = args.to.join(key);
        let written = async {
            tokio::fs::create_dir_all(path.parent().unwrap_or(&args.to)).await?;
            tokio::fs::write(&path, &content).await
        };
        written.await.map_err(|error| wrong(error.to_string()))?;
        bytes += content.len();
    }
    Ok(json!({"plane_id": found.plane.id, "to": args.to, "objects": objects.len(), "bytes": bytes}))
}

/// What the preparation found is the answer.
pub(super) async fn answer(_app: &App, _tx: &mut Tx, _call: &Call, prepared: Json) -> Outcome {
    Ok(prepared)
}
