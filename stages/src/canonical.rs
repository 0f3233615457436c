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
    let value = serde_json::to_value(value).map_err(|error| NotCanonical(error.to_string()))?;
    let mut out = String::new();
    write(&value, &mut out)?;
    Ok(out)
}

/// SHA-256 of the canonical bytes of `value`, as `sha256:` and 64 hexadecimal digits.
pub fn digest<T: Serialize>(value: &T) -> Result<String, NotCanonical> {
    Ok(sha256(to_string(value)?.as_bytes()))
}

/// SHA-256 of `bytes`, as `sha256:` and 64 hexadecimal digits.
pub fn sha256(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

fn write(value: &Value, out: &mut String) -> Result<(), NotCanonical> {
    match value {
        Value::Object(map) => {
            // Sorted here and not by the map: a dependency may switch serde_json to insertion order for the whole build.
            let mut keys: Vec<_> = map.keys().collect();
            keys.sort();
            out.push('{');
            for (index, key) in keys.into_iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                out.push_str(&Value::String(key.clone()).to_string());
                out.push(':');
                write(&map[key], out)?;
            }
            out.push('}');
        }
        Value::Array(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write(item, out)?;
            }
            out.push(']');
        }
        Value::Number(number) if !(number.is_i64() || number.is_u64()) => {
            return Err(NotCanonical(format!("{number} is not an integer")));
        }
        other => out.push_str(&other.to_string()),
    }
    Ok(())
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
