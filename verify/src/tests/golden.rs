//! Golden proofs in `tests/golden/proof/`: documents of an earlier version, which every later version must verify.
//!
//! They are never rewritten. Whoever needs another one adds it beside them, under the name of the version that made it.

use std::path::PathBuf;

use super::documents::{holds, no_change_verifies};
use crate::{note::PublicKey, proof::Consistency};

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/proof")
}

fn read(name: &str) -> String {
    std::fs::read_to_string(folder().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn keys() -> Vec<PublicKey> {
    read("log.pub").lines().map(|line| line.parse().unwrap()).collect()
}

#[test]
fn what_earlier_versions_proved_is_verified() {
    for name in ["certificate-v1.json", "bundle-v1.json"] {
        let text = read(name);
        holds(&text, &keys()).unwrap();
        let document = serde_json::from_str(&text).unwrap();
        assert!(no_change_verifies(&document, &keys(), 37) > 100, "{name}");
    }
    let proof = Consistency::read(&read("consistency-v1.json")).unwrap();
    let (old, new) = (read("checkpoint-v1.old"), read("checkpoint-v1.new"));
    proof.verify(&old, &new, &keys()).unwrap();
    assert!(proof.verify(&new, &new, &keys()).is_err() && proof.verify(&old, &old, &keys()).is_err());
}
