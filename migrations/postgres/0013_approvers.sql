-- Who may approve with a signature, and approvals by several people.
CREATE TABLE approvers (
    id uuid PRIMARY KEY,                         -- never chosen by the caller
    place bigint GENERATED ALWAYS AS IDENTITY,   -- the order of registration
    actor text NOT NULL,                         -- whose key it is, as type:id
    public_key text NOT NULL,                    -- in OpenSSH's format, without comment
    fingerprint text NOT NULL UNIQUE,            -- SHA256:… of the key; a key is one actor's for ever, revoked or not
    roles jsonb NOT NULL,                        -- the roles that the actor has while the key is valid
    reason text NOT NULL,                        -- in the words of whoever added it
    added_by text NOT NULL,                      -- who, as type:id
    added_at timestamptz NOT NULL,               -- when
    revoked_by text,                             -- who ended it
    revoke_reason text,                          -- in that person's words
    revoked_at timestamptz,                      -- when
    CHECK ((revoked_at IS NULL) = (revoked_by IS NULL) AND (revoked_at IS NULL) = (revoke_reason IS NULL))
);
CREATE INDEX approvers_of_actor ON approvers (actor) WHERE revoked_at IS NULL;

ALTER TABLE approvals ADD COLUMN signature text; -- SSHSIG over the plan's text, armoured; NULL where nobody signed
ALTER TABLE approvals ADD COLUMN key_fingerprint text REFERENCES approvers (fingerprint); -- the key that signed
ALTER TABLE approvals ADD COLUMN reminded_at timestamptz; -- when it was put on record that it ends soon
ALTER TABLE approvals ADD CHECK ((identity_assurance = 'signed') = (signature IS NOT NULL));
ALTER TABLE approvals ADD CHECK ((signature IS NULL) = (key_fingerprint IS NULL));

-- As many as policy wants, each by somebody else.
DROP INDEX approvals_one_standing;
CREATE UNIQUE INDEX approvals_one_each ON approvals (offboarding_id, approved_by) WHERE status IN ('granted', 'consumed');
