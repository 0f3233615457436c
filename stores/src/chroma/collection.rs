//! A plane's place in a collection: which collection that is, and which records of it are the plane's.
//!
//! The rule: a record that an erasure has already blanked is no record of the plane any more; only the erasure itself and the proof of
//! emptiness look at those. It only reads, so nothing happens if we die in it.

use std::collections::HashSet;

use lethe_stages::ports::PortError;
use serde_json::{Map, Value as Json, json};
use uuid::Uuid;

use super::{
    api::{Api, Collection},
    fence::{self, FENCE, Row},
};
use crate::Mapping;

/// Ids of one page of a list.
const IDS: usize = 5_000;
/// How often a list is asked for again, while it changes.
const LISTS_MAX: usize = 5;
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
    pub(super) plane_id: Uuid,
}

/// The name of a collection while it is dropped: nobody else uses it.
pub(super) fn aside(collection_id: &str) -> String {
    format!("lethe-{collection_id}")
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
        let collection = match (collection, own) {
            (None, None) => return Err(PortError::Permanent(format!("{doing}: there is none of this name"))),
            (found, None) => found,
            (Some(found), Some(row)) if found.id == row.collection_id => Some(found),
            (found, Some(row)) if row.dropped => Self::after_drop(api, found, row, &doing).await?,
            (None, Some(_)) => return Err(PortError::WrongPlace(format!("{doing}: it is gone, and was not dropped by Lethe"))),
            (Some(_), Some(_)) => {
                return Err(PortError::WrongPlace(format!("{doing}: it is another collection than the one that was fenced")));
            }
        };
        Ok(Self { name: mapping.table.clone(), plane, collection, fence, plane_id })
    }

    /// The plane's collection after its drop was begun: the one that was fenced, as long as it waits to be dropped, and then whatever has
    /// its name.
    async fn after_drop(
        api: &Api,
        found: Option<Collection>,
        fenced: &Row,
        doing: &str,
    ) -> Result<Option<Collection>, PortError> {
        if let Some(waiting) =
            api.collection(&aside(&fenced.collection_id)).await?.filter(|aside| aside.id == fenced.collection_id)
        {
            return Ok(Some(waiting));
        }
        if api.answers_for(&fenced.collection_id, doing).await? {
            return Err(PortError::WrongPlace(format!("{doing}: it has another name now, and is still there")));
        }
        Ok(found)
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

    /// Whether a record with this metadata is the plane's, blank or not.
    pub(super) fn is_ours(&self, fields: &Map<String, Json>) -> bool {
        self.plane.as_ref().is_none_or(|(field, value)| fields.get(field).and_then(Json::as_str) == Some(value))
    }

    /// The ids of records that meet the condition, or of all where it is null, ascending. A list of several pages is asked for until two are
    /// the same: whatever is deleted in between moves another id past the place where the next page begins.
    pub(super) async fn ids_where(&self, api: &Api, condition: &Json) -> Result<Vec<String>, PortError> {
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

    /// The plane's ids, ascending; without those of blank records.
    pub(super) async fn ids(&self, api: &Api) -> Result<Vec<String>, PortError> {
        let mut ids = self.ids_where(api, &self.own()).await?;
        let (blank, _) = self.marked(api).await?;
        if !blank.is_empty() {
            let blank: HashSet<String> = blank.into_iter().collect();
            ids.retain(|id| !blank.contains(id));
        }
        Ok(ids)
    }

    /// Records of the plane; without blank ones.
    pub(super) async fn count(&self, api: &Api) -> Result<u64, PortError> {
        Ok(self.all(api).await?.saturating_sub(self.marked(api).await?.0.len() as u64))
    }

    /// What is there of the plane in any form: records, blank ones, and such that name it by something else than a text.
    pub(super) async fn remaining(&self, api: &Api) -> Result<u64, PortError> {
        let others = match &self.plane {
            None => 0,
            Some((field, value)) => self.ids_where(api, &other_kinds(field, value)).await?.len(),
        };
        Ok(self.all(api).await? + others as u64)
    }

    async fn all(&self, api: &Api) -> Result<u64, PortError> {
        match (&self.collection, &self.plane) {
            (None, _) => Ok(0),
            (Some(_), Some(_)) => Ok(self.ids_where(api, &self.own()).await?.len() as u64),
            (Some(collection), None) => api.count(collection, &api.doing("count", &self.name)).await,
        }
    }

    /// The condition under which a record is the plane's; null where all are.
    fn own(&self) -> Json {
        self.plane.as_ref().map_or(Json::Null, |(field, value)| json!({field: {"$eq": value}}))
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
