//! Store URLs: which driver serves one, and which file or database it means, whatever way it is written.
//!
//! The rule: two URLs of one store have one canonical form, because a binding belongs to one plane for ever; and no store is ever
//! created by looking at it. Nothing is written here but a lock taken and given back, so nothing is left if we die in it.

use std::{path::PathBuf, sync::Arc};

use lethe_stages::ports::{KnowledgeStore, PortError};
use serde::Serialize;
use uuid::Uuid;

use crate::{
    Mapping,
    postgres::{self, PostgresStore, Server, is_postgres},
    sqlite,
};

/// What a store says of itself when it is registered.
#[derive(Debug, Clone, Serialize)]
pub struct StoreCheck {
    /// The canonical URL.
    pub url: String,
    /// The driver.
    pub kind: &'static str,
    /// The size of the store's main file, or of the database.
    pub bytes: u64,
    /// The journal mode an SQLite file is in, in lower case: `wal`, `delete`, ….
    #[serde(skip_serializing_if = "Option::is_none")]
    pub journal_mode: Option<String>,
    /// The server of a PostgreSQL database: its version, pgvector's, and TLS's on this connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// Its ordinary tables, Lethe's own left out.
    pub tables: Vec<String>,
    /// Its virtual tables, which take no triggers and so cannot be fenced.
    pub virtual_tables: Vec<String>,
    /// `device:inode` of the file, or the cluster's and the database's id: which tells two names of one store.
    pub file_id: String,
    /// Whether a write lock could be taken, or the server takes writes.
    pub writable: bool,
}

/// The path of a `sqlite:` URL as it is written.
pub(crate) fn sqlite_path(url: &str) -> Result<PathBuf, PortError> {
    let Some(path) = url.strip_prefix("sqlite:") else {
        let scheme = url.split_once(':').map_or(url, |(scheme, _)| scheme);
        return Err(PortError::Permanent(format!(
            "store URL scheme `{scheme}` is unknown; known are sqlite:FILE and postgres://ROLE@HOST/DATABASE"
        )));
    };
    let path = path.strip_prefix("//").unwrap_or(path);
    if path.is_empty() || path.contains(['?', '\0']) {
        return Err(PortError::Permanent(format!("store URL `{url}`: write sqlite:FILE, the file alone and no parameters")));
    }
    Ok(PathBuf::from(path))
}

/// The one form of a store's URL: `sqlite:` and the absolute path with every symbolic link followed, or `postgres://` with every part in
/// its place. It never holds a password.
///
/// # Errors
/// Permanent where the scheme is unknown or the file is not there: a store is never created.
pub fn canonical_store_url(url: &str) -> Result<String, PortError> {
    if is_postgres(url) {
        return Server::parse(url).map(|server| server.canonical());
    }
    let path = sqlite_path(url)?;
    let real = std::fs::canonicalize(&path).map_err(|error| {
        PortError::Permanent(format!("find store file {}: {error}; Lethe creates no store, name one that exists", path.display()))
    })?;
    if !real.is_file() {
        return Err(PortError::Permanent(format!("find store file {}: it is not a file", real.display())));
    }
    match real.to_str() {
        Some(text) if !text.contains('?') => Ok(format!("sqlite:{text}")),
        _ => Err(PortError::Permanent(format!("store file {}: its path is not UTF-8 or holds a `?`; rename it", real.display()))),
    }
}

/// What a message may repeat of a store's URL: of one that may hold a password, nothing but its scheme.
pub fn shown_store_url(url: &str) -> String {
    match canonical_store_url(url) {
        Ok(canonical) if is_postgres(url) => canonical,
        Err(_) if is_postgres(url) => "postgres://…".into(),
        _ => url.into(),
    }
}

/// Opens the store, reads its schema and proves that it can be written, without writing.
///
/// # Errors
/// Permanent where it is not a database or does not let us in, Transient where it is busy or away.
pub async fn check_store(url: &str) -> Result<StoreCheck, PortError> {
    if is_postgres(url) {
        return postgres::check(&Server::parse(url)?).await;
    }
    let url = canonical_store_url(url)?;
    sqlite::check(sqlite_path(&url)?, url).await
}

/// Binds a plane to its records in the store. Connects at the first verb, not here.
///
/// # Errors
/// Permanent where no driver serves the URL.
pub fn open_store(url: &str, mapping: &Mapping, plane_id: Uuid) -> Result<Arc<dyn KnowledgeStore>, PortError> {
    if is_postgres(url) {
        return Ok(Arc::new(PostgresStore::new(Server::parse(url)?, mapping.clone(), plane_id)));
    }
    Ok(Arc::new(sqlite::SqliteStore::new(sqlite_path(url)?, mapping.clone(), plane_id)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_of_a_file_has_one_canonical_url() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().canonicalize().unwrap().join("kb.db");
        std::fs::write(&real, b"").unwrap();
        std::os::unix::fs::symlink(&real, dir.path().join("link.db")).unwrap();
        let expected = format!("sqlite:{}", real.display());
        for name in ["kb.db", "link.db", "./kb.db"] {
            let path = dir.path().join(name);
            assert_eq!(canonical_store_url(&format!("sqlite:{}", path.display())).unwrap(), expected);
            assert_eq!(canonical_store_url(&format!("sqlite://{}", path.display())).unwrap(), expected);
        }
    }

    #[test]
    fn a_missing_file_is_refused_and_not_created() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("absent.db");
        assert!(matches!(canonical_store_url(&format!("sqlite:{}", path.display())), Err(PortError::Permanent(_))));
        assert!(!path.exists());
    }

    #[test]
    fn an_unknown_scheme_is_refused_with_those_that_are_known() {
        let error = canonical_store_url("mongodb://host/db").unwrap_err();
        assert!(matches!(&error, PortError::Permanent(said) if said.contains("sqlite:FILE")), "{error}");
    }
}
