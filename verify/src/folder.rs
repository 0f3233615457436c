//! A published log in a folder (C2SP tlog-tiles): every hash is computed from the entries and compared with what was published.
//!
//! The rule: nothing is taken from a tile that does not follow from the entries; the first difference is named. It reads one bundle of
//! entries at a time and never holds more than the tree's right edge and one number for each chain.

use std::{collections::HashMap, fs, path::Path};

use crate::{
    bundle::Verified,
    entry::Fault,
    leaf::Leaf,
    merkle::{Hash, leaf_hash},
    note::{Checkpoint, PublicKey},
    tile::{self, Edge, Tile, WIDTH},
};

fn read(folder: &Path, path: &str) -> Result<Vec<u8>, Fault> {
    fs::read(folder.join(path)).map_err(|error| Fault::new(path, error))
}

/// The bytes of a tile or bundle that is not full: as partial as it is, or cut out of the full one that a later publication wrote.
fn read_partial(folder: &Path, tile: Tile) -> Result<Vec<u8>, Fault> {
    let path = tile.path();
    match fs::read(folder.join(&path)) {
        Ok(bytes) => Ok(bytes),
        Err(_) if tile.width < WIDTH => {
            let full = Tile { width: WIDTH, ..tile }.path();
            fs::read(folder.join(full)).map_err(|error| Fault::new(path, error))
        }
        Err(error) => Err(Fault::new(path, error)),
    }
}

fn entries_of(folder: &Path, tile: Tile) -> Result<Vec<Leaf>, Fault> {
    let bytes = read_partial(folder, tile)?;
    let entries = tile::entries(&bytes).ok_or_else(|| Fault::new(tile.path(), "it is cut off"))?;
    let leaves: Option<Vec<Leaf>> = entries.iter().take(tile.width as usize).map(|entry| Leaf::read(entry)).collect();
    let leaves = leaves.ok_or_else(|| Fault::new(tile.path(), "an entry of it is no leaf of 104 bytes"))?;
    if leaves.len() as u64 == tile.width {
        Ok(leaves)
    } else {
        Err(Fault::new(tile.path(), format!("it holds {} entries, it takes {}", leaves.len(), tile.width)))
    }
}

fn compare(folder: &Path, tile: Tile, hashes: &[Hash]) -> Result<(), Fault> {
    let published = read_partial(folder, tile)?;
    let published = tile::from_bytes(&published).ok_or_else(|| Fault::new(tile.path(), "it is no whole number of hashes"))?;
    let differs = hashes.iter().zip(&published).position(|(computed, published)| computed != published);
    match differs {
        Some(at) => Err(Fault::new(tile.path(), format!("hash {at} does not follow from the entries"))),
        None if published.len() < hashes.len() => {
            Err(Fault::new(tile.path(), format!("it holds {} hashes, it takes {}", published.len(), hashes.len())))
        }
        None => Ok(()),
    }
}

/// Recomputes a published log from its entries, and compares every tile and the checkpoint.
pub fn verify(folder: &Path, keys: &[PublicKey]) -> Result<Verified, Fault> {
    let note = read(folder, "checkpoint")?;
    let note = String::from_utf8(note).map_err(|_| Fault::new("checkpoint", "it is no text"))?;
    let (checkpoint, key) = Checkpoint::verified(&note, keys).map_err(|why| Fault::new("checkpoint", why))?;
    let mut edge = Edge::read(0, |_, _| None).map_err(|tile| Fault::new(tile.path(), "an empty tree has none"))?;
    let mut open: HashMap<u32, (u64, Vec<Hash>)> = HashMap::new();
    let mut chains: HashMap<Hash, u64> = HashMap::new();
    let mut tiles = 0_u64;
    for index in 0..checkpoint.size.div_ceil(WIDTH) {
        let bundle = Tile { level: None, index, width: WIDTH.min(checkpoint.size - index * WIDTH) };
        let leaves = entries_of(folder, bundle)?;
        for (leaf, at) in leaves.iter().zip(index * WIDTH..) {
            let next = chains.entry(leaf.chain).or_default();
            if leaf.sequence_no != *next {
                let why = format!("leaf {at} is entry {} of its chain, entry {next} comes first", leaf.sequence_no);
                return Err(Fault::new(bundle.path(), why));
            }
            *next += 1;
        }
        for (level, index, hashes) in edge.append(leaves.iter().map(|leaf| leaf_hash(&leaf.bytes()))) {
            if hashes.len() as u64 == WIDTH {
                compare(folder, Tile { level: Some(level), index, width: WIDTH }, &hashes)?;
                tiles += 1;
            } else {
                open.insert(level, (index, hashes));
            }
        }
    }
    for tile in Edge::open(checkpoint.size) {
        let level = tile.level.unwrap_or_default();
        let known = open.get(&level).filter(|(index, hashes)| *index == tile.index && hashes.len() as u64 == tile.width);
        let (_, hashes) = known.ok_or_else(|| Fault::new(tile.path(), "it does not follow from the entries"))?;
        compare(folder, tile, hashes)?;
        tiles += 1;
    }
    if edge.root() != checkpoint.root {
        return Err(Fault::new("checkpoint", "the entries lead to another root than the one that was signed"));
    }
    Ok(Verified {
        verified: vec![
            format!("checkpoint of {}: {} leaves, signed by {key}", checkpoint.origin, checkpoint.size),
            format!("{tiles} tiles and the root follow from the entries"),
            format!("{} chains, each without a gap and in its order", chains.len()),
        ],
        trusted: vec![
            format!("that {key} is the log's key, and was in nobody else's hands"),
            "that the log showed others the same tree: compare its checkpoints with those that others keep".to_owned(),
        ],
    })
}
