-- name: attested_changeset
SELECT c.changeset_id, a.name AS application, c.version, c.arch, c.state
  FROM control.changesets c JOIN control.applications a USING (application_id)
 WHERE c.changeset_id = $1 FOR SHARE OF c;

-- name: add_attestation
INSERT INTO control.attestations (attestation_id, changeset_id, name, verdict, summary, link, artefact_sha256, results, signature,
                                  attested_by)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
RETURNING attestation_id, changeset_id, name, verdict, summary, link, artefact_sha256, results, signature, attested_by,
          attested_at;

-- name: attestations
-- All of a changeset, the newest first; the last of each name counts.
SELECT t.attestation_id, t.changeset_id, t.name, t.verdict, t.summary, t.link, t.artefact_sha256, t.results, t.signature,
       t.attested_by, t.attested_at,
       row_number() OVER (PARTITION BY t.name ORDER BY t.attested_at DESC, t.attestation_id DESC) = 1 AS counts
  FROM control.attestations t WHERE t.changeset_id = $1 ORDER BY t.attested_at DESC, t.attestation_id DESC LIMIT $2;

-- name: latest_verdicts
SELECT DISTINCT ON (name) name, verdict FROM control.attestations
 WHERE changeset_id = $1 ORDER BY name, attested_at DESC, attestation_id DESC;
