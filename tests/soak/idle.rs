//! How long a step takes where nothing else is to be done: from the commit of a request to its first step on record.
//!
//! The rule: a real runner, idle, with its own connections; who requests is another process to it. The floor is one durable step of the
//! least SQL on the same server in the same run.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use lethe_worker::{
    config::Config,
    consequences::Consequences,
    operations::{self, App},
    runner::{self, Roles, RunOptions},
    world::RealWorld,
};
use serde_json::{Value as Json, json};
use sqlx::PgConnection;
use tokio::sync::watch;

use crate::{
    Options,
    floor_on_postgres::PostgresFloor,
    median::{median, rounded},
    steps::{self, Lethe, STEPS, no_work},
};

const MS_MAX: f64 = 25.0;

pub async fn bench(options: &Options) -> Json {
    let rounds = options.sized(100, 5);
    let (site, lethe) = Lethe::new(true).await;
    let database = site.lethe.as_ref().expect("a database");
    let mut floor = PostgresFloor::new(site.floor.as_ref().expect("a database"), 1).await;
    let mut db = database.connect().await;
    let (stop, stopped) = watch::channel(false);
    let url = database.app_url();
    let runner = std::thread::spawn(move || work(url, stopped));

    let (mut times, mut floor_times) = (Vec::new(), Vec::new());
    // The first rounds warm it up.
    for round in 0..rounds + 5 {
        until(&mut db, "evict", round).await;
        tokio::time::sleep(Duration::from_millis(40)).await;
        lethe.request(round, 1).await;
        let began = Instant::now();
        until(&mut db, "deregister", round + 1).await;
        let took = began.elapsed();
        floor.request(round, 1).await;
        let began = Instant::now();
        floor.work(1).await;
        if round >= 5 {
            times.push(took);
            floor_times.push(began.elapsed() / STEPS as u32);
        }
    }
    stop.send(true).expect("the runner listens");
    runner.join().expect("it stops in order");
    let ms = |time: Duration| rounded(time.as_secs_f64() * 1000.0, 2);
    times.sort();
    let p99 = times[times.len() * 99 / 100];
    let (value, floor) = (ms(median(times)), ms(median(floor_times)));
    json!({
        "bench": "idle_step", "share": options.share, "rounds": rounds, "value": value, "p99": ms(p99), "floor": floor,
        "ratio": rounded(value / floor, 2), "unit": "ms", "value_max": MS_MAX, "met": !options.is_full() || value <= MS_MAX,
    })
}

/// A runner with a runtime of its own, until it is stopped.
fn work(url: String, stop: watch::Receiver<bool>) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let ledger = steps::open(url).await;
        let (config, world) = (Config::load(None).expect("a configuration"), Arc::new(RealWorld::default()));
        let app = App::new(ledger, config, no_work(), world, operations::all(), Consequences::standard()).expect("assembled");
        let options = RunOptions { plane: None, until_idle: false, stop, roles: Roles::ALL };
        runner::run(Arc::new(app), options).await.expect("it works until it is stopped");
    });
}

/// Waits until so many runs of a step have succeeded.
async fn until(db: &mut PgConnection, step: &str, count: usize) {
    let ask = "SELECT count(*) FROM stage_runs WHERE step = $1 AND status = 'succeeded'";
    for _ in 0..100_000 {
        let done: i64 = sqlx::query_scalar(ask).bind(step).fetch_one(&mut *db).await.expect("ask how many");
        if done >= count as i64 {
            return;
        }
        tokio::time::sleep(Duration::from_micros(200)).await;
    }
    panic!("{step} was not recorded");
}
