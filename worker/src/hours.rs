//! A store during its hours: what reads or erases it at length stops between two batches when they are over.
//!
//! The rule: a batch that began is finished; what is left waits for the next opening and spends no attempt. If we die in it, so does it.

use std::sync::Arc;

use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use lethe_ledger::{Case, Ledger};
use lethe_stages::{
    Code, Permit, Refusal, Step,
    lifecycle::FenceMode,
    ports::{Description, EmptinessProof, Erased, FenceReport, KnowledgeStore, PageLimit, PortError, Recurrence},
    record::{Column, Key, Known, Record, RecordDigest, Salt},
};
use serde_json::{Value as Json, json};

use crate::config::{Config, StoreConfig};

/// The longest time after which a run that waits for an hour is looked at again: the hours may have been changed.
pub(crate) const LOOK: TimeDelta = TimeDelta::hours(1);
/// How long one waits where two clocks disagree on whether it is open.
pub(crate) const MOMENT: TimeDelta = TimeDelta::seconds(1);
/// Openings that are looked at for an hour at which all of a plane's stores are open.
const OPENINGS: usize = 32;

/// Whether a step reads or erases stores at length.
fn is_long(step: Step) -> bool {
    matches!(step, Step::Export | Step::Evict | Step::Purge)
}

/// Refuses a long step at an hour at which one of the plane's stores is closed.
///
/// # Errors
/// STORE_WINDOW, with the instant at which all of them are open.
pub(crate) fn open(config: &Config, case: &Case, at: DateTime<Utc>) -> Result<(), Refusal> {
    let always = |store: &StoreConfig| store.window.is_always_open();
    if !is_long(case.run.step) || always(&config.store) && config.stores.values().all(always) {
        return Ok(());
    }
    let stores = case.store_names();
    let opens = |at: DateTime<Utc>| stores.iter().map(|name| opening(config, name, at)).max().unwrap_or(at);
    let mut until = at;
    for _ in 0..OPENINGS {
        let next = opens(until);
        if next == until {
            break;
        }
        until = next;
    }
    if until == at {
        return Ok(());
    }
    let closed: Vec<_> = stores.iter().filter(|name| opening(config, name, at) > at).map(String::as_str).collect();
    let mut message = format!("store {} is closed until {}", closed.join(", "), until.to_rfc3339());
    if opens(until) != until {
        message = format!("the windows of stores {} share no hour: change one of them", stores.join(", "));
    }
    Err(Refusal::new(Code::StoreWindow, message).with(json!({"until": until})))
}

fn opening(config: &Config, store: &str, at: DateTime<Utc>) -> DateTime<Utc> {
    let store = config.store(store);
    store.window.opens(store.window_zone, at)
}

/// The store as a long step sees it.
pub(crate) fn within(
    config: &Config,
    ledger: &Ledger,
    step: Step,
    name: &str,
    store: Arc<dyn KnowledgeStore>,
) -> Arc<dyn KnowledgeStore> {
    let hours = config.store(name);
    if !is_long(step) || hours.window.is_always_open() {
        return store;
    }
    // Closed meanwhile: then at once.
    let now = ledger.now();
    let closes_at = hours.window.closes(hours.window_zone, now).unwrap_or(now);
    Arc::new(Open { store, name: name.to_owned(), ledger: ledger.clone(), closes_at })
}

struct Open {
    store: Arc<dyn KnowledgeStore>,
    name: String,
    ledger: Ledger,
    closes_at: DateTime<Utc>,
}

impl Open {
    fn asked(&self) -> Result<(), PortError> {
        match self.ledger.now() < self.closes_at {
            true => Ok(()),
            false => Err(PortError::Closed(format!("the hours of store {} ended at {}", self.name, self.closes_at.to_rfc3339()))),
        }
    }
}

#[async_trait]
impl KnowledgeStore for Open {
    async fn page(&self, after: Option<&Key>, limit: PageLimit) -> Result<Vec<Record>, PortError> {
        self.asked()?;
        self.store.page(after, limit).await
    }

    async fn erase(&self, permit: &Permit, rows: &[(Key, RecordDigest)], salt: Option<&Salt>) -> Result<Erased, PortError> {
        self.asked()?;
        self.store.erase(permit, rows, salt).await
    }

    async fn erase_whole(&self, permit: &Permit, state: &str) -> Result<Option<u64>, PortError> {
        self.asked()?;
        self.store.erase_whole(permit, state).await
    }

    async fn scrub(&self, permit: &Permit) -> Result<Json, PortError> {
        self.asked()?;
        self.store.scrub(permit).await
    }

    async fn state(&self) -> Result<Option<String>, PortError> {
        self.store.state().await
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

    async fn look_again(&self, known: &[Known], salt: &Salt) -> Result<Recurrence, PortError> {
        self.store.look_again(known, salt).await
    }

    async fn prove_empty(&self, samples: &[Record]) -> Result<EmptinessProof, PortError> {
        self.store.prove_empty(samples).await
    }
}
