-- What an offer depends on: holds by fact, exclusions, drills, failure domains, completed rollouts that go on serving; what the
-- last poll of a node was answered; offers that are taken back by a hold; what will boot a halted release.

-- Completed rollouts go on serving: the newest one of a group, arch and kind.
CREATE INDEX rollouts_completed ON control.rollouts (group_id, arch, created_at DESC) WHERE state = 'completed';

-- fleet.facts_v1: what is known of a node, as selectors and holds see it: what it tells wins over what operators imported.
-- The rule of shared.domain.selector.known_facts.
CREATE FUNCTION fleet.facts_v1(p_told jsonb, p_imported jsonb, p_alias text, p_arch text, p_version text)
RETURNS jsonb LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT p_imported || jsonb_strip_nulls(jsonb_build_object('alias', p_alias)) || p_told
           || jsonb_strip_nulls(jsonb_build_object('arch', p_arch, 'version', p_version))
$$;

-- fleet.in_segment_v1: whether a node with these facts belongs to a segment: unless it tells a fact of it with another value.
-- The same as shared.domain.hold.Segment.matches.
CREATE FUNCTION fleet.in_segment_v1(p_segment jsonb, p_facts jsonb) RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT NOT EXISTS (SELECT 1 FROM jsonb_each_text(p_segment) AS s(name, value) WHERE p_facts ->> s.name <> s.value)
$$;

-- control.is_held_v1: whether a hold on the changeset covers a node with these facts.
CREATE FUNCTION control.is_held_v1(p_changeset_id uuid, p_facts jsonb) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT EXISTS (SELECT 1 FROM control.holds h
                    WHERE h.changeset_id = p_changeset_id AND h.released_at IS NULL AND fleet.in_segment_v1(h.segment, p_facts))
$$;

-- fleet.grant_v2: offers one rollout's changeset to nodes, as far as gates and paces allow; each grant with its event.
--
-- Check and act are one: the global gate is share-locked, then the changeset's gate and the group are locked, and only
-- later statements look at holds and count what is in flight (READ COMMITTED: they see what committed before the locks
-- were had). Locks: global gate, changeset gate, group, rollout, nodes.
CREATE FUNCTION fleet.grant_v2(
    p_rollout_id uuid, p_policy_version bigint, p_node_ids uuid[], p_attempt_ids uuid[], p_tokens text[], p_event_ids uuid[],
    p_versions text[], p_boot_ids text[], p_times timestamptz[], p_traceparents text[]
) RETURNS TABLE (ordinal bigint, status text, attempt_id uuid, token text) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    gate_open boolean;
    version_now bigint;
    gate control.changeset_gates;
    ro control.rollouts;
    target text;
    g control.groups;
    observed boolean;
    room integer;
    in_group integer;
    refusal text;
    max_attempts integer;
    retry_after interval;
    has_holds boolean;
    domain text;
    busy_domains text[] := '{}';
BEGIN
    SELECT open, policy_version INTO gate_open, version_now FROM control.global_gate FOR SHARE;
    SELECT cg.* INTO gate FROM control.changeset_gates cg
      JOIN control.rollouts o ON o.changeset_id = cg.changeset_id
     WHERE o.rollout_id = p_rollout_id FOR NO KEY UPDATE OF cg;
    IF NOT FOUND THEN
        RETURN QUERY SELECT u.ord, 'rollout_unknown', NULL::uuid, NULL::text FROM unnest(p_node_ids) WITH ORDINALITY AS u(id, ord);
        RETURN;
    END IF;
    SELECT gr.* INTO g FROM control.groups gr JOIN control.rollouts o ON o.group_id = gr.group_id
     WHERE o.rollout_id = p_rollout_id FOR NO KEY UPDATE OF gr;
    SELECT * INTO ro FROM control.rollouts WHERE rollout_id = p_rollout_id FOR SHARE;
    -- The row as it is now that it is locked: the join above may have seen an older version of it.
    SELECT * INTO gate FROM control.changeset_gates WHERE changeset_id = ro.changeset_id;
    SELECT a.observe_only INTO observed FROM control.applications a WHERE a.application_id = ro.application_id;

    refusal := CASE
        WHEN observed THEN 'observe_only'
        WHEN NOT gate_open THEN 'halted_everywhere'
        WHEN gate.state <> 'open' THEN gate.state
        WHEN gate.braked_reason IS NOT NULL THEN 'braked'
        WHEN ro.state = 'completed' AND ro.purpose <> 'drill' THEN (
            -- It goes on serving, until a newer one of its kind does.
            SELECT 'rollout_superseded' FROM control.rollouts newer
             WHERE newer.group_id = ro.group_id AND newer.arch = ro.arch AND newer.purpose = ro.purpose
               AND newer.state IN ('running', 'completed')
               AND (newer.purpose <> 'floor' OR newer.changeset_id = ro.changeset_id)
               AND newer.leaves_version IS NOT DISTINCT FROM ro.leaves_version
               AND (newer.created_at, newer.rollout_id) > (ro.created_at, ro.rollout_id) LIMIT 1)
        WHEN ro.state = 'completed' THEN 'rollout_superseded'
        WHEN ro.state <> 'running' THEN 'rollout_' || ro.state
    END;
    refusal := coalesce(refusal, CASE
        WHEN NOT g.updates_enabled THEN 'updates_disabled'
        WHEN version_now <> p_policy_version THEN 'policy_changed'
    END);
    IF refusal IS NOT NULL THEN
        RETURN QUERY SELECT u.ord, refusal, NULL::uuid, NULL::text FROM unnest(p_node_ids) WITH ORDINALITY AS u(id, ord);
        RETURN;
    END IF;

    PERFORM 1 FROM fleet.nodes n WHERE n.node_id = ANY (p_node_ids) ORDER BY n.node_id FOR NO KEY UPDATE;
    SELECT count(*) INTO room FROM fleet.attempts t WHERE t.changeset_id = ro.changeset_id AND t.closed_at IS NULL AND NOT t.parked;
    SELECT count(*) INTO in_group FROM fleet.attempts t WHERE t.group_id = ro.group_id AND t.closed_at IS NULL AND NOT t.parked;
    -- least() passes over a cap that is not set.
    room := greatest(0, least(gate.pace - room, least(ro.pace, ro.pace_cap) - in_group));
    max_attempts := coalesce((ro.policy ->> 'max_attempts')::integer, 5);
    retry_after := make_interval(secs => coalesce((ro.policy ->> 'retry_after_s')::double precision, 3600));
    domain := ro.policy ->> 'failure_domain';
    has_holds := EXISTS (SELECT 1 FROM control.holds h WHERE h.changeset_id = ro.changeset_id AND h.released_at IS NULL);
    SELECT version INTO target FROM control.changesets WHERE changeset_id = ro.changeset_id;
    IF domain IS NOT NULL THEN
        -- Nodes that do not tell the fact share one domain.
        SELECT coalesce(array_agg(DISTINCT coalesce(
                   fleet.facts_v1(n.facts, n.imported_facts, n.alias, n.arch, n.version) ->> domain, '')), '{}')
          INTO busy_domains
          FROM fleet.attempts t JOIN fleet.nodes n USING (node_id)
         WHERE t.group_id = ro.group_id AND t.closed_at IS NULL AND NOT t.parked;
    END IF;

    RETURN QUERY
    WITH asked AS (
        SELECT u.*, n.node_id IS NOT NULL AS known, n.cloned, n.application_id, n.machine_id, n.facts, n.dialect,
               fleet.facts_v1(n.facts, n.imported_facts, n.alias, n.arch, u.version) AS all_facts,
               open_one.attempt_id AS open_attempt_id, open_one.token AS open_token, open_one.changeset_id AS open_changeset_id,
               open_one.state AS open_state,
               q.node_id IS NOT NULL AS is_quarantined,
               x.node_id IS NOT NULL AS is_excluded,
               (SELECT count(*) FROM fleet.attempts t WHERE t.node_id = u.node_id AND t.changeset_id = ro.changeset_id
                   AND t.state = 'failed') AS failures,
               (SELECT max(t.closed_at) FROM fleet.attempts t WHERE t.node_id = u.node_id AND t.changeset_id = ro.changeset_id
                   AND t.state = 'failed') AS failed_at,
               row_number() OVER (PARTITION BY u.node_id ORDER BY u.ord) AS occurrence
          FROM unnest(p_node_ids, p_attempt_ids, p_tokens, p_event_ids, p_versions, p_boot_ids, p_times, p_traceparents)
               WITH ORDINALITY AS u(node_id, attempt_id, token, event_id, version, boot_id, at, traceparent, ord)
          LEFT JOIN fleet.nodes n ON n.node_id = u.node_id
          LEFT JOIN fleet.attempts open_one ON open_one.node_id = u.node_id AND open_one.closed_at IS NULL
          LEFT JOIN fleet.quarantine q ON q.node_id = u.node_id AND q.changeset_id = ro.changeset_id
          LEFT JOIN control.rollout_exclusions x ON x.rollout_id = ro.rollout_id AND x.node_id = u.node_id
    ), judged AS (
        SELECT asked.*, CASE
            WHEN NOT known THEN 'node_unknown'
            WHEN (ro.purpose = 'drill' OR ro.only_machines IS NOT NULL)
                 AND NOT coalesce(machine_id = ANY (ro.only_machines), false) THEN 'no_rollout'
            WHEN has_holds AND control.is_held_v1(ro.changeset_id, all_facts) THEN 'held'
            WHEN is_excluded THEN 'excluded'
            WHEN cloned THEN 'cloned'
            WHEN is_quarantined THEN 'quarantined'
            WHEN open_attempt_id IS NOT NULL AND open_changeset_id = ro.changeset_id
                 -- A node that is shown edges is taken to stage what it sees; where it asks again it has not.
                 AND (open_state IN ('offered', 'downloading') OR (dialect = 'cincinnati' AND open_state IN ('staged', 'awaiting_reboot')))
                THEN 'repeated'
            WHEN open_attempt_id IS NOT NULL THEN 'attempt_open'
            WHEN failures >= max_attempts THEN 'attempts_spent'
            WHEN failed_at > clock_timestamp() - retry_after * power(2, least(failures - 1, 10)) THEN 'retry_later'
            WHEN occurrence > 1 THEN 'attempt_open'
            WHEN domain IS NOT NULL AND coalesce(all_facts ->> domain, '') = ANY (busy_domains) THEN 'failure_domain'
        END AS verdict
          FROM asked
    ), spread AS (
        -- One node of a failure domain, also within this batch: the first that may.
        SELECT judged.*, CASE WHEN verdict IS NULL AND domain IS NOT NULL AND row_number() OVER (
                   PARTITION BY verdict IS NULL, coalesce(all_facts ->> domain, '') ORDER BY ord) > 1
               THEN 'failure_domain' ELSE verdict END AS final_verdict
          FROM judged
    ), placed AS (
        SELECT spread.*, CASE WHEN final_verdict IS NULL
                              THEN row_number() OVER (PARTITION BY final_verdict IS NULL ORDER BY ord) END AS place
          FROM spread
    ), granted AS (
        INSERT INTO fleet.attempts (attempt_id, token, node_id, application_id, changeset_id, rollout_id, group_id, arch,
                                    from_version, to_version, state, boot_id, granted_at, changed_at)
        SELECT attempt_id, token, node_id, application_id, ro.changeset_id, ro.rollout_id, ro.group_id, ro.arch,
               version, target, 'offered', boot_id, at, at
          FROM placed WHERE place <= room ORDER BY node_id
        ON CONFLICT (node_id) WHERE closed_at IS NULL DO NOTHING
        RETURNING attempt_id, node_id, granted_at
    ), remembered AS (
        UPDATE fleet.nodes n SET last_attempt_id = granted.attempt_id, last_answer = 'granted', last_answer_at = granted.granted_at
          FROM granted WHERE n.node_id = granted.node_id
    ), told AS (
        INSERT INTO event_log.inbox (event_id, type, source, subject, partition_key, occurred_at, data, correlation_id, traceparent)
        SELECT p.event_id, 'update.offered.v1', 'grant', 'nodes/' || p.node_id, p.node_id::text, p.at,
               jsonb_strip_nulls(jsonb_build_object(
                   'node_id', p.node_id, 'machine_id', p.machine_id, 'application_id', p.application_id,
                   'attempt_id', p.attempt_id, 'rollout_id', ro.rollout_id, 'changeset_id', ro.changeset_id,
                   'group_id', ro.group_id, 'arch', ro.arch, 'from_version', p.version, 'to_version', target,
                   'version', p.version, 'boot_id', p.boot_id, 'state_after', 'offered', 'applied', true, 'source', 'grant',
                   'facts', p.facts, 'site', p.all_facts ->> 'site')),
               p.attempt_id::text, p.traceparent
          FROM placed p JOIN granted USING (attempt_id)
    )
    SELECT p.ord,
           CASE WHEN granted.attempt_id IS NOT NULL THEN 'granted'
                WHEN p.final_verdict IS NOT NULL THEN p.final_verdict
                WHEN p.place > room THEN 'pace'
                ELSE 'attempt_open' END,
           CASE WHEN p.final_verdict = 'repeated' THEN p.open_attempt_id ELSE granted.attempt_id END,
           CASE WHEN p.final_verdict = 'repeated' THEN p.open_token WHEN granted.attempt_id IS NOT NULL THEN p.token END
      FROM placed p LEFT JOIN granted ON granted.attempt_id = p.attempt_id
     ORDER BY p.ord;
END
$$;
DROP FUNCTION fleet.grant_v1(uuid, bigint, uuid[], uuid[], text[], uuid[], text[], text[], timestamptz[], text[]);

-- fleet.contact_v2: polls, one per node, with what each was answered (NULL: nothing was asked for). Returns those whose rows
-- disagree with the poll (unknown node, other boot, other version, an attempt that has something to learn from it), and
-- whether the node is known: the caller passes these to fleet.report_v1 as polls.
CREATE FUNCTION fleet.contact_v2(
    p_node_ids uuid[], p_group_ids uuid[], p_versions text[], p_boot_ids text[], p_times timestamptz[], p_answers text[],
    p_awaited_every interval DEFAULT interval '15 min'
) RETURNS TABLE (node_id uuid, known boolean) LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    PERFORM 1 FROM fleet.nodes n WHERE n.node_id = ANY (p_node_ids) ORDER BY n.node_id FOR NO KEY UPDATE;
    RETURN QUERY
    WITH polls AS (
        SELECT u.*, EXISTS (
                   SELECT 1 FROM fleet.attempts a
                    WHERE a.node_id = u.node_id AND a.closed_at IS NULL
                      AND (a.boot_id <> u.boot_id
                           OR (a.state IN ('staged', 'awaiting_reboot')
                               AND (a.awaited_at IS NULL OR u.at >= a.awaited_at + p_awaited_every)))) AS moves
          FROM unnest(p_node_ids, p_group_ids, p_versions, p_boot_ids, p_times, p_answers)
               AS u(node_id, group_id, version, boot_id, at, answer)
    ), told AS (
        UPDATE fleet.nodes n
           SET last_contact_at = greatest(n.last_contact_at, p.at), group_id = coalesce(p.group_id, n.group_id),
               last_answer = CASE WHEN p.answer IS NULL OR p.at < n.last_answer_at THEN n.last_answer ELSE p.answer END,
               last_answer_at = CASE WHEN p.answer IS NULL OR p.at < n.last_answer_at THEN n.last_answer_at ELSE p.at END
          FROM polls p
         WHERE n.node_id = p.node_id
        RETURNING n.node_id, n.version = p.version AND n.boot_id = p.boot_id AND NOT p.moves AS agrees
    )
    SELECT p.node_id, told.node_id IS NOT NULL
      FROM polls p LEFT JOIN told ON told.node_id = p.node_id
     WHERE told.agrees IS NOT TRUE;
END
$$;
DROP FUNCTION fleet.contact_v1(uuid[], uuid[], text[], text[], timestamptz[], interval);

-- fleet.recall_v1 again: takes back the offers of a changeset (or of one rollout of it) that no node has staged yet; what is
-- staged will boot, and counts. Returns how many there were.
CREATE OR REPLACE FUNCTION fleet.recall_v1(p_changeset_id uuid, p_reason text, p_source text, p_rollout_id uuid DEFAULT NULL)
RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    stopping uuid[];
BEGIN
    SELECT array_agg(open_one.attempt_id) INTO stopping FROM (
        SELECT t.attempt_id FROM fleet.attempts t
         WHERE t.changeset_id = p_changeset_id AND t.closed_at IS NULL AND t.state IN ('offered', 'downloading')
           AND (p_rollout_id IS NULL OR t.rollout_id = p_rollout_id)
         ORDER BY t.attempt_id FOR NO KEY UPDATE) AS open_one;
    RETURN fleet.recall_attempts_v1(stopping, p_reason, p_source);
END
$$;

-- fleet.recall_held_v1: takes back the offers of a changeset that no node of the segment has staged yet; nodes that do not
-- tell a fact of it belong to it. Returns how many. Called under the locks of control.hold_segment_v1.
CREATE FUNCTION fleet.recall_held_v1(p_changeset_id uuid, p_segment jsonb, p_reason text, p_source text)
RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    stopping uuid[];
BEGIN
    SELECT array_agg(open_one.attempt_id) INTO stopping FROM (
        SELECT t.attempt_id FROM fleet.attempts t JOIN fleet.nodes n USING (node_id)
         WHERE t.changeset_id = p_changeset_id AND t.closed_at IS NULL AND t.state IN ('offered', 'downloading')
           AND fleet.in_segment_v1(p_segment, fleet.facts_v1(n.facts, n.imported_facts, n.alias, n.arch, t.from_version))
         ORDER BY t.attempt_id FOR NO KEY UPDATE OF t) AS open_one;
    RETURN fleet.recall_attempts_v1(stopping, p_reason, p_source);
END
$$;

-- control.hold_segment_v1: no more of a changeset for a segment; takes the lock that grants take, so that none for what it
-- covers commits afterwards; what no node of it has staged is recalled. Returns the hold; the same segment held twice is one.
CREATE FUNCTION control.hold_segment_v1(
    p_hold_id uuid, p_changeset_id uuid, p_segment jsonb, p_reason text, p_by text, p_evidence jsonb, p_event_id uuid, p_source text
) RETURNS uuid LANGUAGE plpgsql AS $$
DECLARE
    known uuid;
BEGIN
    -- The global gate first, as grants lock it: the policy version is raised below.
    PERFORM 1 FROM control.global_gate FOR NO KEY UPDATE;
    PERFORM 1 FROM control.changeset_gates WHERE changeset_id = p_changeset_id FOR NO KEY UPDATE;
    SELECT hold_id INTO known FROM control.holds
     WHERE changeset_id = p_changeset_id AND segment = p_segment AND released_at IS NULL;
    IF FOUND THEN
        RETURN known;
    END IF;
    INSERT INTO control.holds (hold_id, changeset_id, segment, reason, held_by)
    VALUES (p_hold_id, p_changeset_id, p_segment, p_reason, p_by);
    INSERT INTO event_log.inbox (event_id, type, source, subject, partition_key, occurred_at, data, correlation_id)
    VALUES (p_event_id, 'changeset.held.v1', p_source, 'changesets/' || p_changeset_id, p_changeset_id::text, clock_timestamp(),
            jsonb_strip_nulls(jsonb_build_object('changeset_id', p_changeset_id, 'hold_id', p_hold_id, 'segment', p_segment,
                'reason', p_reason, 'by', p_by, 'held', true, 'evidence', p_evidence)), p_changeset_id::text);
    PERFORM fleet.recall_held_v1(p_changeset_id, p_segment, 'segment held', p_source);
    PERFORM control.raise_policy_version_v1();
    RETURN p_hold_id;
END
$$;

-- fleet.staged_but_halted: nodes that will boot a release at their next reboot that is not offered any more. They staged it
-- before it was stopped, and neither Omaha nor Cincinnati can take back what is staged.
CREATE VIEW fleet.staged_but_halted AS
SELECT t.attempt_id, t.node_id, n.machine_id, n.dialect, t.application_id, t.group_id, t.rollout_id, t.changeset_id,
       t.to_version AS version, t.parked, t.changed_at,
       CASE WHEN g.state <> 'open' THEN g.state ELSE 'held' END AS stopped_by
  FROM fleet.attempts t
  JOIN control.changeset_gates g USING (changeset_id)
  JOIN fleet.nodes n USING (node_id)
 WHERE t.closed_at IS NULL AND t.state IN ('staged', 'awaiting_reboot')
   AND (g.state <> 'open'
        OR control.is_held_v1(t.changeset_id, fleet.facts_v1(n.facts, n.imported_facts, n.alias, n.arch, t.from_version)));
