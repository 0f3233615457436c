//! Deregister: waits until no run uses the plane, then suspends what the grace period is to leave suspended: dependents, then stores.
//!
//! The rule: it deletes nothing and deactivates nothing; what it suspends is written down before, and `restore` gives back just that.
//! If we die in it: what is written down stands, and suspending is repeated.

use async_trait::async_trait;
use serde_json::{Value as Json, json};

use super::suspending;
use crate::{
    Code, GraceAccess, Refusal, Stage, Step, canonical,
    contract::{Done, Facts, StageContext, StageError, StageHandler, StageOutcome},
    crash::{CrashPoint, reached},
    lifecycle::FenceMode,
    ports::{BoundStore, Description},
    suspension::{Restoration, Suspension, Tried},
};

pub(super) struct Deregister;

fn fence_mode(access: GraceAccess) -> Option<FenceMode> {
    match access {
        GraceAccess::Full => None,
        GraceAccess::ReadOnly => Some(FenceMode::ReadOnly),
        GraceAccess::None => Some(FenceMode::Closed),
    }
}

#[async_trait]
impl StageHandler for Deregister {
    fn stage(&self) -> Stage {
        Stage::Deregister
    }

    fn validate(&self, step: Step, facts: &Facts) -> Result<(), Refusal> {
        if step == Step::Deregister && facts.restore_pending {
            return Err(Refusal::new(
                Code::RestorePending,
                "a cancelled offboarding of this plane is still being undone: `lethe work --until-idle` finishes that",
            ));
        }
        Ok(())
    }

    async fn run(&self, context: &StageContext) -> Result<StageOutcome, StageError> {
        let facts = &context.facts;
        if facts.runs_in_flight > 0 {
            let refusal = Refusal::new(
                Code::ActiveReferences,
                format!("{} run(s) still use the plane; no new one is let in", facts.runs_in_flight),
            )
            .with(json!({"runs": facts.runs_in_flight, "until": facts.usage_until}));
            return Ok(StageOutcome::NotYet { until: facts.usage_until, refusal });
        }
        if let Err(refusal) = super::usage_is_known(facts) {
            return Ok(StageOutcome::NotYet { until: None, refusal });
        }

        let access = facts.grace_access;
        let (mut tally, mut others, mut noted, mut seen) = (super::Tally::new(), Vec::new(), Vec::new(), Vec::new());
        for (binding, bound) in context.stores.iter().enumerate() {
            match look(bound).await {
                Ok(found) => {
                    noted.extend(before(context, binding, &found.description));
                    seen.push((binding, bound, found));
                }
                Err(error) => tally.add(binding, Err(error)),
            }
        }
        let running = suspending::running(context, |kind| kind.is_suspended(access), &mut noted, &mut others).await;
        suspending::keep(context, &noted, &running).await?;
        reached(CrashPoint::DeregisterNoted);
        let suspended = suspending::suspend(&running, &mut others).await;
        for (binding, bound, found) in seen {
            tally.add(binding, suspend(context, bound, found).await);
        }
        tally.failures.extend(others);
        let stores = tally.all()?;
        Ok(Done::with(json!({
            "usage_known": facts.usage_known, "grace_access": access, "tokens": facts.tokens, "stores": stores,
            "dependents": context.dependents.len(), "dependents_suspended": suspended,
        })))
    }

    async fn restore(&self, context: &StageContext) -> Result<StageOutcome, StageError> {
        // Whatever the grace period was to leave open: a deactivate that halted may have closed some stores already.
        let (tried, failures) = suspending::give_back(context).await?;
        if !tried.is_empty() {
            context.log.settle(&tried).await.map_err(|error| StageError::port("write down what was restored", error))?;
            reached(CrashPoint::RestoreSettled);
        }
        StageError::of_all(failures).map_or_else(|| Ok(Done::with(report(context, &tried))), Err)
    }
}

/// What a cancel gave back, and what not: counts, digests, ids.
fn report(context: &StageContext, tried: &[Tried]) -> Json {
    let now = |suspension: &Suspension| {
        let tried = tried.iter().find(|tried| tried.kind == suspension.kind && tried.what == suspension.what);
        tried.map_or(suspension.outcome, |tried| Some(tried.outcome))
    };
    let in_outcome = |outcome| context.suspensions.iter().filter(move |one| now(one) == Some(outcome));
    let restored: Vec<_> = in_outcome(Restoration::Restored).collect();
    let not_restored = in_outcome(Restoration::NotRestored).map(|one| json!({"kind": one.kind, "what": one.what}));
    let not_restored: Vec<_> = not_restored.collect();
    let stores = restored.iter().filter_map(|one| Some((one, context.stores.get(one.binding()?)?))).map(|(one, bound)| {
        json!({"store": bound.name, "resource": bound.resource, "fence": one.mode().map_or("lifted", FenceMode::as_str)})
    });
    let all: Vec<_> =
        context.suspensions.iter().map(|one| json!({"kind": one.kind, "what": one.what, "before": one.before})).collect();
    json!({
        "stores": stores.collect::<Vec<_>>(), "restored": restored.len(), "not_restored": not_restored,
        "suspended_sha256": canonical::digest(&all).ok(),
    })
}

/// A store as it was found.
struct Found {
    description: Description,
    records: u64,
}

async fn look(bound: &BoundStore) -> Result<Found, StageError> {
    let doing = |what: &str| format!("{what} {} in store {}", bound.resource, bound.name);
    let description = bound.store.describe().await.map_err(|error| StageError::port(&doing("describe"), error))?;
    let records = bound.store.count().await.map_err(|error| StageError::port(&doing("count"), error))?;
    Ok(Found { description, records })
}

/// A fence that stood before this offboarding: what an earlier restore could not lift, and somebody accepted. Any other store was open.
fn before(context: &StageContext, binding: usize, description: &Description) -> Option<Suspension> {
    let fenced = description.fence.filter(|fenced| fenced.epoch <= context.facts.requested_epoch)?;
    Some(Suspension::of_fence(binding, fenced.mode))
}

/// Closes a store as far as the grace period is to leave it closed.
async fn suspend(context: &StageContext, bound: &BoundStore, found: Found) -> Result<Json, StageError> {
    let fence = match fence_mode(context.facts.grace_access) {
        None => None,
        Some(mode) => {
            let doing = format!("fence {} in store {}", bound.resource, bound.name);
            Some(super::fence(context, bound, mode, &doing).await?)
        }
    };
    reached(CrashPoint::DeregisterFenced);
    Ok(json!({
        "store": bound.name, "resource": bound.resource, "records": found.records,
        "dependents": found.description.dependents, "fence": fence,
    }))
}
