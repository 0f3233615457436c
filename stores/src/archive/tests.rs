//! What the file archive promises.

use std::{os::unix::fs::symlink, path::Path, sync::Arc};

use lethe_stages::{
    ports::{Archive, PartDraft, PortError},
    record::{Column, ColumnKind, Key, Record, RecordDigest, Value},
};
use tempfile::TempDir;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{Archives, place::CANARY};
use crate::test_support::{NEIGHBOUR, PLANE, permit};

fn canonical_archive_url(url: &str) -> Result<String, PortError> {
    Archives::canonical_url(url)
}

async fn prepare_archive(url: &str, new_id: Uuid) -> Result<Uuid, PortError> {
    Archives::default().prepare(url, new_id).await.map(|(_, id)| id)
}

fn open_archive(url: &str, archive_id: Uuid, plane_id: Uuid) -> Result<Arc<dyn Archive>, PortError> {
    Archives::default().open(url, archive_id, plane_id, None, DateTime::<Utc>::UNIX_EPOCH)
}

async fn archive() -> (TempDir, Arc<dyn Archive>) {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("file://{}", dir.path().display());
    let id = prepare_archive(&url, NEIGHBOUR).await.unwrap();
    let archive = open_archive(&url, id, PLANE).unwrap();
    (dir, archive)
}

fn record(id: i64, text: &str) -> Record {
    Record { key: Key::Integer(id), values: vec![Value::Integer(id), Value::Text(text.into())] }
}

fn columns() -> Vec<Column> {
    vec![Column { name: "id".into(), kind: ColumnKind::Integer }, Column { name: "text".into(), kind: ColumnKind::Text }]
}

async fn write(archive: &dyn Archive, key: &str, records: &[Record]) -> Result<lethe_stages::manifest::Part, PortError> {
    let digests: Vec<_> = records.iter().map(|record| record.digest(None)).collect();
    archive.write_part(PartDraft { key, columns: &columns(), records, digests: &digests }).await
}

#[tokio::test]
async fn a_part_is_written_once_and_other_bytes_are_refused() {
    let (dir, archive) = archive().await;
    let records: Vec<_> = (0..40_000).map(|id| record(id, &format!("text {id}"))).collect();
    let part = write(archive.as_ref(), "o/part.parquet", &records).await.unwrap();
    assert_eq!(
        (part.rows, part.first_key.clone(), part.last_key.clone()),
        (40_000, Some(Key::Integer(0)), Some(Key::Integer(39_999)))
    );
    assert_eq!(write(archive.as_ref(), "o/part.parquet", &records).await.unwrap(), part);
    let error = write(archive.as_ref(), "o/part.parquet", &[record(1, "other")]).await.unwrap_err();
    assert!(matches!(&error, PortError::Permanent(said) if said.contains("other bytes")), "{error}");
    let back = archive.read_part("o/part.parquet", &columns()).await.unwrap().unwrap();
    assert_eq!((back.part, back.records), (part, records));
    assert!(archive.read_part("o/absent.parquet", &columns()).await.unwrap().is_none());
    assert_eq!(archive.list().await.unwrap(), ["o/part.parquet"], "no temporary file is left");

    let path = dir.path().join(PLANE.to_string()).join("o/part.parquet");
    let mut bytes = std::fs::read(&path).unwrap();
    for damaged in [Vec::new(), bytes[..bytes.len() / 2].to_vec(), vec![0; 100]] {
        std::fs::write(&path, damaged).unwrap();
        let error = archive.read_part("o/part.parquet", &columns()).await.unwrap_err();
        assert!(matches!(&error, PortError::Permanent(said) if said.contains("o/part.parquet")), "{error}");
    }
    bytes[5000] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    let read = archive.read_part("o/part.parquet", &columns()).await;
    assert!(read.is_err() || read.unwrap().unwrap().part.sha256 != lethe_stages::canonical::sha256(b""), "never a panic");
}

#[tokio::test]
async fn an_inventory_holds_digests_and_nothing_else() {
    let (_dir, archive) = archive().await;
    let digests: Vec<_> = (0..5u8).map(|byte| RecordDigest([byte; 32])).collect();
    let part = archive.write_part(PartDraft { key: "i", columns: &[], records: &[], digests: &digests }).await.unwrap();
    assert_eq!((part.rows, &part.first_key, &part.last_key), (5, &None, &None));
    let back = archive.read_part("i", &[]).await.unwrap().unwrap();
    assert_eq!((back.part, back.digests, back.records.len()), (part, digests, 0));
    assert!(matches!(archive.read_part("i", &columns()).await, Err(PortError::Permanent(_))));
}

#[tokio::test]
async fn a_column_that_takes_the_archives_own_name_is_refused() {
    let (_dir, archive) = archive().await;
    let with =
        |name: &str, kind| vec![Column { name: "id".into(), kind: ColumnKind::Integer }, Column { name: name.into(), kind }];
    for columns in [
        with("Lethe_SHA256", ColumnKind::Text),
        [with("e", ColumnKind::VectorJson), vec![Column { name: "e__json".into(), kind: ColumnKind::Text }]].concat(),
    ] {
        let mut row = record(1, "[1]");
        row.values.resize(columns.len(), Value::Null);
        let draft = PartDraft { key: "p", columns: &columns, records: &[row.clone()], digests: &[row.digest(None)] };
        assert!(matches!(archive.write_part(draft).await, Err(PortError::Permanent(said)) if said.contains("stand twice")));
    }
}

#[tokio::test]
async fn keys_and_links_never_lead_out_of_the_prefix() {
    let (dir, archive) = archive().await;
    for key in ["../x", "/etc/x", "a/../../x", "a//b", "", ".", "a/./b", "a\\b", "a\0b", "a/"] {
        assert!(matches!(archive.put(key, b"x").await, Err(PortError::Permanent(_))), "{key:?}");
        assert!(matches!(archive.get(key).await, Err(PortError::Permanent(_))), "{key:?}");
        assert!(matches!(archive.delete(&permit(PLANE, 1), &[key.to_owned()]).await, Err(PortError::Permanent(_))), "{key:?}");
    }
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("kept"), b"kept").unwrap();
    archive.put("a/b", b"x").await.unwrap();
    let prefix = dir.path().join(PLANE.to_string());
    symlink(outside.path(), prefix.join("link")).unwrap();
    for result in [
        archive.put("link/kept", b"lost").await,
        archive.get("link/kept").await.map(drop),
        archive.delete(&permit(PLANE, 1), &["link/kept".into()]).await,
    ] {
        assert!(matches!(result, Err(PortError::Permanent(said)) if said.contains("symbolic link")));
    }
    assert_eq!(archive.list().await.unwrap(), ["a/b", "link"]);
    archive.delete(&permit(PLANE, 1), &["link".into()]).await.unwrap();
    assert_eq!(std::fs::read(outside.path().join("kept")).unwrap(), b"kept");
}

#[tokio::test]
async fn a_place_without_the_right_canary_answers_nothing() {
    let (dir, archive) = archive().await;
    assert_eq!(archive.probe().await.unwrap(), NEIGHBOUR.to_string());
    let url = format!("file://{}", dir.path().display());
    assert_eq!(prepare_archive(&url, PLANE).await.unwrap(), NEIGHBOUR, "an archive keeps the id it has");
    let other = open_archive(&url, PLANE, PLANE).unwrap();
    assert!(matches!(other.probe().await, Err(PortError::WrongPlace(_))));
    std::fs::remove_file(dir.path().join(CANARY)).unwrap();
    assert!(matches!(archive.probe().await, Err(PortError::WrongPlace(_))));
    assert!(matches!(archive.list().await, Err(PortError::WrongPlace(_))));
    assert!(matches!(archive.get("a").await, Err(PortError::WrongPlace(_))));
    assert!(matches!(archive.put("a", b"x").await, Err(PortError::WrongPlace(_))));
    assert!(matches!(archive.delete(&permit(PLANE, 1), &["a".into()]).await, Err(PortError::WrongPlace(_))));
    assert!(!dir.path().join(PLANE.to_string()).exists());
    std::fs::write(dir.path().join(CANARY), b"{}").unwrap();
    assert!(matches!(prepare_archive(&url, PLANE).await, Err(PortError::Permanent(_))));
}

#[tokio::test]
async fn a_purge_sees_leftovers_and_leaves_the_archive_and_its_neighbours() {
    let (dir, archive) = archive().await;
    let url = format!("file://{}", dir.path().display());
    let neighbour = open_archive(&url, NEIGHBOUR, NEIGHBOUR).unwrap();
    neighbour.put("o/manifest.json", b"theirs").await.unwrap();
    archive.put("o/manifest.json", b"first").await.unwrap();
    archive.put("o/manifest.json", b"second").await.unwrap();
    assert_eq!(archive.get("o/manifest.json").await.unwrap().as_deref(), Some(&b"second"[..]));
    assert_eq!(archive.get("o/absent").await.unwrap(), None);
    std::fs::write(dir.path().join(PLANE.to_string()).join("o/.tmp-7-0-part.parquet"), b"half").unwrap();
    assert_eq!(archive.list().await.unwrap(), ["o/.tmp-7-0-part.parquet", "o/manifest.json"]);

    assert!(matches!(archive.delete(&permit(NEIGHBOUR, 1), &["o/manifest.json".into()]).await, Err(PortError::Permanent(_))));
    assert!(matches!(archive.close(&permit(PLANE, 1)).await, Err(PortError::Transient(_))), "it is not empty");
    for key in archive.list().await.unwrap() {
        archive.delete(&permit(PLANE, 1), std::slice::from_ref(&key)).await.unwrap();
        archive.delete(&permit(PLANE, 1), std::slice::from_ref(&key)).await.unwrap();
    }
    for _ in 0..2 {
        archive.close(&permit(PLANE, 1)).await.unwrap();
        assert!(archive.list().await.unwrap().is_empty());
    }
    assert!(!dir.path().join(PLANE.to_string()).exists());
    assert_eq!(neighbour.get("o/manifest.json").await.unwrap().as_deref(), Some(&b"theirs"[..]));
}

#[test]
fn every_spelling_of_a_directory_has_one_canonical_url() {
    let dir = tempfile::tempdir().unwrap();
    let real = dir.path().canonicalize().unwrap();
    std::fs::create_dir(real.join("there")).unwrap();
    symlink(real.join("there"), real.join("link")).unwrap();
    let expected = format!("file://{}/there/new%20one", real.display());
    for spelling in ["there/new one", "link/new%20one/", "there//./new one"] {
        assert_eq!(canonical_archive_url(&format!("file://{}/{spelling}", real.display())).unwrap(), expected, "{spelling}");
    }
    assert_eq!(canonical_archive_url(&expected).unwrap(), expected);
    assert!(!Path::new(&real.join("there/new one")).exists(), "looking creates nothing");
    assert_eq!(open_archive(&expected, PLANE, PLANE).unwrap().prefix(), format!("{expected}/{PLANE}/"));
}

#[test]
fn a_url_that_is_no_absolute_directory_is_refused_with_what_would_be_right() {
    for url in ["file:archive", "file://archive/x", "ftp:/x", "/srv/archive", "file:///", "file:///a/../b", "file:///a?x=1"] {
        let error = canonical_archive_url(url).unwrap_err();
        assert!(
            matches!(&error, PortError::Permanent(said) if said.contains("file:///") || said.contains("root")),
            "{url}: {error}"
        );
    }
}

#[tokio::test]
async fn writing_a_mark_takes_away_what_a_killed_writer_of_it_left() {
    let (dir, _archive) = archive().await;
    let url = format!("file://{}", dir.path().display());
    let mark = super::place::mark_name(PLANE);
    let [left, held] = [".tmp-7-0-", ".tmp-8-0-"].map(|begin| dir.path().join(format!("{begin}{mark}")));
    let theirs = dir.path().join(format!(".tmp-7-0-{}", super::place::mark_name(NEIGHBOUR)));
    for file in [&left, &held, &theirs] {
        std::fs::write(file, b"half").unwrap();
    }
    let lock = std::fs::File::open(&held).unwrap();
    lock.lock().unwrap();
    Archives::default().write_mark(&url, NEIGHBOUR, PLANE, b"whole".to_vec()).await.unwrap();
    assert_eq!(std::fs::read(dir.path().join(&mark)).unwrap(), b"whole");
    assert!(!left.exists(), "nobody holds it");
    assert!(held.exists() && theirs.exists(), "somebody writes it, or it is another ledger's");
}
