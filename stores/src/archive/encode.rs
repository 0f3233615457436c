//! Records into the bytes of a Parquet part.
//!
//! The rule: the same draft gives the same bytes, unless they are encrypted: no time, no machine, no version in them. What the columns' kinds do not hold is an
//! error and not a conversion. Works in memory only, so nothing is left if we die in it.

use std::sync::Arc;

use arrow_array::{
    ArrayRef, BinaryArray, Float64Array, Int64Array, RecordBatch, StringArray, StructArray,
    builder::{FixedSizeBinaryBuilder, Float32Builder, Float64Builder, ListBuilder},
};
use arrow_schema::{DataType, SchemaRef};
use lethe_stages::{
    ports::{PartDraft, PortError},
    record::{Column, ColumnKind, Key, Record, RecordDigest, Value},
};
use parquet::{
    arrow::{ArrowWriter, arrow_writer::ArrowWriterOptions},
    basic::{Compression, ZstdLevel},
    encryption::encrypt::FileEncryptionProperties,
    file::{metadata::KeyValue, properties::WriterProperties},
    schema::types::ColumnPath,
};

use super::columns::{COLUMNS, DIGEST_BYTES, KEY_COLUMN, LAYOUT, LAYOUT_VERSION, element, mixed_fields, schema};

/// Rows of one row group; with wide rows it ends earlier, so that a reader never needs more than this many bytes at a time.
const ROW_GROUP_ROWS_MAX: usize = 16_384;
const ROW_GROUP_BYTES_MAX: usize = 8 << 20;

/// A part in Arrow form, which owns its values and can be compressed elsewhere.
pub(super) struct Encoded {
    schema: SchemaRef,
    batches: Vec<RecordBatch>,
    metadata: Vec<KeyValue>,
    dictionary: Vec<String>,
}

/// Lays the draft out in columns.
pub(super) fn lay_out(draft: &PartDraft<'_>) -> Result<Encoded, PortError> {
    let failed = |why: String| PortError::Permanent(format!("encode {}: {why}", draft.key));
    let columns = draft.columns;
    if columns.is_empty() != draft.records.is_empty() || (!columns.is_empty() && draft.records.len() != draft.digests.len()) {
        return Err(failed("records, columns and digests do not belong together".into()));
    }
    if let Some(record) = draft.records.iter().find(|record| record.values.len() != columns.len()) {
        return Err(failed(format!(
            "record {} has {} value(s) for {} column(s)",
            record.key,
            record.values.len(),
            columns.len()
        )));
    }
    let schema: SchemaRef = Arc::new(schema(columns)?);
    let mut metadata = vec![KeyValue::new(LAYOUT.to_owned(), LAYOUT_VERSION.to_owned())];
    if !columns.is_empty() {
        let listed = serde_json::to_string(columns).map_err(|error| failed(error.to_string()))?;
        metadata.push(KeyValue::new(COLUMNS.to_owned(), listed));
        metadata.push(KeyValue::new(KEY_COLUMN.to_owned(), key_column(draft).map_err(failed)?.to_string()));
    }
    let mut batches = Vec::new();
    let mut from = 0;
    while from < draft.digests.len() {
        let to = batch_end(draft, from);
        let records = draft.records.get(from..to).unwrap_or_default();
        let mut arrays = Vec::with_capacity(schema.fields().len());
        for (index, column) in columns.iter().enumerate() {
            arrays.extend(column_arrays(column, index, records)?);
        }
        arrays.push(digests(&draft.digests[from..to]).map_err(failed)?);
        batches.push(RecordBatch::try_new(schema.clone(), arrays).map_err(|error| failed(error.to_string()))?);
        from = to;
    }
    // A dictionary pays for words that repeat. Floats must not have one: it tells values apart by `==`, to which -0.0 is 0.0.
    let dictionary = columns.iter().filter(|column| column.kind == ColumnKind::Text).map(|column| column.name.clone()).collect();
    Ok(Encoded { schema, batches, metadata, dictionary })
}

impl Encoded {
    /// Compresses it into the object's bytes, and encrypts them where it is told how.
    pub(super) fn write(self, key: &str, encryption: Option<Arc<FileEncryptionProperties>>) -> Result<Vec<u8>, PortError> {
        let failed = |error: parquet::errors::ParquetError| PortError::Permanent(format!("encode {key}: {error}"));
        let mut properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::default()))
            .set_created_by("lethe".to_owned())
            .set_dictionary_enabled(false)
            .set_max_row_group_row_count(Some(ROW_GROUP_ROWS_MAX))
            .set_key_value_metadata(Some(self.metadata));
        for column in self.dictionary {
            properties = properties.set_column_dictionary_enabled(ColumnPath::new(vec![column]), true);
        }
        if let Some(encryption) = encryption {
            properties = properties.with_file_encryption_properties(encryption);
        }
        // Without Arrow's own schema in the metadata: the Parquet types say everything, and its form may change with the library.
        let options = ArrowWriterOptions::new().with_properties(properties.build()).with_skip_arrow_metadata(true);
        let mut writer = ArrowWriter::try_new_with_options(Vec::new(), self.schema, options).map_err(failed)?;
        for batch in &self.batches {
            writer.write(batch).map_err(failed)?;
            writer.flush().map_err(failed)?;
        }
        writer.into_inner().map_err(failed)
    }
}

fn batch_end(draft: &PartDraft<'_>, from: usize) -> usize {
    let mut bytes = 0;
    let mut to = from;
    while to < draft.digests.len() && to - from < ROW_GROUP_ROWS_MAX {
        bytes += draft.records.get(to).map_or(32, Record::size);
        if to > from && bytes > ROW_GROUP_BYTES_MAX {
            break;
        }
        to += 1;
    }
    to
}

/// The column whose values are the records' keys. Another column with all the same values would serve as well.
fn key_column(draft: &PartDraft<'_>) -> Result<usize, String> {
    let is_key = |value: &Value, key: &Key| match (value, key) {
        (Value::Integer(value), Key::Integer(key)) => value == key,
        (Value::Text(value), Key::Text(key)) => value == key,
        (Value::Blob(value), Key::Blob(key)) => value == key,
        _ => false,
    };
    (0..draft.columns.len())
        .find(|column| draft.records.iter().all(|record| is_key(&record.values[*column], &record.key)))
        .ok_or_else(|| "no column holds the records' keys".into())
}

fn digests(digests: &[RecordDigest]) -> Result<ArrayRef, String> {
    let mut builder = FixedSizeBinaryBuilder::with_capacity(digests.len(), DIGEST_BYTES);
    for digest in digests {
        builder.append_value(digest.0).map_err(|error| error.to_string())?;
    }
    Ok(Arc::new(builder.finish()))
}

/// A value of a class that the column's kind does not have. The kinds were taken from all values, so the values moved since.
fn moved(column: &Column, record: &Record) -> PortError {
    PortError::Transient(format!(
        "encode column {} of record {}: its value is not what the column held when it was looked at; something writes to it",
        column.name, record.key
    ))
}

/// Each record's value in one column as `pick` reads it; `pick` answers `None` for a class that does not belong there.
fn picked<'a, T>(
    column: &Column,
    index: usize,
    records: &'a [Record],
    pick: impl Fn(&'a Value) -> Option<T>,
) -> Result<Vec<Option<T>>, PortError> {
    let one = |record: &'a Record| match &record.values[index] {
        Value::Null => Ok(None),
        value => pick(value).map(Some).ok_or_else(|| moved(column, record)),
    };
    records.iter().map(one).collect()
}

fn column_arrays(column: &Column, index: usize, records: &[Record]) -> Result<Vec<ArrayRef>, PortError> {
    let integer = |value: &Value| if let Value::Integer(number) = value { Some(*number) } else { None };
    let real = |value: &Value| if let Value::Real(number) = value { Some(*number) } else { None };
    let array: ArrayRef = match column.kind {
        ColumnKind::Integer => Arc::new(Int64Array::from(picked(column, index, records, integer)?)),
        ColumnKind::Real => Arc::new(Float64Array::from(picked(column, index, records, real)?)),
        ColumnKind::Text => Arc::new(StringArray::from(picked(column, index, records, text)?)),
        ColumnKind::Blob => Arc::new(BinaryArray::from(picked(column, index, records, blob)?)),
        ColumnKind::Mixed => {
            let values = || records.iter().map(|record| &record.values[index]);
            let arrays: Vec<ArrayRef> = vec![
                Arc::new(values().map(integer).collect::<Int64Array>()),
                Arc::new(values().map(real).collect::<Float64Array>()),
                Arc::new(values().map(text).collect::<StringArray>()),
                Arc::new(values().map(blob).collect::<BinaryArray>()),
            ];
            Arc::new(
                StructArray::try_new(mixed_fields(), arrays, None)
                    .map_err(|error| PortError::Permanent(format!("encode column {}: {error}", column.name)))?,
            )
        }
        ColumnKind::VectorBlob => {
            let vectors = picked(column, index, records, |value| blob(value).filter(|bytes| bytes.len() % 4 == 0))?;
            let mut builder = ListBuilder::new(Float32Builder::new()).with_field(element(DataType::Float32));
            let number = |four: &[u8]| f32::from_le_bytes(four.try_into().expect("chunks of four"));
            let mut numbers = Vec::new();
            for vector in vectors {
                numbers.clear();
                numbers.extend(vector.iter().flat_map(|bytes| bytes.chunks_exact(4)).map(number));
                builder.values().append_slice(&numbers);
                builder.append(vector.is_some());
            }
            Arc::new(builder.finish())
        }
        ColumnKind::VectorJson => {
            let texts = picked(column, index, records, text)?;
            let mut builder = ListBuilder::new(Float64Builder::new()).with_field(element(DataType::Float64));
            for written in &texts {
                // The text beside it is the record; numbers that a float cannot hold leave the list null.
                let numbers = written.and_then(|written| serde_json::from_str::<Vec<f64>>(written).ok());
                numbers.iter().flatten().for_each(|number| builder.values().append_value(*number));
                builder.append(numbers.is_some());
            }
            return Ok(vec![Arc::new(builder.finish()), Arc::new(StringArray::from(texts))]);
        }
    };
    Ok(vec![array])
}

fn text(value: &Value) -> Option<&str> {
    if let Value::Text(text) = value { Some(text) } else { None }
}

fn blob(value: &Value) -> Option<&[u8]> {
    if let Value::Blob(bytes) = value { Some(bytes) } else { None }
}
