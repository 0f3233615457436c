//! `request --dry-run`: exactly what each stage would do and destroy, without doing any of it.

use lethe_ledger::Tx;
use lethe_stages::{Code, EvictMode, PLAN, Step, canonical};
use serde_json::{Value as Json, json};

use super::{
    App, Call, Outcome, Stop, arguments, lookup,
    offboardings::{Request, before},
    parties::read_prepared,
    unmapped, unusable,
};
use crate::manager::{ArchiveAnswer, Beforehand};

/// Asks every bound store what it holds. No transaction is open.
pub(super) async fn ask_stores(app: &App, call: &Call) -> Outcome {
    let args: Request = arguments(call)?;
    let bound = app.ledger.read(async |tx: &mut Tx| {
        let found = lookup::plane(tx, call, &args.plane).await?;
        let bindings = tx.bindings(found.plane.id).await?;
        Ok::<_, Stop>((found.plane, bindings, tx.new_id()))
    });
    let (plane, bindings, key_id) = bound.await?;
    let mut stores = Vec::new();
    for binding in bindings.iter().filter(|binding| binding.mapping.is_some()) {
        let doing = format!("ask store {}", binding.store);
        let store = app.world.store(plane.id, binding).map_err(|error| unusable(&doing, error))?;
        let described = store.describe().await.map_err(|error| unmapped(&doing, error))?;
        let records = store.count().await.map_err(|error| unusable(&doing, error))?;
        stores.push(json!({
            "store": binding.store, "resource": binding.resource, "scope_digest": binding.scope_digest(), "records": records,
            "dependents": described.dependents, "unfenced": described.unfenced,
        }));
    }
    Ok(json!({"stores": stores, "before": before(app, &plane, key_id).await}))
}

pub(super) async fn preview(app: &App, tx: &mut Tx, call: &Call, mut prepared: Json) -> Outcome {
    let args: Request = arguments(call)?;
    let stores = prepared["stores"].take();
    let before: Beforehand = read_prepared(prepared["before"].take())?;
    let found = lookup::plane(tx, call, &args.plane).await?;
    let terms = args.terms().map_err(|refusal| found.refuse(refusal))?;
    let may = app.manager.may_request(tx, &found.tenant, &found.plane, &terms, &before, &args.reason, &call.actor).await?;
    let (new, deadline, open) = match may.map_err(|refusal| found.refuse(refusal))? {
        Ok(open) => (open.terms.clone(), json!(tx.deadline(open.id).await?), Some(open.id)),
        Err(opening) => (opening.terms, json!(opening.deadline), None),
    };
    let tokens = tx.tokens(found.plane.id).await?.iter().filter(|token| token.status != "revoked").count();
    let usage = tx.usages(found.plane.id).await?.len();
    let mut at = tx.at();
    let mut steps = Vec::new();
    for planned in PLAN.iter().filter(|planned| planned.step != Step::Evict || new.evict == EvictMode::AfterArchive) {
        let does = match planned.step {
            Step::Deregister => format!(
                "wait for {usage} use(s) to end, then leave access `{}` for {}s of grace",
                new.grace_access,
                new.grace.num_seconds()
            ),
            Step::Verify => "make sure that nothing uses the plane; change nothing".into(),
            Step::Deactivate => format!("revoke {tokens} token(s); refuse queries; close every store to writes"),
            Step::Export if new.evict == EvictMode::AtPurge && terms.ground == lethe_stages::Ground::ErasureRequest => {
                "record an inventory of keyed digests; copy no content".into()
            }
            Step::Export => "copy every record to the archive, read everything back, compare".into(),
            Step::Evict => "DESTROY the hot records that were exported; prove them gone".into(),
            Step::Purge => {
                "DESTROY the archive and whatever is left in the stores, after approval by somebody else; prove it".into()
            }
            Step::Restore => continue,
        };
        match planned.step {
            Step::Verify => at += new.grace,
            Step::Export => at += new.archive_delay,
            Step::Purge => at = found.tenant.protected_until.map_or(at + new.retention, |until| until.max(at + new.retention)),
            _ => {}
        }
        steps.push(json!({
            "step": planned.step, "from": planned.from, "to": planned.step.to(new.evict), "earliest": at, "does": does,
            "destructive": planned.destructive,
        }));
    }
    let holds = tx.holds(Some(&[found.plane.id, found.tenant.id]), false).await?;
    let mut blocked: Vec<_> = holds.iter().map(|hold| json!({"code": Code::HoldActive, "message": hold.reason})).collect();
    if let Some(until) = found.tenant.protected_until.filter(|until| *until > tx.at()) {
        blocked.push(json!({"code": Code::PurgeProtected, "message": "nothing of the tenant is purged before", "until": until}));
    }
    let mut plan = json!({
        "blocked_by": blocked, "policies": app.manager.gate.policies().source().to_string(),
        "plane_id": found.plane.id, "ground": new.ground, "grace_access": new.grace_access, "evict": new.evict,
        "retention_basis": new.retention_basis, "legal_due_at": new.legal_due_at, "deadline": deadline, "terms_digest": new.terms_digest,
        "archive": found.plane.archive_url, "archive_encryption": app.config.archive.encryption.mode, "stores": stores, "tokens": tokens,
        "usage": usage, "steps": steps,
        "approval": format!("somebody other than {}, once the plane is ARCHIVED", call.actor),
    });
    if let ArchiveAnswer::Said(check) = &before.archive {
        plan["archive_check"] = json!(check);
    }
    // The dates move with the clock; what they are made of does not.
    let mut timeless = plan.clone();
    for step in timeless["steps"].as_array_mut().into_iter().flatten() {
        step["earliest"] = Json::Null;
    }
    (timeless["legal_due_at"], timeless["deadline"]) = (Json::Null, Json::Null);
    let digest = canonical::digest(&timeless).map_err(lethe_ledger::Fault::from)?;
    Ok(json!({"dry_run": true, "already_open": open, "plan_digest": digest, "plan": plan}))
}
