//! What the partitions of a table say of a plane: which is its own, and which may hold records of it at all.
//!
//! The rule: only what the server itself enforces of each record in a partition is believed: by which values it is bound. No partition is
//! opened for that, so that nobody waits for a neighbour's lock: a bound names no column, and is written out without its table.
//! It only reads, so nothing happens if we die in it.

use lethe_stages::ports::PortError;
use sqlx::{Row, postgres::PgConnection};

use super::{
    columns::Class,
    connect::failed,
    schema::Table,
    sql::{name, statement},
};

const OWN_PARTITION: &str = r"
SELECT n.nspname::text, c.relname::text FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid JOIN pg_namespace n ON n.oid = c.relnamespace
     JOIN pg_partitioned_table p ON p.partrelid = i.inhparent
     JOIN pg_attribute a ON a.attrelid = i.inhparent AND a.attnum = p.partattrs[0]
WHERE i.inhparent = $1::oid AND c.relkind = 'r' AND p.partstrat = 'l' AND p.partnatts = 1 AND a.attname = $2
  AND pg_get_expr(c.relpartbound, 0) = CASE WHEN $4 THEN format('FOR VALUES IN (%s)', $3) ELSE format('FOR VALUES IN (%L)', $3) END";

/// The partition that holds the plane's value and no other, quoted; if there is one.
pub(super) async fn own_partition(connection: &mut PgConnection, table: &Table) -> Result<Option<String>, PortError> {
    let (true, Some(column)) = (table.partitioned, table.plane_column()) else { return Ok(None) };
    let row = statement(OWN_PARTITION)
        .bind(table.oid)
        .bind(column.to_owned())
        .bind(table.plane_text().to_owned())
        // Only a number's text stands in a bound as it is; of a text it could be another bound altogether.
        .bind(table.plane.as_ref().is_some_and(|plane| table.columns[plane.column].class == Class::Integer))
        .fetch_optional(connection)
        .await
        .map_err(failed(format!("look for the plane's partition of table {}", table.resource())))?;
    Ok(row.map(|row| format!("{}.{}", name(&row.get::<String, _>(0)), name(&row.get::<String, _>(1)))))
}

/// Where the plane's records stood, by the table's partitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Apart {
    /// In a partition of their own, which is still there.
    Here,
    /// In one that is gone: no partition takes the plane's value, so no other file ever held a record of it.
    Gone,
    /// In files that others share.
    No,
}

/// Where the plane's records stand or stood.
pub(super) async fn stands_apart(connection: &mut PgConnection, table: &Table) -> Result<Apart, PortError> {
    let (true, Some(column)) = (table.partitioned, table.plane_column()) else { return Ok(Apart::No) };
    if own_partition(connection, table).await?.is_some() {
        return Ok(Apart::Here);
    }
    const TAKES: &str = r"
        SELECT p.partstrat = 'l' AND p.partnatts = 1 AND p.partdefid = 0 AND a.attname = $2 AND NOT EXISTS (
            SELECT FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = $1::oid
              AND position(quote_literal($3) IN pg_get_expr(c.relpartbound, 0)) + position($3 IN pg_get_expr(c.relpartbound, 0)) > 0)
        FROM pg_partitioned_table p JOIN pg_attribute a ON a.attrelid = p.partrelid AND a.attnum = p.partattrs[0]
        WHERE p.partrelid = $1::oid";
    let none = statement(TAKES).bind(table.oid).bind(column.to_owned()).bind(table.plane_text().to_owned());
    let none = none.fetch_optional(connection).await;
    let none = none.map_err(failed(format!("look at the partitions of table {}", table.resource())))?;
    Ok(if none.is_some_and(|row| row.get::<bool, _>(0)) { Apart::Gone } else { Apart::No })
}

/// The bounds of all partitions as one list of literals, if each is bound by a list of values of one column, and none takes what the others
/// do not.
const BOUNDS: &str = r"
SELECT string_agg(substring(b.bound FROM '^FOR VALUES IN \((.*)\)$'), ', ') FILTER (WHERE p.partstrat = 'l' AND p.partnatts = 1 AND p.partdefid = 0)
FROM pg_partitioned_table p JOIN pg_attribute a ON a.attrelid = p.partrelid AND a.attnum = p.partattrs[0]
     JOIN pg_inherits i ON i.inhparent = p.partrelid JOIN pg_class c ON c.oid = i.inhrelid
     CROSS JOIN LATERAL pg_get_expr(c.relpartbound, 0) AS b (bound)
WHERE p.partrelid = $1::oid AND a.attname = $2";

/// The values among the partitions' that differ from the plane's in nothing but case and outer white space. `None` where partitions do not
/// tell: there, a record of any value may stand anywhere.
pub(super) async fn values_like(connection: &mut PgConnection, table: &Table) -> Result<Option<Vec<String>>, PortError> {
    let (true, Some(column)) = (table.partitioned, table.plane_column()) else { return Ok(None) };
    let doing = format!("look at the partitions of table {}", table.resource());
    let row = statement(BOUNDS).bind(table.oid).bind(column.to_owned()).fetch_one(&mut *connection).await;
    let Some(bounds) = row.map_err(failed(doing.clone()))?.get::<Option<String>, _>(0) else { return Ok(None) };
    // Literals as the server wrote them.
    let like = format!(
        "SELECT DISTINCT value FROM unnest(ARRAY[{bounds}]::text[]) AS value WHERE lower(btrim(value)) = lower(btrim($1))"
    );
    let rows = statement(like).bind(table.plane_text().to_owned()).fetch_all(connection).await.map_err(failed(doing))?;
    Ok(Some(rows.iter().map(|row| row.get(0)).collect()))
}
