-- name: gates
-- The global gate, and how far the log and its judgement are: all by Postgres's clock, in seconds.
SELECT g.open, g.policy_version, h.seq AS head_seq,
       coalesce(extract(epoch FROM clock_timestamp() - h.recorded_at), 1e9)::double precision AS log_age_s,
       coalesce(extract(epoch FROM clock_timestamp() - f.moved_at), 1e9)::double precision AS analysis_age_s,
       coalesce(extract(epoch FROM clock_timestamp() - (
           SELECT l.recorded_at FROM event_log.ledger l WHERE l.seq = f.seq + 1)), 0)::double precision AS analysis_lag_s
  FROM control.global_gate g
 CROSS JOIN event_log.head h
  LEFT JOIN event_log.followers f ON f.name = 'rollback_analysis';

-- name: applications
SELECT application_id, name, omaha_id FROM control.applications ORDER BY name;

-- name: groups
SELECT group_id, application_id, name, selector, updates_enabled,
       coalesce((policy ->> 'poll_interval_s')::double precision, 2700) AS poll_interval_s
  FROM control.groups ORDER BY application_id, position;

-- name: rollouts
-- Every active rollout with the gate of its changeset.
SELECT o.rollout_id, o.group_id, o.changeset_id, o.arch, o.state, o.pace AS group_pace, c.version,
       coalesce((o.policy ->> 'retry_after_s')::double precision, 3600) AS retry_after_s,
       g.state AS gate_state, g.braked_reason, g.pace AS changeset_pace,
       EXISTS (SELECT 1 FROM control.payloads p JOIN control.suspended_payloads s USING (sha256)
                WHERE p.changeset_id = o.changeset_id) AS suspended
  FROM control.rollouts o
  JOIN control.changesets c USING (changeset_id)
  JOIN control.changeset_gates g USING (changeset_id)
 WHERE o.state IN ('created', 'running', 'paused', 'halted');

-- name: payloads
-- The files of the changesets in $1, the main payload first.
SELECT changeset_id, name, sha256, sha1_base64, size, required
  FROM control.payloads WHERE changeset_id = ANY ($1) ORDER BY changeset_id, position;

-- name: open_attempts
SELECT a.attempt_id, a.application_id, n.machine_id, a.changeset_id, a.group_id, a.state, a.boot_id, a.parked
  FROM fleet.attempts a JOIN fleet.nodes n USING (node_id) WHERE a.closed_at IS NULL;

-- name: quarantined
-- Quarantines of what is rolled out now.
SELECT n.application_id, n.machine_id, q.changeset_id
  FROM fleet.quarantine q JOIN fleet.nodes n USING (node_id)
 WHERE q.changeset_id IN (SELECT changeset_id FROM control.rollouts WHERE state IN ('created', 'running', 'paused', 'halted'));

-- name: cloned
SELECT application_id, machine_id FROM fleet.nodes WHERE cloned;

-- name: grant
-- Offers one rollout to nodes; see fleet.grant_v1.
SELECT ordinal, status, attempt_id, token FROM fleet.grant_v1($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) ORDER BY ordinal;

-- name: contact
-- Last contacts; returns the nodes whose rows disagree; see fleet.contact_v1.
SELECT * FROM fleet.contact_v1($1, $2, $3, $4, $5, $6);

-- name: count_contacts
-- Adds to the cumulative contacts of idle nodes, per site.
INSERT INTO fleet.contact_counts AS c (site, writer, contacts)
SELECT u.site, $2, u.contacts FROM unnest($1::text[], $3::bigint[]) AS u(site, contacts)
ON CONFLICT (site, writer) DO UPDATE SET contacts = c.contacts + excluded.contacts;
