-- name: lead
-- One analysis judges at a time; the lock lives as long as its connection.
SELECT pg_try_advisory_lock(hashtext('uneventful'), hashtext('rollback_analysis'));

-- name: read_fold
SELECT state FROM analysis.folds WHERE name = 'rollback_analysis';

-- name: read_changesets
SELECT state FROM analysis.changesets;

-- name: read_attempts
SELECT state FROM analysis.attempts;

-- name: write_fold
INSERT INTO analysis.folds (name, state) VALUES ('rollback_analysis', $1)
ON CONFLICT (name) DO UPDATE SET state = excluded.state;

-- name: write_changesets
INSERT INTO analysis.changesets (changeset_id, state, view) SELECT * FROM unnest($1::uuid[], $2::bytea[], $3::jsonb[])
ON CONFLICT (changeset_id) DO UPDATE SET state = excluded.state, view = excluded.view;

-- name: write_attempts
INSERT INTO analysis.attempts (attempt_id, changeset_id, state) SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::bytea[])
ON CONFLICT (attempt_id) DO UPDATE SET state = excluded.state;

-- name: write_verdicts
INSERT INTO analysis.verdicts (seq, ordinal, changeset_id, kind, verdict)
SELECT * FROM unnest($1::bigint[], $2::integer[], $3::uuid[], $4::text[], $5::bytea[]);

-- name: read_verdicts
-- Everything that was decided, in order.
SELECT seq, ordinal, verdict FROM analysis.verdicts ORDER BY seq, ordinal;

-- name: lock_gates
-- The gates that the verdicts of a batch touch, in the order in which everybody locks them.
SELECT changeset_id, pace, braked_reason FROM control.changeset_gates WHERE changeset_id = ANY ($1)
 ORDER BY changeset_id FOR NO KEY UPDATE;

-- name: gates_of_active
-- The changesets that are rolled out now, who are braked while we are blind, and all that are braked: one that was halted
-- in the meantime must not come back from it with the brake on.
SELECT g.changeset_id FROM control.changeset_gates g
 WHERE g.braked_reason IS NOT NULL
    OR EXISTS (SELECT FROM control.rollouts o
                WHERE o.changeset_id = g.changeset_id AND o.state NOT IN ('halted', 'aborted', 'superseded'))
 ORDER BY g.changeset_id;

-- name: brake
-- Brakes, or with $2 null releases, changesets.
UPDATE control.changeset_gates SET braked_reason = $2, changed_at = clock_timestamp()
 WHERE changeset_id = ANY ($1) AND braked_reason IS DISTINCT FROM $2
RETURNING changeset_id, pg_notify('uneventful_gates', changeset_id::text);

-- name: halt
SELECT control.halt_changeset_v1($1, $2, 'rollback_analysis', $3, $4, 'analysis');

-- name: set_pace
SELECT control.set_pace_v1($1, $2, $3, $4);

-- name: close
SELECT fleet.close_v1($1, $2, $3, $4, 'analysis');
