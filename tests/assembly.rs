//! Assembly: a program that is put together wrongly, or over a ledger that it cannot read, says so at once and does nothing.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use lethe_ledger::{Fault, Tx};
use lethe_stages::StageRegistry;
use lethe_worker::{
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
