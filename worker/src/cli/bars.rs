//! Progress bars for archive, purge and verify: on a terminal only.

use std::{collections::HashMap, io::IsTerminal, sync::Arc, time::Duration};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use tokio::task::JoinHandle;

use crate::operations::App;

/// Bars for the runs of this process, until finished.
pub(super) struct Bars(Option<JoinHandle<()>>);

impl Bars {
    pub(super) fn start(app: &Arc<App>, json: bool) -> Self {
        if json || !std::io::stderr().is_terminal() {
            return Self(None);
        }
        let board = app.manager.progress().clone();
        Self(Some(tokio::spawn(async move {
            let all = MultiProgress::new();
            let mut bars: HashMap<String, ProgressBar> = HashMap::new();
            let style = ProgressStyle::with_template("{prefix:.dim} {msg:<9} [{bar:40}] {pos}/{len}")
                .unwrap_or_else(|_| ProgressStyle::default_bar());
            loop {
                for (run, progress) in board.all() {
                    for (store, state) in progress["stores"].as_object().into_iter().flatten() {
                        let bar = bars.entry(format!("{run}/{store}")).or_insert_with(|| {
                            let bar = all.add(ProgressBar::new(0).with_style(style.clone()));
                            bar.set_prefix(format!("{} store {store}", &run.to_string()[24..]));
                            bar
                        });
                        bar.set_length(state["total"].as_u64().unwrap_or(0));
                        bar.set_position(state["done"].as_u64().unwrap_or(0));
                        bar.set_message(state["verb"].as_str().unwrap_or_default().to_owned());
                    }
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        })))
    }

    pub(super) fn finish(self) {
        if let Some(task) = self.0 {
            task.abort();
        }
    }
}
