//! Proving that a plane is gone: by count, by ids and by vectors known from before, over a connection of its own.
//!
//! The rule: nothing found means nothing only where the plane's own fence was found in the same database, and, where the collection was
//! dropped, the server knows neither its name nor its id any more. It only reads, so nothing happens if we die in it.

use std::collections::HashSet;

use lethe_stages::{
    ports::{EmptinessProof, PortError, Recurrence},
    record::{Known, Record, Salt, Value},
};
use serde_json::{Map, Value as Json, json};
use uuid::Uuid;

use super::{
    EMBEDDING, METADATA,
    api::{Api, Collection},
    collection::Scope,
    fence,
    read::{RECORDS, ids_of, vector as as_bytes},
};
use crate::verdict::{different, fence_seen, identical, is_known, known_vectors};

/// Neighbours that a search is asked for.
const NEIGHBOURS: usize = 40;
/// Vectors of one search.
const SEARCHED: usize = 20;

pub(super) async fn prove_empty(
    api: &Api,
    scope: &Scope,
    plane_id: Uuid,
    samples: &[Record],
) -> Result<EmptinessProof, PortError> {
    let doing = api.doing("prove empty", &scope.name);
    let fence = scope.fence.as_ref().filter(|fence| fence.row.plane_id == plane_id.to_string()).ok_or_else(|| {
        PortError::WrongPlace(format!(
            "{doing}: the fence of plane {plane_id} is not in this database, so its silence proves nothing"
        ))
    })?;
    let ids = ids_of(samples.iter().map(|sample| &sample.key), &doing)?.into_iter().collect();
    let known: Vec<_> = different(samples, EMBEDDING).into_iter().filter(|vector| is_finite(vector)).collect();
    let (mut remaining, mut keys_found, mut vectors_found) = (0, 0, 0);
    match &scope.collection {
        None if api.answers_for(&fence.collection_id, &doing).await? => {
            return Err(PortError::WrongPlace(format!("{doing}: it has another name now, and is still there")));
        }
        None => {}
        Some(collection) => {
            remaining = scope.remaining(api).await?;
            for some in samples.chunks(RECORDS) {
                keys_found += still_there(api, scope, some).await?;
            }
            for some in known.chunks(SEARCHED) {
                vectors_found += found_by_search(api, scope, collection, some, &ids, &doing).await?;
            }
        }
    }
    Ok(EmptinessProof {
        remaining,
        keys_probed: samples.len() as u64,
        keys_found,
        vectors_probed: known.len() as u64,
        vectors_found,
        canary: fence::canary(fence),
    })
}

/// Asks again after a purge. Without a fence it answers too: what is there came back, whatever this database is.
pub(super) async fn look_again(
    api: &Api,
    scope: &Scope,
    plane_id: Uuid,
    known: &[Known],
    salt: &Salt,
) -> Result<Recurrence, PortError> {
    let doing = api.doing("look again in", &scope.name);
    let fence = scope.fence.as_ref();
    // The collection that was fenced: still there under another name, or replaced by one that Lethe did not drop it for.
    let elsewhere = match (&scope.collection, fence) {
        (None, Some(fence)) => api.answers_for(&fence.collection_id, &doing).await?,
        (Some(found), Some(fence)) if found.id != fence.collection_id => {
            !fence.dropped || api.answers_for(&fence.collection_id, &doing).await?
        }
        _ => false,
    };
    let vectors = known_vectors(known);
    let vectors: Vec<&Value> = vectors.iter().filter(|vector| is_finite(vector)).collect();
    let ids = ids_of(known.iter().map(|one| &one.key), &doing)?.into_iter().collect();
    let (mut remaining, mut keys_found, mut vectors_found) = (0, 0, 0);
    if let Some(collection) = &scope.collection {
        remaining = scope.remaining(api).await?;
        for some in known.chunks(RECORDS) {
            let found = scope.anywhere(api, &ids_of(some.iter().map(|one| &one.key), &doing)?).await?;
            let same = |one: &Known| found.iter().any(|seen| is_known_here(scope, one, seen, salt));
            keys_found += some.iter().filter(|one| same(one)).count() as u64;
        }
        for some in vectors.chunks(SEARCHED) {
            vectors_found += found_by_search(api, scope, collection, some, &ids, &doing).await?;
        }
    }
    Ok(Recurrence {
        fence: fence_seen(fence.map(|fence| &fence.row), plane_id, !elsewhere),
        remaining,
        keys_probed: known.len() as u64,
        keys_found,
        vectors_probed: vectors.len() as u64,
        vectors_found,
    })
}

/// Whether a record is what is known by its digest: as it is, or with the plane's own value in its metadata.
fn is_known_here(scope: &Scope, known: &Known, seen: &Record, salt: &Salt) -> bool {
    if is_known(known, seen, salt, None) {
        return true;
    }
    let Some((field, value)) = &scope.plane else { return false };
    let mut moved = seen.clone();
    let mut fields: Json = match &seen.values[METADATA] {
        Value::Text(text) => serde_json::from_str(text).unwrap_or_default(),
        _ => json!({}),
    };
    fields[field.as_str()] = json!(value);
    moved.values[METADATA] = Value::Text(fields.to_string());
    is_known(known, &moved, salt, None)
}

/// How many samples are in the collection under their ids, with their content, whatever plane they say they are of.
async fn still_there(api: &Api, scope: &Scope, samples: &[Record]) -> Result<u64, PortError> {
    let ids = ids_of(samples.iter().map(|sample| &sample.key), &api.doing("look for", &scope.name))?;
    let found = scope.anywhere(api, &ids).await?;
    let plain = |record: &Record| without_plane(scope, &record.values[METADATA]);
    let same = |sample: &Record, seen: &Record| {
        let parts = (0..sample.values.len()).filter(|part| *part != METADATA);
        sample.key == seen.key
            && sample.values.len() == seen.values.len()
            && parts.into_iter().all(|part| identical(&sample.values[part], &seen.values[part]))
            && plain(sample) == plain(seen)
    };
    Ok(samples.iter().filter(|sample| found.iter().any(|seen| same(sample, seen))).count() as u64)
}

/// A record's metadata but for the field that tells planes apart.
fn without_plane(scope: &Scope, metadata: &Value) -> Json {
    let mut fields = match metadata {
        Value::Text(text) => serde_json::from_str(text).unwrap_or_default(),
        _ => Json::Null,
    };
    if let (Some(object), Some((field, _))) = (fields.as_object_mut(), &scope.plane) {
        object.remove(field);
    }
    match fields {
        Json::Object(object) if object.is_empty() => Json::Null,
        fields => fields,
    }
}

/// Whether a vector can be searched for: what is no number has no neighbours, and JSON has no word for it.
fn is_finite(vector: &Value) -> bool {
    let Value::Blob(bytes) = vector else { return false };
    bytes.as_chunks::<4>().0.iter().all(|axis| f32::from_le_bytes(*axis).is_finite())
}

/// How many of these vectors a record of the plane still has, or one of no plane that has one of these `ids`, among the nearest neighbours
/// of the vector itself.
async fn found_by_search(
    api: &Api,
    scope: &Scope,
    collection: &Collection,
    known: &[&Value],
    ids: &HashSet<String>,
    doing: &str,
) -> Result<u64, PortError> {
    let bytes = |value: &&&Value| if let Value::Blob(bytes) = **value { Some(bytes.clone()) } else { None };
    let vectors: Vec<Vec<u8>> = known.iter().filter_map(|value| bytes(&value)).collect();
    // A server refuses a search by vectors of another length than its own: no record has those.
    let vectors: Vec<_> = vectors.into_iter().filter(|vector| Some(vector.len() / 4) == collection.dimension).collect();
    if vectors.is_empty() {
        return Ok(0);
    }
    let numbers: Vec<Vec<f32>> =
        vectors.iter().map(|vector| vector.as_chunks::<4>().0.iter().map(|four| f32::from_le_bytes(*four)).collect()).collect();
    let mut found = vec![false; vectors.len()];
    let whole = json!({"query_embeddings": numbers, "n_results": NEIGHBOURS, "include": ["embeddings", "metadatas"]});
    let mut searches = vec![whole.clone()];
    if let Some((field, value)) = &scope.plane {
        let mut scoped = whole;
        scoped["where"] = json!({field: {"$eq": value}});
        searches.push(scoped);
    }
    for search in searches {
        let nearest = api.nearest(collection, &search, doing).await?;
        if nearest.embeddings.len() != vectors.len() || nearest.ids.len() != vectors.len() {
            return Err(PortError::Permanent(format!(
                "{doing}: a search for {} vector(s) answers for {}",
                vectors.len(),
                nearest.ids.len()
            )));
        }
        let answers = nearest.ids.iter().zip(&nearest.embeddings).zip(&nearest.metadatas);
        for ((vector, found), ((named, embeddings), metadatas)) in vectors.iter().zip(&mut found).zip(answers) {
            let mut each = named.iter().zip(embeddings).zip(metadatas);
            *found |= each.any(|((id, embedding), metadata)| {
                let is_it = embedding.as_ref().is_some_and(|numbers| as_bytes(numbers) == *vector);
                is_it && ours(scope, metadata.as_ref(), ids.contains(id))
            });
        }
    }
    Ok(found.into_iter().filter(|found| *found).count() as u64)
}

/// Whether a record that has a vector of the plane's is the plane's. One outside its scope may be anybody's who has embedded the same
/// text, so there it must have the id of a record that is known, and be nobody's or of a plane whose name looks the same.
fn ours(scope: &Scope, metadata: Option<&Map<String, Json>>, is_known: bool) -> bool {
    let Some((field, value)) = &scope.plane else { return true };
    match metadata.and_then(|metadata| metadata.get(field)) {
        None | Some(Json::Null) => is_known,
        Some(Json::String(text)) => text == value || (is_known && text.trim().to_lowercase() == value.trim().to_lowercase()),
        Some(other) => is_known && value.trim().parse::<Json>().is_ok_and(|value| value == *other),
    }
}
