//! What is configured of archives' encryption: `[archive.encryption]`.
//!
//! The rule: no key stands here, only where to find one. Master keys stay configured where nothing new is encrypted: what was, is to be read.

use lethe_stages::text_enum;
use serde::Deserialize;

use super::Config;
use crate::keys::{KeyReference, Keyring};

text_enum! {
    /// Whether archives are encrypted.
    EncryptionMode {
        /// They are not.
        Off = "off",
        /// Each under a key of its own.
        PlaneKey = "plane_key",
    }
}

/// See `[archive.encryption]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EncryptionConfig {
    /// Whether archives of offboardings that are requested from now on are encrypted.
    pub mode: EncryptionMode,
    /// Where the master key is: `file:PATH` or `env:NAME`; empty: nowhere.
    pub master_key: String,
    /// Where earlier ones are.
    pub previous_keys: Vec<String>,
}

impl Config {
    /// The master keys as they are configured. The configuration was checked when it was read.
    pub fn keyring(&self) -> Keyring {
        self.archive.encryption.keyring().unwrap_or_default()
    }

    /// Whether archives of new offboardings are encrypted.
    pub fn encrypts(&self) -> bool {
        self.archive.encryption.mode == EncryptionMode::PlaneKey
    }

    pub(super) fn check_encryption(&self) -> Result<(), String> {
        self.archive.encryption.keyring().map(drop).map_err(|error| format!("archive.encryption: {error}"))
    }
}

impl EncryptionConfig {
    fn keyring(&self) -> Result<Keyring, String> {
        let reference = |key: &str, text: &str| text.parse::<KeyReference>().map_err(|error| format!("{key}: {error}"));
        let current = (!self.master_key.is_empty()).then(|| reference("master_key", &self.master_key)).transpose()?;
        if self.mode == EncryptionMode::PlaneKey && current.is_none() {
            return Err("mode is plane_key and master_key is empty".into());
        }
        let previous = self.previous_keys.iter().map(|text| reference("previous_keys", text)).collect::<Result<Vec<_>, _>>()?;
        Ok(Keyring::new(current, previous))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Config, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        Config::load(Some(file.path())).map_err(|error| error.to_string())
    }

    #[test]
    fn encryption_without_a_master_key_and_keys_that_are_no_references_are_named() {
        assert!(!load("").unwrap().encrypts());
        let config =
            load("[archive.encryption]\nmode = \"plane_key\"\nmaster_key = \"env:K\"\nprevious_keys = [\"file:/k\"]").unwrap();
        assert!(config.encrypts());
        assert_eq!(config.keyring().references().map(ToString::to_string).collect::<Vec<_>>(), ["env:K", "file:/k"]);
        for (text, complaint) in [
            ("mode = \"plane_key\"", "master_key is empty"),
            ("mode = \"on\"", "plane_key"),
            ("master_key = \"00112233\"", "file:PATH"),
            ("previous_keys = [\"k\"]", "previous_keys"),
        ] {
            let error = load(&format!("[archive.encryption]\n{text}")).unwrap_err();
            assert!(error.contains(complaint) && !error.contains("00112233\""), "{text}: {error}");
        }
    }
}
