-- The transparency log: every entry of the trail as a leaf of one Merkle tree (RFC 6962), in tiles (C2SP tlog-tiles), under signed checkpoints.
CREATE TABLE leaves (
    leaf_index bigint PRIMARY KEY CHECK (leaf_index >= 0), -- the leaf's number, from 0, gapless: the order in which entries were sealed
    place bigint NOT NULL UNIQUE,                -- the entry; each is sealed once, after it was committed
    -- What is asked for, out of the entry's body; the body is what counts.
    at timestamptz NOT NULL,                     -- when the entry is dated
    event_type text NOT NULL,                    -- what happened
    outcome text NOT NULL CHECK (outcome IN ('DONE', 'ALLOWED', 'PENDING', 'BLOCKED', 'FAILED')), -- how it ended
    tenant_id text NOT NULL,                     -- whose; __system__ where it concerns none
    plane_id uuid,                               -- which plane
    offboarding_id uuid,                         -- which offboarding
    approval_id text,                            -- which approval
    policy_revision text,                        -- the policies that decided
    actor_tag bytea                              -- the actor under the tenant's key, as trail_values has it
);
CREATE INDEX leaves_by_time ON leaves (at);
CREATE INDEX leaves_by_type ON leaves (event_type, leaf_index);
CREATE INDEX leaves_by_outcome ON leaves (outcome, leaf_index) WHERE outcome <> 'DONE';
CREATE INDEX leaves_by_tenant ON leaves (tenant_id, leaf_index);
CREATE INDEX leaves_by_plane ON leaves (plane_id, leaf_index) WHERE plane_id IS NOT NULL;
CREATE INDEX leaves_by_offboarding ON leaves (offboarding_id, leaf_index) WHERE offboarding_id IS NOT NULL;
CREATE INDEX leaves_by_approval ON leaves (approval_id, leaf_index) WHERE approval_id IS NOT NULL;
CREATE INDEX leaves_by_actor ON leaves (actor_tag, leaf_index) WHERE actor_tag IS NOT NULL;

CREATE TABLE log_tiles (
    level bigint NOT NULL CHECK (level BETWEEN 0 AND 7), -- 0: hashes of leaves; above: of whole tiles of the level below
    tile_index bigint NOT NULL CHECK (tile_index >= 0), -- which tile of its level
    hashes bytea NOT NULL CHECK (length(hashes) BETWEEN 32 AND 8192 AND length(hashes) % 32 = 0), -- up to 256 hashes
    PRIMARY KEY (level, tile_index)
);
-- Hashes do not compress.
ALTER TABLE log_tiles ALTER COLUMN hashes SET STORAGE EXTERNAL;

CREATE TABLE checkpoints (
    size bigint PRIMARY KEY CHECK (size > 0),    -- leaves of the tree
    root bytea NOT NULL CHECK (length(root) = 32), -- its hash
    note text NOT NULL                           -- the signed note (C2SP tlog-checkpoint)
);

CREATE TABLE log_keys (
    vkey text PRIMARY KEY,                       -- the public key as C2SP signed-note writes it: name, hash, key
    added_at timestamptz NOT NULL,               -- when it began to sign
    from_size bigint NOT NULL CHECK (from_size >= 0), -- the size of the tree before its first checkpoint
    retired_at timestamptz                       -- when it was found that it signs no longer; its checkpoints stay valid
);

CREATE TABLE log (
    "only" bigint PRIMARY KEY CHECK ("only" = 1), -- one row
    size bigint NOT NULL CHECK (size >= 0),      -- leaves; who seals compares and swaps it
    sealed_below bigint NOT NULL,                -- every entry whose place is below is a leaf, or was never committed
    -- What moves `sealed_below`: transactions commit in another order than they took their places.
    ahead_place bigint,                          -- a place that was seen committed
    ahead_xid bigint,                            -- a transaction that began after that: when all before it have ended, every place below is known
    published_size bigint NOT NULL CHECK (published_size BETWEEN 0 AND size), -- leaves that the published tiles and checkpoint cover
    publisher text,                              -- who publishes just now
    publisher_until timestamptz,                 -- until when nobody else does
    stopped_since timestamptz,                   -- when sealing stopped; NULL: it goes on
    stopped_why text,                            -- why
    CHECK ((stopped_since IS NULL) = (stopped_why IS NULL)),
    CHECK (ahead_xid IS NULL OR ahead_place IS NOT NULL)
) WITH (fillfactor = 10);
INSERT INTO log ("only", size, sealed_below, published_size) VALUES (1, 0, 0, 0);

CREATE TRIGGER leaves_are_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON leaves FOR EACH STATEMENT
EXECUTE FUNCTION refuse('leaves: append only');
CREATE TRIGGER log_tiles_only_grow BEFORE UPDATE ON log_tiles FOR EACH ROW
WHEN (NEW.level <> OLD.level OR NEW.tile_index <> OLD.tile_index OR substring(NEW.hashes FOR length(OLD.hashes)) <> OLD.hashes)
EXECUTE FUNCTION refuse('log_tiles: append only');
CREATE TRIGGER log_tiles_are_not_deleted BEFORE DELETE OR TRUNCATE ON log_tiles FOR EACH STATEMENT
EXECUTE FUNCTION refuse('log_tiles: append only');
CREATE TRIGGER checkpoints_are_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON checkpoints FOR EACH STATEMENT
EXECUTE FUNCTION refuse('checkpoints: append only');
CREATE TRIGGER log_keys_are_kept BEFORE DELETE OR TRUNCATE ON log_keys FOR EACH STATEMENT
EXECUTE FUNCTION refuse('log_keys: append only');
CREATE TRIGGER log_keys_are_not_changed BEFORE UPDATE ON log_keys FOR EACH ROW
WHEN (NEW.vkey <> OLD.vkey OR NEW.added_at <> OLD.added_at OR NEW.from_size <> OLD.from_size)
EXECUTE FUNCTION refuse('log_keys: append only');
CREATE TRIGGER log_only_grows BEFORE UPDATE ON log FOR EACH ROW
WHEN (NEW.size < OLD.size OR NEW.published_size < OLD.published_size OR NEW.sealed_below < OLD.sealed_below)
EXECUTE FUNCTION refuse('log: it only grows');
CREATE TRIGGER log_is_not_deleted BEFORE DELETE OR TRUNCATE ON log FOR EACH STATEMENT EXECUTE FUNCTION refuse('log: it only grows');
