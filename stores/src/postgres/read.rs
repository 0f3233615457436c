//! Reading the plane's records: counts, and pages in key order.
//!
//! The rule: a record is read as it is stored, value by value; what could not be written back is an error that names its place, not a
//! guess. It only reads, so nothing happens if we die in it.

use lethe_stages::{
    ports::{PageLimit, PortError},
    record::{Column, ColumnKind, Key, Record, Value},
};
use sqlx::{
    Row,
    postgres::{PgConnection, PgRow},
};

use super::{
    connect::failed,
    schema::Table,
    sql::{KeyClass, Param, Sql, name, statement},
};

/// Records that the cursor hands over at a time.
const FETCHED: usize = 200;

/// How many records the plane has.
pub(super) async fn count(connection: &mut PgConnection, table: &Table) -> Result<u64, PortError> {
    let query = table.scope(Sql::new(format!("SELECT count(*) FROM {} WHERE ", table.quoted()))).query();
    let row = query.fetch_one(connection).await.map_err(failed(format!("count the records in table {}", table.resource())))?;
    Ok(row.get::<i64, _>(0) as u64)
}

/// The exported columns with the kinds of the plane's values. An embedding kept as bytes or JSON is a vector only if all of them are.
pub(super) async fn kinds(connection: &mut PgConnection, table: &Table) -> Result<Vec<Column>, PortError> {
    let mut columns: Vec<_> =
        table.columns.iter().map(|column| Column { name: column.name.clone(), kind: column.kind() }).collect();
    if let Some(embedding) = table.embedding {
        let column = name(&table.columns[embedding].name);
        let (odd, kind) = match columns[embedding].kind {
            ColumnKind::Blob => (format!("octet_length({column}) % 4 <> 0"), ColumnKind::VectorBlob),
            ColumnKind::Text => (format!("format('%s', {column}) !~ '^\\s*\\[[-+0-9.eE,\\s]*\\]\\s*$'"), ColumnKind::VectorJson),
            _ => return Ok(columns),
        };
        let query = table.scope(Sql::new(format!("SELECT count(*) FROM {} WHERE {odd} AND ", table.quoted()))).query();
        let row = query.fetch_one(connection).await;
        let row = row.map_err(failed(format!("look at the values of table {}", table.resource())))?;
        if row.get::<i64, _>(0) == 0 {
            columns[embedding].kind = kind;
        }
    }
    Ok(columns)
}

/// Records after `after` in ascending key order, until `limit` is reached; one record always fits. Read through a cursor, so that
/// neither side holds more than a page.
pub(super) async fn page(
    connection: &mut PgConnection,
    table: &Table,
    after: Option<&Key>,
    limit: PageLimit,
) -> Result<Vec<Record>, PortError> {
    let doing = format!("read table {}", table.resource());
    let key = table.quoted_key();
    let ordered = table.key_class.ordered(&key);
    let sql = format!("DECLARE lethe_page NO SCROLL CURSOR FOR SELECT {} FROM {} WHERE ", table.selected(), table.quoted());
    let mut sql = table.scope(Sql::new(sql));
    if let Some(after) = after {
        let after = table.key_class.param(after).ok_or_else(|| not_of_this_table(table, after))?;
        sql = cast_param(sql.text(format!(" AND {ordered} > ")), table, after);
    }
    let rows_max = i64::try_from(limit.rows_max.max(1)).unwrap_or(i64::MAX);
    let sql = sql.text(format!(" ORDER BY {ordered} LIMIT {rows_max}"));
    sql.query().execute(&mut *connection).await.map_err(failed(doing.clone()))?;

    let mut records = Vec::new();
    let mut bytes = 0;
    'page: loop {
        let fetched = statement(format!("FETCH FORWARD {FETCHED} FROM lethe_page")).fetch_all(&mut *connection).await;
        let fetched = fetched.map_err(failed(doing.clone()))?;
        for row in &fetched {
            let record = record(row, table)?;
            bytes += record.size();
            if !records.is_empty() && bytes > limit.bytes_max {
                break 'page;
            }
            records.push(record);
        }
        if fetched.len() < FETCHED {
            break;
        }
    }
    Ok(records)
}

/// Goes on with a bound key, in the column's type.
fn cast_param(sql: Sql, table: &Table, key: Param) -> Sql {
    match table.key_class {
        KeyClass::Uuid => sql.text("(").param(key).text("::text)::uuid"),
        _ => sql.param(key),
    }
}

/// The error for a key that this table's key column cannot hold.
pub(super) fn not_of_this_table(table: &Table, key: &Key) -> PortError {
    PortError::WrongPlace(format!(
        "look for key {key} in table {}: its column {} is {}, so the key is of another table",
        table.resource(),
        table.columns[table.key].name,
        table.columns[table.key].declared
    ))
}

/// The record in a row whose first columns were selected with [`Table::selected`].
pub(super) fn record(row: &PgRow, table: &Table) -> Result<Record, PortError> {
    let unreadable = |column: usize, why: &str| {
        PortError::Permanent(format!("read table {}, column {}: {why}", table.resource(), table.columns[column].name))
    };
    let values: Vec<Value> = table
        .columns
        .iter()
        .enumerate()
        .map(|(index, column)| column.value(row, index).map_err(|error| unreadable(index, &error)))
        .collect::<Result<_, _>>()?;
    let key = match &values[table.key] {
        Value::Integer(number) => Key::Integer(*number),
        Value::Text(text) => Key::Text(text.clone()),
        Value::Blob(bytes) => Key::Blob(bytes.clone()),
        Value::Null => return Err(unreadable(table.key, "a null key names nothing")),
        Value::Real(_) => return Err(unreadable(table.key, "a floating-point number is no exact key")),
    };
    Ok(Record { key, values })
}
