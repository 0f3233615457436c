-- Fewer pages per entry: each page that a step touches is written to the log by its commit. Nothing reads these two indexes: a chain is
-- read by its own key, and everything else in the order of writing.
DROP INDEX trail_by_tenant;
DROP INDEX trail_by_type;

CREATE TABLE trail_values_by_key (
    event_id TEXT NOT NULL REFERENCES trail (event_id), -- the entry
    field TEXT NOT NULL,                         -- which of its fields
    value TEXT NOT NULL,                         -- the value to which the entry is committed
    salt BLOB NOT NULL,                          -- with it, the commitment can be recomputed; without it, not even guessed
    PRIMARY KEY (event_id, field)
) STRICT, WITHOUT ROWID;
INSERT INTO trail_values_by_key SELECT event_id, field, value, salt FROM trail_values;
DROP TABLE trail_values;
ALTER TABLE trail_values_by_key RENAME TO trail_values;

CREATE TRIGGER trail_values_are_not_replaced BEFORE INSERT ON trail_values
WHEN EXISTS (SELECT 1 FROM trail_values WHERE event_id = NEW.event_id AND field = NEW.field)
BEGIN SELECT RAISE(ABORT, 'trail_values: a value can be destroyed, not changed'); END;
CREATE TRIGGER trail_values_are_not_changed BEFORE UPDATE ON trail_values
BEGIN SELECT RAISE(ABORT, 'trail_values: a value can be destroyed, not changed'); END;
