//! Grace periods that somebody cut short, and the review that each of them owes until somebody else has closed it.
//!
//! If we die in it, the transaction did not happen.

use chrono::{DateTime, Utc};
use serde::Serialize;
use uuid::Uuid;

use crate::{
    db::Tx,
    fault::Fault,
    rows::Cells,
    sql::{Row, statements},
};

/// A grace period that was cut short.
#[derive(Debug, Clone, Serialize)]
pub struct BrokenGlass {
    /// Its identity.
    #[serde(rename = "review_id")]
    pub id: Uuid,
    /// The offboarding.
    pub offboarding_id: Uuid,
    /// Its plane.
    pub plane_id: Uuid,
    /// Who did it.
    pub broken_by: String,
    /// Why.
    pub reason: String,
    /// When.
    pub broken_at: DateTime<Utc>,
    /// Who reviewed it.
    pub reviewed_by: Option<String>,
    /// What that person found.
    pub review: Option<String>,
    /// When.
    pub reviewed_at: Option<DateTime<Utc>>,
}

fn broken(row: &Row) -> Result<BrokenGlass, Fault> {
    let cells = Cells::new(row, "break_glass", "id");
    Ok(BrokenGlass {
        id: cells.id("id")?,
        offboarding_id: cells.id("offboarding_id")?,
        plane_id: cells.id("plane_id")?,
        broken_by: cells.get("broken_by")?,
        reason: cells.get("reason")?,
        broken_at: cells.at("broken_at")?,
        reviewed_by: cells.get("reviewed_by")?,
        review: cells.get("review")?,
        reviewed_at: cells.maybe_at("reviewed_at")?,
    })
}

statements! {
    BREAK = "cut a grace period short",
        "INSERT INTO break_glass (id, offboarding_id, broken_by, reason, broken_at) VALUES ($1, $2, $3, $4, $5)";
    REVIEW = "close a review",
        "UPDATE break_glass SET reviewed_by = $2, review = $3, reviewed_at = $4 WHERE id = $1 AND reviewed_at IS NULL";
    OF = "read broken grace periods",
        "SELECT g.*, o.plane_id FROM break_glass g JOIN offboardings o ON o.id = g.offboarding_id WHERE o.plane_id = $1
         ORDER BY g.broken_at DESC, g.id";
    OPEN = "read open reviews",
        "SELECT g.*, o.plane_id FROM break_glass g JOIN offboardings o ON o.id = g.offboarding_id WHERE g.reviewed_at IS NULL
         ORDER BY g.broken_at, g.id";
}

impl Tx {
    /// Puts on record that an offboarding's grace period is cut short, and answers the review that this owes.
    pub async fn break_glass(&mut self, offboarding: Uuid, reason: &str, by: &str) -> Result<Uuid, Fault> {
        let id = self.new_id();
        let at = self.at();
        self.sql(&BREAK).bind(id).bind(offboarding).bind(by).bind(reason).bind(at).one().await?;
        Ok(id)
    }

    /// Closes a review.
    pub async fn close_review(&mut self, id: Uuid, review: &str, by: &str) -> Result<(), Fault> {
        let at = self.at();
        self.sql(&REVIEW).bind(id).bind(by).bind(review).bind(at).one().await
    }

    /// The grace periods of a plane that were cut short, the latest first.
    pub async fn broken_glass_of(&mut self, plane: Uuid) -> Result<Vec<BrokenGlass>, Fault> {
        self.sql(&OF).bind(plane).all().await?.iter().map(broken).collect()
    }

    /// Reviews that nobody has closed, the oldest first.
    pub async fn open_reviews(&mut self) -> Result<Vec<BrokenGlass>, Fault> {
        self.sql(&OPEN).all().await?.iter().map(broken).collect()
    }
}
