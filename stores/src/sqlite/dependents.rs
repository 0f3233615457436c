//! What hangs off a bound table: references, views, triggers, virtual tables. Lethe removes none of it and says so.
//!
//! The rule: what is not covered is named. It only reads, so nothing happens if we die in it.

use lethe_stages::ports::PortError;
use sqlx::{
    Row,
    sqlite::{SqliteConnection, SqliteRow},
};

use super::{
    connect::failed,
    fence::is_own,
    schema::Table,
    sql::{mentions, statement},
};

/// A virtual table whose content comes from the bound table.
#[derive(Debug, Clone)]
pub(super) struct Virtual {
    pub(super) name: String,
    /// In lower case: `fts5`, `vec0`, ….
    pub(super) module: String,
}

/// Everything found in the schema.
#[derive(Debug, Default)]
pub(super) struct Dependents {
    /// In words.
    pub(super) all: Vec<String>,
    pub(super) virtuals: Vec<Virtual>,
}

/// Reads the schema for what depends on the table.
pub(super) async fn find(connection: &mut SqliteConnection, table: &Table) -> Result<Dependents, PortError> {
    let doing = format!("read what depends on table {}", table.name);
    let mut found = Dependents::default();
    let rows = statement(
        r#"SELECT m.name, f."from", f.on_delete FROM sqlite_schema m JOIN pragma_foreign_key_list(m.name) f
           WHERE m.type = 'table' AND f."table" = ? COLLATE NOCASE AND m.name <> ? ORDER BY m.name, f.id, f.seq"#,
    )
    .bind(table.name.clone())
    .bind(table.name.clone())
    .fetch_all(&mut *connection)
    .await
    .map_err(failed(doing.clone()))?;
    for row in rows {
        let (from, column, action): (String, String, String) = (row.get(0), row.get(1), row.get(2));
        found.all.push(format!("foreign key {from}.{column} (on delete {}, not followed)", action.to_lowercase()));
    }

    let rows = statement("SELECT type, name, tbl_name, sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY name")
        .fetch_all(&mut *connection)
        .await
        .map_err(failed(doing))?;
    let object = |row: &SqliteRow| -> (String, String, String, String) { (row.get(0), row.get(1), row.get(2), row.get(3)) };
    let objects: Vec<_> = rows.iter().map(object).filter(|(_, name, ..)| !is_own(name)).collect();
    let triggers: Vec<_> = objects
        .iter()
        .filter(|(kind, _, on, sql)| kind == "trigger" && (on.eq_ignore_ascii_case(&table.name) || mentions(sql, &table.name)))
        .collect();
    for (kind, name, _, sql) in &objects {
        match kind.as_str() {
            "view" if mentions(sql, &table.name) => found.all.push(format!("view {name}")),
            "table" => {
                let Some(module) = virtual_module(sql) else { continue };
                // Named in its own definition (content=…), or filled by a trigger of the table.
                if mentions(sql, &table.name) || triggers.iter().any(|(_, _, _, trigger)| mentions(trigger, name)) {
                    found.all.push(format!("virtual table {name} ({module})"));
                    found.virtuals.push(Virtual { name: name.clone(), module });
                }
            }
            _ => {}
        }
    }
    found.all.extend(triggers.iter().map(|(_, name, on, _)| format!("trigger {name} on {on}")));
    Ok(found)
}

/// The module of a virtual table's definition.
pub(super) fn virtual_module(sql: &str) -> Option<String> {
    let lower = sql.trim_start().to_lowercase();
    if !lower.starts_with("create virtual") {
        return None;
    }
    let after = lower.split_once(" using ").or_else(|| lower.split_once("\nusing ")).map_or("", |(_, after)| after);
    let module: String =
        after.trim_start().chars().take_while(|character| character.is_alphanumeric() || *character == '_').collect();
    Some(if module.is_empty() { "unknown module".into() } else { module })
}

/// What the fence cannot refuse, in words.
pub(super) fn unfenced(table: &Table, dependents: &Dependents) -> Vec<String> {
    let mut said = vec!["reads: SQLite cannot refuse reads; `access check` does".to_owned()];
    said.extend(
        dependents
            .virtuals
            .iter()
            .map(|table| format!("writes to virtual table {} ({}): virtual tables take no triggers", table.name, table.module)),
    );
    said.extend(table.opaque_indexes.iter().map(|index| {
        format!(
            "REPLACE through index {index}: it is over an expression or some rows only, so what it replaces cannot be foreseen"
        )
    }));
    said
}
