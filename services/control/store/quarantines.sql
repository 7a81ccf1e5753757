-- name: quarantines
-- By changeset and reason, the newest changesets first; the page begins behind ($1, $2).
SELECT q.changeset_id, c.application_id, a.name AS application, c.version, c.arch, q.reason, count(*) AS nodes,
       min(q.since) AS first_at, max(q.since) AS last_at, (array_agg(n.machine_id ORDER BY q.since DESC))[1:$7] AS machines
  FROM fleet.quarantine q
  JOIN control.changesets c USING (changeset_id)
  JOIN control.applications a USING (application_id)
  LEFT JOIN fleet.nodes n USING (node_id)
 WHERE ($1::uuid IS NULL OR q.changeset_id < $1 OR (q.changeset_id = $1 AND q.reason > $2::text))
   AND ($4::uuid IS NULL OR c.application_id = $4)
   AND ($5::uuid IS NULL OR n.group_id = $5)
   AND ($6::uuid IS NULL OR q.changeset_id = $6)
 GROUP BY q.changeset_id, c.application_id, a.name, c.version, c.arch, q.reason
 ORDER BY q.changeset_id DESC, q.reason LIMIT $3;

-- name: quarantined_nodes
-- The nodes that are quarantined for a changeset, in order of their ids: of these machines, where any are named.
SELECT q.node_id FROM fleet.quarantine q JOIN fleet.nodes n USING (node_id)
 WHERE q.changeset_id = $1 AND n.application_id = $2 AND ($3::text[] IS NULL OR n.machine_id = ANY ($3))
 ORDER BY q.node_id LIMIT $4;

-- name: lift_quarantines
-- See fleet.lift_quarantine_v1; how many were lifted.
SELECT count(*) FILTER (WHERE fleet.lift_quarantine_v1(u.node_id, $2, $4, $5, u.event_id, $6))
  FROM unnest($1::uuid[], $3::uuid[]) AS u(node_id, event_id);

-- name: count_quarantined
SELECT count(*) FROM fleet.quarantine WHERE changeset_id = $1;
