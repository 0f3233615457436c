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
