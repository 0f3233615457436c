//! Object locks: one that outlives the retention is refused at the request; one that still holds keeps the whole purge waiting.

use aws_sdk_s3::{
    primitives::DateTime as S3DateTime,
    types::{
        DefaultRetention, ObjectLockConfiguration, ObjectLockEnabled, ObjectLockRetention, ObjectLockRetentionMode,
        ObjectLockRule,
    },
};
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value as Json, json};

use crate::support::{
    World, invariants, knowledge, request,
    s3::{Bucket, Kind},
};

fn with(mut arguments: Json, terms: Json) -> Json {
    arguments.as_object_mut().expect("an object").extend(terms.as_object().cloned().expect("an object"));
    arguments
}

/// A world whose archive locks what is written, with the clock at the real time: the server goes by it.
async fn locking(mode: &str, lasts: &str) -> World {
    let bucket = Bucket::new(Kind::Lockable).await;
    let config = format!("{}lock_mode = \"{mode}\"\nlock_for = \"{lasts}\"\n", bucket.config());
    let world = World::with(&config).await;
    world.as_late_as_it_is();
    World { bucket: Some(bucket), ..world }
}

async fn rows(world: &World, value: &str) -> usize {
    knowledge::digest(&world.dir.path().join("knowledge.db"), value).await.0
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_outlives_the_retention_is_refused_at_the_request_with_both_dates() {
    let world = locking("governance", "30d").await;
    let plane = world.acme(5).await;
    let at = world.app.ledger.now();
    let basis = json!({"retention": "7d", "retention_basis": "tax"});
    for operation in ["knowledge.offboarding.request", "knowledge.offboarding.preview"] {
        let refusal = world.refused("user:alice", operation, with(request(&plane, "1h"), basis.clone())).await;
        assert_eq!(refusal.code.as_str(), "LOCK_OUTLIVES_RETENTION", "{refusal}");
        let date = |name: &str| refusal.details[name].as_str().expect(name).parse::<DateTime<Utc>>().expect("a date");
        assert_eq!(date("earliest_purge") - at, TimeDelta::hours(1) + TimeDelta::days(7));
        assert_eq!(date("locked_until") - at, TimeDelta::hours(1) + TimeDelta::days(30));
        for text in ["locked_until", "earliest_purge"] {
            assert!(refusal.message.contains(&date(text).to_rfc3339()), "{refusal}");
        }
    }
    assert_eq!(world.state(&plane).await, "ACTIVE");
    let long = json!({"retention": "30d", "retention_basis": "tax"});
    let plan = world.call("user:alice", "knowledge.offboarding.preview", with(request(&plane, "1h"), long.clone())).await;
    assert_eq!(plan["plan"]["archive_check"]["bucket"]["lock"]["mode"], "governance", "{plan}");
    world.call("user:alice", "knowledge.offboarding.request", with(request(&plane, "1h"), long)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_locks_by_itself_is_refused_for_an_erasure_request() {
    let bucket = Bucket::new(Kind::Lockable).await;
    let retention = DefaultRetention::builder().mode(ObjectLockRetentionMode::Compliance).days(1).build();
    let rule = ObjectLockRule::builder().default_retention(retention).build();
    let configuration = ObjectLockConfiguration::builder().object_lock_enabled(ObjectLockEnabled::Enabled);
    let world = World::on(bucket, "").await;
    let plane = world.acme(5).await;
    // After the registration, whose canary would stay locked for a day.
    let request_lock = world.bucket().client.put_object_lock_configuration().bucket(&world.bucket().name);
    request_lock.object_lock_configuration(configuration.rule(rule).build()).send().await.expect("lock by default");
    let erasure = json!({"plane": plane, "ground": "erasure_request", "reason": "article 17", "grace": "1h"});
    for operation in ["knowledge.offboarding.request", "knowledge.offboarding.preview"] {
        let refusal = world.refused("user:alice", operation, erasure.clone()).await;
        assert_eq!(refusal.code.as_str(), "LOCK_OUTLIVES_RETENTION", "{refusal}");
        assert!(refusal.message.contains("compliance") && refusal.message.contains("without a lock"), "{refusal}");
    }
    let found = world.call("user:root", "knowledge.archive.check", json!({"url": world.bucket().url()})).await;
    assert_eq!(found["bucket"]["default_lock"], json!({"mode": "compliance", "seconds": 86_400}), "{found}");
    assert_eq!((world.state(&plane).await.as_str(), rows(&world, "p1").await), ("ACTIVE", 5));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purge_before_the_locks_date_waits_for_it_and_nothing_is_half_deleted() {
    let world = locking("compliance", "5s").await;
    let plane = world.acme(5).await;
    let terms = json!({"evict": "at_purge", "retention": "5s", "retention_basis": "tax"});
    world.as_late_as_it_is();
    world.call("user:alice", "knowledge.offboarding.request", with(request(&plane, "0s"), terms)).await;
    world.drain().await;
    assert_eq!(world.state(&plane).await, "ARCHIVED", "{}", world.status(&plane).await);
    let below = format!("cold/archive/{plane}/");
    let before = world.bucket().everything(&below).await;
    for (_, key, _) in &before {
        let request = world.bucket().client.get_object_retention().bucket(&world.bucket().name).key(key);
        let lock = request.send().await.expect("a lock").retention.expect("a retention");
        assert_eq!(lock.mode, Some(ObjectLockRetentionMode::Compliance), "{key}");
    }
    // Somebody else's longer lock on one of them.
    let (_, key, id) = before.first().expect("an object");
    let until = Utc::now() + TimeDelta::seconds(12);
    let retention = ObjectLockRetention::builder()
        .mode(ObjectLockRetentionMode::Compliance)
        .retain_until_date(S3DateTime::from_secs(until.timestamp()))
        .build();
    let longer = world.bucket().client.put_object_retention().bucket(&world.bucket().name).key(key).version_id(id);
    longer.retention(retention).send().await.expect("lock for longer");
    world.approve(&plane).await;
    world.advance(TimeDelta::seconds(6)).await;
    assert_eq!(world.blocked_by(&plane).await, ["ARCHIVE_LOCKED"], "{}", world.status(&plane).await);
    let status = world.status(&plane).await;
    let blocked = &status["offboarding"]["blocked_by"][0];
    let named = DateTime::from_timestamp(until.timestamp(), 0).expect("a date").to_rfc3339();
    assert!(blocked["message"].as_str().expect("a message").contains(&named), "{blocked}");
    assert_eq!(world.bucket().everything(&below).await, before, "every version is still there");
    assert_eq!(rows(&world, "p1").await, 5, "and so is the hot copy");

    // The server's clock cannot be moved.
    let left = (until - Utc::now()).max(TimeDelta::zero()) + TimeDelta::seconds(2);
    tokio::time::sleep(left.to_std().expect("a duration")).await;
    world.advance(TimeDelta::seconds(15)).await;
    assert_eq!(world.state(&plane).await, "PURGED", "{}", world.status(&plane).await);
    assert_eq!(world.bucket().everything(&below).await, []);
    invariants::check(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_legal_hold_in_the_bucket_halts_the_purge_before_anything_goes() {
    let world = World::on(Bucket::new(Kind::Lockable).await, "").await;
    let plane = world.acme(5).await;
    world.archived(&plane).await;
    let below = format!("cold/archive/{plane}/");
    let before = world.bucket().everything(&below).await;
    let (_, held, _) = before.last().expect("an object");
    world.bucket().legal_hold(held, true).await;
    world.approve(&plane).await;
    world.drain().await;
    let status = world.status(&plane).await;
    assert_eq!(world.run(&plane).await, ("purge".into(), "halted".into()), "{status}");
    let message = status["offboarding"]["last_error"]["message"].as_str().expect("a message").to_owned();
    assert!(message.contains("legal hold") && message.contains(held.as_str()), "{message}");
    assert_eq!(world.bucket().everything(&below).await, before);
    world.bucket().legal_hold(held, false).await;
    world.call("user:root", "knowledge.offboarding.retry", json!({"plane": plane, "reason": "released"})).await;
    world.drain().await;
    assert_eq!(world.state(&plane).await, "PURGED", "{}", world.status(&plane).await);
    assert_eq!(world.bucket().everything(&below).await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_cannot_lock_is_not_believed_to() {
    let bucket = Bucket::new(Kind::Plain).await;
    let config = format!("{}lock_mode = \"governance\"\nlock_for = \"1h\"\n", bucket.config());
    let world = World::with(&config).await;
    world.as_late_as_it_is();
    let world = World { bucket: Some(bucket), ..world };
    let plane = world.acme(5).await;
    let terms = json!({"retention": "1h", "retention_basis": "tax"});
    world.call("user:alice", "knowledge.offboarding.request", with(request(&plane, "0s"), terms)).await;
    world.drain().await;
    assert_eq!(world.run(&plane).await, ("export".into(), "halted".into()), "{}", world.status(&plane).await);
    assert_eq!((world.state(&plane).await.as_str(), rows(&world, "p1").await), ("DEACTIVATED", 5), "nothing is destroyed");
}
