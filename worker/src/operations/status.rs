//! The status of a plane: where its offboarding stands, what it waits for, and what somebody can do about it.

use lethe_ledger::{Case, Offboarding, Pause, Run, RunStatus, Tx};
use lethe_stages::{Code, LifecycleState, Refusal, Step};
use serde_json::{Value as Json, json};

use super::{
    App, Call, Outcome, Stop, arguments,
    lookup::{self, Found},
    planes::PlaneRef,
};
use crate::gate::{GateRequest, Judgement};

pub(super) async fn show(app: &App, tx: &mut Tx, call: &Call, _prepared: Json) -> Outcome {
    let PlaneRef { plane } = arguments(call)?;
    let found = lookup::plane(tx, call, &plane).await?;
    of(app, tx, &found).await
}

/// The status document of a plane.
pub(super) async fn of(app: &App, tx: &mut Tx, found: &Found) -> Outcome {
    let plane = tx.plane(found.plane.id).await?.unwrap_or_else(|| found.plane.clone());
    let mut shown = json!({
        "plane_id": plane.id, "tenant": found.tenant.name, "name": plane.name, "state": plane.state,
        "holds": tx.holds(Some(&[plane.id, found.tenant.id]), false).await?, "offboarding": null,
    });
    super::probes::of_plane(tx, &plane, &mut shown).await?;
    let Some(offboarding) = tx.offboardings_of(plane.id).await?.into_iter().next() else { return Ok(shown) };
    let runs = tx.runs_of(offboarding.id).await?;
    let last = runs.last();
    let deadline = tx.deadline(offboarding.id).await?;
    let case = tx.open_case(plane.id).await?;
    let blocked_by = match &case {
        Some(case) => blocked_by(app, case, &tx.pauses().await?),
        None => Vec::new(),
    };
    shown["offboarding"] = json!({
        "id": offboarding.id, "ground": offboarding.terms.ground, "status": offboarding.status, "reason": offboarding.terms.reason,
        "requested_by": offboarding.terms.requested_by,
        "stage": last.map(|run| run.step.stage()), "step": last.map(|run| run.step), "run_status": last.map(|run| run.status),
        "due_at": last.and_then(|run| run.due_at), "attempt": last.map_or(0, |run| run.attempt),
        "interruptions": last.map_or(0, |run| run.interruptions), "last_error": last.and_then(|run| run.last_error.clone()),
        "grace_access": offboarding.terms.grace_access, "evict": offboarding.terms.evict,
        "deadlines": {
            "requested_at": offboarding.requested_at, "received_at": offboarding.terms.received_at, "grace_until": offboarding.grace_until,
            "archive_after": offboarding.archive_after, "retention_until": offboarding.retention_until,
            "legal_due_at": deadline.as_ref().map(|deadline| deadline.due_at).or(offboarding.terms.legal_due_at),
            "closed_at": offboarding.closed_at,
        },
        "deadline": deadline,
        "plan_digest": offboarding.plan_digest, "plan": offboarding.plan,
        "stores": stores(app, tx, &offboarding, &runs).await?,
        "suspended": suspended(tx, &offboarding).await?,
        "blocked_by": blocked_by,
        "next": next(&plane.id.to_string(), plane.state, last),
    });
    Ok(shown)
}

/// Everything that stands in the way now, not only what the gate meets first.
pub(super) fn blocked_by(app: &App, case: &Case, pauses: &[Pause]) -> Vec<Json> {
    let mut blocked = Vec::new();
    let mut add = |refusal: &Refusal| {
        if !blocked.iter().any(|known: &Json| known["code"] == json!(refusal.code)) {
            blocked.push(json!({"code": refusal.code, "message": refusal.message, "until": refusal.details.get("until")}));
        }
    };
    if case.run.status == RunStatus::Running {
        return blocked;
    }
    if let Some(refusal) = &case.run.blocked {
        add(refusal);
    }
    let mut pauses = pauses.to_vec();
    // Time, holds, approval: asked one by one by leaving out what was found, so that all of them show.
    let mut case = case.clone();
    let archive_copies = app.manager.archive_copies(&case);
    for _ in 0..7 {
        let epoch = case.plane.epoch + 1;
        let request = GateRequest { case: &case, epoch, pauses: &pauses, recent_purges: 0, archive_copies: &archive_copies };
        let refusal = match app.manager.gate.judge(&app.manager.stages, &request) {
            Judgement::Start(_) => break,
            Judgement::Wait { refusal, .. } | Judgement::Refuse(refusal) => refusal,
        };
        add(&refusal);
        match refusal.code {
            Code::Paused => pauses.clear(),
            Code::HoldActive => case.facts.holds.clear(),
            Code::GracePeriodActive => case.facts.grace_until = Some(case.facts.at),
            Code::RetentionActive => case.facts.retention_until = Some(case.facts.at),
            Code::PurgeProtected => case.facts.protected_until = None,
            _ => break,
        }
    }
    blocked
}

/// Per store: what was exported and what is left, from evidence, or from the handler's own report while it runs.
async fn stores(app: &App, tx: &mut Tx, offboarding: &Offboarding, runs: &[Run]) -> Result<Vec<Json>, Stop> {
    let evidence = |step: Step| runs.iter().rev().filter(|run| run.step == step).find_map(|run| run.evidence.as_ref());
    let last = runs.last();
    let failed = last.filter(|run| run.status != RunStatus::Succeeded).and_then(|run| run.last_error.as_ref());
    let live = last.filter(|run| run.status == RunStatus::Running);
    let progress = live.and_then(|run| app.manager.progress().of(run.id).or_else(|| run.progress.clone()));
    let progress = progress.or_else(|| failed.map(|error| error["progress"].clone()));
    let bindings = tx.bindings(offboarding.terms.plane_id).await?;
    let mut shown = Vec::new();
    for (index, binding) in bindings.iter().enumerate() {
        let exported = evidence(Step::Export).map(|evidence| evidence["stores"][index]["rows"].clone());
        let gone =
            evidence(Step::Purge).or(evidence(Step::Evict)).filter(|evidence| evidence["stores"][index]["proof"].is_object());
        let records = evidence(Step::Deregister).map(|evidence| evidence["stores"][index]["records"].clone());
        let seen = progress.as_ref().map_or(&Json::Null, |progress| &progress["stores"][index.to_string()]);
        let erased = seen["done"].as_u64().filter(|_| seen["verb"] == "erased");
        let remaining = match (gone, erased, seen["total"].as_u64()) {
            (Some(evidence), ..) => evidence["stores"][index]["proof"]["empty"]["remaining"].clone(),
            // An attempt that came that far, and not further.
            (None, Some(erased), Some(total)) => json!(total.saturating_sub(erased)),
            _ => exported.clone().or(records).unwrap_or(Json::Null),
        };
        let troubles = failed.and_then(|error| error["stores"].as_array()).into_iter().flatten();
        let error = troubles
            .into_iter()
            .find(|trouble| trouble["binding"] == json!(index))
            .map(|trouble| json!({"code": trouble["code"], "message": trouble["message"]}));
        shown.push(json!({
            "error": error, "name": binding.store, "resource": binding.resource, "rows_exported": exported.unwrap_or(json!(0)), "rows_remaining": remaining,
            "progress": progress.as_ref().map(|_| seen.clone()),
        }));
    }
    Ok(shown)
}

/// What the offboarding suspended, and what became of each after a cancel: tokens by number, everything else one by one.
async fn suspended(tx: &mut Tx, offboarding: &Offboarding) -> Result<Vec<Json>, Stop> {
    let mut shown = Vec::new();
    for tokens in tx.suspended_tokens(offboarding.id).await? {
        shown.push(json!({"kind": "token", "what": format!("{} token(s)", tokens.number), "outcome": tokens.outcome}));
    }
    let rows = tx.suspensions(offboarding.id).await?;
    if rows.is_empty() {
        return Ok(shown);
    }
    let bindings = tx.bindings(offboarding.terms.plane_id).await?;
    let dependents = tx.suspended_dependents(offboarding.id).await?;
    for row in rows {
        let value = row.as_value();
        let binding = value.binding().and_then(|binding| bindings.get(binding));
        let dependent = dependents.iter().find(|dependent| dependent.id.to_string() == row.what);
        let what = match (binding, dependent) {
            (Some(binding), _) => format!("{} {}", binding.store, binding.resource),
            (None, Some(dependent)) => dependent.name.clone().unwrap_or_else(|| row.what.clone()),
            (None, None) => row.what.clone(),
        };
        let mut shown_row = json!(row);
        shown_row["what"] = json!(what);
        shown.push(shown_row);
    }
    Ok(shown)
}

/// The next command to type.
pub(super) fn next(plane: &str, state: LifecycleState, run: Option<&Run>) -> Option<String> {
    let run = run?;
    match (run.status, state) {
        (RunStatus::Halted, LifecycleState::PendingDeactivate) => {
            Some(format!("lethe offboarding retry {plane} --reason …   (or: lethe offboarding cancel {plane} --reason …)"))
        }
        (RunStatus::Halted, _) if run.step == Step::Restore => Some(format!(
            "lethe offboarding retry {plane} --reason …   (or, without what cannot be restored: --accept-unrestored)"
        )),
        (RunStatus::Halted, _) => Some(format!("lethe offboarding retry {plane} --reason …")),
        (RunStatus::Parked, _) => match run.waits_for.as_deref() {
            Some("APPROVAL_REQUIRED" | "APPROVAL_EXPIRED" | "APPROVALS_TOO_FEW") => {
                Some(format!("lethe approval grant {plane} --reason … --key FILE --actor user:SOMEBODY_ELSE"))
            }
            Some("SIGNATURE_INVALID") => Some(format!("lethe approval withdraw {plane} --reason …   (then grant again)")),
            Some("POLICY_DENIED") => Some("lethe policy show".into()),
            Some("APPROVAL_DENIED") => {
                Some(format!("lethe offboarding retry {plane} --reason …   (makes a new plan to approve)"))
            }
            Some("HOLD_ACTIVE") => Some(format!("lethe hold list {plane}   (then: lethe hold release HOLD --reason …)")),
            Some("CLOCK_SUSPECT") => Some("lethe ledger confirm-clock --reason …".into()),
            Some("LOG_STOPPED") => Some("lethe log show".into()),
            Some("LEDGER_BEHIND") => Some("lethe ledger reconcile --reason …".into()),
            Some("ACTIVE_REFERENCES" | "ACTIVE_USAGE") => Some(format!("lethe usage list {plane}")),
            _ => None,
        },
        (RunStatus::Queued, _) => Some("lethe serve   (or, once: lethe work --until-idle)".into()),
        _ => None,
    }
}
