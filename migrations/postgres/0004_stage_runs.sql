-- The queue, and after that the history. A row is one durable job: one step of one offboarding.
CREATE TABLE stage_runs (
    id uuid PRIMARY KEY,                         -- never chosen by the caller
    place bigint GENERATED ALWAYS AS IDENTITY,   -- the order of insertion
    offboarding_id uuid NOT NULL REFERENCES offboardings (id), -- what it belongs to
    plane_id uuid NOT NULL REFERENCES planes (id), -- on what it works
    tenant_id uuid NOT NULL REFERENCES tenants (id), -- whose it is
    step text NOT NULL CHECK (step IN ('deregister', 'verify', 'deactivate', 'export', 'evict', 'purge', 'restore')), -- what it does
    status text NOT NULL CHECK (status IN ('queued', 'parked', 'running', 'succeeded', 'halted', 'withdrawn')), -- the one true status
    due_at timestamptz,                          -- queued: when it may be claimed
    waits_for text,                              -- parked: the refusal's code; whatever changes that fact wakes it
    attempt bigint NOT NULL CHECK (attempt >= 0), -- failures recorded since it was enqueued or retried
    interruptions bigint NOT NULL CHECK (interruptions >= 0), -- leases that ran out
    epoch bigint,                                -- running: the plane's epoch of its claim
    lease_owner text,                            -- running: the worker
    lease_until timestamptz,                     -- running: when it is taken back
    progress jsonb,                              -- how far the handler is; a report, nothing is decided by it
    blocked jsonb,                               -- the refusal on record, so that it is recorded once
    last_error jsonb,                            -- the last failure
    evidence jsonb,                              -- what it established
    enqueued_at timestamptz NOT NULL,            -- when it was inserted
    started_at timestamptz,                      -- when it was first claimed
    finished_at timestamptz,                     -- when it succeeded, halted or was withdrawn
    CHECK ((status = 'running') = (lease_owner IS NOT NULL)),
    CHECK ((status = 'running') = (lease_until IS NOT NULL)),
    CHECK ((status = 'queued') = (due_at IS NOT NULL)),
    CHECK ((status = 'parked') = (waits_for IS NOT NULL))
) WITH (fillfactor = 80);
-- Waiting work costs nothing: a claim reads only what is due, from the front of this index.
CREATE INDEX stage_runs_due ON stage_runs (due_at) WHERE status = 'queued';
-- Where the front is all one tenant's: from tenant to tenant, each one's longest waiting.
CREATE INDEX stage_runs_due_by_tenant ON stage_runs (tenant_id, due_at) WHERE status = 'queued';
CREATE INDEX stage_runs_leased ON stage_runs (tenant_id, lease_until) WHERE status = 'running';
-- One run of a plane at a time, whatever happens.
CREATE UNIQUE INDEX stage_runs_one_open ON stage_runs (plane_id) WHERE status IN ('queued', 'parked', 'running', 'halted');
CREATE INDEX stage_runs_by_plane ON stage_runs (plane_id);
CREATE INDEX stage_runs_by_offboarding ON stage_runs (offboarding_id, place);
CREATE INDEX stage_runs_by_tenant_parked ON stage_runs (tenant_id) WHERE status = 'parked';
-- Purges begun in the last hour, for the limit.
CREATE INDEX stage_runs_purges ON stage_runs (started_at) WHERE step = 'purge' AND started_at IS NOT NULL;
