-- What makes questions to the trail cheap: between which instants the entries of each thousand leaves are dated, and an index by policies.
CREATE TABLE leaf_blocks (
    block INTEGER PRIMARY KEY CHECK (block >= 0), -- the leaves from 1024 times this on, 1024 of them
    at_min INTEGER NOT NULL,                     -- no entry of them is dated before
    at_max INTEGER NOT NULL,                     -- none after
    CHECK (at_min <= at_max)
) STRICT;
INSERT INTO leaf_blocks SELECT leaf_index / 1024, min(at), max(at) FROM leaves GROUP BY leaf_index / 1024;

CREATE TRIGGER leaves_are_dated AFTER INSERT ON leaves BEGIN
    INSERT INTO leaf_blocks (block, at_min, at_max) VALUES (NEW.leaf_index / 1024, NEW.at, NEW.at)
    ON CONFLICT (block) DO UPDATE SET at_min = min(at_min, excluded.at_min), at_max = max(at_max, excluded.at_max);
END;
CREATE TRIGGER leaf_blocks_only_widen BEFORE UPDATE ON leaf_blocks
WHEN NEW.block <> OLD.block OR NEW.at_min > OLD.at_min OR NEW.at_max < OLD.at_max
BEGIN SELECT RAISE(ABORT, 'leaf_blocks: they only widen'); END;
CREATE TRIGGER leaf_blocks_are_not_deleted BEFORE DELETE ON leaf_blocks BEGIN SELECT RAISE(ABORT, 'leaf_blocks: they only widen'); END;

-- The blocks say where to begin; nothing asks for entries in the order of their instants.
DROP INDEX leaves_by_time;
CREATE INDEX leaves_by_policy ON leaves (policy_revision, leaf_index) WHERE policy_revision IS NOT NULL;
