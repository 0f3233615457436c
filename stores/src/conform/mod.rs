//! Conformance: whether a store keeps the promises that offboarding rests on, asked of a plane that nobody needs.
//!
//! The rule: every promise is tested by what the store does, not by what it says: counts against records, deletes against what is left,
//! fences against the store's own users. Only the scratch plane is written to, under permits minted like any other, but for what the
//! neighbour's users write; and what nobody could be asked is never said to be kept.
//! If we die in it, the scratch plane is half erased, and serves no further test.

mod bench;
mod erasing;
mod fencing;
mod reading;
mod users;
mod wire;

use lethe_stages::{Permit, Refusal, ports::PortError};
use serde::Serialize;
use serde_json::json;
use uuid::Uuid;

use self::bench::{Bench, NoBench};
pub use self::users::Users;
use crate::{Mapping, canonical_store_url, check_store};

/// Mints leave to destroy the scratch plane: its id, the epoch, the digest of what was exported of it.
pub type Mint<'a> = &'a (dyn Fn(Uuid, i64, String) -> Result<Permit, Refusal> + Sync);

/// Fewest records of a scratch plane: below, orders and cursors show nothing.
pub(crate) const RECORDS_MIN: usize = 20;

/// What is tested.
pub struct Conformance<'a> {
    /// The store.
    pub url: &'a str,
    /// The scratch plane.
    pub mapping: Mapping,
    /// A plane of the same resource that must not change, but for what its own users write.
    pub neighbour: Mapping,
    /// How many records the operator put into the scratch plane, where that is known.
    pub records: Option<u64>,
    /// The store's own users.
    pub users: Users,
    /// Ids that no plane has: the scratch plane's, its neighbour's, and somebody's who has no business there.
    pub ids: [Uuid; 3],
    /// Leave to destroy the scratch plane.
    pub mint: Mint<'a>,
}

/// What became of a promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kept {
    /// It was kept.
    Kept,
    /// It was not.
    Broken,
    /// It was not, and the store says so itself.
    Declared,
    /// Nobody was there to ask.
    NotAsked,
}

/// A promise, and what became of it.
#[derive(Debug, Clone, Serialize)]
pub struct Promise {
    /// What a store promises.
    pub promise: &'static str,
    /// What became of it.
    pub result: Kept,
    /// What was seen.
    pub said: String,
}

/// What was found out about a store.
#[derive(Debug, Clone, Serialize)]
pub struct Conformity {
    /// Its driver.
    pub kind: &'static str,
    /// The records of the scratch plane when it began.
    pub records: usize,
    /// How many promises are kept, broken, declared not to be kept, and were not asked.
    pub kept: usize,
    /// See `kept`.
    pub broken: usize,
    /// See `kept`.
    pub declared: usize,
    /// See `kept`.
    pub not_asked: usize,
    /// What the store says that its fence does not refuse.
    pub unfenced: Vec<String>,
    /// Each of them.
    pub promises: Vec<Promise>,
}

/// Tests a store. Erases the scratch plane and closes it for good.
///
/// # Errors
/// Where the store cannot be tested at all: it does not answer, is not the mapping's, or holds too few records.
pub async fn conform(asked: Conformance<'_>) -> Result<Conformity, PortError> {
    let checked = check_store(asked.url).await?;
    let known = asked.records;
    let url = canonical_store_url(asked.url)?;
    let mut bench = match Bench::begin(&url, asked).await {
        Ok(bench) => bench,
        Err(NoBench::Unusable(error)) => return Err(error),
        Err(NoBench::Broken(said)) => {
            let promise = Promise { promise: "its records can be read, in order", result: Kept::Broken, said };
            return Ok(Conformity::of(checked.kind, 0, Vec::new(), vec![promise]));
        }
    };
    let records = bench.now.len();
    macro_rules! promise {
        ($promise:literal, $asked:expr) => {
            let said = $asked.await;
            bench.note($promise, said);
        };
    }
    promise!("what it describes stays the same", bench.describes());
    promise!("whatever else the plane answers to is described as the same plane", bench.one_spelling());
    promise!("it holds as many records as were put there", bench.holds(known));
    promise!("pages of any size, one after the other, give every record once, in order", bench.pages());
    promise!("a page after any key begins with the next", bench.cursors());
    promise!("one record fits into a page, however small its limit", bench.small_pages());
    promise!("records read again are the same to the last bit", bench.reads_again());
    promise!("without a fence, nothing is proved", bench.proves_nothing_unfenced());
    promise!("closed to writes: users do not write, and read on", bench.read_only());
    promise!("closed: users neither write nor read, and Lethe reads on", bench.closed());
    promise!("its neighbour's users write and read all the while", bench.neighbours_may());
    promise!("closing less than it is closed opens nothing", bench.closes_further_only());
    promise!("an older epoch is refused", bench.refuses_old_epochs());
    promise!("another plane's fence, delete and probe are refused", bench.refuses_strangers());
    promise!("a probe finds every record that is there", bench.probe_finds());
    promise!("opened again: users write and read as before", bench.opened());
    promise!("while it is open, it knows its plane and its epoch yet", bench.remembers_while_open());
    promise!("a record that users changed is told from the old one", bench.tells_changed());
    promise!("a record that lost its plane is found by a probe", bench.finds_orphans());
    promise!("a permit for another plane erases nothing", bench.refuses_others_permits());
    promise!("an older epoch erases nothing", bench.refuses_old_permits());
    promise!("what is not there is absent, and nothing else goes for it", bench.erases_nothing_absent());
    promise!("a record of its neighbour's is not there", bench.keeps_planes_apart());
    promise!("a record that changed since it was read is left alone", bench.leaves_changed());
    promise!("exactly the records that are named go", bench.erases_some());
    promise!("erasing them again finds them gone", bench.erases_again());
    promise!("closed for good: nobody opens it", bench.purged());
    promise!("closed for good: users neither write nor read", bench.purged_for_users());
    promise!("the rest goes, and the plane is empty", bench.erases_rest());
    promise!("what was erased can be scrubbed, and again", bench.scrubs());
    promise!("a probe finds nothing, and shows that it looked", bench.probe_finds_nothing());
    promise!("a restart opens nothing", bench.survives_restart());
    promise!("its neighbour's records under the same keys stay", bench.spares_equal_keys());
    promise!("its neighbour never changed", bench.neighbour_is_untouched());
    Ok(Conformity::of(checked.kind, records, bench.unfenced.into_iter().collect(), bench.promises))
}

impl Conformity {
    fn of(kind: &'static str, records: usize, unfenced: Vec<String>, promises: Vec<Promise>) -> Self {
        let how_many = |result| promises.iter().filter(|promise| promise.result == result).count();
        let (kept, broken) = (how_many(Kept::Kept), how_many(Kept::Broken));
        let (declared, not_asked) = (how_many(Kept::Declared), how_many(Kept::NotAsked));
        Self { kind, records, kept, broken, declared, not_asked, unfenced, promises }
    }

    /// The result in a word: what a store says itself that it does not keep is no plain yes.
    pub fn verdict(&self) -> &'static str {
        match (self.broken, self.declared) {
            (0, 0) => "conforms",
            (0, _) => "conforms_as_declared",
            _ => "broken",
        }
    }

    /// What the trail keeps of it: no content.
    pub fn evidence(&self) -> serde_json::Value {
        json!({"kind": self.kind, "records": self.records, "kept": self.kept, "broken": self.broken, "declared": self.declared,
            "not_asked": self.not_asked})
    }
}
