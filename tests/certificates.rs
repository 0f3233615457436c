//! Certificates of erasure: one for each purge, which says what is on record, and which anybody verifies without us.

use std::{path::Path, process::Command};

use chrono::{DateTime, TimeDelta, Utc};
use lethe_ledger::Tx;
use lethe_verify::{
    bundle::{Bundle, Complete, FORMAT, Scan},
    certificate::Certificate,
    note::{Checkpoint, PublicKey, SigningKey},
};
use serde_json::{Value as Json, json};
use tempfile::TempDir;

use crate::support::{
    World,
    binary::Installed,
    golden, invariants,
    masters::{Masters, write_private},
    request,
};

const SHOW: &str = "knowledge.certificate.show";
const NAME: &str = "example.com/lethe";
const SCRIPT: &str = "<script>alert('the contract ended')</script>";

/// The log's key and where the log is published, outside of the world's own folder.
struct LogOutside(TempDir);

impl LogOutside {
    fn new() -> Self {
        let outside = Self(tempfile::tempdir().expect("a folder"));
        write_private(&outside.0.path().join("key"), SigningKey::write(NAME, &[7; 32]).expect("a key").as_bytes());
        outside
    }

    fn config(&self) -> String {
        let at = self.0.path().display();
        format!("[log]\nkey = \"file:{at}/key\"\npublish = \"file://{at}/log\"\n")
    }

    fn key(&self) -> SigningKey {
        SigningKey::from_seed(NAME, &[7; 32]).expect("a key")
    }

    fn keys(&self) -> Vec<PublicKey> {
        vec![self.key().public()]
    }

    /// What the verifier in Python says of a file or folder.
    fn python(&self, command: &str, file: &Path) -> (bool, String) {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/proof.py");
        let mut python = Command::new("python3");
        let output = python.arg(script).arg(command).arg(file).arg("--key").arg(self.key().public().to_string()).output();
        let output = output.expect("run python3");
        (output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    }

    /// Verifies a certificate twice: by our verifier and by the one in Python.
    fn verify(&self, certificate: &Json) -> Result<Json, String> {
        let file = self.0.path().join("certificate.json");
        std::fs::write(&file, certificate.to_string()).expect("write the certificate");
        let python = self.python("certificate", &file);
        let read = Certificate::read(&certificate.to_string()).and_then(|certificate| certificate.verify(&self.keys()));
        assert_eq!(read.is_ok(), python.0, "{read:?}, and Python: {}", python.1);
        read.map(|verified| verified.predicate).map_err(|fault| fault.to_string())
    }
}

/// Seals, certifies and seals that, as a runner does; answers the number of certificates.
async fn certify(world: &World) -> usize {
    let manager = &world.app.manager;
    let sealed = async || assert_eq!(manager.keep_log().await.expect("keep the log").stopped, None);
    sealed().await;
    let issued = manager.certify().await.expect("certify");
    sealed().await;
    issued
}

/// The plane's certificate and predicate, verified.
async fn certified(world: &World, log: &LogOutside, plane: &str) -> (Json, Json) {
    let shown = world.call("user:auditor", SHOW, json!({"plane": plane})).await;
    let predicate = log.verify(&shown["certificate"]).expect("a certificate that holds");
    assert_eq!(predicate, shown["predicate"]);
    (shown, predicate)
}

/// What differs from one run to the next, or from one ledger to another, in general terms.
fn general(value: &Json) -> Json {
    match value {
        Json::String(text) if text.starts_with("sha256:") => json!("sha256:…"),
        Json::String(text) if text.parse::<uuid::Uuid>().is_ok() => json!("ID"),
        Json::String(text) if text.contains("for plane") => json!("row of lethe_fence for plane ID"),
        Json::String(text) if *text == env!("CARGO_PKG_VERSION") => json!("VERSION"),
        Json::Array(items) => items.iter().map(general).collect(),
        Json::Object(members) => {
            let bytes = |name: &str| name == "bytes";
            members
                .iter()
                .map(|(name, value)| (name.clone(), if bytes(name) { json!("BYTES") } else { general(value) }))
                .collect()
        }
        other => other.clone(),
    }
}

/// Whoever placed it may have begun before the purge was recorded, and waited for the plane: then it is dated before it. Here the clock is set
/// back instead.
#[tokio::test]
async fn a_hold_that_came_after_the_purge_did_not_stand_whatever_its_time() {
    let log = LogOutside::new();
    let world = World::with(&log.config()).await;
    let plane = world.acme(5).await;
    let reason = json!({"plane": plane, "reason": "because"});
    let before = world.call("user:lena", "knowledge.hold.place", reason.clone()).await;
    world.call("user:lena", "knowledge.hold.release", json!({"hold_id": before["hold_id"], "reason": "settled"})).await;
    world.clock.advance(TimeDelta::seconds(-5));
    world.archived(&plane).await;
    let stood = world.call("user:lena", "knowledge.hold.place", reason.clone()).await;
    world.call("user:lena", "knowledge.hold.release", json!({"hold_id": stood["hold_id"], "reason": "settled"})).await;
    world.approve(&plane).await;
    world.drain().await;
    assert_eq!(world.state(&plane).await, "PURGED");
    world.clock.advance(TimeDelta::seconds(-5));
    world.call("user:lena", "knowledge.hold.place", reason).await;
    world.clock.advance(TimeDelta::seconds(5));
    certify(&world).await;
    let (_, predicate) = certified(&world, &log, &plane).await;
    let ids: Vec<_> = list(&predicate["holds"]).iter().map(|hold| hold["hold_id"].clone()).collect();
    assert_eq!(ids, [stood["hold_id"].clone()]);
}

#[tokio::test]
async fn a_purge_is_certified_and_anybody_verifies_it() {
    let log = LogOutside::new();
    let world = World::with(&log.config()).await;
    let plane = world.acme(45).await;
    assert_eq!(world.code("user:auditor", SHOW, json!({"plane": plane})).await, "CERTIFICATE_MISSING");
    let mut asked = request(&plane, "1h");
    asked["reason"] = json!(SCRIPT);
    world.call("user:<b>alice</b>", "knowledge.offboarding.request", asked).await;
    world.drain().await;
    world.advance(TimeDelta::hours(1)).await;
    let reason = json!({"plane": plane, "reason": "because"});
    world.refused("user:<b>alice</b>", "knowledge.approval.grant", reason.clone()).await;
    world.refused("user:<b>alice</b>", "knowledge.approval.grant", reason.clone()).await;
    let hold = world.call("user:lena", "knowledge.hold.place", reason.clone()).await;
    world.call("user:bob", "knowledge.approval.grant", reason).await;
    world.drain().await;
    world.call("user:lena", "knowledge.hold.release", json!({"hold_id": hold["hold_id"], "reason": "settled"})).await;
    world.drain().await;
    assert_eq!(world.state(&plane).await, "PURGED", "{}", world.status(&plane).await);
    assert_eq!(world.number("SELECT count(*) FROM certificates WHERE issued_at IS NULL").await, 1, "due with the purge");
    assert_eq!(world.code("user:auditor", SHOW, json!({"plane": plane})).await, "CERTIFICATE_MISSING", "nobody signed it yet");
    assert_eq!((certify(&world).await, certify(&world).await), (1, 0));

    let (shown, predicate) = certified(&world, &log, &plane).await;
    assert_eq!(shown["sealed"], true);
    assert_eq!(world.trail(&plane).await.last().map(String::as_str), Some("CERTIFIED"));
    let store = &predicate["stores"][0];
    assert_eq!(
        (&store["counts"]["exported"], &store["counts"]["removed"], &store["counts"]["after"]),
        (&json!(45), &json!(45), &json!(0))
    );
    assert_eq!((&store["method"], &store["nist_sp_800_88"]), (&json!("deleted"), &json!("Clear")));
    assert_eq!((&store["verification"]["result"], &store["verification"]["keys_found"]), (&json!("empty"), &json!(0)));
    // The archive's files were deleted and not overwritten: that is the weakest, and it says so first.
    assert_eq!(
        (&predicate["weakest"]["what"], &predicate["weakest"]["nist_sp_800_88"]),
        (&json!("archive"), &json!("below Clear"))
    );
    assert_eq!(predicate["methods"][0], predicate["weakest"]);
    assert_eq!((&predicate["archive"]["objects_deleted"], &predicate["archive"]["objects_left"]), (&json!(2), &json!(0)));
    assert_eq!(predicate["attempts"]["refused"]["APPROVAL_BY_SELF"], 2);
    assert_eq!(predicate["attempts"]["waited"]["HOLD_ACTIVE"], 1, "{}", predicate["attempts"]);
    let approval = &predicate["approvals"][0];
    assert_eq!((&approval["status"], &approval["identity_assurance"]), (&json!("consumed"), &json!("asserted")));
    assert_eq!(approval["plan_digest"], predicate["plan_digest"]);
    assert_eq!(predicate["holds"][0]["hold_id"], hold["hold_id"]);
    assert!(predicate["holds"][0]["released_at"].is_string() && predicate["law"].is_null());
    let uncovered: Vec<&str> = list(&predicate["not_covered"]).iter().filter_map(|item| item["what"].as_str()).collect();
    for what in ["backups", "replicas and snapshots", "remains", "kept for probes", "archive exports"] {
        assert!(uncovered.contains(&what), "{what}: {uncovered:?}");
    }
    assert!(predicate["not_covered"][0]["said"].as_str().expect("a text").starts_with("undeclared"));

    // Who and why are disclosed beside the signature and stand nowhere in it.
    let certificate = &shown["certificate"];
    let said = &certificate["disclosed"];
    assert_eq!(said["/predicate/requested/by/id"]["value"], "<b>alice</b>");
    assert_eq!(said["/predicate/requested/reason"]["value"], SCRIPT);
    assert_eq!(said["/predicate/tenant/name"]["value"], "acme");
    assert_eq!(said["/predicate/approvals/0/by/id"]["value"], "bob");
    assert!(said.get("/predicate/plane/name").is_none(), "the name went with the plane");
    let signed = predicate.to_string();
    for personal in ["alice", "bob", "lena", "acme", "script", "handbook"] {
        assert!(!signed.contains(personal), "{personal} in {signed}");
    }
    let mut less = certificate.clone();
    less["disclosed"] = json!({});
    log.verify(&less).expect("what was erased is not missed");

    let page = shown["html"].as_str().expect("a page");
    assert!(
        !page.contains("<script") && !page.contains("<b>alice") && page.contains("&lt;script&gt;alert(&#39;the contract"),
        "{page}"
    );
    assert!(!page.contains("http-equiv=\"refresh\"") && !page.contains("src=") && !page.contains("href="), "nothing is loaded");
    for heading in ["Weakest method", "What is not covered", "Approvals", "Stores", "Archive", "NIST SP 800-88 sample form"] {
        assert!(page.contains(heading), "{heading}");
    }
    if !crate::ON_POSTGRES {
        golden("certificate.json", &(serde_json::to_string_pretty(&general(&predicate)).expect("JSON") + "\n"));
    }

    // The published log is recomputed as a whole, by both.
    let folder = log.0.path().join("log");
    lethe_verify::folder::verify(&folder, &log.keys()).expect("a log that holds");
    let (holds, said) = log.python("log", &folder);
    assert!(holds, "{said}");

    // Nothing in it can be changed.
    every_change_is_found(&log, certificate);
    for sql in [
        "UPDATE certificates SET statement = '{}'",
        "UPDATE certificates SET issued_at = NULL, statement = NULL, signatures = NULL, event_id = NULL",
        "UPDATE certificates SET own_values = '[1]'",
        "DELETE FROM certificates",
    ] {
        assert!(world.try_sql(sql).await.is_err(), "{sql}");
    }
    world.sql("UPDATE certificates SET own_values = NULL").await;
    let (later, _) = certified(&world, &log, &plane).await;
    assert!(later["certificate"]["disclosed"].get("/predicate/tenant/name").is_none(), "destroyed, and it still holds");
    invariants::check(&world).await;
}

fn list(value: &Json) -> &[Json] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// Changes a byte of every text in a certificate and expects both verifiers to refuse it.
fn every_change_is_found(log: &LogOutside, certificate: &Json) {
    fn texts(value: &Json, at: String, found: &mut Vec<String>) {
        match value {
            Json::Object(members) => members.iter().for_each(|(name, value)| {
                texts(value, format!("{at}/{}", name.replace('~', "~0").replace('/', "~1")), found);
            }),
            Json::Array(items) => {
                items.iter().enumerate().for_each(|(index, value)| texts(value, format!("{at}/{index}"), found))
            }
            Json::String(text) if !text.is_empty() => found.push(at),
            _ => {}
        }
    }
    let mut found = Vec::new();
    texts(certificate, String::new(), &mut found);
    assert!(found.len() > 20, "{found:?}");
    for at in found {
        let mut changed = certificate.clone();
        let text = changed.pointer_mut(&at).expect("a place");
        let mut bytes = text.as_str().expect("a text").as_bytes().to_vec();
        let middle = bytes.len() / 2;
        bytes[middle] = if bytes[middle] == b'a' { b'b' } else { b'a' };
        let Ok(new) = String::from_utf8(bytes) else { continue };
        *text = json!(new);
        assert!(log.verify(&changed).is_err(), "{at}");
    }
}

#[tokio::test]
async fn a_destroyed_key_and_a_legal_deadline_and_declared_backups_are_in_it() {
    let (log, masters) = (LogOutside::new(), Masters::new());
    masters.make("master");
    let world = World::with(&format!("{}{}", log.config(), masters.config("master", &[]))).await;
    let plane = world.acme(12).await;
    world.sql("UPDATE stores SET backup_retention = '30d'").await;
    let arguments = json!({"plane": plane, "ground": "erasure_request", "reason": "article 17"});
    world.call("user:alice", "knowledge.offboarding.request", arguments).await;
    world.drain().await;
    world.advance(TimeDelta::days(7)).await;
    world.approve(&plane).await;
    world.drain().await;
    assert_eq!(world.state(&plane).await, "PURGED", "{}", world.status(&plane).await);
    assert_eq!(certify(&world).await, 1);
    let (_, predicate) = certified(&world, &log, &plane).await;
    assert_eq!((&predicate["ground"], &predicate["archive"]["contents"]), (&json!("erasure_request"), &json!("inventory")));
    assert_eq!(
        (&predicate["archive"]["method"], &predicate["archive"]["nist_sp_800_88"]),
        (&json!("key_destroyed"), &json!("Purge"))
    );
    assert_eq!(predicate["archive"]["key_destroyed_at"], predicate["purged_at"]);
    assert_eq!((&predicate["weakest"]["method"], &predicate["weakest"]["nist_sp_800_88"]), (&json!("deleted"), &json!("Clear")));
    assert_eq!(predicate["law"]["met"], true, "{}", predicate["law"]);
    assert!(list(&predicate["not_covered"]).iter().any(|item| item["what"] == "backups of the ledger"));
    let backups = &predicate["not_covered"][0];
    let instant = |value: &Json| value.as_str().expect("an instant").parse::<DateTime<Utc>>().expect("an instant");
    assert_eq!(instant(&backups["expire_by"]) - instant(&predicate["purged_at"]), TimeDelta::days(30), "{backups}");
    invariants::check(&world).await;
}

#[tokio::test]
async fn a_key_that_somebody_was_handed_makes_nothing_unreadable() {
    let (log, masters) = (LogOutside::new(), Masters::new());
    masters.make("master");
    let world = World::with(&format!("{}{}", log.config(), masters.config("master", &[]))).await;
    let plane = world.acme(4).await;
    world.archived(&plane).await;
    world.call("user:root", "knowledge.archive.key", json!({"plane": plane, "reason": "to read it elsewhere"})).await;
    world.approve(&plane).await;
    world.drain().await;
    assert_eq!(certify(&world).await, 1);
    let (_, predicate) = certified(&world, &log, &plane).await;
    assert_eq!(
        (&predicate["archive"]["method"], &predicate["archive"]["nist_sp_800_88"]),
        (&json!("deleted"), &json!("below Clear"))
    );
    assert!(predicate["archive"]["key_destroyed_at"].is_string());
    let named = list(&predicate["not_covered"]).iter().any(|item| item["what"] == "archive key in somebody's hands");
    assert!(named, "{}", predicate["not_covered"]);
    invariants::check(&world).await;
}

#[tokio::test]
async fn an_attested_store_is_the_weakest_and_nothing_of_it_is_said_to_be_verified() {
    let log = LogOutside::new();
    let world = World::with(&log.config()).await;
    let plane = world.acme(5).await;
    world.archived(&plane).await;
    let store = world.dir.path().join("knowledge.db");
    std::fs::rename(&store, world.dir.path().join("away.db")).expect("take the store away");
    let evidence = lethe_stages::canonical::sha256(b"a letter");
    let proposal = json!({"store": "kb", "plane": plane, "reason": "the cluster is gone", "evidence_sha256": evidence});
    let proposed = world.call("user:bob", "integrations.store.attest", proposal).await;
    let second = json!({"attestation_id": proposed["attestation_id"], "reason": "I saw the invoice"});
    world.call("user:carol", "integrations.store.confirm_attestation", second).await;
    world.approve(&plane).await;
    world.drain().await;
    assert_eq!(world.state(&plane).await, "PURGED", "{}", world.status(&plane).await);
    assert_eq!(certify(&world).await, 1);
    let (shown, predicate) = certified(&world, &log, &plane).await;
    let weakest = &predicate["weakest"];
    assert_eq!((&weakest["method"], &weakest["nist_sp_800_88"]), (&json!("attested"), &json!("none: nothing was verified")));
    let store = &predicate["stores"][0];
    assert_eq!((&store["verification"]["result"], &store["attested"]["evidence_sha256"]), (&json!("unknown"), &json!(evidence)));
    let attested: Vec<&str> = list(&predicate["attestations"]).iter().filter_map(|one| one["event"].as_str()).collect();
    assert_eq!(attested, ["ATTESTATION_PROPOSED", "ATTESTED"]);
    assert_eq!(shown["certificate"]["disclosed"]["/predicate/attestations/1/by/id"]["value"], "carol");
    invariants::check(&world).await;
}

#[tokio::test]
async fn two_who_issue_at_once_issue_one_and_without_a_key_it_stays_due() {
    let log = LogOutside::new();
    let world = World::with(&log.config()).await;
    let plane = world.acme(3).await;
    world.archived(&plane).await;
    world.approve(&plane).await;
    world.drain().await;
    assert_eq!(world.app.manager.certify().await.expect("certify"), 0, "the log has no key yet");
    let key = log.key();
    let (one, other) = tokio::join!(world.app.manager.issue_certificates(&key), world.app.manager.issue_certificates(&key));
    assert_eq!(one.expect("issue") + other.expect("issue"), 1);
    assert_eq!(world.entries(&plane, "CERTIFIED").await, 1);
    let shown = world.call("user:auditor", SHOW, json!({"plane": plane})).await;
    assert_eq!(shown["sealed"], true, "what is asked for is sealed first");
    assert_eq!(certify(&world).await, 0);
    certified(&world, &log, &plane).await;
    let listed = world.call("user:auditor", "knowledge.certificate.list", json!({})).await;
    assert_eq!(
        (&listed["certificates"][0]["plane_id"], &listed["certificates"][0]["weakest"]),
        (&json!(plane), &json!("deleted"))
    );
    invariants::check(&world).await;
}

#[test]
fn a_certificate_is_exported_and_verified_on_the_command_line() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let log = LogOutside::new();
    let config = log.config();
    let installed = runtime.block_on(Installed::with_plane(8, &config));
    installed.done(&[
        "offboard",
        "acme/handbook",
        "--ground",
        "internal",
        "--reason",
        "over",
        "--grace",
        "0s",
        "--retention",
        "0s",
    ]);
    installed.done(&["work", "--until-idle"]);
    let plane = installed.done(&["plane", "list"])["planes"][0]["plane_id"].as_str().expect("an id").to_owned();
    let mut approve = installed.command(&["--json", "approval", "grant", &plane, "--reason", "checked", "--yes"]);
    let approved = approve.env("LETHE_ACTOR", "user:bob").output().expect("run the binary");
    assert!(approved.status.success(), "{approved:?}");
    installed.done(&["work", "--until-idle"]);
    let exported = installed.done(&["certificate", "export", &plane, "--to", "certificates/"]);
    let file = installed.path(exported["json"].as_str().expect("a file"));
    assert!(installed.path(exported["html"].as_str().expect("a file")).is_file());
    assert_eq!(std::fs::read_dir(installed.path("certificates")).expect("a folder").count(), 2, "and no part of a file");
    let verified = installed.done(&["certificate", "verify", file.to_str().expect("UTF-8")]);
    assert_eq!((&verified["certificate"], &verified["keys"]), (&json!("verified"), &json!("this ledger's own")));
    let vkey = log.key().public().to_string();
    let verify = |file: &Path| {
        installed.command(&["--json", "certificate", "verify", file.to_str().expect("UTF-8"), "--key", &vkey]).output()
    };
    assert!(verify(&file).expect("run the binary").status.success());
    let text = std::fs::read_to_string(&file).expect("the certificate");
    std::fs::write(&file, text.replacen("\"leaf_index\": ", "\"leaf_index\": 1", 1)).expect("write");
    let refuted = verify(&file).expect("run the binary");
    assert_eq!(refuted.status.code(), Some(1), "{refuted:?}");
    let page = installed.command(&["certificate", "show", &plane, "--html"]).output().expect("run the binary").stdout;
    assert!(String::from_utf8_lossy(&page).starts_with("<!doctype html>"));
    let text = installed.command(&["certificate", "show", &plane]).output().expect("run the binary").stdout;
    assert!(String::from_utf8_lossy(&text).contains("not covered:"), "{}", String::from_utf8_lossy(&text));
}

/// Writes the golden proofs, once: they are never rewritten, see verify/src/tests/golden.rs.
#[tokio::test]
async fn the_golden_proofs_are_of_a_whole_story() {
    use base64::{Engine, prelude::BASE64_STANDARD};
    let log = LogOutside::new();
    let world = World::with(&log.config()).await;
    let plane = world.acme(12).await;
    assert_eq!(world.app.manager.keep_log().await.expect("keep the log").stopped, None);
    let before = world.read(async |tx: &mut Tx| tx.latest_checkpoint().await).await.expect("a checkpoint");
    world.archived(&plane).await;
    world.approve(&plane).await;
    world.drain().await;
    assert_eq!(certify(&world).await, 1);
    let (shown, _) = certified(&world, &log, &plane).await;
    let newest = world.read(async |tx: &mut Tx| tx.latest_checkpoint().await).await.expect("a checkpoint");
    let (old, new) = (checkpoint(&before.note), checkpoint(&newest.note));
    let text = |hashes: &[lethe_verify::merkle::Hash]| hashes.iter().map(|hash| BASE64_STANDARD.encode(hash)).collect::<Vec<_>>();
    let bundle = world.read(async |tx: &mut Tx| {
        let tenant_id = plane_tenant(tx, &plane).await;
        let leaves = tx.leaves_of_tenant(tenant_id, new.size).await?;
        let from = leaves[0].leaf_index;
        let scanned = tx.leaves(from, new.size).await?;
        let bytes: Vec<u8> = scanned.iter().flat_map(|leaf| leaf.leaf().expect("a leaf").bytes()).collect();
        let frontier = tx.frontier(from, new.size).await?;
        let entry = |leaf: &lethe_ledger::LeafOf| {
            serde_json::from_value(json!({
                "leaf_index": leaf.leaf_index, "chain": leaf.chain, "sequence_no": leaf.sequence_no, "tenant_id": leaf.tenant_id,
                "previous": leaf.previous, "hash": leaf.hash, "body": leaf.body,
            }))
            .expect("an entry")
        };
        Ok(Bundle {
            format: FORMAT.into(),
            question: json!({"tenant": "acme"}),
            schema_version: None,
            checkpoint: newest.note.clone(),
            entries: leaves.iter().map(entry).collect(),
            scan: Some(Scan { from, frontier: text(&frontier), leaves: BASE64_STANDARD.encode(bytes) }),
            complete: Some(vec![Complete::Tenant(tenant_id.to_string()), Complete::Plane(plane.clone())]),
        })
    });
    let bundle = bundle.await;
    let said = bundle.verify(&log.keys()).expect("a bundle that holds");
    assert!(said.verified.iter().filter(|line| line.starts_with("no entry of")).count() == 2, "{said:?}");
    let file = log.0.path().join("bundle.json");
    std::fs::write(&file, json!(bundle).to_string()).expect("write the bundle");
    assert!(log.python("bundle", &file).0, "{}", log.python("bundle", &file).1);
    let proof = world.read(async |tx: &mut Tx| tx.prove_consistency((old.size, &old.root), (new.size, &new.root)).await).await;
    let consistency = json!({"old": old.size, "new": new.size, "proof": text(&proof)});

    // What the ledger answers is what both verifiers read.
    for about in [json!({"plane": plane}), json!({"tenant": "acme"})] {
        let answered = world.call("user:auditor", "governance.audit.bundle", about).await;
        std::fs::write(&file, answered.to_string()).expect("write the bundle");
        let read = Bundle::read(&answered.to_string()).expect("a bundle");
        let said = read.verify(&log.keys()).expect("a bundle that holds");
        assert!(said.verified.iter().any(|line| line.starts_with("no entry of")), "{said:?}");
        assert!(log.python("bundle", &file).0, "{}", log.python("bundle", &file).1);
    }
    let last = world.last_entry().await["event_id"].clone();
    let answered = world.call("user:auditor", "governance.audit.prove", json!({"entry": last})).await;
    std::fs::write(&file, answered.to_string()).expect("write the proof");
    let read = lethe_verify::proof::Inclusion::read(&answered.to_string()).expect("a proof");
    read.verify(&log.keys()).expect("a proof that holds");
    assert!(log.python("inclusion", &file).0, "{}", log.python("inclusion", &file).1);
    let answered = world.call("user:auditor", "governance.audit.consistency", json!({"old": before.note})).await;
    let read = lethe_verify::proof::Consistency::read(&answered.to_string()).expect("a proof");
    read.verify(&before.note, &newest.note, &log.keys()).expect("a proof that holds");

    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/proof"));
    if std::env::var_os("LETHE_MAKE_GOLDEN_PROOFS").is_some() && !folder.exists() {
        std::fs::create_dir_all(folder).expect("a folder");
        let pretty = |document: &Json| serde_json::to_string_pretty(document).expect("JSON") + "\n";
        for (name, text) in [
            ("certificate-v1.json", pretty(&shown["certificate"])),
            ("bundle-v1.json", pretty(&json!(bundle))),
            ("consistency-v1.json", pretty(&consistency)),
            ("checkpoint-v1.old", before.note.clone()),
            ("checkpoint-v1.new", newest.note.clone()),
            ("log.pub", log.key().public().to_string() + "\n"),
        ] {
            std::fs::write(folder.join(name), text).expect("write");
        }
    }
}

fn checkpoint(note: &str) -> Checkpoint {
    Checkpoint::read(note).expect("a checkpoint")
}

async fn plane_tenant(tx: &mut Tx, plane: &str) -> uuid::Uuid {
    let plane = tx.plane(plane.parse().expect("an id")).await.expect("read");
    plane.expect("a plane").tenant_id
}
