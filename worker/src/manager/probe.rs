//! Probes: planned when a purge is recorded, claimed when they are due, asked without an open transaction, recorded by who holds the claim.
//!
//! The rule: a probe destroys nothing. It asks each store for what is known of the plane and the archive for objects, and sets a fence
//! again that is gone. Whatever it finds opens the plane's case again, and nothing but a clean probe lets it be closed. If we die in it,
//! its lease runs out and it is asked again.

use std::panic::AssertUnwindSafe;

use chrono::{DateTime, Utc};
use futures::FutureExt;
use lethe_ledger::{
    Actor, Binding, Case, Chain, Entry, EventType, Fault, Finding, Lease, NewProbe, Plane, Probe, ProbeAnswer, ProbeCause,
    ProbeScope, ProbeStatus, Tx,
};
use lethe_stages::{
    crash::{CrashPoint, reached},
    lifecycle::FenceMode,
    ports::PortError,
    record::{Known, Salt},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};
use uuid::Uuid;

use super::{KnowledgeLifecycleManager, RecordResult, notices::of_finding};

/// What the probes of one call came to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ProbeReport {
    /// Found nothing.
    pub clean: u64,
    /// Found something.
    pub found: u64,
    /// Could not be asked, now or at all.
    pub failed: u64,
}

/// A plane whose purge is being recorded, with what only this transaction still knows of it.
pub(super) struct Purged {
    pub(super) plane_id: Uuid,
    pub(super) offboarding_id: Uuid,
    tenant_id: Uuid,
    archive_url: Option<String>,
    salt: Option<Salt>,
    scopes: Vec<Scoped>,
}

/// One binding of a purged plane: where to look, and for what.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Scoped {
    mapping: Option<Json>,
    known: Vec<Known>,
}

impl Purged {
    pub(super) fn of(case: &Case, known: &[Vec<Known>]) -> Result<Self, Fault> {
        let scoped = |(place, binding): (usize, Binding)| Scoped {
            mapping: binding.mapping,
            known: known.get(place).cloned().unwrap_or_default(),
        };
        Ok(Self {
            plane_id: case.plane.id,
            offboarding_id: case.offboarding.id,
            tenant_id: case.plane.tenant_id,
            archive_url: case.plane.archive_url.clone(),
            salt: case.offboarding.salt.as_ref().map(Salt::for_probes),
            scopes: case.bound()?.bindings.into_iter().enumerate().map(scoped).collect(),
        })
    }
}

/// What a claimed probe asks.
struct Question {
    plane: Plane,
    bindings: Vec<Binding>,
    scope: ProbeScope,
}

/// What the stores and the archive said, until it is told which status that is.
#[derive(Default)]
struct Said {
    stores: Vec<Json>,
    archive: Json,
    came_back: bool,
    failures: Vec<(bool, String)>,
}

impl KnowledgeLifecycleManager {
    /// A purge's evidence, with when it is tried again and what is kept until then.
    pub(super) fn with_probes(&self, tx: &Tx, evidence: &Json) -> Json {
        let mut evidence = evidence.clone();
        let probe = &self.config.probe;
        if !probe.after.is_empty() {
            let at: Vec<DateTime<Utc>> = probe.after.iter().map(|after| tx.at() + after.0).collect();
            evidence["probes"] = json!({
                "at": at, "kept": probe.kept(), "kept_until": "the last of them that comes back clean",
            });
        }
        evidence
    }

    /// Plans the probes of a purged plane and keeps what it is looked for by, in the transaction that records its purge.
    pub(super) async fn plan_probes(&self, tx: &mut Tx, purged: &Purged) -> Result<(), Fault> {
        let Purged { plane_id, offboarding_id, tenant_id, .. } = *purged;
        let after = &self.config.probe.after;
        let Some(salt) = purged.salt.clone().filter(|_| !after.is_empty()) else { return Ok(()) };
        let scopes = json!(purged.scopes);
        tx.keep_probe_scope(plane_id, &ProbeScope { archive_url: purged.archive_url.clone(), salt, scopes }).await?;
        for after in after {
            let due_at = tx.at() + after.0;
            let new = NewProbe { offboarding_id, plane_id, tenant_id, cause: ProbeCause::Planned, requested_by: None, due_at };
            tx.plan_probe(&new).await?;
        }
        Ok(())
    }

    /// Asks every probe that is due, one after the other; of one plane, if given.
    pub async fn probe_due(&self, worker: &str, plane: Option<Uuid>) -> Result<ProbeReport, Fault> {
        let mut report = ProbeReport::default();
        while let Some(probe) = self.claim_probe(worker, plane).await? {
            let answer = tokio::select! {
                answer = self.perform_probe(&probe) => answer,
                // Somebody else has it by now, or will have.
                lost = self.keep_probe(&probe, worker) => { lost?; continue }
            };
            let counted = match &answer {
                ProbeAnswer::Ended { status: ProbeStatus::Clean, .. } => &mut report.clean,
                ProbeAnswer::Ended { .. } => &mut report.found,
                _ => &mut report.failed,
            };
            *counted += 1;
            self.record_probe(&probe, worker, &answer).await?;
        }
        Ok(report)
    }

    /// Takes back what lost workers left, then claims one probe that is due.
    pub async fn claim_probe(&self, worker: &str, plane: Option<Uuid>) -> Result<Option<Probe>, Fault> {
        // Most calls find nothing: look before taking the write lock.
        if !self.ledger.read(async |tx: &mut Tx| tx.probes_are_due().await).await? {
            return Ok(None);
        }
        let committed = self.ledger.transact_under_control(async |tx: &mut Tx| {
            for lost in tx.lost_probes().await? {
                if lost.interruptions + 1 < self.config.queue.interruptions_max {
                    tx.take_back_probe(&lost, None).await?;
                    continue;
                }
                let message = format!("ask the probe: its worker was lost {} times in it", lost.interruptions + 1);
                tx.lock_planes(&[lost.plane_id]).await?;
                if tx.take_back_probe(&lost, Some(&json!({"code": "CRASH_LOOP", "message": message}))).await? {
                    self.probe_failed(tx, &lost, "CRASH_LOOP").await?;
                    self.ask_again(tx, lost.offboarding_id, lost.plane_id, lost.tenant_id).await?;
                }
            }
            let lease = self.probe_lease(tx, worker);
            Ok::<_, Fault>(tx.claim_probes(1, &lease, plane).await?.pop())
        });
        Ok(committed.await?.into_inner())
    }

    fn probe_lease(&self, tx: &Tx, worker: &str) -> Lease {
        Lease { owner: worker.to_owned(), until: tx.at() + self.config.queue.lease.0 }
    }

    /// Renews a probe's lease until it is no longer ours.
    async fn keep_probe(&self, probe: &Probe, worker: &str) -> Result<(), Fault> {
        let every = (self.config.queue.lease.0 / 3).to_std().unwrap_or(std::time::Duration::from_secs(1));
        loop {
            tokio::time::sleep(every).await;
            let renewed = self.ledger.transact(async |tx: &mut Tx| {
                let lease = self.probe_lease(tx, worker);
                tx.renew_probe(probe, &lease).await
            });
            match renewed.await {
                Ok(renewed) if *renewed.get() => {}
                Ok(_) => return Ok(()),
                Err(fault) if fault.is_passing() => {}
                Err(fault) => return Err(fault),
            }
        }
    }

    /// Asks the stores and the archive. No transaction is open. A driver that panics could not be asked.
    pub async fn perform_probe(&self, probe: &Probe) -> ProbeAnswer {
        match AssertUnwindSafe(self.ask(probe)).catch_unwind().await {
            Ok(answer) => answer,
            Err(_) => self.not_asked(probe, &[(true, "ask the stores and the archive: a driver panicked".into())]),
        }
    }

    async fn ask(&self, probe: &Probe) -> ProbeAnswer {
        let question = match self.question(probe).await {
            Ok(Some(question)) => question,
            Ok(None) => {
                let message = "read what the plane is looked for by: nothing is kept any more";
                return ProbeAnswer::Failed(json!({"code": "NO_SCOPE", "message": message}));
            }
            Err(fault) => return self.not_asked(probe, &[(true, fault.to_string())]),
        };
        let scopes: Vec<Scoped> = match serde_json::from_value(question.scope.scopes.clone()) {
            Ok(scopes) => scopes,
            Err(error) => return self.not_asked(probe, &[(false, format!("read what the plane is looked for by: {error}"))]),
        };
        let mut said = Said::default();
        for (binding, scope) in question.bindings.iter().zip(&scopes) {
            self.ask_store(&question, binding, scope, &mut said).await;
        }
        self.ask_archive(&question, &mut said).await;
        reached(CrashPoint::Performed);
        // What came back is known, whoever else did not answer.
        if !said.came_back && !said.failures.is_empty() {
            return self.not_asked(probe, &said.failures);
        }
        let status = if said.came_back { ProbeStatus::Found } else { ProbeStatus::Clean };
        ProbeAnswer::Ended { status, evidence: json!({"stores": said.stores, "archive": said.archive}) }
    }

    async fn question(&self, probe: &Probe) -> Result<Option<Question>, Fault> {
        self.ledger
            .read(async |tx: &mut Tx| {
                let (Some(mut plane), Some(scope)) = (tx.plane(probe.plane_id).await?, tx.probe_scope(probe.plane_id).await?)
                else {
                    return Ok(None);
                };
                plane.archive_url.clone_from(&scope.archive_url);
                Ok(Some(Question { bindings: tx.bindings(plane.id).await?, plane, scope }))
            })
            .await
    }

    async fn ask_store(&self, question: &Question, binding: &Binding, scope: &Scoped, said: &mut Said) {
        let binding = Binding { mapping: scope.mapping.clone(), ..binding.clone() };
        let mut entry = json!({"store": binding.store, "resource": binding.resource});
        let asked = match self.world.store(question.plane.id, &binding) {
            Ok(store) => store.look_again(&scope.known, &question.scope.salt).await.map(|seen| (store, seen)),
            Err(error) => Err(error),
        };
        match asked {
            Ok((store, seen)) => {
                entry["seen"] = json!(seen);
                said.came_back |= !seen.is_clean();
                if !seen.fence_stands() {
                    // It refuses what would bring the plane back, and it is not destructive.
                    let fenced = store.fence(FenceMode::Purged, question.plane.epoch).await;
                    entry["fence_set_again"] = json!(fenced.is_ok());
                    if let Err(error) = fenced {
                        tracing::warn!(store = binding.store, plane = %question.plane.id, %error, "set the fence of a purged plane again");
                    }
                }
            }
            Err(_) if binding.attested().is_some() => {
                entry["attested"] = json!(binding.attested());
                entry["verified"] = json!(false);
            }
            Err(error) => {
                entry["asked"] = json!(false);
                said.failures.push((passes(&error), format!("ask store {}: {error}", binding.store)));
            }
        }
        said.stores.push(entry);
    }

    async fn ask_archive(&self, question: &Question, said: &mut Said) {
        let listed = match self.world.archive(&question.plane, None, self.ledger.now()) {
            Ok(archive) => match archive.probe().await {
                Ok(_) => archive.list().await,
                Err(error) => Err(error),
            },
            Err(error) => Err(error),
        };
        match listed {
            Ok(keys) => {
                said.came_back |= !keys.is_empty();
                said.archive = json!({"objects": keys.len()});
            }
            Err(error) => {
                said.archive = json!({"asked": false});
                said.failures.push((passes(&error), format!("ask the archive: {error}")));
            }
        }
    }

    /// A probe that could not be asked: again later where that may help, so many times.
    fn not_asked(&self, probe: &Probe, failures: &[(bool, String)]) -> ProbeAnswer {
        let messages: Vec<_> = failures.iter().map(|(_, message)| message.as_str()).collect();
        let passes = failures.iter().all(|(passes, _)| *passes);
        let error = json!({"code": if passes { "UNAVAILABLE" } else { "UNUSABLE" }, "message": messages.join("; ")});
        let attempt = probe.attempt + 1;
        if !passes || attempt >= self.config.queue.attempts_max {
            return ProbeAnswer::Failed(error);
        }
        let mut draw = [0; 8];
        self.ledger.entropy().fill(&mut draw);
        let due_at = self.ledger.now() + self.backoff(attempt, u64::from_be_bytes(draw));
        ProbeAnswer::Postponed { due_at, error }
    }

    /// Records what became of a claimed probe, and what follows from it.
    pub async fn record_probe(&self, probe: &Probe, worker: &str, answer: &ProbeAnswer) -> Result<RecordResult, Fault> {
        let committed = self.ledger.transact(async |tx: &mut Tx| {
            tx.lock_planes(&[probe.plane_id]).await?;
            if !tx.settle_probe(probe, worker, answer).await? {
                tracing::warn!(probe = %probe.id, epoch = probe.epoch, "drop a late answer: the probe is no longer ours");
                return Ok::<_, Fault>((RecordResult::Stale, false));
            }
            let actor = Actor::system(worker);
            let mut forgotten = false;
            match answer {
                ProbeAnswer::Ended { status, evidence } => {
                    let found = *status == ProbeStatus::Found;
                    let finding = self.take_note(tx, probe, found, evidence).await?;
                    let event = if found { EventType::Recurred } else { EventType::Probed };
                    let mut entry = about(probe, event, &actor, "worker");
                    entry.evidence = json!({"probe_id": probe.id, "cause": probe.cause, "seen": evidence});
                    if let Some(finding) = &finding {
                        entry.evidence["finding_id"] = json!(finding.id);
                    }
                    tx.append(entry).await?;
                    if let Some(finding) = finding.as_ref().filter(|_| found) {
                        self.announce(tx, of_finding(finding)).await?;
                        tracing::error!(plane = %probe.plane_id, "something of a purged plane came back: `lethe finding list`");
                    } else if let (Some(finding), Some(by)) = (&finding, &probe.requested_by) {
                        let by: Actor = by.parse().unwrap_or_else(|_| Actor::system(by));
                        let reason = "a probe that this person asked for found nothing";
                        close_finding(tx, finding, &by, "knowledge.probe.run", reason).await?;
                    }
                    forgotten = self.go_on(tx, probe.offboarding_id, probe.plane_id, probe.tenant_id).await?;
                }
                ProbeAnswer::Failed(error) => {
                    let code = error["code"].as_str().unwrap_or("UNUSABLE");
                    tracing::warn!(plane = %probe.plane_id, error = %error["message"], "a probe failed: `lethe probe run` asks anew");
                    self.probe_failed(tx, probe, code).await?;
                    // Every day until it can be asked.
                    self.ask_again(tx, probe.offboarding_id, probe.plane_id, probe.tenant_id).await?;
                }
                ProbeAnswer::Postponed { .. } => {}
            }
            Ok((RecordResult::Recorded, forgotten))
        });
        let (result, forgotten) = committed.await?.into_inner();
        if forgotten && !self.ledger.truncate_wal().await.unwrap_or(false) {
            tracing::info!("the ledger's write-ahead log still holds what a purged plane was looked for by");
        }
        Ok(result)
    }

    /// The finding that is open after a probe, if there is one.
    async fn take_note(&self, tx: &mut Tx, probe: &Probe, found: bool, evidence: &Json) -> Result<Option<Finding>, Fault> {
        match (tx.open_finding_of(probe.plane_id).await?, found) {
            (Some(open), true) => tx.finding_seen(open.id, evidence).await?,
            (Some(open), false) => tx.finding_clean(open.id).await?,
            (None, true) => tx.open_finding(probe, evidence).await.map(drop)?,
            (None, false) => {}
        }
        tx.open_finding_of(probe.plane_id).await
    }

    /// While a finding is open, another probe follows; where none is and none is to come after a clean one, what the plane was looked for by
    /// is forgotten. Answers whether it was.
    pub(crate) async fn go_on(&self, tx: &mut Tx, offboarding_id: Uuid, plane_id: Uuid, tenant_id: Uuid) -> Result<bool, Fault> {
        if tx.open_finding_of(plane_id).await?.is_some() {
            self.ask_again(tx, offboarding_id, plane_id, tenant_id).await?;
            return Ok(false);
        }
        tx.withdraw_probes(plane_id).await?;
        if tx.probes_to_come(plane_id).await? > 0 {
            return Ok(false);
        }
        tx.forget_probe_scope(plane_id).await
    }

    /// Plans another probe, unless one is to come anyway.
    async fn ask_again(&self, tx: &mut Tx, offboarding_id: Uuid, plane_id: Uuid, tenant_id: Uuid) -> Result<(), Fault> {
        if !tx.is_probed_again(plane_id).await? {
            let due_at = tx.at() + self.config.probe.again.0;
            let cause = ProbeCause::Again;
            tx.plan_probe(&NewProbe { offboarding_id, plane_id, tenant_id, cause, requested_by: None, due_at }).await?;
        }
        Ok(())
    }

    async fn probe_failed(&self, tx: &mut Tx, probe: &Probe, code: &str) -> Result<(), Fault> {
        let mut entry = about(probe, EventType::ProbeFailed, &Actor::system("probe"), "worker");
        entry.evidence = json!({"probe_id": probe.id, "cause": probe.cause, "code": code, "attempt": probe.attempt + 1});
        tx.append(entry).await?;
        Ok(())
    }
}

/// Closes a finding and puts on record who did.
pub(crate) async fn close_finding(tx: &mut Tx, finding: &Finding, by: &Actor, owner: &str, reason: &str) -> Result<(), Fault> {
    tx.close_finding(finding.id, &by.to_string(), reason).await?;
    let chain = Chain::Plane(finding.plane_id);
    let mut entry = Entry::new(chain, Some(finding.tenant_id), EventType::FindingClosed, by, owner);
    entry.offboarding_id = Some(finding.offboarding_id);
    entry.reason = Some(reason.to_owned());
    entry.evidence = json!({"finding_id": finding.id, "clean_at": finding.clean_at});
    tx.append(entry).await?;
    Ok(())
}

/// An entry about a probe, on its plane's chain.
pub(crate) fn about(probe: &Probe, event_type: EventType, actor: &Actor, decision_owner: &str) -> Entry {
    let mut entry = Entry::new(Chain::Plane(probe.plane_id), Some(probe.tenant_id), event_type, actor, decision_owner);
    entry.offboarding_id = Some(probe.offboarding_id);
    entry
}

/// Whether asking again later may help.
fn passes(error: &PortError) -> bool {
    matches!(error, PortError::Transient(_))
}
