//! Attestations: two persons say that a store is gone, so that a purge that can never reach it does not wait for ever.
//!
//! The rule: never of a store that answers and knows the plane; never by one person, nor by who requested the offboarding; for one plane
//! and one store at a time. What is attested is not verified, and the destruction plan, the purge's evidence and the trail say so. An
//! attestation changes the plan, so it is approved anew. If we die in it, nothing was decided.

use lethe_ledger::{Attestation, Binding, Chain, Entry, EventType, NewAttestation, Offboarding, RunStatus, Tx};
use lethe_stages::{Code, LifecycleState, Refusal, Step, canonical, destruction::said_when_gone};
use serde::Deserialize;
use serde_json::{Value as Json, json};
use uuid::Uuid;

use super::{
    App, Call, Outcome, Stop, arguments,
    lookup::{self, Found},
    said,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Propose {
    store: String,
    plane: String,
    reason: String,
    /// `sha256:` of what it is based on: a file, a ticket, a provider's letter.
    evidence_sha256: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Confirm {
    attestation_id: Uuid,
    reason: String,
}

fn cannot(found: &Found, message: String) -> Stop {
    found.refuse(Refusal::new(Code::AttestationRefused, message).with(json!({"state": found.plane.state})))
}

/// The plane's bindings in the store that is named, where the plane can still be waiting for it.
async fn bound(tx: &mut Tx, found: &Found, store: &str) -> Result<Vec<Binding>, Stop> {
    if !matches!(found.plane.state, LifecycleState::Archived | LifecycleState::Purged) {
        let message = format!(
            "the plane is {}: only a purge, or a probe after it, can do without a store; what is not archived yet would be lost with it",
            found.plane.state
        );
        return Err(cannot(found, message));
    }
    let mut bindings = tx.bindings(found.plane.id).await?;
    // Once it is purged, the mapping stands with its probes.
    match tx.probe_scope(found.plane.id).await? {
        Some(scope) => {
            for (place, binding) in bindings.iter_mut().enumerate() {
                binding.mapping = Some(scope.scopes[place]["mapping"].clone());
            }
        }
        None if found.plane.state == LifecycleState::Purged => {
            return Err(cannot(found, "the plane was purged and no probe is to come: nothing waits for the store".into()));
        }
        None => {}
    }
    bindings.retain(|binding| binding.store == store);
    match bindings.first() {
        None => Err(cannot(found, format!("the plane is not bound to store {store}"))),
        Some(gone) if gone.attestation_id.is_some() => Err(cannot(found, format!("store {store} was attested gone already"))),
        Some(_) => Ok(bindings),
    }
}

/// Asks the store whether it is there and knows the plane; refused if it does. Answers in a word what it said. No transaction is open.
async fn is_gone(app: &App, found: &Found, bindings: &[Binding]) -> Outcome {
    let mut said = "nothing: no mapping of it is left";
    for binding in bindings.iter().filter(|binding| binding.mapping.as_ref().is_some_and(|mapping| !mapping.is_null())) {
        // What is wrong here (a credential's file, a certificate) says nothing about what is there.
        let store = app.world.store(found.plane.id, binding).map_err(|error| {
            cannot(
                found,
                format!("store {} cannot be asked from here, so nobody knows whether it is gone: {error}", binding.store),
            )
        })?;
        said = said_when_gone(store.as_ref()).await.ok_or_else(|| {
            let message = format!("store {} answers and knows the plane: it is not gone", binding.store);
            found.refuse(Refusal::new(Code::StoreAnswers, message))
        })?;
    }
    Ok(json!({"said": said}))
}

pub(super) async fn ask(app: &App, call: &Call) -> Outcome {
    let args: Propose = arguments(call)?;
    let read = app.ledger.read(async |tx: &mut Tx| {
        let found = lookup::plane(tx, call, &args.plane).await?;
        let bindings = bound(tx, &found, &args.store).await?;
        Ok::<_, Stop>((found, bindings))
    });
    let (found, bindings) = read.await?;
    is_gone(app, &found, &bindings).await
}

pub(super) async fn propose(_app: &App, tx: &mut Tx, call: &Call, prepared: Json) -> Outcome {
    let args: Propose = arguments(call)?;
    let found = lookup::plane(tx, call, &args.plane).await?;
    said("--reason", &args.reason)?;
    if !canonical::is_sha256(&args.evidence_sha256) {
        let message = format!("--evidence: `{}` is no digest like sha256:…", args.evidence_sha256);
        return Err(found.refuse(Refusal::new(Code::InvalidArgument, message)));
    }
    let bindings = bound(tx, &found, &args.store).await?;
    let by = call.actor.to_string();
    let of = not_by_requester(tx, &found, &by).await?;
    let new = NewAttestation {
        plane_id: found.plane.id,
        store_id: bindings[0].store_id,
        by: &by,
        reason: &args.reason,
        evidence_sha256: &args.evidence_sha256,
        said: prepared["said"].as_str().unwrap_or("nothing"),
    };
    let id = tx.propose_attestation(&new).await?;
    let mut entry = entry(&found, &of, EventType::AttestationProposed, call);
    entry.reason = Some(args.reason.clone());
    entry.evidence = json!({
        "attestation_id": id, "store": args.store, "evidence_sha256": args.evidence_sha256, "said": prepared["said"],
    });
    tx.append(entry).await?;
    let mut document = json!(tx.attestation(id).await?);
    document["next"] = json!(format!("lethe store attest --confirm {id} --reason …   (by somebody else)"));
    Ok(document)
}

/// The plane's latest offboarding; refused for whoever requested it.
async fn not_by_requester(tx: &mut Tx, found: &Found, by: &str) -> Result<Offboarding, Stop> {
    let of = tx.offboardings_of(found.plane.id).await?.into_iter().next();
    let of = of.ok_or_else(|| cannot(found, "no offboarding of the plane is known".into()))?;
    if of.terms.requested_by == by {
        let message = format!("{by} requested the offboarding; two others must attest");
        return Err(found.refuse(Refusal::new(Code::AttestationBySelf, message)));
    }
    Ok(of)
}

/// An attestation that waits for its second person, and its plane.
async fn waiting(tx: &mut Tx, call: &Call, id: Uuid) -> Result<(Attestation, Found), Stop> {
    let unknown =
        || Refusal::new(Code::AttestationUnknown, format!("there is no attestation {id} that waits for a second person"));
    let known = tx.attestation(id).await?.ok_or_else(unknown)?;
    let found = lookup::plane(tx, call, &known.plane_id.to_string()).await.map_err(|stop| match stop {
        Stop::Refused(_) => Stop::from(unknown()),
        fault => fault,
    })?;
    // Asked again, now that nobody else confirms it.
    match tx.attestation(id).await?.filter(|one| one.confirmed_at.is_none()) {
        Some(one) => Ok((one, found)),
        None => Err(found.refuse(unknown())),
    }
}

pub(super) async fn ask_again(app: &App, call: &Call) -> Outcome {
    let args: Confirm = arguments(call)?;
    let read = app.ledger.read(async |tx: &mut Tx| {
        let (attestation, found) = waiting(tx, call, args.attestation_id).await?;
        let bindings = bound(tx, &found, &attestation.store).await?;
        Ok::<_, Stop>((found, bindings))
    });
    let (found, bindings) = read.await?;
    is_gone(app, &found, &bindings).await
}

pub(super) async fn confirm(app: &App, tx: &mut Tx, call: &Call, prepared: Json) -> Outcome {
    let args: Confirm = arguments(call)?;
    said("--reason", &args.reason)?;
    let (attestation, found) = waiting(tx, call, args.attestation_id).await?;
    bound(tx, &found, &attestation.store).await?;
    let by = call.actor.to_string();
    if attestation.proposed_by == by {
        let message = format!("{by} attested it; somebody else must confirm it");
        return Err(found.refuse(Refusal::new(Code::AttestationBySelf, message)));
    }
    let of = not_by_requester(tx, &found, &by).await?;
    let before = tx.open_case(found.plane.id).await?.filter(|case| case.run.step == Step::Purge);
    if before.as_ref().is_some_and(|case| case.run.status == RunStatus::Running) {
        return Err(cannot(&found, "the purge is at work just now: confirm when it has failed or halted".into()));
    }
    tx.confirm_attestation(attestation.id, &by).await?;
    let plan_digest = if before.is_some() { replan(app, tx, call, &found, &args.reason).await? } else { None };
    let mut entry = entry(&found, &of, EventType::Attested, call);
    entry.reason = Some(args.reason);
    entry.evidence = json!({
        "attestation_id": attestation.id, "store": attestation.store, "evidence_sha256": attestation.evidence_sha256,
        "said": prepared["said"], "verified": false, "new_plan_digest": plan_digest,
    });
    tx.append(entry).await?;
    let mut document = json!(tx.attestation(attestation.id).await?);
    document["plan_digest"] = json!(plan_digest);
    if plan_digest.is_some() {
        document["next"] =
            json!(format!("the plan has changed, and is approved anew: lethe approval grant {} --reason …", found.plane.id));
    }
    Ok(document)
}

/// Makes the destruction plan anew: it names the store as attested, and nobody has approved that.
async fn replan(app: &App, tx: &mut Tx, call: &Call, found: &Found, reason: &str) -> Result<Option<String>, Stop> {
    let Some(case) = tx.open_case(found.plane.id).await? else { return Ok(None) };
    Ok(app.manager.replan(tx, &case, reason, &call.actor, &call.operation).await?)
}

fn entry(found: &Found, of: &Offboarding, event: EventType, call: &Call) -> Entry {
    let mut entry = Entry::new(Chain::Plane(found.plane.id), Some(found.tenant.id), event, &call.actor, &call.operation);
    entry.offboarding_id = Some(of.id);
    entry
}
