//! What this process has claimed and not yet recorded.

use std::{
    collections::HashMap,
    future::Future,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::sync::{Notify, oneshot};
use uuid::Uuid;

use crate::manager::Claimed;

struct Entry {
    claimed: Claimed,
    /// Set once its handler has started.
    cancel: Option<oneshot::Sender<()>>,
}

/// A claim: the run and the epoch.
type Key = (Uuid, i64);

/// The claims in flight, at most one per slot. By claim and not by run: the same run may be ours again while an earlier claim of it ends.
pub(super) struct InFlight {
    slots: usize,
    runs: Mutex<HashMap<Key, Entry>>,
    /// Set once we stop: nothing is taken up any more.
    closed: AtomicBool,
    changed: Notify,
}

impl InFlight {
    pub(super) fn new(slots: usize) -> Self {
        Self { slots, runs: Mutex::new(HashMap::new()), closed: AtomicBool::new(false), changed: Notify::new() }
    }

    fn runs(&self) -> MutexGuard<'_, HashMap<Key, Entry>> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn free(&self) -> usize {
        self.slots.saturating_sub(self.runs().len())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.runs().is_empty()
    }

    pub(super) fn insert(&self, claimed: Claimed) {
        self.runs().insert(claimed.key(), Entry { claimed, cancel: None });
    }

    /// How many of these runs still take a slot, which can be filled again when they end; none once we stop.
    pub(super) fn fillable(&self, ending: impl Iterator<Item = Key>) -> usize {
        let runs = self.runs();
        if self.closed.load(Ordering::SeqCst) { 0 } else { ending.filter(|run| runs.contains_key(run)).count() }
    }

    /// Ends runs and puts others into their slots at once. Answers those others if we have stopped meanwhile.
    pub(super) fn exchange(&self, ended: impl Iterator<Item = Key>, claimed: Vec<Claimed>) -> Vec<Claimed> {
        let mut runs = self.runs();
        ended.for_each(|run| drop(runs.remove(&run)));
        let closed = self.closed.load(Ordering::SeqCst);
        if !closed {
            runs.extend(claimed.iter().map(|claimed| (claimed.key(), Entry { claimed: claimed.clone(), cancel: None })));
        }
        let free = runs.len() < self.slots;
        drop(runs);
        if free {
            self.changed();
        }
        if closed { claimed } else { Vec::new() }
    }

    /// Marks a run's handler as started; the future ends when it must stop. `None` if the run is not ours any more.
    pub(super) fn start(&self, run: Key) -> Option<impl Future<Output = ()> + use<>> {
        let (cancel, cancelled) = oneshot::channel();
        self.runs().get_mut(&run)?.cancel = Some(cancel);
        Some(async move {
            // A dropped sender is an ordinary end, not a cancellation.
            if cancelled.await.is_err() {
                std::future::pending::<()>().await;
            }
        })
    }

    pub(super) fn end(&self, run: Key) {
        self.runs().remove(&run);
        self.changed();
    }

    /// Stops a run's handler, if it has one, and forgets the run.
    pub(super) fn cancel(&self, run: Key) {
        if let Some(cancel) = self.runs().remove(&run).and_then(|entry| entry.cancel) {
            let _ = cancel.send(());
        }
        self.changed();
    }

    /// Every run with the epoch of its claim.
    pub(super) fn held(&self) -> Vec<Key> {
        self.runs().keys().copied().collect()
    }

    /// Takes up nothing any more, and takes out the runs whose handler has not started; it will not start any more.
    pub(super) fn close(&self) -> Vec<Claimed> {
        let mut runs = self.runs();
        self.closed.store(true, Ordering::SeqCst);
        runs.extract_if(|_, entry| entry.cancel.is_none()).map(|(_, entry)| entry.claimed).collect()
    }

    /// Stops every handler and takes all runs out.
    pub(super) fn cancel_all(&self) -> Vec<Claimed> {
        let entries: Vec<_> = self.runs().drain().map(|(_, entry)| entry).collect();
        entries
            .into_iter()
            .map(|entry| {
                if let Some(cancel) = entry.cancel {
                    let _ = cancel.send(());
                }
                entry.claimed
            })
            .collect()
    }

    /// Something may have become due or free.
    pub(super) fn changed(&self) {
        self.changed.notify_waiters();
    }

    /// Ends at the next [`Self::changed`] after this call, even if it is awaited later.
    pub(super) fn next_change(&self) -> impl Future<Output = ()> + '_ {
        let mut notified = Box::pin(self.changed.notified());
        notified.as_mut().enable();
        notified
    }
}
