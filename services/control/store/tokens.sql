-- name: token
-- Whom a token belongs to, by its hash.
SELECT name, role, applications, expires_at, revoked_at FROM control.tokens WHERE token_sha256 = $1;

-- name: tokens
SELECT name, role, applications, created_by, created_at, expires_at, revoked_at, last_used_at FROM control.tokens
 WHERE $1::text IS NULL OR name > $1
 ORDER BY name LIMIT $2;

-- name: token_named
SELECT name, role, applications, created_by, created_at, expires_at, revoked_at, last_used_at FROM control.tokens
 WHERE name = $1;

-- name: add_token
INSERT INTO control.tokens (name, token_sha256, role, applications, created_by, expires_at) VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (name) DO NOTHING
RETURNING name, role, applications, created_by, created_at, expires_at, revoked_at, last_used_at;

-- name: replace_token
INSERT INTO control.tokens (name, token_sha256, role, applications, created_by, expires_at) VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (name) DO UPDATE
   SET token_sha256 = excluded.token_sha256, role = excluded.role, applications = excluded.applications,
       created_by = excluded.created_by, expires_at = excluded.expires_at, created_at = now(), revoked_at = NULL,
       last_used_at = NULL
RETURNING name, role, applications, created_by, created_at, expires_at, revoked_at, last_used_at;

-- name: revoke_token
UPDATE control.tokens SET revoked_at = clock_timestamp() WHERE name = $1 AND revoked_at IS NULL;

-- name: rotate_token
UPDATE control.tokens SET token_sha256 = $2, expires_at = $3 WHERE name = $1
RETURNING name, role, applications, created_by, created_at, expires_at, revoked_at, last_used_at;

-- name: note_used
UPDATE control.tokens t SET last_used_at = u.at FROM unnest($1::text[], $2::timestamptz[]) AS u (name, at)
 WHERE t.name = u.name AND (t.last_used_at IS NULL OR t.last_used_at < u.at);
