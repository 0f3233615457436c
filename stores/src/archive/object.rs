//! What a place that keeps objects must do for an archive. Keys are relative to one plane's prefix.
//!
//! The rules every driver keeps: a write is whole and durable when it returns; a key never leaves the prefix; "not there" is said
//! only after the archive's canary was found. Each verb may be repeated, so dying in one costs nothing.

use async_trait::async_trait;
use lethe_stages::ports::PortError;

/// Objects below one plane's prefix.
#[async_trait]
pub(super) trait Objects: Send + Sync {
    /// Finds the archive's canary and answers its id. WrongPlace where it is absent or another archive's.
    async fn probe(&self) -> Result<String, PortError>;

    /// Writes an object that is not there. Answers the bytes of the one that is there instead, where they are others: it stays, and is
    /// as durable as if it had been written now.
    async fn put_new(&self, key: &str, bytes: Vec<u8>) -> Result<Option<Vec<u8>>, PortError>;

    /// Writes an object, replacing what is there. When it returns, every object below the prefix is durable, whoever wrote it and even
    /// if that died in its write: it may be a manifest, which says that they are there.
    async fn put_replace(&self, key: &str, bytes: Vec<u8>) -> Result<(), PortError>;

    /// Reads an object.
    async fn get(&self, key: &str) -> Result<Option<Vec<u8>>, PortError>;

    /// All keys in order, unfinished writes included.
    async fn list(&self) -> Result<Vec<String>, PortError>;

    /// Asks whether every version of every object may be removed now.
    async fn may_delete(&self) -> Result<(), PortError>;

    /// Removes objects in all their versions, and unfinished writes to them; absent is success.
    async fn delete(&self, keys: &[String]) -> Result<(), PortError>;

    /// Removes what is left of the prefix once no object is in it.
    async fn close(&self) -> Result<(), PortError>;
}

/// Refuses a key that could mean anything but an object below the prefix.
pub(super) fn checked(key: &str) -> Result<&str, PortError> {
    let odd = |component: &str| component.is_empty() || component == "." || component == "..";
    if key.contains(['\0', '\\']) || key.split('/').any(odd) {
        return Err(PortError::Permanent(format!(
            "archive key `{key}`: write a relative path without empty, `.` or `..` components"
        )));
    }
    Ok(key)
}
