-- name: hold
SELECT h.hold_id, h.changeset_id, c.application_id, a.name AS application, c.version, c.arch, h.segment, h.reason, h.held_by,
       h.held_at, h.released_at, h.released_by, h.release_reason
  FROM control.holds h
  JOIN control.changesets c USING (changeset_id)
  JOIN control.applications a USING (application_id)
 WHERE h.hold_id = $1;

-- name: holds
-- The newest first.
SELECT h.hold_id, h.changeset_id, c.application_id, a.name AS application, c.version, c.arch, h.segment, h.reason, h.held_by,
       h.held_at, h.released_at, h.released_by, h.release_reason
  FROM control.holds h
  JOIN control.changesets c USING (changeset_id)
  JOIN control.applications a USING (application_id)
 WHERE ($1::uuid IS NULL OR h.hold_id < $1)
   AND ($3::uuid IS NULL OR c.application_id = $3)
   AND ($4::uuid IS NULL OR h.changeset_id = $4)
   AND ($5::boolean IS NULL OR (h.released_at IS NULL) = $5)
 ORDER BY h.hold_id DESC LIMIT $2;

-- name: changeset_to_hold
SELECT c.changeset_id, c.application_id, c.version, c.arch, c.state, g.state AS gate_state
  FROM control.changesets c LEFT JOIN control.changeset_gates g USING (changeset_id) WHERE c.changeset_id = $1;

-- name: ensure_shut_gate
-- A gate through which nothing passes yet, so that there is one to lock before the changeset's first rollout.
INSERT INTO control.changeset_gates (changeset_id, pace) VALUES ($1, 0) ON CONFLICT (changeset_id) DO NOTHING;

-- name: covered
-- The nodes of a changeset's application and arch that a segment covers: all, those of them that do not tell one of its
-- facts, those that run the version already, and those that have it under way.
SELECT count(*) AS nodes,
       count(*) FILTER (WHERE NOT fleet.facts_v1(n.facts, n.imported_facts, n.alias, n.arch, n.version) @> $4) AS untold,
       count(*) FILTER (WHERE n.version = $3) AS on_version,
       count(t.attempt_id) AS under_way
  FROM fleet.nodes n
  LEFT JOIN fleet.attempts t ON t.node_id = n.node_id AND t.closed_at IS NULL AND t.changeset_id = $5
 WHERE n.application_id = $1 AND n.arch = $2 AND n.gone_at IS NULL
   AND fleet.in_segment_v1($4, fleet.facts_v1(n.facts, n.imported_facts, n.alias, n.arch, n.version));

-- name: hold_segment
-- See control.hold_segment_v1.
SELECT control.hold_segment_v1($1, $2, $3, $4, $5, NULL, $6, $7);

-- name: release_hold
-- See control.release_hold_v1.
SELECT control.release_hold_v1($1, $2, $3, $4, $5);
