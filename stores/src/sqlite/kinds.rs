//! How the plane's values look, column by column, found by asking the store and not by believing its declarations.
//!
//! The rule: a kind is chosen only if every one of the plane's values fits it. It only reads, so nothing happens if we die in it.

use lethe_stages::{
    ports::PortError,
    record::{Column, ColumnKind},
};
use sqlx::{Row, sqlite::SqliteConnection};

use super::{
    connect::failed,
    schema::{Affinity, Table},
    sql::{Sql, name},
};

/// Columns looked at in one scan: each takes four results, and SQLite gives at most 2,000.
const COLUMNS_PER_SCAN: usize = 400;

/// The exported columns with the kinds of the plane's values.
pub(super) async fn kinds(connection: &mut SqliteConnection, table: &Table) -> Result<Vec<Column>, PortError> {
    let mut found = Vec::with_capacity(table.columns.len());
    for (chunk_index, chunk) in table.columns.chunks(COLUMNS_PER_SCAN).enumerate() {
        let offset = chunk_index * COLUMNS_PER_SCAN;
        let mut counts = vec![vector_counts(table)];
        for column in chunk {
            let column = name(&column.name);
            counts.extend(
                ["integer", "real", "text", "blob"].map(|class| format!("count(*) FILTER (WHERE typeof({column}) = '{class}')")),
            );
        }
        let query = Sql::new(format!("SELECT {} FROM {} WHERE ", counts.join(", "), table.quoted())).sql(table.scope());
        let row = query
            .query()
            .fetch_one(&mut *connection)
            .await
            .map_err(failed(format!("look at the values of table {}", table.name)))?;
        let (odd_blobs, other_texts): (i64, i64) = (row.get(0), row.get(1));
        for (index, column) in chunk.iter().enumerate() {
            let classes: [i64; 4] = std::array::from_fn(|class| row.get(2 + index * 4 + class));
            let mut kind = kind_of(classes, column.affinity);
            if table.embedding == Some(offset + index) {
                kind = match kind {
                    ColumnKind::Blob if odd_blobs == 0 => ColumnKind::VectorBlob,
                    ColumnKind::Text if other_texts == 0 => ColumnKind::VectorJson,
                    other => other,
                };
            }
            found.push(Column { name: column.name.clone(), kind });
        }
    }
    Ok(found)
}

/// Counts of the embeddings that are no vectors: blobs of a length that float32 values do not fill, texts that are no array of
/// numbers. Of an array only the first element is looked at: the archive keeps the text beside the numbers in any case.
fn vector_counts(table: &Table) -> String {
    let Some(embedding) = table.embedding else { return "0, 0".into() };
    let column = name(&table.columns[embedding].name);
    format!(
        "count(*) FILTER (WHERE typeof({column}) = 'blob' AND length({column}) % 4 <> 0), \
         count(*) FILTER (WHERE typeof({column}) = 'text' AND NOT CASE WHEN json_valid({column}) THEN \
         json_type({column}) = 'array' AND coalesce(json_type({column}, '$[0]'), 'real') IN ('integer', 'real') ELSE 0 END)"
    )
}

fn kind_of(classes: [i64; 4], affinity: Affinity) -> ColumnKind {
    let kinds = [ColumnKind::Integer, ColumnKind::Real, ColumnKind::Text, ColumnKind::Blob];
    let mut seen = kinds.into_iter().zip(classes).filter(|(_, count)| *count > 0);
    match (seen.next(), seen.next()) {
        (Some((kind, _)), None) => kind,
        (Some(_), Some(_)) => ColumnKind::Mixed,
        // Nothing but nulls: what the column is declared for.
        (None, _) => match affinity {
            Affinity::Integer | Affinity::Numeric => ColumnKind::Integer,
            Affinity::Real => ColumnKind::Real,
            Affinity::Text => ColumnKind::Text,
            Affinity::None => ColumnKind::Blob,
        },
    }
}
