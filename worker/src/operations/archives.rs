//! Archives, to verify and to take away: everything is read from the archive itself. No transaction is open meanwhile.

use std::path::PathBuf;

use lethe_ledger::Tx;
use lethe_stages::{
    Code, Refusal, canonical,
    manifest::{Contents, Manifest},
    ports::Archive,
};
use serde::Deserialize;
use serde_json::{Value as Json, json};

use super::{App, Call, Outcome, Stop, arguments, lookup, planes::PlaneRef, unusable};

/// A plane's verified archive, opened.
struct Opened {
    archive: std::sync::Arc<dyn Archive>,
    manifest: Manifest,
    plane_id: uuid::Uuid,
}

async fn open(app: &App, call: &Call, plane: &str) -> Result<Opened, Stop> {
    let read = app.ledger.read(async |tx: &mut Tx| {
        let found = lookup::plane(tx, call, plane).await?;
        for offboarding in tx.offboardings_of(found.plane.id).await? {
            if let Some(manifest) = tx.archive(offboarding.id).await?.and_then(|archive| archive.manifest) {
                return Ok((found.plane, manifest));
            }
        }
        let message = format!("the plane is {}: it has no archive, or not any more", found.plane.state);
        Err(found.refuse(Refusal::new(Code::ArchiveMissing, message)))
    });
    let (plane, manifest) = read.await?;
    let archive = app.world.archive(&plane).map_err(|error| unusable("open the archive", error))?;
    archive.probe().await.map_err(|error| unusable("ask the archive", error))?;
    Ok(Opened { archive, manifest, plane_id: plane.id })
}

/// Reads every object back and compares it with the ledger's copy of the manifest.
pub(super) async fn verify(app: &App, call: &Call) -> Outcome {
    let PlaneRef { plane } = arguments(call)?;
    let Opened { archive, manifest, plane_id } = open(app, call, &plane).await?;
    let mut faults: Vec<String> = Vec::new();
    let text = canonical::to_string(&manifest).map_err(lethe_ledger::Fault::from)?;
    let key = Manifest::object_key(manifest.offboarding_id);
    match archive.get(&key).await.map_err(|error| unusable(&format!("read {key}"), error))? {
        Some(bytes) if bytes == text.as_bytes() => {}
        Some(_) => faults.push(format!("{key}: it is not the manifest that was verified")),
        None => faults.push(format!("{key}: it is gone")),
    }
    for store in &manifest.stores {
        let columns: &[_] = if manifest.contents == Contents::Records { &store.columns } else { &[] };
        for part in &store.parts {
            match archive.read_part(&part.key, columns).await {
                Ok(Some(found)) if found.part == *part => {
                    let same =
                        found.records.is_empty() || found.records.iter().map(|record| record.digest(None)).eq(found.digests);
                    if !same {
                        faults.push(format!("{}: a record does not match its digest", part.key));
                    }
                }
                Ok(Some(_)) => faults.push(format!("{}: it is not what the manifest lists", part.key)),
                Ok(None) => faults.push(format!("{}: it is gone", part.key)),
                Err(error) => faults.push(format!("{}: {error}", part.key)),
            }
        }
    }
    Ok(json!({
        "plane_id": plane_id, "archive": if faults.is_empty() { "verified" } else { "broken" }, "faults": faults,
        "contents": manifest.contents, "parts": manifest.parts(), "rows": manifest.rows(), "bytes": manifest.bytes(),
        "manifest_sha256": canonical::sha256(text.as_bytes()),
    }))
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
    let Opened { archive, manifest, plane_id } = open(app, call, &args.plane).await?;
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
    Ok(json!({"plane_id": plane_id, "to": args.to, "objects": objects.len(), "bytes": bytes}))
}

/// What the preparation found is the answer.
pub(super) async fn answer(_app: &App, _tx: &mut Tx, _call: &Call, prepared: Json) -> Outcome {
    Ok(prepared)
}
