//! Verifying the log: leaves, tree, checkpoints and keys are recomputed from the trail, and the first difference is named.
//!
//! The rule: it trusts no row. Each leaf must follow from its entry, each tile from the leaves, each checkpoint from the tree and a key of the
//! log; of what the ledger says about the log's size, nothing may be more or less. What is outside is compared by who can reach it.
//!
//! Entries come in the order in which they were written, which is nearly that of their leaves: those of a late commit wait for their turn.

use std::collections::{BTreeMap, HashMap};

use lethe_verify::{
    leaf::LENGTH,
    merkle::{Frontier, Hash, leaf_hashes, root_of},
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
    BEHIND = "look for leaves without an entry",
        "SELECT leaf_index, place FROM leaves WHERE leaf_index >= $1 ORDER BY leaf_index LIMIT 1";
    SIZE = "read the log's size", "SELECT size, sealed_below FROM log";
    TILES = "read the log's tiles", "SELECT level, tile_index, hashes FROM log_tiles ORDER BY level, tile_index";
    SIGNED = "read the log's checkpoints", "SELECT size, root, note FROM checkpoints ORDER BY size";
    KEY_ENTRIES = "read what is on record of the log's keys",
        "SELECT t.event_type, t.at, t.body, (SELECT f.leaf_index FROM leaves f WHERE f.place = t.place) AS leaf_index FROM trail t
         WHERE t.chain = 'system' AND t.event_type IN ('LOG_KEY_ADDED', 'LOG_KEY_RETIRED') ORDER BY t.sequence_no";
}

/// A checkpoint as it stands.
struct Signed {
    size: u64,
    root: Vec<u8>,
    note: String,
}

/// Leaves that are hashed at a time.
const BATCH: usize = WIDTH as usize;

/// The log as it is computed anew.
pub(crate) struct Walk {
    size: u64,
    /// Below this place nothing waits.
    sealed_below: i64,
    /// The first entry below it that has no leaf.
    left_out: Option<(String, i64)>,
    keys: Vec<Term>,
    signed: Vec<Signed>,
    /// How many of those were checked.
    checked: usize,
    /// Leaves whose predecessors have not come yet.
    early: BTreeMap<u64, [u8; LENGTH]>,
    /// Leaves that are next, and not in the tree yet.
    next: Vec<[u8; LENGTH]>,
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
    /// The next entry of the trail is this leaf.
    pub(crate) fn leaf(&mut self, index: u64, leaf: [u8; LENGTH]) -> Result<(), LogFault> {
        let wanted = self.tree.size() + self.next.len() as u64;
        if index != wanted {
            self.early.insert(index, leaf);
            return Ok(());
        }
        self.next.push(leaf);
        while let Some(follows) =
            self.early.first_entry().filter(|first| *first.key() == self.tree.size() + self.next.len() as u64)
        {
            self.next.push(follows.remove());
        }
        if self.next.len() >= BATCH { self.append() } else { Ok(()) }
    }

    /// The next entry of the trail has no leaf.
    pub(crate) fn without_leaf(&mut self, place: i64, chain: &str, sequence_no: i64) {
        if place < self.sealed_below && self.left_out.is_none() {
            self.left_out = Some((chain.to_owned(), sequence_no));
        }
    }

    /// Puts what is next into the tree, up to the end of each tile and to each checkpoint.
    fn append(&mut self) -> Result<(), LogFault> {
        let next = std::mem::take(&mut self.next);
        let data: Vec<&[u8]> = next.iter().map(<[u8; LENGTH]>::as_slice).collect();
        let hashes = leaf_hashes(&data);
        let mut rest = hashes.as_slice();
        while !rest.is_empty() {
            let size = self.tree.size();
            let signed = self.signed.get(self.checked).map_or(u64::MAX, |signed| signed.size);
            let room = (WIDTH - size % WIDTH).min(signed.saturating_sub(size).max(1)).min(rest.len() as u64);
            let (part, behind) = rest.split_at(room as usize);
            rest = behind;
            self.fill(part)?;
            while self.signed.get(self.checked).is_some_and(|signed| signed.size <= self.tree.size()) {
                self.check()?;
            }
        }
        Ok(())
    }

    /// Leaves of one tile.
    fn fill(&mut self, leaves: &[Hash]) -> Result<(), LogFault> {
        let first = self.tree.size();
        let kept = self.tiles.get(&(0, first / WIDTH)).map_or(&[][..], Vec::as_slice);
        let kept = kept.chunks_exact(32).skip((first % WIDTH) as usize);
        if let Some(at) = leaves.iter().zip(kept).position(|(leaf, kept)| leaf != kept) {
            let why =
                "its entry is not the one that was sealed: the entry's chain, number, hash or tenant was changed, or the tile";
            return Err(fault(format!("leaf {}", first + at as u64), why));
        }
        self.tree.append_all(leaves);
        self.level(0).extend_from_slice(leaves);
        let mut level = 0;
        while self.level(level).len() as u64 == WIDTH {
            let hashes = std::mem::take(&mut self.levels[level]);
            self.compare(level as u32, self.full[level], &hashes)?;
            self.full[level] += 1;
            level += 1;
            self.level(level).push(root_of(&hashes));
        }
        Ok(())
    }

    fn level(&mut self, level: usize) -> &mut Vec<Hash> {
        if self.levels.len() == level {
            self.levels.push(Vec::new());
            self.full.push(0);
        }
        &mut self.levels[level]
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

    /// The next checkpoint as it stands, and what it must be.
    fn check(&mut self) -> Result<(), LogFault> {
        let Signed { size, root, note } = &self.signed[self.checked];
        let wrong = |why: String| Err(fault(format!("checkpoint of {size} leaves"), why));
        if self.tree.size() != *size {
            return wrong(format!("the tree has {} leaves: its end was cut off", self.tree.size()));
        }
        let computed = self.tree.root();
        if computed.as_slice() != root {
            return wrong("its root is not the tree's: something before its end was changed, taken out or put in".into());
        }
        match Checkpoint::verified(note, &in_force(&self.keys, *size)) {
            Err(error) => return wrong(error.to_string()),
            Ok((said, _)) if said.size != *size || said.root != computed => {
                return wrong(format!("what was signed is a tree of {} leaves, or of another root", said.size));
            }
            Ok(_) => {}
        }
        self.checked += 1;
        Ok(())
    }

    /// Everything is in the tree: its last tiles, and what there is beyond.
    fn end(&mut self) -> Result<(), LogFault> {
        for (level, hashes) in std::mem::take(&mut self.levels).iter().enumerate().filter(|(_, hashes)| !hashes.is_empty()) {
            self.compare(level as u32, self.full[level], hashes)?;
        }
        if let Some((level, index)) = self.tiles.keys().min() {
            return Err(fault(format!("tile {level}/{index}"), "the tree has no such tile"));
        }
        if self.checked < self.signed.len() { self.check() } else { Ok(()) }
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

impl Tx {
    /// Begins to recompute the log.
    pub(crate) async fn begin_log(&mut self) -> Result<Walk, Fault> {
        let mut tiles = HashMap::new();
        for row in &self.sql(&TILES).all().await? {
            let cells = Cells::new(row, "log_tiles", "tile_index");
            tiles.insert((cells.get::<i64>("level")? as u32, cells.get::<i64>("tile_index")? as u64), cells.get("hashes")?);
        }
        let state = self.sql(&SIZE).first().await?;
        let state = Cells::new(&state, "log", "size");
        let signed = |row: &Row| {
            let cells = Cells::new(row, "checkpoints", "size");
            Ok(Signed { size: cells.get::<i64>("size")? as u64, root: cells.get("root")?, note: cells.get("note")? })
        };
        let signed = self.sql(&SIGNED).all().await?.iter().map(signed).collect::<Result<_, Fault>>()?;
        Ok(Walk {
            size: state.get::<i64>("size")? as u64,
            sealed_below: state.get("sealed_below")?,
            left_out: None,
            keys: self.terms_of_log_keys().await?,
            signed,
            checked: 0,
            early: BTreeMap::new(),
            next: Vec::new(),
            tree: Frontier::default(),
            levels: Vec::new(),
            full: Vec::new(),
            tiles,
            compared: 0,
        })
    }

    /// Every entry was seen: what is left of the log. The outer error is the database's, the inner the log's.
    pub(crate) async fn finish_log(&mut self, mut walk: Walk) -> Result<Result<LogVerified, LogFault>, Fault> {
        if let Err(wrong) = walk.append() {
            return Ok(Err(wrong));
        }
        let size = walk.tree.size();
        if let Some(row) = self.sql(&BEHIND).bind(size as i64).optional().await? {
            let cells = Cells::new(&row, "leaves", "leaf_index");
            let why = match cells.get::<i64>("leaf_index")? as u64 == size {
                true => format!(
                    "its entry, at place {} of the trail, is gone: it was deleted after it was sealed",
                    cells.get::<i64>("place")?
                ),
                false => "it is missing".into(),
            };
            return Ok(Err(fault(format!("leaf {size}"), why)));
        }
        if let Some((index, _)) = walk.early.first_key_value() {
            return Ok(Err(fault(format!("leaf {}", *index as i64), "no log has a leaf of this number")));
        }
        if let Err(wrong) = walk.end() {
            return Ok(Err(wrong));
        }
        if let Err(wrong) = self.verify_log_keys().await? {
            return Ok(Err(wrong));
        }
        let last = walk.signed.last().map_or(0, |signed| signed.size);
        if (walk.size, last) != (size, size) {
            let said = format!("the log counts {} leaves, its last checkpoint {last}, and there are {size}", walk.size);
            return Ok(Err(fault("size".into(), said)));
        }
        if let Some((chain, number)) = walk.left_out {
            return Ok(Err(fault(format!("{chain}, entry {number}"), "it was left out of the log")));
        }
        let waiting = self.waiting_to_be_sealed().await?.map_or(0, |waiting| waiting.entries);
        Ok(Ok(LogVerified { leaves: size, tiles: walk.compared, checkpoints: walk.checked as u64, waiting }))
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
