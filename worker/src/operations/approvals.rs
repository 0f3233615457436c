//! Approvals: somebody other than the requester releases exactly one destruction plan, once.

use lethe_ledger::{ApprovalStatus, Assurance, Chain, Entry, EventType, NewApproval, Offboarding, Tx};
use lethe_stages::{Code, LifecycleState, Refusal};
use serde::Deserialize;
use serde_json::{Value as Json, json};

use super::{
    App, Call, Outcome, Stop, arguments,
    lookup::{self, Found},
    said,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Decide {
    plane: String,
    reason: String,
}

/// The offboarding whose plan can be decided on, and the plan's digest.
async fn decidable(tx: &mut Tx, found: &Found) -> Result<(Offboarding, String), Stop> {
    if found.plane.state == LifecycleState::Purged {
        return Err(found.refuse(Refusal::new(Code::PlanePurged, "the plane was erased; there is nothing to decide")));
    }
    let open = tx.offboardings_of(found.plane.id).await?.into_iter().find(|offboarding| offboarding.closed_at.is_none());
    let plan = open.as_ref().and_then(|open| open.plan_digest.clone());
    match (open, plan) {
        (Some(open), Some(plan)) if found.plane.state == LifecycleState::Archived => Ok((open, plan)),
        _ => {
            let message = format!(
                "the plane is {}: what would be destroyed is known, and can be approved, once it is ARCHIVED",
                found.plane.state
            );
            Err(found.refuse(Refusal::new(Code::ApprovalTooEarly, message).with(json!({"state": found.plane.state}))))
        }
    }
}

pub(super) async fn grant(app: &App, tx: &mut Tx, call: &Call, _prepared: Json) -> Outcome {
    decide(app, tx, call, ApprovalStatus::Granted).await
}

pub(super) async fn deny(app: &App, tx: &mut Tx, call: &Call, _prepared: Json) -> Outcome {
    decide(app, tx, call, ApprovalStatus::Denied).await
}

async fn decide(app: &App, tx: &mut Tx, call: &Call, status: ApprovalStatus) -> Outcome {
    let args: Decide = arguments(call)?;
    let found = lookup::plane(tx, call, &args.plane).await?;
    said("--reason", &args.reason)?;
    let (open, plan_digest) = decidable(tx, &found).await?;
    let by = call.actor.to_string();
    if by == open.terms.requested_by {
        let message = format!("{by} requested this offboarding; somebody else must decide");
        return Err(found.refuse(Refusal::new(Code::ApprovalBySelf, message)));
    }
    // Signatures and sign-in come later; until then an actor says who it is, and nothing more is known.
    let assurance = Assurance::Asserted;
    if assurance < app.config.approval.assurance_min && !app.ledger.insecure_demo() {
        let message = format!("{by} is only {assurance}; approval.assurance_min is {}", app.config.approval.assurance_min);
        return Err(found.refuse(Refusal::new(Code::AssuranceTooLow, message)));
    }
    for standing in tx.approvals(Some(open.id)).await? {
        match standing.status {
            ApprovalStatus::Granted if standing.expires_at <= tx.at() => {
                tx.end_approval(standing.id, ApprovalStatus::Expired).await?;
                let mut entry = entry(&found, &open, EventType::ApprovalExpired, call);
                entry.evidence =
                    json!({"approval_id": standing.id, "plan_digest": standing.plan_digest, "expires_at": standing.expires_at});
                tx.append(entry).await?;
            }
            ApprovalStatus::Granted | ApprovalStatus::Consumed => {
                let message = format!("{} approved it already: `lethe approval withdraw` takes that back", standing.approved_by);
                return Err(found.refuse(Refusal::new(Code::ApprovalExists, message)));
            }
            ApprovalStatus::Denied if standing.plan_digest == plan_digest => {
                let message = format!(
                    "{} denied this plan, which is final: `lethe offboarding retry` makes a new one",
                    standing.approved_by
                );
                return Err(found.refuse(Refusal::new(Code::ApprovalDenied, message)));
            }
            _ => {}
        }
    }
    let expires_at = open.retention_until.map_or(tx.at(), |until| until.max(tx.at())) + app.config.approval.valid.0;
    let new = NewApproval {
        offboarding_id: open.id,
        plan_digest: plan_digest.clone(),
        status,
        requested_by: open.terms.requested_by.clone(),
        approved_by: by,
        identity_assurance: assurance,
        reason: args.reason.clone(),
        expires_at,
    };
    let id = tx.insert_approval(&new).await?;
    let event = if status == ApprovalStatus::Granted { EventType::Approved } else { EventType::Denied };
    let mut entry = entry(&found, &open, event, call);
    entry.reason = Some(args.reason);
    entry.evidence =
        json!({"approval_id": id, "plan_digest": plan_digest, "identity_assurance": assurance, "expires_at": expires_at});
    tx.append(entry).await?;
    tx.wake(found.plane.id, &[Code::ApprovalRequired, Code::ApprovalExpired, Code::PlanChanged]).await?;
    Ok(json!({
        "approval_id": id, "plane_id": found.plane.id, "offboarding_id": open.id, "status": status, "plan_digest": plan_digest,
        "identity_assurance": assurance, "expires_at": expires_at, "plan": open.plan,
    }))
}

pub(super) async fn withdraw(_app: &App, tx: &mut Tx, call: &Call, _prepared: Json) -> Outcome {
    let args: Decide = arguments(call)?;
    let found = lookup::plane(tx, call, &args.plane).await?;
    said("--reason", &args.reason)?;
    let open = tx.offboardings_of(found.plane.id).await?.into_iter().find(|offboarding| offboarding.closed_at.is_none());
    let standing = match &open {
        Some(open) => tx.approvals(Some(open.id)).await?.into_iter().find(|approval| approval.status == ApprovalStatus::Granted),
        None => None,
    };
    let (Some(open), Some(standing)) = (open, standing) else {
        let message = "no unused approval of this plane stands: what a purge has begun to use cannot be taken back";
        return Err(found.refuse(Refusal::new(Code::ApprovalUnknown, message)));
    };
    tx.end_approval(standing.id, ApprovalStatus::Withdrawn).await?;
    let mut entry = entry(&found, &open, EventType::ApprovalWithdrawn, call);
    entry.reason = Some(args.reason);
    entry.evidence = json!({"approval_id": standing.id, "plan_digest": standing.plan_digest});
    tx.append(entry).await?;
    Ok(json!({"approval_id": standing.id, "plane_id": found.plane.id, "status": ApprovalStatus::Withdrawn}))
}

fn entry(found: &Found, open: &Offboarding, event: EventType, call: &Call) -> Entry {
    let mut entry = Entry::new(Chain::Plane(found.plane.id), Some(found.tenant.id), event, &call.actor, &call.operation);
    entry.offboarding_id = Some(open.id);
    entry
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    #[serde(default)]
    plane: Option<String>,
}

/// Decisions so far, and planes whose plan waits for one.
pub(super) async fn list(_app: &App, tx: &mut Tx, call: &Call, _prepared: Json) -> Outcome {
    let args: List = arguments(call)?;
    let only = match &args.plane {
        Some(plane) => Some(lookup::plane(tx, call, plane).await?.plane.id),
        None => None,
    };
    let tenant = match &call.tenant {
        Some(name) => Some(lookup::tenant(tx, call, name).await?.id),
        None => None,
    };
    let planes = tx.planes(tenant, None).await?;
    let visible = |id: uuid::Uuid| only.is_none_or(|only| only == id) && planes.iter().any(|plane| plane.id == id);
    let approvals: Vec<_> = tx.approvals(None).await?.into_iter().filter(|approval| visible(approval.plane_id)).collect();
    let mut waiting = Vec::new();
    for plane in planes.iter().filter(|plane| plane.state == LifecycleState::Archived && visible(plane.id)) {
        for open in tx.offboardings_of(plane.id).await?.into_iter().filter(|offboarding| offboarding.closed_at.is_none()) {
            let decided = |status| matches!(status, ApprovalStatus::Granted | ApprovalStatus::Consumed | ApprovalStatus::Denied);
            let standing = approvals.iter().any(|approval| {
                approval.offboarding_id == open.id
                    && decided(approval.status)
                    && Some(&approval.plan_digest) == open.plan_digest.as_ref()
            });
            if !standing {
                waiting.push(json!({
                    "plane_id": plane.id, "offboarding_id": open.id, "plan_digest": open.plan_digest, "plan": open.plan,
                    "requested_by": open.terms.requested_by, "retention_until": open.retention_until,
                }));
            }
        }
    }
    Ok(json!({"approvals": approvals, "waiting": waiting}))
}
