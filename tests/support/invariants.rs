//! What must hold after every step of every test, asked of the rows themselves.

use std::path::Path;

use serde_json::json;
use sqlx::{AssertSqlSafe, Row, SqlitePool};

use super::{World, ledger::TestDatabase};

/// What must hold, and how many rows say otherwise.
const PROMISES: &[(&str, &str)] = &[
    (
        "states move only along the plan",
        "SELECT count(*) FROM trail WHERE event_type = 'TRANSITION' AND NOT EXISTS (SELECT 1 FROM legal_transitions l
         WHERE l.from_state = body ->> 'from_state' AND l.to_state = body ->> 'to_state')",
    ),
    (
        "a sealed value has a key, and a key that is destroyed seals nothing",
        "SELECT count(*) FROM trail_values v WHERE NOT EXISTS (SELECT 1 FROM personal_keys k WHERE k.id = v.key_id AND k.destroyed_at IS NULL)",
    ),
    (
        "a sealed value belongs to an entry",
        "SELECT count(*) FROM trail_values v WHERE NOT EXISTS (SELECT 1 FROM trail t WHERE t.event_id = v.event_id)",
    ),
    (
        "a purged plane has a manifest and an approval that somebody else gave and that was used",
        "SELECT count(*) FROM planes p WHERE p.state = 'PURGED' AND NOT EXISTS (SELECT 1 FROM offboardings o
         JOIN archives a ON a.offboarding_id = o.id JOIN approvals y ON y.offboarding_id = o.id AND y.plan_digest = o.plan_digest
         WHERE o.plane_id = p.id AND o.status = 'completed' AND y.status = 'consumed' AND y.approved_by <> y.requested_by)",
    ),
    (
        "nothing follows PURGED",
        "SELECT count(*) FROM trail t JOIN trail later ON later.chain = t.chain AND later.sequence_no > t.sequence_no
         WHERE t.event_type = 'TRANSITION' AND t.body ->> 'to_state' = 'PURGED'
         AND later.event_type NOT IN ('BLOCKED', 'HOLD_PLACED', 'HOLD_RELEASED', 'PROBED', 'RECURRED', 'PROBE_FAILED', 'PROBE_REQUESTED',
            'FINDING_CLOSED', 'ATTESTATION_PROPOSED', 'ATTESTED', 'CERTIFIED')",
    ),
    (
        "no probe is claimed before it is due, and each that ended is on record once",
        "SELECT count(*) FROM probes p WHERE (p.finished_at < p.due_at AND p.status <> 'withdrawn') OR (p.status IN ('clean', 'found') AND
            (SELECT count(*) FROM trail t WHERE t.plane_id = p.plane_id AND t.event_type IN ('PROBED', 'RECURRED')
            AND t.body LIKE '%\"probe_id\":\"' || p.id || '\"%') <> 1)",
    ),
    (
        "what a purged plane is looked for by is kept while it may still be asked for, and no longer",
        "SELECT count(*) FROM probe_scopes s JOIN planes p ON p.id = s.plane_id WHERE p.state <> 'PURGED' OR NOT EXISTS (SELECT 1 FROM probes q
         WHERE q.plane_id = s.plane_id AND (q.status IN ('queued', 'running', 'failed') OR EXISTS (SELECT 1 FROM findings f
         WHERE f.plane_id = s.plane_id AND f.status = 'open')))",
    ),
    (
        "no finding is closed that was seen after the last clean probe",
        "SELECT count(*) FROM findings f WHERE f.status = 'closed' AND (f.clean_at IS NULL OR f.clean_at < f.seen_at)",
    ),
    (
        "no cancel once the plane was deactivated",
        "SELECT count(*) FROM trail t JOIN trail later ON later.chain = t.chain AND later.sequence_no > t.sequence_no
         AND later.offboarding_id = t.offboarding_id
         WHERE t.body ->> 'to_state' = 'DEACTIVATED' AND later.event_type = 'CANCELLED'",
    ),
    (
        "a plane is purged or evicted only after its export was verified",
        "SELECT count(*) FROM trail t WHERE t.event_type = 'STAGE_STARTED' AND t.body ->> 'step' IN ('evict', 'purge')
         AND NOT EXISTS (SELECT 1 FROM trail e WHERE e.chain = t.chain AND e.sequence_no < t.sequence_no
         AND e.offboarding_id = t.offboarding_id AND e.event_type = 'STAGE_COMPLETED' AND e.body ->> 'step' = 'export')",
    ),
    (
        "one run of a plane at a time",
        "SELECT count(*) FROM (SELECT plane_id FROM stage_runs WHERE status = 'running' GROUP BY plane_id HAVING count(*) > 1) AS twice",
    ),
    (
        "the running run has the plane's epoch",
        "SELECT count(*) FROM stage_runs r JOIN planes p ON p.id = r.plane_id WHERE r.status = 'running' AND r.epoch <> p.epoch",
    ),
    (
        "an open offboarding has exactly one run that is not finished",
        "SELECT count(*) FROM offboardings o WHERE o.status = 'open' AND (SELECT count(*) FROM stage_runs r
         WHERE r.offboarding_id = o.id AND r.status IN ('queued', 'parked', 'running', 'halted')) <> 1",
    ),
    (
        "no destructive step was started under a hold",
        "SELECT count(*) FROM trail t JOIN holds h ON h.subject_id IN (t.plane_id, t.tenant_id)
         WHERE t.event_type = 'STAGE_STARTED' AND t.body ->> 'step' IN ('evict', 'purge')
         AND h.placed_at < t.at AND (h.released_at IS NULL OR h.released_at > t.at)",
    ),
];

/// What must hold of a ledger on a server besides.
const PROMISES_ON_A_SERVER: &[(&str, &str)] = &[
    ("every entry is counted", "SELECT count(*) - (SELECT coalesce(sum(entries), 0)::bigint FROM trail_tally) FROM trail"),
    (
        "no entry is dated before the one before it",
        "SELECT count(*) FROM trail t JOIN trail later ON later.chain = t.chain AND later.sequence_no = t.sequence_no + 1
         WHERE later.at < t.at",
    ),
];

/// What to ask a ledger on a server.
fn on_a_server() -> impl Iterator<Item = (&'static str, String)> {
    // An entry's body is text, kept to the letter; a tenant's id in it may be `__system__`.
    let asked = |query: &str| {
        query
            .replace("body ->>", "body::json ->>")
            .replace("(t.plane_id, t.tenant_id)", "(t.plane_id, nullif(t.tenant_id, '__system__')::uuid)")
    };
    PROMISES.iter().chain(PROMISES_ON_A_SERVER).map(move |(promise, query)| (*promise, asked(query)))
}

/// Checks every invariant; panics with the first that does not hold.
pub async fn check(world: &World) {
    let verified = world.call("user:auditor", "governance.audit.verify", json!({})).await;
    assert_eq!(verified["audit"], "verified", "the trail: {verified}");
    let asked: Vec<_> = match crate::ON_POSTGRES {
        true => on_a_server().collect(),
        false => PROMISES.iter().map(|(promise, query)| (*promise, (*query).to_owned())).collect(),
    };
    for (promise, query) in asked {
        let broken = world.number(&query).await;
        assert_eq!(broken, 0, "{promise}: {broken} rows say otherwise");
    }
}

/// Checks those that are asked of the rows of a ledger on a server.
pub async fn check_server(ledger: &TestDatabase) {
    let mut db = ledger.connect().await;
    for (promise, query) in on_a_server() {
        let row = sqlx::query(AssertSqlSafe(query)).fetch_one(&mut db).await.expect(promise);
        let broken: i64 = row.get(0);
        assert_eq!(broken, 0, "{promise}: {broken} rows say otherwise");
    }
}

/// Checks those that are asked of a ledger's file.
pub async fn check_rows(ledger: &Path) {
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(ledger).read_only(true);
    let pool = SqlitePool::connect_with(options).await.expect("open the ledger");
    for (promise, query) in PROMISES {
        let broken: i64 = sqlx::query(*query).fetch_one(&pool).await.expect(promise).get(0);
        assert_eq!(broken, 0, "{promise}: {broken} rows say otherwise");
    }
    pool.close().await;
}
