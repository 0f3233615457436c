-- Who may approve with a signature, and approvals by several people.
CREATE TABLE approvers (
    id TEXT PRIMARY KEY,                         -- never chosen by the caller
    actor TEXT NOT NULL,                         -- whose key it is, as type:id
    public_key TEXT NOT NULL,                    -- in OpenSSH's format, without comment
    fingerprint TEXT NOT NULL UNIQUE,            -- SHA256:… of the key; a key is one actor's for ever, revoked or not
    roles TEXT NOT NULL,                         -- JSON: the roles that the actor has while the key is valid
    reason TEXT NOT NULL,                        -- in the words of whoever added it
    added_by TEXT NOT NULL,                      -- who, as type:id
    added_at INTEGER NOT NULL,                   -- when
    revoked_by TEXT,                             -- who ended it
    revoke_reason TEXT,                          -- in that person's words
    revoked_at INTEGER,                          -- when
    CHECK ((revoked_at IS NULL) = (revoked_by IS NULL) AND (revoked_at IS NULL) = (revoke_reason IS NULL))
) STRICT;
CREATE INDEX approvers_of_actor ON approvers (actor) WHERE revoked_at IS NULL;

ALTER TABLE approvals ADD COLUMN signature TEXT  -- SSHSIG over the plan's text, armoured; NULL where nobody signed
    CHECK ((identity_assurance = 'signed') = (signature IS NOT NULL));
ALTER TABLE approvals ADD COLUMN key_fingerprint TEXT REFERENCES approvers (fingerprint) -- the key that signed
    CHECK ((signature IS NULL) = (key_fingerprint IS NULL));
ALTER TABLE approvals ADD COLUMN reminded_at INTEGER; -- when it was put on record that it ends soon

-- As many as policy wants, each by somebody else.
DROP INDEX approvals_one_standing;
CREATE UNIQUE INDEX approvals_one_each ON approvals (offboarding_id, approved_by) WHERE status IN ('granted', 'consumed');
CREATE INDEX approvals_by_offboarding ON approvals (offboarding_id, decided_at, id);
