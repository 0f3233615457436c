//! Documents for people: tables that fit a terminal, and lines of `name  value`.

use comfy_table::{ContentArrangement, Table, presets::NOTHING};
use serde_json::{Value as Json, json};

/// The columns of a listing: heading, and the path of the field.
type Columns = &'static [(&'static str, &'static str)];

/// Which array of a document is a table, and how it is shown.
const TABLES: &[(&str, Columns)] = &[
    (
        "tenants",
        &[
            ("NAME", "name"),
            ("STATUS", "status"),
            ("TENANT ID", "tenant_id"),
            ("PROTECTED UNTIL", "protected_until"),
            ("SINCE", "created_at"),
        ],
    ),
    (
        "certificates",
        &[
            ("CERTIFICATE OF", "plane_id"),
            ("WEAKEST", "weakest"),
            ("DUE SINCE", "due_since"),
            ("ISSUED", "issued_at"),
            ("OFFBOARDING ID", "offboarding_id"),
        ],
    ),
    ("withdrawn", &[("WITHDRAWN APPROVAL", "approval_id"), ("OF PLANE", "plane_id")]),
    ("placed", &[("HOLD ID", "hold_id"), ("ON", "subject_kind"), ("SUBJECT", "subject_id"), ("STOPPED", "stopped")]),
    ("stores", &[("NAME", "name"), ("KIND", "kind"), ("TENANTS", "tenants"), ("BACKUPS", "backup_retention"), ("URL", "url")]),
    ("planes", &[("TENANT", "tenant"), ("NAME", "name"), ("STATE", "state"), ("PLANE ID", "plane_id")]),
    (
        "dependents",
        &[("NAME", "name"), ("KIND", "kind"), ("CONTROL", "control"), ("SINCE", "added_at"), ("DEPENDENT ID", "dependent_id")],
    ),
    (
        "suspended",
        &[
            ("SUSPENDED", "kind"),
            ("WHICH", "what"),
            ("WAS", "before.state"),
            ("SINCE", "suspended_at"),
            ("AFTER CANCEL", "outcome"),
            ("ACCEPTED", "accepted_at"),
            ("WHY", "note"),
        ],
    ),
    ("tokens", &[("PREFIX", "prefix"), ("STATUS", "status"), ("TOKEN ID", "token_id"), ("EXPIRES", "expires_at")]),
    ("usage", &[("KIND", "kind"), ("HOLDER", "holder"), ("USAGE ID", "usage_id"), ("UNTIL", "expires_at")]),
    (
        "offboardings",
        &[
            ("PLANE", "plane"),
            ("STATE", "state"),
            ("GROUND", "ground"),
            ("STEP", "step"),
            ("RUN", "run_status"),
            ("DUE", "due_at"),
            ("WAITS FOR", "waits_for"),
            ("PLANE ID", "plane_id"),
        ],
    ),
    (
        "waiting",
        &[
            ("WAITS FOR A DECISION", "plane_id"),
            ("PLAN", "plan_digest"),
            ("REQUESTED BY", "requested_by"),
            ("APPROVED BY", "approved_by"),
            ("RETENTION UNTIL", "retention_until"),
            ("MISSING", "missing"),
        ],
    ),
    (
        "approvers",
        &[("WHO", "actor"), ("ROLES", "roles"), ("KEY", "fingerprint"), ("SINCE", "added_at"), ("REVOKED", "revoked_at")],
    ),
    (
        "changes",
        &[
            ("AT", "at"),
            ("WHO", "actor"),
            ("WHAT", "action"),
            ("ON", "resource"),
            ("WAS", "was"),
            ("WOULD BE", "would_be"),
            ("WHY", "why"),
        ],
    ),
    (
        "reviews",
        &[
            ("GRACE BROKEN ON", "plane_id"),
            ("BY", "broken_by"),
            ("AT", "broken_at"),
            ("REASON", "reason"),
            ("REVIEWED BY", "reviewed_by"),
            ("FOUND", "review"),
        ],
    ),
    (
        "approvals",
        &[
            ("PLANE ID", "plane_id"),
            ("STATUS", "status"),
            ("BY", "approved_by"),
            ("IDENTITY", "identity_assurance"),
            ("EXPIRES", "expires_at"),
            ("REASON", "reason"),
        ],
    ),
    (
        "holds",
        &[
            ("HOLD ID", "hold_id"),
            ("ON", "subject_kind"),
            ("SUBJECT", "subject_id"),
            ("MATTER", "matter"),
            ("BY", "placed_by"),
            ("AUTHORITY", "authority"),
            ("SINCE", "placed_at"),
            ("REVIEW", "review_at"),
            ("REASON", "reason"),
        ],
    ),
    (
        "due",
        &[
            ("WHAT", "kind"),
            ("STANDING", "standing"),
            ("LAST DAY", "due_on"),
            ("OVER AT", "due_at"),
            ("PLANE", "plane"),
            ("STATE", "state"),
            ("STEP", "step"),
            ("EARLIEST PURGE", "earliest_purge"),
            ("WHY", "why"),
            ("NEXT", "next"),
        ],
    ),
    (
        "notices",
        &[
            ("NOTICE ID", "notice_id"),
            ("ABOUT", "kind"),
            ("PLANE ID", "plane_id"),
            ("HAPPENS", "happens_at"),
            ("STATUS", "status"),
            ("TOLD FROM", "due_at"),
            ("FAILURES", "attempt"),
            ("FINISHED", "finished_at"),
            ("ERROR", "last_error"),
        ],
    ),
    ("channels", &[("CHANNEL", "channel"), ("TOLD", "told"), ("WHY NOT", "error")]),
    (
        "master_keys",
        &[("MASTER KEY", "reference"), ("ID", "master_key_id"), ("USE", "use"), ("KEYS", "keys"), ("WRONG", "error")],
    ),
    ("log_keys", &[("KEY", "vkey"), ("SINCE", "added_at"), ("FROM LEAF", "from_size"), ("RETIRED", "retired_at")]),
    ("without_master_key", &[("MASTER KEY THAT IS NOT AT HAND", "master_key_id"), ("KEYS", "keys"), ("SINCE", "oldest_at")]),
    (
        "personal_keys",
        &[
            ("KEY ID", "key_id"),
            ("TENANT", "tenant"),
            ("VALUES", "values"),
            ("SINCE", "created_at"),
            ("DUE", "due_at"),
            ("DESTROYED", "destroyed_at"),
        ],
    ),
    ("restored", &[("FROM STORE", "store"), ("FROM TABLE", "resource"), ("TABLE", "table"), ("ROWS", "rows")]),
    ("pauses", &[("SCOPE", "scope"), ("BY", "paused_by"), ("SINCE", "paused_at"), ("REASON", "reason")]),
    ("blocked_by", &[("BLOCKED BY", "code"), ("UNTIL", "until"), ("WHY", "message")]),
    (
        "probed",
        &[
            ("PLANE ID", "plane_id"),
            ("STATE", "state"),
            ("RECORDS", "records"),
            ("OBJECTS", "archive_objects"),
            ("FINDINGS", "findings"),
        ],
    ),
    (
        "probes",
        &[
            ("PROBE", "probe_id"),
            ("PLANE ID", "plane_id"),
            ("CAUSE", "cause"),
            ("STATUS", "status"),
            ("DUE", "due_at"),
            ("ENDED", "finished_at"),
            ("ERROR", "last_error.message"),
        ],
    ),
    (
        "findings",
        &[
            ("FINDING", "finding_id"),
            ("PLANE ID", "plane_id"),
            ("STATUS", "status"),
            ("SINCE", "opened_at"),
            ("LAST SEEN", "seen_at"),
            ("CLEAN SINCE", "clean_at"),
            ("NEXT", "next"),
        ],
    ),
    (
        "attestations",
        &[
            ("STORE GONE", "store"),
            ("BY", "proposed_by"),
            ("CONFIRMED BY", "confirmed_by"),
            ("EVIDENCE", "evidence_sha256"),
            ("ID", "attestation_id"),
        ],
    ),
    ("promises", &[("PROMISE", "promise"), ("RESULT", "result"), ("SEEN", "said")]),
    ("steps", &[("STEP", "step"), ("FROM", "from"), ("TO", "to"), ("EARLIEST", "earliest"), ("DOES", "does")]),
    (
        "decisions",
        &[
            ("AT", "at"),
            ("WHAT", "what"),
            ("BY", "by"),
            ("IDENTITY", "identity_assurance"),
            ("KEY", "key_fingerprint"),
            ("PLANE ID", "plane_id"),
            ("PLAN", "plan_digest"),
            ("APPROVAL", "approval_id"),
            ("USED AT", "used_by.at"),
            ("REASON", "reason"),
        ],
    ),
    ("counts", &[("CODE", "code"), ("BY", "by"), ("TIMES", "times"), ("FIRST", "first_at"), ("LAST", "last_at")]),
    (
        "refusals",
        &[
            ("AT", "at"),
            ("CODE", "code"),
            ("BY", "by"),
            ("ASKED FOR", "asked_for"),
            ("STEP", "step"),
            ("PLANE ID", "plane_id"),
            ("LEAF", "leaf_index"),
        ],
    ),
    ("story", &[("LEAF", "leaf_index"), ("AT", "at"), ("CONCERNS", "concerns"), ("WHAT HAPPENED", "what"), ("BY", "by")]),
    (
        "purges",
        &[
            ("PLANE ID", "plane_id"),
            ("OFFBOARDING", "offboarding_id"),
            ("BEGUN", "begun_at"),
            ("FINISHED", "finished_at"),
            ("DUE", "due_at"),
            ("IN ORDER", "in_order"),
            ("FAULTS", "faults"),
        ],
    ),
    (
        "entries",
        &[
            ("LEAF", "leaf_index"),
            ("CHAIN", "chain"),
            ("NO", "sequence_no"),
            ("AT", "at"),
            ("TYPE", "event_type"),
            ("STEP", "step"),
            ("STATE", "to_state"),
            ("CODE", "gate.code"),
            ("ACTOR", "values.actor_id"),
            ("REASON", "values.reason"),
        ],
    ),
];

/// A store's place in a status or a plan, where the columns differ from a listing of stores.
const STORE_PROGRESS: Columns = &[
    ("STORE", "name"),
    ("TABLE", "resource"),
    ("EXPORTED", "rows_exported"),
    ("REMAINING", "rows_remaining"),
    ("DOING", "progress.verb"),
    ("DONE", "progress.done"),
    ("ERROR", "error.code"),
    ("WHY", "error.message"),
];
const STORE_PLAN: Columns = &[
    ("STORE", "store"),
    ("TABLE", "resource"),
    ("RECORDS", "records"),
    ("DEPENDENTS", "dependents"),
    ("NOT FENCED", "unfenced"),
];

/// The text of a document.
pub(super) fn text(operation: &str, document: &Json) -> String {
    let mut out = String::new();
    let changes = operation.starts_with("knowledge.offboarding.") || operation.starts_with("knowledge.approval.");
    if changes && document.get("offboarding").is_some() {
        status(document, &mut out);
        return out;
    }
    write(document, "", &mut out);
    for text in document["waiting"].as_array().into_iter().flatten().filter_map(|plan| plan["text"].as_str()) {
        out.push_str(&format!("\n{text}"));
    }
    if out.is_empty() {
        out.push_str("nothing\n");
    }
    out
}

/// Where a plane stands, what comes next, and what is in the way: a screen, not the whole document.
fn status(document: &Json, out: &mut String) {
    let mut lines: Vec<(&str, String)> = Vec::new();
    let mut add = |name, text: String| {
        if !text.is_empty() {
            lines.push((name, text));
        }
    };
    let name = document["name"].as_str().unwrap_or("(erased)");
    add("plane", format!("{}/{name}  {}", cell(&document["tenant"]), cell(&document["plane_id"])));
    add("state", cell(&document["state"]));
    if let Some(seen) = document["finding"]["evidence"].as_object() {
        add("case", format!("REOPENED: {}", came_back(&json!(seen))));
        add("next", cell(&document["finding"]["next"]));
    }
    let offboarding = &document["offboarding"];
    if offboarding.is_null() {
        add("offboarding", "none".into());
    } else {
        let by = cell(&offboarding["requested_by"]);
        add(
            "offboarding",
            format!(
                "{}, {}, by {by}: {}",
                cell(&offboarding["status"]),
                cell(&offboarding["ground"]),
                cell(&offboarding["reason"])
            ),
        );
        let due = cell(&offboarding["due_at"]);
        let due = if due.is_empty() { due } else { format!(", due {due}") };
        add("step", format!("{} {}{due}", cell(&offboarding["step"]), cell(&offboarding["run_status"])));
        for (name, field) in
            [("grace until", "grace_until"), ("retained until", "retention_until"), ("legal due date", "legal_due_at")]
        {
            add(name, cell(&offboarding["deadlines"][field]));
        }
        if offboarding["attempt"].as_i64().unwrap_or(0) > 0 || offboarding["run_status"] == "halted" {
            let error = &offboarding["last_error"];
            add(
                "failures",
                format!("{}, last: {} {}", cell(&offboarding["attempt"]), cell(&error["code"]), cell(&error["message"])),
            );
        }
        add("plan", cell(&offboarding["plan_digest"]));
        add("next", cell(&offboarding["next"]));
    }
    let width = lines.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    for (name, text) in lines {
        out.push_str(&format!("{name:width$}  {text}\n"));
    }
    for (table, of) in [
        ("stores", offboarding),
        ("suspended", offboarding),
        ("blocked_by", offboarding),
        ("holds", document),
        ("probes", document),
        ("attestations", document),
    ] {
        if let Some(items) = of[table].as_array().filter(|items| !items.is_empty()) {
            out.push('\n');
            list(table, items, "", out);
        }
    }
}

/// What a probe found, store by store, in words.
fn came_back(seen: &Json) -> String {
    let mut said = Vec::new();
    for store in seen["stores"].as_array().into_iter().flatten() {
        let count = |field: &str| store["seen"][field].as_u64().unwrap_or(0);
        let there = [("record(s)", "remaining"), ("known key(s)", "keys_found"), ("known vector(s)", "vectors_found")];
        let mut parts: Vec<_> =
            there.iter().filter(|(_, field)| count(field) > 0).map(|(what, field)| format!("{} {what}", count(field))).collect();
        if let Some(fence @ ("missing" | "outdated")) = store["seen"]["fence"].as_str() {
            parts.push(format!("the fence was {fence}"));
        }
        if !parts.is_empty() {
            said.push(format!("{} in {}: {}", cell(&store["resource"]), cell(&store["store"]), parts.join(", ")));
        }
    }
    if let Some(objects) = seen["archive"]["objects"].as_u64().filter(|objects| *objects > 0) {
        said.push(format!("the archive: {objects} object(s)"));
    }
    said.join("; ")
}

fn write(value: &Json, indent: &str, out: &mut String) {
    let Some(object) = value.as_object() else {
        out.push_str(&format!("{indent}{}\n", cell(value)));
        return;
    };
    let width = object.keys().map(String::len).max().unwrap_or(0);
    // Plain values first, so that the tables stand at the end.
    for (name, value) in object.iter().filter(|(_, value)| !value.is_object() && !value.is_array() && !value.is_null()) {
        out.push_str(&format!("{indent}{name:width$}  {}\n", cell(value)));
    }
    for (name, value) in object {
        match value {
            Json::Object(inner) if !inner.is_empty() => {
                out.push_str(&format!("{indent}{name}\n"));
                write(value, &format!("{indent}  "), out);
            }
            Json::Array(items) => list(name, items, indent, out),
            _ => {}
        }
    }
}

fn list(name: &str, items: &[Json], indent: &str, out: &mut String) {
    if items.is_empty() {
        // Empty listings are answers; empty details are noise.
        if indent.is_empty() {
            out.push_str(&format!("{name}: none\n"));
        }
        return;
    }
    let columns = TABLES.iter().find(|(table, _)| *table == name).map(|(_, columns)| *columns);
    let columns = match columns {
        Some(_) if name == "stores" && items[0].get("rows_exported").is_some() => Some(STORE_PROGRESS),
        Some(_) if name == "stores" && items[0].get("scope_digest").is_some() => Some(STORE_PLAN),
        columns => columns,
    };
    let Some(columns) = columns else {
        let plain: Vec<_> = items.iter().map(cell).collect();
        out.push_str(&format!("{indent}{name}  {}\n", plain.join(", ")));
        return;
    };
    let used: Vec<_> = columns
        .iter()
        .filter(|(_, path)| items.iter().any(|item| *path == "backup_retention" || !cell(field(item, path)).is_empty()))
        .collect();
    let mut table = Table::new();
    table.load_style(NOTHING);
    // Wrapped to fit a terminal; in a pipe, a row stays a line.
    if let Some((terminal_size::Width(width), _)) = terminal_size::terminal_size_of(std::io::stdout()) {
        table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
    }
    table.set_header(used.iter().map(|(heading, _)| *heading));
    for item in items {
        table.add_row(used.iter().map(|(_, path)| match (*path, field(item, path)) {
            ("backup_retention", Json::Null) => "undeclared".to_owned(),
            (_, value) => cell(value),
        }));
    }
    out.push_str(&table.to_string().lines().map(|line| format!("{indent}{}\n", line.trim_end())).collect::<String>());
}

fn field<'a>(item: &'a Json, path: &str) -> &'a Json {
    path.split('.').fold(item, |value, name| &value[name])
}

fn cell(value: &Json) -> String {
    match value {
        Json::Null => String::new(),
        Json::String(text) => instant(text).unwrap_or_else(|| text.clone()),
        Json::Array(items) => items.iter().map(cell).collect::<Vec<_>>().join(", "),
        // What is not as it must be, in a cell.
        Json::Object(of) if of.contains_key("fault") => {
            format!("{} {}: {}", cell(&value["step"]), cell(&value["fault"]), cell(&value["why"]))
        }
        other => other.to_string(),
    }
}

/// An instant without its fraction of a second.
fn instant(text: &str) -> Option<String> {
    let at = chrono::DateTime::parse_from_rfc3339(text).ok()?;
    Some(at.to_utc().format("%Y-%m-%d %H:%M:%SZ").to_string())
}
