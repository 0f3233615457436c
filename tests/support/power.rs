//! Stories told by the real binary while its disk is recorded, and what must hold whenever the power goes.

use std::{
    fmt::Write,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::{Arc, LazyLock},
};

use lethe_stages::manifest::Manifest;
use serde_json::Value as Json;
use sqlx::{Connection, SqliteConnection};
use tempfile::TempDir;
use tokio::task::JoinSet;

use super::{
    binary::Installed,
    disk::{self, Change, Deaf, Disk, Fate, Image, What, lay_out},
    invariants, knowledge,
    random::Random,
};

const PLANE: &str = "acme/handbook";
/// The log is kept so often that the power goes in the middle of that too.
const CONFIG: &str = "[archive]\npart_rows_max = 10\n[queue]\nbackoff_first = \"0s\"\n[log]\nevery = \"10ms\"\n";
const ROWS: usize = 25;

/// How an offboarding goes.
#[derive(Debug, Clone, Copy)]
pub struct Plot {
    pub ground: &'static str,
    /// The journal mode of the knowledge base, which is its owner's choice.
    pub journal_mode: &'static str,
    /// Where the worker is killed once before the power goes: kind, how many of it, and in what. See `disk.c`.
    pub kill: Option<(u32, u32, &'static str)>,
}

/// The entries of a ledger's trail: place and hash.
type Trail = Vec<(i64, String)>;

/// A story that was told, with every change to its disk.
pub struct Told {
    pub plot: Plot,
    pub installed: Installed,
    _journal: TempDir,
    before: Disk,
    pub changes: Vec<Change>,
    /// After how many changes a command had said that it was done, and what stood in the trail then.
    said: Vec<(usize, Trail)>,
    /// The same of a backup of the ledger, with its bytes.
    backup: (usize, Vec<u8>),
    /// After how many changes the plane was registered.
    pub registered: usize,
    neighbour: (usize, String),
}

/// Evaluates to an error where something that must hold does not.
macro_rules! must {
    ($holds:expr, $($otherwise:tt)+) => { if !$holds { return Err(format!($($otherwise)+)) } };
}

/// Tells the story of one plane from the first command to PURGED.
pub async fn tell(plot: Plot) -> Told {
    let mut installed = Installed::new(CONFIG);
    let file = installed.path("knowledge.db");
    let mut db = knowledge::open(&file).await;
    sqlx::query(sqlx::AssertSqlSafe(format!("PRAGMA journal_mode = {}", plot.journal_mode))).execute(&mut db).await.expect("set");
    db.close().await.expect("close");
    knowledge::create(&file, &[("p1", ROWS), ("p2", 20)]).await;
    let neighbour = knowledge::digest(&file, "p2").await;
    let elsewhere = tempfile::tempdir().expect("a folder");
    let journal = elsewhere.path().join("journal");
    let before = Disk::of(installed.dir.path());
    // In a folder that is not there yet, as by default.
    let ledger = installed.path("data/lethe.db");
    installed.environment = disk::recording(installed.dir.path(), &journal);
    installed.environment.push(("LETHE_LEDGER", format!("sqlite:{}", ledger.display())));

    let mut told = Told {
        plot,
        installed,
        _journal: elsewhere,
        before: before.clone(),
        changes: Vec::new(),
        said: Vec::new(),
        backup: (usize::MAX, Vec::new()),
        registered: 0,
        neighbour,
    };
    let mut recorder = Recorder { journal, read: 0, disk: before };
    told.installed.register_store();
    recorder.note(&mut told).await;
    told.installed.register("handbook", "p1");
    recorder.note(&mut told).await;
    told.registered = told.changes.len();
    told.installed.done(&["ledger", "backup", "--to", "backup.db"]);
    recorder.note(&mut told).await;
    told.backup = (told.changes.len(), std::fs::read(told.installed.path("backup.db")).expect("read the backup"));
    told.installed.done(&told.request());
    recorder.note(&mut told).await;
    for _ in 0..2 {
        if let Some((kind, count, text)) = plot.kill {
            let kill = ("LETHE_DISK_KILL", format!("{kind} {count} {text}"));
            let mut work = told.installed.command(&["work", "--until-idle"]);
            work.env(kill.0, kill.1).output().expect("run the binary");
            recorder.read(&mut told);
        }
        told.installed.work();
        recorder.note(&mut told).await;
        if told.installed.state(PLANE) == "ARCHIVED" {
            grant(&told.installed);
            recorder.note(&mut told).await;
        }
    }
    told.installed.assert_purged(PLANE, &told.neighbour).await;
    recorder.note(&mut told).await;
    // From here on the disk is the test's.
    told.installed.environment.retain(|(name, _)| *name == "LETHE_LEDGER");
    told
}

fn grant(installed: &Installed) -> Output {
    installed.run(&["approval", "grant", PLANE, "--reason", "checked", "--actor", "user:bob"])
}

/// Follows a journal while its story is told.
struct Recorder {
    journal: PathBuf,
    read: usize,
    disk: Disk,
}

impl Recorder {
    fn read(&mut self, told: &mut Told) {
        let (changes, read) = disk::read(&self.journal, self.read);
        self.read += read - self.read;
        changes.iter().for_each(|change| self.disk.apply(change));
        told.changes.extend(changes);
    }

    /// A command has said that it is done: what stands in the trail now must stay.
    async fn note(&mut self, told: &mut Told) {
        self.read(told);
        let image = self.disk.after_power_cut(Fate::Whole, &mut Random(0));
        let scratch = scratch();
        lay_out(&image, told.root(), scratch.path());
        told.said.push((told.changes.len(), trail(&scratch.path().join("data/lethe.db")).await));
        // The journal's sum is the folder, or else the recording misses something.
        for (path, bytes) in &image {
            if let Some(bytes) = bytes {
                assert!(std::fs::read(path).ok().as_ref() == Some(bytes), "{} is not what was recorded", path.display());
            }
        }
    }
}

/// A folder to look at a disk in, in memory where there is a place for it: what is looked at need not outlive it.
fn scratch() -> TempDir {
    static ROOMY: LazyLock<bool> = LazyLock::new(|| {
        let free = Command::new("df").args(["--output=avail", "--block-size=1M", "/dev/shm"]).output();
        let free = free.map(|said| String::from_utf8_lossy(&said.stdout).lines().last().map(|last| last.trim().to_owned()));
        free.ok().flatten().and_then(|free| free.parse::<u64>().ok()).is_some_and(|free| free >= 1024)
    });
    if *ROOMY { tempfile::tempdir_in("/dev/shm") } else { tempfile::tempdir() }.expect("a folder")
}

async fn trail(ledger: &Path) -> Trail {
    if !ledger.exists() {
        return Vec::new();
    }
    let mut db = knowledge::open(ledger).await;
    let rows = sqlx::query_as("SELECT place, hash FROM trail ORDER BY place").fetch_all(&mut db).await.unwrap_or_default();
    let _ = db.close().await;
    rows
}

impl Told {
    fn root(&self) -> &Path {
        self.installed.dir.path()
    }

    fn request(&self) -> Vec<&'static str> {
        let mut request = vec!["offboard", PLANE, "--ground", self.plot.ground, "--reason", "done", "--grace", "0s"];
        if self.plot.ground == "contract_end" {
            request.extend(["--retention", "0s"]);
        }
        request
    }

    /// The disk before the story.
    pub fn disk(&self) -> Disk {
        self.before.clone()
    }

    /// What the journal said around a cut, for whoever has to find out.
    pub fn around(&self, cut: usize) -> String {
        let mut text = String::new();
        for (number, change) in self.changes.iter().enumerate().take(cut + 3).skip(cut.saturating_sub(12)) {
            let mut what = format!("{:?}", change.what);
            what.truncate(60);
            let path = change.path.strip_prefix(self.root()).unwrap_or(&change.path).display();
            let _ = writeln!(text, "{}{number}: {path}: {what}", if number == cut { "-- power cut --\n" } else { "" });
        }
        text
    }

    /// Looks at what a power cut left, as anybody who recovers would. An error names the first promise that is broken.
    pub async fn look(&self, cut: usize, image: &Image) -> Result<(), String> {
        let scratch = scratch();
        let at = scratch.path();
        lay_out(image, self.root(), at);
        let (ledger, store) = (at.join("data/lethe.db"), at.join("knowledge.db"));
        // Before SQLite has cleared up.
        let markers = |folder: &Path| knowledge::occurrences(folder, b"marker-p1-");
        let left = markers(at);

        let trail = trail(&ledger).await;
        let said = self.said.iter().rev().find(|(reached, _)| *reached <= cut).map_or(&[][..], |(_, trail)| trail);
        must!(trail.starts_with(said), "of {} entries that were said to be made, {} are in the trail", said.len(), trail.len());
        let (hot, fence) = hot(&store).await.map_err(|error| format!("read the knowledge base: {error}"))?;
        let kept = cut < self.backup.0 || std::fs::read(at.join("backup.db")).is_ok_and(|bytes| bytes == self.backup.1);
        must!(kept, "the backup that was said to be made is not there");
        must!(knowledge::digest(&store, "p2").await == self.neighbour, "the neighbour changed");
        let Some(seen) = Seen::of(&ledger).await.map_err(|error| format!("read the ledger: {error}"))? else {
            must!(hot == ROWS && fence == "open", "without a plane in the ledger, {hot} records are left, fenced {fence}");
            return Ok(());
        };
        for entry in at.join("archive").read_dir().into_iter().flatten() {
            let path = entry.expect("an entry").path();
            if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(".lethe-mark-")) {
                let text = std::fs::read(&path).expect("read the mark");
                let mark: Json = serde_json::from_slice(&text).map_err(|error| format!("read the mark: {error}"))?;
                let known = trail.iter().any(|(place, hash)| mark["place"] == *place && mark["hash"] == **hash);
                must!(known || mark["place"] == 0, "the mark is ahead of the ledger: {mark}, {} entries", trail.len());
            }
        }
        if !seen.purging {
            let whole = seen.archive_is_whole(at);
            must!(hot == ROWS || whole.is_ok(), "{} records are gone, and {whole:?}", ROWS - hot);
            must!(seen.manifest.is_none() || whole.is_ok(), "the export is on record, and {whole:?}");
        }
        let evicted = seen.state == "PURGED" || seen.state == "ARCHIVED" && self.plot.ground == "contract_end";
        must!(!evicted || hot == 0, "{}, and {hot} records are in the store", seen.state);
        let fences: &[&str] = match seen.state.as_str() {
            "PENDING_DEACTIVATE" => &["read_only", "closed"],
            "DEACTIVATED" | "ARCHIVED" => &["closed", "purged"],
            "PURGED" => &["purged"],
            // Fenced, and not yet on record.
            _ => &["open", "read_only", "closed"],
        };
        must!(fences.contains(&fence.as_str()), "{}, and the fence is {fence}", seen.state);
        must!(seen.state != "PURGED" || left == 0, "PURGED, and content is left in some file: {left} markers");
        Ok(())
    }

    /// Puts the disk in place and lets the binary go on; the story must end as it would have ended.
    pub async fn finish(&self, image: &Image) {
        lay_out(image, self.root(), self.root());
        let installed = &self.installed;
        if installed.status(PLANE)["offboarding"].is_null() {
            installed.done(&self.request());
        }
        for _ in 0..2 {
            installed.work();
            if installed.state(PLANE) == "ARCHIVED" {
                grant(installed);
            }
        }
        installed.assert_purged(PLANE, &self.neighbour).await;
        invariants::check_rows(&installed.path("data/lethe.db")).await;
        let trail = installed.trail(PLANE);
        for step in ["deregister", "verify", "deactivate", "export", "purge"] {
            let completed = trail.iter().filter(|line| **line == format!("STAGE_COMPLETED {step}")).count();
            assert_eq!(completed, 1, "{step} in {trail:#?}");
        }
        assert!(!trail.iter().any(|line| line.starts_with("STAGE_FAILED")), "{trail:#?}");
    }
}

/// What a ledger says of the plane.
struct Seen {
    state: String,
    plane: String,
    /// The manifest, once the export is on record and as long as the archive is to be there, with its digest.
    manifest: Option<(Manifest, String)>,
    /// Whether a purge was begun.
    purging: bool,
}

impl Seen {
    /// `None` where the plane is not in it yet.
    async fn of(ledger: &Path) -> Result<Option<Self>, sqlx::Error> {
        if !ledger.exists() {
            return Ok(None);
        }
        let mut db = knowledge::open(ledger).await;
        let table = sqlx::query("SELECT 1 FROM sqlite_schema WHERE name = 'planes'").fetch_optional(&mut db).await?;
        let plane = match table {
            Some(_) => sqlx::query_as("SELECT id, state FROM planes").fetch_optional(&mut db).await?,
            None => None,
        };
        let Some((plane, state)) = plane else { return Ok(None) };
        let sound: String = sqlx::query_scalar("PRAGMA integrity_check").fetch_one(&mut db).await?;
        assert_eq!(sound, "ok", "the ledger's file");
        let manifest: Option<(String, String)> =
            sqlx::query_as("SELECT manifest, manifest_sha256 FROM archives WHERE manifest IS NOT NULL")
                .fetch_optional(&mut db)
                .await?;
        let manifest = manifest.map(|(text, digest)| (serde_json::from_str(&text).expect("a manifest"), digest));
        let purging: i64 =
            sqlx::query_scalar("SELECT count(*) FROM trail WHERE event_type = 'STAGE_STARTED' AND body ->> 'step' = 'purge'")
                .fetch_one(&mut db)
                .await?;
        db.close().await?;
        Ok(Some(Self { state, plane, manifest, purging: purging > 0 }))
    }

    /// Whether every object of which the ledger knows is there, byte for byte.
    fn archive_is_whole(&self, at: &Path) -> Result<(), String> {
        let (manifest, digest) = self.manifest.as_ref().ok_or("there is no manifest in the ledger")?;
        let folder = at.join("archive").join(&self.plane);
        let parts = manifest.stores.iter().flat_map(|store| &store.parts).map(|part| (part.key.clone(), &part.sha256));
        for (key, sha256) in parts.chain([(Manifest::object_key(manifest.offboarding_id), digest)]) {
            let bytes = std::fs::read(folder.join(&key)).map_err(|error| format!("{key}: {error}"))?;
            must!(lethe_stages::canonical::sha256(&bytes) == *sha256, "{key} is not what was verified");
        }
        Ok(())
    }
}

/// How many records of the plane are in the store, and how it is fenced.
async fn hot(store: &Path) -> Result<(usize, String), sqlx::Error> {
    let mut db: SqliteConnection = knowledge::open(store).await;
    let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM chunks WHERE plane = 'p1'").fetch_one(&mut db).await?;
    let table = sqlx::query("SELECT 1 FROM sqlite_schema WHERE name = 'lethe_fence'").fetch_optional(&mut db).await?;
    let fence: Option<String> = match table {
        Some(_) => sqlx::query_scalar("SELECT mode FROM lethe_fence WHERE plane = 'p1'").fetch_optional(&mut db).await?,
        None => None,
    };
    db.close().await?;
    Ok((rows as usize, fence.unwrap_or_else(|| "open".into())))
}

/// What became of a story when the power went at many moments.
#[derive(Debug, Default)]
pub struct Cuts {
    /// Moments and fates that were looked at.
    pub looks: usize,
    /// Of those, from how many the story was told to its end.
    pub endings: usize,
    /// Promises that did not hold, each with where.
    pub broken: Vec<String>,
}

/// Cuts the power at `looks` moments drawn from `seed`, and tells the story to its end from `endings` of them. `deaf` names
/// synchronisations that are taken for done and are not; no end is told of those.
pub async fn cut(told: &Arc<Told>, looks: usize, endings: usize, seed: u64, deaf: Deaf) -> Cuts {
    let mut random = Random(seed);
    let mut moments: Vec<usize> = (0..looks).map(|_| told.moment(&mut random)).collect();
    moments.sort_unstable();
    let mut disk = told.before.clone().deaf_to(deaf);
    let (mut reached, mut cuts, mut looking) = (0, Cuts::default(), JoinSet::new());
    let every = looks.checked_div(endings).unwrap_or(usize::MAX);
    let mut to_finish = Vec::new();
    for (number, moment) in moments.into_iter().enumerate() {
        told.changes[reached..moment].iter().for_each(|change| disk.apply(change));
        reached = moment;
        let fate = Fate::ALL[random.between(0, Fate::ALL.len() as u64 - 1) as usize];
        let image = disk.after_power_cut(fate, &mut random);
        if moment >= told.registered && number % every == every - 1 {
            to_finish.push((moment, fate, image.clone()));
        }
        if looking.len() >= 3 {
            cuts.looked(looking.join_next().await);
        }
        let told = told.clone();
        looking.spawn(async move {
            let wrong = told.look(moment, &image).await.err();
            wrong.map(|wrong| format!("{wrong}\n{:?}, {fate:?}, seed {seed}\n{}", told.plot, told.around(moment)))
        });
    }
    while let Some(looked) = looking.join_next().await {
        cuts.looked(Some(looked));
    }
    if !cuts.broken.is_empty() {
        return cuts;
    }
    for (moment, fate, image) in to_finish {
        println!("{:?}: the power goes after change {moment} of {}, {fate:?}, seed {seed}", told.plot, told.changes.len());
        told.finish(&image).await;
        cuts.endings += 1;
    }
    cuts
}

/// Cuts the power at every change to a file whose name holds `text`, each time with another fate, and tells the story to its end.
/// Answers how often.
pub async fn cut_at(told: &Told, text: &str) -> usize {
    let (mut disk, mut random, mut cuts) = (told.before.clone(), Random(1), 0);
    for (number, change) in told.changes.iter().enumerate() {
        disk.apply(change);
        if change.path.to_string_lossy().contains(text) {
            let fate = Fate::ALL[cuts % Fate::ALL.len()];
            println!("the power goes after change {number}, {fate:?}\n{}", told.around(number + 1));
            told.finish(&disk.after_power_cut(fate, &mut random)).await;
            cuts += 1;
        }
    }
    cuts
}

impl Cuts {
    fn looked(&mut self, looked: Option<Result<Option<String>, tokio::task::JoinError>>) {
        self.looks += 1;
        // What cannot even be read panics.
        self.broken.extend(looked.expect("a look").unwrap_or_else(|panic| Some(panic.to_string())));
    }
}

impl Told {
    /// A moment of the story: any, beside a synchronisation, or right after a command has said that it is done.
    fn moment(&self, random: &mut Random) -> usize {
        let any = random.between(0, self.changes.len() as u64) as usize;
        match random.between(0, 4) {
            0 | 1 => any,
            2 | 3 => {
                let is_sync = |change: &Change| matches!(change.what, What::SyncEnd(_));
                let next = self.changes[any..].iter().position(is_sync).map_or(self.changes.len(), |after| any + after);
                (next + random.between(0, 1) as usize).min(self.changes.len())
            }
            _ => self.said[any % self.said.len()].0,
        }
    }
}
