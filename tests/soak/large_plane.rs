//! A large plane, archived and purged in little memory.
//!
//! The rule: what a plane costs in memory does not grow with its size: the peak of the process stays below the bound at every share.

use std::{
    path::Path,
    process::Child,
    time::{Duration, Instant},
};

use serde_json::{Value as Json, json};
use sqlx::Connection;

use crate::{
    Options,
    median::rounded,
    support::{binary::Installed, knowledge, random::Random},
};

const TEXT_BYTES: usize = 512;
const FLOATS: usize = 384;
const PEAK_MAX: u64 = 256 << 20;

pub async fn soak(options: &Options) -> Json {
    let rows = options.sized(1_000_000, 1_000);
    let installed = Installed::new("");
    fill(&installed.path("knowledge.db"), rows, options.seed).await;
    installed.register_store();
    installed.register("large", "p1");
    installed.done(&["offboard", "acme/large", "--ground", "internal", "--reason", "done", "--grace", "0s", "--retention", "0s"]);

    let (archive_peak, archive_time) = work(&installed);
    assert_eq!(installed.state("acme/large"), "ARCHIVED", "{}", installed.status("acme/large"));
    let archived = installed.status("acme/large")["offboarding"]["plan"]["archive_rows"].clone();
    assert_eq!(archived, json!(rows), "every row is in the archive");
    installed.done(&["approval", "grant", "acme/large", "--reason", "checked", "--actor", "user:bob"]);
    let (purge_peak, purge_time) = work(&installed);
    assert_eq!(installed.state("acme/large"), "PURGED", "{}", installed.status("acme/large"));
    assert_eq!(knowledge::digest(&installed.path("knowledge.db"), "p1").await.0, 0, "records are left");
    assert_eq!(installed.done(&["audit", "verify"])["audit"], json!("verified"));

    let peak = archive_peak.max(purge_peak);
    assert!(peak < PEAK_MAX, "the process took {peak} bytes of memory at its peak, {PEAK_MAX} are allowed");
    let mib = |bytes: u64| rounded(bytes as f64 / f64::from(1 << 20), 1);
    json!({
        "soak": "large_plane", "share": options.share, "rows": rows, "peak_mib": mib(peak), "peak_mib_max": mib(PEAK_MAX),
        "archive_peak_mib": mib(archive_peak), "purge_peak_mib": mib(purge_peak),
        "archive_seconds": rounded(archive_time.as_secs_f64(), 1), "purge_seconds": rounded(purge_time.as_secs_f64(), 1),
    })
}

/// A plane of so many chunks, each with a text and an embedding that do not compress to nothing.
async fn fill(file: &Path, rows: usize, seed: u64) {
    knowledge::create(file, &[]).await;
    let mut db = knowledge::open(file).await;
    let mut random = Random(seed);
    sqlx::query("PRAGMA synchronous = OFF").execute(&mut db).await.expect("no need to survive");
    sqlx::query("BEGIN").execute(&mut db).await.expect("begin");
    for row in 0..rows {
        let mut text = format!("marker-p1-{row} ");
        while text.len() < TEXT_BYTES {
            text += &format!("{:x} ", random.next() % 4096);
        }
        text.truncate(TEXT_BYTES);
        let embedding: Vec<u8> =
            (0..FLOATS).flat_map(|_| ((random.next() >> 40) as f32 / (1_u32 << 24) as f32).to_le_bytes()).collect();
        sqlx::query("INSERT INTO chunks (plane, body, page, embedding) VALUES ('p1', ?, ?, ?)")
            .bind(text)
            .bind(row as i64)
            .bind(embedding)
            .execute(&mut db)
            .await
            .expect("insert a chunk");
    }
    sqlx::query("COMMIT").execute(&mut db).await.expect("commit");
    db.close().await.expect("close");
}

/// Works until idle. Answers the process's peak of memory and how long it took.
fn work(installed: &Installed) -> (u64, Duration) {
    let began = Instant::now();
    let mut worker = installed.spawn(&["work", "--until-idle"]);
    let mut peak = 0;
    let status = loop {
        peak = peak.max(high_water(&worker).unwrap_or(0));
        if let Some(status) = worker.try_wait().expect("wait for the worker") {
            break status;
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    assert!(status.success(), "work: {status}");
    assert!(peak > 0, "the kernel says nothing of the process's memory: this soak needs Linux");
    (peak, began.elapsed())
}

/// The most memory that the process has had so far, in bytes; `None` once it has ended.
fn high_water(process: &Child) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.id())).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.parse().ok().map(|kibibytes: u64| kibibytes << 10)
}
