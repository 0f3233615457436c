//! Master keys in a folder of their own, outside of everything that a test looks through afterwards.

use std::{
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use lethe_worker::{clock::SeededEntropy, keys::MasterKey};
use tempfile::TempDir;

/// A folder of master keys, by name.
pub struct Masters {
    dir: TempDir,
    entropy: SeededEntropy,
}

impl Masters {
    /// A folder without any.
    pub fn new() -> Self {
        Self { dir: tempfile::tempdir().expect("a folder"), entropy: SeededEntropy::new(4711) }
    }

    /// Where a key of this name is.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Makes a key and answers its id.
    pub fn make(&self, name: &str) -> String {
        MasterKey::create(&self.path(name), &self.entropy).expect("a master key").id().to_owned()
    }

    /// Lets a key of one name stand under another.
    pub fn rename(&self, from: &str, to: &str) {
        std::fs::rename(self.path(from), self.path(to)).expect("rename a master key");
    }

    /// The section of a configuration that encrypts under `current`.
    pub fn config(&self, current: &str, previous: &[&str]) -> String {
        let reference = |name: &str| format!("\"file:{}\"", self.path(name).display());
        let previous: Vec<_> = previous.iter().map(|name| reference(name)).collect();
        format!(
            "[archive.encryption]\nmode = \"plane_key\"\nmaster_key = {}\nprevious_keys = [{}]\n",
            reference(current),
            previous.join(", ")
        )
    }
}

/// Writes what only its owner may read.
pub fn write_private(path: &Path, text: &[u8]) {
    std::fs::write(path, text).expect("write");
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).expect("set the mode");
}
