//! Verify: establishes that the grace period is over, that nothing uses the plane, and that its stores and archive answer.
//!
//! The rule: it changes nothing. If we die in it, nothing happened.

use async_trait::async_trait;
use serde_json::{Value as Json, json};

use crate::{
    Code, Refusal, Stage, Step,
    contract::{Done, Facts, StageContext, StageError, StageHandler, StageOutcome},
    crash::{CrashPoint, reached},
    ports::BoundStore,
};

pub(super) struct Verify;

#[async_trait]
impl StageHandler for Verify {
    fn stage(&self) -> Stage {
        Stage::Verify
    }

    fn validate(&self, _step: Step, facts: &Facts) -> Result<(), Refusal> {
        // A deadline that is not there has not passed.
        let over = facts.grace_skipped || facts.grace_until.is_some_and(|until| until <= facts.at);
        if !over {
            let until = facts.grace_until.map_or("a date not yet set".to_owned(), |until| until.to_rfc3339());
            return Err(Refusal::new(Code::GracePeriodActive, format!("the grace period runs until {until}"))
                .with(json!({"until": facts.grace_until})));
        }
        super::unused(facts)
    }

    async fn run(&self, context: &StageContext) -> Result<StageOutcome, StageError> {
        let mut tally = super::Tally::new();
        for (binding, bound) in context.stores.iter().enumerate() {
            tally.add(binding, ask(bound).await);
        }
        let stores = tally.all()?;
        let canary = context.archive.probe().await.map_err(|error| StageError::port("ask the archive", error))?;
        reached(CrashPoint::VerifyProbed);
        let facts = &context.facts;
        Ok(Done::with(json!({
            "grace_until": facts.grace_until, "grace_skipped": facts.grace_skipped,
            "usage_known": facts.usage_known, "runs": facts.runs_in_flight, "queries": facts.queries_in_flight,
            "stores": stores, "archive_canary": canary,
        })))
    }
}

async fn ask(bound: &BoundStore) -> Result<Json, StageError> {
    let doing = format!("ask {} in store {}", bound.resource, bound.name);
    bound.store.describe().await.map_err(|error| StageError::port(&doing, error))?;
    let records = bound.store.count().await.map_err(|error| StageError::port(&doing, error))?;
    Ok(json!({"store": bound.name, "resource": bound.resource, "records": records}))
}
