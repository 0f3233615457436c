//! What an offboarding suspends and a cancel gives back: tokens, fences of stores, and what outside depends on the plane.
//!
//! The rule: what a thing was is written down before it is touched, and the first word stands; so whatever dies when, a cancel knows what
//! to give back, and gives back nothing else. The values here are the ledger's rows as handlers see them.

use async_trait::async_trait;
use serde_json::{Value as Json, json};
use uuid::Uuid;

use crate::{
    lifecycle::{FenceMode, GraceAccess},
    ports::PortError,
};

crate::text_enum! {
    /// What kind of thing was suspended.
    SuspensionKind {
        /// An access token of the plane, in the ledger itself.
        Token = "token",
        /// The fence of one of its bindings.
        Fence = "fence",
        /// Something outside that depends on the plane.
        Dependent = "dependent",
    }
}

crate::text_enum! {
    /// What became of a suspension after a cancel.
    Restoration {
        /// It is again what it was.
        Restored = "restored",
        /// It is not; the note says why.
        NotRestored = "not_restored",
        /// Somebody decided otherwise meanwhile, and that stands.
        LeftAlone = "left_alone",
    }
}

crate::text_enum! {
    /// What kind of thing depends on a plane.
    DependentKind {
        /// Starts work on the plane by itself, at its times: ingestion, re-indexing.
        Schedule = "schedule",
        /// Serves what the plane holds, for as long as it runs.
        Service = "service",
        /// Neither.
        Other = "other",
    }
}

impl DependentKind {
    /// Whether a grace period with this access suspends it. What reads goes on under `read_only`; what writes does not.
    pub fn is_suspended(self, access: GraceAccess) -> bool {
        match access {
            GraceAccess::Full => false,
            GraceAccess::ReadOnly => self == DependentKind::Schedule,
            GraceAccess::None => true,
        }
    }
}

/// Something that an offboarding suspended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suspension {
    /// What kind of thing.
    pub kind: SuspensionKind,
    /// Which: a token's id, a binding's position, a dependent's id.
    pub what: String,
    /// What it was; an object.
    pub before: Json,
    /// What became of it, once that was tried.
    pub outcome: Option<Restoration>,
    /// Whether a person accepted that it stays as it is if it cannot be restored.
    pub accepted: bool,
}

impl Suspension {
    fn new(kind: SuspensionKind, what: String, before: Json) -> Self {
        Self { kind, what, before, outcome: None, accepted: false }
    }

    /// Of a binding whose fence had this mode before.
    pub fn of_fence(binding: usize, mode: FenceMode) -> Self {
        Self::new(SuspensionKind::Fence, binding.to_string(), json!({"mode": mode}))
    }

    /// Of a dependent that was in this state.
    pub fn of_dependent(id: Uuid, state: &str) -> Self {
        Self::new(SuspensionKind::Dependent, id.to_string(), json!({"state": state}))
    }

    /// The binding whose fence it is.
    pub fn binding(&self) -> Option<usize> {
        if self.kind == SuspensionKind::Fence { self.what.parse().ok() } else { None }
    }

    /// The mode that the fence had before; `None`: it was open.
    pub fn mode(&self) -> Option<FenceMode> {
        serde_json::from_value(self.before["mode"].clone()).ok()
    }

    /// The state that the dependent was in.
    pub fn state(&self) -> &str {
        self.before["state"].as_str().unwrap_or_default()
    }
}

/// What was tried of a suspension.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tried {
    /// What kind of thing.
    pub kind: SuspensionKind,
    /// Which.
    pub what: String,
    /// What came of it.
    pub outcome: Restoration,
    /// Why it is not restored.
    pub note: Option<String>,
}

/// Where a handler writes down what it is about to suspend, and what it gave back. Durable when it returns. Whose run was taken from it
/// is told so and nothing is written: StaleEpoch.
#[async_trait]
pub trait SuspensionLog: Send + Sync {
    /// Keeps what is about to be suspended. Of what is known already, the first word stands.
    async fn keep(&self, found: &[Suspension]) -> Result<(), PortError>;

    /// Keeps what came of giving things back.
    async fn settle(&self, tried: &[Tried]) -> Result<(), PortError>;
}

/// Something outside that uses the plane and does as it is told. Each verb may be repeated.
#[async_trait]
pub trait Dependent: Send + Sync {
    /// Its state, in its own words: one short line.
    async fn state(&self) -> Result<String, PortError>;

    /// Whether this state is one in which it works on the plane, and so can be suspended.
    fn is_running(&self, state: &str) -> bool;

    /// Makes it stop using the plane. Success where it did not.
    async fn suspend(&self) -> Result<(), PortError>;

    /// Lets it go on. Success where it does.
    async fn resume(&self) -> Result<(), PortError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_writes_stops_before_what_reads() {
        let suspended = |access| -> Vec<_> {
            DependentKind::ALL.iter().filter(|kind| kind.is_suspended(access)).map(|kind| kind.as_str()).collect()
        };
        assert_eq!(suspended(GraceAccess::Full), Vec::<&str>::new());
        assert_eq!(suspended(GraceAccess::ReadOnly), ["schedule"]);
        assert_eq!(suspended(GraceAccess::None), ["schedule", "service", "other"]);
    }

    #[test]
    fn a_fence_that_was_open_has_no_mode() {
        assert_eq!(Suspension::of_fence(3, FenceMode::ReadOnly).mode(), Some(FenceMode::ReadOnly));
        let open = Suspension::new(SuspensionKind::Fence, "3".into(), json!({"mode": "open"}));
        assert_eq!((open.mode(), open.binding()), (None, Some(3)));
    }
}
