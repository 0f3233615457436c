//! The ledger in one SQLite file: a single writer connection (`BEGIN IMMEDIATE`), readers beside it, WAL, and synchronous=FULL: a
//! committed transaction survives power loss.

use std::{
    io,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use sqlx::{
    SqlitePool,
    migrate::{Migrate, MigrateError, Migrator},
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};

use crate::fault::Fault;

static MIGRATIONS: Migrator = sqlx::migrate!("../migrations/sqlite");

/// The file and its connections.
#[derive(Clone)]
pub(crate) struct SqliteLedger {
    pub(crate) writer: SqlitePool,
    pub(crate) readers: SqlitePool,
    pub(crate) path: PathBuf,
}

impl SqliteLedger {
    /// Opens a file that has been migrated.
    pub(crate) async fn open(url: &str) -> Result<Self, Fault> {
        let path = file(url)?;
        if !path.exists() {
            return Err(Fault::NotMigrated { url: url.to_owned() });
        }
        sync_log(&path).map_err(|error| Fault::Url { url: url.to_owned(), message: format!("sync its log: {error}") })?;
        let writer = pool(&path, 1, false).await?;
        check_version(&writer, url).await?;
        let readers = pool(&path, 4, true).await?;
        Ok(Self { writer, readers, path })
    }

    /// Creates the file or brings it to this version.
    pub(crate) async fn migrate(url: &str) -> Result<(), Fault> {
        let path = file(url)?;
        if let Some(parent) = path.parent() {
            let made = create_folder(parent);
            made.map_err(|error| Fault::Url { url: url.to_owned(), message: format!("create {}: {error}", parent.display()) })?;
        }
        let writer = pool(&path, 1, false).await?;
        match MIGRATIONS.run(&writer).await {
            Ok(()) => {}
            Err(MigrateError::VersionMissing(version)) => return Err(Fault::Newer { url: url.to_owned(), version }),
            Err(error) => return Err(Fault::Migrate(error)),
        }
        writer.close().await;
        Ok(())
    }

    /// Empties the write-ahead log into the file. Answers whether it could.
    pub(crate) async fn truncate_wal(&self) -> Result<bool, Fault> {
        let (busy,): (i64,) = sqlx::query_as("PRAGMA wal_checkpoint(TRUNCATE)")
            .fetch_one(&self.writer)
            .await
            .map_err(Fault::database("truncate the write-ahead log"))?;
        Ok(busy == 0)
    }

    /// Rewrites the file page by page, and empties the log into it. Answers whether it could.
    pub(crate) async fn scrub(&self) -> Result<bool, Fault> {
        match sqlx::query("VACUUM").execute(&self.writer).await.map_err(Fault::database("rewrite the ledger's file")) {
            Ok(_) => self.truncate_wal().await,
            Err(fault) if fault.is_passing() => Ok(false),
            Err(fault) => Err(fault),
        }
    }

    /// Writes a consistent copy into a new file, durable when it returns.
    pub(crate) async fn backup(&self, to: &Path) -> Result<(), Fault> {
        let fail = |message: String| Fault::Url { url: to.display().to_string(), message };
        if to.exists() {
            return Err(fail("the file is there already; name a new one".into()));
        }
        sqlx::query("VACUUM INTO ?")
            .bind(to.display().to_string())
            .execute(&self.writer)
            .await
            .map_err(Fault::database("copy the ledger"))?;
        // The file's name is durable only with its folder.
        let durable = std::path::absolute(to).and_then(|to| {
            std::fs::File::open(&to)?.sync_all()?;
            to.parent().map_or(Ok(()), sync_folder)
        });
        durable.map_err(|error| fail(error.to_string()))
    }

    pub(crate) async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }
}

/// Makes a folder's names durable.
fn sync_folder(folder: &Path) -> io::Result<()> {
    std::fs::File::open(folder)?.sync_all()
}

/// Creates a folder and those above it that are missing, each durable in the one above it. What is in the folder SQLite sees to.
fn create_folder(folder: &Path) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    if let Some(above) = folder.parent() {
        create_folder(above)?;
    }
    match std::fs::create_dir(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists || !folder.is_dir() => Err(error),
        _ => folder.parent().map_or(Ok(()), sync_folder),
    }
}

/// Makes durable what a process that was killed between writing a commit and syncing it has left in the write-ahead log: whoever opens
/// the ledger reads it as committed, and may tell others.
fn sync_log(path: &Path) -> io::Result<()> {
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    match std::fs::File::open(log) {
        Ok(log) => log.sync_all(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

fn file(url: &str) -> Result<PathBuf, Fault> {
    let fail = |message: &str| Fault::Url { url: url.to_owned(), message: message.to_owned() };
    let path = url.strip_prefix("sqlite:").unwrap_or(url);
    let path = path.strip_prefix("//").unwrap_or(path);
    if path.is_empty() || path.starts_with(":memory:") {
        return Err(fail("a ledger must outlive the process: `sqlite:PATH`"));
    }
    std::path::absolute(path).map_err(|error| fail(&error.to_string()))
}

async fn pool(path: &Path, connections: u32, read_only: bool) -> Result<SqlitePool, Fault> {
    let options = SqliteConnectOptions::from_str("sqlite:")
        .map_err(Fault::database("open the ledger"))?
        .filename(path)
        .create_if_missing(!read_only)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .busy_timeout(Duration::from_secs(10))
        .pragma("secure_delete", "ON")
        // What a statement may have to undo is kept in memory: no file elsewhere holds a copy of rows.
        .pragma("temp_store", "MEMORY")
        // A batch's pages (32 MiB) stay in memory until its commit, and come back into the file every 32 MiB of log, not every 4.
        .pragma("cache_size", "-32768")
        .pragma("wal_autocheckpoint", "8000")
        .pragma("query_only", if read_only { "ON" } else { "OFF" })
        // Every statement stays prepared, and an answer of a whole batch does not wait for its reader row by row.
        .statement_cache_capacity(512)
        .row_buffer_size(512);
    SqlitePoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(Duration::from_secs(30))
        // There is no server that could have gone away.
        .test_before_acquire(false)
        .connect_with(options)
        .await
        .map_err(Fault::database("open the ledger"))
}

async fn check_version(pool: &SqlitePool, url: &str) -> Result<(), Fault> {
    let mut connection = pool.acquire().await.map_err(Fault::database("open the ledger"))?;
    let table: Option<(i64,)> = sqlx::query_as("SELECT 1 FROM sqlite_schema WHERE name = '_sqlx_migrations'")
        .fetch_optional(&mut *connection)
        .await
        .map_err(Fault::database("read the ledger's version"))?;
    if table.is_none() {
        return Err(Fault::NotMigrated { url: url.to_owned() });
    }
    let applied = connection.list_applied_migrations("_sqlx_migrations").await.map_err(Fault::Migrate)?;
    check_applied(&MIGRATIONS, &applied.iter().map(|done| done.version).collect::<Vec<_>>(), url)
}

/// Whether these migrations are all that this program knows, and no others.
pub(crate) fn check_applied(known: &Migrator, applied: &[i64], url: &str) -> Result<(), Fault> {
    if let Some(unknown) = applied.iter().find(|version| !known.version_exists(**version)) {
        return Err(Fault::Newer { url: url.to_owned(), version: *unknown });
    }
    if known.iter().any(|known| !applied.contains(&known.version)) {
        return Err(Fault::NotMigrated { url: url.to_owned() });
    }
    Ok(())
}
