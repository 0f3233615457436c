//! Stage runs: the queue, and after that the history. A row is the durable job; there is no second queue to disagree with it.
//!
//! The rule: a run is claimed by raising the plane's epoch, and whatever is recorded of it names the epoch of its claim. If we die with
//! a run claimed, its lease runs out (or its dead owner's lock file is free) and the sweep takes it back.

use chrono::{DateTime, Utc};
use lethe_stages::{Refusal, Step};
use serde::Serialize;
use serde_json::Value as Json;
use uuid::Uuid;

use crate::{
    db::Tx,
    fault::Fault,
    many::{Many, Script},
    rows::{Cells, to_json},
    sql::{self, Row, statements},
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
        id: cells.id("id")?,
        offboarding_id: cells.id("offboarding_id")?,
        plane_id: cells.id("plane_id")?,
        tenant_id: cells.id("tenant_id")?,
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

pub(crate) fn run_row(row: &Row) -> Result<Run, Fault> {
    run(&Cells::new(row, "stage_runs", "id"))
}

/// A run to insert.
#[derive(Debug, Clone)]
pub struct NewRun {
    /// The offboarding.
    pub offboarding_id: Uuid,
    /// The plane.
    pub plane_id: Uuid,
    /// The tenant.
    pub tenant_id: Uuid,
    /// What it does.
    pub step: Step,
    /// When it may be claimed.
    pub due_at: DateTime<Utc>,
}

/// A run as it is inserted: due at an instant, or leased already.
#[derive(Debug)]
pub(crate) struct Enqueued {
    id: Uuid,
    new: NewRun,
    leased: Option<(i64, Lease)>,
}

static ENQUEUE: Many = Many {
    doing: "enqueue a run",
    table: "stage_runs",
    before:
        "INSERT INTO stage_runs (id, offboarding_id, plane_id, tenant_id, step, status, due_at, epoch, lease_owner, lease_until,
            started_at, attempt, interruptions, enqueued_at)",
    after: "",
    types: &[
        "uuid",
        "uuid",
        "uuid",
        "uuid",
        "text",
        "text",
        "timestamptz",
        "bigint",
        "text",
        "timestamptz",
        "timestamptz",
        "bigint",
        "bigint",
        "timestamptz",
    ],
};

static RAISE: Many = Many {
    doing: "raise a plane's epoch",
    table: "planes",
    before: "WITH claim (plane_id, epoch) AS (",
    after: ") UPDATE planes SET epoch = claim.epoch FROM claim WHERE planes.id = claim.plane_id AND planes.epoch = claim.epoch - 1",
    types: &["uuid", "bigint"],
};

// `|| ''`: else it answers the condition of an index of all that wait, and PostgreSQL may walk that for each run.
static LEASE: Many = Many {
    doing: "lease a run",
    table: "stage_runs",
    before: "WITH claim (run_id, epoch, owner, until, at) AS (",
    after: ") UPDATE stage_runs AS r SET status = 'running', due_at = NULL, blocked = NULL, progress = NULL, epoch = claim.epoch,
            lease_owner = claim.owner, lease_until = claim.until, started_at = coalesce(started_at, claim.at)
        FROM claim WHERE r.id = claim.run_id AND r.status || '' = 'queued'",
    types: &["uuid", "bigint", "text", "timestamptz", "timestamptz"],
};

// `|| ''`: SQLite plans a statement anew at each call whose bound value it has compared with the condition of an index.
static SETTLE: Many = Many {
    doing: "settle a run",
    table: "stage_runs",
    before: "WITH answer (id, was, epoch, status, due_at, waits_for, blocked, evidence, error, attempts, interruptions, finished_at) AS (",
    after: ") UPDATE stage_runs AS r SET status = answer.status, due_at = answer.due_at, waits_for = answer.waits_for,
            blocked = answer.blocked, evidence = answer.evidence, last_error = coalesce(answer.error, r.last_error),
            attempt = r.attempt + answer.attempts, interruptions = r.interruptions + answer.interruptions,
            finished_at = answer.finished_at, lease_owner = NULL, lease_until = NULL
        FROM answer WHERE r.id = answer.id AND r.status = answer.was || '' AND r.epoch IS NOT DISTINCT FROM answer.epoch",
    types: &[
        "uuid",
        "text",
        "bigint",
        "text",
        "timestamptz",
        "text",
        "jsonb",
        "jsonb",
        "jsonb",
        "bigint",
        "bigint",
        "timestamptz",
    ],
};

impl Run {
    /// As it stands once it is leased.
    pub(crate) fn leased(&mut self, epoch: i64, lease: &Lease, at: DateTime<Utc>) {
        self.status = RunStatus::Running;
        self.due_at = None;
        self.blocked = None;
        self.progress = None;
        self.epoch = Some(epoch);
        self.lease_owner = Some(lease.owner.clone());
        self.lease_until = Some(lease.until);
        self.started_at = self.started_at.or(Some(at));
    }

    /// A run that follows another one, queued. It is in no ledger yet.
    pub(crate) fn new(id: Uuid, new: &NewRun, at: DateTime<Utc>) -> Self {
        Self {
            id,
            offboarding_id: new.offboarding_id,
            plane_id: new.plane_id,
            tenant_id: new.tenant_id,
            step: new.step,
            status: RunStatus::Queued,
            due_at: Some(new.due_at),
            waits_for: None,
            attempt: 0,
            interruptions: 0,
            epoch: None,
            lease_owner: None,
            lease_until: None,
            progress: None,
            blocked: None,
            last_error: None,
            evidence: None,
            enqueued_at: at,
            started_at: None,
            finished_at: None,
        }
    }
}

impl Enqueued {
    /// The run of a case that is in no ledger yet; leased at once, at the epoch named, if it is handed on.
    pub(crate) fn of(run: &Run, at: DateTime<Utc>, leased: Option<(i64, Lease)>) -> Self {
        let Run { id, offboarding_id, plane_id, tenant_id, step, due_at, .. } = run;
        let (offboarding_id, plane_id, tenant_id, step) = (*offboarding_id, *plane_id, *tenant_id, *step);
        let new = NewRun { offboarding_id, plane_id, tenant_id, step, due_at: due_at.unwrap_or(at) };
        Self { id: *id, new, leased }
    }

    /// The epoch to which it raises its plane, if it is leased.
    pub(crate) fn raises(&self) -> Option<(Uuid, i64)> {
        self.leased.as_ref().map(|(epoch, _)| (self.new.plane_id, *epoch))
    }
}

impl Tx {
    /// Inserts a run.
    pub async fn enqueue(&mut self, new: NewRun) -> Result<(), Fault> {
        let mut script = Script::default();
        let id = self.new_id();
        self.enqueue_all(vec![Enqueued { id, new, leased: None }], &mut script);
        self.run(script).await
    }

    /// Who calls it raises the planes of those that are leased.
    pub(crate) fn enqueue_all(&mut self, runs: Vec<Enqueued>, script: &mut Script) {
        let at = self.at();
        for run in runs.iter().filter(|run| run.leased.is_none()) {
            self.is_due(run.new.due_at);
        }
        script.add(&ENQUEUE, runs, move |query, Enqueued { id, new, leased }: Enqueued| {
            let status = if leased.is_some() { RunStatus::Running } else { RunStatus::Queued };
            let due_at = leased.is_none().then_some(new.due_at);
            let started_at = leased.is_some().then_some(at);
            let (epoch, lease) = leased.unzip();
            let (owner, until) = lease.map(|lease| (lease.owner, lease.until)).unzip();
            let query = query.bind(id).bind(new.offboarding_id).bind(new.plane_id).bind(new.tenant_id).bind(new.step.as_str());
            let query = query.bind(status.as_str()).bind(due_at).bind(epoch).bind(owner).bind(until).bind(started_at);
            query.bind(0).bind(0).bind(at)
        });
    }

    /// Leases queued runs, each of a plane whose epoch is thereby raised by one to the epoch named beside it.
    pub async fn lease(&mut self, runs: &[(&Run, i64)], lease: &Lease) -> Result<(), Fault> {
        let (at, until, owner) = (self.at(), lease.until, lease.owner.clone());
        let mut script = Script::default();
        let written = self.trail_all(&mut script);
        let planes = runs.iter().map(|(run, epoch)| (run.plane_id, *epoch)).collect();
        script.add(&RAISE, planes, |query, (plane, epoch): (Uuid, i64)| query.bind(plane).bind(epoch));
        let runs = runs.iter().map(|(run, epoch)| (run.id, *epoch)).collect();
        script.add(&LEASE, runs, move |query, (run, epoch): (Uuid, i64)| {
            query.bind(run).bind(epoch).bind(&owner).bind(until).bind(at)
        });
        self.count(written, &mut script);
        self.run(script).await
    }

    /// Renews the leases among `runs` (with the epoch of each claim) that are still the owner's; answers those that are.
    pub async fn renew(&mut self, runs: &[(Uuid, i64, Option<Json>)], lease: &Lease) -> Result<Vec<Uuid>, Fault> {
        // In the order in which everybody locks runs.
        let mut runs: Vec<_> = runs.iter().collect();
        runs.sort_by_key(|(id, ..)| *id);
        let mut mine = Vec::new();
        for (id, epoch, progress) in runs {
            let progress = progress.as_ref().map(|progress| sql::Json(progress.to_string()));
            let renew = self.sql(&RENEW).bind(*id).bind(*epoch).bind(&lease.owner).bind(lease.until).bind(progress);
            if renew.run().await? == 1 {
                mine.push(*id);
            }
        }
        Ok(mine)
    }

    /// Settles a run that is in the status the caller read in this transaction.
    pub async fn settle(&mut self, run: &Run, settlement: &Settlement) -> Result<(), Fault> {
        let mut script = Script::default();
        self.settle_all(vec![Settled::of(run, settlement)], &mut script);
        self.run(script).await
    }

    pub(crate) fn settle_all(&mut self, settled: Vec<Settled>, script: &mut Script) {
        let at = self.at();
        settled.iter().filter_map(|row| row.due_at).for_each(|due_at| self.is_due(due_at));
        script.add(&SETTLE, settled, move |query, row: Settled| {
            let query = query.bind(row.id).bind(row.was.as_str()).bind(row.epoch);
            let query = query.bind(row.status.as_str()).bind(row.due_at).bind(row.waits_for).bind(row.blocked.map(sql::Json));
            let query = query.bind(row.evidence.map(sql::Json)).bind(row.error.map(sql::Json)).bind(row.attempts);
            query.bind(row.interruptions).bind(row.finished.then_some(at))
        });
    }

    /// Queues a halted run again, now, with its attempts and interruptions reset.
    pub async fn retry_run(&mut self, run: &Run) -> Result<(), Fault> {
        let at = self.at();
        self.is_due(at);
        self.sql(&RETRY).bind(run.id).bind(at).one().await
    }

    /// Runs whose lease has run out.
    pub async fn expired_leases(&mut self) -> Result<Vec<Run>, Fault> {
        let at = self.at();
        self.sql(&EXPIRED).bind(at).all().await?.iter().map(run_row).collect()
    }

    /// Runs leased to a worker.
    pub async fn leased_to(&mut self, owner: &str) -> Result<Vec<Run>, Fault> {
        self.sql(&LEASED_TO).bind(owner).all().await?.iter().map(run_row).collect()
    }

    /// The workers that hold leases.
    pub async fn lease_owners(&mut self) -> Result<Vec<String>, Fault> {
        let rows = self.sql(&OWNERS).all().await?;
        rows.iter().map(|row| Cells::new(row, "stage_runs", "lease_owner").get("lease_owner")).collect()
    }

    /// The runs of an offboarding, the oldest first.
    pub async fn runs_of(&mut self, offboarding: Uuid) -> Result<Vec<Run>, Fault> {
        self.sql(&RUNS_OF).bind(offboarding).all().await?.iter().map(run_row).collect()
    }

    /// The plane's run that is not finished, halted ones included.
    pub async fn open_run(&mut self, plane: Uuid) -> Result<Option<Run>, Fault> {
        self.sql(&OPEN).bind(plane).optional().await?.as_ref().map(run_row).transpose()
    }

    /// When the next queued run is due, in the past if it already is.
    pub async fn next_due(&mut self) -> Result<Option<DateTime<Utc>>, Fault> {
        let row = self.sql(&NEXT_DUE).optional().await?;
        row.map(|row| Cells::new(&row, "stage_runs", "due_at").at("due_at")).transpose()
    }

    /// Purges first claimed since an instant. Until this transaction ends, nobody else counts them.
    pub async fn purges_since(&mut self, since: DateTime<Utc>) -> Result<i64, Fault> {
        self.lock_purges().await?;
        let row = self.sql(&PURGES).bind(since).first().await?;
        Cells::new(&row, "stage_runs", "purges").get("purges")
    }

    /// Makes a step of the plane due now that is queued for later.
    pub async fn hasten(&mut self, plane: Uuid, step: Step) -> Result<(), Fault> {
        let at = self.at();
        if self.sql(&HASTEN).bind(at).bind(plane).bind(step.as_str()).run().await? > 0 {
            self.is_due(at);
        }
        Ok(())
    }

    /// Makes the plane's run due now if it waits for one of `codes`. Answers whether it did.
    pub async fn wake(&mut self, plane: Uuid, codes: &[lethe_stages::Code]) -> Result<bool, Fault> {
        let at = self.at();
        let woken = self.sql(&WAKE).bind(at).bind(plane).bind(codes).run().await? > 0;
        if woken {
            self.is_due(at);
        }
        Ok(woken)
    }

    /// Makes every parked run due now whose reason no longer stands: released holds, ended usage, lifted pauses, standing approvals,
    /// tenants back in business. What wakes them at once is the operation that changes the fact; this is the reconciler behind it.
    pub async fn wake_settled(&mut self) -> Result<u64, Fault> {
        self.wake_all(&WAKE_SETTLED).await
    }

    /// Makes every run due now that waits for a pause to be lifted; those still paused park again.
    pub async fn wake_paused(&mut self) -> Result<u64, Fault> {
        self.wake_all(&WAKE_PAUSED).await
    }

    /// Makes every run due now that waits for what policy says; those that still may not start park again.
    pub async fn wake_denied(&mut self) -> Result<u64, Fault> {
        self.wake_all(&WAKE_DENIED).await
    }

    async fn wake_all(&mut self, statement: &'static sql::Sql) -> Result<u64, Fault> {
        let at = self.at();
        let woken = self.sql(statement).bind(at).run().await?;
        if woken > 0 {
            self.is_due(at);
        }
        Ok(woken)
    }
}

/// What no longer holds a parked run `r` back.
macro_rules! settled {
    () => {
        "(waits_for = 'HOLD_ACTIVE' AND NOT EXISTS (SELECT 1 FROM holds h JOIN planes p ON p.id = r.plane_id
            WHERE h.released_at IS NULL AND h.subject_id IN (p.id, p.tenant_id))
        OR waits_for IN ('ACTIVE_REFERENCES', 'ACTIVE_USAGE') AND NOT EXISTS (SELECT 1 FROM plane_usage u
            WHERE u.plane_id = r.plane_id AND u.closed_at IS NULL AND u.expires_at > $1
            AND (u.kind = 'run' OR waits_for = 'ACTIVE_USAGE'))
        OR waits_for IN ('APPROVAL_REQUIRED', 'APPROVAL_EXPIRED', 'APPROVAL_DENIED', 'PLAN_CHANGED') AND EXISTS (SELECT 1
            FROM approvals a WHERE a.offboarding_id = r.offboarding_id AND a.status = 'granted' AND a.expires_at > $1)
        OR waits_for = 'CLOCK_SUSPECT' AND NOT EXISTS (SELECT 1 FROM witness WHERE clock_suspect_since IS NOT NULL)
        OR waits_for = 'LEDGER_BEHIND' AND NOT EXISTS (SELECT 1 FROM witness WHERE behind_since IS NOT NULL)
        OR waits_for = 'LOG_STOPPED' AND NOT EXISTS (SELECT 1 FROM log WHERE stopped_since IS NOT NULL)
        OR waits_for = 'USAGE_UNKNOWN' AND EXISTS (SELECT 1 FROM planes p WHERE p.id = r.plane_id AND p.usage_reported)
        OR waits_for = 'PAUSED' AND NOT EXISTS (SELECT 1 FROM pauses)
        OR waits_for = 'TENANT_NOT_ACTIVE' AND EXISTS (SELECT 1 FROM tenants t WHERE t.id = r.tenant_id AND t.status = 'active'))"
    };
}

/// On PostgreSQL the runs whose tenant, plane and row are free; what somebody else works on just now, the next sweep finds.
macro_rules! wake {
    ($which:expr) => {
        concat!("UPDATE stage_runs AS r SET status = 'queued', due_at = $1, waits_for = NULL WHERE status = 'parked' AND ", $which)
    };
    ($which:expr, free) => {
        concat!(
            "WITH free AS (SELECT r.id FROM stage_runs r JOIN tenants tt ON tt.id = r.tenant_id JOIN planes pp ON pp.id = r.plane_id
                WHERE r.status = 'parked' AND ",
            $which,
            " FOR SHARE OF tt SKIP LOCKED FOR UPDATE OF pp SKIP LOCKED FOR UPDATE OF r SKIP LOCKED)
            UPDATE stage_runs AS r SET status = 'queued', due_at = $1, waits_for = NULL FROM free WHERE r.id = free.id"
        )
    };
}

/// Every batch of this module.
#[cfg(feature = "testing")]
pub(crate) static BATCHES: &[&Many] = &[&ENQUEUE, &RAISE, &LEASE, &SETTLE];

statements! {
    RENEW = "renew a lease",
        "UPDATE stage_runs SET lease_until = $4, progress = coalesce($5, progress)
         WHERE id = $1 AND status = 'running' AND epoch = $2 AND lease_owner = $3";
    RETRY = "retry a run",
        "UPDATE stage_runs SET status = 'queued', due_at = $2, attempt = 0, interruptions = 0, finished_at = NULL, blocked = NULL
         WHERE id = $1 AND status = 'halted'";
    EXPIRED = "read expired leases", "SELECT * FROM stage_runs WHERE status = 'running' AND lease_until <= $1";
    LEASED_TO = "read a worker's runs", "SELECT * FROM stage_runs WHERE status = 'running' AND lease_owner = $1";
    OWNERS = "list lease owners", "SELECT DISTINCT lease_owner FROM stage_runs WHERE status = 'running'";
    RUNS_OF = "read runs",
        "SELECT * FROM stage_runs WHERE offboarding_id = $1 ORDER BY rowid",
        "SELECT * FROM stage_runs WHERE offboarding_id = $1 ORDER BY place";
    OPEN = "read runs", "SELECT * FROM stage_runs WHERE plane_id = $1 AND status IN ('queued', 'parked', 'running', 'halted')";
    NEXT_DUE = "read the next due time", "SELECT due_at FROM stage_runs WHERE status = 'queued' ORDER BY due_at LIMIT 1";
    PURGES = "count recent purges", "SELECT count(*) AS purges FROM stage_runs WHERE step = 'purge' AND started_at > $1";
    HASTEN = "make a step due now",
        "UPDATE stage_runs SET due_at = $1 WHERE plane_id = $2 AND step = $3 AND status = 'queued' AND due_at > $1";
    WAKE = "wake a run",
        "UPDATE stage_runs SET status = 'queued', due_at = $1, waits_for = NULL
         WHERE plane_id = $2 AND (status = 'parked' AND waits_for IN (SELECT value FROM json_each($3))
            OR status = 'queued' AND due_at > $1 AND blocked ->> 'code' IN (SELECT value FROM json_each($3)))",
        "UPDATE stage_runs SET status = 'queued', due_at = $1, waits_for = NULL
         WHERE plane_id = $2 AND (status = 'parked' AND waits_for = ANY($3)
            OR status = 'queued' AND due_at > $1 AND blocked ->> 'code' = ANY($3))";
    WAKE_SETTLED = "wake settled runs", wake!(settled!()), wake!(settled!(), free);
    WAKE_PAUSED = "wake paused runs", wake!("waits_for = 'PAUSED'"), wake!("waits_for = 'PAUSED'", free);
    WAKE_DENIED = "wake runs that policy stopped",
        wake!("waits_for IN ('POLICY_DENIED', 'APPROVALS_TOO_FEW')"), wake!("waits_for IN ('POLICY_DENIED', 'APPROVALS_TOO_FEW')", free);
}

/// A settlement as it is written.
#[derive(Debug)]
pub(crate) struct Settled {
    id: Uuid,
    was: RunStatus,
    epoch: Option<i64>,
    status: RunStatus,
    due_at: Option<DateTime<Utc>>,
    waits_for: Option<&'static str>,
    blocked: Option<String>,
    evidence: Option<String>,
    error: Option<String>,
    attempts: i64,
    interruptions: i64,
    finished: bool,
}

impl Settled {
    pub(crate) fn of(run: &Run, settlement: &Settlement) -> Self {
        let unchanged = Self {
            id: run.id,
            was: run.status,
            epoch: run.epoch,
            status: RunStatus::Queued,
            due_at: None,
            waits_for: None,
            blocked: None,
            evidence: None,
            error: None,
            attempts: 0,
            interruptions: 0,
            finished: false,
        };
        match settlement {
            Settlement::Succeeded(evidence) => {
                Self { status: RunStatus::Succeeded, evidence: Some(evidence.to_string()), finished: true, ..unchanged }
            }
            Settlement::Postponed { due_at, blocked } => {
                Self { due_at: Some(*due_at), blocked: blocked.as_ref().map(to_json), ..unchanged }
            }
            Settlement::Parked(refusal) => Self {
                status: RunStatus::Parked,
                waits_for: Some(refusal.code.as_str()),
                blocked: Some(to_json(refusal)),
                ..unchanged
            },
            Settlement::Failed { due_at, error } => {
                Self { due_at: Some(*due_at), error: Some(error.to_string()), attempts: 1, ..unchanged }
            }
            Settlement::Interrupted { due_at } => Self { due_at: Some(*due_at), interruptions: 1, ..unchanged },
            Settlement::Halted { error, attempts } => Self {
                status: RunStatus::Halted,
                error: Some(error.to_string()),
                attempts: *attempts,
                finished: true,
                ..unchanged
            },
            Settlement::Withdrawn => Self { status: RunStatus::Withdrawn, finished: true, ..unchanged },
        }
    }
}

#[cfg(feature = "testing")]
impl Tx {
    /// For tests: how the server finds what a sweep looks after among the runs.
    pub async fn sweep_plans(&mut self, never_walk: bool) -> Result<Vec<(&'static str, Vec<String>)>, Fault> {
        let at = self.at();
        let sql::Inner::Postgres { tx, .. } = &mut self.inner else { return Ok(Vec::new()) };
        let walking = if never_walk { "SET LOCAL enable_seqscan = off" } else { "SET LOCAL enable_seqscan = on" };
        sqlx::query(walking).execute(&mut **tx).await.map_err(Fault::database("choose how to plan"))?;
        let mut plans = Vec::new();
        for (name, sql) in [("expired leases", &EXPIRED), ("settled", &WAKE_SETTLED)] {
            let explain = sqlx::AssertSqlSafe(format!("EXPLAIN (COSTS OFF) {}", sql.postgres));
            let explain = sqlx::query_scalar(explain).bind(at).persistent(false).fetch_all(&mut **tx).await;
            plans.push((name, explain.map_err(Fault::database("explain a sweep"))?));
        }
        let owners = sqlx::AssertSqlSafe(format!("EXPLAIN (COSTS OFF) {}", OWNERS.postgres));
        let owners = sqlx::query_scalar(owners).persistent(false).fetch_all(&mut **tx).await;
        plans.push(("owners", owners.map_err(Fault::database("explain a sweep"))?));
        Ok(plans)
    }
}
