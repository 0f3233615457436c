//! Idempotency keys: the same call under the same key is answered as it was answered the first time.

use serde_json::Value;

use crate::{
    db::Tx,
    fault::Fault,
    rows::{Cells, one, us},
};

/// A call that was made before.
#[derive(Debug, Clone)]
pub struct Remembered {
    /// Digest of operation and arguments.
    pub call_digest: String,
    /// What was answered.
    pub answer: Value,
}

impl Tx {
    /// The call that this actor made under this key.
    pub async fn remembered(&mut self, key: &str, actor: &str) -> Result<Option<Remembered>, Fault> {
        let row = sqlx::query("SELECT * FROM idempotency WHERE key = ? AND actor = ?")
            .bind(key)
            .bind(actor)
            .fetch_optional(self.connection())
            .await
            .map_err(Fault::database("look up an idempotency key"))?;
        row.map(|row| {
            let cells = Cells::new(&row, "idempotency", "key");
            Ok(Remembered { call_digest: cells.get("call_digest")?, answer: cells.json("answer")?.unwrap_or_default() })
        })
        .transpose()
    }

    /// Remembers what was answered.
    pub async fn remember(&mut self, key: &str, actor: &str, call_digest: &str, answer: &Value) -> Result<(), Fault> {
        let at = us(self.at());
        let done = sqlx::query("INSERT INTO idempotency (key, actor, call_digest, answer, at) VALUES (?, ?, ?, ?, ?)")
            .bind(key)
            .bind(actor)
            .bind(call_digest)
            .bind(answer.to_string())
            .bind(at)
            .execute(self.connection())
            .await;
        one("remember an idempotency key", done.map_err(Fault::database("remember an idempotency key"))?)
    }
}
