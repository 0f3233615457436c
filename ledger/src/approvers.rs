//! Approvers: whose key may sign, and the roles that go with it.
//!
//! The rule: a key is one actor's for ever, revoked or not. If we die in it, the transaction did not happen.

use chrono::{DateTime, Utc};
use serde::Serialize;
use uuid::Uuid;

use crate::{
    db::Tx,
    fault::Fault,
    rows::{Cells, to_json},
    sql::{Json, Row, statements},
};

/// A registered key.
#[derive(Debug, Clone, Serialize)]
pub struct Approver {
    /// Its identity.
    #[serde(rename = "approver_id")]
    pub id: Uuid,
    /// Whose it is, as `type:id`.
    pub actor: String,
    /// In OpenSSH's format, without comment.
    pub public_key: String,
    /// `SHA256:…` of the key.
    pub fingerprint: String,
    /// The roles that the actor has while the key is valid.
    pub roles: Vec<String>,
    /// Why it was added.
    pub reason: String,
    /// By whom.
    pub added_by: String,
    /// When.
    pub added_at: DateTime<Utc>,
    /// Who revoked it.
    pub revoked_by: Option<String>,
    /// Why.
    pub revoke_reason: Option<String>,
    /// When.
    pub revoked_at: Option<DateTime<Utc>>,
}

/// A key to register.
#[derive(Debug, Clone)]
pub struct NewApprover {
    /// Whose it is, as `type:id`.
    pub actor: String,
    /// In OpenSSH's format, without comment.
    pub public_key: String,
    /// `SHA256:…` of the key.
    pub fingerprint: String,
    /// The roles that go with it.
    pub roles: Vec<String>,
    /// Why.
    pub reason: String,
    /// By whom.
    pub added_by: String,
}

fn approver(row: &Row) -> Result<Approver, Fault> {
    let cells = Cells::new(row, "approvers", "id");
    Ok(Approver {
        id: cells.id("id")?,
        actor: cells.get("actor")?,
        public_key: cells.get("public_key")?,
        fingerprint: cells.get("fingerprint")?,
        roles: cells.json("roles")?.unwrap_or_default(),
        reason: cells.get("reason")?,
        added_by: cells.get("added_by")?,
        added_at: cells.at("added_at")?,
        revoked_by: cells.get("revoked_by")?,
        revoke_reason: cells.get("revoke_reason")?,
        revoked_at: cells.maybe_at("revoked_at")?,
    })
}

statements! {
    ADD = "register an approver",
        "INSERT INTO approvers (id, actor, public_key, fingerprint, roles, reason, added_by, added_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)";
    REVOKE = "revoke an approver's key",
        "UPDATE approvers SET revoked_at = $2, revoked_by = $3, revoke_reason = $4 WHERE id = $1 AND revoked_at IS NULL";
    BY_FINGERPRINT = "read an approver", "SELECT * FROM approvers WHERE fingerprint = $1";
    ALL = "list approvers", "SELECT * FROM approvers WHERE $1 OR revoked_at IS NULL ORDER BY added_at, id";
    OF_ACTOR = "read an actor's keys", "SELECT * FROM approvers WHERE actor = $1 AND revoked_at IS NULL ORDER BY added_at, id";
}

impl Tx {
    /// Registers a key and answers its id.
    pub async fn insert_approver(&mut self, new: &NewApprover) -> Result<Uuid, Fault> {
        let id = self.new_id();
        let at = self.at();
        let add = self.sql(&ADD).bind(id).bind(&new.actor).bind(&new.public_key).bind(&new.fingerprint);
        add.bind(Json(to_json(&new.roles))).bind(&new.reason).bind(&new.added_by).bind(at).one().await?;
        Ok(id)
    }

    /// Revokes a key for good.
    pub async fn revoke_approver(&mut self, id: Uuid, reason: &str, by: &str) -> Result<(), Fault> {
        let at = self.at();
        self.sql(&REVOKE).bind(id).bind(at).bind(by).bind(reason).one().await
    }

    /// The key of this fingerprint, revoked or not.
    pub async fn approver(&mut self, fingerprint: &str) -> Result<Option<Approver>, Fault> {
        self.sql(&BY_FINGERPRINT).bind(fingerprint).optional().await?.as_ref().map(approver).transpose()
    }

    /// Keys by date, revoked ones only if asked for.
    pub async fn approvers(&mut self, revoked: bool) -> Result<Vec<Approver>, Fault> {
        self.sql(&ALL).bind(revoked).all().await?.iter().map(approver).collect()
    }

    /// The valid keys of an actor, by date.
    pub async fn keys_of(&mut self, actor: &str) -> Result<Vec<Approver>, Fault> {
        self.sql(&OF_ACTOR).bind(actor).all().await?.iter().map(approver).collect()
    }
}
