//! Knowledge stores in SQLite files: any file, with any number of tenants' planes in any ordinary table.
//!
//! The rule: one verb, one connection, opened for it and closed after it; the schema is read anew each time, because the file is
//! somebody else's. If we die in a verb, SQLite's own recovery leaves it done or not done.

mod check;
mod connect;
mod dependents;
mod erase;
mod fence;
mod kinds;
mod proof;
mod read;
mod rebuild;
mod schema;
mod scrub;
mod sql;
#[cfg(test)]
mod tests;
mod triggers;
mod unique;

use std::path::PathBuf;

use async_trait::async_trait;
use lethe_stages::{
    Permit,
    lifecycle::FenceMode,
    ports::{Description, EmptinessProof, Erased, FenceReport, KnowledgeStore, PageLimit, PortError, Recurrence},
    record::{Column, Key, Known, Record, RecordDigest, Salt},
};
use serde_json::Value as Json;
use sqlx::{Row, sqlite::SqliteConnection};
use uuid::Uuid;

pub(crate) use self::{check::check, rebuild::Rebuild};
use self::{
    connect::{File, close, failed},
    dependents::unfenced,
    schema::{Affinity, Table},
    sql::{Sql, name},
};
use crate::{Mapping, verdict::covered};

/// A plane's records in one table of an SQLite file.
pub(crate) struct SqliteStore {
    file: File,
    mapping: Mapping,
    plane_id: Uuid,
}

impl SqliteStore {
    /// Binds the plane. Nothing is opened.
    pub(crate) fn new(path: PathBuf, mapping: Mapping, plane_id: Uuid) -> Self {
        Self { file: File { path }, mapping, plane_id }
    }

    async fn reading(&self) -> Result<(SqliteConnection, Table), PortError> {
        self.resolved(self.file.reading().await?).await
    }

    async fn writing(&self) -> Result<(SqliteConnection, Table), PortError> {
        self.resolved(self.file.writing().await?).await
    }

    async fn resolved(&self, mut connection: SqliteConnection) -> Result<(SqliteConnection, Table), PortError> {
        let table = Table::resolve(&mut connection, &self.mapping).await?;
        Ok((connection, table))
    }
}

#[async_trait]
impl KnowledgeStore for SqliteStore {
    async fn describe(&self) -> Result<Description, PortError> {
        let (mut connection, table) = self.reading().await?;
        keys_can_serve(&mut connection, &table).await?;
        let dependents = dependents::find(&mut connection, &table).await?;
        let fence = fence::read(&mut connection, &table).await?;
        close(connection).await;
        Ok(Description {
            resource: table.name.clone(),
            plane_column: table.plane_column().map(str::to_owned),
            plane_value: table.plane.as_ref().map(|plane| plane.text.clone()),
            unfenced: unfenced(&table, &dependents),
            dependents: dependents.all,
            fence: fence.and_then(|row| row.stands(self.plane_id)),
        })
    }

    async fn columns(&self) -> Result<Vec<Column>, PortError> {
        let (mut connection, table) = self.reading().await?;
        let columns = kinds::kinds(&mut connection, &table).await?;
        close(connection).await;
        Ok(columns)
    }

    async fn count(&self) -> Result<u64, PortError> {
        let (mut connection, table) = self.reading().await?;
        let count = read::count(&mut connection, &table).await?;
        close(connection).await;
        Ok(count)
    }

    async fn page(&self, after: Option<&Key>, limit: PageLimit) -> Result<Vec<Record>, PortError> {
        let (mut connection, table) = self.reading().await?;
        let page = read::page(&mut connection, &table, after, limit).await?;
        close(connection).await;
        Ok(page)
    }

    async fn fence(&self, mode: FenceMode, epoch: i64) -> Result<FenceReport, PortError> {
        let (mut connection, table) = self.writing().await?;
        let mode = fence::fence(&mut connection, &table, self.plane_id, mode, epoch).await?;
        let dependents = dependents::find(&mut connection, &table).await?;
        close(connection).await;
        Ok(FenceReport { mode, unfenced: unfenced(&table, &dependents) })
    }

    async fn unfence(&self, epoch: i64) -> Result<(), PortError> {
        let (mut connection, table) = self.writing().await?;
        fence::open_to(&mut connection, &table, self.plane_id, None, epoch).await?;
        close(connection).await;
        Ok(())
    }

    async fn refence(&self, mode: FenceMode, epoch: i64) -> Result<(), PortError> {
        let (mut connection, table) = self.writing().await?;
        fence::open_to(&mut connection, &table, self.plane_id, Some(mode), epoch).await?;
        close(connection).await;
        Ok(())
    }

    async fn erase(&self, permit: &Permit, rows: &[(Key, RecordDigest)], salt: Option<&Salt>) -> Result<Erased, PortError> {
        covered(permit, self.plane_id)?;
        let (mut connection, table) = self.writing().await?;
        let erased = erase::erase(&mut connection, &table, permit, rows, salt).await?;
        close(connection).await;
        Ok(erased)
    }

    async fn scrub(&self, permit: &Permit) -> Result<Json, PortError> {
        covered(permit, self.plane_id)?;
        let (mut connection, table) = self.resolved(self.file.rewriting().await?).await?;
        let dependents = dependents::find(&mut connection, &table).await?;
        let scrubbed = scrub::scrub(&mut connection, &dependents).await?;
        close(connection).await;
        Ok(scrubbed)
    }

    async fn prove_empty(&self, samples: &[Record]) -> Result<EmptinessProof, PortError> {
        let (mut connection, table) = self.reading().await?;
        let proof = proof::prove_empty(&mut connection, &table, self.plane_id, samples).await?;
        close(connection).await;
        Ok(proof)
    }

    async fn look_again(&self, known: &[Known], salt: &Salt) -> Result<Recurrence, PortError> {
        let (mut connection, table) = self.reading().await?;
        let seen = proof::look_again(&mut connection, &table, self.plane_id, known, salt).await?;
        close(connection).await;
        Ok(seen)
    }
}

/// Refuses a plane with records whose keys cannot name them, before anything rests on those keys.
async fn keys_can_serve(connection: &mut SqliteConnection, table: &Table) -> Result<(), PortError> {
    let key = table.quoted_key();
    let mut counts = format!("count(*) FILTER (WHERE {key} IS NULL), count(*) FILTER (WHERE typeof({key}) = 'real')");
    // A column that keeps 5 and '5' apart has two planes of that name, and a key unique within each is not unique within both.
    match &table.plane {
        Some(plane) if table.columns[plane.column].affinity == Affinity::None && !table.key_is_global => {
            counts += &format!(", count(DISTINCT typeof({}))", name(&table.columns[plane.column].name));
        }
        _ => counts += ", 0",
    }
    let query = Sql::new(format!("SELECT {counts} FROM {} WHERE ", table.quoted())).sql(table.scope()).query();
    let row = query.fetch_one(connection).await.map_err(failed(format!("look at the keys of table {}", table.name)))?;
    let (nulls, reals, classes): (i64, i64, i64) = (row.get(0), row.get(1), row.get(2));
    let refused = |why: String| Err(PortError::Permanent(format!("look at the keys of table {}: {why}", table.name)));
    match (nulls, reals, classes) {
        (1.., _, _) => refused(format!("{nulls} record(s) of the plane have a null {key}, which names nothing")),
        (_, 1.., _) => {
            refused(format!("{reals} record(s) of the plane have a floating-point {key}, which names nothing exactly"))
        }
        (_, _, 2..) => refused("the plane's value stands there both as a number and as text; rewrite one of them".into()),
        _ => Ok(()),
    }
}
