//! Policies: who may do what to which part of a plane, said in Cedar, outside the program.
//!
//! The rule: nothing is allowed but what a policy permits, and no error is ever permission. A policy that fails while it is evaluated, a
//! fact that does not fit the schema, a folder that cannot be read: each is a denial that says why.
//!
//! If we die between a decision and its effect, nothing was done; the question is asked again, on the facts of then.

mod entities;
mod fault;
mod model;
mod set;
mod watched;

#[cfg(test)]
mod table;
#[cfg(test)]
mod tests;

pub use self::{
    fault::{Fault, PolicyError},
    model::{
        Action, Approvals, Ask, Context, Decision, OffboardingFacts, PlaneFacts, Preset, Principal, Resource, Role, Source,
        TenantFacts,
    },
    set::{Policies, SCHEMA},
    watched::{Current, Reloaded, Watched},
};
