//! Where instants and randomness come from. Nothing else in Lethe reads the time or draws a random number.

use chrono::{DateTime, Utc};

/// The source of instants, in UTC.
pub trait Clock: Send + Sync + 'static {
    /// Now.
    fn now(&self) -> DateTime<Utc>;
}

/// The source of randomness: ids, salts, secrets and jitter.
pub trait Entropy: Send + Sync + 'static {
    /// Fills `bytes` with unpredictable bytes; in tests, with repeatable ones.
    fn fill(&self, bytes: &mut [u8]);
}
