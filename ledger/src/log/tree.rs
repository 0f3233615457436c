//! The tree: which leaf an entry is, and what proves it.
//!
//! The rule: a proof is made of the tiles as they stand, for a tree that was signed, and is checked against that signature before it is
//! handed out: what does not hold is a fault of ours and no proof. It only reads.

use std::collections::HashMap;

use lethe_verify::{
    leaf::Leaf,
    merkle::{self, Hash, ProofFault, Range},
    tile::{self, Tile},
};
use serde_json::Value as Json;
use uuid::Uuid;

use crate::{
    db::Tx,
    fault::Fault,
    rows::Cells,
    sql::{Row, statements},
};

/// An entry as a leaf.
#[derive(Debug, Clone)]
pub struct LeafOf {
    /// The leaf's number.
    pub leaf_index: u64,
    /// Its chain.
    pub chain: String,
    /// Its number in it.
    pub sequence_no: u64,
    /// Whose.
    pub tenant_id: String,
    /// The hash before it.
    pub previous: String,
    /// Its hash.
    pub hash: String,
    /// Its canonical text.
    pub body: String,
    /// Its identity.
    pub event_id: Uuid,
}

impl LeafOf {
    /// What the log has of it.
    pub fn leaf(&self) -> Result<Leaf, Fault> {
        Leaf::of(&self.chain, self.sequence_no, &self.hash, &self.tenant_id).ok_or_else(|| Fault::Unreadable {
            table: "trail",
            column: "hash",
            id: self.event_id.to_string(),
            message: format!("`{}` is no digest", self.hash),
        })
    }
}

/// A leaf with the hashes that prove it.
#[derive(Debug, Clone)]
pub struct Proved {
    /// The entry.
    pub leaf: LeafOf,
    /// From the leaf upwards.
    pub proof: Vec<Hash>,
}

macro_rules! leaves {
    ($where:literal) => {
        concat!(
            "SELECT f.leaf_index, t.chain, t.sequence_no, t.tenant_id, t.previous, t.hash, t.body, t.event_id
             FROM leaves f JOIN trail t ON t.place = f.place WHERE ",
            $where
        )
    };
}

statements! {
    TILE = "read a tile of the log", "SELECT hashes FROM log_tiles WHERE level = $1 AND tile_index = $2";
    LEAF = "read a leaf", leaves!("t.event_id = $1");
    LEAVES = "read leaves", leaves!("f.leaf_index >= $1 AND f.leaf_index < $2 ORDER BY f.leaf_index");
    OF_CHAIN = "read the leaves of a chain", leaves!("t.chain = $1 AND f.leaf_index < $2 ORDER BY t.sequence_no");
    OF_TENANT = "read the leaves of a tenant", leaves!("f.tenant_id = $1 AND f.leaf_index < $2 ORDER BY f.leaf_index");
}

fn leaf_of(row: &Row) -> Result<LeafOf, Fault> {
    let cells = Cells::new(row, "leaves", "leaf_index");
    Ok(LeafOf {
        leaf_index: cells.get::<i64>("leaf_index")? as u64,
        chain: cells.get("chain")?,
        sequence_no: cells.get::<i64>("sequence_no")? as u64,
        tenant_id: cells.get("tenant_id")?,
        previous: cells.get("previous")?,
        hash: cells.get("hash")?,
        body: cells.get("body")?,
        event_id: cells.id("event_id")?,
    })
}

fn broken(what: &str, error: &ProofFault) -> Fault {
    Fault::LogBroken { what: what.to_owned(), why: error.to_string() }
}

impl Tx {
    /// The leaf of an entry; `None` while it waits, or where there is no such entry.
    pub async fn leaf_of(&mut self, event_id: Uuid) -> Result<Option<LeafOf>, Fault> {
        self.sql(&LEAF).bind(event_id).optional().await?.as_ref().map(leaf_of).transpose()
    }

    /// The leaves from `start` on, `end` not included.
    pub async fn leaves(&mut self, start: u64, end: u64) -> Result<Vec<LeafOf>, Fault> {
        self.sql(&LEAVES).bind(start as i64).bind(end as i64).all().await?.iter().map(leaf_of).collect()
    }

    /// The leaves of a chain within a tree of this size, in their order.
    pub async fn leaves_of_chain(&mut self, chain: &str, size: u64) -> Result<Vec<LeafOf>, Fault> {
        self.sql(&OF_CHAIN).bind(chain).bind(size as i64).all().await?.iter().map(leaf_of).collect()
    }

    /// The leaves of a tenant within a tree of this size, in the log's order.
    pub async fn leaves_of_tenant(&mut self, tenant_id: Uuid, size: u64) -> Result<Vec<LeafOf>, Fault> {
        self.sql(&OF_TENANT).bind(tenant_id.to_string()).bind(size as i64).all().await?.iter().map(leaf_of).collect()
    }

    /// The hashes of a tile, as far as it is filled.
    pub async fn tile(&mut self, level: u32, index: u64) -> Result<Vec<Hash>, Fault> {
        let row = self.sql(&TILE).bind(i64::from(level)).bind(index as i64).optional().await?;
        let Some(row) = row else { return Ok(Vec::new()) };
        let bytes: Vec<u8> = Cells::new(&row, "log_tiles", "tile_index").get("hashes")?;
        Ok(tile::from_bytes(&bytes).unwrap_or_default())
    }

    /// The hashes of subtrees in a tree of `size` leaves.
    pub async fn subtrees(&mut self, ranges: &[Range], size: u64) -> Result<Vec<Hash>, Fault> {
        let mut tiles: HashMap<Tile, Vec<Hash>> = HashMap::new();
        for wanted in tile::tiles_for(ranges, size) {
            let hashes = self.tile(wanted.level.unwrap_or_default(), wanted.index).await?;
            tiles.insert(wanted, hashes);
        }
        let node = |level: u32, index: u64| {
            let tile = Tile::holding(level, index, size);
            let why = || Fault::LogBroken { what: tile.path(), why: "the tile is missing or too short".into() };
            let hashes = tiles.get(&tile).and_then(|hashes| hashes.get(..tile.width as usize)).ok_or_else(why)?;
            tile::node_in(hashes, level, index).ok_or_else(why)
        };
        ranges.iter().map(|range| range.hash(node)).collect()
    }

    /// What proves that leaves are in the tree of `size` leaves whose root was signed.
    pub async fn prove(&mut self, leaves: Vec<LeafOf>, size: u64, root: &Hash) -> Result<Vec<Proved>, Fault> {
        let mut proved = Vec::with_capacity(leaves.len());
        for leaf in leaves {
            let what = format!("leaf {}", leaf.leaf_index);
            let ranges = merkle::inclusion_ranges(leaf.leaf_index, size).map_err(|error| broken(&what, &error))?;
            let proof = self.subtrees(&ranges, size).await?;
            let hash = merkle::leaf_hash(&leaf.leaf()?.bytes());
            merkle::check_inclusion(leaf.leaf_index, size, &hash, &proof, root).map_err(|error| broken(&what, &error))?;
            proved.push(Proved { leaf, proof });
        }
        Ok(proved)
    }

    /// What proves that the tree of `old` leaves is the beginning of the one of `new`.
    pub async fn prove_consistency(&mut self, old: (u64, &Hash), new: (u64, &Hash)) -> Result<Vec<Hash>, Fault> {
        let what = format!("the trees of {} and {} leaves", old.0, new.0);
        let ranges = merkle::consistency_ranges(old.0, new.0).map_err(|error| broken(&what, &error))?;
        let proof = self.subtrees(&ranges, new.0).await?;
        merkle::check_consistency(old.0, old.1, new.0, new.1, &proof).map_err(|error| broken(&what, &error))?;
        Ok(proof)
    }

    /// The root of the tree of the first `size` leaves.
    pub async fn root_at(&mut self, size: u64) -> Result<Hash, Fault> {
        let of = self.log().await?.size;
        if size == 0 {
            return Ok(merkle::empty_root());
        }
        Ok(self.subtrees(&[Range { start: 0, end: size }], of).await?[0])
    }

    /// The perfect subtrees of the first `size` leaves, the largest first: from them on, who has the leaves that follow computes the root.
    pub async fn frontier(&mut self, size: u64, of: u64) -> Result<Vec<Hash>, Fault> {
        let parts = Range { start: 0, end: size }.perfect();
        let ranges: Vec<Range> =
            parts.into_iter().map(|(level, index)| Range { start: index << level, end: (index + 1) << level }).collect();
        self.subtrees(&ranges, of).await
    }
}

/// An entry's body as JSON.
impl LeafOf {
    /// The body.
    pub fn json(&self) -> Json {
        serde_json::from_str(&self.body).unwrap_or_default()
    }
}
