//! Reading records of a collection, in answers that fit into memory.
//!
//! The rule: nobody knows how large a record is before it was read, so an answer that is too long is asked for again in smaller parts; only
//! one record that is too large alone is an error. It only reads, so nothing happens if we die in it.

use std::collections::BTreeMap;

use lethe_stages::{
    ports::{PageLimit, PortError},
    record::{Key, Record, Value},
};
use serde_json::{Map, Value as Json, json};

use super::{
    api::{Api, Got},
    collection::Scope,
};

/// Records of one answer.
pub(super) const RECORDS: usize = 250;

impl Scope {
    /// The records of these ids that are still the plane's, in the order of the ids, within the limit.
    pub(super) async fn page(&self, api: &Api, ids: &[String], limit: PageLimit) -> Result<Vec<Record>, PortError> {
        let (mut page, mut bytes): (Vec<Record>, usize) = (Vec::new(), 0);
        // The first answer is small: nobody knows yet how large a record is.
        let (mut rest, mut size, mut most) = (ids, 1, RECORDS);
        while !rest.is_empty() && page.len() < limit.rows_max {
            let now = &rest[..size.min(rest.len())];
            let (taken, mut records) = self.records(api, now).await?;
            if taken < now.len() {
                most = taken;
            }
            rest = &rest[taken..];
            records.sort_by(|one, other| one.key.cmp(&other.key));
            for record in records {
                bytes += record.size();
                if !page.is_empty() && (bytes > limit.bytes_max || page.len() == limit.rows_max) {
                    return Ok(page);
                }
                page.push(record);
            }
            let left = limit.bytes_max.saturating_sub(bytes);
            let fit = if page.is_empty() { RECORDS } else { left / (bytes / page.len()).max(1) + 1 };
            size = fit.min(most).min(limit.rows_max - page.len()).max(1);
        }
        Ok(page)
    }

    /// The plane's records of the first of these ids, as many as one answer can hold, and how many ids that were.
    pub(super) async fn records(&self, api: &Api, ids: &[String]) -> Result<(usize, Vec<Record>), PortError> {
        let (taken, records) = self.first_of(api, ids, |fields| self.is_ours(fields)).await?;
        let whole = records.into_iter().filter(|record| !self.is_blank(record));
        Ok((taken, whole.map(|record| self.without_mark(record)).collect()))
    }

    /// The records of these ids, whatever they are.
    pub(super) async fn anywhere(&self, api: &Api, ids: &[String]) -> Result<Vec<Record>, PortError> {
        let (mut rest, mut found) = (ids, Vec::with_capacity(ids.len()));
        while !rest.is_empty() {
            let (taken, some) = self.first_of(api, rest, |_| true).await?;
            found.extend(some);
            rest = &rest[taken..];
        }
        Ok(found)
    }

    /// Of the first of these ids, as many as one answer can hold, the records whose metadata are to be kept; and how many ids that were.
    async fn first_of(
        &self,
        api: &Api,
        ids: &[String],
        is_kept: impl Fn(&Map<String, Json>) -> bool,
    ) -> Result<(usize, Vec<Record>), PortError> {
        let Some(collection) = self.collection.as_ref().filter(|_| !ids.is_empty()) else { return Ok((ids.len(), Vec::new())) };
        let doing = api.doing("read", &self.name);
        let mut size = ids.len();
        loop {
            let body = json!({"ids": ids[..size], "include": ["documents", "embeddings", "metadatas", "uris"]});
            match api.get_what_fits(collection, &body, &doing).await? {
                Some(got) => return Ok((size, read(got, is_kept, &doing)?)),
                None if size > 1 => size /= 2,
                None => {
                    return Err(PortError::Permanent(format!("{doing}: a single record is too large to be read into memory")));
                }
            }
        }
    }
}

fn read(got: Got, is_kept: impl Fn(&Map<String, Json>) -> bool, doing: &str) -> Result<Vec<Record>, PortError> {
    let count = got.ids.len();
    let (documents, embeddings) = (got.documents.unwrap_or_default(), got.embeddings.unwrap_or_default());
    let (metadatas, uris) = (got.metadatas.unwrap_or_default(), got.uris.unwrap_or_default());
    if [documents.len(), embeddings.len(), metadatas.len(), uris.len()] != [count; 4] {
        return Err(PortError::Permanent(format!("{doing}: the answer does not give every part of {count} record(s)")));
    }
    let mut records = Vec::with_capacity(count);
    let parts = documents.into_iter().zip(embeddings).zip(metadatas.into_iter().zip(uris));
    for (id, ((document, embedding), (metadata, uri))) in got.ids.into_iter().zip(parts) {
        if !metadata.as_ref().map_or_else(|| is_kept(&Map::new()), &is_kept) {
            continue;
        }
        let text = |text: Option<String>| text.map_or(Value::Null, Value::Text);
        // The server gives the fields in another order each time.
        let metadata = metadata.map(|fields| json!(fields.into_iter().collect::<BTreeMap<_, _>>()).to_string());
        let embedding = embedding.map_or(Value::Null, |numbers| Value::Blob(vector(&numbers)));
        let values = vec![Value::Text(id.clone()), text(document), embedding, text(metadata), text(uri)];
        records.push(Record { key: Key::Text(id), values });
    }
    Ok(records)
}

/// The ids that keys are.
pub(super) fn ids_of<'k>(keys: impl Iterator<Item = &'k Key>, doing: &str) -> Result<Vec<String>, PortError> {
    let id = |key: &Key| match key {
        Key::Text(id) => Ok(id.clone()),
        other => Err(PortError::Permanent(format!("{doing}: {other} is no id of Chroma's: those are texts"))),
    };
    keys.map(id).collect()
}

/// Numbers as float32, little-endian: what Chroma keeps.
pub(super) fn vector(numbers: &[Option<f64>]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.map_or(f32::NAN, |number| number as f32).to_le_bytes()).collect()
}
