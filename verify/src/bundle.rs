//! A bundle (`lethe-bundle/v1`): entries of the trail that answer a question, with what shows that they are the log's, and that none is
//! left out.
//!
//! The rule: what is asked for in `complete` is shown by leaves that are all there up to the checkpoint: none of them is of the plane or
//! tenant and missing. Where no scan is there, entries are genuine, and that is all that is said. The question is the reader's, and no
//! signature covers it. Nothing here panics, whatever the file holds. It only computes.

use std::collections::HashMap;

use base64::{Engine, prelude::BASE64_STANDARD};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use crate::{
    entry::{Entry, Fault, hashes},
    leaf::{LENGTH, Leaf, origin, tag},
    merkle::{Frontier, leaf_hash},
    note::{Checkpoint, PublicKey},
};

/// The document's name and version.
pub const FORMAT: &str = "lethe-bundle/v1";

/// A bundle.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bundle {
    /// [`FORMAT`].
    pub format: String,
    /// What was asked, for whoever reads it.
    pub question: Json,
    /// What the command line adds to each of its documents; it says nothing here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema_version: Option<u32>,
    /// The signed note.
    pub checkpoint: String,
    /// The entries.
    pub entries: Vec<Entry>,
    /// Every leaf from one on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scan: Option<Scan>,
    /// Of what no entry is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub complete: Option<Vec<Complete>>,
}

/// Every leaf from `from` to the checkpoint's size.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scan {
    /// The first leaf.
    pub from: u64,
    /// The tree before it: its perfect subtrees, the largest first, in base64.
    pub frontier: Vec<String>,
    /// The leaves, one behind the other, in base64.
    pub leaves: String,
}

/// Of what no entry is missing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Complete {
    /// Of this plane's chain.
    Plane(String),
    /// Of anything that concerns this tenant.
    Tenant(String),
}

/// What was verified.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verified {
    /// Statement by statement.
    pub verified: Vec<String>,
    /// What it rests on, and what cannot be known from the file.
    pub trusted: Vec<String>,
}

/// A scan that was verified.
struct Scanned {
    from: u64,
    leaves: Vec<Leaf>,
}

impl Scanned {
    fn at(&self, index: u64) -> Option<&Leaf> {
        self.leaves.get(usize::try_from(index.checked_sub(self.from)?).ok()?)
    }

    fn of<'a>(&'a self, which: impl Fn(&Leaf) -> bool + 'a) -> impl Iterator<Item = u64> + 'a {
        self.leaves.iter().zip(self.from..).filter(move |(leaf, _)| which(leaf)).map(|(_, index)| index)
    }
}

impl Scan {
    fn verified(&self, checkpoint: &Checkpoint) -> Result<Scanned, Fault> {
        let fail = |why: &str| Fault::new("scan", why);
        let nodes = hashes(&self.frontier).ok_or_else(|| fail("its frontier is no list of hashes in base64"))?;
        let mut tree =
            Frontier::of(self.from, nodes).ok_or_else(|| fail("its frontier has another number of hashes than it takes"))?;
        let bytes = BASE64_STANDARD.decode(&self.leaves).map_err(|_| fail("its leaves are no base64"))?;
        let (chunks, rest) = bytes.as_chunks::<LENGTH>();
        if !rest.is_empty() {
            return Err(fail("its leaves are cut off"));
        }
        if self.from.checked_add(chunks.len() as u64) != Some(checkpoint.size) {
            return Err(fail("its leaves do not end where the checkpoint does"));
        }
        let leaves: Option<Vec<Leaf>> = chunks.iter().map(|chunk| Leaf::read(chunk)).collect();
        chunks.iter().for_each(|chunk| tree.append(leaf_hash(chunk)));
        if tree.root() != checkpoint.root {
            return Err(fail("its leaves lead to another root than the one that was signed"));
        }
        Ok(Scanned { from: self.from, leaves: leaves.ok_or_else(|| fail("its leaves are cut off"))? })
    }
}

impl Bundle {
    /// Reads a bundle. Nothing is verified.
    pub fn read(text: &str) -> Result<Self, Fault> {
        let bundle: Self = serde_json::from_str(text).map_err(|error| Fault::new("bundle", error))?;
        if bundle.format != FORMAT {
            return Err(Fault::new("bundle", format!("it is `{}`, not `{FORMAT}`", bundle.format)));
        }
        Ok(bundle)
    }

    /// Checks everything in it but the question.
    pub fn verify(&self, keys: &[PublicKey]) -> Result<Verified, Fault> {
        let (checkpoint, key) = Checkpoint::verified(&self.checkpoint, keys).map_err(|why| Fault::new("checkpoint", why))?;
        let scanned = self.scan.as_ref().map(|scan| scan.verified(&checkpoint)).transpose()?;
        let mut bodies = HashMap::new();
        for entry in &self.entries {
            let body = entry.verified()?;
            let leaf = entry.leaf()?;
            let proved = entry.included(&checkpoint)?;
            match scanned.as_ref().and_then(|scan| scan.at(entry.leaf_index)) {
                Some(found) if *found != leaf => return Err(Fault::new(entry.name(), "the scan has another leaf there")),
                None if !proved => {
                    return Err(Fault::new(entry.name(), "nothing shows that it is in the log: no proof, and no scan covers it"));
                }
                _ => {}
            }
            if bodies.insert(entry.leaf_index, body).is_some() {
                return Err(Fault::new(entry.name(), "it stands twice"));
            }
        }
        let (values, origin) = (self.entries.iter().flat_map(|entry| entry.values.iter().flatten()).count(), &checkpoint.origin);
        let mut verified = vec![
            format!("checkpoint of {origin}: {} leaves, signed by {key}", checkpoint.size),
            format!("{} entries: each fits its hash and is in the log", self.entries.len()),
            format!("{values} personal value(s): each is the one that was committed to"),
        ];
        for complete in self.complete.iter().flatten() {
            verified.push(self.complete(complete, scanned.as_ref(), &bodies)?);
        }
        let mut trusted = vec![
            format!("that {key} is the log's key, and was in nobody else's hands"),
            "that the log showed others the same tree: compare its checkpoints with those that others keep".to_owned(),
        ];
        if self.complete.iter().flatten().next().is_none() {
            trusted.push("that no entry is left out: this bundle does not say so".into());
        } else {
            trusted.push(
                "that the log holds a chain's entries in their order: `lethe-verify log` checks it over the whole log".into(),
            );
        }
        Ok(Verified { verified, trusted })
    }

    /// Shows that no entry of a plane or tenant is missing.
    fn complete(&self, of: &Complete, scan: Option<&Scanned>, bodies: &HashMap<u64, Json>) -> Result<String, Fault> {
        let (what, chain) = match of {
            Complete::Plane(id) => (format!("all of plane {id}"), format!("plane:{id}")),
            Complete::Tenant(id) => (format!("all of tenant {id}"), format!("tenant:{id}")),
        };
        let fail = |why: String| Fault::new(what.as_str(), why);
        let scan = scan.ok_or_else(|| fail("no scan shows that nothing is missing".into()))?;
        let walked = self.walk(&chain)?;
        let (Some(first), Some(last)) = (walked.first(), walked.last()) else {
            return Err(fail(format!("no entry of {chain} is there")));
        };
        let (from, tag, by_tenant) = match of {
            Complete::Plane(_) => (last.leaf_index + 1, tag(&chain), false),
            Complete::Tenant(id) => {
                if bodies.get(&first.leaf_index).is_none_or(|body| body["event_type"] != "REGISTERED") {
                    return Err(Fault::new(first.name(), "the first entry of a tenant is its registration, this is not"));
                }
                (first.leaf_index, tag(id), true)
            }
        };
        if scan.from > from {
            return Err(fail(format!("leaves {from} to {} are not scanned", scan.from - 1)));
        }
        let mut counted = 0_usize;
        for index in scan.of(|leaf| if by_tenant { leaf.tenant == tag } else { leaf.chain == tag }) {
            if !bodies.contains_key(&index) {
                return Err(fail(format!("leaf {index} is of it and is missing")));
            }
            counted += 1;
        }
        Ok(match of {
            Complete::Plane(id) => format!("no entry of plane {id} is missing: {}, from its first", walked.len()),
            Complete::Tenant(id) => format!("no entry of tenant {id} is missing: {counted}, its planes' included"),
        })
    }

    /// The entries of a chain, from its first, each following the one before it.
    fn walk(&self, chain: &str) -> Result<Vec<&Entry>, Fault> {
        let mut walked: Vec<&Entry> = self.entries.iter().filter(|entry| entry.chain == chain).collect();
        walked.sort_by_key(|entry| entry.sequence_no);
        let (mut head, mut after) = (origin(chain), None);
        for (entry, next) in walked.iter().zip(0_u64..) {
            if entry.sequence_no != next {
                return Err(Fault::new(chain, format!("entry {next} is missing")));
            }
            if entry.previous != head {
                return Err(Fault::new(entry.name(), "it does not follow the entry before it"));
            }
            if after.is_some_and(|after| entry.leaf_index <= after) {
                return Err(Fault::new(entry.name(), "the log has it before the entry that it follows"));
            }
            (head, after) = (entry.hash.clone(), Some(entry.leaf_index));
        }
        Ok(walked)
    }
}
