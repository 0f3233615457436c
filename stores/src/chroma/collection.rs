//! A plane's place in a collection: which records are its own, how they are read, and in which order.
//!
//! The rule: a record that an erasure has already blanked is no record of the plane any more; only the erasure itself and the proof of
//! emptiness look at those. It only reads, so nothing happens if we die in it.

use std::collections::BTreeMap;

use lethe_stages::{
    ports::{PageLimit, PortError},
    record::{Key, Record, Value},
};
use serde_json::{Value as Json, json};
use uuid::Uuid;

use super::{
    api::{Api, Collection, Got},
    fence::{self, FENCE, Row},
};
use crate::Mapping;

/// Ids of one page of a list.
const IDS: usize = 5_000;
/// How often a list is asked for again, while it changes.
const LISTS_MAX: usize = 5;
/// Records of one answer.
pub(super) const RECORDS: usize = 250;
/// The metadata field of a record that is being erased: the plane's id. It is blank by then.
pub(super) const BLANK: &str = "lethe_blank";

/// Where a plane's records are.
pub(super) struct Scope {
    /// The collection's name.
    pub(super) name: String,
    /// The metadata field and its value; `None` where the plane owns the collection.
    pub(super) plane: Option<(String, String)>,
    /// The collection; `None` where Lethe has dropped it.
    pub(super) collection: Option<Collection>,
    /// What the fence remembers.
    pub(super) fence: Option<Row>,
    plane_id: Uuid,
}

impl Scope {
    /// Finds the collection, and compares it with what the fence remembers.
    pub(super) async fn resolve(api: &Api, mapping: &Mapping, plane_id: Uuid) -> Result<Self, PortError> {
        let plane = mapping.plane_column.clone().zip(mapping.plane.clone());
        let doing = api.doing("find collection", &mapping.table);
        if mapping.table == FENCE {
            return Err(PortError::Permanent(format!("{doing}: it is Lethe's own")));
        }
        let collection = api.collection(&mapping.table).await?;
        let fence = fence::read(api, &mapping.table, plane.as_ref()).await?;
        // While the plane is open, whatever has the name is its collection.
        let own = fence.as_ref().filter(|row| row.row.plane_id == plane_id.to_string() && !row.is_open());
        match (&collection, own) {
            (None, None) => Err(PortError::Permanent(format!("{doing}: there is none of this name"))),
            (None, Some(row)) if !row.dropped => {
                Err(PortError::WrongPlace(format!("{doing}: it is gone, and was not dropped by Lethe")))
            }
            (Some(found), Some(row)) if !row.dropped && row.collection_id != found.id => {
                Err(PortError::WrongPlace(format!("{doing}: it is another collection than the one that was fenced")))
            }
            _ => Ok(Self { name: mapping.table.clone(), plane, collection, fence, plane_id }),
        }
    }

    /// The collection of this name as it is now, whatever the fence remembers: a probe asks what is there.
    pub(super) async fn as_found(api: &Api, mapping: &Mapping, plane_id: Uuid) -> Result<Self, PortError> {
        let plane = mapping.plane_column.clone().zip(mapping.plane.clone());
        let collection = api.collection(&mapping.table).await?;
        let fence = fence::read(api, &mapping.table, plane.as_ref()).await?;
        Ok(Self { name: mapping.table.clone(), plane, collection, fence, plane_id })
    }

    /// Refuses a mapping that Chroma's records cannot have.
    pub(super) async fn can_serve(&self, api: &Api, mapping: &Mapping) -> Result<(), PortError> {
        let doing = api.doing("describe collection", &self.name);
        let wrong = |why: String| Err(PortError::Permanent(format!("{doing}: {why}")));
        for (word, named, is) in [
            ("key", Some(&mapping.key), "id"),
            ("text", mapping.text.as_ref(), "document"),
            ("embedding", mapping.embedding.as_ref(), "embedding"),
            ("metadata", mapping.metadata.as_ref(), "metadata"),
        ] {
            if let Some(other) = named.filter(|named| *named != is) {
                return wrong(format!("a record of Chroma's has no `{other}`; write {word}={is}"));
            }
        }
        self.only_texts(api).await
    }

    /// Refuses a collection where records name the plane, but not by a text: no condition for texts would find those.
    pub(super) async fn only_texts(&self, api: &Api) -> Result<(), PortError> {
        let (Some((field, value)), Some(collection)) = (&self.plane, &self.collection) else { return Ok(()) };
        let doing = api.doing("look at collection", &self.name);
        let body = json!({"where": other_kinds(field, value), "include": [], "limit": 1});
        match api.get(collection, &body, &doing).await?.ids.is_empty() {
            true => Ok(()),
            false => Err(PortError::Permanent(format!(
                "{doing}: metadata field `{field}` holds {value} as a number, as a bool or in a list, which is no text; Lethe tells planes \
                 apart by texts"
            ))),
        }
    }

    /// The condition under which a record is the plane's; `blank` ones or those that are not.
    fn condition(&self, blank: bool) -> Json {
        let blank = json!({BLANK: {(if blank { "$eq" } else { "$ne" }): self.plane_id.to_string()}});
        match &self.plane {
            None => blank,
            Some((field, value)) => json!({"$and": [{field: {"$eq": value}}, blank]}),
        }
    }

    /// The ids of records that meet the condition, ascending. A list of several pages is asked for until two are the same: whatever is
    /// deleted in between moves another id past the place where the next page begins.
    async fn ids_where(&self, api: &Api, condition: &Json) -> Result<Vec<String>, PortError> {
        let mut before = self.list(api, condition).await?;
        for _ in 0..LISTS_MAX {
            if before.len() < IDS {
                return Ok(before);
            }
            let again = self.list(api, condition).await?;
            if again == before {
                return Ok(again);
            }
            before = again;
        }
        Err(PortError::Transient(format!("{}: it does not hold still", api.doing("list", &self.name))))
    }

    async fn list(&self, api: &Api, condition: &Json) -> Result<Vec<String>, PortError> {
        let Some(collection) = &self.collection else { return Ok(Vec::new()) };
        let doing = api.doing("list", &self.name);
        let mut ids = Vec::new();
        loop {
            let body = json!({"where": condition, "include": [], "limit": IDS, "offset": ids.len()});
            let found = api.get(collection, &body, &doing).await?;
            let more = found.ids.len() == IDS;
            ids.extend(found.ids);
            if !more {
                break;
            }
        }
        ids.sort_unstable();
        ids.dedup();
        Ok(ids)
    }

    /// The plane's ids, ascending.
    pub(super) async fn ids(&self, api: &Api) -> Result<Vec<String>, PortError> {
        self.ids_where(api, &self.condition(false)).await
    }

    /// The ids of records that an erasure has blanked and not yet deleted.
    pub(super) async fn blank_ids(&self, api: &Api) -> Result<Vec<String>, PortError> {
        self.ids_where(api, &self.condition(true)).await
    }

    /// Records of the plane.
    pub(super) async fn count(&self, api: &Api) -> Result<u64, PortError> {
        match (&self.collection, &self.plane) {
            (None, _) => Ok(0),
            (Some(_), Some(_)) => Ok(self.ids(api).await?.len() as u64),
            (Some(collection), None) => {
                let all = api.count(collection, &api.doing("count", &self.name)).await?;
                Ok(all.saturating_sub(self.blank_ids(api).await?.len() as u64))
            }
        }
    }

    /// What is there of the plane in any form: records, blank ones, and such that name it by something else than a text.
    pub(super) async fn remaining(&self, api: &Api) -> Result<u64, PortError> {
        let others = match &self.plane {
            None => 0,
            Some((field, value)) => self.ids_where(api, &other_kinds(field, value)).await?.len(),
        };
        Ok(self.count(api).await? + self.blank_ids(api).await?.len() as u64 + others as u64)
    }

    /// The records of these ids that are still the plane's, in the order of the ids, within the limit.
    pub(super) async fn page(&self, api: &Api, ids: &[String], limit: PageLimit) -> Result<Vec<Record>, PortError> {
        let (mut page, mut bytes): (Vec<Record>, usize) = (Vec::new(), 0);
        // The first answer is small: nobody knows yet how large a record is.
        let (mut rest, mut size) = (ids, 1);
        while !rest.is_empty() && page.len() < limit.rows_max {
            let (now, later) = rest.split_at(size.min(rest.len()));
            rest = later;
            let mut records = self.records(api, now).await?;
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
            size = fit.min(RECORDS).min(limit.rows_max - page.len()).max(1);
        }
        Ok(page)
    }

    /// The plane's records of these ids.
    pub(super) async fn records(&self, api: &Api, ids: &[String]) -> Result<Vec<Record>, PortError> {
        self.get(api, json!({"ids": ids, "where": self.condition(false)}), ids).await
    }

    /// The records of these ids, whatever they are.
    pub(super) async fn anywhere(&self, api: &Api, ids: &[String]) -> Result<Vec<Record>, PortError> {
        self.get(api, json!({"ids": ids}), ids).await
    }

    async fn get(&self, api: &Api, mut body: Json, ids: &[String]) -> Result<Vec<Record>, PortError> {
        let Some(collection) = self.collection.as_ref().filter(|_| !ids.is_empty()) else { return Ok(Vec::new()) };
        body["include"] = json!(["documents", "embeddings", "metadatas", "uris"]);
        let doing = api.doing("read", &self.name);
        read(api.get(collection, &body, &doing).await?, &doing)
    }
}

/// The condition under which a record names the plane by something else than a text: Chroma compares no kinds with each other.
fn other_kinds(field: &str, value: &str) -> Json {
    let word = value.trim();
    let number = word.parse::<f64>().ok().filter(|number| number.is_finite());
    let kinds = [
        word.parse::<i64>().ok().map(|number| json!(number)),
        number.map(|number| json!(number)),
        word.to_lowercase().parse::<bool>().ok().map(|word| json!(word)),
    ];
    let mut any = vec![json!({field: {"$contains": value}})];
    for kind in kinds.into_iter().flatten() {
        any.extend([json!({field: {"$eq": kind}}), json!({field: {"$contains": kind}})]);
    }
    if any.len() == 1 { any.remove(0) } else { json!({"$or": any}) }
}

fn read(got: Got, doing: &str) -> Result<Vec<Record>, PortError> {
    let count = got.ids.len();
    let (documents, embeddings) = (got.documents.unwrap_or_default(), got.embeddings.unwrap_or_default());
    let (metadatas, uris) = (got.metadatas.unwrap_or_default(), got.uris.unwrap_or_default());
    if [documents.len(), embeddings.len(), metadatas.len(), uris.len()] != [count; 4] {
        return Err(PortError::Permanent(format!("{doing}: the answer does not give every part of {count} record(s)")));
    }
    let mut records = Vec::with_capacity(count);
    let parts = documents.into_iter().zip(embeddings).zip(metadatas.into_iter().zip(uris));
    for (id, ((document, embedding), (metadata, uri))) in got.ids.into_iter().zip(parts) {
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
