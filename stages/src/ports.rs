//! The ports: what handlers may do to the world outside. A few verbs each; drivers live in `stores/`.
//!
//! The rules every driver keeps, and the conformance suite checks:
//! - every verb may be repeated, after success and after failure, and the world is then as if it had been called once;
//! - "already gone" is success only where the driver has shown that it looked in the right place ([`PortError::WrongPlace`] otherwise);
//! - a verb that destroys takes a [`Permit`] and refuses one for another plane;
//! - a verb that changes access carries the plane's epoch, and one that is older than what the store has seen is refused.

use std::sync::Arc;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use uuid::Uuid;

use crate::{
    Permit,
    destruction::Attested,
    lifecycle::FenceMode,
    manifest::Part,
    record::{Column, Key, Known, Record, RecordDigest, Salt},
    suspension::{Dependent, DependentKind},
};

/// Why a port's verb did not do its work. The variant decides who acts.
#[derive(Debug, Clone, thiserror::Error)]
pub enum PortError {
    /// The world may answer differently in a moment: busy, timed out, disk full, unreachable.
    #[error("{0}")]
    Transient(String),
    /// It will not until somebody changes something: no such table, wrong credentials, unreadable data.
    #[error("{0}")]
    Permanent(String),
    /// The place that answered is not the place that was bound, so what it says about absence proves nothing.
    #[error("{0}")]
    WrongPlace(String),
    /// The place itself forbids to remove what it holds until a date, whoever asks.
    #[error("{said}")]
    Locked {
        /// The latest date among what is locked.
        until: DateTime<Utc>,
        /// What is locked, and until when.
        said: String,
    },
    /// Its hours are over; the rest is done at the next opening.
    #[error("{0}")]
    Closed(String),
    /// A newer claim has been here; this caller must stop.
    #[error("epoch {mine} is older than {seen}, which the store has seen")]
    StaleEpoch {
        /// The caller's.
        mine: i64,
        /// The store's.
        seen: i64,
    },
}

/// What a store says of a binding, without changing anything.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Description {
    /// The resource within the store, in the store's own spelling: a table for SQL stores.
    pub resource: String,
    /// Column that tells planes apart, in the store's spelling; `None` where the plane owns the whole resource.
    pub plane_column: Option<String>,
    /// The plane's value in that column, in the store's canonical form.
    pub plane_value: Option<String>,
    /// What else hangs off the records: foreign keys, views, triggers, virtual tables over them. Not removed by Lethe.
    pub dependents: Vec<String>,
    /// What the fence cannot refuse here, in words; empty where it refuses everything.
    pub unfenced: Vec<String>,
    /// How far the plane is closed now; `None` where it is open, or where the store cannot say.
    #[serde(default)]
    pub fence: Option<Fenced>,
}

/// A fence as it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fenced {
    /// Its mode.
    pub mode: FenceMode,
    /// The epoch under which it was last written.
    pub epoch: i64,
}

/// How much one page of an export may hold; the first limit reached ends it, and one record always fits.
#[derive(Debug, Clone, Copy)]
pub struct PageLimit {
    /// Records.
    pub rows_max: usize,
    /// Bytes of record content.
    pub bytes_max: usize,
}

/// What a fence does now.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FenceReport {
    /// Its mode.
    pub mode: FenceMode,
    /// What it cannot refuse, in words.
    pub unfenced: Vec<String>,
}

/// What became of a batch of records to erase.
#[derive(Debug, Clone, Default)]
pub struct Erased {
    /// Removed now.
    pub erased: u64,
    /// Not there (any more).
    pub absent: u64,
    /// Left alone, because they are not what was exported.
    pub changed: u64,
}

impl std::ops::AddAssign for Erased {
    fn add_assign(&mut self, other: Self) {
        self.erased += other.erased;
        self.absent += other.absent;
        self.changed += other.changed;
    }
}

/// How a store was asked after its records, and what it said.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct EmptinessProof {
    /// Records of the plane that a new connection counts.
    pub remaining: u64,
    /// Keys, known from before, looked up without the plane's mapping.
    pub keys_probed: u64,
    /// Of those, how many are still there with their old content.
    pub keys_found: u64,
    /// Vectors, known from before, looked for.
    pub vectors_probed: u64,
    /// Of those, how many were found.
    pub vectors_found: u64,
    /// The record known to exist that the same connection did find, so that "nothing" means nothing.
    pub canary: String,
}

impl EmptinessProof {
    /// Whether nothing was found.
    pub fn is_empty(&self) -> bool {
        self.remaining == 0 && self.keys_found == 0 && self.vectors_found == 0
    }
}

crate::text_enum! {
    /// What became of the fence that a purge left in a store.
    FenceSeen {
        /// It stands, closed for ever.
        Purged = "purged",
        /// It stands; how far it is closed, this store does not say.
        Unsaid = "unsaid",
        /// The store knows the plane, and has forgotten that it was purged: it is older than the purge.
        Outdated = "outdated",
        /// There is none, or nothing enforces it: another store's data, one restored from before, or somebody removed it.
        Missing = "missing",
    }
}

/// What a store says when it is asked again after a purge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recurrence {
    /// The fence, as it was found.
    pub fence: FenceSeen,
    /// Records of the plane that a new connection counts.
    pub remaining: u64,
    /// Keys, known from before, looked up without the plane's mapping.
    pub keys_probed: u64,
    /// Of those, how many are there with their old content.
    pub keys_found: u64,
    /// Vectors, known from before, looked for.
    pub vectors_probed: u64,
    /// Of those, how many were found.
    pub vectors_found: u64,
}

impl Recurrence {
    /// Whether nothing came back and the fence stands.
    pub fn is_clean(&self) -> bool {
        self.remaining == 0 && self.keys_found == 0 && self.vectors_found == 0 && self.fence_stands()
    }

    /// Whether the store itself still refuses what would bring the plane back, as far as it says and can.
    pub fn fence_stands(&self) -> bool {
        matches!(self.fence, FenceSeen::Purged | FenceSeen::Unsaid)
    }
}

/// A knowledge store, bound to one plane's records in one of its resources.
#[async_trait]
pub trait KnowledgeStore: Send + Sync {
    /// Reads and checks the mapping. Permanent where a table or column is absent or cannot serve.
    async fn describe(&self) -> Result<Description, PortError>;

    /// The columns, in the order of the values of every record, typed by what the plane's records really hold.
    async fn columns(&self) -> Result<Vec<Column>, PortError>;

    /// Records of the plane.
    async fn count(&self) -> Result<u64, PortError>;

    /// Up to `limit` records after `after` in ascending key order; empty at the end.
    async fn page(&self, after: Option<&Key>, limit: PageLimit) -> Result<Vec<Record>, PortError>;

    /// Closes the plane's records to what `mode` refuses. Closing further is allowed, opening is [`Self::unfence`]'s.
    async fn fence(&self, mode: FenceMode, epoch: i64) -> Result<FenceReport, PortError>;

    /// Opens what [`Self::fence`] closed and leaves nothing of it in the way.
    async fn unfence(&self, epoch: i64) -> Result<(), PortError>;

    /// Sets the fence to `mode`, opening what was closed further; nobody gets in meanwhile where the store can see to that.
    async fn refence(&self, mode: FenceMode, epoch: i64) -> Result<(), PortError> {
        self.unfence(epoch).await?;
        self.fence(mode, epoch).await.map(drop)
    }

    /// Removes those of the records whose digest (under `salt`) is still what it was; all of them in one transaction of the store,
    /// where it has such. Never removes a record that is not named.
    async fn erase(&self, permit: &Permit, rows: &[(Key, RecordDigest)], salt: Option<&Salt>) -> Result<Erased, PortError>;

    /// A word for the state of the plane's records, another one as soon as one of them changes, comes or goes. `None` where the store has
    /// no such word, or none that is cheap.
    async fn state(&self) -> Result<Option<String>, PortError> {
        Ok(None)
    }

    /// Removes all of the plane's records at once, if they are in `state` under a lock that keeps everybody out. Answers how many went;
    /// `None` where they are in another one or the store cannot do that, and then nothing was done.
    async fn erase_whole(&self, _permit: &Permit, _state: &str) -> Result<Option<u64>, PortError> {
        Ok(None)
    }

    /// Makes what was erased unreadable in the store's files and indexes. Says in words what remains.
    async fn scrub(&self, permit: &Permit) -> Result<Json, PortError>;

    /// Asks for the plane's records over a connection of its own, and for `samples` (records known from before) without relying on the
    /// mapping's plane column. WrongPlace where no canary is found.
    async fn prove_empty(&self, samples: &[Record]) -> Result<EmptinessProof, PortError>;

    /// Asks again, long after a purge, over a connection of its own: for the plane's records, for what is `known` of them (digests under
    /// `salt`) without relying on the mapping's plane column, and for the fence. A fence that is gone is an answer here and no failure,
    /// because a store that was restored from a backup has none. It changes nothing.
    async fn look_again(&self, known: &[Known], salt: &Salt) -> Result<Recurrence, PortError>;
}

/// A part as it was read back.
#[derive(Debug)]
pub struct PartContents {
    /// The object as it is: rows, bytes, digest, and, unless it is encrypted, first and last key.
    pub part: Part,
    /// The records; empty for an inventory.
    pub records: Vec<Record>,
    /// One digest per record, as written.
    pub digests: Vec<RecordDigest>,
}

/// What a part is made of.
pub struct PartDraft<'a> {
    /// The object's key below the plane's prefix.
    pub key: &'a str,
    /// The columns; empty for an inventory.
    pub columns: &'a [Column],
    /// The records; empty for an inventory.
    pub records: &'a [Record],
    /// One digest per record.
    pub digests: &'a [RecordDigest],
}

/// Most keys of one [`Archive::delete`].
pub const DELETE_KEYS_MAX: usize = 1000;

/// An archive, bound to one plane's prefix. Keys are relative to it; it never reaches outside.
#[async_trait]
pub trait Archive: Send + Sync {
    /// The prefix, as an absolute URL that ends in the plane's id and a slash.
    fn prefix(&self) -> String;

    /// How parts are encrypted here, as the manifest says it: `none`, or the method and the id of the key.
    fn encryption(&self) -> String;

    /// Makes sure that this is the archive that was bound: finds its canary. WrongPlace where it does not.
    async fn probe(&self) -> Result<String, PortError>;

    /// Writes a part; durable when it returns. The same draft again is success, and the part is the one that is there: the same bytes, or,
    /// where they are encrypted, the same records. An object that is there with anything else is an error.
    async fn write_part(&self, draft: PartDraft<'_>) -> Result<Part, PortError>;

    /// Reads a part back, decodes it and digests its bytes. `None` where there is no such object.
    async fn read_part(&self, key: &str, columns: &[Column]) -> Result<Option<PartContents>, PortError>;

    /// Writes a small object, replacing it atomically; durable when it returns, and with it whatever objects are there, even if the
    /// process died that wrote them: it may be the manifest that lists them.
    async fn put(&self, key: &str, bytes: &[u8]) -> Result<(), PortError>;

    /// Reads a small object. `None` where there is no such object.
    async fn get(&self, key: &str) -> Result<Option<Vec<u8>>, PortError>;

    /// Everything below the prefix, unfinished writes and old versions included.
    async fn list(&self) -> Result<Vec<String>, PortError>;

    /// Asks whether all of it may be removed now, every version, without changing anything. Locked names the date where a lock forbids
    /// it; Permanent where a legal hold does, or where copies are kept in a place that nobody declared.
    async fn may_delete(&self, permit: &Permit) -> Result<(), PortError>;

    /// Removes objects in all their versions, and what is left of unfinished writes to them; at most [`DELETE_KEYS_MAX`] at a time.
    /// Absent is success: the place has shown its canary.
    async fn delete(&self, permit: &Permit, keys: &[String]) -> Result<(), PortError>;

    /// Removes what is left of the prefix itself once it is empty.
    async fn close(&self, permit: &Permit) -> Result<(), PortError>;
}

/// Where long work says how far it is. Nothing depends on it.
pub trait Progress: Send + Sync {
    /// `done` of `total` records of binding `binding` have been through `step`'s current work, named `verb`.
    fn report(&self, binding: usize, verb: &'static str, done: u64, total: u64);
}

/// A binding of the plane, opened.
#[derive(Clone)]
pub struct BoundStore {
    /// The registered name.
    pub name: String,
    /// The resource.
    pub resource: String,
    /// The driver.
    pub store: Arc<dyn KnowledgeStore>,
    /// Where two persons attested that the store is gone: what they attested.
    pub attested: Option<Attested>,
}

/// A dependent of the plane, ready to be told.
#[derive(Clone)]
pub struct BoundDependent {
    /// Its identity.
    pub id: Uuid,
    /// Its name.
    pub name: String,
    /// Its kind.
    pub kind: DependentKind,
    /// Whether it is still registered; one that is not is only given back what was taken from it.
    pub registered: bool,
    /// What controls it, or why that cannot be told here.
    pub control: Result<Arc<dyn Dependent>, PortError>,
}
