-- name: add_channel
INSERT INTO control.channels (channel_id, application_id, name, arch, position, required_attestations)
VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (application_id, name, arch) DO NOTHING RETURNING channel_id;

-- name: channel_by_name
SELECT channel_id FROM control.channels WHERE application_id = $1 AND name = $2 AND arch = $3;

-- name: channel
SELECT c.channel_id, c.application_id, a.name AS application, c.name, c.arch, c.position, c.required_attestations,
       c.changeset_id, s.version, c.changed_at
  FROM control.channels c
  JOIN control.applications a USING (application_id)
  LEFT JOIN control.changesets s ON s.changeset_id = c.changeset_id
 WHERE c.channel_id = $1;

-- name: channels
SELECT * FROM (
SELECT c.channel_id, c.application_id, a.name AS application, c.name, c.arch, c.position, c.required_attestations,
       c.changeset_id, s.version, c.changed_at,
       coalesce(CASE $6::text
                     WHEN 'position' THEN lpad(c.position::text, 10, '0')
                     WHEN 'name' THEN c.name
                     WHEN 'changed' THEN to_char(c.changed_at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US') END, '') COLLATE "C" AS sort_key
  FROM control.channels c
  JOIN control.applications a USING (application_id)
  LEFT JOIN control.changesets s ON s.changeset_id = c.changeset_id
 WHERE ($3::uuid IS NULL OR c.application_id = $3)
   AND ($4::text IS NULL OR c.name = $4)
   AND ($5::text IS NULL OR c.arch = $5)
) listed
 WHERE $1::uuid IS NULL
    OR CASE WHEN $8::boolean THEN (sort_key, channel_id) < ($7::text, $1) ELSE (sort_key, channel_id) > ($7::text, $1) END
 ORDER BY CASE WHEN $8 THEN sort_key END DESC, CASE WHEN NOT $8 THEN sort_key END,
          CASE WHEN $8 THEN channel_id END DESC, CASE WHEN NOT $8 THEN channel_id END
 LIMIT $2;

-- name: change_channel
UPDATE control.channels SET position = $2, required_attestations = $3 WHERE channel_id = $1;

-- name: channels_followed
-- All archs of one channel name.
SELECT channel_id, application_id, name, arch, changeset_id FROM control.channels
 WHERE application_id = $1 AND name = $2 ORDER BY arch;

-- name: point_channel
UPDATE control.channels SET changeset_id = $2, changed_at = now() WHERE channel_id = $1;

-- name: add_history
INSERT INTO control.channel_history (channel_id, changeset_id, promoted_at, promoted_by, kind, reason, override_reason,
                                     approved_by)
VALUES ($1, $2, clock_timestamp(), $3, $4, $5, $6, $7);

-- name: history
SELECT h.changeset_id, s.version, h.promoted_at, h.promoted_by, h.kind, h.reason, h.override_reason, h.approved_by
  FROM control.channel_history h JOIN control.changesets s USING (changeset_id)
 WHERE h.channel_id = $1 ORDER BY h.promoted_at DESC LIMIT $2;

-- name: pointed
-- What a channel pointed to, the oldest first.
SELECT changeset_id, kind FROM control.channel_history WHERE channel_id = $1 ORDER BY promoted_at;

-- name: images
-- Changesets as far as new nodes ask: fit to be booted, and whether a group that follows the channel has come through with it.
SELECT c.changeset_id, c.version,
       c.state = 'published' AND coalesce(g.state, 'open') = 'open' AND g.braked_reason IS NULL AS usable,
       NOT EXISTS (SELECT 1 FROM control.groups f
                    WHERE f.application_id = $2 AND f.channel_name = $3 AND f.pinned_version IS NULL)
       OR EXISTS (SELECT 1 FROM control.rollouts o JOIN control.groups f USING (group_id)
                   WHERE o.changeset_id = c.changeset_id AND f.channel_name = $3 AND f.pinned_version IS NULL
                     AND (o.state = 'completed'
                          OR o.state = 'superseded' AND EXISTS (SELECT 1 FROM fleet.attempts t
                                                                 WHERE t.rollout_id = o.rollout_id AND t.state = 'committed'))
                 ) AS proven
  FROM control.changesets c LEFT JOIN control.changeset_gates g USING (changeset_id)
 WHERE c.changeset_id = ANY ($1::uuid[]);

-- name: drift
-- The nodes of an arch in the groups that follow a channel, by group and version.
SELECT f.group_id, f.name AS group_name, n.version, count(n.node_id) AS nodes
  FROM control.groups f
  LEFT JOIN fleet.nodes n ON n.group_id = f.group_id AND n.arch = $3 AND n.gone_at IS NULL
 WHERE f.application_id = $1 AND f.channel_name = $2 AND f.pinned_version IS NULL
 GROUP BY f.group_id, f.name, f.position, n.version ORDER BY f.position, f.group_id, n.version;

-- name: followers
-- Groups that follow a channel, in the order of their ids.
SELECT group_id, application_id, name, position, channel_name, pinned_version, selector, policy, updates_enabled
  FROM control.groups
 WHERE application_id = $1 AND channel_name = $2 AND pinned_version IS NULL ORDER BY group_id;
