-- What keeps a ledger from destroying under a clock that jumped, or after it was restored from a backup.
CREATE TABLE witness (
    only INTEGER PRIMARY KEY CHECK (only = 1),   -- one row
    era INTEGER NOT NULL,                        -- raised by each reconcile; with the trail's place, orders this ledger's past
    behind_since INTEGER,                        -- when a mark outside was found to be ahead; NULL: not, or reconciled
    clock_at INTEGER,                            -- the clock's instant when it was last observed
    clock_boot TEXT,                             -- which run of the machine that was
    clock_elapsed INTEGER,                       -- microseconds that run had lasted then
    clock_suspect_since INTEGER                  -- when a jump was noticed; NULL: not, or confirmed
) STRICT;
INSERT INTO witness (only, era) VALUES (1, 0);

CREATE TABLE archive_roots (
    url TEXT PRIMARY KEY,                        -- an archive that planes of this ledger use or used
    archive_id TEXT NOT NULL                     -- its canary
) STRICT;
