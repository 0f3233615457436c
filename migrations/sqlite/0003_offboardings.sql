-- Offboardings: the terms frozen at the request, and each instant once its wait has started.
CREATE TABLE offboardings (
    id TEXT PRIMARY KEY,                         -- never chosen by the caller
    plane_id TEXT NOT NULL REFERENCES planes (id), -- what leaves
    tenant_id TEXT NOT NULL REFERENCES tenants (id), -- whose it is
    plan_version INTEGER NOT NULL,               -- which lifecycle plan it follows; a worker claims only those it knows
    status TEXT NOT NULL CHECK (status IN ('open', 'cancelled', 'completed')), -- the one true status
    ground TEXT NOT NULL,                        -- why it leaves
    reason TEXT NOT NULL,                        -- in the requester's words
    requested_by TEXT NOT NULL,                  -- the actor, as type:id
    terms_digest TEXT NOT NULL,                  -- digest of the terms; an equal request is the same request
    grace_access TEXT NOT NULL CHECK (grace_access IN ('read_only', 'full', 'none')), -- what grace leaves open
    evict TEXT NOT NULL CHECK (evict IN ('after_archive', 'at_purge')), -- when the hot copy goes
    grace_us INTEGER NOT NULL CHECK (grace_us >= 0), -- length of the grace period, microseconds
    archive_delay_us INTEGER NOT NULL CHECK (archive_delay_us >= 0), -- between DEACTIVATED and export, microseconds
    retention_us INTEGER NOT NULL CHECK (retention_us >= 0), -- between ARCHIVED and purge, microseconds
    retention_basis TEXT,                        -- the legal basis of a retention above 0
    usage_unknown_accepted INTEGER NOT NULL CHECK (usage_unknown_accepted IN (0, 1)), -- policy's word, as of the request
    requested_at INTEGER NOT NULL,               -- when
    received_at INTEGER NOT NULL,                -- when the demand arrived; the law's clock runs from here
    legal_due_at INTEGER,                        -- when the law wants it done; NULL where it names no date
    grace_until INTEGER,                         -- computed once, when deregister is recorded
    archive_after INTEGER,                       -- computed once, when deactivate is recorded
    retention_until INTEGER,                     -- computed once, when ARCHIVED is recorded
    round INTEGER NOT NULL CHECK (round >= 0),   -- exports begun before the current one
    salt BLOB,                                   -- secret of the inventory's digests; NULL once purged
    plan TEXT,                                   -- JSON: the destruction plan, from ARCHIVED on; NULL once purged
    plan_digest TEXT,                            -- its digest: what is approved
    closed_at INTEGER,                           -- when it was cancelled or completed
    CHECK (retention_us = 0 OR retention_basis IS NOT NULL),
    CHECK ((status = 'open') = (closed_at IS NULL))
) STRICT;
CREATE UNIQUE INDEX offboardings_one_open ON offboardings (plane_id) WHERE status = 'open';
CREATE INDEX offboardings_by_plane ON offboardings (plane_id, requested_at);

-- The terms do not move once they are frozen, and an instant is computed once.
CREATE TRIGGER offboardings_terms_are_frozen BEFORE UPDATE ON offboardings
WHEN NEW.grace_us <> OLD.grace_us OR NEW.archive_delay_us <> OLD.archive_delay_us OR NEW.retention_us <> OLD.retention_us
    OR NEW.terms_digest <> OLD.terms_digest OR NEW.ground <> OLD.ground OR NEW.plane_id <> OLD.plane_id
    OR NEW.requested_by <> OLD.requested_by OR NEW.evict <> OLD.evict
    OR (OLD.grace_until IS NOT NULL AND NEW.grace_until IS NOT OLD.grace_until)
    OR (OLD.archive_after IS NOT NULL AND NEW.archive_after IS NOT OLD.archive_after)
    OR (OLD.retention_until IS NOT NULL AND NEW.retention_until IS NOT OLD.retention_until)
BEGIN SELECT RAISE(ABORT, 'offboardings: terms and started deadlines are frozen'); END;

CREATE TABLE archives (
    offboarding_id TEXT PRIMARY KEY REFERENCES offboardings (id), -- whose export it is
    prefix TEXT NOT NULL,                        -- where it lies; ends in the plane's id
    manifest TEXT,                               -- JSON: the verified manifest; NULL once purged
    manifest_sha256 TEXT NOT NULL,               -- digest of its canonical form
    rows INTEGER NOT NULL,                       -- records in it
    bytes INTEGER NOT NULL,                      -- bytes of its parts
    parts INTEGER NOT NULL,                      -- number of its parts
    verified_at INTEGER NOT NULL,                -- when everything had been read back
    purged_at INTEGER                            -- when it was proved gone
) STRICT;
