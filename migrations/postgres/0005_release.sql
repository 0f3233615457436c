-- What releases a destructive step, and what forbids it.
CREATE TABLE approvals (
    id uuid PRIMARY KEY,                         -- never chosen by the caller
    place bigint GENERATED ALWAYS AS IDENTITY,   -- the order of decisions
    offboarding_id uuid NOT NULL REFERENCES offboardings (id), -- which offboarding
    plan_digest text NOT NULL,                   -- exactly what is released
    status text NOT NULL CHECK (status IN ('granted', 'denied', 'withdrawn', 'expired', 'consumed')), -- the one true status
    requested_by text NOT NULL,                  -- who asked for the offboarding, as type:id
    approved_by text NOT NULL,                   -- who decided, as type:id
    identity_assurance text NOT NULL CHECK (identity_assurance IN ('asserted', 'os', 'oidc', 'signed')), -- how that is known
    reason text NOT NULL,                        -- in the approver's words
    decided_at timestamptz NOT NULL,             -- when
    expires_at timestamptz NOT NULL,             -- when a grant ends unless it was used
    ended_at timestamptz,                        -- when it was withdrawn, expired or consumed
    CHECK (approved_by <> requested_by)
);
-- One release at a time; a denial is final for its plan, not for the next one.
CREATE UNIQUE INDEX approvals_one_standing ON approvals (offboarding_id) WHERE status IN ('granted', 'consumed');
CREATE UNIQUE INDEX approvals_denied_once ON approvals (offboarding_id, plan_digest) WHERE status = 'denied';
CREATE INDEX approvals_by_offboarding ON approvals (offboarding_id);
CREATE INDEX approvals_expiring ON approvals (expires_at) WHERE status = 'granted';

CREATE TABLE holds (
    id uuid PRIMARY KEY,                         -- never chosen by the caller
    subject_kind text NOT NULL CHECK (subject_kind IN ('plane', 'tenant')), -- what is held
    subject_id uuid NOT NULL,                    -- which
    reason text NOT NULL,                        -- in the placer's words
    placed_by text NOT NULL,                     -- who, as type:id
    placed_at timestamptz NOT NULL,              -- when
    released_by text,                            -- who ended it
    release_reason text,                         -- in the releaser's words
    released_at timestamptz,                     -- when
    CHECK ((released_at IS NULL) = (released_by IS NULL) AND (released_at IS NULL) = (release_reason IS NULL))
);
CREATE INDEX holds_open ON holds (subject_id) WHERE released_at IS NULL;

CREATE TABLE pauses (
    scope text PRIMARY KEY,                      -- all, tenant:<id> or stage:<name>
    reason text NOT NULL,                        -- in the operator's words
    paused_by text NOT NULL,                     -- who, as type:id
    paused_at timestamptz NOT NULL               -- when
);
