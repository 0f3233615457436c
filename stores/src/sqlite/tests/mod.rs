//! What the SQLite driver promises, shown on real files.

mod describe;
mod erasure;
mod fence;
mod travel;

use lethe_stages::record::{Key, RecordDigest};

use crate::test_support::{ALL, Fixture};

/// Two tenants' planes in one table, as most stores have them.
const TWO_PLANES: &str = "
    CREATE TABLE chunks (id INTEGER PRIMARY KEY, plane TEXT NOT NULL, body TEXT, embedding BLOB);
    CREATE INDEX chunks_plane ON chunks (plane);
    INSERT INTO chunks VALUES
        (1, 'p1', 'one', x'0000803f00000040'), (2, 'p2', 'two', x'0000803f00000040'),
        (3, 'p1', 'three', x'0000c07f010000ff'), (4, 'p2', 'four', NULL), (5, 'P1', 'five', NULL);
";
const P1: &str = "table=chunks&plane_column=plane&plane=p1&key=id&text=body&embedding=embedding";
const P2: &str = "table=chunks&plane_column=plane&plane=p2&key=id&text=body&embedding=embedding";

async fn two_planes() -> Fixture {
    Fixture::new(TWO_PLANES).await
}

/// Every record's key and digest.
async fn exported(store: &dyn lethe_stages::ports::KnowledgeStore) -> Vec<(Key, RecordDigest)> {
    let page = store.page(None, ALL).await.unwrap();
    page.iter().map(|record| (record.key.clone(), record.digest(None))).collect()
}
