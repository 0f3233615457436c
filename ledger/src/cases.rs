//! A case: a run with everything that decides about it, read in one statement inside the transaction that decides.

use std::{collections::HashMap, sync::Arc};

use chrono::{DateTime, Utc};
use lethe_stages::{
    Facts, LifecycleState, PLAN_VERSION, Step, UsageKnown, destruction::DestructionPlan, lifecycle::Wait, manifest::Manifest,
    permit::ApprovalFacts,
};
use serde::Deserialize;
use serde_json::Value as Json;
use uuid::Uuid;

use crate::{
    db::Tx,
    fault::Fault,
    offboardings::{self, Offboarding},
    planes::{self, Binding, Plane},
    queue::{self, Lease, NewRun, Run},
    release::{ApprovalStatus, Assurance},
    rows::{Cells, to_json},
    sql::{Row, statements},
    trail::Chain,
};

impl Given {
    /// Whether a purge has begun under it.
    pub fn is_used(&self) -> bool {
        self.status == ApprovalStatus::Consumed
    }
}

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

/// How it is known who gave an approval.
#[derive(Debug, Clone, Deserialize)]
pub struct Given {
    /// The approval.
    pub id: Uuid,
    /// Who gave it, as `type:id`.
    pub by: String,
    /// How that is known.
    pub assurance: Assurance,
    /// SSHSIG over the plan's text, armoured.
    pub signature: Option<String>,
    /// The key that it is said to be of, in OpenSSH's format.
    pub public_key: Option<String>,
    /// Whether that key was revoked since.
    pub revoked: bool,
    /// The roles that go with it.
    pub roles: Option<Vec<String>>,
    plan_digest: String,
    status: ApprovalStatus,
    expires_at_us: i64,
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
    /// How its tenant is called.
    pub tenant_name: String,
    /// How the approvals among the facts were given, in the same order.
    pub given: Vec<Given>,
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

impl Case {
    /// The drivers of the stores that the plane is bound to.
    pub fn store_kinds(&self) -> Vec<String> {
        #[derive(Deserialize)]
        struct At {
            store_kind: String,
        }
        // Where it cannot be read, the run's own fault says so as soon as it is used.
        let bound: Vec<At> = serde_json::from_str(&self.bound.bindings).unwrap_or_default();
        bound.into_iter().map(|at| at.store_kind).collect()
    }

    /// The registered names of those stores.
    pub fn store_names(&self) -> Vec<String> {
        #[derive(Deserialize)]
        struct At {
            store: String,
        }
        let bound: Vec<At> = serde_json::from_str(&self.bound.bindings).unwrap_or_default();
        bound.into_iter().map(|at| at.store).collect()
    }

    /// The run is leased at an epoch to which its plane is raised; an approval that releases it is consumed.
    pub fn leased(&mut self, epoch: i64, lease: &Lease) {
        self.run.leased(epoch, lease, self.facts.at);
        self.plane.epoch = epoch;
        if self.run.step == Step::Purge {
            let (plan, at) = (self.facts.plan_digest.clone().unwrap_or_default(), self.facts.at);
            for (approval, given) in self.facts.approvals.iter_mut().zip(&mut self.given) {
                if approval.releases(&plan, at) {
                    approval.consumed = true;
                    given.status = ApprovalStatus::Consumed;
                }
            }
        }
    }

    /// The case of the run that follows this one, as the ledger will read it once this transaction's changes are written: what they are
    /// is said by [`Self::moved`], [`Self::waits`] and [`Self::archived`].
    pub fn follow(&self, tx: &Tx, step: Step, due_at: DateTime<Utc>) -> Self {
        let Run { offboarding_id, plane_id, tenant_id, .. } = self.run;
        let new = NewRun { offboarding_id, plane_id, tenant_id, step, due_at };
        Self { run: Run::new(tx.new_id(), &new, tx.at()), ..self.clone() }
    }

    /// The plane moves.
    pub fn moved(mut self, to: LifecycleState) -> Self {
        self.plane.state = to;
        self.plane.draining = to != LifecycleState::Active;
        self.facts.state = to;
        self
    }

    /// A wait starts.
    pub fn waits(mut self, wait: Wait, until: DateTime<Utc>) -> Self {
        match wait {
            Wait::None => {}
            Wait::Grace => {
                self.offboarding.grace_until = Some(until);
                self.facts.grace_until = Some(until);
            }
            Wait::ArchiveDelay => self.offboarding.archive_after = Some(until),
            Wait::Retention => {
                self.offboarding.retention_until = Some(until);
                self.facts.retention_until = Some(until);
            }
        }
        self
    }

    /// Its access tokens are revoked.
    pub fn revoked(mut self) -> Self {
        self.facts.tokens = 0;
        self
    }

    /// Another round of exports begins.
    pub fn again(mut self) -> Self {
        self.offboarding.round += 1;
        self
    }

    /// There is a destruction plan to approve.
    pub fn planned(mut self, plan: DestructionPlan) -> Self {
        let digest = plan.digest();
        self.facts.plan_digest = Some(digest.clone());
        self.facts.plan_manifest_sha256 = Some(plan.manifest_sha256.clone());
        self.facts.denied = false;
        self.offboarding.plan = Some(plan);
        self.offboarding.plan_digest = Some(digest);
        self
    }

    /// A verified manifest is kept.
    pub fn archived(mut self, prefix: &str, manifest: &Manifest) -> Result<Self, Fault> {
        self.facts.manifest_sha256 = Some(lethe_stages::canonical::digest(manifest)?);
        let bindings = self.bound.bindings.clone();
        self.bound = Arc::new(BoundText { bindings, prefix: Some(prefix.to_owned()), manifest: Some(to_json(manifest)) });
        Ok(self)
    }
}

// What others may change while a run is leased: `$1` is the instant.
macro_rules! changing {
    ($holds:literal) => {
        concat!(
            "t.status AS tenant_status, t.name AS tenant_name, t.protected_until,
    EXISTS (SELECT 1 FROM break_glass g WHERE g.offboarding_id = r.offboarding_id) AS grace_skipped,
    (SELECT w.clock_suspect_since IS NOT NULL FROM witness w) AS clock_suspect,
    (SELECT w.behind_since IS NOT NULL FROM witness w) AS ledger_behind,
    (SELECT l.stopped_since IS NOT NULL FROM log l) AS log_stopped,
    (SELECT ",
            $holds,
            " FROM holds h WHERE h.released_at IS NULL AND h.subject_id IN (p.id, p.tenant_id)) AS holds,
    (SELECT count(*) FROM plane_usage u WHERE u.plane_id = p.id AND u.closed_at IS NULL AND u.expires_at > $1 AND u.kind = 'run') AS runs_used,
    (SELECT count(*) FROM plane_usage u WHERE u.plane_id = p.id AND u.closed_at IS NULL AND u.expires_at > $1 AND u.kind = 'query') AS queries_used,
    (SELECT max(u.expires_at) FROM plane_usage u WHERE u.plane_id = p.id AND u.closed_at IS NULL AND u.expires_at > $1) AS usage_until,
    (SELECT count(*) FROM access_tokens k WHERE k.plane_id = p.id AND k.status <> 'revoked') AS tokens,
    (SELECT count(*) FROM dependents d WHERE d.plane_id = p.id AND d.removed_at IS NULL) AS dependents,
    c.head, c.next_sequence, EXISTS (SELECT 1 FROM pauses) AS paused"
        )
    };
}

// The columns of a case, with what is said differently: a list of holds, the plane's bindings, how its chain is named.
macro_rules! select_cases {
    ($holds:literal, $bindings:literal, $approvals:literal, $chain:literal, $join:literal, $where:expr) => {
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
    o.plan_digest AS o_plan_digest, o.archive_key_id AS o_archive_key_id, o.closed_at AS o_closed_at, o.requested_epoch AS o_requested_epoch,
    ",
            changing!($holds),
            ",
    (SELECT ", $bindings, "
     FROM (SELECT b.*, s.name, s.kind, s.url, s.identity, x.id AS attestation_id, x.evidence_sha256 FROM bindings b JOIN stores s ON s.id = b.store_id
        LEFT JOIN attestations x ON x.plane_id = b.plane_id AND x.store_id = b.store_id AND x.confirmed_at IS NOT NULL
        WHERE b.plane_id = p.id ORDER BY b.position) b
    ) AS bindings,
    a.prefix, a.manifest, a.manifest_sha256,
    CASE WHEN o.plan_digest IS NOT NULL THEN (SELECT ", $approvals, "
        FROM (SELECT * FROM approvals s WHERE s.offboarding_id = o.id AND s.status IN ('granted', 'consumed') ORDER BY s.decided_at, s.id) y
        LEFT JOIN approvers k ON k.fingerprint = y.key_fingerprint) END AS approvals,
    EXISTS (SELECT 1 FROM approvals d WHERE d.offboarding_id = o.id AND d.status = 'denied' AND d.plan_digest = o.plan_digest) AS denied
FROM stage_runs r ", $join, " planes p ON p.id = r.plane_id ", $join, " offboardings o ON o.id = r.offboarding_id ", $join, " tenants t ON t.id = r.tenant_id
    LEFT JOIN chains c ON c.chain = 'plane:' || p.id", $chain, "
    LEFT JOIN archives a ON a.offboarding_id = o.id
WHERE ",
            $where
        )
    };
}

// CROSS JOIN keeps the order: the run's index decides what is read, the rest is looked up by key.
macro_rules! sqlite {
    ($where:expr) => {
        select_cases!(
            "json_group_array(h.id)",
            "json_group_array(json_object('store_id', b.store_id, 'store', b.name, 'store_kind', b.kind, 'store_url', b.url,
                'store_identity', b.identity, 'resource', b.resource, 'plane_column', b.plane_column, 'value_digest', b.value_digest, 'mapping', b.mapping,
                'attestation_id', b.attestation_id, 'attested_evidence', b.evidence_sha256))",
            "json_group_array(json_object('id', y.id, 'by', y.approved_by, 'assurance', y.identity_assurance, 'signature', y.signature,
                'public_key', k.public_key, 'revoked', json(iif(k.revoked_at IS NULL, 'false', 'true')), 'roles', json(k.roles),
                'plan_digest', y.plan_digest, 'status', y.status, 'expires_at_us', y.expires_at))",
            "",
            "CROSS JOIN",
            $where
        )
    };
}

macro_rules! postgres {
    ($where:expr) => {
        select_cases!(
            "coalesce(json_agg(h.id), '[]')",
            "coalesce(json_agg(json_build_object('store_id', b.store_id, 'store', b.name, 'store_kind', b.kind, 'store_url', b.url,
                'store_identity', b.identity, 'resource', b.resource, 'plane_column', b.plane_column, 'value_digest', b.value_digest, 'mapping', b.mapping,
                'attestation_id', b.attestation_id, 'attested_evidence', b.evidence_sha256)), '[]')",
            "coalesce(json_agg(json_build_object('id', y.id, 'by', y.approved_by, 'assurance', y.identity_assurance, 'signature', y.signature,
                'public_key', k.public_key, 'revoked', k.revoked_at IS NOT NULL, 'roles', k.roles, 'plan_digest', y.plan_digest,
                'status', y.status, 'expires_at_us', (extract(epoch FROM y.expires_at) * 1000000)::bigint)), '[]')",
            "::text",
            "JOIN",
            $where
        )
    };
}

// The same for runs that are leased, without what only their holder changes.
macro_rules! refresh {
    ($holds:literal, $chain:literal, $join:literal, $named:literal) => {
        concat!(
            "SELECT r.id, r.epoch, r.lease_owner, p.epoch AS plane_epoch, p.usage_reported, ",
            changing!($holds),
            " FROM stage_runs r ",
            $join,
            " planes p ON p.id = r.plane_id ",
            $join,
            " tenants t ON t.id = r.tenant_id
    LEFT JOIN chains c ON c.chain = 'plane:' || p.id",
            $chain,
            " WHERE r.status = 'running' AND ",
            $named
        )
    };
}

// The casts: SQLite plans a statement with a bare `LIMIT $3` anew each time a value is bound.
// On PostgreSQL what is due is found and locked first (see `locks`), and read then.
statements! {
    DUE = "read due runs",
        sqlite!("r.status = 'queued' AND r.due_at <= $1 AND o.plan_version <= $2 ORDER BY r.due_at LIMIT CAST($3 AS INTEGER)"),
        "SELECT 1 WHERE false";
    DUE_OF = "read due runs",
        sqlite!("r.status = 'queued' AND r.due_at <= $1 AND o.plan_version <= $2 AND r.plane_id = $4 ORDER BY r.due_at LIMIT CAST($3 AS INTEGER)"),
        "SELECT 1 WHERE false";
    NAMED = "read runs", sqlite!("r.id IN (SELECT value FROM json_each($2))"), postgres!("r.id = ANY($2) ORDER BY r.due_at");
    REFRESH = "read runs",
        refresh!("json_group_array(h.id)", "", "CROSS JOIN", "r.id IN (SELECT value FROM json_each($2))"),
        refresh!("coalesce(json_agg(h.id), '[]')", "::text", "JOIN", "r.id = ANY($2)");
}

/// Reads what [`changing!`] selects.
fn changing(facts: &mut Facts, cells: &Cells<'_>, usage_reported: bool) -> Result<(), Fault> {
    facts.tenant_status = cells.get("tenant_status")?;
    facts.protected_until = cells.maybe_at("protected_until")?;
    facts.grace_skipped = cells.get("grace_skipped")?;
    facts.clock_suspect = cells.get("clock_suspect")?;
    facts.ledger_behind = cells.get("ledger_behind")?;
    facts.log_stopped = cells.get("log_stopped")?;
    facts.holds = cells.json("holds")?.unwrap_or_default();
    facts.runs_in_flight = cells.get::<i64>("runs_used")? as u64;
    facts.queries_in_flight = cells.get::<i64>("queries_used")? as u64;
    facts.usage_until = cells.maybe_at("usage_until")?;
    facts.usage_known = if usage_reported { UsageKnown::Reported } else { UsageKnown::None };
    facts.tokens = cells.get::<i64>("tokens")? as u64;
    facts.dependents = cells.get::<i64>("dependents")? as u64;
    Ok(())
}

fn case(row: &Row, at: DateTime<Utc>) -> Result<Case, Fault> {
    let run = queue::run_row(row)?;
    let plane = planes::plane(&Cells::prefixed(row, "planes", "p_", "id"))?;
    let offboarding = offboardings::offboarding(&Cells::prefixed(row, "offboardings", "o_", "id"))?;
    let cells = Cells::new(row, "stage_runs", "id");
    let given: Vec<Given> = cells.json("approvals")?.unwrap_or_default();
    let mut approvals = Vec::with_capacity(given.len());
    for one in &given {
        let expires_at = DateTime::from_timestamp_micros(one.expires_at_us).ok_or_else(|| Fault::Unreadable {
            table: "approvals",
            column: "expires_at",
            id: one.id.to_string(),
            message: "no instant".into(),
        })?;
        let consumed = one.status == ApprovalStatus::Consumed;
        approvals.push(ApprovalFacts {
            id: one.id,
            plan_digest: one.plan_digest.clone(),
            by: one.by.clone(),
            expires_at,
            consumed,
        });
    }
    let terms = &offboarding.terms;
    let mut facts = Facts {
        at,
        tenant_id: plane.tenant_id,
        tenant_status: String::new(),
        plane_id: plane.id,
        state: plane.state,
        offboarding_id: offboarding.id,
        ground: terms.ground,
        evict: terms.evict,
        grace_access: terms.grace_access,
        grace_until: offboarding.grace_until,
        grace_skipped: false,
        retention_until: offboarding.retention_until,
        protected_until: None,
        holds: Vec::new(),
        runs_in_flight: 0,
        queries_in_flight: 0,
        usage_until: None,
        usage_known: UsageKnown::None,
        usage_unknown_accepted: terms.usage_unknown_accepted,
        tokens: 0,
        dependents: 0,
        requested_epoch: offboarding.requested_epoch,
        manifest_sha256: cells.get("manifest_sha256")?,
        plan_digest: offboarding.plan.as_ref().map(|plan| plan.digest()),
        // A plan that is not the one its row was given a digest for names no manifest.
        plan_manifest_sha256: offboarding
            .plan
            .as_ref()
            .filter(|plan| Some(plan.digest()) == offboarding.plan_digest)
            .map(|plan| plan.manifest_sha256.clone()),
        approvals,
        denied: cells.get("denied")?,
        clock_suspect: false,
        ledger_behind: false,
        log_stopped: false,
        // One run of a plane at a time: while a restore is open, no other step is.
        restore_pending: false,
    };
    changing(&mut facts, &cells, plane.usage_reported)?;
    let bound = BoundText {
        bindings: cells.json_text("bindings")?.unwrap_or_default(),
        prefix: cells.get("prefix")?,
        manifest: cells.json_text("manifest")?,
    };
    let tenant_name = cells.get("tenant_name")?;
    Ok(Case { run, plane, offboarding, facts, tenant_name, paused: cells.get("paused")?, given, bound: Arc::new(bound) })
}

impl Tx {
    /// Up to `limit` runs that are due, the longest waiting first; of one plane, if given. Never one whose plan this program does not know.
    pub async fn due_cases(&mut self, limit: usize, plane: Option<Uuid>) -> Result<Vec<Case>, Fault> {
        if self.locks() {
            let runs = self.lock_due(limit, plane).await?;
            return if runs.is_empty() { Ok(Vec::new()) } else { self.read_cases(&runs).await };
        }
        let (at, limit) = (self.at(), limit as i64);
        let due = self.sql(if plane.is_some() { &DUE_OF } else { &DUE }).bind(at).bind(PLAN_VERSION).bind(limit);
        let rows = if let Some(plane) = plane { due.bind(plane).all().await? } else { due.all().await? };
        rows.iter().map(|row| self.case(row)).collect()
    }

    /// The cases of these runs, whatever their status, in no order. Where this transaction writes, they are nobody else's until it ends.
    pub async fn cases(&mut self, runs: &[Uuid]) -> Result<Vec<Case>, Fault> {
        if self.locks() {
            self.lock_runs(runs).await?;
        }
        self.read_cases(runs).await
    }

    async fn read_cases(&mut self, runs: &[Uuid]) -> Result<Vec<Case>, Fault> {
        let at = self.at();
        let rows = self.sql(&NAMED).bind(at).bind(runs).all().await?;
        rows.iter().map(|row| self.case(row)).collect()
    }

    /// The cases of leased runs as they are now, in no order, without those of runs that are not leased any more. What is written only
    /// by who holds the lease at the plane's epoch is taken from the cases as they were claimed and not read again: the plane, the terms,
    /// what is bound. So a case whose epoch has passed tells no more than that.
    pub async fn refresh(&mut self, claimed: impl Iterator<Item = &Case>) -> Result<Vec<Case>, Fault> {
        let mut claimed: HashMap<Uuid, &Case> = claimed.map(|case| (case.run.id, case)).collect();
        let runs = Vec::from_iter(claimed.keys().copied());
        if self.locks() {
            self.lock_runs(&runs).await?;
        }
        let at = self.at();
        let rows = self.sql(&REFRESH).bind(at).bind(runs.as_slice()).all().await?;
        let mut cases = Vec::with_capacity(rows.len());
        for row in &rows {
            let cells = Cells::new(row, "stage_runs", "id");
            let Some(case) = claimed.remove(&cells.id("id")?) else { continue };
            let mut case = case.clone();
            case.run.epoch = cells.get("epoch")?;
            case.run.lease_owner = cells.get("lease_owner")?;
            case.plane.epoch = cells.get("plane_epoch")?;
            case.plane.usage_reported = cells.get("usage_reported")?;
            case.paused = cells.get("paused")?;
            case.facts.at = at;
            changing(&mut case.facts, &cells, case.plane.usage_reported)?;
            self.note_head(case.plane.id, &cells)?;
            cases.push(case);
        }
        Ok(cases)
    }

    /// Where chains are locked, their heads were read with the lock.
    fn note_head(&mut self, plane: Uuid, cells: &Cells<'_>) -> Result<(), Fault> {
        if !self.locks() {
            let head = cells.get::<Option<String>>("head")?.zip(cells.get::<Option<i64>>("next_sequence")?);
            self.unwritten.note(Chain::Plane(plane), head, None);
        }
        Ok(())
    }

    fn case(&mut self, row: &Row) -> Result<Case, Fault> {
        let case = case(row, self.at())?;
        self.note_head(case.plane.id, &Cells::new(row, "chains", "id"))?;
        Ok(case)
    }

    /// The case of the plane's unfinished run.
    pub async fn open_case(&mut self, plane: Uuid) -> Result<Option<Case>, Fault> {
        self.lock_planes(&[plane]).await?;
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
        let crate::sql::Inner::Sqlite(tx) = &mut self.inner else { return Ok(plans) };
        for (plan, statement) in plans.iter_mut().zip([&DUE, &REFRESH]) {
            let explain = sqlx::AssertSqlSafe(format!("EXPLAIN QUERY PLAN {}", statement.sqlite));
            let rows = sqlx::query(explain).fetch_all(&mut **tx).await.map_err(Fault::database("explain a query"))?;
            *plan = rows.iter().map(|row| sqlx::Row::get(row, "detail")).collect();
        }
        Ok(plans)
    }
}
