-- name: bury
-- Keeps a dead letter, once per queue and event.
INSERT INTO event_log.dead_letters (queue, event_id, type, reason, deliveries, body, headers)
VALUES ($1, $2, $3, $4, $5, $6, $7::text::jsonb)
ON CONFLICT (queue, event_id) DO NOTHING

-- name: begin_queue
-- A queue without a broker begins at the head of the ledger when it is first subscribed to.
INSERT INTO event_log.followers (name, seq)
SELECT $1, seq FROM event_log.head
ON CONFLICT (name) DO NOTHING

-- name: newest
-- The newest entries of some types, newest first: what is left when a wake-up queue drops its oldest.
SELECT seq, event_id, type, subject, partition_key, correlation_id, recorded_at, occurred_at, hash, event
FROM event_log.ledger
WHERE seq > $1 AND seq <= $2 AND type ~ ANY ($3::text[])
ORDER BY seq DESC
LIMIT $4
