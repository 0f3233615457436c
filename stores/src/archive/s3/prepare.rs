//! Making an archive of a bucket's prefix: its canary, and what the server must be able to do.
//!
//! The rule: an archive has an id of its own, written once; its declared copies show the same. If we die in preparing one, preparing it
//! again finishes it.

use bytes::Bytes;
use lethe_stages::ports::PortError;
use uuid::Uuid;

use super::{
    super::place::{CANARY, canary_text, mark_name},
    erase::{Listing, Version},
    site::Site,
    write::Written,
};

impl Site {
    /// Makes sure that the canary is there; answers its id, which is `new_id` only where there was none.
    pub(in crate::archive) async fn prepare(&self, new_id: Uuid) -> Result<Uuid, PortError> {
        let doing = format!("prepare archive {}", self.root.url());
        self.can_be_purged().await?;
        let key = self.key(CANARY);
        let id = self.canary().await?.unwrap_or(new_id);
        let text = Bytes::from(canary_text(id)?);
        // Again over one that is there: the server must refuse, or two writers could overwrite each other. The bytes are the same.
        let mut found = self.put(&key, text.clone(), true, None).await?;
        if found != Written::Exists {
            let stands = self.canary().await?;
            if stands != Some(id) {
                return Err(PortError::Transient(format!("{doing}: its canary is not what was written")));
            }
            found = self.put(&key, text, true, None).await?;
        }
        if found != Written::Exists {
            return Err(PortError::Permanent(format!(
                "{doing}: the server ignores `If-None-Match: *`, so that two writers could overwrite each other; use one that honours it"
            )));
        }
        // Somebody else may have been first.
        self.canary().await?.ok_or_else(|| PortError::Transient(format!("{doing}: its canary is gone again")))
    }

    /// Makes sure that a declared copy of archive `id` shows its canary.
    pub(in crate::archive) async fn prepare_copy(&self, id: Uuid) -> Result<(), PortError> {
        match self.prepare(id).await? {
            found if found == id => Ok(()),
            found => Err(PortError::WrongPlace(format!(
                "declare {} as a copy of archive {id}: archive {found} is there",
                self.root.url()
            ))),
        }
    }

    /// The bytes of a ledger's mark.
    pub(in crate::archive) async fn read_mark(&self, archive_id: Uuid, ledger_id: Uuid) -> Result<Option<Vec<u8>>, PortError> {
        self.is(archive_id).await?;
        Ok(self.read(&self.key(&mark_name(ledger_id))).await?.map(Vec::from))
    }

    /// Replaces it. Where the bucket keeps versions, the older ones go: a mark moves often, and only its newest says anything.
    pub(in crate::archive) async fn write_mark(
        &self,
        archive_id: Uuid,
        ledger_id: Uuid,
        bytes: Vec<u8>,
    ) -> Result<(), PortError> {
        self.is(archive_id).await?;
        let key = self.key(&mark_name(ledger_id));
        let Written::New(Some(version)) = self.put(&key, bytes.into(), false, None).await? else { return Ok(()) };
        // Older marks do no harm; a locked one stays until somebody looks after it.
        if let Ok(older) = self.older_than(&key, &version).await {
            drop(self.delete_batch(&older).await);
        }
        Ok(())
    }

    /// Versions of an object that are older than this one, at most a page of them.
    async fn older_than(&self, key: &str, version: &str) -> Result<Vec<Version>, PortError> {
        let page = self.next_page(&mut Listing::of(key)).await?.unwrap_or_default();
        // Newest first.
        let newest_first = page.into_iter().filter(|found| found.key == key);
        Ok(newest_first.skip_while(|found| found.id != version).skip(1).collect())
    }
}
