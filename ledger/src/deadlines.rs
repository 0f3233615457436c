//! Legal deadlines of offboardings: computed once when they are requested, extended once at most, closed with them.
//!
//! The rule: a date does not move but by the extension that was frozen with it; the schema refuses anything else.
//! If we die in it, the transaction did not happen.

use chrono::{DateTime, NaiveDate, Utc};
use serde::Serialize;
use uuid::Uuid;

use crate::{
    cases::Case,
    db::Tx,
    fault::Fault,
    rows::Cells,
    sql::{Row, statements},
};

/// A last day, in the time zone in which it is counted, and the instant at which it is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct DueDay {
    /// The day.
    pub on: NaiveDate,
    /// When it is over.
    pub at: DateTime<Utc>,
}

/// A deadline, computed and not yet kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NewDeadline {
    /// Which law's rule it is, as the configuration names it; `own`: a date that the caller named.
    pub law: String,
    /// In whose days it is counted, by its IANA name.
    pub zone: String,
    /// The last day.
    pub first: DueDay,
    /// The last day if it is extended; `None`: it cannot be.
    pub extension: Option<DueDay>,
}

/// A deadline.
#[derive(Debug, Clone, Serialize)]
pub struct Deadline {
    /// What must be done by then.
    pub offboarding_id: Uuid,
    /// See [`NewDeadline::law`].
    pub law: String,
    /// See [`NewDeadline::zone`].
    pub zone: String,
    /// The last day that is in force.
    pub due_on: NaiveDate,
    /// When it is over.
    pub due_at: DateTime<Utc>,
    /// The last day as it was computed first.
    pub first_due_on: NaiveDate,
    /// To which day it can still be extended.
    pub extendable_to: Option<NaiveDate>,
    /// When that day is over.
    #[serde(skip)]
    pub extension_due_at: Option<DateTime<Utc>>,
    /// When it was extended.
    pub extended_at: Option<DateTime<Utc>>,
    /// When the person concerned was told so.
    pub told_at: Option<DateTime<Utc>>,
    /// When the offboarding was cancelled or completed.
    pub closed_at: Option<DateTime<Utc>>,
}

fn deadline(row: &Row) -> Result<Deadline, Fault> {
    let cells = Cells::new(row, "deadlines", "offboarding_id");
    let extended_at = cells.maybe_at("extended_at")?;
    let first_due_on = cells.parsed("first_due_on")?;
    let extension: Option<NaiveDate> = match cells.get::<Option<&str>>("extension_due_on")? {
        Some(_) => Some(cells.parsed("extension_due_on")?),
        None => None,
    };
    Ok(Deadline {
        offboarding_id: cells.id("offboarding_id")?,
        law: cells.get("law")?,
        zone: cells.get("zone")?,
        due_on: if extended_at.is_some() { extension.unwrap_or(first_due_on) } else { first_due_on },
        due_at: cells.at("due_at")?,
        first_due_on,
        extendable_to: extension.filter(|_| extended_at.is_none()),
        extension_due_at: cells.maybe_at("extension_due_at")?,
        extended_at,
        told_at: cells.maybe_at("told_at")?,
        closed_at: cells.maybe_at("closed_at")?,
    })
}

statements! {
    KEEP = "keep a deadline",
        "INSERT INTO deadlines (offboarding_id, law, zone, first_due_on, first_due_at, extension_due_on, extension_due_at, due_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $5)";
    OF = "read a deadline", "SELECT * FROM deadlines WHERE offboarding_id = $1";
    EXTEND = "extend a deadline",
        "UPDATE deadlines SET due_at = extension_due_at, extended_at = $2, extended_by = $3, extension_reason = $4, told_at = $5
         WHERE offboarding_id = $1 AND extended_at IS NULL AND extension_due_at IS NOT NULL AND closed_at IS NULL";
    CLOSE = "close a deadline", "UPDATE deadlines SET closed_at = $2 WHERE offboarding_id = $1 AND closed_at IS NULL";
    // The nearest, of everybody or of one tenant; an offboarding has one run that is not over, or is being recorded.
    NEAR = "read deadlines that are near",
        "SELECT d.*, r.id AS run_id FROM deadlines d JOIN offboardings o ON o.id = d.offboarding_id
            LEFT JOIN stage_runs r ON r.plane_id = o.plane_id AND r.status IN ('queued', 'parked', 'running', 'halted')
         WHERE d.closed_at IS NULL AND d.due_at < $1 AND ($2 IS NULL OR o.tenant_id = $2) ORDER BY d.due_at, d.offboarding_id LIMIT $3",
        "SELECT d.*, r.id AS run_id FROM deadlines d JOIN offboardings o ON o.id = d.offboarding_id
            LEFT JOIN stage_runs r ON r.plane_id = o.plane_id AND r.status IN ('queued', 'parked', 'running', 'halted')
         WHERE d.closed_at IS NULL AND d.due_at < $1 AND ($2::uuid IS NULL OR o.tenant_id = $2)
         ORDER BY d.due_at, d.offboarding_id LIMIT $3";
    HALTED = "read deadlines whose work stands still",
        "SELECT d.*, r.id AS run_id FROM stage_runs r JOIN deadlines d ON d.offboarding_id = r.offboarding_id
         WHERE r.status = 'halted' AND d.closed_at IS NULL AND d.due_at >= $1 AND ($2 IS NULL OR r.tenant_id = $2)
         ORDER BY d.due_at, d.offboarding_id LIMIT $3",
        "SELECT d.*, r.id AS run_id FROM stage_runs r JOIN deadlines d ON d.offboarding_id = r.offboarding_id
         WHERE r.status = 'halted' AND d.closed_at IS NULL AND d.due_at >= $1 AND ($2::uuid IS NULL OR r.tenant_id = $2)
         ORDER BY d.due_at, d.offboarding_id LIMIT $3";
    STALLED = "count runs that nobody takes",
        "SELECT count(*) AS runs, min(due_at) AS since FROM
            (SELECT due_at FROM stage_runs WHERE status = 'queued' AND due_at < $1 ORDER BY due_at LIMIT $2) late";
}

/// Runs that have been due for long and that nobody has taken.
#[derive(Debug, Clone, Copy)]
pub struct Stalled {
    /// How many; counted up to a limit.
    pub runs: i64,
    /// Since when the first of them is due.
    pub since: DateTime<Utc>,
}

/// A deadline that is open, with the run that it waits for.
pub struct Near {
    /// The deadline.
    pub deadline: Deadline,
    /// The run, with its facts; `None` between two of them.
    pub case: Option<Case>,
}

impl Tx {
    /// Keeps the deadline of an offboarding that is being opened.
    pub async fn keep_deadline(&mut self, offboarding: Uuid, new: &NewDeadline) -> Result<(), Fault> {
        let keep = self.sql(&KEEP).bind(offboarding).bind(&new.law).bind(&new.zone).bind(new.first.on.to_string());
        let keep = keep.bind(new.first.at).bind(new.extension.map(|due| due.on.to_string()));
        keep.bind(new.extension.map(|due| due.at)).one().await
    }

    /// The deadline of an offboarding, if the law or its requester named one.
    pub async fn deadline(&mut self, offboarding: Uuid) -> Result<Option<Deadline>, Fault> {
        self.sql(&OF).bind(offboarding).optional().await?.as_ref().map(deadline).transpose()
    }

    /// Extends an open deadline that can be extended.
    pub async fn extend_deadline(
        &mut self,
        offboarding: Uuid,
        told_at: DateTime<Utc>,
        by: &str,
        reason: &str,
    ) -> Result<(), Fault> {
        let at = self.at();
        self.sql(&EXTEND).bind(offboarding).bind(at).bind(by).bind(reason).bind(told_at).one().await
    }

    /// Closes the deadline of an offboarding that ends, if it has one.
    pub(crate) async fn close_deadline(&mut self, offboarding: Uuid) -> Result<(), Fault> {
        let at = self.at();
        self.sql(&CLOSE).bind(offboarding).bind(at).run().await.map(drop)
    }

    /// Open deadlines before `until`, the nearest first, and after them those whose work stands still; at most `limit`, of one tenant
    /// or of all.
    pub async fn near_deadlines(&mut self, until: DateTime<Utc>, tenant: Option<Uuid>, limit: usize) -> Result<Vec<Near>, Fault> {
        let most = limit as i64;
        let mut rows = self.sql(&NEAR).bind(until).bind(tenant).bind(most).all().await?;
        if rows.len() < limit {
            let left = (limit - rows.len()) as i64;
            rows.extend(self.sql(&HALTED).bind(until).bind(tenant).bind(left).all().await?);
        }
        let mut found = Vec::with_capacity(rows.len());
        for row in &rows {
            found.push((deadline(row)?, Cells::new(row, "deadlines", "offboarding_id").maybe_id("run_id")?));
        }
        let runs: Vec<Uuid> = found.iter().filter_map(|(_, run)| *run).collect();
        let mut cases: std::collections::HashMap<Uuid, Case> =
            self.cases(&runs).await?.into_iter().map(|case| (case.run.id, case)).collect();
        let near = |(deadline, run): (Deadline, Option<Uuid>)| Near { deadline, case: run.and_then(|run| cases.remove(&run)) };
        Ok(found.into_iter().map(near).collect())
    }

    /// Runs that have been due since before `since`; at most `limit` are counted.
    pub async fn stalled(&mut self, since: DateTime<Utc>, limit: i64) -> Result<Option<Stalled>, Fault> {
        let row = self.sql(&STALLED).bind(since).bind(limit).first().await?;
        let cells = Cells::new(&row, "stage_runs", "since");
        let runs: i64 = cells.get("runs")?;
        Ok(cells.maybe_at("since")?.map(|since| Stalled { runs, since }))
    }

    /// For tests: how the server would read what is due and what is to be told.
    #[cfg(feature = "testing")]
    pub async fn due_plans(&mut self, never_walk: bool) -> Result<Vec<(&'static str, Vec<String>)>, Fault> {
        let (at, nobody) = (self.at(), None::<Uuid>);
        let crate::sql::Inner::Postgres { tx, .. } = &mut self.inner else { return Ok(Vec::new()) };
        let walking = if never_walk { "SET LOCAL enable_seqscan = off" } else { "SET LOCAL enable_seqscan = on" };
        sqlx::query(walking).execute(&mut **tx).await.map_err(Fault::database("choose how to plan"))?;
        let mut plans = Vec::new();
        for (name, sql) in [("near deadlines", &NEAR), ("halted deadlines", &HALTED)] {
            let explain = sqlx::AssertSqlSafe(format!("EXPLAIN (COSTS OFF) {}", sql.postgres));
            let explain =
                sqlx::query_scalar(explain).bind(at).bind(nobody).bind(100_i64).persistent(false).fetch_all(&mut **tx).await;
            plans.push((name, explain.map_err(Fault::database("explain what is due"))?));
        }
        for (name, sql) in [("stalled", &STALLED), ("due notices", &crate::notices::DUE)] {
            let explain = sqlx::AssertSqlSafe(format!("EXPLAIN (COSTS OFF) {}", sql.postgres));
            let explain = sqlx::query_scalar(explain).bind(at).bind(100_i64).persistent(false).fetch_all(&mut **tx).await;
            plans.push((name, explain.map_err(Fault::database("explain what is due"))?));
        }
        Ok(plans)
    }
}
