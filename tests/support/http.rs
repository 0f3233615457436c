//! JSON over HTTP, as a store's own users speak it: one request, one connection.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use serde_json::Value as Json;

/// Asks a server on this machine, and answers its status and what it says.
pub fn ask(method: &str, url: &str, body: Option<&Json>) -> Result<(u16, Json), String> {
    let rest = url.strip_prefix("http://").expect("an http URL");
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let body = body.map_or_else(String::new, Json::to_string);
    let said = |error: std::io::Error| format!("{method} {url}: {error}");
    let mut stream = TcpStream::connect(host).map_err(said)?;
    stream.set_read_timeout(Some(Duration::from_secs(60))).map_err(said)?;
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .map_err(said)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).map_err(said)?;
    let answer = String::from_utf8(answer).map_err(|error| error.to_string())?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(|| format!("{method} {url}: no answer"))?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or_else(|| head.to_owned())?;
    Ok((status, serde_json::from_str(body).unwrap_or(Json::String(body.to_owned()))))
}

/// The same, where the server must do it.
pub fn done(method: &str, url: &str, body: Option<&Json>) -> Json {
    match ask(method, url, body) {
        Ok((status, said)) if (200..300).contains(&status) => said,
        other => panic!("{method} {url}: {other:?}"),
    }
}
