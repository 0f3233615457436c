-- Findings: something of a purged plane came back, and its case is open again until somebody has closed it.
CREATE TABLE findings (
    id TEXT PRIMARY KEY,                         -- never chosen by the caller
    plane_id TEXT NOT NULL REFERENCES planes (id), -- the purged plane
    offboarding_id TEXT NOT NULL REFERENCES offboardings (id), -- whose purge was undone
    tenant_id TEXT NOT NULL REFERENCES tenants (id), -- its owner
    probe_id TEXT NOT NULL REFERENCES probes (id), -- the probe that found it first
    status TEXT NOT NULL CHECK (status IN ('open', 'closed')), -- whether somebody has still to act
    opened_at INTEGER NOT NULL,                  -- when it was found first
    seen_at INTEGER NOT NULL,                    -- when it was found last
    clean_at INTEGER,                            -- when a probe found nothing, since it was found last
    evidence TEXT NOT NULL,                      -- what was found last, in counts
    closed_at INTEGER,                           -- when it was closed
    closed_by TEXT,                              -- by whom, as type:id
    reason TEXT,                                 -- why, in that person's words
    CHECK ((status = 'closed') = (closed_at IS NOT NULL) AND (status = 'closed') = (closed_by IS NOT NULL)),
    CHECK (status = 'open' OR clean_at IS NOT NULL)
) STRICT;
CREATE UNIQUE INDEX findings_open ON findings (plane_id) WHERE status = 'open';
CREATE INDEX findings_of_plane ON findings (plane_id, opened_at);

-- What two persons attested of a store that is gone, so that a purge of this plane does not wait for it for ever.
CREATE TABLE attestations (
    id TEXT PRIMARY KEY,                         -- never chosen by the caller
    plane_id TEXT NOT NULL REFERENCES planes (id), -- for whose purge and probes
    store_id TEXT NOT NULL REFERENCES stores (id), -- the store that is gone
    proposed_by TEXT NOT NULL,                   -- the first of them, as type:id
    reason TEXT NOT NULL,                        -- in that person's words
    evidence_sha256 TEXT NOT NULL,               -- digest of what they base it on
    said TEXT NOT NULL,                          -- what the store said when it was asked: not with its fence
    proposed_at INTEGER NOT NULL,                -- when
    confirmed_by TEXT,                           -- the second
    confirmed_at INTEGER,                        -- when
    CHECK (confirmed_by IS NULL OR confirmed_by <> proposed_by),
    CHECK ((confirmed_by IS NULL) = (confirmed_at IS NULL))
) STRICT;
CREATE UNIQUE INDEX attestations_of_plane ON attestations (plane_id, store_id);

-- Who approved a plan under which a purge began may approve the one that an attestation made of it.
DROP INDEX approvals_one_each;
CREATE UNIQUE INDEX approvals_one_each ON approvals (offboarding_id, approved_by, plan_digest) WHERE status IN ('granted', 'consumed');
