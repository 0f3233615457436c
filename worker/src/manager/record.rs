//! Record: applies what handlers answered, each only if the epoch of its claim still holds.
//!
//! The rule: state, deadline, evidence, audit entries and the next run are one transaction. A late answer changes nothing.
//! If we die in it, nothing was recorded and the run is performed again.

use std::collections::HashMap;

use chrono::{DateTime, TimeDelta, Utc};
use lethe_ledger::{Actor, Case, Changes, EventType, Fault, Move, NoticeKind, OffboardingStatus, RunStatus, Settlement, Tx};
use lethe_stages::{
    Code, EvictMode, GraceAccess, LifecycleState, StageError, StageOutcome, Step,
    contract::{Done, Evidence, SOURCE_MOVED},
    destruction::{DESTRUCTION_PLAN_SCHEMA, DestructionPlan, StoreDestruction},
    lifecycle::Wait,
    manifest::Manifest,
};
use serde_json::json;
use uuid::Uuid;

#[cfg(debug_assertions)]
use super::turn::are_as_read;
use super::{
    Finished, KnowledgeLifecycleManager, about,
    archive_key::methods,
    notices::{of_halt, of_offboarding},
    probe::Purged,
};
use crate::hours;

/// What became of one answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordResult {
    /// It is on record.
    Recorded,
    /// The run is no longer ours; nothing was changed.
    Stale,
}

/// What a batch of answers changes, until it is written.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) changes: Changes,
    /// The runs that follow, each with the facts as they will be.
    pub(super) next: Vec<Case>,
    /// Purged planes: reduced to tombstones once everything else is written.
    purged: Vec<Purged>,
    /// Offboardings whose stores were fenced.
    fenced: Vec<Uuid>,
}

impl KnowledgeLifecycleManager {
    /// Applies the answers to `batch`; [`Self::write`] writes it.
    pub(super) async fn record_in(
        &self,
        tx: &mut Tx,
        batch: &mut Batch,
        finished: &[Finished],
        worker: &str,
    ) -> Result<Vec<RecordResult>, Fault> {
        let claimed = finished.iter().filter(|finished| finished.case.run.epoch == Some(finished.epoch));
        let cases = tx.refresh(claimed.map(|finished| &finished.case)).await?;
        let mut cases: HashMap<Uuid, Case> = cases.into_iter().map(|case| (case.run.id, case)).collect();
        // Taken out, so that an answer that is given twice is recorded once.
        let ours = |finished: &Finished| cases.remove(&finished.case.run.id).filter(|case| is_ours(case, finished.epoch, worker));
        let ours: Vec<Option<Case>> = finished.iter().map(ours).collect();

        #[cfg(debug_assertions)]
        are_as_read(tx, ours.iter().flatten()).await?;
        let actor = Actor::system(worker);
        for (case, finished) in ours.iter().zip(finished) {
            if let Some(case) = case {
                self.apply(tx, batch, case, finished, &actor).await?;
            }
        }
        let result = |(case, finished): (&Option<Case>, &Finished)| match case {
            Some(_) => RecordResult::Recorded,
            None => {
                tracing::warn!(run = %finished.case.run.id, epoch = finished.epoch, "drop a late answer: the run is no longer ours");
                RecordResult::Stale
            }
        };
        Ok(ours.iter().zip(finished).map(result).collect())
    }

    /// Writes what a batch of answers changes; the runs that follow and were not handed on are queued.
    pub(super) async fn write(&self, tx: &mut Tx, mut batch: Batch) -> Result<(), Fault> {
        batch.next.iter().for_each(|next| batch.changes.enqueue(next));
        tx.write(batch.changes).await?;
        tx.keep_fences(&batch.fenced).await?;
        for purged in batch.purged {
            self.plan_probes(tx, &purged).await?;
            tx.close_offboarding(purged.offboarding_id, OffboardingStatus::Completed).await?;
            tx.entomb(purged.plane_id, purged.offboarding_id).await?;
        }
        Ok(())
    }

    async fn apply(&self, tx: &mut Tx, batch: &mut Batch, case: &Case, finished: &Finished, actor: &Actor) -> Result<(), Fault> {
        match &finished.result {
            Ok(StageOutcome::Done(done)) => self.complete(tx, batch, case, done, actor).await,
            Ok(StageOutcome::NotYet { until, refusal }) => {
                self.block(tx, case, refusal, "PENDING").await?;
                // The fact may have changed while the handler answered; then nobody would wake the run again.
                let settled =
                    matches!(refusal.code, Code::ActiveReferences | Code::ActiveUsage) && case.facts.runs_in_flight == 0;
                let settlement = match until {
                    _ if settled => Settlement::Postponed { due_at: tx.at(), blocked: Some(refusal.clone()) },
                    Some(due_at) => Settlement::Postponed { due_at: *due_at, blocked: Some(refusal.clone()) },
                    None => Settlement::Parked(refusal.clone()),
                };
                batch.changes.settle(&case.run, &settlement);
                Ok(())
            }
            Ok(StageOutcome::ExportAgain(evidence)) => {
                self.completed(tx, batch, case, evidence, actor).await?;
                tx.next_round(case.offboarding.id).await?;
                batch.next.push(case.follow(tx, Step::Export, tx.at()).again());
                Ok(())
            }
            // Its hours were over: no failure, and no event.
            Err(error) if error.code() == Code::StoreWindow.as_str() => {
                let refusal = hours::open(&self.config, case, tx.at()).err();
                let until = refusal.as_ref().and_then(|refusal| serde_json::from_value(refusal.details["until"].clone()).ok());
                // Closed by the clock of the machine where it ran, and open by this one: a moment later it is open by both.
                let due_at = until.unwrap_or(tx.at() + hours::MOMENT).min(tx.at() + hours::LOOK);
                let settlement = Settlement::Postponed { due_at, blocked: refusal };
                batch.changes.settle(&case.run, &settlement);
                Ok(())
            }
            Err(error) => self.fail(tx, batch, case, finished, error, actor).await,
        }
    }

    async fn fail(
        &self,
        tx: &mut Tx,
        batch: &mut Batch,
        case: &Case,
        finished: &Finished,
        error: &StageError,
        actor: &Actor,
    ) -> Result<(), Fault> {
        let attempt = case.run.attempt + 1;
        let trouble = error.trouble();
        let mut report = json!({"code": trouble.code, "message": trouble.message});
        if !trouble.stores.is_empty() {
            report["stores"] = json!(trouble.stores);
        }
        if let Some(progress) = &finished.progress {
            report["progress"] = progress.clone();
        }
        let (halted, settlement) = match error {
            StageError::Halt(_) => (true, Settlement::Halted { error: report, attempts: 1 }),
            StageError::Transient(_) if attempt >= self.config.queue.attempts_max => {
                (true, Settlement::Halted { error: report, attempts: 1 })
            }
            StageError::Transient(_) => {
                let due_at = tx.at() + self.backoff(attempt, u64::from_be_bytes(tx.random::<8>()));
                (false, Settlement::Failed { due_at, error: report })
            }
        };
        // What was copied before it moved stays where it is; the next attempt copies all of it anew, beside that.
        if trouble.is(SOURCE_MOVED) {
            tx.next_round(case.offboarding.id).await?;
        }
        let mut entry = about(case, EventType::StageFailed, actor, "worker");
        entry.evidence = json!({"run_id": case.run.id, "code": error.code(), "attempt": attempt, "halted": halted});
        tx.append(entry).await?;
        batch.changes.settle(&case.run, &settlement);
        if halted {
            self.announce(tx, of_halt(case, error.code(), tx.at())).await?;
        }
        Ok(())
    }

    /// 30 s doubling, varied by ±20 %, at most an hour: as configured. `draw` is a random number.
    pub(super) fn backoff(&self, attempt: i64, draw: u64) -> TimeDelta {
        let queue = &self.config.queue;
        let (first, max) = (queue.backoff_first.0.num_milliseconds().max(0), queue.backoff_max.0.num_milliseconds());
        let delay = first.saturating_mul(1 << (attempt - 1).clamp(0, 20)).min(max);
        let spread = delay * i64::from(queue.backoff_jitter) / 100;
        let shift = if spread > 0 { (draw % (2 * spread as u64 + 1)) as i64 - spread } else { 0 };
        TimeDelta::milliseconds((delay + shift).min(max))
    }

    async fn completed(
        &self,
        tx: &mut Tx,
        batch: &mut Batch,
        case: &Case,
        evidence: &Evidence,
        actor: &Actor,
    ) -> Result<(), Fault> {
        let event = if case.run.step == Step::Restore { EventType::Rollback } else { EventType::StageCompleted };
        let mut entry = about(case, event, actor, "worker");
        entry.evidence = evidence.clone();
        tx.append(entry).await?;
        batch.changes.settle(&case.run, &Settlement::Succeeded(evidence.clone()));
        Ok(())
    }

    /// The step is done: what follows from it, in the same transaction.
    async fn complete(&self, tx: &mut Tx, batch: &mut Batch, case: &Case, done: &Done, actor: &Actor) -> Result<(), Fault> {
        let mut evidence = done.evidence.clone();
        if case.run.step == Step::Purge {
            evidence = self.with_probes(tx, &evidence);
            // The key goes in this transaction, with everything else that the ledger still holds of the archive.
            evidence["methods"] = methods(case);
        }
        self.completed(tx, batch, case, &evidence, actor).await?;
        let (at, terms, offboarding) = (tx.at(), &case.offboarding.terms, case.offboarding.id);
        match case.run.step {
            Step::Deregister => {
                if terms.grace_access != GraceAccess::Full {
                    batch.fenced.push(offboarding);
                }
                if terms.grace_access == GraceAccess::None && case.facts.tokens > 0 {
                    tx.suspend_tokens(case.plane.id, offboarding).await?;
                }
                let until = at + terms.grace;
                let entered = LifecycleState::PendingDeactivate;
                self.transition(tx, batch, case, entered, actor).await?;
                batch.changes.start_wait(Wait::Grace, offboarding, until);
                self.announce(tx, of_offboarding(NoticeKind::CancelEnds, &case.offboarding, until)).await?;
                batch.next.push(case.follow(tx, Step::Verify, until).moved(entered).waits(Wait::Grace, until));
            }
            Step::Verify => batch.next.push(case.follow(tx, Step::Deactivate, at)),
            Step::Deactivate => {
                if case.facts.tokens > 0 {
                    tx.revoke_tokens(case.plane.id).await?;
                }
                let after = at + terms.archive_delay;
                let entered = LifecycleState::Deactivated;
                self.transition(tx, batch, case, entered, actor).await?;
                batch.changes.start_wait(Wait::ArchiveDelay, offboarding, after);
                self.announce_evict(tx, case, after).await?;
                batch.next.push(case.follow(tx, Step::Export, after).moved(entered).revoked().waits(Wait::ArchiveDelay, after));
            }
            Step::Export => {
                let manifest = done.manifest.as_ref().ok_or(Fault::IncompleteEntry(vec!["manifest"]))?;
                let prefix = format!("{}/{}/", case.plane.archive_url.as_deref().unwrap_or_default(), case.plane.id);
                batch.changes.keep_archive(&prefix, manifest)?;
                match terms.evict {
                    EvictMode::AfterArchive => batch.next.push(case.follow(tx, Step::Evict, at).archived(&prefix, manifest)?),
                    EvictMode::AtPurge => self.archived(tx, batch, case, manifest, &prefix, actor).await?,
                }
            }
            Step::Evict => {
                let bound = case.bound()?;
                let prefix = bound.prefix.ok_or(Fault::IncompleteEntry(vec!["archive"]))?;
                let manifest = bound.manifest.ok_or(Fault::IncompleteEntry(vec!["manifest"]))?;
                self.archived(tx, batch, case, &manifest, &prefix, actor).await?;
            }
            Step::Purge => {
                self.transition(tx, batch, case, LifecycleState::Purged, actor).await?;
                batch.purged.push(Purged::of(case, &done.known)?);
            }
            Step::Restore => {}
        }
        Ok(())
    }

    /// ARCHIVED: the retention starts, and there is a plan to approve.
    async fn archived(
        &self,
        tx: &mut Tx,
        batch: &mut Batch,
        case: &Case,
        manifest: &Manifest,
        prefix: &str,
        actor: &Actor,
    ) -> Result<(), Fault> {
        let archived_at = self.transition(tx, batch, case, LifecycleState::Archived, actor).await?;
        let plan = self.plan(case, manifest, prefix, 0)?;
        batch.changes.set_plan(&plan);
        // From what is on record, by which it is judged whether a purge was early.
        let until = archived_at + case.offboarding.terms.retention;
        batch.changes.start_wait(Wait::Retention, case.offboarding.id, until);
        self.announce(tx, of_offboarding(NoticeKind::Purge, &case.offboarding, until)).await?;
        let next = case.follow(tx, Step::Purge, until).moved(LifecycleState::Archived).waits(Wait::Retention, until);
        batch.next.push(next.archived(prefix, manifest)?.planned(plan));
        Ok(())
    }

    /// Moves the plane, on record. Answers when that is dated.
    async fn transition(
        &self,
        tx: &mut Tx,
        batch: &mut Batch,
        case: &Case,
        to: LifecycleState,
        actor: &Actor,
    ) -> Result<DateTime<Utc>, Fault> {
        let mut entry = about(case, EventType::Transition, actor, "worker");
        entry.from_state = Some(case.plane.state);
        entry.to_state = Some(to);
        let recorded = tx.append(entry).await?;
        let at = recorded.at;
        batch.changes.move_plane(Move { plane_id: case.plane.id, from: case.plane.state, to, recorded });
        Ok(at)
    }
}

fn is_ours(case: &Case, epoch: i64, worker: &str) -> bool {
    case.run.status == RunStatus::Running
        && case.run.epoch == Some(epoch)
        && case.plane.epoch == epoch
        && case.run.lease_owner.as_deref() == Some(worker)
}

impl KnowledgeLifecycleManager {
    /// The declared copies of the plane's archive, as this process would purge them.
    pub(crate) fn archive_copies(&self, case: &Case) -> Vec<String> {
        self.config.archive_copies(case.plane.archive_url.as_deref().unwrap_or_default(), case.plane.id)
    }

    /// What a purge would destroy, as it stands in this transaction.
    pub(super) fn plan(&self, case: &Case, manifest: &Manifest, prefix: &str, revision: u32) -> Result<DestructionPlan, Fault> {
        let evict = case.offboarding.terms.evict;
        let bindings = case.bound()?.bindings;
        let stores = manifest.stores.iter().zip(&bindings).map(|(store, binding)| StoreDestruction {
            store: store.store.clone(),
            resource: store.resource.clone(),
            scope_digest: binding.scope_digest(),
            records: if evict == EvictMode::AtPurge { store.rows } else { 0 },
            attested: binding.attested(),
        });
        Ok(DestructionPlan {
            schema_version: DESTRUCTION_PLAN_SCHEMA,
            revision,
            tenant_id: case.plane.tenant_id,
            plane_id: case.plane.id,
            offboarding_id: case.offboarding.id,
            ground: case.offboarding.terms.ground,
            evict,
            stores: stores.collect(),
            archive_prefix: prefix.to_owned(),
            archive_copies: self.archive_copies(case),
            archive_key_id: case.offboarding.archive_key_id,
            manifest_sha256: lethe_stages::canonical::digest(manifest)?,
            archive_parts: manifest.parts(),
            archive_rows: manifest.rows(),
            archive_bytes: manifest.bytes(),
        })
    }
}
