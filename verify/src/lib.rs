//! What Lethe proves, and how anybody checks it: from files and a public key alone.
//!
//! The rule: no database, no network, no clock, none of Lethe's other crates. What is written here in the field's own formats can be
//! checked by other programs too: the Merkle tree of RFC 6962, C2SP tlog-tiles, signed-note and tlog-checkpoint, DSSE and in-toto.

pub mod bundle;
pub mod canonical;
pub mod certificate;
pub mod dsse;
pub mod entry;
pub mod export;
pub mod folder;
pub mod leaf;
pub mod merkle;
pub mod note;
pub mod proof;
pub mod tile;

#[cfg(test)]
mod tests;
