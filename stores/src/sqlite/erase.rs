//! Erasing records that were exported, and only those, and only as they were.
//!
//! The rule: one transaction holds the write lock from the first look to the last delete; a record goes only if its digest is still
//! the exported one. The plane's own fence stands aside inside that transaction and is back before anybody else can look.
//!
//! If we die in it, SQLite rolls the batch back; erased batches stay erased and are absent the next time.

use std::collections::HashMap;

use futures::TryStreamExt;
use lethe_stages::{
    Permit,
    ports::{Erased, PortError},
    record::{Key, RecordDigest, Salt},
};
use sqlx::{Connection, sqlite::SqliteConnection};

use super::{
    connect::{commit, failed},
    fence,
    read::{KEYS_PER_STATEMENT, by_keys, record},
    schema::Table,
    sql::{Sql, key_value},
    triggers,
};
use crate::verdict::{all_went, unchanged};

/// Removes those of `rows` whose digest under `salt` is still what it was.
pub(super) async fn erase(
    connection: &mut SqliteConnection,
    table: &Table,
    permit: &Permit,
    rows: &[(Key, RecordDigest)],
    salt: Option<&Salt>,
) -> Result<Erased, PortError> {
    let doing = format!("erase from table {}", table.name);
    let mut tx = connection.begin_with("BEGIN IMMEDIATE").await.map_err(failed(doing.clone()))?;
    let Some(row) = fence::read(&mut tx, table).await? else {
        return Err(PortError::WrongPlace(format!(
            "{doing}: the plane's fence is not in this file, so it is not the file that was closed"
        )));
    };
    if row.plane_id != permit.plane_id().to_string() {
        return Err(PortError::WrongPlace(format!("{doing}: its fence belongs to plane {}", row.plane_id)));
    }
    row.admit(permit.epoch())?;
    triggers::stand(&mut tx, table, &row, &doing).await?;
    fence::set_mode(&mut tx, table, "erasing", permit.epoch()).await?;
    let mut sum = Erased::default();
    for batch in rows.chunks(KEYS_PER_STATEMENT) {
        erase_batch(&mut tx, table, batch, salt, &mut sum).await?;
    }
    fence::set_mode(&mut tx, table, &row.mode, permit.epoch()).await?;
    commit(tx, &doing).await?;
    Ok(sum)
}

async fn erase_batch(
    tx: &mut SqliteConnection,
    table: &Table,
    batch: &[(Key, RecordDigest)],
    salt: Option<&Salt>,
    sum: &mut Erased,
) -> Result<(), PortError> {
    let doing = format!("erase from table {}", table.name);
    let mut found = HashMap::with_capacity(batch.len());
    let select = by_keys(table, batch.iter().map(|(key, _)| key)).query();
    let mut rows = select.fetch(&mut *tx);
    while let Some(row) = rows.try_next().await.map_err(failed(doing.clone()))? {
        let record = record(&row, table)?;
        let digest = record.digest(salt);
        found.insert(record.key, digest);
    }
    drop(rows);

    let unchanged = unchanged(batch, found, sum);
    delete(tx, table, &unchanged).await?;
    sum.erased += unchanged.len() as u64;
    Ok(())
}

/// Deletes records by one statement; every key names exactly one.
async fn delete(tx: &mut SqliteConnection, table: &Table, keys: &[&Key]) -> Result<(), PortError> {
    if keys.is_empty() {
        return Ok(());
    }
    let doing = format!("erase from table {}", table.name);
    let deleted = by_key(table, keys).query().execute(tx).await.map_err(failed(doing.clone()))?.rows_affected();
    // If not, it is rolled back with its batch.
    all_went(&doing, keys.len(), deleted)
}

/// The deletion of the plane's records with these keys, found by the key: where the key alone is unique, an index on the plane is kept
/// out of SQLite's sight, or it might sooner walk that.
fn by_key(table: &Table, keys: &[&Key]) -> Sql {
    let column = table.quoted_key();
    let mut query = Sql::new("WITH lethe_keys(lethe_key) AS (VALUES ");
    for (index, key) in keys.iter().enumerate() {
        query = query.text(if index == 0 { "(" } else { ", (" }).value(key_value(key)).text(")");
    }
    let query = query.text(format!(
        ") DELETE FROM {} WHERE {column} IN (SELECT lethe_key FROM lethe_keys)
           AND {column} COLLATE BINARY IN (SELECT lethe_key FROM lethe_keys) AND ",
        table.quoted()
    ));
    match table.key_is_global {
        true => query.text("CASE WHEN ").sql(table.scope()).text(" THEN 1 END"),
        false => query.sql(table.scope()),
    }
}
