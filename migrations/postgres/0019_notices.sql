-- What somebody is to be told, before it happens or because it did; after that, that it was told.
CREATE TABLE notices (
    id uuid PRIMARY KEY,                         -- never chosen by the caller; receivers know repeats by it
    key text NOT NULL UNIQUE,                    -- kind, subject, date and lead: each of them is told once
    kind text NOT NULL,                          -- what comes or came
    tenant_id uuid REFERENCES tenants (id),      -- whom it concerns; NULL: everybody
    plane_id uuid REFERENCES planes (id),        -- which plane, if it is about one
    offboarding_id uuid REFERENCES offboardings (id), -- which offboarding, if it is about one
    subject_id uuid,                             -- the hold, approval, review or run that it is about
    happens_at timestamptz NOT NULL,             -- when what it is about happens or happened
    lead_us bigint NOT NULL CHECK (lead_us >= 0), -- how long before that it is told, microseconds
    details jsonb NOT NULL,                      -- JSON: counts and ids that the receiver is given
    status text NOT NULL CHECK (status IN ('queued', 'sending', 'delivered', 'moot', 'failed')), -- the one true status
    due_at timestamptz,                          -- queued: when it is told, or tried again
    attempt bigint NOT NULL CHECK (attempt >= 0), -- failures so far
    lease_owner text,                            -- sending: who delivers it
    lease_until timestamptz,                     -- sending: when somebody else does
    delivered jsonb NOT NULL,                    -- JSON: the channels that have it, with the instant
    last_error jsonb,                            -- JSON: the last failure, by channel
    created_at timestamptz NOT NULL,             -- when it was inserted
    finished_at timestamptz,                     -- when it was delivered, given up or no longer true
    CHECK ((status = 'queued') = (due_at IS NOT NULL)),
    CHECK ((status = 'sending') = (lease_owner IS NOT NULL) AND (status = 'sending') = (lease_until IS NOT NULL)),
    CHECK ((status IN ('delivered', 'moot', 'failed')) = (finished_at IS NOT NULL))
);
CREATE INDEX notices_due ON notices (due_at) WHERE status = 'queued';
CREATE INDEX notices_sending ON notices (lease_until) WHERE status = 'sending';
CREATE INDEX notices_failed ON notices (finished_at) WHERE status = 'failed';
CREATE INDEX notices_by_plane ON notices (plane_id) WHERE plane_id IS NOT NULL;
