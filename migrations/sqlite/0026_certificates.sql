-- Certificates of erasure: one of each purged plane, due from the transaction that records its purge, issued once.
CREATE TABLE certificates (
    offboarding_id TEXT PRIMARY KEY REFERENCES offboardings (id), -- whose purge it certifies
    plane_id TEXT NOT NULL REFERENCES planes (id), -- the purged plane
    tenant_id TEXT NOT NULL REFERENCES tenants (id), -- its owner
    due_since INTEGER NOT NULL,                  -- when the purge was recorded
    statement TEXT,                              -- what was signed, to the byte: canonical JSON; NULL: not issued yet
    signatures TEXT,                             -- JSON: the signatures over it, as DSSE has them
    own_values TEXT,                             -- JSON: values that it alone commits to, with their salts; NULL once they are destroyed
    issued_at INTEGER,                           -- when it was signed
    event_id TEXT,                               -- the entry CERTIFIED, which holds the statement's digest
    CHECK ((issued_at IS NULL) = (statement IS NULL) AND (issued_at IS NULL) = (signatures IS NULL) AND (issued_at IS NULL) = (event_id IS NULL))
) STRICT;
CREATE INDEX certificates_due ON certificates (due_since) WHERE issued_at IS NULL;
CREATE INDEX certificates_of_plane ON certificates (plane_id);

-- What was purged before there were certificates gets one too.
INSERT INTO certificates (offboarding_id, plane_id, tenant_id, due_since)
SELECT id, plane_id, tenant_id, closed_at FROM offboardings WHERE status = 'completed';

CREATE TRIGGER certificates_are_issued_once BEFORE UPDATE ON certificates
WHEN NEW.offboarding_id <> OLD.offboarding_id OR NEW.plane_id <> OLD.plane_id OR NEW.tenant_id <> OLD.tenant_id OR NEW.due_since <> OLD.due_since
    OR (OLD.issued_at IS NOT NULL AND (NEW.statement IS NOT OLD.statement OR NEW.signatures IS NOT OLD.signatures
        OR NEW.issued_at IS NOT OLD.issued_at OR NEW.event_id IS NOT OLD.event_id
        OR (NEW.own_values IS NOT NULL AND NEW.own_values IS NOT OLD.own_values)))
BEGIN SELECT RAISE(ABORT, 'certificates: issued once'); END;
CREATE TRIGGER certificates_are_kept BEFORE DELETE ON certificates BEGIN SELECT RAISE(ABORT, 'certificates: issued once'); END;
CREATE TRIGGER certificates_are_not_replaced BEFORE INSERT ON certificates
WHEN EXISTS (SELECT 1 FROM certificates WHERE offboarding_id = NEW.offboarding_id)
BEGIN SELECT RAISE(ABORT, 'certificates: issued once'); END;
