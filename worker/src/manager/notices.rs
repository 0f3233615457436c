//! Notices: which of them a change makes due, and how those that are due are delivered.
//!
//! The rule: a notice is inserted in the transaction of what it is about, and told with no transaction open; whoever holds its lease puts
//! on record what became of it, and inserts the next one of the same date. If we die telling, the lease runs out and somebody tells again.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use futures::{StreamExt as _, stream};
use lethe_ledger::{
    Actor, Case, Chain, Entry, EventType, Fault, Finding, Lease, NewNotice, Notice, NoticeEnd, NoticeKind, Offboarding, Tx,
};
use lethe_stages::{EvictMode, ports::PortError};
use lethe_stores::channels::Message;
use serde_json::{Value as Json, json};
use uuid::Uuid;

use super::KnowledgeLifecycleManager;
use crate::config::Span;

/// Notices that are taken together, and are on their way at the same time: a lease lasts as long as one may take.
const BATCH: usize = 8;
/// The version of a notice's JSON.
pub(crate) const NOTICE_SCHEMA: u32 = 1;

/// What deliveries did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Told {
    /// Notices that every channel has.
    pub delivered: u64,
    /// Notices that a channel did not take, to be tried again.
    pub again: u64,
    /// Notices that were given up.
    pub failed: u64,
}

/// A notice about an offboarding; when it is told is decided where it is announced.
pub(crate) fn of_offboarding(kind: NoticeKind, of: &Offboarding, happens_at: DateTime<Utc>) -> NewNotice {
    NewNotice {
        kind,
        tenant_id: Some(of.terms.tenant_id),
        plane_id: Some(of.terms.plane_id),
        offboarding_id: Some(of.id),
        subject_id: None,
        happens_at,
        lead: TimeDelta::zero(),
        details: json!({"ground": of.terms.ground}),
    }
}

/// That the run of a case stands still.
pub(super) fn of_halt(case: &Case, code: &str, at: DateTime<Utc>) -> NewNotice {
    NewNotice {
        subject_id: Some(case.run.id),
        details: json!({"step": case.run.step, "code": code}),
        ..of_offboarding(NoticeKind::Halted, &case.offboarding, at)
    }
}

/// That something of a purged plane came back.
pub(super) fn of_finding(finding: &Finding) -> NewNotice {
    NewNotice {
        kind: NoticeKind::Finding,
        tenant_id: Some(finding.tenant_id),
        plane_id: Some(finding.plane_id),
        offboarding_id: Some(finding.offboarding_id),
        subject_id: Some(finding.id),
        happens_at: finding.opened_at,
        lead: TimeDelta::zero(),
        details: json!({"probe_id": finding.probe_id}),
    }
}

impl KnowledgeLifecycleManager {
    /// How long before what it is about a notice of this kind is told, the longest first.
    fn leads(&self, kind: NoticeKind) -> Vec<TimeDelta> {
        let spans = |spans: &[Span]| spans.iter().map(|span| span.0).collect::<Vec<_>>();
        let mut leads = match kind {
            NoticeKind::CancelEnds | NoticeKind::Evict | NoticeKind::Purge => spans(&self.config.notices.before),
            NoticeKind::Deadline => spans(&self.config.due.warn).into_iter().chain([TimeDelta::zero()]).collect(),
            _ => vec![TimeDelta::zero()],
        };
        leads.sort_by(|a, b| b.cmp(a));
        leads.dedup();
        leads
    }

    /// Whether somebody is told of this at all. What is rare and must not be missed waits for a process that has a channel.
    fn is_told(&self, kind: NoticeKind) -> bool {
        let kept = matches!(kind, NoticeKind::Deadline | NoticeKind::HoldReview | NoticeKind::BreakGlass | NoticeKind::Finding);
        kept || !self.channels.names().is_empty()
    }

    /// Announces what comes or came: the first notice that is still to be told in time, or one at once where it is too late for that.
    pub(crate) async fn announce(&self, tx: &mut Tx, new: NewNotice) -> Result<(), Fault> {
        if !self.is_told(new.kind) {
            return Ok(());
        }
        let leads = self.leads(new.kind);
        let before: Vec<_> = leads.iter().copied().filter(|lead| !lead.is_zero()).collect();
        let in_time = before.iter().find(|lead| new.happens_at - **lead >= tx.at()).or(before.last()).or(leads.last());
        let Some(lead) = in_time.copied() else { return Ok(()) };
        tx.add_notice(&NewNotice { lead, ..new }).await.map(drop)
    }

    /// Announces the removal of the hot copy, where time passes before it.
    pub(super) async fn announce_evict(&self, tx: &mut Tx, case: &Case, after: DateTime<Utc>) -> Result<(), Fault> {
        let terms = &case.offboarding.terms;
        if terms.evict == EvictMode::AtPurge || terms.archive_delay.is_zero() {
            return Ok(());
        }
        self.announce(tx, of_offboarding(NoticeKind::Evict, &case.offboarding, after)).await
    }

    /// Announces that runs are due and nobody takes them: once for each run that is the first of them.
    pub(super) async fn announce_stalled(&self, tx: &mut Tx) -> Result<u64, Fault> {
        let since = tx.at() - self.config.due.stalled_after.0;
        if !self.is_told(NoticeKind::Stalled) {
            return Ok(0);
        }
        let Some(stalled) = tx.stalled(since, 1_000).await? else { return Ok(0) };
        let new = NewNotice {
            kind: NoticeKind::Stalled,
            tenant_id: None,
            plane_id: None,
            offboarding_id: None,
            subject_id: None,
            happens_at: stalled.since,
            lead: TimeDelta::zero(),
            details: json!({"runs": stalled.runs}),
        };
        Ok(u64::from(tx.add_notice(&new).await?))
    }

    /// Delivers what is due, until nothing is. A process that has no channel leaves it to those that have one.
    pub async fn deliver_notices(&self, owner: &str) -> Result<Told, Fault> {
        let mut told = Told::default();
        if self.channels.names().is_empty() {
            return Ok(told);
        }
        while self.ledger.read(async |tx: &mut Tx| tx.notices_are_due().await).await? {
            let (claimed, sent) = self.claim_notices(owner).await?;
            if claimed == 0 {
                // Others have them.
                break;
            }
            let mut deliveries =
                stream::iter(sent.into_iter().map(|(notice, body)| self.tell(notice, body))).buffer_unordered(BATCH);
            while let Some((notice, failures)) = deliveries.next().await {
                match self.record_notice(notice, failures, owner).await? {
                    Some(NoticeEnd::Delivered) => told.delivered += 1,
                    Some(NoticeEnd::Again(_)) => told.again += 1,
                    Some(NoticeEnd::Failed) => told.failed += 1,
                    Some(NoticeEnd::Moot) | None => {}
                }
            }
        }
        Ok(told)
    }

    /// Takes notices that are due, and drops those that are no longer true. Answers how many it took, and those that are to be sent.
    async fn claim_notices(&self, owner: &str) -> Result<(usize, Vec<(Notice, Json)>), Fault> {
        let channels = &self.config.notices;
        // As long as every channel may take, and a while to put it on record.
        let lease = self.config.queue.lease.0 + channels.webhook.timeout.0 + channels.command.timeout.0;
        let committed = self.ledger.transact(async |tx: &mut Tx| {
            let until = tx.at() + lease;
            let claimed = tx.claim_notices(BATCH, &Lease { owner: owner.to_owned(), until }).await?;
            let mut sent = Vec::with_capacity(claimed.len());
            let number = claimed.len();
            for notice in claimed {
                if tx.notice_stands(&notice).await? {
                    let body = self.body(tx, &notice).await?;
                    sent.push((notice, body));
                } else {
                    tx.settle_notice(&notice, owner, &NoticeEnd::Moot).await?;
                }
            }
            Ok::<_, Fault>((number, sent))
        });
        Ok(committed.await?.into_inner())
    }

    /// Tells every channel that has not been told. Answers what failed.
    async fn tell(&self, mut notice: Notice, body: Json) -> (Notice, BTreeMap<&'static str, PortError>) {
        let at = self.ledger.now();
        let message = Message { id: notice.id, kind: notice.kind.to_string(), at, body: body.to_string() };
        let mut failures = BTreeMap::new();
        for channel in self.channels.names() {
            if notice.delivered.contains_key(channel) {
                continue;
            }
            match self.channels.tell(channel, &message).await {
                Ok(()) => drop(notice.delivered.insert(channel.to_owned(), at)),
                Err(error) => drop(failures.insert(channel, error)),
            }
        }
        (notice, failures)
    }

    /// Puts on record what became of a notice; `None` where it is no longer ours.
    async fn record_notice(
        &self,
        mut notice: Notice,
        failures: BTreeMap<&'static str, PortError>,
        owner: &str,
    ) -> Result<Option<NoticeEnd>, Fault> {
        notice.last_error = (!failures.is_empty())
            .then(|| json!(failures.iter().map(|(channel, error)| (*channel, error.to_string())).collect::<BTreeMap<_, _>>()));
        let gives_up = notice.attempt + 1 >= self.config.notices.attempts_max;
        let committed = self.ledger.transact(async |tx: &mut Tx| {
            let end = match (&notice.last_error, gives_up) {
                (None, _) => NoticeEnd::Delivered,
                (Some(_), true) => NoticeEnd::Failed,
                (Some(_), false) => {
                    let draw = u64::from_be_bytes(tx.random::<8>());
                    NoticeEnd::Again(tx.at() + self.backoff(notice.attempt + 1, draw))
                }
            };
            if !tx.settle_notice(&notice, owner, &end).await? {
                return Ok(None);
            }
            let event = match end {
                NoticeEnd::Delivered => EventType::Noticed,
                NoticeEnd::Failed => EventType::NoticeFailed,
                NoticeEnd::Again(_) | NoticeEnd::Moot => return Ok(Some(end)),
            };
            let mut entry = Entry::new(chain(&notice), notice.tenant_id, event, &Actor::system("notices"), "notices");
            entry.offboarding_id = notice.offboarding_id;
            entry.evidence = json!({
                "notice_id": notice.id, "kind": notice.kind, "happens_at": notice.happens_at, "lead_s": notice.lead.num_seconds(),
                "channels": notice.delivered.keys().collect::<Vec<_>>(), "attempt": notice.attempt,
            });
            tx.append(entry).await?;
            // The next of the same date, also where this one was given up.
            let next =
                self.leads(notice.kind).into_iter().find(|lead| *lead < notice.lead && notice.happens_at - *lead > tx.at());
            let overdue = || (notice.kind == NoticeKind::Deadline && !notice.lead.is_zero()).then_some(TimeDelta::zero());
            if let Some(lead) = next.or_else(overdue) {
                tx.add_notice(&notice.again(lead)).await?;
            }
            Ok::<_, Fault>(Some(end))
        });
        let end = committed.await?.into_inner();
        let (id, kind, errors) = (notice.id, notice.kind, &notice.last_error);
        match &end {
            Some(NoticeEnd::Failed) => {
                tracing::error!(notice = %id, %kind, ?errors, "a notice could not be delivered and was given up")
            }
            Some(NoticeEnd::Again(at)) => tracing::warn!(notice = %id, %kind, %at, ?errors, "a notice is tried again"),
            _ => {}
        }
        Ok(end)
    }

    /// What a receiver is given.
    async fn body(&self, tx: &mut Tx, notice: &Notice) -> Result<Json, Fault> {
        let tenant = match notice.tenant_id {
            Some(id) => tx.tenant(&id.to_string()).await?,
            None => None,
        };
        let plane = match notice.plane_id {
            Some(id) => tx.plane(id).await?,
            None => None,
        };
        let tenant_name = tenant.as_ref().map(|tenant| tenant.name.clone());
        let plane_name = plane.as_ref().and_then(|plane| plane.name.clone());
        let called = match (&tenant_name, &plane_name, notice.plane_id) {
            (Some(tenant), Some(plane), _) => format!("{tenant}/{plane}"),
            (_, None, Some(id)) => format!("plane {id}"),
            (Some(tenant), None, None) => format!("tenant {tenant}"),
            _ => "the ledger".to_owned(),
        };
        let (message, next) = words(notice, &called, tx.at());
        let named = |id: Option<Uuid>, name: Option<String>| id.map(|id| json!({"id": id, "name": name}));
        Ok(json!({
            "schema_version": NOTICE_SCHEMA, "notice_id": notice.id, "kind": notice.kind, "message": message, "next": next,
            "happens_at": notice.happens_at, "lead_s": notice.lead.num_seconds(), "sent_at": tx.at(),
            "tenant": named(notice.tenant_id, tenant_name), "plane": named(notice.plane_id, plane_name),
            "offboarding_id": notice.offboarding_id, "subject_id": notice.subject_id, "details": notice.details,
        }))
    }
}

fn chain(notice: &Notice) -> Chain {
    match (notice.plane_id, notice.tenant_id) {
        (Some(plane), _) => Chain::Plane(plane),
        (None, Some(tenant)) => Chain::Tenant(tenant),
        (None, None) => Chain::System,
    }
}

/// A sentence, and the command that somebody may want to type.
fn words(notice: &Notice, called: &str, now: DateTime<Utc>) -> (String, Option<String>) {
    let at = notice.happens_at.format("%Y-%m-%d %H:%M:%SZ");
    let plane = notice.plane_id.map(|id| id.to_string()).unwrap_or_default();
    let has_come = notice.happens_at <= now;
    let (sentence, next) = match notice.kind {
        NoticeKind::CancelEnds => (
            format!("{called} leaves service at {at}; until then its offboarding can be cancelled, after that it cannot"),
            format!("lethe offboarding cancel {plane} --reason …"),
        ),
        NoticeKind::Evict => (
            format!(
                "{called} is exported from {at} on, and its hot copy is removed as soon as the export is verified; a hold stops that"
            ),
            format!("lethe hold place {plane} --reason …"),
        ),
        NoticeKind::Purge => (
            format!(
                "the retention of {called} ends at {at}; from then on it is purged for good once its purge is approved; a hold stops that"
            ),
            format!("lethe offboarding show {plane}"),
        ),
        NoticeKind::Deadline if has_come => (
            format!("the legal deadline of {called} has passed: it was {at}, and the plane is not purged"),
            format!("lethe offboarding show {plane}"),
        ),
        NoticeKind::Deadline => {
            (format!("{called} must be purged before {at}, by law"), format!("lethe offboarding show {plane}"))
        }
        NoticeKind::HoldReview => (
            format!("a hold on {called} was to be looked at again at {at}: is it still needed?"),
            format!("lethe hold release {} --reason …", notice.subject_id.map(|id| id.to_string()).unwrap_or_default()),
        ),
        NoticeKind::ApprovalEnding => (
            format!("an approval of the purge of {called} ends at {at}, and the purge has not begun"),
            format!("lethe offboarding show {plane}"),
        ),
        NoticeKind::BreakGlass => (
            format!("the grace period of {called} was cut short at {at}; somebody else must review that"),
            format!("lethe offboarding review {plane} --reason …"),
        ),
        NoticeKind::Halted => (
            format!(
                "the {} of {called} stands still since {at}: {}",
                notice.details["step"].as_str().unwrap_or("run"),
                notice.details["code"].as_str().unwrap_or("")
            ),
            format!("lethe offboarding show {plane}"),
        ),
        NoticeKind::Finding => (
            format!("something of {called}, which was purged, came back; it was found at {at}"),
            format!("lethe finding show {}", notice.subject_id.map(|id| id.to_string()).unwrap_or_default()),
        ),
        NoticeKind::Stalled => (
            format!(
                "{} run(s) are due and nobody takes them, the first since {at}: is a worker running?",
                notice.details["runs"]
            ),
            "lethe due".to_owned(),
        ),
    };
    (sentence, Some(next))
}
