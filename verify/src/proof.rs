//! Proofs on their own: that an entry is in the log, and that a log's tree is the beginning of a later one.
//!
//! The rule: a proof is worth as much as the signed checkpoints that it is between; both are verified first. It only computes.

use serde::{Deserialize, Serialize};

use crate::{
    bundle::Verified,
    entry::{Entry, Fault, hashes},
    merkle::check_consistency,
    note::{Checkpoint, PublicKey},
};

/// That an entry is in the log: what `lethe audit prove` writes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inclusion {
    /// The signed note.
    pub checkpoint: String,
    /// The entry, with its proof.
    pub entry: Entry,
}

/// That the tree of `old` leaves is the beginning of the one of `new`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Consistency {
    /// Leaves of the older tree.
    pub old: u64,
    /// Leaves of the newer tree.
    pub new: u64,
    /// Hashes in base64.
    pub proof: Vec<String>,
}

fn signed(note: &str, which: &str, keys: &[PublicKey]) -> Result<(Checkpoint, PublicKey), Fault> {
    Checkpoint::verified(note, keys).map_err(|why| Fault::new(which, why))
}

fn about(checkpoint: &Checkpoint, key: &PublicKey) -> String {
    format!("checkpoint of {}: {} leaves, signed by {key}", checkpoint.origin, checkpoint.size)
}

fn trusted(key: &PublicKey) -> Vec<String> {
    vec![
        format!("that {key} is the log's key, and was in nobody else's hands"),
        "that the log showed others the same tree: compare its checkpoints with those that others keep".to_owned(),
    ]
}

/// Checks a signed checkpoint.
pub fn checkpoint(note: &str, keys: &[PublicKey]) -> Result<Verified, Fault> {
    let (checkpoint, key) = signed(note, "checkpoint", keys)?;
    Ok(Verified { verified: vec![about(&checkpoint, &key)], trusted: trusted(&key) })
}

impl Inclusion {
    /// Reads a proof. Nothing is verified.
    pub fn read(text: &str) -> Result<Self, Fault> {
        serde_json::from_str(text).map_err(|error| Fault::new("proof", error))
    }

    /// Checks the checkpoint, the entry and that it is in the tree.
    pub fn verify(&self, keys: &[PublicKey]) -> Result<Verified, Fault> {
        let (checkpoint, key) = signed(&self.checkpoint, "checkpoint", keys)?;
        self.entry.verified()?;
        if !self.entry.included(&checkpoint)? {
            return Err(Fault::new(self.entry.name(), "it has no proof"));
        }
        let verified = vec![about(&checkpoint, &key), format!("{} fits its hash and is in the log", self.entry.name())];
        Ok(Verified { verified, trusted: trusted(&key) })
    }
}

impl Consistency {
    /// Reads a proof. Nothing is verified.
    pub fn read(text: &str) -> Result<Self, Fault> {
        serde_json::from_str(text).map_err(|error| Fault::new("proof", error))
    }

    /// Checks both checkpoints, and that the older tree is the beginning of the newer one.
    pub fn verify(&self, old: &str, new: &str, keys: &[PublicKey]) -> Result<Verified, Fault> {
        let (before, by) = signed(old, "older checkpoint", keys)?;
        let (after, key) = signed(new, "newer checkpoint", keys)?;
        if (before.size, after.size) != (self.old, self.new) {
            let why =
                format!("it is from {} to {}, the checkpoints are of {} and {}", self.old, self.new, before.size, after.size);
            return Err(Fault::new("proof", why));
        }
        if before.origin != after.origin {
            return Err(Fault::new("proof", format!("the checkpoints are of {} and {}", before.origin, after.origin)));
        }
        let proof = hashes(&self.proof).ok_or_else(|| Fault::new("proof", "it is no list of hashes in base64"))?;
        check_consistency(before.size, &before.root, after.size, &after.root, &proof).map_err(|why| Fault::new("proof", why))?;
        let verified = vec![
            about(&before, &by),
            about(&after, &key),
            format!(
                "the log of {} leaves is the beginning of the one of {}: nothing was changed or taken out",
                self.old, self.new
            ),
        ];
        Ok(Verified { verified, trusted: trusted(&key) })
    }
}
