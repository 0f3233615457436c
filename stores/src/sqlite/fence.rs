//! The fence: rows of `lethe_fence` that say which planes are closed, and triggers on each bound table that read them.
//!
//! The rules: closing further is allowed, opening is `unfence`'s, and `purged` is for ever. A row is never deleted: it remembers the
//! epoch, it is the canary that tells this file from another one, and after a purge it refuses what would bring the plane back.
//!
//! If we die in it, the transaction of row and triggers is rolled back whole; the verb is called again.

use lethe_stages::{lifecycle::FenceMode, ports::PortError};
use sqlx::{Connection, Row, sqlite::SqliteConnection};
use uuid::Uuid;

use super::{
    connect::{commit, failed},
    schema::Table,
    sql::statement,
    triggers,
};
use crate::verdict::{FenceRow, told_apart_by};

/// Not STRICT, although its values are checked: a schema with a STRICT table cannot be opened at all by an SQLite older than 3.37, and
/// the file is somebody else's.
const FENCE_TABLE: &str = "CREATE TABLE IF NOT EXISTS lethe_fence (
    resource TEXT NOT NULL, -- the table
    plane TEXT NOT NULL, -- the plane's value as text; empty where the plane owns the table
    plane_column TEXT NOT NULL, -- the column that holds it; empty where the plane owns the table
    mode TEXT NOT NULL CHECK (mode IN ('open', 'read_only', 'closed', 'purged', 'erasing')),
    epoch INTEGER NOT NULL CHECK (typeof(epoch) = 'integer'), -- the newest that was here
    plane_id TEXT NOT NULL, -- the plane in Lethe's ledger
    PRIMARY KEY (resource, plane)
)";

/// Whether a schema object is Lethe's own.
pub(super) fn is_own(name: &str) -> bool {
    name.get(..6).is_some_and(|start| start.eq_ignore_ascii_case("lethe_"))
}

/// Reads the plane's row; `None` where there is none, be it for want of the table.
pub(super) async fn read(connection: &mut SqliteConnection, table: &Table) -> Result<Option<FenceRow>, PortError> {
    let doing = "read the fence";
    let exists = statement("SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'lethe_fence'")
        .fetch_optional(&mut *connection)
        .await
        .map_err(failed(doing))?;
    if exists.is_none() {
        return Ok(None);
    }
    let row = statement("SELECT mode, epoch, plane_id, plane_column FROM lethe_fence WHERE resource = ? AND plane = ?")
        .bind(table.name.clone())
        .bind(table.plane_text().to_owned())
        .fetch_optional(connection)
        .await
        .map_err(failed(doing))?;
    Ok(row.map(|row| FenceRow { mode: row.get(0), epoch: row.get(1), plane_id: row.get(2), plane_column: row.get(3) }))
}

/// Closes the plane to what `mode` refuses, and further than before only. Answers the mode it has now.
pub(super) async fn fence(
    connection: &mut SqliteConnection,
    table: &Table,
    plane_id: Uuid,
    mode: FenceMode,
    epoch: i64,
) -> Result<FenceMode, PortError> {
    let doing = format!("fence table {}", table.name);
    let mut tx = connection.begin_with("BEGIN IMMEDIATE").await.map_err(failed(doing.clone()))?;
    let before = admitted(&mut tx, table, plane_id, epoch).await?;
    if let Some(row) = &before {
        triggers::stand(&mut tx, table, row, &doing).await?;
    }
    let now = FenceRow::closed_further(before.as_ref(), mode);
    write(&mut tx, table, plane_id, now.as_str(), epoch).await?;
    triggers::create(&mut tx, table).await?;
    commit(tx, &doing).await?;
    Ok(now)
}

/// Opens what [`fence`] closed, as far as `mode`; the row stays and remembers the epoch, the triggers go with the last plane that needs
/// them.
pub(super) async fn open_to(
    connection: &mut SqliteConnection,
    table: &Table,
    plane_id: Uuid,
    mode: Option<FenceMode>,
    epoch: i64,
) -> Result<(), PortError> {
    let doing = format!("lift the fence from table {}", table.name);
    let mut tx = connection.begin_with("BEGIN IMMEDIATE").await.map_err(failed(doing.clone()))?;
    if admitted(&mut tx, table, plane_id, epoch).await?.is_some_and(|row| row.mode == "purged") {
        return Err(PortError::Permanent(format!("{doing}: the plane was purged, and that is for ever")));
    }
    write(&mut tx, table, plane_id, mode.map_or("open", FenceMode::as_str), epoch).await?;
    let closed = statement("SELECT 1 FROM lethe_fence WHERE resource = ? AND mode <> 'open' LIMIT 1")
        .bind(table.name.clone())
        .fetch_optional(&mut *tx)
        .await
        .map_err(failed(doing.clone()))?;
    match closed {
        None => triggers::remove(&mut tx, table).await?,
        Some(_) if mode.is_some() => triggers::create(&mut tx, table).await?,
        Some(_) => {}
    }
    commit(tx, &doing).await
}

/// Makes sure that the table exists and that this plane and epoch may write its row.
async fn admitted(tx: &mut SqliteConnection, table: &Table, plane_id: Uuid, epoch: i64) -> Result<Option<FenceRow>, PortError> {
    let doing = format!("fence table {}", table.name);
    statement(FENCE_TABLE).execute(&mut *tx).await.map_err(failed(doing.clone()))?;
    let column = table.plane_column().unwrap_or_default();
    let other =
        statement("SELECT plane_column FROM lethe_fence WHERE resource = ? AND plane_column <> ? AND mode <> 'open' LIMIT 1")
            .bind(table.name.clone())
            .bind(column.to_owned())
            .fetch_optional(&mut *tx)
            .await
            .map_err(failed(doing.clone()))?;
    if let Some(other) = other {
        let other: String = other.get(0);
        return Err(told_apart_by(&doing, &other));
    }
    let row = read(tx, table).await?;
    if let Some(row) = &row {
        row.admit_plane(&doing, plane_id, column, epoch)?;
    }
    Ok(row)
}

async fn write(tx: &mut SqliteConnection, table: &Table, plane_id: Uuid, mode: &str, epoch: i64) -> Result<(), PortError> {
    statement(
        "INSERT INTO lethe_fence (resource, plane, plane_column, mode, epoch, plane_id) VALUES (?, ?, ?, ?, ?, ?)
         ON CONFLICT (resource, plane) DO UPDATE SET
             plane_column = excluded.plane_column, mode = excluded.mode, epoch = excluded.epoch",
    )
    .bind(table.name.clone())
    .bind(table.plane_text().to_owned())
    .bind(table.plane_column().unwrap_or_default().to_owned())
    .bind(mode.to_owned())
    .bind(epoch)
    .bind(plane_id.to_string())
    .execute(tx)
    .await
    .map_err(failed(format!("write the fence of table {}", table.name)))?;
    Ok(())
}

/// Sets the mode of a row that is known to be there, within the transaction that knows it.
pub(super) async fn set_mode(tx: &mut SqliteConnection, table: &Table, mode: &str, epoch: i64) -> Result<(), PortError> {
    let doing = format!("write the fence of table {}", table.name);
    let done = statement("UPDATE lethe_fence SET mode = ?, epoch = ? WHERE resource = ? AND plane = ?")
        .bind(mode.to_owned())
        .bind(epoch)
        .bind(table.name.clone())
        .bind(table.plane_text().to_owned())
        .execute(tx)
        .await
        .map_err(failed(doing.clone()))?;
    if done.rows_affected() != 1 {
        return Err(PortError::WrongPlace(format!("{doing}: its row is gone")));
    }
    Ok(())
}
