//! Knowledge stores in Chroma, over its HTTP API v2: a plane is a collection, or the records of one that carry a metadata value.
//!
//! The rule: Chroma refuses no user and compares nothing when it writes, so what it cannot promise is said in words, and what Lethe
//! needs to remember (whose records these are, and under which epoch) stands in a collection `lethe_fence` of the same database.
//! If we die in a verb, it may be repeated.

mod api;
mod blank;
mod collection;
mod database;
mod erase;
mod fence;
mod proof;
mod read;
mod scrub;

use async_trait::async_trait;
use lethe_stages::{
    Permit,
    lifecycle::FenceMode,
    ports::{Description, EmptinessProof, Erased, FenceReport, KnowledgeStore, PageLimit, PortError, Recurrence},
    record::{Column, ColumnKind, Key, Known, Record, RecordDigest, Salt},
};
use serde_json::Value as Json;
use tokio::sync::Mutex;
use uuid::Uuid;

pub(crate) use self::database::{Database, check, is_chroma};
use self::{api::Api, collection::Scope};
use crate::{Mapping, verdict::covered};

/// What a record of every collection has, in the order of a record's values.
const COLUMNS: [(&str, ColumnKind); 5] = [
    ("id", ColumnKind::Text),
    ("document", ColumnKind::Text),
    ("embedding", ColumnKind::VectorBlob),
    ("metadata", ColumnKind::Text),
    ("uri", ColumnKind::Text),
];
const DOCUMENT: usize = 1;
const EMBEDDING: usize = 2;
const METADATA: usize = 3;
const URI: usize = 4;

/// A plane's records in one collection.
pub(crate) struct ChromaStore {
    database: Database,
    mapping: Mapping,
    plane_id: Uuid,
    /// The plane's ids in their order, as they were when a walk over its pages began: Chroma gives pages in the order of writing.
    walk: Mutex<Option<Vec<String>>>,
}

impl ChromaStore {
    /// Binds the plane. Nothing is opened.
    pub(crate) fn new(database: Database, mapping: Mapping, plane_id: Uuid) -> Self {
        Self { database, mapping, plane_id, walk: Mutex::new(None) }
    }

    /// A connection for one verb, and the plane's place as it is now.
    async fn scope(&self) -> Result<(Api, Scope), PortError> {
        let api = Api::connect(&self.database)?;
        let scope = Scope::resolve(&api, &self.mapping, self.plane_id).await?;
        Ok((api, scope))
    }
}

#[async_trait]
impl KnowledgeStore for ChromaStore {
    async fn describe(&self) -> Result<Description, PortError> {
        let (api, scope) = self.scope().await?;
        scope.can_serve(&api, &self.mapping).await?;
        Ok(Description {
            resource: scope.name.clone(),
            plane_column: scope.plane.as_ref().map(|(field, _)| field.clone()),
            plane_value: scope.plane.as_ref().map(|(_, value)| value.clone()),
            dependents: Vec::new(),
            unfenced: fence::unfenced(),
            fence: scope.fence.as_ref().and_then(|fence| fence.row.stands(self.plane_id)),
        })
    }

    async fn columns(&self) -> Result<Vec<Column>, PortError> {
        let (api, scope) = self.scope().await?;
        scope.only_texts(&api).await?;
        Ok(COLUMNS.iter().map(|(name, kind)| Column { name: (*name).to_owned(), kind: *kind }).collect())
    }

    async fn count(&self) -> Result<u64, PortError> {
        let (api, scope) = self.scope().await?;
        scope.only_texts(&api).await?;
        scope.count(&api).await
    }

    async fn page(&self, after: Option<&Key>, limit: PageLimit) -> Result<Vec<Record>, PortError> {
        let (api, scope) = self.scope().await?;
        let mut walk = self.walk.lock().await;
        if after.is_none() || walk.is_none() {
            scope.only_texts(&api).await?;
            *walk = Some(scope.ids(&api).await?);
        }
        let ids = walk.as_deref().unwrap_or_default();
        let after = match after {
            None => None,
            Some(Key::Text(id)) => Some(id),
            Some(other) => {
                return Err(PortError::Permanent(format!("read {}: {other} is no id of Chroma's: those are texts", scope.name)));
            }
        };
        let begin = after.map_or(0, |after| ids.partition_point(|id| id <= after));
        scope.page(&api, &ids[begin..], limit).await
    }

    async fn fence(&self, mode: FenceMode, epoch: i64) -> Result<FenceReport, PortError> {
        let (api, scope) = self.scope().await?;
        let mode = fence::fence(&api, &scope, self.plane_id, mode, epoch).await?;
        Ok(FenceReport { mode, unfenced: fence::unfenced() })
    }

    async fn unfence(&self, epoch: i64) -> Result<(), PortError> {
        let (api, scope) = self.scope().await?;
        fence::unfence(&api, &scope, self.plane_id, epoch).await
    }

    async fn erase(&self, permit: &Permit, rows: &[(Key, RecordDigest)], salt: Option<&Salt>) -> Result<Erased, PortError> {
        covered(permit, self.plane_id)?;
        let (api, scope) = self.scope().await?;
        erase::erase(&api, &scope, permit, rows, salt).await
    }

    async fn scrub(&self, permit: &Permit) -> Result<Json, PortError> {
        covered(permit, self.plane_id)?;
        let (api, scope) = self.scope().await?;
        scrub::scrub(&api, &scope, permit).await
    }

    async fn prove_empty(&self, samples: &[Record]) -> Result<EmptinessProof, PortError> {
        let (api, scope) = self.scope().await?;
        proof::prove_empty(&api, &scope, self.plane_id, samples).await
    }

    async fn look_again(&self, known: &[Known], salt: &Salt) -> Result<Recurrence, PortError> {
        let api = Api::connect(&self.database)?;
        let scope = Scope::as_found(&api, &self.mapping, self.plane_id).await?;
        proof::look_again(&api, &scope, self.plane_id, known, salt).await
    }
}
