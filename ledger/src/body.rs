//! An entry's body as it is read: the members with which something else must agree, borrowed from its text.
//!
//! The rule: whatever is said of an entry elsewhere, by a column or a leaf, follows from its body, and is computed here. It only computes.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::{Value as Json, value::RawValue};

/// A text, borrowed where it holds nothing escaped.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub(crate) struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl std::ops::Deref for Text<'_> {
    type Target = str;
    fn deref(&self) -> &str {
        &self.0
    }
}

/// What a personal value is committed to by.
#[derive(Debug, Deserialize)]
pub(crate) struct Committed<'a> {
    #[serde(borrow)]
    pub(crate) commitment: Text<'a>,
}

#[derive(Debug, Deserialize)]
struct Gate<'a> {
    #[serde(borrow)]
    decision: Text<'a>,
    #[serde(borrow)]
    policy_revision: Option<Text<'a>>,
}

/// An entry's body.
#[derive(Debug, Deserialize)]
pub(crate) struct Body<'a> {
    #[serde(borrow)]
    pub(crate) actor_id: Option<Committed<'a>>,
    #[serde(borrow)]
    pub(crate) actor_type: Text<'a>,
    #[serde(borrow)]
    pub(crate) at: Text<'a>,
    #[serde(borrow)]
    pub(crate) chain: Text<'a>,
    #[serde(borrow)]
    pub(crate) event_id: Text<'a>,
    #[serde(borrow)]
    pub(crate) event_type: Text<'a>,
    #[serde(borrow)]
    pub(crate) evidence: &'a RawValue,
    #[serde(borrow)]
    pub(crate) evidence_digest: Text<'a>,
    #[serde(borrow)]
    pub(crate) from_state: Option<Text<'a>>,
    #[serde(borrow)]
    gate: Option<Gate<'a>>,
    #[serde(borrow)]
    pub(crate) offboarding_id: Option<Text<'a>>,
    #[serde(borrow)]
    pub(crate) plane_id: Option<Text<'a>>,
    #[serde(borrow)]
    pub(crate) reason: Option<Committed<'a>>,
    pub(crate) sequence_no: i64,
    #[serde(borrow)]
    pub(crate) tenant_id: Text<'a>,
    #[serde(borrow)]
    pub(crate) to_state: Option<Text<'a>>,
}

/// What questions find an entry by, out of its body.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    /// How it ended.
    pub(crate) outcome: &'static str,
    pub(crate) approval_id: Option<String>,
    pub(crate) policy_revision: Option<String>,
}

impl<'a> Body<'a> {
    pub(crate) fn read(text: &'a str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text)
    }

    /// What questions find it by.
    pub(crate) fn asked(&self) -> Asked {
        let evidence = self.evidence.get();
        // Few entries say it of themselves; the others' evidence need not be read.
        let says = evidence.contains("\"approval_id\"") || evidence.contains("\"policy_revision\"");
        let evidence: Json = if says { serde_json::from_str(evidence).unwrap_or_default() } else { Json::Null };
        let said = |member: &str| evidence[member].as_str().map(ToOwned::to_owned);
        let gate = self.gate.as_ref();
        Asked {
            outcome: outcome(&self.event_type, gate.map(|gate| &*gate.decision)),
            approval_id: said("approval_id"),
            policy_revision: gate
                .and_then(|gate| gate.policy_revision.as_deref().map(ToOwned::to_owned))
                .or_else(|| said("policy_revision")),
        }
    }
}

/// How an entry ended, as questions have it.
fn outcome(event_type: &str, decision: Option<&str>) -> &'static str {
    match (decision, event_type) {
        (Some("ALLOWED"), _) => "ALLOWED",
        (Some("PENDING"), _) => "PENDING",
        (Some("BLOCKED"), _) | (None, "BLOCKED" | "DENIED") => "BLOCKED",
        (_, "STAGE_FAILED" | "NOTICE_FAILED" | "PROBE_FAILED") => "FAILED",
        _ => "DONE",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(gate: &str, event_type: &str, evidence: &str) -> String {
        format!(
            r#"{{"actor_id":{{"commitment":"c\n"}},"actor_type":"user","at":"now","chain":"system","event_id":"e","event_type":"{event_type}","evidence":{evidence},"evidence_digest":"d","from_state":null,"gate":{gate},"offboarding_id":null,"plane_id":null,"reason":null,"schema_version":1,"sequence_no":7,"tenant_id":"t","to_state":null}}"#
        )
    }

    #[test]
    fn what_questions_ask_for_follows_from_the_body() {
        let asked = |gate: &str, event_type: &str, evidence: &str| {
            let text = body(gate, event_type, evidence);
            let read = Body::read(&text).unwrap();
            assert_eq!((&*read.actor_id.as_ref().unwrap().commitment, read.sequence_no), ("c\n", 7));
            let Asked { outcome, approval_id, policy_revision } = read.asked();
            (outcome, approval_id, policy_revision)
        };
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(asked("null", "APPROVED", r#"{"approval_id":"a"}"#), ("DONE", some("a"), None));
        assert_eq!(asked("null", "DENIED", r#"{"policy_revision":"p"}"#), ("BLOCKED", None, some("p")));
        let pending = r#"{"code":"X","decision":"PENDING","policy_revision":"q"}"#;
        assert_eq!(asked(pending, "BLOCKED", r#"{"policy_revision":"p"}"#), ("PENDING", None, some("q")));
        assert_eq!(asked("null", "STAGE_FAILED", r#"{"approval_id":5}"#), ("FAILED", None, None));
        assert!(Body::read("{}").is_err() && Body::read(&body("null", "X", "{}")[1..]).is_err());
    }
}
