-- Legal deadlines of offboardings, computed once by the calendar when they were requested, and what became of them.
CREATE TABLE deadlines (
    offboarding_id TEXT PRIMARY KEY REFERENCES offboardings (id), -- what must be done by then
    law TEXT NOT NULL,                           -- which law's rule it is, as the configuration names it; own: a date that the caller named
    zone TEXT NOT NULL,                          -- the time zone in whose days it is counted
    first_due_on TEXT NOT NULL,                  -- the last day, as a date of that zone
    first_due_at INTEGER NOT NULL,               -- the instant at which that day is over
    extension_due_on TEXT,                       -- the last day if it is extended; NULL: it cannot be
    extension_due_at INTEGER,                    -- the instant at which that day is over
    due_at INTEGER NOT NULL,                     -- the one that is in force
    extended_at INTEGER,                         -- when it was extended; NULL: it was not
    extended_by TEXT,                            -- by whom, as type:id
    extension_reason TEXT,                       -- in that person's words
    told_at INTEGER,                             -- when the person concerned was told of the extension
    closed_at INTEGER,                           -- when the offboarding was cancelled or completed
    CHECK ((extension_due_on IS NULL) = (extension_due_at IS NULL)),
    CHECK ((extended_at IS NULL) = (extended_by IS NULL) AND (extended_at IS NULL) = (extension_reason IS NULL)
        AND (extended_at IS NULL) = (told_at IS NULL)),
    CHECK (due_at = CASE WHEN extended_at IS NULL THEN first_due_at ELSE extension_due_at END)
) STRICT;
-- What is late or soon is at the front.
CREATE INDEX deadlines_open ON deadlines (due_at) WHERE closed_at IS NULL;
-- Whose work stands still, whatever its date.
CREATE INDEX stage_runs_halted ON stage_runs (offboarding_id) WHERE status = 'halted';
-- Holds that somebody was to look at again.
CREATE INDEX holds_review ON holds (review_at) WHERE released_at IS NULL AND review_at IS NOT NULL;

-- Dates do not move but by the extension that the law knows, once.
CREATE TRIGGER deadlines_are_frozen BEFORE UPDATE ON deadlines
WHEN NEW.offboarding_id <> OLD.offboarding_id OR NEW.law <> OLD.law OR NEW.zone <> OLD.zone OR NEW.first_due_on <> OLD.first_due_on
    OR NEW.first_due_at <> OLD.first_due_at OR NEW.extension_due_on IS NOT OLD.extension_due_on
    OR NEW.extension_due_at IS NOT OLD.extension_due_at OR (OLD.extended_at IS NOT NULL AND (NEW.extended_at IS NOT OLD.extended_at OR NEW.extended_by IS NOT OLD.extended_by
        OR NEW.extension_reason IS NOT OLD.extension_reason OR NEW.told_at IS NOT OLD.told_at))
    OR (OLD.closed_at IS NOT NULL AND NEW.closed_at IS NOT OLD.closed_at)
BEGIN SELECT RAISE(ABORT, 'deadlines: they are frozen but for one extension'); END;

CREATE TRIGGER deadlines_are_kept BEFORE DELETE ON deadlines
BEGIN SELECT RAISE(ABORT, 'deadlines: they are kept'); END;
