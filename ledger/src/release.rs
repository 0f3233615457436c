//! What releases a destructive step (approvals) and what forbids it (holds, pauses).

use chrono::{DateTime, Utc};
use serde::Serialize;
use uuid::Uuid;

use crate::{
    db::Tx,
    fault::Fault,
    rows::Cells,
    sql::{Row, statements},
};

lethe_stages::text_enum! {
    /// Where an approval stands.
    ApprovalStatus {
        /// It releases its plan.
        Granted = "granted",
        /// It forbids its plan for good.
        Denied = "denied",
        /// It was taken back before it was used.
        Withdrawn = "withdrawn",
        /// It ended before it was used.
        Expired = "expired",
        /// The purge used it.
        Consumed = "consumed",
    }
}

lethe_stages::text_enum! {
    /// How it is known that an actor is who it says.
    Assurance {
        /// It says so.
        Asserted = "asserted",
        /// The operating system says so.
        Os = "os",
        /// An identity provider says so.
        Oidc = "oidc",
        /// It signed the plan.
        Signed = "signed",
    }
}

lethe_stages::text_enum! {
    /// What a hold is placed on.
    HoldSubject {
        /// One plane.
        Plane = "plane",
        /// Every plane of a tenant.
        Tenant = "tenant",
    }
}

/// A decision on a destruction plan.
#[derive(Debug, Clone, Serialize)]
pub struct Approval {
    /// Its identity.
    #[serde(rename = "approval_id")]
    pub id: Uuid,
    /// The offboarding.
    pub offboarding_id: Uuid,
    /// The plane.
    pub plane_id: Uuid,
    /// Whose.
    #[serde(skip)]
    pub tenant_id: Uuid,
    /// Exactly what it decides on.
    pub plan_digest: String,
    /// Where it stands.
    pub status: ApprovalStatus,
    /// Who asked for the offboarding.
    pub requested_by: String,
    /// Who decided.
    pub approved_by: String,
    /// How that is known.
    pub identity_assurance: Assurance,
    /// Why.
    pub reason: String,
    /// When.
    pub decided_at: DateTime<Utc>,
    /// When a grant ends.
    pub expires_at: DateTime<Utc>,
    /// SSHSIG over the plan's text, armoured.
    pub signature: Option<String>,
    /// The key that made it.
    pub key_fingerprint: Option<String>,
}

/// A decision to put on record.
#[derive(Debug, Clone)]
pub struct NewApproval {
    /// The offboarding.
    pub offboarding_id: Uuid,
    /// Exactly what it decides on.
    pub plan_digest: String,
    /// Granted or denied.
    pub status: ApprovalStatus,
    /// Who asked for the offboarding.
    pub requested_by: String,
    /// Who decided.
    pub approved_by: String,
    /// How that is known.
    pub identity_assurance: Assurance,
    /// Why.
    pub reason: String,
    /// When a grant ends.
    pub expires_at: DateTime<Utc>,
    /// The signature and the fingerprint of the key that made it.
    pub signed: Option<(String, String)>,
}

/// A legal hold.
#[derive(Debug, Clone, Serialize)]
pub struct Hold {
    /// Its identity.
    #[serde(rename = "hold_id")]
    pub id: Uuid,
    /// What kind of thing it is on.
    pub subject_kind: HoldSubject,
    /// On which.
    pub subject_id: Uuid,
    /// The case, if it is one of several holds that were placed for the same.
    pub matter: Option<String>,
    /// On whose word: court, regulator, department.
    pub authority: Option<String>,
    /// When somebody should ask whether it is still needed. It does not end by itself.
    pub review_at: Option<DateTime<Utc>>,
    /// Why.
    pub reason: String,
    /// Who placed it.
    pub placed_by: String,
    /// When.
    pub placed_at: DateTime<Utc>,
    /// Who released it.
    pub released_by: Option<String>,
    /// Why.
    pub release_reason: Option<String>,
    /// When.
    pub released_at: Option<DateTime<Utc>>,
}

/// A hold to place.
#[derive(Debug, Clone)]
pub struct NewHold<'a> {
    /// On what kind of thing.
    pub kind: HoldSubject,
    /// On which.
    pub subject: Uuid,
    /// For which case.
    pub matter: Option<&'a str>,
    /// On whose word.
    pub authority: Option<&'a str>,
    /// When it should be looked at again.
    pub review_at: Option<DateTime<Utc>>,
    /// Why.
    pub reason: &'a str,
    /// By whom, as `type:id`.
    pub by: &'a str,
}

/// A paused scope: `all`, `tenant:<id>` or `stage:<name>`.
#[derive(Debug, Clone, Serialize)]
pub struct Pause {
    /// The scope.
    pub scope: String,
    /// Why.
    pub reason: String,
    /// Who paused it.
    pub paused_by: String,
    /// When.
    pub paused_at: DateTime<Utc>,
}

fn approval(row: &Row) -> Result<Approval, Fault> {
    let cells = Cells::new(row, "approvals", "id");
    Ok(Approval {
        id: cells.id("id")?,
        offboarding_id: cells.id("offboarding_id")?,
        plane_id: cells.id("plane_id")?,
        tenant_id: cells.id("tenant_id")?,
        plan_digest: cells.get("plan_digest")?,
        status: cells.parsed("status")?,
        requested_by: cells.get("requested_by")?,
        approved_by: cells.get("approved_by")?,
        identity_assurance: cells.parsed("identity_assurance")?,
        reason: cells.get("reason")?,
        decided_at: cells.at("decided_at")?,
        expires_at: cells.at("expires_at")?,
        signature: cells.get("signature")?,
        key_fingerprint: cells.get("key_fingerprint")?,
    })
}

fn hold(row: &Row) -> Result<Hold, Fault> {
    let cells = Cells::new(row, "holds", "id");
    Ok(Hold {
        id: cells.id("id")?,
        subject_kind: cells.parsed("subject_kind")?,
        subject_id: cells.id("subject_id")?,
        matter: cells.get("matter")?,
        authority: cells.get("authority")?,
        review_at: cells.maybe_at("review_at")?,
        reason: cells.get("reason")?,
        placed_by: cells.get("placed_by")?,
        placed_at: cells.at("placed_at")?,
        released_by: cells.get("released_by")?,
        release_reason: cells.get("release_reason")?,
        released_at: cells.maybe_at("released_at")?,
    })
}

macro_rules! select_approvals {
    ($where:literal) => {
        concat!(
            "SELECT a.*, o.plane_id, o.tenant_id FROM approvals a JOIN offboardings o ON o.id = a.offboarding_id WHERE ",
            $where
        )
    };
}

// A plan's row: the run that waits with it, and its place in the list. There is a plan from ARCHIVED on.
macro_rules! awaiting {
    ($tenant:literal, $plane:literal, $anybody:literal, $limit:literal) => {
        concat!(
            "SELECT o.id, o.retention_until, r.id AS run_id FROM offboardings o JOIN stage_runs r ON r.plane_id = o.plane_id
                AND r.status IN ('queued', 'parked', 'running', 'halted')
             WHERE o.status = 'open' AND o.plan_digest IS NOT NULL AND (o.retention_until, o.id) > ($4, $5) AND ",
            $tenant, " AND ", $plane, " AND (", $anybody, " OR (o.requested_by <> $3 AND NOT EXISTS (SELECT 1 FROM approvals g
                WHERE g.offboarding_id = o.id AND g.approved_by = $3 AND g.plan_digest = o.plan_digest
                AND g.status IN ('granted', 'consumed'))))
                AND NOT EXISTS (SELECT 1 FROM approvals d WHERE d.offboarding_id = o.id AND d.status = 'denied' AND d.plan_digest = o.plan_digest)
             ORDER BY o.retention_until, o.id LIMIT ", $limit
        )
    };
}

statements! {
    DECIDE = "record an approval",
        "INSERT INTO approvals (id, offboarding_id, plan_digest, status, requested_by, approved_by, identity_assurance, reason,
            decided_at, expires_at, ended_at, signature, key_fingerprint)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, NULL, $11, $12)";
    END = "end an approval", "UPDATE approvals SET status = $2, ended_at = $3 WHERE id = $1 AND status = 'granted'";
    APPROVALS = "read approvals", select_approvals!("true ORDER BY a.decided_at, a.id");
    LATEST = "read the latest approvals",
        select_approvals!("($1 IS NULL OR o.tenant_id = $1) AND ($2 IS NULL OR o.plane_id = $2)
            ORDER BY a.decided_at DESC, a.id DESC LIMIT CAST($3 AS INTEGER)"),
        select_approvals!("($1::uuid IS NULL OR o.tenant_id = $1) AND ($2::uuid IS NULL OR o.plane_id = $2)
            ORDER BY a.decided_at DESC, a.id DESC LIMIT $3");
    STANDING = "read a person's standing approvals",
        select_approvals!("a.status = 'granted' AND a.approved_by = $4 AND ($1 IS NULL OR o.tenant_id = $1) AND ($2 IS NULL OR o.plane_id = $2)
            ORDER BY a.decided_at DESC, a.id DESC LIMIT CAST($3 AS INTEGER)"),
        select_approvals!("a.status = 'granted' AND a.approved_by = $4 AND ($1::uuid IS NULL OR o.tenant_id = $1)
            AND ($2::uuid IS NULL OR o.plane_id = $2) ORDER BY a.decided_at DESC, a.id DESC LIMIT $3");
    AWAITING = "read plans that wait for a decision",
        awaiting!("($1 IS NULL OR o.tenant_id = $1)", "($2 IS NULL OR o.plane_id = $2)", "$3 IS NULL", "CAST($6 AS INTEGER)"),
        awaiting!("($1::uuid IS NULL OR o.tenant_id = $1)", "($2::uuid IS NULL OR o.plane_id = $2)", "$3::text IS NULL", "$6");
    END_ALL = "end approvals",
        "UPDATE approvals SET status = $2, ended_at = $3 WHERE id IN (SELECT value FROM json_each($1)) AND status = 'granted'",
        "UPDATE approvals SET status = $2, ended_at = $3 WHERE id = ANY($1) AND status = 'granted'";
    REMINDED_ALL = "note reminders",
        "UPDATE approvals SET reminded_at = $2 WHERE id IN (SELECT value FROM json_each($1))",
        "UPDATE approvals SET reminded_at = $2 WHERE id = ANY($1)";
    APPROVALS_OF = "read approvals", select_approvals!("a.offboarding_id = $1 ORDER BY a.decided_at, a.id");
    ENDING = "read approvals that end soon",
        select_approvals!("a.status = 'granted' AND a.reminded_at IS NULL AND a.expires_at > $1 AND a.expires_at <= $2");
    SIGNED_BY = "read approvals of a key", select_approvals!("a.status = 'granted' AND a.key_fingerprint = $1");
    EXPIRED = "read expired approvals", select_approvals!("a.status = 'granted' AND a.expires_at <= $1");
    PLACE = "place a hold",
        "INSERT INTO holds (id, subject_kind, subject_id, reason, placed_by, placed_at, matter, authority, review_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)";
    RELEASE = "release a hold",
        "UPDATE holds SET released_at = $2, released_by = $3, release_reason = $4 WHERE id = $1 AND released_at IS NULL";
    HOLDS = "read holds", "SELECT * FROM holds WHERE ($1 OR released_at IS NULL) ORDER BY placed_at, id";
    HOLDS_ON = "read holds",
        "SELECT * FROM holds WHERE ($1 OR released_at IS NULL) AND subject_id IN (SELECT value FROM json_each($2))
         ORDER BY placed_at, id",
        "SELECT * FROM holds WHERE ($1 OR released_at IS NULL) AND subject_id = ANY($2) ORDER BY placed_at, id";
    HOLD = "read a hold", "SELECT * FROM holds WHERE id = $1";
    HOLDS_TO_REVIEW = "read holds to look at again",
        "SELECT h.* FROM holds h WHERE h.released_at IS NULL AND h.review_at IS NOT NULL AND h.review_at <= $1
            AND ($2 IS NULL OR h.subject_id = $2 OR EXISTS (SELECT 1 FROM planes p WHERE p.id = h.subject_id AND p.tenant_id = $2))
         ORDER BY h.review_at, h.id LIMIT $3",
        "SELECT h.* FROM holds h WHERE h.released_at IS NULL AND h.review_at IS NOT NULL AND h.review_at <= $1
            AND ($2::uuid IS NULL OR h.subject_id = $2 OR EXISTS (SELECT 1 FROM planes p WHERE p.id = h.subject_id AND p.tenant_id = $2))
         ORDER BY h.review_at, h.id LIMIT $3";
    HOLDS_OF = "read a matter's holds", "SELECT * FROM holds WHERE matter = $1 AND released_at IS NULL ORDER BY placed_at, id";
    PAUSE = "pause",
        "INSERT INTO pauses (scope, reason, paused_by, paused_at) VALUES ($1, $2, $3, $4)
         ON CONFLICT (scope) DO UPDATE SET reason = excluded.reason, paused_by = excluded.paused_by, paused_at = excluded.paused_at";
    RESUME = "resume", "DELETE FROM pauses WHERE scope = $1";
    PAUSES = "read pauses", "SELECT * FROM pauses ORDER BY scope";
}

/// What of a list is asked for; what is `None` does not filter.
#[derive(Debug, Clone, Copy)]
pub struct Listed<'a> {
    /// Of this tenant.
    pub tenant: Option<Uuid>,
    /// Of this plane.
    pub plane: Option<Uuid>,
    /// For this person, as `type:id`.
    pub by: Option<&'a str>,
    /// At most so many.
    pub limit: i64,
}

/// A place in the list of plans that wait for a decision: the end of the retention, then the offboarding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AwaitingPlace(pub DateTime<Utc>, pub Uuid);

impl AwaitingPlace {
    /// Before the first.
    pub const BEGINNING: Self = Self(DateTime::UNIX_EPOCH, Uuid::nil());
}

fn all_of(ids: &[Uuid], doing: &'static str, changed: u64) -> Result<(), Fault> {
    let wanted = ids.len() as u64;
    if changed == wanted { Ok(()) } else { Err(Fault::RowsAffected { doing, changed, wanted }) }
}

impl Tx {
    /// Puts a decision on record and answers its id.
    pub async fn insert_approval(&mut self, new: &NewApproval) -> Result<Uuid, Fault> {
        let id = self.new_id();
        let at = self.at();
        let decide = self.sql(&DECIDE).bind(id).bind(new.offboarding_id).bind(&new.plan_digest).bind(new.status.as_str());
        let decide = decide.bind(&new.requested_by).bind(&new.approved_by).bind(new.identity_assurance.as_str());
        let (signature, fingerprint) = new.signed.clone().unzip();
        decide.bind(&new.reason).bind(at).bind(new.expires_at).bind(signature).bind(fingerprint).one().await?;
        Ok(id)
    }

    /// Granted approvals that end before an instant and of which nobody was reminded.
    pub async fn ending_approvals(&mut self, before: DateTime<Utc>) -> Result<Vec<Approval>, Fault> {
        let at = self.at();
        self.sql(&ENDING).bind(at).bind(before).all().await?.iter().map(approval).collect()
    }

    /// Notes that somebody was reminded of these approvals' ends.
    pub async fn reminded(&mut self, ids: &[Uuid]) -> Result<(), Fault> {
        let at = self.at();
        all_of(ids, "note reminders", self.sql(&REMINDED_ALL).bind(ids).bind(at).run().await?)
    }

    /// Granted approvals that a key signed.
    pub async fn approvals_signed_by(&mut self, fingerprint: &str) -> Result<Vec<Approval>, Fault> {
        self.sql(&SIGNED_BY).bind(fingerprint).all().await?.iter().map(approval).collect()
    }

    /// Ends a granted approval.
    pub async fn end_approval(&mut self, id: Uuid, status: ApprovalStatus) -> Result<(), Fault> {
        let at = self.at();
        self.sql(&END).bind(id).bind(status.as_str()).bind(at).one().await
    }

    /// Ends granted approvals.
    pub async fn end_approvals(&mut self, ids: &[Uuid], status: ApprovalStatus) -> Result<(), Fault> {
        let at = self.at();
        all_of(ids, "end approvals", self.sql(&END_ALL).bind(ids).bind(status.as_str()).bind(at).run().await?)
    }

    /// Decisions by date: of one offboarding or of all.
    pub async fn approvals(&mut self, offboarding: Option<Uuid>) -> Result<Vec<Approval>, Fault> {
        let rows = match offboarding {
            Some(offboarding) => self.sql(&APPROVALS_OF).bind(offboarding).all().await?,
            None => self.sql(&APPROVALS).all().await?,
        };
        rows.iter().map(approval).collect()
    }

    /// The latest decisions, at most so many, by date: all of them, or one person's approvals that stand.
    pub async fn latest_approvals(&mut self, which: &Listed<'_>) -> Result<Vec<Approval>, Fault> {
        let sql = if which.by.is_some() { &STANDING } else { &LATEST };
        let read = self.sql(sql).bind(which.tenant).bind(which.plane).bind(which.limit).only(which.by);
        let mut approvals: Vec<Approval> = read.all().await?.iter().map(approval).collect::<Result<_, _>>()?;
        approvals.reverse();
        Ok(approvals)
    }

    /// The runs of plans that may wait for a decision, at most so many after a place in their list: those that nobody denied, and where
    /// a person is named, that this person may still approve.
    pub async fn awaiting(&mut self, which: &Listed<'_>, after: AwaitingPlace) -> Result<Vec<(Uuid, AwaitingPlace)>, Fault> {
        let read = self.sql(&AWAITING).bind(which.tenant).bind(which.plane).bind(which.by.map(str::to_owned));
        let rows = read.bind(after.0).bind(after.1).bind(which.limit).all().await?;
        rows.iter()
            .map(|row| {
                let cells = Cells::new(row, "offboardings", "id");
                Ok((cells.id("run_id")?, AwaitingPlace(cells.at("retention_until")?, cells.id("id")?)))
            })
            .collect()
    }

    /// Granted approvals that have expired unused.
    pub async fn expired_approvals(&mut self) -> Result<Vec<Approval>, Fault> {
        let at = self.at();
        self.sql(&EXPIRED).bind(at).all().await?.iter().map(approval).collect()
    }

    /// Places a hold and answers its id.
    pub async fn insert_hold(&mut self, new: &NewHold<'_>) -> Result<Uuid, Fault> {
        let id = self.new_id();
        let at = self.at();
        let place = self.sql(&PLACE).bind(id).bind(new.kind.as_str()).bind(new.subject).bind(new.reason).bind(new.by).bind(at);
        place.bind(new.matter).bind(new.authority).bind(new.review_at).one().await?;
        Ok(id)
    }

    /// The open holds of a matter, by date.
    pub async fn holds_of_matter(&mut self, matter: &str) -> Result<Vec<Hold>, Fault> {
        self.sql(&HOLDS_OF).bind(matter).all().await?.iter().map(hold).collect()
    }

    /// Open holds that were to be looked at again by `until`, the longest overdue first; of one tenant and its planes, or of all.
    pub async fn holds_to_review(
        &mut self,
        until: DateTime<Utc>,
        tenant: Option<Uuid>,
        limit: usize,
    ) -> Result<Vec<Hold>, Fault> {
        self.sql(&HOLDS_TO_REVIEW).bind(until).bind(tenant).bind(limit as i64).all().await?.iter().map(hold).collect()
    }

    /// Releases an open hold.
    pub async fn release_hold(&mut self, id: Uuid, reason: &str, by: &str) -> Result<(), Fault> {
        let at = self.at();
        self.sql(&RELEASE).bind(id).bind(at).bind(by).bind(reason).one().await
    }

    /// Holds by date: on one subject or on all, open ones only unless `ended` is asked for too.
    pub async fn holds(&mut self, subjects: Option<&[Uuid]>, ended: bool) -> Result<Vec<Hold>, Fault> {
        let rows = match subjects {
            Some(subjects) => self.sql(&HOLDS_ON).bind(ended).bind(subjects).all().await?,
            None => self.sql(&HOLDS).bind(ended).all().await?,
        };
        rows.iter().map(hold).collect()
    }

    /// The hold.
    pub async fn hold(&mut self, id: Uuid) -> Result<Option<Hold>, Fault> {
        self.sql(&HOLD).bind(id).optional().await?.as_ref().map(hold).transpose()
    }

    /// Pauses a scope; again replaces the reason. Answers whether it was running before.
    pub async fn pause(&mut self, scope: &str, reason: &str, by: &str) -> Result<bool, Fault> {
        self.lock_control().await?;
        let before = self.pauses().await?.iter().any(|pause| pause.scope == scope);
        let at = self.at();
        self.sql(&PAUSE).bind(scope).bind(reason).bind(by).bind(at).one().await?;
        Ok(!before)
    }

    /// Lifts a pause. Answers whether there was one.
    pub async fn resume(&mut self, scope: &str) -> Result<bool, Fault> {
        self.lock_control().await?;
        Ok(self.sql(&RESUME).bind(scope).run().await? > 0)
    }

    /// Every pause in force.
    pub async fn pauses(&mut self) -> Result<Vec<Pause>, Fault> {
        let rows = self.sql(&PAUSES).all().await?;
        rows.iter()
            .map(|row| {
                let cells = Cells::new(row, "pauses", "scope");
                Ok(Pause {
                    scope: cells.get("scope")?,
                    reason: cells.get("reason")?,
                    paused_by: cells.get("paused_by")?,
                    paused_at: cells.at("paused_at")?,
                })
            })
            .collect()
    }
}

#[cfg(feature = "testing")]
impl Tx {
    /// For tests: how the server finds the pages of what waits for a decision and of a person's approvals. Without walking tables, if that
    /// is possible at all and is asked for.
    pub async fn list_plans(&mut self, by: &str, never_walk: bool) -> Result<Vec<(&'static str, Vec<String>)>, Fault> {
        let crate::sql::Inner::Postgres { tx, .. } = &mut self.inner else { return Ok(Vec::new()) };
        let walking = if never_walk { "SET LOCAL enable_seqscan = off" } else { "SET LOCAL enable_seqscan = on" };
        sqlx::query(walking).execute(&mut **tx).await.map_err(Fault::database("choose how to plan"))?;
        let (place, nobody) = (AwaitingPlace::BEGINNING, None::<Uuid>);
        let explain = |sql: &crate::sql::Sql| sqlx::AssertSqlSafe(format!("EXPLAIN (COSTS OFF) {}", sql.postgres));
        let awaiting = sqlx::query_scalar(explain(&AWAITING)).bind(nobody).bind(nobody).bind(by);
        let awaiting = awaiting.bind(place.0).bind(place.1).bind(100_i64).persistent(false).fetch_all(&mut **tx).await;
        let standing = sqlx::query_scalar(explain(&STANDING)).bind(nobody).bind(nobody).bind(100_i64).bind(by);
        let standing = standing.persistent(false).fetch_all(&mut **tx).await;
        let latest = sqlx::query_scalar(explain(&LATEST)).bind(nobody).bind(nobody).bind(100_i64);
        let latest = latest.persistent(false).fetch_all(&mut **tx).await;
        let expired = sqlx::query_scalar(explain(&EXPIRED)).bind(place.0).persistent(false).fetch_all(&mut **tx).await;
        let failed = Fault::database("explain a list");
        let all =
            (|| Ok([("awaiting", awaiting?), ("standing", standing?), ("latest", latest?), ("expired approvals", expired?)]))();
        Ok(all.map_err(failed)?.into_iter().collect())
    }
}
