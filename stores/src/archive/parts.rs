//! An archive made of objects: records as Parquet parts, manifests as they are.
//!
//! The rule: what is said of a part is said of the bytes that were read. If we die in a write, the object is there whole or not at all.

use std::sync::Arc;

use async_trait::async_trait;
use lethe_stages::{
    Permit, canonical,
    manifest::Part,
    ports::{Archive, PartContents, PartDraft, PortError},
    record::{Column, Record},
};
use uuid::Uuid;

use super::{decode::decode, encode, object::Objects};

/// One plane's archive.
pub(super) struct ParquetArchive {
    objects: Arc<dyn Objects>,
    prefix: String,
    plane_id: Uuid,
}

impl ParquetArchive {
    pub(super) fn new(objects: Arc<dyn Objects>, prefix: String, plane_id: Uuid) -> Self {
        Self { objects, prefix, plane_id }
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

    async fn probe(&self) -> Result<String, PortError> {
        self.objects.probe().await
    }

    async fn write_part(&self, draft: PartDraft<'_>) -> Result<Part, PortError> {
        let encoded = encode::lay_out(&draft)?;
        let key = draft.key.to_owned();
        let bytes = tokio::task::spawn_blocking(move || encoded.write(&key)).await;
        let bytes = bytes.map_err(|error| PortError::Permanent(format!("encode {}: {error}", draft.key)))??;
        let part = part(draft.key, draft.digests.len(), &bytes, draft.records);
        self.objects.put_new(draft.key, bytes).await?;
        Ok(part)
    }

    async fn read_part(&self, key: &str, columns: &[Column]) -> Result<Option<PartContents>, PortError> {
        let Some(bytes) = self.objects.get(key).await? else { return Ok(None) };
        let (part_key, columns) = (key.to_owned(), columns.to_vec());
        let contents = tokio::task::spawn_blocking(move || {
            let bytes = bytes::Bytes::from(bytes);
            let decoded = decode(bytes.clone(), &columns)?;
            let part = part(&part_key, decoded.digests.len(), &bytes, &decoded.records);
            Ok::<_, String>(PartContents { part, records: decoded.records, digests: decoded.digests })
        })
        .await
        // A panic of the decoder is one more way to say that the bytes are no part.
        .unwrap_or_else(|error| Err(error.to_string()));
        contents.map(Some).map_err(|error| PortError::Permanent(format!("decode {key}: {error}")))
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
