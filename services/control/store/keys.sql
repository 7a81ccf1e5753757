-- name: share_keys
-- Whoever publishes: the keys in force stay the same until this transaction ends.
LOCK TABLE control.key_lists IN SHARE MODE;

-- name: lock_keys
-- Whoever changes the keys: alone, and with no publication half done.
LOCK TABLE control.key_lists IN SHARE ROW EXCLUSIVE MODE;

-- name: keys
-- All keys that ever were, the oldest first.
SELECT key_id, public_key, created_at, created_by, retired_at FROM control.signing_keys ORDER BY created_at, key_id;

-- name: keys_in_force
SELECT key_id, public_key FROM control.signing_keys WHERE retired_at IS NULL ORDER BY key_id;

-- name: add_key
INSERT INTO control.signing_keys (key_id, public_key, created_at, created_by) VALUES ($1, $2, $3, $4);

-- name: retire_keys
UPDATE control.signing_keys SET retired_at = $2 WHERE key_id = ANY ($1::text[]) AND retired_at IS NULL;

-- name: last_list
SELECT coalesce(max(version), 0) FROM control.key_lists;

-- name: lists
-- Lists of keys after a version, in order.
SELECT version, document, signatures, made_at, made_by FROM control.key_lists
 WHERE version > $1 ORDER BY version LIMIT $2;

-- name: add_list
INSERT INTO control.key_lists (version, document, signatures, made_at, made_by) VALUES ($1, $2, $3, $4, $5);

-- name: signed_changesets
SELECT changeset_id, manifest FROM control.changesets WHERE state = 'published' AND manifest IS NOT NULL ORDER BY changeset_id;

-- name: add_signature
UPDATE control.changesets SET signatures = signatures || $2::jsonb WHERE changeset_id = $1;

-- name: attesters
-- Testers' keys, the oldest first.
SELECT key_id, name, public_key, trusted_at, trusted_by, distrusted_at FROM control.attester_keys ORDER BY trusted_at, key_id;

-- name: attester
-- A tester's key that is trusted.
SELECT key_id, name, public_key FROM control.attester_keys WHERE key_id = $1 AND distrusted_at IS NULL;

-- name: lock_attester
SELECT key_id, name, public_key, distrusted_at FROM control.attester_keys WHERE key_id = $1 FOR UPDATE;

-- name: trust
INSERT INTO control.attester_keys (key_id, name, public_key, trusted_at, trusted_by) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (key_id) DO UPDATE SET name = excluded.name, trusted_at = excluded.trusted_at, trusted_by = excluded.trusted_by,
                                   distrusted_at = NULL;

-- name: distrust
UPDATE control.attester_keys SET distrusted_at = $2 WHERE key_id = $1;
