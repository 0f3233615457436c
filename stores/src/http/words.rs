//! A server's own words, where messages and records repeat them.
//!
//! The rule: every string of a server goes through [`Words::said`] before anybody reads it or keeps it, whatever it is and says: a server
//! may send back the token that it was given, what turns a terminal's page, or more than anybody wants to keep. Nothing happens here if
//! we die.

use serde_json::{Value as Json, error::Category};

/// Characters of a server's words that are repeated.
pub(crate) const SAID_MAX: usize = 300;
/// Entries of a list of them.
const LISTED_MAX: usize = 100;

/// How the words of one server are repeated.
#[derive(Clone, Default)]
pub(crate) struct Words {
    /// What must not be repeated.
    token: Option<String>,
}

impl Words {
    pub(super) fn without(token: Option<String>) -> Self {
        Self { token: token.filter(|token| !token.is_empty()) }
    }

    /// The words without control characters and without the token, and no more than [`SAID_MAX`] characters of them.
    pub(crate) fn said(&self, words: &str) -> String {
        let words = match &self.token {
            // First, so that no part of it is left where the words are cut.
            Some(token) => words.replace(token, "…"),
            None => words.chars().take(SAID_MAX).collect(),
        };
        words.chars().map(|c| if c.is_control() { ' ' } else { c }).take(SAID_MAX).collect()
    }

    /// The same of each, and no more than [`LISTED_MAX`] of them.
    pub(crate) fn listed(&self, words: &[String]) -> Vec<String> {
        let mut listed: Vec<_> = words.iter().take(LISTED_MAX).map(|words| self.said(words)).collect();
        if words.len() > LISTED_MAX {
            listed.push(format!("and {} more", words.len() - LISTED_MAX));
        }
        listed
    }

    /// The same of every string of a document.
    pub(crate) fn document(&self, said: Json) -> Json {
        match said {
            Json::String(words) => Json::String(self.said(&words)),
            Json::Array(all) => all.into_iter().map(|one| self.document(one)).collect(),
            Json::Object(all) => all.into_iter().map(|(name, one)| (self.said(&name), self.document(one))).collect(),
            other => other,
        }
    }
}

/// What is wrong with an answer that was to be JSON, and where; serde's own message repeats what stands there.
pub(crate) fn unreadable(error: &serde_json::Error) -> String {
    let what = match error.classify() {
        Category::Io | Category::Eof => "it ends too early",
        Category::Syntax => "it is no JSON",
        Category::Data => "a value is missing or not of its kind",
    };
    match (error.line(), error.column()) {
        (0, _) => what.to_owned(),
        (line, column) => format!("{what}, at line {line}, column {column}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_word_of_a_server_carries_the_token_or_a_control_character_or_is_long() {
        let words = Words::without(Some("hunter2".into()));
        assert_eq!(words.said("\u{1b}[31mBearer hunter2\n!"), " [31mBearer … !");
        let long = words.said(&format!("{}hunter2{}", "x".repeat(SAID_MAX - 3), "y".repeat(5 << 20)));
        assert_eq!((long.chars().count(), long.contains("hun")), (SAID_MAX, false));
        let listed = words.listed(&vec!["hunter2".into(); 3000]);
        assert_eq!((listed.len(), listed[0].as_str(), listed[100].as_str()), (101, "…", "and 2900 more"));
        let document = words.document(serde_json::json!({"a hunter2": [1, null, {"b": "\u{7}hunter2"}]}));
        assert_eq!(document, serde_json::json!({"a …": [1, null, {"b": " …"}]}));
        assert_eq!(Words::default().said("as it is"), "as it is");
    }

    #[test]
    fn what_cannot_be_read_is_not_repeated() {
        for (text, said) in [
            (r#""marker-7""#, "a value is missing or not of its kind, at line 1, column 10"),
            ("marker-7", "it is no JSON, at line 1, column 1"),
            ("", "it ends too early, at line 1, column 0"),
        ] {
            assert_eq!(unreadable(&serde_json::from_str::<u64>(text).unwrap_err()), said);
        }
        let error = serde_json::from_value::<u64>(serde_json::json!("marker-7")).unwrap_err();
        assert_eq!(unreadable(&error), "a value is missing or not of its kind");
    }
}
