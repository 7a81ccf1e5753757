-- name: add_changeset
INSERT INTO control.changesets (changeset_id, application_id, version, arch, kind, notes) VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (application_id, version, arch) DO NOTHING RETURNING changeset_id;

-- name: changeset_by_version
SELECT changeset_id, kind, notes FROM control.changesets WHERE application_id = $1 AND version = $2 AND arch = $3;

-- name: lock_changeset
SELECT changeset_id, application_id, version, arch, kind, state, notes FROM control.changesets
 WHERE changeset_id = $1 FOR NO KEY UPDATE;

-- name: changeset
-- One changeset with its gate (absent until it is promoted to a channel that a group follows).
SELECT c.changeset_id, c.application_id, a.name AS application, c.version, c.arch, c.kind, c.state, c.notes, c.created_at,
       c.published_at, g.state AS gate_state, g.braked_reason, g.pace, g.reason AS gate_reason, g.evidence, g.resumes,
       g.changed_at AS gate_changed_at
  FROM control.changesets c
  JOIN control.applications a USING (application_id)
  LEFT JOIN control.changeset_gates g USING (changeset_id)
 WHERE c.changeset_id = $1;

-- name: changesets
SELECT c.changeset_id, c.application_id, a.name AS application, c.version, c.arch, c.kind, c.state, c.notes, c.created_at,
       c.published_at, g.state AS gate_state, g.braked_reason, g.pace, g.reason AS gate_reason, g.evidence, g.resumes,
       g.changed_at AS gate_changed_at
  FROM control.changesets c
  JOIN control.applications a USING (application_id)
  LEFT JOIN control.changeset_gates g USING (changeset_id)
 WHERE ($1::uuid IS NULL OR c.changeset_id < $1)
   AND ($3::uuid IS NULL OR c.application_id = $3)
   AND ($4::text IS NULL OR c.version = $4)
   AND ($5::text IS NULL OR c.arch = $5)
   AND ($6::text IS NULL OR c.state = $6)
 ORDER BY c.changeset_id DESC LIMIT $2;

-- name: payloads
SELECT p.position, p.role, p.name, p.sha256, p.sha1_base64, p.size, p.required, s.reason AS suspended
  FROM control.payloads p LEFT JOIN control.suspended_payloads s USING (sha256)
 WHERE p.changeset_id = $1 ORDER BY p.position;

-- name: add_payload
INSERT INTO control.payloads (changeset_id, position, role, name, sha256, sha1_base64, size, required)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8);

-- name: publish_changeset
UPDATE control.changesets SET state = 'published', published_at = now() WHERE changeset_id = $1;

-- name: ensure_shut_gate
-- A gate through which nothing passes yet, so that a changeset can be halted before its first rollout.
INSERT INTO control.changeset_gates (changeset_id, pace) VALUES ($1, 0) ON CONFLICT (changeset_id) DO NOTHING;

-- name: halt_changeset
SELECT control.halt_changeset_v1($1, $2, $3, NULL, $4, $5);

-- name: resume_changeset
SELECT control.resume_changeset_v1($1, $2, $3, $4);
