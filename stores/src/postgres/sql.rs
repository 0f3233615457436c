//! Text and values of dynamic SQL: names quoted, values bound, and nothing prepared under a name, so that a pooler in between may give
//! every transaction another server connection.
//!
//! The rule: a name reaches SQL only through [`name`], a literal only through [`literal`], and everything else is bound.
//! Nothing here touches the world, so nothing happens if we die in it.

use lethe_stages::record::Key;
use sqlx::{AssertSqlSafe, Postgres, postgres::PgArguments, query::Query};

/// An identifier, quoted.
pub(super) fn name(identifier: &str) -> String {
    format!("\"{}\"", identifier.replace('"', "\"\""))
}

/// A text literal, for the bodies of functions and policies, which take no bound values.
pub(super) fn literal(text: &str) -> String {
    let quoted = text.replace('\'', "''");
    if quoted.contains('\\') { format!("E'{}'", quoted.replace('\\', "\\\\")) } else { format!("'{quoted}'") }
}

/// A statement made by this crate: every identifier in it went through [`name`].
pub(super) fn statement(sql: impl Into<String>) -> Query<'static, Postgres, PgArguments> {
    sqlx::query(AssertSqlSafe(sql.into())).persistent(false)
}

/// A value to bind.
#[derive(Debug, Clone)]
pub(super) enum Param {
    Int(i64),
    Text(String),
    Blob(Vec<u8>),
    Ints(Vec<i64>),
    Texts(Vec<String>),
    Blobs(Vec<Vec<u8>>),
}

/// SQL text with its values, in order.
#[derive(Debug, Clone, Default)]
pub(super) struct Sql {
    text: String,
    params: Vec<Param>,
}

impl Sql {
    /// Begins with `text`.
    pub(super) fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), params: Vec::new() }
    }

    /// Goes on with `text`.
    pub(super) fn text(mut self, text: impl AsRef<str>) -> Self {
        self.text.push_str(text.as_ref());
        self
    }

    /// Goes on with a bound value.
    pub(super) fn param(mut self, param: Param) -> Self {
        self.params.push(param);
        self.text.push_str(&format!("${}", self.params.len()));
        self
    }

    /// The statement with its values bound.
    pub(super) fn query(self) -> Query<'static, Postgres, PgArguments> {
        self.params.into_iter().fold(statement(self.text), |query, param| match param {
            Param::Int(number) => query.bind(number),
            Param::Text(text) => query.bind(text),
            Param::Blob(bytes) => query.bind(bytes),
            Param::Ints(numbers) => query.bind(numbers),
            Param::Texts(texts) => query.bind(texts),
            Param::Blobs(blobs) => query.bind(blobs),
        })
    }
}

/// What a key column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum KeyClass {
    Integer,
    Text,
    Uuid,
    Blob,
}

impl KeyClass {
    /// The expression by which keys of this class are ordered and compared, byte by byte where they are text.
    pub(super) fn ordered(self, column: &str) -> String {
        if self == KeyClass::Text { format!("{column} COLLATE \"C\"") } else { column.to_owned() }
    }

    /// A key to bind; `None` where it is none of this class.
    pub(super) fn param(self, key: &Key) -> Option<Param> {
        match (self, key) {
            (KeyClass::Integer, Key::Integer(number)) => Some(Param::Int(*number)),
            (KeyClass::Text | KeyClass::Uuid, Key::Text(text)) => Some(Param::Text(text.clone())),
            (KeyClass::Blob, Key::Blob(bytes)) => Some(Param::Blob(bytes.clone())),
            _ => None,
        }
    }

    /// Keys to bind as one array; `None` where one of them is none of this class.
    pub(super) fn params<'a>(self, keys: impl Iterator<Item = &'a Key>) -> Option<Param> {
        let keys: Option<Vec<Param>> = keys.map(|key| self.param(key)).collect();
        Some(match self {
            KeyClass::Integer => Param::Ints(
                keys?.into_iter().filter_map(|key| if let Param::Int(key) = key { Some(key) } else { None }).collect(),
            ),
            KeyClass::Text | KeyClass::Uuid => Param::Texts(
                keys?.into_iter().filter_map(|key| if let Param::Text(key) = key { Some(key) } else { None }).collect(),
            ),
            KeyClass::Blob => Param::Blobs(
                keys?.into_iter().filter_map(|key| if let Param::Blob(key) = key { Some(key) } else { None }).collect(),
            ),
        })
    }

    /// What makes an array that [`Self::params`] binds one of the column's type.
    pub(super) fn array(self) -> &'static str {
        match self {
            KeyClass::Integer => "::int8[]",
            KeyClass::Text => "::text[]",
            KeyClass::Uuid => "::text[]::uuid[]",
            KeyClass::Blob => "::bytea[]",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quote_in_a_name_or_literal_does_not_end_it() {
        assert_eq!(name(r#"a"; DROP TABLE t; --"#), r#""a""; DROP TABLE t; --""#);
        assert_eq!(literal("it's"), "'it''s'");
        assert_eq!(literal(r"a\'b"), r"E'a\\''b'");
    }

    #[test]
    fn values_are_numbered_in_the_order_in_which_they_are_bound() {
        let sql = Sql::new("a = ").param(Param::Int(1)).text(" AND b = ").param(Param::Text("x".into()));
        assert_eq!(sql.text, "a = $1 AND b = $2");
        assert!(KeyClass::Uuid.param(&Key::Integer(1)).is_none());
    }
}
