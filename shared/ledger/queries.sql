-- name: append
-- Appends in array order, once per event id; returns how many were new.
SELECT event_log.append_v1($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::timestamptz[],
                           $7::text[]::jsonb[], $8::text[], $9::text[], $10::text[])

-- name: head
-- The last seq, its hash and its ledger time.
SELECT seq, hash, recorded_at FROM event_log.head

-- name: read_all
SELECT seq, event_id, type, subject, partition_key, correlation_id, recorded_at, occurred_at, hash, event
FROM event_log.ledger
WHERE seq > $1 AND seq <= $2
ORDER BY seq
LIMIT $3

-- name: read_filtered
SELECT seq, event_id, type, subject, partition_key, correlation_id, recorded_at, occurred_at, hash, event
FROM event_log.ledger
WHERE seq > $1 AND seq <= $2
  AND ($4::text[] IS NULL OR type ~ ANY ($4::text[]))
  AND ($5::text IS NULL OR subject = $5::text)
ORDER BY seq
LIMIT $3

-- name: read_by_partition_key
SELECT seq, event_id, type, subject, partition_key, correlation_id, recorded_at, occurred_at, hash, event
FROM event_log.ledger
WHERE seq > $1 AND seq <= $2
  AND ($4::text[] IS NULL OR type ~ ANY ($4::text[]))
  AND ($5::text IS NULL OR subject = $5::text)
  AND partition_key = $6
ORDER BY seq
LIMIT $3

-- name: read_by_correlation
SELECT seq, event_id, type, subject, partition_key, correlation_id, recorded_at, occurred_at, hash, event
FROM event_log.ledger
WHERE seq > $1 AND seq <= $2
  AND ($4::text[] IS NULL OR type ~ ANY ($4::text[]))
  AND ($5::text IS NULL OR subject = $5::text)
  AND ($6::text IS NULL OR partition_key = $6::text)
  AND correlation_id = $7
ORDER BY seq
LIMIT $3

-- name: checkpoint
-- Where a follower stands; no row means that it never moved.
SELECT seq FROM event_log.followers WHERE name = $1

-- name: advance
-- Moves a follower that stands where its caller believes it to stand.
UPDATE event_log.followers SET seq = $3, moved_at = clock_timestamp() WHERE name = $1 AND seq = $2

-- name: first_advance
-- Moves a follower that never moved; the primary key decides between two that try.
INSERT INTO event_log.followers (name, seq, moved_at) VALUES ($1, $2, clock_timestamp()) ON CONFLICT DO NOTHING

-- name: hash_at
SELECT hash FROM event_log.ledger WHERE seq = $1

-- name: chain
-- Everything that verification looks at, from one snapshot.
SELECT seq, event_id, type, subject, partition_key, correlation_id, recorded_at, occurred_at, hash, event
FROM event_log.ledger
WHERE seq > $1
ORDER BY seq
