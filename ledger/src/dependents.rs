//! What outside uses a plane and does as it is told: schedules, services, caches. The register names them; how they are controlled stands
//! in the configuration of the worker, never here.
//!
//! The rule: a row is never deleted; one that was taken off the list is still given back what an offboarding took from it.
//! If we die in it, the transaction did not happen.

use chrono::{DateTime, Utc};
use lethe_stages::suspension::DependentKind;
use serde::Serialize;
use uuid::Uuid;

use crate::{
    db::Tx,
    fault::Fault,
    rows::Cells,
    sql::{Row, statements},
};

/// Something that depends on a plane.
#[derive(Debug, Clone, Serialize)]
pub struct DependentRow {
    /// Its identity.
    #[serde(rename = "dependent_id")]
    pub id: Uuid,
    /// What it uses.
    pub plane_id: Uuid,
    /// Its name; gone once the plane is purged.
    pub name: Option<String>,
    /// Its kind.
    pub kind: DependentKind,
    /// The section of the configuration that has its commands; gone once the plane is purged.
    pub control: Option<String>,
    /// When it was registered.
    pub added_at: DateTime<Utc>,
    /// When it was taken off the list.
    pub removed_at: Option<DateTime<Utc>>,
}

fn dependent(row: &Row) -> Result<DependentRow, Fault> {
    let cells = Cells::new(row, "dependents", "id");
    Ok(DependentRow {
        id: cells.id("id")?,
        plane_id: cells.id("plane_id")?,
        name: cells.get("name")?,
        kind: cells.parsed("kind")?,
        control: cells.get("control")?,
        added_at: cells.at("added_at")?,
        removed_at: cells.maybe_at("removed_at")?,
    })
}

statements! {
    ADD = "register a dependent",
        "INSERT INTO dependents (id, plane_id, name, kind, control, added_at) VALUES ($1, $2, $3, $4, $5, $6)";
    REMOVE = "take a dependent off the list", "UPDATE dependents SET removed_at = $2 WHERE id = $1 AND removed_at IS NULL";
    LISTED = "read a plane's dependents",
        "SELECT * FROM dependents WHERE plane_id = $1 AND removed_at IS NULL ORDER BY added_at, id";
    CONCERNED = "read an offboarding's dependents",
        "SELECT * FROM dependents WHERE id IN (SELECT what FROM suspensions WHERE offboarding_id = $1 AND kind = 'dependent')
         ORDER BY added_at, id",
        "SELECT * FROM dependents WHERE id IN (SELECT what::uuid FROM suspensions WHERE offboarding_id = $1 AND kind = 'dependent')
         ORDER BY added_at, id";
}

impl Tx {
    /// Registers something that depends on a plane; the caller has made sure that its name is free.
    pub async fn add_dependent(&mut self, plane: Uuid, name: &str, kind: DependentKind, control: &str) -> Result<Uuid, Fault> {
        let (id, at) = (self.new_id(), self.at());
        let add = self.sql(&ADD).bind(id).bind(plane).bind(name).bind(kind.as_str()).bind(control);
        add.bind(at).one().await?;
        Ok(id)
    }

    /// Takes a dependent off the list.
    pub async fn remove_dependent(&mut self, id: Uuid) -> Result<(), Fault> {
        let at = self.at();
        self.sql(&REMOVE).bind(id).bind(at).one().await
    }

    /// What depends on a plane, in the order of registration.
    pub async fn dependents(&mut self, plane: Uuid) -> Result<Vec<DependentRow>, Fault> {
        self.sql(&LISTED).bind(plane).all().await?.iter().map(dependent).collect()
    }

    /// What an offboarding suspended of a plane's dependents, on the list or not any more.
    pub async fn suspended_dependents(&mut self, offboarding: Uuid) -> Result<Vec<DependentRow>, Fault> {
        self.sql(&CONCERNED).bind(offboarding).all().await?.iter().map(dependent).collect()
    }
}
