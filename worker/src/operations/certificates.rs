//! Certificates of erasure, listed and shown with their proof.
//!
//! The rule: they are issued by who has the log's key, never by who asks for one. What is shown is disclosed only as far as it still exists.
//! If we die in it, nothing was written.

use lethe_ledger::Tx;
use lethe_stages::{Code, Refusal};
use serde::Deserialize;
use serde_json::{Value as Json, json};

use super::{App, Call, Outcome, arguments, lookup, planes::PlaneRef};
use crate::certificate;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    #[serde(default)]
    tenant: Option<String>,
}

pub(super) async fn list(_app: &App, tx: &mut Tx, call: &Call, _prepared: Json) -> Outcome {
    let List { tenant } = arguments(call)?;
    let tenant_id = match tenant.as_ref().or(call.tenant.as_ref()) {
        Some(name) => Some(lookup::tenant(tx, call, name).await?.id),
        None => None,
    };
    let mut shown = Vec::new();
    for row in tx.certificates(tenant_id).await? {
        let mut line = json!(row);
        let statement = row.statement.as_deref().and_then(|text| serde_json::from_str::<Json>(text).ok()).unwrap_or_default();
        line["weakest"] = statement["predicate"]["weakest"]["method"].clone();
        shown.push(line);
    }
    Ok(json!({"certificates": shown}))
}

/// The document, and the same as a page.
pub(super) async fn show(_app: &App, tx: &mut Tx, call: &Call, _prepared: Json) -> Outcome {
    let PlaneRef { plane } = arguments(call)?;
    let found = lookup::plane(tx, call, &plane).await?;
    let row = tx.certificate_of(found.plane.id).await?;
    let missing = |why: &str| Err(found.refuse(Refusal::new(Code::CertificateMissing, why)));
    let Some(row) = row else {
        return missing(&format!("the plane is {}: what was not purged has no certificate", found.plane.state));
    };
    let Some(document) = certificate::document(tx, &row).await? else {
        return missing(
            "the certificate is due and not issued yet: whoever has the log's key issues it (`lethe serve`, `lethe work`)",
        );
    };
    let text = row.statement.unwrap_or_default();
    let statement: Json = serde_json::from_str(&text).unwrap_or_default();
    let keys: Vec<String> = tx.log_keys().await?.into_iter().map(|key| key.vkey).collect();
    Ok(json!({
        "plane_id": row.plane_id, "offboarding_id": row.offboarding_id, "issued_at": row.issued_at,
        "sealed": document.log.is_some(), "predicate": statement["predicate"], "log_keys": keys,
        "html": certificate::html::page(&document, &statement), "certificate": document,
    }))
}
