-- What somebody is to be told, before it happens or because it did; after that, that it was told.
CREATE TABLE notices (
    id TEXT PRIMARY KEY,                         -- never chosen by the caller; receivers know repeats by it
    key TEXT NOT NULL UNIQUE,                    -- kind, subject, date and lead: each of them is told once
    kind TEXT NOT NULL,                          -- what comes or came
    tenant_id TEXT REFERENCES tenants (id),      -- whom it concerns; NULL: everybody
    plane_id TEXT REFERENCES planes (id),        -- which plane, if it is about one
    offboarding_id TEXT REFERENCES offboardings (id), -- which offboarding, if it is about one
    subject_id TEXT,                             -- the hold, approval, review or run that it is about
    happens_at INTEGER NOT NULL,                 -- when what it is about happens or happened
    lead_us INTEGER NOT NULL CHECK (lead_us >= 0), -- how long before that it is told, microseconds
    details TEXT NOT NULL,                       -- JSON: counts and ids that the receiver is given
    status TEXT NOT NULL CHECK (status IN ('queued', 'sending', 'delivered', 'moot', 'failed')), -- the one true status
    due_at INTEGER,                              -- queued: when it is told, or tried again
    attempt INTEGER NOT NULL CHECK (attempt >= 0), -- failures so far
    lease_owner TEXT,                            -- sending: who delivers it
    lease_until INTEGER,                         -- sending: when somebody else does
    delivered TEXT NOT NULL,                     -- JSON: the channels that have it, with the instant
    last_error TEXT,                             -- JSON: the last failure, by channel
    created_at INTEGER NOT NULL,                 -- when it was inserted
    finished_at INTEGER,                         -- when it was delivered, given up or no longer true
    CHECK ((status = 'queued') = (due_at IS NOT NULL)),
    CHECK ((status = 'sending') = (lease_owner IS NOT NULL) AND (status = 'sending') = (lease_until IS NOT NULL)),
    CHECK ((status IN ('delivered', 'moot', 'failed')) = (finished_at IS NOT NULL))
) STRICT;
CREATE INDEX notices_due ON notices (due_at) WHERE status = 'queued';
CREATE INDEX notices_sending ON notices (lease_until) WHERE status = 'sending';
CREATE INDEX notices_failed ON notices (finished_at) WHERE status = 'failed';
CREATE INDEX notices_by_plane ON notices (plane_id) WHERE plane_id IS NOT NULL;
