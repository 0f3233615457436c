//! Others' programs: what they make of the same formats we verify, and they verify ours.

use std::{cell::RefCell, collections::HashMap, path::Path};

use signed_note::{Note, StandardSigner, StandardVerifier, VerifierList};
use tlog_tiles::{HashReader, TileHashReader, TileReader};

use super::{key, keys};
use crate::{
    folder,
    leaf::{Leaf, entry_hash, tag, written},
    merkle::{Hash, check_consistency, check_inclusion, consistency_ranges, inclusion_ranges, leaf_hash, root_of},
    note::{self, Checkpoint, SigningKey},
    tile::{Edge, Tile, WIDTH, bundle, node_in, to_bytes},
};

const LEAVES: u64 = 100_000;

/// Every leaf of seven chains, in turn.
fn leaves() -> Vec<Leaf> {
    (0..LEAVES)
        .map(|index| {
            let hash = entry_hash(&written(&tag("x")), &index.to_string());
            Leaf::of(&format!("plane:{}", index % 7), index / 7, &hash, "acme").unwrap()
        })
        .collect()
}

/// Our tiles of the whole tree.
fn tiles(hashes: &[Hash]) -> HashMap<(u32, u64), Vec<Hash>> {
    let mut edge = Edge::read(0, |_, _| None).unwrap();
    edge.append(hashes.iter().copied()).into_iter().map(|(level, index, hashes)| ((level, index), hashes)).collect()
}

/// Our tiles, as their reader asks for them; it checks each against the root.
struct Ours {
    tiles: HashMap<(u32, u64), Vec<Hash>>,
    asked: RefCell<usize>,
}

impl TileReader for Ours {
    fn height(&self) -> u8 {
        8
    }

    fn read_tiles(&self, wanted: &[tlog_tiles::Tile]) -> Result<Vec<Vec<u8>>, tlog_tiles::Error> {
        let read = |tile: &tlog_tiles::Tile| {
            *self.asked.borrow_mut() += 1;
            let ours = Tile { level: Some(tile.level().into()), index: tile.level_index(), width: tile.width().into() };
            // Their paths name the height, as Go's do.
            assert_eq!(tile.path().replacen("tile/8/", "tile/", 1), ours.path());
            to_bytes(&self.tiles[&(tile.level().into(), tile.level_index())][..tile.width() as usize])
        };
        Ok(wanted.iter().map(read).collect())
    }

    fn save_tiles(&self, _tiles: &[tlog_tiles::Tile], _data: &[Vec<u8>]) {}
}

/// What they keep of a tree: each hash by its number.
struct Theirs(Vec<tlog_tiles::Hash>);

impl HashReader for Theirs {
    fn read_hashes(&self, indexes: &[u64]) -> Result<Vec<tlog_tiles::Hash>, tlog_tiles::Error> {
        Ok(indexes.iter().map(|index| self.0[*index as usize]).collect())
    }
}

#[test]
fn notes_and_checkpoints_are_the_same_to_others() {
    let checkpoint = Checkpoint { origin: "example.com/lethe".into(), size: 42, root: [9; 32] };
    let vkey = key().public().to_string();
    let known = VerifierList::new(vec![Box::new(StandardVerifier::new(&vkey).unwrap())]);
    let ours = Note::from_bytes(checkpoint.signed([&key()]).as_bytes()).unwrap();
    assert_eq!(ours.verify(&known).unwrap().0.len(), 1);
    let read = tlog_tiles::Checkpoint::from_bytes(ours.text()).unwrap();
    assert_eq!((read.origin(), read.size(), read.hash().0), ("example.com/lethe", 42, [9; 32]));

    // Their key is ours, and so is what it signs.
    let secret = SigningKey::write("example.com/lethe", &[7; 32]).unwrap();
    let signer = StandardSigner::new(&secret).unwrap();
    let mut theirs = Note::new(checkpoint.text().as_bytes(), &[]).unwrap();
    theirs.add_sigs(&[&signer]).unwrap();
    let theirs = String::from_utf8(theirs.to_bytes()).unwrap();
    assert_eq!(theirs, checkpoint.signed([&key()]));
    assert_eq!(Checkpoint::verified(&theirs, &keys()).unwrap().0, checkpoint);
    assert!(theirs.parse::<note::PublicKey>().is_err());
}

#[test]
fn trees_tiles_and_proofs_are_the_same_to_others() {
    let hashes: Vec<Hash> = leaves().iter().map(|leaf| leaf_hash(&leaf.bytes())).collect();
    let root = root_of(&hashes);
    let mut theirs = Theirs(Vec::new());
    for (index, leaf) in leaves().iter().enumerate() {
        let more = tlog_tiles::stored_hashes(index as u64, &leaf.bytes(), &theirs).unwrap();
        theirs.0.extend(more);
    }
    assert_eq!(tlog_tiles::tree_hash(LEAVES, &theirs).unwrap().0, root);

    let ours = Ours { tiles: tiles(&hashes), asked: RefCell::new(0) };
    let reader = TileHashReader::new(LEAVES, tlog_tiles::Hash(root), &ours);
    let node = |level: u32, index: u64| {
        let tile = Tile::holding(level, index, LEAVES);
        node_in(&ours.tiles[&(tile.level.unwrap(), tile.index)], level, index).ok_or(tile)
    };
    for index in (0..LEAVES).step_by(977).chain([LEAVES - 1, 65_535, 65_536, 99_840]) {
        let leaf = hashes[index as usize];
        // They read our tiles and check them; their proof is ours, by our ranges; we check theirs and they ours.
        let proof = tlog_tiles::prove_record(LEAVES, index, &reader).unwrap();
        let mine: Vec<Hash> =
            inclusion_ranges(index, LEAVES).unwrap().into_iter().map(|range| range.hash(node).unwrap()).collect();
        assert_eq!(proof.iter().map(|hash| hash.0).collect::<Vec<_>>(), mine);
        check_inclusion(index, LEAVES, &leaf, &mine, &root).unwrap();
        tlog_tiles::check_record(&proof, LEAVES, tlog_tiles::Hash(root), index, tlog_tiles::Hash(leaf)).unwrap();
    }
    for old in [1, 2, 255, 256, 257, 65_536, 70_001, 99_999, LEAVES] {
        let old_root = root_of(&hashes[..old as usize]);
        let proof = tlog_tiles::prove_tree(LEAVES, old, &reader).unwrap();
        let mine: Vec<Hash> =
            consistency_ranges(old, LEAVES).unwrap().into_iter().map(|range| range.hash(node).unwrap()).collect();
        assert_eq!(proof.iter().map(|hash| hash.0).collect::<Vec<_>>(), mine, "{old}");
        check_consistency(old, &old_root, LEAVES, &root, &mine).unwrap();
        tlog_tiles::check_tree(&proof, LEAVES, tlog_tiles::Hash(root), old, tlog_tiles::Hash(old_root)).unwrap();
    }
    assert!(*ours.asked.borrow() > 100);
}

/// Writes a log as it is published.
fn publish(at: &Path, leaves: &[Leaf]) {
    let hashes: Vec<Hash> = leaves.iter().map(|leaf| leaf_hash(&leaf.bytes())).collect();
    let write = |tile: Tile, bytes: &[u8]| {
        let path = at.join(tile.path());
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    };
    for ((level, index), hashes) in tiles(&hashes) {
        write(Tile { level: Some(level), index, width: hashes.len() as u64 }, &to_bytes(&hashes));
    }
    for (chunk, index) in leaves.chunks(WIDTH as usize).zip(0..) {
        let entries: Vec<[u8; 104]> = chunk.iter().map(Leaf::bytes).collect();
        let bytes = bundle(entries.iter().map(<[u8; 104]>::as_slice));
        write(Tile { level: None, index, width: chunk.len() as u64 }, &bytes);
    }
    let checkpoint = Checkpoint { origin: "example.com/lethe".into(), size: leaves.len() as u64, root: root_of(&hashes) };
    std::fs::write(at.join("checkpoint"), checkpoint.signed([&key()])).unwrap();
}

/// What the verifier in Python says, which was written from the specifications and shares nothing with this one.
fn by_python(arguments: &[&str]) -> (Option<i32>, String) {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/proof.py");
    let output = std::process::Command::new("python3").arg(script).args(arguments).output().expect("run python3");
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&said).into_owned())
}

#[test]
fn a_published_log_is_recomputed_and_the_first_difference_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let vkey = key().public().to_string();
    let at = folder.path();
    let leaves = leaves();
    for size in [1, 256, 70_000] {
        let at = at.join(size.to_string());
        publish(&at, &leaves[..size]);
        folder::verify(&at, &keys()).unwrap();
        let (code, said) = by_python(&["log", at.to_str().unwrap(), "--key", &vkey]);
        assert_eq!(code, Some(0), "{said}");
    }
    let at = at.join("70000");
    for path in
        ["tile/0/000", "tile/0/273.p/112", "tile/1/000", "tile/1/001.p/17", "tile/2/000.p/1", "tile/entries/100", "checkpoint"]
    {
        let good = std::fs::read(at.join(path)).unwrap();
        let mut bad = good.clone();
        let last = bad.len() - 10;
        bad[last] ^= 1;
        std::fs::write(at.join(path), &bad).unwrap();
        let said = folder::verify(&at, &keys()).unwrap_err().to_string();
        assert!(said.contains(path) || path.contains("entries"), "{path}: {said}");
        let (code, told) = by_python(&["log", at.to_str().unwrap(), "--key", &vkey]);
        assert_eq!(code, Some(1), "{path}: {told}");
        std::fs::write(at.join(path), &good[..good.len() - 1]).unwrap();
        assert!(folder::verify(&at, &keys()).is_err(), "{path}");
        std::fs::write(at.join(path), good).unwrap();
    }
    std::fs::remove_file(at.join("tile/0/001")).unwrap();
    assert!(folder::verify(&at, &keys()).unwrap_err().to_string().contains("tile/0/001"));
    // A chain out of its order is no trail, whatever the tree says.
    let mut swapped = leaves[..300].to_vec();
    swapped.swap(10, 17);
    let other = folder.path().join("swapped");
    publish(&other, &swapped);
    assert!(folder::verify(&other, &keys()).unwrap_err().to_string().contains("comes first"));
}

#[test]
fn python_verifies_what_we_do_and_refuses_what_we_do() {
    let (log, envelope) = super::Log::story();
    let folder = tempfile::tempdir().unwrap();
    let vkey = key().public().to_string();
    let tried = |command: &str, document: &serde_json::Value| {
        let file = folder.path().join("document.json");
        std::fs::write(&file, document.to_string()).unwrap();
        by_python(&[command, file.to_str().unwrap(), "--key", &vkey])
    };
    let certificate = serde_json::json!(log.certificate(&envelope));
    for (command, document, places) in [
        (
            "bundle",
            serde_json::json!(log.of_plane()),
            vec!["/entries/0/body", "/entries/1/values/actor_id/value", "/scan/leaves"],
        ),
        ("bundle", serde_json::json!(log.of_tenant()), vec!["/entries/2/previous", "/checkpoint", "/scan/frontier/0"]),
        (
            "certificate",
            certificate,
            vec!["/envelope/payload", "/log/entries/1/body", "/disclosed/~1predicate~1requested_by/salt"],
        ),
    ] {
        let (code, said) = tried(command, &document);
        assert_eq!(code, Some(0), "{said}");
        for place in places {
            let mut changed = document.clone();
            let text = changed.pointer_mut(place).unwrap();
            let at = text.as_str().unwrap().len() / 2;
            let mut bytes = text.as_str().unwrap().as_bytes().to_vec();
            bytes[at] = if bytes[at] == b'1' { b'2' } else { b'1' };
            *text = String::from_utf8(bytes).unwrap().into();
            assert_eq!(tried(command, &changed).0, Some(1), "{place}");
        }
    }
    let mut shorter = serde_json::json!(log.of_plane());
    shorter["entries"].as_array_mut().unwrap().pop();
    assert_eq!(tried("bundle", &shorter).0, Some(1));
    let inclusion = serde_json::json!({"checkpoint": log.checkpoint(), "leaf_index": 3, "entry": log.proved(3)});
    assert_eq!(tried("inclusion", &inclusion).0, Some(0));
    crate::proof::Inclusion::read(&inclusion.to_string()).unwrap().verify(&keys()).unwrap();
}
