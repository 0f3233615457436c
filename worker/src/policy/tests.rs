//! What must hold of every set, whatever its policies say.

use std::{collections::BTreeSet, path::Path};

use chrono::{DateTime, TimeDelta, Utc};
use lethe_ledger::ActorType;
use lethe_stages::{EvictMode, Ground, LifecycleState};
use uuid::Uuid;

use super::{table::about, *};

/// An instant, so many seconds after one that is fixed.
pub(super) fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_800_000_000, 0).expect("an instant") + TimeDelta::seconds(seconds)
}

pub(super) fn tenant() -> TenantFacts {
    TenantFacts { id: Uuid::from_u128(1), name: "acme".into(), status: "active".into(), protected_until: None }
}

pub(super) fn plane() -> PlaneFacts {
    let store_kinds = ["sqlite".to_owned()].into();
    PlaneFacts { tenant: tenant(), id: Uuid::from_u128(2), state: LifecycleState::Archived, store_kinds, held: false }
}

pub(super) fn offboarding() -> OffboardingFacts {
    OffboardingFacts {
        plane: plane(),
        id: Uuid::from_u128(3),
        ground: Ground::ContractEnd,
        requested_by: "user:alice".into(),
        grace_s: 604_800,
        grace_min_s: 0,
        retention_s: 0,
        evict: EvictMode::AfterArchive,
        records: Some(50),
        grace_skipped: false,
    }
}

/// A question by an operator, with two signed approvals.
pub(super) fn question(action: Action, resource: Resource) -> Ask {
    let by_role = [(Role::Approver, 2), (Role::Compliance, 1)].into();
    Ask {
        principal: Principal { kind: ActorType::User, id: "bob".into(), roles: [Role::Operator].into(), tenant: None },
        action,
        resource,
        context: Context {
            at: at(0),
            environment: "production".into(),
            asserted_suffices: false,
            own: false,
            approvals: Approvals { total: 2, signed: 2, by_role, requester_among: false },
        },
    }
}

fn purge() -> Ask {
    question(Action::Purge, Resource::Offboarding(offboarding()))
}

fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    files.iter().for_each(|(name, text)| write(folder.path(), name, text));
    folder
}

fn write(folder: &Path, name: &str, text: &str) {
    std::fs::write(folder.join(name), text).expect("write a file");
}

fn source(folder: &tempfile::TempDir) -> Source {
    Source::Folder(folder.path().to_owned())
}

fn load(text: &str) -> Result<Policies, PolicyError> {
    Policies::load(&source(&folder(&[("own.cedar", text)])))
}

fn preset(preset: Preset) -> Policies {
    Policies::load(&Source::Preset(preset)).expect("a preset that loads")
}

const ALL: &str = "@id(\"all\")\npermit (principal, action, resource);\n";

/// The message of a set that must not load, without the temporary folder.
fn refused(text: &str) -> String {
    let error = load(text).expect_err("a set that does not load").to_string();
    error.split("; ").map(|fault| fault.rsplit_once("/own.cedar").map_or(fault, |(_, rest)| rest)).collect::<Vec<_>>().join("; ")
}

#[test]
fn the_schema_has_the_actions_and_roles_of_the_program() {
    let (schema, _) = cedar_policy::Schema::from_cedarschema_str(SCHEMA).expect("the schema");
    let actions: BTreeSet<_> = schema.actions().map(|action| action.id().unescaped().to_owned()).collect();
    let known = Action::ALL.iter().map(|action| action.as_str()).chain(["change", "advance", "destroy"]);
    assert_eq!(actions, known.map(ToOwned::to_owned).collect());
    let entities: BTreeSet<_> = schema.entity_types().map(ToString::to_string).collect();
    assert_eq!(entities, ["Offboarding", "Plane", "Role", "Service", "System", "Tenant", "User"].map(Into::into).into());
    let roles = Role::ALL.iter().map(|role| format!("\"{role}\"")).collect::<Vec<_>>().join(", ");
    assert!(SCHEMA.contains(&format!("entity Role enum [{roles}];")), "the schema lists other roles than {roles}");
}

#[test]
fn every_action_that_callers_ask_for_but_reading_is_a_change() {
    let policies = load("@id(\"change\") permit (principal, action in Action::\"change\", resource);").expect("a set");
    for action in Action::ALL {
        let expected = !matches!(action, Action::Read | Action::Deactivate | Action::Evict | Action::Purge);
        let decision = policies.decide(&question(*action, about(*action, LifecycleState::Active)));
        assert_eq!((decision.allowed, decision.errors), (expected, vec![]), "{action}");
    }
}

#[test]
fn every_preset_refuses_what_may_never_be_destroyed_whoever_asks() {
    type Spoil = fn(&mut Ask);
    fn of(ask: &mut Ask) -> &mut OffboardingFacts {
        let Resource::Offboarding(offboarding) = &mut ask.resource else { panic!("no offboarding") };
        offboarding
    }
    let spoilt: &[(&str, Spoil)] = &[
        ("held-is-kept", |ask| of(ask).plane.held = true),
        ("tenant-status-is-known", |ask| of(ask).plane.tenant.status = "archived".into()),
        ("protected-is-kept", |ask| of(ask).plane.tenant.protected_until = Some(at(1))),
        // The last fraction of a second is protected too.
        ("protected-is-kept", |ask| of(ask).plane.tenant.protected_until = Some(at(0) + TimeDelta::nanoseconds(1))),
        ("no-purge-approved-by-requester", |ask| ask.context.approvals.requester_among = true),
        ("confined-to-own-tenant", |ask| ask.principal.tenant = Some("globex".into())),
    ];
    for it in Preset::ALL {
        let policies = preset(*it);
        assert!(policies.decide(&purge()).allowed, "{it}: an ordinary purge");
        for (id, spoil) in spoilt {
            let mut ask = purge();
            ask.context.asserted_suffices = true;
            spoil(&mut ask);
            let decision = policies.decide(&ask);
            assert_eq!((decision.allowed, decision.policies), (false, vec![(*id).to_owned()]), "{it}");
        }
    }
}

#[test]
fn a_confined_caller_reaches_its_tenant_by_name_and_by_id() {
    let policies = preset(Preset::Team);
    let mut ask = question(Action::Cancel, Resource::Offboarding(offboarding()));
    for (confined, allowed) in [("acme", true), (&*tenant().id.to_string(), true), ("ACME", false), ("", false)] {
        ask.principal.tenant = Some(confined.into());
        assert_eq!(policies.decide(&ask).allowed, allowed, "confined to {confined:?}");
    }
}

#[test]
fn what_does_not_fit_the_schema_is_denied_loudly() {
    let policies = load(ALL).expect("a set");
    let mut nobody = purge();
    nobody.principal.id = " ".into();
    let mut contradicting = purge();
    contradicting.context.approvals.signed = 3;
    for (ask, said) in [
        (question(Action::Purge, Resource::Plane(plane())), "purge"),
        (question(Action::UsePlane, Resource::System), "use_plane"),
        (nobody, "no id"),
        (contradicting, "contradict"),
    ] {
        let decision = policies.decide(&ask);
        assert!(!decision.allowed && decision.policies.is_empty());
        assert!(decision.errors.len() == 1 && decision.errors[0].contains(said), "{:?}", decision.errors);
    }
}

#[test]
fn a_policy_that_fails_denies_although_another_permits() {
    let failing = "@id(\"sum\")\nforbid (principal, action == Action::\"purge\", resource)\n\
                   when { resource.grace_s + 9223372036854775807 < 0 };";
    let decision = load(&format!("{ALL}{failing}")).expect("a set").decide(&purge());
    assert!(!decision.allowed);
    assert_eq!(decision.policies, ["sum"]);
    assert!(decision.errors.len() == 1 && decision.errors[0].starts_with("policy sum failed: "), "{:?}", decision.errors);
    // Where nothing overflows, the same set permits.
    let mut ask = purge();
    let Resource::Offboarding(facts) = &mut ask.resource else { panic!("no offboarding") };
    facts.grace_s = 0;
    let decision = load(&format!("{ALL}{failing}")).expect("a set").decide(&ask);
    assert_eq!((decision.allowed, decision.policies), (true, vec!["all".to_owned()]));
}

#[test]
fn what_may_be_missing_is_read_with_has() {
    let said =
        refused("@id(\"few\")\npermit (principal, action == Action::\"purge\", resource)\nwhen { resource.records < 10 };");
    assert!(said.starts_with(":3: policy few: ") && said.contains("optional") && said.contains("has"), "{said}");
    let policies = load(
        "@id(\"few\") permit (principal, action == Action::\"purge\", resource)\
                         when { resource has records && resource.records < 100 };",
    )
    .expect("a set");
    let mut ask = purge();
    assert!(policies.decide(&ask).allowed);
    let Resource::Offboarding(facts) = &mut ask.resource else { panic!("no offboarding") };
    facts.records = None;
    assert!(!policies.decide(&ask).allowed);
}

#[test]
fn a_broken_set_says_where_and_what_would_be_right() {
    let cases = [
        ("@id(\"a\")\npermit (principal, action, resource)\nwhen { true ", ":3: "),
        ("@id(\"a\")\npermit (principal, action == Action::\"purgee\", resource);", ":2: policy a: "),
        ("@id(\"a\")\npermit (principal in Role::\"boss\", action, resource);", ":2: policy a: "),
        (
            "@id(\"a\")\npermit (principal, action == Action::\"purge\", resource)\nwhen {\n  resource.grace < 1 };",
            ":4: policy a: ",
        ),
        (
            "@id(\"a\")\npermit (principal, action == Action::\"read\", resource is Offboarding)\nwhen { resource.grace_s < \"1\" };",
            ":3: ",
        ),
        ("permit (principal, action, resource);", ": a policy has no id: permit"),
        ("@id(\"a\")\npermit (principal == ?principal, action, resource);", ": a template "),
        (
            "@id(\"a\") permit (principal, action, resource);\n@id(\"a\") forbid (principal, action, resource);",
            ": @id(\"a\") stands",
        ),
        ("// Nothing yet.\n", "there is no policy in it"),
        // A policy that can never apply is a wall that is not there.
        ("@id(\"a\")\nforbid (principal, action == Action::\"purge\", resource is Plane);", ":1: policy a: "),
    ];
    for (text, said) in cases {
        let refused = refused(text);
        assert!(refused.contains(said), "{refused:?} does not say {said:?}");
    }
}

#[test]
fn a_folder_of_the_same_policies_has_the_same_revision_and_every_other_another() {
    let team = preset(Preset::Team);
    let text = Preset::Team.text();
    let half = text.find("\n// Walls").expect("two halves");
    // In two files, the other way round, with other comments and line ends between the policies.
    let split = folder(&[("b.cedar", &text[..half]), ("a.cedar", &text[half..]), ("notes.txt", "no policy")]);
    let same = Policies::load(&source(&split)).expect("a set");
    assert_eq!(same.revision(), team.revision());
    assert_eq!(same.ids(), team.ids());
    assert!(team.revision().starts_with("sha256:") && team.revision().len() == 71);
    let revisions: BTreeSet<_> = Preset::ALL.iter().map(|it| preset(*it).revision().to_owned()).collect();
    assert_eq!(revisions.len(), Preset::ALL.len());
    write(split.path(), "c.cedar", ALL);
    assert_ne!(Policies::load(&source(&split)).expect("a set").revision(), team.revision());
}

#[test]
fn what_is_in_a_folder_and_cannot_be_read_is_a_fault() {
    let missing = Policies::load(&Source::Folder("/nowhere/at/all".into())).expect_err("no folder");
    assert!(missing.to_string().starts_with("/nowhere/at/all: the policy folder cannot be read: "), "{missing}");
    let with = folder(&[("a.cedar", ALL)]);
    std::fs::create_dir(with.path().join("b.cedar")).expect("a folder in it");
    std::fs::write(with.path().join("c.cedar"), b"\n\xff").expect("a file");
    let error = Policies::load(&source(&with)).expect_err("a folder among the files");
    assert!(error.short().ends_with("/b.cedar: it cannot be read: it is not a file"), "{error}");
    std::fs::remove_dir(with.path().join("b.cedar")).expect("remove it");
    let error = Policies::load(&source(&with)).expect_err("no text");
    assert!(error.short().ends_with("/c.cedar:2: it is not text in UTF-8"), "{error}");
}

#[test]
fn a_changed_folder_decides_from_the_next_look_on() {
    let files = folder(&[("a.cedar", ALL)]);
    let watched = Watched::start(source(&files), false).expect("a set");
    let first = watched.revision();
    assert_eq!(watched.reload(at(0)), Reloaded::Unchanged);
    write(files.path(), "b.cedar", "@id(\"none\") forbid (principal, action, resource);");
    assert!(watched.decide(&purge()).allowed, "nobody looked yet");
    assert_eq!(watched.reload(at(1)), Reloaded::Changed { from: first.clone(), to: watched.revision() });
    assert_eq!(watched.decide(&purge()).policies, ["none"]);
    // Other bytes of the same meaning change nothing.
    write(files.path(), "a.cedar", &format!("// Everything.\n{ALL}"));
    assert_eq!(watched.reload(at(2)), Reloaded::Unchanged);
    std::fs::remove_file(files.path().join("b.cedar")).expect("remove it");
    assert!(matches!(watched.reload(at(3)), Reloaded::Changed { to, .. } if to == first));
}

#[test]
fn a_broken_folder_decides_nothing_unless_the_last_good_set_is_kept() {
    for keep in [false, true] {
        let files = folder(&[("a.cedar", ALL)]);
        let watched = Watched::start(source(&files), keep).expect("a set");
        let good = watched.revision();
        write(files.path(), "a.cedar", "permit (");
        let Reloaded::Broken { error } = watched.reload(at(0)) else { panic!("it is broken") };
        assert_eq!(watched.reload(at(1)), Reloaded::Unchanged, "still broken, in the same way");
        let Current { policies, trouble } = watched.current();
        let trouble = trouble.expect("some trouble");
        assert!(trouble.contains(" is broken since 2027-01-15T08:00:00Z: ") && trouble.contains("a.cedar:1"), "{trouble}");
        let decision = watched.decide(&purge());
        if keep {
            assert!(decision.allowed && policies.is_some());
            assert_eq!(decision.warning, Some(format!("{trouble}; the last good set decides")));
            assert_eq!(watched.revision(), good);
        } else {
            assert!(!decision.allowed && policies.is_none());
            assert_eq!((decision.errors, decision.warning), (vec![trouble], None));
            assert_eq!(watched.revision(), format!("none: {}", error.short()));
        }
        // Gone is broken too, and has been since the first time.
        std::fs::remove_file(files.path().join("a.cedar")).expect("remove it");
        assert!(matches!(watched.reload(at(2)), Reloaded::Broken { .. }));
        assert!(watched.current().trouble.expect("some trouble").contains("since 2027-01-15T08:00:00Z"));
        let from = watched.revision();
        write(files.path(), "a.cedar", ALL);
        assert_eq!(watched.reload(at(3)), Reloaded::Changed { from, to: good.clone() });
        assert_eq!(watched.current().trouble, None);
        assert_eq!((watched.decide(&purge()).allowed, watched.decide(&purge()).warning), (true, None));
    }
}

#[test]
fn a_set_that_is_broken_at_the_start_starts_nothing() {
    let files = folder(&[("a.cedar", "permit (")]);
    for keep in [false, true] {
        assert!(Watched::start(source(&files), keep).is_err());
    }
}

#[test]
fn a_question_survives_the_record() {
    let mut ask = purge();
    ask.principal.tenant = Some("acme".into());
    let kept = serde_json::to_string(&ask).expect("write it");
    assert_eq!(serde_json::from_str::<Ask>(&kept).expect("read it"), ask);
    let system = question(Action::Read, Resource::System);
    let kept = serde_json::to_value(&system).expect("write it");
    assert_eq!(kept["resource"], serde_json::json!({"kind": "system"}));
    assert_eq!(serde_json::from_value::<Ask>(kept).expect("read it"), system);
    lethe_stages::canonical::digest(&ask).expect("canonical");
}
