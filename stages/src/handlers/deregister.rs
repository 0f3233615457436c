//! Deregister: waits until no run uses the plane, then closes what the grace period is to leave closed.
//!
//! The rule: it deletes nothing and deactivates nothing; what it suspends, `restore` opens again.
//! If we die in it: fencing is repeated, with the same mode and epoch.

use async_trait::async_trait;
use serde_json::{Value as Json, json};

use crate::{
    Code, GraceAccess, Refusal, Stage, Step,
    contract::{Done, Facts, StageContext, StageError, StageHandler, StageOutcome},
    crash::{CrashPoint, reached},
    lifecycle::FenceMode,
    ports::BoundStore,
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

        let mut tally = super::Tally::new();
        for (binding, bound) in context.stores.iter().enumerate() {
            tally.add(binding, suspend(context, bound).await);
        }
        let stores = tally.all()?;
        Ok(Done::with(json!({
            "usage_known": facts.usage_known, "grace_access": facts.grace_access, "tokens": facts.tokens, "stores": stores,
        })))
    }

    async fn restore(&self, context: &StageContext) -> Result<StageOutcome, StageError> {
        // Whatever the grace period was to leave open: a deactivate that halted may have closed some stores already.
        let mut tally = super::Tally::new();
        for (binding, bound) in context.stores.iter().enumerate() {
            tally.add(binding, open(context, bound).await);
        }
        let opened = tally.all()?;
        Ok(Done::with(json!({"stores": opened})))
    }
}

/// Counts a store's records and closes them as far as the grace period is to leave them closed.
async fn suspend(context: &StageContext, bound: &BoundStore) -> Result<Json, StageError> {
    let doing = |what: &str| format!("{what} {} in store {}", bound.resource, bound.name);
    let description = bound.store.describe().await.map_err(|error| StageError::port(&doing("describe"), error))?;
    let records = bound.store.count().await.map_err(|error| StageError::port(&doing("count"), error))?;
    let fence = match fence_mode(context.facts.grace_access) {
        None => None,
        Some(mode) => {
            let fenced = bound.store.fence(mode, context.run.epoch).await;
            Some(fenced.map_err(|error| StageError::port(&doing("fence"), error))?)
        }
    };
    reached(CrashPoint::DeregisterFenced);
    Ok(json!({
        "store": bound.name, "resource": bound.resource, "records": records,
        "dependents": description.dependents, "fence": fence,
    }))
}

async fn open(context: &StageContext, bound: &BoundStore) -> Result<Json, StageError> {
    let doing = format!("lift the fence from {} in store {}", bound.resource, bound.name);
    bound.store.unfence(context.run.epoch).await.map_err(|error| StageError::port(&doing, error))?;
    reached(CrashPoint::RestoreUnfenced);
    Ok(json!({"store": bound.name, "resource": bound.resource, "fence": "lifted"}))
}
