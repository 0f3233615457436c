//! The log of the trail: where it stands, sealing at once, and its keys.
//!
//! The rule: a key is replaced in two steps, so that nobody is left with a checkpoint that they cannot verify: the new key signs beside the
//! old one, then the old one is retired. Only where the old one is lost, or the ledger was restored, is a key adopted without it, on record.

use std::{
    fs::File,
    io::{BufWriter, Write},
    path::PathBuf,
};

use lethe_ledger::{Chain, Entry, EventType, LeafOf, Tx};
use lethe_stages::{Code, Refusal};
use serde::Deserialize;
use serde_json::{Value as Json, json};

use super::{App, Call, Outcome, Stop, arguments, operator, said};

/// Seals what waits, for what is to be answered from the log. That it cannot is said by the answer, which speaks of what is sealed.
pub(super) async fn seal_first(app: &App, _call: &Call) -> Outcome {
    let report = app.manager.seal().await?;
    Ok(json!({"stopped": report.stopped}))
}

/// Seals and publishes.
pub(super) async fn seal_now(app: &App, call: &Call) -> Outcome {
    operator(call)?;
    let report = app.manager.keep_log().await?;
    Ok(json!({"sealed": report.sealed, "published": report.published}))
}

pub(super) async fn sealed(app: &App, tx: &mut Tx, call: &Call, prepared: Json) -> Outcome {
    let mut answer = show(app, tx, call, json!({})).await?;
    (answer["sealed"], answer["newly_published"]) = (prepared["sealed"].clone(), prepared["published"].clone());
    Ok(answer)
}

/// Where the log stands.
pub(super) async fn show(app: &App, tx: &mut Tx, call: &Call, _prepared: Json) -> Outcome {
    operator(call)?;
    let (state, keys, waiting) = (tx.log().await?, tx.log_keys().await?, tx.waiting_to_be_sealed().await?);
    let checkpoint = tx.latest_checkpoint().await?;
    let standing = match (&state.stopped_since, keys.is_empty()) {
        (Some(_), _) => "stopped",
        (None, true) => "off",
        (None, false) => "sealing",
    };
    let mut answer = json!({
        "log": standing, "size": state.size, "published_size": state.published_size,
        "published_at": app.manager.log_is_published_at().unwrap_or("nowhere"),
        "waiting": waiting.map_or(0, |waiting| waiting.entries),
        "log_keys": keys,
    });
    if let Some(waiting) = waiting {
        answer["waiting_since"] = json!(waiting.oldest_at);
    }
    if let (Some(since), Some(why)) = (state.stopped_since, state.stopped_why) {
        (answer["stopped_since"], answer["stopped_why"]) = (json!(since), json!(why));
    }
    if let Some(checkpoint) = checkpoint {
        answer["checkpoint"] = json!(checkpoint.note);
    }
    Ok(answer)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Export {
    to: PathBuf,
}

/// Leaves that are read at a time.
const AT_ONCE: u64 = 4_000;

/// Writes every entry of the log and the checkpoint that signs them, for `lethe-verify export`. The file has its name when it is whole.
pub(super) async fn write_export(app: &App, call: &Call) -> Outcome {
    operator(call)?;
    let Export { to } = arguments(call)?;
    app.manager.seal().await?;
    let unwritable = |error: std::io::Error| Refusal::new(Code::InvalidArgument, format!("write {}: {error}", to.display()));
    if to.exists() {
        return Err(Refusal::new(
            Code::InvalidArgument,
            format!("{} is there already: name a file that does not exist yet", to.display()),
        )
        .into());
    }
    let beside = to.with_added_extension("writing");
    let mut file = BufWriter::new(File::create(&beside).map_err(unwritable)?);
    let written = app.ledger.read(async |tx: &mut Tx| {
        let Some(checkpoint) = tx.latest_checkpoint().await? else {
            return Err(Stop::from(Refusal::new(Code::LogOff, "nothing is in a log yet: `lethe log show` says why")));
        };
        writeln!(file, "{}", lethe_verify::export::HEADER).map_err(unwritable)?;
        for start in (0..checkpoint.size).step_by(AT_ONCE as usize) {
            for leaf in tx.leaves(start, (start + AT_ONCE).min(checkpoint.size)).await? {
                let LeafOf { chain, sequence_no, tenant_id, previous, hash, body, .. } = leaf;
                writeln!(file, "{chain}\t{sequence_no}\t{tenant_id}\t{previous}\t{hash}\t{body}").map_err(unwritable)?;
            }
        }
        write!(file, "\n{}", checkpoint.note).map_err(unwritable)?;
        Ok(checkpoint.size)
    });
    let written = written.await;
    let synced = file.flush().and_then(|()| file.get_ref().sync_all());
    let entries = match written.and_then(|size| synced.map(|()| size).map_err(|error| unwritable(error).into())) {
        Ok(size) => size,
        Err(stop) => {
            drop(std::fs::remove_file(&beside));
            return Err(stop);
        }
    };
    std::fs::rename(&beside, &to).map_err(unwritable)?;
    Ok(json!({"written": to, "entries": entries}))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Retire {
    key: String,
    reason: String,
}

/// A key signs no longer.
pub(super) async fn retire_key(_app: &App, tx: &mut Tx, call: &Call, _prepared: Json) -> Outcome {
    operator(call)?;
    let args: Retire = arguments(call)?;
    said("--reason", &args.reason)?;
    let live: Vec<String> = tx.log_keys().await?.into_iter().filter(|key| key.retired_at.is_none()).map(|key| key.vkey).collect();
    if !live.contains(&args.key) {
        let message =
            format!("`{}` signs the log neither now nor together with others; it is signed by {}", args.key, live.join(", "));
        return Err(Refusal::new(Code::LogKeyUnknown, message).into());
    }
    if live.len() == 1 {
        let message = "it is the only key that signs the log: name a new one in log.key and this one in log.previous_keys, and let a \
            checkpoint be signed by both; then retire this one";
        return Err(Refusal::new(Code::InvalidArgument, message).into());
    }
    let mut entry = Entry::new(Chain::System, None, EventType::LogKeyRetired, &call.actor, &call.operation);
    entry.reason = Some(args.reason);
    entry.evidence = json!({"vkey": args.key});
    let recorded = tx.append(entry).await?;
    tx.retire_log_key(&args.key, &recorded).await?;
    Ok(json!({"retired": args.key, "left": live.into_iter().filter(|key| *key != args.key).collect::<Vec<_>>()}))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Adopt {
    reason: String,
}

/// Reads the key that is configured.
pub(super) async fn read_key(app: &App, call: &Call) -> Outcome {
    operator(call)?;
    match app.manager.log_key() {
        Ok(Some(key)) => Ok(json!(key.to_string())),
        Ok(None) => Err(Refusal::new(Code::LogOff, "log.key names no key that could be adopted").into()),
        Err(fault) => Err(Refusal::new(Code::LogKeyUnknown, fault.to_string()).into()),
    }
}

/// The configured key signs from now on, although no earlier one vouches for it.
pub(super) async fn adopt_key(_app: &App, tx: &mut Tx, call: &Call, prepared: Json) -> Outcome {
    let args: Adopt = arguments(call)?;
    said("--reason", &args.reason)?;
    let vkey = prepared.as_str().unwrap_or_default().to_owned();
    let keys = tx.log_keys().await?;
    if let Some(known) = keys.iter().find(|key| key.vkey == vkey) {
        let message = match known.retired_at {
            None => format!(
                "`{vkey}` signs the log already: to go on as another log, make a key under another name (`lethe log init-key`)"
            ),
            Some(at) => format!("`{vkey}` was retired at {}, and does not sign again: make a new one", at.to_rfc3339()),
        };
        return Err(Refusal::new(Code::InvalidArgument, message).into());
    }
    let replaced: Vec<_> = keys.iter().filter(|key| key.retired_at.is_none()).map(|key| key.vkey.clone()).collect();
    let key = vkey.parse().map_err(|error| Refusal::new(Code::LogKeyUnknown, format!("`{vkey}`: {error}")))?;
    let from_size = tx.log().await?.size;
    let mut entry = Entry::new(Chain::System, None, EventType::LogKeyAdded, &call.actor, &call.operation);
    entry.reason = Some(args.reason);
    entry.evidence = json!({"vkey": vkey, "from_size": from_size, "adopted_without": replaced});
    let recorded = tx.append(entry).await?;
    for replaced in &replaced {
        tx.retire_log_key(replaced, &recorded).await?;
    }
    tx.add_log_key(&key, from_size, &recorded).await?;
    Ok(json!({"adopted": vkey, "retired": replaced,
        "note": "whoever verifies this log must be told of the new key: no earlier key vouches for it"}))
}
