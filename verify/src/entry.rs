//! An entry of the trail as a bundle or a certificate carries it: what was hashed, to the byte, with where it stands in the log.
//!
//! The rule: everything that is said of an entry beside its body is compared with the body, and the body with its hash. A value that was
//! committed to is shown with its salt and compared with the commitment; one that was destroyed is not there, and no hash breaks.
//! It only computes.

use std::collections::BTreeMap;

use base64::{Engine, prelude::BASE64_STANDARD};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{MapAccess, Visitor},
};
use serde_json::Value as Json;
use sha2::{Digest, Sha256};

use crate::{
    canonical,
    leaf::{Leaf, entry_hash, written},
    merkle::{Hash, check_inclusion, leaf_hash},
    note::Checkpoint,
};

/// What does not hold, and where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("{at}: {why}")]
pub struct Fault {
    /// Which part: an entry, the checkpoint, a file.
    pub at: String,
    /// What is wrong with it.
    pub why: String,
}

impl Fault {
    /// What is wrong, and where.
    pub fn new(at: impl Into<String>, why: impl ToString) -> Self {
        Self { at: at.into(), why: why.to_string() }
    }
}

/// A value that was committed to, with its salt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Disclosed {
    /// The value.
    pub value: String,
    /// In lower-case hexadecimal digits.
    pub salt: String,
}

/// A map in which no name stands twice: readers differ in which of the two they take.
pub(crate) fn each_once<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<String, Disclosed>, D::Error> {
    struct Names;
    impl<'de> Visitor<'de> for Names {
        type Value = BTreeMap<String, Disclosed>;
        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("values by name, each once")
        }
        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut read = BTreeMap::new();
            while let Some((name, value)) = map.next_entry::<String, Disclosed>()? {
                if read.insert(name.clone(), value).is_some() {
                    return Err(serde::de::Error::custom(format!("`{name}` stands twice")));
                }
            }
            Ok(read)
        }
    }
    from.deserialize_map(Names)
}

fn each_once_if_any<'de, D: Deserializer<'de>>(from: D) -> Result<Option<BTreeMap<String, Disclosed>>, D::Error> {
    each_once(from).map(Some)
}

/// Bytes of a salt.
const SALT: usize = 16;

impl Disclosed {
    /// Compares it with what stands at a place of a document: `{"commitment": "sha256:…"}`.
    pub fn check(&self, committed: &Json) -> Result<(), String> {
        // Of one length: a longer one would have taken the beginning of the value along.
        let salt = hex::decode(&self.salt).ok().filter(|salt| salt.len() == SALT && hex::encode(salt) == self.salt);
        let salt = salt.ok_or("its salt is not 16 bytes in hexadecimal digits")?;
        let commitment = committed["commitment"].as_str().ok_or("there is no commitment")?;
        let mut hash = Sha256::new();
        hash.update(&salt);
        hash.update(self.value.as_bytes());
        let found = written(&hash.finalize().into());
        if found == commitment { Ok(()) } else { Err("the value is not the one that is committed to".into()) }
    }
}

/// An entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Its leaf's number in the log.
    pub leaf_index: u64,
    /// Its chain: `plane:ID`, `tenant:ID`, `system`.
    pub chain: String,
    /// Its number in its chain, from 0.
    pub sequence_no: u64,
    /// The tenant's id, or `__system__`.
    pub tenant_id: String,
    /// The hash before it.
    pub previous: String,
    /// Its hash.
    pub hash: String,
    /// What was hashed, to the byte.
    pub body: String,
    /// That its leaf is in the tree: hashes in base64, the nearest first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proof: Option<Vec<String>>,
    /// Personal values that it is committed to, by field, as far as they still exist.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "each_once_if_any")]
    pub values: Option<BTreeMap<String, Disclosed>>,
}

/// Hashes out of base64.
pub(crate) fn hashes(texts: &[String]) -> Option<Vec<Hash>> {
    texts.iter().map(|text| BASE64_STANDARD.decode(text).ok()?.try_into().ok()).collect()
}

impl Entry {
    /// How it is named where something is wrong with it.
    pub fn name(&self) -> String {
        format!("leaf {} ({}, entry {})", self.leaf_index, self.chain, self.sequence_no)
    }

    /// Its leaf.
    pub fn leaf(&self) -> Result<Leaf, Fault> {
        Leaf::of(&self.chain, self.sequence_no, &self.hash, &self.tenant_id)
            .ok_or_else(|| Fault::new(self.name(), "its hash is no digest"))
    }

    /// Checks everything that it says of itself, and answers its body.
    pub fn verified(&self) -> Result<Json, Fault> {
        let fail = |why: &str| Err(Fault::new(self.name(), why));
        if entry_hash(&self.previous, &self.body) != self.hash {
            return fail("its hash does not fit its body");
        }
        let Some(body) = canonical::read(&self.body) else { return fail("its body is not canonical JSON") };
        if body["chain"] != self.chain.as_str() {
            return fail("its chain is not the one in its body");
        }
        if body["sequence_no"] != self.sequence_no {
            return fail("its number is not the one in its body");
        }
        if body["tenant_id"] != self.tenant_id.as_str() {
            return fail("its tenant is not the one in its body");
        }
        let evidence = canonical::text(&body["evidence"]).map(|text| canonical::sha256(text.as_bytes()));
        if body["evidence_digest"].as_str() != evidence.as_deref() {
            return fail("its evidence does not fit its digest");
        }
        for (field, value) in self.values.iter().flatten() {
            value.check(&body[field.as_str()]).map_err(|why| Fault::new(self.name(), format!("{field}: {why}")))?;
        }
        Ok(body)
    }

    /// Checks its proof, if it has one: its leaf is in the tree. Answers whether it has.
    pub fn included(&self, checkpoint: &Checkpoint) -> Result<bool, Fault> {
        let Some(proof) = &self.proof else { return Ok(false) };
        let Some(proof) = hashes(proof) else { return Err(Fault::new(self.name(), "its proof is no list of hashes in base64")) };
        let leaf = leaf_hash(&self.leaf()?.bytes());
        check_inclusion(self.leaf_index, checkpoint.size, &leaf, &proof, &checkpoint.root)
            .map_err(|why| Fault::new(self.name(), why))?;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_value_cannot_lend_its_beginning_to_the_salt_and_no_name_stands_twice() {
        let (salt, value) = ([7; SALT], "not approved by legal");
        let commitment = written(&Sha256::digest([salt.as_slice(), value.as_bytes()].concat()).into());
        let committed = json!({"commitment": commitment});
        let disclosed = |salt: &[u8], value: &str| Disclosed { value: value.into(), salt: hex::encode(salt) };
        disclosed(&salt, value).check(&committed).unwrap();
        let longer = [salt.as_slice(), b"not "].concat();
        let said = disclosed(&longer, "approved by legal").check(&committed).unwrap_err();
        assert!(said.contains("16 bytes"), "{said}");
        #[derive(Deserialize)]
        struct Holds {
            #[serde(deserialize_with = "each_once")]
            values: BTreeMap<String, Disclosed>,
        }
        let read = |text: &str| serde_json::from_str::<Holds>(text).map(|holds| holds.values.len());
        assert_eq!(read(r#"{"values":{"a":{"value":"x","salt":""},"b":{"value":"x","salt":""}}}"#).unwrap(), 2);
        let twice = read(r#"{"values":{"a":{"value":"x","salt":""},"a":{"value":"y","salt":""}}}"#);
        assert!(twice.unwrap_err().to_string().contains("stands twice"));
    }
}
