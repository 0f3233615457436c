//! The thin layer between the ledger's verbs and its two databases: statements with `$1` places, typed values, rows read by name.
//!
//! The rule: a statement is written once where both databases mean the same by it, and twice, side by side, where idiomatic SQL differs.
//! Values are bound in each database's own types. Every statement stands in its module's `STATEMENTS`; a test prepares them all.
//! If we die in one, its transaction did not happen.

use chrono::{DateTime, Utc};
use lethe_stages::Code;
use sqlx::{
    Postgres, Sqlite, Transaction,
    encode::IsNull,
    error::BoxDynError,
    postgres::{PgArgumentBuffer, PgArguments, PgHasArrayType, PgRow, PgTypeInfo, PgValueFormat, PgValueRef, types::Oid},
    sqlite::{SqliteArguments, SqliteRow, SqliteTypeInfo, SqliteValueRef},
};
use uuid::Uuid;

use crate::{db::Tx, fault::Fault, rows};

/// A statement, with what it does in the present tense.
pub(crate) struct Sql {
    pub(crate) doing: &'static str,
    pub(crate) sqlite: &'static str,
    pub(crate) postgres: &'static str,
}

impl Sql {
    /// One text for both databases, or SQLite's and PostgreSQL's.
    pub(crate) const fn new<const N: usize>(doing: &'static str, texts: [&'static str; N]) -> Self {
        Self { doing, sqlite: texts[0], postgres: texts[N - 1] }
    }
}

/// A module's statements: a name, what it does, one text or two.
macro_rules! statements {
    ($($name:ident = $doing:literal, $text:expr $(, $postgres:expr)?;)*) => {
        $(pub(crate) static $name: $crate::sql::Sql = $crate::sql::Sql::new($doing, [$text $(, $postgres)?]);)*
        /// Every statement of this module.
        #[cfg(feature = "testing")]
        pub(crate) static STATEMENTS: &[&$crate::sql::Sql] = &[$(&$name),*];
    };
}
pub(crate) use statements;

/// A value to bind; `None` is NULL of its type.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    /// An id: TEXT, uuid.
    Id(Option<Uuid>),
    /// TEXT, text.
    Text(Option<String>),
    /// INTEGER, bigint.
    Int(Option<i64>),
    /// INTEGER, boolean.
    Bool(Option<bool>),
    /// An instant: INTEGER microseconds, timestamptz.
    At(Option<DateTime<Utc>>),
    /// A report of our own, as JSON: TEXT, jsonb.
    Json(Option<String>),
    /// A document of which digests are taken, kept to the letter: TEXT, json.
    Document(Option<String>),
    /// BLOB, bytea.
    Bytes(Option<Vec<u8>>),
    /// A list of ids: JSON TEXT, uuid[].
    Ids(Option<Vec<Uuid>>),
    /// A list of texts: JSON TEXT, text[].
    Texts(Option<Vec<String>>),
}

/// JSON text of a report.
pub(crate) struct Json<T>(pub(crate) T);
/// JSON text of a document.
pub(crate) struct Document<T>(pub(crate) T);

macro_rules! values {
    ($($from:ty => $kind:ident |$value:ident| $made:expr;)*) => {
        $(impl From<$from> for Value {
            fn from($value: $from) -> Self {
                Self::$kind(Some($made))
            }
        }
        impl From<Option<$from>> for Value {
            fn from(value: Option<$from>) -> Self {
                Self::$kind(value.map(|$value| $made))
            }
        })*
    };
}

values! {
    Uuid => Id |id| id;
    &str => Text |text| text.to_owned();
    &String => Text |text| text.clone();
    String => Text |text| text;
    i64 => Int |number| number;
    bool => Bool |truth| truth;
    DateTime<Utc> => At |at| at;
    Json<String> => Json |json| json.0;
    Document<String> => Document |json| json.0;
    Vec<u8> => Bytes |bytes| bytes;
    &[u8] => Bytes |bytes| bytes.to_vec();
    &[Uuid] => Ids |ids| ids.to_vec();
    Vec<String> => Texts |texts| texts;
    &[Code] => Texts |codes| codes.iter().map(|code| code.as_str().to_owned()).collect();
}

/// Values bound to a statement, in its database's own form.
pub(crate) enum Arguments {
    Sqlite(SqliteArguments),
    Postgres(PgArguments),
}

impl Arguments {
    pub(crate) fn add(&mut self, value: Value) {
        let added = match self {
            Arguments::Sqlite(arguments) => add_sqlite(arguments, value),
            Arguments::Postgres(arguments) => add_postgres(arguments, value),
        };
        added.expect("our own values encode");
    }
}

pub(crate) fn add_sqlite(to: &mut SqliteArguments, value: Value) -> Result<(), BoxDynError> {
    use sqlx::Arguments;
    match value {
        Value::Id(id) => to.add(id.map(|id| id.to_string())),
        Value::Text(text) | Value::Json(text) | Value::Document(text) => to.add(text),
        Value::Int(number) => to.add(number),
        Value::Bool(truth) => to.add(truth),
        Value::At(at) => to.add(at.map(rows::us)),
        Value::Bytes(bytes) => to.add(bytes),
        Value::Ids(ids) => to.add(ids.map(|ids| rows::to_json(&ids))),
        Value::Texts(texts) => to.add(texts.map(|texts| rows::to_json(&texts))),
    }
}

fn add_postgres(to: &mut PgArguments, value: Value) -> Result<(), BoxDynError> {
    use sqlx::Arguments;
    match value {
        Value::Id(id) => to.add(id),
        Value::Text(text) => to.add(text),
        Value::Int(number) => to.add(number),
        Value::Bool(truth) => to.add(truth),
        Value::At(at) => to.add(at),
        Value::Json(text) => to.add(text.map(JsonbText)),
        Value::Document(text) => to.add(text.map(JsonText)),
        Value::Bytes(bytes) => to.add(bytes),
        Value::Ids(ids) => to.add(ids),
        Value::Texts(texts) => to.add(texts),
    }
}

const JSON: Oid = Oid(114);
const JSONB: Oid = Oid(3802);
const JSON_ARRAY: Oid = Oid(199);
const JSONB_ARRAY: Oid = Oid(3807);

/// JSON as text, from or for a `json` column; read from `jsonb` columns and SQLite's TEXT as well.
#[derive(Debug)]
pub(crate) struct JsonText(pub(crate) String);

/// JSON as text for a `jsonb` value.
#[derive(Debug)]
pub(crate) struct JsonbText(pub(crate) String);

impl sqlx::Type<Sqlite> for JsonText {
    fn type_info() -> SqliteTypeInfo {
        <String as sqlx::Type<Sqlite>>::type_info()
    }
    fn compatible(ty: &SqliteTypeInfo) -> bool {
        <String as sqlx::Type<Sqlite>>::compatible(ty)
    }
}

impl<'r> sqlx::Decode<'r, Sqlite> for JsonText {
    fn decode(value: SqliteValueRef<'r>) -> Result<Self, BoxDynError> {
        <String as sqlx::Decode<Sqlite>>::decode(value).map(Self)
    }
}

impl sqlx::Type<Postgres> for JsonText {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(JSON)
    }
    fn compatible(ty: &PgTypeInfo) -> bool {
        matches!(ty.oid(), Some(JSON | JSONB)) || <String as sqlx::Type<Postgres>>::compatible(ty)
    }
}

impl<'r> sqlx::Decode<'r, Postgres> for JsonText {
    fn decode(value: PgValueRef<'r>) -> Result<Self, BoxDynError> {
        let bytes = value.as_bytes()?;
        // The binary form of jsonb begins with its version.
        let bytes = match bytes {
            [1, rest @ ..] if value.format() == PgValueFormat::Binary => rest,
            all => all,
        };
        Ok(Self(std::str::from_utf8(bytes)?.to_owned()))
    }
}

impl sqlx::Encode<'_, Postgres> for JsonText {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        buffer.extend_from_slice(self.0.as_bytes());
        Ok(IsNull::No)
    }
}

impl sqlx::Type<Postgres> for JsonbText {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(JSONB)
    }
}

impl PgHasArrayType for JsonText {
    fn array_type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(JSON_ARRAY)
    }
}

impl PgHasArrayType for JsonbText {
    fn array_type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(JSONB_ARRAY)
    }
}

impl sqlx::Encode<'_, Postgres> for JsonbText {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        buffer.push(1);
        // What jsonb cannot hold becomes the replacement character: this is a report, and no digest is taken of it.
        match self.0.contains("\\u0000") {
            true => buffer.extend_from_slice(without_nul(&self.0).as_bytes()),
            false => buffer.extend_from_slice(self.0.as_bytes()),
        }
        Ok(IsNull::No)
    }
}

/// The same JSON with `\u0000` replaced; an escaped backslash before `u0000` is left alone.
fn without_nul(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    let mut rest = json;
    while let Some(place) = rest.find('\\') {
        let (before, escape) = rest.split_at(place);
        text.push_str(before);
        let length = if escape.starts_with("\\u0000") { 6 } else { 2 };
        text.push_str(if length == 6 { "\\ufffd" } else { &escape[..length] });
        rest = &escape[length..];
    }
    text + rest
}

/// A row of either database.
pub(crate) enum Row {
    Sqlite(SqliteRow),
    Postgres(PgRow),
}

/// A transaction of either database.
pub(crate) enum Inner {
    Sqlite(Transaction<'static, Sqlite>),
    Postgres {
        tx: Transaction<'static, Postgres>,
        /// Whether statements may stay prepared; not through a pooler that lends a connection for one transaction.
        prepared: bool,
    },
}

impl Inner {
    pub(crate) fn arguments(&self) -> Arguments {
        match self {
            Inner::Sqlite(_) => Arguments::Sqlite(SqliteArguments::default()),
            Inner::Postgres { .. } => Arguments::Postgres(PgArguments::default()),
        }
    }
}

/// A statement while its values are bound.
pub(crate) struct Statement<'t> {
    inner: &'t mut Inner,
    sql: &'static Sql,
    arguments: Arguments,
}

/// Runs one of sqlx's verbs on whichever database it is.
macro_rules! on {
    ($statement:expr, $verb:ident, $row:ident => $made:expr) => {{
        let Statement { inner, sql, arguments } = $statement;
        match (inner, arguments) {
            (Inner::Sqlite(tx), Arguments::Sqlite(arguments)) => {
                let done = sqlx::query_with(sql.sqlite, arguments).$verb(&mut **tx).await;
                done.map(|$row| {
                    let made = Row::Sqlite;
                    $made(made)
                })
                .map_err(Fault::database(sql.doing))
            }
            (Inner::Postgres { tx, prepared }, Arguments::Postgres(arguments)) => {
                let done = sqlx::query_with(sql.postgres, arguments).persistent(*prepared).$verb(&mut **tx).await;
                done.map(|$row| {
                    let made = Row::Postgres;
                    $made(made)
                })
                .map_err(Fault::database(sql.doing))
            }
            _ => unreachable!("arguments are made by the transaction that runs them"),
        }
    }};
}

impl<'t> Statement<'t> {
    /// Binds the next place.
    pub(crate) fn bind(mut self, value: impl Into<Value>) -> Self {
        self.arguments.add(value.into());
        self
    }

    /// Binds the next place, of a statement that has one only if there is a value for it.
    pub(crate) fn only(self, value: Option<&str>) -> Self {
        match value {
            Some(value) => self.bind(value),
            None => self,
        }
    }

    /// Runs it; answers how many rows changed.
    pub(crate) async fn run(self) -> Result<u64, Fault> {
        let Statement { inner, sql, arguments } = self;
        let done = match (inner, arguments) {
            (Inner::Sqlite(tx), Arguments::Sqlite(arguments)) => {
                sqlx::query_with(sql.sqlite, arguments).execute(&mut **tx).await.map(|done| done.rows_affected())
            }
            (Inner::Postgres { tx, prepared }, Arguments::Postgres(arguments)) => {
                let query = sqlx::query_with(sql.postgres, arguments).persistent(*prepared);
                query.execute(&mut **tx).await.map(|done| done.rows_affected())
            }
            _ => unreachable!("arguments are made by the transaction that runs them"),
        };
        done.map_err(Fault::database(sql.doing))
    }

    /// Runs it; it must change exactly one row.
    pub(crate) async fn one(self) -> Result<(), Fault> {
        let doing = self.sql.doing;
        match self.run().await? {
            1 => Ok(()),
            changed => Err(Fault::RowsAffected { doing, changed, wanted: 1 }),
        }
    }

    /// Its rows.
    pub(crate) async fn all(self) -> Result<Vec<Row>, Fault> {
        on!(self, fetch_all, rows => |made| rows.into_iter().map(made).collect())
    }

    /// Its first row, if it has any.
    pub(crate) async fn optional(self) -> Result<Option<Row>, Fault> {
        on!(self, fetch_optional, row => |made| row.map(made))
    }

    /// Its first row, which there must be.
    pub(crate) async fn first(self) -> Result<Row, Fault> {
        on!(self, fetch_one, row => |made: fn(_) -> Row| made(row))
    }
}

impl Tx {
    /// A statement to bind and run in this transaction.
    pub(crate) fn sql(&mut self, sql: &'static Sql) -> Statement<'_> {
        let arguments = self.inner.arguments();
        Statement { inner: &mut self.inner, sql, arguments }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_nul_is_replaced_in_a_report() {
        let json = r#"{"a":"x\u0000y","b":"\\u0000","c":"\n\u00001","d":"é"}"#;
        assert_eq!(without_nul(json), r#"{"a":"x\ufffdy","b":"\\u0000","c":"\n\ufffd1","d":"é"}"#);
    }

    #[test]
    fn a_statement_has_one_text_or_two() {
        let one = Sql::new("ask", ["SELECT 1"]);
        let two = Sql::new("ask", ["SELECT 1", "SELECT 2"]);
        assert_eq!((one.sqlite, one.postgres, two.sqlite, two.postgres), ("SELECT 1", "SELECT 1", "SELECT 1", "SELECT 2"));
    }
}
