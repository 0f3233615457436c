//! Request, cancel and retry: decided on locked facts, written in the caller's transaction.
//!
//! The rule: decide first, write after. A refusal has written nothing.

use chrono::{DateTime, NaiveDate, Utc};
use lethe_ledger::{
    Actor, ApprovalStatus, Case, Chain, Entry, EventType, Fault, Move, NewDeadline, NewOffboarding, NewRun, NoticeKind,
    Offboarding, OffboardingStatus, Plane, Run, RunStatus, Settlement, Tenant, TenantStatus, Tx,
};
use lethe_stages::{Code, EvictMode, Facts, GraceAccess, Ground, LifecycleState, Refusal, Step, UsageKnown, canonical};
use serde_json::json;
use uuid::Uuid;

use super::{Beforehand, KnowledgeLifecycleManager, about, notices::of_offboarding};
use crate::{
    config::Span,
    deadline::{NO_LAW, OWN, Zone},
};

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
    pub received: Option<Received>,
    /// The law whose deadline runs, or that none has one for it.
    pub law: Option<String>,
    /// The last day, where the caller names it.
    pub due_on: Option<NaiveDate>,
}

/// When a demand arrived: to the second, or on a day where the law is counted.
#[derive(Debug, Clone, Copy)]
pub enum Received {
    /// Then.
    At(DateTime<Utc>),
    /// On that day.
    On(NaiveDate),
}

/// What a request would open.
pub(crate) struct Opening {
    /// What it freezes.
    pub(crate) terms: NewOffboarding,
    /// By when the law, or the caller, wants it done.
    pub(crate) deadline: Option<NewDeadline>,
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
    ) -> Result<Opening, Refusal> {
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
        let (received_at, deadline) = self.deadline(asked, ground.law.as_deref(), at)?;
        let legal_due_at = deadline.as_ref().map(|deadline| deadline.first.at);
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
        let mut digested = json!({
            "ground": asked.ground, "grace_us": grace.0.num_microseconds(), "archive_delay_us": archive_delay.0.num_microseconds(),
            "retention_us": retention.0.num_microseconds(), "retention_basis": basis, "grace_access": grace_access, "evict": evict,
            "received_at": asked.received.map(|_| received_at),
        });
        // Only where they are asked for, so that what was requested before there were such terms is still the same request.
        if let Some(law) = &asked.law {
            digested["law"] = json!(law);
        }
        if let Some(due_on) = &asked.due_on {
            digested["due_on"] = json!(due_on);
        }
        let terms_digest = canonical::digest(&digested);
        let terms = NewOffboarding {
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
        };
        Ok(Opening { terms, deadline })
    }

    /// When the demand arrived, and the deadline that runs from then: the law's that the caller names, or the ground's, or the caller's own.
    fn deadline(
        &self,
        asked: &Terms,
        of_ground: Option<&str>,
        at: DateTime<Utc>,
    ) -> Result<(DateTime<Utc>, Option<NewDeadline>), Refusal> {
        let invalid = |message: String| Refusal::new(Code::InvalidArgument, message);
        let named = asked.law.as_deref().or(of_ground).filter(|law| *law != NO_LAW);
        let law = match named {
            Some(name) => Some((
                name,
                self.config.laws.get(name).ok_or_else(|| {
                    let known: Vec<_> = self.config.laws.keys().map(String::as_str).chain([NO_LAW]).collect();
                    invalid(format!("--law: there is no [laws.{name}] in the configuration; known: {}", known.join(", ")))
                })?,
            )),
            None => None,
        };
        let zone: Zone = law.and_then(|(_, law)| law.zone).unwrap_or(self.config.due.zone);
        let received_at = match asked.received {
            None => at,
            Some(Received::At(received_at)) => received_at,
            Some(Received::On(day)) => zone.begin(day),
        };
        if received_at > at {
            return Err(invalid(format!("the demand was received at {}, which is yet to come", received_at.to_rfc3339())));
        }
        let of =
            |name: &str, first, extension| NewDeadline { law: name.to_owned(), zone: zone.0.name().to_owned(), first, extension };
        let of_law = law.map(|(name, law)| {
            let (first, extension) = law.days(zone, zone.day(received_at));
            of(name, first, extension)
        });
        let Some(due_on) = asked.due_on else { return Ok((received_at, of_law)) };
        // A date of one's own may be nearer than the law's, and not later.
        if let Some(law) = of_law.filter(|law| law.first.on < due_on) {
            let message = format!(
                "--due {due_on} is later than the last day of {}, {}: leave it out, or --law {NO_LAW}",
                law.law, law.first.on
            );
            return Err(invalid(message));
        }
        Ok((received_at, Some(of(OWN, zone.last_day(due_on), None))))
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
        let Opening { terms: new, deadline } = match new {
            Ok(open) => return Ok(Ok(Requested { offboarding: *open, repeated: true })),
            Err(opening) => *opening,
        };
        let offboarding = tx.insert_offboarding(&new, before.key()).await?;
        if let Some(deadline) = &deadline {
            tx.keep_deadline(offboarding.id, deadline).await?;
            self.announce(tx, of_offboarding(NoticeKind::Deadline, &offboarding, deadline.first.at)).await?;
        }
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
        if let Some(deadline) = &deadline {
            entry.evidence["deadline"] = json!(deadline);
        }
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
    ) -> Decision<Result<Box<Offboarding>, Box<Opening>>> {
        if plane.state == LifecycleState::Purged {
            return Ok(Err(Refusal::new(Code::PlanePurged, "the plane was erased; nothing follows PURGED")));
        }
        let open =
            tx.offboardings_of(plane.id).await?.into_iter().find(|offboarding| offboarding.status == OffboardingStatus::Open);
        // Compared under the instant at which the open one was made, so that its due dates come out the same.
        let at = open.as_ref().map_or(tx.at(), |open| open.requested_at);
        let opening = allowed!(self.terms(tenant, plane, asked, reason, by, at));
        let new = &opening.terms;
        if let Some(open) = open {
            if open.terms.terms_digest == new.terms_digest {
                return Ok(Ok(Ok(Box::new(open))));
            }
            let message = format!("offboarding {} is open with other terms: `lethe status {}` shows them", open.id, plane.id);
            return Ok(Err(Refusal::new(Code::OffboardingOpen, message).with(json!({"offboarding_id": open.id}))));
        }
        allowed!(self.grace_suffices(tenant, new));
        allowed!(before.allows(new, at));
        if tenant.status != TenantStatus::Active {
            return Ok(Err(Refusal::new(Code::TenantNotActive, format!("tenant {} is {}", tenant.name, tenant.status))));
        }
        let restore_pending = tx.open_run(plane.id).await?.is_some();
        let facts = facts_before(tx, tenant, plane, new, restore_pending);
        allowed!(self.stages.validate(Step::Deregister, &facts));
        Ok(Ok(Err(Box::new(opening))))
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
        if may_have_fenced(&case) {
            tx.keep_fences(&[case.offboarding.id]).await?;
        }
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
    pub(crate) async fn retry(
        &self,
        tx: &mut Tx,
        plane: &Plane,
        reason: &str,
        accept_unrestored: bool,
        by: &Actor,
    ) -> Decision<Run> {
        let case = tx.open_case(plane.id).await?;
        if accept_unrestored {
            return self.accept_unrestored(tx, case, reason, by).await;
        }
        if case.is_none()
            && let Some(again) = self.restore_again(tx, plane, reason, by).await?
        {
            return Ok(Ok(again));
        }
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
        // A store that was attested gone and is there: what was attested is over, and the plan names the store again.
        let troubles = case.run.last_error.iter().flat_map(|error| error["stores"].as_array()).flatten();
        let answer = troubles.filter(|trouble| trouble["code"] == Code::StoreAnswers.as_str());
        let answer: Vec<_> = answer.filter_map(|trouble| trouble["binding"].as_u64()).collect();
        let mut attestations_ended = 0;
        for (_, binding) in (0..).zip(tx.bindings(plane.id).await?).filter(|(place, _)| answer.contains(place)) {
            attestations_ended += tx.end_attestations(plane.id, binding.store_id).await?;
        }
        let is_replanned = replanned(&case) || attestations_ended > 0;
        let case = if attestations_ended > 0 { tx.open_case(plane.id).await?.unwrap_or(case) } else { case };
        let plan_digest =
            if is_replanned { self.replan(tx, &case, reason, by, "knowledge.offboarding.retry").await? } else { None };
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
        if attestations_ended > 0 {
            entry.evidence["attestations_ended"] = json!(attestations_ended);
        }
        tx.append(entry).await?;
        Ok(Ok(tx.open_run(plane.id).await?.unwrap_or(case.run)))
    }

    /// Makes a purge's plan anew, as it stands now, and withdraws what released the one before. Answers its digest.
    pub(crate) async fn replan(
        &self,
        tx: &mut Tx,
        case: &lethe_ledger::Case,
        reason: &str,
        by: &Actor,
        owner: &str,
    ) -> Result<Option<String>, Fault> {
        let (Some(plan), Some(archive)) = (&case.offboarding.plan, tx.archive(case.offboarding.id).await?) else {
            return Ok(None);
        };
        let Some(manifest) = &archive.manifest else { return Ok(None) };
        let anew = self.plan(case, manifest, &archive.prefix, plan.revision + 1)?;
        tx.set_plan(&anew).await?;
        // They released another plan.
        for approval in case.facts.approvals.iter().filter(|approval| !approval.consumed) {
            tx.end_approval(approval.id, ApprovalStatus::Withdrawn).await?;
            let mut entry = about(case, EventType::ApprovalWithdrawn, by, owner);
            entry.reason = Some(reason.to_owned());
            entry.evidence = json!({"approval_id": approval.id, "plan_digest": approval.plan_digest});
            tx.append(entry).await?;
        }
        // What it waits for now is a decision on the new plan.
        tx.wake(case.plane.id, &[Code::ApprovalDenied, Code::PlanChanged]).await?;
        Ok(Some(anew.digest()))
    }
}

impl KnowledgeLifecycleManager {
    /// Lets a restore that halted end without what it could not restore: it is tried once more, and what fails then is reported.
    async fn accept_unrestored(&self, tx: &mut Tx, case: Option<Case>, reason: &str, by: &Actor) -> Decision<Run> {
        let Some(case) = case.filter(|case| case.run.step == Step::Restore && case.run.status == RunStatus::Halted) else {
            let message = "no restore of the plane is halted: --accept-unrestored ends one that cannot give everything back";
            return Ok(Err(Refusal::new(Code::NothingHalted, message)));
        };
        let accepted = tx.accept_unrestored(case.offboarding.id).await?;
        tx.retry_run(&case.run).await?;
        let mut entry = about(&case, EventType::StageRetried, by, "knowledge.offboarding.retry");
        entry.reason = Some(reason.to_owned());
        entry.evidence = json!({"run_id": case.run.id, "attempts_before": case.run.attempt, "accepted_unrestored": accepted});
        tx.append(entry).await?;
        Ok(Ok(tx.open_run(case.plane.id).await?.unwrap_or(case.run)))
    }

    /// What was left unrestored with somebody's leave is tried again, now that the world may be another one. `None`: there is no such thing.
    async fn restore_again(&self, tx: &mut Tx, plane: &Plane, reason: &str, by: &Actor) -> Result<Option<Run>, Fault> {
        let left = match plane.state {
            LifecycleState::Active => tx.unrestored_offboarding(plane.id).await?,
            _ => None,
        };
        let Some(offboarding_id) = left else { return Ok(None) };
        let reopened = tx.reopen_unrestored(offboarding_id).await?;
        let (plane_id, tenant_id, due_at) = (plane.id, plane.tenant_id, tx.at());
        tx.enqueue(NewRun { offboarding_id, plane_id, tenant_id, step: Step::Restore, due_at }).await?;
        let Some(case) = tx.open_case(plane.id).await? else { return Ok(None) };
        let mut entry = about(&case, EventType::StageRetried, by, "knowledge.offboarding.retry");
        entry.reason = Some(reason.to_owned());
        entry.evidence = json!({"run_id": case.run.id, "unrestored": reopened});
        tx.append(entry).await?;
        Ok(Some(case.run))
    }
}

/// Whether a run of this offboarding may have closed stores by now, whatever is on record: one that began may have died in it.
fn may_have_fenced(case: &Case) -> bool {
    let full = case.offboarding.terms.grace_access == GraceAccess::Full;
    match case.run.step {
        Step::Deregister => !full && case.run.started_at.is_some(),
        Step::Deactivate => !full || case.run.started_at.is_some(),
        _ => !full,
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
