//! What is asked and what is answered, without a word of Cedar.
//!
//! The rule: an [`Ask`] holds everything that a decision depends on, so that it can be put on record and asked again.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use chrono::{DateTime, Utc};
use lethe_ledger::{Actor, ActorType};
use lethe_stages::{EvictMode, Ground, LifecycleState, text_enum};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

text_enum! {
    /// What somebody wants to do. Callers ask for all but the last three; those the gate asks, for whoever requested the offboarding.
    Action {
        /// Look at something.
        Read = "read",
        /// Keep tenants, stores, planes and tokens.
        Register = "register",
        /// Open or close a use of a plane, or ask for access to it.
        UsePlane = "use_plane",
        /// Request an offboarding.
        Request = "request",
        /// Cancel one.
        Cancel = "cancel",
        /// Try again what halted.
        Retry = "retry",
        /// Approve a purge.
        Approve = "approve",
        /// Deny a purge.
        Deny = "deny",
        /// Take an approval back.
        Withdraw = "withdraw",
        /// Place a hold.
        Hold = "hold",
        /// Release a hold.
        ReleaseHold = "release_hold",
        /// Set until when nothing of a tenant may be purged.
        Protect = "protect",
        /// Skip the rest of a grace period.
        BreakGlass = "break_glass",
        /// Looking, afterwards, at why a grace period was cut short.
        Review = "review",
        /// Extend a legal deadline.
        Extend = "extend",
        /// Pause and resume.
        Control = "control",
        /// Reconcile after a restored backup, confirm the clock.
        Recover = "recover",
        /// Register approvers and their keys, revoke them.
        ManageApprovers = "manage_approvers",
        /// Be handed the key of a plane's archive.
        TakeKey = "take_key",
        /// Wrap the archives' keys anew.
        ManageKeys = "manage_keys",
        /// Erase personal values.
        ErasePersonal = "erase_personal",
        /// Take the plane out of service.
        Deactivate = "deactivate",
        /// Remove the hot records that were archived.
        Evict = "evict",
        /// Erase what is left.
        Purge = "purge",
    }
}

text_enum! {
    /// What a principal may be.
    Role {
        /// Does the daily work.
        Operator = "operator",
        /// Decides whether a purge is approved.
        Approver = "approver",
        /// Answers for what law and contract demand.
        Compliance = "compliance",
        /// Audits what the others did.
        Auditor = "auditor",
        /// Keeps approvers and protections, and repairs.
        Admin = "admin",
    }
}

text_enum! {
    /// A set of policies that comes with the program.
    Preset {
        /// One person, or a few who trust one another.
        Solo = "solo",
        /// Roles, and four eyes.
        Team = "team",
        /// Two approvers, one of them compliance's.
        Regulated = "regulated",
    }
}

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Principal {
    /// The kind of actor: `user` and `founder` are people, `system` and `sdk` are services.
    pub kind: ActorType,
    /// The identity within it.
    pub id: String,
    /// What it may be.
    #[serde(default)]
    pub roles: BTreeSet<Role>,
    /// The tenant to which it is confined, by name or id; `None` for operators.
    pub tenant: Option<String>,
}

impl Principal {
    /// The principal that an actor is.
    pub fn new(actor: &Actor, roles: BTreeSet<Role>, tenant: Option<String>) -> Self {
        Self { kind: actor.kind, id: actor.id.clone(), roles, tenant }
    }

    /// As an actor is written: `user:alice`.
    pub fn actor(&self) -> String {
        format!("{}:{}", self.kind, self.id)
    }
}

/// What the decision is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Resource {
    /// What concerns everybody.
    System,
    /// A tenant.
    Tenant(TenantFacts),
    /// A plane.
    Plane(PlaneFacts),
    /// An offboarding, or one as it would be.
    Offboarding(OffboardingFacts),
}

impl Resource {
    /// The tenant whose it is.
    pub fn tenant(&self) -> Option<&TenantFacts> {
        match self {
            Resource::System => None,
            Resource::Tenant(tenant) => Some(tenant),
            Resource::Plane(plane) => Some(&plane.tenant),
            Resource::Offboarding(offboarding) => Some(&offboarding.plane.tenant),
        }
    }
}

/// What a policy may know of a tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantFacts {
    /// Its id.
    pub id: Uuid,
    /// Its name.
    pub name: String,
    /// Its status, as the ledger has it, readable or not.
    pub status: String,
    /// Until when nothing of it may be purged.
    pub protected_until: Option<DateTime<Utc>>,
}

/// What a policy may know of a plane.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlaneFacts {
    /// Whose it is.
    pub tenant: TenantFacts,
    /// Its id.
    pub id: Uuid,
    /// Where it stands.
    pub state: LifecycleState,
    /// The kinds of its stores.
    pub store_kinds: BTreeSet<String>,
    /// Whether a hold on it or on its tenant is in force.
    pub held: bool,
}

/// What a policy may know of an offboarding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OffboardingFacts {
    /// Of which plane.
    pub plane: PlaneFacts,
    /// Its id.
    pub id: Uuid,
    /// Why.
    pub ground: Ground,
    /// Who asked for it, as an actor is written: `user:alice`.
    pub requested_by: String,
    /// The grace period, in seconds.
    pub grace_s: i64,
    /// The shortest that is allowed.
    pub grace_min_s: i64,
    /// How long the archive is kept, in seconds.
    pub retention_s: i64,
    /// When the hot records go.
    pub evict: EvictMode,
    /// How many records were archived, once that is known.
    pub records: Option<i64>,
    /// Whether a break-glass approval skips the rest of the grace period.
    pub grace_skipped: bool,
}

/// The circumstances of a decision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Context {
    /// Its instant.
    pub at: DateTime<Utc>,
    /// The environment, as the configuration names it.
    pub environment: String,
    /// Whether approvals count whose giver is only said to be who it is.
    pub asserted_suffices: bool,
    /// Whether the principal made what is acted on: placed the hold, broke the glass, requested the offboarding.
    #[serde(default)]
    pub own: bool,
    /// Who stands behind the current plan.
    pub approvals: Approvals,
}

/// The approvals of the current plan that stand and have not expired. None is the default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approvals {
    /// How many different approvers.
    pub total: i64,
    /// How many of those are proved: by a signature or an identity provider.
    pub signed: i64,
    /// How many of `total` have each role; one that is not listed counts zero.
    pub by_role: BTreeMap<Role, i64>,
    /// Whether whoever requested the offboarding is one of them.
    pub requester_among: bool,
}

/// One question, with everything that its answer depends on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ask {
    /// Who.
    pub principal: Principal,
    /// Does what.
    pub action: Action,
    /// To what.
    pub resource: Resource,
    /// Under which circumstances.
    pub context: Context,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// Whether it may be done.
    pub allowed: bool,
    /// The ids of the policies that decided, sorted: those that permit; else those that forbid or failed. None where nothing permits.
    pub policies: Vec<String>,
    /// What went wrong; where anything did, it is denied.
    pub errors: Vec<String>,
    /// What somebody should look at all the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warning: Option<String>,
}

impl Decision {
    /// Denied, because of an error and by no policy.
    pub fn failed(error: impl Into<String>) -> Self {
        Self { allowed: false, policies: Vec::new(), errors: vec![error.into()], warning: None }
    }
}

impl std::fmt::Display for Decision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let by = self.policies.join(", ");
        match (self.allowed, self.errors.is_empty(), by.is_empty()) {
            (true, _, _) => write!(f, "allowed by {by}"),
            (false, false, _) => write!(f, "denied, because it could not be decided: {}", self.errors.join("; ")),
            (false, true, true) => f.write_str("denied: no policy permits it"),
            (false, true, false) => write!(f, "denied by {by}"),
        }
    }
}

/// Where policies come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// With the program.
    Preset(Preset),
    /// From the `*.cedar` files of a folder.
    Folder(PathBuf),
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Source::Preset(preset) => write!(f, "policy preset {preset}"),
            Source::Folder(path) => write!(f, "policy folder {}", path.display()),
        }
    }
}
