//! Finding what a call names, as far as the caller may see it.
//!
//! The rule: a call that writes locks the plane it names, so of all that is decided on it one is first. What belongs to another tenant does not exist for a caller who is confined to one; the attempt is on record.

use lethe_ledger::{Chain, Fault, Plane, Tenant, Tx};
use lethe_stages::{Code, Refusal};
use uuid::Uuid;

use super::{Call, Refused, Stop};

/// A plane and its owner.
pub(super) struct Found {
    pub(super) tenant: Tenant,
    pub(super) plane: Plane,
}

impl Found {
    /// A refusal that concerns this plane, on its chain.
    pub(super) fn refuse(&self, refusal: Refusal) -> Stop {
        Refused { refusal, chain: Chain::Plane(self.plane.id), tenant_id: Some(self.tenant.id) }.into()
    }
}

/// The tenant of this name or id.
pub(super) async fn tenant(tx: &mut Tx, call: &Call, name: &str) -> Result<Tenant, Stop> {
    let hidden = |tenant: &Tenant| call.tenant.as_ref().is_some_and(|own| *own != tenant.name);
    match tx.tenant(name).await? {
        Some(tenant) if !hidden(&tenant) => Ok(tenant),
        _ => Err(Refusal::new(Code::TenantUnknown, format!("there is no tenant {name}: `lethe tenant list` names them")).into()),
    }
}

fn unknown(reference: &str) -> Stop {
    Refusal::new(Code::PlaneUnknown, format!("there is no plane {reference}: `lethe plane list` names them")).into()
}

/// The plane of this id or `tenant/name`, not to be changed meanwhile.
pub(super) async fn plane(tx: &mut Tx, call: &Call, reference: &str) -> Result<Found, Stop> {
    let mut found = seen(tx, call, reference).await?;
    // Whoever writes holds the plane from here on; what is read of it and its tenant stays true.
    found.plane = tx.locked(found.plane).await?.ok_or_else(|| unknown(reference))?;
    Ok(found)
}

/// The same as it is now, without a lock.
pub(super) async fn seen(tx: &mut Tx, call: &Call, reference: &str) -> Result<Found, Stop> {
    let plane = match (reference.parse::<Uuid>(), reference.split_once('/')) {
        (Ok(id), _) => tx.plane(id).await?,
        (Err(_), Some((tenant, name))) => match tx.tenant(tenant).await? {
            Some(tenant) => tx.plane_by_name(tenant.id, name).await?,
            None => None,
        },
        (Err(_), None) => {
            let message = format!("`{reference}` names no plane: write its id, or tenant/name");
            return Err(Refusal::new(Code::InvalidArgument, message).into());
        }
    };
    let plane = plane.ok_or_else(|| unknown(reference))?;
    let tenant = tx.tenant(&plane.tenant_id.to_string()).await?.ok_or_else(|| {
        Stop::Fault(Fault::Unreadable {
            table: "planes",
            column: "tenant_id",
            id: plane.id.to_string(),
            message: "there is no such tenant".into(),
        })
    })?;
    if call.tenant.as_ref().is_some_and(|own| *own != tenant.name) {
        return Err(unknown(reference));
    }
    Ok(Found { tenant, plane })
}
