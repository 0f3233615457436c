//! A log's keys and the folder in which it is published, outside of the world whose log it is.

use std::path::PathBuf;

use lethe_verify::{
    leaf::Leaf,
    merkle::{Hash, leaf_hash},
    note::{Checkpoint, PublicKey, SigningKey},
    tile,
};
use tempfile::TempDir;

use super::masters::write_private;

/// What every log of the tests is called.
pub const NAME: &str = "example.com/lethe";

/// Keys, and a folder to publish in.
pub struct Log {
    dir: TempDir,
}

impl Log {
    /// With a key named `first`.
    pub fn new() -> Self {
        let log = Self { dir: tempfile::tempdir().expect("a folder") };
        log.make("first", 1);
        log
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Makes a key that follows from a number.
    pub fn make(&self, name: &str, seed: u8) -> PublicKey {
        let text = SigningKey::write(NAME, &[seed; 32]).expect("a key");
        write_private(&self.path(name), text.as_bytes());
        SigningKey::read(&text).expect("a key").public()
    }

    pub fn public(&self, name: &str) -> PublicKey {
        SigningKey::read(&std::fs::read_to_string(self.path(name)).expect("a key")).expect("a key").public()
    }

    /// The configuration of a log that `key` signs, and these beside it.
    pub fn config(&self, key: &str, previous: &[&str]) -> String {
        let reference = |name: &str| format!("\"file:{}\"", self.path(name).display());
        let previous: Vec<String> = previous.iter().map(|name| reference(name)).collect();
        let published = self.path("published");
        format!(
            "[log]\nkey = {}\nprevious_keys = [{}]\npublish = \"file://{}\"\n",
            reference(key),
            previous.join(", "),
            published.display()
        )
    }

    /// The published checkpoint.
    pub fn checkpoint(&self, keys: &[&str]) -> Checkpoint {
        let note = std::fs::read_to_string(self.path("published/checkpoint")).expect("a checkpoint");
        let keys: Vec<PublicKey> = keys.iter().map(|name| self.public(name)).collect();
        Checkpoint::verified(&note, &keys).expect("a checkpoint of this log").0
    }

    /// The leaves, out of the published bundles, from which the published root follows.
    pub fn leaves(&self, keys: &[&str]) -> Vec<Leaf> {
        let checkpoint = self.checkpoint(keys);
        let mut leaves = Vec::new();
        for bundle in tile::Tile::between(0, checkpoint.size).into_iter().filter(|tile| tile.level.is_none()) {
            let bytes = std::fs::read(self.path("published").join(bundle.path())).expect("a bundle");
            let entries = tile::entries(&bytes).expect("entries");
            assert_eq!(entries.len() as u64, bundle.width);
            leaves.extend(entries.into_iter().map(|entry| Leaf::read(entry).expect("a leaf")));
        }
        let hashes: Vec<Hash> = leaves.iter().map(|leaf| leaf_hash(&leaf.bytes())).collect();
        assert_eq!(lethe_verify::merkle::root_of(&hashes), checkpoint.root);
        leaves
    }
}
