//! What stores that are SQL databases decide alike, whatever they speak: who may write a fence's row, what may be erased, and what it
//! means that two values are the same.
//!
//! The rule: nothing here touches the world. A driver reads, asks, and writes in one transaction, so nothing happens if we die in it.

use std::collections::HashMap;

use lethe_stages::{
    Permit,
    lifecycle::FenceMode,
    ports::{Erased, Fenced, PortError},
    record::{Key, Record, RecordDigest, Value},
};
use uuid::Uuid;

/// Refuses a permit for another plane.
pub(crate) fn covered(permit: &Permit, plane_id: Uuid) -> Result<(), PortError> {
    if permit.plane_id() == plane_id {
        return Ok(());
    }
    let theirs = permit.plane_id();
    Err(PortError::Permanent(format!("destroy records of plane {plane_id}: the permit is for plane {theirs}")))
}

/// A plane's row in a store's fence.
#[derive(Debug, Clone)]
pub(crate) struct FenceRow {
    pub(crate) mode: String,
    pub(crate) epoch: i64,
    pub(crate) plane_id: String,
    pub(crate) plane_column: String,
}

impl FenceRow {
    /// Refuses an epoch older than the row's.
    pub(crate) fn admit(&self, epoch: i64) -> Result<(), PortError> {
        if epoch < self.epoch { Err(PortError::StaleEpoch { mine: epoch, seen: self.epoch }) } else { Ok(()) }
    }

    /// Refuses another plane than the row's, another column while it is fenced, and an older epoch.
    pub(crate) fn admit_plane(&self, doing: &str, plane_id: Uuid, column: &str, epoch: i64) -> Result<(), PortError> {
        if self.plane_id != plane_id.to_string() {
            return Err(PortError::WrongPlace(format!(
                "{doing}: these records belong to plane {}, not to {plane_id}",
                self.plane_id
            )));
        }
        if self.plane_column != column && self.mode != "open" {
            return Err(PortError::WrongPlace(format!("{doing}: they are fenced by column `{}`", self.plane_column)));
        }
        self.admit(epoch)
    }

    /// The fence as it stands, if it is one of this plane.
    pub(crate) fn stands(&self, plane_id: Uuid) -> Option<Fenced> {
        let modes = [FenceMode::ReadOnly, FenceMode::Closed, FenceMode::Purged];
        let mode = modes.into_iter().find(|mode| mode.as_str() == self.mode)?;
        (self.plane_id == plane_id.to_string()).then_some(Fenced { mode, epoch: self.epoch })
    }

    /// The mode of a plane that is to be closed to what `mode` refuses: further than `before` only.
    pub(crate) fn closed_further(before: Option<&Self>, mode: FenceMode) -> FenceMode {
        match before.map(|row| row.mode.as_str()) {
            Some("purged") => FenceMode::Purged,
            Some("closed") if mode == FenceMode::ReadOnly => FenceMode::Closed,
            _ => mode,
        }
    }
}

/// The refusal of a table that another plane is fenced in by another column.
pub(crate) fn told_apart_by(doing: &str, other: &str) -> PortError {
    PortError::Permanent(format!("{doing}: it is fenced by column `{other}` already, and one table is told apart by one column"))
}

/// Of records to erase, the keys of those that are `found` as they were exported; what is absent or changed is counted in `sum`.
pub(crate) fn unchanged<'a>(
    batch: &'a [(Key, RecordDigest)],
    mut found: HashMap<Key, RecordDigest>,
    sum: &mut Erased,
) -> Vec<&'a Key> {
    let mut unchanged = Vec::with_capacity(found.len());
    for (key, exported) in batch {
        // Taken out, so that a key that is named twice is deleted once.
        match found.remove(key) {
            None => sum.absent += 1,
            Some(digest) if digest == *exported => unchanged.push(key),
            Some(_) => sum.changed += 1,
        }
    }
    unchanged
}

/// Refuses a delete that took more or fewer records than there were keys: what cannot be counted cannot be claimed.
pub(crate) fn all_went(doing: &str, keys: usize, deleted: u64) -> Result<(), PortError> {
    if deleted == keys as u64 {
        return Ok(());
    }
    Err(PortError::Permanent(format!(
        "{doing}: {keys} record(s) were to go and {deleted} went; look for a trigger on the table that interferes"
    )))
}

/// Whether two values are the same to the last bit.
pub(crate) fn identical(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Real(left), Value::Real(right)) => left.to_bits() == right.to_bits(),
        _ => left == right,
    }
}

/// The different values, null left out, that records have in a column.
pub(crate) fn different(records: &[Record], column: usize) -> Vec<&Value> {
    let mut known: Vec<&Value> = Vec::new();
    for record in records {
        let value = &record.values[column];
        if *value != Value::Null && !known.iter().any(|other| identical(other, value)) {
            known.push(value);
        }
    }
    known
}

/// Whether a record, found without regard to planes, is what a sample of the plane was: same key, same content, and either nobody's or
/// of a plane whose name differs from ours in nothing but case and outer white space: what a move out of the mapping's sight looks like.
pub(crate) fn still(sample: &Record, seen: &Record, plane_column: Option<usize>, plane: Option<&str>) -> bool {
    let columns = 0..sample.values.len().max(seen.values.len());
    let same = |column: usize| match (sample.values.get(column), seen.values.get(column)) {
        (Some(left), Some(right)) => identical(left, right),
        _ => false,
    };
    let ours = match plane_column.and_then(|column| seen.values.get(column)) {
        Some(Value::Text(text)) => plane.is_none_or(|plane| text.trim().to_lowercase() == plane.trim().to_lowercase()),
        Some(Value::Integer(number)) => plane.is_none_or(|plane| number.to_string() == plane.trim()),
        _ => true,
    };
    sample.key == seen.key && ours && columns.filter(|column| Some(*column) != plane_column).all(same)
}
