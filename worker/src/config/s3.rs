//! What is configured of archives in S3: `[archive.s3]`, and `[archives."s3://BUCKET/PREFIX"]` for what differs for one of them.
//!
//! The rule: no secret stands here, only where to find one; an archive is named by its one canonical URL, so that no section is silently
//! without effect.

use std::{collections::BTreeMap, path::PathBuf};

use chrono::TimeDelta;
use lethe_stores::{Archives, Encryption, LockMode, ObjectLock, PathStyle, S3Options};
use serde::Deserialize;
use uuid::Uuid;

use super::{Config, Span};

/// See `[archive.s3]`. An empty text means: as the standard AWS configuration says.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct S3Config {
    /// The server's URL.
    pub endpoint: String,
    /// The bucket's region.
    pub region: String,
    /// How a bucket stands in a request's URL.
    pub path_style: PathStyle,
    /// A credentials file instead of the standard chain.
    pub credentials_file: PathBuf,
    /// The profile.
    pub profile: String,
    /// Server-side encryption.
    pub encryption: Encryption,
    /// The key for `aws:kms`.
    pub kms_key: String,
    /// `none`, or the lock's mode.
    pub lock_mode: String,
    /// How long a lock lasts.
    pub lock_for: Span,
    /// Archives to which the bucket replicates.
    pub replicas: Vec<String>,
}

impl S3Config {
    fn options(&self) -> Result<S3Options, String> {
        let given = |text: &String| (!text.is_empty()).then(|| text.clone());
        let lasts = self.lock_for.0;
        let lock = match self.lock_mode.as_str() {
            "none" if lasts > TimeDelta::zero() => return Err("lock_for is set and lock_mode is none".into()),
            "none" => None,
            mode => {
                let mode: LockMode = mode.parse().map_err(|error| format!("lock_mode: {error}, none"))?;
                if lasts < TimeDelta::seconds(1) {
                    return Err("lock_mode is set and lock_for is below 1s".into());
                }
                Some(ObjectLock { mode, seconds: lasts.num_seconds() })
            }
        };
        if !self.kms_key.is_empty() && self.encryption != Encryption::Kms {
            return Err(format!("kms_key is set and encryption is {}, not aws:kms", self.encryption));
        }
        if !self.endpoint.is_empty() && !["http://", "https://"].iter().any(|scheme| self.endpoint.starts_with(scheme)) {
            return Err(format!("endpoint `{}` is no URL like https://host:port", self.endpoint));
        }
        let mut replicas = Vec::new();
        for url in &self.replicas {
            let canonical = Archives::canonical_url(url).map_err(|error| format!("replicas: {error}"))?;
            if !canonical.starts_with("s3://") {
                return Err(format!("replicas: {url} is no archive in S3"));
            }
            replicas.push(canonical);
        }
        Ok(S3Options {
            endpoint: given(&self.endpoint),
            region: given(&self.region),
            path_style: self.path_style,
            credentials_file: Some(self.credentials_file.clone()).filter(|path| !path.as_os_str().is_empty()),
            profile: given(&self.profile),
            encryption: self.encryption,
            kms_key: given(&self.kms_key),
            lock,
            replicas,
        })
    }
}

impl Config {
    /// The archives as they are configured. The configuration was checked when it was read.
    pub fn archives(&self) -> Archives {
        let (standard, by_url) = self.s3_options().unwrap_or_default();
        Archives::new(standard, by_url)
    }

    /// The prefixes of a plane in the declared copies of its archive.
    pub fn archive_copies(&self, url: &str, plane_id: Uuid) -> Vec<String> {
        let replicas = self.archives.get(url).map(|archive| archive.replicas.as_slice()).unwrap_or_default();
        replicas.iter().map(|replica| format!("{}/{plane_id}/", replica.trim_end_matches('/'))).collect()
    }

    pub(super) fn check_archives(&self) -> Result<(), String> {
        self.s3_options().map(drop)
    }

    fn s3_options(&self) -> Result<(S3Options, BTreeMap<String, S3Options>), String> {
        let standard = self.archive.s3.options().map_err(|error| format!("archive.s3: {error}"))?;
        if !standard.replicas.is_empty() {
            return Err("archive.s3.replicas: name them in the section of the archive they are copies of".into());
        }
        let mut by_url = BTreeMap::new();
        for (url, archive) in &self.archives {
            let wrong = |error: String| format!("archives.\"{url}\": {error}");
            let canonical = Archives::canonical_url(url).map_err(|error| wrong(error.to_string()))?;
            if canonical != *url || !url.starts_with("s3://") {
                return Err(wrong(format!("write it as {canonical}, and only for archives in S3")));
            }
            let options = archive.options().map_err(wrong)?;
            if options.replicas.contains(url) {
                return Err(wrong("it cannot be its own replica".into()));
            }
            by_url.insert(url.clone(), options);
        }
        Ok((standard, by_url))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Config, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        Config::load(Some(file.path())).map_err(|error| error.to_string())
    }

    #[test]
    fn an_archive_has_the_standard_settings_but_for_what_it_names() {
        let config = load(
            "[archive.s3]\nregion = \"eu-1\"\nencryption = \"AES256\"\n[archives.\"s3://cold/a\"]\nencryption = \"default\"",
        )
        .unwrap();
        let (standard, by_url) = config.s3_options().unwrap();
        assert_eq!((standard.region.as_deref(), standard.encryption), (Some("eu-1"), Encryption::Aes256));
        let own = &by_url["s3://cold/a"];
        assert_eq!((own.region.as_deref(), own.encryption), (Some("eu-1"), Encryption::Default));
    }

    #[test]
    fn settings_that_contradict_one_another_are_named() {
        for (text, complaint) in [
            ("[archive.s3]\nlock_mode = \"compliance\"", "lock_for"),
            ("[archive.s3]\nlock_for = \"1d\"", "lock_mode"),
            ("[archive.s3]\nlock_mode = \"strict\"\nlock_for = \"1d\"", "governance"),
            ("[archive.s3]\nkms_key = \"k\"", "aws:kms"),
            ("[archive.s3]\nsecret = \"k\"", "secret"),
            ("[archive.s3]\nreplicas = [\"s3://copy/a\"]", "section of the archive"),
            ("[archives.\"s3://cold/a/\"]\nregion = \"x\"", "write it as s3://cold/a"),
            ("[archives.\"s3://cold/a\"]\nreplicas = [\"s3://cold/a\"]", "own replica"),
            ("[archives.\"s3://cold/a\"]\nreplicas = [\"file:///a\"]", "no archive in S3"),
        ] {
            let error = load(text).unwrap_err();
            assert!(error.contains(complaint), "{text}: {error}");
        }
    }
}
