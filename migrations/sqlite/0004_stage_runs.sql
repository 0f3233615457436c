-- The queue, and after that the history. A row is one durable job: one step of one offboarding.
CREATE TABLE stage_runs (
    id TEXT PRIMARY KEY,                         -- never chosen by the caller
    offboarding_id TEXT NOT NULL REFERENCES offboardings (id), -- what it belongs to
    plane_id TEXT NOT NULL REFERENCES planes (id), -- on what it works
    tenant_id TEXT NOT NULL REFERENCES tenants (id), -- whose it is
    step TEXT NOT NULL CHECK (step IN ('deregister', 'verify', 'deactivate', 'export', 'evict', 'purge', 'restore')), -- what it does
    status TEXT NOT NULL CHECK (status IN ('queued', 'parked', 'running', 'succeeded', 'halted', 'withdrawn')), -- the one true status
    due_at INTEGER,                              -- queued: when it may be claimed
    waits_for TEXT,                              -- parked: the refusal's code; whatever changes that fact wakes it
    attempt INTEGER NOT NULL CHECK (attempt >= 0), -- failures recorded since it was enqueued or retried
    interruptions INTEGER NOT NULL CHECK (interruptions >= 0), -- leases that ran out
    epoch INTEGER,                               -- running: the plane's epoch of its claim
    lease_owner TEXT,                            -- running: the worker
    lease_until INTEGER,                         -- running: when it is taken back
    progress TEXT,                               -- JSON: how far the handler is; a report, nothing is decided by it
    blocked TEXT,                                -- JSON: the refusal on record, so that it is recorded once
    last_error TEXT,                             -- JSON: the last failure
    evidence TEXT,                               -- JSON: what it established
    enqueued_at INTEGER NOT NULL,                -- when it was inserted
    started_at INTEGER,                          -- when it was first claimed
    finished_at INTEGER,                         -- when it succeeded, halted or was withdrawn
    CHECK ((status = 'running') = (lease_owner IS NOT NULL)),
    CHECK ((status = 'running') = (lease_until IS NOT NULL)),
    CHECK ((status = 'queued') = (due_at IS NOT NULL)),
    CHECK ((status = 'parked') = (waits_for IS NOT NULL))
) STRICT;
-- Waiting work costs nothing: a claim reads only what is due, from the front of this index.
CREATE INDEX stage_runs_due ON stage_runs (due_at) WHERE status = 'queued';
CREATE INDEX stage_runs_leased ON stage_runs (lease_until) WHERE status = 'running';
-- One run of a plane at a time, whatever happens.
CREATE UNIQUE INDEX stage_runs_one_open ON stage_runs (plane_id) WHERE status IN ('queued', 'parked', 'running', 'halted');
CREATE INDEX stage_runs_by_offboarding ON stage_runs (offboarding_id, enqueued_at);
CREATE INDEX stage_runs_by_tenant_parked ON stage_runs (tenant_id) WHERE status = 'parked';
-- Purges begun in the last hour, for the limit.
CREATE INDEX stage_runs_purges ON stage_runs (started_at) WHERE step = 'purge' AND started_at IS NOT NULL;
