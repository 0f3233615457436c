//! Verifying the trail: everything is recomputed from the rows, and the first fault is named.
//!
//! The rule: it trusts no column. Hashes, numbers, commitments and the states of planes must all follow from the entries' bodies.
//! What it cannot see is a ledger that was replaced as a whole, or whose end was cut together with its log: for that there is what is
//! published, and checkpoints that somebody kept.

use std::collections::{BTreeMap, HashMap};

use chrono::{DateTime, Utc};
use lethe_verify::{
    leaf::{Leaf, is_written, origin, tag},
    merkle::{Hash, joined_hashes},
};
use serde::Serialize;
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::{
    body::Body,
    db::Tx,
    fault::Fault,
    log::{LogFault, LogVerified, Recomputed},
    personal::{Opened, Opener},
    rows::Cells,
    sql::{Row, Sql, statements},
    trail::{EventType, commitment, instant},
};

/// What was verified.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Verified {
    /// Entries.
    pub entries: u64,
    /// Chains.
    pub chains: u64,
    /// Commitments recomputed from values that still exist.
    pub commitments: u64,
    /// Commitments to values that were destroyed: nobody can recompute them any more, nor say what the values were.
    pub destroyed: u64,
    /// Planes whose state follows from their chain.
    pub planes: u64,
}

/// The first thing in the trail that is not as it must be.
#[derive(Debug, Clone, PartialEq, Serialize, thiserror::Error)]
#[error("{chain}, entry {sequence_no}: {fault}")]
pub struct TrailFault {
    /// In which chain.
    pub chain: String,
    /// At which number.
    pub sequence_no: i64,
    /// What is wrong.
    pub fault: String,
}

/// The first thing that is not as it must be, in the trail or in its log.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum LedgerFault {
    /// In the trail.
    #[error(transparent)]
    Trail(#[from] TrailFault),
    /// In the log.
    #[error(transparent)]
    Log(#[from] LogFault),
}

/// Where a chain stands while it is walked.
struct Walk {
    chain: String,
    tag: Hash,
    head: String,
    next: i64,
    state: String,
}

/// Where an entry stands among all others: its leaf, then its place. Not its time: of two transactions that waited for one another, the one
/// that wrote last may have begun first, and clocks are set back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Written {
    leaf: i64,
    place: i64,
}

impl Written {
    /// What has no leaf yet comes behind everything that has one.
    pub(crate) fn new(leaf: Option<i64>, place: i64) -> Self {
        Self { leaf: leaf.unwrap_or(i64::MAX), place }
    }
}

/// An entry of whose values one is gone.
struct Gone {
    written: Written,
    chain: String,
    sequence_no: i64,
    field: &'static str,
}

/// What is verified while the trail is read once.
struct Pass {
    opener: Opener,
    /// The entry of a tenant's last erasure, by whose values were erased.
    erased: HashMap<String, Written>,
    /// The last entry of each tenant of whose values one is gone.
    gone: HashMap<String, Gone>,
    walks: HashMap<String, Walk>,
    /// How the log names a tenant.
    tenants: HashMap<String, Hash>,
    log: Option<Recomputed>,
    verified: Verified,
}

/// Entries that are read at a time; while they are verified, the next are.
const WINDOW: i64 = 2_000;
/// How many of those may have been read and not verified.
const AHEAD: usize = 2;
/// Where more values lie between the ids of a window, they are asked for one by one.
const VALUES_MAX: i64 = 4 * WINDOW;
/// Entries that are hashed at a time.
const HASHED: usize = 256;

/// Entries with their leaves.
macro_rules! entries {
    ($behind:literal, $leaves:literal, $which:literal) => {
        concat!(
            "SELECT t.chain, t.sequence_no, t.event_id, t.event_type, t.tenant_id, t.plane_id, t.offboarding_id, t.at, t.body, t.previous, t.hash,
             t.place, f.leaf_index, f.outcome, f.approval_id, f.policy_revision, f.actor_tag,
             CASE WHEN f.at <> t.at THEN 'at' WHEN f.event_type <> t.event_type THEN 'event_type' WHEN f.tenant_id <> t.tenant_id THEN 'tenant_id'
                WHEN f.plane_id IS DISTINCT FROM t.plane_id THEN 'plane_id'
                WHEN f.offboarding_id IS DISTINCT FROM t.offboarding_id THEN 'offboarding_id' END AS leaf_differs
             FROM trail t LEFT JOIN leaves f ON f.place = t.place",
            $leaves,
            " WHERE ",
            $behind,
            " > $1",
            $which,
            " ORDER BY ",
            $behind,
            " LIMIT $2"
        )
    };
}

statements! {
    HEADS = "read the chains", "SELECT chain, head, next_sequence FROM chains";
    HEAD = "read the chains", "SELECT chain, head, next_sequence FROM chains WHERE chain = $1";
    STATES = "read the planes", "SELECT 'plane:' || id AS chain, state FROM planes", "SELECT 'plane:' || id::text AS chain, state FROM planes";
    STATE = "read the planes",
        "SELECT 'plane:' || id AS chain, state FROM planes WHERE 'plane:' || id = $1",
        "SELECT 'plane:' || id::text AS chain, state FROM planes WHERE 'plane:' || id::text = $1";
    // Within a chain the order of writing is the chain's own.
    // Leaves are begun at the same place: a merge would read them from the first on.
    ENTRIES = "read the trail", entries!("t.place", " AND f.place > $1", "");
    ENTRIES_OF = "read the trail", entries!("t.sequence_no", "", " AND t.chain = $3");
    // By the entries' ids, and not by a join: whoever plans a join over everything reads everything before the first row. Ids of entries that
    // were written one after the other lie beside one another, mostly.
    VALUES_AMONG = "read the trail's values",
        "SELECT event_id, field, key_id, sealed, tag FROM trail_values WHERE event_id BETWEEN $1 AND $2 LIMIT $3";
    VALUES = "read the trail's values",
        "SELECT event_id, field, key_id, sealed, tag FROM trail_values WHERE event_id IN (SELECT value FROM json_each($1))",
        "SELECT event_id, field, key_id, sealed, tag FROM trail_values WHERE event_id = ANY($1)";
}

/// Some entries, with the values that belong to them, and perhaps others.
struct Window {
    entries: Vec<Row>,
    values: Vec<Row>,
    /// The last one's place, or number in its chain.
    last: i64,
}

impl Tx {
    /// Walks every chain, or one. The outer error is the database's, the inner the trail's.
    pub async fn verify_trail(&mut self, only: Option<&str>) -> Result<Result<Verified, TrailFault>, Fault> {
        Ok(match self.verify(only, None).await? {
            Ok((verified, _)) => Ok(verified),
            Err(LedgerFault::Trail(fault)) => Err(fault),
            Err(LedgerFault::Log(fault)) => unreachable!("the log was not looked at: {fault}"),
        })
    }

    /// Walks every chain, and recomputes the log from the same entries. The outer error is the database's, the inner the ledger's.
    pub async fn verify_all(&mut self) -> Result<Result<(Verified, LogVerified), LedgerFault>, Fault> {
        let log = self.begin_log().await?;
        let (verified, log) = match self.verify(None, Some(log)).await? {
            Ok((verified, log)) => (verified, log.expect("what was begun is given back")),
            Err(fault) => return Ok(Err(fault)),
        };
        Ok(self.finish_log(log).await?.map(|log| (verified, log)).map_err(LedgerFault::Log))
    }

    async fn verify(
        &mut self,
        only: Option<&str>,
        log: Option<Recomputed>,
    ) -> Result<Result<(Verified, Option<Recomputed>), LedgerFault>, Fault> {
        self.write_trail().await?;
        let (heads, states, entries) = match only {
            None => (&HEADS, &STATES, &ENTRIES),
            Some(_) => (&HEAD, &STATE, &ENTRIES_OF),
        };
        let mut unseen: BTreeMap<String, (String, i64)> = BTreeMap::new();
        for row in &self.sql(heads).only(only).all().await? {
            let cells = Cells::new(row, "chains", "chain");
            unseen.insert(cells.get("chain")?, (cells.get("head")?, cells.get("next_sequence")?));
        }
        let mut planes: BTreeMap<String, String> = BTreeMap::new();
        for row in &self.sql(states).only(only).all().await? {
            let cells = Cells::new(row, "planes", "chain");
            planes.insert(cells.get("chain")?, cells.get("state")?);
        }

        let pass = Pass {
            opener: self.opener().await?,
            // Whoever reads everything comes by them.
            erased: if only.is_some() { self.last_erasures().await? } else { HashMap::new() },
            gone: HashMap::new(),
            walks: HashMap::new(),
            tenants: HashMap::new(),
            log,
            verified: Verified::default(),
        };
        let (windows, read) = mpsc::channel(AHEAD);
        let verifying = tokio::task::spawn_blocking(move || pass.windows(read));
        let sent = self.send_windows(entries, only, windows).await;
        let pass = match verifying.await.expect("verifying does not panic")? {
            Ok(pass) => pass,
            Err(fault) => return Ok(Err(fault)),
        };
        sent?;
        if let Some(fault) = pass.gone_unerased() {
            return Ok(Err(fault.into()));
        }
        let Pass { walks, log, mut verified, .. } = pass;
        let trail = |chain: String, sequence_no: i64, fault: String| Ok(Err(TrailFault { chain, sequence_no, fault }.into()));
        if let Some((key, holder)) = self.destroyed_unrecorded().await? {
            let chain = if holder == "__system__" { "system".to_owned() } else { format!("tenant:{holder}") };
            return trail(
                chain,
                0,
                format!("the key {key} of its values is destroyed, and no entry says that somebody erased them"),
            );
        }
        let mut walked: Vec<Walk> = walks.into_values().collect();
        walked.sort_by(|one, other| one.chain.cmp(&other.chain));
        for done in walked {
            if let Err(fault) = finish(done, &mut unseen, &mut planes, &mut verified) {
                return Ok(Err(fault.into()));
            }
        }
        if let Some((chain, (_, next))) = unseen.into_iter().next() {
            return trail(chain, 0, format!("the chain's head counts {next} entries, there is none"));
        }
        if let Some((chain, state)) = planes.into_iter().next() {
            return trail(chain, 0, format!("the plane is {state} and has no trail"));
        }
        Ok(Ok((verified, log)))
    }
}

impl Tx {
    /// Reads all entries for who verifies them, as long as nothing is found.
    async fn send_windows(&mut self, entries: &'static Sql, only: Option<&str>, to: mpsc::Sender<Window>) -> Result<(), Fault> {
        let mut behind = i64::MIN;
        while let Some(window) = self.window(entries, only, behind).await? {
            behind = window.last;
            if to.send(window).await.is_err() {
                break;
            }
        }
        Ok(())
    }

    /// The entries behind a place, or behind a number of a chain; `None`: there are no more.
    async fn window(&mut self, entries: &'static Sql, only: Option<&str>, behind: i64) -> Result<Option<Window>, Fault> {
        let entries = self.sql(entries).bind(behind).bind(WINDOW).only(only).all().await?;
        let Some(last) = entries.last() else { return Ok(None) };
        let numbered = if only.is_some() { "sequence_no" } else { "place" };
        let last = Cells::new(last, "trail", "event_id").get(numbered)?;
        let ids = entries.iter().map(|row| Cells::new(row, "trail", "event_id").id("event_id"));
        let values = self.values(ids.collect::<Result<_, _>>()?, only.is_none()).await?;
        Ok(Some(Window { entries, values, last }))
    }

    /// The values of these entries, and perhaps of others.
    async fn values(&mut self, ids: Vec<Uuid>, neighbours: bool) -> Result<Vec<Row>, Fault> {
        if let (true, Some(first), Some(last)) = (neighbours, ids.iter().min(), ids.iter().max()) {
            let among = self.sql(&VALUES_AMONG).bind(*first).bind(*last).bind(VALUES_MAX).all().await?;
            if (among.len() as i64) < VALUES_MAX {
                return Ok(among);
            }
        }
        self.sql(&VALUES).bind(ids.as_slice()).all().await
    }
}

/// A sealed value as it stands.
struct Value<'r> {
    key_id: Uuid,
    sealed: &'r [u8],
    tag: Option<&'r [u8]>,
}

/// The values of some entries, by entry: for each, the actor's, the reason's, and one of anything else.
type Values<'r> = HashMap<Uuid, [Option<Value<'r>>; 3]>;

/// The fields that an entry may be committed to.
const FIELDS: [&str; 2] = ["actor_id", "reason"];

/// An entry's columns.
struct Columns<'r> {
    chain: &'r str,
    sequence_no: i64,
    event_id: Uuid,
    event_type: &'r str,
    tenant_id: &'r str,
    plane_id: Option<Uuid>,
    offboarding_id: Option<Uuid>,
    at: DateTime<Utc>,
    body: &'r str,
    previous: &'r str,
    hash: &'r str,
    place: i64,
    leaf: Option<LeafColumns<'r>>,
}

/// Its leaf's.
struct LeafColumns<'r> {
    index: i64,
    outcome: &'r str,
    approval_id: Option<&'r str>,
    policy_revision: Option<&'r str>,
    actor_tag: Option<&'r [u8]>,
    /// The first column that both have and that differs.
    differs: Option<&'r str>,
}

impl<'r> Columns<'r> {
    fn read(row: &'r Row) -> Result<Self, Fault> {
        let cells = Cells::in_order(row, "trail", "event_id");
        Ok(Self {
            chain: cells.get("chain")?,
            sequence_no: cells.get("sequence_no")?,
            event_id: cells.id("event_id")?,
            event_type: cells.get("event_type")?,
            tenant_id: cells.get("tenant_id")?,
            plane_id: cells.maybe_id("plane_id")?,
            offboarding_id: cells.maybe_id("offboarding_id")?,
            at: cells.at("at")?,
            body: cells.get("body")?,
            previous: cells.get("previous")?,
            hash: cells.get("hash")?,
            place: cells.get("place")?,
            leaf: match cells.get("leaf_index")? {
                Some(index) => Some(LeafColumns {
                    index,
                    outcome: cells.get("outcome")?,
                    approval_id: cells.get("approval_id")?,
                    policy_revision: cells.get("policy_revision")?,
                    actor_tag: cells.get("actor_tag")?,
                    differs: cells.get("leaf_differs")?,
                }),
                None => None,
            },
        })
    }
}

impl Pass {
    /// Verifies whatever comes.
    fn windows(mut self, mut from: mpsc::Receiver<Window>) -> Result<Result<Self, LedgerFault>, Fault> {
        while let Some(window) = from.blocking_recv() {
            if let Err(fault) = self.window(&window)? {
                return Ok(Err(fault));
            }
        }
        Ok(Ok(self))
    }

    /// Verifies the next entries.
    fn window(&mut self, window: &Window) -> Result<Result<(), LedgerFault>, Fault> {
        let mut values = Values::with_capacity(window.values.len());
        for row in &window.values {
            let cells = Cells::in_order(row, "trail_values", "event_id");
            let (entry, field) = (cells.id("event_id")?, cells.get::<&str>("field")?);
            let value = Value { key_id: cells.id("key_id")?, sealed: cells.get("sealed")?, tag: cells.get("tag")? };
            // Beside the two that an entry may be committed to there is nothing.
            let at = FIELDS.iter().position(|known| *known == field).unwrap_or(FIELDS.len());
            values.entry(entry).or_default()[at] = Some(value);
        }
        for rows in window.entries.chunks(HASHED) {
            let mut unreadable = Ok(());
            let read = rows.iter().map(Columns::read).map_while(|read| read.map_err(|fault| unreadable = Err(fault)).ok());
            let entries: Vec<Columns<'_>> = read.collect();
            let bodies: Vec<_> = entries.iter().map(|entry| Body::read(entry.body)).collect();
            // What follows from each, computed at once: its hash, and behind them all the digests of what each is evidence for.
            let evidence = bodies.iter().map(|body| body.as_ref().map_or("", |body| body.evidence.get()).as_bytes());
            let first: Vec<&[u8]> =
                entries.iter().map(|entry| entry.previous.as_bytes()).chain(entries.iter().map(|_| &[][..])).collect();
            let second: Vec<&[u8]> = entries.iter().map(|entry| entry.body.as_bytes()).chain(evidence).collect();
            let computed = joined_hashes(&first, &second);
            let (hashes, evidence) = computed.split_at(entries.len());
            for (((entry, body), hash), evidence) in entries.iter().zip(bodies).zip(hashes).zip(evidence) {
                if let Err(fault) = self.entry(entry, body, hash, evidence, &mut values) {
                    return Ok(Err(fault));
                }
            }
            unreadable?;
        }
        Ok(Ok(()))
    }

    /// The last entry of a tenant whose value is gone although nobody erased it since.
    fn gone_unerased(&self) -> Option<TrailFault> {
        let unerased =
            self.gone.iter().filter(|(tenant, gone)| self.erased.get(*tenant).is_none_or(|erased| *erased < gone.written));
        let (_, gone) = unerased.min_by_key(|(tenant, _)| *tenant)?;
        let fault = format!("the value of {} is gone, and nobody erased it", gone.field);
        Some(TrailFault { chain: gone.chain.clone(), sequence_no: gone.sequence_no, fault })
    }

    /// Checks the next entry against its chain's walk, and moves that on. `hash` and the digest of its evidence were computed from it.
    fn entry(
        &mut self,
        columns: &Columns<'_>,
        body: Result<Body<'_>, serde_json::Error>,
        hash: &Hash,
        evidence: &Hash,
        values: &mut Values<'_>,
    ) -> Result<(), LedgerFault> {
        let Columns { chain, sequence_no, event_id, .. } = *columns;
        let walk = match self.walks.get_mut(chain) {
            Some(walk) => walk,
            None => {
                let begun = Walk { chain: chain.to_owned(), tag: tag(chain), head: origin(chain), next: 0, state: String::new() };
                self.walks.entry(chain.to_owned()).or_insert(begun)
            }
        };
        let fail = |fault: String| Err(TrailFault { chain: chain.to_owned(), sequence_no, fault }.into());
        if sequence_no != walk.next {
            return fail(format!("entry {} is missing", walk.next));
        }
        if columns.previous != walk.head {
            return fail("it does not follow the entry before it".into());
        }
        if !is_written(columns.hash, hash) {
            return fail("its hash does not fit its body".into());
        }
        let body = match body {
            Ok(body) => body,
            Err(error) => return fail(format!("its body cannot be read: {error}")),
        };
        if let Some(column) = differs(&body, columns) {
            return fail(format!("its column {column} does not fit its body"));
        }
        if !is_written(&body.evidence_digest, evidence) {
            return fail("its evidence does not fit its digest".into());
        }
        let values = values.remove(&event_id).unwrap_or_default();
        let mut gone = None;
        let actor_type = &*body.actor_type;
        for ((field, committed), value) in FIELDS.into_iter().zip([&body.actor_id, &body.reason]).zip(&values) {
            let opened = match value {
                Some(value) => self.opener.open_with(value.key_id, event_id, field, actor_type, value.sealed, value.tag),
                None => Opened::Destroyed,
            };
            match (opened, committed) {
                (Opened::Value { salt, value }, Some(committed)) if *committed.commitment == commitment(&salt, &value) => {
                    self.verified.commitments += 1;
                }
                (Opened::Value { .. }, _) => {
                    return fail(format!("the value kept for {field} is not the one it is committed to"));
                }
                (Opened::Wrong(why), _) => return fail(format!("the value kept for {field} {why}")),
                (Opened::Destroyed, Some(_)) => {
                    gone = gone.or(Some(field));
                    self.verified.destroyed += 1;
                }
                (Opened::Destroyed, None) => {}
            }
        }
        // By what its actor is found; `None`: the actor's value is not there.
        let actor_tag = values[0].as_ref().map(|actor| actor.tag);
        if let Some(column) = columns.leaf.as_ref().and_then(|leaf| leaf_differs(&body, leaf, actor_tag)) {
            return fail(format!("what questions find it by, leaves.{column}, does not fit its body"));
        }
        if values[FIELDS.len()].is_some() {
            return fail("a value is kept for a field that no entry is committed to".into());
        }
        let written = Written::new(columns.leaf.as_ref().map(|leaf| leaf.index), columns.place);
        if let Some(field) = gone
            && self.gone.get(columns.tenant_id).is_none_or(|last| last.written < written)
        {
            let last = Gone { written, chain: chain.to_owned(), sequence_no, field };
            self.gone.insert(columns.tenant_id.to_owned(), last);
        }
        // By what is on record, and not by a column.
        if columns.event_type == EventType::PersonalErased.as_str() {
            let last = self.erased.entry(columns.tenant_id.to_owned()).or_insert(written);
            *last = written.max(*last);
        }
        if let Some(to) = body.to_state.as_deref() {
            let from = body.from_state.as_deref().unwrap_or_default();
            if from != walk.state {
                return fail(format!("it leaves {from}, but the plane was {}", walk.state));
            }
            walk.state = to.to_owned();
        }
        self.verified.entries += 1;
        walk.head.replace_range(.., columns.hash);
        walk.next += 1;
        let Some(log) = &mut self.log else { return Ok(()) };
        let Some(sealed) = &columns.leaf else {
            log.without_leaf(columns.place, chain, sequence_no);
            return Ok(());
        };
        let tenant = match self.tenants.get(columns.tenant_id) {
            Some(tenant) => *tenant,
            None => *self.tenants.entry(columns.tenant_id.to_owned()).or_insert(tag(columns.tenant_id)),
        };
        let leaf = Leaf { chain: walk.tag, sequence_no: sequence_no as u64, hash: *hash, tenant };
        log.leaf(sealed.index as u64, leaf.bytes()).map_err(LedgerFault::Log)
    }
}

/// Whether a text is this id as an entry writes it.
fn is_id(text: &str, id: Uuid) -> bool {
    text == &*id.hyphenated().encode_lower(&mut Uuid::encode_buffer())
}

fn is_maybe_id(text: Option<&str>, id: Option<Uuid>) -> bool {
    match (text, id) {
        (Some(text), Some(id)) => is_id(text, id),
        (text, id) => text.is_none() && id.is_none(),
    }
}

/// The first column of an entry that does not follow from its body.
fn differs(body: &Body<'_>, columns: &Columns<'_>) -> Option<&'static str> {
    [
        ("chain", *body.chain == *columns.chain),
        ("event_id", is_id(&body.event_id, columns.event_id)),
        ("event_type", *body.event_type == *columns.event_type),
        ("tenant_id", *body.tenant_id == *columns.tenant_id),
        ("plane_id", is_maybe_id(body.plane_id.as_deref(), columns.plane_id)),
        ("offboarding_id", is_maybe_id(body.offboarding_id.as_deref(), columns.offboarding_id)),
        ("at", *body.at == *instant(columns.at)),
        ("sequence_no", body.sequence_no == columns.sequence_no),
    ]
    .into_iter()
    .find_map(|(column, fits)| (!fits).then_some(column))
}

/// The first column of the entry's leaf that does not follow from its body, or is not as its own column.
fn leaf_differs<'r>(body: &Body<'_>, leaf: &LeafColumns<'r>, actor_tag: Option<Option<&[u8]>>) -> Option<&'r str> {
    let asked = body.asked();
    let fits = [
        ("outcome", leaf.outcome == asked.outcome),
        ("approval_id", leaf.approval_id == asked.approval_id.as_deref()),
        ("policy_revision", leaf.policy_revision == asked.policy_revision.as_deref()),
        // Of a value that is erased, the tag is of a key that is gone, and leads nowhere.
        ("actor_tag", actor_tag.is_none_or(|tag| tag == leaf.actor_tag)),
    ];
    leaf.differs.or_else(|| fits.into_iter().find_map(|(column, fits)| (!fits).then_some(column)))
}

/// Compares the end of a walk with the chain's head and the plane's state.
fn finish(
    walk: Walk,
    heads: &mut BTreeMap<String, (String, i64)>,
    planes: &mut BTreeMap<String, String>,
    verified: &mut Verified,
) -> Result<(), TrailFault> {
    let fail = |fault: String| Err(TrailFault { chain: walk.chain.clone(), sequence_no: walk.next - 1, fault });
    match heads.remove(&walk.chain) {
        Some((head, next)) if head == walk.head && next == walk.next => {}
        Some((_, next)) => return fail(format!("the chain's head counts {next} entries, there are {}", walk.next)),
        None => return fail("the chain has no head".into()),
    }
    if walk.chain.starts_with("plane:") {
        match planes.remove(&walk.chain) {
            Some(state) if state == walk.state => verified.planes += 1,
            Some(state) => return fail(format!("the plane is {state}, its trail ends in {}", walk.state)),
            None => return fail("there is no such plane".into()),
        }
    }
    verified.chains += 1;
    Ok(())
}
