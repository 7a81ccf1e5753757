-- name: releases
-- Every published changeset of an application and arch, with the channels that it has been promoted to.
SELECT c.version, p.sha256, c.source, c.floor, c.floor_reason, c.dead_end, c.dead_end_reason,
       ARRAY(SELECT DISTINCT ch.name FROM control.channel_history h JOIN control.channels ch USING (channel_id)
              WHERE h.changeset_id = c.changeset_id) AS channels,
       coalesce(extract(epoch FROM c.published_at), 0)::double precision AS published_s
  FROM control.changesets c
  JOIN control.payloads p ON p.changeset_id = c.changeset_id AND p.position = 0
 WHERE c.application_id = $1 AND c.arch = $2 AND c.state <> 'draft';

-- name: manifest
SELECT manifest, signatures FROM control.changesets WHERE changeset_id = $1;

-- name: files
-- The files of a changeset, the main payload first.
SELECT name, role, required, sha256, size FROM control.payloads WHERE changeset_id = $1 ORDER BY position;

-- name: attempt
-- Where an attempt stands, by its token and node, and what became of its changeset and rollout and stops its node.
SELECT a.state, a.reason, g.state AS gate_state, g.reason AS gate_reason, gg.open,
       coalesce(o.state = 'aborted', false) AS aborted, x.node_id IS NOT NULL AS excluded,
       control.is_held_v1(a.changeset_id,
                          fleet.facts_v1(n.facts, n.imported_facts, n.alias, n.arch, a.from_version)) AS held
  FROM fleet.attempts a
  JOIN fleet.nodes n USING (node_id)
 CROSS JOIN control.global_gate gg
  LEFT JOIN control.changeset_gates g USING (changeset_id)
  LEFT JOIN control.rollouts o USING (rollout_id)
  LEFT JOIN control.rollout_exclusions x ON x.rollout_id = a.rollout_id AND x.node_id = a.node_id
 WHERE a.token = $1 AND a.node_id = $2;

-- name: recall_told
-- Ends the attempt of a node that is told to let go of it; see fleet.recall_told_v1.
SELECT fleet.recall_told_v1($1, $2, $3, 'update_check');

-- name: enrol
-- Gives a machine its own token; see control.enrol_node_v1.
SELECT e.status, e.group_id, g.name AS group_name
  FROM control.enrol_node_v1($1, $2, $3, $4, $5, $6, $7) e LEFT JOIN control.groups g ON g.group_id = e.group_id;

-- name: flooded
-- Adds reports that were dropped; see fleet.flooded_v1.
SELECT fleet.flooded_v1($1, $2, $3, $4, $5);
