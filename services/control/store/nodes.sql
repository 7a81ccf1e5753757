-- name: node
SELECT n.node_id, n.application_id, a.name AS application, n.machine_id, n.alias, n.group_id, g.name AS group_name, n.version,
       n.arch, n.dialect, n.boot_id, n.boot_seen_at, n.facts, n.imported_facts,
       fleet.facts_v1(n.facts, n.imported_facts, n.alias, n.arch, n.version) AS known_facts,
       n.address, n.cloned, n.first_seen_at, n.last_contact_at, n.gone_at, n.last_answer, n.last_answer_at,
       coalesce(t.state, 'none') AS state, stuck.how AS stuck
  FROM fleet.nodes n
  LEFT JOIN control.applications a USING (application_id)
  LEFT JOIN control.groups g ON g.group_id = n.group_id
  LEFT JOIN fleet.attempts t ON t.attempt_id = n.last_attempt_id
 CROSS JOIN LATERAL fleet.stuck_v1(n, t, $2, $3, $4::text[]) AS stuck(how)
 WHERE n.node_id = $1;

-- name: nodes
-- Nodes by id; $17 are kinds of being stuck, any of which will do.
SELECT n.node_id, n.application_id, a.name AS application, n.machine_id, n.alias, n.group_id, g.name AS group_name, n.version,
       n.arch, n.dialect, n.address, n.cloned, n.last_contact_at, n.gone_at, n.last_answer, n.last_answer_at,
       coalesce(t.state, 'none') AS state, stuck.how AS stuck
  FROM fleet.nodes n
  LEFT JOIN control.applications a USING (application_id)
  LEFT JOIN control.groups g ON g.group_id = n.group_id
  LEFT JOIN fleet.attempts t ON t.attempt_id = n.last_attempt_id
 CROSS JOIN LATERAL fleet.stuck_v1(n, t, $18, $19, $20::text[]) AS stuck(how)
 WHERE ($1::uuid IS NULL OR n.node_id > $1)
   AND ($3::uuid IS NULL OR n.application_id = $3)
   AND ($4::uuid IS NULL OR n.group_id = $4)
   AND ($5::text IS NULL OR n.version = $5)
   AND ($6::text IS NULL OR n.machine_id = $6)
   AND ($7::text IS NULL OR coalesce(t.state, 'none') = $7)
   AND ($8::boolean IS NULL OR n.cloned = $8)
   AND ($9::text IS NULL OR n.arch = $9)
   AND ($10::text IS NULL OR coalesce(n.facts ->> 'alias', n.alias) = $10)
   AND ($11::text IS NULL OR starts_with(n.machine_id, $11) OR starts_with(coalesce(n.facts ->> 'alias', n.alias, ''), $11))
   AND ($12::text IS NULL OR n.dialect = $12)
   AND ($13::boolean IS NULL OR (n.gone_at IS NOT NULL AND n.gone_at >= n.last_contact_at) = $13)
   AND ($14::boolean IS NULL OR EXISTS (SELECT 1 FROM fleet.quarantine q WHERE q.node_id = n.node_id) = $14)
   AND ($15::uuid IS NULL OR EXISTS (SELECT 1 FROM fleet.quarantine q WHERE q.node_id = n.node_id AND q.changeset_id = $15))
   AND ($16::jsonb IS NULL OR fleet.facts_v1(n.facts, n.imported_facts, n.alias, n.arch, n.version) @> $16)
   AND ($17::text[] IS NULL OR stuck.how && $17)
 ORDER BY n.node_id LIMIT $2;

-- name: nodes_sorted
-- The same, sorted by $21: node_id, last_contact, version or machine; $22 turns it round. The page begins behind ($23, $1).
WITH page AS (
    SELECT n.node_id, sorted.key
      FROM fleet.nodes n
      LEFT JOIN fleet.attempts t ON t.attempt_id = n.last_attempt_id
     CROSS JOIN LATERAL (SELECT CASE $21::text
               WHEN 'last_contact' THEN to_char(n.last_contact_at AT TIME ZONE 'UTC', 'YYYYMMDDHH24MISSUS')
               WHEN 'version' THEN fleet.version_key_v1(n.version)
               WHEN 'node_id' THEN ''
               ELSE n.machine_id END COLLATE "C" AS key) AS sorted
     WHERE ($1::uuid IS NULL OR CASE WHEN $22::boolean THEN (sorted.key, n.node_id) < ($23::text COLLATE "C", $1)
                                     ELSE (sorted.key, n.node_id) > ($23::text COLLATE "C", $1) END)
       AND ($3::uuid IS NULL OR n.application_id = $3)
       AND ($4::uuid IS NULL OR n.group_id = $4)
       AND ($5::text IS NULL OR n.version = $5)
       AND ($6::text IS NULL OR n.machine_id = $6)
       AND ($7::text IS NULL OR coalesce(t.state, 'none') = $7)
       AND ($8::boolean IS NULL OR n.cloned = $8)
       AND ($9::text IS NULL OR n.arch = $9)
       AND ($10::text IS NULL OR coalesce(n.facts ->> 'alias', n.alias) = $10)
       AND ($11::text IS NULL OR starts_with(n.machine_id, $11) OR starts_with(coalesce(n.facts ->> 'alias', n.alias, ''), $11))
       AND ($12::text IS NULL OR n.dialect = $12)
       AND ($13::boolean IS NULL OR (n.gone_at IS NOT NULL AND n.gone_at >= n.last_contact_at) = $13)
       AND ($14::boolean IS NULL OR EXISTS (SELECT 1 FROM fleet.quarantine q WHERE q.node_id = n.node_id) = $14)
       AND ($15::uuid IS NULL OR EXISTS (SELECT 1 FROM fleet.quarantine q WHERE q.node_id = n.node_id AND q.changeset_id = $15))
       AND ($16::jsonb IS NULL OR fleet.facts_v1(n.facts, n.imported_facts, n.alias, n.arch, n.version) @> $16)
       AND ($17::text[] IS NULL OR fleet.stuck_v1(n, t, $18, $19, $20::text[]) && $17)
     ORDER BY CASE WHEN NOT $22::boolean THEN sorted.key END, CASE WHEN NOT $22::boolean THEN n.node_id END,
              CASE WHEN $22::boolean THEN sorted.key END DESC, CASE WHEN $22::boolean THEN n.node_id END DESC
     LIMIT $2
)
SELECT n.node_id, n.application_id, a.name AS application, n.machine_id, n.alias, n.group_id, g.name AS group_name, n.version,
       n.arch, n.dialect, n.address, n.cloned, n.last_contact_at, n.gone_at, n.last_answer, n.last_answer_at,
       coalesce(t.state, 'none') AS state, fleet.stuck_v1(n, t, $18, $19, $20::text[]) AS stuck, page.key AS sort_key
  FROM page
  JOIN fleet.nodes n USING (node_id)
  LEFT JOIN control.applications a USING (application_id)
  LEFT JOIN control.groups g ON g.group_id = n.group_id
  LEFT JOIN fleet.attempts t ON t.attempt_id = n.last_attempt_id
 ORDER BY CASE WHEN NOT $22::boolean THEN page.key END, CASE WHEN NOT $22::boolean THEN n.node_id END,
          CASE WHEN $22::boolean THEN page.key END DESC, CASE WHEN $22::boolean THEN n.node_id END DESC;

-- name: attempts_of_node
-- The newest first; attempt tokens are the nodes' own and are not shown.
SELECT attempt_id, changeset_id, rollout_id, group_id, from_version, to_version, state, parked, reason, error_code, granted_at,
       changed_at, closed_at
  FROM fleet.attempts WHERE node_id = $1 ORDER BY granted_at DESC LIMIT 50;

-- name: quarantines_of_node
SELECT q.changeset_id, c.version, q.attempt_id, q.reason, q.since
  FROM fleet.quarantine q LEFT JOIN control.changesets c USING (changeset_id)
 WHERE q.node_id = $1 ORDER BY q.since DESC LIMIT 50;

-- name: history_of_node
-- What the ledger has of a node, the newest first; its events keep their order by its id. That an operator asked for one of
-- them is told beside it.
SELECT seq, type, recorded_at, convert_from(event, 'UTF8')::jsonb -> 'data' AS data
  FROM event_log.ledger WHERE partition_key = $1 AND seq < $2 AND type <> 'operator.acted.v1' ORDER BY seq DESC LIMIT $3;

-- name: standing
-- What decides about a node beside its rollout: its group's switch, what is followed, and its open attempt.
SELECT g.updates_enabled, coalesce(g.pinned_version, g.channel_name) AS follows, a.observe_only, e.open AS everything_open,
       t.state AS attempt_state, t.to_version AS attempt_version, t.granted_at AS attempt_since, t.parked AS attempt_parked
  FROM fleet.nodes n
 CROSS JOIN control.global_gate e
  LEFT JOIN control.applications a USING (application_id)
  LEFT JOIN control.groups g ON g.group_id = n.group_id
  LEFT JOIN fleet.attempts t ON t.node_id = n.node_id AND t.closed_at IS NULL
 WHERE n.node_id = $1;

-- name: rollout_of_node
-- What its group rolls out to it: the active update, else the newest completed one; a floor on the way goes first.
SELECT o.rollout_id, o.changeset_id, o.purpose, o.order_stage, o.fraction, o.policy, c.version,
       q.reason AS quarantined, x.reason AS excluded, fleet.position_v1(n.machine_id, o.changeset_id) AS position,
       (SELECT count(*) FROM fleet.attempts f WHERE f.node_id = n.node_id AND f.changeset_id = o.changeset_id
           AND f.state = 'failed') AS failures
  FROM fleet.nodes n
  JOIN control.rollouts o ON o.group_id = n.group_id AND o.arch = n.arch
  JOIN control.changesets c ON c.changeset_id = o.changeset_id
  LEFT JOIN fleet.quarantine q ON q.node_id = n.node_id AND q.changeset_id = o.changeset_id
  LEFT JOIN control.rollout_exclusions x ON x.rollout_id = o.rollout_id AND x.node_id = n.node_id
 WHERE n.node_id = $1 AND o.purpose IN ('update', 'floor') AND o.state NOT IN ('aborted', 'superseded')
 ORDER BY (o.state <> 'completed') DESC, o.rollout_id DESC;

-- name: holds_of_changeset
SELECT segment, reason FROM control.holds WHERE changeset_id = $1 AND released_at IS NULL ORDER BY held_at;

-- name: node_ids
-- Those of some machines that were heard of.
SELECT node_id, machine_id, gone_at IS NOT NULL AS gone FROM fleet.nodes WHERE application_id = $1 AND machine_id = ANY ($2::text[]);

-- name: lift_quarantine
SELECT fleet.lift_quarantine_v1($1, $2, $3, $4, $5, $6);

-- name: gone
-- See fleet.gone_v1; the nodes that were there until now.
SELECT fleet.gone_v1($1, $2, $3, $4, $5) AS node_id;

-- name: forget
-- See fleet.forget_v1.
SELECT fleet.forget_v1($1, $2, $3, $4, $5);

-- name: describe
-- See fleet.describe_nodes_v1; the nodes of which something changed.
SELECT fleet.describe_nodes_v1($1, $2, $3, $4, $5, $6, $7) AS node_id;

-- name: returned
-- See fleet.returned_v1.
SELECT fleet.returned_v1();

-- name: stale
-- Nodes that were not heard since $1 and have nothing under way.
SELECT n.node_id FROM fleet.nodes n
 WHERE n.last_contact_at < $1 AND n.gone_at IS NULL
   AND NOT EXISTS (SELECT 1 FROM fleet.attempts t WHERE t.node_id = n.node_id AND t.closed_at IS NULL)
 ORDER BY n.last_contact_at LIMIT $2;

-- name: staged_but_halted
-- By changeset: how many nodes will boot it at their next reboot although it is not offered any more.
SELECT s.changeset_id, s.application_id, a.name AS application, s.version, c.arch, s.stopped_by, g.reason,
       count(*) AS nodes, count(*) FILTER (WHERE s.parked) AS parked, min(s.changed_at) AS oldest_at,
       (array_agg(s.machine_id ORDER BY s.machine_id))[1:$4] AS machines
  FROM fleet.staged_but_halted s
  JOIN control.changesets c USING (changeset_id)
  JOIN control.changeset_gates g USING (changeset_id)
  JOIN control.applications a ON a.application_id = s.application_id
 WHERE ($1::uuid IS NULL OR s.application_id = $1)
   AND ($2::uuid IS NULL OR s.group_id = $2)
   AND ($3::uuid IS NULL OR s.changeset_id = $3)
 GROUP BY s.changeset_id, s.application_id, a.name, s.version, c.arch, s.stopped_by, g.reason
 ORDER BY count(*) DESC, s.changeset_id LIMIT 500;
