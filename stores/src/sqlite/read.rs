//! Reading the plane's records: counts, and pages in key order.
//!
//! The rule: a record is read as it is stored, value by value; what could not be written back is an error that names its place, not a
//! guess. It only reads, so nothing happens if we die in it.

use futures::TryStreamExt;
use lethe_stages::{
    ports::{PageLimit, PortError},
    record::{Key, Record, Value},
};
use sqlx::{
    Connection, Row,
    sqlite::{SqliteConnection, SqliteRow},
};

use super::{
    connect::failed,
    schema::Table,
    sql::{self, Sql, key_value},
};

/// How many records the plane has.
pub(super) async fn count(connection: &mut SqliteConnection, table: &Table) -> Result<u64, PortError> {
    let query = Sql::new(format!("SELECT count(*) FROM {} WHERE ", table.quoted())).sql(table.scope()).query();
    let row = query.fetch_one(connection).await.map_err(failed(format!("count the records in table {}", table.name)))?;
    Ok(row.get::<i64, _>(0) as u64)
}

/// Records fetched by one statement.
pub(super) const KEYS_PER_STATEMENT: usize = 500;

/// Records after `after` in ascending key order, until `limit` is reached; one record always fits.
///
/// Keys first, then the records by key: SQLite may have to sort what it finds, and sorted with their content the records of a page
/// would all be in memory before the first one could be counted against the limit.
pub(super) async fn page(
    connection: &mut SqliteConnection,
    table: &Table,
    after: Option<&Key>,
    limit: PageLimit,
) -> Result<Vec<Record>, PortError> {
    let doing = format!("read table {}", table.name);
    // One snapshot for both.
    let mut tx = connection.begin().await.map_err(failed(doing.clone()))?;
    let keys = keys(&mut tx, table, after, limit.rows_max).await?;
    let mut records = Vec::new();
    let mut bytes = 0;
    'page: for chunk in keys.chunks(KEYS_PER_STATEMENT) {
        let query = by_keys(table, chunk.iter()).query();
        let mut rows = query.fetch(&mut *tx);
        for key in chunk {
            let row = rows.try_next().await.map_err(failed(doing.clone()))?;
            let record = row.map(|row| record(&row, table)).transpose()?.filter(|record| record.key == *key);
            let record = record.ok_or_else(|| PortError::Transient(format!("{doing}: key {key} is there and then is not")))?;
            bytes += record.size();
            if !records.is_empty() && bytes > limit.bytes_max {
                break 'page;
            }
            records.push(record);
        }
    }
    Ok(records)
}

/// The plane's keys after `after` in ascending order, at most `rows_max`.
async fn keys(
    connection: &mut SqliteConnection,
    table: &Table,
    after: Option<&Key>,
    rows_max: usize,
) -> Result<Vec<Key>, PortError> {
    let key = table.quoted_key();
    let mut query = Sql::new(format!("SELECT {key} FROM {} WHERE ", table.quoted())).sql(table.scope());
    if let Some(after) = after {
        query = query.text(format!(" AND {key} > ")).value(key_value(after)).text(" COLLATE BINARY");
    }
    let rows_max = i64::try_from(rows_max.max(1)).unwrap_or(i64::MAX);
    let query = query.text(format!(" ORDER BY {key} COLLATE BINARY LIMIT ")).value(Value::Integer(rows_max)).query();
    let rows = query.fetch_all(connection).await.map_err(failed(format!("read the keys of table {}", table.name)))?;
    rows.iter().map(|row| key_of(row, 0, table)).collect()
}

/// Selects the plane's records with these keys, in their order. The join is written as the one loop that looks up each key; as
/// conditions side by side, SQLite would sooner walk an index on the plane once per statement.
pub(super) fn by_keys<'a>(table: &Table, keys: impl Iterator<Item = &'a Key>) -> Sql {
    let key = table.quoted_key();
    let mut query = Sql::new("WITH lethe_keys(lethe_key) AS (VALUES ");
    for (index, key) in keys.enumerate() {
        query = query.text(if index == 0 { "(" } else { ", (" }).value(key_value(key)).text(")");
    }
    query
        .text(format!(
            ") SELECT {} FROM lethe_keys CROSS JOIN {} WHERE {key} = lethe_key AND {key} = lethe_key COLLATE BINARY AND ",
            table.quoted_columns(),
            table.quoted()
        ))
        .sql(table.scope())
}

/// The record in a row that was selected with [`Table::quoted_columns`].
pub(super) fn record(row: &SqliteRow, table: &Table) -> Result<Record, PortError> {
    let key = key_of(row, table.key, table)?;
    let values = (0..table.columns.len())
        .map(|column| sql::value(row, column).map_err(|error| unreadable(table, &key.to_string(), column, &error.to_string())))
        .collect::<Result<_, _>>()?;
    Ok(Record { key, values })
}

/// The key in one place of a row.
fn key_of(row: &SqliteRow, index: usize, table: &Table) -> Result<Key, PortError> {
    match sql::value(row, index) {
        Ok(Value::Integer(number)) => Ok(Key::Integer(number)),
        Ok(Value::Text(text)) => Ok(Key::Text(text)),
        Ok(Value::Blob(bytes)) => Ok(Key::Blob(bytes)),
        Ok(Value::Null) => Err(unreadable(table, "null", table.key, "a null key names nothing")),
        Ok(Value::Real(number)) => {
            Err(unreadable(table, &number.to_string(), table.key, "a floating-point number is no exact key"))
        }
        Err(error) => Err(unreadable(table, "unknown", table.key, &error.to_string())),
    }
}

fn unreadable(table: &Table, key: &str, column: usize, why: &str) -> PortError {
    PortError::Permanent(format!("read table {}, key {key}, column {}: {why}", table.name, table.columns[column].name))
}
