//! Looking at a store before it is registered: that it is a database, what is in it, that it can be written.
//!
//! The rule: it leaves nothing behind; the write lock it takes is given back without a write. If we die in it, SQLite lets the lock go.

use std::{os::unix::fs::MetadataExt, path::PathBuf};

use lethe_stages::ports::PortError;
use sqlx::{Row, sqlite::SqliteConnection};

use super::{
    connect::{File, close, failed},
    fence::is_own,
    scrub::journal_mode,
    sql::statement,
};
use crate::StoreCheck;

/// Opens the file, reads its schema and proves that it takes a write lock.
pub(crate) async fn check(path: PathBuf, url: String) -> Result<StoreCheck, PortError> {
    let file = File { path };
    let stat = std::fs::metadata(&file.path)
        .map_err(|error| crate::archive::io_error(&format!("look at {}", file.path.display()), &error))?;
    let mut connection = file.writing().await?;
    let tables = names(&mut connection, "table").await?;
    let virtual_tables = names(&mut connection, "virtual").await?;
    let journal_mode = journal_mode(&mut connection).await?;
    let writable = takes_write_lock(&mut connection).await?;
    close(connection).await;
    Ok(StoreCheck {
        url,
        kind: "sqlite",
        bytes: Some(stat.len()),
        journal_mode: Some(journal_mode),
        server: None,
        tables,
        virtual_tables,
        file_id: format!("{}:{}", stat.dev(), stat.ino()),
        writable,
    })
}

async fn names(connection: &mut SqliteConnection, kind: &str) -> Result<Vec<String>, PortError> {
    // `sqlite_schema` first: a file that is no database says so here.
    let rows = statement("SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = ? AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' AND (SELECT count(*) FROM sqlite_schema) >= 0 ORDER BY name")
        .bind(kind.to_owned())
        .fetch_all(connection)
        .await
        .map_err(failed("read the store's schema"))?;
    Ok(rows.iter().map(|row| row.get::<String, _>(0)).filter(|name| !is_own(name)).collect())
}

/// Whether the store can be written. A lock that somebody else holds is Transient and says nothing about that.
async fn takes_write_lock(connection: &mut SqliteConnection) -> Result<bool, PortError> {
    const READONLY: i32 = 8;
    match statement("BEGIN IMMEDIATE").execute(&mut *connection).await {
        Ok(_) => statement("ROLLBACK").execute(connection).await.map(|_| true).map_err(failed("give the write lock back")),
        Err(sqlx::Error::Database(error))
            if error.code().and_then(|code| code.parse::<i32>().ok()).is_some_and(|code| code & 0xff == READONLY) =>
        {
            Ok(false)
        }
        Err(error) => Err(failed("take a write lock")(error)),
    }
}
