-- name: global_gate
SELECT open, reason, policy_version FROM control.global_gate;

-- name: set_global_gate
UPDATE control.global_gate SET open = $1, reason = $2;

-- name: recall_everything
-- Takes back what no node has staged yet; see fleet.recall_everything_v1.
SELECT fleet.recall_everything_v1($1, 'control');
