-- name: token
-- Whom a token belongs to, by its hash.
SELECT name, role FROM control.tokens WHERE token_sha256 = $1;

-- name: add_token
INSERT INTO control.tokens (name, token_sha256, role) VALUES ($1, $2, $3)
ON CONFLICT (name) DO NOTHING RETURNING name;

-- name: replace_token
INSERT INTO control.tokens (name, token_sha256, role) VALUES ($1, $2, $3)
ON CONFLICT (name) DO UPDATE SET token_sha256 = excluded.token_sha256, role = excluded.role, created_at = now()
RETURNING name;
