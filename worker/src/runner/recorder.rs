//! The recorder: collects finished runs for at most a few milliseconds, records them in one transaction, and has that transaction claim
//! what is due for the slots that become free.
//!
//! The rule: idle, it waits for nobody; under load, one commit serves many. A run's slot is free only after its record is committed.
//! If we die after that commit, the sweep takes back what it claimed.

use std::{sync::Arc, time::Duration};

use lethe_ledger::Fault;
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use super::{in_flight::InFlight, outage::Outage};
use crate::{
    manager::{Claimed, Finished, Turn},
    operations::App,
};

/// How long a finished run waits for company, once there is some.
const WINDOW: Duration = Duration::from_millis(2);
/// Runs in one transaction.
const BATCH_MAX: usize = 200;

struct Waiting {
    finished: Finished,
    recorded: oneshot::Sender<()>,
}

/// The way to the recorder's task.
pub(super) struct Recorder(mpsc::UnboundedSender<Waiting>);

/// What the recorder's task works with.
pub(super) struct Recording {
    pub(super) app: Arc<App>,
    pub(super) worker: String,
    /// Only this plane's runs are claimed.
    pub(super) plane: Option<Uuid>,
    pub(super) in_flight: Arc<InFlight>,
    pub(super) to_apalis: mpsc::Sender<Claimed>,
    pub(super) outage: Arc<Outage>,
}

impl Recorder {
    pub(super) fn start(recording: Recording) -> Self {
        let (sender, receiver) = mpsc::unbounded_channel();
        tokio::spawn(recording.collect(receiver));
        Self(sender)
    }

    /// Returns once the run is on record (or was refused as late) and its slot is free or filled again. `false`: there is no recorder.
    pub(super) async fn record(&self, finished: Finished) -> bool {
        let (recorded, done) = oneshot::channel();
        self.0.send(Waiting { finished, recorded }).is_ok() && done.await.is_ok()
    }
}

impl Recording {
    async fn collect(self, mut receiver: mpsc::UnboundedReceiver<Waiting>) {
        while let Some(first) = receiver.recv().await {
            let mut waiting = vec![first];
            while let Ok(next) = receiver.try_recv() {
                waiting.push(next);
            }
            // Company has come: more may be on its way.
            if waiting.len() > 1 {
                let window = tokio::time::sleep(WINDOW);
                tokio::pin!(window);
                while waiting.len() < BATCH_MAX {
                    tokio::select! {
                        next = receiver.recv() => match next { Some(next) => waiting.push(next), None => break },
                        () = &mut window => break,
                    }
                }
            }
            let (finished, recorded): (Vec<_>, Vec<_>) =
                waiting.into_iter().map(|waiting| (waiting.finished, waiting.recorded)).unzip();
            self.record(&finished).await;
            for recorded in recorded {
                let _ = recorded.send(());
            }
        }
    }

    async fn record(&self, finished: &[Finished]) {
        let ended = || finished.iter().map(Finished::key);
        let claimed = self.turn(finished, self.in_flight.fillable(ended())).await.claimed;
        let late = self.in_flight.exchange(ended(), claimed.clone());
        if late.is_empty() {
            for claimed in claimed {
                // The channel holds as many as there are slots, so this hardly waits.
                let _ = self.to_apalis.send(claimed).await;
            }
        } else if let Err(fault) = self.app.manager.give_back(&late, &self.worker).await {
            tracing::warn!(error = &fault as &dyn std::error::Error, "give runs back: their leases will run out instead");
        }
    }

    /// Records, and claims for the slots that become free. Nothing is lost while the ledger is away: the same answers are recorded when
    /// it is back, if they still hold then.
    async fn turn(&self, finished: &[Finished], mut slots: usize) -> Turn {
        loop {
            let fault: Fault = match self.app.manager.turn(finished, slots, &self.worker, self.plane).await {
                Ok(turn) => {
                    self.outage.back();
                    return turn;
                }
                Err(fault) => fault,
            };
            if fault.is_conflict() {
                continue;
            }
            if fault.is_passing() {
                tokio::time::sleep(self.outage.away("record", &fault)).await;
                continue;
            }
            tracing::warn!(error = &fault as &dyn std::error::Error, runs = finished.len(), "record");
            if slots > 0 {
                // What cannot be claimed must not keep what was done from being recorded; the claimer will meet it and say so.
                slots = 0;
            } else {
                return Turn::default();
            }
        }
    }
}
