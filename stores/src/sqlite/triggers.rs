//! The triggers that make a fence: one each before INSERT, UPDATE and DELETE on a bound table, for all of its planes.
//!
//! The rule: a record that is or would become a closed plane's is refused, and so is a record that would replace one. The application's
//! own SQLite runs them, so they use nothing that is younger than 3.24. They are created and dropped in the caller's transaction,
//! which is rolled back if we die in it.

use lethe_stages::ports::PortError;
use sqlx::{Row, sqlite::SqliteConnection};

use super::{
    connect::failed,
    schema::Table,
    sql::{literal, name, statement},
};
use crate::verdict::FenceRow;

/// The plane's own deletes run while its row says `erasing`, which no other connection ever sees.
const CLOSED: &str = "mode NOT IN ('open', 'erasing')";

fn trigger(operation: &str, table: &Table) -> String {
    format!("lethe_fence_{operation}_{}", table.name)
}

/// SQL that is true where a closed plane has the row `row`.
fn closed(table: &Table, row: &str) -> String {
    let resource = literal(&table.name);
    match table.plane_column() {
        None => format!("EXISTS (SELECT 1 FROM lethe_fence WHERE resource = {resource} AND plane = '' AND {CLOSED})"),
        Some(column) => format!(
            "EXISTS (SELECT 1 FROM lethe_fence WHERE resource = {resource} \
             AND plane = CAST({row}.{} AS TEXT) COLLATE BINARY AND {CLOSED})",
            name(column)
        ),
    }
}

/// SQL that is true where NEW would replace a closed plane's record: conflict resolution fires no delete trigger by default.
///
/// Before an INSERT that leaves an INTEGER PRIMARY KEY to SQLite, NEW has -1 there. A closed record whose key is -1 then refuses the
/// insert too: a refusal is seen, a record that is lost is not.
fn replaces_closed(table: &Table) -> Vec<String> {
    if table.plane_column().is_none() {
        return Vec::new();
    }
    let quoted = table.quoted();
    let closed = closed(table, "lethe_old");
    table
        .unique
        .iter()
        .map(|key| format!("EXISTS (SELECT 1 FROM {quoted} AS lethe_old WHERE {} AND {closed})", key.same("lethe_old", "NEW")))
        .collect()
}

fn definitions(table: &Table) -> [(String, String); 3] {
    let message = literal(&format!("lethe: the plane of this record in {} is being offboarded; it takes no writes", table.name));
    let replaced = replaces_closed(table);
    [("insert", vec!["NEW"]), ("update", vec!["OLD", "NEW"]), ("delete", vec!["OLD"])].map(|(operation, rows)| {
        let mut refused: Vec<_> = rows.iter().map(|row| closed(table, row)).collect();
        if operation != "delete" {
            refused.extend(replaced.iter().cloned());
        }
        let trigger = trigger(operation, table);
        let sql = format!(
            "CREATE TRIGGER {} BEFORE {} ON {} WHEN {} BEGIN SELECT RAISE(ABORT, {message}); END",
            name(&trigger),
            operation.to_uppercase(),
            table.quoted(),
            refused.join(" OR "),
        );
        (trigger, sql)
    })
}

/// Makes sure that the table's triggers are there as they should be; leaves those alone that are.
pub(super) async fn create(tx: &mut SqliteConnection, table: &Table) -> Result<(), PortError> {
    let doing = format!("create the triggers of table {}", table.name);
    for (trigger, sql) in definitions(table) {
        let found = statement("SELECT sql FROM sqlite_schema WHERE type = 'trigger' AND name = ?")
            .bind(trigger.clone())
            .fetch_optional(&mut *tx)
            .await
            .map_err(failed(doing.clone()))?;
        if found.is_some_and(|row| row.get::<String, _>(0) == sql) {
            continue;
        }
        drop_trigger(tx, &trigger, &doing).await?;
        statement(sql).execute(&mut *tx).await.map_err(failed(doing.clone()))?;
    }
    Ok(())
}

/// Refuses a table that carries none of the triggers that its plane's row says it carries: a table that was renamed takes them along, so
/// this is another one under its name, and its silence proves nothing.
pub(super) async fn stand(tx: &mut SqliteConnection, table: &Table, row: &FenceRow, doing: &str) -> Result<(), PortError> {
    if row.mode == "open" {
        return Ok(());
    }
    let found = statement(
        "SELECT 1 FROM sqlite_schema WHERE type = 'trigger' AND tbl_name = ? COLLATE NOCASE AND name LIKE 'lethe\\_fence\\_%' ESCAPE '\\' LIMIT 1",
    )
    .bind(table.name.clone())
    .fetch_optional(tx)
    .await
    .map_err(failed(doing.to_owned()))?;
    if found.is_some() {
        return Ok(());
    }
    let (trigger, quoted) = (name(&trigger("insert", table)), table.quoted());
    Err(PortError::WrongPlace(format!(
        "{doing}: the plane is fenced, and this table carries none of the fence's triggers: it is not the table that was fenced (find that \
         one and give it its name back), or somebody dropped them (where you are sure that it is the table, CREATE TRIGGER {trigger} BEFORE \
         INSERT ON {quoted} WHEN 0 BEGIN SELECT 1; END says so)"
    )))
}

/// Whether the table carries each of its triggers.
pub(super) async fn all_there(connection: &mut SqliteConnection, table: &Table) -> Result<bool, PortError> {
    for (trigger, _) in definitions(table) {
        let found = statement("SELECT 1 FROM sqlite_schema WHERE type = 'trigger' AND name = ? AND tbl_name = ? COLLATE NOCASE")
            .bind(trigger)
            .bind(table.name.clone())
            .fetch_optional(&mut *connection)
            .await
            .map_err(failed(format!("look for the triggers of table {}", table.name)))?;
        if found.is_none() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Removes the table's triggers.
pub(super) async fn remove(tx: &mut SqliteConnection, table: &Table) -> Result<(), PortError> {
    let doing = format!("drop the triggers of table {}", table.name);
    for operation in ["insert", "update", "delete"] {
        drop_trigger(tx, &trigger(operation, table), &doing).await?;
    }
    Ok(())
}

async fn drop_trigger(tx: &mut SqliteConnection, trigger: &str, doing: &str) -> Result<(), PortError> {
    let sql = format!("DROP TRIGGER IF EXISTS {}", name(trigger));
    statement(sql).execute(tx).await.map_err(failed(doing.to_owned()))?;
    Ok(())
}
