//! Break-glass: the rest of a grace period is skipped, and somebody else has to look at it afterwards.
//!
//! The rule: only the wait is skipped. Usage, holds, protection and the approval of the purge are asked as ever. The review stays open,
//! in every approver's list, until somebody else has closed it.

use chrono::{DateTime, Utc};
use lethe_ledger::{Chain, Entry, EventType, NewNotice, NoticeKind, Offboarding, OffboardingStatus, Tx};
use lethe_stages::{Code, LifecycleState, Refusal, Step};
use serde::Deserialize;
use serde_json::{Value as Json, json};
use uuid::Uuid;

use super::{App, Call, Outcome, arguments, lookup, said};
use crate::manager::of_offboarding;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Reasoned {
    plane: String,
    reason: String,
}

pub(super) async fn break_glass(app: &App, tx: &mut Tx, call: &Call, _prepared: Json) -> Outcome {
    let args: Reasoned = arguments(call)?;
    let found = lookup::plane(tx, call, &args.plane).await?;
    said("--reason", &args.reason)?;
    let open = tx.offboardings_of(found.plane.id).await?.into_iter().find(|one| one.status == OffboardingStatus::Open);
    let Some(open) = open.filter(|_| found.plane.state == LifecycleState::PendingDeactivate) else {
        let message = format!("the plane is {}: only a grace period that runs can be cut short", found.plane.state);
        return Err(found.refuse(Refusal::new(Code::TransitionNotAllowed, message).with(json!({"state": found.plane.state}))));
    };
    if tx.broken_glass_of(found.plane.id).await?.iter().any(|broken| broken.offboarding_id == open.id) {
        return Err(found.refuse(Refusal::new(Code::AlreadyInState, "this grace period has been cut short already")));
    }
    let id = tx.break_glass(open.id, &args.reason, &call.actor.to_string()).await?;
    let mut entry =
        Entry::new(Chain::Plane(found.plane.id), Some(found.tenant.id), EventType::BreakGlass, &call.actor, &call.operation);
    entry.offboarding_id = Some(open.id);
    entry.gate = Some(app.manager.gate.decision("ALLOWED", None));
    entry.reason = Some(args.reason);
    entry.evidence = json!({"review_id": id, "grace_until": open.grace_until});
    tx.append(entry).await?;
    app.manager.announce(tx, broken(&open, id, tx.at())).await?;
    tx.wake(found.plane.id, &[Code::GracePeriodActive]).await?;
    tx.hasten(found.plane.id, Step::Verify).await?;
    let mut shown = super::status::of(app, tx, &found).await?;
    shown["review_id"] = json!(id);
    shown["review"] = json!("open until somebody else closes it: `lethe offboarding review PLANE --reason …`");
    Ok(shown)
}

/// That a grace period was cut short: every approver is to know.
fn broken(of: &Offboarding, review: Uuid, at: DateTime<Utc>) -> NewNotice {
    NewNotice {
        subject_id: Some(review),
        details: json!({"grace_until": of.grace_until}),
        ..of_offboarding(NoticeKind::BreakGlass, of, at)
    }
}

pub(super) async fn review(_app: &App, tx: &mut Tx, call: &Call, _prepared: Json) -> Outcome {
    let args: Reasoned = arguments(call)?;
    let found = lookup::plane(tx, call, &args.plane).await?;
    said("--reason", &args.reason)?;
    let broken = tx.broken_glass_of(found.plane.id).await?.into_iter().find(|broken| broken.reviewed_at.is_none());
    let Some(broken) = broken else {
        return Err(
            found.refuse(Refusal::new(Code::ReviewUnknown, "no grace period of the plane was cut short and awaits review"))
        );
    };
    if broken.broken_by == call.actor.to_string() {
        let message = format!("{} cut the grace period short; somebody else must review it", broken.broken_by);
        return Err(found.refuse(Refusal::new(Code::ReviewBySelf, message)));
    }
    tx.close_review(broken.id, &args.reason, &call.actor.to_string()).await?;
    let mut entry =
        Entry::new(Chain::Plane(found.plane.id), Some(found.tenant.id), EventType::Reviewed, &call.actor, &call.operation);
    entry.offboarding_id = Some(broken.offboarding_id);
    entry.reason = Some(args.reason);
    entry.evidence = json!({"review_id": broken.id});
    tx.append(entry).await?;
    Ok(json!({"reviews": tx.broken_glass_of(found.plane.id).await?}))
}
