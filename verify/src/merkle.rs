//! The Merkle tree of RFC 6962 (RFC 9162, section 2.1): hashes, proofs of inclusion and of consistency, made and checked.
//!
//! The rule: a proof is a list of hashes of subtrees, and each subtree is named by the leaves that it covers, so that who makes a proof
//! and who checks one speak of the same ranges. It only computes.

use sha2::{Digest, Sha256};
use tape_sha256::{Message, hash_many_prefixed, hash_messages, hash_pairs};

/// A SHA-256.
pub type Hash = [u8; 32];

/// Why a proof does not hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProofFault {
    /// The leaf lies outside the tree, or the old tree is larger than the new one.
    #[error("leaf or size {index} is not within a tree of {size}")]
    Outside {
        /// The leaf's index, or the old tree's size.
        index: u64,
        /// The tree's size.
        size: u64,
    },
    /// A proof for these has another length.
    #[error("the proof has {found} hashes, it takes {wanted}")]
    Length {
        /// Hashes there are.
        found: usize,
        /// Hashes it takes.
        wanted: usize,
    },
    /// It leads to another root than the checkpoint's.
    #[error("the proof leads to another root ({computed}) than the one that was signed ({signed})")]
    Root {
        /// In hexadecimal digits.
        computed: String,
        /// In hexadecimal digits.
        signed: String,
    },
}

/// The hash of a leaf's data.
pub fn leaf_hash(data: &[u8]) -> Hash {
    let mut hash = Sha256::new();
    hash.update([0]);
    hash.update(data);
    hash.finalize().into()
}

/// The hashes of many leaves' data.
pub fn leaf_hashes(data: &[&[u8]]) -> Vec<Hash> {
    let mut hashes = vec![[0; 32]; data.len()];
    hash_many_prefixed(&[0], data, &mut hashes);
    hashes
}

/// SHA-256 of many texts, each of which is given in two parts.
pub fn joined_hashes(first: &[&[u8]], second: &[&[u8]]) -> Vec<Hash> {
    let texts: Vec<Message<'_>> = first.iter().zip(second).map(|(first, second)| Message::prefixed(first, second)).collect();
    let mut hashes = vec![[0; 32]; texts.len()];
    hash_messages(&texts, &mut hashes);
    hashes
}

/// The hash over two subtrees.
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    let mut hash = Sha256::new();
    hash.update([1]);
    hash.update(left);
    hash.update(right);
    hash.finalize().into()
}

/// The hash of a tree without leaves.
pub fn empty_root() -> Hash {
    Sha256::digest([]).into()
}

/// The hash of a tree over these leaves or subtrees of one size.
pub fn root_of(hashes: &[Hash]) -> Hash {
    let mut tree = Frontier::default();
    tree.append_all(hashes);
    tree.root()
}

/// The leaves that a subtree covers: from `start` on, `end` not included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Range {
    /// The first leaf.
    pub start: u64,
    /// The one behind the last.
    pub end: u64,
}

impl Range {
    /// How many leaves.
    fn len(self) -> u64 {
        self.end - self.start
    }

    /// RFC 6962's split: the left part is the largest power of two that is smaller than the whole.
    fn split(self) -> (Range, Range) {
        let left = 1 << (u64::BITS - 1 - (self.len() - 1).leading_zeros());
        let middle = self.start + left;
        (Range { start: self.start, end: middle }, Range { start: middle, end: self.end })
    }

    /// The perfect subtrees of which it is made, from left to right, as (level, index): a subtree of level l covers 2^l leaves, the index
    /// counts those.
    pub fn perfect(self) -> Vec<(u32, u64)> {
        let mut parts = Vec::new();
        let mut rest = self;
        while rest.len() > 0 {
            let level = u64::BITS - 1 - rest.len().leading_zeros();
            parts.push((level, rest.start >> level));
            rest.start += 1 << level;
        }
        parts
    }

    /// The perfect subtrees of the whole tree that make it up, from left to right, by their levels.
    fn aligned(self) -> Vec<u32> {
        let mut levels = Vec::new();
        let mut rest = self;
        while rest.len() > 0 {
            let level = (u64::BITS - 1 - rest.len().leading_zeros()).min(rest.start.trailing_zeros());
            levels.push(level);
            rest.start += 1 << level;
        }
        levels
    }

    /// The hash of this subtree; `node` knows the perfect ones.
    pub fn hash<E>(self, mut node: impl FnMut(u32, u64) -> Result<Hash, E>) -> Result<Hash, E> {
        let mut parts = self.perfect().into_iter().rev();
        let Some((level, index)) = parts.next() else { return Ok(empty_root()) };
        let mut hash = node(level, index)?;
        for (level, index) in parts {
            hash = node_hash(&node(level, index)?, &hash);
        }
        Ok(hash)
    }
}

/// The subtrees whose hashes prove that leaf `index` is in a tree of `size` leaves, the nearest first.
pub fn inclusion_ranges(index: u64, size: u64) -> Result<Vec<Range>, ProofFault> {
    if index >= size {
        return Err(ProofFault::Outside { index, size });
    }
    let mut ranges = Vec::new();
    let mut range = Range { start: 0, end: size };
    while range.len() > 1 {
        let (left, right) = range.split();
        let (into, beside) = if index < left.end { (left, right) } else { (right, left) };
        ranges.push(beside);
        range = into;
    }
    ranges.reverse();
    Ok(ranges)
}

/// The subtrees whose hashes prove that a tree of `old` leaves is the beginning of one of `new`.
pub fn consistency_ranges(old: u64, new: u64) -> Result<Vec<Range>, ProofFault> {
    if old > new {
        return Err(ProofFault::Outside { index: old, size: new });
    }
    if old == 0 || old == new {
        return Ok(Vec::new());
    }
    let mut ranges = Vec::new();
    let mut range = Range { start: 0, end: new };
    // Whether what is left of the old tree is a whole subtree that both trees have.
    let mut whole = true;
    while range.end != old {
        let (left, right) = range.split();
        if old <= left.end {
            ranges.push(right);
            range = left;
        } else {
            ranges.push(left);
            range = right;
            whole = false;
        }
    }
    if !whole {
        ranges.push(range);
    }
    ranges.reverse();
    Ok(ranges)
}

/// Checks that a leaf of this hash is the one at `index` in the tree of this size and root.
pub fn check_inclusion(index: u64, size: u64, leaf: &Hash, proof: &[Hash], root: &Hash) -> Result<(), ProofFault> {
    let ranges = inclusion_ranges(index, size)?;
    let mut hash = *leaf;
    length(proof, ranges.len())?;
    for (range, beside) in ranges.iter().zip(proof) {
        hash = if range.start > index { node_hash(&hash, beside) } else { node_hash(beside, &hash) };
    }
    same_root(&hash, root)
}

/// Checks that the tree of `old` leaves is the beginning of the one of `new`: nothing was changed, taken out or put in before its end.
pub fn check_consistency(old: u64, old_root: &Hash, new: u64, new_root: &Hash, proof: &[Hash]) -> Result<(), ProofFault> {
    let ranges = consistency_ranges(old, new)?;
    length(proof, ranges.len())?;
    if old == 0 {
        return same_root(&empty_root(), old_root);
    }
    if old == new {
        return same_root(old_root, new_root);
    }
    let mut known = ranges.iter().zip(proof);
    // Where the old tree is a subtree of the new one, its root is where both begin.
    let (mut old_hash, mut new_hash) = if ranges[0].end == old {
        let (_, first) = known.next().expect("an old tree that is no subtree has a first part");
        (*first, *first)
    } else {
        (*old_root, *old_root)
    };
    for (range, hash) in known {
        if range.start >= old {
            new_hash = node_hash(&new_hash, hash);
        } else {
            old_hash = node_hash(hash, &old_hash);
            new_hash = node_hash(hash, &new_hash);
        }
    }
    same_root(&old_hash, old_root)?;
    same_root(&new_hash, new_root)
}

fn length(proof: &[Hash], wanted: usize) -> Result<(), ProofFault> {
    if proof.len() == wanted { Ok(()) } else { Err(ProofFault::Length { found: proof.len(), wanted }) }
}

fn same_root(computed: &Hash, signed: &Hash) -> Result<(), ProofFault> {
    if computed == signed {
        return Ok(());
    }
    Err(ProofFault::Root { computed: hex::encode(computed), signed: hex::encode(signed) })
}

/// A tree that grows at its right end: all that is kept of it are the perfect subtrees on its left, the largest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Frontier {
    size: u64,
    nodes: Vec<Hash>,
}

impl Frontier {
    /// The tree of `size` leaves whose perfect subtrees have these hashes, the largest first; `None` where their number does not fit.
    pub fn of(size: u64, nodes: Vec<Hash>) -> Option<Self> {
        (nodes.len() == size.count_ones() as usize).then_some(Self { size, nodes })
    }

    /// How many leaves it has.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Appends a leaf by its hash.
    pub fn append(&mut self, leaf: Hash) {
        self.append_perfect(0, leaf);
    }

    /// Appends the root of a perfect tree of 2^`level` leaves, of which the size is a multiple.
    fn append_perfect(&mut self, level: u32, root: Hash) {
        let mut hash = root;
        for _ in 0..(self.size >> level).trailing_ones() {
            hash = node_hash(&self.nodes.pop().expect("one node for each bit of the size"), &hash);
        }
        self.nodes.push(hash);
        self.size += 1 << level;
    }

    /// Appends many leaves by their hashes, in the perfect trees that they make up.
    pub fn append_all(&mut self, leaves: &[Hash]) {
        let range = Range { start: self.size, end: self.size + leaves.len() as u64 };
        let mut rest = leaves;
        for level in range.aligned() {
            let (part, behind) = rest.split_at(1 << level);
            rest = behind;
            let mut hashes = part.to_vec();
            while hashes.len() > 1 {
                let (left, right): (Vec<&[u8]>, Vec<&[u8]>) =
                    hashes.chunks_exact(2).map(|pair| (pair[0].as_slice(), pair[1].as_slice())).unzip();
                let mut parents = vec![[0; 32]; left.len()];
                hash_pairs(&[1], &left, &right, &mut parents);
                hashes = parents;
            }
            self.append_perfect(level, hashes[0]);
        }
    }

    /// The tree's hash.
    pub fn root(&self) -> Hash {
        let mut nodes = self.nodes.iter().rev();
        let Some(last) = nodes.next() else { return empty_root() };
        nodes.fold(*last, |right, left| node_hash(left, &right))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 6962's definition, word for word.
    fn mth(leaves: &[Hash]) -> Hash {
        match leaves {
            [] => empty_root(),
            [one] => *one,
            _ => {
                let left = (leaves.len().next_power_of_two() / 2).max(1);
                node_hash(&mth(&leaves[..left]), &mth(&leaves[left..]))
            }
        }
    }

    #[test]
    fn many_hashed_at_once_are_what_each_is_alone() {
        let data: Vec<Vec<u8>> = (0..300_usize).map(|length| (0..length).map(|byte| (byte * 7) as u8).collect()).collect();
        let texts: Vec<&[u8]> = data.iter().map(Vec::as_slice).collect();
        let alone: Vec<Hash> = texts.iter().map(|text| leaf_hash(text)).collect();
        assert_eq!(leaf_hashes(&texts), alone);
        let backwards: Vec<&[u8]> = texts.iter().rev().copied().collect();
        let joined: Vec<Hash> =
            texts.iter().zip(&backwards).map(|(one, other)| Sha256::digest([*one, *other].concat()).into()).collect();
        assert_eq!(joined_hashes(&texts, &backwards), joined);
        for (first, more) in [(0, 300), (1, 299), (3, 5), (7, 1), (8, 256), (255, 2), (5, 0)] {
            let mut tree = Frontier::default();
            alone[..first].iter().for_each(|leaf| tree.append(*leaf));
            tree.append_all(&alone[first..first + more]);
            assert_eq!((tree.size(), tree.root()), ((first + more) as u64, mth(&alone[..first + more])), "{first} and {more}");
        }
    }

    fn leaves(count: usize) -> Vec<Hash> {
        (0..count).map(|index| leaf_hash(&index.to_be_bytes())).collect()
    }

    fn prove(leaves: &[Hash], ranges: Vec<Range>) -> Vec<Hash> {
        let node = |level: u32, index: u64| {
            let (from, width) = ((index << level) as usize, 1usize << level);
            Ok::<_, ()>(mth(&leaves[from..from + width]))
        };
        ranges.into_iter().map(|range| range.hash(node).unwrap()).collect()
    }

    #[test]
    fn the_empty_tree_and_the_first_trees_are_those_of_the_rfc() {
        assert_eq!(hex::encode(empty_root()), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        // The test vectors that every Certificate Transparency library has.
        assert_eq!(hex::encode(leaf_hash(b"")), "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d");
        let data: [&[u8]; 3] = [b"", b"\x00", b"\x10"];
        let hashes: Vec<Hash> = data.iter().map(|data| leaf_hash(data)).collect();
        assert_eq!(hex::encode(root_of(&hashes)), "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77");
    }

    #[test]
    fn every_leaf_of_every_tree_is_proved_and_nothing_else_is() {
        for size in 1..70 {
            let leaves = leaves(size);
            let root = mth(&leaves);
            assert_eq!(root_of(&leaves), root);
            for index in 0..size as u64 {
                let proof = prove(&leaves, inclusion_ranges(index, size as u64).unwrap());
                let leaf = &leaves[index as usize];
                check_inclusion(index, size as u64, leaf, &proof, &root).unwrap();
                let other = leaf_hash(b"other");
                assert!(check_inclusion(index, size as u64, &other, &proof, &root).is_err());
                assert!(index == 0 || check_inclusion(index - 1, size as u64, leaf, &proof, &root).is_err());
                let mut longer = proof.clone();
                longer.push(other);
                assert!(check_inclusion(index, size as u64, leaf, &longer, &root).is_err());
                for changed in 0..proof.len() {
                    let mut proof = proof.clone();
                    proof[changed][7] ^= 1;
                    assert!(check_inclusion(index, size as u64, leaf, &proof, &root).is_err());
                }
            }
            assert!(inclusion_ranges(size as u64, size as u64).is_err());
        }
    }

    #[test]
    fn every_beginning_of_every_tree_is_proved_and_no_other_tree_is() {
        for new in 0..70 {
            let leaves = leaves(new);
            let root = mth(&leaves);
            for old in 0..=new {
                let old_root = mth(&leaves[..old]);
                let proof = prove(&leaves, consistency_ranges(old as u64, new as u64).unwrap());
                check_consistency(old as u64, &old_root, new as u64, &root, &proof).unwrap();
                let other = leaf_hash(b"other");
                assert!(check_consistency(old as u64, &other, new as u64, &root, &proof).is_err(), "{old} of {new}");
                assert!(old == 0 || check_consistency(old as u64, &old_root, new as u64, &other, &proof).is_err());
                for changed in 0..proof.len() {
                    let mut proof = proof.clone();
                    proof[changed][0] ^= 1;
                    assert!(check_consistency(old as u64, &old_root, new as u64, &root, &proof).is_err());
                }
            }
            assert!(consistency_ranges(new as u64 + 1, new as u64).is_err());
        }
    }

    #[test]
    fn a_tree_goes_on_from_its_frontier() {
        let leaves = leaves(70);
        for size in 0..70usize {
            let range = Range { start: 0, end: size as u64 };
            let nodes = range.perfect().into_iter().map(|(level, index)| {
                let from = (index << level) as usize;
                mth(&leaves[from..from + (1 << level)])
            });
            let mut tree = Frontier::of(size as u64, nodes.collect()).unwrap();
            leaves[size..].iter().for_each(|leaf| tree.append(*leaf));
            assert_eq!((tree.size(), tree.root()), (70, mth(&leaves)));
        }
        assert!(Frontier::of(3, vec![[0; 32]]).is_none());
    }
}
