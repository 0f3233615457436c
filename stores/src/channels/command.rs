//! A command that is run for each notice, with the notice on its standard input.
//!
//! The rule: it is a list of words from the configuration, and no shell sees it; it has a time limit, and is killed with us or after it.
//! Only an exit with 0 is a receipt. If we die before that, it is run again.

use std::{process::Stdio, time::Duration};

use lethe_stages::ports::PortError;
use tokio::{io::AsyncWriteExt as _, process::Command, time::timeout};

use super::{Message, said};

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
        let (program, arguments) =
            self.run.split_first().ok_or_else(|| PortError::Permanent("run: no command is named".into()))?;
        let doing = format!("run {program}");
        let failed = |error: std::io::Error| PortError::Transient(format!("{doing}: {error}"));
        let mut command = Command::new(program);
        command.args(arguments).env("LETHE_NOTICE_ID", message.id.to_string()).env("LETHE_NOTICE_KIND", &message.kind);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().map_err(failed)?;
        let input = child.stdin.take();
        let body = format!("{}\n", message.body);
        let run = async {
            let write = async {
                if let Some(mut input) = input {
                    // A command that does not read its input may be content with its environment.
                    let _ = input.write_all(body.as_bytes()).await;
                }
            };
            tokio::join!(write, child.wait_with_output()).1
        };
        match timeout(self.timeout, run).await {
            Err(_) => {
                Err(PortError::Transient(format!("{doing}: it took longer than {} s and was killed", self.timeout.as_secs())))
            }
            Ok(Err(error)) => Err(failed(error)),
            Ok(Ok(output)) if output.status.success() => Ok(()),
            Ok(Ok(output)) => Err(PortError::Transient(format!("{doing}: {}: {}", output.status, said(&output.stderr)))),
        }
    }
}
