-- name: applications
-- Every application; there are few.
SELECT application_id, name, omaha_id FROM control.applications;

-- name: ping
-- Whether Postgres answers.
SELECT 1;
