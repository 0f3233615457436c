//! Consequences: what may be lost. They run after a commit, each isolated, and can change nothing.
//!
//! The rule: they accept only [`Committed`]; a failure in one is logged and breaks neither the call nor its neighbours.

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Mutex,
};

use lethe_ledger::Committed;

use crate::operations::{Answer, DispatchRecord};

/// Something that is done after a commit.
pub trait Consequence: Send + Sync {
    /// Its name; two of one name are refused.
    fn name(&self) -> &'static str;
    /// Does it.
    fn run(&self, record: &DispatchRecord);
}

/// The consequences, frozen.
#[derive(Default)]
pub struct Consequences(Vec<Box<dyn Consequence>>);

impl Consequences {
    /// Freezes the pipeline; the error names a consequence that stands twice.
    pub fn freeze(adapters: Vec<Box<dyn Consequence>>) -> Result<Self, String> {
        for (index, adapter) in adapters.iter().enumerate() {
            if adapters[..index].iter().any(|before| before.name() == adapter.name()) {
                return Err(format!("register consequences: {} stands twice", adapter.name()));
            }
        }
        Ok(Self(adapters))
    }

    /// The log and the counters.
    pub fn standard() -> Self {
        Self::freeze(vec![Box::new(Log), Box::new(Counters::default())]).expect("two names")
    }

    /// Runs every consequence of a committed call.
    pub fn run(&self, _committed: &Committed<Answer>, record: &DispatchRecord) {
        for adapter in &self.0 {
            if catch_unwind(AssertUnwindSafe(|| adapter.run(record))).is_err() {
                tracing::error!(
                    consequence = adapter.name(),
                    operation = record.operation,
                    "a consequence panicked; the call stands"
                );
            }
        }
    }
}

/// One line per committed call.
struct Log;

impl Consequence for Log {
    fn name(&self) -> &'static str {
        "log"
    }
    fn run(&self, record: &DispatchRecord) {
        tracing::debug!(operation = record.operation, outcome = record.outcome, code = ?record.code, ms = record.duration_ms, "dispatched");
    }
}

/// Calls by operation and outcome.
#[derive(Default)]
pub struct Counters(Mutex<BTreeMap<(String, &'static str), u64>>);

impl Counters {
    /// The counts so far.
    pub fn counts(&self) -> BTreeMap<(String, &'static str), u64> {
        self.0.lock().map(|counts| counts.clone()).unwrap_or_default()
    }
}

impl Consequence for Counters {
    fn name(&self) -> &'static str {
        "counters"
    }
    fn run(&self, record: &DispatchRecord) {
        if let Ok(mut counts) = self.0.lock() {
            *counts.entry((record.operation.clone(), record.outcome)).or_default() += 1;
        }
    }
}
