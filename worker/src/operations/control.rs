//! Holds, which forbid every destructive step, and pauses, which stop a scope from being claimed.

use chrono::{DateTime, TimeDelta, Utc};
use lethe_ledger::{
    Chain, Entry, EventType, Hold, HoldSubject, NewHold, NewNotice, NoticeKind, Plane, RunStatus, Settlement, Tx,
};
use lethe_stages::{Code, Refusal, Stage};
use serde::Deserialize;
use serde_json::{Value as Json, json};
use uuid::Uuid;

use super::{App, Call, Outcome, Refused, Stop, arguments, lookup, operator, parties::is_name, said};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Place {
    #[serde(default)]
    plane: Option<String>,
    #[serde(default)]
    tenant: Option<String>,
    /// More than one, for a matter.
    #[serde(default)]
    planes: Vec<String>,
    #[serde(default)]
    tenants: Vec<String>,
    #[serde(default)]
    matter: Option<String>,
    #[serde(default)]
    authority: Option<String>,
    #[serde(default)]
    review_at: Option<DateTime<Utc>>,
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

/// Places a hold on each plane and tenant that is named, all or none. Those of one matter are released together or one by one.
pub(super) async fn place_hold(app: &App, tx: &mut Tx, call: &Call, _prepared: Json) -> Outcome {
    let mut args: Place = arguments(call)?;
    said("--reason", &args.reason)?;
    args.planes.extend(args.plane.take());
    args.tenants.extend(args.tenant.take());
    if args.planes.is_empty() && args.tenants.is_empty() {
        return Err(Refusal::new(Code::InvalidArgument, "a hold is on a plane or on a tenant: name one of them").into());
    }
    if args.matter.is_none() && args.planes.len() + args.tenants.len() > 1 {
        let message = "holds on several planes or tenants are of one matter: name it with --matter";
        return Err(Refusal::new(Code::InvalidArgument, message).into());
    }
    if let Some(matter) = &args.matter {
        is_name("matter", matter)?;
    }
    args.authority.as_deref().map_or(Ok(()), |authority| said("--authority", authority))?;
    if let Some(at) = args.review_at.filter(|at| *at <= tx.at()) {
        return Err(Refusal::new(Code::InvalidArgument, format!("--review: {} has passed", at.to_rfc3339())).into());
    }
    // Tenants before planes, each kind in one order, so that no two callers wait for one another.
    let (mut tenants, mut planes) = (Vec::new(), Vec::new());
    for name in &args.tenants {
        tenants.push(lookup::tenant(tx, call, name).await?.id);
    }
    for reference in &args.planes {
        planes.push(lookup::seen(tx, call, reference).await?.plane.id);
    }
    tenants.sort();
    tenants.dedup();
    planes.sort();
    planes.dedup();
    let mut placed = Vec::new();
    for (plane, tenant) in
        tenants.iter().map(|id| (None, Some(id.to_string()))).chain(planes.iter().map(|id| (Some(id.to_string()), None)))
    {
        let subject = subject(tx, call, plane.as_deref(), tenant.as_deref()).await?;
        placed.push(place_one(app, tx, call, &args, &subject).await?);
    }
    match placed.as_slice() {
        [one] => Ok(one.clone()),
        _ => Ok(json!({"matter": args.matter, "placed": placed})),
    }
}

async fn place_one(app: &App, tx: &mut Tx, call: &Call, args: &Place, subject: &Subject) -> Outcome {
    let by = call.actor.to_string();
    let new = NewHold {
        kind: subject.kind,
        subject: subject.id,
        matter: args.matter.as_deref(),
        authority: args.authority.as_deref(),
        review_at: args.review_at,
        reason: &args.reason,
        by: &by,
    };
    let id = tx.insert_hold(&new).await?;
    if let Some(review_at) = args.review_at {
        let plane_id = matches!(subject.kind, HoldSubject::Plane).then_some(subject.id);
        let notice = NewNotice {
            kind: NoticeKind::HoldReview,
            tenant_id: Some(subject.tenant_id),
            plane_id,
            offboarding_id: None,
            subject_id: Some(id),
            happens_at: review_at,
            lead: TimeDelta::zero(),
            details: json!({"matter": args.matter}),
        };
        app.manager.announce(tx, notice).await?;
    }
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
    entry.reason = Some(args.reason.clone());
    entry.evidence = json!({"hold_id": id, "subject": subject.kind, "stopped": stopped, "matter": args.matter,
        "authority": args.authority, "review_at": args.review_at});
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
    #[serde(default)]
    hold_id: Option<Uuid>,
    #[serde(default)]
    matter: Option<String>,
    reason: String,
}

/// Releases one hold, or every open one of a matter, all or none.
pub(super) async fn release_hold(app: &App, tx: &mut Tx, call: &Call, _prepared: Json) -> Outcome {
    let args: Release = arguments(call)?;
    said("--reason", &args.reason)?;
    let mut holds = match (args.hold_id, &args.matter) {
        (Some(id), None) => tx.hold(id).await?.into_iter().collect(),
        (None, Some(matter)) => tx.holds_of_matter(matter).await?,
        _ => return Err(Refusal::new(Code::InvalidArgument, "name one hold, or a matter with --matter").into()),
    };
    holds.retain(|hold| hold.released_at.is_none());
    if holds.is_empty() {
        return Err(Refusal::new(Code::HoldUnknown, "there is no such open hold: `lethe hold list` names them").into());
    }
    holds.sort_by_key(|hold| (hold.subject_kind == HoldSubject::Plane, hold.subject_id));
    let mut released = Vec::new();
    for hold in &holds {
        released.push(release_one(app, tx, call, hold, &args.reason).await?);
    }
    match released.as_slice() {
        [one] => Ok(one.clone()),
        _ => Ok(json!({"matter": args.matter, "holds": released})),
    }
}

async fn release_one(app: &App, tx: &mut Tx, call: &Call, hold: &Hold, reason: &str) -> Outcome {
    let key = hold.subject_id.to_string();
    let subject = match hold.subject_kind {
        HoldSubject::Plane => subject(tx, call, Some(&key), None).await?,
        HoldSubject::Tenant => subject(tx, call, None, Some(&key)).await?,
    };
    let refuse = |code, message| {
        Stop::from(Refused { refusal: Refusal::new(code, message), chain: subject.chain, tenant_id: Some(subject.tenant_id) })
    };
    // Asked again, now that nobody else can release it.
    if tx.hold(hold.id).await?.is_none_or(|hold| hold.released_at.is_some()) {
        return Err(refuse(Code::HoldUnknown, format!("no open hold {}: `lethe hold list` names them", hold.id)));
    }
    let by = call.actor.to_string();
    if app.config.hold.release_by_other && hold.placed_by == by {
        let message = format!("{by} placed hold {}; hold.release_by_other wants somebody else to release it", hold.id);
        return Err(refuse(Code::ReleaseBySelf, message));
    }
    tx.release_hold(hold.id, reason, &by).await?;
    let mut entry = Entry::new(subject.chain, Some(subject.tenant_id), EventType::HoldReleased, &call.actor, &call.operation);
    entry.reason = Some(reason.to_owned());
    entry.evidence = json!({"hold_id": hold.id, "subject": hold.subject_kind, "matter": hold.matter});
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
