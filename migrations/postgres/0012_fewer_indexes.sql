-- Fewer pages per entry and per step: each index that a step touches is written by its commit. Nothing needs these three: a chain is read by
-- its own key, everything else of the trail in the order of writing, and a plane's runs by their offboardings.
DROP INDEX trail_by_tenant;
DROP INDEX trail_by_type;
DROP INDEX stage_runs_by_plane;
