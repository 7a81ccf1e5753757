-- name: global_gate
SELECT open, reason, policy_version FROM control.global_gate;

-- name: set_global_gate
UPDATE control.global_gate SET open = $1, reason = $2;
