-- Lineage: from which plane's archive a plane was restored.
ALTER TABLE planes ADD COLUMN restored_from uuid REFERENCES planes (id); -- the plane whose archive it came from; NULL: not restored
ALTER TABLE planes ADD COLUMN restored_manifest_sha256 text -- digest of the verified manifest it came from
    CHECK ((restored_manifest_sha256 IS NULL) = (restored_from IS NULL));

CREATE TRIGGER planes_lineage_is_for_ever BEFORE UPDATE OF restored_from, restored_manifest_sha256 ON planes FOR EACH ROW
WHEN (NEW.restored_from IS DISTINCT FROM OLD.restored_from
    OR NEW.restored_manifest_sha256 IS DISTINCT FROM OLD.restored_manifest_sha256)
EXECUTE FUNCTION refuse('planes: where a plane came from does not change');
