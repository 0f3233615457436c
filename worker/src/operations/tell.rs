//! An entry of the trail in words.
//!
//! The rule: a sentence says what the entry says and nothing that would have to be guessed; what was destroyed is called so. It is made for
//! reading: programs read the entry. Pure, so there is nothing to die in.

use lethe_ledger::Found;
use serde_json::Value as Json;

use super::query::by;

fn text(value: &Json) -> &str {
    value.as_str().unwrap_or_default()
}

/// What happened.
pub(super) fn sentence(found: &Found) -> String {
    let (body, who) = (&found.entry.body, by(found));
    let (evidence, step, code) = (&body["evidence"], text(&body["step"]), text(&body["gate"]["code"]));
    let of = |field: &str| text(&evidence[field]).to_owned();
    let words = match text(&body["event_type"]) {
        "REGISTERED" => format!("{who} registered the {}", of("kind")),
        "REQUESTED" => format!("{who} requested the offboarding, ground {}", of("ground")),
        "TRANSITION" => format!("it went from {} to {}", text(&body["from_state"]), text(&body["to_state"])),
        "BLOCKED" if body["gate"]["decision"] == "PENDING" => format!("{step} waits: {code}"),
        "BLOCKED" if step.is_empty() => format!("{who} was refused {}: {code}", text(&body["decision_owner"])),
        "BLOCKED" => format!("{step} was refused: {code}"),
        "CANCELLED" => format!("{who} cancelled the offboarding"),
        "STAGE_STARTED" => format!("{step} began, allowed by the gate"),
        "STAGE_COMPLETED" => format!("{step} was completed"),
        "STAGE_FAILED" if evidence["halted"] == true => format!("{step} failed and halted: {}", of("code")),
        "STAGE_FAILED" => format!("{step} failed and is tried again: {}", of("code")),
        "STAGE_RETRIED" => format!("{who} let {step} go on"),
        "STAGE_INTERRUPTED" => format!("{step} was taken back from its worker"),
        "APPROVED" => format!("{who} ({}) approved the destruction plan {}", of("identity_assurance"), of("plan_digest")),
        "DENIED" => format!("{who} ({}) denied the destruction plan {}", of("identity_assurance"), of("plan_digest")),
        "APPROVAL_WITHDRAWN" => format!("{who} took the approval {} back", of("approval_id")),
        "APPROVAL_EXPIRED" => format!("the approval {} ended unused", of("approval_id")),
        "APPROVAL_ENDING" => format!("the approval {} ends soon", of("approval_id")),
        "HOLD_PLACED" => format!("{who} placed a hold on the {}", of("subject")),
        "HOLD_RELEASED" => format!("{who} released a hold on the {}", of("subject")),
        "PROTECTED" => format!("{who} protected the tenant until {}", of("protected_until")),
        "BREAK_GLASS" => format!("{who} cut the grace period short"),
        "REVIEWED" => format!("{who} reviewed that the grace period was cut short"),
        "DEADLINE_EXTENDED" => format!("{who} extended the legal deadline to {}", of("to")),
        "ROLLBACK" => "what had been suspended was restored".to_owned(),
        "TOKEN_ISSUED" => format!("{who} issued a token"),
        "TOKEN_REVOKED" => format!("{who} revoked a token"),
        "PROBED" => "a probe found nothing".to_owned(),
        "RECURRED" => "a probe found that something came back".to_owned(),
        "PROBE_FAILED" => format!("a probe could not be asked: {}", of("code")),
        "PROBE_REQUESTED" => format!("{who} asked for a probe"),
        "FINDING_CLOSED" => format!("{who} closed the finding {}", of("finding_id")),
        "ARCHIVE_RESTORED" => format!("{who} restored the archive into the plane {}", of("into")),
        "ARCHIVE_KEY_TAKEN" => format!("{who} took the key of the archive"),
        "PAUSED" => format!("{who} paused {}", of("scope")),
        "RESUMED" => format!("{who} resumed {}", of("scope")),
        other => format!("{who}: {}", other.to_lowercase().replace('_', " ")),
    };
    match found.entry.values["reason"].as_str() {
        Some(reason) => format!("{words}: {reason}"),
        None => words,
    }
}
