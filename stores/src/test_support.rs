//! What the tests of this crate build their worlds from: permits over facts, and stores in temporary files.

use std::path::{Path, PathBuf};

use chrono::DateTime;
use lethe_stages::{
    EvictMode, Facts, GraceAccess, Ground, LifecycleState, Permit, UsageKnown,
    permit::{Destruction, Verdict},
    ports::PageLimit,
};
use sqlx::{
    AssertSqlSafe, ConnectOptions, Executor,
    sqlite::{SqliteConnectOptions, SqliteConnection},
};
use tempfile::TempDir;
use uuid::Uuid;

use crate::Mapping;

pub(crate) const PLANE: Uuid = Uuid::from_u128(1);
pub(crate) const NEIGHBOUR: Uuid = Uuid::from_u128(2);
pub(crate) const ALL: PageLimit = PageLimit { rows_max: 10_000, bytes_max: 1 << 24 };

/// A permit to evict `plane_id` under `epoch`, minted over facts that allow it.
pub(crate) fn permit(plane_id: Uuid, epoch: i64) -> Permit {
    let facts = Facts {
        at: DateTime::UNIX_EPOCH,
        tenant_id: Uuid::nil(),
        tenant_status: "active".into(),
        plane_id,
        state: LifecycleState::Deactivated,
        offboarding_id: Uuid::from_u128(3),
        ground: Ground::ContractEnd,
        evict: EvictMode::AfterArchive,
        grace_access: GraceAccess::ReadOnly,
        grace_until: None,
        grace_skipped: false,
        retention_until: None,
        holds: Vec::new(),
        runs_in_flight: 0,
        queries_in_flight: 0,
        usage_until: None,
        usage_known: UsageKnown::Reported,
        usage_unknown_accepted: false,
        tokens: 0,
        manifest_sha256: Some("sha256:00".into()),
        plan_digest: None,
        plan_manifest_sha256: None,
        approval: None,
        denied: false,
        clock_suspect: false,
        ledger_behind: false,
        restore_pending: false,
    };
    Permit::mint(Destruction::Evict, &facts, epoch, &Verdict { policy_revision: "test".into() }).unwrap()
}

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
