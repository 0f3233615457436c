//! A man in the middle between a driver and an HTTP server: counts requests, answers some itself, cuts connections in the middle of a body.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

/// Where a connection is cut.
#[derive(Debug, Clone, Copy)]
pub enum Cut {
    /// Before the server has heard of the request.
    Connection,
    /// After so many bytes of a request's body.
    Request(usize),
    /// After so many bytes of an answer, its head included.
    Answer(usize),
}

#[derive(Default)]
struct Plan {
    seen: Vec<String>,
    answers: Vec<(String, String)>,
    cuts: Vec<(String, Cut)>,
    hidden: Vec<String>,
}

/// The proxy. One request goes through each connection.
pub struct Proxy {
    pub endpoint: String,
    plan: Arc<Mutex<Plan>>,
    task: JoinHandle<()>,
}

impl Proxy {
    /// Before the server at `endpoint`, a URL.
    pub async fn before(endpoint: &str) -> Self {
        let upstream = endpoint.trim_start_matches("http://").trim_end_matches('/').to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let own = format!("http://{}", listener.local_addr().expect("an address"));
        let plan: Arc<Mutex<Plan>> = Arc::default();
        let shared = plan.clone();
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (plan, upstream) = (shared.clone(), upstream.clone());
                // What breaks here breaks for the client, which is the point.
                tokio::spawn(async move { drop(through(client, &upstream, &plan).await) });
            }
        });
        Self { endpoint: own, plan, task }
    }

    /// Requests whose first line holds `part`.
    pub fn seen(&self, part: &str) -> usize {
        self.plan.lock().unwrap().seen.iter().filter(|line| line.contains(part)).count()
    }

    /// Answers requests whose first line holds `part` with a status line and a body of XML.
    pub fn answer(&self, part: &str, status: &str, body: &str) {
        let text = format!(
            "HTTP/1.1 {status}\r\nContent-Type: application/xml\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        );
        self.plan.lock().unwrap().answers.push((part.to_owned(), text));
    }

    /// Cuts the next connection whose first line holds `part`.
    pub fn cut(&self, part: &str, cut: Cut) {
        self.plan.lock().unwrap().cuts.push((part.to_owned(), cut));
    }

    /// Lets everything through from now on.
    pub fn mend(&self) {
        self.plan.lock().unwrap().cuts.clear();
    }

    /// Cuts that have not happened yet.
    pub fn cuts_left(&self) -> usize {
        self.plan.lock().unwrap().cuts.len()
    }

    /// Renames a header of every answer, so that nobody understands it.
    pub fn hide(&self, header: &str) {
        self.plan.lock().unwrap().hidden.push(header.to_lowercase());
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn through(mut client: TcpStream, upstream: &str, plan: &Mutex<Plan>) -> std::io::Result<()> {
    let (head, mut body) = head_of(&mut client).await?;
    let first = head.lines().next().unwrap_or_default().to_owned();
    let length = |head: &str| {
        let value =
            head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length:").map(|rest| rest.trim().to_owned()));
        value.and_then(|value| value.parse::<usize>().ok()).unwrap_or(0)
    };
    let (answer, cut, hidden) = {
        let mut plan = plan.lock().unwrap();
        plan.seen.push(first.clone());
        let answer = plan.answers.iter().find(|(part, _)| first.contains(part)).map(|(_, text)| text.clone());
        let at = plan.cuts.iter().position(|(part, _)| first.contains(part));
        (answer, at.map(|at| plan.cuts.remove(at).1), plan.hidden.clone())
    };
    if head.to_lowercase().contains("expect: 100-continue") {
        client.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
    }
    let wanted = match cut {
        Some(Cut::Request(after)) => after.min(length(&head)),
        _ => length(&head),
    };
    let mut buffer = vec![0; 1 << 16];
    while body.len() < wanted {
        let read = client.read(&mut buffer).await?;
        if read == 0 {
            return Ok(());
        }
        body.extend_from_slice(&buffer[..read]);
    }
    body.truncate(wanted);
    if matches!(cut, Some(Cut::Connection)) {
        return Ok(());
    }
    if let Some(text) = answer {
        client.write_all(text.as_bytes()).await?;
        return client.shutdown().await;
    }
    let mut server = TcpStream::connect(upstream).await?;
    let lines = head.lines().filter(|line| {
        let line = line.to_lowercase();
        !line.is_empty() && !line.starts_with("connection:") && !line.starts_with("expect:")
    });
    let head = lines.chain(["Connection: close"]).collect::<Vec<_>>().join("\r\n") + "\r\n\r\n";
    server.write_all(head.as_bytes()).await?;
    server.write_all(&body).await?;
    if matches!(cut, Some(Cut::Request(_))) {
        // The server gets what there was, as from a client that was killed.
        tokio::time::sleep(Duration::from_millis(20)).await;
        return Ok(());
    }
    let mut answer = Vec::new();
    server.read_to_end(&mut answer).await?;
    if let Some(Cut::Answer(after)) = cut {
        answer.truncate(after);
    }
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap_or(answer.len());
    if !hidden.is_empty() {
        let lines = String::from_utf8_lossy(&answer[..end]).into_owned();
        let hide = |line: &str| hidden.iter().any(|header| line.to_lowercase().starts_with(&format!("{header}:")));
        let kept: Vec<&str> = lines.split("\r\n").filter(|line| !hide(line)).collect();
        answer.splice(..end, kept.join("\r\n").into_bytes());
    }
    client.write_all(&answer).await?;
    client.shutdown().await
}

/// The head of a request, and what came of its body with it.
async fn head_of(client: &mut TcpStream) -> std::io::Result<(String, Vec<u8>)> {
    let mut bytes = Vec::new();
    let mut buffer = vec![0; 1 << 14];
    loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let body = bytes.split_off(end + 4);
            return Ok((String::from_utf8_lossy(&bytes).into_owned(), body));
        }
        let read = client.read(&mut buffer).await?;
        if read == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        bytes.extend_from_slice(&buffer[..read]);
    }
}
