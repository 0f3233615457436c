//! Clients: one for each endpoint and identity, made when it is first needed and kept as long as the process.
//!
//! The rule: credentials come from the standard AWS chain (environment, profile, process, web identity, container, instance) or from a
//! file that the configuration names, which is read again when it was replaced; they stay inside the SDK.
//! The SDK signs by the machine's own clock, which is what the server compares with.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::Mutex,
    time::{Duration, SystemTime},
};

use aws_config::{
    BehaviorVersion, Region, profile::ProfileFileCredentialsProvider, provider_config::ProviderConfig, retry::RetryConfig,
    timeout::TimeoutConfig,
};
use aws_sdk_s3::{
    Client,
    config::{RequestChecksumCalculation, ResponseChecksumValidation, SharedHttpClient},
};
use aws_smithy_http_client::{
    Builder,
    tls::{Provider, rustls_provider::CryptoMode},
};

use futures::FutureExt;

use super::options::{PathStyle, S3Options};

/// Where and as whom.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Connection {
    endpoint: Option<String>,
    region: Option<String>,
    path_style: PathStyle,
    credentials_file: Option<PathBuf>,
    /// When that file was written: the SDK reads it once, and it may be replaced.
    credentials_of: Option<SystemTime>,
    profile: Option<String>,
}

/// The clients of this process.
#[derive(Default)]
pub(in crate::archive) struct Clients(Mutex<HashMap<Connection, Client>>);

/// Tries of one request by the SDK, with a growing pause between them; then the run's own attempts begin.
const ATTEMPTS: u32 = 3;
/// Until a connection stands.
const CONNECT: Duration = Duration::from_secs(5);
/// Until the server answers; the body of the request is sent meanwhile.
const ANSWER: Duration = Duration::from_secs(60);
/// For one try of a request.
const TRY: Duration = Duration::from_secs(180);

impl Clients {
    /// The client for these options. Nothing is asked yet.
    pub(super) async fn get(&self, options: &S3Options) -> Client {
        let connection = Connection {
            endpoint: options.endpoint.clone(),
            region: options.region.clone(),
            path_style: options.path_style,
            credentials_file: options.credentials_file.clone(),
            credentials_of: options.credentials_file.as_ref().and_then(|file| file.metadata().ok()?.modified().ok()),
            profile: options.profile.clone(),
        };
        let known = || self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(client) = known().get(&connection) {
            return client.clone();
        }
        let client = connect(connection.clone()).boxed().await;
        known().entry(connection).or_insert(client).clone()
    }
}

fn http_client() -> SharedHttpClient {
    Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring)).build_https()
}

async fn connect(connection: Connection) -> Client {
    let timeouts = TimeoutConfig::builder().connect_timeout(CONNECT).read_timeout(ANSWER).operation_attempt_timeout(TRY).build();
    let mut loader = aws_config::defaults(BehaviorVersion::v2026_01_12())
        .http_client(http_client())
        .timeout_config(timeouts)
        .retry_config(RetryConfig::standard().with_max_attempts(ATTEMPTS).with_initial_backoff(Duration::from_millis(200)));
    if let Some(region) = &connection.region {
        loader = loader.region(Region::new(region.clone()));
    }
    if let Some(endpoint) = &connection.endpoint {
        loader = loader.endpoint_url(endpoint);
    }
    match (&connection.credentials_file, &connection.profile) {
        (Some(file), profile) => {
            #[allow(deprecated, reason = "the name of this module differs between versions of the SDK")]
            let files = aws_config::profile::profile_file::ProfileFiles::builder()
                .with_file(aws_config::profile::profile_file::ProfileFileKind::Credentials, file)
                .build();
            let region = connection.region.clone().map(Region::new);
            let reached = ProviderConfig::without_region().with_http_client(http_client()).with_region(region);
            let mut provider = ProfileFileCredentialsProvider::builder().configure(&reached).profile_files(files);
            if let Some(profile) = profile {
                provider = provider.profile_name(profile);
            }
            loader = loader.credentials_provider(provider.build());
        }
        (None, Some(profile)) => loader = loader.profile_name(profile),
        (None, None) => {}
    }
    let shared = loader.load().await;
    let elsewhere = shared.endpoint_url().is_some() || std::env::var_os("AWS_ENDPOINT_URL_S3").is_some();
    let path_style = match connection.path_style {
        PathStyle::Always => true,
        PathStyle::Never => false,
        PathStyle::Auto => elsewhere,
    };
    let mut config = aws_sdk_s3::config::Builder::from(&shared)
        .force_path_style(path_style)
        // Bytes are compared after reading them back. Checksum headers prove less (some servers take a wrong one), and older servers
        // cannot read bodies that end in one.
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
    if shared.region().is_none() {
        config = config.region(Region::from_static("us-east-1"));
    }
    Client::from_conf(config.build())
}
