//! The ledger on a PostgreSQL server: migrations under an advisory lock, transactions at READ COMMITTED with explicit locks (see `locks`),
//! reads on one snapshot, and hints by LISTEN/NOTIFY.
//!
//! The rule: nothing is kept in a session, so that a pooler may lend a connection for one transaction. With
//! `?statement-cache-capacity=0` in the URL no statement stays prepared either, and nobody listens: workers look by themselves.
//! Migrations and hints need a direct connection. If the server goes away, what was not committed did not happen.

use std::{str::FromStr, time::Duration};

use sqlx::{
    Connection, PgConnection, PgPool,
    migrate::{Migrate, MigrateError, Migrator},
    postgres::{PgConnectOptions, PgListener, PgPoolOptions},
};

use crate::{db::redacted, fault::Fault, sql::Inner, sqlite::check_applied};

static MIGRATIONS: Migrator = sqlx::migrate!("../migrations/postgres");

/// The rights of the role under which the program works; `{role}` stands for its name.
const RIGHTS: &str = include_str!("../../migrations/postgres/rights/app.sql");

/// Transactions of one process that are open at a time, and one more to listen.
const CONNECTIONS: u32 = 9;

/// A connection that has been idle for longer is asked whether it is still there before it is used.
const TRUSTED_FOR: Duration = Duration::from_millis(100);

/// The server and its connections.
#[derive(Clone)]
pub(crate) struct PostgresLedger {
    pool: PgPool,
    prepared: bool,
}

/// Where an idle worker is told that something is due. A hint: it may be lost, and polling finds what it would have said.
pub struct Hints(PgListener);

impl Hints {
    /// Waits for the next hint, or for a connection that was lost to be there again.
    pub async fn next(&mut self) -> Result<(), Fault> {
        self.0.try_recv().await.map(drop).map_err(Fault::database("listen for what is due"))
    }
}

impl PostgresLedger {
    /// Opens a ledger that has been migrated.
    pub(crate) async fn open(url: &str) -> Result<Self, Fault> {
        let (options, prepared) = options(url)?;
        let mut connection = connect(&options).await?;
        check_version(&mut connection, url).await?;
        connection.close().await.map_err(Fault::database("open the ledger"))?;
        let pool = PgPoolOptions::new()
            .max_connections(CONNECTIONS)
            .acquire_timeout(Duration::from_secs(10))
            // The server may have gone away since, and a pooler even more often. Under load each asks and answers all the time.
            .test_before_acquire(false)
            .before_acquire(|connection, seen| {
                Box::pin(async move {
                    if seen.idle_for > TRUSTED_FOR {
                        connection.ping().await?;
                    }
                    Ok(true)
                })
            })
            .after_connect(|_, _| {
                lethe_nodelay::set();
                Box::pin(std::future::ready(Ok(())))
            })
            .connect_lazy_with(options);
        Ok(Self { pool, prepared })
    }

    /// Brings the database to this version, as the role that owns its tables; then sets the rights of the application's role.
    pub(crate) async fn migrate(url: &str, app_role: &str) -> Result<(), Fault> {
        let (options, _) = options(url)?;
        let mut connection = connect(&options).await?;
        // One at a time, however many start at once. Both end with the session.
        for prepare in [
            "SELECT pg_advisory_lock(hashtextextended('lethe migrate', 0))",
            // Whoever works meanwhile is not kept waiting behind a statement that itself waits for a lock.
            "SET lock_timeout = '10s'",
        ] {
            sqlx::query(prepare).execute(&mut connection).await.map_err(Fault::database("prepare to migrate"))?;
        }
        match MIGRATIONS.run_direct(None, &mut connection, false).await {
            Ok(()) => {}
            Err(MigrateError::VersionMissing(version)) => return Err(Fault::Newer { url: redacted(url), version }),
            Err(error) => return Err(Fault::Migrate(error)),
        }
        grant(&mut connection, app_role).await?;
        connection.close().await.map_err(Fault::database("migrate the ledger"))
    }

    /// Begins a transaction that locks what it decides on, or one that reads from one snapshot.
    pub(crate) async fn begin(&self, writes: bool) -> Result<Inner, Fault> {
        // A worker that stands still in a transaction does not keep what it locked from the others, and nobody waits for a lock for so
        // long that the clock seems to have jumped meanwhile. What is decided on is found by an index, also in a ledger that has just
        // grown and of which the server knows nothing yet; and planned once, not at each call.
        let how = if writes {
            "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL idle_in_transaction_session_timeout = '30s'; SET LOCAL lock_timeout = '20s'; \
             SET LOCAL enable_seqscan = off; SET LOCAL jit = off; SET LOCAL plan_cache_mode = force_generic_plan"
        } else {
            // A page's first rows are there before a plan for all of them would be compiled.
            "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL jit = off"
        };
        let tx = self.pool.begin_with(how).await.map_err(Fault::database("begin a transaction"))?;
        Ok(Inner::Postgres { tx, prepared: self.prepared })
    }

    /// Listens; not through a pooler.
    pub(crate) async fn hints(&self) -> Result<Option<Hints>, Fault> {
        if !self.prepared {
            return Ok(None);
        }
        let mut listener = PgListener::connect_with(&self.pool).await.map_err(Fault::database("listen for what is due"))?;
        listener.listen("lethe_due").await.map_err(Fault::database("listen for what is due"))?;
        Ok(Some(Hints(listener)))
    }

    pub(crate) async fn close(&self) {
        self.pool.close().await;
    }
}

/// How to connect, and whether statements may stay prepared.
fn options(url: &str) -> Result<(PgConnectOptions, bool), Fault> {
    let options = PgConnectOptions::from_str(url).map_err(|error| Fault::Url {
        url: redacted(url),
        message: match error {
            // What it says may repeat a part of the URL.
            sqlx::Error::Configuration(_) => "this is no PostgreSQL URL".into(),
            error => error.to_string(),
        },
    })?;
    let prepared = !url.contains("statement-cache-capacity=0");
    let options = options.application_name("lethe");
    // Poolers refuse start-up parameters that they do not know; nothing is read as text.
    Ok((if prepared { options } else { options.extra_float_digits(None) }, prepared))
}

async fn connect(options: &PgConnectOptions) -> Result<PgConnection, Fault> {
    PgConnection::connect_with(options).await.map_err(Fault::database("connect to the ledger"))
}

async fn check_version(connection: &mut PgConnection, url: &str) -> Result<(), Fault> {
    let asked = sqlx::query_scalar("SELECT to_regclass('_sqlx_migrations') IS NOT NULL").persistent(false);
    let there: bool = asked.fetch_one(&mut *connection).await.map_err(Fault::database("read the ledger's version"))?;
    if !there {
        return Err(Fault::NotMigrated { url: redacted(url) });
    }
    let applied = connection.list_applied_migrations("_sqlx_migrations").await.map_err(Fault::Migrate)?;
    check_applied(&MIGRATIONS, &applied.iter().map(|done| done.version).collect::<Vec<_>>(), &redacted(url))
}

/// Gives the application's role what it needs and takes what it does not; a role that does not exist is left alone.
async fn grant(connection: &mut PgConnection, role: &str) -> Result<(), Fault> {
    let exists = "SELECT quote_ident(rolname), rolname = current_user FROM pg_roles WHERE rolname = $1";
    let found: Option<(String, bool)> =
        sqlx::query_as(exists).bind(role).fetch_optional(&mut *connection).await.map_err(Fault::database("look for the role"))?;
    match found {
        Some((_, true)) => tracing::warn!(role, "the role that migrates is the one that works: it can change the trail"),
        Some((quoted, false)) => {
            let rights = sqlx::AssertSqlSafe(RIGHTS.replace("{role}", &quoted));
            sqlx::raw_sql(rights).execute(connection).await.map_err(Fault::database("set the role's rights"))?;
        }
        None => tracing::warn!(
            role,
            "there is no such role: create it and migrate again, or the program works with its owner's rights"
        ),
    }
    Ok(())
}
