//! Verifying the log: leaves, tree, checkpoints and keys are recomputed from the trail, and the first difference is named.
//!
//! The rule: it trusts no row. Each leaf must follow from its entry, each tile from the leaves, each checkpoint from the tree and a key of the
//! log; of what the ledger says about the log's size, nothing may be more or less. What is outside is compared by who can reach it.

use std::collections::HashMap;

use futures::TryStreamExt;
use lethe_verify::{
    leaf::Leaf,
    merkle::{Frontier, Hash, leaf_hash, root_of},
    note::{Checkpoint, PublicKey},
    tile::{self, WIDTH},
};
use serde::Serialize;
use serde_json::Value as Json;

use super::LogKey;
use crate::{
    db::Tx,
    fault::Fault,
    rows::Cells,
    sql::{Row, statements},
};

/// What was verified of the log.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct LogVerified {
    /// Leaves.
    pub leaves: u64,
    /// Tiles.
    pub tiles: u64,
    /// Signed checkpoints.
    pub checkpoints: u64,
    /// Entries that are not sealed yet.
    pub waiting: i64,
}

/// The first thing in the log that is not as it must be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("log, {place}: {fault}")]
pub struct LogFault {
    /// A leaf, tile or checkpoint.
    pub place: String,
    /// What is wrong.
    pub fault: String,
}

statements! {
    LEAVES = "read the log's leaves",
        "SELECT f.leaf_index, f.place, t.chain, t.sequence_no, t.hash, t.tenant_id FROM leaves f LEFT JOIN trail t ON t.place = f.place
         ORDER BY f.leaf_index";
    TILES = "read the log's tiles", "SELECT level, tile_index, hashes FROM log_tiles ORDER BY level, tile_index";
    SIGNED = "read the log's checkpoints", "SELECT size, root, note FROM checkpoints ORDER BY size";
    KEY_ENTRIES = "read what is on record of the log's keys",
        "SELECT t.event_type, t.at, t.body, f.leaf_index FROM trail t LEFT JOIN leaves f ON f.place = t.place
         WHERE t.chain = 'system' AND t.event_type IN ('LOG_KEY_ADDED', 'LOG_KEY_RETIRED') ORDER BY t.sequence_no";
    // Below this place nothing waits.
    LEFT_OUT = "look for entries that were left out of the log",
        "SELECT t.chain, t.sequence_no FROM trail t WHERE t.place < (SELECT l.sealed_below FROM log l)
         AND NOT EXISTS (SELECT 1 FROM leaves f WHERE f.place = t.place) ORDER BY t.place LIMIT 1";
}

/// The tree as it is computed anew.
struct Walk {
    tree: Frontier,
    /// Hashes of the level's tile that is being filled.
    levels: Vec<Vec<Hash>>,
    /// How many tiles of each level are full.
    full: Vec<u64>,
    tiles: HashMap<(u32, u64), Vec<u8>>,
    compared: u64,
}

fn fault(place: String, fault: impl Into<String>) -> LogFault {
    LogFault { place, fault: fault.into() }
}

impl Walk {
    fn append(&mut self, leaf: Hash) -> Result<(), LogFault> {
        let index = self.tree.size();
        let at = (index % WIDTH) as usize * 32;
        let kept = self.tiles.get(&(0, index / WIDTH)).and_then(|tile| tile.get(at..at + 32));
        if kept.is_some_and(|kept| kept != leaf) {
            let why =
                "its entry is not the one that was sealed: the entry's chain, number, hash or tenant was changed, or the tile";
            return Err(fault(format!("leaf {index}"), why));
        }
        self.tree.append(leaf);
        let (mut level, mut hash) = (0, leaf);
        loop {
            if self.levels.len() == level {
                self.levels.push(Vec::new());
                self.full.push(0);
            }
            self.levels[level].push(hash);
            if (self.levels[level].len() as u64) < WIDTH {
                return Ok(());
            }
            let hashes = std::mem::take(&mut self.levels[level]);
            self.compare(level as u32, self.full[level], &hashes)?;
            self.full[level] += 1;
            hash = root_of(&hashes);
            level += 1;
        }
    }

    fn compare(&mut self, level: u32, index: u64, computed: &[Hash]) -> Result<(), LogFault> {
        let place = || format!("tile {level}/{index}");
        let kept = self.tiles.remove(&(level, index)).ok_or_else(|| fault(place(), "it is missing"))?;
        self.compared += 1;
        if kept == tile::to_bytes(computed) {
            return Ok(());
        }
        let kept = tile::from_bytes(&kept).unwrap_or_default();
        let differs = kept.iter().zip(computed).position(|(kept, computed)| kept != computed);
        Err(match differs {
            Some(at) => fault(place(), format!("hash {at} does not follow from the level below")),
            None => fault(place(), format!("it has {} hashes where the tree has {}", kept.len(), computed.len())),
        })
    }

    fn finish(&mut self) -> Result<(), LogFault> {
        for (level, hashes) in std::mem::take(&mut self.levels).iter().enumerate().filter(|(_, hashes)| !hashes.is_empty()) {
            self.compare(level as u32, self.full[level], hashes)?;
        }
        match self.tiles.keys().min() {
            Some((level, index)) => Err(fault(format!("tile {level}/{index}"), "the tree has no such tile")),
            None => Ok(()),
        }
    }
}

/// A key by what is on record of it, and for which trees it signs.
struct Term {
    key: LogKey,
    /// The leaf that says that it signs no longer: no tree with that leaf is signed by it alone.
    retired_leaf: Option<u64>,
}

/// The keys that may sign a tree of this size. One that was retired, and perhaps for a reason, signs nothing that came later.
fn in_force(keys: &[Term], size: u64) -> Vec<PublicKey> {
    let signs = |term: &&Term| term.key.from_size < size && term.retired_leaf.is_none_or(|leaf| size <= leaf);
    keys.iter().filter(signs).filter_map(|term| term.key.public().ok()).collect()
}

/// A checkpoint as it stands, and what it must be.
fn check(row: &Row, tree: &Frontier, keys: &[Term]) -> Result<Result<u64, LogFault>, Fault> {
    let cells = Cells::new(row, "checkpoints", "size");
    let (size, root, note): (i64, Vec<u8>, String) = (cells.get("size")?, cells.get("root")?, cells.get("note")?);
    let place = || format!("checkpoint of {size} leaves");
    if tree.size() != size as u64 {
        return Ok(Err(fault(place(), format!("the tree has {} leaves: its end was cut off", tree.size()))));
    }
    if tree.root().as_slice() != root {
        return Ok(Err(fault(place(), "its root is not the tree's: something before its end was changed, taken out or put in")));
    }
    match Checkpoint::verified(&note, &in_force(keys, size as u64)) {
        Err(error) => Ok(Err(fault(place(), error.to_string()))),
        Ok((signed, _)) if signed.size != size as u64 || signed.root != tree.root() => {
            Ok(Err(fault(place(), format!("what was signed is a tree of {} leaves, or of another root", signed.size))))
        }
        Ok(_) => Ok(Ok(size as u64)),
    }
}

impl Tx {
    /// Recomputes the whole log. The outer error is the database's, the inner the log's.
    pub async fn verify_log(&mut self) -> Result<Result<LogVerified, LogFault>, Fault> {
        let keys = self.terms_of_log_keys().await?;
        let state = self.log().await?;
        let mut verified = LogVerified::default();
        let mut tiles = HashMap::new();
        for row in &self.sql(&TILES).all().await? {
            let cells = Cells::new(row, "log_tiles", "tile_index");
            tiles.insert((cells.get::<i64>("level")? as u32, cells.get::<i64>("tile_index")? as u64), cells.get("hashes")?);
        }
        let signed = self.sql(&SIGNED).all().await?;
        let mut next = signed.iter().peekable();
        let mut walk = Walk { tree: Frontier::default(), levels: Vec::new(), full: Vec::new(), tiles, compared: 0 };
        let mut rows = self.sql(&LEAVES).stream();
        while let Some(row) = rows.try_next().await? {
            let cells = Cells::new(&row, "leaves", "leaf_index");
            let index = cells.get::<i64>("leaf_index")? as u64;
            let place = || format!("leaf {index}");
            if index != walk.tree.size() {
                return Ok(Err(fault(format!("leaf {}", walk.tree.size()), "it is missing")));
            }
            let Some(chain) = cells.get::<Option<String>>("chain")? else {
                let at: i64 = cells.get("place")?;
                return Ok(Err(fault(
                    place(),
                    format!("its entry, at place {at} of the trail, is gone: it was deleted after it was sealed"),
                )));
            };
            let (hash, tenant): (String, String) = (cells.get("hash")?, cells.get("tenant_id")?);
            let Some(leaf) = Leaf::of(&chain, cells.get::<i64>("sequence_no")? as u64, &hash, &tenant) else {
                return Ok(Err(fault(place(), format!("the hash of its entry, `{hash}`, is no digest"))));
            };
            if let Err(wrong) = walk.append(leaf_hash(&leaf.bytes())) {
                return Ok(Err(wrong));
            }
            while let Some(row) = next.next_if(|row| matches!(size_of(row), Ok(size) if size <= walk.tree.size())) {
                if let Err(wrong) = check(row, &walk.tree, &keys)? {
                    return Ok(Err(wrong));
                }
                verified.checkpoints += 1;
            }
        }
        drop(rows);
        if let Err(wrong) = walk.finish() {
            return Ok(Err(wrong));
        }
        if let Some(row) = next.next()
            && let Err(wrong) = check(row, &walk.tree, &keys)?
        {
            return Ok(Err(wrong));
        }
        if let Err(wrong) = self.verify_log_keys().await? {
            return Ok(Err(wrong));
        }
        let last = signed.last().map_or(Ok(0), size_of)?;
        if (state.size, last) != (walk.tree.size(), walk.tree.size()) {
            let said =
                format!("the log counts {} leaves, its last checkpoint {last}, and there are {}", state.size, walk.tree.size());
            return Ok(Err(fault("size".into(), said)));
        }
        if let Some(row) = self.sql(&LEFT_OUT).optional().await? {
            let cells = Cells::new(&row, "trail", "chain");
            let (chain, number): (String, i64) = (cells.get("chain")?, cells.get("sequence_no")?);
            return Ok(Err(fault(format!("{chain}, entry {number}"), "it was left out of the log")));
        }
        verified.leaves = walk.tree.size();
        verified.tiles = walk.compared;
        verified.waiting = self.waiting_to_be_sealed().await?.map_or(0, |waiting| waiting.entries);
        Ok(Ok(verified))
    }
}

impl Tx {
    /// The keys that may sign a tree of this size.
    pub async fn log_keys_in_force(&mut self, size: u64) -> Result<Vec<PublicKey>, Fault> {
        Ok(in_force(&self.terms_of_log_keys().await?, size))
    }

    /// Each key as it is on record: since when, from which size on, and until when.
    async fn terms_of_log_keys(&mut self) -> Result<Vec<Term>, Fault> {
        let mut terms: Vec<Term> = Vec::new();
        for row in &self.sql(&KEY_ENTRIES).all().await? {
            let cells = Cells::new(row, "trail", "event_type");
            let (event, at) = (cells.get::<String>("event_type")?, cells.at("at")?);
            let leaf = cells.get::<Option<i64>>("leaf_index")?.map(|leaf| leaf as u64);
            let body = cells.json::<Json>("body")?.unwrap_or_default();
            let evidence = &body["evidence"];
            let retired = evidence["adopted_without"].as_array().into_iter().flatten().filter_map(Json::as_str);
            let retired = retired.chain(evidence["vkey"].as_str().filter(|_| event == "LOG_KEY_RETIRED"));
            for vkey in retired {
                terms.iter_mut().filter(|term| term.key.vkey == vkey).for_each(|term| {
                    term.key.retired_at = Some(at);
                    term.retired_leaf = leaf;
                });
            }
            if event == "LOG_KEY_ADDED" {
                let (vkey, from_size) =
                    (evidence["vkey"].as_str().unwrap_or_default(), evidence["from_size"].as_u64().unwrap_or_default());
                let key = LogKey { vkey: vkey.to_owned(), added_at: at, from_size, retired_at: None };
                terms.push(Term { key, retired_leaf: None });
            }
        }
        Ok(terms)
    }

    async fn verify_log_keys(&mut self) -> Result<Result<(), LogFault>, Fault> {
        let mut recorded: Vec<LogKey> = self.terms_of_log_keys().await?.into_iter().map(|term| term.key).collect();
        let mut kept = self.log_keys().await?;
        for keys in [&mut recorded, &mut kept] {
            keys.sort_by(|one, other| one.vkey.cmp(&other.vkey));
        }
        let differs = kept.iter().find(|key| !recorded.contains(key)).or_else(|| recorded.iter().find(|key| !kept.contains(key)));
        Ok(match differs {
            None => Ok(()),
            Some(key) => Err(fault(format!("key {}", key.vkey), "it is not what is on record of the log's keys")),
        })
    }
}

fn size_of(row: &Row) -> Result<u64, Fault> {
    Ok(Cells::new(row, "checkpoints", "size").get::<i64>("size")? as u64)
}
