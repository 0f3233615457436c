//! Leave to destroy, minted over facts that allow it: for tests that speak to a driver without a ledger.

use chrono::DateTime;
use lethe_stages::{
    EvictMode, Facts, GraceAccess, Ground, LifecycleState, Permit, UsageKnown,
    permit::{Destruction, Verdict},
};
use uuid::Uuid;

/// A permit to evict one plane, under an epoch.
pub fn permit(plane_id: Uuid, epoch: i64) -> Permit {
    let facts = Facts {
        at: DateTime::UNIX_EPOCH,
        tenant_id: Uuid::nil(),
        tenant_status: "active".into(),
        plane_id,
        state: LifecycleState::Deactivated,
        offboarding_id: Uuid::from_u128(3),
        ground: Ground::ContractEnd,
        evict: EvictMode::AfterArchive,
        grace_access: GraceAccess::ReadOnly,
        grace_until: None,
        grace_skipped: false,
        retention_until: None,
        holds: Vec::new(),
        runs_in_flight: 0,
        queries_in_flight: 0,
        usage_until: None,
        usage_known: UsageKnown::Reported,
        usage_unknown_accepted: false,
        tokens: 0,
        manifest_sha256: Some("sha256:00".into()),
        plan_digest: None,
        plan_manifest_sha256: None,
        approval: None,
        denied: false,
        clock_suspect: false,
        ledger_behind: false,
        restore_pending: false,
    };
    Permit::mint(Destruction::Evict, &facts, epoch, &Verdict { policy_revision: "test".into() }).expect("a permit")
}
