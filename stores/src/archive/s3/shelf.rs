//! A shelf in a bucket: objects below its prefix that are written once, and a few that are replaced.
//!
//! The rule: as of archives, what is written once is written under the condition that nothing is there, and locked where the options say so;
//! a lock is read back. If we die in a write, it is there or not.

use chrono::{DateTime, Utc};
use lethe_stages::ports::PortError;

use super::{erase::Listing, site::Site, write::Written};

impl Site {
    /// The bytes at a key below the prefix.
    pub(in crate::archive) async fn shelved(&self, key: &str) -> Result<Option<Vec<u8>>, PortError> {
        Ok(self.read(&self.key(key)).await?.map(Vec::from))
    }

    /// Writes what is not there; answers what is, where that is something else.
    pub(in crate::archive) async fn shelve_once(
        &self,
        key: &str,
        bytes: Vec<u8>,
        at: DateTime<Utc>,
    ) -> Result<Option<Vec<u8>>, PortError> {
        let whole = self.key(key);
        let lock = self.options.lock.map(|lock| (lock.mode, at + lock.lasts()));
        if self.put(&whole, bytes.clone().into(), true, lock).await? == Written::Exists {
            let present = self.read(&whole).await?.map(Vec::from);
            return match present {
                Some(present) => Ok((present != bytes).then_some(present)),
                None => Err(PortError::Transient(format!("write {key}: something is there and cannot be read"))),
            };
        }
        self.is_kept_as_asked(&whole, lock).await.map(|()| None)
    }

    /// Takes away every version below a key, as far as the server lets it.
    pub(in crate::archive) async fn clear_shelf(&self, key: &str) {
        let mut listing = Listing::of(&self.key(&format!("{key}/")));
        while let Ok(Some(versions)) = self.next_page(&mut listing).await {
            drop(self.delete_batch(&versions).await);
        }
    }

    /// Replaces an object. It is not locked: it is to be replaced again.
    pub(in crate::archive) async fn shelve(&self, key: &str, bytes: Vec<u8>) -> Result<(), PortError> {
        self.put(&self.key(key), bytes.into(), false, None).await.map(drop)
    }
}
