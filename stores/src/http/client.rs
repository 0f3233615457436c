//! One verb's connection to a server: JSON out, JSON or lines of JSON back, each within a limit of time and of memory.
//!
//! The rule: the server's words are repeated as [`Words`] has it, and never taken for more than words; a redirection is not followed. What
//! was asked when we die may have been done; every verb may be repeated.

use std::{error::Error, time::Duration};

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request, StatusCode, body::Incoming};
use hyper_rustls::HttpsConnector;
use hyper_util::{
    client::legacy::{self, connect::HttpConnector},
    rt::TokioExecutor,
};
use lethe_stages::ports::PortError;
use rustls::pki_types::{CertificateDer, pem::PemObject};
use serde::de::DeserializeOwned;
use serde_json::Value as Json;
use tokio::time::timeout;

use super::{
    Address,
    words::{Words, unreadable},
};

/// Until a connection stands.
const CONNECT: Duration = Duration::from_secs(5);
/// Until the answer begins, and then between two pieces of it. Long, because a store may rewrite its files meanwhile.
const ANSWER: Duration = Duration::from_secs(300);
/// Bytes of one answer, or of one line of it.
const BODY_MAX: usize = 256 << 20;

/// A connection, opened when it is first needed and kept while this lives.
pub(crate) struct Client {
    address: Address,
    token: Option<(&'static str, String)>,
    /// How what the server says is repeated.
    pub(crate) words: Words,
    inner: legacy::Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

/// A whole answer.
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) body: Bytes,
    words: Words,
}

impl Reply {
    async fn whole(response: hyper::Response<Incoming>, words: &Words, doing: &str) -> Result<Self, PortError> {
        let (status, mut lines) = (response.status(), Lines::of(response, words, doing));
        let mut whole = BytesMut::new();
        while let Some(piece) = lines.piece().await? {
            whole.extend_from_slice(&piece);
            if whole.len() > BODY_MAX {
                return Err(too_long(doing));
            }
        }
        Ok(Self { status, body: whole.freeze(), words: words.clone() })
    }

    /// Its body, as what it should be.
    pub(crate) fn read<T: DeserializeOwned>(&self, doing: &str) -> Result<T, PortError> {
        let wrong = |error| PortError::Permanent(format!("{doing}: the server's answer cannot be read: {}", unreadable(&error)));
        serde_json::from_slice(&self.body).map_err(wrong)
    }

    /// The words that a document of the body, which is said to be JSON, has under this name; fit to be repeated.
    pub(crate) fn said(&self, document: &Json, name: &str) -> String {
        document[name].as_str().map(|words| self.words.said(words)).unwrap_or_default()
    }

    /// What an answer means that is not the one asked for, where it says `message`: busy servers are asked again, the others are an
    /// operator's.
    pub(crate) fn refused(&self, doing: &str) -> PortError {
        let said = self.said(&serde_json::from_slice(&self.body).unwrap_or_default(), "message");
        let status = self.status;
        let message = format!("{doing}: the server answers {}{}{said}", status.as_u16(), if said.is_empty() { "" } else { ": " });
        let again = status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED;
        match again || matches!(status.as_u16(), 408 | 425 | 429) {
            true => PortError::Transient(message),
            false => PortError::Permanent(message),
        }
    }
}

impl Client {
    /// Reads token and certificates. The token goes into the header of this name, after `before`.
    pub(crate) fn new(address: &Address, header: &'static str, before: &str) -> Result<Self, PortError> {
        let token = address.token()?;
        let words = Words::without(token.clone());
        Ok(Self { token: token.map(|token| (header, format!("{before}{token}"))), words, ..Self::plain(address)? })
    }

    /// Reads certificates; it sends no token.
    pub(crate) fn plain(address: &Address) -> Result<Self, PortError> {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_connect_timeout(Some(CONNECT));
        tcp.set_nodelay(true);
        let tls = hyper_rustls::HttpsConnectorBuilder::new().with_tls_config(trust(address)?);
        let connector = tls.https_or_http().enable_http1().wrap_connector(tcp);
        let inner = legacy::Client::builder(TokioExecutor::new()).build(connector);
        Ok(Self { address: address.clone(), token: None, words: Words::default(), inner })
    }

    async fn begin(
        &self,
        method: Method,
        path: &str,
        body: Option<&Json>,
        doing: &str,
    ) -> Result<hyper::Response<Incoming>, PortError> {
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.address.shown()));
        request = request.header("user-agent", concat!("lethe/", env!("CARGO_PKG_VERSION")));
        if let Some((header, token)) = &self.token {
            request = request.header(*header, token);
        }
        if body.is_some() {
            request = request.header("content-type", "application/json");
        }
        let body = body.map_or_else(Bytes::new, |body| body.to_string().into());
        let request = request.body(Full::new(body));
        // The only parts that could be wrong are the path and the token, and the token is not to be repeated.
        let request =
            request.map_err(|_| PortError::Permanent(format!("{doing}: the path or the token holds what HTTP cannot send")))?;
        match timeout(ANSWER, self.inner.request(request)).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(unreachable(&self.words, doing, &error)),
            Err(_) => Err(late(doing)),
        }
    }

    /// Asks, and reads the whole answer, whatever its status.
    pub(crate) async fn ask(&self, method: Method, path: &str, body: Option<&Json>, doing: &str) -> Result<Reply, PortError> {
        let response = self.begin(method, path, body, doing).await?;
        Reply::whole(response, &self.words, doing).await
    }

    /// Posts JSON to the address as it is, with its query and with `headers`, and reads the whole answer, whatever its status.
    pub(crate) async fn post(&self, body: String, headers: &[(&str, String)], doing: &str) -> Result<Reply, PortError> {
        let mut request = Request::builder().method(Method::POST).uri(self.address.whole());
        request =
            request.header("user-agent", concat!("lethe/", env!("CARGO_PKG_VERSION"))).header("content-type", "application/json");
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        let request = request.body(Full::new(body.into()));
        let request = request.map_err(|_| PortError::Permanent(format!("{doing}: the URL holds what HTTP cannot send")))?;
        let response = self.inner.request(request).await.map_err(|error| unreachable(&self.words, doing, &error))?;
        Reply::whole(response, &self.words, doing).await
    }

    /// Posts, and reads the answer line by line where it is 200; any other is the error of `refusal`.
    pub(crate) async fn lines(
        &self,
        path: &str,
        body: &Json,
        doing: &str,
        refusal: impl FnOnce(&str, &Reply) -> PortError,
    ) -> Result<Lines, PortError> {
        let response = self.begin(Method::POST, path, Some(body), doing).await?;
        if response.status() == StatusCode::OK {
            return Ok(Lines::of(response, &self.words, doing));
        }
        Err(refusal(doing, &Reply::whole(response, &self.words, doing).await?))
    }
}

/// An answer that is read piece by piece.
pub(crate) struct Lines {
    body: Incoming,
    buffer: BytesMut,
    /// Bytes at the buffer's start that hold no end of a line.
    searched: usize,
    pub(crate) words: Words,
    doing: String,
}

impl Lines {
    fn of(response: hyper::Response<Incoming>, words: &Words, doing: &str) -> Self {
        let words = words.clone();
        Self { body: response.into_body(), buffer: BytesMut::new(), searched: 0, words, doing: doing.to_owned() }
    }

    async fn piece(&mut self) -> Result<Option<Bytes>, PortError> {
        loop {
            match timeout(ANSWER, self.body.frame()).await {
                Err(_) => return Err(late(&self.doing)),
                Ok(None) => return Ok(None),
                Ok(Some(Err(error))) => return Err(unreachable(&self.words, &self.doing, &error)),
                Ok(Some(Ok(frame))) => {
                    if let Ok(piece) = frame.into_data() {
                        return Ok(Some(piece));
                    }
                }
            }
        }
    }

    /// The next line as JSON; `None` at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Json>, PortError> {
        loop {
            if let Some(end) = self.buffer[self.searched..].iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(self.searched + end + 1);
                self.searched = 0;
                if line.iter().any(|byte| !byte.is_ascii_whitespace()) {
                    return self.read(&line).map(Some);
                }
                continue;
            }
            self.searched = self.buffer.len();
            if self.searched > BODY_MAX {
                return Err(too_long(&self.doing));
            }
            match self.piece().await? {
                Some(piece) => self.buffer.extend_from_slice(&piece),
                None if self.buffer.iter().all(u8::is_ascii_whitespace) => return Ok(None),
                None => {
                    let line = self.buffer.split();
                    self.searched = 0;
                    return self.read(&line).map(Some);
                }
            }
        }
    }

    fn read(&self, line: &[u8]) -> Result<Json, PortError> {
        // A line that was cut off is no JSON either: the next try reads it whole.
        serde_json::from_slice(line)
            .map_err(|error| PortError::Transient(format!("{}: a line of the answer: {}", self.doing, unreadable(&error))))
    }
}

fn trust(address: &Address) -> Result<rustls::ClientConfig, PortError> {
    let mut roots = rustls::RootCertStore::empty();
    if address.shown().starts_with("https:") {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    }
    if let Some(file) = &address.ca_file {
        let unusable =
            |why: String| PortError::Permanent(format!("read the certificates of {}: {file}: {why}", address.origin()));
        let read = CertificateDer::pem_file_iter(file).map_err(|error| unusable(error.to_string()))?;
        let read: Vec<_> = read.collect::<Result<_, _>>().map_err(|error| unusable(error.to_string()))?;
        if roots.add_parsable_certificates(read).0 == 0 {
            return Err(unusable("it holds no certificate".into()));
        }
    }
    let provider = rustls::crypto::ring::default_provider();
    let config = rustls::ClientConfig::builder_with_provider(provider.into()).with_safe_default_protocol_versions();
    let config = config.map_err(|error| PortError::Permanent(format!("set TLS up for {}: {error}", address.origin())))?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

fn unreachable(words: &Words, doing: &str, error: &(dyn Error + 'static)) -> PortError {
    let mut said = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        said = format!("{said}: {next}");
        cause = next.source();
    }
    // A certificate's names, for one, are the server's words.
    let message = format!("{doing}: {}", words.said(&said));
    if is_untrusted(error) { PortError::Permanent(message) } else { PortError::Transient(message) }
}

/// Whether a certificate was refused. An input-output error shows what it wraps in its text, and not as its source.
fn is_untrusted(error: &(dyn Error + 'static)) -> bool {
    let wrapped = error.downcast_ref::<std::io::Error>().and_then(|error| error.get_ref());
    matches!(error.downcast_ref(), Some(rustls::Error::InvalidCertificate(_)))
        || wrapped.is_some_and(|wrapped| is_untrusted(wrapped))
        || error.source().is_some_and(is_untrusted)
}

fn late(doing: &str) -> PortError {
    PortError::Transient(format!("{doing}: no answer within {} s", ANSWER.as_secs()))
}

fn too_long(doing: &str) -> PortError {
    PortError::Permanent(format!("{doing}: the answer has more than {} MiB in one piece", BODY_MAX >> 20))
}
