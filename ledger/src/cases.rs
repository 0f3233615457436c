//! A case: a run with everything that decides about it, read in one statement inside the transaction that decides.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use lethe_stages::{Facts, PLAN_VERSION, UsageKnown, manifest::Manifest, permit::ApprovalFacts};
use serde_json::Value as Json;
use sqlx::sqlite::SqliteRow;
use uuid::Uuid;

use crate::{
    db::Tx,
    fault::Fault,
    offboardings::{self, Offboarding},
    planes::{self, Binding, Plane},
    queue::{self, Run},
    rows::{Cells, to_json, us},
    trail::Chain,
};

/// What a run works on, beside its facts.
#[derive(Debug)]
pub struct Bound {
    /// The plane's bindings, in order.
    pub bindings: Vec<Binding>,
    /// Where the offboarding's archive lies, if it was verified.
    pub prefix: Option<String>,
    /// Its manifest, unless it is purged.
    pub manifest: Option<Manifest>,
}

/// The same as it stands in the ledger. Read when it is asked for: what cannot be read is the fault of its own run alone.
#[derive(Debug)]
struct BoundText {
    bindings: String,
    prefix: Option<String>,
    manifest: Option<String>,
}

/// A run and the facts around it.
#[derive(Debug, Clone)]
pub struct Case {
    /// The run.
    pub run: Run,
    /// Its plane.
    pub plane: Plane,
    /// Its offboarding.
    pub offboarding: Offboarding,
    /// What handlers and gate judge.
    pub facts: Facts,
    /// Whether anything at all is paused.
    pub paused: bool,
    bound: Arc<BoundText>,
}

impl Case {
    /// What the run works on.
    pub fn bound(&self) -> Result<Bound, Fault> {
        let unreadable = |table, column| {
            let id = self.plane.id.to_string();
            move |error: serde_json::Error| Fault::Unreadable { table, column, id, message: error.to_string() }
        };
        let mut bindings: Vec<Binding> =
            serde_json::from_str(&self.bound.bindings).map_err(unreadable("bindings", "plane_id"))?;
        for binding in &mut bindings {
            // A text in the ledger, so a text in what SQLite made of the row.
            if let Some(Json::String(text)) = &binding.mapping {
                binding.mapping = Some(serde_json::from_str(text).map_err(unreadable("bindings", "mapping"))?);
            }
        }
        let manifest = self.bound.manifest.as_deref().map(serde_json::from_str).transpose();
        let manifest = manifest.map_err(unreadable("archives", "manifest"))?;
        Ok(Bound { bindings, prefix: self.bound.prefix.clone(), manifest })
    }
}

// CROSS JOIN keeps the order: the run's index decides what is read, the rest is looked up by key.
macro_rules! select_cases {
    ($where:expr) => {
        concat!(
            "SELECT r.*,
    p.id AS p_id, p.tenant_id AS p_tenant_id, p.name AS p_name, p.state AS p_state, p.epoch AS p_epoch, p.draining AS p_draining,
    p.archive_url AS p_archive_url, p.archive_id AS p_archive_id, p.usage_reported AS p_usage_reported, p.created_at AS p_created_at,
    p.purged_at AS p_purged_at, p.restored_from AS p_restored_from, p.restored_manifest_sha256 AS p_restored_manifest_sha256,
    o.id AS o_id, o.plane_id AS o_plane_id, o.tenant_id AS o_tenant_id, o.plan_version AS o_plan_version, o.status AS o_status,
    o.ground AS o_ground, o.reason AS o_reason, o.requested_by AS o_requested_by, o.terms_digest AS o_terms_digest,
    o.grace_access AS o_grace_access, o.evict AS o_evict, o.grace_us AS o_grace_us, o.archive_delay_us AS o_archive_delay_us,
    o.retention_us AS o_retention_us, o.retention_basis AS o_retention_basis, o.usage_unknown_accepted AS o_usage_unknown_accepted,
    o.requested_at AS o_requested_at, o.received_at AS o_received_at, o.legal_due_at AS o_legal_due_at, o.grace_until AS o_grace_until,
    o.archive_after AS o_archive_after, o.retention_until AS o_retention_until, o.round AS o_round, o.salt AS o_salt, o.plan AS o_plan,
    o.plan_digest AS o_plan_digest, o.closed_at AS o_closed_at,
    t.status AS tenant_status,
    (SELECT w.clock_suspect_since IS NOT NULL FROM witness w) AS clock_suspect,
    (SELECT w.behind_since IS NOT NULL FROM witness w) AS ledger_behind,
    (SELECT json_group_array(h.id) FROM holds h WHERE h.released_at IS NULL AND h.subject_id IN (p.id, p.tenant_id)) AS holds,
    (SELECT count(*) FROM plane_usage u WHERE u.plane_id = p.id AND u.closed_at IS NULL AND u.expires_at > ?1 AND u.kind = 'run') AS runs_used,
    (SELECT count(*) FROM plane_usage u WHERE u.plane_id = p.id AND u.closed_at IS NULL AND u.expires_at > ?1 AND u.kind = 'query') AS queries_used,
    (SELECT max(u.expires_at) FROM plane_usage u WHERE u.plane_id = p.id AND u.closed_at IS NULL AND u.expires_at > ?1) AS usage_until,
    (SELECT count(*) FROM access_tokens k WHERE k.plane_id = p.id AND k.status <> 'revoked') AS tokens,
    c.head, c.next_sequence, EXISTS (SELECT 1 FROM pauses) AS paused,
    (SELECT json_group_array(json_object('store_id', b.store_id, 'store', b.name, 'store_url', b.url, 'resource', b.resource,
        'plane_column', b.plane_column, 'value_digest', b.value_digest, 'mapping', b.mapping))
     FROM (SELECT b.*, s.name, s.url FROM bindings b JOIN stores s ON s.id = b.store_id WHERE b.plane_id = p.id ORDER BY b.position) b
    ) AS bindings,
    a.prefix, a.manifest, a.manifest_sha256, y.id AS y_id, y.plan_digest AS y_plan_digest, y.expires_at AS y_expires_at, y.status AS y_status,
    EXISTS (SELECT 1 FROM approvals d WHERE d.offboarding_id = o.id AND d.status = 'denied' AND d.plan_digest = o.plan_digest) AS denied
FROM stage_runs r CROSS JOIN planes p ON p.id = r.plane_id CROSS JOIN offboardings o ON o.id = r.offboarding_id
    CROSS JOIN tenants t ON t.id = r.tenant_id
    LEFT JOIN chains c ON c.chain = 'plane:' || p.id
    LEFT JOIN archives a ON a.offboarding_id = o.id
    LEFT JOIN approvals y ON y.offboarding_id = o.id AND y.status IN ('granted', 'consumed')
WHERE ",
            $where
        )
    };
}

macro_rules! due {
    () => {
        "r.status = 'queued' AND r.due_at <= ?1 AND o.plan_version <= ?2 ORDER BY r.due_at LIMIT ?3"
    };
}

macro_rules! named {
    () => {
        "r.id IN (SELECT value FROM json_each(?2))"
    };
}

fn case(row: &SqliteRow, at: DateTime<Utc>) -> Result<Case, Fault> {
    let run = queue::run_row(row)?;
    let plane = planes::plane(&Cells::prefixed(row, "planes", "p_", "id"))?;
    let offboarding = offboardings::offboarding(&Cells::prefixed(row, "offboardings", "o_", "id"))?;
    let cells = Cells::new(row, "stage_runs", "id");
    let approval = Cells::prefixed(row, "approvals", "y_", "id");
    let approval_status: Option<String> = approval.get("status")?;
    let standing = match approval_status.as_deref() {
        Some("granted" | "consumed") => Some(ApprovalFacts {
            id: approval.parsed("id")?,
            plan_digest: approval.get("plan_digest")?,
            expires_at: approval.at("expires_at")?,
            consumed: approval_status.as_deref() == Some("consumed"),
        }),
        _ => None,
    };
    let terms = &offboarding.terms;
    let facts = Facts {
        at,
        tenant_id: plane.tenant_id,
        tenant_status: cells.get("tenant_status")?,
        plane_id: plane.id,
        state: plane.state,
        offboarding_id: offboarding.id,
        ground: terms.ground,
        evict: terms.evict,
        grace_access: terms.grace_access,
        grace_until: offboarding.grace_until,
        // Break-glass has its place here and comes with the policies.
        grace_skipped: false,
        retention_until: offboarding.retention_until,
        holds: cells.json("holds")?.unwrap_or_default(),
        runs_in_flight: cells.get::<i64>("runs_used")? as u64,
        queries_in_flight: cells.get::<i64>("queries_used")? as u64,
        usage_until: cells.maybe_at("usage_until")?,
        usage_known: if plane.usage_reported { UsageKnown::Reported } else { UsageKnown::None },
        usage_unknown_accepted: terms.usage_unknown_accepted,
        tokens: cells.get::<i64>("tokens")? as u64,
        manifest_sha256: cells.get("manifest_sha256")?,
        plan_digest: offboarding.plan.as_ref().map(|plan| plan.digest()),
        // A plan that is not the one its row was given a digest for names no manifest.
        plan_manifest_sha256: offboarding
            .plan
            .as_ref()
            .filter(|plan| Some(plan.digest()) == offboarding.plan_digest)
            .map(|plan| plan.manifest_sha256.clone()),
        approval: standing,
        denied: cells.get("denied")?,
        clock_suspect: cells.get("clock_suspect")?,
        ledger_behind: cells.get("ledger_behind")?,
        // One run of a plane at a time: while a restore is open, no other step is.
        restore_pending: false,
    };
    let bound = BoundText { bindings: cells.get("bindings")?, prefix: cells.get("prefix")?, manifest: cells.get("manifest")? };
    Ok(Case { run, plane, offboarding, facts, paused: cells.get("paused")?, bound: Arc::new(bound) })
}

impl Tx {
    /// Up to `limit` runs that are due, the longest waiting first; of one plane, if given. Never one whose plan this program does not know.
    pub async fn due_cases(&mut self, limit: usize, plane: Option<Uuid>) -> Result<Vec<Case>, Fault> {
        let at = self.at();
        let query = match plane {
            None => sqlx::query(select_cases!(due!())),
            Some(_) => sqlx::query(select_cases!(
                "r.status = 'queued' AND r.due_at <= ?1 AND o.plan_version <= ?2 AND r.plane_id = ?4 ORDER BY r.due_at LIMIT ?3"
            )),
        };
        let query = query.bind(us(at)).bind(PLAN_VERSION).bind(limit as i64);
        let query = if let Some(plane) = plane { query.bind(plane.to_string()) } else { query };
        let rows = query.fetch_all(self.connection()).await.map_err(Fault::database("read due runs"))?;
        rows.iter().map(|row| self.case(row)).collect()
    }

    /// The cases of these runs, whatever their status, in no order.
    pub async fn cases(&mut self, runs: &[Uuid]) -> Result<Vec<Case>, Fault> {
        let rows = sqlx::query(select_cases!(named!()))
            .bind(us(self.at()))
            .bind(to_json(&runs))
            .fetch_all(self.connection())
            .await
            .map_err(Fault::database("read runs"))?;
        rows.iter().map(|row| self.case(row)).collect()
    }

    fn case(&mut self, row: &SqliteRow) -> Result<Case, Fault> {
        let case = case(row, self.at())?;
        let cells = Cells::new(row, "chains", "id");
        let head = cells.get::<Option<String>>("head")?.zip(cells.get::<Option<i64>>("next_sequence")?);
        self.unwritten.note(Chain::Plane(case.plane.id), head);
        Ok(case)
    }

    /// The case of the plane's unfinished run.
    pub async fn open_case(&mut self, plane: Uuid) -> Result<Option<Case>, Fault> {
        match self.open_run(plane).await? {
            Some(run) => Ok(self.cases(&[run.id]).await?.pop()),
            None => Ok(None),
        }
    }
}

#[cfg(feature = "testing")]
impl Tx {
    /// How the database reads what is due, and the runs that are recorded: one line per table.
    pub async fn query_plans(&mut self) -> Result<[Vec<String>; 2], Fault> {
        let mut plans = [Vec::new(), Vec::new()];
        let statements =
            [concat!("EXPLAIN QUERY PLAN ", select_cases!(due!())), concat!("EXPLAIN QUERY PLAN ", select_cases!(named!()))];
        for (plan, statement) in plans.iter_mut().zip(statements) {
            let rows = sqlx::query(statement).fetch_all(self.connection()).await.map_err(Fault::database("explain a query"))?;
            *plan = rows.iter().map(|row| sqlx::Row::get(row, "detail")).collect();
        }
        Ok(plans)
    }
}
