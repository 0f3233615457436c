//! The command line: a thin skin over [`crate::operations`]. Noun, then verb.
//!
//! The rule: exit codes are 0 done, 1 fault, 2 usage, 3 refused, 4 timed out. With `--json`, one document on standard output;
//! logs and progress go to standard error.

mod args;
mod bars;
mod calls;
mod certificate;
mod confirm;
mod open;
mod query;
mod render;
mod sign;
mod wait;

use std::{io::Write, process::ExitCode, sync::Arc};

use clap::{CommandFactory, Parser};
use lethe_ledger::Fault;
use lethe_stages::{Code, Refusal};
use serde_json::{Value as Json, json};

pub use self::args::Cli;
use self::args::{CertificateCommand, Command, Global, KeysCommand, LogCommand};
pub(crate) use self::{args::DemoArgs, open::assemble};
use crate::{
    clock::SystemEntropy,
    config::ConfigError,
    keys::{KeyReference, MasterKey},
    manager::{ProbeReport, WorkerLock},
    operations::{Answer, App},
    runner::{self, Roles, RunError, RunOptions},
};

/// The version of every document that `--json` prints.
pub(crate) const DOCUMENT_SCHEMA: u32 = 1;

/// Why a command did not end well.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CommandError {
    /// The caller asked for what is not allowed.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// We failed.
    #[error(transparent)]
    Fault(#[from] Fault),
    /// The runner failed.
    #[error(transparent)]
    Run(#[from] RunError),
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The command line cannot be understood.
    #[error("{0}")]
    Usage(String),
    /// What was waited for did not come in time.
    #[error("{0}")]
    TimedOut(String),
    /// Something local to the command: a file, a pipe.
    #[error("{0}")]
    Local(String),
}

impl CommandError {
    fn exit(&self) -> u8 {
        match self {
            CommandError::Refused(_) => 3,
            CommandError::Usage(_) | CommandError::Config(_) => 2,
            CommandError::TimedOut(_) => 4,
            _ => 1,
        }
    }

    fn document(&self) -> Json {
        let (code, details) = match self {
            CommandError::Refused(refusal) => (refusal.code.as_str(), refusal.details.clone()),
            CommandError::Usage(_) => ("USAGE", json!({})),
            CommandError::Config(_) => ("CONFIGURATION", json!({})),
            CommandError::TimedOut(_) => ("TIMED_OUT", json!({})),
            _ => ("FAULT", json!({})),
        };
        let message = if let CommandError::Refused(refusal) = self { refusal.message.clone() } else { chain(self) };
        json!({"error": {"code": code, "message": message, "details": details}})
    }
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

/// Runs the program.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let json = cli.global.json;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let done = match runtime {
        Ok(runtime) => start_logging(&cli).and_then(|()| runtime.block_on(execute(cli))),
        Err(error) => Err(CommandError::Local(format!("start the runtime: {error}"))),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            if json {
                print_document(error.document());
            } else {
                let code = error.document()["error"]["code"].as_str().unwrap_or("FAULT").to_owned();
                eprintln!("{code}: {}", error.document()["error"]["message"].as_str().unwrap_or_default());
            }
            ExitCode::from(error.exit())
        }
    }
}

fn start_logging(cli: &Cli) -> Result<(), CommandError> {
    use std::io::IsTerminal;
    use tracing_subscriber::{Layer, filter::Targets, layer::SubscriberExt, util::SubscriberInitExt};
    let default = if matches!(cli.command, Command::Serve { .. }) { "info" } else { "warn" };
    let wanted = cli.global.log.as_deref().unwrap_or(default);
    let unreadable = |error| {
        CommandError::Usage(format!("--log: `{wanted}` is no level (error, warn, info, debug, trace) or target=level: {error}"))
    };
    let filter: Targets = wanted.parse().map_err(unreadable)?;
    // What the database says of slow statements is of no use to an operator.
    let filter = filter.with_target("sqlx", tracing::level_filters::LevelFilter::ERROR);
    // What the AWS SDK says in detail quotes what it signs with. The targets that begin so are all of its crates.
    let filter = filter.with_target("aws", tracing::level_filters::LevelFilter::WARN);
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
    tracing_subscriber::registry().with(layer.with_filter(filter)).init();
    Ok(())
}

async fn execute(cli: Cli) -> Result<ExitCode, CommandError> {
    let Cli { global, command } = cli;
    match command {
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "lethe", &mut script);
            let _ = std::io::stdout().lock().write_all(&script);
            Ok(ExitCode::SUCCESS)
        }
        Command::Keys(KeysCommand::Init { file }) => {
            let made = MasterKey::create(&file, &SystemEntropy);
            let made = made.map_err(|error| CommandError::Local(format!("make a master key in {}: {error}", file.display())))?;
            let file = std::path::absolute(&file).unwrap_or(file);
            let reference = KeyReference::File(file).to_string();
            print(&global, "keys", json!({"master_key_id": made.id(), "reference": reference}));
            Ok(ExitCode::SUCCESS)
        }
        Command::Certificate(CertificateCommand::Verify { file, key }) => certificate::verify(&global, &file, &key).await,
        Command::Log(LogCommand::InitKey { file, name }) => {
            let made = crate::log::create_key(&file, &name, &SystemEntropy);
            let made = made.map_err(|error| CommandError::Local(format!("make a key in {}: {error}", file.display())))?;
            let file = std::path::absolute(&file).unwrap_or(file);
            let reference = KeyReference::File(file).to_string();
            print(&global, "log", json!({"vkey": made.public().to_string(), "reference": reference}));
            Ok(ExitCode::SUCCESS)
        }
        Command::Demo(args) => crate::demo::run(args, global.json).await,
        Command::Migrate { insecure_demo, app_role } => {
            let ledger = open::migrate(&global, insecure_demo, &app_role).await?;
            let document = json!({"ledger": lethe_ledger::redacted(&open::url(&global)), "ledger_id": ledger.id(), "migrated": true, "insecure_demo": ledger.insecure_demo()});
            ledger.close().await;
            print(&global, "migrate", document);
            Ok(ExitCode::SUCCESS)
        }
        Command::Serve { roles } => {
            let has = |role| roles.contains(&role);
            let roles = Roles { worker: has(args::Role::Worker), sweeper: has(args::Role::Sweeper) };
            closing(open::app_of_service(&global).await?, async |app| {
                runner::run(app.clone(), RunOptions { plane: None, until_idle: false, stop: stop_signal(), roles }).await?;
                Ok(ExitCode::SUCCESS)
            })
            .await
        }
        Command::Work { until_idle } => with_app(&global, true, async |app| work(app, &global, until_idle).await).await,
        Command::Sweep {} => {
            with_app(&global, false, async |app| {
                let mut document = json!(app.manager.sweep().await?);
                document["probes"] = json!(probe(app, None).await?);
                print(&global, "sweep", document);
                Ok(ExitCode::SUCCESS)
            })
            .await
        }
        command => {
            let planned = calls::plan(command)?;
            with_app(&global, planned.creates, async |app| call(app, &global, planned).await).await
        }
    }
}

/// Opens the program and does `work`.
async fn with_app(
    global: &Global,
    creates: bool,
    work: impl AsyncFnOnce(&Arc<App>) -> Result<ExitCode, CommandError>,
) -> Result<ExitCode, CommandError> {
    closing(open::app(global, creates).await?, work).await
}

/// Does `work`, and closes the ledger whatever came of it, so that its file is whole without its log.
async fn closing(
    app: Arc<App>,
    work: impl AsyncFnOnce(&Arc<App>) -> Result<ExitCode, CommandError>,
) -> Result<ExitCode, CommandError> {
    let done = work(&app).await;
    // Whoever still reads does not keep the command from ending.
    let _ = tokio::time::timeout(std::time::Duration::from_secs(2), app.ledger.close()).await;
    done
}

async fn work(app: &Arc<App>, global: &Global, until_idle: bool) -> Result<ExitCode, CommandError> {
    let bars = bars::Bars::start(app, global.json);
    let worked = runner::run(app.clone(), RunOptions { plane: None, until_idle, stop: stop_signal(), roles: Roles::ALL }).await;
    bars.finish();
    worked?;
    let next_due_at = app.ledger.read(async |tx: &mut lethe_ledger::Tx| tx.next_due().await).await?;
    print(global, "work", json!({"idle": until_idle, "next_due_at": next_due_at}));
    Ok(ExitCode::SUCCESS)
}

/// A command that is one call of one operation.
async fn call(app: &Arc<App>, global: &Global, mut planned: calls::Planned) -> Result<ExitCode, CommandError> {
    let operation = planned.operation;
    if let Some(out) = planned.answer {
        query::run(app, global, planned.arguments, out).await?;
        return Ok(ExitCode::SUCCESS);
    }
    let plan = match &planned.sign {
        Some(_) => {
            let plane = json!({"plane": planned.arguments["plane"]});
            Some(dispatch(app, global, "knowledge.offboarding.plan", plane).await?)
        }
        None => None,
    };
    if let Some(plane) = &planned.confirm {
        if let Some(text) = plan.as_ref().and_then(|plan| plan["text"].as_str()).filter(|_| !global.json) {
            eprintln!("{text}");
        }
        confirm::ask(plane, planned.yes, global.json)?;
    }
    if let (Some(signing), Some(plan)) = (&planned.sign, &plan)
        && let (Some(arguments), Json::Object(more)) = (planned.arguments.as_object_mut(), signing.arguments(plan)?)
    {
        arguments.extend(more);
    }
    let mut document = dispatch(app, global, operation, planned.arguments).await?;
    if let Some(wait) = planned.wait {
        document = wait::until(app, global, &document, wait).await?;
    } else if operation == "knowledge.offboarding.cancel" {
        // The stores' part of the undoing is a run; it is short, so it is done here and now unless a server is quicker.
        document = wait::restored(app, global, &document).await?;
    }
    if operation == "knowledge.probe.run" {
        document = probed(app, global, document).await?;
    }
    if let Some(path) = planned.write_to {
        let lines = document["entries"].as_array().into_iter().flatten().map(|entry| format!("{entry}\n")).collect::<String>();
        std::fs::write(&path, lines).map_err(|error| CommandError::Local(format!("write {}: {error}", path.display())))?;
        document = json!({"written": path, "entries": document["entries"].as_array().map_or(0, Vec::len)});
    }
    if let Some(given) = planned.certificate {
        return certificate::give(global, document, given);
    }
    if let Some(path) = planned.document_to {
        let text = format!("{document}\n");
        std::fs::write(&path, text).map_err(|error| CommandError::Local(format!("write {}: {error}", path.display())))?;
        document = json!({"written": path, "entries": document["entries"].as_array().map_or(0, Vec::len)});
    }
    if let (Some(only), false) = (planned.only, global.json) {
        let Some(text) = document[only].as_str() else {
            return Err(Refusal::new(Code::LogOff, format!("there is no {only} yet: `lethe log show` says why")).into());
        };
        let _ = std::io::stdout().lock().write_all(text.as_bytes());
        return Ok(ExitCode::SUCCESS);
    }
    if operation == "knowledge.offboarding.plan" && !global.json {
        print_plan(document);
        return Ok(ExitCode::SUCCESS);
    }
    let broken = ["audit", "archive", "store"].iter().any(|checked| document[checked] == "broken")
        || document["ledger"] == "suspect"
        || (operation == "governance.log.seal" && document["log"] == "stopped")
        || (operation == "knowledge.probe.run" && document["status"] != "clean");
    print(global, operation, document);
    Ok(if broken { ExitCode::from(1) } else { ExitCode::SUCCESS })
}

/// Asks the probes that are due, in this process; of one plane, if given.
async fn probe(app: &Arc<App>, plane: Option<uuid::Uuid>) -> Result<ProbeReport, CommandError> {
    let lock = WorkerLock::acquire(&app.ledger).map_err(RunError::Lock)?;
    Ok(app.manager.probe_due(lock.id(), plane).await?)
}

/// A probe that somebody asked for, performed here and now unless another worker was quicker; and what is open because of it.
async fn probed(app: &Arc<App>, global: &Global, document: Json) -> Result<Json, CommandError> {
    let plane = json!({"plane": document["plane_id"]});
    probe(app, document["plane_id"].as_str().and_then(|id| id.parse().ok())).await?;
    let listed = dispatch(app, global, "knowledge.probe.list", plane.clone()).await?;
    let asked = |probe: &&Json| probe["probe_id"] == document["probe_id"];
    let mut answer = listed["probes"].as_array().into_iter().flatten().find(asked).cloned().unwrap_or(document.clone());
    let findings = dispatch(app, global, "knowledge.finding.list", plane).await?;
    answer["findings"] = findings["findings"].clone();
    Ok(answer)
}

async fn dispatch(app: &Arc<App>, global: &Global, operation: &str, arguments: Json) -> Result<Json, CommandError> {
    let call = crate::operations::Call {
        operation: operation.to_owned(),
        arguments,
        actor: global.actor()?,
        tenant: global.as_tenant.clone(),
        idempotency_key: global.idempotency_key.clone(),
    };
    match app.dispatch(&call).await? {
        Answer::Done(document) => Ok(document),
        Answer::Refused(refusal) => Err(refusal.into()),
    }
}

/// Prints a command's one document.
fn print(global: &Global, operation: &str, document: Json) {
    if global.json {
        print_document(document);
    } else {
        let mut out = std::io::stdout().lock();
        // A reader that went away (`| head`) is no failure of ours.
        let _ = write!(out, "{}", render::text(operation, &document));
    }
}

/// Prints a plan to the byte, so that what is redirected can be signed and verified; what surrounds it goes to standard error.
fn print_plan(mut document: Json) {
    let text = document["text"].take();
    document["plan"].take();
    let _ = std::io::stdout().lock().write_all(text.as_str().unwrap_or_default().as_bytes());
    eprintln!("\n{}", render::text("", &document));
}

pub(crate) fn print_document(mut document: Json) {
    document["schema_version"] = json!(DOCUMENT_SCHEMA);
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{document}");
}

/// Turns true at SIGTERM or SIGINT.
pub(crate) fn stop_signal() -> tokio::sync::watch::Receiver<bool> {
    use tokio::signal::unix::{SignalKind, signal};
    let (sender, receiver) = tokio::sync::watch::channel(false);
    tokio::spawn(async move {
        let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) else {
            return;
        };
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        tracing::info!("stopping: what runs may finish, what has not started is given back");
        let _ = sender.send(true);
        // Kept so that the receiver does not see a closed channel as a change.
        std::future::pending::<()>().await;
    });
    receiver
}
