//! The way to the world outside: opens the stores and the archive that a plane is bound to.
//!
//! A trait, so that tests can put faults between a handler and a real store.

use std::sync::Arc;

use async_trait::async_trait;
use lethe_ledger::{Binding, Plane};
use lethe_stages::ports::{Archive, Description, KnowledgeStore, PortError};
use lethe_stores::{Mapping, StoreCheck};
use uuid::Uuid;

/// Opens what planes are bound to.
#[async_trait]
pub trait World: Send + Sync {
    /// Checks a store by URL: that it answers, is writable, and what is in it.
    async fn check_store(&self, url: &str) -> Result<StoreCheck, PortError>;

    /// Checks a mapping in a store, without changing anything.
    async fn describe(&self, url: &str, mapping: &Mapping) -> Result<Description, PortError>;

    /// Makes an archive usable and answers its canonical URL and its canary.
    async fn prepare_archive(&self, url: &str, new_id: Uuid) -> Result<(String, Uuid), PortError>;

    /// The mark that a ledger left beside an archive.
    async fn read_mark(&self, url: &str, archive_id: Uuid, ledger_id: Uuid) -> Result<Option<Vec<u8>>, PortError>;

    /// Replaces it.
    async fn write_mark(&self, url: &str, archive_id: Uuid, ledger_id: Uuid, bytes: Vec<u8>) -> Result<(), PortError>;

    /// Opens one binding of a plane.
    fn store(&self, plane: Uuid, binding: &Binding) -> Result<Arc<dyn KnowledgeStore>, PortError>;

    /// Opens the plane's archive.
    fn archive(&self, plane: &Plane) -> Result<Arc<dyn Archive>, PortError>;
}

/// The real drivers.
pub struct RealWorld;

#[async_trait]
impl World for RealWorld {
    async fn check_store(&self, url: &str) -> Result<StoreCheck, PortError> {
        lethe_stores::check_store(url).await
    }

    async fn describe(&self, url: &str, mapping: &Mapping) -> Result<Description, PortError> {
        lethe_stores::open_store(url, mapping, Uuid::nil())?.describe().await
    }

    async fn prepare_archive(&self, url: &str, new_id: Uuid) -> Result<(String, Uuid), PortError> {
        let url = lethe_stores::canonical_archive_url(url)?;
        let id = lethe_stores::prepare_archive(&url, new_id).await?;
        Ok((url, id))
    }

    async fn read_mark(&self, url: &str, archive_id: Uuid, ledger_id: Uuid) -> Result<Option<Vec<u8>>, PortError> {
        lethe_stores::read_mark(url, archive_id, ledger_id).await
    }

    async fn write_mark(&self, url: &str, archive_id: Uuid, ledger_id: Uuid, bytes: Vec<u8>) -> Result<(), PortError> {
        lethe_stores::write_mark(url, archive_id, ledger_id, bytes).await
    }

    fn store(&self, plane: Uuid, binding: &Binding) -> Result<Arc<dyn KnowledgeStore>, PortError> {
        let mapping =
            binding.mapping.clone().ok_or_else(|| PortError::Permanent("the plane is a tombstone: it has no mapping".into()))?;
        let mapping: Mapping =
            serde_json::from_value(mapping).map_err(|error| PortError::Permanent(format!("read the mapping: {error}")))?;
        lethe_stores::open_store(&binding.store_url, &mapping, plane)
    }

    fn archive(&self, plane: &Plane) -> Result<Arc<dyn Archive>, PortError> {
        let tombstone = || PortError::Permanent("the plane is a tombstone: it has no archive".into());
        let url = plane.archive_url.as_deref().ok_or_else(tombstone)?;
        lethe_stores::open_archive(url, plane.archive_id.ok_or_else(tombstone)?, plane.id)
    }
}
