-- name: create_tables
-- What the runner itself needs; safe to run again.
CREATE SCHEMA IF NOT EXISTS migrations;
CREATE TABLE IF NOT EXISTS migrations.applied (
    number integer PRIMARY KEY,
    phase text NOT NULL CHECK (phase IN ('pre', 'post')),
    name text NOT NULL,
    sha256 bytea NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE IF NOT EXISTS migrations.schema_version (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    version integer NOT NULL,
    -- The oldest code's newest number that may still run on this schema.
    compat_version integer NOT NULL
);
INSERT INTO migrations.schema_version (version, compat_version) VALUES (0, 0) ON CONFLICT DO NOTHING;

-- name: lock
-- One runner at a time; waits for lock_timeout at most. The key is "uneventf" in ASCII.
SELECT pg_advisory_lock(8461812309058024550)

-- name: has_tables
SELECT to_regclass('migrations.schema_version') IS NOT NULL

-- name: applied
SELECT number, phase, name, encode(sha256, 'hex') AS sha256, applied_at FROM migrations.applied ORDER BY number

-- name: version
SELECT version, compat_version FROM migrations.schema_version

-- name: record
INSERT INTO migrations.applied (number, phase, name, sha256)
VALUES ($1, $2, $3, decode($4, 'hex'))
RETURNING applied_at

-- name: raise_version
UPDATE migrations.schema_version
SET version = greatest(version, $1), compat_version = greatest(compat_version, $2)
