//! The permit: without one, no destructive verb of any port can be called.
//!
//! The rule: its fields are private and [`Permit::mint`] is the only way to make one. It is a pure function over facts that were read
//! under lock in the claiming transaction. A crashed destroyer's next claim mints anew: a hold placed meanwhile stops the rest.

use chrono::{DateTime, Utc};
use serde_json::json;
use uuid::Uuid;

use crate::{
    contract::Facts,
    refusal::{Code, Refusal},
};

/// What a permit lets its holder destroy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Destruction {
    /// The hot records that a verified export holds.
    Evict,
    /// The archive, and whatever is left in the hot stores.
    Purge,
}

/// The policy's verdict on a destructive step, which it allowed.
#[derive(Debug, Clone)]
pub struct Verdict {
    /// The revision of the policy that allowed it.
    pub policy_revision: String,
}

/// An approval as it stands on record, read under lock.
#[derive(Debug, Clone)]
pub struct ApprovalFacts {
    /// The approval.
    pub id: Uuid,
    /// The plan it releases.
    pub plan_digest: String,
    /// Who gave it, as `type:id`; never the requester.
    pub by: String,
    /// When it ends.
    pub expires_at: DateTime<Utc>,
    /// Whether this offboarding's purge has already consumed it: then it also covers the attempts that resume that purge.
    pub consumed: bool,
}

impl ApprovalFacts {
    /// Whether it releases the plan with this digest at this instant.
    pub fn releases(&self, plan_digest: &str, at: DateTime<Utc>) -> bool {
        self.plan_digest == plan_digest && (self.consumed || self.expires_at > at)
    }
}

/// Leave to destroy exactly what one verified manifest lists, of one plane, in one offboarding, under one epoch.
#[derive(Debug, Clone)]
pub struct Permit {
    destruction: Destruction,
    plane_id: Uuid,
    offboarding_id: Uuid,
    epoch: i64,
    manifest_sha256: String,
    policy_revision: String,
}

impl Permit {
    /// Mints a permit, or says which fact forbids it. `epoch` is the one the claim has just raised.
    ///
    /// # Errors
    /// HOLD_ACTIVE, CLOCK_SUSPECT, LEDGER_BEHIND, EXPORT_NOT_VERIFIED; for a purge also RETENTION_ACTIVE, PURGE_PROTECTED,
    /// APPROVAL_REQUIRED, APPROVAL_EXPIRED, PLAN_CHANGED, LOG_STOPPED.
    pub fn mint(destruction: Destruction, facts: &Facts, epoch: i64, verdict: &Verdict) -> Result<Permit, Refusal> {
        no_hold(facts)?;
        no_suspicion(facts)?;
        let manifest_sha256 = facts.manifest_sha256.clone().ok_or_else(|| {
            Refusal::new(Code::ExportNotVerified, "no verified manifest covers the plane's stores; its export must finish first")
        })?;
        if destruction == Destruction::Purge {
            retention_met(facts)?;
            unprotected(facts)?;
            approved(facts)?;
            logged(facts)?;
        }
        Ok(Permit {
            destruction,
            plane_id: facts.plane_id,
            offboarding_id: facts.offboarding_id,
            epoch,
            manifest_sha256,
            policy_revision: verdict.policy_revision.clone(),
        })
    }

    /// What it lets its holder destroy.
    pub fn destruction(&self) -> Destruction {
        self.destruction
    }
    /// The plane.
    pub fn plane_id(&self) -> Uuid {
        self.plane_id
    }
    /// The offboarding.
    pub fn offboarding_id(&self) -> Uuid {
        self.offboarding_id
    }
    /// The epoch under which it was minted.
    pub fn epoch(&self) -> i64 {
        self.epoch
    }
    /// The manifest it rests on.
    pub fn manifest_sha256(&self) -> &str {
        &self.manifest_sha256
    }
    /// The policy that allowed it.
    pub fn policy_revision(&self) -> &str {
        &self.policy_revision
    }
}

fn no_hold(facts: &Facts) -> Result<(), Refusal> {
    match facts.holds.first() {
        None => Ok(()),
        Some(hold) => Err(Refusal::new(
            Code::HoldActive,
            format!("hold {hold} forbids every destructive step: `lethe hold release {hold} --reason …` when it may go"),
        )
        .with(json!({"holds": facts.holds}))),
    }
}

fn no_suspicion(facts: &Facts) -> Result<(), Refusal> {
    if facts.ledger_behind {
        return Err(Refusal::new(
            Code::LedgerBehind,
            "this ledger is behind the mark beside its archive, as one restored from a backup is: `lethe ledger reconcile --reason …`",
        ));
    }
    if facts.clock_suspect {
        return Err(Refusal::new(
            Code::ClockSuspect,
            "the clock jumped forward: if it is right now, `lethe ledger confirm-clock --reason …`",
        ));
    }
    Ok(())
}

fn retention_met(facts: &Facts) -> Result<(), Refusal> {
    match facts.retention_until {
        Some(until) if until <= facts.at => Ok(()),
        Some(until) => Err(Refusal::new(Code::RetentionActive, format!("the retention runs until {}", until.to_rfc3339()))
            .with(json!({"until": until}))),
        // A deadline that is not there has not passed.
        None => Err(Refusal::new(Code::RetentionActive, "the retention has not started")),
    }
}

/// A purge that nobody could prove does not happen.
fn logged(facts: &Facts) -> Result<(), Refusal> {
    if facts.log_stopped {
        let message = "the log of the trail stands still, so a purge could not be proved: `lethe log show` says why";
        return Err(Refusal::new(Code::LogStopped, message));
    }
    Ok(())
}

fn unprotected(facts: &Facts) -> Result<(), Refusal> {
    match facts.protected_until {
        Some(until) if until > facts.at => {
            let message = format!("the tenant is protected: nothing of it is purged before {}", until.to_rfc3339());
            Err(Refusal::new(Code::PurgeProtected, message).with(json!({"until": until})))
        }
        _ => Ok(()),
    }
}

/// Whether the plan as it stands is one that somebody approved, and that approval lasts.
///
/// # Errors
/// APPROVAL_REQUIRED, APPROVAL_EXPIRED, PLAN_CHANGED.
pub fn approved(facts: &Facts) -> Result<(), Refusal> {
    let plan = facts.plan_digest.as_deref().ok_or_else(|| {
        Refusal::new(Code::ApprovalRequired, "there is no destruction plan to approve yet: the plane must be ARCHIVED first")
    })?;
    if facts.approvals.is_empty() {
        return Err(Refusal::new(
            Code::ApprovalRequired,
            format!(
                "somebody other than the requester must approve plan {plan}: `lethe approval grant {} --reason …`",
                facts.plane_id
            ),
        )
        .with(json!({"plan_digest": plan})));
    }
    let Some(approval) = facts.approvals.iter().find(|approval| approval.plan_digest == plan) else {
        let other = &facts.approvals[0].plan_digest;
        return Err(Refusal::new(
            Code::PlanChanged,
            format!(
                "the approval releases {other}, the plan is now {plan}, and is approved anew: `lethe approval grant {} --reason …`",
                facts.plane_id
            ),
        ));
    };
    if facts.plan_manifest_sha256 != facts.manifest_sha256 {
        return Err(Refusal::new(
            Code::PlanChanged,
            "the plan is not the one that was digested, or names another manifest than the one that was verified",
        ));
    }
    if !facts.approvals.iter().any(|approval| approval.releases(plan, facts.at)) {
        return Err(Refusal::new(Code::ApprovalExpired, format!("the approval expired at {}", approval.expires_at.to_rfc3339())));
    }
    Ok(())
}
