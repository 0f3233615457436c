//! Policies: which decide, and what others would have decided.
//!
//! It only reads, so nothing happens if we die in it.

use std::path::PathBuf;

use lethe_ledger::{Fault, Tx};
use lethe_stages::{Code, Refusal};
use serde::Deserialize;
use serde_json::{Value as Json, json};

use super::{App, Call, Outcome, Stop, arguments, operator};
use crate::policy::{Ask, Policies, Preset, Resource, Source};

/// Recorded decisions that are tried where the caller does not say how many.
const TRIED: i64 = 10_000;

pub(super) async fn show(app: &App, _tx: &mut Tx, _call: &Call, _prepared: Json) -> Outcome {
    let gate = &app.manager.gate;
    let now = gate.policies().current();
    Ok(json!({
        "source": gate.policies().source().to_string(), "revision": gate.revision(), "trouble": now.trouble,
        "keep_last_good": app.config.policy.keep_last_good, "environment": app.config.policy.environment,
        "policies": now.policies.map(|policies| policies.ids()), "roles": roles(app),
    }))
}

fn roles(app: &App) -> Json {
    app.config
        .policy
        .roles
        .iter()
        .filter(|(_, actors)| !actors.is_empty())
        .map(|(role, actors)| (role.to_string(), json!(actors)))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Check {
    /// A folder of policies, or a preset.
    policies: String,
    #[serde(default)]
    limit: Option<i64>,
}

/// Asks other policies what was asked of those that decided then, and shows where they would answer otherwise.
pub(super) async fn check(_app: &App, tx: &mut Tx, call: &Call, _prepared: Json) -> Outcome {
    operator(call)?;
    let args: Check = arguments(call)?;
    let source = match args.policies.parse::<Preset>() {
        Ok(preset) => Source::Preset(preset),
        Err(_) => Source::Folder(PathBuf::from(&args.policies)),
    };
    let invalid = |message: String| Stop::from(Refusal::new(Code::InvalidArgument, message));
    let candidate = Policies::load(&source).map_err(|error| invalid(error.to_string()))?;
    let limit = args.limit.unwrap_or(TRIED);
    if limit < 1 {
        return Err(invalid(format!("--limit: {limit} is less than 1")));
    }
    let recorded = tx.policy_decisions(limit).await?;
    let mut changes = Vec::new();
    for decision in &recorded {
        let ask: Ask = serde_json::from_value(decision.ask.clone()).map_err(|error| Fault::Unreadable {
            table: "policy_decisions",
            column: "ask",
            id: decision.id.to_string(),
            message: error.to_string(),
        })?;
        let then = candidate.decide(&ask);
        if then.allowed != decision.allowed {
            let said = |allowed| if allowed { "allowed" } else { "denied" };
            changes.push(json!({
                "at": decision.at, "actor": ask.principal.actor(), "action": ask.action, "resource": named(&ask.resource),
                "was": said(decision.allowed), "would_be": said(then.allowed), "why": then.to_string(), "revision": decision.revision,
            }));
        }
    }
    Ok(json!({
        "source": source.to_string(), "revision": candidate.revision(), "valid": true, "decisions_tried": recorded.len(),
        "changes": changes,
    }))
}

fn named(resource: &Resource) -> String {
    match resource {
        Resource::System => "system".into(),
        Resource::Tenant(tenant) => format!("tenant {}", tenant.name),
        Resource::Plane(plane) => format!("plane {}", plane.id),
        Resource::Offboarding(of) => format!("offboarding {} of plane {}", of.id, of.plane.id),
    }
}
