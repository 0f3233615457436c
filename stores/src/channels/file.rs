//! A file to which each notice is appended as one line of JSON, synced before it counts as told.
//!
//! The rule: a line is one write, so that readers and other writers see whole lines. If we die in it, the line may stand twice.

use std::{io::Write as _, path::PathBuf};

use lethe_stages::ports::PortError;

use super::Message;

/// See the module.
#[derive(Debug, Clone)]
pub struct FileChannel {
    /// Where; its folder must be there.
    pub path: PathBuf,
}

impl FileChannel {
    pub(super) async fn tell(&self, message: &Message) -> Result<(), PortError> {
        let (path, line) = (self.path.clone(), format!("{}\n", message.body));
        let append = move || {
            let mut file = std::fs::OpenOptions::new().append(true).create(true).open(&path)?;
            file.write_all(line.as_bytes())?;
            file.sync_data()
        };
        let appended = tokio::task::spawn_blocking(append).await.unwrap_or_else(|error| Err(std::io::Error::other(error)));
        appended.map_err(|error| PortError::Transient(format!("append to {}: {error}", self.path.display())))
    }
}
