//! How it runs: operations, the KnowledgeLifecycleManager, the gate, the queue, sweeps, consequences and the command line.
//!
//! The rule: command line and (later) HTTP are thin skins over [`operations`]; everything takes that one path.

mod certificate;
pub mod cli;
pub mod clock;
pub mod config;
pub mod consequences;
pub mod deadline;
mod demo;
pub mod gate;
mod hours;
pub mod keys;
pub mod log;
pub mod manager;
pub mod operations;
pub mod policy;
pub mod runner;
pub mod signature;
pub mod window;
pub mod world;
