-- name: gates
-- All that shuts a payload off, in one row; stamp changes whenever another set of changesets is published.
SELECT g.open,
       coalesce(g.reason, 'all updates are halted') AS reason,
       coalesce((SELECT jsonb_agg(jsonb_build_array(c.changeset_id,
                                                    CASE WHEN c.state = 'withdrawn' THEN 'withdrawn' ELSE cg.state END,
                                                    coalesce(cg.reason, 'no reason was given')))
                   FROM control.changesets c
                   LEFT JOIN control.changeset_gates cg USING (changeset_id)
                  WHERE c.state = 'withdrawn' OR cg.state <> 'open'), '[]') AS closed,
       coalesce((SELECT jsonb_object_agg(s.sha256, s.reason) FROM control.suspended_payloads s), '{}') AS suspended,
       (SELECT concat_ws('/', count(*), max(c.published_at)) FROM control.changesets c WHERE c.state <> 'draft') AS stamp
  FROM control.global_gate g;

-- name: listings
-- Every payload of every changeset that is or was published.
SELECT p.sha256, p.name, p.changeset_id
  FROM control.payloads p
  JOIN control.changesets c USING (changeset_id)
 WHERE c.state <> 'draft';

-- name: attempt_by_token
-- The attempt that a download belongs to; by the unique index on token.
SELECT changeset_id, state FROM fleet.attempts WHERE token = $1;

-- name: token_by_hash
-- Who an operator's token belongs to. The token itself is stored nowhere.
SELECT name, role FROM control.tokens
 WHERE token_sha256 = $1 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now());

-- name: ping
-- Whether Postgres answers.
SELECT 1;
