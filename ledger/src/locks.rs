//! What a transaction locks before it decides, where others write at the same time.
//!
//! The rule: one order, for everybody: a call's key → what is registered → control (pauses, suspicions) → tenant → plane → run → chain.
//! Shared where it is only read. Whoever decides on a plane holds its row, so of claim, cancel and hold exactly one wins. Rows of one kind
//! are locked in the order of their ids; a claim waits for nobody and passes over what is locked.
//!
//! On SQLite there is one writer: nothing needs to be locked, and nothing here does anything. So it is in transactions that only read.
//! If we die holding a lock, it ends with the transaction.

use chrono::{DateTime, Utc};
use lethe_stages::PLAN_VERSION;
use lethe_verify::leaf::origin;
use uuid::Uuid;

use crate::{
    db::Tx,
    fault::Fault,
    many::{Many, Script},
    rows::Cells,
    sql::{Inner, Row, statements},
    trail::Chain,
};

/// Due runs that one claim looks at before it asks tenant by tenant.
const WINDOW: i64 = 256;

macro_rules! never {
    () => {
        "SELECT 1 WHERE false"
    };
}

/// Locks the candidates that are free; the last condition is asked again of what was locked. The list is made once: as a join it was made
/// again for each run that is due, and so was the count of what is busy.
macro_rules! lock_free {
    ($candidates:expr) => {
        concat!(
            $candidates,
            " SELECT r.id, r.plane_id FROM stage_runs r
                JOIN planes p ON p.id = r.plane_id JOIN tenants t ON t.id = r.tenant_id
            WHERE r.id = ANY(ARRAY(SELECT id FROM chosen)) AND r.status = 'queued' AND r.due_at <= $1 ORDER BY r.due_at LIMIT $3
            FOR SHARE OF t SKIP LOCKED FOR UPDATE OF p SKIP LOCKED FOR UPDATE OF r SKIP LOCKED"
        )
    };
}

statements! {
    LOCK_REGISTRY = "lock what is registered", never!(), "SELECT pg_advisory_xact_lock(hashtextextended('lethe registry', 0))";
    LOCK_CONTROL = "lock pauses and suspicions", never!(), "SELECT pg_advisory_xact_lock(hashtextextended('lethe control', 0))";
    LOCK_PURGES = "count purges alone", never!(), "SELECT pg_advisory_xact_lock(hashtextextended('lethe purges', 0))";
    LOCK_PROBES = "claim probes alone", never!(), "SELECT pg_advisory_xact_lock(hashtextextended('lethe probes', 0))";
    SHARE_TENANT = "look at a tenant", never!(), "SELECT id FROM tenants WHERE id = $1 FOR SHARE";
    LOCK_TENANT = "lock a tenant", never!(), "SELECT id FROM tenants WHERE id = $1 FOR UPDATE";
    LOCK_PLANES = "lock planes", never!(), "SELECT * FROM lock_planes($1)";
    LOCK_RUNS = "lock runs", never!(), "SELECT * FROM lock_runs($1)";
    HEAD = "read a chain's head", "SELECT chain, head, next_sequence FROM chains WHERE chain = $1";
    LOCK_HEADS = "lock chains", never!(),
        "SELECT chain, head, next_sequence, at FROM chains WHERE chain = ANY($1) ORDER BY chain FOR UPDATE";
    BEGIN_CHAIN = "begin a chain", never!(),
        "INSERT INTO chains (chain, head, next_sequence, at) VALUES ($1, $2, 0, $3) ON CONFLICT (chain) DO NOTHING";
    DUE_OF = "lock due runs", never!(),
        "SELECT r.id, r.plane_id FROM stage_runs r JOIN offboardings o ON o.id = r.offboarding_id
            JOIN planes p ON p.id = r.plane_id JOIN tenants t ON t.id = r.tenant_id
         WHERE r.status = 'queued' AND r.due_at <= $1 AND o.plan_version <= $2 AND r.plane_id = $4 ORDER BY r.due_at LIMIT $3
         FOR SHARE OF t SKIP LOCKED FOR UPDATE OF p SKIP LOCKED FOR UPDATE OF r SKIP LOCKED";
    MORE_DUE = "look behind the front of the queue", never!(),
        "SELECT id FROM stage_runs WHERE status = 'queued' AND due_at <= $1 ORDER BY due_at OFFSET $2 LIMIT 1";
    // The longest waiting, of each tenant no more than it may still have in flight.
    DUE = "lock due runs", never!(),
        lock_free!(
            "WITH front AS MATERIALIZED (
                SELECT r.id, r.tenant_id, r.due_at FROM stage_runs r JOIN offboardings o ON o.id = r.offboarding_id
                WHERE r.status = 'queued' AND r.due_at <= $1 AND o.plan_version <= $2 ORDER BY r.due_at LIMIT $5),
            busy AS MATERIALIZED (SELECT tenant_id, count(*) AS runs FROM stage_runs WHERE status = 'running' GROUP BY tenant_id),
            chosen AS (SELECT ranked.id FROM (
                SELECT f.id, row_number() OVER (PARTITION BY f.tenant_id ORDER BY f.due_at) + coalesce(b.runs, 0) AS place
                FROM front f LEFT JOIN busy b USING (tenant_id)) ranked WHERE ranked.place <= $4)"
        );
    // The same where the front of the queue is one tenant's: from tenant to tenant along an index, each tenant's longest waiting.
    DUE_BY_TENANT = "lock due runs", never!(),
        lock_free!(
            "WITH RECURSIVE waiting AS (
                (SELECT tenant_id FROM stage_runs WHERE status = 'queued' ORDER BY tenant_id LIMIT 1)
                UNION ALL
                SELECT (SELECT r.tenant_id FROM stage_runs r WHERE r.status = 'queued' AND r.tenant_id > w.tenant_id
                    ORDER BY r.tenant_id LIMIT 1) FROM waiting w WHERE w.tenant_id IS NOT NULL),
            busy AS MATERIALIZED (SELECT tenant_id, count(*) AS runs FROM stage_runs WHERE status = 'running' GROUP BY tenant_id),
            chosen AS (SELECT due.id FROM waiting w LEFT JOIN busy b USING (tenant_id)
                CROSS JOIN LATERAL (SELECT r.id FROM stage_runs r JOIN offboardings o ON o.id = r.offboarding_id
                    WHERE r.status = 'queued' AND r.tenant_id = w.tenant_id AND r.due_at <= $1 AND o.plan_version <= $2
                    ORDER BY r.due_at LIMIT least($5, greatest($4 - coalesce(b.runs, 0), 0))) due
                WHERE w.tenant_id IS NOT NULL)"
        );
}

/// Every batch of this module.
#[cfg(feature = "testing")]
pub(crate) static BATCHES: &[&Many] = &[&COUNT];

static COUNT: Many = Many {
    doing: "count entries",
    table: "trail_tally",
    before: "WITH counted (entries) AS (",
    after: ") INSERT INTO trail_tally (slot, entries) SELECT pg_backend_pid() % 64, entries FROM counted
        ON CONFLICT (slot) DO UPDATE SET entries = trail_tally.entries + excluded.entries",
    types: &["bigint"],
};

impl Tx {
    /// Whether others may write at the same time, so that this transaction locks what it decides on.
    pub(crate) fn locks(&self) -> bool {
        self.writes && matches!(self.inner, Inner::Postgres { .. })
    }

    /// Registering a tenant, a store or a plane: one at a time, so that no two take the same name or scope.
    pub async fn lock_registry(&mut self) -> Result<(), Fault> {
        if self.locks() { self.sql(&LOCK_REGISTRY).run().await.map(drop) } else { Ok(()) }
    }

    /// What is paused and what is suspected does not change until this transaction ends but by it; those that are under control wait.
    pub async fn lock_control(&mut self) -> Result<(), Fault> {
        if self.locks() { self.sql(&LOCK_CONTROL).run().await.map(drop) } else { Ok(()) }
    }

    /// Counting recent purges against their limit: one at a time.
    pub(crate) async fn lock_purges(&mut self) -> Result<(), Fault> {
        if self.locks() { self.sql(&LOCK_PURGES).run().await.map(drop) } else { Ok(()) }
    }

    /// Claiming probes: one at a time, so that who claims sees of which planes others were claimed.
    pub(crate) async fn lock_probes(&mut self) -> Result<(), Fault> {
        if self.locks() { self.sql(&LOCK_PROBES).run().await.map(drop) } else { Ok(()) }
    }

    /// The tenant does not change until this transaction ends. Not shared: nobody else decides on any of its planes either.
    pub async fn lock_tenant(&mut self, id: Uuid, shared: bool) -> Result<(), Fault> {
        if !self.locks() {
            return Ok(());
        }
        self.sql(if shared { &SHARE_TENANT } else { &LOCK_TENANT }).bind(id).run().await.map(drop)
    }

    /// The plane as it stands when nobody else decides on it any more; in a transaction that only reads, as it was read.
    pub async fn locked(&mut self, plane: crate::Plane) -> Result<Option<crate::Plane>, Fault> {
        if !self.locks() {
            return Ok(Some(plane));
        }
        self.lock_planes(&[plane.id]).await?;
        self.plane(plane.id).await
    }

    /// Nobody else decides on these planes until this transaction ends.
    pub async fn lock_planes(&mut self, ids: &[Uuid]) -> Result<(), Fault> {
        if !self.locks() {
            return Ok(());
        }
        let heads = self.sql(&LOCK_PLANES).bind(ids).all().await?;
        self.note_heads(&heads)
    }

    /// The same of the planes of these runs, and of the runs.
    pub(crate) async fn lock_runs(&mut self, ids: &[Uuid]) -> Result<(), Fault> {
        let heads = self.sql(&LOCK_RUNS).bind(ids).all().await?;
        self.note_heads(&heads)
    }

    /// Locks up to `limit` runs that are due, the longest waiting first, with their planes; of one plane, if given. What somebody else has
    /// locked is passed over, and so is a tenant that has as many runs in flight as it may.
    pub(crate) async fn lock_due(&mut self, limit: usize, plane: Option<Uuid>) -> Result<Vec<Uuid>, Fault> {
        let (at, limit) = (self.at(), limit as i64);
        let in_flight_max = self.tenant_in_flight_max;
        let mut rows = match plane {
            Some(plane) => self.sql(&DUE_OF).bind(at).bind(PLAN_VERSION).bind(limit).bind(plane).all().await?,
            None => {
                let window = WINDOW.max(4 * limit);
                let due = self.sql(&DUE).bind(at).bind(PLAN_VERSION).bind(limit).bind(in_flight_max).bind(window);
                due.all().await?
            }
        };
        if plane.is_none() && (rows.len() as i64) < limit && self.more_is_due(WINDOW.max(4 * limit)).await? {
            let due = self.sql(&DUE_BY_TENANT).bind(at).bind(PLAN_VERSION).bind(limit).bind(in_flight_max).bind(limit);
            rows.extend(due.all().await?);
        }
        let mut runs = Vec::with_capacity(rows.len());
        let mut chains = Vec::with_capacity(rows.len());
        for row in &rows {
            let cells = Cells::new(row, "stage_runs", "id");
            let id = cells.id("id")?;
            if runs.len() < limit as usize && !runs.contains(&id) {
                runs.push(id);
                chains.push(Chain::Plane(cells.id("plane_id")?).to_string());
            }
        }
        if !runs.is_empty() {
            let heads = self.sql(&LOCK_HEADS).bind(chains).all().await?;
            self.note_heads(&heads)?;
        }
        Ok(runs)
    }

    /// Whether more is due than a claim looks at.
    async fn more_is_due(&mut self, window: i64) -> Result<bool, Fault> {
        let at = self.at();
        Ok(self.sql(&MORE_DUE).bind(at).bind(window).optional().await?.is_some())
    }

    /// Locks a chain's head and notes where it stands; a new chain is begun.
    pub(crate) async fn lock_chain(&mut self, chain: Chain) -> Result<(), Fault> {
        let name = chain.to_string();
        if !self.locks() {
            let head = self.sql(&HEAD).bind(&name).optional().await?;
            let head = head.map(|row| {
                let cells = Cells::new(&row, "chains", "chain");
                Ok::<_, Fault>((cells.get("head")?, cells.get("next_sequence")?))
            });
            self.unwritten.note(chain, head.transpose()?, None);
            return Ok(());
        }
        let mut heads = self.sql(&LOCK_HEADS).bind(vec![name.clone()]).all().await?;
        if heads.is_empty() {
            let at = self.at();
            self.sql(&BEGIN_CHAIN).bind(&name).bind(origin(&name)).bind(at).run().await?;
            heads = self.sql(&LOCK_HEADS).bind(vec![name]).all().await?;
        }
        self.note_heads(&heads)
    }

    /// Counts entries, for the mark.
    pub(crate) fn count(&self, entries: i64, script: &mut Script) {
        if entries > 0 && self.locks() {
            script.add(&COUNT, vec![entries], |query, entries: i64| query.bind(entries));
        }
    }

    /// For tests: how the server finds what is due, with and without a look behind the front of the queue.
    #[cfg(feature = "testing")]
    pub async fn claim_plans(&mut self) -> Result<[Vec<String>; 2], Fault> {
        let (at, mut plans) = (self.at(), [Vec::new(), Vec::new()]);
        let Inner::Postgres { tx, .. } = &mut self.inner else { return Ok(plans) };
        for (plan, (sql, last)) in plans.iter_mut().zip([(&DUE, WINDOW), (&DUE_BY_TENANT, 4)]) {
            let explain = sqlx::AssertSqlSafe(format!("EXPLAIN (COSTS OFF) {}", sql.postgres));
            let explain = sqlx::query_scalar(explain).bind(at).bind(PLAN_VERSION).bind(4_i64).bind(1_i64).bind(last);
            *plan = explain.persistent(false).fetch_all(&mut **tx).await.map_err(Fault::database("explain a claim"))?;
        }
        Ok(plans)
    }

    pub(crate) fn note_heads(&mut self, heads: &[Row]) -> Result<(), Fault> {
        for row in heads {
            let cells = Cells::new(row, "chains", "chain");
            let chain: Chain = cells.parsed("chain")?;
            let moved: DateTime<Utc> = cells.at("at")?;
            self.unwritten.note(chain, Some((cells.get("head")?, cells.get("next_sequence")?)), Some(moved));
        }
        Ok(())
    }
}
