-- What an offboarding suspends and a cancel gives back: what depends on a plane from outside, and each thing with what it was before.

-- What outside uses a plane and can be told to stop and to go on: schedules of ingestion, servers, caches.
CREATE TABLE dependents (
    id uuid PRIMARY KEY,                         -- never chosen by the caller
    plane_id uuid NOT NULL REFERENCES planes (id), -- what it uses
    name text,                                   -- how people call it; NULL once the plane is purged
    kind text NOT NULL CHECK (kind IN ('schedule', 'service', 'other')), -- decides under which access it is suspended
    control text,                                -- the section [dependents.NAME] with its commands; NULL once the plane is purged
    added_at timestamptz NOT NULL,               -- when it was registered
    removed_at timestamptz                       -- when somebody took it off the list; a suspension of it is still undone
);
CREATE UNIQUE INDEX dependents_by_plane ON dependents (plane_id, name) WHERE removed_at IS NULL;

-- What an offboarding suspended, each with what it was before: a cancel restores exactly these, and says what became of each.
CREATE TABLE suspensions (
    offboarding_id uuid NOT NULL REFERENCES offboardings (id), -- who suspended it
    kind text NOT NULL CHECK (kind IN ('token', 'fence', 'dependent')), -- what kind of thing it is
    what text NOT NULL,                          -- which: a token's id, a binding's position, a dependent's id
    before jsonb,                                -- what it was; NULL once the plane is purged
    suspended_at timestamptz NOT NULL,           -- when it was written down, before or with the deed
    restored_at timestamptz,                     -- when it was last tried to be given back
    outcome text CHECK (outcome IN ('restored', 'not_restored', 'left_alone')), -- what came of that; NULL: not tried yet
    note text,                                   -- why it is not restored; NULL once the plane is purged
    accepted_at timestamptz,                     -- when a person accepted that it may stay as it is
    PRIMARY KEY (offboarding_id, kind, what),
    CHECK ((outcome IS NULL) = (restored_at IS NULL))
);

-- A fence with a newer epoch than this is the offboarding's own; another one was there before.
ALTER TABLE offboardings ADD COLUMN requested_epoch bigint NOT NULL DEFAULT 0; -- the plane's epoch at the request
