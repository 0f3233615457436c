//! The witness: what a ledger knows about its own past and its clock.
//!
//! The rule: a clock that jumped, and a ledger that is behind the mark it left outside itself, destroy nothing until a person has looked.
//!
//! A jump is told from time that passed by the machine's time since boot, which nobody sets. Across a reboot only the size of the gap
//! can be judged.

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use crate::{
    db::Tx,
    fault::Fault,
    rows::Cells,
    source::SinceBoot,
    sql::{Inner, statements},
};

/// How far the clock may run away from the time since boot.
const SKEW_MAX: TimeDelta = TimeDelta::seconds(60);
/// How long what was seen of the clock is new enough.
const NOTE_AFTER: TimeDelta = TimeDelta::seconds(1);

/// How far a ledger's past reaches; kept outside it, beside each archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// Shape of this document.
    pub schema_version: u32,
    /// Which ledger.
    pub ledger_id: uuid::Uuid,
    /// Its era.
    pub era: i64,
    /// The place of its last audit entry.
    pub place: i64,
    /// That entry's hash.
    pub hash: String,
}

/// What the ledger knows about itself.
#[derive(Debug, Clone, Serialize)]
pub struct Witness {
    /// Raised by each reconcile.
    pub era: i64,
    /// When a mark outside was found to be ahead.
    pub behind_since: Option<DateTime<Utc>>,
    /// When a jump of the clock was noticed.
    pub clock_suspect_since: Option<DateTime<Utc>>,
}

/// What a look at the clock found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockLook {
    /// Nobody has confirmed the clock since it jumped.
    pub is_suspect: bool,
    /// It was noticed just now.
    pub is_news: bool,
}

statements! {
    WITNESS = "read the witness", "SELECT * FROM witness";
    // Several machines look at PostgreSQL's clock, each with a time since boot of its own.
    SEEN = "read what the clock showed",
        "SELECT clock_at AS at, clock_boot AS boot, clock_elapsed AS elapsed FROM witness WHERE clock_at IS NOT NULL AND $1 = $1",
        "SELECT at, boot, elapsed FROM clock_seen ORDER BY boot = $1 DESC, at DESC LIMIT 1";
    SEE = "observe the clock",
        "UPDATE witness SET clock_at = $1, clock_boot = $2, clock_elapsed = $3",
        "INSERT INTO clock_seen (at, boot, elapsed) VALUES ($1, $2, $3)
         ON CONFLICT (boot) DO UPDATE SET at = greatest(clock_seen.at, excluded.at),
            elapsed = CASE WHEN excluded.at >= clock_seen.at THEN excluded.elapsed ELSE clock_seen.elapsed END";
    SUSPECT = "suspect the clock", "UPDATE witness SET clock_suspect_since = $1 WHERE clock_suspect_since IS NULL";
    CONFIRM = "confirm the clock", "UPDATE witness SET clock_suspect_since = NULL WHERE clock_suspect_since IS NOT NULL";
    FORGET_AHEAD = "forget where the clock was ahead",
        "UPDATE witness SET clock_at = $1 WHERE clock_at > $1",
        "UPDATE clock_seen SET at = $1 WHERE at > $1";
    BEHIND = "note that the ledger is behind", "UPDATE witness SET behind_since = $1 WHERE behind_since IS NULL";
    BEGIN_ERA = "begin a new era",
        "UPDATE witness SET era = max(era, $1) + 1, behind_since = NULL",
        "UPDATE witness SET era = greatest(era, $1) + 1, behind_since = NULL";
    // Entries are numbered before they are committed, so on PostgreSQL their number says how far a past reaches, and not the last place.
    // No entry's place is before its number.
    LAST = "read the trail's end",
        "SELECT place, hash FROM trail ORDER BY place DESC LIMIT 1",
        "SELECT (SELECT sum(entries)::bigint FROM trail_tally) AS place, hash FROM trail ORDER BY trail.place DESC LIMIT 1";
    HAS = "compare with the mark",
        "SELECT EXISTS (SELECT 1 FROM trail WHERE place = $1 AND hash = $2) AS has",
        "SELECT (SELECT sum(entries) FROM trail_tally) >= $1 AND EXISTS (SELECT 1 FROM trail WHERE trail.place >= $1 AND hash = $2) AS has";
    KNOW = "remember an archive",
        "INSERT INTO archive_roots (url, archive_id) VALUES ($1, $2) ON CONFLICT (url) DO UPDATE SET archive_id = excluded.archive_id";
    ROOTS = "list archives", "SELECT * FROM archive_roots ORDER BY url";
}

impl Tx {
    /// What the ledger knows about itself.
    pub async fn witness(&mut self) -> Result<Witness, Fault> {
        let row = self.sql(&WITNESS).first().await?;
        let cells = Cells::new(&row, "witness", "only");
        Ok(Witness {
            era: cells.get("era")?,
            behind_since: cells.maybe_at("behind_since")?,
            clock_suspect_since: cells.maybe_at("clock_suspect_since")?,
        })
    }

    /// Compares the clock with what has passed since it was last observed, and notes both. `gap_max` is the longest time across a reboot
    /// that is believed.
    pub async fn observe_clock(&mut self, gap_max: TimeDelta) -> Result<ClockLook, Fault> {
        let now = self.since_boot();
        let seen = self.sql(&SEEN).bind(&now.boot).optional().await?;
        let at = self.at();
        // Noted again only after a while: all workers of a machine note it in the same row, and would wait for each other's commits.
        let mut just_seen = false;
        let mut jumped = match &seen {
            None => false,
            Some(row) => {
                let cells = Cells::new(row, "witness", "boot");
                let (seen, boot, elapsed) = (cells.at("at")?, cells.get::<String>("boot")?, cells.span("elapsed")?);
                just_seen = boot == now.boot && at >= seen && at - seen < NOTE_AFTER && now.elapsed - elapsed < NOTE_AFTER;
                if boot == now.boot { at - seen > now.elapsed - elapsed + SKEW_MAX } else { at - seen > gap_max }
            }
        };
        // The database's clock and this machine's are two: where they disagree, one of them is wrong.
        jumped |= self.skew().abs() > SKEW_MAX;
        if !just_seen {
            self.sql(&SEE).bind(at).bind(&now.boot).bind(now.elapsed.num_microseconds().unwrap_or(i64::MAX)).one().await?;
        }
        let is_news = jumped && self.sql(&SUSPECT).bind(at).run().await? == 1;
        // Read again: where several write at the same time, another one may have noticed it after this transaction read its facts.
        let is_suspect = is_news || self.witness().await?.clock_suspect_since.is_some();
        Ok(ClockLook { is_suspect, is_news })
    }

    /// A person has looked at the clock and found it right. Answers whether there was a suspicion.
    pub async fn confirm_clock(&mut self) -> Result<bool, Fault> {
        self.lock_control().await?;
        let at = self.at();
        // What was seen of the clock while it ran ahead would hide the next jump.
        self.sql(&FORGET_AHEAD).bind(at).run().await?;
        Ok(self.sql(&CONFIRM).run().await? == 1)
    }

    /// A mark outside is ahead of this ledger. Answers whether that is news.
    pub async fn set_behind(&mut self) -> Result<bool, Fault> {
        self.lock_control().await?;
        let at = self.at();
        Ok(self.sql(&BEHIND).bind(at).run().await? == 1)
    }

    /// A person has reconciled the ledger: a new era begins, later than every mark of `era` or before.
    pub async fn begin_era(&mut self, era: i64) -> Result<(), Fault> {
        self.lock_control().await?;
        self.sql(&BEGIN_ERA).bind(era).one().await
    }

    /// How far this ledger's past reaches now.
    pub async fn mark(&mut self, ledger_id: uuid::Uuid) -> Result<Mark, Fault> {
        let era = self.witness().await?.era;
        let (place, hash) = match self.sql(&LAST).optional().await? {
            Some(row) => {
                let cells = Cells::new(&row, "trail", "hash");
                (cells.get("place")?, cells.get("hash")?)
            }
            None => Default::default(),
        };
        Ok(Mark { schema_version: 1, ledger_id, era, place, hash })
    }

    /// Whether `mark` belongs to a past that this ledger does not have: later than its own, or another one.
    pub async fn is_behind(&mut self, mark: &Mark) -> Result<bool, Fault> {
        let era = self.witness().await?.era;
        if mark.era != era {
            return Ok(mark.era > era);
        }
        if mark.place == 0 {
            return Ok(false);
        }
        let row = self.sql(&HAS).bind(mark.place).bind(&mark.hash).first().await?;
        Ok(!Cells::new(&row, "trail", "has").get::<bool>("has")?)
    }

    /// Remembers an archive; again is no error.
    pub async fn know_archive(&mut self, url: &str, archive_id: uuid::Uuid) -> Result<(), Fault> {
        self.sql(&KNOW).bind(url).bind(archive_id).run().await?;
        Ok(())
    }

    /// Every archive that planes of this ledger use or used: URL and canary.
    pub async fn archive_roots(&mut self) -> Result<Vec<(String, uuid::Uuid)>, Fault> {
        let rows = self.sql(&ROOTS).all().await?;
        rows.iter()
            .map(|row| {
                let cells = Cells::new(row, "archive_roots", "url");
                Ok((cells.get("url")?, cells.id("archive_id")?))
            })
            .collect()
    }

    /// What SQLite itself finds wrong with the ledger's file; empty where it finds nothing. A server checks its own files: nothing is
    /// asked there.
    pub async fn integrity(&mut self) -> Result<Vec<String>, Fault> {
        let Inner::Sqlite(tx) = &mut self.inner else { return Ok(Vec::new()) };
        let mut found: Vec<String> = sqlx::query_scalar("PRAGMA integrity_check")
            .fetch_all(&mut **tx)
            .await
            .map_err(Fault::database("check the ledger's file"))?;
        found.retain(|line| line != "ok");
        let orphans: Vec<(String, Option<i64>, String)> =
            sqlx::query_as("SELECT \"table\", rowid, parent FROM pragma_foreign_key_check")
                .fetch_all(&mut **tx)
                .await
                .map_err(Fault::database("check the ledger's references"))?;
        found.extend(orphans.into_iter().map(|(table, row, parent)| format!("{table} {row:?} refers to a missing {parent}")));
        Ok(found)
    }
}

/// Time since boot, in a form that two observations can be compared by.
pub(crate) fn machine() -> SinceBoot {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let seconds: f64 = read("/proc/uptime").split(' ').next().and_then(|text| text.parse().ok()).unwrap_or(0.0);
    SinceBoot {
        boot: read("/proc/sys/kernel/random/boot_id").trim().to_owned(),
        elapsed: TimeDelta::milliseconds((seconds * 1000.0) as i64),
    }
}
