//! The indexes of a bound table: what makes a key name one record, and by what vectors are searched.
//!
//! The rule: an index that covers some rows only, or an expression, makes nothing unique. It only reads, so nothing happens if we die
//! in it.

use lethe_stages::ports::PortError;
use sqlx::{Row, postgres::PgConnection};

use super::{
    connect::failed,
    schema::VectorIndex,
    sql::{name, statement},
};

/// The columns of each unique index.
pub(super) struct UniqueKeys(Vec<Vec<String>>);

impl std::fmt::Display for UniqueKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let listed: Vec<_> = self.0.iter().map(|columns| format!("({})", columns.join(", "))).collect();
        if listed.is_empty() { f.write_str("it has none at all") } else { write!(f, "it has {}", listed.join(", ")) }
    }
}

impl UniqueKeys {
    /// Whether some unique key consists of these columns, in any order, or of some of them.
    pub(super) fn covers(&self, columns: &[&str]) -> bool {
        self.0.iter().any(|key| key.iter().all(|column| columns.contains(&column.as_str())))
    }
}

/// Reads the unique indexes of a table.
pub(super) async fn read(connection: &mut PgConnection, oid: i64, table: &str) -> Result<UniqueKeys, PortError> {
    let rows = statement(
        r"SELECT array_agg(a.attname::text ORDER BY k.position)
          FROM pg_index i CROSS JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY AS k (attnum, position)
               JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
          WHERE i.indrelid = $1::oid AND i.indisunique AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL
            AND k.position <= i.indnkeyatts GROUP BY i.indexrelid",
    )
    .bind(oid)
    .fetch_all(connection)
    .await
    .map_err(failed(format!("read the indexes of table {table}")))?;
    Ok(UniqueKeys(rows.iter().map(|row| row.get(0)).collect()))
}

/// The index by which the column's vectors are searched, if there is one.
pub(super) async fn vector_index(
    connection: &mut PgConnection,
    oid: i64,
    column: &str,
) -> Result<Option<VectorIndex>, PortError> {
    let row = statement(
        r"SELECT x.relname::text, m.amname::text, n.nspname::text, o.oprname::text
          FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid JOIN pg_am m ON m.oid = x.relam
               JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
               JOIN pg_opclass c ON c.oid = i.indclass[0]
               JOIN pg_amop p ON p.amopfamily = c.opcfamily AND p.amoppurpose = 'o'
               JOIN pg_operator o ON o.oid = p.amopopr JOIN pg_namespace n ON n.oid = o.oprnamespace
          WHERE i.indrelid = $1::oid AND i.indisvalid AND m.amname IN ('hnsw', 'ivfflat') AND i.indpred IS NULL AND a.attname = $2
          ORDER BY x.relname LIMIT 1",
    )
    .bind(oid)
    .bind(column.to_owned())
    .fetch_optional(connection)
    .await
    .map_err(failed("read the vector indexes"))?;
    Ok(row.map(|row| VectorIndex {
        name: row.get(0),
        method: row.get(1),
        operator: format!("OPERATOR({}.{})", name(&row.get::<String, _>(2)), row.get::<String, _>(3)),
    }))
}
