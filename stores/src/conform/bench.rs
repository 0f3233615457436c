//! The promises, each asked in a function of its own; they build upon each other in the order in which `conform` asks them.

use std::{collections::BTreeMap, sync::Arc};

use lethe_stages::{
    Permit, canonical,
    lifecycle::FenceMode,
    ports::{Erased, FenceSeen, KnowledgeStore, PageLimit, PortError, Recurrence},
    record::{Key, Known, KnownVector, Record, RecordDigest, Salt},
};
use uuid::Uuid;

use super::{Conformance, Kept, Mint, Promise, RECORDS_MIN, Users};
use crate::{open_store, protocol::ProtocolStore};

/// Records of one call to erase.
const BATCH: usize = 500;
/// Records that a probe is asked for.
const SAMPLES: usize = 200;
const ALL: PageLimit = PageLimit { rows_max: 1_000, bytes_max: 8 << 20 };

/// What was seen: in words, or a promise broken, in words.
pub(super) type Said = Result<Seen, String>;

pub(super) enum Seen {
    Kept(String),
    Declared(String),
    NotAsked(&'static str),
}

fn kept(said: impl Into<String>) -> Said {
    Ok(Seen::Kept(said.into()))
}

fn ensure(holds: bool, broken: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(broken()) }
}

fn failed(error: PortError) -> String {
    error.to_string()
}

fn told(erased: &Erased) -> String {
    format!("{} erased, {} absent, {} changed", erased.erased, erased.absent, erased.changed)
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
type Records = BTreeMap<Key, (Record, RecordDigest)>;

pub(super) struct Bench<'a> {
    store: Arc<dyn KnowledgeStore>,
    neighbour: Arc<dyn KnowledgeStore>,
    /// The same scope, under the id of a plane that has no business there.
    stranger: Arc<dyn KnowledgeStore>,
    /// Where versions can be made up.
    protocol: Option<ProtocolStore>,
    /// As the scratch plane must be now.
    now: Records,
    neighbours: Records,
    known: Vec<Record>,
    has_vectors: bool,
    /// The place of the embedding among a record's values.
    embedding: Option<usize>,
    /// Whether the store says that its fence does not refuse everything.
    leaky: bool,
    users: Users,
    plane: String,
    ids: [Uuid; 3],
    epoch: i64,
    mint: Mint<'a>,
    pub(super) promises: Vec<Promise>,
}

async fn read(store: &dyn KnowledgeStore, limit: PageLimit) -> Result<Vec<Record>, PortError> {
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

fn by_key(records: Vec<Record>) -> Records {
    records
        .into_iter()
        .map(|record| {
            let digest = record.digest(None);
            (record.key.clone(), (record, digest))
        })
        .collect()
}

/// Whether two planes hold the same, and else in what they differ.
fn same(before: &Records, after: &Records) -> Result<(), String> {
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
    pub(super) async fn begin(url: &str, asked: Conformance<'a>) -> Result<Self, NoBench> {
        let [own, neighbour, stranger] = asked.ids;
        let mapping = &asked.mapping;
        let open = |mapping, id| open_store(url, mapping, id);
        let (store, neighbour, stranger) = (open(mapping, own)?, open(&asked.neighbour, neighbour)?, open(mapping, stranger)?);
        let described = store.describe().await?;
        let columns = store.columns().await?;
        let embedding = columns.iter().position(|column| Some(&column.name) == mapping.embedding.as_ref());
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
        Ok(Self {
            known: now.values().step_by(now.len().div_ceil(SAMPLES)).map(|(record, _)| record.clone()).collect(),
            has_vectors: mapping.embedding.is_some(),
            embedding,
            protocol: ProtocolStore::of_url(url, mapping, own)?,
            store,
            neighbour,
            stranger,
            now,
            neighbours,
            leaky: !described.unfenced.is_empty(),
            users: asked.users,
            plane: described.plane_value.unwrap_or_default(),
            ids: asked.ids,
            epoch: 10,
            mint: asked.mint,
            promises: Vec::new(),
        })
    }

    pub(super) fn records(&self) -> usize {
        self.now.len()
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

    fn permit(&self, plane: Uuid, epoch: i64) -> Result<Permit, String> {
        let digests: Vec<u8> = self.now.values().flat_map(|(_, digest)| digest.0).collect();
        (self.mint)(plane, epoch, canonical::sha256(&digests)).map_err(|refusal| refusal.message)
    }

    async fn is_unchanged(&self) -> Result<(), String> {
        let found = read(&*self.store, ALL).await.map_err(failed)?;
        same(&self.now, &by_key(found))?;
        self.counts(self.now.len()).await
    }

    async fn counts(&self, expected: usize) -> Result<(), String> {
        let counted = self.store.count().await.map_err(failed)?;
        ensure(counted == expected as u64, || format!("it counts {counted} record(s), and {expected} are there"))
    }

    async fn erase(&self, epoch: i64, rows: &[(Key, RecordDigest)]) -> Result<Erased, String> {
        let permit = self.permit(self.ids[0], epoch)?;
        let mut sum = Erased::default();
        for batch in rows.chunks(BATCH) {
            sum += self.store.erase(&permit, batch, None).await.map_err(failed)?;
        }
        Ok(sum)
    }

    fn named(&self, keep: impl Fn(usize) -> bool) -> Vec<(Key, RecordDigest)> {
        let each = self.now.iter().enumerate().filter(|(index, _)| keep(*index));
        each.map(|(_, (key, (_, digest)))| (key.clone(), *digest)).collect()
    }

    pub(super) async fn describes(&self) -> Said {
        let (one, two) = (self.store.describe().await.map_err(failed)?, self.store.describe().await.map_err(failed)?);
        ensure(serde_json::json!(one) == serde_json::json!(two), || "two descriptions differ".into())?;
        let (one, two) = (self.store.columns().await.map_err(failed)?, self.store.columns().await.map_err(failed)?);
        ensure(one == two, || "the columns differ from one moment to the next".into())?;
        kept(format!("{} column(s)", one.len()))
    }

    pub(super) async fn holds(&self, known: Option<u64>) -> Said {
        self.counts(self.now.len()).await?;
        match known {
            Some(known) if known != self.now.len() as u64 => {
                Err(format!("{known} were put there, and {} are found", self.now.len()))
            }
            Some(known) => kept(format!("{known} record(s)")),
            None => kept(format!("{} record(s); say --records to compare with what you put there", self.now.len())),
        }
    }

    pub(super) async fn pages(&self) -> Said {
        for rows_max in [3, 7, self.now.len() - 1, self.now.len()] {
            let limit = PageLimit { rows_max, bytes_max: ALL.bytes_max };
            let found = read(&*self.store, limit).await.map_err(failed)?;
            same(&self.now, &by_key(found)).map_err(|said| format!("in pages of {rows_max}: {said}"))?;
        }
        self.counts(self.now.len()).await?;
        kept(format!("{} record(s)", self.now.len()))
    }

    pub(super) async fn cursors(&self) -> Said {
        let limit = PageLimit { rows_max: 1, bytes_max: ALL.bytes_max };
        let keys: Vec<_> = self.now.keys().collect();
        let step = keys.len().div_ceil(SAMPLES);
        let last = keys.len() - 1;
        for place in (0..keys.len()).step_by(step).chain([last]) {
            let page = self.store.page(Some(keys[place]), limit).await.map_err(failed)?;
            let next = page.first().map(|record| &record.key);
            ensure(next == keys.get(place + 1).copied(), || {
                format!("after {} comes {}", keys[place], next.map_or("nothing".into(), ToString::to_string))
            })?;
        }
        kept(format!("{} key(s)", keys.len().div_ceil(step)))
    }

    pub(super) async fn small_pages(&self) -> Said {
        let page = self.store.page(None, PageLimit { rows_max: 10, bytes_max: 1 }).await.map_err(failed)?;
        ensure(page.len() == 1, || format!("a page of at most 1 byte has {} record(s)", page.len()))?;
        kept("1 record")
    }

    pub(super) async fn reads_again(&self) -> Said {
        self.is_unchanged().await?;
        kept(format!("{} record(s)", self.now.len()))
    }

    pub(super) async fn proves_nothing_unfenced(&self) -> Said {
        let seen = self.look_again().await?;
        ensure(!seen.fence_stands(), || format!("asked again, it says that a fence stands ({})", seen.fence))?;
        match self.store.prove_empty(&self.known).await {
            Err(PortError::WrongPlace(said)) => kept(said),
            Err(error) => Err(format!("it should say that this is the wrong place, and says: {error}")),
            Ok(_) => Err("it proves, where it was never fenced".into()),
        }
    }

    async fn fence(&mut self, mode: FenceMode) -> Result<FenceMode, String> {
        self.epoch += 1;
        let report = self.store.fence(mode, self.epoch).await.map_err(failed)?;
        self.leaky |= !report.unfenced.is_empty();
        Ok(report.mode)
    }

    /// What users may do, against what they should; `None` where it is not to be asked.
    async fn users_may(&mut self, write: Option<bool>, read: Option<bool>) -> Said {
        let reads = match read {
            Some(_) => self.users.read(&self.plane).await.map_err(failed)?,
            None => None,
        };
        let writes = match write {
            Some(_) => self.users.write(&self.plane).await.map_err(failed)?,
            None => None,
        };
        if writes == Some(true) {
            let found = by_key(read_all(&*self.store).await?);
            ensure(found.len() > self.now.len(), || "the command that writes ended well, and no record came".into())?;
            let before: Records =
                found.iter().filter(|(key, _)| self.now.contains_key(key)).map(|(key, one)| (key.clone(), one.clone())).collect();
            same(&self.now, &before)?;
            self.now = found;
        } else {
            self.is_unchanged().await?;
        }
        let wrong = |asked: Option<bool>, may: Option<bool>| may.is_some() && asked.is_some() && asked != may;
        let words = |verb, may: Option<bool>| may.map(|may| format!("users {} {verb}", if may { "can" } else { "cannot" }));
        let said: Vec<_> = [words("read", reads), words("write", writes)].into_iter().flatten().collect();
        match wrong(read, reads) || wrong(write, writes) {
            true if self.leaky && write != Some(true) => {
                Ok(Seen::Declared(format!("{}, and the store says so itself", said.join(", "))))
            }
            true => Err(said.join(", ")),
            false if said.is_empty() => Ok(Seen::NotAsked("without --write-command and --read-command")),
            false => kept(said.join(", ")),
        }
    }

    pub(super) async fn read_only(&mut self) -> Said {
        let mode = self.fence(FenceMode::ReadOnly).await?;
        ensure(mode == FenceMode::ReadOnly, || format!("it says that it is {}", mode.as_str()))?;
        self.users_may(Some(false), Some(true)).await
    }

    pub(super) async fn closed(&mut self) -> Said {
        let mode = self.fence(FenceMode::Closed).await?;
        ensure(mode == FenceMode::Closed, || format!("it says that it is {}", mode.as_str()))?;
        self.users_may(Some(false), Some(false)).await
    }

    pub(super) async fn closes_further_only(&mut self) -> Said {
        let mode = self.fence(FenceMode::ReadOnly).await?;
        ensure(mode == FenceMode::Closed, || format!("it was closed, and is {} now", mode.as_str()))?;
        kept("still closed")
    }

    pub(super) async fn refuses_old_epochs(&mut self) -> Said {
        for verb in ["fence", "unfence"] {
            let old = self.epoch - 1;
            let done = match verb {
                "fence" => self.store.fence(FenceMode::Closed, old).await.map(drop),
                _ => self.store.unfence(old).await,
            };
            match done {
                Err(PortError::StaleEpoch { .. }) => {}
                Err(error) => return Err(format!("{verb} should refuse an old epoch as such, and says: {error}")),
                Ok(()) => return Err(format!("{verb} takes epoch {old} after {}", self.epoch)),
            }
        }
        kept(format!("{} after {}", self.epoch - 1, self.epoch))
    }

    pub(super) async fn refuses_strangers(&mut self) -> Said {
        self.epoch += 1;
        match self.stranger.fence(FenceMode::Closed, self.epoch).await {
            Err(PortError::WrongPlace(said)) => kept(said),
            Err(error) => Err(format!("it should say that this is the wrong place, and says: {error}")),
            Ok(_) => Err("another plane fences the same records".into()),
        }
    }

    pub(super) async fn probe_finds(&mut self) -> Said {
        let proof = self.store.prove_empty(&self.known).await.map_err(failed)?;
        let (there, known) = (self.now.len() as u64, self.known.len() as u64);
        ensure(proof.remaining == there, || format!("it counts {}, and {there} are there", proof.remaining))?;
        ensure(proof.keys_found == known && proof.keys_probed == known, || {
            format!("of {known} known records it looked for {} and found {}", proof.keys_probed, proof.keys_found)
        })?;
        ensure(proof.vectors_found == proof.vectors_probed && (proof.vectors_probed > 0) == self.has_vectors, || {
            format!("it looked for {} known vectors and found {}", proof.vectors_probed, proof.vectors_found)
        })?;
        let seen = self.look_again().await?;
        ensure(seen.remaining == there && seen.keys_found == known && seen.keys_probed == known, || {
            format!("asked by digests, it counts {} and finds {} of {known}", seen.remaining, seen.keys_found)
        })?;
        ensure(seen.vectors_found == seen.vectors_probed && (seen.vectors_probed > 0) == self.has_vectors, || {
            format!("asked by digests, it looked for {} known vectors and found {}", seen.vectors_probed, seen.vectors_found)
        })?;
        ensure(seen.fence != FenceSeen::Purged, || "it says that the plane was purged, and it was not".into())?;
        kept(format!("{known} record(s), {} vector(s)", proof.vectors_found))
    }

    /// What a probe asks after a purge: by keys and digests, and by vectors.
    async fn look_again(&self) -> Result<Recurrence, String> {
        let salt = Salt([9; 32]);
        let vector = |record: &Record| self.embedding.and_then(|column| KnownVector::of(&record.values[column]));
        let known =
            |record: &Record| Known { key: record.key.clone(), digest: record.digest(Some(&salt)), vector: vector(record) };
        let known: Vec<_> = self.known.iter().map(known).collect();
        self.store.look_again(&known, &salt).await.map_err(failed)
    }

    pub(super) async fn opened(&mut self) -> Said {
        self.epoch += 1;
        self.store.unfence(self.epoch).await.map_err(failed)?;
        self.store.unfence(self.epoch).await.map_err(failed)?;
        let users = self.users_may(Some(true), Some(true)).await;
        self.fence(FenceMode::Closed).await?;
        users
    }

    pub(super) async fn refuses_others_permits(&mut self) -> Said {
        let permit = self.permit(self.ids[2], self.epoch)?;
        for verb in ["erase", "scrub"] {
            let done = match verb {
                "erase" => self.store.erase(&permit, &self.named(|_| true), None).await.map(drop),
                _ => self.store.scrub(&permit).await.map(drop),
            };
            ensure(matches!(done, Err(PortError::Permanent(_))), || format!("{verb} takes a permit for another plane"))?;
        }
        self.is_unchanged().await?;
        kept("refused")
    }

    pub(super) async fn refuses_old_permits(&mut self) -> Said {
        let permit = self.permit(self.ids[0], self.epoch - 1)?;
        match self.store.erase(&permit, &self.named(|_| true)[..5], None).await {
            Err(PortError::StaleEpoch { .. }) => {}
            Err(error) => return Err(format!("it should refuse an old epoch as such, and says: {error}")),
            Ok(_) => return Err(format!("it takes epoch {} after {}", self.epoch - 1, self.epoch)),
        }
        self.is_unchanged().await?;
        kept("refused")
    }

    pub(super) async fn erases_nothing_absent(&mut self) -> Said {
        let Some((last, (_, digest))) = self.now.last_key_value() else { return Err("nothing is left".into()) };
        let beyond = match last {
            Key::Integer(number) => Key::Integer(number.saturating_add(1_000_003)),
            Key::Text(text) => Key::Text(format!("{text}-and-beyond")),
            Key::Blob(bytes) => Key::Blob([bytes.as_slice(), b"beyond"].concat()),
        };
        // A key column that cannot hold it (a uuid) says so; keys of records that are gone are asked for later.
        if let Ok(erased) = self.erase(self.epoch, &[(beyond, *digest)]).await {
            ensure((erased.erased, erased.absent, erased.changed) == (0, 1, 0), || format!("it says: {}", told(&erased)))?;
        }
        let empty = self.erase(self.epoch, &[]).await?;
        ensure((empty.erased, empty.absent, empty.changed) == (0, 0, 0), || format!("of nothing it says: {}", told(&empty)))?;
        self.is_unchanged().await?;
        kept("absent")
    }

    pub(super) async fn leaves_changed(&mut self) -> Said {
        let rows: Vec<_> = self
            .named(|index| index < 10)
            .into_iter()
            .map(|(key, digest)| (key, RecordDigest(digest.0.map(|byte| !byte))))
            .collect();
        let erased = self.erase(self.epoch, &rows).await?;
        ensure((erased.erased, erased.absent, erased.changed) == (0, 0, 10), || {
            format!("of 10 that changed it says: {}", told(&erased))
        })?;
        self.is_unchanged().await?;
        if let Some(protocol) = &self.protocol {
            let rows: Vec<_> = rows.into_iter().map(|(key, _)| (key, serde_json::json!("made up"))).collect();
            let went = protocol.delete(&self.permit(self.ids[0], self.epoch)?, &rows).await.map_err(failed)?;
            ensure((went.erased, went.absent, went.changed) == (0, 0, 10), || {
                format!("of 10 at versions that never were it says: {}", told(&went))
            })?;
            self.is_unchanged().await?;
        }
        kept("10 left alone")
    }

    pub(super) async fn erases_some(&mut self) -> Said {
        let rows = self.named(|index| index % 3 == 1);
        let erased = self.erase(self.epoch, &rows).await?;
        ensure((erased.erased, erased.absent, erased.changed) == (rows.len() as u64, 0, 0), || {
            format!("of {} it says: {}", rows.len(), told(&erased))
        })?;
        for (key, _) in &rows {
            self.now.remove(key);
        }
        self.is_unchanged().await?;
        let proof = self.store.prove_empty(&self.known).await.map_err(failed)?;
        let left = self.known.iter().filter(|record| self.now.contains_key(&record.key)).count() as u64;
        ensure(proof.keys_found == left, || {
            format!("a probe finds {} record(s), and {left} of them are left", proof.keys_found)
        })?;
        kept(format!("{} of {}", rows.len(), rows.len() + self.now.len()))
    }

    pub(super) async fn erases_again(&mut self) -> Said {
        let gone: Vec<_> = self
            .known
            .iter()
            .filter(|record| !self.now.contains_key(&record.key))
            .map(|record| (record.key.clone(), record.digest(None)))
            .collect();
        let erased = self.erase(self.epoch, &gone).await?;
        ensure((erased.erased, erased.absent, erased.changed) == (0, gone.len() as u64, 0), || {
            format!("of {} that are gone it says: {}", gone.len(), told(&erased))
        })?;
        self.is_unchanged().await?;
        kept(format!("{} gone", gone.len()))
    }

    pub(super) async fn erases_rest(&mut self) -> Said {
        let rows = self.named(|_| true);
        let erased = self.erase(self.epoch, &rows).await?;
        ensure((erased.erased, erased.absent, erased.changed) == (rows.len() as u64, 0, 0), || {
            format!("of {} it says: {}", rows.len(), told(&erased))
        })?;
        self.now.clear();
        self.is_unchanged().await?;
        kept(format!("{} record(s)", rows.len()))
    }

    pub(super) async fn scrubs(&mut self) -> Said {
        let permit = self.permit(self.ids[0], self.epoch)?;
        let one = self.store.scrub(&permit).await.map_err(failed)?;
        self.store.scrub(&permit).await.map_err(failed)?;
        kept(one.to_string())
    }

    pub(super) async fn probe_finds_nothing(&mut self) -> Said {
        let proof = self.store.prove_empty(&self.known).await.map_err(failed)?;
        ensure(proof.is_empty(), || {
            format!(
                "{} record(s), {} known key(s) and {} known vector(s) are found",
                proof.remaining, proof.keys_found, proof.vectors_found
            )
        })?;
        ensure(proof.keys_probed == self.known.len() as u64 && !proof.canary.is_empty(), || {
            "it does not say that it looked".into()
        })?;
        kept(proof.canary)
    }

    pub(super) async fn purged(&mut self) -> Said {
        let mode = self.fence(FenceMode::Purged).await?;
        ensure(mode == FenceMode::Purged, || format!("it says that it is {}", mode.as_str()))?;
        self.epoch += 1;
        let opened = self.store.unfence(self.epoch).await;
        ensure(opened.is_err(), || "it opens a plane that was purged".into())?;
        let seen = self.look_again().await?;
        ensure(seen.is_clean(), || format!("asked again after the purge, it says: {seen:?}"))?;
        self.users_may(Some(false), None).await
    }

    pub(super) async fn neighbour_is_untouched(&mut self) -> Said {
        let found = by_key(read_all(&*self.neighbour).await?);
        same(&self.neighbours, &found)?;
        let counted = self.neighbour.count().await.map_err(failed)?;
        ensure(counted == found.len() as u64, || format!("it counts {counted}, and {} are there", found.len()))?;
        kept(format!("{} record(s)", found.len()))
    }
}

async fn read_all(store: &dyn KnowledgeStore) -> Result<Vec<Record>, String> {
    read(store, ALL).await.map_err(failed)
}
