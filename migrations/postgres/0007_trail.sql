-- The audit trail: one hash chain per subject. Entries are commitments; personal values stand beside them and can be destroyed.
CREATE TABLE chains (
    chain text PRIMARY KEY,                      -- plane:<id>, tenant:<id> or system
    head text NOT NULL,                          -- hash of the last entry; of the chain's name while its first is being written
    next_sequence bigint NOT NULL CHECK (next_sequence >= 0), -- the next entry's number
    at timestamptz NOT NULL                      -- when it was last moved; no later entry is dated before it
) WITH (fillfactor = 50);

CREATE TABLE trail (
    place bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, -- the order of writing, over all chains; of what is committed, it may leave some out
    chain text NOT NULL,                         -- the subject
    sequence_no bigint NOT NULL CHECK (sequence_no >= 0), -- from 0, gapless
    event_id uuid NOT NULL UNIQUE,               -- the entry's identity
    event_type text NOT NULL,                    -- what happened
    tenant_id text NOT NULL,                     -- whose; __system__ where it concerns none
    plane_id uuid,                               -- which plane
    offboarding_id uuid,                         -- which offboarding
    at timestamptz NOT NULL,                     -- when
    body text NOT NULL,                          -- canonical JSON of the whole entry; what is hashed
    previous text NOT NULL,                      -- hash of the entry before; of the chain's name for the first
    hash text NOT NULL,                          -- SHA-256 of previous and body
    UNIQUE (chain, sequence_no)
);
CREATE INDEX trail_by_tenant ON trail (tenant_id, at);
CREATE INDEX trail_by_type ON trail (event_type, at);
-- The mark outside names a hash.
CREATE INDEX trail_by_hash ON trail USING hash (hash);

CREATE TABLE trail_values (
    event_id uuid NOT NULL REFERENCES trail (event_id), -- the entry
    field text NOT NULL,                         -- which of its fields
    value text NOT NULL,                         -- the value to which the entry is committed
    salt bytea NOT NULL,                         -- with it, the commitment can be recomputed; without it, not even guessed
    PRIMARY KEY (event_id, field)
);

-- How many entries are committed. Spread over slots, so that those who write at the same time seldom meet.
CREATE TABLE trail_tally (
    slot bigint PRIMARY KEY,                     -- of whoever writes
    entries bigint NOT NULL                      -- entries counted there
) WITH (fillfactor = 50);

CREATE TRIGGER trail_is_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON trail FOR EACH STATEMENT
EXECUTE FUNCTION refuse('trail: append only');
CREATE TRIGGER chains_are_not_deleted BEFORE DELETE OR TRUNCATE ON chains FOR EACH STATEMENT
EXECUTE FUNCTION refuse('chains: append only');
CREATE TRIGGER chains_only_grow BEFORE UPDATE ON chains FOR EACH ROW
WHEN (NEW.next_sequence <= OLD.next_sequence OR NEW.chain <> OLD.chain OR NEW.at < OLD.at)
EXECUTE FUNCTION refuse('chains: append only');
CREATE TRIGGER trail_values_are_not_changed BEFORE UPDATE ON trail_values FOR EACH STATEMENT
EXECUTE FUNCTION refuse('trail_values: a value can be destroyed, not changed');
CREATE TRIGGER trail_tally_only_grows BEFORE UPDATE ON trail_tally FOR EACH ROW
WHEN (NEW.entries < OLD.entries OR NEW.slot <> OLD.slot) EXECUTE FUNCTION refuse('trail_tally: it only grows');
CREATE TRIGGER trail_tally_is_not_deleted BEFORE DELETE OR TRUNCATE ON trail_tally FOR EACH STATEMENT
EXECUTE FUNCTION refuse('trail_tally: it only grows');
