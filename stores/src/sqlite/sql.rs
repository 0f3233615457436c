//! Text and values of dynamic SQL: names quoted, values bound, results taken by storage class exactly as stored.
//!
//! The rule: a name reaches SQL only through [`name`], a literal only through [`literal`], and everything else is bound.
//! Nothing here touches the world, so nothing happens if we die in it.

use lethe_stages::{
    ports::PortError,
    record::{Key, Value},
};
use sqlx::{
    AssertSqlSafe, Decode, Row, Sqlite, TypeInfo, ValueRef,
    query::Query,
    sqlite::{SqliteArguments, SqliteRow},
};

/// An identifier, quoted.
pub(super) fn name(identifier: &str) -> String {
    format!("\"{}\"", identifier.replace('"', "\"\""))
}

/// A text literal, for the bodies of triggers, which take no bound values.
pub(super) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// A statement made by this crate: every identifier in it went through [`name`].
pub(super) fn statement(sql: impl Into<String>) -> Query<'static, Sqlite, SqliteArguments> {
    sqlx::query(AssertSqlSafe(sql.into()))
}

/// Binds a value in its own storage class.
pub(super) fn bind<'q>(query: Query<'q, Sqlite, SqliteArguments>, value: &Value) -> Query<'q, Sqlite, SqliteArguments> {
    match value {
        Value::Null => query.bind(None::<i64>),
        Value::Integer(number) => query.bind(*number),
        Value::Real(number) => query.bind(*number),
        Value::Text(text) => query.bind(text.clone()),
        Value::Blob(bytes) => query.bind(bytes.clone()),
    }
}

/// SQL text with its values, in order.
#[derive(Debug, Clone, Default)]
pub(super) struct Sql {
    text: String,
    values: Vec<Value>,
}

impl Sql {
    /// Begins with `text`.
    pub(super) fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), values: Vec::new() }
    }

    /// Goes on with `text`.
    pub(super) fn text(mut self, text: impl AsRef<str>) -> Self {
        self.text.push_str(text.as_ref());
        self
    }

    /// Goes on with a bound value.
    pub(super) fn value(mut self, value: Value) -> Self {
        self.text.push('?');
        self.values.push(value);
        self
    }

    /// Goes on with bound values between parentheses.
    pub(super) fn list(mut self, values: impl Iterator<Item = Value>) -> Self {
        self.text.push('(');
        for (index, value) in values.enumerate() {
            self.text.push_str(if index == 0 { "?" } else { ",?" });
            self.values.push(value);
        }
        self.text.push(')');
        self
    }

    /// Goes on with another piece.
    pub(super) fn sql(mut self, other: Sql) -> Self {
        self.text.push_str(&other.text);
        self.values.extend(other.values);
        self
    }

    /// The statement with its values bound.
    pub(super) fn query(self) -> Query<'static, Sqlite, SqliteArguments> {
        self.values.iter().fold(statement(self.text), bind)
    }
}

/// A key as a value.
pub(super) fn key_value(key: &Key) -> Value {
    match key {
        Key::Integer(number) => Value::Integer(*number),
        Key::Text(text) => Value::Text(text.clone()),
        Key::Blob(bytes) => Value::Blob(bytes.clone()),
    }
}

/// The value in one place of a row, in the class it is stored in, whatever its column declares.
///
/// # Errors
/// Permanent where text is not UTF-8: it could not be written back as it was.
pub(super) fn value(row: &SqliteRow, index: usize) -> Result<Value, PortError> {
    let permanent = |error: &dyn std::fmt::Display| PortError::Permanent(error.to_string());
    let raw = row.try_get_raw(index).map_err(|error| permanent(&error))?;
    if raw.is_null() {
        return Ok(Value::Null);
    }
    // Of a value that is not null, SQLx names the value's own class and not the column's.
    let class = raw.type_info().name().to_owned();
    match class.as_str() {
        "INTEGER" => <i64 as Decode<Sqlite>>::decode(raw).map(Value::Integer).map_err(|error| permanent(&error)),
        "REAL" => <f64 as Decode<Sqlite>>::decode(raw).map(Value::Real).map_err(|error| permanent(&error)),
        "BLOB" => <Vec<u8> as Decode<Sqlite>>::decode(raw).map(Value::Blob).map_err(|error| permanent(&error)),
        _ => {
            let bytes = <Vec<u8> as Decode<Sqlite>>::decode(raw).map_err(|error| permanent(&error))?;
            String::from_utf8(bytes).map(Value::Text).map_err(|_| PortError::Permanent("its text is not valid UTF-8".into()))
        }
    }
}

/// Whether SQL text mentions a table, as a whole word and in any case.
pub(super) fn mentions(sql: &str, table: &str) -> bool {
    let (sql, table) = (sql.to_lowercase(), table.to_lowercase());
    let word = |character: char| character.is_alphanumeric() || character == '_' || character == '$';
    sql.match_indices(&table).any(|(at, _)| {
        !sql[..at].chars().next_back().is_some_and(word) && !sql[at + table.len()..].chars().next().is_some_and(word)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quote_in_a_name_does_not_end_it() {
        assert_eq!(name(r#"a"; DROP TABLE t; --"#), r#""a""; DROP TABLE t; --""#);
        assert_eq!(literal("it's"), "'it''s'");
    }

    #[test]
    fn a_table_is_mentioned_as_a_word_only() {
        assert!(mentions("CREATE VIRTUAL TABLE f USING fts5(body, content='Chunks')", "chunks"));
        assert!(!mentions("INSERT INTO chunks_fts VALUES (1)", "chunks"));
        assert!(mentions("select * from old_chunks join chunks", "chunks"));
    }
}
