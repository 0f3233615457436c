//! Personal values of the trail, sealed: who did something and why stand beside the entries under a key of their tenant's, and go with it.
//!
//! The rule: a value is written under its tenant's live key and under no other. Keys are remembered by the process, so a step asks for none;
//! a key that somebody else destroyed meanwhile is refused by the schema, in the transaction that would write under it: the process forgets
//! what it remembers, and the work is done again. On PostgreSQL whoever destroys first locks the tenant and every chain on which its values
//! are appended, as each who appends does; on SQLite there is one writer.
//!
//! `sealed = nonce ‖ AES-256-GCM(salt ‖ value) ‖ tag`, bound to entry and field. Nonces are random: a key seals far fewer than 2³² values.
//! If we die in erasing, the transaction did not happen.

use std::{
    collections::{HashMap, hash_map::Entry as Slot},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use chrono::{DateTime, Utc};
use ring::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    hmac,
};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::{
    db::{Ledger, Tx},
    fault::Fault,
    many::{Many, Script},
    rows::Cells,
    sql::{Row, statements},
    trail::{Actor, VALUES, ValueRow},
    verify::Written,
};

/// Whose values are sealed where an entry concerns no tenant.
pub(crate) const SYSTEM: &str = "__system__";
/// Length of the salt of a commitment.
pub(crate) const SALT_LEN: usize = 16;
/// Length of a tag by which an actor is found.
const TAG_LEN: usize = 16;
/// Keys that a process remembers.
const REMEMBERED_MAX: usize = 10_000;
/// Clear values that one transaction seals.
const BATCH: i64 = 500;

/// Whose values these are, as `personal_keys` writes it.
pub(crate) fn holder(tenant: Option<Uuid>) -> String {
    tenant.map_or(SYSTEM.to_owned(), |id| id.to_string())
}

/// A tenant's key, ready for use.
pub(crate) struct SealingKey {
    pub(crate) id: Uuid,
    seal: LessSafeKey,
    find: hmac::Key,
}

impl std::fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SealingKey({})", self.id)
    }
}

/// To what a sealed value is bound.
fn bound_to(event_id: Uuid, field: &str) -> Aad<Vec<u8>> {
    Aad::from([event_id.as_bytes(), field.as_bytes()].concat())
}

impl SealingKey {
    /// `None` where that is no key.
    fn new(id: Uuid, key: &[u8]) -> Option<Self> {
        if key.len() != 32 {
            return None;
        }
        // One key for each use, both from the one that is kept.
        let root = hmac::Key::new(hmac::HMAC_SHA256, key);
        let seal = UnboundKey::new(&AES_256_GCM, hmac::sign(&root, b"lethe personal seal").as_ref()).ok()?;
        let find = hmac::Key::new(hmac::HMAC_SHA256, hmac::sign(&root, b"lethe personal find").as_ref());
        Some(Self { id, seal: LessSafeKey::new(seal), find })
    }

    /// Seals a value with its salt.
    pub(crate) fn seal(
        &self,
        event_id: Uuid,
        field: &str,
        nonce: [u8; NONCE_LEN],
        salt: &[u8; SALT_LEN],
        value: &str,
    ) -> Vec<u8> {
        let mut text = Vec::with_capacity(salt.len() + value.len());
        text.extend_from_slice(salt);
        text.extend_from_slice(value.as_bytes());
        let nonce_of = Nonce::assume_unique_for_key(nonce);
        let tag = self.seal.seal_in_place_separate_tag(nonce_of, bound_to(event_id, field), &mut text);
        let tag = tag.expect("a value is shorter than 64 GiB");
        [&nonce, text.as_slice(), tag.as_ref()].concat()
    }

    /// Salt and value; `None` where it does not decrypt.
    fn open(&self, event_id: Uuid, field: &str, sealed: &[u8]) -> Option<(Vec<u8>, String)> {
        let (nonce, text) = sealed.split_at_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut text = text.to_vec();
        let opened = self.seal.open_in_place(nonce, bound_to(event_id, field), &mut text).ok()?;
        let (salt, value) = opened.split_at_checked(SALT_LEN)?;
        Some((salt.to_vec(), String::from_utf8(value.to_vec()).ok()?))
    }

    /// By what a value of a field is found, if its values are looked for: an actor's, by `type:id`.
    pub(crate) fn tag(&self, field: &str, actor: &str) -> Option<Vec<u8>> {
        (field == "actor_id").then(|| {
            let mut made = hmac::Context::with_key(&self.find);
            made.update(field.as_bytes());
            made.update(&[0]);
            made.update(actor.as_bytes());
            made.sign().as_ref()[..TAG_LEN].to_vec()
        })
    }
}

/// The live keys that this process has read from committed rows, by whose they are. They may be destroyed since.
#[derive(Clone, Default)]
pub(crate) struct Remembered(Arc<Mutex<HashMap<String, Arc<SealingKey>>>>);

impl Remembered {
    fn keys(&self) -> MutexGuard<'_, HashMap<String, Arc<SealingKey>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, holder: &str) -> Option<Arc<SealingKey>> {
        self.keys().get(holder).cloned()
    }

    /// What a transaction read or made, now that it is committed.
    pub(crate) fn learn(&self, read: HashMap<String, Arc<SealingKey>>) {
        if read.is_empty() {
            return;
        }
        let mut keys = self.keys();
        if keys.len() + read.len() > REMEMBERED_MAX {
            keys.clear();
        }
        keys.extend(read);
    }

    /// One of them is destroyed: all are read again.
    pub(crate) fn forget(&self) {
        self.keys().clear();
    }
}

/// A value as a statement hands it out: sealed, with its key as long as that exists.
#[derive(Deserialize)]
pub(crate) struct SealedValue {
    pub(crate) field: String,
    key_id: Uuid,
    sealed: String,
    tag: Option<String>,
    key: Option<String>,
}

/// What became of a value.
pub(crate) enum Opened {
    /// It is what was sealed.
    Value { salt: Vec<u8>, value: String },
    /// Its key is destroyed.
    Destroyed,
    /// It is not what was sealed under its key.
    Wrong(&'static str),
}

/// Opens the values of many entries: each key is made ready once.
#[derive(Default)]
pub(crate) struct Opener(HashMap<Uuid, SealingKey>);

impl Opener {
    /// Opens a value under a key that was read before; one that was not is destroyed.
    pub(crate) fn open_with(
        &self,
        key_id: Uuid,
        event_id: Uuid,
        field: &str,
        actor_type: &str,
        sealed: &[u8],
        tag: Option<&[u8]>,
    ) -> Opened {
        let Some(key) = self.0.get(&key_id) else { return Opened::Destroyed };
        let Some((salt, value)) = key.open(event_id, field, sealed) else { return Opened::Wrong("does not decrypt") };
        if tag != key.tag(field, &format!("{actor_type}:{value}")).as_deref() {
            return Opened::Wrong("is found by the name of somebody else");
        }
        Opened::Value { salt, value }
    }

    pub(crate) fn open(&mut self, event_id: Uuid, actor_type: &str, value: &SealedValue) -> Opened {
        let Some(key) = value.key.as_ref().filter(|key| !key.is_empty()) else { return Opened::Destroyed };
        let key = match self.0.entry(value.key_id) {
            Slot::Occupied(known) => known.into_mut(),
            Slot::Vacant(new) => {
                let bytes = Zeroizing::new(hex::decode(key.as_bytes()).unwrap_or_default());
                let Some(key) = SealingKey::new(value.key_id, &bytes) else { return Opened::Wrong("has no key of 32 bytes") };
                new.insert(key)
            }
        };
        let sealed = hex::decode(&value.sealed).unwrap_or_default();
        let Some((salt, text)) = key.open(event_id, &value.field, &sealed) else { return Opened::Wrong("does not decrypt") };
        let tag = value.tag.as_deref().filter(|tag| !tag.is_empty()).map(|tag| hex::decode(tag).unwrap_or_default());
        if tag != key.tag(&value.field, &format!("{actor_type}:{text}")) {
            return Opened::Wrong("is found by the name of somebody else");
        }
        Opened::Value { salt, value: text }
    }
}

/// A key, destroyed or not, and how much it seals.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PersonalKey {
    /// The key.
    pub key_id: Uuid,
    /// Whose values it seals; `None` where they concern no tenant.
    pub tenant_id: Option<Uuid>,
    /// The name of that tenant.
    pub tenant: Option<String>,
    /// How many values it seals.
    pub values: i64,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it was destroyed.
    pub destroyed_at: Option<DateTime<Utc>>,
}

/// When the last offboarding of a tenant ended that has none open and no plane left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gone {
    /// The tenant.
    pub tenant_id: Uuid,
    /// When.
    pub closed_at: DateTime<Utc>,
}

/// What an erasure did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ErasedPersonal {
    /// The keys that were destroyed.
    pub key_ids: Vec<Uuid>,
    /// Sealed values that went with them.
    pub values: u64,
    /// Rows whose names and reasons were reduced.
    pub rows: u64,
}

macro_rules! closed {
    () => {
        "(SELECT id FROM offboardings WHERE tenant_id = $1 AND status <> 'open')"
    };
}

macro_rules! planes {
    () => {
        "(SELECT id FROM planes WHERE tenant_id = $1)"
    };
}

/// Tenants that are gone: `$1` further conditions on them.
macro_rules! gone {
    ($tenant:literal) => {
        concat!(
            "SELECT o.tenant_id, max(o.closed_at) AS closed_at FROM offboardings o WHERE ",
            $tenant,
            " NOT EXISTS (SELECT 1 FROM planes p WHERE p.tenant_id = o.tenant_id AND p.state <> 'PURGED')
            AND NOT EXISTS (SELECT 1 FROM offboardings s WHERE s.tenant_id = o.tenant_id AND s.status = 'open') GROUP BY o.tenant_id"
        )
    };
}

macro_rules! opened {
    (sqlite, $which:literal) => {
        concat!(
            "SELECT t.event_id, t.body, json_object('field', v.field, 'key_id', v.key_id, 'sealed', hex(v.sealed), 'tag', hex(v.tag),
                'key', hex(k.key)) AS val FROM trail t JOIN trail_values v ON v.event_id = t.event_id JOIN personal_keys k ON k.id = v.key_id
             WHERE ",
            $which,
            " ORDER BY t.place, v.field"
        )
    };
    (postgres, $which:literal) => {
        concat!(
            "SELECT t.event_id, t.body, json_build_object('field', v.field, 'key_id', v.key_id, 'sealed', encode(v.sealed, 'hex'),
                'tag', encode(v.tag, 'hex'), 'key', encode(k.key, 'hex')) AS val
             FROM trail t JOIN trail_values v ON v.event_id = t.event_id JOIN personal_keys k ON k.id = v.key_id WHERE ",
            $which,
            " ORDER BY t.place, v.field"
        )
    };
}

statements! {
    LIVE = "read a tenant's key", "SELECT id, key FROM personal_keys WHERE tenant_id = $1 AND destroyed_at IS NULL";
    EVERY_LIVE = "read tenants' keys", "SELECT id, key FROM personal_keys WHERE destroyed_at IS NULL ORDER BY id";
    // On a server somebody else may make it at the same time; then that one is.
    MAKE = "make a tenant's key", "INSERT INTO personal_keys (id, tenant_id, key, created_at) VALUES ($1, $2, $3, $4)",
        "INSERT INTO personal_keys (id, tenant_id, key, created_at) VALUES ($1, $2, $3, $4)
            ON CONFLICT (tenant_id) WHERE destroyed_at IS NULL DO NOTHING";
    LOCK = "lock a tenant's chains", "SELECT 1 WHERE false",
        "SELECT chain, head, next_sequence, at FROM chains WHERE chain IN (SELECT 'plane:' || id::text FROM planes WHERE tenant_id::text = $1
            UNION ALL SELECT 'tenant:' || $1 UNION ALL SELECT 'system') ORDER BY chain FOR UPDATE";
    DESTROY = "destroy a tenant's key",
        "UPDATE personal_keys SET key = NULL, destroyed_at = $2 WHERE tenant_id = $1 AND destroyed_at IS NULL RETURNING id";
    DELETE_VALUES = "delete sealed values",
        "DELETE FROM trail_values WHERE key_id IN (SELECT id FROM personal_keys WHERE tenant_id = $1 AND destroyed_at IS NOT NULL)";
    KEYS = "list tenants' keys",
        "SELECT k.id, k.tenant_id, t.name, k.created_at, k.destroyed_at, count(v.event_id) AS number
         FROM personal_keys k LEFT JOIN tenants t ON t.id = k.tenant_id LEFT JOIN trail_values v ON v.key_id = k.id
         WHERE $1 IS NULL OR k.tenant_id = $1 GROUP BY k.id, t.name ORDER BY k.created_at, k.id",
        "SELECT k.id, k.tenant_id, t.name, k.created_at, k.destroyed_at, coalesce(v.number, 0) AS number
         FROM personal_keys k LEFT JOIN tenants t ON t.id::text = k.tenant_id
         LEFT JOIN (SELECT key_id, count(*) AS number FROM trail_values GROUP BY key_id) v ON v.key_id = k.id
         WHERE $1::text IS NULL OR k.tenant_id = $1 ORDER BY k.created_at, k.id";
    GONE = "look whose tenants' planes are gone", gone!("");
    // A key that was made after the date was made by the erasure itself, or since: it is no reason for another one.
    DUE = "look whose values have been kept long enough",
        concat!("SELECT g.tenant_id, g.closed_at FROM (", gone!(""), ") g JOIN personal_keys k ON k.tenant_id = g.tenant_id
            WHERE k.destroyed_at IS NULL AND g.closed_at <= $1 AND k.created_at < g.closed_at + $2 ORDER BY g.closed_at, g.tenant_id
            LIMIT CAST($3 AS INTEGER)"),
        concat!("SELECT g.tenant_id, g.closed_at FROM (", gone!(""), ") g JOIN personal_keys k ON k.tenant_id = g.tenant_id::text
            WHERE k.destroyed_at IS NULL AND g.closed_at <= $1 AND k.created_at < g.closed_at + $2::bigint * interval '1 microsecond'
            ORDER BY g.closed_at, g.tenant_id LIMIT $3::bigint");
    OPEN = "look for open offboardings", "SELECT p.id FROM offboardings o JOIN planes p ON p.id = o.plane_id
         WHERE o.tenant_id = $1 AND o.status = 'open' ORDER BY p.id LIMIT 1";
    OPENED = "read the trail's values", opened!(sqlite, "true"), opened!(postgres, "true");
    OPENED_OF_CHAIN = "read a chain's values", opened!(sqlite, "t.chain = $1"), opened!(postgres, "t.chain = $1");
    OPENED_OF = "read an entry's values", opened!(sqlite, "t.event_id = $1"), opened!(postgres, "t.event_id = $1");
    // By what is on record, and not by a column.
    ERASED = "read when values were erased",
        "SELECT t.tenant_id, t.place, f.leaf_index FROM trail t LEFT JOIN leaves f ON f.place = t.place WHERE t.event_type = 'PERSONAL_ERASED'";
    UNRECORDED = "look for keys that were destroyed without a record",
        "SELECT k.id, k.tenant_id FROM personal_keys k WHERE k.destroyed_at IS NOT NULL AND NOT EXISTS (SELECT 1 FROM trail t
            WHERE t.event_type = 'PERSONAL_ERASED' AND t.tenant_id = k.tenant_id AND instr(t.body, k.id) > 0) LIMIT 1",
        "SELECT k.id, k.tenant_id FROM personal_keys k WHERE k.destroyed_at IS NOT NULL AND NOT EXISTS (SELECT 1 FROM trail t
            WHERE t.event_type = 'PERSONAL_ERASED' AND t.tenant_id = k.tenant_id AND strpos(t.body, k.id::text) > 0) LIMIT 1";
    // What stood in clear before there were keys.
    CLEAR = "look for values in clear", "SELECT 1 AS clear FROM trail_values_clear LIMIT 1";
    CLEAR_VALUES = "read values in clear",
        "SELECT v.event_id, v.field, v.value, v.salt, t.tenant_id, t.body FROM trail_values_clear v JOIN trail t ON t.event_id = v.event_id
         WHERE v.event_id >= $2 ORDER BY v.event_id, v.field LIMIT CAST($1 AS INTEGER)",
        "SELECT v.event_id, v.field, v.value, v.salt, t.tenant_id, t.body FROM trail_values_clear v JOIN trail t ON t.event_id = v.event_id
         WHERE v.event_id >= $2 ORDER BY v.event_id, v.field LIMIT $1";

    // Rows that are closed, without their people. What is open still needs them.
    OFFBOARDINGS = "reduce offboardings",
        "UPDATE offboardings SET requested_by = 'user:erased-1', reason = 'erased'
         WHERE tenant_id = $1 AND status <> 'open' AND requested_by || reason <> 'user:erased-1erased'";
    // What was signed holds commitments only; beside it stands what it alone is committed to.
    CERTIFICATES = "reduce certificates", "UPDATE certificates SET own_values = NULL WHERE tenant_id = $1 AND own_values IS NOT NULL";
    // Different people stay different within an offboarding: so many approved, and not who requested.
    APPROVALS = "reduce approvals",
        concat!(
            "UPDATE approvals SET requested_by = 'user:erased-1', approved_by = 'user:erased-' || (ranked.place + 1), reason = 'erased',
                signature = NULL, key_fingerprint = NULL
             FROM (SELECT id, dense_rank() OVER (PARTITION BY offboarding_id ORDER BY approved_by) AS place FROM approvals
                WHERE requested_by <> 'user:erased-1' AND offboarding_id IN ", closed!(), ") AS ranked WHERE approvals.id = ranked.id"
        );
    HOLDS = "reduce holds",
        concat!(
            "UPDATE holds SET reason = 'erased', release_reason = 'erased', placed_by = 'user:erased-1',
                released_by = CASE WHEN released_by = placed_by THEN 'user:erased-1' ELSE 'user:erased-2' END
             WHERE released_at IS NOT NULL AND placed_by <> 'user:erased-1' AND (subject_id = $1 OR subject_id IN ", planes!(), ")"
        );
    BROKEN_GLASS = "reduce reviews",
        concat!(
            "UPDATE break_glass SET broken_by = 'user:erased-1', reviewed_by = 'user:erased-2', reason = 'erased', review = 'erased'
             WHERE reviewed_at IS NOT NULL AND broken_by <> 'user:erased-1' AND offboarding_id IN ", closed!()
        );
    DEADLINES = "reduce deadlines",
        concat!(
            "UPDATE deadlines SET extended_by = 'user:erased-1', extension_reason = 'erased'
             WHERE extended_at IS NOT NULL AND closed_at IS NOT NULL AND extended_by <> 'user:erased-1' AND offboarding_id IN ", closed!()
        );
    FINDINGS = "reduce findings",
        "UPDATE findings SET closed_by = 'user:erased-1', reason = CASE WHEN reason IS NULL THEN NULL ELSE 'erased' END
         WHERE tenant_id = $1 AND status = 'closed' AND closed_by <> 'user:erased-1'";
    ATTESTATIONS = "reduce attestations",
        concat!(
            "UPDATE attestations SET proposed_by = 'user:erased-1', confirmed_by = 'user:erased-2', reason = 'erased'
             WHERE confirmed_at IS NOT NULL AND proposed_by <> 'user:erased-1' AND plane_id IN ", planes!()
        );
    PROBES = "reduce probes",
        "UPDATE probes SET requested_by = 'user:erased-1'
         WHERE tenant_id = $1 AND finished_at IS NOT NULL AND requested_by <> 'user:erased-1'";
    USAGE = "reduce usage",
        concat!("UPDATE plane_usage SET holder = 'erased' WHERE closed_at IS NOT NULL AND holder <> 'erased' AND plane_id IN ", planes!());
    // Questions to the policies name who asked; nothing but a trial of other policies needs them.
    DECISIONS = "forget what the policies were asked",
        "DELETE FROM policy_decisions WHERE instr(ask, $1) > 0", "DELETE FROM policy_decisions WHERE strpos(ask::text, $1::uuid::text) > 0";
    // So are answers under a key; a call that is made again under it is a new one.
    ANSWERS = "forget answers under keys",
        "DELETE FROM idempotency WHERE instr(answer, $1) > 0 OR EXISTS (SELECT 1 FROM planes WHERE tenant_id = $1 AND instr(answer, id) > 0)
                OR EXISTS (SELECT 1 FROM offboardings WHERE tenant_id = $1 AND instr(answer, id) > 0)",
        "DELETE FROM idempotency WHERE strpos(answer::text, $1::uuid::text) > 0
                OR EXISTS (SELECT 1 FROM planes WHERE tenant_id = $1 AND strpos(answer::text, id::text) > 0)
                OR EXISTS (SELECT 1 FROM offboardings WHERE tenant_id = $1 AND strpos(answer::text, id::text) > 0)";
    // The same of what concerns no tenant.
    APPROVERS = "reduce revoked approvers",
        "UPDATE approvers SET actor = 'user:erased-1', added_by = 'user:erased-2', revoked_by = 'user:erased-2', reason = 'erased',
            revoke_reason = 'erased' WHERE revoked_at IS NOT NULL AND actor <> 'user:erased-1'";
    SYSTEM_DECISIONS = "forget what the policies were asked",
        "DELETE FROM policy_decisions WHERE instr(ask, '\"tenant\":{') = 0 AND instr(ask, '\"Tenant\":{') = 0",
        "DELETE FROM policy_decisions WHERE strpos(ask::text, '\"tenant\": {') = 0 AND strpos(ask::text, '\"Tenant\": {') = 0";
    SYSTEM_ANSWERS = "forget answers under keys",
        "DELETE FROM idempotency WHERE instr(answer, '\"tenant_id\"') + instr(answer, '\"plane_id\"') + instr(answer, '\"offboarding_id\"') = 0",
        "DELETE FROM idempotency WHERE strpos(answer::text, '\"tenant_id\"') + strpos(answer::text, '\"plane_id\"')
            + strpos(answer::text, '\"offboarding_id\"') = 0";
}

/// What is reduced with a tenant's key, in this order: approvals know by their offboarding whether they are closed.
static REDUCTIONS: &[&crate::sql::Sql] = &[
    &APPROVALS,
    &OFFBOARDINGS,
    &HOLDS,
    &BROKEN_GLASS,
    &DEADLINES,
    &FINDINGS,
    &ATTESTATIONS,
    &PROBES,
    &USAGE,
    &DECISIONS,
    &ANSWERS,
    &CERTIFICATES,
];
static SYSTEM_REDUCTIONS: &[&crate::sql::Sql] = &[&APPROVERS, &SYSTEM_DECISIONS, &SYSTEM_ANSWERS];

static UNCOVER: Many = Many {
    doing: "delete values in clear",
    table: "trail_values_clear",
    before: "WITH sealed (event_id, field) AS (",
    after: ") DELETE FROM trail_values_clear WHERE (event_id, field) IN (SELECT event_id, field FROM sealed)",
    types: &["uuid", "text"],
};

/// Every batch of this module.
#[cfg(feature = "testing")]
pub(crate) static BATCHES: &[&Many] = &[&UNCOVER];

fn sealing_key(row: &Row) -> Result<SealingKey, Fault> {
    let cells = Cells::new(row, "personal_keys", "id");
    let (id, key) = (cells.id("id")?, Zeroizing::new(cells.get::<Vec<u8>>("key")?));
    SealingKey::new(id, &key).ok_or_else(|| Fault::Unreadable {
        table: "personal_keys",
        column: "key",
        id: id.to_string(),
        message: "a key has 32 bytes".into(),
    })
}

/// What can still be opened of the values in rows: entry, field, value, salt.
fn opened(rows: &[Row]) -> Result<Vec<(Uuid, String, String, String)>, Fault> {
    let (mut opener, mut values) = (Opener::default(), Vec::new());
    for row in rows {
        let cells = Cells::new(row, "trail_values", "event_id");
        let event_id = cells.id("event_id")?;
        let body: Json = serde_json::from_str(cells.get::<&str>("body")?).unwrap_or_default();
        let Some(sealed) = cells.json::<SealedValue>("val")? else { continue };
        if let Opened::Value { salt, value } = opener.open(event_id, body["actor_type"].as_str().unwrap_or_default(), &sealed) {
            values.push((event_id, sealed.field, value, hex::encode(salt)));
        }
    }
    Ok(values)
}

impl Tx {
    /// The key under which values of this tenant are sealed; made where there is none yet.
    pub(crate) async fn sealing_key(&mut self, holder: &str) -> Result<Arc<SealingKey>, Fault> {
        if let Some(key) = self.keys.get(holder) {
            return Ok(key.clone());
        }
        match self.remembered.get(holder) {
            Some(key) => Ok(key),
            None => self.read_sealing_key(holder).await,
        }
    }

    async fn read_sealing_key(&mut self, holder: &str) -> Result<Arc<SealingKey>, Fault> {
        let mut row = self.sql(&LIVE).bind(holder).optional().await?;
        if row.is_none() {
            let (id, key, at) = (self.new_id(), Zeroizing::new(self.random::<32>()), self.at());
            self.sql(&MAKE).bind(id).bind(holder).bind(key.as_slice()).bind(at).run().await?;
            row = Some(self.sql(&LIVE).bind(holder).first().await?);
        }
        let key = Arc::new(sealing_key(row.as_ref().expect("read or made"))?);
        self.keys.insert(holder.to_owned(), key.clone());
        Ok(key)
    }

    /// The tags by which entries of this actor are found: under every live key, or under one tenant's.
    pub async fn actor_tags(&mut self, actor: &Actor, tenants: Option<Uuid>) -> Result<Vec<Vec<u8>>, Fault> {
        let rows = match tenants {
            Some(tenant) => self.sql(&LIVE).bind(holder(Some(tenant))).all().await?,
            None => self.sql(&EVERY_LIVE).all().await?,
        };
        let tag = |row| Ok(sealing_key(row)?.tag("actor_id", &actor.to_string()).expect("actors have tags"));
        rows.iter().map(tag).collect()
    }

    /// Every key, destroyed ones too, or one tenant's; of what concerns no tenant, `Some(None)`.
    pub async fn personal_keys(&mut self, of: Option<Option<Uuid>>) -> Result<Vec<PersonalKey>, Fault> {
        let rows = self.sql(&KEYS).bind(of.map(holder)).all().await?;
        rows.iter()
            .map(|row| {
                let cells = Cells::new(row, "personal_keys", "id");
                let holder: String = cells.get("tenant_id")?;
                Ok(PersonalKey {
                    key_id: cells.id("id")?,
                    tenant_id: if holder == SYSTEM { None } else { Some(cells.parsed("tenant_id")?) },
                    tenant: cells.get("name")?,
                    values: cells.get("number")?,
                    created_at: cells.at("created_at")?,
                    destroyed_at: cells.maybe_at("destroyed_at")?,
                })
            })
            .collect()
    }

    /// Tenants that have no plane left and no offboarding open, and when the last one ended.
    pub async fn gone_tenants(&mut self) -> Result<Vec<Gone>, Fault> {
        let rows = self.sql(&GONE).all().await?;
        rows.iter().map(gone).collect()
    }

    /// Up to `limit` of those whose values have been kept for so long since then, the longest gone first.
    pub async fn personal_due(&mut self, keep: chrono::TimeDelta, limit: i64) -> Result<Vec<Gone>, Fault> {
        let since = self.at() - keep;
        let kept = keep.num_microseconds().unwrap_or(i64::MAX);
        let rows = self.sql(&DUE).bind(since).bind(kept).bind(limit).all().await?;
        rows.iter().map(gone).collect()
    }

    /// A plane of the tenant's that is on its way out: the first.
    pub async fn open_plane_of(&mut self, tenant: Uuid) -> Result<Option<Uuid>, Fault> {
        let row = self.sql(&OPEN).bind(tenant).optional().await?;
        row.map(|row| Cells::new(&row, "planes", "id").id("id")).transpose()
    }

    /// Nobody appends a value of this tenant, or decides on a plane of it, until this transaction ends.
    pub async fn lock_personal(&mut self, tenant: Option<Uuid>) -> Result<(), Fault> {
        if !self.locks() {
            return Ok(());
        }
        if let Some(tenant) = tenant {
            self.lock_tenant(tenant, false).await?;
        }
        let heads = self.sql(&LOCK).bind(holder(tenant)).all().await?;
        self.note_heads(&heads)
    }

    /// Destroys the tenant's key with what it sealed, and reduces what is closed, after [`Self::lock_personal`]. What is appended from here
    /// on stands under a new key.
    pub async fn erase_personal(&mut self, tenant: Option<Uuid>) -> Result<ErasedPersonal, Fault> {
        self.write_trail().await?;
        let (at, holder) = (self.at(), holder(tenant));
        let rows = self.sql(&DESTROY).bind(&holder).bind(at).all().await?;
        let ids = rows.iter().map(|row| Cells::new(row, "personal_keys", "id").id("id"));
        let mut erased = ErasedPersonal { key_ids: ids.collect::<Result<_, _>>()?, ..ErasedPersonal::default() };
        erased.values = self.sql(&DELETE_VALUES).bind(&holder).run().await?;
        match tenant {
            Some(tenant) => {
                for reduce in REDUCTIONS {
                    erased.rows += self.sql(reduce).bind(tenant).run().await?;
                }
            }
            None => {
                for reduce in SYSTEM_REDUCTIONS {
                    erased.rows += self.sql(reduce).run().await?;
                }
            }
        }
        // Not by what the process remembers: that is what was just destroyed.
        self.read_sealing_key(&holder).await?;
        Ok(erased)
    }

    /// Every value that can be opened, with its entry, its field and its salt in hexadecimal digits.
    pub async fn opened_values(&mut self) -> Result<Vec<(Uuid, String, String, String)>, Fault> {
        let rows = self.sql(&OPENED).all().await?;
        opened(&rows)
    }

    /// The same of one chain.
    pub async fn opened_values_of_chain(&mut self, chain: &str) -> Result<Vec<(Uuid, String, String, String)>, Fault> {
        let rows = self.sql(&OPENED_OF_CHAIN).bind(chain).all().await?;
        opened(&rows)
    }

    /// The same of one entry.
    pub async fn opened_values_of(&mut self, event_id: Uuid) -> Result<Vec<(Uuid, String, String, String)>, Fault> {
        let rows = self.sql(&OPENED_OF).bind(event_id).all().await?;
        opened(&rows)
    }

    /// Every key that is not destroyed, ready to open what it sealed.
    pub(crate) async fn opener(&mut self) -> Result<Opener, Fault> {
        let rows = self.sql(&EVERY_LIVE).all().await?;
        let keys = rows.iter().map(|row| sealing_key(row).map(|key| (key.id, key)));
        Ok(Opener(keys.collect::<Result<_, _>>()?))
    }

    /// The entry of each tenant's last erasure, by whose values were erased.
    pub(crate) async fn last_erasures(&mut self) -> Result<HashMap<String, Written>, Fault> {
        let mut last = HashMap::new();
        for row in &self.sql(&ERASED).all().await? {
            let cells = Cells::new(row, "trail", "place");
            let written = Written::new(cells.get("leaf_index")?, cells.get("place")?);
            let known = last.entry(cells.get("tenant_id")?).or_insert(written);
            *known = written.max(*known);
        }
        Ok(last)
    }

    /// A key that is destroyed although nobody erased it, and whose it was.
    pub(crate) async fn destroyed_unrecorded(&mut self) -> Result<Option<(Uuid, String)>, Fault> {
        let row = self.sql(&UNRECORDED).optional().await?;
        row.map(|row| {
            let cells = Cells::new(&row, "personal_keys", "id");
            Ok((cells.id("id")?, cells.get("tenant_id")?))
        })
        .transpose()
    }

    pub(crate) async fn has_clear_values(&mut self) -> Result<bool, Fault> {
        Ok(self.sql(&CLEAR).optional().await?.is_some())
    }

    /// Seals a batch of what stands in clear, from an entry on: what was deleted before it is not looked through again. Answers where it
    /// ended; `None` where there was nothing.
    async fn seal_clear(&mut self, from: Uuid) -> Result<Option<Uuid>, Fault> {
        let rows = self.sql(&CLEAR_VALUES).bind(BATCH).bind(from).all().await?;
        let (mut sealed, mut gone) = (Vec::new(), Vec::new());
        for row in &rows {
            let cells = Cells::new(row, "trail_values_clear", "event_id");
            let (event_id, salt) = (cells.id("event_id")?, cells.get::<Vec<u8>>("salt")?);
            let field: String = cells.get("field")?;
            let value = Zeroizing::new(cells.get::<String>("value")?);
            let body: Json = serde_json::from_str(cells.get::<&str>("body")?).unwrap_or_default();
            let key = self.sealing_key(cells.get::<&str>("tenant_id")?).await?;
            let wrong = |message: &str| Fault::Unreadable {
                table: "trail_values_clear",
                column: "salt",
                id: event_id.to_string(),
                message: message.to_owned(),
            };
            let salt: [u8; SALT_LEN] = salt.try_into().map_err(|_| wrong("a salt has 16 bytes"))?;
            let actor = format!("{}:{}", body["actor_type"].as_str().unwrap_or_default(), *value);
            sealed.push(ValueRow {
                event_id,
                key_id: key.id,
                sealed: key.seal(event_id, &field, self.random(), &salt, &value),
                tag: key.tag(&field, &actor),
                field: field.clone(),
            });
            gone.push((event_id, field));
        }
        let last = gone.last().map(|(event_id, _)| *event_id);
        let mut script = Script::default();
        script.add(&VALUES, sealed, ValueRow::bind);
        script.add(&UNCOVER, gone, |query, (event_id, field): (Uuid, String)| query.bind(event_id).bind(field));
        self.run(script).await?;
        Ok(last)
    }
}

fn gone(row: &Row) -> Result<Gone, Fault> {
    let cells = Cells::new(row, "offboardings", "tenant_id");
    Ok(Gone { tenant_id: cells.id("tenant_id")?, closed_at: cells.at("closed_at")? })
}

impl Ledger {
    /// Seals what an earlier version wrote in clear, batch by batch, and scrubs the file if there was anything. If we die in it, the next
    /// `lethe migrate` goes on; what was overwritten until then, `secure_delete` has seen to.
    pub(crate) async fn seal_all(&self) -> Result<(), Fault> {
        let mut from = Uuid::nil();
        while let Some(last) = self.transact(async |tx: &mut Tx| tx.seal_clear(from).await).await?.into_inner() {
            from = last;
        }
        if !from.is_nil() && self.path().is_some() && !self.scrub().await? {
            tracing::warn!("somebody reads the ledger: what stood in clear leaves its file with the next purge or erasure");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_opens_under_its_key_in_its_place_and_nowhere_else() {
        let (one, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let key = SealingKey::new(one, &[7; 32]).expect("a key");
        let sealed = key.seal(one, "reason", [3; 12], &[9; 16], "the contract ended");
        assert_eq!(key.open(one, "reason", &sealed), Some((vec![9; 16], "the contract ended".into())));
        assert_eq!(key.open(other, "reason", &sealed), None);
        assert_eq!(key.open(one, "actor_id", &sealed), None);
        assert_eq!(SealingKey::new(one, &[8; 32]).expect("a key").open(one, "reason", &sealed), None);
        for place in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[place] ^= 1;
            assert_eq!(key.open(one, "reason", &changed), None, "{place}");
            assert_eq!(key.open(one, "reason", &sealed[..place]), None, "{place}");
        }
    }

    #[test]
    fn an_actor_is_found_under_the_key_and_a_reason_is_not_looked_for() {
        let key = |byte| SealingKey::new(Uuid::nil(), &[byte; 32]).expect("a key");
        assert_eq!(key(1).tag("actor_id", "user:alice"), key(1).tag("actor_id", "user:alice"));
        assert_ne!(key(1).tag("actor_id", "user:alice"), key(1).tag("actor_id", "sdk:alice"));
        assert_ne!(key(1).tag("actor_id", "user:alice"), key(2).tag("actor_id", "user:alice"));
        assert_eq!(key(1).tag("actor_id", "user:alice").map(|tag| tag.len()), Some(16));
        assert_eq!(key(1).tag("reason", "user:alice"), None);
        assert!(SealingKey::new(Uuid::nil(), &[1; 31]).is_none());
    }
}
