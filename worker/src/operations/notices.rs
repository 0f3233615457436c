//! Notices as people see them: what was and will be told, another try, and a test of the channels.
//!
//! The rule: a test goes the way of every notice and is kept nowhere but in the trail. If we die in it, some channels have it.

use lethe_ledger::{Chain, Entry, EventType, NoticeFilter, NoticeStatus, Tx};
use lethe_stages::{Code, Refusal};
use lethe_stores::channels::Message;
use serde::Deserialize;
use serde_json::{Value as Json, json};
use uuid::Uuid;

use super::{App, Call, Outcome, arguments, lookup, operator};
use crate::manager::NOTICE_SCHEMA;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    #[serde(default)]
    plane: Option<String>,
    #[serde(default)]
    status: Option<String>,
    #[serde(default)]
    limit: Option<i64>,
}

pub(super) async fn list(_app: &App, tx: &mut Tx, call: &Call, _prepared: Json) -> Outcome {
    let args: List = arguments(call)?;
    let invalid = |message: String| Refusal::new(Code::InvalidArgument, message);
    let status = args.status.as_deref().map(str::parse::<NoticeStatus>).transpose();
    let status = status.map_err(|error| invalid(format!("--status: {error}")))?;
    let limit = args.limit.unwrap_or(100);
    if !(1..=10_000).contains(&limit) {
        return Err(invalid(format!("--limit {limit} is not between 1 and 10000")).into());
    }
    let plane_id = match &args.plane {
        Some(plane) => Some(lookup::seen(tx, call, plane).await?.plane.id),
        None => None,
    };
    let tenant_id = match &call.tenant {
        Some(tenant) => Some(lookup::tenant(tx, call, tenant).await?.id),
        None => None,
    };
    let notices = tx.notices(&NoticeFilter { plane_id, tenant_id, status }, limit).await?;
    Ok(json!({"notices": notices}))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NoticeRef {
    notice_id: Uuid,
}

pub(super) async fn retry(_app: &App, tx: &mut Tx, call: &Call, _prepared: Json) -> Outcome {
    let NoticeRef { notice_id } = arguments(call)?;
    operator(call)?;
    let unknown = || {
        Refusal::new(
            Code::NoticeUnknown,
            format!("there is no notice {notice_id} that was given up: `lethe notice list --status failed`"),
        )
    };
    tx.notice(notice_id).await?.filter(|notice| notice.status == NoticeStatus::Failed).ok_or_else(unknown)?;
    tx.retry_notice(notice_id).await?;
    let mut entry = Entry::new(Chain::System, None, EventType::StageRetried, &call.actor, &call.operation);
    entry.evidence = json!({"notice_id": notice_id});
    tx.append(entry).await?;
    Ok(json!(tx.notice(notice_id).await?))
}

/// Tells every channel something that is no notice of anything. No transaction is open.
pub(super) async fn tell_all(app: &App, call: &Call) -> Outcome {
    operator(call)?;
    let mut random = [0; 16];
    app.ledger.entropy().fill(&mut random);
    let (id, at) = (uuid::Builder::from_random_bytes(random).into_uuid(), app.ledger.now());
    let message = "a test of Lethe's notices: whoever reads this would have been told";
    let body = json!({"schema_version": NOTICE_SCHEMA, "notice_id": id, "kind": "test", "message": message, "sent_at": at});
    let message = Message { id, kind: "test".into(), at, body: body.to_string() };
    let mut told = Vec::new();
    for channel in app.manager.channels.names() {
        let error = app.manager.channels.tell(channel, &message).await.err().map(|error| error.to_string());
        told.push(json!({"channel": channel, "told": error.is_none(), "error": error}));
    }
    Ok(json!({"notice_id": id, "channels": told}))
}

pub(super) async fn test(_app: &App, tx: &mut Tx, call: &Call, prepared: Json) -> Outcome {
    let channels = prepared["channels"].as_array().cloned().unwrap_or_default();
    if channels.is_empty() {
        let message = "no channel is configured: name one in [notices.file], [notices.webhook] or [notices.command]";
        return Err(Refusal::new(Code::NoChannel, message).into());
    }
    let told: Vec<_> = channels.iter().filter(|one| one["told"] == true).map(|one| one["channel"].clone()).collect();
    let mut entry = Entry::new(Chain::System, None, EventType::Noticed, &call.actor, &call.operation);
    entry.evidence = json!({"notice_id": prepared["notice_id"], "kind": "test", "channels": told});
    tx.append(entry).await?;
    Ok(prepared)
}
