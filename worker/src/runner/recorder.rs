//! The recorder: collects finished runs for at most a few milliseconds and records them in one transaction.
//!
//! The rule: idle, it waits for nobody; under load, one commit serves many. A run's slot is free only after its record is committed.

use std::{sync::Arc, time::Duration};

use tokio::sync::{mpsc, oneshot};

use crate::{manager::Finished, operations::App};

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

impl Recorder {
    pub(super) fn start(app: Arc<App>, worker: String) -> Self {
        let (sender, receiver) = mpsc::unbounded_channel();
        tokio::spawn(collect(app, worker, receiver));
        Self(sender)
    }

    /// Returns once the run is on record (or was refused as late).
    pub(super) async fn record(&self, finished: Finished) {
        let (recorded, done) = oneshot::channel();
        if self.0.send(Waiting { finished, recorded }).is_ok() {
            let _ = done.await;
        }
    }
}

async fn collect(app: Arc<App>, worker: String, mut receiver: mpsc::UnboundedReceiver<Waiting>) {
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
        while let Err(fault) = app.manager.record(&finished, &worker).await {
            // Nothing is lost: the same answers are recorded when the ledger is back, if they still hold then.
            tracing::warn!(error = &fault as &dyn std::error::Error, runs = finished.len(), "record: waiting for the ledger");
            tokio::time::sleep(Duration::from_secs(1)).await;
            if !fault.is_passing() {
                break;
            }
        }
        for recorded in recorded {
            let _ = recorded.send(());
        }
    }
}
