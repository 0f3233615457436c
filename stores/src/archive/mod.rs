//! Archives: where planes go. Parquet parts and small JSON objects below one prefix per plane.
//!
//! Two layers: [`object`] says what a place that keeps objects must do, [`file`] does it in a directory (S3 will be a second driver);
//! [`parts`] makes an archive of either, with the codec in [`encode`] and [`decode`].
//!
//! The rule: an object is there whole or not at all, and what was written once is never silently other bytes.
//! If we die in a write, a temporary object is left, which `list` shows and a purge deletes.

mod columns;
mod decode;
mod encode;
mod file;
mod mark;
mod object;
mod parts;
mod place;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use lethe_stages::ports::{Archive, PortError};
use uuid::Uuid;

pub(crate) use self::file::{blocking, sync_dir};
pub use self::{
    mark::{read_mark, write_mark},
    place::{canonical_archive_url, prepare_archive},
};

/// Binds a plane to its prefix `DIR/<plane_id>/` in an archive that was prepared. Nothing is opened yet.
///
/// # Errors
/// Permanent where no driver serves the URL.
pub fn open_archive(url: &str, archive_id: Uuid, plane_id: Uuid) -> Result<Arc<dyn Archive>, PortError> {
    let root = place::directory(url)?;
    let prefix = format!("{}/{plane_id}/", place::url_of(&root)?);
    let driver = file::FileObjects::new(root, archive_id, plane_id);
    Ok(Arc::new(parts::ParquetArchive::new(Arc::new(driver), prefix, plane_id)))
}

/// The port's error for one of the operating system's, with what was being done.
pub(crate) fn io_error(doing: &str, error: &std::io::Error) -> PortError {
    use std::io::ErrorKind::{InvalidFilename, IsADirectory, NotADirectory, PermissionDenied, ReadOnlyFilesystem};
    let said = format!("{doing}: {error}");
    match error.kind() {
        PermissionDenied | ReadOnlyFilesystem | NotADirectory | IsADirectory | InvalidFilename => PortError::Permanent(said),
        // No space, quota, I/O, interrupted: the world may answer differently in a moment.
        _ => PortError::Transient(said),
    }
}
