//! `store conform`: the test suite of stores, run against a scratch plane that nobody ever registered.
//!
//! The rule: a scope that belongs, or ever belonged, to a registered plane is not tested. If we die in the suite, the scratch plane is
//! half erased and the trail says nothing; it serves no further test.

use lethe_ledger::{Binding, Chain, Entry, EventType, Tx};
use lethe_stages::{
    Code, Facts, Ground, LifecycleState, Permit, Refusal, canonical,
    permit::{Destruction, Verdict},
    ports::PortError,
};
use lethe_stores::{Conformance, Mapping, Users, conform};
use serde::Deserialize;
use serde_json::{Value as Json, json};
use uuid::Uuid;

use super::{App, Call, Outcome, Stop, arguments, operator, parties, unmapped, unusable};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Suite {
    store: String,
    map: String,
    neighbour: String,
    #[serde(default)]
    records: Option<u64>,
    #[serde(default)]
    write_command: Option<String>,
    #[serde(default)]
    read_command: Option<String>,
    #[serde(default)]
    change_command: Option<String>,
    #[serde(default)]
    orphan_command: Option<String>,
    #[serde(default)]
    restart_command: Option<String>,
}

fn mapping(word: &str, query: &str) -> Result<Mapping, Stop> {
    Mapping::parse(query).map_err(|said| Refusal::new(Code::MappingWrong, format!("--{word} '{query}': {said}")).into())
}

/// Runs the suite. No transaction is open.
pub(super) async fn run(app: &App, call: &Call) -> Outcome {
    operator(call)?;
    let args: Suite = arguments(call)?;
    let (scratch, neighbour) = (mapping("map", &args.map)?, mapping("neighbour", &args.neighbour)?);
    let url = match args.store.contains(':') {
        true => args.store.clone(),
        false => {
            let known = app.ledger.read(async |tx: &mut Tx| tx.store(&args.store).await).await?;
            known.ok_or_else(|| parties::store_unknown(&args.store))?.url
        }
    };
    let checked = parties::checked(app, &url).await?;
    nobodys(app, &checked, &scratch).await?;
    let mut random = [0; 48];
    app.ledger.entropy().fill(&mut random);
    let id = |place: usize| Uuid::from_slice(&random[place * 16..][..16]).unwrap_or_default();
    let ids = [0, 1, 2].map(id);
    let at = app.ledger.now();
    let mint = |plane_id, epoch, manifest: String| {
        let verdict = Verdict { policy_revision: "conformance".into() };
        Permit::mint(Destruction::Evict, &scratch_facts(at, plane_id, manifest), epoch, &verdict)
    };
    let users = Users {
        write: args.write_command,
        read: args.read_command,
        change: args.change_command,
        orphan: args.orphan_command,
        restart: args.restart_command,
    };
    let asked = Conformance { url: &checked.url, mapping: scratch, neighbour, records: args.records, users, ids, mint: &mint };
    let found = conform(asked).await.map_err(|error| match error {
        PortError::Transient(_) => unusable("test the store", error),
        _ => unmapped("test the store", error),
    })?;
    let mut document = json!(found);
    document["store"] = json!(found.verdict());
    document["evidence"] = found.evidence();
    document["evidence"]["store"] = json!(canonical::sha256(checked.url.as_bytes()));
    Ok(document)
}

/// Refuses a scope that a registered plane has, or had.
async fn nobodys(app: &App, store: &parties::Checked, scratch: &Mapping) -> Result<(), Stop> {
    let described =
        app.world.describe(&store.url, scratch).await.map_err(|error| unmapped("describe the scratch plane", error))?;
    let owner = app.ledger.read(async |tx: &mut Tx| {
        let Some(known) = tx.store(&store.identity).await? else { return Ok::<_, lethe_ledger::Fault>(None) };
        let binding = Binding {
            store_id: known.id,
            store: known.name,
            store_kind: known.kind,
            store_url: known.url,
            resource: described.resource,
            plane_column: described.plane_column.unwrap_or_default(),
            value_digest: canonical::sha256(described.plane_value.unwrap_or_default().as_bytes()),
            mapping: None,
            attestation_id: None,
            attested_evidence: None,
        };
        tx.overlapping_binding(&binding).await
    });
    match owner.await? {
        None => Ok(()),
        Some(owner) => {
            let message =
                format!("the scratch plane's records belong, in whole or in part, to plane {owner}: they are not tested with");
            Err(Refusal::new(Code::BindingTaken, message).into())
        }
    }
}

/// What is true of a plane that nobody registered: nothing holds it, and the suite itself has read all of it.
fn scratch_facts(at: chrono::DateTime<chrono::Utc>, plane_id: Uuid, manifest_sha256: String) -> Facts {
    Facts {
        offboarding_id: plane_id,
        manifest_sha256: Some(manifest_sha256),
        ..Facts::unbegun(at, plane_id, LifecycleState::Deactivated, Ground::Internal)
    }
}

/// Records that it ran, and what came of it.
pub(super) async fn record(_app: &App, tx: &mut Tx, call: &Call, mut prepared: Json) -> Outcome {
    let mut entry = Entry::new(Chain::System, None, EventType::StoreTested, &call.actor, &call.operation);
    entry.evidence = prepared["evidence"].take();
    tx.append(entry).await?;
    if let Some(document) = prepared.as_object_mut() {
        document.remove("evidence");
    }
    Ok(prepared)
}
