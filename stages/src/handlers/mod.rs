//! The five handlers, a file each.
//!
//! The rule: what they do to the world can be done again. If we die in one, it is run again from the start.

mod archive;
mod copying;
mod deactivate;
mod deregister;
mod purge;
mod removal;
mod suspending;
mod verify;

use std::sync::Arc;

use serde_json::json;

use crate::{
    Code, Refusal,
    contract::{Facts, StageContext, StageError, StageHandler, UsageKnown},
    destruction::said_when_gone,
    lifecycle::FenceMode,
    ports::{BoundStore, FenceReport, PortError},
};

/// One handler per stage, in the plan's order.
pub fn all() -> Vec<Arc<dyn StageHandler>> {
    vec![
        Arc::new(deregister::Deregister),
        Arc::new(verify::Verify),
        Arc::new(deactivate::Deactivate),
        Arc::new(archive::Archive),
        Arc::new(purge::Purge),
    ]
}

/// What became of the plane's stores, one after the other: what one cannot do now keeps no other from its part. Never for what destroys.
struct Tally<T> {
    done: Vec<T>,
    failures: Vec<StageError>,
}

impl<T> Tally<T> {
    fn new() -> Self {
        Self { done: Vec::new(), failures: Vec::new() }
    }

    fn add(&mut self, binding: usize, one: Result<T, StageError>) {
        match one {
            Ok(one) => self.done.push(one),
            Err(error) => self.failures.push(error.of_store(binding)),
        }
    }

    /// What every store did, or all that failed.
    fn all(self) -> Result<Vec<T>, StageError> {
        StageError::of_all(self.failures).map_or(Ok(self.done), Err)
    }
}

/// What a store says before anything is destroyed.
enum Ready {
    /// It is the one that was fenced, and holds so many records of the plane.
    Holds(u64),
    /// It was attested gone, and stays away: in a word, what it says.
    Gone(&'static str),
}

/// Asks every store, before the first one loses a record.
async fn all_ready(context: &StageContext) -> Result<Vec<Ready>, StageError> {
    let mut tally = Tally::new();
    for (binding, bound) in context.stores.iter().enumerate() {
        let ready = if bound.attested.is_some() { gone(bound).await } else { holds(bound).await };
        tally.add(binding, ready);
    }
    tally.all()
}

async fn holds(bound: &BoundStore) -> Result<Ready, StageError> {
    let proof = bound.store.prove_empty(&[]).await;
    proof
        .map(|proof| Ready::Holds(proof.remaining))
        .map_err(|error| StageError::port(&format!("ask store {}", bound.name), error))
}

/// A store that answers with its fence is there, whatever was attested.
async fn gone(bound: &BoundStore) -> Result<Ready, StageError> {
    said_when_gone(bound.store.as_ref()).await.map(Ready::Gone).ok_or_else(|| {
        StageError::halt(
            "STORE_ANSWERS",
            format!(
                "skip store {}, which was attested gone: it answers, and knows the plane; `lethe offboarding retry` ends \
                 the attestation and makes a new plan to approve",
                bound.name
            ),
        )
    })
}

/// Fences the plane's records in a store; `doing` says so in an error. A store that says it is less closed than that has not done it.
async fn fence(context: &StageContext, bound: &BoundStore, mode: FenceMode, doing: &str) -> Result<FenceReport, StageError> {
    let report = bound.store.fence(mode, context.run.epoch).await.map_err(|error| StageError::port(doing, error))?;
    if report.mode < mode {
        let said = format!("it was to be {}, and says that it is {}", mode.as_str(), report.mode.as_str());
        return Err(StageError::port(doing, PortError::Permanent(said)));
    }
    Ok(report)
}

/// Refuses while anything uses the plane, or while nobody could know. Nothing skips this, break-glass included.
fn unused(facts: &Facts) -> Result<(), Refusal> {
    if facts.runs_in_flight + facts.queries_in_flight > 0 {
        return Err(Refusal::new(
            Code::ActiveUsage,
            format!(
                "{} run(s) and {} query(ies) still use the plane: `lethe usage list {}` names them",
                facts.runs_in_flight, facts.queries_in_flight, facts.plane_id
            ),
        )
        .with(json!({"runs": facts.runs_in_flight, "queries": facts.queries_in_flight, "until": facts.usage_until})));
    }
    usage_is_known(facts)
}

fn usage_is_known(facts: &Facts) -> Result<(), Refusal> {
    if facts.usage_known == UsageKnown::None && !facts.usage_unknown_accepted {
        return Err(Refusal::new(
            Code::UsageUnknown,
            "nobody reports what uses this plane, and policy does not accept that: report a query with `lethe usage open --kind query`, or cancel; \
             `usage.accept_unknown = true` counts for offboardings requested after it was set",
        ));
    }
    Ok(())
}
