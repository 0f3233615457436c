//! Verifying the trail: everything is recomputed from the rows, and the first fault is named.
//!
//! The rule: it trusts no column. Hashes, numbers, commitments and the states of planes must all follow from the entries' bodies.
//! What it cannot see is a ledger that was replaced as a whole, or whose end was cut together with its log: for that there is what is
//! published, and checkpoints that somebody kept.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use chrono::{DateTime, Utc};
use futures::TryStreamExt;
use serde::Serialize;
use serde_json::Value as Json;

use crate::{
    db::Tx,
    fault::Fault,
    log::asked,
    personal::{Opened, Opener},
    rows::Cells,
    sql::statements,
    trail::{commitment, instant, link, origin},
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

/// Where a chain stands while it is walked.
struct Walk {
    chain: String,
    head: String,
    next: i64,
    state: String,
}

/// Each entry with its leaf and its sealed values, by joins and not row by row: a whole trail is read in one pass.
macro_rules! entries {
    ($which:literal) => {
        concat!(
            "SELECT t.*, f.leaf_index, f.at AS leaf_at, f.event_type AS leaf_event_type, f.outcome AS leaf_outcome,
             f.tenant_id AS leaf_tenant_id, f.plane_id AS leaf_plane_id, f.offboarding_id AS leaf_offboarding_id,
             f.approval_id AS leaf_approval_id, f.policy_revision AS leaf_policy_revision, f.actor_tag AS leaf_actor_tag,
             a.key_id AS actor_key, a.sealed AS actor_sealed, a.tag AS actor_tag, r.key_id AS reason_key, r.sealed AS reason_sealed
             FROM trail t LEFT JOIN leaves f ON f.place = t.place
             LEFT JOIN trail_values a ON a.event_id = t.event_id AND a.field = 'actor_id'
             LEFT JOIN trail_values r ON r.event_id = t.event_id AND r.field = 'reason' ",
            $which
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
    ENTRIES = "read the trail", entries!("ORDER BY t.place");
    ENTRIES_OF = "read the trail", entries!("WHERE t.chain = $1 ORDER BY t.sequence_no");
    // Beside the two that an entry is committed to there is nothing.
    OTHER_VALUES = "look for values of nothing",
        "SELECT t.chain, t.sequence_no FROM trail_values v JOIN trail t ON t.event_id = v.event_id
         WHERE v.field NOT IN ('actor_id', 'reason') LIMIT 1";
}

impl Tx {
    /// Walks every chain, or one. The outer error is the database's, the inner the trail's.
    pub async fn verify_trail(&mut self, only: Option<&str>) -> Result<Result<Verified, TrailFault>, Fault> {
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

        let (mut verified, mut opener, erased) = (Verified::default(), self.opener().await?, self.erased_at().await?);
        let mut walks: HashMap<String, Walk> = HashMap::new();
        let mut rows = self.sql(entries).only(only).stream();
        while let Some(row) = rows.try_next().await? {
            let cells = Cells::new(&row, "trail", "event_id");
            let chain: &str = cells.get("chain")?;
            if !walks.contains_key(chain) {
                walks.insert(
                    chain.to_owned(),
                    Walk { head: origin(chain), chain: chain.to_owned(), next: 0, state: String::new() },
                );
            }
            let at = walks.get_mut(chain).expect("put in above");
            if let Err(fault) = step(at, &cells, &mut opener, &erased, &mut verified)? {
                return Ok(Err(fault));
            }
        }
        drop(rows);
        if let Some(row) = self.sql(&OTHER_VALUES).optional().await? {
            let cells = Cells::new(&row, "trail", "chain");
            let fault = "a value is kept for a field that no entry is committed to".to_owned();
            return Ok(Err(TrailFault { chain: cells.get("chain")?, sequence_no: cells.get("sequence_no")?, fault }));
        }
        if let Some((key, holder)) = self.destroyed_unrecorded().await? {
            let chain = if holder == "__system__" { "system".to_owned() } else { format!("tenant:{holder}") };
            let fault = format!("the key {key} of its values is destroyed, and no entry says that somebody erased them");
            return Ok(Err(TrailFault { chain, sequence_no: 0, fault }));
        }
        let mut walked: Vec<Walk> = walks.into_values().collect();
        walked.sort_by(|one, other| one.chain.cmp(&other.chain));
        for done in walked {
            if let Err(fault) = finish(done, &mut unseen, &mut planes, &mut verified) {
                return Ok(Err(fault));
            }
        }
        if let Some((chain, (_, next))) = unseen.into_iter().next() {
            return Ok(Err(TrailFault {
                chain,
                sequence_no: 0,
                fault: format!("the chain's head counts {next} entries, there is none"),
            }));
        }
        if let Some((chain, state)) = planes.into_iter().next() {
            return Ok(Err(TrailFault { chain, sequence_no: 0, fault: format!("the plane is {state} and has no trail") }));
        }
        Ok(Ok(verified))
    }
}

/// Checks one entry against the walk and moves it on.
fn step(
    walk: &mut Walk,
    cells: &Cells<'_>,
    opener: &mut Opener,
    erased: &HashMap<String, DateTime<Utc>>,
    verified: &mut Verified,
) -> Result<Result<(), TrailFault>, Fault> {
    let sequence_no: i64 = cells.get("sequence_no")?;
    let fail = |fault: String| Ok(Err(TrailFault { chain: walk.chain.clone(), sequence_no, fault }));
    if sequence_no != walk.next {
        return fail(format!("entry {} is missing", walk.next));
    }
    let (previous, hash, text): (String, String, String) = (cells.get("previous")?, cells.get("hash")?, cells.get("body")?);
    if previous != walk.head {
        return fail("it does not follow the entry before it".into());
    }
    if link(&previous, &text) != hash {
        return fail("its hash does not fit its body".into());
    }
    let Ok(body) = serde_json::from_str::<Json>(&text) else { return fail("its body is not JSON".into()) };
    for (field, column) in [
        ("chain", Some(cells.get::<String>("chain")?)),
        ("event_id", Some(cells.id("event_id")?.to_string())),
        ("event_type", Some(cells.get::<String>("event_type")?)),
        ("tenant_id", Some(cells.get::<String>("tenant_id")?)),
        ("plane_id", cells.maybe_id("plane_id")?.map(|id| id.to_string())),
        ("offboarding_id", cells.maybe_id("offboarding_id")?.map(|id| id.to_string())),
        ("at", Some(instant(cells.at("at")?))),
    ] {
        if body[field].as_str() != column.as_deref() {
            return fail(format!("its column {field} does not fit its body"));
        }
    }
    if body["sequence_no"].as_i64() != Some(sequence_no) {
        return fail("its column sequence_no does not fit its body".into());
    }
    if lethe_stages::canonical::digest(&body["evidence"]).ok().as_deref() != body["evidence_digest"].as_str() {
        return fail("its evidence does not fit its digest".into());
    }
    let (event_id, at) = (cells.id("event_id")?, cells.at("at")?);
    let mut committed: BTreeSet<_> = ["actor_id", "reason"].into_iter().filter(|field| !body[field].is_null()).collect();
    let actor_tag: Option<Vec<u8>> = cells.get("actor_tag")?;
    for (field, key, sealed, tag) in
        [("actor_id", "actor_key", "actor_sealed", actor_tag.as_deref()), ("reason", "reason_key", "reason_sealed", None)]
    {
        let Some(key_id) = cells.maybe_id(key)? else { continue };
        let sealed: Vec<u8> = cells.get(sealed)?;
        match opener.open_with(key_id, event_id, field, body["actor_type"].as_str().unwrap_or_default(), &sealed, tag) {
            Opened::Value { salt, value } => {
                if body[field]["commitment"].as_str() != Some(commitment(&salt, &value).as_str()) {
                    return fail(format!("the value kept for {field} is not the one it is committed to"));
                }
                committed.remove(field);
                verified.commitments += 1;
            }
            Opened::Destroyed => {}
            Opened::Wrong(why) => return fail(format!("the value kept for {field} {why}")),
        }
    }
    if cells.get::<Option<i64>>("leaf_index")?.is_some()
        && let Some(column) = leaf_differs(&body, cells)?
    {
        return fail(format!("what questions find it by, leaves.{column}, does not fit its body"));
    }
    let last_erased = erased.get(body["tenant_id"].as_str().unwrap_or_default());
    if let Some(field) = committed.first().filter(|_| last_erased.is_none_or(|erased| *erased < at)) {
        return fail(format!("the value of {field} is gone, and nobody erased it"));
    }
    verified.destroyed += committed.len() as u64;
    if let Some(to) = body["to_state"].as_str() {
        let from = body["from_state"].as_str().unwrap_or_default();
        if from != walk.state {
            return fail(format!("it leaves {from}, but the plane was {}", walk.state));
        }
        walk.state = to.to_owned();
    }
    verified.entries += 1;
    walk.head = hash;
    walk.next += 1;
    Ok(Ok(()))
}

/// The first column of the entry's leaf that does not follow from its body.
fn leaf_differs(body: &Json, cells: &Cells<'_>) -> Result<Option<&'static str>, Fault> {
    let asked = asked(body);
    let id = |column: &'static str| Ok::<_, Fault>(cells.maybe_id(column)?.map(|id| id.to_string()));
    for (column, kept, computed) in [
        ("at", Some(instant(cells.at("leaf_at")?)), body["at"].as_str()),
        ("event_type", Some(cells.get("leaf_event_type")?), body["event_type"].as_str()),
        ("outcome", Some(cells.get("leaf_outcome")?), Some(asked.outcome)),
        ("tenant_id", Some(cells.get("leaf_tenant_id")?), body["tenant_id"].as_str()),
        ("plane_id", id("leaf_plane_id")?, body["plane_id"].as_str()),
        ("offboarding_id", id("leaf_offboarding_id")?, body["offboarding_id"].as_str()),
        ("approval_id", cells.get("leaf_approval_id")?, asked.approval_id),
        ("policy_revision", cells.get("leaf_policy_revision")?, asked.policy_revision),
    ] {
        if kept.as_deref() != computed {
            return Ok(Some(column));
        }
    }
    // Of a value that is erased, the tag is of a key that is gone, and leads nowhere.
    if cells.maybe_id("actor_key")?.is_some()
        && cells.get::<Option<Vec<u8>>>("leaf_actor_tag")? != cells.get::<Option<Vec<u8>>>("actor_tag")?
    {
        return Ok(Some("actor_tag"));
    }
    Ok(None)
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
