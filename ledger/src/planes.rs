//! Planes and what they are bound to.
//!
//! The rule: `planes.state` is the one true state, moved only by [`Tx::move_plane`]; a scope, once bound, is never given back.

use chrono::{DateTime, Utc};
use lethe_stages::{LifecycleState, canonical};
use serde::{Deserialize, Serialize};
use sqlx::sqlite::SqliteRow;
use uuid::Uuid;

use crate::{
    db::Tx,
    fault::Fault,
    many::{Many, Script},
    rows::{Cells, one, us},
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
    /// The store's URL.
    pub store_url: String,
    /// Table or collection.
    pub resource: String,
    /// The column that tells planes apart; empty where the plane owns the whole resource.
    pub plane_column: String,
    /// SHA-256 of the plane's canonical value in it.
    pub value_digest: String,
    /// The driver's mapping, as JSON; gone once the plane is purged.
    pub mapping: Option<serde_json::Value>,
}

impl Binding {
    /// SHA-256 of the scope: store, resource, column and value.
    pub fn scope_digest(&self) -> String {
        let scope = [self.store_id.to_string().as_str(), &self.resource, &self.plane_column, &self.value_digest].join("\n");
        canonical::sha256(scope.as_bytes())
    }
}

pub(crate) fn plane(cells: &Cells<'_>) -> Result<Plane, Fault> {
    Ok(Plane {
        id: cells.parsed("id")?,
        tenant_id: cells.parsed("tenant_id")?,
        name: cells.get("name")?,
        state: cells.parsed("state")?,
        epoch: cells.get("epoch")?,
        draining: cells.get("draining")?,
        archive_url: cells.get("archive_url")?,
        archive_id: cells.maybe_parsed("archive_id")?,
        usage_reported: cells.get("usage_reported")?,
        created_at: cells.at("created_at")?,
        purged_at: cells.maybe_at("purged_at")?,
        lineage: match (cells.maybe_parsed("restored_from")?, cells.get("restored_manifest_sha256")?) {
            (Some(restored_from), Some(restored_manifest_sha256)) => Some(Lineage { restored_from, restored_manifest_sha256 }),
            _ => None,
        },
    })
}

fn plane_row(row: &SqliteRow) -> Result<Plane, Fault> {
    plane(&Cells::new(row, "planes", "id"))
}

fn binding(row: &SqliteRow) -> Result<Binding, Fault> {
    let cells = Cells::new(row, "bindings", "plane_id");
    Ok(Binding {
        store_id: cells.parsed("store_id")?,
        store: cells.get("name")?,
        store_url: cells.get("url")?,
        resource: cells.get("resource")?,
        plane_column: cells.get("plane_column")?,
        value_digest: cells.get("value_digest")?,
        mapping: cells.json("mapping")?,
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

static MOVE: Many = Many {
    doing: "move a plane",
    before: "WITH move (plane_id, from_state, to_state, at) AS (",
    after: ") UPDATE planes SET state = move.to_state, draining = (move.to_state <> 'ACTIVE'),
            purged_at = CASE WHEN move.to_state = 'PURGED' THEN move.at END
        FROM move WHERE planes.id = move.plane_id AND planes.state = move.from_state",
    columns: 4,
};

fn name_tag(salt: &[u8], name: &str) -> String {
    canonical::sha256(&[salt, name.as_bytes()].concat())
}

impl Tx {
    /// Registers a plane with its bindings, ACTIVE, and answers it. The caller has asked [`Self::overlapping_binding`].
    pub async fn insert_plane(&mut self, new: &NewPlane, bindings: &[Binding]) -> Result<Plane, Fault> {
        let id = self.new_id();
        let at = us(self.at());
        // Its mark will stand beside this archive too.
        self.know_archive(&new.archive_url, new.archive_id).await?;
        let done = sqlx::query(
            "INSERT INTO planes (id, tenant_id, name, state, epoch, draining, archive_url, archive_id, usage_reported, created_at,
                restored_from, restored_manifest_sha256)
             VALUES (?, ?, ?, 'ACTIVE', 0, 0, ?, ?, 0, ?, ?, ?)",
        )
        .bind(id.to_string())
        .bind(new.tenant_id.to_string())
        .bind(&new.name)
        .bind(&new.archive_url)
        .bind(new.archive_id.to_string())
        .bind(at)
        .bind(new.lineage.as_ref().map(|lineage| lineage.restored_from.to_string()))
        .bind(new.lineage.as_ref().map(|lineage| &lineage.restored_manifest_sha256))
        .execute(self.connection())
        .await;
        one("register a plane", done.map_err(Fault::database("register a plane"))?)?;
        for (position, binding) in bindings.iter().enumerate() {
            let done = sqlx::query(
                "INSERT INTO bindings (plane_id, position, store_id, resource, plane_column, value_digest, mapping)
                 VALUES (?, ?, ?, ?, ?, ?, ?)",
            )
            .bind(id.to_string())
            .bind(position as i64)
            .bind(binding.store_id.to_string())
            .bind(&binding.resource)
            .bind(&binding.plane_column)
            .bind(&binding.value_digest)
            .bind(binding.mapping.as_ref().map(|mapping| mapping.to_string()))
            .execute(self.connection())
            .await;
            one("bind a plane", done.map_err(Fault::database("bind a plane"))?)?;
        }
        Ok(self.plane(id).await?.expect("inserted in this transaction"))
    }

    /// A plane whose scope in this store and resource equals or overlaps the given one, whatever its state.
    pub async fn overlapping_binding(&mut self, binding: &Binding) -> Result<Option<Uuid>, Fault> {
        let found: Option<(String,)> = sqlx::query_as(
            "SELECT plane_id FROM bindings WHERE store_id = ?1 AND resource = ?2
                AND (plane_column <> ?3 OR plane_column = '' OR value_digest = ?4) LIMIT 1",
        )
        .bind(binding.store_id.to_string())
        .bind(&binding.resource)
        .bind(&binding.plane_column)
        .bind(&binding.value_digest)
        .fetch_optional(self.connection())
        .await
        .map_err(Fault::database("look for overlapping bindings"))?;
        found.map(|(id,)| crate::rows::parse("bindings", "plane_id", &id, &id)).transpose()
    }

    /// The plane.
    pub async fn plane(&mut self, id: Uuid) -> Result<Option<Plane>, Fault> {
        let row = sqlx::query("SELECT * FROM planes WHERE id = ?")
            .bind(id.to_string())
            .fetch_optional(self.connection())
            .await
            .map_err(Fault::database("read a plane"))?;
        row.as_ref().map(plane_row).transpose()
    }

    /// The tenant's plane of this name; among tombstones too, for who still knows the name.
    pub async fn plane_by_name(&mut self, tenant: Uuid, name: &str) -> Result<Option<Plane>, Fault> {
        let rows = sqlx::query(
            "SELECT * FROM planes WHERE tenant_id = ?1 AND (name = ?2 OR name IS NULL) ORDER BY name IS NULL, purged_at DESC",
        )
        .bind(tenant.to_string())
        .bind(name)
        .fetch_all(self.connection())
        .await
        .map_err(Fault::database("read a plane"))?;
        for row in &rows {
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
        let rows = sqlx::query(
            "SELECT * FROM planes WHERE (?1 IS NULL OR tenant_id = ?1) AND (?2 IS NULL OR state = ?2) ORDER BY created_at, id",
        )
        .bind(tenant.map(|id| id.to_string()))
        .bind(state.map(|state| state.as_str()))
        .fetch_all(self.connection())
        .await
        .map_err(Fault::database("list planes"))?;
        rows.iter().map(plane_row).collect()
    }

    /// What the plane is bound to, in order.
    pub async fn bindings(&mut self, plane: Uuid) -> Result<Vec<Binding>, Fault> {
        let rows = sqlx::query(
            "SELECT b.*, s.name, s.url FROM bindings b JOIN stores s ON s.id = b.store_id WHERE b.plane_id = ? ORDER BY b.position",
        )
        .bind(plane.to_string())
        .fetch_all(self.connection())
        .await
        .map_err(Fault::database("read a plane's bindings"))?;
        rows.iter().map(binding).collect()
    }

    /// Moves a plane from one state to another; a fault if it is not where it is said to be.
    pub async fn move_plane(&mut self, moved: Move) -> Result<(), Fault> {
        let mut script = Script::default();
        self.move_all(vec![moved], &mut script);
        self.run(script).await
    }

    pub(crate) fn move_all(&self, moves: Vec<Move>, script: &mut Script) {
        let at = us(self.at());
        script.add(&MOVE, moves, move |query, moved: Move| {
            query.bind(moved.plane_id.to_string()).bind(moved.from.as_str()).bind(moved.to.as_str()).bind(at)
        });
    }

    /// Refuses new runs from now on, or lets them in again.
    pub async fn set_draining(&mut self, id: Uuid, draining: bool) -> Result<(), Fault> {
        let done = sqlx::query("UPDATE planes SET draining = ? WHERE id = ?").bind(draining).bind(id.to_string());
        one("drain a plane", done.execute(self.connection()).await.map_err(Fault::database("drain a plane"))?)
    }

    /// Raises the plane's epoch and answers the new one: whoever holds an older one is out.
    pub async fn raise_epoch(&mut self, id: Uuid) -> Result<i64, Fault> {
        let (epoch,): (i64,) = sqlx::query_as("UPDATE planes SET epoch = epoch + 1 WHERE id = ? RETURNING epoch")
            .bind(id.to_string())
            .fetch_one(self.connection())
            .await
            .map_err(Fault::database("raise a plane's epoch"))?;
        Ok(epoch)
    }

    /// Reduces a purged plane to a tombstone: what remains are ids, digests and counts.
    pub async fn entomb(&mut self, id: Uuid, offboarding: Uuid) -> Result<(), Fault> {
        let salt = self.random::<16>();
        let name: Option<String> = sqlx::query_scalar("SELECT name FROM planes WHERE id = ?")
            .bind(id.to_string())
            .fetch_one(self.connection())
            .await
            .map_err(Fault::database("read a plane"))?;
        let tag = name.map(|name| name_tag(&salt, &name));
        let at = us(self.at());
        for (doing, statement) in [
            ("entomb a plane", "UPDATE planes SET name = NULL, name_salt = ?3, name_tag = ?4, archive_url = NULL WHERE id = ?1"),
            ("entomb a plane's bindings", "UPDATE bindings SET mapping = NULL WHERE plane_id = ?1"),
            ("entomb an archive", "UPDATE archives SET manifest = NULL, purged_at = ?5 WHERE offboarding_id = ?2"),
            // What calls about it were answered names what it was.
            ("forget answers about a plane", "DELETE FROM idempotency WHERE instr(answer, ?1) > 0"),
            ("entomb an offboarding", "UPDATE offboardings SET salt = NULL, plan = NULL WHERE id = ?2"),
            // A failure's message may name a record's key, a remembered answer the mapping.
            ("entomb failures", "UPDATE stage_runs SET last_error = NULL WHERE plane_id = ?1"),
            ("entomb answers", "DELETE FROM idempotency WHERE instr(answer, ?1) > 0"),
        ] {
            sqlx::query(statement)
                .bind(id.to_string())
                .bind(offboarding.to_string())
                .bind(salt.as_slice())
                .bind(&tag)
                .bind(at)
                .execute(self.connection())
                .await
                .map_err(Fault::database(doing))?;
        }
        Ok(())
    }
}
