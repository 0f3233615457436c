//! The store's own users, as the conformance suite meets them: commands that write a record into a plane, and read one. What they may do
//! shows whether a fence is one. They are the operator's commands; if we die, they run to their end.

use std::process::{Command, ExitStatus, Stdio};

use lethe_stages::{ports::PortError, record::Key};

/// Commands for the shell; each is told the resource in `LETHE_CONFORM_RESOURCE` and the plane's value in `LETHE_CONFORM_PLANE`.
#[derive(Debug, Clone, Default)]
pub struct Users {
    /// Writes a new record into the plane, with the words of `LETHE_CONFORM_MARKER` in it; exits with 0 if it was written.
    pub write: Option<String>,
    /// Reads a record of the plane; exits with 0 if it found one.
    pub read: Option<String>,
    /// Changes the record of the plane under the key `LETHE_CONFORM_KEY`; exits with 0 if it was changed.
    pub change: Option<String>,
    /// Takes the plane's value off that record, so that it is nobody's; exits with 0 if it did.
    pub orphan: Option<String>,
    /// Restarts the store; exits with 0 when it answers again.
    pub restart: Option<String>,
}

/// The plane that users are told.
#[derive(Debug, Clone)]
pub(super) struct Told {
    pub(super) resource: String,
    pub(super) plane: String,
}

impl Users {
    /// Whether a user can write these words now; `None` without a command.
    pub(super) async fn write(&self, told: &Told, marker: &str) -> Result<Option<bool>, PortError> {
        run(&self.write, told, Some(("LETHE_CONFORM_MARKER", marker.to_owned()))).await
    }

    /// Whether a user can read now.
    pub(super) async fn read(&self, told: &Told) -> Result<Option<bool>, PortError> {
        run(&self.read, told, None).await
    }

    /// Whether a user changed a record.
    pub(super) async fn change(&self, told: &Told, key: &Key) -> Result<Option<bool>, PortError> {
        run(&self.change, told, Some(("LETHE_CONFORM_KEY", plain(key)))).await
    }

    /// Whether a user made a record nobody's.
    pub(super) async fn orphan(&self, told: &Told, key: &Key) -> Result<Option<bool>, PortError> {
        run(&self.orphan, told, Some(("LETHE_CONFORM_KEY", plain(key)))).await
    }

    /// Whether the store was restarted.
    pub(super) async fn restart(&self, told: &Told) -> Result<Option<bool>, PortError> {
        run(&self.restart, told, None).await
    }
}

/// A key as a command takes it: a text without quotes.
fn plain(key: &Key) -> String {
    match key {
        Key::Text(text) => text.clone(),
        other => other.to_string(),
    }
}

async fn run(command: &Option<String>, told: &Told, more: Option<(&'static str, String)>) -> Result<Option<bool>, PortError> {
    let (Some(command), told) = (command.clone(), told.clone()) else { return Ok(None) };
    let doing = format!("run `{command}`");
    let run = move || -> std::io::Result<ExitStatus> {
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(command).envs(more).stdin(Stdio::null());
        shell.env("LETHE_CONFORM_RESOURCE", told.resource).env("LETHE_CONFORM_PLANE", told.plane);
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
