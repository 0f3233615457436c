//! A certificate of erasure (`lethe-certificate/v1`): a signed in-toto statement about a purged plane, with the proof that the purge and
//! the certificate itself stand in the log.
//!
//! The rule: the statement holds commitments to personal values, and the values stand outside the signature: they can be destroyed and
//! the certificate still holds. What is disclosed is compared with its commitment; what is signed is compared with the log. It only computes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use crate::{
    bundle::Verified,
    canonical,
    dsse::Envelope,
    entry::{Disclosed, Entry, Fault},
    note::{Checkpoint, PublicKey},
};

/// The document's name and version.
pub const FORMAT: &str = "lethe-certificate/v1";
/// The type of in-toto's statements.
pub const STATEMENT: &str = "https://in-toto.io/Statement/v1";
/// The type of what is stated.
pub const PREDICATE: &str = "urn:lethe:certificate-of-erasure:v1";

/// A certificate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Certificate {
    /// [`FORMAT`].
    pub format: String,
    /// The statement, signed.
    pub envelope: Envelope,
    /// Where it stands in the log; not there as long as the log has not sealed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<InLog>,
    /// Personal values, by the place of their commitment in the statement (a JSON pointer), as far as they still exist.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "crate::entry::each_once")]
    pub disclosed: BTreeMap<String, Disclosed>,
}

/// A certificate's place in the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InLog {
    /// The signed note.
    pub checkpoint: String,
    /// The plane's move to PURGED, and the entry that says that this certificate was issued.
    pub entries: Vec<Entry>,
}

/// A certificate that was verified.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct VerifiedCertificate {
    /// What was verified and what it rests on.
    #[serde(flatten)]
    pub verified: Verified,
    /// What is certified.
    pub predicate: Json,
}

fn fail<T>(why: impl ToString) -> Result<T, Fault> {
    Err(Fault::new("certificate", why))
}

impl Certificate {
    /// Reads a certificate. Nothing is verified.
    pub fn read(text: &str) -> Result<Self, Fault> {
        let certificate: Self = serde_json::from_str(text).map_err(|error| Fault::new("certificate", error))?;
        if certificate.format != FORMAT {
            return fail(format!("it is `{}`, not `{FORMAT}`", certificate.format));
        }
        Ok(certificate)
    }

    /// Checks everything in it.
    pub fn verify(&self, keys: &[PublicKey]) -> Result<VerifiedCertificate, Fault> {
        let (payload, signer) = self.envelope.verified(keys).map_err(|why| Fault::new("envelope", why))?;
        let statement = std::str::from_utf8(&payload).ok().and_then(canonical::read);
        let statement = statement.ok_or_else(|| Fault::new("statement", "it is not canonical JSON"))?;
        let (plane, purged) = subject(&statement)?;
        let Some(log) = &self.log else {
            return fail("it was taken before its entries were in the log: take it once more");
        };
        let (checkpoint, key) = Checkpoint::verified(&log.checkpoint, keys).map_err(|why| Fault::new("checkpoint", why))?;
        let mut verified = vec![
            format!("statement of {} bytes, signed by {signer}", payload.len()),
            format!("checkpoint of {}: {} leaves, signed by {key}", checkpoint.origin, checkpoint.size),
        ];
        let (mut of_purge, mut of_issue) = (None, None);
        for entry in &log.entries {
            let body = entry.verified()?;
            if !entry.included(&checkpoint)? {
                return Err(Fault::new(entry.name(), "it has no proof"));
            }
            let place = match body["event_type"].as_str() {
                Some("TRANSITION") => &mut of_purge,
                Some("CERTIFIED") => &mut of_issue,
                _ => return Err(Fault::new(entry.name(), "it does not belong into a certificate")),
            };
            if entry.chain != format!("plane:{plane}") {
                return Err(Fault::new(entry.name(), "it is of another plane"));
            }
            if place.replace((entry, body)).is_some() {
                return Err(Fault::new(entry.name(), "it stands twice"));
            }
        }
        let Some((entry, body)) = of_purge else { return fail("the plane's move to PURGED is not in it") };
        if body["to_state"] != "PURGED" || entry.hash != purged {
            return Err(Fault::new(entry.name(), "it is not the entry that the statement is about"));
        }
        verified.push(format!("plane {plane} is PURGED since {}: leaf {}", text(&body["at"]), entry.leaf_index));
        let Some((certified, issue)) = of_issue else { return fail("the entry that says that it was issued is not in it") };
        if issue["evidence"]["statement_digest"] != canonical::sha256(&payload) {
            return Err(Fault::new(certified.name(), "it is about another statement"));
        }
        let predicate = &statement["predicate"];
        for (name, found) in [("the purge's", &body), ("its issue's", &issue)] {
            for (field, stated) in [
                ("plane_id", &predicate["plane"]["id"]),
                ("tenant_id", &predicate["tenant"]["id"]),
                ("offboarding_id", &predicate["offboarding_id"]),
            ] {
                if found[field] != *stated {
                    return fail(format!("its {field} is not that of {name} entry"));
                }
            }
        }
        verified.push(format!("the certificate itself is in the log: leaf {}", certified.leaf_index));
        for (place, disclosed) in &self.disclosed {
            let committed =
                statement.pointer(place).ok_or_else(|| Fault::new(place.as_str(), "the statement has no such place"))?;
            disclosed.check(committed).map_err(|why| Fault::new(place.as_str(), why))?;
        }
        verified.push(format!("{} personal value(s): each is the one that was committed to", self.disclosed.len()));
        let trusted = vec![
            format!("that {signer} is the log's key, and was in nobody else's hands"),
            "what the statement says of stores: Lethe asked them, and nobody else did; its `not_covered` says of what nobody was asked"
                .to_owned(),
            "that nothing came back since: `lethe probe list` and `lethe finding list` say what was looked for later".to_owned(),
            "that the log showed others the same tree: compare its checkpoints with those that others keep".to_owned(),
        ];
        Ok(VerifiedCertificate { verified: Verified { verified, trusted }, predicate: predicate.clone() })
    }
}

/// Of which plane a statement is, and the hash of the entry with which it became PURGED.
fn subject(statement: &Json) -> Result<(String, String), Fault> {
    let fail = |why: &str| Err(Fault::new("statement", why));
    if statement["_type"] != STATEMENT || statement["predicateType"] != PREDICATE {
        return fail("it is no certificate of erasure");
    }
    let Some([subject]) = statement["subject"].as_array().map(Vec::as_slice) else { return fail("it has not one subject") };
    let plane = subject["name"].as_str().and_then(|name| name.strip_prefix("plane:"));
    let (Some(plane), Some(digest)) = (plane, subject["digest"]["sha256"].as_str()) else {
        return fail("its subject is no plane with a digest");
    };
    Ok((plane.to_owned(), format!("sha256:{digest}")))
}

fn text(value: &Json) -> &str {
    value.as_str().unwrap_or("?")
}
