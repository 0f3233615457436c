//! Probes of purged planes, asked for and listed; and findings, which are a purged plane's case opened again.
//!
//! The rule: a plane that was purged stays PURGED, whatever comes back; what is open is its case. A finding is closed by a probe that
//! somebody asked for and that found nothing, or by somebody other than who requested the offboarding, after a probe that found nothing.
//! If we die in it, nothing was decided.

use lethe_ledger::{Chain, Entry, EventType, Finding, NewProbe, Offboarding, Plane, ProbeCause, ProbeFilter, Tx};
use lethe_stages::{Code, LifecycleState, Refusal};
use serde::Deserialize;
use serde_json::{Value as Json, json};
use uuid::Uuid;

use super::{
    App, Call, Outcome, Stop, arguments,
    lookup::{self, Found},
    planes::PlaneRef,
    said,
};
use crate::manager::probe;

/// Asks for a probe now; a worker performs it.
pub(super) async fn run(_app: &App, tx: &mut Tx, call: &Call, _prepared: Json) -> Outcome {
    let PlaneRef { plane } = arguments(call)?;
    let found = lookup::plane(tx, call, &plane).await?;
    let refuse = |message: String| Err(found.refuse(Refusal::new(Code::NothingToProbe, message)));
    if found.plane.state != LifecycleState::Purged {
        return refuse(format!("the plane is {}: probes ask after what was purged", found.plane.state));
    }
    if tx.probe_scope(found.plane.id).await?.is_none() {
        return refuse(
            "nothing is kept by which this plane could be looked for: its last probe came back clean, or none was planned".into(),
        );
    }
    let Some(purged) = tx.offboardings_of(found.plane.id).await?.into_iter().next() else {
        return refuse("the plane was purged by no offboarding that this ledger knows".into());
    };
    let new = NewProbe {
        offboarding_id: purged.id,
        plane_id: found.plane.id,
        tenant_id: found.tenant.id,
        cause: ProbeCause::Asked,
        requested_by: Some(call.actor.to_string()),
        due_at: tx.at(),
    };
    let id = tx.plan_probe(&new).await?;
    let mut entry =
        Entry::new(Chain::Plane(found.plane.id), Some(found.tenant.id), EventType::ProbeRequested, &call.actor, &call.operation);
    entry.offboarding_id = Some(purged.id);
    entry.evidence = json!({"probe_id": id});
    tx.append(entry).await?;
    Ok(json!({"plane_id": found.plane.id, "probe_id": id, "due_at": tx.at()}))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    #[serde(default)]
    plane: Option<String>,
    /// Only those that are due or failed.
    #[serde(default)]
    due: bool,
}

/// The plane and tenant to which a listing is confined.
async fn confined(tx: &mut Tx, call: &Call, plane: Option<&str>) -> Result<(Option<Uuid>, Option<Uuid>), Stop> {
    let plane_id = match plane {
        Some(plane) => Some(lookup::plane(tx, call, plane).await?.plane.id),
        None => None,
    };
    let tenant_id = match &call.tenant {
        Some(name) => Some(lookup::tenant(tx, call, name).await?.id),
        None => None,
    };
    Ok((plane_id, tenant_id))
}

pub(super) async fn list(_app: &App, tx: &mut Tx, call: &Call, _prepared: Json) -> Outcome {
    let args: List = arguments(call)?;
    let (plane_id, tenant_id) = confined(tx, call, args.plane.as_deref()).await?;
    let probes = tx.probes(&ProbeFilter { plane_id, tenant_id, due: args.due }).await?;
    Ok(json!({"probes": probes}))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Findings {
    #[serde(default)]
    plane: Option<String>,
    /// Closed ones too.
    #[serde(default)]
    all: bool,
}

pub(super) async fn findings(_app: &App, tx: &mut Tx, call: &Call, _prepared: Json) -> Outcome {
    let args: Findings = arguments(call)?;
    let (plane, tenant) = confined(tx, call, args.plane.as_deref()).await?;
    let findings = tx.findings(plane, tenant, args.all).await?;
    Ok(json!({"findings": findings.iter().map(shown).collect::<Vec<_>>()}))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Named {
    finding_id: Uuid,
}

pub(super) async fn show_finding(_app: &App, tx: &mut Tx, call: &Call, _prepared: Json) -> Outcome {
    let Named { finding_id } = arguments(call)?;
    let (finding, _) = named(tx, call, finding_id).await?;
    let probes = tx.probes(&ProbeFilter { plane_id: Some(finding.plane_id), ..ProbeFilter::default() }).await?;
    let mut document = shown(&finding);
    document["probes"] = json!(probes);
    Ok(document)
}

/// A finding that the caller may see, and its plane.
async fn named(tx: &mut Tx, call: &Call, id: Uuid) -> Result<(Finding, Found), Stop> {
    let unknown = || Refusal::new(Code::FindingUnknown, format!("there is no finding {id}: `lethe finding list` names them"));
    let finding = tx.finding(id).await?.ok_or_else(unknown)?;
    let found = lookup::plane(tx, call, &finding.plane_id.to_string()).await.map_err(|stop| match stop {
        Stop::Refused(_) => Stop::from(unknown()),
        fault => fault,
    })?;
    // Asked again, now that nobody else closes it.
    let finding = tx.finding(id).await?.ok_or_else(unknown)?;
    Ok((finding, found))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Close {
    finding_id: Uuid,
    reason: String,
}

pub(super) async fn close_finding(app: &App, tx: &mut Tx, call: &Call, _prepared: Json) -> Outcome {
    let args: Close = arguments(call)?;
    said("--reason", &args.reason)?;
    let (finding, found) = named(tx, call, args.finding_id).await?;
    let refuse = |code, message: String| Err(found.refuse(Refusal::new(code, message)));
    if finding.status != "open" {
        return refuse(Code::FindingUnknown, format!("finding {} is closed already", finding.id));
    }
    let of: Option<Offboarding> = tx.offboarding(finding.offboarding_id).await?;
    let by = call.actor.to_string();
    if of.is_some_and(|of| of.terms.requested_by == by) {
        return refuse(Code::FindingBySelf, format!("{by} requested the offboarding; somebody else must close the finding"));
    }
    if finding.clean_at.is_none() {
        let message = format!(
            "no probe has come back clean since {}: remove what came back, then `lethe probe run {}`",
            finding.seen_at.to_rfc3339(),
            finding.plane_id
        );
        return refuse(Code::FindingStands, message);
    }
    probe::close_finding(tx, &finding, &call.actor, &call.operation, &args.reason).await?;
    app.manager.go_on(tx, finding.offboarding_id, finding.plane_id, finding.tenant_id).await?;
    Ok(tx.finding(finding.id).await?.as_ref().map(shown).unwrap_or_default())
}

/// A finding, with what somebody can do about it.
fn shown(finding: &Finding) -> Json {
    let mut document = json!(finding);
    if finding.status == "open" {
        document["next"] = json!(next(finding));
    }
    document
}

fn next(finding: &Finding) -> String {
    match finding.clean_at {
        None => format!("remove what came back, then: lethe probe run {}", finding.plane_id),
        Some(_) => {
            format!("lethe finding close {} --reason …   (by somebody other than who requested the offboarding)", finding.id)
        }
    }
}

/// What a status says of a purged plane's probes and of what came back; nothing of one that was never probed.
pub(super) async fn of_plane(tx: &mut Tx, plane: &Plane, document: &mut Json) -> Result<(), Stop> {
    if !matches!(plane.state, LifecycleState::Archived | LifecycleState::Purged) {
        return Ok(());
    }
    let plane = plane.id;
    let probes = tx.probes(&ProbeFilter { plane_id: Some(plane), ..ProbeFilter::default() }).await?;
    let finding = tx.open_finding_of(plane).await?;
    if !probes.is_empty() {
        document["probes"] = json!(probes);
    }
    if let Some(finding) = finding {
        document["case"] = json!("REOPENED");
        document["finding"] = shown(&finding);
    }
    let attestations = tx.attestations_of(plane).await?;
    if !attestations.is_empty() {
        document["attestations"] = json!(attestations);
    }
    Ok(())
}
