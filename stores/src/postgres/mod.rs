//! Knowledge stores in PostgreSQL, with or without pgvector: any database, with any number of tenants' planes in any ordinary or
//! partitioned table.
//!
//! The rule: every verb has transactions of its own, and reads the catalogue anew, because the database is somebody else's. A binding's
//! verbs take one connection in turn; only the proof of emptiness opens one for itself.
//! If we die in a verb, the server rolls its transaction back, and the verb is done or not done.

mod check;
mod columns;
mod connect;
mod dependents;
mod erase;
mod fence;
mod guard;
mod partition;
mod proof;
mod read;
mod schema;
mod scrub;
mod sql;
mod unique;
mod url;
mod whole;

use async_trait::async_trait;
use lethe_stages::{
    Permit,
    lifecycle::FenceMode,
    ports::{Description, EmptinessProof, Erased, FenceReport, KnowledgeStore, PageLimit, PortError, Recurrence},
    record::{Column, Key, Known, Record, RecordDigest, Salt},
};
use serde_json::Value as Json;
use sqlx::{Row, postgres::PgConnection};
use uuid::Uuid;

pub(crate) use self::{
    check::check,
    url::{Server, is_postgres},
};
use self::{
    connect::{Kept, READING, begin, close, connect, failed},
    schema::Table,
    sql::Sql,
};
use crate::{Mapping, verdict::covered};

/// A plane's records in one table of a database.
pub(crate) struct PostgresStore {
    server: Server,
    mapping: Mapping,
    plane_id: Uuid,
    kept: Kept,
}

impl PostgresStore {
    /// Binds the plane. Nothing is opened.
    pub(crate) fn new(server: Server, mapping: Mapping, plane_id: Uuid) -> Self {
        Self { server, mapping, plane_id, kept: Kept::default() }
    }

    /// Does `work` in one transaction that only reads.
    async fn reading<T>(
        &self,
        work: impl AsyncFnOnce(&mut PgConnection, &Table) -> Result<T, PortError>,
    ) -> Result<T, PortError> {
        let mut connection = self.kept.take(&self.server).await?;
        let done = self.reading_over(&mut connection, work).await?;
        self.kept.give_back(connection).await;
        Ok(done)
    }

    async fn reading_over<T>(
        &self,
        connection: &mut PgConnection,
        work: impl AsyncFnOnce(&mut PgConnection, &Table) -> Result<T, PortError>,
    ) -> Result<T, PortError> {
        let mut tx = begin(connection, READING).await?;
        let table = Table::resolve(&mut tx, &self.mapping).await?;
        work(&mut tx, &table).await
    }

    /// A connection for transactions of its own, and the table as it is now.
    async fn writing(&self) -> Result<(PgConnection, Table), PortError> {
        let mut connection = self.kept.take(&self.server).await?;
        let mut tx = begin(&mut connection, READING).await?;
        let table = Table::resolve(&mut tx, &self.mapping).await?;
        tx.rollback().await.map_err(failed("end a transaction"))?;
        Ok((connection, table))
    }
}

#[async_trait]
impl KnowledgeStore for PostgresStore {
    async fn describe(&self) -> Result<Description, PortError> {
        self.reading(async |tx, table| {
            keys_can_serve(tx, table).await?;
            Ok(Description {
                resource: table.resource(),
                plane_column: table.plane_column().map(str::to_owned),
                plane_value: table.plane.as_ref().map(|plane| plane.text.clone()),
                unfenced: guard::unfenced(tx, table).await?,
                dependents: dependents::find(tx, table).await?,
                fence: fence::read(tx, table).await?.and_then(|row| row.stands(self.plane_id)),
            })
        })
        .await
    }

    async fn columns(&self) -> Result<Vec<Column>, PortError> {
        self.reading(async |tx, table| read::kinds(tx, table).await).await
    }

    async fn count(&self) -> Result<u64, PortError> {
        self.reading(async |tx, table| read::count(tx, table).await).await
    }

    async fn page(&self, after: Option<&Key>, limit: PageLimit) -> Result<Vec<Record>, PortError> {
        self.reading(async |tx, table| read::page(tx, table, after, limit).await).await
    }

    async fn fence(&self, mode: FenceMode, epoch: i64) -> Result<FenceReport, PortError> {
        let (mut connection, table) = self.writing().await?;
        let mode = fence::fence(&mut connection, &table, self.plane_id, mode, epoch).await?;
        let unfenced = guard::unfenced(&mut connection, &table).await?;
        self.kept.give_back(connection).await;
        Ok(FenceReport { mode, unfenced })
    }

    async fn unfence(&self, epoch: i64) -> Result<(), PortError> {
        let (mut connection, table) = self.writing().await?;
        fence::open_to(&mut connection, &table, self.plane_id, None, epoch).await?;
        self.kept.give_back(connection).await;
        Ok(())
    }

    async fn refence(&self, mode: FenceMode, epoch: i64) -> Result<(), PortError> {
        let (mut connection, table) = self.writing().await?;
        fence::open_to(&mut connection, &table, self.plane_id, Some(mode), epoch).await?;
        self.kept.give_back(connection).await;
        Ok(())
    }

    async fn erase(&self, permit: &Permit, rows: &[(Key, RecordDigest)], salt: Option<&Salt>) -> Result<Erased, PortError> {
        covered(permit, self.plane_id)?;
        let (mut connection, table) = self.writing().await?;
        let erased = erase::erase(&mut connection, &table, permit, rows, salt).await?;
        self.kept.give_back(connection).await;
        Ok(erased)
    }

    async fn state(&self) -> Result<Option<String>, PortError> {
        self.reading(async |tx, table| whole::state(tx, table).await).await
    }

    async fn erase_whole(&self, permit: &Permit, state: &str) -> Result<Option<u64>, PortError> {
        covered(permit, self.plane_id)?;
        let (mut connection, table) = self.writing().await?;
        let erased = whole::erase(&mut connection, &table, permit, state).await?;
        self.kept.give_back(connection).await;
        Ok(erased)
    }

    async fn scrub(&self, permit: &Permit) -> Result<Json, PortError> {
        covered(permit, self.plane_id)?;
        let (mut connection, table) = self.writing().await?;
        let scrubbed = scrub::scrub(&self.server, &mut connection, &table, permit).await?;
        self.kept.give_back(connection).await;
        Ok(scrubbed)
    }

    async fn prove_empty(&self, samples: &[Record]) -> Result<EmptinessProof, PortError> {
        let mut connection = connect(&self.server).await?;
        let prove = async |tx: &mut PgConnection, table: &Table| proof::prove_empty(tx, table, self.plane_id, samples).await;
        let proof = self.reading_over(&mut connection, prove).await?;
        close(connection).await;
        Ok(proof)
    }

    async fn look_again(&self, known: &[Known], salt: &Salt) -> Result<Recurrence, PortError> {
        let mut connection = connect(&self.server).await?;
        let look = async |tx: &mut PgConnection, table: &Table| proof::look_again(tx, table, self.plane_id, known, salt).await;
        let seen = self.reading_over(&mut connection, look).await?;
        close(connection).await;
        Ok(seen)
    }
}

/// Refuses a plane with records whose keys cannot name them, before anything rests on those keys.
async fn keys_can_serve(tx: &mut PgConnection, table: &Table) -> Result<(), PortError> {
    let doing = format!("look at the keys of table {}", table.resource());
    let key = table.quoted_key();
    let query = table.scope(Sql::new(format!("SELECT count(*) FROM {} WHERE {key} IS NULL AND ", table.quoted()))).query();
    let nulls: i64 = query.fetch_one(tx).await.map_err(failed(doing.clone()))?.get(0);
    if nulls > 0 {
        return Err(PortError::Permanent(format!(
            "{doing}: {nulls} record(s) of the plane have a null {key}, which names nothing"
        )));
    }
    Ok(())
}
