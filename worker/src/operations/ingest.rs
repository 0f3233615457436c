//! The ingest gate: may data be written into a plane, or into a scope of a store, now?
//!
//! The rule: only into a plane that is in service, or in a grace period that leaves everything open, and never into one that was purged:
//! a scope answers for its plane for ever, by the digest of its value, when the plane's name is long gone. What nobody knows is refused.
//! Each refusal is on record. It only asks, so nothing happens if we die in it.

use lethe_ledger::{OffboardingStatus, Store, TenantStatus, Tx};
use lethe_stages::{Code, GraceAccess, LifecycleState, Refusal, canonical};
use lethe_stores::Mapping;
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};

use super::{
    App, Call, Outcome, Stop, arguments,
    lookup::{self, Found},
    parties::{read_prepared, store_unknown},
    planes::PlaneRef,
    unmapped,
};

/// May data be written into this plane now? It takes no token: tokens are for queries.
pub(super) async fn check_plane(_app: &App, tx: &mut Tx, call: &Call, _prepared: Json) -> Outcome {
    let PlaneRef { plane } = arguments(call)?;
    let found = lookup::plane(tx, call, &plane).await?;
    writable(tx, &found).await?;
    Ok(json!({"allowed": true, "plane_id": found.plane.id, "state": found.plane.state}))
}

/// Whether the plane takes writes; else the refusal, on its chain.
async fn writable(tx: &mut Tx, found: &Found) -> Result<(), Stop> {
    let plane = &found.plane;
    let refuse = |code, message: String| {
        Err(found.refuse(Refusal::new(code, message).with(json!({"state": plane.state, "plane_id": plane.id}))))
    };
    if plane.state == LifecycleState::Purged {
        return refuse(Code::PlanePurged, "the plane was erased: what belongs to it is not taken back".into());
    }
    if found.tenant.status != TenantStatus::Active {
        return refuse(Code::IngestRefused, format!("tenant {} is {}", found.tenant.name, found.tenant.status));
    }
    if plane.state == LifecycleState::Active && !plane.draining {
        return Ok(());
    }
    let leaving = matches!(plane.state, LifecycleState::Active | LifecycleState::PendingDeactivate);
    let open = tx.offboardings_of(plane.id).await?.into_iter().find(|one| one.status == OffboardingStatus::Open);
    match open {
        Some(open) if leaving && open.terms.grace_access == GraceAccess::Full => match open.grace_until {
            // The end of grace ends it, whether a worker has been here since or not.
            Some(until) if until <= tx.at() => refuse(Code::IngestRefused, "the plane's grace period is over".into()),
            _ => Ok(()),
        },
        _ => {
            let leaving = if leaving { " and leaving" } else { "" };
            refuse(Code::IngestRefused, format!("the plane is {}{leaving}, and takes no writes", plane.state))
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OfScope {
    store: String,
    /// `table=…&plane_column=…&plane=…`, as the store spells it; with `key=…` as well, the store is asked how it does.
    scope: String,
}

/// A scope as its store spells it.
#[derive(Serialize, Deserialize)]
struct Described {
    resource: String,
    plane_column: String,
    value_digest: String,
}

/// Whether the caller may know of a store at all: one who is confined to a tenant knows those that were opened to it.
fn is_open_to(store: &Store, call: &Call) -> bool {
    call.tenant.as_ref().is_none_or(|tenant| store.tenants.contains(tenant))
}

/// The scope as the store spells it, asked of the store where a key is named. No transaction is open.
pub(super) async fn describe_scope(app: &App, call: &Call) -> Outcome {
    let args: OfScope = arguments(call)?;
    let wrong = |message: String| Stop::from(Refusal::new(Code::MappingWrong, format!("--scope: {message}")));
    let keyless = !args.scope.split('&').any(|word| word.starts_with("key="));
    // The key plays no part in a scope; it only lets the store be asked how it spells the rest.
    let text = if keyless { format!("{}&key=-", args.scope) } else { args.scope.clone() };
    let mapping = Mapping::parse(&text).map_err(wrong)?;
    let store = app.ledger.read(async |tx: &mut Tx| tx.store(&args.store).await).await?;
    let store = store.filter(|store| is_open_to(store, call)).ok_or_else(|| store_unknown(&args.store))?;
    let (resource, plane_column, plane) = if keyless {
        (mapping.table, mapping.plane_column, mapping.plane)
    } else {
        let described = app.world.describe(&store.url, &mapping).await.map_err(|error| unmapped("--scope", error))?;
        (described.resource, described.plane_column, described.plane_value)
    };
    let value_digest = canonical::sha256(plane.unwrap_or_default().as_bytes());
    Ok(json!(Described { resource, plane_column: plane_column.unwrap_or_default(), value_digest }))
}

/// May data be written into this scope of a store now? For who knows where it writes, and no plane.
pub(super) async fn check_scope(_app: &App, tx: &mut Tx, call: &Call, prepared: Json) -> Outcome {
    let args: OfScope = arguments(call)?;
    let Described { resource, plane_column, value_digest } = read_prepared(prepared)?;
    let store = tx.store(&args.store).await?.filter(|store| is_open_to(store, call)).ok_or_else(|| store_unknown(&args.store))?;
    let planes = tx.planes_of_scope(store.id, &resource, &plane_column, &value_digest).await?;
    if planes.is_empty() {
        let message =
            format!("no plane is bound to this scope of store {}: register one, or mend the scope's spelling", args.store);
        return Err(Refusal::new(Code::PlaneUnknown, message).into());
    }
    let mut allowed = Vec::with_capacity(planes.len());
    for plane in planes {
        let found = match lookup::plane(tx, call, &plane.to_string()).await {
            Ok(found) => found,
            // Another tenant's; which, is not said.
            Err(Stop::Refused(_)) => {
                let message = format!("this scope of store {} belongs, in whole or in part, to somebody else", args.store);
                return Err(Refusal::new(Code::IngestRefused, message).into());
            }
            Err(fault) => return Err(fault),
        };
        writable(tx, &found).await?;
        allowed.push(found.plane.id);
    }
    Ok(json!({"allowed": true, "planes": allowed}))
}
