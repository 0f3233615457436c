//! The configuration: `config/default.toml`, overridden key by key by one file of the operator's.
//!
//! The rule: every key has a default and a sentence in that file; an unknown key, an unreadable value or a ground whose terms
//! contradict one another stops the program at its start.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use chrono::TimeDelta;
use lethe_ledger::{Actor, Assurance};
use lethe_stages::{EvictMode, GraceAccess, Ground, Keep, canonical};
use lethe_stores::{
    Control, Controls, Paces,
    channels::{Channels, CommandChannel, FileChannel, WebhookChannel},
};
use serde::{Deserialize, Deserializer};

use crate::{
    deadline::{Law, Zone},
    policy::{PolicyError, Preset, Role, Source},
    window::Window,
};

mod encryption;
mod log;
mod s3;

pub(crate) use self::log::NONE;
pub use self::{
    encryption::{EncryptionConfig, EncryptionMode},
    log::LogConfig,
    s3::S3Config,
};

/// The defaults, as they stand in the repository.
pub const DEFAULTS: &str = include_str!("../../config/default.toml");

/// The longest duration that anybody may mean: ten years.
pub const LONGEST: TimeDelta = TimeDelta::days(3653);

/// A duration as people write it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub TimeDelta);

impl std::str::FromStr for Span {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if text.starts_with('-') {
            return Err(format!("`{text}` is negative; write a duration like 90s, 36h or 7d"));
        }
        let parsed = humantime::parse_duration(text)
            .map_err(|error| format!("`{text}` is not a duration like 90s, 36h or 7d: {error}"))?;
        let span = TimeDelta::from_std(parsed).map_err(|_| format!("`{text}` is longer than ten years"))?;
        if span > LONGEST { Err(format!("`{text}` is longer than ten years")) } else { Ok(Self(span)) }
    }
}

impl std::fmt::Display for Span {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Days, hours, minutes and seconds only: nobody writes a grace period in "months" of 30.44 days.
        let total = self.0.num_seconds();
        let parts = [(total / 86_400, "d"), (total / 3600 % 24, "h"), (total / 60 % 60, "m"), (total % 60, "s")];
        let text: Vec<_> =
            parts.iter().filter(|(number, _)| *number > 0).map(|(number, unit)| format!("{number}{unit}")).collect();
        f.write_str(&if text.is_empty() { "0s".to_owned() } else { text.join(" ") })
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// The whole configuration.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Terms that hold for every ground.
    pub offboarding: OffboardingConfig,
    /// Terms by ground.
    pub grounds: BTreeMap<Ground, GroundConfig>,
    /// What laws say of the time to erase, by the name that requests and grounds call them.
    pub laws: BTreeMap<String, Law>,
    /// Deadlines, and what is late.
    pub due: DueConfig,
    /// Notices.
    pub notices: NoticesConfig,
    /// What is known of planes' use.
    pub usage: UsageConfig,
    /// Policies.
    pub policy: PolicyConfig,
    /// Approvals.
    pub approval: ApprovalConfig,
    /// Holds.
    pub hold: HoldConfig,
    /// Purges.
    pub purge: PurgeConfig,
    /// Probes after a purge.
    pub probe: ProbeConfig,
    /// Knowledge stores.
    pub store: StoreConfig,
    /// Archives.
    pub archive: ArchiveConfig,
    /// The log of the trail.
    pub log: LogConfig,
    /// The clock.
    pub clock: ClockConfig,
    /// The queue.
    pub queue: QueueConfig,
    /// Personal values.
    pub personal: PersonalConfig,
    /// The sweep.
    pub sweep: SweepConfig,
    /// What depends on planes.
    pub dependent: DependentConfig,
    /// The commands that control what depends on planes, by the name under which it is registered.
    #[serde(default)]
    pub dependents: BTreeMap<String, ControlConfig>,
    /// What differs for single archives in S3, by canonical URL. Complete: each was laid over [`ArchiveConfig::s3`].
    #[serde(default)]
    pub archives: BTreeMap<String, S3Config>,
    /// What differs for single stores, by registered name. Complete: each was laid over [`Config::store`].
    #[serde(default)]
    pub stores: BTreeMap<String, StoreConfig>,
    /// What differs for single tenants, by name.
    #[serde(default)]
    pub tenants: BTreeMap<String, TenantConfig>,
    /// `sha256:` of the effective keys; the policy revision of every decision.
    #[serde(skip)]
    pub revision: String,
}

/// See `[offboarding]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OffboardingConfig {
    /// Shortest grace period.
    pub grace_min: Span,
    /// What grace leaves open.
    pub grace_access: GraceAccess,
    /// When the hot copy goes.
    pub evict: EvictMode,
}

/// See `[grounds.*]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroundConfig {
    /// Length of the grace period.
    pub grace: Span,
    /// Between DEACTIVATED and export.
    pub archive_delay: Span,
    /// Between ARCHIVED and purge.
    pub retention: Span,
    /// Legal basis of a retention above 0.
    #[serde(default)]
    pub retention_basis: Option<String>,
    /// The law whose deadline runs, unless the request names another.
    #[serde(default)]
    pub law: Option<String>,
}

/// See `[due]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DueConfig {
    /// In whose days deadlines are counted, where the law names no zone of its own.
    pub zone: Zone,
    /// How long before a deadline somebody is told; each once.
    pub warn: Vec<Span>,
    /// How long a run may be due and not taken.
    pub stalled_after: Span,
}

/// See `[notices]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoticesConfig {
    /// How long before an irreversible step somebody is told; each once.
    pub before: Vec<Span>,
    /// Failures after which a notice is given up.
    pub attempts_max: i64,
    /// Lines in a file.
    pub file: FileNoticesConfig,
    /// Requests to a URL.
    pub webhook: WebhookConfig,
    /// Processes.
    pub command: CommandConfig,
}

/// See `[notices.file]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileNoticesConfig {
    /// The file; empty: none.
    pub path: PathBuf,
}

/// See `[notices.webhook]`.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WebhookConfig {
    /// The URL, whose path may be a secret; empty: none.
    pub url: String,
    /// The environment variable that holds the secret.
    pub secret_env: String,
    /// The file that holds it.
    pub secret_file: String,
    /// Certificates that are trusted beside the machine's own.
    pub ca_file: String,
    /// Until an answer.
    pub timeout: Span,
}

impl std::fmt::Debug for WebhookConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WebhookConfig").field("is_named", &!self.url.is_empty()).finish_non_exhaustive()
    }
}

/// See `[notices.command]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CommandConfig {
    /// The program and its arguments; empty: none.
    pub run: Vec<String>,
    /// How long it may take.
    pub timeout: Span,
}

/// See `[usage]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UsageConfig {
    /// Whether unreported usage is accepted.
    pub accept_unknown: bool,
    /// Longest life of a reported use.
    pub ttl_max: Span,
}

/// See `[policy]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyConfig {
    /// The built-in policies that decide, where no folder is named.
    pub preset: Preset,
    /// A folder of policies that decide instead; empty: none.
    pub folder: PathBuf,
    /// Whether the last good policies go on deciding while those in the folder are broken.
    pub keep_last_good: bool,
    /// What this is an installation for.
    pub environment: String,
    /// Who has which role without a registered key.
    pub roles: BTreeMap<Role, Vec<Actor>>,
}

impl PolicyConfig {
    /// Where the policies come from.
    pub fn source(&self) -> Source {
        if self.folder.as_os_str().is_empty() { Source::Preset(self.preset) } else { Source::Folder(self.folder.clone()) }
    }

    /// The roles that the configuration gives an actor.
    pub fn roles_of(&self, actor: &str) -> BTreeSet<Role> {
        let has = |actors: &Vec<Actor>| actors.iter().any(|one| one.to_string() == actor);
        self.roles.iter().filter(|(_, actors)| has(actors)).map(|(role, _)| *role).collect()
    }
}

/// See `[approval]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApprovalConfig {
    /// How long an approval lasts.
    pub valid: Span,
    /// Weakest proof of identity.
    pub assurance_min: Assurance,
    /// How long before its end somebody is reminded.
    pub remind_before: Span,
}

/// See `[hold]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HoldConfig {
    /// Whether a hold is released only by somebody other than who placed it.
    pub release_by_other: bool,
}

/// See `[purge]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PurgeConfig {
    /// Most purges an hour.
    pub per_hour_max: i64,
}

/// See `[probe]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProbeConfig {
    /// When a purged plane is asked after again, from its purge on.
    pub after: Vec<Span>,
    /// How long after a probe the next one follows, while a finding is open.
    pub again: Span,
    /// What is kept for them of a plane's records.
    pub keep: Keep,
}

impl ProbeConfig {
    /// What a purge keeps of a plane's records: nothing where nobody asks afterwards.
    pub fn kept(&self) -> Keep {
        if self.after.is_empty() { Keep::None } else { self.keep }
    }
}

/// See `[store]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoreConfig {
    /// Most records a second.
    pub rows_per_second_max: u32,
    /// At which hours it is exported and erased.
    pub window: Window,
    /// By whose clocks.
    pub window_zone: Zone,
}

/// See `[dependent]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DependentConfig {
    /// What `state` prints while it runs.
    pub running: String,
    /// How long a command may take.
    pub timeout: Span,
}

/// See `[dependents.NAME]`: programs with their arguments.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ControlConfig {
    /// Prints the state, one short line.
    pub state: Vec<String>,
    /// Makes it stop using the plane.
    pub suspend: Vec<String>,
    /// Lets it go on.
    pub resume: Vec<String>,
    /// Overrides `[dependent] running`.
    #[serde(default)]
    pub running: Option<String>,
    /// Overrides `[dependent] timeout`.
    #[serde(default)]
    pub timeout: Option<Span>,
}

/// See `[archive]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArchiveConfig {
    /// Most records in a part.
    pub part_rows_max: usize,
    /// Most bytes in a part.
    pub part_bytes_max: usize,
    /// Whether and how archives are encrypted.
    pub encryption: EncryptionConfig,
    /// Archives in S3.
    pub s3: S3Config,
}

/// See `[clock]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClockConfig {
    /// Longest believable time across a reboot.
    pub gap_max: Span,
}

/// See `[queue]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QueueConfig {
    /// Runs at a time.
    pub concurrency: usize,
    /// Runs of one tenant at a time, over all workers.
    pub tenant_in_flight_max: i64,
    /// How long a claim lasts.
    pub lease: Span,
    /// Failures before a halt.
    pub attempts_max: i64,
    /// Interruptions before a halt.
    pub interruptions_max: i64,
    /// Delay after the first failure.
    pub backoff_first: Span,
    /// Longest delay.
    pub backoff_max: Span,
    /// Percent by which delays vary.
    pub backoff_jitter: u8,
    /// How long an idle worker waits.
    pub poll: Span,
    /// How long handlers may take after SIGTERM.
    pub shutdown: Span,
}

/// See `[personal]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PersonalConfig {
    /// How long they are kept after a tenant's last offboarding; `None`: until they are erased.
    #[serde(deserialize_with = "span_or_nothing")]
    pub keep: Option<Span>,
}

fn span_or_nothing<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Span>, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text.is_empty() { Ok(None) } else { text.parse().map(Some).map_err(serde::de::Error::custom) }
}

/// See `[sweep]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SweepConfig {
    /// How often.
    pub every: Span,
}

/// See `[tenants.NAME]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TenantConfig {
    /// Shortest grace period of this tenant.
    #[serde(default)]
    pub grace_min: Option<Span>,
    /// Whether unreported usage is accepted for this tenant.
    #[serde(default)]
    pub accept_unknown: Option<bool>,
}

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("read the configuration {path}")]
    Read {
        /// Which.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file is not TOML, or a key or value is not one of ours.
    #[error("read the configuration{of}: {message}")]
    Wrong {
        /// Of which file.
        of: String,
        /// What is wrong, and where.
        message: String,
    },
    /// The policy folder cannot be used.
    #[error("read the policies of policy.folder: {0}")]
    Policies(#[source] PolicyError),
}

impl Config {
    /// The defaults, overridden by the file at `path`, if any.
    pub fn load(path: Option<&Path>) -> Result<Self, ConfigError> {
        let mut table: toml::Table = DEFAULTS.parse().expect("the built-in defaults are TOML");
        let mut of = String::new();
        if let Some(path) = path {
            of = format!(" {}", path.display());
            let read = std::fs::read_to_string(path);
            let text = read.map_err(|source| ConfigError::Read { path: path.display().to_string(), source })?;
            let overrides: toml::Table = text
                .parse()
                .map_err(|error: toml::de::Error| ConfigError::Wrong { of: of.clone(), message: error.to_string() })?;
            overlay(&mut table, overrides);
        }
        let wrong = |message: String| ConfigError::Wrong { of: of.clone(), message };
        let of_archives = table.get("archive").and_then(|archive| archive.get("s3")).and_then(|s3| s3.as_table()).cloned();
        complete(&mut table, "archives", of_archives);
        let of_stores = table.get("store").and_then(|store| store.as_table()).cloned();
        complete(&mut table, "stores", of_stores);
        let revision = canonical::digest(&table).map_err(|error| wrong(error.to_string()))?;
        let mut config: Config = table.try_into().map_err(|error: toml::de::Error| wrong(error.to_string()))?;
        config.revision = revision;
        config.check().map_err(wrong)?;
        Ok(config)
    }

    /// The shortest grace period of a tenant.
    pub fn grace_min(&self, tenant: &str) -> Span {
        self.tenants.get(tenant).and_then(|tenant| tenant.grace_min).unwrap_or(self.offboarding.grace_min)
    }

    /// How fast stores are read and erased.
    pub fn paces(&self) -> Paces {
        let own = self.stores.iter().map(|(name, store)| (name.clone(), store.rows_per_second_max));
        Paces::new(self.store.rows_per_second_max, own.collect())
    }

    /// How dependents are controlled.
    pub fn controls(&self) -> Controls {
        let control = |own: &ControlConfig| Control {
            state: own.state.clone(),
            suspend: own.suspend.clone(),
            resume: own.resume.clone(),
            running: own.running.clone().unwrap_or_else(|| self.dependent.running.clone()),
            timeout: own.timeout.unwrap_or(self.dependent.timeout).0.to_std().unwrap_or_default(),
        };
        Controls::new(self.dependents.iter().map(|(name, own)| (name.clone(), control(own))).collect())
    }

    /// Whether unreported usage is accepted for a tenant.
    pub fn accept_unknown(&self, tenant: &str) -> bool {
        self.tenants.get(tenant).and_then(|tenant| tenant.accept_unknown).unwrap_or(self.usage.accept_unknown)
    }

    /// What holds for a store.
    pub fn store(&self, name: &str) -> &StoreConfig {
        self.stores.get(name).unwrap_or(&self.store)
    }

    /// Where notices go.
    ///
    /// # Errors
    /// What is wrong, and in which key.
    pub fn channels(&self) -> Result<Channels, String> {
        let NoticesConfig { file, webhook, command, .. } = &self.notices;
        let timeout = |span: Span| span.0.to_std().unwrap_or_default();
        let hook = || {
            WebhookChannel::new(
                &webhook.url,
                &webhook.secret_env,
                &webhook.secret_file,
                &webhook.ca_file,
                timeout(webhook.timeout),
            )
        };
        let webhook = (!webhook.url.is_empty()).then(hook).transpose().map_err(|error| format!("notices.webhook: {error}"))?;
        let named = (!file.path.as_os_str().is_empty()).then(|| FileChannel { path: file.path.clone() });
        if let Some(file) = &named
            && !file.path.is_absolute()
        {
            return Err(format!("notices.file.path is {}: it must be absolute", file.path.display()));
        }
        let run = |run: &Vec<String>| CommandChannel { run: run.clone(), timeout: timeout(command.timeout) };
        Ok(Channels { file: named, webhook, command: (!command.run.is_empty()).then(|| run(&command.run)) })
    }

    fn check(&self) -> Result<(), String> {
        self.channels()?;
        if self.notices.attempts_max < 1 {
            return Err("notices.attempts_max must be at least 1".into());
        }
        if self.laws.contains_key(crate::deadline::OWN) || self.laws.contains_key(crate::deadline::NO_LAW) {
            let (own, none) = (crate::deadline::OWN, crate::deadline::NO_LAW);
            return Err(format!(
                "no law can be called {own} or {none}: they mean a date of the caller's, and that no law has one"
            ));
        }
        for (ground, terms) in &self.grounds {
            if let Some(law) = terms.law.as_ref().filter(|law| !self.laws.contains_key(*law)) {
                return Err(format!("grounds.{ground}.law is {law}, and there is no [laws.{law}]"));
            }
            if *ground == Ground::ErasureRequest && terms.retention.0 != TimeDelta::zero() {
                return Err(format!("grounds.{ground}.retention is {}: it must be 0s", terms.retention));
            }
            if terms.retention.0 > TimeDelta::zero() && terms.retention_basis.as_deref().unwrap_or("").trim().is_empty() {
                return Err(format!("grounds.{ground}.retention_basis is missing: a retention above 0 names its legal basis"));
            }
        }
        if self.probe.again.0 < TimeDelta::seconds(1) {
            return Err("probe.again must be at least 1s".into());
        }
        if self.queue.tenant_in_flight_max < 1 {
            return Err("queue.tenant_in_flight_max must be at least 1".into());
        }
        if self.queue.concurrency == 0 || self.queue.attempts_max < 1 || self.queue.interruptions_max < 1 {
            return Err("queue.concurrency, attempts_max and interruptions_max must be at least 1".into());
        }
        if self.queue.lease.0 < TimeDelta::seconds(1)
            || self.queue.poll.0 <= TimeDelta::zero()
            || self.sweep.every.0 < TimeDelta::seconds(1)
        {
            return Err("queue.lease and sweep.every must be at least 1s, queue.poll above 0s".into());
        }
        self.check_archives()?;
        self.check_dependents()?;
        self.check_encryption()?;
        self.check_log()?;
        if self.archive.part_rows_max == 0 || self.archive.part_bytes_max == 0 || self.queue.backoff_jitter > 100 {
            return Err("archive.part_rows_max and part_bytes_max must be above 0, queue.backoff_jitter at most 100".into());
        }
        Ok(())
    }

    fn check_dependents(&self) -> Result<(), String> {
        for (name, own) in &self.dependents {
            for (verb, command) in [("state", &own.state), ("suspend", &own.suspend), ("resume", &own.resume)] {
                if command.first().is_none_or(|program| program.is_empty()) {
                    return Err(format!(
                        "dependents.{name}.{verb} is empty: write the program and its arguments, [\"/path/to/it\", \"argument\"]"
                    ));
                }
            }
            if own.timeout.unwrap_or(self.dependent.timeout).0 <= TimeDelta::zero() {
                return Err(format!("dependents.{name}.timeout must be above 0s"));
            }
        }
        Ok(())
    }
}

/// Lays each table of the section over what holds for all of them.
fn complete(table: &mut toml::Table, section: &str, standard: Option<toml::Table>) {
    let (Some(standard), Some(toml::Value::Table(section))) = (standard, table.get_mut(section)) else { return };
    for (_, one) in section.iter_mut() {
        if let toml::Value::Table(own) = one {
            let mut whole = standard.clone();
            overlay(&mut whole, std::mem::take(own));
            *own = whole;
        }
    }
}

fn overlay(base: &mut toml::Table, overrides: toml::Table) {
    for (key, value) in overrides {
        match (base.get_mut(&key), value) {
            (Some(toml::Value::Table(below)), toml::Value::Table(above)) => overlay(below, above),
            (_, value) => {
                base.insert(key, value);
            }
        }
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
    fn a_file_overrides_only_what_it_names() {
        let config = load("[grounds.contract_end]\ngrace = \"36h\"\n[tenants.acme]\ngrace_min = \"1d\"").unwrap();
        assert_eq!(config.grounds[&Ground::ContractEnd].grace.to_string(), "1d 12h");
        assert_eq!(config.grounds[&Ground::ContractEnd].retention.to_string(), "365d");
        assert_eq!((config.grace_min("acme").to_string(), config.grace_min("other").to_string()), ("1d".into(), "0s".into()));
        assert_ne!(config.revision, Config::load(None).unwrap().revision);
    }

    #[test]
    fn unknown_keys_and_contradictions_are_named() {
        assert!(load("[queue]\nretries = 3").unwrap_err().contains("retries"));
        assert!(load("[grounds.erasure_request]\nretention = \"1d\"").unwrap_err().contains("must be 0s"));
        assert!(load("[grounds.whim]\ngrace = \"1d\"").unwrap_err().contains("whim"));
        assert!(load("[queue]\nlease = \"soon\"").unwrap_err().contains("soon"));
    }

    #[test]
    fn durations_are_read_as_people_write_them() {
        let span = |text: &str| text.parse::<Span>();
        assert_eq!(span("36h").unwrap().0, TimeDelta::hours(36));
        assert!(span("-1d").unwrap_err().contains("negative"));
        assert!(span("11years").unwrap_err().contains("ten years"));
        assert!(span("").is_err() && span("7").is_err());
    }
}
