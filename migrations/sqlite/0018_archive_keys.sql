-- Keys of encrypted archives, each wrapped by a master key that is not in the ledger. Destroyed with the archive, or with the offboarding.
CREATE TABLE archive_keys (
    id TEXT PRIMARY KEY,                         -- never chosen by the caller; what manifests and parts name
    offboarding_id TEXT NOT NULL UNIQUE REFERENCES offboardings (id), -- whose archive it encrypts
    wrapped BLOB,                                -- nonce, encrypted key and tag; NULL once destroyed
    master_key_id TEXT NOT NULL,                 -- the master key that wraps it, or did last: 16 digits of its SHA-256
    created_at INTEGER NOT NULL,                 -- when it was made
    wrapped_at INTEGER NOT NULL,                 -- when it was wrapped, as it is wrapped now
    destroyed_at INTEGER,                        -- when it was destroyed
    CHECK ((wrapped IS NULL) = (destroyed_at IS NOT NULL)),
    CHECK (wrapped IS NULL OR length(wrapped) = 60)
) STRICT;
CREATE INDEX archive_keys_by_master_key ON archive_keys (master_key_id) WHERE wrapped IS NOT NULL;

CREATE TRIGGER archive_keys_stay_destroyed BEFORE UPDATE ON archive_keys
WHEN OLD.destroyed_at IS NOT NULL OR NEW.id <> OLD.id OR NEW.offboarding_id <> OLD.offboarding_id
BEGIN SELECT RAISE(ABORT, 'archive_keys: a key that was destroyed stays so, and belongs to one offboarding'); END;

ALTER TABLE offboardings ADD COLUMN archive_key_id TEXT; -- the key of its archive; NULL where that is not encrypted

CREATE TRIGGER offboardings_key_is_frozen BEFORE UPDATE ON offboardings
WHEN NEW.archive_key_id IS NOT OLD.archive_key_id
BEGIN SELECT RAISE(ABORT, 'offboardings: whether the archive is encrypted is frozen'); END;
