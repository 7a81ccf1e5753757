-- name: add_group
INSERT INTO control.groups (group_id, application_id, name, position, channel_name, pinned_version, selector, policy,
                            updates_enabled, owner, contact)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11);

-- name: groups_in_order
-- All groups of an application, in the order in which they are tried.
SELECT group_id, name, position, selector FROM control.groups WHERE application_id = $1 ORDER BY position;

-- name: group_by_name
SELECT group_id, application_id, name, position, channel_name, pinned_version, selector, policy, updates_enabled, owner, contact
  FROM control.groups WHERE application_id = $1 AND name = $2;

-- name: set_group
UPDATE control.groups SET position = $2, channel_name = $3, pinned_version = $4, selector = $5, policy = $6,
       updates_enabled = $7, owner = $8, contact = $9
 WHERE group_id = $1;

-- name: move_back
-- Makes room at a position: the groups from there on move back by one.
UPDATE control.groups SET position = position + 1 WHERE application_id = $1 AND position >= $2;

-- name: set_order
-- Numbers groups in the order of the array, from 1.
UPDATE control.groups g SET position = u.place
  FROM unnest($1::uuid[]) WITH ORDINALITY AS u(group_id, place)
 WHERE g.group_id = u.group_id AND g.position <> u.place;

-- name: group
SELECT g.group_id, g.application_id, a.name AS application, g.name, g.position, g.channel_name AS channel, g.pinned_version,
       g.selector, g.policy, g.updates_enabled, g.owner, g.contact, g.created_at,
       (SELECT count(*) FROM control.group_nodes n WHERE n.group_id = g.group_id) AS named_nodes
  FROM control.groups g JOIN control.applications a USING (application_id)
 WHERE g.group_id = $1;

-- name: groups
SELECT * FROM (
SELECT g.group_id, g.application_id, a.name AS application, g.name, g.position, g.channel_name AS channel, g.pinned_version,
       g.selector, g.policy, g.updates_enabled, g.owner, g.contact, g.created_at,
       (SELECT count(*) FROM control.group_nodes n WHERE n.group_id = g.group_id) AS named_nodes,
       coalesce(CASE $7::text
                     WHEN 'name' THEN g.name
                     WHEN 'position' THEN lpad(g.position::text, 10, '0') END, '') COLLATE "C" AS sort_key
  FROM control.groups g JOIN control.applications a USING (application_id)
 WHERE ($3::uuid IS NULL OR g.application_id = $3)
   AND ($4::text IS NULL OR g.name = $4)
   AND ($5::text IS NULL OR g.channel_name = $5)
   AND ($6::text IS NULL OR g.owner = $6)
) listed
 WHERE $1::uuid IS NULL
    OR CASE WHEN $9::boolean THEN (sort_key, group_id) < ($8::text, $1) ELSE (sort_key, group_id) > ($8::text, $1) END
 ORDER BY CASE WHEN $9 THEN sort_key END DESC, CASE WHEN NOT $9 THEN sort_key END,
          CASE WHEN $9 THEN group_id END DESC, CASE WHEN NOT $9 THEN group_id END
 LIMIT $2;

-- name: nodes_in_group
-- Nodes of a group that are not gone.
SELECT count(*) FROM fleet.nodes WHERE group_id = $1 AND gone_at IS NULL;

-- name: named_nodes
-- The machines that a group names, by their id.
SELECT machine_id FROM control.group_nodes WHERE group_id = $1 AND ($2::text IS NULL OR machine_id > $2)
 ORDER BY machine_id LIMIT $3;

-- name: name_nodes
-- Has a group name machines; another group that named them does no more. Returns how many are new.
WITH named AS (
    INSERT INTO control.group_nodes AS n (application_id, machine_id, group_id)
    SELECT DISTINCT $1::uuid, u.machine_id, $2::uuid FROM unnest($3::text[]) AS u(machine_id)
    ON CONFLICT (application_id, machine_id) DO UPDATE SET group_id = excluded.group_id WHERE n.group_id <> excluded.group_id
    RETURNING 1
)
SELECT count(*) FROM named;

-- name: unname_nodes
-- Returns how many the group named.
WITH unnamed AS (
    DELETE FROM control.group_nodes WHERE group_id = $1 AND machine_id = ANY ($2::text[]) RETURNING 1
)
SELECT count(*) FROM unnamed;

-- name: count_named
SELECT count(*) FROM control.group_nodes WHERE application_id = $1;

-- name: stocks
-- The nodes of an application that are not gone, counted by what decides about their group: the JSON array of their values of
-- the facts in $2, the group that names them, and where they are now.
SELECT here.key, named.group_id AS named, here.group_id, count(*) AS nodes
  FROM (SELECT n.machine_id, n.group_id, to_jsonb(ARRAY(
                   SELECT fleet.fact_v1(n.facts, n.imported_facts, n.alias, n.arch, n.version, u.fact)
                     FROM unnest($2::text[]) AS u(fact)))::text AS key
          FROM fleet.nodes n WHERE n.application_id = $1 AND n.gone_at IS NULL) AS here
  LEFT JOIN control.group_nodes named ON named.application_id = $1 AND named.machine_id = here.machine_id
 GROUP BY 1, 2, 3;

-- name: stocked_machines
-- The first machines of some stocks.
WITH here AS MATERIALIZED (
    SELECT n.machine_id, n.group_id, to_jsonb(ARRAY(
               SELECT fleet.fact_v1(n.facts, n.imported_facts, n.alias, n.arch, n.version, u.fact)
                 FROM unnest($2::text[]) AS u(fact)))::text AS key
      FROM fleet.nodes n WHERE n.application_id = $1 AND n.gone_at IS NULL
)
SELECT here.machine_id
  FROM here
  LEFT JOIN control.group_nodes named ON named.application_id = $1 AND named.machine_id = here.machine_id
  JOIN unnest($3::text[], $4::uuid[], $5::uuid[]) AS stock(key, named, group_id) ON stock.key = here.key
 WHERE stock.named IS NOT DISTINCT FROM named.group_id AND stock.group_id IS NOT DISTINCT FROM here.group_id
 ORDER BY here.machine_id LIMIT $6;

-- name: assign_groups
-- See fleet.assign_groups_v1.
SELECT fleet.assign_groups_v1($1, $2, $3, $4, $5);

-- name: waited_on
-- Groups whose gates name a group.
SELECT g.name FROM control.groups g
 WHERE g.application_id = $1 AND g.name <> $2
   AND EXISTS (SELECT 1 FROM jsonb_array_elements(coalesce(g.policy -> 'gates', '[]')) AS gate WHERE gate -> 'groups' ? $2)
 ORDER BY g.position;

-- name: open_attempts_of_group
SELECT count(*) FROM fleet.attempts WHERE group_id = $1 AND closed_at IS NULL;

-- name: delete_rollouts
-- The closed rollouts of a group that goes; the ledger keeps what they did.
DELETE FROM control.rollouts WHERE group_id = $1;

-- name: delete_group
DELETE FROM control.groups WHERE group_id = $1;
