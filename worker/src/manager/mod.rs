//! The KnowledgeLifecycleManager: what is requested, cancelled and retried, and what is claimed, performed and recorded.
//!
//! The rule: it decides and writes in one transaction; between claim and record no transaction is open.
//! If we die between them, the sweep takes the run back and it is performed again.

mod archive_key;
mod claim;
mod keeping;
mod notices;
mod perform;
pub(crate) mod personal;
pub(crate) mod probe;
mod record;
mod request;
mod suspending;
mod sweep;
mod turn;
mod unopened;
mod witness;

pub(crate) use archive_key::unusable as unusable_key;
pub use archive_key::{Beforehand, KeyAnswer};
pub use claim::Claimed;
pub use keeping::ArchiveAnswer;
pub use notices::Told;
pub(crate) use notices::{NOTICE_SCHEMA, of_offboarding};
pub use perform::{Finished, ProgressBoard};
pub use probe::ProbeReport;
pub use record::RecordResult;
pub use request::{Cancelled, Received, Requested, Terms};
pub use sweep::{SweepReport, WorkerLock};
pub use turn::Turn;

use std::sync::{Arc, Mutex};

use chrono::{DateTime, Utc};
use lethe_ledger::{Actor, Case, Chain, Entry, EventType, Ledger};
use lethe_stages::StageRegistry;
use lethe_stores::channels::Channels;

use crate::{
    config::Config,
    gate::PolicyGate,
    keys::Keyring,
    log::LogPlace,
    policy::{PolicyError, Reloaded},
    world::World,
};

/// Drives planes along the plan. Everything it needs is a constructor argument.
pub struct KnowledgeLifecycleManager {
    pub(crate) ledger: Ledger,
    pub(crate) config: Arc<Config>,
    pub(crate) stages: StageRegistry,
    pub(crate) gate: PolicyGate,
    pub(crate) world: Arc<dyn World>,
    pub(crate) channels: Channels,
    pub(crate) keyring: Arc<Keyring>,
    pub(crate) log: LogPlace,
    pub(crate) progress: ProgressBoard,
    /// What became of the policies and is not yet on record; `None`: this process began.
    pub(crate) unsaid: Mutex<Vec<Option<Reloaded>>>,
    /// When it was last looked for personal values that have been kept for long enough.
    pub(crate) personal_looked: Mutex<Option<DateTime<Utc>>>,
}

impl KnowledgeLifecycleManager {
    /// A manager over a ledger, a configuration, the stage handlers and the world outside.
    ///
    /// # Errors
    /// What is wrong with the policies.
    pub fn new(ledger: Ledger, config: Arc<Config>, stages: StageRegistry, world: Arc<dyn World>) -> Result<Self, PolicyError> {
        let gate = PolicyGate::new(config.clone(), ledger.insecure_demo())?;
        let channels = config.channels().expect("a configuration is checked when it is read");
        let keyring = Arc::new(config.keyring());
        let log = LogPlace::of(&config.log, &ledger);
        let (progress, unsaid) = (ProgressBoard::default(), Mutex::new(vec![None]));
        Ok(Self {
            ledger,
            config,
            stages,
            gate,
            world,
            channels,
            keyring,
            log,
            progress,
            unsaid,
            personal_looked: Mutex::new(None),
        })
    }

    /// The master keys.
    pub(crate) fn keyring(&self) -> &Keyring {
        &self.keyring
    }

    /// How far the handlers of this process are.
    pub fn progress(&self) -> &ProgressBoard {
        &self.progress
    }
}

/// An entry about a run, on its plane's chain.
fn about(case: &Case, event_type: EventType, actor: &Actor, decision_owner: &str) -> Entry {
    let mut entry = Entry::new(Chain::Plane(case.plane.id), Some(case.plane.tenant_id), event_type, actor, decision_owner);
    entry.offboarding_id = Some(case.offboarding.id);
    entry.step = Some(case.run.step);
    entry
}
