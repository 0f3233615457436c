//! Reading rows: every cell that cannot be read names its table, column and row.

use std::{cell::Cell, str::FromStr};

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Serialize, de::DeserializeOwned};
use sqlx::{Decode, Postgres, Row as _, Sqlite, Type};
use uuid::Uuid;

use crate::{
    fault::Fault,
    sql::{JsonText, Row},
};

/// Microseconds since the epoch, SQLite's form of an instant.
pub(crate) fn us(at: DateTime<Utc>) -> i64 {
    at.timestamp_micros()
}

/// The instant as the ledger will give it back.
pub(crate) fn whole_us(at: DateTime<Utc>) -> DateTime<Utc> {
    DateTime::from_timestamp_micros(at.timestamp_micros()).unwrap_or(at)
}

/// A row of `table` whose cells are read by name, or one after the other.
pub(crate) struct Cells<'r> {
    row: &'r Row,
    table: &'static str,
    prefix: &'static str,
    id: &'static str,
    /// Which cell is read next, where they are read in order.
    next: Option<Cell<usize>>,
}

impl<'r> Cells<'r> {
    /// `id` is the column that names the row in errors.
    pub(crate) fn new(row: &'r Row, table: &'static str, id: &'static str) -> Self {
        Self::prefixed(row, table, "", id)
    }

    /// The same, where the columns of `table` carry a prefix because they stand in a join.
    pub(crate) fn prefixed(row: &'r Row, table: &'static str, prefix: &'static str, id: &'static str) -> Self {
        Self { row, table, prefix, id, next: None }
    }

    /// The same, where every cell is read in the order of its statement: among millions of rows, looking for names is much of reading them. What a
    /// cell is called is said in errors only.
    pub(crate) fn in_order(row: &'r Row, table: &'static str, id: &'static str) -> Self {
        Self { next: Some(Cell::new(0)), ..Self::new(row, table, id) }
    }

    pub(crate) fn get<T>(&self, column: &'static str) -> Result<T, Fault>
    where
        T: Decode<'r, Sqlite> + Type<Sqlite> + Decode<'r, Postgres> + Type<Postgres>,
    {
        self.native(column, |value: T| value, |value: T| value)
    }

    /// The same, where each database has a type of its own for it.
    fn native<L, P, T>(&self, column: &'static str, lite: impl FnOnce(L) -> T, postgres: impl FnOnce(P) -> T) -> Result<T, Fault>
    where
        L: Decode<'r, Sqlite> + Type<Sqlite>,
        P: Decode<'r, Postgres> + Type<Postgres>,
    {
        let read = match &self.next {
            Some(next) => {
                let place = next.replace(next.get() + 1);
                match self.row {
                    Row::Sqlite(row) => row.try_get(place).map(lite),
                    Row::Postgres(row) => row.try_get(place).map(postgres),
                }
            }
            None => self.named(column, |name| match self.row {
                Row::Sqlite(row) => row.try_get(name).map(lite),
                Row::Postgres(row) => row.try_get(name).map(postgres),
            }),
        };
        read.map_err(|error| self.unreadable(column, error.to_string()))
    }

    fn named<T>(&self, column: &'static str, read: impl FnOnce(&str) -> T) -> T {
        if self.prefix.is_empty() { read(column) } else { read(&format!("{}{column}", self.prefix)) }
    }

    pub(crate) fn parsed<T: FromStr<Err: std::fmt::Display>>(&self, column: &'static str) -> Result<T, Fault> {
        let text = self.get::<&str>(column)?;
        text.parse().map_err(|error: T::Err| self.unreadable(column, error.to_string()))
    }

    pub(crate) fn id(&self, column: &'static str) -> Result<Uuid, Fault> {
        self.native(column, |text: &str| text.parse::<Uuid>(), Ok)?.map_err(|error| self.unreadable(column, error.to_string()))
    }

    pub(crate) fn maybe_id(&self, column: &'static str) -> Result<Option<Uuid>, Fault> {
        let id =
            self.native(column, |text: Option<&str>| text.map(|text| text.parse::<Uuid>()), |id: Option<Uuid>| id.map(Ok))?;
        id.transpose().map_err(|error| self.unreadable(column, error.to_string()))
    }

    pub(crate) fn json_text(&self, column: &'static str) -> Result<Option<String>, Fault> {
        Ok(self.get::<Option<JsonText>>(column)?.map(|json| json.0))
    }

    pub(crate) fn json<T: DeserializeOwned>(&self, column: &'static str) -> Result<Option<T>, Fault> {
        let text = self.json_text(column)?;
        text.map(|text| serde_json::from_str(&text).map_err(|error| self.unreadable(column, error.to_string()))).transpose()
    }

    pub(crate) fn at(&self, column: &'static str) -> Result<DateTime<Utc>, Fault> {
        let at = self.native(column, |us: i64| DateTime::from_timestamp_micros(us).ok_or(us), Ok)?;
        at.map_err(|us| self.unreadable(column, format!("{us} is not an instant")))
    }

    pub(crate) fn maybe_at(&self, column: &'static str) -> Result<Option<DateTime<Utc>>, Fault> {
        let at = self.native(
            column,
            |us: Option<i64>| us.map(|us| DateTime::from_timestamp_micros(us).ok_or(us)),
            |at: Option<DateTime<Utc>>| at.map(Ok),
        )?;
        at.transpose().map_err(|us| self.unreadable(column, format!("{us} is not an instant")))
    }

    pub(crate) fn span(&self, column: &'static str) -> Result<TimeDelta, Fault> {
        Ok(TimeDelta::microseconds(self.get(column)?))
    }

    fn unreadable(&self, column: &'static str, message: String) -> Fault {
        let id = self.named(self.id, |name| match self.row {
            Row::Sqlite(row) => row.try_get::<String, _>(name).ok(),
            Row::Postgres(row) => {
                row.try_get::<Uuid, _>(name).map(|id| id.to_string()).or_else(|_| row.try_get::<String, _>(name)).ok()
            }
        });
        Fault::Unreadable { table: self.table, column, id: id.unwrap_or_else(|| "an unnamed row".into()), message }
    }
}

/// The JSON text of a value of our own.
pub(crate) fn to_json<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("our own types serialise")
}
