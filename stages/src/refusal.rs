//! A refusal: the caller asked for what is not allowed. It is an answer, not a failure; it is audited and carries a stable code.
//!
//! The rule: a code, once published, keeps its meaning. README lists every one of them; a test compares.

use serde::{Deserialize, Serialize};
use serde_json::Value;

macro_rules! codes {
    ($($variant:ident = $text:literal, $meaning:literal;)*) => {
        /// The stable codes, one per reason to refuse.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum Code { $(#[doc = $meaning] #[serde(rename = $text)] $variant,)* }

        impl Code {
            /// Every code, in the order of the README's table.
            pub const ALL: &'static [Code] = &[$(Code::$variant,)*];
            /// The code as other programs read it.
            pub fn as_str(self) -> &'static str { match self { $(Code::$variant => $text,)* } }
            /// What it means, in one sentence.
            pub fn meaning(self) -> &'static str { match self { $(Code::$variant => $meaning,)* } }
        }
    };
}

codes! {
    UnknownOperation = "UNKNOWN_OPERATION", "No operation of this name is registered.";
    InvalidArgument = "INVALID_ARGUMENT", "An argument is missing, unreadable or out of range.";
    NotAuthorised = "NOT_AUTHORISED", "This kind of actor may not perform the operation.";
    IdempotencyKeyReused = "IDEMPOTENCY_KEY_REUSED", "The idempotency key was used before for a different call.";
    TenantUnknown = "TENANT_UNKNOWN", "No tenant of this name or id exists.";
    TenantNotActive = "TENANT_NOT_ACTIVE", "The tenant's status does not allow the operation.";
    NameTaken = "NAME_TAKEN", "The name is already in use where it must be unique.";
    StoreUnknown = "STORE_UNKNOWN", "No store of this name is registered.";
    StoreNotInScope = "STORE_NOT_IN_SCOPE", "The store was not opened to this tenant by an operator.";
    StoreUnusable = "STORE_UNUSABLE", "The store or archive was checked and does not answer as it must.";
    MappingWrong = "MAPPING_WRONG", "The mapping names a table or column that is absent or cannot serve its purpose.";
    BindingTaken = "BINDING_TAKEN", "What the plane would bind belongs, in whole or in part, to another plane, or did.";
    ConsentMissing = "CONSENT_MISSING", "Binding a whole table needs explicit consent.";
    PlaneUnknown = "PLANE_UNKNOWN", "No plane of this id or name is visible to the caller.";
    PlaneNotActive = "PLANE_NOT_ACTIVE", "The plane is not in service, or is on its way out of it.";
    PlanePurged = "PLANE_PURGED", "The plane has been erased; nothing follows PURGED.";
    AlreadyInState = "ALREADY_IN_STATE", "The plane is already in the state asked for.";
    ArchiveFirst = "ARCHIVE_FIRST", "A plane is purged only from ARCHIVED.";
    TransitionNotAllowed = "TRANSITION_NOT_ALLOWED", "The lifecycle has no such move.";
    GroundUnknown = "GROUND_UNKNOWN", "The configuration defines no such ground.";
    GraceInvalid = "GRACE_INVALID", "The grace period is unreadable, negative, below the minimum or absurd.";
    RetentionInvalid = "RETENTION_INVALID", "The retention is unreadable, absurd, or not allowed for the ground.";
    DueDateUnreachable = "DUE_DATE_UNREACHABLE", "The earliest purge would fall after the legal due date.";
    OffboardingOpen = "OFFBOARDING_OPEN", "An offboarding with other terms is already open for the plane.";
    OffboardingUnknown = "OFFBOARDING_UNKNOWN", "The plane has no such offboarding.";
    RestorePending = "RESTORE_PENDING", "A cancelled offboarding is still being undone.";
    NotCancellable = "NOT_CANCELLABLE", "There is no open offboarding that can still be cancelled.";
    StageInProgress = "STAGE_IN_PROGRESS", "A stage that cannot be interrupted has been claimed.";
    NothingHalted = "NOTHING_HALTED", "No run of the plane is halted, so there is nothing to retry.";
    ActiveReferences = "ACTIVE_REFERENCES", "Runs that use the plane are still in flight.";
    ActiveUsage = "ACTIVE_USAGE", "Runs or queries that use the plane are still in flight.";
    UsageUnknown = "USAGE_UNKNOWN", "Nobody reports the plane's usage, and policy does not accept that.";
    UsageRefused = "USAGE_REFUSED", "The plane accepts no new use of this kind.";
    UsageIdUnknown = "USAGE_ID_UNKNOWN", "No open usage of this id exists.";
    GracePeriodActive = "GRACE_PERIOD_ACTIVE", "The grace period has not ended.";
    RetentionActive = "RETENTION_ACTIVE", "The retention period has not ended.";
    ApprovalRequired = "APPROVAL_REQUIRED", "Nobody has approved this destruction plan yet.";
    ApprovalsTooFew = "APPROVALS_TOO_FEW", "The plan is approved, but not yet by as many, or by whom, policy wants.";
    ApprovalTooEarly = "APPROVAL_TOO_EARLY", "Approval is possible only once the plane is ARCHIVED.";
    ApprovalBySelf = "APPROVAL_BY_SELF", "The requester cannot approve the purge.";
    ApprovalExists = "APPROVAL_EXISTS", "This destruction plan has already been decided.";
    ApproverUnknown = "APPROVER_UNKNOWN", "No valid key of this approver, or of this fingerprint, is registered.";
    SignatureInvalid = "SIGNATURE_INVALID", "The signature is not one of a registered key over this plan.";
    PolicyDenied = "POLICY_DENIED", "No policy permits it, or one forbids it, or the policies cannot be asked.";
    PurgeProtected = "PURGE_PROTECTED", "The tenant is protected: nothing of it is purged before a date.";
    NoDeadline = "NO_DEADLINE", "No open offboarding of the plane has a legal deadline.";
    ExtensionNotAllowed = "EXTENSION_NOT_ALLOWED", "The legal deadline cannot be extended: not at all, not again, or not any more.";
    NoticeUnknown = "NOTICE_UNKNOWN", "There is no notice of this id that was given up.";
    NoChannel = "NO_CHANNEL", "The configuration names no channel by which somebody could be told.";
    StoreWindow = "STORE_WINDOW", "It is not an hour at which one of the plane's stores may be read and erased.";
    ReviewUnknown = "REVIEW_UNKNOWN", "No after-review of the plane is open.";
    ReviewBySelf = "REVIEW_BY_SELF", "Who broke the glass cannot close its review.";
    ReleaseBySelf = "RELEASE_BY_SELF", "Who placed the hold may not release it; the configuration wants a second person.";
    ApprovalUnknown = "APPROVAL_UNKNOWN", "There is no approval that can be withdrawn.";
    ApprovalDenied = "APPROVAL_DENIED", "The purge was denied; it needs a new plan.";
    ApprovalExpired = "APPROVAL_EXPIRED", "The approval expired before it was used.";
    AssuranceTooLow = "ASSURANCE_TOO_LOW", "The approver's identity is only asserted; purge needs `signed` or `oidc`.";
    PlanChanged = "PLAN_CHANGED", "What would be destroyed is not what was approved.";
    HoldActive = "HOLD_ACTIVE", "A legal hold forbids every destructive step.";
    HoldUnknown = "HOLD_UNKNOWN", "No open hold of this id exists.";
    Paused = "PAUSED", "An operator paused this scope.";
    PurgeRateLimited = "PURGE_RATE_LIMITED", "The limit of purges per hour is reached.";
    PauseUnknown = "PAUSE_UNKNOWN", "This scope is not paused.";
    TokenUnknown = "TOKEN_UNKNOWN", "No such access token exists.";
    TokenNotActive = "TOKEN_NOT_ACTIVE", "The access token is suspended, revoked or expired.";
    QueryRefused = "QUERY_REFUSED", "The plane does not answer queries in its state.";
    ClockSuspect = "CLOCK_SUSPECT", "The clock jumped; nothing is destroyed until a person has confirmed it.";
    LedgerBehind = "LEDGER_BEHIND", "The ledger is behind the mark it left outside; nothing is destroyed until it is reconciled.";
    LogStopped = "LOG_STOPPED", "The log of the trail cannot be signed, or was forked; nothing is purged until it goes on.";
    LogOff = "LOG_OFF", "This ledger's trail is in no log yet: no key is configured that could sign it.";
    LogKeyUnknown = "LOG_KEY_UNKNOWN", "No key of this text signs the log.";
    EntryUnknown = "ENTRY_UNKNOWN", "There is no such entry, or it is not in the log yet.";
    NothingToConfirm = "NOTHING_TO_CONFIRM", "Neither the clock nor the ledger is under suspicion.";
    ExportNotVerified = "EXPORT_NOT_VERIFIED", "No verified export of every bound store exists.";
    NotConfirmed = "NOT_CONFIRMED", "What cannot be undone was not confirmed.";
    CertificateMissing = "CERTIFICATE_MISSING", "The plane was not purged, or its certificate is not issued or not sealed yet.";
    ArchiveMissing = "ARCHIVE_MISSING", "The plane has no archive to read.";
    ArchiveBroken = "ARCHIVE_BROKEN", "An object of the archive is gone, or is not what was verified.";
    ArchiveLocked = "ARCHIVE_LOCKED", "An object lock forbids to delete the archive before a date.";
    LockOutlivesRetention = "LOCK_OUTLIVES_RETENTION", "The archive's objects would be locked for longer than the plane's data is kept.";
    ReplicaUndeclared = "REPLICA_UNDECLARED", "The archive is copied to a bucket that is not declared, and so would not be purged.";
    ArchiveNotEncrypted = "ARCHIVE_NOT_ENCRYPTED", "The plane's archive is not encrypted, so it has no key.";
    MasterKeyUnusable = "MASTER_KEY_UNUSABLE", "The master key that wraps the archive's key is missing, unreadable or another one.";
    ArchiveWithoutContent = "ARCHIVE_WITHOUT_CONTENT", "The archive is an inventory: it holds digests, and nothing that could be restored.";
    IngestRefused = "INGEST_REFUSED", "The plane takes no writes in its state, or the scope is another tenant's.";
    NothingToProbe = "NOTHING_TO_PROBE", "Nothing is kept by which the plane could be looked for again.";
    FindingUnknown = "FINDING_UNKNOWN", "There is no such open finding.";
    FindingStands = "FINDING_STANDS", "No probe has come back clean since the finding was last seen.";
    FindingBySelf = "FINDING_BY_SELF", "Who requested the offboarding cannot close a finding about it.";
    StoreAnswers = "STORE_ANSWERS", "The store answers and knows the plane, so it is not gone.";
    AttestationUnknown = "ATTESTATION_UNKNOWN", "There is no such attestation that waits for a second person.";
    AttestationBySelf = "ATTESTATION_BY_SELF", "Two persons attest, neither of them who requested the offboarding.";
    AttestationRefused = "ATTESTATION_REFUSED", "A store can be attested gone only for a plane that is ARCHIVED or PURGED and bound to it.";
    PersonalNeeded = "PERSONAL_NEEDED", "An offboarding of the tenant is open, so it must stay known who requests and who decides.";
}

impl std::fmt::Display for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A typed refusal. `message` says what was wrong, where, and what would be right; `details` is for machines.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, thiserror::Error)]
#[error("{code}: {message}")]
pub struct Refusal {
    /// The stable code.
    pub code: Code,
    /// One or two sentences for a person.
    pub message: String,
    /// Named values a program may act on; an object.
    pub details: Value,
}

impl Refusal {
    /// A refusal without details.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), details: Value::Object(Default::default()) }
    }

    /// The same refusal with `details`, an object.
    pub fn with(mut self, details: Value) -> Self {
        self.details = details;
        self
    }
}
