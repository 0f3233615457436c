//! What Lethe promises, one file per promise.
//!
//! Everything here uses real parts: SQLite ledgers and stores, Parquet archives, the real binary. Time is a clock that is moved.

#![allow(clippy::disallowed_methods, reason = "tests write to the world beside the ledger")]
#![allow(unreachable_pub, missing_docs, reason = "a test binary has no users")]

/// Where this binary's ledgers live.
pub const ON_POSTGRES: bool = false;

mod support;

mod approvals;
mod archives;
mod assembly;
mod buckets;
mod calls;
mod cancel;
mod certificates;
mod chroma;
mod comeback;
mod conformance;
mod crash;
mod demo;
mod drain;
mod due;
mod exceptions;
mod files;
mod gate;
mod grace;
mod grounds;
mod holds;
mod idempotence;
mod laws;
mod locks;
mod log;
mod mistakes;
mod model;
mod nothing_comes_back;
mod notices;
mod outside;
mod parquet;
mod path;
mod pause;
mod personal;
mod pgvector;
mod policies;
mod power;
mod protocol;
mod queries;
mod queue;
mod refusals;
mod restore;
mod retry;
mod schema;
mod scopes;
mod several;
mod shredding;
mod signals;
mod signed;
mod stories;
mod sweeps;
mod tables;
mod tampering;
mod trail;
mod windows;
mod witness;
