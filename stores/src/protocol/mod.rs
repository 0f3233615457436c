//! The store protocol: HTTP and JSON lines, by which a store of any kind joins without a line of Rust. `stores/PROTOCOL.md` is its text.
//!
//! The rule: digests are taken here, over what the server sent, and a record is deleted only at the version at which it was compared.
//! If we die in a verb, it may be repeated.

mod check;
mod wire;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Mutex, OnceLock, PoisonError},
};

use async_trait::async_trait;
use hyper::{Method, StatusCode};
use lethe_stages::{
    Permit,
    lifecycle::FenceMode,
    ports::{
        Description, EmptinessProof, Erased, FenceReport, FenceSeen, Fenced, KnowledgeStore, PageLimit, PortError, Recurrence,
    },
    record::{Column, Key, Known, Record, RecordDigest, Salt},
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value as Json, json};
use uuid::Uuid;

pub(crate) use self::check::check;
use self::wire::{Answer, NamedColumn, Records, key_to_json, vector_to_json};
use crate::{
    Mapping,
    http::{Address, Client, Reply},
    verdict,
};

/// Most planes of a resource that may hold a record under the same key.
const PLANES_MAX: u32 = 10_000;

pub(crate) const EXAMPLE: &str = "https://HOST/BASE?token_env=NAME";

/// Whether a store URL is one of a server that speaks the protocol.
pub(crate) fn is_protocol(url: &str) -> bool {
    url.starts_with("http:") || url.starts_with("https:")
}

/// A plane's records behind a server that speaks the protocol.
pub(crate) struct ProtocolStore {
    address: Address,
    /// What the server was registered as, where it was.
    registered: Option<String>,
    mapping: Mapping,
    plane_id: Uuid,
    /// The columns as they were described first: under these names records are archived.
    named: OnceLock<Vec<NamedColumn>>,
    exported: Mutex<Exported>,
}

/// How far an export has come, page after page.
#[derive(Default)]
struct Exported {
    last: Option<Key>,
    records: u64,
    /// The most records that the server ever counted.
    counted: u64,
}

#[derive(Deserialize)]
struct Described {
    resource: String,
    plane_column: Option<String>,
    plane: Option<String>,
    columns: Vec<NamedColumn>,
    #[serde(default)]
    dependents: Vec<String>,
    #[serde(default)]
    unfenced: Vec<String>,
    /// Of a server that says it.
    #[serde(default)]
    fence: Option<Fenced>,
}

#[derive(Deserialize)]
struct Counted {
    count: u64,
}

#[derive(Deserialize)]
struct Deleted {
    deleted: u64,
    absent: u64,
    changed: u64,
}

#[derive(Deserialize)]
struct Probed {
    canary: String,
    plane_id: Uuid,
    count: u64,
    #[serde(default)]
    vectors_found: u64,
    /// How far the fence is closed; servers written before there were probes do not say.
    #[serde(default)]
    mode: Option<String>,
}

impl ProtocolStore {
    /// Binds the plane. Nothing is opened.
    pub(crate) fn new(address: Address, registered: Option<&str>, mapping: Mapping, plane_id: Uuid) -> Self {
        Self {
            address,
            registered: registered.map(str::to_owned),
            mapping,
            plane_id,
            named: OnceLock::new(),
            exported: Mutex::default(),
        }
    }

    /// Binds the plane in a server that nobody registered, where the URL is one of such that speaks the protocol.
    pub(crate) fn of_url(url: &str, mapping: &Mapping, plane_id: Uuid) -> Result<Option<Self>, PortError> {
        let address = is_protocol(url).then(|| Address::parse(url, EXAMPLE)).transpose()?;
        Ok(address.map(|address| Self::new(address, None, mapping.clone(), plane_id)))
    }

    fn doing(&self, what: &str) -> String {
        format!("{what} {} at {}", self.mapping.table, self.address.shown())
    }

    /// What every verb carries: whose records are meant.
    fn body(&self, more: Json) -> Json {
        let mut body = json!({"plane_id": self.plane_id, "scope": {
            "resource": self.mapping.table, "plane_column": self.mapping.plane_column, "plane": self.mapping.plane,
            "key": self.mapping.key, "text": self.mapping.text, "embedding": self.mapping.embedding, "metadata": self.mapping.metadata,
        }});
        if let (Json::Object(body), Json::Object(more)) = (&mut body, more) {
            body.extend(more);
        }
        body
    }

    async fn ask<T: DeserializeOwned>(&self, client: &Client, verb: &str, more: Json, doing: &str) -> Result<T, PortError> {
        let reply = client.ask(Method::POST, &format!("/{verb}"), Some(&self.body(more)), doing).await?;
        if reply.status != StatusCode::OK {
            return Err(refusal(doing, &reply));
        }
        reply.read(doing)
    }

    async fn records(&self, client: &Client, verb: &str, more: Json, doing: &str) -> Result<Records, PortError> {
        let columns = self.named().await?;
        let lines = client.lines(&format!("/{verb}"), &self.body(more), doing, refusal).await?;
        Records::of(lines, doing, &self.mapping.key, columns).await
    }

    /// The records that stand under these keys now, each with its version: those of the plane, or of the whole resource.
    async fn lookup(
        &self,
        client: &Client,
        keys: impl Iterator<Item = &Key>,
        anywhere: bool,
        doing: &str,
    ) -> Result<Records, PortError> {
        // A key is unique within a plane only.
        let times = if anywhere && self.mapping.plane_column.is_some() { PLANES_MAX } else { 1 };
        let may_come: BTreeMap<Key, u32> = keys.map(|key| (key.clone(), times)).collect();
        let named: Vec<_> = may_come.keys().map(key_to_json).collect();
        let more = if anywhere { json!({"keys": named, "anywhere": true}) } else { json!({"keys": named}) };
        Ok(self.records(client, "lookup", more, doing).await?.of_these(may_come))
    }

    /// Stops an export that goes on past what the server itself counts: each page of it may be right, and it would never end.
    async fn ends(&self, after: Option<&Key>, page: &[Record], doing: &str) -> Result<(), PortError> {
        let Some(last) = page.last() else { return Ok(()) };
        let (records, counted) = {
            let mut exported = self.exported.lock().unwrap_or_else(PoisonError::into_inner);
            let goes_on = after.is_some() && after == exported.last.as_ref();
            exported.records = if goes_on { exported.records } else { 0 } + page.len() as u64;
            exported.last = Some(last.key.clone());
            (exported.records, exported.counted)
        };
        // Records may have come since it counted; those that went meanwhile were counted before.
        let counted = if records > counted { counted.max(self.count().await?) } else { counted };
        if records <= counted {
            return Ok(());
        }
        Err(PortError::Permanent(format!(
            "{doing}: {records} record(s) came one after the other, and the server counts {counted}: an export that goes on past its \
             count may have no end"
        )))
    }

    /// Deletes records at these versions, whatever they are. For the conformance suite too, which makes versions up.
    pub(crate) async fn delete(&self, permit: &Permit, rows: &[(Key, Json)]) -> Result<Erased, PortError> {
        let doing = self.doing("delete from");
        let client = self.connect(&doing).await?;
        self.delete_over(&client, permit, rows, &doing).await
    }

    async fn delete_over(
        &self,
        client: &Client,
        permit: &Permit,
        rows: &[(Key, Json)],
        doing: &str,
    ) -> Result<Erased, PortError> {
        verdict::covered(permit, self.plane_id)?;
        let named: Vec<_> = rows.iter().map(|(key, version)| json!({"key": key_to_json(key), "version": version})).collect();
        let body = json!({"epoch": permit.epoch(), "offboarding_id": permit.offboarding_id(), "rows": named});
        let went: Deleted = self.ask(client, "delete", body, doing).await?;
        let sum = went.deleted.checked_add(went.absent).and_then(|sum| sum.checked_add(went.changed));
        if sum != Some(rows.len() as u64) {
            return Err(PortError::Permanent(format!(
                "{doing}: {} record(s) were named, and the server says {} deleted, {} absent, {} changed",
                rows.len(),
                went.deleted,
                went.absent,
                went.changed
            )));
        }
        Ok(Erased { erased: went.deleted, absent: went.absent, changed: went.changed })
    }

    /// A connection, for one verb, to the server that was registered.
    async fn connect(&self, doing: &str) -> Result<Client, PortError> {
        let client = Client::new(&self.address, "authorization", "Bearer ")?;
        if let Some(identity) = &self.registered {
            check::is_registered(&client, identity, doing).await?;
        }
        Ok(client)
    }

    /// Asks a verb over a connection of its own.
    async fn once<T: DeserializeOwned>(&self, verb: &str, more: Json, what: &str) -> Result<T, PortError> {
        let doing = self.doing(what);
        self.ask(&self.connect(&doing).await?, verb, more, &doing).await
    }

    async fn described(&self) -> Result<(Described, Vec<Column>), PortError> {
        let doing = self.doing("describe");
        let client = self.connect(&doing).await?;
        let found: Described = self.ask(&client, "describe", json!({}), &doing).await?;
        let words = &client.words;
        // Names are used as they are, so they are not shortened but refused.
        if [Some(&found.resource), found.plane_column.as_ref()].into_iter().flatten().any(|name| words.said(name) != *name) {
            let why = "its resource or plane_column is longer than 300 characters, or holds a control character or the token";
            return Err(PortError::Permanent(format!("{doing}: {why}")));
        }
        let columns = wire::columns(&found.columns, &self.mapping.key, words, &doing)?;
        let (dependents, unfenced) = (words.listed(&found.dependents), words.listed(&found.unfenced));
        let found = Described { dependents, unfenced, ..found };
        let _ = self.named.set(found.columns.clone());
        Ok((found, columns))
    }

    /// The columns that the head of every answer must have.
    async fn named(&self) -> Result<Vec<NamedColumn>, PortError> {
        if self.named.get().is_none() {
            self.described().await?;
        }
        Ok(self.named.get().cloned().unwrap_or_default())
    }
}

#[async_trait]
impl KnowledgeStore for ProtocolStore {
    async fn describe(&self) -> Result<Description, PortError> {
        let (found, _) = self.described().await?;
        if found.plane_column.is_some() != self.mapping.plane_column.is_some()
            || found.plane.is_some() != self.mapping.plane.is_some()
        {
            return Err(PortError::Permanent(format!(
                "{}: the server describes another scope than the one that was asked for",
                self.doing("describe")
            )));
        }
        Ok(Description {
            resource: found.resource,
            plane_column: found.plane_column,
            plane_value: found.plane,
            dependents: found.dependents,
            unfenced: found.unfenced,
            fence: found.fence,
        })
    }

    async fn columns(&self) -> Result<Vec<Column>, PortError> {
        self.described().await.map(|(_, columns)| columns)
    }

    async fn count(&self) -> Result<u64, PortError> {
        let Counted { count } = self.once("count", json!({}), "count").await?;
        let mut exported = self.exported.lock().unwrap_or_else(PoisonError::into_inner);
        exported.counted = exported.counted.max(count);
        Ok(count)
    }

    async fn page(&self, after: Option<&Key>, limit: PageLimit) -> Result<Vec<Record>, PortError> {
        let doing = self.doing("export from");
        let client = self.connect(&doing).await?;
        let more = json!({"after": after.map(key_to_json), "rows_max": limit.rows_max, "bytes_max": limit.bytes_max});
        let mut records = self.records(&client, "export", more, &doing).await?;
        let (mut page, mut bytes): (Vec<Record>, usize) = (Vec::new(), 0);
        while let Some((record, _)) = records.next().await? {
            let before = page.last().map(|last| &last.key).or(after);
            if before.is_some_and(|before| *before >= record.key) {
                return Err(PortError::Permanent(format!(
                    "{doing}: the record of key {} does not come after the one before it; keys ascend: integers, then texts by their \
                     UTF-8 bytes, then bytes",
                    client.words.said(&record.key.to_string())
                )));
            }
            bytes += record.size();
            // A server that knows no limits is held to them here: what is left out comes with the next page.
            if !page.is_empty() && (bytes > limit.bytes_max || page.len() == limit.rows_max) {
                break;
            }
            page.push(record);
        }
        self.ends(after, &page, &doing).await?;
        Ok(page)
    }

    async fn fence(&self, mode: FenceMode, epoch: i64) -> Result<FenceReport, PortError> {
        let doing = self.doing("fence");
        let client = self.connect(&doing).await?;
        let report: FenceReport = self.ask(&client, "fence", json!({"mode": mode, "epoch": epoch}), &doing).await?;
        Ok(FenceReport { unfenced: client.words.listed(&report.unfenced), ..report })
    }

    async fn unfence(&self, epoch: i64) -> Result<(), PortError> {
        let _: Json = self.once("unfence", json!({"epoch": epoch}), "unfence").await?;
        Ok(())
    }

    async fn erase(&self, permit: &Permit, rows: &[(Key, RecordDigest)], salt: Option<&Salt>) -> Result<Erased, PortError> {
        verdict::covered(permit, self.plane_id)?;
        let doing = self.doing("erase from");
        let client = self.connect(&doing).await?;
        let (mut versions, mut found) = (HashMap::new(), HashMap::new());
        let mut records = self.lookup(&client, rows.iter().map(|(key, _)| key), false, &doing).await?;
        while let Some((record, version)) = records.next().await? {
            found.insert(record.key.clone(), record.digest(salt));
            versions.insert(record.key, version);
        }
        let mut sum = Erased::default();
        let unchanged = verdict::unchanged(rows, found, &mut sum);
        let unchanged: Vec<_> = unchanged.into_iter().filter_map(|key| Some((key.clone(), versions.remove(key)?))).collect();
        if !unchanged.is_empty() {
            sum += self.delete_over(&client, permit, &unchanged, &doing).await?;
        }
        Ok(sum)
    }

    async fn scrub(&self, permit: &Permit) -> Result<Json, PortError> {
        verdict::covered(permit, self.plane_id)?;
        let doing = self.doing("scrub");
        let client = self.connect(&doing).await?;
        let said: Answer = self.ask(&client, "scrub", json!({"epoch": permit.epoch()}), &doing).await?;
        Ok(said.into_evidence(&client.words))
    }

    async fn prove_empty(&self, samples: &[Record]) -> Result<EmptinessProof, PortError> {
        let doing = self.doing("probe");
        let client = self.connect(&doing).await?;
        let (_, columns) = self.described().await?;
        let column = |name: &Option<String>| columns.iter().position(|column| Some(&column.name) == name.as_ref());
        let (plane_column, embedding) = (column(&self.mapping.plane_column), column(&self.mapping.embedding));
        if let Some(sample) = samples.iter().find(|sample| sample.values.len() != columns.len()) {
            let (then, now) = (sample.values.len(), columns.len());
            return Err(PortError::Permanent(format!("{doing}: the samples have {then} column(s), the resource now has {now}")));
        }
        let vectors = embedding.map_or_else(Vec::new, |column| verdict::different(samples, column));
        let vectors: Vec<_> = vectors.into_iter().filter_map(vector_to_json).collect();
        let probed: Probed = self.ask(&client, "probe", json!({"vectors": vectors}), &doing).await?;
        if probed.plane_id != self.plane_id {
            return Err(PortError::WrongPlace(format!(
                "{doing}: the fence that answers is of plane {}, not of {}, so its silence proves nothing",
                probed.plane_id, self.plane_id
            )));
        }
        let mut found = BTreeSet::new();
        if !samples.is_empty() {
            let mut records = self.lookup(&client, samples.iter().map(|sample| &sample.key), true, &doing).await?;
            let ours = self.mapping.plane.as_deref();
            while let Some((seen, _)) = records.next().await? {
                found.extend(samples.iter().position(|sample| verdict::still(sample, &seen, plane_column, ours)));
            }
        }
        Ok(EmptinessProof {
            remaining: probed.count,
            keys_probed: samples.len() as u64,
            keys_found: found.len() as u64,
            vectors_probed: vectors.len() as u64,
            vectors_found: probed.vectors_found,
            canary: client.words.said(&probed.canary),
        })
    }

    async fn look_again(&self, known: &[Known], salt: &Salt) -> Result<Recurrence, PortError> {
        let doing = self.doing("look again in");
        let client = self.connect(&doing).await?;
        let (_, columns) = self.described().await?;
        let plane_column = columns.iter().position(|column| Some(&column.name) == self.mapping.plane_column.as_ref());
        let plane = plane_column.zip(self.mapping.plane.as_deref());
        let vectors: Vec<_> = verdict::known_vectors(known).iter().filter_map(vector_to_json).collect();
        let probed = self.ask::<Probed>(&client, "probe", json!({"vectors": vectors}), &doing).await;
        let (fence, remaining, vectors_found) = match probed {
            Ok(probed) => {
                let fence = match probed.mode.as_deref() {
                    _ if probed.plane_id != self.plane_id => FenceSeen::Missing,
                    None => FenceSeen::Unsaid,
                    Some("purged") => FenceSeen::Purged,
                    Some(_) => FenceSeen::Outdated,
                };
                (fence, probed.count, probed.vectors_found)
            }
            // No fence of the scope: what is there is counted all the same.
            Err(PortError::WrongPlace(_)) => {
                let counted: Counted = self.ask(&client, "count", json!({}), &doing).await?;
                (FenceSeen::Missing, counted.count, 0)
            }
            Err(error) => return Err(error),
        };
        let mut found = BTreeSet::new();
        if !known.is_empty() {
            let mut records = self.lookup(&client, known.iter().map(|one| &one.key), true, &doing).await?;
            while let Some((seen, _)) = records.next().await? {
                // A neighbour may rightly hold the same record under the same key, where keys are unique within a plane only.
                let ours = verdict::nobodys_or_ours(&seen, plane);
                found.extend(known.iter().position(|one| ours && verdict::is_known(one, &seen, salt, plane)));
            }
        }
        Ok(Recurrence {
            fence,
            remaining,
            keys_probed: known.len() as u64,
            keys_found: found.len() as u64,
            vectors_probed: vectors.len() as u64,
            vectors_found,
        })
    }
}

/// What an answer means that is not 200.
fn refusal(doing: &str, reply: &Reply) -> PortError {
    let said: Json = serde_json::from_slice(&reply.body).unwrap_or_default();
    match said["error"].as_str() {
        Some("stale_epoch") if reply.status == StatusCode::CONFLICT => PortError::StaleEpoch {
            mine: said["mine"].as_i64().unwrap_or_default(),
            seen: said["seen"].as_i64().unwrap_or_default(),
        },
        Some("wrong_place") if reply.status == StatusCode::CONFLICT => {
            PortError::WrongPlace(format!("{doing}: {}", reply.said(&said, "message")))
        }
        _ => reply.refused(doing),
    }
}
