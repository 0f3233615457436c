-- Calls that were made once under a key are answered the same way again.
CREATE TABLE idempotency (
    key TEXT NOT NULL,                           -- the caller's
    actor TEXT NOT NULL,                         -- whose key it is, as type:id
    call_digest TEXT NOT NULL,                   -- digest of operation and arguments
    answer TEXT NOT NULL,                        -- JSON: what was answered
    at INTEGER NOT NULL,                         -- when
    PRIMARY KEY (key, actor)
) STRICT;
