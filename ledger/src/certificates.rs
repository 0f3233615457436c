//! Certificates of erasure: due when a purge is recorded, issued once, kept as they were signed.
//!
//! The rule: the row is made in the transaction that closes the offboarding, so no purge is without one; it is issued in the transaction
//! that appends CERTIFIED, so the trail names exactly the statement that is kept. Signed text never changes; a value that only a certificate
//! commits to can be destroyed.
//!
//! If we die in issuing, the certificate is still due, and the next who looks issues it.

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value as Report;
use uuid::Uuid;

use crate::{
    db::Tx,
    fault::Fault,
    rows::Cells,
    sql::{Document, Row, statements},
};

/// A certificate, issued or due.
#[derive(Debug, Clone, Serialize)]
pub struct CertificateRow {
    /// Whose purge it certifies.
    pub offboarding_id: Uuid,
    /// The purged plane.
    pub plane_id: Uuid,
    /// Its owner.
    pub tenant_id: Uuid,
    /// When the purge was recorded.
    pub due_since: DateTime<Utc>,
    /// When it was signed; `None`: not yet.
    pub issued_at: Option<DateTime<Utc>>,
    /// The entry that says so.
    pub event_id: Option<Uuid>,
    /// What was signed, to the byte.
    #[serde(skip)]
    pub statement: Option<String>,
    /// The signatures over it.
    #[serde(skip)]
    pub signatures: Option<Report>,
    /// Values that it alone commits to: a list of value and salt.
    #[serde(skip)]
    pub own_values: Option<Report>,
}

/// A certificate that was signed, to be kept.
#[derive(Debug, Clone)]
pub struct Issued {
    /// Whose purge it certifies.
    pub offboarding_id: Uuid,
    /// What was signed.
    pub statement: String,
    /// The signatures over it.
    pub signatures: Report,
    /// Values that it alone commits to.
    pub own_values: Report,
    /// The entry CERTIFIED.
    pub event_id: Uuid,
}

/// A personal value of an entry that has not been destroyed.
#[derive(Debug, Clone)]
pub struct CommittedValue {
    /// The entry.
    pub event_id: Uuid,
    /// Which field of it.
    pub field: String,
    /// The value.
    pub value: String,
    /// The salt of its commitment.
    pub salt: Vec<u8>,
}

impl CommittedValue {
    /// The commitment to it.
    pub fn commitment(&self) -> String {
        crate::trail::commitment(&self.salt, &self.value)
    }
}

/// A commitment to a value under a salt, as entries have them.
pub fn commitment(salt: &[u8], value: &str) -> String {
    crate::trail::commitment(salt, value)
}

fn certificate(row: &Row) -> Result<CertificateRow, Fault> {
    let cells = Cells::new(row, "certificates", "offboarding_id");
    Ok(CertificateRow {
        offboarding_id: cells.id("offboarding_id")?,
        plane_id: cells.id("plane_id")?,
        tenant_id: cells.id("tenant_id")?,
        due_since: cells.at("due_since")?,
        issued_at: cells.maybe_at("issued_at")?,
        event_id: cells.maybe_id("event_id")?,
        statement: cells.get("statement")?,
        signatures: cells.json("signatures")?,
        own_values: cells.json("own_values")?,
    })
}

statements! {
    IS_DUE = "note that a certificate is due",
        "INSERT INTO certificates (offboarding_id, plane_id, tenant_id, due_since)
         SELECT id, plane_id, tenant_id, $2 FROM offboardings WHERE id = $1";
    DUE = "look for certificates that are due", "SELECT * FROM certificates WHERE issued_at IS NULL ORDER BY due_since LIMIT $1";
    OF = "read a certificate", "SELECT * FROM certificates WHERE offboarding_id = $1";
    OF_PLANE = "read a plane's certificate", "SELECT * FROM certificates WHERE plane_id = $1 ORDER BY due_since DESC";
    LIST = "list certificates",
        "SELECT * FROM certificates WHERE ($1 IS NULL OR tenant_id = $1) ORDER BY due_since, offboarding_id",
        "SELECT * FROM certificates WHERE ($1::uuid IS NULL OR tenant_id = $1) ORDER BY due_since, offboarding_id";
    ISSUE = "keep a certificate",
        "UPDATE certificates SET statement = $2, signatures = $3, own_values = $4, issued_at = $5, event_id = $6
         WHERE offboarding_id = $1 AND issued_at IS NULL";
    NAME_TAG = "read the commitment to a purged plane's name", "SELECT id, name_tag FROM planes WHERE id = $1";
    PURGED_BY = "read the entry of a purge",
        "SELECT event_id FROM trail WHERE chain = $1 AND offboarding_id = $2 AND event_type = 'TRANSITION' ORDER BY sequence_no DESC LIMIT 1";
    DESTROYED_AT = "read when an archive's key was destroyed",
        "SELECT id, destroyed_at FROM archive_keys WHERE offboarding_id = $1";
}

impl Tx {
    /// A purge is recorded: its certificate is due.
    pub(crate) async fn certificate_is_due(&mut self, offboarding: Uuid) -> Result<(), Fault> {
        let at = self.at();
        self.sql(&IS_DUE).bind(offboarding).bind(at).one().await
    }

    /// Up to `limit` certificates that are due, the longest waiting first.
    pub async fn certificates_due(&mut self, limit: i64) -> Result<Vec<CertificateRow>, Fault> {
        self.sql(&DUE).bind(limit).all().await?.iter().map(certificate).collect()
    }

    /// The certificate of an offboarding's purge.
    pub async fn certificate(&mut self, offboarding: Uuid) -> Result<Option<CertificateRow>, Fault> {
        self.sql(&OF).bind(offboarding).optional().await?.as_ref().map(certificate).transpose()
    }

    /// The certificate of a plane, issued or due.
    pub async fn certificate_of(&mut self, plane: Uuid) -> Result<Option<CertificateRow>, Fault> {
        self.sql(&OF_PLANE).bind(plane).optional().await?.as_ref().map(certificate).transpose()
    }

    /// Certificates by when they became due, of one tenant or of all.
    pub async fn certificates(&mut self, tenant: Option<Uuid>) -> Result<Vec<CertificateRow>, Fault> {
        self.sql(&LIST).bind(tenant).all().await?.iter().map(certificate).collect()
    }

    /// Keeps a certificate that is due. Its plane is locked, and [`Self::certificate`] said that nobody issued it.
    pub async fn issue_certificate(&mut self, issued: &Issued) -> Result<(), Fault> {
        let at = self.at();
        let issue = self.sql(&ISSUE).bind(issued.offboarding_id).bind(&issued.statement);
        let issue = issue.bind(Document(issued.signatures.to_string())).bind(Document(issued.own_values.to_string()));
        issue.bind(at).bind(issued.event_id).one().await
    }

    /// The personal values to which a chain's entries are committed, as far as they still exist.
    pub async fn committed_values(&mut self, chain: &str) -> Result<Vec<CommittedValue>, Fault> {
        self.write_trail().await?;
        let opened = self.opened_values_of_chain(chain).await?;
        Ok(opened
            .into_iter()
            .map(|(event_id, field, value, salt)| {
                let salt = hex::decode(salt).unwrap_or_default();
                CommittedValue { event_id, field, value, salt }
            })
            .collect())
    }

    /// The commitment to a purged plane's name.
    pub async fn name_commitment(&mut self, plane: Uuid) -> Result<Option<String>, Fault> {
        let row = self.sql(&NAME_TAG).bind(plane).first().await?;
        Cells::new(&row, "planes", "id").get("name_tag")
    }

    /// The entry with which an offboarding's plane became PURGED, the last of its moves.
    pub async fn purged_by(&mut self, plane: Uuid, offboarding: Uuid) -> Result<Uuid, Fault> {
        let row = self.sql(&PURGED_BY).bind(format!("plane:{plane}")).bind(offboarding).first().await?;
        Cells::new(&row, "trail", "event_id").id("event_id")
    }

    /// When the key of an offboarding's archive was destroyed; `None` where there never was one, or still is.
    pub async fn archive_key_destroyed_at(&mut self, offboarding: Uuid) -> Result<Option<DateTime<Utc>>, Fault> {
        let row = self.sql(&DESTROYED_AT).bind(offboarding).optional().await?;
        row.map_or(Ok(None), |row| Cells::new(&row, "archive_keys", "id").maybe_at("destroyed_at"))
    }
}
