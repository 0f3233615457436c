-- Planes, what each is bound to, and the moves its state can make.
CREATE TABLE legal_transitions (
    from_state TEXT NOT NULL,                    -- the state left
    to_state TEXT NOT NULL,                      -- the state entered
    cause TEXT NOT NULL,                         -- the step that moves it, or cancel
    PRIMARY KEY (from_state, to_state, cause)
) STRICT;
INSERT INTO legal_transitions VALUES
    ('ACTIVE', 'PENDING_DEACTIVATE', 'deregister'),
    ('PENDING_DEACTIVATE', 'ACTIVE', 'cancel'),
    ('PENDING_DEACTIVATE', 'DEACTIVATED', 'deactivate'),
    ('DEACTIVATED', 'ARCHIVED', 'evict'),
    ('DEACTIVATED', 'ARCHIVED', 'export'),
    ('ARCHIVED', 'PURGED', 'purge');

CREATE TABLE planes (
    id TEXT PRIMARY KEY,                         -- never chosen by the caller
    tenant_id TEXT NOT NULL REFERENCES tenants (id), -- its owner
    name TEXT,                                   -- how people call it; NULL once purged
    name_salt BLOB,                              -- with name_tag, finds a purged plane for who still knows its name
    name_tag TEXT,                               -- SHA-256 of salt and name, from the purge on
    state TEXT NOT NULL CHECK (state IN ('ACTIVE', 'PENDING_DEACTIVATE', 'DEACTIVATED', 'ARCHIVED', 'PURGED')), -- the one true state
    epoch INTEGER NOT NULL,                      -- raised by every claim, cancel and hold; an older one is refused everywhere
    draining INTEGER NOT NULL CHECK (draining IN (0, 1)), -- 1: no new runs are let in
    archive_url TEXT,                            -- where its archive goes, without its own prefix; NULL once purged
    archive_id TEXT,                             -- the canary of that archive
    usage_reported INTEGER NOT NULL CHECK (usage_reported IN (0, 1)), -- 1: its users report runs and queries
    created_at INTEGER NOT NULL,                 -- when it was registered
    purged_at INTEGER,                           -- when it became a tombstone
    UNIQUE (tenant_id, name),
    CHECK ((state = 'PURGED') = (purged_at IS NOT NULL)),
    CHECK (state = 'PURGED' OR (name IS NOT NULL AND archive_url IS NOT NULL))
) STRICT;

CREATE TRIGGER planes_move_legally BEFORE UPDATE OF state ON planes
WHEN OLD.state <> NEW.state AND NOT EXISTS (
    SELECT 1 FROM legal_transitions WHERE from_state = OLD.state AND to_state = NEW.state)
BEGIN SELECT RAISE(ABORT, 'planes.state: the lifecycle has no such move'); END;

CREATE TRIGGER planes_epoch_rises BEFORE UPDATE OF epoch ON planes WHEN NEW.epoch < OLD.epoch
BEGIN SELECT RAISE(ABORT, 'planes.epoch: it only rises'); END;

CREATE TABLE bindings (
    plane_id TEXT NOT NULL REFERENCES planes (id), -- the plane; it owns the scope for ever
    position INTEGER NOT NULL,                   -- its place among the plane's bindings, from 0
    store_id TEXT NOT NULL REFERENCES stores (id), -- where the records are
    resource TEXT NOT NULL,                      -- table or collection, in the store's spelling
    plane_column TEXT NOT NULL,                  -- the column that tells planes apart; '' where the plane owns the whole resource
    value_digest TEXT NOT NULL,                  -- SHA-256 of the plane's canonical value in it
    mapping TEXT,                                -- JSON: table, columns, value; NULL once purged
    PRIMARY KEY (plane_id, position),
    UNIQUE (store_id, resource, plane_column, value_digest)
) STRICT;

-- Two planes may share a resource only where the same column tells them apart.
CREATE TRIGGER bindings_do_not_overlap BEFORE INSERT ON bindings
WHEN EXISTS (
    SELECT 1 FROM bindings WHERE store_id = NEW.store_id AND resource = NEW.resource
        AND (plane_column <> NEW.plane_column OR plane_column = ''))
BEGIN SELECT RAISE(ABORT, 'bindings: the scope overlaps another'); END;

CREATE TRIGGER bindings_are_for_ever BEFORE DELETE ON bindings
BEGIN SELECT RAISE(ABORT, 'bindings: a scope is never given back'); END;
