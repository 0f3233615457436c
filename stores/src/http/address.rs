//! The address of a store that is reached by HTTP: its base URL, where its token is to be found, whom it must be signed by.
//!
//! The rule: two spellings of one address have one form; no secret stands in it, and no message repeats a URL that may hold one.
//! Nothing here touches the world but to find files, so nothing happens if we die in it.

use lethe_stages::ports::PortError;
use url::{Host, Url};

use crate::{
    percent,
    secret::{Secret, file},
};

const OPTIONS: [&str; 3] = ["token_env", "token_file", "ca_file"];

/// A base URL, and what is needed to get in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Address {
    base: Url,
    token: Option<Secret>,
    /// A file of certificates, in PEM, that are trusted beside the machine's own.
    pub(super) ca_file: Option<String>,
}

impl Address {
    /// Reads a URL; `example` is one that would be right.
    ///
    /// # Errors
    /// Permanent, with what is wrong and what would be right; without the URL.
    pub(crate) fn parse(url: &str, example: &str) -> Result<Self, PortError> {
        let refused = |why: String| PortError::Permanent(format!("read the store's URL: {why}; write {example}"));
        let mut base = Url::parse(url).map_err(|error| refused(format!("it is no URL: {error}")))?;
        if !["http", "https"].contains(&base.scheme()) || base.host().is_none() {
            return Err(refused("it is none of http or https".into()));
        }
        if !base.username().is_empty() || base.password().is_some() || base.fragment().is_some() {
            return Err(refused("it holds a user, a password or a fragment, which would be kept in the ledger".into()));
        }
        let options: Vec<_> = base.query().unwrap_or_default().split('&').map(str::to_owned).collect();
        base.set_query(None);
        let path = base.path().trim_end_matches('/').to_owned();
        base.set_path(&path);
        let mut address = Self { base, token: None, ca_file: None };
        for pair in options.iter().filter(|pair| !pair.is_empty()) {
            address.option(pair).map_err(&refused)?;
        }
        if address.token.is_some() && address.base.scheme() == "http" && !address.is_local() {
            return Err(refused("a token would travel readable to another machine; use https".into()));
        }
        Ok(address)
    }

    /// Reads the URL of a webhook, whose path and query are its own affair and may be secret; `ca_file` is empty or names certificates.
    ///
    /// # Errors
    /// What is wrong and what would be right; without the URL.
    pub(crate) fn of_webhook(url: &str, ca_file: &str) -> Result<Self, String> {
        let refused = |why: &str| format!("read the webhook's URL: {why}; write https://HOST/PATH");
        let base = Url::parse(url).map_err(|error| refused(&format!("it is no URL: {error}")))?;
        if !["http", "https"].contains(&base.scheme()) || base.host().is_none() {
            return Err(refused("it is none of http or https"));
        }
        if !base.username().is_empty() || base.password().is_some() || base.fragment().is_some() {
            return Err(refused("it holds a user, a password or a fragment"));
        }
        let ca_file = (!ca_file.is_empty()).then(|| file("ca_file", ca_file)).transpose().map_err(|why| refused(&why))?;
        let address = Self { base, token: None, ca_file };
        if address.base.scheme() == "http" && !address.is_local() {
            return Err(refused("notices would travel readable to another machine"));
        }
        Ok(address)
    }

    /// The URL as it is requested, with its query.
    pub(super) fn whole(&self) -> &str {
        self.base.as_str()
    }

    /// Scheme, host and port: what may be said of a URL whose path is a secret.
    pub(crate) fn origin(&self) -> String {
        self.base.origin().ascii_serialization()
    }

    fn option(&mut self, pair: &str) -> Result<(), String> {
        let (word, value) = pair.split_once('=').unwrap_or((pair, ""));
        let Some(word) = OPTIONS.into_iter().find(|known| *known == word) else {
            // Not repeated: it may be a token.
            return Err(format!("it has an option that is unknown; the options are {}", OPTIONS.join(", ")));
        };
        let value = percent::decode(value).map_err(|_| format!("its {word} is not percent-encoded UTF-8"))?;
        if value.is_empty() || value.contains('\0') {
            return Err(format!("its {word} is empty or holds a NUL character"));
        }
        let before = match word {
            "ca_file" => self.ca_file.replace(file(word, &value)?).is_some(),
            "token_file" => self.token.replace(Secret::File(file(word, &value)?)).is_some(),
            _ => self.token.replace(Secret::Environment(value)).is_some(),
        };
        if before { Err(format!("its option {word} stands twice, or beside another one for the same")) } else { Ok(()) }
    }

    fn is_local(&self) -> bool {
        match self.base.host() {
            Some(Host::Ipv4(address)) => address.is_loopback(),
            Some(Host::Ipv6(address)) => address.is_loopback(),
            Some(Host::Domain(name)) => name == "localhost",
            None => false,
        }
    }

    /// The one form of the URL.
    pub(crate) fn canonical(&self) -> String {
        let token = self.token.as_ref().map(|token| token.option("token"));
        let ca_file = self.ca_file.as_ref().map(|path| format!("ca_file={}", percent::encode_path(path)));
        let options: Vec<_> = [token, ca_file].into_iter().flatten().collect();
        let query = if options.is_empty() { String::new() } else { format!("?{}", options.join("&")) };
        format!("{}{query}", self.shown())
    }

    /// What messages call it: the base URL alone, without a slash at its end.
    pub(crate) fn shown(&self) -> &str {
        self.base.as_str().trim_end_matches('/')
    }

    /// The segments of its path.
    pub(crate) fn segments(&self) -> Vec<&str> {
        self.base.path().split('/').filter(|segment| !segment.is_empty()).collect()
    }

    /// The same server, at another path of it.
    pub(crate) fn at_path(mut self, path: &str) -> Self {
        self.base.set_path(path);
        self
    }

    /// The token, read now.
    pub(super) fn token(&self) -> Result<Option<String>, PortError> {
        let missing = |why: String| PortError::Permanent(format!("find the token of {}: {why}", self.shown()));
        self.token.as_ref().map(Secret::read).transpose().map_err(missing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = "https://HOST/PATH?token_env=NAME";

    fn parse(url: &str) -> Result<Address, PortError> {
        Address::parse(url, EXAMPLE)
    }

    #[test]
    fn two_spellings_of_an_address_have_one_form() {
        let expected = "https://kb.example/lethe?token_env=KB";
        for url in ["https://KB.example:443/lethe/?token_env=KB", "https://kb.example/x/../lethe?token_env=%4BB", expected] {
            assert_eq!(parse(url).unwrap().canonical(), expected);
        }
        assert_eq!(parse("http://[::1]:8000/").unwrap().canonical(), "http://[::1]:8000");
        assert_eq!(parse("http://127.1:80/a//").unwrap().canonical(), "http://127.0.0.1/a");
    }

    #[test]
    fn a_secret_in_a_url_is_refused_and_not_repeated() {
        for url in
            ["https://u:hunter2@h/", "https://hunter2@h/", "https://h/?token=hunter2", "https://h/#hunter2", "https://h:hunter2/"]
        {
            let error = parse(url).unwrap_err().to_string();
            assert!(!error.contains("hunter2") && error.contains(EXAMPLE), "{error}");
        }
    }

    #[test]
    fn a_token_does_not_leave_the_machine_readable() {
        assert!(parse("http://kb.example/?token_env=KB").unwrap_err().to_string().contains("use https"));
        for url in ["http://localhost:1/?token_env=KB", "http://127.0.0.1:1/?token_env=KB", "http://kb.example/"] {
            parse(url).unwrap();
        }
    }

    #[test]
    fn each_wrong_option_is_named() {
        for (url, said) in [
            ("ftp://h/", "http or https"),
            ("https://h/?token_env=A&token_env=B", "twice"),
            ("https://h/?token_env=", "empty"),
            ("https://h/?ca_file=/no/such/file", "/no/such/file"),
        ] {
            let error = parse(url).unwrap_err().to_string();
            assert!(error.contains(said), "{url}: {error}");
        }
    }
}
