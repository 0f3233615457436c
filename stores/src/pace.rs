//! Pace: how many records a second Lethe may read from a store or erase in it, so that those whose planes stay there notice little.
//!
//! The rule: nothing is refused and nothing is cut short; a page or a batch waits until those before it are paid for. It is held by each
//! process for itself. If we die waiting, nothing had begun.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use lethe_stages::{
    Permit,
    lifecycle::FenceMode,
    ports::{Description, EmptinessProof, Erased, FenceReport, KnowledgeStore, PageLimit, PortError, Recurrence},
    record::{Column, Key, Known, Record, RecordDigest, Salt},
};
use serde_json::Value as Json;

/// What one process may do in one store, shared by all that it has open there.
#[derive(Debug)]
struct Pace {
    rows_per_second_max: u32,
    free_at: Mutex<Instant>,
}

impl Pace {
    fn new(rows_per_second_max: u32, now: Instant) -> Self {
        Self { rows_per_second_max, free_at: Mutex::new(now) }
    }

    /// How long until everything before is paid for.
    fn wait(&self, now: Instant) -> Option<Duration> {
        let free_at = *self.free_at.lock().unwrap_or_else(PoisonError::into_inner);
        free_at.checked_duration_since(now).filter(|wait| !wait.is_zero())
    }

    /// `rows` records were read or erased.
    fn charge(&self, rows: usize, now: Instant) {
        let mut free_at = self.free_at.lock().unwrap_or_else(PoisonError::into_inner);
        let cost = Duration::from_secs_f64(rows as f64 / f64::from(self.rows_per_second_max));
        *free_at = (*free_at).max(now) + cost;
    }

    async fn turn(&self) {
        // Again and again: somebody else may have come first.
        while let Some(wait) = self.wait(Instant::now()) {
            tokio::time::sleep(wait).await;
        }
    }
}

/// The paces of a process, by the store's registered name.
#[derive(Debug, Default)]
pub struct Paces {
    standard: u32,
    by_store: HashMap<String, u32>,
    paces: Mutex<HashMap<String, Arc<Pace>>>,
}

impl Paces {
    /// So many records a second in a store that is not named, and in those that are; 0 is no limit.
    pub fn new(standard: u32, by_store: HashMap<String, u32>) -> Self {
        Self { standard, by_store, paces: Mutex::default() }
    }

    /// The same store, at the pace of the one that is registered under this name.
    pub fn apply(&self, name: &str, store: Arc<dyn KnowledgeStore>) -> Arc<dyn KnowledgeStore> {
        match self.pace(name) {
            Some(pace) => Arc::new(Paced { store, pace }),
            None => store,
        }
    }

    fn pace(&self, name: &str) -> Option<Arc<Pace>> {
        let rows_per_second_max = self.by_store.get(name).copied().unwrap_or(self.standard);
        let mut paces = self.paces.lock().unwrap_or_else(PoisonError::into_inner);
        let begin = || Arc::new(Pace::new(rows_per_second_max, Instant::now()));
        (rows_per_second_max > 0).then(|| paces.entry(name.to_owned()).or_insert_with(begin).clone())
    }
}

struct Paced {
    store: Arc<dyn KnowledgeStore>,
    pace: Arc<Pace>,
}

#[async_trait]
impl KnowledgeStore for Paced {
    async fn page(&self, after: Option<&Key>, limit: PageLimit) -> Result<Vec<Record>, PortError> {
        self.pace.turn().await;
        let records = self.store.page(after, limit).await?;
        self.pace.charge(records.len(), Instant::now());
        Ok(records)
    }

    async fn erase(&self, permit: &Permit, rows: &[(Key, RecordDigest)], salt: Option<&Salt>) -> Result<Erased, PortError> {
        self.pace.turn().await;
        let erased = self.store.erase(permit, rows, salt).await;
        self.pace.charge(rows.len(), Instant::now());
        erased
    }

    async fn state(&self) -> Result<Option<String>, PortError> {
        self.store.state().await
    }

    // One statement, whatever it removes: there is nothing to spread.
    async fn erase_whole(&self, permit: &Permit, state: &str) -> Result<Option<u64>, PortError> {
        self.store.erase_whole(permit, state).await
    }

    async fn describe(&self) -> Result<Description, PortError> {
        self.store.describe().await
    }

    async fn columns(&self) -> Result<Vec<Column>, PortError> {
        self.store.columns().await
    }

    async fn count(&self) -> Result<u64, PortError> {
        self.store.count().await
    }

    async fn fence(&self, mode: FenceMode, epoch: i64) -> Result<FenceReport, PortError> {
        self.store.fence(mode, epoch).await
    }

    async fn unfence(&self, epoch: i64) -> Result<(), PortError> {
        self.store.unfence(epoch).await
    }

    async fn refence(&self, mode: FenceMode, epoch: i64) -> Result<(), PortError> {
        self.store.refence(mode, epoch).await
    }

    async fn scrub(&self, permit: &Permit) -> Result<Json, PortError> {
        self.store.scrub(permit).await
    }

    async fn prove_empty(&self, samples: &[Record]) -> Result<EmptinessProof, PortError> {
        self.store.prove_empty(samples).await
    }

    async fn look_again(&self, known: &[Known], salt: &Salt) -> Result<Recurrence, PortError> {
        self.store.look_again(known, salt).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_read_is_paid_for_before_the_next_is() {
        let began = Instant::now();
        let at = |milliseconds| began + Duration::from_millis(milliseconds);
        let pace = Pace::new(100, began);
        assert_eq!(pace.wait(began), None, "the first waits for nobody");
        pace.charge(250, began);
        assert_eq!(pace.wait(at(500)), Some(Duration::from_millis(2000)));
        assert_eq!(pace.wait(at(2500)), None);
        // Two that came at the same time share it.
        pace.charge(100, at(2500));
        pace.charge(100, at(2500));
        assert_eq!(pace.wait(at(2500)), Some(Duration::from_millis(2000)));
        pace.charge(100, at(60_000));
        assert_eq!(pace.wait(at(60_000)), Some(Duration::from_millis(1000)), "time in which nothing was done is not saved up");
    }

    #[test]
    fn a_store_has_the_standard_pace_unless_its_own_is_named() {
        let paces = Paces::new(100, HashMap::from([("busy".into(), 7), ("own".into(), 0)]));
        let of = |name: &str| paces.pace(name).map(|pace| pace.rows_per_second_max);
        assert_eq!((of("busy"), of("own"), of("other")), (Some(7), None, Some(100)));
        assert!(Arc::ptr_eq(&paces.pace("busy").unwrap(), &paces.pace("busy").unwrap()), "all that is open there shares it");
    }
}
