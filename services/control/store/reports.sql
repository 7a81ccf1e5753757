-- name: report_groups
SELECT g.group_id, g.name AS "group", g.application_id, a.name AS application, g.channel_name AS channel,
       g.pinned_version AS pin, g.owner
  FROM control.groups g JOIN control.applications a USING (application_id)
 WHERE ($1::uuid IS NULL OR g.application_id = $1)
 ORDER BY a.name, g.position;

-- name: channel_pointers
-- What channels pointed to, and since when.
SELECT ch.application_id, ch.name AS channel, ch.arch, c.version, c.state = 'withdrawn' AS withdrawn, h.promoted_at AS at
  FROM control.channel_history h
  JOIN control.channels ch USING (channel_id)
  JOIN control.changesets c ON c.changeset_id = h.changeset_id
 WHERE ($1::uuid IS NULL OR ch.application_id = $1)
 ORDER BY h.promoted_at;

-- name: pinned_changesets
-- Changesets that groups are pinned to; they can be asked for since they were published.
SELECT g.group_id, c.arch, c.version, c.state = 'withdrawn' AS withdrawn, c.published_at AS at
  FROM control.groups g JOIN control.changesets c ON c.application_id = g.application_id AND c.version = g.pinned_version
 WHERE c.published_at IS NOT NULL AND ($1::uuid IS NULL OR g.application_id = $1);

-- name: stocks
-- Nodes by group, arch and version, those apart that were not heard since their demand ($1, $2, $3: group, arch, since).
WITH demand AS (SELECT * FROM unnest($1::uuid[], $2::text[], $3::timestamptz[]) AS d (group_id, arch, since))
SELECT n.group_id, n.arch, n.version, count(*) AS nodes, count(*) FILTER (WHERE n.last_contact_at < d.since) AS unseen
  FROM fleet.nodes n LEFT JOIN demand d ON d.group_id = n.group_id AND d.arch = n.arch
 WHERE n.group_id IS NOT NULL AND n.gone_at IS NULL AND ($4::uuid IS NULL OR n.application_id = $4)
 GROUP BY 1, 2, 3;

-- name: arrivals
-- Commits since $1 by group and whole minutes after the last promotion of the changeset to the channel before the grant.
SELECT t.group_id, floor(extract(epoch FROM t.closed_at - p.promoted_at) / 60)::bigint AS minutes, count(*) AS nodes
  FROM fleet.attempts t
  JOIN control.rollouts r USING (rollout_id)
  CROSS JOIN LATERAL (SELECT max(h.promoted_at) AS promoted_at FROM control.channel_history h
                       WHERE h.channel_id = r.channel_id AND h.changeset_id = t.changeset_id
                         AND h.promoted_at <= t.granted_at) p
 WHERE t.state = 'committed' AND t.closed_at >= $1 AND p.promoted_at IS NOT NULL
   AND ($2::uuid IS NULL OR t.application_id = $2)
 GROUP BY 1, 2;

-- name: acts
SELECT seq, recorded_at, type, event FROM event_log.ledger
 WHERE seq > $1 AND recorded_at >= $2 AND recorded_at < $3 AND type = ANY ($4::text[])
 ORDER BY seq LIMIT $5;
