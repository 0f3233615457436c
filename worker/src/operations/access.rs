//! Tokens, the query endpoint's question (may this token query this plane now?), and what uses a plane.

use chrono::{DateTime, Utc};
use lethe_ledger::{Chain, Entry, EventType, TenantStatus, Tx, UsageKind};
use lethe_stages::{Code, GraceAccess, LifecycleState, Refusal};
use serde::Deserialize;
use serde_json::{Value as Json, json};
use uuid::Uuid;

use super::{
    App, Call, Outcome, Stop, arguments,
    lookup::{self, Found},
    planes::PlaneRef,
    said,
};
use crate::config::Span;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Issue {
    plane: String,
    #[serde(default)]
    expires_in: Option<String>,
}

pub(super) async fn issue_token(_app: &App, tx: &mut Tx, call: &Call, _prepared: Json) -> Outcome {
    let args: Issue = arguments(call)?;
    let found = lookup::plane(tx, call, &args.plane).await?;
    in_service(&found)?;
    let expires_in = args.expires_in.map(|text| text.parse::<Span>()).transpose();
    let expires_in =
        expires_in.map_err(|error| found.refuse(Refusal::new(Code::InvalidArgument, format!("--expires-in: {error}"))))?;
    let expires_at = expires_in.map(|span| tx.at() + span.0);
    let token = tx.issue_token(found.plane.id, expires_at).await?;
    let mut entry =
        Entry::new(Chain::Plane(found.plane.id), Some(found.tenant.id), EventType::TokenIssued, &call.actor, &call.operation);
    entry.evidence = json!({"token_id": token.id, "expires_at": expires_at});
    tx.append(entry).await?;
    Ok(json!({"token_id": token.id, "plane_id": found.plane.id, "token": token.secret, "expires_at": expires_at}))
}

pub(super) async fn list_tokens(_app: &App, tx: &mut Tx, call: &Call, _prepared: Json) -> Outcome {
    let PlaneRef { plane } = arguments(call)?;
    let found = lookup::plane(tx, call, &plane).await?;
    Ok(json!({"plane_id": found.plane.id, "tokens": tx.tokens(found.plane.id).await?}))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TokenRef {
    token_id: Uuid,
}

pub(super) async fn revoke_token(_app: &App, tx: &mut Tx, call: &Call, _prepared: Json) -> Outcome {
    let TokenRef { token_id } = arguments(call)?;
    let unknown =
        || Refusal::new(Code::TokenUnknown, format!("there is no token {token_id}: `lethe token list PLANE` names them"));
    let token = tx.token(token_id).await?.ok_or_else(unknown)?;
    let found = lookup::plane(tx, call, &token.plane_id.to_string()).await?;
    // Asked again, now that nobody else changes it.
    let token = tx.token(token_id).await?.ok_or_else(unknown)?;
    if token.status == "revoked" {
        return Err(found.refuse(Refusal::new(Code::TokenNotActive, format!("token {token_id} is revoked already"))));
    }
    tx.revoke_token(token_id).await?;
    let mut entry =
        Entry::new(Chain::Plane(found.plane.id), Some(found.tenant.id), EventType::TokenRevoked, &call.actor, &call.operation);
    entry.evidence = json!({"token_id": token_id});
    tx.append(entry).await?;
    Ok(json!(tx.token(token_id).await?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Check {
    plane: String,
    token: String,
}

/// May this token query this plane now? The answer that a query endpoint enforces.
pub(super) async fn check(_app: &App, tx: &mut Tx, call: &Call, _prepared: Json) -> Outcome {
    let args: Check = arguments(call)?;
    let found = lookup::plane(tx, call, &args.plane).await?;
    // A token of another plane is no token here.
    let token = tx.token_by_secret(&args.token).await?.filter(|token| token.plane_id == found.plane.id);
    let Some(token) = token else {
        return Err(found.refuse(Refusal::new(Code::TokenUnknown, "this token does not open this plane")));
    };
    let expired = token.expires_at.is_some_and(|at| at <= tx.at());
    if token.status != "active" || expired {
        let status = if expired { "expired" } else { token.status.as_str() };
        return Err(found.refuse(
            Refusal::new(Code::TokenNotActive, format!("token {} is {status}", token.id)).with(json!({"status": status})),
        ));
    }
    queryable(tx, &found, Code::QueryRefused).await?;
    Ok(json!({"allowed": true, "plane_id": found.plane.id, "token_id": token.id, "state": found.plane.state}))
}

/// Whether the plane answers queries: in service, or in grace as its offboarding says.
async fn queryable(tx: &mut Tx, found: &Found, code: Code) -> Result<Option<DateTime<Utc>>, Stop> {
    let plane = &found.plane;
    let refuse = |message: String| Err(found.refuse(Refusal::new(code, message).with(json!({"state": plane.state}))));
    if !matches!(found.tenant.status, TenantStatus::Active | TenantStatus::Suspended) {
        return refuse(format!("tenant {} is {}", found.tenant.name, found.tenant.status));
    }
    if plane.state == LifecycleState::Active && !plane.draining {
        return Ok(None);
    }
    let leaving = matches!(plane.state, LifecycleState::Active | LifecycleState::PendingDeactivate);
    let open = tx.offboardings_of(plane.id).await?.into_iter().find(|offboarding| offboarding.closed_at.is_none());
    match open {
        // The end of grace ends it, whether a worker has been here since or not.
        Some(open) if leaving && open.grace_until.is_some_and(|until| until <= tx.at()) => {
            refuse("the plane's grace period is over, and it answers no queries".into())
        }
        Some(open) if leaving && open.terms.grace_access != GraceAccess::None => Ok(open.grace_until),
        _ => refuse(format!("the plane is {} and answers no queries", plane.state)),
    }
}

fn in_service(found: &Found) -> Result<(), Stop> {
    if found.tenant.status != TenantStatus::Active {
        let message = format!("tenant {} is {}", found.tenant.name, found.tenant.status);
        return Err(found.refuse(Refusal::new(Code::TenantNotActive, message)));
    }
    if found.plane.state != LifecycleState::Active || found.plane.draining {
        let message = format!("the plane is {}{}", found.plane.state, if found.plane.draining { " and leaving" } else { "" });
        return Err(found.refuse(Refusal::new(Code::PlaneNotActive, message)));
    }
    Ok(())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Open {
    plane: String,
    kind: UsageKind,
    holder: String,
    ttl: String,
}

pub(super) async fn open_usage(app: &App, tx: &mut Tx, call: &Call, _prepared: Json) -> Outcome {
    let args: Open = arguments(call)?;
    said("--holder", &args.holder)?;
    let found = lookup::plane(tx, call, &args.plane).await?;
    let ttl: Span =
        args.ttl.parse().map_err(|error: String| found.refuse(Refusal::new(Code::InvalidArgument, format!("--ttl: {error}"))))?;
    let max = app.config.usage.ttl_max;
    if ttl > max || ttl.0 <= chrono::TimeDelta::zero() {
        return Err(
            found.refuse(Refusal::new(Code::InvalidArgument, format!("--ttl {ttl} is not between 1s and {max} (usage.ttl_max)")))
        );
    }
    let grace_until = match args.kind {
        UsageKind::Run => in_service(&found).map(|()| None)?,
        UsageKind::Query => queryable(tx, &found, Code::UsageRefused).await?,
    };
    // No use outlives the grace period in which it was let in.
    let expires_at = grace_until.map_or(tx.at() + ttl.0, |until| until.min(tx.at() + ttl.0));
    let opened = tx.open_usage(found.plane.id, args.kind, &args.holder, expires_at).await?;
    tx.wake(found.plane.id, &[Code::UsageUnknown]).await?;
    Ok(json!(opened))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UsageRef {
    usage_id: Uuid,
}

pub(super) async fn close_usage(_app: &App, tx: &mut Tx, call: &Call, _prepared: Json) -> Outcome {
    let UsageRef { usage_id } = arguments(call)?;
    let unknown =
        || Refusal::new(Code::UsageIdUnknown, format!("there is no open usage {usage_id}: `lethe usage list PLANE` names them"));
    let usage = tx.usage(usage_id).await?.filter(|usage| usage.closed_at.is_none()).ok_or_else(unknown)?;
    let found = lookup::plane(tx, call, &usage.plane_id.to_string()).await?;
    // Asked again, now that nobody else closes it.
    tx.usage(usage_id).await?.filter(|usage| usage.closed_at.is_none()).ok_or_else(unknown)?;
    tx.close_usage(usage_id).await?;
    let left = tx.usages(found.plane.id).await?;
    if left.iter().all(|usage| usage.kind != UsageKind::Run) {
        tx.wake(found.plane.id, &[Code::ActiveReferences]).await?;
    }
    if left.is_empty() {
        tx.wake(found.plane.id, &[Code::ActiveUsage]).await?;
    }
    Ok(json!(tx.usage(usage_id).await?))
}

pub(super) async fn list_usage(_app: &App, tx: &mut Tx, call: &Call, _prepared: Json) -> Outcome {
    let PlaneRef { plane } = arguments(call)?;
    let found = lookup::plane(tx, call, &plane).await?;
    Ok(json!({"plane_id": found.plane.id, "usage": tx.usages(found.plane.id).await?}))
}
