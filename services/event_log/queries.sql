-- name: try_lead
-- True when this connection holds the lock from now on, until it ends.
SELECT pg_try_advisory_lock(hashtextextended($1, 0))

-- name: anything
SELECT EXISTS (SELECT FROM event_log.inbox)

-- name: take
-- Takes the first committed rows. One snapshot, so that the range holds exactly what the subquery saw.
DELETE FROM event_log.inbox
WHERE position <= (
  SELECT max(first.position) FROM (SELECT position FROM event_log.inbox ORDER BY position LIMIT $1) AS first
)
RETURNING position, event_id, type, source, subject, partition_key, occurred_at, data::text AS data, correlation_id,
          causation_id, traceparent, appended_at, clock_timestamp() AS taken_at

-- name: set_head
-- Compares and sets the head and wakes the followers; no row when another mover wrote.
WITH moved AS (
  UPDATE event_log.head SET seq = $3, hash = $4, recorded_at = $5 WHERE seq = $1 AND hash = $2 RETURNING seq
)
SELECT seq, pg_notify('uneventful_ledger', seq::text) FROM moved

-- name: set_aside
-- Puts one inbox row aside with the reason; no row when it is gone.
WITH gone AS (DELETE FROM event_log.inbox WHERE position = $1 RETURNING *)
INSERT INTO event_log.set_aside (position, event_id, type, source, subject, partition_key, occurred_at, data,
                                 correlation_id, causation_id, traceparent, error)
SELECT position, event_id, type, source, subject, partition_key, occurred_at, data, correlation_id, causation_id,
       traceparent, $2
FROM gone

-- name: put_aside
-- The same for a row that this transaction took.
INSERT INTO event_log.set_aside (position, event_id, type, source, subject, partition_key, occurred_at, data,
                                 correlation_id, causation_id, traceparent, error)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8::text::jsonb, $9, $10, $11, $12)

-- name: ensure_partitions
SELECT event_log.ensure_partitions_v1($1)

-- name: room
-- The first seq that no partition takes.
SELECT coalesce(max((regexp_match(pg_get_expr(c.relpartbound, c.oid), 'TO \(''(\d+)''\)'))[1]::bigint), 0)
FROM pg_inherits i
JOIN pg_class c ON c.oid = i.inhrelid
WHERE i.inhparent = 'event_log.ledger'::regclass

-- name: lock_last_tick
-- Whoever holds this row makes the tick.
SELECT ticked_at, contacts, clock_timestamp() AS now FROM event_log.last_tick FOR UPDATE

-- name: contacts
-- Contacts counted so far, per site.
SELECT site, sum(contacts)::bigint AS contacts FROM fleet.contact_counts GROUP BY site

-- name: expected_contacts
SELECT site, expected FROM fleet.expected_contacts_v1($1)

-- name: set_last_tick
UPDATE event_log.last_tick SET ticked_at = $1, contacts = $2::text::jsonb

-- name: inbox_state
-- Depth, and the age in seconds of the row that has waited longest.
SELECT count(*) AS depth,
       coalesce(extract(epoch FROM clock_timestamp() - min(appended_at)), 0)::double precision AS lag_s
FROM event_log.inbox

-- name: forget_seen
-- Forgets event ids older than so many days, some at a time.
DELETE FROM event_log.seen
WHERE event_id IN (
  SELECT event_id FROM event_log.seen WHERE seen_at < now() - make_interval(days => $1) LIMIT $2
)
