//! The floor: the least SQL that makes a step durable, written by hand, without anything that Lethe promises beyond that.
//!
//! The rule: the same file system, the same PRAGMAs, the same driver. Per step: the job goes, the plane moves, one unhashed audit row,
//! the next job. Nothing is read, checked, leased or hashed.

use std::path::Path;

use sqlx::{
    Connection, Executor, SqliteConnection,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous},
};

use crate::steps::STEPS;

const SCHEMA: &str = "
    CREATE TABLE planes (id TEXT PRIMARY KEY, state TEXT NOT NULL, epoch INTEGER NOT NULL) STRICT;
    CREATE TABLE jobs (id INTEGER PRIMARY KEY, plane_id TEXT NOT NULL, step TEXT NOT NULL, due_at INTEGER NOT NULL) STRICT;
    CREATE INDEX jobs_due ON jobs (due_at);
    CREATE TABLE audit (place INTEGER PRIMARY KEY, plane_id TEXT NOT NULL, at INTEGER NOT NULL, body TEXT NOT NULL) STRICT;";

pub struct Floor {
    db: SqliteConnection,
    planes: Vec<String>,
    next_job: i64,
}

impl Floor {
    pub async fn new(file: &Path) -> Self {
        let options = SqliteConnectOptions::new()
            .filename(file)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .pragma("secure_delete", "ON");
        let mut db = SqliteConnection::connect_with(&options).await.expect("open the floor's file");
        db.execute(SCHEMA).await.expect("create the floor's tables");
        Self { db, planes: Vec::new(), next_job: 0 }
    }

    /// So many planes, each with a job that is due.
    pub async fn request(&mut self, turn: usize, planes: usize) {
        self.planes = (0..planes).map(|plane| format!("{turn:08x}-0000-7000-8000-{plane:012x}")).collect();
        self.begin().await;
        for (index, plane) in self.planes.clone().iter().enumerate() {
            let insert = sqlx::query("INSERT INTO planes VALUES (?, 'ACTIVE', 0)").bind(plane);
            insert.execute(&mut self.db).await.expect("insert a plane");
            self.enqueue(self.next_job + index as i64, plane, "step-0").await;
        }
        self.commit().await;
    }

    /// Every step of every plane, so many in one transaction.
    pub async fn work(&mut self, batch: usize) {
        let planes = std::mem::take(&mut self.planes);
        let count = planes.len() as i64;
        for step in 0..STEPS {
            let next = format!("step-{}", step + 1);
            for (first, members) in planes.chunks(batch).enumerate() {
                self.begin().await;
                for (index, plane) in members.iter().enumerate() {
                    self.step(self.next_job + (first * batch + index) as i64, count, plane, &next).await;
                }
                self.commit().await;
            }
            self.next_job += count;
        }
        self.next_job += count;
    }

    async fn step(&mut self, job: i64, count: i64, plane: &str, next: &str) {
        let delete = sqlx::query("DELETE FROM jobs WHERE id = ?").bind(job);
        delete.execute(&mut self.db).await.expect("finish a job");
        let update = sqlx::query("UPDATE planes SET state = ?, epoch = epoch + 1 WHERE id = ?").bind(next).bind(plane);
        update.execute(&mut self.db).await.expect("move a plane");
        let body = format!(
            r#"{{"actor":"worker-soak","event":"STAGE_COMPLETED","evidence":{{"stores":[]}},"job":{job},"step":"{next}"}}"#
        );
        let append = sqlx::query("INSERT INTO audit (plane_id, at, body) VALUES (?, ?, ?)").bind(plane).bind(job).bind(body);
        append.execute(&mut self.db).await.expect("append to the audit");
        self.enqueue(job + count, plane, next).await;
    }

    async fn enqueue(&mut self, job: i64, plane: &str, step: &str) {
        let insert = sqlx::query("INSERT INTO jobs VALUES (?, ?, ?, ?)").bind(job).bind(plane).bind(step).bind(job);
        insert.execute(&mut self.db).await.expect("insert a job");
    }

    async fn begin(&mut self) {
        sqlx::query("BEGIN IMMEDIATE").execute(&mut self.db).await.expect("begin");
    }

    async fn commit(&mut self) {
        sqlx::query("COMMIT").execute(&mut self.db).await.expect("commit");
    }
}
