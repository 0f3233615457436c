//! The way to the world outside: opens the stores and the archive that a plane is bound to.
//!
//! A trait, so that tests can put faults between a handler and a real store.

use std::sync::Arc;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use lethe_ledger::{Binding, Plane};
use lethe_stages::{
    ports::{Archive, Description, KnowledgeStore, PortError},
    suspension::Dependent,
};
use lethe_stores::{ArchiveCheck, ArchiveKey, Archives, Controls, Mapping, Paces, Shelf, StoreCheck};
use uuid::Uuid;

use crate::config::Config;

/// Opens what planes are bound to.
#[async_trait]
pub trait World: Send + Sync {
    /// Checks a store by URL: that it answers, is writable, and what is in it.
    async fn check_store(&self, url: &str) -> Result<StoreCheck, PortError>;

    /// Checks a mapping in a store, without changing anything.
    async fn describe(&self, url: &str, mapping: &Mapping) -> Result<Description, PortError>;

    /// Makes an archive usable and answers its canonical URL and its canary.
    async fn prepare_archive(&self, url: &str, new_id: Uuid) -> Result<(String, Uuid), PortError>;

    /// Says what is known of an archive, without changing anything.
    async fn check_archive(&self, url: &str) -> Result<ArchiveCheck, PortError>;

    /// The mark that a ledger left beside an archive.
    async fn read_mark(&self, url: &str, archive_id: Uuid, ledger_id: Uuid) -> Result<Option<Vec<u8>>, PortError>;

    /// Where something is published.
    fn shelf(&self, url: &str) -> Result<Shelf, PortError>;

    /// Replaces it.
    async fn write_mark(&self, url: &str, archive_id: Uuid, ledger_id: Uuid, bytes: Vec<u8>) -> Result<(), PortError>;

    /// Opens one binding of a plane.
    fn store(&self, plane: Uuid, binding: &Binding) -> Result<Arc<dyn KnowledgeStore>, PortError>;

    /// What controls something that depends on a plane: the section of this name of this process's configuration. `told` is what its
    /// commands find in their environment.
    fn dependent(&self, control: &str, told: Vec<(&'static str, String)>) -> Result<Arc<dyn Dependent>, PortError>;

    /// Opens the plane's archive, whose parts are encrypted under `key`, if there is one. `at` is now: what it locks, it locks from then on.
    fn archive(&self, plane: &Plane, key: Option<ArchiveKey>, at: DateTime<Utc>) -> Result<Arc<dyn Archive>, PortError>;
}

/// The real drivers.
#[derive(Default)]
pub struct RealWorld {
    archives: Archives,
    paces: Paces,
    controls: Controls,
}

impl RealWorld {
    /// The world as it is configured to be reached.
    pub fn new(config: &Config) -> Self {
        Self { archives: config.archives(), paces: config.paces(), controls: config.controls() }
    }
}

#[async_trait]
impl World for RealWorld {
    async fn check_store(&self, url: &str) -> Result<StoreCheck, PortError> {
        lethe_stores::check_store(url).await
    }

    async fn describe(&self, url: &str, mapping: &Mapping) -> Result<Description, PortError> {
        lethe_stores::open_store(url, mapping, Uuid::nil())?.describe().await
    }

    async fn prepare_archive(&self, url: &str, new_id: Uuid) -> Result<(String, Uuid), PortError> {
        self.archives.prepare(url, new_id).await
    }

    async fn check_archive(&self, url: &str) -> Result<ArchiveCheck, PortError> {
        self.archives.check(url).await
    }

    async fn read_mark(&self, url: &str, archive_id: Uuid, ledger_id: Uuid) -> Result<Option<Vec<u8>>, PortError> {
        self.archives.read_mark(url, archive_id, ledger_id).await
    }

    async fn write_mark(&self, url: &str, archive_id: Uuid, ledger_id: Uuid, bytes: Vec<u8>) -> Result<(), PortError> {
        self.archives.write_mark(url, archive_id, ledger_id, bytes).await
    }

    fn shelf(&self, url: &str) -> Result<Shelf, PortError> {
        self.archives.shelf(url)
    }

    fn store(&self, plane: Uuid, binding: &Binding) -> Result<Arc<dyn KnowledgeStore>, PortError> {
        let mapping =
            binding.mapping.clone().ok_or_else(|| PortError::Permanent("the plane is a tombstone: it has no mapping".into()))?;
        let mapping: Mapping =
            serde_json::from_value(mapping).map_err(|error| PortError::Permanent(format!("read the mapping: {error}")))?;
        let store = lethe_stores::open_registered_store(&binding.store_url, &binding.store_identity, &mapping, plane)?;
        Ok(self.paces.apply(&binding.store, store))
    }

    fn dependent(&self, control: &str, told: Vec<(&'static str, String)>) -> Result<Arc<dyn Dependent>, PortError> {
        self.controls.of(control, told)
    }

    fn archive(&self, plane: &Plane, key: Option<ArchiveKey>, at: DateTime<Utc>) -> Result<Arc<dyn Archive>, PortError> {
        let tombstone = || PortError::Permanent("the plane is a tombstone: it has no archive".into());
        let url = plane.archive_url.as_deref().ok_or_else(tombstone)?;
        self.archives.open(url, plane.archive_id.ok_or_else(tombstone)?, plane.id, key, at)
    }
}
