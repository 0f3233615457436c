//! A store that cannot be opened from here: a credential's file that is away, a certificate that cannot be read.
//!
//! The rule: it answers every question with why, so that what concerns one store stays that store's. There is nothing to die in.

use std::sync::Arc;

use async_trait::async_trait;
use lethe_stages::{
    Permit,
    lifecycle::FenceMode,
    ports::{Description, EmptinessProof, Erased, FenceReport, KnowledgeStore, PageLimit, PortError, Recurrence},
    record::{Column, Key, Known, Record, RecordDigest, Salt},
};
use serde_json::Value as Json;

pub(super) struct Unopened(PortError);

impl Unopened {
    /// The store of that name, which answered its opening so.
    pub(super) fn store(name: &str, error: PortError) -> Arc<dyn KnowledgeStore> {
        Arc::new(Self(match error {
            PortError::Transient(said) => PortError::Transient(format!("open store {name}: {said}")),
            error => PortError::Permanent(format!("open store {name}: {error}")),
        }))
    }

    fn why<T>(&self) -> Result<T, PortError> {
        Err(self.0.clone())
    }
}

#[async_trait]
impl KnowledgeStore for Unopened {
    async fn describe(&self) -> Result<Description, PortError> {
        self.why()
    }

    async fn columns(&self) -> Result<Vec<Column>, PortError> {
        self.why()
    }

    async fn count(&self) -> Result<u64, PortError> {
        self.why()
    }

    async fn page(&self, _after: Option<&Key>, _limit: PageLimit) -> Result<Vec<Record>, PortError> {
        self.why()
    }

    async fn fence(&self, _mode: FenceMode, _epoch: i64) -> Result<FenceReport, PortError> {
        self.why()
    }

    async fn unfence(&self, _epoch: i64) -> Result<(), PortError> {
        self.why()
    }

    async fn erase(&self, _permit: &Permit, _rows: &[(Key, RecordDigest)], _salt: Option<&Salt>) -> Result<Erased, PortError> {
        self.why()
    }

    async fn scrub(&self, _permit: &Permit) -> Result<Json, PortError> {
        self.why()
    }

    async fn prove_empty(&self, _samples: &[Record]) -> Result<EmptinessProof, PortError> {
        self.why()
    }

    async fn look_again(&self, _known: &[Known], _salt: &Salt) -> Result<Recurrence, PortError> {
        self.why()
    }
}
