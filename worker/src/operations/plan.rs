//! `offboarding show --plan`: exactly what would be destroyed, in the words and to the byte that an approver signs, and what goes around it.
//!
//! It only reads, so nothing happens if we die in it.

use lethe_ledger::Tx;
use lethe_stages::{Code, LifecycleState, Refusal};
use serde_json::{Value as Json, json};

use super::{App, Call, Outcome, arguments, lookup, planes::PlaneRef};
use crate::signature;

pub(super) async fn show(app: &App, tx: &mut Tx, call: &Call, _prepared: Json) -> Outcome {
    let PlaneRef { plane } = arguments(call)?;
    let found = lookup::plane(tx, call, &plane).await?;
    if found.plane.state == LifecycleState::Purged {
        return Err(found.refuse(Refusal::new(Code::PlanePurged, "the plane was erased; its plan went with it")));
    }
    let case = tx.open_case(found.plane.id).await?;
    let Some((case, plan)) = case.as_ref().and_then(|case| Some((case, case.offboarding.plan.as_ref()?))) else {
        let message = format!(
            "the plane is {}: what a purge destroys is counted once the plane is ARCHIVED. Until then `lethe offboarding request {} \
             --dry-run …` shows what each stage would do",
            found.plane.state, found.plane.id
        );
        return Err(found.refuse(Refusal::new(Code::ApprovalTooEarly, message).with(json!({"state": found.plane.state}))));
    };
    let status = super::status::of(app, tx, &found).await?;
    let approvals = tx.approvals(Some(case.offboarding.id)).await?;
    let tokens = tx.tokens(found.plane.id).await?.iter().filter(|token| token.status != "revoked").count();
    Ok(json!({
        "plane_id": found.plane.id, "offboarding_id": case.offboarding.id, "plan_digest": plan.digest(), "text": plan.text(),
        "plan": plan, "namespace": signature::NAMESPACE, "requested_by": case.offboarding.terms.requested_by, "tokens": tokens,
        "approvals": approvals, "missing": app.manager.gate.approved(case).err().map(|refusal| refusal.message),
        "deadlines": status["offboarding"]["deadlines"], "protected_until": found.tenant.protected_until,
        "blocked_by": status["offboarding"]["blocked_by"],
    }))
}
