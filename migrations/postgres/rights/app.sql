-- The rights of the role under which the program works, set anew by every `lethe migrate`: what it needs and no more. The trail can be
-- appended to and read; it cannot be changed or deleted, and nothing can be truncated or altered.
REVOKE ALL ON ledger, tenants, stores, store_scopes, legal_transitions, planes, bindings, offboardings, archives, archive_keys, stage_runs,
    approvals, approvers, break_glass, policy_decisions, deadlines, notices, holds, pauses, access_tokens, plane_usage, chains, trail,
    trail_values, trail_tally, idempotency, witness, clock_seen, archive_roots, dependents, suspensions, probes, probe_scopes, findings,
    attestations, leaves, leaf_blocks, log_tiles, checkpoints, log_keys, log, certificates, personal_keys, trail_values_clear, _sqlx_migrations FROM {role};
GRANT SELECT ON ledger, legal_transitions, trail_values_clear, _sqlx_migrations TO {role};
GRANT SELECT, INSERT ON trail, store_scopes TO {role};
-- A key can be destroyed, and with it what it sealed: triggers see to the order.
GRANT SELECT, INSERT ON personal_keys TO {role};
GRANT UPDATE (key, destroyed_at) ON personal_keys TO {role};
GRANT SELECT, INSERT, DELETE ON trail_values TO {role};
GRANT SELECT, INSERT, UPDATE ON tenants, stores, planes, offboardings, archives, archive_keys, stage_runs, approvals, approvers, break_glass,
    deadlines, notices, holds, access_tokens, plane_usage, chains, trail_tally, clock_seen, archive_roots, dependents, suspensions, probes,
    findings, attestations, certificates TO {role};
GRANT SELECT, INSERT, DELETE ON probe_scopes TO {role};
GRANT SELECT, INSERT ON bindings, leaves, checkpoints TO {role};
GRANT SELECT, INSERT, UPDATE ON log_tiles, log_keys, leaf_blocks TO {role};
GRANT SELECT, INSERT, DELETE ON policy_decisions TO {role};
GRANT UPDATE (mapping) ON bindings TO {role};
GRANT SELECT, UPDATE ON witness, log TO {role};
GRANT SELECT, INSERT, UPDATE, DELETE ON pauses TO {role};
GRANT SELECT, INSERT, DELETE ON idempotency TO {role};
