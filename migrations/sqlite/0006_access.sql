-- Who may query a plane, and who is using it.
CREATE TABLE access_tokens (
    id TEXT PRIMARY KEY,                         -- never chosen by the caller
    plane_id TEXT NOT NULL REFERENCES planes (id), -- what it opens
    token_hash TEXT NOT NULL UNIQUE,             -- SHA-256 of the token; the token itself is shown once and kept nowhere
    prefix TEXT NOT NULL,                        -- its first characters, to recognise it by
    status TEXT NOT NULL CHECK (status IN ('active', 'suspended', 'revoked')), -- the one true status
    suspended_by TEXT REFERENCES offboardings (id), -- which offboarding suspended it; cancel restores exactly those
    issued_at INTEGER NOT NULL,                  -- when
    expires_at INTEGER,                          -- when it ends by itself; NULL: not
    revoked_at INTEGER,                          -- when it ended for good
    CHECK ((status = 'suspended') = (suspended_by IS NOT NULL)),
    CHECK ((status = 'revoked') = (revoked_at IS NOT NULL))
) STRICT;
CREATE INDEX access_tokens_by_plane ON access_tokens (plane_id);

CREATE TABLE plane_usage (
    id TEXT PRIMARY KEY,                         -- never chosen by the caller
    plane_id TEXT NOT NULL REFERENCES planes (id), -- what is used
    kind TEXT NOT NULL CHECK (kind IN ('run', 'query')), -- a run may write and last long, a query reads
    holder TEXT NOT NULL,                        -- who uses it, as reported
    opened_at INTEGER NOT NULL,                  -- when
    expires_at INTEGER NOT NULL,                 -- when it counts as ended unless it is closed before
    closed_at INTEGER                            -- when it ended
) STRICT;
CREATE INDEX plane_usage_open ON plane_usage (plane_id, expires_at) WHERE closed_at IS NULL;
