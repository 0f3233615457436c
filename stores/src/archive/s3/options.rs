//! What an operator says of one S3 archive: where and as whom to reach it, and how its objects are to be kept.
//!
//! The rule: no secret stands in here, only where to find one. Nothing here touches the world.

use std::path::PathBuf;

use chrono::TimeDelta;
use lethe_stages::text_enum;
use serde::{Deserialize, Serialize};

text_enum! {
    /// How a bucket stands in a request's URL.
    PathStyle {
        /// As a path where the endpoint is not AWS's own, else as a host name.
        Auto = "auto",
        /// As a path.
        Always = "always",
        /// As a host name.
        Never = "never",
    }
}

text_enum! {
    /// Server-side encryption that every write asks for.
    Encryption {
        /// As the bucket does by itself.
        Default = "default",
        /// With keys of the server.
        Aes256 = "AES256",
        /// With a key of a key management service.
        Kms = "aws:kms",
    }
}

text_enum! {
    /// What an object lock lets pass.
    LockMode {
        /// Who has a special permission may end it. Lethe never does.
        Governance = "governance",
        /// Nobody ends it before its date.
        Compliance = "compliance",
    }
}

/// A lock that objects of an archive get.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectLock {
    /// Its mode.
    pub mode: LockMode,
    /// How long it lasts from the write on, in seconds.
    pub seconds: i64,
}

impl ObjectLock {
    /// How long it lasts from the write on.
    pub fn lasts(&self) -> TimeDelta {
        TimeDelta::seconds(self.seconds)
    }
}

/// Settings of an S3 archive; what is `None` comes from the standard AWS configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct S3Options {
    /// The server's URL.
    pub endpoint: Option<String>,
    /// The bucket's region.
    pub region: Option<String>,
    /// How a bucket stands in a request's URL.
    pub path_style: PathStyle,
    /// A credentials file in AWS's format, instead of the standard chain.
    pub credentials_file: Option<PathBuf>,
    /// The profile in that file, or in the standard configuration.
    pub profile: Option<String>,
    /// Server-side encryption.
    pub encryption: Encryption,
    /// The key for [`Encryption::Kms`]; the service's default key where there is none.
    pub kms_key: Option<String>,
    /// The lock that parts and manifests get.
    pub lock: Option<ObjectLock>,
    /// The archives, as URLs, to which the bucket replicates.
    pub replicas: Vec<String>,
}

impl Default for S3Options {
    fn default() -> Self {
        Self {
            endpoint: None,
            region: None,
            path_style: PathStyle::Auto,
            credentials_file: None,
            profile: None,
            encryption: Encryption::Default,
            kms_key: None,
            lock: None,
            replicas: Vec::new(),
        }
    }
}
