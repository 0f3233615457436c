-- What the policies were asked by callers and before purges, with everything the answer depended on, so that other policies can be tried
-- on it. Not part of the trail: it names people, and may be emptied.
CREATE TABLE policy_decisions (
    id uuid PRIMARY KEY,                         -- never chosen by the caller
    at timestamptz NOT NULL,                     -- when
    ask jsonb NOT NULL,                          -- the question
    allowed boolean NOT NULL,                    -- the answer
    revision text NOT NULL                       -- of the policies that gave it
);
CREATE INDEX policy_decisions_by_date ON policy_decisions (at);
