//! Proofs: that an entry is in the log, that one tree is the beginning of another, and bundles that hold answers with their proofs.
//!
//! The rule: what is handed out is checked by whoever gets it with `lethe-verify` and a public key, and by nobody's word; it was checked here
//! before. It is made from one view of the ledger, for the newest checkpoint in it. Only reads.

use base64::{Engine, prelude::BASE64_STANDARD};
use lethe_ledger::{Chain, CheckpointRow, LeafOf, Proved, Tx};
use lethe_stages::{Code, Refusal};
use lethe_verify::{
    merkle::Hash,
    note::{Checkpoint, Note},
};
use serde::Deserialize;
use serde_json::{Value as Json, json};
use uuid::Uuid;

use super::{App, Call, Outcome, Stop, arguments, lookup};

/// How many leaves a bundle carries along to show that nothing is left out after its first entry; beyond that, only those after its last.
const SCAN_MAX: u64 = 200_000;

/// The newest checkpoint, and what it says.
async fn newest(tx: &mut Tx) -> Result<(CheckpointRow, Checkpoint), Stop> {
    let Some(row) = tx.latest_checkpoint().await? else {
        let message = "nothing of this ledger's trail is in a log yet: `lethe log show` says why";
        return Err(Refusal::new(Code::LogOff, message).into());
    };
    let checkpoint = read(&row.note)?;
    Ok((row, checkpoint))
}

fn read(note: &str) -> Result<Checkpoint, Stop> {
    let unreadable =
        |error: lethe_verify::note::NoteFault| Refusal::new(Code::InvalidArgument, format!("read the checkpoint: {error}"));
    Ok(Checkpoint::read(&Note::read(note).map_err(unreadable)?.text).map_err(unreadable)?)
}

fn hashes(hashes: &[Hash]) -> Json {
    json!(hashes.iter().map(|hash| BASE64_STANDARD.encode(hash)).collect::<Vec<_>>())
}

/// An entry as bundles and proofs hold it.
fn entry(leaf: &LeafOf, proof: Option<&[Hash]>) -> Json {
    let mut entry = json!({
        "leaf_index": leaf.leaf_index, "chain": leaf.chain, "sequence_no": leaf.sequence_no, "tenant_id": leaf.tenant_id,
        "previous": leaf.previous, "hash": leaf.hash, "body": leaf.body,
    });
    if let Some(proof) = proof {
        entry["proof"] = hashes(proof);
    }
    entry
}

/// The personal values of an entry that still exist, with the salts by which its commitments are recomputed.
async fn values(tx: &mut Tx, leaf: &LeafOf) -> Result<Json, Stop> {
    let opened = tx.opened_values_of(leaf.event_id).await?;
    Ok(opened.into_iter().map(|(_, field, value, salt)| (field, json!({"value": value, "salt": salt}))).collect())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Prove {
    entry: Uuid,
}

/// That an entry is in the tree that the newest checkpoint signs.
pub(super) async fn prove(_app: &App, tx: &mut Tx, call: &Call, _prepared: Json) -> Outcome {
    let Prove { entry: event_id } = arguments(call)?;
    let unknown =
        || Refusal::new(Code::EntryUnknown, format!("entry {event_id} is not in the log: `lethe audit list` names entries"));
    let leaf = tx.leaf_of(event_id).await?.ok_or_else(unknown)?;
    if let Some(tenant) = &call.tenant
        && lookup::tenant(tx, call, tenant).await?.id.to_string() != leaf.tenant_id
    {
        return Err(unknown().into());
    }
    let (row, checkpoint) = newest(tx).await?;
    let proved = tx.prove(vec![leaf], checkpoint.size, &checkpoint.root).await?;
    let Proved { leaf, proof } = &proved[0];
    Ok(json!({"checkpoint": row.note, "leaf_index": leaf.leaf_index, "entry": entry(leaf, Some(proof))}))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Consistency {
    /// A size, or a signed checkpoint.
    old: String,
    #[serde(default)]
    new: Option<String>,
}

/// A size, or the size of a checkpoint, whose root must be this tree's.
async fn tree(tx: &mut Tx, text: &str, largest: u64) -> Result<(u64, Hash), Stop> {
    let (size, signed) = match text.trim().parse::<u64>() {
        Ok(size) => (size, None),
        Err(_) => {
            let checkpoint = read(text)?;
            (checkpoint.size, Some(checkpoint.root))
        }
    };
    if size > largest {
        let message =
            format!("a tree of {size} leaves is none of this log's, which has {largest}: it was rolled back, or is another log");
        return Err(Refusal::new(Code::InvalidArgument, message).into());
    }
    let root = tx.root_at(size).await?;
    if signed.is_some_and(|signed| signed != root) {
        let message =
            format!("the checkpoint of {size} leaves has another root than this log's tree of that size: the log was forked");
        return Err(Refusal::new(Code::InvalidArgument, message).into());
    }
    Ok((size, root))
}

/// That the tree of one checkpoint is the beginning of another one's.
pub(super) async fn consistency(_app: &App, tx: &mut Tx, call: &Call, _prepared: Json) -> Outcome {
    let args: Consistency = arguments(call)?;
    let (row, checkpoint) = newest(tx).await?;
    let old = tree(tx, &args.old, checkpoint.size).await?;
    let new = match &args.new {
        Some(text) => tree(tx, text, checkpoint.size).await?,
        None => (checkpoint.size, checkpoint.root),
    };
    if old.0 > new.0 {
        let message = format!("a tree of {} leaves is not the beginning of one of {}: name the older one first", old.0, new.0);
        return Err(Refusal::new(Code::InvalidArgument, message).into());
    }
    let proof = tx.prove_consistency((old.0, &old.1), (new.0, &new.1)).await?;
    let mut answer = json!({"old": old.0, "new": new.0, "proof": hashes(&proof)});
    let mut note = async |size: u64| {
        if size == row.size {
            return Ok::<_, Stop>(Some(row.note.clone()));
        }
        Ok(tx.checkpoint_at(size).await?.map(|row| row.note))
    };
    for (name, size) in [("old_checkpoint", old.0), ("new_checkpoint", new.0)] {
        if let Some(note) = note(size).await? {
            answer[name] = json!(note);
        }
    }
    Ok(answer)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Bundle {
    #[serde(default)]
    plane: Option<String>,
    #[serde(default)]
    tenant: Option<String>,
    /// Single entries, by their leaves.
    #[serde(default)]
    leaves: Vec<u64>,
    /// Whether the personal values that still exist go along, with what proves them.
    #[serde(default)]
    values: bool,
    /// What was asked, for the reader.
    #[serde(default)]
    question: Json,
}

/// Entries with their proofs: the whole trail of a plane or a tenant and that nothing of it is left out, or single entries.
pub(super) async fn bundle(_app: &App, tx: &mut Tx, call: &Call, _prepared: Json) -> Outcome {
    let args: Bundle = arguments(call)?;
    let (row, checkpoint) = newest(tx).await?;
    let size = checkpoint.size;
    let (entries, complete) = match (&args.plane, args.tenant.as_ref()) {
        (Some(plane), _) => {
            let plane = lookup::plane(tx, call, plane).await?.plane.id;
            let leaves = tx.leaves_of_chain(&Chain::Plane(plane).to_string(), size).await?;
            (leaves, Some(json!([{"plane": plane}])))
        }
        (None, Some(tenant)) => {
            let tenant = lookup::tenant(tx, call, tenant).await?.id;
            (tx.leaves_of_tenant(tenant, size).await?, Some(json!([{"tenant": tenant}])))
        }
        (None, None) if !args.leaves.is_empty() => {
            let confined = match &call.tenant {
                Some(tenant) => Some(lookup::tenant(tx, call, tenant).await?.id.to_string()),
                None => None,
            };
            let mut leaves = Vec::new();
            for index in &args.leaves {
                let mut found = tx.leaves(*index, index.saturating_add(1)).await?;
                found.retain(|leaf| confined.as_ref().is_none_or(|tenant| *tenant == leaf.tenant_id));
                let unknown = || Refusal::new(Code::EntryUnknown, format!("there is no leaf {index}: the log has {size}"));
                leaves.push(found.into_iter().next().ok_or_else(unknown)?);
            }
            (leaves, None)
        }
        (None, None) => {
            return Err(
                Refusal::new(Code::InvalidArgument, "name a plane, a tenant or entries: a bundle is about something").into()
            );
        }
    };
    let Some(first) = entries.iter().map(|leaf| leaf.leaf_index).min() else {
        return Err(Refusal::new(Code::EntryUnknown, "nothing of it is in the log yet").into());
    };
    let last = entries.iter().map(|leaf| leaf.leaf_index).max().unwrap_or(first);
    // A tenant's leaves may lie anywhere after its registration; a plane's are told apart by their numbers, so that only the end matters.
    let from = if args.plane.is_none() || size - first <= SCAN_MAX { first } else { last + 1 };
    let scanned = complete.is_some().then_some(from);
    let mut written = Vec::with_capacity(entries.len());
    for leaf in entries {
        let values = if args.values { values(tx, &leaf).await? } else { json!({}) };
        let mut one = if scanned.is_some_and(|from| leaf.leaf_index >= from) {
            entry(&leaf, None)
        } else {
            let proved = tx.prove(vec![leaf], size, &checkpoint.root).await?;
            entry(&proved[0].leaf, Some(&proved[0].proof))
        };
        if values != json!({}) {
            one["values"] = values;
        }
        written.push(one);
    }
    let mut question = args.question;
    if question.is_null() {
        question = json!({"plane": args.plane, "tenant": args.tenant, "leaves": args.leaves});
    }
    let mut answer = json!({"format": "lethe-bundle/v1", "question": question, "checkpoint": row.note, "entries": written});
    if let (Some(complete), Some(from)) = (complete, scanned) {
        let frontier = tx.frontier(from, size).await?;
        let mut leaves = Vec::new();
        for leaf in tx.leaves(from, size).await? {
            leaves.extend_from_slice(&leaf.leaf()?.bytes());
        }
        answer["scan"] = json!({"from": from, "frontier": hashes(&frontier), "leaves": BASE64_STANDARD.encode(leaves)});
        answer["complete"] = complete;
    }
    Ok(answer)
}
