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
/// Bytes of one line of an answer. Many more of it are needed to read it as JSON.
const LINE_MAX: usize = 64 << 20;

/// What a whole answer may be.
#[derive(Clone, Copy)]
struct Bounds {
    bytes_max: usize,
    /// For all of it, however steadily it drips.
    time_max: Duration,
}

/// An answer of one object, and any refusal.
const SMALL: Bounds = Bounds { bytes_max: 1 << 20, time_max: ANSWER };
/// One that holds records.
const LARGE: Bounds = Bounds { bytes_max: 256 << 20, time_max: Duration::from_secs(3600) };

/// A connection, opened when it is first needed and kept while this lives.
pub(crate) struct Client {
    address: Address,
    token: Option<(&'static str, String)>,
    /// How what the server says is repeated.
    pub(crate) words: Words,
    bounds: Bounds,
    inner: legacy::Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

/// An answer.
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) body: Bytes,
    /// Whether the body is all of it: what is beyond the client's bounds is left unread.
    pub(crate) is_whole: bool,
    words: Words,
}

impl Reply {
    async fn of(response: hyper::Response<Incoming>, client: &Client, doing: &str) -> Result<Self, PortError> {
        let (status, mut lines) = (response.status(), Lines::of(response, client, doing));
        let bytes_max = if status.is_success() { client.bounds.bytes_max } else { SMALL.bytes_max };
        let mut body = BytesMut::new();
        let all = async {
            while let Some(piece) = lines.piece().await? {
                if body.len() + piece.len() > bytes_max {
                    return Ok(false);
                }
                body.extend_from_slice(&piece);
            }
            Ok(true)
        };
        let is_whole = timeout(client.bounds.time_max, all).await.map_err(|_| late(doing, client.bounds.time_max))??;
        Ok(Self { status, body: body.freeze(), is_whole, words: client.words.clone() })
    }

    /// Its body, as what it should be.
    pub(crate) fn read<T: DeserializeOwned>(&self, doing: &str) -> Result<T, PortError> {
        if !self.is_whole {
            return Err(PortError::Permanent(format!("{doing}: the server's answer is longer than any that is expected")));
        }
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
        Ok(Self { address: address.clone(), token: None, words: Words::default(), bounds: SMALL, inner })
    }

    /// The same for a server whose answers hold records.
    pub(crate) fn with_large_answers(self) -> Self {
        Self { bounds: LARGE, ..self }
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
            Err(_) => Err(late(doing, ANSWER)),
        }
    }

    /// Asks, and reads the whole answer, whatever its status.
    pub(crate) async fn ask(&self, method: Method, path: &str, body: Option<&Json>, doing: &str) -> Result<Reply, PortError> {
        let response = self.begin(method, path, body, doing).await?;
        Reply::of(response, self, doing).await
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
        Reply::of(response, self, doing).await
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
            return Ok(Lines::of(response, self, doing));
        }
        Err(refusal(doing, &Reply::of(response, self, doing).await?))
    }
}

/// An answer that is read piece by piece.
pub(crate) struct Lines {
    body: Incoming,
    buffer: BytesMut,
    /// Bytes at the buffer's start that hold no end of a line.
    searched: usize,
    pub(crate) words: Words,
    /// For one line, however steadily it drips.
    time_max: Duration,
    doing: String,
}

impl Lines {
    fn of(response: hyper::Response<Incoming>, client: &Client, doing: &str) -> Self {
        let (words, time_max) = (client.words.clone(), client.bounds.time_max);
        Self { body: response.into_body(), buffer: BytesMut::new(), searched: 0, words, time_max, doing: doing.to_owned() }
    }

    async fn piece(&mut self) -> Result<Option<Bytes>, PortError> {
        loop {
            match timeout(ANSWER, self.body.frame()).await {
                Err(_) => return Err(late(&self.doing, ANSWER)),
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
        let time_max = self.time_max;
        match timeout(time_max, self.line()).await {
            Ok(line) => line,
            Err(_) => Err(late(&self.doing, time_max)),
        }
    }

    async fn line(&mut self) -> Result<Option<Json>, PortError> {
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
            if self.searched > LINE_MAX {
                let why = format!("a line of the answer has more than {} MiB", LINE_MAX >> 20);
                return Err(PortError::Permanent(format!("{}: {why}", self.doing)));
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
        serde_json::from_slice(line).map_err(|error| {
            let said = format!("{}: a line of the answer: {}", self.doing, unreadable(&error));
            match error.is_eof() {
                // It was cut off: the next try reads it whole.
                true => PortError::Transient(said),
                false => PortError::Permanent(format!("{said}; JSON has neither NaN nor infinities")),
            }
        })
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

fn late(doing: &str, time_max: Duration) -> PortError {
    PortError::Transient(format!("{doing}: no answer within {} s", time_max.as_secs()))
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::TcpListener,
    };

    use super::*;

    /// A client of a server that answers everything with this status, and then with this for ever.
    fn endless(status: &'static str, piece: Vec<u8>, pause: Duration) -> Client {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let _ = stream.read(&mut [0; 4096]);
                let _ = write!(stream, "HTTP/1.1 {status}\r\nconnection: close\r\n\r\n");
                while stream.write_all(&piece).is_ok() {
                    std::thread::sleep(pause);
                }
            }
        });
        Client::plain(&Address::parse(&url, "https://HOST").unwrap()).unwrap()
    }

    /// Most that any of these takes; a server that is waited for without an end would take for ever.
    const SOON: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn an_answer_that_drips_for_ever_is_late() {
        let mut client = endless("200 OK", b" ".to_vec(), Duration::from_millis(20));
        client.bounds.time_max = Duration::from_millis(400);
        let asked = timeout(SOON, client.ask(Method::GET, "/", None, "ask")).await.unwrap();
        assert!(matches!(asked, Err(PortError::Transient(said)) if said.contains("no answer within")));
        let mut lines = client.lines("/", &Json::Null, "ask", |_, reply| reply.refused("ask")).await.unwrap();
        let line = timeout(SOON, lines.next()).await.unwrap();
        assert!(matches!(line, Err(PortError::Transient(said)) if said.contains("no answer within")));
    }

    #[tokio::test]
    async fn an_answer_is_read_no_further_than_it_may_be_long() {
        let zeros = || b"0,".repeat(1 << 15);
        let reply = timeout(SOON, endless("200 OK", zeros(), Duration::ZERO).ask(Method::GET, "/", None, "ask")).await.unwrap();
        let reply = reply.ok().unwrap();
        assert!(reply.body.len() <= SMALL.bytes_max);
        assert!(matches!(reply.read::<Json>("ask"), Err(PortError::Permanent(said)) if said.contains("longer than")));
        for large in [false, true] {
            let client = endless("503 Busy", zeros(), Duration::ZERO);
            let client = if large { client.with_large_answers() } else { client };
            let reply = timeout(SOON, client.ask(Method::GET, "/", None, "ask")).await.unwrap().ok().unwrap();
            assert!(reply.body.len() <= SMALL.bytes_max, "however long it is, a refusal is one");
            assert!(matches!(reply.refused("ask"), PortError::Transient(said) if said == "ask: the server answers 503"));
        }
    }
}
