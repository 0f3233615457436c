-- Personal values that can be erased: encrypted under a key of their tenant's, which is destroyed by overwriting. The entries stay, and so do
-- the commitments in them.
CREATE TABLE personal_keys (
    id uuid PRIMARY KEY,                         -- never chosen by the caller; what sealed values name
    tenant_id text NOT NULL,                     -- whose values it seals; __system__ for those of entries that concern no tenant
    -- It stands here bare: an entry is never written later, or not at all, because a key outside cannot be had. What it protects from is
    -- not who reads the ledger, but that a value outlives its erasure in some page, log or copy.
    key bytea,                                   -- 32 bytes; NULL once destroyed
    created_at timestamptz NOT NULL,             -- when it was made
    destroyed_at timestamptz,                    -- when it was destroyed
    CHECK ((key IS NULL) = (destroyed_at IS NOT NULL)),
    CHECK (key IS NULL OR length(key) = 32)
);
CREATE UNIQUE INDEX personal_keys_live ON personal_keys (tenant_id) WHERE destroyed_at IS NULL;

CREATE TRIGGER personal_keys_are_not_changed BEFORE UPDATE ON personal_keys FOR EACH ROW
WHEN (OLD.destroyed_at IS NOT NULL OR NEW.destroyed_at IS NULL OR NEW.id <> OLD.id OR NEW.tenant_id <> OLD.tenant_id
    OR NEW.created_at <> OLD.created_at)
EXECUTE FUNCTION refuse('personal_keys: a key can be destroyed, not changed');
CREATE TRIGGER personal_keys_are_kept BEFORE DELETE OR TRUNCATE ON personal_keys FOR EACH STATEMENT
EXECUTE FUNCTION refuse('personal_keys: that there was a key is kept');

-- What stands in clear is sealed by `lethe migrate`, after this. Until it is empty no program opens the ledger.
DROP TRIGGER trail_values_are_not_changed ON trail_values;
ALTER TABLE trail_values RENAME TO trail_values_clear;
ALTER INDEX trail_values_pkey RENAME TO trail_values_clear_pkey;
CREATE TRIGGER trail_values_clear_takes_nothing BEFORE INSERT ON trail_values_clear FOR EACH STATEMENT
EXECUTE FUNCTION refuse('trail_values_clear: values are sealed');

CREATE TABLE trail_values (
    event_id uuid NOT NULL REFERENCES trail (event_id), -- the entry
    field text NOT NULL,                         -- which of its fields
    key_id uuid NOT NULL,                        -- the key under which it is sealed
    sealed bytea NOT NULL,                       -- nonce, then salt and value under AES-256-GCM, bound to entry and field, then its tag
    tag bytea,                                   -- of an actor, by a key of that key: who is looked for is found by it; else NULL
    PRIMARY KEY (event_id, field),
    CHECK (length(sealed) >= 44),
    CHECK ((field = 'actor_id') = (tag IS NOT NULL)),
    CHECK (tag IS NULL OR length(tag) = 16)
);

CREATE TRIGGER trail_values_are_not_changed BEFORE UPDATE OR TRUNCATE ON trail_values FOR EACH STATEMENT
EXECUTE FUNCTION refuse('trail_values: a value can be destroyed, not changed');

-- A process that still remembers a key which another one has destroyed is stopped here, as by a conflict: it forgets the key and does its work
-- again. Who destroys has locked the tenant's chains, so whoever appends to one sees by now whether its key was destroyed. No lock on the key's
-- row, which everybody would share, and one look for all rows of a statement.
CREATE FUNCTION trail_values_have_a_key() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT 1 FROM (SELECT DISTINCT key_id FROM written) w
        WHERE NOT EXISTS (SELECT 1 FROM personal_keys k WHERE k.id = w.key_id AND k.destroyed_at IS NULL)) THEN
        RAISE EXCEPTION 'trail_values: the key is destroyed' USING ERRCODE = 'serialization_failure';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER trail_values_have_a_key AFTER INSERT ON trail_values REFERENCING NEW TABLE AS written FOR EACH STATEMENT
EXECUTE FUNCTION trail_values_have_a_key();

CREATE FUNCTION trail_values_go_with_their_key() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT 1 FROM (SELECT DISTINCT key_id FROM gone) g JOIN personal_keys k ON k.id = g.key_id WHERE k.destroyed_at IS NULL) THEN
        RAISE EXCEPTION 'trail_values: a value goes with its key';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER trail_values_go_with_their_key AFTER DELETE ON trail_values REFERENCING OLD TABLE AS gone FOR EACH STATEMENT
EXECUTE FUNCTION trail_values_go_with_their_key();

-- What an erasure reduces in rows that are closed: names become user:erased-1, -2 and so on, reasons become erased. Nothing else of them moves.
DROP TRIGGER offboardings_terms_are_frozen ON offboardings;
CREATE TRIGGER offboardings_terms_are_frozen BEFORE UPDATE ON offboardings FOR EACH ROW
WHEN (NEW.grace_us <> OLD.grace_us OR NEW.archive_delay_us <> OLD.archive_delay_us OR NEW.retention_us <> OLD.retention_us
    OR NEW.terms_digest <> OLD.terms_digest OR NEW.ground <> OLD.ground OR NEW.plane_id <> OLD.plane_id OR NEW.evict <> OLD.evict
    OR (NEW.requested_by <> OLD.requested_by AND (OLD.status = 'open' OR NEW.requested_by <> 'user:erased-1'))
    OR (NEW.reason <> OLD.reason AND (OLD.status = 'open' OR NEW.reason <> 'erased'))
    OR (OLD.grace_until IS NOT NULL AND NEW.grace_until IS DISTINCT FROM OLD.grace_until)
    OR (OLD.archive_after IS NOT NULL AND NEW.archive_after IS DISTINCT FROM OLD.archive_after)
    OR (OLD.retention_until IS NOT NULL AND NEW.retention_until IS DISTINCT FROM OLD.retention_until))
EXECUTE FUNCTION refuse('offboardings: terms and started deadlines are frozen');

DROP TRIGGER deadlines_are_frozen ON deadlines;
CREATE TRIGGER deadlines_are_frozen BEFORE UPDATE ON deadlines FOR EACH ROW
WHEN (NEW.offboarding_id <> OLD.offboarding_id OR NEW.law <> OLD.law OR NEW.zone <> OLD.zone OR NEW.first_due_on <> OLD.first_due_on
    OR NEW.first_due_at <> OLD.first_due_at OR NEW.extension_due_on IS DISTINCT FROM OLD.extension_due_on
    OR NEW.extension_due_at IS DISTINCT FROM OLD.extension_due_at
    OR (OLD.extended_at IS NOT NULL AND (NEW.extended_at IS DISTINCT FROM OLD.extended_at OR NEW.told_at IS DISTINCT FROM OLD.told_at
        OR (NEW.extended_by IS DISTINCT FROM OLD.extended_by
            AND (OLD.closed_at IS NULL OR NEW.extended_by IS DISTINCT FROM 'user:erased-1'))
        OR (NEW.extension_reason IS DISTINCT FROM OLD.extension_reason
            AND (OLD.closed_at IS NULL OR NEW.extension_reason IS DISTINCT FROM 'erased'))))
    OR (OLD.closed_at IS NOT NULL AND NEW.closed_at IS DISTINCT FROM OLD.closed_at))
EXECUTE FUNCTION refuse('deadlines: they are frozen but for one extension');

-- A signature says whose it is: it goes too, and that there was one stays said.
DO $$
DECLARE
    was text;
BEGIN
    SELECT conname INTO STRICT was FROM pg_constraint
        WHERE conrelid = 'approvals'::regclass AND contype = 'c' AND pg_get_constraintdef(oid) LIKE '%signed%'
            AND pg_get_constraintdef(oid) LIKE '%signature IS NOT NULL%';
    EXECUTE format('ALTER TABLE approvals DROP CONSTRAINT %I', was);
END $$;
ALTER TABLE approvals ADD CONSTRAINT approvals_signed
    CHECK ((identity_assurance = 'signed' AND NOT (approved_by LIKE 'user:erased-%' AND reason = 'erased')) = (signature IS NOT NULL));
