-- name: ensure_gate
-- The gate of a changeset that gets its first rollout; the analysis owns the pace of all others.
INSERT INTO control.changeset_gates (changeset_id, pace) VALUES ($1, $2)
ON CONFLICT (changeset_id) DO UPDATE SET pace = excluded.pace
 WHERE NOT EXISTS (SELECT 1 FROM control.rollouts o WHERE o.changeset_id = excluded.changeset_id);

-- name: fleet_size
-- Nodes of an application with an arch, in all groups.
SELECT count(*) FROM fleet.nodes WHERE application_id = $1 AND arch = $2 AND gone_at IS NULL;

-- name: group_size
SELECT count(*) FROM fleet.nodes WHERE group_id = $1 AND arch = $2 AND gone_at IS NULL;

-- name: attempts_by_state
SELECT rollout_id, state, count(*) AS attempts FROM fleet.attempts WHERE rollout_id = ANY ($1::uuid[]) GROUP BY 1, 2;

-- name: in_flight
-- Nodes in flight as grants count them: of a changeset, of a group, and of one rollout; parked ones of the rollout beside.
SELECT (SELECT count(*) FROM fleet.attempts t WHERE t.changeset_id = $1 AND t.closed_at IS NULL AND NOT t.parked) AS changeset,
       (SELECT count(*) FROM fleet.attempts t WHERE t.group_id = $2 AND t.closed_at IS NULL AND NOT t.parked) AS "group",
       (SELECT count(*) FROM fleet.attempts t WHERE t.changeset_id = $1 AND t.rollout_id = $3 AND t.closed_at IS NULL
           AND NOT t.parked) AS rollout,
       (SELECT count(*) FROM fleet.attempts t WHERE t.rollout_id = $3 AND t.closed_at IS NULL AND t.parked) AS parked;

-- name: verdict
-- The analysis' last verdict of a kind on a changeset.
SELECT seq, kind, convert_from(verdict, 'UTF8')::jsonb AS verdict, decided_at FROM analysis.verdicts
 WHERE changeset_id = $1 AND kind = ANY ($2::text[]) ORDER BY seq DESC, ordinal DESC LIMIT 1;

-- name: evidence
-- What the analysis holds of a changeset right now, as it wants to be read.
SELECT view FROM analysis.changesets WHERE changeset_id = $1;

-- name: last_rollout
-- The group's active update of an arch, else its newest one.
SELECT rollout_id, changeset_id, state FROM control.rollouts
 WHERE group_id = $1 AND arch = $2 AND purpose = 'update'
 ORDER BY (state NOT IN ('completed', 'aborted', 'superseded')) DESC, rollout_id DESC LIMIT 1;

-- name: active_rollouts
SELECT rollout_id, group_id, changeset_id, arch, state, purpose FROM control.rollouts
 WHERE group_id = ANY ($1::uuid[]) AND state NOT IN ('completed', 'aborted', 'superseded') ORDER BY rollout_id;

-- name: floors_of_group
-- The floors of a group and arch that are active or go on serving, with their versions.
SELECT r.rollout_id, c.version FROM control.rollouts r JOIN control.changesets c USING (changeset_id)
 WHERE r.group_id = $1 AND r.arch = $2 AND r.purpose = 'floor' AND r.state NOT IN ('aborted', 'superseded') ORDER BY r.rollout_id;

-- name: add_rollout
INSERT INTO control.rollouts (rollout_id, group_id, changeset_id, channel_id, application_id, arch, state, pace, policy,
                              parameters, reason, purpose, leaves_version, only_machines, then_changeset_id, fraction)
VALUES ($1, $2, $3, $4, $5, $6, 'created', $7, $8, $9, $10, $11, $12, $13, $14, $15);

-- name: group_of
SELECT g.group_id, g.application_id, a.name AS application, g.name, g.channel_name, g.pinned_version, g.policy
  FROM control.groups g JOIN control.applications a USING (application_id) WHERE g.group_id = $1;

-- name: groups_of_application
-- Groups as far as gates ask: nodes by arch, how stable the channel is that they follow, and their policies.
SELECT g.group_id, g.name, g.channel_name, g.pinned_version, g.policy,
       (SELECT min(ch.position) FROM control.channels ch
         WHERE ch.application_id = g.application_id AND ch.name = g.channel_name) AS channel_position,
       coalesce((SELECT jsonb_object_agg(counted.arch, counted.nodes)
                   FROM (SELECT n.arch, count(*) AS nodes FROM fleet.nodes n
                          WHERE n.group_id = g.group_id AND n.gone_at IS NULL AND n.arch IS NOT NULL GROUP BY n.arch) counted),
                '{}') AS nodes
  FROM control.groups g WHERE g.application_id = $1 ORDER BY g.position;

-- name: changesets_of_version
-- The published changesets of a version, one per arch.
SELECT changeset_id, arch FROM control.changesets
 WHERE application_id = $1 AND version = $2 AND state = 'published' ORDER BY arch;

-- name: rollout
SELECT r.rollout_id, r.group_id, g.name AS group_name, r.changeset_id, c.version, r.arch, r.application_id,
       a.name AS application, r.channel_id, r.state, r.purpose, r.leaves_version, r.only_machines, r.pace, r.pace_cap, r.reason,
       r.policy, r.parameters, r.created_at, r.changed_at, r.running_since, r.starts_at, r.wave, r.wave_since, r.fraction,
       r.order_stage, r.gates, r.approved_by, r.approved_at, r.expedited_by, r.expedited_at, r.expedite_reason,
       g.updates_enabled, g.owner AS group_owner, g.contact AS group_contact, r.policy ->> 'severity' AS severity,
       (SELECT count(*) FROM fleet.staged_but_halted s WHERE s.rollout_id = r.rollout_id) AS staged_but_halted,
       gate.state AS gate_state, gate.braked_reason, gate.pace AS gate_pace,
       gate.reason AS gate_reason, gate.evidence, gate.resumes, gate.changed_at AS gate_changed_at
  FROM control.rollouts r
  JOIN control.groups g USING (group_id)
  JOIN control.changesets c ON c.changeset_id = r.changeset_id
  JOIN control.applications a ON a.application_id = r.application_id
  JOIN control.changeset_gates gate ON gate.changeset_id = r.changeset_id
 WHERE r.rollout_id = $1;

-- name: rollouts
SELECT * FROM (
SELECT r.rollout_id, r.group_id, g.name AS group_name, r.changeset_id, c.version, r.arch, r.application_id,
       a.name AS application, r.channel_id, r.state, r.purpose, r.leaves_version, r.pace, r.pace_cap, r.fraction, r.reason,
       r.created_at, r.changed_at, gate.state AS gate_state, gate.braked_reason, gate.pace AS gate_pace,
       EXISTS (SELECT FROM control.holds h WHERE h.changeset_id = r.changeset_id AND h.released_at IS NULL) AS held,
       coalesce(CASE $9::text
                     WHEN 'changed' THEN to_char(r.changed_at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US')
                     WHEN 'group' THEN g.name END, '') COLLATE "C" AS sort_key
  FROM control.rollouts r
  JOIN control.groups g USING (group_id)
  JOIN control.changesets c ON c.changeset_id = r.changeset_id
  JOIN control.applications a ON a.application_id = r.application_id
  JOIN control.changeset_gates gate ON gate.changeset_id = r.changeset_id
 WHERE ($3::text IS NULL OR r.state = $3)
   AND ($4::uuid IS NULL OR r.group_id = $4)
   AND ($5::uuid IS NULL OR r.changeset_id = $5)
   AND ($6::boolean IS NULL OR (r.state NOT IN ('completed', 'aborted', 'superseded')) = $6)
   AND ($7::text IS NULL OR r.purpose = $7)
   AND ($8::uuid IS NULL OR r.application_id = $8)
) listed
 WHERE $1::uuid IS NULL
    OR CASE WHEN $11::boolean THEN (sort_key, rollout_id) < ($10::text, $1) ELSE (sort_key, rollout_id) > ($10::text, $1) END
 ORDER BY CASE WHEN $11 THEN sort_key END DESC, CASE WHEN NOT $11 THEN sort_key END,
          CASE WHEN $11 THEN rollout_id END DESC, CASE WHEN NOT $11 THEN rollout_id END
 LIMIT $2;

-- name: floors_wanted
-- Floors that lead to a group's update which serves, and which the group has no rollout of.
SELECT r.rollout_id, r.group_id, r.arch, c.version AS update_version, f.changeset_id, f.version,
       (SELECT array_agg(DISTINCT n.version) FROM fleet.nodes n
         WHERE n.group_id = r.group_id AND n.arch = r.arch AND n.gone_at IS NULL AND NOT n.cloned) AS versions
  FROM control.rollouts r
  JOIN control.changesets c USING (changeset_id)
  JOIN control.changesets f ON f.application_id = r.application_id AND f.arch = r.arch AND f.floor AND f.state = 'published'
                           AND f.changeset_id <> r.changeset_id
 WHERE r.purpose = 'update' AND r.state IN ('running', 'completed')
   AND NOT EXISTS (SELECT FROM control.rollouts o WHERE o.group_id = r.group_id AND o.changeset_id = f.changeset_id
                      AND o.purpose = 'floor' AND o.state NOT IN ('aborted', 'superseded'))
 ORDER BY r.rollout_id, f.changeset_id;

-- name: downgrades_wanted
-- Groups with nodes on a version that was withdrawn, whose policy brings such nodes back, and that have no rollout for it.
SELECT g.group_id, w.changeset_id, w.version, w.arch
  FROM control.changesets w
  JOIN control.groups g ON g.application_id = w.application_id AND (g.policy ->> 'downgrade')::boolean
 WHERE w.state = 'withdrawn'
   AND EXISTS (SELECT FROM fleet.nodes n WHERE n.group_id = g.group_id AND n.arch = w.arch AND n.version = w.version
                  AND n.gone_at IS NULL)
   AND NOT EXISTS (SELECT FROM control.rollouts o WHERE o.group_id = g.group_id AND o.arch = w.arch
                      AND o.leaves_version = w.version AND o.purpose = 'downgrade')
 ORDER BY g.group_id, w.changeset_id;

-- name: promoted_before
-- What a group's channel pointed to, the newest first: published changesets alone.
SELECT h.changeset_id, s.version
  FROM control.channels ch
  JOIN control.channel_history h USING (channel_id)
  JOIN control.changesets s ON s.changeset_id = h.changeset_id AND s.state = 'published'
 WHERE ch.application_id = $1 AND ch.name = $2 AND ch.arch = $3
 ORDER BY h.promoted_at DESC;

-- name: serving_update
-- The update that a group and arch are served now, or that is to come next.
SELECT r.rollout_id, r.changeset_id, c.version, r.state FROM control.rollouts r JOIN control.changesets c USING (changeset_id)
 WHERE r.group_id = $1 AND r.arch = $2 AND r.purpose = 'update' AND r.state IN ('running', 'completed')
 ORDER BY r.rollout_id DESC LIMIT 1;

-- name: exclusions
SELECT e.node_id, n.machine_id, e.reason, e.excluded_by, e.excluded_at
  FROM control.rollout_exclusions e LEFT JOIN fleet.nodes n USING (node_id) WHERE e.rollout_id = $1 ORDER BY e.excluded_at LIMIT 500;

-- name: to_conduct
-- Rollouts that may have a next step: those that wait or run.
SELECT rollout_id, group_id FROM control.rollouts
 WHERE state IN ('created', 'waiting_for_gate', 'waiting_for_approval', 'scheduled', 'running') ORDER BY rollout_id;

-- name: channel_position
-- How stable a channel is; the archs of one name have the same.
SELECT min(position) FROM control.channels WHERE application_id = $1 AND name = $2;

-- name: pins_wanted
-- Groups that are pinned to a version which was published since, for an arch that they have no update to it for.
SELECT DISTINCT g.group_id, g.pinned_version
  FROM control.groups g
  JOIN control.changesets c ON c.application_id = g.application_id AND c.version = g.pinned_version AND c.state = 'published'
 WHERE NOT EXISTS (SELECT FROM control.rollouts o WHERE o.group_id = g.group_id AND o.changeset_id = c.changeset_id
                      AND o.purpose = 'update')
 ORDER BY g.group_id;
