//! The floor on PostgreSQL: the least SQL that makes a step durable, in one statement for a batch, without anything that Lethe promises
//! beyond that.
//!
//! The rule: the same server, the same settings, the same driver, the same number of connections. Per step: the job goes, the plane moves,
//! one unhashed audit row, the next job. Nothing is read, checked, leased or hashed; each connection keeps to planes of its own.

use chrono::{DateTime, Utc};
use sqlx::{Executor, PgConnection};
use uuid::Uuid;

use crate::{steps::STEPS, support::ledger::TestDatabase};

const SCHEMA: &str = "
    CREATE TABLE planes (id uuid PRIMARY KEY, state text NOT NULL, epoch bigint NOT NULL) WITH (fillfactor = 70);
    CREATE TABLE jobs (id bigint PRIMARY KEY, plane_id uuid NOT NULL, step text NOT NULL, due_at timestamptz NOT NULL);
    CREATE INDEX jobs_due ON jobs (due_at);
    CREATE TABLE audit (place bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, plane_id uuid NOT NULL, at timestamptz NOT NULL,
        body text NOT NULL);";

const STEP: &str = "
    WITH step AS (SELECT * FROM unnest($1::bigint[], $2::uuid[], $3::text[], $4::text[], $5::bigint[], $6::timestamptz[])
        AS step (job, plane_id, next, body, next_job, at)),
    done AS (DELETE FROM jobs USING step WHERE jobs.id = step.job),
    moved AS (UPDATE planes SET state = step.next, epoch = epoch + 1 FROM step WHERE planes.id = step.plane_id),
    audited AS (INSERT INTO audit (plane_id, at, body) SELECT plane_id, at, body FROM step)
    INSERT INTO jobs SELECT next_job, plane_id, next, at FROM step";

pub struct PostgresFloor {
    connections: Vec<PgConnection>,
    planes: Vec<Uuid>,
    next_job: i64,
}

impl PostgresFloor {
    pub async fn new(database: &TestDatabase, connections: usize) -> Self {
        let mut open = Vec::with_capacity(connections);
        for _ in 0..connections {
            open.push(database.connect().await);
        }
        lethe_nodelay::set();
        open[0].execute(SCHEMA).await.expect("create the floor's tables");
        Self { connections: open, planes: Vec::new(), next_job: 0 }
    }

    /// So many planes, each with a job that is due.
    pub async fn request(&mut self, turn: usize, planes: usize) {
        self.planes = (0..planes).map(|plane| Uuid::from_u64_pair(turn as u64, 0x8000_0000_0000_0000 | plane as u64)).collect();
        let jobs: Vec<i64> = (0..planes as i64).map(|job| self.next_job + job).collect();
        let insert = "WITH new AS (SELECT * FROM unnest($1::bigint[], $2::uuid[]) AS new (job, plane_id)),
            planes AS (INSERT INTO planes SELECT plane_id, 'ACTIVE', 0 FROM new)
            INSERT INTO jobs SELECT job, plane_id, 'step-0', now() FROM new";
        let insert = sqlx::query(insert).bind(jobs).bind(&self.planes);
        insert.execute(&mut self.connections[0]).await.expect("insert planes and their jobs");
    }

    /// Every step of every plane, so many in one transaction.
    pub async fn work(&mut self, batch: usize) {
        let planes = std::mem::take(&mut self.planes);
        let share = planes.len().div_ceil(self.connections.len());
        let (first_job, count) = (self.next_job, planes.len() as i64);
        let shares = planes.chunks(share).enumerate().map(|(number, planes)| (first_job + (number * share) as i64, planes));
        let working = self.connections.iter_mut().zip(shares);
        futures::future::join_all(working.map(|(db, (job, planes))| work(db, planes, batch, job, count))).await;
        self.next_job += count * (STEPS as i64 + 1);
    }
}

async fn work(db: &mut PgConnection, planes: &[Uuid], batch: usize, first_job: i64, count: i64) {
    for (number, planes) in planes.chunks(batch).enumerate() {
        for step in 0..STEPS {
            let first_job = first_job + (number * batch) as i64 + step as i64 * count;
            perform(db, planes, first_job, count, &format!("step-{}", step + 1)).await;
        }
    }
}

async fn perform(db: &mut PgConnection, planes: &[Uuid], first_job: i64, count: i64, next: &str) {
    let jobs: Vec<i64> = (0..planes.len() as i64).map(|job| first_job + job).collect();
    let bodies: Vec<String> = jobs
        .iter()
        .map(|job| {
            format!(
                r#"{{"actor":"worker-soak","event":"STAGE_COMPLETED","evidence":{{"stores":[]}},"job":{job},"step":"{next}"}}"#
            )
        })
        .collect();
    let next_jobs: Vec<i64> = jobs.iter().map(|job| job + count).collect();
    let at: Vec<DateTime<Utc>> = vec![Utc::now(); jobs.len()];
    let step = sqlx::query(STEP).bind(jobs).bind(planes).bind(vec![next; planes.len()]).bind(bodies).bind(next_jobs).bind(at);
    let done = step.execute(db).await.expect("a step of the floor");
    assert_eq!(done.rows_affected(), planes.len() as u64, "every job was followed by one");
}
