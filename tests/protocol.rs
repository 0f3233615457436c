//! The store protocol on the wire: who may ask, whom is trusted, and answers that are cut off, late or none.

use std::{
    io::{Read, Write},
    net::TcpListener,
    path::Path,
    process::Command,
};

use lethe_stages::ports::{KnowledgeStore, PageLimit, PortError};
use lethe_stores::{Mapping, check_store, open_store};
use serde_json::json;
use uuid::Uuid;

use crate::support::{World, invariants, knowledge, reference::Reference};

const MAP: &str = "table=notes&plane_column=plane&plane=p1&key=id&embedding=embedding";
const ALL: PageLimit = PageLimit { rows_max: 1000, bytes_max: 1 << 20 };

fn open(url: &str) -> std::sync::Arc<dyn KnowledgeStore> {
    open_store(url, &Mapping::parse(MAP).expect("a mapping"), Uuid::from_u128(1)).expect("a store")
}

#[tokio::test]
async fn a_token_is_asked_for_and_stands_nowhere() {
    let world = World::new().await;
    let server = Reference::start(world.dir.path(), &["--token", "a-token-of-the-test"]);
    let refused = check_store(&server.url).await.expect_err("no token");
    assert!(matches!(&refused, PortError::Permanent(said) if said.contains("401")), "{refused}");
    let outside = tempfile::tempdir().expect("a folder");
    let file = outside.path().join("token");
    std::fs::write(&file, "wrong\n").expect("write a token");
    let url = format!("{}/?token_file={}", server.url, file.display());
    assert!(check_store(&url).await.is_err_and(|error| error.to_string().contains("401")), "a wrong one");
    std::fs::write(&file, "a-token-of-the-test\n").expect("write a token");
    for tenant in ["acme", "globex"] {
        world.call("user:root", "account.tenant.register", json!({"name": tenant})).await;
    }
    let added = json!({"name": "notes", "url": url, "tenants": ["acme"]});
    let added = world.call("user:root", "integrations.store.add", added).await;
    assert_eq!((&added["kind"], &added["check"]["tables"]), (&json!("protocol"), &json!(["notes"])), "{added}");
    let again =
        world.code("user:root", "integrations.store.add", json!({"name": "other", "url": url, "tenants": ["acme"]})).await;
    assert_eq!(again, "NAME_TAKEN", "it is the same store");
    assert_eq!(knowledge::occurrences(world.dir.path(), b"a-token-of-the-test"), 0, "the ledger holds the token");
    std::fs::remove_file(&file).expect("remove the token");
    let missing = world.refused("user:root", "integrations.store.check", json!({"name": "notes"})).await;
    assert!(missing.message.contains("token"), "{missing}");
    invariants::check(&world).await;
}

fn openssl(folder: &Path, arguments: &str) {
    let done = Command::new("openssl").args(arguments.split(' ')).current_dir(folder).output().expect("run openssl");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

#[tokio::test]
async fn a_certificate_must_be_signed_by_whom_is_trusted() {
    let dir = tempfile::tempdir().expect("a folder");
    let folder = dir.path();
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    for authority in ["ca", "other"] {
        openssl(folder, &format!("req -x509 {key} -subj /CN={authority} -days 2 -keyout {authority}.key -out {authority}.crt"));
    }
    openssl(folder, &format!("req {key} -subj /CN=localhost -keyout server.key -out server.csr"));
    std::fs::write(folder.join("names"), "subjectAltName=DNS:localhost\n").expect("write the names");
    openssl(folder, "x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile names -out server.crt");
    let path = |name: &str| folder.join(name).display().to_string();
    let server = Reference::start(folder, &["--certificate", &path("server.crt"), "--key", &path("server.key")]);
    let url = server.url.replace("http://127.0.0.1", "https://localhost");
    let trusting = |authority: &str| format!("{url}?ca_file={}", path(authority));
    check_store(&trusting("ca.crt")).await.expect("it is trusted");
    for (url, said) in [
        (url.clone(), "UnknownIssuer"),
        (trusting("other.crt"), "UnknownIssuer"),
        (trusting("ca.crt").replace("localhost", "127.0.0.1"), "not valid for name"),
    ] {
        let error = check_store(&url).await.expect_err("it is not trusted");
        assert!(matches!(&error, PortError::Permanent(_)) && error.to_string().contains(said), "{url}: {error}");
    }
    let plain = url.replace("https", "http");
    assert!(matches!(check_store(&plain).await, Err(PortError::Transient(_))), "it hangs up on who does not speak TLS");
}

/// A server that gives every request this answer.
fn answering(answer: &'static str) -> String {
    answering_in_pieces(vec![answer])
}

/// The same, in pieces that arrive one after the other.
fn answering_in_pieces(pieces: Vec<&'static str>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut asked = [0; 4096];
            let _ = stream.read(&mut asked);
            let _ = stream.set_nodelay(true);
            for piece in &pieces {
                let _ = stream.write_all(piece.as_bytes());
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
        }
    });
    url
}

#[tokio::test]
async fn an_answer_that_was_cut_off_is_asked_for_again_and_never_taken_for_fewer_records() {
    const HEAD: &str = r#"{"columns": [{"name": "id", "kind": "integer"}]}"#;
    for (answer, transient) in [
        ("HTTP/1.1 200 OK\r\ncontent-length: 5000\r\n\r\n{\"columns\": [{\"name\": \"id\", \"kind\": \"integer\"}]}\n", true),
        ("HTTP/1.1 200 OK\r\ncontent-length: 49\r\n\r\n{\"columns\": [{\"name\": \"id\", \"kind\": \"integer\"}]}\n", true),
        ("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", true),
        ("HTTP/1.1 503 Busy\r\ncontent-length: 22\r\n\r\n{\"message\": \"a while\"}", true),
        ("HTTP/1.1 429 Many\r\ncontent-length: 0\r\n\r\n", true),
        ("HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n", false),
        ("HTTP/1.1 404 None\r\ncontent-length: 5\r\n\r\nHello", false),
        ("HTTP/1.1 501 Never\r\ncontent-length: 0\r\n\r\n", false),
        ("HTTP/1.1 200 OK\r\ncontent-length: 12\r\n\r\n{\"rows\": []}", false),
        ("nonsense\r\n\r\n", true),
    ] {
        let error = open(&answering(answer)).page(None, ALL).await.expect_err(answer);
        assert_eq!(matches!(error, PortError::Transient(_)), transient, "{answer:?}: {error}");
    }
    let wrong = [
        (r#"{"key": 1, "version": 1, "values": [2]}"#, "another value in its key column"),
        (r#"{"key": 1, "version": 1, "values": []}"#, "0 value(s) for 1 column(s)"),
        (r#"{"key": 1, "version": 1, "values": ["one"]}"#, "no integer"),
        (r#"{"key": null, "version": 1, "values": [1]}"#, "no key"),
        (r#"{"end": true, "records": 7}"#, "counts 7"),
        (r#"{"row": 1}"#, "neither a record nor the end"),
    ];
    for (line, said) in wrong {
        let body = format!("{HEAD}\n{line}\n");
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        let error = open(&answering(Box::leak(answer.into_boxed_str()))).page(None, ALL).await.expect_err(line);
        assert!(matches!(&error, PortError::Permanent(_)) && error.to_string().contains(said), "{line}: {error}");
    }
    let refusal = ["HTTP/1.1 409 No\r\ncontent-length: 48\r\n\r\n{\"error\": \"stale", "_epoch\", \"mine\": 3, \"seen\": 4}  "];
    let error = open(&answering_in_pieces(refusal.into())).page(None, ALL).await.expect_err("a refusal");
    assert!(matches!(error, PortError::StaleEpoch { mine: 3, seen: 4 }), "read whole, however it arrives: {error}");
    let nobody = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
    let error = open(&format!("http://{nobody}")).count().await.expect_err("nobody is there");
    assert!(matches!(error, PortError::Transient(_)), "{error}");
}
