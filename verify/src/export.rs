//! A whole log in one file: every entry in the order of its leaf, then the checkpoint that signs them. What `lethe log export` writes.
//!
//! ```text
//! lethe-log/v1
//! CHAIN ⇥ NUMBER ⇥ TENANT ⇥ PREVIOUS ⇥ HASH ⇥ BODY      one line for each entry, from leaf 0 on
//!
//! the signed note
//! ```
//!
//! The rule: everything is recomputed: each hash from the one before it and the body, each chain from its first entry on, the tree from all of
//! them; and the checkpoint must sign exactly that tree. A body is one line: canonical JSON holds no line break and no tab.
//! It reads once, in one pass, and keeps the end of each chain.

use std::{collections::HashMap, io::BufRead};

use memchr::memmem::{find, rfind};
use sha2::{Digest, Sha256};

use crate::{
    leaf::{Leaf, digest, origin, tag},
    merkle::{Frontier, Hash, leaf_hash},
    note::{Checkpoint, NoteFault, PublicKey},
};

/// The first line.
pub const HEADER: &str = "lethe-log/v1";

/// What was verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exported {
    /// Entries.
    pub entries: u64,
    /// Chains.
    pub chains: usize,
    /// The checkpoint that signs them.
    pub checkpoint: Checkpoint,
    /// The key that signed it.
    pub key: PublicKey,
}

/// What is wrong, and where.
#[derive(Debug, thiserror::Error)]
pub enum ExportFault {
    /// The file cannot be read.
    #[error("read the export: {0}")]
    Io(#[from] std::io::Error),
    /// It is no export.
    #[error("this is no export of a log: its first line is not `{HEADER}`")]
    Header,
    /// An entry is not what it must be.
    #[error("entry {leaf} ({chain}): {why}")]
    Entry {
        /// Its leaf.
        leaf: u64,
        /// Its chain, as far as it could be read.
        chain: String,
        /// What is wrong.
        why: String,
    },
    /// The checkpoint at its end.
    #[error("the checkpoint at the end: {0}")]
    Checkpoint(#[from] NoteFault),
    /// It signs something else.
    #[error("the checkpoint signs a tree of {signed} leaves, the export has {entries}{}", if *.signed == *.entries { ", and another root: an entry was changed, taken out or put in" } else { "" })]
    Tree {
        /// Leaves that were signed.
        signed: u64,
        /// Entries that there are.
        entries: u64,
    },
}

/// The end of a chain.
struct End {
    tag: Hash,
    next: u64,
    hash: String,
}

/// The text between two marks, the first of which is looked for from the front or from the back.
fn between<'a>(body: &'a [u8], before: &[u8], from_the_back: bool, until: u8) -> Option<&'a [u8]> {
    let start = if from_the_back { rfind(body, before) } else { find(body, before) }? + before.len();
    let rest = &body[start..];
    Some(&rest[..rest.iter().position(|byte| *byte == until)?])
}

/// Reads and verifies an export.
///
/// # Errors
/// The first thing that is not as it must be.
pub fn verify(mut from: impl BufRead, keys: &[PublicKey]) -> Result<Exported, ExportFault> {
    let mut line = Vec::with_capacity(4096);
    read_line(&mut from, &mut line)?;
    if line != HEADER.as_bytes() {
        return Err(ExportFault::Header);
    }
    let mut tree = Frontier::default();
    let mut chains: HashMap<Vec<u8>, End> = HashMap::new();
    let mut tenants: HashMap<Vec<u8>, Hash> = HashMap::new();
    loop {
        read_line(&mut from, &mut line)?;
        if line.is_empty() {
            break;
        }
        let leaf = entry(&line, &mut chains, &mut tenants).map_err(|why| {
            let chain = line.split(|byte| *byte == b'\t').next().unwrap_or_default();
            ExportFault::Entry { leaf: tree.size(), chain: String::from_utf8_lossy(chain).into_owned(), why }
        })?;
        tree.append(leaf);
    }
    let mut note = String::new();
    from.read_to_string(&mut note)?;
    let (checkpoint, key) = Checkpoint::verified(&note, keys)?;
    if (checkpoint.size, checkpoint.root) != (tree.size(), tree.root()) {
        return Err(ExportFault::Tree { signed: checkpoint.size, entries: tree.size() });
    }
    Ok(Exported { entries: tree.size(), chains: chains.len(), checkpoint, key })
}

fn read_line(from: &mut impl BufRead, line: &mut Vec<u8>) -> std::io::Result<()> {
    line.clear();
    from.read_until(b'\n', line)?;
    if line.last() == Some(&b'\n') {
        line.pop();
    }
    Ok(())
}

/// Verifies an entry; answers its leaf's hash.
fn entry(line: &[u8], chains: &mut HashMap<Vec<u8>, End>, tenants: &mut HashMap<Vec<u8>, Hash>) -> Result<Hash, String> {
    let mut fields = line.splitn(6, |byte| *byte == b'\t');
    let mut field = || fields.next().ok_or_else(|| "the line has fewer than six fields".to_owned());
    let (chain, number, tenant, previous, hash, body) = (field()?, field()?, field()?, field()?, field()?, field()?);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if !chains.contains_key(chain) {
        let name = std::str::from_utf8(chain).map_err(|_| "its chain's name is no text".to_owned())?;
        chains.insert(chain.to_vec(), End { tag: tag(name), next: 0, hash: origin(name) });
    }
    let end = chains.get_mut(chain).expect("put in above");
    let sequence_no = std::str::from_utf8(number).ok().and_then(|number| number.parse::<u64>().ok());
    if sequence_no != Some(end.next) {
        return Err(format!(
            "it is number {}, and number {} of its chain comes next: one is missing, or they were reordered",
            text(number),
            end.next
        ));
    }
    if previous != end.hash.as_bytes() {
        return Err("it does not follow the entry before it".into());
    }
    let mut computed = Sha256::new();
    computed.update(previous);
    computed.update(body);
    let computed: Hash = computed.finalize().into();
    let written = std::str::from_utf8(hash).ok().and_then(digest);
    if written != Some(computed) {
        return Err("its hash does not fit its body".into());
    }
    // The body's members are sorted: before `chain` and behind `sequence_no` stands nothing that could hold other members.
    let of_body = (
        between(body, b",\"chain\":\"", false, b'"'),
        between(body, b",\"sequence_no\":", true, b','),
        between(body, b",\"tenant_id\":\"", true, b'"'),
    );
    if of_body != (Some(chain), Some(number), Some(tenant)) {
        return Err("its chain, number or tenant is not that of its body".into());
    }
    if !tenants.contains_key(tenant) {
        tenants.insert(tenant.to_vec(), tag(&text(tenant)));
    }
    let leaf = Leaf { chain: end.tag, sequence_no: end.next, hash: computed, tenant: tenants[tenant] };
    end.next += 1;
    end.hash.clear();
    end.hash.push_str(std::str::from_utf8(hash).unwrap_or_default());
    Ok(leaf_hash(&leaf.bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{leaf::entry_hash, merkle::root_of, note::SigningKey};

    /// Entries of two chains, in turn.
    fn export(key: &SigningKey, change: impl Fn(usize, &mut Vec<String>)) -> String {
        let mut ends = [origin("plane:a"), origin("tenant:b")];
        let (mut text, mut hashes) = (format!("{HEADER}\n"), Vec::new());
        for index in 0..20 {
            let (chain, number) = (["plane:a", "tenant:b"][index % 2], index / 2);
            let evidence = r#"{"sequence_no":99,"chain":"x","tenant_id":"y"}"#;
            let body = format!(
                r#"{{"actor_id":{{"commitment":"c"}},"at":"now","chain":"{chain}","evidence":{evidence},"sequence_no":{number},"tenant_id":"t","to_state":null}}"#
            );
            let hash = entry_hash(&ends[index % 2], &body);
            hashes.push(leaf_hash(&Leaf::of(chain, number as u64, &hash, "t").unwrap().bytes()));
            let mut fields = vec![chain.into(), number.to_string(), "t".into(), ends[index % 2].clone(), hash.clone(), body];
            ends[index % 2] = hash;
            change(index, &mut fields);
            if !fields.is_empty() {
                text += &(fields.join("\t") + "\n");
            }
        }
        let checkpoint = Checkpoint { origin: "log".into(), size: 20, root: root_of(&hashes) };
        format!("{text}\n{}", checkpoint.signed([key]))
    }

    #[test]
    fn an_export_is_verified_and_whatever_was_changed_is_named() {
        let key = SigningKey::from_seed("log", &[1; 32]).unwrap();
        let keys = [key.public()];
        let good = export(&key, |_, _| {});
        let verified = verify(good.as_bytes(), &keys).unwrap();
        assert_eq!((verified.entries, verified.chains, verified.key), (20, 2, key.public()));
        type Change = Box<dyn Fn(usize, &mut Vec<String>)>;
        let at = |place: usize, change: fn(&mut Vec<String>)| -> Change {
            Box::new(move |index, fields| {
                if index == place {
                    change(fields)
                }
            })
        };
        for (change, named) in [
            (at(6, |fields| fields[5] = fields[5].replace("now", "then")), "does not fit its body"),
            (at(6, |fields| fields[4] = fields[3].clone()), "does not fit its body"),
            (at(6, |fields| fields[3] = fields[4].clone()), "does not follow"),
            (at(6, |fields| fields[1] = "7".into()), "comes next"),
            (at(6, |fields| fields[2] = "u".into()), "not that of its body"),
            (at(6, Vec::clear), "comes next"),
            (at(19, Vec::clear), "signs a tree of 20 leaves, the export has 19"),
            (at(3, |fields| fields.truncate(3)), "fewer than six"),
        ] {
            let error = verify(export(&key, change).as_bytes(), &keys).unwrap_err().to_string();
            assert!(error.contains(named), "{named}: {error}");
        }
        // Whole lines in another order: of two chains, each stays whole, and the tree does not.
        let mut lines: Vec<&str> = good.lines().collect();
        lines.swap(5, 6);
        let error = verify((lines.join("\n") + "\n").as_bytes(), &keys).unwrap_err().to_string();
        assert!(error.contains("another root"), "{error}");
        let other = SigningKey::from_seed("log", &[2; 32]).unwrap();
        assert!(matches!(verify(good.as_bytes(), &[other.public()]), Err(ExportFault::Checkpoint(_))));
        assert!(matches!(verify("hello".as_bytes(), &keys), Err(ExportFault::Header)));
        assert!(verify(&good.as_bytes()[..good.len() / 2], &keys).is_err());
    }
}
