//! What every archive promises, whatever keeps it: asked of a folder, and of a bucket of each kind on a real server.

use std::sync::Arc;

use chrono::Utc;
use lethe_stages::{
    manifest::Part,
    ports::{Archive, PartDraft, PortError},
    record::{Column, ColumnKind, Key, Record, Value},
};
use lethe_stores::{ArchiveKey, Archives};
use tempfile::TempDir;
use uuid::Uuid;

use crate::support::{
    permit::permit,
    s3::{Bucket, Kind},
};

const PLANE: Uuid = Uuid::from_u128(0x51);
const NEIGHBOUR: Uuid = Uuid::from_u128(0x52);

/// Where an archive is kept in a test.
enum Keeper {
    Folder(TempDir),
    Bucket(Box<Bucket>),
}

impl Keeper {
    async fn all() -> Vec<Keeper> {
        let mut all = vec![Keeper::Folder(tempfile::tempdir().expect("a folder"))];
        for kind in [Kind::Plain, Kind::Versioned, Kind::Suspended, Kind::Lockable] {
            all.push(Keeper::Bucket(Box::new(Bucket::new(kind).await)));
        }
        all
    }

    fn url(&self) -> String {
        match self {
            Keeper::Folder(dir) => format!("file://{}", dir.path().canonicalize().expect("a path").display()),
            Keeper::Bucket(bucket) => bucket.url(),
        }
    }

    fn archives(&self) -> Archives {
        match self {
            Keeper::Folder(_) => Archives::default(),
            Keeper::Bucket(bucket) => bucket.archives(),
        }
    }

    fn name(&self) -> String {
        match self {
            Keeper::Folder(_) => "a folder".into(),
            Keeper::Bucket(bucket) => format!("a bucket, {:?}", bucket.kind),
        }
    }

    async fn prepared(&self) -> Uuid {
        let (url, id) = self.archives().prepare(&self.url(), Uuid::from_u128(9)).await.expect("prepare");
        assert_eq!(url, self.url());
        id
    }

    fn open(&self, id: Uuid, plane: Uuid) -> Arc<dyn Archive> {
        self.archives().open(&self.url(), id, plane, None, Utc::now()).expect("open")
    }

    async fn forget_canary(&self) {
        match self {
            Keeper::Folder(dir) => std::fs::remove_file(dir.path().join(".lethe-archive.json")).expect("remove"),
            Keeper::Bucket(bucket) => {
                let key = "cold/archive/.lethe-archive.json";
                bucket.client.delete_object().bucket(&bucket.name).key(key).send().await.expect("delete");
            }
        }
    }
}

fn record(id: i64, text: &str) -> Record {
    Record { key: Key::Integer(id), values: vec![Value::Integer(id), Value::Text(text.into())] }
}

fn columns() -> Vec<Column> {
    vec![Column { name: "id".into(), kind: ColumnKind::Integer }, Column { name: "text".into(), kind: ColumnKind::Text }]
}

async fn write(archive: &dyn Archive, key: &str, records: &[Record]) -> Result<Part, PortError> {
    let digests: Vec<_> = records.iter().map(|record| record.digest(None)).collect();
    archive.write_part(PartDraft { key, columns: &columns(), records, digests: &digests }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_is_written_once_and_other_bytes_are_refused() {
    for keeper in Keeper::all().await {
        let archive = keeper.open(keeper.prepared().await, PLANE);
        let records: Vec<_> = (0..500).map(|id| record(id, &format!("text {id}"))).collect();
        let part = write(archive.as_ref(), "o/part.parquet", &records).await.expect("write");
        assert_eq!(write(archive.as_ref(), "o/part.parquet", &records).await.expect("again"), part, "{}", keeper.name());
        let error = write(archive.as_ref(), "o/part.parquet", &[record(1, "other")]).await.expect_err("other bytes");
        assert!(matches!(&error, PortError::Permanent(said) if said.contains("other bytes")), "{}: {error}", keeper.name());
        let back = archive.read_part("o/part.parquet", &columns()).await.expect("read").expect("a part");
        assert_eq!((back.part, back.records), (part, records), "{}", keeper.name());
        assert!(archive.read_part("o/absent.parquet", &columns()).await.expect("read").is_none());
        assert_eq!(archive.list().await.expect("list"), ["o/part.parquet"], "{}", keeper.name());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_encrypted_part_is_written_once_and_is_the_one_that_is_there_if_its_records_are_equal() {
    for keeper in Keeper::all().await {
        let id = keeper.prepared().await;
        let under = |byte: u8| keeper.archives().open(&keeper.url(), id, PLANE, Some(key_of(byte)), Utc::now()).expect("open");
        let archive = under(7);
        // A NaN, and two zeros: equal to the bit or not equal.
        let mut records: Vec<_> = (0..500).map(|id| record(id, &format!("text {id}"))).collect();
        let real = |value: f64| Value::Real(value);
        records
            .iter_mut()
            .for_each(|record| record.values.push(real(if record.key == Key::Integer(3) { f64::NAN } else { 0.0 })));
        let columns = [columns(), vec![Column { name: "score".into(), kind: ColumnKind::Real }]].concat();
        let write = async |archive: &dyn Archive, records: &[Record]| {
            let digests: Vec<_> = records.iter().map(|record| record.digest(None)).collect();
            archive.write_part(PartDraft { key: "o/part", columns: &columns, records, digests: &digests }).await
        };
        let part = write(archive.as_ref(), &records).await.expect("write");
        assert_eq!((part.rows, &part.first_key, &part.last_key), (500, &None, &None), "keys are content: {}", keeper.name());
        assert_eq!(write(archive.as_ref(), &records).await.expect("again"), part, "what is there is kept: {}", keeper.name());
        let mut other = records.clone();
        other[9].values[2] = real(-0.0);
        for changed in [other, records[1..].to_vec()] {
            let error = write(archive.as_ref(), &changed).await.expect_err("other records");
            assert!(matches!(&error, PortError::Permanent(said) if said.contains("other bytes")), "{}: {error}", keeper.name());
        }
        let back = archive.read_part("o/part", &columns).await.expect("read").expect("a part");
        assert_eq!((&back.part, back.digests.len()), (&part, 500), "{}", keeper.name());
        assert_eq!(keeper.archives().open(&keeper.url(), id, PLANE, None, Utc::now()).expect("open").encryption(), "none");

        // Another key, no key, another plane, another place: none of them reads it. No key reads what is not encrypted.
        let bytes = archive.get("o/part").await.expect("get").expect("an object");
        assert!(bytes.starts_with(b"PARE") && !bytes.windows(8).any(|window| window == b"text 123"), "{}", keeper.name());
        archive.put("o/moved", &bytes).await.expect("put");
        let plain = keeper.open(id, PLANE);
        let elsewhere = keeper.archives().open(&keeper.url(), id, NEIGHBOUR, Some(key_of(7)), Utc::now()).expect("open");
        elsewhere.put("o/part", &bytes).await.expect("put");
        for (archive, key) in [(&under(8), "o/part"), (&plain, "o/part"), (&elsewhere, "o/part"), (&archive, "o/moved")] {
            let read = archive.read_part(key, &columns).await;
            assert!(matches!(read, Err(PortError::Permanent(_))), "{}: {read:?}", keeper.name());
        }
        self::write(plain.as_ref(), "o/plain", &[record(1, "one")]).await.expect("write");
        let read = archive.read_part("o/plain", &self::columns()).await;
        assert!(matches!(&read, Err(PortError::Permanent(said)) if said.contains("not encrypted")), "{read:?}");

        // An inventory is taken again from its beginning: the parts that are there are not written over.
        let digests: Vec<_> = records.iter().map(|record| record.digest(None)).collect();
        for _ in 0..3 {
            let draft = PartDraft { key: "o/inventory", columns: &[], records: &[], digests: &digests };
            assert_eq!(archive.write_part(draft).await.expect("write").rows, 500);
        }
        if let Keeper::Bucket(bucket) = &keeper {
            for name in ["part", "inventory"] {
                let versions = bucket.versions(&format!("cold/archive/{PLANE}/o/{name}")).await;
                assert_eq!(versions.len(), 1, "no pile of versions: {}, {name}", keeper.name());
            }
        }
    }
}

fn key_of(byte: u8) -> ArchiveKey {
    ArchiveKey::new(Uuid::from_u128(byte.into()), [byte; 32].into())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_object_is_replaced_and_a_purge_leaves_nothing_of_it_and_everything_of_the_neighbour() {
    for keeper in Keeper::all().await {
        let id = keeper.prepared().await;
        let (archive, neighbour) = (keeper.open(id, PLANE), keeper.open(id, NEIGHBOUR));
        neighbour.put("o/manifest.json", b"theirs").await.expect("put");
        for text in [&b"first"[..], b"second", b"third"] {
            archive.put("o/manifest.json", text).await.expect("put");
            assert_eq!(archive.get("o/manifest.json").await.expect("get").as_deref(), Some(text), "{}", keeper.name());
        }
        write(archive.as_ref(), "o/part.parquet", &[record(1, "one")]).await.expect("write");
        assert_eq!(archive.get("o/absent").await.expect("get"), None);
        assert_eq!(archive.list().await.expect("list"), ["o/manifest.json", "o/part.parquet"], "{}", keeper.name());

        let keys = archive.list().await.expect("list");
        assert!(matches!(archive.delete(&permit(NEIGHBOUR, 1), &keys).await, Err(PortError::Permanent(_))), "another's permit");
        assert!(matches!(archive.may_delete(&permit(NEIGHBOUR, 1)).await, Err(PortError::Permanent(_))), "another's permit");
        archive.may_delete(&permit(PLANE, 1)).await.expect("nothing is locked");
        for _ in 0..2 {
            archive.delete(&permit(PLANE, 1), &keys).await.expect("delete, and again");
            archive.close(&permit(PLANE, 1)).await.expect("close, and again");
            assert!(archive.list().await.expect("list").is_empty(), "{}", keeper.name());
        }
        assert_eq!(neighbour.get("o/manifest.json").await.expect("get").as_deref(), Some(&b"theirs"[..]), "{}", keeper.name());
        if let Keeper::Bucket(bucket) = &keeper {
            let below = format!("cold/archive/{PLANE}/");
            assert_eq!(bucket.everything(&below).await, [], "no version, marker or upload: {}", keeper.name());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_without_the_right_canary_answers_nothing() {
    for keeper in Keeper::all().await {
        let id = keeper.prepared().await;
        let archive = keeper.open(id, PLANE);
        assert_eq!(archive.probe().await.expect("probe"), id.to_string());
        let (_, again) = keeper.archives().prepare(&keeper.url(), PLANE).await.expect("prepare again");
        assert_eq!(again, id, "an archive keeps the id it has: {}", keeper.name());
        let other = keeper.open(PLANE, PLANE);
        assert!(matches!(other.probe().await, Err(PortError::WrongPlace(_))), "{}", keeper.name());
        archive.put("a", b"x").await.expect("put");
        keeper.forget_canary().await;
        for answer in [
            archive.probe().await.map(drop),
            archive.list().await.map(drop),
            archive.get("a").await.map(drop),
            archive.put("a", b"y").await,
            archive.may_delete(&permit(PLANE, 1)).await,
            archive.delete(&permit(PLANE, 1), &["a".into()]).await,
            archive.close(&permit(PLANE, 1)).await,
        ] {
            assert!(matches!(answer, Err(PortError::WrongPlace(_))), "{}: {answer:?}", keeper.name());
        }
        let mark = keeper.archives().read_mark(&keeper.url(), id, PLANE).await;
        assert!(matches!(mark, Err(PortError::WrongPlace(_))), "{}: {mark:?}", keeper.name());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_never_leads_out_of_the_prefix() {
    for keeper in Keeper::all().await {
        let archive = keeper.open(keeper.prepared().await, PLANE);
        for key in ["../x", "/etc/x", "a/../../x", "a//b", "", ".", "a/./b", "a\\b", "a\0b", "a/"] {
            assert!(matches!(archive.put(key, b"x").await, Err(PortError::Permanent(_))), "{}: {key:?}", keeper.name());
            assert!(matches!(archive.get(key).await, Err(PortError::Permanent(_))), "{}: {key:?}", keeper.name());
        }
        assert!(archive.list().await.expect("list").is_empty(), "{}", keeper.name());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mark_is_replaced_whole_and_leaves_no_pile() {
    for keeper in Keeper::all().await {
        let id = keeper.prepared().await;
        let (archives, url, ledger) = (keeper.archives(), keeper.url(), Uuid::from_u128(7));
        assert_eq!(archives.read_mark(&url, id, ledger).await.expect("read"), None);
        for number in 0..5 {
            let text = format!("{{\"place\":{number}}}").into_bytes();
            archives.write_mark(&url, id, ledger, text.clone()).await.expect("write");
            assert_eq!(archives.read_mark(&url, id, ledger).await.expect("read"), Some(text), "{}", keeper.name());
        }
        if let Keeper::Bucket(bucket) = &keeper {
            assert_eq!(bucket.everything("cold/archive/.lethe-mark-").await.len(), 1, "{}", keeper.name());
        }
    }
}
