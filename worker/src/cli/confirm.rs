//! What cannot be undone asks a person for the plane's name. A script is taken at its word.

use std::io::{BufRead, IsTerminal, Write};

use lethe_stages::{Code, Refusal};

use super::CommandError;

/// Asks on a terminal, unless `yes`.
pub(super) fn ask(plane: &str, yes: bool, json: bool) -> Result<(), CommandError> {
    if yes || json || !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        return Ok(());
    }
    let local = |error: std::io::Error| CommandError::Local(format!("ask for confirmation: {error}"));
    let mut err = std::io::stderr().lock();
    write!(err, "This releases the destruction of {plane}. It cannot be undone.\nType {plane} to go on: ")
        .and_then(|()| err.flush())
        .map_err(local)?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer).map_err(local)?;
    if answer.trim() == plane {
        return Ok(());
    }
    Err(Refusal::new(Code::NotConfirmed, format!("`{}` is not {plane}; nothing was done", answer.trim())).into())
}
