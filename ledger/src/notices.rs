//! Notices: what somebody is to be told before an irreversible step, a date or because something happened. A row is one durable job:
//! it is claimed, delivered with no transaction open, and on record when it was.
//!
//! The rule: a notice is inserted in the transaction that makes it due, and each of them once; delivered at least once, under one id.
//! If we die delivering, the lease runs out and somebody else delivers it again to the channels that are not on record.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;
use serde_json::Value as Json;
use uuid::Uuid;

use crate::{
    db::Tx,
    fault::Fault,
    queue::Lease,
    rows::{Cells, to_json},
    sql::{self, Row, Value, statements},
};

lethe_stages::text_enum! {
    /// What a notice is about.
    NoticeKind {
        /// The grace period ends; after that nobody can cancel.
        CancelEnds = "cancel_ends",
        /// The hot copy is about to be removed.
        Evict = "evict",
        /// The retention ends; after that an approved purge begins.
        Purge = "purge",
        /// A legal deadline comes, or has passed.
        Deadline = "deadline",
        /// Somebody was to ask whether a hold is still needed.
        HoldReview = "hold_review",
        /// An approval ends, and its purge has not begun.
        ApprovalEnding = "approval_ending",
        /// Somebody cut a grace period short, and owes a review.
        BreakGlass = "break_glass",
        /// A run stands still until an operator acts.
        Halted = "halted",
        /// Something of a purged plane came back.
        Finding = "finding",
        /// Runs are due, and nobody takes them.
        Stalled = "stalled",
    }
}

lethe_stages::text_enum! {
    /// What became of a notice.
    NoticeStatus {
        /// It will be told.
        Queued = "queued",
        /// Somebody delivers it.
        Sending = "sending",
        /// Every channel has it.
        Delivered = "delivered",
        /// It was no longer true when it was due.
        Moot = "moot",
        /// It could not be delivered; `lethe notice retry`.
        Failed = "failed",
    }
}

/// A notice to insert.
#[derive(Debug, Clone)]
pub struct NewNotice {
    /// What about.
    pub kind: NoticeKind,
    /// Whom it concerns.
    pub tenant_id: Option<Uuid>,
    /// Which plane.
    pub plane_id: Option<Uuid>,
    /// Which offboarding.
    pub offboarding_id: Option<Uuid>,
    /// The hold, approval, review or run, where it is about one.
    pub subject_id: Option<Uuid>,
    /// When what it is about happens or happened.
    pub happens_at: DateTime<Utc>,
    /// How long before that it is told.
    pub lead: TimeDelta,
    /// Counts and ids; an object.
    pub details: Json,
}

impl NewNotice {
    fn key(&self) -> String {
        let subject = self.subject_id.or(self.offboarding_id).map_or_else(|| "all".to_owned(), |id| id.to_string());
        format!("{}:{subject}:{}:{}", self.kind, self.happens_at.timestamp_micros(), self.lead.num_seconds())
    }
}

/// A notice.
#[derive(Debug, Clone, Serialize)]
pub struct Notice {
    /// Its identity; the same however often it is sent.
    #[serde(rename = "notice_id")]
    pub id: Uuid,
    /// What about.
    pub kind: NoticeKind,
    /// Whom it concerns.
    pub tenant_id: Option<Uuid>,
    /// Which plane.
    pub plane_id: Option<Uuid>,
    /// Which offboarding.
    pub offboarding_id: Option<Uuid>,
    /// The hold, approval, review or run.
    pub subject_id: Option<Uuid>,
    /// When what it is about happens or happened.
    pub happens_at: DateTime<Utc>,
    /// How long before that, in seconds.
    #[serde(rename = "lead_s", serialize_with = "seconds")]
    pub lead: TimeDelta,
    /// Counts and ids.
    pub details: Json,
    /// What became of it.
    pub status: NoticeStatus,
    /// When it is told, or tried again.
    pub due_at: Option<DateTime<Utc>>,
    /// Failures so far.
    pub attempt: i64,
    /// The channels that have it, with the instant.
    pub delivered: BTreeMap<String, DateTime<Utc>>,
    /// The last failure, by channel.
    pub last_error: Option<Json>,
    /// When it was over.
    pub finished_at: Option<DateTime<Utc>>,
}

fn seconds<S: serde::Serializer>(span: &TimeDelta, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_i64(span.num_seconds())
}

impl Notice {
    /// The same, of another lead.
    pub fn again(&self, lead: TimeDelta) -> NewNotice {
        NewNotice {
            kind: self.kind,
            tenant_id: self.tenant_id,
            plane_id: self.plane_id,
            offboarding_id: self.offboarding_id,
            subject_id: self.subject_id,
            happens_at: self.happens_at,
            lead,
            details: self.details.clone(),
        }
    }
}

/// What becomes of a notice that somebody tried to deliver.
#[derive(Debug, Clone)]
pub enum NoticeEnd {
    /// Every channel has it.
    Delivered,
    /// It is not true any more.
    Moot,
    /// Not every channel has it; tried again then.
    Again(DateTime<Utc>),
    /// Not every channel has it, and that often enough.
    Failed,
}

/// Which notices to list; what is `None` does not filter.
#[derive(Debug, Clone, Default)]
pub struct NoticeFilter {
    /// About this plane.
    pub plane_id: Option<Uuid>,
    /// About this tenant.
    pub tenant_id: Option<Uuid>,
    /// In this status.
    pub status: Option<NoticeStatus>,
}

fn notice(row: &Row) -> Result<Notice, Fault> {
    let cells = Cells::new(row, "notices", "id");
    Ok(Notice {
        id: cells.id("id")?,
        kind: cells.parsed("kind")?,
        tenant_id: cells.maybe_id("tenant_id")?,
        plane_id: cells.maybe_id("plane_id")?,
        offboarding_id: cells.maybe_id("offboarding_id")?,
        subject_id: cells.maybe_id("subject_id")?,
        happens_at: cells.at("happens_at")?,
        lead: cells.span("lead_us")?,
        details: cells.json("details")?.unwrap_or_default(),
        status: cells.parsed("status")?,
        due_at: cells.maybe_at("due_at")?,
        attempt: cells.get("attempt")?,
        delivered: cells.json("delivered")?.unwrap_or_default(),
        last_error: cells.json("last_error")?,
        finished_at: cells.maybe_at("finished_at")?,
    })
}

statements! {
    ADD = "add a notice",
        "INSERT INTO notices (id, key, kind, tenant_id, plane_id, offboarding_id, subject_id, happens_at, lead_us, details, status, due_at,
            attempt, delivered, created_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, 'queued', $11, 0, '{}', $12) ON CONFLICT (key) DO NOTHING";
    DUE = "read notices that are due",
        "SELECT id FROM (
            SELECT id, due_at AS at FROM notices WHERE status = 'queued' AND due_at <= $1
            UNION ALL SELECT id, lease_until FROM notices WHERE status = 'sending' AND lease_until <= $1) ORDER BY at LIMIT $2",
        "SELECT id FROM notices WHERE (status = 'queued' AND due_at <= $1) OR (status = 'sending' AND lease_until <= $1)
         ORDER BY coalesce(due_at, lease_until) LIMIT $2 FOR UPDATE SKIP LOCKED";
    LEASE = "lease a notice",
        "UPDATE notices SET status = 'sending', due_at = NULL, lease_owner = $2, lease_until = $3
         WHERE id = $1 AND status IN ('queued', 'sending')";
    NOTICE = "read a notice", "SELECT * FROM notices WHERE id = $1";
    ANY_DUE = "ask whether notices are due",
        "SELECT id FROM notices WHERE status = 'queued' AND due_at <= $1
         UNION ALL SELECT id FROM notices WHERE status = 'sending' AND lease_until <= $1 LIMIT 1";
    SETTLE = "settle a notice",
        "UPDATE notices SET status = $3, due_at = $4, attempt = attempt + $5, lease_owner = NULL, lease_until = NULL, delivered = $6,
            last_error = $7, finished_at = $8 WHERE id = $1 AND status = 'sending' AND lease_owner = $2";
    RETRY = "deliver a notice again",
        "UPDATE notices SET status = 'queued', due_at = $2, attempt = 0, finished_at = NULL WHERE id = $1 AND status = 'failed'";
    LIST = "list notices",
        "SELECT * FROM notices WHERE ($1 IS NULL OR plane_id = $1) AND ($2 IS NULL OR tenant_id = $2) AND ($3 IS NULL OR status = $3)
         ORDER BY created_at DESC, id LIMIT $4",
        "SELECT * FROM notices WHERE ($1::uuid IS NULL OR plane_id = $1) AND ($2::uuid IS NULL OR tenant_id = $2)
            AND ($3::text IS NULL OR status = $3) ORDER BY created_at DESC, id LIMIT $4";
    // Whether what a notice is about is still to come or still so; one row, or none.
    LEAVING = "ask whether a grace period still runs",
        "SELECT o.id FROM offboardings o JOIN planes p ON p.id = o.plane_id
         WHERE o.id = $1 AND o.status = 'open' AND p.state IN ('ACTIVE', 'PENDING_DEACTIVATE')
            AND NOT EXISTS (SELECT 1 FROM break_glass g WHERE g.offboarding_id = o.id)";
    DEACTIVATED = "ask whether a hot copy is still there",
        "SELECT o.id FROM offboardings o JOIN planes p ON p.id = o.plane_id
         WHERE o.id = $1 AND o.status = 'open' AND p.state = 'DEACTIVATED'";
    ARCHIVED = "ask whether an archive is still there",
        "SELECT o.id FROM offboardings o JOIN planes p ON p.id = o.plane_id
         WHERE o.id = $1 AND o.status = 'open' AND p.state = 'ARCHIVED'";
    DEADLINE = "ask whether a deadline is still open",
        "SELECT offboarding_id AS id FROM deadlines WHERE offboarding_id = $1 AND closed_at IS NULL AND due_at = $2";
    HOLD = "ask whether a hold is still open",
        "SELECT id FROM holds WHERE id = $1 AND released_at IS NULL AND review_at = $2";
    APPROVAL = "ask whether an approval still stands",
        "SELECT id FROM approvals WHERE id = $1 AND status = 'granted' AND expires_at = $2";
    REVIEW = "ask whether a review is still owed", "SELECT id FROM break_glass WHERE id = $1 AND reviewed_at IS NULL";
    FINDING = "ask whether a finding is still open", "SELECT id FROM findings WHERE id = $1 AND status = 'open'";
    RUN = "ask whether a run still stands still", "SELECT id FROM stage_runs WHERE id = $1 AND status = 'halted'";
}

impl Tx {
    /// Adds a notice, told `lead` before what it is about, or now where that has passed. One that is there already is not added again:
    /// answers whether it was.
    pub async fn add_notice(&mut self, new: &NewNotice) -> Result<bool, Fault> {
        let (id, at) = (self.new_id(), self.at());
        let due_at = (new.happens_at - new.lead).max(at);
        let add = self.sql(&ADD).bind(id).bind(new.key()).bind(new.kind.as_str()).bind(new.tenant_id).bind(new.plane_id);
        let add = add.bind(new.offboarding_id).bind(new.subject_id).bind(new.happens_at);
        let add = add.bind(Value::Int(new.lead.num_microseconds())).bind(sql::Json(to_json(&new.details))).bind(due_at).bind(at);
        Ok(add.run().await? == 1)
    }

    /// Takes up to `limit` notices that are due, or whose deliverer was lost.
    pub async fn claim_notices(&mut self, limit: usize, lease: &Lease) -> Result<Vec<Notice>, Fault> {
        let at = self.at();
        let rows = self.sql(&DUE).bind(at).bind(limit as i64).all().await?;
        let mut claimed = Vec::with_capacity(rows.len());
        for row in &rows {
            let id = Cells::new(row, "notices", "id").id("id")?;
            self.sql(&LEASE).bind(id).bind(&lease.owner).bind(lease.until).one().await?;
            claimed.push(notice(&self.sql(&NOTICE).bind(id).first().await?)?);
        }
        Ok(claimed)
    }

    /// Whether what a notice is about is still to come, or still so.
    pub async fn notice_stands(&mut self, notice: &Notice) -> Result<bool, Fault> {
        let about = notice.subject_id.or(notice.offboarding_id);
        let statement = match notice.kind {
            NoticeKind::CancelEnds => self.sql(&LEAVING).bind(about),
            NoticeKind::Evict => self.sql(&DEACTIVATED).bind(about),
            NoticeKind::Purge => self.sql(&ARCHIVED).bind(about),
            NoticeKind::Deadline => self.sql(&DEADLINE).bind(about).bind(notice.happens_at),
            NoticeKind::HoldReview => self.sql(&HOLD).bind(about).bind(notice.happens_at),
            NoticeKind::ApprovalEnding => self.sql(&APPROVAL).bind(about).bind(notice.happens_at),
            NoticeKind::BreakGlass => self.sql(&REVIEW).bind(about),
            NoticeKind::Finding => self.sql(&FINDING).bind(about),
            NoticeKind::Halted => self.sql(&RUN).bind(about),
            // What was seen is told, whatever became of it since.
            NoticeKind::Stalled => return Ok(true),
        };
        Ok(statement.optional().await?.is_some())
    }

    /// Puts on record what became of a notice that `owner` tried to deliver; answers false where it is no longer theirs.
    pub async fn settle_notice(&mut self, notice: &Notice, owner: &str, end: &NoticeEnd) -> Result<bool, Fault> {
        let at = self.at();
        let (status, due_at, failures) = match end {
            NoticeEnd::Delivered => (NoticeStatus::Delivered, None, 0),
            NoticeEnd::Moot => (NoticeStatus::Moot, None, 0),
            NoticeEnd::Again(due_at) => (NoticeStatus::Queued, Some(*due_at), 1),
            NoticeEnd::Failed => (NoticeStatus::Failed, None, 1),
        };
        let finished_at = due_at.is_none().then_some(at);
        let settle = self.sql(&SETTLE).bind(notice.id).bind(owner).bind(status.as_str()).bind(due_at).bind(failures);
        let error = notice.last_error.as_ref().map(|error| sql::Json(to_json(error)));
        let settle = settle.bind(sql::Json(to_json(&notice.delivered))).bind(error).bind(finished_at);
        Ok(settle.run().await? == 1)
    }

    /// The notice.
    pub async fn notice(&mut self, id: Uuid) -> Result<Option<Notice>, Fault> {
        self.sql(&NOTICE).bind(id).optional().await?.as_ref().map(notice).transpose()
    }

    /// Has a notice that was given up delivered again.
    pub async fn retry_notice(&mut self, id: Uuid) -> Result<(), Fault> {
        let at = self.at();
        self.sql(&RETRY).bind(id).bind(at).one().await
    }

    /// The newest notices, filtered.
    pub async fn notices(&mut self, filter: &NoticeFilter, limit: i64) -> Result<Vec<Notice>, Fault> {
        let list = self.sql(&LIST).bind(filter.plane_id).bind(filter.tenant_id).bind(filter.status.map(|status| status.as_str()));
        list.bind(limit).all().await?.iter().map(notice).collect()
    }

    /// Whether a notice is due, or its deliverer was lost.
    pub async fn notices_are_due(&mut self) -> Result<bool, Fault> {
        let at = self.at();
        Ok(self.sql(&ANY_DUE).bind(at).optional().await?.is_some())
    }
}
