-- name: report
-- What nodes said, in order; see fleet.report_v1.
SELECT ordinal, status, attempt_id, changeset_id, state, quarantined, cloned
  FROM fleet.report_v1($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20)
 ORDER BY ordinal;

-- name: node_token
-- A token that is not revoked, by its hash.
SELECT token_id, application_id, kind, group_id, machine_id, expires_at
  FROM control.node_tokens WHERE token_sha256 = $1 AND revoked_at IS NULL;
