//! PostgreSQL and pgvector: planes there are closed, archived, erased and proved gone as anywhere, and what is in the way is named.

use serde_json::json;
use sqlx::Connection;

use crate::support::{
    World, invariants,
    postgres::{Database, binding},
    request,
    server::variable,
};

const NEAREST: &str = "SELECT plane || ' ' || id FROM kb.chunks ORDER BY embedding OPERATOR(public.<=>) ";

#[tokio::test]
async fn a_plane_in_pgvector_is_purged_and_found_by_no_query_while_its_neighbour_is_untouched() {
    for partitioned in [false, true] {
        let (world, db) = (World::with("[archive]\npart_rows_max = 10\n").await, Database::new().await);
        db.chunks("kb.chunks", partitioned, &[("p1", 25), ("p2", 20)]).await;
        db.register(&world).await;
        db.bind(&world, "globex", "kb.chunks", "p2").await;
        let plane = db.bind(&world, "acme", "kb.chunks", "p1").await;
        let neighbour = db.plane("kb.chunks", "p2").await;
        let known = &db.texts("SELECT embedding::text FROM kb.chunks WHERE plane = 'p1' AND id = 7").await[0];
        let search = format!("{NEAREST} '{known}' LIMIT 10");
        assert_eq!(db.texts(&search).await[0], "p1 7", "the search finds it before");

        world.archived(&plane).await;
        let verified = world.call("user:auditor", "knowledge.archive.verify", json!({"plane": plane, "restore": true})).await;
        assert_eq!((&verified["archive"], &verified["rows"]), (&json!("verified"), &json!(25)), "{verified}");
        world.call("user:bob", "knowledge.approval.grant", json!({"plane": plane, "reason": "checked"})).await;
        world.drain().await;
        assert_eq!(world.state(&plane).await, "PURGED", "{}", world.status(&plane).await);

        assert_eq!(db.plane("kb.chunks", "p1").await, Vec::<String>::new());
        assert_eq!(db.texts("SELECT id::text FROM kb.chunks WHERE body LIKE 'marker-p1%'").await, Vec::<String>::new());
        let nearest = db.texts(&search).await;
        assert!(nearest.iter().all(|found| found.starts_with("p2 ")), "{nearest:?}");
        assert_eq!(db.plane("kb.chunks", "p2").await, neighbour);
        assert_eq!(db.number("SELECT count(*) FROM kb.chunks").await, 20, "and its application reads on");
        let partitions =
            db.texts("SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'kb.chunks'::regclass").await;
        assert_eq!(partitions, if partitioned { vec!["kb.chunks_p2".to_owned()] } else { Vec::new() });
        let back = db.as_app("INSERT INTO kb.chunks (plane, id) VALUES ('p1', 1)").await;
        assert!(back.is_err(), "what was purged does not come back");
        db.as_app("INSERT INTO kb.chunks (plane, id) VALUES ('p2', 99)").await.expect("the neighbour writes on");
        invariants::check(&world).await;
    }
}

#[tokio::test]
async fn a_partition_goes_at_once_only_while_it_is_what_was_exported() {
    for (touched, changed) in [("", 0), ("UPDATE kb.chunks SET page = -1 WHERE plane = 'p1' AND id = 3", 1)] {
        let (world, db) = (World::new().await, Database::new().await);
        db.chunks("kb.chunks", true, &[("p1", 25), ("p2", 20)]).await;
        db.register(&world).await;
        let plane = db.bind(&world, "acme", "kb.chunks", "p1").await;
        let neighbour = db.plane("kb.chunks", "p2").await;
        world.reach(&plane, "evict").await;
        if !touched.is_empty() {
            db.past_the_fence(touched).await;
        }
        let claimed = world.claim(&plane).await;
        let before = world.faults.calls().len();
        world.finish(&claimed).await;
        let calls = world.faults.calls()[before..].to_vec();
        assert!(calls.contains(&"store.erase_whole"), "{calls:?}");
        assert_eq!(calls.contains(&"store.erase"), changed > 0, "one by one only where it must be: {calls:?}");
        assert_eq!(db.plane("kb.chunks", "p1").await.len(), changed, "what changed since is left, and exported again");
        world.drain().await;
        assert_eq!(world.state(&plane).await, "ARCHIVED", "{}", world.status(&plane).await);
        let verified = world.call("user:auditor", "knowledge.archive.verify", json!({"plane": plane, "restore": true})).await;
        assert_eq!((&verified["archive"], &verified["rows"]), (&json!("verified"), &json!(25 + changed)), "{verified}");
        assert_eq!(db.plane("kb.chunks", "p2").await, neighbour);
        invariants::check(&world).await;
    }
}

#[tokio::test]
async fn what_changed_between_two_attempts_to_export_is_not_erased_as_if_it_had_been_copied() {
    let (world, db) = (World::with("[archive]\npart_rows_max = 10\n").await, Database::new().await);
    db.chunks("kb.chunks", true, &[("p1", 25), ("p2", 20)]).await;
    db.register(&world).await;
    let plane = db.bind(&world, "acme", "kb.chunks", "p1").await;
    world.reach(&plane, "export").await;
    // All parts are written and read back by then; the next attempt finds them.
    world.faults.fail_at("archive.put", 1);
    world.finish(&world.claim(&plane).await).await;
    assert_eq!(world.run(&plane).await, ("export".to_owned(), "queued".to_owned()));
    db.past_the_fence("UPDATE kb.chunks SET page = -1 WHERE plane = 'p1' AND id = 3").await;
    world.advance(chrono::TimeDelta::minutes(2)).await;
    assert_eq!(world.state(&plane).await, "ARCHIVED", "{}", world.status(&plane).await);
    let verified = world.call("user:auditor", "knowledge.archive.verify", json!({"plane": plane, "restore": true})).await;
    assert_eq!(
        (&verified["archive"], &verified["rows"]),
        (&json!("verified"), &json!(26)),
        "with what it was changed to: {verified}"
    );
    invariants::check(&world).await;
}

#[tokio::test]
async fn the_planner_forgets_a_plane_whose_partition_goes_and_learns_nothing_new_of_the_others() {
    // Of the whole table; the server itself samples partitions at any time.
    let kept = async |db: &Database, word: &str| {
        let sql = "SELECT attname::text FROM pg_stats WHERE schemaname = 'kb' AND inherited AND concat(most_common_vals, histogram_bounds)";
        db.texts(&format!("{sql} ~ '{word}' ORDER BY 1")).await
    };
    for analysed in [true, false] {
        let (world, db) = (World::new().await, Database::new().await);
        db.chunks("kb.chunks", true, &[("p1", 25), ("p2", 20)]).await;
        if analysed {
            db.as_app("ANALYZE kb.chunks").await.expect("samples");
        }
        db.register(&world).await;
        let plane = db.bind(&world, "acme", "kb.chunks", "p1").await;
        let known: &[&str] = if analysed { &["body"] } else { &[] };
        assert_eq!(kept(&db, "marker-p1-").await, known);
        // Each row of its samples, and which transaction wrote it.
        let of_neighbour =
            "SELECT concat(staattnum, ' ', xmin) FROM pg_statistic WHERE starelid = 'kb.chunks_p2'::regclass ORDER BY 1";
        let neighbour = db.texts(of_neighbour).await;
        assert_eq!(neighbour.is_empty(), !analysed);
        world.archived(&plane).await;
        assert_eq!(kept(&db, "p1").await, Vec::<String>::new(), "nothing of the plane");
        assert_eq!(kept(&db, "marker-p2-").await, known, "the neighbour's are there if they were");
        assert_eq!(db.texts(of_neighbour).await, neighbour, "and its partition was not looked through for it");
    }
}

#[tokio::test]
async fn what_would_follow_a_delete_keeps_a_partition_from_going_at_once() {
    for obstacle in [
        "CREATE TABLE kb.cites (plane text, id bigint, FOREIGN KEY (plane, id) REFERENCES kb.chunks (plane, id))",
        "CREATE TABLE kb.log (id bigint);
         CREATE FUNCTION kb.logs() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO kb.log VALUES (OLD.id); RETURN OLD; END $$;
         CREATE TRIGGER logs AFTER DELETE ON kb.chunks FOR EACH ROW EXECUTE FUNCTION kb.logs()",
    ] {
        let (world, db) = (World::new().await, Database::new().await);
        db.chunks("kb.chunks", true, &[("p1", 12), ("p2", 5)]).await;
        db.as_app(obstacle).await.expect(obstacle);
        db.register(&world).await;
        let plane = db.bind(&world, "acme", "kb.chunks", "p1").await;
        world.archived(&plane).await;
        assert!(world.faults.calls().contains(&"store.erase"), "{obstacle}");
        assert_eq!(db.plane("kb.chunks", "p1").await, Vec::<String>::new());
        if obstacle.contains("logs") {
            assert_eq!(db.number("SELECT count(*) FROM kb.log").await, 12, "their trigger saw every record");
        }
    }
}

#[tokio::test]
async fn a_plain_table_without_the_extension_serves_too() {
    let (world, db) = (World::new().await, Database::plain().await);
    db.as_app(
        "CREATE TABLE kb.chunks (id uuid PRIMARY KEY, plane text NOT NULL, body text, meta jsonb, embedding bytea);
         INSERT INTO kb.chunks SELECT ('00000000-0000-0000-0000-' || lpad((n + 100 * p)::text, 12, '0'))::uuid, 'p' || p,
            'marker-p' || p || '-' || n, jsonb_build_object('n', n), decode(repeat(lpad(to_hex(n + p), 2, '0'), 16), 'hex')
         FROM generate_series(1, 2) AS p, generate_series(1, 30) AS n",
    )
    .await
    .expect("a table");
    db.register(&world).await;
    let plane = db.bind(&world, "acme", "kb.chunks", "p1").await;
    let neighbour = db.plane("kb.chunks", "p2").await;
    world.archived(&plane).await;
    let verified = world.call("user:auditor", "knowledge.archive.verify", json!({"plane": plane, "restore": true})).await;
    assert_eq!((&verified["archive"], &verified["rows"]), (&json!("verified"), &json!(30)), "{verified}");
    world.approve(&plane).await;
    world.drain().await;
    assert_eq!(world.state(&plane).await, "PURGED", "{}", world.status(&plane).await);
    assert_eq!(db.texts("SELECT body FROM kb.chunks WHERE body LIKE 'marker-p1%'").await, Vec::<String>::new());
    assert_eq!(db.plane("kb.chunks", "p2").await, neighbour);
    invariants::check(&world).await;
}

#[tokio::test]
async fn another_table_under_the_old_name_proves_nothing() {
    let (world, db) = (World::new().await, Database::new().await);
    db.chunks("kb.chunks", false, &[("p1", 5), ("p2", 5)]).await;
    db.register(&world).await;
    let plane = db.bind(&world, "acme", "kb.chunks", "p1").await;
    let mut terms = request(&plane, "0s");
    terms["evict"] = json!("at_purge");
    world.call("user:alice", "knowledge.offboarding.request", terms).await;
    world.drain().await;
    world.approve(&plane).await;
    db.as_app("ALTER TABLE kb.chunks RENAME TO kept; CREATE TABLE kb.chunks (LIKE kb.kept INCLUDING ALL)").await.expect("a swap");
    world.drain().await;
    assert_eq!(world.state(&plane).await, "ARCHIVED");
    let error = &world.status(&plane).await["offboarding"]["last_error"];
    assert!(
        error["code"] == "WRONG_PLACE" && error["message"].as_str().is_some_and(|said| said.contains("zz_lethe_fence")),
        "{error}"
    );
    assert_eq!(db.plane("kb.kept", "p1").await.len(), 5, "nothing was lost");
    db.as_app("DROP TABLE kb.chunks; ALTER TABLE kb.kept RENAME TO chunks").await.expect("back");
    world.call("user:root", "knowledge.offboarding.retry", json!({"plane": plane, "reason": "put back"})).await;
    world.drain().await;
    assert_eq!(world.state(&plane).await, "PURGED", "{}", world.status(&plane).await);
    assert_eq!(db.plane("kb.chunks", "p1").await, Vec::<String>::new());
}

#[tokio::test]
async fn planes_that_are_closed_and_opened_one_after_the_other_stay_hidden_while_they_are_closed() {
    let (world, db) = (World::new().await, Database::new().await);
    db.chunks("kb.chunks", false, &[("p1", 5), ("p2", 5)]).await;
    db.register(&world).await;
    let before = db.guards("kb.chunks").await;
    let (one, two) = (db.bind(&world, "acme", "kb.chunks", "p1").await, db.bind(&world, "globex", "kb.chunks", "p2").await);
    for plane in [&one, &two] {
        let mut terms = request(plane, "1h");
        terms["grace_access"] = json!("none");
        world.call("user:alice", "knowledge.offboarding.request", terms).await;
    }
    world.drain().await;
    assert_eq!(db.number("SELECT count(*) FROM kb.chunks").await, 0);
    // Somebody switches row security off; whoever closes next switches it on again.
    db.as_app("ALTER TABLE kb.chunks DISABLE ROW LEVEL SECURITY").await.expect("the owner may");
    world.call("user:alice", "knowledge.offboarding.cancel", json!({"plane": one, "reason": "they stay"})).await;
    world.drain().await;
    assert_eq!(db.number("SELECT count(*) FROM kb.chunks").await, 5, "one is open, the other is hidden");
    world.call("user:alice", "knowledge.offboarding.cancel", json!({"plane": two, "reason": "they stay"})).await;
    world.drain().await;
    assert_eq!(db.guards("kb.chunks").await, before);
}

#[tokio::test]
async fn a_cancel_leaves_the_table_exactly_as_it_was() {
    for own_policy in [false, true] {
        let (world, db) = (World::new().await, Database::new().await);
        db.chunks("kb.chunks", false, &[("p1", 5), ("p2", 5)]).await;
        if own_policy {
            db.as_app("ALTER TABLE kb.chunks ENABLE ROW LEVEL SECURITY; CREATE POLICY own ON kb.chunks USING (id > 0)")
                .await
                .unwrap();
        }
        db.register(&world).await;
        let plane = db.bind(&world, "acme", "kb.chunks", "p1").await;
        let before = (db.guards("kb.chunks").await, db.plane("kb.chunks", "p1").await, db.plane("kb.chunks", "p2").await);
        for access in ["read_only", "none"] {
            let mut terms = request(&plane, "1h");
            terms["grace_access"] = json!(access);
            world.call("user:alice", "knowledge.offboarding.request", terms).await;
            world.drain().await;
            assert_eq!(world.state(&plane).await, "PENDING_DEACTIVATE");
            for sql in [
                "INSERT INTO kb.chunks (plane, id) VALUES ('p1', 77)",
                "INSERT INTO kb.chunks (plane, id) VALUES ('p1', 1) ON CONFLICT (plane, id) DO UPDATE SET body = 'x'",
                "UPDATE kb.chunks SET plane = 'p1', id = id + 100 WHERE plane = 'p2'",
                "TRUNCATE kb.chunks",
            ] {
                let said = db.as_app(sql).await.expect_err(sql);
                assert!(said.contains("being offboarded"), "{access}: {sql}: {said}");
            }
            // What nobody can see, nobody can delete either; what can be seen is refused.
            let deleted = db.as_app("DELETE FROM kb.chunks WHERE plane = 'p1'").await;
            let read = db.number("SELECT count(*) FROM kb.chunks WHERE plane = 'p1'").await;
            assert_eq!((deleted.is_ok(), read), if access == "none" { (true, 0) } else { (false, 5) }, "{access}");
            assert_eq!(db.plane("kb.chunks", "p1").await, before.1, "{access}: nothing was written or deleted");
            assert_eq!(db.number("SELECT count(*) FROM kb.chunks WHERE plane = 'p2'").await, 5, "{access}: the neighbour");
            world.call("user:alice", "knowledge.offboarding.cancel", json!({"plane": plane, "reason": "they stay"})).await;
            world.drain().await;
            let after = (db.guards("kb.chunks").await, db.plane("kb.chunks", "p1").await, db.plane("kb.chunks", "p2").await);
            assert_eq!(before, after, "{access}");
        }
        db.as_app("INSERT INTO kb.chunks (plane, id) VALUES ('p1', 77)").await.expect("writes work as before");
        invariants::check(&world).await;
    }
}

#[tokio::test]
async fn a_store_that_cannot_serve_is_refused_by_name_at_its_registration() {
    let (world, db) = (World::new().await, Database::new().await);
    db.chunks("kb.chunks", false, &[("p1", 1)]).await;
    let good = db.store_url(world.dir.path(), "");
    let (other, absent) = (variable("LETHE_TEST_PG_OTHER_CA"), world.dir.path().join("empty"));
    std::fs::write(&absent, "wrong").unwrap();
    let authority = variable("LETHE_TEST_PG_CA");
    for (url, said) in [
        (good.replace("/password", "/empty"), "password authentication failed"),
        (good.replace(&format!("/{}?", db.name), "/no_such_database?"), "no_such_database"),
        (format!("{good}&sslmode=verify-full&sslrootcert={other}"), "certificate"),
        (good.split('?').next().unwrap().to_owned() + "?password_env=NO_SUCH_VARIABLE", "NO_SUCH_VARIABLE is not set"),
        (good.replace('@', ":hunter2@"), "holds a password"),
    ] {
        let refused = world.refused("user:root", "integrations.store.add", json!({"name": "bad", "url": url})).await;
        assert_eq!(refused.code.as_str(), "STORE_UNUSABLE", "{refused}");
        assert!(refused.to_string().contains(said) && !refused.to_string().contains("hunter2"), "{said}: {refused}");
    }
    let verified = format!("{good}&sslmode=verify-full&sslrootcert={authority}");
    let added = world.call("user:root", "integrations.store.add", json!({"name": "verified", "url": verified})).await;
    assert!(
        added["check"]["server"].as_str().is_some_and(|server| server.contains("pgvector") && server.contains("TLSv1")),
        "{added}"
    );
}

#[tokio::test]
async fn a_mapping_that_the_schema_cannot_serve_is_refused_with_what_was_found() {
    let (world, db) = (World::new().await, Database::new().await);
    db.chunks("kb.chunks", true, &[("p1", 1)]).await;
    db.as_admin("CREATE TABLE kb.theirs (id int PRIMARY KEY, plane text)").await.unwrap();
    db.as_app("CREATE TABLE kb.loose (id int, plane text, score numeric UNIQUE); CREATE VIEW kb.seen AS SELECT * FROM kb.chunks")
        .await
        .unwrap();
    db.register(&world).await;
    for (table, word, said) in [
        ("kb.chunks", "key=nr", "its columns are id bigint, plane text"),
        ("kb.chunks", "key=doubled", "generated column"),
        ("kb.chunk", "key=id", "there are kb.chunks, kb.loose, kb.theirs"),
        ("kb.chunks", "key=id&embedding=vec", "embedding public.vector(4)"),
        ("kb.theirs", "key=id", "GRANT \"postgres\" TO \"lethe_"),
        ("kb.loose", "key=id", "it has (score)"),
        ("kb.loose", "key=score", "a key is an integer, a uuid, text or bytea"),
        ("kb.seen", "key=id", "bind the table"),
        ("kb.chunks_p1", "key=id", "write table=kb.chunks&plane_column="),
    ] {
        let mut arguments = binding(&world, "acme", table, "p1");
        arguments["stores"] = json!([format!("pg?table={table}&plane_column=plane&plane=p1&{word}")]);
        let refused = world.refused("user:root", "knowledge.plane.register", arguments).await;
        assert_eq!(refused.code.as_str(), "MAPPING_WRONG", "{refused}");
        assert!(refused.to_string().contains(said), "{said}: {refused}");
    }
    let own = db.texts("SELECT relname::text FROM pg_class WHERE relname LIKE 'lethe%'").await;
    assert_eq!(own, Vec::<String>::new(), "nothing was changed");
}

#[tokio::test]
async fn records_put_back_into_a_partition_are_found_and_no_neighbour_is_searched_for_them() {
    // Where a default takes any value, every partition is asked.
    for default in [false, true] {
        let (world, db) = (World::new().await, Database::new().await);
        db.chunks("kb.chunks", true, &[("p1", 12), ("p2", 20)]).await;
        let odd = r"CREATE TABLE kb.odd PARTITION OF kb.chunks FOR VALUES IN ('it''s', E'a\\b', '), (', ' P1')";
        db.as_app(odd).await.expect("a partition");
        if default {
            db.as_app("CREATE TABLE kb.rest PARTITION OF kb.chunks DEFAULT").await.expect("a partition");
        }
        db.register(&world).await;
        let plane = db.bind(&world, "acme", "kb.chunks", "p1").await;
        let backup =
            "CREATE TABLE public.kept AS SELECT * FROM kb.chunks WHERE plane = 'p1'; GRANT SELECT ON public.kept TO PUBLIC";
        db.as_admin(backup).await.expect("a backup");
        world.purged(&plane).await;
        let back = |value: &str| {
            let columns = "body, meta, score, seen, source, raw, tags, pad, weight, page, embedding";
            format!("INSERT INTO kb.chunks (id, plane, {columns}) SELECT id, '{value}', {columns} FROM public.kept")
        };
        for value in if default { [" P1", "p1 "] } else { [" P1", " P1"] } {
            db.as_app(&back(value)).await.expect("records");
            assert_eq!(world.run_probe("user:bob", &plane).await.found, 1, "{value:?}, default {default}");
            let finding = world.finding(&plane).await.expect("a finding");
            assert_eq!(finding["evidence"]["stores"][0]["seen"]["keys_found"], 12, "{finding}");
            db.as_app(&format!("DELETE FROM kb.chunks WHERE plane = '{value}'")).await.expect("removed again");
            assert_eq!(world.run_probe("user:bob", &plane).await.clean, 1);
        }
        // Another value's records under the same keys are a neighbour's, and theirs alone.
        db.as_app(&back("it''s")).await.expect("records");
        assert_eq!(world.run_probe("user:bob", &plane).await.clean, 1);
        if !default {
            let mut neighbour = sqlx::PgConnection::connect(&db.app_url()).await.expect("connect");
            let lock = "BEGIN; LOCK TABLE kb.chunks_p2 IN ACCESS EXCLUSIVE MODE";
            sqlx::raw_sql(lock).execute(&mut neighbour).await.expect("a lock");
            assert_eq!(world.run_probe("user:bob", &plane).await.clean, 1, "it waits for nobody");
        }
        invariants::check(&world).await;
    }
}

#[tokio::test]
async fn records_put_back_past_the_guard_are_found_by_count_by_key_and_by_vector() {
    let (world, db) = (World::with("[probe]\nkeep = \"vectors\"\n").await, Database::new().await);
    db.chunks("kb.chunks", false, &[("p1", 12), ("p2", 20)]).await;
    db.register(&world).await;
    let plane = db.bind(&world, "acme", "kb.chunks", "p1").await;
    let backup = "CREATE TABLE public.kept AS SELECT * FROM kb.chunks WHERE plane = 'p1'; GRANT SELECT ON public.kept TO PUBLIC";
    db.as_admin(backup).await.expect("a backup");
    world.purged(&plane).await;
    let columns = "body, meta, score, seen, source, raw, tags, pad, weight, page, embedding";
    let back = |value: &str, limit: u32| {
        format!(
            "INSERT INTO kb.chunks (id, plane, {columns}) SELECT id, '{value}', {columns} FROM public.kept ORDER BY id LIMIT {limit}"
        )
    };
    assert!(db.as_app(&back("p1", 3)).await.is_err(), "the guard refuses the application");
    // As another plane, in nothing but white space; no guard refuses that.
    db.as_app(&back(" P1", 12)).await.expect("records");
    world.clock.advance(chrono::TimeDelta::days(1));
    assert_eq!(world.probe().await.found, 1);
    let finding = world.finding(&plane).await.expect("a finding");
    let seen = finding["evidence"]["stores"][0]["seen"].clone();
    assert_eq!((&seen["remaining"], &seen["keys_found"], &seen["fence"]), (&json!(0), &json!(12), &json!("purged")), "{seen}");
    db.as_app("DELETE FROM kb.chunks WHERE plane = ' P1'").await.expect("removed again");
    assert_eq!(world.run_probe("user:bob", &plane).await.clean, 1);

    // As the plane, past the guard; it cannot be set again where nothing of it is left, and that is said.
    let trigger = "DROP TRIGGER zz_lethe_fence ON kb.chunks";
    db.as_admin(&format!("{trigger}; {}", back("p1", 3))).await.expect("records");
    assert_eq!(world.run_probe("user:bob", &plane).await.found, 1);
    let finding = world.finding(&plane).await.expect("a finding");
    let store = &finding["evidence"]["stores"][0];
    let seen = &store["seen"];
    assert_eq!((&seen["remaining"], &seen["keys_found"], &seen["fence"]), (&json!(3), &json!(3), &json!("missing")), "{seen}");
    assert_eq!((&seen["vectors_probed"], &seen["vectors_found"]), (&json!(12), &json!(3)), "{seen}");
    assert_eq!(store["fence_set_again"], false, "{store}");
    invariants::check(&world).await;
}
