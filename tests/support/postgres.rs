//! A database of its own in the real PostgreSQL that `tests/servers` started: an application's role that owns the tables, and Lethe's.

use std::{
    path::Path,
    sync::atomic::{AtomicU32, Ordering},
};

use serde_json::{Value as Json, json};
use sqlx::{AssertSqlSafe, Connection, PgConnection, Row};

use super::{
    World,
    server::{self, variable},
};

const PASSWORD: &str = "a-test's-own";
static NUMBER: AtomicU32 = AtomicU32::new(0);

/// A database that is dropped with this value, its roles with it.
pub struct Database {
    pub name: String,
    admin: String,
}

/// The URL of the superuser, with another database.
fn admin_url(database: &str) -> String {
    let url = variable("LETHE_TEST_POSTGRES");
    let (server, _) = url.rsplit_once('/').expect("a URL with a database");
    format!("{server}/{database}")
}

async fn connected(url: &str) -> PgConnection {
    PgConnection::connect(url).await.expect("connect to the test's PostgreSQL")
}

async fn run(connection: &mut PgConnection, sql: &str) -> Result<(), String> {
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(connection).await.map(drop).map_err(|error| error.to_string())
}

impl Database {
    /// An empty database with pgvector and a schema `kb`; role `app_NAME` owns it, role `lethe_NAME` is Lethe's.
    pub async fn new() -> Self {
        let database = Self::plain().await;
        database.as_admin("CREATE EXTENSION vector").await.expect("pgvector");
        database
    }

    /// The same without pgvector.
    pub async fn plain() -> Self {
        let name = format!("t{}_{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let mut admin = connected(&admin_url("postgres")).await;
        let quoted = PASSWORD.replace('\'', "''");
        for sql in [
            format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)"),
            format!("DROP ROLE IF EXISTS lethe_{name}"),
            format!("DROP ROLE IF EXISTS app_{name}"),
            format!("CREATE ROLE app_{name} LOGIN PASSWORD '{quoted}'"),
            format!("CREATE ROLE lethe_{name} LOGIN BYPASSRLS PASSWORD '{quoted}' IN ROLE app_{name}, pg_read_all_stats"),
            format!("CREATE DATABASE {name} OWNER app_{name}"),
        ] {
            run(&mut admin, &sql).await.expect("make a database");
        }
        let database = Self { admin: admin_url(&name), name };
        database.as_app("CREATE SCHEMA kb").await.expect("a schema");
        database
    }

    /// Another schema of the application's, of a name of its own.
    pub async fn schema(&self) -> String {
        let schema = format!("s{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        self.as_app(&format!("CREATE SCHEMA {schema}")).await.expect("a schema");
        schema
    }

    /// Runs statements as the superuser.
    pub async fn as_admin(&self, sql: &str) -> Result<(), String> {
        run(&mut connected(&self.admin).await, sql).await
    }

    /// Runs statements as the application, which owns the tables.
    pub async fn as_app(&self, sql: &str) -> Result<(), String> {
        run(&mut connected(&self.role_url("app")).await, sql).await
    }

    /// Changes `kb.chunks` past the fence, as its owner may.
    pub async fn past_the_fence(&self, sql: &str) {
        let sql = format!("ALTER TABLE kb.chunks DISABLE TRIGGER USER; {sql}; ALTER TABLE kb.chunks ENABLE TRIGGER USER");
        self.as_admin(&sql).await.expect("a change");
        self.as_admin("ALTER TABLE kb.chunks ENABLE ALWAYS TRIGGER zz_lethe_fence").await.expect("the trigger again");
    }

    /// One column of text as the superuser sees it, past every fence.
    pub async fn texts(&self, sql: &str) -> Vec<String> {
        let rows = sqlx::query(AssertSqlSafe(sql.to_owned())).fetch_all(&mut connected(&self.admin).await).await.expect(sql);
        rows.iter().map(|row| row.get(0)).collect()
    }

    /// One number, as the application sees it.
    pub async fn number(&self, sql: &str) -> i64 {
        let mut app = connected(&self.role_url("app")).await;
        sqlx::query(AssertSqlSafe(sql.to_owned())).fetch_one(&mut app).await.expect(sql).get(0)
    }

    /// The application's URL.
    pub fn app_url(&self) -> String {
        self.role_url("app")
    }

    fn role_url(&self, role: &str) -> String {
        let (_, host) = self.admin.rsplit_once('@').expect("a URL with a role");
        format!("postgres://{role}_{}:{}@{host}", self.name, PASSWORD.replace('\'', "%27"))
    }

    /// The store's URL for Lethe, with `options` after it; the password stands in a file of the folder.
    pub fn store_url(&self, folder: &Path, options: &str) -> String {
        let file = folder.join("password");
        std::fs::write(&file, format!("{PASSWORD}\n")).expect("write a password");
        let (_, host) = self.admin.rsplit_once('@').expect("a URL with a role");
        format!("postgres://lethe_{}@{host}?password_file={}{options}", self.name, file.display())
    }

    /// A table of chunks of many types with so many records per plane, as `kb.NAME`; partitioned by the plane if it is asked for.
    pub async fn chunks(&self, name: &str, partitioned: bool, planes: &[(&str, usize)]) {
        let by = if partitioned { "PARTITION BY LIST (plane)" } else { "" };
        self.as_app(&format!(
            "CREATE TABLE {name} (id bigint, plane text, body text, meta jsonb, score numeric, seen timestamptz, source uuid,
                raw bytea, tags text[], pad char(5), weight real, page int, embedding public.vector(4),
                doubled bigint GENERATED ALWAYS AS (id * 2) STORED, PRIMARY KEY (plane, id)) {by}"
        ))
        .await
        .expect("a table");
        for (plane, rows) in planes {
            if partitioned {
                let sql = format!("CREATE TABLE {name}_{plane} PARTITION OF {name} FOR VALUES IN ('{plane}')");
                self.as_app(&sql).await.expect("a partition");
            }
            self.as_app(&format!(
                "INSERT INTO {name} SELECT n, '{plane}', 'marker-{plane}-' || n, jsonb_build_object('n', n, 'deep', '{{\"a\": [1, null]}}'::jsonb),
                    n / 7.0::numeric(30, 20), '2026-01-01 00:00:00.123456+02'::timestamptz + n * interval '1 day',
                    ('00000000-0000-0000-0000-' || lpad(n::text, 12, '0'))::uuid, decode(lpad(to_hex(n), 8, '0'), 'hex'),
                    ARRAY['a', NULL, 'b,\"' || n], 'x ', n / 3.0::real, CASE WHEN n % 3 > 0 THEN n END,
                    ARRAY[n / 3.0, length('{plane}'), -n, ascii(right('{plane}', 1))]::public.vector
                 FROM generate_series(1, {rows}) AS n"
            ))
            .await
            .expect("records");
        }
        self.as_app(&format!("CREATE INDEX ON {name} USING hnsw (embedding public.vector_cosine_ops)")).await.expect("an index");
    }

    /// The records of a plane as text, in order.
    pub async fn plane(&self, table: &str, plane: &str) -> Vec<String> {
        self.texts(&format!("SELECT t::text FROM {table} AS t WHERE plane = '{plane}' ORDER BY id")).await
    }

    /// Everything about a table that a fence could have changed.
    pub async fn guards(&self, table: &str) -> Vec<String> {
        self.texts(&format!(
            "SELECT 'trigger ' || pg_get_triggerdef(oid) || tgenabled::text FROM pg_trigger WHERE tgrelid = '{table}'::regclass
             UNION ALL SELECT 'policy ' || p::text FROM pg_policies AS p WHERE format('%I.%I', schemaname, tablename) = '{table}'
             UNION ALL SELECT 'function ' || proname FROM pg_proc WHERE pronamespace = (SELECT relnamespace FROM pg_class WHERE oid = '{table}'::regclass)
             UNION ALL SELECT 'flags ' || relrowsecurity || relforcerowsecurity || coalesce(relacl::text, '') FROM pg_class WHERE oid = '{table}'::regclass
             ORDER BY 1"
        ))
        .await
    }

    /// Registers tenants `acme` and `globex` and the store `pg`, open to both.
    pub async fn register(&self, world: &World) {
        for tenant in ["acme", "globex"] {
            world.call("user:root", "account.tenant.register", json!({"name": tenant})).await;
        }
        let url = self.store_url(world.dir.path(), "");
        let added = world
            .call("user:root", "integrations.store.add", json!({"name": "pg", "url": url, "tenants": ["acme", "globex"]}))
            .await;
        assert!(!added.to_string().contains(PASSWORD), "{added}");
    }

    /// Registers a plane over a value of a table.
    pub async fn bind(&self, world: &World, tenant: &str, table: &str, value: &str) -> String {
        let plane = world.call("user:root", "knowledge.plane.register", binding(world, tenant, table, value)).await;
        plane["plane_id"].as_str().expect("an id").to_owned()
    }
}

/// The arguments that register a plane `handbook` over a value of a table in the store `pg`.
pub fn binding(world: &World, tenant: &str, table: &str, value: &str) -> Json {
    let store = format!("pg?table={table}&plane_column=plane&plane={value}&key=id&text=body&metadata=meta&embedding=embedding");
    let archive = format!("file://{}", world.dir.path().join("archive").display());
    json!({"tenant": tenant, "name": "handbook", "stores": [store], "archive": archive})
}

impl Drop for Database {
    fn drop(&mut self) {
        let name = &self.name;
        server::later(vec![
            format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)"),
            format!("DROP ROLE IF EXISTS lethe_{name}"),
            format!("DROP ROLE IF EXISTS app_{name}"),
        ]);
    }
}
