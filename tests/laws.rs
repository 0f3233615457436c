//! Laws: what the sources and the schema must say, asked of them.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned()
}

/// Every file below these folders with this extension, with its text.
fn files(folders: &[&str], extension: &str) -> Vec<(String, String)> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in folder.read_dir().expect("read the folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() { walk(&path, found) } else { found.push(path) }
        }
    }
    let mut found = Vec::new();
    folders.iter().for_each(|folder| walk(&root().join(folder), &mut found));
    found.retain(|path| path.extension().is_some_and(|end| end == extension));
    assert!(!found.is_empty(), "the sources are where this test looks");
    let named = |path: &PathBuf| path.strip_prefix(root()).unwrap().display().to_string();
    found.iter().map(|path| (named(path), std::fs::read_to_string(path).expect("a text"))).collect()
}

const SOURCES: &[&str] = &["stages/src", "ledger/src", "stores/src", "worker/src"];

#[test]
fn time_is_read_in_one_place_and_never_by_the_database() {
    for (name, text) in files(SOURCES, "rs") {
        for word in ["Utc::now", "Local::now", "SystemTime::now", "Uuid::now_v7", "Uuid::new_v4"] {
            assert!(name == "worker/src/clock.rs" || !text.contains(word), "{name} reads {word}");
        }
    }
    let mut statements = files(&["migrations"], "sql");
    statements.extend(files(SOURCES, "rs"));
    for (name, text) in statements {
        let text = text.to_lowercase();
        for word in ["'now'", "current_timestamp", "current_date", "unixepoch(", "strftime(", "julianday(", "clock_timestamp("] {
            assert!(!text.contains(word), "{name} lets the database read the time: {word}");
        }
        // The server's clock, once for each transaction.
        let asked = text.matches("select now()").count() + text.matches(", now()").count() + text.matches("= now()").count();
        assert_eq!(asked, usize::from(name == "ledger/src/db.rs"), "{name} asks the server for the time");
    }
}

#[test]
fn what_is_disallowed_is_listed_and_every_exemption_is_one_of_these() {
    let listed: toml::Table = std::fs::read_to_string(root().join("clippy.toml")).unwrap().parse().unwrap();
    let paths: BTreeSet<_> =
        listed["disallowed-methods"].as_array().unwrap().iter().map(|one| one["path"].as_str().unwrap()).collect();
    let wanted = [
        "chrono::Utc::now",
        "chrono::Local::now",
        "std::time::SystemTime::now",
        "uuid::Uuid::new_v4",
        "uuid::Uuid::now_v7",
        "getrandom::fill",
        "sqlx::Transaction::commit",
    ];
    assert!(paths.is_superset(&wanted.into_iter().collect()), "{paths:?}");
    let exempt: Vec<_> = files(SOURCES, "rs")
        .into_iter()
        .flat_map(|(name, text)| vec![name; text.matches("clippy::disallowed_methods").count()])
        .collect();
    let mut exempt = exempt;
    exempt.sort();
    let known = [
        "ledger/src/db.rs",
        "stores/src/postgres/connect.rs",
        "stores/src/sqlite/connect.rs",
        "worker/src/clock.rs",
        "worker/src/clock.rs",
        "worker/src/demo/knowledge.rs",
    ];
    assert_eq!(exempt, known, "the clock, the randomness, and who may commit");
    let workspace: toml::Table = std::fs::read_to_string(root().join("Cargo.toml")).unwrap().parse().unwrap();
    assert_eq!(workspace["workspace"]["lints"]["rust"]["unsafe_code"].as_str(), Some("forbid"));
    for room in ["stages", "ledger", "stores", "worker"] {
        let manifest: toml::Table = std::fs::read_to_string(root().join(room).join("Cargo.toml")).unwrap().parse().unwrap();
        assert_eq!(manifest["lints"]["workspace"].as_bool(), Some(true), "{room} keeps the workspace's lints");
    }
}

#[test]
fn a_handler_cannot_reach_a_database_a_queue_or_a_network() {
    let locked: toml::Table = std::fs::read_to_string(root().join("Cargo.lock")).unwrap().parse().unwrap();
    let packages = locked["package"].as_array().unwrap();
    let mut reached = BTreeSet::from(["lethe-stages".to_owned()]);
    let mut todo = vec!["lethe-stages".to_owned()];
    while let Some(name) = todo.pop() {
        for package in packages.iter().filter(|package| package["name"].as_str() == Some(&name)) {
            for needed in package.get("dependencies").and_then(|list| list.as_array()).into_iter().flatten() {
                let needed = needed.as_str().unwrap().split(' ').next().unwrap().to_owned();
                if reached.insert(needed.clone()) {
                    todo.push(needed);
                }
            }
        }
    }
    assert!(reached.contains("serde_json"), "the walk walks: {reached:?}");
    for word in [
        "sqlx",
        "sqlite",
        "postgres",
        "tokio",
        "apalis",
        "hyper",
        "reqwest",
        "axum",
        "mio",
        "socket2",
        "aws",
        "object_store",
        "lethe-ledger",
    ] {
        let found = reached.iter().find(|name| name.starts_with(word) || name.ends_with(word));
        assert_eq!(found, None, "stages depends on {word}");
    }
}

#[test]
fn every_verb_that_destroys_takes_a_permit() {
    // What each verb of the two ports does to what somebody may still need; a verb that is not listed here is no verb yet.
    let destroys = ["erase", "erase_whole", "scrub", "may_delete", "delete", "close"];
    let spares = [
        "describe",
        "columns",
        "count",
        "page",
        "fence",
        "unfence",
        "refence",
        "state",
        "prove_empty",
        "look_again",
        "prefix",
        "encryption",
        "probe",
        "write_part",
        "read_part",
        "put",
        "get",
        "list",
        "report",
        "keep",
        "settle",
        "is_running",
        "suspend",
        "resume",
    ];
    let [ports, suspension] = ["stages/src/ports.rs", "stages/src/suspension.rs"]
        .map(|name| std::fs::read_to_string(root().join(name)).expect("the ports"));
    let ports =
        ports + suspension.split("#[cfg(test)]").next().and_then(|text| text.split_once("#[async_trait]")).expect("its ports").1;
    let mut seen = BTreeSet::new();
    for line in ports.lines().filter(|line| line.starts_with("    async fn ") || line.starts_with("    fn ")) {
        let (name, rest) = line.split_once("fn ").expect("a verb").1.split_once('(').expect("its arguments");
        let name = name.split('<').next().expect("a name");
        let takes = rest.contains("permit: &Permit");
        if destroys.contains(&name) {
            assert!(takes, "{name} destroys without a permit");
        } else {
            assert!(spares.contains(&name) || name == "add_assign", "{name}: does it destroy? It stands in neither list");
            assert!(!takes, "{name} takes a permit and destroys nothing");
        }
        seen.insert(name.to_owned());
    }
    let missing: Vec<_> = destroys.iter().filter(|name| !seen.contains(**name)).collect();
    assert!(missing.is_empty(), "{missing:?}");
    // A permit has one mint, and its fields are nobody's: without one, no driver's verb can be called. The drivers implement just these.
    let permit = std::fs::read_to_string(root().join("stages/src/permit.rs")).expect("the permit");
    assert_eq!(permit.matches("-> Result<Permit, Refusal>").count(), 1, "one mint");
    let fields = permit.split("pub struct Permit {").nth(1).and_then(|rest| rest.split('}').next()).expect("its fields");
    assert!(!fields.contains("pub "), "{fields}");
    let minted: Vec<_> =
        files(SOURCES, "rs").into_iter().filter(|(_, text)| text.contains("Permit::mint(")).map(|(name, _)| name).collect();
    assert_eq!(minted, ["worker/src/gate.rs", "worker/src/operations/conform.rs"], "who mints");
    let implemented = files(&["stores/src"], "rs").into_iter().map(|(_, text)| text);
    let drivers: usize = implemented
        .map(|text| text.matches("impl KnowledgeStore for ").count() + text.matches("impl Archive for ").count())
        .sum();
    assert!(drivers >= 6, "{drivers} drivers");
}
