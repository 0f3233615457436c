//! `lethe-verify`: checks what Lethe proves, from files and a public key alone.
//!
//! The rule: it opens the files that it is given and nothing else: no database, no network, no clock. It answers 0 where everything
//! holds, 1 where something does not and says what, 2 where it could not read what it was given. It writes nothing.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Parser, Subcommand};
use lethe_verify::{
    bundle::Bundle, bundle::Verified, certificate::Certificate, entry::Fault, export::ExportFault, folder, note::PublicKey, proof,
};
use serde_json::json;

/// Checks what Lethe proves, from files and a public key alone.
///
/// It needs no ledger, no network and nothing of Lethe but this program. Exit codes: 0 verified, 1 not verified (it says what), 2 it
/// could not read what it was given.
#[derive(Parser)]
#[command(
    name = "lethe-verify",
    version,
    max_term_width = 110,
    after_help = "Examples:
  lethe-verify certificate certificate.json --key-file log.pub
  lethe-verify bundle planes-of-acme.json --key 'example.com/lethe+1a2b3c4d+AZ…'
  lethe-verify log /srv/log --key-file log.pub
  lethe-verify consistency --old checkpoint.may --new checkpoint --proof proof.json --key-file log.pub

The key is the log's, as its operator has published it; ask for it where nobody who wants to deceive you can answer.
After a key was changed, give both."
)]
struct Args {
    #[command(subcommand)]
    command: Command,
    /// A public key of the log: NAME+NUMBER+KEY. May be given more than once
    #[arg(long, global = true, value_name = "VKEY")]
    key: Vec<String>,
    /// A file with public keys of the log, one a line
    #[arg(long, global = true, value_name = "FILE")]
    key_file: Vec<PathBuf>,
    /// Answer in JSON
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum Command {
    /// A certificate of erasure: its signature, its place in the log, and the values that it discloses
    Certificate {
        /// What `lethe certificate export` wrote
        file: PathBuf,
    },
    /// Entries of the trail, that they are the log's, and where the bundle says so that none is missing
    Bundle {
        /// What `lethe audit bundle` wrote
        file: PathBuf,
    },
    /// One entry, and that it is in the log
    Inclusion {
        /// What `lethe audit prove` wrote
        file: PathBuf,
    },
    /// That a log is the continuation of an earlier one: nothing was changed or taken out
    Consistency {
        /// The earlier checkpoint, as somebody kept it
        #[arg(long, value_name = "NOTE")]
        old: PathBuf,
        /// The later one
        #[arg(long, value_name = "NOTE")]
        new: PathBuf,
        /// The proof: {"old": SIZE, "new": SIZE, "proof": ["base64", …]}
        #[arg(long, value_name = "FILE")]
        proof: PathBuf,
    },
    /// A signed checkpoint
    Checkpoint {
        /// The note
        file: PathBuf,
    },
    /// A whole log in one file: every entry's hash, every chain and the tree are computed from it
    Export {
        /// What `lethe log export` wrote
        file: PathBuf,
    },
    /// A whole published log: every hash is computed from its entries
    Log {
        /// The folder that holds `checkpoint` and `tile/`
        folder: PathBuf,
    },
}

/// Why there is no answer.
enum Stop {
    /// What was given cannot be read.
    Unread(String),
    /// It does not hold.
    Refuted(Fault),
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Self {
        Stop::Refuted(fault)
    }
}

fn read(path: &Path) -> Result<String, Stop> {
    std::fs::read_to_string(path).map_err(|error| Stop::Unread(format!("read {}: {error}", path.display())))
}

fn keys(args: &Args) -> Result<Vec<PublicKey>, Stop> {
    let mut lines = args.key.clone();
    for file in &args.key_file {
        lines.extend(read(file)?.lines().filter(|line| !line.trim().is_empty()).map(str::to_owned));
    }
    if lines.is_empty() {
        return Err(Stop::Unread("no key is given: --key VKEY or --key-file FILE".into()));
    }
    let read = |line: &String| line.parse().map_err(|fault| Stop::Unread(format!("`{line}`: {fault}")));
    lines.iter().map(read).collect()
}

/// In one pass, whatever its size.
fn export(file: &Path, keys: &[PublicKey]) -> Result<Verified, Stop> {
    let unread = |error: std::io::Error| Stop::Unread(format!("read {}: {error}", file.display()));
    let found = lethe_verify::export::verify(std::fs::File::open(file).map_err(unread)?, keys).map_err(|fault| match fault {
        ExportFault::Io(error) => Stop::Unread(format!("read {}: {error}", file.display())),
        fault => Stop::Refuted(Fault::new("export", fault)),
    })?;
    let (checkpoint, key) = (&found.checkpoint, &found.key);
    Ok(Verified {
        verified: vec![
            format!("checkpoint of {}: {} leaves, signed by {key}", checkpoint.origin, checkpoint.size),
            format!(
                "{} entries: each fits its hash and follows the one before it, and the root follows from them",
                found.entries
            ),
            format!("{} chains, each from its first entry on", found.chains),
        ],
        trusted: vec![
            format!("that {key} is the log's key, and was in nobody else's hands"),
            "that the log showed others the same tree: compare its checkpoints with those that others keep".to_owned(),
        ],
    })
}

fn verify(args: &Args) -> Result<Verified, Stop> {
    let keys = keys(args)?;
    Ok(match &args.command {
        Command::Certificate { file } => Certificate::read(&read(file)?)?.verify(&keys)?.verified,
        Command::Bundle { file } => Bundle::read(&read(file)?)?.verify(&keys)?,
        Command::Inclusion { file } => proof::Inclusion::read(&read(file)?)?.verify(&keys)?,
        Command::Consistency { old, new, proof } => {
            proof::Consistency::read(&read(proof)?)?.verify(&read(old)?, &read(new)?, &keys)?
        }
        Command::Checkpoint { file } => proof::checkpoint(&read(file)?, &keys)?,
        Command::Export { file } => export(file, &keys)?,
        Command::Log { folder } => {
            read(&folder.join("checkpoint"))?;
            folder::verify(folder, &keys)?
        }
    })
}

/// As a terminal may show it: what a document says must not move the cursor.
fn shown(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { c.escape_default().to_string() } else { c.to_string() }).collect()
}

fn main() -> ExitCode {
    let args = Args::parse();
    match verify(&args) {
        Ok(verified) if args.json => {
            println!("{}", json!({"outcome": "verified", "verified": verified.verified, "trusted": verified.trusted}));
            ExitCode::SUCCESS
        }
        Ok(verified) => {
            verified.verified.iter().for_each(|line| println!("verified: {}", shown(line)));
            verified.trusted.iter().for_each(|line| println!("trusted:  {}", shown(line)));
            ExitCode::SUCCESS
        }
        Err(Stop::Refuted(fault)) => {
            if args.json {
                println!("{}", json!({"outcome": "refuted", "at": fault.at, "why": fault.why}));
            } else {
                println!("NOT VERIFIED: {}", shown(&fault.to_string()));
            }
            ExitCode::from(1)
        }
        Err(Stop::Unread(why)) => {
            if args.json {
                println!("{}", json!({"outcome": "unread", "why": why}));
            }
            eprintln!("lethe-verify: {}", shown(&why));
            ExitCode::from(2)
        }
    }
}
