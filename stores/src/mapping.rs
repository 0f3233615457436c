//! Which records of a store belong to a plane: the table, the column and value that tell planes apart, and the columns by name.
//!
//! The rule: a mapping says exactly one thing. An unknown, repeated or missing word is refused with what would be right.
//! Nothing here touches the world, so nothing happens if we die in it.

use serde::{Deserialize, Serialize};

use crate::percent;

/// A plane's place in a store, as it was written at registration. Names are in the writer's spelling; `describe` answers with the store's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Mapping {
    /// The table; in PostgreSQL `schema.table`, or the table alone where only one schema has it.
    pub table: String,
    /// The column that tells planes apart; without it the plane owns the whole table.
    pub plane_column: Option<String>,
    /// The plane's value in that column.
    pub plane: Option<String>,
    /// The column whose value names a record.
    pub key: String,
    /// The column that holds the text, if there is one.
    pub text: Option<String>,
    /// The column that holds the embedding, if there is one: pgvector's `vector`, a blob of little-endian float32, or a JSON array of
    /// numbers.
    pub embedding: Option<String>,
    /// The column that holds what is known about the text, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<String>,
}

const EXAMPLE: &str = "table=chunks&plane_column=plane&plane=p1&key=id&text=body&embedding=embedding";

impl Mapping {
    /// Reads a mapping written as a URL's query, percent-encoded where a value holds `&`, `=` or `%`.
    ///
    /// # Errors
    /// A sentence that says what is wrong and what would be right.
    pub fn parse(query: &str) -> Result<Mapping, String> {
        let mut words: [(&str, Option<String>); 7] =
            ["table", "plane_column", "plane", "key", "text", "embedding", "metadata"].map(|word| (word, None));
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (word, value) =
                pair.split_once('=').ok_or_else(|| format!("mapping `{pair}`: write it as word=value, as in `{EXAMPLE}`"))?;
            let known = words.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(", ");
            let slot = words.iter_mut().find(|(name, _)| *name == word);
            let (_, slot) = slot.ok_or_else(|| format!("mapping word `{word}` is unknown; the words are {known}"))?;
            if slot.is_some() {
                return Err(format!("mapping word `{word}` stands twice; write it once"));
            }
            let value = percent::decode(value).map_err(|error| format!("mapping word `{word}`: {error}"))?;
            if value.is_empty() {
                return Err(format!("mapping word `{word}` is empty; give it a value or leave it out, as in `{EXAMPLE}`"));
            }
            if value.contains('\0') {
                return Err(format!("mapping word `{word}` holds a NUL character; no name or plane value may"));
            }
            *slot = Some(value);
        }
        let [table, plane_column, plane, key, text, embedding, metadata] = words.map(|(_, value)| value);
        let required =
            |word, value: Option<String>| value.ok_or_else(|| format!("mapping word `{word}` is missing, as in `{EXAMPLE}`"));
        if plane_column.is_some() != plane.is_some() {
            let (there, absent) = if plane.is_some() { ("plane", "plane_column") } else { ("plane_column", "plane") };
            return Err(format!(
                "mapping word `{there}` stands without `{absent}`; write both, or neither where the plane owns the whole table"
            ));
        }
        Ok(Mapping {
            table: required("table", table)?,
            plane_column,
            plane,
            key: required("key", key)?,
            text,
            embedding,
            metadata,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapping_is_read_with_its_escapes() {
        let mapping = Mapping::parse("table=my%20chunks&plane_column=plane&plane=a%26b%3Dc&key=id").unwrap();
        assert_eq!((mapping.table.as_str(), mapping.plane.as_deref()), ("my chunks", Some("a&b=c")));
        assert_eq!((mapping.text, mapping.embedding), (None, None));
        assert_eq!(Mapping::parse("table=t&key=id").unwrap().plane_column, None);
    }

    #[test]
    fn each_wrong_mapping_says_what_would_be_right() {
        for (query, said) in [
            ("", "`table` is missing"),
            ("table=t", "`key` is missing"),
            ("table=t&key=id&colour=red", "the words are table, plane_column, plane, key, text, embedding"),
            ("table=t&table=u&key=id", "`table` stands twice"),
            ("table=t&key=id&plane=p", "`plane` stands without `plane_column`"),
            ("table=t&key=id&plane_column=p", "`plane_column` stands without `plane`"),
            ("table=t&key=id&plane_column=p&plane=", "`plane` is empty"),
            ("table", "word=value"),
            ("table=t%2&key=id", "two hexadecimal digits"),
            ("table=t%00&key=id", "NUL"),
        ] {
            let error = Mapping::parse(query).unwrap_err();
            assert!(error.contains(said), "{query}: {error}");
        }
    }
}
