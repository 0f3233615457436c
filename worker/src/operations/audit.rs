//! The audit trail, to read, to verify and to take away.

use lethe_ledger::{EventType, LedgerFault, TrailFilter, Tx};
use lethe_verify::note::{Checkpoint, Note};
use serde::Deserialize;
use serde_json::{Value as Json, json};

use super::{App, Call, Outcome, arguments, lookup};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    #[serde(default)]
    plane: Option<String>,
    #[serde(default)]
    tenant: Option<String>,
    #[serde(default)]
    event_type: Option<EventType>,
    #[serde(default)]
    limit: Option<i64>,
}

pub(super) async fn list(_app: &App, tx: &mut Tx, call: &Call, _prepared: Json) -> Outcome {
    let args: List = arguments(call)?;
    let chain = match &args.plane {
        Some(plane) => Some(format!("plane:{}", lookup::plane(tx, call, plane).await?.plane.id)),
        None => None,
    };
    let tenant_id = match args.tenant.as_ref().or(call.tenant.as_ref()) {
        Some(name) => Some(lookup::tenant(tx, call, name).await?.id),
        None => None,
    };
    let filter = TrailFilter { chain, tenant_id, event_type: args.event_type, limit: args.limit };
    Ok(json!({"entries": tx.trail(&filter).await?}))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Verify {
    #[serde(default)]
    plane: Option<String>,
    /// A signed checkpoint that somebody kept.
    #[serde(default)]
    checkpoint: Option<String>,
    /// Whether what is published is left out.
    #[serde(default)]
    unpublished: bool,
}

/// Compares what is published with the ledger, before the transaction.
pub(super) async fn compare_published(app: &App, call: &Call) -> Outcome {
    let args: Verify = arguments(call)?;
    if args.plane.is_some() || args.unpublished || call.tenant.is_some() {
        return Ok(Json::Null);
    }
    Ok(json!(app.manager.compare_published().await?))
}

pub(super) async fn verify(_app: &App, tx: &mut Tx, call: &Call, prepared: Json) -> Outcome {
    let args: Verify = arguments(call)?;
    let chain = match &args.plane {
        Some(plane) => Some(format!("plane:{}", lookup::plane(tx, call, plane).await?.plane.id)),
        None => None,
    };
    let broken = |place: &str, fault: &str| {
        let message = format!("log, {place}: {fault}");
        Ok(json!({"audit": "broken", "fault": {"place": place, "fault": fault}, "message": message}))
    };
    let verified = match &chain {
        Some(chain) => tx.verify_trail(Some(chain)).await?.map(|trail| json!(trail)).map_err(LedgerFault::Trail),
        None => tx.verify_all().await?.map(|(trail, log)| {
            let mut verified = json!(trail);
            verified["log"] = json!(log);
            verified
        }),
    };
    let mut answer = match verified {
        Ok(verified) => verified,
        Err(LedgerFault::Log(fault)) => return broken(&fault.place, &fault.fault),
        Err(LedgerFault::Trail(fault)) => {
            return Ok(json!({"audit": "broken", "fault": fault, "message": fault.to_string()}));
        }
    };
    if let Some(note) = &args.checkpoint {
        let size = Note::read(note).and_then(|note| Checkpoint::read(&note.text)).map_or(0, |kept| kept.size);
        let keys = tx.log_keys_in_force(size).await?;
        let (kept, key) = match Checkpoint::verified(note, &keys) {
            Ok(kept) => kept,
            Err(error) => return broken("the checkpoint given", &error.to_string()),
        };
        let size = tx.log().await?.size;
        if kept.size > size {
            let fault = format!("it has {} leaves, this log has {size}: the ledger was rolled back, or replaced", kept.size);
            return broken("the checkpoint given", &fault);
        }
        if tx.root_at(kept.size).await? != kept.root {
            return broken(
                "the checkpoint given",
                &format!("this log's first {} leaves are others: the log was forked", kept.size),
            );
        }
        answer["checkpoint"] = json!({"size": kept.size, "key": key.to_string(), "log": "begins with its tree"});
    }
    if !prepared.is_null() {
        if let (Some(place), Some(fault)) = (prepared["place"].as_str(), prepared["fault"].as_str()) {
            return broken(place, fault);
        }
        answer["published"] = prepared;
    }
    if let Some(why) = tx.log().await?.stopped_why.filter(|_| chain.is_none()) {
        answer["log"]["stopped"] = json!(why);
    }
    answer["audit"] = json!("verified");
    Ok(answer)
}

/// Every entry with its hash, for somebody who verifies elsewhere. Personal values are left out unless asked for.
pub(super) async fn export(_app: &App, tx: &mut Tx, call: &Call, _prepared: Json) -> Outcome {
    let args: List = arguments(call)?;
    let chain = match &args.plane {
        Some(plane) => Some(format!("plane:{}", lookup::plane(tx, call, plane).await?.plane.id)),
        None => None,
    };
    let tenant_id = match args.tenant.as_ref().or(call.tenant.as_ref()) {
        Some(name) => Some(lookup::tenant(tx, call, name).await?.id),
        None => None,
    };
    let filter = TrailFilter { chain, tenant_id, event_type: None, limit: None };
    let entries = tx.trail(&filter).await?;
    Ok(
        json!({"entries": entries.iter().map(|entry| json!({"hash": entry.hash, "previous": entry.previous, "body": entry.body})).collect::<Vec<_>>()}),
    )
}
