//! The log of the trail: sealing what was committed, and publishing the tree.
//!
//! The rule: *stage, swap, apply*. What waits is staged and signed in memory, swapped in by one transaction that compares the log's size, and
//! applied, which is publishing it: tiles first, then the checkpoint that needs them. What is applied follows from the ledger alone, so the
//! same code finishes after a crash what another process began.
//!
//! No key is ever needed to write the trail. A process whose key is missing or another one seals nothing and says so (LOG_STOPPED), and what
//! could not be proved is not purged. A checkpoint that is outside and that this ledger does not lead to stops sealing too: it was forked, or
//! rolled back.

mod keyring;
mod publish;

use std::{
    sync::atomic::AtomicBool,
    time::{Duration, Instant},
};

use chrono::TimeDelta;
use lethe_ledger::{Actor, Chain, Entry, EventType, Fault, Ledger, LogKey, LogState, Sealed, Tx};
use lethe_stages::crash::{CrashPoint, reached};
use lethe_verify::note::{PublicKey, SigningKey};
use serde_json::json;
use uuid::Uuid;

pub(crate) use self::keyring::create as create_key;
pub use self::keyring::{KeyFault, LogKeyring};
use self::publish::Outside;
use crate::{
    config::{LogConfig, NONE},
    manager::KnowledgeLifecycleManager,
};

/// How long entries may wait before a process that has no key of its own says that nobody seals.
const PATIENCE: TimeDelta = TimeDelta::seconds(10);
/// What it says then.
const NOBODY: &str = "no process that has the log's key seals it, and this one has none (log.key)";
/// Entries of one transaction. On SQLite nobody else writes meanwhile.
const ENTRIES_MAX: [usize; 2] = [2_000, 10_000];
/// Where half of them waited, many more have come meanwhile: they are sealed at once, but for no longer than this before the rest is published.
const BUSY: Duration = Duration::from_secs(1);

/// Where the log's keys are and where it is published.
pub struct LogPlace {
    keyring: LogKeyring,
    /// The URL; `None`: nowhere.
    publish: Option<String>,
    /// Who publishes, as a lease names it.
    publisher: String,
    /// Whether this process has read what is outside, and it led here.
    seen_outside: AtomicBool,
}

impl LogPlace {
    /// As it is configured for this ledger.
    pub(crate) fn of(config: &LogConfig, ledger: &Ledger) -> Self {
        let beside = |suffix: &str| {
            let path = std::path::absolute(ledger.path()?).ok()?;
            let mut name = path.file_name()?.to_owned();
            name.push(suffix);
            Some(path.with_file_name(name))
        };
        let publish = match config.publish.as_str() {
            "" => beside(".log").and_then(|folder| Some(format!("file://{}", folder.to_str()?))),
            NONE => None,
            url => Some(url.to_owned()),
        };
        let default = if config.key.is_empty() { beside(".log-key") } else { None };
        let (current, previous) = config.references().expect("a configuration is checked when it is read");
        let keyring = LogKeyring { current, previous, default, name: format!("lethe/{}", ledger.id()) };
        let mut own = [0; 16];
        ledger.entropy().fill(&mut own);
        Self { keyring, publish, publisher: Uuid::from_bytes(own).to_string(), seen_outside: AtomicBool::new(false) }
    }

    /// The keys.
    pub(crate) fn keyring(&self) -> &LogKeyring {
        &self.keyring
    }

    /// Where it is published; `None`: nowhere.
    pub(crate) fn published_at(&self) -> Option<&str> {
        self.publish.as_deref()
    }
}

/// What a look at the log did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogReport {
    /// Entries that were sealed.
    pub sealed: u64,
    /// Leaves that were published.
    pub published: u64,
    /// Why nothing is sealed.
    pub stopped: Option<String>,
}

/// What one sees of the log.
struct Look {
    known: Vec<LogKey>,
    state: LogState,
    /// Whether something waits to be sealed.
    waits: bool,
    /// Whether it has waited for so long that somebody should have.
    late: bool,
}

/// What there is to sign with.
enum Signers {
    /// These, the first of which is the current one; the log knows at least one of them, or none at all yet.
    Keys(Vec<SigningKey>),
    /// This process does not seal.
    Elsewhere,
    /// It should, and cannot.
    Unusable(String),
}

impl KnowledgeLifecycleManager {
    /// Seals what waits, and publishes it.
    pub async fn keep_log(&self) -> Result<LogReport, Fault> {
        let mut report = self.seal().await?;
        if report.stopped.is_none() {
            match self.publish().await? {
                publish::Published::Leaves(leaves) => report.published = leaves,
                publish::Published::Forked(why) => {
                    self.stop_log(&why).await?;
                    report.stopped = Some(why);
                }
            }
        }
        Ok(report)
    }

    /// Why a purge could not be proved; `None`: it can. Noted where it is news.
    pub(crate) async fn why_not_logged(&self) -> Result<Option<String>, Fault> {
        let Look { known, state, late, .. } = self.look_at_log().await?;
        if known.is_empty() && self.log.keyring.is_unmade() {
            return Ok(None);
        }
        let why = match self.signers(&known) {
            Signers::Keys(_) => return Ok(state.stopped_why),
            Signers::Elsewhere if known.is_empty() || !late => return Ok(state.stopped_why),
            Signers::Elsewhere => NOBODY.to_owned(),
            Signers::Unusable(why) => why,
        };
        self.stop_log(&why).await?;
        Ok(Some(why))
    }

    /// Where the log is published; `None`: nowhere.
    pub(crate) fn log_is_published_at(&self) -> Option<&str> {
        self.log.published_at()
    }

    /// The key with which this process signs; `None`: it has none.
    pub(crate) fn log_key(&self) -> Result<Option<PublicKey>, KeyFault> {
        let keys = self.log.keyring.read(true, self.ledger.entropy().as_ref())?;
        Ok(keys.and_then(|keys| keys.first().map(SigningKey::public)))
    }

    async fn look_at_log(&self) -> Result<Look, Fault> {
        let look = async |tx: &mut Tx| {
            let (known, state, waiting) = (tx.log_keys().await?, tx.log().await?, tx.waiting_to_be_sealed().await?);
            // By the clock by which entries are dated, which may be a server's.
            let late = waiting.as_ref().is_some_and(|waiting| tx.at() - waiting.oldest_at > PATIENCE);
            Ok(Look { known, state, waits: waiting.is_some(), late })
        };
        self.ledger.read(look).await
    }

    /// Seals what waits.
    pub async fn seal(&self) -> Result<LogReport, Fault> {
        let Look { known, state, waits, late } = self.look_at_log().await?;
        let stopped = |why: Option<String>| LogReport { stopped: why, ..LogReport::default() };
        let keys = match self.signers(&known) {
            Signers::Keys(_) if !waits && state.stopped_since.is_none() => return Ok(LogReport::default()),
            // Before anything is signed: a ledger that was restored from a backup must not sign another past.
            Signers::Keys(keys) => match self.outside_allows().await? {
                Outside::Leads => Ok(keys),
                Outside::Forked(why) => Err(why),
                Outside::Unknown => return Ok(stopped(state.stopped_why)),
            },
            Signers::Elsewhere if known.is_empty() || !late => return Ok(stopped(state.stopped_why)),
            Signers::Elsewhere => Err(NOBODY.to_owned()),
            Signers::Unusable(why) => Err(why),
        };
        let keys = match keys {
            Ok(keys) => keys,
            Err(why) => {
                self.stop_log(&why).await?;
                return Ok(stopped(Some(why)));
            }
        };
        let mut report = LogReport::default();
        let began = Instant::now();
        let at_once = ENTRIES_MAX[usize::from(self.ledger.path().is_none())];
        loop {
            let sealed = self.ledger.transact(async |tx: &mut Tx| self.seal_in(tx, &keys, at_once).await).await?.into_inner();
            reached(CrashPoint::LogSealed);
            let Some(Sealed::Entries { entries, more, .. }) = sealed else { return Ok(report) };
            report.sealed += entries;
            if !more && ((entries as usize) < at_once / 2 || began.elapsed() >= BUSY) {
                return Ok(report);
            }
        }
    }

    /// One transaction of sealing; `None`: somebody else seals just now.
    async fn seal_in(&self, tx: &mut Tx, keys: &[SigningKey], limit: usize) -> Result<Option<Sealed>, Fault> {
        let Some(log) = tx.lock_log().await? else { return Ok(None) };
        let known = tx.log_keys().await?;
        let of = |key: &SigningKey| {
            let vkey = key.public().to_string();
            known.iter().find(|known| known.vkey == vkey)
        };
        let signs: Vec<&SigningKey> = keys.iter().filter(|key| of(key).is_none_or(|known| known.retired_at.is_none())).collect();
        // Under the log's lock, so that it is put on record once, and is sealed with the rest.
        for key in signs.iter().filter(|key| of(key).is_none()) {
            let vkey = key.public();
            let mut entry = log_entry(EventType::LogKeyAdded);
            entry.evidence = json!({"vkey": vkey.to_string(), "from_size": log.size});
            let recorded = tx.append(entry).await?;
            tx.add_log_key(&vkey, log.size, &recorded).await?;
        }
        if tx.go_on_with_log().await? {
            tx.append(log_entry(EventType::LogResumed)).await?;
            tx.wake_settled().await?;
        }
        tx.seal(&log, &signs, limit).await.map(Some)
    }

    /// What this process signs with.
    fn signers(&self, known: &[LogKey]) -> Signers {
        let live: Vec<String> = known.iter().filter(|key| key.retired_at.is_none()).map(|key| key.vkey.clone()).collect();
        match self.log.keyring.read(known.is_empty(), self.ledger.entropy().as_ref()) {
            Ok(None) => Signers::Elsewhere,
            Err(fault) => Signers::Unusable(fault.to_string()),
            Ok(Some(keys)) => {
                let found: Vec<String> = keys.iter().map(|key| key.public().to_string()).collect();
                let name = keys[0].public().name;
                if let Some(other) = keys.iter().find(|key| key.public().name != name) {
                    return Signers::Unusable(format!(
                        "the log's keys are of two logs, {name} and {}: a key that follows another one bears the same name",
                        other.public().name
                    ));
                }
                if known.is_empty() || found.iter().any(|key| live.contains(key)) {
                    return Signers::Keys(keys);
                }
                Signers::Unusable(format!(
                    "the log is signed by {}, and configured is {}: put that key back, or name it in log.previous_keys beside the new one; \
                     if it is lost, `lethe log adopt-key --reason …`",
                    live.join(", "),
                    found.join(", ")
                ))
            }
        }
    }

    /// Puts on record, once, why nothing is sealed.
    pub(crate) async fn stop_log(&self, why: &str) -> Result<(), Fault> {
        let known = self.ledger.read(async |tx: &mut Tx| tx.log().await).await?;
        if known.stopped_why.as_deref() == Some(why) {
            return Ok(());
        }
        let stopped = self.ledger.transact(async |tx: &mut Tx| {
            let news = tx.stop_log(why).await?;
            if news {
                let mut entry = log_entry(EventType::LogStopped);
                entry.evidence = json!({"why": why});
                tx.append(entry).await?;
            }
            Ok::<_, Fault>(news)
        });
        if stopped.await?.into_inner() {
            tracing::error!(why, "the log stands still: the trail is written, nothing is sealed, and nothing is purged");
        }
        Ok(())
    }
}

fn log_entry(event_type: EventType) -> Entry {
    Entry::new(Chain::System, None, event_type, &Actor::system("log"), "log")
}
