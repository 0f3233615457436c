//! The promises about reading: everything is given, in order, once, and to nobody under another name.
//!
//! The rule and what happens if we die in one: see `bench`.

use lethe_stages::ports::{PageLimit, PortError};

use super::bench::{ALL, Bench, SAMPLES, Said, Seen, by_key, ensure, failed, kept, read, same, went};
use crate::open_store;

/// A value with the case of its letters turned.
fn turned(value: &str) -> String {
    let turn = |c: char| if c.is_lowercase() { c.to_uppercase().collect::<String>() } else { c.to_lowercase().collect() };
    value.chars().map(turn).collect()
}

impl Bench<'_> {
    pub(super) async fn describes(&self) -> Said {
        let (one, two) = (self.store.describe().await.map_err(failed)?, self.store.describe().await.map_err(failed)?);
        ensure(serde_json::json!(one) == serde_json::json!(two), || "two descriptions differ".into())?;
        let (one, two) = (self.store.columns().await.map_err(failed)?, self.store.columns().await.map_err(failed)?);
        ensure(one == two, || "the columns differ from one moment to the next".into())?;
        kept(format!("{} column(s)", one.len()))
    }

    /// A store that compares without regard to case or outer white space says so by describing both spellings as one.
    pub(super) async fn one_spelling(&self) -> Said {
        let plane = &self.told.plane;
        let others = [turned(plane), format!("{plane} ")];
        if plane.is_empty() {
            return Ok(Seen::NotAsked("the plane owns the whole resource"));
        }
        for other in others.iter().filter(|other| *other != plane) {
            let mapping = crate::Mapping { plane: Some(other.clone()), ..self.mapping.clone() };
            let store = open_store(self.url, &mapping, self.ids[0]).map_err(failed)?;
            let described = match store.describe().await {
                Ok(described) => described,
                // No value of this column: nobody can be asked for it.
                Err(PortError::Permanent(_)) => continue,
                Err(error) => return Err(failed(error)),
            };
            if described.plane_value.as_ref() == Some(plane) {
                continue;
            }
            let page = store.page(None, ALL).await.map_err(failed)?;
            let counted = store.count().await.map_err(failed)?;
            ensure(page.is_empty() == (counted == 0), || format!("of `{other}` it counts {counted}, and gives {}", page.len()))?;
            let ours =
                by_key(page).into_iter().find(|(key, (_, digest))| self.now.get(key).is_some_and(|(_, own)| own == digest));
            if let Some((key, _)) = ours {
                return Err(format!("record {key} is given for plane `{other}` too, which it describes as another plane"));
            }
        }
        kept(format!("`{plane}`"))
    }

    pub(super) async fn holds(&self, known: Option<u64>) -> Said {
        self.counts(self.now.len()).await?;
        match known {
            Some(known) if known != self.now.len() as u64 => {
                Err(format!("{known} were put there, and {} are found", self.now.len()))
            }
            Some(known) => kept(format!("{known} record(s)")),
            None => Ok(Seen::NotAsked("without --records: nobody said how many were put there")),
        }
    }

    pub(super) async fn pages(&self) -> Said {
        for rows_max in [3, 7, self.now.len() - 1, self.now.len()] {
            let limit = PageLimit { rows_max, bytes_max: ALL.bytes_max };
            let found = read(&*self.store, limit).await.map_err(failed)?;
            same(&self.now, &by_key(found)).map_err(|said| format!("in pages of {rows_max}: {said}"))?;
        }
        self.counts(self.now.len()).await?;
        kept(format!("{} record(s)", self.now.len()))
    }

    pub(super) async fn cursors(&self) -> Said {
        let limit = PageLimit { rows_max: 1, bytes_max: ALL.bytes_max };
        let keys: Vec<_> = self.now.keys().collect();
        let step = keys.len().div_ceil(SAMPLES);
        let last = keys.len() - 1;
        for place in (0..keys.len()).step_by(step).chain([last]) {
            let page = self.store.page(Some(keys[place]), limit).await.map_err(failed)?;
            let next = page.first().map(|record| &record.key);
            ensure(next == keys.get(place + 1).copied(), || {
                format!("after {} comes {}", keys[place], next.map_or("nothing".into(), ToString::to_string))
            })?;
        }
        kept(format!("{} key(s)", keys.len().div_ceil(step)))
    }

    pub(super) async fn small_pages(&self) -> Said {
        let page = self.store.page(None, PageLimit { rows_max: 10, bytes_max: 1 }).await.map_err(failed)?;
        ensure(page.len() == 1, || format!("a page of at most 1 byte has {} record(s)", page.len()))?;
        kept("1 record")
    }

    pub(super) async fn reads_again(&self) -> Said {
        self.is_unchanged().await?;
        kept(format!("{} record(s)", self.now.len()))
    }

    /// A record of the neighbour's is none of the scratch plane's, whoever names it.
    pub(super) async fn keeps_planes_apart(&self) -> Said {
        let theirs = |key| !self.now.contains_key(key);
        let rows: Vec<_> = self.neighbours.iter().filter(|(key, _)| theirs(key)).take(SAMPLES).collect();
        if rows.is_empty() {
            return Ok(Seen::NotAsked(
                "no key of the neighbour's is its alone: give it records under other keys than the scratch plane's",
            ));
        }
        let expected = [0, rows.len() as u64, 0];
        let named = format!("{} record(s) of the neighbour's", rows.len());
        if let Some(wires) = &self.wires {
            let lines = wires.neighbour.all().await.map_err(failed)?;
            ensure(lines.len() == self.neighbours.len(), || "the neighbour has changed meanwhile".into())?;
            let lines: Vec<_> = self.neighbours.keys().zip(&lines).filter(|(key, _)| theirs(key)).take(SAMPLES).collect();
            let asked: Vec<_> = lines.iter().map(|(_, line)| *line).collect();
            let here = wires.own.lookup(&asked, false).await.map_err(failed)?;
            ensure(here.is_empty(), || format!("a lookup in the plane finds {} of {named}", here.len()))?;
            let anywhere = wires.own.lookup(&asked, true).await.map_err(failed)?;
            let missed = asked.iter().filter(|line| !anywhere.contains(line)).count();
            ensure(missed == 0, || format!("a lookup with `anywhere` does not find {missed} of {named}"))?;
            went(&self.delete(wires, &lines).await?, expected, &named)?;
        }
        let rows: Vec<_> = rows.into_iter().map(|(key, (_, digest))| (key.clone(), *digest)).collect();
        went(&self.erase(self.epoch, &rows).await?, expected, &named)?;
        self.is_unchanged().await?;
        self.neighbour_stays().await?;
        kept(format!("{} key(s)", rows.len()))
    }

    pub(super) async fn neighbour_is_untouched(&self) -> Said {
        kept(format!("{} record(s)", self.neighbour_stays().await?))
    }

    pub(super) async fn spares_equal_keys(&self) -> Said {
        if self.shared == 0 {
            return Ok(Seen::NotAsked("no key stood in both planes: where keys are unique within a plane only, give them some"));
        }
        self.neighbour_stays().await?;
        kept(format!("{} key(s)", self.shared))
    }
}
