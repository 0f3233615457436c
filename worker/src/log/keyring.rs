//! The log's keys: where they are, and the one that a ledger in a file gets by itself.
//!
//! The rule: a private key is read when it is needed and held no longer than the sealing; it stands in no configuration, ledger or message.
//! Only the very first key of a new ledger is made here. If we die in making it, it is not there, or whole; beside it a file may be left
//! whose key signs nothing.

use std::{
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use lethe_ledger::Entropy;
use lethe_verify::note::{NoteFault, SigningKey, is_name};
use zeroize::Zeroizing;

use crate::keys::KeyReference;

/// Why there is nothing to sign with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("read the log's key {reference}: {why}")]
pub struct KeyFault {
    /// Where it should be.
    pub reference: String,
    /// Why it is not.
    pub why: String,
}

/// Where the keys are that sign.
#[derive(Debug, Clone)]
pub struct LogKeyring {
    pub(super) current: Option<KeyReference>,
    pub(super) previous: Vec<KeyReference>,
    /// Where the key of a ledger in a file is, if none is configured.
    pub(super) default: Option<PathBuf>,
    /// What a log whose key is made here is called.
    pub(super) name: String,
}

impl LogKeyring {
    /// The keys, the current one first; `None`: this process has none and needs none. Where `is_new`, the log has never been signed, and a
    /// ledger in a file gets its key.
    pub fn read(&self, is_new: bool, entropy: &dyn Entropy) -> Result<Option<Vec<SigningKey>>, KeyFault> {
        let mut keys = Vec::new();
        match (&self.current, &self.default) {
            (Some(reference), _) => keys.push(read(reference)?),
            (None, Some(path)) => {
                // If it is there already after all, another process was faster.
                if is_new
                    && !path.exists()
                    && let Err(error) = create(path, &self.name, entropy)
                    && error.kind() != std::io::ErrorKind::AlreadyExists
                {
                    let reference = format!("file:{}", path.display());
                    return Err(KeyFault { reference, why: format!("make it: {error}") });
                }
                let key = read(&KeyReference::File(path.clone()))?;
                if is_new && key.public().name != self.name {
                    let why =
                        format!("it is the key of the log {}, not of this one, {}: move it away", key.public().name, self.name);
                    return Err(KeyFault { reference: format!("file:{}", path.display()), why });
                }
                keys.push(key);
            }
            (None, None) => {}
        }
        for reference in &self.previous {
            keys.push(read(reference)?);
        }
        Ok((!keys.is_empty()).then_some(keys))
    }
}

impl LogKeyring {
    /// Whether the key of a ledger in a file is still to be made.
    pub(super) fn is_unmade(&self) -> bool {
        self.current.is_none() && self.default.as_ref().is_some_and(|path| !path.exists())
    }
}

fn read(reference: &KeyReference) -> Result<SigningKey, KeyFault> {
    let fault = |why: String| KeyFault { reference: reference.to_string(), why };
    let text = reference.text().map_err(fault)?;
    SigningKey::read(&text).map_err(|error| fault(format!("{error}; `lethe log init-key FILE --name NAME` makes one")))
}

/// Makes a key and writes it to a file that is not there and that only its owner may read; durable when it returns.
pub(crate) fn create(path: &Path, name: &str, entropy: &dyn Entropy) -> std::io::Result<SigningKey> {
    if !is_name(name) {
        return Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, "a log's name has no blank and no `+`"));
    }
    let mut seed = Zeroizing::new([0; 32]);
    entropy.fill(seed.as_mut());
    let invalid = |error: NoteFault| std::io::Error::new(std::io::ErrorKind::InvalidInput, error.to_string());
    let text = Zeroizing::new(SigningKey::write(name, &seed).map_err(invalid)? + "\n");
    // Written whole under another name first, which is nobody else's and was never anybody else's to read: a key that is cut off would be
    // one that nobody can use.
    let mut own = [0; 8];
    entropy.fill(&mut own);
    let beside = path.with_added_extension(format!("{}.new", hex::encode(own)));
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    let linked = std::fs::hard_link(&beside, path);
    std::fs::remove_file(&beside)?;
    linked?;
    if let Some(folder) = std::path::absolute(path)?.parent() {
        std::fs::File::open(folder)?.sync_all()?;
    }
    SigningKey::read(&text).map_err(invalid)
}
