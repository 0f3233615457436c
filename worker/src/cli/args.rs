//! The command line's grammar and help texts.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use lethe_ledger::Actor;

use super::{CommandError, query::Format};
use crate::config::Span;

/// Offboards knowledge planes: takes a tenant's knowledge base out of service after a grace period, archives and checks it, erases it
/// once somebody else approved, and leaves an audit trail that can be verified.
///
/// Planes are named by id or as tenant/name. Durations are written as people write them: 90s, 36h, 7d.
/// Exit codes: 0 done, 1 fault, 2 usage, 3 refused, 4 timed out.
#[derive(Debug, Parser)]
#[command(name = "lethe", version, max_term_width = 110, arg_required_else_help = true)]
pub struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Args)]
pub(crate) struct Global {
    /// The ledger: sqlite:PATH or postgres://USER@HOST/DATABASE
    #[arg(
        long,
        global = true,
        env = "LETHE_LEDGER",
        hide_env_values = true,
        default_value = "sqlite:lethe-data/lethe.db",
        value_name = "URL"
    )]
    pub(crate) ledger: String,
    /// A configuration file that overrides the defaults it names (see config/default.toml)
    #[arg(long, global = true, env = "LETHE_CONFIG", value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Who you are: user:NAME, founder:NAME, system:NAME or sdk:NAME. Self-declared in this version [default: user:$USER]
    #[arg(long, global = true, env = "LETHE_ACTOR", value_name = "TYPE:ID")]
    pub(crate) actor: Option<String>,
    /// See and touch only this tenant's planes
    #[arg(long, global = true, env = "LETHE_TENANT", value_name = "TENANT")]
    pub(crate) as_tenant: Option<String>,
    /// Make the call once: the same key with the same call is answered the same way again
    #[arg(long, global = true, value_name = "KEY")]
    pub(crate) idempotency_key: Option<String>,
    /// Print one JSON document on standard output
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Log level: error, warn, info, debug, trace, or target=level [default: warn; serve: info]
    #[arg(long, global = true, env = "LETHE_LOG", value_name = "LEVEL")]
    pub(crate) log: Option<String>,
}

impl Global {
    /// The actor, as given or as the environment names the user.
    pub(crate) fn actor(&self) -> Result<Actor, CommandError> {
        let text =
            self.actor.clone().unwrap_or_else(|| format!("user:{}", std::env::var("USER").unwrap_or_else(|_| "unknown".into())));
        text.parse().map_err(|error| CommandError::Usage(format!("--actor: {error}")))
    }
}

/// What a process of `lethe serve` does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Role {
    /// Claims and performs runs
    Worker,
    /// Takes back lost runs, ends expired approvals, wakes what no longer waits
    Sweeper,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show the whole story on real documents: offboard, cancel, offboard again, approve, purge, prove
    Demo(DemoArgs),
    /// Run the worker and the sweeps until SIGTERM
    Serve {
        /// What this process does
        #[arg(long, value_enum, value_delimiter = ',', default_value = "worker,sweeper")]
        roles: Vec<Role>,
    },
    /// Run the worker
    Work {
        /// End when nothing is due and nothing runs
        #[arg(long)]
        until_idle: bool,
    },
    /// Sweep once: take back lost runs, end expired approvals, wake what no longer waits, deliver the notices that are due
    Sweep {},
    /// List what is late or at risk, the nearest first, and why: legal deadlines, reviews that are owed, runs that nobody takes
    Due {
        /// Of this tenant
        #[arg(long, value_name = "T")]
        tenant: Option<String>,
        /// Every deadline within this time, on track or not [default: the first of due.warn]
        #[arg(long, value_name = "DURATION")]
        within: Option<String>,
        /// Every deadline
        #[arg(long, conflicts_with = "within")]
        all: bool,
        /// At most so many deadlines [default: 100]
        #[arg(long, value_name = "N")]
        limit: Option<usize>,
    },
    /// Notices: who was told what, and who could not be
    #[command(subcommand)]
    Notice(NoticeCommand),
    /// Create the ledger, or bring it to this version
    Migrate {
        /// Create a ledger in which approvals by self-declared actors always release purges
        #[arg(long)]
        insecure_demo: bool,
        /// On PostgreSQL: the role under which the program works, and whose rights are set. It cannot change the trail
        #[arg(long, env = "LETHE_APP_ROLE", default_value = lethe_ledger::APP_ROLE, value_name = "ROLE")]
        app_role: String,
    },
    /// Tenants, who own planes
    #[command(subcommand)]
    Tenant(TenantCommand),
    /// Stores, where planes live
    #[command(subcommand)]
    Store(StoreCommand),
    /// Knowledge planes
    #[command(subcommand)]
    Plane(PlaneCommand),
    /// Access tokens of planes
    #[command(subcommand)]
    Token(TokenCommand),
    /// Runs and queries that use a plane
    #[command(subcommand)]
    Usage(UsageCommand),
    /// The query endpoint's question, and the ingestion's
    #[command(subcommand)]
    Access(AccessCommand),
    /// Offboardings: request, follow, cancel, retry
    #[command(subcommand)]
    Offboarding(OffboardingCommand),
    /// Same as `offboarding request`
    Offboard(Box<RequestArgs>),
    /// Same as `offboarding show`
    Status {
        /// Plane id or tenant/name
        plane: String,
    },
    /// Approvals of purges, by somebody other than the requester
    #[command(subcommand)]
    Approval(ApprovalCommand),
    /// Approvers, and the keys with which they sign
    #[command(subcommand)]
    Approver(ApproverCommand),
    /// Policies, which say who may do what and how many approvals a purge takes
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// Probes of purged planes: whether anything came back
    #[command(subcommand)]
    Probe(ProbeCommand),
    /// Findings: purged planes of which something came back
    #[command(subcommand)]
    Finding(FindingCommand),
    /// Legal holds, which forbid every destructive step
    #[command(subcommand)]
    Hold(HoldCommand),
    /// Stop claiming in a scope
    Pause {
        #[command(flatten)]
        scope: ScopeArgs,
        /// Why
        #[arg(long)]
        reason: String,
    },
    /// Claim in a scope again
    Resume {
        #[command(flatten)]
        scope: ScopeArgs,
        /// Why
        #[arg(long)]
        reason: Option<String>,
    },
    /// The audit trail
    #[command(subcommand)]
    Audit(AuditCommand),
    /// Certificates of erasure
    #[command(subcommand)]
    Certificate(CertificateCommand),
    /// Archives of planes
    #[command(subcommand)]
    Archive(ArchiveCommand),
    /// Keys of encrypted archives, and the master keys that wrap them
    #[command(subcommand)]
    Keys(KeysCommand),
    /// The log in which the trail is sealed, and the keys that sign it
    #[command(subcommand)]
    Log(LogCommand),
    /// Personal values: who did what and why, as the trail and closed rows name it
    #[command(subcommand)]
    Personal(PersonalCommand),
    /// The ledger itself: check it, copy it, release it from suspicion
    #[command(subcommand)]
    Ledger(LedgerCommand),
    /// Print completions for a shell
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// A folder of your own documents (text, Markdown, HTML); each folder in it becomes a tenant [default: built in]
    #[arg(long, value_name = "DIR")]
    pub(crate) docs: Option<PathBuf>,
    /// Where the demo keeps its files; made anew each time
    #[arg(long, value_name = "DIR", default_value = "lethe-demo")]
    pub(crate) data: PathBuf,
    /// Stop in the grace period and print the commands to go on by hand
    #[arg(long)]
    pub(crate) keep: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TenantCommand {
    /// Register a tenant
    Register {
        /// Its name
        name: String,
    },
    /// List tenants
    List,
    /// Show a tenant and its planes by state
    Show {
        /// Name or id
        name: String,
    },
    /// Forbid that any of its planes is purged before a date. Nobody can take that back or shorten it
    Protect {
        /// Name or id
        name: String,
        /// Until when, as 2026-01-31T12:00:00Z
        #[arg(long, value_name = "INSTANT")]
        until: String,
        /// Why, for the record
        #[arg(long)]
        reason: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum StoreCommand {
    /// Check a store and register it
    Add {
        /// How bindings will call it
        name: String,
        /// sqlite:FILE, postgres://ROLE@HOST/DATABASE, chroma+http://HOST:PORT/TENANT/DATABASE, or https://HOST/BASE of a server that
        /// speaks the store protocol
        url: String,
        /// A tenant whose planes may bind it; may be repeated
        #[arg(long, value_name = "T")]
        tenant: Vec<String>,
        /// How long its backups live; what is not declared is printed as undeclared
        #[arg(long, value_name = "DURATION")]
        backup_retention: Option<String>,
    },
    /// Check a registered store again
    Check {
        /// Its name
        name: String,
    },
    /// Test whether a store keeps the promises that offboarding rests on; ERASES the scratch plane that it is given
    Conform {
        /// Its URL, or the name of a registered one
        store: String,
        /// The scratch plane, of at least 20 records: 'table=…&plane_column=…&plane=…&key=…'
        #[arg(long, value_name = "MAPPING")]
        map: String,
        /// Another plane of the same resource, which must not change, but for what --write-command writes there
        #[arg(long, value_name = "MAPPING")]
        neighbour: String,
        /// How many records were put into the scratch plane
        #[arg(long, value_name = "N")]
        records: Option<u64>,
        /// Writes a new record with the words $LETHE_CONFORM_MARKER into the plane $LETHE_CONFORM_PLANE, which is the scratch plane or
        /// its neighbour, as the store's users do, and fails where they are refused
        #[arg(long, value_name = "SH")]
        write_command: Option<String>,
        /// Reads a record of the plane $LETHE_CONFORM_PLANE as the store's users do, and fails where there is none
        #[arg(long, value_name = "SH")]
        read_command: Option<String>,
        /// Changes the record $LETHE_CONFORM_KEY of the plane $LETHE_CONFORM_PLANE as the store's users do
        #[arg(long, value_name = "SH")]
        change_command: Option<String>,
        /// Takes the plane off that record, so that it is nobody's; it stays in the store
        #[arg(long, value_name = "SH")]
        orphan_command: Option<String>,
        /// Restarts the store, and ends when it answers again
        #[arg(long, value_name = "SH")]
        restart_command: Option<String>,
        /// Do not ask for confirmation on a terminal
        #[arg(long)]
        yes: bool,
    },
    /// Attest that a store is gone, so that a plane's purge does not wait for it for ever; takes two persons, the second with --confirm
    ///
    /// Refused while the store answers. Nothing in it is verified then, and the plan, which is approved anew, and the trail say so.
    Attest {
        /// The store's name
        #[arg(required_unless_present = "confirm")]
        store: Option<String>,
        /// For this plane's purge and probes: plane id or tenant/name
        #[arg(long, value_name = "PLANE", required_unless_present = "confirm")]
        plane: Option<String>,
        /// What it is based on; its SHA-256 goes on record, the file stays with you
        #[arg(long, value_name = "FILE", required_unless_present = "confirm")]
        evidence: Option<PathBuf>,
        /// Confirm what somebody else attested
        #[arg(long, value_name = "ID", conflicts_with_all = ["store", "plane", "evidence"])]
        confirm: Option<String>,
        /// Why, for the record
        #[arg(long)]
        reason: String,
    },
    /// List stores
    List,
}

#[derive(Debug, Subcommand)]
pub(crate) enum PlaneCommand {
    /// Register a plane over one or more stores
    Register {
        /// Its tenant
        #[arg(long, value_name = "T")]
        tenant: String,
        /// Its name
        #[arg(long, value_name = "N")]
        name: String,
        /// 'NAME?table=chunks&plane_column=plane&plane=p1&key=id&text=body&embedding=embedding'; may be repeated.
        /// NAME is a registered store, or sqlite:FILE for a store used once
        #[arg(long, value_name = "BINDING", required = true)]
        store: Vec<String>,
        /// Where its archive goes: file:///DIR or s3://BUCKET/PREFIX
        #[arg(long, value_name = "URL")]
        archive: String,
        /// Consent to a binding without plane_column: the plane owns the whole table
        #[arg(long)]
        whole_table: bool,
    },
    /// List planes
    List {
        /// Of this tenant
        #[arg(long, value_name = "T")]
        tenant: Option<String>,
        /// In this state
        #[arg(long)]
        state: Option<String>,
    },
    /// Show a plane and its bindings
    Show {
        /// Plane id or tenant/name
        plane: String,
    },
    /// What outside uses a plane and is suspended with it: schedules, services, caches
    #[command(subcommand)]
    Dependent(DependentCommand),
}

#[derive(Debug, Subcommand)]
pub(crate) enum DependentCommand {
    /// Register something that uses a plane; offboarding suspends it, and a cancel lets it go on
    Add {
        /// Plane id or tenant/name
        plane: String,
        /// Its name
        #[arg(long, value_name = "N")]
        name: String,
        /// schedule (suspended in grace unless access is full), service or other (suspended in grace if access is none). All are
        /// suspended when the plane is deactivated
        #[arg(long, value_name = "KIND")]
        kind: String,
        /// The section [dependents.NAME] of the workers' configuration with its commands
        #[arg(long, value_name = "NAME")]
        control: String,
    },
    /// List what is registered
    List {
        /// Plane id or tenant/name
        plane: String,
    },
    /// Take something off the list; what an offboarding has suspended of it is still given back
    Remove {
        /// Plane id or tenant/name
        plane: String,
        /// Its name
        #[arg(long, value_name = "N")]
        name: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Issue a token; its secret is shown once
    Issue {
        /// Plane id or tenant/name
        plane: String,
        /// How long it lives [default: for ever]
        #[arg(long, value_name = "DURATION")]
        expires_in: Option<String>,
    },
    /// List a plane's tokens
    List {
        /// Plane id or tenant/name
        plane: String,
    },
    /// Revoke a token for good
    Revoke {
        /// Its id
        token: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum UsageCommand {
    /// Report that something uses a plane from now on
    Open {
        /// Plane id or tenant/name
        plane: String,
        /// run or query
        #[arg(long, default_value = "run")]
        kind: String,
        /// Who uses it
        #[arg(long)]
        holder: String,
        /// How long it counts as in flight unless it is closed before
        #[arg(long, default_value = "1h", value_name = "DURATION")]
        ttl: String,
    },
    /// Report that it has ended
    Close {
        /// The usage's id
        usage: String,
    },
    /// List what uses a plane now
    List {
        /// Plane id or tenant/name
        plane: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum AccessCommand {
    /// May this token query this plane now? Or, with --write or --store: may data be written there now?
    Check {
        /// Plane id or tenant/name
        #[arg(required_unless_present = "store")]
        plane: Option<String>,
        /// The token; read from LETHE_TOKEN, so that it does not stand in the process list. Writing takes none
        #[arg(long, env = "LETHE_TOKEN", hide_env_values = true, required_unless_present_any = ["write", "store"])]
        token: Option<String>,
        /// Ask before writing instead: refused unless the plane is in service
        #[arg(long)]
        write: bool,
        /// Ask before writing into a scope of this store, for who knows no plane
        #[arg(long, value_name = "NAME", requires = "scope", conflicts_with = "plane")]
        store: Option<String>,
        /// The scope: 'table=…&plane_column=…&plane=…' as the store spells it; with key=… too, the store is asked how it does
        #[arg(long, value_name = "MAPPING", requires = "store")]
        scope: Option<String>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum ProbeCommand {
    /// Ask the stores and the archive of a purged plane now whether anything came back; exits with 1 if it did
    Run {
        /// Plane id or tenant/name
        plane: String,
    },
    /// List probes
    List {
        /// Of this plane
        #[arg(long, value_name = "PLANE")]
        plane: Option<String>,
        /// Only those that are due now, or failed
        #[arg(long)]
        due: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum FindingCommand {
    /// List open findings
    List {
        /// Of this plane
        #[arg(long, value_name = "PLANE")]
        plane: Option<String>,
        /// Closed ones too
        #[arg(long)]
        all: bool,
    },
    /// Show a finding, and its plane's probes
    Show {
        /// Its id
        finding: String,
    },
    /// Close a finding after a probe that found nothing; not by who requested the offboarding
    Close {
        /// Its id
        finding: String,
        /// Why, for the record
        #[arg(long)]
        reason: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct WaitArgs {
    /// Work on this plane until it reaches STATE (or what the command is for), then answer
    #[arg(long, value_name = "STATE", num_args = 0..=1, require_equals = true, default_missing_value = "")]
    pub(crate) wait: Option<String>,
    /// How long to wait
    #[arg(long, value_name = "DURATION", default_value = "10m")]
    pub(crate) timeout: Span,
}

#[derive(Debug, Args)]
pub(crate) struct RequestArgs {
    /// Plane id or tenant/name
    pub(crate) plane: String,
    /// contract_end, internal or erasure_request
    #[arg(long)]
    pub(crate) ground: String,
    /// Why, for the record
    #[arg(long)]
    pub(crate) reason: String,
    /// Length of the grace period [default: the ground's]
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true)]
    pub(crate) grace: Option<String>,
    /// Between DEACTIVATED and the export [default: the ground's]
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true)]
    pub(crate) archive_delay: Option<String>,
    /// Between ARCHIVED and the purge [default: the ground's]
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true)]
    pub(crate) retention: Option<String>,
    /// Legal basis of a retention above 0 [default: the ground's]
    #[arg(long, value_name = "TEXT")]
    pub(crate) retention_basis: Option<String>,
    /// What stays possible in grace: read_only, full or none [default: offboarding.grace_access]
    #[arg(long, value_name = "ACCESS")]
    pub(crate) grace_access: Option<String>,
    /// When the hot copy goes: after_archive or at_purge [default: offboarding.evict]
    #[arg(long, value_name = "WHEN")]
    pub(crate) evict: Option<String>,
    /// When the demand was received, as 2026-01-31T12:00:00Z, or the day, as 2026-01-31 [default: now]
    #[arg(long, value_name = "WHEN")]
    pub(crate) received_at: Option<String>,
    /// The law whose deadline runs from that day: one of [laws], or none [default: the ground's]
    #[arg(long, value_name = "NAME")]
    pub(crate) law: Option<String>,
    /// The last day, as 2026-01-31, where it is nearer than the law's or no law has one
    #[arg(long, value_name = "DAY")]
    pub(crate) due: Option<String>,
    /// Show exactly what each stage would do and destroy, and do nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) wait: WaitArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ReasonedArgs {
    /// Plane id or tenant/name
    pub(crate) plane: String,
    /// Why, for the record
    #[arg(long)]
    pub(crate) reason: String,
    #[command(flatten)]
    pub(crate) wait: WaitArgs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum OffboardingCommand {
    /// Request that a plane leaves; the same request again answers the same offboarding
    Request(Box<RequestArgs>),
    /// List offboardings
    List {
        /// Of this tenant
        #[arg(long, value_name = "T")]
        tenant: Option<String>,
        /// Of planes in this state
        #[arg(long)]
        state: Option<String>,
        /// open, cancelled or completed
        #[arg(long)]
        status: Option<String>,
        /// Whose run is halted
        #[arg(long)]
        halted: bool,
        /// Whose run is due before this instant, as 2026-01-31T12:00:00Z
        #[arg(long, value_name = "INSTANT")]
        due_before: Option<String>,
    },
    /// Show where a plane's offboarding stands, what it waits for, and the next command to type
    Show {
        /// Plane id or tenant/name
        plane: String,
        /// Print the destruction plan instead, to the byte that an approver signs; what surrounds it goes to standard error
        #[arg(long)]
        plan: bool,
    },
    /// Cancel in the grace period; everything that was suspended is restored
    Cancel(ReasonedArgs),
    /// Skip the rest of the grace period, and nothing else: usage, holds and the approval of the purge are asked as ever
    ///
    /// It owes a review, which stays in every approver's list until somebody else has closed it.
    BreakGlass(ReasonedArgs),
    /// Close the review that a broken grace period owes; not by who broke it
    Review(ReasonedArgs),
    /// Extend its legal deadline, once and as far as the law allows, where the person concerned was told in time
    Extend {
        /// Plane id or tenant/name
        plane: String,
        /// When that person was told, as 2026-01-31T12:00:00Z, or the day, as 2026-01-31
        #[arg(long, value_name = "WHEN")]
        told: String,
        /// Why, for the record
        #[arg(long)]
        reason: String,
    },
    /// Let a halted run go on with its attempts reset, or make a denied plan anew
    Retry(RetryArgs),
}

#[derive(Debug, Args)]
pub(crate) struct RetryArgs {
    #[command(flatten)]
    pub(crate) reasoned: ReasonedArgs,
    /// Let a restore that halted after a cancel end without what it cannot give back; it is tried once more, and the rest is reported
    #[arg(long)]
    pub(crate) accept_unrestored: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DecideArgs {
    /// Plane id or tenant/name
    pub(crate) plane: String,
    /// Why, for the record
    #[arg(long)]
    pub(crate) reason: String,
    /// Sign the plan with this key, by `ssh-keygen -Y sign`: a private key, or a public one whose private part the SSH agent holds
    #[arg(long, value_name = "FILE")]
    pub(crate) key: Option<PathBuf>,
    /// A signature made elsewhere: `lethe offboarding show PLANE --plan | ssh-keygen -Y sign -n lethe-approval@v1 -f KEY > FILE`
    #[arg(long, value_name = "FILE", conflicts_with = "key")]
    pub(crate) signature: Option<PathBuf>,
    /// Do not ask for the plane's name
    #[arg(long, short)]
    pub(crate) yes: bool,
    #[command(flatten)]
    pub(crate) wait: WaitArgs,
}

#[derive(Debug, Args)]
pub(crate) struct WithdrawArgs {
    /// Plane id or tenant/name
    pub(crate) plane: String,
    /// Why, for the record
    #[arg(long)]
    pub(crate) reason: String,
    /// Whose approval [default: your own, or the only one]
    #[arg(long, value_name = "TYPE:ID")]
    pub(crate) by: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ApproverCommand {
    /// Register a person's public key, with which that person signs approvals
    Add {
        /// Whose key it is: user:NAME or founder:NAME
        actor: String,
        /// The public key's file, as `ssh-keygen -t ed25519` makes it (NAME.pub)
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
        /// A role that goes with it: operator, approver, compliance, auditor or admin; may be repeated [default: approver]
        #[arg(long, value_name = "ROLE")]
        role: Vec<String>,
        /// Why, for the record
        #[arg(long)]
        reason: String,
    },
    /// List registered keys
    List {
        /// Revoked ones too
        #[arg(long)]
        all: bool,
    },
    /// Revoke a key for good; every unused approval that it signed is withdrawn
    Revoke {
        /// SHA256:… as `approver list` shows it
        fingerprint: String,
        /// Why, for the record
        #[arg(long)]
        reason: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum PolicyCommand {
    /// Show which policies decide, and the roles that the configuration gives
    Show,
    /// Validate policies, and show which recorded decisions they would have made otherwise
    Check {
        /// A folder of *.cedar files, or a preset: solo, team or regulated
        policies: String,
        /// Try at most so many recorded decisions, the latest [default: 10000]
        #[arg(long, value_name = "N")]
        limit: Option<i64>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum ApprovalCommand {
    /// List decisions, the plans that wait for one, and reviews that are owed
    List {
        /// Of this plane
        plane: Option<String>,
        /// Only what waits for you, with each plan in words
        #[arg(long)]
        mine: bool,
        /// At most so many plans, those first whose retention ends first, and so many decisions, the latest [default: 100]
        #[arg(long, value_name = "N")]
        limit: Option<i64>,
        /// Go on where an answer ended: its `next`
        #[arg(long, value_name = "NEXT")]
        after: Option<String>,
    },
    /// Approve the destruction plan of an archived plane. What follows cannot be undone
    Grant(DecideArgs),
    /// Deny it; final for this plan
    Deny(DecideArgs),
    /// Take back an approval that has not been used
    Withdraw(WithdrawArgs),
}

#[derive(Debug, Subcommand)]
pub(crate) enum NoticeCommand {
    /// List notices, the newest first
    List {
        /// About this plane
        plane: Option<String>,
        /// queued, sending, delivered, moot or failed
        #[arg(long)]
        status: Option<String>,
        /// At most so many [default: 100]
        #[arg(long, value_name = "N")]
        limit: Option<i64>,
    },
    /// Deliver a notice again that was given up
    Retry {
        /// Its id
        notice: String,
    },
    /// Tell every configured channel something that is no notice of anything
    Test,
}

#[derive(Debug, Subcommand)]
pub(crate) enum HoldCommand {
    /// Place a hold on a plane or on a tenant, or one on each of several for the same matter
    Place {
        /// Plane id or tenant/name; several with --matter
        #[arg(required_unless_present = "tenant")]
        plane: Vec<String>,
        /// On every plane of this tenant; may be repeated with --matter
        #[arg(long, value_name = "T")]
        tenant: Vec<String>,
        /// The case for which it is placed, under which its holds are listed and released
        #[arg(long, value_name = "NAME")]
        matter: Option<String>,
        /// On whose word: court, regulator, department
        #[arg(long, value_name = "TEXT")]
        authority: Option<String>,
        /// When somebody should ask whether it is still needed, as 2026-01-31T12:00:00Z; it does not end by itself
        #[arg(long, value_name = "INSTANT")]
        review: Option<String>,
        /// Why, for the record
        #[arg(long)]
        reason: String,
    },
    /// Release a hold, or all of a matter
    Release {
        /// Its id
        #[arg(required_unless_present = "matter")]
        hold: Option<String>,
        /// Every open hold of this matter
        #[arg(long, value_name = "NAME", conflicts_with = "hold")]
        matter: Option<String>,
        /// Why, for the record
        #[arg(long)]
        reason: String,
    },
    /// List open holds
    List {
        /// On this plane or its tenant
        plane: Option<String>,
        /// Released ones too
        #[arg(long)]
        all: bool,
    },
}

#[derive(Debug, Args)]
#[group(id = "scope", required = true, multiple = false)]
pub(crate) struct ScopeArgs {
    /// Everything
    #[arg(long)]
    pub(crate) all: bool,
    /// One tenant
    #[arg(long, value_name = "T")]
    pub(crate) tenant: Option<String>,
    /// One stage: deregister, verify, deactivate, archive or purge
    #[arg(long, value_name = "S")]
    pub(crate) stage: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum AuditCommand {
    /// Ask for entries by what they are, page by page, in the order in which they were sealed
    ///
    /// An answer says how many entries wait to be sealed (`unsealed`), how many were looked at, and where to go on (`next`, for --after). A page
    /// looks at 50000 entries at most, at 10000 where texts or actors are compared: it may be empty and still have a `next`. In CSV, an actor
    /// or a reason that begins like a formula (= + - @) is written with an apostrophe before it.
    ///
    /// Example: lethe audit query --tenant acme --action TRANSITION --from 2026-10-01 --all --format csv --output moves.csv
    Query(Box<QueryArgs>),
    /// Who approved, denied or took back what, how that is known, and which purge used it
    ///
    /// Example: lethe audit approvals acme/handbook --json
    Approvals {
        /// Of this plane
        plane: Option<String>,
        /// Of this tenant
        #[arg(long, value_name = "T", conflicts_with = "plane")]
        tenant: Option<String>,
        #[command(flatten)]
        period: PeriodArgs,
        /// Go on after this leaf: the `next` of an answer
        #[arg(long, value_name = "N")]
        after: Option<i64>,
        /// At most so many decisions [default: 100]
        #[arg(long, value_name = "N")]
        limit: Option<usize>,
    },
    /// What was refused: how often, by code and actor, and the latest of it
    ///
    /// Example: lethe audit refusals --tenant acme --from 2026-10-01
    Refusals {
        /// On this plane
        plane: Option<String>,
        /// Of this tenant
        #[arg(long, value_name = "T", conflicts_with = "plane")]
        tenant: Option<String>,
        /// Asked for by this actor, as user:mallory
        #[arg(long, value_name = "TYPE:ID")]
        by: Option<String>,
        /// With this code, as HOLD_ACTIVE
        #[arg(long, value_name = "CODE")]
        code: Option<String>,
        #[command(flatten)]
        period: PeriodArgs,
        /// Go on after this leaf: the `next` of an answer
        #[arg(long, value_name = "N")]
        after: Option<i64>,
        /// List so many of the latest [default: 100]
        #[arg(long, value_name = "N")]
        limit: Option<usize>,
    },
    /// Everything about a plane, in order and in words, with what concerns its tenant as a whole
    ///
    /// Example: lethe audit about acme/handbook
    About {
        /// Plane id or tenant/name
        plane: String,
        #[command(flatten)]
        period: PeriodArgs,
    },
    /// Every purge that was begun or finished in a time, its steps, and what of them is missing, late or out of order
    ///
    /// Judged are the six steps, who approved what the purge used, the retention, the legal deadline, and the probes that were planned, which may
    /// be answered a day late. Exits with 0 whatever it finds: `with_faults` counts.
    ///
    /// Example: lethe audit purges --quarter 2026Q4 --faults
    Purges {
        /// Of this tenant
        #[arg(long, value_name = "T")]
        tenant: Option<String>,
        /// In this quarter, as 2026Q4
        #[arg(long, value_name = "QUARTER", conflicts_with_all = ["from", "until"])]
        quarter: Option<String>,
        #[command(flatten)]
        period: PeriodArgs,
        /// Only those of which something is missing, late or out of order
        #[arg(long)]
        faults: bool,
        /// Go on after this leaf: the `next` of an answer
        #[arg(long, value_name = "N")]
        after: Option<i64>,
    },
    /// List entries
    List {
        /// Of this plane
        plane: Option<String>,
        /// Of this tenant, its planes included
        #[arg(long, value_name = "T")]
        tenant: Option<String>,
        /// Of this type, as TRANSITION
        #[arg(long = "type", value_name = "TYPE")]
        event_type: Option<String>,
        /// At most so many, the newest
        #[arg(long)]
        limit: Option<i64>,
    },
    /// Recompute every chain, the log and what is published from the rows; names the first fault
    Verify {
        /// Only this plane's chain
        plane: Option<String>,
        /// A signed checkpoint that was kept elsewhere: the log must begin with its tree
        #[arg(long, value_name = "FILE")]
        checkpoint: Option<PathBuf>,
        /// Leave out what is published
        #[arg(long)]
        unpublished: bool,
    },
    /// Prove that an entry is in the log; `lethe-verify inclusion` checks it
    Prove {
        /// The entry's event_id, as `audit list --json` shows it
        entry: uuid::Uuid,
    },
    /// Prove that the log only grew from one checkpoint to another; `lethe-verify consistency` checks it
    Consistency {
        /// A size, or the file of a signed checkpoint
        old: String,
        /// Another one [default: the newest]
        new: Option<String>,
    },
    /// Write entries with their proofs: all of a plane or tenant, and that nothing is left out; `lethe-verify bundle` checks it
    Bundle {
        /// All of this plane
        #[arg(required_unless_present_any = ["tenant", "leaves"])]
        plane: Option<String>,
        /// All of this tenant, its planes included
        #[arg(long, value_name = "T", conflicts_with = "plane")]
        tenant: Option<String>,
        /// Single entries, by the numbers of their leaves
        #[arg(long = "leaf", value_name = "N", conflicts_with_all = ["plane", "tenant"])]
        leaves: Vec<u64>,
        /// With the actors and reasons that have not been erased; whoever has the file has them
        #[arg(long)]
        values: bool,
        /// Where to
        #[arg(long, value_name = "FILE")]
        to: PathBuf,
    },
    /// Print or write every entry with its hashes, without personal values
    Export {
        /// Of this plane
        plane: Option<String>,
        /// Of this tenant
        #[arg(long, value_name = "T")]
        tenant: Option<String>,
        /// Write JSON lines to a file instead
        #[arg(long, value_name = "FILE")]
        to: Option<PathBuf>,
    },
}

/// What `audit query` asks. What is not given does not filter.
#[derive(Debug, Args)]
pub(crate) struct QueryArgs {
    /// Of this tenant, its planes included; __system__: what concerns none
    #[arg(long, value_name = "T")]
    pub(crate) tenant: Option<String>,
    /// About this plane
    #[arg(long, value_name = "PLANE")]
    pub(crate) plane: Option<String>,
    /// Of this offboarding
    #[arg(long, value_name = "ID")]
    pub(crate) offboarding: Option<String>,
    /// About this approval
    #[arg(long, value_name = "ID")]
    pub(crate) approval: Option<String>,
    /// By this actor, as user:alice
    #[arg(long, value_name = "TYPE:ID")]
    pub(crate) by: Option<String>,
    /// Of one of these types, as TRANSITION,APPROVED
    #[arg(long = "action", value_name = "TYPE", value_delimiter = ',')]
    pub(crate) actions: Vec<String>,
    /// That ended so: DONE, ALLOWED, PENDING, BLOCKED or FAILED
    #[arg(long = "outcome", value_name = "O", value_delimiter = ',')]
    pub(crate) outcomes: Vec<String>,
    /// Dated then or later: an instant, or a day where deadlines are counted
    #[arg(long, value_name = "WHEN")]
    pub(crate) from: Option<String>,
    /// Dated before
    #[arg(long, value_name = "WHEN")]
    pub(crate) until: Option<String>,
    /// Decided under these policies
    #[arg(long, value_name = "DIGEST")]
    pub(crate) policy_revision: Option<String>,
    /// In which a value, a reason or an actor contains this, in whatever case
    #[arg(long, value_name = "TEXT")]
    pub(crate) text: Option<String>,
    /// Go on after this leaf: the `next` of an answer
    #[arg(long, value_name = "N")]
    pub(crate) after: Option<i64>,
    /// At most so many entries a page, up to 10000 [default: 100]
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<usize>,
    /// The newest first
    #[arg(long)]
    pub(crate) newest: bool,
    /// How the answer is written
    #[arg(long, value_enum, default_value = "table")]
    pub(crate) format: Format,
    /// Write the answer to a file, which is there whole or not at all
    #[arg(long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Every page, one after the other
    #[arg(long)]
    pub(crate) all: bool,
    /// Write the page's entries with their proofs too; `lethe-verify bundle` checks it
    #[arg(long, value_name = "FILE", conflicts_with = "all")]
    pub(crate) proof: Option<PathBuf>,
}

/// Of which time and how much of it.
#[derive(Debug, Args)]
pub(crate) struct PeriodArgs {
    /// Dated then or later: an instant, or a day where deadlines are counted
    #[arg(long, value_name = "WHEN")]
    pub(crate) from: Option<String>,
    /// Dated before
    #[arg(long, value_name = "WHEN")]
    pub(crate) until: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum CertificateCommand {
    /// Those that were issued, and those that are due
    List {
        /// Of this tenant
        #[arg(long, value_name = "T")]
        tenant: Option<String>,
    },
    /// What is certified of a purged plane, the weakest first
    Show {
        /// The plane, by its id or by what it was called
        plane: String,
        /// Print it as a page
        #[arg(long)]
        html: bool,
    },
    /// Write it as JSON, which can be verified anywhere, and as a page to print
    Export {
        /// The plane, by its id or by what it was called
        plane: String,
        /// A folder, or the name of the two files without their endings
        #[arg(long, value_name = "DIR|FILE")]
        to: PathBuf,
    },
    /// Verify one, with nothing but a public key; `lethe-verify certificate` does the same without Lethe
    Verify {
        /// What `certificate export` wrote
        file: PathBuf,
        /// The log's public key: NAME+NUMBER+KEY [default: the keys that this ledger knows]
        #[arg(long, value_name = "VKEY")]
        key: Vec<String>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum LogCommand {
    /// Show where the log stands, its keys and its newest checkpoint
    Show,
    /// Print the newest signed checkpoint, to be kept elsewhere
    Checkpoint,
    /// Seal and publish what waits, now
    Seal,
    /// Write every sealed entry and the checkpoint that signs them, without personal values; `lethe-verify export` checks it
    Export {
        /// A file that does not exist yet
        #[arg(long, value_name = "FILE")]
        to: PathBuf,
    },
    /// Make a key that signs, in a new file that only its owner may read
    InitKey {
        /// A file that does not exist yet
        file: PathBuf,
        /// The log's name, as example.com/lethe; a key that follows another one bears the same
        #[arg(long)]
        name: String,
    },
    /// Take a key out of use, after another one has signed beside it
    RetireKey {
        /// The public key, as `log show` has it
        key: String,
        /// Why, for the record
        #[arg(long)]
        reason: String,
    },
    /// Let the configured key sign although no earlier key vouches for it: the earlier one is lost, or the ledger was restored
    ///
    /// Where none is configured and a ledger in SQLite has lost its own, a new one is made beside it.
    AdoptKey {
        /// Why, for the record
        #[arg(long)]
        reason: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum LedgerCommand {
    /// Check the file, the trail, the clock and the marks beside the archives
    Check,
    /// Copy the ledger while it is in use, and verify the copy
    Backup {
        /// A file that does not exist yet
        #[arg(long, value_name = "FILE")]
        to: PathBuf,
    },
    /// After a restore from a backup: ask every store and archive again, and let the ledger destroy again
    Reconcile {
        /// Why, for the record
        #[arg(long)]
        reason: String,
    },
    /// After a jump of the clock: it is right now
    ConfirmClock {
        /// Why, for the record
        #[arg(long)]
        reason: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum KeysCommand {
    /// Make a master key in a new file that only its owner may read
    Init {
        /// A file that does not exist yet
        file: PathBuf,
    },
    /// Show the configured master keys, what each of them wraps, and keys that none of them wraps
    Show,
    /// Wrap what earlier master keys wrap under the current one
    Rewrap {
        /// Why, for the record
        #[arg(long)]
        reason: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum PersonalCommand {
    /// Show the keys under which values are sealed, how many each seals, and when they are erased or were
    Show {
        /// Of this tenant only
        #[arg(long)]
        tenant: Option<String>,
    },
    /// Erase names and reasons for good: of one tenant, or of what concerns none
    ///
    /// Destroys the key under which the trail's values are sealed, and reduces what is closed. Every proof still verifies.
    Erase {
        /// Whose
        #[arg(long, required_unless_present = "system")]
        tenant: Option<String>,
        /// Those of what concerns no tenant: operators
        #[arg(long, conflicts_with = "tenant")]
        system: bool,
        /// Why, for the record
        #[arg(long)]
        reason: String,
        /// Do not ask for confirmation on a terminal
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum ArchiveCommand {
    /// Say what is known of an archive: whether it answers, and what its bucket does by itself
    Check {
        /// file:///DIR or s3://BUCKET/PREFIX
        url: String,
    },
    /// Read everything back and compare it with the ledger's copy of the manifest
    Verify {
        /// Plane id or tenant/name
        plane: String,
        /// Restore it too, into a scratch file beside the ledger that is removed again, and compare every record
        #[arg(long)]
        restore: bool,
    },
    /// Restore the archive into a new plane of the same tenant, over a new SQLite file; every record is compared
    ///
    /// The archived plane and its stores are left as they are. The new file has one table per binding, named as it was, with the
    /// columns and the key of the archive; indexes and other constraints are the application's to make.
    Restore {
        /// Plane id or tenant/name
        plane: String,
        /// The new plane's name
        #[arg(long, value_name = "NAME")]
        into: String,
        /// Where its records go: sqlite:FILE, which must not exist yet [default: restored/NAME.db beside the ledger]
        #[arg(long, value_name = "URL")]
        store: Option<String>,
    },
    /// Print the key of an encrypted archive, for a reader that is not Lethe; on record
    ///
    /// Whoever has it reads every copy of the archive, and goes on doing so after the purge.
    Key {
        /// Plane id or tenant/name
        plane: String,
        /// Why, for the record
        #[arg(long)]
        reason: String,
    },
    /// Copy the archive's objects, digests compared, into a new folder
    Export {
        /// Plane id or tenant/name
        plane: String,
        /// The folder
        #[arg(long, value_name = "DIR")]
        to: PathBuf,
    },
}
