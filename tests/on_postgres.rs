//! What Lethe promises, of ledgers on a PostgreSQL server: the same files as in `main`, and what holds there alone.
//!
//! The server is named by LETHE_TEST_POSTGRES (and its pooler by LETHE_TEST_PGBOUNCER): `eval "$(tests/servers env)"`. Each test has a
//! database of its own, and works under the application's role.

#![allow(clippy::disallowed_methods, reason = "tests write to the world beside the ledger")]
#![allow(unreachable_pub, missing_docs, reason = "a test binary has no users")]

/// Where this binary's ledgers live.
pub const ON_POSTGRES: bool = true;

mod support;

mod approvals;
mod calls;
mod cancel;
mod certificates;
mod comeback;
mod crash;
mod drain;
mod due;
mod exceptions;
mod gate;
mod grace;
mod grounds;
mod holds;
mod idempotence;
mod log;
mod mistakes;
mod model;
mod nothing_comes_back;
mod notices;
mod parquet;
mod path;
mod pause;
mod personal;
mod policies;
mod postgres;
mod queries;
mod queue;
mod refusals;
mod restore;
mod retry;
mod schema;
mod scopes;
mod shredding;
mod signals;
mod signed;
mod stories;
mod sweeps;
mod tables;
mod trail;
mod windows;
