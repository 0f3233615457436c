//! What outside depends on a plane: registered by name, controlled by commands that only the worker's configuration has.
//!
//! The rule: the ledger says what there is and never how it is told; a name stands once on a plane's list. What was taken off the list while
//! an offboarding had suspended it is still given back. If we die in it, the transaction did not happen.

use lethe_ledger::{Chain, Entry, EventType, RunStatus, Tx};
use lethe_stages::{Code, LifecycleState, Refusal, Step, suspension::DependentKind};
use serde::Deserialize;
use serde_json::{Value as Json, json};

use super::{
    App, Call, Outcome, arguments,
    lookup::{self, Found},
    parties::is_name,
    planes::PlaneRef,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Add {
    plane: String,
    name: String,
    kind: String,
    control: String,
}

fn entry(found: &Found, event: EventType, call: &Call) -> Entry {
    Entry::new(Chain::Plane(found.plane.id), Some(found.tenant.id), event, &call.actor, &call.operation)
}

pub(super) async fn add(app: &App, tx: &mut Tx, call: &Call, _prepared: Json) -> Outcome {
    let args: Add = arguments(call)?;
    is_name("dependent", &args.name)?;
    let found = lookup::plane(tx, call, &args.plane).await?;
    let kind: DependentKind =
        args.kind.parse().map_err(|error| found.refuse(Refusal::new(Code::InvalidArgument, format!("--kind: {error}"))))?;
    if !app.config.dependents.contains_key(&args.control) {
        let known: Vec<_> = app.config.dependents.keys().map(String::as_str).collect();
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        let message = format!("--control: the configuration has no [dependents.{}]; it has: {known}", args.control);
        return Err(found.refuse(Refusal::new(Code::InvalidArgument, message)));
    }
    // What runs now has read the list already.
    let at_work = tx.open_case(found.plane.id).await?.map(|case| case.run);
    let at_work =
        at_work.filter(|run| run.status == RunStatus::Running && matches!(run.step, Step::Deregister | Step::Deactivate));
    if let Some(run) = at_work {
        let message = format!("{} is at work on the plane and would not suspend it: add it when that is done", run.step);
        return Err(found.refuse(Refusal::new(Code::StageInProgress, message)));
    }
    match found.plane.state {
        // Deactivate suspends whatever is on the list by then.
        LifecycleState::Active | LifecycleState::PendingDeactivate => {}
        LifecycleState::Purged => {
            return Err(found.refuse(Refusal::new(Code::PlanePurged, "the plane was erased; nothing depends on it")));
        }
        state => {
            let message =
                format!("the plane is {state}, and what depends on it was suspended before; nothing would suspend this");
            return Err(found.refuse(Refusal::new(Code::PlaneNotActive, message).with(json!({"state": state}))));
        }
    }
    if tx.dependents(found.plane.id).await?.iter().any(|known| known.name.as_ref() == Some(&args.name)) {
        let message = format!("the plane has a dependent {}: `lethe plane dependent list` shows it", args.name);
        return Err(found.refuse(Refusal::new(Code::NameTaken, message)));
    }
    let id = tx.add_dependent(found.plane.id, &args.name, kind, &args.control).await?;
    let mut entry = entry(&found, EventType::DependentAdded, call);
    entry.evidence = json!({"dependent_id": id, "kind": kind});
    tx.append(entry).await?;
    Ok(json!({"dependent_id": id, "plane_id": found.plane.id, "name": args.name, "kind": kind, "control": args.control}))
}

pub(super) async fn list(_app: &App, tx: &mut Tx, call: &Call, _prepared: Json) -> Outcome {
    let PlaneRef { plane } = arguments(call)?;
    let found = lookup::plane(tx, call, &plane).await?;
    Ok(json!({"plane_id": found.plane.id, "dependents": tx.dependents(found.plane.id).await?}))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Remove {
    plane: String,
    name: String,
}

pub(super) async fn remove(_app: &App, tx: &mut Tx, call: &Call, _prepared: Json) -> Outcome {
    let args: Remove = arguments(call)?;
    let found = lookup::plane(tx, call, &args.plane).await?;
    let known = tx.dependents(found.plane.id).await?.into_iter().find(|known| known.name.as_ref() == Some(&args.name));
    let Some(known) = known else {
        let message = format!("the plane has no dependent {}: `lethe plane dependent list` names them", args.name);
        return Err(found.refuse(Refusal::new(Code::InvalidArgument, message)));
    };
    tx.remove_dependent(known.id).await?;
    let mut entry = entry(&found, EventType::DependentRemoved, call);
    entry.evidence = json!({"dependent_id": known.id, "kind": known.kind});
    tx.append(entry).await?;
    Ok(json!({"dependent_id": known.id, "plane_id": found.plane.id, "name": args.name, "removed": true}))
}
