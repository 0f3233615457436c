//! What is wrong with a set of policies, said to whoever has to put it right.

use cedar_policy::ParseErrors;
use miette::Diagnostic;

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// In which file; or the folder.
    pub file: String,
    /// In which line, from 1.
    pub line: Option<usize>,
    /// What is wrong.
    pub wrong: String,
    /// What would be right.
    pub right: String,
}

impl Fault {
    /// A fault of a whole file or folder.
    pub(super) fn of(file: impl Into<String>, wrong: impl Into<String>, right: impl Into<String>) -> Self {
        Self { file: file.into(), line: None, wrong: wrong.into(), right: right.into() }
    }

    /// A fault that Cedar found in `text`; `right` where it knows no better.
    pub(super) fn found(file: &str, text: &str, diagnostic: &dyn Diagnostic, right: &str) -> Self {
        let mut labels = diagnostic.labels().into_iter().flatten();
        let label = labels.next();
        let line = label.as_ref().map(|label| line_at(text, label.offset()));
        // `unexpected token` alone helps nobody: the label says what was expected.
        let wrong = match label.as_ref().and_then(|label| label.label()) {
            Some(said) => format!("{diagnostic}: {said}"),
            None => diagnostic.to_string(),
        };
        let right = diagnostic.help().map_or_else(|| right.to_owned(), |help| help.to_string());
        Self { file: file.to_owned(), line, wrong: in_one_line(&wrong), right: in_one_line(&right) }
    }

    /// Everything that Cedar could not parse of `text`.
    pub(super) fn unparsed(file: &str, text: &str, errors: &ParseErrors) -> Vec<Self> {
        errors.iter().map(|error| Self::found(file, text, error, HOW_TO_WRITE)).collect()
    }
}

const HOW_TO_WRITE: &str =
    "a policy is written `@id(\"name\") permit (principal, action == Action::\"read\", resource) when { … };`";

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}: {}: {}", self.file, self.wrong, self.right),
            None => write!(f, "{}: {}: {}", self.file, self.wrong, self.right),
        }
    }
}

/// Why a set of policies cannot decide anything.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", joined(.faults))]
pub struct PolicyError {
    /// Everything that was found, never nothing.
    pub faults: Vec<Fault>,
}

impl PolicyError {
    /// The first fault, in a few words: where it is and what is wrong.
    pub fn short(&self) -> String {
        match self.faults.first() {
            Some(Fault { file, line: Some(line), wrong, .. }) => format!("{file}:{line}: {wrong}"),
            Some(Fault { file, line: None, wrong, .. }) => format!("{file}: {wrong}"),
            None => "nothing is known of it".into(),
        }
    }
}

impl From<Fault> for PolicyError {
    fn from(fault: Fault) -> Self {
        Self { faults: vec![fault] }
    }
}

fn joined(faults: &[Fault]) -> String {
    faults.iter().map(Fault::to_string).collect::<Vec<_>>().join("; ")
}

fn line_at(text: &str, offset: usize) -> usize {
    1 + text.bytes().take(offset).filter(|byte| *byte == b'\n').count()
}

fn in_one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
