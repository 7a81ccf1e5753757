-- name: group_of_application
SELECT group_id FROM control.groups WHERE application_id = $1 AND (name = $2 OR group_id::text = $2);

-- name: add_node_token
-- $7: seconds until it expires, NULL: never.
INSERT INTO control.node_tokens (token_id, application_id, kind, group_id, machine_id, token_sha256, created_by, expires_at)
VALUES ($1, $2, $3, $4, $5, $6, $8, clock_timestamp() + make_interval(secs => $7::double precision));

-- name: node_token
SELECT t.token_id, t.application_id, a.name AS application, t.kind, t.group_id, g.name AS group_name, t.machine_id, t.created_by,
       t.created_at, t.expires_at, t.revoked_at
  FROM control.node_tokens t
  JOIN control.applications a USING (application_id)
  LEFT JOIN control.groups g ON g.group_id = t.group_id
 WHERE t.token_id = $1;

-- name: node_tokens
SELECT t.token_id, t.application_id, a.name AS application, t.kind, t.group_id, g.name AS group_name, t.machine_id, t.created_by,
       t.created_at, t.expires_at, t.revoked_at
  FROM control.node_tokens t
  JOIN control.applications a USING (application_id)
  LEFT JOIN control.groups g ON g.group_id = t.group_id
 WHERE ($1::uuid IS NULL OR t.token_id > $1)
   AND ($3::uuid IS NULL OR t.application_id = $3)
   AND ($4::text IS NULL OR t.kind = $4)
   AND ($5::text IS NULL OR t.machine_id = $5)
   AND ($6 OR (t.revoked_at IS NULL AND (t.expires_at IS NULL OR t.expires_at > clock_timestamp())))
 ORDER BY t.token_id LIMIT $2;

-- name: revoke_node_token
UPDATE control.node_tokens SET revoked_at = clock_timestamp() WHERE token_id = $1 AND revoked_at IS NULL;

-- name: floods
SELECT f.application_id, a.name AS application, f.kind, f.source, f.dropped, f.first_at, f.last_at
  FROM fleet.floods f LEFT JOIN control.applications a USING (application_id)
 WHERE $1::uuid IS NULL OR f.application_id = $1
 ORDER BY f.last_at DESC, f.kind, f.source LIMIT $2;
