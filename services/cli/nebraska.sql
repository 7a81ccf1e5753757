-- name: applications
SELECT id::text AS id, name, coalesce(description, '') AS description, product_id FROM application ORDER BY name, id;

-- name: channels
SELECT c.id::text AS id, c.application_id::text AS application_id, c.name, c.arch, c.package_id::text AS package_id
  FROM channel c ORDER BY c.name, c.arch, c.id;

-- name: packages
SELECT p.id::text AS id, p.application_id::text AS application_id, p.type, p.version, p.arch, p.url, p.filename,
       coalesce(p.description, '') AS description, p.size, p.hash, a.sha256
  FROM package p
  LEFT JOIN LATERAL (SELECT f.sha256 FROM flatcar_action f WHERE f.package_id = p.id ORDER BY f.created_ts DESC LIMIT 1) a
       ON true
 ORDER BY p.version, p.arch, p.id;

-- name: files
SELECT package_id::text AS package_id, name, hash, hash256, size FROM package_file ORDER BY package_id, id;

-- name: floors
SELECT DISTINCT ON (package_id) package_id::text AS package_id, coalesce(floor_reason, '') AS reason
  FROM channel_package_floors ORDER BY package_id, created_ts;

-- name: blacklists
SELECT package_id::text AS package_id, channel_id::text AS channel_id FROM package_channel_blacklist ORDER BY 1, 2;

-- name: groups
-- With what is in force: the override of this server, else what the group says. Intervals as seconds.
SELECT g.id::text AS id, g.application_id::text AS application_id, g.name, coalesce(g.description, '') AS description,
       g.channel_id::text AS channel_id, coalesce(g.track, '') AS track,
       coalesce(l.policy_updates_enabled_override, g.policy_updates_enabled) AS updates_enabled,
       coalesce(l.policy_safe_mode_override, g.policy_safe_mode) AS safe_mode,
       coalesce(l.policy_office_hours_override, g.policy_office_hours) AS office_hours,
       coalesce(nullif(l.policy_timezone_override, ''), nullif(g.policy_timezone, ''), 'UTC') AS time_zone,
       extract(epoch FROM coalesce(l.policy_period_interval_override, g.policy_period_interval)::interval)::float8 AS period_s,
       coalesce(l.policy_max_updates_per_period_override, g.policy_max_updates_per_period) AS max_updates,
       extract(epoch FROM coalesce(l.policy_update_timeout_override, g.policy_update_timeout)::interval)::float8 AS timeout_s
  FROM groups g LEFT JOIN group_local l ON l.group_id = g.id
 ORDER BY g.created_ts, g.name, g.id;

-- name: instances
-- Nodes with what only the server knows of them; ids in braces are other servers that fetch from this one.
SELECT i.id, ia.application_id::text AS application_id, coalesce(i.alias, '') AS alias, coalesce(i.oem, '') AS oem,
       coalesce(i.aleph_version, '') AS aleph_version, ia.version, ia.group_id::text AS group_id
  FROM instance i JOIN instance_application ia ON ia.instance_id = i.id
 WHERE i.id NOT LIKE '{%' ORDER BY ia.application_id, i.id;

-- name: is_nebraska
SELECT to_regclass('package_channel_blacklist') IS NOT NULL AND to_regclass('instance_application') IS NOT NULL
       AND to_regclass('groups') IS NOT NULL;

-- name: has_table
SELECT to_regclass($1) IS NOT NULL;

-- name: groups_without_overrides
-- As groups, for a server that keeps no overrides of its own.
SELECT g.id::text AS id, g.application_id::text AS application_id, g.name, coalesce(g.description, '') AS description,
       g.channel_id::text AS channel_id, coalesce(g.track, '') AS track, g.policy_updates_enabled AS updates_enabled,
       g.policy_safe_mode AS safe_mode, g.policy_office_hours AS office_hours,
       coalesce(nullif(g.policy_timezone, ''), 'UTC') AS time_zone,
       extract(epoch FROM g.policy_period_interval::interval)::float8 AS period_s,
       g.policy_max_updates_per_period AS max_updates,
       extract(epoch FROM g.policy_update_timeout::interval)::float8 AS timeout_s
  FROM groups g ORDER BY g.created_ts, g.name, g.id;
