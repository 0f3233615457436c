//! What is configured of the trail's log: `[log]`.
//!
//! The rule: no key stands here, only where to find one.

use serde::Deserialize;

use super::{Config, Span};
use crate::keys::KeyReference;

/// Switches off what has a default beside the ledger.
pub(crate) const NONE: &str = "none";

/// See `[log]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogConfig {
    /// Where the key is that signs: `file:PATH`, `env:NAME`, `none`; empty: beside a ledger in a file.
    pub key: String,
    /// Where earlier keys are that still sign.
    pub previous_keys: Vec<String>,
    /// Where tiles and checkpoints are published: a URL, `none`; empty: beside a ledger in a file.
    pub publish: String,
    /// How often is sealed.
    pub every: Span,
}

impl LogConfig {
    /// The references, the current one first. They were checked when the configuration was read.
    pub fn references(&self) -> Result<(Option<KeyReference>, Vec<KeyReference>), String> {
        let reference = |key: &str, text: &str| text.parse::<KeyReference>().map_err(|error| format!("{key}: {error}"));
        let named = !self.key.is_empty() && self.key != NONE;
        let current = named.then(|| reference("key", &self.key)).transpose()?;
        let previous = self.previous_keys.iter().map(|text| reference("previous_keys", text)).collect::<Result<Vec<_>, _>>()?;
        Ok((current, previous))
    }
}

impl Config {
    pub(super) fn check_log(&self) -> Result<(), String> {
        self.log.references().map_err(|error| format!("log.{error}"))?;
        if !self.log.publish.is_empty() && self.log.publish != NONE {
            lethe_stores::Archives::canonical_url(&self.log.publish).map_err(|error| format!("log.publish: {error}"))?;
        }
        Ok(())
    }
}
