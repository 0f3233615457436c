//! Whether a purge was done as it must be: its steps as the trail has them, and what is missing, late or out of order.
//!
//! The rule: it is judged by the entries of its offboarding, by its legal deadline and by now, and by nothing else: the same entries are judged
//! the same way by everybody. Pure, so there is nothing to die in.

use chrono::{DateTime, TimeDelta, Utc};
use lethe_ledger::Found;
use serde::Serialize;
use serde_json::Value as Json;

/// How much later than planned a probe may be answered.
const PROBE_SLACK: TimeDelta = TimeDelta::days(1);

/// The steps in their order.
const STEPS: [&str; 6] = ["deregister", "verify", "deactivate", "export", "evict", "purge"];

/// An entry, as far as it is judged.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub(super) leaf_index: i64,
    pub(super) at: DateTime<Utc>,
    pub(super) event_type: String,
    pub(super) step: Option<String>,
    pub(super) to_state: Option<String>,
    /// Who; `None` where the name was destroyed.
    pub(super) by: Option<String>,
    pub(super) evidence: Json,
}

impl Seen {
    /// The entry, if it says when it was.
    pub(super) fn of(found: &Found) -> Option<Self> {
        let body = &found.entry.body;
        let text = |field: &str| body[field].as_str().map(str::to_owned);
        Some(Self {
            leaf_index: found.leaf_index,
            at: body["at"].as_str()?.parse().ok()?,
            event_type: text("event_type")?,
            step: text("step"),
            to_state: text("to_state"),
            by: found.entry.values["actor_id"]
                .as_str()
                .map(|id| format!("{}:{id}", body["actor_type"].as_str().unwrap_or_default())),
            evidence: body["evidence"].clone(),
        })
    }
}

/// All that is known of an offboarding whose purge began.
#[derive(Debug, Clone)]
pub(super) struct Story {
    /// Its entries, in their order.
    pub(super) entries: Vec<Seen>,
    /// Its legal deadline.
    pub(super) due_at: Option<DateTime<Utc>>,
    pub(super) now: DateTime<Utc>,
}

/// A step as it was done.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct StepSeen {
    pub(super) step: String,
    pub(super) started_at: Option<DateTime<Utc>>,
    pub(super) completed_at: Option<DateTime<Utc>>,
    pub(super) by: Option<String>,
}

/// What is not as it must be.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct StepFault {
    pub(super) step: String,
    /// MISSING, LATE, OUT_OF_ORDER, EARLY or BY_REQUESTER.
    pub(super) fault: &'static str,
    pub(super) why: String,
}

/// What was judged.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Judged {
    pub(super) begun_at: Option<DateTime<Utc>>,
    pub(super) finished_at: Option<DateTime<Utc>>,
    pub(super) steps: Vec<StepSeen>,
    pub(super) faults: Vec<StepFault>,
}

/// Judges an offboarding whose purge began.
pub(super) fn judge(story: &Story) -> Judged {
    let of = |event: &'static str, step: &'static str| {
        story.entries.iter().filter(move |seen| seen.event_type == event && seen.step.as_deref() == Some(step))
    };
    let all = |event: &'static str| story.entries.iter().filter(move |seen| seen.event_type == event);
    let mut judged = Judged::default();
    let mut faults = Vec::new();
    let mut fault = |step: &str, fault: &'static str, why: String| faults.push(StepFault { step: step.to_owned(), fault, why });

    let requested = all("REQUESTED").next();
    judged.steps.push(StepSeen {
        step: "request".into(),
        started_at: None,
        completed_at: requested.map(|seen| seen.at),
        by: requested.and_then(|seen| seen.by.clone()),
    });
    if requested.is_none() {
        fault("request", "MISSING", "nobody requested it".into());
    }
    let terms = requested.map_or(&Json::Null, |seen| &seen.evidence);
    // What is erased at the purge only is not evicted before.
    let steps = STEPS.iter().filter(|step| **step != "evict" || terms["evict"] != "at_purge");
    let mut before: Option<(&str, Option<i64>)> = requested.map(|seen| ("request", Some(seen.leaf_index)));
    for step in steps {
        let (started, mut completed) = (of("STAGE_STARTED", step).next(), of("STAGE_COMPLETED", step));
        let (first, last) = (of("STAGE_COMPLETED", step).next(), completed.next_back());
        let completed_at = last.map(|seen| seen.at);
        if *step == "purge" {
            // Who approved stands before what they released.
            approvals(story, requested, started, &mut judged.steps, &mut fault);
            (judged.begun_at, judged.finished_at) = (started.map(|seen| seen.at), completed_at);
        }
        judged.steps.push(StepSeen {
            step: (*step).into(),
            started_at: started.map(|seen| seen.at),
            completed_at,
            by: last.and_then(|seen| seen.by.clone()),
        });
        match (first, started) {
            (None, Some(_)) => fault(step, "MISSING", "it began and was not completed".into()),
            (None, None) => fault(step, "MISSING", "it was not done".into()),
            (Some(_), None) => fault(step, "MISSING", "it was completed and had never begun".into()),
            (Some(_), Some(_)) => {}
        }
        if let (Some((name, completed)), Some(started)) = (before, started)
            && completed.is_none_or(|completed| started.leaf_index < completed)
        {
            fault(step, "OUT_OF_ORDER", format!("it began before {name} was completed"));
        }
        before = Some((step, first.map(|seen| seen.leaf_index)));
        if let Some(due_at) = story.due_at {
            match completed_at {
                Some(at) if at > due_at => fault(step, "LATE", format!("it was due by {}", due_at.to_rfc3339())),
                None if story.now > due_at => {
                    fault(step, "LATE", format!("it was due by {}, and is not done", due_at.to_rfc3339()))
                }
                _ => {}
            }
        }
    }
    let archived = all("TRANSITION").find(|seen| seen.to_state.as_deref() == Some("ARCHIVED"));
    if let (Some(archived), Some(retention), Some(begun_at)) = (archived, terms["retention_s"].as_i64(), judged.begun_at) {
        let until = archived.at + TimeDelta::try_seconds(retention).unwrap_or(TimeDelta::MAX);
        if begun_at < until {
            fault("purge", "EARLY", format!("it was to be retained until {}", until.to_rfc3339()));
        }
    }
    if judged.finished_at.is_some() && all("TRANSITION").all(|seen| seen.to_state.as_deref() != Some("PURGED")) {
        fault("purge", "MISSING", "it was completed, and the plane never went to PURGED".into());
    }
    probes(story, &mut judged.steps, &mut fault);
    judged.faults = faults;
    judged
}

/// Who released the purge.
fn approvals(
    story: &Story,
    requested: Option<&Seen>,
    started: Option<&Seen>,
    steps: &mut Vec<StepSeen>,
    fault: &mut impl FnMut(&str, &'static str, String),
) {
    let used: Vec<&str> = started
        .map(|seen| seen.evidence["approvals"].as_array().into_iter().flatten().filter_map(Json::as_str).collect())
        .unwrap_or_default();
    if used.is_empty() {
        fault("approval", "MISSING", "the purge began under no approval".into());
    }
    for id in used {
        let given =
            story.entries.iter().find(|seen| seen.event_type == "APPROVED" && seen.evidence["approval_id"].as_str() == Some(id));
        let Some(given) = given else {
            fault("approval", "MISSING", format!("nobody gave the approval {id} that the purge used"));
            continue;
        };
        steps.push(StepSeen { step: "approval".into(), started_at: None, completed_at: Some(given.at), by: given.by.clone() });
        if started.is_some_and(|started| given.leaf_index > started.leaf_index) {
            fault("approval", "OUT_OF_ORDER", format!("the purge began before the approval {id} was given"));
        }
        let requester = requested.and_then(|seen| seen.by.as_ref());
        if requester.is_some() && requester == given.by.as_ref() {
            fault(
                "approval",
                "BY_REQUESTER",
                format!("{} requested it and approved it", given.by.as_deref().unwrap_or_default()),
            );
        }
    }
}

/// The probes that the purge promised, each with the first answer since it was due that answers no earlier one.
fn probes(story: &Story, steps: &mut Vec<StepSeen>, fault: &mut impl FnMut(&str, &'static str, String)) {
    let purge = |seen: &&Seen| seen.event_type == "STAGE_COMPLETED" && seen.step.as_deref() == Some("purge");
    let Some(purge) = story.entries.iter().rfind(purge) else { return };
    let mut answers: Vec<&Seen> =
        story.entries.iter().filter(|seen| matches!(seen.event_type.as_str(), "PROBED" | "RECURRED")).collect();
    let planned = purge.evidence["probes"]["at"].as_array().into_iter().flatten();
    for due_at in planned.filter_map(|at| at.as_str()?.parse::<DateTime<Utc>>().ok()) {
        let answer = answers.iter().position(|seen| seen.at >= due_at).map(|at| answers.remove(at));
        steps.push(StepSeen {
            step: "probe".into(),
            started_at: Some(due_at),
            completed_at: answer.map(|seen| seen.at),
            by: answer.and_then(|seen| seen.by.clone()),
        });
        let latest = due_at + PROBE_SLACK;
        match answer {
            Some(seen) if seen.at > latest => {
                fault(
                    "probe",
                    "LATE",
                    format!("it was planned for {}, and answered at {}", due_at.to_rfc3339(), seen.at.to_rfc3339()),
                );
            }
            None if story.now > latest => fault("probe", "MISSING", format!("it was planned for {}", due_at.to_rfc3339())),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn at(hours: i64) -> DateTime<Utc> {
        "2026-03-01T00:00:00Z".parse::<DateTime<Utc>>().expect("an instant") + TimeDelta::hours(hours)
    }

    /// A purge as it should be: a step an hour, and its two probes.
    fn story() -> Story {
        let mut entries: Vec<Seen> = Vec::new();
        let mut add = |hours: i64, event: &str, step: Option<&str>, by: &str, evidence: Json| {
            entries.push(Seen {
                leaf_index: entries.len() as i64,
                at: at(hours),
                event_type: event.into(),
                step: step.map(str::to_owned),
                to_state: None,
                by: Some(by.into()),
                evidence,
            });
        };
        add(0, "REQUESTED", None, "user:alice", json!({"evict": "after_archive", "retention_s": 3600}));
        for (hours, step) in (1..).zip(&STEPS[..5]) {
            add(hours, "STAGE_STARTED", Some(step), "system:w", json!({}));
            add(hours, "STAGE_COMPLETED", Some(step), "system:w", json!({}));
        }
        add(5, "TRANSITION", Some("evict"), "system:w", json!({}));
        add(6, "APPROVED", None, "user:bob", json!({"approval_id": "a"}));
        add(7, "STAGE_STARTED", Some("purge"), "system:w", json!({"approvals": ["a"]}));
        add(7, "STAGE_COMPLETED", Some("purge"), "system:w", json!({"probes": {"at": [at(31), at(60)]}}));
        add(7, "TRANSITION", Some("purge"), "system:w", json!({}));
        add(32, "PROBED", None, "system:w", json!({}));
        add(61, "PROBED", None, "system:w", json!({}));
        for (seen, to) in entries.iter_mut().filter(|seen| seen.event_type == "TRANSITION").zip(["ARCHIVED", "PURGED"]) {
            seen.to_state = Some(to.into());
        }
        Story { entries, due_at: Some(at(8)), now: at(1000) }
    }

    fn faults(story: &Story) -> Vec<String> {
        judge(story).faults.iter().map(|fault| format!("{} {}", fault.step, fault.fault)).collect()
    }

    #[test]
    fn a_purge_that_was_done_as_it_must_be_has_no_fault() {
        let judged = judge(&story());
        assert_eq!(judged.faults, []);
        let steps: Vec<_> = judged.steps.iter().map(|seen| seen.step.as_str()).collect();
        let wanted = ["request", "deregister", "verify", "deactivate", "export", "evict", "approval", "purge", "probe", "probe"];
        assert_eq!(steps, wanted);
        assert_eq!((judged.begun_at, judged.finished_at), (Some(at(7)), Some(at(7))));
    }

    #[test]
    fn each_step_that_is_missing_is_named() {
        for step in &STEPS[..5] {
            let mut story = story();
            story.entries.retain(|seen| seen.step.as_deref() != Some(step) || seen.event_type == "TRANSITION");
            assert!(faults(&story).contains(&format!("{step} MISSING")), "{step}: {:?}", faults(&story));
        }
        let mut unfinished = story();
        unfinished.entries.retain(|seen| !(seen.event_type == "STAGE_COMPLETED" && seen.step.as_deref() == Some("purge")));
        assert_eq!(faults(&unfinished), ["purge MISSING", "purge LATE"]);
        let mut unrequested = story();
        unrequested.entries.remove(0);
        assert_eq!(faults(&unrequested), ["request MISSING"]);
    }

    #[test]
    fn what_is_erased_at_the_purge_needs_no_evict() {
        let mut story = story();
        story.entries[0].evidence["evict"] = json!("at_purge");
        story.entries.retain(|seen| seen.step.as_deref() != Some("evict") || seen.event_type == "TRANSITION");
        assert_eq!(faults(&story), [""; 0]);
    }

    #[test]
    fn what_is_later_than_the_deadline_is_named_step_by_step() {
        let late = Story { due_at: Some(at(4)), ..story() };
        assert_eq!(faults(&late), ["evict LATE", "purge LATE"]);
    }

    #[test]
    fn an_approval_by_the_requester_or_none_or_one_that_came_later_is_named() {
        let given = |story: &Story| story.entries.iter().position(|seen| seen.event_type == "APPROVED").expect("one");
        let mut own = story();
        let place = given(&own);
        own.entries[place].by = Some("user:alice".into());
        assert_eq!(faults(&own), ["approval BY_REQUESTER"]);
        let mut nobody = story();
        nobody.entries.remove(place);
        assert_eq!(faults(&nobody), ["approval MISSING"]);
        let mut later = story();
        later.entries[place].leaf_index = 100;
        assert_eq!(faults(&later), ["approval OUT_OF_ORDER"]);
        let mut under_none = story();
        under_none.entries[place + 1].evidence = json!({"approvals": []});
        assert_eq!(faults(&under_none), ["approval MISSING"]);
    }

    #[test]
    fn a_step_out_of_order_and_a_retention_that_was_not_met_are_named() {
        let mut early = story();
        early.entries[0].evidence["retention_s"] = json!(3 * 3600);
        assert_eq!(faults(&early), ["purge EARLY"]);
        let mut order = story();
        let export = order.entries.iter().position(|seen| seen.step.as_deref() == Some("export")).expect("it");
        order.entries[export].leaf_index = 0;
        assert_eq!(faults(&order), ["export OUT_OF_ORDER"]);
    }

    #[test]
    fn a_probe_that_is_missing_or_late_is_named_and_one_that_is_yet_to_come_is_not() {
        let mut missing = story();
        missing.entries.pop();
        assert_eq!(faults(&missing), ["probe MISSING"]);
        missing.now = at(61);
        assert_eq!(faults(&missing), [""; 0], "a day is left");
        let mut late = story();
        late.entries.last_mut().expect("a probe").at = at(85);
        assert_eq!(faults(&late), ["probe LATE"]);
    }
}
