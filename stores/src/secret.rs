//! Where a password or token is to be found: an environment variable or a file, named in a store's URL and read when it is needed.
//!
//! The rule: a secret never stands in a URL, because URLs are kept in the ledger and shown. It is read and not kept, so nothing
//! happens if we die in it.

use crate::percent;

/// A secret's place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Secret {
    /// The name of an environment variable.
    Environment(String),
    /// The absolute path of a file whose only line it is.
    File(String),
}

impl Secret {
    /// The secret, as it is now; or why there is none.
    pub(crate) fn read(&self) -> Result<String, String> {
        match self {
            Secret::Environment(name) => match std::env::var(name) {
                Ok(secret) if !secret.is_empty() => Ok(secret),
                Ok(_) => Err(format!("environment variable {name} is empty")),
                Err(_) => Err(format!("environment variable {name} is not set")),
            },
            Secret::File(path) => match std::fs::read_to_string(path) {
                Ok(text) if !text.trim_end_matches(['\r', '\n']).is_empty() => Ok(text.trim_end_matches(['\r', '\n']).to_owned()),
                Ok(_) => Err(format!("file {path} is empty")),
                Err(error) => Err(format!("read file {path}: {error}")),
            },
        }
    }

    /// The option of a URL that names it: `password_env=…`, `password_file=…`.
    pub(crate) fn option(&self, word: &str) -> String {
        match self {
            Secret::Environment(name) => format!("{word}_env={}", percent::encode(name)),
            Secret::File(path) => format!("{word}_file={}", percent::encode_path(path)),
        }
    }
}

/// The absolute path of a file that is there.
pub(crate) fn file(word: &str, path: &str) -> Result<String, String> {
    let found = std::fs::canonicalize(path).map_err(|error| format!("its {word} names {path}: {error}"))?;
    found.to_str().map(str::to_owned).ok_or_else(|| format!("the path of its {word} is not UTF-8"))
}
