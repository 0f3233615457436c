//! Making erased bytes unreadable: in the file, its free pages, its write-ahead log and its full-text indexes.
//!
//! The rule: what was done and what was not is said, nothing is implied. Every step may be repeated.
//! If we die in it, VACUUM is rolled back by SQLite and everything is done again.

use lethe_stages::ports::PortError;
use serde_json::{Value as Json, json};
use sqlx::{Row, sqlite::SqliteConnection};

use super::{
    connect::failed,
    dependents::Dependents,
    sql::{mentions, name, statement},
};

/// Rewrites the file without what was deleted and empties its log.
pub(super) async fn scrub(connection: &mut SqliteConnection, dependents: &Dependents) -> Result<Json, PortError> {
    let mut not_covered = Vec::new();
    for table in &dependents.virtuals {
        let (table, module) = (&table.name, table.module.as_str());
        if module == "fts5" {
            // Deleted terms stay in FTS5's segments until those are merged. Its rows are for the application's triggers to delete.
            let merge = format!("INSERT INTO {quoted}({quoted}) VALUES('optimize')", quoted = name(table));
            statement(merge).execute(&mut *connection).await.map_err(failed(format!("merge the segments of {table}")))?;
            not_covered.push(format!(
                "virtual table {table} (fts5): its segments were merged; its rows are removed only by the application's triggers"
            ));
        } else {
            not_covered.push(format!("virtual table {table} ({module}): what it copied is for the application to remove"));
        }
    }
    not_covered.push("copies of the file: backups, replicas, snapshots of its file system".to_owned());

    let renumbered = renumbered(connection).await?;
    let vacuum = if renumbered.is_empty() {
        statement("VACUUM").execute(&mut *connection).await.map_err(failed("vacuum"))?;
        json!(true)
    } else {
        // What was deleted under secure_delete is zero bytes already; what the application deleted or rewrote before may still be there.
        not_covered.push(format!(
            "free pages from before: VACUUM would renumber the rows of {}, which a virtual table refers to; give it an INTEGER PRIMARY KEY",
            renumbered.join(", ")
        ));
        json!("skipped: it would renumber rows that a virtual table refers to")
    };

    let wal = journal_mode(connection).await? == "wal";
    let row =
        statement("PRAGMA wal_checkpoint(TRUNCATE)").fetch_one(&mut *connection).await.map_err(failed("truncate the WAL"))?;
    if wal && row.get::<i64, _>(0) != 0 {
        return Err(PortError::Transient("truncate the WAL: a reader or writer holds it; it is asked again".into()));
    }
    let wal_truncated = if wal { json!(true) } else { json!("not in WAL mode") };
    Ok(json!({"secure_delete": true, "vacuum": vacuum, "wal_truncated": wal_truncated, "not_covered": not_covered}))
}

/// The file's journal mode, in lower case.
pub(super) async fn journal_mode(connection: &mut SqliteConnection) -> Result<String, PortError> {
    let row = statement("PRAGMA journal_mode").fetch_one(connection).await.map_err(failed("read the journal mode"))?;
    Ok(row.get::<String, _>(0).to_lowercase())
}

/// Tables that VACUUM would give new rowids (those with neither an INTEGER PRIMARY KEY nor any index) while a virtual table refers to
/// them by rowid.
async fn renumbered(connection: &mut SqliteConnection) -> Result<Vec<String>, PortError> {
    let doing = "read the schema";
    let free = statement(
        r"SELECT t.name FROM pragma_table_list t WHERE t.schema = 'main' AND t.type = 'table' AND NOT t.wr
          AND t.name NOT LIKE 'sqlite\_%' ESCAPE '\'
          AND NOT EXISTS (SELECT 1 FROM pragma_table_info(t.name) c WHERE c.pk AND upper(c.type) = 'INTEGER')
          AND NOT EXISTS (SELECT 1 FROM pragma_index_list(t.name))",
    )
    .fetch_all(&mut *connection)
    .await
    .map_err(failed(doing))?;
    let virtuals = statement(r"SELECT sql FROM sqlite_schema WHERE type = 'table' AND sql LIKE 'create virtual%'")
        .fetch_all(&mut *connection)
        .await
        .map_err(failed(doing))?;
    let virtuals: Vec<String> = virtuals.iter().map(|row| row.get(0)).collect();
    let free = free.iter().map(|row| row.get::<String, _>(0));
    Ok(free.filter(|table| virtuals.iter().any(|sql| mentions(sql, table))).collect())
}
