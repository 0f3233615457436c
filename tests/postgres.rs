//! What holds on a PostgreSQL server: several work at the same time, over connections that may be lost, and none does anything twice.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use chrono::TimeDelta;
use lethe_ledger::{Fault, Ledger, OpenOptions, Tx};
use lethe_stages::StageRegistry;
use lethe_worker::{
    clock::{SeededEntropy, SystemClock, SystemEntropy},
    config::Config,
    consequences::Consequences,
    manager::RecordResult,
    operations::{self, Answer, App},
    runner::{self, Roles, RunOptions},
};
use serde_json::json;

use crate::support::{
    WORKER, World, call,
    cut::Wire,
    invariants,
    ledger::{TestDatabase, TestLedger},
    log::Log,
    request,
};

fn database(world: &World) -> &TestDatabase {
    match &world.ledger {
        TestLedger::Server(database) => database,
        TestLedger::File => panic!("these tests are about a server"),
    }
}

/// Another process over the world's ledger, by another way to it.
async fn app_over(world: &World, url: String, overrides: &str, clock: Option<()>) -> Arc<App> {
    let file = world.dir.path().join("other.toml");
    std::fs::write(&file, overrides).expect("write the configuration");
    let config = Config::load(Some(&file)).expect("a configuration");
    let clock: Arc<dyn lethe_ledger::Clock> = match clock {
        Some(()) => Arc::new(world.clock.clone()),
        None => Arc::new(SystemClock),
    };
    let ledger = Ledger::open(OpenOptions { url, clock, entropy: Arc::new(SystemEntropy) }).await.expect("the ledger");
    let stages = StageRegistry::standard();
    let app = App::new(ledger, config, stages, world.faults.clone(), operations::all(), Consequences::standard());
    Arc::new(app.expect("assembled"))
}

/// Planes `acme/0`, `acme/1`, … each with a deregister that is due.
async fn due_planes(world: &World, number: usize) -> Vec<String> {
    world.acme(1).await;
    let mut planes = Vec::new();
    for index in 0..number {
        let plane = world.register("acme", &format!("{index}"), &format!("q{index}")).await;
        world.request(&plane, "7d").await;
        planes.push(plane);
    }
    planes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn workers_that_claim_at_the_same_time_never_get_the_same_run() {
    let world = World::new().await;
    due_planes(&world, 24).await;
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..4 {
        let app = world.app.clone();
        tasks.spawn(async move {
            let mut mine = Vec::new();
            for _ in 0..6 {
                let (claimed, _) = app.manager.claim(3, &format!("worker-{number}"), None).await.expect("claim");
                mine.extend(claimed.iter().map(|claimed| claimed.case.run.id));
            }
            mine
        });
    }
    let claimed: Vec<_> = tasks.join_all().await.concat();
    let different: BTreeSet<_> = claimed.iter().copied().collect();
    assert_eq!((claimed.len(), different.len()), (24, 24));
    assert_eq!(world.number("SELECT count(*) FROM trail WHERE event_type = 'STAGE_STARTED'").await, 24);
    assert_eq!(world.number("SELECT count(*) FROM planes WHERE epoch > 1").await, 0);
    invariants::check(&world).await;
}

/// Answers of so many runs and the runs that follow them are one statement; what stands in the ledger then is compared with what was meant.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_large_batch_is_as_if_each_of_it_were_written_alone() {
    let log = Log::new();
    let world = World::with(&log.config("first", &[])).await;
    let planes = due_planes(&world, 80).await.len();
    let manager = &world.app.manager;
    let mut steps = Vec::new();
    for _ in 0..2 {
        let (mut claimed, _) = manager.claim(planes + 1, WORKER, None).await.expect("claim");
        while !claimed.is_empty() {
            steps.push((claimed[0].case.run.step.as_str(), claimed.len()));
            let mut finished = Vec::new();
            for run in &claimed {
                finished.push(manager.perform(run).await);
            }
            let turn = manager.turn(&finished, planes, WORKER, None).await.expect("record and claim");
            assert!(turn.recorded.iter().all(|result| *result == RecordResult::Recorded), "{:?}", turn.recorded);
            claimed = turn.claimed;
        }
        // The end of their grace.
        world.clock.advance(TimeDelta::days(7));
    }
    assert_eq!(steps, ["deregister", "verify", "deactivate", "export", "evict"].map(|step| (step, planes)));
    let of_each =
        "SELECT count(*) FROM (SELECT plane_id FROM stage_runs GROUP BY plane_id HAVING string_agg(step || ' ' || status, ', '
        ORDER BY place) LIKE 'deregister succeeded, % evict succeeded, purge %') AS planes";
    assert_eq!(world.number(of_each).await, planes as i64);
    invariants::check(&world).await;
    let sealed = manager.seal().await.expect("seal").sealed as i64;
    assert_eq!(world.number("SELECT count(*) FROM leaves").await, sealed);
    assert_eq!(world.number("SELECT count(*) FROM trail").await, sealed);
    let answer = world.call("user:auditor", "governance.audit.verify", json!({})).await;
    assert_eq!(answer["audit"], "verified", "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_a_cancel_and_a_claim_of_deactivate_exactly_one_wins() {
    let world = World::new().await;
    let plane = world.acme(2).await;
    let (mut claims, mut cancels) = (0, 0);
    for _ in 0..8 {
        world.reach(&plane, "deactivate").await;
        let (app, other) = (world.app.clone(), world.app.clone());
        let id = plane.parse().expect("an id");
        let cancel = call("user:alice", "knowledge.offboarding.cancel", json!({"plane": plane, "reason": "r"}));
        let claiming = tokio::spawn(async move { app.manager.claim(1, WORKER, Some(id)).await.expect("claim").0 });
        let cancelling = tokio::spawn(async move { other.dispatch(&cancel).await.expect("the ledger works") });
        let (mut claimed, cancelled) = (claiming.await.unwrap(), cancelling.await.unwrap());
        let deactivating = claimed.iter().any(|claimed| claimed.case.run.step == lethe_stages::Step::Deactivate);
        match &cancelled {
            Answer::Done(_) => cancels += 1,
            Answer::Refused(refusal) => {
                assert_eq!(refusal.code.as_str(), "STAGE_IN_PROGRESS");
                claims += 1;
            }
        }
        assert_eq!(deactivating, matches!(cancelled, Answer::Refused(_)), "exactly one");
        if deactivating {
            // Given back, so that it can be cancelled for the next round.
            world.app.manager.give_back(&claimed, WORKER).await.expect("give back");
            world.call("user:alice", "knowledge.offboarding.cancel", json!({"plane": plane, "reason": "r"})).await;
        } else if let Some(restore) = claimed.pop() {
            assert_eq!(world.finish(&restore).await, RecordResult::Recorded);
        }
        world.drain().await;
        invariants::check(&world).await;
    }
    assert_eq!(claims + cancels, 8);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn calls_at_the_same_time_take_no_name_twice_and_answer_one_key_once() {
    let world = World::new().await;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..6 {
        let app = world.app.clone();
        tasks.spawn(async move {
            let register = call("user:root", "account.tenant.register", json!({"name": "acme"}));
            app.dispatch(&register).await.expect("the ledger works")
        });
    }
    let done = tasks.join_all().await.into_iter().filter(|answer| matches!(answer, Answer::Done(_))).count();
    assert_eq!(done, 1, "the others are refused, and nothing is a fault");
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..6 {
        let app = world.app.clone();
        tasks.spawn(async move {
            let mut register = call("user:root", "account.tenant.register", json!({"name": "globex"}));
            register.idempotency_key = Some("k".into());
            app.dispatch(&register).await.expect("the ledger works")
        });
    }
    let answers = tasks.join_all().await;
    assert!(answers.iter().all(|answer| *answer == answers[0] && matches!(answer, Answer::Done(_))), "{answers:?}");
    invariants::check(&world).await;
}

#[tokio::test]
async fn the_program_cannot_change_the_trail_and_its_owner_is_stopped_by_triggers() {
    let world = World::new().await;
    let plane = world.acme(1).await;
    world.request(&plane, "1h").await;
    for statement in [
        "UPDATE trail SET body = '{}'",
        "DELETE FROM trail",
        "TRUNCATE trail CASCADE",
        "UPDATE trail_values SET sealed = sealed || sealed",
        "DELETE FROM trail_values",
        "INSERT INTO trail_values SELECT gen_random_uuid(), field, key_id, sealed, tag FROM trail_values LIMIT 1",
        "UPDATE personal_keys SET key = sha256(key)",
        "DELETE FROM personal_keys",
        "UPDATE chains SET head = 'h'",
        "UPDATE chains SET next_sequence = 1, head = 'h'",
        "DELETE FROM chains",
        "TRUNCATE chains",
        "DELETE FROM trail_tally",
        "UPDATE trail_tally SET entries = 0",
        "INSERT INTO trail (place, chain, sequence_no, event_id, event_type, tenant_id, at, body, previous, hash)
            OVERRIDING SYSTEM VALUE SELECT place, 'c', 0, gen_random_uuid(), 't', 't', at, '{}', 'p', 'h' FROM trail LIMIT 1",
        "DELETE FROM bindings",
        "TRUNCATE bindings",
    ] {
        let said = world.try_sql(statement).await.expect_err(statement);
        let expected = [
            "append only",
            "not changed",
            "only grows",
            "never given back",
            "duplicate key",
            "goes with its key",
            "belongs to an entry",
            "a key is kept",
        ];
        assert!(expected.iter().any(|words| said.contains(words)), "{statement}: {said}");
    }
    let app = sqlx::PgPool::connect(&database(&world).app_url()).await.expect("connect as the program");
    for statement in [
        "UPDATE trail SET body = '{}'",
        "DELETE FROM trail",
        "TRUNCATE trail",
        "UPDATE trail_values SET sealed = sealed || sealed",
        "TRUNCATE trail_values",
        "INSERT INTO trail_values_clear SELECT event_id, field, 'mallory', '\\x00' FROM trail_values",
        "DELETE FROM trail_values_clear",
        "DELETE FROM personal_keys",
        "UPDATE personal_keys SET tenant_id = 'mallory'",
        "UPDATE personal_keys SET created_at = now()",
        "TRUNCATE chains",
        "DELETE FROM chains",
        "DELETE FROM planes",
        "DELETE FROM stage_runs",
        "UPDATE bindings SET value_digest = 'd'",
        "UPDATE ledger SET insecure_demo = true",
        "INSERT INTO legal_transitions VALUES ('ACTIVE', 'PURGED', 'purge')",
        "ALTER TABLE trail DISABLE TRIGGER ALL",
        "DROP TABLE trail",
        "CREATE TABLE mine (id int)",
    ] {
        let said = sqlx::raw_sql(sqlx::AssertSqlSafe(statement)).execute(&app).await.expect_err(statement).to_string();
        assert!(said.contains("permission denied") || said.contains("must be owner"), "{statement}: {said}");
    }
    app.close().await;
    invariants::check(&world).await;
}

#[tokio::test]
async fn the_moves_that_need_no_look_up_are_those_of_the_lifecycle() {
    let world = World::new().await;
    let listed = "SELECT (regexp_matches(pg_get_triggerdef(oid), '''([A-Z_]+ [A-Z_]+)''', 'g'))[1] AS move FROM pg_trigger
        WHERE tgname = 'planes_move_legally' ORDER BY 1";
    let legal = "SELECT DISTINCT from_state || ' ' || to_state FROM legal_transitions ORDER BY 1";
    assert_eq!(world.texts(listed).await, world.texts(legal).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn migrators_that_start_at_the_same_time_make_one_ledger() {
    let database = TestDatabase::empty().await;
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..4 {
        let url = database.url();
        tasks.spawn(async move {
            let entropy = Arc::new(SeededEntropy::new(number));
            let options = OpenOptions { url, clock: Arc::new(SystemClock), entropy };
            let ledger = Ledger::migrate(options, false).await.expect("migrate");
            let id = ledger.id();
            ledger.close().await;
            id
        });
    }
    let ids: BTreeSet<_> = tasks.join_all().await.into_iter().collect();
    assert_eq!(ids.len(), 1, "all of them open the same one");
    let options = OpenOptions { url: database.app_url(), clock: Arc::new(SystemClock), entropy: Arc::new(SystemEntropy) };
    let opened = Ledger::open(options).await.expect("and so does the program");
    assert!(ids.contains(&opened.id()));
    let (at, here) = (opened.read(async |tx: &mut Tx| Ok::<_, Fault>(tx.at())).await.expect("read"), opened.now());
    assert!((at - here).abs() < TimeDelta::seconds(5), "the instant is the server's: {at}");
    opened.close().await;
}

#[tokio::test]
async fn a_ledger_that_is_newer_older_or_absent_is_not_opened_and_no_password_is_shown() {
    let world = World::new().await;
    let options = |url: String| OpenOptions { url, clock: Arc::new(SystemClock), entropy: Arc::new(SystemEntropy) };
    let owner = database(&world).url();
    world.sql("INSERT INTO _sqlx_migrations VALUES (9999, 'later', '2027-01-01', true, '', 0)").await;
    assert!(matches!(Ledger::open(options(owner.clone())).await, Err(Fault::Newer { version: 9999, .. })));
    assert!(matches!(Ledger::migrate(options(owner.clone()), true).await, Err(Fault::Newer { version: 9999, .. })));
    world.sql("DELETE FROM _sqlx_migrations WHERE version >= 7").await;
    assert!(matches!(Ledger::open(options(owner.clone())).await, Err(Fault::NotMigrated { .. })), "nor one that is older");
    let empty = TestDatabase::empty().await;
    let password = owner.split(['@', ':']).nth(2).expect("a password").to_owned();
    for url in [empty.url(), owner.replace("/lethe_test", "/absent_test"), owner.replacen(&password, "wrong-secret", 1)] {
        let Err(fault) = Ledger::open(options(url)).await else { panic!("it opened") };
        let said = format!("{fault} {fault:?}");
        assert!(!said.contains(&password) && !said.contains("wrong-secret"), "{said}");
    }
}

#[tokio::test]
async fn the_whole_way_goes_through_a_pooler_that_lends_connections_for_one_transaction() {
    let world = World::new().await;
    let plane = world.acme(5).await;
    let World { dir, clock, faults, ledger, app, bucket } = world;
    let TestLedger::Server(database) = &ledger else { panic!("a server") };
    app.ledger.close().await;
    drop(app);
    let file = dir.path().join("lethe.toml");
    let options =
        OpenOptions { url: database.pooled_url(), clock: Arc::new(clock.clone()), entropy: Arc::new(SeededEntropy::new(9)) };
    let pooled = Ledger::open(options).await.expect("the ledger, through the pooler");
    assert!(pooled.hints().await.expect("no fault").is_none(), "nobody listens through it");
    let config = Config::load(Some(&file)).expect("a configuration");
    let stages = StageRegistry::standard();
    let app = App::new(pooled, config, stages, faults.clone(), operations::all(), Consequences::standard()).expect("assembled");
    let world = World { dir, clock, faults, ledger, bucket, app: Arc::new(app) };
    world.archived(&plane).await;
    world.approve(&plane).await;
    world.drain().await;
    assert_eq!(world.state(&plane).await, "PURGED");
    invariants::check(&world).await;
    world.app.ledger.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_whose_answer_is_lost_happened_and_the_same_answer_again_changes_nothing() {
    let world = World::new().await;
    let plane = world.acme(3).await;
    world.request(&plane, "7d").await;
    let (wire, url) = Wire::before(&database(&world).app_url());
    let app = app_over(&world, url, "", Some(())).await;
    let claimed = app.manager.claim(1, WORKER, None).await.expect("claim").0.remove(0);
    let finished = app.manager.perform(&claimed).await;
    wire.swallow_next_commit();
    let lost = app.manager.record(std::slice::from_ref(&finished), WORKER).await;
    assert!(matches!(lost, Err(Fault::OutcomeUnknown { .. })), "{lost:?}");
    assert!(lost.is_err_and(|fault| fault.is_passing()), "so the worker records again");
    assert_eq!(wire.swallowed(), 1);
    assert_eq!(app.manager.record(&[finished], WORKER).await.expect("record"), [RecordResult::Stale], "it had happened");
    assert_eq!(world.entries(&plane, "TRANSITION").await, 1);

    // The same of a call under a key.
    wire.swallow_next_commit();
    let mut cancel = call("user:alice", "knowledge.offboarding.cancel", json!({"plane": plane, "reason": "r"}));
    cancel.idempotency_key = Some("once".into());
    assert!(matches!(app.dispatch(&cancel).await, Err(Fault::OutcomeUnknown { .. })));
    assert!(matches!(app.dispatch(&cancel).await, Ok(Answer::Done(_))));
    assert_eq!(world.entries(&plane, "CANCELLED").await, 1);
    app.ledger.close().await;
    world.drain().await;
    invariants::check(&world).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_worker_whose_database_goes_away_waits_and_goes_on() {
    tokio::task::LocalSet::new()
        .run_until(async {
            let world = World::new().await;
            let planes = due_planes(&world, 12).await;
            let (wire, url) = Wire::before(&database(&world).app_url());
            let app = app_over(&world, url, "[queue]\nlease = \"2s\"\n[sweep]\nevery = \"1s\"", Some(())).await;
            let (stop, stopped) = tokio::sync::watch::channel(false);
            let options = RunOptions { plane: None, until_idle: false, stop: stopped, roles: Roles::ALL };
            let running = tokio::task::spawn_local(runner::run(app, options));
            let moved = async |least: i64| {
                for _ in 0..600 {
                    if world.number("SELECT count(*) FROM planes WHERE state = 'PENDING_DEACTIVATE'").await >= least {
                        return;
                    }
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                panic!(
                    "it does not go on: {:?}",
                    world.texts("SELECT status || coalesce(last_error::text, '') FROM stage_runs").await
                );
            };
            moved(1).await;
            for _ in 0..3 {
                wire.cut();
                tokio::time::sleep(Duration::from_millis(700)).await;
                assert!(!running.is_finished(), "an absent database stops no worker");
                wire.mend();
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            // What was claimed in a commit whose answer was lost is taken back when its lease is over.
            world.clock.advance(TimeDelta::seconds(3));
            moved(12).await;
            stop.send(true).expect("it runs");
            running.await.expect("no panic").expect("no fault");
            for plane in &planes {
                assert_eq!(world.entries(plane, "TRANSITION").await, 1);
            }
            invariants::check(&world).await;
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_idle_worker_is_told_what_is_due() {
    tokio::task::LocalSet::new()
        .run_until(async {
            let world = World::new().await;
            let plane = world.acme(2).await;
            let app =
                app_over(&world, database(&world).app_url(), "[queue]\npoll = \"1h\"\n[sweep]\nevery = \"1h\"", Some(())).await;
            let (stop, stopped) = tokio::sync::watch::channel(false);
            let options = RunOptions { plane: None, until_idle: false, stop: stopped, roles: Roles::ALL };
            let running = tokio::task::spawn_local(runner::run(app, options));
            tokio::time::sleep(Duration::from_millis(1500)).await;
            let began = std::time::Instant::now();
            world.request(&plane, "7d").await;
            while world.entries(&plane, "STAGE_STARTED").await == 0 {
                assert!(began.elapsed() < Duration::from_secs(20), "it polls once an hour, so it was not told");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            println!("started {} ms after the request was begun", began.elapsed().as_millis());
            stop.send(true).expect("it runs");
            running.await.expect("no panic").expect("no fault");
            invariants::check(&world).await;
        })
        .await;
}

#[tokio::test]
async fn a_tenant_with_a_long_queue_does_not_starve_another() {
    let world = World::with("[queue]\ntenant_in_flight_max = 2").await;
    let plane = world.acme(2).await;
    world.request(&plane, "7d").await;
    // Thousands of planes of acme, each with a run that has been due for longer than globex's one.
    world
        .sql(
            "INSERT INTO planes (id, tenant_id, name, state, epoch, draining, archive_url, archive_id, usage_reported, created_at)
                SELECT ('00000000-0000-0000-0001-' || lpad(i::text, 12, '0'))::uuid, p.tenant_id, 'n' || i, 'ACTIVE', 0, true, p.archive_url,
                    p.archive_id, false, p.created_at FROM planes p, generate_series(1, 20000) i WHERE p.draining",
        )
        .await;
    world
        .sql(
            "CREATE TABLE one AS SELECT * FROM offboardings; ALTER TABLE one DROP COLUMN place;
            INSERT INTO offboardings (id, plane_id, tenant_id, plan_version, status, ground, reason, requested_by, terms_digest, grace_access,
                evict, grace_us, archive_delay_us, retention_us, usage_unknown_accepted, requested_at, received_at, round, salt)
            SELECT ('00000000-0000-0000-0002-' || right(p.id::text, 12))::uuid, p.id, p.tenant_id, o.plan_version, 'open', o.ground, o.reason,
                o.requested_by, o.terms_digest, o.grace_access, o.evict, o.grace_us, o.archive_delay_us, o.retention_us,
                o.usage_unknown_accepted, o.requested_at, o.received_at, 0, o.salt FROM one o, planes p WHERE p.name LIKE 'n%';
            INSERT INTO stage_runs (id, offboarding_id, plane_id, tenant_id, step, status, due_at, attempt, interruptions, enqueued_at)
            SELECT ('00000000-0000-0000-0003-' || right(o.id::text, 12))::uuid, o.id, o.plane_id, o.tenant_id, 'deregister', 'queued',
                o.requested_at - interval '1 hour', 0, 0, o.requested_at FROM offboardings o WHERE o.id::text LIKE '00000000-0000-0000-0002-%';
            DROP TABLE one; ANALYZE",
        )
        .await;
    world.request("globex/handbook", "7d").await;
    let due = world.number("SELECT count(*) FROM stage_runs WHERE status = 'queued'").await;
    assert_eq!(due, 20_002);
    let began = std::time::Instant::now();
    let lock = "worker-fair";
    let (claimed, seen) = world.app.manager.claim(4, lock, None).await.expect("claim");
    let took = began.elapsed();
    let of = |name: &str| claimed.iter().filter(|claimed| claimed.case.plane.name.as_deref() == Some(name)).count();
    assert_eq!((seen, of("handbook")), (3, 1), "two of acme's and globex's one, in {took:?}");
    let (more, _) = world.app.manager.claim(4, lock, None).await.expect("claim");
    assert!(more.is_empty(), "acme has as many in flight as it may: {}", more.len());
    let plans = world.app.ledger.transact(async |tx: &mut Tx| tx.claim_plans().await).await.expect("plans").into_inner();
    for (plan, index) in plans.iter().zip(["stage_runs_due ", "stage_runs_due_by_tenant "]) {
        let scans = plan.iter().filter(|line| line.contains("Seq Scan on stage_runs") || line.contains("Seq Scan on planes"));
        assert_eq!(scans.count(), 0, "{plan:#?}");
        assert!(plan.iter().any(|line| line.contains(index)), "{index}: {plan:#?}");
    }
    println!("a claim among {due} due runs took {took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_mark_is_of_the_last_entry_however_many_there_are() {
    let world = World::new().await;
    due_planes(&world, 5).await;
    world.drain().await;
    let id = world.app.ledger.id();
    let mark = world.read(async |tx: &mut Tx| tx.mark(id).await).await;
    assert_eq!(mark.place, world.number("SELECT count(*) FROM trail").await);
    assert_eq!([mark.hash.clone()].as_slice(), world.texts("SELECT hash FROM trail ORDER BY trail.place DESC LIMIT 1").await);
    assert!(!world.read(async |tx: &mut Tx| tx.is_behind(&mark).await).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_jump_that_another_one_noticed_is_a_suspicion_for_everybody() {
    let world = World::new().await;
    let look = async || {
        let gap_max = TimeDelta::days(45);
        let looked = world.app.ledger.transact(async |tx: &mut Tx| tx.observe_clock(gap_max).await);
        let look = looked.await.expect("look").into_inner();
        (look.is_suspect, look.is_news)
    };
    assert_eq!(look().await, (false, false));
    world.clock.jump(TimeDelta::days(365));
    assert_eq!(look().await, (true, true));
    assert_eq!(look().await, (true, false), "whoever looks later destroys nothing either");
    world.clock.jump(-TimeDelta::days(365));
    world.call("user:root", "governance.clock.confirm", json!({"reason": "it is right again"})).await;
    assert_eq!(look().await, (false, false));
    world.clock.jump(TimeDelta::days(300));
    assert_eq!(look().await, (true, true), "what was seen of the wrong clock hides no later jump");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chain_that_was_dated_by_a_wrong_clock_shortens_no_deadline() {
    let world = World::new().await;
    let held = world.acme(2).await;
    world
        .call(
            "user:alice",
            "knowledge.offboarding.request",
            json!({"plane": held, "ground": "internal", "reason": "r", "grace": "0s"}),
        )
        .await;
    world.drain().await;
    world.approve(&held).await;
    let other = world.register("acme", "other", "q").await;
    world.request(&other, "7d").await;
    let claimed = world.claim(&other).await;
    let finished = world.app.manager.perform(&claimed).await;
    world.clock.advance(TimeDelta::days(400));
    world.refused("user:bob", "knowledge.approval.grant", json!({"plane": other, "reason": "too early"})).await;
    world.clock.advance(-TimeDelta::days(400));
    let turn = world.app.manager.turn(&[finished], 4, WORKER, None).await.expect("a turn");
    assert_eq!(turn.recorded, [RecordResult::Recorded]);
    assert!(turn.claimed.is_empty(), "the retention of 365 days has not passed");
    assert_eq!(world.state(&held).await, "ARCHIVED");
    assert_eq!(world.blocked_by(&held).await, ["RETENTION_ACTIVE"]);
    let until: chrono::DateTime<chrono::Utc> = world.status(&other).await["offboarding"]["deadlines"]["grace_until"]
        .as_str()
        .expect("an end")
        .parse()
        .expect("an instant");
    assert_eq!(until - world.app.ledger.now(), TimeDelta::days(7));
    invariants::check(&world).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_stands_still_in_a_transaction_keeps_nobody_waiting_for_long() {
    let world = World::new().await;
    let plane = world.acme(2).await;
    let (app, id) = (world.app.clone(), plane.parse().expect("an id"));
    let standing = tokio::spawn(async move {
        let stood = app.ledger.transact(async |tx: &mut Tx| {
            tx.lock_planes(&[id]).await?;
            tokio::time::sleep(Duration::from_secs(35)).await;
            tx.raise_epoch(id).await
        });
        stood.await.map(drop)
    });
    let locked = "SELECT count(*) FROM pg_locks WHERE mode = 'RowShareLock' AND relation = 'planes'::regclass
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    while world.number(locked).await == 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    let began = std::time::Instant::now();
    let request = call("user:alice", "knowledge.offboarding.request", request(&plane, "7d"));
    let waited = world.app.dispatch(&request).await;
    assert!(waited.is_err_and(|fault| fault.is_passing()), "it gives up, and may try again");
    assert!((15..28).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
    assert!(matches!(world.app.dispatch(&request).await, Ok(Answer::Done(_))), "the server has ended who stood still");
    assert!(began.elapsed() < Duration::from_secs(34), "{:?}", began.elapsed());
    let stood: Result<(), Fault> = standing.await.expect("no panic");
    assert!(stood.is_err_and(|fault| fault.is_passing()), "and nothing of it happened");
    invariants::check(&world).await;
}
