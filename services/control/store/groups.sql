-- name: add_group
INSERT INTO control.groups (group_id, application_id, name, position, channel_name, selector, policy, updates_enabled)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8);

-- name: last_position
SELECT coalesce(max(position), 0) FROM control.groups WHERE application_id = $1;

-- name: position_taken
SELECT name FROM control.groups WHERE application_id = $1 AND position = $2;

-- name: group_by_name
SELECT group_id, application_id, name, position, channel_name, selector, policy, updates_enabled FROM control.groups
 WHERE application_id = $1 AND name = $2;

-- name: set_group
UPDATE control.groups SET position = $2, channel_name = $3, selector = $4, policy = $5, updates_enabled = $6
 WHERE group_id = $1;

-- name: group
SELECT g.group_id, g.application_id, a.name AS application, g.name, g.position, g.channel_name AS channel, g.selector,
       g.policy, g.updates_enabled, g.created_at
  FROM control.groups g JOIN control.applications a USING (application_id)
 WHERE g.group_id = $1;

-- name: groups
SELECT g.group_id, g.application_id, a.name AS application, g.name, g.position, g.channel_name AS channel, g.selector,
       g.policy, g.updates_enabled, g.created_at
  FROM control.groups g JOIN control.applications a USING (application_id)
 WHERE ($1::uuid IS NULL OR g.group_id > $1)
   AND ($3::uuid IS NULL OR g.application_id = $3)
   AND ($4::text IS NULL OR g.name = $4)
   AND ($5::text IS NULL OR g.channel_name = $5)
 ORDER BY g.group_id LIMIT $2;
