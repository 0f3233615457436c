//! The audit trail: what happened, by whom, why, under which policy; one hash chain per plane, per tenant and for the system.
//!
//! The rule: an entry is written in the transaction of the change it records, and never changed. It holds ids, digests and counts.
//! Personal values (who, why) enter it as salted commitments; value and salt stand beside it, sealed (see `personal`), and can be destroyed.
//!
//! An entry is numbered and hashed when it is appended, and written with all others of its transaction before anything reads the trail,
//! at the latest before the commit. If we die before that, neither the entry nor its change happened.
//!
//! `hash = SHA-256(previous ‖ body)`, with `body` the canonical JSON and `previous` the hash before, or SHA-256 of the chain's name.

use std::collections::HashMap;

use chrono::{DateTime, SecondsFormat, Utc};
use lethe_stages::{LifecycleState, Step, canonical};
use lethe_verify::leaf::{entry_hash, origin};
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};
use uuid::Uuid;

use crate::{
    db::Tx,
    fault::Fault,
    many::{Many, Places, Script},
    personal::{Opened, Opener, SALT_LEN, SealedValue, holder},
    rows::Cells,
    sql::{Row, statements},
};

/// The version of an entry's shape.
pub(crate) const ENTRY_SCHEMA: u32 = 1;

lethe_stages::text_enum! {
    /// What kind of actor did something.
    ActorType {
        /// A person.
        User = "user",
        /// Lethe itself, or a service.
        System = "system",
        /// A program using the SDK.
        Sdk = "sdk",
        /// An operator with rights over tenants.
        Founder = "founder",
    }
}

/// Who did something: `type:id`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Actor {
    /// The kind.
    pub kind: ActorType,
    /// The identity within it; not empty.
    pub id: String,
}

impl Actor {
    /// An actor of the system itself.
    pub fn system(id: &str) -> Self {
        Self { kind: ActorType::System, id: id.to_owned() }
    }
}

impl std::fmt::Display for Actor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.kind, self.id)
    }
}

impl std::str::FromStr for Actor {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, id) = text.split_once(':').ok_or_else(|| format!("`{text}` is not an actor: write `user:alice`"))?;
        if id.trim().is_empty() {
            return Err(format!("`{text}` names nobody: write `user:alice`"));
        }
        Ok(Self { kind: kind.parse()?, id: id.to_owned() })
    }
}

impl TryFrom<String> for Actor {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Actor> for String {
    fn from(actor: Actor) -> String {
        actor.to_string()
    }
}

/// The subject of a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Chain {
    /// What concerns one plane.
    Plane(Uuid),
    /// What concerns a tenant and no plane of it.
    Tenant(Uuid),
    /// Start-up, stores, keys, policies, and refusals that concern no known tenant.
    System,
}

impl std::fmt::Display for Chain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Chain::Plane(id) => write!(f, "plane:{id}"),
            Chain::Tenant(id) => write!(f, "tenant:{id}"),
            Chain::System => f.write_str("system"),
        }
    }
}

impl std::str::FromStr for Chain {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let id = |id: &str| id.parse::<Uuid>().map_err(|error| format!("`{text}` names no chain: {error}"));
        match text.split_once(':') {
            Some(("plane", plane)) => id(plane).map(Chain::Plane),
            Some(("tenant", tenant)) => id(tenant).map(Chain::Tenant),
            None if text == "system" => Ok(Chain::System),
            _ => Err(format!("`{text}` names no chain")),
        }
    }
}

lethe_stages::text_enum! {
    /// What happened.
    EventType {
        /// A tenant, store, plane, token or ledger came to be.
        Registered = "REGISTERED",
        /// A tenant's status changed.
        StatusChanged = "STATUS_CHANGED",
        /// An offboarding was requested and opened.
        Requested = "REQUESTED",
        /// A plane changed its state.
        Transition = "TRANSITION",
        /// An attempt was refused, or a run may not go on.
        Blocked = "BLOCKED",
        /// An offboarding was cancelled.
        Cancelled = "CANCELLED",
        /// A stage was claimed.
        StageStarted = "STAGE_STARTED",
        /// A stage established what it had to.
        StageCompleted = "STAGE_COMPLETED",
        /// A stage failed; it is tried again or halted.
        StageFailed = "STAGE_FAILED",
        /// An operator let a halted stage go on.
        StageRetried = "STAGE_RETRIED",
        /// A run was taken back from a worker that was lost, or given back by one that stopped.
        StageInterrupted = "STAGE_INTERRUPTED",
        /// A destruction plan was approved.
        Approved = "APPROVED",
        /// A destruction plan was denied.
        Denied = "DENIED",
        /// An approval was taken back.
        ApprovalWithdrawn = "APPROVAL_WITHDRAWN",
        /// An approval ended unused.
        ApprovalExpired = "APPROVAL_EXPIRED",
        /// An approval ends soon unless it is used.
        ApprovalEnding = "APPROVAL_ENDING",
        /// A key that may sign approvals was registered.
        ApproverAdded = "APPROVER_ADDED",
        /// A key was revoked.
        ApproverRevoked = "APPROVER_REVOKED",
        /// Other policies decide from now on, or none do.
        PolicyChanged = "POLICY_CHANGED",
        /// Somebody was told of what comes or came.
        Noticed = "NOTICED",
        /// Nobody could be told, and it was given up.
        NoticeFailed = "NOTICE_FAILED",
        /// A legal deadline was extended, as its law allows.
        DeadlineExtended = "DEADLINE_EXTENDED",
        /// A grace period was cut short.
        BreakGlass = "BREAK_GLASS",
        /// Somebody else closed the review that this owed.
        Reviewed = "REVIEWED",
        /// A tenant was protected from purges until a date.
        Protected = "PROTECTED",
        /// A hold was placed.
        HoldPlaced = "HOLD_PLACED",
        /// A hold was released.
        HoldReleased = "HOLD_RELEASED",
        /// The certificate of a purge was signed; the entry holds its digest.
        Certified = "CERTIFIED",
        /// What a deregister suspended was restored.
        Rollback = "ROLLBACK",
        /// Something that depends on a plane was registered.
        DependentAdded = "DEPENDENT_ADDED",
        /// It was taken off the list.
        DependentRemoved = "DEPENDENT_REMOVED",
        /// A scope was paused.
        Paused = "PAUSED",
        /// A pause was lifted.
        Resumed = "RESUMED",
        /// The clock jumped.
        ClockSuspect = "CLOCK_SUSPECT",
        /// A person confirmed the clock.
        ClockConfirmed = "CLOCK_CONFIRMED",
        /// The ledger was found behind its mark.
        LedgerBehind = "LEDGER_BEHIND",
        /// A person reconciled it.
        LedgerReconciled = "LEDGER_RECONCILED",
        /// A key signs the log from now on.
        LogKeyAdded = "LOG_KEY_ADDED",
        /// A key signs the log no longer.
        LogKeyRetired = "LOG_KEY_RETIRED",
        /// Nothing is put into the log any more.
        LogStopped = "LOG_STOPPED",
        /// What had been published of the log was gone or older, and was published anew.
        LogRepublished = "LOG_REPUBLISHED",
        /// Sealing goes on.
        LogResumed = "LOG_RESUMED",
        /// The plane's archive was restored into a new plane.
        ArchiveRestored = "ARCHIVE_RESTORED",
        /// The key of the plane's archive was handed to somebody.
        ArchiveKeyTaken = "ARCHIVE_KEY_TAKEN",
        /// Keys of archives were wrapped anew under another master key.
        KeysRewrapped = "KEYS_REWRAPPED",
        /// A token was issued.
        TokenIssued = "TOKEN_ISSUED",
        /// A token was revoked.
        TokenRevoked = "TOKEN_REVOKED",
        /// A probe of a purged plane found nothing.
        Probed = "PROBED",
        /// A probe found that something of a purged plane came back, or that its fence is gone.
        Recurred = "RECURRED",
        /// A probe could not be asked.
        ProbeFailed = "PROBE_FAILED",
        /// Somebody asked for a probe.
        ProbeRequested = "PROBE_REQUESTED",
        /// A finding was closed.
        FindingClosed = "FINDING_CLOSED",
        /// Somebody attests that a store is gone; somebody else has to confirm it.
        AttestationProposed = "ATTESTATION_PROPOSED",
        /// Two persons attested that a store is gone.
        Attested = "ATTESTED",
        /// The conformance suite was run against a store.
        StoreTested = "STORE_TESTED",
        /// Personal values were erased: their key is destroyed.
        PersonalErased = "PERSONAL_ERASED",
    }
}

/// What a gate decided.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct GateDecision {
    /// ALLOWED, BLOCKED or PENDING.
    pub decision: &'static str,
    /// The refusal's code, unless allowed.
    pub code: Option<&'static str>,
    /// The policy under which it was decided.
    pub policy_revision: String,
}

/// An entry to append. What is not said is null in the entry.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The subject.
    pub chain: Chain,
    /// What happened.
    pub event_type: EventType,
    /// Whose it is; `None` where it concerns no tenant.
    pub tenant_id: Option<Uuid>,
    /// Which offboarding.
    pub offboarding_id: Option<Uuid>,
    /// Who did it.
    pub actor: Actor,
    /// Which part of Lethe decided: an operation's name, `gate`, `sweep`, `worker`.
    pub decision_owner: String,
    /// The state left.
    pub from_state: Option<LifecycleState>,
    /// The state entered.
    pub to_state: Option<LifecycleState>,
    /// Which step.
    pub step: Option<Step>,
    /// What the gate decided.
    pub gate: Option<GateDecision>,
    /// Why, in a person's words.
    pub reason: Option<String>,
    /// Counts, digests and names of stores. An object.
    pub evidence: Json,
}

impl Entry {
    /// An entry that says what, on which subject, by whom, decided by whom.
    pub fn new(chain: Chain, tenant_id: Option<Uuid>, event_type: EventType, actor: &Actor, decision_owner: &str) -> Self {
        Self {
            chain,
            event_type,
            tenant_id,
            offboarding_id: None,
            actor: actor.clone(),
            decision_owner: decision_owner.to_owned(),
            from_state: None,
            to_state: None,
            step: None,
            gate: None,
            reason: None,
            evidence: json!({}),
        }
    }
}

/// Proof that an entry is in the transaction. A plane's state is moved only by who holds one.
#[derive(Debug)]
pub struct Recorded {
    /// The entry's identity.
    pub event_id: Uuid,
    /// Its number in its chain.
    pub sequence_no: i64,
    /// When it is dated: where others write too, not before the entry before it, so perhaps after its transaction's instant.
    pub at: DateTime<Utc>,
}

/// An entry as it stands, with the personal values that have not been destroyed.
#[derive(Debug, Clone, Serialize)]
pub struct TrailEntry {
    /// The entry's fields, commitments included.
    #[serde(flatten)]
    pub body: Json,
    /// Where it stands among all entries. Of two that waited for one lock, the later one stands behind, whatever their times.
    #[serde(skip)]
    pub place: i64,
    /// Its hash.
    pub hash: String,
    /// The hash before it.
    pub previous: String,
    /// The values to which it is committed, as far as they still exist.
    pub values: Json,
}

/// Which entries to list; what is `None` does not filter.
#[derive(Debug, Clone, Default)]
pub struct TrailFilter {
    /// Of this chain.
    pub chain: Option<String>,
    /// Of this tenant, planes included.
    pub tenant_id: Option<Uuid>,
    /// Of this type.
    pub event_type: Option<EventType>,
    /// At most so many, the newest.
    pub limit: Option<i64>,
}

/// How an instant is written in an entry.
pub(crate) fn instant(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Micros, true)
}

/// The commitment to a personal value.
pub(crate) fn commitment(salt: &[u8], value: &str) -> String {
    canonical::sha256(&[salt, value.as_bytes()].concat())
}

fn missing(entry: &Entry) -> Vec<&'static str> {
    let mut missing = Vec::new();
    if entry.actor.id.trim().is_empty() {
        missing.push("actor_id");
    }
    if entry.decision_owner.trim().is_empty() {
        missing.push("decision_owner");
    }
    if !matches!(entry.chain, Chain::System) && entry.tenant_id.is_none() {
        missing.push("tenant_id");
    }
    if entry.reason.as_ref().is_some_and(|reason| reason.trim().is_empty()) {
        missing.push("reason");
    }
    if !entry.evidence.is_object() {
        missing.push("evidence");
    }
    if entry.event_type == EventType::Transition && (entry.from_state.is_none() || entry.to_state.is_none()) {
        missing.push("from_state and to_state");
    }
    missing
}

/// Where a chain stands.
#[derive(Debug, Clone)]
struct Head {
    hash: String,
    next: i64,
    /// When its last entry is dated, where several write.
    at: Option<DateTime<Utc>>,
    moved: bool,
}

/// What a transaction has appended and not yet written.
#[derive(Debug, Default)]
pub(crate) struct Unwritten {
    /// The chains this transaction has looked at. Nobody else can move them while it lasts.
    heads: HashMap<Chain, Head>,
    entries: Vec<EntryRow>,
    values: Vec<ValueRow>,
}

#[derive(Debug)]
struct EntryRow {
    chain: String,
    sequence_no: i64,
    event_id: Uuid,
    event_type: EventType,
    tenant_id: String,
    plane_id: Option<Uuid>,
    offboarding_id: Option<Uuid>,
    at: DateTime<Utc>,
    body: String,
    previous: String,
    hash: String,
}

/// A sealed value.
#[derive(Debug)]
pub(crate) struct ValueRow {
    pub(crate) event_id: Uuid,
    pub(crate) field: String,
    pub(crate) key_id: Uuid,
    pub(crate) sealed: Vec<u8>,
    pub(crate) tag: Option<Vec<u8>>,
}

impl ValueRow {
    pub(crate) fn bind(query: Places, row: Self) -> Places {
        query.bind(row.event_id).bind(row.field).bind(row.key_id).bind(row.sealed).bind(row.tag)
    }
}

impl Unwritten {
    /// Whether this transaction knows where a chain stands.
    pub(crate) fn knows(&self, chain: Chain) -> bool {
        self.heads.contains_key(&chain)
    }

    /// Notes where a chain stands, as read in this transaction. What was appended since is not forgotten.
    pub(crate) fn note(&mut self, chain: Chain, head: Option<(String, i64)>, at: Option<DateTime<Utc>>) {
        self.heads.entry(chain).or_insert_with(|| {
            let (hash, next) = head.unwrap_or_else(|| (origin(&chain.to_string()), 0));
            Head { hash, next, at, moved: false }
        });
    }
}

static ENTRIES: Many = Many {
    doing: "append to the trail",
    table: "trail",
    before: "INSERT INTO trail (chain, sequence_no, event_id, event_type, tenant_id, plane_id, offboarding_id, at, body, previous, hash)",
    after: "",
    types: &["text", "bigint", "uuid", "text", "text", "uuid", "uuid", "timestamptz", "text", "text", "text"],
};

pub(crate) static VALUES: Many = Many {
    doing: "append to the trail",
    table: "trail_values",
    before: "INSERT INTO trail_values (event_id, field, key_id, sealed, tag)",
    after: "",
    types: &["uuid", "text", "uuid", "bytea", "bytea"],
};

static HEADS: Many = Many {
    doing: "move a chain's head",
    table: "chains",
    before: "INSERT INTO chains (chain, head, next_sequence)",
    after: "ON CONFLICT (chain) DO UPDATE SET head = excluded.head, next_sequence = excluded.next_sequence",
    types: &["text", "text", "bigint"],
};

/// Where several write, a chain's head was locked before, so it is there; and it says when it was moved, so that no later entry is
/// dated before it.
static LOCKED_HEADS: Many = Many {
    doing: "move a chain's head",
    table: "chains",
    before: "WITH moved (chain, head, next_sequence, at) AS (",
    after: ") UPDATE chains AS c SET head = moved.head, next_sequence = moved.next_sequence, at = moved.at
        FROM moved WHERE c.chain = moved.chain AND c.next_sequence < moved.next_sequence",
    types: &["text", "text", "bigint", "timestamptz"],
};

/// Every batch of this module.
#[cfg(feature = "testing")]
pub(crate) static BATCHES: &[&Many] = &[&ENTRIES, &VALUES, &LOCKED_HEADS];

macro_rules! select_entries {
    ($values:literal, $filter:literal, $limit:literal) => {
        concat!(
            "SELECT * FROM (SELECT t.*, (SELECT ",
            $values,
            " FROM trail_values v LEFT JOIN personal_keys k ON k.id = v.key_id WHERE v.event_id = t.event_id) AS vals FROM trail t WHERE ",
            $filter,
            " ORDER BY place DESC LIMIT ",
            $limit,
            ") AS newest ORDER BY place"
        )
    };
}

statements! {
    LIST = "read the trail",
        select_entries!(
            "json_group_array(json_object('field', v.field, 'key_id', v.key_id, 'sealed', hex(v.sealed), 'tag', hex(v.tag), 'key', hex(k.key)))",
            "($1 IS NULL OR chain = $1) AND ($2 IS NULL OR tenant_id = $2) AND ($3 IS NULL OR event_type = $3)",
            "coalesce($4, -1)"
        ),
        select_entries!(
            "json_agg(json_build_object('field', v.field, 'key_id', v.key_id, 'sealed', encode(v.sealed, 'hex'),
                'tag', encode(v.tag, 'hex'), 'key', encode(k.key, 'hex')))",
            "($1::text IS NULL OR chain = $1) AND ($2::text IS NULL OR tenant_id = $2) AND ($3::text IS NULL OR event_type = $3)",
            "$4::bigint"
        );
}

impl Tx {
    /// Appends an entry to its chain. Everything that is missing is named at once.
    pub async fn append(&mut self, entry: Entry) -> Result<Recorded, Fault> {
        let missing = missing(&entry);
        if !missing.is_empty() {
            return Err(Fault::IncompleteEntry(missing));
        }
        self.look_at(entry.chain).await?;
        let chain = entry.chain.to_string();
        let (previous, sequence_no, last) = {
            let head = &self.unwritten.heads[&entry.chain];
            (head.hash.clone(), head.next, head.at)
        };
        // Where others write too, no entry is dated before the one before it, whichever transaction began first. Nothing is ordered by this
        // instant; a retention begins with it.
        let at = last.map_or(self.at(), |last| last.max(self.at()));
        let event_id = self.new_id();
        let tenant_id = holder(entry.tenant_id);
        let key = self.sealing_key(&tenant_id).await?;
        let actor = entry.actor.to_string();
        let mut values = Vec::new();
        let mut committed = |field: &'static str, value: &str| {
            let salt = self.random::<SALT_LEN>();
            let commitment = commitment(&salt, value);
            let sealed = key.seal(event_id, field, self.random(), &salt, value);
            values.push(ValueRow { event_id, field: field.to_owned(), key_id: key.id, sealed, tag: key.tag(field, &actor) });
            canonical::Object::new().member("commitment", &commitment)?.finish()
        };
        let actor_id = committed("actor_id", &entry.actor.id)?;
        let reason = entry.reason.as_ref().map_or(Ok("null".into()), |reason| committed("reason", reason))?;
        let plane_id = if let Chain::Plane(id) = entry.chain { Some(id) } else { None };
        let evidence = canonical::text(&entry.evidence)?;
        let body = canonical::Object::new()
            .text("actor_id", &actor_id)?
            .member("actor_type", &entry.actor.kind)?
            .member("at", &instant(at))?
            .member("chain", &chain)?
            .member("decision_owner", &entry.decision_owner)?
            .member("event_id", &event_id)?
            .member("event_type", &entry.event_type)?
            .text("evidence", &evidence)?
            .member("evidence_digest", &canonical::sha256(evidence.as_bytes()))?
            .member("from_state", &entry.from_state)?
            .text("gate", &canonical::to_string(&entry.gate)?)?
            .member("offboarding_id", &entry.offboarding_id)?
            .member("plane_id", &plane_id)?
            .member("project_id", "__system__")?
            .text("reason", &reason)?
            .member("schema_version", &ENTRY_SCHEMA)?
            .member("sequence_no", &sequence_no)?
            .member("stage", &entry.step.map(|step| step.stage()))?
            .member("step", &entry.step)?
            .member("tenant_id", &tenant_id)?
            .member("to_state", &entry.to_state)?
            .finish()?;
        let hash = entry_hash(&previous, &body);
        self.unwritten
            .heads
            .insert(entry.chain, Head { hash: hash.clone(), next: sequence_no + 1, at: last.map(|_| at), moved: true });
        self.unwritten.values.append(&mut values);
        self.unwritten.entries.push(EntryRow {
            chain,
            sequence_no,
            event_id,
            event_type: entry.event_type,
            tenant_id,
            plane_id,
            offboarding_id: entry.offboarding_id,
            at,
            body,
            previous,
            hash,
        });
        Ok(Recorded { event_id, sequence_no, at })
    }

    /// Reads where a chain stands, unless this transaction knows. Where others write too, it is locked until this transaction ends.
    async fn look_at(&mut self, chain: Chain) -> Result<(), Fault> {
        if !self.unwritten.knows(chain) {
            self.lock_chain(chain).await?;
        }
        Ok(())
    }

    /// Writes what was appended, and moves the chains' heads once.
    pub(crate) async fn write_trail(&mut self) -> Result<(), Fault> {
        let mut script = Script::default();
        let written = self.trail_all(&mut script);
        self.count(written, &mut script);
        self.run(script).await
    }

    /// Adds to a script what was appended and is not written; answers how many entries that is, for [`Self::count`].
    pub(crate) fn trail_all(&mut self, script: &mut Script) -> i64 {
        let (begun_at, locks) = (self.at(), self.locks());
        let entries = std::mem::take(&mut self.unwritten.entries);
        let values = std::mem::take(&mut self.unwritten.values);
        let moved = self.unwritten.heads.iter_mut().filter_map(|(chain, head)| {
            std::mem::take(&mut head.moved)
                .then(|| (chain.to_string(), head.hash.clone(), head.next, head.at.unwrap_or(begun_at)))
        });
        if locks {
            script.add(&LOCKED_HEADS, moved.collect(), |query, (chain, hash, next, at): (String, String, i64, DateTime<Utc>)| {
                query.bind(chain).bind(hash).bind(next).bind(at)
            });
        } else {
            script.add(&HEADS, moved.collect(), |query, (chain, hash, next, _): (String, String, i64, DateTime<Utc>)| {
                query.bind(chain).bind(hash).bind(next)
            });
        }
        let written = entries.len() as i64;
        script.add(&ENTRIES, entries, |query, row: EntryRow| {
            let query = query.bind(row.chain).bind(row.sequence_no).bind(row.event_id).bind(row.event_type.as_str());
            let query = query.bind(row.tenant_id).bind(row.plane_id).bind(row.offboarding_id).bind(row.at);
            query.bind(row.body).bind(row.previous).bind(row.hash)
        });
        script.add(&VALUES, values, ValueRow::bind);
        written
    }

    /// Entries in the order they were made, filtered.
    pub async fn trail(&mut self, filter: &TrailFilter) -> Result<Vec<TrailEntry>, Fault> {
        self.write_trail().await?;
        let list = self.sql(&LIST).bind(filter.chain.as_ref()).bind(filter.tenant_id.map(|id| id.to_string()));
        let rows = list.bind(filter.event_type.map(|kind| kind.as_str())).bind(filter.limit).all().await?;
        let mut opener = Opener::default();
        rows.iter().map(|row| entry(row, &mut opener)).collect()
    }
}

/// A row of the trail with its values.
pub(crate) fn entry(row: &Row, opener: &mut Opener) -> Result<TrailEntry, Fault> {
    let cells = Cells::new(row, "trail", "event_id");
    let body: Json = cells.json("body")?.unwrap_or_default();
    let event_id = cells.id("event_id")?;
    let mut values = json!({});
    // No values: whatever the database makes of none.
    for sealed in cells.json::<Option<Vec<SealedValue>>>("vals")?.flatten().unwrap_or_default() {
        match opener.open(event_id, body["actor_type"].as_str().unwrap_or_default(), &sealed) {
            Opened::Value { value, .. } => values[sealed.field] = json!(value),
            Opened::Destroyed => {}
            Opened::Wrong(why) => {
                let message = format!("the value kept for {} {why}", sealed.field);
                return Err(Fault::Unreadable { table: "trail_values", column: "sealed", id: event_id.to_string(), message });
            }
        }
    }
    Ok(TrailEntry { body, place: cells.get("place")?, hash: cells.get("hash")?, previous: cells.get("previous")?, values })
}
