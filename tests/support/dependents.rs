//! Things that depend on a plane, as files: each says its state, and a command rewrites it.

use std::{collections::BTreeMap, path::Path};

use tempfile::TempDir;

/// The dependents that a plane has in tests: name, kind, state.
pub const ALL: [(&str, &str, &str); 4] = [
    ("nightly", "schedule", "running"),
    // Whoever stopped it did so before, and it stays stopped.
    ("monthly", "schedule", "stopped by hand"),
    ("server", "service", "running"),
    ("cache", "other", "running"),
];

/// A folder with a file for each.
pub struct Dependents(TempDir);

impl Dependents {
    pub fn new() -> Self {
        let folder = Self(tempfile::tempdir().expect("a folder"));
        for (name, _, state) in ALL {
            folder.set(name, state);
        }
        folder
    }

    /// Where its file lies.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Puts one into a state.
    pub fn set(&self, name: &str, state: &str) {
        std::fs::write(self.path().join(name), format!("{state}\n")).expect("write a state");
    }

    /// Every state, and how often each was told something.
    pub fn states(&self) -> BTreeMap<String, String> {
        let state = |name: &str| std::fs::read_to_string(self.path().join(name)).expect("a state").trim().to_owned();
        ALL.iter().map(|(name, ..)| ((*name).to_owned(), state(name))).collect()
    }

    /// The configuration that controls them, each told by its name in the environment.
    pub fn config(&self) -> String {
        self.config_resuming("echo running > ")
    }

    /// The same with another command in the place of the one that lets them go on.
    pub fn config_resuming(&self, resume: &str) -> String {
        let file = format!("'{}'/$LETHE_DEPENDENT", self.path().display());
        format!(
            "\n[dependents.files]\nstate = [\"sh\", \"-c\", \"cat {file}\"]\n\
             suspend = [\"sh\", \"-c\", \"echo suspended for $LETHE_TENANT/$LETHE_PLANE > {file}\"]\n\
             resume = [\"sh\", \"-c\", \"{resume}{file}\"]\n"
        )
    }
}
