//! What the tests of this crate build their worlds from: permits over facts, and stores in temporary files.

use std::path::{Path, PathBuf};

use lethe_stages::ports::PageLimit;
use sqlx::{
    AssertSqlSafe, ConnectOptions, Executor,
    sqlite::{SqliteConnectOptions, SqliteConnection},
};
use tempfile::TempDir;
use uuid::Uuid;

use crate::Mapping;

// The permit of the tests that stand outside this crate.
#[allow(unreachable_pub, reason = "it is public where it stands")]
#[path = "../../tests/support/permit.rs"]
mod permits;
pub(crate) use permits::permit;

pub(crate) const PLANE: Uuid = Uuid::from_u128(1);
pub(crate) const NEIGHBOUR: Uuid = Uuid::from_u128(2);
pub(crate) const ALL: PageLimit = PageLimit { rows_max: 10_000, bytes_max: 1 << 24 };

/// A store in a temporary directory.
pub(crate) struct Fixture {
    pub(crate) dir: TempDir,
    pub(crate) path: PathBuf,
}

impl Fixture {
    /// Creates the file with `sql`.
    pub(crate) async fn new(sql: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().canonicalize().unwrap().join("kb.db");
        let fixture = Self { dir, path };
        fixture.run(sql).await.unwrap();
        fixture
    }

    /// As an application would connect.
    pub(crate) async fn connect(&self) -> SqliteConnection {
        connect(&self.path).await
    }

    /// Runs statements as an application.
    pub(crate) async fn run(&self, sql: &str) -> Result<(), sqlx::Error> {
        let mut connection = self.connect().await;
        let done = connection.execute(AssertSqlSafe(sql.to_owned())).await.map(drop);
        sqlx::Connection::close(connection).await.unwrap();
        done
    }

    /// One column of text, all rows.
    pub(crate) async fn texts(&self, sql: &str) -> Vec<String> {
        let mut connection = self.connect().await;
        sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_all(&mut connection).await.unwrap()
    }

    /// The store's URL.
    pub(crate) fn url(&self) -> String {
        format!("sqlite:{}", self.path.display())
    }

    /// A plane of the store.
    pub(crate) fn open(&self, mapping: &str, plane_id: Uuid) -> std::sync::Arc<dyn lethe_stages::ports::KnowledgeStore> {
        crate::open_store(&self.url(), &Mapping::parse(mapping).unwrap(), plane_id).unwrap()
    }

    /// How often `marker` stands in the bytes of any file of the directory.
    pub(crate) fn occurrences(&self, marker: &str) -> usize {
        let files = std::fs::read_dir(self.dir.path()).unwrap();
        files
            .map(|file| std::fs::read(file.unwrap().path()).unwrap())
            .map(|bytes| bytes.windows(marker.len()).filter(|window| *window == marker.as_bytes()).count())
            .sum()
    }
}

async fn connect(path: &Path) -> SqliteConnection {
    SqliteConnectOptions::new().filename(path).create_if_missing(true).foreign_keys(false).connect().await.unwrap()
}
