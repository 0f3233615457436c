//! Assembly: a program that is put together wrongly, or over a ledger that it cannot read, says so at once and does nothing.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use lethe_ledger::{Fault, Ledger, OpenOptions, Tx};
use lethe_stages::StageRegistry;
use lethe_worker::{
    clock::SeededEntropy,
    consequences::{Consequence, Consequences},
    operations::{self, App, DispatchRecord, Registry},
};
use serde_json::json;

use crate::support::{World, call, invariants};

#[test]
fn a_name_that_stands_twice_stops_the_program_at_its_start() {
    let twice = operations::all().into_iter().chain(operations::all().into_iter().take(1)).collect();
    assert!(Registry::freeze(twice).is_err_and(|said| said.contains("account.tenant.register stands twice")));
    struct Named;
    impl Consequence for Named {
        fn name(&self) -> &'static str {
            "log"
        }
        fn run(&self, _: &DispatchRecord) {}
    }
    assert!(Consequences::freeze(vec![Box::new(Named), Box::new(Named)]).is_err_and(|said| said.contains("log stands twice")));
    let handlers = lethe_stages::handlers::all();
    let two = [handlers.clone(), handlers[4..].to_vec()].concat();
    assert!(StageRegistry::new(two).is_err_and(|said| said.to_string().contains("purge has two")));
    assert!(StageRegistry::new(handlers[1..].to_vec()).is_err_and(|said| said.to_string().contains("deregister has none")));
}

struct Panics;
impl Consequence for Panics {
    fn name(&self) -> &'static str {
        "panics"
    }
    fn run(&self, _: &DispatchRecord) {
        panic!("a consequence panics");
    }
}

struct Counts(Arc<AtomicUsize>);
impl Consequence for Counts {
    fn name(&self) -> &'static str {
        "counts"
    }
    fn run(&self, record: &DispatchRecord) {
        self.0.fetch_add(if record.outcome == "done" { 1 } else { 100 }, Ordering::SeqCst);
    }
}

#[tokio::test]
async fn a_consequence_that_panics_breaks_neither_the_call_nor_its_neighbours() {
    let world = World::new().await;
    let counted = Arc::new(AtomicUsize::new(0));
    let consequences = Consequences::freeze(vec![Box::new(Panics), Box::new(Counts(counted.clone()))]).unwrap();
    let config = (*world.app.config).clone();
    let app = App::new(
        world.app.ledger.clone(),
        config,
        StageRegistry::standard(),
        world.faults.clone(),
        operations::all(),
        consequences,
    )
    .unwrap();
    let register = call("user:root", "account.tenant.register", json!({"name": "acme"}));
    app.dispatch(&register).await.unwrap();
    assert_eq!(counted.load(Ordering::SeqCst), 1);
    app.dispatch(&register).await.unwrap();
    assert_eq!(counted.load(Ordering::SeqCst), 101, "a refusal has consequences, too");
    assert_eq!(world.number("SELECT count(*) FROM tenants").await, 1, "the call stands");
    invariants::check(&world).await;
}

fn options(world: &World) -> OpenOptions {
    let url = format!("sqlite:{}", world.app.ledger.path().display());
    OpenOptions { url, clock: Arc::new(world.clock.clone()), entropy: Arc::new(SeededEntropy::new(9)) }
}

#[tokio::test]
async fn a_ledger_that_a_newer_program_wrote_is_not_touched() {
    let world = World::new().await;
    world.sql("INSERT INTO _sqlx_migrations VALUES (9999, 'later', '2027-01-01', 1, x'00', 0)").await;
    assert!(matches!(Ledger::open(options(&world)).await, Err(Fault::Newer { version: 9999, .. })));
    assert!(matches!(Ledger::migrate(options(&world), true).await, Err(Fault::Newer { version: 9999, .. })));
    world.sql("DELETE FROM _sqlx_migrations WHERE version >= 7").await;
    assert!(matches!(Ledger::open(options(&world)).await, Err(Fault::NotMigrated { .. })), "nor one that is older");
}

#[tokio::test]
async fn a_row_that_cannot_be_read_is_named_and_never_guessed() {
    let world = World::new().await;
    let plane = world.acme(1).await;
    let tenant = world.tenant_id("acme").await;
    let show = call("user:root", "knowledge.plane.show", json!({"plane": plane}));
    for (table, column, value, id) in [
        ("planes", "archive_id", "'nonsense'", &plane),
        ("planes", "created_at", "9e18", &plane),
        ("tenants", "status", "'golden'", &tenant),
        ("tenants", "created_at", "-9e18", &tenant),
    ] {
        let kept = format!("CREATE TEMP TABLE kept AS SELECT * FROM {table}");
        let before = world.texts(&format!("SELECT CAST({column} AS TEXT) FROM {table} WHERE id = '{id}'")).await.remove(0);
        let numeric = before.parse::<i64>().is_ok();
        world
            .sql(&format!(
                "PRAGMA ignore_check_constraints = ON; {kept}; UPDATE {table} SET {column} = {value} WHERE id = '{id}'"
            ))
            .await;
        let fault = world.app.dispatch(&show).await.expect_err(column);
        let Fault::Unreadable { table: at, column: of, id: row, .. } = &fault else { panic!("{fault:?}") };
        assert_eq!((*at, *of, row), (table, column, id), "{fault}");
        let again = if numeric { before } else { format!("'{before}'") };
        world.sql(&format!("UPDATE {table} SET {column} = {again} WHERE id = '{id}'")).await;
    }
    assert!(world.app.dispatch(&show).await.is_ok());
    invariants::check(&world).await;
}

#[tokio::test]
async fn an_error_in_the_middle_of_a_transaction_takes_all_of_it_back() {
    let world = World::new().await;
    let failed = world.app.ledger.transact(async |tx: &mut Tx| {
        tx.insert_tenant("half").await?;
        Err::<(), Fault>(Fault::IncompleteEntry(vec!["the rest"]))
    });
    assert!(failed.await.is_err());
    assert_eq!(world.number("SELECT count(*) FROM tenants").await, 0);
    let read_only = world.app.ledger.read(async |tx: &mut Tx| tx.insert_tenant("sly").await.map(drop)).await;
    assert!(read_only.is_err(), "a read cannot write");
}
