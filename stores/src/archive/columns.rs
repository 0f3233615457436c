//! How a part's columns stand in Parquet: their names and types, and what is written beside them in the file's metadata.
//!
//! The rule: a part says of itself how it is to be read. A later export of the same table may find other kinds of values, and an
//! older part must still decode to exactly its own. Nothing here touches the world.

use std::sync::Arc;

use arrow_schema::{DataType, Field, FieldRef, Fields, Schema};
use lethe_stages::{
    ports::PortError,
    record::{Column, ColumnKind},
};

/// The digest column of a part with records.
pub(super) const SHA256: &str = "lethe_sha256";
/// The only column of an inventory.
pub(super) const DIGEST: &str = "lethe_digest";
/// Metadata: the version of this layout.
pub(super) const LAYOUT: &str = "lethe.layout";
/// Metadata: the columns and their kinds, as JSON.
pub(super) const COLUMNS: &str = "lethe.columns";
/// Metadata: which of the columns is the key.
pub(super) const KEY_COLUMN: &str = "lethe.key_column";
/// The layout written here.
pub(super) const LAYOUT_VERSION: &str = "1";

/// The column that keeps a JSON vector's text.
pub(super) fn json_name(column: &str) -> String {
    format!("{column}__json")
}

/// The fields of a mixed value; of one value, at most one of them is not null.
pub(super) fn mixed_fields() -> Fields {
    Fields::from(vec![
        Field::new("integer", DataType::Int64, true),
        Field::new("real", DataType::Float64, true),
        Field::new("text", DataType::Utf8, true),
        Field::new("blob", DataType::Binary, true),
    ])
}

/// The element of a vector. The name is the Parquet format's own.
pub(super) fn element(number: DataType) -> FieldRef {
    Arc::new(Field::new("element", number, true))
}

/// The digest column's type.
pub(super) const DIGEST_BYTES: i32 = 32;

/// The schema of a part with these columns; of an inventory where there are none.
pub(super) fn schema(columns: &[Column]) -> Result<Schema, PortError> {
    let mut fields = Vec::new();
    for column in columns {
        let kind = match column.kind {
            ColumnKind::Integer => DataType::Int64,
            ColumnKind::Real => DataType::Float64,
            ColumnKind::Text => DataType::Utf8,
            ColumnKind::Blob => DataType::Binary,
            ColumnKind::Mixed => DataType::Struct(mixed_fields()),
            ColumnKind::VectorBlob => DataType::List(element(DataType::Float32)),
            ColumnKind::VectorJson => DataType::List(element(DataType::Float64)),
        };
        fields.push(Field::new(&column.name, kind, true));
        if column.kind == ColumnKind::VectorJson {
            fields.push(Field::new(json_name(&column.name), DataType::Utf8, true));
        }
    }
    fields.push(Field::new(if columns.is_empty() { DIGEST } else { SHA256 }, DataType::FixedSizeBinary(DIGEST_BYTES), true));
    // Readers such as DuckDB do not tell names apart by case.
    let mut names: Vec<_> = fields.iter().map(|field| field.name().to_lowercase()).collect();
    names.sort();
    match names.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(PortError::Permanent(format!(
            "name the archive's columns: `{}` would stand twice; rename that column, its name is taken in the archive",
            pair[0]
        ))),
        None => Ok(Schema::new(fields)),
    }
}
