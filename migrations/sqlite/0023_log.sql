-- The transparency log: every entry of the trail as a leaf of one Merkle tree (RFC 6962), in tiles (C2SP tlog-tiles), under signed checkpoints.
CREATE TABLE leaves (
    leaf_index INTEGER PRIMARY KEY CHECK (leaf_index >= 0), -- the leaf's number, from 0, gapless: the order in which entries were sealed
    place INTEGER NOT NULL UNIQUE REFERENCES trail (place), -- the entry; each is sealed once
    -- What is asked for, out of the entry's body; the body is what counts.
    at INTEGER NOT NULL,                         -- when the entry is dated
    event_type TEXT NOT NULL,                    -- what happened
    outcome TEXT NOT NULL CHECK (outcome IN ('DONE', 'ALLOWED', 'PENDING', 'BLOCKED', 'FAILED')), -- how it ended
    tenant_id TEXT NOT NULL,                     -- whose; __system__ where it concerns none
    plane_id TEXT,                               -- which plane
    offboarding_id TEXT,                         -- which offboarding
    approval_id TEXT,                            -- which approval
    policy_revision TEXT,                        -- the policies that decided
    actor_tag BLOB                               -- the actor under the tenant's key, as trail_values has it
) STRICT;
CREATE INDEX leaves_by_time ON leaves (at);
CREATE INDEX leaves_by_type ON leaves (event_type, leaf_index);
CREATE INDEX leaves_by_outcome ON leaves (outcome, leaf_index) WHERE outcome <> 'DONE';
CREATE INDEX leaves_by_tenant ON leaves (tenant_id, leaf_index);
CREATE INDEX leaves_by_plane ON leaves (plane_id, leaf_index) WHERE plane_id IS NOT NULL;
CREATE INDEX leaves_by_offboarding ON leaves (offboarding_id, leaf_index) WHERE offboarding_id IS NOT NULL;
CREATE INDEX leaves_by_approval ON leaves (approval_id, leaf_index) WHERE approval_id IS NOT NULL;
CREATE INDEX leaves_by_actor ON leaves (actor_tag, leaf_index) WHERE actor_tag IS NOT NULL;

CREATE TABLE log_tiles (
    level INTEGER NOT NULL CHECK (level BETWEEN 0 AND 7), -- 0: hashes of leaves; above: of whole tiles of the level below
    tile_index INTEGER NOT NULL CHECK (tile_index >= 0), -- which tile of its level
    hashes BLOB NOT NULL CHECK (length(hashes) BETWEEN 32 AND 8192 AND length(hashes) % 32 = 0), -- up to 256 hashes
    PRIMARY KEY (level, tile_index)
) STRICT, WITHOUT ROWID;

CREATE TABLE checkpoints (
    size INTEGER PRIMARY KEY CHECK (size > 0),   -- leaves of the tree
    root BLOB NOT NULL CHECK (length(root) = 32), -- its hash
    note TEXT NOT NULL                           -- the signed note (C2SP tlog-checkpoint)
) STRICT;

CREATE TABLE log_keys (
    vkey TEXT PRIMARY KEY,                       -- the public key as C2SP signed-note writes it: name, hash, key
    added_at INTEGER NOT NULL,                   -- when it began to sign
    from_size INTEGER NOT NULL CHECK (from_size >= 0), -- the size of the tree before its first checkpoint
    retired_at INTEGER                           -- when it was found that it signs no longer; its checkpoints stay valid
) STRICT;

CREATE TABLE log (
    only INTEGER PRIMARY KEY CHECK (only = 1),   -- one row
    size INTEGER NOT NULL CHECK (size >= 0),     -- leaves; who seals compares and swaps it
    sealed_below INTEGER NOT NULL,               -- every entry whose place is below is a leaf, or was never committed
    published_size INTEGER NOT NULL CHECK (published_size BETWEEN 0 AND size), -- leaves that the published tiles and checkpoint cover
    publisher TEXT,                              -- who publishes just now
    publisher_until INTEGER,                     -- until when nobody else does
    stopped_since INTEGER,                       -- when sealing stopped; NULL: it goes on
    stopped_why TEXT,                            -- why
    CHECK ((stopped_since IS NULL) = (stopped_why IS NULL))
) STRICT;
INSERT INTO log (only, size, sealed_below, published_size) VALUES (1, 0, 0, 0);

CREATE TRIGGER leaves_are_not_updated BEFORE UPDATE ON leaves BEGIN SELECT RAISE(ABORT, 'leaves: append only'); END;
CREATE TRIGGER leaves_are_not_deleted BEFORE DELETE ON leaves BEGIN SELECT RAISE(ABORT, 'leaves: append only'); END;
CREATE TRIGGER leaves_are_not_replaced BEFORE INSERT ON leaves
WHEN EXISTS (SELECT 1 FROM leaves WHERE leaf_index = NEW.leaf_index OR place = NEW.place)
BEGIN SELECT RAISE(ABORT, 'leaves: append only'); END;
CREATE TRIGGER log_tiles_only_grow BEFORE UPDATE ON log_tiles
WHEN NEW.level <> OLD.level OR NEW.tile_index <> OLD.tile_index OR substr(NEW.hashes, 1, length(OLD.hashes)) <> OLD.hashes
BEGIN SELECT RAISE(ABORT, 'log_tiles: append only'); END;
CREATE TRIGGER log_tiles_are_not_deleted BEFORE DELETE ON log_tiles BEGIN SELECT RAISE(ABORT, 'log_tiles: append only'); END;
CREATE TRIGGER log_tiles_are_not_replaced BEFORE INSERT ON log_tiles
WHEN EXISTS (SELECT 1 FROM log_tiles WHERE level = NEW.level AND tile_index = NEW.tile_index
    AND substr(NEW.hashes, 1, length(hashes)) <> hashes)
BEGIN SELECT RAISE(ABORT, 'log_tiles: append only'); END;
CREATE TRIGGER checkpoints_are_not_updated BEFORE UPDATE ON checkpoints BEGIN SELECT RAISE(ABORT, 'checkpoints: append only'); END;
CREATE TRIGGER checkpoints_are_not_deleted BEFORE DELETE ON checkpoints BEGIN SELECT RAISE(ABORT, 'checkpoints: append only'); END;
CREATE TRIGGER checkpoints_are_not_replaced BEFORE INSERT ON checkpoints WHEN EXISTS (SELECT 1 FROM checkpoints WHERE size >= NEW.size)
BEGIN SELECT RAISE(ABORT, 'checkpoints: append only'); END;
CREATE TRIGGER log_keys_are_kept BEFORE DELETE ON log_keys BEGIN SELECT RAISE(ABORT, 'log_keys: append only'); END;
CREATE TRIGGER log_keys_are_not_changed BEFORE UPDATE ON log_keys
WHEN NEW.vkey <> OLD.vkey OR NEW.added_at <> OLD.added_at OR NEW.from_size <> OLD.from_size
BEGIN SELECT RAISE(ABORT, 'log_keys: append only'); END;
CREATE TRIGGER log_only_grows BEFORE UPDATE ON log
WHEN NEW.size < OLD.size OR NEW.published_size < OLD.published_size OR NEW.sealed_below < OLD.sealed_below
BEGIN SELECT RAISE(ABORT, 'log: it only grows'); END;
CREATE TRIGGER log_is_not_deleted BEFORE DELETE ON log BEGIN SELECT RAISE(ABORT, 'log: it only grows'); END;
