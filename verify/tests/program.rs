//! The program as somebody uses it: what it prints, and how it exits.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/proof").join(name)
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_lethe-verify")).args(arguments).env_clear().output().unwrap()
}

fn verify(arguments: &[&str]) -> (i32, String) {
    let key = golden("log.pub");
    let output = run(&[arguments, &["--key-file", text(&key)]].concat());
    (output.status.code().unwrap(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
}

#[test]
fn what_holds_is_verified_and_what_that_rests_on_is_said() {
    let (certificate, bundle) = (golden("certificate-v1.json"), golden("bundle-v1.json"));
    let (old, new, proof) = (golden("checkpoint-v1.old"), golden("checkpoint-v1.new"), golden("consistency-v1.json"));
    for arguments in [
        vec!["certificate", text(&certificate)],
        vec!["bundle", text(&bundle)],
        vec!["checkpoint", text(&new)],
        vec!["consistency", "--old", text(&old), "--new", text(&new), "--proof", text(&proof)],
    ] {
        let (code, said) = verify(&arguments);
        assert_eq!(code, 0, "{arguments:?}: {said}");
        assert!(said.contains("verified: ") && said.contains("trusted:  that example.com/lethe+"), "{said}");
        let (code, said) = verify(&[&arguments[..], &["--json"]].concat());
        let document: serde_json::Value = serde_json::from_str(&said).unwrap();
        assert_eq!((code, &document["outcome"]), (0, &"verified".into()));
    }
}

#[test]
fn what_does_not_hold_exits_1_and_what_cannot_be_read_2() {
    let folder = tempfile::tempdir().unwrap();
    let changed = folder.path().join("changed.json");
    let good = std::fs::read_to_string(golden("certificate-v1.json")).unwrap();
    std::fs::write(&changed, good.replace("the contract ended", "no contract ended")).unwrap();
    let (code, said) = verify(&["certificate", text(&changed)]);
    assert!(code == 1 && said.starts_with("NOT VERIFIED: /predicate/requested/reason: the value is not"), "{code}: {said}");
    std::fs::write(&changed, "{").unwrap();
    assert_eq!(verify(&["bundle", text(&changed)]).0, 1);
    assert_eq!(verify(&["bundle", text(&golden("certificate-v1.json"))]).0, 1);
    assert_eq!(verify(&["log", text(folder.path())]).0, 2, "there is no log in it");
    assert_eq!(verify(&["certificate", "/nowhere"]).0, 2);
    let file = golden("certificate-v1.json");
    assert_eq!(run(&["certificate", text(&file)]).status.code(), Some(2), "no key");
    assert_eq!(run(&["certificate", text(&file), "--key", "x"]).status.code(), Some(2), "no key that can be read");
    assert_eq!(run(&["certify"]).status.code(), Some(2));
    let stranger = lethe_verify::note::SigningKey::from_seed("example.com/lethe", &[8; 32]).unwrap().public().to_string();
    let by_stranger = run(&["certificate", text(&file), "--key", &stranger]);
    assert_eq!(by_stranger.status.code(), Some(1), "{by_stranger:?}");
    assert!(String::from_utf8_lossy(&run(&["--help"]).stdout).contains("Examples:"));
}
