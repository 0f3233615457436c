//! Objects in an S3 bucket below `PREFIX/<plane_id>/`.
//!
//! The rules: before anything is said or done, the prefix has shown its canary; a new object never takes the place of another; nothing
//! that was asked of the server is believed before it was read back. Where the bucket has declared copies, a purge is theirs too.
//!
//! If we die in a write, an unfinished upload is left: `list` shows its key, a purge aborts it.

mod client;
mod erase;
mod error;
mod options;
mod preflight;
mod prepare;
mod shelf;
mod site;
mod url;
mod write;

use std::{collections::BTreeSet, time::Instant};

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use lethe_stages::ports::PortError;
use tokio::sync::OnceCell;
use uuid::Uuid;

use self::erase::Listing;
use self::write::{Lock, WHOLE_BYTES_MAX, Written};
pub(in crate::archive) use self::{client::Clients, site::Site, url::Root};
pub use self::{
    options::{Encryption, LockMode, ObjectLock, PathStyle, S3Options},
    preflight::BucketCheck,
};
use super::{
    object::{Objects, checked},
    place::CANARY,
};

/// One plane's prefix in an archive.
pub(super) struct S3Objects {
    site: Site,
    copies: Vec<Site>,
    archive_id: Uuid,
    plane_id: Uuid,
    /// When it was opened: locks are measured against it.
    at: DateTime<Utc>,
    /// The same instant, from which an export's time runs: an object is locked from its own write on.
    opened: Instant,
    /// Whether the server keeps two writers apart that upload the same object in parts; asked when it first matters.
    in_parts: OnceCell<bool>,
}

impl S3Objects {
    /// Binds the plane's prefix. Nothing is opened.
    pub(super) fn new(site: Site, copies: Vec<Site>, archive_id: Uuid, plane_id: Uuid, at: DateTime<Utc>) -> Self {
        Self { site, copies, archive_id, plane_id, at, opened: Instant::now(), in_parts: OnceCell::new() }
    }

    fn below(&self, site: &Site) -> String {
        site.key(&format!("{}/", self.plane_id))
    }

    fn key(&self, key: &str) -> Result<String, PortError> {
        Ok(format!("{}{}", self.below(&self.site), checked(key)?))
    }

    /// The lock of what is written now.
    fn lock(&self) -> Option<Lock> {
        self.site.options.lock.map(|lock| (lock.mode, self.at + self.opened.elapsed() + lock.lasts()))
    }

    /// The archive and its copies, each after it has shown the canary.
    async fn everywhere(&self) -> Result<Vec<&Site>, PortError> {
        let places: Vec<_> = std::iter::once(&self.site).chain(&self.copies).collect();
        for site in &places {
            site.is(self.archive_id).await?;
        }
        Ok(places)
    }

    async fn in_parts(&self, bytes: usize) -> Result<bool, PortError> {
        if bytes <= WHOLE_BYTES_MAX {
            return Ok(false);
        }
        let canary = self.site.key(CANARY);
        self.in_parts.get_or_try_init(|| self.site.completes_under_condition(&canary)).await.copied()
    }
}

#[async_trait]
impl Objects for S3Objects {
    async fn probe(&self) -> Result<String, PortError> {
        self.site.is(self.archive_id).await?;
        Ok(self.archive_id.to_string())
    }

    async fn put_new(&self, key: &str, bytes: Vec<u8>) -> Result<Option<Vec<u8>>, PortError> {
        self.site.is(self.archive_id).await?;
        let (whole, bytes) = (self.key(key)?, Bytes::from(bytes));
        let in_parts = self.in_parts(bytes.len()).await?;
        let lock = self.lock();
        if self.site.put_new(&whole, bytes.clone(), lock, in_parts).await? == Written::Exists {
            let Some(present) = self.site.read(&whole).await? else {
                let bucket = self.site.bucket();
                return Err(PortError::Transient(format!("write {key} in bucket {bucket}: another writer is at it")));
            };
            // It may have been written by an earlier run, and so be locked from then on.
            self.site.is_kept_as_asked(&whole, lock.map(|(mode, _)| (mode, DateTime::UNIX_EPOCH))).await?;
            return Ok((present != bytes).then(|| present.into()));
        }
        self.site.is_kept_as_asked(&whole, lock).await.map(|()| None)
    }

    async fn put_replace(&self, key: &str, bytes: Vec<u8>) -> Result<(), PortError> {
        self.site.is(self.archive_id).await?;
        let (whole, lock) = (self.key(key)?, self.lock());
        self.site.put(&whole, bytes.into(), false, lock).await?;
        self.site.is_kept_as_asked(&whole, lock).await
    }

    async fn get(&self, key: &str) -> Result<Option<Vec<u8>>, PortError> {
        self.site.is(self.archive_id).await?;
        Ok(self.site.read(&self.key(key)?).await?.map(Vec::from))
    }

    async fn list(&self) -> Result<Vec<String>, PortError> {
        let mut keys = BTreeSet::new();
        for site in self.everywhere().await? {
            let below = self.below(site);
            let mut listing = Listing::of(&below);
            while let Some(page) = site.next_page(&mut listing).await? {
                keys.extend(page.iter().map(|version| version.key[below.len()..].to_owned()));
            }
            keys.extend(site.uploads(&below).await?.iter().map(|(key, _)| key[below.len()..].to_owned()));
        }
        Ok(keys.into_iter().collect())
    }

    async fn may_delete(&self) -> Result<(), PortError> {
        let mut unknown = Vec::new();
        let copies = self.site.replicates_to(&mut unknown).await?;
        if let Some(denied) = unknown.iter().find(|said| said.contains("AccessDenied")) {
            return Err(PortError::Permanent(format!(
                "{denied}, so it is not known whether there are copies: grant s3:GetReplicationConfiguration"
            )));
        }
        if let Some(copy) = copies.iter().find(|copy| !self.copies.iter().any(|declared| declared.root == **copy)) {
            return Err(PortError::Permanent(format!(
                "bucket {} replicates to {}, which is not declared and so would not be purged: add it to the archive's replicas \
                 (to end the replication would leave what was copied)",
                self.site.bucket(),
                copy.url()
            )));
        }
        for site in self.everywhere().await? {
            let below = self.below(site);
            if site.bucket_lock(&mut Vec::new()).await?.is_none() {
                continue;
            }
            let locks = site.locks(&below, self.at).await?;
            if let Some(key) = locks.held.first() {
                let count = locks.held.len();
                return Err(PortError::Permanent(format!(
                    "delete from bucket {}: {count} version(s) are under a legal hold, the first of {key}; release it there first",
                    site.bucket()
                )));
            }
            if let Some(until) = locks.until {
                let said = format!(
                    "bucket {} locks {} version(s) of the archive, until {}",
                    site.bucket(),
                    locks.locked,
                    until.to_rfc3339()
                );
                return Err(PortError::Locked { until, said });
            }
        }
        Ok(())
    }

    async fn delete(&self, keys: &[String]) -> Result<(), PortError> {
        for site in self.everywhere().await? {
            let below = self.below(site);
            // Literal keys: whatever they hold, they stay below the prefix.
            let whole: BTreeSet<String> = keys.iter().map(|key| format!("{below}{key}")).collect();
            site.remove(&below, &whole).await?;
        }
        Ok(())
    }

    /// A prefix without objects is nothing.
    async fn close(&self) -> Result<(), PortError> {
        self.site.is(self.archive_id).await
    }
}

/// What is said of a copy that nobody declared, by its URL, before anything is written.
pub(super) fn undeclared(bucket: &str, to: &str) -> String {
    format!(
        "bucket {bucket} replicates to {to}, which is not declared and so would not be purged: add {to} to the archive's replicas, or end \
         the replication"
    )
}
