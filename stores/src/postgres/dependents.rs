//! What hangs off a bound table: references, views, triggers, publications. Lethe removes none of it and says so.
//!
//! The rule: what is not covered is named, and a delete that would take or change records of another table is not made.
//! It only reads, so nothing happens if we die in it.

use lethe_stages::{ports::PortError, record::Key};
use sqlx::{Row, postgres::PgConnection};

use super::{
    connect::failed,
    erase::by_keys,
    schema::Table,
    sql::{Sql, name, statement},
};

const REFERENCES: &str = r"
SELECT conrelid::regclass::text, conname::text, confdeltype::text,
       (SELECT array_agg(a.attname::text ORDER BY k.i) FROM unnest(c.conkey) WITH ORDINALITY AS k (n, i)
               JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = k.n),
       (SELECT array_agg(a.attname::text ORDER BY k.i) FROM unnest(c.confkey) WITH ORDINALITY AS k (n, i)
               JOIN pg_attribute a ON a.attrelid = c.confrelid AND a.attnum = k.n),
       conrelid = confrelid
FROM pg_constraint c WHERE contype = 'f' AND confrelid = $1::oid AND conparentid = 0 ORDER BY 1, 2";

const OTHERS: &str = r"
SELECT CASE v.relkind WHEN 'm' THEN 'materialized view ' ELSE 'view ' END || v.oid::regclass::text
FROM pg_depend d JOIN pg_rewrite r ON r.oid = d.objid JOIN pg_class v ON v.oid = r.ev_class
WHERE d.classid = 'pg_rewrite'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid = $1::oid AND v.oid <> $1::oid
UNION SELECT 'trigger ' || tgname FROM pg_trigger WHERE tgrelid = $1::oid AND NOT tgisinternal AND tgname !~ '^zz_lethe_'
UNION SELECT 'publication ' || pubname FROM pg_publication_tables WHERE schemaname = $2 AND tablename = $3
ORDER BY 1";

/// Everything found in the catalogue, in words.
pub(super) async fn find(connection: &mut PgConnection, table: &Table) -> Result<Vec<String>, PortError> {
    let doing = format!("read what depends on table {}", table.resource());
    let mut found = Vec::new();
    let references = statement(REFERENCES).bind(table.oid).fetch_all(&mut *connection).await.map_err(failed(doing.clone()))?;
    for row in references {
        let (from, constraint, action): (String, String, String) = (row.get(0), row.get(1), row.get(2));
        found.push(format!("foreign key {constraint} of {from} (on delete {}, not followed)", on_delete(&action)));
    }
    let others = statement(OTHERS)
        .bind(table.oid)
        .bind(table.schema.clone())
        .bind(table.relation.clone())
        .fetch_all(connection)
        .await
        .map_err(failed(doing))?;
    found.extend(others.iter().map(|row| row.get::<String, _>(0)));
    Ok(found)
}

fn on_delete(action: &str) -> &'static str {
    match action {
        "c" => "cascade",
        "n" => "set null",
        "d" => "set default",
        "r" => "restrict",
        _ => "no action",
    }
}

/// Refuses a delete of these records of the plane while records of another table refer to them: they would be deleted or changed
/// although nobody named them, or the server would refuse it.
pub(super) async fn none_would_follow(tx: &mut PgConnection, table: &Table, keys: &[&Key]) -> Result<(), PortError> {
    let doing = format!("erase from table {}", table.resource());
    let references = statement(REFERENCES).bind(table.oid).fetch_all(&mut *tx).await.map_err(failed(doing.clone()))?;
    for row in references {
        let (from, constraint, action): (String, String, String) = (row.get(0), row.get(1), row.get(2));
        let (columns, referred): (Vec<String>, Vec<String>) = (row.get(3), row.get(4));
        let listed = |columns: &[String]| columns.iter().map(|column| name(column)).collect::<Vec<_>>().join(", ");
        let counting = format!(
            "SELECT count(*) FROM {from} AS lethe_from WHERE ({}) IN (SELECT {} FROM {} WHERE ",
            columns.iter().map(|column| format!("lethe_from.{}", name(column))).collect::<Vec<_>>().join(", "),
            listed(&referred),
            table.quoted()
        );
        let mut counting = by_keys(Sql::new(counting), table, keys.iter().copied())?.text(")");
        if row.get::<bool, _>(5) {
            // Records that refer to one another may go together.
            counting = by_keys(counting.text(" AND NOT ("), table, keys.iter().copied())?.text(")");
        }
        let count: i64 = counting.query().fetch_one(&mut *tx).await.map_err(failed(doing.clone()))?.get(0);
        if count > 0 {
            return Err(PortError::Permanent(format!(
                "{doing}: {count} record(s) of {from} refer to the batch by {constraint} (on delete {}); remove those first, or bind \
                 that table before this one",
                on_delete(&action)
            )));
        }
    }
    Ok(())
}
