//! A set of policies: read, validated, and asked.
//!
//! The rule: a set that loads is whole. Every policy parses, fits the schema, has an id of its own, and can apply to something.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use cedar_policy::{AuthorizationError, Authorizer, Decision as Effect, PolicySet, Schema, ValidationMode, Validator};
use lethe_stages::canonical;
use serde_json::json;

use super::{
    entities::{Vocabulary, told},
    fault::{Fault, PolicyError},
    model::{Ask, Decision, Preset, Source},
};

/// The schema, as it stands in the repository.
pub const SCHEMA: &str = include_str!("../../../config/policies/lethe.cedarschema");

const SCHEMA_FILE: &str = "lethe.cedarschema";

impl Preset {
    /// Its policies, as they stand in the repository.
    pub const fn text(self) -> &'static str {
        match self {
            Preset::Solo => include_str!("../../../config/policies/solo.cedar"),
            Preset::Team => include_str!("../../../config/policies/team.cedar"),
            Preset::Regulated => include_str!("../../../config/policies/regulated.cedar"),
        }
    }
}

/// The files of a source, by name, as they were read.
pub(super) type Files = BTreeMap<String, Vec<u8>>;

/// The files of `source`, as they are now.
pub(super) fn read(source: &Source) -> Result<Files, PolicyError> {
    match source {
        Source::Preset(preset) => Ok(Files::from([(format!("{preset}.cedar"), preset.text().into())])),
        Source::Folder(path) => read_folder(path),
    }
}

fn read_folder(folder: &Path) -> Result<Files, PolicyError> {
    let unreadable = |error: std::io::Error| {
        let wrong = format!("the policy folder cannot be read: {error}");
        Fault::of(folder.display().to_string(), wrong, "name a folder with *.cedar files that this process may read")
    };
    let mut files = Files::new();
    let mut faults = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        if path.extension().is_none_or(|extension| extension != "cedar") {
            continue;
        }
        let shown = path.display().to_string();
        let right = "make it a file that this process may read, or take it away";
        // What is no file (a pipe, say) is not opened: that could wait for ever.
        let bytes = match std::fs::metadata(&path) {
            Ok(found) if found.is_file() => std::fs::read(&path),
            Ok(_) => Err(std::io::Error::other("it is not a file")),
            Err(error) => Err(error),
        };
        match bytes {
            Ok(bytes) => drop(files.insert(shown, bytes)),
            Err(error) => faults.push(Fault::of(shown, format!("it cannot be read: {error}"), right)),
        }
    }
    if faults.is_empty() {
        return Ok(files);
    }
    faults.sort_by(|one, other| one.file.cmp(&other.file));
    Err(PolicyError { faults })
}

/// Policies that can be asked. They never change; a clone is cheap.
#[derive(Debug, Clone)]
pub struct Policies(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    revision: String,
    set: PolicySet,
    vocabulary: Vocabulary,
}

impl Policies {
    /// Reads and validates a set.
    pub fn load(source: &Source) -> Result<Self, PolicyError> {
        Self::of(source, &read(source)?)
    }

    /// Validates files that were read from `source`.
    pub(super) fn of(source: &Source, files: &Files) -> Result<Self, PolicyError> {
        let vocabulary = vocabulary()?;
        let mut whole = Whole { set: PolicySet::new(), texts: BTreeMap::new(), faults: Vec::new() };
        for (file, bytes) in files {
            match std::str::from_utf8(bytes) {
                Ok(text) => whole.take(file, text, vocabulary.schema()),
                Err(error) => {
                    let line = 1 + bytes.iter().take(error.valid_up_to()).filter(|byte| **byte == b'\n').count();
                    let fault = Fault::of(file, "it is not text in UTF-8", "write it again in that encoding");
                    whole.faults.push(Fault { line: Some(line), ..fault });
                }
            }
        }
        let Whole { set, texts, mut faults } = whole;
        if faults.is_empty() && set.is_empty() {
            let place = match source {
                Source::Preset(preset) => format!("{preset}.cedar"),
                Source::Folder(folder) => folder.display().to_string(),
            };
            let right = "put at least one policy into a *.cedar file there; without one, nothing is permitted to anybody";
            faults.push(Fault::of(place, "there is no policy in it", right));
        }
        if !faults.is_empty() {
            return Err(PolicyError { faults });
        }
        let texts: BTreeMap<_, _> = texts.into_iter().map(|(id, taken)| (id, taken.text)).collect();
        let revision = canonical::digest(&json!({"policies": texts, "schema": SCHEMA}))
            .map_err(|error| Fault::of(SCHEMA_FILE, format!("its revision cannot be computed: {error}"), "report this"))?;
        Ok(Self(Arc::new(Inner { revision, set, vocabulary })))
    }

    /// What identifies this set: `sha256:` and the digest of the canonical JSON of the schema and of every policy's own text by its id.
    /// Which file a policy stands in, the order of policies and the comments between them are no part of it.
    pub fn revision(&self) -> &str {
        &self.0.revision
    }

    /// The ids of the policies, sorted.
    pub fn ids(&self) -> Vec<String> {
        sorted(self.0.set.policies().map(|policy| policy.id().to_string()))
    }

    /// Answers a question. What cannot be asked, and any policy that fails, is a denial, even where another policy permits.
    pub fn decide(&self, ask: &Ask) -> Decision {
        let Inner { set, vocabulary, .. } = &*self.0;
        let (request, entities) = match vocabulary.translate(ask) {
            Ok(translated) => translated,
            Err(error) => return Decision::failed(format!("the question does not fit {SCHEMA_FILE}: {error}")),
        };
        let response = Authorizer::new().is_authorized(&request, set, &entities);
        let diagnostics = response.diagnostics();
        let decided = sorted(diagnostics.reason().map(|id| id.to_string()));
        let errors = sorted(diagnostics.errors().map(told_of));
        let permitted = response.decision() == Effect::Allow;
        if errors.is_empty() {
            return Decision { allowed: permitted, policies: decided, errors, warning: None };
        }
        let failed = diagnostics.errors().map(|AuthorizationError::PolicyEvaluationError(error)| error.policy_id().to_string());
        let forbade = if permitted { Vec::new() } else { decided };
        Decision { allowed: false, policies: sorted(failed.chain(forbade)), errors, warning: None }
    }
}

fn told_of(error: &AuthorizationError) -> String {
    let AuthorizationError::PolicyEvaluationError(failed) = error;
    format!("policy {} failed: {}", failed.policy_id(), told(failed.inner()))
}

fn sorted(texts: impl Iterator<Item = String>) -> Vec<String> {
    let mut texts: Vec<_> = texts.collect();
    texts.sort();
    texts
}

fn vocabulary() -> Result<Vocabulary, PolicyError> {
    let broken = |wrong: String| Fault::of(SCHEMA_FILE, wrong, "this is the program's own: report it");
    let (schema, warnings) = Schema::from_cedarschema_str(SCHEMA).map_err(|error| broken(told(&error)))?;
    let warnings = sorted(warnings.map(|warning| warning.to_string()));
    if !warnings.is_empty() {
        return Err(broken(warnings.join("; ")).into());
    }
    Ok(Vocabulary::of(schema).map_err(broken)?)
}

/// What is known of a set while its files are read.
struct Whole {
    set: PolicySet,
    texts: BTreeMap<String, Taken>,
    faults: Vec<Fault>,
}

struct Taken {
    file: String,
    text: String,
}

impl Whole {
    /// Takes one file's policies.
    fn take(&mut self, file: &str, text: &str, schema: &Schema) {
        let parsed: PolicySet = match text.parse() {
            Ok(parsed) => parsed,
            Err(errors) => return self.faults.extend(Fault::unparsed(file, text, &errors)),
        };
        let mut faults = self.faults_of(file, text, &parsed, schema);
        if !faults.is_empty() {
            faults.sort_by_key(|fault| fault.line);
            return self.faults.append(&mut faults);
        }
        for policy in parsed.policies() {
            let id = policy.annotation("id").unwrap_or_default().to_owned();
            let text = policy.to_cedar().unwrap_or_else(|| policy.to_string());
            if let Some(before) = self.texts.get(&id) {
                let wrong = format!("@id(\"{id}\") stands a second time; the first is in {}", before.file);
                self.faults.push(Fault::of(file, wrong, "give every policy an id of its own"));
            } else if let Err(error) = self.set.add(policy.new_id(cedar_policy::PolicyId::new(&id))) {
                self.faults.push(Fault::of(file, told(&error), "give every policy an id of its own"));
            }
            self.texts.insert(id, Taken { file: file.to_owned(), text });
        }
    }

    fn faults_of(&self, file: &str, text: &str, parsed: &PolicySet, schema: &Schema) -> Vec<Fault> {
        let mut faults = Vec::new();
        for template in parsed.templates() {
            let wrong = format!("a template ({}) decides nothing until somebody fills it in", shown(&template.to_string()));
            faults.push(Fault::of(file, wrong, "write out ?principal and ?resource"));
        }
        for policy in parsed.policies() {
            if policy.annotation("id").is_none_or(|id| id.trim().is_empty()) {
                let wrong = format!("a policy has no id: {}", shown(&policy.to_string()));
                faults.push(Fault::of(file, wrong, "write @id(\"name\") before it: decisions are recorded with it"));
            }
        }
        let found = Validator::new(schema.clone()).validate(parsed, ValidationMode::Strict);
        let named = |id: &cedar_policy::PolicyId| parsed.annotation(id, "id").unwrap_or("without id").to_owned();
        for error in found.validation_errors() {
            faults.push(validated(file, text, &named(error.policy_id()), error, SPEAK_OF));
        }
        if faults.is_empty() {
            // A policy that can never apply, say, is a wall that is not there. (One with an error often cannot either.)
            for warning in found.validation_warnings() {
                faults.push(validated(file, text, &named(warning.policy_id()), warning, CAN_APPLY));
            }
        }
        faults
    }
}

const SPEAK_OF: &str = "config/policies/lethe.cedarschema lists what policies can speak of";
const CAN_APPLY: &str =
    "write it so that some question can meet it (lethe.cedarschema lists which action is about what), or take it away";

/// Cedar names a policy by its place in the file; people know it by its id.
fn validated(file: &str, text: &str, id: &str, found: &dyn miette::Diagnostic, right: &str) -> Fault {
    let fault = Fault::found(file, text, found, right);
    let said = match fault.wrong.strip_prefix("for policy `").and_then(|rest| rest.split_once('`')) {
        Some((_, rest)) => rest.trim_start_matches([',', ':', ' ']),
        None => &fault.wrong,
    };
    Fault { wrong: format!("policy {id}: {said}"), ..fault }
}

fn shown(policy: &str) -> String {
    let text = policy.split_whitespace().collect::<Vec<_>>().join(" ");
    if text.chars().count() > 60 { text.chars().take(59).chain(['…']).collect() } else { text }
}
