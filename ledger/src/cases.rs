//! A case: a run with everything that decides about it, read in one statement inside the transaction that decides.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use lethe_stages::{Facts, PLAN_VERSION, UsageKnown, permit::ApprovalFacts};
#[cfg(feature = "testing")]
use sqlx::Row;
use sqlx::sqlite::SqliteRow;
use uuid::Uuid;

use crate::{
    archives::{self, ArchiveRow},
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
    /// The offboarding's archive, if it was verified.
    pub archive: Option<ArchiveRow>,
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
}

// CROSS JOIN keeps the order: the run's index decides what is read, the rest is looked up by key.
macro_rules! select_cases {
    ($where:literal) => {
        concat!(
            "SELECT r.*,
    p.id AS p_id, p.tenant_id AS p_tenant_id, p.name AS p_name, p.state AS p_state, p.epoch AS p_epoch, p.draining AS p_draining,
    p.archive_url AS p_archive_url, p.archive_id AS p_archive_id, p.usage_reported AS p_usage_reported, p.created_at AS p_created_at,
    p.purged_at AS p_purged_at,
    o.id AS o_id, o.plane_id AS o_plane_id, o.tenant_id AS o_tenant_id, o.plan_version AS o_plan_version, o.status AS o_status,
    o.ground AS o_ground, o.reason AS o_reason, o.requested_by AS o_requested_by, o.terms_digest AS o_terms_digest,
    o.grace_access AS o_grace_access, o.evict AS o_evict, o.grace_us AS o_grace_us, o.archive_delay_us AS o_archive_delay_us,
    o.retention_us AS o_retention_us, o.retention_basis AS o_retention_basis, o.usage_unknown_accepted AS o_usage_unknown_accepted,
    o.requested_at AS o_requested_at, o.received_at AS o_received_at, o.legal_due_at AS o_legal_due_at, o.grace_until AS o_grace_until,
    o.archive_after AS o_archive_after, o.retention_until AS o_retention_until, o.round AS o_round, o.salt AS o_salt, o.plan AS o_plan,
    o.plan_digest AS o_plan_digest, o.closed_at AS o_closed_at,
    t.status AS tenant_status,
    (SELECT json_group_array(h.id) FROM holds h WHERE h.released_at IS NULL AND h.subject_id IN (p.id, p.tenant_id)) AS holds,
    (SELECT count(*) FROM plane_usage u WHERE u.plane_id = p.id AND u.closed_at IS NULL AND u.expires_at > ?1 AND u.kind = 'run') AS runs_used,
    (SELECT count(*) FROM plane_usage u WHERE u.plane_id = p.id AND u.closed_at IS NULL AND u.expires_at > ?1 AND u.kind = 'query') AS queries_used,
    (SELECT max(u.expires_at) FROM plane_usage u WHERE u.plane_id = p.id AND u.closed_at IS NULL AND u.expires_at > ?1) AS usage_until,
    (SELECT count(*) FROM access_tokens k WHERE k.plane_id = p.id AND k.status <> 'revoked') AS tokens,
    c.head, c.next_sequence, a.manifest_sha256, y.id AS y_id, y.plan_digest AS y_plan_digest, y.expires_at AS y_expires_at, y.status AS y_status,
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

macro_rules! due_cases {
    () => {
        select_cases!("r.status = 'queued' AND r.due_at <= ?1 AND o.plan_version <= ?2 ORDER BY r.due_at LIMIT ?3")
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
        plan_manifest_sha256: offboarding.plan.as_ref().map(|plan| plan.manifest_sha256.clone()),
        approval: standing,
        denied: cells.get("denied")?,
        // One run of a plane at a time: while a restore is open, no other step is.
        restore_pending: false,
    };
    Ok(Case { run, plane, offboarding, facts })
}

impl Tx {
    /// Up to `limit` runs that are due, the longest waiting first; of one plane, if given. Never one whose plan this program does not know.
    pub async fn due_cases(&mut self, limit: usize, plane: Option<Uuid>) -> Result<Vec<Case>, Fault> {
        let at = self.at();
        let query = match plane {
            None => sqlx::query(due_cases!()),
            Some(_) => sqlx::query(select_cases!(
                "r.status = 'queued' AND r.due_at <= ?1 AND o.plan_version <= ?2 AND r.plane_id = ?4 ORDER BY r.due_at LIMIT ?3"
            )),
        };
        let query = query.bind(us(at)).bind(PLAN_VERSION).bind(limit as i64);
        let query = if let Some(plane) = plane { query.bind(plane.to_string()) } else { query };
        let rows = query.fetch_all(self.connection()).await.map_err(Fault::database("read due runs"))?;
        rows.iter().map(|row| self.case(row)).collect()
    }

    /// How SQLite would find what is due: the lines of its query plan.
    #[cfg(feature = "testing")]
    pub async fn explain_due_cases(&mut self) -> Result<Vec<String>, Fault> {
        let rows = sqlx::query(concat!("EXPLAIN QUERY PLAN ", due_cases!()))
            .bind(us(self.at()))
            .bind(PLAN_VERSION)
            .bind(1)
            .fetch_all(self.connection())
            .await
            .map_err(Fault::database("explain how due runs are read"))?;
        Ok(rows.iter().map(|row| row.get("detail")).collect())
    }

    /// The cases of these runs, whatever their status, in no order.
    pub async fn cases(&mut self, runs: &[Uuid]) -> Result<Vec<Case>, Fault> {
        let rows = sqlx::query(select_cases!("r.id IN (SELECT value FROM json_each(?2))"))
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

    /// What these cases work on, in their order; a row that cannot be read is its own case's fault alone.
    pub async fn bound(&mut self, cases: &[&Case]) -> Result<Vec<Result<Bound, Fault>>, Fault> {
        if cases.is_empty() {
            return Ok(Vec::new());
        }
        let planes: Vec<Uuid> = cases.iter().map(|case| case.plane.id).collect();
        let offboardings: Vec<Uuid> = cases.iter().map(|case| case.offboarding.id).collect();
        let mut bindings: HashMap<String, Vec<Result<Binding, Fault>>> = HashMap::new();
        let rows = sqlx::query(
            "SELECT b.*, s.name, s.url FROM json_each(?) j CROSS JOIN bindings b ON b.plane_id = j.value
                CROSS JOIN stores s ON s.id = b.store_id ORDER BY b.position",
        )
        .bind(to_json(&planes))
        .fetch_all(self.connection())
        .await
        .map_err(Fault::database("read planes' bindings"))?;
        for row in &rows {
            bindings.entry(Cells::new(row, "bindings", "plane_id").get("plane_id")?).or_default().push(planes::binding(row));
        }
        let mut archives: HashMap<String, Result<ArchiveRow, Fault>> = HashMap::new();
        let rows = sqlx::query("SELECT a.* FROM json_each(?) j CROSS JOIN archives a ON a.offboarding_id = j.value")
            .bind(to_json(&offboardings))
            .fetch_all(self.connection())
            .await
            .map_err(Fault::database("read archives"))?;
        for row in &rows {
            archives.insert(Cells::new(row, "archives", "offboarding_id").get("offboarding_id")?, archives::archive(row));
        }
        let mut bound = |(plane, offboarding): (Uuid, Uuid)| {
            let bindings = bindings.remove(&plane.to_string()).unwrap_or_default().into_iter().collect::<Result<_, _>>()?;
            Ok(Bound { bindings, archive: archives.remove(&offboarding.to_string()).transpose()? })
        };
        Ok(planes.into_iter().zip(offboardings).map(&mut bound).collect())
    }

    /// The case of the plane's unfinished run.
    pub async fn open_case(&mut self, plane: Uuid) -> Result<Option<Case>, Fault> {
        match self.open_run(plane).await? {
            Some(run) => Ok(self.cases(&[run.id]).await?.pop()),
            None => Ok(None),
        }
    }
}
