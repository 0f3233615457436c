//! Looking at a store before it is registered: that it lets us in, what is in it, that it can be written.
//!
//! The rule: it changes nothing. It only reads, so nothing happens if we die in it.

use lethe_stages::ports::PortError;
use sqlx::Row;

use super::{
    connect::{READING, begin, close, connect, failed},
    schema::tables,
    sql::statement,
    url::Server,
};
use crate::StoreCheck;

/// Oldest version of the server that has what the driver uses.
const VERSION_MIN: i32 = 140_000;

/// Connects, reads the catalogue and asks whether the server takes writes.
pub(crate) async fn check(server: &Server) -> Result<StoreCheck, PortError> {
    let doing = format!("look at {}", server.shown());
    let mut connection = connect(server).await?;
    let mut tx = begin(&mut connection, READING).await?;
    let row = statement(
        "SELECT pg_database_size(d.oid), current_setting('server_version_num')::int4, current_setting('server_version'),
                (SELECT system_identifier::text FROM pg_control_system()), d.oid::text, pg_is_in_recovery(),
                (SELECT extversion FROM pg_extension WHERE extname = 'vector'),
                coalesce((SELECT version FROM pg_stat_ssl WHERE pid = pg_backend_pid() AND ssl), ''), pg_encoding_to_char(d.encoding)::text
         FROM pg_database d WHERE d.datname = current_database()",
    )
    .fetch_one(&mut *tx)
    .await
    .map_err(failed(doing.clone()))?;
    let refused = |why: String| Err(PortError::Permanent(format!("{doing}: {why}")));
    let version: String = row.get(2);
    if row.get::<i32, _>(1) < VERSION_MIN {
        return refused(format!("it is PostgreSQL {version}; 14 or later is needed"));
    }
    let encoding: String = row.get(8);
    if encoding != "UTF8" {
        return refused(format!("its encoding is {encoding}; UTF8 is needed"));
    }
    let tables = tables(&mut tx).await?;
    drop(tx);
    close(connection).await;
    let vector = row.get::<Option<String>, _>(6).map_or("without pgvector".to_owned(), |version| format!("pgvector {version}"));
    let tls: String = row.get(7);
    let tls = if tls.is_empty() { "no TLS".to_owned() } else { tls };
    Ok(StoreCheck {
        url: server.canonical(),
        kind: "postgres",
        bytes: u64::try_from(row.get::<i64, _>(0)).ok(),
        journal_mode: None,
        server: Some(format!("PostgreSQL {version}, {vector}, {tls}")),
        tables,
        virtual_tables: Vec::new(),
        file_id: format!("postgres:{}:{}", row.get::<String, _>(3), row.get::<String, _>(4)),
        writable: !row.get::<bool, _>(5),
    })
}
