-- name: application_of_reference
SELECT application_id FROM control.applications
 WHERE name = $1 OR application_id::text = lower($1) OR omaha_id = lower($2)
 ORDER BY (name = $1) DESC, (application_id::text = lower($1)) DESC, application_id LIMIT 1;

-- name: application_of_thing
-- By what the first part of a path calls it; approvals are of what they are about.
WITH named AS (
    SELECT $1::text AS noun, $2::uuid AS id WHERE $1 <> 'approvals'
    UNION ALL
    SELECT split_part(subject, '/', 1), split_part(subject, '/', 2)::uuid FROM control.approvals
     WHERE $1 = 'approvals' AND approval_id = $2 AND subject ~ '^[a-z]+/[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$'
)
SELECT application_id FROM (
    SELECT a.application_id FROM control.applications a, named WHERE noun = 'applications' AND a.application_id = id
    UNION ALL
    SELECT c.application_id FROM control.changesets c, named WHERE noun = 'changesets' AND c.changeset_id = id
    UNION ALL
    SELECT c.application_id FROM control.channels c, named WHERE noun = 'channels' AND c.channel_id = id
    UNION ALL
    SELECT g.application_id FROM control.groups g, named WHERE noun = 'groups' AND g.group_id = id
    UNION ALL
    SELECT r.application_id FROM control.rollouts r, named WHERE noun = 'rollouts' AND r.rollout_id = id
    UNION ALL
    SELECT n.application_id FROM fleet.nodes n, named WHERE noun = 'nodes' AND n.node_id = id
    UNION ALL
    SELECT c.application_id FROM control.holds h JOIN control.changesets c USING (changeset_id), named
     WHERE noun = 'holds' AND h.hold_id = id
    UNION ALL
    SELECT t.application_id FROM control.node_tokens t, named WHERE noun = 'node-tokens' AND t.token_id = id
) found LIMIT 1;
