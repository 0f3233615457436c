//! The store protocol without the driver that speaks it: what the driver would never ask of a server, and what it never shows of an answer.
//!
//! The rule: nothing is judged here, and an answer that is not 200 is an error. It only reads, so nothing happens if we die in it.

use lethe_stages::ports::PortError;
use serde::Deserialize;
use serde_json::{Value as Json, json};
use uuid::Uuid;

use crate::{
    Mapping,
    http::{Address, Client, Reply, unreadable},
    protocol::EXAMPLE,
};

/// Keys of one lookup.
const BATCH: usize = 500;

/// A record as the server wrote it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(super) struct Line {
    pub(super) key: Json,
    pub(super) version: Json,
    values: Json,
}

/// A plane behind a server.
pub(super) struct Wire {
    address: Address,
    body: Json,
}

impl Wire {
    /// Of a plane. Nothing is opened.
    pub(super) fn new(url: &str, mapping: &Mapping, plane_id: Uuid) -> Result<Self, PortError> {
        let scope = json!({
            "resource": mapping.table, "plane_column": mapping.plane_column, "plane": mapping.plane, "key": mapping.key,
            "text": mapping.text, "embedding": mapping.embedding, "metadata": mapping.metadata,
        });
        let body = json!({"plane_id": plane_id, "scope": scope});
        Ok(Self { address: Address::parse(url, EXAMPLE)?, body })
    }

    async fn records(&self, verb: &str, more: &[(&str, Json)]) -> Result<Vec<Line>, PortError> {
        let doing = format!("{verb} at {}", self.address.shown());
        let mut body = self.body.clone();
        for (name, value) in more {
            body[*name] = value.clone();
        }
        let client = Client::new(&self.address, "authorization", "Bearer ")?;
        let refused = |doing: &str, reply: &Reply| reply.refused(doing);
        let mut lines = client.lines(&format!("/{verb}"), &body, &doing, refused).await?;
        let _head = lines.next().await?;
        let mut records = Vec::new();
        while let Some(line) = lines.next().await? {
            if line["end"] == json!(true) {
                return Ok(records);
            }
            let read = serde_json::from_value(line);
            let wrong = |error| PortError::Permanent(format!("{doing}: a line is no record: {}", unreadable(&error)));
            records.push(read.map_err(wrong)?);
        }
        Err(PortError::Transient(format!("{doing}: the answer has no end")))
    }

    /// Every record of the plane, in order.
    pub(super) async fn all(&self) -> Result<Vec<Line>, PortError> {
        let mut all: Vec<Line> = Vec::new();
        loop {
            let after = all.last().map_or(Json::Null, |last| last.key.clone());
            let page =
                self.records("export", &[("after", after), ("rows_max", json!(1_000)), ("bytes_max", json!(8 << 20))]).await?;
            if page.is_empty() || page.last() == all.last() {
                return Ok(all);
            }
            all.extend(page);
        }
    }

    /// What stands under the keys of these records, in the plane or anywhere.
    pub(super) async fn lookup(&self, these: &[&Line], anywhere: bool) -> Result<Vec<Line>, PortError> {
        let mut found = Vec::new();
        for batch in these.chunks(BATCH) {
            let keys: Vec<_> = batch.iter().map(|line| &line.key).collect();
            let more = [("keys", json!(keys)), ("anywhere", json!(anywhere))];
            // As the driver asks: only where it is meant does the word stand there.
            found.extend(self.records("lookup", &more[..if anywhere { 2 } else { 1 }]).await?);
        }
        Ok(found)
    }
}
