-- Personal values that can be erased: encrypted under a key of their tenant's, which is destroyed by overwriting. The entries stay, and so do
-- the commitments in them.
CREATE TABLE personal_keys (
    id TEXT PRIMARY KEY,                         -- never chosen by the caller; what sealed values name
    tenant_id TEXT NOT NULL,                     -- whose values it seals; __system__ for those of entries that concern no tenant
    -- It stands here bare: an entry is never written later, or not at all, because a key outside cannot be had. What it protects from is
    -- not who reads the ledger, but that a value outlives its erasure in some page, log or copy.
    key BLOB,                                    -- 32 bytes; NULL once destroyed
    created_at INTEGER NOT NULL,                 -- when it was made
    destroyed_at INTEGER,                        -- when it was destroyed
    CHECK ((key IS NULL) = (destroyed_at IS NOT NULL)),
    CHECK (key IS NULL OR length(key) = 32)
) STRICT;
CREATE UNIQUE INDEX personal_keys_live ON personal_keys (tenant_id) WHERE destroyed_at IS NULL;

CREATE TRIGGER personal_keys_are_not_changed BEFORE UPDATE ON personal_keys
WHEN OLD.destroyed_at IS NOT NULL OR NEW.destroyed_at IS NULL OR NEW.id <> OLD.id OR NEW.tenant_id <> OLD.tenant_id
    OR NEW.created_at <> OLD.created_at
BEGIN SELECT RAISE(ABORT, 'personal_keys: a key can be destroyed, not changed'); END;
CREATE TRIGGER personal_keys_are_kept BEFORE DELETE ON personal_keys
BEGIN SELECT RAISE(ABORT, 'personal_keys: that there was a key is kept'); END;
-- INSERT OR REPLACE deletes without firing the trigger above.
CREATE TRIGGER personal_keys_are_not_replaced BEFORE INSERT ON personal_keys
WHEN EXISTS (SELECT 1 FROM personal_keys
    WHERE id = NEW.id OR tenant_id = NEW.tenant_id AND destroyed_at IS NULL AND NEW.destroyed_at IS NULL)
BEGIN SELECT RAISE(ABORT, 'personal_keys: a key can be destroyed, not changed'); END;

-- What stands in clear is sealed by `lethe migrate`, after this. Until it is empty no program opens the ledger.
DROP TRIGGER trail_values_are_not_replaced;
DROP TRIGGER trail_values_are_not_changed;
ALTER TABLE trail_values RENAME TO trail_values_clear;
CREATE TRIGGER trail_values_clear_takes_nothing BEFORE INSERT ON trail_values_clear
BEGIN SELECT RAISE(ABORT, 'trail_values_clear: values are sealed'); END;

CREATE TABLE trail_values (
    event_id TEXT NOT NULL REFERENCES trail (event_id), -- the entry
    field TEXT NOT NULL,                         -- which of its fields
    key_id TEXT NOT NULL,                        -- the key under which it is sealed
    sealed BLOB NOT NULL,                        -- nonce, then salt and value under AES-256-GCM, bound to entry and field, then its tag
    tag BLOB,                                    -- of an actor, by a key of that key: who is looked for is found by it; else NULL
    PRIMARY KEY (event_id, field),
    CHECK (length(sealed) >= 44),
    CHECK ((field = 'actor_id') = (tag IS NOT NULL)),
    CHECK (tag IS NULL OR length(tag) = 16)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER trail_values_are_not_replaced BEFORE INSERT ON trail_values
WHEN EXISTS (SELECT 1 FROM trail_values WHERE event_id = NEW.event_id AND field = NEW.field)
BEGIN SELECT RAISE(ABORT, 'trail_values: a value can be destroyed, not changed'); END;
CREATE TRIGGER trail_values_are_not_changed BEFORE UPDATE ON trail_values
BEGIN SELECT RAISE(ABORT, 'trail_values: a value can be destroyed, not changed'); END;
-- A process that still remembers a key which another one has destroyed is stopped here, by these words.
CREATE TRIGGER trail_values_have_a_key BEFORE INSERT ON trail_values
WHEN NOT EXISTS (SELECT 1 FROM personal_keys WHERE id = NEW.key_id AND destroyed_at IS NULL)
BEGIN SELECT RAISE(ABORT, 'trail_values: the key is destroyed'); END;
CREATE TRIGGER trail_values_go_with_their_key BEFORE DELETE ON trail_values
WHEN EXISTS (SELECT 1 FROM personal_keys WHERE id = OLD.key_id AND destroyed_at IS NULL)
BEGIN SELECT RAISE(ABORT, 'trail_values: a value goes with its key'); END;

-- What an erasure reduces in rows that are closed: names become user:erased-1, -2 and so on, reasons become erased. Nothing else of them moves.
DROP TRIGGER offboardings_terms_are_frozen;
CREATE TRIGGER offboardings_terms_are_frozen BEFORE UPDATE ON offboardings
WHEN NEW.grace_us <> OLD.grace_us OR NEW.archive_delay_us <> OLD.archive_delay_us OR NEW.retention_us <> OLD.retention_us
    OR NEW.terms_digest <> OLD.terms_digest OR NEW.ground <> OLD.ground OR NEW.plane_id <> OLD.plane_id OR NEW.evict <> OLD.evict
    OR (NEW.requested_by <> OLD.requested_by AND (OLD.status = 'open' OR NEW.requested_by <> 'user:erased-1'))
    OR (NEW.reason <> OLD.reason AND (OLD.status = 'open' OR NEW.reason <> 'erased'))
    OR (OLD.grace_until IS NOT NULL AND NEW.grace_until IS NOT OLD.grace_until)
    OR (OLD.archive_after IS NOT NULL AND NEW.archive_after IS NOT OLD.archive_after)
    OR (OLD.retention_until IS NOT NULL AND NEW.retention_until IS NOT OLD.retention_until)
BEGIN SELECT RAISE(ABORT, 'offboardings: terms and started deadlines are frozen'); END;

DROP TRIGGER deadlines_are_frozen;
CREATE TRIGGER deadlines_are_frozen BEFORE UPDATE ON deadlines
WHEN NEW.offboarding_id <> OLD.offboarding_id OR NEW.law <> OLD.law OR NEW.zone <> OLD.zone OR NEW.first_due_on <> OLD.first_due_on
    OR NEW.first_due_at <> OLD.first_due_at OR NEW.extension_due_on IS NOT OLD.extension_due_on
    OR NEW.extension_due_at IS NOT OLD.extension_due_at
    OR (OLD.extended_at IS NOT NULL AND (NEW.extended_at IS NOT OLD.extended_at OR NEW.told_at IS NOT OLD.told_at
        OR (NEW.extended_by IS NOT OLD.extended_by AND (OLD.closed_at IS NULL OR NEW.extended_by IS NOT 'user:erased-1'))
        OR (NEW.extension_reason IS NOT OLD.extension_reason AND (OLD.closed_at IS NULL OR NEW.extension_reason IS NOT 'erased'))))
    OR (OLD.closed_at IS NOT NULL AND NEW.closed_at IS NOT OLD.closed_at)
BEGIN SELECT RAISE(ABORT, 'deadlines: they are frozen but for one extension'); END;

-- A signature says whose it is: it goes too, and that there was one stays said.
CREATE TABLE approvals_erasable (
    id TEXT PRIMARY KEY,                         -- never chosen by the caller
    offboarding_id TEXT NOT NULL REFERENCES offboardings (id), -- which offboarding
    plan_digest TEXT NOT NULL,                   -- exactly what is released
    status TEXT NOT NULL CHECK (status IN ('granted', 'denied', 'withdrawn', 'expired', 'consumed')), -- the one true status
    requested_by TEXT NOT NULL,                  -- who asked for the offboarding, as type:id
    approved_by TEXT NOT NULL,                   -- who decided, as type:id
    identity_assurance TEXT NOT NULL CHECK (identity_assurance IN ('asserted', 'os', 'oidc', 'signed')), -- how that is known
    reason TEXT NOT NULL,                        -- in the approver's words
    decided_at INTEGER NOT NULL,                 -- when
    expires_at INTEGER NOT NULL,                 -- when a grant ends unless it was used
    ended_at INTEGER,                            -- when it was withdrawn, expired or consumed
    signature TEXT,                              -- SSHSIG over the plan's text, armoured; NULL where nobody signed, or it is erased
    key_fingerprint TEXT REFERENCES approvers (fingerprint), -- the key that signed
    reminded_at INTEGER,                         -- when it was put on record that it ends soon
    CHECK (approved_by <> requested_by),
    CHECK ((identity_assurance = 'signed' AND NOT (approved_by LIKE 'user:erased-%' AND reason = 'erased')) = (signature IS NOT NULL)),
    CHECK ((signature IS NULL) = (key_fingerprint IS NULL))
) STRICT;
INSERT INTO approvals_erasable SELECT id, offboarding_id, plan_digest, status, requested_by, approved_by, identity_assurance, reason, decided_at,
    expires_at, ended_at, signature, key_fingerprint, reminded_at FROM approvals;
DROP TABLE approvals;
ALTER TABLE approvals_erasable RENAME TO approvals;
CREATE UNIQUE INDEX approvals_denied_once ON approvals (offboarding_id, plan_digest) WHERE status = 'denied';
CREATE INDEX approvals_expiring ON approvals (expires_at) WHERE status = 'granted';
CREATE INDEX approvals_by_offboarding ON approvals (offboarding_id, decided_at, id);
CREATE UNIQUE INDEX approvals_one_each ON approvals (offboarding_id, approved_by, plan_digest) WHERE status IN ('granted', 'consumed');
CREATE INDEX approvals_standing ON approvals (approved_by, decided_at, id) WHERE status = 'granted';
CREATE INDEX approvals_by_date ON approvals (decided_at, id);
