//! Questions to the audit trail: any entries by what they are, and the questions that auditors ask again and again.
//!
//! The rule: an answer is made of entries that are sealed, each with its leaf's number; how many wait to be sealed is said and not hidden. Who
//! is confined to a tenant is answered about that tenant and about nothing else. It reads; nothing happens if we die in it.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Datelike, Months, NaiveDate, Utc};
use lethe_ledger::{Actor, EventType, Found, PAGE_MAX, TrailOutcome, TrailPage, TrailQuery, Tx};
use lethe_stages::{Code, Refusal};
use serde::Deserialize;
use serde_json::{Value as Json, json};
use uuid::Uuid;

use super::{
    App, Call, Outcome, Stop, arguments, lookup, operator,
    purges::{Seen, Story, judge},
    tell::sentence,
};

/// What is shown unless more is asked for.
const LIMIT: usize = 100;
/// Pages that one standing question reads at most.
const PAGES_MAX: usize = 200;
/// How a tenant is named whose entries concern none.
const SYSTEM: &str = "__system__";

/// Seals what waits, so that the answer is complete. That it cannot is said by the answer, which counts what is not sealed.
pub(super) async fn prepare(app: &App, _call: &Call) -> Outcome {
    let report = app.manager.seal().await?;
    Ok(json!({"log_stopped": report.stopped}))
}

fn invalid(message: String) -> Stop {
    Refusal::new(Code::InvalidArgument, message).into()
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Asked {
    tenant: Option<String>,
    /// What concerns no tenant. Not a tenant's name: the policies are asked about what is named, and this is everybody's.
    system: bool,
    plane: Option<String>,
    offboarding: Option<String>,
    approval: Option<String>,
    event_types: Vec<String>,
    outcomes: Vec<String>,
    actor: Option<String>,
    policy_revision: Option<String>,
    text: Option<String>,
    code: Option<String>,
    quarter: Option<String>,
    from: Option<String>,
    until: Option<String>,
    newest: bool,
    faults: bool,
    after: Option<i64>,
    limit: Option<usize>,
}

/// An instant, or the beginning of a day where deadlines are counted.
fn instant(app: &App, flag: &str, text: Option<&String>) -> Result<Option<DateTime<Utc>>, Stop> {
    let Some(text) = text else { return Ok(None) };
    match (text.parse::<DateTime<Utc>>(), text.parse::<NaiveDate>()) {
        (Ok(at), _) => Ok(Some(at)),
        (_, Ok(day)) => Ok(Some(app.config.due.zone.begin(day))),
        _ => Err(invalid(format!("{flag}: `{text}` is neither an instant like 2026-01-31T12:00:00Z nor a day like 2026-01-31"))),
    }
}

/// The first day of a quarter, and that of the next one.
fn quarter(text: &str) -> Option<(NaiveDate, NaiveDate)> {
    let (year, number) = text.split_once(['Q', 'q'])?;
    let number: u32 = number.parse().ok().filter(|number| (1..=4).contains(number))?;
    let first = NaiveDate::from_ymd_opt(year.trim_end_matches('-').parse().ok()?, number * 3 - 2, 1)?;
    (first.year() > 0).then_some((first, first + Months::new(3)))
}

/// What is asked, as far as the caller may see it.
async fn read(app: &App, tx: &mut Tx, call: &Call, asked: &Asked) -> Result<TrailQuery, Stop> {
    let id = |flag: &str, text: &Option<String>| {
        text.as_ref()
            .map(|text| text.parse::<Uuid>().map_err(|error| invalid(format!("{flag}: `{text}` is no id: {error}"))))
            .transpose()
    };
    if asked.system {
        operator(call)?;
        if asked.tenant.is_some() || asked.plane.is_some() {
            return Err(invalid("what concerns no tenant is of none and about no plane".into()));
        }
    }
    let tenant_id = match asked.tenant.as_ref().or(call.tenant.as_ref()) {
        Some(name) => Some(lookup::tenant(tx, call, name).await?.id.to_string()),
        None => asked.system.then(|| SYSTEM.to_owned()),
    };
    let plane_id = match &asked.plane {
        Some(plane) => Some(lookup::seen(tx, call, plane).await?.plane.id),
        None => None,
    };
    let types = asked.event_types.iter().map(|text| text.to_uppercase().parse::<EventType>());
    let outcomes = asked.outcomes.iter().map(|text| text.to_uppercase().parse::<TrailOutcome>());
    let limit = asked.limit.unwrap_or(LIMIT);
    if !(1..=PAGE_MAX).contains(&limit) {
        return Err(invalid(format!("--limit: {limit} is not between 1 and {PAGE_MAX}")));
    }
    if let Some(after) = asked.after.filter(|after| *after < 0) {
        return Err(invalid(format!("--after: {after} is not the `next` of an answer")));
    }
    for (flag, text) in [("--text", &asked.text), ("--policy-revision", &asked.policy_revision), ("--code", &asked.code)] {
        if text.as_ref().is_some_and(|text| text.trim().is_empty()) {
            return Err(invalid(format!("{flag} is empty")));
        }
    }
    let (mut from, mut until) = (instant(app, "--from", asked.from.as_ref())?, instant(app, "--until", asked.until.as_ref())?);
    if let Some(text) = &asked.quarter {
        let (first, next) = quarter(text).ok_or_else(|| invalid(format!("--quarter: `{text}` is not a quarter like 2026Q4")))?;
        (from, until) = (Some(app.config.due.zone.begin(first)), Some(app.config.due.zone.begin(next)));
    }
    if let (Some(from), Some(until)) = (from, until)
        && from >= until
    {
        return Err(invalid(format!("--from {} is not before --until {}", from.to_rfc3339(), until.to_rfc3339())));
    }
    Ok(TrailQuery {
        tenant_id,
        plane_id,
        offboarding_id: id("--offboarding", &asked.offboarding)?,
        approval_id: id("--approval", &asked.approval)?,
        event_types: types.collect::<Result<_, _>>().map_err(|error| invalid(format!("--action: {error}")))?,
        outcomes: outcomes.collect::<Result<_, _>>().map_err(|error| invalid(format!("--outcome: {error}")))?,
        actor: asked
            .actor
            .as_ref()
            .map(|actor| actor.parse::<Actor>())
            .transpose()
            .map_err(|error| invalid(format!("--by: {error}")))?,
        policy_revision: asked.policy_revision.clone(),
        text: asked.text.clone(),
        from,
        until,
        newest: asked.newest,
        after: asked.after,
        limit,
    })
}

/// What every answer says of itself.
fn answer(mut document: Json, prepared: &Json, page: &TrailPage) -> Json {
    document["unsealed"] = json!(page.unsealed);
    document["looked"] = json!(page.looked);
    if let Some(next) = page.next {
        document["next"] = json!(next);
    }
    if !prepared["log_stopped"].is_null() {
        document["log_stopped"] = prepared["log_stopped"].clone();
    }
    document
}

/// A page of entries.
pub(super) async fn query(app: &App, tx: &mut Tx, call: &Call, prepared: Json) -> Outcome {
    let query = read(app, tx, call, &arguments(call)?).await?;
    let page = tx.query_trail(&query).await?;
    Ok(answer(json!({"entries": page.rows}), &prepared, &page))
}

/// Hands every entry that is asked for to `each`, page by page. The page that it answers has no rows; its `next` is where it stopped.
async fn walk(tx: &mut Tx, query: &TrailQuery, each: &mut (dyn FnMut(Found) + Send)) -> Result<TrailPage, Stop> {
    let mut query = TrailQuery { limit: 1000, ..query.clone() };
    let mut all = TrailPage::default();
    for _ in 0..PAGES_MAX {
        let page = tx.query_trail(&query).await?;
        page.rows.into_iter().for_each(&mut *each);
        (all.looked, all.unsealed, all.next) = (all.looked + page.looked, page.unsealed, page.next);
        if page.next.is_none() {
            break;
        }
        query.after = page.next;
    }
    Ok(all)
}

fn text(value: &Json) -> Option<String> {
    value.as_str().map(str::to_owned)
}

/// Who did it; without the name where that was destroyed.
pub(super) fn by(found: &Found) -> String {
    let kind = found.entry.body["actor_type"].as_str().unwrap_or_default();
    format!("{kind}:{}", found.entry.values["actor_id"].as_str().unwrap_or("(erased)"))
}

/// Who decided on which destruction plan, how that is known, and which purge used it.
pub(super) async fn approvals(app: &App, tx: &mut Tx, call: &Call, prepared: Json) -> Outcome {
    let mut query = read(app, tx, call, &arguments(call)?).await?;
    query.event_types = vec![EventType::Approved, EventType::Denied, EventType::ApprovalWithdrawn, EventType::ApprovalExpired];
    let page = tx.query_trail(&query).await?;
    let offboardings: BTreeSet<Uuid> = page.rows.iter().filter_map(|found| id(&found.entry.body["offboarding_id"])).collect();
    let mut used: BTreeMap<String, Json> = BTreeMap::new();
    for offboarding in offboardings {
        let starts =
            TrailQuery { offboarding_id: Some(offboarding), event_types: vec![EventType::StageStarted], ..TrailQuery::default() };
        walk(tx, &starts, &mut |found| {
            let body = &found.entry.body;
            for approval in body["evidence"]["approvals"].as_array().into_iter().flatten().filter_map(text) {
                let purge = json!({"event_id": body["event_id"], "at": body["at"], "leaf_index": found.leaf_index});
                used.entry(approval).or_insert(purge);
            }
        })
        .await?;
    }
    let decision = |found: &Found| {
        let (body, evidence) = (&found.entry.body, &found.entry.body["evidence"]);
        json!({
            "leaf_index": found.leaf_index, "at": body["at"], "what": body["event_type"], "by": by(found),
            "reason": found.entry.values["reason"], "tenant_id": body["tenant_id"], "plane_id": body["plane_id"],
            "offboarding_id": body["offboarding_id"], "approval_id": evidence["approval_id"], "plan_digest": evidence["plan_digest"],
            "identity_assurance": evidence["identity_assurance"], "key_fingerprint": evidence["key_fingerprint"],
            "expires_at": evidence["expires_at"],
            "used_by": evidence["approval_id"].as_str().and_then(|approval| used.get(approval)),
        })
    };
    Ok(answer(json!({"decisions": page.rows.iter().map(decision).collect::<Vec<_>>()}), &prepared, &page))
}

fn id(value: &Json) -> Option<Uuid> {
    value.as_str().and_then(|text| text.parse().ok())
}

/// What was refused: how often, by code and actor, and the latest of it.
pub(super) async fn refusals(app: &App, tx: &mut Tx, call: &Call, prepared: Json) -> Outcome {
    let asked: Asked = arguments(call)?;
    let mut query = read(app, tx, call, &asked).await?;
    let shown = query.limit;
    (query.event_types, query.outcomes, query.newest) = (vec![EventType::Blocked], vec![TrailOutcome::Blocked], true);
    let mut counts: BTreeMap<(String, String), (u64, String, String)> = BTreeMap::new();
    let mut latest = Vec::new();
    let page = walk(tx, &query, &mut |found| {
        let body = &found.entry.body;
        let code = body["gate"]["code"].as_str().unwrap_or_default().to_owned();
        if asked.code.as_ref().is_some_and(|asked| *asked != code) {
            return;
        }
        let (by, at) = (by(&found), body["at"].as_str().unwrap_or_default().to_owned());
        let count = counts.entry((code.clone(), by.clone())).or_insert_with(|| (0, at.clone(), at.clone()));
        (count.0, count.1) = (count.0 + 1, at);
        if latest.len() < shown {
            latest.push(json!({
                "leaf_index": found.leaf_index, "at": body["at"], "code": code, "by": by, "asked_for": body["decision_owner"],
                "step": body["step"], "tenant_id": body["tenant_id"], "plane_id": body["plane_id"],
                "policy_revision": body["gate"]["policy_revision"],
            }));
        }
    })
    .await?;
    let total: u64 = counts.values().map(|count| count.0).sum();
    let mut counts: Vec<_> = counts
        .into_iter()
        .map(|((code, by), (times, first, last))| json!({"code": code, "by": by, "times": times, "first_at": first, "last_at": last}))
        .collect();
    counts.sort_by_key(|count| std::cmp::Reverse(count["times"].as_u64()));
    Ok(answer(json!({"total": total, "counts": counts, "refusals": latest}), &prepared, &page))
}

/// Everything about a plane in order, in words, with what concerns its tenant as a whole.
pub(super) async fn about(app: &App, tx: &mut Tx, call: &Call, prepared: Json) -> Outcome {
    let asked: Asked = arguments(call)?;
    let query = read(app, tx, call, &asked).await?;
    let reference = asked.plane.as_ref().ok_or_else(|| invalid("name a plane".into()))?;
    let found = lookup::seen(tx, call, reference).await?;
    let mut rows: BTreeMap<i64, Json> = BTreeMap::new();
    let row = |found: &Found, concerns: &str| {
        let body = &found.entry.body;
        json!({
            "leaf_index": found.leaf_index, "at": body["at"], "what": sentence(found), "concerns": concerns, "by": by(found),
            "event_type": body["event_type"], "outcome": found.outcome, "code": body["gate"]["code"],
            "reason": found.entry.values["reason"], "event_id": body["event_id"],
        })
    };
    let mut page = walk(tx, &query, &mut |found| drop(rows.insert(found.leaf_index, row(&found, "plane")))).await?;
    let of_tenant = TrailQuery {
        tenant_id: Some(found.tenant.id.to_string()),
        plane_id: None,
        event_types: vec![
            EventType::Registered,
            EventType::StatusChanged,
            EventType::Protected,
            EventType::HoldPlaced,
            EventType::HoldReleased,
            EventType::Paused,
            EventType::Resumed,
        ],
        ..query
    };
    let tenants = walk(tx, &of_tenant, &mut |found| {
        if found.entry.body["plane_id"].is_null() {
            rows.insert(found.leaf_index, row(&found, "tenant"));
        }
    })
    .await?;
    page.looked += tenants.looked;
    let story: Vec<_> = rows.into_values().collect();
    let name = found.plane.name.as_deref().unwrap_or("(erased)");
    let document = json!({
        "plane_id": found.plane.id, "plane": format!("{}/{name}", found.tenant.name), "state": found.plane.state, "story": story,
    });
    Ok(answer(document, &prepared, &page))
}

/// Every purge that was begun or finished in a time, with its steps and what is missing or late.
pub(super) async fn purges(app: &App, tx: &mut Tx, call: &Call, prepared: Json) -> Outcome {
    let asked: Asked = arguments(call)?;
    let mut query = read(app, tx, call, &asked).await?;
    query.event_types = vec![EventType::StageStarted, EventType::Transition];
    let mut begun: Vec<(Uuid, Json)> = Vec::new();
    let mut known = BTreeSet::new();
    let page = walk(tx, &query, &mut |found| {
        let body = &found.entry.body;
        if body["step"] == "purge"
            && let Some(offboarding) = id(&body["offboarding_id"])
            && known.insert(offboarding)
        {
            begun.push((offboarding, body.clone()));
        }
    })
    .await?;
    let mut purges = Vec::new();
    let mut faulty = 0;
    for (offboarding, body) in begun {
        let all = TrailQuery { offboarding_id: Some(offboarding), ..TrailQuery::default() };
        let mut entries = Vec::new();
        walk(tx, &all, &mut |found| entries.extend(Seen::of(&found))).await?;
        let due_at = tx.deadline(offboarding).await?.map(|deadline| deadline.due_at);
        let judged = judge(&Story { entries, due_at, now: tx.at() });
        faulty += usize::from(!judged.faults.is_empty());
        if asked.faults && judged.faults.is_empty() {
            continue;
        }
        purges.push(json!({
            "offboarding_id": offboarding, "plane_id": body["plane_id"], "tenant_id": body["tenant_id"], "due_at": due_at,
            "begun_at": judged.begun_at, "finished_at": judged.finished_at, "steps": judged.steps, "faults": judged.faults,
            "in_order": judged.faults.is_empty(),
        }));
    }
    let document =
        json!({"from": query.from, "until": query.until, "found": known.len(), "with_faults": faulty, "purges": purges});
    Ok(answer(document, &prepared, &page))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quarter_has_three_months() {
        let day = |text: &str| text.parse::<NaiveDate>().expect("a day");
        assert_eq!(quarter("2026Q4"), Some((day("2026-10-01"), day("2027-01-01"))));
        assert_eq!(quarter("2026-q1"), Some((day("2026-01-01"), day("2026-04-01"))));
        for wrong in ["2026", "Q4", "2026Q0", "2026Q5", "x2026Q1", "2026Q1x", ""] {
            assert_eq!(quarter(wrong), None, "{wrong}");
        }
    }
}
