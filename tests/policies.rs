//! Policies: how many approvals a purge takes and whose, who may do what, and what happens while the policies are broken.

use std::path::Path;

use chrono::TimeDelta;
use serde_json::{Value as Json, json};

use crate::support::{World, invariants, keys::Key, request};

const GRANT: &str = "knowledge.approval.grant";

async fn approver(world: &World, actor: &str, roles: &[&str]) -> Key {
    let key = Key::new();
    let arguments = json!({"actor": actor, "public_key": key.public(), "roles": roles, "reason": "of the records team"});
    world.call("user:root", "governance.approver.add", arguments).await;
    key
}

async fn signed(world: &World, plane: &str, key: &Key) -> Json {
    let shown = world.call("user:auditor", "knowledge.offboarding.plan", json!({"plane": plane})).await;
    json!({"plane": plane, "reason": "read it", "signature": key.sign(shown["text"].as_str().expect("a text"))})
}

fn roles(preset: &str) -> String {
    format!(
        "[policy]\npreset = \"{preset}\"\n[policy.roles]\noperator = [\"user:alice\"]\nadmin = [\"user:root\"]\n\
         [approval]\nassurance_min = \"signed\"\n"
    )
}

#[tokio::test]
async fn under_a_regulator_two_sign_and_one_of_them_for_the_law() {
    let world = World::with(&roles("regulated")).await;
    let plane = world.acme(3).await;
    world.archived(&plane).await;
    let bob = approver(&world, "user:bob", &["approver"]).await;
    let carol = approver(&world, "user:carol", &["approver"]).await;
    let lena = approver(&world, "user:lena", &["approver", "compliance"]).await;
    let granted = world.call("user:bob", GRANT, signed(&world, &plane, &bob).await).await;
    assert_eq!(granted["still_missing"]["code"], "APPROVALS_TOO_FEW", "{granted}");
    assert_eq!(world.code("user:bob", GRANT, signed(&world, &plane, &bob).await).await, "APPROVAL_EXISTS", "nobody counts twice");
    let granted = world.call("user:carol", GRANT, signed(&world, &plane, &carol).await).await;
    assert_eq!(granted["still_missing"]["code"], "APPROVALS_TOO_FEW", "two, and nobody for the law");
    world.drain().await;
    assert_eq!(world.state(&plane).await, "ARCHIVED");
    assert_eq!(world.blocked_by(&plane).await, ["APPROVALS_TOO_FEW"]);
    assert_eq!(world.blocked(&plane, "APPROVALS_TOO_FEW").await, 1, "on record once");
    world.app.manager.sweep().await.expect("swept");
    assert_eq!(world.drain().await, 0, "and not retried in a loop");
    let listed = world.call("user:lena", "knowledge.approval.list", json!({"mine": true})).await;
    let mut given: Vec<_> = listed["waiting"][0]["approved_by"].as_array().expect("names").iter().map(Json::to_string).collect();
    given.sort();
    assert_eq!(given, ["\"user:bob\"", "\"user:carol\""], "{listed}");
    let hold = world.call("user:lena", "knowledge.hold.place", json!({"plane": plane, "reason": "a letter came"})).await;
    let release = json!({"hold_id": hold["hold_id"], "reason": "answered"});
    let granted = world.call("user:lena", GRANT, signed(&world, &plane, &lena).await).await;
    assert_eq!(granted["still_missing"], Json::Null, "{granted}");
    world.drain().await;
    assert_eq!(world.state(&plane).await, "ARCHIVED", "released, and held");
    assert_eq!(world.code("user:lena", "knowledge.hold.release", release.clone()).await, "POLICY_DENIED", "it is her own");
    assert_eq!(
        world.code("user:bob", "knowledge.hold.release", release.clone()).await,
        "POLICY_DENIED",
        "he does not speak for the law"
    );
    approver(&world, "user:max", &["compliance"]).await;
    world.call("user:max", "knowledge.hold.release", release).await;
    world.drain().await;
    assert_eq!(world.state(&plane).await, "PURGED");
    invariants::check(&world).await;
}

#[tokio::test]
async fn one_approval_withdrawn_is_one_too_few_again() {
    let world = World::with(&roles("regulated")).await;
    let plane = world.acme(3).await;
    world.call("user:root", "knowledge.control.pause", json!({"stage": "purge", "reason": "look first"})).await;
    world.archived(&plane).await;
    let bob = approver(&world, "user:bob", &["approver"]).await;
    let lena = approver(&world, "user:lena", &["approver", "compliance"]).await;
    world.call("user:bob", GRANT, signed(&world, &plane, &bob).await).await;
    world.call("user:lena", GRANT, signed(&world, &plane, &lena).await).await;
    let withdraw = |by: Option<&str>| json!({"plane": plane, "reason": "wait", "by": by});
    let zoe = approver(&world, "user:zoe", &["approver"]).await;
    assert_eq!(world.code("user:zoe", GRANT, signed(&world, &plane, &zoe).await).await, "APPROVAL_EXISTS", "enough is enough");
    assert_eq!(world.code("user:zoe", "knowledge.approval.withdraw", withdraw(None)).await, "APPROVAL_UNKNOWN", "whose?");
    world.call("user:zoe", "knowledge.approval.withdraw", withdraw(Some("user:lena"))).await;
    world.call("user:root", "knowledge.control.resume", json!({"stage": "purge"})).await;
    world.drain().await;
    assert_eq!(world.blocked_by(&plane).await, ["APPROVALS_TOO_FEW"]);
    // A denial outweighs what was granted, and is final for the plan.
    world.call("user:zoe", "knowledge.approval.deny", json!({"plane": plane, "reason": "count again"})).await;
    assert_eq!(world.code("user:lena", GRANT, signed(&world, &plane, &lena).await).await, "APPROVAL_DENIED");
    world.drain().await;
    assert_eq!(world.state(&plane).await, "ARCHIVED");
    invariants::check(&world).await;
}

#[tokio::test]
async fn in_a_team_a_role_permits_and_nothing_else_does() {
    let world = World::with(&roles("team")).await;
    let plane = world.acme(3).await;
    let nobody = "user:eve";
    let reasoned = json!({"plane": plane, "reason": "r"});
    for (operation, arguments) in [
        ("knowledge.offboarding.request", request(&plane, "1h")),
        ("knowledge.token.issue", json!({"plane": plane})),
        ("account.tenant.register", json!({"name": "mine"})),
        ("knowledge.hold.place", reasoned.clone()),
        ("knowledge.control.pause", json!({"all": true, "reason": "r"})),
        ("governance.approver.add", json!({"actor": nobody, "public_key": Key::new().public(), "reason": "me"})),
        ("account.tenant.protect", json!({"name": "acme", "until": "2027-01-01T00:00:00Z", "reason": "r"})),
    ] {
        assert_eq!(world.code(nobody, operation, arguments).await, "POLICY_DENIED", "{operation}");
    }
    assert!(world.blocked(&plane, "POLICY_DENIED").await >= 3, "on the plane's record");
    world.call(nobody, "knowledge.plane.show", json!({"plane": plane})).await;
    world.request(&plane, "7d").await;
    world.drain().await;
    assert_eq!(
        world.code("user:alice", "knowledge.offboarding.break_glass", reasoned.clone()).await,
        "POLICY_DENIED",
        "admins do"
    );
    assert_eq!(world.code(nobody, "knowledge.offboarding.cancel", reasoned.clone()).await, "POLICY_DENIED");
    world.call("user:root", "knowledge.offboarding.break_glass", reasoned.clone()).await;
    world.drain().await;
    assert_eq!(world.state(&plane).await, "ARCHIVED");
    assert_eq!(world.code(nobody, GRANT, reasoned).await, "POLICY_DENIED", "a role, then a signature");
    let bob = approver(&world, "user:bob", &["approver"]).await;
    world.call("user:bob", GRANT, signed(&world, &plane, &bob).await).await;
    world.drain().await;
    assert_eq!(world.state(&plane).await, "PURGED");
    // What was asked is kept, so that other policies can be tried on it.
    let same = world.call("user:root", "governance.policy.check", json!({"policies": "team"})).await;
    assert_eq!(same["changes"], json!([]), "{same}");
    assert!(same["decisions_tried"].as_i64().is_some_and(|tried| tried > 10), "{same}");
    let solo = world.call("user:root", "governance.policy.check", json!({"policies": "solo"})).await;
    let changes = solo["changes"].as_array().expect("changes");
    assert!(changes.iter().any(|one| (&one["actor"], &one["action"], &one["would_be"]) == (&json!(nobody), &json!("cancel"), &json!("allowed"))), "{solo}");
    invariants::check(&world).await;
}

fn write(folder: &Path, text: &str) {
    std::fs::create_dir_all(folder).expect("a folder");
    std::fs::write(folder.join("house.cedar"), text).expect("write the policies");
}

fn solo() -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/policies/solo.cedar")).expect("read it")
}

#[tokio::test]
async fn broken_policies_deny_everything_and_mended_ones_let_what_waited_go_on() {
    for keep in [false, true] {
        let folder = tempfile::tempdir().expect("a folder");
        write(folder.path(), &solo());
        let config = format!("[policy]\nfolder = \"{}\"\nkeep_last_good = {keep}\n", folder.path().display());
        let world = World::with(&config).await;
        let plane = world.acme(3).await;
        world.request(&plane, "1h").await;
        world.drain().await;
        let before = world.call("user:root", "governance.policy.show", json!({})).await["revision"].clone();
        write(folder.path(), "permit (principal, action, resource");
        world.clock.advance(TimeDelta::hours(1));
        world.app.manager.sweep().await.expect("swept");
        world.drain().await;
        if keep {
            assert_eq!(world.state(&plane).await, "ARCHIVED", "the last good ones decide");
            let said =
                world.texts("SELECT body FROM trail WHERE event_type = 'TRANSITION' OR event_type = 'STAGE_STARTED'").await;
            assert!(
                said.iter().filter(|entry| entry.contains("the last good; the policy folder is broken")).count() > 3,
                "at every decision"
            );
        } else {
            let code = world.code("user:root", "knowledge.plane.list", json!({})).await;
            assert_eq!(code, "POLICY_DENIED", "nothing is answered, reads neither");
            let shown = world.call("user:root", "governance.policy.show", json!({})).await;
            assert!(
                shown["trouble"].as_str().is_some_and(|said| said.contains("house.cedar:1")),
                "but for what is wrong: {shown}"
            );
            let states = world.texts("SELECT state FROM planes WHERE name = 'handbook' ORDER BY state").await;
            assert_eq!(states, ["ACTIVE", "PENDING_DEACTIVATE"], "and nothing goes on that policies are asked about");
        }
        write(folder.path(), &solo());
        world.app.manager.sweep().await.expect("swept");
        let after = world.call("user:root", "governance.policy.show", json!({})).await;
        assert_eq!((&after["revision"], &after["trouble"]), (&before, &Json::Null));
        world.drain().await;
        assert_eq!(world.state(&plane).await, "ARCHIVED");
        let changed = world.number("SELECT count(*) FROM trail WHERE event_type = 'POLICY_CHANGED'").await;
        assert_eq!(changed, 2, "broken, and whole again");
        invariants::check(&world).await;
    }
}

#[tokio::test]
async fn what_policies_stopped_is_looked_at_again_by_a_process_that_begins_under_others() {
    let folder = tempfile::tempdir().expect("a folder");
    write(folder.path(), &solo());
    let world = World::with(&format!("[policy]\nfolder = \"{}\"\n", folder.path().display())).await;
    let plane = world.acme(3).await;
    world.request(&plane, "1h").await;
    world.drain().await;
    write(folder.path(), &solo().replace("Action::\"deactivate\", ", ""));
    world.clock.advance(TimeDelta::hours(1));
    world.app.manager.sweep().await.expect("swept");
    world.drain().await;
    assert_eq!(world.state(&plane).await, "PENDING_DEACTIVATE");
    assert_eq!(world.blocked_by(&plane).await, ["POLICY_DENIED"], "no policy permits deactivate");
    assert_eq!(world.blocked(&plane, "POLICY_DENIED").await, 1, "on record");
    let world = world.reopened("").await;
    world.app.manager.sweep().await.expect("swept");
    world.drain().await;
    assert_eq!(world.state(&plane).await, "ARCHIVED");
    invariants::check(&world).await;
}
