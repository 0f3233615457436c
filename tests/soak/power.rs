//! Power cuts in great number: many stories, most of them with a worker that is killed at a random change to the disk before.
//!
//! The rule: whatever was not synchronised is lost, there or torn, what was said stands, nothing is destroyed that was not safe, and the
//! story ends as it would have ended.

use std::{sync::Arc, time::Instant};

use serde_json::{Value as Json, json};

use crate::{
    Options,
    median::rounded,
    support::{
        disk::kind,
        power::{Plot, cut, tell},
        random::Random,
    },
};

/// Where a worker may be killed, and up to the how manyth time it comes there.
const KILLS: [(u32, &str, u64); 6] = [
    (kind::WRITE, "lethe.db-wal", 200),
    (kind::WRITE, "knowledge.db", 60),
    (kind::WRITE, "/archive/", 5),
    (kind::LINK, ".parquet", 3),
    (kind::MAKE_FOLDER, "/archive/", 4),
    (kind::RENAME, "/archive/", 2),
];

pub async fn soak(options: &Options) -> Json {
    let (stories, looks) = (options.sized(100, 2), options.sized(3000, 60).min(300));
    let began = Instant::now();
    let mut random = Random(options.seed);
    let (mut changes, mut looked, mut ended) = (0, 0, 0);
    for story in 0..stories {
        let seed = random.next();
        let (kind, text, most) = KILLS[random.between(0, KILLS.len() as u64 - 1) as usize];
        let kill = (story % 4 != 0).then_some((kind, random.between(1, most) as u32, text));
        let (ground, journal_mode) = (["contract_end", "erasure_request"][story % 2], ["DELETE", "WAL"][story / 2 % 2]);
        let told = Arc::new(tell(Plot { ground, journal_mode, kill }).await);
        let cuts = cut(&told, looks, looks / 30, seed, |_, _| false).await;
        assert!(cuts.broken.is_empty(), "{} of {} looks:\n{}", cuts.broken.len(), cuts.looks, cuts.broken.join("\n\n"));
        changes += told.changes.len();
        looked += cuts.looks;
        ended += cuts.endings;
    }
    json!({
        "soak": "power", "share": options.share, "seed": options.seed, "stories": stories, "changes": changes, "cuts": looked,
        "endings": ended, "seconds": rounded(began.elapsed().as_secs_f64(), 1),
    })
}
