//! What the policies say of a call, asked about everything that it names before it is looked at any further.
//!
//! The rule: who may not, learns nothing but that; what does not exist is for the operation to say. Changes are asked in the transaction
//! that makes them, and the question is kept with its answer. If we die in it, nothing was asked.

use lethe_ledger::{Chain, HoldSubject, Offboarding, Plane, Tenant, Tx};
use serde_json::{Value as Json, json};
use uuid::Uuid;

use super::{App, Call, Operation, Refused, Stop, approvals, lookup, operator};
use crate::policy::{Action, Approvals, Ask, Context, PlaneFacts, Principal, Resource, Role, TenantFacts};

/// What a call names, and where a refusal that concerns it is recorded.
struct Named {
    resource: Resource,
    chain: Chain,
    tenant_id: Option<Uuid>,
    /// Whether the caller made what is acted on.
    own: bool,
}

/// Refuses a call that the policies do not allow. What is asked about a change is recorded.
pub(super) async fn check(app: &App, tx: &mut Tx, call: &Call, operation: &Operation) -> Result<(), Stop> {
    ask(app, tx, call, operation, operation.writes && operation.action != Action::UsePlane).await
}

/// The same without a record, before anything is asked of the world: a call that is not allowed touches nothing.
pub(super) async fn asked(app: &App, tx: &mut Tx, call: &Call, operation: &Operation) -> Result<(), Stop> {
    ask(app, tx, call, operation, false).await
}

/// What tells why everything is denied is denied to nobody.
const ANSWERED_ALWAYS: &str = "governance.policy.show";

async fn ask(app: &App, tx: &mut Tx, call: &Call, operation: &Operation, recorded: bool) -> Result<(), Stop> {
    if operation.name == ANSWERED_ALWAYS {
        return Ok(());
    }
    let gate = &app.manager.gate;
    let actor = call.actor.to_string();
    let mut roles = app.config.policy.roles_of(&actor);
    for key in tx.keys_of(&actor).await? {
        roles.extend(key.roles.iter().filter_map(|role| role.parse::<Role>().ok()));
    }
    let principal = Principal::new(&call.actor, roles, call.tenant.clone());
    for named in named(app, tx, call, operation.action).await? {
        // Two laws of the house have codes of their own, whatever the policies say.
        match &named.resource {
            Resource::System if operation.action != Action::Read => operator(call)?,
            Resource::Offboarding(of)
                if matches!(operation.action, Action::Approve | Action::Deny) && of.requested_by == actor =>
            {
                let refusal = approvals::by_self(&actor);
                return Err(Refused { refusal, chain: named.chain, tenant_id: named.tenant_id }.into());
            }
            _ => {}
        }
        let context = Context { own: named.own, ..gate.context(tx.at(), Approvals::default()) };
        let ask = Ask { principal: principal.clone(), action: operation.action, resource: named.resource, context };
        let said = gate.permits(&ask);
        if recorded {
            tx.record_policy_decision(&json!(ask), said.is_ok(), &gate.revision()).await?;
        }
        if let Err(refusal) = said {
            return Err(Refused { refusal, chain: named.chain, tenant_id: named.tenant_id }.into());
        }
    }
    Ok(())
}

/// Everything that a call names and that exists, as far as its caller may see it.
async fn named(app: &App, tx: &mut Tx, call: &Call, action: Action) -> Result<Vec<Named>, Stop> {
    let text = |field: &str| call.arguments.get(field).and_then(Json::as_str).map(str::to_owned);
    let list = |field: &str| call.arguments.get(field).and_then(Json::as_array).cloned().unwrap_or_default();
    let texts = |field: &str| list(field).iter().filter_map(|value| value.as_str().map(str::to_owned)).collect::<Vec<_>>();
    let id = |field: &str| text(field).and_then(|text| text.parse::<Uuid>().ok());
    let mut planes = texts("planes");
    planes.extend(text("plane"));
    let mut tenants = texts("tenants");
    tenants.extend(text("tenant"));
    // Who registers a tenant names one that does not exist yet.
    if call.operation.starts_with("account.tenant.") && action != Action::Register {
        tenants.extend(text("name"));
    }
    if let Some(id) = id("token_id") {
        planes.extend(tx.token(id).await?.map(|token| token.plane_id.to_string()));
    }
    if let Some(id) = id("usage_id") {
        planes.extend(tx.usage(id).await?.map(|usage| usage.plane_id.to_string()));
    }
    if let Some(id) = id("finding_id") {
        planes.extend(tx.finding(id).await?.map(|finding| finding.plane_id.to_string()));
    }
    if let Some(id) = id("attestation_id") {
        planes.extend(tx.attestation(id).await?.map(|attestation| attestation.plane_id.to_string()));
    }
    let mut holds = Vec::new();
    if let Some(id) = id("hold_id") {
        holds.extend(tx.hold(id).await?);
    }
    if let (Action::ReleaseHold, Some(matter)) = (action, text("matter")) {
        holds.extend(tx.holds_of_matter(&matter).await?);
    }
    let caller = call.actor.to_string();
    let placed = holds.iter().any(|hold| hold.placed_by == caller);
    for hold in holds {
        match hold.subject_kind {
            HoldSubject::Plane => planes.push(hold.subject_id.to_string()),
            HoldSubject::Tenant => tenants.push(hold.subject_id.to_string()),
        }
    }
    let nothing = planes.is_empty() && tenants.is_empty();
    let mut named = Vec::new();
    for name in tenants {
        let Some(tenant) = exists(lookup::tenant(tx, call, &name).await)? else { continue };
        // A plane is registered, paused and listed for its tenant; a use or an offboarding is not.
        named.push(Named {
            chain: Chain::Tenant(tenant.id),
            tenant_id: Some(tenant.id),
            resource: Resource::Tenant(of_tenant(&tenant)),
            own: placed,
        });
    }
    for reference in planes {
        let Some(found) = exists(lookup::seen(tx, call, &reference).await)? else { continue };
        let (chain, tenant_id) = (Chain::Plane(found.plane.id), Some(found.tenant.id));
        if let Some(resource) = of_plane(app, tx, &found.tenant, &found.plane, action).await? {
            let own = placed || made(tx, &resource, &found.plane, action, &caller).await?;
            named.push(Named { resource, chain, tenant_id, own });
        }
    }
    let about_everything = matches!(
        action,
        Action::Read
            | Action::Register
            | Action::Control
            | Action::Recover
            | Action::ManageApprovers
            | Action::ManageKeys
            | Action::ErasePersonal
    );
    if nothing && about_everything {
        named.push(Named { resource: Resource::System, chain: Chain::System, tenant_id: None, own: false });
    }
    Ok(named)
}

/// What was looked up; what is refused there, the operation refuses itself.
fn exists<T>(found: Result<T, Stop>) -> Result<Option<T>, Stop> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(Stop::Refused(_)) => Ok(None),
        Err(fault) => Err(fault),
    }
}

fn of_tenant(tenant: &Tenant) -> TenantFacts {
    TenantFacts {
        id: tenant.id,
        name: tenant.name.clone(),
        status: tenant.status.to_string(),
        protected_until: tenant.protected_until,
    }
}

/// The plane, or its offboarding where that is what is acted on; `None` where there is none to act on.
async fn of_plane(app: &App, tx: &mut Tx, tenant: &Tenant, plane: &Plane, action: Action) -> Result<Option<Resource>, Stop> {
    let facts = PlaneFacts {
        tenant: of_tenant(tenant),
        id: plane.id,
        state: plane.state,
        store_kinds: tx.bindings(plane.id).await?.into_iter().map(|binding| binding.store_kind).collect(),
        held: !tx.holds(Some(&[plane.id, tenant.id]), false).await?.is_empty(),
    };
    use Action::*;
    if !matches!(action, Cancel | Retry | Approve | Deny | Withdraw | BreakGlass | Review | Extend) {
        return Ok(Some(Resource::Plane(facts)));
    }
    // The latest: a review is owed when the offboarding has long ended.
    let Some(of) = tx.offboardings_of(plane.id).await?.into_iter().next() else { return Ok(None) };
    let grace_skipped = skipped(tx, plane, &of).await?;
    Ok(Some(Resource::Offboarding(app.manager.gate.offboarding_facts(facts, &of, grace_skipped))))
}

/// Whether the caller broke the glass that is reviewed, or requested the offboarding that is acted on.
async fn made(tx: &mut Tx, resource: &Resource, plane: &Plane, action: Action, caller: &str) -> Result<bool, Stop> {
    if action == Action::Review {
        return Ok(tx
            .broken_glass_of(plane.id)
            .await?
            .iter()
            .any(|broken| broken.reviewed_at.is_none() && broken.broken_by == caller));
    }
    Ok(matches!(resource, Resource::Offboarding(of) if of.requested_by == caller))
}

async fn skipped(tx: &mut Tx, plane: &Plane, of: &Offboarding) -> Result<bool, Stop> {
    Ok(tx.broken_glass_of(plane.id).await?.iter().any(|broken| broken.offboarding_id == of.id))
}
