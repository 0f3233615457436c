-- Calls that were made once under a key are answered the same way again.
CREATE TABLE idempotency (
    key text NOT NULL,                           -- the caller's
    actor text NOT NULL,                         -- whose key it is, as type:id
    call_digest text NOT NULL,                   -- digest of operation and arguments
    answer json NOT NULL,                        -- what was answered, to the letter
    at timestamptz NOT NULL,                     -- when
    PRIMARY KEY (key, actor)
);
