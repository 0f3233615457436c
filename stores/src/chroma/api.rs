//! Chroma's HTTP API v2, as far as it is needed: paths, and what its errors mean.
//!
//! The rule: a collection is looked up by its name in the database that was bound, never taken by an id alone: the server answers ids
//! under any database. It keeps nothing, so nothing happens if we die in it.

use hyper::{Method, StatusCode};
use lethe_stages::ports::PortError;
use serde::Deserialize;
use serde_json::{Map, Value as Json, json};

use super::Database;
use crate::{
    http::{Client, Reply, unreadable},
    percent,
};

/// Collections of one answer.
const LISTED: usize = 500;

/// A connection to a server, for one verb.
pub(super) struct Api {
    pub(super) database: Database,
    client: Client,
    root: String,
}

/// A collection as the server knows it.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Collection {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) dimension: Option<usize>,
    #[serde(default, rename = "configuration_json")]
    pub(super) configuration: Json,
}

/// The numbers of an embedding; null is one that is no number, as large values become in some spaces.
pub(super) type Vector = Vec<Option<f64>>;

/// What `get` answers: one of each for every id, where it was asked for.
#[derive(Debug, Deserialize)]
pub(super) struct Got {
    pub(super) ids: Vec<String>,
    pub(super) documents: Option<Vec<Option<String>>>,
    pub(super) embeddings: Option<Vec<Option<Vector>>>,
    pub(super) metadatas: Option<Vec<Option<Map<String, Json>>>>,
    pub(super) uris: Option<Vec<Option<String>>>,
}

/// What `query` answers: the same, for each vector that was asked for.
#[derive(Debug, Deserialize)]
pub(super) struct Nearest {
    pub(super) ids: Vec<Vec<String>>,
    pub(super) embeddings: Vec<Vec<Option<Vector>>>,
    pub(super) metadatas: Vec<Vec<Option<Map<String, Json>>>>,
}

impl Api {
    pub(super) fn connect(database: &Database) -> Result<Self, PortError> {
        let root = database.address.clone().at_path("/api/v2");
        let path = format!("/tenants/{}/databases/{}", percent::encode(&database.tenant), percent::encode(&database.name));
        Ok(Self {
            client: Client::new(&root, "x-chroma-token", "")?.with_large_answers(),
            database: database.clone(),
            root: path,
        })
    }

    /// The path of something in the database.
    pub(super) fn path(&self, below: &str) -> String {
        format!("{}{below}", self.root)
    }

    /// What messages call a collection.
    pub(super) fn doing(&self, what: &str, collection: &str) -> String {
        format!("{what} {collection} at {}", self.database.shown())
    }

    async fn reply(&self, method: Method, path: &str, body: Option<&Json>, doing: &str) -> Result<Reply, PortError> {
        self.client.ask(method, path, body, doing).await
    }

    /// Asks; any status but a success is an error.
    pub(super) async fn ask(&self, method: Method, path: &str, body: Option<&Json>, doing: &str) -> Result<Json, PortError> {
        let reply = self.reply(method, path, body, doing).await?;
        if !reply.status.is_success() {
            return Err(reply.refused(doing));
        }
        reply.read(doing)
    }

    fn verb(&self, collection: &Collection, verb: &str) -> String {
        self.path(&format!("/collections/{}/{verb}", percent::encode(&collection.id)))
    }

    /// The collection of this name; `None` only where its database was found and has none.
    pub(super) async fn collection(&self, name: &str) -> Result<Option<Collection>, PortError> {
        let doing = self.doing("find collection", name);
        let reply = self.reply(Method::GET, &self.path(&format!("/collections/{}", percent::encode(name))), None, &doing).await?;
        match reply.status {
            StatusCode::OK => reply.read(&doing).map(Some),
            StatusCode::NOT_FOUND => {
                self.ask(Method::GET, &self.path(""), None, &doing).await?;
                Ok(None)
            }
            _ => Err(reply.refused(&doing)),
        }
    }

    /// The names of all collections.
    pub(super) async fn collections(&self, doing: &str) -> Result<Vec<String>, PortError> {
        let mut names = Vec::new();
        loop {
            let path = self.path(&format!("/collections?limit={LISTED}&offset={}", names.len()));
            let found: Vec<Collection> = read(self.ask(Method::GET, &path, None, doing).await?, doing)?;
            let more = found.len() == LISTED;
            names.extend(found.into_iter().map(|collection| collection.name));
            if !more {
                return Ok(names);
            }
        }
    }

    /// Makes the collection, if there is none.
    pub(super) async fn create(&self, name: &str, doing: &str) -> Result<Collection, PortError> {
        let body = json!({"name": name, "get_or_create": true});
        read(self.ask(Method::POST, &self.path("/collections"), Some(&body), doing).await?, doing)
    }

    /// Gives the collection another name, whatever name it has now.
    pub(super) async fn rename(&self, collection: &Collection, name: &str, doing: &str) -> Result<(), PortError> {
        let path = self.path(&format!("/collections/{}", percent::encode(&collection.id)));
        self.ask(Method::PUT, &path, Some(&json!({"new_name": name})), doing).await.map(drop)
    }

    /// Removes the collection; one that is gone is no error.
    pub(super) async fn drop_collection(&self, name: &str, doing: &str) -> Result<(), PortError> {
        let reply =
            self.reply(Method::DELETE, &self.path(&format!("/collections/{}", percent::encode(name))), None, doing).await?;
        match reply.status.is_success() || reply.status == StatusCode::NOT_FOUND {
            true => Ok(()),
            false => Err(reply.refused(doing)),
        }
    }

    /// Whether the server still answers for a collection's id.
    pub(super) async fn answers_for(&self, id: &str, doing: &str) -> Result<bool, PortError> {
        let reply =
            self.reply(Method::GET, &self.path(&format!("/collections/{}/count", percent::encode(id))), None, doing).await?;
        match reply.status {
            StatusCode::NOT_FOUND => Ok(false),
            status if status.is_success() => Ok(true),
            _ => Err(reply.refused(doing)),
        }
    }

    /// Posts to a verb of the collection.
    pub(super) async fn on(&self, collection: &Collection, verb: &str, body: &Json, doing: &str) -> Result<Json, PortError> {
        self.ask(Method::POST, &self.verb(collection, verb), Some(body), doing).await
    }

    /// Records, as `body` asks for them.
    pub(super) async fn get(&self, collection: &Collection, body: &Json, doing: &str) -> Result<Got, PortError> {
        read(self.on(collection, "get", body, doing).await?, doing)
    }

    /// The same; `None` where the answer is longer than is to be held in memory.
    pub(super) async fn get_what_fits(
        &self,
        collection: &Collection,
        body: &Json,
        doing: &str,
    ) -> Result<Option<Got>, PortError> {
        let reply = self.reply(Method::POST, &self.verb(collection, "get"), Some(body), doing).await?;
        match reply.status.is_success() {
            true if !reply.is_whole => Ok(None),
            true => reply.read(doing).map(Some),
            false => Err(reply.refused(doing)),
        }
    }

    /// The nearest neighbours of vectors.
    pub(super) async fn nearest(&self, collection: &Collection, body: &Json, doing: &str) -> Result<Nearest, PortError> {
        read(self.on(collection, "query", body, doing).await?, doing)
    }

    /// Records of the collection, all planes'.
    pub(super) async fn count(&self, collection: &Collection, doing: &str) -> Result<u64, PortError> {
        let path = self.path(&format!("/collections/{}/count", percent::encode(&collection.id)));
        read(self.ask(Method::GET, &path, None, doing).await?, doing)
    }
}

fn read<T: serde::de::DeserializeOwned>(answer: Json, doing: &str) -> Result<T, PortError> {
    serde_json::from_value(answer)
        .map_err(|error| PortError::Permanent(format!("{doing}: the answer is not Chroma's: {}", unreadable(&error))))
}
