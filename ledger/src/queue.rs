//! Stage runs: the queue, and after that the history. A row is the durable job; there is no second queue to disagree with it.
//!
//! The rule: a run is claimed by raising the plane's epoch, and whatever is recorded of it names the epoch of its claim. If we die with
//! a run claimed, its lease runs out (or its dead owner's lock file is free) and the sweep takes it back.

use chrono::{DateTime, Utc};
use lethe_stages::{Refusal, Step};
use serde::Serialize;
use serde_json::Value as Json;
use sqlx::sqlite::SqliteRow;
use uuid::Uuid;

use crate::{
    db::Tx,
    fault::Fault,
    rows::{Cells, one, to_json, us},
};

lethe_stages::text_enum! {
    /// Where a run stands.
    RunStatus {
        /// It has a due time.
        Queued = "queued",
        /// It waits for a change of facts.
        Parked = "parked",
        /// It is leased to a worker.
        Running = "running",
        /// It established what it had to.
        Succeeded = "succeeded",
        /// An operator must act: retry, or cancel where that is still possible.
        Halted = "halted",
        /// The offboarding was cancelled.
        Withdrawn = "withdrawn",
    }
}

/// A durable job: one step of one offboarding.
#[derive(Debug, Clone, Serialize)]
pub struct Run {
    /// Its identity.
    pub id: Uuid,
    /// The offboarding.
    pub offboarding_id: Uuid,
    /// The plane.
    pub plane_id: Uuid,
    /// The tenant.
    pub tenant_id: Uuid,
    /// What it does.
    pub step: Step,
    /// Where it stands.
    pub status: RunStatus,
    /// When it may be claimed.
    pub due_at: Option<DateTime<Utc>>,
    /// What it waits for.
    pub waits_for: Option<String>,
    /// Failures recorded.
    pub attempt: i64,
    /// Leases that ran out.
    pub interruptions: i64,
    /// The epoch of its claim.
    pub epoch: Option<i64>,
    /// The worker it is leased to.
    pub lease_owner: Option<String>,
    /// Until when.
    pub lease_until: Option<DateTime<Utc>>,
    /// How far the handler is.
    pub progress: Option<Json>,
    /// The refusal on record.
    pub blocked: Option<Refusal>,
    /// The last failure.
    pub last_error: Option<Json>,
    /// What it established.
    pub evidence: Option<Json>,
    /// When it was inserted.
    pub enqueued_at: DateTime<Utc>,
    /// When it was first claimed.
    pub started_at: Option<DateTime<Utc>>,
    /// When it ended.
    pub finished_at: Option<DateTime<Utc>>,
}

/// A lease on a claimed run.
#[derive(Debug, Clone)]
pub struct Lease {
    /// The worker.
    pub owner: String,
    /// Until when.
    pub until: DateTime<Utc>,
}

/// What becomes of a run that is settled.
#[derive(Debug, Clone)]
pub enum Settlement {
    /// It is done.
    Succeeded(Json),
    /// It is to be claimed again at an instant; nothing is spent.
    Postponed {
        /// When.
        due_at: DateTime<Utc>,
        /// Why, if a refusal stands in the way.
        blocked: Option<Refusal>,
    },
    /// It waits until a fact changes; nothing is spent.
    Parked(Refusal),
    /// It failed and is tried again; one attempt is spent.
    Failed {
        /// When it is tried again.
        due_at: DateTime<Utc>,
        /// The failure.
        error: Json,
    },
    /// Its lease ran out; one interruption is counted.
    Interrupted {
        /// When it is tried again.
        due_at: DateTime<Utc>,
    },
    /// It needs an operator. `attempts` are spent by it: 1 for a failure, 0 otherwise.
    Halted {
        /// The failure.
        error: Json,
        /// Attempts spent.
        attempts: i64,
    },
    /// The offboarding was cancelled.
    Withdrawn,
}

pub(crate) fn run(cells: &Cells<'_>) -> Result<Run, Fault> {
    Ok(Run {
        id: cells.parsed("id")?,
        offboarding_id: cells.parsed("offboarding_id")?,
        plane_id: cells.parsed("plane_id")?,
        tenant_id: cells.parsed("tenant_id")?,
        step: cells.parsed("step")?,
        status: cells.parsed("status")?,
        due_at: cells.maybe_at("due_at")?,
        waits_for: cells.get("waits_for")?,
        attempt: cells.get("attempt")?,
        interruptions: cells.get("interruptions")?,
        epoch: cells.get("epoch")?,
        lease_owner: cells.get("lease_owner")?,
        lease_until: cells.maybe_at("lease_until")?,
        progress: cells.json("progress")?,
        blocked: cells.json("blocked")?,
        last_error: cells.json("last_error")?,
        evidence: cells.json("evidence")?,
        enqueued_at: cells.at("enqueued_at")?,
        started_at: cells.maybe_at("started_at")?,
        finished_at: cells.maybe_at("finished_at")?,
    })
}

pub(crate) fn run_row(row: &SqliteRow) -> Result<Run, Fault> {
    run(&Cells::new(row, "stage_runs", "id"))
}

impl Tx {
    /// Inserts a run, due at an instant.
    pub async fn enqueue(
        &mut self,
        offboarding: Uuid,
        plane: Uuid,
        tenant: Uuid,
        step: Step,
        due_at: DateTime<Utc>,
    ) -> Result<Uuid, Fault> {
        let id = self.new_id();
        let at = us(self.at());
        let done = sqlx::query(
            "INSERT INTO stage_runs (id, offboarding_id, plane_id, tenant_id, step, status, due_at, attempt, interruptions, enqueued_at)
             VALUES (?, ?, ?, ?, ?, 'queued', ?, 0, 0, ?)",
        )
        .bind(id.to_string())
        .bind(offboarding.to_string())
        .bind(plane.to_string())
        .bind(tenant.to_string())
        .bind(step.as_str())
        .bind(us(due_at))
        .bind(at)
        .execute(self.connection())
        .await;
        one("enqueue a run", done.map_err(Fault::database("enqueue a run"))?)?;
        Ok(id)
    }

    /// Leases a queued run under an epoch that the caller has just raised.
    pub async fn lease(&mut self, run: Uuid, epoch: i64, lease: &Lease) -> Result<(), Fault> {
        let at = us(self.at());
        let done = sqlx::query(
            "UPDATE stage_runs SET status = 'running', due_at = NULL, blocked = NULL, progress = NULL, epoch = ?, lease_owner = ?,
                lease_until = ?, started_at = coalesce(started_at, ?)
             WHERE id = ? AND status = 'queued'",
        )
        .bind(epoch)
        .bind(&lease.owner)
        .bind(us(lease.until))
        .bind(at)
        .bind(run.to_string())
        .execute(self.connection())
        .await;
        one("lease a run", done.map_err(Fault::database("lease a run"))?)
    }

    /// Renews the leases among `runs` (with the epoch of each claim) that are still the owner's; answers those that are.
    pub async fn renew(&mut self, runs: &[(Uuid, i64, Option<Json>)], lease: &Lease) -> Result<Vec<Uuid>, Fault> {
        let mut mine = Vec::new();
        for (id, epoch, progress) in runs {
            let done = sqlx::query(
                "UPDATE stage_runs SET lease_until = ?, progress = coalesce(?, progress)
                 WHERE id = ? AND status = 'running' AND epoch = ? AND lease_owner = ?",
            )
            .bind(us(lease.until))
            .bind(progress.as_ref().map(|progress| progress.to_string()))
            .bind(id.to_string())
            .bind(epoch)
            .bind(&lease.owner)
            .execute(self.connection())
            .await
            .map_err(Fault::database("renew a lease"))?;
            if done.rows_affected() == 1 {
                mine.push(*id);
            }
        }
        Ok(mine)
    }

    /// Settles a run that is in the status the caller read in this transaction.
    pub async fn settle(&mut self, run: &Run, settlement: &Settlement) -> Result<(), Fault> {
        let at = self.at();
        let mut next = Next { status: RunStatus::Queued, ..Next::default() };
        match settlement {
            Settlement::Succeeded(evidence) => {
                next = Next { status: RunStatus::Succeeded, evidence: Some(evidence), finished: true, ..next };
            }
            Settlement::Postponed { due_at, blocked } => {
                next = Next { due_at: Some(*due_at), blocked: blocked.as_ref(), ..next };
            }
            Settlement::Parked(refusal) => {
                let waits_for = Some(refusal.code.as_str());
                next = Next { status: RunStatus::Parked, waits_for, blocked: Some(refusal), ..next };
            }
            Settlement::Failed { due_at, error } => {
                next = Next { due_at: Some(*due_at), error: Some(error), attempts: 1, ..next };
            }
            Settlement::Interrupted { due_at } => next = Next { due_at: Some(*due_at), interruptions: 1, ..next },
            Settlement::Halted { error, attempts } => {
                next = Next { status: RunStatus::Halted, error: Some(error), attempts: *attempts, finished: true, ..next };
            }
            Settlement::Withdrawn => next = Next { status: RunStatus::Withdrawn, finished: true, ..next },
        }
        let done = sqlx::query(
            "UPDATE stage_runs SET status = ?, due_at = ?, waits_for = ?, blocked = ?, evidence = ?, last_error = coalesce(?, last_error),
                attempt = attempt + ?, interruptions = interruptions + ?, finished_at = ?, lease_owner = NULL, lease_until = NULL
             WHERE id = ? AND status = ? AND epoch IS ?",
        )
        .bind(next.status.as_str())
        .bind(next.due_at.map(us))
        .bind(next.waits_for)
        .bind(next.blocked.map(to_json))
        .bind(next.evidence.map(|evidence| evidence.to_string()))
        .bind(next.error.map(|error| error.to_string()))
        .bind(next.attempts)
        .bind(next.interruptions)
        .bind(next.finished.then(|| us(at)))
        .bind(run.id.to_string())
        .bind(run.status.as_str())
        .bind(run.epoch)
        .execute(self.connection())
        .await;
        one("settle a run", done.map_err(Fault::database("settle a run"))?)
    }

    /// Queues a halted run again, now, with its attempts and interruptions reset.
    pub async fn retry_run(&mut self, run: &Run) -> Result<(), Fault> {
        let at = us(self.at());
        let done = sqlx::query(
            "UPDATE stage_runs SET status = 'queued', due_at = ?, attempt = 0, interruptions = 0, finished_at = NULL, blocked = NULL
             WHERE id = ? AND status = 'halted'",
        )
        .bind(at)
        .bind(run.id.to_string())
        .execute(self.connection())
        .await;
        one("retry a run", done.map_err(Fault::database("retry a run"))?)
    }

    /// Runs whose lease has run out.
    pub async fn expired_leases(&mut self) -> Result<Vec<Run>, Fault> {
        let at = us(self.at());
        self.select_runs("SELECT * FROM stage_runs WHERE status = 'running' AND lease_until <= ?", at.to_string(), true).await
    }

    /// Runs leased to a worker.
    pub async fn leased_to(&mut self, owner: &str) -> Result<Vec<Run>, Fault> {
        self.select_runs("SELECT * FROM stage_runs WHERE status = 'running' AND lease_owner = ?", owner.to_owned(), false).await
    }

    /// The workers that hold leases.
    pub async fn lease_owners(&mut self) -> Result<Vec<String>, Fault> {
        sqlx::query_scalar("SELECT DISTINCT lease_owner FROM stage_runs WHERE status = 'running'")
            .fetch_all(self.connection())
            .await
            .map_err(Fault::database("list lease owners"))
    }

    /// The runs of an offboarding, the oldest first.
    pub async fn runs_of(&mut self, offboarding: Uuid) -> Result<Vec<Run>, Fault> {
        self.select_runs("SELECT * FROM stage_runs WHERE offboarding_id = ? ORDER BY rowid", offboarding.to_string(), false).await
    }

    /// The plane's run that is not finished, halted ones included.
    pub async fn open_run(&mut self, plane: Uuid) -> Result<Option<Run>, Fault> {
        let open = "SELECT * FROM stage_runs WHERE plane_id = ? AND status IN ('queued', 'parked', 'running', 'halted')";
        Ok(self.select_runs(open, plane.to_string(), false).await?.pop())
    }

    async fn select_runs(&mut self, statement: &'static str, key: String, number: bool) -> Result<Vec<Run>, Fault> {
        let query = sqlx::query(statement);
        let query = if number { query.bind(key.parse::<i64>().unwrap_or_default()) } else { query.bind(key) };
        let rows = query.fetch_all(self.connection()).await.map_err(Fault::database("read runs"))?;
        rows.iter().map(run_row).collect()
    }

    /// When the next queued run is due, in the past if it already is.
    pub async fn next_due(&mut self) -> Result<Option<DateTime<Utc>>, Fault> {
        let due: Option<i64> =
            sqlx::query_scalar("SELECT due_at FROM stage_runs WHERE status = 'queued' ORDER BY due_at LIMIT 1")
                .fetch_optional(self.connection())
                .await
                .map_err(Fault::database("read the next due time"))?;
        Ok(due.and_then(DateTime::from_timestamp_micros))
    }

    /// Purges first claimed since an instant.
    pub async fn purges_since(&mut self, since: DateTime<Utc>) -> Result<i64, Fault> {
        sqlx::query_scalar("SELECT count(*) FROM stage_runs WHERE step = 'purge' AND started_at > ?")
            .bind(us(since))
            .fetch_one(self.connection())
            .await
            .map_err(Fault::database("count recent purges"))
    }

    /// Makes the plane's run due now if it waits for one of `codes`. Answers whether it did.
    pub async fn wake(&mut self, plane: Uuid, codes: &[lethe_stages::Code]) -> Result<bool, Fault> {
        let at = us(self.at());
        let codes: Vec<_> = codes.iter().map(|code| code.as_str()).collect();
        let done = sqlx::query(
            "UPDATE stage_runs SET status = 'queued', due_at = ?1, waits_for = NULL
             WHERE plane_id = ?2 AND (status = 'parked' AND waits_for IN (SELECT value FROM json_each(?3))
                OR status = 'queued' AND due_at > ?1 AND blocked ->> 'code' IN (SELECT value FROM json_each(?3)))",
        )
        .bind(at)
        .bind(plane.to_string())
        .bind(to_json(&codes))
        .execute(self.connection())
        .await
        .map_err(Fault::database("wake a run"))?;
        Ok(done.rows_affected() > 0)
    }

    /// Makes every parked run due now whose reason no longer stands: released holds, ended usage, lifted pauses, standing approvals,
    /// tenants back in business. What wakes them at once is the operation that changes the fact; this is the reconciler behind it.
    pub async fn wake_settled(&mut self) -> Result<u64, Fault> {
        let at = us(self.at());
        let done = sqlx::query(
            "UPDATE stage_runs AS r SET status = 'queued', due_at = ?1, waits_for = NULL WHERE status = 'parked' AND (
                waits_for = 'HOLD_ACTIVE' AND NOT EXISTS (SELECT 1 FROM holds h JOIN planes p ON p.id = r.plane_id
                    WHERE h.released_at IS NULL AND h.subject_id IN (p.id, p.tenant_id))
                OR waits_for IN ('ACTIVE_REFERENCES', 'ACTIVE_USAGE') AND NOT EXISTS (SELECT 1 FROM plane_usage u
                    WHERE u.plane_id = r.plane_id AND u.closed_at IS NULL AND u.expires_at > ?1
                    AND (u.kind = 'run' OR waits_for = 'ACTIVE_USAGE'))
                OR waits_for IN ('APPROVAL_REQUIRED', 'APPROVAL_EXPIRED', 'APPROVAL_DENIED', 'PLAN_CHANGED') AND EXISTS (SELECT 1
                    FROM approvals a WHERE a.offboarding_id = r.offboarding_id AND a.status = 'granted' AND a.expires_at > ?1)
                OR waits_for = 'CLOCK_SUSPECT' AND NOT EXISTS (SELECT 1 FROM witness WHERE clock_suspect_since IS NOT NULL)
                OR waits_for = 'LEDGER_BEHIND' AND NOT EXISTS (SELECT 1 FROM witness WHERE behind_since IS NOT NULL)
                OR waits_for = 'USAGE_UNKNOWN' AND EXISTS (SELECT 1 FROM planes p WHERE p.id = r.plane_id AND p.usage_reported = 1)
                OR waits_for = 'PAUSED' AND NOT EXISTS (SELECT 1 FROM pauses)
                OR waits_for = 'TENANT_NOT_ACTIVE' AND EXISTS (SELECT 1 FROM tenants t WHERE t.id = r.tenant_id AND t.status = 'active'))",
        )
        .bind(at)
        .execute(self.connection())
        .await
        .map_err(Fault::database("wake settled runs"))?;
        Ok(done.rows_affected())
    }

    /// Makes every run due now that waits for a pause to be lifted; those still paused park again.
    pub async fn wake_paused(&mut self) -> Result<u64, Fault> {
        let at = us(self.at());
        let done = sqlx::query("UPDATE stage_runs SET status = 'queued', due_at = ?, waits_for = NULL WHERE status = 'parked' AND waits_for = 'PAUSED'")
            .bind(at)
            .execute(self.connection())
            .await
            .map_err(Fault::database("wake paused runs"))?;
        Ok(done.rows_affected())
    }
}

/// The columns a settlement sets.
struct Next<'a> {
    status: RunStatus,
    due_at: Option<DateTime<Utc>>,
    waits_for: Option<&'static str>,
    blocked: Option<&'a Refusal>,
    evidence: Option<&'a Json>,
    error: Option<&'a Json>,
    attempts: i64,
    interruptions: i64,
    finished: bool,
}

impl Default for Next<'_> {
    fn default() -> Self {
        Self {
            status: RunStatus::Queued,
            due_at: None,
            waits_for: None,
            blocked: None,
            evidence: None,
            error: None,
            attempts: 0,
            interruptions: 0,
            finished: false,
        }
    }
}
