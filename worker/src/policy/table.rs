//! The presets as a table: who may do what in which state, kept in `tests/golden/policies.txt`.

use std::fmt::Write as _;

use lethe_ledger::ActorType;
use lethe_stages::LifecycleState;

use super::{
    Action, Ask, Policies, Preset, Resource, Role, Source,
    tests::{at, offboarding, plane, question, tenant},
};

const LEGEND: &str = "\
Who may do what under each preset, by the state of the plane: A is ACTIVE, P PENDING_DEACTIVATE, D DEACTIVATED, R ARCHIVED, X PURGED,
and - is denied. A column is a person with one role (or none, or two), a program (svc), somebody who is confined to the plane's own
tenant or to another one. Nobody asks about what they requested themselves. Nothing is held or protected; two approvers signed,
one of them compliance's.
";

struct Column {
    name: &'static str,
    kind: ActorType,
    roles: &'static [Role],
    tenant: Option<&'static str>,
}

const fn column(name: &'static str, kind: ActorType, roles: &'static [Role], tenant: Option<&'static str>) -> Column {
    Column { name, kind, roles, tenant }
}

const COLUMNS: &[Column] = &[
    column("nobody", ActorType::User, &[], None),
    column("operator", ActorType::User, &[Role::Operator], None),
    column("approver", ActorType::User, &[Role::Approver], None),
    column("compliance", ActorType::User, &[Role::Compliance], None),
    column("auditor", ActorType::User, &[Role::Auditor], None),
    column("admin", ActorType::User, &[Role::Admin], None),
    column("admin+comp", ActorType::User, &[Role::Admin, Role::Compliance], None),
    column("op+auditor", ActorType::User, &[Role::Operator, Role::Auditor], None),
    column("svc", ActorType::Sdk, &[], None),
    column("svc-op", ActorType::System, &[Role::Operator], None),
    column("svc-all", ActorType::Sdk, &[Role::Operator, Role::Approver, Role::Compliance, Role::Admin], None),
    column("own-op", ActorType::User, &[Role::Operator], Some("acme")),
    column("other-op", ActorType::User, &[Role::Operator], Some("globex")),
];

fn letter(state: LifecycleState) -> char {
    match state {
        LifecycleState::Active => 'A',
        LifecycleState::PendingDeactivate => 'P',
        LifecycleState::Deactivated => 'D',
        LifecycleState::Archived => 'R',
        LifecycleState::Purged => 'X',
    }
}

/// What an action is usually about.
pub(super) fn about(action: Action, state: LifecycleState) -> Resource {
    let plane = super::PlaneFacts { state, ..plane() };
    match action {
        Action::Protect => Resource::Tenant(tenant()),
        Action::Read | Action::Register | Action::UsePlane | Action::Hold | Action::ReleaseHold | Action::TakeKey => {
            Resource::Plane(plane)
        }
        Action::ErasePersonal => Resource::Tenant(tenant()),
        Action::Control | Action::Recover | Action::ManageApprovers | Action::ManageKeys => Resource::Plane(plane),
        _ => Resource::Offboarding(super::OffboardingFacts { plane, ..offboarding() }),
    }
}

fn by_state(policies: &Policies, action: Action, column: &Column) -> String {
    let verdict = |state: &LifecycleState| {
        let mut ask = question(action, about(action, *state));
        ask.principal.kind = column.kind;
        ask.principal.id = "carol".into();
        ask.principal.roles = column.roles.iter().copied().collect();
        ask.principal.tenant = column.tenant.map(Into::into);
        let decision = policies.decide(&ask);
        assert!(decision.errors.is_empty(), "{action} by {}: {decision}", column.name);
        if decision.allowed { letter(*state) } else { '-' }
    };
    LifecycleState::ALL.iter().map(verdict).collect()
}

type Change = fn(&mut Ask);

fn offboarding_of(ask: &mut Ask) -> &mut super::OffboardingFacts {
    match &mut ask.resource {
        Resource::Offboarding(offboarding) => offboarding,
        other => panic!("{other:?} is no offboarding"),
    }
}

fn approved(ask: &mut Ask, total: i64, signed: i64, compliance: i64) {
    let approvals = &mut ask.context.approvals;
    (approvals.total, approvals.signed) = (total, signed);
    approvals.by_role = [(Role::Compliance, compliance), (Role::Approver, total)].into();
}

const SITUATIONS: &[(&str, Action, Change)] = &[
    ("purge, nobody approved", Action::Purge, |ask| approved(ask, 0, 0, 0)),
    ("purge, nobody approved, insecure demo", Action::Purge, |ask| {
        approved(ask, 0, 0, 0);
        ask.context.asserted_suffices = true;
    }),
    ("purge, one approved without proof", Action::Purge, |ask| approved(ask, 1, 0, 0)),
    ("purge, one approved without proof, insecure demo", Action::Purge, |ask| {
        approved(ask, 1, 0, 0);
        ask.context.asserted_suffices = true;
    }),
    ("purge, one signed", Action::Purge, |ask| approved(ask, 1, 1, 0)),
    ("purge, compliance signed alone", Action::Purge, |ask| approved(ask, 1, 1, 1)),
    ("purge, two signed, none of compliance", Action::Purge, |ask| approved(ask, 2, 2, 0)),
    ("purge, two signed, one of compliance", Action::Purge, |ask| approved(ask, 2, 2, 1)),
    ("purge, two signed, and compliance without proof", Action::Purge, |ask| approved(ask, 3, 2, 1)),
    ("purge, the requester among the approvers", Action::Purge, |ask| ask.context.approvals.requester_among = true),
    ("purge, held", Action::Purge, |ask| offboarding_of(ask).plane.held = true),
    ("purge, protected for another second", Action::Purge, |ask| {
        offboarding_of(ask).plane.tenant.protected_until = Some(at(1));
    }),
    ("purge, protected until now", Action::Purge, |ask| offboarding_of(ask).plane.tenant.protected_until = Some(at(0))),
    ("purge, tenant suspended", Action::Purge, |ask| offboarding_of(ask).plane.tenant.status = "suspended".into()),
    ("purge, tenant archived", Action::Purge, |ask| offboarding_of(ask).plane.tenant.status = "archived".into()),
    ("purge, tenant's status unreadable", Action::Purge, |ask| offboarding_of(ask).plane.tenant.status = "Active".into()),
    ("purge, requester has no role any more", Action::Purge, |ask| ask.principal.roles.clear()),
    ("purge, requester is confined to another tenant now", Action::Purge, |ask| ask.principal.tenant = Some("globex".into())),
    ("evict, nobody approved", Action::Evict, |ask| approved(ask, 0, 0, 0)),
    ("evict, held", Action::Evict, |ask| offboarding_of(ask).plane.held = true),
    ("evict, protected for another second", Action::Evict, |ask| {
        offboarding_of(ask).plane.tenant.protected_until = Some(at(1));
    }),
    ("evict, tenant archived", Action::Evict, |ask| offboarding_of(ask).plane.tenant.status = "archived".into()),
    ("deactivate, held", Action::Deactivate, |ask| offboarding_of(ask).plane.held = true),
    ("deactivate, tenant archived", Action::Deactivate, |ask| offboarding_of(ask).plane.tenant.status = "archived".into()),
    ("approve, by the requester", Action::Approve, |ask| {
        ask.principal.roles = Role::ALL.iter().copied().filter(|role| *role != Role::Auditor).collect();
        offboarding_of(ask).requested_by = ask.principal.actor();
    }),
    ("read the system, confined", Action::Read, |ask| {
        ask.resource = Resource::System;
        ask.principal.tenant = Some("acme".into());
    }),
    ("register with the system, confined", Action::Register, |ask| {
        ask.resource = Resource::System;
        ask.principal.tenant = Some("acme".into());
    }),
    ("register with the system", Action::Register, |ask| ask.resource = Resource::System),
];

fn table() -> String {
    let load = |preset: &Preset| (*preset, Policies::load(&Source::Preset(*preset)).expect("a preset that loads"));
    let presets: Vec<_> = Preset::ALL.iter().map(load).collect();
    let mut text = LEGEND.to_owned();
    for (preset, policies) in &presets {
        let _ = write!(text, "\n{:<19}", preset.as_str());
        COLUMNS.iter().for_each(|column| text.push_str(&format!("{:<11}", column.name)));
        for action in Action::ALL {
            let _ = write!(text, "\n  {:<17}", action.as_str());
            COLUMNS.iter().for_each(|column| text.push_str(&format!("{:<11}", by_state(policies, *action, column))));
        }
        text.push('\n');
    }
    text.push_str("\nWhat decides, asked for an operator about an archived plane unless said otherwise:\n");
    for (name, action, change) in SITUATIONS {
        let _ = write!(text, "\n{name}\n");
        let mut ask = question(*action, about(*action, LifecycleState::Archived));
        change(&mut ask);
        for (preset, policies) in &presets {
            let _ = writeln!(text, "  {:<10} {}", preset.as_str(), policies.decide(&ask));
        }
    }
    let lines: Vec<_> = text.lines().map(str::trim_end).collect();
    lines.join("\n") + "\n"
}

#[test]
fn the_presets_permit_what_the_golden_table_says() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/policies.txt");
    let text = table();
    if std::env::var_os("LETHE_UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &text).expect("write the golden file");
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        expected == text,
        "policies.txt differs (LETHE_UPDATE_GOLDEN=1 rewrites it):\n--- expected\n{expected}\n--- found\n{text}"
    );
}
