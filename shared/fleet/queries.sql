-- name: report
-- What nodes said, in order; see fleet.report_v1.
SELECT ordinal, status, attempt_id, changeset_id, state, quarantined, cloned
  FROM fleet.report_v1($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20)
 ORDER BY ordinal;
