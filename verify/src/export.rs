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
//! It reads once, in one pass, and keeps the end of each chain; entries are hashed by the batch, and judged in their order.

use std::{
    collections::HashMap,
    io::{ErrorKind, Read},
    sync::LazyLock,
};

use memchr::{memchr, memmem::Finder, memrchr};

use crate::{
    leaf::{LENGTH, Leaf, WRITTEN, digits, tag},
    merkle::{Frontier, Hash, joined_hashes, leaf_hashes},
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
    /// The hash of its last entry, as text.
    hash: [u8; WRITTEN],
    /// The tenant of its last entry, which mostly is that of the next.
    tenant: Vec<u8>,
    tenant_tag: Hash,
}

/// Bytes that are read at a time.
const CHUNK: usize = 1 << 18;
/// Entries that are hashed at a time: the processor hashes several messages beside one another faster than one after the other.
const BATCH: usize = 256;

/// A file's lines, several at a time.
struct Lines<R> {
    from: R,
    buffer: Vec<u8>,
    /// Where the first line begins that was not handed out.
    start: usize,
    /// Behind what was read.
    end: usize,
    at_end: bool,
}

impl<R: Read> Lines<R> {
    fn of(from: R) -> Self {
        Self { from, buffer: Vec::new(), start: 0, end: 0, at_end: false }
    }

    fn fill(&mut self) -> std::io::Result<()> {
        if self.buffer.len() - self.end < CHUNK / 2 {
            self.buffer.resize(self.end + CHUNK, 0);
        }
        match self.from.read(&mut self.buffer[self.end..]) {
            Ok(0) => self.at_end = true,
            Ok(read) => self.end += read,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Up to `limit` lines, without their ends; fewer before an empty line, which is passed over, or where the file ends.
    fn next(&mut self, limit: usize) -> std::io::Result<Vec<&[u8]>> {
        if self.start >= CHUNK {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        let (mut lines, mut searched) = (Vec::with_capacity(limit), self.start);
        while lines.len() < limit {
            let line_end = match memchr(b'\n', &self.buffer[searched..self.end]) {
                Some(at) => searched + at,
                None if self.at_end && self.start == self.end => break,
                None if self.at_end => self.end,
                None => {
                    searched = self.end;
                    self.fill()?;
                    continue;
                }
            };
            let line = self.start..line_end;
            self.start = self.end.min(line_end + 1);
            searched = self.start;
            if line.is_empty() {
                break;
            }
            lines.push(line);
        }
        Ok(lines.into_iter().map(|line| &self.buffer[line]).collect())
    }

    /// What was not handed out.
    fn rest(mut self) -> std::io::Result<String> {
        let mut rest = self.buffer[self.start..self.end].to_vec();
        self.from.read_to_end(&mut rest)?;
        String::from_utf8(rest).map_err(|error| std::io::Error::new(ErrorKind::InvalidData, error))
    }
}

/// An entry's line.
struct Line<'a> {
    chain: &'a [u8],
    number: &'a [u8],
    tenant: &'a [u8],
    previous: &'a [u8],
    hash: &'a [u8],
    body: &'a [u8],
}

impl<'a> Line<'a> {
    fn read(line: &'a [u8]) -> Option<Self> {
        let mut rest = line;
        let mut field = || {
            let (field, behind) = rest.split_at(memchr(b'\t', rest)?);
            rest = &behind[1..];
            Some(field)
        };
        let (chain, number, tenant, previous, hash) = (field()?, field()?, field()?, field()?, field()?);
        Some(Self { chain, number, tenant, previous, hash, body: rest })
    }

    /// Whether chain, number and tenant are those of the body. Its members are sorted: before `chain` and behind `sequence_no` stands nothing that
    /// could hold other members.
    fn is_of_body(&self) -> bool {
        static CHAIN: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b",\"chain\":\""));
        let Some(at) = CHAIN.find(self.body) else { return false };
        let named = self.body[at + CHAIN.needle().len()..].strip_prefix(self.chain);
        if named.and_then(<[u8]>::first) != Some(&b'"') {
            return false;
        }
        // From the last member backwards.
        let (mut rest, mut is_tenants) = (self.body, false);
        while let Some(at) = memrchr(b',', rest) {
            let member = &rest[at + 1..];
            if let Some(tenant) = member.strip_prefix(b"\"tenant_id\":\"") {
                is_tenants = tenant.strip_suffix(b"\"") == Some(self.tenant);
            }
            if let Some(number) = member.strip_prefix(b"\"sequence_no\":") {
                return is_tenants && number == self.number;
            }
            rest = &rest[..at];
        }
        false
    }
}

/// Everything that was read, as far as the next entry needs it.
#[derive(Default)]
struct Walk {
    tree: Frontier,
    chains: HashMap<Vec<u8>, End>,
}

impl Walk {
    /// Verifies the next entries.
    fn entries(&mut self, lines: &[&[u8]]) -> Result<(), ExportFault> {
        let read: Vec<Line<'_>> = lines.iter().map_while(|line| Line::read(line)).collect();
        let (previous, bodies): (Vec<&[u8]>, Vec<&[u8]>) = read.iter().map(|line| (line.previous, line.body)).unzip();
        let hashes = joined_hashes(&previous, &bodies);
        let mut leaves = Vec::with_capacity(read.len());
        for (index, line) in lines.iter().enumerate() {
            let leaf = match read.get(index) {
                Some(entry) => self.entry(entry, &hashes[index]),
                None => Err("the line has fewer than six fields".to_owned()),
            };
            leaves.push(leaf.map_err(|why| {
                let chain = line.split(|byte| *byte == b'\t').next().unwrap_or_default();
                ExportFault::Entry {
                    leaf: self.tree.size() + index as u64,
                    chain: String::from_utf8_lossy(chain).into_owned(),
                    why,
                }
            })?);
        }
        let leaves: Vec<&[u8]> = leaves.iter().map(<[u8; LENGTH]>::as_slice).collect();
        self.tree.append_all(&leaf_hashes(&leaves));
        Ok(())
    }

    /// Verifies an entry, whose hash was computed; answers its leaf.
    fn entry(&mut self, line: &Line<'_>, computed: &Hash) -> Result<[u8; LENGTH], String> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let end = match self.chains.get_mut(line.chain) {
            Some(end) => end,
            None => {
                let name = std::str::from_utf8(line.chain).map_err(|_| "its chain's name is no text".to_owned())?;
                let tag = tag(name);
                let begun = End { tag, next: 0, hash: digits(&tag), tenant: Vec::new(), tenant_tag: [0; 32] };
                self.chains.entry(line.chain.to_vec()).or_insert(begun)
            }
        };
        let sequence_no = std::str::from_utf8(line.number).ok().and_then(|number| number.parse::<u64>().ok());
        if sequence_no != Some(end.next) {
            return Err(format!(
                "it is number {}, and number {} of its chain comes next: one is missing, or they were reordered",
                text(line.number),
                end.next
            ));
        }
        if line.previous != end.hash {
            return Err("it does not follow the entry before it".into());
        }
        let written = digits(computed);
        if line.hash != written {
            return Err("its hash does not fit its body".into());
        }
        if !line.is_of_body() {
            return Err("its chain, number or tenant is not that of its body".into());
        }
        if line.tenant != end.tenant {
            end.tenant = line.tenant.to_vec();
            end.tenant_tag = tag(&text(line.tenant));
        }
        let leaf = Leaf { chain: end.tag, sequence_no: end.next, hash: *computed, tenant: end.tenant_tag };
        end.next += 1;
        end.hash = written;
        Ok(leaf.bytes())
    }
}

/// Reads and verifies an export.
///
/// # Errors
/// The first thing that is not as it must be.
pub fn verify(from: impl Read, keys: &[PublicKey]) -> Result<Exported, ExportFault> {
    let mut lines = Lines::of(from);
    if lines.next(1)? != [HEADER.as_bytes()] {
        return Err(ExportFault::Header);
    }
    let mut walk = Walk::default();
    loop {
        let some = lines.next(BATCH)?;
        walk.entries(&some)?;
        // Before the empty line, or the file's end.
        if some.len() < BATCH {
            break;
        }
    }
    let Walk { tree, chains } = walk;
    let (checkpoint, key) = Checkpoint::verified(&lines.rest()?, keys)?;
    if (checkpoint.size, checkpoint.root) != (tree.size(), tree.root()) {
        return Err(ExportFault::Tree { signed: checkpoint.size, entries: tree.size() });
    }
    Ok(Exported { entries: tree.size(), chains: chains.len(), checkpoint, key })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        leaf::{entry_hash, origin},
        merkle::{leaf_hash, root_of},
        note::SigningKey,
    };

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
