//! Tiles, as C2SP tlog-tiles lays them out: 256 hashes of one level of the tree, and bundles of 256 entries.
//!
//! The rule: a tile is known by its level, index and width; those of level 0 hold hashes of leaves, those above hashes of whole tiles below.
//! It only computes.

use crate::merkle::{Hash, Range, node_hash, root_of};

/// Hashes of a whole tile.
pub const WIDTH: u64 = 256;
/// Levels of the tree that one tile spans.
pub const HEIGHT: u32 = 8;

/// A tile, or a bundle of entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tile {
    /// `None`: a bundle of entries.
    pub level: Option<u32>,
    /// Which tile of its level.
    pub index: u64,
    /// How many hashes or entries it holds: 1 to 256.
    pub width: u64,
}

impl Tile {
    /// Its path below the log's own: `tile/0/x001/067`, `tile/1/000.p/8`, `tile/entries/000`.
    pub fn path(&self) -> String {
        let mut digits = format!("{:03}", self.index % 1000);
        let mut rest = self.index / 1000;
        while rest > 0 {
            digits = format!("x{:03}/{digits}", rest % 1000);
            rest /= 1000;
        }
        let level = self.level.map_or("entries".to_owned(), |level| level.to_string());
        let partial = if self.width == WIDTH { String::new() } else { format!(".p/{}", self.width) };
        format!("tile/{level}/{digits}{partial}")
    }

    /// The tiles of hashes and the bundles that a tree of `new` leaves has and one of `old` had not: whole ones once, and what is left at the
    /// right edge as partial ones.
    pub fn between(old: u64, new: u64) -> Vec<Tile> {
        let mut tiles = Vec::new();
        for level in [None].into_iter().chain((0..HEIGHT).map(Some)) {
            let shift = HEIGHT * level.unwrap_or(0);
            let (before, after) = (old >> shift, new >> shift);
            if after == 0 {
                break;
            }
            if before == after {
                continue;
            }
            for index in before / WIDTH..after.div_ceil(WIDTH) {
                tiles.push(Tile { level, index, width: WIDTH.min(after - index * WIDTH) });
            }
        }
        tiles
    }

    /// Whether a tree of `size` leaves has a part of it, and not all.
    pub fn was_begun(&self, size: u64) -> bool {
        let hashes = size >> (HEIGHT * self.level.unwrap_or(0));
        hashes > self.index * WIDTH && hashes < (self.index + 1) * WIDTH
    }

    /// The tile that holds the hash of a perfect subtree, as wide as it is in a tree of `size` leaves.
    pub fn holding(level: u32, index: u64, size: u64) -> Tile {
        let (tile_level, within) = (level / HEIGHT, level % HEIGHT);
        let tile_index = (index << within) / WIDTH;
        let hashes = size >> (HEIGHT * tile_level);
        Tile { level: Some(tile_level), index: tile_index, width: WIDTH.min(hashes.saturating_sub(tile_index * WIDTH)) }
    }
}

/// The hash of a perfect subtree out of the tile that holds it; `None` where the tile is too narrow for it.
pub fn node_in(hashes: &[Hash], level: u32, index: u64) -> Option<Hash> {
    let within = level % HEIGHT;
    let from = ((index << within) % WIDTH) as usize;
    hashes.get(from..from + (1 << within)).map(root_of)
}

/// The tiles of which the hashes of these subtrees are made, in a tree of `size` leaves; each once.
pub fn tiles_for(ranges: &[Range], size: u64) -> Vec<Tile> {
    let mut tiles: Vec<Tile> =
        ranges.iter().flat_map(|range| range.perfect()).map(|(level, index)| Tile::holding(level, index, size)).collect();
    tiles.sort_unstable();
    tiles.dedup();
    tiles
}

/// The right edge of a tree: the last tile of each level, as far as it is filled.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Edge {
    size: u64,
    levels: Vec<Vec<Hash>>,
}

/// Tiles to write after leaves were appended: level, index and all hashes of it.
pub type Written = Vec<(u32, u64, Vec<Hash>)>;

impl Edge {
    /// The levels at which a tree of `size` leaves has a tile that is not full, with that tile's index and width.
    pub fn open(size: u64) -> impl Iterator<Item = Tile> {
        (0..HEIGHT)
            .map(move |level| (level, size >> (HEIGHT * level)))
            .filter(|(_, hashes)| hashes % WIDTH > 0)
            .map(|(level, hashes)| Tile { level: Some(level), index: hashes / WIDTH, width: hashes % WIDTH })
    }

    /// The edge of a tree of `size` leaves; `tile` knows the hashes of those that [`Self::open`] names.
    ///
    /// # Errors
    /// The tile that is missing or has another width.
    pub fn read(size: u64, mut tile: impl FnMut(u32, u64) -> Option<Vec<Hash>>) -> Result<Self, Tile> {
        let mut levels = vec![Vec::new(); HEIGHT as usize];
        for open in Self::open(size) {
            let level = open.level.unwrap_or_default();
            let hashes = tile(level, open.index).filter(|hashes| hashes.len() as u64 == open.width).ok_or(open)?;
            levels[level as usize] = hashes;
        }
        Ok(Self { size, levels })
    }

    /// How many leaves the tree has.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Appends leaves by their hashes; answers the tiles that changed.
    pub fn append(&mut self, leaves: impl IntoIterator<Item = Hash>) -> Written {
        let (before, mut full) = (self.size, Vec::new());
        for leaf in leaves {
            self.size += 1;
            let (mut level, mut hash) = (0, leaf);
            while level < self.levels.len() {
                self.levels[level].push(hash);
                if (self.levels[level].len() as u64) < WIDTH {
                    break;
                }
                // Full: its hash is one of the level above.
                let hashes = std::mem::take(&mut self.levels[level]);
                hash = root_of(&hashes);
                let above = self.size >> (HEIGHT * level as u32);
                full.push((level as u32, above / WIDTH - 1, hashes));
                level += 1;
            }
        }
        let grown = |level: u32| (before >> (HEIGHT * level)) != (self.size >> (HEIGHT * level));
        let open = self.levels.iter().enumerate().filter(|(level, hashes)| !hashes.is_empty() && grown(*level as u32));
        full.extend(open.map(|(level, hashes)| (level as u32, (self.size >> (HEIGHT * level as u32)) / WIDTH, hashes.clone())));
        full
    }

    /// The tree's hash.
    pub fn root(&self) -> Hash {
        let mut right: Option<Hash> = None;
        for hashes in self.levels.iter().filter(|hashes| !hashes.is_empty()) {
            // The perfect subtrees within this tile, from the right.
            for (level, index) in (Range { start: 0, end: hashes.len() as u64 }).perfect().into_iter().rev() {
                let left = node_in(hashes, level, index).unwrap_or_else(|| root_of(hashes));
                right = Some(right.map_or(left, |right| node_hash(&left, &right)));
            }
        }
        right.unwrap_or_else(crate::merkle::empty_root)
    }
}

/// Hashes as a tile's bytes.
pub fn to_bytes(hashes: &[Hash]) -> Vec<u8> {
    hashes.concat()
}

/// A tile's hashes out of its bytes; `None` where they are no whole number of hashes.
pub fn from_bytes(bytes: &[u8]) -> Option<Vec<Hash>> {
    let (hashes, rest) = bytes.as_chunks::<32>();
    rest.is_empty().then(|| hashes.to_vec())
}

/// Entries as a bundle's bytes: each after its length, as 16 bits, the most significant first.
pub fn bundle<'a>(entries: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for entry in entries {
        bytes.extend_from_slice(&(entry.len() as u16).to_be_bytes());
        bytes.extend_from_slice(entry);
    }
    bytes
}

/// A bundle's entries; `None` where it is cut off.
pub fn entries(mut bytes: &[u8]) -> Option<Vec<&[u8]>> {
    let mut entries = Vec::new();
    while !bytes.is_empty() {
        let (length, rest) = bytes.split_first_chunk::<2>()?;
        let (entry, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
        entries.push(entry);
        bytes = rest;
    }
    Some(entries)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::merkle::{check_consistency, check_inclusion, consistency_ranges, inclusion_ranges, leaf_hash};

    #[test]
    fn paths_are_those_of_the_specification() {
        let path = |level, index, width| Tile { level, index, width }.path();
        assert_eq!(path(Some(0), 0, 256), "tile/0/000");
        assert_eq!(path(Some(1), 1_234_067, 256), "tile/1/x001/x234/067");
        assert_eq!(path(None, 1067, 8), "tile/entries/x001/067.p/8");
        let new: Vec<String> = Tile::between(0, 70_000).iter().map(Tile::path).collect();
        assert_eq!(new.len(), 274 + 274 + 2 + 1);
        for wanted in
            ["tile/entries/272", "tile/entries/273.p/112", "tile/0/273.p/112", "tile/1/000", "tile/1/001.p/17", "tile/2/000.p/1"]
        {
            assert!(new.iter().any(|path| path == wanted), "{wanted}");
        }
        let begun = |index| Tile { level: Some(0), index, width: 256 }.was_begun(70_000);
        assert_eq!([begun(272), begun(273), begun(274)], [false, true, false]);
        let more: Vec<String> = Tile::between(70_000, 70_001).iter().map(Tile::path).collect();
        assert_eq!(more, ["tile/entries/273.p/113", "tile/0/273.p/113"]);
    }

    /// A tree in tiles, filled in steps of any size, proves what it should.
    #[test]
    fn a_tree_in_tiles_is_the_tree() {
        let leaves: Vec<Hash> = (0..70_000u64).map(|index| leaf_hash(&index.to_be_bytes())).collect();
        let mut tiles: HashMap<(u32, u64), Vec<Hash>> = HashMap::new();
        let mut checkpoints = Vec::new();
        let mut done = 0;
        for step in [0, 1, 1, 253, 1, 1, 300, 65_000, 511, 256, 3_676] {
            let mut edge = Edge::read(done as u64, |level, index| tiles.get(&(level, index)).cloned()).unwrap();
            for (level, index, hashes) in edge.append(leaves[done..done + step].iter().copied()) {
                let before = tiles.insert((level, index), hashes).unwrap_or_default();
                assert!(tiles[&(level, index)].starts_with(&before) && tiles[&(level, index)].len() > before.len());
            }
            done += step;
            assert_eq!((edge.size(), edge.root()), (done as u64, root_of(&leaves[..done])), "{done}");
            checkpoints.push((done as u64, edge.root()));
        }
        assert_eq!(done, leaves.len());
        let (size, root) = checkpoints[checkpoints.len() - 1];
        let node = |level: u32, index: u64| {
            let tile = Tile::holding(level, index, size);
            let hashes = &tiles[&(tile.level.unwrap(), tile.index)];
            assert!(hashes.len() as u64 >= tile.width);
            node_in(&hashes[..tile.width as usize], level, index).ok_or(tile)
        };
        for index in [0, 1, 255, 256, 65_535, 65_536, 69_887, 69_999] {
            let ranges = inclusion_ranges(index, size).unwrap();
            assert!(tiles_for(&ranges, size).len() <= 5);
            let proof: Vec<Hash> = ranges.into_iter().map(|range| range.hash(node).unwrap()).collect();
            check_inclusion(index, size, &leaves[index as usize], &proof, &root).unwrap();
        }
        for (old, old_root) in &checkpoints {
            let ranges = consistency_ranges(*old, size).unwrap();
            let proof: Vec<Hash> = ranges.into_iter().map(|range| range.hash(node).unwrap()).collect();
            check_consistency(*old, old_root, size, &root, &proof).unwrap();
        }
    }

    #[test]
    fn bundles_and_tiles_come_back_and_what_is_cut_off_is_nothing() {
        let packed = bundle([b"ab".as_slice(), b"", &[7; 300]]);
        assert_eq!(entries(&packed).unwrap(), [b"ab".as_slice(), b"", &[7; 300]]);
        assert!(entries(&packed[..packed.len() - 1]).is_none() && entries(&[0]).is_none());
        assert_eq!(from_bytes(&to_bytes(&[[1; 32], [2; 32]])).unwrap(), [[1; 32], [2; 32]]);
        assert!(from_bytes(&[0; 33]).is_none());
    }
}
