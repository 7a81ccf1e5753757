-- Approvals are shown with their state: what was neither refused nor used ends with its expiry.

-- name: lock_approval
SELECT approval_id, subject, action, request, asked_by, expires_at, verdict, decided_by FROM control.approvals
 WHERE approval_id = $1 FOR NO KEY UPDATE;

-- name: approval_asked
-- The same, asked by the same, and of use still.
SELECT approval_id FROM control.approvals
 WHERE action = $1 AND subject = $2 AND asked_by = $3 AND request = $4 AND expires_at > $5
   AND (verdict IS NULL OR verdict = 'approved')
 ORDER BY approval_id DESC LIMIT 1;

-- name: add_approval
INSERT INTO control.approvals (approval_id, subject, action, request, reason, asked_by, asked_at, expires_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8);

-- name: decide_approval
UPDATE control.approvals
   SET verdict = $2, decided_by = $3, decided_at = clock_timestamp(), decision_reason = $4
 WHERE approval_id = $1;

-- name: use_approval
UPDATE control.approvals SET verdict = 'used' WHERE approval_id = $1;

-- name: approval
SELECT approval_id, subject, action, request, reason, asked_by, asked_at, expires_at,
       CASE WHEN verdict IN ('refused', 'used') THEN verdict WHEN expires_at <= $2 THEN 'expired'
            ELSE coalesce(verdict, 'open') END AS state,
       decided_by, decided_at, decision_reason
  FROM control.approvals WHERE approval_id = $1;

-- name: approvals
SELECT * FROM (
    SELECT approval_id, subject, action, request, reason, asked_by, asked_at, expires_at,
           CASE WHEN verdict IN ('refused', 'used') THEN verdict WHEN expires_at <= $3 THEN 'expired'
                ELSE coalesce(verdict, 'open') END AS state,
           decided_by, decided_at, decision_reason
      FROM control.approvals) a
 WHERE ($1::uuid IS NULL OR a.approval_id < $1)
   AND ($4::text IS NULL OR a.state = $4)
   AND ($5::text IS NULL OR a.subject = $5)
   AND ($6::text IS NULL OR a.action = $6)
 ORDER BY a.approval_id DESC LIMIT $2;

-- name: policies_of_changeset
SELECT g.policy FROM control.groups g
 WHERE EXISTS (SELECT 1 FROM control.rollouts r WHERE r.group_id = g.group_id AND r.changeset_id = $1)
 ORDER BY g.group_id;

-- name: policies_of_rollout
SELECT g.policy FROM control.rollouts r JOIN control.groups g USING (group_id) WHERE r.rollout_id = $1;
