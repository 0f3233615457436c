-- Offboardings: the terms frozen at the request, and each instant once its wait has started.
CREATE TABLE offboardings (
    id uuid PRIMARY KEY,                         -- never chosen by the caller
    place bigint GENERATED ALWAYS AS IDENTITY,   -- the order of requests
    plane_id uuid NOT NULL REFERENCES planes (id), -- what leaves
    tenant_id uuid NOT NULL REFERENCES tenants (id), -- whose it is
    plan_version bigint NOT NULL,                -- which lifecycle plan it follows; a worker claims only those it knows
    status text NOT NULL CHECK (status IN ('open', 'cancelled', 'completed')), -- the one true status
    ground text NOT NULL,                        -- why it leaves
    reason text NOT NULL,                        -- in the requester's words
    requested_by text NOT NULL,                  -- the actor, as type:id
    terms_digest text NOT NULL,                  -- digest of the terms; an equal request is the same request
    grace_access text NOT NULL CHECK (grace_access IN ('read_only', 'full', 'none')), -- what grace leaves open
    evict text NOT NULL CHECK (evict IN ('after_archive', 'at_purge')), -- when the hot copy goes
    grace_us bigint NOT NULL CHECK (grace_us >= 0), -- length of the grace period, microseconds
    archive_delay_us bigint NOT NULL CHECK (archive_delay_us >= 0), -- between DEACTIVATED and export, microseconds
    retention_us bigint NOT NULL CHECK (retention_us >= 0), -- between ARCHIVED and purge, microseconds
    retention_basis text,                        -- the legal basis of a retention above 0
    usage_unknown_accepted boolean NOT NULL,     -- policy's word, as of the request
    requested_at timestamptz NOT NULL,           -- when
    received_at timestamptz NOT NULL,            -- when the demand arrived; the law's clock runs from here
    legal_due_at timestamptz,                    -- when the law wants it done; NULL where it names no date
    grace_until timestamptz,                     -- computed once, when deregister is recorded
    archive_after timestamptz,                   -- computed once, when deactivate is recorded
    retention_until timestamptz,                 -- computed once, when ARCHIVED is recorded
    round bigint NOT NULL CHECK (round >= 0),    -- exports begun before the current one
    salt bytea,                                  -- secret of the inventory's digests; NULL once purged
    plan json,                                   -- the destruction plan to the letter, from ARCHIVED on; NULL once purged
    plan_digest text,                            -- its digest: what is approved
    closed_at timestamptz,                       -- when it was cancelled or completed
    CHECK (retention_us = 0 OR retention_basis IS NOT NULL),
    CHECK ((status = 'open') = (closed_at IS NULL))
) WITH (fillfactor = 70);
CREATE UNIQUE INDEX offboardings_one_open ON offboardings (plane_id) WHERE status = 'open';
CREATE INDEX offboardings_by_plane ON offboardings (plane_id, place);

-- The terms do not move once they are frozen, and an instant is computed once.
CREATE TRIGGER offboardings_terms_are_frozen BEFORE UPDATE ON offboardings FOR EACH ROW
WHEN (NEW.grace_us <> OLD.grace_us OR NEW.archive_delay_us <> OLD.archive_delay_us OR NEW.retention_us <> OLD.retention_us
    OR NEW.terms_digest <> OLD.terms_digest OR NEW.ground <> OLD.ground OR NEW.plane_id <> OLD.plane_id
    OR NEW.requested_by <> OLD.requested_by OR NEW.evict <> OLD.evict
    OR (OLD.grace_until IS NOT NULL AND NEW.grace_until IS DISTINCT FROM OLD.grace_until)
    OR (OLD.archive_after IS NOT NULL AND NEW.archive_after IS DISTINCT FROM OLD.archive_after)
    OR (OLD.retention_until IS NOT NULL AND NEW.retention_until IS DISTINCT FROM OLD.retention_until))
EXECUTE FUNCTION refuse('offboardings: terms and started deadlines are frozen');

CREATE TABLE archives (
    offboarding_id uuid PRIMARY KEY REFERENCES offboardings (id), -- whose export it is
    prefix text NOT NULL,                        -- where it lies; ends in the plane's id
    manifest json,                               -- the verified manifest to the letter; NULL once purged
    manifest_sha256 text NOT NULL,               -- digest of its canonical form
    rows bigint NOT NULL,                        -- records in it
    bytes bigint NOT NULL,                       -- bytes of its parts
    parts bigint NOT NULL,                       -- number of its parts
    verified_at timestamptz NOT NULL,            -- when everything had been read back
    purged_at timestamptz                        -- when it was proved gone
);
