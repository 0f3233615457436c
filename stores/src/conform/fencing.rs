//! The promises about fences: whom they keep out, whom they let in, and what they remember.
//!
//! The rule: a refusal counts only if it is the proper one; a store that is busy has refused nothing. If we die in one, the scratch plane
//! stays as far closed as it is.

use lethe_stages::{lifecycle::FenceMode, ports::PortError};

use super::bench::{Bench, Said, Seen, by_key, ensure, failed, kept, read_all, same, went};

impl Bench<'_> {
    pub(super) async fn proves_nothing_unfenced(&self) -> Said {
        let seen = self.look_again().await?;
        ensure(!seen.fence_stands(), || format!("asked again, it says that a fence stands ({})", seen.fence))?;
        match self.store.prove_empty(&self.known).await {
            Err(PortError::WrongPlace(said)) => kept(said),
            Err(error) => Err(format!("it should say that this is the wrong place, and says: {error}")),
            Ok(_) => Err("it proves, where it was never fenced".into()),
        }
    }

    /// Fences, and requires that it says so.
    async fn fenced(&mut self, mode: FenceMode, then: FenceMode) -> Result<(), String> {
        let said = self.fence(mode).await?;
        ensure(said == then, || {
            format!("asked to be {}, it says that it is {}, and should be {}", mode.as_str(), said.as_str(), then.as_str())
        })
    }

    pub(super) async fn read_only(&mut self) -> Said {
        self.fenced(FenceMode::ReadOnly, FenceMode::ReadOnly).await?;
        self.users_may(false, true).await
    }

    pub(super) async fn closed(&mut self) -> Said {
        self.fenced(FenceMode::Closed, FenceMode::Closed).await?;
        self.users_may(false, false).await
    }

    pub(super) async fn closes_further_only(&mut self) -> Said {
        self.fenced(FenceMode::ReadOnly, FenceMode::Closed).await?;
        kept("still closed")
    }

    /// That the epoch before the last is refused.
    pub(super) async fn refuses_old(&self, verbs: &[&str]) -> Result<(), String> {
        let old = self.epoch - 1;
        for verb in verbs {
            let done = match *verb {
                "fence" => self.store.fence(FenceMode::Closed, old).await.map(drop),
                "unfence" => self.store.unfence(old).await,
                _ => self.store.erase(&self.permit(self.ids[0], old)?, &self.named(|index| index < 5), None).await.map(drop),
            };
            match done {
                Err(PortError::StaleEpoch { .. }) => {}
                Err(error) => return Err(format!("{verb} should refuse an old epoch as such, and says: {error}")),
                Ok(()) => return Err(format!("{verb} takes epoch {old} after {}", self.epoch)),
            }
        }
        self.is_unchanged().await
    }

    /// That another plane is refused, whatever its epoch.
    async fn refuses_stranger(&self, verbs: &[&str]) -> Result<(), String> {
        let epoch = self.epoch + 1;
        for verb in verbs {
            let done = match *verb {
                "fence" => self.stranger.fence(FenceMode::Closed, epoch).await.map(drop),
                "unfence" => self.stranger.unfence(epoch).await,
                "probe" => self.stranger.prove_empty(&self.known).await.map(drop),
                _ => {
                    let permit = self.permit(self.ids[2], epoch)?;
                    self.stranger.erase(&permit, &self.named(|index| index < 5), None).await.map(drop)
                }
            };
            match done {
                Err(PortError::WrongPlace(_)) => {}
                Err(error) => return Err(format!("{verb} should say that this is the wrong place, and says: {error}")),
                Ok(()) => return Err(format!("another plane may {verb} the same records")),
            }
        }
        self.is_unchanged().await
    }

    pub(super) async fn refuses_old_epochs(&self) -> Said {
        self.refuses_old(&["fence", "unfence"]).await?;
        kept(format!("{} after {}", self.epoch - 1, self.epoch))
    }

    pub(super) async fn refuses_strangers(&self) -> Said {
        self.refuses_stranger(&["fence", "unfence", "delete", "probe"]).await?;
        kept("refused")
    }

    pub(super) async fn opened(&mut self) -> Said {
        self.unfence().await?;
        self.store.unfence(self.epoch).await.map_err(failed)?;
        self.users_may(true, true).await
    }

    pub(super) async fn remembers_while_open(&mut self) -> Said {
        let remembered = async {
            self.refuses_old(&["fence", "unfence"]).await?;
            self.refuses_stranger(&["fence", "unfence"]).await
        };
        let remembered = remembered.await;
        self.fenced(FenceMode::Closed, FenceMode::Closed).await?;
        remembered?;
        kept("refused")
    }

    /// A record that users changed is another one, and nothing that was known of the old one removes it.
    pub(super) async fn tells_changed(&mut self) -> Said {
        if self.users.change.is_none() {
            return Ok(Seen::NotAsked("without --change-command"));
        }
        let Some((key, (_, digest))) = self.now.first_key_value() else { return Err("nothing is left".into()) };
        let (key, digest) = (key.clone(), *digest);
        let line = match &self.wires {
            Some(wires) => wires.own.all().await.map_err(failed)?.into_iter().next(),
            None => None,
        };
        self.unfence().await?;
        let done = self.users.change(&self.told, &key).await.map_err(failed)?;
        self.fenced(FenceMode::Closed, FenceMode::Closed).await?;
        ensure(done == Some(true), || "the command that changes a record failed, while the plane was open".into())?;
        let found = by_key(read_all(&*self.store).await?);
        let new = found.get(&key).filter(|(_, new)| *new != digest).cloned();
        let new =
            new.ok_or_else(|| format!("the command that changes a record ended well, and {key} reads as before or not at all"))?;
        self.known.iter_mut().filter(|record| record.key == key).for_each(|record| *record = new.0.clone());
        self.now.insert(key.clone(), new);
        same(&self.now, &found)?;
        went(&self.erase(self.epoch, &[(key.clone(), digest)]).await?, [0, 0, 1], "one that changed")?;
        if let (Some(wires), Some(line)) = (&self.wires, &line) {
            went(&self.delete(wires, &[(&key, line)]).await?, [0, 0, 1], "one that changed, at its old version,")?;
        }
        self.is_unchanged().await?;
        kept(format!("record {key}"))
    }

    /// A record that lost its plane is none of the plane's any more, and not gone.
    pub(super) async fn finds_orphans(&mut self) -> Said {
        if self.users.orphan.is_none() {
            return Ok(Seen::NotAsked("without --orphan-command"));
        }
        let Some(key) = self.known.last().map(|record| record.key.clone()) else { return Err("nothing is left".into()) };
        self.unfence().await?;
        let done = self.users.orphan(&self.told, &key).await.map_err(failed)?;
        self.fenced(FenceMode::Closed, FenceMode::Closed).await?;
        ensure(done == Some(true), || "the command that makes a record nobody's failed, while the plane was open".into())?;
        self.now.remove(&key);
        self.is_unchanged().await?;
        let found = self.finds_known().await;
        // It is nobody's for good, and would be found for ever.
        self.known.retain(|record| record.key != key);
        found?;
        kept(format!("record {key}"))
    }

    /// What a purge closes stays closed, and forgets nothing.
    pub(super) async fn purged(&mut self) -> Said {
        self.fenced(FenceMode::Purged, FenceMode::Purged).await?;
        self.fenced(FenceMode::Closed, FenceMode::Purged).await?;
        match self.store.unfence(self.epoch).await {
            Err(PortError::Permanent(_) | PortError::WrongPlace(_)) => {}
            Err(error) => return Err(format!("it should refuse to open a plane that was purged, and says: {error}")),
            Ok(()) => return Err("it opens a plane that was purged".into()),
        }
        self.refuses_old(&["fence", "delete"]).await?;
        self.refuses_stranger(&["fence", "delete", "probe"]).await?;
        let seen = self.look_again().await?;
        ensure(seen.fence_stands(), || format!("asked again after the purge, it says: {seen:?}"))?;
        kept("closed for good")
    }

    /// Asked while there are records yet that users could read.
    pub(super) async fn purged_for_users(&mut self) -> Said {
        let users = self.users_may(false, false).await?;
        match self.neighbours_may().await {
            Err(said) => Err(format!("of its neighbour's users: {said}")),
            Ok(_) => Ok(users),
        }
    }

    pub(super) async fn survives_restart(&mut self) -> Said {
        if self.users.restart.is_none() {
            return Ok(Seen::NotAsked("without --restart-command"));
        }
        self.fenced(FenceMode::Purged, FenceMode::Purged).await?;
        let done = self.users.restart(&self.told).await.map_err(failed)?;
        ensure(done == Some(true), || "the command that restarts the store failed".into())?;
        let seen = self.look_again().await?;
        ensure(seen.is_clean(), || format!("asked again after a restart, it says: {seen:?}"))?;
        self.refuses_old(&["fence"]).await?;
        self.refuses_stranger(&["fence", "probe"]).await?;
        match self.users_may(false, false).await? {
            Seen::NotAsked(_) => kept("the fence stands"),
            seen => Ok(seen),
        }
    }
}
