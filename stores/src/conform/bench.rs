//! The bench: a scratch plane, its neighbour, and how they must be now. What the promises have in common.
//!
//! The rule: what is compared is what the store gives when it is read again, never what was expected of it. If we die, the scratch plane
//! is as the last promise left it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use lethe_stages::{
    Permit, canonical,
    lifecycle::FenceMode,
    ports::{Erased, KnowledgeStore, PageLimit, PortError},
    record::{Key, Record, RecordDigest, Value},
};
use uuid::Uuid;

use super::{
    Conformance, Kept, Mint, Promise, RECORDS_MIN, Users,
    users::Told,
    wire::{Line, Wire},
};
use crate::{Mapping, open_store, protocol::ProtocolStore};

/// Records of one call to erase.
const BATCH: usize = 500;
/// Records that a probe is asked for.
pub(super) const SAMPLES: usize = 200;
pub(super) const ALL: PageLimit = PageLimit { rows_max: 1_000, bytes_max: 8 << 20 };

/// What was seen: in words, or a promise broken, in words.
pub(super) type Said = Result<Seen, String>;

pub(super) enum Seen {
    Kept(String),
    Declared(String),
    NotAsked(&'static str),
}

pub(super) fn kept(said: impl Into<String>) -> Said {
    Ok(Seen::Kept(said.into()))
}

pub(super) fn ensure(holds: bool, broken: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(broken()) }
}

pub(super) fn failed(error: PortError) -> String {
    error.to_string()
}

/// That of the records that were named, so many were erased, absent and changed.
pub(super) fn went(said: &Erased, expected: [u64; 3], named: &str) -> Result<(), String> {
    let Erased { erased, absent, changed } = *said;
    ensure([erased, absent, changed] == expected, || {
        format!("of {named} it says: {erased} erased, {absent} absent, {changed} changed")
    })
}

/// Why a store cannot be tested any further.
pub(super) enum NoBench {
    /// It is not there, or not filled.
    Unusable(PortError),
    /// It cannot even be read: a promise is broken.
    Broken(String),
}

impl From<PortError> for NoBench {
    fn from(error: PortError) -> Self {
        NoBench::Unusable(error)
    }
}

/// A plane's records by key.
pub(super) type Records = BTreeMap<Key, (Record, RecordDigest)>;

/// What users wrote, letter by letter: texts that lose anything but plain letters are told by it.
fn marker(number: u32) -> String {
    format!("conformance {number}: «ß é ł 語 🜁» to the end")
}

fn holds(value: &Value, marker: &str) -> bool {
    match value {
        Value::Text(text) => text.contains(marker),
        Value::Blob(bytes) => bytes.windows(marker.len()).any(|some| some == marker.as_bytes()),
        _ => false,
    }
}

/// The scratch plane and its neighbour, behind a server that speaks the protocol.
pub(super) struct Wires {
    pub(super) own: Wire,
    pub(super) neighbour: Wire,
    /// The driver, by which records are deleted at versions of any kind.
    pub(super) driver: ProtocolStore,
}

pub(super) struct Bench<'a> {
    pub(super) store: Arc<dyn KnowledgeStore>,
    pub(super) neighbour: Arc<dyn KnowledgeStore>,
    /// The same scope, under the id of a plane that has no business there.
    pub(super) stranger: Arc<dyn KnowledgeStore>,
    pub(super) wires: Option<Wires>,
    pub(super) url: &'a str,
    pub(super) mapping: Mapping,
    /// As the scratch plane must be now.
    pub(super) now: Records,
    pub(super) neighbours: Records,
    /// How many keys stood in both when it began.
    pub(super) shared: usize,
    pub(super) known: Vec<Record>,
    /// The place of the embedding among a record's values.
    pub(super) embedding: Option<usize>,
    /// What the store says that its fence does not refuse.
    pub(super) unfenced: BTreeSet<String>,
    pub(super) users: Users,
    pub(super) told: Told,
    beside: Told,
    written: u32,
    pub(super) ids: [Uuid; 3],
    pub(super) epoch: i64,
    mint: Mint<'a>,
    pub(super) promises: Vec<Promise>,
}

pub(super) async fn read(store: &dyn KnowledgeStore, limit: PageLimit) -> Result<Vec<Record>, PortError> {
    let mut all: Vec<Record> = Vec::new();
    loop {
        let page = store.page(all.last().map(|record| &record.key), limit).await?;
        if page.is_empty() {
            return Ok(all);
        }
        if page.len() > limit.rows_max {
            return Err(PortError::Permanent(format!("a page of at most {} record(s) has {}", limit.rows_max, page.len())));
        }
        for record in page {
            if let Some(last) = all.last().filter(|last| last.key >= record.key) {
                return Err(PortError::Permanent(format!("key {} comes after {}", record.key, last.key)));
            }
            all.push(record);
        }
    }
}

pub(super) fn by_key(records: Vec<Record>) -> Records {
    records
        .into_iter()
        .map(|record| {
            let digest = record.digest(None);
            (record.key.clone(), (record, digest))
        })
        .collect()
}

/// Whether two planes hold the same, and else in what they differ.
pub(super) fn same(before: &Records, after: &Records) -> Result<(), String> {
    let gone = before.keys().find(|key| !after.contains_key(key));
    let new = after.keys().find(|key| !before.contains_key(key));
    let changed = before.iter().find(|(key, (_, digest))| after.get(key).is_some_and(|(_, now)| now != digest));
    match (gone, new, changed) {
        (Some(key), ..) => Err(format!("record {key} is gone: {} record(s) are left of {}", after.len(), before.len())),
        (_, Some(key), _) => {
            Err(format!("record {key} is there and was not: {} record(s) before, {} now", before.len(), after.len()))
        }
        (.., Some((key, _))) => Err(format!("record {key} has changed")),
        _ => Ok(()),
    }
}

impl<'a> Bench<'a> {
    pub(super) async fn begin(url: &'a str, asked: Conformance<'a>) -> Result<Self, NoBench> {
        let [own, other, stranger] = asked.ids;
        let mapping = asked.mapping;
        let open = |mapping, id| open_store(url, mapping, id);
        let (store, neighbour, stranger) = (open(&mapping, own)?, open(&asked.neighbour, other)?, open(&mapping, stranger)?);
        let wires = match ProtocolStore::of_url(url, &mapping, own)? {
            Some(driver) => {
                Some(Wires { own: Wire::new(url, &mapping, own)?, neighbour: Wire::new(url, &asked.neighbour, other)?, driver })
            }
            None => None,
        };
        let described = store.describe().await?;
        let columns = store.columns().await?;
        let beside = neighbour.describe().await?;
        let unusable = |why: String| NoBench::Unusable(PortError::Permanent(format!("test {}: {why}", described.resource)));
        let one = described.plane_column.is_none() || described.plane_value == beside.plane_value;
        if described.resource == beside.resource && one {
            return Err(unusable("the scratch plane and its neighbour are the same".into()));
        }
        let readable = |error| match error {
            PortError::Permanent(said) => NoBench::Broken(said),
            other => NoBench::Unusable(other),
        };
        let now = by_key(read(&*store, ALL).await.map_err(readable)?);
        let neighbours = by_key(read(&*neighbour, ALL).await.map_err(readable)?);
        if now.len() < RECORDS_MIN || neighbours.is_empty() {
            return Err(unusable(format!(
                "the scratch plane has {} record(s) and its neighbour {}; fill them with at least {RECORDS_MIN} and 1",
                now.len(),
                neighbours.len()
            )));
        }
        let told = |resource: &str, plane: Option<String>| Told { resource: resource.into(), plane: plane.unwrap_or_default() };
        // Where each plane owns a resource of its own, a key in both is no question.
        let shared = |key: &&Key| described.resource == beside.resource && now.contains_key(key);
        Ok(Self {
            shared: neighbours.keys().filter(shared).count(),
            known: now.values().step_by(now.len().div_ceil(SAMPLES)).map(|(record, _)| record.clone()).collect(),
            embedding: columns.iter().position(|column| Some(&column.name) == mapping.embedding.as_ref()),
            told: told(&described.resource, described.plane_value),
            beside: told(&beside.resource, beside.plane_value),
            unfenced: described.unfenced.into_iter().collect(),
            store,
            neighbour,
            stranger,
            wires,
            url,
            mapping,
            now,
            neighbours,
            users: asked.users,
            written: 0,
            ids: asked.ids,
            epoch: 10,
            mint: asked.mint,
            promises: Vec::new(),
        })
    }

    pub(super) fn note(&mut self, promise: &'static str, said: Said) {
        let (result, said) = match said {
            Ok(Seen::Kept(said)) => (Kept::Kept, said),
            Ok(Seen::Declared(said)) => (Kept::Declared, said),
            Ok(Seen::NotAsked(said)) => (Kept::NotAsked, said.into()),
            Err(said) => (Kept::Broken, said),
        };
        self.promises.push(Promise { promise, result, said });
    }

    pub(super) fn permit(&self, plane: Uuid, epoch: i64) -> Result<Permit, String> {
        let digests: Vec<u8> = self.now.values().flat_map(|(_, digest)| digest.0).collect();
        (self.mint)(plane, epoch, canonical::sha256(&digests)).map_err(|refusal| refusal.message)
    }

    pub(super) async fn is_unchanged(&self) -> Result<(), String> {
        same(&self.now, &by_key(read_all(&*self.store).await?))?;
        self.counts(self.now.len()).await
    }

    pub(super) async fn counts(&self, expected: usize) -> Result<(), String> {
        let counted = self.store.count().await.map_err(failed)?;
        ensure(counted == expected as u64, || format!("it counts {counted} record(s), and {expected} are there"))
    }

    /// That the neighbour is as it was; answers its records.
    pub(super) async fn neighbour_stays(&self) -> Result<usize, String> {
        let found = by_key(read_all(&*self.neighbour).await?);
        same(&self.neighbours, &found).map_err(|said| format!("of the neighbour's, {said}"))?;
        let counted = self.neighbour.count().await.map_err(failed)?;
        ensure(counted == found.len() as u64, || {
            format!("it counts {counted} of the neighbour's, and {} are there", found.len())
        })?;
        Ok(found.len())
    }

    pub(super) async fn erase(&self, epoch: i64, rows: &[(Key, RecordDigest)]) -> Result<Erased, String> {
        let permit = self.permit(self.ids[0], epoch)?;
        let mut sum = Erased::default();
        for batch in rows.chunks(BATCH) {
            sum += self.store.erase(&permit, batch, None).await.map_err(failed)?;
        }
        Ok(sum)
    }

    /// Deletes lines of a server's at the versions that they show.
    pub(super) async fn delete(&self, wires: &Wires, lines: &[(&Key, &Line)]) -> Result<Erased, String> {
        let rows: Vec<_> = lines.iter().map(|(key, line)| ((*key).clone(), line.version.clone())).collect();
        wires.driver.delete(&self.permit(self.ids[0], self.epoch)?, &rows).await.map_err(failed)
    }

    pub(super) fn named(&self, keep: impl Fn(usize) -> bool) -> Vec<(Key, RecordDigest)> {
        let each = self.now.iter().enumerate().filter(|(index, _)| keep(*index));
        each.map(|(_, (key, (_, digest)))| (key.clone(), *digest)).collect()
    }

    pub(super) async fn fence(&mut self, mode: FenceMode) -> Result<FenceMode, String> {
        self.epoch += 1;
        let report = self.store.fence(mode, self.epoch).await.map_err(failed)?;
        self.unfenced.extend(report.unfenced);
        Ok(report.mode)
    }

    pub(super) async fn unfence(&mut self) -> Result<(), String> {
        self.epoch += 1;
        self.store.unfence(self.epoch).await.map_err(failed)
    }

    /// Has a user write into a plane. Answers whether they could; then the record must have come, whole and alone.
    async fn user_writes(&mut self, neighbour: bool) -> Result<Option<bool>, String> {
        self.written += 1;
        let marker = marker(self.written);
        let (told, store) = if neighbour { (&self.beside, &self.neighbour) } else { (&self.told, &self.store) };
        let may = self.users.write(told, &marker).await.map_err(failed)?;
        if may != Some(true) {
            return Ok(may);
        }
        let found = by_key(read_all(&**store).await?);
        let held = if neighbour { &mut self.neighbours } else { &mut self.now };
        // What is wrong with the write is said once: from now on the plane is as it is found.
        let before = std::mem::replace(held, found);
        let (old, new): (Records, Records) = held.clone().into_iter().partition(|(key, _)| before.contains_key(key));
        ensure(!new.is_empty(), || {
            "the command that writes ended well, and no record came to the plane of $LETHE_CONFORM_PLANE".into()
        })?;
        let marked = |(record, _): &(Record, RecordDigest)| record.values.iter().any(|value| holds(value, &marker));
        ensure(new.values().any(marked), || {
            "the record that came holds the words of $LETHE_CONFORM_MARKER nowhere, as they were written".into()
        })?;
        same(&before, &old)?;
        Ok(may)
    }

    /// What users of the scratch plane may do, against what they should.
    pub(super) async fn users_may(&mut self, write: bool, read: bool) -> Said {
        let reads = self.users.read(&self.told).await.map_err(failed)?;
        let writes = self.user_writes(false).await?;
        if writes != Some(true) {
            self.is_unchanged().await?;
        }
        self.judged([("read", read, reads), ("write", write, writes)])
    }

    /// That the neighbour's users may do everything.
    pub(super) async fn neighbours_may(&mut self) -> Said {
        let reads = self.users.read(&self.beside).await.map_err(failed)?;
        let writes = self.user_writes(true).await?;
        self.judged([("read", true, reads), ("write", true, writes)])
    }

    /// Of each verb, whether users should be let and whether they were. What a store declares excuses nothing but too much freedom.
    fn judged(&self, asked: [(&str, bool, Option<bool>); 2]) -> Said {
        let words = |(verb, _, was): &(&str, bool, Option<bool>)| {
            was.map(|was| format!("users {} {verb}", if was { "can" } else { "cannot" }))
        };
        let said = asked.iter().filter_map(words).collect::<Vec<_>>().join(", ");
        let any = |should: bool, was: bool| asked.iter().any(|one| one.1 == should && one.2 == Some(was));
        match any(false, true) {
            _ if said.is_empty() => Ok(Seen::NotAsked("without --write-command and --read-command")),
            _ if any(true, false) => Err(said),
            true if self.unfenced.is_empty() => Err(said),
            true => Ok(Seen::Declared(format!("{said}; the store declares what its fence does not refuse"))),
            false => kept(said),
        }
    }
}

pub(super) async fn read_all(store: &dyn KnowledgeStore) -> Result<Vec<Record>, String> {
    read(store, ALL).await.map_err(failed)
}
