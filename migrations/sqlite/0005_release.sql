-- What releases a destructive step, and what forbids it.
CREATE TABLE approvals (
    id TEXT PRIMARY KEY,                         -- never chosen by the caller
    offboarding_id TEXT NOT NULL REFERENCES offboardings (id), -- which offboarding
    plan_digest TEXT NOT NULL,                   -- exactly what is released
    status TEXT NOT NULL CHECK (status IN ('granted', 'denied', 'withdrawn', 'expired', 'consumed')), -- the one true status
    requested_by TEXT NOT NULL,                  -- who asked for the offboarding, as type:id
    approved_by TEXT NOT NULL,                   -- who decided, as type:id
    identity_assurance TEXT NOT NULL CHECK (identity_assurance IN ('asserted', 'os', 'oidc', 'signed')), -- how that is known
    reason TEXT NOT NULL,                        -- in the approver's words
    decided_at INTEGER NOT NULL,                 -- when
    expires_at INTEGER NOT NULL,                 -- when a grant ends unless it was used
    ended_at INTEGER,                            -- when it was withdrawn, expired or consumed
    CHECK (approved_by <> requested_by)
) STRICT;
-- One release at a time; a denial is final for its plan, not for the next one.
CREATE UNIQUE INDEX approvals_one_standing ON approvals (offboarding_id) WHERE status IN ('granted', 'consumed');
CREATE UNIQUE INDEX approvals_denied_once ON approvals (offboarding_id, plan_digest) WHERE status = 'denied';
CREATE INDEX approvals_expiring ON approvals (expires_at) WHERE status = 'granted';

CREATE TABLE holds (
    id TEXT PRIMARY KEY,                         -- never chosen by the caller
    subject_kind TEXT NOT NULL CHECK (subject_kind IN ('plane', 'tenant')), -- what is held
    subject_id TEXT NOT NULL,                    -- which
    reason TEXT NOT NULL,                        -- in the placer's words
    placed_by TEXT NOT NULL,                     -- who, as type:id
    placed_at INTEGER NOT NULL,                  -- when
    released_by TEXT,                            -- who ended it
    release_reason TEXT,                         -- in the releaser's words
    released_at INTEGER,                         -- when
    CHECK ((released_at IS NULL) = (released_by IS NULL) AND (released_at IS NULL) = (release_reason IS NULL))
) STRICT;
CREATE INDEX holds_open ON holds (subject_id) WHERE released_at IS NULL;

CREATE TABLE pauses (
    scope TEXT PRIMARY KEY,                      -- all, tenant:<id> or stage:<name>
    reason TEXT NOT NULL,                        -- in the operator's words
    paused_by TEXT NOT NULL,                     -- who, as type:id
    paused_at INTEGER NOT NULL                   -- when
) STRICT;
