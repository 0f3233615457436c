//! What makes a record unique in its table: by which values a key names one record, and which old record a REPLACE would remove.
//!
//! The rule: SQLite fires no delete trigger for a record that conflict resolution replaces, so every way to replace one is listed here
//! or named as one that the fence cannot foresee. It only reads, so nothing happens if we die in it.

use lethe_stages::ports::PortError;
use sqlx::{Row, sqlite::SqliteConnection};

use super::{
    connect::failed,
    schema::TableColumn,
    sql::{name, statement},
};

/// Columns (quoted) whose values together are unique, each with the collation it is compared under.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct UniqueKey {
    index: String,
    columns: Vec<(String, String)>,
}

impl UniqueKey {
    /// SQL that is true of the row `old` that a new row `new` replaces.
    pub(super) fn same(&self, old: &str, new: &str) -> String {
        self.columns
            .iter()
            .map(|(column, collation)| format!("{old}.{column} = {new}.{column} COLLATE {}", name(collation)))
            .collect::<Vec<_>>()
            .join(" AND ")
    }
}

/// The unique keys of a table.
#[derive(Debug, Default)]
pub(super) struct UniqueKeys {
    keys: Vec<UniqueKey>,
    opaque: Vec<String>,
    has_primary_key_index: bool,
}

/// Reads the table's unique indexes.
pub(super) async fn read(connection: &mut SqliteConnection, table: &str) -> Result<UniqueKeys, PortError> {
    let doing = format!("read the indexes of table {table}");
    let rows = statement(
        r#"SELECT l.name, l.origin, l.partial, x.cid, x.name, x.coll
           FROM pragma_index_list(?, 'main') l JOIN pragma_index_xinfo(l.name, 'main') x
           WHERE l."unique" AND x.key ORDER BY l.seq, x.seqno"#,
    )
    .bind(table.to_owned())
    .fetch_all(connection)
    .await
    .map_err(failed(doing))?;

    let mut found = UniqueKeys::default();
    let mut last = None;
    for row in rows {
        let index: String = row.get(0);
        found.has_primary_key_index |= row.get::<String, _>(1) == "pk";
        // Partial, or over an expression.
        if row.get::<i64, _>(2) != 0 || row.get::<Option<String>, _>(4).is_none() {
            found.opaque.push(index.clone());
        }
        if last.as_ref() != Some(&index) {
            found.keys.push(UniqueKey { index: index.clone(), columns: Vec::new() });
            last = Some(index);
        }
        if let (Some(key), Some(column)) = (found.keys.last_mut(), row.get::<Option<String>, _>(4)) {
            key.columns.push((name(&column), row.get::<Option<String>, _>(5).unwrap_or("BINARY".into())));
        }
    }
    found.opaque.dedup();
    found.keys.retain(|key| !found.opaque.contains(&key.index));
    Ok(found)
}

impl UniqueKeys {
    /// Whether some unique key consists of these columns, in any order, or of some of them.
    pub(super) fn covers(&self, columns: &[&str]) -> bool {
        let wanted: Vec<_> = columns.iter().map(|column| name(column).to_lowercase()).collect();
        self.keys.iter().any(|key| key.columns.iter().all(|(column, _)| wanted.contains(&column.to_lowercase())))
    }

    /// Adds the rowid, under its alias: the INTEGER PRIMARY KEY, or a name that no column takes.
    pub(super) fn add_rowid(&mut self, columns: &[TableColumn], generated: &[String], primary_key: &[(String, String)]) {
        let alias = match primary_key {
            // `INTEGER PRIMARY KEY DESC` is no alias and has an index of its own.
            [(column, declared)] if declared.eq_ignore_ascii_case("INTEGER") && !self.has_primary_key_index => Some(name(column)),
            _ => ["rowid", "_rowid_", "oid"]
                .into_iter()
                .find(|alias| {
                    !columns.iter().any(|column| column.name.eq_ignore_ascii_case(alias))
                        && !generated.iter().any(|column| column.eq_ignore_ascii_case(alias))
                })
                .map(str::to_owned),
        };
        if let Some(alias) = alias {
            self.keys.push(UniqueKey { index: String::new(), columns: vec![(alias, "BINARY".into())] });
        }
    }

    /// The keys, and the names of the indexes that cannot be foreseen.
    pub(super) fn into_parts(self) -> (Vec<UniqueKey>, Vec<String>) {
        (self.keys, self.opaque)
    }
}
