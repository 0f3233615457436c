//! Store URLs: which driver serves one, and which file or database it means, whatever way it is written.
//!
//! The rule: two URLs of one store have one canonical form, because a binding belongs to one plane for ever; and no store is ever
//! created by looking at it. Nothing is written here but a lock taken and given back, so nothing is left if we die in it.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use lethe_stages::ports::{KnowledgeStore, PortError};
use serde::Serialize;
use uuid::Uuid;

use crate::{
    Mapping,
    chroma::{self, ChromaStore, Database, is_chroma},
    http::Address,
    postgres::{self, PostgresStore, Server, is_postgres},
    protocol::{self, ProtocolStore, is_protocol},
    sqlite::{self, SqliteStore},
};

/// What a store says of itself when it is registered.
#[derive(Debug, Clone, Serialize)]
pub struct StoreCheck {
    /// The canonical URL.
    pub url: String,
    /// The driver.
    pub kind: &'static str,
    /// The size of the store's main file, or of the database; of a server that says nothing of it, none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// The journal mode an SQLite file is in, in lower case: `wal`, `delete`, ….
    #[serde(skip_serializing_if = "Option::is_none")]
    pub journal_mode: Option<String>,
    /// What serves it and in which version; of a PostgreSQL database, also pgvector's, and TLS's on this connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// Its ordinary tables, or collections, or resources, Lethe's own left out.
    pub tables: Vec<String>,
    /// Its virtual tables, which take no triggers and so cannot be fenced.
    pub virtual_tables: Vec<String>,
    /// `device:inode` of the file, the cluster's and the database's id, or what else tells two names of one store.
    pub file_id: String,
    /// Whether a write lock could be taken, or the server takes writes.
    pub writable: bool,
}

/// What a URL means, by its scheme: the driver, and where it goes.
enum Place {
    Sqlite(PathBuf),
    Postgres(Server),
    Chroma(Database),
    Protocol(Address),
}

const KNOWN: &str = "sqlite:FILE, postgres://ROLE@HOST/DATABASE, chroma+http://HOST:PORT/TENANT/DATABASE and, for a server that speaks \
                     the store protocol, https://HOST/BASE";

impl Place {
    fn of(url: &str) -> Result<Self, PortError> {
        if is_postgres(url) {
            return Server::parse(url).map(Place::Postgres);
        }
        if is_chroma(url) {
            return Database::parse(url).map(Place::Chroma);
        }
        if is_protocol(url) {
            return Address::parse(url, protocol::EXAMPLE).map(Place::Protocol);
        }
        let Some(path) = url.strip_prefix("sqlite:") else {
            let scheme = url.split_once(':').map_or(url, |(scheme, _)| scheme);
            return Err(PortError::Permanent(format!("store URL scheme `{scheme}` is unknown; known are {KNOWN}")));
        };
        let path = path.strip_prefix("//").unwrap_or(path);
        if path.is_empty() || path.contains(['?', '\0']) {
            return Err(PortError::Permanent(format!("store URL `{url}`: write sqlite:FILE, the file alone and no parameters")));
        }
        Ok(Place::Sqlite(PathBuf::from(path)))
    }
}

/// The path of a `sqlite:` URL as it is written.
pub(crate) fn sqlite_path(url: &str) -> Result<PathBuf, PortError> {
    match Place::of(url)? {
        Place::Sqlite(path) => Ok(path),
        _ => Err(PortError::Permanent("a store that Lethe builds is an SQLite file; write sqlite:FILE".into())),
    }
}

/// The one form of a store's URL: `sqlite:` and the absolute path with every symbolic link followed, or a server's URL with every part
/// in its place. It never holds a secret.
///
/// # Errors
/// Permanent where the scheme is unknown or the file is not there: a store is never created.
pub fn canonical_store_url(url: &str) -> Result<String, PortError> {
    match Place::of(url)? {
        Place::Sqlite(path) => canonical_file(&path),
        Place::Postgres(server) => Ok(server.canonical()),
        Place::Chroma(database) => Ok(database.canonical()),
        Place::Protocol(address) => Ok(address.canonical()),
    }
}

fn canonical_file(path: &Path) -> Result<String, PortError> {
    let real = std::fs::canonicalize(path).map_err(|error| {
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

/// What a message may repeat of a store's URL: of one that may hold a secret, nothing but its scheme.
pub fn shown_store_url(url: &str) -> String {
    match url.split_once(':') {
        Some(("sqlite", _)) | None => url.into(),
        Some((scheme, _)) => canonical_store_url(url).unwrap_or_else(|_| format!("{scheme}:…")),
    }
}

/// Opens the store, reads its schema and proves that it can be written, without writing.
///
/// # Errors
/// Permanent where it is not a database or does not let us in, Transient where it is busy or away.
pub async fn check_store(url: &str) -> Result<StoreCheck, PortError> {
    match Place::of(url)? {
        Place::Sqlite(path) => {
            let url = canonical_file(&path)?;
            let path = PathBuf::from(url.trim_start_matches("sqlite:"));
            sqlite::check(path, url).await
        }
        Place::Postgres(server) => postgres::check(&server).await,
        Place::Chroma(database) => chroma::check(&database).await,
        Place::Protocol(address) => protocol::check(&address).await,
    }
}

/// Binds a plane to its records in a store that nobody registered. Connects at the first verb, not here.
///
/// # Errors
/// Permanent where no driver serves the URL.
pub fn open_store(url: &str, mapping: &Mapping, plane_id: Uuid) -> Result<Arc<dyn KnowledgeStore>, PortError> {
    open(url, None, mapping, plane_id)
}

/// Binds a plane to its records in the store that was registered under this URL as `identity` ([`StoreCheck::file_id`]): behind the
/// store protocol whoever else answers there is WrongPlace. The other drivers find their fence in the database itself, and no identity
/// of theirs outlives a restore.
///
/// # Errors
/// Permanent where no driver serves the URL.
pub fn open_registered_store(
    url: &str,
    identity: &str,
    mapping: &Mapping,
    plane_id: Uuid,
) -> Result<Arc<dyn KnowledgeStore>, PortError> {
    open(url, Some(identity), mapping, plane_id)
}

fn open(url: &str, identity: Option<&str>, mapping: &Mapping, plane_id: Uuid) -> Result<Arc<dyn KnowledgeStore>, PortError> {
    let mapping = mapping.clone();
    Ok(match Place::of(url)? {
        Place::Sqlite(path) => Arc::new(SqliteStore::new(path, mapping, plane_id)),
        Place::Postgres(server) => Arc::new(PostgresStore::new(server, mapping, plane_id)),
        Place::Chroma(database) => Arc::new(ChromaStore::new(database, mapping, plane_id)),
        Place::Protocol(address) => Arc::new(ProtocolStore::new(address, identity, mapping, plane_id)),
    })
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
