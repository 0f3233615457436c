//! The handler contract: what a stage handler is given, what it may answer, and the registry that finds it by stage name.
//!
//! The rule: a handler judges facts and works through ports. The decision who acts next is in the type of its answer.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use uuid::Uuid;

use crate::{
    Code, Permit, Refusal,
    lifecycle::{EvictMode, GraceAccess, Ground, LifecycleState, Stage, Step},
    manifest::Manifest,
    permit::ApprovalFacts,
    ports::{Archive, BoundDependent, BoundStore, PageLimit, PortError, Progress},
    record::{Known, Salt},
    suspension::{Suspension, SuspensionLog},
};

crate::text_enum! {
    /// What a purge keeps of a plane's records, for the probes that look for them afterwards.
    Keep {
        /// Nothing: probes count, and look for nothing they know.
        None = "none",
        /// A few keys, each with a salted digest of its record.
        Keys = "keys",
        /// The embeddings of those records too.
        Vectors = "vectors",
    }
}

crate::text_enum! {
    /// How it is known who uses a plane.
    UsageKnown {
        /// Nobody reports it.
        None = "none",
        /// Its users report runs and queries.
        Reported = "reported",
        /// The store itself was asked.
        Observed = "observed",
    }
}

/// What is true of an offboarding at one instant, read under lock in the transaction that decides on it.
#[derive(Debug, Clone)]
pub struct Facts {
    /// The instant.
    pub at: DateTime<Utc>,
    /// The tenant.
    pub tenant_id: Uuid,
    /// The tenant's status as it stands in its row; anything but `active` or `suspended` is refused.
    pub tenant_status: String,
    /// The plane.
    pub plane_id: Uuid,
    /// Its state.
    pub state: LifecycleState,
    /// The offboarding.
    pub offboarding_id: Uuid,
    /// Why the plane leaves.
    pub ground: Ground,
    /// When the hot copy goes.
    pub evict: EvictMode,
    /// What stays possible in grace.
    pub grace_access: GraceAccess,
    /// End of the grace period, once it has started.
    pub grace_until: Option<DateTime<Utc>>,
    /// Whether a break-glass approval skips the rest of the grace period. It skips nothing else.
    pub grace_skipped: bool,
    /// End of the retention, once it has started.
    pub retention_until: Option<DateTime<Utc>>,
    /// Until when nothing of the tenant is purged; `None`: it is not protected.
    pub protected_until: Option<DateTime<Utc>>,
    /// Open holds on the plane or its tenant.
    pub holds: Vec<Uuid>,
    /// Runs that use the plane, not expired.
    pub runs_in_flight: u64,
    /// Queries that use the plane, not expired.
    pub queries_in_flight: u64,
    /// When the last of those expires by itself.
    pub usage_until: Option<DateTime<Utc>>,
    /// How that is known.
    pub usage_known: UsageKnown,
    /// Whether policy accepts that nobody reports.
    pub usage_unknown_accepted: bool,
    /// Access tokens that are not revoked.
    pub tokens: u64,
    /// What outside depends on the plane, by the register.
    pub dependents: u64,
    /// The plane's epoch when the offboarding was requested: a fence with a newer one is the offboarding's own.
    pub requested_epoch: i64,
    /// `sha256:` of the verified manifest that covers every bound store.
    pub manifest_sha256: Option<String>,
    /// The digest of the destruction plan, computed from the plan as it stands.
    pub plan_digest: Option<String>,
    /// The manifest that the destruction plan names.
    pub plan_manifest_sha256: Option<String>,
    /// The approvals that stand, in the order in which they were given.
    pub approvals: Vec<ApprovalFacts>,
    /// Whether somebody denied it.
    pub denied: bool,
    /// Whether the clock jumped and nobody has confirmed it.
    pub clock_suspect: bool,
    /// Whether the ledger is behind its mark and nobody has reconciled it.
    pub ledger_behind: bool,
    /// Whether the log of the trail stands still because no key can sign it.
    pub log_stopped: bool,
    /// Whether a cancelled offboarding is still being undone.
    pub restore_pending: bool,
}

impl Facts {
    /// Of an active tenant's plane with which nothing has begun: nobody uses it, nothing holds it, no deadline runs, nothing is approved.
    pub fn unbegun(at: DateTime<Utc>, plane_id: Uuid, state: LifecycleState, ground: Ground) -> Self {
        Self {
            at,
            tenant_id: Uuid::nil(),
            tenant_status: "active".into(),
            plane_id,
            state,
            offboarding_id: Uuid::nil(),
            ground,
            evict: EvictMode::AfterArchive,
            grace_access: GraceAccess::ReadOnly,
            grace_until: None,
            grace_skipped: false,
            retention_until: None,
            protected_until: None,
            holds: Vec::new(),
            runs_in_flight: 0,
            queries_in_flight: 0,
            usage_until: None,
            usage_known: UsageKnown::None,
            usage_unknown_accepted: false,
            tokens: 0,
            dependents: 0,
            requested_epoch: 0,
            manifest_sha256: None,
            plan_digest: None,
            plan_manifest_sha256: None,
            approvals: Vec::new(),
            denied: false,
            clock_suspect: false,
            ledger_behind: false,
            log_stopped: false,
            restore_pending: false,
        }
    }
}

/// Which run a handler performs.
#[derive(Debug, Clone)]
pub struct RunRef {
    /// The run.
    pub id: Uuid,
    /// What it does.
    pub step: Step,
    /// The epoch of its claim.
    pub epoch: i64,
    /// Failures recorded before this one, from 0.
    pub attempt: i64,
    /// How often this offboarding began to export before, from 0.
    pub round: u32,
    /// How often an evict of this offboarding found records that no export held.
    pub appeared: u32,
    /// The word for the failure before this attempt.
    pub failed: Option<String>,
}

/// How much a handler holds in memory at a time.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The size of an archive part.
    pub part: PageLimit,
    /// Records removed in one transaction of a store.
    pub erase_rows_max: usize,
    /// Records sampled for the proof of emptiness, per store.
    pub samples_max: usize,
    /// What of those samples is kept for the probes after a purge.
    pub keep: Keep,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            part: PageLimit { rows_max: 20_000, bytes_max: 16 << 20 },
            erase_rows_max: 2_000,
            samples_max: 16,
            keep: Keep::None,
        }
    }
}

/// Values and ports. No clock, no pool, no policy, no events.
pub struct StageContext {
    /// The run.
    pub run: RunRef,
    /// What was true in the claim.
    pub facts: Facts,
    /// The plane's bindings, in order.
    pub stores: Vec<BoundStore>,
    /// What outside depends on the plane, in the order of registration; of the stages that suspend or restore, else empty.
    pub dependents: Vec<BoundDependent>,
    /// What this offboarding has suspended so far, tokens left out; of the same stages.
    pub suspensions: Vec<Suspension>,
    /// Where to write down what is suspended and restored.
    pub log: Arc<dyn SuspensionLog>,
    /// The plane's archive.
    pub archive: Arc<dyn Archive>,
    /// Leave to destroy, for a destructive run.
    pub permit: Option<Permit>,
    /// The ledger's copy of the last verified manifest.
    pub manifest: Option<Manifest>,
    /// The secret under which an inventory is taken.
    pub salt: Salt,
    /// How much to hold in memory.
    pub limits: Limits,
    /// Where to say how far the work is.
    pub progress: Arc<dyn Progress>,
}

impl StageContext {
    /// The permit, or Halt: a destructive handler was started without one.
    pub fn permit(&self) -> Result<&Permit, StageError> {
        self.permit.as_ref().ok_or_else(|| StageError::halt("NO_PERMIT", "start a destructive run: it carries no permit"))
    }

    /// Whether the archive holds an inventory and no content.
    pub fn is_inventory(&self) -> bool {
        self.facts.ground == Ground::ErasureRequest
    }

    /// The salt under which digests are taken, for an inventory.
    pub fn digest_salt(&self) -> Option<&Salt> {
        self.is_inventory().then_some(&self.salt)
    }
}

/// What a handler established: counts, digests and names of stores; never content. An object.
pub type Evidence = Json;

/// What a handler made of its run.
#[derive(Debug)]
pub enum StageOutcome {
    /// It established what the stage must establish.
    Done(Done),
    /// Not possible yet. Spends no attempt.
    NotYet {
        /// When to look again; without it, only a change of facts wakes the run.
        until: Option<DateTime<Utc>>,
        /// What stands in the way.
        refusal: Refusal,
    },
    /// Evict found records that no export holds: export again, then come back. Spends no attempt.
    ExportAgain(Evidence),
}

/// What a finished handler leaves behind.
#[derive(Debug)]
pub struct Done {
    /// What was established.
    pub evidence: Evidence,
    /// From export: the verified manifest.
    pub manifest: Option<Manifest>,
    /// From purge: what is known of the records that are gone, by binding.
    pub known: Vec<Vec<Known>>,
}

impl Done {
    /// Done, with `evidence`.
    pub fn with(evidence: Evidence) -> StageOutcome {
        StageOutcome::Done(Done { evidence, manifest: None, known: Vec::new() })
    }
}

/// What a handler could not do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Trouble {
    /// A word for the kind of failure.
    pub code: String,
    /// What failed, in the present tense.
    pub message: String,
    /// Which of the plane's stores failed in what, where that is known.
    pub stores: Vec<StoreTrouble>,
}

/// The code of an export of a store that did not stand still.
pub const SOURCE_MOVED: &str = "SOURCE_MOVED";

impl Trouble {
    /// Whether it is of this kind, or one of the stores' is.
    pub fn is(&self, code: &str) -> bool {
        self.code == code || self.stores.iter().any(|store| store.code == code)
    }
}

/// What one of the plane's stores could not do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StoreTrouble {
    /// The binding's place among the plane's bindings, from 0.
    pub binding: usize,
    /// A word for the kind of failure.
    pub code: String,
    /// What failed, in the present tense.
    pub message: String,
}

/// Why a handler could not do its work: who acts is in the variant.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum StageError {
    /// We act: the run is tried again later.
    #[error("{}", .0.message)]
    Transient(Trouble),
    /// An operator acts: the run is halted until `lethe offboarding retry`.
    #[error("{}", .0.message)]
    Halt(Trouble),
}

impl StageError {
    /// A failure that an operator must look at.
    pub fn halt(code: &str, message: impl Into<String>) -> Self {
        StageError::Halt(Trouble { code: code.into(), message: message.into(), stores: Vec::new() })
    }

    /// A failure that is tried again.
    pub fn transient(code: &str, message: impl Into<String>) -> Self {
        StageError::Transient(Trouble { code: code.into(), message: message.into(), stores: Vec::new() })
    }

    /// What could not be done.
    pub fn trouble(&self) -> &Trouble {
        match self {
            StageError::Transient(trouble) | StageError::Halt(trouble) => trouble,
        }
    }

    /// The word for the kind of failure.
    pub fn code(&self) -> &str {
        &self.trouble().code
    }

    /// The same failure, as that of one of the plane's stores.
    #[must_use]
    pub fn of_store(mut self, binding: usize) -> Self {
        let (StageError::Transient(trouble) | StageError::Halt(trouble)) = &mut self;
        let Trouble { code, message, .. } = trouble.clone();
        trouble.stores = vec![StoreTrouble { binding, code, message }];
        self
    }

    /// Several stores' failures as one: an operator acts where one of them needs that, and hours that are over hide no failure.
    pub fn of_all(failures: Vec<StageError>) -> Option<Self> {
        let halts = failures.iter().any(|failure| matches!(failure, StageError::Halt(_)));
        let mut worst: Vec<_> = failures.iter().filter(|failure| matches!(failure, StageError::Halt(_)) == halts).collect();
        worst.sort_by_key(|failure| failure.code() == Code::StoreWindow.as_str());
        let first = worst.first()?;
        let messages: Vec<_> = failures.iter().map(|failure| failure.trouble().message.as_str()).collect();
        let trouble = Trouble {
            code: first.code().to_owned(),
            message: messages.join("; "),
            stores: failures.iter().flat_map(|failure| failure.trouble().stores.clone()).collect(),
        };
        Some(if halts { StageError::Halt(trouble) } else { StageError::Transient(trouble) })
    }

    /// A port's failure, with what was being done to which part of the world.
    pub fn port(doing: &str, error: PortError) -> Self {
        let message = format!("{doing}: {error}");
        match error {
            PortError::Transient(_) => StageError::transient("UNAVAILABLE", message),
            PortError::Permanent(_) => StageError::halt("UNUSABLE", message),
            PortError::WrongPlace(_) => StageError::halt("WRONG_PLACE", message),
            PortError::Locked { .. } => StageError::halt("LOCKED", message),
            PortError::Closed(_) => StageError::transient(Code::StoreWindow.as_str(), message),
            // Not ours any more: whatever we would record is refused by the ledger's own epoch check.
            PortError::StaleEpoch { .. } => StageError::transient("STALE_EPOCH", message),
        }
    }
}

/// A stage: dumb on purpose. It manages no state, emits no event, checks no policy and opens no transaction.
#[async_trait]
pub trait StageHandler: Send + Sync {
    /// The stage it handles; its name in the registry.
    fn stage(&self) -> Stage;

    /// Whether the facts allow `step` to start. Pure. Asked at the request for deregister, and in the claim for every step.
    fn validate(&self, step: Step, facts: &Facts) -> Result<(), Refusal>;

    /// Does the stage's work. Called again after a crash or failure, with the same arguments.
    async fn run(&self, context: &StageContext) -> Result<StageOutcome, StageError>;

    /// Undoes the stage's effects on the world after a cancel. Only deregister has any that can be undone.
    async fn restore(&self, _context: &StageContext) -> Result<StageOutcome, StageError> {
        Err(StageError::halt("NOT_REVERSIBLE", format!("undo {}: this stage has nothing that could be undone", self.stage())))
    }
}

/// The handlers, by stage. Complete and without duplicates, or it is not built.
pub struct StageRegistry {
    handlers: BTreeMap<Stage, Arc<dyn StageHandler>>,
}

/// A registry that cannot be built.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    /// Two handlers for one stage.
    #[error("register stage handlers: {0} has two")]
    Duplicate(Stage),
    /// A stage without a handler.
    #[error("register stage handlers: {0} has none")]
    Missing(Stage),
}

impl StageRegistry {
    /// Registers one handler per stage.
    pub fn new(handlers: Vec<Arc<dyn StageHandler>>) -> Result<Self, RegistryError> {
        let mut registered = BTreeMap::new();
        for handler in handlers {
            let stage = handler.stage();
            if registered.insert(stage, handler).is_some() {
                return Err(RegistryError::Duplicate(stage));
            }
        }
        match Stage::ALL.iter().find(|stage| !registered.contains_key(stage)) {
            Some(&stage) => Err(RegistryError::Missing(stage)),
            None => Ok(Self { handlers: registered }),
        }
    }

    /// The five handlers of this crate.
    pub fn standard() -> Self {
        Self::new(crate::handlers::all()).expect("five stages, five handlers")
    }

    /// The handler of `stage`.
    pub fn get(&self, stage: Stage) -> &Arc<dyn StageHandler> {
        &self.handlers[&stage]
    }

    /// Asks the handler of `step` whether the facts allow it.
    pub fn validate(&self, step: Step, facts: &Facts) -> Result<(), Refusal> {
        if let Some(planned) = step.plan()
            && facts.state != planned.from
        {
            return Err(Refusal::new(
                Code::TransitionNotAllowed,
                format!("{step} starts from {}, the plane is {}", planned.from, facts.state),
            ));
        }
        self.get(step.stage()).validate(step, facts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_handler_for_a_stage_is_refused_not_silently_the_winner() {
        let mut handlers = crate::handlers::all();
        handlers.extend(crate::handlers::all().into_iter().take(1));
        assert_eq!(StageRegistry::new(handlers).err(), Some(RegistryError::Duplicate(Stage::Deregister)));
        let four = crate::handlers::all().into_iter().take(4).collect();
        assert_eq!(StageRegistry::new(four).err(), Some(RegistryError::Missing(Stage::Purge)));
    }
}
