//! `chroma+http://` URLs: which database of which server, and what a server says of it when it is registered.
//!
//! The rule: the same as for every address: no secret in it. Looking changes nothing but for the fence's collection, which is made where
//! nothing else tells a database from others, so nothing happens if we die in it.

use hyper::Method;
use lethe_stages::ports::PortError;

use super::{api::Api, fence::FENCE};
use crate::{StoreCheck, http::Address, percent};

const EXAMPLE: &str = "chroma+https://HOST/TENANT/DATABASE?token_env=NAME";
const DEFAULTS: (&str, &str) = ("default_tenant", "default_database");

/// Whether a store URL is one of Chroma's.
pub(crate) fn is_chroma(url: &str) -> bool {
    url.starts_with("chroma:") || url.starts_with("chroma+")
}

/// A database of a tenant of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Database {
    pub(super) address: Address,
    pub(super) tenant: String,
    pub(super) name: String,
}

impl Database {
    /// Reads a URL; without tenant and database it means Chroma's defaults.
    ///
    /// # Errors
    /// Permanent, with what is wrong and what would be right; without the URL.
    pub(crate) fn parse(url: &str) -> Result<Self, PortError> {
        let refused = |why: &str| PortError::Permanent(format!("read the store's URL: {why}; write {EXAMPLE}"));
        let rest = url.strip_prefix("chroma+").ok_or_else(|| refused("it does not say whether by http or https"))?;
        let address = Address::parse(rest, EXAMPLE)?;
        let decoded = |segment: &str| percent::decode(segment).map_err(|_| refused("its path is not percent-encoded UTF-8"));
        let (tenant, name) = match address.segments().as_slice() {
            [] => (DEFAULTS.0.to_owned(), DEFAULTS.1.to_owned()),
            [tenant, name] => (decoded(tenant)?, decoded(name)?),
            _ => return Err(refused("its path is a tenant and a database")),
        };
        let address = address.at_path(&format!("/{}/{}", percent::encode(&tenant), percent::encode(&name)));
        Ok(Self { address, tenant, name })
    }

    /// The one form of the URL.
    pub(crate) fn canonical(&self) -> String {
        format!("chroma+{}", self.address.canonical())
    }

    /// What messages call it.
    pub(super) fn shown(&self) -> &str {
        self.address.shown()
    }
}

/// Asks the server for its version and for what is in the database.
pub(crate) async fn check(database: &Database) -> Result<StoreCheck, PortError> {
    let api = Api::connect(database)?;
    let doing = format!("look at {}", database.shown());
    let version = api.ask(Method::GET, "/version", None, &doing).await?;
    let found = api.ask(Method::GET, &api.path(""), None, &doing).await?;
    let mut collections: Vec<_> = api.collections(&doing).await?.into_iter().filter(|name| name != FENCE).collect();
    collections.sort();
    // The database that every server makes for itself has no id of its own, and a server has several URLs. The fence's collection has one.
    let id = match found["id"].as_str().filter(|id| !id.trim_matches(['0', '-']).is_empty()) {
        Some(id) => id.to_owned(),
        None => api.create(FENCE, &doing).await?.id,
    };
    Ok(StoreCheck {
        url: database.canonical(),
        kind: "chroma",
        bytes: None,
        journal_mode: None,
        server: Some(format!("Chroma, API version {}", version.as_str().unwrap_or("unknown"))),
        tables: collections,
        virtual_tables: Vec::new(),
        file_id: format!("chroma:{id}"),
        writable: true,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_has_one_url() {
        let expected = "chroma+http://127.0.0.1:8000/default_tenant/default_database?token_env=T";
        for url in [
            "chroma+http://127.0.0.1:8000?token_env=T",
            "chroma+HTTP://127.0.0.1:8000/default_tenant/default%5Fdatabase/?token_env=T",
        ] {
            assert_eq!(Database::parse(url).unwrap().canonical(), expected);
        }
        let other = Database::parse("chroma+https://kb.example/a%20b/c").unwrap();
        assert_eq!((other.tenant.as_str(), other.name.as_str()), ("a b", "c"));
        assert_eq!(Database::parse(&other.canonical()).unwrap(), other);
    }

    #[test]
    fn each_wrong_url_says_what_would_be_right() {
        for (url, said) in [
            ("chroma:kb", "http or https"),
            ("chroma+http://h/only", "a tenant and a database"),
            ("chroma+http://h/a/b/c", "a tenant and a database"),
            ("chroma+http://u:hunter2@h/a/b", "password"),
        ] {
            let error = Database::parse(url).unwrap_err().to_string();
            assert!(error.contains(said) && error.contains(EXAMPLE) && !error.contains("hunter2"), "{url}: {error}");
        }
    }
}
