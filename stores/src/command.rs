//! A command of the operator's: a program with arguments, run without a shell and within a limit of time.
//!
//! The rule: it is told what it needs by its environment and its standard input, and never by its arguments. What it says on standard error
//! goes where this process's does: it may hold a secret, and messages are kept. If we die, it runs to its end.

use std::{process::Stdio, time::Duration};

use lethe_stages::ports::PortError;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    process::Command,
};

/// What a command finds of this process's environment. Nothing else: there may be passwords and master keys in it.
const PASSED: [&str; 10] = ["PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LC_ALL", "TZ", "TMPDIR", "XDG_RUNTIME_DIR"];

/// What a command is given.
pub(crate) struct Given<'a> {
    /// What it finds in its environment, beside what is passed on.
    pub(crate) told: &'a [(&'static str, String)],
    /// What it finds on its standard input; without it, nothing.
    pub(crate) input: Option<&'a str>,
    /// How much of what it prints is read, in bytes.
    pub(crate) printed_max: usize,
    /// How long it may take before it is killed.
    pub(crate) timeout: Duration,
}

/// Runs a command to its end; answers what it printed.
///
/// # Errors
/// Permanent where it cannot be started; Transient where it took too long or ended with anything but 0.
pub(crate) async fn run(doing: &str, command: &[String], given: Given<'_>) -> Result<Vec<u8>, PortError> {
    let failed = |error: std::io::Error| PortError::Permanent(format!("{doing}: {error}"));
    let (program, arguments) = command.split_first().ok_or_else(|| PortError::Permanent(format!("{doing}: it is empty")))?;
    let piped = |is_used: bool| if is_used { Stdio::piped() } else { Stdio::null() };
    let mut started = Command::new(program)
        .args(arguments)
        .env_clear()
        .envs(PASSED.iter().filter_map(|name| std::env::var_os(name).map(|value| (name, value))))
        .envs(given.told.iter().map(|(name, value)| (name, value)))
        .stdin(piped(given.input.is_some()))
        .stdout(piped(given.printed_max > 0))
        .kill_on_drop(true)
        .spawn()
        .map_err(failed)?;
    let (input, output) = (started.stdin.take().zip(given.input), started.stdout.take());
    let tell = async {
        if let Some((mut to, input)) = input {
            // A command that does not read its input may be content with its environment.
            let _ = to.write_all(input.as_bytes()).await;
        }
    };
    let listen = async {
        let mut printed = Vec::new();
        if let Some(output) = output {
            output.take(given.printed_max as u64).read_to_end(&mut printed).await?;
        }
        Ok((started.wait().await?, printed))
    };
    let Ok(((), ended)) = tokio::time::timeout(given.timeout, async { tokio::join!(tell, listen) }).await else {
        return Err(PortError::Transient(format!("{doing}: it took longer than {:?} and was killed", given.timeout)));
    };
    let (status, printed) = ended.map_err(failed)?;
    match status.success() {
        true => Ok(printed),
        false => Err(PortError::Transient(format!("{doing}: it ends with {status}"))),
    }
}
