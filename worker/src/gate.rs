//! The policy gate: whether a run may start now, judged on facts that were read under lock, without I/O.
//!
//! The rule: an error is never permission. What may not start waits (PENDING, on record once) or is refused (BLOCKED).

use chrono::{DateTime, TimeDelta, Utc};
use lethe_ledger::{Assurance, Case, GateDecision, Given, Pause, TenantStatus};
use lethe_stages::{
    Code, Permit, Refusal, StageRegistry, Step,
    destruction::DestructionPlan,
    permit::{self, Destruction, Verdict},
};
use serde_json::json;

use crate::signature;

/// What the gate looks at besides the case.
pub struct GateRequest<'a> {
    /// The run and its facts.
    pub case: &'a Case,
    /// The epoch that the claim will have.
    pub epoch: i64,
    /// Every pause in force.
    pub pauses: &'a [Pause],
    /// Purges begun in the hour before.
    pub recent_purges: i64,
    /// The declared copies of the plane's archive, as this process would purge them.
    pub archive_copies: &'a [String],
}

/// What the gate decided.
pub enum Judgement {
    /// It may start; a destructive run carries its permit.
    Start(Option<Permit>),
    /// Not now: at `until`, or when the fact changes.
    Wait {
        /// What stands in the way.
        refusal: Refusal,
        /// When time alone clears it.
        until: Option<DateTime<Utc>>,
    },
    /// Not at all, unless an operator changes something.
    Refuse(Refusal),
}

/// The gate of this process.
pub struct PolicyGate {
    revision: String,
    purges_per_hour_max: i64,
    assurance_min: Assurance,
}

impl PolicyGate {
    /// A gate under one policy revision. `assurance_min` is the weakest proof of identity with which an approval counts.
    pub fn new(revision: String, purges_per_hour_max: i64, assurance_min: Assurance) -> Self {
        Self { revision, purges_per_hour_max, assurance_min }
    }

    /// Whether the approvals that stand release the plan: the facts about it, the proof of each approver's identity, and what policy wants.
    ///
    /// # Errors
    /// APPROVAL_REQUIRED, APPROVAL_EXPIRED, APPROVAL_DENIED, PLAN_CHANGED, SIGNATURE_INVALID, APPROVALS_TOO_FEW.
    pub fn approved(&self, case: &Case) -> Result<(), Refusal> {
        let facts = &case.facts;
        if facts.denied && !facts.approvals.iter().any(|approval| approval.consumed) {
            return Err(Refusal::new(
                Code::ApprovalDenied,
                "the purge was denied; `lethe offboarding retry` makes a new plan to approve",
            ));
        }
        permit::approved(facts)?;
        let plan = facts.plan_digest.as_deref().unwrap_or_default();
        let text = case.offboarding.plan.as_ref().map(DestructionPlan::text).unwrap_or_default();
        let mut trouble = None;
        let mut counted = 0;
        for (approval, given) in facts.approvals.iter().zip(&case.given).filter(|(approval, _)| approval.releases(plan, facts.at))
        {
            match self.identified(given, approval.consumed, &text) {
                Ok(()) if given.by != case.offboarding.terms.requested_by => counted += 1,
                Ok(()) => trouble = Some(format!("{} requested this offboarding", given.by)),
                Err(why) => trouble = Some(format!("the approval of {}: {why}", given.by)),
            }
        }
        match trouble {
            Some(why) if counted == 0 => Err(Refusal::new(Code::SignatureInvalid, why)),
            _ => Ok(()),
        }
    }

    /// Whether it is known well enough who gave an approval. What a purge has begun under is not asked for a key that was revoked since.
    fn identified(&self, given: &Given, consumed: bool, text: &str) -> Result<(), String> {
        let Some(signature) = &given.signature else {
            return if given.assurance >= self.assurance_min {
                Ok(())
            } else {
                Err(format!("it is only {}, approval.assurance_min is {}", given.assurance, self.assurance_min))
            };
        };
        let key = given.public_key.as_deref().ok_or("its key is not registered")?;
        if given.revoked && !consumed {
            return Err("its key was revoked".into());
        }
        signature::verify(key, text, signature)
    }

    /// The policy revision under which it decides.
    pub fn revision(&self) -> &str {
        &self.revision
    }

    /// The decision as it is written into the trail.
    pub fn decision(&self, decision: &'static str, refusal: Option<&Refusal>) -> GateDecision {
        GateDecision { decision, code: refusal.map(|refusal| refusal.code.as_str()), policy_revision: self.revision.clone() }
    }

    /// Judges a run that is due.
    pub fn judge(&self, stages: &StageRegistry, request: &GateRequest<'_>) -> Judgement {
        match self.check(stages, request) {
            Ok(permit) => Judgement::Start(permit),
            Err(refusal) if waits(refusal.code) => {
                let until = refusal.details.get("until").and_then(|until| serde_json::from_value(until.clone()).ok());
                Judgement::Wait { refusal, until }
            }
            Err(refusal) => Judgement::Refuse(refusal),
        }
    }

    fn check(&self, stages: &StageRegistry, request: &GateRequest<'_>) -> Result<Option<Permit>, Refusal> {
        let GateRequest { case, epoch, pauses, recent_purges, archive_copies } = request;
        let (facts, step) = (&case.facts, case.run.step);
        not_paused(case, pauses)?;
        // A status that nobody can read is not "active".
        facts
            .tenant_status
            .parse::<TenantStatus>()
            .map_err(|error| Refusal::new(Code::TenantNotActive, format!("read the tenant's status: {error}")))?;
        if step == Step::Restore {
            return Ok(None);
        }
        stages.validate(step, facts)?;
        let verdict = Verdict { policy_revision: self.revision.clone() };
        match step {
            Step::Evict => Permit::mint(Destruction::Evict, facts, *epoch, &verdict).map(Some),
            Step::Purge => {
                let approved = self.approved(case);
                if let Err(denied) = approved.as_ref()
                    && denied.code == Code::ApprovalDenied
                {
                    return Err(denied.clone());
                }
                let permit = Permit::mint(Destruction::Purge, facts, *epoch, &verdict)?;
                approved?;
                copies_as_planned(case, archive_copies)?;
                self.within_rate(case, *recent_purges)?;
                Ok(Some(permit))
            }
            _ => Ok(None),
        }
    }

    /// A purge that has begun goes on; the limit is on beginning.
    fn within_rate(&self, case: &Case, recent: i64) -> Result<(), Refusal> {
        if self.purges_per_hour_max == 0 || case.run.started_at.is_some() || recent < self.purges_per_hour_max {
            return Ok(());
        }
        let until = case.facts.at + TimeDelta::minutes(1);
        let message = format!("{recent} purges began in the last hour; the limit is {}", self.purges_per_hour_max);
        Err(Refusal::new(Code::PurgeRateLimited, message).with(json!({"until": until})))
    }
}

/// What is purged is what was approved: the copies of the archive too, which are declared in the configuration of whoever purges.
fn copies_as_planned(case: &Case, copies: &[String]) -> Result<(), Refusal> {
    let planned = case.offboarding.plan.as_ref().map(|plan| plan.archive_copies.as_slice()).unwrap_or_default();
    if planned == copies {
        return Ok(());
    }
    let message = format!(
        "the plan names {} declared copies of the archive, the configuration here {}: give this worker the configuration under which it was \
         planned, or `lethe offboarding retry` makes a new plan to approve",
        planned.len(),
        copies.len()
    );
    Err(Refusal::new(Code::PlanChanged, message).with(json!({"planned": planned, "configured": copies})))
}

fn not_paused(case: &Case, pauses: &[Pause]) -> Result<(), Refusal> {
    let tenant = format!("tenant:{}", case.run.tenant_id);
    let stage = format!("stage:{}", case.run.step.stage());
    match pauses.iter().find(|pause| pause.scope == "all" || pause.scope == tenant || pause.scope == stage) {
        None => Ok(()),
        Some(pause) => {
            let flag = match pause.scope.split_once(':') {
                Some((kind, name)) => format!("--{kind} {name}"),
                None => format!("--{}", pause.scope),
            };
            Err(Refusal::new(Code::Paused, format!("{} is paused: `lethe resume {flag}` lets it go on", pause.scope)))
        }
    }
}

/// Whether a refusal passes by itself or by somebody's ordinary action, so that the run waits for it.
pub fn waits(code: Code) -> bool {
    use Code::*;
    matches!(
        code,
        GracePeriodActive
            | RetentionActive
            | ActiveUsage
            | ActiveReferences
            | UsageUnknown
            | ApprovalRequired
            | ApprovalsTooFew
            | SignatureInvalid
            | PolicyDenied
            | PurgeProtected
            | ApprovalExpired
            | ApprovalDenied
            | PlanChanged
            | HoldActive
            | ClockSuspect
            | LedgerBehind
            | Paused
            | PurgeRateLimited
            | TenantNotActive
    )
}
