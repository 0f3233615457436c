-- Probes: whether anything of a purged plane has come back, asked of its stores and its archive again and again. A row is the durable
-- job, and after that the history.
CREATE TABLE probes (
    id uuid PRIMARY KEY,                         -- never chosen by the caller
    offboarding_id uuid NOT NULL REFERENCES offboardings (id), -- whose purge is tried
    plane_id uuid NOT NULL REFERENCES planes (id), -- the purged plane
    tenant_id uuid NOT NULL REFERENCES tenants (id), -- its owner
    cause text NOT NULL CHECK (cause IN ('planned', 'again', 'asked')), -- planned at the purge, repeated while a finding is open, asked for
    requested_by text,                           -- who asked, as type:id
    status text NOT NULL CHECK (status IN ('queued', 'running', 'clean', 'found', 'failed', 'withdrawn')), -- where it stands
    due_at timestamptz NOT NULL,                 -- not before
    attempt bigint NOT NULL DEFAULT 0,           -- failures recorded
    interruptions bigint NOT NULL DEFAULT 0,     -- leases that ran out
    epoch bigint NOT NULL DEFAULT 0,             -- raised by each claim: an earlier holder's answer says nothing
    lease_owner text,                            -- the worker that asks
    lease_until timestamptz,                     -- until when, unless it renews
    evidence jsonb,                              -- what was found, in counts
    last_error jsonb,                            -- why it failed last
    finished_at timestamptz,                     -- when it ended
    CHECK ((cause = 'asked') = (requested_by IS NOT NULL)),
    CHECK ((status = 'running') = (lease_owner IS NOT NULL) AND (status = 'running') = (lease_until IS NOT NULL)),
    CHECK ((status IN ('queued', 'running')) = (finished_at IS NULL))
);
CREATE INDEX probes_due ON probes (due_at) WHERE status = 'queued';
CREATE INDEX probes_leased ON probes (lease_until) WHERE status = 'running';
CREATE INDEX probes_of_plane ON probes (plane_id, due_at);

-- What a purged plane is looked for by. The row goes when the last probe has come back clean.
CREATE TABLE probe_scopes (
    plane_id uuid PRIMARY KEY REFERENCES planes (id), -- the purged plane
    archive_url text,                            -- where its archive was
    salt bytea NOT NULL,                         -- the secret under which its samples are digested
    scopes json NOT NULL                         -- one object a binding: the mapping, and what is known of its records
);
