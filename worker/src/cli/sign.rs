//! Signing a destruction plan on the approver's machine, with the approver's own OpenSSH.
//!
//! The rule: the private key stays with OpenSSH, so agents, passphrases and hardware keys serve as they do for a login. What is signed is
//! what the ledger said the plan is, and its digest goes along, so that a plan that changed meanwhile is refused.

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::{Value as Json, json};

use super::CommandError;
use crate::signature::{self, Key};

/// How a plan is signed.
pub(super) enum Signing {
    /// With this key.
    With(PathBuf),
    /// It was, elsewhere; the signature is in this file.
    Made(PathBuf),
}

/// Longest key or signature file that is read, in bytes.
const FILE_MAX: u64 = 16 * 1024;

fn read(what: &str, file: &Path) -> Result<String, CommandError> {
    let wrong = |why: String| CommandError::Local(format!("read the {what} {}: {why}", file.display()));
    let size = std::fs::metadata(file).map_err(|error| wrong(error.to_string()))?.len();
    if size > FILE_MAX {
        return Err(wrong(format!("it has {size} bytes, which no {what} has")));
    }
    std::fs::read_to_string(file).map_err(|error| wrong(error.to_string()))
}

/// A public key as its file holds it; a private one goes no further than here.
pub(super) fn public_key(file: &Path) -> Result<String, CommandError> {
    let key: Key =
        read("public key", file)?.parse().map_err(|why| CommandError::Usage(format!("--key {}: {why}", file.display())))?;
    Ok(key.openssh)
}

impl Signing {
    /// What goes along with a decision on this plan.
    pub(super) fn arguments(&self, plan: &Json) -> Result<Json, CommandError> {
        let text = plan["text"].as_str().unwrap_or_default();
        let signature = match self {
            Self::With(key) => sign(text, key)?,
            Self::Made(file) => read("signature", file)?,
        };
        Ok(json!({"plan_digest": plan["plan_digest"], "signature": signature}))
    }
}

fn sign(text: &str, key: &Path) -> Result<String, CommandError> {
    if !key.exists() {
        return Err(CommandError::Local(format!("sign the plan: there is no key file {}", key.display())));
    }
    let wrong = |why: String| CommandError::Local(format!("sign the plan with {}: {why}", key.display()));
    let mut child = Command::new("ssh-keygen")
        .args(["-Y", "sign", "-n", signature::NAMESPACE, "-f"])
        .arg(key)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => wrong(
                "there is no ssh-keygen here: install OpenSSH's client (Debian: openssh-client), or sign on another machine and give \
                 the signature with --signature FILE"
                    .into(),
            ),
            _ => wrong(format!("run ssh-keygen: {error}")),
        })?;
    let mut input = child.stdin.take().ok_or_else(|| wrong("ssh-keygen takes no input".into()))?;
    // A broken pipe is told by how ssh-keygen ends.
    let _ = input.write_all(text.as_bytes());
    drop(input);
    let output = child.wait_with_output().map_err(|error| wrong(error.to_string()))?;
    if !output.status.success() {
        return Err(wrong(format!("ssh-keygen: {}", String::from_utf8_lossy(&output.stderr).trim())));
    }
    String::from_utf8(output.stdout).map_err(|_| wrong("ssh-keygen answered what is no text".into()))
}
