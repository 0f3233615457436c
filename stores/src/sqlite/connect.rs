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
    /// A connection that cannot write. What a writer left unfinished when it died is undone first, which needs one that can.
    pub(super) async fn reading(&self) -> Result<SqliteConnection, PortError> {
        let options = self.options().read_only(true).pragma("temp_store", "MEMORY");
        self.is_there()?;
        let opened = match options.connect().await {
            Ok(mut connection) => match look(&mut connection).await {
                Err(error) if needs_recovery(&error) => {
                    drop(connection.close().await);
                    Err(error)
                }
                // Whatever else is wrong is for the statement to say that needs it.
                _ => Ok(connection),
            },
            Err(error) => Err(error),
        };
        if opened.as_ref().is_err_and(needs_recovery) {
            let mut writing = self.writing().await?;
            look(&mut writing).await.map_err(failed(format!("recover {}", self.path.display())))?;
            close(writing).await;
            return self.connect(options).await;
        }
        opened.map_err(failed(format!("open {}", self.path.display())))
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
            // Of a journal that is a file beside this one, FULL does not synchronise the removal, which is the commit: after a power cut
            // it could be back and undo what is on record as done.
            .synchronous(SqliteSynchronous::Extra)
            // Enforced, a CASCADE or SET NULL would change records that nobody named; `describe` lists the references instead.
            .foreign_keys(false)
            .disable_statement_logging()
    }

    async fn connect(&self, options: SqliteConnectOptions) -> Result<SqliteConnection, PortError> {
        self.is_there()?;
        options.connect().await.map_err(failed(format!("open {}", self.path.display())))
    }

    fn is_there(&self) -> Result<(), PortError> {
        let path = self.path.display();
        match std::fs::metadata(&self.path) {
            Ok(found) if found.is_file() => Ok(()),
            Ok(_) => Err(PortError::Permanent(format!("open {path}: it is not a file"))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                Err(PortError::Permanent(format!("open {path}: there is no such file")))
            }
            Err(error) => Err(crate::archive::io_error(&format!("open {path}"), &error)),
        }
    }
}

/// Reads the file's first page, and with it whatever journal lies beside it.
async fn look(connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    sqlx::query("SELECT 1 FROM sqlite_schema LIMIT 1").fetch_optional(connection).await.map(drop)
}

/// Whether a connection that cannot write found the journal of a writer that died: READONLY_RECOVERY, READONLY_ROLLBACK.
fn needs_recovery(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Database(inner) if matches!(inner.code().as_deref(), Some("264" | "776")))
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
                matches!(code, 4 | 5 | 6 | 7 | 9 | 10 | 13 | 14 | 15 | 17) || needs_recovery(&error)
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
