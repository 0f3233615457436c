-- Holds that say on whose authority and until when they are looked at again, holds of one matter, and tenants that nobody may purge yet.
ALTER TABLE holds ADD COLUMN matter TEXT;        -- the case, if it is one of several holds placed for the same
ALTER TABLE holds ADD COLUMN authority TEXT;     -- court, regulator or department on whose word it was placed
ALTER TABLE holds ADD COLUMN review_at INTEGER;  -- when somebody should ask whether it is still needed; it ends by nobody's clock
CREATE INDEX holds_of_matter ON holds (matter) WHERE matter IS NOT NULL;

ALTER TABLE tenants ADD COLUMN protected_until INTEGER; -- no plane of it is purged before; NULL: not protected
CREATE TRIGGER tenants_protection_only_grows BEFORE UPDATE OF protected_until ON tenants
WHEN OLD.protected_until IS NOT NULL AND (NEW.protected_until IS NULL OR NEW.protected_until < OLD.protected_until)
BEGIN SELECT RAISE(ABORT, 'tenants: purge protection is never shortened'); END;
