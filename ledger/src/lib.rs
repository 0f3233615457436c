//! What is true: planes, offboardings, runs, approvals, holds, access and the audit trail. The only crate that knows the ledger's SQL.
//!
//! The rule it keeps: everything that belongs together is written in one transaction, and nothing here can commit one. A [`Tx`]
//! has no `commit`; [`Ledger::transact`] is the only way to make one, and it commits what was decided, refusals included.
//!
//! If we die in a transaction, it did not happen.
//!
//! SQLite is the embedded ledger, PostgreSQL the one for many machines: the same verbs behind [`Tx`], over one thin layer of statements.

mod access;
mod advance;
mod approvers;
mod archive_keys;
mod archives;
mod body;
mod break_glass;
mod cases;
mod certificates;
mod db;
mod deadlines;
mod decisions;
mod dependents;
mod fault;
mod findings;
mod idempotency;
mod locks;
mod log;
mod many;
mod notices;
mod offboardings;
mod parties;
mod personal;
mod planes;
mod postgres;
#[cfg(feature = "testing")]
mod prepare;
mod probes;
mod query;
mod queue;
mod release;
mod rows;
mod source;
mod sql;
mod sqlite;
mod suspensions;
mod trail;
mod verify;
mod witness;

pub use access::{NewToken, Token, Usage, UsageKind};
pub use advance::Changes;
pub use approvers::{Approver, NewApprover};
pub use archive_keys::{KeysWrapped, WrappedKey};
pub use archives::ArchiveRow;
pub use break_glass::BrokenGlass;
pub use cases::{Bound, Case, Given};
pub use certificates::{CertificateRow, CommittedValue, Issued, commitment};
pub use db::{APP_ROLE, Committed, Hints, Ledger, OpenOptions, Tx, is_postgres, redacted};
pub use deadlines::{Deadline, DueDay, Near, NewDeadline, Stalled};
pub use decisions::PolicyDecision;
pub use dependents::DependentRow;
pub use fault::Fault;
pub use findings::{Attestation, Finding, NewAttestation};
pub use idempotency::Remembered;
pub use log::{CheckpointRow, LeafOf, LockedLog, LogFault, LogKey, LogState, LogVerified, Proved, Sealed, ToPublish, Waiting};
pub use notices::{NewNotice, Notice, NoticeEnd, NoticeFilter, NoticeKind, NoticeStatus};
pub use offboardings::{NewOffboarding, Offboarding, OffboardingFilter, OffboardingStatus, OffboardingSummary};
pub use parties::{NewStore, Store, Tenant, TenantStatus};
pub use personal::{ErasedPersonal, Gone, PersonalKey};
pub use planes::{Binding, Lineage, Move, NewPlane, Plane};
pub use probes::{NewProbe, Probe, ProbeAnswer, ProbeCause, ProbeFilter, ProbeScope, ProbeStatus};
pub use query::{Found, PAGE_MAX, TrailOutcome, TrailPage, TrailQuery};
pub use queue::{Lease, NewRun, Run, RunStatus, Settlement};
pub use release::{Approval, ApprovalStatus, Assurance, AwaitingPlace, Hold, HoldSubject, Listed, NewApproval, NewHold, Pause};
pub use source::{Clock, Entropy, SinceBoot};
pub use suspensions::{SuspendedTokens, SuspensionRow};
pub use trail::{Actor, ActorType, Chain, Entry, EventType, GateDecision, Recorded, TrailEntry, TrailFilter};
pub use verify::{LedgerFault, TrailFault, Verified};
pub use witness::{ClockLook, Mark, Witness};
