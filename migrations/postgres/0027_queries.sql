-- What makes questions to the trail cheap: between which instants the entries of each thousand leaves are dated, and an index by policies.
CREATE TABLE leaf_blocks (
    block bigint PRIMARY KEY CHECK (block >= 0), -- the leaves from 1024 times this on, 1024 of them
    at_min timestamptz NOT NULL,                 -- no entry of them is dated before
    at_max timestamptz NOT NULL,                 -- none after
    CHECK (at_min <= at_max)
) WITH (fillfactor = 50);
INSERT INTO leaf_blocks SELECT leaf_index / 1024, min(at), max(at) FROM leaves GROUP BY leaf_index / 1024;

CREATE FUNCTION leaves_are_dated() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO leaf_blocks (block, at_min, at_max)
    SELECT leaf_index / 1024, min(at), max(at) FROM sealed GROUP BY leaf_index / 1024
    ON CONFLICT (block) DO UPDATE SET at_min = least(leaf_blocks.at_min, excluded.at_min),
        at_max = greatest(leaf_blocks.at_max, excluded.at_max);
    RETURN NULL;
END $$;
CREATE TRIGGER leaves_are_dated AFTER INSERT ON leaves REFERENCING NEW TABLE AS sealed FOR EACH STATEMENT
EXECUTE FUNCTION leaves_are_dated();
CREATE TRIGGER leaf_blocks_only_widen BEFORE UPDATE ON leaf_blocks FOR EACH ROW
WHEN (NEW.block <> OLD.block OR NEW.at_min > OLD.at_min OR NEW.at_max < OLD.at_max)
EXECUTE FUNCTION refuse('leaf_blocks: they only widen');
CREATE TRIGGER leaf_blocks_are_not_deleted BEFORE DELETE OR TRUNCATE ON leaf_blocks FOR EACH STATEMENT
EXECUTE FUNCTION refuse('leaf_blocks: they only widen');

-- The blocks say where to begin; nothing asks for entries in the order of their instants.
DROP INDEX leaves_by_time;
CREATE INDEX leaves_by_policy ON leaves (policy_revision, leaf_index) WHERE policy_revision IS NOT NULL;
