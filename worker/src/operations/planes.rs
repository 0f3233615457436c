//! Planes: registered over stores that an operator opened to their tenant, with a scope that nobody else has or had.

use lethe_ledger::{Binding, Chain, Entry, EventType, NewPlane, NewStore, Plane, Tenant, Tx};
use lethe_stages::{
    Code, LifecycleState, Refusal, canonical,
    ports::{Description, PortError},
};
use lethe_stores::{Mapping, shown_store_url};
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};
use uuid::Uuid;

use super::{
    App, Call, Outcome, Stop, arguments, lookup, operator,
    parties::{self, Checked, is_name, read_prepared, store_unknown},
    unmapped, unusable,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Register {
    tenant: String,
    name: String,
    stores: Vec<String>,
    archive: String,
    #[serde(default)]
    whole_table: bool,
}

/// One `--store`, resolved and checked.
#[derive(Serialize, Deserialize)]
pub(super) struct Resolved {
    store: Checked,
    named: Option<String>,
    resource: String,
    plane_column: Option<String>,
    plane_value: Option<String>,
    mapping: Mapping,
}

impl Resolved {
    /// What a mapping means in a store that is not registered by name.
    pub(super) async fn unnamed(app: &App, store: &Checked, mapping: Mapping) -> Result<Self, PortError> {
        let described = app.world.describe(&store.url, &mapping).await?;
        Ok(Self::new(store, None, mapping, described))
    }

    fn new(store: &Checked, named: Option<String>, mut mapping: Mapping, described: Description) -> Self {
        mapping.table = described.resource.clone();
        mapping.plane_column = described.plane_column.clone();
        mapping.plane = described.plane_value.clone();
        let Checked { url, kind, identity, .. } = store.clone();
        Self {
            store: Checked { url, kind, identity, report: Json::Null },
            named,
            resource: described.resource,
            plane_column: described.plane_column,
            plane_value: described.plane_value,
            mapping,
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Prepared {
    bindings: Vec<Resolved>,
    archive_url: String,
    archive_id: Uuid,
}

pub(super) async fn check_bindings(app: &App, call: &Call) -> Outcome {
    let args: Register = arguments(call)?;
    is_name("plane", &args.name)?;
    if args.stores.is_empty() {
        return Err(
            Refusal::new(Code::InvalidArgument, "a plane is bound to at least one store: --store 'NAME?table=…&key=…'").into()
        );
    }
    let mut bindings = Vec::new();
    for spec in &args.stores {
        bindings.push(resolve(app, spec, args.whole_table).await?);
    }
    let mut random = [0; 16];
    app.ledger.entropy().fill(&mut random);
    let new_id = uuid::Builder::from_random_bytes(random).into_uuid();
    let prepared = app.world.prepare_archive(&args.archive, new_id).await;
    let (archive_url, archive_id) = prepared.map_err(|error| unusable(&format!("check the archive {}", args.archive), error))?;
    Ok(json!(Prepared { bindings, archive_url, archive_id }))
}

async fn resolve(app: &App, spec: &str, whole_table: bool) -> Result<Resolved, Stop> {
    // A URL may hold a password where none belongs.
    let shown = match spec.split_once('?') {
        Some((url, query)) if url.contains(':') => format!("{}?{query}", shown_store_url(url)),
        None if spec.contains(':') => shown_store_url(spec),
        _ => spec.to_owned(),
    };
    let wrong = |code, message: String| Stop::from(Refusal::new(code, format!("--store '{shown}': {message}")));
    let (store, query) = spec
        .split_once('?')
        .ok_or_else(|| wrong(Code::MappingWrong, "write NAME?table=…&plane_column=…&plane=…&key=…".into()))?;
    let mapping = Mapping::parse(query).map_err(|message| wrong(Code::MappingWrong, message))?;
    if mapping.plane_column.is_none() && !whole_table {
        let message = format!(
            "it names no plane_column, so the plane would own all of table {}; confirm with --whole-table",
            mapping.table
        );
        return Err(wrong(Code::ConsentMissing, message));
    }
    let (named, checked) = if store.contains(':') {
        (None, parties::checked(app, store).await?)
    } else {
        let known = app.ledger.read(async |tx: &mut Tx| tx.store(store).await).await?;
        (Some(store.to_owned()), parties::checked_again(app, &known.ok_or_else(|| store_unknown(store))?).await?)
    };
    let described =
        app.world.describe(&checked.url, &mapping).await.map_err(|error| unmapped(&format!("--store '{shown}'"), error))?;
    Ok(Resolved::new(&checked, named, mapping, described))
}

/// Makes sure that the tenant may have a new plane of this name.
pub(super) async fn may_be_named(tx: &mut Tx, tenant: &Tenant, name: &str) -> Result<(), Stop> {
    if tenant.status != lethe_ledger::TenantStatus::Active {
        let message = format!("tenant {} is {}: only an active one gets planes", tenant.name, tenant.status);
        return Err(on_tenant(tenant, Refusal::new(Code::TenantNotActive, message)));
    }
    match tx.plane_by_name(tenant.id, name).await?.filter(|plane| plane.name.is_some()) {
        None => Ok(()),
        Some(taken) => {
            let message = format!("tenant {} already has a plane {name}", tenant.name);
            Err(on_tenant(tenant, Refusal::new(Code::NameTaken, message).with(json!({"plane_id": taken.id}))))
        }
    }
}

/// A refusal that concerns a tenant and no plane of it yet.
pub(super) fn on_tenant(tenant: &Tenant, refusal: Refusal) -> Stop {
    super::Refused { refusal, chain: Chain::Tenant(tenant.id), tenant_id: Some(tenant.id) }.into()
}

/// The bindings of a new plane: each store open to the tenant, each scope nobody's, now or before.
pub(super) async fn bind_all(tx: &mut Tx, call: &Call, tenant: &Tenant, resolved: Vec<Resolved>) -> Result<Vec<Binding>, Stop> {
    let mut bindings: Vec<Binding> = Vec::new();
    for one in resolved {
        let binding = bind(tx, call, tenant, one).await.map_err(|stop| match stop {
            Stop::Refused(refused) => on_tenant(tenant, refused.refusal),
            fault => fault,
        })?;
        let taken = match bindings.iter().any(|other| overlap(other, &binding)) {
            true => Some(None),
            false => tx.overlapping_binding(&binding).await?.map(Some),
        };
        if let Some(owner) = taken {
            let owner = owner.map_or("another --store of this plane".to_owned(), |id| format!("plane {id}"));
            let message = format!(
                "{} in store {} belongs, in whole or in part, to {owner}; a scope belongs to one plane for ever",
                binding.resource, binding.store
            );
            return Err(on_tenant(tenant, Refusal::new(Code::BindingTaken, message)));
        }
        bindings.push(binding);
    }
    Ok(bindings)
}

/// The entry that begins a plane's chain.
pub(super) fn registered(call: &Call, plane: &Plane, bindings: &[Binding]) -> Entry {
    let mut entry =
        Entry::new(Chain::Plane(plane.id), Some(plane.tenant_id), EventType::Registered, &call.actor, &call.operation);
    entry.to_state = Some(plane.state);
    entry.evidence = json!({"kind": "plane", "bindings": bindings.iter().map(|binding| json!({
        "store": binding.store, "resource": binding.resource, "scope_digest": binding.scope_digest()})).collect::<Vec<_>>()});
    entry
}

pub(super) async fn register(_app: &App, tx: &mut Tx, call: &Call, prepared: Json) -> Outcome {
    let args: Register = arguments(call)?;
    let Prepared { bindings: resolved, archive_url, archive_id } = read_prepared(prepared)?;
    tx.lock_registry().await?;
    let tenant = lookup::tenant(tx, call, &args.tenant).await?;
    may_be_named(tx, &tenant, &args.name).await?;
    let bindings = bind_all(tx, call, &tenant, resolved).await?;
    let new = NewPlane { tenant_id: tenant.id, name: args.name, archive_url, archive_id, lineage: None };
    let plane = tx.insert_plane(&new, &bindings).await?;
    tx.append(registered(call, &plane, &bindings)).await?;
    shown(tx, &tenant.name, &plane).await
}

/// The binding of one `--store`: the store must be open to the tenant. A store named by its URL is registered for this tenant.
async fn bind(tx: &mut Tx, call: &Call, tenant: &Tenant, one: Resolved) -> Result<Binding, Stop> {
    let key = one.named.clone().unwrap_or_else(|| one.store.identity.clone());
    let store = match tx.store(&key).await? {
        // Recognised by its file and not by its URL: a hard link, or another file in the place of one that is gone.
        Some(store) if one.named.is_none() && store.url != one.store.url => {
            let message = format!("{} is the file of store {} ({}): name that store", one.store.url, store.name, store.url);
            return Err(Refusal::new(Code::NameTaken, message).into());
        }
        Some(store) => store,
        None if one.named.is_none() => {
            operator(call)?;
            let digest = canonical::sha256(one.store.url.as_bytes());
            let name = format!("{}-{}", one.store.kind, &digest["sha256:".len()..][..12]);
            let Checked { url, kind, identity, .. } = one.store;
            let new = NewStore { name: name.clone(), url, kind, identity, backup_retention: None };
            let id = tx.insert_store(&new).await?;
            tx.open_store_to(id, tenant.id).await?;
            tx.store(&name).await?.ok_or_else(|| store_unknown(&name))?
        }
        None => return Err(store_unknown(&key).into()),
    };
    if !store.tenants.contains(&tenant.name) {
        let message = format!(
            "store {} was not opened to tenant {}: an operator does that with `lethe store add --tenant`",
            store.name, tenant.name
        );
        return Err(Refusal::new(Code::StoreNotInScope, message).into());
    }
    Ok(Binding {
        store_id: store.id,
        store: store.name,
        store_kind: store.kind,
        store_url: store.url,
        store_identity: store.identity,
        resource: one.resource,
        plane_column: one.plane_column.unwrap_or_default(),
        value_digest: canonical::sha256(one.plane_value.unwrap_or_default().as_bytes()),
        mapping: Some(json!(one.mapping)),
        attestation_id: None,
        attested_evidence: None,
    })
}

fn overlap(one: &Binding, other: &Binding) -> bool {
    one.store_id == other.store_id
        && one.resource == other.resource
        && (one.plane_column != other.plane_column || one.plane_column.is_empty() || one.value_digest == other.value_digest)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    #[serde(default)]
    tenant: Option<String>,
    #[serde(default)]
    state: Option<LifecycleState>,
}

pub(super) async fn list(_app: &App, tx: &mut Tx, call: &Call, _prepared: Json) -> Outcome {
    let args: List = arguments(call)?;
    let tenant = match args.tenant.as_ref().or(call.tenant.as_ref()) {
        Some(name) => Some(lookup::tenant(tx, call, name).await?.id),
        None => None,
    };
    let names: std::collections::HashMap<Uuid, String> =
        tx.tenants().await?.into_iter().map(|tenant| (tenant.id, tenant.name)).collect();
    let planes = tx.planes(tenant, args.state).await?;
    let planes: Vec<Json> = planes
        .iter()
        .map(|plane| {
            let mut shown = json!(plane);
            shown["tenant"] = json!(names.get(&plane.tenant_id));
            shown
        })
        .collect();
    Ok(json!({"planes": planes}))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PlaneRef {
    pub(super) plane: String,
}

pub(super) async fn show(_app: &App, tx: &mut Tx, call: &Call, _prepared: Json) -> Outcome {
    let PlaneRef { plane } = arguments(call)?;
    let found = lookup::plane(tx, call, &plane).await?;
    shown(tx, &found.tenant.name, &found.plane).await
}

pub(super) async fn shown(tx: &mut Tx, tenant: &str, plane: &Plane) -> Outcome {
    let bindings = tx.bindings(plane.id).await?;
    let mut shown = json!(plane);
    shown["tenant"] = json!(tenant);
    shown["stores"] = json!(
        bindings
            .iter()
            .map(|binding| json!({
        "store": binding.store, "url": binding.store_url, "resource": binding.resource,
        "mapping": binding.mapping, "scope_digest": binding.scope_digest()}))
            .collect::<Vec<_>>()
    );
    super::probes::of_plane(tx, plane, &mut shown).await?;
    Ok(shown)
}
