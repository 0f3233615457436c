//! A question in Cedar's terms.
//!
//! The rule: everything goes through the schema; what does not fit is an error here, never an attribute that a policy does not find.

use std::collections::{BTreeMap, HashMap, HashSet};

use cedar_policy::{
    Context as CedarContext, Entities, Entity, EntityId, EntityTypeName, EntityUid, Request, RestrictedExpression, Schema,
};
use chrono::{DateTime, Utc};
use lethe_ledger::ActorType;

use super::model::{Action, Approvals, Ask, Context, OffboardingFacts, PlaneFacts, Principal, Resource, Role, TenantFacts};

type Attributes = HashMap<String, RestrictedExpression>;

/// The names of everything in the schema, parsed once.
#[derive(Debug)]
pub(super) struct Vocabulary {
    schema: Schema,
    /// What every question needs: the actions and the roles.
    base: Entities,
    actions: BTreeMap<Action, EntityUid>,
    roles: BTreeMap<Role, EntityUid>,
    user: EntityTypeName,
    service: EntityTypeName,
    tenant: EntityTypeName,
    plane: EntityTypeName,
    offboarding: EntityTypeName,
    system: EntityUid,
}

impl Vocabulary {
    /// Reads them out of the schema.
    pub(super) fn of(schema: Schema) -> Result<Self, String> {
        let name = |text: &str| text.parse::<EntityTypeName>().map_err(|error| format!("entity type {text}: {error}"));
        let (action, role) = (name("Action")?, name("Role")?);
        let roles: BTreeMap<Role, EntityUid> = Role::ALL.iter().map(|it| (*it, uid(&role, it.as_str()))).collect();
        let held = roles.values().map(|role| Entity::new_no_attrs(role.clone(), HashSet::new()));
        let base = Entities::from_entities(held, Some(&schema)).map_err(|error| format!("roles: {}", told(&error)))?;
        Ok(Self {
            base,
            actions: Action::ALL.iter().map(|it| (*it, uid(&action, it.as_str()))).collect(),
            roles,
            user: name("User")?,
            service: name("Service")?,
            tenant: name("Tenant")?,
            plane: name("Plane")?,
            offboarding: name("Offboarding")?,
            system: uid(&name("System")?, "lethe"),
            schema,
        })
    }

    /// The schema.
    pub(super) fn schema(&self) -> &Schema {
        &self.schema
    }

    /// A question, validated.
    pub(super) fn translate(&self, ask: &Ask) -> Result<(Request, Entities), String> {
        let mut entities = Vec::with_capacity(4);
        let resource = match &ask.resource {
            Resource::System => self.system(&mut entities)?,
            Resource::Tenant(tenant) => self.tenant(tenant, &mut entities)?,
            Resource::Plane(plane) => self.plane(plane, &mut entities)?,
            Resource::Offboarding(offboarding) => self.offboarding(offboarding, &mut entities)?,
        };
        let principal = self.principal(&ask.principal, ask.resource.tenant(), &mut entities)?;
        let action = self.actions.get(&ask.action).cloned().ok_or_else(|| format!("action {} is not known", ask.action))?;
        let entities = self.base.clone().add_entities(entities, Some(&self.schema)).map_err(|error| told(&error))?;
        let request = Request::new(principal, action, resource, context(&ask.context)?, Some(&self.schema));
        Ok((request.map_err(|error| told(&error))?, entities))
    }

    fn principal(
        &self,
        principal: &Principal,
        tenant: Option<&TenantFacts>,
        into: &mut Vec<Entity>,
    ) -> Result<EntityUid, String> {
        if principal.id.trim().is_empty() {
            return Err("the principal has no id".into());
        }
        let kind = match principal.kind {
            ActorType::User | ActorType::Founder => &self.user,
            ActorType::System | ActorType::Sdk => &self.service,
        };
        let actor = principal.actor();
        let this = uid(kind, &actor);
        let mut attributes = Attributes::from([text("actor", &actor)]);
        if let Some(confined) = &principal.tenant {
            // By name or id; no tenant is registered under a name that looks like an id. Another tenant's is nobody's here.
            let own = tenant.filter(|tenant| tenant.name == *confined || tenant.id.to_string() == *confined);
            let own = own.map_or_else(|| uid(&self.tenant, confined), |tenant| self.tenant_uid(tenant));
            attributes.insert("tenant".into(), RestrictedExpression::new_entity_uid(own));
        }
        let mut roles = HashSet::new();
        for role in &principal.roles {
            roles.insert(self.roles.get(role).cloned().ok_or_else(|| format!("role {role} is not known"))?);
        }
        entity(this, attributes, roles, into)
    }

    fn system(&self, into: &mut Vec<Entity>) -> Result<EntityUid, String> {
        entity(self.system.clone(), Attributes::new(), HashSet::new(), into)
    }

    fn tenant_uid(&self, tenant: &TenantFacts) -> EntityUid {
        uid(&self.tenant, &tenant.id.to_string())
    }

    fn tenant(&self, tenant: &TenantFacts, into: &mut Vec<Entity>) -> Result<EntityUid, String> {
        let mut attributes = Attributes::from([text("name", &tenant.name), text("status", &tenant.status)]);
        if let Some(until) = tenant.protected_until {
            attributes.extend([long("protected_until", rounded_up(until))]);
        }
        entity(self.tenant_uid(tenant), attributes, HashSet::new(), into)
    }

    fn plane(&self, plane: &PlaneFacts, into: &mut Vec<Entity>) -> Result<EntityUid, String> {
        let tenant = self.tenant(&plane.tenant, into)?;
        let kinds = plane.store_kinds.iter().map(|kind| RestrictedExpression::new_string(kind.clone()));
        let attributes = Attributes::from([
            ("tenant".into(), RestrictedExpression::new_entity_uid(tenant.clone())),
            text("state", plane.state.as_str()),
            ("store_kinds".into(), RestrictedExpression::new_set(kinds)),
            bool("held", plane.held),
        ]);
        entity(uid(&self.plane, &plane.id.to_string()), attributes, HashSet::from([tenant]), into)
    }

    fn offboarding(&self, offboarding: &OffboardingFacts, into: &mut Vec<Entity>) -> Result<EntityUid, String> {
        let plane = self.plane(&offboarding.plane, into)?;
        let mut attributes = Attributes::from([
            ("plane".into(), RestrictedExpression::new_entity_uid(plane.clone())),
            text("ground", offboarding.ground.as_str()),
            text("requested_by", &offboarding.requested_by),
            long("grace_s", offboarding.grace_s),
            long("grace_min_s", offboarding.grace_min_s),
            long("retention_s", offboarding.retention_s),
            text("evict", offboarding.evict.as_str()),
            bool("grace_skipped", offboarding.grace_skipped),
        ]);
        attributes.extend(offboarding.records.map(|records| long("records", records)));
        entity(uid(&self.offboarding, &offboarding.id.to_string()), attributes, HashSet::from([plane]), into)
    }
}

fn context(context: &Context) -> Result<CedarContext, String> {
    let Approvals { total, signed, by_role, requester_among } = &context.approvals;
    if *total < 0 || *signed < 0 || signed > total || by_role.values().any(|count| count < &0 || count > total) {
        return Err(format!("the approvals contradict one another: {total} in all, {signed} signed, by role {by_role:?}"));
    }
    let by_role = Role::ALL.iter().map(|role| long(role.as_str(), by_role.get(role).copied().unwrap_or(0)));
    let approvals = [
        long("total", *total),
        long("signed", *signed),
        ("by_role".into(), record(by_role)?),
        bool("requester_among", *requester_among),
    ];
    let pairs = [
        long("at", context.at.timestamp()),
        text("environment", &context.environment),
        bool("asserted_suffices", context.asserted_suffices),
        bool("own", context.own),
        ("approvals".into(), record(approvals)?),
    ];
    CedarContext::from_pairs(pairs).map_err(|error| told(&error))
}

fn uid(kind: &EntityTypeName, id: &str) -> EntityUid {
    EntityUid::from_type_name_and_id(kind.clone(), EntityId::new(id))
}

fn entity(
    this: EntityUid,
    attributes: Attributes,
    parents: HashSet<EntityUid>,
    into: &mut Vec<Entity>,
) -> Result<EntityUid, String> {
    into.push(Entity::new(this.clone(), attributes, parents).map_err(|error| told(&error))?);
    Ok(this)
}

fn record(fields: impl IntoIterator<Item = (String, RestrictedExpression)>) -> Result<RestrictedExpression, String> {
    RestrictedExpression::new_record(fields).map_err(|error| told(&error))
}

fn text(name: &str, value: &str) -> (String, RestrictedExpression) {
    (name.into(), RestrictedExpression::new_string(value.into()))
}

fn long(name: &str, value: i64) -> (String, RestrictedExpression) {
    (name.into(), RestrictedExpression::new_long(value))
}

fn bool(name: &str, value: bool) -> (String, RestrictedExpression) {
    (name.into(), RestrictedExpression::new_bool(value))
}

/// A protection lasts to its last fraction of a second.
fn rounded_up(at: DateTime<Utc>) -> i64 {
    at.timestamp() + i64::from(at.timestamp_subsec_nanos() > 0)
}

/// An error with what caused it.
pub(super) fn told(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}
