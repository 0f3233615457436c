//! The schema: what the database itself refuses, and that every statement fits it.

use std::collections::BTreeSet;

use lethe_ledger::Tx;
use lethe_stages::lifecycle;

use crate::support::{World, invariants};

#[tokio::test]
async fn every_statement_can_be_prepared() {
    let world = World::new().await;
    let prepared = world.app.ledger.transact(async |tx: &mut Tx| Ok::<_, lethe_ledger::Fault>(tx.prepare_all().await)).await;
    let (number, wrong) = prepared.expect("the ledger works").into_inner();
    assert!(number > 100, "{number}");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn the_schema_knows_the_same_moves_as_the_plan() {
    let world = World::new().await;
    let written = world.texts("SELECT from_state || ' ' || to_state || ' ' || cause FROM legal_transitions").await;
    let planned = lifecycle::legal_transitions().into_iter().map(|(from, to, cause)| format!("{from} {to} {cause}"));
    assert_eq!(written.into_iter().collect::<BTreeSet<_>>(), planned.collect());
}

#[tokio::test]
async fn the_schema_refuses_a_move_that_the_plan_has_not() {
    let world = World::new().await;
    let plane = world.acme(1).await;
    for state in ["DEACTIVATED", "ARCHIVED", "PURGED"] {
        let said = world
            .try_sql(&format!(
                "UPDATE planes SET state = '{state}', purged_at = CASE WHEN '{state}' = 'PURGED' THEN created_at END"
            ))
            .await;
        assert!(said.is_err_and(|said| said.contains("no such move")), "ACTIVE → {state}");
    }
    let said = world.try_sql("UPDATE planes SET state = 'RETIRED'").await;
    assert!(said.is_err(), "and a state that nobody knows");
    let said = world.try_sql(&format!("UPDATE planes SET epoch = -1 WHERE id = '{plane}'")).await;
    assert!(said.is_err_and(|said| said.contains("only rises")));
    invariants::check(&world).await;
}
