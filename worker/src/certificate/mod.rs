//! Certificates of erasure: built from the trail and the ledger, signed with the log's key, shown with their proof.
//!
//! The rule: a statement says what is on record and nothing else; what was not verified is named in it. Personal values stand in it as the
//! commitments that the trail's entries already have. What is signed is kept with the entry that names its digest, in one transaction.
//!
//! If we die before that, the certificate is still due, and the next who looks issues it. Two who look at once meet at the plane's lock.

pub(crate) mod html;
mod methods;
mod statement;

use std::collections::BTreeMap;

use base64::{Engine, prelude::BASE64_STANDARD};
use lethe_ledger::{Actor, CertificateRow, Chain, CommittedValue, Entry, EventType, Fault, Issued, Proved, Tx};
use lethe_verify::{
    certificate::{Certificate, FORMAT, InLog},
    dsse::{Envelope, IN_TOTO},
    entry::{Disclosed, Entry as Shown},
    note::{Checkpoint, SigningKey},
};
use serde_json::{Value as Json, json};
use uuid::Uuid;

use self::statement::Facts;
use crate::manager::KnowledgeLifecycleManager;

/// Certificates of one look.
const AT_ONCE: i64 = 50;

impl KnowledgeLifecycleManager {
    /// Issues what is due, if this process has the log's key. Answers how many it issued.
    pub async fn certify(&self) -> Result<usize, Fault> {
        let (due, known) =
            self.ledger.read(async |tx: &mut Tx| Ok::<_, Fault>((tx.certificates_due(1).await?, tx.log_keys().await?))).await?;
        if due.is_empty() || known.is_empty() {
            return Ok(0);
        }
        // A key that cannot be read has stopped the log, which says so.
        let Ok(Some(keys)) = self.log.keyring().read(false, self.ledger.entropy().as_ref()) else { return Ok(0) };
        let live = |key: &&SigningKey| {
            let vkey = key.public().to_string();
            known.iter().any(|known| known.vkey == vkey && known.retired_at.is_none())
        };
        match keys.iter().find(live) {
            Some(key) => self.issue_certificates(key).await,
            None => Ok(0),
        }
    }

    /// Issues certificates that are due, a bounded number of them, under this key. Answers how many.
    pub async fn issue_certificates(&self, key: &SigningKey) -> Result<usize, Fault> {
        let due = self.ledger.read(async |tx: &mut Tx| tx.certificates_due(AT_ONCE).await).await?;
        let mut issued = 0;
        for certificate in due {
            match self.ledger.transact(async |tx: &mut Tx| self.issue(tx, &certificate, key).await).await {
                Ok(done) => issued += usize::from(done.into_inner()),
                Err(fault) if fault.is_passing() => return Err(fault),
                // One that cannot be stated keeps no other from being issued.
                Err(fault) => {
                    let error = &fault as &dyn std::error::Error;
                    tracing::warn!(plane = %certificate.plane_id, error, "issue a certificate");
                }
            }
        }
        Ok(issued)
    }

    /// Issues one, unless somebody else did meanwhile.
    async fn issue(&self, tx: &mut Tx, due: &CertificateRow, key: &SigningKey) -> Result<bool, Fault> {
        tx.lock_planes(&[due.plane_id]).await?;
        if tx.certificate(due.offboarding_id).await?.is_none_or(|row| row.issued_at.is_some()) {
            return Ok(false);
        }
        let facts = self.facts(tx, due).await?;
        let (statement, weakest) = statement::of(&facts)?;
        let text = lethe_stages::canonical::text(&statement)?;
        let envelope = Envelope::sign(text.as_bytes(), key);
        let chain = Chain::Plane(due.plane_id);
        let mut entry = Entry::new(chain, Some(due.tenant_id), EventType::Certified, &Actor::system("certifier"), "certificate");
        entry.offboarding_id = Some(due.offboarding_id);
        entry.evidence = json!({
            "statement_digest": lethe_stages::canonical::sha256(text.as_bytes()), "weakest": weakest,
            "key_id": envelope.signatures[0].keyid,
        });
        let recorded = tx.append(entry).await?;
        let own = json!([{"value": facts.tenant.name, "salt": hex::encode(facts.salt)}]);
        let issued = Issued {
            offboarding_id: due.offboarding_id,
            statement: text,
            signatures: json!(envelope.signatures),
            own_values: own,
            event_id: recorded.event_id,
        };
        tx.issue_certificate(&issued).await?;
        Ok(true)
    }

    async fn facts(&self, tx: &mut Tx, due: &CertificateRow) -> Result<Facts, Fault> {
        let missing = |what: &'static str| Fault::IncompleteEntry(vec![what]);
        let plane = tx.plane(due.plane_id).await?.ok_or_else(|| missing("plane"))?;
        let tenant = tx.tenant(&due.tenant_id.to_string()).await?.ok_or_else(|| missing("tenant"))?;
        let trail = async |tx: &mut Tx, chain: Chain| {
            let chain = Some(chain.to_string());
            tx.trail(&lethe_ledger::TrailFilter { chain, ..Default::default() }).await
        };
        Ok(Facts {
            ledger_id: self.ledger.id(),
            at: tx.at(),
            offboarding: tx.offboarding(due.offboarding_id).await?.ok_or_else(|| missing("offboarding"))?,
            deadline: tx.deadline(due.offboarding_id).await?,
            approvals: tx.approvals(Some(due.offboarding_id)).await?,
            holds: tx.holds(Some(&[due.plane_id, due.tenant_id]), true).await?,
            bindings: tx.bindings(due.plane_id).await?,
            stores: tx.stores().await?,
            archive: tx.archive(due.offboarding_id).await?,
            key_destroyed_at: tx.archive_key_destroyed_at(due.offboarding_id).await?,
            name_commitment: tx.name_commitment(due.plane_id).await?,
            entries: trail(tx, Chain::Plane(due.plane_id)).await?,
            of_tenant: trail(tx, Chain::Tenant(due.tenant_id)).await?,
            salt: tx.random::<16>(),
            plane,
            tenant,
        })
    }
}

/// An entry with its proof, as documents show it.
pub(crate) fn shown(proved: Proved, values: Option<BTreeMap<String, Disclosed>>) -> Shown {
    let leaf = proved.leaf;
    Shown {
        leaf_index: leaf.leaf_index,
        chain: leaf.chain,
        sequence_no: leaf.sequence_no,
        tenant_id: leaf.tenant_id,
        previous: leaf.previous,
        hash: leaf.hash,
        body: leaf.body,
        proof: Some(proved.proof.iter().map(|hash| BASE64_STANDARD.encode(hash)).collect()),
        values,
    }
}

/// An issued certificate as a document, with its place in the log and the values that still exist; `None` where it is only due.
pub(crate) async fn document(tx: &mut Tx, row: &CertificateRow) -> Result<Option<Certificate>, Fault> {
    let (Some(text), Some(signatures), Some(event_id)) = (&row.statement, &row.signatures, row.event_id) else { return Ok(None) };
    let unreadable = |column: &'static str, message: String| Fault::Unreadable {
        table: "certificates",
        column,
        id: row.offboarding_id.to_string(),
        message,
    };
    let statement: Json = serde_json::from_str(text).map_err(|error| unreadable("statement", error.to_string()))?;
    let signatures = serde_json::from_value(signatures.clone()).map_err(|error| unreadable("signatures", error.to_string()))?;
    let mut known: BTreeMap<String, Disclosed> = BTreeMap::new();
    for chain in [Chain::Plane(row.plane_id), Chain::Tenant(row.tenant_id)] {
        for value in tx.committed_values(&chain.to_string()).await? {
            known.insert(value.commitment(), disclosed(&value));
        }
    }
    for own in row.own_values.iter().filter_map(Json::as_array).flatten() {
        if let Ok(own) = serde_json::from_value::<Disclosed>(own.clone()) {
            let salt = hex::decode(&own.salt).unwrap_or_default();
            known.insert(lethe_ledger::commitment(&salt, &own.value), own);
        }
    }
    let mut found = BTreeMap::new();
    disclose(&statement, String::new(), &known, &mut found);
    Ok(Some(Certificate {
        format: FORMAT.into(),
        envelope: Envelope { payload: BASE64_STANDARD.encode(text), payload_type: IN_TOTO.into(), signatures },
        log: in_log(tx, row, event_id).await?,
        disclosed: found,
    }))
}

fn disclosed(value: &CommittedValue) -> Disclosed {
    Disclosed { value: value.value.clone(), salt: hex::encode(&value.salt) }
}

/// Finds every commitment of a statement whose value is known.
fn disclose(value: &Json, at: String, known: &BTreeMap<String, Disclosed>, found: &mut BTreeMap<String, Disclosed>) {
    match value {
        Json::Object(members) => {
            if let Some(value) = members.get("commitment").and_then(Json::as_str).and_then(|commitment| known.get(commitment)) {
                found.insert(at.clone(), value.clone());
            }
            for (key, value) in members {
                disclose(value, format!("{at}/{}", key.replace('~', "~0").replace('/', "~1")), known, found);
            }
        }
        Json::Array(items) => {
            items.iter().enumerate().for_each(|(index, item)| disclose(item, format!("{at}/{index}"), known, found));
        }
        _ => {}
    }
}

/// The purge and the issue as leaves of the newest tree that was signed; `None` while they wait to be sealed.
async fn in_log(tx: &mut Tx, row: &CertificateRow, certified: Uuid) -> Result<Option<InLog>, Fault> {
    let Some(newest) = tx.latest_checkpoint().await? else { return Ok(None) };
    let purged = tx.purged_by(row.plane_id, row.offboarding_id).await?;
    let (Some(purged), Some(certified)) = (tx.leaf_of(purged).await?, tx.leaf_of(certified).await?) else { return Ok(None) };
    let checkpoint = Checkpoint::read(&newest.note).map_err(|error| Fault::Unreadable {
        table: "checkpoints",
        column: "note",
        id: newest.size.to_string(),
        message: error.to_string(),
    })?;
    if purged.leaf_index.max(certified.leaf_index) >= checkpoint.size {
        return Ok(None);
    }
    let proved = tx.prove(vec![purged, certified], checkpoint.size, &checkpoint.root).await?;
    let entries = proved.into_iter().map(|proved| shown(proved, None)).collect();
    Ok(Some(InLog { checkpoint: newest.note, entries }))
}
