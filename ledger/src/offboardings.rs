//! Offboardings: the frozen terms, and each deadline once it has started.
//!
//! The rule: terms never move, a deadline is written once; triggers refuse anything else.

use chrono::{DateTime, TimeDelta, Utc};
use lethe_stages::{
    EvictMode, GraceAccess, Ground, LifecycleState, PLAN_VERSION, destruction::DestructionPlan, lifecycle::Wait, record::Salt,
};
use serde::Serialize;
use uuid::Uuid;

use crate::{
    archive_keys::WrappedKey,
    db::Tx,
    fault::Fault,
    many::{Many, Script},
    rows::{Cells, to_json},
    sql::{Document, Row, Value, statements},
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
    /// The plane's epoch then.
    pub requested_epoch: i64,
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
    /// The key of its archive; `None` where that is not encrypted.
    pub archive_key_id: Option<Uuid>,
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
        id: cells.id("id")?,
        terms: NewOffboarding {
            plane_id: cells.id("plane_id")?,
            tenant_id: cells.id("tenant_id")?,
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
        requested_epoch: cells.get("requested_epoch")?,
        grace_until: cells.maybe_at("grace_until")?,
        archive_after: cells.maybe_at("archive_after")?,
        retention_until: cells.maybe_at("retention_until")?,
        round: cells.get::<i64>("round")? as u32,
        salt: salt.and_then(|bytes| bytes.try_into().ok()).map(Salt),
        archive_key_id: cells.maybe_id("archive_key_id")?,
        plan: cells.json("plan")?,
        plan_digest: cells.get("plan_digest")?,
        closed_at: cells.maybe_at("closed_at")?,
    })
}

fn offboarding_row(row: &Row) -> Result<Offboarding, Fault> {
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
    /// Whether something of the purged plane came back, and nobody has closed that.
    pub reopened: bool,
}

macro_rules! start {
    ($column:literal) => {
        Many {
            doing: "start a wait",
            table: "offboardings",
            before: "WITH wait (id, until) AS (",
            after: concat!(
                ") UPDATE offboardings AS o SET ",
                $column,
                " = wait.until FROM wait WHERE o.id = wait.id AND o.",
                $column,
                " IS NULL"
            ),
            types: &["uuid", "timestamptz"],
        }
    };
}

static STARTS: [(Wait, Many); 3] = [
    (Wait::Grace, start!("grace_until")),
    (Wait::ArchiveDelay, start!("archive_after")),
    (Wait::Retention, start!("retention_until")),
];

static PLAN: Many = Many {
    doing: "write the destruction plan",
    table: "offboardings",
    before: "WITH made (id, plan, plan_digest) AS (",
    after: ") UPDATE offboardings SET plan = made.plan, plan_digest = made.plan_digest
        FROM made WHERE offboardings.id = made.id AND offboardings.status = 'open'",
    types: &["uuid", "json", "text"],
};

/// Every batch of this module.
#[cfg(feature = "testing")]
pub(crate) static BATCHES: &[&Many] = &[&STARTS[0].1, &STARTS[1].1, &STARTS[2].1, &PLAN];

statements! {
    OPEN = "open an offboarding",
        "INSERT INTO offboardings (id, plane_id, tenant_id, plan_version, status, ground, reason, requested_by, terms_digest,
            grace_access, evict, grace_us, archive_delay_us, retention_us, retention_basis, usage_unknown_accepted,
            requested_at, received_at, legal_due_at, round, salt, archive_key_id, requested_epoch)
         VALUES ($1, $2, $3, $4, 'open', $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, 0, $19, $20,
            (SELECT epoch FROM planes WHERE id = $2))";
    OFFBOARDING = "read an offboarding", "SELECT * FROM offboardings WHERE id = $1";
    OF_PLANE = "read a plane's offboardings",
        "SELECT * FROM offboardings WHERE plane_id = $1 ORDER BY rowid DESC",
        "SELECT * FROM offboardings WHERE plane_id = $1 ORDER BY place DESC";
    NEXT_ROUND = "begin another export", "UPDATE offboardings SET round = round + 1 WHERE id = $1 AND status = 'open'";
    CLOSE = "close an offboarding", "UPDATE offboardings SET status = $2, closed_at = $3 WHERE id = $1 AND status = 'open'";
    LIST = "list offboardings",
        "SELECT o.id, o.plane_id, o.status, o.ground, o.requested_at, p.state,
                t.name || '/' || coalesce(p.name, '(erased)') AS plane, r.step, r.status AS run_status, r.due_at, r.waits_for,
                EXISTS (SELECT 1 FROM findings f WHERE f.plane_id = o.plane_id AND f.status = 'open') AND o.status = 'completed' AS reopened
         FROM offboardings o JOIN planes p ON p.id = o.plane_id JOIN tenants t ON t.id = o.tenant_id
         LEFT JOIN stage_runs r ON r.offboarding_id = o.id AND r.status IN ('queued', 'parked', 'running', 'halted')
         WHERE ($1 IS NULL OR o.tenant_id = $1) AND ($2 IS NULL OR p.state = $2) AND (NOT $3 OR r.status = 'halted')
           AND ($4 IS NULL OR r.due_at < $4) AND ($5 IS NULL OR o.status = $5)
         ORDER BY o.requested_at, o.id",
        "SELECT o.id, o.plane_id, o.status, o.ground, o.requested_at, p.state,
                t.name || '/' || coalesce(p.name, '(erased)') AS plane, r.step, r.status AS run_status, r.due_at, r.waits_for,
                EXISTS (SELECT 1 FROM findings f WHERE f.plane_id = o.plane_id AND f.status = 'open') AND o.status = 'completed' AS reopened
         FROM offboardings o JOIN planes p ON p.id = o.plane_id JOIN tenants t ON t.id = o.tenant_id
         LEFT JOIN stage_runs r ON r.offboarding_id = o.id AND r.status IN ('queued', 'parked', 'running', 'halted')
         WHERE ($1::uuid IS NULL OR o.tenant_id = $1) AND ($2::text IS NULL OR p.state = $2) AND (NOT $3::boolean OR r.status = 'halted')
           AND ($4::timestamptz IS NULL OR r.due_at < $4) AND ($5::text IS NULL OR o.status = $5)
         ORDER BY o.requested_at, o.id";
}

impl Tx {
    /// Opens an offboarding and answers it. Its archive will be encrypted under `key`, if there is one.
    pub async fn insert_offboarding(&mut self, new: &NewOffboarding, key: Option<&WrappedKey>) -> Result<Offboarding, Fault> {
        let id = self.new_id();
        let salt = self.random::<32>();
        let at = self.at();
        let us = |span: TimeDelta| Value::Int(span.num_microseconds());
        let open = self.sql(&OPEN).bind(id).bind(new.plane_id).bind(new.tenant_id).bind(PLAN_VERSION).bind(new.ground.as_str());
        let open = open.bind(&new.reason).bind(&new.requested_by).bind(&new.terms_digest).bind(new.grace_access.as_str());
        let open = open.bind(new.evict.as_str()).bind(us(new.grace)).bind(us(new.archive_delay)).bind(us(new.retention));
        let open = open.bind(new.retention_basis.clone()).bind(new.usage_unknown_accepted).bind(at).bind(new.received_at);
        open.bind(new.legal_due_at).bind(salt.as_slice()).bind(key.map(|key| key.id)).one().await?;
        if let Some(key) = key {
            self.keep_archive_key(id, key).await?;
        }
        Ok(self.offboarding(id).await?.expect("inserted in this transaction"))
    }

    /// The offboarding.
    pub async fn offboarding(&mut self, id: Uuid) -> Result<Option<Offboarding>, Fault> {
        self.sql(&OFFBOARDING).bind(id).optional().await?.as_ref().map(offboarding_row).transpose()
    }

    /// The plane's offboardings, the newest first.
    pub async fn offboardings_of(&mut self, plane: Uuid) -> Result<Vec<Offboarding>, Fault> {
        self.sql(&OF_PLANE).bind(plane).all().await?.iter().map(offboarding_row).collect()
    }

    /// Writes the ends of waits that start, each once.
    pub(crate) fn start_waits(&self, mut waits: Vec<(Wait, Uuid, DateTime<Utc>)>, script: &mut Script) {
        for (wait, many) in &STARTS {
            let started = waits.extract_if(.., |(kind, ..)| kind == wait).collect();
            script.add(many, started, |query, (_, id, until): (Wait, Uuid, DateTime<Utc>)| query.bind(id).bind(until));
        }
    }

    /// Writes the destruction plan that is to be approved.
    pub async fn set_plan(&mut self, plan: &DestructionPlan) -> Result<(), Fault> {
        let mut script = Script::default();
        self.set_plans(vec![plan.clone()], &mut script);
        self.run(script).await
    }

    pub(crate) fn set_plans(&self, plans: Vec<DestructionPlan>, script: &mut Script) {
        script.add(&PLAN, plans, |query, plan: DestructionPlan| {
            query.bind(plan.offboarding_id).bind(Document(to_json(&plan))).bind(plan.digest())
        });
    }

    /// Begins another round of exports.
    pub async fn next_round(&mut self, id: Uuid) -> Result<(), Fault> {
        self.sql(&NEXT_ROUND).bind(id).one().await
    }

    /// Closes an open offboarding, and destroys the key of its archive.
    pub async fn close_offboarding(&mut self, id: Uuid, status: OffboardingStatus) -> Result<(), Fault> {
        let at = self.at();
        self.sql(&CLOSE).bind(id).bind(status.as_str()).bind(at).one().await?;
        self.close_deadline(id).await?;
        if status == OffboardingStatus::Completed {
            self.certificate_is_due(id).await?;
        }
        self.destroy_archive_key(id).await
    }

    /// Offboardings by request, filtered.
    pub async fn offboardings(&mut self, filter: &OffboardingFilter) -> Result<Vec<OffboardingSummary>, Fault> {
        let list = self.sql(&LIST).bind(filter.tenant_id).bind(filter.state.map(|state| state.as_str())).bind(filter.halted);
        let rows = list.bind(filter.due_before).bind(filter.status.map(|status| status.as_str())).all().await?;
        rows.iter()
            .map(|row| {
                let cells = Cells::new(row, "offboardings", "id");
                Ok(OffboardingSummary {
                    offboarding_id: cells.id("id")?,
                    plane_id: cells.id("plane_id")?,
                    plane: cells.get("plane")?,
                    state: cells.parsed("state")?,
                    status: cells.parsed("status")?,
                    ground: cells.parsed("ground")?,
                    step: cells.get("step")?,
                    run_status: cells.get("run_status")?,
                    due_at: cells.maybe_at("due_at")?,
                    waits_for: cells.get("waits_for")?,
                    requested_at: cells.at("requested_at")?,
                    reopened: cells.get("reopened")?,
                })
            })
            .collect()
    }
}
