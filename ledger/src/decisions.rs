//! What policies were asked and answered, kept so that other policies can be tried on it.
//!
//! If we die in it, the transaction did not happen.

use chrono::{DateTime, Utc};
use serde_json::Value as Json;
use uuid::Uuid;

use crate::{
    db::Tx,
    fault::Fault,
    rows::Cells,
    sql::{Json as Report, statements},
};

/// A recorded question and its answer.
#[derive(Debug, Clone)]
pub struct PolicyDecision {
    /// Its identity.
    pub id: Uuid,
    /// When.
    pub at: DateTime<Utc>,
    /// The question, as it was asked.
    pub ask: Json,
    /// The answer.
    pub allowed: bool,
    /// Of the policies that gave it.
    pub revision: String,
}

statements! {
    RECORD = "record a policy's decision",
        "INSERT INTO policy_decisions (id, at, ask, allowed, revision) VALUES ($1, $2, $3, $4, $5)";
    LATEST = "read policy decisions",
        "SELECT * FROM policy_decisions ORDER BY at DESC, id DESC LIMIT CAST($1 AS INTEGER)",
        "SELECT * FROM policy_decisions ORDER BY at DESC, id DESC LIMIT $1";
}

impl Tx {
    /// Records a question, JSON, and its answer.
    pub async fn record_policy_decision(&mut self, ask: &Json, allowed: bool, revision: &str) -> Result<(), Fault> {
        let (id, at) = (self.new_id(), self.at());
        self.sql(&RECORD).bind(id).bind(at).bind(Report(ask.to_string())).bind(allowed).bind(revision).one().await
    }

    /// The latest decisions, at most so many, the newest first.
    pub async fn policy_decisions(&mut self, limit: i64) -> Result<Vec<PolicyDecision>, Fault> {
        let rows = self.sql(&LATEST).bind(limit).all().await?;
        rows.iter()
            .map(|row| {
                let cells = Cells::new(row, "policy_decisions", "id");
                Ok(PolicyDecision {
                    id: cells.id("id")?,
                    at: cells.at("at")?,
                    ask: cells.json("ask")?.unwrap_or_default(),
                    allowed: cells.get("allowed")?,
                    revision: cells.get("revision")?,
                })
            })
            .collect()
    }
}
