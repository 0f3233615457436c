//! What Lethe promises, one file per promise.
//!
//! Everything here uses real parts: SQLite ledgers and stores, Parquet archives, the real binary. Time is a clock that is moved.

#![allow(clippy::disallowed_methods, reason = "tests write to the world beside the ledger")]
#![allow(unreachable_pub, missing_docs, reason = "a test binary has no users")]

mod support;

mod crash;
mod demo;
mod idempotence;
mod path;
mod restore;
mod signals;
