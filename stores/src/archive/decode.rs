//! The bytes of a Parquet part back into records.
//!
//! The rule: exactly the records that were written, or an error that names the part. Works in memory only.

use std::sync::Arc;

use arrow_array::{
    Array, BinaryArray, FixedSizeBinaryArray, Float32Array, Float64Array, Int64Array, ListArray, RecordBatch, StringArray,
    StructArray,
};
use bytes::Bytes;
use lethe_stages::record::{Column, ColumnKind, Key, Record, RecordDigest, Value};
use parquet::{
    arrow::arrow_reader::{ArrowReaderOptions, ParquetRecordBatchReaderBuilder},
    encryption::decrypt::FileDecryptionProperties,
};

use super::columns::{COLUMNS, DIGEST, KEY_COLUMN, LAYOUT, LAYOUT_VERSION, SHA256, json_name};

/// Rows decoded at a time, beside the records that are the result.
const BATCH_ROWS: usize = 4_096;

/// What a Parquet file with an encrypted footer begins and ends with.
pub(super) const ENCRYPTED: &[u8; 4] = b"PARE";

/// What a part holds.
pub(super) struct Decoded {
    pub(super) records: Vec<Record>,
    pub(super) digests: Vec<RecordDigest>,
}

/// Decodes a part that should have `columns`, by name and in order; an inventory where there are none. The kinds are the part's own. A part
/// is encrypted exactly where `decryption` says how.
pub(super) fn decode(
    bytes: Bytes,
    columns: &[Column],
    decryption: Option<Arc<FileDecryptionProperties>>,
) -> Result<Decoded, String> {
    let mut options = ArrowReaderOptions::new();
    match (decryption, bytes.starts_with(ENCRYPTED)) {
        (Some(decryption), true) => options = options.with_file_decryption_properties(decryption),
        (Some(_), false) => return Err("it is not encrypted, as every part of this archive must be".into()),
        (None, true) => return Err("it is encrypted, and its key is not at hand".into()),
        (None, false) => {}
    }
    let builder = ParquetRecordBatchReaderBuilder::try_new_with_options(bytes, options).map_err(|error| error.to_string())?;
    let metadata = builder.metadata().file_metadata().key_value_metadata().cloned().unwrap_or_default();
    let metadata = |key: &str| metadata.iter().find(|pair| pair.key == key).and_then(|pair| pair.value.clone());
    match metadata(LAYOUT) {
        Some(version) if version == LAYOUT_VERSION => {}
        Some(version) => return Err(format!("its layout is {version}, known is {LAYOUT_VERSION}")),
        None => return Err("it is not a part that Lethe wrote".into()),
    }
    let own: Vec<Column> = match metadata(COLUMNS) {
        None => Vec::new(),
        Some(listed) => serde_json::from_str(&listed).map_err(|error| format!("its list of columns: {error}"))?,
    };
    if !own.iter().map(|column| &column.name).eq(columns.iter().map(|column| &column.name)) {
        let names = |columns: &[Column]| match columns {
            [] => "none (an inventory)".to_owned(),
            _ => columns.iter().map(|column| column.name.as_str()).collect::<Vec<_>>().join(", "),
        };
        return Err(format!("its columns are {}, expected are {}", names(&own), names(columns)));
    }
    let key_column = match metadata(KEY_COLUMN) {
        None if own.is_empty() => 0,
        None => return Err("it does not say which column is the key".into()),
        Some(index) => index.parse().ok().filter(|index| *index < own.len()).ok_or("its key column is none of its columns")?,
    };

    let reader = builder.with_batch_size(BATCH_ROWS).build().map_err(|error| error.to_string())?;
    let mut decoded = Decoded { records: Vec::new(), digests: Vec::new() };
    for batch in reader {
        let batch = batch.map_err(|error| error.to_string())?;
        decode_batch(&batch, &own, key_column, &mut decoded)?;
    }
    Ok(decoded)
}

fn decode_batch(batch: &RecordBatch, columns: &[Column], key_column: usize, decoded: &mut Decoded) -> Result<(), String> {
    let digests: &FixedSizeBinaryArray = array(batch, if columns.is_empty() { DIGEST } else { SHA256 })?;
    for row in 0..batch.num_rows() {
        let digest = (!digests.is_null(row)).then(|| digests.value(row).try_into().ok()).flatten();
        decoded.digests.push(RecordDigest(digest.ok_or("a digest is missing or not 32 bytes long")?));
    }
    if columns.is_empty() {
        return Ok(());
    }
    let mut rows: Vec<Vec<Value>> = (0..batch.num_rows()).map(|_| Vec::with_capacity(columns.len())).collect();
    for column in columns {
        decode_column(batch, column, &mut rows).map_err(|error| format!("column {}: {error}", column.name))?;
    }
    for values in rows {
        let key = match &values[key_column] {
            Value::Integer(number) => Key::Integer(*number),
            Value::Text(text) => Key::Text(text.clone()),
            Value::Blob(bytes) => Key::Blob(bytes.clone()),
            Value::Null | Value::Real(_) => return Err("a record has no key".into()),
        };
        decoded.records.push(Record { key, values });
    }
    Ok(())
}

fn array<'a, A: Array + 'static>(batch: &'a RecordBatch, name: &str) -> Result<&'a A, String> {
    typed(batch.column_by_name(name).ok_or_else(|| format!("column {name} is missing"))?)
}

fn typed<A: Array + 'static>(array: &dyn Array) -> Result<&A, String> {
    array.as_any().downcast_ref().ok_or_else(|| format!("it is stored as {}", array.data_type()))
}

fn decode_column(batch: &RecordBatch, column: &Column, rows: &mut [Vec<Value>]) -> Result<(), String> {
    let name = column.name.as_str();
    let mut each = |array: &dyn Array, value: &dyn Fn(usize) -> Value| {
        for (index, row) in rows.iter_mut().enumerate() {
            row.push(if array.is_null(index) { Value::Null } else { value(index) });
        }
    };
    match column.kind {
        ColumnKind::Integer => {
            let values: &Int64Array = array(batch, name)?;
            each(values, &|index| Value::Integer(values.value(index)));
        }
        ColumnKind::Real => {
            let values: &Float64Array = array(batch, name)?;
            each(values, &|index| Value::Real(values.value(index)));
        }
        ColumnKind::Text => {
            let values: &StringArray = array(batch, name)?;
            each(values, &|index| Value::Text(values.value(index).to_owned()));
        }
        ColumnKind::Blob => {
            let values: &BinaryArray = array(batch, name)?;
            each(values, &|index| Value::Blob(values.value(index).to_owned()));
        }
        ColumnKind::VectorBlob => {
            let values: &ListArray = array(batch, name)?;
            let numbers: &Float32Array = typed(values.values())?;
            let offsets = values.value_offsets();
            each(values, &|index| {
                let numbers = &numbers.values()[offsets[index] as usize..offsets[index + 1] as usize];
                let mut bytes = vec![0; numbers.len() * 4];
                bytes.chunks_exact_mut(4).zip(numbers).for_each(|(four, number)| four.copy_from_slice(&number.to_le_bytes()));
                Value::Blob(bytes)
            });
        }
        ColumnKind::VectorJson => {
            let values: &StringArray = array(batch, &json_name(name))?;
            each(values, &|index| Value::Text(values.value(index).to_owned()));
        }
        ColumnKind::Mixed => {
            let values: &StructArray = array(batch, name)?;
            let field = |field: &str| values.column_by_name(field).ok_or_else(|| format!("field {field} is missing"));
            let integers: &Int64Array = typed(field("integer")?)?;
            let reals: &Float64Array = typed(field("real")?)?;
            let texts: &StringArray = typed(field("text")?)?;
            let blobs: &BinaryArray = typed(field("blob")?)?;
            each(values, &|index| {
                if !integers.is_null(index) {
                    Value::Integer(integers.value(index))
                } else if !reals.is_null(index) {
                    Value::Real(reals.value(index))
                } else if !texts.is_null(index) {
                    Value::Text(texts.value(index).to_owned())
                } else if !blobs.is_null(index) {
                    Value::Blob(blobs.value(index).to_owned())
                } else {
                    Value::Null
                }
            });
        }
    }
    Ok(())
}
