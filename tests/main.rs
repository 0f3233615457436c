//! What Lethe promises, one file per promise.
//!
//! Everything here uses real parts: SQLite ledgers and stores, Parquet archives, the real binary. Time is a clock that is moved.

#![allow(clippy::disallowed_methods, reason = "tests write to the world beside the ledger")]
#![allow(unreachable_pub, reason = "nothing is reachable from outside a test binary")]

mod support;

mod approvals;
mod assembly;
mod calls;
mod cancel;
mod drain;
mod grace;
mod grounds;
mod holds;
mod laws;
mod mistakes;
mod path;
mod pause;
mod queue;
mod refusals;
mod retry;
mod scopes;
mod tampering;
mod trail;
