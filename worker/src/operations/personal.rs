//! Personal values of the trail and of closed rows: what there is, under which keys, and erasing it.
//!
//! The rule: it is erased for everybody at once, for a reason, by a person, on record. What the transaction erased leaves the file after its
//! commit (see `dispatch`). If we die between the two, the same command again scrubs the file.

use lethe_ledger::{Chain, Tx};
use lethe_stages::{Code, Refusal};
use serde::Deserialize;
use serde_json::{Value as Json, json};

use super::{App, Call, Outcome, Refused, arguments, lookup, operator, said};
use crate::manager::personal::{due_at, erase as erase_values};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Erase {
    #[serde(default)]
    tenant: Option<String>,
    #[serde(default)]
    system: bool,
    reason: String,
}

pub(super) async fn erase(_app: &App, tx: &mut Tx, call: &Call, _prepared: Json) -> Outcome {
    operator(call)?;
    let args: Erase = arguments(call)?;
    said("--reason", &args.reason)?;
    let tenant = match (&args.tenant, args.system) {
        (Some(name), false) => Some(lookup::tenant(tx, call, name).await?),
        (None, true) => None,
        _ => return Err(Refusal::new(Code::InvalidArgument, "name whose values: --tenant T, or --system").into()),
    };
    let id = tenant.as_ref().map(|tenant| tenant.id);
    match erase_values(tx, id, &call.actor, &call.operation, Some(args.reason)).await? {
        Ok(erased) => {
            let mut answer = json!(erased);
            answer["personal"] = json!("erased");
            answer["tenant_id"] = json!(id);
            Ok(answer)
        }
        Err(refusal) => Err(Refused { refusal, chain: id.map_or(Chain::System, Chain::Tenant), tenant_id: id }.into()),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Show {
    #[serde(default)]
    tenant: Option<String>,
}

pub(super) async fn show(app: &App, tx: &mut Tx, call: &Call, _prepared: Json) -> Outcome {
    let args: Show = arguments(call)?;
    let of = match args.tenant.as_ref().or(call.tenant.as_ref()) {
        Some(name) => Some(Some(lookup::tenant(tx, call, name).await?.id)),
        None => None,
    };
    let keep = app.config.personal.keep.map(|keep| keep.0);
    let gone = if keep.is_some() { tx.gone_tenants().await? } else { Vec::new() };
    let keys: Vec<Json> = tx
        .personal_keys(of)
        .await?
        .into_iter()
        .map(|key| {
            let mut shown = json!(key);
            let due = due_at(&gone, key.tenant_id, key.created_at, keep).filter(|_| key.destroyed_at.is_none());
            shown["due_at"] = json!(due);
            shown
        })
        .collect();
    Ok(json!({"personal_keys": keys}))
}
