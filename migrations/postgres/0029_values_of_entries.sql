-- That a value belongs to an entry is looked up once for all values of a statement, and not by a reference, which asks for each and locks
-- the entry's row: entries are never deleted or renamed, so there is nothing to lock out.
DO $$
DECLARE
    was text;
BEGIN
    SELECT conname INTO STRICT was FROM pg_constraint WHERE conrelid = 'trail_values'::regclass AND contype = 'f';
    EXECUTE format('ALTER TABLE trail_values DROP CONSTRAINT %I', was);
END $$;

-- A question for each row, not a join: the planner may never choose to read the whole trail for it.
CREATE FUNCTION trail_values_have_an_entry() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT 1 FROM written w WHERE (SELECT t.event_id FROM trail t WHERE t.event_id = w.event_id) IS NULL) THEN
        RAISE EXCEPTION 'trail_values: a value belongs to an entry' USING ERRCODE = 'foreign_key_violation';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER trail_values_have_an_entry AFTER INSERT ON trail_values REFERENCING NEW TABLE AS written FOR EACH STATEMENT
EXECUTE FUNCTION trail_values_have_an_entry();
