-- What an offboarding suspends and a cancel gives back: what depends on a plane from outside, and each thing with what it was before.

-- What outside uses a plane and can be told to stop and to go on: schedules of ingestion, servers, caches.
CREATE TABLE dependents (
    id TEXT PRIMARY KEY,                         -- never chosen by the caller
    plane_id TEXT NOT NULL REFERENCES planes (id), -- what it uses
    name TEXT,                                   -- how people call it; NULL once the plane is purged
    kind TEXT NOT NULL CHECK (kind IN ('schedule', 'service', 'other')), -- decides under which access it is suspended
    control TEXT,                                -- the section [dependents.NAME] with its commands; NULL once the plane is purged
    added_at INTEGER NOT NULL,                   -- when it was registered
    removed_at INTEGER                           -- when somebody took it off the list; a suspension of it is still undone
) STRICT;
CREATE UNIQUE INDEX dependents_by_plane ON dependents (plane_id, name) WHERE removed_at IS NULL;

-- What an offboarding suspended, each with what it was before: a cancel restores exactly these, and says what became of each.
CREATE TABLE suspensions (
    offboarding_id TEXT NOT NULL REFERENCES offboardings (id), -- who suspended it
    kind TEXT NOT NULL CHECK (kind IN ('token', 'fence', 'dependent')), -- what kind of thing it is
    what TEXT NOT NULL,                          -- which: a token's id, a binding's position, a dependent's id
    before TEXT,                                 -- JSON: what it was; NULL once the plane is purged
    suspended_at INTEGER NOT NULL,               -- when it was written down, before or with the deed
    restored_at INTEGER,                         -- when it was last tried to be given back
    outcome TEXT CHECK (outcome IN ('restored', 'not_restored', 'left_alone')), -- what came of that; NULL: not tried yet
    note TEXT,                                   -- why it is not restored; NULL once the plane is purged
    accepted_at INTEGER,                         -- when a person accepted that it may stay as it is
    PRIMARY KEY (offboarding_id, kind, what),
    CHECK ((outcome IS NULL) = (restored_at IS NULL))
) STRICT;

-- A fence with a newer epoch than this is the offboarding's own; another one was there before.
ALTER TABLE offboardings ADD COLUMN requested_epoch INTEGER NOT NULL DEFAULT 0; -- the plane's epoch at the request
