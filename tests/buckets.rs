//! Archives in S3 buckets, on a real server: nothing is left of what was purged, nobody overwrites anybody, what breaks is named.

use std::collections::BTreeMap;

use chrono::{TimeDelta, Utc};
use futures::{StreamExt, stream};
use lethe_stages::{
    manifest::Part,
    ports::{Archive, DELETE_KEYS_MAX, PartDraft, PortError},
    record::{Column, ColumnKind, Key, Record, Value},
};
use lethe_stores::{Archives, Encryption, S3Options};
use serde_json::json;
use uuid::Uuid;

use crate::support::{
    World,
    binary::Installed,
    cut::Wire,
    invariants, knowledge,
    log::Log,
    permit::permit,
    proxy::{Cut, Proxy},
    request,
    s3::{Bucket, Kind},
};

const PLANE: Uuid = Uuid::from_u128(0x51);
const ID: Uuid = Uuid::from_u128(0x1d);

/// An archive in this bucket, prepared and opened for [`PLANE`].
async fn opened(bucket: &Bucket, options: S3Options) -> std::sync::Arc<dyn Archive> {
    let archives = Archives::new(options, BTreeMap::new());
    let (url, id) = archives.prepare(&bucket.url(), ID).await.expect("prepare");
    archives.open(&url, id, PLANE, None, Utc::now()).expect("open")
}

/// A part of so many bytes that do not compress.
async fn write_large(archive: &dyn Archive, key: &str, seed: u64, bytes: usize) -> Result<Part, PortError> {
    let mut state = seed | 1;
    let mut draw = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let blob: Vec<u8> = (0..bytes / 8).flat_map(|_| draw().to_le_bytes()).collect();
    let records = [Record { key: Key::Integer(1), values: vec![Value::Integer(1), Value::Blob(blob)] }];
    let columns =
        [Column { name: "id".into(), kind: ColumnKind::Integer }, Column { name: "blob".into(), kind: ColumnKind::Blob }];
    let digests = [records[0].digest(None)];
    archive.write_part(PartDraft { key, columns: &columns, records: &records, digests: &digests }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offboarding_to_a_bucket_ends_with_nothing_below_its_prefix() {
    for kind in [Kind::Plain, Kind::Versioned, Kind::Suspended, Kind::Lockable] {
        let world = World::on(Bucket::new(kind).await, "[archive]\npart_rows_max = 10\n").await;
        let plane = world.acme(25).await;
        let marker = world.bucket().everything("cold/archive/.lethe-archive").await;
        world.archived(&plane).await;
        let below = format!("cold/archive/{plane}/");
        // What others leave there goes too: an older version of the manifest, a half upload, a folder's marker.
        let keys = world.bucket().keys(&below).await;
        let manifest = keys.iter().find(|key| key.ends_with("manifest.json")).expect("a manifest").clone();
        let text = world.bucket().get(&manifest).await;
        world.bucket().put(&manifest, &text).await;
        world.bucket().put(&below, b"").await;
        world.bucket().leave_upload(&format!("{below}o/half.parquet")).await;
        assert_eq!(keys.len(), 4, "three parts and the manifest: {keys:?}");

        let verified = world.call("user:auditor", "knowledge.archive.verify", json!({"plane": plane, "restore": true})).await;
        assert_eq!((&verified["archive"], &verified["rows"]), (&json!("verified"), &json!(25)), "{verified}");
        let restored = json!({"plane": plane, "into": "handbook2"});
        let restored = world.call("user:root", "knowledge.archive.restore", restored).await;
        assert_eq!(restored["rows"], json!(25), "{restored}");

        world.approve(&plane).await;
        world.drain().await;
        assert_eq!(world.state(&plane).await, "PURGED", "{kind:?}: {}", world.status(&plane).await);
        assert_eq!(world.bucket().everything(&below).await, [], "{kind:?}: no version, marker or upload");
        assert_eq!(world.bucket().everything("cold/archive/.lethe-archive").await, marker, "the canary is as it was");
        invariants::check(&world).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_writers_of_one_object_one_wins() {
    for (kind, bytes) in
        [(Kind::Plain, 1 << 16), (Kind::Versioned, 1 << 16), (Kind::Plain, 18 << 20), (Kind::Versioned, 18 << 20)]
    {
        let bucket = Bucket::new(kind).await;
        let (one, other) = (opened(&bucket, bucket.options()).await, opened(&bucket, bucket.options()).await);
        let (first, second) =
            tokio::join!(write_large(one.as_ref(), "o/part", 5, bytes), write_large(other.as_ref(), "o/part", 77, bytes));
        let refused: Vec<_> = [&first, &second].into_iter().filter_map(|written| written.as_ref().err()).collect();
        assert_eq!(refused.len(), 1, "{kind:?} {bytes}: one wins: {first:?} {second:?}");
        // Either it is seen at once, or the writers met and the later one is told to come again.
        let seen = refused[0].to_string();
        assert!(seen.contains("other bytes") || matches!(refused[0], PortError::Transient(_)), "{seen}");
        let (winner, loser) = if first.is_ok() { (5, 77) } else { (77, 5) };
        let part = write_large(one.as_ref(), "o/part", winner, bytes).await.expect("the same bytes again are success");
        let back = one.get("o/part").await.expect("read back").expect("it is there");
        assert_eq!(lethe_stages::canonical::sha256(&back), part.sha256, "{kind:?} {bytes}: the winner's");
        let error = write_large(one.as_ref(), "o/part", loser, bytes).await.expect_err("other bytes are not");
        assert!(matches!(&error, PortError::Permanent(said) if said.contains("other bytes")), "{error}");
        let below = format!("cold/archive/{PLANE}/");
        assert_eq!(bucket.everything(&below).await.len(), 1, "{kind:?} {bytes}: one version and no upload");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_was_cut_half_way_is_seen_and_removed() {
    let bucket = Bucket::new(Kind::Versioned).await;
    let proxy = Proxy::before(&bucket.server.endpoint).await;
    let archive = opened(&bucket, S3Options { endpoint: Some(proxy.endpoint.clone()), ..bucket.options() }).await;
    let cut = || proxy.cut("partNumber=2", Cut::Request(1 << 20));
    (0..3).for_each(|_| cut());
    // Nor can it be tidied up after.
    (0..20).for_each(|_| proxy.cut("DELETE /", Cut::Connection));
    let error = write_large(archive.as_ref(), "o/part", 5, 18 << 20).await;
    if proxy.seen("partNumber=2") == 0 {
        // This server takes large objects by one PUT only; a writer that was killed is played.
        bucket.leave_upload(&format!("cold/archive/{PLANE}/o/part")).await;
    } else {
        assert!(matches!(error, Err(PortError::Transient(_))), "{error:?}");
    }
    let below = format!("cold/archive/{PLANE}/");
    assert!(bucket.everything(&below).await.iter().any(|(what, ..)| *what == "upload"), "an unfinished upload is left");
    proxy.mend();
    assert_eq!(archive.list().await.expect("list"), ["o/part"]);
    archive.delete(&permit(PLANE, 1), &["o/part".into()]).await.expect("delete");
    assert_eq!(bucket.everything(&below).await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_thousand_five_hundred_objects_go_in_three_requests() {
    let bucket = Bucket::new(Kind::Plain).await;
    let proxy = Proxy::before(&bucket.server.endpoint).await;
    let archive = opened(&bucket, S3Options { endpoint: Some(proxy.endpoint.clone()), ..bucket.options() }).await;
    let puts = (0..2500).map(|number| {
        let (bucket, key) = (&bucket, format!("cold/archive/{PLANE}/o/part-{number:05}"));
        async move { bucket.put(&key, b"x").await }
    });
    stream::iter(puts).buffer_unordered(16).collect::<Vec<_>>().await;
    let neighbour = format!("cold/archive/{}/o/part", Uuid::from_u128(0x52));
    bucket.put(&neighbour, b"theirs").await;
    let keys = archive.list().await.expect("list");
    assert_eq!(keys.len(), 2500);
    for batch in keys.chunks(DELETE_KEYS_MAX) {
        archive.delete(&permit(PLANE, 1), batch).await.expect("delete");
    }
    assert_eq!(proxy.seen("?delete"), 3, "three requests");
    assert!(archive.list().await.expect("list").is_empty());
    assert_eq!(bucket.get(&neighbour).await, b"theirs");
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_are_cut_in_the_middle_lead_to_the_same_end() {
    let bucket = Bucket::new(Kind::Versioned).await;
    let proxy = Proxy::before(&bucket.server.endpoint).await;
    let config = bucket.config().replace(&bucket.server.endpoint, &proxy.endpoint);
    let world = World::with(&format!("[archive]\npart_rows_max = 10\n{config}")).await;
    let world = World { bucket: Some(bucket), ..world };
    let plane = world.acme(25).await;
    world.request(&plane, "0s").await;
    // More cuts than the driver tries by itself, so that a run fails and is tried again; each kind of request, each way.
    for _ in 0..4 {
        proxy.cut(".parquet", Cut::Request(700));
        proxy.cut("GET /", Cut::Answer(300));
        proxy.cut("manifest.json", Cut::Answer(20));
        proxy.cut("?delete", Cut::Request(40));
        proxy.cut("?versions", Cut::Answer(100));
    }
    for _ in 0..8 {
        world.app.manager.sweep().await.expect("sweep");
        world.drain().await;
        if world.state(&plane).await == "ARCHIVED" && world.blocked_by(&plane).await == ["APPROVAL_REQUIRED"] {
            world.approve(&plane).await;
        }
        if world.run(&plane).await.1 == "halted" {
            world
                .call("user:root", "knowledge.offboarding.retry", json!({"plane": plane, "reason": "the network is back"}))
                .await;
        }
        world.clock.advance(TimeDelta::minutes(5));
    }
    assert_eq!(proxy.cuts_left(), 0, "every cut was made");
    assert_eq!(world.state(&plane).await, "PURGED", "{}", world.status(&plane).await);
    assert_eq!(world.bucket().everything(&format!("cold/archive/{plane}/")).await, []);
    assert!(world.trail(&plane).await.iter().any(|line| line.contains("UNAVAILABLE")), "{:?}", world.trail(&plane).await);
    invariants::check(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_an_archive_is_named_and_nothing_is_changed() {
    let bucket = Bucket::new(Kind::Plain).await;
    let wrong = "not-the-secret-of-anybody";
    let credentials = bucket.credentials(wrong);
    let https = bucket.server.endpoint.replace("http://", "https://");
    let own = bucket.server.endpoint.clone();
    let cases = [
        (
            "wrong secret",
            bucket.config().replace(
                &bucket.credentials(&bucket.server.secret_key).display().to_string(),
                &credentials.display().to_string(),
            ),
            bucket.url(),
            "secret key",
        ),
        ("missing bucket", bucket.config(), format!("s3://{}-absent/cold", bucket.name), "no such bucket"),
        ("no TLS", bucket.config().replace(&own, &https), bucket.url(), "TLS"),
        ("nobody there", bucket.config().replace(&own, "http://127.0.0.1:9"), bucket.url(), "cannot be reached"),
        (
            "no credentials",
            bucket.config().replace("credentials_file = \"", "credentials_file = \"/nowhere"),
            bucket.url(),
            "credentials",
        ),
        ("no bucket's name", bucket.config(), "s3://UPPER/x".into(), "s3://BUCKET/PREFIX"),
    ];
    for (name, config, url, complaint) in cases {
        let world = World::with(&config).await;
        world.acme(3).await;
        let mut binding = world.binding("acme", "other", "p3");
        binding["archive"] = json!(url);
        let refusal = world.refused("user:root", "knowledge.plane.register", binding).await;
        assert_eq!(refusal.code.as_str(), "STORE_UNUSABLE", "{name}: {refusal}");
        assert!(refusal.message.contains(complaint), "{name}: {refusal}");
        assert_eq!(refusal.details["retryable"], json!(name == "nobody there"), "{name}: {refusal}");
        assert!(!refusal.message.contains(wrong) && !refusal.message.contains(&bucket.server.secret_key), "{name}: {refusal}");
        let checked = world.refused("user:root", "knowledge.archive.check", json!({"url": url})).await;
        assert!(checked.message.contains(complaint), "{name}: {checked}");
        let planes = world.call("user:root", "knowledge.plane.list", json!({"tenant": "acme"})).await;
        assert_eq!(planes["planes"].as_array().map(Vec::len), Some(1), "{name}");
        assert_eq!(world.occurs(wrong) + world.occurs(&bucket.server.secret_key), 0, "{name}: in the ledger or anywhere else");
    }
    assert_eq!(bucket.everything("").await, [], "nothing was written");
    let url = bucket.url();
    let checked = bucket.archives().check(&url).await.expect("a plain bucket is right");
    assert!(checked.findings.iter().any(|said| said.contains("keeps no versions")), "and said to be so: {checked:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_that_went_away_halts_or_waits_and_loses_nothing() {
    let world = World::on(Bucket::new(Kind::Plain).await, "").await;
    let plane = world.acme(5).await;
    let canary = "cold/archive/.lethe-archive.json";
    let text = world.bucket().get(canary).await;
    world.request(&plane, "1h").await;
    world.drain().await;
    world.bucket().client.delete_object().bucket(&world.bucket().name).key(canary).send().await.expect("delete");
    world.advance(TimeDelta::hours(1)).await;
    assert_eq!(world.run(&plane).await, ("verify".into(), "halted".into()), "found before anything is changed");
    world.bucket().put(canary, &text).await;
    world.call("user:root", "knowledge.offboarding.retry", json!({"plane": plane, "reason": "put back"})).await;
    world.drain().await;
    assert_eq!(world.state(&plane).await, "ARCHIVED", "{}", world.status(&plane).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn encryption_is_asked_for_and_believed_only_when_read_back() {
    let bucket = Bucket::new(Kind::Plain).await;
    let below = format!("cold/archive/{PLANE}/");
    for (encryption, kms_key) in [(Encryption::Aes256, None), (Encryption::Kms, Some("lethe-1".to_owned()))] {
        let options = S3Options { encryption, kms_key: kms_key.clone(), ..bucket.options() };
        let written = opened(&bucket, options).await.put(&format!("o/{encryption}"), b"text").await;
        match written {
            Ok(()) => {
                let key = format!("{below}o/{encryption}");
                let head = bucket.client.head_object().bucket(&bucket.name).key(key).send().await.expect("head");
                assert_eq!(head.server_side_encryption.map(|found| found.as_str().to_owned()), Some(encryption.to_string()));
                assert_eq!(head.ssekms_key_id, kms_key);
            }
            // This server may have no keys of its own; then it says so, and nothing is claimed.
            Err(error) => assert!(matches!(&error, PortError::Permanent(said) if said.contains(&bucket.name)), "{error}"),
        }
    }
    let proxy = Proxy::before(&bucket.server.endpoint).await;
    let options = S3Options {
        encryption: Encryption::Kms,
        kms_key: Some("lethe-1".into()),
        endpoint: Some(proxy.endpoint.clone()),
        ..bucket.options()
    };
    let archive = opened(&bucket, options).await;
    proxy.hide("x-amz-server-side-encryption");
    let error = archive.put("o/ignored", b"text").await.expect_err("a server that ignores what it was asked");
    assert!(matches!(&error, PortError::Permanent(said) if said.contains("the server applied none")), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_nobody_declared_is_refused_by_name_and_a_declared_one_is_purged_too() {
    let (bucket, copy) = (Bucket::new(Kind::Versioned).await, Bucket::new(Kind::Versioned).await);
    let proxy = Proxy::before(&bucket.server.endpoint).await;
    let to = format!("arn:aws:s3:::{}", copy.name);
    let rules = format!(
        "<ReplicationConfiguration><Role>r</Role><Rule><ID>all</ID><Status>Enabled</Status><Filter><Prefix></Prefix></Filter>\
         <Destination><Bucket>{to}</Bucket></Destination></Rule></ReplicationConfiguration>"
    );
    proxy.answer(&format!("/{}/?replication", bucket.name), "200 OK", &rules);
    proxy.answer(&format!("/{}?replication", bucket.name), "200 OK", &rules);
    let config = bucket.config().replace(&bucket.server.endpoint, &proxy.endpoint);
    let world = World::with(&config).await;
    let world = World { bucket: Some(bucket), ..world };
    for tenant in ["acme"] {
        world.call("user:root", "account.tenant.register", json!({"name": tenant})).await;
    }
    let file = world.dir.path().join("knowledge.db");
    knowledge::create(&file, &[("p1", 12), ("p2", 20)]).await;
    let store = json!({"name": "kb", "url": format!("sqlite:{}", file.display()), "tenants": ["acme"]});
    world.call("user:root", "integrations.store.add", store).await;
    let refusal = world.refused("user:root", "knowledge.plane.register", world.binding("acme", "handbook", "p1")).await;
    assert!(refusal.message.contains(&copy.url()) && refusal.message.contains("not declared"), "{refusal}");
    assert_eq!(world.bucket().everything("").await, [], "nothing was written");

    let url = world.bucket().url();
    // Replication keeps keys: in the right bucket, but below another prefix, there is no copy.
    let beside = format!("{config}[archives.\"{url}\"]\nreplicas = [\"s3://{}/cold/copy\"]\n", copy.name);
    let world = world.reopened(&beside).await;
    let refusal = world.refused("user:root", "knowledge.plane.register", world.binding("acme", "handbook", "p1")).await;
    assert!(refusal.message.contains(&copy.url()), "{refusal}");
    world.clock.advance(TimeDelta::seconds(1));
    let declared = format!("{config}[archives.\"{url}\"]\nreplicas = [\"{}\"]\n", copy.url());
    let world = world.reopened(&declared).await;
    let plane = world.register("acme", "handbook", "p1").await;
    // Somebody takes the declaration back.
    world.clock.advance(TimeDelta::seconds(1));
    let world = world.reopened(&config).await;
    let refusal = world.refused("user:alice", "knowledge.offboarding.request", request(&plane, "1h")).await;
    assert_eq!((refusal.code.as_str(), &refusal.details["copies"]), ("REPLICA_UNDECLARED", &json!([copy.url()])), "{refusal}");
    world.clock.advance(TimeDelta::seconds(1));
    let mut world = world.reopened(&declared).await;
    world.archived(&plane).await;
    let below = format!("cold/archive/{plane}/");
    for key in world.bucket().keys(&below).await {
        copy.put(&key, &world.bucket().get(&key).await).await;
    }
    // A plan that names other copies than are declared is made anew, and its approval goes with it.
    for (config, copies) in [(&config, 0), (&declared, 1)] {
        world.approve(&plane).await;
        world.clock.advance(TimeDelta::seconds(1));
        world = world.reopened(config).await;
        world.drain().await;
        assert_eq!(world.blocked_by(&plane).await, ["PLAN_CHANGED"], "{}", world.status(&plane).await);
        world.call("user:root", "knowledge.offboarding.retry", json!({"plane": plane, "reason": "declared anew"})).await;
        world.drain().await;
        let status = world.status(&plane).await;
        assert_eq!(status["offboarding"]["plan"]["archive_copies"].as_array().map_or(0, Vec::len), copies, "{status}");
        assert_eq!(world.blocked_by(&plane).await, ["APPROVAL_REQUIRED"], "{status}");
        assert_eq!(world.state(&plane).await, "ARCHIVED");
    }
    let withdrawn = world.trail(&plane).await.iter().filter(|line| line.starts_with("APPROVAL_WITHDRAWN")).count();
    assert_eq!(withdrawn, 2);
    world.approve(&plane).await;
    // Who is configured otherwise does not purge less than was approved.
    world.clock.advance(TimeDelta::seconds(1));
    let world = world.reopened(&config).await;
    world.drain().await;
    assert_eq!(world.state(&plane).await, "ARCHIVED");
    assert_eq!(world.blocked_by(&plane).await, ["PLAN_CHANGED"], "{}", world.status(&plane).await);
    let world = world.reopened(&declared).await;
    world.advance(TimeDelta::seconds(30)).await;
    assert_eq!(world.state(&plane).await, "PURGED", "{}", world.status(&plane).await);
    assert_eq!(world.bucket().everything(&below).await, []);
    assert_eq!(copy.everything(&below).await, [], "the copy too");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_server_does_not_answer_is_said_to_be_unknown() {
    let bucket = Bucket::new(Kind::Versioned).await;
    let proxy = Proxy::before(&bucket.server.endpoint).await;
    let error = "<Error><Code>NotImplemented</Code><Message>no</Message></Error>";
    for what in ["?replication", "?lifecycle", "?versioning", "?object-lock"] {
        proxy.answer(what, "501 Not Implemented", error);
    }
    let options = S3Options { endpoint: Some(proxy.endpoint.clone()), ..bucket.options() };
    let archives = Archives::new(options, BTreeMap::new());
    let found = archives.check(&bucket.url()).await.expect("check");
    let known = found.bucket.as_ref().expect("a bucket");
    assert_eq!((known.versioning.as_str(), known.unknown.len()), ("unknown", 4), "{found:?}");
    assert!(found.findings.iter().any(|said| said.contains("replication") && said.contains("NotImplemented")), "{found:?}");
    // What a purge cannot do without is not left unknown.
    proxy.answer("?versions", "501 Not Implemented", error);
    let refused = archives.prepare(&bucket.url(), ID).await.expect_err("no versions can be listed");
    assert!(matches!(&refused, PortError::Permanent(said) if said.contains("not implemented")), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_that_expires_objects_is_reported() {
    use aws_sdk_s3::types::{
        BucketLifecycleConfiguration, ExpirationStatus, LifecycleExpiration, LifecycleRule, LifecycleRuleFilter,
    };
    let bucket = Bucket::new(Kind::Plain).await;
    let rule = |id: &str, prefix: &str| {
        let expiration = LifecycleExpiration::builder().days(30).build();
        let filter = LifecycleRuleFilter::builder().prefix(prefix).build();
        let rule = LifecycleRule::builder().id(id).status(ExpirationStatus::Enabled).filter(filter).expiration(expiration);
        rule.build().expect("a rule")
    };
    let rules = BucketLifecycleConfiguration::builder().rules(rule("tidy", "cold/")).rules(rule("others", "logs/")).build();
    let request = bucket.client.put_bucket_lifecycle_configuration().bucket(&bucket.name);
    request.lifecycle_configuration(rules.expect("rules")).send().await.expect("set a lifecycle");
    let found = bucket.archives().check(&bucket.url()).await.expect("check").bucket.expect("a bucket");
    assert_eq!(found.expires, ["lifecycle rule tidy expires objects after 30 day(s)"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_program_finds_its_credentials_in_the_environment_and_shows_them_nowhere() {
    let bucket = Bucket::new(Kind::Versioned).await;
    let installed = Installed::with_plane(12, "").await;
    let mut shown = String::new();
    let mut lethe = |arguments: &[&str], code: i32| {
        let mut command = installed.command(&[arguments, &["--json", "--log", "trace"]].concat());
        command
            .env("AWS_ENDPOINT_URL", &bucket.server.endpoint)
            .env("AWS_REGION", &bucket.server.region)
            .env("AWS_ACCESS_KEY_ID", &bucket.server.access_key)
            .env("AWS_SECRET_ACCESS_KEY", &bucket.server.secret_key);
        let output = command.output().expect("run the binary");
        shown += &String::from_utf8_lossy(&output.stderr);
        shown += &String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", String::from_utf8_lossy(&output.stdout));
        serde_json::from_slice::<serde_json::Value>(&output.stdout).expect("a document")
    };
    let url = bucket.url();
    let found = lethe(&["archive", "check", &url], 0);
    assert_eq!(
        (&found["kind"], &found["archive_id"], &found["bucket"]["versioning"]),
        (&json!("s3"), &json!(null), &json!("enabled"))
    );
    let mut db = knowledge::open(&installed.path("knowledge.db")).await;
    for number in 0..7 {
        knowledge::insert(&mut db, "p3", number).await.expect("insert");
    }
    drop(db);
    let store = "kb?table=chunks&plane_column=plane&plane=p3&key=id&text=body&embedding=embedding";
    let plane = lethe(&["plane", "register", "--tenant", "acme", "--name", "cold", "--store", store, "--archive", &url], 0);
    let request = ["offboard", "acme/cold", "--ground", "internal", "--reason", "done", "--grace", "0s", "--retention", "0s"];
    lethe(&request, 0);
    lethe(&["work", "--until-idle"], 0);
    assert_eq!(lethe(&["archive", "verify", "acme/cold", "--restore"], 0)["archive"], "verified");
    assert_eq!(lethe(&["archive", "restore", "acme/cold", "--into", "warm"], 0)["rows"], json!(7));
    let grant = ["approval", "grant", "acme/cold", "--reason", "checked", "--actor", "user:bob", "--yes"];
    lethe(&grant, 0);
    lethe(&["work", "--until-idle"], 0);
    assert_eq!(lethe(&["status", "acme/cold"], 0)["state"], "PURGED");
    assert_eq!(lethe(&["ledger", "check"], 0)["ledger"], "sound");
    assert_eq!(bucket.everything(&format!("cold/archive/{}/", plane["plane_id"].as_str().expect("an id"))).await, []);
    assert!(shown.contains("DEBUG") || shown.contains("TRACE"), "the log was on");
    assert!(!shown.contains(&bucket.server.secret_key), "no secret in any output");
    assert_eq!(knowledge::occurrences(installed.dir.path(), bucket.server.secret_key.as_bytes()), 0, "nor in any file");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_killed_anywhere_comes_to_the_same_end() {
    let bucket = Bucket::new(Kind::Versioned).await;
    let config = format!("[archive]\npart_rows_max = 5\n{}", bucket.config());
    let installed = Installed::with_plane(3, &config).await;
    let file = installed.path("knowledge.db");
    let mut db = knowledge::open(&file).await;
    for number in 0..12 {
        knowledge::insert(&mut db, "p3", number).await.expect("insert");
    }
    drop(db);
    let store = "kb?table=chunks&plane_column=plane&plane=p3&key=id&text=body&embedding=embedding";
    let url = bucket.url();
    let plane = installed.done(&["plane", "register", "--tenant", "acme", "--name", "cold", "--store", store, "--archive", &url]);
    let ask = ["offboard", "acme/cold", "--ground", "internal", "--reason", "done", "--grace", "0s", "--retention", "0s"];
    installed.done(&ask);
    for point in ["export.part_written", "export.read_back", "export.manifest_written"] {
        assert!(installed.work_until_crash(point), "{point} is reached");
    }
    installed.work();
    assert_eq!(installed.state("acme/cold"), "ARCHIVED");
    let below = format!("cold/archive/{}/", plane["plane_id"].as_str().expect("an id"));
    assert_eq!(bucket.keys(&below).await.len(), 4, "three parts, once each, and the manifest");
    installed.done(&["approval", "grant", "acme/cold", "--reason", "checked", "--actor", "user:bob", "--yes"]);
    for point in ["purge.stores_empty", "purge.parts_deleted", "purge.object_deleted", "purge.manifest_deleted"] {
        assert!(installed.work_until_crash(point), "{point} is reached");
    }
    installed.work();
    assert_eq!(installed.state("acme/cold"), "PURGED", "{}", installed.status("acme/cold"));
    assert_eq!(bucket.everything(&below).await, []);
    assert_eq!(knowledge::digest(&file, "p1").await.0, 3, "the neighbour");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_finds_itself_behind_its_mark_in_a_bucket() {
    let world = World::on(Bucket::new(Kind::Versioned).await, "").await;
    let plane = world.acme(5).await;
    let marks = world.bucket().everything("cold/archive/.lethe-mark-").await;
    assert_eq!(marks.len(), 1, "one version of one mark: {marks:?}");
    let mark = world.bucket().get(&marks[0].1).await;
    let mut ahead: serde_json::Value = serde_json::from_slice(&mark).expect("a mark");
    ahead["place"] = json!(9999);
    ahead["hash"] = json!("another past");
    world.bucket().put(&marks[0].1, ahead.to_string().as_bytes()).await;
    world.call("user:alice", "knowledge.offboarding.request", request(&plane, "0s")).await;
    world.drain().await;
    assert_eq!(world.blocked_by(&plane).await, ["LEDGER_BEHIND"]);
    world.call("user:root", "governance.ledger.reconcile", json!({"reason": "restored"})).await;
    world.drain().await;
    assert_eq!(world.state(&plane).await, "ARCHIVED");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_comes_back_below_a_purged_prefix_is_found_in_any_version() {
    for kind in [Kind::Plain, Kind::Versioned] {
        let world = World::on(Bucket::new(kind).await, "").await;
        let plane = world.acme(5).await;
        world.purged(&plane).await;
        world.clock.advance(TimeDelta::days(1));
        assert_eq!(world.probe().await.clean, 1, "{kind:?}");
        let key = format!("cold/archive/{plane}/o/0.parquet");
        world.bucket().put(&key, b"copy").await;
        if kind == Kind::Versioned {
            // Deleted as most programs delete: the version stays, under a marker.
            let delete = world.bucket().client.delete_object().bucket(&world.bucket().name).key(&key);
            delete.send().await.expect("delete");
        }
        assert_eq!(world.run_probe("user:bob", &plane).await.found, 1, "{kind:?}");
        let finding = world.finding(&plane).await.expect("a finding");
        assert!(finding["evidence"]["archive"]["objects"].as_u64() > Some(0), "{finding}");
        invariants::check(&world).await;
    }
}

/// The tiles of a log are locked in the bucket that they are published to; while it is away everything is sealed, and then it is caught up with.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_is_published_to_a_bucket_that_locks_it_and_may_be_away() {
    let bucket = Bucket::new(Kind::Lockable).await;
    let wire = Wire::to(bucket.server.endpoint.trim_start_matches("http://"));
    let log = Log::new();
    let url = format!("s3://{}/log", bucket.name);
    let reached = bucket.config().replace(&bucket.server.endpoint, &format!("http://127.0.0.1:{}", wire.port));
    let section = reached.replace("[archive.s3]", &format!("[archives.\"{url}\"]"));
    let config = log.config("first", &[]).replace(&format!("file://{}", log.path("published").display()), &url);
    let world = World::with(&format!("{config}{reached}{section}lock_mode = \"governance\"\nlock_for = \"1d\"\n")).await;
    // Locks end by the server's clock.
    world.as_late_as_it_is();
    let grow = async |name: &str| {
        world.call("user:root", "account.tenant.register", json!({"name": name})).await;
        world.app.manager.keep_log().await.unwrap()
    };
    let first = grow("one").await;
    assert!(first.sealed == first.published && first.stopped.is_none(), "{first:?}");
    let read = async |key: &str| String::from_utf8(bucket.get(&format!("log/{key}")).await).unwrap();
    let size = |note: &str| note.lines().nth(1).unwrap().parse::<u64>().unwrap();
    let before = size(&read("checkpoint").await);
    let tile = format!("log/tile/0/000.p/{before}");
    let locked = bucket.client.get_object_retention().bucket(&bucket.name).key(&tile).send().await.expect("a lock");
    assert_eq!(locked.retention().unwrap().mode().unwrap().as_str(), "GOVERNANCE");

    wire.cut();
    for name in ["two", "three", "four"] {
        let report = grow(name).await;
        assert!(report.sealed > 0 && report.published == 0 && report.stopped.is_none(), "{report:?}");
    }
    let away = world.call("user:auditor", "governance.audit.verify", json!({})).await;
    assert!(away["message"].as_str().unwrap().contains("cannot be read"), "{away}");
    wire.mend();
    let report = grow("five").await;
    assert!(report.published >= 4, "{report:?}");
    let verified = world.call("user:auditor", "governance.audit.verify", json!({})).await;
    assert_eq!(
        (&verified["audit"], &verified["published"]["size"]),
        (&json!("verified"), &json!(size(&read("checkpoint").await))),
        "{verified}"
    );
    // What was written once stays: the tile of the first checkpoint is still there, and one version of it.
    let versions = bucket.versions(&tile).await;
    assert_eq!(versions.len(), 1, "{versions:?}");
    // Somebody with the bucket's rights writes over a tile: that makes another version of it, and is found.
    bucket.put(&format!("log/tile/0/000.p/{}", size(&read("checkpoint").await)), b"not a tile").await;
    let changed = world.call("user:auditor", "governance.audit.verify", json!({})).await;
    assert!(changed["message"].as_str().unwrap().contains("was changed"), "{changed}");
}
