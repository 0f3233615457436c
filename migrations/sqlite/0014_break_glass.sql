-- Grace periods that were cut short, and the review that each of them owes.
CREATE TABLE break_glass (
    id TEXT PRIMARY KEY,                         -- never chosen by the caller
    offboarding_id TEXT NOT NULL UNIQUE REFERENCES offboardings (id), -- whose grace period
    broken_by TEXT NOT NULL,                     -- who, as type:id
    reason TEXT NOT NULL,                        -- in that person's words
    broken_at INTEGER NOT NULL,                  -- when
    reviewed_by TEXT,                            -- who looked at it afterwards
    review TEXT,                                 -- what that person found
    reviewed_at INTEGER,                         -- when
    CHECK (reviewed_by IS NULL OR reviewed_by <> broken_by),
    CHECK ((reviewed_at IS NULL) = (reviewed_by IS NULL) AND (reviewed_at IS NULL) = (review IS NULL))
) STRICT;
CREATE INDEX break_glass_open ON break_glass (broken_at) WHERE reviewed_at IS NULL;
