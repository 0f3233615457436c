//! The log's figures: sealing while others write, what it costs a step, and verifying a whole trail from an export and through PostgreSQL.
//!
//! The rule: entries are real ones of the trail, hashed and chained, through the same verbs as in production. Who seals works beside who writes,
//! on the same machine and server.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use lethe_ledger::{Actor, Chain, Entry, EventType, Fault, Ledger, OpenOptions, Sealed, Tx};
use lethe_verify::note::SigningKey;
use lethe_worker::clock::{SystemClock, SystemEntropy};
use serde_json::{Value as Json, json};
use uuid::Uuid;

use crate::{
    Options,
    median::rounded,
    steps::{Lethe, STEPS, open},
    support::{
        World,
        cut::Wire,
        ledger::TestDatabase,
        log::Log,
        s3::{Bucket, Kind},
    },
};

/// Entries a second that sealing has to keep up with.
const RATE: usize = 20_000;
/// Entries of one transaction of a writer.
const BATCH: usize = 200;
const WRITERS: usize = 4;
/// How often is sealed, as `log.every` has it: from one beginning to the next.
const EVERY: Duration = Duration::from_millis(500);
/// Entries of one transaction of who seals, as a worker has it.
const AT_ONCE: usize = 10_000;
/// Seconds until 99 of 100 entries are in the tree.
const P99_MAX: f64 = 1.0;
/// Entries a second that one core verifies from an export, and that are verified through PostgreSQL.
const EXPORT_MIN: f64 = 1_000_000.0;
const POSTGRES_MIN: f64 = 150_000.0;
/// How often the export is verified.
const EXPORTS: usize = 5;
/// How much of a step the log may cost.
const SHARE_MAX: f64 = 0.1;

fn key() -> SigningKey {
    SigningKey::from_seed("soak", &[5; 32]).expect("a key")
}

async fn ledger() -> (TestDatabase, Ledger, Vec<Uuid>) {
    let database = TestDatabase::migrated().await;
    let (clock, entropy) = (Arc::new(SystemClock), Arc::new(SystemEntropy));
    Ledger::migrate(OpenOptions { url: database.url(), clock, entropy }, false).await.expect("a ledger").close().await;
    let ledger = open(database.app_url()).await;
    let mut tenants = Vec::new();
    for number in 0..WRITERS {
        let made = ledger.transact(async |tx: &mut Tx| tx.insert_tenant(&format!("tenant-{number}")).await).await;
        tenants.push(made.expect("a tenant").into_inner().id);
    }
    (database, ledger, tenants)
}

/// Appends entries to a tenant's chain, as large as those of a step.
async fn append(ledger: &Ledger, tenant: Uuid, entries: usize) {
    let work = async |tx: &mut Tx| {
        for number in 0..entries {
            let actor = Actor::system("soak");
            let mut entry = Entry::new(Chain::Tenant(tenant), Some(tenant), EventType::StageCompleted, &actor, "worker");
            entry.evidence = json!({"number": number, "stores": [{"store": "kb", "table": "chunks", "exported": 45, "remaining": 0}],
                "manifest_sha256": "sha256:0000000000000000000000000000000000000000000000000000000000000000"});
            tx.append(entry).await?;
        }
        Ok::<_, Fault>(())
    };
    ledger.transact(work).await.expect("append").into_inner();
}

/// Seals until it is stopped, as a worker does; notes when the tree had which size.
async fn seal(ledger: Ledger, stop: Arc<AtomicBool>, sizes: Arc<Mutex<Vec<(u64, Instant)>>>) {
    let key = key();
    loop {
        let next = tokio::time::Instant::now() + EVERY;
        let stopped = stop.load(Ordering::SeqCst);
        loop {
            let work = async |tx: &mut Tx| match tx.lock_log().await? {
                Some(locked) => tx.seal(&locked, &[&key], AT_ONCE).await,
                None => Ok(Sealed::Nothing),
            };
            let sealed = ledger.transact(work).await.expect("seal").into_inner();
            let Sealed::Entries { size, entries, .. } = sealed else { break };
            sizes.lock().unwrap().push((size, Instant::now()));
            if (entries as usize) < AT_ONCE / 2 {
                break;
            }
        }
        if stopped {
            return;
        }
        tokio::time::sleep_until(next).await;
    }
}

/// Entries are written at a rate; how long until they are in the tree.
pub async fn keeps_up(options: &Options) -> Json {
    let (_database, ledger, tenants) = ledger().await;
    let (stop, sizes) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
    let sealer = tokio::spawn(seal(ledger.clone(), stop.clone(), sizes.clone()));
    let batches = options.sized(RATE * 60 / BATCH, 20) / WRITERS;
    let began = Instant::now();
    let pause = Duration::from_secs_f64(WRITERS as f64 * BATCH as f64 / RATE as f64);
    let writers = tenants.into_iter().map(|tenant| {
        let ledger = ledger.clone();
        tokio::spawn(async move {
            let mut written = Vec::with_capacity(batches);
            for number in 0..batches {
                tokio::time::sleep_until((began + pause * number as u32).into()).await;
                append(&ledger, tenant, BATCH).await;
                written.push(Instant::now());
            }
            written
        })
    });
    let written: Vec<Instant> =
        futures::future::join_all(writers).await.into_iter().flat_map(|written| written.expect("a writer")).collect();
    let lasted = began.elapsed().as_secs_f64();
    stop.store(true, Ordering::SeqCst);
    sealer.await.expect("the sealer");
    // Committed batches in the order of their commits are in the tree when it has as many leaves.
    let mut written = written;
    written.sort();
    let sizes = sizes.lock().unwrap().clone();
    let mut waits: Vec<f64> = written
        .iter()
        .enumerate()
        .map(|(index, at)| {
            let needed = ((index + 1) * BATCH) as u64;
            let sealed = sizes.iter().find(|(size, _)| *size >= needed).expect("everything is sealed");
            sealed.1.saturating_duration_since(*at).as_secs_f64()
        })
        .collect();
    waits.sort_by(f64::total_cmp);
    let entries = written.len() * BATCH;
    let verified = ledger.read(async |tx: &mut Tx| tx.log().await).await.expect("the log");
    assert_eq!(verified.size as usize, entries, "each entry is one leaf");
    let p99 = waits[waits.len() * 99 / 100];
    let rate = entries as f64 / lasted;
    json!({
        "bench": "log_keeps_up", "share": options.share, "entries": entries, "value": rounded(p99, 3), "unit": "seconds at p99",
        "value_max": P99_MAX, "median": rounded(waits[waits.len() / 2], 3), "entries_per_second": rounded(rate, 0), "rate_wanted": RATE,
        "met": !options.is_full() || p99 <= P99_MAX && rate >= 0.98 * RATE as f64,
    })
}

/// Steps with somebody who seals beside them, and without, in turn.
pub async fn cost(options: &Options) -> Json {
    const TURNS: usize = 6;
    let each = options.sized(2_000, 20).div_ceil(TURNS);
    let (_site, lethe) = Lethe::new(true).await;
    let mut times = [Duration::ZERO; 2];
    for turn in 0..TURNS {
        lethe.request(turn, each).await;
        let (stop, sizes) = (Arc::new(AtomicBool::new(turn % 2 == 0)), Arc::new(Mutex::new(Vec::new())));
        // What was written without it is sealed before it counts.
        seal(lethe.ledger.clone(), Arc::new(AtomicBool::new(true)), sizes.clone()).await;
        let sealer = (turn % 2 == 1).then(|| tokio::spawn(seal(lethe.ledger.clone(), stop.clone(), sizes.clone())));
        let began = Instant::now();
        assert_eq!(lethe.work(1, 8).await, each * STEPS, "every step was recorded");
        times[turn % 2] += began.elapsed();
        stop.store(true, Ordering::SeqCst);
        if let Some(sealer) = sealer {
            sealer.await.expect("the sealer");
        }
    }
    let added = times[1].as_secs_f64() / times[0].as_secs_f64() - 1.0;
    json!({
        "bench": "log_cost", "share": options.share, "steps": TURNS * each * STEPS, "value": rounded(added, 3), "unit": "added to a step",
        "value_max": SHARE_MAX, "met": !options.is_full() || added <= SHARE_MAX,
    })
}

/// A whole trail, verified from an export and through PostgreSQL.
pub async fn verify(options: &Options) -> Json {
    let (database, ledger, tenants) = ledger().await;
    let entries = options.sized(1_000_000, 10_000);
    let writers = tenants.into_iter().map(|tenant| {
        let ledger = ledger.clone();
        tokio::spawn(async move {
            for _ in 0..entries / WRITERS / 500 {
                append(&ledger, tenant, 500).await;
            }
        })
    });
    futures::future::join_all(writers).await.into_iter().for_each(|writer| writer.expect("a writer"));
    // As the first sealing puts it on record.
    let public = key().public();
    let begin = async |tx: &mut Tx| {
        let mut entry = Entry::new(Chain::System, None, EventType::LogKeyAdded, &Actor::system("log"), "log");
        entry.evidence = json!({"vkey": public.to_string(), "from_size": 0});
        let recorded = tx.append(entry).await?;
        tx.add_log_key(&public, 0, &recorded).await
    };
    ledger.transact(begin).await.expect("a key").into_inner();
    seal(ledger.clone(), Arc::new(AtomicBool::new(true)), Arc::default()).await;

    let began = Instant::now();
    let verified = ledger.read(async |tx: &mut Tx| tx.verify_all().await).await.expect("read");
    let through = began.elapsed().as_secs_f64();
    let (trail, log) = verified.expect("trail and log verify");
    assert_eq!(log.leaves, trail.entries);
    let rate = trail.entries as f64 / through;

    let export = ledger
        .read(async |tx: &mut Tx| {
            let mut text = format!("{}\n", lethe_verify::export::HEADER);
            let size = tx.log().await?.size;
            for start in (0..size).step_by(4_000) {
                for leaf in tx.leaves(start, (start + 4_000).min(size)).await? {
                    let fields =
                        [&leaf.chain, &leaf.sequence_no.to_string(), &leaf.tenant_id, &leaf.previous, &leaf.hash, &leaf.body];
                    text += &(fields.map(String::as_str).join("\t") + "\n");
                }
            }
            let note = tx.latest_checkpoint().await?.expect("a checkpoint").note;
            Ok::<_, Fault>(format!("{text}\n{note}"))
        })
        .await
        .expect("export");
    // Without the server beside it, which would still write out and vacuum what was inserted; and the fastest of some, as whatever else runs can
    // only add.
    ledger.close().await;
    database.gone().await;
    let keys = [public];
    let once = |_| {
        let began = Instant::now();
        let verified = lethe_verify::export::verify(export.as_bytes(), &keys).expect("it verifies");
        assert_eq!(verified.entries, trail.entries);
        verified.entries as f64 / began.elapsed().as_secs_f64()
    };
    let by_core = (0..EXPORTS).map(once).fold(0.0, f64::max);
    json!({
        "bench": "log_verify", "share": options.share, "entries": trail.entries, "value": rounded(by_core, 0),
        "unit": "entries per second and core, from an export", "value_min": EXPORT_MIN, "through_postgres": rounded(rate, 0),
        "through_postgres_min": POSTGRES_MIN, "bytes_per_entry": export.len() as u64 / trail.entries,
        "met": !options.is_full() || by_core >= EXPORT_MIN && rate >= POSTGRES_MIN,
    })
}

/// A minute without the bucket that the log is published to, while entries are written and sealed: nothing is lost, forked or reordered.
pub async fn away(options: &Options) -> Json {
    let bucket = Bucket::new(Kind::Versioned).await;
    let wire = Wire::to(bucket.server.endpoint.trim_start_matches("http://"));
    let log = Log::new();
    let url = format!("s3://{}/log", bucket.name);
    let reached = bucket.config().replace(&bucket.server.endpoint, &format!("http://127.0.0.1:{}", wire.port));
    let config = log.config("first", &[]).replace(&format!("file://{}", log.path("published").display()), &url);
    let world = World::with(&format!("{config}{reached}")).await;
    let register = async |number: usize| {
        let name = json!({"name": format!("tenant-{number}")});
        world.call("user:root", "account.tenant.register", name).await;
        world.app.manager.keep_log().await.expect("the ledger works")
    };
    let began = register(0).await;
    assert!(began.published > 0, "{began:?}");
    wire.cut();
    let without = Duration::from_secs_f64((60.0 * options.share).max(0.5));
    let (since, mut written) = (Instant::now(), 1);
    while since.elapsed() < without {
        let report = register(written).await;
        assert!(report.sealed > 0 && report.published == 0 && report.stopped.is_none(), "{report:?}");
        written += 1;
    }
    wire.mend();
    let caught_up = register(written).await;
    assert!(caught_up.published > written as u64 - 1, "{caught_up:?}");
    let verified = world.call("user:auditor", "governance.audit.verify", json!({})).await;
    assert_eq!(verified["audit"], "verified", "{verified}");
    let leaves = world.number("SELECT count(*) FROM leaves").await;
    assert_eq!(verified["published"]["size"], leaves, "all of it is outside");
    json!({"soak": "log_away", "share": options.share, "seconds_without": rounded(without.as_secs_f64(), 1), "entries": leaves,
        "published_at_once": caught_up.published, "met": true})
}
