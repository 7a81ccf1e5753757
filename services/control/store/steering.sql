-- name: set_cap
UPDATE control.rollouts SET pace_cap = $2, changed_at = now() WHERE rollout_id = $1;

-- name: approve
UPDATE control.rollouts SET approved_by = $2, approved_at = $3, changed_at = now() WHERE rollout_id = $1;

-- name: expedite
UPDATE control.rollouts SET expedited_by = $2, expedited_at = $3, expedite_reason = $4, changed_at = now() WHERE rollout_id = $1;

-- name: exclude
INSERT INTO control.rollout_exclusions (rollout_id, node_id, reason, excluded_by) VALUES ($1, $2, $3, $4)
ON CONFLICT (rollout_id, node_id) DO NOTHING RETURNING node_id;

-- name: include
DELETE FROM control.rollout_exclusions WHERE rollout_id = $1 AND node_id = $2 RETURNING node_id;

-- name: node_of_group
-- A node of a group by its id or its machine id.
SELECT n.node_id, n.machine_id, n.version, n.arch, n.last_contact_at FROM fleet.nodes n
 WHERE n.group_id = $1 AND (n.machine_id = $2 OR n.node_id::text = $2) AND n.gone_at IS NULL;

-- name: drilling
-- A drill of a machine that is not over.
SELECT rollout_id FROM control.rollouts
 WHERE group_id = $1 AND purpose = 'drill' AND only_machines @> ARRAY[$2::text]
   AND state NOT IN ('completed', 'aborted', 'superseded') LIMIT 1;

-- name: recall_offer
-- What the rollout has offered to a node and that is not staged is taken back.
SELECT fleet.recall_offer_v1($1, $2, $3, $4);
