//! The store's own users, as the conformance suite meets them: a command that writes a record into the scratch plane, and one that reads
//! one. What they may do shows whether a fence is one. They are the operator's commands; if we die, they run to their end.

use std::process::{Command, ExitStatus, Stdio};

use lethe_stages::ports::PortError;

/// Commands for the shell; each is told the plane's value in `LETHE_CONFORM_PLANE`.
#[derive(Debug, Clone, Default)]
pub struct Users {
    /// Writes a new record into the plane; exits with 0 if it was written.
    pub write: Option<String>,
    /// Reads a record of the plane; exits with 0 if it found one.
    pub read: Option<String>,
}

impl Users {
    /// Whether a user can write now; `None` without a command.
    pub(super) async fn write(&self, plane: &str) -> Result<Option<bool>, PortError> {
        run(self.write.clone(), plane.to_owned()).await
    }

    /// Whether a user can read now.
    pub(super) async fn read(&self, plane: &str) -> Result<Option<bool>, PortError> {
        run(self.read.clone(), plane.to_owned()).await
    }
}

async fn run(command: Option<String>, plane: String) -> Result<Option<bool>, PortError> {
    let Some(command) = command else { return Ok(None) };
    let doing = format!("run `{command}`");
    let run = move || -> std::io::Result<ExitStatus> {
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(command).env("LETHE_CONFORM_PLANE", plane).stdin(Stdio::null());
        shell.stdout(Stdio::null()).stderr(Stdio::null()).status()
    };
    let unusable = |why: String| PortError::Permanent(format!("{doing}: {why}"));
    let status = tokio::task::spawn_blocking(run).await.map_err(|error| unusable(error.to_string()))?;
    let status = status.map_err(|error| unusable(error.to_string()))?;
    match status.code() {
        // The shell's words for a command that does not exist or cannot run: that is no answer of the store's.
        Some(code @ (126 | 127)) => Err(unusable(format!("it ends with {code}: it is no command that can run"))),
        Some(code) => Ok(Some(code == 0)),
        None => Err(unusable("a signal ended it".into())),
    }
}
