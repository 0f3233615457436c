//! What is late or at risk, and why: legal deadlines, purged planes that came back, reviews that are owed, runs that nobody takes, notices
//! that nobody got.
//!
//! The rule: the nearest first, and each with what holds it up and the command that somebody may want to type. It reads; nothing
//! happens if we die in it.

use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use lethe_ledger::{
    Case, Chain, Deadline, Entry, EventType, Near, NoticeFilter, NoticeKind, NoticeStatus, OffboardingStatus, Pause, Probe,
    ProbeFilter, ProbeStatus, RunStatus, Tx,
};
use lethe_stages::{Code, LifecycleState, Refusal};
use serde::Deserialize;
use serde_json::{Value as Json, json};
use uuid::Uuid;

use super::{App, Call, Outcome, arguments, lookup, said, status};
use crate::{config::Span, deadline::Zone, manager::of_offboarding};

/// What is shown unless more is asked for.
const LIMIT: usize = 100;
/// The most that may be asked for.
const LIMIT_MAX: usize = 10_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Due {
    #[serde(default)]
    tenant: Option<String>,
    #[serde(default)]
    within: Option<String>,
    #[serde(default)]
    all: bool,
    #[serde(default)]
    limit: Option<usize>,
}

pub(super) async fn list(app: &App, tx: &mut Tx, call: &Call, _prepared: Json) -> Outcome {
    let args: Due = arguments(call)?;
    let invalid = |message: String| Refusal::new(Code::InvalidArgument, message);
    let limit = args.limit.unwrap_or(LIMIT);
    if !(1..=LIMIT_MAX).contains(&limit) {
        return Err(invalid(format!("--limit {limit} is not between 1 and {LIMIT_MAX}")).into());
    }
    let within = args.within.as_deref().map(str::parse::<Span>).transpose();
    let within = within.map_err(|error| invalid(format!("--within: {error}")))?;
    let tenant = match args.tenant.as_ref().or(call.tenant.as_ref()) {
        Some(name) => Some(lookup::tenant(tx, call, name).await?.id),
        None => None,
    };
    let warned = app.config.due.warn.iter().map(|span| span.0).max().unwrap_or_default();
    let horizon = match (args.all, within) {
        (true, _) => crate::config::LONGEST,
        (false, Some(span)) => span.0.max(warned),
        (false, None) => warned,
    };
    let now = tx.at();
    // One more than is shown, to say that there are more.
    let mut near = tx.near_deadlines(now + horizon, tenant, limit + 1).await?;
    let more = near.len() > limit;
    near.truncate(limit);
    let pauses = tx.pauses().await?;
    let mut due: Vec<Json> = near.iter().map(|near| of_deadline(app, near, &pauses, warned, now)).collect();
    due.extend(reopened(tx, tenant).await?);
    due.extend(reviews(tx, tenant, limit, now).await?);
    if tenant.is_none() {
        due.extend(of_everybody(app, tx, &pauses).await?);
    }
    due.sort_by_key(|one| one["due_at"].as_str().and_then(|at| at.parse::<DateTime<Utc>>().ok()));
    Ok(json!({"at": now, "within_s": horizon.num_seconds(), "more": more, "due": due}))
}

/// A legal deadline, and what holds the purge up.
fn of_deadline(app: &App, near: &Near, pauses: &[Pause], warned: TimeDelta, now: DateTime<Utc>) -> Json {
    let Deadline { offboarding_id, law, zone, due_on, due_at, extendable_to, .. } = &near.deadline;
    let mut item = json!({
        "kind": "deadline", "standing": "on_track", "due_on": due_on, "due_at": due_at, "law": law, "zone": zone,
        "extendable_to": extendable_to, "offboarding_id": offboarding_id,
    });
    let Some(case) = &near.case else {
        item["why"] = json!(["its next step is being put on record"]);
        return item;
    };
    let earliest = earliest_purge(case, now);
    let halted = case.run.status == RunStatus::Halted;
    item["standing"] = json!(match () {
        () if *due_at <= now => "late",
        () if halted || earliest >= *due_at || *due_at - now <= warned => "at_risk",
        () => "on_track",
    });
    item["plane"] = json!(format!("{}/{}", case.tenant_name, case.plane.name.as_deref().unwrap_or("(erased)")));
    item["plane_id"] = json!(case.plane.id);
    item["state"] = json!(case.plane.state);
    item["step"] = json!(case.run.step);
    item["run_status"] = json!(case.run.status);
    item["earliest_purge"] = json!(earliest);
    item["why"] = json!(why(app, case, pauses, now));
    item["next"] = json!(status::next(&case.plane.id.to_string(), case.plane.state, Some(&case.run)));
    item
}

/// When the purge can begin at the earliest, if everything that needs somebody happens at once.
fn earliest_purge(case: &Case, now: DateTime<Utc>) -> DateTime<Utc> {
    let (of, terms) = (&case.offboarding, &case.offboarding.terms);
    let from = |until: Option<DateTime<Utc>>, span: TimeDelta| until.map_or(now + span, |until| until.max(now));
    let planned = match case.plane.state {
        LifecycleState::Active => now + terms.grace + terms.archive_delay + terms.retention,
        LifecycleState::PendingDeactivate if case.facts.grace_skipped => now + terms.archive_delay + terms.retention,
        LifecycleState::PendingDeactivate => from(of.grace_until, terms.grace) + terms.archive_delay + terms.retention,
        LifecycleState::Deactivated => from(of.archive_after, terms.archive_delay) + terms.retention,
        LifecycleState::Archived | LifecycleState::Purged => from(of.retention_until, terms.retention),
    };
    case.facts.protected_until.map_or(planned, |until| until.max(planned))
}

/// What the run waits for, each as `CODE: words`.
fn why(app: &App, case: &Case, pauses: &[Pause], now: DateTime<Utc>) -> Vec<String> {
    let run = &case.run;
    match run.status {
        RunStatus::Running => return vec![format!("{} is at work", run.step)],
        RunStatus::Halted => {
            let error = run.last_error.clone().unwrap_or_default();
            let text = |field: &str| error[field].as_str().unwrap_or_default().to_owned();
            return vec![format!("HALTED in {}: {} {}", run.step, text("code"), text("message"))];
        }
        _ => {}
    }
    let blocked = status::blocked_by(app, case, pauses);
    if blocked.is_empty() {
        let late = run.due_at.filter(|due| *due <= now);
        return vec![late.map_or_else(
            || format!("{} is queued", run.step),
            |due| format!("{} is due since {} and nobody has taken it", run.step, due.to_rfc3339()),
        )];
    }
    let text = |refusal: &Json| {
        let part = |field: &str| refusal[field].as_str().unwrap_or_default().to_owned();
        format!("{}: {}", part("code"), part("message"))
    };
    blocked.iter().map(text).collect()
}

/// Holds that were to be looked at again, and grace periods that were cut short and not reviewed.
async fn reviews(tx: &mut Tx, tenant: Option<Uuid>, limit: usize, now: DateTime<Utc>) -> Result<Vec<Json>, super::Stop> {
    let mut due = Vec::new();
    for hold in tx.holds_to_review(now, tenant, limit).await? {
        due.push(json!({
            "kind": "hold_review", "standing": "late", "due_at": hold.review_at, "hold_id": hold.id, "subject_kind": hold.subject_kind,
            "subject_id": hold.subject_id, "matter": hold.matter,
            "why": [format!("placed by {}: {}", hold.placed_by, hold.reason)],
            "next": format!("lethe hold release {} --reason …   (or go on holding)", hold.id),
        }));
    }
    for broken in tx.open_reviews().await? {
        if tenant.is_some() && tx.plane(broken.plane_id).await?.map(|plane| plane.tenant_id) != tenant {
            continue;
        }
        due.push(json!({
            "kind": "break_glass", "standing": "open", "due_at": broken.broken_at, "plane_id": broken.plane_id,
            "why": [format!("{} cut its grace period short, and nobody has reviewed that", broken.broken_by)],
            "next": format!("lethe offboarding review {} --reason …", broken.plane_id),
        }));
    }
    Ok(due)
}

/// Purged planes of which something came back, and probes that could not be asked.
async fn reopened(tx: &mut Tx, tenant: Option<Uuid>) -> Result<Vec<Json>, super::Stop> {
    let mut due = Vec::new();
    let mut known = std::collections::BTreeSet::new();
    for finding in tx.findings(None, tenant, false).await? {
        due.push(json!({
            "kind": "finding", "standing": "late", "due_at": finding.opened_at, "plane_id": finding.plane_id, "finding_id": finding.id,
            "why": ["something of this purged plane came back"], "next": format!("lethe finding show {}", finding.id),
        }));
    }
    let filter = ProbeFilter { tenant_id: tenant, due: true, ..ProbeFilter::default() };
    for probe in tx.probes(&filter).await?.into_iter().filter(|probe| probe.status == ProbeStatus::Failed) {
        if !known.insert(probe.plane_id) {
            continue;
        }
        // One that was asked since has said what this one could not.
        let of_plane = tx.probes(&ProbeFilter { plane_id: Some(probe.plane_id), ..ProbeFilter::default() }).await?;
        let answered = |other: &Probe| matches!(other.status, ProbeStatus::Clean | ProbeStatus::Found);
        if of_plane.iter().any(|other| answered(other) && other.finished_at > probe.finished_at) {
            continue;
        }
        due.push(json!({
            "kind": "probe_failed", "standing": "late", "due_at": probe.finished_at, "plane_id": probe.plane_id,
            "why": [probe.last_error.as_ref().and_then(|error| error["message"].as_str()).unwrap_or("it could not be asked")],
            "next": format!("lethe probe run {}", probe.plane_id),
        }));
    }
    Ok(due)
}

/// What concerns whoever runs it all: runs that nobody takes, notices that nobody got.
async fn of_everybody(app: &App, tx: &mut Tx, pauses: &[Pause]) -> Result<Vec<Json>, super::Stop> {
    let mut due = Vec::new();
    let since = tx.at() - app.config.due.stalled_after.0;
    if let Some(stalled) = tx.stalled(since, 1_000).await? {
        let mut why = vec![format!(
            "{}{} run(s) are due and nobody takes them",
            if stalled.runs < 1_000 { "" } else { "at least " },
            stalled.runs
        )];
        why.extend(pauses.iter().map(|pause| format!("{} is paused by {}: {}", pause.scope, pause.paused_by, pause.reason)));
        due.push(json!({
            "kind": "stalled", "standing": "late", "due_at": stalled.since, "why": why, "next": "lethe serve   (or: lethe resume …)",
        }));
    }
    if app.manager.channels.names().is_empty() && tx.notices_are_due().await? {
        due.push(json!({
            "kind": "notices_waiting", "standing": "late", "due_at": tx.at(),
            "why": ["notices are due, and this configuration names no channel by which somebody could be told"],
            "next": "lethe notice list --status queued   (and name a channel in [notices])",
        }));
    }
    let failed = NoticeFilter { status: Some(NoticeStatus::Failed), ..NoticeFilter::default() };
    for notice in tx.notices(&failed, LIMIT as i64).await? {
        due.push(json!({
            "kind": "notice_failed", "standing": "late", "due_at": notice.happens_at, "plane_id": notice.plane_id,
            "why": [format!("nobody could be told of {}: {}", notice.kind, notice.last_error.unwrap_or_default())],
            "next": format!("lethe notice retry {}", notice.id),
        }));
    }
    Ok(due)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Extend {
    plane: String,
    reason: String,
    /// When the person concerned was told: an instant, or a day where the law is counted.
    told: String,
}

/// Extends a legal deadline once, as far as its law allows, where the person concerned was told in time.
pub(super) async fn extend(app: &App, tx: &mut Tx, call: &Call, _prepared: Json) -> Outcome {
    let args: Extend = arguments(call)?;
    let found = lookup::plane(tx, call, &args.plane).await?;
    said("--reason", &args.reason)?;
    let refuse = |code: Code, message: String| found.refuse(Refusal::new(code, message));
    let open = tx.offboardings_of(found.plane.id).await?.into_iter().find(|one| one.status == OffboardingStatus::Open);
    let deadline = match &open {
        Some(open) => tx.deadline(open.id).await?,
        None => None,
    };
    let (Some(open), Some(deadline)) = (open, deadline) else {
        return Err(refuse(Code::NoDeadline, "no offboarding of the plane is open that has a legal deadline".into()));
    };
    if let Some(at) = deadline.extended_at {
        let message =
            format!("it was extended at {} already, to {}, and a deadline is extended once", at.to_rfc3339(), deadline.due_on);
        return Err(refuse(Code::ExtensionNotAllowed, message));
    }
    let Some(extension) = deadline.extension_due_at else {
        return Err(refuse(Code::ExtensionNotAllowed, format!("a deadline of {} cannot be extended", deadline.law)));
    };
    let zone: Zone = deadline.zone.parse().unwrap_or(app.config.due.zone);
    let told_at = match (args.told.parse::<DateTime<Utc>>(), args.told.parse::<NaiveDate>()) {
        (Ok(at), _) => at,
        // On the day of the arrival, somebody was told after it.
        (_, Ok(day)) if day == zone.day(open.terms.received_at) => open.terms.received_at,
        (_, Ok(day)) => zone.begin(day),
        _ => {
            let message =
                format!("--told: `{}` is neither an instant like 2026-01-31T12:00:00Z nor a day like 2026-01-31", args.told);
            return Err(refuse(Code::InvalidArgument, message));
        }
    };
    if told_at > tx.at() || told_at < open.terms.received_at {
        let message = format!("--told: {} is not between the demand's arrival and now", told_at.to_rfc3339());
        return Err(refuse(Code::InvalidArgument, message));
    }
    if told_at >= deadline.due_at || tx.at() >= deadline.due_at {
        let message = format!(
            "the person is told, and the deadline extended, by the end of {} ({}): that has passed",
            deadline.first_due_on, deadline.zone
        );
        return Err(refuse(Code::ExtensionNotAllowed, message));
    }
    tx.extend_deadline(open.id, told_at, &call.actor.to_string(), &args.reason).await?;
    let mut entry = Entry::new(
        Chain::Plane(found.plane.id),
        Some(found.tenant.id),
        EventType::DeadlineExtended,
        &call.actor,
        &call.operation,
    );
    entry.offboarding_id = Some(open.id);
    entry.gate = Some(app.manager.gate.decision("ALLOWED", None));
    entry.reason = Some(args.reason);
    entry.evidence = json!({"law": deadline.law, "from": deadline.due_at, "to": extension, "told_at": told_at});
    tx.append(entry).await?;
    app.manager.announce(tx, of_offboarding(NoticeKind::Deadline, &open, extension)).await?;
    status::of(app, tx, &found).await
}
