//! Tampering: the database refuses to change the trail, and whoever gets around that is found out, with the place named.

use lethe_stages::canonical::sha256;
use serde_json::{Value as Json, json};

use crate::support::{World, invariants};

#[tokio::test]
async fn the_database_refuses_to_change_what_was_written() {
    let world = World::new().await;
    let plane = world.acme(2).await;
    world.request(&plane, "1h").await;
    let columns = "chain, sequence_no, event_id, event_type, tenant_id, plane_id, offboarding_id, at, body, previous, hash";
    for forbidden in [
        "UPDATE trail SET body = '{}' WHERE place = 1".to_owned(),
        "DELETE FROM trail WHERE place = (SELECT max(place) FROM trail)".into(),
        "DELETE FROM trail".into(),
        format!(
            "REPLACE INTO trail ({columns}) SELECT chain, sequence_no, 'e', 't', 't', NULL, NULL, 0, '{{}}', 'p', 'h' FROM trail WHERE place = 2"
        ),
        format!(
            "REPLACE INTO trail ({columns}) SELECT 'c', 0, event_id, 't', 't', NULL, NULL, 0, '{{}}', 'p', 'h' FROM trail WHERE place = 2"
        ),
        format!("REPLACE INTO trail (place, {columns}) VALUES (2, 'c', 0, 'e', 't', 't', NULL, NULL, 0, '{{}}', 'p', 'h')"),
        format!(
            "INSERT INTO trail (place, {columns}) VALUES (2, 'c', 0, 'e', 't', 't', NULL, NULL, 0, '{{}}', 'p', 'h')
            ON CONFLICT DO UPDATE SET body = '{{}}'"
        ),
        "DELETE FROM chains".into(),
        "UPDATE chains SET next_sequence = 1, head = 'h'".into(),
        "UPDATE chains SET head = 'h'".into(),
        "REPLACE INTO chains SELECT chain, 'h', 1 FROM chains".into(),
        "UPDATE trail_values SET sealed = zeroblob(60)".into(),
        "REPLACE INTO trail_values SELECT event_id, field, key_id, zeroblob(60), tag FROM trail_values".into(),
        "UPDATE personal_keys SET key = zeroblob(32)".into(),
        "REPLACE INTO personal_keys SELECT id, tenant_id, zeroblob(32), created_at, NULL FROM personal_keys".into(),
    ] {
        // As any client would: without foreign keys, which would refuse some of it by accident.
        let said = world.try_sql(&format!("PRAGMA foreign_keys = OFF; {forbidden}")).await;
        assert!(
            said.as_ref().is_err_and(|said| said.contains("append only") || said.contains("not changed")),
            "{forbidden}: {said:?}"
        );
    }
    invariants::check(&world).await;
}

const UNDO: &str = "PRAGMA foreign_keys = OFF; DELETE FROM trail; INSERT INTO trail SELECT * FROM kept_trail;
    DELETE FROM trail_values; INSERT INTO trail_values SELECT * FROM kept_values; DELETE FROM chains;
    INSERT INTO chains SELECT * FROM kept_chains;";

#[tokio::test]
async fn whoever_goes_past_the_triggers_is_found_out_and_the_place_is_named() {
    let world = World::new().await;
    let plane = world.acme(2).await;
    world.archived(&plane).await;
    let of = format!("WHERE chain = 'plane:{plane}'");
    let triggers: Vec<String> = world
        .texts(
            "SELECT 'DROP TRIGGER ' || name || ';' FROM sqlite_schema WHERE type = 'trigger'
        AND tbl_name IN ('trail', 'chains', 'trail_values', 'planes')",
        )
        .await;
    assert!(triggers.len() >= 8, "{triggers:?}");
    world.sql(&triggers.concat()).await;
    world
        .sql(
            "CREATE TABLE kept_trail AS SELECT * FROM trail; CREATE TABLE kept_values AS SELECT * FROM trail_values;
        CREATE TABLE kept_chains AS SELECT * FROM chains",
        )
        .await;
    let last = world.number(&format!("SELECT max(sequence_no) FROM trail {of}")).await;
    let bodies = world.texts(&format!("SELECT body FROM trail {of} ORDER BY sequence_no")).await;
    let requested: Json = serde_json::from_str(&bodies[1]).unwrap();
    assert_eq!((&requested["event_type"], last > 12), (&json!("REQUESTED"), true));
    let forged = bodies[1].replace("contract_end", "internal");
    let renamed = bodies[1].replace("offboarding.request", "offboarding.cancel");
    let previous = world.texts(&format!("SELECT previous FROM trail {of} AND sequence_no = 1")).await.remove(0);
    let rehashed = |body: &str| {
        format!(
            "UPDATE trail SET body = '{body}', hash = '{}' {of} AND sequence_no = 1",
            sha256((previous.clone() + body).as_bytes())
        )
    };
    let cut = format!("DELETE FROM trail {of} AND sequence_no > {}", last - 2);
    let head = format!("(SELECT hash FROM trail {of} AND sequence_no = {})", last - 2);
    for (tampering, at, named) in [
        (
            format!("UPDATE trail SET body = replace(body, 'contract_end', 'internal') {of} AND sequence_no = 1"),
            1,
            "hash does not fit its body",
        ),
        (format!("UPDATE trail SET hash = 'sha256:00' {of} AND sequence_no = 4"), 4, "hash does not fit its body"),
        (rehashed(&forged), 1, "its evidence does not fit its digest"),
        (rehashed(&renamed), 2, "does not follow"),
        (format!("UPDATE trail SET at = at + 1 {of} AND sequence_no = 2"), 2, "column at"),
        (format!("UPDATE trail SET tenant_id = '__system__' {of} AND sequence_no = 2"), 2, "column tenant_id"),
        (
            format!(
                "UPDATE trail_values SET sealed = zeroblob(60) WHERE field = 'actor_id' AND event_id = '{}'",
                requested["event_id"].as_str().unwrap()
            ),
            1,
            "value kept for actor_id does not decrypt",
        ),
        (
            format!(
                "UPDATE trail_values SET tag = zeroblob(16) WHERE field = 'actor_id' AND event_id = '{}'",
                requested["event_id"].as_str().unwrap()
            ),
            1,
            "value kept for actor_id is found by the name of somebody else",
        ),
        // One that was sealed under the same key, elsewhere.
        (
            format!(
                "UPDATE trail_values SET sealed = (SELECT sealed FROM trail_values WHERE field = 'actor_id' AND event_id = '{0}')
                 WHERE field = 'reason' AND event_id = '{0}'",
                requested["event_id"].as_str().unwrap()
            ),
            1,
            "value kept for reason does not decrypt",
        ),
        (format!("DELETE FROM trail {of} AND sequence_no = 5"), 6, "entry 5 is missing"),
        (format!("DELETE FROM trail {of} AND sequence_no = 0"), 1, "entry 0 is missing"),
        (format!("DELETE FROM trail {of} AND sequence_no = {last}"), last - 1, "head counts"),
        (
            format!("{cut}; UPDATE chains SET head = {head}, next_sequence = {} {of}", last - 1),
            last - 2,
            "the plane is ARCHIVED, its trail ends in DEACTIVATED",
        ),
        (format!("DELETE FROM chains {of}"), last, "the chain has no head"),
        (format!("DELETE FROM trail {of}"), 0, "there is none"),
        (format!("DELETE FROM trail {of}; DELETE FROM chains {of}"), 0, "has no trail"),
        (
            format!("UPDATE planes SET state = 'DEACTIVATED' WHERE id = '{plane}'"),
            last,
            "the plane is DEACTIVATED, its trail ends in ARCHIVED",
        ),
    ] {
        world.sql(&format!("PRAGMA foreign_keys = OFF; {tampering}")).await;
        let verified = world.call("user:auditor", "governance.audit.verify", json!({})).await;
        assert_eq!(verified["audit"], "broken", "{tampering}");
        let fault = &verified["fault"];
        assert_eq!(
            (&fault["chain"], &fault["sequence_no"]),
            (&json!(format!("plane:{plane}")), &json!(at)),
            "{tampering}: {verified}"
        );
        assert!(fault["fault"].as_str().unwrap().contains(named), "{tampering}: {verified}");
        world.sql(UNDO).await;
        world.sql(&format!("UPDATE planes SET state = 'ARCHIVED' WHERE id = '{plane}'")).await;
        invariants::check(&world).await;
    }
}
