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
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
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

    #[test]
    fn keys_are_sorted_and_white_space_is_gone() {
        let value = json!({"b": [1, null, true], "a": {"z": "é\n\"", "y": -7}});
        assert_eq!(super::to_string(&value).unwrap(), r#"{"a":{"y":-7,"z":"é\n\""},"b":[1,null,true]}"#);
    }

    #[test]
    fn a_float_is_refused() {
        assert!(super::to_string(&json!({"share": 0.5})).is_err());
    }
}
