-- name: watch
-- See fleet.watch_polls_v1.
SELECT fleet.watch_polls_v1($1);

-- name: last_poll
SELECT coalesce(max(poll_id), 0) FROM fleet.watched_polls;

-- name: polls
-- Polls behind $1, of an application and a machine where these are named.
SELECT poll_id, at, dialect, address, application, machine_id, version, group_name, answer, detail
  FROM fleet.watched_polls
 WHERE poll_id > $1 AND ($2::text IS NULL OR application = $2) AND ($3::text IS NULL OR machine_id = $3)
   AND ($4::text IS NULL OR answer = $4)
   AND (NOT $5::boolean OR NOT answer = ANY ($6::text[]))
 ORDER BY poll_id LIMIT $7;
