//! Who may query a plane (tokens, kept as hashes only), and who is using it (runs and queries in flight, with an expiry).

use chrono::{DateTime, Utc};
use lethe_stages::canonical;
use serde::Serialize;
use sqlx::sqlite::SqliteRow;
use uuid::Uuid;

use crate::{
    db::Tx,
    fault::Fault,
    rows::{Cells, one, us},
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

fn token(row: &SqliteRow) -> Result<Token, Fault> {
    let cells = Cells::new(row, "access_tokens", "id");
    Ok(Token {
        id: cells.parsed("id")?,
        plane_id: cells.parsed("plane_id")?,
        prefix: cells.get("prefix")?,
        status: cells.get("status")?,
        issued_at: cells.at("issued_at")?,
        expires_at: cells.maybe_at("expires_at")?,
        revoked_at: cells.maybe_at("revoked_at")?,
    })
}

fn usage(row: &SqliteRow) -> Result<Usage, Fault> {
    let cells = Cells::new(row, "plane_usage", "id");
    Ok(Usage {
        id: cells.parsed("id")?,
        plane_id: cells.parsed("plane_id")?,
        kind: cells.parsed("kind")?,
        holder: cells.get("holder")?,
        opened_at: cells.at("opened_at")?,
        expires_at: cells.at("expires_at")?,
        closed_at: cells.maybe_at("closed_at")?,
    })
}

impl Tx {
    /// Issues a token; the only answer that carries its secret.
    pub async fn issue_token(&mut self, plane: Uuid, expires_at: Option<DateTime<Utc>>) -> Result<NewToken, Fault> {
        let id = self.new_id();
        let secret = format!("lethe_{}", hex::encode(self.random::<24>()));
        let at = us(self.at());
        let done = sqlx::query(
            "INSERT INTO access_tokens (id, plane_id, token_hash, prefix, status, issued_at, expires_at) VALUES (?, ?, ?, ?, 'active', ?, ?)",
        )
        .bind(id.to_string())
        .bind(plane.to_string())
        .bind(canonical::sha256(secret.as_bytes()))
        .bind(&secret[..10])
        .bind(at)
        .bind(expires_at.map(us))
        .execute(self.connection())
        .await;
        one("issue a token", done.map_err(Fault::database("issue a token"))?)?;
        Ok(NewToken { id, secret })
    }

    /// The token with this secret.
    pub async fn token_by_secret(&mut self, secret: &str) -> Result<Option<Token>, Fault> {
        let row = sqlx::query("SELECT * FROM access_tokens WHERE token_hash = ?")
            .bind(canonical::sha256(secret.as_bytes()))
            .fetch_optional(self.connection())
            .await
            .map_err(Fault::database("read a token"))?;
        row.as_ref().map(token).transpose()
    }

    /// The token.
    pub async fn token(&mut self, id: Uuid) -> Result<Option<Token>, Fault> {
        let row = sqlx::query("SELECT * FROM access_tokens WHERE id = ?")
            .bind(id.to_string())
            .fetch_optional(self.connection())
            .await
            .map_err(Fault::database("read a token"))?;
        row.as_ref().map(token).transpose()
    }

    /// The plane's tokens.
    pub async fn tokens(&mut self, plane: Uuid) -> Result<Vec<Token>, Fault> {
        let rows = sqlx::query("SELECT * FROM access_tokens WHERE plane_id = ? ORDER BY issued_at, id")
            .bind(plane.to_string())
            .fetch_all(self.connection())
            .await
            .map_err(Fault::database("list tokens"))?;
        rows.iter().map(token).collect()
    }

    /// Revokes one token for good.
    pub async fn revoke_token(&mut self, id: Uuid) -> Result<(), Fault> {
        let at = us(self.at());
        let done = sqlx::query("UPDATE access_tokens SET status = 'revoked', suspended_by = NULL, revoked_at = ? WHERE id = ? AND status <> 'revoked'")
            .bind(at)
            .bind(id.to_string())
            .execute(self.connection())
            .await;
        one("revoke a token", done.map_err(Fault::database("revoke a token"))?)
    }

    /// Suspends the plane's active tokens in the name of an offboarding. Answers how many.
    pub async fn suspend_tokens(&mut self, plane: Uuid, offboarding: Uuid) -> Result<u64, Fault> {
        let statement =
            "UPDATE access_tokens SET status = 'suspended', suspended_by = ?2 WHERE plane_id = ?1 AND status = 'active'";
        self.change_tokens(statement, plane, Some(offboarding)).await
    }

    /// Restores exactly the tokens that this offboarding suspended. Answers how many.
    pub async fn restore_tokens(&mut self, plane: Uuid, offboarding: Uuid) -> Result<u64, Fault> {
        let statement =
            "UPDATE access_tokens SET status = 'active', suspended_by = NULL WHERE plane_id = ?1 AND suspended_by = ?2";
        self.change_tokens(statement, plane, Some(offboarding)).await
    }

    /// Revokes every token of the plane for good. Answers how many.
    pub async fn revoke_tokens(&mut self, plane: Uuid) -> Result<u64, Fault> {
        let statement = "UPDATE access_tokens SET status = 'revoked', suspended_by = NULL, revoked_at = ?3 WHERE plane_id = ?1 AND status <> 'revoked'";
        self.change_tokens(statement, plane, None).await
    }

    async fn change_tokens(&mut self, statement: &'static str, plane: Uuid, offboarding: Option<Uuid>) -> Result<u64, Fault> {
        let at = us(self.at());
        let done = sqlx::query(statement)
            .bind(plane.to_string())
            .bind(offboarding.map(|id| id.to_string()))
            .bind(at)
            .execute(self.connection())
            .await
            .map_err(Fault::database("change a plane's tokens"))?;
        Ok(done.rows_affected())
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
        let done =
            sqlx::query("INSERT INTO plane_usage (id, plane_id, kind, holder, opened_at, expires_at) VALUES (?, ?, ?, ?, ?, ?)")
                .bind(opened.id.to_string())
                .bind(plane.to_string())
                .bind(kind.as_str())
                .bind(holder)
                .bind(us(opened.opened_at))
                .bind(us(expires_at))
                .execute(self.connection())
                .await;
        one("open a usage", done.map_err(Fault::database("open a usage"))?)?;
        let done = sqlx::query("UPDATE planes SET usage_reported = 1 WHERE id = ?").bind(plane.to_string());
        one(
            "note that usage is reported",
            done.execute(self.connection()).await.map_err(Fault::database("note that usage is reported"))?,
        )?;
        Ok(opened)
    }

    /// The use of this id.
    pub async fn usage(&mut self, id: Uuid) -> Result<Option<Usage>, Fault> {
        let row = sqlx::query("SELECT * FROM plane_usage WHERE id = ?")
            .bind(id.to_string())
            .fetch_optional(self.connection())
            .await
            .map_err(Fault::database("read a usage"))?;
        row.as_ref().map(usage).transpose()
    }

    /// Closes a use.
    pub async fn close_usage(&mut self, id: Uuid) -> Result<(), Fault> {
        let at = us(self.at());
        let done =
            sqlx::query("UPDATE plane_usage SET closed_at = ? WHERE id = ? AND closed_at IS NULL").bind(at).bind(id.to_string());
        one("close a usage", done.execute(self.connection()).await.map_err(Fault::database("close a usage"))?)
    }

    /// Uses of a plane that are neither closed nor expired.
    pub async fn usages(&mut self, plane: Uuid) -> Result<Vec<Usage>, Fault> {
        let at = us(self.at());
        let rows = sqlx::query(
            "SELECT * FROM plane_usage WHERE plane_id = ? AND closed_at IS NULL AND expires_at > ? ORDER BY opened_at, id",
        )
        .bind(plane.to_string())
        .bind(at)
        .fetch_all(self.connection())
        .await
        .map_err(Fault::database("list usage"))?;
        rows.iter().map(usage).collect()
    }
}
