//! Findings: something of a purged plane came back, so its case is open again until somebody has closed it; and attestations: what two
//! persons say of a store that is gone.
//!
//! The rule: a plane has one open finding at a time, and none is closed that was seen after the last clean probe; nobody confirms what
//! they attested themselves. If we die in it, the transaction did not happen.

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value as Report;
use uuid::Uuid;

use crate::{
    db::Tx,
    fault::Fault,
    probes::Probe,
    rows::Cells,
    sql::{Json, Row, statements},
};

/// Something that came back.
#[derive(Debug, Clone, Serialize)]
pub struct Finding {
    /// Its identity.
    #[serde(rename = "finding_id")]
    pub id: Uuid,
    /// The purged plane.
    pub plane_id: Uuid,
    /// Whose purge was undone.
    pub offboarding_id: Uuid,
    /// The plane's owner.
    pub tenant_id: Uuid,
    /// The probe that found it first.
    pub probe_id: Uuid,
    /// `open` or `closed`.
    pub status: String,
    /// When it was found first.
    pub opened_at: DateTime<Utc>,
    /// When it was found last.
    pub seen_at: DateTime<Utc>,
    /// When a probe found nothing, since it was found last.
    pub clean_at: Option<DateTime<Utc>>,
    /// What was found last, in counts.
    pub evidence: Report,
    /// When it was closed.
    pub closed_at: Option<DateTime<Utc>>,
    /// By whom.
    pub closed_by: Option<String>,
    /// Why.
    pub reason: Option<String>,
}

/// What somebody attests of a store that is gone.
#[derive(Debug, Clone, Serialize)]
pub struct Attestation {
    /// Its identity.
    #[serde(rename = "attestation_id")]
    pub id: Uuid,
    /// For whose purge and probes.
    pub plane_id: Uuid,
    /// The store.
    pub store_id: Uuid,
    /// The store's name.
    pub store: String,
    /// The first person.
    pub proposed_by: String,
    /// Why, in that person's words.
    pub reason: String,
    /// `sha256:` of what they base it on.
    pub evidence_sha256: String,
    /// What the store said when it was asked.
    pub said: String,
    /// When.
    pub proposed_at: DateTime<Utc>,
    /// The second person.
    pub confirmed_by: Option<String>,
    /// When.
    pub confirmed_at: Option<DateTime<Utc>>,
}

/// An attestation to propose.
#[derive(Debug, Clone)]
pub struct NewAttestation<'a> {
    /// For whose purge and probes.
    pub plane_id: Uuid,
    /// The store.
    pub store_id: Uuid,
    /// The first person.
    pub by: &'a str,
    /// Why.
    pub reason: &'a str,
    /// `sha256:` of what it is based on.
    pub evidence_sha256: &'a str,
    /// What the store said.
    pub said: &'a str,
}

fn finding(row: &Row) -> Result<Finding, Fault> {
    let cells = Cells::new(row, "findings", "id");
    Ok(Finding {
        id: cells.id("id")?,
        plane_id: cells.id("plane_id")?,
        offboarding_id: cells.id("offboarding_id")?,
        tenant_id: cells.id("tenant_id")?,
        probe_id: cells.id("probe_id")?,
        status: cells.get("status")?,
        opened_at: cells.at("opened_at")?,
        seen_at: cells.at("seen_at")?,
        clean_at: cells.maybe_at("clean_at")?,
        evidence: cells.json("evidence")?.unwrap_or_default(),
        closed_at: cells.maybe_at("closed_at")?,
        closed_by: cells.get("closed_by")?,
        reason: cells.get("reason")?,
    })
}

fn attestation(row: &Row) -> Result<Attestation, Fault> {
    let cells = Cells::new(row, "attestations", "id");
    Ok(Attestation {
        id: cells.id("id")?,
        plane_id: cells.id("plane_id")?,
        store_id: cells.id("store_id")?,
        store: cells.get("name")?,
        proposed_by: cells.get("proposed_by")?,
        reason: cells.get("reason")?,
        evidence_sha256: cells.get("evidence_sha256")?,
        said: cells.get("said")?,
        proposed_at: cells.at("proposed_at")?,
        confirmed_by: cells.get("confirmed_by")?,
        confirmed_at: cells.maybe_at("confirmed_at")?,
    })
}

statements! {
    OPEN = "open a finding",
        "INSERT INTO findings (id, plane_id, offboarding_id, tenant_id, probe_id, status, opened_at, seen_at, evidence)
         VALUES ($1, $2, $3, $4, $5, 'open', $6, $6, $7)";
    SEEN = "see a finding again", "UPDATE findings SET seen_at = $2, clean_at = NULL, evidence = $3 WHERE id = $1 AND status = 'open'";
    CLEAN = "note that nothing was found", "UPDATE findings SET clean_at = $2 WHERE id = $1 AND status = 'open'";
    CLOSE = "close a finding",
        "UPDATE findings SET status = 'closed', closed_at = $2, closed_by = $3, reason = $4
         WHERE id = $1 AND status = 'open' AND clean_at IS NOT NULL";
    FINDING = "read a finding", "SELECT * FROM findings WHERE id = $1";
    OPEN_OF = "read a plane's open finding", "SELECT * FROM findings WHERE plane_id = $1 AND status = 'open'";
    FINDINGS = "list findings",
        "SELECT * FROM findings WHERE ($1 IS NULL OR plane_id = $1) AND ($2 IS NULL OR tenant_id = $2) AND ($3 OR status = 'open')
         ORDER BY opened_at, id",
        "SELECT * FROM findings WHERE ($1::uuid IS NULL OR plane_id = $1) AND ($2::uuid IS NULL OR tenant_id = $2)
            AND ($3::boolean OR status = 'open') ORDER BY opened_at, id";
    // Whoever proposes anew takes the place of a proposal that nobody has confirmed.
    ATTEST = "propose an attestation",
        "INSERT INTO attestations (id, plane_id, store_id, proposed_by, reason, evidence_sha256, said, proposed_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (plane_id, store_id) DO UPDATE SET id = excluded.id,
            proposed_by = excluded.proposed_by, reason = excluded.reason, evidence_sha256 = excluded.evidence_sha256,
            said = excluded.said, proposed_at = excluded.proposed_at WHERE attestations.confirmed_at IS NULL";
    CONFIRM = "confirm an attestation",
        "UPDATE attestations SET confirmed_by = $2, confirmed_at = $3 WHERE id = $1 AND confirmed_at IS NULL AND proposed_by <> $2";
    REVOKE = "end a plane's attestations",
        "UPDATE attestations SET confirmed_by = NULL, confirmed_at = NULL WHERE plane_id = $1 AND store_id = $2 AND confirmed_at IS NOT NULL";
    ATTESTATION = "read an attestation",
        "SELECT a.*, s.name FROM attestations a JOIN stores s ON s.id = a.store_id WHERE a.id = $1";
    ATTESTATIONS = "read a plane's attestations",
        "SELECT a.*, s.name FROM attestations a JOIN stores s ON s.id = a.store_id WHERE a.plane_id = $1 ORDER BY a.proposed_at, a.id";
}

impl Tx {
    /// Opens a finding; answers its id.
    pub async fn open_finding(&mut self, probe: &Probe, evidence: &Report) -> Result<Uuid, Fault> {
        let (id, at) = (self.new_id(), self.at());
        let open = self.sql(&OPEN).bind(id).bind(probe.plane_id).bind(probe.offboarding_id).bind(probe.tenant_id);
        open.bind(probe.id).bind(at).bind(Json(evidence.to_string())).one().await?;
        Ok(id)
    }

    /// An open finding was seen again.
    pub async fn finding_seen(&mut self, id: Uuid, evidence: &Report) -> Result<(), Fault> {
        let at = self.at();
        self.sql(&SEEN).bind(id).bind(at).bind(Json(evidence.to_string())).one().await
    }

    /// A probe found nothing while a finding is open.
    pub async fn finding_clean(&mut self, id: Uuid) -> Result<(), Fault> {
        let at = self.at();
        self.sql(&CLEAN).bind(id).bind(at).one().await
    }

    /// Closes an open finding that a probe has come back clean on.
    pub async fn close_finding(&mut self, id: Uuid, by: &str, reason: &str) -> Result<(), Fault> {
        let at = self.at();
        self.sql(&CLOSE).bind(id).bind(at).bind(by).bind(reason).one().await
    }

    /// The finding.
    pub async fn finding(&mut self, id: Uuid) -> Result<Option<Finding>, Fault> {
        self.sql(&FINDING).bind(id).optional().await?.as_ref().map(finding).transpose()
    }

    /// The plane's open finding.
    pub async fn open_finding_of(&mut self, plane: Uuid) -> Result<Option<Finding>, Fault> {
        self.sql(&OPEN_OF).bind(plane).optional().await?.as_ref().map(finding).transpose()
    }

    /// Findings by when they were opened, of a plane or tenant if given; closed ones if `all`.
    pub async fn findings(&mut self, plane: Option<Uuid>, tenant: Option<Uuid>, all: bool) -> Result<Vec<Finding>, Fault> {
        self.sql(&FINDINGS).bind(plane).bind(tenant).bind(all).all().await?.iter().map(finding).collect()
    }

    /// Proposes an attestation; answers its id. The caller has asked that none of this plane and store is confirmed.
    pub async fn propose_attestation(&mut self, new: &NewAttestation<'_>) -> Result<Uuid, Fault> {
        let (id, at) = (self.new_id(), self.at());
        let attest = self.sql(&ATTEST).bind(id).bind(new.plane_id).bind(new.store_id).bind(new.by).bind(new.reason);
        attest.bind(new.evidence_sha256).bind(new.said).bind(at).one().await?;
        Ok(id)
    }

    /// Confirms an attestation; by somebody else than who proposed it.
    pub async fn confirm_attestation(&mut self, id: Uuid, by: &str) -> Result<(), Fault> {
        let at = self.at();
        self.sql(&CONFIRM).bind(id).bind(by).bind(at).one().await
    }

    /// Ends what was attested of one of a plane's stores: it can be proposed and confirmed again. Answers how many there were.
    pub async fn end_attestations(&mut self, plane: Uuid, store: Uuid) -> Result<u64, Fault> {
        self.sql(&REVOKE).bind(plane).bind(store).run().await
    }

    /// The attestation.
    pub async fn attestation(&mut self, id: Uuid) -> Result<Option<Attestation>, Fault> {
        self.sql(&ATTESTATION).bind(id).optional().await?.as_ref().map(attestation).transpose()
    }

    /// The plane's attestations.
    pub async fn attestations_of(&mut self, plane: Uuid) -> Result<Vec<Attestation>, Fault> {
        self.sql(&ATTESTATIONS).bind(plane).all().await?.iter().map(attestation).collect()
    }
}
