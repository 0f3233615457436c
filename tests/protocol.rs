//! The store protocol on the wire: who may ask, whom is trusted, and answers that are cut off, late or none.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use lethe_stages::{
    lifecycle::FenceMode,
    ports::{KnowledgeStore, PageLimit, PortError},
    record::{Key, RecordDigest, Salt},
};
use lethe_stores::{Mapping, check_store, open_registered_store, open_store};
use serde_json::{Value as Json, json};
use uuid::Uuid;

use crate::support::{World, http, invariants, knowledge, permit::permit, reference::Reference};

const MAP: &str = "table=notes&plane_column=plane&plane=p1&key=id&embedding=embedding";
const ALL: PageLimit = PageLimit { rows_max: 1000, bytes_max: 1 << 20 };

fn open(url: &str) -> Arc<dyn KnowledgeStore> {
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

/// A server that describes itself, and gives every other request this answer.
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
            if asked.starts_with(b"POST /describe") {
                let said = described().to_string();
                let _ = write!(stream, "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{said}", said.len());
                continue;
            }
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
        (r#"{"key": "one", "version": 1, "values": [1]}"#, "no key of its column's kind"),
        // As Python writes it.
        (r#"{"key": 1, "version": 1, "values": [NaN]}"#, "neither NaN nor infinities"),
        (r#"{"key": 1, "version": 1, "values": [-Infinity]}"#, "neither NaN nor infinities"),
    ];
    for (line, said) in wrong {
        let error = open(&exporting(format!("{HEAD}\n{line}\n"))).page(None, ALL).await.expect_err(line);
        assert!(matches!(&error, PortError::Permanent(_)) && error.to_string().contains(said), "{line}: {error}");
    }
    let cut = exporting(format!("{HEAD}\n{{\"key\": 1, \"version\": 1, \"val"));
    let error = open(&cut).page(None, ALL).await.expect_err("cut off in a line");
    assert!(matches!(error, PortError::Transient(_)), "{error}");
    let refusal = ["HTTP/1.1 409 No\r\ncontent-length: 48\r\n\r\n{\"error\": \"stale", "_epoch\", \"mine\": 3, \"seen\": 4}  "];
    let error = open(&answering_in_pieces(refusal.into())).page(None, ALL).await.expect_err("a refusal");
    assert!(matches!(error, PortError::StaleEpoch { mine: 3, seen: 4 }), "read whole, however it arrives: {error}");
    let nobody = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
    let error = open(&format!("http://{nobody}")).count().await.expect_err("nobody is there");
    assert!(matches!(error, PortError::Transient(_)), "{error}");
}

/// The scope as most servers of this file describe it.
fn described() -> Json {
    json!({"resource": "notes", "plane_column": "plane", "plane": "p1", "columns": [{"name": "id", "kind": "integer"}]})
}

/// A server that describes itself, and exports this.
fn exporting(lines: String) -> String {
    serving(move |asked| match asked.verb.as_str() {
        "describe" => (200, described()),
        "count" => (200, json!({"count": 1})),
        _ => (200, json!(lines)),
    })
}

/// What a server is asked.
struct Asked {
    method: String,
    verb: String,
    head: String,
    body: Json,
}

/// A server that answers each request as `answer` says: a status and JSON, or lines of it as a string.
fn serving(answer: impl Fn(&Asked) -> (u16, Json) + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let answer = Arc::new(answer);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let answer = answer.clone();
            std::thread::spawn(move || converse(stream, &*answer));
        }
    });
    url
}

fn converse(mut stream: TcpStream, answer: &dyn Fn(&Asked) -> (u16, Json)) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            (reader.read_line(&mut head).ok()? > 0).then_some(())?;
        }
        let length = head.to_lowercase().lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
        let mut body = vec![0; length.unwrap_or_default()];
        reader.read_exact(&mut body).ok()?;
        let mut words = head.split(' ');
        let (method, path) = (words.next()?.to_owned(), words.next()?);
        let verb = path.trim_start_matches('/').to_owned();
        let (status, said) = answer(&Asked { method, verb, head, body: serde_json::from_slice(&body).unwrap_or_default() });
        let said = said.as_str().map_or_else(|| said.to_string(), str::to_owned);
        write!(stream, "HTTP/1.1 {status} So\r\ncontent-length: {}\r\n\r\n{said}", said.len()).ok()?;
    }
}

/// What the server at `url` answers to that.
fn relayed(url: &str, asked: &Asked) -> (u16, Json) {
    let body = (asked.method == "POST").then_some(&asked.body);
    http::ask(&asked.method, &format!("{url}/{}", asked.verb), body).expect("the reference server answers")
}

/// Tenant acme with a plane of the notes `p1` of the server at `url`.
async fn with_plane(world: &World, url: &str) -> String {
    world.call("user:root", "account.tenant.register", json!({"name": "acme"})).await;
    world.call("user:root", "integrations.store.add", json!({"name": "notes", "url": url, "tenants": ["acme"]})).await;
    let plane = world.call("user:root", "knowledge.plane.register", plane_of(world, "handbook", "p1")).await;
    plane["plane_id"].as_str().expect("an id").to_owned()
}

fn plane_of(world: &World, name: &str, value: &str) -> Json {
    let store = format!("notes?table=notes&plane_column=plane&plane={value}&key=id&text=body&embedding=embedding");
    let archive = format!("file://{}", world.dir.path().join("archive").display());
    json!({"tenant": "acme", "name": name, "stores": [store], "archive": archive})
}

#[tokio::test]
async fn another_store_at_the_same_address_is_the_wrong_place_for_every_verb() {
    let (world, elsewhere) = (World::new().await, tempfile::tempdir().expect("a folder"));
    let (ours, empty) = (Reference::start(world.dir.path(), &[]), Reference::start(elsewhere.path(), &[]));
    ours.fill("p1", 1, 25);
    let swapped = Arc::new(AtomicBool::new(false));
    let (is_swapped, urls) = (swapped.clone(), [ours.url.clone(), empty.url.clone()]);
    let url = serving(move |asked| {
        let swapped = is_swapped.load(Ordering::SeqCst);
        let (status, mut said) = relayed(&urls[usize::from(swapped)], asked);
        if swapped && asked.verb.is_empty() {
            said["store_id"] = json!("elsewhere");
        }
        (status, said)
    });
    let plane = with_plane(&world, &url).await;
    for step in ["deregister", "export", "evict", "purge"] {
        if step == "deregister" {
            world.reach(&plane, step).await
        } else {
            world.reach_next(&plane, step).await
        }
        swapped.store(true, Ordering::SeqCst);
        world.drain().await;
        assert_eq!(world.run(&plane).await, (step.to_owned(), "halted".to_owned()), "{}", world.status(&plane).await);
        let error = &world.status(&plane).await["offboarding"]["last_error"];
        let said = error["message"].as_str().expect("a message");
        assert_eq!(error["code"], "WRONG_PLACE", "{error}");
        assert!(said.contains("`protocol:reference`") && said.contains("`protocol:elsewhere`"), "{error}");
        let checked = world.refused("user:root", "integrations.store.check", json!({"name": "notes"})).await;
        assert!(checked.code.as_str() == "STORE_UNUSABLE" && checked.message.contains("`protocol:elsewhere`"), "{checked}");
        let other = world.refused("user:root", "knowledge.plane.register", plane_of(&world, "other", "p9")).await;
        assert!(other.message.contains("another store"), "{other}");
        swapped.store(false, Ordering::SeqCst);
        world.call("user:alice", "knowledge.offboarding.retry", json!({"plane": plane, "reason": "it is back"})).await;
    }
    world.drain().await;
    assert_eq!(world.state(&plane).await, "PURGED", "{}", world.status(&plane).await);
    world.call("user:root", "integrations.store.check", json!({"name": "notes"})).await;

    swapped.store(true, Ordering::SeqCst);
    let mapping = Mapping::parse(MAP).expect("a mapping");
    let store = open_registered_store(&url, "protocol:reference", &mapping, Uuid::from_u128(1)).expect("a store");
    let answers = [
        ("describe", store.describe().await.map(drop)),
        ("columns", store.columns().await.map(drop)),
        ("count", store.count().await.map(drop)),
        ("page", store.page(None, ALL).await.map(drop)),
        ("fence", store.fence(FenceMode::Closed, 1).await.map(drop)),
        ("unfence", store.unfence(1).await),
        ("refence", store.refence(FenceMode::Closed, 1).await),
        ("prove_empty", store.prove_empty(&[]).await.map(drop)),
        ("look_again", store.look_again(&[], &Salt([0; 32])).await.map(drop)),
    ];
    let permit = permit(Uuid::from_u128(1), 1);
    let destroys = [
        ("erase", store.erase(&permit, &[(Key::Integer(1), RecordDigest([0; 32]))], None).await.map(drop)),
        ("scrub", store.scrub(&permit).await.map(drop)),
    ];
    for (verb, answer) in answers.into_iter().chain(destroys) {
        assert!(matches!(answer, Err(PortError::WrongPlace(_))), "{verb}: {answer:?}");
    }
    invariants::check(&world).await;
}

#[tokio::test]
async fn an_answer_whose_head_is_not_what_was_described_is_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    let server = Reference::start(dir.path(), &[]);
    server.fill("p1", 1, 5);
    let sample = open(&server.url).page(None, ALL).await.expect("a page");
    type Change = fn(&mut Vec<Json>);
    let changes: [(Change, &str); 4] = [
        (|columns| columns.swap(2, 4), "column 3 is `body` (text) in the head, and `raw` (bytes)"),
        (|columns| columns[2]["name"] = json!("title"), "column 3 is `body` (text) in the head, and `title` (text)"),
        (|columns| columns[3]["kind"] = json!("integer"), "column 4 is `score` (real) in the head, and `score` (integer)"),
        (|columns| drop(columns.pop()), "the head names 6 column(s), and `describe` 5"),
    ];
    for (change, said) in changes {
        let upstream = server.url.clone();
        let url = serving(move |asked| {
            let (status, mut said) = relayed(&upstream, asked);
            if let (Some(columns), "describe") = (said.get_mut("columns").and_then(Json::as_array_mut), asked.verb.as_str()) {
                change(columns);
            }
            (status, said)
        });
        let error = open(&url).page(None, ALL).await.expect_err(said);
        assert!(matches!(&error, PortError::Permanent(_)) && error.to_string().contains(said), "{error}");
    }
    open(&server.url).fence(FenceMode::Closed, 1).await.expect("a fence, so that there is what to prove by");
    let upstream = server.url.clone();
    let url = serving(move |asked| {
        let (status, said) = relayed(&upstream, asked);
        let renamed = |said: &str| json!(said.replacen("\"body\"", "\"title\"", 1));
        let said = if asked.verb == "lookup" { said.as_str().map(renamed).unwrap_or_default() } else { said };
        (status, said)
    });
    let error = open(&url).prove_empty(&sample).await.expect_err("looked up under another head");
    assert!(matches!(&error, PortError::Permanent(_)) && error.to_string().contains("`title` (text) in the head"), "{error}");
}

/// That a server's words were shortened, and carry neither its token nor what a terminal obeys.
fn is_fit(said: &str) {
    assert!(said.chars().count() < 600, "{} characters: {said:.100}", said.chars().count());
    assert!(!said.contains(TOKEN) && !said.contains(char::is_control), "{said:?}");
}

const TOKEN: &str = "a-token-of-the-test";

#[tokio::test]
async fn what_a_server_says_is_repeated_without_its_token_and_never_whole() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("token");
    std::fs::write(&file, TOKEN).expect("write a token");
    let url = |lines: &'static str| {
        let url = serving(move |asked| {
            // The request's own header is sent back, in red.
            let said = format!("\u{1b}[31m {} {}", asked.head, "x".repeat(500));
            let many = vec![said.clone(); 300];
            match (asked.verb.as_str(), lines) {
                ("", _) => {
                    let mut greeting = json!({"protocol": "lethe-store", "version": 1, "store_id": "s", "writable": true});
                    (greeting["server"], greeting["resources"]) = (json!(said), json!(many));
                    (200, greeting)
                }
                ("describe", _) => {
                    let mut answer = described();
                    (answer["dependents"], answer["unfenced"]) = (json!(many), json!(many));
                    (200, answer)
                }
                ("count", _) => (200, json!({"count": said})),
                ("fence", _) => (200, json!({"mode": "closed", "unfenced": many})),
                ("unfence", _) => (500, json!({"message": said})),
                ("probe", _) => (409, json!({"error": "wrong_place", "message": said})),
                (_, "") => (403, json!({"error": "forbidden", "message": said})),
                (_, lines) => (200, json!(lines.replace("SAID", json!(said).to_string().trim_matches('"')))),
            }
        });
        format!("{url}/?token_file={}", file.display())
    };
    let checked = check_store(&url("")).await.expect("it greets");
    is_fit(checked.server.as_ref().expect("words"));
    let store = open(&url(""));
    let (description, report) = (store.describe().await.expect("words"), store.fence(FenceMode::Closed, 1).await.expect("words"));
    for listed in [&checked.tables, &description.dependents, &description.unfenced, &report.unfenced] {
        assert_eq!(listed.len(), 101, "they are counted beyond the first hundred");
        listed.iter().for_each(|said| is_fit(said));
    }
    let mut errors = vec![
        store.count().await.expect_err("no number"),
        store.unfence(1).await.expect_err("an error of the server's"),
        store.prove_empty(&[]).await.expect_err("the wrong place"),
        store.page(None, ALL).await.expect_err("forbidden"),
    ];
    for lines in [
        "{\"columns\": [{\"name\": \"id\", \"kind\": \"integer\"}]}\n{\"error\": \"SAID\"}\n",
        "{\"columns\": [{\"name\": \"id\", \"kind\": \"integer\"}]}\n{\"key\": [\"SAID\"], \"version\": 1, \"values\": [1]}\n",
        "{\"columns\": [{\"name\": \"SAID\", \"kind\": \"integer\"}]}\n",
        "{\"columns\": [{\"name\": \"id\", \"kind\": \"SAID\"}]}\n",
    ] {
        errors.push(open(&url(lines)).page(None, ALL).await.expect_err(lines));
    }
    errors.iter().for_each(|error| is_fit(&error.to_string()));
}

/// A server that answers lookups, made of what the reference server answers to a verb, with `change` of its lines.
fn looking_up(server: &Reference, verb: &'static str, change: fn(Vec<String>) -> Vec<String>) -> String {
    let upstream = server.url.clone();
    serving(move |asked| {
        if asked.verb != "lookup" {
            return relayed(&upstream, asked);
        }
        let mut body = asked.body.clone();
        (body["after"], body["rows_max"]) = (Json::Null, json!(100));
        let asked = Asked { method: "POST".into(), verb: verb.into(), head: String::new(), body };
        let (status, said) = relayed(&upstream, &asked);
        let lines = change(said.as_str().expect("lines").lines().map(str::to_owned).collect());
        (status, json!(lines.join("\n") + "\n"))
    })
}

#[tokio::test]
async fn a_lookup_that_gives_more_than_was_asked_for_is_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    let server = Reference::start(dir.path(), &[]);
    server.fill("p1", 1, 5);
    let page = open(&server.url).page(None, ALL).await.expect("a page");
    let rows = [(page[0].key.clone(), page[0].digest(None))];
    let twice: fn(Vec<String>) -> Vec<String> = |mut lines| {
        lines.insert(1, lines[1].clone());
        lines
    };
    let long: fn(Vec<String>) -> Vec<String> = |mut lines| {
        lines[1] = lines[1].replacen("\"version\": \"", &format!("\"version\": \"{}", "x".repeat(2000)), 1);
        lines
    };
    for (verb, change, said) in [
        ("export", (|lines| lines) as fn(_) -> _, "key 2 comes, and was not asked for"),
        ("lookup", twice, "key 1 comes more often than it may"),
        ("lookup", long, "the version of key 1 has more than 1024 bytes"),
    ] {
        let erased = open(&looking_up(&server, verb, change)).erase(&permit(Uuid::from_u128(1), 1), &rows, None).await;
        let error = erased.expect_err(said);
        assert!(matches!(&error, PortError::Permanent(_)) && error.to_string().contains(said), "{error}");
    }
    assert_eq!(open(&server.url).count().await.expect("a count"), 5);
}

#[tokio::test]
async fn an_export_that_goes_on_past_its_own_count_is_stopped() {
    let url = serving(|asked| match asked.verb.as_str() {
        "describe" => (200, described()),
        "count" => (200, json!({"count": 250})),
        _ => {
            let first = asked.body["after"].as_i64().unwrap_or_default() + 1;
            let records = first..first + 100;
            let lines: String = records.map(|key| format!("{}\n", json!({"key": key, "version": 1, "values": [key]}))).collect();
            (200, json!(format!("{{\"columns\": {}}}\n{lines}{{\"end\": true, \"records\": 100}}\n", described()["columns"])))
        }
    });
    let store = open(&url);
    let mut after: Option<Key> = None;
    for page in 1..=3 {
        let read = store.page(after.as_ref(), ALL).await;
        if page == 3 {
            let error = read.expect_err("it goes on past its count");
            assert!(matches!(&error, PortError::Permanent(_)) && error.to_string().contains("300 record(s)"), "{error}");
            return;
        }
        after = read.expect("a page").pop().map(|last| last.key);
    }
}

#[tokio::test]
async fn a_delete_whose_numbers_are_not_what_was_asked_for_is_refused_however_large_they_are() {
    let dir = tempfile::tempdir().expect("a folder");
    let server = Reference::start(dir.path(), &[]);
    server.fill("p1", 1, 5);
    let page = open(&server.url).page(None, ALL).await.expect("a page");
    let rows: Vec<_> = page.iter().map(|record| (record.key.clone(), record.digest(None))).collect();
    for deleted in [4, 6, u64::MAX] {
        let upstream = server.url.clone();
        let url = serving(move |asked| match asked.verb.as_str() {
            // With the largest number, the sum would be that of the rows again.
            "delete" => (200, json!({"deleted": deleted, "absent": if deleted == u64::MAX { 6 } else { 0 }, "changed": 0})),
            _ => relayed(&upstream, asked),
        });
        let error = open(&url).erase(&permit(Uuid::from_u128(1), 1), &rows, None).await.expect_err("not their number");
        let said = error.to_string();
        assert!(
            matches!(error, PortError::Permanent(_)) && said.contains(&format!("the server says {deleted} deleted")),
            "{said}"
        );
    }
}

#[tokio::test]
async fn integers_may_be_strings_as_values_and_as_keys() {
    let record = r#"{"key": "9007199254740993", "version": 1, "values": ["9007199254740993"]}"#;
    let lines = format!("{{\"columns\": {}}}\n{record}\n{{\"end\": true, \"records\": 1}}\n", described()["columns"]);
    let page = open(&exporting(lines)).page(None, ALL).await.expect("a page");
    assert_eq!(page[0].key, Key::Integer(9_007_199_254_740_993));
}
