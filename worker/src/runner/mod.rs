//! The runner: claims what is due, has apalis execute it, renews leases, records in batches, rings the sweeps.
//!
//! The rule: never more claimed than there are free slots; every lease that is claimed and not yet recorded is renewed; what has not
//! started when we stop is given back. If the process dies, its lock file is free and the next sweep takes its runs back.

mod backend;
mod in_flight;
mod outage;
mod recorder;

use std::{sync::Arc, time::Duration};

use apalis::prelude::{Data, Monitor, MonitorContext, WorkerBuilder};
use apalis_core::worker::ext::parallelize::ParallelizeExt;
use apalis_cron::{CronScheduler, Schedule, Tick};
use chrono::TimeDelta;
use lethe_ledger::{Clock, Fault, Tx};
use tokio::sync::{mpsc, watch};
use uuid::Uuid;

use self::{
    backend::LedgerBackend,
    in_flight::InFlight,
    outage::Outage,
    recorder::{Recorder, Recording},
};
use crate::{
    clock::SystemClock,
    manager::{Claimed, WorkerLock},
    operations::App,
};

/// How long to wait at first where something is due and cannot be claimed.
const PATIENCE_MIN: Duration = Duration::from_millis(5);

/// What a runner is to do.
pub struct RunOptions {
    /// Only this plane's runs.
    pub plane: Option<Uuid>,
    /// End when nothing is due and nothing runs; otherwise only `stop` ends it.
    pub until_idle: bool,
    /// Turns true when the runner is to stop.
    pub stop: watch::Receiver<bool>,
    /// What it does.
    pub roles: Roles,
}

/// What a process does; several may share the work differently.
#[derive(Debug, Clone, Copy)]
pub struct Roles {
    /// It claims and performs runs.
    pub worker: bool,
    /// It sweeps.
    pub sweeper: bool,
}

impl Roles {
    /// Everything.
    pub const ALL: Self = Self { worker: true, sweeper: true };
}

/// What a runner needs while it runs.
struct Shared {
    app: Arc<App>,
    worker: String,
    in_flight: Arc<InFlight>,
    outage: Arc<Outage>,
    recorder: Recorder,
}

/// A runner that could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The ledger failed and waiting does not help.
    #[error(transparent)]
    Fault(#[from] Fault),
    /// The worker's lock file.
    #[error("lock the worker's file beside the ledger")]
    Lock(#[source] std::io::Error),
    /// The execution shell.
    #[error("run the apalis monitor: {0}")]
    Shell(String),
}

/// Runs until idle or stopped.
pub async fn run(app: Arc<App>, mut options: RunOptions) -> Result<(), RunError> {
    let lock = WorkerLock::acquire(&app.ledger).map_err(RunError::Lock)?;
    let slots = app.config.queue.concurrency;
    // Recovery is the normal path: whatever a dead predecessor held is due again before the first claim.
    let outage = Arc::new(Outage::default());
    if options.roles.sweeper {
        patiently(&mut options.stop, &outage, async || app.manager.sweep_ledger().await.map(|_| ())).await?;
    } else {
        patiently(&mut options.stop, &outage, async || app.manager.reload_policies().await.map(|_| ())).await?;
    }

    let (to_apalis, from_claimer) = mpsc::channel(slots);
    let in_flight = Arc::new(InFlight::new(slots));
    let recorder = Recorder::start(Recording {
        app: app.clone(),
        worker: lock.id().to_owned(),
        plane: options.plane,
        in_flight: in_flight.clone(),
        to_apalis: to_apalis.clone(),
        outage: outage.clone(),
    });
    let shared = Arc::new(Shared { app: app.clone(), worker: lock.id().to_owned(), in_flight, outage, recorder });
    // Where the log stood still it may go on now, and with it what waits for that.
    let look = app.ledger.read(async |tx: &mut Tx| tx.log().await);
    if options.roles.sweeper && look.await.is_ok_and(|log| log.stopped_since.is_some()) {
        log_once(&shared).await;
    }
    let monitor = monitor(&shared, from_claimer, options.roles, options.plane.is_none());
    let shell = monitor.context();
    let shell_task = tokio::spawn(monitor.run());
    let renewer = tokio::spawn(renew(shared.clone()));
    let listener = tokio::spawn(listen(shared.clone()));
    let log = options.roles.sweeper.then(|| tokio::spawn(keep_log(shared.clone())));

    tracing::info!(worker = shared.worker, slots, "started");
    let claimed = claim(&shared, &mut options, to_apalis).await;
    stop(&shared, &shell).await;
    renewer.abort();
    listener.abort();
    let ended = shell_task.await.map_err(|error| RunError::Shell(error.to_string()))?;
    if let Some(log) = log {
        log.abort();
        // What the last runs wrote.
        log_once(&shared).await;
    }
    tracing::info!(worker = shared.worker, "stopped");
    claimed?;
    ended.map_err(|error| RunError::Shell(error.to_string()))
}

fn monitor(shared: &Arc<Shared>, from_claimer: mpsc::Receiver<Claimed>, roles: Roles, every_plane: bool) -> Monitor {
    let backend = LedgerBackend::new(from_claimer);
    let (stages, sweeps) = (shared.clone(), shared.clone());
    let every = shared.app.config.sweep.every.0;
    let monitor = Monitor::new().register(move |restarts| {
        WorkerBuilder::new(format!("{}-stages-{restarts}", stages.worker))
            .backend(backend.clone())
            .data(stages.clone())
            .parallelize(tokio::spawn)
            .build(execute)
    });
    let monitor = if roles.worker && every_plane {
        let probes = shared.clone();
        monitor.register(move |restarts| {
            WorkerBuilder::new(format!("{}-probes-{restarts}", probes.worker))
                .backend(CronScheduler::new(Every(every)))
                .data(probes.clone())
                .build(probe)
        })
    } else {
        monitor
    };
    if !roles.sweeper {
        return monitor.register(move |restarts| {
            WorkerBuilder::new(format!("{}-policies-{restarts}", sweeps.worker))
                .backend(CronScheduler::new(Every(every)))
                .data(sweeps.clone())
                .build(reload)
        });
    }
    let notices = shared.clone();
    let monitor = monitor.register(move |restarts| {
        WorkerBuilder::new(format!("{}-notices-{restarts}", notices.worker))
            .backend(CronScheduler::new(Every(every)))
            .data(notices.clone())
            .build(tell)
    });
    monitor.register(move |restarts| {
        WorkerBuilder::new(format!("{}-sweep-{restarts}", sweeps.worker))
            .backend(CronScheduler::new(Every(every)))
            .data(sweeps.clone())
            .build(sweep)
    })
}

/// Rings at a fixed distance. Only when a sweep rings comes from the machine's clock; what it decides comes from the ledger's.
#[derive(Debug, Clone)]
struct Every(TimeDelta);

impl Schedule<apalis_cron::timezone::Utc> for Every {
    fn next_tick(&mut self, _: &apalis_cron::timezone::Utc) -> Option<Tick> {
        Some(Tick::new((SystemClock.now() + self.0).timestamp().max(0) as u64))
    }
}

async fn sweep(_tick: Tick, shared: Data<Arc<Shared>>) {
    match shared.app.manager.sweep_ledger().await {
        Ok(report) if report != Default::default() => tracing::info!(?report, "swept"),
        Ok(_) => {}
        Err(fault) if fault.is_passing() => drop(shared.outage.away("sweep", &fault)),
        Err(fault) => tracing::warn!(error = &fault as &dyn std::error::Error, "sweep"),
    }
    // Not part of what a start waits for: the ledger's file is rewritten after it.
    match shared.app.manager.erase_due().await {
        Ok(0) => {}
        Ok(tenants) => tracing::info!(tenants, "erased personal values that had been kept for long enough"),
        Err(fault) if fault.is_passing() => drop(shared.outage.away("erase personal values", &fault)),
        Err(fault) => tracing::warn!(error = &fault as &dyn std::error::Error, "erase personal values"),
    }
    shared.in_flight.changed();
}

/// Purged planes are asked after, one probe at a time; what one process does not get to, another one may.
async fn probe(_tick: Tick, shared: Data<Arc<Shared>>) {
    match shared.app.manager.probe_due(&shared.worker, None).await {
        Ok(report) if report != Default::default() => tracing::info!(?report, "probed"),
        Ok(_) => {}
        Err(fault) if fault.is_passing() => drop(shared.outage.away("probe", &fault)),
        Err(fault) => tracing::warn!(error = &fault as &dyn std::error::Error, "probe"),
    }
}

/// Seals what was written meanwhile and publishes it, several times a second; the place may be slow, so nothing else waits for it.
async fn keep_log(shared: Arc<Shared>) {
    let every = shared.app.config.log.every.0.to_std().unwrap_or(Duration::from_secs(1)).max(Duration::from_millis(10));
    loop {
        // From one beginning to the next: what is written meanwhile does not wait for the time that this look takes.
        let next = tokio::time::Instant::now() + every;
        log_once(&shared).await;
        tokio::time::sleep_until(next).await;
    }
}

/// Seals, issues what the sealed purges are owed, and seals that.
async fn log_once(shared: &Shared) {
    keep_log_once(shared).await;
    match shared.app.manager.certify().await {
        Ok(0) => {}
        Ok(issued) => {
            tracing::info!(issued, "issued certificates of erasure");
            keep_log_once(shared).await;
        }
        Err(fault) if fault.is_passing() => drop(shared.outage.away("issue certificates", &fault)),
        Err(fault) => tracing::warn!(error = &fault as &dyn std::error::Error, "issue certificates"),
    }
}

async fn keep_log_once(shared: &Shared) {
    match shared.app.manager.keep_log().await {
        Ok(report) if report.sealed + report.published > 0 => {
            tracing::debug!(sealed = report.sealed, published = report.published, "logged");
        }
        Ok(_) => {}
        Err(fault) if fault.is_passing() => drop(shared.outage.away("keep the log", &fault)),
        Err(fault) => tracing::warn!(error = &fault as &dyn std::error::Error, "keep the log"),
    }
}

/// Whoever is told may be slow: nothing else waits for it.
async fn tell(_tick: Tick, shared: Data<Arc<Shared>>) {
    match shared.app.manager.deliver_notices(&shared.worker).await {
        Ok(told) if told != Default::default() => tracing::info!(?told, "told"),
        Ok(_) => {}
        Err(fault) if fault.is_passing() => drop(shared.outage.away("deliver notices", &fault)),
        Err(fault) => tracing::warn!(error = &fault as &dyn std::error::Error, "deliver notices"),
    }
}

/// Who does not sweep decides by policies all the same.
async fn reload(_tick: Tick, shared: Data<Arc<Shared>>) {
    match shared.app.manager.reload_policies().await {
        Ok(_) => {}
        Err(fault) if fault.is_passing() => drop(shared.outage.away("reload the policies", &fault)),
        Err(fault) => tracing::warn!(error = &fault as &dyn std::error::Error, "reload the policies"),
    }
    shared.in_flight.changed();
}

/// One claimed run, on a task of its own: perform and record. The recorder frees its slot.
async fn execute(claimed: Claimed, shared: Data<Arc<Shared>>) {
    let shared: Arc<Shared> = (*shared).clone();
    let (run, claim) = (claimed.case.run.id, claimed.key());
    // Given back, taken back or held since it was claimed: it does not start.
    let Some(cancelled) = shared.in_flight.start(claim) else { return };
    let step = claimed.case.run.step;
    tokio::select! {
        finished = shared.app.manager.perform(&claimed) => {
            if let Err(error) = &finished.result {
                tracing::warn!(%run, %step, plane = %claimed.case.plane.id, code = error.code(), %error, "a stage failed");
            }
            // The same run may be ours again already, so only the recorder says that it has ended.
            if !shared.recorder.record(finished).await {
                shared.in_flight.end(claim);
            }
            tracing::debug!(%run, %step, "recorded");
        }
        () = cancelled => tracing::warn!(%run, %step, "the run is no longer ours: its handler is stopped"),
    }
}

/// Claims as many runs as there are free slots, until idle or stopped.
async fn claim(shared: &Shared, options: &mut RunOptions, to_apalis: mpsc::Sender<Claimed>) -> Result<(), RunError> {
    let poll = shared.app.config.queue.poll.0.to_std().unwrap_or(Duration::from_secs(1));
    if !options.roles.worker {
        let _ = options.stop.wait_for(|stop| *stop).await;
    }
    // What is due and cannot be claimed (locked just now, beyond a limit, of another program's plan) is looked at again after a while,
    // a little longer each time.
    let mut patience = PATIENCE_MIN;
    while !*options.stop.borrow() {
        let change = shared.in_flight.next_change();
        let free = shared.in_flight.free();
        let mut away = None;
        if free > 0 {
            match shared.app.manager.claim(free, &shared.worker, options.plane).await {
                Ok((claimed, seen)) => {
                    shared.outage.back();
                    for one in claimed {
                        shared.in_flight.insert(one.clone());
                        // The channel holds as many as there are slots, so this does not wait.
                        let _ = to_apalis.send(one).await;
                    }
                    if seen > 0 {
                        patience = PATIENCE_MIN;
                        continue;
                    }
                    if options.until_idle && shared.in_flight.is_empty() {
                        // What is due of purged planes is part of what is due.
                        shared.app.manager.probe_due(&shared.worker, options.plane).await?;
                        return Ok(());
                    }
                }
                Err(fault) if fault.is_passing() => away = Some(shared.outage.away("claim", &fault)),
                Err(fault) => return Err(fault.into()),
            }
        }
        let pause = match away {
            Some(pause) => pause,
            // Whoever frees a slot says so.
            None if free == 0 => poll,
            None => match until_due(shared).await {
                Some(wait) if wait.is_zero() => {
                    patience = (patience * 2).min(poll);
                    patience
                }
                Some(wait) => wait.clamp(Duration::from_millis(1), poll),
                None => poll,
            },
        };
        tokio::select! {
            () = change => {}
            () = tokio::time::sleep(pause) => {}
            _ = options.stop.changed() => {}
        }
    }
    Ok(())
}

/// How long until the next run is due; nothing where one is due already, `None` where none will be or nobody can say.
async fn until_due(shared: &Shared) -> Option<Duration> {
    let wait = shared.app.ledger.read(async |tx: &mut Tx| Ok::<_, Fault>(tx.next_due().await?.map(|due| due - tx.at())));
    Some(wait.await.ok().flatten()?.to_std().unwrap_or(Duration::ZERO))
}

/// Has the claimer look when the ledger says that something is due. A hint only: what is lost is found by looking.
async fn listen(shared: Arc<Shared>) {
    loop {
        match shared.app.ledger.hints().await {
            Ok(None) => return,
            Ok(Some(mut hints)) => {
                while hints.next().await.is_ok() {
                    shared.in_flight.changed();
                }
            }
            Err(fault) => drop(shared.outage.away("listen", &fault)),
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Renews every lease that is claimed and not yet recorded; stops the handlers whose lease is lost.
async fn renew(shared: Arc<Shared>) {
    let lease = shared.app.config.queue.lease.0;
    // At a third of the lease, and at least every two seconds: a hold is noticed by this too.
    let every = (lease / 3).min(TimeDelta::seconds(2)).to_std().unwrap_or(Duration::from_secs(1));
    loop {
        tokio::time::sleep(every).await;
        let held = shared.in_flight.held();
        if held.is_empty() {
            continue;
        }
        let progress = |run| shared.app.manager.progress().of(run);
        let runs: Vec<_> = held.iter().map(|(run, epoch)| (*run, *epoch, progress(*run))).collect();
        let renewed = shared.app.ledger.transact(async |tx: &mut Tx| {
            let lease = lethe_ledger::Lease { owner: shared.worker.clone(), until: tx.at() + lease };
            tx.renew(&runs, &lease).await
        });
        match renewed.await {
            Ok(mine) => {
                let mine = mine.into_inner();
                // A run that was recorded meanwhile is not among `mine` either; cancelling it then finds nothing.
                held.iter().filter(|(run, _)| !mine.contains(run)).for_each(|claim| shared.in_flight.cancel(*claim));
            }
            Err(fault) if fault.is_passing() => drop(shared.outage.away("renew leases", &fault)),
            Err(fault) => tracing::warn!(error = &fault as &dyn std::error::Error, "renew leases"),
        }
    }
}

/// Gives back what has not started, lets what runs finish for a while, then gives back the rest.
async fn stop(shared: &Shared, shell: &MonitorContext) {
    let unstarted = shared.in_flight.close();
    give_back(shared, unstarted).await;
    let limit = shared.app.config.queue.shutdown.0.to_std().unwrap_or(Duration::from_secs(20));
    let finished = tokio::time::timeout(limit, async {
        loop {
            let change = shared.in_flight.next_change();
            if shared.in_flight.is_empty() {
                return;
            }
            change.await;
        }
    });
    if finished.await.is_err() {
        let running = shared.in_flight.cancel_all();
        give_back(shared, running).await;
    }
    let _ = shell.shutdown();
}

async fn give_back(shared: &Shared, claimed: Vec<Claimed>) {
    if let Err(fault) = shared.app.manager.give_back(&claimed, &shared.worker).await {
        tracing::warn!(error = &fault as &dyn std::error::Error, "give runs back: their leases will run out instead");
    }
}

/// Does `work`, waiting through passing faults.
async fn patiently(
    stop: &mut watch::Receiver<bool>,
    outage: &Outage,
    work: impl AsyncFn() -> Result<(), Fault>,
) -> Result<(), Fault> {
    loop {
        match work().await {
            Err(fault) if fault.is_passing() && !*stop.borrow() => {
                tokio::time::sleep(outage.away("sweep", &fault)).await;
            }
            done => {
                outage.back();
                return done;
            }
        }
    }
}
