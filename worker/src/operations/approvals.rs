//! Approvals: others than the requester release exactly one destruction plan, once, each with a signature where policy wants it.
//!
//! The rule: a decision is on the plan as it stands under lock, to the byte. A denial is final for its plan. How many approvals it takes,
//! and whose, the gate says. If we die in it, nothing was decided.

use std::collections::HashMap;

use chrono::DateTime;
use lethe_ledger::{
    Approval, ApprovalStatus, Assurance, AwaitingPlace, Chain, Entry, EventType, Listed, NewApproval, Offboarding, Tx,
};
use lethe_stages::{Code, LifecycleState, Refusal, canonical};
use serde::Deserialize;
use serde_json::{Value as Json, json};

use super::{
    App, Call, Outcome, Stop, arguments,
    lookup::{self, Found},
    said,
};
use crate::{policy::Approvals, signature};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Decide {
    plane: String,
    reason: String,
    /// The plan that is meant; another one that stands by now is refused.
    #[serde(default)]
    plan_digest: Option<String>,
    /// SSHSIG over the plan's text, armoured.
    #[serde(default)]
    signature: Option<String>,
}

/// The refusal of whoever decides on what they requested themselves.
pub(super) fn by_self(by: &str) -> Refusal {
    Refusal::new(Code::ApprovalBySelf, format!("{by} requested this offboarding; somebody else must decide"))
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

/// Whose key signed the plan, and the signature; refused unless it is a valid key of the caller's.
async fn signed(tx: &mut Tx, call: &Call, open: &Offboarding, signature: &str) -> Result<(String, String), Refusal> {
    let invalid = |why: String| Refusal::new(Code::SignatureInvalid, format!("--signature: {why}"));
    let fingerprint = signature::signer(signature).map_err(invalid)?;
    let by = call.actor.to_string();
    let known = tx.approver(&fingerprint).await.map_err(|_| invalid("the registered keys cannot be read".into()))?;
    let approver = known.filter(|approver| approver.actor == by).ok_or_else(|| {
        let message =
            format!("key {fingerprint} is not registered for {by}: `lethe approver add {by} --key FILE.pub --reason …`");
        Refusal::new(Code::ApproverUnknown, message)
    })?;
    if let Some(at) = approver.revoked_at {
        return Err(Refusal::new(Code::ApproverUnknown, format!("key {fingerprint} was revoked at {}", at.to_rfc3339())));
    }
    let plan = open.plan.as_ref().ok_or_else(|| invalid("there is no plan".into()))?;
    signature::verify(&approver.public_key, &plan.text(), signature).map_err(invalid)?;
    Ok((fingerprint, signature.trim().to_owned() + "\n"))
}

async fn decide(app: &App, tx: &mut Tx, call: &Call, status: ApprovalStatus) -> Outcome {
    let args: Decide = arguments(call)?;
    let found = lookup::plane(tx, call, &args.plane).await?;
    said("--reason", &args.reason)?;
    let (open, plan_digest) = decidable(tx, &found).await?;
    if let Some(meant) = args.plan_digest.as_ref().filter(|meant| **meant != plan_digest) {
        let message = format!("the plan is now {plan_digest}, not {meant}: `lethe offboarding show {} --plan`", found.plane.id);
        return Err(found.refuse(Refusal::new(Code::PlanChanged, message).with(json!({"plan_digest": plan_digest}))));
    }
    let by = call.actor.to_string();
    if by == open.terms.requested_by {
        return Err(found.refuse(by_self(&by)));
    }
    let signed = match &args.signature {
        Some(signature) => Some(signed(tx, call, &open, signature).await.map_err(|refusal| found.refuse(refusal))?),
        None => None,
    };
    // Without a signature, an actor says who it is, and nothing more is known.
    let assurance = if signed.is_some() { Assurance::Signed } else { Assurance::Asserted };
    let wanted = app.config.approval.assurance_min;
    if status == ApprovalStatus::Granted && assurance < wanted && !app.ledger.insecure_demo() {
        let message = format!(
            "{by} is only {assurance}, approval.assurance_min is {wanted}: register a key with `lethe approver add`, and sign with \
             `lethe approval grant {} --reason … --key FILE`",
            found.plane.id
        );
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
            // One that a purge has begun under releases the plan it was given for, and no later one.
            ApprovalStatus::Granted | ApprovalStatus::Consumed
                if standing.approved_by == by
                    && (standing.status == ApprovalStatus::Granted || standing.plan_digest == plan_digest) =>
            {
                let message = format!("{by} approved it already: `lethe approval withdraw` takes that back");
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
    if let Some(Ok(_)) = released(app, tx, &found).await? {
        let message = "the plan is approved by everybody it needs: `lethe approval withdraw` takes that back";
        return Err(found.refuse(Refusal::new(Code::ApprovalExists, message)));
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
        signed: signed.clone().map(|(fingerprint, signature)| (signature, fingerprint)),
    };
    let id = tx.insert_approval(&new).await?;
    let event = if status == ApprovalStatus::Granted { EventType::Approved } else { EventType::Denied };
    let mut entry = entry(&found, &open, event, call);
    entry.reason = Some(args.reason);
    entry.evidence =
        json!({"approval_id": id, "plan_digest": plan_digest, "identity_assurance": assurance, "expires_at": expires_at});
    if let Some((fingerprint, signature)) = &signed {
        entry.evidence["key_fingerprint"] = json!(fingerprint);
        entry.evidence["signature_sha256"] = json!(canonical::sha256(signature.as_bytes()));
    }
    tx.append(entry).await?;
    tx.wake(found.plane.id, &[Code::ApprovalRequired, Code::ApprovalsTooFew, Code::ApprovalExpired, Code::PlanChanged]).await?;
    let missing = match status {
        ApprovalStatus::Granted => released(app, tx, &found).await?.and_then(Result::err),
        _ => None,
    };
    Ok(json!({
        "approval_id": id, "plane_id": found.plane.id, "offboarding_id": open.id, "status": status, "plan_digest": plan_digest,
        "identity_assurance": assurance, "key_fingerprint": signed.map(|(fingerprint, _)| fingerprint), "expires_at": expires_at,
        "still_missing": missing, "plan": open.plan,
    }))
}

/// Whether the approvals that stand release the plan, or why not yet; `None` where nothing waits for them.
async fn released(app: &App, tx: &mut Tx, found: &Found) -> Result<Option<Result<Approvals, Refusal>>, Stop> {
    Ok(tx.open_case(found.plane.id).await?.map(|case| app.manager.gate.approved(&case)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Withdraw {
    plane: String,
    reason: String,
    /// Whose approval; by default the caller's own, or the only one.
    #[serde(default)]
    by: Option<String>,
}

pub(super) async fn withdraw(_app: &App, tx: &mut Tx, call: &Call, _prepared: Json) -> Outcome {
    let args: Withdraw = arguments(call)?;
    let found = lookup::plane(tx, call, &args.plane).await?;
    said("--reason", &args.reason)?;
    let open = tx.offboardings_of(found.plane.id).await?.into_iter().find(|offboarding| offboarding.closed_at.is_none());
    let standing: Vec<_> = match &open {
        Some(open) => {
            let granted = |approval: &Approval| approval.status == ApprovalStatus::Granted;
            tx.approvals(Some(open.id)).await?.into_iter().filter(granted).collect()
        }
        None => Vec::new(),
    };
    let of = |who: &str| standing.iter().find(|approval| approval.approved_by == who);
    let caller = call.actor.to_string();
    let chosen = match &args.by {
        Some(by) => of(by),
        None => of(&caller).or(if let [only] = standing.as_slice() { Some(only) } else { None }),
    };
    let (Some(open), Some(chosen)) = (&open, chosen) else {
        let names: Vec<_> = standing.iter().map(|approval| approval.approved_by.as_str()).collect();
        let message = match names.as_slice() {
            [] => "no unused approval of this plane stands: what a purge has begun to use cannot be taken back".to_owned(),
            _ => format!("name whose approval is taken back, --by {}", names.join(" or --by ")),
        };
        return Err(found.refuse(Refusal::new(Code::ApprovalUnknown, message)));
    };
    tx.end_approval(chosen.id, ApprovalStatus::Withdrawn).await?;
    let mut entry = entry(&found, open, EventType::ApprovalWithdrawn, call);
    entry.reason = Some(args.reason);
    entry.evidence = json!({"approval_id": chosen.id, "plan_digest": chosen.plan_digest});
    tx.append(entry).await?;
    Ok(
        json!({"approval_id": chosen.id, "plane_id": found.plane.id, "approved_by": chosen.approved_by, "status": ApprovalStatus::Withdrawn}),
    )
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
    /// Only what waits for the caller.
    #[serde(default)]
    mine: bool,
    /// Most plans, and most decisions, of one answer.
    #[serde(default)]
    limit: Option<i64>,
    /// Where an earlier answer ended: its `next`.
    #[serde(default)]
    after: Option<String>,
}

const LIMIT: i64 = 100;
const LIMIT_MAX: i64 = 1000;
/// Plans that one answer looks at; many of them may be approved already.
const LOOKED_MAX: usize = 1000;

fn place(after: Option<&String>) -> Result<AwaitingPlace, Refusal> {
    let Some(text) = after else { return Ok(AwaitingPlace::BEGINNING) };
    let read = || {
        let (us, id) = text.split_once('-')?;
        Some(AwaitingPlace(DateTime::from_timestamp_micros(us.parse().ok()?)?, id.parse().ok()?))
    };
    read().ok_or_else(|| Refusal::new(Code::InvalidArgument, format!("--after: `{text}` is not the `next` of an answer")))
}

/// Decisions so far, planes whose plan waits for one, and reviews that are owed. The plans whose retention ends first stand first.
pub(super) async fn list(app: &App, tx: &mut Tx, call: &Call, _prepared: Json) -> Outcome {
    let args: List = arguments(call)?;
    let plane = match &args.plane {
        Some(plane) => Some(lookup::plane(tx, call, plane).await?.plane.id),
        None => None,
    };
    let tenant = match &call.tenant {
        Some(name) => Some(lookup::tenant(tx, call, name).await?.id),
        None => None,
    };
    let limit = args.limit.unwrap_or(LIMIT);
    if !(1..=LIMIT_MAX).contains(&limit) {
        return Err(Refusal::new(Code::InvalidArgument, format!("--limit: {limit} is not between 1 and {LIMIT_MAX}")).into());
    }
    let me = call.actor.to_string();
    let which = Listed { tenant, plane, by: args.mine.then_some(me.as_str()), limit };
    let mut approvals = tx.latest_approvals(&Listed { limit: limit + 1, ..which }).await?;
    let more = approvals.len() as i64 > limit;
    approvals.drain(..usize::from(more));
    let (waiting, next) = waiting(app, tx, &which, place(args.after.as_ref())?).await?;
    let mut reviews = Vec::new();
    for broken in tx.open_reviews().await? {
        let hidden = plane.is_some_and(|plane| plane != broken.plane_id) || args.mine && broken.broken_by == me;
        let others = tenant.is_some() && tx.plane(broken.plane_id).await?.map(|plane| plane.tenant_id) != tenant;
        if !hidden && !others {
            reviews.push(broken);
        }
    }
    let mut shown = json!({"approvals": approvals, "waiting": waiting, "reviews": reviews});
    if more {
        shown["earlier_approvals"] = json!("left out: a larger --limit, or one plane, shows them");
    }
    if let Some(AwaitingPlace(until, id)) = next {
        shown["next"] = json!(format!("{}-{id}", until.timestamp_micros()));
    }
    Ok(shown)
}

/// Plans that wait for a decision, from a place in their list on, and where to go on; `None`: there are no more.
async fn waiting(
    app: &App,
    tx: &mut Tx,
    which: &Listed<'_>,
    mut place: AwaitingPlace,
) -> Result<(Vec<Json>, Option<AwaitingPlace>), Stop> {
    let (mut waiting, mut looked) = (Vec::new(), 0);
    while (waiting.len() as i64) < which.limit && looked < LOOKED_MAX {
        let page = tx.awaiting(&Listed { limit: which.limit - waiting.len() as i64, ..*which }, place).await?;
        let Some((_, last)) = page.last() else { return Ok((waiting, None)) };
        (place, looked) = (*last, looked + page.len());
        let runs: Vec<_> = page.iter().map(|(run, _)| *run).collect();
        let cases: HashMap<_, _> = tx.cases(&runs).await?.into_iter().map(|case| (case.run.id, case)).collect();
        for case in runs.iter().filter_map(|run| cases.get(run)) {
            let open = &case.offboarding;
            let Some(plan) = &open.plan else { continue };
            let Some(missing) = app.manager.gate.approved(case).err() else { continue };
            waiting.push(json!({
                "plane_id": case.plane.id, "offboarding_id": open.id, "plan_digest": open.plan_digest, "plan": plan,
                "text": which.by.map(|_| plan.text()),
                "requested_by": open.terms.requested_by, "retention_until": open.retention_until,
                "approved_by": case.given.iter().map(|given| given.by.clone()).collect::<Vec<_>>(), "missing": missing.message,
            }));
        }
    }
    Ok((waiting, Some(place)))
}
