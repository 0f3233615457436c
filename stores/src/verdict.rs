//! What stores that are SQL databases decide alike, whatever they speak: who may write a fence's row, what may be erased, and what it
//! means that two values are the same.
//!
//! The rule: nothing here touches the world. A driver reads, asks, and writes in one transaction, so nothing happens if we die in it.

use std::collections::HashMap;

use lethe_stages::{
    Permit,
    lifecycle::FenceMode,
    ports::{Erased, FenceSeen, Fenced, PortError},
    record::{Key, Known, Record, RecordDigest, Salt, Value},
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

/// What became of a plane's fence: its row as it was found, and whether what enforces it is there.
pub(crate) fn fence_seen(row: Option<&FenceRow>, plane_id: Uuid, enforced: bool) -> FenceSeen {
    match row.filter(|row| row.plane_id == plane_id.to_string()) {
        None => FenceSeen::Missing,
        Some(row) if row.mode != FenceMode::Purged.as_str() => FenceSeen::Outdated,
        Some(_) if enforced => FenceSeen::Purged,
        Some(_) => FenceSeen::Missing,
    }
}

/// The different embeddings among what is known.
pub(crate) fn known_vectors(known: &[Known]) -> Vec<Value> {
    let mut vectors: Vec<Value> = Vec::new();
    for vector in known.iter().filter_map(|known| known.vector.as_ref()).map(lethe_stages::record::KnownVector::value) {
        if !vectors.iter().any(|other| identical(other, &vector)) {
            vectors.push(vector);
        }
    }
    vectors
}

/// Whether a record, found without regard to planes, is what is known by its digest: as it is, or with the plane's own value where
/// somebody moved it out of the mapping's sight. `plane`: the column that tells planes apart, and the plane's value.
pub(crate) fn is_known(known: &Known, seen: &Record, salt: &Salt, plane: Option<(usize, &str)>) -> bool {
    if known.key != seen.key {
        return false;
    }
    if seen.digest(Some(salt)) == known.digest {
        return true;
    }
    let Some((column, value)) = plane.filter(|(column, _)| *column < seen.values.len()) else { return false };
    let number = value.parse::<i64>().ok().map(Value::Integer);
    [Some(Value::Text(value.to_owned())), number].into_iter().flatten().any(|value| {
        let mut moved = seen.clone();
        moved.values[column] = value;
        moved.digest(Some(salt)) == known.digest
    })
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

/// Whether a record is nobody's, or of a plane whose name differs from ours in nothing but case and outer white space.
pub(crate) fn nobodys_or_ours(seen: &Record, plane: Option<(usize, &str)>) -> bool {
    let Some((column, plane)) = plane else { return true };
    match seen.values.get(column) {
        Some(Value::Text(text)) => text.trim().to_lowercase() == plane.trim().to_lowercase(),
        Some(Value::Integer(number)) => number.to_string() == plane.trim(),
        _ => true,
    }
}

/// Whether a record, found without regard to planes, is what a sample of the plane was: same key, same content, and either nobody's or
/// of a plane whose name differs from ours in nothing but case and outer white space: what a move out of the mapping's sight looks like.
pub(crate) fn still(sample: &Record, seen: &Record, plane_column: Option<usize>, plane: Option<&str>) -> bool {
    let columns = 0..sample.values.len().max(seen.values.len());
    let same = |column: usize| match (sample.values.get(column), seen.values.get(column)) {
        (Some(left), Some(right)) => identical(left, right),
        _ => false,
    };
    let ours = nobodys_or_ours(seen, plane_column.zip(plane));
    sample.key == seen.key && ours && columns.filter(|column| Some(*column) != plane_column).all(same)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_known_record_is_found_wherever_it_was_moved_and_no_other_is() {
        let salt = Salt([5; 32]);
        let record = |plane: Value, body: &str| Record {
            key: Key::Integer(1),
            values: vec![Value::Integer(1), plane, Value::Text(body.into())],
        };
        let known = |record: &Record| Known { key: record.key.clone(), digest: record.digest(Some(&salt)), vector: None };
        let sample = known(&record(Value::Text("p1".into()), "old"));
        let plane = Some((1, "p1"));
        for moved in [Value::Text("p1".into()), Value::Text("P1 ".into()), Value::Null] {
            assert!(is_known(&sample, &record(moved, "old"), &salt, plane));
        }
        assert!(!is_known(&sample, &record(Value::Text("p1".into()), "new"), &salt, plane), "a new record under an old key");
        assert!(!is_known(&sample, &record(Value::Null, "old"), &salt, None), "nobody says which column tells planes apart");
        let numbered = known(&record(Value::Integer(7), "old"));
        assert!(is_known(&numbered, &record(Value::Null, "old"), &salt, Some((1, "7"))));
    }
}
