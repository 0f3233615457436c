//! Whole documents, made here as the worker makes them, then changed in every way.

mod documents;
mod golden;
mod others;

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value as Json, json};

use crate::{
    bundle::{Bundle, Complete, FORMAT, Scan},
    canonical,
    certificate::{self, Certificate, InLog, PREDICATE, STATEMENT},
    dsse::Envelope,
    entry::{Disclosed, Entry},
    leaf::{entry_hash, origin},
    merkle::{Hash, Range, inclusion_ranges, leaf_hash, root_of},
    note::{Checkpoint, PublicKey, SigningKey},
};

pub(super) const PLANE: &str = "0195b5f0-0000-7000-8000-0000000000aa";
pub(super) const TENANT: &str = "0195b5f0-0000-7000-8000-0000000000bb";
pub(super) const OFFBOARDING: &str = "0195b5f0-0000-7000-8000-0000000000cc";

pub(super) fn key() -> SigningKey {
    SigningKey::from_seed("example.com/lethe", &[7; 32]).unwrap()
}

pub(super) fn keys() -> Vec<PublicKey> {
    vec![key().public()]
}

/// A log in memory.
#[derive(Default)]
pub(super) struct Log {
    pub(super) entries: Vec<Entry>,
}

pub(super) fn commitment(salt: &[u8], value: &str) -> String {
    canonical::sha256(&[salt, value.as_bytes()].concat())
}

impl Log {
    /// Appends an entry of an actor whose name is committed to.
    pub(super) fn append(&mut self, chain: &str, tenant: &str, event: &str, more: Json) {
        let mine: Vec<&Entry> = self.entries.iter().filter(|entry| entry.chain == chain).collect();
        let previous = mine.last().map_or_else(|| origin(chain), |entry| entry.hash.clone());
        let (sequence_no, salt, who) = (mine.len() as u64, [self.entries.len() as u8; 16], "alice");
        let mut body = json!({
            "actor_id": {"commitment": commitment(&salt, who)}, "actor_type": "user", "at": "2026-03-01T09:00:00.000000Z", "chain": chain,
            "event_type": event, "evidence": {"n": 1}, "sequence_no": sequence_no, "tenant_id": tenant,
        });
        for (name, value) in more.as_object().unwrap() {
            body[name] = value.clone();
        }
        body["evidence_digest"] = json!(canonical::sha256(canonical::text(&body["evidence"]).unwrap().as_bytes()));
        let body = canonical::text(&body).unwrap();
        let values = [("actor_id".to_owned(), Disclosed { value: who.into(), salt: hex::encode(salt) })].into();
        self.entries.push(Entry {
            leaf_index: self.entries.len() as u64,
            chain: chain.into(),
            sequence_no,
            tenant_id: tenant.into(),
            hash: entry_hash(&previous, &body),
            previous,
            body,
            proof: None,
            values: Some(values),
        });
    }

    /// A plane's life among others', with its certificate.
    pub(super) fn story() -> (Self, Envelope) {
        let mut log = Self::default();
        let plane = format!("plane:{PLANE}");
        let tenant = format!("tenant:{TENANT}");
        log.append("system", "__system__", "REGISTERED", json!({}));
        log.append(&tenant, TENANT, "REGISTERED", json!({}));
        log.append(&plane, TENANT, "REGISTERED", json!({"plane_id": PLANE}));
        for other in 0..9 {
            log.append(&format!("plane:other-{}", other % 3), "other", "BLOCKED", json!({}));
        }
        log.append(&plane, TENANT, "REQUESTED", json!({"plane_id": PLANE, "reason": null}));
        let ids = json!({"plane_id": PLANE, "offboarding_id": OFFBOARDING, "to_state": "PURGED"});
        log.append(&plane, TENANT, "TRANSITION", ids);
        let purged = log.entries.last().unwrap().hash.trim_start_matches("sha256:").to_owned();
        let statement = json!({
            "_type": STATEMENT, "predicateType": PREDICATE, "subject": [{"name": plane, "digest": {"sha256": purged}}],
            "predicate": {
                "plane": {"id": PLANE}, "tenant": {"id": TENANT}, "offboarding_id": OFFBOARDING,
                "requested_by": {"commitment": commitment(&[9; 16], "user:alice")},
            },
        });
        let payload = canonical::text(&statement).unwrap();
        let evidence = json!({"statement_digest": canonical::sha256(payload.as_bytes()), "weakest": "deleted"});
        let ids = json!({"plane_id": PLANE, "offboarding_id": OFFBOARDING, "evidence": evidence});
        log.append(&plane, TENANT, "CERTIFIED", ids);
        log.append("system", "__system__", "CLOCK_SUSPECT", json!({}));
        (log, Envelope::sign(payload.as_bytes(), &key()))
    }

    pub(super) fn hashes(&self) -> Vec<Hash> {
        self.entries.iter().map(|entry| leaf_hash(&entry.leaf().unwrap().bytes())).collect()
    }

    pub(super) fn node(&self, level: u32, index: u64) -> Result<Hash, ()> {
        let from = (index << level) as usize;
        Ok(root_of(&self.hashes()[from..from + (1 << level)]))
    }

    pub(super) fn checkpoint(&self) -> String {
        let checkpoint =
            Checkpoint { origin: "example.com/lethe".into(), size: self.entries.len() as u64, root: root_of(&self.hashes()) };
        checkpoint.signed([&key()])
    }

    /// The entry at a leaf, with its proof.
    pub(super) fn proved(&self, index: u64) -> Entry {
        let ranges = inclusion_ranges(index, self.entries.len() as u64).unwrap();
        let proof = ranges.into_iter().map(|range| BASE64_STANDARD.encode(range.hash(|l, i| self.node(l, i)).unwrap())).collect();
        Entry { proof: Some(proof), ..self.entries[index as usize].clone() }
    }

    pub(super) fn scan(&self, from: u64) -> Scan {
        let frontier = Range { start: 0, end: from }.perfect();
        let frontier = frontier.into_iter().map(|(level, index)| BASE64_STANDARD.encode(self.node(level, index).unwrap()));
        let leaves: Vec<u8> = self.entries[from as usize..].iter().flat_map(|entry| entry.leaf().unwrap().bytes()).collect();
        Scan { from, frontier: frontier.collect(), leaves: BASE64_STANDARD.encode(leaves) }
    }

    pub(super) fn indexes(&self, which: impl Fn(&Entry) -> bool) -> Vec<u64> {
        self.entries.iter().filter(|entry| which(entry)).map(|entry| entry.leaf_index).collect()
    }

    /// Everything of the plane, proved one by one, and scanned behind the last of them.
    pub(super) fn of_plane(&self) -> Bundle {
        let mine = self.indexes(|entry| entry.chain == format!("plane:{PLANE}"));
        self.bundle(&mine, self.scan(mine.last().unwrap() + 1), Complete::Plane(PLANE.into()))
    }

    /// Everything of the tenant, scanned from its registration.
    pub(super) fn of_tenant(&self) -> Bundle {
        let mine = self.indexes(|entry| entry.tenant_id == TENANT);
        self.bundle(&mine, self.scan(mine[0]), Complete::Tenant(TENANT.into()))
    }

    fn bundle(&self, mine: &[u64], scan: Scan, complete: Complete) -> Bundle {
        let entry = |index: &u64| if *index < scan.from { self.proved(*index) } else { self.entries[*index as usize].clone() };
        Bundle {
            format: FORMAT.into(),
            question: json!({"asked": "a test"}),
            schema_version: None,
            checkpoint: self.checkpoint(),
            entries: mine.iter().map(entry).collect(),
            scan: Some(scan),
            complete: Some(vec![complete]),
        }
    }

    pub(super) fn certificate(&self, envelope: &Envelope) -> Certificate {
        let mine = self.indexes(|entry| entry.body.contains("PURGED") || entry.body.contains("CERTIFIED"));
        let entries = mine.into_iter().map(|index| self.proved(index)).collect();
        let disclosed = Disclosed { value: "user:alice".into(), salt: hex::encode([9; 16]) };
        Certificate {
            format: certificate::FORMAT.into(),
            envelope: envelope.clone(),
            log: Some(InLog { checkpoint: self.checkpoint(), entries }),
            disclosed: [("/predicate/requested_by".to_owned(), disclosed)].into(),
        }
    }
}
