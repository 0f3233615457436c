//! `--wait`: works on one plane, in this process, until it is where the caller wants it. A server that is quicker does no harm.

use std::{sync::Arc, time::Duration};

use lethe_stages::LifecycleState;
use serde_json::{Value as Json, json};
use tokio::sync::watch;

use super::{CommandError, args::Global, bars::Bars, dispatch};
use crate::{
    config::Span,
    operations::App,
    runner::{self, Roles, RunOptions},
};

/// What is waited for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Goal {
    /// The plane is in this state and nothing of it runs.
    State(LifecycleState),
    /// Nothing of the plane is due or running.
    Settled,
}

/// What is waited for, and how long.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wait {
    pub(super) goal: Goal,
    pub(super) timeout: Span,
}

/// Waits, and answers the plane's status.
pub(super) async fn until(app: &Arc<App>, global: &Global, document: &Json, wait: Wait) -> Result<Json, CommandError> {
    let plane = document["plane_id"].as_str().unwrap_or_default().to_owned();
    let (stop, stopped) = watch::channel(false);
    let bars = Bars::start(app, global.json);
    let work =
        runner::run(app.clone(), RunOptions { plane: plane.parse().ok(), until_idle: false, stop: stopped, roles: Roles::ALL });
    let watch = watch_status(app, global, &plane, wait);
    tokio::pin!(work);
    let seen = tokio::select! {
        seen = watch => seen,
        worked = &mut work => { worked?; Err(CommandError::Local("the worker ended before the plane was there".into())) }
    };
    let _ = stop.send(true);
    work.await?;
    bars.finish();
    seen
}

async fn watch_status(app: &Arc<App>, global: &Global, plane: &str, wait: Wait) -> Result<Json, CommandError> {
    let timeout = wait.timeout.0.to_std().unwrap_or(Duration::from_secs(600));
    let mut blocked = String::new();
    let reached = async {
        loop {
            let status = dispatch(app, global, "knowledge.offboarding.show", json!({"plane": plane})).await?;
            match there(&status, wait.goal) {
                Some(true) => return Ok(status),
                Some(false) => {
                    let run = &status["offboarding"];
                    let message = format!("{} is halted: {}; next: {}", run["step"], run["last_error"]["message"], run["next"]);
                    return Err(CommandError::Local(message.replace('"', "")));
                }
                None => {
                    let codes = status["offboarding"]["blocked_by"].as_array().into_iter().flatten();
                    blocked = codes.filter_map(|by| by["code"].as_str()).collect::<Vec<_>>().join(", ");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    };
    if let Ok(reached) = tokio::time::timeout(timeout, reached).await {
        return reached;
    }
    let by = if blocked.is_empty() { String::new() } else { format!(", which waits for {blocked}") };
    Err(CommandError::TimedOut(format!("waited {} for {plane}{by}: `lethe status {plane}` says more", wait.timeout)))
}

/// Whether the plane is there; `Some(false)` if it will not get there by itself.
fn there(status: &Json, goal: Goal) -> Option<bool> {
    let run_status = status["offboarding"]["run_status"].as_str().unwrap_or("succeeded");
    let due = status["offboarding"]["due_at"].as_str();
    let state: LifecycleState = status["state"].as_str().and_then(|state| state.parse().ok())?;
    let reached = match goal {
        Goal::State(LifecycleState::Active) => state == LifecycleState::Active && !matches!(run_status, "running" | "queued"),
        Goal::State(wanted) => state >= wanted,
        Goal::Settled => {
            run_status == "parked" || run_status == "succeeded" || (run_status == "queued" && due_later(status, due))
        }
    };
    if reached {
        Some(true)
    } else if run_status == "halted" {
        Some(false)
    } else {
        None
    }
}

/// A queued run whose due time is a deadline of the offboarding waits for a date.
fn due_later(status: &Json, due: Option<&str>) -> bool {
    let deadlines = &status["offboarding"]["deadlines"];
    ["grace_until", "archive_after", "retention_until"].iter().any(|name| due.is_some() && deadlines[*name].as_str() == due)
}

/// After a cancel: lifts the fence from the stores now, if nobody else has.
pub(super) async fn restored(app: &Arc<App>, global: &Global, document: &Json) -> Result<Json, CommandError> {
    let wait = Wait { goal: Goal::State(LifecycleState::Active), timeout: Span(chrono::TimeDelta::seconds(30)) };
    let mut status = until(app, global, document, wait).await?;
    status["cancelled"] = document["cancelled"].clone();
    status["tokens_restored"] = document["tokens_restored"].clone();
    Ok(status)
}
