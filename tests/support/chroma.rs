//! Chroma as its applications use it: a database of the test's own on the server that `tests/servers` started, or a server of its own.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use serde_json::{Value as Json, json};

use super::{http, server::variable};

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// A database.
pub struct Chroma {
    server: String,
    name: String,
    own: Option<Own>,
}

/// A server of the test's own, which ends with it.
struct Own {
    folder: PathBuf,
    port: u16,
    process: Option<Child>,
}

const RUN: &str = "import sys, chromadb_rust_bindings; chromadb_rust_bindings.cli(['chroma', *sys.argv[1:]])";

/// Chroma's command.
fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(variable("LETHE_TEST_CHROMA_PYTHON"));
    command.arg("-c").arg(RUN).args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

impl Chroma {
    /// A database on the server that all tests share.
    pub fn database() -> Self {
        Self::of(variable("LETHE_TEST_CHROMA"), None)
    }

    /// A database on a server of its own, over files in `folder`.
    pub fn apart(folder: &Path) -> Self {
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = free.local_addr().expect("an address").port();
        drop(free);
        let mut own = Own { folder: folder.to_owned(), port, process: None };
        own.start();
        Self::of(format!("http://127.0.0.1:{port}"), Some(own))
    }

    fn of(server: String, own: Option<Own>) -> Self {
        let name = format!("t{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        http::done("POST", &format!("{server}/api/v2/tenants/default_tenant/databases"), Some(&json!({"name": name})));
        Self { server, name, own }
    }

    /// Stops the server and starts it again over the same files.
    pub fn restart(&mut self) {
        self.stop();
        self.start();
    }

    /// Stops the server, as a crash would.
    pub fn stop(&mut self) {
        self.own.as_mut().expect("a server of its own").stop();
    }

    /// Starts it again, over the same files.
    pub fn start(&mut self) {
        self.own.as_mut().expect("a server of its own").start();
    }

    /// Has the server's files written anew, without what was deleted.
    pub fn vacuum(&self) {
        let folder = self.own.as_ref().expect("a server of its own").folder.display().to_string();
        let status = command(&["vacuum", "--path", &folder, "--force"]).status().expect("run chroma vacuum");
        assert!(status.success(), "chroma vacuum: {status}");
    }

    /// The store's URL for Lethe.
    pub fn store_url(&self) -> String {
        format!("chroma+{}/default_tenant/{}", self.server, self.name)
    }

    fn path(&self, below: &str) -> String {
        format!("{}/api/v2/tenants/default_tenant/databases/{}{below}", self.server, self.name)
    }

    /// The URL of a collection's verb.
    pub fn url(&self, collection: &str, verb: &str) -> String {
        let id = self.id(collection).unwrap_or_else(|| panic!("there is no collection {collection}"));
        self.path(&format!("/collections/{id}/{verb}"))
    }

    /// Removes a collection.
    pub fn drop_collection(&self, name: &str) {
        http::done("DELETE", &self.path(&format!("/collections/{name}")), None);
    }

    /// The collection's id.
    pub fn id(&self, collection: &str) -> Option<String> {
        let (status, found) = http::ask("GET", &self.path(&format!("/collections/{collection}")), None).expect("an answer");
        (status == 200).then(|| found["id"].as_str().expect("an id").to_owned())
    }

    /// Posts to a verb of a collection.
    pub fn on(&self, collection: &str, verb: &str, body: &Json) -> Json {
        http::done("POST", &self.url(collection, verb), Some(body))
    }

    /// Makes a collection of this configuration.
    pub fn made(&self, name: &str, configuration: &Json) {
        http::done("POST", &self.path("/collections"), Some(&json!({"name": name, "configuration": configuration})));
    }

    /// Gives a collection another name.
    pub fn rename(&self, name: &str, new: &str) {
        let id = self.id(name).unwrap_or_else(|| panic!("there is no collection {name}"));
        http::done("PUT", &self.path(&format!("/collections/{id}")), Some(&json!({"new_name": new})));
    }

    /// The names of all collections, in order.
    pub fn collections(&self) -> Vec<String> {
        let found = http::done("GET", &self.path("/collections"), None);
        let mut names: Vec<_> =
            found.as_array().expect("a list").iter().map(|one| one["name"].as_str().expect("a name").to_owned()).collect();
        names.sort();
        names
    }

    /// A collection with so many records per plane, each with the text `marker-PLANE-NUMBER`.
    pub fn collection(&self, name: &str, planes: &[(&str, usize)]) {
        http::done("POST", &self.path("/collections"), Some(&json!({"name": name, "get_or_create": true})));
        for (plane, rows) in planes {
            self.add(name, plane, 0..*rows);
        }
    }

    /// Adds records to a plane.
    pub fn add(&self, collection: &str, plane: &str, numbers: std::ops::Range<usize>) {
        for some in numbers.collect::<Vec<_>>().chunks(1000) {
            let ids: Vec<_> = some.iter().map(|number| format!("{plane}/{number:06}\né")).collect();
            let documents: Vec<_> =
                some.iter().map(|number| (number % 5 > 0).then(|| format!("marker-{plane}-{number} lorem ipsum"))).collect();
            let metadatas: Vec<_> = some
                .iter()
                .map(|number| json!({"plane": plane, "page": number, "score": *number as f64 / 7.0, "tags": ["a", "b"], "public": number % 2 == 0}))
                .collect();
            let embeddings: Vec<_> = some.iter().map(|number| vector(plane, *number)).collect();
            self.on(
                collection,
                "add",
                &json!({"ids": ids, "embeddings": embeddings, "documents": documents, "metadatas": metadatas}),
            );
        }
    }

    /// The records of a plane, or of the whole collection, in order.
    pub fn records(&self, collection: &str, plane: Option<&str>) -> Vec<String> {
        let mut body = json!({"include": ["documents", "embeddings", "metadatas", "uris"]});
        if let Some(plane) = plane {
            body["where"] = json!({"plane": plane});
        }
        let found = self.on(collection, "get", &body);
        let ids = found["ids"].as_array().expect("ids");
        // The server gives the fields of metadata in another order each time.
        let part = |name: &str, place: usize| in_order(&found[name][place]);
        let each = ["documents", "embeddings", "metadatas", "uris"];
        let mut lines: Vec<_> =
            ids.iter().enumerate().map(|(place, id)| format!("{id} {}", each.map(|name| part(name, place)).join(" "))).collect();
        lines.sort();
        lines
    }

    /// The ids of the nearest neighbours of a record's vector.
    pub fn nearest(&self, collection: &str, plane: &str, number: usize) -> Vec<String> {
        let found =
            self.on(collection, "query", &json!({"query_embeddings": [vector(plane, number)], "n_results": 5, "include": []}));
        found["ids"][0].as_array().expect("ids").iter().map(|id| id.as_str().expect("an id").to_owned()).collect()
    }
}

/// JSON whose fields stand in the order of their names.
fn in_order(value: &Json) -> String {
    match value {
        Json::Object(fields) => json!(fields.iter().collect::<std::collections::BTreeMap<_, _>>()).to_string(),
        other => other.to_string(),
    }
}

/// A vector that no other record has, in any direction.
pub fn vector(plane: &str, number: usize) -> Vec<f32> {
    let seed = plane.bytes().fold(0, |seed: u64, byte| seed * 1_000 + u64::from(byte)) * 1_000_000 + number as u64;
    // SplitMix64's mixing; 24 bits are a float's.
    let mixed = |axis: u64| {
        let mut word = (seed * 8 + axis + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (word ^ (word >> 31)) >> 40
    };
    (0..8).map(|axis| mixed(axis) as f32 / (1 << 23) as f32 - 1.0).collect()
}

impl Own {
    fn start(&mut self) {
        std::fs::create_dir_all(&self.folder).expect("a folder");
        let (port, path) = (self.port.to_string(), self.folder.display().to_string());
        let process = command(&["run", "--host", "127.0.0.1", "--port", &port, "--path", &path]).spawn().expect("start Chroma");
        self.process = Some(process);
        let until = Instant::now() + Duration::from_secs(60);
        let heartbeat = format!("http://127.0.0.1:{port}/api/v2/heartbeat");
        while http::ask("GET", &heartbeat, None).is_err() {
            assert!(Instant::now() < until, "Chroma does not answer");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        self.stop();
    }
}
