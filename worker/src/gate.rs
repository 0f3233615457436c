//! The policy gate: whether a run may start now, judged on facts that were read under lock, without I/O.
//!
//! The rule: what the law of the house forbids is asked in code, what this house wants in its policies, and both must allow it. An error
//! is never permission. What may not start waits (PENDING, on record once) or is refused (BLOCKED).

use std::{collections::BTreeSet, sync::Arc};

use chrono::{DateTime, TimeDelta, Utc};
use lethe_ledger::{Actor, Assurance, Case, GateDecision, Given, Offboarding, Pause, TenantStatus};
use lethe_stages::{
    Code, Permit, Refusal, StageRegistry, Step,
    destruction::DestructionPlan,
    permit::{self, Destruction, Verdict},
};
use serde_json::json;

use crate::{
    config::Config,
    hours,
    policy::{
        Action, Approvals, Ask, Context, Current, OffboardingFacts, PlaneFacts, PolicyError, Principal, Resource, Role,
        TenantFacts, Watched,
    },
    signature,
};

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
    policies: Watched,
    config: Arc<Config>,
    assurance_min: Assurance,
}

impl PolicyGate {
    /// A gate under a configuration. `insecure_demo`: approvals count whoever is said to have given them.
    ///
    /// # Errors
    /// What is wrong with the policies.
    pub fn new(config: Arc<Config>, insecure_demo: bool) -> Result<Self, PolicyError> {
        let policies = Watched::start(config.policy.source(), config.policy.keep_last_good)?;
        let assurance_min = if insecure_demo { Assurance::Asserted } else { config.approval.assurance_min };
        Ok(Self { policies, config, assurance_min })
    }

    /// The policies that decide.
    pub fn policies(&self) -> &Watched {
        &self.policies
    }

    /// The revision of the policies that decide now, and what is to be known of them.
    pub fn revision(&self) -> String {
        let revision = self.policies.revision();
        match self.policies.current() {
            Current { policies: Some(_), trouble: Some(_) } => format!("{revision} (the last good; the policy folder is broken)"),
            _ => revision,
        }
    }

    /// The decision as it is written into the trail.
    pub fn decision(&self, decision: &'static str, refusal: Option<&Refusal>) -> GateDecision {
        GateDecision { decision, code: refusal.map(|refusal| refusal.code.as_str()), policy_revision: self.revision() }
    }

    /// The circumstances of a question.
    pub(crate) fn context(&self, at: DateTime<Utc>, approvals: Approvals) -> Context {
        let environment = self.config.policy.environment.clone();
        Context { at, environment, asserted_suffices: self.assurance_min == Assurance::Asserted, own: false, approvals }
    }

    /// Asks the policies.
    ///
    /// # Errors
    /// POLICY_DENIED.
    pub(crate) fn permits(&self, ask: &Ask) -> Result<(), Refusal> {
        let decision = self.policies.decide(ask);
        if let Some(warning) = &decision.warning {
            tracing::warn!(warning, action = %ask.action, "policies");
        }
        if decision.allowed {
            return Ok(());
        }
        let message = format!("{} for {}: {decision}", ask.action, ask.principal.actor());
        let details = json!({"policies": decision.policies, "errors": decision.errors});
        Err(Refusal::new(Code::PolicyDenied, message).with(details))
    }

    /// What the policies are asked before a run starts. The principal is who requested the offboarding, with the roles of the configuration.
    pub(crate) fn ask_of(&self, case: &Case, action: Action, approvals: Approvals) -> Ask {
        let by = &case.offboarding.terms.requested_by;
        let actor = by.parse().unwrap_or_else(|_| Actor::system(by));
        let facts = &case.facts;
        let tenant = TenantFacts {
            id: facts.tenant_id,
            name: case.tenant_name.clone(),
            status: facts.tenant_status.clone(),
            protected_until: facts.protected_until,
        };
        let plane = PlaneFacts {
            tenant,
            id: facts.plane_id,
            state: facts.state,
            store_kinds: case.store_kinds().into_iter().collect(),
            held: !facts.holds.is_empty(),
        };
        Ask {
            principal: Principal::new(&actor, self.config.policy.roles_of(by), None),
            action,
            resource: Resource::Offboarding(self.offboarding_facts(plane, &case.offboarding, facts.grace_skipped)),
            context: self.context(facts.at, approvals),
        }
    }

    /// An offboarding as the policies see it.
    pub(crate) fn offboarding_facts(&self, plane: PlaneFacts, of: &Offboarding, grace_skipped: bool) -> OffboardingFacts {
        let terms = &of.terms;
        OffboardingFacts {
            grace_min_s: self.config.grace_min(&plane.tenant.name).0.num_seconds(),
            plane,
            id: of.id,
            ground: terms.ground,
            requested_by: terms.requested_by.clone(),
            grace_s: terms.grace.num_seconds(),
            retention_s: terms.retention.num_seconds(),
            evict: terms.evict,
            records: of.plan.as_ref().map(|plan| plan.archive_rows.cast_signed()),
            grace_skipped,
        }
    }

    /// The approvals that release the plan, if they do: the facts about it, the proof of each approver's identity, and what policy wants.
    ///
    /// # Errors
    /// APPROVAL_REQUIRED, APPROVAL_EXPIRED, APPROVAL_DENIED, PLAN_CHANGED, SIGNATURE_INVALID, APPROVALS_TOO_FEW, POLICY_DENIED.
    pub fn approved(&self, case: &Case) -> Result<Approvals, Refusal> {
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
        let (mut trouble, mut counted) = (None, Vec::new());
        for (approval, given) in facts.approvals.iter().zip(&case.given).filter(|(approval, _)| approval.releases(plan, facts.at))
        {
            match self.identified(given, approval.consumed, &text) {
                Ok(()) if given.by != case.offboarding.terms.requested_by => counted.push(given),
                Ok(()) => trouble = Some(format!("{} requested this offboarding", given.by)),
                Err(why) => trouble = Some(format!("the approval of {}: {why}", given.by)),
            }
        }
        if let Some(why) = trouble.filter(|_| counted.is_empty()) {
            return Err(Refusal::new(Code::SignatureInvalid, why));
        }
        let approvals = self.counted(&counted);
        // What forbids every purge for now is not asked here: this is about the approvals.
        let mut ask = self.ask_of(case, Action::Purge, approvals.clone());
        if let Resource::Offboarding(offboarding) = &mut ask.resource {
            (offboarding.plane.held, offboarding.plane.tenant.protected_until) = (false, None);
        }
        self.permits(&ask).map_err(|refusal| {
            let roles: Vec<_> = approvals.by_role.iter().map(|(role, count)| format!("{count} {role}")).collect();
            let message = format!(
                "{} approval(s) stand, {} signed ({}), and the policies want more: {}",
                approvals.total,
                approvals.signed,
                if roles.is_empty() { "no roles".to_owned() } else { roles.join(", ") },
                refusal.message
            );
            let code = if refusal.details["errors"] == json!([]) { Code::ApprovalsTooFew } else { Code::PolicyDenied };
            Refusal::new(code, message).with(json!({"approvals": approvals}))
        })?;
        Ok(approvals)
    }

    /// What the policies see of approvals.
    fn counted(&self, given: &[&Given]) -> Approvals {
        let mut counted = Approvals { total: given.len() as i64, ..Approvals::default() };
        for one in given {
            counted.signed += i64::from(one.assurance >= Assurance::Oidc);
            let of_key = one.roles.iter().flatten().filter_map(|role| role.parse().ok());
            let roles: BTreeSet<Role> = of_key.chain(self.config.policy.roles_of(&one.by)).collect();
            roles.into_iter().for_each(|role| *counted.by_role.entry(role).or_default() += 1);
        }
        counted
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

    /// Judges a run that is due.
    pub fn judge(&self, stages: &StageRegistry, request: &GateRequest<'_>) -> Judgement {
        match self.check(stages, request) {
            Ok(permit) => Judgement::Start(permit),
            Err(refusal) if waits(refusal.code) => {
                let until = refusal.details.get("until").and_then(|until| serde_json::from_value(until.clone()).ok());
                let until = match refusal.code {
                    Code::StoreWindow => until.map(|until: DateTime<Utc>| until.min(request.case.facts.at + hours::LOOK)),
                    _ => until,
                };
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
        let verdict = Verdict { policy_revision: self.revision() };
        let permit = match step {
            Step::Deactivate => self.permits(&self.ask_of(case, Action::Deactivate, Approvals::default())).map(|()| None),
            Step::Evict => {
                let permit = Permit::mint(Destruction::Evict, facts, *epoch, &verdict)?;
                self.permits(&self.ask_of(case, Action::Evict, Approvals::default()))?;
                Ok(Some(permit))
            }
            Step::Purge => {
                let approved = self.approved(case);
                if let Err(denied) = approved.as_ref()
                    && denied.code == Code::ApprovalDenied
                {
                    return Err(denied.clone());
                }
                let permit = Permit::mint(Destruction::Purge, facts, *epoch, &verdict)?;
                self.permits(&self.ask_of(case, Action::Purge, approved?))?;
                copies_as_planned(case, archive_copies)?;
                self.within_rate(case, *recent_purges)?;
                Ok(Some(permit))
            }
            _ => Ok(None),
        }?;
        // Last: what is known of the hour says nothing of the rest.
        hours::open(&self.config, case, facts.at)?;
        Ok(permit)
    }

    /// A purge that has begun goes on; the limit is on beginning.
    fn within_rate(&self, case: &Case, recent: i64) -> Result<(), Refusal> {
        let most = self.config.purge.per_hour_max;
        if most == 0 || case.run.started_at.is_some() || recent < most {
            return Ok(());
        }
        let until = case.facts.at + TimeDelta::minutes(1);
        let message = format!("{recent} purges began in the last hour; the limit is {most}");
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
            | LogStopped
            | Paused
            | PurgeRateLimited
            | StoreWindow
            | TenantNotActive
    )
}
