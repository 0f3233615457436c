//! Requesting, listing, cancelling and retrying offboardings: thin over the manager.

use chrono::{DateTime, NaiveDate, Utc};
use lethe_ledger::{OffboardingFilter, OffboardingStatus, Plane, Tx};
use lethe_stages::{Code, EvictMode, GraceAccess, Ground, LifecycleState, Refusal, ports::PortError};
use lethe_stores::Archives;
use serde::Deserialize;
use serde_json::{Value as Json, json};
use uuid::Uuid;

use super::{App, Call, Outcome, Stop, arguments, lookup, parties::read_prepared, said};
use crate::{
    config::Span,
    manager::{ArchiveAnswer, Beforehand, Received, Terms},
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Request {
    pub(super) plane: String,
    pub(super) ground: String,
    pub(super) reason: String,
    #[serde(default)]
    grace: Option<String>,
    #[serde(default)]
    archive_delay: Option<String>,
    #[serde(default)]
    retention: Option<String>,
    #[serde(default)]
    retention_basis: Option<String>,
    #[serde(default)]
    grace_access: Option<GraceAccess>,
    #[serde(default)]
    evict: Option<EvictMode>,
    /// An instant, or a day where the law is counted.
    #[serde(default)]
    received_at: Option<String>,
    #[serde(default)]
    law: Option<String>,
    #[serde(default)]
    due_on: Option<NaiveDate>,
}

impl Request {
    /// The terms, read; each that cannot be read is refused under its own code.
    pub(super) fn terms(&self) -> Result<Terms, Refusal> {
        let ground: Ground =
            self.ground.parse().map_err(|error| Refusal::new(Code::GroundUnknown, format!("--ground: {error}")))?;
        let span = |flag: &str, code: Code, text: &Option<String>| -> Result<Option<Span>, Refusal> {
            text.as_deref().map(str::parse).transpose().map_err(|error: String| Refusal::new(code, format!("--{flag}: {error}")))
        };
        Ok(Terms {
            ground,
            grace: span("grace", Code::GraceInvalid, &self.grace)?,
            archive_delay: span("archive-delay", Code::InvalidArgument, &self.archive_delay)?,
            retention: span("retention", Code::RetentionInvalid, &self.retention)?,
            retention_basis: self.retention_basis.clone(),
            grace_access: self.grace_access,
            evict: self.evict,
            received: self.received_at.as_deref().map(received).transpose()?,
            law: self.law.clone(),
            due_on: self.due_on,
        })
    }
}

fn received(text: &str) -> Result<Received, Refusal> {
    let at = text.parse::<DateTime<Utc>>().map(Received::At).or_else(|_| text.parse().map(Received::On));
    let wrong = |_| format!("--received-at: `{text}` is neither an instant like 2026-01-31T12:00:00Z nor a day like 2026-01-31");
    at.map_err(|error: chrono::ParseError| Refusal::new(Code::InvalidArgument, wrong(error)))
}

/// Asks the plane's archive what it does by itself with what is written into it, and makes the key for it. No transaction is open.
pub(super) async fn ask_archive(app: &App, call: &Call) -> Outcome {
    let args: Request = arguments(call)?;
    let read = async |tx: &mut Tx| Ok::<_, Stop>((lookup::plane(tx, call, &args.plane).await?.plane, tx.new_id()));
    match app.ledger.read(read).await {
        Ok((plane, key_id)) => Ok(json!(before(app, &plane, key_id).await)),
        // The transaction says so itself, after it has looked at the call's key.
        Err(Stop::Refused(_)) => Ok(json!(Beforehand::default())),
        Err(fault) => Err(fault),
    }
}

/// What must be known before an offboarding of the plane is requested.
pub(super) async fn before(app: &App, plane: &Plane, key_id: Uuid) -> Beforehand {
    Beforehand { archive: archive_of(app, plane).await, key: app.manager.archive_key_for(plane.id, key_id).await }
}

/// What the plane's archive says of itself.
async fn archive_of(app: &App, plane: &Plane) -> ArchiveAnswer {
    let url = plane.archive_url.as_deref().filter(|url| Archives::may_lock_or_copy(url));
    let Some(url) = url else { return ArchiveAnswer::NotAsked };
    match app.world.check_archive(url).await {
        Ok(check) => ArchiveAnswer::Said(Box::new(check)),
        Err(error) => ArchiveAnswer::Silent { message: error.to_string(), retryable: matches!(error, PortError::Transient(_)) },
    }
}

pub(super) async fn request(app: &App, tx: &mut Tx, call: &Call, prepared: Json) -> Outcome {
    let args: Request = arguments(call)?;
    let before: Beforehand = read_prepared(prepared)?;
    let found = lookup::plane(tx, call, &args.plane).await?;
    said("--reason", &args.reason).map_err(|stop| on_plane(&found, stop))?;
    let terms = args.terms().map_err(|refusal| found.refuse(refusal))?;
    let requested = app.manager.request(tx, &found.tenant, &found.plane, &terms, &before, &args.reason, &call.actor).await?;
    let requested = requested.map_err(|refusal| found.refuse(refusal))?;
    let mut shown = super::status::of(app, tx, &found).await?;
    shown["repeated"] = json!(requested.repeated);
    shown["offboarding_id"] = json!(requested.offboarding.id);
    Ok(shown)
}

/// Moves a refusal that was not yet about a plane onto its chain.
fn on_plane(found: &lookup::Found, stop: Stop) -> Stop {
    match stop {
        Stop::Refused(refused) => found.refuse(refused.refusal),
        fault => fault,
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Reasoned {
    plane: String,
    reason: String,
}

pub(super) async fn cancel(app: &App, tx: &mut Tx, call: &Call, _prepared: Json) -> Outcome {
    let args: Reasoned = arguments(call)?;
    let found = lookup::plane(tx, call, &args.plane).await?;
    said("--reason", &args.reason).map_err(|stop| on_plane(&found, stop))?;
    let cancelled = app.manager.cancel(tx, &found.plane, &args.reason, &call.actor).await?;
    let cancelled = cancelled.map_err(|refusal| found.refuse(refusal))?;
    let found = lookup::plane(tx, call, &found.plane.id.to_string()).await?;
    let mut shown = super::status::of(app, tx, &found).await?;
    shown["cancelled"] = json!(cancelled.offboarding_id);
    shown["tokens_restored"] = json!(cancelled.tokens_restored);
    Ok(shown)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Retry {
    plane: String,
    reason: String,
    /// Lets a halted restore end without what it cannot give back.
    #[serde(default)]
    accept_unrestored: bool,
}

pub(super) async fn retry(app: &App, tx: &mut Tx, call: &Call, _prepared: Json) -> Outcome {
    let args: Retry = arguments(call)?;
    let found = lookup::plane(tx, call, &args.plane).await?;
    said("--reason", &args.reason).map_err(|stop| on_plane(&found, stop))?;
    let retried = app.manager.retry(tx, &found.plane, &args.reason, args.accept_unrestored, &call.actor).await?;
    retried.map_err(|refusal| found.refuse(refusal))?;
    super::status::of(app, tx, &found).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    #[serde(default)]
    tenant: Option<String>,
    #[serde(default)]
    state: Option<LifecycleState>,
    #[serde(default)]
    halted: bool,
    #[serde(default)]
    due_before: Option<DateTime<Utc>>,
    #[serde(default)]
    status: Option<OffboardingStatus>,
}

pub(super) async fn list(_app: &App, tx: &mut Tx, call: &Call, _prepared: Json) -> Outcome {
    let args: List = arguments(call)?;
    let tenant_id = match args.tenant.as_ref().or(call.tenant.as_ref()) {
        Some(name) => Some(lookup::tenant(tx, call, name).await?.id),
        None => None,
    };
    let filter =
        OffboardingFilter { tenant_id, state: args.state, halted: args.halted, due_before: args.due_before, status: args.status };
    Ok(json!({"offboardings": tx.offboardings(&filter).await?}))
}
