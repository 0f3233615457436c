//! What outside depends on a plane, told by the operator's own commands: programs with arguments, run without a shell.
//!
//! The rule: commands come from the configuration of the process that runs them and from nowhere else. They are told which plane is meant
//! by their environment, never by their arguments. What they print on standard output is their state and nothing more; their standard
//! error is this process's. If we die in one, it runs to its end, and is run again: each must allow that.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use lethe_stages::{ports::PortError, suspension::Dependent};

use crate::command::{Given, run};

/// Most bytes of a state.
const STATE_MAX: usize = 200;

/// How something that depends on planes is controlled.
#[derive(Debug, Clone)]
pub struct Control {
    /// Prints its state, one line of at most 200 bytes.
    pub state: Vec<String>,
    /// Makes it stop using the plane.
    pub suspend: Vec<String>,
    /// Lets it go on.
    pub resume: Vec<String>,
    /// The state in which it runs.
    pub running: String,
    /// How long a command may take.
    pub timeout: Duration,
}

/// The controls that this process is configured with, by name.
#[derive(Debug, Default)]
pub struct Controls(BTreeMap<String, Control>);

impl Controls {
    /// Those of a configuration.
    pub fn new(controls: BTreeMap<String, Control>) -> Self {
        Self(controls)
    }

    /// The control of this name, told which plane is meant. Permanent where there is none.
    pub fn of(&self, name: &str, told: Vec<(&'static str, String)>) -> Result<Arc<dyn Dependent>, PortError> {
        let control = self.0.get(name).cloned().ok_or_else(|| {
            PortError::Permanent(format!(
                "the configuration of this worker has no [dependents.{name}]: write it there, start the worker again, then \
                 `lethe offboarding retry`"
            ))
        })?;
        Ok(Arc::new(Commanded { name: name.to_owned(), control, told }))
    }
}

/// A dependent that is told by commands.
struct Commanded {
    name: String,
    control: Control,
    told: Vec<(&'static str, String)>,
}

impl Commanded {
    /// Runs a command; answers what it printed, if that is asked for.
    async fn run(&self, verb: &str, command: &[String], prints: bool) -> Result<Vec<u8>, PortError> {
        let doing = format!("run dependents.{}.{verb}", self.name);
        let printed_max = if prints { STATE_MAX + 2 } else { 0 };
        run(&doing, command, Given { told: &self.told, input: None, printed_max, timeout: self.control.timeout }).await
    }
}

#[async_trait]
impl Dependent for Commanded {
    async fn state(&self) -> Result<String, PortError> {
        let printed = self.run("state", &self.control.state, true).await?;
        let state = String::from_utf8(printed).map(|text| text.trim_end().to_owned());
        match state {
            Ok(state) if !state.is_empty() && state.len() <= STATE_MAX && !state.contains(['\n', '\0']) => Ok(state),
            _ => Err(PortError::Permanent(format!(
                "run dependents.{}.state: it prints no state: one line of 1 to {STATE_MAX} bytes, such as `{}`",
                self.name, self.control.running
            ))),
        }
    }

    fn is_running(&self, state: &str) -> bool {
        state == self.control.running
    }

    async fn suspend(&self) -> Result<(), PortError> {
        self.run("suspend", &self.control.suspend, false).await.map(drop)
    }

    async fn resume(&self) -> Result<(), PortError> {
        self.run("resume", &self.control.resume, false).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(state: &[&str], timeout: Duration) -> Arc<dyn Dependent> {
        let state = state.iter().map(|&word| word.to_owned()).collect();
        let suspend = vec!["false".to_owned()];
        let resume = vec!["/nowhere/at/all".to_owned()];
        let control = Control { state, suspend, resume, running: "running".into(), timeout };
        let controls = Controls::new(BTreeMap::from([("nightly".to_owned(), control)]));
        controls.of("nightly", vec![("LETHE_PLANE_ID", "p-1".into())]).expect("a control")
    }

    const LONG: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn a_state_is_one_short_line_and_the_plane_stands_in_the_environment() {
        let state = told(&["sh", "-c", "echo \"$LETHE_PLANE_ID ${LETHE_LEDGER:-none}\""], LONG).state().await;
        assert_eq!(state.expect("a state"), "p-1 none");
        for wrong in ["true", "printf 'a\\nb'", "printf '%0201d' 1"] {
            let said = told(&["sh", "-c", wrong], LONG).state().await;
            assert!(matches!(said, Err(PortError::Permanent(_))), "{wrong}: {said:?}");
        }
        assert_eq!(told(&["sh", "-c", "printf '%0200d' 1"], LONG).state().await.expect("200 bytes").len(), 200);
    }

    #[tokio::test]
    async fn what_fails_or_takes_too_long_is_tried_again_and_what_cannot_run_is_not() {
        let dependent = told(&["sleep", "60"], Duration::from_millis(50));
        assert!(matches!(dependent.state().await, Err(PortError::Transient(_))));
        assert!(matches!(dependent.suspend().await, Err(PortError::Transient(_))));
        assert!(matches!(dependent.resume().await, Err(PortError::Permanent(_))));
        let missing = Controls::default().of("nightly", Vec::new()).err().expect("there is none");
        assert!(matches!(&missing, PortError::Permanent(said) if said.contains("[dependents.nightly]")), "{missing}");
    }
}
