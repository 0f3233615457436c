//! What a leaf of the log is: one entry of the trail, as four fields of fixed length, 104 bytes together.
//!
//! | bytes | what |
//! |---|---|
//! | 0–31 | SHA-256 of the chain's name (`plane:ID`, `tenant:ID`, `system`) |
//! | 32–39 | the entry's number in its chain, from 0, the most significant byte first |
//! | 40–71 | the entry's hash: SHA-256 of the text `previous ‖ body` |
//! | 72–103 | SHA-256 of the tenant's id, or of `__system__` where the entry concerns none |
//!
//! The rule: the log says of an entry which it is and nothing that is in it, so that it can be published. Who holds an entry finds it; who
//! knows a plane's or a tenant's id finds its entries, and that none is left out. It only computes.

use sha2::{Digest, Sha256};

use crate::merkle::Hash;

/// Bytes of a leaf.
pub const LENGTH: usize = 104;

/// An entry of the trail, as the log has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Leaf {
    /// [`tag`] of the chain's name.
    pub chain: Hash,
    /// Its number in its chain.
    pub sequence_no: u64,
    /// Its hash.
    pub hash: Hash,
    /// [`tag`] of the tenant's id.
    pub tenant: Hash,
}

impl Leaf {
    /// The leaf of an entry; `None` where `hash` is no `sha256:…`.
    pub fn of(chain: &str, sequence_no: u64, hash: &str, tenant: &str) -> Option<Self> {
        Some(Self { chain: tag(chain), sequence_no, hash: digest(hash)?, tenant: tag(tenant) })
    }

    /// Its bytes.
    pub fn bytes(&self) -> [u8; LENGTH] {
        let mut bytes = [0; LENGTH];
        bytes[..32].copy_from_slice(&self.chain);
        bytes[32..40].copy_from_slice(&self.sequence_no.to_be_bytes());
        bytes[40..72].copy_from_slice(&self.hash);
        bytes[72..].copy_from_slice(&self.tenant);
        bytes
    }

    /// Out of its bytes; `None` where there are more or less.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; LENGTH] = bytes.try_into().ok()?;
        let (chain, rest) = bytes.split_first_chunk::<32>()?;
        let (number, rest) = rest.split_first_chunk::<8>()?;
        let (hash, tenant) = rest.split_first_chunk::<32>()?;
        let tenant = tenant.try_into().ok()?;
        Some(Self { chain: *chain, sequence_no: u64::from_be_bytes(*number), hash: *hash, tenant })
    }
}

/// How the log names a chain or a tenant.
pub fn tag(name: &str) -> Hash {
    Sha256::digest(name.as_bytes()).into()
}

/// The bytes of a digest that is written `sha256:…`.
pub fn digest(text: &str) -> Option<Hash> {
    let mut hash = [0; 32];
    hex::decode_to_slice(text.strip_prefix("sha256:")?, &mut hash).ok()?;
    // One way to write it.
    (digits(&hash) == text.as_bytes()).then_some(hash)
}

/// The hash of an entry in its chain, as text: over the text of the hash before it and the entry's body.
pub fn entry_hash(previous: &str, body: &str) -> String {
    let mut hash = Sha256::new();
    hash.update(previous.as_bytes());
    hash.update(body.as_bytes());
    written(&hash.finalize().into())
}

/// What the first entry of a chain follows: the digest of the chain's name.
pub fn origin(chain: &str) -> String {
    written(&tag(chain))
}

/// A digest as text.
pub fn written(hash: &Hash) -> String {
    String::from_utf8_lossy(&digits(hash)).into_owned()
}

/// Whether a text is a digest as [`written`] has it.
pub fn is_written(text: &str, hash: &Hash) -> bool {
    text.as_bytes() == digits(hash)
}

/// Bytes of a digest as text.
pub(crate) const WRITTEN: usize = 71;

/// The bytes of a digest as text.
pub(crate) fn digits(hash: &Hash) -> [u8; WRITTEN] {
    let mut text = *b"sha256:0000000000000000000000000000000000000000000000000000000000000000";
    hex::encode_to_slice(hash, &mut text[7..]).expect("two digits for each byte");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leaf_comes_back_from_its_bytes() {
        let hash = entry_hash(&origin("system"), "{}");
        let leaf = Leaf::of("system", 258, &hash, "__system__").unwrap();
        assert_eq!(Leaf::read(&leaf.bytes()), Some(leaf));
        assert_eq!(leaf.bytes()[38..40], [1, 2]);
        assert!(Leaf::read(&leaf.bytes()[1..]).is_none() && Leaf::of("system", 0, "sha256:zz", "").is_none());
    }
}
