//! The real world with faults between a handler and it: the k-th port call fails, before or after it was done.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use lethe_ledger::{Binding, Plane};
use lethe_stages::{
    Permit,
    lifecycle::FenceMode,
    manifest::Part,
    ports::{
        Archive, Description, EmptinessProof, Erased, FenceReport, KnowledgeStore, PageLimit, PartContents, PartDraft, PortError,
        Recurrence,
    },
    record::{Column, Key, Known, Record, RecordDigest, Salt},
    suspension::Dependent,
};
use lethe_stores::{ArchiveCheck, ArchiveKey, Mapping, StoreCheck};
use lethe_worker::world::World;
use serde_json::Value as Json;
use uuid::Uuid;

/// How a port call fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failing {
    /// It fails and was not done.
    NotDone,
    /// It fails and was done all the same.
    Done,
    /// The driver panics.
    Panics,
}

/// A verb, how many more calls of it until something happens, and what.
type Awaited = (&'static str, u64, Box<dyn FnOnce() + Send>);

/// Which calls fail, and what was called.
#[derive(Default)]
pub struct Plan {
    calls: AtomicU64,
    fail: Mutex<Option<(u64, Failing, PortError)>>,
    log: Mutex<Vec<&'static str>>,
    /// What happens at the n-th call of a verb from now, before it.
    hook: Mutex<Option<Awaited>>,
    /// The next part is written without its last record, and said to be whole.
    lie: AtomicBool,
    /// Stores say that they refuse writes only, whatever they are asked.
    half_closed: AtomicBool,
}

impl Plan {
    async fn through<T>(&self, verb: &'static str, call: impl Future<Output = Result<T, PortError>>) -> Result<T, PortError> {
        let number = self.calls.fetch_add(1, Ordering::SeqCst);
        self.log.lock().unwrap().push(verb);
        self.happen(verb);
        let fault = self.fail.lock().unwrap().clone().filter(|(at, ..)| *at == number);
        match fault {
            None => call.await,
            Some((_, Failing::NotDone, error)) => Err(error),
            Some((_, Failing::Done, error)) => {
                call.await?;
                Err(error)
            }
            Some((_, Failing::Panics, _)) => panic!("the driver panics in {verb}"),
        }
    }
}

impl Plan {
    fn happen(&self, verb: &str) {
        let mut hook = self.hook.lock().unwrap();
        if let Some((_, left, _)) = hook.as_mut().filter(|(awaited, ..)| *awaited == verb) {
            *left -= 1;
            if *left == 0
                && let Some((.., happens)) = hook.take()
            {
                happens();
            }
        }
    }
}

/// A world over another one, with a plan of faults.
pub struct FaultyWorld {
    inner: Box<dyn World>,
    pub plan: Arc<Plan>,
}

impl FaultyWorld {
    pub fn over(inner: impl World + 'static) -> Self {
        Self { inner: Box::new(inner), plan: Arc::default() }
    }

    /// Lets port call `number` (from now, from 0) fail once in this way, as a transient fault.
    pub fn fail(&self, number: u64, failing: Failing) {
        self.fail_with(number, failing, PortError::Transient("injected".into()));
    }

    /// Lets port call `number` (from now, from 0) fail once with an error of the test's choice.
    pub fn fail_with(&self, number: u64, failing: Failing, error: PortError) {
        let at = self.plan.calls.load(Ordering::SeqCst) + number;
        *self.plan.fail.lock().unwrap() = Some((at, failing, error));
    }

    /// Lets something happen right before the n-th call of a verb from now, from 1.
    pub fn on_call(&self, verb: &'static str, number: u64, happens: impl FnOnce() + Send + 'static) {
        *self.plan.hook.lock().unwrap() = Some((verb, number, Box::new(happens)));
    }

    /// Lets the n-th call of a verb from now, from 1, fail as a transient fault before it is done.
    pub fn fail_at(&self, verb: &'static str, number: u64) {
        let plan = self.plan.clone();
        self.on_call(verb, number, move || {
            let this = plan.calls.load(Ordering::SeqCst) - 1;
            *plan.fail.lock().unwrap() = Some((this, Failing::NotDone, PortError::Transient("injected".into())));
        });
    }

    /// Lets the archive lose a record of the next part and say that it did not.
    pub fn lie(&self) {
        self.plan.lie.store(true, Ordering::SeqCst);
    }

    /// Lets stores say, or no longer, that they refuse writes only, whatever they are asked.
    pub fn half_close(&self, so: bool) {
        self.plan.half_closed.store(so, Ordering::SeqCst);
    }

    /// Every port call so far, by verb.
    pub fn calls(&self) -> Vec<&'static str> {
        self.plan.log.lock().unwrap().clone()
    }
}

#[async_trait]
impl World for FaultyWorld {
    fn shelf(&self, url: &str) -> Result<lethe_stores::Shelf, PortError> {
        self.inner.shelf(url)
    }

    async fn check_store(&self, url: &str) -> Result<StoreCheck, PortError> {
        self.inner.check_store(url).await
    }
    async fn describe(&self, url: &str, mapping: &Mapping) -> Result<Description, PortError> {
        self.inner.describe(url, mapping).await
    }
    async fn prepare_archive(&self, url: &str, new_id: Uuid) -> Result<(String, Uuid), PortError> {
        self.inner.prepare_archive(url, new_id).await
    }
    async fn check_archive(&self, url: &str) -> Result<ArchiveCheck, PortError> {
        self.inner.check_archive(url).await
    }
    async fn read_mark(&self, url: &str, archive_id: Uuid, ledger_id: Uuid) -> Result<Option<Vec<u8>>, PortError> {
        self.inner.read_mark(url, archive_id, ledger_id).await
    }
    async fn write_mark(&self, url: &str, archive_id: Uuid, ledger_id: Uuid, bytes: Vec<u8>) -> Result<(), PortError> {
        self.inner.write_mark(url, archive_id, ledger_id, bytes).await
    }
    fn store(&self, plane: Uuid, binding: &Binding) -> Result<Arc<dyn KnowledgeStore>, PortError> {
        Ok(Arc::new(FaultyStore { inner: self.inner.store(plane, binding)?, plan: self.plan.clone() }))
    }
    fn dependent(&self, control: &str, told: Vec<(&'static str, String)>) -> Result<Arc<dyn Dependent>, PortError> {
        Ok(Arc::new(FaultyDependent { inner: self.inner.dependent(control, told)?, plan: self.plan.clone() }))
    }
    fn archive(&self, plane: &Plane, key: Option<ArchiveKey>, at: DateTime<Utc>) -> Result<Arc<dyn Archive>, PortError> {
        Ok(Arc::new(FaultyArchive { inner: self.inner.archive(plane, key, at)?, plan: self.plan.clone() }))
    }
}

struct FaultyDependent {
    inner: Arc<dyn Dependent>,
    plan: Arc<Plan>,
}

#[async_trait]
impl Dependent for FaultyDependent {
    async fn state(&self) -> Result<String, PortError> {
        self.plan.through("dependent.state", self.inner.state()).await
    }
    fn is_running(&self, state: &str) -> bool {
        self.inner.is_running(state)
    }
    async fn suspend(&self) -> Result<(), PortError> {
        self.plan.through("dependent.suspend", self.inner.suspend()).await
    }
    async fn resume(&self) -> Result<(), PortError> {
        self.plan.through("dependent.resume", self.inner.resume()).await
    }
}

struct FaultyStore {
    inner: Arc<dyn KnowledgeStore>,
    plan: Arc<Plan>,
}

#[async_trait]
impl KnowledgeStore for FaultyStore {
    async fn describe(&self) -> Result<Description, PortError> {
        self.plan.through("store.describe", self.inner.describe()).await
    }
    async fn columns(&self) -> Result<Vec<Column>, PortError> {
        self.plan.through("store.columns", self.inner.columns()).await
    }
    async fn count(&self) -> Result<u64, PortError> {
        self.plan.through("store.count", self.inner.count()).await
    }
    async fn page(&self, after: Option<&Key>, limit: PageLimit) -> Result<Vec<Record>, PortError> {
        self.plan.through("store.page", self.inner.page(after, limit)).await
    }
    async fn fence(&self, mode: FenceMode, epoch: i64) -> Result<FenceReport, PortError> {
        let mut report = self.plan.through("store.fence", self.inner.fence(mode, epoch)).await?;
        if self.plan.half_closed.load(Ordering::SeqCst) {
            report.mode = FenceMode::ReadOnly;
        }
        Ok(report)
    }
    async fn unfence(&self, epoch: i64) -> Result<(), PortError> {
        self.plan.through("store.unfence", self.inner.unfence(epoch)).await
    }
    async fn refence(&self, mode: FenceMode, epoch: i64) -> Result<(), PortError> {
        self.plan.through("store.refence", self.inner.refence(mode, epoch)).await
    }
    async fn erase(&self, permit: &Permit, rows: &[(Key, RecordDigest)], salt: Option<&Salt>) -> Result<Erased, PortError> {
        self.plan.through("store.erase", self.inner.erase(permit, rows, salt)).await
    }
    async fn state(&self) -> Result<Option<String>, PortError> {
        self.plan.through("store.state", self.inner.state()).await
    }
    async fn erase_whole(&self, permit: &Permit, state: &str) -> Result<Option<u64>, PortError> {
        self.plan.through("store.erase_whole", self.inner.erase_whole(permit, state)).await
    }
    async fn scrub(&self, permit: &Permit) -> Result<Json, PortError> {
        self.plan.through("store.scrub", self.inner.scrub(permit)).await
    }
    async fn prove_empty(&self, samples: &[Record]) -> Result<EmptinessProof, PortError> {
        self.plan.through("store.prove_empty", self.inner.prove_empty(samples)).await
    }
    async fn look_again(&self, known: &[Known], salt: &Salt) -> Result<Recurrence, PortError> {
        self.plan.through("store.look_again", self.inner.look_again(known, salt)).await
    }
}

struct FaultyArchive {
    inner: Arc<dyn Archive>,
    plan: Arc<Plan>,
}

#[async_trait]
impl Archive for FaultyArchive {
    fn prefix(&self) -> String {
        self.inner.prefix()
    }
    fn encryption(&self) -> String {
        self.inner.encryption()
    }
    async fn probe(&self) -> Result<String, PortError> {
        self.plan.through("archive.probe", self.inner.probe()).await
    }
    async fn write_part(&self, draft: PartDraft<'_>) -> Result<Part, PortError> {
        if !self.plan.lie.swap(false, Ordering::SeqCst) {
            return self.plan.through("archive.write_part", self.inner.write_part(draft)).await;
        }
        let rows = draft.digests.len();
        let (records, digests) = (&draft.records[..rows - 1], &draft.digests[..rows - 1]);
        let part = self.inner.write_part(PartDraft { records, digests, ..draft }).await?;
        Ok(Part { rows: rows as u64, last_key: draft.records.last().map(|record| record.key.clone()), ..part })
    }
    async fn read_part(&self, key: &str, columns: &[Column]) -> Result<Option<PartContents>, PortError> {
        self.plan.through("archive.read_part", self.inner.read_part(key, columns)).await
    }
    async fn put(&self, key: &str, bytes: &[u8]) -> Result<(), PortError> {
        self.plan.through("archive.put", self.inner.put(key, bytes)).await
    }
    async fn get(&self, key: &str) -> Result<Option<Vec<u8>>, PortError> {
        self.plan.through("archive.get", self.inner.get(key)).await
    }
    async fn list(&self) -> Result<Vec<String>, PortError> {
        self.plan.through("archive.list", self.inner.list()).await
    }
    async fn may_delete(&self, permit: &Permit) -> Result<(), PortError> {
        self.plan.through("archive.may_delete", self.inner.may_delete(permit)).await
    }
    async fn delete(&self, permit: &Permit, keys: &[String]) -> Result<(), PortError> {
        self.plan.through("archive.delete", self.inner.delete(permit, keys)).await
    }
    async fn close(&self, permit: &Permit) -> Result<(), PortError> {
        self.plan.through("archive.close", self.inner.close(permit)).await
    }
}
