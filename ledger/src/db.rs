//! The database: opening it, and the one way to a transaction.
//!
//! The rule: [`Ledger::transact`] begins, reads the instant, lets the caller decide and write, and commits.
//!
//! On SQLite the instant is the injected clock's, read once the write lock is held. On PostgreSQL it is the server's, read once when the
//! transaction begins; an entry of a chain that another transaction moved meanwhile is dated like the one before it (see `trail`).
//! Programs built with the `testing` feature may inject a clock there too.
//!
//! If we die before the commit, nothing happened. A connection that is cut during the commit leaves it open whether it happened
//! ([`Fault::OutcomeUnknown`]): who repeats the same work finds out, by epoch or by key.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use chrono::{DateTime, TimeDelta, Utc};
use lethe_stages::crash::{CrashPoint, reached};
use uuid::Uuid;

use crate::{
    fault::Fault,
    personal::{Remembered, SealingKey},
    postgres::PostgresLedger,
    rows::{self, Cells},
    source::{Clock, Entropy, SinceBoot},
    sql::{Inner, statements},
    sqlite::SqliteLedger,
    trail::Unwritten,
};

/// The role under which the program works on PostgreSQL, unless `lethe migrate` is given another.
pub const APP_ROLE: &str = "lethe_app";

/// How to open a ledger.
pub struct OpenOptions {
    /// `sqlite:PATH` or `postgres://…`.
    pub url: String,
    /// Where instants come from.
    pub clock: Arc<dyn Clock>,
    /// Where ids, salts and secrets come from.
    pub entropy: Arc<dyn Entropy>,
}

/// What is due later than that is found by looking: nobody is told of it, because who tells waits for others who do.
const HINT_WITHIN: TimeDelta = TimeDelta::hours(1);

/// What a transaction is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Reads,
    Writes,
    /// It decides on what may be paused or suspected.
    WritesUnderControl,
}

#[derive(Clone)]
enum Database {
    Sqlite(SqliteLedger),
    Postgres(PostgresLedger),
}

/// The ledger.
#[derive(Clone)]
pub struct Ledger {
    database: Database,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    id: Uuid,
    insecure_demo: bool,
    tenant_in_flight_max: i64,
    remembered: Remembered,
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
    pub(crate) inner: Inner,
    pub(crate) writes: bool,
    pub(crate) tenant_in_flight_max: i64,
    at: DateTime<Utc>,
    skew: TimeDelta,
    due: Option<DateTime<Utc>>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    pub(crate) unwritten: Unwritten,
    /// Keys of personal values that the process remembers, and those that this transaction read or made.
    pub(crate) remembered: Remembered,
    pub(crate) keys: HashMap<String, Arc<SealingKey>>,
}

statements! {
    LEDGER = "read the ledger's identity", "SELECT id, insecure_demo FROM ledger";
    NAME_LEDGER = "name the ledger",
        "INSERT INTO ledger (\"only\", id, created_at, insecure_demo) VALUES (1, $1, $2, $3) ON CONFLICT (\"only\") DO NOTHING";
    // The one place where a database is asked for the time.
    SERVER_TIME = "read the server's clock", "SELECT NULL AS at, $1",
        "SELECT now() AS at, CASE WHEN $1 THEN pg_advisory_xact_lock_shared(hashtextextended('lethe control', 0)) END AS shared";
    SAVEPOINT = "set a savepoint", "SAVEPOINT decided";
    UNDO = "undo to a savepoint", "ROLLBACK TO SAVEPOINT decided";
    HINT = "say that something is due", "SELECT $1", "SELECT pg_notify('lethe_due', $1)";
}

impl Tx {
    /// The instant of everything in this transaction.
    pub fn at(&self) -> DateTime<Utc> {
        self.at
    }

    /// How far the database's clock is ahead of this machine's.
    pub(crate) fn skew(&self) -> TimeDelta {
        self.skew
    }

    /// A run is due at an instant: idle workers are told when this is committed.
    pub(crate) fn is_due(&mut self, at: DateTime<Utc>) {
        self.due = Some(self.due.map_or(at, |due| due.min(at)));
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
        self.sql(&SAVEPOINT).run().await.map(drop)
    }

    /// Undoes everything since [`Self::savepoint`]; the transaction goes on. What was locked since is free again.
    pub async fn undo_to_savepoint(&mut self) -> Result<(), Fault> {
        self.unwritten = Unwritten::default();
        // One that was made since is undone.
        self.keys.clear();
        self.due = None;
        self.sql(&UNDO).run().await.map(drop)
    }

    async fn identity(&mut self) -> Result<Option<(Uuid, bool)>, Fault> {
        let row = self.sql(&LEDGER).optional().await?;
        row.map(|row| {
            let cells = Cells::new(&row, "ledger", "id");
            Ok((cells.id("id")?, cells.get("insecure_demo")?))
        })
        .transpose()
    }
}

impl Ledger {
    /// Opens a ledger that has been migrated.
    ///
    /// # Errors
    /// [`Fault::NotMigrated`], [`Fault::Newer`], [`Fault::Url`] or what the database says.
    pub async fn open(options: OpenOptions) -> Result<Self, Fault> {
        let database = Self::connect(&options.url).await?;
        let mut ledger = Self::over(database, &options);
        let (identity, clear) =
            ledger.read(async |tx: &mut Tx| Ok::<_, Fault>((tx.identity().await?, tx.has_clear_values().await?))).await?;
        let Some((id, insecure_demo)) = identity else { return Err(Fault::NotMigrated { url: redacted(&options.url) }) };
        if clear {
            return Err(Fault::NotSealed { url: redacted(&options.url) });
        }
        (ledger.id, ledger.insecure_demo) = (id, insecure_demo);
        Ok(ledger)
    }

    /// Creates the ledger or brings it to this version, then opens it. `insecure_demo` is set at creation only. The application's role is
    /// [`APP_ROLE`].
    ///
    /// # Errors
    /// As [`Self::open`], and [`Fault::Migrate`].
    pub async fn migrate(options: OpenOptions, insecure_demo: bool) -> Result<Self, Fault> {
        Self::migrate_for(options, insecure_demo, APP_ROLE).await
    }

    /// The same, for an application's role of another name: on PostgreSQL its rights are set to what the program needs and no more, if
    /// there is such a role.
    pub async fn migrate_for(options: OpenOptions, insecure_demo: bool, app_role: &str) -> Result<Self, Fault> {
        if is_postgres(&options.url) {
            PostgresLedger::migrate(&options.url, app_role).await?;
        } else {
            sqlite_only(&options.url)?;
            SqliteLedger::migrate(&options.url).await?;
        }
        let ledger = Self::over(Self::connect(&options.url).await?, &options);
        let mut id = [0; 16];
        options.entropy.fill(&mut id);
        let id = uuid::Builder::from_random_bytes(id).into_uuid();
        let named = ledger.transact(async |tx: &mut Tx| {
            let at = tx.at();
            tx.sql(&NAME_LEDGER).bind(id).bind(at).bind(insecure_demo).run().await
        });
        named.await?.into_inner();
        ledger.seal_all().await?;
        ledger.close().await;
        Self::open(options).await
    }

    async fn connect(url: &str) -> Result<Database, Fault> {
        if is_postgres(url) {
            return Ok(Database::Postgres(PostgresLedger::open(url).await?));
        }
        sqlite_only(url)?;
        Ok(Database::Sqlite(SqliteLedger::open(url).await?))
    }

    fn over(database: Database, options: &OpenOptions) -> Self {
        let (clock, entropy) = (options.clock.clone(), options.entropy.clone());
        Self {
            database,
            clock,
            entropy,
            id: Uuid::nil(),
            insecure_demo: false,
            tenant_in_flight_max: i64::MAX,
            remembered: Remembered::default(),
        }
    }

    /// The same ledger, with a limit to what one tenant may have in flight.
    pub fn with_tenant_in_flight_max(self, runs: i64) -> Self {
        Self { tenant_in_flight_max: runs, ..self }
    }

    /// The ledger's identity.
    pub fn id(&self) -> Uuid {
        self.id
    }

    /// The file it lives in; `None` where it lives on a server.
    pub fn path(&self) -> Option<&Path> {
        match &self.database {
            Database::Sqlite(sqlite) => Some(&sqlite.path),
            Database::Postgres(_) => None,
        }
    }

    /// Where files that belong beside the ledger go: its folder, or the current one.
    pub fn folder(&self) -> PathBuf {
        self.path().and_then(Path::parent).unwrap_or(Path::new(".")).to_owned()
    }

    /// Whether it was created for approvals by self-declared actors.
    pub fn insecure_demo(&self) -> bool {
        self.insecure_demo
    }

    /// Now, by this process's clock; what a transaction decides by is [`Tx::at`].
    pub fn now(&self) -> DateTime<Utc> {
        self.clock.now()
    }

    /// The ledger's source of randomness.
    pub fn entropy(&self) -> &Arc<dyn Entropy> {
        &self.entropy
    }

    /// Runs `work` in one transaction and commits it. An error rolls it back; a refusal is not an error.
    pub async fn transact<T, E: From<Fault>>(&self, work: impl AsyncFnOnce(&mut Tx) -> Result<T, E>) -> Result<Committed<T>, E> {
        self.transact_after(Kind::Writes, work).await
    }

    /// The same where nothing that is paused or suspected changes until it ends: [`Tx::lock_control`] waits for it, and it for that. It is
    /// locked by the statement that reads the server's clock.
    pub async fn transact_under_control<T, E: From<Fault>>(
        &self,
        work: impl AsyncFnOnce(&mut Tx) -> Result<T, E>,
    ) -> Result<Committed<T>, E> {
        self.transact_after(Kind::WritesUnderControl, work).await
    }

    async fn transact_after<T, E: From<Fault>>(
        &self,
        kind: Kind,
        work: impl AsyncFnOnce(&mut Tx) -> Result<T, E>,
    ) -> Result<Committed<T>, E> {
        let mut tx = self.begin(kind).await?;
        // On an error `tx` is dropped, which rolls it back.
        let answer = work(&mut tx).await?;
        tx.write_trail().await?;
        if let Some(due) = tx.due.filter(|due| tx.locks() && *due - tx.at() < HINT_WITHIN) {
            tx.sql(&HINT).bind(due.to_rfc3339()).run().await?;
        }
        commit(tx.inner).await?;
        // Not before: a key that was made in vain is none.
        tx.remembered.learn(tx.keys);
        Ok(Committed(answer))
    }

    /// Runs `work` on one consistent view of the ledger. It cannot write: the transaction is read-only.
    pub async fn read<T, E: From<Fault>>(&self, work: impl AsyncFnOnce(&mut Tx) -> Result<T, E>) -> Result<T, E> {
        let mut tx = self.begin(Kind::Reads).await?;
        let answer = work(&mut tx).await?;
        let ended = match tx.inner {
            Inner::Sqlite(tx) => tx.rollback().await,
            Inner::Postgres { tx, .. } => tx.rollback().await,
        };
        ended.map_err(Fault::database("end a read"))?;
        Ok(answer)
    }

    /// Empties SQLite's write-ahead log into the file, so that what was overwritten is not left in it. Answers whether it could. A server
    /// has nothing of the kind to ask for.
    pub async fn truncate_wal(&self) -> Result<bool, Fault> {
        match &self.database {
            Database::Sqlite(sqlite) => sqlite.truncate_wal().await,
            Database::Postgres(_) => Ok(true),
        }
    }

    /// Rewrites a ledger in a file without what was deleted or overwritten in it. Answers whether it could: somebody who reads or writes
    /// just then keeps it from that. A server's VACUUM is its operator's.
    pub async fn scrub(&self) -> Result<bool, Fault> {
        match &self.database {
            Database::Sqlite(sqlite) => sqlite.scrub().await,
            Database::Postgres(_) => Ok(false),
        }
    }

    /// Writes a consistent copy of the ledger into a new file, durable when it returns. For files only.
    pub async fn backup(&self, to: &Path) -> Result<(), Fault> {
        match &self.database {
            Database::Sqlite(sqlite) => sqlite.backup(to).await,
            Database::Postgres(_) => Err(Fault::NotAFile { doing: "copy the ledger" }),
        }
    }

    /// Where an idle worker is told that something is due; `None` where it must look by itself.
    pub async fn hints(&self) -> Result<Option<Hints>, Fault> {
        match &self.database {
            Database::Sqlite(_) => Ok(None),
            Database::Postgres(postgres) => postgres.hints().await,
        }
    }

    /// Closes every connection.
    pub async fn close(&self) {
        match &self.database {
            Database::Sqlite(sqlite) => sqlite.close().await,
            Database::Postgres(postgres) => postgres.close().await,
        }
    }

    async fn begin(&self, kind: Kind) -> Result<Tx, Fault> {
        let writes = kind != Kind::Reads;
        let inner = match &self.database {
            Database::Sqlite(SqliteLedger { writer, readers, .. }) => {
                let (pool, how) = if writes { (writer, "BEGIN IMMEDIATE") } else { (readers, "BEGIN DEFERRED") };
                Inner::Sqlite(pool.begin_with(how).await.map_err(Fault::database("begin a transaction"))?)
            }
            Database::Postgres(postgres) => postgres.begin(writes).await?,
        };
        // Read after the lock is held: what was committed before this transaction was stamped before it.
        let here = rows::whole_us(self.clock.now());
        let (clock, entropy) = (self.clock.clone(), self.entropy.clone());
        let mut tx = Tx {
            inner,
            writes,
            tenant_in_flight_max: self.tenant_in_flight_max,
            at: here,
            skew: TimeDelta::zero(),
            due: None,
            clock,
            entropy,
            unwritten: Unwritten::default(),
            remembered: self.remembered.clone(),
            keys: HashMap::new(),
        };
        let under_control = kind == Kind::WritesUnderControl;
        if matches!(tx.inner, Inner::Postgres { .. }) && (under_control || !self.clock_is_injected()) {
            let row = tx.sql(&SERVER_TIME).bind(under_control).first().await?;
            if !self.clock_is_injected() {
                tx.at = Cells::new(&row, "the server", "at").at("at")?;
                tx.skew = tx.at - here;
            }
        }
        Ok(tx)
    }

    #[cfg(feature = "testing")]
    fn clock_is_injected(&self) -> bool {
        self.clock.is_injected()
    }

    #[cfg(not(feature = "testing"))]
    fn clock_is_injected(&self) -> bool {
        false
    }
}

#[expect(clippy::disallowed_methods, reason = "this is the one commit")]
async fn commit(inner: Inner) -> Result<(), Fault> {
    match inner {
        Inner::Sqlite(tx) => tx.commit().await.map_err(Fault::database("commit"))?,
        Inner::Postgres { tx, .. } => tx.commit().await.map_err(Fault::of_commit)?,
    }
    reached(CrashPoint::Committed);
    Ok(())
}

pub use crate::postgres::Hints;

/// Whether a URL names a PostgreSQL ledger.
pub fn is_postgres(url: &str) -> bool {
    url.starts_with("postgres:") || url.starts_with("postgresql:")
}

fn sqlite_only(url: &str) -> Result<(), Fault> {
    if url.starts_with("sqlite:") {
        return Ok(());
    }
    let message = "a ledger is `sqlite:PATH` or `postgres://USER@HOST/DATABASE`".to_owned();
    Err(Fault::Url { url: redacted(url), message })
}

/// A ledger's URL without its password, to be shown.
pub fn redacted(url: &str) -> String {
    if url.starts_with("sqlite:") {
        return url.to_owned();
    }
    let Some((scheme, rest)) = url.split_once("://") else {
        return url.split_once(':').map_or(url.to_owned(), |(scheme, _)| format!("{scheme}:…"));
    };
    // The last `@` ends who: a password may hold every other mark.
    let host = rest.rfind('@').map_or(0, |end| end + 1);
    let (rest, query) = match rest[host..].find('?') {
        Some(mark) => (&rest[..host + mark], Some(&rest[host + mark + 1..])),
        None => (rest, None),
    };
    let shown = match rest[..host].split_once(':') {
        Some((user, _)) => format!("{user}:…@{}", &rest[host..]),
        None if rest.to_ascii_lowercase().contains("password=") && query.is_none() => "…".to_owned(),
        None => rest.to_owned(),
    };
    let secret = |pair: &&str| !pair.to_ascii_lowercase().starts_with("password=");
    match query.map(|query| query.split('&').filter(secret).collect::<Vec<_>>().join("&")) {
        Some(query) if !query.is_empty() => format!("{scheme}://{shown}?{query}"),
        _ => format!("{scheme}://{shown}"),
    }
}

#[cfg(test)]
mod tests {
    use super::redacted;

    #[test]
    fn a_password_is_not_shown() {
        for (url, shown) in [
            ("sqlite:lethe.db", "sqlite:lethe.db"),
            ("postgres://lethe@db/ledger", "postgres://lethe@db/ledger"),
            (
                "postgres://lethe:se@cr:et@db:5432/ledger?sslmode=verify-full",
                "postgres://lethe:…@db:5432/ledger?sslmode=verify-full",
            ),
            ("postgres://db/ledger?user=a&password=secret", "postgres://db/ledger?user=a"),
            ("postgres://a:p/w@db/ledger", "postgres://a:…@db/ledger"),
            ("postgres://a:pa?ss@db/ledger?sslmode=require", "postgres://a:…@db/ledger?sslmode=require"),
            ("postgres:app:secret@db", "postgres:…"),
            ("postgres://db/ledger?password=secret&sslrootcert=/a@b", "postgres://…"),
        ] {
            assert_eq!(redacted(url), shown);
        }
    }
}
