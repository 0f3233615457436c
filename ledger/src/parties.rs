//! Tenants, who own planes, and stores, where planes can live.

use chrono::{DateTime, Utc};
use serde::Serialize;
use uuid::Uuid;

use crate::{
    db::Tx,
    fault::Fault,
    rows::Cells,
    sql::{Row, statements},
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
    /// Until when none of its planes is purged; only ever later.
    pub protected_until: Option<DateTime<Utc>>,
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
    /// What the driver recognises it by. Not shown: a check shows what is found now.
    #[serde(skip)]
    pub identity: String,
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

fn tenant(row: &Row) -> Result<Tenant, Fault> {
    let cells = Cells::new(row, "tenants", "id");
    Ok(Tenant {
        id: cells.id("id")?,
        name: cells.get("name")?,
        status: cells.parsed("status")?,
        protected_until: cells.maybe_at("protected_until")?,
        created_at: cells.at("created_at")?,
    })
}

fn store(row: &Row) -> Result<Store, Fault> {
    let cells = Cells::new(row, "stores", "id");
    Ok(Store {
        id: cells.id("id")?,
        name: cells.get("name")?,
        url: cells.get("url")?,
        kind: cells.get("kind")?,
        identity: cells.get("identity")?,
        backup_retention: cells.get("backup_retention")?,
        checked_at: cells.at("checked_at")?,
        tenants: cells.json("tenants")?.unwrap_or_default(),
    })
}

macro_rules! select_stores {
    ($names:literal, $is_id:literal) => {
        concat!(
            "SELECT s.*, (SELECT ",
            $names,
            " FROM store_scopes c JOIN tenants t ON t.id = c.tenant_id WHERE c.store_id = s.id) AS tenants
             FROM stores s WHERE $1",
            $is_id,
            " IS NULL OR s.name = $1 OR s.url = $1 OR s.identity = $1 OR s.id",
            $is_id,
            " = $1 ORDER BY s.name"
        )
    };
}

statements! {
    REGISTER_TENANT = "register a tenant", "INSERT INTO tenants (id, name, status, created_at) VALUES ($1, $2, $3, $4)";
    TENANT = "read a tenant",
        "SELECT * FROM tenants WHERE name = $1";
    TENANT_BY_ID = "read a tenant", "SELECT * FROM tenants WHERE id = $1";
    TENANTS = "list tenants", "SELECT * FROM tenants ORDER BY name";
    PROTECT = "protect a tenant", "UPDATE tenants SET protected_until = $2 WHERE id = $1";
    SET_STATUS = "set a tenant's status", "UPDATE tenants SET status = $2 WHERE id = $1";
    REGISTER_STORE = "register a store",
        "INSERT INTO stores (id, name, url, kind, identity, backup_retention, checked_at, created_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)";
    CHECKED = "note a store's check", "UPDATE stores SET checked_at = $2 WHERE id = $1";
    OPEN_TO = "open a store to a tenant", "INSERT INTO store_scopes (store_id, tenant_id) VALUES ($1, $2) ON CONFLICT DO NOTHING";
    STORES = "read stores",
        select_stores!("json_group_array(t.name ORDER BY t.name)", ""),
        select_stores!("coalesce(jsonb_agg(t.name ORDER BY t.name), '[]')", "::text");
}

impl Tx {
    /// Registers an active tenant and answers it.
    pub async fn insert_tenant(&mut self, name: &str) -> Result<Tenant, Fault> {
        let tenant = Tenant {
            id: self.new_id(),
            name: name.to_owned(),
            status: TenantStatus::Active,
            protected_until: None,
            created_at: self.at(),
        };
        let register = self.sql(&REGISTER_TENANT).bind(tenant.id).bind(name).bind(tenant.status.as_str());
        register.bind(tenant.created_at).one().await?;
        Ok(tenant)
    }

    /// The tenant of this name or id.
    pub async fn tenant(&mut self, name_or_id: &str) -> Result<Option<Tenant>, Fault> {
        let row = match name_or_id.parse::<Uuid>() {
            // No tenant is registered under a name that looks like an id.
            Ok(id) => self.sql(&TENANT_BY_ID).bind(id).optional().await?,
            Err(_) => self.sql(&TENANT).bind(name_or_id).optional().await?,
        };
        row.as_ref().map(tenant).transpose()
    }

    /// All tenants, by name.
    pub async fn tenants(&mut self) -> Result<Vec<Tenant>, Fault> {
        self.sql(&TENANTS).all().await?.iter().map(tenant).collect()
    }

    /// Changes a tenant's status. Every run of its planes that waits for that is looked at again.
    pub async fn set_tenant_status(&mut self, id: Uuid, status: TenantStatus) -> Result<(), Fault> {
        self.sql(&SET_STATUS).bind(id).bind(status.as_str()).one().await
    }

    /// Protects a tenant's planes from being purged until an instant, which is never moved back.
    pub async fn protect_tenant(&mut self, id: Uuid, until: DateTime<Utc>) -> Result<(), Fault> {
        self.sql(&PROTECT).bind(id).bind(until).one().await
    }

    /// Registers a store and answers its id.
    pub async fn insert_store(&mut self, new: &NewStore) -> Result<Uuid, Fault> {
        let id = self.new_id();
        let at = self.at();
        let register = self.sql(&REGISTER_STORE).bind(id).bind(&new.name).bind(&new.url).bind(&new.kind).bind(&new.identity);
        register.bind(new.backup_retention.clone()).bind(at).bind(at).one().await?;
        Ok(id)
    }

    /// Notes that a store was checked with success.
    pub async fn store_checked(&mut self, id: Uuid) -> Result<(), Fault> {
        let at = self.at();
        self.sql(&CHECKED).bind(id).bind(at).one().await
    }

    /// Lets a tenant's planes bind a store; again is no error.
    pub async fn open_store_to(&mut self, store: Uuid, tenant: Uuid) -> Result<(), Fault> {
        self.sql(&OPEN_TO).bind(store).bind(tenant).run().await?;
        Ok(())
    }

    /// The store of this name, URL or identity.
    pub async fn store(&mut self, key: &str) -> Result<Option<Store>, Fault> {
        Ok(self.select_stores(Some(key)).await?.into_iter().next())
    }

    /// All stores, by name.
    pub async fn stores(&mut self) -> Result<Vec<Store>, Fault> {
        self.select_stores(None).await
    }

    async fn select_stores(&mut self, key: Option<&str>) -> Result<Vec<Store>, Fault> {
        self.sql(&STORES).bind(key).all().await?.iter().map(store).collect()
    }
}
