//! What an offboarding suspended, and what became of it: the rows of which a cancel gives back exactly what was taken.
//!
//! The rule: the first word on what a thing was stands. Tokens are suspended and written down in one statement's transaction; fences that
//! were open and dependents before or with the deed. If we die in it, the transaction did not happen.

use chrono::{DateTime, Utc};
use lethe_stages::suspension::{Restoration, Suspension, SuspensionKind, Tried};
use serde::Serialize;
use serde_json::Value as Json;
use uuid::Uuid;

use crate::{
    db::Tx,
    fault::Fault,
    rows::Cells,
    sql::{Json as Report, Row, statements},
};

/// A suspension as it stands in the ledger.
#[derive(Debug, Clone, Serialize)]
pub struct SuspensionRow {
    /// What kind of thing.
    pub kind: SuspensionKind,
    /// Which: a token's id, a binding's position, a dependent's id.
    pub what: String,
    /// What it was; gone once the plane is purged.
    pub before: Option<Json>,
    /// When it was written down.
    pub suspended_at: DateTime<Utc>,
    /// When giving it back was last tried.
    pub restored_at: Option<DateTime<Utc>>,
    /// What came of that.
    pub outcome: Option<Restoration>,
    /// Why it is not restored.
    pub note: Option<String>,
    /// When a person accepted that it may stay as it is.
    pub accepted_at: Option<DateTime<Utc>>,
}

impl SuspensionRow {
    /// As handlers see it.
    pub fn as_value(&self) -> Suspension {
        Suspension {
            kind: self.kind,
            what: self.what.clone(),
            before: self.before.clone().unwrap_or_default(),
            outcome: self.outcome,
            accepted: self.accepted_at.is_some(),
        }
    }
}

/// So many tokens in one outcome.
#[derive(Debug, Clone, Serialize)]
pub struct SuspendedTokens {
    /// What became of them; `None`: they are suspended, or were revoked with the plane.
    pub outcome: Option<Restoration>,
    /// How many.
    pub number: i64,
}

fn row(row: &Row) -> Result<SuspensionRow, Fault> {
    let cells = Cells::new(row, "suspensions", "what");
    let outcome: Option<String> = cells.get("outcome")?;
    Ok(SuspensionRow {
        kind: cells.parsed("kind")?,
        what: cells.get("what")?,
        before: cells.json("before")?,
        suspended_at: cells.at("suspended_at")?,
        restored_at: cells.maybe_at("restored_at")?,
        outcome: outcome.map(|_| cells.parsed("outcome")).transpose()?,
        note: cells.get("note")?,
        accepted_at: cells.maybe_at("accepted_at")?,
    })
}

/// Of the newest such offboarding, by the order of insertion.
macro_rules! unrestored {
    ($place:literal) => {
        concat!(
            "SELECT o.id FROM offboardings o WHERE o.plane_id = $1 AND o.status = 'cancelled' AND EXISTS
                (SELECT 1 FROM suspensions s WHERE s.offboarding_id = o.id AND s.outcome = 'not_restored')
             ORDER BY ",
            $place,
            " DESC LIMIT 1"
        )
    };
}

statements! {
    KEEP = "write down what is suspended",
        "INSERT INTO suspensions (offboarding_id, kind, what, before, suspended_at) VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT (offboarding_id, kind, what) DO NOTHING";
    KEEP_FENCES = "write down whose stores are fenced",
        "INSERT INTO suspensions (offboarding_id, kind, what, before, suspended_at)
         SELECT o.id, 'fence', CAST(b.position AS TEXT), '{\"mode\":\"open\"}', $2 FROM offboardings o JOIN bindings b ON b.plane_id = o.plane_id
         WHERE o.id IN (SELECT value FROM json_each($1)) ON CONFLICT (offboarding_id, kind, what) DO NOTHING",
        "INSERT INTO suspensions (offboarding_id, kind, what, before, suspended_at)
         SELECT o.id, 'fence', b.position::text, '{\"mode\":\"open\"}'::jsonb, $2 FROM offboardings o JOIN bindings b ON b.plane_id = o.plane_id
         WHERE o.id = ANY($1) ON CONFLICT (offboarding_id, kind, what) DO NOTHING";
    KEEP_TOKENS = "write down which tokens are suspended",
        "INSERT INTO suspensions (offboarding_id, kind, what, before, suspended_at)
         SELECT $2, 'token', id, '{\"status\":\"active\"}', $3 FROM access_tokens WHERE plane_id = $1 AND status = 'active'
         ON CONFLICT (offboarding_id, kind, what) DO NOTHING",
        "INSERT INTO suspensions (offboarding_id, kind, what, before, suspended_at)
         SELECT $2, 'token', id::text, '{\"status\":\"active\"}'::jsonb, $3 FROM access_tokens WHERE plane_id = $1 AND status = 'active'
         ON CONFLICT (offboarding_id, kind, what) DO NOTHING";
    // What somebody revoked meanwhile stays revoked.
    SETTLE_TOKENS = "write down which tokens are restored",
        "UPDATE suspensions SET restored_at = $3, outcome = CASE WHEN what IN
            (SELECT id FROM access_tokens WHERE plane_id = $1 AND status = 'active') THEN 'restored' ELSE 'left_alone' END
         WHERE offboarding_id = $2 AND kind = 'token' AND outcome IS NULL",
        "UPDATE suspensions SET restored_at = $3, outcome = CASE WHEN what IN
            (SELECT id::text FROM access_tokens WHERE plane_id = $1 AND status = 'active') THEN 'restored' ELSE 'left_alone' END
         WHERE offboarding_id = $2 AND kind = 'token' AND outcome IS NULL";
    SETTLE = "write down what was restored",
        "UPDATE suspensions SET restored_at = $4, outcome = $5, note = $6 WHERE offboarding_id = $1 AND kind = $2 AND what = $3";
    ACCEPT = "accept what is not restored",
        "UPDATE suspensions SET accepted_at = $2 WHERE offboarding_id = $1 AND kind <> 'token'
            AND (outcome IS NULL OR outcome = 'not_restored') AND accepted_at IS NULL";
    REOPEN = "try to restore again", "UPDATE suspensions SET accepted_at = NULL WHERE offboarding_id = $1 AND outcome = 'not_restored'";
    UNRESTORED = "look for what is not restored", unrestored!("o.rowid"), unrestored!("o.place");
    // Tokens are counted, not listed: there may be very many.
    OTHERS = "read what is suspended",
        "SELECT * FROM suspensions WHERE offboarding_id = $1 AND kind <> 'token' ORDER BY kind DESC, length(what), what";
    TOKENS = "count suspended tokens",
        "SELECT outcome, count(*) AS number FROM suspensions WHERE offboarding_id = $1 AND kind = 'token' GROUP BY outcome ORDER BY outcome";
}

impl Tx {
    /// Writes down what is about to be suspended; of what is known, the first word stands.
    pub async fn keep_suspensions(&mut self, offboarding: Uuid, found: &[Suspension]) -> Result<(), Fault> {
        let at = self.at();
        for one in found {
            let keep = self.sql(&KEEP).bind(offboarding).bind(one.kind.as_str()).bind(&one.what);
            keep.bind(Report(one.before.to_string())).bind(at).run().await?;
        }
        Ok(())
    }

    /// Writes down that the stores of these offboardings' planes are fenced, which were open before unless something else is on record.
    pub async fn keep_fences(&mut self, offboardings: &[Uuid]) -> Result<(), Fault> {
        if offboardings.is_empty() {
            return Ok(());
        }
        let at = self.at();
        self.sql(&KEEP_FENCES).bind(offboardings).bind(at).run().await.map(drop)
    }

    /// Writes down the plane's active tokens, which are about to be suspended.
    pub(crate) async fn keep_tokens(&mut self, plane: Uuid, offboarding: Uuid) -> Result<(), Fault> {
        let at = self.at();
        self.sql(&KEEP_TOKENS).bind(plane).bind(offboarding).bind(at).run().await.map(drop)
    }

    /// Writes down which of an offboarding's tokens are active again.
    pub(crate) async fn settle_tokens(&mut self, plane: Uuid, offboarding: Uuid) -> Result<(), Fault> {
        let at = self.at();
        self.sql(&SETTLE_TOKENS).bind(plane).bind(offboarding).bind(at).run().await.map(drop)
    }

    /// Writes down what came of giving things back.
    pub async fn settle_suspensions(&mut self, offboarding: Uuid, tried: &[Tried]) -> Result<(), Fault> {
        let at = self.at();
        for one in tried {
            let settle = self.sql(&SETTLE).bind(offboarding).bind(one.kind.as_str()).bind(&one.what).bind(at);
            settle.bind(one.outcome.as_str()).bind(one.note.clone()).one().await?;
        }
        Ok(())
    }

    /// Accepts that what is not restored may stay as it is. Answers how much that is.
    pub async fn accept_unrestored(&mut self, offboarding: Uuid) -> Result<u64, Fault> {
        let at = self.at();
        self.sql(&ACCEPT).bind(offboarding).bind(at).run().await
    }

    /// Takes that back, so that it is tried again.
    pub async fn reopen_unrestored(&mut self, offboarding: Uuid) -> Result<u64, Fault> {
        self.sql(&REOPEN).bind(offboarding).run().await
    }

    /// The latest cancelled offboarding of the plane of which something is not restored.
    pub async fn unrestored_offboarding(&mut self, plane: Uuid) -> Result<Option<Uuid>, Fault> {
        let row = self.sql(&UNRESTORED).bind(plane).optional().await?;
        row.map(|row| Cells::new(&row, "offboardings", "id").id("id")).transpose()
    }

    /// What an offboarding suspended, tokens left out.
    pub async fn suspensions(&mut self, offboarding: Uuid) -> Result<Vec<SuspensionRow>, Fault> {
        self.sql(&OTHERS).bind(offboarding).all().await?.iter().map(row).collect()
    }

    /// How many tokens it suspended, by what became of them.
    pub async fn suspended_tokens(&mut self, offboarding: Uuid) -> Result<Vec<SuspendedTokens>, Fault> {
        let rows = self.sql(&TOKENS).bind(offboarding).all().await?;
        let read = |row: &Row| {
            let cells = Cells::new(row, "suspensions", "outcome");
            let outcome: Option<String> = cells.get("outcome")?;
            Ok(SuspendedTokens { outcome: outcome.map(|_| cells.parsed("outcome")).transpose()?, number: cells.get("number")? })
        };
        rows.iter().map(read).collect()
    }
}
