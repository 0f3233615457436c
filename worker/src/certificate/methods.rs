//! How each place of a plane was destroyed, and how strong that is.
//!
//! The rule: a category of NIST SP 800-88 is claimed only where the evidence says what it takes: overwritten (Clear), or encrypted from its
//! first byte on under a key that is destroyed (Purge). What was removed by a store's own means is below Clear, and said to be. It only
//! computes.

use serde_json::{Value as Json, json};

/// How something was destroyed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Method {
    /// Two persons say that it is gone.
    Attested,
    /// Removed record by record, or object by object.
    Deleted,
    /// Removed as a whole: a partition, a table, a collection.
    Dropped,
    /// Every copy of it became unreadable.
    KeyDestroyed,
}

impl Method {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Method::Attested => "attested",
            Method::Deleted => "deleted",
            Method::Dropped => "dropped",
            Method::KeyDestroyed => "key_destroyed",
        }
    }
}

/// A category of NIST SP 800-88, the weakest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Category {
    /// Nothing was verified.
    Unverified,
    /// Removed; its bytes may stay until they are used again.
    BelowClear,
    /// Overwritten.
    Clear,
    /// Infeasible to recover: cryptographic erase.
    Purge,
}

impl Category {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Category::Unverified => "none: nothing was verified",
            Category::BelowClear => "below Clear",
            Category::Clear => "Clear",
            Category::Purge => "Purge",
        }
    }
}

/// A place and how it was destroyed.
#[derive(Debug, Clone)]
pub(super) struct Destroyed {
    pub(super) what: String,
    pub(super) method: Method,
    pub(super) category: Category,
}

impl Destroyed {
    pub(super) fn to_json(&self) -> Json {
        json!({"what": self.what, "method": self.method.as_str(), "nist_sp_800_88": self.category.as_str()})
    }
}

/// How a store was emptied, by what its driver said after it had scrubbed it.
pub(super) fn of_store(what: String, scrub: &Json) -> Destroyed {
    let is = |field: &str| !matches!(scrub[field], Json::Null | Json::Bool(false));
    let dropped = is("partition_dropped") || is("truncated") || scrub["collection"] == "dropped";
    let category = if scrub["secure_delete"] == true { Category::Clear } else { Category::BelowClear };
    Destroyed { what, method: if dropped { Method::Dropped } else { Method::Deleted }, category }
}

/// The weakest first.
pub(super) fn sorted(mut destroyed: Vec<Destroyed>) -> Vec<Destroyed> {
    destroyed.sort_by(|a, b| (a.category, a.method, &a.what).cmp(&(b.category, b.method, &b.what)));
    destroyed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_weakest_comes_first_and_nothing_is_claimed_without_evidence() {
        let of = |scrub: Json| of_store("s".into(), &scrub);
        assert_eq!((of(json!({})).method, of(json!({})).category), (Method::Deleted, Category::BelowClear));
        assert_eq!(of(json!({"secure_delete": true, "vacuum": true})).category, Category::Clear);
        let dropped = of(json!({"partition_dropped": "chunks_p1", "truncated": false, "vacuum": false}));
        assert_eq!((dropped.method, dropped.category), (Method::Dropped, Category::BelowClear));
        assert_eq!(of(json!({"partition_dropped": null, "truncated": false})).method, Method::Deleted);
        let key = Destroyed { what: "archive".into(), method: Method::KeyDestroyed, category: Category::Purge };
        let gone = Destroyed { what: "z".into(), method: Method::Attested, category: Category::Unverified };
        let order: Vec<&str> =
            sorted(vec![key, of(json!({"secure_delete": true})), gone, dropped]).iter().map(|one| one.method.as_str()).collect();
        assert_eq!(order, ["attested", "dropped", "deleted", "key_destroyed"]);
    }
}
