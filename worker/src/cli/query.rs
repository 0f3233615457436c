//! `audit query`: its answer as a table, as JSON, CSV or Parquet; one page, or all of them into a file.
//!
//! The rule: a file is there whole or not at all: it is written beside its place and renamed when it is complete. In CSV, a reason or an actor
//! that a spreadsheet would take for a formula is written with an apostrophe before it; nothing else is changed. If we die before the end, the
//! part file is left, which the next who writes there replaces.

use std::{
    fs::File,
    io::{BufWriter, IsTerminal, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use chrono::DateTime;
use indicatif::ProgressBar;
use lethe_stores::{Cell, CellKind, Sheet};
use serde_json::{Value as Json, json};

use super::{CommandError, args::Global, dispatch, print, print_document};
use crate::operations::App;

/// How an answer is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub(crate) enum Format {
    /// For people
    #[default]
    Table,
    /// One document; into a file or with --all, one entry a line
    Json,
    /// RFC 4180, with a line of names
    Csv,
    /// Typed columns; needs --output
    Parquet,
}

/// Where an answer goes.
#[derive(Debug, Clone, Default)]
pub(super) struct Out {
    pub(super) format: Format,
    pub(super) output: Option<PathBuf>,
    pub(super) all: bool,
    pub(super) proof: Option<PathBuf>,
}

/// A column: its name, what it holds, where an entry has it.
const COLUMNS: [(&str, CellKind, &str); 22] = [
    ("leaf_index", CellKind::Integer, "leaf_index"),
    ("at", CellKind::Instant, "at"),
    ("event_type", CellKind::Text, "event_type"),
    ("outcome", CellKind::Text, "outcome"),
    ("tenant_id", CellKind::Text, "tenant_id"),
    ("plane_id", CellKind::Text, "plane_id"),
    ("offboarding_id", CellKind::Text, "offboarding_id"),
    ("approval_id", CellKind::Text, "evidence.approval_id"),
    ("chain", CellKind::Text, "chain"),
    ("sequence_no", CellKind::Integer, "sequence_no"),
    ("actor_type", CellKind::Text, "actor_type"),
    ("actor", CellKind::Text, "values.actor_id"),
    ("decision_owner", CellKind::Text, "decision_owner"),
    ("step", CellKind::Text, "step"),
    ("from_state", CellKind::Text, "from_state"),
    ("to_state", CellKind::Text, "to_state"),
    ("code", CellKind::Text, "gate.code"),
    ("policy_revision", CellKind::Text, "gate.policy_revision"),
    ("reason", CellKind::Text, "values.reason"),
    ("evidence", CellKind::Text, "evidence"),
    ("event_id", CellKind::Text, "event_id"),
    ("hash", CellKind::Text, "hash"),
];

/// What people wrote, which a spreadsheet might take for a formula.
const WRITTEN_BY_PEOPLE: [&str; 2] = ["actor", "reason"];

/// An entry as a row.
fn row(entry: &Json) -> Vec<Cell> {
    let cell = |(_, kind, path): &(&str, CellKind, &str)| {
        let value = path.split('.').fold(entry, |value, name| &value[name]);
        match (kind, value) {
            (CellKind::Integer, value) => Cell::Number(value.as_i64()),
            (CellKind::Instant, value) => {
                Cell::Number(value.as_str().and_then(|at| DateTime::parse_from_rfc3339(at).ok()).map(|at| at.timestamp_micros()))
            }
            (CellKind::Text, Json::Null) => Cell::Text(None),
            (CellKind::Text, Json::String(text)) => Cell::Text(Some(text.clone())),
            (CellKind::Text, other) => Cell::Text(Some(other.to_string())),
        }
    };
    COLUMNS.iter().map(cell).collect()
}

/// A line of CSV.
fn line(entry: &Json) -> String {
    let field = |((name, kind, path), cell): (&(&str, CellKind, &str), Cell)| {
        let text = match cell {
            // The instant as the entry has it, to the letter.
            _ if *kind == CellKind::Instant => entry[*path].as_str().unwrap_or_default().to_owned(),
            Cell::Number(number) => number.map_or(String::new(), |number| number.to_string()),
            Cell::Text(text) => text.unwrap_or_default(),
        };
        let formula = WRITTEN_BY_PEOPLE.contains(name) && text.starts_with(['=', '+', '-', '@', '\t', '\r']);
        quoted(&if formula { format!("'{text}") } else { text })
    };
    COLUMNS.iter().zip(row(entry)).map(field).collect::<Vec<_>>().join(",") + "\r\n"
}

fn quoted(text: &str) -> String {
    if text.contains(['"', ',', '\r', '\n']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text.to_owned() }
}

/// What entries are written to.
enum Sink {
    Lines { to: Box<dyn Write + Send>, csv: bool, file: Option<(File, PathBuf, PathBuf)> },
    Parquet(Sheet),
}

impl Sink {
    fn open(out: &Out) -> Result<Self, CommandError> {
        let failed = |path: &Path, error: String| CommandError::Local(format!("write {}: {error}", path.display()));
        let csv = out.format == Format::Csv;
        match &out.output {
            Some(path) if out.format == Format::Parquet => {
                let columns: Vec<_> = COLUMNS.iter().map(|(name, kind, _)| (*name, *kind)).collect();
                Ok(Sink::Parquet(Sheet::create(path, &columns).map_err(|error| failed(path, error.to_string()))?))
            }
            Some(path) => {
                let part = path.with_added_extension("part");
                let file = File::create(&part).map_err(|error| failed(path, error.to_string()))?;
                let again = file.try_clone().map_err(|error| failed(path, error.to_string()))?;
                Ok(Sink::Lines { to: Box::new(BufWriter::new(file)), csv, file: Some((again, part, path.clone())) }.headed()?)
            }
            None => Sink::Lines { to: Box::new(BufWriter::new(std::io::stdout())), csv, file: None }.headed(),
        }
    }

    /// With the names of the columns, where they are written.
    fn headed(mut self) -> Result<Self, CommandError> {
        if let Sink::Lines { to, csv: true, .. } = &mut self {
            let names: Vec<_> = COLUMNS.iter().map(|(name, ..)| *name).collect();
            write!(to, "{}\r\n", names.join(",")).map_err(unwritten)?;
        }
        Ok(self)
    }

    fn add(&mut self, entries: &[Json]) -> Result<(), CommandError> {
        match self {
            Sink::Lines { to, csv, .. } => {
                for entry in entries {
                    let line = if *csv { line(entry) } else { format!("{entry}\n") };
                    to.write_all(line.as_bytes()).map_err(unwritten)?;
                }
                Ok(())
            }
            Sink::Parquet(sheet) => {
                let rows: Vec<_> = entries.iter().map(row).collect();
                sheet.add(&rows).map_err(|error| CommandError::Local(format!("write the answer: {error}")))
            }
        }
    }

    fn finish(self) -> Result<(), CommandError> {
        match self {
            Sink::Lines { mut to, file, .. } => {
                to.flush().map_err(unwritten)?;
                let Some((file, part, path)) = file else { return Ok(()) };
                file.sync_all().map_err(unwritten)?;
                std::fs::rename(part, path).map_err(unwritten)
            }
            Sink::Parquet(sheet) => sheet.finish().map_err(|error| CommandError::Local(format!("write the answer: {error}"))),
        }
    }
}

fn unwritten(error: std::io::Error) -> CommandError {
    CommandError::Local(format!("write the answer: {error}"))
}

/// Asks, and writes the answer.
pub(super) async fn run(app: &Arc<App>, global: &Global, mut arguments: Json, out: Out) -> Result<(), CommandError> {
    const QUERY: &str = "governance.audit.query";
    let to_file = out.output.is_some();
    let format = if out.format == Format::Table && (to_file || out.all || global.json) { Format::Json } else { out.format };
    if format == Format::Parquet && !to_file {
        return Err(CommandError::Usage("--format parquet writes to a file: --output FILE".into()));
    }
    if !to_file && !out.all && format != Format::Csv {
        let document = dispatch(app, global, QUERY, arguments.clone()).await?;
        let next = document["next"].as_i64();
        prove(app, global, &arguments, &document, &out).await?;
        if format == Format::Json {
            print_document(document);
        } else {
            print(global, QUERY, document);
            if let Some(next) = next {
                eprintln!("there may be more: the same with --after {next}, or all of it with --all --output FILE");
            }
        }
        return Ok(());
    }
    if out.all && arguments.get("limit").is_none_or(Json::is_null) {
        arguments["limit"] = json!(2_000);
    }
    let mut sink = Sink::open(&Out { format, ..out.clone() })?;
    let bar = if std::io::stderr().is_terminal() && !global.json { ProgressBar::new_spinner() } else { ProgressBar::hidden() };
    let (mut entries, mut looked) = (0, 0);
    let last = loop {
        let page = dispatch(app, global, QUERY, arguments.clone()).await?;
        let rows = page["entries"].as_array().map_or(&[][..], Vec::as_slice);
        sink.add(rows)?;
        (entries, looked) = (entries + rows.len(), looked + page["looked"].as_u64().unwrap_or(0));
        bar.set_message(format!("{entries} entries found, {looked} looked at"));
        bar.tick();
        match page["next"].as_i64().filter(|_| out.all) {
            Some(next) => arguments["after"] = json!(next),
            None => break page,
        }
    };
    sink.finish()?;
    bar.finish_and_clear();
    prove(app, global, &arguments, &last, &out).await?;
    let said = json!({"entries": entries, "looked": looked, "unsealed": last["unsealed"], "next": last["next"]});
    match out.output {
        Some(path) => {
            let mut said = said;
            said["written"] = json!(path);
            print(global, QUERY, said);
        }
        None if !last["next"].is_null() => eprintln!("there may be more: the same with --after {}", last["next"]),
        None => {}
    }
    Ok(())
}

/// Writes the entries of a page again, with what proves them.
async fn prove(app: &Arc<App>, global: &Global, asked: &Json, page: &Json, out: &Out) -> Result<(), CommandError> {
    let Some(path) = &out.proof else { return Ok(()) };
    let leaves: Vec<&Json> = page["entries"].as_array().into_iter().flatten().map(|entry| &entry["leaf_index"]).collect();
    if leaves.is_empty() {
        eprintln!("nothing was found, so there is nothing to prove: {} was not written", path.display());
        return Ok(());
    }
    let bundle = dispatch(app, global, "governance.audit.bundle", json!({"leaves": leaves, "question": asked})).await?;
    std::fs::write(path, format!("{bundle}\n")).map_err(unwritten)?;
    eprintln!("{} entries with their proofs: {}   (lethe-verify bundle checks it)", leaves.len(), path.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn csv_is_quoted_where_it_must_be_and_what_people_wrote_is_no_formula() {
        let entry = json!({
            "leaf_index": 7, "at": "2026-03-01T09:00:00.000000Z", "values": {"actor_id": "=cmd()", "reason": "say \"a, b\"\r\nc"},
            "decision_owner": "=x", "evidence": {"n": 1},
        });
        let line = line(&entry);
        assert!(line.starts_with("7,2026-03-01T09:00:00.000000Z,,"), "{line}");
        assert!(line.contains(",'=cmd(),=x,"), "{line}");
        assert!(line.contains(",\"say \"\"a, b\"\"\r\nc\",\"{\"\"n\"\":1}\","), "{line}");
        assert!(line.ends_with("\r\n"), "{line}");
    }
}
