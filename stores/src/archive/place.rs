//! Where an archive is: its URL in one form, its directory, and the canary that tells it from every other place.
//!
//! The rule: an archive has an id of its own, written once into its root; a directory that does not show it (a volume that is not
//! mounted, a path that was reused) is not the archive. If we die in preparing one, preparing it again finishes it.

use std::{
    io::ErrorKind,
    path::{Path, PathBuf},
};

use lethe_stages::ports::PortError;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    file::{create_dirs, sync_dir, write_new},
    io_error,
};
use crate::percent;

/// The canary's name in the archive's root.
pub(super) const CANARY: &str = ".lethe-archive.json";
const CANARY_SCHEMA: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Canary {
    schema_version: u32,
    archive_id: Uuid,
}

/// The directory of a `file:` URL, as it is written.
pub(super) fn directory(url: &str) -> Result<PathBuf, PortError> {
    let refused = |why: &str| {
        Err(PortError::Permanent(format!("archive URL `{url}`: {why}; write file:///absolute/directory or s3://BUCKET/PREFIX")))
    };
    let Some((scheme, rest)) = url.split_once(':') else { return refused("it has no scheme") };
    match scheme {
        "file" => {}
        _ => return refused("its scheme is unknown"),
    }
    if rest.contains(['?', '#']) {
        return refused("it takes no parameters");
    }
    let path = match rest.strip_prefix("//") {
        Some(authority) => authority.strip_prefix("localhost").filter(|path| path.starts_with('/')).unwrap_or(authority),
        None => rest,
    };
    if !path.starts_with('/') {
        return refused("its path is relative, or names a host");
    }
    let path = percent::decode(path).map_err(PortError::Permanent)?;
    if path.contains('\0') || Path::new(&path).components().any(|component| component == std::path::Component::ParentDir) {
        return refused("its path holds `..` or a NUL character");
    }
    Ok(PathBuf::from(path))
}

/// The URL of a directory, without a slash at its end.
pub(super) fn url_of(directory: &Path) -> Result<String, PortError> {
    let path = directory
        .to_str()
        .ok_or_else(|| PortError::Permanent(format!("archive directory {}: its path is not UTF-8", directory.display())))?;
    Ok(format!("file://{}", percent::encode_path(path.trim_end_matches('/'))))
}

/// The one form of a `file:` URL: absolute, with every symbolic link followed as far as the directory exists.
pub(super) fn canonical_file_url(url: &str) -> Result<String, PortError> {
    let wanted = directory(url)?;
    // Rebuilt from its components, so that doubled slashes and `.` do not make a second form.
    let mut existing: PathBuf = wanted.components().collect();
    let mut missing = Vec::new();
    let mut real = loop {
        match existing.canonicalize() {
            Ok(real) => break real,
            Err(error) if error.kind() == ErrorKind::NotFound && !existing.is_symlink() => {
                let Some(name) = existing.file_name().map(ToOwned::to_owned) else {
                    return Err(io_error(&format!("find archive directory {}", wanted.display()), &error));
                };
                missing.push(name);
                existing.pop();
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Err(PortError::Permanent(format!("archive directory {}: it is a link to nothing", existing.display())));
            }
            Err(error) => return Err(io_error(&format!("find archive directory {}", existing.display()), &error)),
        }
    };
    if !real.is_dir() {
        return Err(PortError::Permanent(format!(
            "archive directory {}: {} is not a directory",
            wanted.display(),
            real.display()
        )));
    }
    real.extend(missing.into_iter().rev());
    if real.parent().is_none() {
        return Err(PortError::Permanent(format!(
            "archive URL `{url}`: the root of the file system is no archive; name a directory in it"
        )));
    }
    url_of(&real)
}

/// Makes sure that the archive's directory and canary exist and that it can be written; answers the id it has, which is `new_id` only
/// where it had none.
pub(super) async fn prepare_directory(url: &str, new_id: Uuid) -> Result<Uuid, PortError> {
    let root = directory(url)?;
    super::file::blocking(move || prepare(&root, new_id)).await
}

fn prepare(root: &Path, new_id: Uuid) -> Result<Uuid, PortError> {
    let doing = format!("prepare archive {}", root.display());
    create_dirs(root).map_err(|error| io_error(&doing, &error))?;
    let text = canary_text(new_id)?;
    if read_canary(root)?.is_some() {
        // It must still be seen to take writes.
        let temporary = super::file::write_temporary(root, "write-check", &text).map_err(|error| io_error(&doing, &error))?;
        std::fs::remove_file(&temporary).and_then(|()| sync_dir(root)).map_err(|error| io_error(&doing, &error))?;
    } else {
        write_new(&root.join(CANARY), &text).map_err(|error| io_error(&doing, &error))?;
    }
    // Read back: somebody else may have been first.
    read_canary(root)?.ok_or_else(|| PortError::Transient(format!("{doing}: its canary is gone again")))
}

/// The id in the canary of `root`; `None` where there is no canary.
pub(super) fn read_canary(root: &Path) -> Result<Option<Uuid>, PortError> {
    let path = root.join(CANARY);
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io_error(&format!("read {}", path.display()), &error)),
    };
    read_id(&path.display().to_string(), &bytes).map(Some)
}

/// The canary of archive `id`.
pub(super) fn canary_text(id: Uuid) -> Result<Vec<u8>, PortError> {
    let canary = Canary { schema_version: CANARY_SCHEMA, archive_id: id };
    serde_json::to_vec(&canary).map_err(|error| PortError::Permanent(format!("write the canary of archive {id}: {error}")))
}

/// The id in a canary that was read at `place`.
pub(super) fn read_id(place: &str, bytes: &[u8]) -> Result<Uuid, PortError> {
    match serde_json::from_slice::<Canary>(bytes) {
        Ok(canary) if canary.schema_version == CANARY_SCHEMA => Ok(canary.archive_id),
        Ok(canary) => {
            let found = canary.schema_version;
            Err(PortError::Permanent(format!("read {place}: its schema version is {found}, not {CANARY_SCHEMA}")))
        }
        Err(error) => Err(PortError::Permanent(format!("read {place}: {error}"))),
    }
}

/// The name of a ledger's mark in the archive's root.
pub(super) fn mark_name(ledger_id: Uuid) -> String {
    format!(".lethe-mark-{ledger_id}.json")
}
