//! Tenants and stores: registered by an operator before planes can be.

use chrono::{DateTime, Utc};
use lethe_ledger::{Chain, Entry, EventType, NewStore, Store, Tx};
use lethe_stages::{Code, LifecycleState, Refusal};
use lethe_stores::{StoreCheck, shown_store_url};
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};

use super::{App, Call, Outcome, Refused, Stop, arguments, lookup, operator, said, unusable};
use crate::config::LONGEST;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Name {
    name: String,
}

/// A name is a handle: short, and readable in a path, a table and a URL.
pub(super) fn is_name(what: &str, name: &str) -> Result<(), Stop> {
    let readable = name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
    if name.is_empty() || name.len() > 100 || !readable || name.starts_with('.') {
        let message = format!("`{name}` cannot name a {what}: use 1 to 100 letters, digits, `-`, `_` or `.`");
        return Err(Refusal::new(Code::InvalidArgument, message).into());
    }
    Ok(())
}

pub(super) async fn register_tenant(_app: &App, tx: &mut Tx, call: &Call, _prepared: Json) -> Outcome {
    operator(call)?;
    let Name { name } = arguments(call)?;
    is_name("tenant", &name)?;
    if name.parse::<uuid::Uuid>().is_ok() {
        return Err(Refusal::new(Code::InvalidArgument, "a tenant's name cannot look like an id").into());
    }
    tx.lock_registry().await?;
    if tx.tenant(&name).await?.is_some() {
        return Err(Refusal::new(Code::NameTaken, format!("there already is a tenant {name}")).into());
    }
    let tenant = tx.insert_tenant(&name).await?;
    let mut entry = Entry::new(Chain::Tenant(tenant.id), Some(tenant.id), EventType::Registered, &call.actor, &call.operation);
    entry.evidence = json!({"kind": "tenant", "status": tenant.status});
    tx.append(entry).await?;
    Ok(json!(tenant))
}

pub(super) async fn list_tenants(_app: &App, tx: &mut Tx, call: &Call, _prepared: Json) -> Outcome {
    let tenants = tx.tenants().await?;
    let visible: Vec<_> = tenants.iter().filter(|tenant| call.tenant.as_ref().is_none_or(|own| *own == tenant.name)).collect();
    Ok(json!({"tenants": visible}))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Protect {
    name: String,
    until: DateTime<Utc>,
    reason: String,
}

/// Forbids that any plane of a tenant is purged before an instant. Nobody can take that back or shorten it.
pub(super) async fn protect_tenant(_app: &App, tx: &mut Tx, call: &Call, _prepared: Json) -> Outcome {
    operator(call)?;
    let args: Protect = arguments(call)?;
    said("--reason", &args.reason)?;
    let tenant = lookup::tenant(tx, call, &args.name).await?;
    // Nothing is decided on any of its planes meanwhile.
    tx.lock_tenant(tenant.id, false).await?;
    let tenant = lookup::tenant(tx, call, &args.name).await?;
    let refuse = |code, message: String| {
        Stop::from(Refused { refusal: Refusal::new(code, message), chain: Chain::Tenant(tenant.id), tenant_id: Some(tenant.id) })
    };
    if args.until <= tx.at() || args.until - tx.at() > LONGEST * 10 {
        let message = format!("--until: {} has passed, or is more than a century away", args.until.to_rfc3339());
        return Err(refuse(Code::InvalidArgument, message));
    }
    if let Some(until) = tenant.protected_until.filter(|until| args.until <= *until) {
        let message =
            format!("{} is protected until {} already, and protection is never shortened", tenant.name, until.to_rfc3339());
        return Err(refuse(Code::PurgeProtected, message));
    }
    tx.protect_tenant(tenant.id, args.until).await?;
    // Due dates of the law move for nobody; an erasure that waits is told, not dropped.
    let mut late = Vec::new();
    for plane in tx.planes(Some(tenant.id), None).await? {
        let open = tx.offboardings_of(plane.id).await?.into_iter().find(|open| open.closed_at.is_none());
        let Some(open) = open else { continue };
        if let Some(deadline) = tx.deadline(open.id).await?.filter(|deadline| deadline.due_at < args.until) {
            late.push(json!({"plane_id": plane.id, "legal_due_at": deadline.due_at}));
        }
    }
    let mut entry = Entry::new(Chain::Tenant(tenant.id), Some(tenant.id), EventType::Protected, &call.actor, &call.operation);
    entry.reason = Some(args.reason);
    entry.evidence = json!({"protected_until": args.until, "before": tenant.protected_until});
    tx.append(entry).await?;
    let mut answer = json!(lookup::tenant(tx, call, &args.name).await?);
    answer["misses_legal_due_date"] = json!(late);
    Ok(answer)
}

pub(super) async fn show_tenant(_app: &App, tx: &mut Tx, call: &Call, _prepared: Json) -> Outcome {
    let Name { name } = arguments(call)?;
    let tenant = lookup::tenant(tx, call, &name).await?;
    let planes = tx.planes(Some(tenant.id), None).await?;
    let in_state = |state: LifecycleState| planes.iter().filter(|plane| plane.state == state).count();
    let by_state: serde_json::Map<String, Json> =
        LifecycleState::ALL.iter().map(|&state| (state.to_string(), json!(in_state(state)))).collect();
    let holds = tx.holds(Some(&[tenant.id]), false).await?;
    let mut shown = json!(tenant);
    shown["planes"] = json!(by_state);
    shown["holds"] = json!(holds);
    Ok(shown)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AddStore {
    name: String,
    url: String,
    #[serde(default)]
    tenants: Vec<String>,
    #[serde(default)]
    backup_retention: Option<String>,
}

/// What was found out about a store before the transaction.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Checked {
    pub(super) url: String,
    pub(super) kind: String,
    pub(super) identity: String,
    pub(super) report: Json,
}

/// Checks a store that the world offers under `url`.
pub(super) async fn checked(app: &App, url: &str) -> Result<Checked, Stop> {
    let report: StoreCheck =
        app.world.check_store(url).await.map_err(|error| unusable(&format!("check {}", shown_store_url(url)), error))?;
    Ok(Checked { url: report.url.clone(), kind: report.kind.into(), identity: report.file_id.clone(), report: json!(report) })
}

/// Checks a registered store: that it still is the one that was registered. A server of the store protocol never changes its name; of a
/// file or a database the identity changes with every restore, and there the fences in it tell.
pub(super) async fn checked_again(app: &App, store: &Store) -> Result<Checked, Stop> {
    let found = checked(app, &store.url).await?;
    if found.kind == "protocol" && found.identity != store.identity {
        let message = format!(
            "check {}: store {} was registered as `{}`, and `{}` answers: it is another store",
            shown_store_url(&store.url),
            store.name,
            store.identity,
            found.identity
        );
        return Err(Refusal::new(Code::StoreUnusable, message).with(json!({"retryable": false})).into());
    }
    Ok(found)
}

pub(super) async fn check_new_store(app: &App, call: &Call) -> Outcome {
    operator(call)?;
    let args: AddStore = arguments(call)?;
    is_name("store", &args.name)?;
    Ok(json!(checked(app, &args.url).await?))
}

pub(super) async fn add_store(_app: &App, tx: &mut Tx, call: &Call, prepared: Json) -> Outcome {
    let args: AddStore = arguments(call)?;
    let found: Checked = read_prepared(prepared)?;
    tx.lock_registry().await?;
    let known = tx.store(&args.name).await?.filter(|store| store.url == found.url);
    for key in [&args.name, &found.url, &found.identity] {
        if let Some(taken) = tx.store(key).await?.filter(|taken| known.as_ref().is_none_or(|known| known.id != taken.id)) {
            let message = format!("`{}` is already registered as store {} ({})", key, taken.name, taken.url);
            return Err(Refusal::new(Code::NameTaken, message).with(json!({"store": taken.name})).into());
        }
    }
    let mut tenants = Vec::new();
    for name in &args.tenants {
        tenants.push(lookup::tenant(tx, call, name).await?);
    }
    if let Some(retention) = &args.backup_retention {
        retention
            .parse::<crate::config::Span>()
            .map_err(|error| Refusal::new(Code::InvalidArgument, format!("--backup-retention: {error}")))?;
    }
    let new = NewStore {
        name: args.name.clone(),
        url: found.url,
        kind: found.kind,
        identity: found.identity,
        backup_retention: args.backup_retention,
    };
    // The same store again opens it to further tenants, and changes nothing else of it.
    let id = match known {
        Some(store) => store.id,
        None => tx.insert_store(&new).await?,
    };
    for tenant in &tenants {
        tx.open_store_to(id, tenant.id).await?;
    }
    let mut entry = Entry::new(Chain::System, None, EventType::Registered, &call.actor, &call.operation);
    entry.evidence = json!({"kind": "store", "store_id": id, "driver": new.kind, "tenants": tenants.iter().map(|tenant| tenant.id).collect::<Vec<_>>()});
    tx.append(entry).await?;
    let mut answer = json!(tx.store(&args.name).await?);
    answer["check"] = found.report;
    Ok(answer)
}

pub(super) async fn check_known_store(app: &App, call: &Call) -> Outcome {
    operator(call)?;
    let Name { name } = arguments(call)?;
    let store = app.ledger.read(async |tx: &mut Tx| tx.store(&name).await).await?;
    let store = store.ok_or_else(|| store_unknown(&name))?;
    Ok(json!(checked_again(app, &store).await?))
}

pub(super) async fn store_checked(_app: &App, tx: &mut Tx, call: &Call, prepared: Json) -> Outcome {
    let Name { name } = arguments(call)?;
    let found: Checked = read_prepared(prepared)?;
    let store = tx.store(&name).await?.ok_or_else(|| store_unknown(&name))?;
    tx.store_checked(store.id).await?;
    let mut answer = json!(tx.store(&name).await?);
    answer["check"] = found.report;
    Ok(answer)
}

pub(super) async fn list_stores(_app: &App, tx: &mut Tx, call: &Call, _prepared: Json) -> Outcome {
    let mut stores = tx.stores().await?;
    if let Some(own) = &call.tenant {
        stores.retain(|store| store.tenants.contains(own));
        stores.iter_mut().for_each(|store| store.tenants.retain(|tenant| tenant == own));
    }
    Ok(json!({"stores": stores}))
}

pub(super) fn store_unknown(name: &str) -> Refusal {
    Refusal::new(
        Code::StoreUnknown,
        format!("there is no store {name}: `lethe store add {name} sqlite:FILE --tenant T` registers one"),
    )
}

/// What the operation's own preparation found, back from JSON.
pub(super) fn read_prepared<T: serde::de::DeserializeOwned>(prepared: Json) -> Result<T, Stop> {
    serde_json::from_value(prepared)
        .map_err(|error| Refusal::new(Code::InvalidArgument, format!("read what was prepared: {error}")).into())
}
