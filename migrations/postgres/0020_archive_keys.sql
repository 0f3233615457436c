-- Keys of encrypted archives, each wrapped by a master key that is not in the ledger. Destroyed with the archive, or with the offboarding.
CREATE TABLE archive_keys (
    id uuid PRIMARY KEY,                         -- never chosen by the caller; what manifests and parts name
    offboarding_id uuid NOT NULL UNIQUE REFERENCES offboardings (id), -- whose archive it encrypts
    wrapped bytea,                               -- nonce, encrypted key and tag; NULL once destroyed
    master_key_id text NOT NULL,                 -- the master key that wraps it, or did last: 16 digits of its SHA-256
    created_at timestamptz NOT NULL,             -- when it was made
    wrapped_at timestamptz NOT NULL,             -- when it was wrapped, as it is wrapped now
    destroyed_at timestamptz,                    -- when it was destroyed
    CHECK ((wrapped IS NULL) = (destroyed_at IS NOT NULL)),
    CHECK (wrapped IS NULL OR length(wrapped) = 60)
);
CREATE INDEX archive_keys_by_master_key ON archive_keys (master_key_id) WHERE wrapped IS NOT NULL;

CREATE TRIGGER archive_keys_stay_destroyed BEFORE UPDATE ON archive_keys FOR EACH ROW
WHEN (OLD.destroyed_at IS NOT NULL OR NEW.id <> OLD.id OR NEW.offboarding_id <> OLD.offboarding_id)
EXECUTE FUNCTION refuse('archive_keys: a key that was destroyed stays so, and belongs to one offboarding');

ALTER TABLE offboardings ADD COLUMN archive_key_id uuid; -- the key of its archive; NULL where that is not encrypted

CREATE TRIGGER offboardings_key_is_frozen BEFORE UPDATE ON offboardings FOR EACH ROW
WHEN (NEW.archive_key_id IS DISTINCT FROM OLD.archive_key_id)
EXECUTE FUNCTION refuse('offboardings: whether the archive is encrypted is frozen');
