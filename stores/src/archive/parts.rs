//! An archive made of objects: records as Parquet parts, manifests as they are.
//!
//! The rule: what is said of a part is said of the bytes that were read. The same draft encrypted twice is not the same bytes, because a
//! nonce is never used again: there, a part that is there already is decrypted and compared record by record, and is the part if it is
//! equal. If we die in a write, the object is there whole or not at all.

use std::sync::Arc;

use async_trait::async_trait;
use lethe_stages::{
    Permit, canonical,
    manifest::{Part, UNENCRYPTED},
    ports::{Archive, PartContents, PartDraft, PortError},
    record::{Column, Record},
};
use uuid::Uuid;

use super::{
    decode::decode,
    encode,
    key::{ArchiveKey, Place},
    object::Objects,
};

/// One plane's archive.
pub(super) struct ParquetArchive {
    objects: Arc<dyn Objects>,
    prefix: String,
    plane_id: Uuid,
    key: Option<ArchiveKey>,
}

impl ParquetArchive {
    pub(super) fn new(objects: Arc<dyn Objects>, prefix: String, plane_id: Uuid, key: Option<ArchiveKey>) -> Self {
        Self { objects, prefix, plane_id, key }
    }

    fn place(&self, key: &str) -> Place {
        Place::of(self.plane_id, key)
    }

    /// Decodes an object's bytes, where it takes no thread from others.
    async fn decoded(&self, key: &str, bytes: Vec<u8>, columns: &[Column]) -> Result<PartContents, PortError> {
        let failed = |error: String| PortError::Permanent(format!("decode {key}: {error}"));
        let decryption = self.key.as_ref().map(|own| own.decrypts(&self.place(key))).transpose().map_err(failed)?;
        let (part_key, columns) = (key.to_owned(), columns.to_vec());
        let contents = tokio::task::spawn_blocking(move || {
            let (bytes, encrypted) = (bytes::Bytes::from(bytes), decryption.is_some());
            let decoded = decode(bytes.clone(), &columns, decryption)?;
            let part = part(&part_key, decoded.digests.len(), &bytes, if encrypted { &[] } else { &decoded.records });
            Ok::<_, String>(PartContents { part, records: decoded.records, digests: decoded.digests })
        })
        .await
        // A panic of the decoder is one more way to say that the bytes are no part.
        .unwrap_or_else(|error| Err(error.to_string()));
        contents.map_err(failed)
    }

    /// The part that is there already, where it holds what the draft does. Only encrypted ones may differ in their bytes.
    async fn present(&self, draft: &PartDraft<'_>, bytes: Vec<u8>) -> Result<Part, PortError> {
        let key = draft.key;
        let other = || PortError::Permanent(format!("write {key}: object {key} exists with other bytes"));
        if self.key.is_none() {
            return Err(other());
        }
        let found = self.decoded(key, bytes, draft.columns).await?;
        // By digests: they tell -0.0 from 0.0, and a NaN equals itself.
        let whole = found.records.iter().map(|record| record.digest(None)).eq(found.digests.iter().copied());
        let equal = found.digests == draft.digests && (draft.records.is_empty() || whole);
        if equal { Ok(found.part) } else { Err(other()) }
    }

    fn covered_by(&self, permit: &Permit) -> Result<(), PortError> {
        if permit.plane_id() == self.plane_id {
            return Ok(());
        }
        Err(PortError::Permanent(format!(
            "delete from the archive of plane {}: the permit is for plane {}",
            self.plane_id,
            permit.plane_id()
        )))
    }
}

/// What is said of a part. Where it is encrypted, `records` is empty: the keys of its first and last record are content too.
fn part(key: &str, rows: usize, bytes: &[u8], records: &[Record]) -> Part {
    Part {
        key: key.to_owned(),
        rows: rows as u64,
        bytes: bytes.len() as u64,
        sha256: canonical::sha256(bytes),
        first_key: records.first().map(|record| record.key.clone()),
        last_key: records.last().map(|record| record.key.clone()),
    }
}

#[async_trait]
impl Archive for ParquetArchive {
    fn prefix(&self) -> String {
        self.prefix.clone()
    }

    fn encryption(&self) -> String {
        self.key.as_ref().map_or_else(|| UNENCRYPTED.to_owned(), ArchiveKey::scheme)
    }

    async fn probe(&self) -> Result<String, PortError> {
        self.objects.probe().await
    }

    async fn write_part(&self, draft: PartDraft<'_>) -> Result<Part, PortError> {
        let encoded = encode::lay_out(&draft)?;
        // An inventory is taken again from its beginning: what is there is found before another version of it is written.
        if self.key.is_some()
            && draft.records.is_empty()
            && let Some(bytes) = self.objects.get(draft.key).await?
        {
            return self.present(&draft, bytes).await;
        }
        let encryption = self.key.as_ref().map(|key| key.encrypts(&self.place(draft.key))).transpose()?;
        let key = draft.key.to_owned();
        let bytes = tokio::task::spawn_blocking(move || encoded.write(&key, encryption)).await;
        let bytes = bytes.map_err(|error| PortError::Permanent(format!("encode {}: {error}", draft.key)))??;
        let shown = if self.key.is_some() { &[] } else { draft.records };
        let part = part(draft.key, draft.digests.len(), &bytes, shown);
        match self.objects.put_new(draft.key, bytes).await? {
            None => Ok(part),
            Some(present) => self.present(&draft, present).await,
        }
    }

    async fn read_part(&self, key: &str, columns: &[Column]) -> Result<Option<PartContents>, PortError> {
        let Some(bytes) = self.objects.get(key).await? else { return Ok(None) };
        self.decoded(key, bytes, columns).await.map(Some)
    }

    async fn put(&self, key: &str, bytes: &[u8]) -> Result<(), PortError> {
        self.objects.put_replace(key, bytes.to_vec()).await
    }

    async fn get(&self, key: &str) -> Result<Option<Vec<u8>>, PortError> {
        self.objects.get(key).await
    }

    async fn list(&self) -> Result<Vec<String>, PortError> {
        self.objects.list().await
    }

    async fn may_delete(&self, permit: &Permit) -> Result<(), PortError> {
        self.covered_by(permit)?;
        self.objects.may_delete().await
    }

    async fn delete(&self, permit: &Permit, keys: &[String]) -> Result<(), PortError> {
        self.covered_by(permit)?;
        self.objects.delete(keys).await
    }

    async fn close(&self, permit: &Permit) -> Result<(), PortError> {
        self.covered_by(permit)?;
        self.objects.close().await
    }
}
