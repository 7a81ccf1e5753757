-- name: add_application
INSERT INTO control.applications (application_id, name, omaha_id, product, version_scheme, observe_only)
VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT DO NOTHING RETURNING application_id, name, omaha_id, product, version_scheme, observe_only, created_at;

-- name: application_named
-- By name, id or omaha id; all that match, the name first.
SELECT application_id, name, omaha_id, product, version_scheme, observe_only, created_at FROM control.applications
 WHERE name = $1 OR application_id::text = lower($1) OR omaha_id = lower($2)
 ORDER BY (name = $1) DESC, (application_id::text = lower($1)) DESC, application_id;

-- name: applications
SELECT * FROM (
SELECT application_id, name, omaha_id, product, version_scheme, observe_only, created_at,
       coalesce(CASE $3::text WHEN 'name' THEN name END, '') COLLATE "C" AS sort_key
  FROM control.applications
) listed
 WHERE $1::uuid IS NULL
    OR CASE WHEN $5::boolean THEN (sort_key, application_id) < ($4::text, $1) ELSE (sort_key, application_id) > ($4::text, $1) END
 ORDER BY CASE WHEN $5 THEN sort_key END DESC, CASE WHEN NOT $5 THEN sort_key END,
          CASE WHEN $5 THEN application_id END DESC, CASE WHEN NOT $5 THEN application_id END
 LIMIT $2;

-- name: change_application
UPDATE control.applications SET product = $2, version_scheme = $3, observe_only = $4 WHERE application_id = $1;

-- name: versions_of
-- Every version that the application's changesets have.
SELECT DISTINCT version FROM control.changesets WHERE application_id = $1 ORDER BY version;
