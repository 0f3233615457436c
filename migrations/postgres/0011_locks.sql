-- What a transaction locks before it decides: tenants shared, then planes, then runs, then chains, each in the order of their ids; one call
-- instead of four. Both answer where the chains of the planes stand.
CREATE FUNCTION lock_planes(ids uuid[]) RETURNS SETOF chains LANGUAGE plpgsql AS $$
BEGIN
    PERFORM 1 FROM tenants t WHERE t.id IN (SELECT p.tenant_id FROM planes p WHERE p.id = ANY(ids)) ORDER BY t.id FOR SHARE;
    PERFORM 1 FROM planes p WHERE p.id = ANY(ids) ORDER BY p.id FOR UPDATE;
    RETURN QUERY SELECT c.* FROM chains c WHERE c.chain IN (SELECT 'plane:' || id::text FROM unnest(ids) AS id) ORDER BY c.chain FOR UPDATE;
END $$;

CREATE FUNCTION lock_runs(ids uuid[]) RETURNS SETOF chains LANGUAGE plpgsql AS $$
DECLARE
    on_planes uuid[] := ARRAY(SELECT DISTINCT r.plane_id FROM stage_runs r WHERE r.id = ANY(ids));
BEGIN
    PERFORM 1 FROM tenants t WHERE t.id IN (SELECT p.tenant_id FROM planes p WHERE p.id = ANY(on_planes)) ORDER BY t.id FOR SHARE;
    PERFORM 1 FROM planes p WHERE p.id = ANY(on_planes) ORDER BY p.id FOR UPDATE;
    PERFORM 1 FROM stage_runs r WHERE r.id = ANY(ids) ORDER BY r.id FOR UPDATE;
    RETURN QUERY SELECT c.* FROM chains c WHERE c.chain IN (SELECT 'plane:' || id::text FROM unnest(on_planes) AS id)
        ORDER BY c.chain FOR UPDATE;
END $$;
