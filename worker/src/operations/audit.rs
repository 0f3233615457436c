//! The audit trail, to read, to verify and to take away.

use lethe_ledger::{EventType, TrailFilter, Tx};
use serde::Deserialize;
use serde_json::{Value as Json, json};

use super::{App, Call, Outcome, arguments, lookup};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    #[serde(default)]
    plane: Option<String>,
    #[serde(default)]
    tenant: Option<String>,
    #[serde(default)]
    event_type: Option<EventType>,
    #[serde(default)]
    limit: Option<i64>,
}

pub(super) async fn list(_app: &App, tx: &mut Tx, call: &Call, _prepared: Json) -> Outcome {
    let args: List = arguments(call)?;
    let chain = match &args.plane {
        Some(plane) => Some(format!("plane:{}", lookup::plane(tx, call, plane).await?.plane.id)),
        None => None,
    };
    let tenant_id = match args.tenant.as_ref().or(call.tenant.as_ref()) {
        Some(name) => Some(lookup::tenant(tx, call, name).await?.id),
        None => None,
    };
    let filter = TrailFilter { chain, tenant_id, event_type: args.event_type, limit: args.limit };
    Ok(json!({"entries": tx.trail(&filter).await?}))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Only {
    #[serde(default)]
    plane: Option<String>,
}

pub(super) async fn verify(_app: &App, tx: &mut Tx, call: &Call, _prepared: Json) -> Outcome {
    let args: Only = arguments(call)?;
    let chain = match &args.plane {
        Some(plane) => Some(format!("plane:{}", lookup::plane(tx, call, plane).await?.plane.id)),
        None => None,
    };
    Ok(match tx.verify_trail(chain.as_deref()).await? {
        Ok(verified) => {
            let mut answer = json!(verified);
            answer["audit"] = json!("verified");
            answer
        }
        Err(fault) => json!({"audit": "broken", "fault": fault, "message": fault.to_string()}),
    })
}

/// Every entry with its hash, for somebody who verifies elsewhere. Personal values are left out unless asked for.
pub(super) async fn export(_app: &App, tx: &mut Tx, call: &Call, _prepared: Json) -> Outcome {
    let args: List = arguments(call)?;
    let chain = match &args.plane {
        Some(plane) => Some(format!("plane:{}", lookup::plane(tx, call, plane).await?.plane.id)),
        None => None,
    };
    let tenant_id = match args.tenant.as_ref().or(call.tenant.as_ref()) {
        Some(name) => Some(lookup::tenant(tx, call, name).await?.id),
        None => None,
    };
    let filter = TrailFilter { chain, tenant_id, event_type: None, limit: None };
    let entries = tx.trail(&filter).await?;
    Ok(
        json!({"entries": entries.iter().map(|entry| json!({"hash": entry.hash, "previous": entry.previous, "body": entry.body})).collect::<Vec<_>>()}),
    )
}
