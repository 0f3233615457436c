//! A ledger's mark: a small file beside an archive that says how far the ledger's past reaches.
//!
//! The rule: it lies outside the ledger, so that a ledger restored from a backup finds it ahead. It is replaced whole.
//! If we die in writing it, the old mark stands: a lower bound, as before.

use std::{io::ErrorKind, path::PathBuf};

use lethe_stages::ports::PortError;
use uuid::Uuid;

use super::{
    file::{blocking, write_replacing},
    io_error,
    place::directory,
};

fn path(url: &str, ledger_id: Uuid) -> Result<PathBuf, PortError> {
    Ok(directory(url)?.join(format!(".lethe-mark-{ledger_id}.json")))
}

/// The bytes of a ledger's mark; `None` where there is none.
///
/// # Errors
/// As the file system says; an archive that is away is Transient.
pub async fn read_mark(url: &str, ledger_id: Uuid) -> Result<Option<Vec<u8>>, PortError> {
    let path = path(url, ledger_id)?;
    blocking(move || match std::fs::read(&path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io_error(&format!("read {}", path.display()), &error)),
    })
    .await
}

/// Replaces a ledger's mark; durable when it returns.
///
/// # Errors
/// As the file system says.
pub async fn write_mark(url: &str, ledger_id: Uuid, bytes: Vec<u8>) -> Result<(), PortError> {
    let path = path(url, ledger_id)?;
    blocking(move || write_replacing(&path, &bytes).map_err(|error| io_error(&format!("write {}", path.display()), &error))).await
}
