//! What an offboarding's five steps write: bytes of PostgreSQL's log, transactions, entries.
//!
//! The rule: the server's log positions before and after, whole pages after a checkpoint included; nothing else writes meanwhile. What only
//! reads is no transaction here. The floor is what the least SQL writes per row of its audit.

use serde_json::{Value as Json, json};
use sqlx::PgConnection;

use crate::{
    Options,
    floor_on_postgres::PostgresFloor,
    median::rounded,
    steps::{Lethe, STEPS},
};

const BYTES_MAX: f64 = 2_500.0;
const BATCH: usize = 200;

pub async fn bench(options: &Options) -> Json {
    let planes = options.sized(2_000, 20);
    let (site, lethe) = Lethe::new(true).await;
    let mut db = site.lethe.as_ref().expect("a database").connect().await;
    let mut floor = PostgresFloor::new(site.floor.as_ref().expect("a database"), 1).await;
    let mut measured = Vec::new();
    for (turn, batch) in [BATCH, 1].into_iter().enumerate() {
        lethe.request(turn, planes).await;
        let before = Written::until_now(&mut db).await;
        assert_eq!(lethe.work(batch, 1).await, planes * STEPS, "every step was recorded");
        measured.push(Written::until_now(&mut db).await.since(&before));
    }
    floor.request(0, planes).await;
    let before = Written::until_now(&mut db).await;
    floor.work(BATCH).await;
    let floor = Written::until_now(&mut db).await.since(&before).bytes / (planes * STEPS) as f64;

    let (batched, unbatched) = (&measured[0], &measured[1]);
    let each = |number: f64| rounded(number / planes as f64, 2);
    let value = batched.bytes / batched.entries;
    json!({
        "bench": "wal_per_offboarding", "share": options.share, "offboardings": planes, "batch": BATCH, "value": rounded(value, 0),
        "floor": rounded(floor, 0), "ratio": rounded(value / floor, 2), "unit": "bytes per entry", "value_max": BYTES_MAX,
        "wal_bytes": each(batched.bytes), "transactions": each(batched.transactions), "entries": each(batched.entries),
        "unbatched": {"value": rounded(unbatched.bytes / unbatched.entries, 0), "wal_bytes": each(unbatched.bytes),
            "transactions": each(unbatched.transactions), "entries": each(unbatched.entries)},
        "met": !options.is_full() || value <= BYTES_MAX,
    })
}

struct Written {
    bytes: f64,
    transactions: f64,
    entries: f64,
}

impl Written {
    async fn until_now(db: &mut PgConnection) -> Self {
        let ask = "SELECT (pg_current_wal_lsn() - '0/0')::float8, pg_snapshot_xmax(pg_current_snapshot())::text::float8,
            (SELECT count(*) FROM trail)::float8";
        let (bytes, transactions, entries) = sqlx::query_as(ask).fetch_one(db).await.expect("ask what was written");
        Self { bytes, transactions, entries }
    }

    fn since(&self, before: &Self) -> Self {
        Self {
            bytes: self.bytes - before.bytes,
            transactions: self.transactions - before.transactions,
            entries: self.entries - before.entries,
        }
    }
}
