//! Certificates on the command line: as text, as a page, as files, and verified.
//!
//! The rule: what is written is whole or not there; verifying asks no database if a key is given, and says whose key it took if none is.
//! If we die in it, no half of a file bears the name that was asked for.

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
};

use lethe_ledger::Tx;
use lethe_stages::{Code, Refusal};
use lethe_verify::{certificate::Certificate, entry::Fault as Refuted, note::PublicKey};
use serde_json::{Value as Json, json};

use super::{CommandError, args::Global, print, render, with_app};

/// How a certificate is given.
pub(super) enum Given {
    /// In words.
    Text,
    /// As a page.
    Page,
    /// As two files.
    Files(PathBuf),
}

pub(super) fn give(global: &Global, mut document: Json, given: Given) -> Result<ExitCode, CommandError> {
    let html = document["html"].take().as_str().unwrap_or_default().to_owned();
    if let Some(document) = document.as_object_mut() {
        document.remove("html");
    }
    match given {
        Given::Page => drop(std::io::stdout().lock().write_all(html.as_bytes())),
        Given::Files(to) => print(global, "", export(&document, &html, &to)?),
        Given::Text if global.json => print(global, "", document),
        Given::Text => {
            let predicate = &document["predicate"];
            let brief = json!({
                "plane_id": document["plane_id"], "purged_at": predicate["purged_at"], "issued_at": document["issued_at"],
                "ground": predicate["ground"], "weakest": predicate["weakest"], "plan_digest": predicate["plan_digest"],
                "sealed": document["sealed"],
            });
            let mut text = render::text("", &brief);
            for (heading, list) in [("destroyed", "methods"), ("not covered", "not_covered")] {
                text.push_str(&format!("\n{heading}:\n"));
                for item in predicate[list].as_array().into_iter().flatten() {
                    let said = item.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null());
                    let said: Vec<String> = said
                        .map(|(name, value)| format!("{name}: {}", value.as_str().map_or(value.to_string(), str::to_owned)))
                        .collect();
                    text.push_str(&format!("- {}\n", said.join(", ")));
                }
            }
            let _ = std::io::stdout().lock().write_all(text.as_bytes());
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn export(document: &Json, html: &str, to: &Path) -> Result<Json, CommandError> {
    if document["sealed"] != true {
        let why = "the certificate is issued and not sealed yet, so nothing could prove it: take it once more in a moment";
        return Err(Refusal::new(Code::CertificateMissing, why).into());
    }
    let is_folder = to.is_dir() || to.as_os_str().to_string_lossy().ends_with('/');
    let base = match is_folder {
        true => to.join(format!("certificate-{}", document["plane_id"].as_str().unwrap_or_default())),
        // `to.json` names the same two files as `to`.
        false if to.extension().is_some_and(|ending| ending == "json" || ending == "html") => to.with_extension(""),
        false => to.to_owned(),
    };
    let named = |ending: &str| {
        let mut name = base.clone().into_os_string();
        name.push(ending);
        PathBuf::from(name)
    };
    let text = serde_json::to_string_pretty(&document["certificate"]).unwrap_or_default() + "\n";
    let files = [(named(".json"), text.as_str()), (named(".html"), html)];
    for (path, text) in &files {
        write(path, text).map_err(|error| CommandError::Local(format!("write {}: {error}", path.display())))?;
    }
    Ok(
        json!({"json": files[0].0, "html": files[1].0, "next": format!("lethe-verify certificate {} --key …", files[0].0.display())}),
    )
}

/// Writes a file whole or not at all.
fn write(path: &Path, text: &str) -> std::io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)?;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.part", std::process::id()));
    let part = folder.join(name);
    let written = std::fs::File::create(&part).and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()
    });
    let written = written.and_then(|()| std::fs::rename(&part, path)).and_then(|()| std::fs::File::open(folder)?.sync_all());
    if written.is_err() {
        let _ = std::fs::remove_file(&part);
    }
    written
}

/// Verifies a certificate under the keys given, or under those that this ledger knows.
pub(super) async fn verify(global: &Global, file: &Path, keys: &[String]) -> Result<ExitCode, CommandError> {
    let text = std::fs::read_to_string(file);
    let text = text.map_err(|error| CommandError::Local(format!("read {}: {error}", file.display())))?;
    if !keys.is_empty() {
        return answer(global, &text, keys, "given");
    }
    with_app(global, false, async |app| {
        let known = app.ledger.read(async |tx: &mut Tx| tx.log_keys().await).await?;
        let known: Vec<String> = known.into_iter().map(|key| key.vkey).collect();
        if known.is_empty() {
            return Err(CommandError::Usage("this ledger knows no key of its log yet: --key VKEY".into()));
        }
        answer(global, &text, &known, "this ledger's own")
    })
    .await
}

fn answer(global: &Global, text: &str, keys: &[String], whose: &str) -> Result<ExitCode, CommandError> {
    let read = |key: &String| key.parse::<PublicKey>().map_err(|error| CommandError::Usage(format!("--key {key}: {error}")));
    let keys = keys.iter().map(read).collect::<Result<Vec<_>, _>>()?;
    let done = Certificate::read(text).and_then(|certificate| certificate.verify(&keys));
    let document = match &done {
        Ok(verified) => json!({
            "certificate": "verified", "keys": whose, "verified": verified.verified.verified, "trusted": verified.verified.trusted,
            "weakest": verified.predicate["weakest"],
        }),
        Err(Refuted { at, why }) => json!({"certificate": "refuted", "keys": whose, "at": at, "why": why}),
    };
    print(global, "", document);
    Ok(if done.is_ok() { ExitCode::SUCCESS } else { ExitCode::from(1) })
}
