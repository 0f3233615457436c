//! Percent-encoding as URLs use it, for the few characters that need it.
//!
//! The rule: what is decoded is UTF-8 or refused; `+` stays a plus sign, because table and directory names may hold one.
//! Nothing here touches the world, so nothing happens if we die in it.

/// Replaces each `%XX` by its byte.
pub(crate) fn decode(text: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        if first != b'%' {
            bytes.push(first);
            rest = tail;
            continue;
        }
        let mut byte = [0];
        let digits = tail.get(..2).filter(|digits| hex::decode_to_slice(digits, &mut byte).is_ok());
        if digits.is_none() {
            return Err(format!("`{text}`: `%` must be followed by two hexadecimal digits; write `%25` for the sign itself"));
        }
        bytes.push(byte[0]);
        rest = &tail[2..];
    }
    String::from_utf8(bytes).map_err(|_| format!("`{text}`: the bytes after decoding are not UTF-8"))
}

/// Writes a text so that [`decode`] gives it back and every character of it stands for itself in any part of a URL.
pub(crate) fn encode(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

/// Writes a path so that [`decode`] gives it back and no part of it reads as a query or fragment.
pub(crate) fn encode_path(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for character in path.chars() {
        match character {
            '%' | '?' | '#' | ' ' => out.push_str(&format!("%{:02X}", character as u32)),
            character if character.is_ascii_control() => out.push_str(&format!("%{:02X}", character as u32)),
            character => out.push(character),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_survives_encoding_and_decoding() {
        for path in ["/a b/c%20d", "/ä?#/x", "/plain+path"] {
            assert_eq!(decode(&encode_path(path)).unwrap(), path);
        }
    }

    #[test]
    fn a_broken_escape_is_refused() {
        assert!(decode("a%2").is_err());
        assert!(decode("a%zz").is_err());
        assert!(decode("%ff").unwrap_err().contains("UTF-8"));
    }
}
