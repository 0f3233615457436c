//! The five handlers, a file each.
//!
//! The rule: what they do to the world can be done again. If we die in one, it is run again from the start.

mod archive;
mod deactivate;
mod deregister;
mod purge;
mod removal;
mod verify;

use std::sync::Arc;

use serde_json::json;

use crate::{
    Code, Refusal,
    contract::{Facts, StageHandler, UsageKnown},
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
            "nobody reports what uses this plane, and policy does not accept that: report with `lethe usage open|close`; \
             `usage.accept_unknown = true` counts for offboardings requested after it was set",
        ));
    }
    Ok(())
}
