//! Dispatch: the one path every call takes.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, Mutex},
};

use chrono::{DateTime, Utc};
use lethe_ledger::{Actor, Chain, Committed, Entry, EventType, Fault, Ledger, Tx};
use lethe_stages::{Code, Refusal, StageRegistry, canonical};
use lethe_stores::StoreDraft;
use serde::Serialize;
use serde_json::Value as Json;

use super::{Operation, Refused, Registry, Stop, authority};
use crate::{config::Config, consequences::Consequences, manager::KnowledgeLifecycleManager, policy::Action, world::World};

/// How often a call is made again that the database undid so that another one could go on.
const CONFLICTS_MAX: u32 = 5;

/// A call of an operation.
#[derive(Debug, Clone)]
pub struct Call {
    /// Its name.
    pub operation: String,
    /// Its arguments, an object.
    pub arguments: Json,
    /// Who calls. Self-declared until sign-in exists.
    pub actor: Actor,
    /// The tenant to which the caller is confined, by name; `None` for operators.
    pub tenant: Option<String>,
    /// A key under which the same call is answered the same way.
    pub idempotency_key: Option<String>,
}

/// What a call is answered.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// It was done.
    Done(Json),
    /// It was refused, on record.
    Refused(Refusal),
}

/// What happened to a call: immutable, built without I/O, handed to the consequences after the commit.
#[derive(Debug, Clone, Serialize)]
pub struct DispatchRecord {
    /// The operation.
    pub operation: String,
    /// `done` or `refused`.
    pub outcome: &'static str,
    /// The refusal's code.
    pub code: Option<Code>,
    /// When.
    pub at: DateTime<Utc>,
    /// How long it took, by the injected clock.
    pub duration_ms: i64,
}

/// Lethe, assembled: everything a call needs, each part a constructor argument.
pub struct App {
    /// The ledger.
    pub ledger: Ledger,
    /// The configuration.
    pub config: Arc<Config>,
    /// The manager.
    pub manager: Arc<KnowledgeLifecycleManager>,
    /// The world outside.
    pub world: Arc<dyn World>,
    registry: Registry,
    consequences: Consequences,
    /// Where restored stores go by default: beside a ledger in a file, else in the current folder.
    pub(super) restore_folder: PathBuf,
    /// Stores that a restore has built and its transaction has not yet put on record, by URL.
    pub(super) drafts: Mutex<HashMap<String, StoreDraft>>,
}

impl App {
    /// Assembles Lethe. The error names an operation or stage that stands twice or is missing.
    pub fn new(
        ledger: Ledger,
        config: Config,
        stages: StageRegistry,
        world: Arc<dyn World>,
        operations: Vec<Operation>,
        consequences: Consequences,
    ) -> Result<Self, String> {
        let ledger = ledger.with_tenant_in_flight_max(config.queue.tenant_in_flight_max);
        let config = Arc::new(config);
        let manager = Arc::new(
            KnowledgeLifecycleManager::new(ledger.clone(), config.clone(), stages, world.clone())
                .map_err(|error| error.to_string())?,
        );
        let registry = Registry::freeze(operations)?;
        let restore_folder = ledger.folder().join("restored");
        Ok(Self { ledger, config, manager, world, registry, consequences, restore_folder, drafts: Mutex::default() })
    }

    /// The same, with another folder for restored stores.
    pub fn restoring_into(self, restore_folder: PathBuf) -> Self {
        Self { restore_folder, ..self }
    }

    /// The names of every operation.
    pub fn operations(&self) -> impl Iterator<Item = &'static str> {
        self.registry.names()
    }

    /// Dispatches a call.
    pub async fn dispatch(&self, call: &Call) -> Result<Answer, Fault> {
        let began = self.ledger.now();
        let operation = match self.authorise(call) {
            Ok(operation) => operation,
            Err(refused) => return self.refuse(call, self.registry.get(&call.operation), *refused, began).await,
        };
        let prepared = match operation.prepare {
            Some(prepare) => {
                match self.ledger.read(async |tx: &mut Tx| authority::asked(self, tx, call, operation).await).await {
                    Ok(()) => prepare(self, call).await,
                    Err(stop) => Err(stop),
                }
            }
            None => Ok(Json::Null),
        };
        let prepared = match prepared {
            Ok(prepared) => prepared,
            Err(Stop::Refused(refused)) => return self.refuse(call, Some(operation), *refused, began).await,
            Err(Stop::Fault(fault)) => return Err(fault),
        };
        if operation.writes {
            let mut again = CONFLICTS_MAX;
            let committed = loop {
                let write = async |tx: &mut Tx| self.write(tx, operation, call, prepared.clone()).await;
                match self.ledger.transact(write).await {
                    // The database chose this call to let another one go on; nothing of it happened.
                    Err(fault) if fault.is_conflict() && again > 0 => again -= 1,
                    done => break done?,
                }
            };
            let mut answer = self.conclude(call, committed, began);
            // What an erasure overwrote leaves the file only after its commit. A call that is answered again scrubs again.
            if let (Action::ErasePersonal, Answer::Done(said)) = (operation.action, &mut answer) {
                said["scrubbed"] = self.manager.scrub().await.into();
            }
            // A hold or a withdrawal must not be forgotten by a backup: the mark outside moves with every write.
            if let Err(fault) = self.manager.witness().await {
                tracing::warn!(error = &fault as &dyn std::error::Error, "move the ledger's mark");
            }
            return Ok(answer);
        }
        let read = async |tx: &mut Tx| {
            authority::check(self, tx, call, operation).await?;
            (operation.run)(self, tx, call, prepared).await
        };
        match self.ledger.read(read).await {
            Ok(answer) => Ok(Answer::Done(answer)),
            Err(Stop::Refused(refused)) => self.refuse(call, Some(operation), *refused, began).await,
            Err(Stop::Fault(fault)) => Err(fault),
        }
    }

    fn authorise(&self, call: &Call) -> Result<&Operation, Box<Refused>> {
        let refuse = |code, message| {
            Err(Box::new(Refused { refusal: Refusal::new(code, message), chain: Chain::System, tenant_id: None }))
        };
        let Some(operation) = self.registry.get(&call.operation) else {
            return refuse(Code::UnknownOperation, format!("there is no operation {}", call.operation));
        };
        if !operation.actors.contains(&call.actor.kind) {
            let allowed: Vec<_> = operation.actors.iter().map(|kind| kind.as_str()).collect();
            return refuse(
                Code::NotAuthorised,
                format!("{} is for {} only; {} is neither", operation.name, allowed.join(" or "), call.actor),
            );
        }
        if holds_nul(&call.arguments) {
            return refuse(Code::InvalidArgument, "an argument holds a NUL character, which no ledger can keep".into());
        }
        Ok(operation)
    }

    /// The write itself, its entry and its remembered answer. What a refused operation wrote before it refused is undone.
    async fn write(&self, tx: &mut Tx, operation: &Operation, call: &Call, prepared: Json) -> Result<Answer, Fault> {
        let actor = call.actor.to_string();
        let digest = canonical::digest(
            &serde_json::json!({"operation": call.operation, "arguments": call.arguments, "tenant": call.tenant}),
        )?;
        if let Some(key) = &call.idempotency_key
            && let Some(before) = tx.remembered(key, &actor).await?
        {
            if before.call_digest == digest {
                return Ok(Answer::Done(before.answer));
            }
            let refusal = Refusal::new(
                Code::IdempotencyKeyReused,
                format!("the key {key} was used before for a different call; use a new one"),
            );
            return self.audit(tx, call, Some(operation), Refused { refusal, chain: Chain::System, tenant_id: None }).await;
        }
        // What was asked and answered stays on record, whatever becomes of the call.
        match authority::check(self, tx, call, operation).await {
            Ok(()) => {}
            Err(Stop::Refused(refused)) => return self.audit(tx, call, Some(operation), *refused).await,
            Err(Stop::Fault(fault)) => return Err(fault),
        }
        tx.savepoint().await?;
        match (operation.run)(self, tx, call, prepared).await {
            Ok(answer) => {
                if let Some(key) = &call.idempotency_key {
                    let mut kept = answer.clone();
                    // A token or a key is shown once and kept nowhere, here neither.
                    for secret in ["token", "archive_key"] {
                        if kept.get(secret).is_some() {
                            kept[secret] = Json::Null;
                        }
                    }
                    tx.remember(key, &actor, &digest, &kept).await?;
                }
                Ok(Answer::Done(answer))
            }
            Err(Stop::Refused(refused)) => {
                tx.undo_to_savepoint().await?;
                self.audit(tx, call, Some(operation), *refused).await
            }
            Err(Stop::Fault(fault)) => Err(fault),
        }
    }

    async fn refuse(
        &self,
        call: &Call,
        operation: Option<&Operation>,
        refused: Refused,
        began: DateTime<Utc>,
    ) -> Result<Answer, Fault> {
        let committed = self.ledger.transact(async |tx: &mut Tx| self.audit(tx, call, operation, refused).await).await?;
        Ok(self.conclude(call, committed, began))
    }

    /// Puts a refused attempt on record: on what it concerns, else under the caller's tenant, else on the system's chain.
    async fn audit(&self, tx: &mut Tx, call: &Call, operation: Option<&Operation>, refused: Refused) -> Result<Answer, Fault> {
        let (mut chain, mut tenant_id) = (refused.chain, refused.tenant_id);
        if let (Chain::System, Some(name)) = (chain, &call.tenant)
            && let Some(tenant) = tx.tenant(name).await?
        {
            (chain, tenant_id) = (Chain::Tenant(tenant.id), Some(tenant.id));
        }
        let mut entry = Entry::new(
            chain,
            tenant_id,
            EventType::Blocked,
            &call.actor,
            operation.map_or("dispatch", |operation| operation.name),
        );
        entry.gate = Some(self.manager.gate.decision("BLOCKED", Some(&refused.refusal)));
        entry.evidence = serde_json::json!({"code": refused.refusal.code});
        tx.append(entry).await?;
        Ok(Answer::Refused(refused.refusal))
    }

    /// After the commit: the record of the call goes to the consequences.
    fn conclude(&self, call: &Call, committed: Committed<Answer>, began: DateTime<Utc>) -> Answer {
        let record = DispatchRecord {
            operation: call.operation.clone(),
            outcome: if matches!(committed.get(), Answer::Done(_)) { "done" } else { "refused" },
            code: if let Answer::Refused(refusal) = committed.get() { Some(refusal.code) } else { None },
            at: began,
            duration_ms: (self.ledger.now() - began).num_milliseconds(),
        };
        self.consequences.run(&committed, &record);
        committed.into_inner()
    }
}

fn holds_nul(value: &Json) -> bool {
    match value {
        Json::String(text) => text.contains('\0'),
        Json::Array(values) => values.iter().any(holds_nul),
        Json::Object(fields) => fields.iter().any(|(name, value)| name.contains('\0') || holds_nul(value)),
        _ => false,
    }
}
