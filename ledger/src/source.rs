//! Where instants and randomness come from. Nothing else in Lethe reads the time or draws a random number.

use chrono::{DateTime, TimeDelta, Utc};

/// How long the machine has been running, by a clock that nobody sets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SinceBoot {
    /// Which run of the machine.
    pub boot: String,
    /// How long it has lasted, time asleep included.
    pub elapsed: TimeDelta,
}

/// The source of instants, in UTC.
pub trait Clock: Send + Sync + 'static {
    /// Now.
    fn now(&self) -> DateTime<Utc>;

    /// Whether a test moves it, so that it rules on PostgreSQL too instead of the server's.
    #[cfg(feature = "testing")]
    fn is_injected(&self) -> bool {
        false
    }

    /// How long the machine has been running. What [`Self::now`] gains beyond it was not time that passed.
    fn since_boot(&self) -> SinceBoot {
        crate::witness::machine()
    }
}

/// The source of randomness: ids, salts, secrets and jitter.
pub trait Entropy: Send + Sync + 'static {
    /// Fills `bytes` with unpredictable bytes; in tests, with repeatable ones.
    fn fill(&self, bytes: &mut [u8]);
}
