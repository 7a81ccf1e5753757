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
