-- What the policies were asked by callers and before purges, with everything the answer depended on, so that other policies can be tried
-- on it. Not part of the trail: it names people, and may be emptied.
CREATE TABLE policy_decisions (
    id TEXT PRIMARY KEY,                         -- never chosen by the caller
    at INTEGER NOT NULL,                         -- when
    ask TEXT NOT NULL,                           -- JSON: the question
    allowed INTEGER NOT NULL CHECK (allowed IN (0, 1)), -- the answer
    revision TEXT NOT NULL                       -- of the policies that gave it
) STRICT;
CREATE INDEX policy_decisions_by_date ON policy_decisions (at);
