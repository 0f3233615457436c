//! Every column of every table that the trail and its log rest on: the program's role may not change it, and where somebody with more rights
//! does, verifying finds it and names the place. The same for rows that are deleted, cut off, doubled and put in another order.

use serde_json::json;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};

use crate::support::{
    World, invariants,
    ledger::{TestLedger, either},
    log::Log,
};

/// A table, a row of it, and the columns that say nothing about the past.
struct Table {
    name: &'static str,
    row: String,
    /// What is of the moment: who publishes just now, why nothing is sealed, how far was looked.
    of_the_moment: &'static [&'static str],
}

fn tables(plane: &str) -> Vec<Table> {
    let of_entry = "event_id = (SELECT event_id FROM trail WHERE place = 6)";
    let table = |name, row: &str, of_the_moment| Table { name, row: row.to_owned(), of_the_moment };
    vec![
        table("trail", "place = 6", &[]),
        table("trail_values", &format!("{of_entry} AND field = 'actor_id'"), &[]),
        // When it was moved decides only how the next entry is dated.
        table("chains", &format!("chain = 'plane:{plane}'"), &["at"]),
        table("leaves", "leaf_index = 5", &[]),
        table("log_tiles", "level = 0 AND tile_index = 0", &[]),
        table("checkpoints", "size = (SELECT min(size) FROM checkpoints)", &[]),
        table("log_keys", "true", &["retired_at"]),
        table(
            "log",
            "true",
            &[
                "only",
                "sealed_below",
                "published_size",
                "publisher",
                "publisher_until",
                "stopped_since",
                "stopped_why",
                "ahead_place",
                "ahead_xid",
            ],
        ),
    ]
}

/// Columns with their types.
async fn columns(world: &World, table: &str) -> Vec<(String, String)> {
    let from = if crate::ON_POSTGRES {
        format!(
            "FROM information_schema.columns WHERE table_schema = 'public' AND table_name = '{table}' ORDER BY ordinal_position"
        )
    } else {
        format!("FROM pragma_table_info('{table}') ORDER BY cid")
    };
    let (name, kind) = either("name type", "column_name udt_name").split_once(' ').unwrap();
    let names = world.texts(&format!("SELECT CAST({name} AS text) {from}")).await;
    let kinds = world.texts(&format!("SELECT CAST({kind} AS text) {from}")).await;
    assert!(!names.is_empty(), "{table}");
    names.into_iter().zip(kinds).collect()
}

/// Another value of a column.
fn other(table: &str, column: &str, kind: &str) -> String {
    match (table, column, kind.to_ascii_lowercase().as_str()) {
        ("leaves", "outcome", _) => "'FAILED'".into(),
        ("trail_values", "field", _) => "'reason_'".into(),
        // Of the tables that have them, and where NULL stands too.
        (_, "plane_id" | "offboarding_id" | "event_id" | "key_id", _) => "'00000000-0000-7000-8000-000000000001'".into(),
        (_, "approval_id" | "policy_revision", _) => "'other'".into(),
        ("log_tiles", "level", _) => "7".into(),
        (_, _, "integer" | "int8") => format!("{column} + 100000"),
        (_, _, "timestamptz") => format!("{column} + interval '1 second'"),
        (_, "actor_tag" | "tag", _) => {
            either("x'00112233445566778899aabbccddeeff'", "'\\x00112233445566778899aabbccddeeff'").into()
        }
        (_, _, "blob") => format!("substr({column}, 1, length({column}) - 1) || x'77'"),
        (_, _, "bytea") => format!("overlay({column} placing '\\x77' from length({column}))"),
        (_, _, "text") => format!("{column} || 'x'"),
        other => panic!("a value for {other:?}"),
    }
}

/// Does what nobody with the program's rights could.
struct Mallory(Vec<&'static str>);

impl Mallory {
    async fn new(world: &World, tables: &[Table]) -> Self {
        let names: Vec<_> = tables.iter().map(|table| table.name).collect();
        if let TestLedger::File = world.ledger {
            let list = names.join("', '");
            let triggers = format!(
                "SELECT 'DROP TRIGGER ' || name || ';' FROM sqlite_schema WHERE type = 'trigger' AND tbl_name IN ('{list}')"
            );
            let triggers = world.texts(&triggers).await;
            assert!(triggers.len() > 15, "{triggers:?}");
            world.sql(&triggers.concat()).await;
        }
        for name in &names {
            world.sql(&format!("CREATE TABLE kept_{name} AS SELECT * FROM {name}")).await;
        }
        Self(names)
    }

    async fn does(&self, world: &World, what: &str) -> Result<(), String> {
        let past =
            either("PRAGMA foreign_keys = OFF; PRAGMA ignore_check_constraints = ON;", "SET session_replication_role = replica;");
        world.try_sql(&format!("{past} {what}")).await
    }

    async fn undoes(&self, world: &World) {
        let mut undo = String::new();
        for name in &self.0 {
            let how = either("", "OVERRIDING SYSTEM VALUE");
            undo += &format!("DELETE FROM {name}; INSERT INTO {name} {how} SELECT * FROM kept_{name};");
        }
        self.does(world, &undo).await.expect("undone");
    }
}

/// A world with a log of several checkpoints.
async fn told(log: &Log) -> (World, String) {
    let world = World::with(&log.config("first", &[])).await;
    let plane = world.acme(2).await;
    world.app.manager.keep_log().await.unwrap();
    world.archived(&plane).await;
    world.app.manager.keep_log().await.unwrap();
    world.approve(&plane).await;
    for _ in 0..2 {
        world.app.manager.keep_log().await.unwrap();
    }
    (world, plane)
}

#[tokio::test]
async fn no_column_of_the_trail_or_its_log_is_changed_unseen() {
    let log = Log::new();
    let (world, plane) = told(&log).await;
    let tables = tables(&plane);
    let mut app = match &world.ledger {
        TestLedger::Server(database) => Some(PgConnection::connect(&database.app_url()).await.unwrap()),
        TestLedger::File => None,
    };
    // First with the program's rights, while every trigger stands.
    for table in &tables {
        for (column, kind) in columns(&world, table.name).await {
            if table.of_the_moment.contains(&column.as_str()) {
                continue;
            }
            let other = match (table.name, column.as_str()) {
                // These grow: that is what they are for. They never shrink, and verifying finds one that grew by itself.
                ("log", "size") | ("chains", "next_sequence") => format!("{column} - 1"),
                _ => other(table.name, &column, &kind),
            };
            let change = format!("UPDATE {} SET {column} = {other} WHERE {}", table.name, table.row);
            let said = match &mut app {
                Some(app) => app.execute(AssertSqlSafe(change.clone())).await.map(drop).map_err(|error| error.to_string()),
                None => world.try_sql(&format!("PRAGMA foreign_keys = OFF; {change}")).await,
            };
            assert!(said.is_err(), "{change}: the program could");
        }
        let deleted = format!("DELETE FROM {} WHERE {}", table.name, table.row);
        let said = match &mut app {
            Some(app) => app.execute(AssertSqlSafe(deleted.clone())).await.map(drop).map_err(|error| error.to_string()),
            None => world.try_sql(&format!("PRAGMA foreign_keys = OFF; {deleted}")).await,
        };
        assert!(said.is_err(), "{deleted}: the program could");
        if let Some(app) = &mut app {
            let truncated = format!("TRUNCATE {}", table.name);
            assert!(app.execute(AssertSqlSafe(truncated)).await.is_err(), "{}: the program could truncate it", table.name);
        }
    }
}

#[tokio::test]
async fn whoever_changes_a_column_all_the_same_is_found_out() {
    let log = Log::new();
    let (world, plane) = told(&log).await;
    let tables = tables(&plane);
    let mallory = Mallory::new(&world, &tables).await;
    let mut tried = 0;
    for table in &tables {
        for (column, kind) in columns(&world, table.name).await {
            if table.of_the_moment.contains(&column.as_str()) {
                continue;
            }
            let change =
                format!("UPDATE {} SET {column} = {} WHERE {}", table.name, other(table.name, &column, &kind), table.row);
            found(&world, &mallory, &change, "").await;
            tried += 1;
        }
    }
    assert!(tried >= 38, "{tried} columns");
    invariants::check(&world).await;
}

/// Somebody changes something; verifying names a place, and all is as before once it is undone.
async fn found(world: &World, mallory: &Mallory, change: &str, named: &str) {
    mallory.does(world, change).await.unwrap_or_else(|error| panic!("{change}: {error}"));
    match world.app.dispatch(&crate::support::call("user:auditor", "governance.audit.verify", json!({}))).await {
        Ok(lethe_worker::operations::Answer::Done(answer)) => {
            assert_eq!(answer["audit"], "broken", "{change}: {answer}");
            let said = answer["message"].as_str().expect("a message");
            assert!(said.contains(named), "{change}: `{said}` does not say `{named}`");
            let place = ["entry ", "leaf ", "tile ", "checkpoint ", "key ", "size", "what is published"];
            assert!(place.iter().any(|place| said.contains(place)), "{change}: `{said}` names no place");
        }
        // A row that cannot be read is named by table and column.
        Err(fault) => assert!(fault.to_string().contains("read ") && fault.to_string().contains('.'), "{change}: {fault}"),
        other => panic!("{change}: {other:?}"),
    }
    mallory.undoes(world).await;
    let answer = world.call("user:auditor", "governance.audit.verify", json!({})).await;
    assert_eq!(answer["audit"], "verified", "after {change} was undone: {answer}");
}

#[tokio::test]
async fn whoever_takes_rows_out_or_puts_them_elsewhere_is_found_out() {
    let log = Log::new();
    let (world, plane) = told(&log).await;
    let mallory = Mallory::new(&world, &tables(&plane)).await;
    let size = world.number("SELECT size FROM log").await;
    let last = size - 1;
    let columns = "chain, sequence_no, event_id, event_type, tenant_id, plane_id, offboarding_id, at, body, previous, hash";
    let how = either("", "OVERRIDING SYSTEM VALUE");
    let chain = format!("chain = 'plane:{plane}'");
    let plane_rows = format!("(SELECT place FROM trail WHERE {chain})");
    let newest = format!("(SELECT max(sequence_no) FROM trail WHERE {chain})");
    let swap = |table: &str, column: &str, of: &str, one: i64, other: i64| {
        format!(
            "UPDATE {table} SET {column} = -1 WHERE {of} = {one}; UPDATE {table} SET {column} = (SELECT {column} FROM kept_{table} WHERE {of} = {one})
             WHERE {of} = {other}; UPDATE {table} SET {column} = (SELECT {column} FROM kept_{table} WHERE {of} = {other}) WHERE {of} = {one}"
        )
    };
    for (change, named) in [
        // One entry, the last of a chain with its head, a whole chain with its plane, everything of the last checkpoint.
        ("DELETE FROM trail WHERE place = 6".to_owned(), "missing"),
        (
            format!(
                "DELETE FROM trail WHERE {chain} AND sequence_no = {newest}; UPDATE chains SET next_sequence = next_sequence - 1,
                 head = (SELECT hash FROM trail WHERE {chain} ORDER BY sequence_no DESC LIMIT 1) WHERE {chain}"
            ),
            "deleted after it was sealed",
        ),
        (
            // With all that a thorough hand takes along, the leaves included.
            format!(
                "DELETE FROM trail_values WHERE event_id IN (SELECT event_id FROM trail WHERE {chain}); DELETE FROM leaves WHERE place IN {plane_rows};
                 DELETE FROM trail WHERE {chain}; DELETE FROM chains WHERE {chain}"
            ),
            "",
        ),
        (
            format!(
                "DELETE FROM trail WHERE place IN (SELECT place FROM leaves WHERE leaf_index = {last}); DELETE FROM leaves WHERE leaf_index = {last};
                 DELETE FROM checkpoints WHERE size = {size}; UPDATE log SET size = (SELECT max(size) FROM checkpoints), published_size = 0"
            ),
            "",
        ),
        (format!("DELETE FROM leaves WHERE leaf_index = {last}"), "cut off"),
        ("DELETE FROM leaves WHERE leaf_index = 4".into(), "leaf 4: it is missing"),
        ("DELETE FROM leaves".into(), ""),
        ("DELETE FROM log_tiles".into(), "missing"),
        (format!("DELETE FROM checkpoints WHERE size = {size}"), "its last checkpoint"),
        ("DELETE FROM checkpoints".into(), "its last checkpoint"),
        ("DELETE FROM log_keys".into(), ""),
        ("DELETE FROM chains".into(), "no head"),
        // A value that nobody erased.
        ("DELETE FROM trail_values WHERE field = 'reason'".into(), "nobody erased it"),
        // Doubled: under another place, as another leaf, as another checkpoint.
        (
            format!(
                "INSERT INTO trail (place, {columns}) {how} SELECT 100000, 'tenant:00000000-0000-7000-8000-000000000001', sequence_no,
                 '00000000-0000-7000-8000-000000000001', event_type, tenant_id, plane_id, offboarding_id, at, body, previous, hash
                 FROM trail WHERE place = 6"
            ),
            "",
        ),
        (
            format!(
                "INSERT INTO leaves (leaf_index, place, at, event_type, outcome, tenant_id, plane_id, offboarding_id)
                 SELECT {size}, 100000, at, event_type, outcome, tenant_id, plane_id, offboarding_id FROM leaves WHERE leaf_index = 3"
            ),
            "",
        ),
        (format!("INSERT INTO checkpoints SELECT size + 1, root, note FROM checkpoints WHERE size = {size}"), "cut off"),
        // In another order.
        (swap("leaves", "place", "leaf_index", 2, 3), "leaf 2"),
    ] {
        found(&world, &mallory, &change, named).await;
    }
    invariants::check(&world).await;
}

/// The rows that `kept` copies had are there: a test of this test.
#[tokio::test]
async fn what_mallory_undoes_is_as_it_was() {
    let log = Log::new();
    let (world, plane) = told(&log).await;
    let mallory = Mallory::new(&world, &tables(&plane)).await;
    mallory.does(&world, "DELETE FROM leaves; DELETE FROM log_tiles; DELETE FROM checkpoints").await.unwrap();
    assert_eq!(world.number("SELECT count(*) FROM leaves").await, 0);
    mallory.undoes(&world).await;
    let answer = world.call("user:auditor", "governance.audit.verify", json!({})).await;
    assert_eq!(answer["audit"], "verified", "{answer}");
}
