//! The reference server of the store protocol, `tests/reference_store.py`, as a process of the test's own, the servers that lie,
//! `tests/lying_store.py`, and the users of both, `tests/reference_user.py`.

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
};

use serde_json::{Value as Json, json};

use super::http;

/// A running server.
pub struct Reference {
    pub url: String,
    process: Child,
    /// Kept open, because a server that starts anew says its port again.
    _said: BufReader<ChildStdout>,
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests").join(name)
}

impl Reference {
    /// Starts it over a file of the folder.
    pub fn start(folder: &Path, options: &[&str]) -> Self {
        Self::run("reference_store.py", &folder.join("reference.db"), options)
    }

    /// Starts all the servers that lie, each with a file of its own in the folder; [`Self::lie`] is where one answers.
    pub fn lying(folder: &Path) -> Self {
        Self::run("lying_store.py", folder, &[])
    }

    fn run(name: &str, place: &Path, options: &[&str]) -> Self {
        let mut process = Command::new("python3")
            .arg(script(name))
            .arg(place)
            .arg("0")
            .args(options)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("start the server");
        let mut said = BufReader::new(process.stdout.take().expect("its output"));
        let mut port = String::new();
        said.read_line(&mut port).expect("its port");
        Self { url: format!("http://127.0.0.1:{}", port.trim()), process, _said: said }
    }

    /// The URL of a server that lies.
    pub fn lie(&self, name: &str) -> String {
        format!("{}/{name}", self.url)
    }

    /// Adds so many notes to a plane, with ids from `first` on.
    pub fn fill(&self, plane: &str, first: usize, rows: usize) {
        fill(&self.url, plane, first, rows);
    }

    /// The commands by which `store conform` acts as the users of the server at `url`.
    pub fn users(&self, url: &str) -> Json {
        let (address, path) = url.strip_prefix("http://").map(|rest| rest.split_once('/').unwrap_or((rest, ""))).expect("a URL");
        let user = script("reference_user.py").display().to_string();
        let path = if path.is_empty() { String::new() } else { format!("/{path}") };
        let command = |verb: &str| format!("exec python3 -IS {user} {verb} {address} '{path}' {}", self.process.id());
        json!({
            "write_command": command("write"), "read_command": command("read"), "change_command": command("change"),
            "orphan_command": command("orphan"), "restart_command": command("restart"),
        })
    }
}

/// Adds so many notes to a plane of the server at `url`.
pub fn fill(url: &str, plane: &str, first: usize, rows: usize) {
    let note = |number: usize| {
        let score = [json!(1.5), json!(-0.0), json!(null), json!(1e300)][number % 4].clone();
        let raw = (!number.is_multiple_of(2)).then_some("AP8=");
        json!({
            "id": number, "plane": plane, "body": format!("marker-{plane}-{number} \"zwei\"\né"), "score": score, "raw": raw,
            "embedding": [number as f32 / 3.0, 1e-45_f32, -0.0],
        })
    };
    let notes: Vec<_> = (first..first + rows).map(note).collect();
    http::done("POST", &format!("{url}/notes"), Some(&json!(notes)));
}

impl Drop for Reference {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
