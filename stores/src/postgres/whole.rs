//! Erasing a plane's own partition at once, where it is still exactly what was exported.
//!
//! The rule: the state of a partition is a digest over where each record's version stands and which transaction wrote it; whatever
//! changes a record, adds or removes one changes that. It is compared under a lock that lets nobody in, and what would follow or notice
//! a delete of single records (references, triggers of the table's own) keeps this way closed.
//! If we die in it, the server rolls it back, or the partition is empty.

use lethe_stages::{Permit, ports::PortError};
use sqlx::{Row, postgres::PgConnection};

use super::{
    connect::{WRITING, begin, commit, failed},
    erase::permitted,
    fence,
    partition::own_partition,
    schema::Table,
    sql::statement,
};

/// The state of the plane's partition, in a transaction of the caller's; `None` where it has none of its own.
pub(super) async fn state(connection: &mut PgConnection, table: &Table) -> Result<Option<String>, PortError> {
    match own_partition(connection, table).await? {
        Some(partition) => state_of(connection, &partition).await.map(|(state, _)| Some(state)),
        None => Ok(None),
    }
}

async fn state_of(connection: &mut PgConnection, partition: &str) -> Result<(String, i64), PortError> {
    let row = statement(format!(
        "SELECT count(*), format('%s %s %s', $1::text::regclass::oid, count(*),
            coalesce(sum(hashtextextended(ctid::text || ' ' || xmin::text || ' ' || cmin::text, 0)), 0))
         FROM {partition}"
    ))
    .bind(partition.to_owned())
    .fetch_one(connection)
    .await
    .map_err(failed(format!("look at the state of {partition}")))?;
    Ok((row.get(1), row.get(0)))
}

/// What a delete of single records would set off, of the table or of the partition.
const WOULD_FOLLOW: &str = "
    SELECT EXISTS (SELECT FROM pg_constraint WHERE contype = 'f' AND confrelid IN ($1::oid, $2::text::regclass))
        OR EXISTS (SELECT FROM pg_trigger WHERE tgrelid IN ($1::oid, $2::text::regclass) AND NOT tgisinternal AND tgname !~ '^zz_lethe_')
        OR EXISTS (SELECT FROM pg_rewrite WHERE ev_class IN ($1::oid, $2::text::regclass))
        OR EXISTS (SELECT FROM pg_publication_tables WHERE schemaname = $3 AND tablename = $4)";

/// Empties the plane's partition, if it is in `state`. Answers how many records it held.
pub(super) async fn erase(
    connection: &mut PgConnection,
    table: &Table,
    permit: &Permit,
    state: &str,
) -> Result<Option<u64>, PortError> {
    let doing = format!("erase the plane's partition of table {}", table.resource());
    let mut tx = begin(connection, WRITING).await?;
    let Some(partition) = own_partition(&mut tx, table).await? else { return Ok(None) };
    // The table before its row, as a fence does, so that neither waits for the other.
    for (what, mode) in [(&table.quoted(), "ROW EXCLUSIVE"), (&partition, "ACCESS EXCLUSIVE")] {
        statement(format!("LOCK TABLE {what} IN {mode} MODE")).execute(&mut *tx).await.map_err(failed(doing.clone()))?;
    }
    let row = permitted(&mut tx, table, permit, &doing).await?;
    let follows = statement(WOULD_FOLLOW)
        .bind(table.oid)
        .bind(partition.clone())
        .bind(table.schema.clone())
        .bind(table.relation.clone())
        .fetch_one(&mut *tx)
        .await
        .map_err(failed(doing.clone()))?;
    let (found, records) = state_of(&mut tx, &partition).await?;
    if follows.get::<bool, _>(0) || found != state {
        return Ok(None);
    }
    fence::set_mode(&mut tx, table, "erasing", permit.epoch()).await?;
    statement(format!("TRUNCATE {partition}")).execute(&mut *tx).await.map_err(failed(doing.clone()))?;
    fence::set_mode(&mut tx, table, &row.mode, permit.epoch()).await?;
    commit(tx, &doing).await?;
    Ok(u64::try_from(records).ok())
}
