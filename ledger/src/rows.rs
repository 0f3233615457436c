//! Reading rows: every cell that cannot be read names its table, column and row.

use std::str::FromStr;

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Serialize, de::DeserializeOwned};
use sqlx::{Decode, Row, Sqlite, Type, sqlite::SqliteRow};

use crate::fault::Fault;

/// Microseconds since the epoch, the ledger's form of an instant.
pub(crate) fn us(at: DateTime<Utc>) -> i64 {
    at.timestamp_micros()
}

/// The instant as the ledger will give it back.
pub(crate) fn whole_us(at: DateTime<Utc>) -> DateTime<Utc> {
    DateTime::from_timestamp_micros(at.timestamp_micros()).unwrap_or(at)
}

/// Parses a stored text.
pub(crate) fn parse<T: FromStr<Err: std::fmt::Display>>(
    table: &'static str,
    column: &'static str,
    id: &str,
    text: &str,
) -> Result<T, Fault> {
    text.parse().map_err(|error: T::Err| Fault::Unreadable { table, column, id: id.to_owned(), message: error.to_string() })
}

/// A row of `table` whose cells are read by name.
pub(crate) struct Cells<'r> {
    row: &'r SqliteRow,
    table: &'static str,
    prefix: &'static str,
    id: String,
}

impl<'r> Cells<'r> {
    /// `id` is the column that names the row in errors.
    pub(crate) fn new(row: &'r SqliteRow, table: &'static str, id: &str) -> Self {
        Self::prefixed(row, table, "", id)
    }

    /// The same, where the columns of `table` carry a prefix because they stand in a join.
    pub(crate) fn prefixed(row: &'r SqliteRow, table: &'static str, prefix: &'static str, id: &str) -> Self {
        let id = row.try_get::<String, _>(format!("{prefix}{id}").as_str());
        Self { row, table, prefix, id: id.unwrap_or_else(|_| "an unnamed row".into()) }
    }

    pub(crate) fn get<T>(&self, column: &'static str) -> Result<T, Fault>
    where
        T: Decode<'r, Sqlite> + Type<Sqlite>,
    {
        let read = if self.prefix.is_empty() {
            self.row.try_get(column)
        } else {
            self.row.try_get(format!("{}{column}", self.prefix).as_str())
        };
        read.map_err(|error| self.unreadable(column, error.to_string()))
    }

    pub(crate) fn parsed<T: FromStr<Err: std::fmt::Display>>(&self, column: &'static str) -> Result<T, Fault> {
        parse(self.table, column, &self.id, &self.get::<String>(column)?)
    }

    pub(crate) fn maybe_parsed<T: FromStr<Err: std::fmt::Display>>(&self, column: &'static str) -> Result<Option<T>, Fault> {
        self.get::<Option<String>>(column)?.map(|text| parse(self.table, column, &self.id, &text)).transpose()
    }

    pub(crate) fn json<T: DeserializeOwned>(&self, column: &'static str) -> Result<Option<T>, Fault> {
        let text = self.get::<Option<String>>(column)?;
        text.map(|text| serde_json::from_str(&text).map_err(|error| self.unreadable(column, error.to_string()))).transpose()
    }

    pub(crate) fn at(&self, column: &'static str) -> Result<DateTime<Utc>, Fault> {
        let us = self.get::<i64>(column)?;
        DateTime::from_timestamp_micros(us).ok_or_else(|| self.unreadable(column, format!("{us} is not an instant")))
    }

    pub(crate) fn maybe_at(&self, column: &'static str) -> Result<Option<DateTime<Utc>>, Fault> {
        self.get::<Option<i64>>(column)?.map(|_| self.at(column)).transpose()
    }

    pub(crate) fn span(&self, column: &'static str) -> Result<TimeDelta, Fault> {
        Ok(TimeDelta::microseconds(self.get(column)?))
    }

    fn unreadable(&self, column: &'static str, message: String) -> Fault {
        Fault::Unreadable { table: self.table, column, id: self.id.clone(), message }
    }
}

/// The JSON text of a value of our own.
pub(crate) fn to_json<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("our own types serialise")
}

/// Insists that a write changed exactly one row.
pub(crate) fn one(doing: &'static str, done: sqlx::sqlite::SqliteQueryResult) -> Result<(), Fault> {
    match done.rows_affected() {
        1 => Ok(()),
        changed => Err(Fault::RowsAffected { doing, changed, wanted: 1 }),
    }
}

/// The JSON text of a list of ids.
pub(crate) fn to_json_slice(ids: &[uuid::Uuid]) -> String {
    to_json(&ids)
}
