//! Somebody between Lethe and Chroma: sees each request before the server does, does what users would do at that moment, and answers in
//! the server's place where it wants to.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
};

use crate::support::chroma::Chroma;

/// Asked with method and path, and with the body. An answer is a status and a body; none lets the request through.
type Hook = Box<dyn FnMut(&str, &str) -> Option<(u16, String)> + Send>;

/// A man in the middle; he lives as long as the process.
pub struct Between {
    /// The store's URL through him: another spelling of the same server.
    pub store_url: String,
    hook: Arc<Mutex<Hook>>,
}

impl Between {
    /// Before the server of a database.
    pub fn before(db: &Chroma) -> Self {
        let direct = db.store_url();
        let rest = direct.strip_prefix("chroma+http://").expect("a URL of Chroma's");
        let (server, path) = rest.split_once('/').expect("a path");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let store_url = format!("chroma+http://{}/{path}", listener.local_addr().expect("an address"));
        let hook: Arc<Mutex<Hook>> = Arc::new(Mutex::new(Box::new(|_, _| None)));
        let (shared, server) = (hook.clone(), server.to_owned());
        std::thread::spawn(move || {
            while let Ok((client, _)) = listener.accept() {
                let (hook, server) = (shared.clone(), server.clone());
                // What breaks here breaks for the client.
                std::thread::spawn(move || drop(through(client, &server, &hook)));
            }
        });
        Self { store_url, hook }
    }

    /// What happens from now on, in the place of what happened before.
    pub fn on(&self, hook: impl FnMut(&str, &str) -> Option<(u16, String)> + Send + 'static) {
        *self.hook.lock().expect("no hook panicked") = Box::new(hook);
    }

    /// Does this once, at the first request whose line holds one of these words and whose body holds `body`.
    pub fn once(&self, lines: &'static [&str], body: &'static str, act: impl FnOnce() -> Option<(u16, String)> + Send + 'static) {
        let mut act = Some(act);
        self.on(move |line, sent| {
            let is_it = lines.iter().any(|part| line.contains(part)) && sent.contains(body);
            is_it.then(|| act.take()).flatten().and_then(|act| act())
        });
    }
}

/// As a server answers whose process was killed: what was asked was not done.
pub fn killed() -> Option<(u16, String)> {
    Some((503, "{}".into()))
}

fn through(mut client: TcpStream, server: &str, hook: &Mutex<Hook>) -> std::io::Result<()> {
    let (head, body) = request(&mut client)?;
    let line = head.lines().next().unwrap_or_default();
    let answer = hook.lock().expect("no hook panicked")(line, &String::from_utf8_lossy(&body));
    if let Some((status, said)) = answer {
        write!(client, "HTTP/1.1 {status} said\r\ncontent-type: application/json\r\nconnection: close\r\n")?;
        return write!(client, "content-length: {}\r\n\r\n{said}", said.len());
    }
    let mut upstream = TcpStream::connect(server)?;
    let lines = head.lines().filter(|line| !line.is_empty() && !line.to_lowercase().starts_with("connection:"));
    let head = lines.chain(["connection: close"]).collect::<Vec<_>>().join("\r\n") + "\r\n\r\n";
    upstream.write_all(head.as_bytes())?;
    upstream.write_all(&body)?;
    std::io::copy(&mut upstream, &mut client).map(drop)
}

/// A request's head and body.
fn request(client: &mut TcpStream) -> std::io::Result<(String, Vec<u8>)> {
    let (mut read, mut buffer) = (Vec::new(), vec![0; 1 << 16]);
    loop {
        let end = read.windows(4).position(|window| window == b"\r\n\r\n").map(|end| end + 4);
        if let Some(end) = end {
            let head = String::from_utf8_lossy(&read[..end]).into_owned();
            let named = head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length:").map(str::to_owned));
            let length = named.and_then(|length| length.trim().parse::<usize>().ok()).unwrap_or(0);
            let mut body = read.split_off(end);
            let begun = body.len();
            body.resize(length.max(begun), 0);
            client.read_exact(&mut body[begun..])?;
            return Ok((head, body));
        }
        match client.read(&mut buffer)? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            some => read.extend_from_slice(&buffer[..some]),
        }
    }
}
