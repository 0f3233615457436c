//! Canonical JSON, the one byte form that is hashed: object keys sorted by code point, no white space, integers only.
//!
//! The rule: the same value gives the same bytes in every version and on every machine. A golden test holds the form still.
//! It is RFC 8785 for the values we write; numbers that are not integers are refused, so that no float formatting is involved.

use serde::Serialize;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

/// A value that has no canonical form: a number that is not an integer, or a type that JSON cannot hold.
#[derive(Debug, thiserror::Error)]
#[error("write canonical JSON: {0}")]
pub struct NotCanonical(String);

/// The canonical bytes of `value`, as UTF-8 text.
pub fn to_string<T: Serialize>(value: &T) -> Result<String, NotCanonical> {
    text(&serde_json::to_value(value).map_err(|error| NotCanonical(error.to_string()))?)
}

/// The canonical text of what is JSON already.
pub fn text(value: &Value) -> Result<String, NotCanonical> {
    let mut out = Vec::with_capacity(256);
    write(value, &mut out)?;
    String::from_utf8(out).map_err(|error| NotCanonical(error.to_string()))
}

/// SHA-256 of the canonical bytes of `value`, as `sha256:` and 64 hexadecimal digits.
pub fn digest<T: Serialize>(value: &T) -> Result<String, NotCanonical> {
    Ok(sha256(to_string(value)?.as_bytes()))
}

/// SHA-256 of `bytes`, as `sha256:` and 64 hexadecimal digits.
pub fn sha256(bytes: &[u8]) -> String {
    let mut text = *b"sha256:0000000000000000000000000000000000000000000000000000000000000000";
    hex::encode_to_slice(Sha256::digest(bytes), &mut text[7..]).expect("two digits for each byte");
    String::from_utf8_lossy(&text).into_owned()
}

/// Whether a text is a digest as [`sha256`] writes them.
pub fn is_sha256(text: &str) -> bool {
    let hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    text.strip_prefix("sha256:").is_some_and(|digest| digest.len() == 64 && digest.bytes().all(hex))
}

/// A canonical object that is written member by member, in the order of their keys.
pub struct Object {
    out: Vec<u8>,
    last: &'static str,
}

impl Object {
    /// An object without members.
    pub fn new() -> Self {
        Self { out: Vec::with_capacity(1024), last: "" }
    }

    /// Adds a text, an integer, a truth value or null.
    ///
    /// # Panics
    /// Where `key` does not come after the key before it: that is a mistake in the program, found by its first call.
    pub fn member<T: Serialize + ?Sized>(self, key: &'static str, value: &T) -> Result<Self, NotCanonical> {
        let mut object = self.key(key)?;
        plain(value, &mut object.out)?;
        Ok(object)
    }

    /// Adds what is canonical text already.
    ///
    /// # Panics
    /// As [`Self::member`].
    pub fn text(self, key: &'static str, canonical: &str) -> Result<Self, NotCanonical> {
        let mut object = self.key(key)?;
        object.out.extend_from_slice(canonical.as_bytes());
        Ok(object)
    }

    /// The object's text.
    pub fn finish(mut self) -> Result<String, NotCanonical> {
        self.out.extend_from_slice(if self.last.is_empty() { b"{}" } else { b"}" });
        String::from_utf8(self.out).map_err(|error| NotCanonical(error.to_string()))
    }

    fn key(mut self, key: &'static str) -> Result<Self, NotCanonical> {
        assert!(self.last < key, "canonical keys ascend: `{key}` comes before `{}`", self.last);
        self.out.push(if self.last.is_empty() { b'{' } else { b',' });
        plain(key, &mut self.out)?;
        self.out.push(b':');
        self.last = key;
        Ok(self)
    }
}

impl Default for Object {
    fn default() -> Self {
        Self::new()
    }
}

fn write(value: &Value, out: &mut Vec<u8>) -> Result<(), NotCanonical> {
    match value {
        Value::Object(map) => {
            // Sorted here and not by the map: a dependency may switch serde_json to insertion order for the whole build.
            let mut members: Vec<_> = map.iter().collect();
            members.sort_by_key(|(key, _)| *key);
            out.push(b'{');
            for (index, (key, value)) in members.into_iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                plain(key, out)?;
                out.push(b':');
                write(value, out)?;
            }
            out.push(b'}');
        }
        Value::Array(items) => {
            out.push(b'[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                write(item, out)?;
            }
            out.push(b']');
        }
        Value::Number(number) if !(number.is_i64() || number.is_u64()) => {
            return Err(NotCanonical(format!("{number} is not an integer")));
        }
        other => plain(other, out)?,
    }
    Ok(())
}

/// Writes what has one form only.
fn plain<T: Serialize + ?Sized>(value: &T, out: &mut Vec<u8>) -> Result<(), NotCanonical> {
    serde_json::to_writer(out, value).map_err(|error| NotCanonical(error.to_string()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{Object, text};

    #[test]
    fn keys_are_sorted_and_white_space_is_gone() {
        let value = json!({"b": [1, null, true], "a": {"z": "é\n\"", "y": -7}});
        assert_eq!(super::to_string(&value).unwrap(), r#"{"a":{"y":-7,"z":"é\n\""},"b":[1,null,true]}"#);
    }

    #[test]
    fn a_float_is_refused() {
        assert!(super::to_string(&json!({"share": 0.5})).is_err());
    }

    #[test]
    fn an_object_written_member_by_member_is_the_object() {
        let evidence = json!({"b": [1, null], "a": "é\"\n"});
        let written = Object::new().member("at", "now").unwrap().text("evidence", &text(&evidence).unwrap()).unwrap();
        let written = written.member("step", &None::<u8>).unwrap().finish().unwrap();
        assert_eq!(written, text(&json!({"step": null, "at": "now", "evidence": evidence})).unwrap());
        assert_eq!(Object::new().finish().unwrap(), "{}");
    }

    #[test]
    #[should_panic(expected = "`at` comes before `step`")]
    fn its_keys_ascend() {
        let _ = Object::new().member("step", &1).and_then(|object| object.member("at", &2));
    }
}
