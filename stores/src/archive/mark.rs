//! A ledger's mark beside a file archive: a small file beside an archive that says how far the ledger's past reaches.
//!
//! The rule: it lies outside the ledger, so that a ledger restored from a backup finds it ahead. It is replaced whole.
//! If we die in writing it, the old mark stands: a lower bound, as before.

use std::{
    io::ErrorKind,
    path::{Path, PathBuf},
};

use lethe_stages::ports::PortError;
use uuid::Uuid;

use super::{
    file::{blocking, write_replacing_tidily},
    io_error,
    place::{directory, mark_name, read_canary},
};

/// The mark's file, after making sure that this is the archive that was bound.
fn path(root: &Path, archive_id: Uuid, ledger_id: Uuid) -> Result<PathBuf, PortError> {
    match read_canary(root)? {
        Some(found) if found == archive_id => Ok(root.join(mark_name(ledger_id))),
        _ => Err(PortError::WrongPlace(format!("{} is not archive {archive_id}: its canary is not there", root.display()))),
    }
}

/// The bytes of a ledger's mark; `None` where there is none.
///
/// # Errors
/// WrongPlace where the archive is away or another one; else as the file system says.
pub(super) async fn read_mark(url: &str, archive_id: Uuid, ledger_id: Uuid) -> Result<Option<Vec<u8>>, PortError> {
    let root = directory(url)?;
    blocking(move || {
        let path = path(&root, archive_id, ledger_id)?;
        match std::fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(io_error(&format!("read {}", path.display()), &error)),
        }
    })
    .await
}

/// Replaces a ledger's mark; durable when it returns.
///
/// # Errors
/// As [`read_mark`].
pub(super) async fn write_mark(url: &str, archive_id: Uuid, ledger_id: Uuid, bytes: Vec<u8>) -> Result<(), PortError> {
    let root = directory(url)?;
    blocking(move || {
        let path = path(&root, archive_id, ledger_id)?;
        write_replacing_tidily(&path, &bytes).map_err(|error| io_error(&format!("write {}", path.display()), &error))
    })
    .await
}
