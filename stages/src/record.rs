//! A record of a plane as it travels from a store to an archive and back: the values as the store holds them, and their digest.
//!
//! The rule: nothing is converted on the way that cannot be converted back. The digest is taken over the store's own values, so a
//! record that was changed in any column, in any way, is a different record.

use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// A value as a store holds it, by storage class.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// No value.
    Null,
    /// A 64-bit integer.
    Integer(i64),
    /// A 64-bit float; compared and digested by its bits.
    Real(f64),
    /// UTF-8 text.
    Text(String),
    /// Bytes.
    Blob(Vec<u8>),
}

impl Value {
    /// How many bytes of memory the value's content takes, roughly.
    pub fn size(&self) -> usize {
        match self {
            Value::Null => 1,
            Value::Integer(_) | Value::Real(_) => 8,
            Value::Text(text) => text.len(),
            Value::Blob(bytes) => bytes.len(),
        }
    }

    fn feed(&self, sink: &mut impl FnMut(&[u8])) {
        let (tag, bytes): (u8, &[u8]) = match self {
            Value::Null => (0, &[]),
            Value::Integer(number) => return feed(sink, 1, &number.to_be_bytes()),
            Value::Real(number) => return feed(sink, 2, &number.to_bits().to_be_bytes()),
            Value::Text(text) => (3, text.as_bytes()),
            Value::Blob(bytes) => (4, bytes),
        };
        feed(sink, tag, bytes);
    }
}

fn feed(sink: &mut impl FnMut(&[u8]), tag: u8, bytes: &[u8]) {
    sink(&[tag]);
    sink(&(bytes.len() as u64).to_be_bytes());
    sink(bytes);
}

/// A record's key: unique within the bound table, never null. Ordered as stores order: integers, then text, then blobs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Key {
    /// An integer key.
    Integer(i64),
    /// A text key.
    Text(String),
    /// A binary key; hexadecimal in JSON.
    Blob(#[serde(with = "hex_bytes")] Vec<u8>),
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Key::Integer(number) => write!(f, "{number}"),
            Key::Text(text) => write!(f, "{text:?}"),
            Key::Blob(bytes) => write!(f, "x'{}'", hex::encode(bytes)),
        }
    }
}

mod hex_bytes {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};
    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex::encode(bytes))
    }
    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        hex::decode(String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

/// How a column's values look, found by asking the store, and so how they are typed in the archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ColumnKind {
    /// Integers only (and nulls).
    Integer,
    /// Floats only (and nulls).
    Real,
    /// Text only (and nulls).
    Text,
    /// Bytes only (and nulls).
    Blob,
    /// Values of several classes: archived as a struct of one field per class.
    Mixed,
    /// Bytes that are little-endian float32 values: archived as a list of float.
    VectorBlob,
    /// JSON arrays of numbers: archived as a list of float, beside the text as it was.
    VectorJson,
}

/// A column of a bound table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    /// The store's name for it.
    pub name: String,
    /// How its values look.
    pub kind: ColumnKind,
}

/// One record: its key, and every column's value in the order of the columns the store declared.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// The key; it also stands among the values.
    pub key: Key,
    /// All columns' values.
    pub values: Vec<Value>,
}

/// SHA-256 over a record's values; with a salt, HMAC-SHA-256, which says nothing to who does not hold the salt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RecordDigest(pub [u8; 32]);

/// The secret under which an inventory's digests are taken; destroyed with the plane, after which they are noise.
#[derive(Clone, PartialEq, Eq)]
pub struct Salt(pub [u8; 32]);

impl Salt {
    /// The secret under which a purged plane's samples are digested. It follows from this one, and nothing leads back: it is kept beside
    /// the samples until the last probe, when this one is long destroyed.
    pub fn for_probes(&self) -> Salt {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes a key of any length");
        mac.update(b"lethe probes");
        Salt(mac.finalize().into_bytes().into())
    }
}

impl std::fmt::Debug for Salt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Salt(…)")
    }
}

/// A record known from before a purge, without its content: its key, and a salted digest of all its values as they were.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Known {
    /// The key.
    pub key: Key,
    /// HMAC-SHA-256 of the record under [`Salt::for_probes`].
    #[serde(with = "hex_digest")]
    pub digest: RecordDigest,
    /// Its embedding, where the configuration keeps that too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vector: Option<KnownVector>,
}

/// An embedding as its store holds it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KnownVector {
    /// Little-endian float32 values; hexadecimal in JSON.
    Blob(#[serde(with = "hex_bytes")] Vec<u8>),
    /// A JSON array of numbers.
    Text(String),
}

impl KnownVector {
    /// The embedding of a value; `None` where it is none.
    pub fn of(value: &Value) -> Option<Self> {
        match value {
            Value::Blob(bytes) => Some(Self::Blob(bytes.clone())),
            Value::Text(text) => Some(Self::Text(text.clone())),
            _ => None,
        }
    }

    /// The value that it was.
    pub fn value(&self) -> Value {
        match self {
            Self::Blob(bytes) => Value::Blob(bytes.clone()),
            Self::Text(text) => Value::Text(text.clone()),
        }
    }
}

mod hex_digest {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use super::RecordDigest;
    pub(super) fn serialize<S: Serializer>(digest: &RecordDigest, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex::encode(digest.0))
    }
    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<RecordDigest, D::Error> {
        let mut digest = [0; 32];
        hex::decode_to_slice(String::deserialize(deserializer)?, &mut digest).map_err(D::Error::custom)?;
        Ok(RecordDigest(digest))
    }
}

impl Record {
    /// The record's digest: tag, length and bytes of each value in order.
    pub fn digest(&self, salt: Option<&Salt>) -> RecordDigest {
        match salt {
            None => {
                let mut hash = Sha256::new();
                self.values.iter().for_each(|value| value.feed(&mut |bytes| hash.update(bytes)));
                RecordDigest(hash.finalize().into())
            }
            Some(salt) => {
                let mut mac = Hmac::<Sha256>::new_from_slice(&salt.0).expect("HMAC takes a key of any length");
                self.values.iter().for_each(|value| value.feed(&mut |bytes| mac.update(bytes)));
                RecordDigest(mac.finalize().into_bytes().into())
            }
        }
    }

    /// Bytes of memory the record takes, roughly.
    pub fn size(&self) -> usize {
        64 + self.values.iter().map(|value| value.size() + 16).sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(values: Vec<Value>) -> Record {
        Record { key: Key::Integer(1), values }
    }

    #[test]
    fn neighbouring_values_do_not_run_into_one_another() {
        let left = record(vec![Value::Text("ab".into()), Value::Text("c".into())]);
        let right = record(vec![Value::Text("a".into()), Value::Text("bc".into())]);
        assert_ne!(left.digest(None), right.digest(None));
        assert_ne!(record(vec![Value::Text("1".into())]).digest(None), record(vec![Value::Integer(1)]).digest(None));
    }

    #[test]
    fn what_is_known_of_a_record_travels_through_json() {
        let one = record(vec![Value::Integer(1), Value::Blob(vec![0, 0, 128, 63])]);
        let salt = Salt([3; 32]);
        assert_ne!(salt.for_probes(), salt);
        let digest = one.digest(Some(&salt.for_probes()));
        let known = Known { key: one.key.clone(), digest, vector: KnownVector::of(&one.values[1]) };
        let text = serde_json::to_string(&known).unwrap();
        assert!(!text.contains("null") && text.contains("0000803f"), "{text}");
        assert_eq!(serde_json::from_str::<Known>(&text).unwrap(), known);
        assert_eq!(known.vector.unwrap().value(), one.values[1]);
    }

    #[test]
    fn a_salt_changes_the_digest() {
        let one = record(vec![Value::Integer(7)]);
        assert_ne!(one.digest(None), one.digest(Some(&Salt([1; 32]))));
        assert_ne!(one.digest(Some(&Salt([2; 32]))), one.digest(Some(&Salt([1; 32]))));
    }
}
