-- name: conducted
-- Rollouts with everything that decides what they do next.
SELECT r.rollout_id, r.group_id, g.name AS group_name, r.changeset_id, c.version, r.arch, r.application_id, r.channel_id,
       a.version_scheme, r.state, r.purpose, r.leaves_version, r.only_machines, r.then_changeset_id, r.pace, r.policy, r.gates,
       r.wave, coalesce(r.wave_since, r.changed_at) AS wave_since, r.fraction, r.order_stage, r.approved_at, r.expedited_at,
       r.running_since, r.reason, gate.state AS gate_state, gate.reason AS gate_reason, gate.braked_reason, everything.open AS everything_open,
       EXISTS (SELECT FROM control.holds h WHERE h.changeset_id = r.changeset_id AND h.released_at IS NULL) AS held
  FROM control.rollouts r
  JOIN control.groups g USING (group_id)
  JOIN control.changesets c ON c.changeset_id = r.changeset_id
  JOIN control.applications a ON a.application_id = r.application_id
  JOIN control.changeset_gates gate ON gate.changeset_id = r.changeset_id
 CROSS JOIN control.global_gate everything
 WHERE r.rollout_id = ANY ($1::uuid[]);

-- name: released_versions
-- Versions of an application and arch that were published, those withdrawn since included.
SELECT changeset_id, version FROM control.changesets WHERE application_id = $1 AND arch = $2 AND state <> 'draft';

-- name: standing
-- What is said against a changeset.
SELECT c.state, g.state AS gate_state, g.braked_reason,
       EXISTS (SELECT FROM control.holds h WHERE h.changeset_id = c.changeset_id AND h.released_at IS NULL) AS held
  FROM control.changesets c LEFT JOIN control.changeset_gates g USING (changeset_id)
 WHERE c.changeset_id = $1;

-- name: gate_evidence
-- What became of a changeset on the nodes of some groups, each by its first attempt that started: one that was seen in its
-- reboot or after it, or whose staged node has not been heard for longer than its policy has it.
WITH firsts AS (
    SELECT DISTINCT ON (t.node_id) t.state, t.closed_at
      FROM control.rollouts o
      JOIN fleet.attempts t ON t.rollout_id = o.rollout_id
      JOIN control.groups g ON g.group_id = t.group_id
      LEFT JOIN fleet.nodes n ON n.node_id = t.node_id
     WHERE o.changeset_id = $1 AND g.application_id = $2 AND g.name = ANY ($3::text[])
       AND (t.state IN ('rebooting', 'probation', 'committed', 'rolled_back', 'presumed_lost')
            OR (t.state IN ('staged', 'awaiting_reboot')
                AND n.last_contact_at < $4::timestamptz - make_interval(secs => (o.parameters ->> 'overdue_s')::double precision)))
     ORDER BY t.node_id, t.granted_at
)
SELECT count(*) FILTER (WHERE state = 'committed') AS committed,
       count(*) FILTER (WHERE state IN ('rolled_back', 'presumed_lost')) AS bad,
       count(*) FILTER (WHERE state NOT IN ('committed', 'rolled_back', 'presumed_lost')) AS pending,
       min(closed_at) FILTER (WHERE state = 'committed') AS first_committed_at
  FROM firsts;

-- name: nodes_by_version
-- The group's nodes of an arch by version, those apart that cannot be updated: quarantined for the changeset, excluded from
-- the rollout, cloned, or not heard since $4. $5: only these machines, if given.
SELECT n.version, count(*) AS nodes, count(*) FILTER (WHERE n.cloned) AS cloned,
       count(*) FILTER (WHERE q.node_id IS NOT NULL) AS quarantined,
       count(*) FILTER (WHERE e.node_id IS NOT NULL) AS excluded,
       count(*) FILTER (WHERE n.last_contact_at < $4) AS silent,
       count(*) FILTER (WHERE NOT n.cloned AND q.node_id IS NULL AND e.node_id IS NULL AND n.last_contact_at >= $4) AS updatable
  FROM fleet.nodes n
  LEFT JOIN fleet.quarantine q ON q.node_id = n.node_id AND q.changeset_id = $3
  LEFT JOIN control.rollout_exclusions e ON e.node_id = n.node_id AND e.rollout_id = $6
 WHERE n.group_id = $1 AND n.arch = $2 AND n.gone_at IS NULL AND ($5::text[] IS NULL OR n.machine_id = ANY ($5))
 GROUP BY n.version;

-- name: nodes_of_wave
-- The group's live nodes of an arch by version, of the order's stages so far: all, and those that the wave lets in.
SELECT n.version, count(*) AS nodes,
       count(*) FILTER (WHERE fleet.position_v1(n.machine_id, $3) < $4) AS in_wave
  FROM fleet.nodes n
 WHERE n.group_id = $1 AND n.arch = $2 AND n.gone_at IS NULL AND NOT n.cloned AND n.last_contact_at >= $5
   AND ($6::text IS NULL
        OR coalesce(array_position($7::text[], fleet.facts_v1(n.facts, n.imported_facts, n.alias, n.arch, n.version) ->> $6) - 1,
                    cardinality($7)) <= $8)
 GROUP BY n.version;

-- name: version_in_wave
-- What one of the group's live nodes of an arch that the wave lets in runs; NULL where there is none.
SELECT n.version
  FROM fleet.nodes n
 WHERE n.group_id = $1 AND n.arch = $2 AND n.gone_at IS NULL AND NOT n.cloned AND n.last_contact_at >= $5
   AND fleet.position_v1(n.machine_id, $3) < $4
 LIMIT 1;

-- name: stage_by_version
-- The group's live nodes of an arch, of the order's stages so far, by version: those that could be updated, or are in flight.
SELECT n.version,
       count(*) FILTER (WHERE NOT n.cloned AND q.node_id IS NULL AND e.node_id IS NULL AND n.last_contact_at >= $4
                          AND t.node_id IS NULL) AS updatable,
       count(*) FILTER (WHERE t.node_id IS NOT NULL) AS in_flight
  FROM fleet.nodes n
  LEFT JOIN fleet.quarantine q ON q.node_id = n.node_id AND q.changeset_id = $3
  LEFT JOIN control.rollout_exclusions e ON e.node_id = n.node_id AND e.rollout_id = $5
  LEFT JOIN fleet.attempts t ON t.node_id = n.node_id AND t.closed_at IS NULL AND t.rollout_id = $5
 WHERE n.group_id = $1 AND n.arch = $2 AND n.gone_at IS NULL
   AND coalesce(array_position($7::text[], fleet.facts_v1(n.facts, n.imported_facts, n.alias, n.arch, n.version) ->> $6) - 1,
                cardinality($7)) <= $8
 GROUP BY n.version;

-- name: rollout_progress
-- Whether an attempt of a rollout is open, and whether one was committed.
SELECT EXISTS (SELECT 1 FROM fleet.attempts t WHERE t.rollout_id = $1 AND t.closed_at IS NULL) AS in_flight,
       EXISTS (SELECT 1 FROM fleet.attempts t WHERE t.rollout_id = $1 AND t.state = 'committed') AS committed;

-- name: committed_since
-- Attempts of a rollout that were committed, and those of them since $2.
SELECT count(*) AS committed, count(*) FILTER (WHERE closed_at >= $2) AS lately
  FROM fleet.attempts WHERE rollout_id = $1 AND state = 'committed';

-- name: tell_gates
UPDATE control.rollouts SET gates = $2 WHERE rollout_id = $1;

-- name: begin_wave
UPDATE control.rollouts SET wave = $2, fraction = $3, wave_since = $4, changed_at = now() WHERE rollout_id = $1;

-- name: begin_stage
UPDATE control.rollouts SET order_stage = $2, changed_at = now() WHERE rollout_id = $1;

-- name: schedule
UPDATE control.rollouts SET starts_at = $2 WHERE rollout_id = $1;

-- name: move_rollout
-- The state before, or NULL where the move is not allowed.
SELECT control.transition_rollout_v1($1, $2, $3, $4, $5, $6);

-- name: lock_gates
SELECT changeset_id, state, reason, pace FROM control.changeset_gates
 WHERE changeset_id = ANY ($1::uuid[]) ORDER BY changeset_id FOR NO KEY UPDATE;

-- name: changesets_of_groups
-- Changesets whose rollouts in these groups may still be moved.
SELECT DISTINCT changeset_id FROM control.rollouts
 WHERE group_id = ANY ($1::uuid[]) AND state NOT IN ('aborted', 'superseded');

-- name: completed_before
-- The group's completed updates of an arch, which give way to one that begins.
SELECT rollout_id FROM control.rollouts
 WHERE group_id = $1 AND arch = $2 AND purpose = 'update' AND state = 'completed' AND rollout_id <> $3 ORDER BY rollout_id;
