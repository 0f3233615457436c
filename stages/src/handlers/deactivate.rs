//! Deactivate: suspends every dependent and closes every bound store against reads and writes. The record's transaction revokes the tokens with it.
//!
//! The rule: it deletes nothing. If we die in it, closing is repeated.

use async_trait::async_trait;
use serde_json::{Value as Json, json};

use super::suspending;
use crate::{
    Refusal, Stage, Step,
    contract::{Done, Facts, StageContext, StageError, StageHandler, StageOutcome},
    crash::{CrashPoint, reached},
    lifecycle::FenceMode,
    ports::BoundStore,
};

pub(super) struct Deactivate;

#[async_trait]
impl StageHandler for Deactivate {
    fn stage(&self) -> Stage {
        Stage::Deactivate
    }

    fn validate(&self, _step: Step, facts: &Facts) -> Result<(), Refusal> {
        super::unused(facts)
    }

    async fn run(&self, context: &StageContext) -> Result<StageOutcome, StageError> {
        // Whatever grace left running, and what was registered since. Written down too: a deactivate that halts can be cancelled.
        let (mut tally, mut others, mut noted) = (super::Tally::new(), Vec::new(), Vec::new());
        let running = suspending::running(context, |_| true, &mut noted, &mut others).await;
        suspending::keep(context, &noted, &running).await?;
        let suspended = suspending::suspend(&running, &mut others).await;
        for (binding, bound) in context.stores.iter().enumerate() {
            tally.add(binding, close(context, bound).await);
        }
        tally.failures.extend(others);
        let stores = tally.all()?;
        Ok(Done::with(json!({
            "query_endpoint": "refuses", "tokens_revoked": context.facts.tokens, "stores": stores, "dependents_suspended": suspended,
        })))
    }
}

async fn close(context: &StageContext, bound: &BoundStore) -> Result<Json, StageError> {
    let doing = format!("close {} in store {}", bound.resource, bound.name);
    let report = super::fence(context, bound, FenceMode::Closed, &doing).await?;
    reached(CrashPoint::DeactivateClosed);
    Ok(json!({"store": bound.name, "resource": bound.resource, "fence": report}))
}
