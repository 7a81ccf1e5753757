-- name: gates
-- The global gate, how far the log and its judgement are (all by Postgres's clock, in seconds), and whether polls are watched.
SELECT g.open, g.policy_version, h.seq AS head_seq,
       coalesce(extract(epoch FROM clock_timestamp() - h.recorded_at), 1e9)::double precision AS log_age_s,
       coalesce(extract(epoch FROM clock_timestamp() - f.moved_at), 1e9)::double precision AS analysis_age_s,
       coalesce(extract(epoch FROM clock_timestamp() - (
           SELECT l.recorded_at FROM event_log.ledger l WHERE l.seq = f.seq + 1)), 0)::double precision AS analysis_lag_s,
       coalesce((SELECT w.until > clock_timestamp() FROM fleet.poll_watch w), false) AS watched
  FROM control.global_gate g
 CROSS JOIN event_log.head h
  LEFT JOIN event_log.followers f ON f.name = 'rollback_analysis';

-- name: applications
SELECT application_id, name, omaha_id, observe_only, version_scheme FROM control.applications ORDER BY name;

-- name: groups
SELECT group_id, application_id, name, selector, updates_enabled, pinned_version,
       coalesce((policy ->> 'poll_interval_s')::double precision, 2700) AS poll_interval_s
  FROM control.groups ORDER BY application_id, position;

-- name: group_nodes
-- Nodes that groups name one by one.
SELECT application_id, machine_id, group_id FROM control.group_nodes;

-- name: path_secrets
-- Secrets of Omaha paths; those that are out of force for some time yet, so that a node is told so.
SELECT token_sha256, application_id, machine_id, expires_at, revoked_at IS NOT NULL AS revoked
  FROM control.node_tokens
 WHERE kind = 'path' AND least(revoked_at, expires_at, 'infinity') > now() - interval '90 days';

-- name: dead_ends
SELECT application_id, arch, version FROM control.changesets WHERE dead_end AND state <> 'draft';

-- name: rollouts
-- Every rollout that serves or may come to, with the gate of its changeset; newest first. A completed one serves unless a
-- newer one of its kind was completed, or it was a drill: that is over.
WITH completed AS (
    SELECT DISTINCT ON (group_id, arch, purpose, CASE WHEN purpose = 'floor' THEN changeset_id END, leaves_version) rollout_id
      FROM control.rollouts WHERE state = 'completed' AND purpose <> 'drill'
     ORDER BY group_id, arch, purpose, CASE WHEN purpose = 'floor' THEN changeset_id END, leaves_version,
              created_at DESC, rollout_id DESC
)
SELECT o.rollout_id, o.group_id, o.changeset_id, o.arch, o.state, o.pace, o.pace_cap, o.purpose, o.leaves_version,
       o.only_machines, o.fraction, o.order_stage, o.expedited_at IS NOT NULL AS expedited, o.policy::text AS policy,
       c.version, c.minimum_version, g.state AS gate_state, g.braked_reason, g.pace AS changeset_pace,
       EXISTS (SELECT 1 FROM control.payloads p JOIN control.suspended_payloads s USING (sha256)
                WHERE p.changeset_id = o.changeset_id) AS suspended
  FROM control.rollouts o
  JOIN control.changesets c USING (changeset_id)
  JOIN control.changeset_gates g USING (changeset_id)
 WHERE o.state IN ('created', 'waiting_for_gate', 'waiting_for_approval', 'scheduled', 'running', 'paused', 'halted')
    OR o.rollout_id IN (SELECT rollout_id FROM completed)
 ORDER BY o.created_at DESC, o.rollout_id DESC;

-- name: holds
-- Segments of the changesets in $1 that are held.
SELECT changeset_id, segment FROM control.holds WHERE released_at IS NULL AND changeset_id = ANY ($1) ORDER BY held_at, hold_id;

-- name: exclusions
-- Machines that operators excluded from the rollouts in $1.
SELECT e.rollout_id, n.machine_id FROM control.rollout_exclusions e JOIN fleet.nodes n USING (node_id)
 WHERE e.rollout_id = ANY ($1);

-- name: payloads
-- The files of the changesets in $1, the main payload first.
SELECT changeset_id, name, sha256, sha1_base64, size, required
  FROM control.payloads WHERE changeset_id = ANY ($1) ORDER BY changeset_id, position;

-- name: open_attempts
SELECT a.attempt_id, a.application_id, n.machine_id, a.changeset_id, a.group_id, a.state, a.boot_id, a.parked
  FROM fleet.attempts a JOIN fleet.nodes n USING (node_id) WHERE a.closed_at IS NULL;

-- name: quarantined
-- Quarantines of what is rolled out now.
SELECT n.application_id, n.machine_id, q.changeset_id
  FROM fleet.quarantine q JOIN fleet.nodes n USING (node_id)
 WHERE q.changeset_id IN (SELECT changeset_id FROM control.rollouts WHERE state NOT IN ('aborted', 'superseded'));

-- name: cloned
SELECT application_id, machine_id FROM fleet.nodes WHERE cloned;

-- name: imported
-- What operators imported of nodes: of those in $1, or of all where that is NULL.
SELECT application_id, machine_id,
       imported_facts || CASE WHEN alias IS NULL THEN '{}' ELSE jsonb_build_object('alias', alias) END AS facts
  FROM fleet.nodes WHERE ($1::uuid[] IS NULL OR node_id = ANY ($1)) AND (imported_facts <> '{}' OR alias IS NOT NULL);

-- name: grant
-- Offers one rollout to nodes; see fleet.grant_v2.
SELECT ordinal, status, attempt_id, token FROM fleet.grant_v2($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) ORDER BY ordinal;

-- name: contact
-- Last contacts, with what each was answered; returns the nodes whose rows disagree; see fleet.contact_v2.
SELECT node_id, known FROM fleet.contact_v2($1, $2, $3, $4, $5, $6, $7);

-- name: count_contacts
-- Adds to the cumulative contacts of idle nodes, per site.
INSERT INTO fleet.contact_counts AS c (site, writer, contacts)
SELECT u.site, $2, u.contacts FROM unnest($1::text[], $3::bigint[]) AS u(site, contacts)
ON CONFLICT (site, writer) DO UPDATE SET contacts = c.contacts + excluded.contacts;

-- name: watched
-- Polls for those who watch.
INSERT INTO fleet.watched_polls (at, dialect, address, application, machine_id, version, group_name, answer, detail)
SELECT * FROM unnest($1::timestamptz[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[],
                     $9::text[]);

-- name: forget_watched
-- Forgets watched polls that are older than 5 minutes; tells whether any are left.
WITH forgotten AS (DELETE FROM fleet.watched_polls WHERE at < clock_timestamp() - interval '5 minutes')
SELECT EXISTS (SELECT 1 FROM fleet.watched_polls WHERE at >= clock_timestamp() - interval '5 minutes');
