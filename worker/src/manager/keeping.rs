//! Whether an archive keeps what is written into it for as long as the offboarding says, and no longer.
//!
//! The rule: what would stand in the way of the purge is said at the request, with its dates, and not discovered when it is due.

use chrono::{DateTime, Utc};
use lethe_ledger::NewOffboarding;
use lethe_stages::{Code, Ground, Refusal};
use lethe_stores::{ArchiveCheck, ObjectLock};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::config::Span;

/// What a plane's archive said of itself before the transaction.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub enum ArchiveAnswer {
    /// It was not asked: archives of its kind neither lock nor copy.
    #[default]
    NotAsked,
    /// It answered.
    Said(Box<ArchiveCheck>),
    /// It did not.
    Silent {
        /// Why.
        message: String,
        /// Whether it may answer in a moment.
        retryable: bool,
    },
}

impl ArchiveAnswer {
    /// The lock that its objects get.
    pub(crate) fn lock(&self) -> Option<ObjectLock> {
        match self {
            ArchiveAnswer::Said(check) => check.bucket.as_ref()?.lock,
            _ => None,
        }
    }

    /// Whether a new offboarding may use it.
    pub(super) fn allows(&self, new: &NewOffboarding, at: DateTime<Utc>) -> Result<(), Refusal> {
        let check = match self {
            ArchiveAnswer::NotAsked => return Ok(()),
            ArchiveAnswer::Silent { message, retryable } => {
                let refusal = Refusal::new(Code::StoreUnusable, format!("ask the archive: {message}"));
                return Err(refusal.with(json!({"retryable": retryable})));
            }
            ArchiveAnswer::Said(check) => check,
        };
        let Some(bucket) = &check.bucket else { return Ok(()) };
        if let Some(to) = bucket.undeclared.first() {
            let message = format!(
                "bucket {} replicates to {to}, which is not declared and so would not be purged: add {to} to the archive's \
                 replicas; to end the replication leaves what was copied",
                bucket.bucket
            );
            return Err(Refusal::new(Code::ReplicaUndeclared, message).with(json!({"copies": bucket.undeclared})));
        }
        match bucket.lock {
            Some(lock) if lock.lasts() > new.retention => Err(outlives(&bucket.bucket, lock, new, at)),
            _ => Ok(()),
        }
    }
}

fn outlives(bucket: &str, lock: ObjectLock, new: &NewOffboarding, at: DateTime<Utc>) -> Refusal {
    let exported = at + new.grace + new.archive_delay;
    let (locked_until, purge) = (exported + lock.lasts(), exported + new.retention);
    let advice = if new.ground == Ground::ErasureRequest {
        "an erasure request retains nothing: use an archive without a lock".to_owned()
    } else {
        format!("ask for a retention of at least {}, or use an archive with a shorter lock", Span(lock.lasts()))
    };
    let message = format!(
        "what is exported at the earliest is locked by bucket {bucket} ({}) until {}, the earliest purge would be {}: {advice}",
        lock.mode,
        locked_until.to_rfc3339(),
        purge.to_rfc3339()
    );
    Refusal::new(Code::LockOutlivesRetention, message)
        .with(json!({"locked_until": locked_until, "earliest_purge": purge, "mode": lock.mode}))
}
