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
    rows::{Cells, one, us},
    source::SinceBoot,
};

/// How far the clock may run away from the time since boot.
const SKEW_MAX: TimeDelta = TimeDelta::seconds(60);

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

impl Tx {
    /// What the ledger knows about itself.
    pub async fn witness(&mut self) -> Result<Witness, Fault> {
        let row = sqlx::query("SELECT * FROM witness")
            .fetch_one(self.connection())
            .await
            .map_err(Fault::database("read the witness"))?;
        let cells = Cells::new(&row, "witness", "only");
        Ok(Witness {
            era: cells.get("era")?,
            behind_since: cells.maybe_at("behind_since")?,
            clock_suspect_since: cells.maybe_at("clock_suspect_since")?,
        })
    }

    /// Compares the clock with what has passed since it was last observed, and notes both. Answers whether a jump was noticed just now.
    /// `gap_max` is the longest time across a reboot that is believed.
    pub async fn observe_clock(&mut self, gap_max: TimeDelta) -> Result<bool, Fault> {
        let row = sqlx::query("SELECT * FROM witness")
            .fetch_one(self.connection())
            .await
            .map_err(Fault::database("read the witness"))?;
        let cells = Cells::new(&row, "witness", "only");
        let (now, at) = (self.since_boot(), self.at());
        let jumped = match (
            cells.maybe_at("clock_at")?,
            cells.get::<Option<String>>("clock_boot")?,
            cells.get::<Option<i64>>("clock_elapsed")?,
        ) {
            (Some(seen), Some(boot), Some(elapsed)) if boot == now.boot => {
                let passed = now.elapsed - TimeDelta::microseconds(elapsed);
                at - seen > passed + SKEW_MAX
            }
            (Some(seen), ..) => at - seen > gap_max,
            _ => false,
        };
        let known = cells.maybe_at("clock_suspect_since")?.is_some();
        let done = sqlx::query(
            "UPDATE witness SET clock_at = ?1, clock_boot = ?2, clock_elapsed = ?3,
                clock_suspect_since = coalesce(clock_suspect_since, CASE WHEN ?4 THEN ?1 END)",
        )
        .bind(us(at))
        .bind(&now.boot)
        .bind(now.elapsed.num_microseconds())
        .bind(jumped)
        .execute(self.connection())
        .await;
        one("observe the clock", done.map_err(Fault::database("observe the clock"))?)?;
        Ok(jumped && !known)
    }

    /// A person has looked at the clock and found it right. Answers whether there was a suspicion.
    pub async fn confirm_clock(&mut self) -> Result<bool, Fault> {
        let statement = "UPDATE witness SET clock_suspect_since = NULL WHERE clock_suspect_since IS NOT NULL";
        let done = sqlx::query(statement).execute(self.connection()).await.map_err(Fault::database("confirm the clock"))?;
        Ok(done.rows_affected() == 1)
    }

    /// A mark outside is ahead of this ledger. Answers whether that is news.
    pub async fn set_behind(&mut self) -> Result<bool, Fault> {
        let at = us(self.at());
        let statement = "UPDATE witness SET behind_since = ? WHERE behind_since IS NULL";
        let done = sqlx::query(statement)
            .bind(at)
            .execute(self.connection())
            .await
            .map_err(Fault::database("note that the ledger is behind"))?;
        Ok(done.rows_affected() == 1)
    }

    /// A person has reconciled the ledger: a new era begins, later than every mark of `era` or before.
    pub async fn begin_era(&mut self, era: i64) -> Result<(), Fault> {
        let done = sqlx::query("UPDATE witness SET era = max(era, ?) + 1, behind_since = NULL")
            .bind(era)
            .execute(self.connection())
            .await;
        one("begin a new era", done.map_err(Fault::database("begin a new era"))?)
    }

    /// How far this ledger's past reaches now.
    pub async fn mark(&mut self, ledger_id: uuid::Uuid) -> Result<Mark, Fault> {
        let era = self.witness().await?.era;
        let last: Option<(i64, String)> = sqlx::query_as("SELECT place, hash FROM trail ORDER BY place DESC LIMIT 1")
            .fetch_optional(self.connection())
            .await
            .map_err(Fault::database("read the trail's end"))?;
        let (place, hash) = last.unwrap_or_default();
        Ok(Mark { schema_version: 1, ledger_id, era, place, hash })
    }

    /// Whether `mark` belongs to a past that this ledger does not have: later than its own, or another one.
    pub async fn is_behind(&mut self, mark: &Mark) -> Result<bool, Fault> {
        let era = self.witness().await?.era;
        if mark.era != era {
            return Ok(mark.era > era);
        }
        let hash: Option<String> = sqlx::query_scalar("SELECT hash FROM trail WHERE place = ?")
            .bind(mark.place)
            .fetch_optional(self.connection())
            .await
            .map_err(Fault::database("compare with the mark"))?;
        Ok(mark.place > 0 && hash.as_deref() != Some(mark.hash.as_str()))
    }

    /// Remembers an archive; again is no error.
    pub async fn know_archive(&mut self, url: &str, archive_id: uuid::Uuid) -> Result<(), Fault> {
        sqlx::query(
            "INSERT INTO archive_roots (url, archive_id) VALUES (?1, ?2) ON CONFLICT (url) DO UPDATE SET archive_id = ?2",
        )
        .bind(url)
        .bind(archive_id.to_string())
        .execute(self.connection())
        .await
        .map_err(Fault::database("remember an archive"))?;
        Ok(())
    }

    /// Every archive that planes of this ledger use or used: URL and canary.
    pub async fn archive_roots(&mut self) -> Result<Vec<(String, uuid::Uuid)>, Fault> {
        let rows = sqlx::query("SELECT * FROM archive_roots ORDER BY url")
            .fetch_all(self.connection())
            .await
            .map_err(Fault::database("list archives"))?;
        rows.iter()
            .map(|row| {
                let cells = Cells::new(row, "archive_roots", "url");
                Ok((cells.get("url")?, cells.parsed("archive_id")?))
            })
            .collect()
    }

    /// What SQLite itself finds wrong with the ledger's file; empty where it finds nothing.
    pub async fn integrity(&mut self) -> Result<Vec<String>, Fault> {
        let mut found: Vec<String> = sqlx::query_scalar("PRAGMA integrity_check")
            .fetch_all(self.connection())
            .await
            .map_err(Fault::database("check the ledger's file"))?;
        found.retain(|line| line != "ok");
        let orphans: Vec<(String, Option<i64>, String)> =
            sqlx::query_as("SELECT \"table\", rowid, parent FROM pragma_foreign_key_check")
                .fetch_all(self.connection())
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
