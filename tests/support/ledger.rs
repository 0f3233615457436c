//! The ledger's rows behind the product's back: to look at them, and to do to them what nobody may.

use serde_json::Value as Json;
use sqlx::{AssertSqlSafe, Connection, Row, SqliteConnection, sqlite::SqliteConnectOptions};

use super::World;

impl World {
    async fn raw(&self) -> SqliteConnection {
        let options = SqliteConnectOptions::new().filename(self.app.ledger.path()).foreign_keys(true);
        SqliteConnection::connect_with(&options).await.expect("open the ledger")
    }

    /// Runs statements on the ledger; the error is what the database says.
    pub async fn try_sql(&self, sql: &str) -> Result<(), String> {
        let mut db = self.raw().await;
        let done = sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut db).await;
        db.close().await.expect("close");
        done.map(|_| ()).map_err(|error| error.to_string())
    }

    /// Runs statements on the ledger that must be possible.
    pub async fn sql(&self, sql: &str) {
        self.try_sql(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    /// The first column of the rows that a query gives, as text.
    pub async fn texts(&self, sql: &str) -> Vec<String> {
        let mut db = self.raw().await;
        let rows =
            sqlx::query(AssertSqlSafe(sql.to_owned())).fetch_all(&mut db).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        let texts = rows.iter().map(|row| row.get(0)).collect();
        db.close().await.expect("close");
        texts
    }

    /// What a query counts.
    pub async fn number(&self, sql: &str) -> i64 {
        let mut db = self.raw().await;
        let row =
            sqlx::query(AssertSqlSafe(sql.to_owned())).fetch_one(&mut db).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        db.close().await.expect("close");
        row.get(0)
    }

    /// How many entries of the plane's trail have this type.
    pub async fn entries(&self, plane: &str, event_type: &str) -> i64 {
        self.number(&format!("SELECT count(*) FROM trail WHERE plane_id = '{plane}' AND event_type = '{event_type}'")).await
    }

    /// How many BLOCKED entries of the plane's trail have this code.
    pub async fn blocked(&self, plane: &str, code: &str) -> i64 {
        let query = "SELECT count(*) FROM trail WHERE event_type = 'BLOCKED' AND body ->> '$.gate.code'";
        self.number(&format!("{query} = '{code}' AND plane_id = '{plane}'")).await
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
