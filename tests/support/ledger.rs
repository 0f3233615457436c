//! The ledger's rows behind the product's back: to look at them, and to do to them what nobody may.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use lethe_ledger::{Ledger, OpenOptions};
use lethe_worker::clock::{SeededEntropy, SystemClock};
use serde_json::Value as Json;
use sqlx::{AssertSqlSafe, Connection, PgConnection, Row, SqliteConnection, ValueRef, sqlite::SqliteConnectOptions};
use tempfile::TempDir;
use tokio::sync::OnceCell;

use super::{
    World,
    server::{self, variable},
};

/// The role under which the program works in tests.
pub const APP: &str = "lethe_app";

/// Where a world's ledger lives.
pub enum TestLedger {
    /// In a file of the world's folder.
    File,
    /// In a database of its own, dropped with the world.
    Server(TestDatabase),
}

/// A database on the test server.
pub struct TestDatabase(String);

static TEMPLATE: OnceCell<String> = OnceCell::const_new();
static NUMBER: AtomicU64 = AtomicU64::new(0);

/// The URL of a database on that server, as a role of the server's own choice or as the application's.
fn on(url: &str, database: &str, app: bool) -> String {
    let (scheme, rest) = url.split_once("://").expect("a URL");
    let (authority, _) = rest.split_once('/').unwrap_or((rest, ""));
    let host = authority.rsplit('@').next().expect("a host");
    if app { format!("{scheme}://{APP}:{APP}@{host}/{database}") } else { format!("{scheme}://{authority}/{database}") }
}

/// A database that has been migrated, to copy from: one for all runs of the tests over the same migrations.
async fn template() -> &'static str {
    TEMPLATE.get_or_init(make_template).await
}

/// SHA-256 of every migration and right, so that a template is never another version's.
fn version() -> String {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../migrations/postgres");
    let mut files: Vec<_> = ["", "rights"]
        .into_iter()
        .flat_map(|folder| root.join(folder).read_dir().expect("the migrations"))
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.is_file())
        .collect();
    files.sort();
    let texts: Vec<u8> = files.iter().flat_map(|path| std::fs::read(path).expect("a migration")).collect();
    lethe_stages::canonical::sha256(&texts)["sha256:".len()..][..12].to_owned()
}

async fn make_template() -> String {
    let name = format!("lethe_template_{}", version());
    let mut alone = PgConnection::connect(&variable("LETHE_TEST_POSTGRES")).await.expect("connect to LETHE_TEST_POSTGRES");
    // One process at a time makes it; the lock ends with this connection.
    sqlx::query("SELECT pg_advisory_lock(7303)").execute(&mut alone).await.expect("lock");
    let there: bool = sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM pg_database WHERE datname = $1)")
        .bind(&name)
        .fetch_one(&mut alone)
        .await
        .expect("look for the template");
    if !there {
        let role =
            format!("DO $$ BEGIN CREATE ROLE {APP} LOGIN PASSWORD '{APP}'; EXCEPTION WHEN duplicate_object THEN NULL; END $$");
        server::run(&role).await.expect("the application's role");
        // Under another name until it is whole.
        let half = format!("{name}_half");
        server::run(&format!("DROP DATABASE IF EXISTS {half} WITH (FORCE)")).await.expect("drop what was left");
        server::run(&format!("CREATE DATABASE {half}")).await.expect("create the template");
        let url = on(&variable("LETHE_TEST_POSTGRES"), &half, false);
        let options = OpenOptions { url: url.clone(), clock: Arc::new(SystemClock), entropy: Arc::new(SeededEntropy::new(1)) };
        Ledger::migrate(options, false).await.expect("migrate the template").close().await;
        let mut db = PgConnection::connect(&url).await.expect("the template");
        sqlx::query("DELETE FROM ledger").execute(&mut db).await.expect("forget its name");
        db.close().await.expect("close");
        // Its last connection may take a moment to be gone.
        let rename = format!("ALTER DATABASE {half} RENAME TO {name}");
        for _ in 0..100 {
            if server::run(&rename).await.is_ok() {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    }
    alone.close().await.expect("close");
    name
}

impl TestDatabase {
    /// A copy of the template.
    pub async fn migrated() -> Self {
        Self::made(&format!("TEMPLATE {}", template().await)).await
    }

    /// An empty database.
    pub async fn empty() -> Self {
        template().await;
        Self::made("").await
    }

    async fn made(how: &str) -> Self {
        let name = format!("lethe_test_{}_{}", std::process::id(), NUMBER.fetch_add(1, Ordering::SeqCst));
        server::run(&format!("DROP DATABASE IF EXISTS {name}")).await.expect("drop what was left");
        server::run(&format!("CREATE DATABASE {name} {how}")).await.expect("create a database");
        Self(name)
    }

    /// Drops it, and waits until the server has: from then on the server does nothing more for it.
    pub async fn gone(self) {
        server::run(&format!("DROP DATABASE {} WITH (FORCE)", self.0)).await.expect("drop a database");
    }

    /// Its URL for who owns it.
    pub fn url(&self) -> String {
        on(&variable("LETHE_TEST_POSTGRES"), &self.0, false)
    }

    /// Its URL for the program.
    pub fn app_url(&self) -> String {
        on(&variable("LETHE_TEST_POSTGRES"), &self.0, true)
    }

    /// Its URL for the program through the pooler.
    pub fn pooled_url(&self) -> String {
        format!("{}?statement-cache-capacity=0", on(&variable("LETHE_TEST_PGBOUNCER"), &self.0, false))
    }

    /// A connection of its owner's.
    pub async fn connect(&self) -> PgConnection {
        PgConnection::connect(&self.url()).await.expect("connect")
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        server::later(vec![format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.0)]);
    }
}

impl TestLedger {
    /// A ledger to migrate and the one to open, by URL.
    pub async fn new() -> Self {
        if crate::ON_POSTGRES { Self::Server(TestDatabase::migrated().await) } else { Self::File }
    }

    pub fn owner_url(&self, dir: &TempDir) -> String {
        match self {
            TestLedger::File => format!("sqlite:{}", dir.path().join("lethe.db").display()),
            TestLedger::Server(database) => database.url(),
        }
    }

    pub fn url(&self, dir: &TempDir) -> String {
        match self {
            TestLedger::File => self.owner_url(dir),
            TestLedger::Server(database) => database.app_url(),
        }
    }
}

/// What is said differently: SQLite's way, or PostgreSQL's.
pub fn either<'t>(sqlite: &'t str, postgres: &'t str) -> &'t str {
    if crate::ON_POSTGRES { postgres } else { sqlite }
}

impl World {
    /// The file of a ledger in a file.
    async fn file(&self) -> SqliteConnection {
        let options = SqliteConnectOptions::new().filename(self.app.ledger.path().expect("a file")).foreign_keys(true);
        SqliteConnection::connect_with(&options).await.expect("open the ledger")
    }

    /// Runs statements on the ledger; the error is what the database says.
    pub async fn try_sql(&self, sql: &str) -> Result<(), String> {
        let raw = sqlx::raw_sql(AssertSqlSafe(sql.to_owned()));
        match &self.ledger {
            TestLedger::File => {
                let mut db = self.file().await;
                raw.execute(&mut db).await.map(drop).map_err(|error| error.to_string())
            }
            TestLedger::Server(database) => {
                let mut db = database.connect().await;
                raw.execute(&mut db).await.map(drop).map_err(|error| error.to_string())
            }
        }
    }

    /// Runs statements on the ledger that must be possible.
    pub async fn sql(&self, sql: &str) {
        self.try_sql(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    /// The first column of the rows that a query gives, as text.
    pub async fn texts(&self, sql: &str) -> Vec<String> {
        let raw = sqlx::raw_sql(AssertSqlSafe(sql.to_owned()));
        match &self.ledger {
            TestLedger::File => {
                let mut db = self.file().await;
                let rows = raw.fetch_all(&mut db).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
                rows.iter().map(|row| row.get(0)).collect()
            }
            TestLedger::Server(database) => {
                let mut db = database.connect().await;
                let rows = raw.fetch_all(&mut db).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
                let text = |value: sqlx::postgres::PgValueRef<'_>| {
                    if value.is_null() { String::new() } else { value.as_str().expect("text").to_owned() }
                };
                rows.iter().map(|row| text(row.try_get_raw(0).expect("a column"))).collect()
            }
        }
    }

    /// What a query counts.
    pub async fn number(&self, sql: &str) -> i64 {
        match &self.ledger {
            TestLedger::File => {
                let mut db = self.file().await;
                let row = sqlx::query(AssertSqlSafe(sql.to_owned())).fetch_one(&mut db).await;
                row.unwrap_or_else(|error| panic!("{sql}: {error}")).get(0)
            }
            TestLedger::Server(database) => {
                let mut db = database.connect().await;
                let row = sqlx::query(AssertSqlSafe(sql.to_owned())).fetch_one(&mut db).await;
                row.unwrap_or_else(|error| panic!("{sql}: {error}")).get(0)
            }
        }
    }

    /// How many entries of the plane's trail have this type.
    pub async fn entries(&self, plane: &str, event_type: &str) -> i64 {
        self.number(&format!("SELECT count(*) FROM trail WHERE plane_id = '{plane}' AND event_type = '{event_type}'")).await
    }

    /// How many BLOCKED entries of the plane's trail have this code.
    pub async fn blocked(&self, plane: &str, code: &str) -> i64 {
        let of = gate_code();
        self.number(&format!(
            "SELECT count(*) FROM trail WHERE event_type = 'BLOCKED' AND {of} = '{code}' AND plane_id = '{plane}'"
        ))
        .await
    }

    /// The body of the entry that was written last.
    pub async fn last_entry(&self) -> Json {
        let bodies = self.texts("SELECT body FROM trail ORDER BY place DESC LIMIT 1").await;
        serde_json::from_str(&bodies[0]).expect("a body")
    }

    /// The id of a tenant.
    pub async fn tenant_id(&self, name: &str) -> String {
        self.texts(&format!("SELECT id FROM tenants WHERE name = '{name}'")).await.remove(0)
    }
}

/// The code of a gate's decision in an entry.
pub fn gate_code() -> &'static str {
    either("body ->> '$.gate.code'", "body::json #>> '{gate,code}'")
}
