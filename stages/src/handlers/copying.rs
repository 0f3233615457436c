//! Copying a store's records into parts. Used by export.
//!
//! The rule: parts are written one after the other, so that those which are there are always the first ones, and each is read back. While
//! that is done with one, the records of the next are read from the store: two parts' records are in memory, however large the plane
//! is. Who fails stops the other one where they hand over, and never in the middle of a write.
//! If we die in it, the next run goes on after the parts that are complete.

use std::future::poll_fn;

use futures::{
    SinkExt, StreamExt,
    channel::mpsc::{Receiver, Sender, channel},
    future::join,
};

use crate::{
    contract::{SOURCE_MOVED, StageContext, StageError},
    crash::{CrashPoint, reached},
    manifest::{Manifest, Part, StoreManifest},
    ports::{BoundStore, PartDraft},
    record::{Column, Key, Record},
};

/// A part of this round, in its turn.
enum Next {
    /// An interrupted run completed it.
    Complete(Part),
    /// Its key and its records.
    Records(String, Vec<Record>),
}

/// The parts of this round.
#[derive(Default)]
struct Copied {
    parts: Vec<Part>,
    /// Whether an interrupted run completed some of them.
    resumed: bool,
}

/// What is copied, and where to.
struct Copying<'a> {
    context: &'a StageContext,
    binding: usize,
    bound: &'a BoundStore,
    /// As the store has them.
    columns: &'a [Column],
    /// Records that the store counted before.
    total: u64,
}

/// Copies what the store holds now into parts of this round, going on after the parts that an interrupted run completed, and reads every
/// part of the store back, those of earlier rounds too.
pub(super) async fn export_store(
    context: &StageContext,
    binding: usize,
    bound: &BoundStore,
) -> Result<StoreManifest, StageError> {
    let doing = |what: &str| format!("{what} {} of store {}", bound.resource, bound.name);
    let store = &bound.store;
    let columns = store.columns().await.map_err(|error| StageError::port(&doing("read the columns"), error))?;
    let state_before = store.state().await.map_err(|error| StageError::port(&doing("look at"), error))?;
    let before = store.count().await.map_err(|error| StageError::port(&doing("count"), error))?;

    let copying = Copying { context, binding, bound, columns: &columns, total: before };
    let (pages, next) = channel(0);
    let (read, written) = join(copying.read(pages), copying.write(next)).await;
    read?;
    let Copied { mut parts, resumed } = written?;

    let exported: u64 = parts.iter().map(|part| part.rows).sum();
    let counted = store.count().await.map_err(|error| StageError::port(&doing("count"), error))?;
    if before != counted || exported != counted {
        return Err(StageError::transient(
            SOURCE_MOVED,
            format!("{}: it held {before} records before, {counted} after, and {exported} were copied", doing("export")),
        ));
    }
    let state_after = store.state().await.map_err(|error| StageError::port(&doing("look at"), error))?;
    // Records that an earlier round evicted stand in its parts only. An inventory evicts nothing, so it starts afresh.
    let earlier = context.manifest.as_ref().filter(|_| !context.is_inventory());
    if let Some(earlier) = earlier.and_then(|manifest| manifest.stores.get(binding)) {
        for part in &earlier.parts {
            copying.verify(part).await?;
        }
        parts.splice(0..0, earlier.parts.iter().cloned());
    }
    let rows = parts.iter().map(|part| part.rows).sum();
    context.progress.report(binding, "verified", rows, rows);
    Ok(StoreManifest {
        binding,
        store: bound.name.clone(),
        resource: bound.resource.clone(),
        source_rows_before: before,
        source_rows_after: counted,
        // Parts of an earlier run were read before the store was looked at: what it is now is not what they hold.
        state: state_after.filter(|after| !resumed && state_before.as_ref() == Some(after)),
        rows,
        bytes: parts.iter().map(|part| part.bytes).sum(),
        parts,
        columns,
    })
}

impl Copying<'_> {
    /// Reads the store to its end, a part's records at a time, and no more before somebody takes those.
    async fn read(&self, mut pages: Sender<Next>) -> Result<(), StageError> {
        let Self { context, bound, .. } = self;
        let mut after: Option<Key> = None;
        for number in 0.. {
            if poll_fn(|cx| pages.poll_ready(cx)).await.is_err() {
                break; // who writes says why
            }
            let key = Manifest::part_key(context.facts.offboarding_id, self.binding, context.run.round, number);
            // An inventory names no keys to go on after, and costs little to take again.
            let complete = if context.is_inventory() { None } else { read_part(context, &key, self.columns).await? };
            let next = if let Some((complete, last)) = complete {
                after = last;
                Next::Complete(complete)
            } else {
                let page = bound.store.page(after.as_ref(), context.limits.part).await;
                let doing = || format!("read {} of store {}", bound.resource, bound.name);
                let records = page.map_err(|error| StageError::port(&doing(), error))?;
                let Some(last) = records.last() else { break };
                after = Some(last.key.clone());
                Next::Records(key, records)
            };
            if pages.send(next).await.is_err() {
                break;
            }
        }
        Ok(())
    }

    /// Writes part after part and reads each back. Answers those that are there now.
    async fn write(&self, mut next: Receiver<Next>) -> Result<Copied, StageError> {
        let mut copied = Copied::default();
        let mut exported = 0;
        let mut verified = Ok(());
        while let Some(next) = next.next().await {
            let part = match next {
                Next::Complete(part) => {
                    copied.resumed = true;
                    part
                }
                Next::Records(key, records) => self.write_part(&key, &records).await?,
            };
            // Everything is written even so: else the next run would go on behind the last record of a part that is not what was written,
            // as if that one were whole.
            if verified.is_ok() {
                verified = self.verify(&part).await;
            }
            exported += part.rows;
            copied.parts.push(part);
            self.context.progress.report(self.binding, "exported", exported, self.total);
        }
        verified.map(|()| copied)
    }

    async fn write_part(&self, key: &str, records: &[Record]) -> Result<Part, StageError> {
        let context = self.context;
        let digests: Vec<_> = records.iter().map(|record| record.digest(context.digest_salt())).collect();
        let draft = if context.is_inventory() {
            PartDraft { key, columns: &[], records: &[], digests: &digests }
        } else {
            PartDraft { key, columns: self.columns, records, digests: &digests }
        };
        let part = context.archive.write_part(draft).await.map_err(|error| StageError::port(&format!("write {key}"), error))?;
        reached(CrashPoint::ExportPartWritten);
        Ok(part)
    }

    /// Reads a part again, from the archive, and compares it with what was recorded when it was written.
    async fn verify(&self, written: &Part) -> Result<(), StageError> {
        let columns = if self.context.is_inventory() { &[] } else { self.columns };
        if read_part(self.context, &written.key, columns).await?.is_some_and(|(part, _)| part == *written) {
            return Ok(());
        }
        Err(StageError::transient("READ_BACK", format!("read {} back: it is not what was written", written.key)))
    }
}

/// Reads a part and recomputes each record's digest from the values that were decoded. Answers the last record's key beside it.
async fn read_part(context: &StageContext, key: &str, columns: &[Column]) -> Result<Option<(Part, Option<Key>)>, StageError> {
    let found = context.archive.read_part(key, columns).await.map_err(|error| StageError::port(&format!("read {key}"), error))?;
    let Some(found) = found else { return Ok(None) };
    if !columns.is_empty() && !found.records.iter().map(|record| record.digest(None)).eq(found.digests.iter().copied()) {
        return Err(StageError::halt(
            "READ_BACK",
            format!("read {key}: a record does not match the digest taken when it was exported"),
        ));
    }
    Ok(Some((found.part, found.records.last().map(|record| record.key.clone()))))
}
