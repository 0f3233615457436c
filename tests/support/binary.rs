//! The real binary, in a folder of its own, with a clock that is moved by a file.

use std::{
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
};

use serde_json::{Value as Json, json};
use tempfile::TempDir;

use super::{
    knowledge,
    ledger::{TestDatabase, TestLedger},
};

/// A folder with a knowledge base, a ledger and a configuration, and the binary to use on them.
pub struct Installed {
    pub dir: TempDir,
    /// What else the binary finds in its environment.
    pub environment: Vec<(&'static str, String)>,
    /// Last, so that it goes after everything that is connected to it.
    ledger: TestLedger,
}

impl Installed {
    /// A knowledge base of `rows` records in plane `p1`, a neighbour, and the tenant and plane registered: `acme/handbook`.
    pub async fn with_plane(rows: usize, config: &str) -> Self {
        let installed = Self::over(TestLedger::new().await, config);
        knowledge::create(&installed.path("knowledge.db"), &[("p1", rows), ("p2", 20)]).await;
        installed.register_store();
        installed.register("handbook", "p1");
        installed
    }

    /// A folder with a configuration, and nothing else. Its ledger will be a file.
    pub fn new(config: &str) -> Self {
        Self::over(TestLedger::File, config)
    }

    /// A folder with a configuration, and a ledger. One on a server is set up, as its owner does it.
    pub fn over(ledger: TestLedger, config: &str) -> Self {
        let installed = Self { dir: tempfile::tempdir().expect("a folder"), environment: Vec::new(), ledger };
        std::fs::write(installed.path("lethe.toml"), config).expect("write the configuration");
        installed.set_clock(0);
        if let TestLedger::Server(_) = installed.ledger {
            let owned = installed.ledger.owner_url(&installed.dir);
            let migrated =
                installed.command(&["migrate", "--insecure-demo"]).env("LETHE_LEDGER", owned).output().expect("run the binary");
            assert!(migrated.status.success(), "{migrated:?}");
        }
        installed
    }

    /// The database of a ledger on a server.
    pub fn database(&self) -> &TestDatabase {
        match &self.ledger {
            TestLedger::Server(database) => database,
            TestLedger::File => panic!("its ledger is a file"),
        }
    }

    /// Registers the tenant and its store, in a ledger where approvals need no signature; in a file, it is created.
    pub fn register_store(&self) {
        if let TestLedger::File = self.ledger {
            self.done(&["migrate", "--insecure-demo"]);
        }
        self.done(&["tenant", "register", "acme"]);
        let url = format!("sqlite:{}", self.path("knowledge.db").display());
        self.done(&["store", "add", "kb", &url, "--tenant", "acme"]);
    }

    /// Registers another plane of the tenant.
    pub fn register(&self, name: &str, value: &str) {
        let store = format!("kb?table=chunks&plane_column=plane&plane={value}&key=id&text=body&embedding=embedding");
        let archive = format!("file://{}", self.path("archive").display());
        self.done(&["plane", "register", "--tenant", "acme", "--name", name, "--store", &store, "--archive", &archive]);
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Moves the clock on until the leases of who has died have run out: where there are no lock files, nothing else tells.
    pub fn outlive_leases(&self) {
        if let TestLedger::Server(_) = self.ledger {
            let ahead: i64 = std::fs::read_to_string(self.path("clock")).expect("the clock").parse().expect("seconds");
            self.set_clock(ahead + 61);
        }
    }

    /// Sets how far ahead of the machine's clock the binary's is, in seconds.
    pub fn set_clock(&self, ahead: i64) {
        std::fs::write(self.path("clock"), ahead.to_string()).expect("set the clock");
    }

    /// The binary with arguments, ready to run.
    pub fn command(&self, arguments: &[&str]) -> Command {
        // LETHE_BIN: another build of it, such as the shipped one.
        let program = std::env::var_os("LETHE_BIN").unwrap_or_else(|| env!("CARGO_BIN_EXE_lethe").into());
        let mut command = Command::new(program);
        command
            .args(arguments)
            .current_dir(self.dir.path())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("LETHE_LEDGER", self.ledger.url(&self.dir))
            .env("LETHE_CONFIG", self.path("lethe.toml"))
            .env("LETHE_CLOCK_FILE", self.path("clock"))
            .env("LETHE_ACTOR", "user:alice")
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null());
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("run the binary")
    }

    /// Runs in the background, its output thrown away.
    pub fn spawn(&self, arguments: &[&str]) -> Child {
        self.command(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("start the binary")
    }

    /// Runs with `--json`, must exit 0, answers the document.
    pub fn done(&self, arguments: &[&str]) -> Json {
        let output = self.run(&[arguments, &["--json"]].concat());
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        serde_json::from_slice(&output.stdout).expect("one document on standard output")
    }

    pub fn status(&self, plane: &str) -> Json {
        self.done(&["status", plane])
    }

    pub fn state(&self, plane: &str) -> String {
        self.status(plane)["state"].as_str().expect("a state").to_owned()
    }

    /// Works until idle, with a crash point set; answers whether the process was killed there.
    pub fn work_until_crash(&self, crash: &str) -> bool {
        use std::os::unix::process::ExitStatusExt;
        let output =
            self.command(&["work", "--until-idle", "--json"]).env("LETHE_CRASH_AT", crash).output().expect("run the binary");
        match output.status.signal() {
            Some(9) => true,
            _ => {
                assert!(output.status.success(), "work: {output:?}");
                false
            }
        }
    }

    pub fn work(&self) {
        self.done(&["work", "--until-idle"]);
    }

    /// The plane's trail as lines.
    pub fn trail(&self, plane: &str) -> Vec<String> {
        let entries = self.done(&["audit", "list", plane]);
        entries["entries"].as_array().expect("entries").iter().map(super::line).collect()
    }

    /// What must hold at the end: purged, verified, gone, and the neighbour as it was.
    pub async fn assert_purged(&self, plane: &str, neighbour: &(usize, String)) {
        assert_eq!(self.state(plane), "PURGED", "{} {}", self.status(plane), self.done(&["log", "show"]));
        assert_eq!(self.done(&["audit", "verify"])["audit"], json!("verified"));
        let file = self.path("knowledge.db");
        assert_eq!(knowledge::digest(&file, "p1").await.0, 0, "records are left");
        assert_eq!(&knowledge::digest(&file, "p2").await, neighbour, "the neighbour changed");
        assert_eq!(knowledge::occurrences(self.dir.path(), b"marker-p1-"), 0, "content is left in some file");
    }
}

/// Sends a signal, as `kill` does.
pub fn signal(child: &Child, name: &str) {
    let sent = Command::new("kill").args([&format!("-{name}"), &child.id().to_string()]).status().expect("kill");
    assert!(sent.success(), "send {name}");
}
