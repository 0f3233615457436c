//! Keys of encrypted archives, wrapped: what is here cannot be used without a master key, which no ledger holds.
//!
//! The rule: an offboarding has at most one key, made with it and destroyed in the transaction that closes it. What was destroyed is
//! overwritten in place, and nothing brings it back. If we die in it, the transaction did not happen.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    db::Tx,
    fault::Fault,
    rows::Cells,
    sql::{Row, statements},
};

/// A key as the ledger holds it: encrypted under a master key.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WrappedKey {
    /// The key's id.
    pub id: Uuid,
    /// The plane whose it is. The wrapping is bound to both.
    pub plane_id: Uuid,
    /// Nonce, encrypted key and tag: 60 bytes.
    pub wrapped: Vec<u8>,
    /// The master key that wraps it.
    pub master_key_id: String,
}

impl std::fmt::Debug for WrappedKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "WrappedKey({} under {})", self.id, self.master_key_id)
    }
}

/// How many keys one master key wraps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KeysWrapped {
    /// The master key.
    pub master_key_id: String,
    /// Keys that are not destroyed.
    pub keys: i64,
    /// When the first of them was made.
    pub oldest_at: DateTime<Utc>,
}

fn wrapped_key(row: &Row) -> Result<WrappedKey, Fault> {
    let cells = Cells::new(row, "archive_keys", "id");
    Ok(WrappedKey {
        id: cells.id("id")?,
        plane_id: cells.id("plane_id")?,
        wrapped: cells.get("wrapped")?,
        master_key_id: cells.get("master_key_id")?,
    })
}

statements! {
    MAKE = "keep an archive's key",
        "INSERT INTO archive_keys (id, offboarding_id, wrapped, master_key_id, created_at, wrapped_at) VALUES ($1, $2, $3, $4, $5, $5)";
    KEY = "read an archive's key",
        "SELECT k.id, o.plane_id, k.wrapped, k.master_key_id FROM archive_keys k JOIN offboardings o ON o.id = k.offboarding_id
         WHERE k.offboarding_id = $1 AND k.wrapped IS NOT NULL";
    UNDER_OTHERS = "find keys under other master keys",
        "SELECT k.id, o.plane_id, k.wrapped, k.master_key_id FROM archive_keys k JOIN offboardings o ON o.id = k.offboarding_id
         WHERE k.wrapped IS NOT NULL AND k.master_key_id <> $1 ORDER BY k.created_at, k.id LIMIT $2";
    REWRAP = "wrap an archive's key anew",
        "UPDATE archive_keys SET wrapped = $3, master_key_id = $4, wrapped_at = $5 WHERE id = $1 AND wrapped = $2";
    DESTROY = "destroy an archive's key",
        "UPDATE archive_keys SET wrapped = NULL, destroyed_at = $2 WHERE offboarding_id = $1 AND wrapped IS NOT NULL";
    BY_MASTER_KEY = "count archives' keys",
        "SELECT master_key_id, count(*) AS keys, min(created_at) AS oldest_at FROM archive_keys WHERE wrapped IS NOT NULL
         GROUP BY master_key_id ORDER BY oldest_at, master_key_id";
    DESTROYED = "count destroyed keys", "SELECT count(*) AS keys FROM archive_keys WHERE wrapped IS NULL";
}

impl Tx {
    /// Keeps the key that an offboarding was opened with.
    pub(crate) async fn keep_archive_key(&mut self, offboarding: Uuid, key: &WrappedKey) -> Result<(), Fault> {
        let at = self.at();
        let make = self.sql(&MAKE).bind(key.id).bind(offboarding).bind(key.wrapped.as_slice()).bind(&key.master_key_id);
        make.bind(at).one().await
    }

    /// The key of an offboarding's archive; `None` where there never was one, or not any more.
    pub async fn archive_key(&mut self, offboarding: Uuid) -> Result<Option<WrappedKey>, Fault> {
        self.sql(&KEY).bind(offboarding).optional().await?.as_ref().map(wrapped_key).transpose()
    }

    /// Up to `limit` keys that another master key than this one wraps, the oldest first.
    pub async fn archive_keys_under_others(&mut self, master_key_id: &str, limit: i64) -> Result<Vec<WrappedKey>, Fault> {
        self.sql(&UNDER_OTHERS).bind(master_key_id).bind(limit).all().await?.iter().map(wrapped_key).collect()
    }

    /// Replaces a key's wrapping, if it still is `was`. Answers whether it was; a key that was destroyed meanwhile stays so.
    pub async fn rewrap_archive_key(&mut self, was: &WrappedKey, now: &WrappedKey) -> Result<bool, Fault> {
        let at = self.at();
        let rewrap = self.sql(&REWRAP).bind(was.id).bind(was.wrapped.as_slice()).bind(now.wrapped.as_slice());
        Ok(rewrap.bind(&now.master_key_id).bind(at).run().await? == 1)
    }

    /// Destroys the key of an offboarding's archive, if it has one. Called where it is closed.
    pub(crate) async fn destroy_archive_key(&mut self, offboarding: Uuid) -> Result<(), Fault> {
        let at = self.at();
        self.sql(&DESTROY).bind(offboarding).bind(at).run().await.map(drop)
    }

    /// How many keys each master key wraps, and how many were destroyed.
    pub async fn archive_keys_by_master_key(&mut self) -> Result<(Vec<KeysWrapped>, i64), Fault> {
        let rows = self.sql(&BY_MASTER_KEY).all().await?;
        let counted = rows.iter().map(|row| {
            let cells = Cells::new(row, "archive_keys", "master_key_id");
            Ok::<_, Fault>(KeysWrapped {
                master_key_id: cells.get("master_key_id")?,
                keys: cells.get("keys")?,
                oldest_at: cells.at("oldest_at")?,
            })
        });
        let counted = counted.collect::<Result<_, _>>()?;
        let row = self.sql(&DESTROYED).first().await?;
        Ok((counted, Cells::new(&row, "archive_keys", "keys").get("keys")?))
    }
}
