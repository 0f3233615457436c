//! A command that is run for each notice, with the notice on its standard input.
//!
//! The rule: only an exit with 0 is a receipt. If we die before that, it is run again.

use std::time::Duration;

use lethe_stages::ports::PortError;

use super::Message;
use crate::command::{Given, run};

/// See the module.
#[derive(Debug, Clone)]
pub struct CommandChannel {
    /// The program and its arguments; not empty.
    pub run: Vec<String>,
    /// How long it may take.
    pub timeout: Duration,
}

impl CommandChannel {
    pub(super) async fn tell(&self, message: &Message) -> Result<(), PortError> {
        let told = [("LETHE_NOTICE_ID", message.id.to_string()), ("LETHE_NOTICE_KIND", message.kind.clone())];
        let input = format!("{}\n", message.body);
        let given = Given { told: &told, input: Some(&input), printed_max: 0, timeout: self.timeout };
        run("run notices.command", &self.run, given).await.map(drop)
    }
}
