//! Deactivate: closes every bound store against reads and writes. The record's transaction revokes the tokens with it.
//!
//! The rule: it deletes nothing. If we die in it, closing is repeated.

use async_trait::async_trait;
use serde_json::json;

use crate::{
    Refusal, Stage, Step,
    contract::{Done, Facts, StageContext, StageError, StageHandler, StageOutcome},
    crash::{CrashPoint, reached},
    lifecycle::FenceMode,
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
        let mut stores = Vec::new();
        for bound in &context.stores {
            let report = bound
                .store
                .fence(FenceMode::Closed, context.run.epoch)
                .await
                .map_err(|error| StageError::port(&format!("close {} in store {}", bound.resource, bound.name), error))?;
            reached(CrashPoint::DeactivateClosed);
            stores.push(json!({"store": bound.name, "resource": bound.resource, "fence": report}));
        }
        Ok(Done::with(json!({"query_endpoint": "refuses", "tokens_revoked": context.facts.tokens, "stores": stores})))
    }
}
