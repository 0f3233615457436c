//! Where notices go: a file, a webhook, a command of the operator's. All of them come from the configuration, none from the ledger.
//!
//! The rule: a notice has been told when the channel has taken it, and may be told again: receivers know repeats by its id. Nothing that
//! a receiver says is taken for more than words. If we die telling, it is told again.

mod command;
mod file;
mod webhook;

use chrono::{DateTime, Utc};
use lethe_stages::ports::PortError;
use uuid::Uuid;

pub use self::{command::CommandChannel, file::FileChannel, webhook::WebhookChannel};

/// Bytes of a receiver's words that a message repeats.
const SAID_MAX: usize = 300;

/// One notice on its way.
#[derive(Debug, Clone)]
pub struct Message {
    /// Its identity; the same however often it is sent.
    pub id: Uuid,
    /// What it is about, in one word.
    pub kind: String,
    /// When it is sent.
    pub at: DateTime<Utc>,
    /// One JSON object, on one line.
    pub body: String,
}

/// The channels that are configured.
#[derive(Debug, Default)]
pub struct Channels {
    /// Lines in a file.
    pub file: Option<FileChannel>,
    /// Requests to a URL.
    pub webhook: Option<WebhookChannel>,
    /// Processes.
    pub command: Option<CommandChannel>,
}

impl Channels {
    /// Their names, in order.
    pub fn names(&self) -> Vec<&'static str> {
        let all = [("file", self.file.is_some()), ("webhook", self.webhook.is_some()), ("command", self.command.is_some())];
        all.into_iter().filter(|(_, is_there)| *is_there).map(|(name, _)| name).collect()
    }

    /// Tells one channel.
    ///
    /// # Errors
    /// Transient or Permanent, with what was tried and what the receiver said, shortened; never a secret.
    pub async fn tell(&self, channel: &str, message: &Message) -> Result<(), PortError> {
        match (channel, &self.file, &self.webhook, &self.command) {
            ("file", Some(file), ..) => file.tell(message).await,
            ("webhook", _, Some(webhook), _) => webhook.tell(message).await,
            ("command", .., Some(command)) => command.tell(message).await,
            _ => Err(PortError::Permanent(format!("tell by {channel}: the configuration has no such channel"))),
        }
    }
}

/// A receiver's words, shortened to one line.
fn said(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(SAID_MAX * 4)]);
    let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(SAID_MAX).collect();
    line.trim().to_owned()
}
