//! A power cut loses nothing that was said and destroys nothing that was not safe: the disk of the real binary is recorded, and laid out
//! as it could have been left at many moments, with what was not synchronised lost, there or torn.

use std::{collections::BTreeSet, sync::Arc};

use crate::support::{
    disk::{Deaf, kind},
    power::{Plot, cut, cut_at, tell},
};

const PLOT: Plot = Plot { ground: "contract_end", journal_mode: "DELETE", kill: None };

fn seed() -> u64 {
    std::env::var("LETHE_POWER_SEED").ok().map_or(1, |text| text.parse().expect("LETHE_POWER_SEED is a number"))
}

async fn survives(plot: Plot, looks: usize, endings: usize) {
    let told = Arc::new(tell(plot).await);
    let cuts = cut(&told, looks, endings, seed(), |_, _| false).await;
    println!("{plot:?}: {} changes, {} looks, {} endings", told.changes.len(), cuts.looks, cuts.endings);
    assert!(cuts.broken.is_empty(), "{} of {} looks:\n{}", cuts.broken.len(), cuts.looks, cuts.broken.join("\n\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn whenever_the_power_goes_what_was_said_is_there_and_the_work_goes_on() {
    survives(PLOT, 160, 12).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_holds_for_an_inventory_and_a_store_with_a_write_ahead_log() {
    survives(Plot { ground: "erasure_request", journal_mode: "WAL", kill: None }, 160, 12).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_worker_left_unsynchronised_is_not_taken_for_safe() {
    for kill in [
        // The last part has its name, and the name is not on disk.
        (kind::LINK, 3, ".parquet"),
        // So has the last folder on the way to it.
        (kind::MAKE_FOLDER, 3, "/archive/"),
        (kind::RENAME, 1, "manifest.json"),
        (kind::WRITE, 60, "lethe.db-wal"),
    ] {
        survives(Plot { kill: Some(kill), ..PLOT }, 40, 1).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_of_the_log_that_was_half_made_keeps_nothing_from_being_purged() {
    let cuts = cut_at(&tell(PLOT).await, ".log-key").await;
    assert!(cuts >= 4, "the key is made, written, synchronised and given its name: {cuts}");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_synchronisation_that_is_left_out_is_noticed() {
    let told = Arc::new(tell(PLOT).await);
    let deaf: [(&str, Deaf, &[&str]); 5] = [
        ("the parts", |path, _| path.ends_with(".parquet"), &["is not what was verified"]),
        ("the archive's folders", |path, is_folder| is_folder && path.starts_with("archive"), &["No such file"]),
        ("the ledger", |path, _| path.ends_with("lethe.db-wal"), &["that were said to be made", "the mark is ahead"]),
        ("the knowledge base", |path, _| path.ends_with("knowledge.db"), &["ARCHIVED, and", "the fence is", "malformed"]),
        ("the folder of its journal", |path, _| path.is_empty(), &["that were said to be made", "the fence is"]),
    ];
    for (what, deaf, complaints) in deaf {
        let broken = cut(&told, 150, 0, seed(), deaf).await.broken;
        println!("{what} is not synchronised: {} of 150 looks find it", broken.len());
        let first = |wrong: &String| wrong.lines().next().unwrap_or_default().to_owned();
        let said: BTreeSet<String> = broken.iter().map(first).collect();
        assert!(said.iter().any(|said| complaints.iter().any(|one| said.contains(one))), "{what}: {said:#?}");
    }
}
