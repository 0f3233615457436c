//! `postgres://` URLs: which role connects to which database, over which kind of connection, and where its password is to be found.
//!
//! The rule: a password never stands in a URL, because URLs are kept in the ledger and shown; it is named, and read when it is needed.
//! No message repeats a URL that may hold one. Nothing here touches the world but to read that file, so nothing happens if we die in it.

use std::path::Path;

use lethe_stages::ports::PortError;
use sqlx::postgres::{PgConnectOptions, PgSslMode};

use crate::{
    percent::{self, encode as encoded},
    secret::{Secret, file},
};

const EXAMPLE: &str = "postgres://ROLE@HOST:5432/DATABASE?password_env=NAME";
const OPTIONS: [&str; 4] = ["password_env", "password_file", "sslmode", "sslrootcert"];
const MODES: [&str; 5] = ["disable", "prefer", "require", "verify-ca", "verify-full"];

/// Whether a store URL is one of PostgreSQL's.
pub(crate) fn is_postgres(url: &str) -> bool {
    url.starts_with("postgres:") || url.starts_with("postgresql:")
}

/// A database, the role that connects to it, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Server {
    pub(super) role: String,
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) database: String,
    password: Option<Secret>,
    mode: Option<String>,
    root: Option<String>,
}

fn refused(why: impl std::fmt::Display) -> PortError {
    PortError::Permanent(format!("read the store's URL: {why}; write {EXAMPLE}"))
}

fn decoded(what: &str, text: &str) -> Result<String, PortError> {
    let text = percent::decode(text).map_err(|_| refused(format!("its {what} is not percent-encoded UTF-8")))?;
    if text.is_empty() || text.contains('\0') {
        return Err(refused(format!("its {what} is empty or holds a NUL character")));
    }
    Ok(text)
}

impl Server {
    /// Reads a URL.
    ///
    /// # Errors
    /// Permanent, with what is wrong and what would be right; without the URL.
    pub(crate) fn parse(url: &str) -> Result<Self, PortError> {
        let rest = url.strip_prefix("postgres://").or_else(|| url.strip_prefix("postgresql://"));
        let (place, query) =
            rest.map(|rest| rest.split_once('?').unwrap_or((rest, ""))).ok_or_else(|| refused("it has no host"))?;
        let (authority, database) = place.split_once('/').ok_or_else(|| refused("it names no database"))?;
        let (role, host) = authority.rsplit_once('@').ok_or_else(|| refused("it names no role"))?;
        if role.contains(':') {
            return Err(refused("it holds a password, which would be kept in the ledger; put it elsewhere and name that"));
        }
        let (host, port) = match host.rsplit_once(':').filter(|(_, port)| !port.contains(']')) {
            Some((host, port)) => (host, port.parse().map_err(|_| refused("its port is no number below 65536"))?),
            None => (host, 5432),
        };
        let mut server = Server {
            role: decoded("role", role)?,
            host: decoded("host", host)?,
            port,
            database: decoded("database", database)?,
            password: None,
            mode: None,
            root: None,
        };
        if server.host.contains([',', ' ']) || server.database.contains('/') {
            return Err(refused("it names one host and one database"));
        }
        server.host = server.host.to_ascii_lowercase().trim_matches(['[', ']']).to_owned();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            server.option(pair)?;
        }
        Ok(server)
    }

    fn option(&mut self, pair: &str) -> Result<(), PortError> {
        let word = pair.split('=').next().unwrap_or_default();
        let Some(word) = OPTIONS.into_iter().find(|known| *known == word) else {
            // Not repeated: it may be a password.
            return Err(refused(format!("it has an option that is unknown; the options are {}", OPTIONS.join(", "))));
        };
        let value = decoded(word, pair.split_once('=').map_or("", |(_, value)| value))?;
        let twice = || refused(format!("its option {word} stands twice, or beside another one for the same"));
        match word {
            "sslmode" if !MODES.contains(&value.as_str()) => Err(refused(format!("its sslmode is none of {}", MODES.join(", ")))),
            "sslmode" => self.mode.replace(value).map_or(Ok(()), |_| Err(twice())),
            "sslrootcert" => self.root.replace(file(word, &value).map_err(refused)?).map_or(Ok(()), |_| Err(twice())),
            "password_file" => {
                self.password.replace(Secret::File(file(word, &value).map_err(refused)?)).map_or(Ok(()), |_| Err(twice()))
            }
            _ => self.password.replace(Secret::Environment(value)).map_or(Ok(()), |_| Err(twice())),
        }
    }

    /// The one form of the URL.
    pub(crate) fn canonical(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { encoded(&self.host) };
        let (role, database) = (encoded(&self.role), encoded(&self.database));
        let password = self.password.as_ref().map(|secret| secret.option("password"));
        let mode = self.mode.as_ref().map(|mode| format!("sslmode={mode}"));
        let root = self.root.as_ref().map(|path| format!("sslrootcert={}", percent::encode_path(path)));
        let options: Vec<_> = [password, mode, root].into_iter().flatten().collect();
        let query = if options.is_empty() { String::new() } else { format!("?{}", options.join("&")) };
        format!("postgres://{role}@{host}:{}/{database}{query}", self.port)
    }

    /// What messages call it.
    pub(super) fn shown(&self) -> String {
        format!("database {} on {}:{} as {}", self.database, self.host, self.port, self.role)
    }

    fn is_local(&self) -> bool {
        let loopback = self.host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
        loopback || self.host == "localhost" || self.host.starts_with('/')
    }

    /// The options of a connection, with the password read now. Beyond this machine the server must show a certificate for its name,
    /// unless the URL says otherwise.
    pub(super) fn options(&self) -> Result<PgConnectOptions, PortError> {
        let default = if self.is_local() { "prefer" } else { "verify-full" };
        let mode = match self.mode.as_deref().unwrap_or(default) {
            "disable" => PgSslMode::Disable,
            "prefer" => PgSslMode::Prefer,
            "require" => PgSslMode::Require,
            "verify-ca" => PgSslMode::VerifyCa,
            _ => PgSslMode::VerifyFull,
        };
        let mut options = PgConnectOptions::new_without_pgpass()
            .username(&self.role)
            .port(self.port)
            .database(&self.database)
            .ssl_mode(mode)
            .statement_cache_capacity(0)
            .extra_float_digits(None)
            .application_name("lethe");
        options = if self.host.starts_with('/') { options.socket(&self.host) } else { options.host(&self.host) };
        if let Some(root) = &self.root {
            options = options.ssl_root_cert(Path::new(root));
        }
        match self.password()? {
            Some(password) => Ok(options.password(&password)),
            // Never one that the environment holds for another server.
            None => Ok(options.password("")),
        }
    }

    fn password(&self) -> Result<Option<String>, PortError> {
        let missing = |why: String| PortError::Permanent(format!("find the password of role {}: {why}", self.role));
        self.password.as_ref().map(Secret::read).transpose().map_err(missing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_spellings_of_a_url_have_one_form() {
        let expected = "postgres://app%40x@db.example:5432/kb?password_env=KB&sslmode=require";
        for url in [
            "postgres://app%40x@DB.example/kb?sslmode=require&password_env=KB",
            "postgresql://app%40x@db.example:5432/kb?password_env=KB&sslmode=require",
        ] {
            assert_eq!(Server::parse(url).unwrap().canonical(), expected);
        }
        assert_eq!(Server::parse(expected).unwrap().canonical(), expected);
        assert_eq!(Server::parse("postgres://a@[::1]:6000/kb").unwrap().canonical(), "postgres://a@[::1]:6000/kb");
        assert!(Server::parse("postgres://a@%2Frun%2Fpostgresql/kb").unwrap().is_local());
    }

    #[test]
    fn a_password_in_a_url_is_refused_and_not_repeated() {
        for url in ["postgres://app:hunter2@h/kb", "postgres://app@h/kb?password=hunter2", "postgres://app@h/kb?hunter2"] {
            let error = Server::parse(url).unwrap_err().to_string();
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn each_wrong_url_says_what_would_be_right() {
        for (url, said) in [
            ("postgres:kb", "it has no host"),
            ("postgres://app@h", "names no database"),
            ("postgres://h/kb", "names no role"),
            ("postgres://app@h:70000/kb", "port"),
            ("postgres://app@h/kb?sslmode=maybe", "disable, prefer, require, verify-ca, verify-full"),
            ("postgres://app@h/kb?password_env=A&password_env=B", "twice"),
            ("postgres://app@h/kb?password_file=/no/such/file", "/no/such/file"),
        ] {
            let error = Server::parse(url).unwrap_err().to_string();
            assert!(error.contains(said) && error.contains("postgres://ROLE@HOST"), "{url}: {error}");
        }
    }
}
