//! Probes: durable questions whether anything of a purged plane has come back, and what the plane is looked for by until the last of them.
//!
//! The rule: a probe is claimed by one worker at an epoch, and only that claim's answer counts. Claiming passes over what somebody else
//! claims just now, and costs what is due. If we die with a claim, its lease runs out and the probe is asked again.

use chrono::{DateTime, Utc};
use lethe_stages::record::Salt;
use serde::Serialize;
use serde_json::Value as Report;
use uuid::Uuid;

use crate::{
    db::Tx,
    fault::Fault,
    queue::Lease,
    rows::Cells,
    sql::{Document, Json, Row, statements},
};

lethe_stages::text_enum! {
    /// Why a probe is asked.
    ProbeCause {
        /// It was planned when the plane was purged.
        Planned = "planned",
        /// A finding is open.
        Again = "again",
        /// Somebody wants to know now.
        Asked = "asked",
    }
}

lethe_stages::text_enum! {
    /// Where a probe stands.
    ProbeStatus {
        /// It waits for its time.
        Queued = "queued",
        /// A worker asks.
        Running = "running",
        /// Nothing came back.
        Clean = "clean",
        /// Something came back.
        Found = "found",
        /// It could not be asked; `lethe probe run` asks anew.
        Failed = "failed",
        /// It is not needed any more.
        Withdrawn = "withdrawn",
    }
}

/// A probe.
#[derive(Debug, Clone, Serialize)]
pub struct Probe {
    /// Its identity.
    #[serde(rename = "probe_id")]
    pub id: Uuid,
    /// Whose purge it tries.
    pub offboarding_id: Uuid,
    /// The purged plane.
    pub plane_id: Uuid,
    /// The plane's owner.
    pub tenant_id: Uuid,
    /// Why it is asked.
    pub cause: ProbeCause,
    /// Who asked for it, as `type:id`.
    pub requested_by: Option<String>,
    /// Where it stands.
    pub status: ProbeStatus,
    /// When it is asked; never before.
    pub due_at: DateTime<Utc>,
    /// Failures recorded.
    pub attempt: i64,
    /// Leases that ran out.
    pub interruptions: i64,
    /// Its last claim.
    pub epoch: i64,
    /// Who asks it now.
    pub lease_owner: Option<String>,
    /// What was found, in counts.
    pub evidence: Option<Report>,
    /// Why it failed last.
    pub last_error: Option<Report>,
    /// When it ended.
    pub finished_at: Option<DateTime<Utc>>,
}

/// A probe to ask.
#[derive(Debug, Clone)]
pub struct NewProbe {
    /// Whose purge it tries.
    pub offboarding_id: Uuid,
    /// The purged plane.
    pub plane_id: Uuid,
    /// The plane's owner.
    pub tenant_id: Uuid,
    /// Why it is asked.
    pub cause: ProbeCause,
    /// Who asked for it; with [`ProbeCause::Asked`] only.
    pub requested_by: Option<String>,
    /// When.
    pub due_at: DateTime<Utc>,
}

/// What became of a claimed probe.
#[derive(Debug, Clone)]
pub enum ProbeAnswer {
    /// It ended, clean or not.
    Ended {
        /// [`ProbeStatus::Clean`] or [`ProbeStatus::Found`].
        status: ProbeStatus,
        /// What was found, in counts.
        evidence: Report,
    },
    /// It could not be asked and is asked again.
    Postponed {
        /// When.
        due_at: DateTime<Utc>,
        /// Why.
        error: Report,
    },
    /// It could not be asked, and is not asked again by itself.
    Failed(Report),
}

/// What a purged plane is looked for by.
#[derive(Clone)]
pub struct ProbeScope {
    /// Where its archive was.
    pub archive_url: Option<String>,
    /// The secret under which its samples are digested.
    pub salt: Salt,
    /// An object a binding, in order.
    pub scopes: Report,
}

/// Which probes to list; what is `None` does not filter.
#[derive(Debug, Clone, Default)]
pub struct ProbeFilter {
    /// Of this plane.
    pub plane_id: Option<Uuid>,
    /// Of this tenant.
    pub tenant_id: Option<Uuid>,
    /// Only those that are due now and wait, or failed.
    pub due: bool,
}

fn probe(row: &Row) -> Result<Probe, Fault> {
    let cells = Cells::new(row, "probes", "id");
    Ok(Probe {
        id: cells.id("id")?,
        offboarding_id: cells.id("offboarding_id")?,
        plane_id: cells.id("plane_id")?,
        tenant_id: cells.id("tenant_id")?,
        cause: cells.parsed("cause")?,
        requested_by: cells.get("requested_by")?,
        status: cells.parsed("status")?,
        due_at: cells.at("due_at")?,
        attempt: cells.get("attempt")?,
        interruptions: cells.get("interruptions")?,
        epoch: cells.get("epoch")?,
        lease_owner: cells.get("lease_owner")?,
        evidence: cells.json("evidence")?,
        last_error: cells.json("last_error")?,
        finished_at: cells.maybe_at("finished_at")?,
    })
}

/// What is due and nobody paused; `$1` is the instant, `$4` how many, `$5` a plane or NULL. On PostgreSQL the list is made once: as a join
/// it could be made again for each row, and lock more than were asked for.
macro_rules! claim {
    ($which:literal, $plane:literal, $limit:literal, $end:literal) => {
        concat!(
            "UPDATE probes SET status = 'running', lease_owner = $2, lease_until = $3, epoch = epoch + 1 WHERE id ",
            $which,
            "(SELECT p.id FROM probes p WHERE p.status = 'queued' AND p.due_at <= $1 AND ",
            $plane,
            // One at a time of a plane: a clean one that began before another found something must not have the last word.
            " AND NOT EXISTS (SELECT 1 FROM probes r WHERE r.plane_id = p.plane_id AND r.status = 'running')
              AND NOT EXISTS (SELECT 1 FROM pauses s WHERE s.scope IN ('all', 'tenant:' || p.tenant_id)) ORDER BY p.due_at LIMIT ",
            $limit,
            $end,
            " RETURNING *"
        )
    };
}

statements! {
    PLAN_PROBE = "plan a probe",
        "INSERT INTO probes (id, offboarding_id, plane_id, tenant_id, cause, requested_by, status, due_at)
         VALUES ($1, $2, $3, $4, $5, $6, 'queued', $7)";
    CLAIM = "claim probes",
        claim!("IN ", "($5 IS NULL OR p.plane_id = $5)", "CAST($4 AS INTEGER)", ")"),
        claim!("= ANY(ARRAY", "($5::uuid IS NULL OR p.plane_id = $5)", "$4", " FOR UPDATE SKIP LOCKED))");
    ANY_DUE = "look for probes that are due",
        "SELECT 1 WHERE EXISTS (SELECT 1 FROM probes WHERE status = 'queued' AND due_at <= $1)
            OR EXISTS (SELECT 1 FROM probes WHERE status = 'running' AND lease_until <= $1)";
    LOST = "look for probes whose worker was lost", "SELECT * FROM probes WHERE status = 'running' AND lease_until <= $1";
    TAKE_BACK = "take a probe back",
        "UPDATE probes SET status = 'queued', lease_owner = NULL, lease_until = NULL, interruptions = interruptions + 1
         WHERE id = $1 AND epoch = $2 AND status = 'running' AND lease_until <= $3";
    GIVE_UP = "give a probe up",
        "UPDATE probes SET status = 'failed', lease_owner = NULL, lease_until = NULL, interruptions = interruptions + 1,
            last_error = $4, finished_at = $3
         WHERE id = $1 AND epoch = $2 AND status = 'running' AND lease_until <= $3";
    RENEW = "renew a probe's lease",
        "UPDATE probes SET lease_until = $4 WHERE id = $1 AND epoch = $2 AND status = 'running' AND lease_owner = $3";
    END = "record a probe",
        "UPDATE probes SET status = $4, evidence = $5, last_error = NULL, lease_owner = NULL, lease_until = NULL, finished_at = $6
         WHERE id = $1 AND epoch = $2 AND status = 'running' AND lease_owner = $3";
    POSTPONE = "postpone a probe",
        "UPDATE probes SET status = 'queued', attempt = attempt + 1, due_at = $4, last_error = $5, lease_owner = NULL, lease_until = NULL
         WHERE id = $1 AND epoch = $2 AND status = 'running' AND lease_owner = $3";
    FAIL = "record a failed probe",
        "UPDATE probes SET status = 'failed', attempt = attempt + 1, last_error = $4, lease_owner = NULL, lease_until = NULL,
            finished_at = $5
         WHERE id = $1 AND epoch = $2 AND status = 'running' AND lease_owner = $3";
    OPEN = "count probes to come", "SELECT count(*) AS open FROM probes WHERE plane_id = $1 AND status IN ('queued', 'running')";
    WITHDRAW = "withdraw a plane's repeated probes",
        "UPDATE probes SET status = 'withdrawn', finished_at = $2 WHERE plane_id = $1 AND status = 'queued' AND cause = 'again'";
    AGAIN = "look for a repeated probe",
        "SELECT 1 FROM probes WHERE plane_id = $1 AND status IN ('queued', 'running') AND cause = 'again' LIMIT 1";
    PROBES = "list probes",
        "SELECT * FROM probes WHERE ($1 IS NULL OR plane_id = $1) AND ($2 IS NULL OR tenant_id = $2)
            AND ($3 IS NULL OR (status = 'queued' AND due_at <= $3) OR status = 'failed') ORDER BY due_at, id",
        "SELECT * FROM probes WHERE ($1::uuid IS NULL OR plane_id = $1) AND ($2::uuid IS NULL OR tenant_id = $2)
            AND ($3::timestamptz IS NULL OR (status = 'queued' AND due_at <= $3) OR status = 'failed') ORDER BY due_at, id";
    KEEP_SCOPE = "keep what a purged plane is looked for by",
        "INSERT INTO probe_scopes (plane_id, archive_url, salt, scopes) VALUES ($1, $2, $3, $4)";
    SCOPE = "read what a purged plane is looked for by", "SELECT * FROM probe_scopes WHERE plane_id = $1";
    FORGET_SCOPE = "forget what a purged plane was looked for by", "DELETE FROM probe_scopes WHERE plane_id = $1";
    // What a failure says may name a record's key.
    FORGET_ERRORS = "forget why probes failed", "UPDATE probes SET last_error = NULL WHERE plane_id = $1";
}

impl Tx {
    /// Plans a probe; answers its id.
    pub async fn plan_probe(&mut self, new: &NewProbe) -> Result<Uuid, Fault> {
        let id = self.new_id();
        let plan = self.sql(&PLAN_PROBE).bind(id).bind(new.offboarding_id).bind(new.plane_id).bind(new.tenant_id);
        plan.bind(new.cause.as_str()).bind(new.requested_by.as_ref()).bind(new.due_at).one().await?;
        Ok(id)
    }

    /// Whether a probe is due, or one's lease has run out.
    pub async fn probes_are_due(&mut self) -> Result<bool, Fault> {
        let at = self.at();
        Ok(self.sql(&ANY_DUE).bind(at).optional().await?.is_some())
    }

    /// Claims up to `limit` probes that are due and not paused; of one plane, if given.
    pub async fn claim_probes(&mut self, limit: usize, lease: &Lease, plane: Option<Uuid>) -> Result<Vec<Probe>, Fault> {
        self.lock_probes().await?;
        let at = self.at();
        let claim = self.sql(&CLAIM).bind(at).bind(&lease.owner).bind(lease.until).bind(limit as i64).bind(plane);
        claim.all().await?.iter().map(probe).collect()
    }

    /// Probes whose lease has run out.
    pub async fn lost_probes(&mut self) -> Result<Vec<Probe>, Fault> {
        let at = self.at();
        self.sql(&LOST).bind(at).all().await?.iter().map(probe).collect()
    }

    /// Lets a lost probe be asked again; with an error, it is not. Answers whether it was still lost.
    pub async fn take_back_probe(&mut self, lost: &Probe, error: Option<&Report>) -> Result<bool, Fault> {
        let at = self.at();
        let changed = match error {
            None => self.sql(&TAKE_BACK).bind(lost.id).bind(lost.epoch).bind(at).run().await?,
            Some(error) => {
                let give_up = self.sql(&GIVE_UP).bind(lost.id).bind(lost.epoch).bind(at);
                give_up.bind(Json(error.to_string())).run().await?
            }
        };
        Ok(changed == 1)
    }

    /// Renews the lease of a claimed probe. Answers whether it is still its holder's.
    pub async fn renew_probe(&mut self, claimed: &Probe, lease: &Lease) -> Result<bool, Fault> {
        let renew = self.sql(&RENEW).bind(claimed.id).bind(claimed.epoch).bind(&lease.owner).bind(lease.until);
        Ok(renew.run().await? == 1)
    }

    /// Records what became of a claimed probe. Answers whether it was still its holder's; otherwise nothing was changed.
    pub async fn settle_probe(&mut self, claimed: &Probe, owner: &str, answer: &ProbeAnswer) -> Result<bool, Fault> {
        let at = self.at();
        let changed = match answer {
            ProbeAnswer::Ended { status, evidence } => {
                let end = self.sql(&END).bind(claimed.id).bind(claimed.epoch).bind(owner).bind(status.as_str());
                end.bind(Json(evidence.to_string())).bind(at).run().await?
            }
            ProbeAnswer::Postponed { due_at, error } => {
                let postpone = self.sql(&POSTPONE).bind(claimed.id).bind(claimed.epoch).bind(owner).bind(*due_at);
                postpone.bind(Json(error.to_string())).run().await?
            }
            ProbeAnswer::Failed(error) => {
                let fail = self.sql(&FAIL).bind(claimed.id).bind(claimed.epoch).bind(owner);
                fail.bind(Json(error.to_string())).bind(at).run().await?
            }
        };
        Ok(changed == 1)
    }

    /// How many probes of the plane are still to come.
    pub async fn probes_to_come(&mut self, plane: Uuid) -> Result<i64, Fault> {
        let row = self.sql(&OPEN).bind(plane).first().await?;
        Cells::new(&row, "probes", "open").get("open")
    }

    /// Whether the plane is being asked again and again.
    pub async fn is_probed_again(&mut self, plane: Uuid) -> Result<bool, Fault> {
        Ok(self.sql(&AGAIN).bind(plane).optional().await?.is_some())
    }

    /// Ends the asking again and again.
    pub async fn withdraw_probes(&mut self, plane: Uuid) -> Result<u64, Fault> {
        let at = self.at();
        self.sql(&WITHDRAW).bind(plane).bind(at).run().await
    }

    /// Probes by when they are due, filtered.
    pub async fn probes(&mut self, filter: &ProbeFilter) -> Result<Vec<Probe>, Fault> {
        let due = filter.due.then_some(self.at());
        let list = self.sql(&PROBES).bind(filter.plane_id).bind(filter.tenant_id).bind(due);
        list.all().await?.iter().map(probe).collect()
    }

    /// Keeps what a plane is looked for by, in the transaction that records its purge.
    pub async fn keep_probe_scope(&mut self, plane: Uuid, scope: &ProbeScope) -> Result<(), Fault> {
        let keep = self.sql(&KEEP_SCOPE).bind(plane).bind(scope.archive_url.as_ref()).bind(scope.salt.0.as_slice());
        keep.bind(Document(scope.scopes.to_string())).one().await
    }

    /// What a purged plane is looked for by, until its last probe has come back clean.
    pub async fn probe_scope(&mut self, plane: Uuid) -> Result<Option<ProbeScope>, Fault> {
        let Some(row) = self.sql(&SCOPE).bind(plane).optional().await? else { return Ok(None) };
        let cells = Cells::new(&row, "probe_scopes", "plane_id");
        let salt: [u8; 32] = cells.get::<Vec<u8>>("salt")?.try_into().map_err(|_| Fault::Unreadable {
            table: "probe_scopes",
            column: "salt",
            id: plane.to_string(),
            message: "it has not 32 bytes".into(),
        })?;
        let scopes = cells.json("scopes")?.unwrap_or_default();
        Ok(Some(ProbeScope { archive_url: cells.get("archive_url")?, salt: Salt(salt), scopes }))
    }

    /// Forgets it. Answers whether there was any.
    pub async fn forget_probe_scope(&mut self, plane: Uuid) -> Result<bool, Fault> {
        self.sql(&FORGET_ERRORS).bind(plane).run().await?;
        Ok(self.sql(&FORGET_SCOPE).bind(plane).run().await? > 0)
    }
}

#[cfg(feature = "testing")]
impl Tx {
    /// How SQLite finds what is due: one line per table.
    pub async fn probe_plan(&mut self) -> Result<Vec<String>, Fault> {
        let crate::sql::Inner::Sqlite(tx) = &mut self.inner else { return Ok(Vec::new()) };
        let explain = sqlx::AssertSqlSafe(format!("EXPLAIN QUERY PLAN {}", CLAIM.sqlite));
        let rows = sqlx::query(explain).fetch_all(&mut **tx).await.map_err(Fault::database("explain a query"))?;
        Ok(rows.iter().map(|row| sqlx::Row::get(row, "detail")).collect())
    }
}
