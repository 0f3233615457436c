//! Claim: takes runs that are due, asks the gate on locked facts, raises each plane's epoch and leases what may start.
//!
//! The rule: whoever claims has raised the epoch, so every earlier holder is out; a purge's approval is consumed here, together with its
//! mark of no return. If we die in it, nothing was claimed.

use std::sync::Arc;

use lethe_ledger::{Actor, ApprovalStatus, Case, Chain, Entry, EventType, Fault, Lease, Run, Settlement, Tx};
use lethe_stages::{Code, Permit, Refusal, Step};
use serde_json::json;
use tokio::sync::OnceCell;
use uuid::Uuid;

use crate::policy::Action;

use super::{KnowledgeLifecycleManager, about, notices::of_halt, record::Batch};
use crate::gate::{GateRequest, Judgement};

/// A run that is ours until its lease ends.
#[derive(Clone)]
pub struct Claimed {
    /// The run and the facts on which it was allowed.
    pub case: Case,
    /// The epoch of the claim.
    pub epoch: i64,
    /// Leave to destroy, for a destructive run.
    pub permit: Option<Permit>,
    /// Whether the ledger may destroy at all, asked once for all that was claimed together; the error says why that is not known.
    pub(super) may_destroy: Arc<OnceCell<Result<bool, String>>>,
}

impl Claimed {
    /// Which claim it is: the run may be claimed again, by us too, while this claim is still being ended.
    pub(crate) fn key(&self) -> (Uuid, i64) {
        (self.case.run.id, self.epoch)
    }
}

impl KnowledgeLifecycleManager {
    pub(super) async fn claim_in(
        &self,
        tx: &mut Tx,
        limit: usize,
        worker: &str,
        plane: Option<Uuid>,
    ) -> Result<(Vec<Claimed>, usize), Fault> {
        let mut cases = tx.due_cases(limit, plane).await?;
        let seen = cases.len();
        if cases.iter().any(|case| case.run.step.is_destructive()) && self.observe_clock(tx).await? {
            cases.iter_mut().for_each(|case| case.facts.clock_suspect = true);
        }
        let pauses = if cases.iter().any(|case| case.paused) { tx.pauses().await? } else { Vec::new() };
        let mut starting = Vec::with_capacity(seen);
        for case in cases {
            let recent_purges = match case.run.step {
                Step::Purge if self.config.purge.per_hour_max > 0 => {
                    tx.purges_since(tx.at() - chrono::TimeDelta::hours(1)).await?
                }
                _ => 0,
            };
            let epoch = case.plane.epoch + 1;
            let archive_copies = match case.run.step {
                Step::Purge => self.archive_copies(&case),
                _ => Vec::new(),
            };
            let request = GateRequest { case: &case, epoch, pauses: &pauses, recent_purges, archive_copies: &archive_copies };
            match self.gate.judge(&self.stages, &request) {
                Judgement::Start(permit) => {
                    if case.run.step == Step::Purge {
                        // At once, so that it is counted when the next one is judged.
                        self.lease(tx, &[(&case.run, epoch)], worker).await?;
                    }
                    starting.push((case, epoch, permit));
                }
                Judgement::Wait { refusal, until } => {
                    let settlement = match until {
                        Some(due_at) if due_at > tx.at() => Settlement::Postponed { due_at, blocked: Some(refusal.clone()) },
                        _ => Settlement::Parked(refusal.clone()),
                    };
                    self.block(tx, &case, &refusal, "PENDING").await?;
                    tx.settle(&case.run, &settlement).await?;
                }
                Judgement::Refuse(refusal) => {
                    self.block(tx, &case, &refusal, "BLOCKED").await?;
                    let error = json!({"code": refusal.code, "message": refusal.message});
                    tx.settle(&case.run, &Settlement::Halted { error, attempts: 0 }).await?;
                    self.announce(tx, of_halt(&case, refusal.code.as_str(), tx.at())).await?;
                }
            }
        }
        let may_destroy = Arc::default();
        let mut claimed = Vec::with_capacity(starting.len());
        for (case, epoch, permit) in starting {
            claimed.push(self.start(tx, case, epoch, permit, &may_destroy, worker).await?);
        }
        let others = claimed.iter().filter(|claimed| claimed.case.run.step != Step::Purge);
        let others: Vec<_> = others.map(|claimed| (&claimed.case.run, claimed.epoch)).collect();
        self.lease(tx, &others, worker).await?;
        Ok((claimed, seen))
    }

    /// Leases and starts up to `limit` of the runs that follow a batch of answers, where they are due and may start. The others stay in
    /// the batch, to be queued: whatever stands in their way is found and put on record when they are claimed.
    pub(super) async fn hand_on(
        &self,
        tx: &mut Tx,
        batch: &mut Batch,
        limit: usize,
        worker: &str,
        plane: Option<Uuid>,
    ) -> Result<Vec<Claimed>, Fault> {
        if limit == 0 {
            return Ok(Vec::new());
        }
        let at = tx.at();
        // A purge is counted against its limit when it is claimed.
        let due = |case: &Case| case.run.step != Step::Purge && case.run.due_at.is_some_and(|due_at| due_at <= at);
        let here = |case: &Case| plane.is_none_or(|plane| plane == case.plane.id);
        let due: Vec<Case> = batch.next.extract_if(.., |case| !case.paused && due(case) && here(case)).collect();
        let suspect = due.iter().any(|case| case.run.step.is_destructive()) && self.observe_clock(tx).await?;
        let lease = self.lease_for(tx, worker);
        let may_destroy = Arc::default();
        let mut claimed = Vec::with_capacity(due.len().min(limit));
        for mut case in due {
            case.facts.clock_suspect |= suspect;
            let epoch = case.plane.epoch + 1;
            let request = GateRequest { case: &case, epoch, pauses: &[], recent_purges: 0, archive_copies: &[] };
            match self.gate.judge(&self.stages, &request) {
                Judgement::Start(permit) if claimed.len() < limit => {
                    batch.changes.hand_on(&case, epoch, &lease);
                    claimed.push(self.start(tx, case, epoch, permit, &may_destroy, worker).await?);
                }
                _ => batch.next.push(case),
            }
        }
        Ok(claimed)
    }

    fn lease_for(&self, tx: &Tx, worker: &str) -> Lease {
        Lease { owner: worker.to_owned(), until: tx.at() + self.config.queue.lease.0 }
    }

    async fn lease(&self, tx: &mut Tx, runs: &[(&Run, i64)], worker: &str) -> Result<(), Fault> {
        tx.lease(runs, &self.lease_for(tx, worker)).await
    }

    /// Notes a jump of the clock, once. Answers whether the clock is under suspicion now.
    pub(super) async fn observe_clock(&self, tx: &mut Tx) -> Result<bool, Fault> {
        let look = tx.observe_clock(self.config.clock.gap_max.0).await?;
        if look.is_news {
            let mut entry = Entry::new(Chain::System, None, EventType::ClockSuspect, &Actor::system("witness"), "witness");
            entry.evidence = json!({"at": tx.at()});
            tx.append(entry).await?;
            tracing::error!("the clock jumped forward: nothing is destroyed until `lethe ledger confirm-clock`");
        }
        Ok(look.is_suspect)
    }

    /// Puts on record that a leased run starts, and under which approval.
    async fn start(
        &self,
        tx: &mut Tx,
        mut case: Case,
        epoch: i64,
        permit: Option<Permit>,
        may_destroy: &Arc<OnceCell<Result<bool, String>>>,
        worker: &str,
    ) -> Result<Claimed, Fault> {
        let mut entry = about(&case, EventType::StageStarted, &Actor::system(worker), "gate");
        entry.gate = Some(self.gate.decision("ALLOWED", None));
        let mut evidence =
            json!({"run_id": case.run.id, "epoch": epoch, "attempt": case.run.attempt, "interruptions": case.run.interruptions});
        if case.run.step == Step::Purge {
            let plan = case.facts.plan_digest.clone().unwrap_or_default();
            let used: Vec<_> = case.facts.approvals.iter().filter(|approval| approval.releases(&plan, case.facts.at)).collect();
            for approval in used.iter().filter(|approval| !approval.consumed) {
                tx.end_approval(approval.id, ApprovalStatus::Consumed).await?;
            }
            evidence["approvals"] = json!(used.iter().map(|approval| approval.id).collect::<Vec<_>>());
            evidence["plan_digest"] = json!(plan);
            if let Ok(approvals) = self.gate.approved(&case) {
                let ask = self.gate.ask_of(&case, Action::Purge, approvals);
                tx.record_policy_decision(&json!(ask), true, &self.gate.revision()).await?;
            }
        }
        if case.run.step.is_destructive() {
            evidence["config_revision"] = json!(self.config.revision);
        }
        entry.evidence = evidence;
        tx.append(entry).await?;
        case.leased(epoch, &self.lease_for(tx, worker));
        Ok(Claimed { case, epoch, permit, may_destroy: may_destroy.clone() })
    }

    /// Puts on record, once, that a run may not go on.
    pub(super) async fn block(&self, tx: &mut Tx, case: &Case, refusal: &Refusal, decision: &'static str) -> Result<(), Fault> {
        let known = case.run.blocked.as_ref().is_some_and(|known| known.code == refusal.code);
        // Time passing as planned is no event.
        if known || matches!(refusal.code, Code::GracePeriodActive | Code::RetentionActive | Code::StoreWindow) {
            return Ok(());
        }
        if case.run.step == Step::Purge && matches!(refusal.code, Code::ApprovalsTooFew | Code::PolicyDenied) {
            let approvals = serde_json::from_value(refusal.details["approvals"].clone()).unwrap_or_default();
            let ask = self.gate.ask_of(case, Action::Purge, approvals);
            tx.record_policy_decision(&json!(ask), false, &self.gate.revision()).await?;
        }
        let mut entry = about(case, EventType::Blocked, &Actor::system("gate"), "gate");
        entry.gate = Some(self.gate.decision(decision, Some(refusal)));
        entry.evidence = json!({"code": refusal.code, "details": refusal.details});
        tx.append(entry).await?;
        Ok(())
    }
}
