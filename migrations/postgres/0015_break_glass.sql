-- Grace periods that were cut short, and the review that each of them owes.
CREATE TABLE break_glass (
    id uuid PRIMARY KEY,                         -- never chosen by the caller
    offboarding_id uuid NOT NULL UNIQUE REFERENCES offboardings (id), -- whose grace period
    broken_by text NOT NULL,                     -- who, as type:id
    reason text NOT NULL,                        -- in that person's words
    broken_at timestamptz NOT NULL,              -- when
    reviewed_by text,                            -- who looked at it afterwards
    review text,                                 -- what that person found
    reviewed_at timestamptz,                     -- when
    CHECK (reviewed_by IS NULL OR reviewed_by <> broken_by),
    CHECK ((reviewed_at IS NULL) = (reviewed_by IS NULL) AND (reviewed_at IS NULL) = (review IS NULL))
);
CREATE INDEX break_glass_open ON break_glass (broken_at) WHERE reviewed_at IS NULL;
