//! Archives: where planes go. Parquet parts and small JSON objects below one prefix per plane.
//!
//! Two layers: [`object`] says what a place that keeps objects must do, [`file`] does it in a directory, [`s3`] in a bucket;
//! [`parts`] makes an archive of either, with the codec in [`encode`] and [`decode`].
//!
//! The rule: an object is there whole or not at all, and what was written once is never silently other bytes.
//! If we die in a write, a temporary object is left, which `list` shows and a purge deletes.

mod columns;
mod decode;
mod encode;
mod file;
mod key;
mod mark;
mod object;
mod parts;
mod place;
mod s3;
mod shelf;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, sync::Arc};

use chrono::{DateTime, Utc};
use lethe_stages::ports::{Archive, PortError};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub(crate) use self::file::{blocking, sync_dir};
pub use self::key::ArchiveKey;
pub use self::s3::{BucketCheck, Encryption, LockMode, ObjectLock, PathStyle, S3Options};
use self::s3::{Clients, Root, S3Objects, Site};
pub use self::shelf::Shelf;

/// What is known of an archive before anything is written.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ArchiveCheck {
    /// Its canonical URL.
    pub url: String,
    /// `file` or `s3`.
    pub kind: String,
    /// Its id, where it was prepared.
    pub archive_id: Option<Uuid>,
    /// What its bucket does by itself.
    pub bucket: Option<BucketCheck>,
    /// What an operator should know, in sentences.
    pub findings: Vec<String>,
}

/// The archives of this process: their drivers by scheme, and what is configured for each.
#[derive(Default)]
pub struct Archives {
    standard: Arc<S3Options>,
    by_url: BTreeMap<String, Arc<S3Options>>,
    clients: Arc<Clients>,
}

/// Where an archive is.
enum Place {
    File(String),
    S3(Site),
}

impl Archives {
    /// Archives with settings for S3: `standard` for those that `by_url` does not name by their canonical URL.
    pub fn new(standard: S3Options, by_url: BTreeMap<String, S3Options>) -> Self {
        let by_url = by_url.into_iter().map(|(url, options)| (url, Arc::new(options))).collect();
        Self { standard: Arc::new(standard), by_url, clients: Arc::default() }
    }

    /// The one form of an archive's URL.
    ///
    /// # Errors
    /// Permanent where the scheme is unknown, or the rest names no place of that scheme.
    pub fn canonical_url(url: &str) -> Result<String, PortError> {
        if url.starts_with("s3:") { Ok(Root::parse(url)?.url()) } else { place::canonical_file_url(url) }
    }

    /// Whether archives of this kind may lock, copy or expire by themselves what is written into them.
    pub fn may_lock_or_copy(url: &str) -> bool {
        url.starts_with("s3:")
    }

    fn site(&self, root: Root) -> Site {
        let options = self.by_url.get(&root.url()).unwrap_or(&self.standard).clone();
        Site::new(self.clients.clone(), options, root)
    }

    fn place(&self, url: &str) -> Result<Place, PortError> {
        if url.starts_with("s3:") { Ok(Place::S3(self.site(Root::parse(url)?))) } else { Ok(Place::File(url.to_owned())) }
    }

    fn copies(&self, site: &Site) -> Result<Vec<Site>, PortError> {
        site.options.replicas.iter().map(|url| Ok(self.site(Root::parse(url)?))).collect()
    }

    /// Makes an archive usable: its canary exists and it can be written. Answers its canonical URL and its id, which is `new_id` only
    /// where it had none.
    ///
    /// # Errors
    /// Permanent where it may not be written, is copied to a bucket that is not declared, or its server cannot do what is needed.
    pub async fn prepare(&self, url: &str, new_id: Uuid) -> Result<(String, Uuid), PortError> {
        let url = Self::canonical_url(url)?;
        let id = match self.place(&url)? {
            Place::File(url) => place::prepare_directory(&url, new_id).await?,
            Place::S3(site) => {
                let copies = self.copies(&site)?;
                site.canary().await?;
                let found = preflight(&site, &copies).await?;
                if let Some(to) = found.undeclared.first() {
                    return Err(PortError::Permanent(s3::undeclared(&found.bucket, to)));
                }
                let id = site.prepare(new_id).await?;
                for copy in &copies {
                    copy.prepare_copy(id).await?;
                }
                id
            }
        };
        Ok((url, id))
    }

    /// Says what is known of an archive, without changing anything.
    ///
    /// # Errors
    /// As [`Self::prepare`]; an undeclared copy is a finding here.
    pub async fn check(&self, url: &str) -> Result<ArchiveCheck, PortError> {
        let url = Self::canonical_url(url)?;
        match self.place(&url)? {
            Place::File(path) => {
                let archive_id = place::read_canary(&place::directory(&path)?)?;
                Ok(ArchiveCheck { url, kind: "file".into(), archive_id, bucket: None, findings: Vec::new() })
            }
            Place::S3(site) => {
                let archive_id = site.canary().await?;
                site.can_be_purged().await?;
                let found = preflight(&site, &self.copies(&site)?).await?;
                let findings = found.findings();
                Ok(ArchiveCheck { url, kind: "s3".into(), archive_id, bucket: Some(found), findings })
            }
        }
    }

    /// Binds a plane to its prefix `URL/<plane_id>/` in an archive that was prepared. Nothing is opened yet. Parts are encrypted under `key`,
    /// if there is one; without it, encrypted parts can be listed, copied and deleted. `at` is now: locks are counted from it and measured
    /// against it.
    ///
    /// # Errors
    /// Permanent where no driver serves the URL.
    pub fn open(
        &self,
        url: &str,
        archive_id: Uuid,
        plane_id: Uuid,
        key: Option<ArchiveKey>,
        at: DateTime<Utc>,
    ) -> Result<Arc<dyn Archive>, PortError> {
        let (objects, prefix): (Arc<dyn object::Objects>, _) = match self.place(url)? {
            Place::File(url) => {
                let root = place::directory(&url)?;
                let prefix = format!("{}/{plane_id}/", place::url_of(&root)?);
                (Arc::new(file::FileObjects::new(root, archive_id, plane_id)), prefix)
            }
            Place::S3(site) => {
                let prefix = format!("{}/{plane_id}/", site.root.url());
                let copies = self.copies(&site)?;
                (Arc::new(S3Objects::new(site, copies, archive_id, plane_id, at)), prefix)
            }
        };
        Ok(Arc::new(parts::ParquetArchive::new(objects, prefix, plane_id, key)))
    }

    /// The place of a URL as a shelf: something is published there, it is no archive. Nothing is opened yet.
    ///
    /// # Errors
    /// Permanent where no driver serves the URL.
    pub fn shelf(&self, url: &str) -> Result<Shelf, PortError> {
        Ok(Shelf(match self.place(&Self::canonical_url(url)?)? {
            Place::File(url) => shelf::Kind::Folder(place::directory(&url)?),
            Place::S3(site) => shelf::Kind::Bucket(site),
        }))
    }

    /// The bytes of a ledger's mark; `None` where there is none.
    ///
    /// # Errors
    /// WrongPlace where the archive is away or another one; else as the place says.
    pub async fn read_mark(&self, url: &str, archive_id: Uuid, ledger_id: Uuid) -> Result<Option<Vec<u8>>, PortError> {
        match self.place(url)? {
            Place::File(url) => mark::read_mark(&url, archive_id, ledger_id).await,
            Place::S3(site) => site.read_mark(archive_id, ledger_id).await,
        }
    }

    /// Replaces a ledger's mark; durable when it returns.
    ///
    /// # Errors
    /// As [`Self::read_mark`].
    pub async fn write_mark(&self, url: &str, archive_id: Uuid, ledger_id: Uuid, bytes: Vec<u8>) -> Result<(), PortError> {
        match self.place(url)? {
            Place::File(url) => mark::write_mark(&url, archive_id, ledger_id, bytes).await,
            Place::S3(site) => site.write_mark(archive_id, ledger_id, bytes).await,
        }
    }
}

async fn preflight(site: &Site, copies: &[Site]) -> Result<BucketCheck, PortError> {
    let roots: Vec<Root> = copies.iter().map(|copy| copy.root.clone()).collect();
    site.preflight(&roots).await
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
