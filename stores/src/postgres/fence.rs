//! The fence: rows of `lethe_fence`, in the schema of the bound table, that say which planes are closed, and the guards that read them.
//!
//! The rules: closing further is allowed, opening is `unfence`'s, and `purged` is for ever. A row is never deleted: it remembers the
//! epoch, it is the canary that tells this database from another one, and after a purge it refuses what would bring the plane back.
//! A fence takes the table's lock, so that when it stands no write that began before is still under way.
//!
//! If we die in it, the transaction of row and guards is rolled back whole; the verb is called again.

use lethe_stages::{lifecycle::FenceMode, ports::PortError};
use sqlx::{Row, postgres::PgConnection};
use uuid::Uuid;

use super::{
    connect::{WRITING, begin, commit, failed},
    guard,
    schema::Table,
    sql::statement,
};
use crate::verdict::{FenceRow, told_apart_by};

/// Whether something in a schema is Lethe's own.
pub(super) fn is_own(name: &str) -> bool {
    name.starts_with("lethe_")
}

/// Whether the schema has a fence.
async fn is_there(connection: &mut PgConnection, table: &Table) -> Result<bool, PortError> {
    let found = statement(
        "SELECT 1 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE n.nspname = $1 AND c.relname = 'lethe_fence' AND c.relkind = 'r'",
    )
    .bind(table.schema.clone())
    .fetch_optional(connection)
    .await
    .map_err(failed("look for the fence"))?;
    Ok(found.is_some())
}

/// Reads the plane's row; `None` where there is none, be it for want of the table.
pub(super) async fn read(connection: &mut PgConnection, table: &Table) -> Result<Option<FenceRow>, PortError> {
    if !is_there(connection, table).await? {
        return Ok(None);
    }
    select(connection, table, "").await
}

/// As [`read`], and locks the row to the end of the transaction.
pub(super) async fn read_locked(connection: &mut PgConnection, table: &Table) -> Result<Option<FenceRow>, PortError> {
    if !is_there(connection, table).await? {
        return Ok(None);
    }
    select(connection, table, " FOR UPDATE").await
}

async fn select(connection: &mut PgConnection, table: &Table, locking: &str) -> Result<Option<FenceRow>, PortError> {
    let fence = table.own("lethe_fence");
    let row = statement(format!(
        "SELECT mode, epoch, plane_id::text, plane_column FROM {fence} WHERE resource = $1 AND plane = $2{locking}"
    ))
    .bind(table.resource())
    .bind(table.plane_text().to_owned())
    .fetch_optional(connection)
    .await
    .map_err(failed("read the fence"))?;
    Ok(row.map(|row| FenceRow { mode: row.get(0), epoch: row.get(1), plane_id: row.get(2), plane_column: row.get(3) }))
}

/// Closes the plane to what `mode` refuses, and further than before only. Answers the mode it has now.
pub(super) async fn fence(
    connection: &mut PgConnection,
    table: &Table,
    plane_id: Uuid,
    mode: FenceMode,
    epoch: i64,
) -> Result<FenceMode, PortError> {
    let doing = format!("fence table {}", table.resource());
    let mut tx = begin(connection, WRITING).await?;
    let before = admitted(&mut tx, table, plane_id, epoch).await?;
    if let Some(row) = &before {
        guard::stands(&mut tx, table, row, &doing).await?;
    }
    let now = FenceRow::closed_further(before.as_ref(), mode);
    let lock = format!("LOCK TABLE {} IN SHARE ROW EXCLUSIVE MODE", table.quoted());
    statement(lock).execute(&mut *tx).await.map_err(failed(doing.clone()))?;
    write(&mut tx, table, plane_id, now.as_str(), epoch).await?;
    guard::set(&mut tx, table).await?;
    commit(tx, &doing).await?;
    Ok(now)
}

/// Opens what [`fence`] closed, as far as `mode`; the row stays and remembers the epoch, the guards go with the last plane that needs them.
pub(super) async fn open_to(
    connection: &mut PgConnection,
    table: &Table,
    plane_id: Uuid,
    mode: Option<FenceMode>,
    epoch: i64,
) -> Result<(), PortError> {
    let doing = format!("lift the fence from table {}", table.resource());
    let mut tx = begin(connection, WRITING).await?;
    if admitted(&mut tx, table, plane_id, epoch).await?.is_some_and(|row| row.mode == "purged") {
        return Err(PortError::Permanent(format!("{doing}: the plane was purged, and that is for ever")));
    }
    write(&mut tx, table, plane_id, mode.map_or("open", FenceMode::as_str), epoch).await?;
    guard::set(&mut tx, table).await?;
    commit(tx, &doing).await
}

/// Makes sure that the fence exists and that this plane and epoch may write its row; nobody else changes any fence meanwhile.
async fn admitted(tx: &mut PgConnection, table: &Table, plane_id: Uuid, epoch: i64) -> Result<Option<FenceRow>, PortError> {
    let doing = format!("fence table {}", table.resource());
    let alone = "SELECT pg_advisory_xact_lock(hashtextextended('lethe_fence', 0))";
    statement(alone).execute(&mut *tx).await.map_err(failed(doing.clone()))?;
    if !is_there(tx, table).await? {
        create(tx, table).await?;
    }
    let column = table.plane_column().unwrap_or_default();
    let other = statement(format!(
        "SELECT plane_column FROM {} WHERE resource = $1 AND plane_column <> $2 AND mode <> 'open' LIMIT 1",
        table.own("lethe_fence")
    ))
    .bind(table.resource())
    .bind(column.to_owned())
    .fetch_optional(&mut *tx)
    .await
    .map_err(failed(doing.clone()))?;
    if let Some(other) = other {
        let other: String = other.get(0);
        return Err(told_apart_by(&doing, &other));
    }
    let row = read_locked(tx, table).await?;
    if let Some(row) = &row {
        row.admit_plane(&doing, plane_id, column, epoch)?;
    }
    Ok(row)
}

async fn create(tx: &mut PgConnection, table: &Table) -> Result<(), PortError> {
    let fence = table.own("lethe_fence");
    let doing = format!("create {fence}");
    for sql in [
        format!(
            "CREATE TABLE {fence} (
                resource text NOT NULL,
                plane text NOT NULL,
                plane_column text NOT NULL,
                mode text NOT NULL CHECK (mode IN ('open', 'read_only', 'closed', 'purged', 'erasing')),
                epoch bigint NOT NULL,
                plane_id uuid NOT NULL,
                row_security boolean NOT NULL,
                row_security_forced boolean NOT NULL,
                PRIMARY KEY (resource, plane))"
        ),
        format!("REVOKE ALL ON {fence} FROM PUBLIC"),
        format!("COMMENT ON TABLE {fence} IS 'Planes that Lethe has closed, or had closed; rows are never deleted'"),
        format!("COMMENT ON COLUMN {fence}.resource IS 'The table, as schema.table'"),
        format!("COMMENT ON COLUMN {fence}.plane IS 'The plane''s value as text; empty where the plane owns the table'"),
        format!("COMMENT ON COLUMN {fence}.plane_column IS 'The column that holds it; empty where the plane owns the table'"),
        format!("COMMENT ON COLUMN {fence}.epoch IS 'The newest that was here'"),
        format!("COMMENT ON COLUMN {fence}.plane_id IS 'The plane in Lethe''s ledger'"),
        format!("COMMENT ON COLUMN {fence}.row_security IS 'Whether the table had row security before it was closed'"),
        format!("COMMENT ON COLUMN {fence}.row_security_forced IS 'Whether that was forced on its owner'"),
    ] {
        statement(sql).execute(&mut *tx).await.map_err(failed(doing.clone()))?;
    }
    Ok(())
}

/// Writes the plane's row. How the table's row security stood before is taken over from whoever closed it first, else asked now, under
/// the fence's lock: what was read before that lock may be another fence's doing.
async fn write(tx: &mut PgConnection, table: &Table, plane_id: Uuid, mode: &str, epoch: i64) -> Result<(), PortError> {
    let fence = table.own("lethe_fence");
    statement(format!(
        "INSERT INTO {fence} AS f (resource, plane, plane_column, mode, epoch, plane_id, row_security, row_security_forced)
         SELECT $1, $2, $3, $4, $5, $6, coalesce(first.row_security, now.relrowsecurity),
                coalesce(first.row_security_forced, now.relforcerowsecurity)
         FROM pg_class AS now LEFT JOIN LATERAL
              (SELECT row_security, row_security_forced FROM {fence} WHERE resource = $1 AND mode = 'closed' LIMIT 1) AS first ON true
         WHERE now.oid = $7::oid
         ON CONFLICT (resource, plane) DO UPDATE SET plane_column = excluded.plane_column, mode = excluded.mode,
             epoch = excluded.epoch, row_security = excluded.row_security, row_security_forced = excluded.row_security_forced"
    ))
    .bind(table.resource())
    .bind(table.plane_text().to_owned())
    .bind(table.plane_column().unwrap_or_default().to_owned())
    .bind(mode.to_owned())
    .bind(epoch)
    .bind(plane_id)
    .bind(table.oid)
    .execute(tx)
    .await
    .map_err(failed(format!("write the fence of table {}", table.resource())))?;
    Ok(())
}

/// Sets the mode of a row that is known to be there, within the transaction that knows it.
pub(super) async fn set_mode(tx: &mut PgConnection, table: &Table, mode: &str, epoch: i64) -> Result<(), PortError> {
    let doing = format!("write the fence of table {}", table.resource());
    let done =
        statement(format!("UPDATE {} SET mode = $1, epoch = $2 WHERE resource = $3 AND plane = $4", table.own("lethe_fence")))
            .bind(mode.to_owned())
            .bind(epoch)
            .bind(table.resource())
            .bind(table.plane_text().to_owned())
            .execute(tx)
            .await
            .map_err(failed(doing.clone()))?;
    if done.rows_affected() != 1 {
        return Err(PortError::WrongPlace(format!("{doing}: its row is gone")));
    }
    Ok(())
}
