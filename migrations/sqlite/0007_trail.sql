-- The audit trail: one hash chain per subject. Entries are commitments; personal values stand beside them and can be destroyed.
CREATE TABLE chains (
    chain TEXT PRIMARY KEY,                      -- plane:<id>, tenant:<id> or system
    head TEXT NOT NULL,                          -- hash of the last entry
    next_sequence INTEGER NOT NULL CHECK (next_sequence >= 1) -- the next entry's number
) STRICT;

CREATE TABLE trail (
    place INTEGER PRIMARY KEY,                   -- the order of writing, over all chains
    chain TEXT NOT NULL,                         -- the subject
    sequence_no INTEGER NOT NULL CHECK (sequence_no >= 0), -- from 0, gapless
    event_id TEXT NOT NULL UNIQUE,               -- the entry's identity
    event_type TEXT NOT NULL,                    -- what happened
    tenant_id TEXT NOT NULL,                     -- whose; __system__ where it concerns none
    plane_id TEXT,                               -- which plane
    offboarding_id TEXT,                         -- which offboarding
    at INTEGER NOT NULL,                         -- when
    body TEXT NOT NULL,                          -- canonical JSON of the whole entry; what is hashed
    previous TEXT NOT NULL,                      -- hash of the entry before; of the chain's name for the first
    hash TEXT NOT NULL,                          -- SHA-256 of previous and body
    UNIQUE (chain, sequence_no)
) STRICT;
CREATE INDEX trail_by_tenant ON trail (tenant_id, at);
CREATE INDEX trail_by_type ON trail (event_type, at);

CREATE TABLE trail_values (
    event_id TEXT NOT NULL REFERENCES trail (event_id), -- the entry
    field TEXT NOT NULL,                         -- which of its fields
    value TEXT NOT NULL,                         -- the value to which the entry is committed
    salt BLOB NOT NULL,                          -- with it, the commitment can be recomputed; without it, not even guessed
    PRIMARY KEY (event_id, field)
) STRICT;

CREATE TRIGGER trail_is_not_updated BEFORE UPDATE ON trail BEGIN SELECT RAISE(ABORT, 'trail: append only'); END;
CREATE TRIGGER trail_is_not_deleted BEFORE DELETE ON trail BEGIN SELECT RAISE(ABORT, 'trail: append only'); END;
-- INSERT OR REPLACE deletes without firing the triggers above: refused for every key by which it could.
CREATE TRIGGER trail_is_not_replaced BEFORE INSERT ON trail
WHEN EXISTS (SELECT 1 FROM trail
    WHERE chain = NEW.chain AND sequence_no = NEW.sequence_no OR event_id = NEW.event_id OR place = NEW.place)
BEGIN SELECT RAISE(ABORT, 'trail: append only'); END;
CREATE TRIGGER chains_are_not_deleted BEFORE DELETE ON chains BEGIN SELECT RAISE(ABORT, 'chains: append only'); END;
CREATE TRIGGER chains_only_grow BEFORE UPDATE ON chains WHEN NEW.next_sequence <= OLD.next_sequence
BEGIN SELECT RAISE(ABORT, 'chains: append only'); END;
CREATE TRIGGER chains_are_not_replaced BEFORE INSERT ON chains
WHEN EXISTS (SELECT 1 FROM chains WHERE chain = NEW.chain AND next_sequence >= NEW.next_sequence)
BEGIN SELECT RAISE(ABORT, 'chains: append only'); END;
CREATE TRIGGER trail_values_are_not_replaced BEFORE INSERT ON trail_values
WHEN EXISTS (SELECT 1 FROM trail_values WHERE event_id = NEW.event_id AND field = NEW.field)
BEGIN SELECT RAISE(ABORT, 'trail_values: a value can be destroyed, not changed'); END;
CREATE TRIGGER trail_values_are_not_changed BEFORE UPDATE ON trail_values
BEGIN SELECT RAISE(ABORT, 'trail_values: a value can be destroyed, not changed'); END;
