//! A ledger that is away: said once when it goes and once when it is back, however many wait for it.
//!
//! The rule: whoever is answered with a passing fault says so here and waits as long as this says, a little longer each time. Nothing is
//! given up meanwhile: what was performed is recorded when the ledger is back, if it still holds then.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use lethe_ledger::Fault;
use tokio::time::Instant;

/// The longest wait between two attempts.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// Since when the ledger has been away, as far as this process knows.
#[derive(Default)]
pub(super) struct Outage(Mutex<Option<Instant>>);

impl Outage {
    /// The ledger did not answer. Answers how long to wait before it is asked again.
    pub(super) fn away(&self, doing: &'static str, fault: &Fault) -> Duration {
        let mut since = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if since.is_none() {
            tracing::warn!(error = fault as &dyn std::error::Error, doing, "the ledger is away: waiting for it");
        }
        let away = since.get_or_insert_with(Instant::now).elapsed();
        (away / 4).clamp(Duration::from_millis(100), PAUSE_MAX)
    }

    /// The ledger answered.
    pub(super) fn back(&self) {
        if let Some(since) = self.0.lock().unwrap_or_else(PoisonError::into_inner).take() {
            tracing::info!(away_ms = since.elapsed().as_millis() as u64, "the ledger is back");
        }
    }
}
