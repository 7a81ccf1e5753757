-- name: add_changeset
INSERT INTO control.changesets (changeset_id, application_id, version, arch, kind, notes, source, components, packages, floor,
                                floor_reason, dead_end, dead_end_reason, minimum_version)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)
ON CONFLICT (application_id, version, arch) DO NOTHING RETURNING changeset_id;

-- name: changeset_by_version
SELECT changeset_id, kind, notes, source, components, packages, floor, floor_reason, dead_end, dead_end_reason, minimum_version
  FROM control.changesets WHERE application_id = $1 AND version = $2 AND arch = $3;

-- name: lock_changeset
SELECT c.changeset_id, c.application_id, a.name AS application, a.version_scheme, c.version, c.arch, c.kind, c.state, c.notes,
       c.source, c.components, c.packages, c.floor, c.floor_reason, c.dead_end, c.dead_end_reason, c.minimum_version,
       c.withdrawn_reason
  FROM control.changesets c JOIN control.applications a USING (application_id)
 WHERE c.changeset_id = $1 FOR NO KEY UPDATE OF c;

-- name: change_draft
UPDATE control.changesets SET kind = $2, notes = $3, source = $4, components = $5, packages = $6, floor = $7, floor_reason = $8,
       dead_end = $9, dead_end_reason = $10, minimum_version = $11
 WHERE changeset_id = $1 AND state = 'draft';

-- name: mark_changeset
-- What is not given stays; a mark that is taken away loses its reason.
UPDATE control.changesets
   SET floor = coalesce($2, floor),
       floor_reason = CASE WHEN $2 IS NULL THEN floor_reason WHEN $2 THEN $4 END,
       dead_end = coalesce($3, dead_end),
       dead_end_reason = CASE WHEN $3 IS NULL THEN dead_end_reason WHEN $3 THEN $4 END
 WHERE changeset_id = $1;

-- name: changeset
-- One changeset with its gate (absent until it is promoted to a channel that a group follows).
SELECT c.changeset_id, c.application_id, a.name AS application, c.version, c.arch, c.kind, c.state, c.notes, c.source,
       c.components, c.packages, c.floor, c.floor_reason, c.dead_end, c.dead_end_reason, c.minimum_version, c.created_at,
       c.published_at, c.withdrawn_at, c.withdrawn_reason,
       ARRAY(SELECT s.value ->> 'key_id' FROM jsonb_array_elements(c.signatures) s) AS signed_by,
       g.state AS gate_state, g.braked_reason, g.pace, g.reason AS gate_reason, g.evidence, g.resumes,
       g.changed_at AS gate_changed_at
  FROM control.changesets c
  JOIN control.applications a USING (application_id)
  LEFT JOIN control.changeset_gates g USING (changeset_id)
 WHERE c.changeset_id = $1;

-- name: changesets
-- Without their packages, which are many.
SELECT * FROM (
SELECT c.changeset_id, c.application_id, a.name AS application, c.version, c.arch, c.kind, c.state, c.notes, c.source,
       c.components, c.floor, c.floor_reason, c.dead_end, c.dead_end_reason, c.minimum_version, c.created_at,
       c.published_at, c.withdrawn_at, c.withdrawn_reason,
       ARRAY(SELECT s.value ->> 'key_id' FROM jsonb_array_elements(c.signatures) s) AS signed_by,
       g.state AS gate_state, g.braked_reason, g.pace, g.reason AS gate_reason, g.evidence, g.resumes,
       g.changed_at AS gate_changed_at,
       coalesce(CASE $7::text
                     WHEN 'version' THEN c.version
                     WHEN 'published' THEN to_char(c.published_at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US') END, '') COLLATE "C" AS sort_key
  FROM control.changesets c
  JOIN control.applications a USING (application_id)
  LEFT JOIN control.changeset_gates g USING (changeset_id)
 WHERE ($3::uuid IS NULL OR c.application_id = $3)
   AND ($4::text IS NULL OR c.version = $4)
   AND ($5::text IS NULL OR c.arch = $5)
   AND ($6::text IS NULL OR c.state = $6)
) listed
 WHERE $1::uuid IS NULL
    OR CASE WHEN $9::boolean THEN (sort_key, changeset_id) < ($8::text, $1) ELSE (sort_key, changeset_id) > ($8::text, $1) END
 ORDER BY CASE WHEN $9 THEN sort_key END DESC, CASE WHEN NOT $9 THEN sort_key END,
          CASE WHEN $9 THEN changeset_id END DESC, CASE WHEN NOT $9 THEN changeset_id END
 LIMIT $2;

-- name: payloads
SELECT p.position, p.role, p.name, p.sha256, p.sha1_base64, p.size, p.required, s.reason AS suspended
  FROM control.payloads p LEFT JOIN control.suspended_payloads s USING (sha256)
 WHERE p.changeset_id = $1 ORDER BY p.position;

-- name: add_payload
INSERT INTO control.payloads (changeset_id, position, role, name, sha256, sha1_base64, size, required)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8);

-- name: publish_changeset
UPDATE control.changesets SET state = 'published', published_at = $2, manifest = $3, signatures = $4 WHERE changeset_id = $1;

-- name: manifest
SELECT c.version, c.state, c.manifest, c.signatures FROM control.changesets c WHERE c.changeset_id = $1;

-- name: ensure_shut_gate
-- A gate through which nothing passes yet, so that a changeset can be halted before its first rollout.
INSERT INTO control.changeset_gates (changeset_id, pace) VALUES ($1, 0) ON CONFLICT (changeset_id) DO NOTHING;

-- name: halt_changeset
SELECT control.halt_changeset_v1($1, $2, $3, NULL, $4, $5);

-- name: resume_changeset
SELECT control.resume_changeset_v1($1, $2, $3, $4);

-- name: withdraw_changeset
SELECT control.withdraw_changeset_v1($1, $2, $3, $4);

-- name: holders
-- Nodes that run a changeset's version, or have it on its way or staged: those would boot it.
SELECT n.node_id, n.machine_id, n.group_id, g.name AS group_name, n.version, t.state AS attempt_state, n.last_contact_at,
       n.version = $3 AS runs
  FROM fleet.nodes n
  LEFT JOIN control.groups g ON g.group_id = n.group_id
  LEFT JOIN fleet.attempts t ON t.node_id = n.node_id AND t.closed_at IS NULL AND t.changeset_id = $1
 WHERE n.application_id = $2 AND n.gone_at IS NULL AND (n.arch = $4 OR n.arch IS NULL)
   AND (n.version = $3 OR t.attempt_id IS NOT NULL)
 ORDER BY n.version = $3 DESC, g.name, n.machine_id LIMIT $5;

-- name: count_holders
-- The same, counted: `runs` the version, `staged` it and may boot it at any time, `on_its_way` before that.
SELECT count(*) FILTER (WHERE n.version = $3) AS runs,
       count(*) FILTER (WHERE n.version <> $3 AND t.state IN ('staged', 'awaiting_reboot', 'rebooting', 'probation')) AS staged,
       count(*) FILTER (WHERE n.version <> $3 AND t.state IN ('offered', 'downloading')) AS on_its_way
  FROM fleet.nodes n
  LEFT JOIN fleet.attempts t ON t.node_id = n.node_id AND t.closed_at IS NULL AND t.changeset_id = $1
 WHERE n.application_id = $2 AND n.gone_at IS NULL AND (n.arch = $4 OR n.arch IS NULL);

-- name: holding_groups
-- The groups whose nodes run a version, and whether their policy brings such nodes back once it is withdrawn.
SELECT n.group_id, g.name AS group_name, count(*) AS runs,
       coalesce((g.policy ->> 'downgrade')::boolean, false) AS brought_back
  FROM fleet.nodes n LEFT JOIN control.groups g ON g.group_id = n.group_id
 WHERE n.application_id = $1 AND n.gone_at IS NULL AND n.version = $2 AND (n.arch = $3 OR n.arch IS NULL)
 GROUP BY n.group_id, g.name, g.policy ORDER BY g.name;

-- name: pointing_channels
SELECT channel_id, name, arch FROM control.channels WHERE changeset_id = $1 ORDER BY position, channel_id;
