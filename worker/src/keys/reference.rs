//! Where a master key is: a file that only its owner may read, or an environment variable. 64 hexadecimal digits, as `keys init` writes them.
//!
//! The rule: a file that others may read is refused, and what was read is wiped. Only reads, so nothing happens if we die in it.

use std::{os::unix::fs::PermissionsExt, path::PathBuf, str::FromStr};

use zeroize::Zeroizing;

use super::{KeyError, MasterKey};

/// A master key's place: `file:PATH` or `env:NAME`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum KeyReference {
    /// The path of a file.
    File(PathBuf),
    /// The name of an environment variable.
    Environment(String),
}

impl FromStr for KeyReference {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some(("file", path)) if !path.is_empty() => Ok(Self::File(path.into())),
            Some(("env", name)) if !name.is_empty() && !name.contains(['=', '\0']) => Ok(Self::Environment(name.to_owned())),
            // Whatever was written may be a key: it is not repeated.
            _ => Err("it is no reference to a key: write file:PATH or env:NAME".into()),
        }
    }
}

impl std::fmt::Display for KeyReference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => write!(f, "file:{}", path.display()),
            Self::Environment(name) => write!(f, "env:{name}"),
        }
    }
}

impl KeyReference {
    /// Reads the key, as it is now.
    pub fn read(&self) -> Result<MasterKey, KeyError> {
        let unreadable = |why: String| KeyError::Unreadable { reference: self.to_string(), why };
        let text = self.text().map_err(unreadable)?;
        let mut bytes = Zeroizing::new([0; 32]);
        hex::decode_to_slice(text.trim(), bytes.as_mut())
            .map_err(|_| unreadable("it is not 64 hexadecimal digits: `lethe keys init FILE` makes one".into()))?;
        Ok(MasterKey::new(bytes))
    }

    /// What stands there, as it is.
    ///
    /// # Errors
    /// Why it cannot be read.
    pub(crate) fn text(&self) -> Result<Zeroizing<String>, String> {
        match self {
            Self::Environment(name) => match std::env::var(name) {
                Ok(text) => Ok(Zeroizing::new(text)),
                Err(std::env::VarError::NotPresent) => Err("the variable is not set".into()),
                Err(std::env::VarError::NotUnicode(_)) => Err("the variable is not text".into()),
            },
            Self::File(path) => {
                let mode = std::fs::metadata(path).map_err(|error| error.to_string())?.permissions().mode();
                if mode & 0o077 != 0 {
                    return Err(format!("others may use the file (mode {:03o}): chmod 600 it", mode & 0o777));
                }
                std::fs::read_to_string(path).map(Zeroizing::new).map_err(|error| error.to_string())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_reference_is_refused_without_being_repeated() {
        for text in ["", "deadbeef", "file:", "env:", "http://x", "env:A=B"] {
            let error = text.parse::<KeyReference>().unwrap_err();
            assert!(!error.contains("deadbeef"), "{error}");
        }
        assert_eq!("file:/k".parse::<KeyReference>().unwrap().to_string(), "file:/k");
    }

    #[test]
    fn a_key_that_others_may_read_or_that_is_none_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let reference = KeyReference::File(path.clone());
        let why = || reference.read().unwrap_err().to_string();
        assert!(why().contains("No such file") && why().contains(&path.display().to_string()), "{}", why());
        std::fs::write(&path, "ab".repeat(32) + "\n").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(why().contains("640"), "{}", why());
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert!(reference.read().is_ok());
        std::fs::write(&path, "ab".repeat(31)).unwrap();
        assert!(why().contains("64 hexadecimal digits") && !why().contains("abab"), "{}", why());
        assert!(KeyReference::Environment("LETHE_NO_SUCH_KEY".into()).read().unwrap_err().to_string().contains("not set"));
    }
}
