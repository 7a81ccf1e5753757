-- All SQL of control. It writes its own schema; what it changes elsewhere goes through the functions of that schema.
-- Every change of what update_check decides by begins with lock_global_gate: operators' changes are made one after the
-- other, and no grant is half done meanwhile. Lock order: global gate, channel, group, changeset gates by id, rollouts.

-- name: ping
SELECT 1;

-- name: token
-- Whom a token belongs to, by its hash.
SELECT name, role FROM control.tokens WHERE token_sha256 = $1;

-- name: add_token
INSERT INTO control.tokens (name, token_sha256, role) VALUES ($1, $2, $3)
ON CONFLICT (name) DO NOTHING RETURNING name;

-- name: replace_token
INSERT INTO control.tokens (name, token_sha256, role) VALUES ($1, $2, $3)
ON CONFLICT (name) DO UPDATE SET token_sha256 = excluded.token_sha256, role = excluded.role, created_at = now()
RETURNING name;

-- name: global_gate
SELECT open, reason, policy_version FROM control.global_gate;

-- name: lock_global_gate
-- Grants hold this row FOR SHARE until they commit.
SELECT open, reason, policy_version FROM control.global_gate FOR NO KEY UPDATE;

-- name: set_global_gate
UPDATE control.global_gate SET open = $1, reason = $2;

-- name: raise_policy_version
SELECT control.raise_policy_version_v1();

-- name: add_application
INSERT INTO control.applications (application_id, name, omaha_id) VALUES ($1, $2, $3)
ON CONFLICT DO NOTHING RETURNING application_id, name, omaha_id, created_at;

-- name: application_named
-- By name, id or omaha id; all that match, the name first.
SELECT application_id, name, omaha_id, created_at FROM control.applications
 WHERE name = $1 OR application_id::text = lower($1) OR omaha_id = lower($2)
 ORDER BY (name = $1) DESC, (application_id::text = lower($1)) DESC, application_id;

-- name: applications
SELECT application_id, name, omaha_id, created_at FROM control.applications
 WHERE $1::uuid IS NULL OR application_id > $1
 ORDER BY application_id LIMIT $2;

-- name: add_changeset
INSERT INTO control.changesets (changeset_id, application_id, version, arch, kind, notes) VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (application_id, version, arch) DO NOTHING RETURNING changeset_id;

-- name: changeset_by_version
SELECT changeset_id, kind, notes FROM control.changesets WHERE application_id = $1 AND version = $2 AND arch = $3;

-- name: lock_changeset
SELECT changeset_id, application_id, version, arch, kind, state, notes FROM control.changesets
 WHERE changeset_id = $1 FOR NO KEY UPDATE;

-- name: changeset
-- One changeset with its gate (absent until it is promoted to a channel that a group follows).
SELECT c.changeset_id, c.application_id, a.name AS application, c.version, c.arch, c.kind, c.state, c.notes, c.created_at,
       c.published_at, g.state AS gate_state, g.braked_reason, g.pace, g.reason AS gate_reason, g.evidence, g.resumes,
       g.changed_at AS gate_changed_at
  FROM control.changesets c
  JOIN control.applications a USING (application_id)
  LEFT JOIN control.changeset_gates g USING (changeset_id)
 WHERE c.changeset_id = $1;

-- name: changesets
SELECT c.changeset_id, c.application_id, a.name AS application, c.version, c.arch, c.kind, c.state, c.notes, c.created_at,
       c.published_at, g.state AS gate_state, g.braked_reason, g.pace, g.reason AS gate_reason, g.evidence, g.resumes,
       g.changed_at AS gate_changed_at
  FROM control.changesets c
  JOIN control.applications a USING (application_id)
  LEFT JOIN control.changeset_gates g USING (changeset_id)
 WHERE ($1::uuid IS NULL OR c.changeset_id < $1)
   AND ($3::uuid IS NULL OR c.application_id = $3)
   AND ($4::text IS NULL OR c.version = $4)
   AND ($5::text IS NULL OR c.arch = $5)
   AND ($6::text IS NULL OR c.state = $6)
 ORDER BY c.changeset_id DESC LIMIT $2;

-- name: payloads
SELECT p.position, p.role, p.name, p.sha256, p.sha1_base64, p.size, p.required, s.reason AS suspended
  FROM control.payloads p LEFT JOIN control.suspended_payloads s USING (sha256)
 WHERE p.changeset_id = $1 ORDER BY p.position;

-- name: add_payload
INSERT INTO control.payloads (changeset_id, position, role, name, sha256, sha1_base64, size, required)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8);

-- name: publish_changeset
UPDATE control.changesets SET state = 'published', published_at = now() WHERE changeset_id = $1;

-- name: ensure_gate
-- The gate of a changeset that gets its first rollout; the analysis owns the pace of all others.
INSERT INTO control.changeset_gates (changeset_id, pace) VALUES ($1, $2)
ON CONFLICT (changeset_id) DO UPDATE SET pace = excluded.pace
 WHERE NOT EXISTS (SELECT 1 FROM control.rollouts o WHERE o.changeset_id = excluded.changeset_id);

-- name: ensure_shut_gate
-- A gate through which nothing passes yet, so that a changeset can be halted before its first rollout.
INSERT INTO control.changeset_gates (changeset_id, pace) VALUES ($1, 0) ON CONFLICT (changeset_id) DO NOTHING;

-- name: lock_gates
SELECT changeset_id, state, reason, pace FROM control.changeset_gates
 WHERE changeset_id = ANY ($1::uuid[]) ORDER BY changeset_id FOR NO KEY UPDATE;

-- name: halt_changeset
SELECT control.halt_changeset_v1($1, $2, $3, NULL, $4, $5);

-- name: resume_changeset
SELECT control.resume_changeset_v1($1, $2, $3, $4);

-- name: add_channel
INSERT INTO control.channels (channel_id, application_id, name, arch) VALUES ($1, $2, $3, $4)
ON CONFLICT (application_id, name, arch) DO NOTHING RETURNING channel_id;

-- name: channel_by_name
SELECT channel_id FROM control.channels WHERE application_id = $1 AND name = $2 AND arch = $3;

-- name: channel
SELECT c.channel_id, c.application_id, a.name AS application, c.name, c.arch, c.changeset_id, s.version, c.changed_at
  FROM control.channels c
  JOIN control.applications a USING (application_id)
  LEFT JOIN control.changesets s ON s.changeset_id = c.changeset_id
 WHERE c.channel_id = $1;

-- name: channels
SELECT c.channel_id, c.application_id, a.name AS application, c.name, c.arch, c.changeset_id, s.version, c.changed_at
  FROM control.channels c
  JOIN control.applications a USING (application_id)
  LEFT JOIN control.changesets s ON s.changeset_id = c.changeset_id
 WHERE ($1::uuid IS NULL OR c.channel_id > $1)
   AND ($3::uuid IS NULL OR c.application_id = $3)
   AND ($4::text IS NULL OR c.name = $4)
   AND ($5::text IS NULL OR c.arch = $5)
 ORDER BY c.channel_id LIMIT $2;

-- name: lock_channel
SELECT channel_id, application_id, name, arch, changeset_id FROM control.channels WHERE channel_id = $1 FOR NO KEY UPDATE;

-- name: channels_followed
-- All archs of one channel name.
SELECT channel_id, application_id, name, arch, changeset_id FROM control.channels
 WHERE application_id = $1 AND name = $2 ORDER BY arch;

-- name: point_channel
UPDATE control.channels SET changeset_id = $2, changed_at = now() WHERE channel_id = $1;

-- name: add_history
INSERT INTO control.channel_history (channel_id, changeset_id, promoted_at, promoted_by) VALUES ($1, $2, clock_timestamp(), $3);

-- name: history
SELECT h.changeset_id, s.version, h.promoted_at, h.promoted_by
  FROM control.channel_history h JOIN control.changesets s USING (changeset_id)
 WHERE h.channel_id = $1 ORDER BY h.promoted_at DESC LIMIT $2;

-- name: add_group
INSERT INTO control.groups (group_id, application_id, name, position, channel_name, selector, policy, updates_enabled)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8);

-- name: last_position
SELECT coalesce(max(position), 0) FROM control.groups WHERE application_id = $1;

-- name: position_taken
SELECT name FROM control.groups WHERE application_id = $1 AND position = $2;

-- name: group_by_name
SELECT group_id, application_id, name, position, channel_name, selector, policy, updates_enabled FROM control.groups
 WHERE application_id = $1 AND name = $2;

-- name: lock_group
SELECT group_id, application_id, name, position, channel_name, selector, policy, updates_enabled FROM control.groups
 WHERE group_id = $1 FOR NO KEY UPDATE;

-- name: set_group
UPDATE control.groups SET position = $2, channel_name = $3, selector = $4, policy = $5, updates_enabled = $6
 WHERE group_id = $1;

-- name: group
SELECT g.group_id, g.application_id, a.name AS application, g.name, g.position, g.channel_name AS channel, g.selector,
       g.policy, g.updates_enabled, g.created_at
  FROM control.groups g JOIN control.applications a USING (application_id)
 WHERE g.group_id = $1;

-- name: groups
SELECT g.group_id, g.application_id, a.name AS application, g.name, g.position, g.channel_name AS channel, g.selector,
       g.policy, g.updates_enabled, g.created_at
  FROM control.groups g JOIN control.applications a USING (application_id)
 WHERE ($1::uuid IS NULL OR g.group_id > $1)
   AND ($3::uuid IS NULL OR g.application_id = $3)
   AND ($4::text IS NULL OR g.name = $4)
   AND ($5::text IS NULL OR g.channel_name = $5)
 ORDER BY g.group_id LIMIT $2;

-- name: followers
-- Groups that follow a channel, in the order of their ids.
SELECT group_id, application_id, name, position, channel_name, selector, policy, updates_enabled FROM control.groups
 WHERE application_id = $1 AND channel_name = $2 ORDER BY group_id;

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

-- name: node
SELECT n.node_id, n.application_id, a.name AS application, n.machine_id, n.group_id, g.name AS group_name, n.version, n.arch,
       n.boot_id, n.boot_seen_at, n.facts, n.address, n.cloned, n.first_seen_at, n.last_contact_at, n.gone_at,
       coalesce(t.state, 'none') AS state
  FROM fleet.nodes n
  LEFT JOIN control.applications a USING (application_id)
  LEFT JOIN control.groups g ON g.group_id = n.group_id
  LEFT JOIN fleet.attempts t ON t.attempt_id = n.last_attempt_id
 WHERE n.node_id = $1;

-- name: nodes
SELECT n.node_id, n.application_id, a.name AS application, n.machine_id, n.group_id, g.name AS group_name, n.version, n.arch,
       n.address, n.cloned, n.last_contact_at, n.gone_at, coalesce(t.state, 'none') AS state
  FROM fleet.nodes n
  LEFT JOIN control.applications a USING (application_id)
  LEFT JOIN control.groups g ON g.group_id = n.group_id
  LEFT JOIN fleet.attempts t ON t.attempt_id = n.last_attempt_id
 WHERE ($1::uuid IS NULL OR n.node_id > $1)
   AND ($3::uuid IS NULL OR n.application_id = $3)
   AND ($4::uuid IS NULL OR n.group_id = $4)
   AND ($5::text IS NULL OR n.version = $5)
   AND ($6::text IS NULL OR n.machine_id = $6)
   AND ($7::text IS NULL OR coalesce(t.state, 'none') = $7)
   AND ($8::boolean IS NULL OR n.cloned = $8)
 ORDER BY n.node_id LIMIT $2;

-- name: attempts_of_node
-- The newest first; attempt tokens are the nodes' own and are not shown.
SELECT attempt_id, changeset_id, rollout_id, group_id, from_version, to_version, state, parked, reason, error_code, granted_at,
       changed_at, closed_at
  FROM fleet.attempts WHERE node_id = $1 ORDER BY granted_at DESC LIMIT 50;

-- name: quarantines_of_node
SELECT q.changeset_id, c.version, q.attempt_id, q.reason, q.since
  FROM fleet.quarantine q LEFT JOIN control.changesets c USING (changeset_id)
 WHERE q.node_id = $1 ORDER BY q.since DESC LIMIT 50;

-- name: lift_quarantine
SELECT fleet.lift_quarantine_v1($1, $2, $3, $4, $5, $6);
