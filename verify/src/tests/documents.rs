//! Bundles and certificates: what holds is verified, and nothing that was changed is.

use proptest::prelude::*;
use serde_json::{Value as Json, json};

use super::{Log, PLANE, TENANT, keys};
use crate::{
    bundle::{Bundle, Complete},
    certificate::Certificate,
    note::SigningKey,
};

/// Whether a document of either kind verifies.
pub(super) fn holds(text: &str, keys: &[crate::note::PublicKey]) -> Result<(), String> {
    let said = if text.contains("lethe-certificate") {
        Certificate::read(text).and_then(|certificate| certificate.verify(keys)).map(drop)
    } else {
        Bundle::read(text).and_then(|bundle| bundle.verify(keys)).map(drop)
    };
    said.map_err(|fault| fault.to_string())
}

/// Changes every character of what a document says, one at a time, where `every` of them; none may verify afterwards. The question is the
/// reader's own.
pub(super) fn no_change_verifies(document: &Json, keys: &[crate::note::PublicKey], every: usize) -> usize {
    fn places(value: &Json, at: String, found: &mut Vec<(String, usize)>) {
        match value {
            Json::Object(members) => {
                members.iter().filter(|(key, _)| !at.is_empty() || *key != "question").for_each(|(key, value)| {
                    let key = key.replace('~', "~0").replace('/', "~1");
                    places(value, format!("{at}/{key}"), found)
                })
            }
            Json::Array(items) => items.iter().enumerate().for_each(|(index, item)| places(item, format!("{at}/{index}"), found)),
            Json::String(text) => found.extend((0..text.len()).map(|byte| (at.clone(), byte))),
            Json::Number(_) => found.push((at, 0)),
            _ => {}
        }
    }
    let mut found = Vec::new();
    places(document, String::new(), &mut found);
    let mut tried = 0;
    for (at, byte) in found.into_iter().step_by(every) {
        let mut changed = document.clone();
        let place = changed.pointer_mut(&at).unwrap();
        match place {
            Json::String(text) => {
                let mut bytes = text.clone().into_bytes();
                bytes[byte] = if bytes[byte] == b'A' { b'B' } else { b'A' };
                let Ok(text) = String::from_utf8(bytes) else { continue };
                *place = json!(text);
            }
            Json::Number(number) => *place = json!(number.as_u64().unwrap() + 1),
            _ => continue,
        }
        assert!(holds(&changed.to_string(), keys).is_err(), "{at}, byte {byte}");
        tried += 1;
    }
    tried
}

#[test]
fn what_is_asked_for_is_shown_and_complete() {
    let (log, envelope) = Log::story();
    for bundle in [log.of_plane(), log.of_tenant()] {
        let verified = bundle.verify(&keys()).unwrap();
        assert!(verified.verified.iter().any(|line| line.starts_with("no entry of")), "{verified:?}");
    }
    let certificate = log.certificate(&envelope);
    let verified = certificate.verify(&keys()).unwrap();
    assert_eq!(verified.predicate["plane"]["id"], PLANE);
    // A destroyed value breaks nothing.
    let mut less = certificate.clone();
    less.disclosed.clear();
    less.log.as_mut().unwrap().entries.iter_mut().for_each(|entry| entry.values = None);
    less.verify(&keys()).unwrap();
    let mut early = certificate;
    early.log = None;
    assert!(early.verify(&keys()).unwrap_err().to_string().contains("before its entries were in the log"));
}

#[test]
fn nothing_can_be_left_out() {
    let (log, envelope) = Log::story();
    let told = |bundle: &Bundle| bundle.verify(&keys()).unwrap_err().to_string();
    for left_out in 0..log.of_plane().entries.len() {
        let mut bundle = log.of_plane();
        bundle.entries.remove(left_out);
        let said = told(&bundle);
        assert!(said.contains("missing") || said.contains("not scanned"), "{said}");
    }
    for left_out in 0..log.of_tenant().entries.len() {
        let mut bundle = log.of_tenant();
        bundle.entries.remove(left_out);
        let said = told(&bundle);
        assert!(said.contains("missing") || said.contains("no entry"), "{said}");
    }
    // A scan that begins later than it must.
    let mut bundle = log.of_plane();
    bundle.scan = Some(log.scan(log.entries.len() as u64));
    assert!(told(&bundle).contains("not scanned"), "{}", told(&bundle));
    bundle.scan = None;
    assert!(told(&bundle).contains("no scan"), "{}", told(&bundle));
    let mut other = log.of_plane();
    other.complete = Some(vec![Complete::Tenant("nobody".into())]);
    assert!(told(&other).contains("no entry of tenant:nobody"), "{}", told(&other));
    let mut twice = log.of_plane();
    twice.entries.push(twice.entries[0].clone());
    assert!(told(&twice).contains("twice"));
    // A tenant's first entry is its registration.
    let mut later = log.of_tenant();
    later.complete = Some(vec![Complete::Tenant(TENANT.to_uppercase())]);
    assert!(later.verify(&keys()).is_err());
    for entry in 0..2 {
        let mut certificate = log.certificate(&envelope);
        certificate.log.as_mut().unwrap().entries.remove(entry);
        assert!(certificate.verify(&keys()).is_err());
    }
    let stranger = SigningKey::from_seed("example.com/lethe", &[8; 32]).unwrap().public();
    assert!(log.certificate(&envelope).verify(&[stranger]).unwrap_err().to_string().contains("none of the keys"));
}

#[test]
fn every_change_of_a_character_is_found() {
    let (log, envelope) = Log::story();
    for document in [json!(log.of_plane()), json!(log.of_tenant()), json!(log.certificate(&envelope))] {
        holds(&document.to_string(), &keys()).unwrap();
        assert!(no_change_verifies(&document, &keys(), 1) > 2_000);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// Bytes of a document replaced, cut out and put in anywhere: an answer, and no panic.
    #[test]
    fn garbage_is_answered(at in 0_usize..10_000, cut in 0_usize..40, put in "[ -~\n]{0,12}", which in 0_usize..3) {
        let (log, envelope) = Log::story();
        let document = match which {
            0 => json!(log.of_plane()),
            1 => json!(log.of_tenant()),
            _ => json!(log.certificate(&envelope)),
        };
        let mut bytes = document.to_string().into_bytes();
        let at = at % bytes.len();
        let end = (at + cut).min(bytes.len());
        bytes.splice(at..end, put.bytes());
        if let Ok(text) = String::from_utf8(bytes) {
            let _ = holds(&text, &keys());
        }
        let _ = crate::proof::Inclusion::read(&put);
    }
}
