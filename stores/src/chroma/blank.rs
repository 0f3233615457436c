//! Records on their way out: overwritten first, looked at, and deleted only as long as they are blank.
//!
//! The rule: a record's vector is overwritten before it is deleted, because Chroma's index file keeps the vectors of deleted records; no
//! two are overwritten alike, because the index leads the neighbours' searches through what was deleted, and out of many equal points no
//! link leads on. A blank record has no text, no metadata but its plane and a mark, and a vector that is made of its id: whatever
//! users write into it afterwards shows, and then it is no record to delete but one to export.
//! If we die between the two, the next call to erase or scrub deletes what is still blank.

use std::collections::{BTreeMap, HashSet};

use lethe_stages::{
    ports::{Erased, PortError},
    record::{Key, Record, Value},
};
use serde_json::{Map, Value as Json, json};
use sha2::{Digest as _, Sha256};

use super::{
    DOCUMENT, EMBEDDING, METADATA, URI,
    api::{Api, Collection},
    collection::{BLANK, Scope},
    read::{RECORDS, ids_of},
};

/// How near the direction of a blank record's vector is to the one that was written: spaces may have scaled it.
const SAME_DIRECTION: f64 = 0.999;

/// A plane's collection, while records of it are overwritten and deleted.
pub(super) struct Blanks<'a> {
    pub(super) api: &'a Api,
    pub(super) scope: &'a Scope,
    pub(super) collection: &'a Collection,
    pub(super) doing: &'a str,
}

impl Blanks<'_> {
    /// Overwrites records, looks at what they are then, and deletes those that are blank. Adds up what became of them.
    pub(super) async fn overwrite_and_delete(&self, records: &[Record], sum: &mut Erased) -> Result<(), PortError> {
        if records.is_empty() {
            return Ok(());
        }
        let ids = ids_of(records.iter().map(|record| &record.key), self.doing)?;
        let length = mean_length(records);
        let vectors: Vec<_> = ids.iter().zip(records).map(|(id, record)| noise(id, vector(record).count(), length)).collect();
        let metadatas: Vec<_> = records.iter().map(|record| self.nothing_but_the_mark(record)).collect();
        let empty = vec![""; ids.len()];
        let body = json!({"ids": ids, "embeddings": vectors, "documents": empty, "uris": empty, "metadatas": metadatas});
        self.api.on(self.collection, "update", &body, self.doing).await?;
        let seen = self.scope.anywhere(self.api, &ids).await?;
        // A record that is as it was: nobody else could have written that after us, the mark would be there.
        if let Some(same) = seen.iter().find(|seen| records.contains(seen)) {
            return Err(PortError::Permanent(format!(
                "{}: the server says that it has overwritten record {}, and it is as it was",
                self.doing, same.key
            )));
        }
        sum.absent += (ids.len() - seen.len()) as u64;
        let (blank, written): (Vec<_>, Vec<_>) = seen.iter().partition(|seen| self.scope.is_blank(seen));
        let marked = written.iter().filter(|record| self.scope.is_marked(record));
        self.unmark(&ids_of(marked.map(|record| &record.key), self.doing)?).await?;
        let kept = self.delete(&ids_of(blank.iter().map(|record| &record.key), self.doing)?).await?;
        sum.erased += (blank.len() - kept) as u64;
        sum.changed += (written.len() + kept) as u64;
        Ok(())
    }

    /// Deletes what an erasure before this one had overwritten and not yet deleted, and takes the mark from what was written anew since
    /// then. Answers what was deleted.
    pub(super) async fn finish(&self) -> Result<HashSet<Key>, PortError> {
        let (blank, written) = self.scope.marked(self.api).await?;
        for some in blank.chunks(RECORDS) {
            self.delete(some).await?;
        }
        for some in written.chunks(RECORDS) {
            self.unmark(some).await?;
        }
        Ok(blank.into_iter().map(Key::Text).collect())
    }

    /// Deletes blank records, and looks: the server says `deleted` of whatever was named. Answers how many users had written to meanwhile,
    /// which stay.
    async fn delete(&self, ids: &[String]) -> Result<usize, PortError> {
        if ids.is_empty() {
            return Ok(0);
        }
        // The narrower condition first: Chroma goes through all that meet the first one for each id.
        let mark = json!({BLANK: {"$eq": self.scope.plane_id.to_string()}});
        let condition = match &self.scope.plane {
            None => mark,
            Some((field, value)) => json!({"$and": [mark, {field: {"$eq": value}}]}),
        };
        let body = json!({"ids": ids, "where": condition, "where_document": {"$regex": "^$"}});
        self.api.on(self.collection, "delete", &body, self.doing).await?;
        let left = self.scope.anywhere(self.api, ids).await?;
        let still = left.iter().filter(|left| self.scope.is_blank(left)).count();
        if still > 0 {
            let doing = self.doing;
            return Err(PortError::Transient(format!("{doing}: {still} record(s) are still there after they were deleted")));
        }
        let marked = left.iter().filter(|record| self.scope.is_marked(record));
        self.unmark(&ids_of(marked.map(|record| &record.key), self.doing)?).await?;
        Ok(left.len())
    }

    /// Makes records that somebody wrote to while they were marked records like any other.
    async fn unmark(&self, ids: &[String]) -> Result<(), PortError> {
        if ids.is_empty() {
            return Ok(());
        }
        let metadatas = vec![json!({BLANK: null}); ids.len()];
        self.api.on(self.collection, "update", &json!({"ids": ids, "metadatas": metadatas}), self.doing).await.map(drop)
    }

    /// The metadata that leaves a record its plane and the mark: Chroma merges what it is given, and forgets what is null.
    fn nothing_but_the_mark(&self, record: &Record) -> Json {
        let mut fields: Map<String, Json> = metadata(record).into_iter().map(|(field, _)| (field, Json::Null)).collect();
        if let Some((field, _)) = &self.scope.plane {
            fields.remove(field);
        }
        fields.insert(BLANK.to_owned(), json!(self.scope.plane_id.to_string()));
        Json::Object(fields)
    }
}

impl Scope {
    /// Whether a record is still what an erasure made of it.
    pub(super) fn is_blank(&self, record: &Record) -> bool {
        let Key::Text(id) = &record.key else { return false };
        if !self.is_marked(record) {
            return false;
        }
        let no_text = |part: usize| matches!(&record.values[part], Value::Text(text) if text.is_empty());
        let mut left = metadata(record);
        left.remove(BLANK);
        let is_ours = self.plane.as_ref().is_none_or(|(field, value)| left.remove(field) == Some(json!(value)));
        let dimension = vector(record).count();
        let is_noise = dimension == 0 || cosine(noise(id, dimension, 1.0).into_iter(), vector(record)) > SAME_DIRECTION;
        is_ours && left.is_empty() && no_text(DOCUMENT) && no_text(URI) && is_noise
    }

    /// Whether a record has the mark. Most have not, and their metadata are not read for it.
    fn is_marked(&self, record: &Record) -> bool {
        let may_be = matches!(&record.values[METADATA], Value::Text(text) if text.contains(BLANK));
        may_be && metadata(record).get(BLANK) == Some(&json!(self.plane_id.to_string()))
    }

    /// Takes the mark from a record that is read: it is no part of it.
    pub(super) fn without_mark(&self, mut record: Record) -> Record {
        if self.is_marked(&record) {
            let fields: BTreeMap<_, _> = metadata(&record).into_iter().filter(|(field, _)| field != BLANK).collect();
            record.values[METADATA] = if fields.is_empty() { Value::Null } else { Value::Text(json!(fields).to_string()) };
        }
        record
    }

    /// The ids of records that an erasure has marked, whosever they are by now: of those that are blank, and of those that somebody has
    /// written to.
    pub(super) async fn marked(&self, api: &Api) -> Result<(Vec<String>, Vec<String>), PortError> {
        let mark = json!({BLANK: {"$eq": self.plane_id.to_string()}});
        let (mut blank, mut written) = (Vec::new(), Vec::new());
        for some in self.ids_where(api, &mark).await?.chunks(RECORDS) {
            let (is_blank, is_written): (Vec<_>, Vec<_>) =
                self.anywhere(api, some).await?.into_iter().partition(|record| self.is_blank(record));
            blank.extend(ids_of(is_blank.iter().map(|record| &record.key), &self.name)?);
            written.extend(ids_of(is_written.iter().map(|record| &record.key), &self.name)?);
        }
        Ok((blank, written))
    }
}

fn metadata(record: &Record) -> Map<String, Json> {
    match &record.values[METADATA] {
        Value::Text(text) => serde_json::from_str(text).unwrap_or_default(),
        _ => Map::new(),
    }
}

/// The axes of a record's vector.
fn vector(record: &Record) -> impl Iterator<Item = f32> {
    let bytes: &[u8] = if let Value::Blob(bytes) = &record.values[EMBEDDING] { bytes } else { &[] };
    bytes.chunks_exact(4).map(|axis| f32::from_le_bytes(axis.try_into().expect("four bytes")))
}

/// The mean length of the records' vectors, so that what takes their place lies where the collection's vectors lie.
fn mean_length(records: &[Record]) -> f32 {
    let sum: f32 = records.iter().map(|record| vector(record).map(|axis| axis * axis).sum::<f32>().sqrt()).sum();
    let mean = sum / records.len().max(1) as f32;
    if mean.is_normal() { mean } else { 1.0 }
}

/// A vector of about the given length, whose direction tells nothing but the record's id.
fn noise(id: &str, dimension: usize, length: f32) -> Vec<f32> {
    let bytes: Vec<u8> = (0..dimension.div_ceil(8)).flat_map(|block| Sha256::digest(format!("{block}\0{id}"))).collect();
    // Uniform in [-1, 1], whose mean square is 1/3.
    let scale = length / (dimension as f32 / 3.0).sqrt();
    let axis = |word: &[u8]| u32::from_le_bytes(word.try_into().expect("four bytes")) as f32 / u32::MAX as f32 * 2.0 - 1.0;
    bytes.chunks_exact(4).take(dimension).map(|word| axis(word) * scale).collect()
}

/// The cosine of the angle between two vectors.
fn cosine(one: impl Iterator<Item = f32>, other: impl Iterator<Item = f32>) -> f64 {
    let (mut both, mut first, mut second) = (0.0, 0.0, 0.0);
    for (one, other) in one.zip(other).map(|(one, other)| (f64::from(one), f64::from(other))) {
        both += one * other;
        first += one * one;
        second += other * other;
    }
    both / (first * second).sqrt()
}
