//! Erasing records that were exported, and only those, and only as they were.
//!
//! The rule: one transaction locks each record from the look at it to its delete; a record goes only if its digest is still the exported
//! one, and no record that nobody named goes with it. The plane's own fence stands aside inside that transaction and is back before
//! anybody else can look.
//!
//! If we die in it, the server rolls the batch back; erased batches stay erased and are absent the next time.

use std::collections::HashMap;

use futures::TryStreamExt;
use lethe_stages::{
    Permit,
    ports::{Erased, PortError},
    record::{Key, RecordDigest, Salt},
};
use sqlx::postgres::PgConnection;

use super::{
    connect::{WRITING, begin, commit, failed},
    dependents, fence, guard,
    read::{not_of_this_table, record},
    schema::Table,
    sql::{Sql, statement},
};
use crate::verdict::{FenceRow, all_went, unchanged};

/// Records looked at and deleted by one statement.
const KEYS_PER_STATEMENT: usize = 500;

/// The plane's fence row, locked, if it is the permit's plane's and no newer claim has been here.
pub(super) async fn permitted(tx: &mut PgConnection, table: &Table, permit: &Permit, doing: &str) -> Result<FenceRow, PortError> {
    let Some(row) = fence::read_locked(tx, table).await? else {
        return Err(PortError::WrongPlace(format!(
            "{doing}: the plane's fence is not in this database, so it is not the one that was closed"
        )));
    };
    if row.plane_id != permit.plane_id().to_string() {
        return Err(PortError::WrongPlace(format!("{doing}: its fence belongs to plane {}", row.plane_id)));
    }
    row.admit(permit.epoch())?;
    guard::stands(tx, table, &row, doing).await?;
    Ok(row)
}

/// Removes those of `rows` whose digest under `salt` is still what it was.
pub(super) async fn erase(
    connection: &mut PgConnection,
    table: &Table,
    permit: &Permit,
    rows: &[(Key, RecordDigest)],
    salt: Option<&Salt>,
) -> Result<Erased, PortError> {
    let doing = format!("erase from table {}", table.resource());
    let mut tx = begin(connection, WRITING).await?;
    // Before the row, as a fence does, so that neither waits for the other.
    let lock = format!("LOCK TABLE {} IN ROW EXCLUSIVE MODE", table.quoted());
    statement(lock).execute(&mut *tx).await.map_err(failed(doing.clone()))?;
    let row = permitted(&mut tx, table, permit, &doing).await?;
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
    tx: &mut PgConnection,
    table: &Table,
    batch: &[(Key, RecordDigest)],
    salt: Option<&Salt>,
    sum: &mut Erased,
) -> Result<(), PortError> {
    let doing = format!("erase from table {}", table.resource());
    let mut found = HashMap::with_capacity(batch.len());
    let select = Sql::new(format!("SELECT {} FROM {} WHERE ", table.selected(), table.quoted()));
    let select = by_keys(select, table, batch.iter().map(|(key, _)| key))?.text(" FOR UPDATE").query();
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
async fn delete(tx: &mut PgConnection, table: &Table, keys: &[&Key]) -> Result<(), PortError> {
    if keys.is_empty() {
        return Ok(());
    }
    let doing = format!("erase from table {}", table.resource());
    dependents::none_would_follow(tx, table, keys).await?;
    let delete = by_keys(Sql::new(format!("DELETE FROM {} WHERE ", table.quoted())), table, keys.iter().copied())?;
    let deleted = delete.query().execute(tx).await.map_err(failed(doing.clone()))?.rows_affected();
    // If not, it is rolled back with its batch.
    all_went(&doing, keys.len(), deleted)
}

/// Goes on with the condition that finds the plane's records with these keys.
pub(super) fn by_keys<'a>(sql: Sql, table: &Table, keys: impl Iterator<Item = &'a Key> + Clone) -> Result<Sql, PortError> {
    let class = table.key_class;
    let bound = class.params(keys.clone()).ok_or_else(|| {
        let other = keys.clone().find(|key| class.param(key).is_none());
        other.map_or_else(|| PortError::Permanent("look for keys: there are none".into()), |key| not_of_this_table(table, key))
    })?;
    let sql = sql.text(format!("{} = ANY (", table.quoted_key())).param(bound).text(format!("{}) AND ", class.array()));
    Ok(table.scope(sql))
}
