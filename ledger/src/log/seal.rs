//! Sealing: what was committed and is not in the tree yet is appended to it, and the new tree is signed.
//!
//! The rule: who seals has locked the log's one row, reads its size, and swaps it for the new one only if it still is that. Two who seal at
//! once are one after the other; the second finds nothing left to do.
//!
//! On PostgreSQL transactions commit in another order than they took their places, so what waits is found by looking for entries without a
//! leaf, from the place on below which every entry is known: up to the first gap, and beyond it once everybody has ended who could fill it. A
//! late commit gets a later leaf. Within a chain the order is kept: its next entry takes its place after the one before it was committed.
//!
//! One transaction: if we die in it, nothing was sealed.

use chrono::{DateTime, Utc};
use lethe_verify::{
    leaf::Leaf,
    merkle::{Hash, leaf_hash},
    note::{Checkpoint, SigningKey},
    tile::{self, Edge},
};
use uuid::Uuid;

use crate::{
    body::Body,
    db::Tx,
    fault::Fault,
    many::{Many, Script},
    rows::Cells,
    sql::{Row, statements},
};

/// Where places begin.
const FIRST_PLACE: i64 = 1;
/// So many places that are sealed already are read to find the first gap between them: it moves on with the next look.
const SEALED_MAX: i64 = 20_000;

/// What sealing did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sealed {
    /// Nothing waits.
    Nothing,
    /// So many entries; the tree has so many leaves now, and perhaps more entries wait.
    Entries {
        /// How many.
        entries: u64,
        /// Leaves of the tree.
        size: u64,
        /// Whether as many were sealed as was allowed.
        more: bool,
    },
}

/// What waits to be sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waiting {
    /// Entries, counted up to a thousand.
    pub entries: i64,
    /// When the first of them is dated.
    pub oldest_at: DateTime<Utc>,
}

/// Entries `t` without a leaf. Both sides begin at the place below which all are known: bounded on one side only, a join reads every leaf.
macro_rules! unsealed {
    () => {
        "trail t WHERE t.place >= (SELECT l.sealed_below FROM log l) AND NOT EXISTS (SELECT 1 FROM leaves f
            WHERE f.place = t.place AND f.place >= (SELECT l.sealed_below FROM log l))"
    };
}
pub(crate) use unsealed;

macro_rules! waiting {
    ($columns:literal, $limit:literal) => {
        concat!("SELECT ", $columns, " FROM ", unsealed!(), " ORDER BY t.place LIMIT ", $limit)
    };
}

statements! {
    LOCK = "lock the log",
        "SELECT size, sealed_below, NULL AS ahead_place, NULL AS ahead_xid, 0 AS xmin, 0 AS own FROM log",
        "SELECT size, sealed_below, ahead_place, ahead_xid, pg_snapshot_xmin(pg_current_snapshot())::text::bigint AS xmin,
            pg_current_xact_id()::text::bigint AS own FROM log FOR UPDATE SKIP LOCKED";
    UNSEALED = "read what waits to be sealed",
        waiting!("t.place, t.chain, t.sequence_no, t.hash, t.event_type, t.tenant_id, t.plane_id, t.offboarding_id, t.at, t.body,
            (SELECT v.tag FROM trail_values v WHERE v.event_id = t.event_id AND v.field = 'actor_id') AS actor_tag", "$1");
    WAITING = "count what waits to be sealed",
        concat!("SELECT count(*) AS entries, min(at) AS oldest_at FROM (", waiting!("t.at", "1000"), ") AS waiting");
    OPEN_TILES = "read the tree's edge",
        "SELECT level, tile_index, hashes FROM log_tiles WHERE level = $1 AND tile_index = $2";
    SWAP = "swap the log's size",
        "UPDATE log SET size = $2, sealed_below = $3, stopped_since = NULL, stopped_why = NULL WHERE size = $1";
    SEALED_FROM = "read which places are sealed", "SELECT place FROM leaves WHERE place >= $1 ORDER BY place LIMIT $2";
    AHEAD = "note how far the log's past is known",
        "SELECT $1, $2", "UPDATE log SET ahead_place = $1, ahead_xid = $2";
    SIGN = "keep a checkpoint", "INSERT INTO checkpoints (size, root, note) VALUES ($1, $2, $3)";
}

static LEAVES: Many = Many {
    doing: "append to the log",
    table: "leaves",
    before: "INSERT INTO leaves (leaf_index, place, at, event_type, outcome, tenant_id, plane_id, offboarding_id, approval_id, policy_revision, actor_tag)",
    after: "",
    types: &["bigint", "bigint", "timestamptz", "text", "text", "text", "uuid", "uuid", "text", "text", "bytea"],
};

static TILES: Many = Many {
    doing: "write tiles of the log",
    table: "log_tiles",
    before: "INSERT INTO log_tiles (level, tile_index, hashes)",
    after: "ON CONFLICT (level, tile_index) DO UPDATE SET hashes = excluded.hashes",
    types: &["bigint", "bigint", "bytea"],
};

/// Every batch of this module.
#[cfg(feature = "testing")]
pub(crate) static BATCHES: &[&Many] = &[&LEAVES, &TILES];

/// A row of `leaves`.
struct LeafRow {
    place: i64,
    at: DateTime<Utc>,
    event_type: String,
    outcome: &'static str,
    tenant_id: String,
    plane_id: Option<Uuid>,
    offboarding_id: Option<Uuid>,
    approval_id: Option<String>,
    policy_revision: Option<String>,
    actor_tag: Option<Vec<u8>>,
}

/// An entry as it waits: its leaf, and its row.
fn waiting(row: &Row) -> Result<(Hash, LeafRow), Fault> {
    let cells = Cells::new(row, "trail", "place");
    let (chain, hash): (String, String) = (cells.get("chain")?, cells.get("hash")?);
    let tenant_id: String = cells.get("tenant_id")?;
    let body: &str = cells.get("body")?;
    let unreadable = |column, message: String| Fault::Unreadable { table: "trail", column, id: chain.clone(), message };
    let leaf = Leaf::of(&chain, cells.get::<i64>("sequence_no")? as u64, &hash, &tenant_id)
        .ok_or_else(|| unreadable("hash", format!("`{hash}` is no digest")))?;
    let asked = Body::read(body).map_err(|error| unreadable("body", error.to_string()))?.asked();
    let row = LeafRow {
        place: cells.get("place")?,
        at: cells.at("at")?,
        outcome: asked.outcome,
        event_type: cells.get("event_type")?,
        tenant_id,
        plane_id: cells.maybe_id("plane_id")?,
        offboarding_id: cells.maybe_id("offboarding_id")?,
        approval_id: asked.approval_id,
        policy_revision: asked.policy_revision,
        actor_tag: cells.get("actor_tag")?,
    };
    Ok((leaf_hash(&leaf.bytes()), row))
}

/// The log's row as who seals has locked it, until the transaction ends.
#[derive(Debug)]
pub struct LockedLog {
    /// Leaves.
    pub size: u64,
    sealed_below: i64,
    ahead: Option<(i64, Option<i64>)>,
    /// Transactions before it have ended.
    xmin: i64,
    /// Our own.
    own: i64,
}

impl Tx {
    /// How much waits; `None`: nothing.
    pub async fn waiting_to_be_sealed(&mut self) -> Result<Option<Waiting>, Fault> {
        let row = self.sql(&WAITING).first().await?;
        let cells = Cells::new(&row, "trail", "entries");
        let Some(oldest_at) = cells.maybe_at("oldest_at")? else { return Ok(None) };
        Ok(Some(Waiting { entries: cells.get("entries")?, oldest_at }))
    }

    /// Locks the log for sealing; `None`: somebody else seals just now.
    pub async fn lock_log(&mut self) -> Result<Option<LockedLog>, Fault> {
        let Some(row) = self.sql(&LOCK).optional().await? else { return Ok(None) };
        let cells = Cells::new(&row, "log", "size");
        Ok(Some(LockedLog {
            size: cells.get::<i64>("size")? as u64,
            sealed_below: cells.get("sealed_below")?,
            ahead: cells
                .get::<Option<i64>>("ahead_place")?
                .map(|place| Ok::<_, Fault>((place, cells.get("ahead_xid")?)))
                .transpose()?,
            xmin: cells.get("xmin")?,
            own: cells.get("own")?,
        }))
    }

    /// Appends up to `limit` entries to the tree, what this transaction has written included, and signs it with every one of `keys`, whose name is
    /// the log's.
    pub async fn seal(&mut self, log: &LockedLog, keys: &[&SigningKey], limit: usize) -> Result<Sealed, Fault> {
        self.write_trail().await?;
        let rows = self.sql(&UNSEALED).bind(limit as i64).all().await?;
        if rows.is_empty() {
            return Ok(Sealed::Nothing);
        }
        let (hashes, mut leaves): (Vec<Hash>, Vec<LeafRow>) =
            rows.iter().map(waiting).collect::<Result<Vec<_>, _>>()?.into_iter().unzip();
        let entries = leaves.len() as u64;
        let more = leaves.len() == limit;

        let mut edge = self.edge(log.size).await?;
        let tiles = edge.append(hashes);
        let (size, root) = (edge.size(), edge.root());
        let origin = keys.first().map(|key| key.public().name).unwrap_or_default();
        let note = Checkpoint { origin, size, root }.signed(keys.iter().copied());

        let now: Vec<i64> = leaves.iter().map(|leaf| leaf.place).collect();
        let sealed_below = self.known_below(log, &now, more).await?;
        let swapped = self.sql(&SWAP).bind(log.size as i64).bind(size as i64).bind(sealed_below).run().await?;
        if swapped != 1 {
            return Err(Fault::LogMoved { size: log.size });
        }
        let mut script = Script::default();
        let numbered = leaves.drain(..).enumerate().map(|(index, row)| (log.size as i64 + index as i64, row)).collect();
        script.add(&LEAVES, numbered, |query, (index, row): (i64, LeafRow)| {
            let query = query.bind(index).bind(row.place).bind(row.at).bind(row.event_type).bind(row.outcome).bind(row.tenant_id);
            let query = query.bind(row.plane_id).bind(row.offboarding_id).bind(row.approval_id);
            query.bind(row.policy_revision).bind(row.actor_tag)
        });
        script.add(&TILES, tiles, |query, (level, index, hashes): (u32, u64, Vec<Hash>)| {
            query.bind(i64::from(level)).bind(index as i64).bind(tile::to_bytes(&hashes))
        });
        self.run(script).await?;
        self.sql(&SIGN).bind(size as i64).bind(root.as_slice()).bind(note).one().await?;
        Ok(Sealed::Entries { entries, size, more })
    }

    /// The right edge of the tree.
    async fn edge(&mut self, size: u64) -> Result<Edge, Fault> {
        let mut tiles = Vec::new();
        for open in Edge::open(size) {
            let level = open.level.unwrap_or_default();
            let row = self.sql(&OPEN_TILES).bind(i64::from(level)).bind(open.index as i64).optional().await?;
            let hashes = match row {
                Some(row) => tile::from_bytes(&Cells::new(&row, "log_tiles", "tile_index").get::<Vec<u8>>("hashes")?),
                None => None,
            };
            tiles.push(((level, open.index), hashes));
        }
        let mut of =
            |level: u32, index: u64| tiles.iter_mut().find(|(at, _)| *at == (level, index)).and_then(|(_, hashes)| hashes.take());
        Edge::read(size, &mut of).map_err(|tile| Fault::Unreadable {
            table: "log_tiles",
            column: "hashes",
            id: tile.path(),
            message: "the tile is missing, or not as wide as the log's size says: `lethe audit verify` names what was changed"
                .into(),
        })
    }

    /// Below which place every entry is sealed once those at these places are. On SQLite there is one who writes, so that is all of them.
    async fn known_below(&mut self, log: &LockedLog, now: &[i64], more: bool) -> Result<i64, Fault> {
        let last = now.last().copied().unwrap_or_default();
        if !self.locks() {
            return Ok(last + 1);
        }
        // Every transaction that could hold a place below it has ended before we looked: what is there is sealed now.
        let passed = match log.ahead {
            Some((place, Some(xid))) if log.xmin >= xid && (!more || last >= place) => place,
            _ => 0,
        };
        let from = log.sealed_below.max(passed).max(FIRST_PLACE);
        let rows = self.sql(&SEALED_FROM).bind(from).bind(SEALED_MAX).all().await?;
        let before: Vec<i64> =
            rows.iter().map(|row| Cells::new(row, "leaves", "place").get("place")).collect::<Result<_, _>>()?;
        let below = first_gap(from, &before, now);
        let ahead = match log.ahead {
            // Ours began after that place was seen.
            Some((place, xid)) if place > below => Some((place, xid.or(Some(log.own)))),
            _ => (below <= last).then_some((last + 1, None)),
        };
        if ahead != log.ahead {
            let (place, xid) = ahead.map_or((None, None), |(place, xid)| (Some(place), xid));
            self.sql(&AHEAD).bind(place).bind(xid).run().await?;
        }
        Ok(below)
    }
}

/// The first place from `from` on that is in neither list. Both ascend.
fn first_gap(from: i64, one: &[i64], other: &[i64]) -> i64 {
    let behind = |list: &[i64]| list.partition_point(|place| *place < from);
    let (mut one, mut other) = (one[behind(one)..].iter().peekable(), other[behind(other)..].iter().peekable());
    let mut gap = from;
    while one.next_if_eq(&&gap).or_else(|| other.next_if_eq(&&gap)).is_some() {
        gap += 1;
    }
    gap
}

#[cfg(test)]
mod tests {
    use super::first_gap;

    #[test]
    fn what_is_sealed_without_a_gap_is_known() {
        for (from, one, other, gap) in [
            (1, &[][..], &[][..], 1),
            (1, &[], &[1, 2, 3], 4),
            (1, &[], &[2, 3], 1),
            (2, &[2, 5], &[1, 3, 4, 7], 6),
            (6, &[2, 5], &[1, 3, 4, 7], 6),
            (4, &[4, 5, 6], &[], 7),
        ] {
            assert_eq!(first_gap(from, one, other), gap, "from {from}: {one:?}, {other:?}");
            assert_eq!(first_gap(from, other, one), gap, "from {from}: {other:?}, {one:?}");
        }
    }
}
