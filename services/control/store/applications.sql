-- name: add_application
INSERT INTO control.applications (application_id, name, omaha_id) VALUES ($1, $2, $3)
ON CONFLICT DO NOTHING RETURNING application_id, name, omaha_id, created_at;

-- name: application_named
-- By name, id or omaha id; all that match, the name first.
SELECT application_id, name, omaha_id, created_at FROM control.applications
 WHERE name = $1 OR application_id::text = lower($1) OR omaha_id = lower($2)
 ORDER BY (name = $1) DESC, (application_id::text = lower($1)) DESC, application_id;

-- name: applications
SELECT application_id, name, omaha_id, created_at FROM control.applications
 WHERE $1::uuid IS NULL OR application_id > $1
 ORDER BY application_id LIMIT $2;
