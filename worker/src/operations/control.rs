//! Holds, which forbid every destructive step, and pauses, which stop a scope from being claimed.

use lethe_ledger::{Chain, Entry, EventType, HoldSubject, Plane, RunStatus, Settlement, Tx};
use lethe_stages::{Code, Refusal, Stage};
use serde::Deserialize;
use serde_json::{Value as Json, json};
use uuid::Uuid;

use super::{App, Call, Outcome, Stop, arguments, lookup, operator, said};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Place {
    #[serde(default)]
    plane: Option<String>,
    #[serde(default)]
    tenant: Option<String>,
    reason: String,
}

/// Whose chain a hold stands on, and the planes it covers.
struct Subject {
    kind: HoldSubject,
    id: Uuid,
    tenant_id: Uuid,
    chain: Chain,
    planes: Vec<Plane>,
}

async fn subject(tx: &mut Tx, call: &Call, plane: Option<&str>, tenant: Option<&str>) -> Result<Subject, Stop> {
    match (plane, tenant) {
        (Some(plane), None) => {
            let found = lookup::plane(tx, call, plane).await?;
            let id = found.plane.id;
            Ok(Subject {
                kind: HoldSubject::Plane,
                id,
                tenant_id: found.tenant.id,
                chain: Chain::Plane(id),
                planes: vec![found.plane],
            })
        }
        (None, Some(tenant)) => {
            let tenant = lookup::tenant(tx, call, tenant).await?;
            // Nothing is decided on any of its planes meanwhile.
            tx.lock_tenant(tenant.id, false).await?;
            let planes = tx.planes(Some(tenant.id), None).await?;
            Ok(Subject {
                kind: HoldSubject::Tenant,
                id: tenant.id,
                tenant_id: tenant.id,
                chain: Chain::Tenant(tenant.id),
                planes,
            })
        }
        _ => Err(Refusal::new(Code::InvalidArgument, "a hold is on a plane or on a tenant: name one of them").into()),
    }
}

pub(super) async fn place_hold(_app: &App, tx: &mut Tx, call: &Call, _prepared: Json) -> Outcome {
    let args: Place = arguments(call)?;
    let subject = subject(tx, call, args.plane.as_deref(), args.tenant.as_deref()).await?;
    said("--reason", &args.reason)?;
    let id = tx.insert_hold(subject.kind, subject.id, &args.reason, &call.actor.to_string()).await?;
    let mut stopped = Vec::new();
    for plane in &subject.planes {
        let Some(case) = tx.open_case(plane.id).await? else { continue };
        if case.run.status != RunStatus::Running || !case.run.step.is_destructive() {
            continue;
        }
        // It has passed its point of no return: what is gone is gone. Its epoch is over, so the rest stays.
        tx.raise_epoch(plane.id).await?;
        let refusal = Refusal::new(Code::HoldActive, format!("hold {id} forbids every destructive step"));
        tx.settle(&case.run, &Settlement::Parked(refusal)).await?;
        stopped.push(json!({
            "plane_id": plane.id, "step": case.run.step, "run_id": case.run.id, "progress": case.run.progress,
            "warning": "this step had begun: part of the data may already be destroyed",
        }));
    }
    let mut entry = Entry::new(subject.chain, Some(subject.tenant_id), EventType::HoldPlaced, &call.actor, &call.operation);
    entry.reason = Some(args.reason);
    entry.evidence = json!({"hold_id": id, "subject": subject.kind, "stopped": stopped});
    tx.append(entry).await?;
    let erased = subject.planes.iter().filter(|plane| plane.purged_at.is_some()).count();
    let mut answer = json!(tx.hold(id).await?);
    answer["stopped"] = json!(stopped);
    answer["already_purged"] = json!(erased);
    Ok(answer)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Release {
    hold_id: Uuid,
    reason: String,
}

pub(super) async fn release_hold(_app: &App, tx: &mut Tx, call: &Call, _prepared: Json) -> Outcome {
    let args: Release = arguments(call)?;
    said("--reason", &args.reason)?;
    let unknown = || Refusal::new(Code::HoldUnknown, format!("no open hold {}: `lethe hold list` names them", args.hold_id));
    let hold = tx.hold(args.hold_id).await?.filter(|hold| hold.released_at.is_none()).ok_or_else(&unknown)?;
    let key = hold.subject_id.to_string();
    let subject = match hold.subject_kind {
        HoldSubject::Plane => subject(tx, call, Some(&key), None).await?,
        HoldSubject::Tenant => subject(tx, call, None, Some(&key)).await?,
    };
    // Asked again, now that nobody else can release it.
    let hold = tx.hold(args.hold_id).await?.filter(|hold| hold.released_at.is_none()).ok_or_else(unknown)?;
    tx.release_hold(hold.id, &args.reason, &call.actor.to_string()).await?;
    let mut entry = Entry::new(subject.chain, Some(subject.tenant_id), EventType::HoldReleased, &call.actor, &call.operation);
    entry.reason = Some(args.reason);
    entry.evidence = json!({"hold_id": hold.id, "subject": hold.subject_kind});
    tx.append(entry).await?;
    for plane in &subject.planes {
        // The gate looks again: another hold may stand.
        tx.wake(plane.id, &[Code::HoldActive]).await?;
    }
    Ok(json!(tx.hold(hold.id).await?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListHolds {
    #[serde(default)]
    plane: Option<String>,
    #[serde(default)]
    all: bool,
}

pub(super) async fn list_holds(_app: &App, tx: &mut Tx, call: &Call, _prepared: Json) -> Outcome {
    let args: ListHolds = arguments(call)?;
    let subjects = match (&args.plane, &call.tenant) {
        (Some(plane), _) => {
            let found = lookup::plane(tx, call, plane).await?;
            Some(vec![found.plane.id, found.tenant.id])
        }
        (None, Some(tenant)) => {
            let tenant = lookup::tenant(tx, call, tenant).await?;
            let planes = tx.planes(Some(tenant.id), None).await?;
            Some(planes.into_iter().map(|plane| plane.id).chain([tenant.id]).collect())
        }
        (None, None) => None,
    };
    Ok(json!({"holds": tx.holds(subjects.as_deref(), args.all).await?}))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Scope {
    #[serde(default)]
    all: bool,
    #[serde(default)]
    tenant: Option<String>,
    #[serde(default)]
    stage: Option<Stage>,
    #[serde(default)]
    reason: Option<String>,
}

async fn scope(tx: &mut Tx, call: &Call, args: &Scope) -> Result<(String, Chain, Option<Uuid>), Stop> {
    match (args.all, &args.tenant, args.stage) {
        (true, None, None) => operator(call).map(|()| ("all".into(), Chain::System, None)),
        (false, Some(tenant), None) => {
            let tenant = lookup::tenant(tx, call, tenant).await?;
            Ok((format!("tenant:{}", tenant.id), Chain::Tenant(tenant.id), Some(tenant.id)))
        }
        (false, None, Some(stage)) => operator(call).map(|()| (format!("stage:{stage}"), Chain::System, None)),
        _ => Err(Refusal::new(Code::InvalidArgument, "name one scope: --all, --tenant T or --stage S").into()),
    }
}

pub(super) async fn pause(_app: &App, tx: &mut Tx, call: &Call, _prepared: Json) -> Outcome {
    let args: Scope = arguments(call)?;
    let (scope, chain, tenant_id) = scope(tx, call, &args).await?;
    let reason = args.reason.unwrap_or_default();
    said("--reason", &reason)?;
    tx.pause(&scope, &reason, &call.actor.to_string()).await?;
    let mut entry = Entry::new(chain, tenant_id, EventType::Paused, &call.actor, &call.operation);
    entry.reason = Some(reason);
    entry.evidence = json!({"scope": scope});
    tx.append(entry).await?;
    Ok(json!({"paused": scope, "pauses": tx.pauses().await?}))
}

pub(super) async fn resume(_app: &App, tx: &mut Tx, call: &Call, _prepared: Json) -> Outcome {
    let args: Scope = arguments(call)?;
    let (scope, chain, tenant_id) = scope(tx, call, &args).await?;
    if !tx.resume(&scope).await? {
        return Err(Refusal::new(Code::PauseUnknown, format!("{scope} is not paused")).into());
    }
    tx.wake_paused().await?;
    let mut entry = Entry::new(chain, tenant_id, EventType::Resumed, &call.actor, &call.operation);
    entry.reason = args.reason.filter(|reason| !reason.trim().is_empty());
    entry.evidence = json!({"scope": scope});
    tx.append(entry).await?;
    Ok(json!({"resumed": scope, "pauses": tx.pauses().await?}))
}
