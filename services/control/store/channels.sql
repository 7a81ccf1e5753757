-- name: add_channel
INSERT INTO control.channels (channel_id, application_id, name, arch) VALUES ($1, $2, $3, $4)
ON CONFLICT (application_id, name, arch) DO NOTHING RETURNING channel_id;

-- name: channel_by_name
SELECT channel_id FROM control.channels WHERE application_id = $1 AND name = $2 AND arch = $3;

-- name: channel
SELECT c.channel_id, c.application_id, a.name AS application, c.name, c.arch, c.changeset_id, s.version, c.changed_at
  FROM control.channels c
  JOIN control.applications a USING (application_id)
  LEFT JOIN control.changesets s ON s.changeset_id = c.changeset_id
 WHERE c.channel_id = $1;

-- name: channels
SELECT c.channel_id, c.application_id, a.name AS application, c.name, c.arch, c.changeset_id, s.version, c.changed_at
  FROM control.channels c
  JOIN control.applications a USING (application_id)
  LEFT JOIN control.changesets s ON s.changeset_id = c.changeset_id
 WHERE ($1::uuid IS NULL OR c.channel_id > $1)
   AND ($3::uuid IS NULL OR c.application_id = $3)
   AND ($4::text IS NULL OR c.name = $4)
   AND ($5::text IS NULL OR c.arch = $5)
 ORDER BY c.channel_id LIMIT $2;

-- name: channels_followed
-- All archs of one channel name.
SELECT channel_id, application_id, name, arch, changeset_id FROM control.channels
 WHERE application_id = $1 AND name = $2 ORDER BY arch;

-- name: point_channel
UPDATE control.channels SET changeset_id = $2, changed_at = now() WHERE channel_id = $1;

-- name: add_history
INSERT INTO control.channel_history (channel_id, changeset_id, promoted_at, promoted_by) VALUES ($1, $2, clock_timestamp(), $3);

-- name: history
SELECT h.changeset_id, s.version, h.promoted_at, h.promoted_by
  FROM control.channel_history h JOIN control.changesets s USING (changeset_id)
 WHERE h.channel_id = $1 ORDER BY h.promoted_at DESC LIMIT $2;

-- name: followers
-- Groups that follow a channel, in the order of their ids.
SELECT group_id, application_id, name, position, channel_name, pinned_version, selector, policy, updates_enabled
  FROM control.groups
 WHERE application_id = $1 AND channel_name = $2 ORDER BY group_id;
