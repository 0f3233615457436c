//! Writing objects: small ones by one PUT, large ones in parts.
//!
//! The rules: a new object is written under the condition that there is none, so that of two writers one wins. Some servers ignore the
//! condition where the bucket keeps versions; nothing is overwritten there, so the oldest version wins, and who wrote a later one takes
//! it back. What is there already is read and compared. What was asked of the server (encryption, a lock) is read back from it, and believed only then.
//!
//! If we die in an upload of parts, the upload stays unfinished: `list` shows it, a purge aborts it.

use std::ops::Range;

use aws_sdk_s3::{
    error::ProvideErrorMetadata,
    primitives::{ByteStream, DateTimeFormat},
    types::{CompletedMultipartUpload, CompletedPart, ObjectLockMode, ServerSideEncryption},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use chrono::{DateTime, SubsecRound, Utc};
use lethe_stages::ports::PortError;
use md5::{Digest, Md5};

use super::{
    erase::{Listing, Version},
    options::{Encryption, LockMode},
    site::Site,
};

/// Objects up to this size are written by one PUT.
pub(super) const WHOLE_BYTES_MAX: usize = 16 << 20;
/// Size of an uploaded part; S3 wants at least 5 MiB.
const PART_BYTES: usize = 8 << 20;
/// Most parts of an upload.
const PARTS_MAX: usize = 10_000;
/// The largest object that one PUT may carry.
const PUT_BYTES_MAX: u64 = 5 << 30;

/// A lock as it is asked for.
pub(super) type Lock = (LockMode, DateTime<Utc>);

/// What became of a write under the condition that nothing is there.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Written {
    /// It is there now; with its version, where the bucket keeps versions.
    New(Option<String>),
    /// Something was there.
    Exists,
}

/// Cuts an object of `length` bytes into parts.
fn parts(length: usize) -> impl Iterator<Item = Range<usize>> {
    let size = PART_BYTES.max(length.div_ceil(PARTS_MAX));
    (0..length).step_by(size).map(move |from| from..length.min(from + size))
}

fn md5(bytes: &[u8]) -> String {
    STANDARD.encode(Md5::digest(bytes))
}

/// Gives a request what every object of the archive is written with.
macro_rules! dressed {
    ($site:expr, $lock:expr, $request:expr) => {{
        let (encryption, key) = $site.encryption();
        $request
            .bucket($site.bucket())
            .set_server_side_encryption(encryption)
            .set_ssekms_key_id(key)
            .set_object_lock_mode($lock.map(|lock| mode(lock.0)))
            .set_object_lock_retain_until_date($lock.map(|lock| instant(lock.1)))
    }};
}

fn mode(mode: LockMode) -> ObjectLockMode {
    match mode {
        LockMode::Governance => ObjectLockMode::Governance,
        LockMode::Compliance => ObjectLockMode::Compliance,
    }
}

fn instant(at: DateTime<Utc>) -> aws_sdk_s3::primitives::DateTime {
    aws_sdk_s3::primitives::DateTime::from_secs(at.timestamp())
}

/// An instant of the SDK's, to the second.
pub(super) fn utc(at: &aws_sdk_s3::primitives::DateTime) -> Option<DateTime<Utc>> {
    let text = at.fmt(DateTimeFormat::DateTime).ok()?;
    Some(text.parse::<DateTime<Utc>>().ok()?.trunc_subsecs(0))
}

/// Whether the code says that the object to be created is there, or is being created by somebody else.
fn is_taken(code: Option<&str>) -> bool {
    matches!(code, Some("PreconditionFailed" | "ConditionalRequestConflict" | "NoSuchUpload"))
}

impl Site {
    fn encryption(&self) -> (Option<ServerSideEncryption>, Option<String>) {
        match self.options.encryption {
            Encryption::Default => (None, None),
            Encryption::Aes256 => (Some(ServerSideEncryption::Aes256), None),
            Encryption::Kms => (Some(ServerSideEncryption::AwsKms), self.options.kms_key.clone()),
        }
    }

    /// Writes an object by one request, replacing what is there unless `new`.
    pub(super) async fn put(&self, key: &str, bytes: Bytes, new: bool, lock: Option<Lock>) -> Result<Written, PortError> {
        let request = self.client().await.put_object().key(key).content_md5(md5(&bytes)).body(ByteStream::from(bytes));
        let request = request.set_if_none_match(new.then(|| "*".to_owned()));
        match dressed!(self, lock, request).send().await {
            Ok(answer) if new => self.unless_later(key, answer.version_id).await,
            Ok(answer) => Ok(Written::New(answer.version_id)),
            Err(error) if new && is_taken(error.as_service_error().and_then(|error| error.code())) => Ok(Written::Exists),
            Err(error) => Err(self.error(&format!("write {key}"), &error)),
        }
    }

    /// Writes an object that is not there: in parts where it is large, and where the server then still keeps two writers apart.
    pub(super) async fn put_new(
        &self,
        key: &str,
        bytes: Bytes,
        lock: Option<Lock>,
        in_parts: bool,
    ) -> Result<Written, PortError> {
        if bytes.len() <= WHOLE_BYTES_MAX {
            return self.put(key, bytes, true, lock).await;
        }
        if in_parts {
            return self.upload(key, bytes, lock).await;
        }
        if bytes.len() as u64 > PUT_BYTES_MAX {
            return Err(PortError::Permanent(format!(
                "write {key} in bucket {}: it has more than 5 GiB, and this server does not keep two writers of one object apart \
                 where they upload parts; lower archive.part_bytes_max",
                self.bucket()
            )));
        }
        self.put(key, bytes, true, lock).await
    }

    async fn upload(&self, key: &str, bytes: Bytes, lock: Option<Lock>) -> Result<Written, PortError> {
        let doing = format!("write {key}");
        let request = self.client().await.create_multipart_upload().key(key);
        let begun = dressed!(self, lock, request).send().await.map_err(|error| self.error(&doing, &error))?;
        let upload = begun.upload_id.ok_or_else(|| PortError::Transient(format!("{doing}: the server names no upload")))?;
        let written = match self.upload_parts(key, &upload, &bytes).await {
            Ok(parts) => self.complete(key, &upload, parts).await,
            Err(error) => Err(error),
        };
        if !matches!(written, Ok(Written::New(_))) {
            // What cannot be aborted now, the purge aborts.
            drop(self.abort(key, &upload).await);
        }
        written
    }

    /// Sends the parts one after the other: each is a view of the same bytes, and one is on its way at a time.
    async fn upload_parts(&self, key: &str, upload: &str, bytes: &Bytes) -> Result<Vec<CompletedPart>, PortError> {
        let client = self.client().await;
        let mut done = Vec::new();
        for (number, range) in (1..).zip(parts(bytes.len())) {
            let body = bytes.slice(range);
            let request = client.upload_part().bucket(self.bucket()).key(key).upload_id(upload).part_number(number);
            let sent = request.content_md5(md5(&body)).body(ByteStream::from(body)).send().await;
            let sent = sent.map_err(|error| self.error(&format!("write part {number} of {key}"), &error))?;
            done.push(CompletedPart::builder().part_number(number).set_e_tag(sent.e_tag).build());
        }
        Ok(done)
    }

    async fn complete(&self, key: &str, upload: &str, parts: Vec<CompletedPart>) -> Result<Written, PortError> {
        let whole = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
        let request = self.client().await.complete_multipart_upload().bucket(self.bucket()).key(key).upload_id(upload);
        match request.multipart_upload(whole).if_none_match("*").send().await {
            Ok(answer) => self.unless_later(key, answer.version_id).await,
            Err(error) if is_taken(error.as_service_error().and_then(|error| error.code())) => Ok(Written::Exists),
            Err(error) => Err(self.error(&format!("complete {key}"), &error)),
        }
    }

    /// What a write of a new object was, judged by the versions there are: one that is not the oldest came too late, and is taken back.
    async fn unless_later(&self, key: &str, version: Option<String>) -> Result<Written, PortError> {
        let Some(own) = version.filter(|version| version != "null") else { return Ok(Written::New(None)) };
        let mut listing = Listing::of(key);
        let mut oldest = None;
        while let Some(page) = self.next_page(&mut listing).await? {
            for found in page.into_iter().filter(|found| found.key == key) {
                if found.is_marker {
                    // Somebody deleted it before: what is older than that is not there.
                    return Ok(Written::New(Some(own)));
                }
                oldest = Some(found);
            }
        }
        match oldest {
            Some(oldest) if oldest.id != own => {
                // One that is locked stays, for the purge.
                drop(self.delete_batch(&[Version { id: own, ..oldest }]).await);
                Ok(Written::Exists)
            }
            _ => Ok(Written::New(Some(own))),
        }
    }

    /// Whether the server refuses to complete an upload over an object that is there. Tried on the canary with its own bytes, so that a
    /// server that does not refuse has changed nothing.
    pub(super) async fn completes_under_condition(&self, key: &str) -> Result<bool, PortError> {
        let Some(bytes) = self.read_canary().await? else {
            return Err(PortError::WrongPlace(format!("find {key} in bucket {}: it is gone", self.bucket())));
        };
        Ok(self.upload(key, bytes, None).await? == Written::Exists)
    }

    /// Makes sure that the object is kept as was asked: asks the server, which may have accepted a header and ignored it.
    pub(super) async fn is_kept_as_asked(&self, key: &str, lock: Option<Lock>) -> Result<(), PortError> {
        let refused = |why: String| PortError::Permanent(format!("write {key} in bucket {}: {why}", self.bucket()));
        if let (Some(asked), kms_key) = self.encryption() {
            let request = self.client().await.head_object().bucket(self.bucket()).key(key);
            let found = request.send().await.map_err(|error| self.error(&format!("read back how {key} is encrypted"), &error))?;
            if found.server_side_encryption.as_ref() != Some(&asked) {
                let found = found.server_side_encryption.map_or("none".to_owned(), |found| found.as_str().to_owned());
                return Err(refused(format!("encryption {} was asked, the server applied {found}", asked.as_str())));
            }
            // A key may be asked for by its id or alias, and is answered by its full name.
            let asked = kms_key.filter(|key| !key.contains("alias/"));
            if let (Some(asked), Some(applied)) = (asked, found.ssekms_key_id)
                && applied != asked
                && !applied.ends_with(&format!("/{asked}"))
            {
                return Err(refused(format!("encryption with key {asked} was asked, the server applied {applied}")));
            }
        }
        if let Some((asked, until)) = lock {
            match self.retention(key, None).await? {
                Some((mode, found)) if mode.as_str() == mode_name(asked) && found >= until.trunc_subsecs(0) => {}
                Some((mode, found)) => {
                    let asked = format!("{} until {}", mode_name(asked), until.to_rfc3339());
                    return Err(refused(format!(
                        "a lock {asked} was asked, it is {} until {}",
                        mode.as_str(),
                        found.to_rfc3339()
                    )));
                }
                None => return Err(refused("an object lock was asked, and the server applied none".into())),
            }
        }
        Ok(())
    }
}

/// The mode as S3 writes it.
fn mode_name(mode: LockMode) -> &'static str {
    match mode {
        LockMode::Governance => "GOVERNANCE",
        LockMode::Compliance => "COMPLIANCE",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_an_object_and_are_of_a_size_that_s3_takes() {
        for length in [WHOLE_BYTES_MAX + 1, 200 << 20, (80 << 30) + 7] {
            let parts: Vec<_> = parts(length).collect();
            assert!(parts.len() <= PARTS_MAX);
            assert_eq!((parts[0].start, parts[parts.len() - 1].end), (0, length));
            assert!(parts.windows(2).all(|pair| pair[0].end == pair[1].start));
            assert!(
                parts[..parts.len() - 1]
                    .iter()
                    .all(|part| part.len() >= 5 << 20 && part.len() <= length.div_ceil(1000).max(PART_BYTES))
            );
        }
    }

    #[test]
    fn a_part_on_its_way_is_a_view_and_not_a_copy() {
        let bytes = Bytes::from(vec![7; 20 << 20]);
        for range in parts(bytes.len()) {
            assert_eq!(bytes.slice(range.clone()).as_ptr(), bytes[range].as_ptr());
        }
    }
}
