//! The promises about what is erased, and about what a probe finds of it.
//!
//! The rule: exactly what was named goes, and it is gone, not hidden: asked for by count, by key in the plane and anywhere, by content and
//! by vector. If we die in one, part of the scratch plane is erased.

use lethe_stages::{
    ports::{FenceSeen, PortError, Recurrence},
    record::{Key, Known, KnownVector, Record, RecordDigest, Salt},
};
use serde_json::json;

use super::bench::{Bench, Said, ensure, failed, kept, went};
use crate::verdict::{different, identical};

impl Bench<'_> {
    pub(super) async fn refuses_others_permits(&self) -> Said {
        let permit = self.permit(self.ids[2], self.epoch)?;
        for verb in ["erase", "scrub"] {
            let done = match verb {
                "erase" => self.store.erase(&permit, &self.named(|_| true), None).await.map(drop),
                _ => self.store.scrub(&permit).await.map(drop),
            };
            ensure(matches!(done, Err(PortError::Permanent(_))), || format!("{verb} takes a permit for another plane"))?;
        }
        self.is_unchanged().await?;
        kept("refused")
    }

    pub(super) async fn refuses_old_permits(&self) -> Said {
        self.refuses_old(&["delete"]).await?;
        kept("refused")
    }

    /// A key that no record has.
    fn beyond(&self) -> Option<Key> {
        Some(match self.now.last_key_value()?.0 {
            Key::Integer(number) => Key::Integer(number.saturating_add(1_000_003)),
            Key::Text(text) => Key::Text(format!("{text}-and-beyond")),
            Key::Blob(bytes) => Key::Blob([bytes.as_slice(), b"beyond"].concat()),
        })
    }

    pub(super) async fn erases_nothing_absent(&self) -> Said {
        let (Some(beyond), Some((_, (_, digest)))) = (self.beyond(), self.now.last_key_value()) else {
            return Err("nothing is left".into());
        };
        let permit = self.permit(self.ids[0], self.epoch)?;
        match self.store.erase(&permit, &[(beyond, *digest)], None).await {
            Ok(erased) => went(&erased, [0, 1, 0], "one that never was")?,
            // A key column that cannot hold it (a uuid) says so; keys of records that are gone are asked for later.
            Err(PortError::Permanent(_)) => {}
            Err(error) => return Err(failed(error)),
        }
        went(&self.erase(self.epoch, &[]).await?, [0, 0, 0], "nothing")?;
        self.is_unchanged().await?;
        kept("absent")
    }

    pub(super) async fn leaves_changed(&self) -> Said {
        let rows: Vec<_> = self
            .named(|index| index < 10)
            .into_iter()
            .map(|(key, digest)| (key, RecordDigest(digest.0.map(|byte| !byte))))
            .collect();
        went(&self.erase(self.epoch, &rows).await?, [0, 0, 10], "10 that changed")?;
        self.is_unchanged().await?;
        if let Some(wires) = &self.wires {
            let rows: Vec<_> = rows.into_iter().map(|(key, _)| (key, json!("made up"))).collect();
            let permit = self.permit(self.ids[0], self.epoch)?;
            let said = wires.driver.delete(&permit, &rows).await.map_err(failed)?;
            went(&said, [0, 0, 10], "10 at versions that never were")?;
            self.is_unchanged().await?;
        }
        kept("10 left alone")
    }

    pub(super) async fn erases_some(&mut self) -> Said {
        let rows = self.named(|index| index % 3 == 1);
        let named = rows.len() as u64;
        went(&self.erase(self.epoch, &rows).await?, [named, 0, 0], &named.to_string())?;
        for (key, _) in &rows {
            self.now.remove(key);
        }
        self.is_unchanged().await?;
        let proof = self.store.prove_empty(&self.known).await.map_err(failed)?;
        let left = self.known.iter().filter(|record| self.now.contains_key(&record.key)).count() as u64;
        ensure(proof.keys_found == left, || {
            format!("a probe finds {} record(s), and {left} of them are left", proof.keys_found)
        })?;
        if let Some(column) = self.embedding {
            let has = |vector| self.now.values().any(|(record, _)| identical(&record.values[column], vector));
            let left = different(&self.known, column).into_iter().filter(|vector| has(vector)).count() as u64;
            ensure(proof.vectors_found == left, || {
                format!("a probe finds {} vector(s), and {left} of them are left", proof.vectors_found)
            })?;
        }
        kept(format!("{named} of {}", rows.len() + self.now.len()))
    }

    pub(super) async fn erases_again(&self) -> Said {
        let gone = self.known.iter().filter(|record| !self.now.contains_key(&record.key));
        let gone: Vec<_> = gone.map(|record| (record.key.clone(), record.digest(None))).collect();
        let named = gone.len() as u64;
        went(&self.erase(self.epoch, &gone).await?, [0, named, 0], &format!("{named} that are gone"))?;
        self.is_unchanged().await?;
        kept(format!("{named} gone"))
    }

    pub(super) async fn erases_rest(&mut self) -> Said {
        let lines = match &self.wires {
            Some(wires) => wires.own.all().await.map_err(failed)?,
            None => Vec::new(),
        };
        let rows = self.named(|_| true);
        let named = rows.len() as u64;
        went(&self.erase(self.epoch, &rows).await?, [named, 0, 0], &named.to_string())?;
        self.now.clear();
        self.is_unchanged().await?;
        if let Some(wires) = &self.wires {
            let found = wires.own.lookup(&lines.iter().collect::<Vec<_>>(), true).await.map_err(failed)?;
            let theirs = wires.neighbour.all().await.map_err(failed)?;
            let hidden = found.iter().find(|line| !theirs.contains(line));
            ensure(hidden.is_none(), || {
                format!(
                    "a lookup with `anywhere` finds a record under key {} that is not the neighbour's: it was moved and not erased",
                    hidden.map_or(&json!(null), |line| &line.key)
                )
            })?;
        }
        kept(format!("{named} record(s)"))
    }

    pub(super) async fn scrubs(&self) -> Said {
        let permit = self.permit(self.ids[0], self.epoch)?;
        let one = self.store.scrub(&permit).await.map_err(failed)?;
        self.store.scrub(&permit).await.map_err(failed)?;
        kept(one.to_string())
    }

    pub(super) async fn probe_finds_nothing(&self) -> Said {
        let proof = self.store.prove_empty(&self.known).await.map_err(failed)?;
        ensure(proof.is_empty(), || {
            format!(
                "{} record(s), {} known key(s) and {} known vector(s) are found",
                proof.remaining, proof.keys_found, proof.vectors_found
            )
        })?;
        ensure(proof.keys_probed == self.known.len() as u64 && !proof.canary.is_empty(), || {
            "it does not say that it looked".into()
        })?;
        let seen = self.look_again().await?;
        ensure(seen.is_clean(), || format!("asked again after the purge, it says: {seen:?}"))?;
        kept(proof.canary)
    }

    pub(super) async fn probe_finds(&self) -> Said {
        let found = self.finds_known().await?;
        kept(format!("{} record(s), {found} vector(s)", self.known.len()))
    }

    /// That a probe finds all that is known; answers how many vectors.
    pub(super) async fn finds_known(&self) -> Result<u64, String> {
        let proof = self.store.prove_empty(&self.known).await.map_err(failed)?;
        let (there, known, vectors) = (self.now.len() as u64, self.known.len() as u64, self.embedding.is_some());
        ensure(proof.remaining == there, || format!("it counts {}, and {there} are there", proof.remaining))?;
        ensure(proof.keys_found == known && proof.keys_probed == known, || {
            format!("of {known} known records it looked for {} and found {}", proof.keys_probed, proof.keys_found)
        })?;
        ensure(proof.vectors_found == proof.vectors_probed && (proof.vectors_probed > 0) == vectors, || {
            format!("it looked for {} known vectors and found {}", proof.vectors_probed, proof.vectors_found)
        })?;
        let seen = self.look_again().await?;
        ensure(seen.remaining == there && seen.keys_found == known && seen.keys_probed == known, || {
            format!("asked by digests, it counts {} and finds {} of {known}", seen.remaining, seen.keys_found)
        })?;
        ensure(seen.vectors_found == seen.vectors_probed && (seen.vectors_probed > 0) == vectors, || {
            format!("asked by digests, it looked for {} known vectors and found {}", seen.vectors_probed, seen.vectors_found)
        })?;
        ensure(seen.fence != FenceSeen::Purged, || "it says that the plane was purged, and it was not".into())?;
        Ok(proof.vectors_found)
    }

    /// What a probe asks after a purge: by keys and digests, and by vectors.
    pub(super) async fn look_again(&self) -> Result<Recurrence, String> {
        let salt = Salt([9; 32]);
        let vector = |record: &Record| self.embedding.and_then(|column| KnownVector::of(&record.values[column]));
        let known =
            |record: &Record| Known { key: record.key.clone(), digest: record.digest(Some(&salt)), vector: vector(record) };
        let known: Vec<_> = self.known.iter().map(known).collect();
        self.store.look_again(&known, &salt).await.map_err(failed)
    }
}
