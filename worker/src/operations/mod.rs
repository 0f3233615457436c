//! Operations: every read and write that somebody can ask for, by name, and the one place that dispatches them.
//!
//! The rule: dispatch does, in this order: look up · authority · prepare (the world, no transaction) · transaction { idempotency key ·
//! policies · decide · write · audit } · commit · consequences. A refusal is an answer: its entry is committed, and nothing else of the call.
//! The registry is frozen when it is built; a name that stands twice stops the program at its start.

mod access;
mod approvals;
mod approvers;
mod archives;
mod attest;
mod audit;
mod authority;
mod certificates;
mod conform;
mod control;
mod dependents;
mod dispatch;
mod due;
mod exceptions;
mod ingest;
mod keys;
mod ledger;
mod log;
mod lookup;
mod notices;
mod offboardings;
mod parties;
mod personal;
mod plan;
mod planes;
mod policies;
mod preview;
mod probes;
mod prove;
mod purges;
mod query;
mod rebuild;
mod restore;
mod status;
mod tell;

pub use dispatch::{Answer, App, Call, DispatchRecord};

use futures::future::BoxFuture;
use lethe_ledger::{ActorType, Chain, Fault, Tx};
use lethe_stages::{Code, Refusal, ports::PortError};
use serde::de::DeserializeOwned;
use serde_json::{Value as Json, json};
use uuid::Uuid;

use crate::policy::Action;

/// A refusal, with the chain on which it is recorded.
#[derive(Debug)]
pub struct Refused {
    /// What is refused and why.
    pub refusal: Refusal,
    /// Whose record it is.
    pub chain: Chain,
    /// Whose.
    pub tenant_id: Option<Uuid>,
}

/// Why an operation did not do what it was asked.
#[derive(Debug)]
pub enum Stop {
    /// It is not allowed.
    Refused(Box<Refused>),
    /// We failed.
    Fault(Fault),
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Self {
        Stop::Fault(fault)
    }
}

impl From<Refusal> for Stop {
    /// On the caller's own chain: nothing is known yet of what it concerns.
    fn from(refusal: Refusal) -> Self {
        Stop::Refused(Box::new(Refused { refusal, chain: Chain::System, tenant_id: None }))
    }
}

impl From<Refused> for Stop {
    fn from(refused: Refused) -> Self {
        Stop::Refused(Box::new(refused))
    }
}

/// What an operation answers.
pub type Outcome = Result<Json, Stop>;

type Prepare = for<'a> fn(&'a App, &'a Call) -> BoxFuture<'a, Outcome>;
type Run = for<'a> fn(&'a App, &'a mut Tx, &'a Call, Json) -> BoxFuture<'a, Outcome>;

/// A named read or write.
pub struct Operation {
    /// Its name.
    pub name: &'static str,
    /// Whether it changes anything.
    pub writes: bool,
    /// Who may call it.
    pub actors: &'static [ActorType],
    /// What the policies are asked about it.
    pub action: Action,
    /// What it asks of the world before its transaction.
    prepare: Option<Prepare>,
    /// What it does in its transaction.
    run: Run,
}

const ANYBODY: &[ActorType] = ActorType::ALL;
const HUMANS: &[ActorType] = &[ActorType::User, ActorType::Founder];

macro_rules! operations {
    ($($name:literal $kind:ident $actors:ident $action:ident $run:path $(, after $prepare:path)?;)*) => {
        /// Every operation that this version has.
        pub fn all() -> Vec<Operation> {
            vec![$(Operation {
                name: $name,
                writes: stringify!($kind).as_bytes()[0] == b'w',
                actors: $actors,
                action: Action::$action,
                prepare: { let _prepare: Option<Prepare> = None; $(let _prepare: Option<Prepare> = Some(|app, call| Box::pin($prepare(app, call)));)? _prepare },
                run: |app, tx, call, prepared| Box::pin($run(app, tx, call, prepared)),
            }),*]
        }
    };
}

operations! {
    "account.tenant.register" write ANYBODY Register parties::register_tenant;
    "account.tenant.list" read ANYBODY Read parties::list_tenants;
    "account.tenant.protect" write HUMANS Protect parties::protect_tenant;
    "account.tenant.show" read ANYBODY Read parties::show_tenant;
    "integrations.store.add" write ANYBODY Register parties::add_store, after parties::check_new_store;
    "integrations.store.check" write ANYBODY Register parties::store_checked, after parties::check_known_store;
    "integrations.store.conform" write ANYBODY Register conform::record, after conform::run;
    "integrations.store.list" read ANYBODY Read parties::list_stores;
    "knowledge.plane.register" write ANYBODY Register planes::register, after planes::check_bindings;
    "knowledge.plane.list" read ANYBODY Read planes::list;
    "knowledge.plane.show" read ANYBODY Read planes::show;
    "knowledge.dependent.add" write ANYBODY Register dependents::add;
    "knowledge.dependent.list" read ANYBODY Read dependents::list;
    "knowledge.dependent.remove" write ANYBODY Register dependents::remove;
    "knowledge.token.issue" write ANYBODY Register access::issue_token;
    "knowledge.token.list" read ANYBODY Read access::list_tokens;
    "knowledge.token.revoke" write ANYBODY Register access::revoke_token;
    "knowledge.access.check" read ANYBODY UsePlane access::check;
    "knowledge.access.check_write" read ANYBODY UsePlane ingest::check_plane;
    "knowledge.access.check_scope" read ANYBODY Read ingest::check_scope, after ingest::describe_scope;
    "knowledge.usage.open" write ANYBODY UsePlane access::open_usage;
    "knowledge.usage.close" write ANYBODY UsePlane access::close_usage;
    "knowledge.usage.list" read ANYBODY Read access::list_usage;
    "knowledge.offboarding.request" write ANYBODY Request offboardings::request, after offboardings::ask_archive;
    "knowledge.offboarding.preview" read ANYBODY Read preview::preview, after preview::ask_stores;
    "knowledge.offboarding.list" read ANYBODY Read offboardings::list;
    "knowledge.offboarding.show" read ANYBODY Read status::show;
    "knowledge.offboarding.plan" read ANYBODY Read plan::show;
    "knowledge.offboarding.break_glass" write HUMANS BreakGlass exceptions::break_glass;
    "knowledge.offboarding.review" write HUMANS Review exceptions::review;
    "knowledge.offboarding.extend" write HUMANS Extend due::extend;
    "knowledge.offboarding.cancel" write ANYBODY Cancel offboardings::cancel;
    "knowledge.offboarding.retry" write ANYBODY Retry offboardings::retry;
    "knowledge.due.list" read ANYBODY Read due::list;
    "knowledge.notice.list" read ANYBODY Read notices::list;
    "knowledge.notice.retry" write ANYBODY Control notices::retry;
    "knowledge.notice.test" write ANYBODY Control notices::test, after notices::tell_all;
    "knowledge.approval.grant" write HUMANS Approve approvals::grant;
    "knowledge.approval.deny" write HUMANS Deny approvals::deny;
    "knowledge.approval.withdraw" write HUMANS Withdraw approvals::withdraw;
    "knowledge.approval.list" read ANYBODY Read approvals::list;
    "governance.approver.add" write HUMANS ManageApprovers approvers::add;
    "governance.approver.revoke" write HUMANS ManageApprovers approvers::revoke;
    "governance.approver.list" read ANYBODY Read approvers::list;
    "governance.policy.show" read ANYBODY Read policies::show;
    "governance.policy.check" read ANYBODY Read policies::check;
    "integrations.store.attest" write HUMANS Recover attest::propose, after attest::ask;
    "integrations.store.confirm_attestation" write HUMANS Recover attest::confirm, after attest::ask_again;
    "knowledge.probe.run" write ANYBODY Retry probes::run;
    "knowledge.probe.list" read ANYBODY Read probes::list;
    "knowledge.finding.list" read ANYBODY Read probes::findings;
    "knowledge.finding.show" read ANYBODY Read probes::show_finding;
    "knowledge.finding.close" write HUMANS Review probes::close_finding;
    "knowledge.certificate.list" read ANYBODY Read certificates::list;
    "knowledge.certificate.show" read ANYBODY Read certificates::show, after log::seal_first;
    "knowledge.hold.place" write HUMANS Hold control::place_hold;
    "knowledge.hold.release" write HUMANS ReleaseHold control::release_hold;
    "knowledge.hold.list" read ANYBODY Read control::list_holds;
    "knowledge.control.pause" write ANYBODY Control control::pause;
    "knowledge.control.resume" write ANYBODY Control control::resume;
    "knowledge.archive.check" read ANYBODY Read archives::answer, after archives::check;
    "knowledge.archive.verify" read ANYBODY Read archives::answer, after archives::verify;
    "knowledge.archive.restore" write ANYBODY Register restore::register, after restore::rebuild;
    "knowledge.archive.export" read ANYBODY Read archives::answer, after archives::export;
    "knowledge.archive.key" write HUMANS TakeKey keys::take, after keys::unwrap;
    "governance.keys.show" read ANYBODY Read keys::show, after keys::read_master_keys;
    "governance.keys.rewrap" write HUMANS ManageKeys keys::rewrap, after keys::wrap_anew;
    "governance.personal.erase" write HUMANS ErasePersonal personal::erase;
    "governance.personal.show" read ANYBODY Read personal::show;
    "governance.ledger.check" read ANYBODY Read ledger::check, after ledger::marks;
    "governance.ledger.backup" read ANYBODY Read archives::answer, after ledger::backup;
    "governance.ledger.reconcile" write HUMANS Recover ledger::reconcile, after ledger::probe_again;
    "governance.log.show" read ANYBODY Read log::show;
    "governance.log.seal" read ANYBODY Read log::sealed, after log::seal_now;
    "governance.log.export" read ANYBODY Read archives::answer, after log::write_export;
    "governance.log.retire_key" write HUMANS ManageKeys log::retire_key;
    "governance.log.adopt_key" write HUMANS ManageKeys log::adopt_key, after log::read_key;
    "governance.clock.confirm" write HUMANS Recover ledger::confirm_clock;
    "governance.audit.list" read ANYBODY Read audit::list;
    "governance.audit.verify" read ANYBODY Read audit::verify, after audit::compare_published;
    "governance.audit.prove" read ANYBODY Read prove::prove, after log::seal_first;
    "governance.audit.consistency" read ANYBODY Read prove::consistency, after log::seal_first;
    "governance.audit.bundle" read ANYBODY Read prove::bundle, after log::seal_first;
    "governance.audit.query" read ANYBODY Read query::query, after query::prepare;
    "governance.audit.approvals" read ANYBODY Read query::approvals, after query::prepare;
    "governance.audit.refusals" read ANYBODY Read query::refusals, after query::prepare;
    "governance.audit.about" read ANYBODY Read query::about, after query::prepare;
    "governance.audit.purges" read ANYBODY Read query::purges, after query::prepare;
    "governance.audit.export" read ANYBODY Read audit::export;
}

/// The operations, by name. Frozen: there is no way to add one.
pub struct Registry(std::collections::BTreeMap<&'static str, Operation>);

impl Registry {
    /// Builds the registry; the error names an operation that stands twice.
    pub fn freeze(operations: Vec<Operation>) -> Result<Self, String> {
        let mut registered = std::collections::BTreeMap::new();
        for operation in operations {
            let name = operation.name;
            if registered.insert(name, operation).is_some() {
                return Err(format!("register operations: {name} stands twice"));
            }
        }
        Ok(Self(registered))
    }

    /// The operation of this name.
    pub fn get(&self, name: &str) -> Option<&Operation> {
        self.0.get(name)
    }

    /// Every name, in order.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.0.keys().copied()
    }
}

/// Reads a call's arguments.
fn arguments<T: DeserializeOwned>(call: &Call) -> Result<T, Stop> {
    serde_json::from_value(call.arguments.clone())
        .map_err(|error| Refusal::new(Code::InvalidArgument, format!("read the arguments of {}: {error}", call.operation)).into())
}

/// Refuses callers who are confined to a tenant: what concerns everybody is for operators.
fn operator(call: &Call) -> Result<(), Stop> {
    match &call.tenant {
        None => Ok(()),
        Some(tenant) => {
            let message = format!("{} is for operators; this caller is confined to tenant {tenant}", call.operation);
            Err(Refusal::new(Code::NotAuthorised, message).into())
        }
    }
}

/// A text that must say something.
fn said(what: &str, text: &str) -> Result<(), Stop> {
    if text.trim().is_empty() {
        return Err(Refusal::new(Code::InvalidArgument, format!("{what} is empty")).into());
    }
    Ok(())
}

/// What a store or archive that was asked before a transaction said against it.
fn unusable(what: &str, error: PortError) -> Stop {
    refused_by_world(Code::StoreUnusable, what, &error)
}

/// What a store said against a mapping; if it did not answer, that is no fault of the mapping.
fn unmapped(what: &str, error: PortError) -> Stop {
    let code = if matches!(error, PortError::Transient(_)) { Code::StoreUnusable } else { Code::MappingWrong };
    refused_by_world(code, what, &error)
}

fn refused_by_world(code: Code, what: &str, error: &PortError) -> Stop {
    Refusal::new(code, format!("{what}: {error}")).with(json!({"retryable": matches!(error, PortError::Transient(_))})).into()
}
