-- What keeps a ledger from destroying under a clock that jumped, or after it was restored from a backup.
CREATE TABLE witness (
    "only" bigint PRIMARY KEY CHECK ("only" = 1), -- one row
    era bigint NOT NULL,                         -- raised by each reconcile; with the number of entries, orders this ledger's past
    behind_since timestamptz,                    -- when a mark outside was found to be ahead; NULL: not, or reconciled
    clock_suspect_since timestamptz              -- when a jump was noticed; NULL: not, or confirmed
);
INSERT INTO witness ("only", era) VALUES (1, 0);

-- The server's clock as each machine saw it last, beside the time since that machine's boot.
CREATE TABLE clock_seen (
    boot text PRIMARY KEY,                       -- which run of which machine
    at timestamptz NOT NULL,                     -- the server's instant
    elapsed bigint NOT NULL                      -- microseconds that run had lasted then
);

CREATE TABLE archive_roots (
    url text PRIMARY KEY,                        -- an archive that planes of this ledger use or used
    archive_id uuid NOT NULL                     -- its canary
);
