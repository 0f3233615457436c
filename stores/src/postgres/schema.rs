//! The bound table as the database's catalogue has it: spelling, columns, key, what tells planes apart, who owns it.
//!
//! The rule: a mapping that the schema cannot serve exactly is refused, here and before anything is read or closed, with what was found
//! and what would be right. A plane's records are found by one condition, [`Table::scope`], whoever asks.
//! It only reads, so nothing happens if we die in it.

use lethe_stages::ports::PortError;
use sqlx::{Row, postgres::PgConnection};

use super::{
    columns::{self, TableColumn},
    connect::failed,
    sql::{KeyClass, Param, Sql, name, statement},
    unique,
};
use crate::Mapping;

/// What tells planes apart.
#[derive(Debug, Clone)]
pub(super) struct Plane {
    /// Its place among the columns.
    pub(super) column: usize,
    /// The plane's value as the column's own output writes it; the form that the fence compares.
    pub(super) text: String,
}

/// An embedding that the server itself can search by.
#[derive(Debug, Clone)]
pub(super) struct VectorIndex {
    pub(super) name: String,
    /// `hnsw` or `ivfflat`.
    pub(super) method: String,
    /// The operator by which it is searched, with its schema.
    pub(super) operator: String,
}

/// The bound table.
#[derive(Debug, Clone)]
pub(super) struct Table {
    pub(super) oid: i64,
    pub(super) schema: String,
    pub(super) relation: String,
    pub(super) owner: String,
    pub(super) partitioned: bool,
    pub(super) columns: Vec<TableColumn>,
    pub(super) key: usize,
    pub(super) key_class: KeyClass,
    pub(super) embedding: Option<usize>,
    pub(super) vector_index: Option<VectorIndex>,
    pub(super) plane: Option<Plane>,
    /// Whether a key names one record of the whole table, and not only of its plane.
    pub(super) key_is_global: bool,
}

const FIND: &str = r"
SELECT c.oid::int8, n.nspname::text, c.relname::text, c.relkind::text, c.relispartition,
       pg_get_userbyid(c.relowner)::text, pg_has_role(c.relowner, 'USAGE'), has_schema_privilege(n.oid, 'USAGE, CREATE'),
       c.relpersistence::text, c.relhassubclass, (SELECT i.inhparent::regclass::text FROM pg_inherits i WHERE i.inhrelid = c.oid LIMIT 1),
       current_user::text
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'
  AND (n.nspname || '.' || c.relname = $1 OR c.relname = $1)
ORDER BY n.nspname || '.' || c.relname <> $1, n.nspname";

impl Table {
    /// Reads the catalogue and finds the mapping in it.
    pub(super) async fn resolve(connection: &mut PgConnection, mapping: &Mapping) -> Result<Self, PortError> {
        let mut table = ordinary_table(connection, &mapping.table).await?;
        let shown = table.resource();
        let found = columns::read(connection, table.oid, &shown).await?;
        let find = |word: &str, wanted: &str| -> Result<usize, PortError> {
            let exact = found.columns.iter().position(|column| column.name == wanted);
            if let Some(at) = exact.or_else(|| found.columns.iter().position(|column| column.name.eq_ignore_ascii_case(wanted))) {
                return Ok(at);
            }
            let why = if found.generated.iter().any(|column| column == wanted) {
                "it is a generated column, and those are not exported".to_owned()
            } else {
                let listed: Vec<_> = found.columns.iter().map(|column| format!("{} {}", column.name, column.declared)).collect();
                format!("its columns are {}", listed.join(", "))
            };
            Err(PortError::Permanent(format!("find {word} column `{wanted}` in table {shown}: {why}")))
        };
        table.key = find("key", &mapping.key)?;
        for (word, column) in [("text", &mapping.text), ("metadata", &mapping.metadata)] {
            column.as_deref().map(|column| find(word, column)).transpose()?;
        }
        table.embedding = mapping.embedding.as_deref().map(|column| find("embedding", column)).transpose()?;
        let plane = match (&mapping.plane_column, &mapping.plane) {
            (Some(column), Some(value)) => Some((find("plane", column)?, value)),
            (None, None) => None,
            _ => return Err(PortError::Permanent("mapping: plane_column and plane come together or not at all".into())),
        };
        table.columns = found.columns;
        table.key_class = table.columns[table.key].key_class(&shown)?;

        let unique = unique::read(connection, table.oid, &shown).await?;
        let key = table.columns[table.key].name.as_str();
        table.key_is_global = unique.covers(&[key]);
        let with_plane = plane.map(|(column, _)| table.columns[column].name.as_str());
        if !table.key_is_global && !with_plane.is_some_and(|plane| unique.covers(&[plane, key])) {
            let wanted = with_plane.map_or(String::new(), |plane| format!(" or ({plane}, {key})"));
            return Err(PortError::Permanent(format!(
                "key column `{key}` of table {shown} does not name one record: it needs a primary key or unique index on \
                 ({key}){wanted}; {unique}"
            )));
        }
        if let Some((column, value)) = plane {
            let text = canonical_plane(connection, &shown, &table.columns[column], value).await?;
            table.plane = Some(Plane { column, text });
        }
        if let Some(embedding) = table.embedding {
            table.vector_index = unique::vector_index(connection, table.oid, &table.columns[embedding].name).await?;
        }
        Ok(table)
    }

    /// Goes on with the condition that finds the plane's records; true of every record where the plane owns the table.
    pub(super) fn scope(&self, sql: Sql) -> Sql {
        match &self.plane {
            None => sql.text("true"),
            Some(plane) => {
                let column = &self.columns[plane.column];
                sql.text(format!("{} = (", name(&column.name)))
                    .param(Param::Text(plane.text.clone()))
                    .text(format!("::text)::{}", column.plane_type()))
            }
        }
    }

    /// `schema.table`, the form in which messages, the ledger and the fence name it.
    pub(super) fn resource(&self) -> String {
        format!("{}.{}", self.schema, self.relation)
    }

    /// The table's quoted name with its schema.
    pub(super) fn quoted(&self) -> String {
        format!("{}.{}", name(&self.schema), name(&self.relation))
    }

    /// Something of Lethe's in the table's schema, quoted.
    pub(super) fn own(&self, object: &str) -> String {
        format!("{}.{}", name(&self.schema), name(object))
    }

    /// The key column's quoted name.
    pub(super) fn quoted_key(&self) -> String {
        name(&self.columns[self.key].name)
    }

    /// Expressions of all columns' values, in order, each as one of four types.
    pub(super) fn selected(&self) -> String {
        self.columns.iter().map(|column| column.selected()).collect::<Vec<_>>().join(", ")
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

/// The table by its name, with or without its schema, if it is one that can be bound.
async fn ordinary_table(connection: &mut PgConnection, wanted: &str) -> Result<Table, PortError> {
    let doing = format!("find table {wanted}");
    let rows = statement(FIND).bind(wanted.to_owned()).fetch_all(&mut *connection).await.map_err(failed(doing.clone()))?;
    let refused = |why: String| Err(PortError::Permanent(format!("{doing}: {why}")));
    let full = |index: usize| format!("{}.{}", rows[index].get::<String, _>(1), rows[index].get::<String, _>(2));
    let Some(row) = rows.first() else {
        return refused(format!("there is no such table; there are {}", tables(connection).await?.join(", ")));
    };
    if rows.len() > 1 && full(0) != wanted {
        let all: Vec<_> = (0..rows.len()).map(full).collect();
        return refused(format!("there are several; write table={}", all.join(" or table=")));
    }
    let (kind, owner, role): (String, String, String) = (row.get(3), row.get(5), row.get(11));
    if super::fence::is_own(&row.get::<String, _>(2)) {
        return refused("it is Lethe's own".into());
    }
    if kind != "r" && kind != "p" {
        return refused("it is no table but a view or a foreign table; bind the table that holds the records".into());
    }
    if row.get::<bool, _>(4) {
        let parent = row.get::<Option<String>, _>(10).unwrap_or_default();
        return refused(format!(
            "it is a partition; write table={parent}&plane_column=… with the column by which that is partitioned"
        ));
    }
    if kind == "r" && row.get::<bool, _>(9) {
        return refused("other tables inherit from it, and their records would seem to be its own; bind those".into());
    }
    if row.get::<String, _>(8) == "t" {
        return refused("it is a temporary table".into());
    }
    if !row.get::<bool, _>(6) {
        return refused(format!(
            "role {role} does not own it, and only its owner can close and vacuum it: GRANT {} TO {}",
            name(&owner),
            name(&role)
        ));
    }
    if !row.get::<bool, _>(7) {
        return refused(format!(
            "role {role} cannot keep a fence beside it: GRANT USAGE, CREATE ON SCHEMA {} TO {}",
            name(&row.get::<String, _>(1)),
            name(&role)
        ));
    }
    Ok(Table {
        oid: row.get(0),
        schema: row.get(1),
        relation: row.get(2),
        owner,
        partitioned: kind == "p",
        columns: Vec::new(),
        key: 0,
        key_class: KeyClass::Text,
        embedding: None,
        vector_index: None,
        plane: None,
        key_is_global: false,
    })
}

/// The tables that could be bound, as `schema.table`.
pub(super) async fn tables(connection: &mut PgConnection) -> Result<Vec<String>, PortError> {
    let rows = statement(
        r"SELECT n.nspname || '.' || c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
          WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'
            AND c.relname !~ '^lethe_' AND has_schema_privilege(n.oid, 'USAGE') ORDER BY 1",
    )
    .fetch_all(connection)
    .await
    .map_err(failed("read the names of the tables"))?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// The plane's value as the column writes it, so that `05` and `5` are one plane where the column holds integers.
async fn canonical_plane(
    connection: &mut PgConnection,
    table: &str,
    column: &TableColumn,
    value: &str,
) -> Result<String, PortError> {
    column.can_tell_planes(table)?;
    let sql = format!("SELECT format('%s', ($1::text)::{})", column.plane_type());
    let row = statement(sql).bind(value.to_owned()).fetch_one(connection).await;
    let row = row.map_err(failed(format!("read the plane's value in {table}.{} ({})", column.name, column.declared)))?;
    Ok(row.get(0))
}
