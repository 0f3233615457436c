//! The statement of a certificate: an in-toto statement whose predicate says who, what, when, why, how, and what is not covered.
//!
//! The rule: it is a pure function of what is on record; the same record gives the same statement. Who and why stand in it as the entries'
//! own commitments. Numbers are integers, so that it has one canonical form. It only computes.

use std::collections::BTreeMap;

use chrono::{DateTime, SecondsFormat, Utc};
use lethe_ledger::{
    Approval, ArchiveRow, Binding, Deadline, Fault, Hold, Offboarding, Plane, Store, Tenant, TrailEntry, commitment,
};
use lethe_verify::certificate::{PREDICATE, STATEMENT};
use serde_json::{Value as Json, json};
use uuid::Uuid;

use super::methods::{Category, Destroyed, Method, of_store, sorted};
use crate::config::Span;

/// What is on record.
pub(super) struct Facts {
    pub(super) ledger_id: Uuid,
    /// When it is issued.
    pub(super) at: DateTime<Utc>,
    pub(super) plane: Plane,
    pub(super) tenant: Tenant,
    pub(super) offboarding: Offboarding,
    pub(super) deadline: Option<Deadline>,
    pub(super) approvals: Vec<Approval>,
    pub(super) holds: Vec<Hold>,
    pub(super) bindings: Vec<Binding>,
    pub(super) stores: Vec<Store>,
    pub(super) archive: Option<ArchiveRow>,
    pub(super) key_destroyed_at: Option<DateTime<Utc>>,
    pub(super) name_commitment: Option<String>,
    /// The plane's chain.
    pub(super) entries: Vec<TrailEntry>,
    /// The tenant's.
    pub(super) of_tenant: Vec<TrailEntry>,
    /// Of the commitment to the tenant's name.
    pub(super) salt: [u8; 16],
}

/// The part of the plane's chain that this offboarding wrote.
struct Life<'a> {
    facts: &'a Facts,
    entries: &'a [TrailEntry],
    requested: &'a TrailEntry,
    purged: &'a TrailEntry,
}

fn instant(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Micros, true)
}

fn by(entry: &Json) -> Json {
    json!({"type": entry["actor_type"], "id": entry["actor_id"]})
}

/// The statement and how weak it is at its weakest.
pub(super) fn of(facts: &Facts) -> Result<(Json, Json), Fault> {
    let life = Life::of(facts)?;
    let (stores, mut destroyed) = life.stores();
    let archive = life.archive(&mut destroyed);
    let destroyed = sorted(destroyed);
    let methods: Vec<Json> = destroyed.iter().map(Destroyed::to_json).collect();
    let weakest = methods.first().cloned().unwrap_or(Json::Null);
    let (offboarding, terms) = (&facts.offboarding, &facts.offboarding.terms);
    let (refused, waited) = life.attempts();
    let mut predicate = json!({
        "weakest": weakest, "methods": methods,
        "issued_at": instant(facts.at), "ledger_id": facts.ledger_id, "tool": {"name": "lethe", "version": env!("CARGO_PKG_VERSION")},
        "offboarding_id": offboarding.id,
        "plane": {
            "id": facts.plane.id, "name": facts.name_commitment.as_ref().map(|tag| json!({"commitment": tag})),
            "registered_at": instant(facts.plane.created_at),
            "restored_from": facts.plane.lineage.as_ref().map(|lineage| lineage.restored_from),
        },
        "tenant": {"id": facts.tenant.id, "name": {"commitment": commitment(&facts.salt, &facts.tenant.name)}},
        "requested": {"at": life.requested.body["at"], "by": by(&life.requested.body), "reason": life.requested.body["reason"],
            "received_at": instant(terms.received_at)},
        "ground": terms.ground, "law": life.law(),
        "terms": {"digest": terms.terms_digest, "grace_s": terms.grace.num_seconds(), "retention_s": terms.retention.num_seconds(),
            "grace_access": terms.grace_access, "evict": terms.evict, "plan_version": offboarding.plan_version},
        "states": life.states(), "purged_at": life.purged.body["at"],
        "policy_revisions": life.policies(), "plan_digest": offboarding.plan_digest,
        "approvals": life.approvals(), "holds": life.holds(), "break_glass": life.events("BREAK_GLASS"),
        "attestations": life.attestations(),
        "stores": stores, "archive": archive,
        "attempts": {"refused": refused, "waited": waited, "failed": life.codes("STAGE_FAILED", |_| true)},
        "probes": life.purge_evidence().map_or(Json::Null, |evidence| evidence["probes"].clone()),
        "not_covered": life.not_covered(),
    });
    predicate["nist_sp_800_88"] = form(&predicate);
    let digest = life.purged.hash.trim_start_matches("sha256:");
    let statement = json!({
        "_type": STATEMENT, "predicateType": PREDICATE,
        "subject": [{"name": format!("plane:{}", facts.plane.id), "digest": {"sha256": digest}}],
        "predicate": predicate,
    });
    Ok((statement, weakest))
}

impl<'a> Life<'a> {
    fn of(facts: &'a Facts) -> Result<Self, Fault> {
        let id = json!(facts.offboarding.id);
        let mine = |entry: &&TrailEntry| entry.body["offboarding_id"] == id;
        let first = facts.entries.iter().position(|entry| mine(&entry) && entry.body["event_type"] == "REQUESTED");
        let last = facts.entries.iter().position(|entry| mine(&entry) && entry.body["to_state"] == "PURGED");
        let (Some(first), Some(last)) = (first, last.filter(|last| Some(*last) > first)) else {
            return Err(Fault::IncompleteEntry(vec!["REQUESTED or PURGED of the offboarding"]));
        };
        let entries = &facts.entries[first..=last];
        Ok(Self { facts, entries, requested: &entries[0], purged: &facts.entries[last] })
    }

    fn all<'b>(&'b self, event: &'b str) -> impl Iterator<Item = &'a Json> + 'b {
        self.entries.iter().map(|entry| &entry.body).filter(move |body| body["event_type"] == event)
    }

    fn completed<'b>(&'b self, step: &'b str) -> impl Iterator<Item = &'a Json> + 'b {
        self.all("STAGE_COMPLETED").filter(move |body| body["step"] == step).map(|body| &body["evidence"])
    }

    fn purge_evidence(&self) -> Option<&'a Json> {
        self.completed("purge").last()
    }

    fn states(&self) -> Vec<Json> {
        self.all("TRANSITION").map(|body| json!({"state": body["to_state"], "at": body["at"]})).collect()
    }

    /// The legal deadline, and whether it was met.
    fn law(&self) -> Json {
        let purged = DateTime::parse_from_rfc3339(self.purged.body["at"].as_str().unwrap_or_default()).map(|at| at.to_utc());
        let met = |due: DateTime<Utc>| purged.as_ref().is_ok_and(|purged| *purged <= due);
        match (&self.facts.deadline, self.facts.offboarding.terms.legal_due_at) {
            (Some(of), _) => json!({
                "law": of.law, "zone": of.zone, "due_on": of.due_on, "due_at": instant(of.due_at), "first_due_on": of.first_due_on,
                "extended_at": of.extended_at.map(instant), "told_at": of.told_at.map(instant), "met": met(of.due_at),
            }),
            (None, Some(due)) => json!({"law": null, "due_at": instant(due), "met": met(due)}),
            (None, None) => Json::Null,
        }
    }

    fn policies(&self) -> Vec<Json> {
        let mut seen: Vec<Json> = Vec::new();
        for entry in self.entries {
            let revision = &entry.body["gate"]["policy_revision"];
            if revision.is_string() && !seen.contains(revision) {
                seen.push(revision.clone());
            }
        }
        seen
    }

    fn approvals(&self) -> Vec<Json> {
        let shown = |approval: &Approval| {
            let id = json!(approval.id);
            let entry = ["APPROVED", "DENIED"]
                .into_iter()
                .flat_map(|event| self.all(event))
                .find(|body| body["evidence"]["approval_id"] == id);
            json!({
                "approval_id": id, "status": approval.status, "by": entry.map(by), "reason": entry.map(|body| body["reason"].clone()),
                "at": instant(approval.decided_at), "identity_assurance": approval.identity_assurance,
                "key_fingerprint": approval.key_fingerprint, "signed": approval.signature.is_some(), "plan_digest": approval.plan_digest,
            })
        };
        self.facts.approvals.iter().map(shown).collect()
    }

    /// Holds on the plane or its tenant that stood between request and purge, by the order of writing: of two transactions that waited for
    /// the plane, the one that came first may be dated later.
    fn holds(&self) -> Vec<Json> {
        let entry = |event: &str, id: &Json| {
            let mut all = self.facts.entries.iter().chain(&self.facts.of_tenant);
            all.find(|entry| entry.body["event_type"] == event && entry.body["evidence"]["hold_id"] == *id)
        };
        let shown = |hold: &Hold| {
            let id = json!(hold.id);
            let placed = entry("HOLD_PLACED", &id)?;
            let released = hold.released_at.and_then(|_| entry("HOLD_RELEASED", &id));
            let stood = placed.place < self.purged.place && released.is_none_or(|released| released.place > self.requested.place);
            stood.then(|| {
                json!({
                    "hold_id": id, "on": hold.subject_kind, "placed_at": instant(hold.placed_at), "placed_by": by(&placed.body),
                    "reason": placed.body["reason"], "released_at": hold.released_at.map(instant),
                    "released_by": released.map(|released| by(&released.body)),
                })
            })
        };
        self.facts.holds.iter().filter_map(shown).collect()
    }

    fn events(&self, event: &str) -> Vec<Json> {
        self.all(event).map(|body| json!({"at": body["at"], "by": by(body), "reason": body["reason"]})).collect()
    }

    fn attestations(&self) -> Vec<Json> {
        let both = ["ATTESTATION_PROPOSED", "ATTESTED"].into_iter().flat_map(|event| self.all(event));
        let shown = |body: &Json| {
            let evidence = &body["evidence"];
            json!({
                "event": body["event_type"], "at": body["at"], "by": by(body), "reason": body["reason"], "store": evidence["store"],
                "evidence_sha256": evidence["evidence_sha256"], "store_said": evidence["said"],
            })
        };
        both.map(shown).collect()
    }

    /// How often something ended so, by code.
    fn codes(&self, event: &str, which: impl Fn(&Json) -> bool) -> BTreeMap<String, u64> {
        let mut counted = BTreeMap::new();
        for body in self.all(event).filter(|body| which(body)) {
            let code = body["evidence"]["code"].as_str().unwrap_or("UNKNOWN");
            *counted.entry(code.to_owned()).or_default() += 1;
        }
        counted
    }

    /// Attempts that were refused, and what the plan waited for.
    fn attempts(&self) -> (BTreeMap<String, u64>, BTreeMap<String, u64>) {
        let decided = |decision: &'static str| move |body: &Json| body["gate"]["decision"] == decision;
        (self.codes("BLOCKED", decided("BLOCKED")), self.codes("BLOCKED", decided("PENDING")))
    }

    /// What became of the plane in each store.
    fn stores(&self) -> (Vec<Json>, Vec<Destroyed>) {
        let (mut shown, mut destroyed) = (Vec::new(), Vec::new());
        let purge = self.purge_evidence().cloned().unwrap_or_default();
        for (place, binding) in self.facts.bindings.iter().enumerate() {
            let last = &purge["stores"][place];
            let what = format!("{} in store {}", binding.resource, binding.store);
            let removed = |field: &str| -> u64 {
                let evicted = self.completed("evict").map(|evidence| &evidence["stores"][place]["removed"][field]);
                evicted.chain([&last["removed"][field]]).filter_map(Json::as_u64).sum()
            };
            let exported = self.completed("export").last().map(|evidence| evidence["stores"][place]["rows"].clone());
            let before = self.completed("deregister").last().map(|evidence| evidence["stores"][place]["records"].clone());
            let mut store = json!({
                "store": binding.store, "resource": binding.resource, "scope_digest": binding.scope_digest(),
                "tool": {"driver": binding.store_kind, "name": "lethe", "version": env!("CARGO_PKG_VERSION")},
                "counts": {"at_request": before, "exported": exported, "removed": removed("erased"), "already_absent": removed("absent"),
                    "after": last["proof"]["empty"]["remaining"]},
            });
            let how = match binding.attested() {
                Some(attested) if last["verified"] == false => {
                    store["attested"] = json!(attested);
                    store["verification"] =
                        json!({"method": "none: attested, not verified", "store_said": last["said"], "result": "unknown"});
                    Destroyed { what, method: Method::Attested, category: Category::Unverified }
                }
                _ => {
                    let empty = &last["proof"]["empty"];
                    let found = ["remaining", "keys_found", "vectors_found"].iter().any(|field| empty[field].as_u64() != Some(0));
                    store["verification"] = json!({
                        "method": "count over a new connection, look-up of keys and search for vectors known from before, canary found",
                        "keys_probed": empty["keys_probed"], "keys_found": empty["keys_found"], "vectors_probed": empty["vectors_probed"],
                        "vectors_found": empty["vectors_found"], "canary": empty["canary"],
                        "result": if found { "not shown to be empty" } else { "empty" },
                    });
                    store["scrub"] = last["proof"]["scrub"].clone();
                    of_store(what, &last["proof"]["scrub"])
                }
            };
            store["method"] = json!(how.method.as_str());
            store["nist_sp_800_88"] = json!(how.category.as_str());
            destroyed.push(how);
            shown.push(store);
        }
        (shown, destroyed)
    }

    fn archive(&self, destroyed: &mut Vec<Destroyed>) -> Json {
        let Some(archive) = &self.facts.archive else { return Json::Null };
        let purge = self.purge_evidence().cloned().unwrap_or_default();
        let contents = self.completed("export").last().map(|evidence| evidence["contents"].clone());
        // A key that somebody was handed may be anywhere: that it was destroyed here makes nothing unreadable there.
        let taken = self.all("ARCHIVE_KEY_TAKEN").next().is_some();
        let (method, category) = match self.facts.key_destroyed_at.filter(|_| self.facts.offboarding.archive_key_id.is_some()) {
            Some(_) if !taken => (Method::KeyDestroyed, Category::Purge),
            _ => (Method::Deleted, Category::BelowClear),
        };
        let how = Destroyed { what: "archive".into(), method, category };
        let shown = json!({
            "contents": contents, "manifest_sha256": archive.manifest_sha256, "records": archive.rows, "bytes": archive.bytes,
            "parts": archive.parts, "verified_at": instant(archive.verified_at), "method": how.method.as_str(),
            "nist_sp_800_88": how.category.as_str(), "objects_deleted": purge["archive"]["objects_deleted"],
            "objects_left": purge["archive"]["objects_left"], "versions": "all versions, delete markers and unfinished uploads below its prefix",
            "key_id": self.facts.offboarding.archive_key_id, "key_destroyed_at": self.facts.key_destroyed_at.map(instant),
            "verification": {"method": "listed again after the archive had shown its canary",
                "result": if purge["archive"]["objects_left"] == 0 { "empty" } else { "not shown to be empty" }},
        });
        destroyed.push(how);
        shown
    }

    /// What nobody destroyed or looked at.
    fn not_covered(&self) -> Vec<Json> {
        let mut named: Vec<Json> = Vec::new();
        let mut add = |what: Json| {
            if !named.contains(&what) {
                named.push(what);
            }
        };
        let purged_at = self.facts.plane.purged_at.unwrap_or(self.facts.at);
        let purge = self.purge_evidence().cloned().unwrap_or_default();
        for (place, binding) in self.facts.bindings.iter().enumerate() {
            let declared = self.facts.stores.iter().find(|store| store.id == binding.store_id);
            let declared = declared.and_then(|store| store.backup_retention.as_ref());
            let expires = declared.and_then(|text| text.parse::<Span>().ok()).map(|span| instant(purged_at + span.0));
            let said = if expires.is_some() { "as declared" } else { "undeclared: how long they live is not known" };
            add(json!({"what": "backups", "store": binding.store, "retention": declared, "expire_by": expires, "said": said}));
            add(
                json!({"what": "replicas and snapshots", "store": binding.store, "said": "only the store that answers was asked"}),
            );
            let last = &purge["stores"][place];
            if last["verified"] == false {
                add(json!({"what": "attested store", "store": binding.store, "said": "nothing of it was verified"}));
            }
            let scrub = &last["proof"]["scrub"];
            let remains = scrub["not_covered"].as_array().into_iter().flatten().chain([&scrub["remains"]]);
            for said in remains.filter(|said| said.is_string()) {
                add(json!({"what": "remains", "store": binding.store, "said": said}));
            }
        }
        if self.facts.key_destroyed_at.is_some() {
            let said = "a copy of the ledger from before the purge holds the archive's key, wrapped under the master key";
            add(json!({"what": "backups of the ledger", "said": said}));
        }
        if purge["probes"].is_object() {
            let probes = &purge["probes"];
            add(json!({"what": "kept for probes", "said": probes["kept"], "until": probes["kept_until"]}));
        }
        for entry in self.facts.entries.iter().map(|entry| &entry.body) {
            match entry["event_type"].as_str() {
                Some("ARCHIVE_RESTORED") => {
                    add(json!({"what": "restored copy", "plane_id": entry["evidence"]["into"], "at": entry["at"]}))
                }
                Some("ARCHIVE_KEY_TAKEN") => {
                    add(json!({"what": "archive key in somebody's hands", "at": entry["at"], "by": by(entry)}))
                }
                _ => {}
            }
        }
        if self.completed("export").any(|evidence| evidence["contents"] == "records") {
            let said = "copies of the archive that somebody took (`lethe archive export`) are not on record";
            add(json!({"what": "archive exports", "said": said}));
        }
        named
    }
}

/// The fields of the sample certificate of NIST SP 800-88 (revision 1, appendix G), as far as they say anything of a logical store.
fn form(predicate: &Json) -> Json {
    const NONE: &str = "not applicable: a logical scope within a store";
    let approved = predicate["approvals"].as_array().into_iter().flatten().filter(|approval| approval["status"] == "consumed");
    json!({
        "person_performing": {"name": "lethe (service), on the approval named in person_validating", "title": NONE, "organization": predicate["tenant"]["id"],
            "location": NONE, "phone": NONE},
        "media": {
            "make_vendor": NONE, "model_number": NONE, "serial_number": NONE, "media_property_number": predicate["plane"]["id"],
            "media_type": "logical: a tenant's scope in one or more stores, and its archive",
            "source": predicate["stores"].as_array().into_iter().flatten().map(|store| store["scope_digest"].clone()).collect::<Vec<_>>(),
            "classification": "not recorded", "data_backed_up": "see not_covered",
        },
        "sanitization": {
            "method_type": predicate["weakest"]["nist_sp_800_88"], "method_used": predicate["weakest"]["method"],
            "method_details": "see methods, stores and archive; the weakest is stated here", "tool": predicate["tool"],
            "verification_method": "full: each store and the archive were asked again; see stores and archive",
            "post_sanitization_classification": "not recorded", "at": predicate["purged_at"],
        },
        "media_destination": "in place: the stores stay in use",
        "person_validating": approved.map(|approval| approval["by"].clone()).collect::<Vec<_>>(),
        "signature": "the envelope's",
    })
}
