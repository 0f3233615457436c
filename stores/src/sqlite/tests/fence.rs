//! A fence refuses every write to a closed plane and none to its neighbours.

use lethe_stages::{lifecycle::FenceMode, ports::PortError};

use super::{P1, P2, two_planes};
use crate::test_support::{Fixture, NEIGHBOUR, PLANE};

async fn refused(fixture: &Fixture, sql: &str) {
    let error = fixture.run(sql).await.expect_err(sql).to_string();
    assert!(error.contains("is being offboarded"), "{sql}: {error}");
}

#[tokio::test]
async fn a_closed_plane_takes_no_writes_and_its_neighbour_takes_them() {
    let fixture = two_planes().await;
    fixture.run("CREATE UNIQUE INDEX bodies ON chunks (body COLLATE NOCASE)").await.unwrap();
    let store = fixture.open(P1, PLANE);
    let report = store.fence(FenceMode::Closed, 3).await.unwrap();
    assert_eq!(report.mode, FenceMode::Closed);
    store.fence(FenceMode::Closed, 3).await.unwrap();
    let before = fixture.texts("SELECT id || plane || body FROM chunks WHERE plane = 'p1' ORDER BY id").await;
    for sql in [
        "INSERT INTO chunks VALUES (9, 'p1', 'new', NULL)",
        "UPDATE chunks SET body = 'changed' WHERE id = 1",
        "UPDATE chunks SET plane = 'p2' WHERE id = 1",
        "UPDATE chunks SET plane = 'p1' WHERE id = 2",
        "DELETE FROM chunks WHERE id = 3",
        "DELETE FROM chunks",
        // A replaced record is deleted without a delete trigger.
        "REPLACE INTO chunks VALUES (1, 'p2', 'taken', NULL)",
        "INSERT OR REPLACE INTO chunks VALUES (77, 'p2', 'ONE', NULL)",
        "UPDATE OR REPLACE chunks SET id = 3 WHERE id = 2",
        "UPDATE OR REPLACE chunks SET body = 'Three' WHERE id = 2",
        "INSERT INTO chunks VALUES (1, 'p2', 'x', NULL) ON CONFLICT (id) DO UPDATE SET plane = 'p2'",
    ] {
        refused(&fixture, sql).await;
    }
    assert_eq!(fixture.texts("SELECT id || plane || body FROM chunks WHERE plane = 'p1' ORDER BY id").await, before);
    for sql in [
        "INSERT INTO chunks (plane, body) VALUES ('p2', 'fresh')",
        "UPDATE chunks SET body = 'changed' WHERE id = 2",
        "REPLACE INTO chunks VALUES (2, 'p2', 'replaced', NULL)",
        "DELETE FROM chunks WHERE id = 4",
        "INSERT INTO chunks (plane, body) VALUES ('P1', 'another plane, by case')",
    ] {
        fixture.run(sql).await.expect(sql);
    }
}

#[tokio::test]
async fn a_table_of_one_plane_is_closed_as_a_whole_and_opened_again() {
    let fixture = two_planes().await;
    let store = fixture.open("table=chunks&key=id", PLANE);
    store.fence(FenceMode::ReadOnly, 1).await.unwrap();
    refused(&fixture, "INSERT INTO chunks VALUES (9, 'p9', 'new', NULL)").await;
    refused(&fixture, "DELETE FROM chunks WHERE plane = 'p2'").await;
    store.unfence(1).await.unwrap();
    fixture.run("DELETE FROM chunks WHERE plane = 'p2'").await.unwrap();
}

#[tokio::test]
async fn a_hidden_rowid_can_be_replaced_by_nobody_either() {
    let fixture =
        Fixture::new("CREATE TABLE t (id TEXT PRIMARY KEY, plane TEXT); INSERT INTO t VALUES ('a', 'p1'), ('b', 'p2');").await;
    fixture.open("table=t&plane_column=plane&plane=p1&key=id", PLANE).fence(FenceMode::Closed, 1).await.unwrap();
    refused(&fixture, "INSERT OR REPLACE INTO t (rowid, id, plane) VALUES (1, 'c', 'p2')").await;
    fixture.run("INSERT INTO t VALUES ('c', 'p2')").await.unwrap();
    fixture.run("INSERT OR REPLACE INTO t (rowid, id, plane) VALUES (2, 'd', 'p2')").await.unwrap();
}

#[tokio::test]
async fn unfence_restores_writes_and_keeps_the_neighbours_fence() {
    let fixture = two_planes().await;
    let (store, neighbour) = (fixture.open(P1, PLANE), fixture.open(P2, NEIGHBOUR));
    store.fence(FenceMode::Closed, 1).await.unwrap();
    neighbour.fence(FenceMode::ReadOnly, 1).await.unwrap();
    store.unfence(2).await.unwrap();
    fixture.run("INSERT INTO chunks VALUES (9, 'p1', 'new', NULL)").await.unwrap();
    refused(&fixture, "INSERT INTO chunks VALUES (10, 'p2', 'new', NULL)").await;
    neighbour.unfence(2).await.unwrap();
    fixture.run("INSERT INTO chunks VALUES (10, 'p2', 'new', NULL)").await.unwrap();
    assert!(fixture.texts("SELECT name FROM sqlite_schema WHERE type = 'trigger'").await.is_empty());
}

#[tokio::test]
async fn an_older_epoch_is_refused_even_after_the_fence_was_lifted() {
    let fixture = two_planes().await;
    let store = fixture.open(P1, PLANE);
    store.fence(FenceMode::ReadOnly, 5).await.unwrap();
    let stale = |error| matches!(error, PortError::StaleEpoch { mine: 4, .. });
    assert!(stale(store.fence(FenceMode::Closed, 4).await.unwrap_err()));
    assert!(stale(store.unfence(4).await.unwrap_err()));
    store.unfence(6).await.unwrap();
    assert!(matches!(store.fence(FenceMode::Closed, 5).await, Err(PortError::StaleEpoch { mine: 5, seen: 6 })));
}

#[tokio::test]
async fn a_fence_closes_further_and_never_opens_and_purged_is_for_ever() {
    let fixture = two_planes().await;
    let store = fixture.open(P1, PLANE);
    for (asked, is) in [
        (FenceMode::ReadOnly, FenceMode::ReadOnly),
        (FenceMode::Closed, FenceMode::Closed),
        (FenceMode::ReadOnly, FenceMode::Closed),
        (FenceMode::Purged, FenceMode::Purged),
        (FenceMode::Closed, FenceMode::Purged),
    ] {
        assert_eq!(store.fence(asked, 1).await.unwrap().mode, is);
    }
    assert!(matches!(store.unfence(2).await, Err(PortError::Permanent(_))));
    refused(&fixture, "INSERT INTO chunks VALUES (9, 'p1', 'ingested again', NULL)").await;
}

#[tokio::test]
async fn a_scope_that_was_another_planes_is_not_taken_over() {
    let fixture = two_planes().await;
    fixture.open(P1, PLANE).fence(FenceMode::Closed, 1).await.unwrap();
    assert!(matches!(fixture.open(P1, NEIGHBOUR).fence(FenceMode::Closed, 9).await, Err(PortError::WrongPlace(_))));
    let other_column = fixture.open("table=chunks&plane_column=body&plane=one&key=id", NEIGHBOUR);
    assert!(matches!(other_column.fence(FenceMode::Closed, 9).await, Err(PortError::Permanent(_))));
}
