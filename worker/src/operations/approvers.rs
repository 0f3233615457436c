//! Approvers: registering and revoking the keys that may sign.
//!
//! The rule: a key is one actor's for ever. Revoking it takes back, in the same transaction, every unused approval that it signed.

use lethe_ledger::{Actor, ActorType, ApprovalStatus, Approver, Chain, Entry, EventType, NewApprover, Tx};
use lethe_stages::{Code, Refusal};
use serde::Deserialize;
use serde_json::{Value as Json, json};

use super::{App, Call, Outcome, Stop, arguments, operator, said};
use crate::{policy::Role, signature::Key};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Add {
    actor: String,
    public_key: String,
    #[serde(default)]
    roles: Vec<Role>,
    reason: String,
}

fn invalid(message: impl Into<String>) -> Stop {
    Refusal::new(Code::InvalidArgument, message).into()
}

pub(super) async fn add(_app: &App, tx: &mut Tx, call: &Call, _prepared: Json) -> Outcome {
    operator(call)?;
    let args: Add = arguments(call)?;
    said("--reason", &args.reason)?;
    let actor: Actor = args.actor.parse().map_err(|error| invalid(format!("approver: {error}")))?;
    if !matches!(actor.kind, ActorType::User | ActorType::Founder) {
        return Err(invalid(format!("{actor} is no person; people approve: user:NAME or founder:NAME")));
    }
    let key: Key = args.public_key.parse().map_err(|error| invalid(format!("--key: {error}")))?;
    tx.lock_registry().await?;
    if let Some(known) = tx.approver(&key.fingerprint).await? {
        let was = if known.revoked_at.is_some() { ", and was revoked" } else { "" };
        let message = format!("key {} is {}'s{was}: a key is one person's for ever", key.fingerprint, known.actor);
        return Err(Refusal::new(Code::NameTaken, message).into());
    }
    let roles = if args.roles.is_empty() { vec![Role::Approver] } else { args.roles };
    let new = NewApprover {
        actor: actor.to_string(),
        public_key: key.openssh,
        fingerprint: key.fingerprint.clone(),
        roles: roles.iter().map(ToString::to_string).collect(),
        reason: args.reason.clone(),
        added_by: call.actor.to_string(),
    };
    let id = tx.insert_approver(&new).await?;
    let mut entry = Entry::new(Chain::System, None, EventType::ApproverAdded, &call.actor, &call.operation);
    entry.reason = Some(args.reason);
    entry.evidence = json!({"approver_id": id, "fingerprint": key.fingerprint, "roles": roles});
    tx.append(entry).await?;
    Ok(json!(tx.approver(&key.fingerprint).await?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Revoke {
    fingerprint: String,
    reason: String,
}

pub(super) async fn revoke(_app: &App, tx: &mut Tx, call: &Call, _prepared: Json) -> Outcome {
    operator(call)?;
    let args: Revoke = arguments(call)?;
    said("--reason", &args.reason)?;
    tx.lock_registry().await?;
    let valid = |approver: &Approver| approver.revoked_at.is_none();
    let approver = tx.approver(&args.fingerprint).await?.filter(valid).ok_or_else(|| {
        let message = format!("no valid key {}: `lethe approver list` names them", args.fingerprint);
        Stop::from(Refusal::new(Code::ApproverUnknown, message))
    })?;
    // Whoever claims a purge holds its plane: either the approval was used before, or it is taken back here.
    let planes: Vec<_> = tx.approvals_signed_by(&approver.fingerprint).await?.iter().map(|approval| approval.plane_id).collect();
    tx.lock_planes(&planes).await?;
    let mut withdrawn = Vec::new();
    for approval in tx.approvals_signed_by(&approver.fingerprint).await? {
        let plane = tx.plane(approval.plane_id).await?.ok_or(lethe_ledger::Fault::IncompleteEntry(vec!["plane"]))?;
        tx.end_approval(approval.id, ApprovalStatus::Withdrawn).await?;
        let chain = Chain::Plane(plane.id);
        let mut entry = Entry::new(chain, Some(plane.tenant_id), EventType::ApprovalWithdrawn, &call.actor, &call.operation);
        entry.offboarding_id = Some(approval.offboarding_id);
        entry.reason = Some(args.reason.clone());
        entry.evidence =
            json!({"approval_id": approval.id, "plan_digest": approval.plan_digest, "key_revoked": approver.fingerprint});
        tx.append(entry).await?;
        withdrawn.push(json!({"approval_id": approval.id, "plane_id": plane.id}));
    }
    tx.revoke_approver(approver.id, &args.reason, &call.actor.to_string()).await?;
    let mut entry = Entry::new(Chain::System, None, EventType::ApproverRevoked, &call.actor, &call.operation);
    entry.reason = Some(args.reason);
    entry.evidence = json!({"approver_id": approver.id, "fingerprint": approver.fingerprint, "withdrawn": withdrawn.len()});
    tx.append(entry).await?;
    let mut answer = json!(tx.approver(&approver.fingerprint).await?);
    answer["withdrawn"] = json!(withdrawn);
    Ok(answer)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    #[serde(default)]
    all: bool,
}

pub(super) async fn list(_app: &App, tx: &mut Tx, call: &Call, _prepared: Json) -> Outcome {
    operator(call)?;
    let args: List = arguments(call)?;
    Ok(json!({"approvers": tx.approvers(args.all).await?}))
}
