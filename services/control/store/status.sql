-- name: shown_rollouts
-- Rollouts that are not over, and completed ones that took nodes today; those that need somebody first.
SELECT r.rollout_id
  FROM control.rollouts r
  LEFT JOIN control.changeset_gates g USING (changeset_id)
 WHERE ($1::uuid IS NULL OR r.application_id = $1)
   AND (r.state NOT IN ('completed', 'aborted', 'superseded')
        OR (r.state = 'completed' AND r.changed_at > $2::timestamptz))
 ORDER BY r.state IN ('completed'), r.state IN ('running', 'scheduled', 'waiting_for_gate') AND g.braked_reason IS NULL,
          r.rollout_id DESC
 LIMIT $3;

-- name: shown_rollouts_count
SELECT count(*) FROM control.rollouts r
 WHERE ($1::uuid IS NULL OR r.application_id = $1) AND r.state NOT IN ('completed', 'aborted', 'superseded');

-- name: open_approvals
SELECT approval_id, subject, action, reason, asked_by, asked_at, expires_at FROM control.approvals
 WHERE verdict IS NULL AND expires_at > $1 ORDER BY asked_at LIMIT 100;

-- name: stopped_changesets
-- Changesets of which a channel or a node in flight still has use, and that nobody is offered.
SELECT c.changeset_id, a.name AS application, c.version, c.arch, g.state, g.reason, g.changed_at, g.resumes,
       (SELECT count(*) FROM fleet.attempts t WHERE t.changeset_id = c.changeset_id AND t.closed_at IS NULL
           AND t.state IN ('staged', 'awaiting_reboot')) AS will_boot,
       EXISTS (SELECT FROM control.channels ch WHERE ch.changeset_id = c.changeset_id) AS pointed
  FROM control.changeset_gates g
  JOIN control.changesets c USING (changeset_id)
  JOIN control.applications a USING (application_id)
 WHERE g.state <> 'open' AND ($1::uuid IS NULL OR c.application_id = $1)
   AND (EXISTS (SELECT FROM control.channels ch WHERE ch.changeset_id = c.changeset_id)
        OR EXISTS (SELECT FROM fleet.attempts t WHERE t.changeset_id = c.changeset_id AND t.closed_at IS NULL))
 ORDER BY g.changed_at DESC LIMIT 100;

-- name: will_boot_stopped
-- Nodes that will boot, at their next reboot, what is not offered to them any more.
SELECT count(*) FROM fleet.staged_but_halted WHERE $1::uuid IS NULL OR application_id = $1;

-- name: holds_in_force
SELECT h.hold_id, h.changeset_id, a.name AS application, c.version, c.arch, h.segment, h.reason, h.held_by, h.held_at
  FROM control.holds h JOIN control.changesets c USING (changeset_id) JOIN control.applications a USING (application_id)
 WHERE h.released_at IS NULL AND ($1::uuid IS NULL OR c.application_id = $1)
 ORDER BY h.held_at LIMIT 100;

-- name: node_counts
SELECT count(*) AS total, count(*) FILTER (WHERE last_contact_at < $2) AS silent, count(*) FILTER (WHERE cloned) AS cloned,
       count(*) FILTER (WHERE group_id IS NULL) AS without_group
  FROM fleet.nodes WHERE gone_at IS NULL AND ($1::uuid IS NULL OR application_id = $1);

-- name: attempt_counts
-- Of open attempts: all, parked ones, and those that have been staged for longer than since $2.
SELECT count(*) AS in_flight, count(*) FILTER (WHERE parked) AS parked,
       count(*) FILTER (WHERE state IN ('staged', 'awaiting_reboot') AND changed_at < $2) AS stuck
  FROM fleet.attempts WHERE closed_at IS NULL AND ($1::uuid IS NULL OR application_id = $1);

-- name: quarantined
-- Nodes that are quarantined for a changeset that is neither withdrawn nor what they run.
SELECT count(DISTINCT q.node_id) FROM fleet.quarantine q
  JOIN fleet.nodes n USING (node_id)
  JOIN control.changesets c ON c.changeset_id = q.changeset_id
 WHERE n.gone_at IS NULL AND c.state = 'published' AND c.version <> n.version
   AND ($1::uuid IS NULL OR n.application_id = $1);

-- name: on_withdrawn
-- Nodes that run a version that was withdrawn.
SELECT count(*) FROM fleet.nodes n JOIN control.changesets c
    ON c.application_id = n.application_id AND c.version = n.version AND c.arch = n.arch
 WHERE c.state = 'withdrawn' AND n.gone_at IS NULL AND ($1::uuid IS NULL OR n.application_id = $1);

-- name: ledger_state
SELECT h.seq, h.recorded_at,
       (SELECT count(*) FROM (SELECT FROM event_log.inbox LIMIT 100000) i) AS inbox_depth,
       coalesce((SELECT extract(epoch FROM clock_timestamp() - min(appended_at)) FROM event_log.inbox), 0)::float8 AS inbox_lag_s
  FROM event_log.head h;

-- name: followers
SELECT f.name, f.seq, greatest(0, h.seq - f.seq) AS behind, f.moved_at FROM event_log.followers f CROSS JOIN event_log.head h
 ORDER BY f.name;

-- name: blind
-- What the analysis cannot see: per site and reason its last word.
SELECT b.site, b.reason, b.decided_at FROM (
    SELECT DISTINCT ON (site, reason) kind, site, reason, decided_at
      FROM (SELECT v.kind, v.seq, v.ordinal, v.decided_at, convert_from(v.verdict, 'UTF8')::jsonb ->> 'site' AS site,
                   convert_from(v.verdict, 'UTF8')::jsonb ->> 'reason' AS reason
              FROM analysis.verdicts v WHERE v.changeset_id IS NULL AND v.kind IN ('blind', 'sighted')
             ORDER BY v.seq DESC, v.ordinal DESC LIMIT 1000) last
     ORDER BY site, reason, seq DESC, ordinal DESC) b
 WHERE b.kind = 'blind' ORDER BY 1, 2;

-- name: floods
-- Machines and addresses that reported too much within the last hour.
SELECT a.name AS application, f.kind, f.source, f.dropped, f.last_at
  FROM fleet.floods f JOIN control.applications a USING (application_id)
 WHERE f.last_at > $2 AND ($1::uuid IS NULL OR f.application_id = $1) ORDER BY f.dropped DESC LIMIT 20;
