//! Idempotency keys: the same call under the same key is answered as it was answered the first time.

use serde_json::Value;

use crate::{
    db::Tx,
    fault::Fault,
    rows::Cells,
    sql::{Document, statements},
};

/// A call that was made before.
#[derive(Debug, Clone)]
pub struct Remembered {
    /// Digest of operation and arguments.
    pub call_digest: String,
    /// What was answered.
    pub answer: Value,
}

statements! {
    // One call under a key at a time: the second finds what the first was answered.
    ALONE = "look up an idempotency key", "SELECT 1", "SELECT pg_advisory_xact_lock(hashtextextended('call ' || $1 || ' ' || $2, 0))";
    REMEMBERED = "look up an idempotency key", "SELECT * FROM idempotency WHERE key = $1 AND actor = $2";
    REMEMBER = "remember an idempotency key", "INSERT INTO idempotency (key, actor, call_digest, answer, at) VALUES ($1, $2, $3, $4, $5)";
}

impl Tx {
    /// The call that this actor made under this key. Until this transaction ends, nobody else makes one under it.
    pub async fn remembered(&mut self, key: &str, actor: &str) -> Result<Option<Remembered>, Fault> {
        if self.locks() {
            self.sql(&ALONE).bind(key).bind(actor).run().await?;
        }
        let row = self.sql(&REMEMBERED).bind(key).bind(actor).optional().await?;
        row.map(|row| {
            let cells = Cells::new(&row, "idempotency", "key");
            Ok(Remembered { call_digest: cells.get("call_digest")?, answer: cells.json("answer")?.unwrap_or_default() })
        })
        .transpose()
    }

    /// Remembers what was answered.
    pub async fn remember(&mut self, key: &str, actor: &str, call_digest: &str, answer: &Value) -> Result<(), Fault> {
        let at = self.at();
        let remember = self.sql(&REMEMBER).bind(key).bind(actor).bind(call_digest).bind(Document(answer.to_string()));
        remember.bind(at).one().await
    }
}
