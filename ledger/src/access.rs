//! Who may query a plane (tokens, kept as hashes only), and who is using it (runs and queries in flight, with an expiry).

use chrono::{DateTime, Utc};
use lethe_stages::canonical;
use serde::Serialize;
use uuid::Uuid;

use crate::{
    db::Tx,
    fault::Fault,
    rows::Cells,
    sql::{Row, statements},
};

lethe_stages::text_enum! {
    /// How a plane is used.
    UsageKind {
        /// May write and last long.
        Run = "run",
        /// Reads.
        Query = "query",
    }
}

/// An access token, without its secret.
#[derive(Debug, Clone, Serialize)]
pub struct Token {
    /// Its identity.
    #[serde(rename = "token_id")]
    pub id: Uuid,
    /// What it opens.
    pub plane_id: Uuid,
    /// Its first characters.
    pub prefix: String,
    /// active, suspended or revoked.
    pub status: String,
    /// When it was issued.
    pub issued_at: DateTime<Utc>,
    /// When it ends by itself.
    pub expires_at: Option<DateTime<Utc>>,
    /// When it ended for good.
    pub revoked_at: Option<DateTime<Utc>>,
}

/// A token at the only moment its secret is known.
pub struct NewToken {
    /// Its identity.
    pub id: Uuid,
    /// The secret; shown once, kept nowhere.
    pub secret: String,
}

/// A use of a plane.
#[derive(Debug, Clone, Serialize)]
pub struct Usage {
    /// Its identity.
    #[serde(rename = "usage_id")]
    pub id: Uuid,
    /// What is used.
    pub plane_id: Uuid,
    /// How.
    pub kind: UsageKind,
    /// By whom, as reported.
    pub holder: String,
    /// Since when.
    pub opened_at: DateTime<Utc>,
    /// When it counts as ended unless it is closed before.
    pub expires_at: DateTime<Utc>,
    /// When it ended.
    pub closed_at: Option<DateTime<Utc>>,
}

fn token(row: &Row) -> Result<Token, Fault> {
    let cells = Cells::new(row, "access_tokens", "id");
    Ok(Token {
        id: cells.id("id")?,
        plane_id: cells.id("plane_id")?,
        prefix: cells.get("prefix")?,
        status: cells.get("status")?,
        issued_at: cells.at("issued_at")?,
        expires_at: cells.maybe_at("expires_at")?,
        revoked_at: cells.maybe_at("revoked_at")?,
    })
}

fn usage(row: &Row) -> Result<Usage, Fault> {
    let cells = Cells::new(row, "plane_usage", "id");
    Ok(Usage {
        id: cells.id("id")?,
        plane_id: cells.id("plane_id")?,
        kind: cells.parsed("kind")?,
        holder: cells.get("holder")?,
        opened_at: cells.at("opened_at")?,
        expires_at: cells.at("expires_at")?,
        closed_at: cells.maybe_at("closed_at")?,
    })
}

statements! {
    ISSUE = "issue a token", "INSERT INTO access_tokens (id, plane_id, token_hash, prefix, status, issued_at, expires_at)
        VALUES ($1, $2, $3, $4, 'active', $5, $6)";
    BY_SECRET = "read a token", "SELECT * FROM access_tokens WHERE token_hash = $1";
    TOKEN = "read a token", "SELECT * FROM access_tokens WHERE id = $1";
    TOKENS = "list tokens", "SELECT * FROM access_tokens WHERE plane_id = $1 ORDER BY issued_at, id";
    REVOKE = "revoke a token", "UPDATE access_tokens SET status = 'revoked', suspended_by = NULL, revoked_at = $2
        WHERE id = $1 AND status <> 'revoked'";
    SUSPEND_ALL = "suspend a plane's tokens", "UPDATE access_tokens SET status = 'suspended', suspended_by = $2
        WHERE plane_id = $1 AND status = 'active'";
    RESTORE_ALL = "restore a plane's tokens", "UPDATE access_tokens SET status = 'active', suspended_by = NULL
        WHERE plane_id = $1 AND suspended_by = $2";
    REVOKE_ALL = "revoke a plane's tokens", "UPDATE access_tokens SET status = 'revoked', suspended_by = NULL, revoked_at = $2
        WHERE plane_id = $1 AND status <> 'revoked'";
    OPEN = "open a usage", "INSERT INTO plane_usage (id, plane_id, kind, holder, opened_at, expires_at) VALUES ($1, $2, $3, $4, $5, $6)";
    REPORTED = "note that usage is reported", "UPDATE planes SET usage_reported = true WHERE id = $1";
    USAGE = "read a usage", "SELECT * FROM plane_usage WHERE id = $1";
    CLOSE = "close a usage", "UPDATE plane_usage SET closed_at = $2 WHERE id = $1 AND closed_at IS NULL";
    USAGES = "list usage", "SELECT * FROM plane_usage WHERE plane_id = $1 AND closed_at IS NULL AND expires_at > $2
        ORDER BY opened_at, id";
}

impl Tx {
    /// Issues a token; the only answer that carries its secret.
    pub async fn issue_token(&mut self, plane: Uuid, expires_at: Option<DateTime<Utc>>) -> Result<NewToken, Fault> {
        let id = self.new_id();
        let secret = format!("lethe_{}", hex::encode(self.random::<24>()));
        let at = self.at();
        let issue = self.sql(&ISSUE).bind(id).bind(plane).bind(canonical::sha256(secret.as_bytes())).bind(&secret[..10]);
        issue.bind(at).bind(expires_at).one().await?;
        Ok(NewToken { id, secret })
    }

    /// The token with this secret.
    pub async fn token_by_secret(&mut self, secret: &str) -> Result<Option<Token>, Fault> {
        let row = self.sql(&BY_SECRET).bind(canonical::sha256(secret.as_bytes())).optional().await?;
        row.as_ref().map(token).transpose()
    }

    /// The token.
    pub async fn token(&mut self, id: Uuid) -> Result<Option<Token>, Fault> {
        self.sql(&TOKEN).bind(id).optional().await?.as_ref().map(token).transpose()
    }

    /// The plane's tokens.
    pub async fn tokens(&mut self, plane: Uuid) -> Result<Vec<Token>, Fault> {
        self.sql(&TOKENS).bind(plane).all().await?.iter().map(token).collect()
    }

    /// Revokes one token for good.
    pub async fn revoke_token(&mut self, id: Uuid) -> Result<(), Fault> {
        let at = self.at();
        self.sql(&REVOKE).bind(id).bind(at).one().await
    }

    /// Suspends the plane's active tokens in the name of an offboarding. Answers how many.
    pub async fn suspend_tokens(&mut self, plane: Uuid, offboarding: Uuid) -> Result<u64, Fault> {
        self.keep_tokens(plane, offboarding).await?;
        self.sql(&SUSPEND_ALL).bind(plane).bind(offboarding).run().await
    }

    /// Restores exactly the tokens that this offboarding suspended. Answers how many.
    pub async fn restore_tokens(&mut self, plane: Uuid, offboarding: Uuid) -> Result<u64, Fault> {
        let restored = self.sql(&RESTORE_ALL).bind(plane).bind(offboarding).run().await?;
        self.settle_tokens(plane, offboarding).await?;
        Ok(restored)
    }

    /// Revokes every token of the plane for good. Answers how many.
    pub async fn revoke_tokens(&mut self, plane: Uuid) -> Result<u64, Fault> {
        let at = self.at();
        self.sql(&REVOKE_ALL).bind(plane).bind(at).run().await
    }

    /// Opens a use of a plane and answers it. From then on the plane's usage counts as reported.
    pub async fn open_usage(
        &mut self,
        plane: Uuid,
        kind: UsageKind,
        holder: &str,
        expires_at: DateTime<Utc>,
    ) -> Result<Usage, Fault> {
        let opened = Usage {
            id: self.new_id(),
            plane_id: plane,
            kind,
            holder: holder.to_owned(),
            opened_at: self.at(),
            expires_at,
            closed_at: None,
        };
        let open = self.sql(&OPEN).bind(opened.id).bind(plane).bind(kind.as_str()).bind(holder);
        open.bind(opened.opened_at).bind(expires_at).one().await?;
        self.sql(&REPORTED).bind(plane).one().await?;
        Ok(opened)
    }

    /// The use of this id.
    pub async fn usage(&mut self, id: Uuid) -> Result<Option<Usage>, Fault> {
        self.sql(&USAGE).bind(id).optional().await?.as_ref().map(usage).transpose()
    }

    /// Closes a use.
    pub async fn close_usage(&mut self, id: Uuid) -> Result<(), Fault> {
        let at = self.at();
        self.sql(&CLOSE).bind(id).bind(at).one().await
    }

    /// Uses of a plane that are neither closed nor expired.
    pub async fn usages(&mut self, plane: Uuid) -> Result<Vec<Usage>, Fault> {
        let at = self.at();
        self.sql(&USAGES).bind(plane).bind(at).all().await?.iter().map(usage).collect()
    }
}
