//! The reference server of the store protocol, `tests/reference_store.py`, as a process of the test's own.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
};

use serde_json::json;

use super::http;

/// A running server.
pub struct Reference {
    pub url: String,
    process: Child,
}

impl Reference {
    /// Starts it over a file of the folder.
    pub fn start(folder: &Path, options: &[&str]) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/reference_store.py");
        let mut process = Command::new("python3")
            .arg(script)
            .arg(folder.join("reference.db"))
            .arg("0")
            .args(options)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("start the reference server");
        let mut port = String::new();
        BufReader::new(process.stdout.take().expect("its output")).read_line(&mut port).expect("its port");
        Self { url: format!("http://127.0.0.1:{}", port.trim()), process }
    }

    /// Adds so many notes to a plane, with ids from `first` on.
    pub fn fill(&self, plane: &str, first: usize, rows: usize) {
        for number in first..first + rows {
            let score = [json!(1.5), json!(-0.0), json!(null), json!(1e300)][number % 4].clone();
            let raw = (number % 2 > 0).then_some("AP8=");
            let note = json!({
                "id": number, "plane": plane, "body": format!("marker-{plane}-{number} \"zwei\"\né"), "score": score, "raw": raw,
                "embedding": [number as f32 / 3.0, 1e-45_f32, -0.0],
            });
            http::done("POST", &format!("{}/notes", self.url), Some(&note));
        }
    }
}

impl Drop for Reference {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
