//! What a stage is and what it does: the lifecycle plan, the handler contract, the five handlers and the ports they use.
//!
//! The rule this crate keeps: a handler performs its one operation and returns. It cannot commit, enqueue, emit, serve or
//! read the time, because nothing this crate depends on can.
//!
//! If we die in a handler, the same handler is run again with the same arguments; every effect here is idempotent.

pub mod canonical;
pub mod contract;
pub mod crash;
pub mod destruction;
pub mod handlers;
pub mod lifecycle;
pub mod manifest;
pub mod permit;
pub mod ports;
pub mod record;
pub mod refusal;
pub mod suspension;

pub use contract::{
    Evidence, Facts, Keep, Limits, RunRef, StageContext, StageError, StageHandler, StageOutcome, StageRegistry, UsageKnown,
};
pub use lifecycle::{EvictMode, GraceAccess, Ground, LifecycleState, PLAN, PLAN_VERSION, Stage, Step};
pub use permit::Permit;
pub use refusal::{Code, Refusal};
