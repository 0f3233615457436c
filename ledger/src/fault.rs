//! A fault: our own infrastructure failed. Retried where that can help, shown without detail to who cannot help.

/// What went wrong in the ledger itself.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The database refused or did not answer.
    #[error("{doing}")]
    Database {
        /// What was being done, in the present tense.
        doing: &'static str,
        /// What the database said.
        #[source]
        source: sqlx::Error,
    },
    /// A row holds what it cannot hold.
    #[error("read {table}.{column} of {id}: {message}")]
    Unreadable {
        /// The table.
        table: &'static str,
        /// The column.
        column: &'static str,
        /// The row.
        id: String,
        /// What it holds and what would be right.
        message: String,
    },
    /// A write changed another number of rows than it had to.
    #[error("{doing}: {changed} rows changed where {wanted} had to")]
    RowsAffected {
        /// What was being done.
        doing: &'static str,
        /// How many rows changed.
        changed: u64,
        /// How many had to.
        wanted: u64,
    },
    /// There is no ledger here yet, or it is older than this program.
    #[error("open the ledger {url}: it has not been set up for this version; run `lethe migrate`")]
    NotMigrated {
        /// Which ledger.
        url: String,
    },
    /// Values that an earlier version wrote in clear are not all sealed.
    #[error("open the ledger {url}: names and reasons of an earlier version stand in it in clear; run `lethe migrate`")]
    NotSealed {
        /// Which ledger.
        url: String,
    },
    /// The ledger was written by a newer program.
    #[error("open the ledger {url}: it was written by a newer version of lethe (migration {version}); use that version")]
    Newer {
        /// Which ledger.
        url: String,
        /// The first migration this program does not know.
        version: i64,
    },
    /// The URL names no ledger that this version can use.
    #[error("open the ledger {url}: {message}")]
    Url {
        /// Which.
        url: String,
        /// What would be right.
        message: String,
    },
    /// The connection was lost while a commit was under way.
    #[error(
        "commit: the connection was lost before the answer came; whether it happened is not known. The same call again finds out"
    )]
    OutcomeUnknown {
        /// What the connection said.
        #[source]
        source: sqlx::Error,
    },
    /// What only a ledger in a file can do.
    #[error("{doing}: this ledger lives on a PostgreSQL server; its own tools copy it (pg_dump, or a base backup with its log)")]
    NotAFile {
        /// What was asked.
        doing: &'static str,
    },
    /// Somebody moved the log in a transaction that had it locked.
    #[error("seal the trail: the log's size is no longer {size}")]
    LogMoved {
        /// What it was.
        size: u64,
    },
    /// The log's tiles do not prove what was signed.
    #[error("prove {what}: {why}; `lethe audit verify` names what was changed")]
    LogBroken {
        /// What was to be proved.
        what: String,
        /// What is wrong.
        why: String,
    },
    /// Migrating failed.
    #[error("migrate the ledger")]
    Migrate(#[source] sqlx::migrate::MigrateError),
    /// An audit entry lacks what every entry must have.
    #[error("append to the trail: missing or empty: {}", .0.join(", "))]
    IncompleteEntry(Vec<&'static str>),
    /// A value cannot be written as canonical JSON.
    #[error(transparent)]
    NotCanonical(#[from] lethe_stages::canonical::NotCanonical),
}

impl Fault {
    /// Wraps what the database said with what was being done.
    pub(crate) fn database(doing: &'static str) -> impl FnOnce(sqlx::Error) -> Fault {
        move |source| Fault::Database { doing, source }
    }

    /// What went wrong in a commit on a server. Without an answer from the server nobody knows what became of it.
    pub(crate) fn of_commit(source: sqlx::Error) -> Fault {
        match server_code(&source) {
            Some(code) if !code.starts_with("57P") && !code.starts_with("08") => Fault::Database { doing: "commit", source },
            _ => Fault::OutcomeUnknown { source },
        }
    }

    /// Whether trying again in a moment may help: the database is busy, full or away, or chose this transaction to let another one go on.
    pub fn is_passing(&self) -> bool {
        match self {
            Fault::Database { source, .. } if server_code(source).is_some() => {
                let code = server_code(source).unwrap_or_default();
                // Connections, resources, an operator's intervention, conflicts; a lock not to be had, a standby that is
                // not yet promoted, a transaction in which this process stood still.
                ["08", "53", "57", "40"].contains(&&code[..2]) || ["55P03", "25006", "25P03"].contains(&code.as_str())
            }
            Fault::Database { source: sqlx::Error::Database(error), .. } => {
                // SQLITE_BUSY, SQLITE_LOCKED, SQLITE_FULL and SQLITE_IOERR, in the low byte of the extended code.
                let busy = |code: i32| [5, 6, 10, 13].contains(&(code & 0xff));
                error.code().and_then(|code| code.parse::<i32>().ok()).is_some_and(busy) || self.is_destroyed_key()
            }
            Fault::Database { source, .. } => {
                matches!(
                    source,
                    sqlx::Error::PoolTimedOut | sqlx::Error::Io(_) | sqlx::Error::WorkerCrashed | sqlx::Error::Protocol(_)
                )
            }
            Fault::OutcomeUnknown { .. } => true,
            _ => false,
        }
    }

    /// Whether the database undid the transaction so that another one could go on: a deadlock, a serialization failure, or a key that
    /// another one destroyed. Nothing of it happened, and the same work can be done again at once.
    pub fn is_conflict(&self) -> bool {
        let Fault::Database { source, .. } = self else { return false };
        server_code(source).is_some_and(|code| matches!(code.as_str(), "40001" | "40P01")) || self.is_destroyed_key()
    }

    /// Whether a personal value was to be written under a key that somebody else has destroyed: these are the schema's words.
    pub(crate) fn is_destroyed_key(&self) -> bool {
        let Fault::Database { source: sqlx::Error::Database(error), .. } = self else { return false };
        error.message().contains("trail_values: the key is destroyed")
    }
}

/// The SQLSTATE of what a PostgreSQL server said; five characters always.
fn server_code(error: &sqlx::Error) -> Option<String> {
    let error = error.as_database_error()?.try_downcast_ref::<sqlx::postgres::PgDatabaseError>()?;
    Some(error.code().to_owned())
}
