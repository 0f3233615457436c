//! Archived records back into tables of a new file, and the proof that every one of them came back as it was.
//!
//! The rule: a value is stored in the class in which it was archived. A column declares the type of the values it was archived with, and
//! loses it as soon as a value comes that the type would change. What is expected of each key stands in a temporary table, a later
//! record of a key in the place of an earlier one; [`Rebuild::compare`] reads the file as a plane's store is read and compares.
//!
//! If we die in it, the file is worth nothing; whoever began it throws it away.

use std::path::PathBuf;

use lethe_stages::{
    ports::{KnowledgeStore, PageLimit, PortError},
    record::{Column, ColumnKind, Key, Record, RecordDigest, Value},
};
use sqlx::{
    Connection, Row,
    sqlite::{SqliteConnection, SqliteRow},
};
use uuid::Uuid;

use super::{
    SqliteStore,
    connect::{File, close, commit, failed},
    sql::{self, Sql, key_value, name, statement},
};
use crate::Mapping;

/// Values bound to one statement, at most; a record with more columns is a statement of its own.
const VALUES_PER_STATEMENT: usize = 2_000;

/// How much of the rebuilt table is read at a time.
const PAGE: PageLimit = PageLimit { rows_max: 5_000, bytes_max: 16 << 20 };

/// A file in the making. Nothing else writes it.
pub(crate) struct Rebuild {
    file: File,
    connection: SqliteConnection,
    tables: Vec<Rebuilding>,
}

struct Rebuilding {
    mapping: Mapping,
    columns: Vec<String>,
    /// What each column declares; empty for a column that keeps whatever comes.
    declared: Vec<&'static str>,
    key: usize,
}

impl Rebuild {
    /// Opens an empty file.
    pub(crate) async fn open(path: PathBuf) -> Result<Self, PortError> {
        let file = File { path };
        let mut connection = file.building().await?;
        let expected = "CREATE TEMP TABLE lethe_expected (lethe_table, lethe_key, digest, PRIMARY KEY (lethe_table, lethe_key)) WITHOUT ROWID";
        statement(expected).execute(&mut connection).await.map_err(failed("create the list of what is expected"))?;
        Ok(Self { file, connection, tables: Vec::new() })
    }

    /// Creates the mapping's table with these columns, in their order. Answers its place, from 0.
    pub(crate) async fn create(&mut self, mapping: Mapping, columns: &[Column]) -> Result<usize, PortError> {
        let key = columns.iter().position(|column| column.name.eq_ignore_ascii_case(&mapping.key)).ok_or_else(|| {
            PortError::Permanent(format!("create table {}: the archive holds no key column `{}`", mapping.table, mapping.key))
        })?;
        let declared = columns.iter().map(|column| declared(column.kind)).collect();
        let table = Rebuilding { columns: columns.iter().map(|column| column.name.clone()).collect(), declared, key, mapping };
        let doing = format!("create table {}", table.mapping.table);
        statement(table.definition()).execute(&mut self.connection).await.map_err(failed(doing))?;
        self.tables.push(table);
        Ok(self.tables.len() - 1)
    }

    /// Adds records, each with the digest that it must have when it is read again. One whose key is there already takes its place.
    pub(crate) async fn put(&mut self, table: usize, records: &[Record], digests: &[RecordDigest]) -> Result<(), PortError> {
        let rebuilding = &mut self.tables[table];
        let doing = format!("write table {}", rebuilding.mapping.table);
        if records.len() != digests.len() || records.iter().any(|record| record.values.len() != rebuilding.columns.len()) {
            return Err(PortError::Permanent(format!("{doing}: records, columns and digests do not belong together")));
        }
        let mut tx = self.connection.begin_with("BEGIN IMMEDIATE").await.map_err(failed(doing.clone()))?;
        if rebuilding.loosen(records) {
            recreate(&mut tx, rebuilding).await?;
        }
        let insert = format!("INSERT OR REPLACE INTO {} VALUES ", name(&rebuilding.mapping.table));
        for chunk in records.chunks((VALUES_PER_STATEMENT / rebuilding.columns.len()).max(1)) {
            let rows = chunk.iter().map(|record| record.values.clone());
            values(&insert, rows).query().execute(&mut *tx).await.map_err(failed(doing.clone()))?;
        }
        let expected: Vec<_> = records.iter().zip(digests).collect();
        for chunk in expected.chunks(VALUES_PER_STATEMENT / 3) {
            let rows = chunk.iter().map(|(record, digest)| {
                vec![Value::Integer(table as i64), key_value(&record.key), Value::Blob(digest.0.to_vec())]
            });
            let query = values("INSERT OR REPLACE INTO temp.lethe_expected VALUES ", rows).query();
            query.execute(&mut *tx).await.map_err(failed(doing.clone()))?;
        }
        commit(tx, &doing).await
    }

    /// Reads a table through the driver, over connections of its own, and compares every record with what is expected. Answers how many
    /// there are; Permanent at the first difference.
    pub(crate) async fn compare(&mut self, table: usize) -> Result<u64, PortError> {
        let mapping = self.tables[table].mapping.clone();
        let doing = format!("compare table {} with the archive", mapping.table);
        let store = SqliteStore::new(self.file.path.clone(), mapping, Uuid::nil());
        let (mut after, mut rows): (Option<Key>, u64) = (None, 0);
        loop {
            let page = store.page(after.as_ref(), PAGE).await?;
            let expected = self.expected(table, after.as_ref(), page.len().max(1)).await.map_err(failed(doing.clone()))?;
            for (index, row) in expected.iter().enumerate() {
                let (key, digest) = (sql::value(row, 0)?, row.get::<Vec<u8>, _>(1));
                match page.get(index) {
                    Some(record) if key_value(&record.key) == key && record.digest(None).0[..] == digest[..] => {}
                    Some(record) => return Err(PortError::Permanent(format!("{doing}: record {} differs", record.key))),
                    None => return Err(PortError::Permanent(format!("{doing}: records are missing after the first {rows}"))),
                }
            }
            if page.len() > expected.len() {
                return Err(PortError::Permanent(format!("{doing}: it holds records that the archive does not")));
            }
            rows += page.len() as u64;
            match page.last() {
                Some(last) => after = Some(last.key.clone()),
                None => return Ok(rows),
            }
        }
    }

    /// The first `limit` of what is expected after `after`, in the order in which the driver reads.
    async fn expected(&mut self, table: usize, after: Option<&Key>, limit: usize) -> Result<Vec<SqliteRow>, sqlx::Error> {
        let mut query = Sql::new("SELECT lethe_key, digest FROM temp.lethe_expected WHERE lethe_table = ")
            .value(Value::Integer(table as i64));
        if let Some(after) = after {
            query = query.text(" AND lethe_key > ").value(key_value(after));
        }
        query.text(" ORDER BY lethe_key LIMIT ").value(Value::Integer(limit as i64)).query().fetch_all(&mut self.connection).await
    }

    /// Ends the connection; everything is in the file.
    pub(crate) async fn close(self) {
        close(self.connection).await;
    }
}

impl Rebuilding {
    fn definition(&self) -> String {
        let columns = self.columns.iter().zip(&self.declared).enumerate().map(|(index, (column, declared))| {
            let key = if index == self.key { " PRIMARY KEY NOT NULL" } else { "" };
            format!("{} {declared}{key}", name(column))
        });
        format!("CREATE TABLE {} ({})", name(&self.mapping.table), columns.collect::<Vec<_>>().join(", "))
    }

    /// Takes the type from each column that holds a value which the type would change. Answers whether there was one.
    fn loosen(&mut self, records: &[Record]) -> bool {
        let mut loosened = false;
        for (index, declared) in self.declared.iter_mut().enumerate() {
            if records.iter().any(|record| !keeps(declared, &record.values[index])) {
                *declared = "";
                loosened = true;
            }
        }
        loosened
    }
}

/// The type that a column of this kind declares.
fn declared(kind: ColumnKind) -> &'static str {
    match kind {
        ColumnKind::Integer => "INTEGER",
        ColumnKind::Real => "REAL",
        ColumnKind::Text | ColumnKind::VectorJson => "TEXT",
        ColumnKind::Blob | ColumnKind::VectorBlob => "BLOB",
        ColumnKind::Mixed => "",
    }
}

/// Whether a column that declares this keeps the value as it is.
fn keeps(declared: &str, value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Integer(_) => matches!(declared, "" | "BLOB" | "INTEGER"),
        // A column of this type keeps whole numbers as integers, and so forgets the sign of zero.
        Value::Real(number) if *number == 0.0 && number.is_sign_negative() => matches!(declared, "" | "BLOB"),
        Value::Real(_) => matches!(declared, "" | "BLOB" | "REAL"),
        Value::Text(_) => matches!(declared, "" | "BLOB" | "TEXT"),
        // As the key, INTEGER takes nothing else.
        Value::Blob(_) => declared != "INTEGER",
    }
}

/// Makes the table anew as it is declared now, with the records it has.
async fn recreate(connection: &mut SqliteConnection, table: &Rebuilding) -> Result<(), PortError> {
    let quoted = name(&table.mapping.table);
    for sql in [
        format!("ALTER TABLE {quoted} RENAME TO lethe_loosened"),
        table.definition(),
        format!("INSERT INTO {quoted} SELECT * FROM lethe_loosened"),
        "DROP TABLE lethe_loosened".to_owned(),
    ] {
        let doing = format!("loosen the columns of table {}", table.mapping.table);
        statement(sql).execute(&mut *connection).await.map_err(failed(doing))?;
    }
    Ok(())
}

/// `insert` with rows of bound values.
fn values(insert: &str, rows: impl Iterator<Item = Vec<Value>>) -> Sql {
    rows.enumerate()
        .fold(Sql::new(insert), |query, (index, row)| query.text(if index == 0 { "" } else { ", " }).list(row.into_iter()))
}
