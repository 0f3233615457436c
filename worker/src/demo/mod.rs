//! `lethe demo`: the whole story on real documents, through the same operations, worker and drivers that everybody uses.
//!
//! The rule: nothing in it is played. If a step does not come out as it must, the demo fails and says which.

mod corpus;
mod knowledge;
mod vectoriser;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use lethe_ledger::{Clock, Ledger, OpenOptions};
use serde_json::{Value as Json, json};
use tokio::sync::watch;

use self::{corpus::Document, knowledge::Knowledge};
use crate::{
    cli::{CommandError, DemoArgs, assemble, print_document, stop_signal},
    clock::{SystemClock, SystemEntropy},
    config::{Config, Span},
    operations::{Answer, App, Call},
    runner::{self, Roles, RunOptions},
};

/// Written into the demo's folder, so that the next demo knows that it may clear it.
const OURS: &str = ".lethe-demo";
/// How long any one step may take before the demo gives up.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs the demo.
pub(crate) async fn run(args: DemoArgs, json: bool) -> Result<ExitCode, CommandError> {
    let documents = match &args.docs {
        Some(folder) => corpus::read_folder(folder).map_err(|error| CommandError::Usage(format!("--docs: {error}")))?,
        None => corpus::built_in(),
    };
    let stop = stop_signal();
    let story = Story::set_up(&args.data, documents, json).await?;
    let (end, ended) = watch::channel(false);
    let worker = runner::run(story.app.clone(), RunOptions { plane: None, until_idle: false, stop: ended, roles: Roles::ALL });
    tokio::pin!(worker);
    let told = tokio::select! {
        told = story.tell(args.keep) => told,
        worked = &mut worker => { worked?; Err(CommandError::Local("the worker ended before the story did".into())) }
        () = interrupted(stop) => Err(CommandError::Local("interrupted".into())),
    };
    let _ = end.send(true);
    worker.await?;
    let summary = told?;
    if args.keep {
        return story.keep(summary, json).await;
    }
    story.conclude(summary, json).await
}

async fn interrupted(mut stop: watch::Receiver<bool>) {
    while !*stop.borrow() {
        if stop.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

struct Story {
    app: Arc<App>,
    knowledge: Knowledge,
    data: PathBuf,
    marker: String,
    /// How often the marker stood in the files' raw bytes before anything was erased.
    planted: u64,
    /// The leaving tenant's plane and its neighbour, as tenant/name.
    leaving: String,
    staying: String,
    json: bool,
    began: chrono::DateTime<chrono::Utc>,
}

/// A certificate that was verified.
struct Certified {
    file: std::path::PathBuf,
    weakest: String,
    log_size: u64,
}

/// What the story found out on the way.
struct Summary {
    plane_id: String,
    records: u64,
    neighbour: (u64, String),
    archived_rows: u64,
}

fn local(doing: &str) -> impl Fn(sqlx::Error) -> CommandError + '_ {
    move |error| CommandError::Local(format!("{doing}: {error}"))
}

impl Story {
    async fn set_up(data: &Path, documents: Vec<Document>, json: bool) -> Result<Self, CommandError> {
        clear(data).map_err(|error| CommandError::Local(format!("prepare {}: {error}", data.display())))?;
        let data = data.canonicalize().map_err(|error| CommandError::Local(format!("prepare {}: {error}", data.display())))?;
        let mut config = Config::load(None)?;
        config.queue.poll = Span(chrono::TimeDelta::milliseconds(50));
        config.sweep.every = Span(chrono::TimeDelta::seconds(1));
        let url = format!("sqlite:{}", data.join("lethe.db").display());
        let options = OpenOptions { url, clock: Arc::new(SystemClock), entropy: Arc::new(SystemEntropy) };
        let ledger = Ledger::migrate(options, true).await?;
        let mut random = [0; 12];
        ledger.entropy().fill(&mut random);
        let marker = format!("LETHE-MARKER-{}", hex::encode(random));
        let [(leaver, left), (stayer, stayed)] = two_tenants(documents);
        let planes: [(&str, &[Document]); 2] = [("p1", &left), ("p2", &stayed)];
        let knowledge =
            Knowledge::build(&data.join("knowledge.db"), &planes, &marker).await.map_err(local("write the knowledge base"))?;
        let planted = count_marker(&data, &marker)?.1;
        let story = Self {
            app: assemble(ledger, config)?,
            knowledge,
            data,
            marker,
            planted,
            leaving: format!("{leaver}/handbook"),
            staying: format!("{stayer}/handbook"),
            json,
            began: SystemClock.now(),
        };
        let (one, two) = (story.rows("p1").await?.0, story.rows("p2").await?.0);
        story.say(
            "knowledge base",
            &format!(
                "{} documents, {one} + {two} chunks with embeddings, two tenants' planes in one SQLite file",
                left.len() + stayed.len()
            ),
        );
        Ok(story)
    }

    fn say(&self, what: &str, how: &str) {
        if !self.json {
            let seconds = (SystemClock.now() - self.began).num_milliseconds() as f64 / 1000.0;
            println!("{seconds:6.2} s  {what:<16}  {how}");
        }
    }

    async fn rows(&self, plane: &str) -> Result<(u64, String), CommandError> {
        self.knowledge.digest(plane).await.map_err(local("read the knowledge base"))
    }

    async fn attempt(&self, actor: &str, operation: &str, arguments: Json) -> Result<Answer, CommandError> {
        let actor = actor.parse().map_err(CommandError::Usage)?;
        let call = Call { operation: operation.into(), arguments, actor, tenant: None, idempotency_key: None };
        Ok(self.app.dispatch(&call).await?)
    }

    async fn call(&self, actor: &str, operation: &str, arguments: Json) -> Result<Json, CommandError> {
        match self.attempt(actor, operation, arguments).await? {
            Answer::Done(document) => Ok(document),
            Answer::Refused(refusal) => Err(refusal.into()),
        }
    }

    /// A call that must be refused with `code`; anything else ends the demo.
    async fn refused(&self, actor: &str, operation: &str, arguments: Json, code: &str) -> Result<String, CommandError> {
        match self.attempt(actor, operation, arguments).await? {
            Answer::Refused(refusal) if refusal.code.as_str() == code => Ok(refusal.to_string()),
            other => Err(CommandError::Local(format!("{operation} should be refused with {code}, and was answered {other:?}"))),
        }
    }

    async fn until(&self, plane: &str, what: &str, there: impl Fn(&Json) -> bool) -> Result<Json, CommandError> {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let status = self.call("user:alice", "knowledge.offboarding.show", json!({"plane": plane})).await?;
            if there(&status) {
                return Ok(status);
            }
            if status["offboarding"]["run_status"] == "halted" || tokio::time::Instant::now() > deadline {
                return Err(CommandError::Local(format!("waiting until {what}, but: {status}")));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn register(&self) -> Result<(String, String), CommandError> {
        let mut ids = Vec::new();
        let tenant_of = |plane: &str| plane.split('/').next().unwrap_or_default().to_owned();
        let (leaver, stayer) = (tenant_of(&self.leaving), tenant_of(&self.staying));
        for tenant in [&leaver, &stayer] {
            self.call("user:root", "account.tenant.register", json!({"name": tenant})).await?;
        }
        let url = format!("sqlite:{}", self.data.join("knowledge.db").display());
        self.call("user:root", "integrations.store.add", json!({"name": "kb", "url": url, "tenants": [leaver, stayer]})).await?;
        for (tenant, value) in [(&leaver, "p1"), (&stayer, "p2")] {
            let store = format!("kb?table=chunks&plane_column=plane&plane={value}&key=id&text=body&embedding=embedding");
            let archive = format!("file://{}", self.data.join("archive").display());
            let arguments = json!({"tenant": tenant, "name": "handbook", "stores": [store], "archive": archive});
            let plane = self.call("user:root", "knowledge.plane.register", arguments).await?;
            ids.push(plane["plane_id"].as_str().unwrap_or_default().to_owned());
        }
        Ok((ids.remove(0), ids.remove(0)))
    }

    /// The query endpoint: asks Lethe, then the vectors.
    async fn query(&self, plane: &str, token: &str, question: &str) -> Result<String, CommandError> {
        self.call("sdk:endpoint", "knowledge.access.check", json!({"plane": plane, "token": token})).await?;
        let hits = self.knowledge.search("p1", question, 3).await.map_err(local("search"))?;
        Ok(hits.iter().map(|hit| format!("{} ({:.2})", hit.document, hit.similarity)).collect::<Vec<_>>().join(", "))
    }

    async fn tell(&self, keep: bool) -> Result<Summary, CommandError> {
        let (plane, _) = self.register().await?;
        let neighbour = self.rows("p2").await?;
        let token = self.call("user:alice", "knowledge.token.issue", json!({"plane": plane})).await?;
        let token = token["token"].as_str().unwrap_or_default().to_owned();
        let question = "How long can a customer return an item?";
        self.say("query", &format!("\"{question}\" → {}", self.query(&plane, &token, question).await?));

        self.drain_and_cancel(&plane, &token, question).await?;
        let records = self.rows("p1").await?.0;

        let grace = if keep { "3m" } else { "2s" };
        let again =
            json!({"plane": plane, "ground": "contract_end", "reason": "the contract ended", "grace": grace, "retention": "0s"});
        self.call("user:alice", "knowledge.offboarding.request", again).await?;
        self.until(&plane, "the grace period runs", |status| status["state"] == "PENDING_DEACTIVATE").await?;
        self.say("second request", &format!("PENDING_DEACTIVATE, grace {grace}"));
        if keep {
            return Ok(Summary { plane_id: plane, records, neighbour, archived_rows: 0 });
        }

        let archived = self.until(&plane, "it is archived", |status| status["offboarding"]["run_status"] == "parked").await?;
        let archived_rows = archived["offboarding"]["stores"][0]["rows_exported"].as_u64().unwrap_or(0);
        self.say(
            "archived",
            &format!("{archived_rows} records as Parquet, read back and compared; hot copy removed and proved gone"),
        );
        self.say(
            "token",
            &self
                .refused("sdk:endpoint", "knowledge.access.check", json!({"plane": plane, "token": token}), "TOKEN_NOT_ACTIVE")
                .await?,
        );
        let digest = archived["offboarding"]["plan_digest"].as_str().unwrap_or_default().to_owned();
        self.say("gate", &format!("waits: {}", archived["offboarding"]["blocked_by"][0]["code"].as_str().unwrap_or("?")));

        let approve = json!({"plane": plane, "reason": "checked the plan"});
        self.say(
            "self-approval",
            &self.refused("user:alice", "knowledge.approval.grant", approve.clone(), "APPROVAL_BY_SELF").await?,
        );
        self.call("user:bob", "knowledge.approval.grant", approve).await?;
        self.say("approval", &format!("by bob, for exactly {}…", &digest[..digest.len().min(23)]));
        self.until(&plane, "it is purged", |status| status["state"] == "PURGED").await?;
        self.say("purged", "archive deleted, stores asked again, plane reduced to a tombstone");
        Ok(Summary { plane_id: plane, records, neighbour, archived_rows })
    }

    /// The first request: it waits for a run that is still active, closes the store to writes, and is cancelled.
    async fn drain_and_cancel(&self, plane: &str, token: &str, question: &str) -> Result<(), CommandError> {
        let open = json!({"plane": plane, "kind": "run", "holder": "nightly-ingest", "ttl": "1h"});
        let usage = self.call("sdk:ingest", "knowledge.usage.open", open.clone()).await?;
        let request = json!({"plane": plane, "ground": "contract_end", "reason": "the contract ends", "grace": "1h"});
        self.call("user:alice", "knowledge.offboarding.request", request).await?;
        self.until(plane, "it waits for the run", |status| status["offboarding"]["blocked_by"][0]["code"] == "ACTIVE_REFERENCES")
            .await?;
        self.say("first request", "waits: a run is still active; new ones are refused");
        self.refused("sdk:ingest", "knowledge.usage.open", open, "PLANE_NOT_ACTIVE").await?;
        self.call("sdk:ingest", "knowledge.usage.close", json!({"usage_id": usage["usage_id"]})).await?;
        self.until(plane, "the grace period runs", |status| status["state"] == "PENDING_DEACTIVATE").await?;
        match self.knowledge.ingest("p1", "late news").await {
            Err(error) => self.say(
                "drained",
                &format!(
                    "PENDING_DEACTIVATE, queries go on; a write: {}",
                    error.to_string().split(": ").last().unwrap_or_default()
                ),
            ),
            Ok(()) => return Err(CommandError::Local("the store took a write during the grace period".into())),
        }
        self.query(plane, token, question).await?;
        let cancel = json!({"plane": plane, "reason": "they signed again"});
        self.call("user:alice", "knowledge.offboarding.cancel", cancel).await?;
        self.until(plane, "the cancel has restored it", |status| status["offboarding"]["run_status"] == "succeeded").await?;
        self.query(plane, token, question).await?;
        self.knowledge.ingest("p1", "news after the cancel").await.map_err(local("write after the cancel"))?;
        self.say("cancel", "ACTIVE again: token, queries and writes work as before");
        Ok(())
    }

    async fn keep(self, summary: Summary, json: bool) -> Result<ExitCode, CommandError> {
        let ledger = format!("sqlite:{}", self.data.join("lethe.db").display());
        let commands = [
            format!("export LETHE_LEDGER='{ledger}'"),
            format!("lethe status {}", self.leaving),
            format!("lethe offboarding cancel {} --reason 'changed our mind'   # until the grace period ends", self.leaving),
            format!("lethe offboarding show {}                                 # or go on: after 3 minutes", self.leaving),
            "lethe work --until-idle".to_owned(),
            format!("lethe archive verify {}", self.leaving),
            format!("lethe approval grant {} --reason 'checked' --actor user:bob --wait", self.leaving),
            "lethe audit verify".to_owned(),
        ];
        self.knowledge.close().await;
        self.app.ledger.close().await;
        if json {
            print_document(
                json!({"state": "PENDING_DEACTIVATE", "plane_id": summary.plane_id, "ledger": ledger, "next": commands}),
            );
        } else {
            println!("\nStopped in the grace period (requested by user:alice). Go on by hand:\n\n  {}", commands.join("\n  "));
        }
        Ok(ExitCode::SUCCESS)
    }

    /// The certificate of the purge, written beside the ledger and verified with nothing but it and the log's public key.
    async fn certified(&self, summary: &Summary) -> Result<Certified, CommandError> {
        let shown = self.call("user:auditor", "knowledge.certificate.show", json!({"plane": summary.plane_id})).await?;
        let file = self.data.join("certificate.json");
        let text = shown["certificate"].to_string();
        std::fs::write(&file, &text).map_err(|error| CommandError::Local(format!("write {}: {error}", file.display())))?;
        let wrong = |error: &dyn std::fmt::Display| CommandError::Local(format!("verify {}: {error}", file.display()));
        let keys = shown["log_keys"].as_array().into_iter().flatten().filter_map(|key| key.as_str()?.parse().ok());
        let keys: Vec<lethe_verify::note::PublicKey> = keys.collect();
        let certificate = lethe_verify::certificate::Certificate::read(&text).map_err(|fault| wrong(&fault))?;
        certificate.verify(&keys).map_err(|fault| wrong(&fault))?;
        let weakest = shown["predicate"]["weakest"]["method"].as_str().unwrap_or_default().to_owned();
        let log = self.call("user:auditor", "governance.log.show", json!({})).await?;
        Ok(Certified { file, weakest, log_size: log["size"].as_u64().unwrap_or_default() })
    }

    async fn conclude(self, summary: Summary, json: bool) -> Result<ExitCode, CommandError> {
        let verified = self.call("user:auditor", "governance.audit.verify", json!({})).await?;
        let shown = self.call("user:auditor", "knowledge.offboarding.show", json!({"plane": summary.plane_id})).await?;
        let certified = self.certified(&summary).await?;
        let (remaining, _) = self.rows("p1").await?;
        let unchanged = self.rows("p2").await? == summary.neighbour;
        self.app.ledger.truncate_wal().await?;
        self.knowledge.close().await;
        self.app.ledger.close().await;
        let (files, found) = count_marker(&self.data, &self.marker)?;
        let document = json!({
            "state": shown["state"], "plane_id": summary.plane_id, "audit": verified["audit"], "entries": verified["entries"],
            "archived_rows": summary.archived_rows, "source_rows": summary.records, "remaining_rows": remaining,
            "marker_planted": self.planted, "marker_found": found, "files_searched": files, "neighbour_unchanged": unchanged, "neighbour_rows": summary.neighbour.0,
            "certificate": certified.file, "certificate_verified": true, "certificate_weakest": certified.weakest, "log_size": certified.log_size,
            "data": self.data,
        });
        let good = document["state"] == "PURGED"
            && document["audit"] == "verified"
            && self.planted > 0
            && remaining == 0
            && found == 0
            && unchanged
            && summary.archived_rows == summary.records;
        if json {
            print_document(document);
        } else {
            println!();
            for (what, how) in [
                ("state", shown["state"].as_str().unwrap_or_default().to_owned()),
                ("audit trail", format!("{}, {} entries", verified["audit"].as_str().unwrap_or_default(), verified["entries"])),
                ("records", format!("{} archived of {}, {remaining} remaining", summary.archived_rows, summary.records)),
                (
                    "certificate",
                    format!(
                        "verified as a stranger would, in a signed log of {} entries; weakest: {}",
                        certified.log_size, certified.weakest
                    ),
                ),
                (
                    "planted marker",
                    format!(
                        "found {} time(s) in the raw bytes before, {found} times in those of {files} files now",
                        self.planted
                    ),
                ),
                (
                    "neighbour",
                    format!("{} records, {}", summary.neighbour.0, if unchanged { "unchanged to the byte" } else { "CHANGED" }),
                ),
            ] {
                println!("  {what:<15} {how}");
            }
            let ledger = format!("sqlite:{}", self.data.join("lethe.db").display());
            println!(
                "\nLook next:\n  lethe certificate show {} --ledger '{ledger}'\n  lethe audit list {} --ledger '{ledger}'\n  lethe audit verify --ledger '{ledger}'\n  lethe demo --keep      # stop in the grace period and go on by hand",
                summary.plane_id, summary.plane_id
            );
        }
        Ok(if good { ExitCode::SUCCESS } else { ExitCode::from(1) })
    }
}

/// Makes the demo's folder anew, if it is absent, empty or left by another demo.
fn clear(data: &Path) -> std::io::Result<()> {
    if data.exists() && data.read_dir()?.next().is_some() {
        if !data.join(OURS).exists() {
            return Err(std::io::Error::other("it holds something else; name an empty folder with --data"));
        }
        std::fs::remove_dir_all(data)?;
    }
    std::fs::create_dir_all(data)?;
    std::fs::write(data.join(OURS), "made by `lethe demo`, which clears this folder when it runs again\n")
}

/// Two tenants with their documents: the first two folders, or the documents in turn.
fn two_tenants(documents: Vec<Document>) -> [(String, Vec<Document>); 2] {
    let folder = |document: &Document| document.name.split_once('/').map(|(folder, _)| handle(folder));
    let mut folders: Vec<String> = documents.iter().filter_map(folder).collect();
    folders.sort();
    folders.dedup();
    if folders.len() >= 2 {
        let of = |name: &str| documents.iter().filter(|document| folder(document).as_deref() == Some(name)).cloned().collect();
        return [(folders[0].clone(), of(&folders[0])), (folders[1].clone(), of(&folders[1]))];
    }
    let (left, mut stayed): (Vec<_>, Vec<_>) = documents.into_iter().enumerate().partition(|(index, _)| index % 2 == 0);
    if stayed.is_empty() {
        stayed = corpus::built_in().into_iter().filter(|document| document.name.starts_with("globex/")).enumerate().collect();
    }
    let plain = |numbered: Vec<(usize, Document)>| numbered.into_iter().map(|(_, document)| document).collect();
    [("acme".into(), plain(left)), ("globex".into(), plain(stayed))]
}

/// A folder's name as a tenant's.
fn handle(folder: &str) -> String {
    let text: String = folder.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).take(40).collect();
    match text.trim_matches('-') {
        "" => "tenant".into(),
        name => name.to_owned(),
    }
}

fn count_marker(folder: &Path, marker: &str) -> Result<(u64, u64), CommandError> {
    find(folder, marker.as_bytes()).map_err(|error| CommandError::Local(format!("read {}: {error}", folder.display())))
}

/// How many files lie below a folder, and how often `needle` occurs in their raw bytes.
fn find(folder: &Path, needle: &[u8]) -> std::io::Result<(u64, u64)> {
    let (mut files, mut found) = (0, 0);
    for entry in folder.read_dir()? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            let (more_files, more_found) = find(&entry.path(), needle)?;
            files += more_files;
            found += more_found;
        } else {
            let bytes = std::fs::read(entry.path())?;
            files += 1;
            found += bytes.windows(needle.len()).filter(|window| *window == needle).count() as u64;
        }
    }
    Ok((files, found))
}
