-- Holds that say on whose authority and until when they are looked at again, holds of one matter, and tenants that nobody may purge yet.
ALTER TABLE holds ADD COLUMN matter text;        -- the case, if it is one of several holds placed for the same
ALTER TABLE holds ADD COLUMN authority text;     -- court, regulator or department on whose word it was placed
ALTER TABLE holds ADD COLUMN review_at timestamptz; -- when somebody should ask whether it is still needed; it ends by nobody's clock
CREATE INDEX holds_of_matter ON holds (matter) WHERE matter IS NOT NULL;

ALTER TABLE tenants ADD COLUMN protected_until timestamptz; -- no plane of it is purged before; NULL: not protected
CREATE FUNCTION tenants_protection_only_grows() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.protected_until IS NOT NULL AND (NEW.protected_until IS NULL OR NEW.protected_until < OLD.protected_until) THEN
        RAISE EXCEPTION 'tenants: purge protection is never shortened';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER tenants_protection_only_grows BEFORE UPDATE OF protected_until ON tenants
    FOR EACH ROW EXECUTE FUNCTION tenants_protection_only_grows();
