//! Many offboardings by a server that is killed again and again, at random moments.
//!
//! The rule: however often it dies, every plane ends PURGED, every step was completed once, and nobody else's rows changed.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::{Value as Json, json};
use sqlx::{Connection, SqliteConnection, sqlite::SqliteConnectOptions};

use crate::{
    Options,
    median::rounded,
    support::{binary::Installed, knowledge, random::Random},
};

const ROWS: usize = 12;
const CONFIG: &str = "[archive]\npart_rows_max = 5\n[queue]\nlease = \"2s\"\npoll = \"50ms\"\ninterruptions_max = 100000\n[sweep]\nevery = \"1s\"\n";

pub async fn soak(options: &Options) -> Json {
    let planes = options.sized(200, 2);
    let began = Instant::now();
    let installed = Arc::new(installed(planes).await);
    let neighbour = knowledge::digest(&installed.path("knowledge.db"), "neighbour").await;
    for plane in 0..planes {
        let plane = format!("acme/plane-{plane}");
        let request = ["offboard", &plane, "--ground", "internal", "--reason", "done", "--grace", "0s", "--retention", "0s"];
        installed.done(&request);
    }

    let all_done = Arc::new(AtomicBool::new(false));
    let killer = std::thread::spawn({
        let (installed, all_done, seed) = (installed.clone(), all_done.clone(), options.seed);
        move || kill_again_and_again(&installed, &all_done, seed)
    });
    let finished = approve_until_purged(&installed, planes).await;
    all_done.store(true, Ordering::SeqCst);
    let kills = killer.join().expect("the killer ends");
    assert!(finished, "not every plane was purged within the time: {}", installed.done(&["offboarding", "list"]));

    let interruptions = check(&installed, planes, &neighbour).await;
    json!({
        "soak": "kills", "share": options.share, "seed": options.seed, "offboardings": planes, "kills": kills,
        "interruptions": interruptions, "seconds": rounded(began.elapsed().as_secs_f64(), 1),
    })
}

async fn installed(planes: usize) -> Installed {
    let installed = Installed::new(CONFIG);
    let names: Vec<String> = (0..planes).map(|plane| format!("p{plane}")).collect();
    let mut contents: Vec<(&str, usize)> = names.iter().map(|name| (name.as_str(), ROWS)).collect();
    contents.push(("neighbour", 100));
    knowledge::create(&installed.path("knowledge.db"), &contents).await;
    installed.register_store();
    for (plane, value) in names.iter().enumerate() {
        installed.register(&format!("plane-{plane}"), value);
    }
    installed
}

/// Starts the server and kills it, 50 to 500 ms later, until told that all is done. Answers how often.
fn kill_again_and_again(installed: &Installed, all_done: &AtomicBool, seed: u64) -> u64 {
    let mut random = Random(seed);
    let mut kills = 0;
    while !all_done.load(Ordering::SeqCst) {
        let mut server = installed.spawn(&["serve"]);
        std::thread::sleep(Duration::from_millis(random.between(50, 500)));
        assert!(server.try_wait().expect("look at the server").is_none(), "the server ended by itself");
        server.kill().expect("kill -9");
        server.wait().expect("the server is dead");
        kills += 1;
    }
    kills
}

/// Approves as somebody else whatever becomes ARCHIVED. Answers whether all were purged in time.
async fn approve_until_purged(installed: &Installed, planes: usize) -> bool {
    let deadline = Instant::now() + Duration::from_secs(120 + 20 * planes as u64);
    let mut db = open(&installed.path("lethe.db")).await;
    while Instant::now() < deadline {
        let purged: i64 =
            sqlx::query_scalar("SELECT count(*) FROM planes WHERE state = 'PURGED'").fetch_one(&mut db).await.expect("count");
        if purged == planes as i64 {
            return true;
        }
        let waiting: Vec<String> = sqlx::query_scalar(
            "SELECT p.id FROM planes p JOIN offboardings o ON o.plane_id = p.id WHERE p.state = 'ARCHIVED' AND o.status = 'open'
             AND NOT EXISTS (SELECT 1 FROM approvals a WHERE a.offboarding_id = o.id)",
        )
        .fetch_all(&mut db)
        .await
        .expect("list what waits for an approval");
        for plane in waiting {
            installed.done(&["approval", "grant", &plane, "--reason", "checked", "--actor", "user:bob"]);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    false
}

/// What must hold at the end. Answers how many runs were interrupted.
async fn check(installed: &Installed, planes: usize, neighbour: &(usize, String)) -> i64 {
    assert_eq!(installed.done(&["audit", "verify"])["audit"], "verified");
    let mut db = open(&installed.path("lethe.db")).await;
    let completed: Vec<(String, i64, i64)> = sqlx::query_as(
        "SELECT body ->> 'step', count(*), count(DISTINCT plane_id) FROM trail WHERE event_type = 'STAGE_COMPLETED' GROUP BY 1 ORDER BY 1",
    )
    .fetch_all(&mut db)
    .await
    .expect("count completed steps");
    let all = planes as i64;
    let steps = ["deactivate", "deregister", "evict", "export", "purge", "verify"];
    assert_eq!(completed, steps.map(|step| (step.to_owned(), all, all)), "each step once per plane");
    let interrupted: i64 = sqlx::query_scalar("SELECT count(*) FROM trail WHERE event_type = 'STAGE_INTERRUPTED'")
        .fetch_one(&mut db)
        .await
        .expect("count interruptions");
    db.close().await.expect("close");

    let file = installed.path("knowledge.db");
    assert_eq!(&knowledge::digest(&file, "neighbour").await, neighbour, "the neighbour changed");
    for plane in 0..planes {
        assert_eq!(knowledge::digest(&file, &format!("p{plane}")).await.0, 0, "plane {plane} has records left");
    }
    let left: Vec<_> =
        installed.path("archive").read_dir().expect("the archive").map(|entry| entry.expect("an entry").file_name()).collect();
    // The canary and the ledger's mark stay.
    assert!(left.iter().all(|name| name.to_string_lossy().starts_with(".lethe-")), "objects are left in the archive: {left:?}");
    interrupted
}

async fn open(ledger: &Path) -> SqliteConnection {
    let options = SqliteConnectOptions::new().filename(ledger).busy_timeout(Duration::from_secs(30)).pragma("query_only", "ON");
    SqliteConnection::connect_with(&options).await.expect("open the ledger")
}
