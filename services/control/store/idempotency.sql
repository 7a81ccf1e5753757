-- name: claim
-- Takes a key: one that is new, that is older than keys are kept, or whose request died before it changed anything.
INSERT INTO control.idempotency_keys AS k (principal, key, request_sha256, used_at) VALUES ($1, $2, $3, $4)
ON CONFLICT (principal, key) DO UPDATE
   SET request_sha256 = excluded.request_sha256, status = NULL, body = NULL, etag = NULL, used_at = excluded.used_at
 WHERE k.used_at <= $5 OR (k.status IS NULL AND k.used_at <= $6)
RETURNING key;

-- name: kept
SELECT request_sha256, status, body, etag FROM control.idempotency_keys WHERE principal = $1 AND key = $2;

-- name: keep
UPDATE control.idempotency_keys SET status = $3, body = $4, etag = $5 WHERE principal = $1 AND key = $2;

-- name: release
-- Only what has changed nothing: a status is set in the transaction of the change.
DELETE FROM control.idempotency_keys WHERE principal = $1 AND key = $2 AND status IS NULL;

-- name: sweep
WITH swept AS (DELETE FROM control.idempotency_keys WHERE used_at <= $1 RETURNING 1) SELECT count(*) FROM swept;
