//! Making erased records unreadable: in the table, its indexes and the planner's samples of it.
//!
//! The rule: what was done and what was not is said, nothing is implied. Files go only while they hold no record: a partition that is
//! the plane's alone is detached and dropped, a table that is the plane's alone is truncated, and what planes share is vacuumed.
//! Every step may be repeated. If we die in it, the server rolls back the step, and everything is done again.

use std::time::Duration;

use lethe_stages::{Permit, ports::PortError};
use serde_json::{Value as Json, json};
use sqlx::{AssertSqlSafe, Executor, Row, postgres::PgConnection};

use super::{
    connect::{READING, WRITING, begin, close, commit, connect, failed},
    erase::permitted,
    fence,
    partition::{Apart, own_partition, stands_apart},
    schema::Table,
    sql::statement,
    url::Server,
};

/// How long transactions are waited for that began before the records were erased and may still see them.
const OLDER_TRANSACTIONS: Duration = Duration::from_secs(20);

/// Removes what is left of erased records.
pub(super) async fn scrub(
    server: &Server,
    connection: &mut PgConnection,
    table: &Table,
    permit: &Permit,
) -> Result<Json, PortError> {
    let mut not_covered = vec![
        "copies of the database: backups, replicas, archived WAL".to_owned(),
        "WAL that is still kept, until the server recycles it".to_owned(),
    ];
    if !wait_for_older_transactions(connection).await? {
        not_covered.push(
            "records that transactions of other roles still saw: our role may not see those (GRANT pg_read_all_stats)".into(),
        );
    }
    let apart = stands_apart(connection, table).await?;
    if apart == Apart::Here && is_sampled(connection, table).await? {
        // The planner's samples of the whole table forget the plane while its empty partition still shows that they have to.
        analyse_whole(server, connection, table).await?;
    }
    let dropped = drop_partition(connection, table, permit).await?;
    let truncated = dropped.is_none() && truncate(connection, table, permit).await?;
    // Where the plane's records stood in files of their own, nobody else's files need to be looked through.
    let vacuumed = dropped.is_none() && apart != Apart::Gone;
    if vacuumed {
        // INDEX_CLEANUP: otherwise entries of few deleted records would stay in the indexes, vectors among them.
        let vacuum = format!("VACUUM (ANALYZE, INDEX_CLEANUP ON) {}", table.quoted());
        connection.execute(AssertSqlSafe(vacuum)).await.map_err(failed(format!("vacuum table {}", table.resource())))?;
    }
    if vacuumed && !truncated {
        not_covered
            .push("bytes in the free space of the table's pages, until they are used again or somebody runs VACUUM FULL".into());
    }
    let sampled = sampled(connection, table).await?;
    if sampled > 0 {
        not_covered.push(format!("the planner's samples of {sampled} column(s): ANALYZE keeps them while the table is empty"));
    }
    Ok(json!({"partition_dropped": dropped, "truncated": truncated, "vacuum": vacuumed, "not_covered": not_covered}))
}

/// Waits until every transaction that is open now has ended. Answers whether all of them could be seen.
async fn wait_for_older_transactions(connection: &mut PgConnection) -> Result<bool, PortError> {
    let doing = "wait for older transactions";
    let mut waited = Duration::ZERO;
    let open = "SELECT pid, xact_start::text FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
        AND backend_type <> 'autovacuum worker' AND (backend_xmin IS NOT NULL OR backend_xid IS NOT NULL)";
    let seen = "SELECT pg_has_role('pg_read_all_stats', 'USAGE') OR (SELECT rolsuper FROM pg_roles WHERE rolname = current_user)";
    let visible: bool = statement(seen).fetch_one(&mut *connection).await.map_err(failed(doing))?.get(0);
    let transactions = async |connection: &mut PgConnection| -> Result<Vec<(i32, Option<String>)>, PortError> {
        let rows = statement(open).fetch_all(connection).await.map_err(failed(doing))?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    };
    let first = transactions(&mut *connection).await?;
    loop {
        let now = transactions(&mut *connection).await?;
        let Some((pid, _)) = first.iter().find(|one| now.contains(one)) else { return Ok(visible) };
        if waited >= OLDER_TRANSACTIONS {
            return Err(PortError::Transient(format!(
                "{doing}: server process {pid} has one open that still sees what was erased; it is asked again"
            )));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        waited += Duration::from_millis(100);
    }
}

/// Detaches and drops the partition that holds the plane's value and no other, if there is one and it is empty.
async fn drop_partition(connection: &mut PgConnection, table: &Table, permit: &Permit) -> Result<Option<String>, PortError> {
    let doing = format!("drop the plane's partition of table {}", table.resource());
    let mut tx = begin(connection, WRITING).await?;
    let Some(partition) = own_partition(&mut tx, table).await? else { return Ok(None) };
    for lock in [table.quoted(), partition.clone()] {
        let lock = format!("LOCK TABLE {lock} IN ACCESS EXCLUSIVE MODE");
        statement(lock).execute(&mut *tx).await.map_err(failed(doing.clone()))?;
    }
    permitted(&mut tx, table, permit, &doing).await?;
    let left = statement(format!("SELECT 1 FROM {partition} LIMIT 1")).fetch_optional(&mut *tx).await;
    if left.map_err(failed(doing.clone()))?.is_some() {
        return Ok(None);
    }
    for sql in [format!("ALTER TABLE {} DETACH PARTITION {partition}", table.quoted()), format!("DROP TABLE {partition}")] {
        statement(sql).execute(&mut *tx).await.map_err(failed(doing.clone()))?;
    }
    commit(tx, &doing).await?;
    Ok(Some(partition))
}

/// Truncates a table that is the plane's alone, if it is empty and nothing refers to it: its files are new ones then.
async fn truncate(connection: &mut PgConnection, table: &Table, permit: &Permit) -> Result<bool, PortError> {
    if table.plane.is_some() {
        return Ok(false);
    }
    let doing = format!("truncate table {}", table.resource());
    let mut tx = begin(connection, WRITING).await?;
    let lock = format!("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE", table.quoted());
    statement(lock).execute(&mut *tx).await.map_err(failed(doing.clone()))?;
    let row = permitted(&mut tx, table, permit, &doing).await?;
    let left = statement(format!(
        "SELECT 1 WHERE EXISTS (SELECT FROM {}) OR EXISTS (SELECT FROM pg_constraint WHERE contype = 'f' AND confrelid = $1::oid)",
        table.quoted()
    ))
    .bind(table.oid)
    .fetch_optional(&mut *tx)
    .await
    .map_err(failed(doing.clone()))?;
    if left.is_some() {
        return Ok(false);
    }
    fence::set_mode(&mut tx, table, "erasing", permit.epoch()).await?;
    statement(format!("TRUNCATE {}", table.quoted())).execute(&mut *tx).await.map_err(failed(doing.clone()))?;
    fence::set_mode(&mut tx, table, &row.mode, permit.epoch()).await?;
    commit(tx, &doing).await?;
    Ok(true)
}

/// Whether the planner may keep samples of the table as a whole. It has none of one that nobody ever analysed: the server itself
/// analyses partitions, and the whole never.
async fn is_sampled(connection: &mut PgConnection, table: &Table) -> Result<bool, PortError> {
    let doing = "look for the planner's samples";
    let mut tx = begin(connection, READING).await?;
    // Row security in force hides the samples too.
    let row = statement(
        "SELECT row_security_active($1::oid) OR EXISTS (SELECT FROM pg_stats WHERE schemaname = $2 AND tablename = $3)
             OR EXISTS (SELECT FROM pg_statistic_ext WHERE stxrelid = $1::oid)",
    )
    .bind(table.oid)
    .bind(table.schema.clone())
    .bind(table.relation.clone())
    .fetch_one(&mut *tx)
    .await
    .map_err(failed(doing))?;
    Ok(row.get(0))
}

/// Draws the planner's samples of the table as a whole anew, and of no partition by itself: there may be thousands, and ANALYZE of the whole
/// looks through each. It passes over those that somebody has locked, so another connection locks what nobody else has, against no query
/// and no change of a record.
async fn analyse_whole(server: &Server, connection: &mut PgConnection, table: &Table) -> Result<(), PortError> {
    let doing = format!("analyse table {}", table.resource());
    let mut beside = connect(server).await?;
    let mut locked = begin(&mut beside, WRITING).await?;
    let lock = format!(
        "DO $$
         DECLARE part regclass;
         BEGIN
            FOR part IN SELECT relid FROM pg_partition_tree({}::oid::regclass) WHERE level > 0 LOOP
                BEGIN
                    EXECUTE format('LOCK TABLE ONLY %s IN SHARE UPDATE EXCLUSIVE MODE NOWAIT', part);
                EXCEPTION WHEN lock_not_available OR insufficient_privilege OR undefined_table THEN
                    NULL; -- passed over too, or looked through
                END;
            END LOOP;
         END $$",
        table.oid
    );
    statement(lock).execute(&mut *locked).await.map_err(failed(doing.clone()))?;
    let mut tx = begin(connection, WRITING).await?;
    // Ours, so that the whole is not passed over.
    for sql in [
        format!("LOCK TABLE ONLY {} IN SHARE UPDATE EXCLUSIVE MODE", table.quoted()),
        format!("ANALYZE (SKIP_LOCKED) {}", table.quoted()),
    ] {
        tx.execute(AssertSqlSafe(sql)).await.map_err(failed(doing.clone()))?;
    }
    commit(tx, &doing).await?;
    drop(locked);
    close(beside).await;
    Ok(())
}

/// Columns of an empty table of which the planner still keeps samples.
async fn sampled(connection: &mut PgConnection, table: &Table) -> Result<i64, PortError> {
    let doing = "look at the planner's samples";
    let mut tx = begin(connection, READING).await?;
    let row = statement(format!(
        "SELECT count(*) FROM pg_stats WHERE schemaname = $1 AND tablename = $2 AND NOT EXISTS (SELECT FROM {})
           AND (most_common_vals IS NOT NULL OR histogram_bounds IS NOT NULL OR most_common_elems IS NOT NULL)",
        table.quoted()
    ))
    .bind(table.schema.clone())
    .bind(table.relation.clone())
    .fetch_one(&mut *tx)
    .await
    .map_err(failed(doing))?;
    Ok(row.get(0))
}
