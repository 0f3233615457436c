//! The fence: a record for each plane in the collection `lethe_fence`, which says whose records these are, how far they are closed, and
//! under which epoch.
//!
//! The rules: it refuses nobody, because Chroma cannot; it is never deleted: it remembers the epoch, and it is the canary that tells this
//! database from another one. Chroma writes without comparing, so of two claims at the same moment the later write stands.

use lethe_stages::{canonical, lifecycle::FenceMode, ports::PortError};
use serde_json::{Value as Json, json};
use uuid::Uuid;

use super::{api::Api, collection::Scope};
use crate::verdict::FenceRow;

/// The collection.
pub(super) const FENCE: &str = "lethe_fence";

/// A plane's record in it.
#[derive(Debug, Clone)]
pub(super) struct Row {
    pub(super) row: FenceRow,
    /// The id of the collection that was fenced: another one under its name is another one.
    pub(super) collection_id: String,
    /// Whether Lethe has dropped that collection, or was about to.
    pub(super) dropped: bool,
}

impl Row {
    /// Whether the plane is in service.
    pub(super) fn is_open(&self) -> bool {
        self.row.mode == "open"
    }
}

/// What a fence cannot refuse.
pub(super) fn unfenced() -> Vec<String> {
    vec![
        "every read and write of Chroma's own users: it knows no such refusal; close its endpoint to them".into(),
        "an older claim that writes at the same moment as a newer one: Chroma compares nothing".into(),
        "what users write to a record between its comparison and its being overwritten, and into a collection between its last count \
         and its drop: that goes unexported"
            .into(),
    ]
}

/// The id of a plane's record: it says nothing to who does not know the plane.
fn id(collection: &str, plane: Option<&(String, String)>) -> String {
    let (field, value) = plane.map_or(("", ""), |(field, value)| (field, value));
    canonical::sha256(format!("{collection}\0{field}\0{value}").as_bytes())
}

/// What the fence remembers of a plane's place.
pub(super) async fn read(api: &Api, name: &str, plane: Option<&(String, String)>) -> Result<Option<Row>, PortError> {
    let Some(fences) = api.collection(FENCE).await? else { return Ok(None) };
    let doing = api.doing("read the fence of", name);
    let found = api.get(&fences, &json!({"ids": [id(name, plane)], "include": ["metadatas"]}), &doing).await?;
    if found.ids.is_empty() {
        return Ok(None);
    }
    let metadata = Json::Object(found.metadatas.unwrap_or_default().into_iter().next().flatten().unwrap_or_default());
    let text = |field: &str| metadata[field].as_str().map(str::to_owned);
    let row = || {
        Some(Row {
            row: FenceRow {
                mode: text("mode")?,
                epoch: metadata["epoch"].as_i64()?,
                plane_id: text("plane_id")?,
                plane_column: text("plane_column")?,
            },
            collection_id: text("collection_id")?,
            dropped: metadata["dropped"].as_bool()?,
        })
    };
    row().map(Some).ok_or_else(|| PortError::Permanent(format!("{doing}: its record in {FENCE} is not as Lethe writes it")))
}

async fn write(api: &Api, scope: &Scope, row: &Row, doing: &str) -> Result<(), PortError> {
    let fences = api.create(FENCE, doing).await?;
    let metadata = json!({
        "mode": row.row.mode, "epoch": row.row.epoch, "plane_id": row.row.plane_id, "plane_column": row.row.plane_column,
        "collection_id": row.collection_id, "dropped": row.dropped,
    });
    let body = json!({"ids": [id(&scope.name, scope.plane.as_ref())], "embeddings": [[1.0]], "metadatas": [metadata]});
    api.on(&fences, "upsert", &body, doing).await?;
    let written = read(api, &scope.name, scope.plane.as_ref()).await?;
    match written.filter(|found| found.row.epoch == row.row.epoch && found.row.plane_id == row.row.plane_id) {
        Some(_) => Ok(()),
        None => Err(PortError::Transient(format!("{doing}: the fence is not what was written"))),
    }
}

/// Refuses another plane than the fence's, and an older epoch.
pub(super) fn admit(scope: &Scope, plane_id: Uuid, epoch: i64, doing: &str) -> Result<(), PortError> {
    let column = scope.plane.as_ref().map_or("", |(field, _)| field);
    scope.fence.as_ref().map_or(Ok(()), |fence| fence.row.admit_plane(doing, plane_id, column, epoch))
}

/// The plane's fence, where it admits this epoch. Nothing is destroyed without: whose records are these?
pub(super) fn held<'s>(scope: &'s Scope, plane_id: Uuid, epoch: i64, doing: &str) -> Result<&'s Row, PortError> {
    admit(scope, plane_id, epoch, doing)?;
    let lost = || PortError::WrongPlace(format!("{doing}: the fence of plane {plane_id} is not in this database"));
    scope.fence.as_ref().ok_or_else(lost)
}

fn set(scope: &Scope, plane_id: Uuid, mode: &str, epoch: i64) -> Row {
    // While the plane was open its users may have made the collection anew.
    let before = scope.fence.as_ref().filter(|row| !row.is_open());
    let found = scope.collection.as_ref().map(|collection| collection.id.clone());
    Row {
        row: FenceRow {
            mode: mode.to_owned(),
            epoch,
            plane_id: plane_id.to_string(),
            plane_column: scope.plane.as_ref().map_or_else(String::new, |(field, _)| field.clone()),
        },
        collection_id: before.map(|row| row.collection_id.clone()).or(found).unwrap_or_default(),
        dropped: before.is_some_and(|row| row.dropped),
    }
}

/// Closes the plane further.
pub(super) async fn fence(api: &Api, scope: &Scope, plane_id: Uuid, mode: FenceMode, epoch: i64) -> Result<FenceMode, PortError> {
    let doing = api.doing("fence", &scope.name);
    admit(scope, plane_id, epoch, &doing)?;
    let mode = FenceRow::closed_further(scope.fence.as_ref().map(|fence| &fence.row), mode);
    write(api, scope, &set(scope, plane_id, mode.as_str(), epoch), &doing).await?;
    Ok(mode)
}

/// Opens the plane; its record stays, and remembers.
pub(super) async fn unfence(api: &Api, scope: &Scope, plane_id: Uuid, epoch: i64) -> Result<(), PortError> {
    let doing = api.doing("open", &scope.name);
    admit(scope, plane_id, epoch, &doing)?;
    match &scope.fence {
        None => Ok(()),
        Some(fence) if fence.row.mode == FenceMode::Purged.as_str() => {
            Err(PortError::Permanent(format!("{doing}: it was purged, and is closed for ever")))
        }
        Some(_) => write(api, scope, &set(scope, plane_id, "open", epoch), &doing).await,
    }
}

/// Remembers whether the collection is about to be dropped by Lethe.
pub(super) async fn to_be_dropped(api: &Api, scope: &Scope, fence: &Row, dropped: bool, doing: &str) -> Result<(), PortError> {
    write(api, scope, &Row { dropped, ..fence.clone() }, doing).await
}

/// The canary, without the plane's value: it stays in the trail for ever.
pub(super) fn canary(row: &Row) -> String {
    let FenceRow { mode, epoch, plane_id, .. } = &row.row;
    format!("record of {FENCE} for plane {plane_id}, mode {mode}, epoch {epoch}, collection {}", row.collection_id)
}
