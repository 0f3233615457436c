//! Offboardings: the frozen terms, and each deadline once it has started.
//!
//! The rule: terms never move, a deadline is written once; triggers refuse anything else.

use chrono::{DateTime, TimeDelta, Utc};
use lethe_stages::{
    EvictMode, GraceAccess, Ground, LifecycleState, PLAN_VERSION, destruction::DestructionPlan, lifecycle::Wait, record::Salt,
};
use serde::Serialize;
use sqlx::sqlite::SqliteRow;
use uuid::Uuid;

use crate::{
    db::Tx,
    fault::Fault,
    many::{Many, Script},
    rows::{Cells, one, to_json, us},
};

lethe_stages::text_enum! {
    /// Whether an offboarding goes on.
    OffboardingStatus {
        /// It goes on.
        Open = "open",
        /// It was cancelled in grace.
        Cancelled = "cancelled",
        /// The plane is purged.
        Completed = "completed",
    }
}

/// What is fixed at the request.
#[derive(Debug, Clone)]
pub struct NewOffboarding {
    /// What leaves.
    pub plane_id: Uuid,
    /// Whose it is.
    pub tenant_id: Uuid,
    /// Why.
    pub ground: Ground,
    /// In the requester's words.
    pub reason: String,
    /// Who asked, as `type:id`.
    pub requested_by: String,
    /// Digest of the terms.
    pub terms_digest: String,
    /// What grace leaves open.
    pub grace_access: GraceAccess,
    /// When the hot copy goes.
    pub evict: EvictMode,
    /// Length of the grace period.
    pub grace: TimeDelta,
    /// Between DEACTIVATED and export.
    pub archive_delay: TimeDelta,
    /// Between ARCHIVED and purge.
    pub retention: TimeDelta,
    /// The legal basis of a retention above 0.
    pub retention_basis: Option<String>,
    /// Whether policy accepts that nobody reports usage.
    pub usage_unknown_accepted: bool,
    /// When the demand arrived.
    pub received_at: DateTime<Utc>,
    /// When the law wants it done.
    pub legal_due_at: Option<DateTime<Utc>>,
}

/// An offboarding.
#[derive(Debug, Clone)]
pub struct Offboarding {
    /// Its identity.
    pub id: Uuid,
    /// What was fixed at the request.
    pub terms: NewOffboarding,
    /// The plan it follows.
    pub plan_version: i64,
    /// Whether it goes on.
    pub status: OffboardingStatus,
    /// When it was requested.
    pub requested_at: DateTime<Utc>,
    /// End of grace, once started.
    pub grace_until: Option<DateTime<Utc>>,
    /// End of the archive delay, once started.
    pub archive_after: Option<DateTime<Utc>>,
    /// End of retention, once started.
    pub retention_until: Option<DateTime<Utc>>,
    /// Exports begun before the current one.
    pub round: u32,
    /// Secret of the inventory's digests; gone once purged.
    pub salt: Option<Salt>,
    /// The destruction plan, from ARCHIVED on; gone once purged.
    pub plan: Option<DestructionPlan>,
    /// Its digest.
    pub plan_digest: Option<String>,
    /// When it was cancelled or completed.
    pub closed_at: Option<DateTime<Utc>>,
}

pub(crate) fn offboarding(cells: &Cells<'_>) -> Result<Offboarding, Fault> {
    let salt: Option<Vec<u8>> = cells.get("salt")?;
    Ok(Offboarding {
        id: cells.parsed("id")?,
        terms: NewOffboarding {
            plane_id: cells.parsed("plane_id")?,
            tenant_id: cells.parsed("tenant_id")?,
            ground: cells.parsed("ground")?,
            reason: cells.get("reason")?,
            requested_by: cells.get("requested_by")?,
            terms_digest: cells.get("terms_digest")?,
            grace_access: cells.parsed("grace_access")?,
            evict: cells.parsed("evict")?,
            grace: cells.span("grace_us")?,
            archive_delay: cells.span("archive_delay_us")?,
            retention: cells.span("retention_us")?,
            retention_basis: cells.get("retention_basis")?,
            usage_unknown_accepted: cells.get("usage_unknown_accepted")?,
            received_at: cells.at("received_at")?,
            legal_due_at: cells.maybe_at("legal_due_at")?,
        },
        plan_version: cells.get("plan_version")?,
        status: cells.parsed("status")?,
        requested_at: cells.at("requested_at")?,
        grace_until: cells.maybe_at("grace_until")?,
        archive_after: cells.maybe_at("archive_after")?,
        retention_until: cells.maybe_at("retention_until")?,
        round: cells.get::<i64>("round")? as u32,
        salt: salt.and_then(|bytes| bytes.try_into().ok()).map(Salt),
        plan: cells.json("plan")?,
        plan_digest: cells.get("plan_digest")?,
        closed_at: cells.maybe_at("closed_at")?,
    })
}

fn offboarding_row(row: &SqliteRow) -> Result<Offboarding, Fault> {
    offboarding(&Cells::new(row, "offboardings", "id"))
}

/// Which offboardings to list; what is `None` does not filter.
#[derive(Debug, Clone, Default)]
pub struct OffboardingFilter {
    /// Of this tenant.
    pub tenant_id: Option<Uuid>,
    /// Of planes in this state.
    pub state: Option<LifecycleState>,
    /// Whose run is halted.
    pub halted: bool,
    /// Whose run is due before this instant.
    pub due_before: Option<DateTime<Utc>>,
    /// In this status.
    pub status: Option<OffboardingStatus>,
}

/// A line of a listing.
#[derive(Debug, Clone, Serialize)]
pub struct OffboardingSummary {
    /// The offboarding.
    pub offboarding_id: Uuid,
    /// The plane.
    pub plane_id: Uuid,
    /// Tenant and plane by name, as far as they still have one.
    pub plane: String,
    /// The plane's state.
    pub state: LifecycleState,
    /// The offboarding's status.
    pub status: OffboardingStatus,
    /// Why.
    pub ground: Ground,
    /// The run that is queued, parked, running or halted.
    pub step: Option<String>,
    /// Its status.
    pub run_status: Option<String>,
    /// When it is due.
    pub due_at: Option<DateTime<Utc>>,
    /// What it waits for.
    pub waits_for: Option<String>,
    /// When it was requested.
    pub requested_at: DateTime<Utc>,
}

macro_rules! start {
    ($column:literal) => {
        Many {
            doing: "start a wait",
            before: "WITH wait (id, until) AS (",
            after: concat!(
                ") UPDATE offboardings AS o SET ",
                $column,
                " = wait.until FROM wait WHERE o.id = wait.id AND o.",
                $column,
                " IS NULL"
            ),
            columns: 2,
        }
    };
}

static STARTS: [(Wait, Many); 3] = [
    (Wait::Grace, start!("grace_until")),
    (Wait::ArchiveDelay, start!("archive_after")),
    (Wait::Retention, start!("retention_until")),
];

impl Tx {
    /// Opens an offboarding and answers it.
    pub async fn insert_offboarding(&mut self, new: &NewOffboarding) -> Result<Offboarding, Fault> {
        let id = self.new_id();
        let salt = self.random::<32>();
        let at = us(self.at());
        let done = sqlx::query(
            "INSERT INTO offboardings (id, plane_id, tenant_id, plan_version, status, ground, reason, requested_by, terms_digest,
                grace_access, evict, grace_us, archive_delay_us, retention_us, retention_basis, usage_unknown_accepted,
                requested_at, received_at, legal_due_at, round, salt)
             VALUES (?, ?, ?, ?, 'open', ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0, ?)",
        )
        .bind(id.to_string())
        .bind(new.plane_id.to_string())
        .bind(new.tenant_id.to_string())
        .bind(PLAN_VERSION)
        .bind(new.ground.as_str())
        .bind(&new.reason)
        .bind(&new.requested_by)
        .bind(&new.terms_digest)
        .bind(new.grace_access.as_str())
        .bind(new.evict.as_str())
        .bind(new.grace.num_microseconds())
        .bind(new.archive_delay.num_microseconds())
        .bind(new.retention.num_microseconds())
        .bind(&new.retention_basis)
        .bind(new.usage_unknown_accepted)
        .bind(at)
        .bind(us(new.received_at))
        .bind(new.legal_due_at.map(us))
        .bind(salt.as_slice())
        .execute(self.connection())
        .await;
        one("open an offboarding", done.map_err(Fault::database("open an offboarding"))?)?;
        Ok(self.offboarding(id).await?.expect("inserted in this transaction"))
    }

    /// The offboarding.
    pub async fn offboarding(&mut self, id: Uuid) -> Result<Option<Offboarding>, Fault> {
        let row = sqlx::query("SELECT * FROM offboardings WHERE id = ?")
            .bind(id.to_string())
            .fetch_optional(self.connection())
            .await
            .map_err(Fault::database("read an offboarding"))?;
        row.as_ref().map(offboarding_row).transpose()
    }

    /// The plane's offboardings, the newest first.
    pub async fn offboardings_of(&mut self, plane: Uuid) -> Result<Vec<Offboarding>, Fault> {
        let rows = sqlx::query("SELECT * FROM offboardings WHERE plane_id = ? ORDER BY rowid DESC")
            .bind(plane.to_string())
            .fetch_all(self.connection())
            .await
            .map_err(Fault::database("read a plane's offboardings"))?;
        rows.iter().map(offboarding_row).collect()
    }

    /// Writes the ends of waits that start, each once.
    pub(crate) fn start_waits(&self, mut waits: Vec<(Wait, Uuid, DateTime<Utc>)>, script: &mut Script) {
        for (wait, many) in &STARTS {
            let started = waits.extract_if(.., |(kind, ..)| kind == wait).collect();
            script.add(many, started, |query, (_, id, until): (Wait, Uuid, _)| query.bind(id.to_string()).bind(us(until)));
        }
    }

    /// Writes the destruction plan that is to be approved.
    pub async fn set_plan(&mut self, plan: &DestructionPlan) -> Result<(), Fault> {
        let done = sqlx::query("UPDATE offboardings SET plan = ?, plan_digest = ? WHERE id = ? AND status = 'open'")
            .bind(to_json(plan))
            .bind(plan.digest())
            .bind(plan.offboarding_id.to_string())
            .execute(self.connection())
            .await;
        one("write the destruction plan", done.map_err(Fault::database("write the destruction plan"))?)
    }

    /// Begins another round of exports.
    pub async fn next_round(&mut self, id: Uuid) -> Result<(), Fault> {
        let done = sqlx::query("UPDATE offboardings SET round = round + 1 WHERE id = ? AND status = 'open'").bind(id.to_string());
        one("begin another export", done.execute(self.connection()).await.map_err(Fault::database("begin another export"))?)
    }

    /// Closes an open offboarding.
    pub async fn close_offboarding(&mut self, id: Uuid, status: OffboardingStatus) -> Result<(), Fault> {
        let at = us(self.at());
        let done = sqlx::query("UPDATE offboardings SET status = ?, closed_at = ? WHERE id = ? AND status = 'open'")
            .bind(status.as_str())
            .bind(at)
            .bind(id.to_string())
            .execute(self.connection())
            .await;
        one("close an offboarding", done.map_err(Fault::database("close an offboarding"))?)
    }

    /// Offboardings by request, filtered.
    pub async fn offboardings(&mut self, filter: &OffboardingFilter) -> Result<Vec<OffboardingSummary>, Fault> {
        let rows = sqlx::query(
            "SELECT o.id, o.plane_id, o.status, o.ground, o.requested_at, p.state,
                    t.name || '/' || coalesce(p.name, '(erased)') AS plane, r.step, r.status AS run_status, r.due_at, r.waits_for
             FROM offboardings o JOIN planes p ON p.id = o.plane_id JOIN tenants t ON t.id = o.tenant_id
             LEFT JOIN stage_runs r ON r.offboarding_id = o.id AND r.status IN ('queued', 'parked', 'running', 'halted')
             WHERE (?1 IS NULL OR o.tenant_id = ?1) AND (?2 IS NULL OR p.state = ?2) AND (NOT ?3 OR r.status = 'halted')
               AND (?4 IS NULL OR r.due_at < ?4) AND (?5 IS NULL OR o.status = ?5)
             ORDER BY o.requested_at, o.id",
        )
        .bind(filter.tenant_id.map(|id| id.to_string()))
        .bind(filter.state.map(|state| state.as_str()))
        .bind(filter.halted)
        .bind(filter.due_before.map(us))
        .bind(filter.status.map(|status| status.as_str()))
        .fetch_all(self.connection())
        .await
        .map_err(Fault::database("list offboardings"))?;
        rows.iter()
            .map(|row| {
                let cells = Cells::new(row, "offboardings", "id");
                Ok(OffboardingSummary {
                    offboarding_id: cells.parsed("id")?,
                    plane_id: cells.parsed("plane_id")?,
                    plane: cells.get("plane")?,
                    state: cells.parsed("state")?,
                    status: cells.parsed("status")?,
                    ground: cells.parsed("ground")?,
                    step: cells.get("step")?,
                    run_status: cells.get("run_status")?,
                    due_at: cells.maybe_at("due_at")?,
                    waits_for: cells.get("waits_for")?,
                    requested_at: cells.at("requested_at")?,
                })
            })
            .collect()
    }
}
