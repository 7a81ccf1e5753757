-- What moves rollouts on by themselves: the order of nodes within a changeset, drills that come back, what gates have seen.

ALTER TABLE control.rollouts
    -- Of the first leg of a drill: the changeset that its node goes to afterwards.
    ADD COLUMN then_changeset_id uuid REFERENCES control.changesets;
-- Rollouts made before there were gates have begun.
UPDATE control.rollouts SET running_since = created_at, wave_since = created_at
 WHERE state <> 'created' AND running_since IS NULL;
CREATE INDEX rollouts_to_conduct ON control.rollouts (rollout_id)
    WHERE state IN ('created', 'waiting_for_gate', 'waiting_for_approval', 'scheduled', 'running');

-- fleet.position_v1: where a node stands in the order of a changeset, 0 <= position < 1; shared.domain.waves.position_of is
-- the same to the last bit.
CREATE FUNCTION fleet.position_v1(p_machine_id text, p_changeset_id uuid) RETURNS double precision
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT (('x' || encode(substr(sha256(convert_to(p_changeset_id::text || '/' || p_machine_id, 'UTF8')), 1, 7), 'hex'))::bit(56)::bigint
            >> 3)::double precision / 9007199254740992
$$;

-- control.resume_changeset_v1 again: rollouts that had not begun go back to their gates, those that had go on.
CREATE OR REPLACE FUNCTION control.resume_changeset_v1(p_changeset_id uuid, p_reason text, p_by text, p_event_id uuid)
RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    resumed control.changeset_gates;
    initial integer;
BEGIN
    -- The global gate first, as grants lock it: the policy version is raised below.
    PERFORM 1 FROM control.global_gate FOR NO KEY UPDATE;
    PERFORM 1 FROM control.changeset_gates WHERE changeset_id = p_changeset_id FOR NO KEY UPDATE;
    SELECT max((parameters ->> 'hold_budget')::integer) INTO initial FROM control.rollouts
     WHERE changeset_id = p_changeset_id AND state = 'halted';
    UPDATE control.changeset_gates SET state = 'open', reason = p_reason, evidence = NULL, resumes = resumes + 1,
           pace = least(coalesce(initial, pace), pace), changed_at = clock_timestamp()
     WHERE changeset_id = p_changeset_id AND state = 'halted' RETURNING * INTO resumed;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    INSERT INTO event_log.inbox (event_id, type, source, subject, partition_key, occurred_at, data, correlation_id)
    VALUES (p_event_id, 'changeset.resumed.v1', 'control', 'changesets/' || p_changeset_id, p_changeset_id::text, clock_timestamp(),
            jsonb_build_object('changeset_id', p_changeset_id, 'by', p_by, 'reason', p_reason, 'resumes', resumed.resumes),
            p_changeset_id::text);
    PERFORM control.transition_rollout_v1(o.rollout_id,
                CASE WHEN o.running_since IS NULL THEN 'waiting_for_gate' ELSE 'running' END,
                p_reason, p_by, gen_random_uuid(), 'control')
       FROM control.rollouts o WHERE o.changeset_id = p_changeset_id AND o.state = 'halted' ORDER BY o.rollout_id;
    PERFORM control.raise_policy_version_v1();
    RETURN true;
END
$$;

-- fleet.recall_attempts_v1: ends open attempts, each with its event: neither good nor bad. The callers hold their locks.
-- Returns how many there were.
CREATE FUNCTION fleet.recall_attempts_v1(p_attempt_ids uuid[], p_reason text, p_source text) RETURNS integer LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    recalled integer;
BEGIN
    WITH moved AS (
        UPDATE fleet.attempts t SET state = 'recalled', reason = p_reason, changed_at = clock_timestamp(),
               closed_at = clock_timestamp(), parked = false
         WHERE t.attempt_id = ANY (p_attempt_ids) AND t.closed_at IS NULL
        RETURNING t.*
    )
    INSERT INTO event_log.inbox (event_id, type, source, subject, partition_key, occurred_at, data, correlation_id)
    SELECT gen_random_uuid(), 'update.recalled.v1', p_source, 'nodes/' || m.node_id, m.node_id::text, clock_timestamp(),
           jsonb_strip_nulls(jsonb_build_object(
               'node_id', m.node_id, 'machine_id', n.machine_id, 'application_id', m.application_id,
               'attempt_id', m.attempt_id, 'rollout_id', m.rollout_id, 'changeset_id', m.changeset_id, 'group_id', m.group_id,
               'arch', m.arch, 'from_version', m.from_version, 'to_version', m.to_version, 'version', n.version,
               'state_after', 'recalled', 'applied', true, 'reason', p_reason,
               'source', CASE p_source WHEN 'analysis' THEN 'analysis' ELSE 'control' END)),
           m.attempt_id::text
      FROM moved m LEFT JOIN fleet.nodes n ON n.node_id = m.node_id
     ORDER BY m.attempt_id;
    GET DIAGNOSTICS recalled = ROW_COUNT;
    RETURN recalled;
END
$$;

-- fleet.recall_offer_v1: takes back what a rollout has offered to one node, unless it is staged already: that will boot, and
-- counts. Returns whether there was something. Called under the global gate's lock, so that it is not offered anew meanwhile.
CREATE FUNCTION fleet.recall_offer_v1(p_rollout_id uuid, p_node_id uuid, p_reason text, p_source text)
RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    stopping uuid[];
BEGIN
    SELECT array_agg(open_one.attempt_id) INTO stopping FROM (
        SELECT t.attempt_id FROM fleet.attempts t
         WHERE t.rollout_id = p_rollout_id AND t.node_id = p_node_id AND t.closed_at IS NULL
           AND t.state IN ('offered', 'downloading') FOR NO KEY UPDATE) AS open_one;
    RETURN fleet.recall_attempts_v1(stopping, p_reason, p_source) > 0;
END
$$;
