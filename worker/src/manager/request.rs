//! Request, cancel and retry: decided on locked facts, written in the caller's transaction.
//!
//! The rule: decide first, write after. A refusal has written nothing.

use chrono::{DateTime, Utc};
use lethe_ledger::{
    Actor, ApprovalStatus, Chain, Entry, EventType, Fault, Move, NewOffboarding, NewRun, Offboarding, OffboardingStatus, Plane,
    Run, RunStatus, Settlement, Tenant, TenantStatus, Tx,
};
use lethe_stages::{Code, EvictMode, Facts, GraceAccess, Ground, LifecycleState, Refusal, Step, UsageKnown, canonical};
use serde_json::json;
use uuid::Uuid;

use super::{Beforehand, KnowledgeLifecycleManager, about};
use crate::config::Span;

/// What a caller asks of an offboarding; what is `None` comes from the ground's configuration.
#[derive(Debug, Clone)]
pub struct Terms {
    /// Why.
    pub ground: Ground,
    /// Length of the grace period.
    pub grace: Option<Span>,
    /// Between DEACTIVATED and export.
    pub archive_delay: Option<Span>,
    /// Between ARCHIVED and purge.
    pub retention: Option<Span>,
    /// Legal basis of a retention above 0.
    pub retention_basis: Option<String>,
    /// What grace leaves open.
    pub grace_access: Option<GraceAccess>,
    /// When the hot copy goes.
    pub evict: Option<EvictMode>,
    /// When the demand arrived.
    pub received_at: Option<DateTime<Utc>>,
}

/// A request that was accepted.
pub struct Requested {
    /// The offboarding.
    pub offboarding: Offboarding,
    /// Whether it was opened before, by an equal request.
    pub repeated: bool,
}

/// A cancel that was accepted.
pub struct Cancelled {
    /// The offboarding.
    pub offboarding_id: Uuid,
    /// Tokens that work again.
    pub tokens_restored: u64,
}

/// What an operation answers when it is refused or when the ledger fails.
pub(crate) type Decision<T> = Result<Result<T, Refusal>, Fault>;

macro_rules! allowed {
    ($decision:expr) => {
        match $decision {
            Ok(value) => value,
            Err(refusal) => return Ok(Err(refusal)),
        }
    };
}

impl KnowledgeLifecycleManager {
    /// What the request would freeze: the caller's terms over the ground's, checked.
    pub(crate) fn terms(
        &self,
        tenant: &Tenant,
        plane: &Plane,
        asked: &Terms,
        reason: &str,
        by: &Actor,
        at: DateTime<Utc>,
    ) -> Result<NewOffboarding, Refusal> {
        let ground = self.config.grounds.get(&asked.ground);
        let ground = ground
            .ok_or_else(|| Refusal::new(Code::GroundUnknown, format!("the configuration has no [grounds.{}]", asked.ground)))?;
        let erasure = asked.ground == Ground::ErasureRequest;
        let grace = asked.grace.unwrap_or(ground.grace);
        let retention = asked.retention.unwrap_or(ground.retention);
        let basis = asked.retention_basis.clone().or_else(|| ground.retention_basis.clone());
        if erasure && retention.0 > chrono::TimeDelta::zero() {
            return Err(Refusal::new(
                Code::RetentionInvalid,
                format!("an erasure request retains nothing; {retention} was asked: leave --retention out"),
            ));
        }
        if retention.0 > chrono::TimeDelta::zero() && basis.as_deref().unwrap_or("").trim().is_empty() {
            return Err(Refusal::new(
                Code::RetentionInvalid,
                format!("a retention of {retention} names its legal basis: --retention-basis TEXT"),
            ));
        }
        let archive_delay = asked.archive_delay.unwrap_or(ground.archive_delay);
        let received_at = asked.received_at.unwrap_or(at);
        if received_at > at {
            return Err(Refusal::new(
                Code::InvalidArgument,
                format!("the demand was received at {received_at}, which is yet to come"),
            ));
        }
        let legal_due_at = ground.legal_due.map(|due| received_at + due.0);
        let planned = at + grace.0 + archive_delay.0 + retention.0;
        let earliest = tenant.protected_until.map_or(planned, |until| until.max(planned));
        if let Some(due) = legal_due_at.filter(|due| earliest > *due) {
            let way_out = if earliest > planned {
                "the tenant is protected from purges until then, which nobody can shorten"
            } else {
                "shorten --grace"
            };
            let (earliest_text, due_text) = (earliest.to_rfc3339(), due.to_rfc3339());
            return Err(Refusal::new(
                Code::DueDateUnreachable,
                format!("the earliest purge would be {earliest_text}, the law's due date is {due_text}: {way_out}"),
            )
            .with(json!({"earliest_purge": earliest, "legal_due_at": due})));
        }
        let grace_access =
            if erasure { GraceAccess::None } else { asked.grace_access.unwrap_or(self.config.offboarding.grace_access) };
        let evict = if erasure { EvictMode::AtPurge } else { asked.evict.unwrap_or(self.config.offboarding.evict) };
        let terms_digest = canonical::digest(&json!({
            "ground": asked.ground, "grace_us": grace.0.num_microseconds(), "archive_delay_us": archive_delay.0.num_microseconds(),
            "retention_us": retention.0.num_microseconds(), "retention_basis": basis, "grace_access": grace_access, "evict": evict,
            "received_at": asked.received_at,
        }));
        Ok(NewOffboarding {
            plane_id: plane.id,
            tenant_id: tenant.id,
            ground: asked.ground,
            reason: reason.to_owned(),
            requested_by: by.to_string(),
            terms_digest: terms_digest.expect("terms hold text and integers only"),
            grace_access,
            evict,
            grace: grace.0,
            archive_delay: archive_delay.0,
            retention: retention.0,
            retention_basis: basis.filter(|_| retention.0 > chrono::TimeDelta::zero()),
            usage_unknown_accepted: self.config.accept_unknown(&tenant.name),
            received_at,
            legal_due_at,
        })
    }

    /// Asked of a new request only: one that repeats an open offboarding was measured when that was opened.
    fn grace_suffices(&self, tenant: &Tenant, new: &NewOffboarding) -> Result<(), Refusal> {
        let (grace, least) = (Span(new.grace), self.config.grace_min(&tenant.name));
        if grace >= least {
            return Ok(());
        }
        let message = format!("a grace of {grace} is below the minimum of {least}");
        Err(Refusal::new(Code::GraceInvalid, message).with(json!({"minimum": least.to_string()})))
    }

    /// Requests an offboarding. `before` is what was found out before the transaction. An equal request again answers the one that is open and
    /// moves no deadline.
    #[allow(clippy::too_many_arguments)]
    pub(crate) async fn request(
        &self,
        tx: &mut Tx,
        tenant: &Tenant,
        plane: &Plane,
        asked: &Terms,
        before: &Beforehand,
        reason: &str,
        by: &Actor,
    ) -> Decision<Requested> {
        let new = allowed!(self.may_request(tx, tenant, plane, asked, before, reason, by).await?);
        let new = match new {
            Ok(open) => return Ok(Ok(Requested { offboarding: *open, repeated: true })),
            Err(new) => new,
        };
        let offboarding = tx.insert_offboarding(&new, before.key()).await?;
        tx.set_draining(plane.id, true).await?;
        if new.ground == Ground::ErasureRequest {
            tx.suspend_tokens(plane.id, offboarding.id).await?;
        }
        let due_at = tx.at();
        let run =
            NewRun { offboarding_id: offboarding.id, plane_id: plane.id, tenant_id: tenant.id, step: Step::Deregister, due_at };
        tx.enqueue(run).await?;
        let mut entry =
            Entry::new(Chain::Plane(plane.id), Some(tenant.id), EventType::Requested, by, "knowledge.offboarding.request");
        entry.offboarding_id = Some(offboarding.id);
        entry.gate = Some(self.gate.decision("ALLOWED", None));
        entry.reason = Some(reason.to_owned());
        entry.evidence = json!({
            "ground": new.ground, "grace_s": new.grace.num_seconds(), "archive_delay_s": new.archive_delay.num_seconds(),
            "retention_s": new.retention.num_seconds(), "grace_access": new.grace_access, "evict": new.evict,
            "received_at": new.received_at, "legal_due_at": new.legal_due_at, "terms_digest": new.terms_digest,
            "plan_version": offboarding.plan_version,
        });
        if let Some(lock) = before.lock() {
            entry.evidence["archive_lock"] = json!(lock);
        }
        if let Some(key) = before.key() {
            entry.evidence["archive_key_id"] = json!(key.id);
            entry.evidence["master_key_id"] = json!(key.master_key_id);
        }
        tx.append(entry).await?;
        Ok(Ok(Requested { offboarding, repeated: false }))
    }

    /// Whether the request may be made: the open offboarding that it repeats, or the terms to freeze.
    #[allow(clippy::type_complexity, clippy::too_many_arguments)]
    pub(crate) async fn may_request(
        &self,
        tx: &mut Tx,
        tenant: &Tenant,
        plane: &Plane,
        asked: &Terms,
        before: &Beforehand,
        reason: &str,
        by: &Actor,
    ) -> Decision<Result<Box<Offboarding>, NewOffboarding>> {
        if plane.state == LifecycleState::Purged {
            return Ok(Err(Refusal::new(Code::PlanePurged, "the plane was erased; nothing follows PURGED")));
        }
        let open =
            tx.offboardings_of(plane.id).await?.into_iter().find(|offboarding| offboarding.status == OffboardingStatus::Open);
        // Compared under the instant at which the open one was made, so that its due dates come out the same.
        let at = open.as_ref().map_or(tx.at(), |open| open.requested_at);
        let new = allowed!(self.terms(tenant, plane, asked, reason, by, at));
        if let Some(open) = open {
            if open.terms.terms_digest == new.terms_digest {
                return Ok(Ok(Ok(Box::new(open))));
            }
            let message = format!("offboarding {} is open with other terms: `lethe status {}` shows them", open.id, plane.id);
            return Ok(Err(Refusal::new(Code::OffboardingOpen, message).with(json!({"offboarding_id": open.id}))));
        }
        allowed!(self.grace_suffices(tenant, &new));
        allowed!(before.allows(&new, at));
        if tenant.status != TenantStatus::Active {
            return Ok(Err(Refusal::new(Code::TenantNotActive, format!("tenant {} is {}", tenant.name, tenant.status))));
        }
        let restore_pending = tx.open_run(plane.id).await?.is_some();
        let facts = facts_before(tx, tenant, plane, &new, restore_pending);
        allowed!(self.stages.validate(Step::Deregister, &facts));
        Ok(Ok(Err(new)))
    }

    /// Cancels an open offboarding in its grace period and undoes what it suspended.
    pub(crate) async fn cancel(&self, tx: &mut Tx, plane: &Plane, reason: &str, by: &Actor) -> Decision<Cancelled> {
        let Some(case) = tx.open_case(plane.id).await?.filter(|case| case.offboarding.status == OffboardingStatus::Open) else {
            let message = if plane.state == LifecycleState::Purged {
                "the plane was erased"
            } else {
                "no offboarding of the plane is open"
            };
            return Ok(Err(Refusal::new(Code::NotCancellable, message)));
        };
        if !matches!(plane.state, LifecycleState::Active | LifecycleState::PendingDeactivate) {
            let message =
                format!("the plane is {}: an offboarding can be cancelled until its grace period has ended", plane.state);
            return Ok(Err(Refusal::new(Code::NotCancellable, message).with(json!({"state": plane.state}))));
        }
        if case.run.step == Step::Deactivate && case.run.status == RunStatus::Running {
            return Ok(Err(Refusal::new(
                Code::StageInProgress,
                "deactivate has been claimed; it can be cancelled only if that run halts",
            )));
        }
        tx.settle(&case.run, &Settlement::Withdrawn).await?;
        // Whoever still works on it is out: its answer is stale, and stores that saw the new epoch refuse it.
        tx.raise_epoch(plane.id).await?;
        let tokens_restored = tx.restore_tokens(plane.id, case.offboarding.id).await?;
        tx.close_offboarding(case.offboarding.id, OffboardingStatus::Cancelled).await?;
        let mut entry = about(&case, EventType::Cancelled, by, "knowledge.offboarding.cancel");
        entry.reason = Some(reason.to_owned());
        entry.evidence = json!({"tokens_restored": tokens_restored, "withdrawn_run": case.run.id});
        if let Some(key) = case.offboarding.archive_key_id {
            entry.evidence["archive_key_destroyed"] = json!(key);
        }
        tx.append(entry).await?;
        if plane.state == LifecycleState::PendingDeactivate {
            let mut entry = about(&case, EventType::Transition, by, "knowledge.offboarding.cancel");
            entry.from_state = Some(plane.state);
            entry.to_state = Some(LifecycleState::Active);
            let recorded = tx.append(entry).await?;
            let moved = Move { plane_id: plane.id, from: plane.state, to: LifecycleState::Active, recorded };
            tx.move_plane(moved).await?;
        } else {
            tx.set_draining(plane.id, false).await?;
        }
        // The stores' part of the undoing must happen: it is a run.
        let (offboarding_id, plane_id, tenant_id, due_at) = (case.offboarding.id, plane.id, plane.tenant_id, tx.at());
        tx.enqueue(NewRun { offboarding_id, plane_id, tenant_id, step: Step::Restore, due_at }).await?;
        Ok(Ok(Cancelled { offboarding_id: case.offboarding.id, tokens_restored }))
    }

    /// Lets a halted run go on, with its attempts reset; makes a plan anew that was denied, or that names other copies of the archive than
    /// are declared now, unless its purge has begun.
    pub(crate) async fn retry(&self, tx: &mut Tx, plane: &Plane, reason: &str, by: &Actor) -> Decision<Run> {
        let case = tx.open_case(plane.id).await?;
        let outdated = |case: &lethe_ledger::Case| {
            let plan = case.offboarding.plan.as_ref();
            case.run.started_at.is_none() && plan.is_some_and(|plan| plan.archive_copies != self.archive_copies(case))
        };
        let replanned = |case: &lethe_ledger::Case| {
            case.run.step == Step::Purge && case.run.status != RunStatus::Running && (case.facts.denied || outdated(case))
        };
        let Some(case) = case.filter(|case| case.run.status == RunStatus::Halted || replanned(case)) else {
            return Ok(Err(Refusal::new(
                Code::NothingHalted,
                "no run of the plane is halted: `lethe status` shows what it waits for",
            )));
        };
        let mut plan_digest = None;
        if replanned(&case)
            && let (Some(plan), Some(archive)) = (&case.offboarding.plan, tx.archive(case.offboarding.id).await?)
            && let Some(manifest) = &archive.manifest
        {
            let anew = self.plan(&case, manifest, &archive.prefix, plan.revision + 1)?;
            tx.set_plan(&anew).await?;
            plan_digest = Some(anew.digest());
            // They released another plan.
            for approval in case.facts.approvals.iter().filter(|approval| !approval.consumed) {
                tx.end_approval(approval.id, ApprovalStatus::Withdrawn).await?;
                let mut entry = about(&case, EventType::ApprovalWithdrawn, by, "knowledge.offboarding.retry");
                entry.reason = Some(reason.to_owned());
                entry.evidence = json!({"approval_id": approval.id, "plan_digest": approval.plan_digest});
                tx.append(entry).await?;
            }
            // What it waits for now is a decision on the new plan.
            tx.wake(plane.id, &[Code::ApprovalDenied, Code::PlanChanged]).await?;
        }
        if case.run.step == Step::Export {
            // Parts of the failed export stay where they are; the next one writes beside them.
            tx.next_round(case.offboarding.id).await?;
        }
        if case.run.status == RunStatus::Halted {
            tx.retry_run(&case.run).await?;
        }
        let mut entry = about(&case, EventType::StageRetried, by, "knowledge.offboarding.retry");
        entry.reason = Some(reason.to_owned());
        entry.evidence = json!({"run_id": case.run.id, "attempts_before": case.run.attempt, "new_plan_digest": plan_digest});
        tx.append(entry).await?;
        Ok(Ok(tx.open_run(plane.id).await?.unwrap_or(case.run)))
    }
}

/// The facts at a request, before there is an offboarding.
fn facts_before(tx: &Tx, tenant: &Tenant, plane: &Plane, new: &NewOffboarding, restore_pending: bool) -> Facts {
    Facts {
        tenant_id: tenant.id,
        tenant_status: tenant.status.to_string(),
        evict: new.evict,
        grace_access: new.grace_access,
        usage_known: if plane.usage_reported { UsageKnown::Reported } else { UsageKnown::None },
        usage_unknown_accepted: new.usage_unknown_accepted,
        restore_pending,
        ..Facts::unbegun(tx.at(), plane.id, plane.state, new.ground)
    }
}
