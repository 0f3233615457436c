//! Planes and what they are bound to.
//!
//! The rule: `planes.state` is the one true state, moved only by [`Tx::move_plane`]; a scope, once bound, is never given back.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use lethe_stages::{LifecycleState, canonical, destruction::Attested};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    db::Tx,
    fault::Fault,
    many::{Many, Script},
    rows::Cells,
    sql::{Document, Row, statements},
    trail::Recorded,
};

/// A knowledge plane.
#[derive(Debug, Clone, Serialize)]
pub struct Plane {
    /// Its identity.
    #[serde(rename = "plane_id")]
    pub id: Uuid,
    /// Its owner.
    pub tenant_id: Uuid,
    /// Its name; gone once it is purged.
    pub name: Option<String>,
    /// Its state.
    pub state: LifecycleState,
    /// Raised by every claim, cancel and hold.
    pub epoch: i64,
    /// Whether new runs are refused because it is leaving.
    pub draining: bool,
    /// Where its archive goes.
    pub archive_url: Option<String>,
    /// The canary of that archive.
    pub archive_id: Option<Uuid>,
    /// Whether its users report runs and queries.
    pub usage_reported: bool,
    /// When it was registered.
    pub created_at: DateTime<Utc>,
    /// When it became a tombstone.
    pub purged_at: Option<DateTime<Utc>>,
    /// Where it came from, if it was restored.
    #[serde(flatten)]
    pub lineage: Option<Lineage>,
}

/// Where a restored plane came from. It never changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Lineage {
    /// The plane whose archive it was.
    pub restored_from: Uuid,
    /// `sha256:` of the verified manifest of that archive.
    pub restored_manifest_sha256: String,
}

/// A plane to register, checked already.
#[derive(Debug, Clone)]
pub struct NewPlane {
    /// Its owner.
    pub tenant_id: Uuid,
    /// Its name.
    pub name: String,
    /// Where its archive goes.
    pub archive_url: String,
    /// The canary of that archive.
    pub archive_id: Uuid,
    /// Where it comes from, if it is restored.
    pub lineage: Option<Lineage>,
}

/// What a plane holds in one store.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Binding {
    /// The store.
    pub store_id: Uuid,
    /// The store's name.
    pub store: String,
    /// The store's driver.
    pub store_kind: String,
    /// The store's URL.
    pub store_url: String,
    /// What the driver recognises the store by.
    pub store_identity: String,
    /// Table or collection.
    pub resource: String,
    /// The column that tells planes apart; empty where the plane owns the whole resource.
    pub plane_column: String,
    /// SHA-256 of the plane's canonical value in it.
    pub value_digest: String,
    /// The driver's mapping, as JSON; gone once the plane is purged.
    pub mapping: Option<serde_json::Value>,
    /// Where two persons attested that the store is gone: the attestation.
    #[serde(default)]
    pub attestation_id: Option<Uuid>,
    /// `sha256:` of what they based it on.
    #[serde(default)]
    pub attested_evidence: Option<String>,
}

impl Binding {
    /// What was attested of the store, if it is gone.
    pub fn attested(&self) -> Option<Attested> {
        let (attestation_id, evidence_sha256) = self.attestation_id.zip(self.attested_evidence.clone())?;
        Some(Attested { attestation_id, evidence_sha256 })
    }

    /// SHA-256 of the scope: store, resource, column and value.
    pub fn scope_digest(&self) -> String {
        let scope = [self.store_id.to_string().as_str(), &self.resource, &self.plane_column, &self.value_digest].join("\n");
        canonical::sha256(scope.as_bytes())
    }
}

pub(crate) fn plane(cells: &Cells<'_>) -> Result<Plane, Fault> {
    Ok(Plane {
        id: cells.id("id")?,
        tenant_id: cells.id("tenant_id")?,
        name: cells.get("name")?,
        state: cells.parsed("state")?,
        epoch: cells.get("epoch")?,
        draining: cells.get("draining")?,
        archive_url: cells.get("archive_url")?,
        archive_id: cells.maybe_id("archive_id")?,
        usage_reported: cells.get("usage_reported")?,
        created_at: cells.at("created_at")?,
        purged_at: cells.maybe_at("purged_at")?,
        lineage: match (cells.maybe_id("restored_from")?, cells.get("restored_manifest_sha256")?) {
            (Some(restored_from), Some(restored_manifest_sha256)) => Some(Lineage { restored_from, restored_manifest_sha256 }),
            _ => None,
        },
    })
}

fn plane_row(row: &Row) -> Result<Plane, Fault> {
    plane(&Cells::new(row, "planes", "id"))
}

fn binding(row: &Row) -> Result<Binding, Fault> {
    let cells = Cells::new(row, "bindings", "plane_id");
    Ok(Binding {
        store_id: cells.id("store_id")?,
        store: cells.get("name")?,
        store_kind: cells.get("kind")?,
        store_url: cells.get("url")?,
        store_identity: cells.get("identity")?,
        resource: cells.get("resource")?,
        plane_column: cells.get("plane_column")?,
        value_digest: cells.get("value_digest")?,
        mapping: cells.json("mapping")?,
        attestation_id: cells.maybe_id("attestation_id")?,
        attested_evidence: cells.get("attested_evidence")?,
    })
}

/// A plane's move from one state to another. There is none without its entry in the trail.
#[derive(Debug)]
pub struct Move {
    /// The plane.
    pub plane_id: Uuid,
    /// Where it is.
    pub from: LifecycleState,
    /// Where it goes.
    pub to: LifecycleState,
    /// The move's entry in the trail.
    pub recorded: Recorded,
}

/// What happens to a plane's row, once. NULL leaves what it says as it is.
static ADVANCE: Many = Many {
    doing: "move a plane",
    table: "planes",
    before: "WITH next (plane_id, from_state, to_state, at, epoch) AS (",
    after: ") UPDATE planes SET state = coalesce(next.to_state, planes.state), epoch = coalesce(next.epoch, planes.epoch),
            draining = CASE WHEN next.to_state IS NULL THEN planes.draining ELSE next.to_state <> 'ACTIVE' END,
            purged_at = CASE WHEN next.to_state = 'PURGED' THEN next.at ELSE planes.purged_at END
        FROM next WHERE planes.id = next.plane_id AND planes.state = coalesce(next.from_state, planes.state)
            AND planes.epoch = coalesce(next.epoch - 1, planes.epoch)",
    types: &["uuid", "text", "text", "timestamptz", "bigint"],
};

fn name_tag(salt: &[u8], name: &str) -> String {
    canonical::sha256(&[salt, name.as_bytes()].concat())
}

/// Every batch of this module.
#[cfg(feature = "testing")]
pub(crate) static BATCHES: &[&Many] = &[&ADVANCE];

statements! {
    REGISTER = "register a plane",
        "INSERT INTO planes (id, tenant_id, name, state, epoch, draining, archive_url, archive_id, usage_reported, created_at,
            restored_from, restored_manifest_sha256)
         VALUES ($1, $2, $3, 'ACTIVE', 0, false, $4, $5, false, $6, $7, $8)";
    BIND = "bind a plane",
        "INSERT INTO bindings (plane_id, position, store_id, resource, plane_column, value_digest, mapping)
         VALUES ($1, $2, $3, $4, $5, $6, $7)";
    OVERLAPPING = "look for overlapping bindings",
        "SELECT plane_id FROM bindings WHERE store_id = $1 AND resource = $2
            AND (plane_column <> $3 OR plane_column = '' OR value_digest = $4) LIMIT 1";
    PLANE = "read a plane", "SELECT * FROM planes WHERE id = $1";
    BY_NAME = "read a plane",
        "SELECT * FROM planes WHERE tenant_id = $1 AND (name = $2 OR name IS NULL) ORDER BY name IS NULL, purged_at DESC";
    PLANES = "list planes",
        "SELECT * FROM planes WHERE ($1 IS NULL OR tenant_id = $1) AND ($2 IS NULL OR state = $2) ORDER BY created_at, id",
        "SELECT * FROM planes WHERE ($1::uuid IS NULL OR tenant_id = $1) AND ($2::text IS NULL OR state = $2) ORDER BY created_at, id";
    BINDINGS = "read a plane's bindings",
        "SELECT b.*, s.name, s.kind, s.url, s.identity, x.id AS attestation_id, x.evidence_sha256 AS attested_evidence
         FROM bindings b JOIN stores s ON s.id = b.store_id
         LEFT JOIN attestations x ON x.plane_id = b.plane_id AND x.store_id = b.store_id AND x.confirmed_at IS NOT NULL
         WHERE b.plane_id = $1 ORDER BY b.position";
    SCOPE_PLANES = "look for the planes of a scope",
        "SELECT DISTINCT plane_id FROM bindings WHERE store_id = $1 AND resource = $2
            AND (plane_column <> $3 OR plane_column = '' OR value_digest = $4)";
    DRAIN = "drain a plane", "UPDATE planes SET draining = $2 WHERE id = $1";
    RAISE = "raise a plane's epoch", "UPDATE planes SET epoch = epoch + 1 WHERE id = $1 RETURNING epoch";
    NAME = "read a plane", "SELECT name FROM planes WHERE id = $1";
    ENTOMB = "entomb a plane", "UPDATE planes SET name = NULL, name_salt = $2, name_tag = $3, archive_url = NULL WHERE id = $1";
    ENTOMB_BINDINGS = "entomb a plane's bindings", "UPDATE bindings SET mapping = NULL WHERE plane_id = $1";
    ENTOMB_ARCHIVE = "entomb an archive", "UPDATE archives SET manifest = NULL, purged_at = $2 WHERE offboarding_id = $1";
    ENTOMB_OFFBOARDING = "entomb an offboarding", "UPDATE offboardings SET salt = NULL, plan = NULL WHERE id = $1";
    // What outside is called, and what it said, is nobody's business any more.
    ENTOMB_DEPENDENTS = "entomb dependents", "UPDATE dependents SET name = NULL, control = NULL WHERE plane_id = $1";
    ENTOMB_SUSPENSIONS = "entomb suspensions",
        "UPDATE suspensions SET before = NULL, note = NULL WHERE offboarding_id IN (SELECT id FROM offboardings WHERE plane_id = $1)";
    // A failure's message may name a record's key.
    ENTOMB_FAILURES = "entomb failures",
        "UPDATE stage_runs SET last_error = NULL WHERE offboarding_id IN (SELECT id FROM offboardings WHERE plane_id = $1)";
    // What calls about it were answered names what it was: its name, its mapping.
    ENTOMB_ANSWERS = "entomb answers",
        "DELETE FROM idempotency WHERE instr(answer, $1) > 0",
        "DELETE FROM idempotency WHERE strpos(answer::text, $1::uuid::text) > 0";
}

impl Tx {
    /// Registers a plane with its bindings, ACTIVE, and answers it. The caller has asked [`Self::overlapping_binding`].
    pub async fn insert_plane(&mut self, new: &NewPlane, bindings: &[Binding]) -> Result<Plane, Fault> {
        let id = self.new_id();
        let at = self.at();
        // Its mark will stand beside this archive too.
        self.know_archive(&new.archive_url, new.archive_id).await?;
        let register = self.sql(&REGISTER).bind(id).bind(new.tenant_id).bind(&new.name).bind(&new.archive_url);
        let register = register.bind(new.archive_id).bind(at).bind(new.lineage.as_ref().map(|lineage| lineage.restored_from));
        register.bind(new.lineage.as_ref().map(|lineage| &lineage.restored_manifest_sha256)).one().await?;
        for (position, binding) in bindings.iter().enumerate() {
            let bind = self.sql(&BIND).bind(id).bind(position as i64).bind(binding.store_id).bind(&binding.resource);
            let mapping = binding.mapping.as_ref().map(|mapping| Document(mapping.to_string()));
            bind.bind(&binding.plane_column).bind(&binding.value_digest).bind(mapping).one().await?;
        }
        Ok(self.plane(id).await?.expect("inserted in this transaction"))
    }

    /// A plane whose scope in this store and resource equals or overlaps the given one, whatever its state.
    pub async fn overlapping_binding(&mut self, binding: &Binding) -> Result<Option<Uuid>, Fault> {
        let ask = self.sql(&OVERLAPPING).bind(binding.store_id).bind(&binding.resource).bind(&binding.plane_column);
        let found = ask.bind(&binding.value_digest).optional().await?;
        found.map(|row| Cells::new(&row, "bindings", "plane_id").id("plane_id")).transpose()
    }

    /// Every plane whose scope in this store and resource equals or overlaps the given one, tombstones too.
    pub async fn planes_of_scope(
        &mut self,
        store: Uuid,
        resource: &str,
        plane_column: &str,
        value_digest: &str,
    ) -> Result<Vec<Uuid>, Fault> {
        let ask = self.sql(&SCOPE_PLANES).bind(store).bind(resource).bind(plane_column).bind(value_digest);
        ask.all().await?.iter().map(|row| Cells::new(row, "bindings", "plane_id").id("plane_id")).collect()
    }

    /// The plane.
    pub async fn plane(&mut self, id: Uuid) -> Result<Option<Plane>, Fault> {
        self.sql(&PLANE).bind(id).optional().await?.as_ref().map(plane_row).transpose()
    }

    /// The tenant's plane of this name; among tombstones too, for who still knows the name.
    pub async fn plane_by_name(&mut self, tenant: Uuid, name: &str) -> Result<Option<Plane>, Fault> {
        for row in &self.sql(&BY_NAME).bind(tenant).bind(name).all().await? {
            let cells = Cells::new(row, "planes", "id");
            let tombstone = match (cells.get::<Option<Vec<u8>>>("name_salt")?, cells.get::<Option<String>>("name_tag")?) {
                (Some(salt), Some(tag)) => tag == name_tag(&salt, name),
                _ => false,
            };
            let found = plane(&cells)?;
            if found.name.is_some() || tombstone {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// Planes by creation, of one tenant or of all, in one state or in any.
    pub async fn planes(&mut self, tenant: Option<Uuid>, state: Option<LifecycleState>) -> Result<Vec<Plane>, Fault> {
        let list = self.sql(&PLANES).bind(tenant).bind(state.map(|state| state.as_str()));
        list.all().await?.iter().map(plane_row).collect()
    }

    /// What the plane is bound to, in order.
    pub async fn bindings(&mut self, plane: Uuid) -> Result<Vec<Binding>, Fault> {
        self.sql(&BINDINGS).bind(plane).all().await?.iter().map(binding).collect()
    }

    /// Moves a plane from one state to another; a fault if it is not where it is said to be.
    pub async fn move_plane(&mut self, moved: Move) -> Result<(), Fault> {
        let mut script = Script::default();
        self.advance_all(vec![moved], Vec::new(), &mut script);
        self.run(script).await
    }

    /// Moves planes, and raises the epochs of these and of others to those named.
    pub(crate) fn advance_all(&self, moves: Vec<Move>, raised: Vec<(Uuid, i64)>, script: &mut Script) {
        let at = self.at();
        let mut epochs: BTreeMap<Uuid, i64> = raised.into_iter().collect();
        let mut rows: Vec<_> = moves
            .into_iter()
            .map(|moved| (moved.plane_id, Some(moved.from), Some(moved.to), epochs.remove(&moved.plane_id)))
            .collect();
        rows.extend(epochs.into_iter().map(|(plane, epoch)| (plane, None, None, Some(epoch))));
        type Row = (Uuid, Option<LifecycleState>, Option<LifecycleState>, Option<i64>);
        script.add(&ADVANCE, rows, move |query, (plane, from, to, epoch): Row| {
            let states = query.bind(plane).bind(from.map(LifecycleState::as_str)).bind(to.map(LifecycleState::as_str));
            states.bind(at).bind(epoch)
        });
    }

    /// Refuses new runs from now on, or lets them in again.
    pub async fn set_draining(&mut self, id: Uuid, draining: bool) -> Result<(), Fault> {
        self.sql(&DRAIN).bind(id).bind(draining).one().await
    }

    /// Raises the plane's epoch and answers the new one: whoever holds an older one is out.
    pub async fn raise_epoch(&mut self, id: Uuid) -> Result<i64, Fault> {
        let row = self.sql(&RAISE).bind(id).first().await?;
        Cells::new(&row, "planes", "epoch").get("epoch")
    }

    /// Reduces a purged plane to a tombstone: what remains are ids, digests and counts.
    pub async fn entomb(&mut self, id: Uuid, offboarding: Uuid) -> Result<(), Fault> {
        let salt = self.random::<16>();
        let row = self.sql(&NAME).bind(id).first().await?;
        let name: Option<String> = Cells::new(&row, "planes", "name").get("name")?;
        let tag = name.map(|name| name_tag(&salt, &name));
        let at = self.at();
        self.sql(&ENTOMB).bind(id).bind(salt.as_slice()).bind(tag).one().await?;
        self.sql(&ENTOMB_BINDINGS).bind(id).run().await?;
        self.sql(&ENTOMB_ARCHIVE).bind(offboarding).bind(at).run().await?;
        self.sql(&ENTOMB_OFFBOARDING).bind(offboarding).run().await?;
        self.sql(&ENTOMB_DEPENDENTS).bind(id).run().await?;
        self.sql(&ENTOMB_SUSPENSIONS).bind(id).run().await?;
        self.sql(&ENTOMB_FAILURES).bind(id).run().await?;
        self.sql(&ENTOMB_ANSWERS).bind(id).run().await?;
        Ok(())
    }
}
