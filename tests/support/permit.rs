//! Leave to destroy, minted over facts that allow it: for tests that speak to a driver without a ledger.

use chrono::DateTime;
use lethe_stages::{
    Facts, Ground, LifecycleState, Permit, UsageKnown,
    permit::{Destruction, Verdict},
};
use uuid::Uuid;

/// A permit to evict one plane, under an epoch.
pub fn permit(plane_id: Uuid, epoch: i64) -> Permit {
    let facts = Facts {
        offboarding_id: Uuid::from_u128(3),
        usage_known: UsageKnown::Reported,
        manifest_sha256: Some("sha256:00".into()),
        ..Facts::unbegun(DateTime::UNIX_EPOCH, plane_id, LifecycleState::Deactivated, Ground::ContractEnd)
    };
    Permit::mint(Destruction::Evict, &facts, epoch, &Verdict { policy_revision: "test".into() }).expect("a permit")
}
