//! Everything that a prefix holds: versions, delete markers, unfinished uploads; whether it may go, and removing it.
//!
//! The rule: locks and legal holds of every version are read before the first one is removed, and governance locks are not bypassed.
//! If we die in it, what is gone is gone, and listing again shows the rest.

use std::collections::BTreeSet;

use aws_sdk_s3::{
    error::ProvideErrorMetadata,
    types::{Delete, ObjectIdentifier, ObjectLockLegalHoldStatus, ObjectLockRetentionMode},
};
use chrono::{DateTime, Utc};
use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use lethe_stages::ports::PortError;

use super::{error::of_service, site::Site, write::utc};

/// Most versions of one DeleteObjects request.
const BATCH_MAX: usize = 1000;
/// Questions about locks on their way at a time.
const ASKED_AT_ONCE: usize = 8;

/// A version of an object, or a delete marker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Version {
    /// The whole key.
    pub(super) key: String,
    /// `null` in a bucket without versions.
    pub(super) id: String,
    /// A marker holds nothing and cannot be locked.
    pub(super) is_marker: bool,
}

/// Where a listing of versions stands.
pub(super) struct Listing {
    prefix: String,
    key: Option<String>,
    id: Option<String>,
    ended: bool,
}

impl Listing {
    /// Of what lies below `prefix`, from its beginning.
    pub(super) fn of(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned(), key: None, id: None, ended: false }
    }

    /// Of what lies below `prefix`, from `first` on, and perhaps of a few keys before it.
    fn from(prefix: &str, first: &str) -> Self {
        // The listing begins after its marker, so that is some key which sorts before the first one.
        let mut before = first.to_owned();
        before.pop();
        Self { key: (before.len() > prefix.len()).then_some(before), ..Self::of(prefix) }
    }
}

/// What forbids to remove the versions of a prefix.
#[derive(Debug, Default)]
pub(super) struct Locks {
    /// Versions under retention, and the latest date.
    pub(super) locked: usize,
    /// The latest date.
    pub(super) until: Option<DateTime<Utc>>,
    /// Keys under a legal hold.
    pub(super) held: Vec<String>,
}

impl Site {
    /// The next page of versions and delete markers; `None` after the last one.
    pub(super) async fn next_page(&self, listing: &mut Listing) -> Result<Option<Vec<Version>>, PortError> {
        if listing.ended {
            return Ok(None);
        }
        let prefix = &listing.prefix;
        let doing = format!("list the versions below {prefix}");
        let request = self.client().await.list_object_versions().bucket(self.bucket()).prefix(prefix);
        let page = request.set_key_marker(listing.key.clone()).set_version_id_marker(listing.id.clone()).send().await;
        let page = page.map_err(|error| self.error(&doing, &error))?;
        let incomplete = || PortError::Transient(format!("{doing} in bucket {}: an entry has no key or version", self.bucket()));
        let mut found = Vec::new();
        for version in page.versions() {
            let (key, id) = version.key().zip(version.version_id()).ok_or_else(incomplete)?;
            found.push(Version { key: key.to_owned(), id: id.to_owned(), is_marker: false });
        }
        for marker in page.delete_markers() {
            let (key, id) = marker.key().zip(marker.version_id()).ok_or_else(incomplete)?;
            found.push(Version { key: key.to_owned(), id: id.to_owned(), is_marker: true });
        }
        // A listing never leaves its prefix; a server whose listing does is not asked to remove anything.
        if let Some(odd) = found.iter().find(|version| !version.key.starts_with(prefix.as_str())) {
            return Err(PortError::Permanent(format!("{doing} in bucket {}: the server lists {}", self.bucket(), odd.key)));
        }
        listing.ended = page.is_truncated != Some(true);
        let next = (page.next_key_marker, page.next_version_id_marker);
        if !listing.ended && (next.0.is_none() || (&next.0, &next.1) == (&listing.key, &listing.id)) {
            return Err(PortError::Transient(format!("{doing} in bucket {}: the listing does not go on", self.bucket())));
        }
        (listing.key, listing.id) = next;
        Ok(Some(found))
    }

    /// Every unfinished upload below `prefix`: whole key and upload id.
    pub(super) async fn uploads(&self, prefix: &str) -> Result<Vec<(String, String)>, PortError> {
        let doing = format!("list the unfinished uploads below {prefix}");
        let (mut key, mut id) = (None, None);
        let mut found = Vec::new();
        loop {
            let request = self.client().await.list_multipart_uploads().bucket(self.bucket()).prefix(prefix);
            let page = request.set_key_marker(key.clone()).set_upload_id_marker(id.clone()).send().await;
            let page = page.map_err(|error| self.error(&doing, &error))?;
            let named =
                page.uploads().iter().filter_map(|upload| Some((upload.key()?.to_owned(), upload.upload_id()?.to_owned())));
            found.extend(named.filter(|(key, _)| key.starts_with(prefix)));
            let next = (page.next_key_marker, page.next_upload_id_marker);
            if page.is_truncated != Some(true) {
                return Ok(found);
            }
            if next.0.is_none() || next == (key, id) {
                return Err(PortError::Transient(format!("{doing} in bucket {}: the listing does not go on", self.bucket())));
            }
            (key, id) = next;
        }
    }

    /// Aborts an upload; one that is gone is success.
    pub(super) async fn abort(&self, key: &str, upload: &str) -> Result<(), PortError> {
        let request = self.client().await.abort_multipart_upload().bucket(self.bucket()).key(key).upload_id(upload);
        match request.send().await {
            Err(error) if error.as_service_error().and_then(|error| error.code()) != Some("NoSuchUpload") => {
                Err(self.error(&format!("abort an upload of {key}"), &error))
            }
            _ => Ok(()),
        }
    }

    /// Removes every version, marker and unfinished upload of these whole keys, which all lie below `prefix`.
    pub(super) async fn remove(&self, prefix: &str, keys: &BTreeSet<String>) -> Result<(), PortError> {
        let (Some(first), Some(last)) = (keys.first(), keys.last()) else { return Ok(()) };
        let mut listing = Listing::from(prefix, first);
        let mut batch = Vec::new();
        while let Some(page) = self.next_page(&mut listing).await? {
            listing.ended |= !page.iter().any(|version| version.key <= *last);
            batch.extend(page.into_iter().filter(|version| keys.contains(&version.key)));
            while batch.len() >= BATCH_MAX {
                let rest = batch.split_off(BATCH_MAX);
                self.delete_batch(&std::mem::replace(&mut batch, rest)).await?;
            }
        }
        self.delete_batch(&batch).await?;
        for (key, upload) in self.uploads(prefix).await?.iter().filter(|(key, _)| keys.contains(key)) {
            self.abort(key, upload).await?;
        }
        Ok(())
    }

    /// Removes at most [`BATCH_MAX`] versions by one request; each has its own answer.
    pub(super) async fn delete_batch(&self, versions: &[Version]) -> Result<(), PortError> {
        let Some(first) = versions.first() else { return Ok(()) };
        let doing = format!("delete {} version(s) from {} on", versions.len(), first.key);
        let internal = |error: aws_sdk_s3::error::BuildError| PortError::Permanent(format!("{doing}: {error}"));
        let mut delete = Delete::builder().quiet(true);
        for version in versions {
            delete =
                delete.objects(ObjectIdentifier::builder().key(&version.key).version_id(&version.id).build().map_err(internal)?);
        }
        let request = self.client().await.delete_objects().bucket(self.bucket()).delete(delete.build().map_err(internal)?);
        let answer = request.send().await.map_err(|error| self.error(&doing, &error))?;
        let mut refused: Vec<PortError> = Vec::new();
        for error in answer.errors() {
            let (key, code) = (error.key().unwrap_or("?"), error.code().unwrap_or_default());
            if !matches!(code, "NoSuchKey" | "NoSuchVersion") {
                let status = match code {
                    "InternalError" | "SlowDown" | "ServiceUnavailable" => 503,
                    "AccessDenied" => 403,
                    _ => 400,
                };
                let doing = format!("delete {key} in bucket {}", self.bucket());
                refused.push(of_service(&doing, code, status, error.message().unwrap_or_default(), ""));
            }
        }
        // One that will not pass is said first: the others do not matter then.
        refused.sort_by_key(|error| matches!(error, PortError::Transient(_)));
        match (refused.len(), refused.into_iter().next()) {
            (_, None) => Ok(()),
            (1, Some(error)) => Err(error),
            (count, Some(PortError::Transient(said))) => Err(PortError::Transient(format!("{said}; {count} in all"))),
            (count, Some(error)) => Err(PortError::Permanent(format!("{error}; {count} in all"))),
        }
    }

    /// The retention of an object's newest version, or of the one named: mode and date.
    pub(super) async fn retention(
        &self,
        key: &str,
        version: Option<&str>,
    ) -> Result<Option<(ObjectLockRetentionMode, DateTime<Utc>)>, PortError> {
        let request = self.client().await.get_object_retention().bucket(self.bucket()).key(key);
        let answer = match request.set_version_id(version.map(str::to_owned)).send().await {
            Ok(answer) => answer,
            Err(error) if no_lock(error.as_service_error().and_then(|error| error.code())) => return Ok(None),
            Err(error) => return Err(self.error(&format!("read the lock of {key}"), &error)),
        };
        let Some(retention) = answer.retention else { return Ok(None) };
        let Some((mode, until)) = retention.mode.zip(retention.retain_until_date) else { return Ok(None) };
        let until = utc(&until);
        let until = until.ok_or_else(|| PortError::Permanent(format!("read the lock of {key}: its date cannot be read")))?;
        Ok(Some((mode, until)))
    }

    async fn is_held(&self, key: &str, version: &str) -> Result<bool, PortError> {
        let request = self.client().await.get_object_legal_hold().bucket(self.bucket()).key(key).version_id(version);
        match request.send().await {
            Ok(answer) => Ok(answer.legal_hold.and_then(|hold| hold.status) == Some(ObjectLockLegalHoldStatus::On)),
            Err(error) if no_lock(error.as_service_error().and_then(|error| error.code())) => Ok(false),
            Err(error) => Err(self.error(&format!("read the legal hold of {key}"), &error)),
        }
    }

    /// What forbids at `at` to remove the versions below `prefix`.
    pub(super) async fn locks(&self, prefix: &str, at: DateTime<Utc>) -> Result<Locks, PortError> {
        let mut locks = Locks::default();
        let mut listing = Listing::of(prefix);
        while let Some(page) = self.next_page(&mut listing).await? {
            let asked = page.into_iter().filter(|version| !version.is_marker).map(|version| self.lock_of(version).boxed());
            let asked: Vec<_> = stream::iter(asked).buffer_unordered(ASKED_AT_ONCE).try_collect().await?;
            for (version, held, until) in asked {
                let until = until.filter(|until| *until > at);
                locks.locked += usize::from(until.is_some());
                locks.until = locks.until.max(until);
                if held {
                    locks.held.push(version.key);
                }
            }
        }
        Ok(locks)
    }

    /// Whether a version is under a legal hold, and until when it is locked.
    async fn lock_of(&self, version: Version) -> Result<(Version, bool, Option<DateTime<Utc>>), PortError> {
        let held = self.is_held(&version.key, &version.id).await?;
        let retention = self.retention(&version.key, Some(&version.id)).await?;
        Ok((version, held, retention.map(|(_, until)| until)))
    }
}

/// Whether the code says that the object, or its bucket, has no lock.
fn no_lock(code: Option<&str>) -> bool {
    matches!(
        code,
        Some(
            "NoSuchObjectLockConfiguration"
                | "ObjectLockConfigurationNotFoundError"
                | "NoSuchKey"
                | "NoSuchVersion"
                | "InvalidRequest"
        )
    )
}
