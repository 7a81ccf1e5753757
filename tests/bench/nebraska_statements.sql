-- The statements of one poll of a Flatcar node, by step, in our own wording. GetGroup is five statements, GetInstance two.
-- Literals are written into the text, as goqu does; each statement is its own transaction, as there.

-- name: get_group
SELECT g.id, g.name, g.description, g.created_ts, g.application_id, g.channel_id, g.track, l.rollout_in_progress,
       coalesce(l.policy_updates_enabled_override, g.policy_updates_enabled) AS policy_updates_enabled,
       coalesce(l.policy_safe_mode_override, g.policy_safe_mode) AS policy_safe_mode,
       coalesce(l.policy_office_hours_override, g.policy_office_hours) AS policy_office_hours,
       coalesce(l.policy_timezone_override, g.policy_timezone) AS policy_timezone,
       coalesce(l.policy_period_interval_override, g.policy_period_interval) AS policy_period_interval,
       coalesce(l.policy_max_updates_per_period_override, g.policy_max_updates_per_period) AS policy_max_updates_per_period,
       coalesce(l.policy_update_timeout_override, g.policy_update_timeout) AS policy_update_timeout
  FROM groups g JOIN group_local l ON l.group_id = g.id WHERE g.id = '00000000-0000-0000-0000-0000000000a6';
SELECT * FROM channel WHERE id = '00000000-0000-0000-0000-0000000000a5' LIMIT 1;
SELECT p.*, array_agg(b.channel_id) FILTER (WHERE b.channel_id IS NOT NULL) AS channels_blacklist
  FROM package p LEFT JOIN package_channel_blacklist b ON b.package_id = p.id
 WHERE p.id = '00000000-0000-0000-0000-0000000000a3' GROUP BY p.id;
SELECT * FROM flatcar_action WHERE package_id = '00000000-0000-0000-0000-0000000000a3';
SELECT * FROM package_file WHERE package_id = '00000000-0000-0000-0000-0000000000a3' ORDER BY id;

-- name: get_instance
SELECT * FROM instance WHERE id = 'bench-instance-00000000:id' LIMIT 1;
SELECT * FROM instance_application
 WHERE instance_id = 'bench-instance-00000000:id' AND application_id = '00000000-0000-0000-0000-0000000000a2' LIMIT 1;

-- name: upsert
INSERT INTO instance_application (instance_id, application_id, group_id, version, status, last_check_for_updates)
VALUES ('bench-instance-00000000:id', '00000000-0000-0000-0000-0000000000a2', '00000000-0000-0000-0000-0000000000a6',
        ':version', 1, now() AT TIME ZONE 'utc')
ON CONFLICT (instance_id, application_id)
   DO UPDATE SET group_id = excluded.group_id, version = excluded.version,
                 last_check_for_updates = excluded.last_check_for_updates;

-- name: stats
SELECT count(*) AS total_instances,
       coalesce(sum(CASE WHEN last_update_version = '3033.2.1' THEN 1 ELSE 0 END), 0) AS updates_to_current_version_granted,
       coalesce(sum(CASE WHEN update_in_progress = false AND last_update_version = '3033.2.1' THEN 1 ELSE 0 END), 0)
           AS updates_to_current_version_attempted,
       coalesce(sum(CASE WHEN update_in_progress = false AND last_update_version = '3033.2.1' AND version = '3033.2.1'
                         THEN 1 ELSE 0 END), 0) AS updates_to_current_version_succeeded,
       coalesce(sum(CASE WHEN update_in_progress = false AND last_update_version = '3033.2.1' AND version <> '3033.2.1'
                         THEN 1 ELSE 0 END), 0) AS updates_to_current_version_failed,
       coalesce(sum(CASE WHEN last_update_granted_ts > now() AT TIME ZONE 'utc' - interval '15 minutes'
                         THEN 1 ELSE 0 END), 0) AS updates_granted_in_last_period,
       coalesce(sum(CASE WHEN update_in_progress = true
                          AND now() AT TIME ZONE 'utc' - last_update_granted_ts <= interval '60 minutes'
                         THEN 1 ELSE 0 END), 0) AS updates_in_progress,
       coalesce(sum(CASE WHEN update_in_progress = true
                          AND now() AT TIME ZONE 'utc' - last_update_granted_ts > interval '60 minutes'
                         THEN 1 ELSE 0 END), 0) AS updates_timed_out
  FROM instance_application
 WHERE group_id = '00000000-0000-0000-0000-0000000000a6'
   AND last_check_for_updates > now() AT TIME ZONE 'utc' - interval '1 day'
   AND instance_id NOT LIKE '{________-____-____-____-____________}';

-- name: on_hold
UPDATE instance_application SET status = 8
 WHERE instance_id = 'bench-instance-00000000:id' AND application_id = '00000000-0000-0000-0000-0000000000a2';
