//! The lifecycle of a knowledge plane: its states, the five stages, and the plan every offboarding follows.
//!
//! The rule: states move only along `PLAN`, and by cancel. The ledger's `legal_transitions` table says the same in SQL; a test compares.

use serde::{Deserialize, Serialize};

/// Declares an enum whose variants have one fixed text, used in the ledger, in JSON and on the command line.
#[macro_export]
macro_rules! text_enum {
    ($(#[$meta:meta])* $name:ident { $($(#[$vmeta:meta])* $variant:ident = $text:literal),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
        pub enum $name { $($(#[$vmeta])* #[serde(rename = $text)] $variant),* }
        impl $name {
            /// Every value, in order.
            pub const ALL: &'static [$name] = &[$($name::$variant),*];
            /// The text that stands for this value everywhere.
            pub const fn as_str(self) -> &'static str { match self { $($name::$variant => $text),* } }
        }
        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { f.pad(self.as_str()) }
        }
        impl std::str::FromStr for $name {
            type Err = String;
            /// The error lists what would be right.
            fn from_str(text: &str) -> Result<Self, String> {
                match text {
                    $($text => Ok($name::$variant),)*
                    other => Err(format!("`{other}` is none of: {}", [$($text),*].join(", "))),
                }
            }
        }
    };
}

text_enum! {
    /// Where a plane stands. There is no FAILED: a failed stage leaves the plane where it was.
    LifecycleState {
        /// In service.
        Active = "ACTIVE",
        /// The grace period runs; it can be cancelled.
        PendingDeactivate = "PENDING_DEACTIVATE",
        /// Out of service, data kept.
        Deactivated = "DEACTIVATED",
        /// In cold storage.
        Archived = "ARCHIVED",
        /// Erased; the audit trail is kept. Terminal.
        Purged = "PURGED",
    }
}

text_enum! {
    /// The five stages, each with one handler.
    Stage {
        /// Starts the grace period.
        Deregister = "deregister",
        /// Establishes that grace is over and nothing uses the plane.
        Verify = "verify",
        /// Takes the plane out of service.
        Deactivate = "deactivate",
        /// Exports to cold storage, then removes the hot copy.
        Archive = "archive",
        /// Erases what is left and proves it.
        Purge = "purge",
    }
}

text_enum! {
    /// What one durable run does: the stages, archive in two, and the undoing of a deregister.
    Step {
        /// See [`Stage::Deregister`].
        Deregister = "deregister",
        /// See [`Stage::Verify`].
        Verify = "verify",
        /// See [`Stage::Deactivate`].
        Deactivate = "deactivate",
        /// The first run of [`Stage::Archive`]: copy, read back, compare.
        Export = "export",
        /// The second run of [`Stage::Archive`]: remove what was exported.
        Evict = "evict",
        /// See [`Stage::Purge`].
        Purge = "purge",
        /// After a cancel: lifts what deregister suspended in the stores.
        Restore = "restore",
    }
}

text_enum! {
    /// Why the plane leaves.
    Ground {
        /// The contract ended.
        ContractEnd = "contract_end",
        /// The operator's own reason.
        Internal = "internal",
        /// A data subject's or regulator's demand; the law's clock runs.
        ErasureRequest = "erasure_request",
    }
}

text_enum! {
    /// What stays possible during the grace period.
    GraceAccess {
        /// Queries, but no writes.
        ReadOnly = "read_only",
        /// Everything but new runs.
        Full = "full",
        /// Nothing.
        None = "none",
    }
}

text_enum! {
    /// When the hot copy is removed.
    EvictMode {
        /// As soon as the export is verified.
        AfterArchive = "after_archive",
        /// Together with the archive, in purge.
        AtPurge = "at_purge",
    }
}

/// What a step waits for before it may be claimed. Each is an instant computed once, when the wait starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// Nothing.
    None,
    /// The end of the grace period.
    Grace,
    /// The end of the archive delay.
    ArchiveDelay,
    /// The end of the retention.
    Retention,
}

/// What is asked, on locked facts, in the transaction that claims a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    /// Nothing beyond pauses.
    None,
    /// The tenant's policy and the plane's usage.
    Policy,
    /// That no hold stands.
    Hold,
    /// That no hold stands, the retention is met and somebody else approved this plan.
    Approval,
}

/// One step of the plan.
#[derive(Debug, Clone, Copy)]
pub struct PlanStep {
    /// What runs.
    pub step: Step,
    /// The stage it belongs to, and so its handler.
    pub stage: Stage,
    /// The state the plane must be in.
    pub from: LifecycleState,
    /// The state it is in afterwards.
    pub to: LifecycleState,
    /// What it waits for.
    pub wait: Wait,
    /// What it is asked in its claim.
    pub gate: Gate,
    /// Whether it destroys: claimed only with a [`crate::Permit`], and past it there is no return.
    pub destructive: bool,
}

/// The version an offboarding stores; a worker never claims one it does not know.
pub const PLAN_VERSION: i64 = 1;

/// Five stages, archive in two runs.
pub const PLAN: [PlanStep; 6] = {
    use LifecycleState::*;
    [
        PlanStep {
            step: Step::Deregister,
            stage: Stage::Deregister,
            from: Active,
            to: PendingDeactivate,
            wait: Wait::None,
            gate: Gate::None,
            destructive: false,
        },
        PlanStep {
            step: Step::Verify,
            stage: Stage::Verify,
            from: PendingDeactivate,
            to: PendingDeactivate,
            wait: Wait::Grace,
            gate: Gate::None,
            destructive: false,
        },
        PlanStep {
            step: Step::Deactivate,
            stage: Stage::Deactivate,
            from: PendingDeactivate,
            to: Deactivated,
            wait: Wait::None,
            gate: Gate::Policy,
            destructive: false,
        },
        PlanStep {
            step: Step::Export,
            stage: Stage::Archive,
            from: Deactivated,
            to: Deactivated,
            wait: Wait::ArchiveDelay,
            gate: Gate::None,
            destructive: false,
        },
        PlanStep {
            step: Step::Evict,
            stage: Stage::Archive,
            from: Deactivated,
            to: Archived,
            wait: Wait::None,
            gate: Gate::Hold,
            destructive: true,
        },
        PlanStep {
            step: Step::Purge,
            stage: Stage::Purge,
            from: Archived,
            to: Purged,
            wait: Wait::Retention,
            gate: Gate::Approval,
            destructive: true,
        },
    ]
};

// Contiguous: each step starts where the one before it ended. Checked when this file is compiled.
const _: () = {
    let mut index = 1;
    while index < PLAN.len() {
        assert!(PLAN[index].from as u8 == PLAN[index - 1].to as u8, "PLAN is not contiguous");
        index += 1;
    }
    assert!(PLAN[0].from as u8 == LifecycleState::Active as u8);
    assert!(PLAN[PLAN.len() - 1].to as u8 == LifecycleState::Purged as u8);
};

impl Step {
    /// The step's place in the plan; `None` for [`Step::Restore`], which undoes and is not part of it.
    pub fn plan(self) -> Option<&'static PlanStep> {
        PLAN.iter().find(|planned| planned.step == self)
    }

    /// The stage whose handler performs the step.
    pub fn stage(self) -> Stage {
        self.plan().map_or(Stage::Deregister, |planned| planned.stage)
    }

    /// The state the plane enters when the step is done. With [`EvictMode::AtPurge`] the export itself completes the archive.
    pub fn to(self, evict: EvictMode) -> Option<LifecycleState> {
        match (self, evict) {
            (Step::Export, EvictMode::AtPurge) => Some(LifecycleState::Archived),
            _ => self.plan().map(|planned| planned.to),
        }
    }

    /// The step after this one, or `None` after purge and restore.
    pub fn next(self, evict: EvictMode) -> Option<&'static PlanStep> {
        let index = PLAN.iter().position(|planned| planned.step == self)?;
        let skip = usize::from(self == Step::Export && evict == EvictMode::AtPurge);
        PLAN.get(index + 1 + skip)
    }

    /// Whether the step destroys something.
    pub fn is_destructive(self) -> bool {
        self.plan().is_some_and(|planned| planned.destructive)
    }
}

/// Every move a plane can make, with what makes it: the plan's steps in both evict modes, and cancel.
pub fn legal_transitions() -> Vec<(LifecycleState, LifecycleState, &'static str)> {
    let mut moves = vec![(LifecycleState::PendingDeactivate, LifecycleState::Active, "cancel")];
    for planned in &PLAN {
        for &evict in EvictMode::ALL {
            if let Some(to) = planned.step.to(evict)
                && to != planned.from
            {
                moves.push((planned.from, to, planned.step.as_str()));
            }
        }
    }
    moves.sort();
    moves.dedup();
    moves
}

/// Why a plane in `from` cannot be moved to `to` by hand, each move with its own reason; `None` where the plan has the move.
pub fn refuse_move(from: LifecycleState, to: LifecycleState) -> Option<crate::Refusal> {
    use crate::{Code, Refusal};
    use LifecycleState::*;
    if from == to {
        return Some(Refusal::new(Code::AlreadyInState, format!("the plane is already {from}")));
    }
    if legal_transitions().iter().any(|&(f, t, _)| (f, t) == (from, to)) {
        return None;
    }
    Some(match (from, to) {
        (Purged, _) => Refusal::new(Code::PlanePurged, "the plane was erased; nothing follows PURGED"),
        (Active | PendingDeactivate | Deactivated, Purged) => Refusal::new(
            Code::ArchiveFirst,
            format!("a plane is purged only from ARCHIVED, this one is {from}: let its offboarding archive it first"),
        ),
        (Deactivated | Archived, Active) => Refusal::new(
            Code::TransitionNotAllowed,
            format!("a plane that is {from} does not come back; restore its archive into a new plane"),
        ),
        _ => Refusal::new(Code::TransitionNotAllowed, format!("the lifecycle has no move from {from} to {to}")),
    })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
/// What a mode of access the fence leaves open in a store; the later, the less.
pub enum FenceMode {
    /// Writes are refused, reads go on.
    #[serde(rename = "read_only")]
    ReadOnly,
    /// Reads, where the store can refuse them, and writes are refused.
    #[serde(rename = "closed")]
    Closed,
    /// Closed for ever: the plane was erased, and what belongs to it is not taken back.
    #[serde(rename = "purged")]
    Purged,
}

impl FenceMode {
    /// The mode's text.
    pub fn as_str(self) -> &'static str {
        match self {
            FenceMode::ReadOnly => "read_only",
            FenceMode::Closed => "closed",
            FenceMode::Purged => "purged",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refused_move_has_a_reason_of_its_own() {
        let code = |from, to| refuse_move(from, to).map(|refusal| refusal.code.as_str());
        use LifecycleState::*;
        assert_eq!(code(Active, Purged), Some("ARCHIVE_FIRST"));
        assert_eq!(code(Deactivated, Purged), Some("ARCHIVE_FIRST"));
        assert_eq!(code(Deactivated, Active), Some("TRANSITION_NOT_ALLOWED"));
        assert_eq!(code(Purged, Active), Some("PLANE_PURGED"));
        assert_eq!(code(Archived, Archived), Some("ALREADY_IN_STATE"));
        assert_eq!(code(Active, PendingDeactivate), None);
    }

    #[test]
    fn evicting_at_purge_skips_the_evict_run() {
        assert_eq!(Step::Export.next(EvictMode::AtPurge).unwrap().step, Step::Purge);
        assert_eq!(Step::Export.to(EvictMode::AtPurge), Some(LifecycleState::Archived));
        assert_eq!(Step::Export.next(EvictMode::AfterArchive).unwrap().step, Step::Evict);
        assert!(Step::Purge.next(EvictMode::AfterArchive).is_none());
    }
}
