//! A shelf: a folder or a bucket's prefix in which something is published for others to read, such as a log's tiles.
//!
//! The rule: what is put there once is never other bytes; only what is replaced by name changes, whole. If we die in a write, it is there
//! whole or not at all; in a folder a temporary file may be left, which the next replacing takes away.

use std::{io::ErrorKind, path::PathBuf};

use chrono::{DateTime, Utc};
use lethe_stages::ports::PortError;

use super::{
    file::{blocking, create_dirs, write_new, write_replacing_tidily},
    io_error,
    s3::Site,
};

/// Where something is published.
#[derive(Clone)]
pub struct Shelf(pub(super) Kind);

#[derive(Clone)]
pub(super) enum Kind {
    Folder(PathBuf),
    Bucket(Site),
}

impl Shelf {
    /// What lies at `key`; `None` where nothing does.
    ///
    /// # Errors
    /// As the place says.
    pub async fn read(&self, key: &str) -> Result<Option<Vec<u8>>, PortError> {
        match &self.0 {
            Kind::Bucket(site) => site.shelved(key).await,
            Kind::Folder(folder) => {
                let path = folder.join(key);
                blocking(move || match std::fs::read(&path) {
                    Ok(bytes) => Ok(Some(bytes)),
                    Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
                    Err(error) => Err(io_error(&format!("read {}", path.display()), &error)),
                })
                .await
            }
        }
    }

    /// Puts bytes at `key`, where nothing is. Answers what is there already, if that is something else. `at` is now: a bucket's lock lasts
    /// from it on.
    ///
    /// # Errors
    /// As the place says; Permanent where a lock was asked for and is not there.
    pub async fn put_once(&self, key: &str, bytes: Vec<u8>, at: DateTime<Utc>) -> Result<Option<Vec<u8>>, PortError> {
        match &self.0 {
            Kind::Bucket(site) => site.shelve_once(key, bytes, at).await,
            Kind::Folder(folder) => {
                let path = folder.join(key);
                blocking(move || {
                    let failed = |error| io_error(&format!("write {}", path.display()), &error);
                    create_dirs(path.parent().unwrap_or(&path)).map_err(failed)?;
                    if write_new(&path, &bytes).map_err(failed)? {
                        return Ok(None);
                    }
                    let present = std::fs::read(&path).map_err(failed)?;
                    Ok((present != bytes).then_some(present))
                })
                .await
            }
        }
    }

    /// Takes away everything below `key/`. What is locked stays, and so does what cannot be reached: nobody needs it to be gone.
    pub async fn clear(&self, key: &str) {
        match &self.0 {
            Kind::Bucket(site) => site.clear_shelf(key).await,
            Kind::Folder(folder) => {
                let path = folder.join(key);
                let removed = blocking(move || {
                    std::fs::remove_dir_all(&path).map_err(|error| io_error(&format!("remove {}", path.display()), &error))
                });
                drop(removed.await);
            }
        }
    }

    /// Replaces what lies at `key`.
    ///
    /// # Errors
    /// As the place says.
    pub async fn replace(&self, key: &str, bytes: Vec<u8>) -> Result<(), PortError> {
        match &self.0 {
            Kind::Bucket(site) => site.shelve(key, bytes).await,
            Kind::Folder(folder) => {
                let path = folder.join(key);
                blocking(move || {
                    let failed = |error| io_error(&format!("write {}", path.display()), &error);
                    create_dirs(path.parent().unwrap_or(&path)).map_err(failed)?;
                    write_replacing_tidily(&path, &bytes).map_err(failed)
                })
                .await
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_put_once_stays_and_what_is_replaced_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let shelf = Shelf(Kind::Folder(dir.path().join("log")));
        assert_eq!(shelf.read("tile/0/000").await.unwrap(), None);
        assert_eq!(shelf.put_once("tile/0/000", b"one".to_vec(), DateTime::UNIX_EPOCH).await.unwrap(), None);
        assert_eq!(shelf.put_once("tile/0/000", b"one".to_vec(), DateTime::UNIX_EPOCH).await.unwrap(), None);
        let there = shelf.put_once("tile/0/000", b"two".to_vec(), DateTime::UNIX_EPOCH).await.unwrap();
        assert_eq!(there, Some(b"one".to_vec()));
        shelf.put_once("tile/0/000.p/8", b"part".to_vec(), DateTime::UNIX_EPOCH).await.unwrap();
        shelf.clear("tile/0/000.p").await;
        shelf.clear("tile/0/001.p").await;
        assert_eq!(shelf.read("tile/0/000.p/8").await.unwrap(), None);
        assert_eq!(shelf.read("tile/0/000").await.unwrap(), Some(b"one".to_vec()));
        for text in ["a", "b"] {
            shelf.replace("checkpoint", text.into()).await.unwrap();
            assert_eq!(shelf.read("checkpoint").await.unwrap(), Some(text.into()));
        }
        std::fs::write(dir.path().join("file"), "").unwrap();
        let wrong = Shelf(Kind::Folder(dir.path().join("file")));
        assert!(matches!(wrong.replace("checkpoint", Vec::new()).await, Err(PortError::Permanent(_) | PortError::Transient(_))));
    }
}
