//! The database: opening it, and the one way to a transaction.
//!
//! The rule: [`Ledger::transact`] begins, reads the instant, lets the caller decide and write, and commits. SQLite is used with a single
//! writer connection (`BEGIN IMMEDIATE`), WAL, and synchronous=FULL: a committed transaction survives power loss.

use std::{
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use chrono::{DateTime, Utc};
use sqlx::{
    Sqlite, SqliteConnection, SqlitePool, Transaction,
    migrate::{Migrate, MigrateError, Migrator},
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};
use uuid::Uuid;

use crate::{
    fault::Fault,
    rows,
    source::{Clock, Entropy, SinceBoot},
    trail::Unwritten,
};

static MIGRATIONS: Migrator = sqlx::migrate!("../migrations/sqlite");

/// How to open a ledger.
pub struct OpenOptions {
    /// `sqlite:PATH`.
    pub url: String,
    /// Where instants come from.
    pub clock: Arc<dyn Clock>,
    /// Where ids, salts and secrets come from.
    pub entropy: Arc<dyn Entropy>,
}

/// The ledger.
#[derive(Clone)]
pub struct Ledger {
    writer: SqlitePool,
    readers: SqlitePool,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    path: PathBuf,
    id: Uuid,
    insecure_demo: bool,
}

/// What a transaction answered, after it was committed. Nothing else can make one, so who holds it knows that it happened.
#[derive(Debug)]
#[must_use]
pub struct Committed<T>(T);

impl<T> Committed<T> {
    /// What the transaction answered.
    pub fn into_inner(self) -> T {
        self.0
    }
    /// What the transaction answered, to look at.
    pub fn get(&self) -> &T {
        &self.0
    }
}

/// An open transaction: reads and writes, an instant, and no commit.
pub struct Tx {
    inner: Transaction<'static, Sqlite>,
    at: DateTime<Utc>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    pub(crate) unwritten: Unwritten,
}

impl Tx {
    /// The instant of everything in this transaction.
    pub fn at(&self) -> DateTime<Utc> {
        self.at
    }

    /// How long the machine has been running.
    pub(crate) fn since_boot(&self) -> SinceBoot {
        self.clock.since_boot()
    }

    /// A new id (UUID version 7 of this transaction's instant).
    pub fn new_id(&self) -> Uuid {
        let mut random = [0; 10];
        self.entropy.fill(&mut random);
        uuid::Builder::from_unix_timestamp_millis(self.at.timestamp_millis().max(0) as u64, &random).into_uuid()
    }

    /// `N` unpredictable bytes.
    pub fn random<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        self.entropy.fill(&mut bytes);
        bytes
    }

    /// Marks a place to which the transaction can be undone.
    pub async fn savepoint(&mut self) -> Result<(), Fault> {
        self.write_trail().await?;
        sqlx::query("SAVEPOINT decided").execute(self.connection()).await.map_err(Fault::database("set a savepoint"))?;
        Ok(())
    }

    /// Undoes everything since [`Self::savepoint`]; the transaction goes on.
    pub async fn undo_to_savepoint(&mut self) -> Result<(), Fault> {
        self.unwritten = Unwritten::default();
        sqlx::query("ROLLBACK TO decided").execute(self.connection()).await.map_err(Fault::database("undo to a savepoint"))?;
        Ok(())
    }

    pub(crate) fn connection(&mut self) -> &mut SqliteConnection {
        &mut self.inner
    }
}

impl Ledger {
    /// Opens a ledger that has been migrated.
    ///
    /// # Errors
    /// [`Fault::NotMigrated`], [`Fault::Newer`], [`Fault::Url`] or what the database says.
    pub async fn open(options: OpenOptions) -> Result<Self, Fault> {
        let path = sqlite_path(&options.url)?;
        if !path.exists() {
            return Err(Fault::NotMigrated { url: options.url });
        }
        let writer = pool(&path, 1, false).await?;
        let ready = check_version(&writer, &options.url).await;
        let meta = match ready {
            Ok(()) => meta(&writer).await?,
            Err(fault) => return Err(fault),
        };
        let Some((id, insecure_demo)) = meta else { return Err(Fault::NotMigrated { url: options.url }) };
        let readers = pool(&path, 4, true).await?;
        Ok(Self { writer, readers, clock: options.clock, entropy: options.entropy, path, id, insecure_demo })
    }

    /// Creates the ledger or brings it to this version, then opens it. `insecure_demo` is set at creation only.
    ///
    /// # Errors
    /// As [`Self::open`], and [`Fault::Migrate`].
    pub async fn migrate(options: OpenOptions, insecure_demo: bool) -> Result<Self, Fault> {
        let path = sqlite_path(&options.url)?;
        if let Some(parent) = path.parent() {
            let made = std::fs::create_dir_all(parent);
            made.map_err(|error| Fault::Url {
                url: options.url.clone(),
                message: format!("create {}: {error}", parent.display()),
            })?;
        }
        let writer = pool(&path, 1, false).await?;
        match MIGRATIONS.run(&writer).await {
            Ok(()) => {}
            Err(MigrateError::VersionMissing(version)) => return Err(Fault::Newer { url: options.url, version }),
            Err(error) => return Err(Fault::Migrate(error)),
        }
        let mut id = [0; 16];
        options.entropy.fill(&mut id);
        sqlx::query("INSERT INTO ledger (only, id, created_at, insecure_demo) VALUES (1, ?, ?, ?) ON CONFLICT (only) DO NOTHING")
            .bind(uuid::Builder::from_random_bytes(id).into_uuid().to_string())
            .bind(rows::us(options.clock.now()))
            .bind(insecure_demo)
            .execute(&writer)
            .await
            .map_err(Fault::database("name the ledger"))?;
        writer.close().await;
        Self::open(options).await
    }

    /// The ledger's identity.
    pub fn id(&self) -> Uuid {
        self.id
    }

    /// The file it lives in.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it was created for approvals by self-declared actors.
    pub fn insecure_demo(&self) -> bool {
        self.insecure_demo
    }

    /// Now, by the ledger's clock.
    pub fn now(&self) -> DateTime<Utc> {
        self.clock.now()
    }

    /// The ledger's source of randomness.
    pub fn entropy(&self) -> &Arc<dyn Entropy> {
        &self.entropy
    }

    /// Runs `work` in one transaction and commits it. An error rolls it back; a refusal is not an error.
    pub async fn transact<T, E: From<Fault>>(&self, work: impl AsyncFnOnce(&mut Tx) -> Result<T, E>) -> Result<Committed<T>, E> {
        let mut tx = self.begin(&self.writer, "BEGIN IMMEDIATE").await?;
        // On an error `tx` is dropped, which rolls it back.
        let answer = work(&mut tx).await?;
        tx.write_trail().await?;
        #[expect(clippy::disallowed_methods, reason = "this is the one commit")]
        tx.inner.commit().await.map_err(Fault::database("commit"))?;
        Ok(Committed(answer))
    }

    /// Runs `work` on one consistent view of the ledger. It cannot write: the connection is read-only.
    pub async fn read<T, E: From<Fault>>(&self, work: impl AsyncFnOnce(&mut Tx) -> Result<T, E>) -> Result<T, E> {
        let mut tx = self.begin(&self.readers, "BEGIN DEFERRED").await?;
        let answer = work(&mut tx).await?;
        tx.inner.rollback().await.map_err(Fault::database("end a read"))?;
        Ok(answer)
    }

    /// Empties the write-ahead log into the file, so that what was overwritten is not left in it. Answers whether it could.
    pub async fn truncate_wal(&self) -> Result<bool, Fault> {
        let (busy,): (i64,) = sqlx::query_as("PRAGMA wal_checkpoint(TRUNCATE)")
            .fetch_one(&self.writer)
            .await
            .map_err(Fault::database("truncate the write-ahead log"))?;
        Ok(busy == 0)
    }

    /// Writes a consistent copy of the ledger into a new file, durable when it returns.
    pub async fn backup(&self, to: &Path) -> Result<(), Fault> {
        let fail = |message: String| Fault::Url { url: to.display().to_string(), message };
        if to.exists() {
            return Err(fail("the file is there already; name a new one".into()));
        }
        sqlx::query("VACUUM INTO ?")
            .bind(to.display().to_string())
            .execute(&self.writer)
            .await
            .map_err(Fault::database("copy the ledger"))?;
        std::fs::File::open(to).and_then(|file| file.sync_all()).map_err(|error| fail(error.to_string()))
    }

    /// Closes every connection.
    pub async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }

    async fn begin(&self, pool: &SqlitePool, statement: &'static str) -> Result<Tx, Fault> {
        let inner = pool.begin_with(statement).await.map_err(Fault::database("begin a transaction"))?;
        // Read after the lock is held: what was committed before this transaction was stamped before it.
        let (clock, entropy) = (self.clock.clone(), self.entropy.clone());
        Ok(Tx { inner, at: rows::whole_us(clock.now()), clock, entropy, unwritten: Unwritten::default() })
    }
}

fn sqlite_path(url: &str) -> Result<PathBuf, Fault> {
    let fail = |message: &str| Fault::Url { url: url.to_owned(), message: message.to_owned() };
    let path = url.strip_prefix("sqlite:").ok_or_else(|| fail("this version keeps its ledger in SQLite: `sqlite:PATH`"))?;
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
    if let Some(unknown) = applied.iter().find(|done| !MIGRATIONS.version_exists(done.version)) {
        return Err(Fault::Newer { url: url.to_owned(), version: unknown.version });
    }
    if MIGRATIONS.iter().any(|known| !applied.iter().any(|done| done.version == known.version)) {
        return Err(Fault::NotMigrated { url: url.to_owned() });
    }
    Ok(())
}

async fn meta(pool: &SqlitePool) -> Result<Option<(Uuid, bool)>, Fault> {
    let row: Option<(String, bool)> = sqlx::query_as("SELECT id, insecure_demo FROM ledger")
        .fetch_optional(pool)
        .await
        .map_err(Fault::database("read the ledger's identity"))?;
    row.map(|(id, insecure)| Ok((rows::parse("ledger", "id", &id, &id)?, insecure))).transpose()
}
