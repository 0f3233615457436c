//! Canonical JSON: object keys sorted by code point, no white space, integers only (RFC 8785 for the values that occur).
//!
//! The rule: what is signed or hashed is read only if it is its own canonical form, so that no two programs read two things in it
//! (a key that stands twice, a number that rounds). It only computes.

use serde_json::Value;

use crate::merkle::Hash;

/// The canonical text of a value; `None` where it holds a number that is no integer.
pub fn text(value: &Value) -> Option<String> {
    let mut out = String::new();
    write(value, &mut out)?;
    Some(out)
}

/// Reads a text that must be canonical; `None` where it is not.
pub fn read(text: &str) -> Option<Value> {
    let value: Value = serde_json::from_str(text).ok()?;
    (self::text(&value)? == text).then_some(value)
}

/// SHA-256 of a text, as `sha256:…`.
pub fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest;
    let hash: Hash = sha2::Sha256::digest(bytes).into();
    crate::leaf::written(&hash)
}

fn write(value: &Value, out: &mut String) -> Option<()> {
    match value {
        Value::Object(members) => {
            let mut members: Vec<_> = members.iter().collect();
            members.sort_by_key(|(key, _)| *key);
            out.push('{');
            for (index, (key, value)) in members.into_iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                out.push_str(&serde_json::to_string(key).ok()?);
                out.push(':');
                write(value, out)?;
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
        Value::Number(number) if !number.is_i64() && !number.is_u64() => return None,
        plain => out.push_str(&serde_json::to_string(plain).ok()?),
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_canonical_is_read() {
        let value = read(r#"{"a":[1,-2,null,true],"b":{"é":"\n\u001f\""}}"#).unwrap();
        assert_eq!(value["a"][1], -2);
        for other in
            [r#"{"b":1,"a":2}"#, r#"{"a":1,"a":1}"#, r#"{"a": 1}"#, "[1.0]", "[1e3]", "[-0]", "[18446744073709551616]", "", "{"]
        {
            assert!(read(other).is_none(), "{other}");
        }
    }
}
