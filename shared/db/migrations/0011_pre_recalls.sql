-- Stop means stop: what is offered and not staged is taken back wherever a node is stopped, and what is staged is counted.

-- fleet.recall_everything_v1: takes back every offer that no node has staged yet. Returns how many there were.
-- Locks: the global gate, as grants share it, so that no offer is added meanwhile; then attempts in order of id.
CREATE FUNCTION fleet.recall_everything_v1(p_reason text, p_source text) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    stopping uuid[];
BEGIN
    PERFORM 1 FROM control.global_gate FOR NO KEY UPDATE;
    SELECT array_agg(open_one.attempt_id) INTO stopping FROM (
        SELECT t.attempt_id FROM fleet.attempts t WHERE t.closed_at IS NULL AND t.state IN ('offered', 'downloading')
         ORDER BY t.attempt_id FOR NO KEY UPDATE) AS open_one;
    RETURN fleet.recall_attempts_v1(stopping, p_reason, p_source);
END
$$;

-- fleet.recall_told_v1: ends the attempt of a node that has just been told to let go of it, staged or not. Returns how many.
CREATE FUNCTION fleet.recall_told_v1(p_token text, p_node_id uuid, p_reason text, p_source text)
RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    stopping uuid[];
BEGIN
    SELECT array_agg(open_one.attempt_id) INTO stopping FROM (
        SELECT t.attempt_id FROM fleet.attempts t
         WHERE t.token = p_token AND t.node_id = p_node_id AND t.closed_at IS NULL FOR NO KEY UPDATE) AS open_one;
    RETURN fleet.recall_attempts_v1(stopping, p_reason, p_source);
END
$$;

-- fleet.staged_but_halted again: also while everything is halted, and of nodes that were excluded afterwards.
CREATE OR REPLACE VIEW fleet.staged_but_halted AS
SELECT t.attempt_id, t.node_id, n.machine_id, n.dialect, t.application_id, t.group_id, t.rollout_id, t.changeset_id,
       t.to_version AS version, t.parked, t.changed_at,
       CASE WHEN g.state <> 'open' THEN g.state
            WHEN NOT everything.open THEN 'halted_everywhere'
            WHEN x.node_id IS NOT NULL THEN 'excluded'
            ELSE 'held' END AS stopped_by
  FROM fleet.attempts t
  JOIN control.changeset_gates g USING (changeset_id)
  JOIN fleet.nodes n USING (node_id)
 CROSS JOIN control.global_gate everything
  LEFT JOIN control.rollout_exclusions x ON x.rollout_id = t.rollout_id AND x.node_id = t.node_id
 WHERE t.closed_at IS NULL AND t.state IN ('staged', 'awaiting_reboot')
   AND (g.state <> 'open' OR NOT everything.open OR x.node_id IS NOT NULL
        OR control.is_held_v1(t.changeset_id, fleet.facts_v1(n.facts, n.imported_facts, n.alias, n.arch, t.from_version)));
