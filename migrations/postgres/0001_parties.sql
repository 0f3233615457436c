-- Who owns planes and where planes can live.
CREATE TABLE ledger (
    "only" bigint PRIMARY KEY CHECK ("only" = 1), -- one row
    id uuid NOT NULL,                            -- this ledger's identity
    created_at timestamptz NOT NULL,             -- when `migrate` made it
    insecure_demo boolean NOT NULL               -- true: approvals by self-declared actors release purges
);

CREATE TABLE tenants (
    id uuid PRIMARY KEY,                         -- never chosen by the caller
    name text NOT NULL UNIQUE,                   -- how people call it
    status text NOT NULL CHECK (status IN ('active', 'suspended', 'terminated', 'archived')), -- the one true status
    created_at timestamptz NOT NULL              -- when it was registered
);

CREATE TABLE stores (
    id uuid PRIMARY KEY,                         -- never chosen by the caller
    name text NOT NULL UNIQUE,                   -- how bindings call it
    url text NOT NULL UNIQUE,                    -- canonical and absolute, without credentials
    kind text NOT NULL,                          -- which driver speaks to it
    identity text NOT NULL UNIQUE,               -- what the driver recognises the same store by under another URL
    backup_retention text,                       -- how long its backups live, as declared; NULL: undeclared
    checked_at timestamptz NOT NULL,             -- when `store check` last succeeded
    created_at timestamptz NOT NULL              -- when an operator registered it
);

CREATE TABLE store_scopes (
    store_id uuid NOT NULL REFERENCES stores (id),   -- the store
    tenant_id uuid NOT NULL REFERENCES tenants (id), -- a tenant whose planes may bind it
    PRIMARY KEY (store_id, tenant_id)
);
