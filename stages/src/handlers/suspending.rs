//! Suspending and giving back what outside depends on a plane, for the stages that do so.
//!
//! The rule: a dependent is asked for its state, that is written down, and only then it is told to stop; one that does not run is left
//! alone. Given back is only what is written down. If we die between two of these, what is written down stands and the rest is done again.

use crate::{
    contract::{StageContext, StageError},
    crash::{CrashPoint, reached},
    lifecycle::FenceMode,
    ports::{BoundDependent, BoundStore},
    suspension::{Dependent, DependentKind, Restoration, Suspension, SuspensionKind, Tried},
};

fn control<'d>(dependent: &'d BoundDependent, doing: &str) -> Result<&'d dyn Dependent, StageError> {
    dependent.control.as_deref().map_err(|error| StageError::port(doing, error.clone()))
}

/// The dependents of the wanted kinds that are to be told to stop: those that were written down before, and those that run now, which are
/// added to `noted`.
pub(super) async fn running<'c>(
    context: &'c StageContext,
    wanted: impl Fn(DependentKind) -> bool + Send,
    noted: &mut Vec<Suspension>,
    failures: &mut Vec<StageError>,
) -> Vec<&'c BoundDependent> {
    let mut running = Vec::new();
    for dependent in context.dependents.iter().filter(|dependent| dependent.registered && wanted(dependent.kind)) {
        let id = dependent.id.to_string();
        if context.suspensions.iter().any(|known| known.kind == SuspensionKind::Dependent && known.what == id) {
            running.push(dependent);
            continue;
        }
        match state(dependent).await {
            Ok((state, true)) => {
                noted.push(Suspension::of_dependent(dependent.id, &state));
                running.push(dependent);
            }
            Ok((_, false)) => {}
            Err(error) => failures.push(error),
        }
    }
    running
}

async fn state(dependent: &BoundDependent) -> Result<(String, bool), StageError> {
    let doing = format!("ask {} for its state", dependent.name);
    let control = control(dependent, &doing)?;
    let state = control.state().await.map_err(|error| StageError::port(&doing, error))?;
    let is_running = control.is_running(&state);
    Ok((state, is_running))
}

/// Writes down what is about to be suspended; with nothing new to write, it still makes sure that the run is ours before anybody is told
/// to stop: a dependent, unlike a store, may not know an older epoch.
pub(super) async fn keep(context: &StageContext, noted: &[Suspension], running: &[&BoundDependent]) -> Result<(), StageError> {
    if noted.is_empty() && running.is_empty() {
        return Ok(());
    }
    context.log.keep(noted).await.map_err(|error| StageError::port("write down what is suspended", error))
}

/// Tells them to stop, whatever one of them says.
pub(super) async fn suspend(running: &[&BoundDependent], failures: &mut Vec<StageError>) -> usize {
    let mut suspended = 0;
    for dependent in running {
        let doing = format!("suspend {}", dependent.name);
        let told = match control(dependent, &doing) {
            Ok(control) => control.suspend().await.map_err(|error| StageError::port(&doing, error)),
            Err(error) => Err(error),
        };
        match told {
            Ok(()) => suspended += 1,
            Err(error) => failures.push(error),
        }
        reached(CrashPoint::DeregisterSuspended);
    }
    suspended
}

/// Gives back whatever was suspended and is not given back yet, stores before those that use them. Answers what was tried, and the
/// failures that nobody has accepted.
pub(super) async fn give_back(context: &StageContext) -> Result<(Vec<Tried>, Vec<StageError>), StageError> {
    let (mut tried, mut failures) = (Vec::new(), Vec::new());
    let open = |suspension: &&Suspension| !matches!(suspension.outcome, Some(Restoration::Restored | Restoration::LeftAlone));
    let mut order: Vec<_> = context.suspensions.iter().filter(open).collect();
    order.sort_by_key(|suspension| suspension.kind);
    for suspension in order {
        let given_back = match suspension.kind {
            SuspensionKind::Fence => open_store(context, suspension).await,
            SuspensionKind::Dependent => let_go_on(context, suspension).await,
            // In the ledger itself, where the cancel gave them back.
            SuspensionKind::Token => continue,
        };
        let (outcome, note) = match given_back {
            Ok(()) => (Restoration::Restored, None),
            // Not ours any more: it says nothing about the thing.
            Err(error) if error.code() == "STALE_EPOCH" => return Err(error),
            Err(error) => {
                let note = error.trouble().message.clone();
                if !suspension.accepted {
                    failures.push(error);
                }
                (Restoration::NotRestored, Some(note))
            }
        };
        tried.push(Tried { kind: suspension.kind, what: suspension.what.clone(), outcome, note });
    }
    Ok((tried, failures))
}

async fn open_store(context: &StageContext, suspension: &Suspension) -> Result<(), StageError> {
    let binding = suspension.binding().and_then(|binding| Some((binding, context.stores.get(binding)?)));
    let Some((binding, bound)) = binding else {
        return Err(StageError::halt("UNUSABLE", format!("lift fence {}: the plane has no such binding", suspension.what)));
    };
    let opened = open(context, bound, suspension.mode()).await.map_err(|error| error.of_store(binding));
    reached(CrashPoint::RestoreUnfenced);
    opened
}

async fn open(context: &StageContext, bound: &BoundStore, before: Option<FenceMode>) -> Result<(), StageError> {
    let doing = format!("lift the fence from {} in store {}", bound.resource, bound.name);
    let opened = match before {
        None => bound.store.unfence(context.run.epoch).await,
        Some(mode) => bound.store.refence(mode, context.run.epoch).await,
    };
    opened.map_err(|error| StageError::port(&doing, error))
}

async fn let_go_on(context: &StageContext, suspension: &Suspension) -> Result<(), StageError> {
    let Some(dependent) = context.dependents.iter().find(|dependent| dependent.id.to_string() == suspension.what) else {
        return Err(StageError::halt("UNUSABLE", format!("resume dependent {}: it is not in the register", suspension.what)));
    };
    let (now, _) = state(dependent).await?;
    if now == suspension.state() {
        return Ok(());
    }
    let doing = format!("resume {}", dependent.name);
    // That the run is ours: it may have been taken from us long ago, and the dependent be suspended anew.
    context.log.keep(&[]).await.map_err(|error| StageError::port(&doing, error))?;
    control(dependent, &doing)?.resume().await.map_err(|error| StageError::port(&doing, error))?;
    reached(CrashPoint::RestoreResumed);
    let (now, _) = state(dependent).await?;
    if now == suspension.state() {
        return Ok(());
    }
    // It may still be starting.
    Err(StageError::transient("NOT_AS_BEFORE", format!("{doing}: it says `{now}`, and said `{}` before", suspension.state())))
}
