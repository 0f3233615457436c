//! The only places that read the time and draw random numbers.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicI64, AtomicU64, Ordering},
};

use chrono::{DateTime, TimeDelta, Utc};
use lethe_ledger::{Clock, Entropy, SinceBoot};

/// The machine's clock.
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the injected clock")]
    fn now(&self) -> DateTime<Utc> {
        Utc::now()
    }
}

/// A clock that stands still until it is moved.
#[derive(Clone)]
pub struct ManualClock {
    at: Arc<AtomicI64>,
    elapsed: Arc<AtomicI64>,
}

impl ManualClock {
    /// A clock that stands at `at`.
    pub fn at(at: DateTime<Utc>) -> Self {
        Self { at: Arc::new(AtomicI64::new(at.timestamp_micros())), elapsed: Arc::default() }
    }

    /// Lets time pass.
    pub fn advance(&self, by: TimeDelta) {
        self.jump(by);
        self.elapsed.fetch_add(by.num_microseconds().unwrap_or(0), Ordering::SeqCst);
    }

    /// Sets the clock on (or back) without any time passing.
    pub fn jump(&self, by: TimeDelta) {
        self.at.fetch_add(by.num_microseconds().unwrap_or(0), Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> DateTime<Utc> {
        DateTime::from_timestamp_micros(self.at.load(Ordering::SeqCst)).unwrap_or_default()
    }

    #[cfg(feature = "testing")]
    fn is_injected(&self) -> bool {
        true
    }

    fn since_boot(&self) -> SinceBoot {
        SinceBoot { boot: "manual".into(), elapsed: TimeDelta::microseconds(self.elapsed.load(Ordering::SeqCst)) }
    }
}

/// For tests with real processes: the machine's clock plus what a file holds, in seconds: time that has passed, and a jump.
#[cfg(feature = "testing")]
pub struct FileClock(pub std::path::PathBuf);

#[cfg(feature = "testing")]
impl FileClock {
    fn offsets(&self) -> (TimeDelta, TimeDelta) {
        let text = std::fs::read_to_string(&self.0).unwrap_or_default();
        let mut numbers = text.split_whitespace().map(|word| TimeDelta::seconds(word.parse().unwrap_or(0)));
        (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default())
    }
}

#[cfg(feature = "testing")]
impl Clock for FileClock {
    fn now(&self) -> DateTime<Utc> {
        let (passed, jump) = self.offsets();
        SystemClock.now() + passed + jump
    }

    fn is_injected(&self) -> bool {
        true
    }

    fn since_boot(&self) -> SinceBoot {
        let SinceBoot { boot, elapsed } = SystemClock.since_boot();
        SinceBoot { boot, elapsed: elapsed + self.offsets().0 }
    }
}

/// The operating system's randomness.
pub struct SystemEntropy;

impl Entropy for SystemEntropy {
    #[expect(clippy::disallowed_methods, reason = "this is the injected source")]
    fn fill(&self, bytes: &mut [u8]) {
        getrandom::fill(bytes).expect("the operating system gives random bytes");
    }
}

/// The same bytes in the same order for the same seed; for tests and golden files.
pub struct SeededEntropy {
    seed: u64,
    drawn: AtomicU64,
    order: Mutex<()>,
}

impl SeededEntropy {
    /// A source that repeats itself for the same seed.
    pub fn new(seed: u64) -> Self {
        Self { seed, drawn: AtomicU64::new(0), order: Mutex::new(()) }
    }
}

impl Entropy for SeededEntropy {
    fn fill(&self, bytes: &mut [u8]) {
        use sha2::{Digest, Sha256};
        let _order = self.order.lock();
        for block in bytes.chunks_mut(32) {
            let drawn = self.drawn.fetch_add(1, Ordering::SeqCst);
            let digest = Sha256::digest([self.seed.to_be_bytes(), drawn.to_be_bytes()].concat());
            block.copy_from_slice(&digest[..block.len()]);
        }
    }
}
