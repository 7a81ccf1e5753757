-- What the dialects need: which one a node speaks, nodes that enrol, and floods of reports.

-- Told in the ledger at most once a minute per source; what was dropped since is told then.
ALTER TABLE fleet.floods
    ADD COLUMN told_at timestamptz,
    ADD COLUMN untold bigint NOT NULL DEFAULT 0;

-- fleet.flooded_v1: adds reports that were dropped, by source, and tells of a source at most once a minute; forgets those
-- that have been quiet for 30 days. Arrays hold each source at most once.
CREATE FUNCTION fleet.flooded_v1(
    p_application_ids uuid[], p_kinds text[], p_sources text[], p_dropped bigint[], p_at timestamptz
) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO fleet.floods AS f (application_id, kind, source, dropped, untold, first_at, last_at)
    SELECT u.application_id, u.kind, u.source, u.dropped, u.dropped, p_at, p_at
      FROM unnest(p_application_ids, p_kinds, p_sources, p_dropped) AS u(application_id, kind, source, dropped)
     ORDER BY u.application_id, u.kind, u.source
    ON CONFLICT (application_id, kind, source) DO UPDATE
       SET dropped = f.dropped + excluded.dropped, untold = f.untold + excluded.untold,
           last_at = greatest(f.last_at, excluded.last_at);
    WITH due AS (
        SELECT f.application_id, f.kind, f.source, f.untold
          FROM fleet.floods f
          JOIN unnest(p_application_ids, p_kinds, p_sources) AS u(application_id, kind, source) USING (application_id, kind, source)
         WHERE f.told_at IS NULL OR f.told_at <= clock_timestamp() - interval '1 min'
    ), told AS (
        UPDATE fleet.floods f SET told_at = clock_timestamp(), untold = 0
          FROM due WHERE (f.application_id, f.kind, f.source) = (due.application_id, due.kind, due.source)
    )
    INSERT INTO event_log.inbox (event_id, type, source, subject, partition_key, occurred_at, data)
    SELECT gen_random_uuid(), 'fleet.flooded.v1', 'update_check', 'applications/' || due.application_id,
           due.application_id::text, p_at,
           jsonb_build_object('application_id', due.application_id, 'kind', due.kind, 'source', due.source,
                              'dropped', due.untold)
      FROM due ORDER BY due.kind, due.source;
    DELETE FROM fleet.floods f WHERE f.last_at < p_at - interval '30 days';
END
$$;

-- control.enrol_node_v1: gives a machine its own token, on the word of an enrolment token; with its event.
-- Returns enrolled; again where the machine asks once more for the very same token; taken where it has another one in force;
-- refused where the enrolment token is not in force for the application.
-- Locks: the enrolment token's row, so that a revocation is either before or after.
CREATE FUNCTION control.enrol_node_v1(
    p_application_id uuid, p_enrolment_sha256 bytea, p_machine_id text, p_token_id uuid, p_token_sha256 bytea,
    p_address text, p_event_id uuid
) RETURNS TABLE (status text, group_id uuid) LANGUAGE plpgsql AS $$
DECLARE
    enrolment control.node_tokens;
    known control.node_tokens;
BEGIN
    SELECT * INTO enrolment FROM control.node_tokens t
     WHERE t.token_sha256 = p_enrolment_sha256 AND t.kind = 'enrolment' AND t.application_id = p_application_id FOR UPDATE;
    IF NOT FOUND OR enrolment.revoked_at IS NOT NULL OR enrolment.expires_at <= clock_timestamp() THEN
        RETURN QUERY SELECT 'refused', NULL::uuid;
        RETURN;
    END IF;
    -- Two enrolments of one machine id, by different enrolment tokens, at once.
    PERFORM pg_advisory_xact_lock(hashtextextended(p_application_id || p_machine_id, 0));
    SELECT * INTO known FROM control.node_tokens t
     WHERE t.application_id = p_application_id AND t.kind = 'node' AND t.machine_id = p_machine_id AND t.revoked_at IS NULL
       AND (t.expires_at IS NULL OR t.expires_at > clock_timestamp()) LIMIT 1;
    IF FOUND THEN
        RETURN QUERY SELECT CASE WHEN known.token_sha256 = p_token_sha256 THEN 'again' ELSE 'taken' END, known.group_id;
        RETURN;
    END IF;
    INSERT INTO control.node_tokens (token_id, application_id, kind, group_id, machine_id, token_sha256, created_by)
    VALUES (p_token_id, p_application_id, 'node', enrolment.group_id, p_machine_id, p_token_sha256,
            'enrolment/' || enrolment.token_id)
    ON CONFLICT (token_sha256) DO NOTHING;
    IF NOT FOUND THEN
        -- The same nonce as of a token that was revoked.
        RETURN QUERY SELECT 'refused', NULL::uuid;
        RETURN;
    END IF;
    INSERT INTO event_log.inbox (event_id, type, source, subject, partition_key, occurred_at, data)
    VALUES (p_event_id, 'node.token_issued.v1', 'update_check', 'applications/' || p_application_id, p_application_id::text,
            clock_timestamp(),
            jsonb_strip_nulls(jsonb_build_object(
                'application_id', p_application_id, 'machine_id', p_machine_id, 'group_id', enrolment.group_id,
                'token_id', p_token_id, 'enrolment_id', enrolment.token_id, 'address', p_address)));
    RETURN QUERY SELECT 'enrolled', enrolment.group_id;
END
$$;

-- Of a machine.
CREATE INDEX node_tokens_by_machine ON control.node_tokens (application_id, machine_id) WHERE kind = 'node';

-- fleet.report_v1 again: it also notes which dialect a node speaks, and sees a node that tells no boot id come back.
CREATE OR REPLACE FUNCTION fleet.report_v1(
    p_event_ids uuid[], p_kinds text[], p_sources text[], p_node_ids uuid[], p_application_ids uuid[],
    p_machine_ids text[], p_group_ids uuid[], p_versions text[], p_arches text[], p_boot_ids text[],
    p_times timestamptz[], p_facts jsonb[], p_addresses text[], p_error_codes bigint[], p_error_bases integer[],
    p_error_classes text[], p_previous_versions text[], p_reasons text[], p_traceparents text[],
    p_awaited_every interval DEFAULT interval '15 min'
) RETURNS TABLE (
    ordinal bigint, status text, attempt_id uuid, changeset_id uuid, state text, quarantined boolean, cloned boolean
) LANGUAGE plpgsql
-- The statements are planned once (planning them cost more than running them), so they must not be planned for tables
-- that happen to be small then: rows of tables are only ever looked up by index, one by one.
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
AS $$
#variable_conflict use_column
DECLARE
    is_fresh_at boolean[];   -- by ordinal
    enrolled_ids uuid[];
    r record;
    n fleet.nodes;           -- the reporting node and its attempt, as the reports so far have left them
    a fleet.attempts;
    nodes_after fleet.nodes[] := '{}';
    attempts_after fleet.attempts[] := '{}';
    node_moved boolean := false;
    attempt_moved boolean := false;
    wire_key uuid;
    enrolled boolean;
    rebooted boolean;
    boot_is_new boolean;
    in_order boolean;
    moves text[];          -- event types, in order
    states text[];         -- the state after each
    move_reason text;
    applied boolean;
    is_closed boolean;
    quarantine boolean;
    event_ords bigint[] := '{}';
    event_ids uuid[] := '{}';
    event_types text[] := '{}';
    event_datas jsonb[] := '{}';
    event_sources text[] := '{}';
    event_traceparents text[] := '{}';
    quarantine_ords bigint[] := '{}';
    quarantine_attempt_ids uuid[] := '{}';
    quarantine_reasons text[] := '{}';
    now_at timestamptz := clock_timestamp();
BEGIN
    WITH fresh AS (
        INSERT INTO event_log.seen (event_id)
        SELECT DISTINCT u.event_id FROM unnest(p_event_ids) AS u(event_id) ORDER BY 1
        ON CONFLICT DO NOTHING RETURNING event_id
    ) SELECT array_agg(told.is_fresh ORDER BY told.ord) INTO is_fresh_at
        FROM (SELECT u.ord, u.event_id IN (SELECT fresh.event_id FROM fresh)
                            AND row_number() OVER (PARTITION BY u.event_id ORDER BY u.ord) = 1 AS is_fresh
                FROM unnest(p_event_ids) WITH ORDINALITY AS u(event_id, ord)) AS told;

    WITH registered AS (
        INSERT INTO fleet.nodes AS old (node_id, application_id, machine_id, group_id, version, arch, boot_id, boot_seen_at,
                                        facts, address, dialect, first_seen_at, last_contact_at)
        SELECT DISTINCT ON (u.node_id) u.node_id, u.application_id, u.machine_id, u.group_id, u.version, u.arch, u.boot_id,
               u.at, coalesce(u.facts, '{}'), u.address, u.source, u.at, max(u.at) OVER (PARTITION BY u.node_id)
          FROM unnest(p_node_ids, p_application_ids, p_machine_ids, p_group_ids, p_versions, p_arches, p_boot_ids, p_times,
                      p_facts, p_addresses, p_sources) WITH ORDINALITY
               AS u(node_id, application_id, machine_id, group_id, version, arch, boot_id, at, facts, address, source, ord)
         ORDER BY u.node_id, u.ord
        ON CONFLICT (node_id) DO UPDATE SET last_contact_at = greatest(old.last_contact_at, excluded.last_contact_at),
                                            group_id = coalesce(excluded.group_id, old.group_id),
                                            dialect = excluded.dialect
        RETURNING node_id, (xmax = 0) AS inserted
    ) SELECT coalesce(array_agg(node_id) FILTER (WHERE inserted), '{}') INTO enrolled_ids FROM registered;

    PERFORM 1 FROM fleet.attempts t WHERE t.node_id = ANY (p_node_ids) AND t.closed_at IS NULL
      ORDER BY t.attempt_id FOR NO KEY UPDATE;

    -- Node by node, so that each is read and written once; within a node in the order of the arrays.
    FOR r IN
        SELECT u.*, u.node_id IN (SELECT e.node_id FROM unnest(enrolled_ids) AS e(node_id)) AS is_enrolled, node, attempt
          FROM unnest(p_event_ids, p_kinds, p_sources, p_node_ids, p_application_ids, p_machine_ids, p_group_ids, p_versions,
                      p_arches, p_boot_ids, p_times, p_facts, p_addresses, p_error_codes, p_error_bases, p_error_classes,
                      p_previous_versions, p_reasons, p_traceparents) WITH ORDINALITY
               AS u(event_id, kind, source, node_id, application_id, machine_id, group_id, version, arch, boot_id, at, facts,
                    address, error_code, error_base, error_class, previous_version, reason, traceparent, ord)
          JOIN fleet.nodes node ON node.node_id = u.node_id
          -- The open attempt, else the last one: late reports belong to it.
          LEFT JOIN fleet.attempts attempt ON attempt.attempt_id = coalesce(
               (SELECT o.attempt_id FROM fleet.attempts o WHERE o.node_id = u.node_id AND o.closed_at IS NULL),
               node.last_attempt_id)
         ORDER BY u.node_id, u.ord
    LOOP
        ordinal := r.ord;
        quarantined := false;
        enrolled := false;
        IF n.node_id IS DISTINCT FROM r.node_id THEN
            IF node_moved THEN
                nodes_after := array_append(nodes_after, n);
                node_moved := false;
            END IF;
            IF attempt_moved THEN
                attempts_after := array_append(attempts_after, a);
                attempt_moved := false;
            END IF;
            n := r.node;
            a := r.attempt;
            enrolled := r.is_enrolled;
        END IF;
        attempt_id := a.attempt_id;
        changeset_id := a.changeset_id;
        state := a.state;
        cloned := n.cloned;

        IF enrolled THEN
            event_ords := array_append(event_ords, r.ord);
            event_sources := array_append(event_sources, r.source);
            event_traceparents := array_append(event_traceparents, r.traceparent);
            event_ids := array_append(event_ids, gen_random_uuid());
            event_types := array_append(event_types, 'node.enrolled.v1');
            event_datas := array_append(event_datas, jsonb_strip_nulls(jsonb_build_object(
                'node_id', r.node_id, 'machine_id', r.machine_id, 'application_id', r.application_id,
                'group_id', r.group_id, 'version', r.version, 'boot_id', r.boot_id, 'arch', r.arch,
                'facts', r.facts, 'address', r.address)));
        END IF;

        IF NOT is_fresh_at[r.ord] THEN
            status := 'duplicate';
            RETURN NEXT;
            CONTINUE;
        END IF;

        boot_is_new := r.boot_id <> n.boot_id;
        -- A boot that was never seen is news, whatever a native node's own clock says; only a former one may be an old
        -- report. Omaha reports have our clock, and those that were spooled are old even where their boot is unknown.
        in_order := r.at >= n.boot_seen_at OR (r.source = 'native' AND NOT (r.boot_id = ANY (n.former_boot_ids)));
        IF boot_is_new AND in_order AND NOT n.cloned AND r.boot_id = ANY (n.former_boot_ids)
           AND r.boot_id NOT LIKE 'unknown-%' THEN
            n.cloned := true;
            node_moved := true;
            event_ords := array_append(event_ords, r.ord);
            event_sources := array_append(event_sources, r.source);
            event_traceparents := array_append(event_traceparents, r.traceparent);
            event_ids := array_append(event_ids, gen_random_uuid());
            event_types := array_append(event_types, 'node.cloned.v1');
            event_datas := array_append(event_datas, jsonb_strip_nulls(jsonb_build_object(
                'node_id', r.node_id, 'machine_id', r.machine_id, 'application_id', r.application_id,
                'boot_ids', jsonb_build_array(n.boot_id, r.boot_id),
                'addresses', jsonb_build_array(n.address, r.address))));
        END IF;
        IF n.cloned THEN
            -- Two machines under one id: what either says proves nothing about the attempt.
            status := 'cloned';
            cloned := true;
            RETURN NEXT;
            CONTINUE;
        END IF;

        IF r.source = 'omaha' AND r.kind NOT IN ('poll', 'ping') THEN
            -- A wire event has no id of its own: the same words within the same attempt and boot are the same event.
            wire_key := md5(concat_ws('|', r.node_id, a.attempt_id, r.boot_id, r.kind, r.error_code, r.previous_version))::uuid;
            INSERT INTO event_log.seen (event_id) VALUES (wire_key) ON CONFLICT DO NOTHING;
            IF NOT FOUND THEN
                status := 'duplicate';
                RETURN NEXT;
                CONTINUE;
            END IF;
        END IF;

        is_closed := a.attempt_id IS NULL OR a.closed_at IS NOT NULL;
        -- A node that tells no boot id and is back on its old version seems to be in the boot of the offer.
        rebooted := a.attempt_id IS NOT NULL
                    AND ((r.boot_id <> a.boot_id AND (in_order OR NOT boot_is_new))
                         OR (boot_is_new AND in_order AND r.boot_id LIKE 'unknown-%'));
        moves := '{}';
        states := '{}';
        move_reason := r.reason;
        applied := true;
        quarantine := false;

        IF a.attempt_id IS NULL THEN
            IF r.kind NOT IN ('poll', 'ping', 'updated', 'deferred') THEN
                moves := ARRAY[r.kind];
                applied := false;
                move_reason := coalesce(r.reason, 'no_attempt');
            END IF;
        ELSIF is_closed THEN
            IF a.state IN ('presumed_lost', 'committed') AND rebooted
               AND r.version <> a.to_version
               AND (r.kind = 'rolled_back' OR (r.version = a.from_version
                                               AND (a.state = 'presumed_lost' OR n.version = a.to_version)
                                               AND boot_is_new AND in_order)) THEN
                moves := ARRAY['rolled_back'];
                states := ARRAY['rolled_back'];
                move_reason := coalesce(r.reason, CASE WHEN a.state = 'committed' THEN 'version_regressed' ELSE 'late' END);
                quarantine := true;
            ELSIF a.state = 'presumed_lost' AND rebooted AND r.version = a.to_version
                  AND (r.kind = 'committed' OR r.source <> 'native') THEN
                moves := ARRAY['committed'];
                states := ARRAY['committed'];
                move_reason := 'late';
            ELSIF r.kind = 'rolled_back' AND rebooted AND a.state IN ('recalled', 'failed') THEN
                moves := ARRAY['rolled_back'];
                applied := false;
                -- A native node goes back since it was told to let go.
                quarantine := a.state = 'failed' OR r.source <> 'native';
                move_reason := 'after_' || a.state;
            ELSIF r.kind = 'updated' AND rebooted AND r.version = a.to_version
                  AND a.state IN ('recalled', 'failed', 'rolled_back') THEN
                -- It took what it was to take no more: no evidence, but to be seen.
                moves := ARRAY['committed'];
                applied := false;
                move_reason := 'after_' || a.state;
            ELSIF r.kind NOT IN ('poll', 'ping', 'updated', 'deferred') THEN
                moves := ARRAY[r.kind];
                applied := false;
                move_reason := 'after_' || a.state;
            END IF;
        ELSIF r.version = a.to_version AND rebooted AND r.source <> 'native' THEN
            -- Good: the target version in another boot, whatever rides on the poll.
            IF a.state NOT IN ('probation') THEN
                moves := ARRAY['booted', 'committed'];
                states := ARRAY['probation', 'committed'];
            ELSE
                moves := ARRAY['committed'];
                states := ARRAY['committed'];
            END IF;
        ELSIF r.kind = 'rolled_back' THEN
            IF rebooted THEN
                moves := ARRAY['rolled_back'];
                states := ARRAY['rolled_back'];
                move_reason := coalesce(r.reason, 'reported');
                quarantine := true;
            ELSE
                -- The marker was reset before any reboot: the update is off, but nothing was booted.
                moves := ARRAY['failed'];
                states := ARRAY['failed'];
                move_reason := 'marker_reset';
            END IF;
        ELSIF rebooted AND r.version <> a.to_version AND r.kind <> 'committed' THEN
            IF a.state IN ('staged', 'awaiting_reboot', 'rebooting', 'probation') THEN
                moves := ARRAY['rolled_back'];
                states := ARRAY['rolled_back'];
                move_reason := 'came_back_on_old_version';
                quarantine := true;
            ELSE
                moves := ARRAY['failed'];
                states := ARRAY['failed'];
                move_reason := 'rebooted_before_staged';
            END IF;
        ELSIF r.kind = 'failed' THEN
            moves := ARRAY['failed'];
            states := ARRAY['failed'];
            IF rebooted OR a.state IN ('rebooting', 'probation') THEN
                moves := ARRAY['rolled_back'];
                states := ARRAY['rolled_back'];
                move_reason := coalesce(r.reason, 'unhealthy');
                quarantine := true;
            END IF;
        ELSIF r.kind = 'committed' THEN
            IF rebooted AND r.version = a.to_version THEN
                IF a.state = 'probation' THEN
                    moves := ARRAY['committed'];
                    states := ARRAY['committed'];
                ELSE
                    moves := ARRAY['booted', 'committed'];
                    states := ARRAY['probation', 'committed'];
                END IF;
            ELSE
                moves := ARRAY['committed'];
                applied := false;
                move_reason := 'not_rebooted_into_target';
            END IF;
        ELSIF r.kind = 'booted' THEN
            IF rebooted AND a.state <> 'probation' THEN
                moves := ARRAY['booted'];
                states := ARRAY['probation'];
            ELSE
                moves := ARRAY['booted'];
                applied := false;
                move_reason := 'not_rebooted';
            END IF;
        ELSIF r.kind = 'staged' THEN
            moves := ARRAY['staged'];
            IF a.state IN ('offered', 'downloading') THEN
                states := ARRAY['staged'];
            ELSE
                applied := false;
            END IF;
        ELSIF r.kind = 'download_started' THEN
            moves := ARRAY['download_started'];
            IF a.state = 'offered' THEN
                states := ARRAY['downloading'];
            ELSE
                applied := false;
            END IF;
        ELSIF r.kind = 'downloaded' THEN
            moves := ARRAY['downloaded'];
            IF a.state IN ('offered', 'downloading') THEN
                states := ARRAY['downloading'];
            ELSE
                applied := false;
            END IF;
        ELSIF r.kind IN ('poll', 'ping', 'reboot_awaited') THEN
            IF a.state IN ('staged', 'awaiting_reboot') AND NOT rebooted THEN
                IF a.awaited_at IS NULL OR r.at >= a.awaited_at + p_awaited_every THEN
                    moves := ARRAY['reboot_awaited'];
                    states := ARRAY['awaiting_reboot'];
                END IF;
            END IF;
        END IF;

        FOR i IN 1 .. cardinality(moves) LOOP
            event_ords := array_append(event_ords, r.ord);
            event_sources := array_append(event_sources, r.source);
            event_traceparents := array_append(event_traceparents, r.traceparent);
            event_ids := array_append(event_ids, CASE WHEN i = cardinality(moves) THEN r.event_id
                                                      ELSE md5(r.event_id || '|' || i)::uuid END);
            event_types := array_append(event_types, 'update.' || moves[i] || '.v1');
            event_datas := array_append(event_datas, jsonb_strip_nulls(jsonb_build_object(
                'node_id', r.node_id, 'machine_id', r.machine_id, 'application_id', r.application_id,
                'attempt_id', a.attempt_id, 'rollout_id', a.rollout_id, 'changeset_id', a.changeset_id,
                'group_id', coalesce(a.group_id, r.group_id), 'arch', coalesce(a.arch, r.arch),
                'from_version', a.from_version, 'to_version', a.to_version, 'version', r.version, 'boot_id', r.boot_id,
                'state_before', CASE WHEN i = 1 THEN a.state ELSE states[i - 1] END,
                'state_after', CASE WHEN cardinality(states) > 0 THEN states[i] ELSE a.state END,
                'applied', applied, 'reason', move_reason, 'error_code', r.error_code, 'error_base', r.error_base,
                'error_class', r.error_class, 'source', r.source, 'facts', r.facts,
                'site', coalesce(r.facts ->> 'site', n.facts ->> 'site'))));
        END LOOP;
        IF quarantine THEN
            quarantined := true;
            quarantine_ords := array_append(quarantine_ords, r.ord);
            quarantine_attempt_ids := array_append(quarantine_attempt_ids, a.attempt_id);
            quarantine_reasons := array_append(quarantine_reasons, move_reason);
            event_ords := array_append(event_ords, r.ord);
            event_sources := array_append(event_sources, r.source);
            event_traceparents := array_append(event_traceparents, r.traceparent);
            event_ids := array_append(event_ids, md5(r.event_id || '|quarantine')::uuid);
            event_types := array_append(event_types, 'node.quarantined.v1');
            event_datas := array_append(event_datas, jsonb_build_object(
                'node_id', r.node_id, 'machine_id', r.machine_id, 'application_id', r.application_id,
                'changeset_id', a.changeset_id, 'attempt_id', a.attempt_id, 'reason', move_reason, 'lifted', false));
        END IF;
        IF cardinality(states) > 0 THEN
            state := states[cardinality(states)];
            a.awaited_at := CASE WHEN moves[1] = 'reboot_awaited' THEN r.at ELSE a.awaited_at END;
            a.parked := a.parked AND states[cardinality(states)] = 'awaiting_reboot';
            a.reason := coalesce(move_reason, a.reason);
            a.error_code := coalesce(r.error_code, a.error_code);
            a.changed_at := r.at;
            a.closed_at := CASE WHEN states[cardinality(states)] IN ('committed', 'rolled_back', 'failed')
                                THEN now_at ELSE a.closed_at END;
            a.state := states[cardinality(states)];
            attempt_moved := true;
        END IF;
        IF in_order AND (boot_is_new OR r.version <> n.version OR coalesce(r.facts, n.facts) <> n.facts
                         OR coalesce(r.address, n.address) IS DISTINCT FROM n.address) THEN
            IF boot_is_new THEN
                n.boot_seen_at := r.at;
                n.former_boot_ids := (n.boot_id || n.former_boot_ids)[1:4];
                n.boot_id := r.boot_id;
            END IF;
            n.version := r.version;
            n.facts := coalesce(r.facts, n.facts);
            n.arch := coalesce(r.arch, n.arch);
            n.address := coalesce(r.address, n.address);
            node_moved := true;
        END IF;
        status := CASE WHEN applied THEN 'recorded' ELSE 'ignored' END;
        RETURN NEXT;
    END LOOP;
    IF node_moved THEN
        nodes_after := array_append(nodes_after, n);
    END IF;
    IF attempt_moved THEN
        attempts_after := array_append(attempts_after, a);
    END IF;

    UPDATE fleet.attempts t
       SET state = x.state, changed_at = x.changed_at, awaited_at = x.awaited_at, parked = x.parked, reason = x.reason,
           error_code = x.error_code, closed_at = x.closed_at
      FROM unnest(attempts_after) AS x
     WHERE t.attempt_id = x.attempt_id;
    UPDATE fleet.nodes t
       SET boot_id = x.boot_id, boot_seen_at = x.boot_seen_at, former_boot_ids = x.former_boot_ids, version = x.version,
           facts = x.facts, arch = x.arch, address = x.address, cloned = x.cloned
      FROM unnest(nodes_after) AS x
     WHERE t.node_id = x.node_id;
    INSERT INTO fleet.quarantine (node_id, changeset_id, attempt_id, reason)
    SELECT t.node_id, t.changeset_id, t.attempt_id, q.reason
      FROM unnest(quarantine_ords, quarantine_attempt_ids, quarantine_reasons) AS q(ord, attempt_id, reason)
      JOIN fleet.attempts t ON t.attempt_id = q.attempt_id
     ORDER BY t.node_id, q.ord
    ON CONFLICT DO NOTHING;
    INSERT INTO event_log.inbox (event_id, type, source, subject, partition_key, occurred_at, data, correlation_id, traceparent)
    SELECT e.event_id, e.type, e.source, 'nodes/' || p_node_ids[e.ord], p_node_ids[e.ord]::text, p_times[e.ord], e.data,
           e.data ->> 'attempt_id', e.traceparent
      FROM unnest(event_ords, event_ids, event_types, event_sources, event_datas, event_traceparents) WITH ORDINALITY
           AS e(ord, event_id, type, source, data, traceparent, place)
     ORDER BY e.ord, e.place;
END
$$;
