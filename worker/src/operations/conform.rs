//! `store conform`: the test suite of stores, run against a scratch plane that nobody ever registered.
//!
//! The rule: a scope that belongs, or ever belonged, to a registered plane is not tested, however its value is spelled, and no store that
//! is another one than was registered under its name or URL. If we die in the suite, the scratch plane is
//! half erased and the trail says nothing; it serves no further test.

use lethe_ledger::{Binding, Chain, Entry, EventType, Fault, Tx};
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
    is_registered_one(app, &checked, if args.store.contains(':') { &checked.url } else { &args.store }).await?;
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

/// Refuses what answers in the place of a registered store and is another: whose the records are there, the ledger cannot say.
async fn is_registered_one(app: &App, found: &parties::Checked, place: &str) -> Result<(), Stop> {
    let both = async |tx: &mut Tx| Ok::<_, Fault>((tx.store(place).await?, tx.store(&found.identity).await?));
    let (registered, identified) = app.ledger.read(both).await?;
    match registered.filter(|registered| identified.is_none_or(|identified| identified.id != registered.id)) {
        None => Ok(()),
        Some(registered) => {
            let message = format!(
                "what answers at {} is not store {} as it was registered, but says that it is {}: its planes may stand there \
                 all the same, so nothing is tested",
                registered.url, registered.name, found.identity
            );
            Err(Refusal::new(Code::StoreUnusable, message).into())
        }
    }
}

/// Refuses a scope that a registered plane has, or had.
async fn nobodys(app: &App, store: &parties::Checked, scratch: &Mapping) -> Result<(), Stop> {
    let described =
        app.world.describe(&store.url, scratch).await.map_err(|error| unmapped("describe the scratch plane", error))?;
    let owner = app.ledger.read(async |tx: &mut Tx| {
        let Some(known) = tx.store(&store.identity).await? else { return Ok::<_, Fault>(None) };
        let value = described.plane_value.unwrap_or_default();
        let binding = Binding {
            store_id: known.id,
            store: known.name,
            store_kind: known.kind,
            store_url: known.url,
            store_identity: known.identity,
            resource: described.resource,
            plane_column: described.plane_column.unwrap_or_default(),
            value_digest: canonical::sha256(value.as_bytes()),
            mapping: None,
            attestation_id: None,
            attested_evidence: None,
        };
        match tx.overlapping_binding(&binding).await? {
            Some(owner) => Ok(Some(owner)),
            None => spelled_alike(tx, &binding, &value).await,
        }
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

/// A plane of the resource whose value differs in nothing but case and outer white space. A store may compare so and not say it, and
/// whether it does is what the suite is yet to find out. A purged plane's value is known by its digest only.
async fn spelled_alike(tx: &mut Tx, scratch: &Binding, value: &str) -> Result<Option<Uuid>, Fault> {
    let folded = |value: &str| value.trim().to_lowercase();
    let digest = canonical::sha256(folded(value).as_bytes());
    // No column's name is empty: all planes of the resource.
    for plane in tx.planes_of_scope(scratch.store_id, &scratch.resource, "", "").await? {
        let alike = |bound: &Binding| {
            let theirs = bound.mapping.as_ref().and_then(|mapping| mapping["plane"].as_str());
            let same = theirs.map_or(bound.value_digest == digest, |theirs| folded(theirs) == folded(value));
            bound.store_id == scratch.store_id && bound.resource == scratch.resource && same
        };
        if tx.bindings(plane).await?.iter().any(alike) {
            return Ok(Some(plane));
        }
    }
    Ok(None)
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
