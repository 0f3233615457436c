-- Planes, what each is bound to, and the moves its state can make.
CREATE TABLE legal_transitions (
    from_state text NOT NULL,                    -- the state left
    to_state text NOT NULL,                      -- the state entered
    cause text NOT NULL,                         -- the step that moves it, or cancel
    PRIMARY KEY (from_state, to_state, cause)
);
INSERT INTO legal_transitions VALUES
    ('ACTIVE', 'PENDING_DEACTIVATE', 'deregister'),
    ('PENDING_DEACTIVATE', 'ACTIVE', 'cancel'),
    ('PENDING_DEACTIVATE', 'DEACTIVATED', 'deactivate'),
    ('DEACTIVATED', 'ARCHIVED', 'evict'),
    ('DEACTIVATED', 'ARCHIVED', 'export'),
    ('ARCHIVED', 'PURGED', 'purge');

CREATE TABLE planes (
    id uuid PRIMARY KEY,                         -- never chosen by the caller
    tenant_id uuid NOT NULL REFERENCES tenants (id), -- its owner
    name text,                                   -- how people call it; NULL once purged
    name_salt bytea,                             -- with name_tag, finds a purged plane for who still knows its name
    name_tag text,                               -- SHA-256 of salt and name, from the purge on
    state text NOT NULL CHECK (state IN ('ACTIVE', 'PENDING_DEACTIVATE', 'DEACTIVATED', 'ARCHIVED', 'PURGED')), -- the one true state
    epoch bigint NOT NULL,                       -- raised by every claim, cancel and hold; an older one is refused everywhere
    draining boolean NOT NULL,                   -- true: no new runs are let in
    archive_url text,                            -- where its archive goes, without its own prefix; NULL once purged
    archive_id uuid,                             -- the canary of that archive
    usage_reported boolean NOT NULL,             -- true: its users report runs and queries
    created_at timestamptz NOT NULL,             -- when it was registered
    purged_at timestamptz,                       -- when it became a tombstone
    UNIQUE (tenant_id, name),
    CHECK ((state = 'PURGED') = (purged_at IS NOT NULL)),
    CHECK (state = 'PURGED' OR (name IS NOT NULL AND archive_url IS NOT NULL))
)
-- Each claim and each move writes its row anew: room for that on the same page keeps the indexes as they are.
WITH (fillfactor = 70);

-- Refuses what a trigger finds; the message is the trigger's argument.
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '%', TG_ARGV[0] USING ERRCODE = 'integrity_constraint_violation';
END $$;

CREATE FUNCTION planes_move_legally() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (SELECT 1 FROM legal_transitions WHERE from_state = OLD.state AND to_state = NEW.state) THEN
        RAISE EXCEPTION 'planes.state: the lifecycle has no such move' USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER planes_move_legally BEFORE UPDATE OF state ON planes FOR EACH ROW WHEN (OLD.state <> NEW.state)
EXECUTE FUNCTION planes_move_legally();

CREATE TRIGGER planes_epoch_rises BEFORE UPDATE OF epoch ON planes FOR EACH ROW WHEN (NEW.epoch < OLD.epoch)
EXECUTE FUNCTION refuse('planes.epoch: it only rises');

CREATE TABLE bindings (
    plane_id uuid NOT NULL REFERENCES planes (id), -- the plane; it owns the scope for ever
    position bigint NOT NULL,                    -- its place among the plane's bindings, from 0
    store_id uuid NOT NULL REFERENCES stores (id), -- where the records are
    resource text NOT NULL,                      -- table or collection, in the store's spelling
    plane_column text NOT NULL,                  -- the column that tells planes apart; '' where the plane owns the whole resource
    value_digest text NOT NULL,                  -- SHA-256 of the plane's canonical value in it
    mapping json,                                -- table, columns, value, to the letter; NULL once purged
    PRIMARY KEY (plane_id, position),
    UNIQUE (store_id, resource, plane_column, value_digest)
);

-- Two planes may share a resource only where the same column tells them apart. Who binds locks the store's row, so that of two who bind
-- at the same time the second sees the first.
CREATE FUNCTION bindings_do_not_overlap() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM 1 FROM stores WHERE id = NEW.store_id FOR UPDATE;
    IF EXISTS (SELECT 1 FROM bindings WHERE store_id = NEW.store_id AND resource = NEW.resource
            AND (plane_column <> NEW.plane_column OR plane_column = '')) THEN
        RAISE EXCEPTION 'bindings: the scope overlaps another' USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER bindings_do_not_overlap BEFORE INSERT ON bindings FOR EACH ROW EXECUTE FUNCTION bindings_do_not_overlap();

CREATE TRIGGER bindings_are_for_ever BEFORE DELETE OR TRUNCATE ON bindings FOR EACH STATEMENT
EXECUTE FUNCTION refuse('bindings: a scope is never given back');
