//! The key of a plane's archive: made before the transaction that opens an offboarding, unwrapped for the runs that need it.
//!
//! The rule: whether an archive is encrypted is decided at the request, once; every part is, or none. The ledger holds the key wrapped and
//! nothing else does; it is destroyed in the transaction that closes the offboarding. A step that needs the key and cannot have it
//! halts before it has done anything, and `retry` is its way on; verify needs it too, so that this is known while there is still a hot copy.
//!
//! If we die in it, a key that no transaction kept is forgotten; nothing was encrypted under it.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use lethe_ledger::{Case, NewOffboarding, Tx, WrappedKey};
use lethe_stages::{Code, Refusal, StageError, Step};
use lethe_stores::{ArchiveKey, ObjectLock};
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};
use uuid::Uuid;

use super::{ArchiveAnswer, KnowledgeLifecycleManager};
use crate::keys::{KeyError, Keyring};

/// Whether there is a key for a new offboarding's archive.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub enum KeyAnswer {
    /// None is wanted: archives are not encrypted.
    #[default]
    NotWanted,
    /// There is, wrapped.
    Made(WrappedKey),
    /// There is not, and why.
    None(String),
}

/// What was found out before the transaction of a request.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Beforehand {
    /// What the archive said of itself.
    pub archive: ArchiveAnswer,
    /// The key of what will be archived.
    pub key: KeyAnswer,
}

impl Beforehand {
    /// The lock that the archive's objects get.
    pub(super) fn lock(&self) -> Option<ObjectLock> {
        self.archive.lock()
    }

    /// The key, where there is to be one.
    pub(super) fn key(&self) -> Option<&WrappedKey> {
        if let KeyAnswer::Made(key) = &self.key { Some(key) } else { None }
    }

    /// Whether a new offboarding may use the archive, and have a key.
    pub(super) fn allows(&self, new: &NewOffboarding, at: DateTime<Utc>) -> Result<(), Refusal> {
        self.archive.allows(new, at)?;
        if let KeyAnswer::None(why) = &self.key {
            return Err(unusable(why));
        }
        Ok(())
    }
}

/// What a caller is told who needs a key that cannot be had.
pub(crate) fn unusable(why: impl std::fmt::Display) -> Refusal {
    Refusal::new(Code::MasterKeyUnusable, why.to_string())
}

/// How things are destroyed by a purge of this case, each by its method.
pub(super) fn methods(case: &Case) -> Json {
    match case.offboarding.archive_key_id {
        None => json!({"stores": "deleted", "archive": "deleted"}),
        Some(key) => json!({"stores": "deleted", "archive": "deleted, and its key destroyed", "archive_key_id": key}),
    }
}

/// Steps that read or write parts, and the last one that may find out in time that it could not be done.
fn needs_key(step: Step) -> bool {
    matches!(step, Step::Verify | Step::Export | Step::Evict | Step::Purge)
}

impl KnowledgeLifecycleManager {
    /// Makes a key for the archive of a new offboarding of this plane, if archives are encrypted. `id` and the key come from the ledger's
    /// entropy. No transaction is open.
    pub(crate) async fn archive_key_for(&self, plane: Uuid, id: Uuid) -> KeyAnswer {
        if !self.config.encrypts() {
            return KeyAnswer::NotWanted;
        }
        let entropy = self.ledger.entropy().clone();
        match reading(self.keyring.clone(), move |keyring| keyring.make(id, plane, entropy.as_ref())).await {
            Ok(key) => KeyAnswer::Made(key),
            Err(error) => KeyAnswer::None(error.to_string()),
        }
    }

    /// Unwraps a key that the ledger holds. No transaction is open.
    pub(crate) async fn unwrap_key(&self, wrapped: WrappedKey) -> Result<ArchiveKey, KeyError> {
        reading(self.keyring.clone(), move |keyring| keyring.unwrap(&wrapped)).await
    }

    /// The key of the case's archive, where it is encrypted and the step needs it.
    pub(super) async fn key_of(&self, case: &Case) -> Result<Option<ArchiveKey>, StageError> {
        let Some(id) = case.offboarding.archive_key_id.filter(|_| needs_key(case.run.step)) else { return Ok(None) };
        let read = self.ledger.read(async |tx: &mut Tx| tx.archive_key(case.offboarding.id).await).await;
        let wrapped = read.map_err(|fault| StageError::transient("LEDGER", fault.to_string()))?;
        let gone = || StageError::halt("ARCHIVE_KEY_DESTROYED", format!("read key {id} of the archive: it was destroyed"));
        let unwrapped = self.unwrap_key(wrapped.ok_or_else(gone)?).await;
        unwrapped.map(Some).map_err(|error| StageError::halt(Code::MasterKeyUnusable.as_str(), error.to_string()))
    }
}

/// Reads master keys where it may block.
async fn reading<T: Send + 'static>(
    keyring: Arc<Keyring>,
    work: impl FnOnce(&Keyring) -> Result<T, KeyError> + Send + 'static,
) -> Result<T, KeyError> {
    let done = tokio::task::spawn_blocking(move || work(&keyring)).await;
    done.unwrap_or_else(|error| Err(KeyError::Unreadable { reference: "of the configuration".into(), why: error.to_string() }))
}
