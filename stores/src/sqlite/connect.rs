//! Connections to a store's file, and what an error of SQLite means to the port.
//!
//! The rules: a file is never created; every connection that writes overwrites what it deletes; the file's journal mode is its
//! owner's. Only `stat` looks at the file beside SQLite: closing any other descriptor of it would drop the locks that SQLite's
//! connections in this process hold (POSIX).
//!
//! If we die with a transaction open, SQLite rolls it back for whoever opens the file next.

use std::{path::PathBuf, time::Duration};

use lethe_stages::ports::PortError;
use sqlx::{
    ConnectOptions, Connection, Sqlite, Transaction,
    sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteSynchronous},
};

/// How long SQLite itself waits for a lock before it says busy.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// A store's file.
#[derive(Debug, Clone)]
pub(super) struct File {
    pub(super) path: PathBuf,
}

impl File {
    /// A connection that cannot write.
    pub(super) async fn reading(&self) -> Result<SqliteConnection, PortError> {
        self.connect(self.options().read_only(true).pragma("temp_store", "MEMORY")).await
    }

    /// A connection that overwrites what it deletes.
    pub(super) async fn writing(&self) -> Result<SqliteConnection, PortError> {
        self.connect(self.options().pragma("secure_delete", "ON").pragma("temp_store", "MEMORY")).await
    }

    /// As [`Self::writing`], with temporary data in a file: VACUUM copies the whole store, which need not fit into memory. What it
    /// copies no longer holds what was erased.
    pub(super) async fn rewriting(&self) -> Result<SqliteConnection, PortError> {
        self.connect(self.options().pragma("secure_delete", "ON")).await
    }

    /// A connection that builds a file of which nobody else knows yet: without a journal and unsynchronised, because a crash throws the
    /// file away. Who gives it a name synchronises it before.
    pub(super) async fn building(&self) -> Result<SqliteConnection, PortError> {
        self.connect(self.options().journal_mode(SqliteJournalMode::Off).synchronous(SqliteSynchronous::Off)).await
    }

    fn options(&self) -> SqliteConnectOptions {
        SqliteConnectOptions::new()
            .filename(&self.path)
            .create_if_missing(false)
            .busy_timeout(BUSY_TIMEOUT)
            // Enforced, a CASCADE or SET NULL would change records that nobody named; `describe` lists the references instead.
            .foreign_keys(false)
            .disable_statement_logging()
    }

    async fn connect(&self, options: SqliteConnectOptions) -> Result<SqliteConnection, PortError> {
        let path = self.path.display();
        match std::fs::metadata(&self.path) {
            Ok(found) if found.is_file() => {}
            Ok(_) => return Err(PortError::Permanent(format!("open {path}: it is not a file"))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(PortError::Permanent(format!("open {path}: there is no such file")));
            }
            Err(error) => return Err(crate::archive::io_error(&format!("open {path}"), &error)),
        }
        options.connect().await.map_err(failed(format!("open {path}")))
    }
}

/// Ends a connection in the ordinary way. What it did is durable already, so an error says nothing.
pub(super) async fn close(connection: SqliteConnection) {
    drop(connection.close().await);
}

/// Commits a transaction of the store. The ledger's transactions are committed in one place of their own.
#[allow(clippy::disallowed_methods, reason = "the store's own transaction, which no other crate sees")]
pub(super) async fn commit(tx: Transaction<'_, Sqlite>, doing: &str) -> Result<(), PortError> {
    tx.commit().await.map_err(failed(doing))
}

/// The port's error for one of SQLite's, with what was being done.
pub(super) fn failed(doing: impl Into<String>) -> impl FnOnce(sqlx::Error) -> PortError {
    let doing = doing.into();
    move |error| {
        let transient = match &error {
            sqlx::Error::Database(inner) => {
                // The extended code's low byte is the primary code: ABORT, BUSY, LOCKED, NOMEM, INTERRUPT, IOERR, FULL, CANTOPEN,
                // PROTOCOL, SCHEMA. CANTOPEN, because that the file is there was asked before.
                let code = inner.code().and_then(|code| code.parse::<i32>().ok()).unwrap_or(1) & 0xff;
                matches!(code, 4 | 5 | 6 | 7 | 9 | 10 | 13 | 14 | 15 | 17)
            }
            sqlx::Error::Io(_) | sqlx::Error::WorkerCrashed => true,
            _ => false,
        };
        let said = match &error {
            sqlx::Error::Database(inner) => format!("{doing}: {}", inner.message()),
            other => format!("{doing}: {other}"),
        };
        if transient { PortError::Transient(said) } else { PortError::Permanent(said) }
    }
}
