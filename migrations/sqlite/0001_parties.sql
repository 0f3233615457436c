-- Who owns planes and where planes can live.
CREATE TABLE ledger (
    only INTEGER PRIMARY KEY CHECK (only = 1),   -- one row
    id TEXT NOT NULL,                            -- this ledger's identity
    created_at INTEGER NOT NULL,                 -- when `migrate` made it
    insecure_demo INTEGER NOT NULL CHECK (insecure_demo IN (0, 1)) -- 1: approvals by self-declared actors release purges
) STRICT;

CREATE TABLE tenants (
    id TEXT PRIMARY KEY,                         -- never chosen by the caller
    name TEXT NOT NULL UNIQUE,                   -- how people call it
    status TEXT NOT NULL CHECK (status IN ('active', 'suspended', 'terminated', 'archived')), -- the one true status
    created_at INTEGER NOT NULL                  -- when it was registered
) STRICT;

CREATE TABLE stores (
    id TEXT PRIMARY KEY,                         -- never chosen by the caller
    name TEXT NOT NULL UNIQUE,                   -- how bindings call it
    url TEXT NOT NULL UNIQUE,                    -- canonical and absolute, without credentials
    kind TEXT NOT NULL,                          -- which driver speaks to it
    identity TEXT NOT NULL UNIQUE,               -- what the driver recognises the same store by under another URL
    backup_retention TEXT,                       -- how long its backups live, as declared; NULL: undeclared
    checked_at INTEGER NOT NULL,                 -- when `store check` last succeeded
    created_at INTEGER NOT NULL                  -- when an operator registered it
) STRICT;

CREATE TABLE store_scopes (
    store_id TEXT NOT NULL REFERENCES stores (id),   -- the store
    tenant_id TEXT NOT NULL REFERENCES tenants (id), -- a tenant whose planes may bind it
    PRIMARY KEY (store_id, tenant_id)
) STRICT;
