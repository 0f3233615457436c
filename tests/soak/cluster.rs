//! Many offboardings of planes in pgvector to a bucket, by three workers that are killed, stopped and cut off, while PostgreSQL restarts,
//! then goes away, and the bucket with it.
//!
//! The rule: every plane ends PURGED, every step was completed once, every object was written once or again with the same bytes, nothing
//! of a plane is found anywhere, and nobody else's rows changed. An absence stops no worker.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::OpenOptions,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::{Value as Json, json};
use sqlx::{AssertSqlSafe, Row};

use crate::{
    Options,
    median::rounded,
    support::{
        binary::{Installed, signal},
        cut::Wire,
        invariants,
        ledger::{TestDatabase, TestLedger},
        postgres::Database,
        random::Random,
        s3::{Bucket, Kind},
        server::variable,
    },
};

const WORKERS: usize = 3;
const ROWS: usize = 12;
/// Half of the planes have a partition each; the others share a table.
const TABLES: [&str; 2] = ["kb.apart", "kb.shared"];
const CONFIG: &str = "[archive]\npart_rows_max = 5\n[sweep]\nevery = \"1s\"\n[queue]\nlease = \"2s\"\npoll = \"100ms\"
attempts_max = 1000\ninterruptions_max = 100000\nbackoff_first = \"200ms\"\nbackoff_max = \"2s\"\n";

pub async fn soak(options: &Options) -> Json {
    let planes = options.sized(300, 4);
    let outage = Duration::from_secs_f64((60.0 * options.share).max(3.0));
    let began = Instant::now();
    let site = Arc::new(Site::new(planes).await);
    let neighbours = site.neighbours().await;
    let known = site.known_vectors().await;
    for plane in 0..planes {
        let plane = format!("acme/plane-{plane}");
        let request = ["offboard", &plane, "--ground", "internal", "--reason", "done", "--grace", "0s", "--retention", "0s"];
        site.installed.done(&request);
    }
    let chaos = std::thread::spawn({
        let (site, seed) = (site.clone(), options.seed);
        move || torment(&site, seed)
    });

    site.until(planes.div_ceil(4), "ARCHIVED").await;
    site.away("postgres", Duration::ZERO, false);
    site.until(planes.div_ceil(2), "ARCHIVED").await;
    site.away("postgres", outage, true);
    site.until((planes * 3).div_ceil(4), "ARCHIVED").await;
    site.away("rgw", outage / 2, true);
    site.until(planes, "ARCHIVED").await;
    let (objects, versions) = site.written_once().await;
    for plane in 0..planes {
        let plane = format!("acme/plane-{plane}");
        site.installed.done(&["approval", "grant", &plane, "--reason", "checked", "--actor", "user:bob"]);
    }
    site.until(planes.div_ceil(3), "PURGED").await;
    site.away("rgw", outage / 2, true);
    site.until(planes, "PURGED").await;
    site.done.store(true, Ordering::SeqCst);
    let torments = chaos.join().expect("no worker ended by itself");

    let interruptions = site.check(planes, &neighbours, &known).await;
    json!({
        "soak": "cluster", "share": options.share, "seed": options.seed, "offboardings": planes, "workers": WORKERS,
        "kills": torments.kills, "stops": torments.stops, "commits_cut": site.wire.swallowed(), "cuts": torments.cuts,
        "outage_seconds": outage.as_secs(), "objects": objects, "versions": versions, "interruptions": interruptions,
        "seconds": rounded(began.elapsed().as_secs_f64(), 1),
    })
}

/// A ledger, a knowledge base and a bucket, on real servers.
struct Site {
    installed: Installed,
    knowledge: Database,
    bucket: Bucket,
    wire: Wire,
    wired_url: String,
    /// While a server is away nobody is killed, so that it is seen that its absence stops no worker.
    away: AtomicBool,
    done: AtomicBool,
}

impl Site {
    async fn new(planes: usize) -> Self {
        let knowledge = Database::new().await;
        let bucket = Bucket::new(Kind::Versioned).await;
        let ledger = TestLedger::Server(TestDatabase::migrated().await);
        let installed = Installed::over(ledger, &format!("{CONFIG}{}", bucket.config()));
        let names: Vec<String> = (0..planes).map(|plane| format!("p{plane}")).collect();
        for (number, table) in TABLES.into_iter().enumerate() {
            let here = names.iter().skip(number).step_by(TABLES.len()).map(|name| (name.as_str(), ROWS));
            let contents: Vec<_> = here.chain([("neighbour", 100)]).collect();
            knowledge.chunks(table, number == 0, &contents).await;
        }
        let (wire, wired_url) = Wire::before(&installed.database().app_url());
        let (away, done) = (AtomicBool::new(false), AtomicBool::new(false));
        let site = Self { installed, knowledge, bucket, wire, wired_url, away, done };
        for tenant in ["acme", "globex"] {
            site.installed.done(&["tenant", "register", tenant]);
        }
        let store = site.knowledge.store_url(site.installed.dir.path(), "");
        site.installed.done(&["store", "add", "pg", &store, "--tenant", "acme", "--tenant", "globex"]);
        for (number, name) in names.iter().enumerate() {
            site.register("acme", &format!("plane-{number}"), TABLES[number % TABLES.len()], name);
        }
        for (number, table) in TABLES.iter().enumerate() {
            site.register("globex", &format!("neighbour-{number}"), table, "neighbour");
        }
        site
    }

    fn register(&self, tenant: &str, name: &str, table: &str, value: &str) {
        let store =
            format!("pg?table={table}&plane_column=plane&plane={value}&key=id&text=body&metadata=meta&embedding=embedding");
        let archive = self.bucket.url();
        let named = ["plane", "register", "--tenant", tenant, "--name", name, "--store", &store, "--archive", &archive];
        self.installed.done(&named);
    }

    /// A worker whose way to the ledger can be cut.
    fn worker(&self) -> Child {
        let mut command = self.installed.command(&["serve"]);
        // The server's own clock, as in production.
        command.env("LETHE_LEDGER", &self.wired_url).env_remove("LETHE_CLOCK_FILE");
        let said = OpenOptions::new().create(true).append(true).open(self.installed.path("said")).expect("a file");
        command.stdout(Stdio::null()).stderr(said).spawn().expect("start a worker")
    }

    /// Waits until so many planes are in a state, or beyond it.
    async fn until(&self, planes: usize, state: &str) {
        let deadline = Instant::now() + Duration::from_secs(300 + 20 * planes as u64);
        let reached = format!("SELECT count(*) FROM planes WHERE state IN ('{state}', 'PURGED')");
        while (self.number(&reached).await as usize) < planes {
            if Instant::now() >= deadline || self.done.load(Ordering::SeqCst) {
                let stuck = self.installed.done(&["offboarding", "list"]);
                panic!("{planes} planes are not {state} within the time: {stuck:#}");
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn number(&self, sql: &str) -> i64 {
        let mut db = self.installed.database().connect().await;
        sqlx::query(AssertSqlSafe(sql.to_owned())).fetch_one(&mut db).await.expect(sql).get(0)
    }

    /// Stops a server, as a power cut would if it is killed, and starts it again after a while.
    fn away(&self, server: &str, time: Duration, killed: bool) {
        let program = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/servers");
        let servers = |arguments: &[&str]| {
            let ended = Command::new(&program).args(arguments).args(["--dir", &variable("LETHE_TEST_SERVERS")]).status();
            assert!(ended.expect("tests/servers").success(), "{arguments:?}");
        };
        self.away.store(true, Ordering::SeqCst);
        // Whatever is in the middle of being killed is alive again by then.
        std::thread::sleep(Duration::from_millis(300));
        servers(&["stop", server, "--kill"][..if killed { 3 } else { 2 }]);
        std::thread::sleep(time);
        servers(&["start", server]);
        self.away.store(false, Ordering::SeqCst);
    }

    async fn neighbours(&self) -> Vec<Vec<String>> {
        let mut rows = Vec::new();
        for table in TABLES {
            rows.push(self.knowledge.plane(table, "neighbour").await);
        }
        rows
    }

    /// A search for a vector that each table's first plane has.
    async fn known_vectors(&self) -> Vec<String> {
        let mut searches = Vec::new();
        for (number, table) in TABLES.iter().enumerate() {
            let of = format!("SELECT embedding::text FROM {table} WHERE plane = 'p{number}' AND id = 7");
            let known = self.knowledge.texts(&of).await.remove(0);
            let search = format!("SELECT plane FROM {table} ORDER BY embedding OPERATOR(public.<=>) '{known}' LIMIT 10");
            assert_eq!(self.knowledge.texts(&search).await[0], format!("p{number}"), "the search finds it before");
            searches.push(search);
        }
        searches
    }

    /// Every object has one content, however often it was written. Answers how many objects and how many versions there are.
    async fn written_once(&self) -> (usize, usize) {
        let mut contents: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        let mut versions = 0;
        for (key, digest) in self.bucket.versions("").await {
            // The archive's canary and the ledger's mark are no plane's.
            if !key.contains("/.lethe-") {
                contents.entry(key).or_default().insert(digest);
                versions += 1;
            }
        }
        let changed: Vec<_> = contents.iter().filter(|(_, digests)| digests.len() > 1).collect();
        assert!(changed.is_empty(), "objects that were written with different bytes: {changed:?}");
        (contents.len(), versions)
    }

    /// What must hold at the end. Answers how many runs were interrupted.
    async fn check(&self, planes: usize, neighbours: &[Vec<String>], known: &[String]) -> i64 {
        assert_eq!(self.installed.done(&["audit", "verify"])["audit"], "verified");
        invariants::check_server(self.installed.database()).await;
        for step in ["deregister", "verify", "deactivate", "export", "evict", "purge"] {
            let of = format!("FROM trail WHERE event_type = 'STAGE_COMPLETED' AND body::json ->> 'step' = '{step}'");
            let completed = self.number(&format!("SELECT count(*) {of}")).await;
            let different = self.number(&format!("SELECT count(DISTINCT plane_id) {of}")).await;
            assert_eq!((completed, different), (planes as i64, planes as i64), "{step}: once per plane");
        }
        assert_eq!(self.neighbours().await, neighbours, "a neighbour changed");
        for (table, search) in TABLES.iter().zip(known) {
            let left = self.knowledge.texts(&format!("SELECT body FROM {table} WHERE body LIKE 'marker-p%'")).await;
            assert!(left.is_empty(), "{table}: {left:?}");
            let nearest = self.knowledge.texts(search).await;
            assert!(nearest.iter().all(|plane| plane == "neighbour"), "{table}: {nearest:?}");
        }
        let partitions = "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'kb.apart'::regclass";
        assert_eq!(self.knowledge.texts(partitions).await, ["kb.apart_neighbour"]);
        assert_eq!(self.bucket.keys("").await, Vec::<String>::new(), "versions, markers or uploads are left in the bucket");
        self.number("SELECT count(*) FROM trail WHERE event_type = 'STAGE_INTERRUPTED'").await
    }
}

#[derive(Default)]
struct Torments {
    kills: u64,
    stops: u64,
    cuts: u64,
}

struct Ended<'a>(&'a AtomicBool);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Starts the workers and does to them whatever chance says, until all is done.
fn torment(site: &Site, seed: u64) -> Torments {
    // However this ends, nobody waits for what will not come.
    let _ended = Ended(&site.done);
    let mut random = Random(seed);
    let mut torments = Torments::default();
    let mut workers: Vec<(Child, Option<Instant>)> = (0..WORKERS).map(|_| (site.worker(), None)).collect();
    while !site.done.load(Ordering::SeqCst) {
        std::thread::sleep(Duration::from_millis(random.between(50, 1500)));
        for (worker, stopped) in &mut workers {
            if let Some(status) = worker.try_wait().expect("look at a worker") {
                let said = std::fs::read_to_string(site.installed.path("said")).unwrap_or_default();
                let last: Vec<_> = said.lines().rev().take(20).collect();
                panic!("a worker ended by itself, {status}; the workers said, the last first:\n{}", last.join("\n"));
            }
            // Longer than a lease, so that what it held is somebody else's when it goes on.
            if stopped.is_some_and(|since| since.elapsed() > Duration::from_secs(3)) {
                signal(worker, "CONT");
                *stopped = None;
            }
        }
        if site.away.load(Ordering::SeqCst) {
            continue;
        }
        let chosen = random.between(0, WORKERS as u64 - 1) as usize;
        let (worker, stopped) = &mut workers[chosen];
        match random.between(0, 9) {
            0..=4 => {
                worker.kill().expect("kill -9");
                worker.wait().expect("the worker is dead");
                (*worker, *stopped) = (site.worker(), None);
                torments.kills += 1;
            }
            5..=6 if stopped.is_none() => {
                signal(worker, "STOP");
                *stopped = Some(Instant::now());
                torments.stops += 1;
            }
            7..=8 => site.wire.swallow_next_commit(),
            _ => {
                site.wire.cut();
                std::thread::sleep(Duration::from_millis(random.between(50, 300)));
                site.wire.mend();
                torments.cuts += 1;
            }
        }
    }
    for (worker, _) in &mut workers {
        worker.kill().expect("kill -9");
        worker.wait().expect("the worker is dead");
    }
    torments
}
