//! What other policies would have answered to questions that were asked before.

use serde::Serialize;

use super::{
    model::{Ask, Decision},
    set::Policies,
};

/// A question whose answer changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Its place among those that were given, from 0.
    pub index: usize,
    /// The question.
    pub ask: Ask,
    /// The answer of the policies before.
    pub before: Decision,
    /// The answer of those after.
    pub after: Decision,
}

/// Every one of `asks` that is allowed by one set and denied by the other; that other policies decide the same is no difference.
pub fn differences(before: &Policies, after: &Policies, asks: &[Ask]) -> Vec<Difference> {
    let differs = |(index, ask): (usize, &Ask)| {
        let (before, after) = (before.decide(ask), after.decide(ask));
        (before.allowed != after.allowed).then(|| Difference { index, ask: ask.clone(), before, after })
    };
    asks.iter().enumerate().filter_map(differs).collect()
}
