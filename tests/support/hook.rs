//! A webhook's receiver: a real server on a free port of this machine that answers as it is told and keeps what it was sent.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU16, Ordering},
    },
};

use serde_json::Value as Json;

/// One request that was received.
#[derive(Debug, Clone)]
pub struct Posted {
    /// Its path with its query.
    pub path: String,
    /// By lower-case name.
    pub headers: BTreeMap<String, String>,
    /// The body to the byte.
    pub body: String,
}

impl Posted {
    /// The body as JSON.
    pub fn json(&self) -> Json {
        serde_json::from_str(&self.body).expect("JSON")
    }
}

/// The receiver; it stops when it is dropped.
pub struct Hook {
    address: String,
    posted: Arc<Mutex<Vec<Posted>>>,
    status: Arc<AtomicU16>,
    stopped: Arc<AtomicBool>,
}

impl Hook {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address").to_string();
        let (posted, status, stopped) =
            (Arc::<Mutex<Vec<Posted>>>::default(), Arc::new(AtomicU16::new(204)), Arc::<AtomicBool>::default());
        let (kept, answer, end) = (posted.clone(), status.clone(), stopped.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if end.load(Ordering::SeqCst) {
                    return;
                }
                if let Some(one) = stream.ok().and_then(|stream| receive(stream, answer.load(Ordering::SeqCst))) {
                    kept.lock().expect("whole").push(one);
                }
            }
        });
        Self { address, posted, status, stopped }
    }

    /// Where it listens, with a secret in its path.
    pub fn url(&self) -> String {
        format!("http://{}/hooks/hunter2?team=kb", self.address)
    }

    /// What it answers from now on.
    pub fn answer(&self, status: u16) {
        self.status.store(status, Ordering::SeqCst);
    }

    /// What it was sent, in order.
    pub fn posted(&self) -> Vec<Posted> {
        self.posted.lock().expect("whole").clone()
    }
}

impl Drop for Hook {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(&self.address);
    }
}

fn receive(mut stream: TcpStream, status: u16) -> Option<Posted> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let path = line.split(' ').nth(1)?.to_owned();
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim().split_once(':') else { break };
        headers.insert(name.to_lowercase(), value.trim().to_owned());
    }
    let mut body = vec![0; headers.get("content-length")?.parse().ok()?];
    reader.read_exact(&mut body).ok()?;
    let said = if status < 300 { "" } else { "no room" };
    write!(stream, "HTTP/1.1 {status} Said\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{said}", said.len()).ok()?;
    Some(Posted { path, headers, body: String::from_utf8(body).ok()? })
}
