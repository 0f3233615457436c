//! What a bucket does by itself with what is written into it: versions, default locks, replication, expiry.
//!
//! The rule: read, never guessed. A server that has not implemented a question, or does not let us ask it, leaves the answer unknown, and
//! that is said. Changes nothing.

use aws_sdk_s3::{
    config::http::HttpResponse,
    error::{ProvideErrorMetadata, SdkError},
    types::{
        BucketVersioningStatus, ExpirationStatus, LifecycleRule, ObjectLockRetentionMode, ReplicationRule, ReplicationRuleStatus,
    },
};
use lethe_stages::ports::PortError;
use serde::{Deserialize, Serialize};

use super::{
    options::{LockMode, ObjectLock},
    site::Site,
    url::Root,
};

/// Seconds of a day.
const DAY: i64 = 86_400;

/// What is known of the bucket of an S3 archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BucketCheck {
    /// Its name.
    pub bucket: String,
    /// `enabled`, `suspended`, `off` or `unknown`.
    pub versioning: String,
    /// The lock that the bucket puts on objects which ask for none.
    pub default_lock: Option<ObjectLock>,
    /// The lock that parts and manifests get: the archive's own, else the bucket's.
    pub lock: Option<ObjectLock>,
    /// URLs of the copies that it makes of what is written below the archive's prefix.
    pub replicates_to: Vec<String>,
    /// Of these, the ones that are not declared, and so would not be purged.
    pub undeclared: Vec<String>,
    /// Rules that remove objects below the prefix by themselves.
    pub expires: Vec<String>,
    /// What the server does not answer, and why.
    pub unknown: Vec<String>,
}

impl BucketCheck {
    /// What an operator should know, in sentences.
    pub fn findings(&self) -> Vec<String> {
        let mut said = Vec::new();
        said.push(match self.versioning.as_str() {
            "enabled" => "the bucket keeps versions: a purge removes each of them".to_owned(),
            "suspended" => {
                "versioning is suspended: versions from before are still there, and a purge removes them too".to_owned()
            }
            "off" => "the bucket keeps no versions: what is deleted, by whomever, is gone".to_owned(),
            _ => "whether the bucket keeps versions is unknown".to_owned(),
        });
        if let Some(lock) = &self.default_lock {
            said.push(format!("the bucket locks what is written into it ({} for {} day(s))", lock.mode, lock.seconds / DAY));
        }
        if let Some(lock) = self.lock.filter(|lock| Some(*lock) != self.default_lock) {
            said.push(format!("objects of this archive are locked ({} for {} second(s))", lock.mode, lock.seconds));
        }
        for copy in &self.replicates_to {
            let declared = if self.undeclared.contains(copy) { "not declared" } else { "declared, and purged too" };
            said.push(format!("the bucket replicates to {copy}: {declared}"));
        }
        said.extend(self.expires.iter().map(|rule| format!("{rule}: the archive may be gone before its retention ends")));
        said.extend(self.unknown.iter().cloned());
        said
    }
}

impl Site {
    /// Asks the bucket what it does by itself. `replicas` are the places that are declared as its copies.
    pub(in crate::archive) async fn preflight(&self, replicas: &[Root]) -> Result<BucketCheck, PortError> {
        let mut unknown = Vec::new();
        let (client, bucket) = (self.client().await, self.bucket());

        let asked = client.get_bucket_versioning().bucket(bucket).send().await;
        let versioning = match self.answer("versioning", asked, &[], &mut unknown)?.map(|answer| answer.status) {
            Some(Some(BucketVersioningStatus::Enabled)) => "enabled",
            Some(Some(BucketVersioningStatus::Suspended)) => "suspended",
            Some(None) => "off",
            _ => "unknown",
        };
        let default_lock = self.bucket_lock(&mut unknown).await?.and_then(|lock| lock.default);
        let replicates_to = self.replicates_to(&mut unknown).await?;
        let asked = client.get_bucket_lifecycle_configuration().bucket(bucket).send().await;
        let lifecycle = self.answer("lifecycle", asked, &["NoSuchLifecycleConfiguration"], &mut unknown)?;
        let rules = lifecycle.and_then(|answer| answer.rules).unwrap_or_default();
        let expires = rules.iter().filter_map(|rule| self.expiry(rule)).collect();

        let undeclared = replicates_to.iter().filter(|copy| !replicas.contains(copy)).map(Root::url).collect();
        Ok(BucketCheck {
            bucket: bucket.to_owned(),
            versioning: versioning.to_owned(),
            default_lock,
            lock: self.options.lock.or(default_lock),
            undeclared,
            replicates_to: replicates_to.iter().map(Root::url).collect(),
            expires,
            unknown,
        })
    }

    /// Whether objects of the bucket can be locked, and how they are by default; `None` where they cannot be.
    pub(super) async fn bucket_lock(&self, unknown: &mut Vec<String>) -> Result<Option<BucketLock>, PortError> {
        let asked = self.client().await.get_object_lock_configuration().bucket(self.bucket()).send().await;
        let before = unknown.len();
        let answer = self.answer("object lock", asked, &["ObjectLockConfigurationNotFoundError", "InvalidRequest"], unknown)?;
        let Some(answer) = answer else {
            // Where it cannot be asked of the bucket, it must be asked of each object.
            let denied = unknown.get(before).is_some_and(|said| said.contains("AccessDenied"));
            return Ok(denied.then_some(BucketLock { default: None }));
        };
        let Some(configuration) = answer.object_lock_configuration else { return Ok(None) };
        let retention = configuration.rule.and_then(|rule| rule.default_retention);
        let default = retention.and_then(|retention| {
            let days = i64::from(retention.days.unwrap_or(0)) + 366 * i64::from(retention.years.unwrap_or(0));
            let mode = match retention.mode? {
                ObjectLockRetentionMode::Governance => LockMode::Governance,
                _ => LockMode::Compliance,
            };
            Some(ObjectLock { mode, seconds: days * DAY })
        });
        Ok(Some(BucketLock { default }))
    }

    /// Where what is written below the prefix is replicated to: replication keeps keys, so in another bucket below the same prefix.
    pub(super) async fn replicates_to(&self, unknown: &mut Vec<String>) -> Result<Vec<Root>, PortError> {
        let asked = self.client().await.get_bucket_replication().bucket(self.bucket()).send().await;
        let none = ["ReplicationConfigurationNotFoundError", "NoSuchReplicationConfiguration"];
        let answer = self.answer("replication", asked, &none, unknown)?;
        let rules = answer.and_then(|answer| answer.replication_configuration).map(|found| found.rules).unwrap_or_default();
        let mut names: Vec<String> = rules.iter().filter_map(|rule| self.destination(rule)).collect();
        names.sort();
        names.dedup();
        Ok(names.into_iter().map(|bucket| Root { bucket, prefix: self.root.prefix.clone() }).collect())
    }

    /// The answer; `None` where the server says with one of `none` that there is no such configuration, or cannot say.
    fn answer<T, E>(
        &self,
        what: &str,
        asked: Result<T, SdkError<E, HttpResponse>>,
        none: &[&str],
        unknown: &mut Vec<String>,
    ) -> Result<Option<T>, PortError>
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        let error = match asked {
            Ok(answer) => return Ok(Some(answer)),
            Err(error) => error,
        };
        let status = error.raw_response().map_or(0, |response| response.status().as_u16());
        let code = error.as_service_error().and_then(|error| error.code()).unwrap_or_default().to_owned();
        if none.contains(&code.as_str()) {
            return Ok(None);
        }
        let cannot_say =
            matches!(code.as_str(), "NotImplemented" | "MethodNotAllowed" | "AccessDenied") || matches!(status, 405 | 501);
        if !cannot_say {
            return Err(self.error(&format!("read the {what}"), &error));
        }
        let code = if code.is_empty() { format!("HTTP {status}") } else { code };
        unknown.push(format!("{what} of bucket {} is unknown: the server answers {code}", self.bucket()));
        Ok(None)
    }

    fn destination(&self, rule: &ReplicationRule) -> Option<String> {
        #[allow(deprecated, reason = "rules of the first version have their prefix there")]
        let prefix =
            rule.filter().and_then(|filter| filter.prefix().or_else(|| filter.and()?.prefix())).or(rule.prefix()).unwrap_or("");
        let to = rule.destination()?.bucket();
        let name = to.rsplit(':').next().unwrap_or(to);
        (*rule.status() == ReplicationRuleStatus::Enabled && self.touches(prefix)).then(|| name.to_owned())
    }

    fn expiry(&self, rule: &LifecycleRule) -> Option<String> {
        #[allow(deprecated, reason = "rules of the first version have their prefix there")]
        let prefix =
            rule.filter().and_then(|filter| filter.prefix().or_else(|| filter.and()?.prefix())).or(rule.prefix()).unwrap_or("");
        let expiration = rule.expiration()?;
        let after = match (expiration.days(), expiration.date()) {
            (Some(days), _) => format!("after {days} day(s)"),
            (None, Some(date)) => format!("on {date}"),
            (None, None) => return None,
        };
        let expires = *rule.status() == ExpirationStatus::Enabled && self.touches(prefix);
        expires.then(|| format!("lifecycle rule {} expires objects {after}", rule.id().unwrap_or("without a name")))
    }

    /// Whether a rule for `prefix` concerns objects of this archive.
    fn touches(&self, prefix: &str) -> bool {
        prefix.starts_with(&self.root.prefix) || self.root.prefix.starts_with(prefix)
    }

    /// Makes sure that what a purge needs can be asked of this server: versions and unfinished uploads.
    pub(in crate::archive) async fn can_be_purged(&self) -> Result<(), PortError> {
        let (client, prefix) = (self.client().await, &self.root.prefix);
        let listed = client.list_object_versions().bucket(self.bucket()).prefix(prefix).max_keys(1).send().await;
        listed.map_err(|error| self.error("list versions, as a purge will,", &error))?;
        let listed = client.list_multipart_uploads().bucket(self.bucket()).prefix(prefix).max_uploads(1).send().await;
        listed.map_err(|error| self.error("list unfinished uploads, as a purge will,", &error))?;
        Ok(())
    }
}

/// A bucket whose objects can be locked.
#[derive(Debug)]
pub(super) struct BucketLock {
    /// The lock that an object gets by itself.
    pub(super) default: Option<ObjectLock>,
}
