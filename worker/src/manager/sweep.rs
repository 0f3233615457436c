//! The sweep: rescuer, reconciler and start-up recovery in one. Recovery is the normal path, taken at every start.
//!
//! It takes back runs whose lease has run out or whose worker is dead, ends approvals that expired, wakes parked runs whose reason
//! no longer stands, erases personal values that have been kept for long enough, and delivers the notices that are due. If we die in it, the next one does the same.

use std::{
    collections::{HashMap, HashSet},
    fs::{File, TryLockError},
    path::PathBuf,
    sync::PoisonError,
};

use chrono::TimeDelta;
use lethe_ledger::{
    Actor, Approval, ApprovalStatus, Chain, Changes, Entry, EventType, Fault, Ledger, NewNotice, NoticeKind, Run, Settlement, Tx,
};
use serde::Serialize;
use serde_json::json;

use super::{Claimed, KnowledgeLifecycleManager, about, notices::of_halt};
use crate::policy::Reloaded;

/// What a sweep did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct SweepReport {
    /// Runs taken back from lost workers.
    pub interrupted: u64,
    /// Of those, runs halted because it happened too often.
    pub halted: u64,
    /// Approvals that expired.
    pub approvals_expired: u64,
    /// Approvals of whose end somebody was reminded.
    pub approvals_ending: u64,
    /// Parked runs made due.
    pub woken: u64,
    /// Notices that runs are due and nobody takes them.
    pub stalled: u64,
    /// Tenants whose personal values had been kept for long enough, and are erased.
    pub personal_erased: u64,
    /// Notices that were delivered.
    pub notices_delivered: u64,
    /// Notices that could not be delivered yet, or not at all.
    pub notices_undelivered: u64,
}

/// A worker's identity, and beside a ledger in a file its lock file: whoever can lock that knows that its owner is dead. On a server there
/// is none, since workers may be on any machine: there a lost worker's leases run out.
pub struct WorkerLock {
    id: String,
    held: Option<(PathBuf, File)>,
}

impl WorkerLock {
    /// Makes up a worker's identity and locks its file for as long as this value lives.
    pub fn acquire(ledger: &Ledger) -> std::io::Result<Self> {
        let mut random = [0; 8];
        ledger.entropy().fill(&mut random);
        let id = format!("worker-{}", hex::encode(random));
        let Some(path) = lock_path(ledger, &id) else { return Ok(Self { id, held: None }) };
        std::fs::create_dir_all(path.parent().expect("a lock file has a folder"))?;
        let held = File::create_new(&path)?;
        held.lock()?;
        Ok(Self { id, held: Some((path, held)) })
    }

    /// The worker's identity, unique per process.
    pub fn id(&self) -> &str {
        &self.id
    }
}

impl Drop for WorkerLock {
    fn drop(&mut self) {
        if let Some((path, _)) = &self.held {
            let _ = std::fs::remove_file(path);
        }
    }
}

fn lock_path(ledger: &Ledger, worker: &str) -> Option<PathBuf> {
    let mut folder = ledger.path()?.as_os_str().to_owned();
    folder.push("-workers");
    Some(PathBuf::from(folder).join(format!("{worker}.lock")))
}

/// Whether a worker's process is gone. Where that cannot be told, it is taken to live: its lease will say.
fn is_dead(ledger: &Ledger, worker: &str) -> bool {
    let Some(path) = lock_path(ledger, worker) else { return false };
    match File::open(path) {
        Ok(file) => match file.try_lock() {
            Ok(()) => true,
            Err(TryLockError::WouldBlock | TryLockError::Error(_)) => false,
        },
        Err(error) => error.kind() == std::io::ErrorKind::NotFound,
    }
}

/// That an approval ends.
fn of_ending(approval: &Approval) -> NewNotice {
    NewNotice {
        kind: NoticeKind::ApprovalEnding,
        tenant_id: Some(approval.tenant_id),
        plane_id: Some(approval.plane_id),
        offboarding_id: Some(approval.offboarding_id),
        subject_id: Some(approval.id),
        happens_at: approval.expires_at,
        lead: TimeDelta::zero(),
        details: json!({"plan_digest": approval.plan_digest}),
    }
}

/// Puts on record what became of approvals.
async fn of_approvals(tx: &mut Tx, approvals: &[Approval], event: EventType) -> Result<(), Fault> {
    for approval in approvals {
        let chain = Chain::Plane(approval.plane_id);
        let mut entry = Entry::new(chain, Some(approval.tenant_id), event, &Actor::system("sweep"), "sweep");
        entry.offboarding_id = Some(approval.offboarding_id);
        entry.evidence =
            json!({"approval_id": approval.id, "plan_digest": approval.plan_digest, "expires_at": approval.expires_at});
        tx.append(entry).await?;
    }
    Ok(())
}

fn ids(approvals: &[Approval]) -> Vec<uuid::Uuid> {
    approvals.iter().map(|approval| approval.id).collect()
}

impl KnowledgeLifecycleManager {
    /// Sweeps once, and delivers the notices that are due.
    pub async fn sweep(&self) -> Result<SweepReport, Fault> {
        let mut report = self.sweep_ledger().await?;
        report.personal_erased = self.erase_due().await?;
        let mut random = [0; 8];
        self.ledger.entropy().fill(&mut random);
        let told = self.deliver_notices(&format!("sweep-{}", hex::encode(random))).await?;
        (report.notices_delivered, report.notices_undelivered) = (told.delivered, told.again + told.failed);
        Ok(report)
    }

    /// Sweeps once and tells nobody: recovery waits for no receiver.
    pub async fn sweep_ledger(&self) -> Result<SweepReport, Fault> {
        let woken = self.reload_policies().await?;
        let owners = self.ledger.read(async |tx: &mut Tx| tx.lease_owners().await).await?;
        let dead: Vec<String> = owners.into_iter().filter(|owner| is_dead(&self.ledger, owner)).collect();
        let committed = self.ledger.transact(async |tx: &mut Tx| {
            let mut report = SweepReport::default();
            let mut lost = tx.expired_leases().await?;
            for owner in &dead {
                lost.extend(
                    tx.leased_to(owner).await?.into_iter().filter(|run| run.lease_until.is_some_and(|until| until > tx.at())),
                );
            }
            // Everything at once and in order; what was found is asked again of what is locked.
            let soon = tx.at() + self.config.approval.remind_before.0;
            let mut planes: HashSet<_> = tx.expired_approvals().await?.iter().map(|approval| approval.plane_id).collect();
            planes.extend(tx.ending_approvals(soon).await?.iter().map(|approval| approval.plane_id));
            planes.extend(lost.iter().map(|run| run.plane_id));
            tx.lock_planes(&Vec::from_iter(planes.iter().copied())).await?;
            self.observe_clock(tx).await?;
            self.take_back(tx, &lost, &mut report).await?;
            let locked = |approval: &Approval| planes.contains(&approval.plane_id);
            let expired: Vec<_> = tx.expired_approvals().await?.into_iter().filter(locked).collect();
            tx.end_approvals(&ids(&expired), ApprovalStatus::Expired).await?;
            of_approvals(tx, &expired, EventType::ApprovalExpired).await?;
            report.approvals_expired = expired.len() as u64;
            let ending: Vec<_> = tx.ending_approvals(soon).await?.into_iter().filter(locked).collect();
            tx.reminded(&ids(&ending)).await?;
            of_approvals(tx, &ending, EventType::ApprovalEnding).await?;
            for approval in &ending {
                self.announce(tx, of_ending(approval)).await?;
                let (plane, until) = (approval.plane_id, approval.expires_at);
                tracing::warn!(%plane, %until, "an approval ends soon, and its purge has not begun");
            }
            report.approvals_ending = ending.len() as u64;
            report.woken = woken + tx.wake_settled().await?;
            report.stalled = self.announce_stalled(tx).await?;
            Ok::<_, Fault>(report)
        });
        let report = committed.await?.into_inner();
        self.witness().await?;
        for owner in &dead {
            if let Some(path) = lock_path(&self.ledger, owner) {
                let _ = std::fs::remove_file(path);
            }
        }
        Ok(report)
    }

    /// Reads the policies again where their files have changed, puts on record what came of it, and has the runs that policies stopped
    /// looked at again, at the first call too: others may have decided before this process began. Answers how many runs those are.
    pub async fn reload_policies(&self) -> Result<u64, Fault> {
        let unsaid = || self.unsaid.lock().unwrap_or_else(PoisonError::into_inner);
        match self.gate.policies().reload(self.ledger.now()) {
            Reloaded::Unchanged => {}
            changed => unsaid().push(Some(changed)),
        }
        let news = unsaid().clone();
        if news.is_empty() {
            return Ok(0);
        }
        let committed = self.ledger.transact(async |tx: &mut Tx| {
            let mut woken = 0;
            for news in &news {
                let evidence = match news {
                    Some(Reloaded::Broken { error }) => {
                        tracing::error!(error = error as &dyn std::error::Error, "the policy folder is broken");
                        Some(json!({"broken": error.short(), "last_good_decides": self.config.policy.keep_last_good}))
                    }
                    Some(Reloaded::Changed { from, to }) => Some(json!({"from": from, "to": to})),
                    Some(Reloaded::Unchanged) | None => None,
                };
                if !matches!(news, Some(Reloaded::Broken { .. })) {
                    woken += tx.wake_denied().await?;
                }
                if let Some(evidence) = evidence {
                    let mut entry = Entry::new(Chain::System, None, EventType::PolicyChanged, &Actor::system("sweep"), "sweep");
                    entry.evidence = evidence;
                    tx.append(entry).await?;
                }
            }
            Ok::<_, Fault>(woken)
        });
        let woken = committed.await?.into_inner();
        // Said; what fails before here is said by the next call.
        unsaid().drain(..news.len());
        Ok(woken)
    }

    /// Takes runs back from workers that are lost: all of them by one write, whatever their number.
    async fn take_back(&self, tx: &mut Tx, lost: &[Run], report: &mut SweepReport) -> Result<(), Fault> {
        if lost.is_empty() {
            return Ok(());
        }
        let runs: Vec<_> = lost.iter().map(|run| run.id).collect();
        let known: HashMap<_, _> = lost.iter().map(|run| (run.id, run)).collect();
        let (mut changes, mut looping, due_at) = (Changes::default(), Vec::new(), tx.at());
        for case in tx.cases(&runs).await? {
            let run = known[&case.run.id];
            if case.run.status != run.status || case.run.epoch != run.epoch || case.run.lease_until != run.lease_until {
                // Recorded, renewed or taken back meanwhile.
                continue;
            }
            // The worker may be alive and slow: from now on it is out.
            changes.raise(case.plane.id, case.plane.epoch);
            let halted = run.interruptions + 1 >= self.config.queue.interruptions_max;
            let mut entry = about(&case, EventType::StageInterrupted, &Actor::system("sweep"), "sweep");
            entry.evidence =
                json!({"run_id": run.id, "lost_by": run.lease_owner, "interruptions": run.interruptions + 1, "halted": halted});
            tx.append(entry).await?;
            changes.settle(run, &Settlement::Interrupted { due_at });
            report.interrupted += 1;
            if halted {
                looping.push(run.id);
            }
        }
        tx.write(changes).await?;
        for case in tx.cases(&looping).await? {
            let message = format!("perform {}: the worker was lost {} times in it", case.run.step, case.run.interruptions);
            let error = json!({"code": "CRASH_LOOP", "message": message});
            tx.settle(&case.run, &Settlement::Halted { error, attempts: 0 }).await?;
            self.announce(tx, of_halt(&case, "CRASH_LOOP", tx.at())).await?;
            report.halted += 1;
        }
        Ok(())
    }

    /// Gives back what a stopping worker has claimed and not finished. Spends neither an attempt nor an interruption.
    pub async fn give_back(&self, claimed: &[Claimed], worker: &str) -> Result<(), Fault> {
        if claimed.is_empty() {
            return Ok(());
        }
        let committed = self.ledger.transact(async |tx: &mut Tx| {
            let runs: Vec<_> = claimed.iter().map(|claimed| claimed.case.run.id).collect();
            for case in tx.cases(&runs).await? {
                let Some(claimed) = claimed.iter().find(|claimed| claimed.case.run.id == case.run.id) else { continue };
                if case.run.epoch != Some(claimed.epoch) || case.run.lease_owner.as_deref() != Some(worker) {
                    continue;
                }
                tx.raise_epoch(case.plane.id).await?;
                let mut entry = about(&case, EventType::StageInterrupted, &Actor::system(worker), "worker");
                entry.evidence = json!({"run_id": case.run.id, "given_back": true});
                tx.append(entry).await?;
                let due_at = tx.at();
                tx.settle(&case.run, &Settlement::Postponed { due_at, blocked: None }).await?;
            }
            Ok::<_, Fault>(())
        });
        committed.await?.into_inner();
        Ok(())
    }
}
