//! For tests: whether the database can prepare every statement that this crate has.

use sqlx::{AssertSqlSafe, Executor, SqlSafeStr};

use crate::{
    access, approvers, archive_keys, archives, break_glass, cases, certificates, db,
    db::Tx,
    deadlines, decisions, dependents, findings, idempotency, locks, log,
    many::Many,
    notices, offboardings, parties, personal, planes, probes, query, queue, release,
    sql::{Inner, Sql},
    suspensions, trail, verify, witness,
};

static STATEMENTS: &[&[&Sql]] = &[
    access::STATEMENTS,
    approvers::STATEMENTS,
    archive_keys::STATEMENTS,
    archives::STATEMENTS,
    break_glass::STATEMENTS,
    cases::STATEMENTS,
    certificates::STATEMENTS,
    db::STATEMENTS,
    deadlines::STATEMENTS,
    decisions::STATEMENTS,
    dependents::STATEMENTS,
    findings::STATEMENTS,
    idempotency::STATEMENTS,
    locks::STATEMENTS,
    notices::STATEMENTS,
    offboardings::STATEMENTS,
    parties::STATEMENTS,
    personal::STATEMENTS,
    planes::STATEMENTS,
    probes::STATEMENTS,
    queue::STATEMENTS,
    release::STATEMENTS,
    suspensions::STATEMENTS,
    trail::STATEMENTS,
    verify::STATEMENTS,
    witness::STATEMENTS,
];
static BATCHES: &[&[&Many]] = &[
    archives::BATCHES,
    locks::BATCHES,
    log::BATCHES,
    offboardings::BATCHES,
    personal::BATCHES,
    planes::BATCHES,
    queue::BATCHES,
    trail::BATCHES,
];

impl Tx {
    /// Prepares every statement; answers how many there are, and what the database says against some.
    pub async fn prepare_all(&mut self) -> (usize, Vec<String>) {
        let on_sqlite = matches!(self.inner, Inner::Sqlite(_));
        let mut texts: Vec<(&str, String)> = Vec::new();
        for sql in STATEMENTS.iter().chain(log::ALL).chain(query::STATEMENTS).copied().flatten() {
            texts.push((sql.doing, if on_sqlite { sql.sqlite.into() } else { sql.postgres.into() }));
        }
        for many in BATCHES.iter().copied().flatten() {
            texts.push((many.doing, if on_sqlite { many.sqlite(2) } else { many.postgres(1, None) }));
        }
        let number = texts.len();
        let mut wrong = Vec::new();
        for (doing, text) in texts {
            let sql = AssertSqlSafe(text.clone()).into_sql_str();
            let prepared = match &mut self.inner {
                // A batch may be PostgreSQL's alone.
                Inner::Sqlite(_) if ["UPDATE chains AS c", "INTO trail_tally"].iter().any(|only| text.contains(only)) => Ok(()),
                Inner::Sqlite(tx) => tx.prepare(sql).await.map(drop),
                Inner::Postgres { tx, .. } => {
                    let marked = tx.execute("SAVEPOINT preparing").await.map(drop);
                    let prepared = tx.prepare(sql).await.map(drop);
                    let undone = tx.execute("ROLLBACK TO SAVEPOINT preparing").await.map(drop);
                    marked.and(prepared).and(undone)
                }
            };
            if let Err(error) = prepared {
                wrong.push(format!("{doing}: {error}: {text}"));
            }
        }
        (number, wrong)
    }
}
