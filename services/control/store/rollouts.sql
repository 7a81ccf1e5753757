-- name: ensure_gate
-- The gate of a changeset that gets its first rollout; the analysis owns the pace of all others.
INSERT INTO control.changeset_gates (changeset_id, pace) VALUES ($1, $2)
ON CONFLICT (changeset_id) DO UPDATE SET pace = excluded.pace
 WHERE NOT EXISTS (SELECT 1 FROM control.rollouts o WHERE o.changeset_id = excluded.changeset_id);

-- name: lock_gates
SELECT changeset_id, state, reason, pace FROM control.changeset_gates
 WHERE changeset_id = ANY ($1::uuid[]) ORDER BY changeset_id FOR NO KEY UPDATE;

-- name: fleet_size
-- Nodes of an application with an arch, in all groups.
SELECT count(*) FROM fleet.nodes WHERE application_id = $1 AND arch = $2 AND gone_at IS NULL;

-- name: group_size
SELECT count(*) FROM fleet.nodes WHERE group_id = $1 AND arch = $2 AND gone_at IS NULL;

-- name: last_rollout
-- The group's active rollout of an arch, else its newest one.
SELECT rollout_id, changeset_id, state FROM control.rollouts
 WHERE group_id = $1 AND arch = $2
 ORDER BY (state IN ('created', 'running', 'paused', 'halted')) DESC, rollout_id DESC LIMIT 1;

-- name: active_rollouts
SELECT rollout_id, group_id, changeset_id, arch, state FROM control.rollouts
 WHERE group_id = ANY ($1::uuid[]) AND state IN ('created', 'running', 'paused', 'halted') ORDER BY rollout_id;

-- name: add_rollout
INSERT INTO control.rollouts (rollout_id, group_id, changeset_id, channel_id, application_id, arch, state, pace, policy,
                              parameters, reason)
VALUES ($1, $2, $3, $4, $5, $6, 'created', $7, $8, $9, $10);

-- name: move_rollout
-- The state before, or NULL where the move is not allowed.
SELECT control.transition_rollout_v1($1, $2, $3, $4, $5, $6);

-- name: rollout_of
SELECT rollout_id, changeset_id, state FROM control.rollouts WHERE rollout_id = $1;

-- name: rollout
SELECT r.rollout_id, r.group_id, g.name AS group_name, r.changeset_id, c.version, r.arch, r.application_id,
       a.name AS application, r.channel_id, r.state, r.pace, r.reason, r.policy, r.parameters, r.created_at, r.changed_at,
       g.updates_enabled, gate.state AS gate_state, gate.braked_reason, gate.pace AS gate_pace,
       gate.reason AS gate_reason, gate.evidence, gate.resumes, gate.changed_at AS gate_changed_at
  FROM control.rollouts r
  JOIN control.groups g USING (group_id)
  JOIN control.changesets c ON c.changeset_id = r.changeset_id
  JOIN control.applications a ON a.application_id = r.application_id
  JOIN control.changeset_gates gate ON gate.changeset_id = r.changeset_id
 WHERE r.rollout_id = $1;

-- name: rollouts
SELECT r.rollout_id, r.group_id, g.name AS group_name, r.changeset_id, c.version, r.arch, r.application_id,
       a.name AS application, r.channel_id, r.state, r.pace, r.reason, r.created_at, r.changed_at,
       gate.state AS gate_state, gate.braked_reason, gate.pace AS gate_pace
  FROM control.rollouts r
  JOIN control.groups g USING (group_id)
  JOIN control.changesets c ON c.changeset_id = r.changeset_id
  JOIN control.applications a ON a.application_id = r.application_id
  JOIN control.changeset_gates gate ON gate.changeset_id = r.changeset_id
 WHERE ($1::uuid IS NULL OR r.rollout_id < $1)
   AND ($3::text IS NULL OR r.state = $3)
   AND ($4::uuid IS NULL OR r.group_id = $4)
   AND ($5::uuid IS NULL OR r.changeset_id = $5)
   AND ($6::boolean IS NULL OR (r.state IN ('created', 'running', 'paused', 'halted')) = $6)
 ORDER BY r.rollout_id DESC LIMIT $2;

-- name: attempts_by_state
SELECT rollout_id, state, count(*) AS attempts FROM fleet.attempts WHERE rollout_id = ANY ($1::uuid[]) GROUP BY 1, 2;

-- name: in_flight
-- Nodes in flight as grants count them: of a changeset, of a group, and of one rollout; parked ones of the rollout beside.
SELECT (SELECT count(*) FROM fleet.attempts t WHERE t.changeset_id = $1 AND t.closed_at IS NULL AND NOT t.parked) AS changeset,
       (SELECT count(*) FROM fleet.attempts t WHERE t.group_id = $2 AND t.closed_at IS NULL AND NOT t.parked) AS "group",
       (SELECT count(*) FROM fleet.attempts t WHERE t.changeset_id = $1 AND t.rollout_id = $3 AND t.closed_at IS NULL
           AND NOT t.parked) AS rollout,
       (SELECT count(*) FROM fleet.attempts t WHERE t.rollout_id = $3 AND t.closed_at IS NULL AND t.parked) AS parked;

-- name: nodes_by_version
-- The group's nodes of an arch by version, those apart that cannot be updated: quarantined for the changeset, cloned, or
-- not heard since $4.
SELECT n.version, count(*) AS nodes, count(*) FILTER (WHERE n.cloned) AS cloned,
       count(*) FILTER (WHERE q.node_id IS NOT NULL) AS quarantined,
       count(*) FILTER (WHERE n.last_contact_at < $4) AS silent,
       count(*) FILTER (WHERE NOT n.cloned AND q.node_id IS NULL AND n.last_contact_at >= $4) AS updatable
  FROM fleet.nodes n
  LEFT JOIN fleet.quarantine q ON q.node_id = n.node_id AND q.changeset_id = $3
 WHERE n.group_id = $1 AND n.arch = $2 AND n.gone_at IS NULL
 GROUP BY n.version;

-- name: verdict
-- The analysis' last verdict of a kind on a changeset.
SELECT seq, kind, convert_from(verdict, 'UTF8')::jsonb AS verdict, decided_at FROM analysis.verdicts
 WHERE changeset_id = $1 AND kind = ANY ($2::text[]) ORDER BY seq DESC, ordinal DESC LIMIT 1;

-- name: evidence
-- What the analysis holds of a changeset right now, as it wants to be read.
SELECT view FROM analysis.changesets WHERE changeset_id = $1;

-- name: running_rollouts
-- Running rollouts with nothing in flight: those that may be complete.
SELECT r.rollout_id, r.group_id, r.changeset_id, r.arch, c.version
  FROM control.rollouts r JOIN control.changesets c USING (changeset_id)
 WHERE r.state = 'running'
   AND NOT EXISTS (SELECT 1 FROM fleet.attempts t WHERE t.rollout_id = r.rollout_id AND t.closed_at IS NULL)
 ORDER BY r.rollout_id;

-- name: rollout_progress
-- Whether an attempt of a rollout is open, and whether one was committed.
SELECT EXISTS (SELECT 1 FROM fleet.attempts t WHERE t.rollout_id = $1
                  AND t.state NOT IN ('committed', 'rolled_back', 'failed', 'presumed_lost', 'recalled')) AS in_flight,
       EXISTS (SELECT 1 FROM fleet.attempts t WHERE t.rollout_id = $1 AND t.state = 'committed') AS committed;

-- name: completed_rollouts
-- Where a group's newest rollout of an arch is done, its changeset is still the channel's, and its gate is open: nodes that
-- came (back) since need another one.
SELECT r.rollout_id, r.group_id, r.changeset_id, r.arch, c.version, r.channel_id
  FROM control.groups g
  JOIN control.channels ch ON ch.application_id = g.application_id AND ch.name = g.channel_name
  JOIN control.changesets c ON c.changeset_id = ch.changeset_id
  JOIN control.changeset_gates gate ON gate.changeset_id = ch.changeset_id AND gate.state = 'open'
  JOIN LATERAL (SELECT o.* FROM control.rollouts o WHERE o.group_id = g.group_id AND o.arch = ch.arch
                 ORDER BY (o.state IN ('created', 'running', 'paused', 'halted')) DESC, o.rollout_id DESC LIMIT 1) r ON true
 WHERE r.state = 'completed' AND r.changeset_id = ch.changeset_id
 ORDER BY r.rollout_id;
