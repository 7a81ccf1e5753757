-- What operators do with nodes: groups that choose them anew, names and facts, nodes that are gone, polls that are watched.

-- Contacts are written all the time: an index over their time would make each of them a write to the index as well.
DROP INDEX fleet.nodes_by_contact;
CREATE INDEX nodes_by_machine ON fleet.nodes (application_id, machine_id text_pattern_ops);
CREATE INDEX nodes_by_alias ON fleet.nodes (application_id, alias) WHERE alias IS NOT NULL;
CREATE INDEX nodes_gone ON fleet.nodes (node_id) WHERE gone_at IS NOT NULL;

-- fleet.fact_v1: one fact of a node; what fleet.facts_v1 says of it, without putting all of them together.
CREATE FUNCTION fleet.fact_v1(p_told jsonb, p_imported jsonb, p_alias text, p_arch text, p_version text, p_fact text)
RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE p_fact
        WHEN 'version' THEN p_version
        WHEN 'arch' THEN coalesce(p_arch, p_told ->> 'arch', p_imported ->> 'arch')
        WHEN 'alias' THEN coalesce(p_told ->> 'alias', p_alias, p_imported ->> 'alias')
        ELSE coalesce(p_told ->> p_fact, p_imported ->> p_fact) END
$$;

-- fleet.version_key_v1: text that sorts like a version's numbers.
CREATE FUNCTION fleet.version_key_v1(p_version text) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT coalesce(string_agg(lpad(part.number, 10, '0'), '.' ORDER BY part.place), '') || ' ' || p_version
      FROM regexp_split_to_table(p_version, '[^0-9]+') WITH ORDINALITY AS part(number, place)
$$;

-- fleet.assign_groups_v1: puts the nodes of an application into the groups that they belong to now: the one that names them,
-- else the one that was chosen for their key, which is the JSON array of their values of p_facts. Returns how many moved.
-- Locks: nodes in order of id.
CREATE FUNCTION fleet.assign_groups_v1(
    p_application_id uuid, p_facts text[], p_keys text[], p_group_ids uuid[], p_node_ids uuid[] DEFAULT NULL
) RETURNS bigint LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    moved bigint;
BEGIN
    WITH here AS MATERIALIZED (
        SELECT n.node_id, n.machine_id, n.group_id, to_jsonb(ARRAY(
                   SELECT fleet.fact_v1(n.facts, n.imported_facts, n.alias, n.arch, n.version, u.fact)
                     FROM unnest(p_facts) AS u(fact)))::text AS key
          FROM fleet.nodes n
         WHERE n.application_id = p_application_id AND (p_node_ids IS NULL OR n.node_id = ANY (p_node_ids))
    ), wanted AS MATERIALIZED (
        SELECT here.node_id, coalesce(named.group_id, keyed.group_id) AS group_id
          FROM here
          LEFT JOIN control.group_nodes named
                 ON named.application_id = p_application_id AND named.machine_id = here.machine_id
          LEFT JOIN unnest(p_keys, p_group_ids) AS keyed(key, group_id) ON keyed.key = here.key
         WHERE here.group_id IS DISTINCT FROM coalesce(named.group_id, keyed.group_id)
    ), locked AS MATERIALIZED (
        SELECT n.node_id FROM fleet.nodes n JOIN wanted USING (node_id) ORDER BY n.node_id FOR NO KEY UPDATE OF n
    )
    UPDATE fleet.nodes n SET group_id = wanted.group_id
      FROM wanted JOIN locked USING (node_id) WHERE n.node_id = wanted.node_id;
    GET DIAGNOSTICS moved = ROW_COUNT;
    RETURN moved;
END
$$;

-- fleet.recall_nodes_v1: ends the open attempts of nodes that will not finish them, staged or not: they stay in n, and are
-- neither good nor bad. Returns how many there were. The callers hold the nodes' locks.
CREATE FUNCTION fleet.recall_nodes_v1(p_node_ids uuid[], p_reason text, p_source text) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    stopping uuid[];
BEGIN
    SELECT array_agg(open_one.attempt_id) INTO stopping FROM (
        SELECT t.attempt_id FROM fleet.attempts t WHERE t.node_id = ANY (p_node_ids) AND t.closed_at IS NULL
         ORDER BY t.attempt_id FOR NO KEY UPDATE) AS open_one;
    RETURN fleet.recall_attempts_v1(stopping, p_reason, p_source);
END
$$;

-- fleet.gone_v1: nodes that left for good; what they had open stays in n and out of k. Returns those that were there until now.
-- Locks: nodes in order of id, then attempts.
CREATE FUNCTION fleet.gone_v1(p_node_ids uuid[], p_event_ids uuid[], p_reason text, p_by text, p_source text)
RETURNS SETOF uuid LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    going uuid[];
BEGIN
    SELECT coalesce(array_agg(here.node_id), '{}') INTO going FROM (
        SELECT n.node_id FROM fleet.nodes n WHERE n.node_id = ANY (p_node_ids) AND n.gone_at IS NULL
         ORDER BY n.node_id FOR NO KEY UPDATE) AS here;
    UPDATE fleet.nodes n SET gone_at = clock_timestamp() WHERE n.node_id = ANY (going);
    INSERT INTO event_log.inbox (event_id, type, source, subject, partition_key, occurred_at, data, correlation_id)
    SELECT u.event_id, 'node.gone.v1', p_source, 'nodes/' || n.node_id, n.node_id::text, clock_timestamp(),
           jsonb_strip_nulls(jsonb_build_object(
               'node_id', n.node_id, 'machine_id', n.machine_id, 'application_id', n.application_id,
               'attempt_id', a.attempt_id, 'changeset_id', a.changeset_id, 'rollout_id', a.rollout_id,
               'reason', p_reason, 'by', p_by)),
           a.attempt_id::text
      FROM unnest(p_node_ids, p_event_ids) AS u(node_id, event_id)
      JOIN fleet.nodes n ON n.node_id = u.node_id AND n.node_id = ANY (going)
      LEFT JOIN fleet.attempts a ON a.node_id = n.node_id AND a.closed_at IS NULL
     ORDER BY n.node_id;
    PERFORM fleet.recall_nodes_v1(going, 'node gone', p_source);
    RETURN QUERY SELECT unnest(going);
END
$$;

-- fleet.returned_v1: nodes that were gone and polled since are back. Returns how many.
CREATE FUNCTION fleet.returned_v1() RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    back bigint;
BEGIN
    WITH locked AS MATERIALIZED (
        SELECT n.node_id FROM fleet.nodes n WHERE n.gone_at < n.last_contact_at ORDER BY n.node_id FOR NO KEY UPDATE
    )
    UPDATE fleet.nodes n SET gone_at = NULL FROM locked WHERE n.node_id = locked.node_id;
    GET DIAGNOSTICS back = ROW_COUNT;
    RETURN back;
END
$$;

-- fleet.forget_v1: strikes a node from the fleet; its attempts stay, for they are evidence. Returns false where it is not there.
CREATE FUNCTION fleet.forget_v1(p_node_id uuid, p_event_id uuid, p_reason text, p_by text, p_source text)
RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    n fleet.nodes;
BEGIN
    SELECT * INTO n FROM fleet.nodes WHERE node_id = p_node_id FOR UPDATE;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    PERFORM fleet.recall_nodes_v1(ARRAY[p_node_id], 'node forgotten', p_source);
    DELETE FROM fleet.nodes WHERE node_id = p_node_id;
    INSERT INTO event_log.inbox (event_id, type, source, subject, partition_key, occurred_at, data)
    VALUES (p_event_id, 'node.changed.v1', p_source, 'nodes/' || p_node_id, p_node_id::text, clock_timestamp(),
            jsonb_build_object('node_id', p_node_id, 'machine_id', n.machine_id, 'application_id', n.application_id,
                               'forgotten', true, 'reason', p_reason, 'by', p_by));
    RETURN true;
END
$$;

-- fleet.describe_nodes_v1: what operators say of nodes: an alias (an empty one takes it away, NULL leaves it), and facts that are
-- laid over those imported before (a null takes one away). Nodes that this changes nothing of are left alone; returns the others.
-- With p_dry_run nothing is written.
CREATE FUNCTION fleet.describe_nodes_v1(
    p_node_ids uuid[], p_aliases text[], p_facts jsonb[], p_event_ids uuid[], p_reason text, p_by text, p_source text,
    p_dry_run boolean DEFAULT false
) RETURNS SETOF uuid LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    changing uuid[];
BEGIN
    PERFORM 1 FROM fleet.nodes n WHERE n.node_id = ANY (p_node_ids) ORDER BY n.node_id FOR NO KEY UPDATE;
    WITH said AS (
        SELECT n.node_id, u.event_id, u.alias AS said_alias, u.facts AS said_facts,
               CASE WHEN u.alias IS NULL THEN n.alias ELSE nullif(u.alias, '') END AS alias,
               jsonb_strip_nulls(n.imported_facts || coalesce(u.facts, '{}')) AS facts
          FROM unnest(p_node_ids, p_aliases, p_facts, p_event_ids) AS u(node_id, alias, facts, event_id)
          JOIN fleet.nodes n ON n.node_id = u.node_id
         WHERE n.imported_facts <> jsonb_strip_nulls(n.imported_facts || coalesce(u.facts, '{}'))
            OR n.alias IS DISTINCT FROM CASE WHEN u.alias IS NULL THEN n.alias ELSE nullif(u.alias, '') END
    ), written AS (
        UPDATE fleet.nodes n SET alias = said.alias, imported_facts = said.facts
          FROM said WHERE n.node_id = said.node_id AND NOT p_dry_run
        RETURNING n.node_id, n.machine_id, n.application_id, n.alias, said.event_id, said.said_alias, said.said_facts
    ), told AS (
        INSERT INTO event_log.inbox (event_id, type, source, subject, partition_key, occurred_at, data)
        SELECT w.event_id, 'node.changed.v1', p_source, 'nodes/' || w.node_id, w.node_id::text, clock_timestamp(),
               jsonb_strip_nulls(jsonb_build_object(
                   'node_id', w.node_id, 'machine_id', w.machine_id, 'application_id', w.application_id,
                   'alias', CASE WHEN w.said_alias IS NOT NULL THEN w.alias END,
                   'facts', nullif(jsonb_strip_nulls(coalesce(w.said_facts, '{}')), '{}'), 'reason', p_reason, 'by', p_by))
          FROM written w ORDER BY w.node_id
    )
    SELECT coalesce(array_agg(said.node_id), '{}') INTO changing FROM said;
    RETURN QUERY SELECT unnest(changing);
END
$$;

-- fleet.watch_polls_v1: somebody watches polls until then, at least.
CREATE FUNCTION fleet.watch_polls_v1(p_seconds double precision) RETURNS void LANGUAGE sql AS $$
    UPDATE fleet.poll_watch SET until = greatest(until, clock_timestamp() + make_interval(secs => p_seconds))
$$;

-- fleet.stuck_v1: in which ways a node is stuck, given its last attempt: staged for long, silent, stranded with nothing left to
-- offer (by what its last poll was answered, or quarantined for what its group rolls out), parked.
CREATE FUNCTION fleet.stuck_v1(
    n fleet.nodes, t fleet.attempts, p_silent_since timestamptz, p_granted_before timestamptz, p_stranded text[]
) RETURNS text[] LANGUAGE sql STABLE AS $$
    SELECT array_remove(ARRAY[
        CASE WHEN t.closed_at IS NULL AND t.state IN ('staged', 'awaiting_reboot') AND t.granted_at < p_granted_before
             THEN 'staged' END,
        CASE WHEN n.last_contact_at < p_silent_since AND n.gone_at IS NULL THEN 'silent' END,
        CASE WHEN n.last_answer = ANY (p_stranded)
               OR EXISTS (SELECT 1 FROM fleet.quarantine q
                            JOIN control.rollouts o ON o.changeset_id = q.changeset_id AND o.group_id = n.group_id
                           WHERE q.node_id = n.node_id AND o.purpose IN ('update', 'floor') AND o.arch = n.arch
                             AND o.state NOT IN ('completed', 'aborted', 'superseded'))
             THEN 'stranded' END,
        CASE WHEN t.closed_at IS NULL AND t.parked THEN 'parked' END], NULL)
$$;
