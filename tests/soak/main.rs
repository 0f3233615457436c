//! The promises, long and large, and the figures: `soak [--share 0.01] [--seed N] [NAME…]`.
//!
//! Each soak and each bench prints one JSON line; the last line counts them. A share shrinks all sizes; below 1, counts and query plans
//! are asserted and times only printed. Without `--share` it is `LETHE_SOAK_SHARE`, else everything in a release build and a hundredth
//! in a debug build, whose figures mean nothing; nor do those of another profile than the one that is shipped: without LTO across crates
//! an export is verified half as fast. The program is the one that was built beside it, or `LETHE_BIN`.

#![allow(clippy::disallowed_methods, reason = "soaks write to the world beside the ledger and measure real time")]
#![allow(unreachable_pub, missing_docs, reason = "a test binary has no users")]

/// Where this program's ledgers live.
pub const ON_POSTGRES: bool = false;

#[path = "../support/mod.rs"]
mod support;

mod cluster;
mod floor;
mod floor_on_postgres;
mod idle;
mod kills;
mod large_plane;
mod log;
mod median;
mod planes;
mod power;
mod queries;
mod steps;
mod tenants;
mod waiting;
mod wal;

use std::process::ExitCode;

use serde_json::Value as Json;

const SOAKS: [&str; 8] = ["cluster", "kills", "large_plane", "log_away", "power", "queries", "tenants", "waiting"];

const BENCHES: [&str; 9] = [
    "claim_scale",
    "idle_step",
    "wal_per_offboarding",
    "archive",
    "purge_partition",
    "neighbours",
    "log_keeps_up",
    "log_cost",
    "log_verify",
];

/// Everything there is, soaks first.
fn names() -> impl Iterator<Item = &'static str> {
    SOAKS.into_iter().chain(BENCHES).chain(steps::PLANS.iter().map(|plan| plan.name))
}

/// What the command line asks for.
#[derive(Debug, Clone)]
pub struct Options {
    /// The share of the full sizes.
    pub share: f64,
    /// Where random numbers begin.
    pub seed: u64,
    names: Vec<String>,
    list: bool,
}

impl Options {
    /// `full`, shrunk by the share, at least `least`.
    pub fn sized(&self, full: usize, least: usize) -> usize {
        ((full as f64 * self.share) as usize).max(least)
    }

    /// Whether times count: nothing was shrunk and the build is the one that is shipped.
    pub fn is_full(&self) -> bool {
        self.share >= 1.0 && !cfg!(debug_assertions)
    }

    fn read() -> Result<Self, String> {
        let default = if cfg!(debug_assertions) { "0.01".into() } else { "1".into() };
        let mut options = Self {
            share: number(&std::env::var("LETHE_SOAK_SHARE").unwrap_or(default))?,
            seed: 1,
            names: Vec::new(),
            list: false,
        };
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--share" => options.share = number(&arguments.next().unwrap_or_default())?,
                "--seed" => options.seed = number(&arguments.next().unwrap_or_default())?,
                "--list" => options.list = true,
                // What `cargo test` hands to every test program.
                flag if flag.starts_with('-') => {}
                name => options.names.push(name.to_owned()),
            }
        }
        if options.share > 0.0 { Ok(options) } else { Err(format!("--share {}: write a number above 0", options.share)) }
    }
}

/// A whole name means that one alone, a part all that have it.
fn is_meant(part: &str, name: &str) -> bool {
    name == part || name.contains(part) && names().all(|other| other != part)
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("`{text}` is not a number: soak [--share 0.01] [--seed N] [NAME…]"))
}

async fn run(name: &str, options: Options) -> Json {
    match name {
        "cluster" => cluster::soak(&options).await,
        "kills" => kills::soak(&options).await,
        "large_plane" => large_plane::soak(&options).await,
        "power" => power::soak(&options).await,
        "queries" => queries::soak(&options).await,
        "tenants" => tenants::soak(&options).await,
        "waiting" => waiting::soak(&options).await,
        "claim_scale" => waiting::on_postgres(&options).await,
        "idle_step" => idle::bench(&options).await,
        "wal_per_offboarding" => wal::bench(&options).await,
        "archive" => planes::archive(&options).await,
        "purge_partition" => planes::purge_partition(&options).await,
        "neighbours" => planes::neighbours(&options).await,
        "log_away" => log::away(&options).await,
        "log_keeps_up" => log::keeps_up(&options).await,
        "log_cost" => log::cost(&options).await,
        "log_verify" => log::verify(&options).await,
        other => match steps::PLANS.into_iter().find(|plan| plan.name == other) {
            Some(plan) => steps::bench(plan, &options).await,
            None => panic!("there is no soak {other}"),
        },
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let options = match Options::read() {
        Ok(options) => options,
        Err(wrong) => {
            eprintln!("{wrong}");
            return ExitCode::from(2);
        }
    };
    let asked = |name: &str| options.names.is_empty() || options.names.iter().any(|part| is_meant(part, name));
    let (mut passed, mut failed) = (0, 0);
    for name in names().filter(|name| asked(name)) {
        if options.list {
            println!("{name}: test");
            continue;
        }
        let options = options.clone();
        match tokio::spawn(async move { run(name, options).await }).await {
            Ok(line) => {
                println!("{line}");
                // A goal that concerns times, asked only where times count.
                match line["met"] == false {
                    true => failed += 1,
                    false => passed += 1,
                }
            }
            // The panic has said why on standard error.
            Err(_) => {
                println!("{name} failed");
                failed += 1;
            }
        }
    }
    println!("{passed} passed, {failed} failed");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
