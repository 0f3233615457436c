//! Policies that may change while the process runs.
//!
//! The rule: a set that cannot be read decides nothing, unless the operator said beforehand that the last good one goes on; and then every
//! decision says so.
//!
//! If we die, the next start reads the set anew, and a broken one stops it: the last good set lives in this process only.

use std::sync::{Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, SecondsFormat, Utc};

use super::{
    fault::PolicyError,
    model::{Ask, Decision, Source},
    set::{Files, Policies, read},
};

/// Policies that are read again when their files change.
#[derive(Debug)]
pub struct Watched {
    source: Source,
    keep_last_good: bool,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// What was read last, or why it could not be.
    read: Result<Files, PolicyError>,
    good: Policies,
    trouble: Option<Trouble>,
}

#[derive(Debug, Clone)]
struct Trouble {
    since: DateTime<Utc>,
    error: PolicyError,
}

/// What a look at the files found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reloaded {
    /// What decides is what decided before; a set that was broken is broken in the same way.
    Unchanged,
    /// Another set decides; or the same again, whole after it was broken.
    Changed {
        /// The revision before, as [`Watched::revision`] said it.
        from: String,
        /// The revision now.
        to: String,
    },
    /// The set is broken since this look, or in another way than before.
    Broken {
        /// What is wrong.
        error: PolicyError,
    },
}

/// What decides now.
#[derive(Debug, Clone)]
pub struct Current {
    /// The policies, if any decide.
    pub policies: Option<Policies>,
    /// What is wrong with the source.
    pub trouble: Option<String>,
}

impl Watched {
    /// Begins with what is there now; a broken set is an error, whatever `keep_last_good` says.
    pub fn start(source: Source, keep_last_good: bool) -> Result<Self, PolicyError> {
        let files = read(&source)?;
        let good = Policies::of(&source, &files)?;
        Ok(Self { source, keep_last_good, state: Mutex::new(State { read: Ok(files), good, trouble: None }) })
    }

    /// Where the policies come from.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// Looks at the files, at the instant `at`. Nothing is parsed unless a byte, a name or the way in which they cannot be read changed.
    pub fn reload(&self, at: DateTime<Utc>) -> Reloaded {
        if matches!(self.source, Source::Preset(_)) {
            return Reloaded::Unchanged;
        }
        let mut state = self.lock();
        let found = read(&self.source);
        if found == state.read {
            return Reloaded::Unchanged;
        }
        let from = state.revision(self.keep_last_good);
        let loaded = found.as_ref().map_err(PolicyError::clone).and_then(|files| Policies::of(&self.source, files));
        state.read = found;
        match loaded {
            Ok(policies) => {
                let same = state.trouble.is_none() && policies.revision() == state.good.revision();
                (state.good, state.trouble) = (policies, None);
                let to = state.good.revision().to_owned();
                if same { Reloaded::Unchanged } else { Reloaded::Changed { from, to } }
            }
            Err(error) => {
                let since = state.trouble.as_ref().map_or(at, |trouble| trouble.since);
                let same = state.trouble.as_ref().is_some_and(|trouble| trouble.error == error);
                state.trouble = Some(Trouble { since, error: error.clone() });
                if same { Reloaded::Unchanged } else { Reloaded::Broken { error } }
            }
        }
    }

    /// What decides now.
    pub fn current(&self) -> Current {
        let state = self.lock();
        let policies = (state.trouble.is_none() || self.keep_last_good).then(|| state.good.clone());
        Current { policies, trouble: state.trouble.as_ref().map(|trouble| self.told(trouble)) }
    }

    /// The revision of what decides now; `none: …` where nothing does.
    pub fn revision(&self) -> String {
        self.lock().revision(self.keep_last_good)
    }

    /// Answers a question by what decides now. Broken policies deny; where the last good ones are kept, they answer and warn.
    pub fn decide(&self, ask: &Ask) -> Decision {
        // Not under the lock: others ask too.
        match self.current() {
            Current { policies: Some(policies), trouble: None } => policies.decide(ask),
            Current { policies: Some(policies), trouble: Some(trouble) } => {
                Decision { warning: Some(format!("{trouble}; the last good set decides")), ..policies.decide(ask) }
            }
            Current { policies: None, trouble } => Decision::failed(trouble.unwrap_or_default()),
        }
    }

    fn told(&self, trouble: &Trouble) -> String {
        let since = trouble.since.to_rfc3339_opts(SecondsFormat::Secs, true);
        format!("{} is broken since {since}: {}", self.source, trouble.error)
    }

    /// A thread that panicked did so between whole states: every change is a few moves.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn revision(&self, keep_last_good: bool) -> String {
        match &self.trouble {
            Some(trouble) if !keep_last_good => format!("none: {}", trouble.error.short()),
            _ => self.good.revision().to_owned(),
        }
    }
}
