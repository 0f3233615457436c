//! Tables that somebody takes away: rows of typed columns into one Parquet file.
//!
//! The rule: the file is there whole or not at all. It is written beside its place under another name and renamed when it is complete and on
//! the disk. If we die before that, the part file is left, which the next who writes there replaces.

use std::{
    fs::File,
    path::{Path, PathBuf},
    sync::Arc,
};

use arrow_array::{ArrayRef, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow_schema::{DataType, Field, Schema, SchemaRef, TimeUnit};
use parquet::{
    arrow::ArrowWriter,
    basic::{Compression, ZstdLevel},
    file::properties::WriterProperties,
};

/// What a column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CellKind {
    /// Text.
    Text,
    /// A whole number.
    Integer,
    /// An instant: microseconds since 1970, UTC.
    Instant,
}

/// A value of a column; `None` is null.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cell {
    /// Text.
    Text(Option<String>),
    /// A whole number, or microseconds since 1970.
    Number(Option<i64>),
}

/// A file that is being written.
pub struct Sheet {
    writer: ArrowWriter<File>,
    schema: SchemaRef,
    kinds: Vec<CellKind>,
    path: PathBuf,
    part: PathBuf,
}

type Failed = Box<dyn std::error::Error + Send + Sync>;

impl Sheet {
    /// Begins a file with these columns.
    ///
    /// # Errors
    /// What the file system says.
    pub fn create(path: &Path, columns: &[(&str, CellKind)]) -> Result<Self, Failed> {
        let field = |(name, kind): &(&str, CellKind)| {
            let of = match kind {
                CellKind::Text => DataType::Utf8,
                CellKind::Integer => DataType::Int64,
                CellKind::Instant => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            };
            Field::new(*name, of, true)
        };
        let schema: SchemaRef = Arc::new(Schema::new(columns.iter().map(field).collect::<Vec<_>>()));
        let part = path.with_added_extension("part");
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::default()))
            .set_created_by("lethe".to_owned())
            .set_max_row_group_row_count(Some(100_000))
            .build();
        let writer = ArrowWriter::try_new(File::create(&part)?, schema.clone(), Some(properties))?;
        Ok(Self { writer, schema, kinds: columns.iter().map(|(_, kind)| *kind).collect(), path: path.to_owned(), part })
    }

    /// Adds rows.
    ///
    /// # Errors
    /// A row that does not have the columns, or what the file system says.
    pub fn add(&mut self, rows: &[Vec<Cell>]) -> Result<(), Failed> {
        let text = |cell: Option<&Cell>| if let Some(Cell::Text(text)) = cell { text.clone() } else { None };
        let number = |cell: Option<&Cell>| if let Some(Cell::Number(number)) = cell { *number } else { None };
        if rows.iter().any(|row| row.len() != self.kinds.len()) {
            return Err("a row does not have the sheet's columns".into());
        }
        let array = |(at, kind): (usize, &CellKind)| -> ArrayRef {
            let cells = || rows.iter().map(|row| row.get(at));
            match kind {
                CellKind::Text => Arc::new(cells().map(text).collect::<StringArray>()),
                CellKind::Integer => Arc::new(cells().map(number).collect::<Int64Array>()),
                CellKind::Instant => Arc::new(cells().map(number).collect::<TimestampMicrosecondArray>().with_timezone("UTC")),
            }
        };
        let arrays = self.kinds.iter().enumerate().map(array).collect();
        self.writer.write(&RecordBatch::try_new(self.schema.clone(), arrays)?)?;
        Ok(())
    }

    /// Completes the file and puts it in its place.
    ///
    /// # Errors
    /// What the file system says; then there is no such file.
    pub fn finish(self) -> Result<(), Failed> {
        self.writer.into_inner()?.sync_all()?;
        std::fs::rename(&self.part, &self.path)?;
        Ok(())
    }
}
