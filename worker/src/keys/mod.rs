//! Keys: master keys, which wrap the keys of encrypted archives, and where they are found.
//!
//! The rule: a master key is named by a reference, read when it is needed and wiped afterwards; it stands in no configuration, ledger or
//! log, and neither does the key of an archive unless a master key wraps it. Whoever needs one that cannot be had is told which reference
//! was read and which key was expected.
//!
//! If we die with a key in memory, nothing of it was written.

mod master;
mod reference;

use lethe_ledger::{Entropy, WrappedKey};
use lethe_stores::ArchiveKey;
use uuid::Uuid;
use zeroize::Zeroizing;

pub use self::{master::MasterKey, reference::KeyReference};

/// Why a key cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// A reference leads to no master key.
    #[error("read master key {reference}: {why}")]
    Unreadable {
        /// Where it should be.
        reference: String,
        /// Why it is not.
        why: String,
    },
    /// Archives are to be encrypted, and no master key is configured; or one was needed that never was.
    #[error("find a master key: archive.encryption.master_key names none")]
    NotConfigured,
    /// None of the configured master keys wraps the key.
    #[error(
        "unwrap key {key} of the archive: master key {expected} wraps it, configured are {}; put that key back, or name it in \
         archive.encryption.previous_keys",
        .found.join(", ")
    )]
    NotAmong {
        /// The archive's key.
        key: Uuid,
        /// The master key that wraps it.
        expected: String,
        /// Those that there are, each with its reference, or why it cannot be read.
        found: Vec<String>,
    },
    /// What the ledger holds is not what the master key wrapped.
    #[error(
        "unwrap key {key} of the archive under master key {master}: what the ledger holds was changed, or is of another plane"
    )]
    Changed {
        /// The archive's key.
        key: Uuid,
        /// The master key.
        master: String,
    },
}

/// The configured master keys, by reference. Nothing is read before it is needed.
#[derive(Debug, Clone, Default)]
pub struct Keyring {
    current: Option<KeyReference>,
    previous: Vec<KeyReference>,
}

impl Keyring {
    /// The master key that wraps, and those that still unwrap.
    pub fn new(current: Option<KeyReference>, previous: Vec<KeyReference>) -> Self {
        Self { current, previous }
    }

    /// Every reference, the current one first.
    pub fn references(&self) -> impl Iterator<Item = &KeyReference> {
        self.current.iter().chain(&self.previous)
    }

    /// The master key that wraps.
    pub fn current(&self) -> Result<MasterKey, KeyError> {
        self.current.as_ref().ok_or(KeyError::NotConfigured)?.read()
    }

    /// Makes a key for a plane's archive and wraps it. The key itself is forgotten: whoever needs it unwraps it.
    pub fn make(&self, id: Uuid, plane_id: Uuid, entropy: &dyn Entropy) -> Result<WrappedKey, KeyError> {
        let master = self.current()?;
        let mut bytes = Zeroizing::new([0; 32]);
        entropy.fill(bytes.as_mut());
        Ok(master.wrap(&ArchiveKey::new(id, bytes), plane_id, entropy))
    }

    /// Unwraps a key under whichever master key wraps it.
    pub fn unwrap(&self, wrapped: &WrappedKey) -> Result<ArchiveKey, KeyError> {
        let mut found = Vec::new();
        for reference in self.references() {
            match reference.read() {
                Ok(master) if master.id() == wrapped.master_key_id => return master.unwrap(wrapped),
                Ok(master) => found.push(format!("{} ({reference})", master.id())),
                Err(error) => found.push(error.to_string()),
            }
        }
        if found.is_empty() {
            found.push("none".into());
        }
        Err(KeyError::NotAmong { key: wrapped.id, expected: wrapped.master_key_id.clone(), found })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SeededEntropy;

    fn keyring(dir: &std::path::Path, current: &str, previous: &[&str]) -> Keyring {
        let reference = |name: &str| format!("file:{}", dir.join(name).display()).parse::<KeyReference>().unwrap();
        Keyring::new(Some(reference(current)), previous.iter().map(|name| reference(name)).collect())
    }

    #[test]
    fn a_key_comes_back_only_under_its_master_key_and_for_its_plane() {
        let dir = tempfile::tempdir().unwrap();
        let entropy = SeededEntropy::new(3);
        for name in ["a", "b"] {
            MasterKey::create(&dir.path().join(name), &entropy).unwrap();
        }
        let (id, plane) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let wrapped = keyring(dir.path(), "a", &[]).make(id, plane, &entropy).unwrap();
        let key = keyring(dir.path(), "a", &[]).unwrap(&wrapped).unwrap();
        assert!(!wrapped.wrapped.windows(32).any(|window| window == key.bytes()));
        assert_eq!(keyring(dir.path(), "b", &["a"]).unwrap(&wrapped).unwrap().bytes(), key.bytes(), "a previous key unwraps");

        let error = keyring(dir.path(), "b", &[]).unwrap(&wrapped).unwrap_err();
        let other = keyring(dir.path(), "b", &[]).current().unwrap();
        assert!(error.to_string().contains(&wrapped.master_key_id) && error.to_string().contains(other.id()), "{error}");
        let moved = WrappedKey { plane_id: Uuid::from_u128(3), ..wrapped.clone() };
        assert!(matches!(keyring(dir.path(), "a", &[]).unwrap(&moved), Err(KeyError::Changed { .. })));
        let renamed = WrappedKey { id: Uuid::from_u128(9), ..wrapped.clone() };
        assert!(matches!(keyring(dir.path(), "a", &[]).unwrap(&renamed), Err(KeyError::Changed { .. })));
        let mut broken = wrapped;
        broken.wrapped[30] ^= 1;
        assert!(matches!(keyring(dir.path(), "a", &[]).unwrap(&broken), Err(KeyError::Changed { .. })));
    }
}
