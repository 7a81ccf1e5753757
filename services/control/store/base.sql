-- What several modules of the store need. Control writes its own schema; what it changes elsewhere goes through the
-- functions of that schema. Every change of what update_check decides by begins with lock_global_gate: operators' changes
-- are made one after the other, and no grant is half done meanwhile. Lock order: the request's target, global gate, channel,
-- group, changeset gates by id, rollouts.

-- name: ping
SELECT 1;

-- name: lock_target
-- Requests that change the same thing come one after the other, so that what If-Match saw still holds.
SELECT pg_advisory_xact_lock(hashtextextended('uneventful target ' || $1, 0));

-- name: rows_changed
-- How many rows this connection has inserted, updated and deleted, as far as Postgres has not added them up elsewhere, which
-- it does between transactions only: the difference within a transaction is what the transaction did. Where Postgres is told
-- not to count, every transaction counts as one that changed something.
SELECT CASE WHEN current_setting('track_counts')::boolean
            THEN (SELECT coalesce(sum(n_tup_ins + n_tup_upd + n_tup_del), 0) FROM pg_stat_xact_user_tables)
            ELSE extract(epoch FROM clock_timestamp()) * 1000000 END::bigint;

-- name: appended_here
-- The events that this transaction has appended so far. The newest rows of the inbox are looked at; there are few.
SELECT type, subject FROM (SELECT position, type, subject, xmin AS made_by FROM event_log.inbox ORDER BY position DESC LIMIT 5000) e
 WHERE e.made_by = pg_current_xact_id_if_assigned()::xid ORDER BY position;

-- name: key_was_used
-- What the key stands for is done once this transaction commits, whether its answer is kept later or not.
UPDATE control.idempotency_keys SET status = 0 WHERE principal = $1 AND key = $2;

-- name: lock_global_gate
-- Grants hold this row FOR SHARE until they commit.
SELECT open, reason, policy_version FROM control.global_gate FOR NO KEY UPDATE;

-- name: raise_policy_version
SELECT control.raise_policy_version_v1();

-- name: lock_channel
SELECT channel_id, application_id, name, arch, changeset_id FROM control.channels WHERE channel_id = $1 FOR NO KEY UPDATE;

-- name: lock_group
SELECT group_id, application_id, name, position, channel_name, pinned_version, selector, policy, updates_enabled, owner, contact
  FROM control.groups WHERE group_id = $1 FOR NO KEY UPDATE;
