-- Who may query a plane, and who is using it.
CREATE TABLE access_tokens (
    id uuid PRIMARY KEY,                         -- never chosen by the caller
    plane_id uuid NOT NULL REFERENCES planes (id), -- what it opens
    token_hash text NOT NULL UNIQUE,             -- SHA-256 of the token; the token itself is shown once and kept nowhere
    prefix text NOT NULL,                        -- its first characters, to recognise it by
    status text NOT NULL CHECK (status IN ('active', 'suspended', 'revoked')), -- the one true status
    suspended_by uuid REFERENCES offboardings (id), -- which offboarding suspended it; cancel restores exactly those
    issued_at timestamptz NOT NULL,              -- when
    expires_at timestamptz,                      -- when it ends by itself; NULL: not
    revoked_at timestamptz,                      -- when it ended for good
    CHECK ((status = 'suspended') = (suspended_by IS NOT NULL)),
    CHECK ((status = 'revoked') = (revoked_at IS NOT NULL))
);
CREATE INDEX access_tokens_by_plane ON access_tokens (plane_id);

CREATE TABLE plane_usage (
    id uuid PRIMARY KEY,                         -- never chosen by the caller
    plane_id uuid NOT NULL REFERENCES planes (id), -- what is used
    kind text NOT NULL CHECK (kind IN ('run', 'query')), -- a run may write and last long, a query reads
    holder text NOT NULL,                        -- who uses it, as reported
    opened_at timestamptz NOT NULL,              -- when
    expires_at timestamptz NOT NULL,             -- when it counts as ended unless it is closed before
    closed_at timestamptz                        -- when it ended
);
CREATE INDEX plane_usage_open ON plane_usage (plane_id, expires_at) WHERE closed_at IS NULL;
