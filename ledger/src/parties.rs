//! Tenants, who own planes, and stores, where planes can live.

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::sqlite::SqliteRow;
use uuid::Uuid;

use crate::{
    db::Tx,
    fault::Fault,
    rows::{Cells, one, us},
};

lethe_stages::text_enum! {
    /// Whether a tenant is in business. Anything that cannot be read as one of these is refused, never taken for active.
    TenantStatus {
        /// Everything is allowed.
        Active = "active",
        /// Reads only.
        Suspended = "suspended",
        /// Nothing but leaving.
        Terminated = "terminated",
        /// Gone.
        Archived = "archived",
    }
}

/// A tenant.
#[derive(Debug, Clone, Serialize)]
pub struct Tenant {
    /// Its identity.
    #[serde(rename = "tenant_id")]
    pub id: Uuid,
    /// Its name.
    pub name: String,
    /// Its status.
    pub status: TenantStatus,
    /// When it was registered.
    pub created_at: DateTime<Utc>,
}

/// A registered store.
#[derive(Debug, Clone, Serialize)]
pub struct Store {
    /// Its identity.
    #[serde(rename = "store_id")]
    pub id: Uuid,
    /// Its name.
    pub name: String,
    /// Its canonical URL, without credentials.
    pub url: String,
    /// Its driver.
    pub kind: String,
    /// How long its backups live, as declared.
    pub backup_retention: Option<String>,
    /// When it was last checked with success.
    pub checked_at: DateTime<Utc>,
    /// The tenants whose planes may bind it, by name.
    pub tenants: Vec<String>,
}

/// A store to register, checked already.
#[derive(Debug, Clone)]
pub struct NewStore {
    /// Its name.
    pub name: String,
    /// Its canonical URL.
    pub url: String,
    /// Its driver.
    pub kind: String,
    /// What the driver recognises it by.
    pub identity: String,
    /// How long its backups live, as declared.
    pub backup_retention: Option<String>,
}

fn tenant(row: &SqliteRow) -> Result<Tenant, Fault> {
    let cells = Cells::new(row, "tenants", "id");
    Ok(Tenant {
        id: cells.parsed("id")?,
        name: cells.get("name")?,
        status: cells.parsed("status")?,
        created_at: cells.at("created_at")?,
    })
}

fn store(row: &SqliteRow) -> Result<Store, Fault> {
    let cells = Cells::new(row, "stores", "id");
    Ok(Store {
        id: cells.parsed("id")?,
        name: cells.get("name")?,
        url: cells.get("url")?,
        kind: cells.get("kind")?,
        backup_retention: cells.get("backup_retention")?,
        checked_at: cells.at("checked_at")?,
        tenants: cells.json("tenants")?.unwrap_or_default(),
    })
}

impl Tx {
    /// Registers an active tenant and answers it.
    pub async fn insert_tenant(&mut self, name: &str) -> Result<Tenant, Fault> {
        let tenant = Tenant { id: self.new_id(), name: name.to_owned(), status: TenantStatus::Active, created_at: self.at() };
        let done = sqlx::query("INSERT INTO tenants (id, name, status, created_at) VALUES (?, ?, ?, ?)")
            .bind(tenant.id.to_string())
            .bind(name)
            .bind(tenant.status.as_str())
            .bind(us(tenant.created_at))
            .execute(self.connection())
            .await;
        one("register a tenant", done.map_err(Fault::database("register a tenant"))?)?;
        Ok(tenant)
    }

    /// The tenant of this name or id.
    pub async fn tenant(&mut self, name_or_id: &str) -> Result<Option<Tenant>, Fault> {
        let row = sqlx::query("SELECT * FROM tenants WHERE name = ?1 OR id = ?1 ORDER BY name = ?1 DESC LIMIT 1")
            .bind(name_or_id)
            .fetch_optional(self.connection())
            .await
            .map_err(Fault::database("read a tenant"))?;
        row.as_ref().map(tenant).transpose()
    }

    /// All tenants, by name.
    pub async fn tenants(&mut self) -> Result<Vec<Tenant>, Fault> {
        let rows = sqlx::query("SELECT * FROM tenants ORDER BY name")
            .fetch_all(self.connection())
            .await
            .map_err(Fault::database("list tenants"))?;
        rows.iter().map(tenant).collect()
    }

    /// Changes a tenant's status. Every run of its planes that waits for that is looked at again.
    pub async fn set_tenant_status(&mut self, id: Uuid, status: TenantStatus) -> Result<(), Fault> {
        let done = sqlx::query("UPDATE tenants SET status = ? WHERE id = ?")
            .bind(status.as_str())
            .bind(id.to_string())
            .execute(self.connection())
            .await;
        one("set a tenant's status", done.map_err(Fault::database("set a tenant's status"))?)
    }

    /// Registers a store and answers its id.
    pub async fn insert_store(&mut self, new: &NewStore) -> Result<Uuid, Fault> {
        let id = self.new_id();
        let at = us(self.at());
        let done = sqlx::query(
            "INSERT INTO stores (id, name, url, kind, identity, backup_retention, checked_at, created_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        )
        .bind(id.to_string())
        .bind(&new.name)
        .bind(&new.url)
        .bind(&new.kind)
        .bind(&new.identity)
        .bind(&new.backup_retention)
        .bind(at)
        .bind(at)
        .execute(self.connection())
        .await;
        one("register a store", done.map_err(Fault::database("register a store"))?)?;
        Ok(id)
    }

    /// Notes that a store was checked with success.
    pub async fn store_checked(&mut self, id: Uuid) -> Result<(), Fault> {
        let at = us(self.at());
        let done = sqlx::query("UPDATE stores SET checked_at = ? WHERE id = ?").bind(at).bind(id.to_string());
        one("note a store's check", done.execute(self.connection()).await.map_err(Fault::database("note a store's check"))?)
    }

    /// Lets a tenant's planes bind a store; again is no error.
    pub async fn open_store_to(&mut self, store: Uuid, tenant: Uuid) -> Result<(), Fault> {
        sqlx::query("INSERT INTO store_scopes (store_id, tenant_id) VALUES (?, ?) ON CONFLICT DO NOTHING")
            .bind(store.to_string())
            .bind(tenant.to_string())
            .execute(self.connection())
            .await
            .map_err(Fault::database("open a store to a tenant"))?;
        Ok(())
    }

    /// The store of this name, URL or identity.
    pub async fn store(&mut self, key: &str) -> Result<Option<Store>, Fault> {
        let stores = self.select_stores(Some(key)).await?;
        Ok(stores.into_iter().next())
    }

    /// All stores, by name.
    pub async fn stores(&mut self) -> Result<Vec<Store>, Fault> {
        self.select_stores(None).await
    }

    async fn select_stores(&mut self, key: Option<&str>) -> Result<Vec<Store>, Fault> {
        let rows = sqlx::query(
            "SELECT s.*, (SELECT json_group_array(name) FROM (SELECT t.name FROM store_scopes c JOIN tenants t ON t.id = c.tenant_id
                WHERE c.store_id = s.id ORDER BY t.name)) AS tenants
             FROM stores s WHERE ?1 IS NULL OR s.name = ?1 OR s.url = ?1 OR s.identity = ?1 OR s.id = ?1 ORDER BY s.name",
        )
        .bind(key)
        .fetch_all(self.connection())
        .await
        .map_err(Fault::database("read stores"))?;
        rows.iter().map(store).collect()
    }
}
