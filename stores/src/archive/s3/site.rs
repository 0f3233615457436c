//! One prefix of one bucket: reading objects, and the canary that tells it from every other place.
//!
//! The rule: an object is absent only where the server says so of a key (a missing bucket is an error), and what is read is as long as the
//! server said. If we die in reading, nothing has happened.

use std::{sync::Arc, time::Duration};

use aws_sdk_s3::{
    Client,
    config::http::HttpResponse,
    error::{ProvideErrorMetadata, SdkError},
};
use bytes::Bytes;
use lethe_stages::ports::PortError;
use uuid::Uuid;

use super::{
    super::place::{CANARY, read_id},
    client::Clients,
    error::port_error,
    options::S3Options,
    url::Root,
};

/// Tries of a read whose connection breaks in the middle of the body.
const READS: usize = 3;

/// A prefix of a bucket, reached under an operator's options.
#[derive(Clone)]
pub(in crate::archive) struct Site {
    clients: Arc<Clients>,
    pub(in crate::archive) options: Arc<S3Options>,
    pub(in crate::archive) root: Root,
}

impl Site {
    pub(in crate::archive) fn new(clients: Arc<Clients>, options: Arc<S3Options>, root: Root) -> Self {
        Self { clients, options, root }
    }

    pub(super) async fn client(&self) -> Client {
        self.clients.get(&self.options).await
    }

    pub(super) fn bucket(&self) -> &str {
        &self.root.bucket
    }

    /// The whole key of what lies at `key` in the archive's root.
    pub(super) fn key(&self, key: &str) -> String {
        format!("{}{key}", self.root.prefix)
    }

    pub(super) fn error<E>(&self, doing: &str, error: &SdkError<E, HttpResponse>) -> PortError
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        port_error(doing, &self.root.bucket, error)
    }

    /// The bytes at a whole key; `None` where there is no such object.
    pub(super) async fn read(&self, key: &str) -> Result<Option<Bytes>, PortError> {
        let doing = format!("read {key}");
        let mut broken = String::new();
        for _ in 0..READS {
            let answer = match self.client().await.get_object().bucket(self.bucket()).key(key).send().await {
                Ok(answer) => answer,
                Err(error) if error.as_service_error().is_some_and(|error| error.is_no_such_key()) => return Ok(None),
                Err(error) => return Err(self.error(&doing, &error)),
            };
            let length = answer.content_length();
            match answer.body.collect().await.map(|body| body.into_bytes()) {
                Ok(bytes) if length.is_none_or(|length| length == bytes.len() as i64) => return Ok(Some(bytes)),
                Ok(bytes) => broken = format!("{} of {} byte(s) came", bytes.len(), length.unwrap_or_default()),
                Err(error) => broken = error.to_string(),
            }
        }
        Err(PortError::Transient(format!("{doing} in bucket {}: the connection broke {READS} times ({broken})", self.bucket())))
    }

    /// The canary's bytes. Looked for again where they are not found: while the canary is replaced by its equal (see
    /// `completes_under_condition`), a server may show nothing for a moment.
    pub(super) async fn read_canary(&self) -> Result<Option<Bytes>, PortError> {
        let key = self.key(CANARY);
        for _ in 1..READS {
            if let Some(bytes) = self.read(&key).await? {
                return Ok(Some(bytes));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        self.read(&key).await
    }

    /// The id in the canary; `None` where there is no canary.
    pub(in crate::archive) async fn canary(&self) -> Result<Option<Uuid>, PortError> {
        let key = self.key(CANARY);
        match self.read_canary().await? {
            None => Ok(None),
            Some(bytes) => read_id(&format!("s3://{}/{key}", self.bucket()), &bytes).map(Some),
        }
    }

    /// Makes sure that this is the archive that was bound.
    pub(super) async fn is(&self, archive_id: Uuid) -> Result<(), PortError> {
        let url = self.root.url();
        match self.canary().await? {
            Some(found) if found == archive_id => Ok(()),
            Some(found) => Err(PortError::WrongPlace(format!("find archive {archive_id} at {url}: archive {found} is there"))),
            None => Err(PortError::WrongPlace(format!("find archive {archive_id} at {url}: no archive's canary is there"))),
        }
    }
}
