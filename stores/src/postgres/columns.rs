//! The exported columns: what each is declared as, and how its values travel.
//!
//! The rule: integers, floats, text and bytes travel as themselves, a `vector` as its float32 values, and everything else as the text
//! that PostgreSQL itself would dump, under settings under which that text makes the same value again.
//! It only reads, so nothing happens if we die in it.

use lethe_stages::{
    ports::PortError,
    record::{ColumnKind, Value},
};
use sqlx::{
    Row,
    postgres::{PgConnection, PgRow},
};

use super::{
    connect::failed,
    sql::{KeyClass, name, statement},
};

/// How a column's values travel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Class {
    Integer,
    Real,
    Text,
    Blob,
    /// pgvector's `vector`; the schema in which the extension stands.
    Vector(String),
    /// By the type's own output.
    Written,
}

/// A column that is exported: every column that is not generated.
#[derive(Debug, Clone)]
pub(super) struct TableColumn {
    pub(super) name: String,
    /// The type as `\d` shows it.
    pub(super) declared: String,
    /// The name of the type, of a domain's base type.
    base: String,
    pub(super) class: Class,
    deterministic: bool,
}

/// The columns, and the names of those that are generated.
pub(super) struct Columns {
    pub(super) columns: Vec<TableColumn>,
    pub(super) generated: Vec<String>,
}

/// Reads the columns of a table.
pub(super) async fn read(connection: &mut PgConnection, oid: i64, table: &str) -> Result<Columns, PortError> {
    let rows = statement(
        r"SELECT a.attname::text, format_type(a.atttypid, a.atttypmod), b.typname::text, n.nspname::text,
                 a.attgenerated::text <> '', coalesce(l.collisdeterministic, true)
          FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
               JOIN pg_type b ON b.oid = CASE t.typtype WHEN 'd' THEN t.typbasetype ELSE t.oid END
               JOIN pg_namespace n ON n.oid = b.typnamespace
               LEFT JOIN pg_collation l ON l.oid = a.attcollation
          WHERE a.attrelid = $1::oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum",
    )
    .bind(oid)
    .fetch_all(connection)
    .await
    .map_err(failed(format!("read the columns of table {table}")))?;
    let (mut columns, mut generated) = (Vec::new(), Vec::new());
    for row in rows {
        let (column, base, schema): (String, String, String) = (row.get(0), row.get(2), row.get(3));
        if row.get::<bool, _>(4) {
            generated.push(column);
            continue;
        }
        let class = match (schema.as_str(), base.as_str()) {
            ("pg_catalog", "int2" | "int4" | "int8" | "oid") => Class::Integer,
            ("pg_catalog", "float4" | "float8") => Class::Real,
            ("pg_catalog", "text" | "varchar") => Class::Text,
            ("pg_catalog", "bytea") => Class::Blob,
            (_, "vector") if schema != "pg_catalog" => Class::Vector(schema),
            _ => Class::Written,
        };
        columns.push(TableColumn { name: column, declared: row.get(1), base, class, deterministic: row.get(5) });
    }
    Ok(Columns { columns, generated })
}

impl TableColumn {
    /// The expression of its value, as `int8`, `float8`, `text` or `bytea`.
    pub(super) fn selected(&self) -> String {
        let column = name(&self.name);
        match &self.class {
            Class::Integer => format!("{column}::int8"),
            Class::Real => format!("{column}::float8"),
            Class::Text => format!("{column}::text"),
            Class::Blob => format!("{column}::bytea"),
            Class::Vector(schema) => format!("{}.vector_send({column})", name(schema)),
            // Not `IS NULL`, which is true of a composite value of nulls; not a cast to text, which trims a char(n).
            Class::Written => format!("CASE WHEN num_nulls({column}) = 0 THEN format('%s', {column}) END"),
        }
    }

    /// The value in one place of a row that was selected so.
    pub(super) fn value(&self, row: &PgRow, index: usize) -> Result<Value, String> {
        let said = |error: sqlx::Error| error.to_string();
        Ok(match &self.class {
            Class::Integer => row.try_get::<Option<i64>, _>(index).map_err(said)?.map_or(Value::Null, Value::Integer),
            Class::Real => row.try_get::<Option<f64>, _>(index).map_err(said)?.map_or(Value::Null, Value::Real),
            Class::Text | Class::Written => {
                row.try_get::<Option<String>, _>(index).map_err(said)?.map_or(Value::Null, Value::Text)
            }
            Class::Blob => row.try_get::<Option<Vec<u8>>, _>(index).map_err(said)?.map_or(Value::Null, Value::Blob),
            Class::Vector(_) => match row.try_get::<Option<Vec<u8>>, _>(index).map_err(said)? {
                None => Value::Null,
                Some(sent) => Value::Blob(received(&sent)?),
            },
        })
    }

    /// How its values look in the archive.
    pub(super) fn kind(&self) -> ColumnKind {
        match self.class {
            Class::Integer => ColumnKind::Integer,
            Class::Real => ColumnKind::Real,
            Class::Text | Class::Written => ColumnKind::Text,
            Class::Blob => ColumnKind::Blob,
            Class::Vector(_) => ColumnKind::VectorBlob,
        }
    }

    /// What keys it holds.
    pub(super) fn key_class(&self, table: &str) -> Result<KeyClass, PortError> {
        let class = match (&self.class, self.base.as_str()) {
            (Class::Integer, _) => KeyClass::Integer,
            (Class::Text, _) if self.deterministic => KeyClass::Text,
            (Class::Blob, _) => KeyClass::Blob,
            (Class::Written, "uuid") => KeyClass::Uuid,
            (Class::Text, _) => return Err(self.refused("key", table, "its collation takes different texts for one")),
            _ => return Err(self.refused("key", table, "a key is an integer, a uuid, text or bytea")),
        };
        Ok(class)
    }

    /// Refuses a column that does not tell planes apart exactly.
    pub(super) fn can_tell_planes(&self, table: &str) -> Result<(), PortError> {
        match (&self.class, self.base.as_str()) {
            (Class::Text, _) if !self.deterministic => {
                Err(self.refused("plane", table, "its collation takes different texts for one"))
            }
            (Class::Integer | Class::Text, _) | (Class::Written, "uuid") => Ok(()),
            _ => Err(self.refused("plane", table, "planes are told apart by an integer, a uuid or text")),
        }
    }

    /// The type to which the plane's value is cast where it is compared with the column.
    pub(super) fn plane_type(&self) -> &str {
        match self.base.as_str() {
            "varchar" => "text",
            base => base,
        }
    }

    fn refused(&self, word: &str, table: &str, why: &str) -> PortError {
        PortError::Permanent(format!("use {word} column `{}` of table {table}: it is {}, and {why}", self.name, self.declared))
    }
}

/// The float32 values of a `vector`, little-endian, from how pgvector sends it: their number and two unused bytes, then the values,
/// big-endian.
fn received(sent: &[u8]) -> Result<Vec<u8>, String> {
    let (head, values) = sent.split_at_checked(4).ok_or("a vector is shorter than its head")?;
    if values.len() != usize::from(u16::from_be_bytes([head[0], head[1]])) * 4 {
        return Err("a vector is not as long as it says".into());
    }
    let mut bytes = values.to_vec();
    bytes.chunks_exact_mut(4).for_each(<[u8]>::reverse);
    Ok(bytes)
}

/// A vector as PostgreSQL reads it, from its little-endian float32 values. Each number is written so that it is read as the same.
pub(super) fn written_vector(bytes: &[u8]) -> String {
    let numbers = bytes.chunks_exact(4).map(|four| f32::from_le_bytes(four.try_into().expect("chunks of four")).to_string());
    format!("[{}]", numbers.collect::<Vec<_>>().join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vector_is_taken_to_the_bit() {
        let sent = [&[0, 2, 0, 0][..], &0.1_f32.to_be_bytes(), &(-0.0_f32).to_be_bytes()].concat();
        let bytes = received(&sent).unwrap();
        assert_eq!(bytes, [0.1_f32.to_le_bytes(), (-0.0_f32).to_le_bytes()].concat());
        assert_eq!(written_vector(&bytes), "[0.1,-0]");
        assert!(received(&sent[..8]).is_err());
        assert!(received(&[0]).is_err());
    }
}
