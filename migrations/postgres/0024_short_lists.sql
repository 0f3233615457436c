-- Lists that people ask for cost what they show, not what there is.

-- Plans that wait for a decision, those first whose retention ends first.
CREATE INDEX offboardings_planned ON offboardings (retention_until, id) WHERE status = 'open' AND plan_digest IS NOT NULL;
-- A person's standing approvals, and all decisions, the latest first.
CREATE INDEX approvals_standing ON approvals (approved_by, decided_at, id) WHERE status = 'granted';
CREATE INDEX approvals_by_date ON approvals (decided_at, id);
