//! The ledger itself: checked, copied, and released from suspicion by a person.

use std::{path::PathBuf, sync::Arc};

use lethe_ledger::{ApprovalStatus, Chain, Entry, EventType, Ledger, LedgerFault, OpenOptions, Tx};
use lethe_stages::{Code, LifecycleState, Refusal};
use serde::Deserialize;
use serde_json::{Value as Json, json};

use super::{App, Call, Outcome, arguments, said};
use crate::clock::{SystemClock, SystemEntropy};

/// Compares with the marks outside, before the transaction.
pub(super) async fn marks(app: &App, _call: &Call) -> Outcome {
    Ok(json!({"may_destroy": app.manager.witness().await?}))
}

/// SQLite's own checks, the whole trail, the clock and the marks.
pub(super) async fn check(app: &App, tx: &mut Tx, _call: &Call, prepared: Json) -> Outcome {
    let file = tx.integrity().await?;
    let verified = tx.verify_all().await?;
    let kept = if app.ledger.path().is_some() { "ok" } else { "kept by the server" };
    let witness = tx.witness().await?;
    // The first thing that is wrong ends it.
    let (trail, log) = match &verified {
        Ok((trail, log)) => (json!(trail), json!(log)),
        Err(LedgerFault::Trail(fault)) => (json!({"fault": fault.to_string()}), Json::Null),
        Err(LedgerFault::Log(fault)) => (Json::Null, json!({"fault": fault.to_string()})),
    };
    let sound = file.is_empty() && verified.is_ok() && witness.behind_since.is_none() && witness.clock_suspect_since.is_none();
    Ok(json!({
        "ledger": if sound { "sound" } else { "suspect" },
        "file": if file.is_empty() { json!(kept) } else { json!(file) },
        "audit": if verified.is_ok() { "verified" } else { "broken" },
        "trail": trail, "log": log,
        "era": witness.era, "behind_since": witness.behind_since, "clock_suspect_since": witness.clock_suspect_since,
        "may_destroy": prepared["may_destroy"] == true && witness.clock_suspect_since.is_none(),
    }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Backup {
    to: PathBuf,
}

/// Copies the ledger while it is in use, then opens the copy and verifies it.
pub(super) async fn backup(app: &App, call: &Call) -> Outcome {
    let Backup { to } = arguments(call)?;
    if app.ledger.path().is_none() {
        let message = "this ledger lives on a PostgreSQL server, whose tools copy it: pg_dump, or a base backup with its log. \
            After a restore `lethe ledger check` finds out what is missing, and `lethe ledger reconcile` begins anew";
        return Err(Refusal::new(Code::InvalidArgument, message).into());
    }
    app.ledger.backup(&to).await?;
    let options =
        OpenOptions { url: format!("sqlite:{}", to.display()), clock: Arc::new(SystemClock), entropy: Arc::new(SystemEntropy) };
    let copy = Ledger::open(options).await?;
    let (file, trail) = copy
        .read(async |tx: &mut Tx| Ok::<_, lethe_ledger::Fault>((tx.integrity().await?, tx.verify_trail(None).await?)))
        .await?;
    copy.truncate_wal().await?;
    copy.close().await;
    let entries = trail.as_ref().map_or(0, |verified| verified.entries);
    Ok(
        json!({"backup": to, "file": if file.is_empty() { "ok" } else { "damaged" }, "audit": if trail.is_ok() { "verified" } else { "broken" }, "entries": entries}),
    )
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Reasoned {
    reason: String,
}

/// Asks every store and archive again what they hold, before the transaction.
pub(super) async fn probe_again(app: &App, _call: &Call) -> Outcome {
    let eras = app.manager.marks().await?.into_iter().filter_map(|(_, mark)| mark).map(|mark| mark.era);
    let era = eras.max().unwrap_or(0);
    let planes = app.ledger.read(async |tx: &mut Tx| {
        let mut planes = Vec::new();
        for plane in tx.planes(None, None).await?.into_iter().filter(|plane| plane.state != LifecycleState::Purged) {
            let bindings = tx.bindings(plane.id).await?;
            planes.push((plane, bindings));
        }
        Ok::<_, lethe_ledger::Fault>(planes)
    });
    let mut found = Vec::new();
    for (plane, bindings) in planes.await? {
        let mut records = 0;
        let mut findings = Vec::new();
        for binding in &bindings {
            let counted = match app.world.store(plane.id, binding) {
                Ok(store) => store.count().await,
                Err(error) => Err(error),
            };
            match counted {
                Ok(count) => records += count,
                Err(error) => findings.push(format!("store {}: {error}", binding.store)),
            }
        }
        let listed = match app.world.archive(&plane, None, app.ledger.now()) {
            Ok(archive) => archive.list().await,
            Err(error) => Err(error),
        };
        let objects = listed.map(|keys| keys.len()).unwrap_or_else(|error| {
            findings.push(format!("archive: {error}"));
            0
        });
        match plane.state {
            LifecycleState::Archived if objects == 0 => {
                findings.push("its archive is gone: it was purged after this backup".into())
            }
            LifecycleState::Active | LifecycleState::PendingDeactivate if records == 0 => {
                findings.push("its store holds no record of it: it may have been archived or purged after this backup".into());
            }
            _ => {}
        }
        found.push(json!({"plane_id": plane.id, "state": plane.state, "records": records, "archive_objects": objects, "findings": findings}));
    }
    Ok(json!({"era": era, "planes": found}))
}

/// A person has looked at what was found: the ledger may destroy again, under approvals that are given anew.
pub(super) async fn reconcile(_app: &App, tx: &mut Tx, call: &Call, prepared: Json) -> Outcome {
    let Reasoned { reason } = arguments(call)?;
    said("--reason", &reason)?;
    tx.lock_control().await?;
    if tx.witness().await?.behind_since.is_none() {
        return Err(
            Refusal::new(Code::NothingToConfirm, "this ledger is not behind its mark: there is nothing to reconcile").into()
        );
    }
    let mut withdrawn = 0;
    let planes: Vec<_> = tx.approvals(None).await?.iter().map(|approval| approval.plane_id).collect();
    tx.lock_planes(&planes).await?;
    // Whether one was withdrawn since, this ledger cannot know.
    for approval in tx.approvals(None).await?.into_iter().filter(|approval| approval.status == ApprovalStatus::Granted) {
        tx.end_approval(approval.id, ApprovalStatus::Withdrawn).await?;
        let plane = tx.plane(approval.plane_id).await?;
        let tenant = plane.map(|plane| plane.tenant_id);
        let mut entry =
            Entry::new(Chain::Plane(approval.plane_id), tenant, EventType::ApprovalWithdrawn, &call.actor, &call.operation);
        entry.offboarding_id = Some(approval.offboarding_id);
        entry.reason = Some(reason.clone());
        entry.evidence = json!({"approval_id": approval.id, "plan_digest": approval.plan_digest});
        tx.append(entry).await?;
        withdrawn += 1;
    }
    tx.begin_era(prepared["era"].as_i64().unwrap_or(0)).await?;
    let planes = prepared["planes"].as_array().cloned().unwrap_or_default();
    let suspect = planes.iter().filter(|plane| plane["findings"].as_array().is_some_and(|findings| !findings.is_empty())).count();
    let era = tx.witness().await?.era;
    let mut entry = Entry::new(Chain::System, None, EventType::LedgerReconciled, &call.actor, &call.operation);
    entry.reason = Some(reason);
    entry.evidence =
        json!({"era": era, "planes": planes.len(), "planes_with_findings": suspect, "approvals_withdrawn": withdrawn});
    tx.append(entry).await?;
    tx.wake_settled().await?;
    Ok(json!({"reconciled": true, "era": era, "approvals_withdrawn": withdrawn, "probed": planes,
        "note": "holds placed after the backup are not in this ledger: place them again before work goes on. What was published of the log after \
            it is another past than this ledger's: `lethe log show` says how to go on"}))
}

/// A person has looked at the clock and found it right.
pub(super) async fn confirm_clock(_app: &App, tx: &mut Tx, call: &Call, _prepared: Json) -> Outcome {
    let Reasoned { reason } = arguments(call)?;
    said("--reason", &reason)?;
    if !tx.confirm_clock().await? {
        return Err(Refusal::new(Code::NothingToConfirm, "the clock is under no suspicion").into());
    }
    let mut entry = Entry::new(Chain::System, None, EventType::ClockConfirmed, &call.actor, &call.operation);
    entry.reason = Some(reason);
    entry.evidence = json!({"at": tx.at()});
    tx.append(entry).await?;
    tx.wake_settled().await?;
    Ok(json!({"confirmed": true, "at": tx.at()}))
}
