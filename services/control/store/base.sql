-- What several modules of the store need. Control writes its own schema; what it changes elsewhere goes through the
-- functions of that schema. Every change of what update_check decides by begins with lock_global_gate: operators' changes
-- are made one after the other, and no grant is half done meanwhile. Lock order: global gate, channel, group, changeset
-- gates by id, rollouts.

-- name: ping
SELECT 1;

-- name: lock_global_gate
-- Grants hold this row FOR SHARE until they commit.
SELECT open, reason, policy_version FROM control.global_gate FOR NO KEY UPDATE;

-- name: raise_policy_version
SELECT control.raise_policy_version_v1();

-- name: lock_channel
SELECT channel_id, application_id, name, arch, changeset_id FROM control.channels WHERE channel_id = $1 FOR NO KEY UPDATE;

-- name: lock_group
SELECT group_id, application_id, name, position, channel_name, selector, policy, updates_enabled FROM control.groups
 WHERE group_id = $1 FOR NO KEY UPDATE;
