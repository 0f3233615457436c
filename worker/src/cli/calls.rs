//! From a command to the operation it calls.

use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use lethe_stages::{LifecycleState, canonical};
use serde_json::{Map, Value as Json, json};

use super::{
    CommandError,
    args::{
        AccessCommand, ApprovalCommand, ApproverCommand, ArchiveCommand, AuditCommand, CertificateCommand, Command, DecideArgs,
        DependentCommand, FindingCommand, HoldCommand, KeysCommand, LedgerCommand, LogCommand, NoticeCommand, OffboardingCommand,
        PeriodArgs, PersonalCommand, PlaneCommand, PolicyCommand, ProbeCommand, QueryArgs, ReasonedArgs, RequestArgs, ScopeArgs,
        StoreCommand, TenantCommand, TokenCommand, UsageCommand, WaitArgs,
    },
    certificate::Given,
    query,
    sign::{self, Signing},
    wait::{Goal, Wait},
};

/// A call to make.
#[derive(Default)]
pub(super) struct Planned {
    pub(super) operation: &'static str,
    pub(super) arguments: Json,
    /// Whether the command may create a ledger that does not exist yet.
    pub(super) creates: bool,
    /// The plane whose name is asked for on a terminal, because what follows cannot be undone.
    pub(super) confirm: Option<String>,
    pub(super) yes: bool,
    pub(super) wait: Option<Wait>,
    /// How the plan that is decided on is signed.
    pub(super) sign: Option<Signing>,
    /// Where the entries of the answer are written instead of being printed.
    pub(super) write_to: Option<PathBuf>,
    /// How the answer to a question is written.
    pub(super) answer: Option<query::Out>,
    /// How a certificate is given.
    pub(super) certificate: Option<Given>,
    /// Where the answer is written instead of being printed.
    pub(super) document_to: Option<PathBuf>,
    /// The one text of the answer that is printed, as it is.
    pub(super) only: Option<&'static str>,
}

/// A file's text.
fn text_of(path: &Path) -> Result<String, CommandError> {
    std::fs::read_to_string(path).map_err(|error| CommandError::Usage(format!("read {}: {error}", path.display())))
}

/// A number as it is, or the text of a file.
fn size_or_text(text: &str) -> Result<String, CommandError> {
    if text.parse::<u64>().is_ok() { Ok(text.to_owned()) } else { text_of(Path::new(text)) }
}

fn planned(operation: &'static str, arguments: Json) -> Planned {
    Planned { operation, arguments, ..Planned::default() }
}

/// An object of what was given.
fn given(pairs: &[(&str, &Option<String>)]) -> Map<String, Json> {
    pairs.iter().filter_map(|(name, value)| value.as_ref().map(|value| ((*name).to_owned(), json!(value)))).collect()
}

fn with(mut base: Json, more: Map<String, Json>) -> Json {
    if let Some(base) = base.as_object_mut() {
        base.extend(more);
    }
    base
}

pub(super) fn plan(command: Command) -> Result<Planned, CommandError> {
    Ok(match command {
        Command::Tenant(command) => match command {
            TenantCommand::Register { name } => {
                Planned { creates: true, ..planned("account.tenant.register", json!({"name": name})) }
            }
            TenantCommand::List => planned("account.tenant.list", json!({})),
            TenantCommand::Show { name } => planned("account.tenant.show", json!({"name": name})),
            TenantCommand::Protect { name, until, reason } => {
                let until = instant("until", Some(until))?;
                planned("account.tenant.protect", json!({"name": name, "until": until, "reason": reason}))
            }
        },
        Command::Store(command) => match command {
            StoreCommand::Add { name, url, tenant, backup_retention } => {
                let arguments = json!({"name": name, "url": url, "tenants": tenant});
                let arguments = with(arguments, given(&[("backup_retention", &backup_retention)]));
                Planned { creates: true, ..planned("integrations.store.add", arguments) }
            }
            StoreCommand::Check { name } => planned("integrations.store.check", json!({"name": name})),
            StoreCommand::Conform {
                store,
                map,
                neighbour,
                records,
                write_command,
                read_command,
                change_command,
                orphan_command,
                restart_command,
                yes,
            } => {
                let confirm = Some(map.clone());
                let arguments = json!({"store": store, "map": map, "neighbour": neighbour, "records": records});
                let commands = [
                    ("write_command", &write_command),
                    ("read_command", &read_command),
                    ("change_command", &change_command),
                    ("orphan_command", &orphan_command),
                    ("restart_command", &restart_command),
                ];
                let arguments = with(arguments, given(&commands));
                Planned { creates: true, confirm, yes, ..planned("integrations.store.conform", arguments) }
            }
            StoreCommand::Attest { confirm: Some(id), reason, .. } => {
                planned("integrations.store.confirm_attestation", json!({"attestation_id": id, "reason": reason}))
            }
            StoreCommand::Attest { store, plane, evidence, confirm: None, reason } => {
                let path = evidence.unwrap_or_default();
                let read = std::fs::read(&path);
                let bytes = read.map_err(|error| CommandError::Local(format!("read {}: {error}", path.display())))?;
                let arguments = json!({
                    "store": store, "plane": plane, "reason": reason, "evidence_sha256": canonical::sha256(&bytes),
                });
                planned("integrations.store.attest", arguments)
            }
            StoreCommand::List => planned("integrations.store.list", json!({})),
        },
        Command::Plane(command) => match command {
            PlaneCommand::Register { tenant, name, store, archive, whole_table } => planned(
                "knowledge.plane.register",
                json!({"tenant": tenant, "name": name, "stores": store, "archive": archive, "whole_table": whole_table}),
            ),
            PlaneCommand::List { tenant, state } => {
                planned("knowledge.plane.list", Json::Object(given(&[("tenant", &tenant), ("state", &state)])))
            }
            PlaneCommand::Show { plane } => planned("knowledge.plane.show", json!({"plane": plane})),
            PlaneCommand::Dependent(command) => dependent(command),
        },
        Command::Token(command) => match command {
            TokenCommand::Issue { plane, expires_in } => {
                planned("knowledge.token.issue", with(json!({"plane": plane}), given(&[("expires_in", &expires_in)])))
            }
            TokenCommand::List { plane } => planned("knowledge.token.list", json!({"plane": plane})),
            TokenCommand::Revoke { token } => planned("knowledge.token.revoke", json!({"token_id": token})),
        },
        Command::Usage(command) => match command {
            UsageCommand::Open { plane, kind, holder, ttl } => {
                planned("knowledge.usage.open", json!({"plane": plane, "kind": kind, "holder": holder, "ttl": ttl}))
            }
            UsageCommand::Close { usage } => planned("knowledge.usage.close", json!({"usage_id": usage})),
            UsageCommand::List { plane } => planned("knowledge.usage.list", json!({"plane": plane})),
        },
        Command::Access(AccessCommand::Check { plane, token, write, store, scope }) => match store {
            Some(store) => planned("knowledge.access.check_scope", json!({"store": store, "scope": scope})),
            None if write => planned("knowledge.access.check_write", json!({"plane": plane})),
            None => planned("knowledge.access.check", json!({"plane": plane, "token": token})),
        },
        Command::Probe(command) => match command {
            ProbeCommand::Run { plane } => planned("knowledge.probe.run", json!({"plane": plane})),
            ProbeCommand::List { plane, due } => {
                planned("knowledge.probe.list", with(json!({"due": due}), given(&[("plane", &plane)])))
            }
        },
        Command::Finding(command) => match command {
            FindingCommand::List { plane, all } => {
                planned("knowledge.finding.list", with(json!({"all": all}), given(&[("plane", &plane)])))
            }
            FindingCommand::Show { finding } => planned("knowledge.finding.show", json!({"finding_id": finding})),
            FindingCommand::Close { finding, reason } => {
                planned("knowledge.finding.close", json!({"finding_id": finding, "reason": reason}))
            }
        },
        Command::Offboarding(command) => offboarding(command)?,
        Command::Offboard(args) => request(*args)?,
        Command::Status { plane } => planned("knowledge.offboarding.show", json!({"plane": plane})),
        Command::Due { tenant, within, all, limit } => {
            let arguments = json!({"all": all, "limit": limit});
            planned("knowledge.due.list", with(arguments, given(&[("tenant", &tenant), ("within", &within)])))
        }
        Command::Notice(command) => match command {
            NoticeCommand::List { plane, status, limit } => {
                planned("knowledge.notice.list", with(json!({"limit": limit}), given(&[("plane", &plane), ("status", &status)])))
            }
            NoticeCommand::Retry { notice } => planned("knowledge.notice.retry", json!({"notice_id": notice})),
            NoticeCommand::Test => planned("knowledge.notice.test", json!({})),
        },
        Command::Approval(command) => match command {
            ApprovalCommand::List { plane, mine, limit, after } => planned(
                "knowledge.approval.list",
                with(json!({"mine": mine, "limit": limit}), given(&[("plane", &plane), ("after", &after)])),
            ),
            ApprovalCommand::Grant(args) => {
                let confirm = Some(args.plane.clone());
                Planned { confirm, ..decide("knowledge.approval.grant", args, Goal::State(LifecycleState::Purged))? }
            }
            ApprovalCommand::Deny(args) => decide("knowledge.approval.deny", args, Goal::Settled)?,
            ApprovalCommand::Withdraw(args) => planned(
                "knowledge.approval.withdraw",
                with(json!({"plane": args.plane, "reason": args.reason}), given(&[("by", &args.by)])),
            ),
        },
        Command::Approver(command) => match command {
            ApproverCommand::Add { actor, key, role, reason } => {
                let public_key = sign::public_key(&key)?;
                let arguments = json!({"actor": actor, "public_key": public_key, "roles": role, "reason": reason});
                Planned { creates: true, ..planned("governance.approver.add", arguments) }
            }
            ApproverCommand::List { all } => planned("governance.approver.list", json!({"all": all})),
            ApproverCommand::Revoke { fingerprint, reason } => {
                planned("governance.approver.revoke", json!({"fingerprint": fingerprint, "reason": reason}))
            }
        },
        Command::Policy(command) => match command {
            PolicyCommand::Show => planned("governance.policy.show", json!({})),
            PolicyCommand::Check { policies, limit } => {
                planned("governance.policy.check", json!({"policies": policies, "limit": limit}))
            }
        },
        Command::Hold(command) => match command {
            HoldCommand::Place { plane, tenant, matter, authority, review, reason } => {
                let review_at = instant("review", review)?;
                let more = given(&[("matter", &matter), ("authority", &authority), ("review_at", &review_at)]);
                planned("knowledge.hold.place", with(json!({"planes": plane, "tenants": tenant, "reason": reason}), more))
            }
            HoldCommand::Release { hold, matter, reason } => {
                let which = given(&[("hold_id", &hold), ("matter", &matter)]);
                planned("knowledge.hold.release", with(json!({"reason": reason}), which))
            }
            HoldCommand::List { plane, all } => {
                planned("knowledge.hold.list", with(json!({"all": all}), given(&[("plane", &plane)])))
            }
        },
        Command::Pause { scope, reason } => planned("knowledge.control.pause", of_scope(scope, Some(reason))),
        Command::Resume { scope, reason } => planned("knowledge.control.resume", of_scope(scope, reason)),
        Command::Audit(command) => match command {
            AuditCommand::Query(args) => question(*args),
            AuditCommand::Approvals { plane, tenant, period, after, limit } => {
                let of = given(&[("plane", &plane), ("tenant", &tenant)]);
                planned("governance.audit.approvals", with(with(json!({"after": after, "limit": limit}), of), within(&period)))
            }
            AuditCommand::Refusals { plane, tenant, by, code, period, after, limit } => {
                let of = given(&[("plane", &plane), ("tenant", &tenant), ("actor", &by), ("code", &code)]);
                planned("governance.audit.refusals", with(with(json!({"after": after, "limit": limit}), of), within(&period)))
            }
            AuditCommand::About { plane, period } => {
                planned("governance.audit.about", with(json!({"plane": plane}), within(&period)))
            }
            AuditCommand::Purges { tenant, quarter, period, faults, after } => {
                let of = given(&[("tenant", &tenant), ("quarter", &quarter)]);
                planned("governance.audit.purges", with(with(json!({"after": after, "faults": faults}), of), within(&period)))
            }
            AuditCommand::List { plane, tenant, event_type, limit } => {
                let arguments = given(&[("plane", &plane), ("tenant", &tenant), ("event_type", &event_type)]);
                planned("governance.audit.list", with(json!({"limit": limit}), arguments))
            }
            AuditCommand::Verify { plane, checkpoint, unpublished } => {
                let checkpoint = checkpoint.as_deref().map(text_of).transpose()?;
                let arguments = given(&[("plane", &plane), ("checkpoint", &checkpoint)]);
                planned("governance.audit.verify", with(json!({"unpublished": unpublished}), arguments))
            }
            AuditCommand::Prove { entry } => planned("governance.audit.prove", json!({"entry": entry})),
            AuditCommand::Consistency { old, new } => {
                let new = new.as_deref().map(size_or_text).transpose()?;
                planned("governance.audit.consistency", with(json!({"old": size_or_text(&old)?}), given(&[("new", &new)])))
            }
            AuditCommand::Bundle { plane, tenant, leaves, values, to } => Planned {
                document_to: Some(to),
                ..planned(
                    "governance.audit.bundle",
                    with(json!({"leaves": leaves, "values": values}), given(&[("plane", &plane), ("tenant", &tenant)])),
                )
            },
            AuditCommand::Export { plane, tenant, to } => Planned {
                write_to: to,
                ..planned("governance.audit.export", Json::Object(given(&[("plane", &plane), ("tenant", &tenant)])))
            },
        },
        Command::Certificate(command) => match command {
            CertificateCommand::List { tenant } => {
                planned("knowledge.certificate.list", Json::Object(given(&[("tenant", &tenant)])))
            }
            CertificateCommand::Show { plane, html } => {
                let given = Some(if html { Given::Page } else { Given::Text });
                Planned { certificate: given, ..planned("knowledge.certificate.show", json!({"plane": plane})) }
            }
            CertificateCommand::Export { plane, to } => {
                let given = Some(Given::Files(to));
                Planned { certificate: given, ..planned("knowledge.certificate.show", json!({"plane": plane})) }
            }
            CertificateCommand::Verify { .. } => unreachable!("it is no call"),
        },
        Command::Archive(command) => match command {
            ArchiveCommand::Check { url } => planned("knowledge.archive.check", json!({"url": url})),
            ArchiveCommand::Verify { plane, restore } => {
                planned("knowledge.archive.verify", json!({"plane": plane, "restore": restore}))
            }
            ArchiveCommand::Restore { plane, into, store } => {
                planned("knowledge.archive.restore", with(json!({"plane": plane, "into": into}), given(&[("store", &store)])))
            }
            ArchiveCommand::Key { plane, reason } => planned("knowledge.archive.key", json!({"plane": plane, "reason": reason})),
            ArchiveCommand::Export { plane, to } => planned("knowledge.archive.export", json!({"plane": plane, "to": to})),
        },
        Command::Keys(command) => match command {
            KeysCommand::Show => planned("governance.keys.show", json!({})),
            KeysCommand::Rewrap { reason } => planned("governance.keys.rewrap", json!({"reason": reason})),
            KeysCommand::Init { .. } => return Err(no_call()),
        },
        Command::Log(command) => match command {
            LogCommand::Show => planned("governance.log.show", json!({})),
            LogCommand::Checkpoint => Planned { only: Some("checkpoint"), ..planned("governance.log.show", json!({})) },
            LogCommand::Seal => planned("governance.log.seal", json!({})),
            LogCommand::Export { to } => planned("governance.log.export", json!({"to": to})),
            LogCommand::RetireKey { key, reason } => planned("governance.log.retire_key", json!({"key": key, "reason": reason})),
            LogCommand::AdoptKey { reason } => planned("governance.log.adopt_key", json!({"reason": reason})),
            LogCommand::InitKey { .. } => return Err(no_call()),
        },
        Command::Personal(command) => match command {
            PersonalCommand::Show { tenant } => planned("governance.personal.show", Json::Object(given(&[("tenant", &tenant)]))),
            PersonalCommand::Erase { tenant, system, reason, yes } => {
                let confirm = tenant.clone().or(Some("system".into()));
                let arguments = with(json!({"system": system, "reason": reason}), given(&[("tenant", &tenant)]));
                Planned { confirm, yes, ..planned("governance.personal.erase", arguments) }
            }
        },
        Command::Ledger(command) => match command {
            LedgerCommand::Check => planned("governance.ledger.check", json!({})),
            LedgerCommand::Backup { to } => planned("governance.ledger.backup", json!({"to": to})),
            LedgerCommand::Reconcile { reason } => planned("governance.ledger.reconcile", json!({"reason": reason})),
            LedgerCommand::ConfirmClock { reason } => planned("governance.clock.confirm", json!({"reason": reason})),
        },
        Command::Demo(_)
        | Command::Serve { .. }
        | Command::Work { .. }
        | Command::Sweep {}
        | Command::Migrate { .. }
        | Command::Completions { .. } => {
            return Err(no_call());
        }
    })
}

fn dependent(command: DependentCommand) -> Planned {
    match command {
        DependentCommand::Add { plane, name, kind, control } => {
            planned("knowledge.dependent.add", json!({"plane": plane, "name": name, "kind": kind, "control": control}))
        }
        DependentCommand::List { plane } => planned("knowledge.dependent.list", json!({"plane": plane})),
        DependentCommand::Remove { plane, name } => planned("knowledge.dependent.remove", json!({"plane": plane, "name": name})),
    }
}

fn offboarding(command: OffboardingCommand) -> Result<Planned, CommandError> {
    Ok(match command {
        OffboardingCommand::Request(args) => request(*args)?,
        OffboardingCommand::List { tenant, state, status, halted, due_before } => {
            let due_before = instant("due-before", due_before)?;
            let arguments = given(&[("tenant", &tenant), ("state", &state), ("status", &status), ("due_before", &due_before)]);
            planned("knowledge.offboarding.list", with(json!({"halted": halted}), arguments))
        }
        OffboardingCommand::Show { plane, plan: true } => planned("knowledge.offboarding.plan", json!({"plane": plane})),
        OffboardingCommand::Show { plane, plan: false } => planned("knowledge.offboarding.show", json!({"plane": plane})),
        OffboardingCommand::BreakGlass(args) => reasoned("knowledge.offboarding.break_glass", args, Goal::Settled)?,
        OffboardingCommand::Review(args) => reasoned("knowledge.offboarding.review", args, Goal::Settled)?,
        OffboardingCommand::Extend { plane, told, reason } => {
            planned("knowledge.offboarding.extend", json!({"plane": plane, "told": told, "reason": reason}))
        }
        OffboardingCommand::Cancel(args) => reasoned("knowledge.offboarding.cancel", args, Goal::State(LifecycleState::Active))?,
        OffboardingCommand::Retry(args) => {
            let accept = args.accept_unrestored;
            let mut planned = reasoned("knowledge.offboarding.retry", args.reasoned, Goal::Settled)?;
            if accept {
                planned.arguments["accept_unrestored"] = json!(true);
            }
            planned
        }
    })
}

fn request(args: RequestArgs) -> Result<Planned, CommandError> {
    let arguments = with(
        json!({"plane": args.plane, "ground": args.ground, "reason": args.reason}),
        given(&[
            ("grace", &args.grace),
            ("archive_delay", &args.archive_delay),
            ("retention", &args.retention),
            ("retention_basis", &args.retention_basis),
            ("grace_access", &args.grace_access),
            ("evict", &args.evict),
            ("received_at", &args.received_at),
            ("law", &args.law),
            ("due_on", &args.due),
        ]),
    );
    if args.dry_run {
        return Ok(planned("knowledge.offboarding.preview", arguments));
    }
    let wait = wait(args.wait, Goal::State(LifecycleState::PendingDeactivate))?;
    Ok(Planned { wait, ..planned("knowledge.offboarding.request", arguments) })
}

fn within(period: &PeriodArgs) -> Map<String, Json> {
    given(&[("from", &period.from), ("until", &period.until)])
}

fn question(mut args: QueryArgs) -> Planned {
    let system = args.tenant.take_if(|tenant| tenant == "__system__").is_some();
    let arguments = json!({
        "system": system, "event_types": args.actions, "outcomes": args.outcomes, "newest": args.newest, "after": args.after, "limit": args.limit,
    });
    let more = given(&[
        ("tenant", &args.tenant),
        ("plane", &args.plane),
        ("offboarding", &args.offboarding),
        ("approval", &args.approval),
        ("actor", &args.by),
        ("from", &args.from),
        ("until", &args.until),
        ("policy_revision", &args.policy_revision),
        ("text", &args.text),
    ]);
    let answer = Some(query::Out { format: args.format, output: args.output, all: args.all, proof: args.proof });
    Planned { answer, ..planned("governance.audit.query", with(arguments, more)) }
}

fn no_call() -> CommandError {
    CommandError::Local("this command is no call of an operation".into())
}

fn reasoned(operation: &'static str, args: ReasonedArgs, goal: Goal) -> Result<Planned, CommandError> {
    let wait = wait(args.wait, goal)?;
    Ok(Planned { wait, ..planned(operation, json!({"plane": args.plane, "reason": args.reason})) })
}

fn decide(operation: &'static str, args: DecideArgs, goal: Goal) -> Result<Planned, CommandError> {
    let wait = wait(args.wait, goal)?;
    let sign = match (args.key, args.signature) {
        (Some(key), _) => Some(Signing::With(key)),
        (None, Some(file)) => Some(Signing::Made(file)),
        (None, None) => None,
    };
    Ok(Planned { wait, sign, yes: args.yes, ..planned(operation, json!({"plane": args.plane, "reason": args.reason})) })
}

fn wait(args: WaitArgs, goal: Goal) -> Result<Option<Wait>, CommandError> {
    let Some(state) = args.wait else { return Ok(None) };
    let goal = if state.is_empty() {
        goal
    } else {
        Goal::State(state.parse().map_err(|error| CommandError::Usage(format!("--wait: {error}")))?)
    };
    Ok(Some(Wait { goal, timeout: args.timeout }))
}

fn of_scope(scope: ScopeArgs, reason: Option<String>) -> Json {
    with(json!({"all": scope.all}), given(&[("tenant", &scope.tenant), ("stage", &scope.stage), ("reason", &reason)]))
}

fn instant(flag: &str, text: Option<String>) -> Result<Option<String>, CommandError> {
    text.map(|text| match text.parse::<DateTime<Utc>>() {
        Ok(at) => Ok(at.to_rfc3339()),
        Err(error) => {
            Err(CommandError::Usage(format!("--{flag}: `{text}` is not an instant like 2026-01-31T12:00:00Z: {error}")))
        }
    })
    .transpose()
}
