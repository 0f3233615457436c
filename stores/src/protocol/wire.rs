//! How records travel in the store protocol: one JSON line each, between a head that names the columns and an end that counts.
//!
//! The rule: a value that is not of its column's kind, and an answer without its end, are errors, never nulls or fewer records.
//! Nothing here touches the world, so nothing happens if we die in it.

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::STANDARD};
use lethe_stages::{
    ports::PortError,
    record::{Column, ColumnKind, Key, Record, Value},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json, json};

use crate::http::{Lines, Words, unreadable};

/// How a column's values are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    /// A JSON integer of 64 bits with its sign, or the same as a string, for languages whose numbers hold fewer.
    Integer,
    /// A JSON number.
    Real,
    /// A JSON string.
    Text,
    /// A JSON string in base64.
    Bytes,
    /// A JSON array of numbers, each a float32.
    Vector,
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Kind::Integer => "integer",
            Kind::Real => "real",
            Kind::Text => "text",
            Kind::Bytes => "bytes",
            Kind::Vector => "vector",
        }
    }
}

/// A column, as the server names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct NamedColumn {
    pub(super) name: String,
    pub(super) kind: Kind,
}

/// The columns as the archive has them, after making sure that the key is one of them.
pub(super) fn columns(named: &[NamedColumn], key: &str, words: &Words, doing: &str) -> Result<Vec<Column>, PortError> {
    let keys = named.iter().filter(|column| column.name == key).count();
    let distinct = named.iter().map(|column| &column.name).collect::<std::collections::BTreeSet<_>>().len();
    if keys != 1 || distinct != named.len() {
        let names: Vec<_> = named.iter().map(|column| column.name.as_str()).collect();
        return Err(PortError::Permanent(format!(
            "{doing}: its columns are {}; each is named once, and key column `{key}` is one",
            words.said(&names.join(", "))
        )));
    }
    let kind = |kind| match kind {
        Kind::Integer => ColumnKind::Integer,
        Kind::Real => ColumnKind::Real,
        Kind::Text => ColumnKind::Text,
        Kind::Bytes => ColumnKind::Blob,
        Kind::Vector => ColumnKind::VectorBlob,
    };
    Ok(named.iter().map(|column| Column { name: column.name.clone(), kind: kind(column.kind) }).collect())
}

/// An integer as a number, a text as a string, bytes as `{"bytes": base64}`.
pub(super) fn key_to_json(key: &Key) -> Json {
    match key {
        Key::Integer(number) => json!(number),
        Key::Text(text) => json!(text),
        Key::Blob(bytes) => json!({"bytes": STANDARD.encode(bytes)}),
    }
}

/// A key, in the forms that its column's kind has.
fn key_of(kind: Kind, json: &Json) -> Option<Key> {
    match (kind, json) {
        (Kind::Integer, Json::Number(number)) => number.as_i64().map(Key::Integer),
        (Kind::Integer, Json::String(text)) => text.parse().ok().map(Key::Integer),
        (Kind::Text, Json::String(text)) => Some(Key::Text(text.clone())),
        (Kind::Bytes, Json::Object(object)) => STANDARD.decode(object.get("bytes")?.as_str()?).ok().map(Key::Blob),
        _ => None,
    }
}

/// The numbers of a blob of float32; `None` where it is none.
pub(super) fn vector_to_json(value: &Value) -> Option<Json> {
    let Value::Blob(bytes) = value else { return None };
    let (fours, []) = bytes.as_chunks::<4>() else { return None };
    let numbers: Vec<_> = fours.iter().map(|four| f32::from_le_bytes(*four)).collect();
    numbers.iter().all(|number| number.is_finite()).then(|| json!(numbers))
}

fn value_of(kind: Kind, json: &Json) -> Option<Value> {
    match (kind, json) {
        (_, Json::Null) => Some(Value::Null),
        (Kind::Integer, Json::Number(number)) => number.as_i64().map(Value::Integer),
        (Kind::Integer, Json::String(text)) => text.parse().ok().map(Value::Integer),
        (Kind::Real, Json::Number(number)) => number.as_f64().map(Value::Real),
        (Kind::Text, Json::String(text)) => Some(Value::Text(text.clone())),
        (Kind::Bytes, Json::String(text)) => STANDARD.decode(text).ok().map(Value::Blob),
        (Kind::Vector, Json::Array(numbers)) => {
            let each = |number: &Json| {
                number.as_f64().map(|number| (number as f32).to_le_bytes()).filter(|bytes| f32::from_le_bytes(*bytes).is_finite())
            };
            let bytes: Option<Vec<[u8; 4]>> = numbers.iter().map(each).collect();
            bytes.map(|bytes| Value::Blob(bytes.concat()))
        }
        _ => None,
    }
}

/// Most bytes of a record's version: a counter, a time or a digest. Those of a whole batch are in memory at once.
const VERSION_MAX: usize = 1024;

/// Records as they come in, each with its version.
pub(super) struct Records {
    lines: Lines,
    columns: Vec<NamedColumn>,
    key: usize,
    count: u64,
    ended: bool,
    /// How often a record of a key may still come, where records were asked for by their keys.
    may_come: Option<BTreeMap<Key, u32>>,
    doing: String,
}

#[derive(Deserialize)]
struct Head {
    columns: Vec<NamedColumn>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Line {
    Record { key: Json, version: Json, values: Vec<Json> },
    End { end: bool, records: u64 },
    Error { error: String },
}

impl Records {
    /// Reads the head. It must name the columns as the server described them: values are decoded by the one and archived under the
    /// names of the other.
    pub(super) async fn of(mut lines: Lines, doing: &str, key: &str, described: Vec<NamedColumn>) -> Result<Self, PortError> {
        let head = lines.next().await?.ok_or_else(|| cut_off(doing))?;
        let head: Head = serde_json::from_value(head).map_err(|error| {
            PortError::Permanent(format!("{doing}: the first line does not name the columns: {}", unreadable(&error)))
        })?;
        if let Some(difference) = difference(&head.columns, &described) {
            return Err(PortError::Permanent(format!("{doing}: {}", lines.words.said(&difference))));
        }
        let key = described.iter().position(|column| column.name == key).unwrap_or_default();
        Ok(Self { lines, columns: described, key, count: 0, ended: false, may_come: None, doing: doing.to_owned() })
    }

    /// The same, where only records of these keys may come, and each so often.
    pub(super) fn of_these(self, may_come: BTreeMap<Key, u32>) -> Self {
        Self { may_come: Some(may_come), ..self }
    }

    /// The next record; `None` after the end, which must be there and count what came.
    pub(super) async fn next(&mut self) -> Result<Option<(Record, Json)>, PortError> {
        if self.ended {
            return Ok(None);
        }
        let line = self.lines.next().await?.ok_or_else(|| cut_off(&self.doing))?;
        let wrong = |why: String| PortError::Permanent(format!("{}: {}", self.doing, self.lines.words.said(&why)));
        match serde_json::from_value(line).map_err(|_| wrong("a line is neither a record nor the end".into()))? {
            Line::Record { key, version, values } => {
                let record = self.record(&key, &values).map_err(wrong)?;
                if version.to_string().len() > VERSION_MAX {
                    return Err(wrong(format!("the version of key {} has more than {VERSION_MAX} bytes", record.key)));
                }
                match self.may_come.as_mut().map(|keys| keys.get_mut(&record.key)) {
                    Some(None) => return Err(wrong(format!("the record of key {} comes, and was not asked for", record.key))),
                    Some(Some(0)) => return Err(wrong(format!("the record of key {} comes more often than it may", record.key))),
                    Some(Some(left)) => *left -= 1,
                    None => {}
                }
                self.count += 1;
                Ok(Some((record, version)))
            }
            Line::End { end: true, records } if records == self.count => {
                self.ended = true;
                Ok(None)
            }
            Line::End { records, .. } => Err(wrong(format!("the end counts {records} record(s), and {} came", self.count))),
            Line::Error { error } => {
                Err(PortError::Transient(format!("{}: the server broke off: {}", self.doing, self.lines.words.said(&error))))
            }
        }
    }

    fn record(&self, key: &Json, values: &[Json]) -> Result<Record, String> {
        if values.len() != self.columns.len() {
            return Err(format!("the record of key {key} has {} value(s) for {} column(s)", values.len(), self.columns.len()));
        }
        let key = key_of(self.columns[self.key].kind, key).ok_or_else(|| {
            let kind = self.columns[self.key].kind.as_str();
            format!("the key of a record is no key of its column's kind, {kind}; an integer, a string, or {{\"bytes\": base64}}: {key}")
        })?;
        let mut read = Vec::with_capacity(values.len());
        for (column, value) in self.columns.iter().zip(values) {
            let kind = column.kind;
            read.push(value_of(kind, value).ok_or_else(|| {
                format!("the record of key {key} has a value in column `{}` that is no {}", column.name, kind.as_str())
            })?);
        }
        let same = match (&key, &read[self.key]) {
            (Key::Integer(key), Value::Integer(value)) => key == value,
            (Key::Text(key), Value::Text(value)) => key == value,
            (Key::Blob(key), Value::Blob(value)) => key == value,
            _ => false,
        };
        if !same {
            return Err(format!("the record of key {key} has another value in its key column `{}`", self.columns[self.key].name));
        }
        Ok(Record { key, values: read })
    }
}

/// In what the head of an answer is not what the server describes, if in anything.
fn difference(head: &[NamedColumn], described: &[NamedColumn]) -> Option<String> {
    if head.len() != described.len() {
        return Some(format!("the head names {} column(s), and `describe` {}", head.len(), described.len()));
    }
    let place = (0..head.len()).find(|place| head[*place] != described[*place])?;
    let shown = |column: &NamedColumn| format!("`{}` ({})", column.name, column.kind.as_str());
    let (in_head, in_description) = (shown(&head[place]), shown(&described[place]));
    Some(format!("column {} is {in_head} in the head, and {in_description} in what `describe` answers", place + 1))
}

fn cut_off(doing: &str) -> PortError {
    PortError::Transient(format!("{doing}: the answer was cut off: it has no end"))
}

/// What a server says of its scrub: words, kept as evidence, so never many.
#[derive(Deserialize)]
pub(super) struct Answer(Map<String, Json>);

/// Most bytes of a server's own words that are kept in the trail.
const EVIDENCE_MAX: usize = 4096;

impl Answer {
    pub(super) fn into_evidence(self, words: &Words) -> Json {
        let said = words.document(Json::Object(self.0));
        if said.to_string().len() <= EVIDENCE_MAX { said } else { json!({"said": "more than is kept"}) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_that_is_not_of_its_kind_is_no_value() {
        for (kind, json, expected) in [
            (Kind::Integer, json!("-9223372036854775808"), Some(Value::Integer(i64::MIN))),
            (Kind::Integer, json!(i64::MAX), Some(Value::Integer(i64::MAX))),
            (Kind::Integer, json!(1.5), None),
            (Kind::Integer, json!(u64::MAX), None),
            (Kind::Real, json!(1), Some(Value::Real(1.0))),
            (Kind::Real, json!("1"), None),
            (Kind::Text, json!(""), Some(Value::Text(String::new()))),
            (Kind::Text, json!(true), None),
            (Kind::Bytes, json!("AP8="), Some(Value::Blob(vec![0, 255]))),
            (Kind::Bytes, json!("?"), None),
            (Kind::Vector, json!([0.1, -2]), Some(Value::Blob([0.1_f32.to_le_bytes(), (-2.0_f32).to_le_bytes()].concat()))),
            (Kind::Vector, json!([1e300]), None),
            (Kind::Vector, json!(["1"]), None),
            (Kind::Vector, Json::Null, Some(Value::Null)),
        ] {
            assert_eq!(value_of(kind, &json), expected, "{kind:?} {json}");
        }
    }

    #[test]
    fn keys_and_vectors_travel_both_ways() {
        for (kind, key) in [
            (Kind::Integer, Key::Integer(-5)),
            (Kind::Text, Key::Text("a\nb".into())),
            (Kind::Text, Key::Text("7".into())),
            (Kind::Bytes, Key::Blob(vec![0, 1])),
        ] {
            assert_eq!(key_of(kind, &key_to_json(&key)), Some(key));
        }
        assert_eq!(key_of(Kind::Integer, &json!("-9223372036854775808")), Some(Key::Integer(i64::MIN)));
        for (kind, key) in
            [(Kind::Integer, json!("seven")), (Kind::Text, json!(7)), (Kind::Bytes, json!("AP8=")), (Kind::Real, json!(1.5))]
        {
            assert_eq!(key_of(kind, &key), None, "{kind:?} {key}");
        }
        let vector = Value::Blob([f32::MIN_POSITIVE, 0.1, -0.0, f32::MAX, 1e-45].map(f32::to_le_bytes).concat());
        assert_eq!(value_of(Kind::Vector, &vector_to_json(&vector).unwrap()), Some(vector));
    }

    #[test]
    fn columns_without_the_key_are_refused() {
        let named = |name: &str| NamedColumn { name: name.into(), kind: Kind::Text };
        assert!(columns(&[named("body")], "id", &Words::default(), "look").is_err());
        assert!(columns(&[named("id"), named("id")], "id", &Words::default(), "look").is_err());
        assert!(columns(&[named("id"), named("x"), named("x")], "id", &Words::default(), "look").is_err());
        columns(&[named("id"), named("x")], "id", &Words::default(), "look").unwrap();
    }
}
