//! The bound table as the store's schema has it: spelling, columns, key, what tells planes apart.
//!
//! The rule: a mapping that the schema cannot serve exactly is refused, here and before anything is read or closed. A plane's records
//! are found by one condition, [`Table::scope`], whoever asks. It only reads, so nothing happens if we die in it.

use lethe_stages::{ports::PortError, record::Value};
use sqlx::{Row, sqlite::SqliteConnection};

use super::{
    connect::failed,
    sql::{self, Sql, bind, name, statement},
    unique::{self, UniqueKey},
};
use crate::Mapping;

/// What SQLite makes of values that are put into a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Affinity {
    Integer,
    Real,
    Numeric,
    Text,
    /// Stored as they come.
    None,
}

impl Affinity {
    /// The rules of <https://sqlite.org/datatype3.html#determination_of_column_affinity>, in their order.
    fn of(declared: &str, strict: bool) -> Self {
        let declared = declared.to_ascii_uppercase();
        let has = |words: &[&str]| words.iter().any(|word| declared.contains(word));
        if has(&["INT"]) {
            Affinity::Integer
        } else if has(&["CHAR", "CLOB", "TEXT"]) {
            Affinity::Text
        } else if declared.is_empty() || has(&["BLOB"]) || (strict && declared == "ANY") {
            Affinity::None
        } else if has(&["REAL", "FLOA", "DOUB"]) {
            Affinity::Real
        } else {
            Affinity::Numeric
        }
    }
}

/// A column that is exported: every column that is not generated.
#[derive(Debug, Clone)]
pub(super) struct TableColumn {
    pub(super) name: String,
    pub(super) affinity: Affinity,
}

/// What tells planes apart.
#[derive(Debug, Clone)]
pub(super) struct Plane {
    /// Its place among the columns.
    pub(super) column: usize,
    /// The plane's values as stored; more than one only where the column keeps `5` and `'5'` apart.
    values: Vec<Value>,
    /// As text, the form that the fence compares.
    pub(super) text: String,
}

/// The bound table.
#[derive(Debug, Clone)]
pub(super) struct Table {
    pub(super) name: String,
    pub(super) columns: Vec<TableColumn>,
    pub(super) key: usize,
    pub(super) embedding: Option<usize>,
    pub(super) plane: Option<Plane>,
    /// Whether a key names one record of the whole table, and not only of its plane.
    pub(super) key_is_global: bool,
    /// By which values a new record takes the place of an old one.
    pub(super) unique: Vec<UniqueKey>,
    /// Unique indexes over expressions or some rows only; the fence cannot foresee what they replace.
    pub(super) opaque_indexes: Vec<String>,
}

impl Table {
    /// Reads the schema and finds the mapping in it.
    pub(super) async fn resolve(connection: &mut SqliteConnection, mapping: &Mapping) -> Result<Self, PortError> {
        let (table, strict, without_rowid) = ordinary_table(connection, &mapping.table).await?;
        let (columns, generated, primary_key) = columns(connection, &table, strict).await?;
        let find = |word: &str, wanted: &str| -> Result<usize, PortError> {
            if let Some(at) = columns.iter().position(|column| column.name.eq_ignore_ascii_case(wanted)) {
                return Ok(at);
            }
            let why = if generated.iter().any(|column| column.eq_ignore_ascii_case(wanted)) {
                "it is a generated column, and those are not exported".to_owned()
            } else {
                format!("its columns are {}", columns.iter().map(|column| column.name.as_str()).collect::<Vec<_>>().join(", "))
            };
            Err(PortError::Permanent(format!("find {word} column `{wanted}` in table {table}: {why}")))
        };
        let key = find("key", &mapping.key)?;
        for (word, column) in [("text", &mapping.text), ("metadata", &mapping.metadata)] {
            column.as_deref().map(|column| find(word, column)).transpose()?;
        }
        let embedding = mapping.embedding.as_deref().map(|column| find("embedding", column)).transpose()?;
        let plane = match (&mapping.plane_column, &mapping.plane) {
            (Some(column), Some(value)) => Some((find("plane", column)?, value)),
            (None, None) => None,
            _ => return Err(PortError::Permanent("mapping: plane_column and plane come together or not at all".into())),
        };

        let mut indexes = unique::read(connection, &table).await?;
        if !without_rowid {
            indexes.add_rowid(&columns, &generated, &primary_key);
        }
        let key_is_global = indexes.covers(&[&columns[key].name]);
        let key_is_unique = match &plane {
            Some((column, _)) => key_is_global || indexes.covers(&[&columns[*column].name, &columns[key].name]),
            None => key_is_global,
        };
        if !key_is_unique {
            let wanted =
                plane.map_or(String::new(), |(column, _)| format!(" or ({}, {})", columns[column].name, columns[key].name));
            return Err(PortError::Permanent(format!(
                "key column `{key}` of table {table} does not name one record: it needs a primary key or unique index on ({key}){wanted}",
                key = columns[key].name,
            )));
        }
        let plane = match plane {
            Some((column, value)) => Some(canonical_plane(connection, &table, column, &columns[column], value).await?),
            None => None,
        };
        let (unique, opaque_indexes) = indexes.into_parts();
        Ok(Table { name: table, columns, key, embedding, plane, key_is_global, unique, opaque_indexes })
    }

    /// The condition that finds the plane's records; true of every record where the plane owns the table.
    ///
    /// Each comparison stands twice: in the column's own collation, so that its index serves, and in BINARY, so that `P1` is not `p1`.
    pub(super) fn scope(&self) -> Sql {
        let Some(plane) = &self.plane else { return Sql::new("1") };
        let column = name(&self.columns[plane.column].name);
        Sql::new(format!("({column} IN "))
            .list(plane.values.iter().cloned())
            .text(format!(" AND {column} COLLATE BINARY IN "))
            .list(plane.values.iter().cloned())
            .text(")")
    }

    /// The table's quoted name.
    pub(super) fn quoted(&self) -> String {
        name(&self.name)
    }

    /// The key column's quoted name.
    pub(super) fn quoted_key(&self) -> String {
        name(&self.columns[self.key].name)
    }

    /// All columns' quoted names, in order.
    pub(super) fn quoted_columns(&self) -> String {
        self.columns.iter().map(|column| name(&column.name)).collect::<Vec<_>>().join(", ")
    }

    /// The column that tells planes apart.
    pub(super) fn plane_column(&self) -> Option<&str> {
        self.plane.as_ref().map(|plane| self.columns[plane.column].name.as_str())
    }

    /// The plane's value as the fence keeps it; empty where the plane owns the table.
    pub(super) fn plane_text(&self) -> &str {
        self.plane.as_ref().map_or("", |plane| plane.text.as_str())
    }
}

/// The store's spelling of the table, and whether it is STRICT and WITHOUT ROWID.
async fn ordinary_table(connection: &mut SqliteConnection, wanted: &str) -> Result<(String, bool, bool), PortError> {
    let doing = format!("find table {wanted}");
    let row = statement("SELECT name, type, strict, wr FROM pragma_table_list WHERE schema = 'main' AND name = ? COLLATE NOCASE")
        .bind(wanted.to_owned())
        .fetch_optional(connection)
        .await
        .map_err(failed(doing.clone()))?;
    let refused = |why: &str| Err(PortError::Permanent(format!("{doing}: {why}")));
    let Some(row) = row else { return refused("there is no such table") };
    let (table, kind): (String, String) = (row.get(0), row.get(1));
    match kind.as_str() {
        _ if super::fence::is_own(&table) || table.starts_with("sqlite_") => refused("it is internal"),
        "table" => Ok((table, row.get::<i64, _>(2) != 0, row.get::<i64, _>(3) != 0)),
        "view" => refused("it is a view; bind the table that holds the records"),
        "virtual" => refused("it is a virtual table, which takes no triggers and so no fence; bind the table it is built over"),
        _ => refused("it belongs to a virtual table; bind the table that one is built over"),
    }
}

/// The exported columns, the names of the generated ones, and the names of the primary key's.
async fn columns(
    connection: &mut SqliteConnection,
    table: &str,
    strict: bool,
) -> Result<(Vec<TableColumn>, Vec<String>, Vec<(String, String)>), PortError> {
    let rows = statement("SELECT name, type, pk, hidden FROM pragma_table_xinfo(?, 'main') ORDER BY cid")
        .bind(table.to_owned())
        .fetch_all(connection)
        .await
        .map_err(failed(format!("read the columns of table {table}")))?;
    let (mut exported, mut generated, mut primary_key) = (Vec::new(), Vec::new(), Vec::new());
    for row in rows {
        let (column, declared): (String, String) = (row.get(0), row.get(1));
        if row.get::<i64, _>(2) > 0 {
            primary_key.push((column.clone(), declared.clone()));
        }
        if row.get::<i64, _>(3) == 0 {
            exported.push(TableColumn { affinity: Affinity::of(&declared, strict), name: column });
        } else {
            generated.push(column);
        }
    }
    Ok((exported, generated, primary_key))
}

/// The plane's value as the column stores it, so that `05` and `5` are one plane where the column holds integers.
async fn canonical_plane(
    connection: &mut SqliteConnection,
    table: &str,
    at: usize,
    column: &TableColumn,
    value: &str,
) -> Result<Plane, PortError> {
    let doing = format!("read the plane's value in {}.{}", table, column.name);
    let text = Value::Text(value.to_owned());
    let as_text = || Plane { column: at, values: vec![text.clone()], text: value.to_owned() };
    if column.affinity == Affinity::Text {
        return Ok(as_text());
    }
    // What NUMERIC affinity does on storing, done by SQLite itself: a text that is not a number all through stays text.
    let query = statement("SELECT CASE WHEN ?1 = CAST(?1 AS NUMERIC) THEN CAST(?1 AS NUMERIC) ELSE ?1 END");
    let row = bind(query, &text).fetch_one(connection).await.map_err(failed(doing.clone()))?;
    let stored = sql::value(&row, 0)?;
    match (column.affinity, stored) {
        (Affinity::Real, _) | (Affinity::Integer | Affinity::Numeric, Value::Real(_)) => {
            Err(PortError::Permanent(format!("{doing}: a floating-point number does not tell planes apart exactly")))
        }
        // The column keeps what it is given: the number and its text are both this plane's, as they are for the fence.
        (Affinity::None, Value::Integer(number)) if number.to_string() == value => {
            Ok(Plane { column: at, values: vec![text, Value::Integer(number)], text: value.to_owned() })
        }
        (Affinity::Integer | Affinity::Numeric, Value::Integer(number)) => {
            Ok(Plane { column: at, values: vec![Value::Integer(number)], text: number.to_string() })
        }
        _ => Ok(as_text()),
    }
}
